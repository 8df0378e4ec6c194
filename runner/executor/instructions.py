"""The instructions and the memory that a model gets: of the trusted branch alone, and bound by an approval (design §4).

An instruction file is given once in a conversation: those at the root first, those of a folder once the work is about that folder.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence

from runner.executor.prompting import FENCE, STOP, WORD, cut, fence
from runner.git import LINK
from runner.protocol import paths
from runner.store.project import Project
from runner.trust import manifest, trusted_config

LIMIT = 12_000  # characters of all instruction files of a conversation
MEMORY_LIMIT = 6_000  # characters of all memory; one fact has half of them at most
NAMES_LIMIT = 600  # characters of the names of facts that are left out
PLANNERS = "CONTRIBUTING.md"  # for those who plan
_LINKS = 4  # of one file
_IMPORT = re.compile(r"@(\S+)")


class Instructions:
    """The instruction files that a conversation has not got yet. `roots`: the names of the checkout in absolute paths."""

    def __init__(self, project: Project, roots: Sequence[str] = ()) -> None:
        self._git, self._roots, self._left = project.git, roots, LIMIT
        files = project.git.files(project.trusted.commit)
        self._files = {path: entry for path, entry in files.items() if manifest.is_instruction(path)}
        self._given = set[str]()  # paths and texts

    def of(self, places: Iterable[str]) -> list[str]:
        """Return those of the root and of the folders of these paths, the outer ones first; of links and copies the first alone."""
        folders = {""}
        for place in places:
            root = next((root for root in self._roots if place.startswith(f"{root}/")), "")
            parts = posixpath.normpath(place[len(root) :].lstrip("/")).split("/")
            folders |= {"/".join(parts[:count]) + "/" for count in range(1, len(parts) + 1)}
        wanted = [f"{folder}{name}" for folder in sorted(folders) for name in manifest.INSTRUCTIONS]
        return [part for path in wanted if (part := self._part(path))]

    def _part(self, path: str) -> str:
        text = self._text(path)
        if not text or path in self._given or text in self._given:
            return ""
        self._given |= {path, text}
        told = cut(text, self._left)
        self._left = max(0, self._left - len(text))
        folder = posixpath.dirname(path)
        return f"# The project's {path}{f', for work in {folder}/' if folder else ''}\n\n{told}"

    def _text(self, path: str) -> str:
        """Return the text of a file, or that of the instruction file that it is a link to, or names as its only content."""
        for _ in range(_LINKS):
            entry = self._files.get(path)
            if entry is None:
                return ""
            text = (self._git.blob(entry.oid) or b"").decode("utf-8", "replace").strip()
            named = _IMPORT.fullmatch(text)
            target = text if entry.mode == LINK else named[1] if named else ""
            other = posixpath.normpath(posixpath.join(posixpath.dirname(path), target)) if target else ""
            if other not in self._files:  # a link to any other file is not followed: no approval binds that
                return "" if entry.mode == LINK else text
            path = other
        return ""


def named_in(text: str) -> list[str]:
    """Return the words of a text that may be paths of files in folders."""
    return [word for word in WORD.findall(text) if "/" in word]


def for_planner(project: Project, request: str) -> list[str]:
    """Return the instructions and the memory for who plans, `LIMIT` characters at most."""
    data = project.trusted.blob(project.git, PLANNERS)
    also = [f"# The project's {PLANNERS}\n\n{data.decode('utf-8', 'replace').strip()}"] if data else []
    parts, left = list[str](), LIMIT
    for part in (*Instructions(project).of(named_in(request)), *also, *memory(project, request)):
        if len(part) <= left or (left and FENCE not in part):  # one that is cut would not be closed
            parts.append(cut(part, left))
        left = max(0, left - len(part))
    return parts


def memory(project: Project, about: str) -> Iterator[str]:
    """Yield the memory of earlier work: that of people, then, quoted, that of steps; a merge does not make it trusted.

    Of what does not fit, the facts with the most words of `about` go first, and the others are named.
    """
    files = project.git.tree(f"{project.trusted.commit}:{paths.MEMORY.rstrip('/')}") or {}
    vouched = trusted_config.written_by_people(project.git, project.trusted.commit) if files else frozenset()
    wanted = {word.lower() for word in WORD.findall(about) if len(word) > 2} - STOP
    facts: list[tuple[int, str, str]] = []
    for name in sorted(files):
        data = project.git.blob(files[name].oid) if name.endswith(".md") else None
        if data:
            text = cut(f"- {name.removesuffix('.md')}: {data.decode('utf-8', 'replace').strip()}", MEMORY_LIMIT // 2)
            facts.append((-len(wanted & {word.lower() for word in WORD.findall(text)}), name, text))
    left, told, named = MEMORY_LIMIT, dict[bool, list[str]](), dict[bool, list[str]]()
    for _, name, text in sorted(facts):
        is_peoples = paths.MEMORY + name in vouched
        if len(text) <= left:
            told.setdefault(is_peoples, []).append(text)
            left -= len(text)
        else:
            named.setdefault(is_peoples, []).append(name.removesuffix(".md"))
    for of, names in named.items():
        more = cut(", ".join(names), NAMES_LIMIT)
        told.setdefault(of, []).append(f"- and, in {paths.MEMORY} (`recall` looks them up): {more}")
    if True in told:
        yield "# What is known from earlier work\n\n" + "\n".join(told[True])
    if False in told:
        yield fence("\n".join(told[False]), "memory that steps of earlier work wrote")
