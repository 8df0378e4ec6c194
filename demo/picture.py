"""Draws what the demo prints as a picture of a terminal: `picture.py PRINTED PICTURE`, both files; `make picture`.

The picture is a window of some rows, in which the session is played once.
It promises to show a part of the demo's real output and nothing else: commands in their order, each with all that it printed and
the words before it. No font and nothing else is fetched by who looks at it. A test compares its text with the demo's.
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

# What is shown, in this order: commands with what they print, and the words between; each begins the first line that is left
# and begins so.
SHOWN = (
    "Alice states the task,",
    "$ runner new ",
    "One step is one transition",
    "$ runner step 1",
    "The next is QA",
    "$ runner step 1",
    "People steer a running protocol",
    "`run` continues",
    "$ runner run 1",
    "Alice fixes",
    "$ runner retry 1",
    "$ runner run 1",
    "The call waits",
    "$ runner approve 1",
    "The next `run`, in any clone",
    "$ runner run 1",
    "$ cat ../mailed.txt",
    "state.json is",
    "$ runner verify 1",
    "So far the work",
    "$ git merge ",
    "$ git commit ",
    "And `why` shows",
    "$ runner why ",
)
WIDTH = 112
ROWS, SECONDS = 30, 20.0  # of the window, and until all was in it
LINE = 24.4  # rich's height of a line
AT_ONCE = 10  # lines that appear together at most
STYLES = (
    (r"^\$ .*", "bold white"),
    (r"^(?![ $]).*", "italic #8a8f98"),  # the narration between commands
    (r"(?<=  )(done|completed|verified|finished|approved)\b", "green"),
    (r"(?<=  )failed\b", "red"),
    (r"(?<=  )(fast-forwarded|picked up|edited|planned|next|waits)\b", "yellow"),
    (r"^    · \w+", "cyan"),
    (r"\bPASS\b", "bold green"),
    (r"^    \| [^ {}].*", "red"),  # but not JSON
)
_FORMAT = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
font-size: {char_height}px; line-height: {line_height}px;
}}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: system-ui, sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" /></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def excerpt(printed: str) -> list[str]:
    """Return the lines of the demo's output that the picture shows, as wide as its terminal.

    Raises:
        ValueError: one that it should show is not in the output.
    """
    lines = printed.splitlines()
    found: list[str] = []
    at = 0
    for begin in SHOWN:
        start = next((number for number in range(at, len(lines)) if lines[number].startswith(begin)), None)
        if start is None:
            raise ValueError(f"the demo does not print `{begin.strip()}` where the picture shows it")
        at = start + 1
        while at < len(lines) and lines[at] and not lines[at].startswith("$ "):
            at += 1
        if found and not begin.startswith("$ "):
            found.append("")
        found += lines[start:at]
    return [line[start : start + WIDTH].rstrip() for line in found for start in range(0, len(line) or 1, WIDTH)]


def draw(lines: list[str]) -> str:
    """Return the picture of a terminal that shows these lines."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), color_system="truecolor", legacy_windows=False)
    for line in lines:
        text = Text(line)
        for pattern, style in STYLES:
            text.highlight_regex(pattern, style)
        console.print(text, no_wrap=True, overflow="ignore", crop=False)
    return played(console.export_svg(title="make demo", theme=MONOKAI, code_format=_FORMAT, unique_id="demo"), lines)


def played(picture: str, lines: list[str]) -> str:
    """Return the picture as high as its window, with the text coming into it from below: a command, then what it prints.

    Who wants no motion, or looks with a program that has none, sees the beginning.
    """
    shown, beats = 0, list[tuple[int, float]]()  # how many lines are there, and for how long
    while shown < len(lines):
        start, shown = shown, shown + 1
        if not lines[start].startswith("$ "):
            while shown < len(lines) and shown - start < AT_ONCE and lines[shown] and not lines[shown].startswith("$ "):
                shown += 1
        beats.append((shown, 1.0 + (shown - start) / 2))
    at, whole, frames = 0.0, sum(weight for _, weight in beats), list[str]()
    for shown, weight in beats:
        frames.append(f"{100 * at / whole:.2f}% {{ transform: translateY({(ROWS - shown) * LINE:.1f}px) }}")
        at += weight
    style = (
        f"@keyframes demo-play {{ {' '.join(frames)} 100% {{ transform: translateY({(ROWS - shown) * LINE:.1f}px) }} }}\n"
        f".demo-matrix {{ animation: demo-play {SECONDS:g}s step-end both; }}\n"
        "@media (prefers-reduced-motion: reduce) { .demo-matrix { animation: none; } }\n"
    )
    less = (len(lines) - ROWS) * LINE

    def lower(match: re.Match[str]) -> str:
        height = float(match[2])
        return f"{match[1]}{height - less if height > less else height:.1f}{match[3]}"

    picture = re.sub(r'(viewBox="0 0 \d+ )([\d.]+)(")', lower, picture)
    picture = re.sub(r'(<rect [^>]*\bheight=")([\d.]+)(")', lower, picture)
    return picture.replace("</style>", f"{style}</style>", 1)


def read(picture: str) -> list[str]:
    """Return the lines of text of a picture."""
    import xml.etree.ElementTree as xml

    rows: dict[float, str] = {}
    for element in xml.fromstring(picture).iter("{http://www.w3.org/2000/svg}text"):
        if "clip-path" in element.attrib:  # the title has none
            at = float(element.attrib["y"])
            column = round(float(element.attrib["x"]) / 12.2)  # rich's width of a character
            rows[at] = rows.get(at, "").ljust(column) + (element.text or "").replace("\xa0", " ")
    return [rows[at].rstrip() for at in sorted(rows)]


if __name__ == "__main__":
    printed, picture = map(Path, sys.argv[1:])
    picture.write_text(draw(excerpt(printed.read_text(encoding="utf-8"))), encoding="utf-8")
