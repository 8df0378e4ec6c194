"""What git's objects are here: values, taken apart from raw bytes and put together again. No git is started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runner.git.process import GitError

TREE, BLOB, LINK, EXECUTABLE, SUBMODULE = "40000", "100644", "120000", "100755", "160000"


@dataclass(frozen=True, slots=True)
class Ident:
    """Who made a commit. `time`: seconds since the epoch; `offset`: minutes east of UTC."""

    name: str
    email: str
    time: int
    offset: int = 0

    def line(self) -> bytes:
        """Return it as a commit object has it."""
        sign, minutes = ("-" if self.offset < 0 else "+"), abs(self.offset)
        return f"{self.name} <{self.email}> {self.time} {sign}{minutes // 60:02d}{minutes % 60:02d}".encode()


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit object, taken apart."""

    oid: str
    tree: str
    parents: tuple[str, ...]
    author: bytes
    committer: bytes
    message: bytes
    plain: bool = True  # no header but tree, parents, author, committer and a signature

    @property
    def emails(self) -> tuple[str, str]:
        """The author's and the committer's address, as they stand."""
        found = [who.rpartition(b"<")[2].partition(b">")[0] for who in (self.author, self.committer)]
        return found[0].decode("utf-8", "replace"), found[1].decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """One line of a tree. `mode` without leading zero."""

    mode: str
    oid: str


Tree = dict[str, TreeEntry]


def parse_commit(oid: str, data: bytes) -> Commit:
    """Return a raw commit object, taken apart."""
    # As git reads it: the tree first, then the parents, and neither anywhere else.
    head, _, message = data.partition(b"\n\n")
    pairs = [(key, value) for key, _, value in (line.partition(b" ") for line in head.split(b"\n")) if key]
    end = next((at for at, (key, _) in enumerate(pairs) if at and key != b"parent"), len(pairs))
    tree, *parents = (value.decode("ascii", "replace") for _, value in pairs[:end])
    rest = dict(pairs[end:])
    keys = [key for key, _ in pairs[end:] if key not in (b"gpgsig", b"gpgsig-sha256")]
    plain = pairs[0][0] == b"tree" and keys == [b"author", b"committer"]
    return Commit(
        oid, tree, tuple(parents), rest.get(b"author", b""), rest.get(b"committer", b""), message,
        plain=plain,
    )  # fmt: skip


def split_signature(data: bytes) -> tuple[bytes, bytes]:
    """Return (what was signed, the armoured signature) of a raw commit object; the signature is empty where there is none."""
    head, blank, message = data.partition(b"\n\n")
    kept: list[bytes] = []
    found: list[bytes] = []
    inside = False
    for line in head.split(b"\n"):
        if line.startswith(b" "):
            (found if inside else kept).append(line[1:] if inside else line)
            continue
        key, _, value = line.partition(b" ")
        inside = key in (b"gpgsig", b"gpgsig-sha256")
        if inside:
            found.append(value)
        else:
            kept.append(line)
    return b"\n".join(kept) + blank + message, b"\n".join(found) + b"\n" if found else b""


def parse_tree(data: bytes, oid_length: int) -> Tree:
    """Return the entries of a raw tree object; `oid_length`: of the repository's ids in hex.

    Raises:
        GitError: it names something twice.
    """
    tree: Tree = {}
    at, width = 0, oid_length // 2
    while at < len(data):
        end = data.index(b"\0", at)
        mode, raw = data[at:end].split(b" ", 1)
        name = raw.decode("utf-8", "surrogateescape")
        if name in tree:  # git would take the one or the other
            raise GitError(f"a tree names {name!r} twice", "git", "run `git fsck`")
        tree[name] = TreeEntry(mode.decode(), data[end + 1 : end + 1 + width].hex())
        at = end + 1 + width
    return tree


def tree_bytes(tree: Mapping[str, TreeEntry]) -> bytes:
    """Return a raw tree object, its entries in git's order."""

    def key(item: tuple[str, TreeEntry]) -> bytes:
        return item[0].encode("utf-8", "surrogateescape") + (b"/" if item[1].mode == TREE else b"")

    return b"".join(
        f"{entry.mode} {name}\0".encode("utf-8", "surrogateescape") + bytes.fromhex(entry.oid)
        for name, entry in sorted(tree.items(), key=key)
    )


def commit_bytes(tree: str, parents: Sequence[str], author: Ident, committer: Ident, message: bytes) -> bytes:
    """Return a raw commit object."""
    lines = [b"tree " + tree.encode(), *(b"parent " + parent.encode() for parent in parents)]
    lines += [b"author " + author.line(), b"committer " + committer.line(), b"", message]
    return b"\n".join(lines)
