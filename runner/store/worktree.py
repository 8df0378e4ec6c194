"""The work trees of people: found, and made to follow a ref that moves, without touching what is theirs (design §6).

A follow has two halves. `prepare` takes the worktree's index lock and shows that following is possible; then the ref moves;
then `finish` writes files and index. Between them a note says what was under way, so that a follow that a crash cut is
settled at the next start, path by path, by its bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runner.errors import InTheWayError, UsageError
from runner.git import BLOB, EXECUTABLE, LINK, SUBMODULE, Git, TreeEntry, Worktree
from runner.store import locks
from runner.store.places import Places, write_atomically
from runner.store.surroundings import Surroundings

EDITOR_WAIT = 5.0  # seconds that another git may hold a worktree's index
COPY = "runner-index"
_CONVERSIONS = (
    "core.autocrlf",
    "core.eol",
    "core.ignorecase",
    "core.precomposeunicode",
    "core.symlinks",
    "core.filemode",
)


def on_branch(git: Git, ref: str) -> list[Worktree]:
    """Return the work trees that have the branch checked out."""
    return [tree for tree in git.worktrees() if tree.branch == ref]


def conversions(git: Git) -> list[str]:
    """Return how the person's own configuration converts line ends, where the repository's does not say."""
    code, out, _ = git.personal(
        "config", "--get-regexp", r"^core\.(autocrlf|eol|ignorecase|precomposeunicode|symlinks|filemode)$"
    )
    if code:
        return []
    told = dict(line.partition(" ")[::2] for line in out.decode("utf-8", "replace").splitlines())
    return [f"{key}={value}" for key, value in told.items() if key in _CONVERSIONS and git.config(key) is None]


def locked(git: Git, tree: Worktree, who: Surroundings) -> contextlib.AbstractContextManager[Path]:
    """Hold a worktree's index lock as git does, and give the path of a copy of the index to work on.

    Raises:
        InTheWayError: another git has it, still after 5 seconds.
    """
    return _locked(tree, who)


@contextlib.contextmanager
def _locked(tree: Worktree, who: Surroundings) -> Iterator[Path]:
    lock = tree.git_dir / "index.lock"
    until = who.monotonic() + EDITOR_WAIT
    while True:
        try:
            os.close(os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
            break
        except FileExistsError as error:
            if locks.remove_dead(lock, who):
                continue
            if who.monotonic() >= until:
                raise InTheWayError(
                    "another git is at work in this worktree",
                    str(tree.path),
                    f"finish it, then go on; its lock is {lock}",
                ) from error
            who.sleep(0.05)
        except OSError as error:
            raise UsageError(
                f"the worktree's index cannot be locked: {error.strerror}", str(lock), "make the repository writable"
            ) from error
    copy = tree.git_dir / COPY
    try:
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(tree.git_dir / "index", copy)
        yield copy
    finally:
        with contextlib.suppress(FileNotFoundError):
            copy.unlink()
        with contextlib.suppress(FileNotFoundError):
            lock.unlink()


@dataclass(frozen=True, slots=True)
class Follow:
    """A worktree that is ready to follow: its lock is held, and that it can was shown."""

    git: Git
    tree: Worktree
    copy: Path
    note: Path
    old: str
    new: str
    settings: list[str]

    def finish(self) -> None:
        """Write the files and the index of the new commit. The ref has moved."""
        self._run("read-tree", "-m", "-u", self.old, self.new)
        os.replace(self.copy, self.tree.git_dir / "index")
        with contextlib.suppress(FileNotFoundError):
            self.note.unlink()

    def forget(self) -> None:
        """The ref did not move: nothing is to be settled."""
        with contextlib.suppress(FileNotFoundError):
            self.note.unlink()

    def _run(self, *args: str) -> bytes:
        return self.git.run(
            *args, git_dir=self.tree.git_dir, index=self.copy, work_tree=self.tree.path, config=self.settings
        )


@contextlib.contextmanager
def prepare(git: Git, places: Places, ref: str, old: str, new: str, who: Surroundings) -> Iterator[list[Follow]]:
    """Lock each worktree on `ref` and show that it can follow from `old` to `new`.

    Raises:
        InTheWayError: files of a person's are in the way; they are named, and nothing was changed.
    """
    trees = on_branch(git, ref)
    with contextlib.ExitStack() as stack:
        follows = []
        settings = conversions(git) if trees else []
        for tree in trees:
            copy = stack.enter_context(_locked(tree, who))
            follow = Follow(git, tree, copy, _note_path(places, tree), old, new, settings)
            follows.append(follow)
            _refuse_what_is_in_the_way(follow)
        for follow in follows:
            told = {
                "worktree": str(follow.tree.path),
                "git_dir": str(follow.tree.git_dir),
                "ref": ref,
                "old": old,
                "new": new,
            }
            write_atomically(follow.note, json.dumps(told).encode() + b"\n")
        yield follows


def _note_path(places: Places, tree: Worktree) -> Path:
    return places.follows / f"{hashlib.sha256(os.fsencode(tree.git_dir)).hexdigest()[:16]}.json"


def _refuse_what_is_in_the_way(follow: Follow) -> None:
    changed = follow.git.changed(follow.old, follow.new)
    follow.git.try_run(
        "update-index",
        "-q",
        "--refresh",
        git_dir=follow.tree.git_dir,
        index=follow.copy,
        work_tree=follow.tree.path,
        config=follow.settings,
    )
    dirty = _names(follow._run("diff-files", "-z", "--name-only")) | _names(
        follow._run("diff-index", "--cached", "-z", "--name-only", follow.old)
    )
    in_the_way = {path for path in changed if path in dirty}
    for path, (before, after) in changed.items():
        if before is None and after is not None and _exists(follow.tree.path, path):
            in_the_way.add(path)
    if not in_the_way:
        code, _, err = follow.git.try_run(
            "read-tree", "-m", "-u", "-n", follow.old, follow.new,
            git_dir=follow.tree.git_dir, index=follow.copy, work_tree=follow.tree.path, config=follow.settings,
        )  # fmt: skip
        if code == 0:
            return
        in_the_way = {err.splitlines()[0] if err else "git read-tree refuses"}
    shown = sorted(in_the_way)
    more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
    raise InTheWayError(
        f"this would overwrite work of yours: {', '.join(shown[:5])}{more}",
        str(follow.tree.path),
        "commit, stash or move it, and run the same command again",
    )


def _names(out: bytes) -> set[str]:
    return set(filter(None, out.decode("utf-8", "surrogateescape").split("\0")))


def _exists(root: Path, path: str) -> bool:
    """Return whether something of the worktree's stands at `path`, or a file where one of its folders should be."""
    at = root
    for part in path.split("/"):
        at = at / part
        try:
            mode = at.lstat().st_mode
        except FileNotFoundError:
            return False
        except NotADirectoryError:
            return True
        if not stat.S_ISDIR(mode):
            return True
    return True  # a folder where a file should be


