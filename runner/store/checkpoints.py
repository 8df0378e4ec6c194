"""The last tip of each protocol that verified on this machine: only new commits are verified, and a history that goes back is seen."""

from __future__ import annotations

import contextlib
import json
import os

from runner.protocol.ids import OID
from runner.store.state_dir import StateDir, write_atomically


def read(places: StateDir, protocol: str) -> str | None:
    """Return the commit that verified last, or None where freshness is not proven."""
    try:
        tip = json.loads(places.checkpoint(protocol).read_bytes())["tip"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return tip if isinstance(tip, str) and OID.fullmatch(tip) else None


def write(places: StateDir, protocol: str, tip: str, genesis: str) -> None:
    """Remember a tip that verified; where the state cannot be written, or is lost, it is verified again next time."""
    path = places.checkpoint(protocol)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({"tip": tip, "genesis": genesis}) + "\n")
        os.replace(temporary, path)  # whole or not at all; no fsync, every transition would wait for it
    except OSError:
        return


def go_back(places: StateDir, protocol: str, tip: str, genesis: str) -> None:
    """Remember an earlier tip, for certain: the later one comes back from no power cut, behind which the branch would seem to be.

    Raises OSError.
    """
    data = json.dumps({"tip": tip, "genesis": genesis}).encode() + b"\n"
    write_atomically(places.checkpoint(protocol), data)


def forget(places: StateDir, protocol: str) -> None:
    """Accept a protocol as it is the next time it is loaded; on the disk before this returns."""
    path = places.checkpoint(protocol)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
