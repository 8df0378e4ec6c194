"""What is broken in a repository's own files: refs, loose objects, packs, indexes. Read from the files themselves.

git stops at the first of these, or passes over it; here each is told, and nothing is changed. After a power cut on a disk whose
order nobody asked for, files are found empty, cut short or full of zeros.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path

from runner.folders import matching
from runner.git.process import GitError
from runner.git.repository import Git
from runner.lines import lines_of
from runner.values import dataclass

CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class BrokenRef:
    """A ref that names nothing. `why`: as it is told; `oid`: the object that it names and that is not here, or None."""

    name: str
    path: Path
    why: str
    oid: str | None = None
    is_gone: bool = False  # its reflog alone is left
    is_junk: bool = False  # no ref can have its name: an editor's backup, a copy that some program made
    is_link: bool = False  # it is one to another ref


@dataclass(frozen=True, slots=True)
class BrokenObject:
    """A loose object whose file does not hold it."""

    oid: str
    path: Path
    why: str


@dataclass(frozen=True, slots=True)
class Missing:
    """An object that something refers to and that is not here. `kind`: its type; `name`: where, as `BRANCH:PATH`."""

    oid: str
    kind: str
    name: str


# --- refs --------------------------------------------------------------------------------------------------------------

_NO_NAME = re.compile(r"(?:^|/)\.|\.\.|[\0- \x7f~^:?*\[\\]|@\{|\.lock(?:/|$)|\.$")  # git check-ref-format


def refs(git: Git, folder: Path) -> Iterator[BrokenRef]:
    """Yield the refs of a git directory that name nothing, those too whose reflog alone is left of them."""
    if is_reftable(folder):
        return
    seen = set()
    for path in matching(folder / "refs", "**/*"):
        if path.is_dir() or path.name.endswith(".lock"):
            continue
        name = path.relative_to(folder).as_posix()
        seen.add(name)
        data = _read(path)
        if _NO_NAME.search(name):
            yield BrokenRef(name, path, "no ref can have this name", is_junk=True)
            continue
        if data.startswith(b"ref: refs/"):
            if not _is_here(git, name):
                target = data[5:].decode("utf-8", "replace").strip()
                yield BrokenRef(name, path, f"it leads to {target}, which is not here", is_link=True)
            continue
        value = oid_in(path, git.oid_length)
        if value is None and os.path.lexists(path):  # else it was deleted, or packed, meanwhile
            yield BrokenRef(name, path, "it is empty" if not data.strip(b"\0\n ") else "it is no ref")
        elif value is not None and not _is_here(git, value):
            yield BrokenRef(name, path, f"the object that it names, {value[:12]}, is not here", value)
    packed = packed_refs(folder, git.oid_length)[0]
    for name, value in packed.items():
        if name not in seen and not _is_here(git, value):
            yield BrokenRef(name, folder / name, f"the object that it names, {value[:12]}, is not here", value)
    logs = folder / "logs"
    for path in matching(logs / "refs/heads", "**/*"):
        name = path.relative_to(logs).as_posix()
        if not path.is_file() or name.endswith(".lock"):
            continue
        if _NO_NAME.search(name):
            yield BrokenRef(f"logs/{name}", path, "no ref can have this name", is_junk=True)
        elif name not in seen and name not in packed and not _is_coming(folder / name):
            yield BrokenRef(name, folder / name, "it is gone, and its reflog is still here", is_gone=True)


def _is_coming(path: Path) -> bool:
    """Return whether a ref was made since others were looked at, or a git is making it: the reflog comes first."""
    return path.is_file() or path.with_name(f"{path.name}.lock").exists()


def oid_in(path: Path, oid_length: int) -> str | None:
    """Return the object that a ref's file names, or None where it names none."""
    value = _read(path).strip().decode("ascii", "replace")
    return value if re.fullmatch(rf"[0-9a-f]{{{oid_length}}}", value) and value.strip("0") else None


def packed_refs(folder: Path, oid_length: int) -> tuple[dict[str, str], bool]:
    """Return the refs that `packed-refs` holds, and whether every line of it can be read."""
    data = _read(folder / "packed-refs")
    found: dict[str, str] = {}
    if not data:
        return found, not (folder / "packed-refs").exists()  # git writes none that is empty
    whole = data.endswith(b"\n")
    lines = data.split(b"\n")
    for line in lines[:-1] if whole else lines:
        told = re.fullmatch(rb"([0-9a-f]{%d}) (refs/[^\0 ]+)" % oid_length, line)
        name = told[2].decode("utf-8", "surrogateescape") if told else ""
        if told and (whole or line is not lines[-1]) and not _NO_NAME.search(name):
            found[name] = told[1].decode()
        elif not re.fullmatch(rb"#.*|\^[0-9a-f]{%d}" % oid_length, line):
            whole = False
    return found, whole


def broken_head(git_dir: Path) -> bool:
    """Return whether the HEAD of a git directory says neither a branch nor a commit."""
    data = _read(git_dir / "HEAD")
    return not re.fullmatch(rb"(ref: refs/[^\0\n]+|[0-9a-f]{40}|[0-9a-f]{64})\n?", data) and git_dir.is_dir()


