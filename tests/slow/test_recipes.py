"""The recipes of docs/environments.md, each done with a project of other people's: its own tests are a check, on the step's code."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from runner.sandbox.bubblewrap import Bubblewrap
from tests.conftest import Box, command

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]

PAGE = Path(__file__).parents[2] / "docs/environments.md"
NPM = ("npm", "--silent", "--no-audit", "--no-fund")


@dataclass(frozen=True, slots=True)
class Recipe:
    """A row of the table, and a project for it. `bug`: what a step does that its tests find; `more`: what else these need; `tests`:
    some of them, of a long suite; `first`: done before the first commit; `tool`: a program to install, of PyPI or npm; `needs`: one
    that has to be there."""

    stack: str
    project: str
    bug: str
    more: str = "true"
    tests: str = ""
    first: str = "true"
    tool: str = ""
    needs: str = "python3"


NEW = "sed -i 's/>=3.6/>=3.11/' pyproject.toml"  # its tools of development have no releases for older ones
GROUP = f"{NEW} && printf '\\n[dependency-groups]\\ndev = [\"pytest\"]\\n' >> pyproject.toml"
IDNA = """sed -i 's/return s.encode("punycode")/return s.encode("punycode") + b"x"/' idna/core.py"""
POETRY = """sed -i '/^dev = \\[/,/^\\]/c dev = ["pytest<9", "pyyaml"]' pyproject.toml"""
# The index as pip asks it, which mirrors have too.
SIMPLE = (
    """printf '\\n[[tool.poetry.source]]\\nname = "simple"\\nurl = "https://pypi.org/simple/"\\n' >> pyproject.toml"""
)
TAPE = """node -e '
const fs = require("fs"), it = JSON.parse(fs.readFileSync("package.json"));
delete it["pre-commit"]; it.scripts = {test: "tape test.js"}; it.devDependencies = {tape: "^5"};
fs.writeFileSync("package.json", JSON.stringify(it))'"""
REUSIFY = "sed -i 's/tail.next = obj/tail.next = null/' reusify.js"
RECIPES = (
    Recipe("Python, venv", "idna==3.10", IDNA, tests="tests/test_idna.py"),
    Recipe(
        "Python, src layout",
        "itsdangerous==2.2.0",
        "sed -i 's/return value + self.sep + /return value + self.sep + self.sep + /' src/itsdangerous/signer.py",
        more=".venv/bin/pip install -q freezegun",
    ),
    Recipe(
        "Python, generated version",
        "humanize==4.17.0",
        "sed -i 's/if abs_bytes < base:/if abs_bytes <= base:/' src/humanize/filesize.py",
        more=".venv/bin/pip install -q freezegun && test -f src/humanize/_version.py",
        tests="tests/test_filesize.py",
    ),
    Recipe(
        "Python, C extension",
        "markupsafe==3.0.2",
        "sed -i 's/def striptags/def strip_tags/' src/markupsafe/__init__.py",
        more="test -e src/markupsafe/_speedups.*.so",
        tests="-k speedups -rs",  # skipped where the step does not have the compiled module
        first="mkdir .protocols && echo '*.so' >> .gitignore && "
        "echo 'workspace: {generated: [\"src/**/*.so\"]}' > .protocols/config.yaml",
        needs="gcc",
    ),
    Recipe("Python, uv", "idna==3.10", IDNA, tests="tests/test_idna.py", first=GROUP, tool="uv"),
    Recipe(
        "Python, poetry",
        "tomlkit==0.15.2",
        r"""sed -i 's/return ws("\\n")/return ws("\\r\\n")/' tomlkit/api.py""",
        tests="tests/test_build.py tests/test_api.py",
        first=f"{POETRY} && {SIMPLE}",
        tool="poetry",
    ),
    Recipe(
        "Node, npm",
        "reusify@1.1.0",
        REUSIFY,
        first=f"{TAPE} && {' '.join(NPM)} install --package-lock-only",
        needs="npm",
    ),
    Recipe("Node, pnpm", "reusify@1.1.0", REUSIFY, first=TAPE, tool="pnpm@9", needs="npm"),
    Recipe(
        "Rust",
        "",
        "sed -i 's/left + right/left - right/' src/lib.rs",
        first="cargo init -q --lib --vcs none",
        needs="cargo",
    ),
    Recipe(
        "Make",
        "",
        "echo 'exit 1' > test.sh",
        first="echo 'echo 1 passed' > test.sh && printf 'test:\\n\\tsh test.sh\\n' > Makefile",
        needs="make",
    ),
)


