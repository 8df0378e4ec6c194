"""The journal: the responses and calls of an attempt, on the disk before they are used (design §6).

One record a line, `LENGTH SHA256 JSON`; the digest covers the record before and this one's JSON, so that a torn, changed or missing
record is noticed. A torn last record is cut off: it was never used. Any other damage is refused and never guessed over. After a kill
the step resumes from here and pays for no response twice. A write that the disk refused is not retried: how much of it the disk
keeps is unknown.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from runner.errors import InsufficientHistoryError, IntegrityError, RefusedError, UsageError
from runner.lines import pattern
from runner.protocol import transcript
from runner.protocol.ids import digest
from runner.protocol.state import Json, State, StepStatus
from runner.protocol.transcript import CallOutcome, Intent, Record, Settled
from runner.store import history, record
from runner.store.environment import StateDir, matching
from runner.store.project import Project, Session

Noted = Intent | CallOutcome | Settled  # the records about effects

_OPEN = (StepStatus.PENDING, StepStatus.RUNNING, StepStatus.AWAITING_APPROVAL)  # no transition has ended the attempt
_SECTOR = 512  # bytes that a disk writes whole or not at all
_BEGUN = pattern(rb"\d*|\d+ [0-9a-f]{0,64}|(?P<length>\d{1,18}) (?P<digest>[0-9a-f]{64}) (?P<body>[^\n]*)")


class DamagedJournalError(IntegrityError):
    """A record does not hold that was on the disk whole. `number`: its own, from 1; `offset`: of its first byte."""

    def __init__(self, path: Path, number: int, offset: int) -> None:
        super().__init__(
            f"record {number} of the journal is damaged, at byte {offset}",
            str(path),
            _restart(path),
        )
        self.number, self.offset = number, offset


def _restart(path: Path) -> str:
    return (
        f"check whether external calls took effect, then `mv {path} {path}.damaged` restarts the step: it "
        "repeats its model requests and those calls"
    )


class Journal:
    """The records of one attempt. Only the holder of the protocol's lock opens it.

    `rows`: the records as the file has them.
    `filed`: how many of them, from the first on, the protocol's history has; what those cost is in the record (`take_up`).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Json] = []
        self._records: list[Record] = []
        self.filed = 0
        self._last = ""
        self._length = 0
        self._is_named = False  # whether the folders that lead to it are on the disk too
        self._failed: OSError | None = None
        self._arriving = path.with_suffix(".arriving")
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise UsageError(f"the journal cannot be read: {error.strerror}", str(path), "make it readable") from error
        self._read(data)

    @property
    def records(self) -> list[Record]:
        """The records. Their order and number are those of `rows`.

        Raises:
            IntegrityError: one is of a known kind, and has not the fields of that kind.
        """
        for number, row in enumerate(self.rows[len(self._records) :], len(self._records) + 1):
            try:
                self._records.append(transcript.record_of(row))
            except (ValueError, RecursionError) as error:
                raise IntegrityError(
                    f"this version of the runner cannot read record {number} of the journal",
                    str(self.path),
                    f"use the version that wrote it; or {_restart(self.path)}",
                ) from error
        return self._records

    def noted(self) -> list[Noted]:
        """Return the records about effects."""
        return [one for one in self.records if isinstance(one, Noted)]

    def _read(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            end = data.find(b"\n", at)
            body = self._body(data[at:end]) if end >= 0 else None
            if body is None:
                if self._is_torn(data, at):
                    return  # it was being written when the process ended, or the power went
                raise DamagedJournalError(self.path, len(self.rows) + 1, at)
            self.rows.append(json.loads(body))
            self._last = self._digest(body, self._last)
            at = end + 1
            self._length = at

    def _is_torn(self, data: bytes, at: int) -> bool:
        """Return whether the bytes from `at` on are one record that never reached the disk completely: its first bytes, or with
        sectors that were not written. A record that changed later is neither."""
        rest = data[at:]
        if 0 <= rest.find(b"\n") < len(rest) - 1:
            return False  # something follows
        holes = [(at + found.start(), at + found.end()) for found in re.finditer(rb"\0+", rest)]
        if holes:
            return all(
                (begin == at or begin % _SECTOR == 0) and (end == len(data) or end % _SECTOR == 0)
                for begin, end in holes
            )
        begun = _BEGUN.fullmatch(rest)
        if begun is None or begun["length"] is None:
            return begun is not None
        missing = int(begun["length"]) - len(begun["body"])
        whole = begun["digest"] == self._digest(begun["body"], self._last).encode()
        return missing > 0 or (missing == 0 and whole)  # all but its line's end

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
            OSError: it is not; the process must not act as if it were, and nothing more is written here.
        """
        self._write([transcript.plain(record)])
        self._arriving.unlink(missing_ok=True)

    def arriving(self) -> Callable[[bytes], None]:
        """Return what keeps the bytes of an answer as they arrive, beside the journal: evidence of one that was cut off or malformed.

        The next request starts it anew, and it goes once the answer is a record. It may hold secrets that records leave out, so it
        never leaves this machine.
        """
        path = self._arriving
        path.unlink(missing_ok=True)

        def keep(piece: bytes) -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(piece)

        return keep

    def undecided(self, time: str, *problems: str) -> None:
        """Note that the conversation up to here led nowhere: its questions are asked anew, and its cost still counts."""
        self.append(transcript.Undecided(kind="undecided", time=time, problems=[*problems]))

    def _write(self, rows: Sequence[Json]) -> None:
        if self._failed is not None:
            raise self._failed
        lines, last = b"", self._last
        for row in rows:
            body = json.dumps(row, ensure_ascii=True, separators=(",", ":")).encode()
            last = self._digest(body, last)
            lines += b"%d %s %s\n" % (len(body), last.encode(), body)
        try:
            self._put(lines)
        except OSError as error:
            # What the disk did not take may still be read until the power goes, so another process would believe it.
            self._failed = OSError(error.errno, error.strerror, error.filename or str(self.path))
            with contextlib.suppress(OSError):
                os.truncate(self.path, self._length)
            raise self._failed from error
        self._length += len(lines)
        self._last = last
        self.rows += rows

    def _put(self, lines: bytes) -> None:
        made = [] if self._is_named else list(_missing(self.path.parent))
        if not self._is_named:
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
        if not self._is_named:  # a process that died between the file and its name may have been before us
            for folder in (self.path.parent, *(folder.parent for folder in made)):
                _sync(folder)
            self._is_named = True

    def transcript(self) -> bytes:
        """Return the records as JSON Lines: the transcript of the attempt."""
        return b"".join(map(_line, self.rows))

    def take_up(self, filed: bytes, then: Sequence[Record] = ()) -> None:
        """Append the newer records of `filed`, the attempt's valid transcript in the history, which another clone may have continued.

        `then`: follows them in the same write, where there are any.

        Where this journal has other records than the transcript, it is useless but paid for: it is kept as `NAME.lost-1.jsonl`.
        """
        theirs = filed.splitlines(keepends=True)
        if self.alike(filed) < min(len(theirs), len(self.rows)):
            self.path.rename(self.lost())
            self._is_named = False
            self.rows, self._records, self._last, self._length = [], [], "", 0
        if newer := [json.loads(line) for line in theirs[len(self.rows) :]]:
            self._write([*newer, *map(transcript.plain, then)])
        self.filed = len(theirs)

    def lost(self) -> Path:
        """Return where it is kept beside when it is of no use any more; what it cost, and its open calls, still count there."""
        count = 1
        while (lost := self.path.with_name(f"{self.path.stem}.lost-{count}.jsonl")).exists():
            count += 1
        return lost

    def alike(self, filed: bytes) -> int:
        """Return how many records, from the first on, are the same as a transcript's."""
        pairs = zip(filed.splitlines(keepends=True), self.rows, strict=False)
        return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == _line(pair[1]), pairs))


