"""Refs that name nothing: had again from reflogs, marks, histories and the remote; where none knows, what is lost is said."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from runner.app.repair import Finding, Repair
from runner.errors import RunnerError
from runner.folders import matching
from runner.git import Git, damage
from runner.protocol import ids
from runner.store import numbers, recovery, trusted
from runner.store.places import Places
from runner.store.surroundings import Surroundings
from runner.trust import transitions

_CACHES = ("refs/remotes/", trusted.REF)  # a fetch makes them again


def foundations(git: Git, places: Places, who: Surroundings) -> Iterator[Repair]:
    """Yield what is broken of the files without which git does nothing."""
    _, whole = damage.packed_refs(git.common_dir, git.oid_length)
    if not whole:
        path = git.common_dir / "packed-refs"
        yield Repair(
            Finding(
                "here",
                "packed-refs is broken",
                str(path),
                "git does not work here, or not with all its refs; those of which it is the only place are lost",
                "`runner doctor --fix` keeps what can be read, and looks for the others",
            ),
            partial(_mend_packed, git, places, who, path),
        )
    if not damage.shallow(git.common_dir, git.oid_length):
        path = git.common_dir / "shallow"
        yield Repair(
            Finding(
                "here",
                "the note of where this clone's history is cut off is broken",
                str(path),
                "git does not work here at all",
                "`runner doctor --fix` puts it aside, and fetches from the remote what is missing without it",
            ),
            partial(_put_aside, git, places, path),
        )
    # A worktree that is being made or taken away has not all its files.
    trees = [path.parent for path in matching(git.common_dir, "worktrees/*/HEAD") if (path.parent / "gitdir").exists()]
    for tree in (git.common_dir, *trees):
        if damage.broken_head(tree):
            yield _head(tree, git.common_dir)


def look(git: Git, places: Places, who: Surroundings) -> Iterator[Repair]:
    """Yield the refs that are broken; objects were seen to before, so that what a ref may name can be read."""
    if damage.is_reftable(git.common_dir):
        yield Repair(
            Finding(
                "note",
                "the refs of this repository are in tables (a reftable), which doctor cannot look at",
                str(git.common_dir / "reftable"),
                "a ref that is broken there is neither found here nor mended",
                "`git refs verify` (git 2.47) and `git fsck` look at them",
            )
        )
    for one in list(damage.refs(git, git.common_dir)):
        yield _ref(git, places, who, one)
    if places.mirror.is_dir() and (
        git.try_run("rev-parse", "--git-dir", git_dir=places.mirror)[0]
        or any(one.oid is None for one in damage.refs(git, places.mirror))
    ):
        yield Repair(
            Finding(
                "here",
                "the runner's mirror of the remote is broken",
                str(places.mirror),
                "nothing can be fetched or published",
                "`runner doctor --fix` forgets what it had seen there; the next look brings it again",
            ),
            partial(_mend_mirror, places),
        )


def _mend_packed(git: Git, places: Places, who: Surroundings, path: Path) -> str:
    found, _ = damage.packed_refs(git.common_dir, git.oid_length)
    recovery.put_aside(places, path)
    lines = ["# pack-refs with: sorted ", *(f"{oid} {name}" for name, oid in sorted(found.items()))]
    recovery.write_locked(path, "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))
    git.close()
    for one in list(damage.refs(git, git.common_dir)):
        known = recovery.best(git, places, one.name) if one.is_gone else None
        if known:
            found[one.name] = known[0]
            recovery.set_ref(places, who, one.path, one.name, known[0])
    git.close()
    return f"packed-refs is whole again, with {len(found)} refs; the broken one is {places.damaged / path.name}"


def _mend_mirror(places: Places) -> str:
    import shutil

    shutil.rmtree(places.mirror)
    return "forgot what was seen of the remote; the next look brings it again"


# --- HEAD --------------------------------------------------------------------------------------------------------------


def headless(cwd: Path) -> Repair | None:
    """Return what is broken of a repository that git takes for none, since its HEAD says nothing."""
    for folder in (cwd, *cwd.parents):
        at = folder / ".git"
        if not at.exists() and all((folder / name).exists() for name in ("objects", "refs", "config")):
            at = folder  # a bare one, or we stand in a `.git`
        if at.is_file():
            at = folder / at.read_text("utf-8", "surrogateescape").removeprefix("gitdir: ").rstrip("\n")
        if at.is_dir():
            shared = at / "commondir"
            common = at / shared.read_text("utf-8", "surrogateescape").rstrip("\n") if shared.exists() else at
            return _head(at, common) if damage.broken_head(at) and (common / "objects").is_dir() else None
    return None


def _head(git_dir: Path, common: Path) -> Repair:
    found = _branch_of(git_dir, common)
    finding = Finding(
        "here",
        "HEAD is broken",
        str(git_dir / "HEAD"),
        "git does not know what is checked out there",
        f"`runner doctor --fix` has it name {found.removeprefix('refs/heads/')} again"
        if found
        else f"write the branch's name into it: `echo 'ref: refs/heads/BRANCH' > {git_dir / 'HEAD'}`",
    )
    return Repair(finding, partial(_mend_head, git_dir, found) if found else None)


def _branch_of(git_dir: Path, common: Path) -> str:
    """Return the branch that a broken HEAD named, by its reflog; empty where that does not tell.

    A HEAD whose last commit the branch never was at was detached from it since, by a rebase or a person.
    """
    heads = common / "logs/refs/heads"
    were = {
        name: [oid for oid, _ in told]
        for path in matching(heads, "**/*")
        if path.is_file()
        and (told := damage.reflog(common, name := f"refs/heads/{path.relative_to(heads).as_posix()}"))
    }
    told = damage.reflog(git_dir, "HEAD")
    moves = [found[1] for _, said in told if (found := re.fullmatch(r"checkout: moving from \S+ to (\S+)", said))]
    if moves:
        name = f"refs/heads/{moves[0]}"
        return name if told[0][0] in were.get(name, ()) else ""
    # Never moved: a worktree of a protocol is named like it; else the one branch that is where HEAD was.
    named = [name for name in were if ids.is_protocol_id(git_dir.name) and name.endswith(f"/{git_dir.name}")]
    same = named or [name for name, oids in were.items() if told and oids[0] == told[0][0]]
    return same[0] if len(same) == 1 else ""


def _mend_head(git_dir: Path, name: str) -> str:
    """Have a HEAD name a branch."""
    recovery.write_locked(git_dir / "HEAD", f"ref: {name}\n".encode())
    return f"{git_dir / 'HEAD'} names {name.removeprefix('refs/heads/')} again"


# --- refs --------------------------------------------------------------------------------------------------------------


def _put_aside(git: Git, places: Places, path: Path) -> str:
    aside = recovery.put_aside(places, path)
    git.close()
    return f"put {path} aside: {aside}"


def _ref(git: Git, places: Places, who: Surroundings, one: damage.BrokenRef) -> Repair:
    if one.is_junk:
        return Repair(
            Finding(
                "here",
                f"a file is among the refs that is none: {one.name}",
                str(one.path),
                "git passes over it, warns of it, and `git fsck` calls it an error",
                "`runner doctor --fix` puts it aside",
            ),
            partial(_put_aside, git, places, one.path),
        )
    is_cache = one.name.startswith(_CACHES)
    kind = "branch" if one.name.startswith("refs/heads/") else "ref"
    what = f"the {kind} {one.name.removeprefix('refs/heads/')} is broken: {one.why}"
    known = recovery.best(git, places, one.name)
    remote = trusted.remote_name(git)
    is_ours = not one.name.startswith("refs/heads/") or ids.is_protocol_id(one.name.rpartition("/")[2])
    if one.is_link:
        return Repair(
            Finding(
                "note",
                what,
                str(one.path),
                "git passes over it, and `git fsck` calls it an error",
                f"`git symbolic-ref -d {one.name}` takes it away",
            )
        )
    if is_cache:
        command, mend = (
            "`runner doctor --fix` takes it away; the next fetch brings it again",
            partial(_drop, git, places, who, one),
        )
    elif one.oid is not None:  # the ref is sound, and its commit lost: to leave that is a person's to say
        before = f"`git update-ref {one.name} {known[0]} {one.oid}` goes back to what {known[1]} has" if known else ""
        command, mend = before or _elsewhere(git, one, None), None
    elif one.is_gone and not is_ours:
        found = f"`git branch {one.name.removeprefix('refs/heads/')} {known[0]}` brings it back; " if known else ""
        found += _given_up(git, one)
        return Repair(Finding("note", what, str(one.path), "some program deleted it in halves, or a crash did", found))
    elif known and (there := _in_the_way(one.path)):
        other = there.relative_to(git.common_dir / "refs/heads").as_posix() if kind == "branch" else str(there)
        command, mend = f"`git branch -m {other} NAME` moves what is in its way; then `runner doctor --fix`", None
    elif known:
        command = f"`runner doctor --fix` has it name {known[0][:12]} again, from {known[1]}"
        mend = partial(_set, git, places, who, one, *known)
    else:
        command, mend = _elsewhere(git, one, remote), partial(_set_from_remote, git, places, who, one)
    return Repair(Finding("here", what, str(one.path), _consequence(one), command), mend)


def _consequence(one: damage.BrokenRef) -> str:
    if one.oid is not None:
        return f"commit {one.oid} is lost here, and whatever only it holds"
    kinds = {
        "refs/heads/": "git does not see its commits",
        "refs/tags/": "git does not see the tag; tags have no reflog, so only the remote has it",
        "refs/runner/history/": "the transcripts of its steps are not found, and after a squash not its chain",
        "refs/runner/numbers/": "its number counts as free",
        "refs/runner/attempts/": "the work of an attempt that failed, or was in the way, is not found",
        "refs/runner/lost/": "a history that was left is not found",
    }
    return next(
        (told for prefix, told in kinds.items() if one.name.startswith(prefix)), "git does not see what it named"
    )


def _elsewhere(git: Git, one: damage.BrokenRef, remote: str | None) -> str:
    asked = f"`runner doctor --fix` asks {remote} for it; else " if remote else ""
    asked = asked or ("" if one.oid or trusted.remote_name(git) else "there is no remote to ask; ")
    return f"{asked}`git fsck --lost-found` lists commits that no ref names, and {_given_up(git, one)}"


def _given_up(git: Git, one: damage.BrokenRef) -> str:
    if one.oid is not None:
        return f"`git update-ref -d {one.name}` gives it up"
    path = git.common_dir / "logs" / one.name if one.is_gone else one.path
    return f"`rm {shlex.quote(str(path))}` gives it up"


def _in_the_way(path: Path) -> Path | None:
    """Return a ref's file below the folder that stands where another ref's file belongs."""
    return next((one for one in matching(path, "**/*") if not one.is_dir()), None)


def _set(git: Git, places: Places, who: Surroundings, one: damage.BrokenRef, oid: str, where: str) -> str:
    if not recovery.set_ref(places, who, one.path, one.name, oid):
        return ""
    git.close()
    return f"{one.name} names {oid[:12]} again, from {where}"


def _drop(git: Git, places: Places, who: Surroundings, one: damage.BrokenRef) -> str:
    """Forget what a fetch makes again, or have it name what is known of it."""
    known = recovery.best(git, places, one.name)
    if known and one.oid is None:
        return _set(git, places, who, one, *known)
    one.path.unlink(missing_ok=True)
    git.close()
    if git.ref(one.name) is not None:
        git.run("update-ref", "-d", one.name)
    return f"took {one.name} away; the next fetch brings it again"


def _set_from_remote(git: Git, places: Places, who: Surroundings, one: damage.BrokenRef) -> str:
    found = _of_branch(git, one.name)
    if found:
        return _set(git, places, who, one, found, "its branch")
    try:
        mirror = recovery.remote(git, places, who)
        if mirror is None:
            return ""
        mirror.fetch(one.name, timeout=recovery.REFETCH_SECONDS)
        there = mirror.refs().get(one.name)
    except RunnerError as error:
        who.say(f"{error.what}; {one.name} stays as it is")
        return ""
    return _set(git, places, who, one, there, mirror.remote) if there else ""


def _of_branch(git: Git, name: str) -> str | None:
    """Return the genesis of the protocol whose number a ref claims, from its branch."""
    if not name.startswith(numbers.PREFIX):
        return None
    for branch, tip in git.refs("refs/heads/").items():
        protocol = branch.rpartition("/")[2]
        if ids.is_protocol_id(protocol) and numbers.claim_ref(ids.number_of(protocol)) == name:
            chain = transitions.chain_of(git, protocol, tip)
            return chain[0] if chain else None
    return None
