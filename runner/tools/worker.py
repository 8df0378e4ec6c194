"""The process that touches the workspace's files for the model's tools: started by `files`.

    python -I -S -B worker.py FOLDER NAME...

Standard library alone, Python 3.11. `files` imports it for the code that both searches share. FOLDER is the workspace, each NAME
another name of it. It prints {"ready": true}; then it answers each {"call": name, "arguments": {…}} on stdin by {"result": …}, by
{"error": …} for the model, or by {"crash": traceback} for us.

No path leads out of FOLDER, whatever changes it meanwhile: paths are walked name by name from an open folder. Reading follows links
that stay inside, writing follows none. The git folder is out of reach by every name that some system takes for `.git`; below
`.protocols` only `memory` is written.
"""

from __future__ import annotations

import base64
import bisect
import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import stat
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

MOST_READ = 10_000_000  # bytes of a file
MOST_SEARCHED = 5_000_000  # bytes of a file that is searched; a larger one is named
MOST_SHOWN = 30_000  # characters of an answer
MOST_OF_LINE = 2_000
MOST_OF_PICTURE = 500_000  # bytes
_PICTURES = {
    "image/png": rb"\x89PNG\r\n\x1a\n",
    "image/jpeg": rb"\xff\xd8\xff",
    "image/gif": rb"GIF8[79]a",
    "image/webp": rb"RIFF.{4}WEBP",
}
MOST_OF_MATCH = 300
MOST_PLACES = 10  # that an edit shows
AROUND = 4  # lines of the start and of the end of a long part that was changed
MOST_LISTED = 1_000
MOST_DEEP = 64
HOPS = 40
# Looked through only where they are asked for by name: what tools and package managers put there.
SKIPPED = frozenset(
    (
        *("node_modules", "__pycache__", ".venv", ".tox", ".nox"),
        *(".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis"),
    )
)
# HFS+ leaves these out of a name (git's utf8.c, next_hfs_char).
_LEFT_OUT = dict.fromkeys([*range(0x200C, 0x2010), *range(0x202A, 0x202F), *range(0x206A, 0x2070), 0xFEFF])
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class ToolRefusedError(Exception):
    """The call cannot be done; the model gets the message."""


def _said(error: OSError, path: str) -> ToolRefusedError:
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return ToolRefusedError(f"{path}: a part of it is no folder, or became a link meanwhile")
    return ToolRefusedError(f"{path}: {error.strerror}")


def _plain(name: str) -> set[str]:
    """Return what a name is taken for by git and by the file systems of Linux, macOS and Windows."""
    parts = re.split(r"[\\/]", name.translate(_LEFT_OUT))
    return {part.partition(":")[0].rstrip(" .").casefold() for part in parts}


# --- places ------------------------------------------------------------------------------------------------------------


class Place:
    """A name in an open folder; `at` is its path in the workspace. `mode` is None where nothing is there.

    `rest`: names of folders that are missing on the way to it, the folder open is the last one that is there. `itself`:
    the open folder is the place.
    """

    def __init__(
        self, folder: int, at: list[str], mode: int | None, rest: list[str] | None = None, itself: bool = False
    ) -> None:
        self.folder, self.at, self.mode, self.rest, self.itself = folder, at, mode, rest or [], itself

    @property
    def name(self) -> str:
        return self.at[-1] if self.at else "."

    @property
    def path(self) -> str:
        return "/".join(self.at) or "."


