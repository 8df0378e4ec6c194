"""How the project's test command ends before any change: noted in the person's own state, so that `new` and `do` can say it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from runner.errors import WaitingError
from runner.lines import counted
from runner.store.environment import write_atomically
from runner.store.project import Project
from runner.values import dataclass


@dataclass(frozen=True, slots=True)
class Tried:
    """How a candidate ended. `ran`: the tests that ran, None where the output does not say; `failed`: those that failed, None where
    the output does not say how many; `lacks`: why it is no check here, else empty; `code`: its exit code."""

    line: str
    source: str
    passed: bool
    ran: int | None
    failed: int | None
    lacks: str
    code: int

    def text(self) -> str:
        """Return the outcome, for people: `120 tests passed`, `3 of 120 tests fail`."""
        if self.lacks:
            return self.lacks
        tests = counted(self.ran, "test") if self.ran is not None else "tests"
        if self.passed:
            return f"{tests} passed" if self.ran is not None else "passed; its output does not say how many tests ran"
        if self.failed == 0:
            return f"{tests} passed, and it ends with exit {self.code}"
        return f"{self.failed} of {tests} fail{'s' if self.failed == 1 else ''}"


def note(project: Project, commit: str, one: Tried) -> None:
    """Note the outcome of a test command on a commit, in the person's own state."""
    outcome = {"passed": one.passed, "ran": one.ran, "failed": one.failed, "code": one.code}
    told = {"commit": commit, "line": one.line, **outcome}
    file = project.dirs.own / "tests.json"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(told, indent=2).encode() + b"\n")
    except OSError:
        return


def noted(project: Project, commit: str) -> Tried | None:
    """Return the noted outcome of the test command on a commit, or on one with the same code; None if there is none."""
    try:
        told: Mapping[str, Any] = json.loads((project.dirs.own / "tests.json").read_bytes())
        one = Tried(told["line"], "", told["passed"] is True, told["ran"], told["failed"], "", told["code"])
        known = str(told["commit"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    git = project.git
    if git.commit(known) is None or git.commit(commit) is None:
        return None
    ours = (".protocols/", "scripts/ci/", ".github/", ".gitlab")  # what `init` adds
    return one if all(path.startswith(ours) for path in git.changed(known, commit)) else None


def failed(project: Project, line: str) -> bool:
    """Return whether a command was noted last, and failed then, on whatever commit."""
    try:
        told: Mapping[str, Any] = json.loads((project.dirs.own / "tests.json").read_bytes())
        return told["line"] == line and told["passed"] is False
    except (OSError, ValueError, KeyError, TypeError):
        return False


def failing(project: Project, start: str) -> Tried | None:
    """Return how the default check failed before any change, if that is noted of the commit that work starts at."""
    one = noted(project, start) if project.config.checks else None
    return one if one and not one.passed and one.line in project.config.checks else None


def tell_failing(project: Project, branch: str, start: str) -> None:
    """Print how many tests fail before any change, if that is noted; ask the person at a terminal whether to start all the same.

    Raises:
        WaitingError: they do not want that.
    """
    if one := failing(project, start):
        text = f"{one.text()} on {branch} already (`{one.line}`, tried at {start[:7]})"
        project.env.say(text)
        if project.env.ask("start all the same?", ("yes", "no")) == "no":
            raise WaitingError(
                f"nothing was made: {text}",
                f"{branch}, {start[:7]}",
                "fix the tests, or remove the command from `checks:`",
            )