# --- settling ----------------------------------------------------------------------------------------------------------


def settle_all(git: Git, places: Places, ref: str, who: Surroundings) -> None:
    """Finish the follows of `ref` that a crash cut, path by path by their bytes; say which files were left to the person."""
    if not places.follows.is_dir():
        return
    for note in sorted(places.follows.glob("*.json")):
        try:
            told = json.loads(note.read_bytes())
            tree = Worktree(Path(told["worktree"]), Path(told["git_dir"]), told["ref"])
            if told["ref"] != ref:
                continue
        except (OSError, ValueError, KeyError, TypeError):
            continue
        tip = git.ref(ref)
        if (
            tip is not None
            and tip != told["old"]
            and tree.path.is_dir()
            and git.symbolic_ref("HEAD", tree.git_dir) == ref
        ):
            if git.is_ancestor(told["new"], tip):
                left = settle(git, tree, told["old"], told["new"], who)
                if left:
                    who.say(f"left as they are in {tree.path}, changed since: {', '.join(left[:5])}")
        else:
            locks.remove_dead(tree.git_dir / "index.lock", who)
        note.unlink(missing_ok=True)


def settle(git: Git, tree: Worktree, old: str, new: str, who: Surroundings) -> list[str]:
    """Bring a worktree whose branch has moved from `old` to `new` along, and return the paths left to the person.

    A file with the bytes of `old`, or absent, is checked out; one with the bytes of `new` is left; anything else is the
    person's. An index entry follows where it was `old`'s.
    """
    settings = conversions(git)
    changed = git.changed(old, new)
    left: list[str] = []
    with _locked(tree, who) as copy:

        def run(*args: str, data: bytes = b"") -> bytes:
            return git.run(*args, data=data, git_dir=tree.git_dir, index=copy, work_tree=tree.path, config=settings)

        if not copy.exists():
            run("read-tree", old)
        staged = _staged(run("ls-files", "-s", "-z"))
        info: list[bytes] = []
        write: list[str] = []
        for path, (before, after) in changed.items():
            here = _entry_on_disk(git, tree, path, settings)
            name = path.encode("utf-8", "surrogateescape")
            if staged.get(path) in (before, after):
                entry = f"{after.mode.zfill(6)} {after.oid} 0\t" if after else f"0 {git.zero} 0\t"
                info.append(entry.encode() + name + b"\0")
            if here == after:
                continue
            if here is not None and here != before:
                left.append(path)
            elif after is None:
                (tree.path / path).unlink()
                _prune(tree.path, path)
            else:
                write.append(path)
        run("update-index", "-z", "--index-info", data=b"".join(info))
        if write:
            run(
                "checkout-index",
                "-f",
                "-u",
                "-z",
                "--stdin",
                data=b"\0".join(p.encode("utf-8", "surrogateescape") for p in write) + b"\0",
            )
        git.try_run(
            "update-index", "-q", "--refresh", git_dir=tree.git_dir, index=copy, work_tree=tree.path, config=settings
        )
        os.replace(copy, tree.git_dir / "index")
    return left


