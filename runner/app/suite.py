"""Find the project's test command in its files, and try it on a commit, as a step's check would run, before any change.

How it ends is noted in the person's own state, so that `new` and `do` can say it.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner import qa
from runner.errors import WaitingError
from runner.executor import workspace_session
from runner.git import Git
from runner.lines import counted, lines_of, lines_of_output
from runner.protocol import log
from runner.sandbox import process
from runner.store import locks, lookup, record
from runner.store import workspace as workspaces
from runner.store.environment import write_atomically
from runner.store.project import Project, Session

LIMIT = 600.0  # seconds that all candidates have
MOST = 12  # candidates


@dataclass(frozen=True, slots=True)
class Tried:
    """How a candidate ended. `ran`: the tests that ran, None where the output does not say; `failed`: those that failed, None where
    the output does not say how many; `lacks`: why it is no check here, else empty; `code`: its exit code; `cause`: what is missing in
    the environment where tests fail, if their output names it."""

    line: str
    source: str
    passed: bool
    ran: int | None
    failed: int | None
    lacks: str
    code: int
    cause: str = ""

    def text(self, where: str = "") -> str:
        """Return the outcome, for people: `120 tests passed`, `3 of 120 tests fail`. `where`: ` on main`."""
        if self.lacks:
            return self.lacks
        tests = counted(self.ran, "test") if self.ran is not None else "tests"
        if self.passed:
            unknown = "" if self.ran is not None else "; its output does not say how many tests ran"
            return f"{tests if self.ran is not None else ''} passed{where}{unknown}".lstrip()
        if self.failed == 0:
            return f"{tests} passed{where}, and it ends with exit {self.code}"
        fail = f"{self.failed} of {tests} fail{'s' if self.failed == 1 else ''}{where}"
        return f"{fail}: {self.cause}" if self.cause else fail


@dataclass(frozen=True, slots=True)
class Candidate:
    """A line of shell that may run the tests. `source`: the file that suggests it."""

    line: str
    source: str


# --- candidates -------------------------------------------------------------------------------------------------------


def candidates(git: Git, commit: str, answers: Iterable[str] = ()) -> list[Candidate]:
    """Return the commands that may run the tests of a commit: `answers` and the project's scripts first, then those of its stack, then
    those of its CI."""
    found = [Candidate(line, "clarifications.yaml") for line in answers]
    found += _suggested(git, commit, list(git.files(commit)))
    return list({one.line: one for one in reversed(found)}.values())[::-1][:MOST]


def _suggested(git: Git, commit: str, files: Sequence[str]) -> Iterator[Candidate]:
    def text(path: str) -> str:
        return (git.blob(f"{commit}:{path}") or b"").decode("utf-8", "replace") if path in there else ""

    there, tests = set(files), qa.touched_by(path for path in files if path.endswith(".py")).tests
    targets = re.findall(r"^(test|check)[ \t]*:(?!=)", text("Makefile"), re.MULTILINE)
    if targets:
        yield Candidate(f"make {max(targets)}", "Makefile")  # `check` may only lint
    if _script(text("package.json")):
        manager = next((name for lock, name in _LOCKS.items() if lock in there), "npm")
        yield Candidate(f"{manager} test", "package.json")
    if "scripts/ci/test.sh" in there:
        yield Candidate("scripts/ci/test.sh", "scripts/ci/test.sh")
    if tests:
        named = next((name for name in _PYTHON if name in there), "the tests")
        yield Candidate("python3 -m pytest", named)
        if "manage.py" in there:
            yield Candidate("python3 manage.py test", "manage.py")
        yield Candidate("python3 -m unittest discover", named)
        if any(path.startswith("tests/") for path in tests) and "tests/__init__.py" not in there:
            yield Candidate("python3 -m unittest discover -s tests", named)
    for name, line in _OTHERS.items():
        if name in there:
            yield Candidate(line, name)
    for path in files:
        if path in ("tox.ini", "setup.cfg", ".gitlab-ci.yml") or re.fullmatch(r"\.github/workflows/[^/]+\.ya?ml", path):
            for line in _lines(text(path)):
                yield Candidate(line, path)


_LOCKS = {"pnpm-lock.yaml": "pnpm", "yarn.lock": "yarn", "bun.lock": "bun run", "bun.lockb": "bun run"}
_PYTHON = ("pyproject.toml", "setup.cfg", "tox.ini", "noxfile.py", "setup.py", "requirements.txt")
_OTHERS = {
    "go.mod": "go test ./...",
    "Cargo.toml": "cargo test",
    "pom.xml": "mvn -B test",
    "build.gradle": "gradle --console=plain test",
    "build.gradle.kts": "gradle --console=plain test",
}
# A whole line of a CI file that runs tests, and needs no shell to be read.
_RUNS_TESTS = re.compile(
    r"(?:-[ ])?(?:run:[ ])?((?:(?:python3?|coverage|poetry|uv|pipenv)(?:[ ]run)?[ ](?:-m[ ])?)?(?:pytest|unittest)(?:[ ][\w./=:,-]+)*"
    r"|(?:npm|pnpm|yarn)(?:[ ]run)?[ ]test(?::\w+)?|make[ ](?:test|check)|(?:go|cargo)[ ]test(?:[ ][\w./=-]+)*)"
)


def _lines(text: str) -> Iterator[str]:
    for line in lines_of(text):
        bare = re.sub(r"\{posargs[^}]*\}|^commands *=", "", line).strip()
        if match := _RUNS_TESTS.fullmatch(bare.replace("python -m", "python3 -m")):
            yield match[1]


def _script(text: str) -> str:
    """Return the test script of a package.json; that of `npm init`, which only fails, is none."""
    try:
        found = json.loads(text)["scripts"]["test"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return found if isinstance(found, str) and "no test specified" not in found else ""


# --- trying ------------------------------------------------------------------------------------------------------------


def tried(
    session: Session, commit: str, found: Sequence[Candidate], starts: Callable[[Candidate], None]
) -> Iterator[Tried]:
    """Yield the outcome of each candidate on a clean export of the commit, up to the first that says how many tests passed.

    Raises:
        SandboxUnavailableError: commands cannot be run in a sandbox here. HeldError: another process tries some.
        StepFailedError: the workspace's setup failed.
    """
    workspace = workspace_session.WorkspaceSession.open(session, "init")
    until = session.env.monotonic() + LIMIT
    with (
        locks.hold(session.dirs.lock("init"), session.env, what="the try of test commands"),
        contextlib.ExitStack() as undo,
    ):
        undo.callback(workspaces.remove, workspace.space)
        workspace.prepare(commit)
        for one in found:
            left = until - session.env.monotonic()
            if left < 1:
                return
            starts(one)
            ended = _try(workspace, commit, one, left)
            yield ended
            if ended.passed and ended.ran and not ended.lacks:
                return


def best(ended: Sequence[Tried]) -> Tried | None:
    """Return the test command: one that says how many tests passed, else one that passed, else one whose tests fail; but not
    unittest's where they fail and pytest is missing."""
    no_pytest = any(one.lacks.startswith("pytest is not installed") for one in ended)
    # Tests that fail under unittest are likely to be those that import pytest: nothing is known of them before it is installed.
    run = [one for one in ended if not one.lacks and (one.passed or not no_pytest or "unittest" not in one.line)]
    return min(run, key=lambda one: (not one.passed, one.ran is None), default=None)


