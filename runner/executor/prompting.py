"""The parts of prompts: of an agent step (plan, step), and about the project (files, history, symbols, instructions, memory).

Plan files are the task. The output of steps and models (earlier results, findings) is quoted as untrusted.

The map of a commit's code, the classes and functions of its files with their lines, is git's own search with a pattern for
definitions, so it needs no parser, no network and no package, and a file that is no valid code breaks nothing. Definitions that the
request seems to name come first; where it names none, the map is small. (The language pack of tree-sitter fetches its parsers when
it runs, and ctags is a program that not every machine has.)

Instructions and memory are of the trusted branch alone, and bound by an approval (design §4). An instruction file is given once in a
conversation: those at the root first, those of a folder once the work is about that folder.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final

from runner import qa, resources
from runner.executor.step_run import StepRun
from runner.git import BLOB, EXECUTABLE, LINK, Git, TreeEntry
from runner.protocol import paths
from runner.protocol.plans import Step
from runner.protocol.state import State
from runner.store.project import Project
from runner.trust import manifest, trusted_config

SYMBOLS_LIMIT: Final = 2_400  # characters of the map
UNNAMED_LIMIT: Final = 800  # where the request names none of the definitions
OF_FILE: Final = 600  # characters of a file's line; twice as many where the request is about it
SYMBOL_FILES_MOST: Final = 3_000  # files that are searched
_MODIFIERS: Final = (
    "export|default|public|private|protected|internal|static|abstract|final|async|pub|unsafe|sealed|data|open|override"
)
_KINDS: Final = (
    "class|def|func|fn|function|interface|trait|struct|enum|impl|module|defmodule|defp|record|object|sub|type"
)
_PATTERNS: Final = (
    rf"^[[:space:]]*((({_MODIFIERS})(\([a-z]+\))?)[[:space:]]+)*({_KINDS})[[:space:]*]+[A-Za-z_$(<]",
    r"^(export[[:space:]]+)?const[[:space:]]+[A-Za-z_$][A-Za-z0-9_$]*[[:space:]]*=[[:space:]]*(async[[:space:]]*)?(\(|function)",
)
_C: Final = r"^[A-Za-z_][A-Za-z0-9_:<>,&* ]*[ *&]~?[A-Za-z_][A-Za-z0-9_:]*\([^;]*$"
_CODE: Final = re.compile(
    r".*\.(?:pyi?|[mc]?[jt]s|[jt]sx|go|rs|rb|java|kts?|scala|cs|swift|php|exs?|p[lm]|lua|groovy|dart|jl|zig)"
)
_C_CODE: Final = re.compile(r".*\.(?:[ch](?:c|pp|xx|h)?|mm?)")
_CASE_PARTS: Final = re.compile(r"[A-Z]?[a-z0-9]{2,}|[A-Z]{2,}(?![a-z])")  # of camelCase and snake_case
_DEFINED: Final = (
    re.compile(rf"(?:{_KINDS})[\s*]+(?:<[^>]*>\s*)?(?:\([^)]*\)\s*)?([A-Za-z_$](?:[\w$.]|::)*)"),
    re.compile(r"const\s+([A-Za-z_$][\w$]*)"),
    re.compile(r"([~A-Za-z_][\w:~]*)\("),
)


def symbols_of(
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
    found = _definitions(git, commit, order[:SYMBOL_FILES_MOST])
    near = {path: _named(names, words) for path, names in found.items()}
    shown = [path for path in order if near.get(path) or (path in found and path not in tests)]
    lines, left, unnamed = list[str](), SYMBOLS_LIMIT if any(near.values()) else UNNAMED_LIMIT, 0
    usual = max(OF_FILE // 8, min(OF_FILE, 2 * left // max(1, len(shown))))
    for path in sorted(shown, key=lambda path: not near[path]):
        rest = [] if path in tests else [name for name in found[path] if name not in near[path] and name[0] != "."]
        whole = near[path] if path in tests else found[path]
        line = _symbol_line(path, whole, [*near[path], *rest], min(left, 2 * OF_FILE if path in early else usual))
        if not line:
            unnamed += 1
            continue
        lines.append(line)
        left -= len(line) + 1
    if unnamed:
        lines.append(f"[… {unnamed} more files …]")
    return "\n".join(lines)


def _named(names: Sequence[str], words: Collection[str]) -> list[str]:
    """Return the definitions of a file of whose names a part starts with one of `words`, each method after its class."""
    found, outer = list[str](), ""
    for name in names:
        outer = outer if name.startswith(".") else name
        parts = [part.lower() for part in _CASE_PARTS.findall(name)]
        if any(part.startswith(word) for part in parts for word in words):
            found += [one for one in dict.fromkeys((outer, name)) if one and one not in found]
    return found


def _symbol_line(path: str, names: Sequence[str], most_wanted: Sequence[str], limit: int) -> str:
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
                name = next((hit[1] for one in _DEFINED if (hit := one.search(text))), None)
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


RESULT_LIMIT = 4_000  # characters of the result of one step
# Characters, about three to a token, of each part about the project.
TREE_LIMIT = 12_000
PLANNERS_TREE_LIMIT = 3_000
FILES_LIMIT = 45_000
FILE_LIMIT = 8_000
FILES_MOST = 16
SUBJECTS_MOST = 8
WORDS_MOST = 10
GREP_MOST = 20_000  # files of a repository whose content is searched
COMMON = 200  # a word that more files hold than this says nothing
BLOB_MOST = 512 * 1024
_GREP = ("-l", "-z", "-I", "-i", "-F", "--no-color", "--no-recurse-submodules")
_PARTS = re.compile(r"[^a-z0-9]+")
WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]*[A-Za-z0-9_]")
STOP = frozenset(
    WORD.findall(
        "the and for with that this from into when where make makes let all any not are its our use have has should must can so to"
        " add fix new run runs pass passes failing fails test tests make change get set of in on is be it as at by or an if do no"
    )
)


FENCE = "<<<untrusted"  # the first line of quoted untrusted text


def fence(text: str, label: str) -> str:
    """Return text that is material and no instruction, between lines that it cannot close by itself; nor can the label."""
    return f"{FENCE} {_inner(label)}\n{_inner(text)}\nuntrusted>>>"


def _inner(text: str) -> str:
    return text.replace("untrusted>>>", "untrusted>> >").replace(FENCE, "<< <untrusted")


def system(coworker: str | None, name: str = "execute") -> str:
    """Return the system instruction of an agent step; `coworker`: the objective and instructions of its agent file."""
    text = resources.prompt(name).strip()
    return f"{text}\n\n{coworker.strip()}" if coworker else text


def task(run: StepRun, earlier: Sequence[str] = ()) -> str:
    """Return the first turn of an attempt. `earlier`: instructions, the repository, earlier steps and attempts."""
    plan, step, state = run.plan, run.step, run.state
    # `runner do` writes the same text into plan and step: it is said once.
    whole = [_titled("The work", plan.header.title, plan.prose)] if plan.prose.strip() != step.prose.strip() else []
    parts = list(whole)
    if plan.header.acceptance:
        parts.append("It is accepted when:\n" + "\n".join(f"- {line}" for line in plan.header.acceptance))
    if plan.header.inputs:
        parts.append(
            "Inputs:\n" + "\n".join(f"- {key}: {json.dumps(value)}" for key, value in plan.header.inputs.items())
        )
    if len(plan.steps) > 1:
        parts.append("Its steps:\n" + "\n".join(_line(one, step, state) for one in plan.steps))
    if plan.context:
        parts.append(f"# Notes\n\n{plan.context.strip()}")
    parts += earlier
    parts.append(_titled("Your step" if whole else "Your task", step.header.title, step.prose))
    if step.header.outputs:
        parts.append("It must leave: " + ", ".join(step.header.outputs))
    if step.checks:
        parts.append("It is checked with: " + "; ".join(f"`{check}`" for check in step.checks))
    return "\n\n".join(part for part in parts if part)


def _titled(what: str, title: str, text: str) -> str:
    """Return a text below its title, which is left out where it is only the start of the text."""
    start = " ".join(title.removesuffix("…").split())
    heading = f"# {what}" if " ".join(text.split()).startswith(start) else f"# {what}: {title}"
    return f"{heading}\n\n{text.strip()}".strip()


def _line(one: Step, step: Step, state: State) -> str:
    mark = (
        "yours"
        if one.slug == step.slug
        else state.steps[one.slug].status.value
        if one.slug in state.steps
        else "pending"
    )
    said = f"- {one.number:02d}-{one.slug} ({mark})"
    # The approval of a step leaves later steps' files out, so that nothing in them is among the words that are trusted.
    return said if one.number >= step.number else f"{said}: {one.header.title}"


# --- the project ---------------------------------------------------------------------------------------------------------


def context(project: Project, request: str, commit: str) -> list[str]:
    """Return the parts of the prompt about the project, of limited size: files, history, symbols. They are the same in every
    clone."""
    files = files_of(project, commit)
    parts = [listing(files, PLANNERS_TREE_LIMIT)]
    subjects = _subjects(project, commit)
    if subjects:
        parts.append(fence("\n".join(subjects), "subjects of the last commits, newest first"))
    first = relevant(project, request, commit, files)[:FILES_MOST]
    asked = [
        word for word in _words(request) if not any(path.lower().endswith(word) for path in first)
    ]  # no file's name
    named = {part for word in asked for part in _PARTS.split(word) if len(part) > 3} - STOP
    known = symbols_of(project.git, commit, files, first, named)
    if known:
        parts.append(fence(known, "classes and functions, with the line of each; .x is inside of what is before it"))
    return [part for part in parts if part]


def files_of(project: Project, commit: str) -> dict[str, TreeEntry]:
    """Return the files of a commit that a prompt may name: none of the runner's, and none with an unprintable name."""
    return {
        path: entry
        for path, entry in project.git.files(commit).items()
        if not path.startswith(f"{paths.ROOT}/") and path.isprintable()
    }


