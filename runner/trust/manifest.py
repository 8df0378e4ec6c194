"""The subject of an approval, as bytes whose digest it names (design §4). A manifest is never stored: every reader makes it again.

A manifest has a line for the version, the subject and the attempt, then sections, each with one line a file: mode, SHA-256,
size and path as JSON, sorted by path. A submodule's line has its commit in place of a hash. Nothing is cut and nothing is left
out for being large.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from runner.git import BLOB, LINK, SUBMODULE, TREE, Git, TreeEntry
from runner.lines import pattern
from runner.protocol import config, globs, ids, paths
from runner.protocol.ids import digest
from runner.protocol.state import State, StepStatus

VERSION = 3  # what a new approval binds; 1 and 2 count for approvals that were issued up to `OLD_UNTIL` (design §4)
OLD_UNTIL = 1_798_761_600  # 2027-01-01T00:00:00Z
_TOGETHER = 256  # blobs that are read at once


class Subject(NamedTuple):
    """The subject of a decision. `name`: a step's slug, a call's such as `deploy.1.3`, or empty; `attempt`: 0 where it has none."""

    kind: str
    name: str = ""
    attempt: int = 0

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind

    @property
    def slug(self) -> str:
        """The step that it is about, or empty."""
        return self.name.split(".", 1)[0]


class Contents:
    """Lines of manifests, of one protocol: each file is read once, and of the last whole tree what did not change is kept."""

    def __init__(self, git: Git, protocol: str) -> None:
        self._git, self._protocol = git, protocol
        # A folder, by its path: the tree that it was last, and its lines, with (path, tree) where a folder in it stands.
        self._folders: dict[str, tuple[str, list[bytes | tuple[str, str]]]] = {}
        self._lines: dict[tuple[str, TreeEntry], str] = {}  # of a file at a path

    def tree(self, tree: str) -> bytes:
        """Return the lines of a tree's files (oid) that an approval of the whole tree covers, by `is_code`.

        Raises:
            InsufficientHistoryError: a tree, or the bytes of a file, is not in this clone.
        """
        out: list[bytes] = []
        stack: list[bytes | tuple[str, str]] = [("", tree)]
        while stack:
            item = stack.pop()
            if isinstance(item, bytes):
                out.append(item)
                continue
            path, oid = item
            if path not in self._folders or self._folders[path][0] != oid:
                self._folders[path] = oid, self._folder(path, oid)
            stack += reversed(self._folders[path][1])
        return b"".join(out)

    def _folder(self, prefix: str, oid: str) -> list[bytes | tuple[str, str]]:
        tree = self._git.whole_tree(oid)
        items: list[bytes | tuple[str, str]] = []
        files: dict[str, TreeEntry] = {}
        for name, entry in sorted(tree.items(), key=_place):
            path = prefix + name
            if entry.mode != TREE:
                if is_code(self._protocol, path):
                    files[path] = entry
                continue
            items += [self.lines(files), (f"{path}/", entry.oid)]
            files = {}
        return [*items, self.lines(files)]

    def lines(self, files: Mapping[str, TreeEntry]) -> bytes:
        """Return the lines of a section.

        Raises:
            InsufficientHistoryError: a file's bytes are not in this clone.
        """
        new = [(path, entry) for path, entry in files.items() if (path, entry) not in self._lines]
        todo = sorted({entry.oid for _, entry in new if entry.mode != SUBMODULE})
        read: dict[str, tuple[str, int]] = {}
        for start in range(0, len(todo), _TOGETHER):
            names = todo[start : start + _TOGETHER]
            for oid, data in self._git.require_all({oid: f"the blob {oid[:12]}" for oid in names}).items():
                read[oid] = (hashlib.sha256(data).hexdigest(), len(data))
        for path, entry in new:
            hash_, size = (entry.oid, 0) if entry.mode == SUBMODULE else read[entry.oid]
            self._lines[path, entry] = f"{entry.mode} {hash_} {size} {json.dumps(path)}\n"
        return "".join(self._lines[item] for item in sorted(files.items(), key=_place)).encode("ascii")


def _place(item: tuple[str, TreeEntry]) -> bytes:
    """Return what a file's path, or a name in a tree, is sorted by: as bytes, a folder where its files are."""
    return (item[0] + "/" * (item[1].mode == TREE)).encode("utf-8", "surrogateescape")


class Loaded(NamedTuple):
    """What the trusted branch lends to steps. `modules`: of tools, as config.yaml names them; `prompts`: a model is asked.

    `tools`: a step may call tools, whichever file names their modules.
    """

    agents: frozenset[str] = frozenset()
    modules: frozenset[str] = frozenset()
    prompts: bool = False
    tools: bool = False


