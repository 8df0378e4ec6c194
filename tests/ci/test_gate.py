"""What the gate tries of suites that are too large for every change moves with the commit, and a few commits try all of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.agent.tasks import TASKS
from tests import gate
from tests.conftest import Box
from tests.simulation import seeds


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Make the gate think that it judges a commit whose hash gives this number."""
    monkeypatch.setattr(gate, "WHOLE", False)

    def move(number: int) -> None:
        monkeypatch.setenv("RUNNER_TURN", str(number))
        gate.turn.cache_clear()

    yield move
    gate.turn.cache_clear()


def test_the_windows_move_with_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNNER_TURN", raising=False)
    gate.turn.cache_clear()
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=gate.ROOT, capture_output=True, text=True).stdout
    assert gate.turn() == int(head[:8] or "0", 16)


def test_five_commits_in_turn_try_each_case_once(at: Callable[[int], None]) -> None:
    names = [f"case-{number}" for number in range(500)]
    tried = []
    for number in range(7, 12):
        at(number)
        due = [name for name in names if gate.is_due(name)]
        assert 60 < len(due) < 140
        tried += due
    assert sorted(tried) == sorted(names)


def test_at_night_every_case_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "WHOLE", True)
    assert all(gate.is_due(f"case-{number}") for number in range(50))


def test_the_window_of_seeds_is_the_commit_s_own(at: Callable[[int], None]) -> None:
    at(5000)
    assert seeds.window() == "5000..5119"


