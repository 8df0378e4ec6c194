"""`runner sync`: bring what is on the remote, settle what is apart, publish what is here."""

from __future__ import annotations

from dataclasses import dataclass

from runner.errors import ConflictError, UnreachableError, UsageError
from runner.executor import advance
from runner.protocol import ids
from runner.store import history, publishing
from runner.store.project import Project
from runner.store.remote import Mirror

RACES = 20


@dataclass(frozen=True, slots=True)
class Synced:
    """What became of one protocol: the tip that both sides have now, and what was done."""

    protocol: str
    tip: str
    said: str


def sync(project: Project, protocols: list[str]) -> list[Synced]:
    """Make the remote and this clone agree on the protocols: fetched, settled, pushed.

    Raises:
        UnreachableError: the remote did not answer; nothing was published.
        UsageError: there is no remote.
    """
    names = [f"refs/heads/{ids.branch_of(project.pattern, protocol)}" for protocol in protocols]
    mirror = Mirror.of(project.git, project.places, project.who)
    if mirror is None:
        raise UsageError("there is no remote", str(project.git.common_dir), "add one: git remote add origin URL")
    project.looked, project.mirror = True, mirror
    done = []
    histories = [history.ref_of(protocol) for protocol in protocols]
    project.trust(mirror.look(*names, *histories, "refs/runner/numbers/*"))
    for protocol in protocols:
        done.append(publish(project, protocol))
    return done


def offer(project: Project, protocol: str) -> None:
    """With `publish: ask`, ask the person at the terminal whether to push what is new; elsewhere say how."""
    if project.setting("publish") != "ask" or project.trusted.remote is None:
        return
    name = f"refs/remotes/{project.trusted.remote}/{ids.branch_of(project.pattern, protocol)}"
    if project.git.ref(name) == project.git.ref(project.branch(protocol)):
        return
    answer = project.who.ask(f"Publish {protocol} to {project.trusted.remote}?", ("no", "yes"))
    if answer == "yes":
        for done in sync(project, [protocol]):
            project.who.say(f"{done.protocol}  {done.said}  {done.tip[:7]}")
    elif answer is None:
        project.who.say(f"not published; `runner sync {protocol}` does it")


def publish(project: Project, protocol: str) -> Synced:
    """Settle one protocol with what the remote was seen to have, and push it.

    Raises:
        UnreachableError: the remote did not answer, or refused.
    """
    git, branch = project.git, project.branch(protocol)
    name = f"refs/heads/{ids.branch_of(project.pattern, protocol)}"
    check = advance.checker(project, protocol)
    with advance.at_work(project, protocol):
        for _ in range(RACES):
            assert project.mirror is not None
            there, here = project.mirror.refs().get(name), git.ref(branch)
            if here is None:
                if there is None:
                    raise UsageError(
                        f"{protocol} has no branch here or there", name, "`runner list` shows what there is"
                    )
                publishing.forward(project, protocol, None, there, check)
            else:
                publishing.settle(project, protocol, project.mirror, check)
            tip = git.ref(branch)
            assert tip is not None
            advance.look(project, protocol)
            if project.mirror.refs().get(name) == tip:
                return Synced(protocol, tip, "brought" if tip != here else "up to date")
            try:
                publishing.push(project, protocol, tip)
                return Synced(protocol, tip, "published")
            except ConflictError:
                project.trust(project.mirror.look(name, history.ref_of(protocol)))
    raise UnreachableError(f"{protocol} moves all the time on the remote", name, "run `runner sync` again")
