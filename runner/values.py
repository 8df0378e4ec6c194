"""`dataclass`, as the standard library's with slots, whose methods are made when a class is first used.

The library writes and compiles six functions for each class as its module is loaded, a millisecond or so; a command loads
some two hundred classes and uses a quarter of them. What a class can do, and what a type checker sees, is the same.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
import threading
from typing import TYPE_CHECKING, Any

__all__ = ["dataclass"]

_MADE = (
    "__init__", "__repr__", "__eq__", "__hash__", "__dataclass_fields__", "__dataclass_params__", "__match_args__",
    *(("__replace__",) if sys.version_info >= (3, 13) else ()),
)  # fmt: skip
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
        written, options = waiting
        whole = dataclasses.dataclass(**options)(written)
        for name in _MADE:
            if isinstance(kind.__dict__.get(name), _Later):
                setattr(kind, name, getattr(whole, name))
        del kind.__later__  # type: ignore[attr-defined]


if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(*, slots: bool, frozen: bool = False, kw_only: bool = False):
        """Make a dataclass of the decorated class, with slots: no other attribute can be set."""
        assert slots, "without slots it is the library's"

        def decorate(written: type) -> type:
            own = [name for name, said in inspect.get_annotations(written).items() if "ClassVar" not in said]
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
                "__slots__": tuple(name for name in own if name not in taken),
                "__later__": (written, {"frozen": frozen, "kw_only": kw_only}),
                "__qualname__": written.__qualname__,
            }
            kind = type(written)(written.__name__, written.__bases__, inside)
            for one in later.values():
                one.owner = kind
            return kind

        return decorate
