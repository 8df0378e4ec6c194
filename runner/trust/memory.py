"""Which files of the trusted branch's memory a person wrote (design §5): what a step wrote stays untrusted, merged or not."""

from __future__ import annotations

from runner.errors import InsufficientHistoryError
from runner.git import Git
from runner.protocol import log, paths
from runner.protocol.ids import is_protocol_id
from runner.trust.past import commit_of, touched


def written_by_people(git: Git, trusted: str) -> frozenset[str]:
    """Return the paths below memory/ whose last change on the trusted branch, at the commit `trusted`, was a person's own.

    It was where that commit of the first-parent chain is no transition and brings no protocol's record: a merge or a squash of a
    protocol's branch has its record with it. What this clone lacks the history of is nobody's.
    """
    left = {paths.MEMORY + name for name in git.tree(f"{trusted}:{paths.MEMORY.rstrip('/')}") or {}}
    if not left:
        return frozenset()
    found: set[str] = set()
    try:
        for oid in touched(git, ["--first-parent", trusted], [paths.MEMORY.rstrip("/")]):
            commit = commit_of(git, oid)
            before = commit_of(git, commit.parents[0]).oid if commit.parents else None
            changed = git.changed(before, oid)
            if log.parse_message(commit.message) is None and not any(_is_record(path) for path in changed):
                found |= left & changed.keys()
            left -= changed.keys()
            if not left:
                break
    except InsufficientHistoryError:
        pass
    return frozenset(found)


def _is_record(path: str) -> bool:
    root, _, rest = path.partition("/")
    protocol, _, name = rest.partition("/")
    return root == paths.ROOT and is_protocol_id(protocol) and paths.is_record(name)
