"""A protocol's request on the forge: post its status there, and record reviews, commands and CI from there (design §3, §4, §6).

Level-triggered: each call reads the forge and does only the difference, so a call that is missed, repeated or late does no harm.
Nothing is posted unless `forge:` is set, and nothing about a commit that the remote does not have.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import runner.forge.registry
from runner import forge as forges
from runner.app import describe, page, steer, verify
from runner.errors import InsufficientHistoryError, RefusedError, RunnerError, UnreachableError, UsageError
from runner.executor import advance, forge_reviews, load, permissions
from runner.executor.transition import blocked_events, failed_events
from runner.lines import counted, cut, lines_of, pattern
from runner.protocol import events as ev
from runner.protocol import ids, log, paths
from runner.protocol.state import ACTIVE, ENDED, Status, StepStatus, plain
from runner.store import lookup, record, trusted
from runner.store.project import Project, Session
from runner.store.snapshot import Snapshot
from runner.trust import permit, requirements, trusted_config
from runner.trust.manifest import is_code

if TYPE_CHECKING:
    from runner.forge import Check, CheckOutcome, Comment, Forge, Identity, Issue, Request

KEY: Final = "protocol"  # of the one comment
ANSWERS: Final = 20  # commands whose answers the comment keeps
ANSWER_TEXT: Final = 200  # characters of what an answer quotes
LOOK_BACK: Final = 20  # commits of the record alone behind which CI results for the same code are looked for
_COMMAND: Final = pattern(r"/runner[ \t]+([a-z][a-z-]{0,19})(?![a-z-])[ \t]*(.*)", re.DOTALL)
_SEEN: Final = pattern(r"^<!-- seen: ([0-9]{1,18}) -->$", re.MULTILINE)
# What `runner init` writes, but for the project's own checks (protocol-qa).
_OWN_JOB: Final = pattern(
    r"runner\b|protocol-(?:advance|changes|events|find|publish|report|tell|verify|work)\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Posted:
    """The request as it is on the forge now. `ended`: it is closed or merged there, so nothing was written."""

    request: Request
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Fetched:
    """The news from the forge. `answers`: to commands; `seen`: the id of the last comment read.

    `steps`: comments that ask for a step; `green`: CI succeeded, so QA may start.
    """

    request: Request | None
    answers: tuple[str, ...] = ()
    seen: int = 0
    steps: tuple[Comment, ...] = ()
    green: bool = False


# --- the forge itself ------------------------------------------------------------------------------------------------------


def opened(project: Project) -> Forge | None:
    """Return the forge of `forge:`; None where it is not set, or `none`. Nothing is connected yet.

    Raises:
        TokenMissingError: there is no token for it.
        UsageError: the remote's address names no project on it.
    """
    key = project.config.forge
    if key is None:
        return None
    remote = trusted.remote_name(project.git)
    url = trusted.remote_url(project.git, remote) if remote else None
    there, env = runner.forge.registry.configured(f"{key.name} {key.url or ''}".strip(), url), project.env
    return runner.forge.registry.open_forge(there, env.environ, env.now, env.sleep) if there else None


def issue(project: Project, number: int) -> tuple[Issue, str]:
    """Return an issue of the forge, and its name for people.

    Raises:
        UsageError: there is no forge. RefusedError: not everybody may read it, and a plan is read by all.
        UnreachableError: the forge is not to be asked. ForgeError: there is no token, or no such issue, or no answer.
    """
    name = f"issue {number}"
    if project.offline:
        raise UnreachableError(
            f"{name} is on the forge, and --offline does not contact it", "--offline", "leave --offline out"
        )
    forge = opened(project)
    if forge is None:
        where = f"`forge:` in {paths.CONFIG} on {project.trusted.branch}"
        hint = "`runner init --forge NAME` sets it; or save the issue's text: `runner new --from FILE`"
        raise UsageError(f"there is no forge that has {name}", where, hint)
    try:
        found = forge.issue(number)
    finally:
        forge.close()
    where = f"{name} of {forge.host}"
    if found.confidential:
        hint = "save what may be in the repository as a file: `runner new --from FILE`"
        raise RefusedError(f"{name} is confidential, and a plan is not", where, hint)
    return found, where


def available(project: Project) -> Forge | None:
    """Return the forge; None where it cannot be opened, with a note: work continues, and `runner sync` posts later."""
    if project.offline:
        return None
    try:
        return opened(project)
    except (forges.ForgeError, UsageError) as error:
        project.env.say(f"nothing is posted to the forge: {error.what}; {error.hint}")
        return None


def post_quietly(session: Session, forge: Forge | None, protocol: str) -> None:
    """Post a transition that was just published, and print the request's address, or why posting failed."""
    if forge is None:
        return
    try:
        posted = post(session, forge, protocol)
        if posted is not None and not posted.ended:
            session.env.say(f"  request       {posted.request.url}")
    except forges.ForgeError as error:
        session.env.say(f"posting to the forge failed: {error.what}; `runner sync {protocol}` does it later")


