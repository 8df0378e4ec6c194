"""Check protocols: missing branches and numbers, records that contradict their history, and history refs.

A record is repaired by `fix`. A branch is restored only where its protocol is named: a person may have deleted it. Of a history,
transcripts were not fetched, or another push replaced it on the remote. A damaged journal has the answers and calls of a step, so
nothing is guessed: a person decides.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator

from runner.app import verify as proof
from runner.app.doctor import (
    REFETCH_SECONDS,
    Examined,
    Finding,
    Selection,
    contradiction,
    fault,
    of_error,
    pinned_remote,
    refs,
    remark,
)
from runner.app.pending import Pending
from runner.errors import InsufficientHistoryError, RunnerError, UnreachableError
from runner.executor import load
from runner.executor.journal import DamagedJournalError, Journal
from runner.protocol import ids, paths
from runner.protocol.state import ENDED
from runner.store import history, locks, lookup, publishing, record, worktree
from runner.store.environment import matching
from runner.store.project import Project, Session
from runner.store.remote import Mirror
from runner.trust import transitions, verify, walk
from runner.trust.rules import ends
from runner.trust.rules.transcripts import wrong_transcripts
from runner.trust.walk import Named, Walk, name_in


def gone_branches(chosen: Selection) -> Iterator[Finding]:
    """Yield the protocols whose branch is gone, and that were neither cancelled nor merged."""
    project, only = chosen.session.project, chosen.only
    if only is not None and only not in project.protocols():
        what = f"{only} has no branch here"
        yield remark(what, project.branch(only), "only commands that read it work", "`git fetch`")
    for protocol in gone(project):
        if only not in (None, protocol):
            continue
        branch, common = project.branch(protocol), project.git.common_dir
        if (common / branch).is_file() or (common / "logs" / branch).is_file():
            continue  # one that is broken, or only half deleted (`refs.find`)
        known = refs.best(project, branch)
        if known is None:
            continue
        row = record.row(project.git, protocol, known[0])
        is_merged = record.holder(project.git, protocol, known[0], project.trusted.remote) is not None
        if row["status"] == "cancelled" or is_merged:
            continue
        yield remark(
            f"the branch of {protocol} is gone, and it was not merged: {row['status']} at revision {row['revision']}",
            branch,
            "it is not listed and does not run; its number stays taken",
            f"`runner doctor --fix {protocol}` restores it at {known[0][:12]}, from {known[1]}",
            (protocol, *known) if only == protocol else None,
        )


def restore_branch(chosen: Selection, about: tuple[str, str, str]) -> str:
    """Restore the branch of a protocol."""
    protocol, oid, where = about
    chosen.session.git.update_refs({chosen.session.project.branch(protocol): (oid, None)}, "runner: put back")
    return f"{protocol}: restored its branch at {oid[:12]}, from {where}"


def gone(project: Project) -> list[str]:
    """Return the protocols that have no branch, and that the trusted branch never had, of which something is left here."""
    git, here = project.git, project.protocols()
    prefix = history.ref_of("")
    names = {name.removeprefix(prefix) for name in git.refs(prefix)}
    names |= {path.stem for path in project.dirs.checkpoint("0001-x").parent.glob("*.json")}
    return sorted(
        name
        for name in names
        if ids.is_protocol_id(name) and name not in here and not ends.was_there(git, name, project.trusted.commit)
    )


def unclaimed_numbers(chosen: Selection) -> Iterator[Finding]:
    """Yield the protocols whose number another one could be given."""
    project = chosen.session.project
    if project.trusted.remote is not None:
        return
    for protocol, tip in project.protocols().items():
        claim = lookup.claim_ref(ids.number_of(protocol))
        chain = transitions.chain_of(project.git, protocol, tip) if project.git.ref(claim) is None else []
        if chain and chosen.only in (None, protocol):
            yield remark(
                f"the number of {protocol} is not claimed",
                claim,
                "once its branch is gone, the number is given again",
                "`runner doctor --fix` claims it",
                (claim, chain[0]),
            )


def claim_number(chosen: Selection, about: tuple[str, str]) -> str:
    """Claim the number of a protocol."""
    claim, genesis = about
    chosen.session.git.update_refs({claim: (genesis, None)}, "runner: claimed")
    return f"{claim} claims its number again"


def name_clashes(chosen: Selection) -> Iterator[Finding]:
    """Yield the protocols of which the remote has another one with the same id."""
    for protocol in chosen.session.project.protocols():
        other = lookup.clash(chosen.session, protocol) if chosen.only in (None, protocol) else None
        if other is not None:
            error = lookup.clash_error(chosen.session.project, protocol, other)
            yield contradiction(error.what, error.where, "its work here cannot be published", error.hint)


# --- a protocol --------------------------------------------------------------------------------------------------------


def moved_to_base(session: Session, protocol: str, tip: str, end: str) -> Finding:
    """Return that a fast-forward to the base that merged it took the branch along."""
    return remark(
        f"the branch of {protocol} was moved to its base, which has merged it",
        f"{session.project.branch(protocol)} at {tip[:12]}",
        "nothing is lost, and nothing runs there",
        f"`{load.way_back(session.project, protocol, tip, end)}` moves it back to its end; `runner clean` removes it",
    )


def rewritten_history(one: Examined) -> Iterator[Finding]:
    """Yield that the history was rewritten: a person decides whether that was meant."""
    if one.old is not None:
        yield contradiction(
            f"the history of {one.protocol} was rewritten: {one.old[:12]} is no longer in it",
            f"{one.session.project.branch(one.protocol)} at {one.tip[:12]}",
            "it does not run until a person decides that this was meant",
            load.hint_of_rewritten(one.session, one.protocol, one.judged, one.old),
        )


def remote_record(one: Examined) -> Iterator[Finding]:
    """Yield that the remote, as it was last seen, has a tip that does not verify."""
    session, protocol, there = one.session, one.protocol, seen_there(one.session, one.protocol, one.tip)
    if there is None:
        return
    try:
        judged = verify.verify(session.git, protocol, there, session.project.trusted)
    except RunnerError:
        return  # it is not all here
    if not (judged.ok or judged.is_foreign):
        finding = judged.findings[0]
        yield contradiction(
            f"{protocol} does not verify on {session.project.trusted.remote}: {finding.text} ({finding.rule})",
            f"{finding.path or session.project.branch(protocol)}, commit {finding.commit[:12]}",
            "nothing is fetched from there, and nothing that is here can be published; here it verifies",
            load.hint_of_remote(session, protocol, judged),
        )


def seen_there(session: Session, protocol: str, tip: str) -> str | None:
    """Return the tip of a protocol on the remote, as it was last seen, where that is not in the history of `tip`; else None."""
    git, name = session.git, ids.branch_of(session.project.pattern, protocol)
    mirror = session.mirror
    if mirror is None and (session.dirs.mirror / "HEAD").exists():
        mirror = pinned_remote(session.project)
    there = mirror.ref(f"refs/heads/{name}") if mirror else None
    if there is None or git.commit(there) is None or git.is_ancestor(there, tip):
        return None
    return there if lookup.clash(session, protocol) is None else None


def rebases(selection: Selection) -> Iterator[Finding]:
    """Yield rebases of protocols' branches that their person has not finished."""
    for ref, at in worktree.rebases(selection.session.git).items():
        protocol = ids.protocol_of_branch(selection.session.project.pattern, ref.removeprefix("refs/heads/"))
        if protocol is not None and selection.only in (None, protocol):
            hint = "`git rebase --continue` or `git rebase --abort` there"
            yield fault(f"a rebase of {protocol} is under way", at, "no command moves its branch", hint)


