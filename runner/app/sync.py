"""`runner sync`: fetch, reconcile diverged protocols, push; fetch reviews and comments of the forge, and post to it."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Literal, NamedTuple

from runner import forge as forges
from runner.app import request
from runner.errors import ConflictError, HeldError, RunnerError, UnreachableError, UsageError
from runner.executor import divergence, load, spending
from runner.lines import counted
from runner.protocol import ids, policy_file
from runner.protocol.state import ENDED
from runner.store import day_budget, history, lease, lookup, publishing, record
from runner.store.project import Project, Session
from runner.store.remote import Mirror

if TYPE_CHECKING:
    from runner.forge import Forge

RACES = 20


Action = Literal["closed", "failed", "fetched", "merged", "new", "published", "up to date"]


class Synced(NamedTuple):
    """The result for one protocol: the tip that both sides have now, and the action; `url`: of its request, or empty.

    `title`: of one that is new here; `error`: why it was not synced, while others were.
    """

    protocol: str
    tip: str
    action: Action
    url: str = ""
    title: str = ""
    error: RunnerError | None = None


def sync(session: Session, protocols: list[str] | None = None, *, work: bool = True) -> list[Synced]:
    """Make the remote and this clone agree on the protocols (default: all that either has): fetched, settled, pushed.

    `work`: whether a protocol advances if the forge asks for that; in CI another job does it, which cannot write.

    Raises:
        UnreachableError: the remote did not answer; nothing was published.
        ForgeError: the forge could not be asked; this clone's commits are published.
        UsageError: there is no remote.
        RunnerError: why the only one that was asked for is left as it is; of several, each tells its own.
    """
    mirror = Mirror.of(session.project)
    if mirror is None:
        raise UsageError("there is no remote", str(session.git.common_dir), "add one: git remote add origin URL")
    session.looked, session.mirror = True, mirror
    done = []
    for note in divergence.unfinished_renumberings(session.dirs):
        with contextlib.suppress(HeldError):  # of a command that is at work
            if said := load.finish_renumbering(session, note.origin):
                session.env.say(said)
    before = session.project.protocols()
    protocols = _look(session, mirror, protocols)
    forge: Forge | None = None
    away: RunnerError | None = None
    try:
        forge = request.opened(session.project)
    except (forges.ForgeError, UsageError) as error:
        away = error  # commits of this clone are published all the same
    for protocol in protocols:
        try:
            lookup.refuse_clash(session, protocol)
            one = _was_taken(session, protocol, forge) or settle_and_push(session, protocol)
            # The remote's branch may be an earlier state of what ended on the base.
            if one.action in ("fetched", "published"):
                one = _was_taken(session, protocol, forge) or one
        except UnreachableError:
            raise
        except RunnerError as error:  # it keeps none of the others from being published
            if len(protocols) == 1:
                raise
            one = Synced(protocol, session.project.tip(protocol) or "", "failed", error=error)
        if protocol not in before and one.action == "fetched":
            row = record.row(session.git, protocol, one.tip)
            one = one._replace(action="new", title=str(row["title"]))
        done.append(one)
    _settle_reserved(session, mirror, protocols)
    if away is not None:
        raise away
    if forge is not None:
        with contextlib.closing(forge):
            done = [one if one.error else _on_forge(session, forge, one, work) for one in done]
    return done


def _look(session: Session, mirror: Mirror, protocols: list[str] | None) -> list[str]:
    """Look at what the remote has of the protocols, and return them: without any, all that have a branch here or there."""
    if protocols is not None:
        wanted = [ref for protocol in protocols for ref in publishing.refs_of(session.project, protocol)]
        session.trust(mirror.look(*wanted, *_bases(session.project, protocols), "refs/runner/numbers/*"))
        branches = [session.project.branch(protocol) for protocol in protocols]
        mirror.track({name: oid for name in branches if (oid := mirror.ref(name))})
        return protocols
    project = session.project
    here = [protocol for protocol in project.protocols() if session.git.ref(project.branch(protocol))]
    session.trust(mirror.look(*publishing.patterns(project), *_bases(project, here), "refs/runner/numbers/*"))
    new = [protocol for protocol in publishing.track_protocols(session.project, mirror) if protocol not in here]
    if bases := _bases(session.project, new):
        mirror.fetch(*bases)
    return sorted([*here, *new], key=lambda protocol: (ids.number_of(protocol), protocol))


def _settle_reserved(session: Session, mirror: Mirror, protocols: list[str]) -> None:
    """Settle the reservations of this CI run's jobs, which could not: their work is published now."""
    if lease.ci_run(session.env.environ) is None:
        return
    try:
        if spending.day(session.project) != policy_file.DayBudget():
            day_budget.use(session, mirror, protocols)
    except RunnerError as error:
        session.env.say(f"the reservation of this run is not settled and still counts: {error.what}")


