"""Between deciding and acting: is somebody's word needed, was it given, and does it still stand (design §4).

`settle` turns the words that came in into events; `hold` says whether what may happen next has to wait for one. Nothing is acted
here, and a word is only used after the trusted branch was fetched, where there is a remote.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from runner.errors import RefusedError
from runner.executor import reviews
from runner.forge.base import Forge
from runner.protocol import events as ev
from runner.protocol import log, machine, paths
from runner.protocol.events import Entry, Event
from runner.protocol.machine import Action, AskPerson, CompleteStep, RunStep
from runner.protocol.plan import Plan, Step
from runner.protocol.state import State, StepStatus, Wait
from runner.protocol.statement import seconds
from runner.store import publishing
from runner.store.project import Project
from runner.store.snapshot import Snapshot
from runner.trust import approval, authority, demand, replay
from runner.trust.approval import Asked, Bench, Standing
from runner.trust.authority import Authority
from runner.trust.demand import Demand
from runner.trust.manifest import Subject
from runner.trust.policy import Decision
from runner.trust.waits import KINDS as KINDS
from runner.trust.waits import demanded as demanded
from runner.trust.waits import subject_of as subject_of
from runner.trust.waits import used as used


@dataclass(frozen=True, slots=True)
class AskApproval:
    """What may happen next has to wait: `demand` is to be asked for, `digest` is what it is about now."""

    demand: Demand
    digest: str

    @property
    def event(self) -> ev.ApprovalAsked:
        """The event that asks."""
        subject = self.demand.subject
        return ev.ApprovalAsked(
            subject=subject.slug or subject.kind,
            kind=subject.kind,
            digest=self.digest,
            text=log.cut(self.demand.text),
            by=log.cut(self.demand.who),
        )


def of(project: Project) -> Authority:
    """Return what the trusted branch says, as this process last saw it."""
    if "authority" not in project.kept:
        trusted = project.trusted
        project.kept["authority"] = authority.load(project.git, trusted.commit, trusted.branch, project.config)
    found: Authority = project.kept["authority"]
    return found


def refuse_isolation(project: Project, executor: str) -> None:
    """Refuse to run commands where the policy wants them better kept apart.

    Raises:
        RefusedError: naming the rule.
    """
    _refuse(
        of(project).isolation(executor), f"the executor `{executor}`", "use `--executor sandbox`, or change the policy"
    )


def refuse_engine(project: Project, engine: str, step: str | None = None) -> None:
    """Refuse to ask a model that the policy does not allow.

    Raises:
        RefusedError: naming the rule.
    """
    _refuse(of(project).engine(engine, step), f"the engine `{engine}`", "use another `--engine`, or change the policy")


def _refuse(said: Decision, what: str, hint: str) -> None:
    if said.verdict != "allow":
        why = f": {said.reason}" if said.reason else ""
        raise RefusedError(f"the policy does not allow {what} by `{said.rule}`{why}", said.where, hint)


def bench(project: Project, seen: Snapshot, state: State, found: Authority, time: str | None = None) -> Bench:
    """Return what judging words takes, at the present time or at `time`."""
    now = seconds(time) if time else int(project.who.now())
    return Bench(project.git, seen.protocol, seen.tip, state, found, now)


def settle(
    project: Project, seen: Snapshot, plan: Plan, state: State, time: str, forge: Forge | None = None
) -> list[Event]:
    """Return the events that the words which came in make: counted, decided, or refused with the reason, each told once.

    `time`: at which they are judged, and which the record tells; `forge`: where reviews are read, for the one thing that waits.

    Raises:
        RefusedError: the trusted branch went back behind the policy that the record tells of.
        UnreachableError: a word would be used, and the remote that says whose word counts does not answer.
    """
    waits = [wait for wait in state.waiting if wait.kind in KINDS]
    if not waits or state.status not in machine.ACTIVE:
        return []
    made: list[Event] = []
    known = entries(project, seen)
    told = {raw.fields.get("approval") for raw in known if raw.event == "approval-refused"}
    for wait in waits:
        subject = subject_of(wait, state, known)
        heard = reviews.NOTHING
        standing = _standing(project, seen, plan, state, wait, subject, known, time, heard)
        if standing is not None and forge is not None and standing.demand.reviews and not standing.demand.keyboard:
            heard = reviews.hear(project, forge, bench(project, seen, state, of(project), time), standing.demand, wait)
            standing = _standing(project, seen, plan, state, wait, subject, known, time, heard)
        if standing is None:
            gone = ev.ApprovalRefused(subject=wait.subject, reason="no word is needed for it any more", wait=wait.id)
            made.append(gone)
            continue
        if standing.counted or standing.rejected or standing.refused or standing.reviews:
            if _refresh(project, seen.protocol):
                standing = _standing(project, seen, plan, state, wait, subject, known, time, heard) or standing
            _refuse_rolled_back(project, seen)
            made += [
                ev.ApprovalRefused(subject=wait.subject, reason=log.cut(f"{word.fault}: {word.text}"), approval=word.id)
                for word in standing.refused
                if word.id not in told and word.fault is not approval.Fault.USED
            ]
        if standing.rejected or not heard.objections:
            made += _decided(project, wait, standing)
    return made


def _standing(
    project: Project,
    seen: Snapshot,
    plan: Plan,
    state: State,
    wait: Wait,
    subject: Subject,
    known: Sequence[log.RawEntry],
    time: str,
    heard: reviews.Heard,
) -> Standing | None:
    found = of(project)
    asked = demanded(found, subject, wait.text, plan, paths.folder(seen.protocol))
    if asked is None:
        return None
    if asked.keyboard:  # said at a terminal, when it is said
        return Standing(asked, wait.digest or "", (), (), ())
    judged = bench(project, seen, state, found, time)
    asking = Asked.of(judged, wait) if heard.approvals else None
    return approval.judge(judged, asked, plan, used(subject, known), heard.approvals, asking)


def _refuse_rolled_back(project: Project, seen: Snapshot) -> None:
    """Refuse to count words under an older policy than one that the record tells of: verify would never hold it for good."""
    trusted = project.trusted
    if trusted.remote is not None:
        for newer in replay.newer(project.git, seen.protocol, seen.tip, trusted.commit):
            raise RefusedError(
                f"{trusted.branch} went back: it was at {newer[:12]}, and is at {trusted.commit[:12]}",
                trusted.note,
                f"have somebody put {newer[:12]} back onto {trusted.branch} of {trusted.remote}, or merge it there",
            )


def _decided(project: Project, wait: Wait, standing: Standing) -> list[Event]:
    words = standing.rejected or standing.counted
    by, ids = [word.approver for word in words], [word.id for word in words]
    told = [one for one in standing.reviews if one.fault is None] if not standing.rejected else []
    by, said = by + [one.approver for one in told], [one.fields for one in told]
    if wait.kind == "call" and (standing.satisfied or standing.rejected):
        decision = "rejected" if standing.rejected else "approved"
        who = ", ".join(by)
        return [
            ev.CallDecided(subject=wait.subject, wait=wait.id, decision=decision, by=who, approvals=ids, reviews=said)
        ]
    if standing.satisfied:
        return [ev.ApprovalCounted(subject=wait.subject, wait=wait.id, approvals=ids, by=by, reviews=said)]
    if wait.kind == "call" and project.who.now() > seconds(wait.since) + standing.demand.lasts:
        hours = standing.demand.lasts // 3600
        assert wait.digest is not None
        return [
            ev.ApprovalRefused(subject=wait.subject, reason=f"nobody decided within {hours} h", wait=wait.id),
            ev.CallHeld(
                subject=wait.subject, call=standing.demand.subject.name, digest=wait.digest, text=wait.text, by=wait.by
            ),
        ]
    return []


def entries(project: Project, seen: Snapshot) -> list[log.RawEntry]:
    """Return the whole log of a snapshot, renamed parts included."""
    data = b"".join(
        project.git.blob(seen.files[name].oid) or b"" for name in sorted(seen.files) if name.startswith("log/")
    )
    return log.parse_raw(data + seen.log, seen.where)


def _refresh(project: Project, protocol: str) -> bool:
    """Fetch the trusted branch just before a word is used; return whether it moved."""
    before = project.trusted.commit
    publishing.look_again(project, protocol)
    return project.trusted.commit != before


def hold(
    project: Project, seen: Snapshot, plan: Plan, state: State, action: Action, words: Sequence[Event]
) -> AskApproval | None:
    """Return what has to be asked for before `action` may happen, the first of all; `words`: what this transition settled.

    Raises:
        RefusedError: the policy denies it.
    """
    found, where = of(project), paths.folder(seen.protocol)
    if isinstance(action, RunStep | AskPerson):
        step = plan.step(action.slug)
        if step is None or state.steps[action.slug].status is not StepStatus.PENDING:
            return None
        asked: list[Demand | None] = [demand.of_plan(found, plan, where), demand.of_start(found, step, where)]
    elif isinstance(action, CompleteStep):
        step = plan.step(action.slug)
        assert step is not None
        asked = [*after(project, seen, plan, step, state, None, seen.tip, found)]
    else:
        return None
    return _first(project, seen, plan, state, [one for one in asked if one], words, found)


def is_approved(project: Project, step: Step, where: str) -> bool:
    """Return whether a step starts on somebody's word: then nothing that git does not track may be there."""
    return demand.of_start(of(project), step, where) is not None