def post_published(session: Session, protocol: str) -> None:
    """Post a person's change of a protocol where the remote has it, and print the request's address, or why posting failed."""
    if session.project.config.forge is not None and _is_there(session, protocol):
        post_quietly(session, available(session.project), protocol)


# --- posting ---------------------------------------------------------------------------------------------------------------


def post(session: Session, forge: Forge, protocol: str, news: Fetched | None = None) -> Posted | None:
    """Update the request, its comment and the statuses to the protocol's status; None where its tip is not on the remote.

    A request that a person closed or merged is left unchanged, and no other is opened.

    Raises:
        ForgeError: the next call posts the rest.
    """
    name = ids.branch_of(session.project.pattern, protocol)
    tip = session.git.ref(session.project.branch(protocol))
    if tip is None or not _is_there(session, protocol):
        return None
    seen = load.read(session, protocol)
    state, redactor = seen.state, session.redactor
    there = forge.request_of(name, state.base)
    if there is not None and there.state is not forges.RequestState.OPEN:
        return Posted(there, ended=True)
    merge = _merge_missing(session, forge, seen)
    words = record.prose(session.git.content(seen.files.get(paths.PLAN)))
    found = describe.recorded(plain(state), lookup.typed(session.project, protocol))
    shown = page.Page(state, found, _ways(session, seen), merge)
    text = redactor.text(page.body(shown, words))
    request = forge.propose(branch=name, base=state.base, title=redactor.text(page.title(state)), body=text)
    read = (news.seen, news.answers) if news else _last_read(session.project, forge, protocol, request.number)
    comment = page.comment(shown, seen=read[0], said=read[1])
    forge.keep_comment(request.number, KEY, redactor.text(comment))
    forge.report(tip, page.statuses(shown, wrong=verify_summary(session, protocol)), branch=name)
    # Last: it calls people, who should find the rest there; and it needs a right that the rest does not.
    if state.status is Status.COMPLETED and request.draft:
        request = forge.mark(request.number, draft=False)
    elif state.status is not Status.COMPLETED and not request.draft and _was_completed(session.project, protocol, tip):
        request = forge.mark(request.number, draft=True)
    return Posted(request)


def _was_completed(project: Project, protocol: str, tip: str) -> bool:
    """Return whether it was completed before: else a person marked the request ready, and it stays so."""
    return any(raw.event == "completed" for raw in record.events(project.git, protocol, tip))


def _is_there(session: Session, protocol: str) -> bool:
    """Return whether the remote had this tip of the branch when it was last read."""
    branch = session.project.branch(protocol)
    return (tip := session.git.ref(branch)) is not None and session.above(branch) == tip


