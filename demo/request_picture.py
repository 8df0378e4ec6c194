"""Draws a merge request's page as a reviewer sees it: `request_picture.py PAGES VIEW PICTURE.png`; `make picture-request`.

PAGES is a folder that `forge.py --pages` wrote, VIEW one of its files (`3-call`). It promises to show the very text that the runner
wrote there, and the statuses as the forge had them, rendered as forges do; the frame around them is ours. Needs Chromium, or
Chrome, and the Markdown library that comes with `rich`; nothing is fetched.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from markdown_it import MarkdownIt

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WIDTH = 960
MARKS = {"success": ("✔", "good"), "failed": ("✘", "bad"), "pending": ("●", "open")}
PAGE = """<!doctype html>
<html><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<style>
body {{ margin: 0; padding: 28px 36px; width: {inner}px; background: #fff; color: #1f2328;
  font: 16px/1.5 -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, "DejaVu Sans", sans-serif; }}
h1 {{ font-size: 26px; font-weight: 400; margin: 0 0 8px; }}
h1 span {{ color: #59636e; }}
.state {{ display: inline-block; padding: 4px 12px; border-radius: 2em; background: #59636e; color: #fff; font-size: 14px; }}
.under {{ color: #59636e; font-size: 14px; margin: 0 0 18px; }}
.box {{ border: 1px solid #d1d9e0; border-radius: 6px; margin-bottom: 16px; }}
.head {{ background: #f6f8fa; border-bottom: 1px solid #d1d9e0; border-radius: 6px 6px 0 0; padding: 8px 16px; font-size: 14px;
  color: #59636e; }}
.head b {{ color: #1f2328; }}
.text {{ padding: 4px 16px 2px; }}
h3 {{ font-size: 20px; font-weight: 600; line-height: 1.25; margin: 20px 0 12px; }}
p, ul, table, details {{ margin: 0 0 16px; }}
ul {{ padding-left: 2em; }}
code {{ font: 85% ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; background: #818b981f;
  padding: .2em .4em; border-radius: 6px; }}
h3 code {{ font-size: inherit; }}
table {{ border-collapse: collapse; }}
th, td {{ border: 1px solid #d1d9e0; padding: 6px 13px; text-align: left; }}
th {{ font-weight: 600; }}
tr:nth-child(even) td {{ background: #f6f8fa; }}
a {{ color: #0969da; }}
.check {{ padding: 9px 16px; border-top: 1px solid #d1d9e0; font-size: 14px; color: #59636e; }}
.check b {{ color: #1f2328; font-weight: 600; margin: 0 8px; }}
.good {{ color: #1a7f37; }} .bad {{ color: #d1242f; }} .open {{ color: #9a6700; }}
</style></head><body>
<h1>{title} <span>!1</span></h1>
<p class="under"><span class="state">{state}</span> &nbsp;
<b>shop_bot</b> wants to merge <code>{branch}</code> into <code>main</code></p>
<div class="box"><div class="head"><b>shop_bot</b> wrote</div><div class="text">{text}</div></div>
<div class="box"><div class="head"><b>Checks</b></div>{checks}</div>
<script>document.documentElement.setAttribute("data-height", document.body.scrollHeight)</script>
</body></html>
"""


def draw(text: str, facts: dict[str, object]) -> str:
    """Return the page as HTML. `text`: as the request has it; `facts`: what else `forge.py --pages` keeps of it."""
    rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    draft, _, title = str(facts["title"]).rpartition("Draft: ")
    checks = "".join(
        f'<div class="check"><span class="{colour}">{mark}</span><b>{html.escape(name)}</b>{html.escape(words)}</div>'
        for name, (state, words) in sorted(dict(facts["statuses"]).items())  # type: ignore[call-overload]
        for mark, colour in [MARKS[state]]
    )
    return PAGE.format(
        inner=WIDTH - 72,
        title=html.escape(title),
        state="Draft" if draft or str(facts["title"]).startswith("Draft") else "Open",
        branch=html.escape(str(facts["branch"])),
        text=rendered,
        checks=checks,
    )


def photograph(page: str, picture: Path) -> None:
    """Have a browser draw a page, as high as it is, into a PNG file.

    Raises:
        SystemExit: there is no browser, or it did not draw.
    """
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        sys.exit(
            f"error: none of {', '.join(BROWSERS)} is installed; on Debian and Ubuntu install chromium and fonts-dejavu-core"
        )
    with tempfile.TemporaryDirectory(prefix="protocol-runner-picture-") as folder:
        file = Path(folder) / "page.html"
        file.write_text(page, encoding="utf-8")
        # As root, as in containers, Chromium starts without its sandbox only; what it shows is our own page.
        argv = [browser, "--headless", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder}/profile"]
        argv += ["--no-sandbox"] if os.geteuid() == 0 else []
        dom = _ask(argv, f"--window-size={WIDTH},600", "--dump-dom", file.as_uri())
        height = re.search(r'data-height="(\d+)"', dom)
        made = Path(folder) / "made.png"
        if height:
            _ask(argv, f"--window-size={WIDTH},{height[1]}", f"--screenshot={made}", file.as_uri())
        if not made.exists():
            sys.exit(f"error: {browser} drew nothing")
        shutil.copyfile(made, picture)


def _ask(argv: list[str], *more: str) -> str:
    done = subprocess.run([*argv, *more], capture_output=True, text=True, timeout=120)
    if done.returncode:
        sys.exit(f"error: {argv[0]} ended with {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


if __name__ == "__main__":
    pages, view, picture = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    given = json.loads((pages / f"{view}.json").read_text(encoding="utf-8"))
    photograph(draw((pages / f"{view}.md").read_text(encoding="utf-8"), given), picture)
