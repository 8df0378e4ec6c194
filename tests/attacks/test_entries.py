"""What a transition recorded is read from the log's added text: neither its message nor its trailers can hide or add an entry."""

from __future__ import annotations

import pytest

from runner.errors import IntegrityError
from runner.git import Git
from runner.protocol import events as ev
from runner.store import record
from runner.trust.rules import permissions
from runner.trust.verify import is_rebased, replaced
from tests.attacks.forge import Forge
from tests.attacks.test_attacks import paused


def test_entries_that_the_trailers_leave_out_are_not_believed(forge: Forge) -> None:
    """A job that was taken over ends a pause of a person's, and lets the trailers name the other event alone."""
    published = forge.tip
    forge.imitate(
        paused(forge),
        ev.Resumed(subject=forge.protocol),
        edit_text=lambda text: text.replace(f"Runner-Event: paused {forge.protocol}\n", ""),
    )
    forge.refused("message", "transition")
    with Git.open(forge.box.path) as git:
        commit = git.commit(forge.tip)
        assert commit is not None
        with pytest.raises(IntegrityError, match="other entries than the commit's trailers"):
            record.added(git, forge.protocol, commit)
        (found,) = permissions.not_handed_over(git, forge.protocol, forge.tip, published)
        assert "other entries" in found.text


def test_a_body_that_says_otherwise_hands_nothing_over(forge: Forge) -> None:
    """The message tells of what a runner may say, the log of what only a person may."""
    published = forge.tip
    forge.imitate(paused(forge), edit_text=lambda text: text.replace(" paused\n", " completed\n", 1))
    forge.refused("message")
    with Git.open(forge.box.path) as git:
        told = [found.text for found in permissions.not_handed_over(git, forge.protocol, forge.tip, published)]
    assert told == ["`paused`: only a person, or the forge, says that"]


def test_two_chains_with_equal_messages_and_other_entries_are_not_the_same(forge: Forge) -> None:
    """A message of schema 2 has no text: one who rewrites a history cannot pass another reason for the one that was there."""
    said, start = [], forge.tip
    for reason in ("exit 1", "approved"):
        forge.imitate(ev.StepFailed(subject="b", attempt=1, reason=reason))
        said.append((forge.tip, forge.box.git("log", "-1", "--format=%B", forge.tip)))
        forge.box.git("update-ref", f"refs/heads/{forge.protocol}", start)
        forge.see()
    (one, text), (other, same) = said
    assert text == same and one != other
    with Git.open(forge.box.path) as git:
        assert not is_rebased(git, forge.protocol, one, other)
        assert replaced(git, forge.protocol, one, other) is None
        assert is_rebased(git, forge.protocol, one, one) and replaced(git, forge.protocol, one, one) is not None
        assert not is_rebased(git, forge.protocol, start, one) and not is_rebased(git, forge.protocol, one, start)
        assert (
            replaced(git, forge.protocol, start, one) is not None and replaced(git, forge.protocol, one, start) is None
        )