class Root:
    """The workspace, held open."""

    def __init__(self, folder: str, names: list[str]) -> None:
        self.fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.names = sorted({folder, *names}, key=len, reverse=True)

    def parts(self, path: str) -> list[str]:
        if not path or "\0" in path:
            raise ToolRefusedError("a path is missing, or holds a NUL")
        for name in self.names:
            if path == name or path.startswith(name + "/"):
                return [part for part in path[len(name) :].split("/") if part not in ("", ".")]
        if path.startswith(("/", "~")):
            raise ToolRefusedError(f"{path} is outside the workspace; give a path relative to it")
        return [part for part in path.split("/") if part not in ("", ".")]

    @contextlib.contextmanager
    def walk(self, path: str, *, writing: bool, make: bool = False) -> Iterator[Place]:
        """Give the place that `path` names; `make` folders that are missing on the way."""
        todo, stack, at, hops = deque(self.parts(path)), [os.dup(self.fd)], list[str](), 0
        try:
            while todo:
                part = todo.popleft()
                if part == "..":
                    if not at:
                        raise ToolRefusedError(f"{path} leads out of the workspace")
                    os.close(stack.pop())
                    at.pop()
                    continue
                self._refuse_names([*at, part], path)
                if len(at) + len(todo) > MOST_DEEP:
                    raise ToolRefusedError(f"{path[:100]}… is more than {MOST_DEEP} folders deep")
                try:
                    mode = os.stat(part, dir_fd=stack[-1], follow_symlinks=False).st_mode
                except FileNotFoundError:
                    if make and todo:
                        with contextlib.suppress(FileExistsError):
                            os.mkdir(part, 0o755, dir_fd=stack[-1])
                        mode = stat.S_IFDIR
                    else:
                        whole = [*at, part, *todo]
                        if ".." in whole:
                            raise ToolRefusedError(f"{path}: {'/'.join([*at, part])} does not exist") from None
                        for number in range(len(at) + 1, len(whole)):
                            self._refuse_names(whole[: number + 1], path)
                        if writing:
                            self._refuse_record(whole, path)
                        yield Place(stack[-1], whole, None, [part, *todo][:-1])
                        return
                if stat.S_ISLNK(mode):
                    target = os.readlink(part, dir_fd=stack[-1])
                    if writing:
                        raise ToolRefusedError(
                            f"{'/'.join([*at, part])} is a link to {target}; nothing is written through links"
                        )
                    if (hops := hops + 1) > HOPS:
                        raise ToolRefusedError(f"{path}: too many links")
                    todo.extendleft(reversed(self._target(target, path)))
                    if target.startswith("/"):
                        while len(stack) > 1:
                            os.close(stack.pop())
                        at.clear()
                    continue
                if not todo:
                    at.append(part)
                    if writing:
                        self._refuse_record(at, path)
                    yield Place(stack[-1], at, mode)
                    return
                stack.append(os.open(part, _FOLDER, dir_fd=stack[-1]))
                at.append(part)
            if writing:
                raise ToolRefusedError(f"{path} is a folder")
            yield Place(stack[-1], at, stat.S_IFDIR, itself=True)
        finally:
            for fd in stack:
                os.close(fd)

    def _target(self, target: str, path: str) -> list[str]:
        try:
            return self.parts(target if target.startswith("/") else "./" + target)
        except ToolRefusedError:
            raise ToolRefusedError(f"{path} is a link that leads out of the workspace") from None

    @staticmethod
    def _refuse_names(at: list[str], path: str) -> None:
        if _plain(at[-1]) & {".git", "git~1"}:
            raise ToolRefusedError(
                f"{path}: git's own files are not for file tools; the tool `git` shows status, diff and history"
            )

    @staticmethod
    def _refuse_record(at: list[str], path: str) -> None:
        if _plain(at[0]) & {".protocols", "protoc~1"} and (at[:2] != [".protocols", "memory"] or len(at) < 3):
            raise ToolRefusedError(f"{path}: below .protocols only .protocols/memory/ may be written")


@contextlib.contextmanager
def _opened(place: Place) -> Iterator[int]:
    """Give the folder that the place is, open."""
    fd = os.open("." if place.itself else place.name, _FOLDER, dir_fd=place.folder)
    try:
        yield fd
    finally:
        os.close(fd)


def _missing(root: Root, place: Place) -> ToolRefusedError:
    import difflib

    first = place.rest[0] if place.rest else place.name
    near = [name for name in os.listdir(place.folder) if not _plain(name) & {".git"}]
    before = place.at[: len(place.at) - len(place.rest) - 1]
    found = ["/".join([*before, name]) for name in difflib.get_close_matches(first, near, 3)]
    for number, (path, _, is_folder) in enumerate(_below(root.fd, [])):
        if number > 5_000 or len(found) >= 5:
            break
        if not is_folder and path.rpartition("/")[2] == place.name and path not in found:
            found.append(path)
    hint = f"; there is {', '.join(found)}" if found else ""
    return ToolRefusedError(f"{place.path} does not exist{hint}")


