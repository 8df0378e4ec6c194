"""The journal: what an attempt has heard and done so far, on the disk before it is used (design §6).

One record a line, `LENGTH SHA256 JSON`; the digest is of the record before and this one's JSON, so that a record that is torn,
changed or missing is seen. A torn last record is cut off: it was never used. Anything else that does not hold is refused and never
guessed over. After a kill the step goes on from here and pays for no response twice.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runner.errors import IntegrityError, UsageError

Record = dict[str, Any]


class Journal:
    """The records of one attempt. Opened by whoever holds the protocol's lock.

    `filed`: how many of them, from the first on, the protocol's history has; what those cost is in the record (`take_up`).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[Record] = []
        self.filed = 0
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
            self._last = self._digest(body, self._last)
            at = end + 1
            self._length = at

    def _body(self, line: bytes) -> bytes | None:
        length, _, rest = line.partition(b" ")
        digest, _, body = rest.partition(b" ")
        if length != b"%d" % len(body) or self._digest(body, self._last).encode() != digest:
            return None
        return body

    @staticmethod
    def _digest(body: bytes, last: str) -> str:
        return hashlib.sha256(last.encode() + body).hexdigest()

    def append(self, record: Record) -> None:
        """Write a record; it is on the disk when this returns.

        Raises:
            OSError: it is not; the process must not go on as if it were.
        """
        self._write([record])

    def _write(self, records: Sequence[Record]) -> None:
        lines, last = b"", self._last
        for record in records:
            body = json.dumps(record, ensure_ascii=True, sort_keys=True, separators=(",", ":")).encode()
            last = self._digest(body, last)
            lines += b"%d %s %s\n" % (len(body), last.encode(), body)
        new = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(handle, self._length)  # a torn record goes
            written = 0
            while written < len(lines):
                written += os.pwrite(handle, lines[written:], self._length + written)
            os.fsync(handle)
        finally:
            os.close(handle)
        if new:
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        self._length += len(lines)
        self._last = last
        self.records += records

    def transcript(self) -> bytes:
        """Return the records as JSON Lines: the transcript of the attempt."""
        return b"".join(_line(record) for record in self.records)

    def take_up(self, transcript: bytes) -> None:
        """Go on from what the history has of the attempt (valid records), which another clone may have carried further.

        Where that is no beginning of ours, ours is of no use any more, and was paid for: it is kept beside, as `NAME.lost-1.jsonl`.
        """
        theirs = transcript.splitlines(keepends=True)
        same = self.alike(transcript)
        if same < min(len(theirs), len(self.records)):
            count = 1
            while (lost := self.path.with_name(f"{self.path.stem}.lost-{count}.jsonl")).exists():
                count += 1
            self.path.rename(lost)
            self.records, self._last, self._length, same = [], "", 0, 0
        if theirs[len(self.records) :]:
            self._write([json.loads(line) for line in theirs[len(self.records) :]])
        self.filed = len(theirs)

    def alike(self, transcript: bytes) -> int:
        """Return how many records, from the first on, are the same as a transcript's."""
        pairs = zip(transcript.splitlines(keepends=True), self.records, strict=False)
        return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == _line(pair[1]), pairs))


def _line(record: Record) -> bytes:
    return json.dumps(record, ensure_ascii=True, sort_keys=True).encode() + b"\n"
