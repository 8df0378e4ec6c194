"""Verify a protocol wherever its history is now: on its branch, in its history ref, or in the base that it was merged into.

`trust.verify` judges the history. This module finds it, and compares the files beside it: the transcripts with the digests that the
log names, and the record of a base with that of the history.

After `runner init`, git fetches the histories of others into refs/runner-remote/, so a fetch never overwrites our own. One rule,
`history.compare`, decides whether a history from there, or from the remote, is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from runner.errors import ExitCode, InsufficientHistoryError, IntegrityError, UsageError
from runner.executor import load
from runner.git import Git
from runner.protocol import ids, log, paths
from runner.store import history, lookup, publishing, record, remote, trusted
from runner.store.environment import write_checkpoint
from runner.store.project import Project, Session
from runner.trust import rules, verify, walk


def known(project: Project) -> list[str]:
    """Return the protocols that can be verified here: those that are known, and those whose history alone is left."""
    prefix = history.ref_of("")
    kept = [name.removeprefix(prefix) for name in project.git.refs(prefix)]
    found = {*lookup.known(project), *(name for name in kept if ids.is_protocol_id(name))}
    return sorted(found, key=lambda name: (ids.number_of(name), name))


def find(session: Session, name: str | None) -> str:
    """Return the id of the protocol that a person means, one that only the base's past or a history has included.

    Raises:
        UsageError: there is none, or it is not clear which.
    """
    try:
        return lookup.find(session, name)
    except UsageError as error:
        if name is None:
            every = known(session.project)
            if len(every) == 1:
                return every[0]
            if every:
                raise UsageError(error.what, error.where, "name one, or `runner verify --all`") from None
            raise
        number = int(name) if name.isdigit() else -1
        same = [one for one in known(session.project) if name == one or ids.number_of(one) == number]
        if len(same) == 1:
            return same[0]
        if ids.is_protocol_id(name) and rules.ends.was_there(session.git, name, session.project.trusted.commit):
            return name
        raise


def examine(
    session: Session, protocol: str, *, live: bool = False, from_work: bool = False, walked: walk.Report | None = None
) -> walk.Report:
    """Return what holds and what does not of a protocol. `live`: the remote is asked first for what it has.

    `from_work`: what the remote has not yet comes from a job that a model works in, which may not say what only people say.
    `walked`: the report of `trust.verify.verify` on the chain, where there is one: that takes most of the time.

    Raises:
        InsufficientHistoryError: this clone does not have enough to tell, and what it has holds.
        UnreachableError: `live`, and the remote does not answer.
    """
    git, place = session.git, _place(session, protocol, live=live)
    trusted = session.project.trusted
    if walked is None or walked.tip != place.tip:
        walked = verify.verify(git, protocol, place.tip, trusted)
    report = walked
    if not place.kept:
        rules.ends.refuse_copy(git, report, trusted.commit, session.to_ask)
    if report.state is None:
        return report
    bases = [trusted.commit, *record.base_tips(git, report.state.base, trusted.remote)]
    findings = list(report.findings)
    notes = [*report.notes, *place.notes]
    if from_work and place.there is not None:
        findings += rules.permissions.not_handed_over(git, protocol, place.tip, place.there)
    elif from_work:
        findings.append(
            walk.Finding("handed-over", place.tip, paths.folder(protocol), "the remote has no branch of it")
        )
    if place.replaced is not None:
        error = publishing.history_replaced(session.project, protocol, place.replaced)
        findings.append(
            walk.Finding("transcript", place.replaced, history.ref_of(protocol), f"{error.what}; {error.hint}")
        )
    if place.branch is None and rules.ends.was_taken_away(git, protocol, trusted.commit):
        notes.append(f"its folder was removed from {trusted.branch} again")
    if place.branch is not None:
        head = place.there if place.there is not None and git.is_ancestor(place.branch, place.there) else place.branch
        seen = place.checkpoint
        if seen is not None and not (git.commit(seen) is not None and verify.has(git, protocol, head, seen)):
            text = (
                f"the history went back: this machine has seen {seen[:12]}, which is not in it any more;"
                f" `runner doctor {protocol}` says what helps"
            )
            findings.append(walk.Finding("mark", head, paths.folder(protocol), text))
        elif seen is None and not live and trusted.remote is not None:
            notes.append(
                "freshness not proven: this machine has not seen it before; `runner verify --live` asks the remote"
            )
    evidence = _evidence(session, protocol, live=live, bases=bases, filed=place.filed)
    report = verify.beside(git, report._replace(findings=tuple(findings), notes=tuple(notes)), evidence)
    if report.state is not None and not report.findings and git.ref(session.project.branch(protocol)) == place.tip:
        write_checkpoint(session.dirs, protocol, place.tip, report.state.genesis)
    return report


def _evidence(
    session: Session, protocol: str, *, live: bool = False, bases: Sequence[str] = (), filed: str | None = None
) -> walk.Evidence:
    """Return what lies beside a protocol's chain. `live`: the remote is asked for the histories of a fork's origins."""
    git = session.git

    def history_of(origin: walk.Origin) -> str | None:
        ref = history.ref_of(origin.protocol)
        kept = git.ref(ref)
        if live and origin.named and session.mirror is not None:
            session.mirror.fetch(ref)
            above = session.mirror.ref(ref)
            if above is not None and (kept is None or history.follows(git, origin.protocol, kept, above)):
                kept = above
        own = git.ref(history.ref_of(protocol)) if origin.named else None
        return (history.of_other(git, own, origin.protocol) if own is not None else None) or kept

    return walk.Evidence(session.project.trusted, bases, filed, history_of, session.to_ask)


def washed(session: Session, protocol: str, origin: walk.Origin) -> Iterator[walk.Finding]:
    """Yield what the transcripts of a protocol that a fork continues show against it, as findings of the fork's.

    Raises:
        InsufficientHistoryError: one is not in this clone, and the others hold.
    """
    yield from rules.ends.of_origin(session.git, protocol, origin, _evidence(session, protocol))


def prove(
    session: Session, protocol: str, *, live: bool = False, from_work: bool = False, walked: walk.Report | None = None
) -> tuple[walk.Report, int]:
    """Return what `examine` says and the exit code that means it; 5, with a report that names the missing objects, if it cannot tell.

    Raises:
        UnreachableError: `live`, and the remote does not answer.
    """
    try:
        report = examine(session, protocol, live=live, from_work=from_work, walked=walked)
    except InsufficientHistoryError as error:
        hint = error.hint
        if session.git.is_partial() and not session.git.is_shallow() and session.to_ask:
            hint = history.brings(protocol, session.to_ask)
        missing = walk.Finding("history", "", error.where, f"{error.what}: {hint}")
        return verify.unknown(session.git, protocol, missing), error.exit_code
    return report, ExitCode.DONE if report.ok else ExitCode.REFUSED


def signed(report: walk.Report) -> str:
    """Return who signed the transitions of a protocol that verifies, as far as the policy wanted signatures."""
    if report.walk.signed == report.transitions:
        return "each signed by a key that the policy lists"
    return "unsigned: proves consistency, not who ran them"


def place_of(project: Project, report: walk.Report, found: walk.Finding) -> tuple[str, int]:
    """Return the file of the record that shows a finding, and the line: where it names none, the transition's entry in the log."""
    folder = paths.folder(report.protocol)
    if found.path.startswith(f"{folder}/"):
        return found.path, 1
    commit = project.git.commit(found.commit) if found.commit else None
    told = log.parse_message(commit.message) if commit is not None else None
    text = project.git.blob(f"{report.tip}:{folder}/{paths.LOG}") or b""
    # Of schema 2 the entry's line for people is the one before.
    heads = (b"## %d " % told.revision, b"  <!-- %d " % told.revision) if told else ()
    lines = (
        number - line.startswith(b" ") for number, line in enumerate(text.split(b"\n"), 1) if line.startswith(heads)
    )
    return f"{folder}/{paths.LOG}", next(lines, 1)


