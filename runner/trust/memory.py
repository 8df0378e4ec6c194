"""Which files of the trusted branch's memory a person wrote (design §5): what a step wrote stays untrusted, merged or not."""

from __future__ import annotations

from runner.git import Git
from runner.protocol import message, paths
from runner.protocol.ids import is_protocol_id


def written_by_people(git: Git, trusted: str) -> frozenset[str]:
    """Return the paths below memory/ whose last change on the trusted branch, at the commit `trusted`, was a person's own.

    It was where that commit of the first-parent chain is no transition and brings no protocol's record: a merge or a squash of a
    protocol's branch has its record with it. What this clone lacks the history of is nobody's.
    """
    left = {paths.MEMORY + name for name in git.tree(f"{trusted}:{paths.MEMORY.rstrip('/')}") or {}}
    if not left:
        return frozenset()
    args = ("log", "--first-parent", "-m", "--root", "--no-renames", "--format=%x01%H", "--name-only", "-z")
    code, out, _ = git.try_run(*args, trusted, "--", paths.MEMORY.rstrip("/"))
    if code:
        return frozenset()
    found: set[str] = set()
    for block in out.decode("utf-8", "surrogateescape").split("\x01")[1:]:
        oid, *names = [one.strip("\n") for one in block.split("\0")]
        touched = left.intersection(names)
        if touched and _is_persons(git, oid):
            found |= touched
        left -= touched
        if not left:
            break
    return frozenset(found)


def _is_persons(git: Git, oid: str) -> bool:
    commit = git.commit(oid)
    if commit is None or message.parse(commit.message) is not None:
        return False
    before = commit.parents[0] if commit.parents else None
    if before is not None and git.commit(before) is None:
        return False
    return not any(_is_record(path) for path in git.changed(before, oid))


def _is_record(path: str) -> bool:
    root, _, rest = path.partition("/")
    protocol, _, name = rest.partition("/")
    return root == paths.ROOT and is_protocol_id(protocol) and paths.is_record(name)
