"""This repository has the runner's own jobs for its own protocols: as `runner init` writes them, with the checkout as the runner."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runner.app import kit
from runner.forge.place import guess
from tests.ci.actions import ROOT

HERE = Path("/nonexistent")  # no file of a checkout has a say
GITHUB = kit.files(HERE, guess("https://github.com/o/r"), "python", "{id}")
GITLAB = kit.files(HERE, guess("https://gitlab.com/o/r"), "python", "{id}")


@pytest.mark.parametrize("path", [path for path in GITHUB if path.startswith(".github/workflows/")])
def test_the_workflows_are_those_that_are_written_for_others(path: str) -> None:
    assert (ROOT / path).read_bytes() == GITHUB[path][0], "write it anew from templates/init/github"


def test_the_script_installs_the_checkout() -> None:
    ours = (ROOT / "scripts/ci/protocol.sh").read_text()
    theirs = GITHUB["scripts/ci/protocol.sh"][0].decode()
    package = re.compile(r"^package=.*$", re.MULTILINE)
    assert package.sub("", ours) == package.sub("", theirs) and "\npackage=${RUNNER_PACKAGE:-.[" in ours


def test_nothing_is_cached_for_the_checkout_changes() -> None:
    theirs = GITLAB[".gitlab/protocol-runner.yml"][0].decode()
    without = re.sub(r"^  cache:\n(    .*\n)+", "", theirs, flags=re.MULTILINE)
    assert (ROOT / ".gitlab/protocol-runner.yml").read_text() == without != theirs
    action = (ROOT / ".github/actions/protocol-runner/action.yml").read_text()
    assert "cache@" not in action and action.endswith("run: scripts/ci/protocol.sh install\n")
    assert ".gitlab/protocol-runner.yml" in (ROOT / ".gitlab-ci.yml").read_text()


def test_the_scripts_call_make() -> None:
    for name in ("lint", "test", "build"):
        at = ROOT / f"scripts/ci/{name}.sh"
        target = re.search(r"^exec make ([a-z]+)$", at.read_text(), re.MULTILINE)
        assert at.stat().st_mode & 0o111 and target and f"\n{target[1]}:" in (ROOT / "Makefile").read_text()
