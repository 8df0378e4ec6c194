"""docs/architecture.md names paths and symbols that exist, and the rooms as the import rules have them."""

from __future__ import annotations

import ast
import itertools
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text()
NAMED = sorted(set(re.findall(r"`((?:runner|tests|templates)/[\w/.]*[\w/])(?:::(\w+))?`", PAGE)))
# Such a name in the table of rules is defined once in all of runner/, so that a second home of its rule would be seen.
RULES = PAGE.partition("## Where a rule lives")[2]
CONSTANT = re.compile(r"[A-Z][A-Z_]+|[A-Z]\w+")


def defined(path: Path) -> set[str]:
    """Return what a module defines at its top level."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
                found.add(name)
            case ast.Assign(targets=targets):
                found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


EVERYWHERE = {path: defined(path) for path in (ROOT / "runner").rglob("*.py")}


@pytest.mark.parametrize(("path", "symbol"), NAMED)
def test_what_is_named_exists_and_has_one_home(path: str, symbol: str) -> None:
    assert (ROOT / path).exists()
    if symbol:
        assert symbol in EVERYWHERE[ROOT / path]
        homes = [str(path.relative_to(ROOT)) for path, names in EVERYWHERE.items() if symbol in names]
        assert len(homes) == 1 or not CONSTANT.fullmatch(symbol) or f"::{symbol}`" not in RULES, homes


def test_pages_and_docstrings_name_modules_that_exist() -> None:
    rooms = "|".join(path.name for path in (ROOT / "runner").iterdir() if (path / "__init__.py").exists())
    named = re.compile(rf"(?<![\w/.-])(?:runner/)?((?:{rooms})/[a-z_/]+\.py)\b")
    texts = [*EVERYWHERE, *(ROOT / "docs").glob("*.md"), ROOT / "CONTRIBUTING.md"]  # ADRs tell of their time
    gone = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in texts
        for name in named.findall(path.read_text())
        if not (ROOT / "runner" / name).exists()
    }
    assert not gone


def test_the_rooms_are_drawn_in_the_order_of_the_import_rules() -> None:
    (contract,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    rooms = [name for layer in contract["layers"] for name in re.split(r" \| ", layer) if not name.startswith("(")]
    drawing = PAGE.split("```")[1]
    drawn = [name for line in drawing.splitlines() for name in re.findall(r"^ ([a-z, ]+?)(?:  |$)", line)]
    assert {name for names in drawn for name in names.split(", ")} == set(rooms) - {"values"}
    at = {name: number for number, names in enumerate(drawn) for name in names.split(", ")}
    levels = [[at[name] for name in re.split(r" \| ", layer) if name in at] for layer in contract["layers"]]
    ordered = [level for level in levels if level]
    assert all(max(above) < min(below) for above, below in itertools.pairwise(ordered))
