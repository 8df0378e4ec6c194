"""The record read as plain data, for commands that only show it: no models, one pass over git's objects."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from runner.git import Git
from runner.protocol import paths

Row = dict[str, Any]  # state.json as it stands; `protocol` is always there


def row(git: Git, protocol: str, commit: str) -> Row:
    """Return state.json of a protocol at a commit; `{"protocol", "status": "unreadable"}` where it is none."""
    data = git.blob(f"{commit}:{paths.folder(protocol)}/{paths.STATE}")
    try:
        found = json.loads(data) if data is not None else None
    except (ValueError, RecursionError):
        found = None
    if (
        not isinstance(found, dict)
        or not isinstance(found.get("steps"), dict)
        or not isinstance(found.get("waiting"), list)
    ):
        return {
            "protocol": protocol,
            "status": "unreadable",
            "steps": {},
            "waiting": [],
            "title": protocol,
            "revision": 0,
        }
    return {**found, "protocol": protocol}


def rows(git: Git, protocols: Mapping[str, str]) -> Iterable[Row]:
    """Return the rows of many protocols, given as id to commit."""
    return [row(git, protocol, commit) for protocol, commit in protocols.items()]