def after(
    project: Project,
    seen: Snapshot,
    plan: Plan,
    step: Step,
    state: State,
    start: str | None,
    tree: str,
    found: Authority | None = None,
) -> list[Demand]:
    """Return the words that a step's work needs before it is done.

    `start`: what it began at, by the record where None; `tree`: what it left.

    Raises:
        RefusedError: the policy does not allow what was changed.
    """
    found = found or of(project)
    attempt = state.steps[step.slug].attempt if step.slug in state.steps else 1
    start = start or bench(project, seen, state, found).began(Subject("result", step.slug, attempt))
    said = found.work_of(project.git, seen.protocol, start, tree, plan, step)
    if said and said[0].verdict == "deny":
        _refuse(said[0], f"the changes of {step.slug}", "revert them, or change the policy")
    why = [f"{one.reason or one.rule} ({one.rule})" for one in said]
    asked: list[Demand | None] = [
        demand.of_changes(found, step.slug, attempt, why),
        demand.of_result(found, step, attempt, paths.folder(seen.protocol)),
    ]
    return [one for one in asked if one]


def asked_after(
    project: Project, seen: Snapshot, plan: Plan, step: Step, state: State, start: str | None, tree: str
) -> list[Event]:
    """Return the event that asks for the first word that a step's work needs, none where it needs none."""
    found = of(project)
    for one in after(project, seen, plan, step, state, start, tree, found):
        judged = bench(project, seen, state, found)
        return [AskApproval(one, judged.digest(one.subject, tree, plan, began=start)).event]
    return []