def _read(place: Place, root: Root, most: int = MOST_READ) -> bytes:
    if place.mode is None:
        raise _missing(root, place)
    if stat.S_ISDIR(place.mode):
        raise ToolRefusedError(f"{place.path} is a folder; list_files shows it")
    fd = os.open(place.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place.folder)
    with open(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise ToolRefusedError(f"{place.path} is no plain file")
        if found.st_size > most:
            raise ToolRefusedError(
                f"{place.path} holds {found.st_size:,} bytes, more than {most:,}; search_text finds places in it,"
                " and `sed -n` shows a part"
            )
        data = file.read(most + 1)
    if len(data) > most:
        raise ToolRefusedError(f"{place.path} grows beyond {most:,} bytes")
    return data


def _write(place: Place, data: bytes, mode: int | None) -> None:
    """Replace a file by a whole new one; never through a link."""
    if place.mode is not None and not stat.S_ISREG(place.mode):
        raise ToolRefusedError(f"{place.path} is {'a folder' if stat.S_ISDIR(place.mode) else 'no plain file'}")
    kept = stat.S_IMODE(place.mode) & 0o777 if place.mode is not None else 0o644
    temporary = f".runner-{os.urandom(8).hex()}"
    fd = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=place.folder
    )
    try:
        with open(fd, "wb") as file:
            file.write(data)
            os.fchmod(fd, mode if mode is not None else kept)
        os.replace(temporary, place.name, src_dir_fd=place.folder, dst_dir_fd=place.folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=place.folder)
        raise


# --- text --------------------------------------------------------------------------------------------------------------


class Text:
    """A file's text, and its form: byte order mark, ends of lines."""

    def __init__(self, data: bytes, path: str) -> None:
        self.mark = data.startswith(b"\xef\xbb\xbf")
        try:
            self.text = data[3 * self.mark :].decode()
        except UnicodeDecodeError as error:
            raise ToolRefusedError(
                f"{path} is not UTF-8 (byte {error.start}); it is changed by a command, not by this tool"
            ) from None
        self.crlf = _is_crlf(self.text)

    def fit(self, text: str) -> str:
        """Return text with this file's ends of lines."""
        return text.replace("\n", "\r\n") if self.crlf and "\r" not in text else text

    def bytes(self, text: str) -> bytes:
        return b"\xef\xbb\xbf" * self.mark + text.encode()


def _is_crlf(text: str) -> bool:
    return "\r\n" in text and text.count("\n") == text.count("\r\n")


def _refuse_binary(data: bytes, path: str) -> None:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ToolRefusedError(f"{path} is UTF-16, {len(data):,} bytes; convert it by a command")
    if b"\0" in data:
        raise ToolRefusedError(f"{path} is a binary file, {len(data):,} bytes")


def _picture(kind: str, data: bytes) -> dict[str, Any]:
    """Return a picture for a model that can see, and a line for one that cannot."""
    text = f"a picture, {kind}, {len(data):,} bytes"
    if len(data) > MOST_OF_PICTURE:
        return {"text": f"{text}, which is too big to be shown", "note": ""}
    return {"text": text, "note": "", "image": f"{kind};base64,{base64.b64encode(data).decode()}"}


def _lines(text: str) -> list[str]:
    """Return the lines with their ends; a line ends with a line feed and nothing else."""
    found = text.split("\n")
    return [line + "\n" for line in found[:-1]] + ([found[-1]] if found[-1] else [])


def _bounded_line(line: str) -> str:
    line = line.rstrip("\n")
    more = len(line) - MOST_OF_LINE
    return line[:MOST_OF_LINE] + (f"[… {more:,} more characters]" if more > 0 else "")


def _numbered(number: int, line: str) -> str:
    return f"{number}\t{_bounded_line(line)}"


def _lines_of(text: str, places: Iterable[int]) -> Iterator[int]:
    """Yield the number of the line of each place, in their order: the first place in the text comes first."""
    line, last = 1, 0
    for at in places:
        line, last = line + text.count("\n", last, at), at
        yield line


def _positions(text: str, part: str) -> list[int]:
    found, at = [], text.find(part)
    while at >= 0:
        found.append(at)
        at = text.find(part, at + len(part))
    return found


def _some(numbers: list[int]) -> str:
    more = f" and {len(numbers) - 8} more" if len(numbers) > 8 else ""
    return ", ".join(map(str, numbers[:8])) + more


def _nearest(text: str, wanted: str) -> str:
    """Say what of the text is most like `wanted`."""
    import difflib

    lines, asked = text.splitlines(), [line for line in wanted.splitlines() if line.strip()]
    if not asked or not lines:
        return ""
    bare = [line.strip() for line in asked]
    have = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()][:10_000]
    for index in range(len(have) - len(bare) + 1):
        if [line for _, line in have[index : index + len(bare)]] == bare:
            at = have[index][0]
            shown = "\n".join(
                _numbered(n, lines[n - 1]) for n in range(at, min(at + len(asked), at + 8, len(lines) + 1))
            )
            return f"; but for spaces or empty lines it is at line {at}:\n{shown}"
    first = max(bare, key=len)
    near = difflib.get_close_matches(first[:200], {line[:200] for _, line in have}, 3, 0.5)
    found = [number for line in near for number, other in have if other[:200] == line][:3]
    if not found:
        return ""
    return "; the nearest lines are\n" + "\n".join(_numbered(n, lines[n - 1]) for n in sorted(set(found)))