def verify_summary(session: Session, protocol: str) -> str:
    """Return what `runner verify` finds, in a few words for the status `runner/verify`; empty where the record holds."""
    try:
        report, code = verify.prove(session, protocol)
    except RunnerError as error:
        return f"it cannot be verified: {error.what}"
    if code == InsufficientHistoryError.exit_code:
        return "this clone cannot tell: its history is not whole"
    count = counted(len(report.findings), "finding")
    return f"{count}; `runner verify {protocol}` names them" if code else ""


def _merge_missing(session: Session, forge: Forge, seen: Snapshot) -> str:
    """Return whose approval of the merge is missing, where the policy requires one; before the last step all are."""
    found = trusted_config.of(session.project)
    if found.policy is None or not found.requires("merge"):
        return ""
    wanted = requirements.of_merge(found)
    if seen.state.status is not Status.COMPLETED:
        return wanted.who
    view = permissions.view_of(session.project, seen, None, seen.state)
    fetched = (
        forge_reviews.fetch_reviews(session, forge, view, wanted, None) if wanted.reviews else forge_reviews.NO_REVIEWS
    )
    standing = permit.merge_status(view, fetched.approvals)
    against = [word.approver for word in standing.rejected] + list(fetched.objections)
    return f"{', '.join(against)}, who rejected" if against else standing.missing


def _ways(session: Session, seen: Snapshot) -> dict[str, list[str]]:
    """Return how the policy lets each wait be approved: by a review, by a signature, or both."""
    found = trusted_config.of(session.project)
    if found.policy is None or seen.state.plan is None:
        return {}
    wanted: dict[str, requirements.ApprovalRequirement | None] = {page.MERGE: requirements.of_merge(found)}
    waits = [wait for wait in seen.state.waiting if wait.type.ended_by == "approval"]
    if waits:
        view = permissions.view_of(session.project, seen, load.read_plan(session, seen), seen.state)
        for wait in waits:
            subject = requirements.subject_of(view, wait)
            wanted[wait.id] = requirements.requirement_of(view, subject, wait.text)
    return {
        name: [page.REVIEW] * one.reviews + [page.SIGNED] * one.signed
        for name, one in wanted.items()
        if one is not None
    }


# --- fetching ---------------------------------------------------------------------------------------------------------------


def fetch(session: Session, forge: Forge, protocol: str) -> Fetched:
    """Record news from the forge: the request's end, commands, reviews, CI.

    Each is one transition, made once: the record has the ids of the comments whose commands were executed.

    Raises:
        ForgeError: the next call records the rest.
    """
    name = ids.branch_of(session.project.pattern, protocol)
    request = forge.request_of(name, load.read(session, protocol).state.base)
    if request is None:
        return Fetched(None)
    _note_request(session, protocol, request)
    if request.state is not forges.RequestState.OPEN:
        return Fetched(request)
    seen, answers, steps = _commands(session, forge, protocol, request)
    _record_approvals(session, forge, protocol)
    return Fetched(request, answers, seen, steps, _ci(session, forge, protocol))


def is_merged(session: Session, protocol: str) -> bool:
    """Return whether the remote's base has the protocol's ended record. This is read from git and is no event, so that the record on
    the base stays equal to that of the branch."""
    tip = session.git.ref(session.project.branch(protocol))
    if tip is None or session.mirror is None:
        return False
    row = record.row(session.git, protocol, tip)
    base = session.above(f"refs/heads/{row.get('base', '')}") if row["status"] in ENDED else None
    return base is not None and record.is_merged(session.git, protocol, tip, base)


