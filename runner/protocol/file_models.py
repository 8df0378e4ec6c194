"""Models of files, plan files and the runner's own: typed keys, and the reader that makes a value of plain data.

A model is declared as a pydantic model is, and is read as pydantic would read it, which takes longer to load than a step to record.
pydantic itself makes the JSON Schemas (`scripts.schemas`), and the tests prove that both agree. The types are read when a model is
first used.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from enum import Enum
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    Self,
    TypeVar,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from runner.lines import counted

Key = str | int | None  # None: a member of a union, which is no key of the file
Read = Callable[[Any], Any]
_NOTHING: Any = object()


class ProblemError(ValueError):
    """What a validator raises: what a value should be, and what to write instead."""

    def __init__(self, what: str, hint: str, key: str | None) -> None:
        super().__init__(what)
        self.what, self.hint, self.key = what, hint, key


def problem(what: str, hint: str, key: str | None = None) -> ProblemError:
    """Return the error that a validator raises: what a value should be, and what to write instead.

    `key` names the key below the model that it is about, where the model as a whole is looked at.
    """
    return ProblemError(what, hint, key)


class Fault(NamedTuple):
    """Something that does not fit. `at`: where, from the whole value down; `given`: what is there; `key`: see `problem`."""

    at: tuple[Key, ...]
    given: object
    what: str
    hint: str
    kind: Literal["", "unknown", "missing"] = ""
    key: str | None = None


class UnfitError(ValueError):
    """A value does not fit its type; `faults` say where and why."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(f"{fault.at}: {fault.what}" for fault in self.faults))

    def below(self, *at: Key) -> Iterator[Fault]:
        """Yield the faults as those of the value that has this one at `at`."""
        for one in self.faults:
            yield Fault((*at, *one.at), one.given, one.what, one.hint, one.kind, one.key)


def _unfit(given: object, what: str, hint: str = "correct the value") -> UnfitError:
    return UnfitError([Fault((), given, what, hint)])


def _called(function: Callable[[Any], Any], value: Any, given: object) -> Any:
    try:
        return function(value)
    except ProblemError as error:
        raise UnfitError([Fault((), given, error.what, error.hint, key=error.key)]) from error


# --- what a type may be annotated with ------------------------------------------------------------------------------------


class BeforeValidator:
    """Changes or refuses a value before its type reads it. `json_schema_input_type`: the type that a schema has in its place."""

    def __init__(self, function: Callable[[Any], Any], json_schema_input_type: Any = None) -> None:
        self.function, self.input = function, json_schema_input_type

    def over(self, read: Read) -> Read:
        """Return the reader with this one before it."""
        return lambda value: read(_called(self.function, value, value))


class AfterValidator:
    """Changes or refuses a value that its type has read. `schema`: the JSON Schema of what is left; None: that of the type."""

    def __init__(self, function: Callable[[Any], Any], schema: Mapping[str, Any] | None = None) -> None:
        self.function, self.schema = function, schema

    def over(self, read: Read) -> Read:
        """Return the reader with this one after it."""
        return lambda value: _called(self.function, read(value), value)


class Between(AfterValidator):
    """Refuses a number below `least`, with `above` that itself, or above `most`."""

    def __init__(self, least: int, most: int | None = None, *, above: bool = False) -> None:
        super().__init__(self._checked)
        self.least, self.most, self.above = least, most, above

    def _checked(self, found: Any) -> Any:
        if self.above and found <= self.least:
            raise problem(f"should be more than {self.least}", "correct the value")
        if found < self.least:
            raise problem(f"should be at least {self.least}", f"write {self.least} or more")
        if self.most is not None and found > self.most:
            raise problem(f"should be at most {self.most}", f"write {self.most} or less")
        return found


class Pattern(AfterValidator):
    """Refuses a text that is not, as a whole, as the expression says. `shown`: how the JSON Schema has the expression."""

    def __init__(self, pattern: str, what: str = "", hint: str = "correct the value", shown: str = "^{}$") -> None:
        super().__init__(self._checked, {"type": "string", "pattern": shown.replace("{}", pattern)})
        self.pattern, self.what, self.hint = pattern, what or f"should match {pattern}", hint

    def _checked(self, found: Any) -> Any:
        if not re.fullmatch(self.pattern, found):
            raise problem(self.what, self.hint)
        return found


