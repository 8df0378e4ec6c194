"""A map of a commit's code: the classes and functions of its files, with their lines, for a model that looks further by itself.

Definitions that the request seems to name come first; where it names none, the map is small. It is git's own search with a pattern
for definitions, so it needs no parser, no network and no package, and a file that is no valid code breaks nothing. What it finds are
lines that look like definitions. (The language pack of tree-sitter fetches its parsers when it runs, and ctags is a program that not
every machine has.)
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from runner import qa
from runner.git import BLOB, EXECUTABLE, Git, TreeEntry

LIMIT: Final = 2_400  # characters of the map
UNNAMED_LIMIT: Final = 800  # where the request names none of the definitions
OF_FILE: Final = 600  # characters of a file's line; twice as many where the request is about it
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
_PARTS: Final = re.compile(r"[A-Z]?[a-z0-9]{2,}|[A-Z]{2,}(?![a-z])")  # of camelCase and snake_case
_NAMES: Final = (
    re.compile(rf"(?:{_KINDS})[\s*]+(?:<[^>]*>\s*)?(?:\([^)]*\)\s*)?([A-Za-z_$](?:[\w$.]|::)*)"),
    re.compile(r"const\s+([A-Za-z_$][\w$]*)"),
    re.compile(r"([~A-Za-z_][\w:~]*)\("),
)


def of_commit(
    git: Git, commit: str, files: Mapping[str, TreeEntry], first: Sequence[str], words: Collection[str] = ()
) -> str:
    """Return one line a file: `src/app.py: Server 10, .start 24, main 90`, a method with a dot, within `LIMIT` characters.

    `first`: the files that matter most; `words`: of the request, in lower case. What tests define is there where its name has one
    of them, and so are the methods of a file that has no room for all.
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
    near = {path: _named(names, words) for path, names in found.items()}
    shown = [path for path in order if near.get(path) or (path in found and path not in tests)]
    lines, left, unnamed = list[str](), LIMIT if any(near.values()) else UNNAMED_LIMIT, 0
    usual = max(OF_FILE // 8, min(OF_FILE, 2 * left // max(1, len(shown))))
    for path in sorted(shown, key=lambda path: not near[path]):
        rest = [] if path in tests else [name for name in found[path] if name not in near[path] and name[0] != "."]
        whole = near[path] if path in tests else found[path]
        line = _line(path, whole, [*near[path], *rest], min(left, 2 * OF_FILE if path in early else usual))
        if not line:
            unnamed += 1
            continue
        lines.append(line)
        left -= len(line) + 1
    if unnamed:
        lines.append(f"[… {unnamed} more files …]")
    return "\n".join(lines)


def _named(names: Sequence[str], words: Collection[str]) -> list[str]:
    """Return the definitions of a file of whose names a part starts with one of the words, each method after its class."""
    found, outer = list[str](), ""
    for name in names:
        outer = outer if name.startswith(".") else name
        parts = [part.lower() for part in _PARTS.findall(name)]
        if any(part.startswith(word) for part in parts for word in words):
            found += [one for one in dict.fromkeys((outer, name)) if one and one not in found]
    return found


def _line(path: str, names: Sequence[str], most_wanted: Sequence[str], limit: int) -> str:
    """Return the line of a file: all names in their order, or else as many as there is room for, the most wanted ones."""
    text = f"{path}: {', '.join(names)}"
    if len(text) <= limit:
        return text
    kept = f"{path}: {', '.join(most_wanted or names)}, "[: max(0, limit)].rpartition(", ")[0]
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
