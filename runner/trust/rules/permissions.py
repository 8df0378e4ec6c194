"""20. counted, 21. trusted, 22. needed, 23. signed: what a transition did was permitted then, and who signed it (design §4).

An `approval-counted` or `call-decided` is valid where it is the event that `approval.decided` makes: under the policy of its
`Runner-Trusted`, in the tree and state before it, at the time of its entry; revocations are those of the trusted branch as it is now.
A chain without such an event is not asked.

An action on a step (carried out, checked, ended) is judged as `executor.permissions` did before it: by the policy of the event's
`Runner-Trusted`, by the plan and the tree of the commit at which it started. The time of the start is not recorded: approvals are
judged at the time of the transition before, so one that expired before the start is like one that expired during the work.

A job that a model works in may not hand over for publishing what only people, or the forge, say (design §6): most of it is not
signed, so a job that was taken over could write it, and verify would hold it for good. People, and the job that reads the forge,
publish their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from runner.errors import InsufficientHistoryError, IntegrityError, MalformedFileError, RefusedError, RunnerError
from runner.git import Git
from runner.lines import pattern
from runner.protocol import events as ev
from runner.protocol import machine, paths
from runner.protocol.approval_file import seconds
from runner.protocol.event_types import event_type
from runner.protocol.events import Entry
from runner.protocol.log import RawEntry
from runner.protocol.machine import CompleteStep, RunStep
from runner.store import record
from runner.store.record import transition_of
from runner.trust import approval, permit, requirements, signature, trusted_config
from runner.trust.approval import ApprovalStatus
from runner.trust.manifest import Subject
from runner.trust.permit import ActionResult, Ask, Denied, StepAction, Verdict
from runner.trust.requirements import KEYBOARD
from runner.trust.rules.transition import check_work
from runner.trust.transitions import ApprovalFile, first_parents, is_done
from runner.trust.trusted_config import TrustedConfig, raw_signature
from runner.trust.view import View
from runner.trust.walk import Finding, ParsedCommit, Said, Walk

ApprovalEvent = ev.ApprovalCounted | ev.CallDecided


def check_counted(walk: Walk, parsed: ParsedCommit) -> Said:
    """20. The approvals that an event uses are those that counted then, and they were enough.

    Raises:
        InsufficientHistoryError: an object that decides whose approval counted is not in this clone.
    """
    if not parsed.is_judged or not parsed.uses_approvals:
        return
    known = list(walk.entries())
    for entry, raw in zip(parsed.entries, parsed.raw, strict=True):
        event = entry.event
        if isinstance(event, ApprovalEvent):
            found = walk.config_at(parsed.trusted)
            text = found if isinstance(found, str) else _judged(walk, parsed, entry, event, found, known)
            if text is not None:
                walk.history(parsed).doubted.add(entry.revision)
                yield walk.path(paths.LOG), f"`{event.name}` of {event.subject}: {text}"
            else:
                walk.counted.update(event.approvals)
                walk.reviews += len(event.reviews)
        known.append(raw)


def _view(walk: Walk, parsed: ParsedCommit, event: ApprovalEvent) -> View | str:
    """Return what the event was judged on: the commit before it or, where the work was merged onto others', the one that it names."""
    past = walk.history(parsed)
    commit = event.at or parsed.below.oid
    if commit not in past.positions:
        return f"it was judged at {commit[:12]}, which is no commit of the branch before it"
    if commit != parsed.below.oid and not any(one.type.role == "work" for one in parsed.events):
        return f"it was judged at {commit[:12]}, and no work that started there ends here"
    work = parsed.first(ev.StepFinished)
    if (
        event.at
        and isinstance(event, ev.ApprovalCounted)
        and isinstance(work, ev.StepFinished)
        and work.start != event.at
    ):
        return f"it was judged at {commit[:12]}, and the work started at {work.start[:12]}"
    return walk.view_at(parsed, commit, with_edit=True)


