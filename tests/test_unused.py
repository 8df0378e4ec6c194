"""A module of the runner runs when something of it is first used."""

from __future__ import annotations

import importlib
import inspect
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest

import runner

SLOW = """\
import time
from runner.made import count
count.append(1)
time.sleep(0.1)
last = count
"""


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose modules are the runner's too, until the test is over."""
    monkeypatch.setattr(runner, "__path__", [*runner.__path__, str(tmp_path)])
    for name in ("made", "slow"):
        monkeypatch.delitem(sys.modules, f"runner.{name}", raising=False)
        monkeypatch.delattr(runner, name, raising=False)
    (tmp_path / "made.py").write_text("count = []\n")
    return tmp_path


def load(name: str) -> ModuleType:
    importlib.invalidate_caches()
    return importlib.import_module(f"runner.{name}")


def test_a_module_runs_once_whatever_threads_use_it_first(made: Path) -> None:
    (made / "slow.py").write_text(SLOW)
    slow, count = load("slow"), load("made").count
    assert type(slow) is runner.Unused and not count
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(slow.last)) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert found == [count] * 4 and count == [1] and type(slow) is ModuleType
    assert sys.modules["runner.slow"] is slow is runner.slow  # type: ignore[attr-defined]


def test_a_thread_uses_nothing_of_a_module_that_another_one_is_running(made: Path) -> None:
    (made / "slow.py").write_text("import time\n\ndef early():\n    return late\n\ntime.sleep(0.3)\nlate = 3\n")
    slow = load("slow")
    first = threading.Thread(target=lambda: slow.late)
    first.start()
    while not vars(slow).get("early"):
        assert first.is_alive()
    assert slow.early() == 3
    first.join()


def test_tools_find_the_source_of_a_module_that_did_not_run(made: Path) -> None:
    (made / "slow.py").write_text("raise AssertionError\n")
    slow = load("slow")
    assert inspect.getsource(slow) == "raise AssertionError\n" and not hasattr(slow, "__path__")
    assert slow.__file__ == str(made / "slow.py") and slow.__name__ == "runner.slow"


def test_what_is_set_in_a_module_stays_as_it_runs(made: Path) -> None:
    (made / "slow.py").write_text("value = 1\nother = 2\n")
    slow = load("slow")
    slow.value = 7  # type: ignore[attr-defined]
    assert (slow.value, slow.other) == (7, 2)


def test_a_process_that_lasts_runs_all_that_it_imported(made: Path) -> None:
    (made / "slow.py").write_text("from runner import made\n\ndef value():\n    return made.count\n")
    slow = load("slow")
    runner.run_all()
    assert type(slow) is ModuleType is type(sys.modules["runner.made"])
    assert not [name for name, one in sys.modules.items() if type(one) is runner.Unused]


def test_a_module_that_fails_fails_at_each_use(made: Path) -> None:
    (made / "slow.py").write_text("from runner.made import gone\nname = gone\n")
    slow = load("slow")
    for _ in range(2):
        with pytest.raises(ImportError, match="gone"):
            _ = slow.name
    load("made").gone = 7  # type: ignore[attr-defined]
    assert slow.name == 7
    with pytest.raises(AttributeError, match=r"module 'runner\.slow' has no attribute 'other'"):
        _ = slow.other