def _staged(out: bytes) -> dict[str, TreeEntry]:
    found = {}
    for line in filter(None, out.decode("utf-8", "surrogateescape").split("\0")):
        meta, _, path = line.partition("\t")
        mode, oid, _ = meta.split(" ")
        found[path] = TreeEntry(mode, oid)
    return found


def _entry_on_disk(git: Git, tree: Worktree, path: str, settings: list[str]) -> TreeEntry | None:
    """Return what `git add` would make of the file at `path`, or None where there is none."""
    at = tree.path / path
    try:
        mode = at.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISLNK(mode):
        return TreeEntry(LINK, git.write("blob", os.fsencode(os.readlink(at))))
    if stat.S_ISDIR(mode):
        return TreeEntry(SUBMODULE, "")
    out = git.run(
        "hash-object",
        f"--path={path}",
        "--stdin",
        data=at.read_bytes(),
        git_dir=tree.git_dir,
        work_tree=tree.path,
        config=settings,
    )
    return TreeEntry(EXECUTABLE if mode & stat.S_IXUSR else BLOB, out.decode().strip())


def _prune(root: Path, path: str) -> None:
    for folder in (root / path).parents:
        if folder == root:
            return
        try:
            folder.rmdir()
        except OSError:
            return


# --- people's edits ----------------------------------------------------------------------------------------------------


def uncommitted(git: Git, tree: Worktree, folder: str) -> dict[str, TreeEntry | None]:
    """Return the person's changes below `folder` that are not in a commit: path to what `git add` would make of it."""
    settings = conversions(git)
    code, out, _ = git.try_run(
        "status", "--porcelain=v1", "-z", "--untracked-files=all", "--no-renames", "--ignored=no", "--", folder,
        git_dir=tree.git_dir, work_tree=tree.path, config=settings,
    )  # fmt: skip
    if code:
        return {}
    paths = [line[3:] for line in out.decode("utf-8", "surrogateescape").split("\0") if len(line) > 3]
    return {path: _entry_on_disk_written(git, tree, path, settings) for path in paths}


def _entry_on_disk_written(git: Git, tree: Worktree, path: str, settings: list[str]) -> TreeEntry | None:
    entry = _entry_on_disk(git, tree, path, settings)
    if entry is not None and entry.mode in (BLOB, EXECUTABLE):
        data = (tree.path / path).read_bytes()
        git.run(
            "hash-object",
            "-w",
            f"--path={path}",
            "--stdin",
            data=data,
            git_dir=tree.git_dir,
            work_tree=tree.path,
            config=settings,
        )
    return entry