# --- looking through folders -------------------------------------------------------------------------------------------


def _below(fd: int, at: list[str], depth: int = MOST_DEEP) -> Iterator[tuple[str, int, bool]]:
    """Yield path, the folder that holds it, open, and whether it is a folder; in order of names, links not followed."""
    with os.scandir(fd) as entries:
        names = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    for name, is_folder in names:
        if _plain(name) & {".git", "git~1"}:
            continue
        yield "/".join([*at, name]), fd, is_folder
        if is_folder and depth > 1 and name not in SKIPPED:
            try:
                inner = os.open(name, _FOLDER, dir_fd=fd)
            except OSError:
                continue  # not to be opened, or something else meanwhile
            try:
                yield from _below(inner, [*at, name], depth - 1)
            finally:
                os.close(inner)


def matcher(glob: str | None) -> Callable[[str], bool]:
    """Return whether a path fits: `*` and `?` within a name, `**` over folders; without a `/`, the name alone counts."""
    if not glob:
        return lambda path: True
    names, pattern = glob.removeprefix("./").strip("/").split("/"), ""
    for name in names[:-1]:
        pattern += "(?:.*/)?" if name == "**" else _of_name(name) + "/"
    pattern += ".*" if names[-1] == "**" else _of_name(names[-1])
    try:
        fits = re.compile(pattern, re.DOTALL).fullmatch
    except re.error as error:
        raise ToolRefusedError(f"the glob {glob} cannot be read: {error}") from None
    if "/" in glob:
        return lambda path: fits(path) is not None
    return lambda path: fits(path.rpartition("/")[2]) is not None


def _of_name(name: str) -> str:
    pattern = ""
    for part in re.split(r"(\*+|\?|\[!?\]?[^\]/]*\]|\{[^{}/]*\})", name):
        if part.startswith("*"):
            pattern += "[^/]*"
        elif part == "?":
            pattern += "[^/]"
        elif part.startswith("{") and part.endswith("}"):
            pattern += "(?:" + "|".join(_of_name(choice) for choice in part[1:-1].split(",")) + ")"
        elif part.startswith("[") and part.endswith("]"):
            inside = part[1:-1].replace("\\", r"\\").replace("[", r"\[")
            pattern += "[" + ("^" + inside[1:] if inside.startswith("!") else inside) + "]"
        else:
            pattern += re.escape(part)
    return pattern


# --- the calls ---------------------------------------------------------------------------------------------------------


def read_file(root: Root, path: str, start_line: int | None = None, end_line: int | None = None) -> dict[str, Any]:
    with root.walk(path, writing=False) as place:
        data, shown = _read(place, root), place.path
    kind = next((kind for kind, start in _PICTURES.items() if re.match(start, data, re.DOTALL)), None)
    if kind is not None:
        return _picture(kind, data)
    _refuse_binary(data, shown)
    notes = []
    text = data.removeprefix(b"\xef\xbb\xbf").decode(errors="replace")
    if text.encode() != data.removeprefix(b"\xef\xbb\xbf"):
        notes.append("it is not UTF-8: other bytes are shown as �")
    if _is_crlf(text):
        text = text.replace("\r\n", "\n")
        notes.append("lines end with CRLF, which edits keep")
    lines = _lines(text)
    first, last = start_line or 1, min(end_line or len(lines), len(lines))
    if first > len(lines) and not (first == 1 and not lines):
        raise ToolRefusedError(f"{shown} has {len(lines)} lines; there is no line {first}")
    if end_line is not None and end_line < first:
        raise ToolRefusedError(f"the range {first}-{end_line} is empty")
    if lines and not lines[-1].endswith("\n"):
        notes.append("there is no line feed at its end")
    out, size = list[str](), 0
    for number in range(first, last + 1):
        line = _bounded_line(lines[number - 1])
        if (size := size + len(line) + 1) > MOST_SHOWN and out:
            notes.append(f"lines {first}-{number - 1} of {len(lines)}; continue with start_line={number}")
            break
        out.append(line)
    else:
        if (first, last) != (1, len(lines)):
            notes.append(f"lines {first}-{last} of {len(lines)}")
    return {"text": "\n".join(out), "note": "; ".join(notes)}