def test_commits_in_turn_have_agents_do_each_task_and_the_first_always(
    at: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [task.name for task in TASKS]
    tried = []
    for number in range(len(names) - 1):
        at(number)
        first, other = gate.tasks()
        assert first == names[0]
        tried.append(other)
    assert sorted(tried) == sorted(names[1:])
    monkeypatch.setattr(gate, "WHOLE", True)
    assert gate.tasks() == names


# --- suites that test programs of others ------------------------------------------------------------------------------------


@pytest.fixture
def checkout(box: Box, monkeypatch: pytest.MonkeyPatch) -> Box:
    """A checkout with a suite, what that imports, what this imports, and another room; its first commit passed."""
    for name in ("RUNNER_PASSED", "RUNNER_WHOLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(gate, "WHOLE", False)
    box.write("tests/forge/test_it.py", "from runner.store import leases\nfrom tests import people\n")
    box.write("tests/people.py", "def person():\n    import runner.protocol.names\n")
    box.write("runner/store/leases.py", "import runner.git\n")
    for path in ("runner/store/__init__.py", "runner/protocol/names.py", "runner/git.py", "runner/other.py"):
        box.write(path, "")
    box.write("templates/init/a.yml", "a: 1\n")
    box.commit("all of it")
    box.git("update-ref", "refs/ci/passed", "HEAD")
    return box


def test_where_nobody_knows_what_passed_the_suite_is_due(checkout: Box) -> None:
    checkout.git("update-ref", "-d", "refs/ci/passed")
    assert gate.why_due("forge", checkout.path) == "no commit is known that passed"


def test_where_nothing_of_it_changed_the_suite_is_not_due(checkout: Box) -> None:
    checkout.write("runner/other.py", "changed = 1\n")
    checkout.commit()
    assert gate.why_due("forge", checkout.path) == ""


@pytest.mark.parametrize(
    "path",
    [
        "tests/forge/package.json", "templates/init/a.yml", "runner/forge/new.py", "runner/store/leases.py", "tests/people.py",
        "runner/store/__init__.py", "runner/protocol/names.py", "Makefile", ".ci/run", "templates/init/\u00fc b.yml",
    ],
)  # fmt: skip
def test_what_belongs_to_the_suite_or_is_imported_by_it_makes_it_due(checkout: Box, path: str) -> None:
    checkout.write(path, "changed = 1\n")
    checkout.commit()
    assert gate.why_due("forge", checkout.path).startswith(f"{path} changed since ")


def test_a_file_of_the_suite_that_is_gone_or_was_moved_away_makes_it_due(checkout: Box) -> None:
    checkout.git("mv", "templates/init/a.yml", "elsewhere.yml")
    checkout.commit()
    assert gate.why_due("forge", checkout.path).startswith("templates/init/a.yml changed")


def test_what_passed_must_be_in_the_history_of_this_commit(checkout: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    there = checkout.commit("passed, and was taken back")
    checkout.git("reset", "-q", "--hard", "HEAD~1")
    monkeypatch.setenv("RUNNER_PASSED", there)
    assert "is not in the history of HEAD" in gate.why_due("forge", checkout.path)
    monkeypatch.setenv("RUNNER_PASSED", "0" * 40)
    assert gate.why_due("forge", checkout.path) == "no commit is known that passed"


def test_what_passed_is_fetched_from_the_remote(remote: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNNER_PASSED", raising=False)
    remote.git("push", "-q", "origin", "HEAD:refs/ci/passed")
    fresh = tmp_path / "fresh"
    remote.git("clone", "-q", tmp_path / "origin.git", fresh)
    assert gate.why_due("forge", fresh) == ""


def test_at_night_it_is_due(checkout: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "WHOLE", True)
    assert gate.why_due("forge", checkout.path) == "everything is tried at night"


def test_the_exit_code_tells_not_due_from_a_script_that_failed() -> None:
    def asked(suite: str, passed: str) -> tuple[int, str]:
        env = {**os.environ, "RUNNER_PASSED": passed, "RUNNER_WHOLE": ""}
        done = subprocess.run(
            [sys.executable, "-m", "tests.gate", suite], cwd=gate.ROOT, env=env, capture_output=True, text=True
        )
        return done.returncode, done.stdout

    assert asked("forge", "HEAD") == (3, "forge: not due, nothing of it changed since it passed\n")
    assert asked("peers", "0" * 40) == (0, "peers: due, no commit is known that passed\n")
    assert asked("nonsense", "HEAD")[0] == 1


def test_three_commits_in_turn_try_the_tests_that_take_longest(at: Callable[[int], None]) -> None:
    tried = []
    for number in range(3):
        at(number)
        tried += [name for name in gate.long_tests() if gate.is_due(name, gate.LONG_PARTS)]
    assert sorted(tried) == sorted(gate.long_tests())


def test_what_takes_longest_is_written_by_function_and_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in gate.long_tests():
        file, _, function = name.partition("::")
        assert f"def {function}(" in (gate.ROOT / file).read_text("utf-8"), (
            f"{name} is no test: `make test UPDATE_LONG=1`"
        )
    monkeypatch.setattr(gate, "LONG_FILE", tmp_path / "long.txt")
    gate.write_long_tests({"b.py::test_b[1]": 0.5, "b.py::test_b[2]": 0.6, "a.py::test_a": 3.0, "a.py::test_c": 0.1})
    assert gate.LONG_FILE.read_text() == "a.py::test_a\nb.py::test_b\n"


# --- what is sampled of the tests themselves --------------------------------------------------------------------------------

SAMPLED = """
import pytest
SLOW = pytest.mark.slow
@pytest.mark.parametrize("case", ["first", *(pytest.param(number, marks=SLOW) for number in range(12))])
def test_further(case): assert case == "first"
@SLOW
@pytest.mark.window(2)
@pytest.mark.parametrize("case", range(12))
def test_window(case): pass
@SLOW
@pytest.mark.parametrize("case", range(12))
def test_slow(case): pass
"""


def ran(folder: Path, *args: str, turn: int = 0, whole: str = "") -> tuple[list[str], str]:
    """Run a file with tests of each kind at a commit; return the tests that ran, and what pytest printed."""
    (folder / "test_it.py").write_text(SAMPLED)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = slow\n")
    argv = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-c", str(folder / "pytest.ini"), "-v", "-n", "0"]
    done = subprocess.run(
        [*argv, *(str(folder / arg) for arg in args or ("test_it.py",))],
        cwd=gate.ROOT,
        env={**os.environ, "RUNNER_TURN": str(turn), "RUNNER_WHOLE": whole, "PYTEST_ADDOPTS": "-p no:cacheprovider"},
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return [
        line.split(" ")[0].partition("::")[2] for line in done.stdout.split("\n") if line.endswith("%]")
    ], done.stdout


@pytest.mark.slow
def test_of_slow_cases_beside_others_commits_in_turn_try_all_and_those_beside_them_always(tmp_path: Path) -> None:
    at = [ran(tmp_path, turn=number)[0] for number in range(gate.FURTHER_PARTS)]
    further = sorted(name for tried in at for name in tried if name.startswith("test_further[") and "first" not in name)
    assert further == sorted(f"test_further[{number}]" for number in range(12))
    for tried in at:
        assert "test_further[first]" in tried
        assert [name for name in tried if name.startswith("test_slow[")] == [f"test_slow[{n}]" for n in range(12)]
    windows = sorted(name for tried in at[:2] for name in tried if name.startswith("test_window["))
    assert windows == sorted(f"test_window[{number}]" for number in range(12))
    assert len(ran(tmp_path, whole="1")[0]) == 37


def test_what_is_named_runs_whatever_the_commit_and_what_failed_is_printed_so(
    tmp_path: Path, at: Callable[[int], None]
) -> None:
    name, turn = "test_it.py::test_further[3]", 0
    at(turn)
    while gate.is_due(name, gate.FURTHER_PARTS):
        at(turn := turn + 1)
    tried, out = ran(tmp_path, name, turn=turn)
    assert tried == ["test_further[3]"] and f"this was RUNNER_TURN={turn}" in out
    assert f".venv/bin/python -m pytest -m '' '{name}'" in out