def _bases(project: Project, protocols: list[str]) -> list[str]:
    """Return the bases that the protocols are merged into, where a forge merges them; the full names there."""
    if project.config.forge is None:
        return []
    known = project.protocols()
    rows = [record.row(project.git, one, known[one]) for one in protocols if one in known]
    return sorted({f"refs/heads/{row['base']}" for row in rows if row.get("base")})


def _was_taken(session: Session, protocol: str, forge: Forge | None) -> Synced | None:
    """Return the result for a protocol that was merged, whose branch the remote deleted or left behind: it is not pushed again."""
    assert session.mirror is not None
    name, tip = ids.branch_of(session.project.pattern, protocol), session.git.ref(session.project.branch(protocol))
    there = session.mirror.ref(f"refs/heads/{name}")
    if there is not None and there != tip:
        return None
    if tip is None:  # never here: the base tells of it, or nothing does
        base = session.project.trusted.commit
        is_ended = record.row(session.git, protocol, base)["status"] in ENDED
        return Synced(protocol, base, "merged") if is_ended else None
    with load.at_work(session, protocol):
        before = session.git.ref(session.project.branch(protocol))  # a runner here may have moved it
        left = publishing.follow(session.project, protocol, session.mirror, load.Checker(session, protocol))
        if left is None:
            publishing.bring_history(session, protocol)
        tip = session.git.ref(session.project.branch(protocol))
    if left is not None:
        session.env.say(f"{left.what}; {left.hint}")
        return Synced(protocol, str(tip), "merged")
    assert tip is not None
    if tip != before or (forge is not None and there is None and request.is_merged(session, protocol)):
        return Synced(protocol, tip, "merged")
    if forge is None or there is not None or session.git.ref(session.project.tracking(name)) is None:
        return None  # it is there, or was never there
    asked = forge.request_of(name, str(record.row(session.git, protocol, tip).get("base")))
    if asked is None or asked.state is forges.RequestState.OPEN:
        return None
    ended: Action = "merged" if asked.state is forges.RequestState.MERGED else "closed"
    session.env.say(f"{protocol} was {ended} on the forge and its branch deleted there: it is not pushed again")
    return Synced(protocol, tip, ended)


def _on_forge(session: Session, forge: Forge, done: Synced, work: bool) -> Synced:
    """Record the forge's news of a protocol, advance where it asks for that, publish the result, and post it to the forge."""
    protocol = done.protocol
    if done.action in ("merged", "closed") or request.is_merged(session, protocol):
        _track_base(session, protocol)  # a fact that git knows: the forge need not be asked
        return done
    session.batch = True
    news = request.fetch(session, forge, protocol)
    wanted = (*news.steps, *((None,) if news.green and not news.steps else ()))
    try:
        for asked in wanted if work else ():
            answer = request.step(session, forge, protocol, asked)
            news = dataclasses.replace(news, answers=(*news.answers, answer)) if answer else news
        if session.git.ref(session.project.branch(protocol)) != done.tip:
            done = settle_and_push(session, protocol)
    finally:
        publishing.drop_lease(session)
    _track_base(session, protocol)
    posted = request.post(session, forge, protocol, news if news.seen else None)
    return done if posted is None else done._replace(url=posted.request.url)


