"""docs/audit.png: what `runner audit` makes of the demo's protocol, as Chromium shows it; nobody draws it.

`python demo/page.py CHROMIUM FILE` plays the demo and takes the picture of the page's beginning.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import story
from terminal import Terminal, choose_executor

SIZE = "1000,1300"


def main() -> None:
    """Make the picture."""
    chromium, target = sys.argv[1], Path(sys.argv[2]).resolve()
    root = Path(tempfile.mkdtemp(prefix="protocol-runner-demo-")).resolve()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            term = Terminal(root / "home")
            choose_executor(term)
            story.play(term, root)
        page = root / "page.html"
        term.run("runner", "audit", "1", "-o", str(page), hide=True)
        subprocess.run(
            [
                chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={root / 'profile'}",
                "--hide-scrollbars", f"--window-size={SIZE}", f"--screenshot={target}", page.as_uri(),
            ],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
