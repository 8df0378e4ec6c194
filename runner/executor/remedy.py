"""What a person can type where a history does not verify, here or on the remote: only what will not be refused."""

from __future__ import annotations

import contextlib

from runner.errors import IntegrityError, RunnerError
from runner.store import worktree
from runner.store.environment import read_checkpoint
from runner.store.project import Project, Session
from runner.trust import verify
from runner.trust.verify import RewrittenError, is_rebased
from runner.trust.walk import Report

GIVEN_AGAIN = "approvals of what it changed have to be given again"


def way_back(project: Project, protocol: str, tip: str, old: str) -> str:
    """Return the command that puts the branch back to `old`."""
    return worktree.way_back(project.git, project.branch(protocol), tip, old)


def of_rewritten(session: Session, protocol: str, judged: Report, old: str) -> str:
    """Return what helps where the branch's history was rewritten, of which `old` verified here last."""
    fix = f"`runner doctor --fix {protocol}`"
    if is_adoptable(session, protocol, judged, old):
        return f"{fix} adopts it as a merge into the old history, {why_merged(session.project, judged)}; {GIVEN_AGAIN}"
    if judged.ok or judged.is_repairable:
        return f"{fix} adopts it as it is, and keeps the old one; {GIVEN_AGAIN}"
    if session.git.commit(old) is None:
        return f"the old one, {old[:12]}, is not in this clone; fetch it from where it is"
    return f"`{way_back(session.project, protocol, judged.tip, old)}` puts the old one back"


def can_adopt(session: Session, protocol: str, tip: str) -> bool:
    """Return whether `doctor --fix` adopts the rewritten history at `tip`, as it is or as a merge; False if nobody can tell here."""
    old = read_checkpoint(session.dirs, protocol)
    try:
        judged = verify.verify(session.git, protocol, tip, session.project.trusted)
        sound = judged.ok or judged.is_repairable
        return sound or (old is not None and is_adoptable(session, protocol, judged, old))
    except RunnerError:
        return False


def is_adoptable(session: Session, protocol: str, judged: Report, old: str) -> bool:
    """Return whether a rewritten history is adopted as a merge into `old`, which verified: it has the same transitions, and does not
    verify itself, or lacks commits that are published."""
    sound = judged.ok or judged.is_repairable
    if session.git.commit(old) is None or (sound and not _lacks_published(session, protocol, old, judged.tip)):
        return False
    return is_rebased(session.git, protocol, old, judged.tip)


def why_merged(project: Project, judged: Report) -> str:
    """Return why a rewritten history is adopted as a merge, as an attribute of the old one."""
    if judged.ok or judged.is_repairable:
        return f"which {project.trusted.remote} has"
    return "whose approvals and verdicts were for other commits"


def published(session: Session, protocol: str, tip: str) -> str | None:
    """Return the newest commit that `tip` and the remote, as it was seen last, both have; None where there is none."""
    git, branch = session.git, session.project.branch(protocol)
    there = session.above(branch) if session.mirror else git.ref(session.project.tracking(branch))
    return git.merge_base(tip, there) if there is not None and git.commit(there) is not None else None


def _lacks_published(session: Session, protocol: str, old: str, tip: str) -> bool:
    """Return whether the remote, as it was seen last, has commits of `old` that `tip` replaced."""
    there = published(session, protocol, old)
    return there is not None and not session.git.is_ancestor(there, tip)


def of_damaged(project: Project, protocol: str, judged: Report) -> str:
    """Return what helps where the branch here does not verify."""
    if judged.is_repairable:
        return f"run `runner verify {protocol}` to see all of it, `runner doctor --fix {protocol}` to repair the record"
    return f"`runner doctor {protocol}` says what remains possible"


def of_remote(session: Session, protocol: str, judged: Report) -> str:
    """Return what helps where the remote has a tip that does not verify: any clone can repair it, or who has to."""
    git, remote, there = session.git, session.project.trusted.remote, judged.tip
    here, fix = good_tip(session.project, protocol), f"`runner doctor --fix {protocol}`"
    goes_out = session.project.setting("publish") == "always"
    if judged.is_repairable:
        return f"{fix} repairs it" + (
            " and publishes that" if goes_out else f" here; `runner sync {protocol}` then publishes that"
        )
    if here is not None and is_adoptable(session, protocol, judged, here):
        return f"{fix} adopts it as a merge; {GIVEN_AGAIN}" + (
            "" if goes_out else f"; `runner sync {protocol}` then publishes that"
        )
    if here is not None:
        name = session.project.branch(protocol)
        return f"`git push --force-with-lease={name}:{there} {remote} {here}:{name}` restores the tip of this clone, which verifies"
    commit = git.commit(judged.findings[0].commit if judged.findings else there)
    told = commit.committer.decode("utf-8", "replace").partition(" <")[0] if commit is not None else ""
    by = "".join(filter(str.isprintable, told)) or "its committer"
    return f"this clone cannot repair it: {by} made that commit and has to push the earlier tip again, or a clone that has that tip"


def good_tip(project: Project, protocol: str) -> str | None:
    """Return the commit of the branch here where it verifies; None where there is none, or it does not."""
    known, here = project.checkpoint_and_tip(protocol)
    if here is None or here == known:
        return here
    with contextlib.suppress(RunnerError):
        return here if verify.verify(project.git, protocol, here, project.trusted).ok else None
    return None


def refused(session: Session, protocol: str, tip: str, error: IntegrityError) -> IntegrityError:
    """Return an error of verification with what helps: of the branch here, or of what the remote has at `tip`."""
    try:
        judged = verify.verify(session.git, protocol, tip, session.project.trusted)
        old, here = session.project.checkpoint_and_tip(protocol)
        if tip != here:
            if session.mirror is None or session.above(session.project.branch(protocol)) != tip or judged.ok:
                return error
            what = f"what {session.mirror.remote} has does not hold: {error.what}"
            return type(error)(what, error.where, of_remote(session, protocol, judged))
        if isinstance(error, RewrittenError):
            return type(error)(error.what, error.where, of_rewritten(session, protocol, judged, old)) if old else error
        return type(error)(error.what, error.where, of_damaged(session.project, protocol, judged))
    except RunnerError:  # then what was found first is said as it is
        return error