def _first(
    project: Project,
    seen: Snapshot,
    plan: Plan,
    state: State,
    asked: Sequence[Demand],
    words: Sequence[Event],
    found: Authority,
) -> AskApproval | None:
    if not asked:
        return None
    judged = bench(project, seen, state, found)
    known = entries(project, seen)
    waits = {wait.id: wait for wait in seen.state.waiting}
    now = [subject_of(waits[one.wait], state, known) for one in words if isinstance(one, ev.ApprovalCounted)]
    for one in asked:
        if one.subject not in now and not _stands(judged, one, plan, state, known):
            return AskApproval(one, judged.digest(one.subject, seen.tip, plan))
    return None


def _stands(judged: Bench, one: Demand, plan: Plan, state: State, known: Sequence[log.RawEntry]) -> bool:
    """Return whether a word that an earlier transition counted still stands."""
    counted = _counted(one.subject, known)
    if not counted:
        return False
    last = counted[-1].revision
    if one.subject.kind == "step" and state.steps[one.subject.name].attempt > 1:
        return _covers_retry(one.subject, known, last) and judged.touched_by_people(one.subject, last) is None
    if one.keyboard:
        return judged.touched_by_people(one.subject, last) is None
    asked = _asked_again(judged, one.subject, counted[-1], known)
    return approval.judge(judged, one, plan, (), counted[-1].fields.get("reviews") or (), asked).satisfied


def _asked_again(judged: Bench, subject: Subject, counted: log.RawEntry, known: Sequence[log.RawEntry]) -> Asked | None:
    """Return when the reviews that an earlier transition counted had been asked for."""
    if not counted.fields.get("reviews"):
        return None
    raw = next(one for one in known if f"w{one.revision}" == counted.fields.get("wait"))
    told = {key: str(raw.fields.get(key)) for key in ("digest", "text", "by")}
    wait = Wait(id=f"w{raw.revision}", kind=subject.kind, subject=raw.subject, since=raw.time, **told)
    return Asked.of(judged, wait)


def _counted(subject: Subject, known: Iterable[log.RawEntry]) -> list[log.RawEntry]:
    """Return the entries that counted a word on the subject; of an attempt's result, those after its work."""
    asked: set[str] = set()
    found: list[log.RawEntry] = []
    for raw in known:
        if raw.subject != (subject.slug or subject.kind):
            continue
        if raw.event == "approval-asked" and raw.fields.get("kind") == subject.kind:
            asked.add(f"w{raw.revision}")
        elif raw.event == "approval-counted" and raw.fields.get("wait") in asked:
            found.append(raw)
        elif raw.event == "step-finished" and subject.kind in ("result", "protected-path"):
            found.clear()
    return found


def _covers_retry(subject: Subject, known: Sequence[log.RawEntry], revision: int) -> bool:
    """Return whether all that came since a word counted is what `on_failure` makes of it: no edit, no undoing, nobody's retry."""
    since = [raw for raw in known if raw.revision >= revision]
    for before, raw in pairwise(since):
        edited = raw.event == "plan-edited" and subject.slug in (raw.fields.get("steps") or {})
        by_hand = raw.event == "step-retried" and before.event not in ("step-failed", "step-retried")
        if edited or raw.event == "undone" or (by_hand and raw.subject == subject.slug):
            return False
    return True


def apply(project: Project, state: State, events: Sequence[Event]) -> State:
    """Return the state after events that are not recorded yet."""
    for event in events:
        state = machine.apply(state, Entry(state.revision + 1, project.who.timestamp(), "runner", event))
    return state
