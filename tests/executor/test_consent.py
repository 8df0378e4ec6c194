"""Which starts a word on a step covers, and which need another: real keys, real repositories."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import Box
from tests.people import Person, govern, person

pytestmark = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not here")

DEPLOY = "kind: command\nrun: sh deploy.sh\napproval: before\n"
WAITS = 3


@pytest.fixture
def alice(box: Box, tmp_path: Path) -> Person:
    """The one maintainer; whoever starts the work is somebody else."""
    found = person(tmp_path / "people", "carol")
    govern(box, [found])
    return found


def made(box: Box, script: str, front: str = DEPLOY) -> str:
    box.write("deploy.sh", script)
    box.commit("script")
    return box.new({"01-deploy": front})


def asks(box: Box, protocol: str) -> int:
    return box.log(protocol).count(" approval-asked ")


def test_a_word_covers_what_on_failure_makes_of_the_step(box: Box, alice: Person) -> None:
    protocol = made(
        box,
        "test -e .git/x-never && exit 0; n=$RUNNER_ATTEMPT; test $n -ge 3 && echo done > out.txt || exit 1\n",
        DEPLOY + "on_failure: {retry: 2}\n",
    )
    box.runner("step", protocol, rc=WAITS)
    box.runner("approve", protocol, "--yes", env=alice.env, rc=0)
    box.runner("run", protocol, rc=0)
    assert box.state(protocol)["status"] == "completed"
    assert (asks(box, protocol), box.state(protocol)["steps"]["deploy"]["attempt"]) == (1, 3)


@pytest.mark.slow
def test_a_person_s_retry_needs_another_word(box: Box, alice: Person) -> None:
    protocol = made(box, "exit 1\n")
    box.runner("step", protocol, rc=WAITS)
    box.runner("approve", protocol, "--yes", env=alice.env, rc=0)
    box.runner("step", protocol, rc=1)
    box.runner("retry", protocol, rc=0)
    box.runner("step", protocol, rc=WAITS)  # asks
    box.runner("step", protocol, rc=WAITS)  # and the word that was used is none
    assert asks(box, protocol) == 2
    assert box.state(protocol)["steps"]["deploy"]["status"] == "pending"
    box.runner("approve", protocol, "--yes", env=alice.env, rc=0)
    box.runner("step", protocol, rc=1)
    assert box.state(protocol)["steps"]["deploy"]["status"] == "failed"


def test_a_script_that_is_changed_before_the_retry_does_not_run_on_the_word(box: Box, alice: Person) -> None:
    protocol = made(box, "exit 1\n", DEPLOY + "on_failure: {retry: 1}\n")
    box.runner("step", protocol, rc=WAITS)
    box.runner("approve", protocol, "--yes", env=alice.env, rc=0)
    box.runner("step", protocol)
    folder = box.worktree(protocol)
    (folder / "deploy.sh").write_text("echo pwned > out.txt\n")
    box.commit("sneak", cwd=folder)
    box.runner("step", protocol, rc=WAITS)
    assert (asks(box, protocol), box.state(protocol)["steps"]["deploy"]["status"]) == (2, "pending")
    assert "out.txt" not in box.git("ls-tree", "--name-only", protocol)


def test_what_is_undone_starts_again_on_another_word_only(box: Box, alice: Person) -> None:
    protocol = made(box, "echo deployed > out.txt\n")
    box.runner("step", protocol, rc=WAITS)
    box.runner("approve", protocol, "--yes", env=alice.env, rc=0)
    box.runner("step", protocol)
    box.runner("undo", protocol)
    box.runner("step", protocol, rc=WAITS)
    box.runner("step", protocol, rc=WAITS)
    assert asks(box, protocol) == 2
    assert "out.txt" not in box.git("ls-tree", "--name-only", protocol)


def test_an_approved_step_finds_nothing_that_an_earlier_one_left_ignored(box: Box, alice: Person) -> None:
    box.write(".gitignore", "hidden.sh\n")
    box.write(
        "deploy.sh",
        "test -e hidden.sh && sh hidden.sh; test -e ~/.hidden && echo home >> out.txt; echo ok >> out.txt\n",
    )
    box.commit("script")
    plant = "kind: command\nrun: echo 'echo pwned > out.txt' > hidden.sh; touch ~/.hidden\n"
    protocol = box.new({"01-plant": plant, "02-deploy": DEPLOY})
    box.runner("run", protocol, rc=WAITS)
    box.runner("approve", protocol, "--yes", env=alice.env, rc=0)
    box.runner("run", protocol, rc=0)
    assert box.git("show", f"{protocol}:out.txt") == "ok\n"


def test_a_word_on_the_plan_lasts_when_the_last_step_that_loads_trusted_code_is_done(box: Box, alice: Person) -> None:
    box.write("figures.py", "def measure() -> int:\n    return 7\n")
    box.write(".protocols/config.yaml", "tools:\n  - {module: figures, effects: {measure: read}}\n")
    box.commit("tool")
    steps = {"01-measure": "kind: tool\ntool: measure\n", "02-write": "kind: command\nrun: echo written > out.txt\n"}
    protocol = box.new(steps, front="approval: before\n")
    box.runner("run", protocol, rc=WAITS)
    box.runner("approve", protocol, "--yes", env=alice.env, rc=0)
    box.runner("run", protocol, rc=0)
    assert asks(box, protocol) == 1
    assert box.runner("verify", protocol).code == 0