def _note_request(session: Session, protocol: str, request: Request) -> None:
    """Record that people closed, reopened or merged the request, once each."""
    by = f"{request.ended_by.host}/{request.ended_by.id}" if request.ended_by else None

    def build(seen: Snapshot) -> Sequence[ev.Event]:
        past = [raw for raw in record.events(session.git, seen.protocol, seen.tip) if raw.event == "request-changed"]
        before = (
            str(past[-1].fields.get("change")) if past and past[-1].fields.get("url") == log.cut(request.url) else ""
        )
        now = {forges.RequestState.CLOSED: "closed", forges.RequestState.MERGED: "merged"}.get(request.state)
        now = now or ("reopened" if before == "closed" else before)
        if now == before:
            return []
        return [
            ev.RequestChanged(
                subject=protocol, url=log.cut(request.url), change=now, by=by if now != "reopened" else None
            )
        ]

    advance.record_events(session, protocol, build)


def _last_read(
    project: Project, forge: Forge, protocol: str, number: int, found: Sequence[Comment] | None = None
) -> tuple[int, tuple[str, ...]]:
    """Return the id of the last comment read, and the answers in our own comment.

    A runner with another account may have read further, and our comment may have been deleted: so the comments of the project's
    other programs count too, and so does the record. A command that failed is not retried later, when nobody expects it. A person's
    comment never counts: anybody can copy the marker, and would silence all later commands with it.
    """
    me, seen = forge.me(), _last_done(project, forge, protocol)
    answers: tuple[str, ...] = ()
    for one in found if found is not None else forge.comments(number):
        body = lines_of(one.body.replace("\r\n", "\n"))
        if body[:1] != [forges.marker(KEY)]:
            continue
        last = _SEEN.search(one.body.replace("\r\n", "\n"))
        if last and (one.by == me or _is_program(forge, one.by)):
            seen = max(seen, int(last[1]))
        if one.by == me and not answers:
            answers = tuple(line for line in body if line.startswith("- ["))[-ANSWERS:]
    return seen, answers


def _is_program(forge: Forge, who: Identity) -> bool:
    """Return whether an account is a program's that may write here.

    GitHub marks the comments of Apps, and only an App that is installed here can comment. GitLab does not mark them, and programs of
    other projects can comment too.
    """
    if who.kind is not None:
        return who.kind is forges.AccountKind.BOT
    member = forge.membership(who)
    return member.kind is forges.AccountKind.BOT and member.access >= forges.Access.WRITE


def _last_done(project: Project, forge: Forge, protocol: str) -> int:
    """Return the id of the last comment whose command is in the record, else 0."""
    tip = project.git.ref(project.branch(protocol))
    speaker = re.compile(rf"{re.escape(forge.host)}/[0-9]+/comment/([0-9]{{1,18}})")
    actors = (raw.actor for raw in record.events(project.git, protocol, tip)) if tip else ()
    return max((int(match[1]) for actor in actors if (match := speaker.fullmatch(actor))), default=0)


def _commands(
    session: Session, forge: Forge, protocol: str, request: Request
) -> tuple[int, tuple[str, ...], tuple[Comment, ...]]:
    """Execute the commands of people with write access, and of bots that the policy lists, each once; return the id of the last
    comment read, the answers, and the comments that ask for a step."""
    found = forge.comments(request.number)
    seen, before = _last_read(session.project, forge, protocol, request.number, found)
    answers, steps, me = list(before), [], forge.me()
    for one in sorted(found, key=lambda each: each.id):
        if one.id <= seen or one.by == me:
            continue
        seen = one.id
        match = _COMMAND.fullmatch(one.body.strip().replace("\r\n", "\n"))
        if match is None or one.edited:
            continue
        verb, rest = match[1], match[2].strip()
        if why := _refused(session.project, forge, one.by, verb):
            answer = f"not done: {why}"
        elif _is_done(session.project, protocol, one):
            answer = "done"
        elif verb == "step" and not rest:
            steps.append(one)
            continue
        else:
            answer = _execute(session, protocol, verb, rest, _speaker(one))
        answers.append(_answer(one, verb, answer))
    return seen, tuple(answers[-ANSWERS:]), tuple(steps)


