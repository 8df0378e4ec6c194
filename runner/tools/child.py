"""The process that holds a project's Python module and calls its functions: started by `python`, never imported.

    python -P -B child.py MODULE FOLDER

The only file of ours that runs under the project's interpreter: standard library alone, Python 3.11. It loads MODULE from
FOLDER, and speaks JSON lines. First it says {"tools": [{name, description, parameters, returns}], "refused": {name: why}},
or {"error": …, "where": file:line or null}. Then each {"call": name, "arguments": {…}} on stdin is answered by
{"result": …} or {"error": …, "kind": the exception's name, "trace": its last lines}. What the module prints goes to stderr,
its stdin is empty.
"""

from __future__ import annotations

import collections.abc
import contextlib
import dataclasses
import enum
import importlib
import inspect
import io
import json
import os
import sys
import traceback
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any

LIMIT = 1024 * 1024  # bytes of a result
DEPTH = 64  # levels of a result
CUT = 2000  # characters of a message, or of the end of a traceback

Schema = dict[str, Any]
Load = Callable[[Any], Any]  # makes of JSON what an annotation says; raises ValueError or TypeError


class UnsupportedError(Exception):
    """JSON, or a call by name, has nothing for what a function declares."""


# --- annotations -----------------------------------------------------------------------------------------------------