class WithJsonSchema:
    """Names the JSON Schema of a type; reading is as without it."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.schema = schema

    def over(self, read: Read) -> Read:
        """Return the reader."""
        return read


# --- models ------------------------------------------------------------------------------------------------------------------


class FieldInfo:
    """The declaration of a key besides its type."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given
        self.alias: str | None = given.get("alias")
        factory = given.get("default_factory")
        self.default = factory() if factory else given.get("default", _NOTHING)
        self.required = self.default is _NOTHING
        self.least, self.most = given.get("min_length", 0), given.get("max_length")


def Field(
    *,
    default: Any = _NOTHING,
    default_factory: Callable[[], Any] | None = None,
    alias: str | None = None,
    description: str | None = None,
    min_length: int = 0,
    max_length: int | None = None,
    json_schema_extra: Mapping[str, Any] | None = None,
) -> Any:
    """Declare a key. Without a default it has to be there; `alias`: its name in the file."""
    given = {name: value for name, value in locals().items() if value not in (None, 0) or name == "default"}
    return FieldInfo({name: value for name, value in given.items() if value is not _NOTHING})


Validates = TypeVar("Validates", bound=Callable[..., Any])


def model_validator(*, mode: Literal["before", "after"]) -> Callable[[Validates], Validates]:
    """Mark a method that looks at the whole: `before`, at the plain value; `after`, at the model, once each key has been read."""

    def mark(function: Validates) -> Validates:
        method: Any = getattr(function, "__func__", function)
        method.__validates__ = mode
        return function

    return mark


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
class FileModel:
    """Base of the models of files: frozen, and an unknown key is an error.

    A value has the given keys; the rest is the class's, the defaults.
    """

    model_fields: ClassVar[dict[str, FieldInfo]] = {}
    model_validators: ClassVar[dict[str, str]] = {}  # name of a method to its mode, those of its bases first
    elsewhere: ClassVar[Mapping[str, str]] = {}  # a key that belongs elsewhere to what to write instead

    def __init_subclass__(cls) -> None:
        marks = {name: getattr(getattr(one, "__func__", one), "__validates__", "") for name, one in vars(cls).items()}
        cls.model_validators = cls.model_validators | {name: mode for name, mode in marks.items() if mode}
        cls.model_fields = dict(cls.model_fields)
        for name, kind in inspect.get_annotations(cls).items():
            if str(kind).startswith("ClassVar"):
                continue
            said = vars(cls).get(name, _NOTHING)
            field = said if isinstance(said, FieldInfo) else Field(default=said)
            cls.model_fields[name] = field
            if not field.required:
                setattr(cls, name, field.default)
            elif said is not _NOTHING:
                delattr(cls, name)

    def __init__(self, **given: Any) -> None:
        vars(self).update(vars(self.model_validate(given)))

    @classmethod
    def model_validate(cls, value: object) -> Self:
        """Return the model that plain data, such as YAML's, is.

        Raises:
            UnfitError: with everything that does not fit.
        """
        found: Self = _read_model(cls, value)
        return found

    @classmethod
    def model_construct(cls, **values: Any) -> Self:
        """Return the model with these values, of its types already."""
        made = object.__new__(cls)
        vars(made).update(values)
        return made

    def model_copy(self, *, update: Mapping[str, Any]) -> Self:
        """Return the model with other values."""
        return self.model_construct(**vars(self) | dict(update))

    def model_dump(self, *, exclude_unset: bool = False, exclude_defaults: bool = False) -> dict[str, Any]:
        """Return the values as the file has them: all, those that were given, or those that are not the default."""

        def plain(value: Any) -> Any:
            if isinstance(value, FileModel):
                return value.model_dump(exclude_unset=exclude_unset, exclude_defaults=exclude_defaults)
            if isinstance(value, tuple | list):
                return [plain(one) for one in value]
            if isinstance(value, dict):
                return {key: plain(one) for key, one in value.items()}
            return value.value if isinstance(value, Enum) else str(value) if isinstance(value, Decimal) else value

        names = [name for name in self.model_fields if not exclude_unset or name in self.model_fields_set]
        found = {name: getattr(self, name) for name in names}
        return {
            self.model_fields[name].alias or name: plain(value)
            for name, value in found.items()
            if not exclude_defaults or value != self.model_fields[name].default
        }

    @property
    def model_fields_set(self) -> set[str]:
        """The keys that were given."""
        return set(vars(self))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and _values(self) == _values(other)

    def __hash__(self) -> int:
        return hash(_values(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"

    def __setattr__(self, name: str, value: object) -> None:
        raise dataclasses.FrozenInstanceError(f"{name!r} of a {type(self).__name__} cannot be changed")

    __delattr__ = __setattr__  # type: ignore[assignment]


def _values(model: FileModel) -> tuple[Any, ...]:
    return tuple(getattr(model, name) for name in model.model_fields)


Keys = dict[
    str, tuple[str, Read, bool]
]  # a key in the file: its name in Python, its reader, whether it has to be there
_KEYS: dict[Any, Keys] = {}


def _keys_of(kind: Any) -> Keys:
    """Return the keys of a model or a TypedDict."""
    if kind not in _KEYS:
        types = get_type_hints(kind, include_extras=True)
        if issubclass(kind, FileModel):
            _KEYS[kind] = {
                field.alias or name: (name, _reader(types[name], field.least, field.most), field.required)
                for name, field in kind.model_fields.items()
            }
        else:
            _KEYS[kind] = {name: (name, _reader(one), name in kind.__required_keys__) for name, one in types.items()}
    return _KEYS[kind]


def _read_keys(kind: Any, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _unfit(value, "should be keys and values", "write `{key: value}`, or an indented line for each key")
    keys = _keys_of(kind)
    found: dict[str, Any] = {}
    faults: list[Fault] = []
    for key, (name, read, required) in keys.items():
        if key in value:
            try:
                found[name] = read(value[key])
            except UnfitError as error:
                faults += error.below(key)
        elif required:
            known = read.args[0] if isinstance(read, functools.partial) and read.func is _read_choice else ()
            hint = f"add `{key}: …`, {_either(known)}" if known else f"add `{key}: …`"
            faults.append(Fault((key,), value, "is missing", hint, "missing"))
    for key in value:
        if key not in keys:
            hint = getattr(kind, "elsewhere", {}).get(key) or meant(
                str(key), sorted(keys), f"known keys: {', '.join(sorted(keys))}"
            )
            faults.append(Fault((key,), value[key], "unknown key", hint, "unknown"))
    if faults:
        raise UnfitError(faults)
    return found


def _read_model(model: type[FileModel], given: object) -> Any:
    if isinstance(given, model):
        return given
    value: Any = given
    for name, mode in model.model_validators.items():
        value = _called(getattr(model, name), value, given) if mode == "before" else value
    made = model.model_construct(**_read_keys(model, value))
    for name, mode in model.model_validators.items():
        if mode == "after":
            _called(getattr(model, name), made, given)
    return made


# --- types -------------------------------------------------------------------------------------------------------------------


def _reader(kind: Any, least: int = 0, most: int | None = None) -> Read:
    """Return what reads a value of a type. `least`, `most`: how many items a list, or characters a text, may have."""
    parts, origin = get_args(kind), get_origin(kind)
    if origin is Annotated:
        read = _reader(parts[0], least, most)
        for mark in parts[1:]:
            read = mark.over(read)
        return read
    if origin in (Union, UnionType):
        members = [_reader(one, least, most) for one in parts if one is not NoneType]
        read = members[0] if len(members) == 1 else functools.partial(_read_union, members)
        return (lambda value: None if value is None else read(value)) if NoneType in parts else read
    if origin in (tuple, list):
        return functools.partial(_read_list, origin, _reader(parts[0]), least, most)
    if origin is dict:
        return functools.partial(_read_dict, _reader(parts[0]), _reader(parts[1]), most)
    if origin is Literal:
        return functools.partial(_read_choice, {one: one for one in parts})
    if kind is Any or kind in _SCALARS:
        return (lambda value: value) if kind is Any else functools.partial(_read_scalar, kind, least, most)
    if hasattr(kind, "__required_keys__"):  # a TypedDict
        return functools.partial(_read_keys, kind)
    if issubclass(kind, FileModel):
        return functools.partial(_read_model, kind)
    assert issubclass(kind, Enum), kind
    return functools.partial(_read_choice, {one.value: one for one in kind})


def _read_union(members: list[Read], value: Any) -> Any:
    faults: list[Fault] = []
    for read in members:
        try:
            return read(value)
        except UnfitError as error:
            faults += error.below(None)
    raise UnfitError(faults)


def _read_list(kind: Any, read: Read, least: int, most: int | None, value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise _unfit(value, "should be a list", "write `[a, b]`, or one item a line after `- `")
    found: list[Any] = []
    faults: list[Fault] = []
    for at, item in enumerate(value):
        try:
            found.append(read(item))
        except UnfitError as error:
            faults += error.below(at)
        if most is not None and len(found) > most:
            raise _unfit(value, f"should have at most {counted(most, 'item')}, not {len(value)}", "remove some")
    if faults:
        raise UnfitError(faults)
    if len(found) < least:
        raise _unfit(value, f"should have at least {counted(least, 'item')}", "add one")
    return kind(found)


def _read_dict(read_key: Read, read: Read, most: int | None, value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise _unfit(value, "should be keys and values", "write `{key: value}`, or an indented line for each key")
    if most is not None and len(value) > most:
        raise _unfit(value, f"should have at most {most:,} keys", "remove some")
    found: dict[Any, Any] = {}
    faults: list[Fault] = []
    for key, item in value.items():
        name = made = None
        try:
            name = read_key(key)
        except UnfitError as error:
            faults += error.below(key, None)
        try:
            made = read(item)
        except UnfitError as error:
            faults += error.below(key)
        found[name] = made
    if faults:
        raise UnfitError(faults)
    return found


_SCALARS = {str: "text", int: "a whole number", bool: "true or false", Decimal: "a number", float: "a number"}


def _read_scalar(kind: type, least: int, most: int | None, value: Any) -> Any:
    if kind is Decimal:
        return Decimal(value)  # what is written before it has seen to it
    if kind is str and isinstance(value, str) and not (least <= len(value) <= (most or len(value))):
        raise _unfit(value, f"should have {least} to {most} characters" if most else "should not be empty")
    if kind is str and isinstance(value, str):
        try:
            value.encode()  # half a character of JSON is none
            return value
        except UnicodeEncodeError:
            pass
    elif isinstance(value, float):
        if kind is float and math.isfinite(value):
            return value
    elif type(value) is kind or (kind is float and type(value) is int):
        return value
    raise _unfit(value, f"should be {_SCALARS[kind]}")


def _either(choices: Iterable[Any]) -> str:
    names = [repr(one) for one in choices]
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _read_choice(choices: dict[Any, Any], value: Any) -> Any:
    if isinstance(value, str | int) and not isinstance(value, bool) and value in choices:
        return choices[value]
    expected = _either(choices)
    raise _unfit(value, f"should be {expected}", meant(str(value), map(str, choices), f"write one of {expected}"))


def first_fault(error: Exception) -> str:
    """Return the first error of a file of the runner's own: the field, where it is about one, and why."""
    if not isinstance(error, UnfitError):
        return "it is not JSON"
    first = error.faults[0]
    field = ascii(".".join(str(part) for part in first.at if part is not None))[1:-1][:60]
    return f"`{field}` {first.what}" if field else first.what


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that `word` was most likely meant to be."""
    import difflib  # here, because few files have a mistake

    close = difflib.get_close_matches(word[:200], list(known), n=1, cutoff=0.5)
    return close[0] if close else None


def meant(word: str, known: Iterable[str], other: str) -> str:
    """Return the hint that names the known word which `word` was most likely meant to be; `other` where there is none."""
    close = nearest(word, known)
    return f"did you mean `{close}`?" if close else other