def _refused(project: Project, forge: Forge, who: Identity, verb: str) -> str:
    """Return why an account may not give a command; empty where it may.

    A bot's word is never a person's: it answers no question and ends no person's step, whatever the policy lists.
    """
    if forge_reviews.may_write(forge, who):
        return ""
    policy = trusted_config.of(project).policy
    listed = policy.content.forge.get(forge.host, {}).values() if policy else ()
    if who.id not in listed or not _is_program(forge, who):
        return "only people who may write to the repository, and bots that the policy lists, give commands"
    return "a person answers" if verb == "answer" else ""


def step(session: Session, forge: Forge, protocol: str, asked: Comment | None) -> str:
    """Advance by one transition, as the author of a comment or because CI is green; return the answer to the comment.

    Raises:
        ForgeError: the next call posts the rest.
    """
    before, session.speaker = session.speaker, _speaker(asked) if asked else ""
    try:
        done = advance.step(session, protocol, adopt=False, forge=forge)
        answer = "a step was taken" if done.entries else "nothing can continue now"
    except forges.ForgeError:
        raise
    except RunnerError as error:
        session.env.say(f"{protocol}: {error.what}; {error.hint}")
        answer = f"not done: {_quoted(error.what)}"
    finally:
        session.speaker = before
    return _answer(asked, "step", answer) if asked else ""


def _speaker(one: Comment) -> str:
    """Return the actor for the record, with the comment's id, by which its command is executed once."""
    return f"{one.by.host}/{one.by.id}/comment/{one.id}"


def _answer(one: Comment, verb: str, answer: str) -> str:
    return f"- [comment {one.id}]({one.url}), {page.code(verb)}: {answer}"


def _is_done(project: Project, protocol: str, one: Comment) -> bool:
    tip = project.git.ref(project.branch(protocol))
    return tip is not None and any(raw.actor == _speaker(one) for raw in record.events(project.git, protocol, tip))


def _execute(session: Session, protocol: str, verb: str, rest: str, speaker: str) -> str:
    """Execute one command as its author; return the answer."""
    if verb in ("approve", "reject"):
        return (
            f"a comment is no {'approval' if verb == 'approve' else 'rejection'}: give it in a review of this request, "
            f"or sign it with `runner {verb} {lookup.typed(session.project, protocol)}`"
        )
    if verb not in page.COMMENTS or (rest and verb in ("resume", "step")):
        return f"not done: there are {', '.join(f'`/runner {one}`' for one in page.COMMENTS)}"
    before, session.speaker = session.speaker, speaker
    try:
        match verb:
            case "pause":
                done = steer.pause(session, protocol, rest or None)
            case "resume":
                done = steer.resume(session, protocol)
            case "retry":
                done = steer.retry(session, protocol, step=rest or None)
            case _:
                first, _, text = rest.partition(" ")
                which = first if re.fullmatch(r"w[1-9][0-9]*", first) else None
                done = steer.answer(session, protocol, which, text if which else rest)
    except RunnerError as error:
        return f"not done: {_quoted(error.what)}"
    finally:
        session.speaker = before
    return _quoted(done.said)


def _quoted(text: str) -> str:
    return page.code(cut(text, ANSWER_TEXT))


def _record_approvals(session: Session, forge: Forge, protocol: str) -> None:
    """Record the approvals, reviews among them, of the open waits."""

    def build(seen: Snapshot) -> Sequence[ev.Event]:
        state = seen.state
        if state.plan is None or state.status not in ACTIVE:
            return []
        plan, edit, after, _ = advance.consider(session, seen)
        if plan is None or edit is not None:
            return []  # the next step picks the edit up first
        return permissions.count_approvals(session, seen, plan, after, session.env.timestamp(), forge)

    advance.record_events(session, protocol, build)


# --- CI --------------------------------------------------------------------------------------------------------------------


