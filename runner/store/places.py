"""Where things lie that are not in the repository's history: locks and notes beside it, the person's own state elsewhere."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Places:
    """`common`: the repository's common git directory; `state_home`: the person's own state folder for all repositories."""

    common: Path
    state_home: Path

    @property
    def beside(self) -> Path:
        """What belongs to this clone: locks, notes."""
        return self.common / "runner"

    @property
    def own(self) -> Path:
        """The person's own state for this clone: mirror, marks, workspaces. Nothing in the repository can write there."""
        import hashlib

        real = os.path.realpath(self.common)
        named = Path(real).parent.name if Path(real).name == ".git" else Path(real).name.removesuffix(".git")
        return self.state_home / f"{named}-{hashlib.sha256(os.fsencode(real)).hexdigest()[:12]}"

    def lock(self, name: str) -> Path:
        """The file whose `flock` says that somebody is at work on `name`."""
        return self.beside / "locks" / name

    @property
    def follows(self) -> Path:
        """Notes of worktrees that are about to follow a ref."""
        return self.beside / "follows"

    def mark(self, protocol: str) -> Path:
        """The last tip of a protocol that verified here."""
        return self.own / "marks" / f"{protocol}.json"

    @property
    def mirror(self) -> Path:
        """The git directory that talks to the remote, with the person's configuration and its own."""
        return self.own / "mirror"

    @property
    def pin(self) -> Path:
        """Which remote and branch are trusted."""
        return self.own / "trusted.json"


def writable_state_home(wanted: Path) -> Path:
    """Return `wanted` where it can be written, else a folder of this user's in the temporary folder."""
    probe = wanted
    while not probe.exists() and probe != probe.parent:
        probe = probe.parent
    if os.access(probe, os.W_OK | os.X_OK):
        return wanted
    import tempfile

    return Path(tempfile.gettempdir()) / f"protocol-runner-{os.getuid()}"


def write_atomically(path: Path, data: bytes) -> None:
    """Put `data` at `path`, whole or not at all, and on the disk before this returns.

    The folder is made. Raises OSError.
    """
    import tempfile

    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