def listing(files: Mapping[str, TreeEntry], limit: int = TREE_LIMIT) -> str:
    """Return the names of the files, quoted as untrusted."""
    return fence(tree_listing(list(files), limit), "files of the repository")


def shown(project: Project, files: Mapping[str, TreeEntry], names: Sequence[str]) -> Iterator[str]:
    """Yield the text of the files with these names, each quoted as untrusted, as many as there is room for."""
    left = FILES_LIMIT
    for path in names[:FILES_MOST]:
        plain = files[path].mode in (BLOB, EXECUTABLE)
        text = text_of(project, files[path]) if plain else None
        if text is not None and left > 0:
            told = cut(text, min(FILE_LIMIT, left))
            left -= len(told)
            yield fence(told, path)


def tree_listing(names: Sequence[str], limit: int) -> str:
    """Return the names where they fit into `limit` characters; else its folders with how many files each has."""
    if sum(len(name) + 1 for name in names) <= limit:
        return "\n".join(sorted(names))
    for depth in (6, 4, 3, 2, 1):
        counted = Counter("/".join(name.split("/")[:-1][:depth]) for name in names)
        lines = [
            f"{folder or '.'}/  {count} file{'s' if count != 1 else ''}" for folder, count in sorted(counted.items())
        ]
        if sum(len(line) + 1 for line in lines) <= limit:
            break
    return cut("\n".join(lines), limit)


