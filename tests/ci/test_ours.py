"""This repository has the runner's own jobs for its own protocols: as `runner init` writes them, with the checkout as the runner."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner.app import scaffold
from runner.forge.registry import guess
from tests.ci.actions import ROOT

HERE = Path("/nonexistent")  # no file of a checkout has a say
GITHUB = scaffold.jobs(HERE, guess("https://github.com/o/r"), "{id}", "protocol-runner")
GITLAB = scaffold.jobs(HERE, guess("https://gitlab.com/o/r"), "{id}", "protocol-runner")


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


# --- the jobs that test the runner itself ----------------------------------------------------------------------------------


def loaded(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


# The targets of `.ci/run` without arguments.
RUN = (ROOT / ".ci/run").read_text()
EVERY = re.search(r"set -- (.+)$", RUN, re.MULTILINE)
PATH = os.environ["PATH"]
# Minutes: `.ci/run` takes half an hour on two cores for all of them.
GATE, NIGHT = 30, 240


def test_what_ci_runs_are_targets_of_make() -> None:
    assert EVERY
    makefile = (ROOT / "Makefile").read_text()
    assert EVERY[1].split()[:2] == ["check", "test"]
    assert {"faults", "simulate", "forge", "peers"} < set(EVERY[1].split())
    assert [target for target in [*EVERY[1].split(), "nightly"] if f"\n{target}: " not in makefile] == []


def test_each_target_is_made_once_some_beside_others_and_one_that_fails_ends_it(tmp_path: Path) -> None:
    if needed := [
        one for one in re.findall(r"\[([\w-]+)\]=", RUN) if shutil.which(one, path=f"{PATH}:/usr/sbin") is None
    ]:
        pytest.skip(f"allowed: .ci/run would install {', '.join(needed)}")
    made = tmp_path / "made"
    (tmp_path / "make").write_text(f'#!/bin/sh\necho "$*" >> {made}\n[ "$1" != faults ]\n')
    (tmp_path / "make").chmod(0o755)
    given = ["check", "test", "faults", "simulate", "demo", "nightly"]
    done = subprocess.run(
        [ROOT / ".ci/run", *given], env={**os.environ, "PATH": f"{tmp_path}:{PATH}"}, capture_output=True, text=True
    )
    assert done.returncode == 1 and "== faults: failed after " in done.stdout, done.stderr
    at_once, *others = made.read_text().splitlines()
    assert at_once.split()[:4] == ["check", "demo", "-j", "2"]
    assert others == ["test SLOW=1", "simulate", "faults"]
    (tmp_path / "make").write_text(f'#!/bin/sh\necho "$*" >> {made}\n')
    made.unlink()
    subprocess.run([ROOT / ".ci/run", *given], env={**os.environ, "PATH": f"{tmp_path}:{PATH}"}, check=True)
    words = made.read_text().split()
    assert [words.count(target) for target in given] == [1] * len(given)


def test_the_jobs_of_both_forges_run_those_targets_and_hold_no_logic() -> None:
    assert EVERY
    github = loaded(".github/workflows/ci.yml")["jobs"]["ci"]
    gitlab = loaded(".gitlab-ci.yml")
    assert [step["run"] for step in github["steps"] if "run" in step] == ["make ci"]
    assert gitlab[".ci"]["script"] == ["make ci"]
    matrix = github["strategy"]["matrix"]
    assert gitlab["ci"]["parallel"]["matrix"] == [{"TARGETS": matrix["targets"]}]
    assert sorted(" ".join(matrix["targets"]).split()) == sorted(EVERY[1].split())
    assert [one["targets"] for one in matrix["include"]] == ["check test"]
    assert github["steps"][-1]["env"] == {"TARGETS": "${{ matrix.targets }}"}


def test_the_time_limits_are_those_that_are_meant() -> None:
    gitlab = loaded(".gitlab-ci.yml")
    assert loaded(".github/workflows/ci.yml")["jobs"]["ci"]["timeout-minutes"] == GATE
    assert gitlab["ci"]["timeout"] == f"{GATE} minutes"
    assert loaded(".github/workflows/nightly.yml")["jobs"]["nightly"]["timeout-minutes"] == NIGHT
    assert gitlab["nightly"]["timeout"] == f"{NIGHT // 60} hours"


def test_at_night_everything_runs_by_a_schedule_of_its_own() -> None:
    github, gitlab = loaded(".github/workflows/nightly.yml"), loaded(".gitlab-ci.yml")
    job = github["jobs"]["nightly"]
    assert [step["run"] for step in job["steps"] if "run" in step] == ["make ci"]
    assert job["steps"][-1]["env"] == {"TARGETS": "nightly"}
    assert gitlab["nightly"]["variables"]["TARGETS"] == "nightly" and "script" not in gitlab["nightly"]
    assert set(github[True]) == {"schedule", "workflow_dispatch"}  # YAML reads `on` as true
    # The hourly schedule of the runner's own jobs starts neither of them.
    assert gitlab["nightly"]["rules"] == [{"if": '$CI_PIPELINE_SOURCE == "schedule" && $NIGHTLY'}]
    assert gitlab["ci"]["rules"] == [{"if": '$CI_PIPELINE_SOURCE != "schedule"'}]


def test_the_whole_history_is_there_to_compare_with_what_passed() -> None:
    for path in ("ci", "nightly"):
        (job,) = loaded(f".github/workflows/{path}.yml")["jobs"].values()
        assert job["steps"][0]["with"] == {"fetch-depth": 0, "persist-credentials": False}
    assert loaded(".gitlab-ci.yml")[".ci"]["variables"] == {"GIT_DEPTH": "0"}