def _track_base(session: Session, protocol: str) -> None:
    """Let the person's own git see where the base is, as its own fetch would: `status` then knows whether a protocol is merged."""
    tip = session.git.ref(session.project.branch(protocol))
    base = record.row(session.git, protocol, tip).get("base") if tip else None
    there = session.above(f"refs/heads/{base}") if base else None
    if there is not None and session.mirror is not None:
        session.mirror.track({f"refs/heads/{base}": there})


def unpublished(project: Project, protocol: str, *, by_person: bool = False) -> None:
    """Say how many commits the remote lacks: offline, or after a person's command (`by_person`) if nothing is published."""
    tip, remote = project.git.ref(project.branch(protocol)), project.trusted.remote
    is_kept = project.offline or (by_person and project.setting("publish") == "never")
    if not is_kept or tip is None or remote is None:
        return
    seen = project.git.ref(project.tracking(project.branch(protocol)))
    new = project.git.first_parents(tip, stop=seen or project.trusted.commit) if seen != tip else []
    if new:
        count = counted(len(new), "commit")
        typed = lookup.typed(project, protocol)
        them = "them" if len(new) > 1 else "it"
        project.env.say(f"not published: {count} of {protocol}; `runner sync {typed}` publishes {them} to {remote}")


def offer(session: Session, protocol: str, *, by_person: bool = False) -> None:
    """With `publish: ask`, ask the person at the terminal whether to push new commits; elsewhere print the command.

    `by_person`: the new commit is a person's decision, for which others may wait.
    """
    unpublished(session.project, protocol, by_person=by_person)
    if session.project.setting("publish") != "ask" or session.project.trusted.remote is None:
        return
    branch = session.project.branch(protocol)
    if session.git.ref(session.project.tracking(branch)) == session.git.ref(branch):
        return
    answer = session.env.ask(f"Publish {protocol} to {session.project.trusted.remote}?", ("no", "yes"))
    if answer == "yes":
        for done in sync(session, [protocol]):
            session.env.say(f"{done.protocol}  {done.action}  {done.tip[:7]}")
    elif answer is None:
        session.env.say(f"not published; `runner sync {lookup.typed(session.project, protocol)}` publishes it")


def settle_and_push(session: Session, protocol: str, *, keep: bool = False) -> Synced:
    """Settle one protocol with what the remote was seen to have, and push it. `keep`: more is to come, the lease is renewed.

    Raises:
        UnreachableError: the remote did not answer, or refused.
    """
    git, name = session.git, session.project.branch(protocol)
    seen = session.project.tracking(name)
    check = load.Checker(session, protocol)
    with load.at_work(session, protocol):
        lease.take_back(session, protocol)
        for _ in range(RACES):
            assert session.mirror is not None
            there, here = session.mirror.ref(name), git.ref(name)
            if here is None:
                if there is None:
                    raise UsageError(
                        f"{protocol} has no branch here or there", name, "`runner list` shows what there is"
                    )
                publishing.forward(session.project, protocol, None, there, check)
            publishing.settle(session, protocol, session.mirror, check)
            tip = git.ref(name)
            assert tip is not None
            load.read(session, protocol)
            if there is None and git.ref(seen) is not None and request.is_merged(session, protocol):
                return Synced(protocol, tip, "merged")  # it was there, and was deleted after the merge
            filed = git.ref(history.ref_of(protocol))
            is_filed = filed is None or session.mirror.ref(history.ref_of(protocol)) == filed
            if session.mirror.ref(name) == tip and is_filed and session.lease is None:
                return Synced(protocol, tip, "fetched" if tip != here else "up to date")
            try:
                publishing.push(session, protocol, tip, keep=keep)
                return Synced(protocol, tip, "published")
            except ConflictError:
                session.trust(session.mirror.look(name, history.ref_of(protocol)))
    raise UnreachableError(f"{protocol} keeps moving on the remote", name, "run `runner sync` again")