def _judged(
    walk: Walk,
    parsed: ParsedCommit,
    entry: Entry,
    event: ApprovalEvent,
    found: TrustedConfig,
    known: list[RawEntry],
) -> str | None:
    """Return why an event that used approvals does not hold, or None: it is the one that a runner would have recorded."""
    view = _view(walk, parsed, event)
    if isinstance(view, str):
        return view
    wait = next((one for one in view.state.waiting if one.id == event.wait), None)
    if wait is None or wait.kind not in event.type.ends:
        return f"{event.wait} is no wait that this event ends"
    if wait.subject != event.subject:
        return f"{event.wait} is about {wait.subject}"
    if event.by in (KEYBOARD, [KEYBOARD]):
        return _at_keyboard(walk, view, event, found)
    view = dataclasses.replace(view, config=found, at=seconds(entry.time), known=known)
    try:
        status = approval.status_of(view, wait, event.reviews)
    except (RefusedError, MalformedFileError) as error:
        return f"{error.what}, {error.where}"
    if status is None:
        return f"no signed approval was required by the policy of {found.commit[:12]}"
    due = approval.decided(wait, status)
    return None if event.model_copy(update={"at": None}) == due else _difference(event, due, status, view.approvals())


def _difference(
    event: ApprovalEvent, due: ApprovalEvent | None, status: ApprovalStatus, found: Sequence[ApprovalFile]
) -> str:
    """Return how the event differs from the one that was due. `found`: every approval there is."""
    faults = {one.id: f"{one.rejection}: {one.text}" for one in (*found, *status.refused) if one.rejection is not None}
    why = [faults[one] for one in event.approvals if one in faults]
    why += [f"a review, {one.rejection}: {one.text}" for one in status.reviews if one.rejection is not None]
    if not why and due is None:
        why = [f"{one.approver} rejected it" for one in status.rejected] or [f"missing: {status.missing}"]
    counted = ", ".join(one.approver for one in status.rejected or status.counted)
    return "; ".join(why[:3]) or f"other approvals count: {counted or 'none'}"


def _at_keyboard(walk: Walk, view: View, event: ApprovalEvent, found: TrustedConfig) -> str | None:
    """Return why an approval at a terminal is invalid, or None: it serves where there is no policy, and never was."""
    if event.approvals:
        return "it was given at a keyboard, and names words that are signed"
    if found.policy is not None:
        return f"it was given at a keyboard, and there was a policy in {found.commit[:12]}"
    for told, place in view.branch.told.items():
        if told != found.commit and place <= view.branch.positions[view.tip]:
            other = walk.config_at(told)
            if isinstance(other, str) or other.policy is not None:
                return f"it was given at a keyboard, and there had been a policy in {told[:12]}"
    return None


# --- 21: whose policy it was ---------------------------------------------------------------------------------------------


def went_back(walk: Walk, parsed: ParsedCommit, *, used: bool) -> Iterator[str]:
    """Yield why the policy that a transition names is invalid: it is an older one, or was never the trusted branch's.

    `used`: whether approvals were counted by it; else a commit whose policy and keys are the same serves as well.

    Raises:
        InsufficientHistoryError: a commit of the trusted branch is not in this clone.
    """
    now, past = parsed.trusted, walk.history(parsed)
    if not used and walk.git.commit(now) is None and _is_free(walk):
        walk.unseen.add(now)
        return
    trusted_config.there(walk.git, now)
    if now in past.positions:
        yield f"the policy is taken from {now[:12]}, a commit of the protocol's own branch"
        return
    if walk.trusted is not None and walk.trusted.remote is None:
        return  # a local branch, which whoever works here may rewrite
    since = min((past.positions[oid] for oid in _starts(walk, parsed)), default=len(past.order))
    told = [
        before
        for before, place in past.told.items()
        if place <= since and before != now and before not in walk.unseen and (used or not _same(walk, before, now))
    ]
    # The last one first: what that is known to be above is below this one too.
    newer = {before for before in reversed(told) if not _is_below(walk, before, now)}
    for before in filter(newer.__contains__, told):
        yield f"the policy went back: it was that of {before[:12]} before, and is that of {now[:12]}"
    seen = walk.trusted
    if seen is None or now in walk.known_trusted or (not used and _same(walk, seen.commit, now)):
        return
    off = list(_off_branch(walk.git, seen.commit, now, seen.branch)) if seen.commit != now else []
    if not off:
        walk.known_trusted.add(now)
    yield from off


