"""People's text, read strictly: UTF-8, bounded, without control and bidi characters; YAML without its traps.

YAML is read from the parser's events, never through its object constructors: no aliases, anchors, tags, merge keys or
duplicate keys, and a plain scalar stays text until the schema says what it is (`no` is a country, `0777` a mode).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Annotated, Any, Final, TypeVar

import yaml
from annotated_types import Ge
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError

from runner.errors import MalformedFileError

FILE_LIMIT: Final = 1024 * 1024
YAML_LIMIT: Final = 256 * 1024
DEPTH_LIMIT: Final = 32
NODE_LIMIT: Final = 20_000

FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069]")
INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
NUMBER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,18})?")

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


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
            where,
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
    """
    match = re.match(r"---[ \t]*\r?\n", text)
    if not match:
        raise MalformedFileError(
            "no front matter", f"{where}:1", "begin the file with a line `---`, YAML such as `title: …`, and `---`"
        )
    end = re.compile(r"^(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)", re.MULTILINE).search(text, match.end())
    if not end:
        raise MalformedFileError("the front matter is not closed", f"{where}:1", "end it with a line `---`")
    return "\n" + text[match.end() : end.start()], text[end.end() :]


def load_yaml(text: str, where: str) -> tuple[Any, Lines]:
    """Return (value, line of each key or item) of one YAML document; scalars without quotes as `Plain`.

    Raises:
        MalformedFileError: not YAML, or one of its traps, naming file and line.
    """

    def refuse(what: str, line: int, hint: str) -> MalformedFileError:
        return MalformedFileError(what, f"{where}:{line}", hint)

    if len(text) > YAML_LIMIT:
        raise refuse(
            f"{len(text):,} characters of YAML; at most {YAML_LIMIT:,} are read", 1, "move prose below the `---`"
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
        for event in yaml.parse(text, Loader=_Loader):
            mark = getattr(event, "start_mark", None)
            line = mark.line + 1 if mark else 1
            anchor, tag = getattr(event, "anchor", None), getattr(event, "tag", None)
            if isinstance(event, yaml.AliasEvent):
                raise refuse(f"a YAML alias, *{anchor}", line, "write the value out")
            if anchor:
                raise refuse(f"a YAML anchor, &{anchor}", line, "remove it; every value is written out")
            if tag and tag != "!":
                raise refuse(f"a YAML tag, {tag}", line, "remove the tag; the key decides the type")
            count += isinstance(event, yaml.NodeEvent)
            if count > NODE_LIMIT:
                raise refuse(f"more than {NODE_LIMIT:,} YAML values", line, "make the file smaller")
            in_mapping = bool(stack) and isinstance(stack[-1][0], dict)
            if isinstance(event, yaml.ScalarEvent):
                value = Plain(event.value) if event.style is None else event.value
                bad = FORBIDDEN.search(event.value)
                if bad:  # written as an escape such as "\u202e"
                    raise refuse(f"a control or bidi character, U+{ord(bad[0]):04X}, in a value", line, "remove it")
                if in_mapping and keys[-1] is None:
                    if event.style is None and event.value == "<<":
                        raise refuse("a YAML merge key, `<<`", line, "write the keys out")
                    if event.value in stack[-1][0]:
                        raise refuse(f"the key `{event.value}` stands twice", line, "keep one of them")
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
        raise refuse(
            f"not YAML: {problem}", mark.line + 1 if mark else 1, "quote the value, or mend the line"
        ) from error
    return (root[0] if root else None), lines


def _text(value: object) -> object:
    if isinstance(value, str):
        return str(value)
    raise PydanticCustomError("text", "should be text")


def _int(value: object) -> object:
    if isinstance(value, Plain) and INT.fullmatch(value):
        return int(value)
    if type(value) is int:
        return value
    raise PydanticCustomError("whole_number", "should be a whole number")


def _number(value: object) -> object:
    if isinstance(value, Plain) and NUMBER.fullmatch(value):
        return str(value)
    if type(value) in (int, float):
        return str(value)
    raise PydanticCustomError("number", "should be a number such as 1.50")


def _bool(value: object) -> object:
    if type(value) is bool:
        return value
    if isinstance(value, Plain) and value in ("true", "false"):
        return value == "true"
    raise PydanticCustomError("true_or_false", "should be true or false")


def resolve(value: Any) -> Any:
    """Return a value of no declared type as YAML 1.2's core schema reads it: null, booleans, numbers, else text."""
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
        return str(value)
    return value


Text = Annotated[str, BeforeValidator(_text)]
Int = Annotated[int, BeforeValidator(_int)]
Count = Annotated[int, BeforeValidator(_int), Ge(0)]
Bool = Annotated[bool, BeforeValidator(_bool)]
Amount = Annotated[Decimal, BeforeValidator(_number), Ge(Decimal(0)), WithJsonSchema({"type": "number", "minimum": 0})]
Value = Annotated[Any, BeforeValidator(resolve)]


class Words(BaseModel):
    """Base of the models of people's files: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


Model = TypeVar("Model", bound=BaseModel)


def validate(model: type[Model], value: Any, lines: Mapping[Path, int], where: str) -> Model:
    """Return `value` as the model, or say file, line, key and what to write instead.

    Raises:
        MalformedFileError: the first thing that is wrong, by line.
    """
    if not isinstance(value, dict):
        raise MalformedFileError("keys and values are expected here", f"{where}:1", "write lines such as `title: …`")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found = [_explain(model, item, lines) for item in error.errors(include_url=False)]
        line, what, hint = min(found)
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise MalformedFileError(what + more, f"{where}:{line}", hint) from error


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that `word` was most likely meant to be."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return close[0] if close else None


def _explain(model: type[BaseModel], item: Any, lines: Mapping[Path, int]) -> tuple[int, str, str]:
    loc: Path = tuple(item["loc"])
    path: Path = ()
    for part in loc:  # loc also names union members, which are no keys of the file
        if (*path, part) in lines:
            path = (*path, part)
    line = lines.get(path, 1)
    name = ".".join(str(part) for part in path) or "the file"
    if item["type"] == "extra_forbidden":
        key = str(loc[-1])
        known = sorted(_keys(model, path[:-1]))
        close = nearest(key, known)
        hint = f"did you mean `{close}`?" if close else f"known keys: {', '.join(known)}"
        return line, f"unknown key `{name}`", hint
    if item["type"] == "missing":
        return line, f"the key `{loc[-1]}` is missing", f"add `{loc[-1]}: …`"
    message = str(item["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    hint = "mend the value"
    if item["type"] == "literal_error":
        expected = str(item["ctx"]["expected"])
        close = nearest(str(item["input"]), re.findall(r"'([^']*)'", expected))
        hint = f"did you mean `{close}`?" if close else f"write one of {expected}"
    return line, f"`{name}` {message}", hint


def _keys(model: type[BaseModel], path: Path) -> set[str]:
    """Return the keys that the model allows at `path`, looked up in its JSON schema."""
    schema = model.model_json_schema(by_alias=True)
    nodes: list[dict[str, Any]] = [schema]

    def expand(node: dict[str, Any]) -> list[dict[str, Any]]:
        if "$ref" in node:
            return expand(schema["$defs"][node["$ref"].rsplit("/", 1)[1]])
        return [found for part in node.get("anyOf", []) for found in expand(part)] or [node]

    for part in path:
        nodes = [
            found
            for node in nodes
            for option in expand(node)
            if (child := option.get("items") if isinstance(part, int) else option.get("properties", {}).get(part))
            for found in expand(child)
        ]
    return {key for node in nodes for option in expand(node) for key in option.get("properties", {})}
