"""The workspace: the runner's own checkout, outside every repository, where steps work and agents may write (design §6).

It has a repository of its own, with the objects of its commit's history and without a remote; the runner never runs git in it. The
runner reads the files with its own index and git directory. Nothing of it is ever taken for a person's, or the other way round.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shlex
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Unpack

from runner import beneath
from runner.errors import InsufficientHistoryError, RefusedError, UsageError
from runner.git import (
    BLOB,
    LINK,
    SUBMODULE,
    TREE,
    Git,
    GitError,
    Options,
    TooSlowError,
    Tree,
    TreeEntry,
    git_error,
    is_full,
)
from runner.git.objects import entries, name_of
from runner.lines import is_harmless
from runner.protocol import globs
from runner.protocol.ids import digest
from runner.protocol.paths import POLICY, ROOT, is_record
from runner.store import locks, objects, remote, worktree
from runner.store.environment import Clone, write_atomically, write_loosely

EXCLUDES = "__pycache__/\n.pytest_cache/\nnode_modules/\n.venv/\n*.pyc\n.DS_Store\n"
MOST_RECORD = 64 * 1024 * 1024  # bytes of a file of the record


class Workspace:
    """The folders and files of a workspace of a clone, all below `root`; commands get `work` alone."""

    def __init__(self, clone: Clone, root: Path) -> None:
        self.clone, self.git, self.root = clone, clone.git, root
        self.work = root / "work"  # the folder that commands run in
        self.home = root / "home"  # the HOME of commands, and of no other process
        self.export = root / "check"  # the folder that checks run in
        self.check_home = root / "check-home"  # the HOME of checks, which has nothing of a step's
        self.index = root / "index"  # the runner's index of `work`
        self.empty = root / "empty"  # an empty file, shown in the place of one that holds credentials
        self.objects = root / objects.BORROWED  # of the commit's own history: the repository in `work` borrows them


def place(clone: Clone, protocol: str, configured: str | None) -> Workspace:
    """Return where the protocol's workspace lies; never below a `.git`, where test runners see nothing and pass.

    Raises:
        UsageError: the configured place is below a `.git`.
    """
    own = clone.dirs.own
    if configured:
        given = Path(configured).expanduser() if configured.startswith("~/") else Path(configured)
        own = clone.dirs.common.parent / given / own.name
    root = Path(os.path.realpath(own / protocol))  # sandboxes want paths without `..`
    if ".git" in root.parts or any(
        os.path.exists(f"{parent}/HEAD") and os.path.isdir(f"{parent}/objects") for parent in root.parents
    ):
        raise UsageError(
            "the workspace would lie inside a git directory", str(root), "set `workspace: {path: …}` elsewhere"
        )
    return Workspace(clone, root)


def shell(space: Workspace, number: int) -> Workspace:
    """Return where one of the shells that people open in a protocol's sandbox has a workspace of its own."""
    return Workspace(space.clone, space.root.with_name(f"{space.root.name}.shell-{number}"))


def _run(space: Workspace, *args: str, **options: Unpack[Options]) -> bytes:
    """Run git in the workspace, with its own index, excludes and settings; return its output."""
    return _ran(space, *args, **options)[0]


def _ran(space: Workspace, *args: str, **options: Unpack[Options]) -> tuple[bytes, str]:
    """Do what `_run` does, and return what git says on stderr, too."""
    excludes = space.root / "excludes"
    if not excludes.exists() or excludes.stat().st_size != len(EXCLUDES):  # half a file would exclude nothing
        write_atomically(excludes, EXCLUDES.encode())
    own = [f"core.excludesFile={excludes}", *worktree.conversions(space.git), *_filesystem(space)]
    at: Options = {"index": space.index, "work_tree": space.work, **options}
    at["config"] = [*own, *options.get("config", ())]
    code, out, err = space.git.try_run(*args, **at)
    if code:
        error = git_error(["git", *args], code, err)
        if is_full(err):
            raise GitError(error.what, str(space.root), _full(space), stderr=err, code=code)
        raise error
    return out, err


def _filesystem(space: Workspace) -> list[str]:
    """Return what this folder's file system can hold; the repository's configuration speaks of another one, perhaps.

    What a step does to a file is seen by any of its times.
    """
    probe = space.root / "excludes"
    probe.chmod(0o755)
    executable = bool(probe.stat().st_mode & 0o100)
    probe.chmod(0o644)
    modes = executable and not probe.stat().st_mode & 0o100
    caseless = (space.root / "EXCLUDES").exists()
    return [
        f"core.fileMode={str(modes).lower()}",
        f"core.ignoreCase={str(caseless).lower()}",
        "core.symlinks=true",
        "core.trustctime=true",
        "core.checkStat=default",
    ]


