"""Run once more, alone and one after the other, the few tests that failed in CI: `python -m tests.again PYTEST-OPTIONS`.

A test that fails among thousands on a busy machine and passes by itself depends on time. That is a defect, of the test or of what it
tests, and it is named here; but it is no reason to refuse a change that has nothing to do with it. More than `MOST` failures, or one
that fails again, are.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST = 3


def failed(root: Path) -> list[str]:
    """Return the tests that failed in the last run of pytest in a checkout; none where it ended otherwise."""
    try:
        return sorted(json.loads((root / ".pytest_cache/v/cache/lastfailed").read_bytes()))
    except FileNotFoundError:
        return []


def main(options: list[str], root: Path = ROOT) -> int:
    """Return the exit code: 0 where each of a few failed tests passes by itself."""
    names = failed(root)
    if not 0 < len(names) <= MOST:
        return 1
    print("== failed once; again, alone: " + " ".join(names), flush=True)
    if code := subprocess.run([sys.executable, "-m", "pytest", "-n", "0", *options, *names], cwd=root).returncode:
        return code
    print("warning: depends on time, and has to be mended: " + " ".join(names), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
