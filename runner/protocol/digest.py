"""Digests of bytes and of sets of files: `sha256:` and 64 hex digits, whatever the repository's own hash is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping


def digest(data: bytes) -> str:
    """Return the digest of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def manifest_digest(files: Mapping[str, bytes]) -> str:
    """Return the digest of a set of files, given as path to bytes.

    The manifest has one line a file, `100644 sha256 size path`, sorted by path; it is never stored (design §4).
    """
    lines = [
        f"100644 {hashlib.sha256(data).hexdigest()} {len(data)} {path}\n".encode()
        for path, data in sorted(files.items(), key=lambda item: item[0].encode())
    ]
    return digest(b"".join(lines))