def reflog(folder: Path, name: str) -> list[tuple[str, str]]:
    """Return (oid, message) of a ref's reflog, the newest first; lines that cannot be read are left out."""
    found = []
    for line in _read(folder / "logs" / name).split(b"\n"):
        told = re.fullmatch(rb"(?:[0-9a-f]{40}|[0-9a-f]{64}) ([0-9a-f]{40,64}) [^\0\t]*(?:\t([^\0]*))?", line)
        if told:
            found.append((told[1].decode(), (told[2] or b"").decode("utf-8", "replace")))
    return found[::-1]


def is_reftable(folder: Path) -> bool:
    """Return whether the refs are in tables, and not in files."""
    return (folder / "reftable").is_dir()


def shallow(folder: Path, oid_length: int) -> bool:
    """Return whether the note of where the history is cut off says that, where there is one."""
    return re.fullmatch(rb"(?:[0-9a-f]{%d}\n)*" % oid_length, _read(folder / "shallow")) is not None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _is_here(git: Git, oid: str) -> bool:
    """Return whether there is such an object; one whose file is broken is."""
    try:
        return git.ref(oid) is not None
    except GitError:
        return True


# --- objects -----------------------------------------------------------------------------------------------------------


def loose(git: Git) -> Iterator[BrokenObject]:
    """Yield the loose objects whose files do not hold them; every one is read."""
    objects = git.common_dir / "objects"
    for folder in matching(objects, "[0-9a-f][0-9a-f]"):
        for path in matching(folder, "*"):
            oid = folder.name + path.name
            if len(oid) == git.oid_length and (why := _wrong(path, oid, git.object_format)):
                yield BrokenObject(oid, path, why)


def _wrong(path: Path, oid: str, algorithm: str) -> str:
    try:
        if path.stat().st_size == 0:
            return "it is empty"
        made, digest = zlib.decompressobj(), hashlib.new(algorithm)
        with path.open("rb") as file:
            while data := file.read(CHUNK):
                digest.update(made.decompress(data))
    except FileNotFoundError:  # packed meanwhile
        return ""
    except (OSError, zlib.error) as error:
        return f"it cannot be read: {error}"
    if not made.eof:
        return "it is cut short"
    return "" if digest.hexdigest() == oid else "it holds something else"


def packs(git: Git) -> Iterator[tuple[Path, str]]:
    """Yield (pack, why) of packs that are not what their index says. Their two ends are looked at, not what is between."""
    width = git.oid_length // 2
    for index in matching(git.common_dir / "objects/pack", "pack-*.idx"):
        pack = index.with_suffix(".pack")
        start, told, data = _part(index, 0, 4), _part(index, -2 * width, 2 * width), _part(pack, -width, width)
        is_gone = not pack.exists()
        if not index.exists():
            continue  # a git packs anew, and takes the index away first
        if is_gone:
            yield pack, "it is gone, and its index is still here"
        elif len(told) < 2 * width or start != b"\xfftOc":
            yield pack, "its index cannot be read"
        elif data != told[:width]:
            yield pack, "it is cut short, or ends otherwise than its index says"


def _part(path: Path, start: int, count: int) -> bytes:
    """Return bytes of a file, as many as are there; `start` counts from the end where it is negative."""
    try:
        with path.open("rb") as file:
            file.seek(start if start >= 0 else max(file.seek(0, 2) + start, 0))
            return file.read(count)
    except OSError:
        return b""


_LACKS = re.compile(r"missing (\w+) ([0-9a-f]{40,64})(?: \((.*)\))?")
_REF = re.compile(r"error: (\S+): invalid sha1 pointer ([0-9a-f]{40,64})")


def missing(git: Git) -> list[Missing]:
    """Return what refs, reflogs and indexes refer to and is not here. The whole repository is gone through."""
    argv = ("fsck", "--connectivity-only", "--name-objects", "--no-dangling", "--no-progress")
    _, out, err = git.try_run(*argv)
    found: dict[str, Missing] = {}
    for line in [*lines_of(out.decode("utf-8", "replace")), *lines_of(err)]:
        if told := _LACKS.fullmatch(line):
            found[told[2]] = Missing(told[2], told[1], told[3] or "")
        elif (told := _REF.fullmatch(line)) and told[2] != git.zero:
            found.setdefault(told[2], Missing(told[2], "commit", told[1]))
    return list(found.values())


def lacks(git: Git, tips: Collection[str], base: str | None) -> bool:
    """Return whether an object is missing that these commits have and `base` does not: what work here has added."""
    asked = "".join(f"{tip}\n" for tip in (*tips, *([f"^{base}"] if base else [])))
    return git.try_run("rev-list", "--objects", "--quiet", "--stdin", data=asked.encode())[0] != 0


def index(git: Git, git_dir: Path) -> str:
    """Return why a work tree's index cannot be read, or nothing. One that is whole and of a newer git is not broken."""
    if not (git_dir / "index").exists():
        return ""
    with contextlib.suppress(GitError):
        code, _, err = git.try_run("ls-files", "--error-unmatch", "--", "", git_dir=git_dir)
        lines = [line for line in lines_of(err) if "index" in line and code == 128]
        if (
            lines
            and re.search("index uses .* extension|bad index version", lines[0])
            and is_sealed(git, git_dir / "index")
        ):
            return ""
        return lines[0].removeprefix("error: ").removeprefix("fatal: ") if lines else ""
    return ""


def is_sealed(git: Git, path: Path) -> bool:
    """Return whether a file ends with the digest of what comes before."""
    data, width = _read(path), git.oid_length // 2
    return hashlib.new(git.object_format, data[:-width]).digest() == data[-width:]
