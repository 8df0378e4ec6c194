"""The exercises in docs/exercises apply, pass their tests, and touch only files that docs/architecture.md names for them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs/exercises"
PLACE = (ROOT / "docs/architecture.md").read_text().split("## Where does a new thing go?")[1].split("\n## ")[0]
TABLE, BELOW = PLACE.split("\n\n", 2)[1:]
ROWS = {cells[1]: cells[2:] for row in TABLE.splitlines() if (cells := [cell.strip() for cell in row.split("|")])}
# What each exercise adds: rows of the page's table.
EXERCISES = {"sleep": ("step kind", "key of a file"), "noted": ("event",)}


def touched(patch: str) -> dict[str, bool]:
    """Return the files that a patch touches, and whether each is new. A renamed file is touched by both names."""
    found: dict[str, bool] = {}
    for part in re.split(r"^diff --git ", patch, flags=re.MULTILINE)[1:]:
        names = re.match(r"a/(\S+) b/(\S+)\n", part)
        assert names is not None, part[:200]
        found |= dict.fromkeys(names.groups(), "\nnew file mode " in part.partition("\n@@")[0])
    return found


def named(text: str) -> set[str]:
    """Return the paths that a part of the page names: files, folders with a `/` at their end, and pages by their links."""
    paths = re.findall(r"`((?:runner|tests|templates|schemas)/[\w./-]*)", text)
    return {*paths, *(f"docs/{page}" for page in re.findall(r"\]\((\w+\.md)\)", text))}


def not_named(patch: str, text: str) -> list[str]:
    """Return the files that a patch touches and a part of the page does not name. A named folder stands for new files in it."""
    names = named(text)
    return [
        path
        for path, is_new in touched(patch).items()
        if path not in names
        and not (is_new and f"{path.rpartition('/')[0]}/" in names)
        and not (path.startswith("schemas/") and "`make schemas`" in text)
    ]


def run(copy: Path, *words: str) -> None:
    """Run a Python module in a copy of the repository."""
    env = {**os.environ, "PYTHONPATH": str(copy)}
    done = subprocess.run([sys.executable, "-m", *words], cwd=copy, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("name", EXERCISES)
def test_an_exercise_touches_only_files_that_the_page_names(name: str) -> None:
    text = BELOW + "".join(ROWS[row][0] for row in EXERCISES[name])
    patch = (FOLDER / f"{name}.patch").read_text()
    assert touched(patch)
    assert not_named(patch, text) == [], f"{name}.patch touches these, and docs/architecture.md does not name them"


def test_a_file_that_the_page_does_not_name_is_found() -> None:
    edit = "diff --git a/{0} b/{0}\nindex 1..2 100644\n--- a/{0}\n+++ b/{0}\n@@ -1 +1 @@\n-a\n+new file mode \n"
    new = "diff --git a/{0} b/{0}\nnew file mode 100644\n--- /dev/null\n+++ b/{0}\n@@ -0,0 +1 @@\n+a\n"
    text = "`runner/cli/` `runner/errors.py::Code` [files](files.md)"
    paths = ["runner/errors.py", "docs/files.md", "runner/cli/main.py", "docs/cli.md", "schemas/step.schema.json"]
    assert not_named("".join(map(edit.format, paths)), text) == paths[2:]
    assert not_named("".join(map(new.format, ["runner/cli/a.py", "runner/a.py"])), text) == ["runner/a.py"]
    moved = "diff --git a/runner/errors.py b/runner/x.py\nrename from runner/errors.py\nrename to runner/x.py\n"
    assert not_named(moved, text) == ["runner/x.py"]


def test_every_exercise_is_listed() -> None:
    assert {path.stem for path in FOLDER.glob("*.patch")} == set(EXERCISES)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", EXERCISES)
def test_an_exercise_applies_and_passes_its_tests(name: str, tmp_path: Path) -> None:
    copy, patch = tmp_path / "copy", FOLDER / f"{name}.patch"
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    subprocess.run(["git", "clone", "-q", "--no-checkout", ROOT, copy], check=True)
    subprocess.run(["git", "checkout", "-q", "--detach", head], cwd=copy, check=True)

    done = subprocess.run(["git", "apply", "--3way", patch], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, f"{patch.name} does not apply: docs/exercises/README.md says what to do\n{done.stderr}"

    run(copy, "mypy")
    run(copy, "ruff", "check", ".")
    run(copy, "tests.histories")  # makes those that are listed and not stored
    held = {path for row in EXERCISES[name] for path in named(ROWS[row][1]) if path.endswith(".py")}
    own = {path for path, is_new in touched(patch.read_text()).items() if is_new and path.startswith("tests/")}
    assert held and own
    run(copy, "pytest", "-q", "-p", "no:cacheprovider", *sorted(held | own))
