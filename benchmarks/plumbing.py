"""What git itself takes to write the same objects: its own plumbing, held open, and nothing around it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

DURABLE = ("-c", "core.fsync=loose-object,pack,pack-metadata,reference", "-c", "core.fsyncMethod=fsync")
KINDS = ("blob", "tree", "commit")


@dataclass(frozen=True, slots=True)
class Object:
    """An object that a transition wrote."""

    oid: str
    kind: str
    data: bytes


def written(at: Path, old: str, new: str) -> list[Object]:
    """Return the objects that `new` has and `old` has not, in the order in which they are written: the commit last."""
    listed = subprocess.run(
        ["git", "rev-list", "--objects", "--no-object-names", new, f"^{old}"],
        cwd=at,
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    out = subprocess.run(
        ["git", "cat-file", "--batch"], cwd=at, input=listed, check=True, stdout=subprocess.PIPE
    ).stdout
    found, start = [], 0
    while start < len(out):
        end = out.index(b"\n", start)
        oid, kind, size = out[start:end].split(b" ")
        found.append(Object(oid.decode(), kind.decode(), out[end + 1 : end + 1 + int(size)]))
        start = end + 1 + int(size) + 1
    return sorted(found, key=lambda item: KINDS.index(item.kind))


class Plumbing:
    """`hash-object --stdin-paths` for each kind and `update-ref --stdin`, as durable as the library asks for."""

    def __init__(self, at: Path) -> None:
        memory = Path("/dev/shm")
        self._file = (memory if os.access(memory, os.W_OK) else at) / f"bench-{os.getpid()}-{id(self)}"
        self._hash = {
            kind: self._hold(at, "hash-object", "-w", "--no-filters", "-t", kind, "--stdin-paths") for kind in KINDS
        }
        self._refs = self._hold(at, "update-ref", "-m", "bench", "--stdin")

    @staticmethod
    def _hold(at: Path, *args: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["git", *DURABLE, *args], cwd=at, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def write(self, objects: Sequence[Object], ref: str, old: str) -> None:
        """Write the objects and move the ref to the last of them, the commit."""
        for item in objects:
            self._file.write_bytes(item.data)
            told = self._ask(self._hash[item.kind], f"{self._file}\n")
            assert told == item.oid, (told, item)
        commands = f"start\nupdate {ref} {objects[-1].oid} {old}\nprepare\ncommit\n"
        answers = [self._ask(self._refs, commands), self._ask(self._refs, ""), self._ask(self._refs, "")]
        assert answers == ["start: ok", "prepare: ok", "commit: ok"], answers

    @staticmethod
    def _ask(process: subprocess.Popen[bytes], text: str) -> str:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(text.encode())
        process.stdin.flush()
        return process.stdout.readline().decode().rstrip("\n")

    def __enter__(self) -> Plumbing:
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self._hash.values(), self._refs):
            assert process.stdin is not None
            process.stdin.close()
            process.wait()
        self._file.unlink(missing_ok=True)
