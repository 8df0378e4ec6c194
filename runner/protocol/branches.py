"""The one key of config.yaml that listing needs, read without loading a YAML parser or models."""

from __future__ import annotations

import re

_LINE = re.compile(rb"^branch:[ \t]*[\"']?([A-Za-z0-9._/{}-]+)[\"']?[ \t]*(?:#.*)?\r?$", re.MULTILINE)


def pattern_of(config: bytes | None) -> str:
    """Return `branch:` of config.yaml's bytes, `{id}` where it does not say. A bad one is refused by whoever writes."""
    match = _LINE.search(config) if config else None
    found = match[1].decode() if match else "{id}"
    return found if found.count("{id}") == 1 else "{id}"
