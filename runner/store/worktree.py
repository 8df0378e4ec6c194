"""The work trees of people: found, and made to follow a ref that moves, without touching their changes (design §6).

A follow has two parts. `prepare` takes the worktree's index lock and shows that following is possible; then the ref moves;
then `finish` writes files and index. Between them a note names the follow, so that a follow that a crash cut is
settled at the next start, path by path, by its bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from runner.errors import InTheWayError, RunnerError, UsageError
from runner.git import BLOB, EXECUTABLE, LINK, SUBMODULE, Git, GitError, TreeEntry, Worktree, objects
from runner.git.objects import name_of
from runner.lines import few
from runner.store import locks
from runner.store.environment import Clone, Environment, StateDir, matching, write_atomically

EDITOR_WAIT = 5.0  # seconds that another git may hold a worktree's index
COPY = "runner-index"
LOOK_SECONDS = 0.5  # in which a person's edit may wait to be found, but of the files that a step uses
_FEW = 8  # files that are written here; of more, git tells faster
# Of such a path git makes a file on each file system.
_PLAIN_PATH = re.compile(r"(?:(?!\.git|git~)[\w .+-]+(?:/|$))+", re.ASCII | re.IGNORECASE)
_CONVERSIONS = (
    "core.autocrlf",
    "core.eol",
    "core.ignorecase",
    "core.precomposeunicode",
    "core.symlinks",
    "core.filemode",
)


def way_back(git: Git, branch: str, tip: str, old: str) -> str:
    """Return the command that puts a branch (full ref name) back from `tip` to `old`."""
    there = git.checked_out(branch)
    if there:
        return f"git -C {shlex.quote(str(there[0].path))} reset --keep {old}"
    return f"git update-ref {branch} {old} {tip}"


_UNFINISHED = {
    "MERGE_HEAD": "a merge",
    "CHERRY_PICK_HEAD": "a cherry-pick",
    "REVERT_HEAD": "a revert",
    "rebase-apply/applying": "`git am`",
}


def rebases(git: Git) -> dict[str, str]:
    """Return each branch that a person rebases, by its full name, and the git directory of the worktree in which they do."""
    found: dict[str, str] = {}
    for at in (str(git.common_dir), *git.worktree_folders()):
        if not os.path.exists(f"{at}/rebase-merge") and not os.path.exists(f"{at}/rebase-apply"):
            continue  # as nearly all of a thousand
        for name in ("rebase-merge/head-name", "rebase-apply/head-name", "rebase-merge/update-refs"):
            with contextlib.suppress(OSError):
                for line in Path(at, name).read_bytes().splitlines():
                    if line.startswith(b"refs/"):
                        found[os.fsdecode(line)] = at
    return found


def rebased_at(git_dir: Path) -> str | None:
    """Return the branch that a person rebases in the worktree of this git directory, by its full name, or None."""
    for name in ("rebase-merge/head-name", "rebase-apply/head-name"):
        with contextlib.suppress(OSError):
            return os.fsdecode(Path(git_dir, name).read_bytes().strip())
    return None


def refuse_rebased(git: Git, ref: str) -> None:
    """Refuse to move a branch that a person rebases: the rebase could not end, or would drop what came to the branch meanwhile.

    Raises:
        InTheWayError: a rebase of it is under way.
    """
    if (at := rebases(git).get(ref)) is not None:
        raise InTheWayError(
            f"a rebase of {ref.removeprefix('refs/heads/')} is under way",
            at,
            "finish it (`git rebase --continue`) or give it up (`git rebase --abort`), and run the same command again",
        )


def under_way(git: Git, ref: str) -> str | None:
    """Return the unfinished operation of a person with the branch in a worktree (a rebase, a merge …), or None."""
    if (at := rebases(git).get(ref)) is not None:
        return f"a rebase of it is under way ({os.path.basename(at)})"
    for tree in git.checked_out(ref):
        for name, what in _UNFINISHED.items():
            if (tree.git_dir / name).exists():
                return f"{what} is under way in {tree.path}"
    return None


def conversions(git: Git) -> list[str]:
    """Return how the person's own configuration converts line ends, where the repository's does not say."""
    own = git.personal_settings()
    return [f"{key}={own[key][-1]}" for key in _CONVERSIONS if key in own and git.config(key) is None]


def settings_of(git: Git, tree: Worktree) -> list[str]:
    """Return what a worktree's own configuration says about which files are in it, and in what form."""
    found = conversions(git)
    if (tree.git_dir / "info/sparse-checkout").exists():
        settings = git.settings(tree.git_dir)
        for key in ("core.sparsecheckout", "core.sparsecheckoutcone"):
            found += [f"{key}={settings[key][-1]}"] if key in settings else []
    return found


