"""What an entry of the log says to people: one line, its checks, and the end of an output that failed.

`runner log`, `runner show` and the page of `runner audit` print it. log.md and `--json` have every field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from runner.app import describe
from runner.lines import lines_of
from runner.protocol import paths
from runner.protocol.log import RawEntry
from runner.protocol.state import Json
from runner.values import dataclass

_HASH = re.compile(r"\b(?:sha256:)?([0-9a-f]{12})[0-9a-f]{28,52}\b")


@dataclass(frozen=True, slots=True)
class Check:
    """A check of QA. `outcome`: `passed` or `exit 2`; `took`: its duration; `tail`: the end of what it printed, if it failed."""

    name: str
    passed: bool
    outcome: str
    took: str
    tail: str


@dataclass(frozen=True, slots=True)
class Account:
    """What one entry says. `parts`: of its line; `texts`: by their names, those of several lines; `tail`: as of a `Check`."""

    parts: tuple[str, ...]
    checks: tuple[Check, ...]
    texts: tuple[tuple[str, str], ...]
    tail: str


def account(entry: RawEntry, protocol: str) -> Account:
    """Return what an entry says. Digests are left out; a key of a newer version is shown as it is, with short hashes."""
    parts: list[str] = []
    texts: list[tuple[str, str]] = []
    for key in sorted(entry.fields, key=lambda key: _ORDER.get(key, len(_ORDER))):
        value = entry.fields[key]
        if key in _ELSEWHERE or value in (None, "", [], {}):
            continue
        first, *more = lines_of(_SHOWN.get(key, lambda value, key=key: f"{key} {_plain(value)}")(value)) or [""]
        parts.append(f"{first} …" if more else first)
        if more:
            texts.append((key, _plain(value)))
    who = _people(entry.fields.get("by"))
    if "decision" in entry.fields or entry.event == "approval-counted":
        parts.insert(0, f"{entry.fields.get('decision', 'approved')} by {who}")
    elif who and entry.event in ("approval-asked", "asked", "call-held", "budget-reached"):
        parts.append(f"asks {who}")
    elif who and who != entry.actor:
        parts.append(f"by {who}")
    if entry.fields.get("report") and isinstance(attempt := entry.fields.get("attempt"), int):
        parts.append(f"findings in {paths.folder(protocol)}/{paths.report_file(entry.subject, attempt)}")
    evidence = entry.fields.get("evidence")
    checks = tuple(_check(one) for one in evidence if isinstance(one, dict)) if isinstance(evidence, list) else ()
    failed = entry.event in ("step-failed", "step-blocked")
    return Account(
        tuple(filter(None, parts)), checks, tuple(texts), str(entry.fields.get("tail") or "") if failed else ""
    )


def _check(found: Mapping[str, Any]) -> Check:
    passed = found.get("code") == 0
    took = describe.duration(_count(found.get("seconds")))
    outcome, tail = ("passed", "") if passed else (f"exit {found.get('code')}", str(found.get("tail") or ""))
    return Check(str(found.get("check")), passed, outcome, took, tail)


def _count(value: Json) -> int:
    """Return a number of the log; 0 for anything else: nobody validated the entry, which may be forged."""
    return value if isinstance(value, int) else 0


def _plain(value: Json) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return _HASH.sub(r"\1", text)


def _commit(label: str) -> Callable[[Json], str]:
    return lambda value: f"{label} {str(value)[:7]}"


def _names(label: str) -> Callable[[Json], str]:
    """Return what names the entries of a list, or the keys of a mapping, after a label."""
    return lambda value: f"{label} {', '.join(map(str, value))}" if isinstance(value, list | dict) else str(value)


def _steps(value: Json) -> str:
    """Return what names the steps of a plan, in its order; those of an undo have no place."""
    rows = value if isinstance(value, dict) else {}
    places = {slug: step.get("place") if isinstance(step, dict) else None for slug, step in rows.items()}
    ordered = sorted(places, key=lambda slug: place if isinstance(place := places[slug], int) else 0)
    return f"steps {', '.join(ordered)}"


def _spent(value: Json) -> str:
    cost = value if isinstance(value, dict) else {}
    counts = [(_count(cost.get("input_tokens")), "in"), (_count(cost.get("output_tokens")), "out")]
    tokens = ", ".join(f"{count:,} tokens {way}" for count, way in counts if count)
    shown = describe.spent({"spent": {**cost, "seconds": _count(cost.get("seconds"))}})
    return " · ".join(filter(None, (shown, tokens)))


def _reviews(value: Json) -> str:
    rows = [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
    named = (f"user {one.get('user')} of {one.get('host')} on request {one.get('request')}" for one in rows)
    return f"reviews: {', '.join(named)}"


def _artifacts(value: Json) -> str:
    """Return the artifacts that a step made, or the ids of those that an undo drops."""
    rows = value if isinstance(value, list) else []
    made = [str(one.get("path")) for one in rows if isinstance(one, dict)]
    return f"made {', '.join(made)}" if made else f"without {', '.join(map(str, rows))}"


def _people(by: Json) -> str:
    return ", ".join(map(str, by)) if isinstance(by, list) else str(by or "")


# How a field is shown, in the order of a line.
_SHOWN: Final[Mapping[str, Callable[[Json], str]]] = {
    "title": str,
    "attempt": lambda value: f"attempt {value}",
    "spent": _spent,
    "wait": str,
    "call": str,
    "tool": str,
    "reason": str,
    "text": str,
    "happened": lambda value: "it happened" if value is True else "it did not happen",
    "change": str,
    "to": lambda value: f"to revision {value}",
    "status": lambda value: f"status {value}",
    "outcome": str,
    "context": str,
    "url": str,
    "base": lambda value: f"base {value}",
    "start": _commit("from"),
    "tests": str,
    "commit": _commit("commit"),
    "commits": lambda value: f"commits {', '.join(str(one)[:7] for one in value)}" if isinstance(value, list) else "",
    "kept": _commit("kept at"),
    "source": lambda value: f"from {value}",
    "steps": _steps,
    "removed": _names("removed"),
    "dropped": _names("no longer asked"),
    "done": _names("already done:"),
    "artifacts": _artifacts,
    "result": lambda value: f"result {_plain(value)}",
    "reviews": _reviews,
    "engine": str,
    "executor": str,
    "environment": lambda value: f"with {value}",
}
_ORDER: Final = {key: number for number, key in enumerate(_SHOWN)}
# Fields that are part of another one's text, and digests of what `show` and git have.
_ELSEWHERE: Final = {
    *("approvals", "at", "by", "code", "decision", "digest", "evidence", "genesis", "kind", "nonce", "output", "plan"),
    *("report", "tail", "transcript", "tree"),
}