def uncommitted_record(one: Examined) -> Iterator[Finding]:
    """Yield changes of the record in a worktree that are in no commit, except those that a runner is making."""
    session, protocol, ref = one.session, one.protocol, one.session.project.branch(one.protocol)
    # An interrupted update of the worktree has a finding of its own.
    is_cut = any(cut is not None and cut.tree.branch == ref for _, cut in worktree.cut_follows(session.dirs))
    if is_cut or session.dirs.making(protocol).exists() or locks.is_held(session.dirs.lock(protocol)):
        return
    prefix = f"{paths.folder(protocol)}/"
    for tree in session.git.checked_out(ref):
        changed = worktree.uncommitted(session.git, tree, prefix.rstrip("/"))
        names = sorted(path for path in changed if paths.is_record(path.removeprefix(prefix)))
        if names and session.project.tip(protocol) == one.tip:
            yield fault(
                f"the runner's record was changed by hand: {', '.join(names[:3])}",
                str(tree.path),
                "the next transition would overwrite it, so it is refused",
                f"`git -C {tree.path} restore --staged --worktree -- {shlex.join(names)}`",
            )


def proven(one: Examined) -> Iterator[Finding]:
    """Yield what `runner verify` finds besides the transitions, where these verify."""
    session, protocol = one.session, one.protocol
    try:
        report, code = proof.prove(session, protocol, walked=one.judged)
    except RunnerError as error:
        yield of_error(error, f"{protocol} cannot be verified here")
        return
    for finding in report.findings:
        is_incomplete = code == InsufficientHistoryError.exit_code
        known = ("mark",) if one.has_transcripts else ("mark", "transcript")
        if finding.rule in known or (is_incomplete and not one.has_transcripts):
            continue
        if is_incomplete:
            what, _, hint = finding.text.rpartition(": ")
            yield fault(what, finding.path, f"{protocol} cannot be verified here", hint)
            continue
        yield contradiction(
            f"{protocol} does not verify: {finding.text} ({finding.rule})",
            f"{finding.path}, commit {finding.commit[:12]}",
            "its transitions verify, and the files stored beside them do not match",
            f"`runner verify {protocol}` shows all of it; docs/verify.md explains the rule `{finding.rule}`",
        )


