"""`dataclass`, as the standard library's with slots, whose methods are made when a class is first used.

The library writes and compiles six functions for each class as its module is loaded, a millisecond or so; a command loads
some two hundred classes and uses a quarter of them. Of these only `__init__` is compiled here, once a class was used often, for
the library's share was a sixth of a whole `runner step`. What a class can do, and what a type checker sees, is the same.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
import operator
import reprlib
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

__all__ = ["dataclass"]

_MADE = (
    "__init__", "__repr__", "__eq__", "__hash__", "__dataclass_fields__", "__dataclass_params__", "__match_args__",
    *(("__replace__",) if sys.version_info >= (3, 13) else ()),
)  # fmt: skip
FEW = 32  # values of a class are made without compiling its `__init__`, which takes as long as some seventy of them
_NONE = object()
_making = threading.RLock()


class _Later:
    """Takes the place in a class of something that the library makes when it is first needed."""

    __slots__ = ("name", "owner")

    def __init__(self, name: str) -> None:
        self.name, self.owner = name, object

    def __get__(self, value: object, kind: type) -> Any:
        _make(self.owner)
        made = self.owner.__dict__[
            self.name
        ]  # the owner's: a class below it may have its own, and ask for this by `super()`
        return made.__get__(value, kind) if hasattr(made, "__get__") else made


class _Signature:
    """The signature of a class and of none below it, made each time that it is asked for: tools ask that make values of their own."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.owner = owner

    def __get__(self, value: object, kind: type) -> inspect.Signature:
        if kind is not self.owner:
            raise AttributeError("__signature__")
        return _signature(dataclasses.fields(kind))


def _refuse_change(self: object, name: str, value: object = None) -> None:
    raise dataclasses.FrozenInstanceError(f"{name!r} of a {type(self).__name__} cannot be changed")


def _state(self: object) -> list[object]:
    return [getattr(self, one.name) for one in dataclasses.fields(self)]  # type: ignore[arg-type]


def _set_state(self: object, state: list[object]) -> None:
    for one, value in zip(dataclasses.fields(self), state, strict=True):  # type: ignore[arg-type]
        object.__setattr__(self, one.name, value)


def _make(kind: type) -> None:
    with _making:
        waiting = kind.__dict__.get("__later__")
        if waiting is None:
            return
        written, frozen, kw_only = waiting
        for name, made in _methods(kind, written, frozen=frozen, kw_only=kw_only).items():
            if isinstance(kind.__dict__.get(name), _Later):
                setattr(kind, name, made)
        del kind.__later__  # type: ignore[attr-defined]


def _methods(kind: type, written: type, *, frozen: bool, kw_only: bool) -> dict[str, Any]:
    """Return what the library makes of a class, by its own `Field`s."""
    found: dict[str, dataclasses.Field[Any]] = {}
    for base in reversed(written.__mro__[1:]):
        found |= getattr(base, "__dataclass_fields__", {})
    for name, told in inspect.get_annotations(written).items():
        if _is_field(told):
            found[name] = _field(name, told, vars(written).get(name, dataclasses.MISSING), kw_only=kw_only)
    fields = tuple(found.values())
    same = _getter([one.name for one in fields if one.compare])
    hashed = _getter([one.name for one in fields if (one.compare if one.hash is None else one.hash)])
    shown = [one.name for one in fields if one.repr]

    def __eq__(self: object, other: object) -> bool:
        return same(self) == same(other) if other.__class__ is self.__class__ else NotImplemented

    def __hash__(self: object) -> int:
        return hash(hashed(self))

    @reprlib.recursive_repr()
    def __repr__(self: object) -> str:
        told = ", ".join(f"{name}={getattr(self, name)!r}" for name in shown)
        return f"{self.__class__.__qualname__}({told})"

    def __replace__(self: Any, /, **changes: Any) -> Any:
        return dataclasses.replace(self, **changes)

    init = _init(kind, fields, frozen=frozen, then=hasattr(written, "__post_init__"))
    made: dict[str, Any] = {one.__name__: one for one in (init, __repr__, __eq__, __hash__, __replace__)}
    for name, one in made.items():
        one.__qualname__ = f"{kind.__qualname__}.{name}"
    return made | {
        "__dataclass_fields__": found,
        "__dataclass_params__": _params(frozen=frozen, kw_only=kw_only),
        "__match_args__": tuple(one.name for one in fields if one.init and not one.kw_only),
    }


def _field(name: str, told: object, value: Any, *, kw_only: bool) -> dataclasses.Field[Any]:
    """Return what the library keeps of a field. `value`: its default, what `dataclasses.field` made, or MISSING."""
    one: Any = value if isinstance(value, dataclasses.Field) else dataclasses.field(default=value)
    if one.default.__class__.__hash__ is None:
        raise ValueError(f"mutable default {one.default!r} of {name}: use a default_factory")
    one.name, one.type, one._field_type = name, told, dataclasses._FIELD  # type: ignore[attr-defined]
    one.kw_only = kw_only if one.kw_only is dataclasses.MISSING else one.kw_only
    made: dataclasses.Field[Any] = one
    return made


@functools.cache
def _params(*, frozen: bool, kw_only: bool) -> object:
    """Return what the library keeps of how a class was decorated."""
    library = dataclasses.dataclass(frozen=frozen, kw_only=kw_only, slots=True)
    return library(type("_", (), {"__doc__": ""})).__dataclass_params__  # type: ignore[attr-defined]