def write_file(root: Root, path: str, content: str) -> dict[str, Any]:
    with root.walk(path, writing=True, make=False) as place:
        data = content.encode()
        if place.mode is not None and stat.S_ISREG(place.mode):
            with contextlib.suppress(ToolRefusedError):  # a file that is not text, or too big, is replaced all the same
                data = Text(_read(place, root), path).fit(content).encode()
    with root.walk(path, writing=True, make=True) as place:
        _write(place, data, None)
        return {"bytes": len(data), "replaced": place.mode is not None}


def edit_file(root: Root, path: str, edits: list[dict[str, Any]]) -> dict[str, Any]:
    with root.walk(path, writing=True) as place:
        data = _read(place, root)
        _refuse_binary(data, place.path)
        held = Text(data, place.path)
        text, spans = held.text, list[tuple[int, int]]()
        for number, edit in enumerate(edits, 1):
            which = f"edit {number} of {len(edits)}: " if len(edits) > 1 else ""
            try:
                text, spans = _edited(held, text, edit, root, place.path, spans)
            except ToolRefusedError as error:
                raise ToolRefusedError(f"{which}{error}" + ("; no edit was made" if len(edits) > 1 else "")) from None
        _write(place, held.bytes(text), None)
        return {"changed": _changed(text, spans)}


def _edited(
    held: Text, text: str, edit: dict[str, Any], root: Root, path: str, spans: list[tuple[int, int]]
) -> tuple[str, list[tuple[int, int]]]:
    """Return the text after an edit, and where it was changed by this edit and those before it (`spans`): start and end of parts
    that do not overlap, in their order."""
    old, new = held.fit(edit["old"]), held.fit(edit["new"])
    if not old:
        raise ToolRefusedError("`old` is empty; write_file makes or replaces a whole file")
    if (
        old not in text and root.names[-1] in old
    ):  # the file may hold the workspace's real name, which is shown as this one
        for name in root.names[:-1]:
            if (real := old.replace(root.names[-1], name)) in text:
                old, new = real, new.replace(root.names[-1], name)
                break
    if old == new:
        raise ToolRefusedError("`old` and `new` are the same")
    found = _positions(text, old)
    if not found:
        where = _nearest(text.replace("\r\n", "\n"), old.replace("\r\n", "\n"))
        raise ToolRefusedError(f"`old` is not in {path} (spaces count){where}")
    if len(found) > 1 and not edit.get("all"):
        lines = _some([*_lines_of(text, found)])
        raise ToolRefusedError(
            f"`old` is in {path} {len(found)} times, at lines {lines}; give more of the text around it, or `all`"
        )
    more = len(new) - len(old)
    made = {(at + more * number, at + more * number + len(new)) for number, at in enumerate(found)}

    def moved(at: int) -> int:
        before = bisect.bisect_left(found, at)
        is_replaced = before > 0 and at < found[before - 1] + len(old)
        return found[before - 1] + more * (before - 1) if is_replaced else at + more * before

    made |= {(moved(start), moved(end)) for start, end in spans}
    apart = list[tuple[int, int]]()
    for start, end in sorted(made):
        if apart and start < apart[-1][1]:
            apart[-1] = (apart[-1][0], max(apart[-1][1], end))
        else:
            apart.append((start, end))
    return text.replace(old, new), apart


def _changed(text: str, spans: list[tuple[int, int]]) -> str:
    """Return the changed lines with their numbers and one line around them; of many, and of a long part, some are left out."""
    lines, ranges = text.removesuffix("\n").split("\n"), list[list[int]]()
    ends = _lines_of(text, (at for start, end in spans for at in (start, max(start, end - 1))))
    for first, last in zip(ends, ends, strict=True):
        first, last = max(1, first - 1), min(last + 1, len(lines))
        if ranges and first <= ranges[-1][1] + 1:
            ranges[-1][1] = max(last, ranges[-1][1])
        else:
            ranges.append([first, last])
    out = list[str]()
    for first, last in ranges[:MOST_PLACES]:
        numbers = [*range(first, last + 1)]
        shown = numbers if len(numbers) <= 2 * AROUND else [*numbers[:AROUND], 0, *numbers[-AROUND:]]
        out += [f"{number}\t{lines[number - 1].rstrip()[:MOST_OF_MATCH]}" if number else "…" for number in shown]
        out.append("")
    more = [f"and {len(ranges) - MOST_PLACES} more places"] if len(ranges) > MOST_PLACES else []
    return "\n".join([*out[:-1], *more])