def unattainable_approvals(one: Examined) -> Iterator[Finding]:
    """Yield the approvals that the protocol waits for and no person can give, by the trusted branch as it is now."""
    if not one.judged.ok or one.judged.state is None or one.judged.state.status in ENDED:
        return
    short = lookup.typed(one.session.project, one.protocol)
    try:
        for error in Pending(one.session, one.protocol, one.tip, short).unattainable():
            yield of_error(error, f"{one.protocol} waits, and nobody can end the wait")
    except RunnerError:
        return  # the policy cannot be carried out, which is a finding of its own


def damaged_record(one: Examined) -> Iterator[Finding]:
    """Yield what does not verify in the branch here."""
    protocol, judged, branch = one.protocol, one.judged, one.session.project.branch(one.protocol)
    if judged.is_foreign:
        if one.old is None:
            name = branch.removeprefix("refs/heads/")
            yield remark(
                f"the branch {name} is named like a protocol and has none",
                f"{branch} at {one.tip[:12]}",
                "it is listed as unreadable",
                f"`git branch -m {name} NAME` where it is another branch of yours",
            )
        return
    if not judged.walk.folder.files and judged.is_repairable:
        yield contradiction(
            f"the folder of {protocol} was removed by commit {judged.walk.damaged_by[0][:12]}",
            f"{paths.folder(protocol)} in {one.tip[:12]}",
            "it cannot be worked on",
            f"`runner doctor --fix {protocol}` puts it back",
        )
        return
    for finding in judged.findings:
        yield contradiction(
            f"{protocol} does not verify: {finding.text} ({finding.rule})",
            f"{finding.path or branch}, commit {finding.commit[:12]}",
            "nothing runs on a record that is not the runner's",
            f"`runner doctor --fix {protocol}` repairs it, with a commit that says so"
            if judged.is_repairable
            else _remaining(one, finding),
        )


