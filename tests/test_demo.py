"""The demo's second half: the same recording answers in any folder, in sandbox and on host, with the base install alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLAY = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import story
from terminal import Terminal
root = Path(sys.argv[2]).resolve()
(root / "home").mkdir(parents=True)
term = Terminal(root / "home")
term.env["RUNNER_EXECUTOR"] = sys.argv[3]
for setting in (("user.name", "Alice"), ("user.email", "alice@example.test"), ("init.defaultBranch", "main")):
    term.run("git", "config", "--global", *setting, hide=True)
story.play(term, root)
"""


def sandbox() -> bool:
    """Return whether bubblewrap works here."""
    argv = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"]
    return shutil.which("bwrap") is not None and subprocess.run(argv, capture_output=True).returncode == 0


@pytest.mark.parametrize(("executor", "folder"), [("host", "a"), ("sandbox", "another/folder")])
def test_the_story_needs_neither_sdk_nor_prices_nor_a_certain_folder(
    tmp_path: Path, executor: str, folder: str
) -> None:
    if executor == "sandbox" and not sandbox():
        pytest.skip("allowed: bubblewrap does not work here")
    bare = tmp_path / "bare"
    for name in ("google", "genai_prices", "httpx", "httpx2"):  # as if the extras were not installed
        (bare / name).mkdir(parents=True)
        (bare / name / "__init__.py").write_text(f"raise ModuleNotFoundError('No module named {name}')\n")
    done = subprocess.run(
        [sys.executable, "-c", PLAY, str(ROOT / "demo"), str(tmp_path / folder), executor],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(bare), str(ROOT)])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "merged in" in done.stdout
    assert "$0" not in done.stdout  # what nobody knows the price of is not said to cost nothing


def test_the_recording_is_what_the_script_makes(tmp_path: Path) -> None:
    if not sandbox():
        pytest.skip("allowed: bubblewrap does not work here")
    made = tmp_path / "made.jsonl"
    done = subprocess.run(
        [sys.executable, str(ROOT / "demo/record.py"), str(made)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert made.read_bytes() == (ROOT / "demo/cassettes/median.jsonl").read_bytes(), "run `make cassettes`"