def apply_patch(root: Root, files: list[dict[str, Any]]) -> dict[str, Any]:
    """Change all the files, or none."""
    prepared: list[tuple[str, bytes | None, bytes | None, int | None, str]] = []
    lines: dict[str, list[int]] = {}
    for file in files:
        with root.walk(file["path"], writing=True) as place:
            kind, before = file["kind"], None
            if kind == "create":
                if place.mode is not None:
                    raise ToolRefusedError(f"{place.path} is there already; nothing was changed")
                after: bytes | None = "".join(file["hunks"][0]["new"]).encode() if file["hunks"] else b""
            else:
                before = _read(place, root)
                _refuse_binary(before, place.path)
                held = Text(before, place.path)
                text, lines[place.path] = _patched(held, file["hunks"], place.path)
                after = held.bytes(text)
                if kind == "delete":
                    if after and file["hunks"]:
                        raise ToolRefusedError(f"{place.path} holds more than the patch removes; nothing was changed")
                    after = None
            prepared.append((place.path, before, after, file.get("mode"), kind))
    done: list[tuple[str, bytes | None, int | None]] = []
    try:
        for path, before, after, mode, _ in prepared:
            with root.walk(path, writing=True, make=True) as place:
                done.append((path, before, stat.S_IMODE(place.mode) if place.mode is not None else None))
                if after is None:
                    os.unlink(place.name, dir_fd=place.folder)
                else:
                    _write(place, after, mode)
    except (OSError, ToolRefusedError) as error:
        why = error if isinstance(error, ToolRefusedError) else _said(error, path)
        for path, before, kept in reversed(done):
            with contextlib.suppress(OSError, ToolRefusedError), root.walk(path, writing=True, make=True) as place:
                if before is not None:
                    _write(place, before, kept)
                elif place.mode is not None:
                    os.unlink(place.name, dir_fd=place.folder)
        raise ToolRefusedError(f"{why}; nothing was changed") from None
    found = {path: f" at {_some(lines[path])}" if kind == "change" else "" for path, *_, kind in prepared}
    return {"files": [{"path": path, "change": f"{kind}d{found[path]}"} for path, *_, kind in prepared]}


def _patched(held: Text, hunks: list[dict[str, Any]], path: str) -> tuple[str, list[int]]:
    """Return the text with the hunks, each found by its text, and the lines where they are then."""
    lines, out, cursor, places = _lines(held.text), list[str](), 0, list[int]()
    open_end = bool(lines) and not lines[-1].endswith("\n")
    for number, hunk in enumerate(hunks, 1):
        old, new = [held.fit(line) for line in hunk["old"]], [held.fit(line) for line in hunk["new"]]
        which = f"{path}, hunk {number} (line {hunk['line']} of the patch)"
        start, first = hunk["start"], cursor
        if hunk.get("after"):
            named = [i for i in range(cursor, len(lines)) if lines[i].strip() == hunk["after"].strip()]
            first = named[0] + 1 if named else cursor
        if not old and start is None:
            start = first if first > cursor else len(lines)
        expected = first if start is None else start - 1 if old else start
        if open_end and old and lines[-1] + "\n" == old[-1] and new and new[-1].endswith("\n"):
            old, new = (
                [*old[:-1], lines[-1]],
                [*new[:-1], new[-1][:-1]],
            )  # the patch does not say that there is no line feed
        at = expected
        if at < cursor or lines[at : at + len(old)] != old or at > len(lines) or (start is None and first == cursor):
            found = (
                [i for i in range(first, len(lines) - len(old) + 1) if lines[i : i + len(old)] == old] if old else []
            )
            if not found or (len(found) > 1 and first == cursor):
                raise ToolRefusedError(f"{which}: {_misfit(lines, old, expected, found, held)}; nothing was changed")
            at = found[0]
        out += [*lines[cursor:at], *new]
        places.append(len(out) - len(new) + 1)
        cursor = at + len(old)
    out += lines[cursor:]
    for index, line in enumerate(out[:-1]):
        if not line.endswith("\n"):
            raise ToolRefusedError(f"{path}: line {index + 1} would have no line feed at its end; nothing was changed")
    return "".join(out), places


def _misfit(lines: list[str], old: list[str], expected: int, found: list[int], held: Text) -> str:
    if found:
        return f"the lines that it removes or keeps are at {_some([at + 1 for at in found])}; give more of the lines around them"
    for offset, line in enumerate(old):
        have = lines[expected + offset] if 0 <= expected + offset < len(lines) else None
        if have != line:
            told = "the file ends before it" if have is None else f"it has {have[:200]!r}"
            near = _nearest(held.text.replace("\r\n", "\n"), "".join(old).replace("\r\n", "\n"))
            return f"line {expected + offset + 1} of the file should be {line[:200]!r}, but {told}{near}"
    return f"the file has {len(lines)} lines, and it starts at {expected + 1}"


