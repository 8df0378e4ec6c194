"""Protocols by name and number: which one a command means, which numbers are claimed (refs/runner/numbers/NNNN, design §2), and
whether another clone published another protocol by the same id."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from runner.errors import RefusedError, UsageError
from runner.git import Git
from runner.lines import few
from runner.protocol import ids, paths
from runner.protocol.state import ENDED
from runner.store import record, worktree
from runner.store.project import Project, Session

if TYPE_CHECKING:
    from runner.protocol.state import Row


class UnknownProtocolError(UsageError):
    """Nothing that is known here is called so."""


def known(project: Project, number: int | None = None, *, branched: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return id to the commit that shows it: the branches here, and the folders that the trusted branch holds, or its branch here.

    `number`: as for `Project.protocols`; `branched`: what that returned, where the caller has it.
    """
    found = dict(project.protocols(number) if branched is None else branched)
    count = len(found)
    for commit in _bases(project):
        there = f"{commit}:{paths.ROOT}"
        names = project.git.tree(there) or {} if number is None else project.git.starting(there, ids.spellings(number))
        for name in names:
            if name not in found and ids.is_protocol_id(name):
                found[name] = commit
    return found if len(found) == count else ids.in_order(found)  # else they are


def alike(project: Project, protocol: str, asked: str | None = None) -> list[str]:
    """Return the protocols that have this one's number. `asked`: what it was found by; where that is the number, no other has it."""
    return [protocol] if asked is not None and _is_number(asked) else list(known(project, ids.number_of(protocol)))


def typed(project: Project, protocol: str, asked: str | None = None) -> str:
    """Return a protocol's name in a command: its number, or the whole id where another one has that too. `asked`: as in `alike`."""
    return str(ids.number_of(protocol)) if len(alike(project, protocol, asked)) <= 1 else protocol


def merging(project: Project, row: Row, name: str) -> str:
    """Return the command by which a completed protocol is merged; `name`: the protocol's name in a command.

    Where requests are merged on the forge it is the one that publishes it there, and brings the merge.
    """
    if project.has_requests:
        return f"runner sync {name}"
    base, remote = str(row.get("base")), project.trusted.remote
    names = (f"refs/heads/{base}", *([f"refs/remotes/{remote}/{base}"] if remote else []))
    if any(project.git.ref(one) for one in names):
        return f"runner merge {name}"
    return f"git merge {ids.branch_of(project.pattern, str(row['protocol']))}"  # on the branch that the person is on


def _is_number(name: str) -> bool:
    return name.isdecimal() and name.isascii()


def tip(project: Project, protocol: str) -> str:
    """Return the commit that shows a protocol that is known: its branch's, else the trusted branch's, or that of its branch here."""
    found, branch = project.tip(protocol), project.branch(protocol)
    if found is None:
        return _base_with(project, protocol) or project.trusted.commit
    here, there = project.git.ref(branch), project.git.ref(project.tracking(branch))
    return _with_end(project.git, protocol, found, _shared_bases(project), here, there) or found


def ended_in(project: Project, protocol: str, tip: str) -> str | None:
    """Return the commit of a base that has the end of a protocol of which `tip` is an earlier state, or None."""
    return _with_end(project.git, protocol, tip, _shared_bases(project))


def follower(project: Project, known: dict[str, str], branches: Mapping[str, str]) -> Callable[[str, str], bool]:
    """Return what has `known` show a protocol, given its id and status, as a base has it that has its end; it returns whether it did.

    So it is where the merge was pushed without the branch, and the branch here has nothing else. `branches`: as `Project.branches`
    returns them.
    """
    names = {commit: project.git.tree(f"{commit}:{paths.ROOT}") or {} for commit in _shared_bases(project)}

    def follow(protocol: str, status: str) -> bool:
        bases = [commit for commit, folders in names.items() if protocol in folders] if status not in ENDED else []
        branch = project.branch(protocol)
        here, there = branches.get(branch), branches.get(project.tracking(branch))
        base = _with_end(project.git, protocol, known[protocol], bases, here, there)
        known[protocol] = base or known[protocol]
        return base is not None

    return follow


def _with_end(
    git: Git, protocol: str, tip: str, bases: Iterable[str], here: str | None = None, there: str | None = None
) -> str | None:
    """Return the first of the bases that has a protocol's end, of which `tip` is an earlier state; None where there is none.

    `here`: its branch, which counts only if all that it has is in the base or on the remote, where it is at `there`.
    """
    for base in bases:
        # In this order: whether a commit is in another's history is asked of a git that is started for it.
        if is_left_behind(git, protocol, tip, base) and (here in (None, there) or git.is_ancestor(str(here), base)):
            return base
    return None


def is_left_behind(git: Git, protocol: str, tip: str, base: str) -> bool:
    """Return whether a base has a protocol's end, and `tip` an earlier state of it."""
    there = record.row(git, protocol, base)
    if there["status"] not in ENDED or there.get("genesis") is None:
        return False
    behind = record.row(git, protocol, tip)
    return there.get("genesis") == behind.get("genesis") and there["revision"] > behind["revision"]


