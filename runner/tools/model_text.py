"""Text for a model: the workspace under one name on every machine, and texts cut to a usable size."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

WORKSPACE = "/workspace"
MOST = 30_000  # characters of one answer
HEAD = 10_000  # of these, from the start; the end of a command's output usually matters most


class WorkspaceAlias:
    """The name of the workspace for a model. `name` is the real path where that is below /workspace."""

    def __init__(self, work: Path) -> None:
        self.real = tuple(sorted({str(work), str(work.resolve())}, key=len, reverse=True))
        self.name = WORKSPACE if not any(Path(path).is_relative_to(WORKSPACE) for path in self.real) else str(work)
        names = "|".join(map(re.escape, self.real))
        self._real = re.compile(rf"(?:{names})(?![\w-]|\.\w)")
        self._shown = re.compile(rf"(?<![\w.~/-]){re.escape(self.name)}(?![\w-]|\.\w)")

    def hide(self, value: Any) -> Any:
        """Return a JSON value with the workspace's real path replaced by the alias, and other bytes than UTF-8 escaped."""
        if isinstance(value, str):
            text = value.encode("utf-8", "backslashreplace").decode()  # a file's name may be any bytes
            return self._real.sub(lambda found: self.name, text)
        if isinstance(value, list):
            return [self.hide(item) for item in value]
        if isinstance(value, dict):
            return {key: self.hide(item) for key, item in value.items()}
        return value

    def show(self, text: str) -> str:
        """Return a model's text with the alias replaced by the real path, for the host, where the alias does not exist."""
        return self._shown.sub(lambda found: self.real[-1], text)


def bounded(head: str, tail: str | None = None, size: int | None = None, digest: str | None = None) -> tuple[str, bool]:
    """Return text of at most `MOST` characters and a note, and whether it was cut in the middle.

    `tail`: the end of a text of `size` bytes with that `digest`, of which only `head` and `tail` were kept.
    """
    if tail is None and len(head) <= MOST:
        return head, False
    if tail is None:
        size, digest = len(head.encode()), "sha256:" + hashlib.sha256(head.encode()).hexdigest()
    kept, end = head[:HEAD], (head if tail is None else tail)[-(MOST - HEAD) :]
    note = f"\n[… cut here: of {size:,} bytes in all ({digest}) the middle is left out …]\n"
    return kept + note + end, True
