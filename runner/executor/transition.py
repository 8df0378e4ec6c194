"""A transition: the outcome of an action, the events that record it, and their commit.

An outcome is data. Its commit is prepared with the project's identities, signed where the policy says so, and published.
RUNNER_SIGNING_KEY names the key that signs, a file like that of `user.signingkey`; the default is the key that the person's git signs
with (design §4, §5). One of the policy's `agents` signs the work of a runner; a person may sign their own events.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from runner.errors import UsageError
from runner.git import Ident
from runner.protocol import approval_file, log, paths
from runner.protocol import events as ev
from runner.protocol.events import Event
from runner.protocol.plans import Step
from runner.protocol.state import ACTIVE, ENDED, State, StepStatus
from runner.store import batch as batches
from runner.store import history, publishing, transaction
from runner.store.environment import write_checkpoint
from runner.store.project import Project, Session
from runner.store.snapshot import Snapshot
from runner.store.transaction import RefUpdate
from runner.trust import signature, signers, trusted_config

KEY = "RUNNER_SIGNING_KEY"


class OutcomeKind(StrEnum):
    """How carrying out an action ended."""

    FINISHED = "finished"  # the step's work is in the tree
    CHECKED = "checked"  # its QA passed
    COMPLETED = "completed"  # nothing is left to do for the step
    FAILED = "failed"  # the attempt or its QA failed: `on_failure` says what follows
    BLOCKED = "blocked"  # a person has to look at it
    WAITS = "waits"  # for an approval, an answer or a decision
    OVER_BUDGET = "over-budget"
    RECORDED = "recorded"  # the events are all of it


class Outcome(NamedTuple):
    """What an action led to. `events`: what happened; `outcome_events` adds what follows from it.

    `asks`: the event that asks for approval of the work, before the step is completed. `tree`: with the work, None for a transition
    that only records; `kept`: a tree that is kept beside the branch.
    """

    kind: OutcomeKind
    events: tuple[Event, ...] = ()
    step: Step | None = None  # None: no step's
    asks: tuple[Event, ...] = ()
    asks_first: bool = False  # before QA, which needs what is asked for
    tree: str | None = None
    kept: str | None = None
    summary: str = ""  # for people
    files: Mapping[str, bytes] = {}  # for the history: transcripts, output
    keeps: tuple[str, ...] = ()  # commits for the history to keep: the work so far of a step that waits
    folder_files: Mapping[str, bytes] = {}  # more files of the protocol's folder: reports, a planner's plan
    author: Ident | None = None  # the commit's, if not the runner
    final: bool = False  # a failure that `on_failure` does not retry
    continues: bool = False  # a retry starts from the work that is kept

    @property
    def failed(self) -> bool:
        """Whether the step, its check or its review failed."""
        return self.kind in (OutcomeKind.FAILED, OutcomeKind.BLOCKED)


def recording(summary: str, events: Sequence[Event] = ()) -> Outcome:
    """Return the outcome of an action that only records events."""
    return Outcome(kind=OutcomeKind.RECORDED, events=tuple(events), summary=summary)


def outcome_events(outcome: Outcome, state: State) -> list[Event]:
    """Return the events of an outcome. `state`: at the time of publishing, after what people recorded while the step ran."""
    events, step = [*outcome.events], outcome.step
    match outcome.kind:
        case OutcomeKind.FINISHED | OutcomeKind.CHECKED | OutcomeKind.COMPLETED:
            assert step is not None
            if outcome.kind is OutcomeKind.FINISHED and state.steps[step.slug].qa != "skip":
                return [*events, *(outcome.asks if outcome.asks_first else ())]
            return [*events, *(outcome.asks or completed(state, step.slug))]
        case OutcomeKind.FAILED:
            failure = events.pop()
            assert step is not None and isinstance(failure, ev.StepFailed)
            return [*events, *failed_events(state, step, failure, final=outcome.final, continues=outcome.continues)]
    return events


def attempt_ref(protocol: str, slug: str, attempt: int) -> str:
    """Return the ref that keeps a failed attempt's tree."""
    return f"refs/runner/attempts/{protocol}/{slug}.{attempt}"


