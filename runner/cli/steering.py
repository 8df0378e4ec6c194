"""What the commands that steer a protocol share: how a person names what they mean, and what they are told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.cli.session import Session

if TYPE_CHECKING:
    from runner.app.steer import Steered
    from runner.store.project import Project


def tell(session: Session, done: Steered) -> None:
    """Tell what came of a person's word, and what to type next; the forge too, where it was published."""
    from runner.app import forge, sync
    from runner.cli.main import program

    session.note(f"{done.protocol}  {done.said}")
    for line in done.notes:
        session.note(f"  {line}")
    if done.next:
        session.note(f"  next          {done.next.replace('runner', program(), 1)}")
    sync.unpublished(session.project, done.protocol)
    forge.tell_published(session.project, done.protocol)


def at_revision(words: str | None) -> tuple[str | None, int | None]:
    """Return the protocol's name and the revision of `[PROTOCOL][@REVISION]`, each None where it is left out.

    Raises:
        UsageError: what follows the @ is no revision.
    """
    from runner.errors import UsageError

    name, at, revision = (words or "").partition("@")
    if at and not (revision.isascii() and revision.isdigit() and len(revision) < 10):
        raise UsageError(
            f"`{revision}` is no revision",
            "the command line",
            "write PROTOCOL@REVISION; `runner log` shows the revisions",
        )
    return name or None, int(revision) if at else None


def named(session: Session, words: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Return the protocol that the first word names, with what others pushed of it picked up, and the words after it.

    Where the first word names a step or a wait of the protocol that is meant anyway (its worktree, or the only open one), that
    protocol and all the words.

    Raises:
        UsageError: no protocol is meant, or it is not clear which.
    """
    from runner.executor import looking
    from runner.store import finding

    project = session.project
    if not words:
        return looking.find_protocol(project, None), ()
    try:
        finding.find(project, words[0])
    except finding.UnknownProtocolError:
        if (here := _of_this(project, words[0])) is not None:
            return looking.find_protocol(project, here), words
    return looking.find_protocol(project, words[0]), words[1:]


def _of_this(project: Project, word: str) -> str | None:
    """Return the protocol that is meant anyway, where the word names a step or a wait of it."""
    from runner.errors import UsageError
    from runner.protocol import ids
    from runner.store import finding, record

    try:
        here = finding.find(project, None)
    except UsageError:
        return None
    row = record.row(project.git, here, finding.known(project)[here])
    plain = word.removesuffix(".md")
    is_its = word in [wait["id"] for wait in row["waiting"]] or plain in ("plan", "context")
    return here if is_its or ids.find_step(plain, row["steps"]) else None
