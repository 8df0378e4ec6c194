"""A class that is made later is the same as the standard library's."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable, Hashable
from dataclasses import field
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

import pytest

import runner
from runner import lines, values

LIBRARY: Callable[..., Any] = dataclasses.dataclass
OURS: Callable[..., Any] = values.dataclass


def pair(make: Callable[..., Any]) -> tuple[type[Any], type[Any]]:
    @make(frozen=True, slots=True)
    class Base:
        """What both have."""

        kind: ClassVar[str] = "base"
        name: str
        count: int = 1

        def twice(self) -> int:
            return self.count * 2

        @property
        def loud(self) -> str:
            return self.name.upper()

    @make(frozen=True, slots=True, kw_only=True)
    class Below(Base):
        """With more."""

        kind: ClassVar[str] = "below"
        lines: list[int] = field(default_factory=list)
        hidden: str = field(default="", repr=False, compare=False)
        must: int

        def __post_init__(self) -> None:
            object.__setattr__(self, "hidden", f"after {self.must}")

    return Base, Below


def own(base: Any) -> Any:
    """A plain class below it, that asks it by `super()`."""

    class Own(base):  # type: ignore[misc]
        def __init__(self, name: str, count: str) -> None:
            super().__init__(name, int(count))

        def __repr__(self) -> str:
            return f"own {super().__repr__().rpartition('.')[2]}"

        def __hash__(self) -> int:
            return int(super().__hash__()) + 1

        def __eq__(self, other: object) -> bool:
            return super().__eq__(other) is True

    return Own


@pytest.mark.parametrize(
    "ask",
    [
        lambda base, below: base("a"),
        lambda base, below: base("a", 2).twice(),
        lambda base, below: base(name="a").loud,
        lambda base, below: below("a", 3, must=1),
        lambda base, below: below("a", must=4).hidden,
        lambda base, below: below("a", must=1) == below("a", must=1),
        lambda base, below: below("a", must=1) == below("a", must=2),
        lambda base, below: base("a") == below("a", must=2),
        lambda base, below: hash(base("a")) == hash(base("a", 1)),
        lambda base, below: hash(below("a", must=1)),
        lambda base, below: dataclasses.replace(base("a"), count=5),
        lambda base, below: dataclasses.asdict(below("a", must=1)),
        lambda base, below: [(one.name, one.kw_only, one.repr) for one in dataclasses.fields(below)],
        lambda base, below: (base.__match_args__, below.__match_args__),
        lambda base, below: (base.kind, below.kind, below.__slots__, below.__doc__, base.__qualname__.split(".")[-1]),
        lambda base, below: base(),
        lambda base, below: below("a"),
        lambda base, below: base("a", more=1),
        lambda base, below: base("a", 1, 2),
        lambda base, below: [(one.name, one.kind, one.default is one.empty) for one in signature(below).parameters.values()],
        lambda base, below: base("a", name="b"),
        lambda base, below: below("a", must=1, hidden="b"),
        lambda base, below: hasattr(base("a"), "__dict__"),
        lambda base, below: setattr(base("a"), "name", "b"),
        lambda base, below: delattr(below("a", must=1), "must"),
        lambda base, below: below("a", must=1).lines is below("a", must=1).lines,
        lambda base, below: copy.copy(below("a", must=1)),
        lambda base, below: copy.deepcopy(below("a", must=1, lines=[1])),
        lambda base, below: base("a").__reduce_ex__(2)[2],
        lambda base, below: own(base)("a", "2"),
        lambda base, below: hash(own(base)("a", "2")) - hash(base("a", 2)),
        lambda base, below: own(base)("a", "2") == own(base)("a", "2"),
        lambda base, below: hasattr(base, "__replace__"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("few", [0, values.FEW])
def test_it_does_what_the_librarys_does(
    ask: Callable[[Any, Any], object], few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(values, "FEW", few)

    def told(make: Callable[..., Any]) -> str:
        try:
            return repr(ask(*pair(make)))
        except Exception as error:
            return f"{type(error).__name__}: {error if isinstance(error, TypeError) else ''}"

    assert told(OURS) == told(LIBRARY)


def test_one_that_can_be_changed_can_be_and_has_no_hash() -> None:
    def told(make: Callable[..., Any]) -> str:
        @make(slots=True)
        class Total:
            turns: int = 0
            names: list[str] = field(default_factory=list)

        one = Total()
        one.turns += 1
        one.names.append("a")
        with pytest.raises(TypeError):
            hash(one)
        assert not issubclass(make(slots=True)(type("Other", (), {"__annotations__": {}})), Hashable)
        with pytest.raises(AttributeError):
            setattr(one, "other", 1)  # noqa: B010
        return repr(one)

    assert told(OURS) == told(LIBRARY)


@pytest.mark.parametrize("frozen", [True, False])
def test_one_that_says_itself_what_equals_it_has_a_hash_where_the_librarys_has(frozen: bool) -> None:
    def told(make: Callable[..., Any]) -> bool:
        @make(frozen=frozen, slots=True)
        class Same:
            name: str = ""

            def __eq__(self, other: object) -> bool:
                return True

        return Same().__hash__ is None

    assert told(OURS) == told(LIBRARY) != frozen


def test_nothing_is_made_before_it_is_used() -> None:
    base, below = pair(OURS)
    assert all("__later__" in vars(one) for one in (base, below))
    base("a")
    assert "__later__" not in vars(base) and "__later__" in vars(below)


def test_what_makes_a_value_is_compiled_when_it_was_used_often() -> None:
    base, _ = pair(OURS)
    base("a")
    first = vars(base)["__init__"]
    for _ in range(values.FEW - 1):
        base("a")
    assert vars(base)["__init__"] is first
    assert [base("a", count=number).count for number in range(3)] == [0, 1, 2]
    assert vars(base)["__init__"] is not first


def test_a_default_that_can_be_changed_is_refused() -> None:
    @OURS(slots=True)
    class Shared:
        names: list[str] = []  # noqa: RUF012

    with pytest.raises(ValueError, match="mutable default"):
        Shared()


def test_every_pattern_can_be_compiled() -> None:
    found = 0
    for path in sorted(Path(runner.__file__).parent.rglob("*.py")):
        text = path.read_text()
        if " = pattern(" in text:
            name = ".".join(path.relative_to(Path(runner.__file__).parents[1]).with_suffix("").parts)
            module = import_module(name.removesuffix(".__init__"))
            hasattr(module, "anything")  # it runs when something of it is used
            late = [one for one in vars(module).values() if type(one).__name__ == "_Pattern"]
            assert [one.match("" if isinstance(one.pattern, str) else b"") for one in late] and late, path
            found += len(late)
    assert found > 70


def test_a_pattern_is_compiled_when_it_is_used_and_as_the_librarys() -> None:
    late, soon = lines.pattern(r"(a)|B", re.IGNORECASE), re.compile(r"(a)|B", re.IGNORECASE)
    assert "fullmatch" not in vars(late)
    assert late.fullmatch("A") and vars(late)["fullmatch"] == soon.fullmatch
    assert (late.pattern, late.flags, late.groups, late.sub("x", "ab")) == ("(a)|B", soon.flags, 1, "xx")
    assert lines.pattern(rb"[0-9]+").findall(b"1 22") == [b"1", b"22"]