def _try(workspace: workspace_session.WorkspaceSession, commit: str, one: Candidate, left: float) -> Tried:
    kept, folder = workspace_session.KeptOutput(workspace.session.redactor), workspace.export(commit)
    env = workspace.base_environment(folder)
    ended: list[process.CommandOutcome] = []

    def execute(line: str) -> process.CommandOutcome:
        ended.append(workspace.run(line, env, timeout=left, cwd=folder, on_output=kept.take))
        return ended[0]

    result = qa.run_checks((), [one.line], files=(), changed=(), execute=execute, explain=workspace.explain)
    text = "\n".join(lines_of_output(kept.data()))
    counted = count(text)
    ran, failed, errors = (sum(counted), counted[1] + counted[2], counted[2]) if counted else (None, None, 0)
    lacks = ""
    if ended[0].timed_out:
        lacks = "it did not end in time"
    elif ran == 0:
        lacks = "it ran no test"
    elif result.passed and failed:
        lacks = f"{failed} of {ran} test{'s' if ran != 1 else ''} fail{'s' if failed == 1 else ''}, and it exits with 0"
    elif not result.passed and (ran is None or errors == ran):
        lacks = missing(text, workspace, folder) or _last(text, result.reason)
    cause = missing(text, workspace, folder) if failed and not lacks and "ModuleNotFoundError: " in text else ""
    return Tried(one.line, one.source, result.passed, ran, failed, lacks, ended[0].code, cause)