class Annotations:
    """JSON schemas of annotations, and how values that keep them become what a function expects.

    `defs` holds the schemas that others refer to. `mode` is pydantic's: "validation" for arguments, "serialization" for
    results.
    """

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.defs: dict[str, Schema] = {}
        self._under_way: list[type] = []
        self._recursive: set[type] = set()
        self._loads: dict[type, Load] = {}

    def of(self, kind: Any) -> tuple[Schema, Load]:
        """Return the schema of an annotation, and what loads a value of it.

        Raises:
            UnsupportedError: JSON has nothing like it.
        """
        origin, args = typing.get_origin(kind), typing.get_args(kind)
        if origin is typing.Annotated:
            schema, load = self.of(args[0])
            text = next((note for note in args[1:] if isinstance(note, str)), None)
            return ({**schema, "description": text} if text else schema), load
        if origin in (typing.Required, typing.NotRequired):
            return self.of(args[0])
        if (inner := getattr(kind, "__supertype__", None)) is not None:  # NewType
            return self.of(inner)
        if type(kind).__name__ == "TypeAliasType":  # `type X = …`, from Python 3.12 on
            return self.of(kind.__value__)
        if any(kind is anything for anything in (Any, object, inspect.Parameter.empty)):
            return {}, lambda value: value
        for scalar, name, load in SCALARS:
            if kind is scalar:
                return {"type": name}, load
        if origin is typing.Literal:
            return _choices([(choice.value if isinstance(choice, enum.Enum) else choice, choice) for choice in args])
        if origin in (typing.Union, types.UnionType):
            return self._union(args)
        return self._collection(kind, origin or kind, args) or self._class(kind)

    def _union(self, kinds: tuple[Any, ...]) -> tuple[Schema, Load]:
        parts = [(kind, *self.of(kind)) for kind in kinds]

        def load(value: Any) -> Any:
            for _, _, part in sorted(parts, key=lambda part: part[0] is not type(value)):
                try:
                    return part(value)
                except (ValueError, TypeError):
                    continue
            raise ValueError("it is none of the allowed values")

        return {"anyOf": [schema for _, schema, _ in parts]}, load

    def _collection(self, kind: Any, origin: Any, args: tuple[Any, ...]) -> tuple[Schema, Load] | None:
        if origin in (list, collections.abc.Sequence, collections.abc.Iterable):
            item, load = self.of(args[0] if args else Any)
            return {"type": "array", **({"items": item} if item else {})}, lambda v: [load(i) for i in _a(list, v)]
        if origin is tuple:
            if (len(args) == 2 and args[1] is Ellipsis) or (not args and kind is tuple):
                item, load = self.of(args[0] if args else Any)
                return {"type": "array", "items": item}, lambda v: tuple(load(i) for i in _a(list, v))
            parts = [self.of(arg) for arg in args]
            schema: Schema = {"type": "array", "minItems": len(parts), "maxItems": len(parts)}
            if parts:
                schema["prefixItems"] = [part[0] for part in parts]
            return schema, lambda v: tuple(p[1](i) for p, i in zip(parts, _a(list, v), strict=True))
        if origin in (dict, collections.abc.Mapping, collections.abc.MutableMapping):
            if args and args[0] is not str:
                raise UnsupportedError(f"the keys of {_name(kind)} are not str")
            item, load = self.of(args[1] if args else Any)
            schema = {"type": "object", **({"additionalProperties": item} if item else {})}
            return schema, lambda v: {key: load(i) for key, i in _a(dict, v).items()}
        return None

    def _class(self, kind: Any) -> tuple[Schema, Load]:
        if not isinstance(kind, type):
            raise UnsupportedError(f"JSON has nothing for {_name(kind)}")
        if issubclass(kind, enum.Enum):
            return _choices([(member.value, member) for member in kind])
        if hasattr(kind, "model_json_schema") and hasattr(kind, "model_validate_json"):
            return self._pydantic(kind)
        if kind in self._under_way:
            self._recursive.add(kind)
            return {"$ref": f"#/$defs/{_full_name(kind)}"}, lambda value: self._loads[kind](value)
        self._under_way.append(kind)
        try:
            if dataclasses.is_dataclass(kind):
                given = self.mode == "validation"  # a result has all fields
                fields = {field.name: field for field in dataclasses.fields(kind) if field.init or not given}
                needed = [
                    n for n, f in fields.items() if not given or f.default is f.default_factory is dataclasses.MISSING
                ]
                schema, load = self.object({n: h for n, h in _hints(kind).items() if n in fields}, needed, kind)
            elif issubclass(kind, dict) and hasattr(kind, "__required_keys__"):  # a TypedDict, anybody's
                hints = _hints(kind)
                # The class's own list takes `NotRequired` in a string annotation for required.
                needed = [n for n, h in hints.items() if _is_required(h, n in kind.__required_keys__)]
                schema, load = self.object(hints, needed, dict)
            else:
                raise UnsupportedError(
                    f"JSON has nothing for {_name(kind)}; a dataclass, a TypedDict or an Enum would do"
                )
        finally:
            self._under_way.pop()
        self._loads[kind] = load
        if kind not in self._recursive:
            return schema, load
        self.defs[_full_name(kind)] = schema
        return {"$ref": f"#/$defs/{_full_name(kind)}"}, load

    def _pydantic(self, kind: Any) -> tuple[Schema, Load]:
        name = _full_name(kind)
        schema = kind.model_json_schema(mode=self.mode, ref_template=f"#/$defs/{name}.{{model}}")
        self.defs |= {f"{name}.{inner}": part for inner, part in schema.pop("$defs", {}).items()}
        # As JSON, not as Python values: a strict model takes a date or a tuple only from there.
        return schema, lambda value: kind.model_validate_json(json.dumps(value))

    def object(self, hints: dict[str, Any], needed: Iterable[str], make: Callable[..., Any]) -> tuple[Schema, Load]:
        """Return the schema of an object with these members, and what makes one by calling `make` with them."""
        parts, needed = {}, list(needed)
        for name, hint in hints.items():
            try:
                parts[name] = self.of(hint)
            except UnsupportedError as error:
                raise UnsupportedError(f"`{name}`: {error}") from None

        def load(value: Any) -> Any:
            given = _a(dict, value)
            if set(given) - set(parts) or set(needed) - set(given):
                raise ValueError("it has members too many or too few")
            loaded = {}
            for name, member in given.items():
                try:
                    loaded[name] = parts[name][1](member)
                except (ValueError, TypeError) as error:
                    raise ValueError(f"`{name}`: {error}") from error
            return make(**loaded)

        schema: Schema = {"type": "object", "properties": {name: part[0] for name, part in parts.items()}}
        return schema | {"required": needed, "additionalProperties": False}, load


def _a(kind: type, value: Any) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"it should be a {kind.__name__}")
    return value


def _whole(value: Any) -> int:
    # 2.0 is an integer to JSON Schema.
    return int(value) if isinstance(value, float) and value.is_integer() else typing.cast(int, _a(int, value))


def _float(value: Any) -> float:
    try:
        return value if isinstance(value, float) else float(_a(int, value))
    except OverflowError as error:
        raise ValueError("it is too big") from error


SCALARS: tuple[tuple[Any, str, Load], ...] = (
    (str, "string", lambda value: _a(str, value)),
    (bool, "boolean", lambda value: _a(bool, value)),
    (int, "integer", _whole),
    (float, "number", _float),
    (None, "null", lambda value: _a(types.NoneType, value)),
    (types.NoneType, "null", lambda value: _a(types.NoneType, value)),
)