@pytest.fixture(autouse=True)
def works() -> None:
    if (why := Bubblewrap().check()) is not None:
        pytest.skip(f"allowed: no sandbox here: {why}")


def rows() -> dict[str, tuple[str, str]]:
    """Return what the page says to do, and the check, by stack."""
    found = re.findall(r"^\| ([^|]+) \| (?:[^|`]*)`([^`]+)`[^|]* \| `([^`]+)` \|$", PAGE.read_text(), re.MULTILINE)
    return {stack: (line, check) for stack, line, check in found}


def fetched(spec: str, at: Path) -> None:
    """Unpack `NAME==VERSION` (an sdist) or `NAME@VERSION` (of npm), or make an empty folder of nothing."""
    at.mkdir()
    if not spec:
        return
    scratch = at.with_name("archive")
    scratch.mkdir()
    pip = (sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", str(scratch), spec)
    subprocess.run(("npm", "pack", "--silent", spec) if "@" in spec else pip, cwd=scratch, check=True, timeout=300)
    (archive,) = scratch.glob("*.t*gz")
    with tarfile.open(archive) as file:
        for member in file.getmembers():
            member.name = member.name.partition("/")[2]
            if member.name:
                file.extract(member, at, filter="data")


def installed(tool: str, at: Path) -> Path | None:
    """Return the folder of a program that was installed, if there is one to install."""
    if not tool:
        return None
    if "@" in tool:
        subprocess.run((*NPM, "install", "--global", "--prefix", at, tool), check=True, timeout=300)
        return at / "bin"
    subprocess.run((sys.executable, "-m", "venv", at / "env"), check=True)
    subprocess.run((at / "env/bin/pip", "install", "-q", tool), check=True, timeout=300)
    (at / "bin").mkdir()
    (at / "bin" / tool).symlink_to(at / "env/bin" / tool)
    return at / "bin"


def test_each_recipe_of_the_page_is_tried_or_says_that_it_is_not() -> None:
    untried = {stack for stack in rows() if stack.endswith("\\*")}
    assert {recipe.stack for recipe in RECIPES} == set(rows()) - untried and len(untried) < 4


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stack)
def test_a_recipe(box: Box, tmp_path: Path, recipe: Recipe) -> None:
    if shutil.which(recipe.needs) is None:
        pytest.skip(f"allowed: there is no {recipe.needs} here")
    line, check = rows()[recipe.stack]
    at = tmp_path / "project"
    fetched(recipe.project, at)
    tool = installed(recipe.tool, tmp_path / "tool")
    path = os.pathsep.join(filter(None, (str(tool) if tool else "", os.environ["PATH"])))
    real = Box(at, box.home, {"RUNNER_EXECUTOR": "sandbox", "PATH": path})
    own = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH")}

    def typed(shell: str) -> None:
        """What a person types in the checkout."""
        done = subprocess.run(("sh", "-c", shell), cwd=at, env={**own, "PATH": path}, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    typed(recipe.first)
    (at / ".gitignore").open("a").write(
        "\n.venv/\n__pycache__/\n*.egg-info/\n.pytest_cache/\nnode_modules/\n/target/\n"
    )
    if "generated" in recipe.stack:
        (at / ".gitignore").open("a").write("_version.py\n")
        (at / "src/humanize/_version.py").unlink(missing_ok=True)
    real.git("init", "-q", "-b", "main")
    real.commit("start")
    real.git("tag", recipe.project.rpartition("==")[2] or "v1")
    typed(line)
    typed(recipe.more)
    asked = f"qa: {{checks: [{json.dumps(f'{check} {recipe.tests}'.strip())}]}}\n"
    right = real.new({"01-right": command("echo x > x.txt", asked)})
    real.runner("run", right, rc=0)
    wrong = real.new({"01-wrong": command(recipe.bug, asked)})
    real.runner("run", wrong, rc=1)
    assert "qa-failed" in real.log(wrong)