def completed(state: State, slug: str) -> list[Event]:
    """Return the events that complete a step, and with the last step the protocol."""
    found: list[Event] = [ev.StepCompleted(subject=slug, attempt=state.steps[slug].attempt)]
    done = all(name == slug for name, _ in state.steps.left())
    if done and not state.waiting and state.status in ACTIVE:  # paused while the last step was at work: it stays paused
        found.append(ev.Completed(subject=state.protocol))
    return found


def failed_events(
    state: State, step: Step, failure: ev.StepFailed, *, final: bool = False, continues: bool = False
) -> list[Event]:
    """Return the events of an attempt that failed, as the step's `on_failure` says; `final`, `continues`: as in `Outcome`."""
    failure = failure.model_copy(update={"attempt": state.steps[step.slug].attempt})
    reason = log.cut(f"{step.slug}: {failure.reason}")
    back, most = step.retries
    if state.steps[back].attempt <= most and not final:
        again = [step.slug] if step.goto is None else _between(state, back, step.slug)
        kept = failure.kept if continues and step.goto is None else None
        return [
            failure,
            *(ev.StepRetried(subject=slug, attempt=state.steps[slug].attempt + 1, kept=kept) for slug in again),
        ]
    if step.header.on_failure.then == "block":
        return blocked_events(state.protocol, failure)
    return [failure, ev.Failed(subject=state.protocol, reason=reason)]


def blocked_events(protocol: str, failure: ev.StepFailed) -> list[Event]:
    """Return the events of an attempt that a person has to look at."""
    reason = log.cut(f"{failure.subject}: {failure.reason}")
    return [ev.StepBlocked(**vars(failure)), ev.Blocked(subject=protocol, reason=reason)]


def _between(state: State, first: str, last: str) -> list[str]:
    """Return the steps that are done again when work goes back from `last` to `first`: both, and the completed ones that need them."""
    again = {first, last}
    for slug, step in state.open_steps():
        if step.status is StepStatus.COMPLETED and again & set(step.needs):
            again.add(slug)
    return [slug for slug, _ in state.open_steps() if slug in again]


# --- the commit ------------------------------------------------------------------------------------------------------------


class EvaluatedAt(NamedTuple):
    """The time at which approvals were judged, and the trusted commit whose policy judged them: work takes long, and both change."""

    time: str
    trusted: str


def prepare(
    session: Session,
    seen: Snapshot,
    events: Sequence[Event],
    tree: str | None = None,
    *,
    as_person: bool = False,
    outcome: Outcome | None = None,
    evaluated: EvaluatedAt | None = None,
) -> transaction.Transition:
    """Write the commit of a transition. `outcome`: has its author and more files; `evaluated`: None where no approval was judged."""
    author = outcome.author if outcome else None
    return transaction.prepare(
        session.git,
        seen,
        events,
        transaction.Provenance(
            time=session.env.timestamp(),
            actor=session.actor(),
            trusted=evaluated.trusted if evaluated else session.project.trusted.commit,
            judged=evaluated.time if evaluated else None,
            author=session.person() if as_person else author or session.project.runner(),
            committer=session.project.runner() if author else None,
            sign=as_person and not session.speaker,
            sign_with=signer(session.project, events),
        ),
        tree=tree,
        more=outcome.folder_files if outcome else None,
    )


def publish(
    session: Session,
    seen: Snapshot,
    made: transaction.Transition,
    also: dict[str, tuple[str | None, str | None]] | None = None,
    outcome: Outcome | None = None,
) -> None:
    """Move the branch to a transition, here and on the remote as the project is configured, with the refs that belong to it.

    Raises:
        ConflictError: the branch moved since `seen`. InTheWayError, HeldError: as for `commit`.
        UnfitError: it follows transitions of a batch, and cannot be in one.
    """
    branch, batch = session.project.branch(seen.protocol), session.pending
    filed = file(session.project, seen.protocol, made, outcome)
    if batch is not None:
        if not (also or filed or made.state.waiting) and made.state.status in ACTIVE:
            batch.add(made.commit)
            session.snapshot = made.snapshot
            return
        if batch.tips:
            raise batches.UnfitError
    update = RefUpdate(branch, seen.tip, made.commit, "runner: transition", {**(also or {}), **filed})
    push = publishing.pusher(session, seen.protocol, made.commit, filed=next((new for new, _ in filed.values()), None))
    transaction.move_refs(session.project, update, push)
    write_checkpoint(session.dirs, seen.protocol, made.commit, made.state.genesis)
    session.snapshot = made.snapshot


