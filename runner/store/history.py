"""The history ref: transcripts and long outputs, out of the team's diffs, and the chain kept alive after a squash (design §2).

A history commit's parents are the history before it and the branch's commit. Both refs move in one ref transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from runner.errors import InsufficientHistoryError
from runner.git import BLOB, Commit, Git, Ident, TreeEntry


def ref_of(protocol: str) -> str:
    """Return the ref that keeps a protocol's chain and transcripts."""
    return f"refs/runner/history/{protocol}"


def fetch(remote: str | None) -> str:
    """Return the command that brings the histories of all protocols; `remote`: None where there is none to name."""
    return f"git fetch {remote or 'REMOTE'} 'refs/runner/history/*:refs/runner/history/*'"


def transcript_name(slug: str, attempt: int) -> str:
    """Return where an attempt's transcript lies in the history's tree."""
    return f"runs/{slug}.{attempt}.jsonl"


def review_name(slug: str, attempt: int) -> str:
    """Return where the transcript of the review of an attempt lies in the history's tree."""
    return f"runs/{slug}.{attempt}.qa.jsonl"


def next_plan(git: Git, protocol: str) -> str:
    """Return where the transcript of the next plan will lie that a model writes: the first `runs/plan.N.jsonl` that is free."""
    number = 1
    while read(git, protocol, transcript_name("plan", number)) is not None:
        number += 1
    return transcript_name("plan", number)


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
    return git.write_commit(tree, parents, who, who, _message(protocol)), before


def commits(git: Git, protocol: str, tip: str) -> Iterator[tuple[Commit, str]]:
    """Yield each commit of the history with the branch's commit that it was filed beside, the newest first.

    Raises:
        InsufficientHistoryError: one of them is not in this clone.
    """
    at: str | None = tip
    while at is not None:
        commit = git.commit(at)
        before = git.commit(commit.parents[0]) if commit is not None and commit.parents else None
        if commit is None or before is None:
            raise InsufficientHistoryError(
                f"{ref_of(protocol)} is cut off in this clone", at, "fetch it anew, from a clone that has it whole"
            )
        goes_on = before.message == _message(protocol) and len(commit.parents) > 1
        yield commit, commit.parents[1 if goes_on else 0]
        at = before.oid if goes_on else None


def _message(protocol: str) -> bytes:
    return f"{protocol}: history\n".encode()


def read(git: Git, protocol: str, name: str) -> bytes | None:
    """Return a file of the history, or None where it is not here."""
    return git.blob(f"{ref_of(protocol)}:{name}")


def transcripts(git: Git, protocol: str, prefix: str = "") -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) of the history's transcripts whose names begin so, `plan.2` before `plan.10`."""
    names = [name for name in git.tree(f"{ref_of(protocol)}:runs") or {} if name.startswith(prefix)]
    for name in sorted(names, key=lambda name: (len(name), name)):
        yield f"runs/{name}", read(git, protocol, f"runs/{name}") or b""
