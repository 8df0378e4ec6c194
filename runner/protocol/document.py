"""A file of people's, read strictly: UTF-8, bounded, without control and bidi characters; YAML without its traps.

YAML is read from the parser's events, never through its object constructors: no aliases, anchors, tags, merge keys or
duplicate keys, and a plain scalar stays text until its key says what it is (`no` is a country, `0777` a mode): see `words`.
"""

from __future__ import annotations

import re
from typing import Any, Final

import yaml

from runner.errors import MalformedFileError

FILE_LIMIT: Final = 1024 * 1024
YAML_LIMIT: Final = 256 * 1024
DEPTH_LIMIT: Final = 32
NODE_LIMIT: Final = 20_000

FORBIDDEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# What YAML's parsers take for the end of a line and editors do not.
ODD_BREAK = re.compile(r"\r(?!\n)|[\x85\u2028\u2029]")
# libyaml drops it wherever a line begins, the parser written in Python keeps it.
BOM: Final = "\ufeff"

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Plain(str):
    """A YAML scalar written without quotes: what it is depends on the key it stands under."""

    __slots__ = ()


Path = tuple[str | int, ...]
Lines = dict[Path, int]


def decode(data: bytes, where: str) -> str:
    """Return a person's file as text, without its BOM; line ends stay as they are.

    Raises:
        MalformedFileError: too big, not UTF-8, or a control or bidi character in it.
    """
    if len(data) > FILE_LIMIT:
        raise MalformedFileError(
            f"the file has {len(data):,} bytes; at most {FILE_LIMIT:,} are read",
            f"{where}:1",
            "keep long material in files of its own outside .protocols and name their paths",
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise MalformedFileError(
            f"not UTF-8: byte 0x{data[error.start]:02x}", f"{where}:{line}", "save the file as UTF-8"
        ) from error
    bad = FORBIDDEN.search(text)
    if bad:
        line = text.count("\n", 0, bad.start()) + 1
        raise MalformedFileError(
            f"a control or bidi character, U+{ord(bad[0]):04X}, which a reader could not see",
            f"{where}:{line}",
            "remove the character",
        )
    return text


def split_front_matter(text: str, where: str) -> tuple[str, str]:
    """Return (front matter, prose) of a Markdown file that begins with `---`.

    The front matter keeps an empty first line, so that its line numbers are the file's.

    Raises:
        MalformedFileError: it does not begin on the first line, or does not end.
    """
    match = re.match(r"---[ \t]*\r?\n", text)
    if not match:
        later = re.match(r"\s*^---[ \t]*\r?\n", text, re.MULTILINE)
        if re.match(r"---[ \t]*\r", text):
            what, hint = "the lines end in CR alone", "save the file with LF at the ends of its lines"
        elif later:
            line = text.count("\n", 0, later.end())
            what, hint = f"the front matter begins on line {line}", "begin it on the first line of the file"
        else:
            what, hint = "no front matter", "begin the file with a line `---`, YAML such as `title: …`, and `---`"
        raise MalformedFileError(what, f"{where}:1", hint)
    end = re.compile(r"^(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)", re.MULTILINE).search(text, match.end())
    if not end:
        raise MalformedFileError("the front matter is not closed", f"{where}:1", "end it with a line `---`")
    return "\n" + text[match.end() : end.start()], text[end.end() :]


def load_yaml(text: str, where: str, *, loader: Any = LOADER) -> tuple[Any, Lines]:
    """Return (value, line of each key or item) of one YAML document; scalars without quotes as `Plain`.

    `loader`: libyaml's parser, or the one written in Python where that is not installed.

    Raises:
        MalformedFileError: not YAML, or one of its traps, naming file and line.
    """

    def refuse(what: str, line: int, hint: str) -> MalformedFileError:
        return MalformedFileError(what, f"{where}:{line}", hint)

    if len(text) > YAML_LIMIT:
        raise refuse(
            f"{len(text):,} characters of YAML; at most {YAML_LIMIT:,} are read", 1, "move prose below the `---`"
        )
    odd = ODD_BREAK.search(text)
    if odd:
        name = "a CR" if odd[0] == "\r" else f"U+{ord(odd[0]):04X}"
        raise refuse(
            f"{name} that ends a line for some readers only",
            text.count("\n", 0, odd.start()) + 1,
            "end the line with LF",
        )
    if BOM in text:
        raise refuse(
            "a BOM, U+FEFF, which a reader could not see, after the file's first character",
            text.count("\n", 0, text.index(BOM)) + 1,
            "remove the character",
        )
    lines: Lines = {}
    root: list[Any] = []
    stack: list[tuple[Any, Path]] = []  # open containers and where they stand
    keys: list[str | None] = []  # for each open mapping: the key that waits for its value
    count = 0

    def place(value: Any, line: int, path: Path) -> None:
        lines.setdefault(path, line)
        if not stack:
            root.append(value)
        elif isinstance(stack[-1][0], list):
            stack[-1][0].append(value)
        else:
            key = keys[-1]
            assert key is not None
            stack[-1][0][key] = value
            keys[-1] = None

    def here() -> Path:
        if not stack:
            return ()
        container, path = stack[-1]
        return (*path, len(container)) if isinstance(container, list) else (*path, keys[-1] or "")

    try:
        for event in yaml.parse(text, Loader=loader):
            mark = getattr(event, "start_mark", None)
            line = mark.line + 1 if mark else 1
            anchor, tag = getattr(event, "anchor", None), getattr(event, "tag", None)
            if isinstance(event, yaml.AliasEvent):
                raise refuse(f"a YAML alias, *{anchor}", line, "write the value out")
            if anchor:
                raise refuse(f"a YAML anchor, &{anchor}", line, "remove it; every value is written out")
            if tag is not None:
                raise refuse(f"a YAML tag, {tag}", line, "remove the tag; the key decides the type")
            count += isinstance(event, yaml.NodeEvent)
            if count > NODE_LIMIT:
                raise refuse(f"more than {NODE_LIMIT:,} YAML values", line, "make the file smaller")
            in_mapping = bool(stack) and isinstance(stack[-1][0], dict)
            if isinstance(event, yaml.ScalarEvent):
                plain = not event.style  # None from the parser written in Python, "" from libyaml
                value = Plain(event.value) if plain else event.value
                bad = FORBIDDEN.search(event.value)
                if bad:  # written as an escape such as "\u202e"
                    raise refuse(f"a control or bidi character, U+{ord(bad[0]):04X}, in a value", line, "remove it")
                if in_mapping and keys[-1] is None:
                    if plain and event.value == "<<":
                        raise refuse("a YAML merge key, `<<`", line, "write the keys out")
                    if not event.value:
                        raise refuse("a YAML key that is empty", line, "write a word before the `:`")
                    if event.value in stack[-1][0]:
                        raise refuse(f"the key `{shown(event.value)}` stands twice", line, "keep one of them")
                    keys[-1] = str(event.value)
                    lines[(*stack[-1][1], str(event.value))] = line
                    stack[-1][0][str(event.value)] = None
                else:
                    place(value, line, here())
            elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
                if in_mapping and keys[-1] is None:
                    raise refuse("a YAML key that is not a word", line, "write keys as plain words")
                if len(stack) >= DEPTH_LIMIT:
                    raise refuse(f"nested deeper than {DEPTH_LIMIT}", line, "flatten the value")
                path = here()
                container: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
                place(container, line, path)
                stack.append((container, path))
                keys.append(None)
            elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
                stack.pop()
                keys.pop()
            elif isinstance(event, yaml.DocumentStartEvent) and root:
                raise refuse("a second YAML document", line, "keep one document")
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "it cannot be read"
        rows = text.split("\n")
        line = min(mark.line + 1, len(rows)) if mark else 1  # the end of the text may be told as a line after it
        hint = "quote the value, or mend the line"
        if "\t" in rows[line - 1][:80]:
            hint = "indent with spaces; YAML takes no tabs there"
        raise refuse(f"not YAML: {problem}", line, hint) from error
    except (
        ValueError,
        OverflowError,
    ) as error:  # an escape such as "\U99999999" that is no character, by the parser written in Python
        raise refuse("not YAML: an escape that is no character", 1, "write the character itself") from error
    return (root[0] if root else None), lines


def shown(text: str) -> str:
    """Return a text as a message shows it: at most 80 characters, none that a terminal would act on."""
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= 80 else text[:79] + "…"