def file(
    project: Project,
    protocol: str,
    made: transaction.Transition,
    outcome: Outcome | None = None,
) -> dict[str, tuple[str, str | None]]:
    """Write the history commit of a transition; return how the history's ref has to move with the branch.

    There is one for the outcome's files, and beside every transition of a protocol that has ended, each of which may be the last.
    """
    ended = made.state.status in ENDED
    files, keeps = (outcome.files, outcome.keeps) if outcome else ({}, ())
    if ended:
        files = {**files, **seal(project, protocol, made.commit)}
    if not (files or ended):
        return {}
    added = history.add(project.git, protocol, files, made.commit, project.runner(), keeps)
    return {history.ref_of(protocol): added}


# --- signatures --------------------------------------------------------------------------------------------------------


def signer(project: Project, events: Sequence[Event] | None = None) -> Callable[[bytes], bytes] | None:
    """Return what signs a transition with these events; None where none is wanted. Without `events`: one that does something.

    Raises:
        UsageError: there is no such key here, or it is not listed for that.
    """
    if not trusted_config.is_loaded(project) and project.trusted.blob(project.git, paths.POLICY) is None:
        return None
    found = trusted_config.of(project)
    if found.policy is None or found.policy.content.transitions != "signed":
        return None
    from runner.trust.rules.permissions import is_said  # loads the rules of verify

    named = project.env.environ.get(KEY)
    key = _runner_key(project, named) if named else signature.signing_key(project.git)
    lines = [one for one in found.signers.ssh if signers.GIT in one.namespaces and str(one.key) == key.public]
    said = events is not None and all(map(is_said, events))
    if not any(one.principal in found.agents or said for one in lines):
        whose = f"is {lines[0].principal}'s" if lines else "is not listed"
        raise UsageError(
            f"transitions have to be signed by one of `agents`, and the key {key.fingerprint} {whose}",
            f"{found.policy.at('transitions')}; {KEY if named else 'user.signingkey'}",
            f'name a key in {KEY} that .protocols/allowed_signers has for one of `agents`, with namespaces="git"',
        )
    return lambda data: signature.sign(key, data, namespace=signers.GIT)


def _runner_key(project: Project, named: str) -> signature.SigningKey:
    """Return the key that RUNNER_SIGNING_KEY names; what cannot be read there is no matter of git's configuration."""
    try:
        return signature.ssh_key(project.git, named)
    except signature.SigningError as error:
        hint = f"name in {KEY} the file of a key that {paths.SIGNERS} has for one of `agents`, or unset it"
        raise UsageError(error.what, f"{KEY} {named[:80]}", hint) from error


def seal(project: Project, protocol: str, tip: str) -> dict[str, bytes]:
    """Return the file that seals a protocol which ended with the transition `tip`, by its name in the history.

    There is none without a policy, or where RUNNER_SIGNING_KEY names no key that is listed to seal for one of `agents`.
    """
    named = project.env.environ.get(KEY)
    if not named or project.trusted.blob(project.git, paths.POLICY) is None:
        return {}
    from runner.trust.rules import ends  # loads the rules of verify

    found = trusted_config.of(project)
    key = _runner_key(project, named)
    lines = [one for one in found.signers.ssh if signers.SEAL in one.namespaces and str(one.key) == key.public]
    who = next((one.principal for one in lines if one.principal in found.agents), None)
    if who is None:
        return {}
    said = ends.seal_of(project.git, protocol, found.repo, who, tip, project.env.timestamp())
    assert said is not None  # a transition, made just now
    text = approval_file.render_seal(said)
    return {paths.SEAL: text + signature.sign(key, text, namespace=approval_file.SEAL_NAMESPACE)}
