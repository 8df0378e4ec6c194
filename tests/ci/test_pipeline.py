"""GitLab's pipeline, really run: by gitlab-ci-local, which `make forge` installs, with shells instead of containers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ci.actions import ROOT
from tests.conftest import JOBS, Box, clone, command

pytestmark = pytest.mark.peers
NODE = ROOT / "build/forge/node_modules"


@pytest.fixture
def gitlab(remote: Box) -> Box:
    """A repository that was set up for GitLab, its default branch pushed. No forge is asked: there is none here."""
    remote.write("Makefile", "test:\n\ttest ! -e broken\n")
    remote.runner("init", "--ci", "--yes", "--forge", "gitlab https://gitlab.com/g/r", env=JOBS, rc=0)
    settings = remote.path / ".protocols/config.yaml"
    settings.write_text(settings.read_text().replace("forge: gitlab https://gitlab.com/g/r\n", "# forge: none\n"))
    (remote.path / ".protocols/policy.yaml").unlink()  # whose word counts is told elsewhere
    remote.commit("set up")
    remote.git("push", "-q", "origin", "main")
    return remote


def pipeline(box: Box, branch: str, source: str, *args: str, **variables: str) -> tuple[int, str]:
    """Run the pipeline of a branch on a machine of its own; return how it ended and what was printed."""
    count = len(list(box.path.parent.glob("machine-*")))
    other = clone(box, f"machine-{count}")
    other.git("switch", "-q", branch)
    installed = other.home / "installed"
    (installed / "bin").mkdir(parents=True)
    package = re.search(
        r"^package=\$\{RUNNER_PACKAGE:-(.*)\}$", (other.path / "scripts/ci/protocol.sh").read_text(), re.M
    )
    assert package
    (installed / "package").write_text(package[1] + "\n")
    for name, line in (
        ("python", f'exec "{sys.executable}" "$@"'),
        ("runner", f'PYTHONPATH="{ROOT}" exec "{sys.executable}" -m runner "$@"'),
    ):
        (installed / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (installed / "bin" / name).chmod(0o755)
    given = {
        "CI_PIPELINE_SOURCE": source,
        "RUNNER_FOLDER": str(installed),
        "HANDOVER": str(other.home / "handover"),
        **variables,
    }
    argv = [NODE / "node/bin/node", NODE / "gitlab-ci-local/dist/index.js", "--force-shell-executor"]
    for name, value in given.items():
        argv += ["--variable", f"{name}={value}"]
    env = other.environment({"GCL_IGNORE_PREDEFINED_VARS": "CI_PIPELINE_SOURCE"})
    done = subprocess.run([*map(str, argv), *args], cwd=other.path, env=env, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_a_schedule_advances_what_is_open_and_publishes_it(gitlab: Box, tmp_path: Path) -> None:
    protocol = gitlab.new({"01-a": command("echo a > a.txt"), "02-b": "kind: human\n"})
    gitlab.runner("sync", protocol, rc=0)
    code, told = pipeline(gitlab, "main", "schedule")
    assert code == 0, told
    # gitlab-ci-local starts no child pipeline: what was planned is run as one.
    made = next(tmp_path.glob("home-machine-0/handover/pipeline.yml"))
    code, told = pipeline(gitlab, "main", "parent_pipeline", "--file", os.path.relpath(made, tmp_path / "machine-1"))
    assert code == 0, told
    assert gitlab.git("show", f"{protocol}:a.txt", cwd=tmp_path / "origin.git") == "a\n"
    assert "protocol-verify" not in told and "protocol-qa" not in told


def test_a_pushed_branch_is_verified_and_tested_without_secrets(gitlab: Box) -> None:
    protocol = gitlab.new({"01-a": command("echo a > a.txt")})
    gitlab.runner("run", protocol, "--publish", "always", rc=0)
    code, told = pipeline(gitlab, protocol, "push")
    assert code == 0 and "verified" in told and "== test" in told, told
    assert "protocol-work" not in told and "protocol-publish" not in told
    assert "protocol-" not in re.sub("protocol-tell.*", "", pipeline(gitlab, "main", "push")[1])


@pytest.mark.no_agreement("a forged branch is made on purpose")
def test_a_record_that_was_edited_and_code_that_fails_end_red(gitlab: Box) -> None:
    protocol = gitlab.new({"01-a": command("echo a > broken")})
    gitlab.runner("run", protocol, "--publish", "always", rc=0)
    folder = gitlab.worktree(protocol)
    state = folder / f".protocols/{protocol}/state.json"
    state.write_text(state.read_text().replace('"seconds": 0', '"seconds": 9'))
    gitlab.git("commit", "-qam", "edited", cwd=folder)
    gitlab.git("push", "-q", "origin", protocol, cwd=folder)
    code, told = pipeline(gitlab, protocol, "push")
    assert code == 1 and "does not verify" in told and "== test failed" in told, told


@pytest.mark.parametrize("name", ['0001-x";touch${IFS}pwned;"', "$(touch${IFS}pwned)", "x/0001-a"])
def test_a_hostile_variable_is_a_word(gitlab: Box, tmp_path: Path, name: str) -> None:
    code, told = pipeline(gitlab, "main", "web", "protocol-find", PROTOCOL=name)
    assert code == 1 and ("not the id of a protocol" in told or "there is no protocol" in told), told
    assert not list(tmp_path.rglob("*pwned*"))
