"""Whole packages of the index as tasks: each a row of `packages.yaml`, fetched as published, with its tests.

A task is a package with a bug put in or a feature taken out (`breaks`), or with one still to be made (`adds`, the reference
solution). The tests that judge it are hidden: those of the reference tree replace what an agent left at these paths.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from benchmarks.agent.tasks import Edit, Look, Thought, with_a_wrong_turn

ROWS = Path(__file__).with_name("packages.yaml")
BUILD = Path(__file__).resolve().parents[2] / "build/agent"
CONTEXT = 12  # lines around a change that a scripted answer looks at


@dataclass(frozen=True, slots=True)
class Package:
    """A task. `check`: what the agent is told to run; `hidden`: what judges; `tests`: the paths that are the judge's.

    `wrong`: what goes wrong in the scripted answers (`with_a_wrong_turn`).
    """

    name: str
    package: str
    version: str
    sha256: str
    wish: str
    check: str
    hidden: str
    tests: tuple[str, ...]
    breaks: str = ""
    adds: str = ""
    wrong: str = ""

    def lay(self, at: Path) -> None:
        """Write the package's files, as an agent gets them, with an environment in which its tests run."""
        self.reference(at, adds=False)
        _apply(self.breaks, at)
        environment(self, at)

    def reference(self, at: Path, *, adds: bool = True) -> None:
        """Write the files with which the hidden tests pass."""
        with tarfile.open(fetched(self)) as archive, tempfile.TemporaryDirectory(dir=_made(BUILD)) as folder:
            archive.extractall(folder, filter="data")
            shutil.move(next(Path(folder).iterdir()), at)
        (at / ".gitignore").write_text(".venv/\n__pycache__/\n*.pyc\n.pytest_cache/\n.benchmarks/\n", encoding="utf-8")
        if adds:
            _apply(self.adds, at)

    def judge(self, tree: Path) -> list[str]:
        """Put the hidden tests into a tree, and return the command that judges it."""
        with tempfile.TemporaryDirectory(dir=_made(BUILD)) as folder:
            self.reference(Path(folder) / "reference")
            for path in self.tests:
                source, target = Path(folder) / "reference" / path, tree / path
                shutil.rmtree(target, ignore_errors=True)
                copy = shutil.copytree if source.is_dir() else shutil.copy2
                copy(source, target)
        environment(self, tree)
        return ["env", f"PATH={tree}/.venv/bin:/usr/bin:/bin", "sh", "-c", self.hidden]

    @property
    def thoughts(self) -> tuple[Thought, ...]:
        """What a scripted model does: run the check, look at the places, edit them, with what goes wrong on the way."""
        edits = [Edit(*change) for change in _changes(self.adds, self.breaks)]
        looks = {edit.path: edit for edit in reversed(edits)}.values()
        first: list[Thought] = [Look((f"{self.check} 2>&1 | tail -n 30",))]
        first.append(
            Look(tuple(f"sed -n {max(1, one.line - CONTEXT)},{one.line + CONTEXT}p {one.path}" for one in looks))
        )
        return (*first, *with_a_wrong_turn(self.wrong, edits, self.check, self.tests))


@cache
def packages() -> tuple[Package, ...]:
    """Return the rows."""
    rows = yaml.safe_load(ROWS.read_text(encoding="utf-8"))
    return tuple(Package(**{**row, "tests": tuple(row["tests"])}) for row in rows)


def fetched(task: Package) -> Path:
    """Return the package's source, fetched once, with the digest of the row."""
    folder = BUILD / "sdists" / f"{task.package}-{task.version}"
    if not list(folder.glob("*.tar.gz")):
        _made(folder)
        pin = f"{task.package}=={task.version} --hash=sha256:{task.sha256}\n"
        (folder / "pinned.txt").write_text(pin, encoding="utf-8")
        _pip(
            "download", "--no-deps", f"--no-binary={task.package}", "-r", str(folder / "pinned.txt"), "-d", str(folder)
        )
    (found,) = folder.glob("*.tar.gz")
    if hashlib.sha256(found.read_bytes()).hexdigest() != task.sha256:
        raise SystemExit(f"{found}: another digest than that of `{task.name}`")
    return found


def environment(task: Package, at: Path) -> None:
    """Make `.venv`: what the packages' tests need, and the package itself as `pip install -e` leaves it."""
    shutil.rmtree(at / ".venv", ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", at / ".venv"], check=True)
    (site,) = (at / ".venv").glob("lib/python*/site-packages")
    shutil.copytree(_libraries(), site, dirs_exist_ok=True)
    source = at / "src" if (at / "src").is_dir() else at
    (site / "editable.pth").write_text(f"{source}\n", encoding="utf-8")
    info = _made(site / f"{task.package.replace('-', '_')}-{task.version}.dist-info")
    shutil.copy2(at / "PKG-INFO", info / "METADATA")


@cache
def _libraries() -> Path:
    pinned = ROWS.with_name("packages.txt")
    folder = BUILD / f"libraries-{hashlib.sha256(pinned.read_bytes()).hexdigest()[:12]}"
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=_made(BUILD)) as made:
            _pip("install", "--no-compile", "-r", str(pinned), "--target", f"{made}/site")
            with contextlib.suppress(OSError):  # another thread was first
                Path(made, "site").rename(folder)
    return folder


def _pip(*args: str) -> None:
    argv = [sys.executable, "-m", "pip", args[0], "--quiet", "--no-input", "--disable-pip-version-check", *args[1:]]
    if (done := subprocess.run(argv, capture_output=True, text=True)).returncode:
        raise SystemExit(f"pip {' '.join(args)}: exit {done.returncode}\n{done.stderr[-2000:]}")


def _apply(patch: str, at: Path) -> None:
    if patch:
        argv = ["git", "apply", "--unidiff-zero", "-"]
        done = subprocess.run(argv, cwd=at, input=patch, text=True, capture_output=True)
        if done.returncode:
            raise SystemExit(f"the patch does not apply to {at}: {done.stderr}")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _changes(adds: str, breaks: str) -> Sequence[tuple[str, int, str, str]]:
    """Return path, line, old text and new text of each hunk that solves a task."""
    found, path = list[tuple[str, int, str, str]](), ""
    for piece in re.split(r"^(?=--- |@@ )", adds or breaks, flags=re.MULTILINE):
        if piece.startswith("--- "):
            path = piece.splitlines()[1].removeprefix("+++ b/")
        elif piece.startswith("@@ "):
            head, _, body = piece.partition("\n")
            # An empty line of the context may be written without its space; what follows the hunk's lines is none of them.
            lines, left = list[str](), [int(count) for count in re.findall(r"[-+]\d+,(\d+)", head)]
            for line in (line if line != "\n" else " \n" for line in body.splitlines(keepends=True)):
                if left == [0, 0]:
                    break
                left = [left[0] - (line[0] in " -"), left[1] - (line[0] in " +")]
                lines.append(line)
            before, after = ("".join(line[1:] for line in lines if line[0] in kept) for kept in (" -", " +"))
            numbers = re.findall(r"[-+](\d+)", head)
            line, old, new = (int(numbers[0]), before, after) if adds else (int(numbers[1]), after, before)
            found.append((path, line, old, new))
    return found
