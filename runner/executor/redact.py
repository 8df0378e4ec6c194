"""Secrets are taken out of everything before it is written: as they are, and in base64, hex, URL and JSON form."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

SHORTEST = 8  # a shorter value would take words out of ordinary text
_NAMES = re.compile(r"(?:^|_)(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(?:$|_)", re.IGNORECASE)


class Redactor:
    """Knows the values that must not be written. Built from the environment's variables whose names say what they hold."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        forms: dict[str, str] = {}
        for name, value in environ.items():
            if len(value) < SHORTEST or not _NAMES.search(name):
                continue
            raw = value.encode()
            for form in (value, json.dumps(value)[1:-1], *_urls(value), raw.hex(), raw.hex().upper(), *_base64(raw)):
                if len(form) >= SHORTEST:
                    forms[form] = name
        self._forms = forms
        longest_first = sorted(forms, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if forms else None

    def text(self, text: str) -> str:
        """Return the text with each secret replaced by the name of its variable."""
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda match: f"[{self._forms[match[0]]}]", text)

    def data(self, data: bytes) -> bytes:
        """Return the bytes without secrets."""
        if self._pattern is None:
            return data
        return self.text(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")

    def value(self, value: Any) -> Any:
        """Return a JSON value without secrets, keys of objects included."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(key): self.value(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        return value


def _urls(value: str) -> list[str]:
    """Return the forms of a value in a URL: as a part of it, or as a path; programs differ in the case of the digits."""
    found = [quote(value, safe=""), quote(value)]
    return [*found, *(re.sub("%..", lambda match: match[0].lower(), form) for form in found)]


def _base64(raw: bytes) -> list[str]:
    """Return the forms of a secret in base64 text, one an offset: the part that does not depend on its neighbours."""
    found = []
    for shift in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            text = encode(b"\0" * shift + raw).decode().rstrip("=")
            # The first characters mix with what stands before, the last with what comes after.
            begin = (0, 2, 3)[shift]
            end = len(text) if (shift + len(raw)) % 3 == 0 else len(text) - 1
            found.append(text[begin:end])
    return found
