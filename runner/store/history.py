"""The history ref: transcripts and long outputs, out of the team's diffs, and the chain kept alive after a squash (design §2).

A history commit's parents are the history before it and the branch's commit. Both refs move in one ref transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from runner.git import BLOB, Git, Ident, TreeEntry


def ref_of(protocol: str) -> str:
    """Return the ref that keeps a protocol's chain and transcripts."""
    return f"refs/runner/history/{protocol}"


def transcript_name(slug: str, attempt: int) -> str:
    """Return where an attempt's transcript lies in the history's tree."""
    return f"runs/{slug}.{attempt}.jsonl"


def review_name(slug: str, attempt: int) -> str:
    """Return where the transcript of the review of an attempt lies in the history's tree."""
    return f"runs/{slug}.{attempt}.qa.jsonl"


def add(
    git: Git, protocol: str, files: Mapping[str, bytes], commit: str, who: Ident, keeps: Sequence[str] = ()
) -> tuple[str, str | None]:
    """Write a history commit that files `files` beside the branch's new `commit`; return (it, the history before it).

    `keeps`: further commits that it keeps alive: the work so far of a step that waits.

    Files are only added: an attempt's transcript that is there already is replaced by a longer one of the same attempt only.
    """
    before = git.ref(ref_of(protocol))
    old = git.commit(before) if before else None
    changes = {name: TreeEntry(BLOB, git.write("blob", data)) for name, data in files.items()}
    tree = git.edit_tree(old.tree if old else None, changes) or git.write_tree({})
    parents = (*([before] if before else []), commit, *keeps)
    return git.write_commit(tree, parents, who, who, f"{protocol}: history\n".encode()), before


def read(git: Git, protocol: str, name: str) -> bytes | None:
    """Return a file of the history, or None where it is not here."""
    return git.blob(f"{ref_of(protocol)}:{name}")


def transcripts(git: Git, protocol: str) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the bytes of each file of the history's."""
    for name in sorted(git.tree(f"{ref_of(protocol)}:runs") or {}):
        yield f"runs/{name}", read(git, protocol, f"runs/{name}") or b""