def _choices(choices: list[tuple[Any, Any]]) -> tuple[Schema, Load]:
    for value, _ in choices:
        if not isinstance(value, str | int | float | None):
            raise UnsupportedError(f"the choice {value!r} is nothing that JSON has")

    def load(value: Any) -> Any:
        for known, meant in choices:
            if known == value and isinstance(known, bool) == isinstance(value, bool):
                return meant
        raise ValueError("it is none of the choices")

    # Not the value of an IntEnum itself but a plain one: the answer is JSON.
    return {"enum": [json.loads(json.dumps(value)) for value, _ in choices]}, load


def _hints(thing: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(thing, include_extras=True)
    except Exception as error:  # an annotation is any expression, and is evaluated here
        raise UnsupportedError(f"its annotations cannot be read: {_told(error)}") from error


def _is_required(hint: Any, otherwise: bool) -> bool:
    origin = typing.get_origin(hint)
    return origin is typing.Required or (otherwise and origin is not typing.NotRequired)


def _name(kind: Any) -> str:
    return kind.__qualname__ if isinstance(kind, type) else str(kind)


def _full_name(kind: type) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in f"{kind.__module__}.{kind.__qualname__}")


# --- functions -------------------------------------------------------------------------------------------------------


class Function:
    """A public function of the module.

    Raises:
        UnsupportedError: it cannot be called with JSON.
    """

    def __init__(self, name: str, function: types.FunctionType) -> None:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise UnsupportedError("it yields, and has no one result")
        self.function, self.signature = function, inspect.signature(function)
        hints, parameters = _hints(function), self.signature.parameters
        for parameter in parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**"
                raise UnsupportedError(f"it takes {stars}{parameter.name}: its arguments have no names to give them by")
        takes = Annotations("validation")
        needed = [name for name, parameter in parameters.items() if parameter.default is parameter.empty]
        schema, self._load = takes.object({n: hints.get(n, Any) for n in parameters}, needed, dict)
        for key, parameter in parameters.items():
            with contextlib.suppress(TypeError, ValueError):  # one that JSON does not have is left out
                if parameter.default is not parameter.empty:
                    default = json.loads(json.dumps(plain(parameter.default), allow_nan=False))
                    schema["properties"][key] = {**schema["properties"][key], "default": default}
        gives, returns = Annotations("serialization"), None
        if "return" in hints:
            try:
                returns = _with_defs(gives.of(hints["return"])[0], gives)
            except UnsupportedError as error:
                raise UnsupportedError(f"its result: {error}") from None
        doc = inspect.cleandoc(function.__doc__ or "").partition("\n")[0].strip()
        self.contract = {"name": name, "description": doc, "parameters": _with_defs(schema, takes), "returns": returns}
        json.dumps(self.contract, allow_nan=False)

    def call(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Call it and return the answer."""
        try:
            loaded = self._load(arguments)
        except Exception as error:  # a dataclass and a pydantic model run code of the module's
            return {"error": f"the arguments do not fit: {_clean(str(error))}", "kind": "Arguments"}
        bound = inspect.BoundArguments(self.signature, loaded)
        bound.apply_defaults()
        try:
            result = self.function(*bound.args, **bound.kwargs)
            if inspect.isawaitable(result):
                import asyncio  # here: it is slow to load, and few modules need it

                result = asyncio.run(_awaited(result))
        except BaseException as error:  # sys.exit too: this process has to answer
            return _failure(error, sys.argv[-1])
        try:
            answer = {"result": plain(result)}
            size = len(json.dumps(answer))
        except Exception as error:
            return {"error": f"it was called, but its result is not JSON: {_clean(str(error))}", "kind": "Result"}
        if size > LIMIT:
            return {
                "error": f"it was called, but its result has {size:,} bytes; at most {LIMIT:,} are taken",
                "kind": "Result",
            }
        return answer


async def _awaited(result: Any) -> Any:
    return await result


def _with_defs(schema: Schema, annotations: Annotations) -> Schema:
    return {**schema, "$defs": annotations.defs} if annotations.defs else schema


def plain(value: Any, place: str = "it", depth: int = 0) -> Any:
    """Return a result as JSON: dataclasses, pydantic models, tuples and enums as what their schemas say.

    Raises:
        TypeError, ValueError: JSON has nothing for it.
    """
    if depth > DEPTH:
        raise ValueError(f"it is deeper than {DEPTH} levels")
    if isinstance(value, enum.Enum):
        return plain(value.value, place, depth + 1)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise ValueError(f"{place} is {value}")
        return float(value)
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{place} is text that is not valid Unicode") from None
        return str(value)
    if hasattr(value, "model_dump") and not isinstance(value, type):
        return plain(value.model_dump(mode="json", by_alias=True), place, depth + 1)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: plain(getattr(value, name), f"{place}.{name}", depth + 1) for name in names}
    if isinstance(value, list | tuple):
        return [plain(item, f"{place}[{number}]", depth + 1) for number, item in enumerate(value)]
    if isinstance(value, collections.abc.Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{place} has the key {key!r}, which is not text")
        return {plain(key): plain(item, f"{place}.{key}", depth + 1) for key, item in value.items()}
    raise TypeError(f"{place} is a {type(value).__name__}")


# --- the process -----------------------------------------------------------------------------------------------------


def load(name: str, folder: str) -> tuple[dict[str, Function], dict[str, str]]:
    """Import the module from `folder`; return its tools, and why its other public functions are none.

    Raises:
        ImportError: what the name led to is not in `folder`.
    """
    sys.path.insert(0, folder)
    module = importlib.import_module(name)
    file = getattr(module, "__file__", None)
    if file is None or not os.path.realpath(file).startswith(os.path.realpath(folder) + os.sep):
        raise ImportError(
            f"the module {name} is not in the trusted branch's tree; the name leads to {file or 'no file'}"
        )
    functions, refused = {}, {}
    for key, value in vars(module).items():
        if key.startswith("_") or not inspect.isfunction(value) or value.__module__ != name or value.__name__ != key:
            continue
        try:
            functions[key] = Function(key, value)
        except UnsupportedError as error:
            refused[key] = str(error)
        except Exception as error:  # pydantic has its own ways to say that it has no schema
            refused[key] = _told(error)
    return functions, refused


def _clean(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()[:CUT]


def _told(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # the module's own class
        text = ""
    return _clean(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def _failure(error: BaseException, folder: str = "") -> dict[str, Any]:
    """Write the traceback to stderr; return the answer, which names the last line of `folder`'s files that the error came through."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    text = "".join(traceback.format_exception(type(error), error, trace))
    with contextlib.suppress(AttributeError, OSError, ValueError):
        sys.stderr.write(text)
    told = f"it called sys.exit({error.code!r})" if isinstance(error, SystemExit) else _told(error)
    if folder and (place := _place(error, folder)) is not None:
        told = f"{told} ({place})"
    return {"error": told, "kind": type(error).__name__, "trace": _clean(text[-CUT:])}


def _place(error: BaseException, folder: str) -> str | None:
    """Return the last line of `folder`'s files that the error came through, as path:line."""
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        places.append((error.filename or "", error.lineno))
    root = os.path.realpath(folder) + os.sep
    for file, line in reversed(places):
        if (path := os.path.realpath(file)).startswith(root):
            return _clean(f"{path.removeprefix(root)}:{line}")
    return None


def main() -> None:
    """Load the module, say what it offers, and answer calls until stdin ends."""
    name, folder = sys.argv[1:]
    requests, answers, nothing = os.dup(0), os.dup(1), os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)

    def leave() -> None:
        # A process that the module forks must not answer in our place, nor keep the pipe open.
        os.dup2(nothing, requests, inheritable=False)
        os.dup2(nothing, answers, inheritable=False)

    os.register_at_fork(after_in_child=leave)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    lines = open(requests, "rb", closefd=False)  # noqa: SIM115 - lives as long as the process
    pipe = open(answers, "wb", closefd=False)  # noqa: SIM115

    def say(message: dict[str, Any]) -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, OSError, ValueError):  # the module may have put anything there
                stream.flush()
        pipe.write(json.dumps(message, allow_nan=False).encode() + b"\n")
        pipe.flush()

    functions: dict[str, Function] = {}
    try:
        functions, refused = load(name, folder)
    except BaseException as error:  # sys.exit too
        return say({**_failure(error), "where": _place(error, folder)})
    say({"tools": [function.contract for function in functions.values()], "refused": refused})
    for line in lines:
        request = json.loads(line)
        say(functions[request["call"]].call(request["arguments"]))


if __name__ == "__main__":
    main()