class _Place(NamedTuple):
    """Where a protocol's chain is. `checkpoint`: the commit that verified here last; `branch`: the branch's commit here; `there`: the
    remote's, where it was asked; `filed`: the history's; `replaced`: the remote's, if it does not continue the one here; `kept`:
    whether a branch or the history has the chain, not the base alone."""

    tip: str
    checkpoint: str | None
    branch: str | None
    there: str | None
    filed: str | None
    replaced: str | None
    kept: bool
    notes: tuple[str, ...]


def _place(session: Session, protocol: str, *, live: bool) -> _Place:
    git, name, ref = session.git, ids.branch_of(session.project.pattern, protocol), history.ref_of(protocol)
    notes: list[str] = []
    there = above = None
    if live:
        session.looked = False  # each protocol is asked for by its own refs
        publishing.look_again(session, protocol)
        refs = session.mirror.refs() if session.mirror is not None else {}
        there, above = refs.get(f"refs/heads/{name}"), refs.get(ref)
        if session.mirror is None:
            notes.append("there is no remote to ask")
    checkpoint, here = session.project.checkpoint_and_tip(protocol)
    branch, kept, replaced = here or session.project.tip(protocol), git.ref(ref), None
    published = there
    if above is None:  # what git fetched beside ours
        above, published = git.ref(history.fetched(protocol)), git.ref(session.project.tracking(name))
    if above is not None:
        offer = history.compare(git, protocol, above, tip=branch or there or above, published=published)
        if offer.kind is history.Comparison.NEWER:
            kept = above
        elif offer.kind is history.Comparison.REPLACED:
            replaced = above
    tip = branch
    if there is not None and there != branch:
        if branch is None or git.is_ancestor(branch, there):
            tip = there
            notes.append(f"judged as {session.project.trusted.remote} has it, at {there[:12]}: this clone is behind")
        elif git.is_ancestor(there, branch):
            notes.append(f"{session.project.trusted.remote} is behind: it has {there[:12]}")
        else:
            notes.append(f"{session.project.trusted.remote} diverged from this clone: it has {there[:12]}")
    elif live and there is None and branch is not None and session.mirror is not None:
        notes.append(f"{session.project.trusted.remote} has no branch {name}")
    last = rules.transcripts.last_commit(git, protocol, kept) if kept is not None and there is None else None
    if last is not None and last != tip and (tip is None or git.is_ancestor(tip, last)):
        if tip is not None:
            notes.append(f"judged as its history has it, at {last[:12]}: the branch here is behind")
        tip = last
    if tip is not None and (end := load.end_below(session.project, protocol, tip)):
        notes.append(f"judged at its end, {end[:12]}: the branch was moved to its base, which has merged it")
        tip = branch = end
    found = tip is not None
    if tip is None:
        tip = rules.ends.tip_of(git, protocol, session.project.trusted.commit, session.to_ask)
    return _Place(tip, checkpoint, branch or there, there, kept, replaced, found, tuple(notes))


