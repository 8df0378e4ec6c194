"""What a job that a model works in may not hand over for publishing: what only people, or the forge, say (design §6).

Most of what people say in the record is not signed, so a job that was taken over could write it, and verify would hold it for good.
People, and the job that reads the forge, publish their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from runner.errors import IntegrityError
from runner.git import Git
from runner.protocol import log, paths
from runner.protocol.event_types import event_type
from runner.protocol.log import RawEntry
from runner.store import record
from runner.trust.requirements import KEYBOARD
from runner.trust.walk import Finding

_SPEAKER = re.compile(r"[^/]+/[0-9]+/comment/[0-9]+")  # an actor: who said it in a comment on the forge


def wrong(git: Git, protocol: str, tip: str, published: str) -> Iterator[Finding]:
    """Return what the commits up to `tip` that are not in `published`, the remote's branch, say and a runner at work cannot."""
    at = f"{paths.folder(protocol)}/{paths.LOG}"
    for oid in git.run("rev-list", "--reverse", tip, f"^{published}").decode().split():
        commit = git.commit(oid)
        assert commit is not None
        told = log.parse_message(commit.message)
        if told is None or told.protocol != protocol:
            yield Finding("handed-over", oid, paths.folder(protocol), "a commit that only a person makes")
            continue
        try:
            entries = record.added(git, protocol, commit)
        except IntegrityError as error:
            yield Finding("handed-over", oid, at, error.what)
            continue
        for text in _said(entries):
            yield Finding("handed-over", oid, at, text)


def _said(entries: list[RawEntry]) -> Iterator[str]:
    failed = False
    for one in entries:
        by = one.fields.get("by")
        if event_type(one.event).said_by in ("person", "forge"):
            yield f"`{one.event}`: only a person, or the forge, says that"
        elif one.event == "step-retried" and not failed:
            yield "`step-retried` of a step that did not fail in this transition: only a person says that"
        elif by == KEYBOARD or (isinstance(by, list) and KEYBOARD in by):
            yield f"`{one.event}` at a keyboard: only a person says that"
        elif one.fields.get("reviews"):
            yield f"`{one.event}` by a review: only a person says that, on the forge"
        elif _SPEAKER.fullmatch(one.actor):
            yield f"`{one.event}` in the name of a comment on the forge: only a person writes that"
        failed = failed or one.event == "step-failed"
