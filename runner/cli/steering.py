"""What the commands that steer a protocol share: how a person names what they mean, and what they are told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.cli.session import Session

if TYPE_CHECKING:
    from runner.app.steer import Steered


def tell(session: Session, done: Steered) -> None:
    """Tell what came of a person's word, and what to type next; the forge too, where it was published."""
    from runner.app import forge
    from runner.cli.main import program

    session.note(f"{done.protocol}  {done.said}")
    for line in done.notes:
        session.note(f"  {line}")
    if done.next:
        session.note(f"  next          {done.next.replace('runner', program(), 1)}")
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
    """Return the protocol that the first word names, and the words after it.

    Where the first word names a step or a wait of the protocol that is meant anyway (its worktree, or the only open one), that
    protocol and all the words.

    Raises:
        UsageError: no protocol is meant, or it is not clear which.
    """
    from runner.errors import UsageError
    from runner.protocol import ids
    from runner.store import finding, record

    project = session.project
    if not words:
        return finding.find(project, None), ()
    try:
        return finding.find(project, words[0]), words[1:]
    except UsageError as error:
        try:
            here = finding.find(project, None)
        except UsageError:
            raise error from None
        row = record.row(project.git, here, finding.known(project)[here])
        waits = [wait["id"] for wait in row["waiting"]]
        plain = words[0].removesuffix(".md")
        if words[0] in waits or plain in ("plan", "context") or ids.find_step(plain, row["steps"]):
            return here, words
        raise
