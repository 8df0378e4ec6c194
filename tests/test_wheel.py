"""What is installed is what was made: the wheel, in an empty environment, run far from the checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Box

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.together]

ROOT = Path(__file__).parents[1]
DATA = ("schemas", "templates", "prompts")
# Imports every module, as somebody who only has the base install; prints where the package stands.
IMPORT_ALL = """
import importlib, pkgutil, sys, runner
for found in pkgutil.walk_packages(runner.__path__, "runner."):
    if found.name not in ("runner.__main__", "runner.tools.mcp_client"):  # which the first call to an MCP server loads, with its extra
        hasattr(importlib.import_module(found.name), "anything")  # it runs when something of it is used
print(runner.__file__)
"""


@dataclass(frozen=True, slots=True)
class Installed:
    """An environment that holds the wheel and what the wheel asks for. `wheel`: its file."""

    bin: Path
    wheel: Path


def pip(at: Path, *words: str | Path) -> str:
    """Run our pip on an environment, which is made where there is none; a pip of its own takes longer to make than all the rest."""
    if not at.exists():
        run(sys.executable, "-m", "venv", "--without-pip", at, cwd=at.parent)
    return run(sys.executable, "-m", "pip", "--python", at / "bin/python", *words, cwd=at.parent)


def run(*argv: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run([*map(str, argv)], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Build from a copy of the sources (a build leaves nothing in the checkout), sdist first, and the wheel from that."""
    at = tmp_path_factory.mktemp("wheel")
    leave = shutil.ignore_patterns(".git", ".venv*", ".*_cache", ".hypothesis", "__pycache__", "dist", "build")
    shutil.copytree(ROOT, at / "sources", ignore=leave)
    run(sys.executable, "-m", "build", "--outdir", at / "dist", ".", cwd=at / "sources")
    (wheel,) = (at / "dist").glob("*.whl")
    pip(at / "env", "install", "-q", wheel)
    return Installed(at / "env/bin", wheel)


def test_the_wheel_holds_the_package_and_its_data_and_nothing_else(installed: Installed) -> None:
    with zipfile.ZipFile(installed.wheel) as archive:
        held = {re.sub(r"^[^/]+\.data/data/", "", name) for name in archive.namelist() if ".dist-info/" not in name}
    files = {at for folder in ("runner", *DATA) for at in (ROOT / folder).rglob("*") if at.is_file()}
    wanted = {at.relative_to(ROOT) for at in files if "__pycache__" not in at.parts}
    manual = {"share/man/man1/runner.1", "share/man/man1/git-runner.1"}
    assert held == {str(at) if at.parts[0] == "runner" else f"runner/_data/{at}" for at in wanted} | manual


def test_man_finds_the_page_beside_the_installed_command(installed: Installed) -> None:
    pages = installed.bin.parent / "share/man/man1"
    assert (pages / "runner.1").read_bytes() == (ROOT / "docs/man/runner.1").read_bytes()
    assert (pages / "git-runner.1").read_text() == ".so man1/runner.1\n"


def test_the_base_install_is_enough_and_brings_no_sdk(installed: Installed, tmp_path: Path) -> None:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def names(wanted: list[str]) -> set[str]:
        return {re.split(r"[\[>=<~! ]", name)[0].lower() for name in wanted} - {"protocol-runner"}

    found = pip(installed.bin.parent, "list", "--format=freeze")
    have = {line.partition("==")[0].lower() for line in found.splitlines()}
    extras = set().union(*(names(wanted) for wanted in told["optional-dependencies"].values()))
    assert have >= names(told["dependencies"]) and not have & extras
    where = run(installed.bin / "python", "-I", "-c", IMPORT_ALL, cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(installed.bin.parent)


def test_what_was_installed_runs_a_workflow_and_proves_it(installed: Installed, box: Box) -> None:
    env = box.environment({"PATH": f"{installed.bin}{os.pathsep}{os.environ['PATH']}"})
    given = ("--input", "text=hello", "--input", "a=2", "--input", "b=3")
    run("runner", "do", "--workflow", "echo-add", *given, cwd=box.path, env=env)
    run("runner", "verify", cwd=box.path, env=env)
    assert "completed" in run("git", "runner", "status", "--json", cwd=box.path, env=env)
    (protocol,) = [name for name in box.git("branch", "--format=%(refname:short)").split() if name[0].isdigit()]
    results = {slug: step["result"] for slug, step in box.state(protocol)["steps"].items()}
    assert results == {"echo": {"text": "hello"}, "add": {"sum": 5}}


@pytest.mark.window(2)
@pytest.mark.parametrize(
    ("tool", "words"),
    [("pipx", ("pipx", "install", "--quiet")), ("uv", ("uv", "tool", "install", "--quiet"))],
)
def test_the_readme_s_other_ways_install_the_wheel(
    tool: str, words: tuple[str, ...], installed: Installed, tmp_path: Path
) -> None:
    """In a bare environment that has the tool alone."""
    assert f"`{' '.join(words[:-1])} ." in (ROOT / "README.md").read_text()
    pip(tmp_path / "env", "install", "-q", tool)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIPX_", "UV_", "XDG_"))}
    home = tmp_path / "home"
    home.mkdir()
    env = {**kept, "HOME": str(home), "PATH": f"{home}/.local/bin:/usr/local/bin:/usr/bin:/bin"}
    run(tmp_path / "env/bin" / words[0], *words[1:], installed.wheel, cwd=tmp_path, env=env)
    assert "protocol-runner, version " in run("runner", "--version", cwd=tmp_path, env=env)
    assert "protocol-runner, version " in run("git-runner", "--version", cwd=tmp_path, env=env)