def list_files(
    root: Root, path: str | None = None, glob: str | None = None, depth: int | None = None
) -> dict[str, Any]:
    deepest = min(depth or MOST_DEEP, MOST_DEEP)
    fits, found, more = matcher(glob), list[str](), 0
    with root.walk(path or ".", writing=False) as place:
        if place.mode is None:
            raise _missing(root, place)
        if not stat.S_ISDIR(place.mode):
            return {"files": [place.path], "note": ""}
        with _opened(place) as fd:
            for name, folder, is_folder in _below(fd, place.at, deepest):
                inner = name.split("/")[len(place.at) :]
                if is_folder and len(inner) < deepest and inner[-1] not in SKIPPED:
                    continue  # its files speak for it
                if not (fits("/".join(inner)) or fits(name)):
                    continue
                if len(found) < MOST_LISTED:
                    found.append(name + ("/" if is_folder else _arrow(inner[-1], folder)))
                else:
                    more += 1
    return {"files": found, "note": f"{more} more; name a folder below, or give a glob" if more else ""}


def _arrow(name: str, folder: int) -> str:
    with contextlib.suppress(OSError):
        return f" -> {os.readlink(name, dir_fd=folder)}"
    return ""


def search_text(
    root: Root,
    pattern: str,
    path: str | None = None,
    glob: str | None = None,
    ignore_case: bool | None = None,
    max: int | None = None,
) -> dict[str, Any]:
    try:
        finds = re.compile(pattern, re.IGNORECASE if ignore_case else 0).search
    except (re.error, OverflowError, RecursionError) as error:
        raise ToolRefusedError(f"the pattern is no regular expression: {error}") from None
    fits, matches = matcher(glob), Matches(max or 100)
    own = ".protocols" not in f"{path} {glob}"  # not asked for by name
    with root.walk(path or ".", writing=False) as place:
        if place.mode is None:
            raise _missing(root, place)
        if not stat.S_ISDIR(place.mode):
            _search(root, place, finds, matches)
            return matches.result()
        with _opened(place) as fd:
            for name, folder, is_folder in _below(fd, place.at):
                at = name.split("/")
                if own and at[0] == ".protocols" and at[1:2] and at[1][:1].isdigit():
                    continue  # records and plans of protocols quote the task, and say nothing of the code
                if is_folder or not (fits("/".join(at[len(place.at) :])) or fits(name)):
                    continue
                if not _search(root, Place(folder, at, stat.S_IFREG), finds, matches):
                    break
    return matches.result()


class Matches:
    """The lines that a search found so far, `most` of them."""

    def __init__(self, most: int) -> None:
        self.most, self.found, self.notes, self.size = most, list[str](), list[str](), 0

    def add(self, path: str, number: object, line: str) -> bool:
        """Add a line of a file; return whether there was room."""
        if len(self.found) >= self.most or self.size > MOST_SHOWN:
            self.notes.append(f"there are more than {len(self.found)} matches; narrow the pattern, path or glob")
            return False
        self.found.append(f"{path}:{number}:{line[:MOST_OF_MATCH]}{'…' if len(line) > MOST_OF_MATCH else ''}")
        self.size += len(self.found[-1])
        return True

    def result(self) -> dict[str, Any]:
        return {"matches": self.found, "note": "; ".join(self.notes)}


def _search(root: Root, place: Place, finds: Callable[[str], Any], matches: Matches) -> bool:
    """Add a file's lines that fit; return whether there was room."""
    try:
        data = _read(place, root, MOST_SEARCHED)
    except ToolRefusedError as error:
        if "bytes" in str(error) and len(matches.notes) < 5:
            matches.notes.append(f"{place.path} was not searched, it is too large")
        return True
    except OSError:
        return True  # a link, or gone
    lines = data.decode(errors="replace").split("\n") if b"\0" not in data else []
    fits = ((number, line) for number, one in enumerate(lines, 1) if finds(line := one.rstrip("\r")))
    return all(matches.add(place.path, number, line) for number, line in fits)