def _missing(folder: Path) -> Iterator[Path]:
    """Yield the folders that have to be made, the deepest first."""
    while not folder.exists():
        yield folder
        folder = folder.parent


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _line(row: Json) -> bytes:
    return json.dumps(row, ensure_ascii=True).encode() + b"\n"


def put_aside(dirs: StateDir, protocol: str, tip: str) -> None:
    """Move the journals of a protocol's attempts aside, so that nothing resumes from them: their protocol is removed, up to `tip`.

    Call it when nothing else can refuse, and no effect in them is open.
    """
    journal, aside, count = dirs.journal(protocol), dirs.lost(f"{protocol}.{tip[:12]}"), 1
    while aside.exists():
        aside, count = dirs.lost(f"{protocol}.{tip[:12]}.{count}"), count + 1
    if journal.is_dir():
        aside.parent.mkdir(parents=True, exist_ok=True)
        os.rename(journal, aside)


def refuse_unknown(dirs: StateDir, protocol: str, hint: str = "") -> None:
    """Refuse to put journals aside that have an effect without an outcome: it could happen twice in silence.

    `hint`: what finds the outcome, where a run does not.

    Raises:
        RefusedError: naming the effect.
    """
    for path, effects in _effects(dirs, protocol):
        started = [one.call for one in {one.call: one for one in effects}.values() if isinstance(one, Intent)]
        if started:
            raise RefusedError(
                f"whether {started[0]} happened is not known",
                str(path),
                hint
                or f"`runner run --publish never {protocol}` finds out, or asks a person; then run the same command again",
            )


