"""Somebody without a role writes transitions by hand and pushes them: a runner that believes them does nothing without the word."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from runner.errors import InsufficientHistoryError
from runner.git import Git
from runner.protocol import events as ev
from runner.store.publishing import FRESH
from runner.store.trusted import Trusted
from runner.trust.verify import verify
from tests.attacks.forge import Forge
from tests.attacks.test_attacks import finish as finished
from tests.attacks.test_attacks import undone
from tests.conftest import Box, command
from tests.executor.minds import agent, finish, mind, say, write
from tests.executor.test_calls import lines, outside
from tests.people import Person, govern, governed, person, policy

pytestmark = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not here")

WAITS, REFUSED = 3, 4
DEPLOY = command("sh deploy.sh > d.txt", "approval: before\n")
CALL = "kind: tool\ntool: send_report\nwith: {to: ops, subject: done}\n"


@pytest.fixture
def alice(tmp_path: Path) -> Person:
    return person(tmp_path / "people", "alice")


@pytest.fixture
def box(tmp_path: Path, alice: Person) -> Box:
    made = governed(tmp_path / "repo", [alice])
    made.write("deploy.sh", "echo deployed\n")
    made.commit("script")
    return made


def forger(box: Box, protocol: str) -> Forge:
    """Return somebody who writes the branch of the very repository that the runner works in."""
    forge = Forge(box, protocol, trusted=box.git("rev-parse", "main").strip())
    box.git("worktree", "remove", "--force", box.worktree(protocol))
    forge.see()
    return forge


def is_done(box: Box, protocol: str) -> bool:
    return "d.txt" in box.git("ls-tree", "--name-only", protocol)


def test_a_step_that_only_the_record_says_has_begun_does_not_go_on(box: Box) -> None:
    protocol = box.new({"01-deploy": DEPLOY})
    forge = forger(box, protocol)
    forge.imitate(ev.Asked(subject="deploy", kind="question", text="May I?", by="anyone", transcript=None, spent={}))
    forge.imitate(ev.Answered(subject="deploy", wait=f"w{forge.now.revision}", text="yes", by="anyone"))
    assert "and none was valid" in box.runner("step", protocol, rc=REFUSED).err
    forge.refused("needed")
    assert not is_done(box, protocol)


def test_a_start_that_the_record_takes_back_needs_another_word(box: Box, alice: Person) -> None:
    ledger = box.path.parent / "ledger"
    protocol = box.new(
        {"01-deploy": command(f"echo deployed >> {ledger}", "approval: before\n"), "02-more": command("true")}
    )
    box.runner("step", protocol, rc=WAITS)
    box.runner("approve", protocol, "--yes", env=alice.env, rc=0)
    forge = forger(box, protocol)
    before = forge.now.revision
    box.runner("step", protocol, rc=0)
    forge.see()
    forge.imitate(undone(forge, before))
    assert forge.verify().ok
    box.runner("step", protocol, rc=WAITS)
    box.runner("step", protocol, rc=WAITS)
    assert ledger.read_text() == "deployed\n"


def test_a_retry_that_no_on_failure_makes_needs_another_word(box: Box, alice: Person) -> None:
    box.write("deploy.sh", "echo $RUNNER_ATTEMPT\n")
    box.commit("script")
    protocol = box.new({"01-deploy": DEPLOY, "02-other": command("true")})
    box.runner("step", protocol, rc=WAITS)
    box.runner("approve", protocol, "--yes", env=alice.env, rc=0)
    box.runner("step", protocol, rc=0)
    forge = forger(box, protocol)
    forge.imitate(
        ev.StepFailed(subject="other", attempt=1, reason="so it is"),
        ev.StepRetried(subject="other", attempt=2),
        ev.StepRetried(subject="deploy", attempt=2),
    )
    assert forge.verify().ok
    box.runner("step", protocol, rc=WAITS)
    box.runner("step", protocol, rc=WAITS)
    assert box.git("show", f"{protocol}:d.txt") == "1\n"


@pytest.mark.slow
def test_a_word_on_a_call_that_an_older_policy_counted_makes_no_call(
    box: Box, alice: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eve was a maintainer and left; she writes herself that her word was counted while she was one."""
    eve = person(tmp_path / "people", "eve")
    ledger = outside(box)
    govern(box, [alice, eve], text=policy([alice, eve]) + "  call: {roles: [maintainer]}\n")
    protocol = box.new({"01-send": CALL})
    box.runner("step", protocol, rc=WAITS)
    box.runner("approve", protocol, "--yes", env=eve.env, rc=0)
    forge = forger(box, protocol)
    govern(box, [alice], text=policy([alice]) + "  call: {roles: [maintainer]}\n")
    names = box.git("ls-tree", "--name-only", protocol, f"{forge.folder}/approvals/").split()
    ids = [Path(name).name.removesuffix(".approval") for name in names]
    (wait,) = forge.now.waiting
    monkeypatch.setattr("tests.attacks.forge.TIME", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    forge.imitate(ev.CallDecided(subject="send", wait=wait.id, decision="approved", by=eve.email, approvals=ids))
    box.runner("step", protocol, rc=WAITS)
    box.runner("step", protocol, rc=WAITS)
    assert lines(ledger) == []
    box.runner("approve", protocol, "--yes", env=alice.env, rc=0)
    box.runner("run", protocol, rc=0)
    assert lines(ledger) == ["ops done"]


def test_a_word_on_a_call_is_used_up_where_the_record_takes_the_call_back(box: Box, alice: Person) -> None:
    ledger = outside(box)
    govern(box, [alice], text=policy([alice]) + "  call: {roles: [maintainer]}\n")
    protocol = box.new({"01-send": CALL, "02-more": command("true")})
    box.runner("step", protocol, rc=WAITS)
    box.runner("approve", protocol, "--yes", env=alice.env, rc=0)
    forge = forger(box, protocol)
    before = forge.now.revision
    box.runner("step", protocol, rc=0)
    assert lines(ledger) == ["ops done"]
    forge.see()
    forge.imitate(undone(forge, before))
    shutil.rmtree(box.path / ".git" / "runner" / "journal")  # on another machine, with a history that was taken away
    box.git("update-ref", "-d", f"refs/runner/history/{protocol}")
    box.runner("step", protocol, rc=WAITS)
    box.runner("step", protocol, rc=WAITS)
    assert lines(ledger) == ["ops done"]


def test_a_person_s_step_that_only_the_record_says_was_asked_for_is_not_taken(box: Box) -> None:
    protocol = box.new({"01-look": "kind: human\napproval: before\n"})
    forge = forger(box, protocol)
    forge.imitate(ev.Asked(subject="look", kind="human", text="Look.", by="anyone"))
    forge.imitate(ev.Answered(subject="look", wait=f"w{forge.now.revision}", text="done", by="anyone"))
    assert "and none was valid" in box.runner("step", protocol, rc=REFUSED).err
    forge.refused("needed")
    assert box.state(protocol)["steps"]["look"]["status"] == "running"


def test_a_word_that_became_stale_covers_no_retry_whatever_the_record_says(box: Box, alice: Person) -> None:
    """The word was good at an earlier commit; the record says that it was counted there, and that the step failed since."""
    retried = command("sh deploy.sh > d.txt", "approval: before\non_failure: {retry: 3}\n")
    protocol = box.new({"01-deploy": retried})
    box.runner("step", protocol, rc=WAITS)
    box.runner("approve", protocol, "--yes", env=alice.env, rc=0)
    forge = forger(box, protocol)
    before = forge.tip
    names = box.git("ls-tree", "--name-only", protocol, f"{forge.folder}/approvals/").split()
    ids = [Path(name).name.removesuffix(".approval") for name in names]
    (wait,) = forge.now.waiting
    forge.commit({"deploy.sh": "echo pwned\n"})
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.attacks.forge.TIME", now)
        forge.imitate(
            ev.ApprovalCounted(subject="deploy", wait=wait.id, approvals=ids, by=[alice.email], at=before),
            ev.StepFailed(subject="deploy", attempt=1, reason="so it is"),
            ev.StepRetried(subject="deploy", attempt=2),
        )
    assert forge.verify().ok
    box.runner("step", protocol, rc=WAITS)
    assert not is_done(box, protocol)


def test_a_record_in_which_a_step_began_before_the_one_that_it_needs_is_not_gone_on_with(box: Box) -> None:
    protocol = box.new({"01-test": command("make test"), "02-more": command("true"), "03-last": command("true")})
    forge = forger(box, protocol)
    forge.imitate(finished(forge, "more"), ev.StepCompleted(subject="more", attempt=1))
    assert "more started, and test, which it needs, was not done" in box.runner("step", protocol, rc=REFUSED).err
    forge.refused("legality")


def test_nothing_is_done_under_an_older_policy_than_the_record_tells_of(tmp_path: Path, alice: Person) -> None:
    """Nobody's word is needed, then or now: but the policy of before is not the one that held for what was done since."""
    box = governed(tmp_path / "shared", [alice], remote=True)
    old = box.git("rev-parse", "main").strip()
    protocol = box.new({"01-a": command("true"), "02-b": command("true")})
    govern(box, [alice, person(tmp_path / "people", "eve")])
    box.runner("step", protocol, rc=0)
    box.git("update-ref", "refs/heads/main", old, cwd=tmp_path / "origin.git")
    assert "main went back" in box.runner("step", protocol, rc=REFUSED).err
    assert box.state(protocol)["steps"]["b"]["status"] == "pending"


@pytest.mark.slow  # it waits until what was fetched is old
def test_default_checks_that_come_while_an_approval_is_looked_up_are_recorded_and_run(
    tmp_path: Path, alice: Person
) -> None:
    """The trusted branch is fetched again before an approval is used: the plan was read with the checks of before."""
    box, bare = governed(tmp_path / "shared", [alice], remote=True), tmp_path / "origin.git"
    protocol = box.new({"01-a": agent("approval: before\n")})
    box.runner("step", protocol, rc=WAITS)
    box.runner("approve", protocol, "--yes", env=alice.env, rc=0)
    box.write(
        ".protocols/config.yaml", box.path.joinpath(".protocols/config.yaml").read_text() + "checks: [test -f a.txt]\n"
    )
    box.git("push", "-q", "origin", f"{box.commit('checks')}:refs/heads/next")
    (tmp_path / "bin").mkdir()
    ages = f"mkdir {tmp_path}/old && sleep {FRESH + 1} && git -C {bare} update-ref refs/heads/main refs/heads/next"
    script = (
        f"""#!/bin/sh\nPATH={os.environ["PATH"]}\ncase " $* " in *" ls-tree "*) {ages};; esac 2>&-\nexec git "$@"\n"""
    )
    (tmp_path / "bin/git").write_text(script)
    (tmp_path / "bin/git").chmod(0o755)
    with mind(box, say(write("a.txt", "a\n")), finish()):
        run = box.start("run", protocol, env={"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"})
        told = run.communicate(timeout=100)
    assert run.returncode == 0, told
    assert "test -f a.txt" in box.runner("log", protocol, rc=0).out
    box.runner("verify", protocol, rc=0)


def test_an_undo_of_the_qa_leaves_the_approval_of_the_start_valid(box: Box, alice: Person) -> None:
    more = "approval: before\nqa: {checks: ['test -f a.txt']}\n"
    protocol = box.new({"01-a": command("echo a > a.txt", more), "02-b": command("true", "approval: before\n")})
    box.runner("run", protocol, rc=WAITS)
    box.runner("approve", protocol, "--yes", env=alice.env, rc=0)
    box.runner("step", protocol, rc=0)
    worked = box.state(protocol)["revision"]
    box.runner("step", protocol, rc=0)
    box.runner("undo", f"{protocol}@{worked}", rc=0)
    box.runner("run", protocol, rc=WAITS)
    assert box.state(protocol)["steps"]["a"]["status"] == "completed"
    box.runner("verify", protocol, rc=0)


def test_verify_says_what_brings_a_newer_trusted_branch(tmp_path: Path, alice: Person) -> None:
    box = governed(tmp_path / "shared", [alice], remote=True)
    old = box.git("rev-parse", "main").strip()
    protocol = box.new({"01-a": command("true")})
    govern(box, [alice, person(tmp_path / "people", "eve")])
    box.runner("run", protocol, rc=0)
    with Git.open(box.path) as git, pytest.raises(InsufficientHistoryError) as told:
        verify(git, protocol, box.git("rev-parse", protocol).strip(), trusted=Trusted(old, "main", "origin", ""))
    assert "main was last seen here at" in told.value.what and "runner sync" in told.value.hint
