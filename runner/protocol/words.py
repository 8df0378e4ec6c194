"""The words that people may write under a key: types that say what is expected, and what is told where something else stands.

A scalar that `document` read without quotes is a number, a truth value or text by the type of its key, never by its look.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Annotated, Any, TypeVar

from annotated_types import Ge
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError

from runner.errors import MalformedFileError
from runner.protocol.document import Path, Plain, shown

INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
NUMBER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,18})?")
_LONG_NUMBER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")


def problem(what: str, hint: str, key: str | None = None) -> PydanticCustomError:
    """Return the error that a validator raises: what a value should be, and what to write instead.

    `key` names the key below the model that it is about, where the model as a whole is looked at.
    """
    return PydanticCustomError("words", "{what}", {"what": what, "hint": hint, "key": key})


def _text(value: object) -> object:
    if isinstance(value, Plain) and value in ("null", "~"):
        raise problem("has no value", "write one, in quotes if it is meant as a word, or remove the key")
    if isinstance(value, str):
        return str(value)
    raise problem("should be text", "write one text, in quotes where it begins with a special character")


def _int(value: object) -> object:
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


def one_or_many(value: object) -> object:
    """Return a text as a list of it, for keys where `a` and `[a]` mean the same."""
    return [value] if isinstance(value, str) else value


def _line(text: str) -> str:
    if not text.strip() or len(text.splitlines()) > 1:
        raise problem("should be one line of text", "write it on one line")
    return text


def _script(text: str) -> str:
    if not text.strip():
        raise problem("should not be empty", "write something, or remove the key")
    return text


Text = Annotated[str, BeforeValidator(_text)]
Line = Annotated[Text, AfterValidator(_line), WithJsonSchema({"type": "string", "minLength": 1})]
Script = Annotated[Text, AfterValidator(_script), WithJsonSchema({"type": "string", "minLength": 1})]
Positive = Annotated[int, BeforeValidator(_int), Ge(1), WithJsonSchema({"type": "integer", "minimum": 1})]
Count = Annotated[int, BeforeValidator(_int), Ge(0), WithJsonSchema({"type": "integer", "minimum": 0})]
Bool = Annotated[bool, BeforeValidator(_bool)]
Amount = Annotated[Decimal, BeforeValidator(_number), Ge(0), WithJsonSchema({"type": "number", "minimum": 0})]
Value = Annotated[Any, BeforeValidator(resolve)]


class Words(BaseModel):
    """Base of the models of people's files: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


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
        found = _explain_all(model, error.errors(include_url=False), lines)
        # A key that is missing may be the one that is misspelt, so that is told last.
        line, what, hint = min(
            found, key=lambda item: (item[1].startswith("the key"), item[0], not item[1].startswith("unknown"), item[1])
        )
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise MalformedFileError(what + more, f"{where}:{line}", hint) from error


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that `word` was most likely meant to be."""
    close = difflib.get_close_matches(word[:200], list(known), n=1, cutoff=0.5)
    return close[0] if close else None


def _explain_all(
    model: type[BaseModel], errors: Iterable[Any], lines: Mapping[Path, int]
) -> list[tuple[int, str, str]]:
    """Return (line, what, hint) of what is wrong: one a key, also where a union tells it once for each of its members."""
    by_key: dict[Path, list[Any]] = {}
    for item in errors:
        path: Path = ()
        for part in item["loc"]:  # names union members too, which are no keys of the file
            if (*path, part) in lines:
                path = (*path, part)
        if key := item.get("ctx", {}).get("key"):
            path = (*path, key) if (*path, key) in lines else path
        by_key.setdefault(path, []).append(item)
    # A member that could look further into the value is the one that was meant.
    return [
        _explain(model, path, max(items, key=lambda item: len(item["loc"])), lines) for path, items in by_key.items()
    ]


def _explain(model: type[BaseModel], path: Path, item: Any, lines: Mapping[Path, int]) -> tuple[int, str, str]:
    kind, given, context = item["type"], item["input"], item.get("ctx", {})
    line = lines.get(path, 1)
    name = shown(".".join(str(part) for part in path) or "the file")
    if kind == "extra_forbidden":
        known = sorted(_keys(model, path[:-1]))
        close = nearest(str(item["loc"][-1]), known)
        hint = f"did you mean `{close}`?" if close else f"known keys: {', '.join(known)}"
        return line, f"unknown key `{name}`", hint
    if kind == "missing":
        key = item["loc"][-1]
        inside = f" in `{name}`" if path else ""
        return line, f"the key `{key}` is missing{inside}", f"add `{key}: …`"
    if isinstance(given, Plain) and given == "":
        return line, f"`{name}` has no value", "write one, or remove the key"
    match kind:
        case "words":
            return line, f"`{name}` {context['what']}", context["hint"]
        case "literal_error" | "enum":
            expected = str(context["expected"])
            close = nearest(str(given), re.findall(r"'([^']*)'", expected))
            what = f"`{name}` should be {expected}"
            return line, what, f"did you mean `{close}`?" if close else f"write one of {expected}"
        case "greater_than_equal":
            return line, f"`{name}` should be at least {context['ge']}", f"write {context['ge']} or more"
        case "tuple_type":
            return line, f"`{name}` should be a list", "write `[a, b]`, or one item a line after `- `"
        case "dict_type" | "model_type" | "model_attributes_type":
            return line, f"`{name}` should be keys and values", "write `{key: value}`, or an indented line for each key"
    return line, f"`{name}` {str(item['msg']).removeprefix('Input ')}", "mend the value"


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
            if isinstance(child := _below(option, part), dict)
            for found in expand(child)
        ]
    return {key for node in nodes for option in expand(node) for key in option.get("properties", {})}


def _below(schema: dict[str, Any], part: str | int) -> object:
    if isinstance(part, int):
        return schema.get("items")
    return schema.get("properties", {}).get(part, schema.get("additionalProperties"))
