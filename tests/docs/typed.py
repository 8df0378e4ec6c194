"""Command blocks of a page, typed as a reader would type them, and held to what the page shows.

A block to be run follows `<!-- run -->`. Words after a colon say how: `exit N` where its last command ends otherwise than with 0, the
name of another person than the reader, `next` if each line is what the `next:` before it says. A `text` block after it is what it
prints on stdout and stderr. `[…]` there stands for anything; commit ids and durations are not compared.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(
    r"^<!-- run(?:: (?P<how>[a-z0-9 ]+))? -->\n```sh\n(?P<code>.*?)^```\n(?:\n```text\n(?P<shown>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)
MASKS = (
    (re.compile(r"(?<=from main )[0-9a-f]{7}|(?<=merged in )[0-9a-f]{7}|(?<=(?:lished  |ssed on ))[0-9a-f]{7}"), "ID"),
    (re.compile(r"<?\d+ s\b"), "TIME"),
    (re.compile(r"\d+(?= tests passed)"), "N"),
)


@dataclass(frozen=True, slots=True)
class Block:
    """A command block: its lines, the exit code of its last command, what it prints, and the words that say how it is run."""

    code: str
    exit: int = 0
    shown: str | None = None
    how: frozenset[str] = frozenset()


def blocks(page: str) -> list[Block]:
    """The command blocks of a page that are run."""
    found = []
    for match in BLOCK.finditer((ROOT / page).read_text()):
        how = match["how"] or ""
        code = re.search(r"\bexit (\d+)", how)
        found.append(Block(match["code"], int(code[1]) if code else 0, match["shown"], frozenset(how.split())))
    return found


def masked(line: str) -> str:
    """A line of output without what differs from run to run, its columns one space apart."""
    for pattern, name in MASKS:
        line = pattern.sub(name, line)
    return re.sub(r"(?<=\S) {2,}", "  ", line.rstrip()).removesuffix("  TIME")


def environment(folder: Path, name: str = "Alice") -> dict[str, str]:
    """The environment of somebody whose HOME below `folder` holds nothing but their git identity, if they have a name."""
    home = folder / "home"
    home.mkdir()
    if name:
        (home / ".gitconfig").write_text(f"[user]\n name = {name}\n email = {name.lower()}@example.test\n")
    scripts = str(Path(sys.executable).parent)
    return {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "HOME": str(home), "LANG": "C.UTF-8", "TERM": "dumb"}


def without_runner(env: Mapping[str, str]) -> dict[str, str]:
    """The environment where the runner is not installed."""
    folders = env["PATH"].split(os.pathsep)
    return {**env, "PATH": os.pathsep.join(one for one in folders if not (Path(one) / "runner").exists())}


def copy_of_checkout(into: Path) -> Path:
    """A checkout of protocol-runner to install from."""
    left_out = shutil.ignore_patterns(".git", ".venv*", ".*_cache", "__pycache__", ".hypothesis", "dist", "build")
    return Path(shutil.copytree(ROOT, into / "checkout", ignore=left_out))


@dataclass(slots=True)
class Typist:
    """A person at a shell in `folder`, whose place and exported variables stay from one block to the next."""

    folder: Path
    env: Mapping[str, str]
    said: str = ""

    def type(self, block: Block) -> None:
        """Type a block, the first command that fails ends it, and hold it to what the page shows."""
        if "next" in block.how:
            hint = self.said.rpartition("  next: ")[2]
            assert all(line in hint for line in block.code.splitlines()), f"{block.code}is not what was said: {hint}"
        state = Path(self.env["HOME"], ".typist")
        trap = f"""trap 'code=$?; {{ export -p; echo "cd \\"$PWD\\""; }} > "{state}"; exit $code' EXIT\n"""
        before = f'. "{state}"\n' if state.exists() else ""
        done = subprocess.run(
            ["sh", "-e"],
            input=f"{before}{trap}{block.code}",
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.said = done.stdout
        assert done.returncode == block.exit, f"{block.code}{done.stdout}exit {done.returncode}"
        hold(block, done.stdout)


def hold(block: Block, out: str) -> None:
    """Hold what a block printed to what its page shows: its lines, in their order."""
    lines = [masked(line) for line in out.splitlines() if line.strip()]
    for line in map(masked, (block.shown or "").splitlines()):
        wanted = ".*".join(map(re.escape, line.split("[…]")))
        at = next((number for number, here in enumerate(lines) if re.fullmatch(wanted, here)), None)
        assert at is not None, f"the page shows a line that is not printed, or not there:\n{line}\n\n{out}"
        lines = lines[at + 1 :]