def refuse_unrecorded(dirs: StateDir, protocol: str, state: State, hint: str = "") -> None:
    """Refuse to put journals aside that have an effect of an attempt that no transition has ended: it would happen again.

    Raises:
        RefusedError: naming the effect.
    """
    for path, effects in _effects(dirs, protocol):
        for one in effects:
            slug, attempt, _ = one.call.rsplit(".", 2)
            step = state.steps.get(slug)
            is_open = step is not None and str(step.attempt) == attempt and step.status in _OPEN
            if isinstance(one, CallOutcome) and is_open:
                raise RefusedError(
                    f"{one.call} is an external call whose step has not ended, so it would be repeated",
                    str(path),
                    hint
                    or f"end the step first: `runner run --publish never {protocol}`; then run the same command again",
                )


def _effects(dirs: StateDir, protocol: str) -> Iterator[tuple[Path, list[Noted]]]:
    for path in matching(dirs.journal(protocol), "**/*.jsonl"):
        yield path, Journal(path).noted()


def open_journal(session: Session, protocol: str, name: str, then: Sequence[Record] = ()) -> Journal:
    """Return a journal of the protocol's, `SLUG.ATTEMPT` or the like, with what the history has of it.

    `then`: follows the records that this clone had not.
    """
    journal = Journal(session.dirs.journal(protocol) / f"{name}.jsonl")
    filed = _filed(session, protocol, name)
    transcript.parse(filed, f"{history.run_file(name)} of {history.ref_of(protocol)}")
    journal.take_up(filed, then)
    if filed:
        journal.filed = journal.alike(recorded_part(session.project, protocol, name))
    return journal


def _filed(session: Session, protocol: str, name: str) -> bytes:
    """Return what the history has of a journal. No transition of a batch adds to the history, so it is looked at once for all."""
    if session.pending is not None:
        if session.pending.runs is None:
            session.pending.runs = session.git.tree(f"{history.ref_of(protocol)}:runs") or {}
        if f"{name}.jsonl" not in session.pending.runs:
            return b""
    return history.read(session.git, protocol, history.run_file(name)) or b""


def recorded_part(project: Project, protocol: str, name: str) -> bytes:
    """Return the part of a transcript whose cost is in the record: as the log names it, or as it was filed beside a commit.

    The history's ref moves first, so where git was killed between the two the history has more than the record.
    """
    git, file = project.git, history.run_file(name)
    tip, filed = git.ref(project.branch(protocol)), git.ref(history.ref_of(protocol))
    if tip is None or filed is None:
        return b""
    named = {raw.fields.get("transcript") for raw in record.events(git, protocol, tip)}
    data = git.blob(f"{filed}:{file}") or b""
    if digest(data) in named:
        return data
    try:
        for commit, beside in history.commits(git, protocol, filed):
            data = git.blob(f"{commit.oid}:{file}") or b""
            if digest(data) in named or git.is_ancestor(beside, tip):
                return data
    except InsufficientHistoryError:  # all that can be told is that it was filed
        return data
    return b""