@contextlib.contextmanager
def locked(tree: Worktree, env: Environment) -> Iterator[Path]:
    """Hold a worktree's index lock as git does, and give the path of a copy of the index to work on.

    Raises:
        InTheWayError: another git has it, still after 5 seconds.
    """
    lock = tree.git_dir / "index.lock"
    until = env.monotonic() + EDITOR_WAIT
    while True:
        try:
            # Held open while it is ours: a lock that is open nowhere is taken for a dead one.
            handle = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            break
        except FileExistsError as error:
            if locks.remove_dead(lock, env):
                continue
            if env.monotonic() >= until:
                raise InTheWayError(
                    "another git process is running in this worktree",
                    str(tree.path),
                    f"finish it, then continue; its lock is {lock}",
                ) from error
            env.sleep(0.05)
        except OSError as error:
            raise UsageError(
                f"the worktree's index cannot be locked: {error.strerror}", str(lock), "make the repository writable"
            ) from error
    copy = tree.git_dir / COPY
    left = (copy, copy.with_name(f"{COPY}.lock"))
    try:
        for path in left:  # of one that was killed
            path.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            # With its time: git looks into files that are as new as the index, and would trust their size under a newer one.
            shutil.copy2(tree.git_dir / "index", copy)
        yield copy
    finally:
        try:
            for path in (*left, lock):
                path.unlink(missing_ok=True)
        finally:
            os.close(handle)  # else what could not be taken away would never be a dead one's


Changes = Mapping[str, tuple[TreeEntry | None, TreeEntry | None]]  # path to (before, after)


class Rewrite(NamedTuple):
    """A follow that gives a few plain files other bytes, as nearly every transition does, its log and its state; or adds a few.

    `files`: what each was when it had the bytes of the old commit, by path; `added`: what is new, at paths where nothing was.
    """

    git: Git
    tree: Worktree
    copy: Path
    entries: objects.Entries
    files: Mapping[str, os.stat_result]
    new: Mapping[str, str]  # path to object
    added: Mapping[str, TreeEntry]

    def done(self) -> bool:
        """Write the files, and the index with the time that it had: git compares newer files by content. False where a file changed
        since it was looked at; then nothing was written. Their folder stays as it is: a change is a person's.

        Files that are `added` are left for git to write, which may convert them.
        """
        if any(_signature(f"{self.tree.path}/{path}") != signature(file) for path, file in self.files.items()):
            return False
        if not all(_is_free(self.tree.path, path) for path in self.added):
            return False
        content = {path: self.git.require(oid, path) for path, oid in self.new.items()}
        written = {}
        for path, data in content.items():
            at = self.tree.path / path
            at.write_bytes(data)
            written[path] = (self.new[path], at.lstat())
        before = self.copy.stat()
        self.git.listed = self.entries.replaced(written)
        self.copy.write_bytes(self.git.listed.data)
        os.utime(self.copy, ns=(before.st_atime_ns, before.st_mtime_ns))
        return True

    def listed(self) -> bytes:
        """Return what is added, as `git update-index --index-info` reads it."""
        rows = (f"{entry.mode} {entry.oid} 0\t".encode() + _bytes(path) for path, entry in self.added.items())
        return b"".join(row + b"\0" for row in rows)