def count(text: str) -> tuple[int, int, int] | None:
    """Return how many tests passed, failed and could not be run, as the output of a known test runner says; None of another one."""
    text = re.sub(r"\d{10,}", "", text)  # no count of tests, and int() takes 4300 digits at most

    def total(pattern: str, within: str = text) -> int:
        return sum(map(int, re.findall(pattern, within, re.MULTILINE)))

    for line in _SUMMARIES:
        if ends := re.findall(line, text, re.MULTILINE):
            end = ends[-1]
            return (
                total(r"(\d+) (?:passed|xfailed|xpassed)\b", end),
                total(r"(\d+) failed\b", end),
                total(r"(\d+) errors?\b", end),
            )
    if re.search(r"^Ran \d+ tests? in ", text, re.MULTILINE):  # unittest
        failed, errors = total(r"^FAILED \((?:.*, )?failures=(\d+)"), total(r"^FAILED \(.*?errors=(\d+)")
        failed += total(r"^FAILED \(.*?unexpected successes=(\d+)")
        skipped = total(r"^(?:OK|FAILED) \(.*?skipped=(\d+)")
        return total(r"^Ran (\d+) tests? in ") - failed - errors - skipped, failed, errors
    for passing, failing in _COUNTS:
        if re.search(passing, text, re.MULTILINE):
            return total(passing), total(failing), 0
    if run := re.findall(r"Tests run: (\d+), Failures: (\d+), Errors: (\d+), Skipped: (\d+)", text):  # Maven
        ran, failed, errors, skipped = map(int, run[-1])
        return ran - failed - errors - skipped, failed, errors
    if re.search(r"^(?:ok|FAIL|\?) +\t?\S+", text, re.MULTILINE):  # Go: its packages
        good = re.findall(r"^ok\s+\S+\s(?!.*\[no tests to run\])", text, re.MULTILINE)
        return len(good), len(re.findall(r"^FAIL\s+\S+", text, re.MULTILINE)), 0
    return None


_SUMMARIES = (
    r"^=* ?(no tests ran|\d+ (?:passed|failed|errors?|skipped|deselected|xfailed|xpassed|warnings?)\b.*) in [\d.]+s\b",
    r"^Tests: +(.*\d+ total)",  # Jest
    r"^ *Tests +(.*\(\d+\))",  # Vitest
)
_COUNTS = (
    (r"^(?:#|ℹ) pass +(\d+)", r"^(?:#|ℹ) fail +(\d+)"),  # TAP, node --test
    (r"^ +(\d+) passing\b", r"^ +(\d+) failing\b"),  # Mocha
    (r"^test result: \w+\. (\d+) passed", r"^test result: .* (\d+) failed"),  # Rust
)


def missing(text: str, workspace: workspace_session.WorkspaceSession, folder: Path) -> str:
    """Return what the output says that is missing in the environment, with the environment; empty where it says nothing of that.

    `folder`: where the command ran, which has what git tracks.
    """
    own = workspace.own.folders if workspace.own is not None else {}
    if found := re.search(r"No module named '?(\w+)", text):
        where = next((name for name, at in own.items() if (at / "pyvenv.cfg").is_file()), None)
        tracked = next((name for name in (".venv", "venv") if (folder / name).is_dir()), None)
        lacks = f"git tracks {tracked}, so it is no environment" if tracked else "there is no .venv"
        return f"{found[1]} is not installed in {where or f'python3, and {lacks}'}"
    if found := re.search(r"Cannot find (?:module|package) '([^'./][^']*)'", text):
        where = "node_modules" if "node_modules" in own else "node_modules, which is not there"
        return f"{found[1]} is not installed in {where}"
    if found := re.search(r"(?m)^[\w./]+: (?:(?:line )?\d+: )?([\w./-]+): (?:command )?not found$", text):
        return f"{found[1]} is not installed{'' if own or '/' in found[1] else ', and the checkout has no .venv or node_modules'}"
    if found := re.search(r"EROFS: read-only file system, mkdir '(?:[^'\n]*/)?(node_modules/[^'\n]+)'", text):
        return (
            f"it makes {found[1]}, which is read-only in a step: run it once in the checkout, where that folder stays"
        )
    if re.search(r"Temporary failure in name resolution|Could not resolve host|ENOTFOUND|EAI_AGAIN", text):
        return "it needs the network, which a check does not have"
    return ""


