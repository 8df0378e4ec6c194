"""The history ref: transcripts and output, out of the team's diffs, and the chain kept alive after a squash (design §2).

A history commit's parents are the history before it and the branch's commit. Both refs move in one ref transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from runner.errors import InsufficientHistoryError
from runner.git import BLOB, Commit, Git, Ident, Tree, TreeEntry
from runner.protocol import paths

_OUTPUT = "output/"
FETCHED = "refs/runner-remote/"  # where `git fetch` puts the remote's refs/runner/


def ref_of(protocol: str) -> str:
    """Return the ref that keeps a protocol's chain and transcripts."""
    return f"refs/runner/history/{protocol}"


def fetched(protocol: str) -> str:
    """Return the ref where `git fetch` puts a protocol's history of the remote's: beside ours, which it never moves."""
    return f"{FETCHED}{ref_of(protocol).removeprefix('refs/runner/')}"


def brings(protocol: str, remote: str | None, command: str = "") -> str:
    """Return what brings the parts of a history that are not here. `remote`: None where there is none, or it was asked already;
    `command`: one that fetches them with `--yes`, by default `verify`."""
    if remote is not None:
        return f"`runner {command or f'verify {protocol}'} --yes` fetches it from {remote}"
    return (
        f"`git fetch CLONE '+refs/runner/*:{FETCHED}*'` brings it from a clone that has it; then the same command again"
    )


def run_file(name: str) -> str:
    """Return where a journal's transcript lies in the history's tree. `name`: the journal's, `SLUG.ATTEMPT` or the like."""
    return f"runs/{name}.jsonl"


def transcript_name(slug: str, attempt: int) -> str:
    """Return where an attempt's transcript lies in the history's tree."""
    return run_file(f"{slug}.{attempt}")


def review_name(slug: str, attempt: int) -> str:
    """Return where the transcript of the review of an attempt lies in the history's tree."""
    return run_file(f"{slug}.{attempt}.qa")


def output_name(slug: str, attempt: int, check: int | None = None) -> str:
    """Return where the output of an attempt's command lies in the history's tree, or that of its QA's check number `check`, from 1."""
    return f"{_OUTPUT}{slug}.{attempt}{'' if check is None else f'.check-{check}'}.txt"


def outputs(git: Git, at: str) -> Tree:
    """Return the output files of a history, by their names in its folder. `at`: its ref, or a tree of it."""
    return git.tree(f"{at}:{_OUTPUT.rstrip('/')}") or {}


def next_plan(git: Git, protocol: str) -> str:
    """Return the name of the journal of the next plan that a model writes: the first `plan.N` of which there is no transcript."""
    number = 1
    while read(git, protocol, run_file(f"plan.{number}")) is not None:
        number += 1
    return f"plan.{number}"


AGAIN = b"\n== again ==\n"


def add(
    git: Git, protocol: str, files: Mapping[str, bytes], commit: str, who: Ident, keeps: Sequence[str] = ()
) -> tuple[str, str | None]:
    """Write a history commit that files `files` beside the branch's new `commit`; return (it, the history before it).

    `keeps`: further commits that it keeps alive: the work so far of a step that waits.

    Files are only added: an attempt's transcript that is there already is replaced by a longer one of the same attempt only, and
    what its checks print when they run again follows what they printed before.
    """
    before = git.ref(ref_of(protocol))
    old = git.commit(before) if before else None
    changes: dict[str, TreeEntry | None] = {}
    filed_before = outputs(git, old.tree) if old else {}
    for name, data in files.items():
        there = filed_before.get(name.removeprefix(_OUTPUT))
        filed = b"" if there is None else git.require(there.oid, name)
        if data != filed:
            changes[name] = TreeEntry(BLOB, git.write("blob", filed + AGAIN + data if filed else data))
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
                f"{ref_of(protocol)} is cut off in this clone", at, "fetch it again, from a clone that has it whole"
            )
        goes_on = before.message == _message(protocol) and len(commit.parents) > 1
        yield commit, commit.parents[1 if goes_on else 0]
        at = before.oid if goes_on else None


def kept_as_lost(git: Git, protocol: str, oid: str, kind: str = "") -> dict[str, tuple[str | None, str | None]]:
    """Return how a ref keeps a commit that gives way, below refs/runner/lost/. `kind`: what it is, before the id in the name."""
    ref = f"refs/runner/lost/{protocol}/{kind}{oid[:12]}"
    return {ref: (oid, git.ref(ref))}


class Comparison(StrEnum):
    """How the history of another repository compares with the one here."""

    KNOWN = "known"  # the one here is the same, or extends it
    NEWER = "newer"  # it extends the one here: it takes its place
    APART = "apart"  # it lacks only what this clone filed and never published: that is filed on top of it
    REPLACED = "replaced"  # it lacks, or changed, what was published: it is not taken


class Offer(NamedTuple):
    """The comparison, and what has to be filed on top of theirs: history commits of ours, each with the branch's, oldest first."""

    kind: Comparison
    ours: tuple[tuple[Commit, str], ...] = ()


