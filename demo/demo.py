"""The demo: a protocol runs from a title to merged work in a small project, by the commands that people type (`story.py`).

`make demo` runs this. It promises to show real output only, to leave nothing behind but on `--keep`, and to exit non-zero
where anything is not as it should be. It needs the `runner` command beside this Python, git and make; no key and no network.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

import story
from terminal import Failed, Terminal, choose_executor, say, tell


def main() -> int:
    """Run the demo; return its exit code."""
    parser = argparse.ArgumentParser(description="Run a protocol from a title to merged work in a temporary folder.")
    parser.add_argument("--keep", action="store_true", help="leave the folder there, and say where it is")
    keep = parser.parse_args().keep
    began = time.monotonic()
    root = Path(tempfile.mkdtemp(prefix="protocol-runner-demo-")).resolve()
    term = Terminal(root / "home")
    try:
        choose_executor(term)
        story.play(term, root)
    except Failed as error:
        say(f"\nthe demo failed: {error}")
        return 1
    finally:
        if keep:
            say(f"\nThe folder is {root}; its HOME is {term.home}.")
        else:
            shutil.rmtree(root, ignore_errors=True)
    tell(f"The demo took {time.monotonic() - began:.0f} s. All of it is in git, and nothing was pushed.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