def _is_below(walk: Walk, old: str, new: str) -> bool:
    known = walk.ancestors.setdefault(new, set())
    if old not in known and trusted_config.is_below(walk.git, old, new):
        known |= {old, *walk.ancestors.get(old, ())}
    return old in known


def _is_free(walk: Walk) -> bool:
    """Return whether nobody is asked here: the trusted branch is a local one, or has no policy."""
    seen = walk.trusted
    return seen is not None and (seen.remote is None or walk.rules_at(seen.commit)[0] is None)


def _same(walk: Walk, one: str, other: str) -> bool:
    """Return whether two trusted commits have the same policy and keys."""
    return walk.rules_at(one) == walk.rules_at(other)


def _off_branch(git: Git, seen: str, now: str, branch: str) -> Iterator[str]:
    trusted_config.there(git, seen)
    if git.is_ancestor(now, seen):
        between = git.first_parents(seen, stop=now)
        last = git.commit(between[-1]) if between else None
        if last is None or last.parents[:1] != (now,):
            yield f"the policy is that of {now[:12]}, which {branch} never was at"
    elif git.is_ancestor(seen, now):
        raise InsufficientHistoryError(
            f"{branch} was last seen here at {seen[:12]}, which does not have {now[:12]}, whose policy the record names",
            f"{branch}, last seen",
            "run `runner sync` to look at it again, then `runner verify`; if it never gets that commit, the record is forged",
        )
    elif git.is_shallow():
        raise git.missing(f"the history of {branch}")
    else:
        yield f"the policy is that of {now[:12]}, which {branch} never was at"


# --- 22: which approvals it required -------------------------------------------------------------------------------------------------


def wrong(walk: Walk, parsed: ParsedCommit) -> Iterator[str]:
    """Yield what a transition did without the approval that it required, or against the policy.

    Raises:
        InsufficientHistoryError: an object that decides whose approval was required is not in this clone.
    """
    if parsed.trusted in walk.unseen:
        return
    found = walk.config_at(parsed.trusted)
    if isinstance(found, str):
        yield found
        return
    told: str | None = None
    for commit in _starts(walk, parsed):
        try:
            told = _wrong_at(walk, parsed, found, commit)
        except InsufficientHistoryError:
            raise
        except RunnerError as error:
            told = f"{error.what}, {error.where}"
        if told is None:
            return
    if told is not None:
        yield told


def _starts(walk: Walk, parsed: ParsedCommit) -> Iterator[str]:
    """Yield the commits at which the action may have started, the likeliest first."""
    past, number = walk.history(parsed), parsed.action
    action = None if number is None else parsed.events[number]
    judged = [event.at for event in parsed.events if isinstance(event, ApprovalEvent) and event.at in past.positions]
    if judged and judged[0] is not None:
        yield judged[0]
        return
    if isinstance(action, ev.StepFinished) and action.executor != "person" and action.start in past.positions:
        yield action.start
        return
    # Work that ends otherwise than by `step-finished`, which alone says where it started: people's commits may lie between.
    is_late = (
        action is not None
        and action.type.role == "work"
        and not isinstance(action, ev.StepFinished)
        and not (isinstance(action, ev.Asked) and action.kind == "human")
    )
    for commit in first_parents(walk.git, parsed.below.oid):
        if commit.oid not in past.positions:
            return
        yield commit.oid
        own = transition_of(commit, walk.protocol)
        if not is_late or (own is not None and is_done(name for name, _ in own.events)):
            return