def relevant(project: Project, request: str, commit: str, files: Mapping[str, TreeEntry]) -> list[str]:
    """Return the files that a request is probably about, the likeliest first: by their names, and by their text."""
    found: Counter[str] = Counter()
    wanted = _words(request)
    for word in wanted:
        for path in files:
            folder, _, name = path.lower().rpartition("/")
            found[path] += 4 * (word == name) + 3 * (word in name) + (word in folder)
    for word in wanted if len(files) <= GREP_MOST else ():
        _, out, _ = project.git.try_run("grep", *_GREP, "-e", word, commit)
        hits = [one.partition(":")[2] for one in out.decode("utf-8", "surrogateescape").split("\0") if one]
        if len(hits) <= COMMON:
            found.update(path for path in hits if path in files)
    plain = [path for path, score in found.items() if score and files[path].mode in (BLOB, EXECUTABLE)]
    return sorted(plain, key=lambda path: (-found[path], path))


def _words(request: str) -> list[str]:
    every = [word.lower() for word in WORD.findall(request)]
    return list(dict.fromkeys(word for word in every if len(word) > 2 and word not in STOP))[:WORDS_MOST]


def _subjects(project: Project, commit: str) -> list[str]:
    code, out, _ = project.git.try_run("rev-list", f"--max-count={SUBJECTS_MOST}", commit)
    found = [project.git.commit(oid) for oid in out.decode().split()] if code == 0 else []
    return [one.message.decode("utf-8", "replace").split("\n")[0][:80] for one in found if one is not None]


def text_of(project: Project, entry: TreeEntry) -> str | None:
    """Return the text of a file; None where it is binary or large."""
    size = project.git.sizes([entry.oid])[0]
    data = project.git.content(entry) if size is not None and size <= BLOB_MOST else None
    return None if data is None or b"\0" in data else data.decode("utf-8", "replace")


def cut(text: str, limit: int) -> str:
    """Return the text with at most `limit` characters of it, and a note of how many are left out."""
    return text if len(text) <= limit else f"{text[:limit]}\n[… {len(text) - limit:,} characters left out …]"


INSTRUCTIONS_LIMIT = 12_000  # characters of all instruction files of a conversation
MEMORY_LIMIT = 6_000  # characters of all memory; one fact has half of them at most
NAMES_LIMIT = 600  # characters of the names of facts that are left out
PLANNERS = "CONTRIBUTING.md"  # for those who plan
_LINKS = 4  # of one file
_IMPORT = re.compile(r"@(\S+)")


class Instructions:
    """The instruction files that a conversation has not got yet. `roots`: the names of the checkout in absolute paths."""

    def __init__(self, project: Project, roots: Sequence[str] = ()) -> None:
        self._git, self._roots, self._left = project.git, roots, INSTRUCTIONS_LIMIT
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
            text = (self._git.content(entry) or b"").decode("utf-8", "replace").strip()
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


def instructions_for_planner(project: Project, request: str) -> list[str]:
    """Return the instructions and the memory for who plans, `LIMIT` characters at most."""
    data = project.trusted.blob(project.git, PLANNERS)
    also = [f"# The project's {PLANNERS}\n\n{data.decode('utf-8', 'replace').strip()}"] if data else []
    parts, left = list[str](), INSTRUCTIONS_LIMIT
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
        data = project.git.content(files[name]) if name.endswith(".md") else None
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
