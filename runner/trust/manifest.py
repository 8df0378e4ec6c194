"""What a word is about, as bytes whose digest it names (design §4). A manifest is never stored: every reader makes it anew.

A manifest has a line for the version, the subject and the attempt, then sections, each with one line a file: mode, SHA-256,
size and path as JSON, sorted by path. A submodule's line has its commit in place of a hash. Nothing is cut and nothing is left
out for being large.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping

from runner.errors import InsufficientHistoryError
from runner.git import BLOB, LINK, SUBMODULE, TREE, Git, TreeEntry
from runner.protocol import ids, paths
from runner.protocol.digest import digest
from runner.protocol.state import State, StepStatus
from runner.values import dataclass

VERSION = 2  # what a new approval binds; 1 counts for approvals that were issued up to `OLD_UNTIL` (design §4)
OLD_UNTIL = 1_798_761_600  # 2027-01-01T00:00:00Z
_TOGETHER = 256  # blobs that are read at once


@dataclass(frozen=True, slots=True)
class Subject:
    """What is decided about. `name`: a step's slug, a call's name such as `deploy.1.3`, or empty; `attempt`: 0 where none is."""

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
        """Return the lines of the files of a tree (oid) that a word on the whole tree is about, as `is_code` tells them.

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
        tree = self._git.tree(oid)
        if tree is None:
            raise InsufficientHistoryError(f"the tree {oid[:12]} is not in this clone", oid, "run `git fetch`")
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
            for oid, data in zip(names, self._git.blobs(names), strict=True):
                if data is None:
                    what = f"the object {oid[:12]} is not in this clone"
                    raise InsufficientHistoryError(what, oid, "run `git fsck`, or `git fetch`")
                read[oid] = (hashlib.sha256(data).hexdigest(), len(data))
        for path, entry in new:
            hash_, size = (entry.oid, 0) if entry.mode == SUBMODULE else read[entry.oid]
            self._lines[path, entry] = f"{entry.mode} {hash_} {size} {json.dumps(path)}\n"
        return "".join(self._lines[item] for item in sorted(files.items(), key=_place)).encode("ascii")


def _place(item: tuple[str, TreeEntry]) -> bytes:
    """Return what a file's path, or a name in a tree, is sorted by: as bytes, a folder where its files are."""
    return (item[0] + "/" * (item[1].mode == TREE)).encode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the trusted branch lends to steps. `modules`: of tools, as config.yaml names them; `prompts`: a model is asked.

    `tools`: a step may call tools, whichever file names their modules.
    """

    agents: frozenset[str] = frozenset()
    modules: frozenset[str] = frozenset()
    prompts: bool = False
    tools: bool = False


INSTRUCTIONS = ("AGENTS.md", "CONTRIBUTING.md")  # of the trusted branch, told to every model
_IMPORTED = (".py", ".pyc", ".so", ".pyd")


def trusted_files(git: Git, commit: str, loaded: Loaded, version: int = VERSION) -> dict[str, TreeEntry]:
    """Return the trusted branch's files that will be loaded: coworkers, instructions, memory, and the code of tools.

    A coworker's own modules count too. A file that is not there has no line: that it comes is a change as well. A module may
    import whatever can be imported from the root of the tree, so all of that counts; by version 1, what is below the module's
    first name, and no memory.

    Raises:
        MalformedFileError: a coworker's file is not valid.
    """
    if not (loaded.agents or loaded.modules or loaded.prompts):
        return {}
    from runner.protocol import agent_file  # here: most steps have none, and its models are slow to load

    files = git.files(commit)
    agents = {paths.agent_file(name) for name in loaded.agents}
    modules = set(loaded.modules)
    for path in sorted(agents & files.keys()):
        data = git.blob(files[path].oid)
        if data is not None:
            modules |= {module.module for module in agent_file.parse(data, path).tool_modules()}
    roots = {module.partition(".")[0] for module in modules}
    beside = importable(files) if modules and version > 1 else frozenset()
    return {
        path: entry
        for path, entry in files.items()
        if path in agents
        or (loaded.prompts and (path in INSTRUCTIONS or (version > 1 and path.startswith(paths.MEMORY))))
        or path.partition("/")[0] in roots
        or path.removesuffix(".py") in roots
        or path in beside
    }


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


def render(subject: Subject, sections: Iterable[tuple[str, bytes]], version: int = VERSION) -> bytes:
    """Return a manifest's bytes; a section's: its lines, each with its newline."""
    head = f"runner-manifest/v{version}\nsubject: {subject}\nattempt: {subject.attempt}\n".encode("ascii")
    return head + b"".join(f"[{title}]\n".encode("ascii") + lines for title, lines in sections)


def digest_of(subject: Subject, sections: Iterable[tuple[str, bytes]], version: int = VERSION) -> str:
    """Return the digest that a word on the subject has to name."""
    return digest(render(subject, sections, version))


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
    """Return whether a path counts in a word on the whole tree: all but the record and the approvals of the protocol."""
    own = f"{paths.folder(protocol)}/"
    if not path.startswith(own):
        return True
    name = path.removeprefix(own)
    return not paths.is_record(name) and not name.startswith(paths.APPROVALS)


def plan_files(protocol: str, files: Mapping[str, TreeEntry], done: Iterable[str]) -> dict[str, TreeEntry]:
    """Return the words of people's that a plan's approval is about: plan, context and the steps that are not `done`.

    `files`: by their names in the protocol's folder.
    """
    gone = set(done)
    return {
        f"{paths.folder(protocol)}/{name}": entry
        for name, entry in files.items()
        if paths.is_words(name) and _slug_of(name) not in gone
    }


def step_words(protocol: str, files: Mapping[str, TreeEntry], slug: str) -> dict[str, TreeEntry]:
    """Return plan.md, context.md and the step's own file."""
    return {
        f"{paths.folder(protocol)}/{name}": entry
        for name, entry in files.items()
        if name in (paths.PLAN, paths.CONTEXT) or (paths.is_words(name) and _slug_of(name) == slug)
    }


def _slug_of(name: str) -> str:
    match = ids.STEP_FILE.fullmatch(name)
    return match["slug"] if match else ""
