"""Which files the outputs that a step promises name: as QA looks for them, and `verify` again."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from runner.protocol import paths


@cache
def _pattern(glob: str) -> re.Pattern[str]:
    """Return the expression for a glob in which `**` crosses folders and `*` does not."""
    out, at = [], 0
    while at < len(glob):
        if glob.startswith("**/", at):
            out.append("(?:.*/)?")
            at += 3
        elif glob.startswith("**", at):
            out.append(".*")
            at += 2
        elif glob[at] == "*":
            out.append("[^/]*")
            at += 1
        elif glob[at] == "?":
            out.append("[^/]")
            at += 1
        else:
            out.append(re.escape(glob[at]))
            at += 1
    return re.compile("".join(out))


def matching(glob: str, files: Iterable[str]) -> list[str]:
    """Return those of the files that an output names: itself, what its glob fits, or what lies in its folder.

    What no step makes is none: the plan's files would pass for `**/*.md`, and the record differs in the very commit that names it.
    """
    pattern = _pattern(glob.rstrip("/"))
    return sorted(
        path
        for path in files
        if (pattern.fullmatch(path) or path.startswith(glob.rstrip("/") + "/"))
        and (not path.startswith(f"{paths.ROOT}/") or path.startswith(paths.MEMORY))
    )