def _is_field(annotation: object) -> bool:
    return "ClassVar" not in str(annotation)


def _getter(names: list[str]) -> Callable[[object], tuple[object, ...]]:
    """Return a function from a value to its fields of these names."""
    if len(names) > 1:
        return operator.attrgetter(*names)
    return lambda self: tuple(getattr(self, name) for name in names)


def _init(kind: type, fields: Sequence[dataclasses.Field[Any]], *, frozen: bool, then: bool) -> Callable[..., None]:
    """Return an `__init__` that looks at the fields, and compiles the one that it is replaced by when it was called FEW times."""
    calls = itertools.count(1)
    ordered = [one.name for one in fields if one.init and not one.kw_only]
    taken = {one.name for one in fields if one.init}
    rows = [(one.name, one.default, one.default_factory) for one in fields]

    def __init__(self: object, /, *args: object, **named: object) -> None:
        values = dict(zip(ordered, args, strict=False)) | named
        # What does not fit is refused in the words of the compiled one.
        if next(calls) > FEW or len(values) != len(args) + len(named) or not values.keys() <= taken:
            return compiled()(self, *args, **named)
        for name, default, factory in rows:
            if name in values:
                default = values[name]
            elif factory is not dataclasses.MISSING:
                default = factory()
            elif default is dataclasses.MISSING:
                if name in taken:
                    return compiled()(self, *args, **named)
                continue
            object.__setattr__(self, name, default)
        if then:
            self.__post_init__()  # type: ignore[attr-defined]

    def compiled() -> Callable[..., None]:
        if kind.__dict__["__init__"] is __init__:
            made = _compiled(fields, frozen=frozen, then=then)
            made.__qualname__ = f"{kind.__qualname__}.__init__"
            kind.__init__ = made  # type: ignore[misc]
        found: Callable[..., None] = kind.__dict__["__init__"]
        return found

    return __init__


def _signature(fields: Sequence[dataclasses.Field[Any]]) -> inspect.Signature:
    """Return what `inspect.signature` reads of a class whose `__init__` is compiled."""
    told = []
    for one in sorted(fields, key=lambda one: one.kw_only is True):
        kind = inspect.Parameter.KEYWORD_ONLY if one.kw_only else inspect.Parameter.POSITIONAL_OR_KEYWORD
        default = inspect.Parameter.empty if one.default is dataclasses.MISSING else one.default
        default = default if one.default_factory is dataclasses.MISSING else _NONE
        told += [inspect.Parameter(one.name, kind, default=default)] if one.init else []
    return inspect.Signature(told)


def _compiled(fields: Sequence[dataclasses.Field[Any]], *, frozen: bool, then: bool) -> Callable[..., None]:
    """Return `__init__` as the library writes it. `then`: it calls `__post_init__`."""
    given: dict[str, Any] = {"_set": object.__setattr__, "_none": _NONE}
    ordered, named, lines = list[str](), list[str](), list[str]()
    for one in fields:
        name = value = one.name
        parameter = name
        if one.default_factory is not dataclasses.MISSING:
            given[f"_make_{name}"] = one.default_factory
            parameter = f"{name}=_none"
            value = f"_make_{name}() if {name} is _none else {name}" if one.init else f"_make_{name}()"
        elif one.default is not dataclasses.MISSING:
            given[f"_default_{name}"] = one.default
            parameter = f"{name}=_default_{name}"
            value = name if one.init else f"_default_{name}"
        elif not one.init:
            continue
        if one.init:
            (named if one.kw_only else ordered).append(parameter)
        lines.append(f"_set(self, {name!r}, {value})" if frozen else f"self.{name} = {value}")
    lines += ["self.__post_init__()"] if then else []
    parameters = ", ".join(["self", *ordered, *(["*"] if named else []), *named])
    exec(f"def __init__({parameters}):\n " + "\n ".join(lines or ["pass"]), given)
    made: Callable[..., None] = given["__init__"]
    return made


if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(*, slots: bool, frozen: bool = False, kw_only: bool = False):
        """Make a dataclass of the decorated class, with slots: no other attribute can be set."""
        assert slots, "without slots it is the library's"

        def decorate(written: type) -> type:
            own = [name for name, said in inspect.get_annotations(written).items() if _is_field(said)]
            inside = {
                name: value
                for name, value in vars(written).items()
                if name not in own and name not in ("__dict__", "__weakref__")
            }
            taken = {name for base in written.__mro__[1:-1] for name in getattr(base, "__slots__", ())}
            if "__eq__" in inside and inside.get("__hash__", ...) is None:
                del inside["__hash__"]  # Python put it there, nobody wrote it
            if frozen:  # copies and pickles are filled without `__setattr__`
                inside = {"__getstate__": _state, "__setstate__": _set_state} | inside
            else:
                inside.setdefault("__hash__", None)
            later = {name: _Later(name) for name in _MADE if name == "__init__" or name not in inside}
            if frozen:
                inside |= {"__setattr__": _refuse_change, "__delattr__": _refuse_change}
            inside |= later | {
                "__signature__": _Signature(),
                "__slots__": tuple(name for name in own if name not in taken),
                "__later__": (written, frozen, kw_only),
                "__qualname__": written.__qualname__,
            }
            kind = type(written)(written.__name__, written.__bases__, inside)
            for one in later.values():
                one.owner = kind
            return kind

        return decorate
