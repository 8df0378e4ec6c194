"""Small files in the commit that a ref names, such as a lease or a day's budget: replaced whole, by compare-and-swap of the ref.

The caller parses them, and moves the ref: here by `Git.update_refs`, on a remote by `Mirror.push`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runner.git import BLOB, Git, Ident, TreeEntry
from runner.store import remote
from runner.store.environment import Environment


def read(git: Git, entries: Sequence[TreeEntry], limit: int, who: Environment) -> list[bytes] | None:
    """Return the bytes of such files, or None: one is no file, has more than `limit` bytes, or is not here.

    A partial clone fetches them.

    Raises:
        UnreachableError: they are at a remote that does not answer.
    """
    oids = [entry.oid for entry in entries]
    if git.is_partial() and (missing := [oid for oid in oids if git.blob(oid) is None]):
        remote.fetch_objects(git, missing, who)
    if any(size is None or size > limit for size in git.sizes(oids)):
        return None
    found = [data for data in git.blobs(oids) if data is not None]
    return found if len(found) == len(oids) else None


def write(git: Git, files: Mapping[str, bytes | TreeEntry], old: str | None, author: Ident, subject: str) -> str:
    """Return a commit that has these files (paths) alone, on top of `old`; the ref is still where it was."""
    entries = {
        path: TreeEntry(BLOB, git.write("blob", data)) if isinstance(data, bytes) else data
        for path, data in files.items()
    }
    tree = git.edit_tree(None, entries)
    assert tree is not None
    return git.write_commit(tree, (old,) if old else (), author, author, f"{subject}\n".encode())