def reset(
    space: Workspace,
    commit: str,
    protocol: str,
    *,
    clean: bool = False,
    trusted: str | None = None,
) -> None:
    """Make the workspace hold exactly `commit`, keeping ignored files (caches) unless `clean`.

    One that cannot be reset twice is thrown away and made anew: all that is worth keeping is in commits by now.
    `trusted`: a commit that other protocols grow out of too, whose history is packed once for all of them.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        space.root.parent.mkdir(parents=True, exist_ok=True)
        beneath.ensure(space.root.parent, space.root.name)
        if beneath.ensure(space.root, "work"):
            forget_setup(space)
        beneath.remove(space.work, ".git")
    except OSError as error:
        raise unusable(space, error) from error
    locks.remove_dead(space.root / "index.lock", space.clone.env)
    fetch_missing(space.clone, commit)
    fresh = not space.index.exists()
    try:
        if fresh:
            _empty(space)
        try:
            _check_out(space, commit, clean=clean)
        except (GitError, OSError):
            if fresh:
                raise
            try:
                _mend(space.work)  # a step that was cut short may have locked what it left
                _check_out(space, commit, clean=clean)
            except (GitError, OSError):
                remove(space)
                space.root.mkdir()
                _empty(space)
                _check_out(space, commit, clean=clean)
                space.clone.env.say(f"the workspace of {protocol} could not be reset: it was deleted and made again")
        objects.lend(space.git, space.root, commit, trusted, space.clone.env.say)
        _make_repository(space, commit, protocol, space.work, space.index)
    except OSError as error:
        raise unusable(space, error) from error


def unusable(space: Workspace, error: OSError) -> UsageError:
    """Return the error of a workspace that this user cannot read, write or remove, with what helps."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = _full(space)
    elif os.path.lexists(space.root):
        hint = (
            f"`sudo rm -r {shlex.quote(str(space.root))}`: it holds nothing of value, and the next step makes it again"
        )
    else:
        hint = "set `workspace: {path: …}` in .protocols/config.yaml"
    return UsageError(f"the workspace cannot be used: {error.strerror}", str(space.root), hint)


def _full(space: Workspace) -> str:
    return f"make room on the disk; `runner clean {space.root.name}` removes the workspace; nothing was published"


def _empty(space: Workspace) -> None:
    beneath.remove(space.root, "work")
    beneath.ensure(space.root, "work")
    forget_setup(space)


def _check_out(space: Workspace, commit: str, *, clean: bool) -> None:
    fresh = not space.index.exists()
    if not fresh:
        _make_way(space, commit)
        if not clean and _follow(space, commit):
            return
    _read_tree(space, commit)
    if not fresh:
        _run(space, "clean", "-ffdq", *(["-x"] if clean else []))
    _note_index(space, _tree_of(space.git, commit))


def _read_tree(space: Workspace, tree: str) -> None:
    """Have git write the files of a tree, and note when the last of them was written."""
    # What the index and a file's times agree on is left as it is; of those a step cannot set all back (`_filesystem`).
    _run(space, "read-tree", "--reset", "-u", tree)
    write_loosely(space.root / "checked-out", b"")


