"""A batch of transitions: a record each in one file, then one pack and one move of the branch for all (ADR 0019).

Only steps that read and compute are in a batch, and no transition is reported before the branch has it. The batch belongs to the
holder of the protocol's lock. After a kill, the next holder applies the whole records, or throws them away.

The file is a sequence of records: `transition TIP PARENT first|more OBJECTS BYTES CRC32`, a newline, and that many bytes of objects
as they are in a pack. `first` starts a pack: no object after it is a delta of one before it. The checksum covers the line up to it
and the objects. A kill may tear the last record; a record that is torn, or of another format, counts as none.
"""

from __future__ import annotations

import contextlib
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from runner.errors import ConflictError, HeldError, InTheWayError
from runner.git import GitError, Tree
from runner.git.objects import sync_folder
from runner.git.pack import listed
from runner.protocol.ids import OID
from runner.store import locks, transaction
from runner.store.environment import Clone, write_loosely
from runner.store.transaction import RefUpdate

MOST = 50  # transitions of a batch
LONGEST = 0.1  # seconds from its first transition on
FEW = 10  # packs that are made one
_PACK = re.compile(r"^(\d) (pack-[0-9a-f]{40,64})$", re.MULTILINE)
_LINE = re.compile(
    rb"transition (?P<tip>[0-9a-f]+) (?P<parent>[0-9a-f]+) (?P<first>first|more) (?P<count>\d{1,9}) (?P<size>\d{1,10}) "
    rb"(?P<crc>[0-9a-f]{8})\n"
)


class UnfitError(Exception):
    """A transition cannot be in a batch: it moves more refs than the branch, or asks a person."""


@dataclass(frozen=True, slots=True)
class Record:
    """A transition in the file. `first`: its objects start a pack; `count`: the number of its objects."""

    tip: str
    parent: str
    first: bool
    count: int
    objects: bytes = field(repr=False)

    def render(self) -> bytes:
        """Return the record's bytes in the file."""
        first = "first" if self.first else "more"
        line = f"transition {self.tip} {self.parent} {first} {self.count} {len(self.objects)} ".encode()
        return b"%s%08x\n%s" % (line, zlib.crc32(self.objects, zlib.crc32(line)), self.objects)


def parse(data: bytes) -> list[Record]:
    """Return the whole records of a file, each on the one before. What follows a torn record is left out."""
    found: list[Record] = []
    at = 0
    while line := _LINE.match(data, at):
        objects = data[line.end() : line.end() + int(line["size"])]
        record = Record(
            line["tip"].decode(), line["parent"].decode(), line["first"] == b"first", int(line["count"]), objects
        )
        follows = record.parent == found[-1].tip if found else record.first
        if record.render() != data[at : line.end() + len(objects)] or not follows or not OID.fullmatch(record.tip):
            break
        found.append(record)
        at = line.end() + len(objects)
    return found