# --- histories that a proof needs and this clone does not have --------------------------------------------------------


REFSPEC = f"+refs/runner/*:{history.FETCHED}*"


def keep_histories_apart(git: Git) -> str | None:
    """Have `git fetch` bring what others filed, beside ours; return the remote, or None where there is none or it does so already."""
    remote = trusted.remote_name(git)
    if remote is None or REFSPEC in git.settings().get(f"remote.{remote}.fetch", ()):
        return None
    git.run("config", "--file", str(git.common_dir / "config"), "--add", f"remote.{remote}.fetch", REFSPEC)
    return remote


def fetched_histories(project: Project) -> list[str]:
    """Return the protocols whose histories git fetched beside ours."""
    root = history.fetched("")
    return [name.removeprefix(root) for name in project.git.refs(root) if ids.is_protocol_id(name.removeprefix(root))]


def fetch_nothing(project: Project) -> None:
    """Let nothing be fetched unasked from here on: the command reports what this clone lacks, with the command that fetches it."""
    project.git.fetch_promised = None


def take_histories(project: Project, protocols: Iterable[str]) -> None:
    """Adopt the histories that git fetched beside ours, if they continue ours; print why others are not adopted."""
    for protocol in protocols:
        theirs = project.git.ref(history.fetched(protocol))
        if theirs in (None, project.git.ref(history.ref_of(protocol))):
            continue
        assert theirs is not None
        published = project.git.ref(project.tracking(project.branch(protocol)))
        try:
            publishing.take_history(project, protocol, theirs, published=published)
        except IntegrityError as error:
            project.env.say(f"{error.what}; {error.hint}")


def fetch_histories(session: Session, protocols: Iterable[str]) -> bool:
    """Fetch the histories of protocols from the remote, and take them; what a partial clone lacks is brought from now on.

    Returns whether there is a remote.

    Raises:
        UnreachableError: it does not answer. IntegrityError: what it has is not taken.
    """
    wanted = list(protocols)
    mirror = remote.Mirror.of(session.project)
    if mirror is None:
        return False
    branches = {one: session.project.branch(one) for one in wanted}
    if wanted:
        mirror.fetch(*branches.values(), *map(history.ref_of, wanted))
    session.mirror, there = mirror, mirror.refs()
    session.fetch_promised()
    for one in wanted:
        if (theirs := there.get(history.ref_of(one))) is not None:
            publishing.take_history(session.project, one, theirs, published=there.get(branches[one]))
    return True