def _wrong_at(walk: Walk, parsed: ParsedCommit, found: TrustedConfig, commit: str) -> str | None:
    """Return why the action was not permitted if it started at the commit, or None."""
    assert parsed.action is not None
    action, event = parsed.entries[parsed.action], parsed.events[parsed.action]
    view = walk.view_at(parsed, commit)
    if isinstance(view, str):
        return view
    view = _prepared(walk, view, parsed.entries[: parsed.action])
    assert view.plan is not None
    step = view.plan.step(event.subject)
    if step is None or step.slug not in view.state.steps:
        # It is no step there any more, or not yet: it can only end, and nobody asked for its approvals.
        done = isinstance(event, ev.StepFinished | ev.QaPassed | ev.StepCompleted)
        return f"{event.subject}: it was done, and was no step of the plan in {commit[:12]}" if done else None
    view = dataclasses.replace(view, config=found, at=_began(action, view.entries))
    for verdict in _verdicts(view, parsed, event):
        if isinstance(verdict, Ask):
            asked = verdict.requirement
            return f"{step.slug}: {asked.text} was required of {asked.who}, and none was valid"
        if isinstance(verdict, Denied):
            return f"{step.slug}: {verdict.what}, {verdict.where}"
    return None


def _prepared(walk: Walk, view: View, prefix: Sequence[Entry]) -> View:
    """Return the view after the edits and approvals that a transition there recorded first."""
    known, state, granted = walk.entries(), view.state, list[Subject]()
    if known and known[-1].revision > state.revision:
        known = [one for one in known if one.revision <= state.revision]
    for entry in prefix:
        if isinstance(entry.event, ev.ApprovalCounted):
            wait = next((one for one in state.waiting if one.id == entry.event.wait), None)
            if wait is not None and wait.type.ended_by == "approval":
                granted.append(requirements.subject_of(dataclasses.replace(view, state=state, known=known), wait))
        state = machine.apply(state, entry._replace(revision=state.revision + 1))
    return dataclasses.replace(view, state=state, known=known, granted=granted, loose=True)


def _began(action: Entry, known: Sequence[RawEntry]) -> int:
    """Return the earliest possible time of an action's start: that of the last entry, or its own where clocks differ."""
    return min(seconds(action.time), seconds(known[-1].time)) if known else seconds(action.time)


def _verdicts(view: View, parsed: ParsedCommit, event: ev.Event) -> Iterator[Verdict]:
    """Yield what `permit` says of a transition's action on a step: of where it was done, before it, and of what it led to."""
    where = (getattr(event, "executor", None) or "").partition("+")[0]
    if where in ("host", "container", "sandbox"):
        yield permit.executor(view.trusted, where)
    if engine := getattr(event, "engine", None):
        yield permit.engine(view.trusted, engine, event.subject)
    slug = event.subject
    action: StepAction = RunStep(slug)
    if isinstance(event, ev.StepCompleted):
        action = CompleteStep(slug)
    yield permit.permit(view, action)
    result = _result(view, parsed, event)
    if result is not None:
        yield permit.permit(view, action, result)


def _result(view: View, parsed: ParsedCommit, event: ev.Event) -> ActionResult | None:
    """Return what an action led to that has to be permitted; None where it led to nothing but its event."""
    work = (parsed.below.oid, parsed.commit.oid)
    is_done = any(isinstance(one, ev.StepCompleted) and one.subject == event.subject for one in parsed.events)
    match event:
        case ev.StepFinished():
            if event.executor == "person" and event.start in view.branch.positions:
                work = (event.start, parsed.commit.oid)
            return ActionResult(work, "done" if is_done else "checked")
        case ev.StepCompleted():  # before it, `permit` judged all of the work
            return None
        case _ if is_done:
            return ActionResult(None)
    if not event.type.has_work:
        return None
    return ActionResult(work, "waits" if event.type.opens else "checked")


# --- 23: who signed it -----------------------------------------------------------------------------------------------


def is_said(event: ev.Event) -> bool:
    """Return whether an event only tells what a person says, and may have that person's signature."""
    return event.type.said_by in ("person", "either") and (event.name != "asked" or event.subject == "plan")