def _remaining(one: Examined, finding: walk.Finding) -> str:
    project, protocol, walked = one.session.project, one.protocol, one.judged.walk
    if finding in walked.damage:
        if paths.is_record(name_in(protocol, finding.path)):
            return "repair the other findings first"
        there = project.git.checked_out(project.branch(protocol))
        at = f" -C {there[0].path}" if there else ""
        return f"`git{at} rm -- {finding.path}` and commit that; a plan file is a person's to remove"
    commit = project.git.commit(finding.commit)
    good = commit.parents[0] if commit and commit.parents and walked.state is not None else None
    if good is None:
        return f"it cannot be repaired; `git log {project.branch(protocol)}` shows what happened"
    back = load.way_back(project, protocol, one.tip, good)
    return f"`{back}` goes back to before that commit, and `runner doctor --fix {protocol}` adopts that"


def damaged_journals(chosen: Selection) -> Iterator[Finding]:
    """Yield the journals that cannot be read completely."""
    for path in matching(chosen.session.dirs.journal(chosen.only or ""), "**/*.jsonl"):
        try:
            _ = Journal(path).records
        except DamagedJournalError as error:
            yield fault(
                error.what,
                str(path),
                f"its step cannot continue: the answers and calls from record {error.number} on are lost, "
                "and an external call may be among them",
                f"check whether external calls took effect; then `mv {path} {path}.damaged` restarts the step: it repeats its "
                "model requests and those calls, and pays for them again",
            )
        except RunnerError as error:
            yield fault(error.what, error.where, "its step cannot continue", error.hint)


# --- history refs ------------------------------------------------------------------------------------------------------


def transcripts(one: Examined) -> Iterator[Finding]:
    """Yield that the history lacks transcripts that the log names: it was not fetched, or went back."""
    git, ref, remote = one.session.git, history.ref_of(one.protocol), one.session.project.trusted.remote
    try:
        for wrong in wrong_transcripts(git, one.protocol, one.judged.walk.named, git.ref(ref), remote, []):
            one.has_transcripts = False
            yield contradiction(
                f"{one.protocol} does not verify: {wrong.text} ({wrong.rule})",
                wrong.path,
                "the transcript is not the one that the log names",
                f"`runner doctor --fix {one.protocol}` where the remote has the right one; else in a clone that has it",
            )
            return
    except InsufficientHistoryError as error:
        elsewhere = f"there is no remote; where another clone has it: `git fetch CLONE '{ref}:{ref}'`"
        one.has_transcripts = False
        yield fault(
            error.what,
            ref,
            "it can be neither shown nor verified, and budgets do not include its cost",
            "`runner doctor --fix` fetches it" if remote else f"{elsewhere}; else it is lost, and the record remains",
            remote,
        )


def fetch_history(one: Examined, about: str) -> str:
    """Fetch the history of a protocol, where the remote's has more of the transcripts that the log names."""
    project, protocol, walk = one.session.project, one.protocol, one.judged.walk
    git, mirror, ref = project.git, pinned_remote(project), history.ref_of(protocol)
    if mirror is None:
        return ""
    _fetch(project, mirror, protocol)
    here, there = git.ref(ref), mirror.ref(ref)
    if there is None or there == here:
        return ""
    changes: dict[str, tuple[str | None, str | None]] = {ref: (there, here)}
    if here is not None and not history.follows(git, protocol, here, there):
        if _worth(project, protocol, walk, there)[0] <= _worth(project, protocol, walk, here)[0]:
            return ""
        changes |= history.kept_as_lost(git, protocol, here, "history-")
    git.update_refs(changes, "runner: fetched")
    return f"fetched {ref} from {mirror.remote}: {there[:12]}"


def replaced(one: Examined) -> Iterator[Finding]:
    """Yield that the remote's history, as it was last seen, may not replace the one here."""
    project, protocol = one.session.project, one.protocol
    mirror = pinned_remote(project) if one.asks or (project.dirs.mirror / "HEAD").exists() else None
    if mirror is None or not (one.asks or one.has_transcripts):
        return
    try:
        if one.asks:
            _fetch(project, mirror, protocol)
    except UnreachableError as error:
        project.env.say(f"{error.what}; whether its history is as it was published is not known")
        return
    theirs = mirror.ref(history.ref_of(protocol))
    if theirs is None or _compare(project, mirror, protocol, theirs).kind is not history.Comparison.REPLACED:
        return
    wrong = publishing.history_replaced(project, protocol, theirs)
    yield contradiction(
        wrong.what,
        wrong.where,
        "nothing of it is published or fetched, and other clones may lack its transcripts",
        f"`runner doctor --fix {protocol}` compares both with the log, and publishes the right one",
        theirs if one.asks else None,
    )


