"""What the YAML of plans and configuration says, kept in the person's own state for the next command.

It depends on the bytes and on the reader alone, so it is dropped with another version of that and by nothing else. Proofs do
without: `runner verify` reads every file itself.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from runner import __version__
from runner.protocol import strict_yaml
from runner.store.environment import StateDir, write_loosely


@contextlib.contextmanager
def kept(dirs: StateDir) -> Iterator[None]:
    """Have documents that were read before not parsed again."""
    path, found = dirs.own / "documents.json", dict[str, str]()
    try:
        reader = Path(strict_yaml.__file__).stat()
    except OSError:  # it is no file of its own, as in an archive, and nothing says when it changes
        yield
        return
    read_by = [__version__, reader.st_mtime_ns, reader.st_size]
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        told = json.loads(path.read_bytes())
        found = dict(told["documents"]) if told["reader"] == read_by else {}
    strict_yaml.known, count = found, len(found)
    try:
        yield
    finally:
        strict_yaml.known = None
        if len(found) != count:
            write_loosely(path, json.dumps({"reader": read_by, "documents": found}).encode())
