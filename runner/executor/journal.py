"""The journal: what an attempt has heard and done so far, on the disk before it is used (design §6).

One record a line, `LENGTH SHA256 JSON`; the digest is of the record before and this one's JSON, so that a record that is torn,
changed or missing is seen. A torn last record is cut off: it was never used. Anything else that does not hold is refused and never
guessed over. After a kill the step goes on from here and pays for no response twice.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from runner.errors import IntegrityError, UsageError

Record = dict[str, Any]


class Journal:
    """The records of one attempt. Opened by whoever holds the protocol's lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[Record] = []
        self._last = ""
        self._length = 0
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise UsageError(f"the journal cannot be read: {error.strerror}", str(path), "make it readable") from error
        self._read(data)

    def _read(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            end = data.find(b"\n", at)
            if end < 0:
                return  # torn: it was being written when the process ended
            body = self._body(data[at:end])
            if body is None:
                if end + 1 == len(data):
                    return
                raise IntegrityError(
                    f"record {len(self.records) + 1} of the journal is damaged",
                    str(self.path),
                    "keep a copy and take the file away; the step begins again and pays again for what it had heard",
                )
            self.records.append(json.loads(body))
            self._last = self._digest(body)
            at = end + 1
            self._length = at

    def _body(self, line: bytes) -> bytes | None:
        length, _, rest = line.partition(b" ")
        digest, _, body = rest.partition(b" ")
        if not length.isdigit() or int(length) != len(body) or self._digest(body).encode() != digest:
            return None
        return body

    def _digest(self, body: bytes) -> str:
        return hashlib.sha256(self._last.encode() + body).hexdigest()

    def append(self, record: Record) -> None:
        """Write a record; it is on the disk when this returns.

        Raises:
            OSError: it is not; the process must not go on as if it were.
        """
        body = json.dumps(record, ensure_ascii=True, sort_keys=True, separators=(",", ":")).encode()
        line = b"%d %s %s\n" % (len(body), self._digest(body).encode(), body)
        new = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(handle, self._length)  # a torn record goes
            written = 0
            while written < len(line):
                written += os.pwrite(handle, line[written:], self._length + written)
            os.fsync(handle)
        finally:
            os.close(handle)
        if new:
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        self._length += len(line)
        self._last = self._digest(body)
        self.records.append(record)

    def transcript(self) -> bytes:
        """Return the records as JSON Lines: the transcript of the attempt."""
        return b"".join(
            json.dumps(record, ensure_ascii=True, sort_keys=True).encode() + b"\n" for record in self.records
        )

    def seed(self, transcript: bytes) -> None:
        """Begin an empty journal with the records of a transcript that came from elsewhere."""
        assert not self.records
        for line in transcript.splitlines():
            self.append(json.loads(line))
