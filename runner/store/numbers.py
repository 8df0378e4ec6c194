"""Numbers of protocols, claimed by compare-and-swap on refs/runner/numbers/NNNN (design §2, ids)."""

from __future__ import annotations

from runner.git import Git
from runner.protocol import ids, paths

PREFIX = "refs/runner/numbers/"


def taken(git: Git, base: str, branch_pattern: str) -> set[int]:
    """Return the numbers that are in use as far as this clone knows: claims, branches, folders of the base."""
    found = set()
    for name in git.refs(PREFIX, "refs/heads/", "refs/remotes/", "refs/runner/history/"):
        if name.startswith(PREFIX):
            last = name.removeprefix(PREFIX)
            if last.isdigit():
                found.add(int(last))
            continue
        _, _, rest = name.removeprefix("refs/").partition("/")
        if name.startswith("refs/remotes/") or name.startswith("refs/runner/"):
            rest = rest.partition("/")[2]
        protocol = ids.protocol_of_branch(branch_pattern, rest) or (rest if ids.is_protocol_id(rest) else None)
        if protocol:
            found.add(ids.number_of(protocol))
    for name in git.tree(f"{base}:{paths.ROOT}") or {}:
        if ids.is_protocol_id(name):
            found.add(ids.number_of(name))
    return found


def claim_ref(number: int) -> str:
    """Return the ref that claims a number."""
    return f"{PREFIX}{number:04d}"