def compare(git: Git, protocol: str, theirs: str, *, tip: str, published: str | None) -> Offer:
    """Say whether a history that another repository has may take the place of the one here. Reads only.

    The rule for every history that was fetched, wherever the fetch put it: anybody who may push can put any commit under the
    ref. It is accepted only where it extends the one here, commit by commit, and still has every file that is filed here. Of the one
    here only these count: commits filed beside commits of the branch's `tip` (others belong to transitions that gave way).
    Those filed beside commits that are not in `published` (the remote's branch; None where it has none, and then all
    of it counts as published), cannot be expected there. Where nothing is here, anything is newer: rule 24 of verify judges it.

    Raises:
        InsufficientHistoryError: the history here is cut off, as in a shallow clone.
    """
    ours = git.ref(ref_of(protocol))
    if ours is None:
        return Offer(Comparison.NEWER)
    if ours == theirs or git.is_ancestor(theirs, ours):
        return Offer(Comparison.KNOWN)
    if follows(git, protocol, ours, theirs):
        return Offer(Comparison.NEWER)
    there, mine = _oids(git, protocol, theirs), list[tuple[Commit, str]]()
    try:
        for commit, beside in commits(git, protocol, ours):
            if not git.is_ancestor(beside, tip):
                continue
            if commit.oid in there:
                if not follows(git, protocol, commit.oid, theirs):
                    return Offer(Comparison.REPLACED)
                break
            if published is None or git.is_ancestor(beside, published):
                return Offer(Comparison.REPLACED)
            mine.append((commit, beside))
    except InsufficientHistoryError:
        if git.is_shallow():
            raise
        return Offer(Comparison.REPLACED)  # the one here is no history either: `runner doctor --fix` asks the log
    return Offer(Comparison.APART, tuple(reversed(mine))) if mine else Offer(Comparison.NEWER)


def follows(git: Git, protocol: str, old: str, new: str) -> bool:
    """Return whether a history extends another one, commit by commit, and still has every file that is filed there.

    A file has the same bytes, or more after them, as a resumed attempt has; each end of a protocol has a seal of its own. Having
    the other one among its ancestors is not enough: anybody can name it as a second parent.
    """
    return old in _oids(git, protocol, new, stop=old) and _keeps(git, old, new)


def _oids(git: Git, protocol: str, tip: str, stop: str | None = None) -> set[str]:
    """Return the history's commits, as far as `stop` or as they can be read."""
    found: set[str] = set()
    try:
        for commit, _ in commits(git, protocol, tip):
            found.add(commit.oid)
            if commit.oid == stop:
                break
    except InsufficientHistoryError:
        pass  # cut off, or no history at all: what comes before cannot be relied on
    return found


def _keeps(git: Git, old: str, new: str) -> bool:
    now = git.files(new)
    for name, entry in git.files(old).items():
        kept = now.get(name)
        if kept is None or kept.mode != entry.mode:
            return False
        if kept.oid == entry.oid or name == paths.SEAL:
            continue
        try:
            before, after = (git.require(oid, name) for oid in (entry.oid, kept.oid))
        except InsufficientHistoryError:  # a partial clone left it at its remote; rule 24 of verify compares them
            continue
        if not after.startswith(before):
            return False
    return True


def file_again(
    git: Git,
    protocol: str,
    ours: Sequence[tuple[Commit, str]],
    theirs: str | None,
    who: Ident,
    now: Mapping[str, str] | None = None,
) -> str:
    """Write history commits on top of `theirs` that file what those of ours did, oldest first; return the last.

    `theirs`: None starts a history with the first of ours. `now`: rewritten commits of the branch, to those that replaced them; a
    seal names the commit that was rewritten, and is dropped with it.
    """
    tip = theirs
    for commit, beside in ours:
        onto = git.commit(tip) if tip is not None else None
        files = dict(git.files(commit.oid))
        new = now.get(beside, beside) if now else beside
        if new != beside:
            files.pop(paths.SEAL, None)
        tree = git.edit_tree(onto.tree if onto else None, files)
        assert tree is not None or not files
        # What a waiting step has done so far, and the history of a protocol that was renumbered.
        kept = commit.parents[commit.parents.index(beside) + 1 :]
        parents = (*([tip] if tip is not None else []), new, *kept)
        tip = git.write_commit(tree or git.write_tree({}), parents, who, who, _message(protocol))
    assert tip is not None
    return tip


def of_other(git: Git, tip: str, protocol: str) -> str | None:
    """Return the newest history commit of another protocol that the history up to `tip` keeps: of one that was renumbered; or None."""
    args = ("rev-list", "--max-count=1", f"--grep=^{protocol}: history$", tip, "--")
    code, out, _ = git.try_run(*args, env={"GIT_GRAFT_FILE": "/dev/null"})
    return out.decode().strip() or None if code == 0 else None


def _message(protocol: str) -> bytes:
    return f"{protocol}: history\n".encode()


def read(git: Git, protocol: str, name: str) -> bytes | None:
    """Return a file of the history, or None where it is not here."""
    return git.blob(f"{ref_of(protocol)}:{name}")


def transcripts(git: Git, protocol: str, prefix: str = "") -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) of the history's transcripts whose names start so, `plan.2` before `plan.10`."""
    names = [name for name in git.tree(f"{ref_of(protocol)}:runs") or {} if name.startswith(prefix)]
    for name in sorted(names, key=lambda name: (len(name), name)):
        yield f"runs/{name}", read(git, protocol, f"runs/{name}") or b""
