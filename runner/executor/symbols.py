"""A map of a commit's code: the classes and functions of its files, with their lines, for a model that looks further by itself.

It is git's own search with a pattern for definitions, so it needs no parser, no network and no package, and a file that is no valid
code breaks nothing. What it finds are lines that look like definitions. (The language pack of tree-sitter fetches its parsers when it
runs, and ctags is a program that not every machine has.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from runner import qa
from runner.git import BLOB, EXECUTABLE, Git, TreeEntry

LIMIT: Final = 6_000  # characters of the map
OF_FILE: Final = (
    1_200  # characters of a file's line where there are few; four times as many where the request is about it
)
FILES_MOST: Final = 3_000  # files that are searched
_WORDS: Final = (
    "export|default|public|private|protected|internal|static|abstract|final|async|pub|unsafe|sealed|data|open|override"
)
_KINDS: Final = (
    "class|def|func|fn|function|interface|trait|struct|enum|impl|module|defmodule|defp|record|object|sub|type"
)
_PATTERNS: Final = (
    rf"^[[:space:]]*((({_WORDS})(\([a-z]+\))?)[[:space:]]+)*({_KINDS})[[:space:]*]+[A-Za-z_$(<]",
    r"^(export[[:space:]]+)?const[[:space:]]+[A-Za-z_$][A-Za-z0-9_$]*[[:space:]]*=[[:space:]]*(async[[:space:]]*)?(\(|function)",
)
_C: Final = r"^[A-Za-z_][A-Za-z0-9_:<>,&* ]*[ *&]~?[A-Za-z_][A-Za-z0-9_:]*\([^;]*$"
_CODE: Final = re.compile(
    r".*\.(?:pyi?|[mc]?[jt]s|[jt]sx|go|rs|rb|java|kts?|scala|cs|swift|php|exs?|p[lm]|lua|groovy|dart|jl|zig)"
)
_C_CODE: Final = re.compile(r".*\.(?:[ch](?:c|pp|xx|h)?|mm?)")
_NAMES: Final = (
    re.compile(rf"(?:{_KINDS})[\s*]+(?:<[^>]*>\s*)?(?:\([^)]*\)\s*)?([A-Za-z_$](?:[\w$.]|::)*)"),
    re.compile(r"const\s+([A-Za-z_$][\w$]*)"),
    re.compile(r"([~A-Za-z_][\w:~]*)\("),
)


def of_commit(git: Git, commit: str, files: Mapping[str, TreeEntry], first: Sequence[str]) -> str:
    """Return one line a file: `src/app.py: Server 10, .start 24, main 90`, a method with a dot, within `LIMIT` characters.

    `first`: the files that matter most; after them come sources, and tests last.
    """
    named = [
        path
        for path, entry in files.items()
        if entry.mode in (BLOB, EXECUTABLE) and (_CODE.fullmatch(path) or _C_CODE.fullmatch(path))
    ]
    tests = set(qa.touched_by(named).tests)
    early = {path: number for number, path in enumerate(first)}
    order = sorted(named, key=lambda path: (early.get(path, len(early)), path in tests, path.count("/"), path))
    found = _definitions(git, commit, order[:FILES_MOST])
    lines, left, unnamed = list[str](), LIMIT, 0
    usual = max(OF_FILE // 8, min(OF_FILE, 2 * LIMIT // max(1, len(found))))
    for path in order:
        if path not in found:
            continue
        line = _line(path, found[path], min(left, 4 * OF_FILE if path in early else usual))
        if not line:
            unnamed += 1
            continue
        lines.append(line)
        left -= len(line) + 1
    if unnamed:
        lines.append(f"[… {unnamed} more files …]")
    return "\n".join(lines)


def _line(path: str, names: Sequence[str], limit: int) -> str:
    text = f"{path}: {', '.join(names)}"
    if len(text) <= limit:
        return text
    kept = text[: max(0, limit)].rpartition(", ")[0]
    shown = kept.count(", ") + 1
    return f"{kept}, … {len(names) - shown} more" if kept else ""


def _definitions(git: Git, commit: str, paths: Sequence[str]) -> dict[str, list[str]]:
    """Return the definitions of each file that has some, `NAME LINE` each, in their order."""
    found: dict[str, list[str]] = {}
    for kind, patterns in ((_CODE, _PATTERNS), (_C_CODE, (*_PATTERNS, _C))):
        wanted = [path for path in paths if kind.fullmatch(path)]
        for at in range(0, len(wanted), 500):
            some = wanted[at : at + 500]
            for path, number, text in _matches(git, commit, patterns, some):
                name = next((hit[1] for one in _NAMES if (hit := one.search(text))), None)
                if name and not name.startswith("__"):
                    found.setdefault(path, []).append(f"{'.' if text[:1].isspace() else ''}{name} {number}")
    return found


def _matches(git: Git, commit: str, patterns: Iterable[str], paths: Sequence[str]) -> Iterable[tuple[str, str, str]]:
    options = [part for pattern in patterns for part in ("-e", pattern)]
    _, out, _ = git.try_run(
        "grep", "-n", "-z", "-I", "-E", "--no-color", "--no-recurse-submodules", *options, commit, "--", *paths,
        env={"GIT_LITERAL_PATHSPECS": "1"},
    )  # fmt: skip
    for line in out.decode("utf-8", "replace").split("\n"):
        head, _, rest = line.partition("\0")
        number, _, text = rest.partition("\0")
        if text and number.isdigit():
            yield head.partition(":")[2], number, text