INSTRUCTIONS = ("AGENTS.md", "CLAUDE.md", "GEMINI.md")  # of each folder of the trusted branch, for models
_INSTRUCTIONS_BEFORE = ("AGENTS.md", "CONTRIBUTING.md")  # by versions 1 and 2, at the root alone
_IMPORTED = (".py", ".pyc", ".so", ".pyd")


def trusted_files(git: Git, commit: str, loaded: Loaded, version: int = VERSION) -> dict[str, TreeEntry]:
    """Return the trusted branch's files that will be loaded: agent files, instructions, memory, and the code of tools.

    An agent file's own modules count too. A file that is not there has no line: adding it is a change as well. A module may
    import anything that can be imported from the root of the tree, so all of that counts; by version 1, the files below the module's
    first name, and no memory. Which folders an agent comes to is not known before, so instructions count in all of them.

    Raises:
        MalformedFileError: an agent file is not valid.
    """
    if not (loaded.agents or loaded.modules or loaded.prompts):
        return {}

    files = git.files(commit)
    agents = {paths.agent_file(name) for name in loaded.agents}
    modules = set(loaded.modules)
    for path in sorted(agents & files.keys()):
        if (data := git.content(files[path])) is not None:
            modules |= {module.module for module in config.parse_agent(data, path).tool_modules()}
    roots = {module.partition(".")[0] for module in modules}
    beside = importable(files) if modules and version > 1 else frozenset()
    return {
        path: entry
        for path, entry in files.items()
        if path in agents
        or (loaded.prompts and (is_instruction(path, version) or (version > 1 and path.startswith(paths.MEMORY))))
        or path.partition("/")[0] in roots
        or path.removesuffix(".py") in roots
        or path in beside
    }


def is_instruction(path: str, version: int = VERSION) -> bool:
    """Return whether a path of the trusted branch has instructions for models."""
    if version < 3:
        return path in _INSTRUCTIONS_BEFORE
    return path.rpartition("/")[2] in INSTRUCTIONS and not path.startswith(f"{paths.ROOT}/")


def importable(files: Mapping[str, TreeEntry]) -> Collection[str]:
    """Return the paths that a Python module at the root may import, with what lies beside them in the same top folder.

    All of the tree where a link or a submodule is among them, for it may lead anywhere.
    """
    tops = {path.partition("/")[0] for path in files if path.endswith(_IMPORTED)}
    odd = {path.partition("/")[0] for path, entry in files.items() if entry.mode in (LINK, SUBMODULE)}
    found = {top for top in tops | odd if top.endswith(_IMPORTED) or top.isidentifier()}
    if found & odd:
        return files.keys()
    return {path for path in files if path.partition("/")[0] in found}


def digest_of(subject: Subject, sections: Iterable[tuple[str, bytes]], version: int = VERSION) -> str:
    """Return the digest that an approval of the subject has to name; a section's bytes: its lines, each with its newline."""
    head = f"runner-manifest/v{version}\nsubject: {subject}\nattempt: {subject.attempt}\n".encode("ascii")
    return digest(head + b"".join(f"[{title}]\n".encode("ascii") + lines for title, lines in sections))


def results(state: State, slug: str) -> bytes:
    """Return the lines of the results that a step gets: one for each completed step that has one."""
    return "".join(
        f"{digest(json.dumps(one.result, sort_keys=True).encode())} {json.dumps(name)}\n"
        for name, one in sorted(state.steps.items())
        if name != slug and one.status is StepStatus.COMPLETED and one.result is not None
    ).encode("ascii")


def kept(lines: bytes, leaves_out: Callable[[str], bool]) -> bytes:
    """Return the lines of a section but those of plain files that are left out."""
    plain, found = f"{BLOB} ".encode("ascii"), []
    for line in lines.split(b"\n")[:-1]:
        if line.startswith(plain):
            path = line.split(b" ", 3)[3]
            # Nearly every path is written as it is; to read each as JSON would take most of the time.
            if leaves_out(json.loads(path) if b"\\" in path else path[1:-1].decode("ascii")):
                continue
        found.append(line + b"\n")
    return b"".join(found)


def is_code(protocol: str, path: str) -> bool:
    """Return whether a path counts in an approval of the whole tree: all but the record and the approvals of the protocol."""
    own = f"{paths.folder(protocol)}/"
    if not path.startswith(own):
        return True
    name = path.removeprefix(own)
    return not paths.is_record(name) and not name.startswith(paths.APPROVALS)


def plan_files(protocol: str, files: Mapping[str, TreeEntry], done: Iterable[str]) -> dict[str, TreeEntry]:
    """Return the plan files that an approval of the plan covers: plan, context and the steps that are not `done`.

    `files`: by their names in the protocol's folder.
    """
    gone = set(done)
    return {
        f"{paths.folder(protocol)}/{name}": entry
        for name, entry in files.items()
        if paths.is_plan_file(name) and _slug_of(name) not in gone
    }


