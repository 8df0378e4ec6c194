"""Check the forge's settings for protocols, without changing them: `runner doctor --forge`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from runner.app import request
from runner.app.doctor import Finding, fault, of_error, remark
from runner.errors import RunnerError
from runner.forge import (
    OUR_CONTEXTS,
    Access,
    AccountKind,
    Forge,
    ForgeError,
    Identity,
    MergeMethod,
    NotFoundError,
    Settings,
)
from runner.forge.registry import SETTINGS, guess
from runner.protocol import ids
from runner.store import trusted
from runner.store.project import Project
from runner.store.remote import Mirror
from runner.trust import trusted_config

_WHOLE = {MergeMethod.MERGE, MergeMethod.FAST_FORWARD}  # ways to merge that keep the commits


def examine(project: Project) -> list[Finding]:
    """Return a finding for each of the forge's settings that will not work, or that people should know."""
    try:
        forge = request.opened(project)
    except RunnerError as error:
        return [of_error(error, "nothing can be posted to the forge or fetched from it")]
    if forge is None:
        return list(_unset(project))
    with contextlib.closing(forge):
        try:
            me = forge.me()
            base = project.config.base or project.trusted.branch
            found = forge.settings(base)
            return [
                *_token(project, forge, me, found),
                *_merging(base, found),
                *_guards(forge, base, found, me),
                *_branches(project, forge),
                *_reviews(project, forge, me),
                *_push(project),
            ]
        except ForgeError as error:
            return [of_error(error, "the forge's settings could not be read")]


def _unset(project: Project) -> Iterator[Finding]:
    remote = trusted.remote_name(project.git)
    there = guess(trusted.remote_url(project.git, remote)) if remote else None
    yield remark(
        "`forge:` is not set",
        "config.yaml on the trusted branch",
        "nothing is posted anywhere, and no review or comment is read",
        f"write {f'`forge: {there.kind.name}`' if there else ' or '.join(SETTINGS)}",
    )


def _token(project: Project, forge: Forge, me: Identity, found: Settings) -> Iterator[Finding]:
    where = f"{me.login} (id {me.id}) on {forge.host}"
    if found.access < Access.WRITE:
        yield fault(
            "the token's account may not write to the repository",
            where,
            "no branch is pushed, no request opened, no status set",
            f"give it the role {forge.kind.writer_role}",
        )
    if found.scopes and not {*forge.kind.scopes} & {*found.scopes}:
        yield fault(
            f"the token has only the scopes {', '.join(found.scopes)}",
            where,
            "requests, comments and statuses cannot be written",
            f"make one with `{forge.kind.scopes[0]}`",
        )
    if found.default_branch != project.trusted.branch:
        yield remark(
            f"the forge's default branch is {found.default_branch}",
            f"{project.trusted.branch} is trusted here",
            "event workflows run from the forge's default branch; the policy is read from the branch that is trusted here",
            "`runner doctor --repin`",
        )


def _merging(base: str, found: Settings) -> Iterator[Finding]:
    methods = ", ".join(sorted(found.methods))
    if not found.methods:
        yield remark(
            "the token may not see how requests are merged",
            base,
            "doctor cannot tell whether a merge rewrites the commits",
            "",
        )
    elif not found.methods & _WHOLE:
        yield remark(
            f"requests are merged by {methods} alone",
            base,
            "the base gets other commits than those that were verified; only refs/runner/history/* then keep the verified history",
            "allow merge commits, and do not delete refs/runner/*",
        )
    if MergeMethod.REBASE in found.methods:
        yield remark(
            "requests may be merged by a rebase",
            base,
            "each transition is written again onto the base, without its signature",
            "forbid it, or merge protocols by merge commits",
        )
    if found.protection.linear and not found.methods - {MergeMethod.MERGE}:
        yield fault(
            "a linear history is required, and only merge commits are allowed",
            base,
            "no request can be merged",
            "allow one of the two",
        )