@dataclass(slots=True, eq=False)
class Batch:
    """Transitions on `base`, the tip of a protocol's branch. `until`: by the monotonic clock. For the holder of the protocol's lock.

    Until it ends, the git of `clone` collects the objects that are written. `workspace`: the one of its built-in tools; `runs`: the
    history's folder of transcripts. The first step that needs one finds it for all.
    """

    clone: Clone
    path: Path
    branch: str
    base: str
    until: float
    tips: list[str] = field(default_factory=list)
    workspace: Any = None
    runs: Tree | None = None
    _noted: int = 0  # of the tips
    _length: int = 0  # of the file
    _handle: int = -1

    @classmethod
    def begin(cls, clone: Clone, branch: str, protocol: str, base: str) -> Batch:
        """Start a batch on `base`."""
        clone.git.collect()
        return cls(clone, clone.dirs.pending(protocol), branch, base, clone.env.monotonic() + LONGEST)

    @property
    def tip(self) -> str:
        """The commit of the last transition."""
        return self.tips[-1] if self.tips else self.base

    def add(self, commit: str) -> None:
        """Add a transition, whose objects were collected, on the last one."""
        assert self._noted == len(self.tips), "the last transition is on the disk before the next starts"
        self.tips.append(commit)

    def note(self) -> None:
        """Put the record of the last transition on the disk, before the next starts.

        Raises:
            GitError: it cannot be written. The records before it count.
        """
        if self._noted == len(self.tips):
            return
        first, count, objects = self.clone.git.newly_collected()
        parent = self.tips[-2] if len(self.tips) > 1 else self.base
        data = memoryview(Record(self.tip, parent, first, count, objects).render())
        try:
            if self._handle < 0:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
                self._handle = os.open(self.path, flags, 0o666)
            while data:
                written = os.pwrite(self._handle, data, self._length)
                data, self._length = data[written:], self._length + written
            os.fdatasync(self._handle)
            if not self._noted:
                sync_folder(self.path.parent)
        except OSError as error:
            _refused(self.path, error)
        self._noted = len(self.tips)

    def end(self) -> None:
        """Write the pack, and move the branch to the last transition.

        Raises:
            GitError: the repository cannot be written. The next holder of the lock applies the records.
            ConflictError, InTheWayError: the branch moved, or a person's files are in the way. The batch is thrown away.
        """
        try:
            self.clone.git.collected()
            if self.tips:
                update = RefUpdate(self.branch, self.base, self.tip, "runner: transition")
                transaction.move_refs(self.clone, update)
        except (ConflictError, InTheWayError):
            _remove(self.path)
            raise
        finally:
            self.close()
        _remove(self.path)
        fold(self.clone)

    def close(self) -> None:
        """Stop collecting. The next holder of the lock applies the records."""
        self.clone.git.drop()
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def recover(clone: Clone, branch: str, protocol: str) -> None:
    """Apply the records of a batch that was killed. None of its transitions was reported.

    If the branch has moved since, they are thrown away, and their steps are done again.

    Raises:
        GitError: the repository cannot be written; nothing moved.
    """
    git, path = clone.git, clone.dirs.pending(protocol)
    try:
        records = parse(path.read_bytes())
    except FileNotFoundError:
        return
    except OSError as error:
        _refused(path, error)
    if records and git.ref(branch) == records[0].parent:
        for count, objects in _packs(records):
            if count:
                git.unpack(count, objects)
        update = RefUpdate(branch, records[0].parent, records[-1].tip, "runner: transition")
        with contextlib.suppress(ConflictError, InTheWayError):
            transaction.move_refs(clone, update)
    _remove(path)


def fold(clone: Clone) -> None:
    """Make ten packs of batches one, and ten of those one: git searches every pack for an object, and each has a whole state.json.

    git is given the objects: from the names of packs it would read every tree. What they have as a delta stays one; of a few whole
    objects, the next smaller one is like it. If that fails, or another process does it, the packs stay for the next time. After a
    kill an object may be in two packs.
    """
    git, dirs = clone.git, clone.dirs
    if not git.packs:
        return
    folder = git.common_dir / "objects/pack"
    with contextlib.suppress(HeldError, OSError), locks.hold(dirs.lock("packs"), clone.env, what="the packs"):
        known = dirs.packs.read_text("ascii", "replace") if dirs.packs.exists() else ""
        found = [*_PACK.findall(known), *(("0", name) for name in git.packs)]
        packs = [(int(level), name) for level, name in found if (folder / f"{name}.idx").exists()]
        level = 0
        while len(few := [name for one, name in packs if one == level]) >= FEW:
            try:
                indexes = [(folder / f"{name}.idx").read_bytes() for name in few]
                objects = "".join(f"{oid}\n" for one in indexes for oid in listed(one, git.object_format))
            except (OSError, ValueError):
                break
            words = ("--quiet", "--delta-base-offset", "--window=2", "--threads=1")
            one_pack = ("pack.packSizeLimit=0", "pack.indexVersion=2")  # whatever the repository's configuration says
            code, out, _ = git.try_run(
                "pack-objects", *words, str(folder / "pack"), data=objects.encode(), config=one_pack
            )
            if code:
                break
            one = f"pack-{out.decode('ascii').strip()}"
            sync_folder(folder)
            for name in set(few) - {one}:
                for ending in ("idx", "rev", "pack"):  # without the first git does not look for the others
                    (folder / f"{name}.{ending}").unlink(missing_ok=True)
            level += 1
            packs = [pack for pack in packs if pack[1] not in few] + [(level, one)]
        write_loosely(dirs.packs, "".join(f"{one} {name}\n" for one, name in packs).encode())
        git.packs = []


def _packs(records: Sequence[Record]) -> Iterator[tuple[int, bytes]]:
    """Yield how many objects each pack has, and their bytes."""
    at = 0
    while at < len(records):
        end = next((number for number in range(at + 1, len(records)) if records[number].first), len(records))
        yield sum(one.count for one in records[at:end]), b"".join(one.objects for one in records[at:end])
        at = end


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _refused(path, error)


def _refused(path: Path, error: OSError) -> NoReturn:
    what = f"the last transitions of a run cannot be written: {error.strerror}"
    raise GitError(
        what, str(path), "make room on the disk, or make the repository writable, and run the same command again"
    ) from error
