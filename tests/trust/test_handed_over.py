"""`verify --handed-over`: what a job that a model works in hands over says nothing that only people, or the forge, say."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.protocol import events as ev
from tests.attacks.forge import Forge
from tests.attacks.test_attacks import finish, paused, undone
from tests.conftest import Box, command

STEPS = {
    "01-a": command("echo a > a.txt"),
    "02-look": "kind: human\nneeds: []\n",
    "03-c": command("true", "needs: []\n"),
}


@pytest.fixture
def work(remote: Box, tmp_path: Path) -> Forge:
    """The clone of a job; what the protocol was published with: its first step is done, and somebody is asked about the second."""
    protocol = remote.new(STEPS)
    remote.runner("step", protocol, rc=0)
    remote.runner("step", protocol, "--step", "look")
    remote.runner("sync", protocol, rc=0)
    return Forge.copy(remote, protocol, tmp_path / "job")


def refused(work: Forge) -> dict[str, str]:
    """What is found of the handed-over commits: commit to text."""
    done = work.box.runner("verify", "--handed-over", "--json", work.protocol)
    found = done.json()["protocols"][0]["findings"]
    assert done.code == (4 if found else 0), done
    return {one["commit"]: one["text"] for one in found if one["rule"] == "handed-over"}


def test_what_a_runner_at_work_makes_is_taken(work: Forge) -> None:
    work.box.runner("step", work.protocol, "--step", "c", rc=0)
    assert refused(work) == {}


def test_each_event_of_people_s_is_refused(work: Forge) -> None:
    wait, then = work.now.waiting[0].id, work.now.revision
    said: list[list[ev.Event]] = [
        [ev.Answered(subject="look", wait=wait, text="yes", by="alice")],
        [paused(work)],
        [ev.Resumed(subject=work.protocol)],
        [ev.RequestChanged(subject=work.protocol, url="https://forge.test/1", change="closed")],
        [ev.CiReported(subject=work.protocol, commit=work.tip, outcome="success", context="ci")],
        [ev.StepRetried(subject="a", attempt=2)],
    ]
    names = {}
    for events in said:
        work.imitate(*events)
        names[work.tip] = events[0].name
    work.imitate(undone(work, then))
    names[work.tip] = "undone"
    work.imitate(ev.StepCancelled(subject="c", reason="x"), ev.Cancelled(subject=work.protocol))
    names[work.tip] = "cancelled"
    assert {oid: text.split("`")[1] for oid, text in refused(work).items()} == names


def test_a_retry_that_its_failure_makes_is_taken(work: Forge) -> None:
    work.imitate(ev.StepFailed(subject="c", attempt=1, reason="x"), ev.StepRetried(subject="c", attempt=2))
    assert refused(work) == {}


def test_a_persons_commit_is_refused(work: Forge) -> None:
    tip = work.commit({"evil.txt": "x\n"})
    assert refused(work) == {tip: "a commit that only a person makes"}


def test_an_approval_at_a_keyboard_is_refused(work: Forge) -> None:
    asked = ev.ApprovalAsked(subject="c", kind="step", digest="sha256:" + "0" * 64, text="approval", by="you")
    work.imitate(asked)
    wait = f"w{work.now.revision}"
    work.imitate(ev.ApprovalCounted(subject="c", wait=wait, approvals=[], by=["keyboard"]), finish(work, "c"))
    assert "keyboard" in refused(work)[work.tip]


def test_an_actor_that_is_a_comment_on_the_forge_is_refused(work: Forge) -> None:
    """The highest one that the record names is the last that was looked at: all later commands would be passed over."""
    work.imitate(finish(work, "c"), actor="github.com/7/comment/999999999999999999")
    assert "comment" in refused(work)[work.tip]


def test_what_people_published_themselves_is_not_asked_about(work: Forge, remote: Box) -> None:
    remote.runner("answer", work.protocol, "seen", rc=0)
    remote.runner("sync", work.protocol, rc=0)
    work.box.runner("sync", work.protocol, rc=0)
    work.see()
    work.imitate(finish(work, "look", executor="person", start=work.tip), ev.StepCompleted(subject="look", attempt=1))
    assert refused(work) == {}