def _guards(forge: Forge, base: str, found: Settings, me: Identity) -> Iterator[Finding]:
    guard = found.protection
    if guard.protected is False:
        yield remark(
            f"{base} is not protected",
            "the forge's settings",
            "everybody who may push can change policy and keys without a review",
            f"protect {base}",
        )
    checks = guard.required_checks
    if checks is not None and "runner/verify" not in checks:
        yield remark(
            "runner/verify is not required",
            base,
            "a request can be merged whose record does not verify, or whose merge nobody approved",
            forge.kind.require_verify,
        )
    foreign = [one for one in checks or () if one not in OUR_CONTEXTS]
    if foreign and me.kind is AccountKind.BOT:
        yield remark(
            f"required: {', '.join(foreign)}",
            base,
            "pushes with a CI job's own token start no CI, so these would never come",
            "push with an App's or a project's token (docs/github.md, docs/gitlab.md)",
        )
    if guard.dismisses_stale:
        yield remark(
            "the forge dismisses approvals after a push",
            base,
            "the runner counts a review even if the record was pushed after it; the forge's own rule requires a new one "
            "after the last push",
            "approve again when the request is ready",
        )
    if guard.last_pusher_refused and me.kind is not AccountKind.BOT:
        yield remark(
            "the last person to push cannot approve",
            base,
            f"the runner pushes as {me.login}, a person: that person's review is not enough for the forge",
            "let the runner push with an account of its own",
        )


def _branches(project: Project, forge: Forge) -> Iterator[Finding]:
    remote = project.trusted.remote
    for protocol in project.protocols():
        name = ids.branch_of(project.pattern, protocol)
        if project.git.ref(f"refs/remotes/{remote}/{name}") is None:
            continue
        with contextlib.suppress(NotFoundError):  # deleted there meanwhile
            guard = forge.settings(name).protection
            if forge.kind.protecting_exposes_secrets:
                # Only protection would forbid deletion and rewriting there, and it gives away more than it guards.
                if guard.protected:
                    yield fault(
                        "protocols' branches are protected",
                        name,
                        "the pipelines of these branches get protected variables, such as tokens that may write, and an agent "
                        "can change their .gitlab-ci.yml",
                        "leave them unprotected, and the default branch protected",
                    )
            elif guard.forced_pushes or guard.deletions:
                yield remark(
                    "protocols' branches may be deleted or rewritten there",
                    name,
                    "only clones that saw a history before notice that it was rewound",
                    f"forbid both for `{project.pattern.replace('{id}', '[0-9]*')}`",
                )
        return


def _reviews(project: Project, forge: Forge, me: Identity) -> Iterator[Finding]:
    found = trusted_config.of(project)
    if found.policy is None:
        yield remark(
            "there is no policy.yaml",
            found.where,
            "no review counts",
            "`runner init`, then list people and roles",
        )
        return
    listed = found.policy.content.forge.get(forge.host, {})
    if not listed:
        yield remark(
            f"nobody of {forge.host} is listed in `forge:`",
            found.where,
            "no review counts; signed approvals do",
            f"write `forge: {{{forge.host}: {{alice@example.com: NUMERIC-ID}}}}`",
        )
    for who, number in listed.items():
        if number == me.id:
            yield fault(
                f"the token is {who}'s own account",
                f"{found.where}; {me.login}",
                "the runner's pushes count as theirs, and everybody who has the token can approve as them",
                "give the runner an account of its own: a GitHub App, or a project access token",
            )
            continue
        member = forge.membership(Identity(host=forge.host, id=number, login=""))
        why = "" if member.access >= Access.WRITE else "may not write to the repository"
        if member.kind is not AccountKind.PERSON:
            why = "is a bot's, or the forge does not tell"
        if why:
            yield remark(
                f"the account {number} of {who} {why}",
                found.where,
                "its reviews do not count",
                "correct the list",
            )


def _push(project: Project) -> Iterator[Finding]:
    """Try a push of a protocol's branch that moves nothing."""
    try:
        mirror = Mirror.of(project)
        if mirror is None:
            return
        name = ids.branch_of(project.pattern, "9999-doctor")
        mirror.try_push(
            {f"refs/heads/{name}": project.trusted.commit, "refs/runner/numbers/9999": project.trusted.commit}
        )
    except RunnerError as error:
        yield of_error(error, "work of this clone cannot be published")
