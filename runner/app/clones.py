"""What a clone lacks that its remote has: history that was cut off, objects, branches, transcripts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from runner.app.repair import Finding, Repair
from runner.errors import InsufficientHistoryError
from runner.protocol.ids import branch_of
from runner.store import history, recovery
from runner.store.project import Project
from runner.store.remote import Mirror
from runner.trust import checks, filed


def look(project: Project) -> Iterator[Repair]:
    """Yield what this clone was made without."""
    git, remote = project.git, project.trusted.remote
    if git.is_shallow():
        yield Repair(
            Finding(
                "here" if remote else "note",
                "history is cut off in this clone",
                str(git.common_dir / "shallow"),
                "what was done before is not here, so nobody can tell whether a protocol is what its history says",
                "`runner doctor --fix` fetches the rest, as `git fetch --unshallow` does; in CI: `fetch-depth: 0`",
            ),
            partial(_deepen, project) if remote else None,
        )
    if git.is_partial():
        yield Repair(
            Finding(
                "note",
                "this is a partial clone: objects are left at the remote until something needs them",
                str(git.common_dir / "config"),
                "steps fetch what they need; `runner verify` asks nobody, and may not be able to tell",
                "`git fetch --refetch --no-filter` brings them all",
            )
        )
    specs = git.settings().get(f"remote.{remote}.fetch", []) if remote else []
    wanted = f"refs/heads/{branch_of(project.pattern, '0001-x')}".partition("0001-x")[0]
    if specs and not any("*" in spec and wanted.startswith(spec.lstrip("+").partition("*")[0]) for spec in specs):
        yield Repair(
            Finding(
                "note",
                f"this clone follows only some branches of {remote}: {', '.join(specs)}",
                str(git.common_dir / "config"),
                "protocols that others began are not seen",
                f"`git remote set-branches {remote} '*' && git fetch {remote}`",
            )
        )


def _deepen(project: Project) -> str:
    mirror = _mirror(project)
    if mirror is None:
        return ""
    return f"fetched the history that was cut off: {recovery.deepen(mirror)} commits had no parents here"


def _mirror(project: Project) -> Mirror | None:
    return recovery.remote(project.git, project.places, project.who)


def transcripts(project: Project, protocol: str, walk: checks.Chain) -> Repair | None:
    """Return that the history lacks transcripts which the log names: it was not fetched, or went back behind what was seen."""
    git, ref = project.git, history.ref_of(protocol)
    try:
        for wrong in filed.wrong(git, protocol, walk.named, git.ref(ref), project.trusted.remote, []):
            return Repair(
                Finding(
                    "integrity",
                    f"{protocol} does not verify: {wrong.text} ({wrong.rule})",
                    wrong.path,
                    "what a model said and did is not what the log names",
                    f"`{history.fetch(project.trusted.remote)}` where the remote has the right one",
                )
            )
    except InsufficientHistoryError as error:
        remote = project.trusted.remote
        return Repair(
            Finding(
                "here",
                error.what,
                ref,
                "it can be neither shown nor verified, and what it cost is not known to a budget",
                "`runner doctor --fix` fetches it"
                if remote
                else "there is no remote; where another clone has it: "
                f"`git fetch CLONE '{ref}:{ref}'`; else it is lost, and the record stands without it",
            ),
            partial(_fetch_history, project, ref) if remote else None,
        )
    return None


def _fetch_history(project: Project, ref: str) -> str:
    git, mirror = project.git, _mirror(project)
    if mirror is None:
        return ""
    mirror.fetch(ref, timeout=recovery.REFETCH_SECONDS)
    here, there = git.ref(ref), mirror.refs().get(ref)
    if there is None or (here is not None and not git.is_ancestor(here, there)):
        return ""
    git.update_refs({ref: (there, here)}, "runner: fetched")
    return f"took up {ref} from {mirror.remote}: {there[:12]}"