def _shared_bases(project: Project) -> list[str]:
    """Return the commits at which others may have ended a protocol; none without a remote."""
    return _bases(project) if project.trusted.remote is not None else []


def _bases(project: Project) -> list[str]:
    """Return the commits that show a protocol whose branch is gone: the trusted one, and of a merge that is not fetched or pushed."""
    trusted = project.trusted
    return list(dict.fromkeys((trusted.commit, *record.base_tips(project.git, trusted.branch, trusted.remote))))


def _base_with(project: Project, protocol: str) -> str | None:
    there = (one for one in _bases(project) if project.git.tree(f"{one}:{paths.folder(protocol)}") is not None)
    return next(there, None)


def _is_known(project: Project, protocol: str) -> bool:
    return project.tip(protocol) is not None or _base_with(project, protocol) is not None


def find(session: Session, name: str | None) -> str:
    """Return the id of the protocol that a person means.

    Raises:
        UsageError: there is none, or it is not clear which; near ones are offered.
    """
    project = session.project
    if name is None:
        return _here(project)
    direct = None
    if _is_number(name):
        same = list(known(project, int(name)))
        if len(same) == 1:
            return same[0]
        if same:
            raise UsageError(f"`{name}` is ambiguous: {', '.join(same)}", "the protocol's name", "give the whole id")
    elif ids.is_protocol_id(name):
        direct = name
    else:
        direct = ids.protocol_of_branch(project.pattern, name.removeprefix("refs/heads/"))
    if direct is not None and _is_known(project, direct):
        return direct
    from difflib import get_close_matches

    everything = known(project)
    slugs = [protocol for protocol in everything if protocol.split("-", 1)[1] == name]
    near = [] if _is_number(name) else slugs or get_close_matches(name, everything, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else "`runner list` shows all" if everything else ""
    what, remote = f"there is no protocol `{name}`", project.trusted.remote
    if session.mirror is not None:
        what += f", here or on {remote}"
    elif remote and beginnings(project, name):
        hint = "; ".join(filter(None, (hint if near else "", f"`runner sync {name}` brings it where {remote} has it")))
    elif remote:
        hint = "; ".join(filter(None, (hint, "`runner sync` brings what others pushed since")))
    number = ids.number_of(direct) if direct else int(name) if _is_number(name) else None
    is_taken = any(ids.number_of(protocol) == number for protocol in everything)
    if number is not None and not is_taken and session.git.ref(claim_ref(number)) is not None:
        was = "there was one with that number: `runner doctor` says whether its branch was lost"
        hint = "; else ".join(filter(None, (was, hint)))
    raise UnknownProtocolError(what, str(session.git.top or session.git.common_dir), hint or "`runner new` creates one")


def beginnings(project: Project, name: str) -> list[str]:
    """Return the prefixes of the ids that `name` may mean: a number's spellings, an id itself; none where it is neither."""
    if _is_number(name):
        return ids.spellings(int(name)) if len(name) < 10 else []
    if ids.is_protocol_id(name):
        return [name]
    direct = ids.protocol_of_branch(project.pattern, name.removeprefix("refs/heads/"))
    return [direct] if direct else []


def find_with_step(session: Session, name: str | None, step: str | None) -> tuple[str, str | None]:
    """Return (id of the protocol, slug of the step or None) that a person means; one name alone may be a step of this one.

    Raises:
        UsageError: there is none, or it is not clear which.
    """
    try:
        protocol = find(session, name)
    except UsageError as error:
        if name is None or step is not None:
            raise
        try:
            here = _here(session.project)
        except UsageError:
            raise error from None
        slug = ids.find_step(name, record.row(session.git, here, tip(session.project, here))["steps"])
        if slug is None:
            raise
        return here, slug
    return protocol, None if step is None else find_step(session.project, protocol, step)


def find_step(project: Project, protocol: str, name: str) -> str:
    """Return the slug of the step that a person means, also of one that an edit has just added: `deploy`, `02-deploy` or `02`.

    Raises:
        UsageError: there is none; near ones are offered.
    """
    at = tip(project, protocol)
    row = record.row(project.git, protocol, at)
    if name not in row["steps"]:
        row = record.as_planned(project.git, row, at)
    slug = ids.step_at(name, {slug: int(step.get("place") or 0) for slug, step in record.open_steps(row)})
    if slug is None and name in row["steps"]:
        slug = name
    if slug is not None:
        return slug
    from difflib import get_close_matches

    near = get_close_matches(name, row["steps"], n=3, cutoff=0.4) or [slug for slug, _ in record.open_steps(row)][:5]
    hint = f"did you mean {' or '.join(near)}?" if near else "it has no steps yet"
    raise UsageError(f"there is no step `{name}`", protocol, hint)


def of_worktree(project: Project) -> str | None:
    """Return the protocol whose branch this worktree has checked out, or is rebasing; None for another checkout."""
    head = project.git.symbolic_ref("HEAD", project.git.git_dir) or worktree.rebased_at(project.git.git_dir)
    protocol = ids.protocol_of_branch(project.pattern, head.removeprefix("refs/heads/")) if head else None
    return protocol if protocol and _is_known(project, protocol) else None


def _here(project: Project) -> str:
    protocol = of_worktree(project)
    if protocol:
        return protocol
    every = record.rows(project.git, project.protocols())
    there = [row["protocol"] for row in every if row["status"] not in ENDED]
    if not there and len(every) == 1:
        return str(every[0]["protocol"])
    if len(there) == 1:
        return str(there[0])
    if not there:
        raise UsageError(
            "no protocol is open",
            str(project.git.top or project.git.common_dir),
            "`runner new` creates one, `runner list` shows all",
        )
    raise UsageError(f"{len(there)} protocols are open: {few(there, 5)}", "the protocol's name", "name one of them")


# --- numbers ---------------------------------------------------------------------------------------------------------

NUMBERS = "refs/runner/numbers/"


def numbers_of(refs: Iterable[str], branch_pattern: str) -> set[int]:
    """Return the numbers that refs, by their full names, claim, and those of the protocols whose branches or histories they are."""
    found = set()
    for name in refs:
        if name.startswith(NUMBERS):
            last = name.removeprefix(NUMBERS)
            if last.isdigit():
                found.add(int(last))
            continue
        _, _, rest = name.removeprefix("refs/").partition("/")
        if name.startswith("refs/remotes/") or name.startswith("refs/runner/"):
            rest = rest.partition("/")[2]
        protocol = ids.protocol_of_branch(branch_pattern, rest) or (rest if ids.is_protocol_id(rest) else None)
        if protocol:
            found.add(ids.number_of(protocol))
    return found


def numbers_taken(git: Git, base: str, branch_pattern: str) -> set[int]:
    """Return the numbers that are in use as far as this clone knows: claims, branches, folders of the base."""
    refs = git.refs(NUMBERS, "refs/heads/", "refs/remotes/", "refs/runner/history/")
    folders = filter(ids.is_protocol_id, git.tree(f"{base}:{paths.ROOT}") or {})
    return numbers_of(refs, branch_pattern) | set(map(ids.number_of, folders))


def claim_ref(number: int) -> str:
    """Return the ref that claims a number."""
    return f"{NUMBERS}{number:04d}"


# --- another protocol with the same id --------------------------------------------------------------------------------
# Clones that create protocols without publishing give the same number to two of them, and with one title the same id. Their genesis
# tells them apart; neither ever replaces the other, and the one that is published second is refused until it has another number
# (design §2, ids).


class ClashError(RefusedError):
    """Another protocol with the same id is published."""


def genesis(git: Git, protocol: str, tip: str) -> str | None:
    """Return the genesis of the protocol's record at a commit: by the newest of its history that can be read; None without one."""
    found = record.row(git, protocol, tip).get("genesis")
    if found is None:  # damaged at the tip, or no protocol at all
        rows = (record.row(git, protocol, oid).get("genesis") for oid in git.first_parents(tip))
        found = next(filter(None, rows), None)
    return str(found) if found is not None else None


def clash(session: Session, protocol: str) -> tuple[str, str] | None:
    """Return (where, commit) of another protocol with this id, on the remote as it was last looked at or merged into the trusted
    branch; None where there is none."""
    git, trusted, branch = session.git, session.project.trusted, session.project.branch(protocol)
    here = git.ref(branch)
    if here is None or trusted.remote is None:
        return None
    name = branch.removeprefix("refs/heads/")
    there = session.above(branch) if session.mirror else git.ref(session.project.tracking(branch))
    ours: str | None = None
    for where, tip in ((f"{name} of {trusted.remote}", there), (trusted.branch, trusted.commit)):
        if tip in (None, here):
            continue
        assert tip is not None
        theirs = record.row(git, protocol, tip).get("genesis")
        ours = ours or genesis(git, protocol, here) if theirs else None
        if ours and theirs and theirs != ours:
            return where, tip
    return None


def clash_error(project: Project, protocol: str, there: tuple[str, str]) -> ClashError:
    """Return the error for a clash, with the one command that ends it."""
    here, (where, tip) = project.git.ref(project.branch(protocol)) or "", there
    hint = f"`runner fork --renumber {protocol}` gives yours another number; completed steps stay completed"
    cwd = os.path.realpath(project.git.cwd)
    trees = project.git.checked_out(project.branch(protocol))
    if any(os.path.commonpath([cwd, os.path.realpath(tree.path)]) == os.path.realpath(tree.path) for tree in trees):
        hint = f"in {project.git.worktrees()[0].path}: {hint}"  # the worktree goes, and nobody may stand in it
    return ClashError(
        f"{project.trusted.remote} has another protocol with the id {protocol}; yours is not published, and nothing was replaced",
        f"here {here[:12]}, {where} {tip[:12]}",
        hint,
    )


def refuse_clash(session: Session, protocol: str) -> None:
    """Refuse where another protocol with this id is published.

    Raises:
        ClashError: with the command that gives this one another number.
    """
    there = clash(session, protocol)
    if there is not None:
        raise clash_error(session.project, protocol, there)
