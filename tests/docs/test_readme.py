"""Every command block of README.md is run, in order, in a fresh HOME and a real project, and prints what the README shows.

A block to be run follows `<!-- run -->`, with `exit N` where it ends otherwise than with 0; a `text` block after it is what
it prints on stdout and stderr. `[…]` there stands for anything; commit ids and durations are not compared.
"""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import iniconfig
import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
BLOCK = re.compile(
    r"^<!-- run(?:: (?P<how>[a-z0-9 ]+))? -->\n```sh\n(?P<code>.*?)^```\n(?:\n```text\n(?P<shown>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)
MASKS = (
    (re.compile(r"(?<=from main )[0-9a-f]{7}|(?<=merged in )[0-9a-f]{7}"), "ID"),
    (re.compile(r"<?\d+ s\b"), "TIME"),
)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)?(?:#([a-z0-9-]+))?\)")
PAGES = [
    *("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"),
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")),
]


@dataclass(frozen=True, slots=True)
class Block:
    """A command block: its lines, the exit code of its last command, and what it prints."""

    code: str
    exit: int = 0
    shown: str | None = None
    install: bool = False


def blocks() -> list[Block]:
    """The README's command blocks that are run."""
    found = []
    for match in BLOCK.finditer(README.read_text()):
        how = match["how"] or ""
        code = re.fullmatch(r"exit (\d+)", how)
        found.append(Block(match["code"], int(code[1]) if code else 0, match["shown"], how == "install"))
    return found


def masked(line: str) -> str:
    """A line of output without what differs from run to run, its columns one space apart."""
    for pattern, name in MASKS:
        line = pattern.sub(name, line)
    return re.sub(r"(?<=\S) {2,}", "  ", line.rstrip()).removesuffix("  TIME")


def run(blocks: Sequence[Block], folder: Path, env: Mapping[str, str]) -> None:
    """Run the blocks in one shell, as a person would type them, and hold each to what the README shows."""
    script = "".join(f"{block.code}printf '\\n@@@ %d\\n' $?\n" for block in blocks)
    done = subprocess.run(
        ["sh"], input=script, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    told = re.split(r"\n@@@ (\d+)\n", done.stdout)
    assert len(told) == 2 * len(blocks) + 1, done.stdout
    for block, out, code in zip(blocks, told[0::2], told[1::2], strict=False):
        assert int(code) == block.exit, f"{block.code}{out}"
        if block.shown is None:
            continue
        lines = [masked(line) for line in out.splitlines() if line.strip()]
        wanted = [".*".join(map(re.escape, masked(line).split("[…]"))) for line in block.shown.splitlines()]
        for line in wanted:
            at = next((number for number, here in enumerate(lines) if re.fullmatch(line, here)), None)
            assert at is not None, f"the README shows a line that is not printed, or not there:\n{line}\n\n{out}"
            lines = lines[at + 1 :]


def environment(folder: Path) -> dict[str, str]:
    """The environment of somebody whose HOME holds nothing but their git identity."""
    home = folder / "home"
    home.mkdir()
    (home / ".gitconfig").write_text("[user]\n name = Alice\n email = alice@example.test\n")
    scripts = str(Path(sys.executable).parent)
    return {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "HOME": str(home), "LANG": "C.UTF-8", "TERM": "dumb"}


def make_project(folder: Path, env: Mapping[str, str]) -> Path:
    """A real project: the sources of an installed package, in a repository of somebody's."""
    project = folder / "iniconfig"
    sources = Path(iniconfig.__file__).parent
    shutil.copytree(sources, project / "src/iniconfig", ignore=shutil.ignore_patterns("__pycache__"))
    for args in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", "start"]):
        subprocess.run(["git", *args], cwd=project, env=env, check=True)
    return project


def test_the_commands_of_the_readme_print_what_it_shows(tmp_path: Path) -> None:
    env = {**environment(tmp_path), "RUNNER_EXECUTOR": "host"}
    run([block for block in blocks() if not block.install], make_project(tmp_path, env), env)


@pytest.mark.slow
def test_the_readme_installs_it_as_it_says(tmp_path: Path) -> None:
    env = environment(tmp_path)
    folders = env["PATH"].split(os.pathsep)
    env["PATH"] = os.pathsep.join(folder for folder in folders if not (Path(folder) / "runner").exists())
    if shutil.which("bwrap") is None and not os.environ.get("RUNNER_CI"):
        env["RUNNER_EXECUTOR"] = "host"  # as the README says for such a machine
    install, *others = blocks()
    assert install.install
    checkout, project = tmp_path / "checkout", make_project(tmp_path, env)
    left_out = shutil.ignore_patterns(".git", ".venv*", ".*_cache", "__pycache__", ".hypothesis", "dist")
    shutil.copytree(ROOT, checkout, ignore=left_out)
    run([Block(f"cd ../checkout\n{install.code}"), Block("cd ../iniconfig\n"), *others], project, env)


def test_every_command_block_is_run_or_says_why_not() -> None:
    text = README.read_text()
    assert text.count("```sh\n") == len(blocks()) + text.count("<!-- not run: ")


def plain(text: str) -> str:
    """Return a terminal's text without what differs from one demo to the next, one space between words."""
    return re.sub(r"\b[0-9a-f]{7}\b|<?\b\d+ s\b|\b[\d-]{10}T[\d:]{8}Z", "…", " ".join(html.unescape(text).split()))


def test_the_session_at_the_top_is_part_of_the_demo() -> None:
    """Each line is in docs/demo.svg, in the same order; tests/test_demo.py compares that picture with what the demo prints."""
    session = re.search(r"^```console\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    assert session is not None and 25 <= len(session[1].splitlines()) <= 30
    rest = plain("".join(re.findall(r"<text[^>]*>([^<]*)</text>", (ROOT / "docs/demo.svg").read_text())))
    for line in session[1].splitlines():
        _, found, rest = rest.partition(plain(line.removesuffix("…")))
        assert found, f"docs/demo.svg does not have this line after the one before it: {line}"


@pytest.mark.parametrize("page", PAGES)
def test_links_between_pages_lead_somewhere(page: str) -> None:
    at = ROOT / page
    for path, anchor in LINK.findall(at.read_text()):
        target = at.parent / path if path else at
        assert target.exists(), path
        if anchor:
            titles = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}