def _ci(session: Session, forge: Forge, protocol: str) -> bool:
    """Record the result of CI for the code at the tip, once each, and act on a failure as `ci:` says. Return whether QA may start."""
    config = session.project.config
    if config.ci is None and not config.qa.on_ci:
        return False
    git = session.git
    branch = session.project.branch(protocol)
    tip, there = git.ref(branch), session.above(branch)
    assert tip is not None
    same = _same_code(session.project, protocol, tip)
    found: tuple[str, CheckOutcome, Check] | None = None
    # What was recorded just now, the forge does not know.
    for commit in same[same.index(there) :] if there in same else ():
        verdict = _verdict(forge.checks(commit))
        if verdict is not None:
            found = (commit, *verdict)
            break
    if found is None or found[1] not in (forges.CheckOutcome.SUCCESS, forges.CheckOutcome.FAILURE):
        return False
    commit, outcome, check = found

    def build(seen: Snapshot) -> Sequence[ev.Event]:
        same = set(_same_code(session.project, protocol, seen.tip))
        if commit not in same:
            return []
        for raw in reversed(record.events(session.git, seen.protocol, seen.tip)):
            if raw.event == "ci-reported":
                if raw.fields.get("commit") in same and raw.fields.get("outcome") == outcome.value:
                    return []
                break
        reported = ev.CiReported(
            subject=protocol, commit=commit, outcome=outcome.value, context=log.cut(check.name), url=_link(check.url)
        )
        return [reported, *(_consequence(session, seen, check) if outcome is forges.CheckOutcome.FAILURE else ())]

    now = advance.record_events(session, protocol, build)
    waits = [step for _, step in now.state.open_steps() if step.status is StepStatus.NEEDS_QA and not step.passed]
    return config.qa.on_ci and outcome is forges.CheckOutcome.SUCCESS and bool(waits)


def _link(url: str) -> str | None:
    """Return an address that is safe to follow, else None: anybody who may set a status can have written it."""
    return url if re.fullmatch(r"https?://[!-~]{1,480}", url) else None


def _consequence(session: Session, seen: Snapshot, check: Check) -> Sequence[ev.Event]:
    """Return the events of a CI failure, by `ci:`: the step that waits for its QA ends, else the protocol stops."""
    state, rule = seen.state, session.project.config.ci
    if rule not in ("fail", "block") or state.status not in ACTIVE:
        return []
    reason = log.cut(f"CI: {check.name} failed")
    slug = next((slug for slug, step in state.open_steps() if step.status is StepStatus.NEEDS_QA), None)
    if slug is None:
        kind = ev.Failed if rule == "fail" else ev.Blocked
        return [kind(subject=seen.protocol, reason=reason)]
    ended = ev.StepFailed(subject=slug, attempt=state.steps[slug].attempt, reason=reason)
    if rule == "block":
        return blocked_events(seen.protocol, ended)
    step = load.read_plan(session, seen).step(slug)
    assert step is not None
    return failed_events(state, step, ended)


def _same_code(project: Project, protocol: str, tip: str) -> list[str]:
    """Return the tip and the commits right before it that differ only in the record and approvals."""
    found, at = [tip], tip
    while len(found) < LOOK_BACK:
        commit = project.git.commit(at)
        if commit is None or len(commit.parents) != 1:
            break
        before = commit.parents[0]
        if any(is_code(protocol, path) for path in project.git.changed(before, at)):
            break
        found.append(before)
        at = before
    return found


def _verdict(checks: Sequence[Check]) -> tuple[CheckOutcome, Check] | None:
    """Return the outcome of CI as a whole; None where it has none. The runner's own jobs do not count."""
    found = [one for one in checks if not _OWN_JOB.match(one.name) and one.outcome is not forges.CheckOutcome.NEUTRAL]
    for outcome in (
        forges.CheckOutcome.FAILURE,
        forges.CheckOutcome.PENDING,
        forges.CheckOutcome.CANCELLED,
        forges.CheckOutcome.SUCCESS,
    ):
        named = next((one for one in found if one.outcome is outcome), None)
        if named is not None:
            return outcome, named
    return None
