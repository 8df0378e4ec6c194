"""What CI makes of a test that fails once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import again

ONCE = """
import subprocess
import sys
from pathlib import Path
def test_it():
    there = Path(__file__).with_suffix(".ran")
    was = there.exists()
    there.touch()
    assert was
"""


@pytest.mark.parametrize(
    ("sources", "code"),
    [
        (["def test_it(): pass\n"], 1),  # it did not end for a failed test
        ([ONCE], 0),
        ([ONCE, "def test_it(): assert False\n"], 1),
        ([ONCE] * (again.MOST + 1), 1),
    ],
)
def test_a_few_tests_that_failed_are_tried_again(tmp_path: Path, sources: list[str], code: int) -> None:
    for number, source in enumerate(sources):
        (tmp_path / f"test_{number}.py").write_text(source)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    run = [sys.executable, "-m", "pytest", "-q", "--cache-clear"]
    subprocess.run(run, cwd=tmp_path, capture_output=True)
    assert again.main([], tmp_path) == code
