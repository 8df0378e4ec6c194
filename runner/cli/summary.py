"""A protocol in few words: what the reading commands and the telling of a run have in common. Nothing is read or written here.

Times are shown as people say them, commands as they were typed (`runner` or `git runner`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from runner.protocol import ids
from runner.protocol.state import wait_type
from runner.store import record
from runner.store.record import Outlook, Row

COLOURS = {
    "waits": "yellow", "paused": "yellow", "failed": "red", "blocked": "red", "unreadable": "red", "done": "green",
    "completed": "green", "works": "cyan", "ready": "cyan",
}  # fmt: skip


def duration(seconds: float) -> str:
    """Return a length of time: `<1 s`, `12 s`, `1m 40s`, `2h 05m`."""
    whole = int(seconds)
    if whole < 1:
        return "<1 s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def age(since: str, now: float) -> str:
    """Return how long ago a time of the record was: `4 min`, `3 h`, `12 days`; the time itself where it is none."""
    try:
        then = datetime.fromisoformat(since).timestamp()
    except ValueError:
        return since
    return age_of(now - then)


def age_of(seconds: float) -> str:
    """Return a length of time in its biggest unit: `4 min`, `12 days`."""
    passed = max(0, int(seconds))
    for size, unit in ((86400, "day"), (3600, "h"), (60, "min")):
        if passed >= size:
            count = passed // size
            return f"{count} {unit}{'s' if unit == 'day' and count != 1 else ''}"
    return f"{passed} s"


class Names:
    """How protocols are named in commands: by number, and by the whole id where two have one number."""

    def __init__(self, protocols: Iterable[str]) -> None:
        self._count = Counter(ids.number_of(protocol) for protocol in protocols)

    def short(self, protocol: str) -> str:
        """Return the name of a protocol in a command."""
        number = ids.number_of(protocol)
        return str(number) if self._count[number] <= 1 else protocol

    def shown(self, protocol: str) -> str:
        """Return its name at the start of a line: `0007`, or the whole id."""
        return protocol.split("-", 1)[0] if self._count[ids.number_of(protocol)] <= 1 else protocol


def command(row: Row, found: Outlook, name: str) -> str | None:
    """Return what to type next, or None where there is nothing to do."""
    status = row["status"]
    if status == record.UNREADABLE:
        return f"runner doctor {name}"
    if status == "paused":
        return f"runner resume {name}"
    if status in ("failed", "blocked"):
        if record.reopens(row) == "resume":
            return f"runner resume {name}"
        return f"runner show {name} {found.step}" if found.step else f"runner show {name}"
    if status in record.ENDED:
        return None
    if found.action != "none":
        return f"runner run {name}"
    owed = [wait for wait in row["waiting"] if wait.get("id") in found.waiting]
    if not owed:
        return f"runner show {name}"
    wait = wait_type(owed[0].get("kind"))
    if wait.answer:
        which = f" {owed[0]['id']}" if len(row["waiting"]) > 1 else ""
        return f"runner answer {name}{which} {wait.answer}"
    return f"runner approve {name}" if wait.ended_by != "edit" else f"runner edit {name}"


def described(row: Row, name: str, path: str | None, *, merging: str | None) -> Row:
    """Return a row as `--json` gives it: with `done`, `next`, `reason`, `command` and `path`. `merging`: what merges it, where its
    base lacks it."""
    found = record.outlook(row)
    return {
        **row,
        "done": row["status"] in record.ENDED,
        "next": {"action": found.action, "step": found.step, "by": found.by},
        "reason": found.reason,
        "command": merging or command(row, found, name),
        "path": path,
    }


def word(row: Row, found: Outlook, *, held: bool = False) -> str:
    """Return the status of a protocol in one term: waits, works, ready, failed, blocked, paused, completed …"""
    status = str(row["status"])
    if status not in ("planned", "running", "pending", "planning"):
        return status
    if held:
        return "works"
    return "ready" if found.action != "none" else "waits"


def wait_text(row: Row, wait: dict[str, Any], now: float) -> str:
    """Return what the protocol waits for: `for alice: step:deploy, since 4 min`."""
    kind, subject = str(wait.get("kind")), str(wait.get("subject"))
    told = record.label(row, subject) if subject in row["steps"] else subject
    if kind in ("human", "question"):
        about = told
    elif kind == "budget":
        about = f"{kind} of {told}"
    else:
        about = kind if kind == subject else f"{kind}:{subject}"
    return f"for {wait.get('by') or 'anyone'}: {about}, since {age(str(wait.get('since')), now)}"


def situation(row: Row, found: Outlook, now: float) -> str:
    """Return in half a line what waits, failed or comes next."""
    steps = row["steps"]
    status = row["status"]
    if status == record.UNREADABLE:
        return "its record is damaged, or not in this clone"
    if status == "completed":
        return f"{row['title']}"
    if status == "cancelled":
        return f"{row['title']}"
    if status in ("failed", "blocked"):
        if found.step is None:
            return found.reason
        step = steps[found.step]
        attempt = step.get("attempt", 1)
        told = f"{record.label(row, found.step)}: {step.get('reason') or found.reason}"
        return f"{told}, attempt {attempt}" if attempt > 1 else told
    if found.action == "none":
        owed = [wait for wait in row["waiting"] if wait.get("id") in found.waiting]
        return wait_text(row, owed[0], now) if owed else found.reason
    if found.action == "write-plan":
        return f"the plan is to be written: {row['title']}"
    counted = progress(row)
    if found.step is None:
        return f"{counted}"
    what = {"check-step": "its checks", "take-work": "answered", "ask-person": "a person's"}.get(found.action, "")
    title = steps[found.step].get("title") or ""
    return f"{record.label(row, found.step)}{f' ({what})' if what else ''}: {title}, {counted}"


def counted(steps: int) -> str:
    """Return how many steps there are: `3 steps`."""
    return f"{steps} step{'s' if steps != 1 else ''}"


def progress(row: Row) -> str:
    """Return how many steps are done: `1 of 3 steps done`."""
    every = record.open_steps(row)
    if not every:
        return "no steps yet"
    done = sum(step.get("status") in ("completed", "cancelled") for _, step in every)
    return f"{done} of {counted(len(every))} done"


def spent(row: Row) -> str:
    """Return what a protocol cost so far: `1m 40s · $0.08`; empty where nothing was counted."""
    told = row.get("spent")
    if not isinstance(told, dict):
        return ""
    parts = [duration(told["seconds"])] if told.get("seconds") else []
    if told.get("usd") not in (None, "0"):
        parts.append(f"${told['usd']}")
    return " · ".join(parts)
