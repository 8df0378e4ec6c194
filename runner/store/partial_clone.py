"""What a partial clone has left at its remote: brought when it is read, all that is read together in one fetch (design §7).

git would fetch it by itself, an object at a time and by the repository's own settings. Here it comes through the mirror, with the
person's. Of a protocol's folder everything along its branch comes at once: the reader of one file reads the others next.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from runner.errors import UnreachableError
from runner.git import Git, GitError
from runner.lines import lines_of
from runner.protocol import ids, paths
from runner.store import remote

if TYPE_CHECKING:
    from runner.store.project import Project

ROUNDS = 32  # how often it is looked what is missing below what has come: a round a level, where trees are missing too


def install(project: Project) -> None:
    """Let the project's git fetch missing objects, where it is a partial clone."""
    if project.git.is_partial():
        project.git.fetch_promised = lambda oid, names: bring(project, oid, names)


def bring(project: Project, oid: str, names: Sequence[str]) -> None:
    """Bring an object that is missing and those that are read with it. `names`: oids and `REVISION:PATH`, or a command's words.

    Raises:
        UnreachableError: the remote does not answer.
    """
    with _by_hand(project):
        if all(ids.OID.fullmatch(name) for name in names):
            _fetch(project, [oid, *(name for name in names if name != oid)])  # those that are here already cost little
            return
        if oid not in bring_all(project.git, partial(_fetch, project), *_scope(project, names)):
            _fetch(project, [oid])


def ahead(project: Project, protocol: str, tip: str) -> None:
    """In a partial clone, bring every version of a protocol's folder along its branch: a verification reads them all.

    Raises:
        UnreachableError: the remote does not answer.
    """
    if project.git.fetch_promised is not None:
        with _by_hand(project):
            bring_all(project.git, partial(_fetch, project), *_chain(project, protocol, [tip]))


@contextlib.contextmanager
def _by_hand(project: Project) -> Iterator[None]:
    """Let nothing be fetched unasked meanwhile: the block only asks which objects are missing."""
    usual, project.git.fetch_promised = project.git.fetch_promised, None
    try:
        yield
    finally:
        project.git.fetch_promised = usual


def bring_all(
    git: Git, fetch: Callable[[list[str]], None], revisions: Sequence[str], below: Sequence[str] = ()
) -> set[str]:
    """Fetch the missing objects of these commits' trees, below the paths alone where there are any; return their ids.

    Trees come first, each with those below it: a server that is asked for a tree and for a file in it leaves the file out.
    """
    asked: set[str] = set()
    for only in (("--filter=blob:none",), ()):
        for _ in range(ROUNDS):
            wanted = missing(git, revisions, below, *only)
            if not wanted or asked.issuperset(wanted):
                break
            fetch(wanted)
            asked |= set(wanted)
    return asked


def _fetch(project: Project, oids: list[str]) -> None:
    if project.offline:
        raise UnreachableError(
            "this is a partial clone, and the objects that are needed are on its remote, which is not asked",
            oids[0],
            "run the same command again without --offline",
        )
    try:
        remote.fetch_objects(project.git, oids, project.env)
    except UnreachableError as error:
        raise UnreachableError(
            f"this is a partial clone, and the objects that are needed are on its remote: {error.what}",
            error.where,
            error.hint,
        ) from error


def missing(git: Git, revisions: Sequence[str], below: Sequence[str] = (), *options: str) -> list[str]:
    """Return the objects of these commits' trees that are not here, those below the paths alone where there are any."""
    if not revisions:
        return []
    lines_in = "".join(f"{line}\n" for line in (*revisions, "--", *below)).encode("utf-8", "surrogateescape")
    args = ("rev-list", "--objects", "--no-object-names", "--no-walk", "--missing=print", *options, "--stdin")
    code, out, _ = git.try_run(*args, data=lines_in)
    lines = lines_of(out.decode("utf-8", "surrogateescape")) if code == 0 else []
    return [line[1:] for line in lines if line.startswith("?")]


def _scope(project: Project, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return (commits, paths) of all that comes along with the objects that are read."""
    git = project.git
    split = [name.partition(":") for name in names if ":" in name and "\n" not in name]
    pairs = {(revision, path) for revision, _, path in split if _is_commit(git, revision)}
    if not pairs:  # a git command: the whole trees of the commits that it is about
        return [name for name in names if ids.OID.fullmatch(name) and _is_commit(git, name)], []
    folders = {path.split("/")[1] for _, path in pairs if path.startswith(f"{paths.ROOT}/") and path.count("/") > 1}
    tips = sorted({revision for revision, _ in pairs})
    for name in folders:
        if len(folders) == 1 and ids.is_protocol_id(name):
            return _chain(project, name, tips)
    return tips, sorted({path for _, path in pairs})


def _chain(project: Project, protocol: str, tips: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return (commits, paths) of every version of a protocol's folder that the trusted branch has not."""
    commits = project.git.try_run("rev-list", *tips, f"^{project.trusted.commit}", "--")[1].decode()
    return [*tips, *commits.split()], [paths.folder(protocol)]


def _is_commit(git: Git, revision: str) -> bool:
    try:
        return git.resolve(revision) is not None
    except GitError:
        return False
