"""The message of a transition's commit: subject, the log's entries, five kinds of trailer. Nothing of a model's or a plan's.

It is a function of the entries, the trusted commit and the actor, so a reader renders it again and compares bytes; trailers
are looked for by one anchored expression in the last paragraph of the raw message, never with git's loose rules.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from runner.lines import lines_of
from runner.protocol import log
from runner.values import dataclass

if TYPE_CHECKING:
    from runner.protocol.events import Entry

_TRAILERS = re.compile(
    r"Runner-Protocol: (?P<protocol>[0-9]{4,9}-[a-z0-9-]+)\n"
    r"Runner-Revision: (?P<revision>[1-9][0-9]{0,8})\n"
    r"(?P<events>(?:Runner-Event: [a-z-]+ [a-z0-9-]+\n)+)"
    r"Runner-Trusted: (?P<trusted>[0-9a-f]{40}(?:[0-9a-f]{24})?)\n"
    r"Runner-Actor: (?P<actor>[A-Za-z0-9][A-Za-z0-9_.:/@+-]*)\n"
)
_FORGED = re.compile(r"^runner-[a-z]+[ \t]*[:=]", re.IGNORECASE | re.MULTILINE)

# What a headline says of an event, after the subject's name; events that are not here are named as they are.
_SAYS = {
    "created": "created",
    "planned": "planned",
    "step-finished": "finished",
    "step-completed": "completed",
    "step-failed": "failed",
    "step-blocked": "blocked",
    "step-retried": "to be tried again",
    "qa-passed": "passed",
    "qa-failed": "did not pass",
    "plan-edited": "edited",
}
# The most telling event of a transition gives its subject line.
_TELLING = (
    "completed",
    "failed",
    "blocked",
    "step-failed",
    "step-blocked",
    "qa-failed",
    "step-completed",
    "step-finished",
    "planned",
)


@dataclass(frozen=True, slots=True)
class Trailers:
    """What a transition's commit says of itself."""

    protocol: str
    revision: int
    events: tuple[str, ...]  # `step-completed middleware`
    trusted: str
    actor: str


def subject(protocol: str, entries: Sequence[Entry]) -> str:
    """Return the subject line for a transition."""
    about = entries[-1].event
    for name in _TELLING:
        told = [entry.event for entry in entries if entry.event.name == name]
        if told:
            about = told[-1]
            break
    says = _SAYS.get(about.name, about.name)
    if about.subject == protocol:
        steps = [entry.event for entry in entries if entry.event.name.startswith("step-") and about.name == "completed"]
        also = f"{steps[-1].subject} {_SAYS.get(steps[-1].name, steps[-1].name)}, " if steps else ""
        return f"{protocol}: {also}{'all done' if about.name == 'completed' else says}"
    return f"{protocol}: {about.subject} {says}"


def render(protocol: str, entries: Sequence[Entry], trusted: str) -> bytes:
    """Return the commit's message."""
    body = "\n".join(log.render(entry) for entry in entries)
    lines = [
        f"Runner-Protocol: {protocol}",
        f"Runner-Revision: {entries[-1].revision}",
        *(f"Runner-Event: {entry.event.name} {entry.event.subject}" for entry in entries),
        f"Runner-Trusted: {trusted}",
        f"Runner-Actor: {entries[-1].actor}",
    ]
    return f"{subject(protocol, entries)}\n\n{body}\n".encode("ascii") + "\n".join(lines).encode("ascii") + b"\n"


def parse(message: bytes) -> Trailers | None:
    """Return what the message's last paragraph says, or None where it is not exactly a transition's."""
    try:
        text = message.decode("ascii")
    except UnicodeDecodeError:
        return None
    _, blank, last = text.rpartition("\n\n")
    match = _TRAILERS.fullmatch(last) if blank else None
    if not match:
        return None
    return Trailers(
        protocol=match["protocol"],
        revision=int(match["revision"]),
        events=tuple(line.removeprefix("Runner-Event: ") for line in lines_of(match["events"])),
        trusted=match["trusted"],
        actor=match["actor"],
    )


def looks_forged(message: bytes) -> bool:
    """Return whether a commit that is no transition has a line that could be taken for one of our trailers."""
    return _FORGED.search(message.decode("utf-8", "replace")) is not None