def _follow(space: Workspace, commit: str) -> bool:
    """Bring a workspace that holds what the last step left to a commit that only has another record, as most have.

    False: git has to do it, since something else differs or lies there. git looks at every file once here, and would do so thrice.
    """
    tree, wanted = _tree_of_index(space), _tree_of(space.git, commit)
    if tree is None:
        return False
    try:
        changed = space.git.changed(tree, wanted)
    except InsufficientHistoryError:  # work that was refused long ago
        return False
    if not all(is_record(path.rpartition("/")[2]) and path.startswith(f"{ROOT}/") for path in changed):
        return False
    if any({entry.mode if entry else "" for entry in pair} != {BLOB} for pair in changed.values()):
        return False
    given = ("ls-files", "-z", "--others", "--exclude-standard", "--directory", "--modified", "--deleted")
    index = entries(space.index.read_bytes(), changed, space.git.oid_length // 2)
    if index is None or _run(space, *given):
        return False
    aside, files = space.root / "record", {}
    for path, (before, after) in changed.items():
        assert before is not None and after is not None
        here = beneath.read(space.work, path, MOST_RECORD) or b""
        # A file that git converts as it writes it has other bytes.
        if {before.oid} != {index.entry(path).oid, name_of("blob", here, space.git.object_format)}:
            return False
        aside.write_bytes(space.git.require(after.oid, path))
        beneath.copy(space.work, path, aside)
        files[path] = after.oid
    if files:
        times = space.index.stat()  # git compares newer files by content
        written = {path: (files[path], status) for path, status in beneath.statuses(space.work, files)}
        aside.write_bytes(index.replaced(written).data)
        os.utime(aside, ns=(times.st_atime_ns, times.st_mtime_ns))
        os.replace(aside, space.index)
    _note_index(space, wanted)
    return True


def _tree_of(git: Git, commit: str) -> str:
    found = git.commit(commit)
    assert found is not None
    return found.tree


def _note_index(space: Workspace, tree: str) -> None:
    """Note the tree that the index has now."""
    write_loosely(space.root / "index-of", f"{tree} {_signature(space.index)}".encode())


def _tree_of_index(space: Workspace) -> str | None:
    """Return the tree that the index has, None where that was not noted since it was written."""
    try:
        tree, _, signature = (space.root / "index-of").read_text().partition(" ")
        return tree if signature == _signature(space.index) else None
    except (OSError, ValueError):
        return None


def _is_older_than_index(space: Workspace) -> bool:
    """Return whether the files that git checked out are older than the index, by seconds: else git reads them to compare them."""
    try:
        return int((space.root / "checked-out").stat().st_mtime) < int(space.index.stat().st_mtime)
    except OSError:
        return False


def _signature(path: Path) -> str:
    return " ".join(map(str, worktree.signature(path.stat())))


def _make_way(space: Workspace, commit: str) -> None:
    """Take away what would lead git astray as it checks out a commit: links in place of folders, and the content of submodules.

    Git looks at the folder of a submodule through a link above it, and takes for ours what it finds there.
    """
    known: dict[str, Tree | None] = {"": space.git.whole_tree(commit)}

    def folder(path: str) -> Tree | None:
        """Return what the tree has in a folder, by names as file systems that ignore case see them."""
        if path not in known:
            above, _, name = path.rpartition("/")
            entry = {globs.fold(one): entry for one, entry in (folder(above) or {}).items()}.get(globs.fold(name))
            known[path] = space.git.tree(entry.oid) if entry and entry.mode == TREE else None
        return known[path]

    for path in _look(space.work).links:
        if folder(path) is not None:
            beneath.remove(space.work, path)
    for path in submodules(space.git, commit):
        with contextlib.suppress(NotADirectoryError):  # git replaces a file in the place of a folder above
            if beneath.target(space.work, path) is not None or beneath.names(space.work, path):
                beneath.remove(space.work, path)


class Look(NamedTuple):
    """What lies in a workspace: folders that hold a repository of their own; links; folders with files whose path is too long."""

    inner: list[str]
    links: list[str]
    deep: list[str]


def _look(work: Path) -> Look:
    """Look through the workspace, opening folders that were locked, and removing named pipes: git would wait for one to be written."""
    found = Look([], [], [])
    for at in beneath.walk(work):
        inside = set(at.folders)
        for entry in at.entries:
            if entry.name == ".git" and ".git" not in at.path.split("/"):
                found.inner.append(at.path or ".")
            if (not at.is_deep and entry.is_file(follow_symlinks=False)) or entry.name in inside:
                continue  # as most are
            if at.is_deep:
                if at.path not in found.deep[-1:]:
                    found.deep.append(at.path)
            elif entry.is_symlink():
                found.links.append(at.path_of(entry.name))
            elif stat.S_ISFIFO(entry.stat(follow_symlinks=False).st_mode):
                os.unlink(entry.name, dir_fd=at.fd)
    return found


def _mend(work: Path) -> None:
    """Let the owner read and write the files that a command locked."""
    for at in beneath.walk(work):
        for entry in at.entries:
            beneath.unlock(entry, at)


def submodules(git: Git, commit: str) -> dict[str, str]:
    """Return the commits of the submodules of a commit, by their paths; none is checked out there."""
    if ".gitmodules" not in git.whole_tree(commit):
        return {}
    return {path: entry.oid for path, entry in git.files(commit).items() if entry.mode == SUBMODULE}


def _make_repository(space: Workspace, commit: str, protocol: str, work: Path, index: Path) -> None:
    """Write the workspace's own repository, by hand and beside it, and move it there: no git runs where an agent may write."""
    repository = space.root / "repository"
    beneath.remove(repository)
    for folder in ("objects/info", "objects/pack", "refs/heads", "refs/tags", "info"):
        (repository / folder).mkdir(parents=True)
    sha256 = space.git.object_format == "sha256"
    (repository / "config").write_text(
        f"[core]\n\trepositoryformatversion = {int(sha256)}\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n"
        + ("[extensions]\n\tobjectFormat = sha256\n" if sha256 else "")
        + "[user]\n\tname = protocol-runner\n\temail = runner@localhost.invalid\n[gc]\n\tauto = 0\n"
    )
    (repository / "HEAD").write_text(f"ref: refs/heads/{protocol}\n")
    (repository / f"refs/heads/{protocol}").write_text(commit + "\n")
    (repository / "objects/info/alternates").write_text(f"{space.objects}\n")
    (repository / "info/exclude").write_text(EXCLUDES)
    if space.git.is_shallow():
        shutil.copyfile(space.git.common_dir / "shallow", repository / "shallow")
    shutil.copyfile(index, repository / "index")
    beneath.put(work, ".git", repository)


class Work(NamedTuple):
    """What a step left: its tree, and the difference from its start."""

    tree: str
    changed: dict[str, tuple[TreeEntry | None, TreeEntry | None]]


class TooMuchError(RefusedError):
    """A step left more than it may: it is for a person to say whether it should leave less, or may leave more."""


class Bounds(NamedTuple):
    """What a step may leave: bytes of a file and in all, also as people wrote them, and files. `left`: seconds to store it."""

    file: int = 50_000_000
    file_said: str = "50 MB"
    total: int = 500_000_000
    total_said: str = "500 MB"
    files: int = 100_000
    left: Callable[[], float] | None = None

    @property
    def timeout(self) -> float | None:
        """Return the seconds that the next command may take."""
        return max(self.left(), 0.1) if self.left else None

    def refuse(self, sizes: Mapping[str, int]) -> None:
        """Refuse files that are too big, too big together, or too many.

        Raises:
            TooMuchError: naming the file and the limit.
        """
        biggest = max(sizes, key=lambda path: sizes[path], default="")
        name = biggest if all(map(is_harmless, biggest)) else json.dumps(biggest)  # the reason is one line
        name = name if len(name) <= 120 else f"…{name[-119:]}"  # the log keeps a line of all this
        total = sum(sizes.values())
        if biggest and sizes[biggest] > self.file:
            what = f"{name} has {sizes[biggest]:,} bytes; a step may leave files of at most {self.file_said}"
            key = "file_size"
        elif total > self.total:
            what = f"the step leaves {total:,} bytes, {sizes[biggest]:,} of them in {name}; at most {self.total_said} are allowed"
            key = "total"
        elif len(sizes) > self.files:
            what = f"the step leaves {len(sizes):,} new or changed files, such as {name}; at most {self.files:,} are allowed"
            key = "files"
        else:
            return
        hint = f"let it leave less, list other files in .gitignore, or raise `limits.{key}` in {POLICY}"
        raise TooMuchError(what, name, f"{hint} on the trusted branch; then `runner retry`")


def collect(space: Workspace, start: str, filters: tuple[str, ...], bounds: Bounds | None = None) -> Work:
    """Return the workspace's files as a tree: tracked files that changed, and new ones that git does not ignore.

    Raises:
        RefusedError: a nested repository, a changed path that needs a filter driver, or an encoding that does not fit; it took longer
            than `bounds` says. TooMuchError: more was left than they say.
    """
    bounds = bounds or Bounds()
    try:
        return _collect(space, start, filters, bounds)
    except OSError as error:
        raise unusable(space, error) from error
    except TooSlowError as error:
        space.index.with_name("index.lock").unlink(
            missing_ok=True
        )  # of the git that was killed: the index is nobody else's
        raise RefusedError(
            f"its files could not be collected in the time that it has: {error.what}",
            str(space.work),
            "let it leave less, or give it more time (`timeout:`)",
        ) from error


def _collect(space: Workspace, start: str, filters: tuple[str, ...], bounds: Bounds) -> Work:
    if not beneath.is_folder(space.root, "work"):
        raise RefusedError(
            "the step removed its own workspace", str(space.work), "leave the folder that it runs in where it is"
        )
    beneath.remove(space.work, ".git")
    look = _look(space.work)
    inner = submodules(space.git, start)
    for at in inner:
        if beneath.names(space.work, at):
            raise RefusedError(
                f"the step left files in the submodule {at}", at, "change a submodule in a checkout of your own"
            )
    if look.deep and (deep := _first_not_ignored(space, look.deep)):
        raise RefusedError(
            f"folders are nested so deep that git cannot name the files in them: {deep[:60]}…",
            f"{deep[:200]}…",
            "remove them in the step, or ignore them in .gitignore",
        )
    differing = _differing(space, bounds)
    _refuse_too_much(space, start, filters, bounds, differing)
    try:
        try:
            if differing or inner:
                _add(space, differing, config=_drivers(space.git, filters), timeout=bounds.timeout)
        except GitError as error:
            if isinstance(error, TooSlowError):
                raise
            _mend(space.work)
            _add(space, config=_drivers(space.git, filters), timeout=bounds.timeout)
    except TooSlowError:
        raise
    except GitError as error:
        if path := _first_not_ignored(space, look.inner):
            raise _nested(path) from error
        if name := re.search("invalid path '(.+)'", error.stderr):
            raise RefusedError(
                f"git takes no file of the name {name[1]}", name[1], "name it otherwise, or ignore it in .gitignore"
            ) from error
        _refuse_encoding(space, error)
        raise
    tree = None if differing else _tree_of_index(space)
    if tree is None:
        tree = _run(space, "write-tree").decode().strip()
        _note_index(space, tree)
    changed = space.git.changed(start, tree)
    left = {
        path: after.oid
        for path, (before, after) in changed.items()
        if after and after.mode != SUBMODULE and (before is None or before.oid != after.oid)
    }
    bounds.refuse({path: size or 0 for path, size in zip(left, space.git.sizes(list(left.values())), strict=True)})
    nested = [
        path for path, (before, after) in changed.items() if after and after.mode == SUBMODULE and before != after
    ]
    if nested:
        raise _nested(nested[0])
    links = [
        path for path, (_, after) in changed.items() if after and after.mode == LINK and path.startswith(f"{ROOT}/")
    ]
    if links:
        raise RefusedError(f"{links[0]} is a symbolic link", links[0], "files below .protocols are plain files")
    named = [path for path, (_, after) in changed.items() if after and after.mode != LINK]
    if named and _has_attributes(space):
        data = b"\0".join(path.encode("utf-8", "surrogateescape") for path in named) + b"\0"
        for path, value in _attribute(space, "filter", data, "--cached"):
            if value in filters and not _drivers(space.git, (value,)):
                raise RefusedError(
                    f"{path} goes through the filter `{value}`, which is not set up on this machine",
                    path,
                    f"set it up for yourself (`git {value} install`), and retry",
                )
            if value not in ("unspecified", "unset", "set", "") and value not in filters:
                raise RefusedError(
                    f"{path} goes through the filter `{value}`, which the runner does not run",
                    path,
                    f"allow it with `filters: [{value}]` in .protocols/config.yaml, or leave the file alone",
                )
    return Work(tree, changed)


def tree_now(space: Workspace, bounds: Bounds | None = None) -> str:
    """Return the workspace's files as a tree, in the middle of a step: so that it can be gone back to, not as its work.

    What git cannot take is left out: a repository without a commit, a file that its owner locked; and work that is more than a step
    may leave, which it may have gone before its end.

    Raises:
        RefusedError: a file is not in the encoding that its attributes say. GitError: the repository cannot store one.
    """
    bounds = bounds or Bounds()
    _look(space.work)
    try:
        differing = _differing(space, bounds)
        is_known = not (differing or _repositories(space)) and _is_older_than_index(space)
        if is_known and (tree := _tree_of_index(space)) is not None:
            return tree
        sizes = _sizes_of(space, differing)
        try:
            bounds.refuse(sizes)
            _add(space, differing, "--ignore-errors")
        except TooMuchError:
            _add_some(space, sizes, bounds)
    except GitError as error:
        if error.code != 1:
            _refuse_encoding(space, error)
            raise
        if any(beneath.read(space.work, path, 0) is not None for path in _sizes_of(space, _differing(space, bounds))):
            raise  # git can read the file and could not store it: its work would be gone with the workspace
    tree = _run(space, "write-tree").decode().strip()
    _note_index(space, tree)
    return tree


def _differing(space: Workspace, bounds: Bounds) -> list[str]:
    """Return the new files, those that differ from the index and those that are gone; of a repository its folder, with a `/`."""
    given = ("ls-files", "-z", "--others", "--exclude-standard", "--modified", "--deleted")
    out = _run(space, *given, timeout=bounds.timeout)
    return sorted({os.fsdecode(path) for path in out.split(b"\0") if path})


def _sizes_of(space: Workspace, differing: Iterable[str]) -> dict[str, int]:
    """Return the size of each file of `_differing`, which git would read to store it."""
    paths = [path for path in differing if not path.endswith("/")]
    return {
        path: found.st_size for path, found in beneath.statuses(space.work, paths) if not stat.S_ISDIR(found.st_mode)
    }


def _refuse_too_much(
    space: Workspace, start: str, filters: tuple[str, ...], bounds: Bounds, differing: Iterable[str]
) -> None:
    """Refuse what would take too long to store, or too much room, by the files' sizes alone.

    Raises:
        TooMuchError: naming the file and the limit.
    """
    sizes = _sizes_of(space, differing)
    try:
        bounds.refuse(sizes)
        return
    except TooMuchError:
        plain = [path for path in sizes if "\n" not in path]
        before = dict(zip(plain, space.git.sizes([f"{start}:{path}" for path in plain]), strict=True))
    # What has the size of what is there already may be just that; if not, it is found when it is stored.
    sizes = {path: size for path, size in sizes.items() if before.get(path) != size}
    if drivers := [name for name in filters if _drivers(space.git, (name,))]:  # these store something else
        data = b"".join(os.fsencode(path) + b"\0" for path in sizes)
        through = {path for path, value in _attribute(space, "filter", data) if value in drivers}
        sizes = {path: size for path, size in sizes.items() if path not in through}
    bounds.refuse(sizes)


def _add_some(space: Workspace, sizes: dict[str, int], bounds: Bounds) -> None:
    """Take as many of the files into the index as a step may leave, the smallest first."""
    total, some = 0, list[str]()
    for path, size in sorted(sizes.items(), key=lambda one: one[1]):
        total += size
        if size > bounds.file or total > bounds.total or len(some) >= bounds.files:
            break
        some.append(path)
    gone = _run(space, "diff-files", "-z", "--name-only", "--diff-filter=D", "--ignore-submodules=all")
    _mend(space.work)
    _update(space, some, gone)


def _add(
    space: Workspace,
    differing: Sequence[str] = (),
    *options: str,
    config: Sequence[str] = (),
    timeout: float | None = None,
) -> None:
    """Take the workspace's files into the index, where a repository that it has already is looked at as if it were new.

    To see whether a known one changed, git would run in it, outside the sandbox, with the configuration that it finds there:
    filters that its author chose. What we set to prevent that, git keeps from submodules. `differing`: the files that differ, if they
    were looked for (`_differing`); git looks at all of them only if it cannot take just these.
    """
    filled = [path for path in _repositories(space) if _holds_something(space, os.fsdecode(path))]
    if filled:
        _run(space, "update-index", "--force-remove", "-z", "--stdin", data=b"\0".join(filled) + b"\0")
    folders = (path for path, file in beneath.statuses(space.work, differing) if stat.S_ISDIR(file.st_mode))
    if differing and not filled and not any(path.endswith("/") for path in differing) and not any(folders):
        try:
            if _update(space, differing, config=config, timeout=timeout) or options:  # such as --ignore-errors
                return
        except GitError as error:  # a file that cannot be read, or is behind a link: git leaves it out below
            if isinstance(error, TooSlowError):
                raise
    _run(space, "add", "-A", *options, ".", config=config, timeout=timeout)
    _forget_times(space, differing)


def _update(space: Workspace, paths: Iterable[str], more: bytes = b"", **options: Unpack[Options]) -> bool:
    """Have the index hold the files as they are: `paths`, and those that are named in `more`, each with a NUL.

    Returns whether it does: git passes over names that it does not take, such as `.GIT`.
    """
    paths = list(paths)
    options["data"] = b"".join(os.fsencode(path) + b"\0" for path in paths) + more
    _, err = _ran(space, "update-index", "--add", "--remove", "--replace", "-z", "--stdin", **options)
    _forget_times(space, paths)
    return "Ignoring path" not in err


def _forget_times(space: Workspace, paths: Iterable[str]) -> None:
    """Have git always read those of the files whose mtime was set back in the second in which they were taken into the index.

    It compares a ctime by seconds: it would not see that such a file is changed once more in this second.
    """
    now = int(space.index.stat().st_mtime)
    found = ((path, file) for path, file in beneath.statuses(space.work, paths) if int(file.st_ctime) >= now)
    old = {os.fsencode(path) for path, file in found if file.st_mtime < int(file.st_ctime)}
    if old:
        entries = _run(space, "ls-files", "--stage", "-z").split(b"\0")
        data = b"".join(entry + b"\0" for entry in entries if entry.partition(b"\t")[2] in old)
        _run(space, "update-index", "-z", "--index-info", data=data)  # it lists nothing of the files themselves


def _repositories(space: Workspace) -> list[bytes]:
    """Return the paths at which the index has a repository."""
    if b"\0\0\xe0\0" not in space.index.read_bytes():  # the mode of one, 160000
        return []
    entries = _run(space, "ls-files", "--stage", "-z").split(b"\0")
    return [entry.partition(b"\t")[2] for entry in entries if entry.startswith(b"160000 ")]


def _holds_something(space: Workspace, path: str) -> bool:
    try:
        return bool(beneath.names(space.work, path))
    except OSError:
        return True


def restore(space: Workspace, tree: str) -> None:
    """Make the workspace hold a tree that `tree_now` gave; ignored files stay."""
    _make_way(space, tree)
    _read_tree(space, tree)
    _run(space, "clean", "-ffdq")


def _drivers(git: Git, filters: tuple[str, ...]) -> list[str]:
    """Return the filter drivers that config.yaml allows, as the person's own configuration has them.

    The repository's own never run. Stored files go through them; checked-out files do not, so a step sees what
    the repository holds (of LFS, the pointer).
    """
    own = git.personal_settings()
    names = [f"filter.{name}.{what}" for name in filters for what in ("clean", "process", "required")]
    return [f"{name}={own[name][-1]}" for name in names if name in own]


def _nested(path: str) -> RefusedError:
    return RefusedError(
        f"the work holds a repository of its own: {path}",
        path,
        "remove its .git folder in the step, or ignore the folder in .gitignore",
    )


def _refuse_encoding(space: Workspace, error: GitError) -> None:
    """Add to git's refusal what the step can do about it, where files shall be stored in another encoding.

    Raises:
        RefusedError: there is such a file.
    """
    names = _run(space, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for path, value in _attribute(space, "working-tree-encoding", names):
        if value not in ("unspecified", "unset", ""):
            raise RefusedError(
                f"git cannot take the files, which .gitattributes wants to be {value}: {error.what}",
                path,
                "leave `working-tree-encoding` as it was",
            ) from error


def _has_attributes(space: Workspace) -> bool:
    """Return whether a file of the index may have an attribute: git finds them there, and in the repository's own files."""
    data = space.index.read_bytes()
    if int.from_bytes(data[4:8], "big") not in (2, 3) or b".gitattributes" in data:  # others have names in parts
        return True
    return (space.git.common_dir / "info/attributes").exists() or space.git.config("attr.tree") is not None


def _attribute(space: Workspace, name: str, paths: bytes, *options: str) -> Iterator[tuple[str, str]]:
    """Yield (path, value) of an attribute of each of the paths, which end with a NUL each."""
    parts = os.fsdecode(_run(space, "check-attr", *options, "-z", "--stdin", name, data=paths)).split("\0")
    yield from zip(parts[0::3], parts[2::3], strict=False)


def _ignored(space: Workspace, paths: Iterable[str]) -> set[str]:
    """Return those of the paths that git ignores; none where it cannot judge one of them, which is behind a link, say."""
    named = {f"./{path}": path for path in paths}  # a colon at the beginning would mean something
    if not named:
        return set()
    data = b"".join(os.fsencode(path) + b"\0" for path in named)
    literal = {"GIT_LITERAL_PATHSPECS": "0"}  # it knows none
    try:
        out = _run(space, "check-ignore", "-z", "--stdin", "--no-index", data=data, env=literal)
    except GitError:  # code 1: none of them
        return set()
    return {named[path] for path in os.fsdecode(out).split("\0")[:-1]}


def left_ignored(space: Workspace) -> list[str]:
    """Return the files in the workspace that git ignores; none where there is no workspace."""
    if not space.index.exists():
        return []
    return os.fsdecode(_run(space, "ls-files", "-z", "--others", "--ignored", "--exclude-standard")).split("\0")[:-1]


def _first_not_ignored(space: Workspace, paths: Sequence[str]) -> str | None:
    ignored = _ignored(space, paths)
    return next((path for path in paths if path not in ignored), None)


def put_ignored(space: Workspace, files: Mapping[str, Path]) -> None:
    """Put copies of files into the workspace that the project's own .gitignore ignores; others would be taken for the step's work."""
    ignored = _ignored(space, files) or {path for path in files if _ignored(space, [path])}
    for path in sorted(ignored):
        beneath.copy(space.work, path, files[path])


def put_build(space: Workspace, name: str, source: Path, folder: Path) -> None:
    """Put a copy of a folder that a build writes, with its times, into the workspace or the export.

    Not into a workspace whose .gitignore does not ignore it: it would be taken for the step's work.

    Raises:
        OSError: it cannot be read or written; shutil.Error: some of it.
    """
    if folder == space.work and not _ignored(space, [f"{name}/x"]):
        return
    aside = space.root / "build"
    beneath.remove(aside)
    try:
        shutil.copytree(source, aside, symlinks=True)
        beneath.remove(folder, name)
        beneath.put(folder, name, aside)
    finally:
        beneath.remove(aside)


def export(space: Workspace, commit: str) -> Path:
    """Make a clean export of a commit's tree for checks, and return its folder."""
    beneath.remove(space.export)
    space.export.mkdir(parents=True)
    locks.remove_dead(space.root / "check-index.lock", space.clone.env)
    fetch_missing(space.clone, commit)
    with _indexed(space, commit, "--reset", "-u"):
        return space.export


def put_repository(space: Workspace, commit: str, protocol: str) -> None:
    """Put a repository into the export, for a setup."""
    with _indexed(space, commit) as index:
        _make_repository(space, commit, protocol, space.export, index)


def beside(space: Workspace, commit: str) -> list[str]:
    """Return what lies in the export beside the commit's own files: files, and folders of nothing else."""
    with _indexed(space, commit) as index:
        out = _run(space, "ls-files", "-z", "--others", "--directory", work_tree=space.export, index=index)
    return [os.fsdecode(path).rstrip("/") for path in out.split(b"\0") if path]


@contextlib.contextmanager
def _indexed(space: Workspace, commit: str, *options: str) -> Iterator[Path]:
    """Give an index of the commit for the export, having read it there with `options`; it is removed afterwards."""
    index = space.root / "check-index"
    index.unlink(missing_ok=True)
    _run(space, "read-tree", *options, commit, work_tree=space.export, index=index)
    yield index
    index.unlink(missing_ok=True)


def fetch_missing(clone: Clone, commit: str) -> None:
    """In a partial clone, bring the objects of a commit's tree here before they are needed.

    They come through the repository's promisor remote, with the person's own transport settings.
    """
    if clone.git.is_partial():
        objects.bring_all(clone.git, lambda oids: remote.fetch_objects(clone, oids), [commit])


def remove(space: Workspace) -> None:
    """Take the workspace away, whatever is in it.

    Raises:
        OSError: it cannot be removed.
    """
    beneath.remove(space.root)


def not_ours(space: Workspace) -> str | None:
    """Return a folder of the workspace, or the workspace itself, in which this user can change nothing and never will.

    Raises:
        OSError: it cannot be looked through.
    """
    if os.geteuid() == 0 or not os.path.lexists(space.root):
        return None
    if not _is_ours(None, os.fspath(space.root)):
        return str(space.root)
    for at in beneath.walk(space.root, unlock=False):
        for name in at.folders:
            if not _is_ours(at.fd, name):
                return str(space.root / at.path_of(name))
    return None


def _is_ours(fd: int | None, name: str) -> bool:
    """Return whether this user owns a folder, or may change its content."""
    if os.stat(name, dir_fd=fd, follow_symlinks=False).st_uid == os.geteuid():
        return True
    return os.access(name, os.R_OK | os.W_OK | os.X_OK, dir_fd=fd, effective_ids=True, follow_symlinks=False)


def setup_key(git: Git, commit: str, setup: str, files: tuple[str, ...]) -> str:
    """Return the digest by which a workspace's setup is still valid: its command, and the files it depends on."""
    oids = {path: entry.oid for path, entry in git.files(commit, *files).items()} if files else {}
    return digest(json.dumps([setup, oids], sort_keys=True).encode())


def setup_done(space: Workspace) -> str | None:
    """Return the key of the setup that was run in this workspace, or None."""
    try:
        return (space.root / "setup").read_text()
    except OSError:
        return None


def forget_setup(space: Workspace) -> None:
    """What the setup made went with the folder."""
    (space.root / "setup").unlink(missing_ok=True)


def note_setup(space: Workspace, key: str) -> None:
    """Remember that the setup was run."""
    write_atomically(space.root / "setup", key.encode())
