"""Choose what is tried of suites that are too large for every change.

A window moves with the commit, so that a few changes together try the whole; `make nightly` (RUNNER_WHOLE=1) tries all of it at once.
RUNNER_TURN=NUMBER moves the windows by that number instead, to try again what another commit tried. A test that is named is run
whether it is its turn or not.

Of a test of which some cases are not slow, and stand for all in `make test`, a third of the slow ones is tried.

`make test` tries a third of the tests that take longest, by the same turn: those in tests/long.txt, which
`make test UPDATE_LONG=1` writes anew. CI tries all of them.

`python -m tests.gate SUITE` prints whether a suite that tests programs of others is due, and why, and exits with 3 where it is not. It
is due unless a commit is known that passed (RUNNER_PASSED, else `refs/ci/passed`, which whoever runs CI may set on the remote), HEAD
descends from it, and nothing changed since in the suite's folders nor in what their Python files import. `python -m tests.gate tasks`
prints which tasks other people's agents do at this commit.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.agent.tasks import TASKS

ROOT = Path(__file__).parents[1]
WHOLE = os.environ.get("RUNNER_WHOLE") == "1"
PASSED = "refs/ci/passed"
NOT_DUE = 3
OF_ALL = ("Makefile", "pyproject.toml", ".ci", "tests/conftest.py", "tests/gate.py")
SUITES = {
    "forge": ("tests/forge", "tests/ci", "tests/docs/test_forge_pages.py", "runner/forge", "templates", "scripts/ci",
              ".github", ".gitlab", ".gitlab-ci.yml", "docs/github.md", "docs/gitlab.md", "docs/ci.md", "demo", "tests/test_demo.py"),
    "containers": ("runner/sandbox", "tests/sandbox", "tests/cli/test_container.py", "runner/executor/environments.py",
                   "runner/executor/workspace_session.py"),
    "peers": ("tests/peers", "benchmarks/peers", "benchmarks/agent", "runner/engines"),
}  # fmt: skip
LONG_FILE = Path(__file__).with_name("long.txt")
LONG_SECONDS, LONG_PARTS = 0.4, 3
AGREEMENT_PARTS = 2  # of the tests after which the two verifiers are compared
FURTHER_PARTS = 3  # of the slow cases of a test that has others
OURS = ("runner", "tests", "benchmarks", "demo")


@functools.cache
def turn() -> int:
    """Return the number that windows move by: the first 32 bits of the commit's hash, 0 outside a repository."""
    if given := os.environ.get("RUNNER_TURN"):
        return int(given)
    done = subprocess.run(["git", "rev-parse", "--verify", "-q", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return int(done.stdout[:8], 16) if done.returncode == 0 else 0


def is_due(name: str, parts: int = 5) -> bool:
    """Return whether one of many cases is tried this time: one of `parts` is, and all are at night."""
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])
    return WHOLE or (number + turn()) % parts == 0


def tasks() -> list[str]:
    """Return the tasks that other people's agents do: the first always, and another by the commit; all at night."""
    first, *others = (task.name for task in TASKS)
    return [first, *others] if WHOLE else [first, others[turn() % len(others)]]


@functools.cache
def long_tests() -> frozenset[str]:
    """Return the tests that take longest: FILE::FUNCTION each, whatever its parameters."""
    return frozenset(LONG_FILE.read_text("utf-8").split())


def write_long_tests(seconds: Mapping[str, float]) -> None:
    """Write which tests take longest. `seconds`: of each test, by its node id."""
    found = {name.partition("[")[0] for name, took in seconds.items() if took >= LONG_SECONDS}
    LONG_FILE.write_text("".join(f"{name}\n" for name in sorted(found)), "utf-8")


def why_due(suite: str, root: Path = ROOT) -> str:
    """Return why a suite is due at HEAD of a checkout, or nothing where it is not."""
    if WHOLE:
        return "everything is tried at night"
    passed = _passed(root)
    if passed is None:
        return "no commit is known that passed"
    if _git(root, "merge-base", "--is-ancestor", passed, "HEAD") is None:
        return f"{passed[:12]}, which passed, is not in the history of HEAD, or not in this clone"
    changed = _git(root, "diff", "--name-only", "--no-renames", "-z", passed, "HEAD")
    if changed is None:
        return f"git cannot compare HEAD with {passed[:12]}, which passed"
    parts = {*OF_ALL, *SUITES[suite], *_imported(root, SUITES[suite])}
    for path in changed.split("\0")[:-1]:
        if any(path == part or path.startswith(f"{part}/") for part in parts):
            return f"{path} changed since {passed[:12]}, which passed"
    return ""


def _passed(root: Path) -> str | None:
    """Return the commit that is known to have passed, in full."""
    given = os.environ.get("RUNNER_PASSED") or PASSED
    found = _git(root, "rev-parse", "--verify", "-q", "--end-of-options", f"{given}^{{commit}}")
    if found is None and given == PASSED and _git(root, "fetch", "-q", "origin", PASSED) is not None:
        found = _git(root, "rev-parse", "--verify", "-q", "FETCH_HEAD^{commit}")
    return found.strip() if found else None


def _git(root: Path, *args: str) -> str | None:
    """Run git and return what it printed; None where it failed or took too long."""
    env = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(
            ["git", *args], cwd=root, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _imported(root: Path, places: tuple[str, ...]) -> set[str]:
    """Return our files that the Python files in these places import; of what tests import, what that imports too."""
    seen: set[Path] = set()
    todo = [file for place in places for file in [root / place, *sorted((root / place).rglob("*.py"))]]
    first = {file for file in todo if file.suffix == ".py" and file.is_file()}
    todo = list(first)
    while todo:
        file = todo.pop()
        seen.add(file)
        if file in first or file.is_relative_to(root / "tests"):
            todo += [found for found in _imports(root, file) if found not in seen]
    return {str(file.relative_to(root)) for file in seen}


def _imports(root: Path, file: Path) -> Iterator[Path]:
    """Return our files that a Python file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        names = []
        if isinstance(node, ast.Import):
            names = [one.name for one in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = file.relative_to(root).parts[: -node.level] if node.level else ()
            module = ".".join([*package, *([node.module] if node.module else [])])
            names = [f"{module}.{one.name}" for one in node.names]
        for name in names:
            parts = name.split(".")
            for count in range(len(parts), 0, -1):
                at = root.joinpath(*parts[:count])
                yield from (
                    one for one in (at.with_suffix(".py"), at / "__init__.py") if parts[0] in OURS and one.is_file()
                )


if __name__ == "__main__":
    if sys.argv[1:] == ["tasks"]:
        print(*tasks())
        sys.exit(0)
    reason = why_due(sys.argv[1])
    print(f"{sys.argv[1]}: {f'due, {reason}' if reason else 'not due, nothing of it changed since it passed'}")
    sys.exit(0 if reason else NOT_DUE)