def check_paths(root: Root, paths: list[str], repository: bool = False) -> dict[str, Any]:
    """Return where the paths lead, which may be missing; refuse those that lead out of the workspace or to git's own files.

    With `repository`: refuse a repository of the workspace that is somewhere else.
    """
    found = []
    for path in paths:
        with root.walk(path, writing=False) as place:
            found.append(place.path)
    if repository:
        for name, kind in ((".git", stat.S_ISDIR), (".git/config", stat.S_ISREG)):
            if not kind(os.stat(name, dir_fd=root.fd, follow_symlinks=False).st_mode):
                raise ToolRefusedError(f"the workspace's {name} is not what it should be; git is not run with it")
        with contextlib.suppress(FileNotFoundError):
            os.stat(".git/commondir", dir_fd=root.fd, follow_symlinks=False)
            raise ToolRefusedError("the workspace's .git/commondir leads elsewhere; git is not run with it")
    return {"paths": found}


def digest_file(root: Root, path: str) -> dict[str, Any]:
    """Return where a plain file is, through no link, and its digest."""
    with root.walk(path, writing=True) as place:
        if place.mode is None:
            raise _missing(root, place)
        fd = os.open(place.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place.folder)
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ToolRefusedError(f"{place.path} is no plain file")
            return {"path": place.path, "digest": f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"}


def text_of(root: Root, path: str) -> dict[str, Any]:
    """Return the whole text of a file, as its bytes are; null where there is none."""
    with root.walk(path, writing=False) as place:
        if place.mode is None:
            return {"text": None}
        data, shown = _read(place, root), place.path
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        raise ToolRefusedError(f"{shown} is not UTF-8 text") from None


def remember(root: Root, text: str, name: str | None = None) -> dict[str, Any]:
    """Write a fact of its own file; a name that was not given is made of the first words, and never takes another's."""
    chosen = name or "-".join(re.findall(r"[a-z0-9]+", text.casefold())[:6])[:48].strip("-") or "fact"
    for number in range(1, 1000):
        path = f".protocols/memory/{chosen if number == 1 else f'{chosen}-{number}'}.md"
        with root.walk(path, writing=True) as place:
            before = _read(place, root) if place.mode is not None else None
        if name or before is None or before == _fact(text):
            break
    write_file(root, path, _fact(text).decode())
    return {"path": path, "replaced": before is not None}


def _fact(text: str) -> bytes:
    return text.strip().encode() + b"\n"


def recall(root: Root, query: str | None = None) -> dict[str, Any]:
    words = re.findall(r"\w+", (query or "").casefold())
    scored = []
    with root.walk(".protocols/memory", writing=False) as place:
        if place.mode is None or not stat.S_ISDIR(place.mode):
            return {"facts": [], "note": "nothing is remembered"}
        with _opened(place) as fd:
            names = sorted(name for name in os.listdir(fd) if name.endswith(".md"))
    for name in names:
        with (
            contextlib.suppress(ToolRefusedError, OSError),
            root.walk(f".protocols/memory/{name}", writing=False) as place,
        ):
            text = _read(place, root, 100_000).decode(errors="replace")
            score = sum(word in f"{name}\n{text}".casefold() for word in words)
            if score or not words:
                scored.append((-score, name.removesuffix(".md"), text.strip()))
    facts, size, left = [], 0, 0
    for _, name, text in sorted(scored):
        if (size := size + len(text)) > MOST_SHOWN:
            left += 1
            continue
        facts.append({"name": name, "text": text})
    note = f"{left} more; ask for less by `query`" if left else "" if facts else f"nothing fits, of {len(names)} facts"
    return {"facts": facts, "note": note}


CALLS: dict[str, Callable[..., dict[str, Any]]] = {
    call.__name__: call
    for call in (
        *(read_file, write_file, edit_file, apply_patch, list_files, search_text),
        *(check_paths, digest_file, text_of, remember, recall),
    )
}


def answer(root: Root, request: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to one request."""
    call = functools.partial(CALLS[request["call"]], root)
    arguments = request["arguments"]
    try:
        return {"result": call(**arguments)}
    except ToolRefusedError as error:
        return {"error": str(error)}
    except OSError as error:
        return {"error": str(_said(error, str(arguments.get("path") or "a file")))}
    except Exception:
        import traceback  # here, because it never happens

        return {"crash": traceback.format_exc()[-4000:]}


def main() -> None:
    """Answer until stdin ends."""
    root = Root(sys.argv[1], sys.argv[2:])
    out = sys.stdout.buffer
    sys.setrecursionlimit(5000)

    def say(message: dict[str, Any]) -> None:
        out.write(json.dumps(message).encode() + b"\n")
        out.flush()

    say({"ready": True})
    for line in sys.stdin.buffer:
        say(answer(root, json.loads(line)))


if __name__ == "__main__":
    main()