def step_files(protocol: str, files: Mapping[str, TreeEntry], slug: str) -> dict[str, TreeEntry]:
    """Return plan.md, context.md and the step's own file."""
    return {
        f"{paths.folder(protocol)}/{name}": entry
        for name, entry in files.items()
        if name in (paths.PLAN, paths.CONTEXT) or (paths.is_plan_file(name) and _slug_of(name) == slug)
    }


def _slug_of(name: str) -> str:
    match = ids.STEP_FILE.fullmatch(name)
    return match["slug"] if match else ""


# --- what an approval of a step's start leaves out ---------------------------------------------------------------------

# Prose for people, at the top of the tree. Why these, and no more: docs/adr/0013-harmless.md.
HARMLESS = ("README*", "CHANGELOG*", "LICENSE*")

_WORD = pattern(r"[\w.*?/@+-]+")
_SPELLED = pattern(r"[\w./@+-]+")  # a path that such words can name; of any other nobody knows whether a step names it
_GLOBS_MOST = 200  # of a text; one with more names everything
_EVERYTHING = frozenset((".", "./", "..", "../", "*", "**"))


@dataclass(frozen=True, slots=True)
class Cover:
    """The files that an approval of a step's start leaves out. `number`: the step's; `harmless`: globs; `text`: of step and checks.

    `is_protected`: of a folded path. `keeps_base`: whether git's own merge of the trusted branch changes nothing.
    """

    protocol: str
    number: int
    harmless: tuple[str, ...]
    text: str
    is_protected: Callable[[str], bool]
    keeps_base: bool
    _known: dict[str, bool] = field(default_factory=dict, repr=False, compare=False)
    _made: list[tuple[re.Pattern[str], _Named]] = field(default_factory=list, repr=False, compare=False)

    @property
    def exceptions(self) -> bytes:
        """The lines of the manifest that list the exceptions, as the policy has them."""
        said = [f"ignore {json.dumps(glob)}\n" for glob in sorted(self.harmless)]
        return "".join([*said, *(["base keep\n"] if self.keeps_base else [])]).encode("ascii")

    def is_later(self, path: str) -> bool:
        """Return whether a path is the file of a step that comes after this one."""
        folder, _, name = path.rpartition("/")
        match = ids.STEP_FILE.fullmatch(name) if folder == paths.folder(self.protocol) else None
        return match is not None and int(match["number"]) > self.number

    def is_harmless(self, path: str) -> bool:
        """Return whether a person may change the bytes of the file at a path: neither named by step or check, nor protected.

        A path that no word of a text can spell (`README (deploy).sh`) may always be named.
        """
        if not self.harmless:
            return False
        if not self._made:
            fits = globs.compiled([globs.path_pattern(glob) for glob in self.harmless])
            self._made.append((fits, _Named.in_(self.text)))
        fits, named = self._made[0]
        if fits.fullmatch(path) is None:
            return False
        if path not in self._known:
            folded = globs.fold(path)
            own = folded == paths.ROOT or folded.startswith(f"{paths.ROOT}/")
            is_spelled = _SPELLED.fullmatch(folded) is not None
            self._known[path] = is_spelled and not (own or self.is_protected(folded) or named.has(folded))
        return self._known[path]


def is_plain(*entries: TreeEntry | None) -> bool:
    """Return whether each is a regular file that is not executable, or none at all: no link, no mode that changes."""
    return all(entry is None or entry.mode == BLOB for entry in entries)


class _Named(NamedTuple):
    """The paths that a text names: whole, by their last name with or without its ending, by a folder above, or by a glob."""

    everything: bool
    words: frozenset[str]
    globs: re.Pattern[str] | None

    @classmethod
    def in_(cls, text: str) -> _Named:
        found = set(_WORD.findall(globs.fold(text)))
        words = {word.removeprefix("./").rstrip("./") for word in found}
        words |= {word.rpartition("/")[2] for word in words}
        wild = sorted(word for word in words if set("*?") & set(word))
        everything = len(wild) > _GLOBS_MOST or not _EVERYTHING.isdisjoint(found)
        patterns = globs.compiled([globs.path_pattern(word) for word in wild]) if wild and not everything else None
        return cls(everything, frozenset(words - {""}), patterns)

    def has(self, path: str) -> bool:
        if self.everything:
            return True
        parts = path.split("/")
        above = {"/".join(parts[:count]) for count in range(1, len(parts) + 1)}
        if not self.words.isdisjoint(above | {parts[-1].split(".")[0]}):
            return True
        if any(
            word.endswith(parts[-1]) for word in self.words
        ):  # an option may stand right before it: -fREADME, @README
            return True
        fits = self.globs.fullmatch if self.globs is not None else None
        return fits is not None and (fits(path) is not None or fits(parts[-1]) is not None)
