"""Which protocol is meant: by id, number, branch, or not at all inside its worktree or where only one is open."""

from __future__ import annotations

from runner.errors import UsageError
from runner.protocol import ids, paths
from runner.store.project import Project


def known(project: Project) -> dict[str, str]:
    """Return id to the commit that shows it: the branches here, what the base holds, and what only the remote's branch has."""
    found = project.protocols()
    for name in project.git.tree(f"{project.trusted.commit}:{paths.ROOT}") or {}:
        if ids.is_protocol_id(name) and name not in found:
            found[name] = project.trusted.commit
    return dict(sorted(found.items(), key=lambda item: (ids.number_of(item[0]), item[0])))


def find(project: Project, name: str | None) -> str:
    """Return the id of the protocol that a person means.

    Raises:
        UsageError: there is none, or it is not clear which; near ones are offered.
    """
    if name is None:
        return _here(project)
    direct = (
        name if ids.is_protocol_id(name) else ids.protocol_of_branch(project.pattern, name.removeprefix("refs/heads/"))
    )
    everything = known(project)
    if direct in everything:
        return direct
    if name.isdigit():
        same = [protocol for protocol in everything if ids.number_of(protocol) == int(name)]
        if len(same) == 1:
            return same[0]
        if same:
            raise UsageError(f"`{name}` is ambiguous: {', '.join(same)}", "the protocol's name", "give the whole id")
    from difflib import get_close_matches

    slugs = [protocol for protocol in everything if protocol.split("-", 1)[1] == name]
    near = slugs or get_close_matches(name, everything, n=3, cutoff=0.4) or list(everything)[-3:]
    hint = f"did you mean {' or '.join(near)}?" if near else "`runner new` makes one"
    raise UsageError(f"there is no protocol `{name}`", str(project.git.top or project.git.common_dir), hint)


def _here(project: Project) -> str:
    head = project.git.symbolic_ref("HEAD", project.git.git_dir)
    protocol = ids.protocol_of_branch(project.pattern, head.removeprefix("refs/heads/")) if head else None
    if protocol:
        return protocol
    from runner.store import record

    there = [
        row["protocol"]
        for row in record.rows(project.git, project.protocols())
        if row.get("status") not in ("completed", "cancelled")
    ]
    if len(there) == 1:
        return str(there[0])
    if not there:
        raise UsageError(
            "no protocol is open",
            str(project.git.top or project.git.common_dir),
            "`runner new` makes one, `runner list` shows all",
        )
    raise UsageError(f"{len(there)} protocols are open: {', '.join(there[:5])}", "the protocol's name", "say which one")