def unsigned(walk: Walk, parsed: ParsedCommit) -> Iterator[str]:
    """Yield why a commit's signature is invalid: it is bad or, where the policy requires one, of a wrong person."""
    text, armour = raw_signature(walk.git, parsed.commit) if parsed.commit.signed else (b"", b"")
    # One that cannot be read is nobody's.
    made = trusted_config.read_ssh(armour) if armour.startswith(b"-----BEGIN SSH") else None
    if made is not None and not signature.holds_for(made, text):
        yield "the commit's signature is bad: the mathematics fails"
        return
    if parsed.trailers is None or parsed.illegal is not None:
        return
    trusted = parsed.trailers.trusted
    if walk.git.commit(trusted) is None and _is_free(walk):
        return
    if walk.rules_at(trusted)[0] is None:
        return
    found = walk.config_at(trusted)
    if isinstance(found, str) or found.policy is None or found.policy.content.transitions != "signed":
        return
    at = seconds(parsed.entries[-1].time)
    listed = found.signers.of_key(made.key) if made is not None else None
    who = [listed.principal] if listed is not None else []
    told = "" if armour else f"it is not signed, and the policy of {trusted[:12]} wants that"
    for principal in (*who, *(email.casefold() for email in parsed.commit.emails)):
        verdict = found.judge(text, armour, principal, at)
        told = told or verdict.reason
        if verdict.ok and (principal in found.agents or all(map(is_said, parsed.events))):
            walk.signed += 1
            return
        if verdict.ok:
            told = f"it is signed by {principal}, and what a runner does by one of `agents`"
            break
    yield told or "its signature is nobody's"


def check_trusted(walk: Walk, parsed: ParsedCommit) -> Said:
    """21. Approvals were counted and work was done under the trusted branch's policy, and no older one than before."""
    used = parsed.uses_approvals
    if parsed.is_judged and (used or parsed.action is not None):
        for text in went_back(walk, parsed, used=used):
            yield "", text


def check_needed(walk: Walk, parsed: ParsedCommit) -> Said:
    """22. An action had the approvals that the policy of then and the plan required, and nothing of it was denied."""
    if parsed.is_judged and parsed.action is not None and next(check_work(walk, parsed), None) is None:
        for text in wrong(walk, parsed):
            yield walk.path(paths.LOG), text


def check_signed(walk: Walk, parsed: ParsedCommit) -> Said:
    """23. A transition is signed by a key that the policy of then lists, where it wants that; and no signature is a bad one."""
    if parsed.commit.signed or (parsed.trailers is not None and parsed.illegal is None):
        for text in unsigned(walk, parsed):
            yield "", text


_SPEAKER = pattern(r"[^/]+/[0-9]+/comment/[0-9]+")  # an actor: who said it in a comment on the forge


def not_handed_over(git: Git, protocol: str, tip: str, published: str) -> Iterator[Finding]:
    """Return what the commits up to `tip` that are not in `published`, the remote's branch, say and a runner at work cannot."""
    at = f"{paths.folder(protocol)}/{paths.LOG}"
    for oid in git.run("rev-list", "--reverse", tip, f"^{published}").decode().split():
        commit = git.commit(oid)
        assert commit is not None
        if not record.is_transition(commit, protocol):
            yield Finding("handed-over", oid, paths.folder(protocol), "a commit that only a person makes")
            continue
        try:
            entries = record.added(git, protocol, commit)
        except IntegrityError as error:
            yield Finding("handed-over", oid, at, error.what)
            continue
        for text in _said(entries):
            yield Finding("handed-over", oid, at, text)


def _said(entries: list[RawEntry]) -> Iterator[str]:
    failed = False
    for one in entries:
        by = one.fields.get("by")
        if event_type(one.event).said_by in ("person", "forge"):
            yield f"`{one.event}`: only a person, or the forge, says that"
        elif one.event == "step-retried" and not failed:
            yield "`step-retried` of a step that did not fail in this transition: only a person says that"
        elif by == KEYBOARD or (isinstance(by, list) and KEYBOARD in by):
            yield f"`{one.event}` at a keyboard: only a person says that"
        elif one.fields.get("reviews"):
            yield f"`{one.event}` by a review: only a person says that, on the forge"
        elif _SPEAKER.fullmatch(one.actor):
            yield f"`{one.event}` in the name of a comment on the forge: only a person writes that"
        failed = failed or one.event == "step-failed"