def _rewrite(git: Git, tree: Worktree, copy: Path, changed: Changes) -> Rewrite | None:
    """Return how to follow without git looking at all files, None where it has to: at files that are gone, links, converted or changed
    content."""
    added = {path: after for path, (before, after) in changed.items() if before is None and after is not None}
    others = {path: pair for path, pair in changed.items() if path not in added}
    if len(changed) > _FEW or any(
        {entry.mode if entry else "" for entry in pair} != {BLOB} for pair in others.values()
    ):
        return None
    if added and (
        any(entry.mode not in (BLOB, EXECUTABLE) for entry in added.values())
        or not all(map(_PLAIN_PATH.fullmatch, added))
        or any(path.rpartition("/")[2] == ".gitattributes" for path in changed)  # it says how the others are written
        or (tree.git_dir / "info/sparse-checkout").exists()
        or not all(_is_free(tree.path, path) for path in added)
    ):
        return None
    try:
        data = copy.read_bytes()
        entries = git.listed = objects.entries(data, others, len(git.zero) // 2, git.listed, free=added)
    except (OSError, ValueError):
        return None
    if entries is None:
        return None
    files, new = {}, {}
    for path, (before, after) in others.items():
        assert before is not None and after is not None
        at = tree.path / path
        try:
            file, data = at.lstat(), at.read_bytes()
        except OSError:
            return None
        if file.st_mode & (stat.S_IXUSR | stat.S_IWUSR) != stat.S_IWUSR or file.st_nlink > 1:
            return None
        if not stat.S_ISREG(file.st_mode):
            return None
        if {before.oid} != {entries.entry(path).oid, name_of("blob", data, git.object_format)} or _crosses_a_link(
            tree.path, path
        ):
            return None
        files[path], new[path] = file, after.oid
    return Rewrite(git, tree, copy, entries, files, new, added)


def _crosses_a_link(root: Path, path: str) -> bool:
    return any((root / folder).is_symlink() for folder in list(Path(path).parents)[:-1])


Signature = tuple[int, ...]  # what a file is known by, as long as nobody writes it


def signature(file: os.stat_result) -> Signature:
    """Return what a file is known by."""
    return file.st_ino, file.st_size, file.st_mtime_ns, file.st_ctime_ns


def _signature(at: str) -> Signature | None:
    try:
        return signature(os.lstat(at))
    except OSError:
        return None


class Follow(NamedTuple):
    """A worktree that is ready to follow: its lock is held, and that it can was shown."""

    git: Git
    env: Environment
    tree: Worktree
    copy: Path
    note: Path
    old: str
    new: str
    settings: list[str]
    over: list[Path]  # notes of what is finished; they go once the locks are gone, or a lock would be left unknown
    rewrite: Rewrite | None = None  # where git has not to look at all files

    def finish(self) -> None:
        """Write the files and the index of the new commit. The ref has moved: a failure here is reported, and settled later."""
        try:
            if self.rewrite is None or not self.rewrite.done():
                self._run("read-tree", "-m", "-u", self.old, self.new)
            elif self.rewrite.added:
                self._run("update-index", "-z", "--index-info", data=self.rewrite.listed())
                # It writes over nothing: a file that a person has put there since stays, and is left to them.
                names = b"".join(_bytes(path) + b"\0" for path in self.rewrite.added)
                self._run("checkout-index", "-u", "-z", "--stdin", data=names)
            os.replace(self.copy, self.tree.git_dir / "index")
        except (RunnerError, OSError) as error:
            why = error.what if isinstance(error, RunnerError) else error.strerror
            self.env.say(f"{self.tree.path} could not be updated ({why}); the next command updates it")
            return
        self.over.append(self.note)

    def forget(self) -> None:
        """The ref did not move: nothing is to be settled."""
        self.note.unlink(missing_ok=True)

    def _run(self, *args: str, data: bytes = b"") -> bytes:
        return self.git.run(
            *args, data=data, git_dir=self.tree.git_dir, index=self.copy, work_tree=self.tree.path, config=self.settings
        )

    def _can(self) -> bool:
        try:
            self._run("read-tree", "-m", "-u", "-n", self.old, self.new)
        except GitError:
            return False
        return True


@contextlib.contextmanager
def prepare(clone: Clone, ref: str, old: str, new: str) -> Iterator[list[Follow]]:
    """Lock each worktree on `ref` and show that it can follow from `old` to `new`.

    Raises:
        InTheWayError: files of a person's are in the way; they are named, and nothing was changed.
    """
    git, dirs, env, over = clone.git, clone.dirs, clone.env, list[Path]()
    with contextlib.ExitStack() as stack:
        follows = []
        for tree in git.checked_out(ref):
            copy = stack.enter_context(locked(tree, env))
            changed = git.changed(old, new)
            rewrite = _rewrite(git, tree, copy, changed)
            at = _note_path(dirs, tree)
            follow = Follow(git, env, tree, copy, at, old, new, settings_of(git, tree), over, rewrite)
            if rewrite is None:
                _refuse_what_is_in_the_way(follow, changed)
            follows.append(follow)
        for follow in follows:
            note(dirs, follow.tree, ref, old, new)
        yield follows
    for path in over:
        path.unlink(missing_ok=True)


def note(dirs: StateDir, tree: Worktree, ref: str, old: str, new: str) -> Path:
    """Note that a worktree is about to be settled from `old` to `new`, and return the note, to be taken away when it is."""
    path = _note_path(dirs, tree)
    for left in path.parent.glob(f".{path.name}.*"):  # of one that was killed as it wrote
        left.unlink(missing_ok=True)
    told = {"worktree": str(tree.path), "git_dir": str(tree.git_dir), "ref": ref, "old": old, "new": new}
    write_atomically(path, json.dumps(told).encode() + b"\n")
    return path


def _note_path(dirs: StateDir, tree: Worktree) -> Path:
    return dirs.follows / f"{hashlib.sha256(os.fsencode(tree.git_dir)).hexdigest()[:16]}.json"


def _refuse_what_is_in_the_way(follow: Follow, changed: Changes) -> None:
    git, root = follow.git, follow.tree.path
    gone = {path for path, (_, after) in changed.items() if after is None}
    in_the_way = {
        found
        for path, (before, after) in changed.items()
        if before is None and after is not None and (found := _foreign(root, path, gone))
    }
    absent = {path for path, (before, _) in changed.items() if before is not None and not os.path.lexists(root / path)}
    if absent:
        in_the_way |= absent & _names(follow._run("diff-files", "-z", "--name-only", "--ignore-submodules=dirty"))
    if not in_the_way:
        if follow._can():
            return
        # What only looks changed, by its times, is no hindrance. Where git cannot look (a full disk), nobody's work is in the way.
        try:
            follow._run("update-index", "-q", "--refresh")
        except GitError as error:
            if error.code != 1:
                raise
        if follow._can():
            return
    in_the_way |= set(changed) & (
        _names(follow._run("diff-files", "-z", "--name-only", "--ignore-submodules=dirty"))
        | _names(follow._run("diff-index", "--cached", "-z", "--name-only", follow.old))
    )
    if not in_the_way:  # hidden from git by assume-unchanged or skip-worktree, or a merge that is not finished
        disk = Disk(git, follow.tree, follow.settings)
        in_the_way = {path for path, (before, _) in changed.items() if before and disk.entry(path, before) != before}
    if not in_the_way and follow._run("ls-files", "-u", "-z"):
        raise InTheWayError(
            "a merge with conflicts is under way in this worktree",
            str(root),
            "finish it (`git merge --continue`) or give it up (`git merge --abort`), and run the same command again",
        )
    shown = sorted(in_the_way) or ["git does not say what: see `git status` there"]
    raise InTheWayError(
        f"this would overwrite work of yours: {few(shown, 5)}",
        str(root),
        "commit, stash or move it, and run the same command again",
    )


def _names(out: bytes) -> set[str]:
    return set(filter(None, out.decode("utf-8", "surrogateescape").split("\0")))


def _is_free(root: Path, path: str) -> bool:
    """Return whether nothing is at `path`, and only folders, or nothing, on the way to it."""
    return not os.path.lexists(root / path) and _foreign(root, path, set()) is None


def _foreign(root: Path, path: str, gone: set[str]) -> str | None:
    """Return the file that is where a new file goes and is not among the files that go away (`gone`), or None.

    That is something at `path`, something below it where it is a folder, or a file where one of its folders should be.
    """
    at, parts = root, path.split("/")
    for number, part in enumerate(parts, 1):
        at = at / part
        here = "/".join(parts[:number])
        try:
            mode = at.lstat().st_mode
        except FileNotFoundError:
            return None
        except OSError:
            return here
        if not stat.S_ISDIR(mode):
            return None if here in gone else here
    for folder, _, names in os.walk(at):
        for name in names:
            inner = os.path.relpath(os.path.join(folder, name), root)
            if inner not in gone:
                return inner
    return None


# --- settling ----------------------------------------------------------------------------------------------------------


class Cut(NamedTuple):
    """A follow that a crash cut, or that is under way, by its note: the worktree moves from the commit `old` to `new`."""

    tree: Worktree
    old: str
    new: str


def cut_follows(dirs: StateDir) -> Iterator[tuple[Path, Cut | None]]:
    """Give each note of a follow that is not finished, and what it says; None of one that cannot be read."""
    for note in matching(dirs.follows, "*.json"):
        found = None
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            noted = json.loads(note.read_bytes())
            tree = Worktree(Path(noted["worktree"]), Path(noted["git_dir"]), str(noted["ref"]))
            found = Cut(tree, str(noted["old"]), str(noted["new"]))
        yield note, found


def finish_follows(clone: Clone, ref: str) -> None:
    """Finish the follows of `ref` that a crash cut, path by path by their bytes; say which files were left to the person.

    The caller holds the branch's publish lock: the note of a living process is not to be taken for one that was cut.
    """
    git, env = clone.git, clone.env
    for note, cut in cut_follows(clone.dirs):
        if cut is None or cut.tree.branch != ref:
            continue
        tip, tree = git.ref(ref), cut.tree
        code, head, _ = git.try_run("symbolic-ref", "--quiet", "HEAD", git_dir=tree.git_dir)
        if code > 1 and tree.git_dir.is_dir():
            continue  # git could not say (a full disk, say), so what was cut is still to be finished
        if tip is not None and tip != cut.old and tree.path.is_dir() and head.decode().strip() == ref:
            if git.is_ancestor(cut.new, tip):
                left = finish_follow(git, tree, cut.old, cut.new, env)
                if left:
                    env.say(f"not updated in {tree.path}, because they have changed since: {', '.join(left[:5])}")
        else:
            locks.remove_dead(tree.git_dir / "index.lock", env)
        note.unlink(missing_ok=True)


def finish_follow(git: Git, tree: Worktree, old: str, new: str, env: Environment) -> list[str]:
    """Bring a worktree whose branch has moved from `old` to `new` along, and return the paths left to the person.

    A file with the bytes of `old`, or of a part of `new` (a git was killed as it wrote them, or the disk was full), or absent,
    is checked out; one with the bytes of `new` is left; anything else is the person's. An index entry follows where it was
    `old`'s.
    """
    settings = settings_of(git, tree)
    changed = git.changed(old, new)
    disk = Disk(git, tree, settings)
    left: list[str] = []
    with locked(tree, env) as copy:

        def run(*args: str, names: Iterable[str] = (), data: bytes = b"") -> bytes:
            data = data or b"".join(_bytes(name) + b"\0" for name in names)
            return git.run(*args, data=data, git_dir=tree.git_dir, index=copy, work_tree=tree.path, config=settings)

        if not copy.exists():
            run("read-tree", old)
        listed = _index(run("ls-files", "-v", "-s", "-z"))
        follows = [path for path, pair in changed.items() if listed.plain(path) in pair]
        hidden = [path for path in follows if path in listed.skipped]
        write: list[str] = []
        # What goes away goes first: a folder may become a file.
        for path, (before, after) in sorted(changed.items(), key=lambda item: item[1][1] is not None):
            if SUBMODULE in {entry.mode for entry in (before, after) if entry}:
                continue
            here = disk.entry(path, before, after)
            if here == after or (here is None and path in hidden):
                continue
            if here is not None and here != before and not (after and disk.begins(path, after)):
                left.append(path)
            elif here is None and after is not None and _foreign(tree.path, path, set()):
                left.append(path)  # a person's file is in the place of one of its folders
            elif after is None:
                (tree.path / path).unlink()
                _prune(tree.path, path)
            else:
                write.append(path)
        entries = {path: changed[path][1] for path in follows}
        info = [
            (f"{entry.mode.zfill(6)} {entry.oid} 0\t" if entry else f"0 {git.zero} 0\t").encode() + _bytes(path) + b"\0"
            for path, entry in entries.items()
        ]
        run("update-index", "-z", "--index-info", data=b"".join(info))
        for flag, paths in (("--skip-worktree", listed.skipped), ("--assume-unchanged", listed.assumed)):
            if again := [path for path, entry in entries.items() if entry and path in paths]:
                run("update-index", flag, "-z", "--stdin", names=again)
        if write:
            run("checkout-index", "-f", "-u", "-z", "--stdin", names=write)
        with contextlib.suppress(GitError):
            run("update-index", "-q", "--refresh")
        os.replace(copy, tree.git_dir / "index")
    return left


def _bytes(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


class _Index(NamedTuple):
    """What an index says: entries by path, those in conflict, and those that a person hid from git."""

    entries: dict[str, TreeEntry]
    conflicts: set[str]
    skipped: set[str]
    assumed: set[str]

    def plain(self, path: str) -> TreeEntry | None:
        """Return the entry that follows the branch; one in conflict follows nothing."""
        return TreeEntry("", "conflict") if path in self.conflicts else self.entries.get(path)


def _index(out: bytes) -> _Index:
    index = _Index({}, set(), set(), set())
    for line in filter(None, out.decode("utf-8", "surrogateescape").split("\0")):
        meta, _, path = line.partition("\t")
        tag, mode, oid, stage = meta.split(" ")
        if stage != "0":
            index.conflicts.add(path)
            continue
        index.entries[path] = TreeEntry(mode, oid)
        if tag in "Ss":
            index.skipped.add(path)
        if tag.islower():
            index.assumed.add(path)
    return index


class Disk(NamedTuple):
    """A worktree's files, as `git add` would see them."""

    git: Git
    tree: Worktree
    settings: list[str]

    def entry(self, path: str, *known: TreeEntry | None, write: bool = False) -> TreeEntry | None:
        """Return what `git add` would make of the file at `path`, or None where there is none.

        `known`: what it may be; their modes hold where the disk cannot tell them. What only a person can have put there (a
        folder, a link on the way, a file that cannot be read) is an entry that equals no other.
        """
        at, theirs = self.tree.path / path, TreeEntry("", "theirs")
        if _crosses_a_link(self.tree.path, path):
            return theirs
        try:
            mode = at.lstat().st_mode
            if stat.S_ISLNK(mode):
                return TreeEntry(LINK, self.git.write("blob", os.fsencode(os.readlink(at))))
            if not stat.S_ISREG(mode):
                return theirs
            data = at.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:
            return theirs
        link = next((entry for entry in known if entry and entry.mode == LINK), None)
        if link is not None and not self._keeps("core.symlinks"):
            return TreeEntry(LINK, self.git.write("blob", data))
        out = self.git.run(
            "hash-object", *(["-w"] if write else []), f"--path={path}", "--stdin",
            data=data, git_dir=self.tree.git_dir, work_tree=self.tree.path, config=self.settings,
        )  # fmt: skip
        executable = bool(mode & stat.S_IXUSR)
        if not self._keeps("core.filemode"):
            executable = any(entry is not None and entry.mode == EXECUTABLE for entry in known)
        return TreeEntry(EXECUTABLE if executable else BLOB, out.decode().strip())

    def begins(self, path: str, entry: TreeEntry) -> bool:
        """Return whether the file at `path` is one that a git started to write as `entry` and did not get to the end of."""
        at = self.tree.path / path
        if entry.mode not in (BLOB, EXECUTABLE) or at.is_symlink() or not at.is_file():
            return False
        whole = self.git.run(
            "cat-file", "--filters", f"--path={path}", entry.oid,
            git_dir=self.tree.git_dir, work_tree=self.tree.path, config=self.settings,
        )  # fmt: skip
        try:
            return whole.startswith(at.read_bytes())
        except OSError:
            return False

    def _keeps(self, key: str) -> bool:
        value = self.git.config(key) or dict(line.split("=", 1) for line in self.settings).get(key) or "true"
        return value.lower() in ("true", "yes", "on", "1")


def _prune(root: Path, path: str) -> None:
    for folder in (root / path).parents:
        if folder == root:
            return
        try:
            folder.rmdir()
        except OSError:
            return


# --- people's edits ----------------------------------------------------------------------------------------------------


def unsaved(git: Git, tree: Worktree, *folders: str) -> list[str]:
    """Return the paths of a person's files that are in no commit as they are, deleted ones too; none if git cannot say.

    What git ignores is not among them. `folders`: only those below them.
    """
    with contextlib.suppress(GitError):
        return sorted(path for _, path in _status(git, tree, settings_of(git, tree), *folders))
    return []


def _status(git: Git, tree: Worktree, settings: list[str], *folders: str) -> list[tuple[str, str]]:
    """Return git's two letters for each file that is not committed as it is, and its path."""
    out = git.run(
        "status", "--porcelain=v1", "-z", "--untracked-files=all", "--no-renames", "--ignored=no",
        "--ignore-submodules=dirty", "--", *folders,
        git_dir=tree.git_dir, work_tree=tree.path, config=settings,
    )  # fmt: skip
    return [(line[:2], line[3:]) for line in out.decode("utf-8", "surrogateescape").split("\0") if len(line) > 3]


_UNMERGED = ("DD", "AU", "UD", "UA", "DU", "AA", "UU")


def uncommitted(git: Git, tree: Worktree, folder: str) -> dict[str, TreeEntry | None]:
    """Return the person's changes below `folder` that are not in a commit: path to what `git add` would make of it.

    Raises:
        InTheWayError: a merge left conflicts there.
    """
    if _is_untouched(git, tree, folder):
        return {}
    settings = settings_of(git, tree)
    changes = _status(git, tree, settings, folder)
    if not changes:
        return {}
    conflicts = [path for code, path in changes if code in _UNMERGED]
    if conflicts:
        raise InTheWayError(
            f"a merge left conflicts: {', '.join(conflicts[:5])}",
            str(tree.path),
            "resolve them and commit the merge (`git merge --continue`), and run the same command again",
        )
    committed = git.files(tree.branch or "HEAD", folder)
    disk = Disk(git, tree, settings)
    found = {path: disk.entry(path, committed.get(path), write=True) for _, path in changes}
    return {path: entry for path, entry in found.items() if entry != committed.get(path)}


def _is_untouched(git: Git, tree: Worktree, folder: str) -> bool:
    """Return whether all below `folder` is committed, by index and disk; False where only git can tell."""
    try:
        below = git.below(f"{tree.branch}:{folder}")
        committed = {f"{folder}/{path}": entry for path, entry in below.items()}
        file = tree.git_dir / "index"
        when, data = file.stat().st_mtime_ns, file.read_bytes()
        listed = git.listed = objects.entries(data, committed, len(git.zero) // 2, git.listed)
        if listed is None or any(entry != listed.entry(path) for path, entry in committed.items()):
            return False
        left, top = set(committed), f"{tree.path}/"
        stack = [f"{top}{folder}"]
        while stack:
            with os.scandir(stack.pop()) as found:
                for one in found:
                    if one.is_dir(follow_symlinks=False):
                        stack.append(one.path)
                        continue
                    path = one.path[len(top) :]
                    here = one.stat(follow_symlinks=False)
                    if path not in left or not stat.S_ISREG(here.st_mode):
                        return False
                    left.discard(path)
                    if here.st_mtime_ns < when and listed.is_as_listed(path, here):
                        continue
                    if bool(here.st_mode & stat.S_IXUSR) != (committed[path].mode == EXECUTABLE):
                        return False
                    if name_of("blob", Path(one.path).read_bytes(), git.object_format) != committed[path].oid:
                        return False
    except (GitError, OSError, ValueError, RunnerError):
        return False
    return not left


class Quiet(NamedTuple):
    """The worktrees of a branch in which a look found no edit of a person's.

    `until`: when to look again, by the monotonic clock; `folders`: the protocol's in each worktree; `files`: all that is in them, but
    what the runner writes at each transition.
    """

    branch: str
    until: float
    folders: tuple[str, ...]
    files: Mapping[str, Signature | None]

    def holds(self, names: Iterable[str] | None = None) -> bool:
        """Return whether the files of these names, without names all of them, are as they were, and none came or went."""
        paths: Iterable[str] = self.files
        if names is not None:
            paths = [path for at in self.folders for path in (at, *(f"{at}/{name}" for name in names))]
        return all(_signature(path) == self.files.get(path) for path in paths)


def look(
    branch: str,
    trees: Iterable[Worktree],
    folder: str,
    now: float,
    written: Collection[str],
    known: Quiet | None = None,
) -> tuple[Quiet, bool]:
    """Return the files in a folder of these worktrees, and whether they are those `known`: else it has to be compared with the branch.

    `written`: the names of the files that the runner writes at each transition.
    """
    folders = tuple(f"{tree.path}/{folder}" for tree in trees)
    if known is not None and (known.branch, known.folders) == (branch, folders) and known.holds():
        return Quiet(branch, now + LOOK_SECONDS, folders, known.files), True
    files: dict[str, Signature | None] = {}
    skipped, stack = {f"{at}/{name}" for at in folders for name in written}, [*folders]
    while stack:
        at = stack.pop()
        files[at] = _signature(at)
        with contextlib.suppress(OSError), os.scandir(at) as inside:
            for one in inside:
                if one.is_dir(follow_symlinks=False):
                    stack.append(one.path)
                elif one.path not in skipped:
                    files[one.path] = _signature(one.path)
    return Quiet(branch, now + LOOK_SECONDS, folders, files), False
