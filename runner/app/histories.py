"""What a proof needs and this clone does not have: taken from where git fetched it beside ours, or fetched where a person says so.

`runner init` has git fetch what others filed into refs/runner-remote/, which is theirs; ours is never overwritten by a fetch.
From there as from the remote it is taken by one rule, `history.compare`.
"""

from __future__ import annotations

from collections.abc import Iterable

from runner.errors import IntegrityError
from runner.git import Git
from runner.protocol import ids
from runner.store import history, objects, publishing, remote, trusted
from runner.store.project import Project

REFSPEC = f"+refs/runner/*:{history.FETCHED}*"


def keep_apart(git: Git) -> str | None:
    """Have `git fetch` bring what others filed, beside ours; return the remote, or None where there is none or it does so already."""
    remote = trusted.remote_name(git)
    if remote is None or REFSPEC in git.settings().get(f"remote.{remote}.fetch", ()):
        return None
    git.run("config", "--file", str(git.common_dir / "config"), "--add", f"remote.{remote}.fetch", REFSPEC)
    return remote


def known(project: Project) -> list[str]:
    """Return the protocols whose histories git fetched beside ours."""
    root = history.fetched("")
    return [name.removeprefix(root) for name in project.git.refs(root) if ids.is_protocol_id(name.removeprefix(root))]


def alone(project: Project) -> None:
    """Let nothing be fetched unasked from here on: the command reports what this clone lacks, with the command that fetches it."""
    project.git.fetch_promised = None


def take(project: Project, protocols: Iterable[str]) -> None:
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


def fetch(project: Project, protocols: Iterable[str]) -> bool:
    """Fetch the histories of protocols from the remote, and take them; what a partial clone lacks is brought from now on.

    Returns whether there is a remote.

    Raises:
        UnreachableError: it does not answer. IntegrityError: what it has is not taken.
    """
    wanted = list(protocols)
    mirror = remote.Mirror.of(project.git, project.dirs, project.env)
    if mirror is None:
        return False
    branches = {one: project.branch(one) for one in wanted}
    if wanted:
        mirror.fetch(*branches.values(), *map(history.ref_of, wanted))
    project.mirror, there = mirror, mirror.refs()
    objects.install(project)
    for one in wanted:
        if (theirs := there.get(history.ref_of(one))) is not None:
            publishing.take_history(project, one, theirs, published=there.get(branches[one]))
    return True