def _fetch(project: Project, mirror: Mirror, protocol: str) -> None:
    mirror.fetch(project.branch(protocol), history.ref_of(protocol), timeout=REFETCH_SECONDS)


def _compare(project: Project, mirror: Mirror, protocol: str, theirs: str) -> history.Offer:
    branch = project.branch(protocol)
    published = mirror.ref(branch)
    tip = project.git.ref(branch) or published or theirs
    return history.compare(project.git, protocol, theirs, tip=tip, published=published)


def settle_history(one: Examined, about: str) -> str:
    """Publish the history here again in place of the remote's, or fetch the remote's: the one that has what the log names.

    Where each has some of it, theirs is added on top of ours. The replaced one is kept under refs/runner/lost/.

    Raises:
        UnreachableError: the remote did not answer, or refused. ConflictError: it moved meanwhile.
    """
    project, protocol, walk = one.session.project, one.protocol, one.judged.walk
    git, ref, mirror = project.git, history.ref_of(protocol), pinned_remote(project)
    if mirror is None:
        return ""
    _fetch(project, mirror, protocol)
    ours, theirs = git.ref(ref), mirror.ref(ref)
    if (
        ours is None
        or theirs is None
        or _compare(project, mirror, protocol, theirs).kind is not history.Comparison.REPLACED
    ):
        return ""
    (mine, my_files), (hers, her_files) = (_worth(project, protocol, walk, tip) for tip in (ours, theirs))
    new = ours if mine >= hers else theirs
    more = her_files - my_files
    if more and my_files - her_files:
        new = _joined(project, protocol, ours, theirs, more)
    gone = ours if new == theirs else theirs
    lost = history.kept_as_lost(git, protocol, gone, "history-")
    git.update_refs(lost, "runner: lost")  # before the remote lets go of it
    if new != theirs:
        mirror.push({ref: (new, theirs)})
    if new != ours:
        git.update_refs({ref: (new, ours)}, "runner: settled")
    at = next(iter(lost))
    if new == theirs:
        return f"{protocol}: took the history that {mirror.remote} has, {theirs[:12]}; the one here is kept at {at}"
    return f"{protocol}: published its history again, {new[:12]}; {mirror.remote} had {theirs[:12]}, kept at {at}"


def _worth(project: Project, protocol: str, walk: Walk, tip: str) -> tuple[tuple[int, bool, bool, int], frozenset[str]]:
    """Return (the worth of a history, the greater the better; the files that the log names): transcripts that the log names count
    first, then whether all are right, whether it can be read, and how many files it has."""
    git, found, is_right = project.git, list[tuple[Named, str]](), True
    with contextlib.suppress(InsufficientHistoryError):
        for _ in wrong_transcripts(git, protocol, walk.named, tip, project.trusted.remote, found):
            is_right = False
    try:
        is_readable = bool(list(history.commits(git, protocol, tip)))
    except InsufficientHistoryError:
        is_readable = False
    proven = frozenset(oid for _, oid in found)
    return (len(proven), is_right, is_readable, len(git.files(tip)) if is_readable else 0), proven


def _joined(project: Project, protocol: str, ours: str, theirs: str, wanted: frozenset[str]) -> str:
    """Write a history that continues ours and has the files `wanted` of theirs too; return its commit."""
    git = project.git
    mine = next(history.commits(git, protocol, ours))
    hers = [
        one
        for one in history.commits(git, protocol, theirs)
        if any(entry.oid in wanted for entry in git.files(one[0].oid).values())
    ]
    return history.file_again(git, protocol, [*reversed(hers), mine], ours, project.runner())