# make and Node.js end with a line of their own, which says nothing of the error above it.
_LAST_WORDS = re.compile(r"make(\[\d+\])?: |Node\.js v\d")
_ERROR = re.compile(r"[\w.]*(Error|Exception)\b.*:|(npm )?error\b|fatal\b|[\w./ -]+: error: ")


def _last(text: str, reason: str) -> str:
    """Return the reason of a check, and the line of its output that says most: the last error, else the last line."""
    lines = [line.strip() for line in lines_of(text) if line.strip() and not _LAST_WORDS.match(line)]
    last = next((line for line in reversed(lines) if _ERROR.match(line)), lines[-1] if lines else "")
    return log.cut(f"{reason.partition(', `')[0]}{f': {last}' if last else ''}")


def note(project: Project, commit: str, one: Tried) -> None:
    """Note the outcome of a test command on a commit, in the person's own state."""
    outcome = {"passed": one.passed, "ran": one.ran, "failed": one.failed, "code": one.code, "cause": one.cause}
    told = {"commit": commit, "line": one.line, **outcome}
    file = project.dirs.own / "tests.json"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(told, indent=2).encode() + b"\n")
    except OSError:
        return


def noted(project: Project, commit: str) -> Tried | None:
    """Return the noted outcome of the test command on a commit, or on one with the same code; None if there is none."""
    git, (one, known) = project.git, _noted(project)
    if git.commit(known) is None or git.commit(commit) is None:
        return None
    ours = (".protocols/", "scripts/ci/", ".github/", ".gitlab")  # what `init` adds
    return one if all(path.startswith(ours) for path in git.changed(known, commit)) else None


def _noted(project: Project) -> tuple[Tried | None, str]:
    """Return what was noted last, and the commit that it was tried on."""
    try:
        told: Mapping[str, Any] = json.loads((project.dirs.own / "tests.json").read_bytes())
        cause = str(told.get("cause", ""))
        one = Tried(told["line"], "", told["passed"] is True, told["ran"], told["failed"], "", told["code"], cause)
        return one, str(told["commit"])
    except (OSError, ValueError, KeyError, TypeError):
        return None, ""


def failed(project: Project, line: str) -> bool:
    """Return whether a command was noted last, and failed then, on whatever commit."""
    one, _ = _noted(project)
    return one is not None and one.line == line and not one.passed


def failing(project: Project, start: str) -> Tried | None:
    """Return how the default check failed before any change, if that is noted of the commit that work starts at."""
    one = noted(project, start) if project.config.checks else None
    return one if one and not one.passed and one.line in project.config.checks else None


def failed_before(project: Project, protocol: str, lines: Container[str]) -> str:
    """Return how one of these checks failed where the protocol starts, if that is noted; else nothing."""
    events = record.events(project.git, protocol, lookup.tip(project, protocol))
    one = failing(project, str(events[0].fields.get("start"))) if events else None
    return one.text(" without the protocol, too") if one and one.line in lines else ""


def tell_failing(project: Project, branch: str, start: str) -> None:
    """Print how many tests fail before any change, if that is noted; ask the person at a terminal whether to start all the same.

    Raises:
        WaitingError: they do not want that.
    """
    if one := failing(project, start):
        text = f"{one.text(f' on {branch} already')} (`{one.line}`, tried at {start[:7]})"
        project.env.say(text)
        if project.env.ask("start all the same?", ("yes", "no")) == "no":
            raise WaitingError(
                f"nothing was made: {text}",
                f"{branch}, {start[:7]}",
                "fix the tests, or remove the command from `checks:`",
            )
