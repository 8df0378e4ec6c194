"""Read a file that a person wrote, strictly: UTF-8, bounded, YAML without its traps, and its keys by a model.

YAML is read from the parser's events, never through its object constructors: no aliases, anchors, tags, merge keys or
duplicate keys. A scalar without quotes stays text (`Plain`) until its key's type makes it a number or a truth value: `no` is a
country, `0777` a mode. Every error names file and line, and what to write instead.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Annotated, Any, Final, TypeVar

from runner.errors import MalformedFileError
from runner.lines import pattern
from runner.protocol.file_models import (
    AfterValidator,
    BeforeValidator,
    Between,
    Fault,
    FileModel,
    UnfitError,
    WithJsonSchema,
    problem,
)

FILE_LIMIT: Final = 1024 * 1024
YAML_LIMIT: Final = 256 * 1024
DEPTH_LIMIT: Final = 32
NODE_LIMIT: Final = 20_000

FORBIDDEN = pattern(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# What YAML's parsers take for the end of a line and editors do not.
ODD_BREAK = pattern(r"\r(?!\n)|[\x85\u2028\u2029]")
# libyaml drops it at the start of every line, the parser written in Python keeps it.
BOM: Final = "\ufeff"

KNOWN_LIMIT: Final = 4000
known: dict[str, str] | None = (
    None  # documents that were read, by their digest, where a command keeps them for the next one
)


class Plain(str):
    """A YAML scalar without quotes, whose type depends on its key."""

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
    """Return (front matter, prose) of a Markdown file that starts with `---`.

    The front matter keeps an empty first line, so that its line numbers are the file's.

    Raises:
        MalformedFileError: it does not start on the first line, or does not end.
    """
    match = re.match(r"---[ \t]*\r?\n", text)
    if not match:
        later = re.match(r"\s*^---[ \t]*\r?\n", text, re.MULTILINE)
        if re.match(r"---[ \t]*\r", text):
            what, hint = "the lines end in CR alone", "save the file with LF at the ends of its lines"
        elif later:
            line = text.count("\n", 0, later.end())
            what, hint = f"the front matter starts on line {line}", "start it on the first line of the file"
        else:
            what, hint = "no front matter", "start the file with a line `---`, YAML such as `title: …`, and `---`"
        raise MalformedFileError(what, f"{where}:1", hint)
    end = re.compile(r"^(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)", re.MULTILINE).search(text, match.end())
    if not end:
        raise MalformedFileError("the front matter is not closed", f"{where}:1", "end it with a line `---`")
    return "\n" + text[match.end() : end.start()], text[end.end() :]


def load_yaml(text: str, where: str) -> tuple[Any, Lines]:
    """Return (value, line of each key or item) of one YAML document; scalars without quotes as `Plain`.

    A document that is `known` is not parsed again: what it says depends on its bytes alone, and the parser takes long to load.

    Raises:
        MalformedFileError: not YAML, or one of its traps, naming file and line.
    """
    if known is None:
        return parse_yaml(text, where)
    key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    if (told := known.get(key)) is not None:
        packed, paths = json.loads(told)
        return _unpacked(packed), {tuple(path): line for path, line in paths}
    value, lines = parse_yaml(text, where)
    if len(known) < KNOWN_LIMIT:
        known[key] = json.dumps([_packed(value), [[path, line] for path, line in lines.items()]])
    return value, lines


def _packed(value: Any) -> Any:
    """Return a value as JSON has it: `Plain` as text, a text as [text], a list as [[…]]."""
    if isinstance(value, dict):
        return {key: _packed(one) for key, one in value.items()}
    if isinstance(value, list):
        return [[_packed(one) for one in value]]
    return str(value) if isinstance(value, Plain) else [value]


def _unpacked(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unpacked(one) for key, one in value.items()}
    if isinstance(value, str):
        return Plain(value)
    return [_unpacked(one) for one in value[0]] if isinstance(value[0], list) else value[0]


def parse_yaml(text: str, where: str, *, python: bool = False) -> tuple[Any, Lines]:
    """Return what `load_yaml` does, from the text. `python`: by the parser written in Python, as where libyaml is not installed."""
    import yaml  # a step whose files are known does not need it

    loader: Any = yaml.SafeLoader if python else getattr(yaml, "CSafeLoader", yaml.SafeLoader)

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
    last = text.count("\n")
    lines: Lines = {}
    root: list[Any] = []
    stack: list[tuple[Any, Path]] = []  # open containers and their paths
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
            line = min(mark.line, last) + 1 if mark else 1  # libyaml puts an empty value behind the end of the text
            anchor, tag = getattr(event, "anchor", None), getattr(event, "tag", None)
            if isinstance(event, yaml.AliasEvent):
                raise refuse(f"a YAML alias, *{shown(str(anchor))}", line, "write the value out")
            if anchor:
                raise refuse(f"a YAML anchor, &{shown(anchor)}", line, "remove it; every value is written out")
            if tag is not None:
                raise refuse(f"a YAML tag, {shown(tag)}", line, "remove the tag; the key decides the type")
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
                        raise refuse("a YAML key that is empty", line, "write a name before the `:`")
                    if event.value in stack[-1][0]:
                        raise refuse(f"the key `{shown(event.value)}` is there twice", line, "keep one of them")
                    keys[-1] = str(event.value)
                    lines[(*stack[-1][1], str(event.value))] = line
                    stack[-1][0][str(event.value)] = None
                else:
                    place(value, line, here())
            elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
                if in_mapping and keys[-1] is None:
                    raise refuse("a YAML key that is not text", line, "write keys as plain words")
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
        line = (
            min(mark.line + 1, len(rows)) if mark else 1
        )  # the parser may report the end of the text as a line after it
        hint = "quote the value, or correct the line"
        if mark and problem.startswith("mapping values") and 0 <= rows[line - 1].find(": ") < mark.column:
            problem = "a colon and a space in a value without quotes"
            hint = "quote the whole value; or write `|` in its place, and the value indented on the next line"
        if "\t" in rows[line - 1][:80]:
            hint = "indent with spaces; YAML takes no tabs there"
        # libyaml 0.2.6 stops at 1,000 while it reads ahead, before the parser has the 33rd.
        if problem == "exceeded maximum nesting depth":
            raise refuse(f"nested deeper than {DEPTH_LIMIT}", line, "flatten the value") from error
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


INT = pattern(r"[-+]?(?:0|[1-9][0-9]{0,17})")
NUMBER = pattern(r"[-+]?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,18})?")
_LONG_NUMBER = pattern(r"[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")


def _text(value: object) -> object:
    if isinstance(value, Plain) and value in ("null", "~"):
        raise problem("has no value", "write one, in quotes if it is meant as text, or remove the key")
    if isinstance(value, str):
        return str(value)
    raise problem("should be text", "write one text, in quotes where it starts with a special character")


def integer(value: object) -> object:
    """Return the whole number that a plain scalar is."""
    if isinstance(value, Plain) and INT.fullmatch(value):
        return int(value)
    if type(value) is int:
        return value
    raise problem("should be a whole number", "write digits without quotes, such as 3")


def _number(value: object) -> object:
    if isinstance(value, Plain) and NUMBER.fullmatch(value):
        return str(value)
    if type(value) in (int, float):
        return str(value)
    raise problem("should be a number", "write one without quotes, such as 1.50")


def _bool(value: object) -> object:
    if type(value) is bool:
        return value
    if isinstance(value, Plain) and value in ("true", "false"):
        return value == "true"
    raise problem("should be true or false", "write true or false, without quotes")


def resolve(value: Any) -> Any:
    """Return a value of no declared type as JSON would read it: null, true, false, numbers; everything else is text.

    So `no`, `0777`, `12:30`, `1e3` and `.inf` are text, and every number is finite. A number of more digits than is kept
    exactly is refused rather than taken for text.
    """
    if isinstance(value, dict):
        return {key: resolve(item) for key, item in value.items()}
    if isinstance(value, list):
        return [resolve(item) for item in value]
    if isinstance(value, Plain):
        if value in ("null", "~", ""):
            return None
        if value in ("true", "false"):
            return value == "true"
        if INT.fullmatch(value):
            return int(value)
        if NUMBER.fullmatch(value):
            return float(value)
        if _LONG_NUMBER.fullmatch(value):
            raise problem("is a number of too many digits", "write at most 18, or put it in quotes as text")
        return str(value)
    return value


_Item = TypeVar("_Item")
# For keys where `a` and `[a]` mean the same.
OneOrMany = Annotated[tuple[_Item, ...], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]


def _line(text: str) -> str:
    if not text.strip() or len(text.splitlines()) > 1:
        raise problem("should be one line of text", "write it on one line")
    return text


def _script(text: str) -> str:
    if not text.strip():
        raise problem("should not be empty", "write something, or remove the key")
    return text


NOT_EMPTY: Final = {"type": "string", "minLength": 1}
Text = Annotated[str, BeforeValidator(_text)]
Line = Annotated[Text, AfterValidator(_line, NOT_EMPTY)]
Script = Annotated[Text, AfterValidator(_script, NOT_EMPTY)]
Positive = Annotated[int, BeforeValidator(integer), Between(1), WithJsonSchema({"type": "integer", "minimum": 1})]
Count = Annotated[int, BeforeValidator(integer), Between(0), WithJsonSchema({"type": "integer", "minimum": 0})]
Bool = Annotated[bool, BeforeValidator(_bool)]
Amount = Annotated[Decimal, BeforeValidator(_number), Between(0), WithJsonSchema({"type": "number", "minimum": 0})]
Value = Annotated[Any, BeforeValidator(resolve)]


Model = TypeVar("Model", bound=FileModel)


def validate(model: type[Model], value: Any, lines: Mapping[Path, int], where: str) -> Model:
    """Return `value` as the model, or say file, line, key and what to write instead.

    Raises:
        MalformedFileError: the first thing that is wrong, by line.
    """
    if not isinstance(value, dict):
        raise MalformedFileError("keys and values are expected here", f"{where}:1", "write lines such as `title: …`")
    try:
        return model.model_validate(value)
    except UnfitError as error:
        found = _explain_all(error.faults, lines)
        # A missing key may be the misspelt one, so it is reported last.
        found.sort(
            key=lambda item: (item[1].startswith("the key"), item[0], not item[1].startswith("unknown"), item[1])
        )
        (line, what, hint), *rest = found
        more = f" (and {len(rest)} more)" if rest else ""
        others = tuple(MalformedFileError(what, f"{where}:{line}", hint) for line, what, hint in rest)
        raise MalformedFileError(what + more, f"{where}:{line}", hint, others) from error


def read(model: type[Model], data: bytes, where: str, *, may_be_empty: bool = False) -> tuple[Model, Lines]:
    """Return the YAML of a file as the model, and the line of each of its keys and items. `may_be_empty`: a file without any has the
    defaults.

    Raises:
        MalformedFileError: with the line.
    """
    value, lines = load_yaml(decode(data, where), where)
    return validate(model, {} if may_be_empty and value in (None, "") else value, lines, where), lines


def read_front_matter(model: type[Model], data: bytes, where: str) -> tuple[Model, Lines, str]:
    """Return a file's front matter as the model, the line of each of its keys and items, and the text below it.

    Raises:
        MalformedFileError: with the line.
    """
    front, text = split_front_matter(decode(data, where), where)
    value, lines = load_yaml(front, where)
    return validate(model, value, lines, where), lines, text


def _explain_all(faults: Iterable[Fault], lines: Mapping[Path, int]) -> list[tuple[int, str, str]]:
    """Return (line, what, hint) of each fault: one a key, also where a union reports one for each of its members."""
    by_key: dict[Path, list[Fault]] = {}
    for fault in faults:
        path: Path = ()
        for part in (*fault.at, fault.key):
            if part is not None and (*path, part) in lines:
                path = (*path, part)
        by_key.setdefault(path, []).append(fault)
    # A member that could look further into the value is the one that was meant.
    return [_explain(path, max(found, key=lambda one: len(one.at)), lines) for path, found in by_key.items()]


def _explain(path: Path, fault: Fault, lines: Mapping[Path, int]) -> tuple[int, str, str]:
    line = lines.get(path, 1)
    name = shown(".".join(str(part) for part in path) or "the file")
    if fault.kind == "unknown":
        return line, f"unknown key `{name}`", fault.hint
    if fault.kind == "missing":
        inside = f" in `{name}`" if path else ""
        return line, f"the key `{fault.at[-1]}` is missing{inside}", fault.hint
    if isinstance(fault.given, Plain) and fault.given == "":
        return line, f"`{name}` has no value", "write one, or remove the key"
    return line, f"`{name}` {fault.what}", fault.hint
