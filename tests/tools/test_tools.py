"""Tools: their contracts, the built-in ones, and functions of Python modules in real child processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.engines.child import Pipe
from runner.errors import UsageError
from runner.protocol.config import ToolEffect, ToolModule
from runner.sandbox.bubblewrap import Bubblewrap
from runner.sandbox.host import Host
from runner.sandbox.mounts import toolchains
from runner.sandbox.network import Network
from runner.sandbox.process import Command, Sandbox
from runner.tools import (
    Contract,
    OutcomeUnknownError,
    Tool,
    ToolError,
    check_arguments,
    plainly_fits,
    registry,
)
from runner.tools.commands import Child, WorkspaceAlias
from runner.tools.python import PythonTools, ToolModuleError, command_of
from tests.conftest import slack

PYTHON = sys.executable
PATH = f"{Path(PYTHON).parent}:/usr/local/bin:/usr/bin:/bin"
TOOLCHAINS = toolchains(f"{PATH}:{os.environ['PATH']}", Path.home())


@pytest.fixture(params=["sandbox", "host"])
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    if request.param == "host":
        return Host()
    sandbox = Bubblewrap(TOOLCHAINS)
    if (why := sandbox.check()) is not None:
        if os.environ.get("RUNNER_CI") == "1":
            pytest.fail(f"bubblewrap has to work where RUNNER_CI=1: {why}")
        pytest.skip(why)
    return sandbox


class Project:
    """A trusted tree and a workspace, side by side."""

    def __init__(self, root: Path) -> None:
        self.code, self.work = root / "code", root / "work"
        self.code.mkdir()
        self.work.mkdir()

    def write(self, path: str, text: str) -> None:
        file = self.code / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(text))

    def tools(self, sandbox: Sandbox, module: ToolModule | str = "shop", **more: Any) -> PythonTools:
        entry = ToolModule(module=module) if isinstance(module, str) else module
        more.setdefault("env", {"PATH": PATH})
        python = more.pop("interpreter", (PYTHON,))
        more.setdefault("network", Network(entry.network) if entry.network else None)
        timeout = more.pop("timeout", 30.0)
        return PythonTools(sandbox, entry, command_of(entry, python, self.code, self.work, **more), timeout=timeout)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def failure(tool: Tool, arguments: Mapping[str, Any] | None = None) -> ToolError:
    with pytest.raises(ToolError) as caught:
        tool.call(arguments or {})
    return caught.value


def refusal(tools: PythonTools) -> ToolModuleError:
    with pytest.raises(ToolModuleError) as caught, tools:
        pass
    assert caught.value.exit_code == 2
    return caught.value


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from([0.5, 3.0]) | st.sampled_from("abc"),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=5,
)
SCHEMAS = st.recursive(
    st.just(True) | st.just({}) | st.fixed_dictionaries(
        {"type": st.sampled_from(["string", "integer", "number", "boolean", "null", "object", "array", ["string"]])},
        optional={"enum": st.just(["a", 1]), "minLength": st.just(2), "minimum": st.just(2), "title": st.just("t")},
    ),
    lambda inner: st.fixed_dictionaries(
        {"type": st.sampled_from(["object", "array"])},
        optional={
            "properties": st.dictionaries(st.sampled_from("abc"), inner, max_size=2),
            "required": st.lists(st.sampled_from("abc"), max_size=2, unique=True),
            "additionalProperties": st.booleans() | inner,
            "items": inner,
            "maxItems": st.just(1),
            "patternProperties": st.just({"a": False}),
        },
    ),
    max_leaves=4,
)  # fmt: skip


@given(SCHEMAS, JSON)
def test_what_plainly_fits_a_schema_fits_it(schema: Any, value: Any) -> None:
    if plainly_fits(schema, value):
        assert jsonschema.Draft202012Validator(schema).is_valid(value)


def test_arguments_of_the_runners_own_tools_plainly_fit_their_schemas() -> None:
    assert plainly_fits(registry.BUILTIN["echo"].contract.parameters, {"text": "a"})
    assert plainly_fits(registry.BUILTIN["add"].contract.parameters, {"a": 1, "b": 0.5})
    for wrong in ({"a": True, "b": 1}, {"a": 1}, {"a": 1, "b": 2, "c": 3}, {"a": "1", "b": 2}):
        assert not plainly_fits(registry.BUILTIN["add"].contract.parameters, wrong)


# --- contracts and built-in tools -------------------------------------------------------------------------------------


def test_echo_gives_its_text_back() -> None:
    echo = registry.find("echo", {})
    assert echo.call({"text": "grüß\n"}) == {"text": "grüß\n"}
    assert (echo.contract.effect, echo.contract.source) == ("read", "built in")
    assert echo.contract.parameters == {
        "additionalProperties": False,
        "properties": {"text": {"type": "string"}},
        "required": ["text"],
        "type": "object",
    }


@pytest.mark.parametrize(
    ("a", "b", "sum_"), [(2, 3, 5), (2, 0.5, 2.5), (-1, 1, 0), (10**30, 1, 10**30 + 1), (1.0, 2, 3.0)]
)
def test_add_adds_and_whole_numbers_stay_whole(a: float, b: float, sum_: float) -> None:
    result = registry.find("add", {}).call({"a": a, "b": b})
    assert json.dumps(result) == json.dumps({"sum": sum_})


@pytest.mark.parametrize(("a", "b"), [(1e308, 1e308), (10**400, 0.5), (float("nan"), 1), (float("inf"), 1)])
def test_add_has_no_answer_that_json_has_not(a: float, b: float) -> None:
    failure(registry.find("add", {}), {"a": a, "b": b})


@pytest.mark.parametrize(
    ("tool", "arguments", "told"),
    [
        ("echo", {}, "argument `text` is missing: text is expected"),
        ("echo", {"text": 1}, "argument `text` should be text, not 1"),
        ("echo", {"text": None}, "argument `text` should be text, not null"),
        ("echo", {"text": "a", "txet": "b"}, "there is no argument `txet`; did you mean `text`?"),
        ("echo", {"text": "a", "volume": 3}, "there is no argument `volume`; there is text"),
        ("add", {"a": "2", "b": 3}, 'argument `a` should be a number, not "2"'),
        ("add", {"a": True, "b": 3}, "argument `a` should be a number, not true"),
        ("add", {}, "argument `a` is missing: a number is expected; argument `b` is missing: a number is expected"),
        ("add", {"a": "x", "c": 1}, "argument `b` is missing: a number is expected"),
        ("echo", {"text": "\ud800"}, "the arguments are not JSON"),
    ],
)
def test_wrong_arguments_are_named(tool: str, arguments: dict[str, Any], told: str) -> None:
    assert told in str(failure(registry.find(tool, {}), arguments))


def test_problems_deep_inside_arguments_are_named_by_their_path() -> None:
    item: dict[str, Any] = {"type": "object", "properties": {"sku": {"anyOf": [{"type": "string"}, {"type": "null"}]}}}
    item |= {"additionalProperties": False}
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {"items": {"type": "array", "items": {"$ref": "#/$defs/Item"}}},
    }
    contract = Contract(
        name="order",
        description="",
        effect="read",
        parameters={**schema, "$defs": {"Item": item}},
        returns=None,
        source="test",
    )
    check_arguments(contract, {"items": [{"sku": None}]})
    with pytest.raises(ToolError) as caught:
        check_arguments(contract, {"items": [{"sku": 5}, {"sky": "a"}, "b"]})
    assert str(caught.value).split("; ") == [
        "argument `items[0].sku` should be text or null, not 5",
        "there is no argument `items[1].sky`",
        "did you mean `sku`?",
        'argument `items[2]` should be an object, not "b"',
    ]


def test_a_schema_fetches_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        remote = {"$ref": f"http://127.0.0.1:{server.getsockname()[1]}/schema.json"}
        contract = Contract(name="x", description="", effect="read", parameters=remote, returns=None, source="test")
        with pytest.raises(ToolError, match=r"has a reference to nothing: http.*schema\.json"):
            check_arguments(contract, {})
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_name_that_is_not_there_offers_near_ones() -> None:
    with pytest.raises(UsageError, match="there is no tool `ehco`") as caught:
        registry.find("ehco", {})
    assert caught.value.hint == "did you mean echo?"
    assert caught.value.exit_code == 2


def test_a_projects_tool_cannot_pass_for_a_built_in_one(sandbox: Sandbox, project: Project) -> None:
    project.write("shop.py", "def echo(text: str) -> str:\n    return 'mine'\n\ndef fine() -> None: ...\n")
    with project.tools(sandbox) as opened:
        assert registry.find("fine", opened.tools) is opened.tools["fine"]
        with pytest.raises(UsageError, match="two tools are called `echo`: shop:echo"):
            registry.find("echo", opened.tools)


# --- functions of modules ---------------------------------------------------------------------------------------------

EVERY_KIND = '''
    from __future__ import annotations

    import enum
    from collections.abc import Mapping, Sequence
    from dataclasses import dataclass, field
    from typing import Annotated, Any, Literal, NewType, NotRequired, Optional, TypedDict, Union

    Sku = NewType("Sku", str)

    class Colour(enum.Enum):
        RED = "red"
        BLUE = "blue"

    class Level(enum.IntEnum):
        LOW = 1
        HIGH = 2

    @dataclass
    class Item:
        sku: Sku
        colour: Colour
        count: int = 1
        price: float = field(init=False, default=2.5)

    @dataclass
    class Tree:
        name: str
        below: list[Tree] = field(default_factory=list)

    class Address(TypedDict):
        city: str
        zip: NotRequired[str]

    def order(
        text: str,
        whole: int,
        real: float,
        yes: bool,
        nothing: None,
        names: list[str],
        counts: dict[str, int],
        pair: tuple[int, str],
        many: tuple[float, ...],
        maybe: Optional[str],
        either: Union[int, str],
        new: int | None,
        mode: Literal["fast", 3],
        colour: Colour,
        level: Level,
        item: Item,
        address: Address,
        anything: Any,
        noted: Annotated[str, "what it is for"],
        more: Sequence[Item],
        by_name: Mapping[str, Colour],
        untyped,
        given: int = 7,
    ) -> dict[str, str]:
        """Say what came in.

        Not this line.
        """
        return {name: repr(value) for name, value in locals().items()}

    def depth(tree: Tree) -> int:
        return 1 + max((depth(inner) for inner in tree.below), default=0)

    def grow(name: str) -> Tree:
        return Tree(name, [Tree("a"), Tree("b")])

    def make(colour: Colour) -> tuple[Item, Level, Address]:
        return Item(Sku("x"), colour), Level.HIGH, {"city": "Ulm"}

    async def wait(seconds: float, /, *, text: str = "done") -> str:
        import asyncio
        await asyncio.sleep(seconds)
        return text
'''


def test_every_kind_of_annotation_goes_in_and_out(sandbox: Sandbox, project: Project) -> None:
    project.write("shop.py", EVERY_KIND)
    with project.tools(sandbox) as opened:
        assert set(opened.tools) == {"order", "depth", "grow", "make", "wait"}
        assert opened.refused == {}
        order = opened.tools["order"]
        assert order.contract.description == "Say what came in."
        assert order.contract.source == "shop:order"
        properties = order.contract.parameters["properties"]
        assert (
            "given" not in order.contract.parameters["required"] and "untyped" in order.contract.parameters["required"]
        )
        assert properties["given"] == {"type": "integer", "default": 7}
        assert properties["noted"] == {"type": "string", "description": "what it is for"}
        assert properties["mode"] == {"enum": ["fast", 3]}
        assert properties["level"] == {"enum": [1, 2]}
        assert properties["untyped"] == properties["anything"] == {}
        assert properties["item"]["required"] == ["sku", "colour"]
        assert properties["address"]["required"] == ["city"]
        arguments = {
            "text": "ü",
            "whole": 2.0,
            "real": 1,
            "yes": True,
            "nothing": None,
            "names": ["a"],
            "counts": {"a": 1},
            "pair": [1, "b"],
            "many": [1, 2.5],
            "maybe": None,
            "either": "5",
            "new": 4,
            "mode": 3,
            "colour": "blue",
            "level": 2,
            "item": {"sku": "x", "colour": "red"},
            "address": {"city": "Ulm"},
            "anything": [{"a": None}],
            "noted": "n",
            "more": [{"sku": "y", "colour": "blue", "count": 3}],
            "by_name": {"a": "red"},
            "untyped": 1.5,
        }
        said = order.call(arguments)
        assert said == {
            "text": "'ü'",
            "whole": "2",
            "real": "1.0",
            "yes": "True",
            "nothing": "None",
            "names": "['a']",
            "counts": "{'a': 1}",
            "pair": "(1, 'b')",
            "many": "(1.0, 2.5)",
            "maybe": "None",
            "either": "'5'",
            "new": "4",
            "mode": "3",
            "colour": "<Colour.BLUE: 'blue'>",
            "level": "<Level.HIGH: 2>",
            "item": "Item(sku='x', colour=<Colour.RED: 'red'>, count=1, price=2.5)",
            "address": "{'city': 'Ulm'}",
            "anything": "[{'a': None}]",
            "noted": "'n'",
            "more": "[Item(sku='y', colour=<Colour.BLUE: 'blue'>, count=3, price=2.5)]",
            "by_name": "{'a': <Colour.RED: 'red'>}",
            "untyped": "1.5",
            "given": "7",
        }
        for name, wrong in {
            "text": 1,
            "whole": 1.5,
            "real": "1",
            "yes": 1,
            "nothing": 0,
            "names": "a",
            "counts": {"a": "1"},
            "pair": [1],
            "many": ["a"],
            "maybe": 3,
            "either": 1.5,
            "new": "4",
            "mode": "slow",
            "colour": "green",
            "level": 3,
            "item": {"sku": "x"},
            "address": {"city": "Ulm", "street": "a"},
            "more": [1],
            "by_name": {"a": 1},
        }.items():
            assert f"`{name}" in str(failure(order, {**arguments, name: wrong}))
        leaf = {"name": "leaf"}
        assert opened.tools["depth"].call({"tree": {"name": "a", "below": [leaf, {"name": "b", "below": [leaf]}]}}) == 3
        assert "tree.below[0].name" in str(
            failure(opened.tools["depth"], {"tree": {"name": "a", "below": [{"name": 1}]}})
        )
        assert opened.tools["grow"].call({"name": "r"})["below"][1] == {"name": "b", "below": []}
        item = {"sku": "x", "colour": "red", "count": 1, "price": 2.5}
        assert opened.tools["make"].call({"colour": "red"}) == [item, 2, {"city": "Ulm"}]
        assert opened.tools["wait"].call({"seconds": 0.01}) == "done"
        assert opened.tools["wait"].call({"seconds": 0, "text": "now"}) == "now"


def test_pydantic_models_where_the_project_has_them(sandbox: Sandbox, project: Project) -> None:
    project.write(
        "shop.py",
        """
        from datetime import date
        from pydantic import BaseModel, ConfigDict, Field

        class Line(BaseModel):
            sku: str
            count: int = Field(ge=1)

        class Order(BaseModel):
            model_config = ConfigDict(strict=True)
            day: date
            lines: list[Line]

        def place(order: Order, other: Order | None = None) -> Order:
            assert isinstance(order, Order) and isinstance(order.day, date)
            return order.model_copy(update={"lines": order.lines * 2})
        """,
    )
    with project.tools(sandbox) as opened:
        place = opened.tools["place"]
        order = {"day": "2026-11-20", "lines": [{"sku": "a", "count": 1}]}
        assert place.call({"order": order}) == {**order, "lines": order["lines"] * 2}  # type: ignore[operator]
        assert "`order.lines[0].count`" in str(
            failure(place, {"order": {**order, "lines": [{"sku": "a", "count": 0}]}})
        )
        assert "day" in str(failure(place, {"order": {**order, "day": "no day"}}))


def test_what_cannot_be_a_tool_is_told_why(sandbox: Sandbox, project: Project) -> None:
    project.write(
        "shop.py",
        """
        from pathlib import Path
        from os.path import join
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            from nowhere import Thing

        class Class: ...
        shout = print
        def _private() -> None: ...
        def stars(*names: str) -> None: ...
        def keywords(**names: str) -> None: ...
        def path(at: Path) -> None: ...
        def keys(by: dict[int, str]) -> None: ...
        def unread(a: "Thing") -> None: ...
        def odd() -> set[str]: ...
        def many():
            yield 1
        def fine(): ...
        """,
    )
    with project.tools(sandbox) as opened:
        assert set(opened.tools) == {"fine"}
        assert opened.tools["fine"].contract.returns is None
        assert set(opened.refused) == {"stars", "keywords", "path", "keys", "unread", "odd", "many"}
        assert opened.refused["stars"] == "it takes *names: its arguments have no names to give them by"
        assert "**names" in opened.refused["keywords"]
        assert opened.refused["path"].startswith("`at`: JSON has nothing for Path")
        assert "not str" in opened.refused["keys"]
        assert "Thing" in opened.refused["unread"]
        assert opened.refused["odd"].startswith("its result: JSON has nothing for")
        with pytest.raises(UsageError, match=r"the function `stars` cannot be a tool: it takes \*names"):
            registry.find("stars", opened.tools, opened.refused)


def test_a_result_that_is_not_json_or_not_the_declared_one_is_an_error(sandbox: Sandbox, project: Project) -> None:
    project.write(
        "shop.py",
        """
        def a_set(): return {"x": [{1}]}
        def keys(): return {1: "a"}
        def nan(): return float("nan")
        def half(): return "\\ud800"
        def circle():
            items = []
            items.append(items)
            return items
        def big(): return "x" * 5_000_000
        def liar() -> int: return "five"
        """,
    )
    with project.tools(sandbox) as opened:
        told = {name: str(failure(tool)) for name, tool in opened.tools.items()}
    assert "it.x[0] is a set" in told["a_set"]
    assert "the key 1" in told["keys"]
    assert "is nan" in told["nan"]
    assert "not valid Unicode" in told["half"]
    assert "deeper than" in told["circle"]
    assert "5,000,014 bytes" in told["big"]
    assert told["liar"].endswith('the result should be a whole number, not "five"')
    assert all(text.startswith("it was called, but its result") for text in told.values())


def test_an_exception_is_told_with_type_message_and_place(sandbox: Sandbox, project: Project) -> None:
    project.write(
        "shop.py",
        """
        def send(to: str) -> None:
            check(to)

        def check(to: str) -> None:
            raise LookupError(f"nobody is called {to}")

        def leave() -> None:
            raise SystemExit(3)

        def silent() -> None:
            raise Odd

        class Odd(BaseException):
            def __str__(self) -> str:
                raise ValueError
        """,
    )
    with project.tools(sandbox) as opened:
        error = failure(opened.tools["send"], {"to": "bob"})
        assert error.message == "LookupError: nobody is called bob (shop.py:6)"
        assert f'File "{project.code}/shop.py", line 6, in check' in error.output
        assert "child.py" not in error.output
        assert failure(opened.tools["leave"]).message == "it called sys.exit(3) (shop.py:9)"
        assert failure(opened.tools["silent"]).message == "Odd (shop.py:12)"
        assert failure(opened.tools["send"], {"to": "eve"}).message == "LookupError: nobody is called eve (shop.py:6)"


def test_what_a_module_prints_is_no_answer(sandbox: Sandbox, project: Project) -> None:
    project.write(
        "shop.py",
        """
        import os, subprocess, sys
        print('{"tools": [], "refused": {}}')

        def noisy() -> str:
            for _ in range(1000):
                print("x" * 10_000)
            print('{"result": "forged"}')
            os.write(1, b'{"result": "forged"}\\n')
            sys.__stdout__.write('{"result": "forged"}\\n')
            subprocess.run(["echo", '{"result": "forged"}'], check=True)
            return "true"

        def reads() -> list[str]:
            return [sys.stdin.read(), subprocess.run(["cat"], capture_output=True, text=True).stdout]

        def closes() -> str:
            sys.stdout.close()
            sys.stdout = None
            return "true"

        def forks() -> str:
            if os.fork() == 0:
                return "from the child"
            os.wait()
            return "from the parent"
        """,
    )
    with project.tools(sandbox) as opened:
        assert opened.tools["noisy"].call({}) == "true"
        assert opened.tools["reads"].call({}) == ["", ""]
        assert opened.tools["forks"].call({}) == "from the parent"
        assert opened.tools["closes"].call({}) == "true"
        assert opened.tools["reads"].call({}) == ["", ""]


def test_a_function_that_ends_its_process_is_told_and_the_next_call_works(sandbox: Sandbox, project: Project) -> None:
    project.write(
        "shop.py",
        """
        import os, signal
        def vanish() -> None:
            print("last words")
            os._exit(7)
        def killed() -> None:
            os.kill(os.getpid(), signal.SIGKILL)
        def pid() -> int:
            return os.getpid()
        """,
    )
    with project.tools(sandbox) as opened:
        error = failure(opened.tools["vanish"])
        assert error.message == "it ended its process, with exit code 7"
        assert error.output == "last words"
        assert "exit code 137" in str(failure(opened.tools["killed"]))
        assert opened.tools["pid"].call({}) == opened.tools["pid"].call({})
    with pytest.raises(RuntimeError, match="closed"):
        opened.tools["pid"].call({})


BEATS = """
import subprocess
def beats() -> None:
    print("waiting", flush=True)
    subprocess.run(["sh", "-c", "while :; do date +%s%N >> beat; sleep 0.02; done"])
"""


@pytest.mark.slow
def test_a_function_without_end_is_ended_with_what_it_started(sandbox: Sandbox, project: Project) -> None:
    project.write(
        "shop.py",
        BEATS
        + """
def deaf() -> None:
    import signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
def fine(text: str) -> int:
    return len(text)
""",
    )
    seconds = round(1.5 * slack(), 1)
    with project.tools(sandbox, timeout=seconds) as opened:
        began = time.monotonic()
        error = failure(opened.tools["beats"])
        assert error.message == f"timed out after {seconds:g} s; it was ended"
        assert error.output.startswith("waiting")
        beat = (project.work / "beat").read_bytes()
        time.sleep(0.3)
        assert beat and (project.work / "beat").read_bytes() == beat
        failure(opened.tools["deaf"])
        assert time.monotonic() - began < 15 * slack()
        assert opened.tools["fine"].call({"text": "x" * 500_000}) == 500_000


def test_an_interrupted_call_ends_its_process_and_the_next_one_works(sandbox: Sandbox, project: Project) -> None:
    project.write("shop.py", BEATS + "def fine() -> str:\n    return 'fine'\n")

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)

    def strike() -> None:
        beat, until = project.work / "beat", time.monotonic() + 100
        while not (beat.exists() and beat.read_bytes()) and time.monotonic() < until:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGUSR1)

    striking = threading.Thread(target=strike, daemon=True)
    try:
        with project.tools(sandbox) as opened:
            striking.start()
            with pytest.raises(KeyboardInterrupt):
                opened.tools["beats"].call({})
            beat = (project.work / "beat").read_bytes()
            time.sleep(0.3)
            assert beat and (project.work / "beat").read_bytes() == beat
            assert opened.tools["fine"].call({}) == "fine"
    finally:
        striking.join()
        signal.signal(signal.SIGUSR1, before)


def test_arguments_are_taken_whatever_their_size(sandbox: Sandbox, project: Project) -> None:
    project.write("shop.py", "def size(text: str) -> int:\n    return len(text)\n")
    with project.tools(sandbox) as opened:
        assert opened.tools["size"].call({"text": "ü" * 3_000_000}) == 3_000_000


# --- loading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told", "place"),
    [
        ("import json\nimport nowhere_at_all\n", "ModuleNotFoundError: No module named 'nowhere_at_all'", "shop.py:2"),
        ("def f(:\n", "SyntaxError: invalid syntax", "shop.py:1"),
        ("x = 1\n\n1 / 0\n", "ZeroDivisionError: division by zero", "shop.py:3"),
        ("import inner\n", "ValueError: within", "inner.py:2"),
        ("import sys\nsys.exit('no')\n", "it called sys.exit('no')", "shop.py:2"),
        ("import os\nprint('off')\nos._exit(4)\n", "its process ended with exit code 4\noff", None),
        ("import time\ntime.sleep(600)\n", "timed out after 2 s", None),
    ],
)
@pytest.mark.slow
def test_a_module_that_does_not_load_is_named_with_file_and_line(
    sandbox: Sandbox, project: Project, text: str, told: str, place: str | None
) -> None:
    (project.code / "inner.py").write_text("\nraise ValueError('within')\n")
    (project.code / "shop.py").write_text(text)
    error = refusal(project.tools(sandbox, timeout=2.0 if "sleep" in text else 30.0))
    assert told in error.what
    assert error.where == (f"{place}, on the trusted branch" if place else "tools: shop")


def test_a_module_or_interpreter_that_is_not_there_is_named(sandbox: Sandbox, project: Project) -> None:
    error = refusal(project.tools(sandbox))
    assert "No module named 'shop'" in error.what
    error = refusal(project.tools(sandbox, interpreter=("no-such-python",)))
    assert "no-such-python" in error.what and "127" in error.what


def test_only_the_trusted_tree_is_loaded_from(sandbox: Sandbox, project: Project) -> None:
    """The workspace, which an agent can write, is the child's folder, but no place to import from."""
    project.write("pkg/__init__.py", "")
    project.write(
        "pkg/tools.py",
        "from pkg.beside import WORD\nimport sibling\ndef word() -> str:\n    return WORD + sibling.WORD\n",
    )
    project.write("pkg/beside.py", "WORD = 'trusted '\n")
    project.write("sibling.py", "WORD = 'sibling'\n")
    for name in ("sibling.py", "pkg.py", "json.py", "enum.py", "shadow.py"):
        (project.work / name).write_text("raise SystemExit('loaded from the workspace')\n")
    with project.tools(sandbox, "pkg.tools") as opened:
        assert opened.tools["word"].call({}) == "trusted sibling"
    project.write("colorsys.py", "WORD = 'before what is installed'\n")
    project.write("first.py", "import colorsys\ndef word() -> str:\n    return colorsys.WORD\n")
    with project.tools(sandbox, "first") as opened:
        assert opened.tools["word"].call({}) == "before what is installed"
    assert "No module named 'shadow'" in refusal(project.tools(sandbox, "shadow")).what
    assert "is not in the trusted branch's tree" in refusal(project.tools(sandbox, "json")).what


def test_nothing_is_written_beside_the_code_and_the_workspace_can_be(sandbox: Sandbox, project: Project) -> None:
    project.write("helper.py", "")
    project.write("shop.py", "import helper\ndef note(text: str) -> None:\n    open('note', 'w').write(text)\n")
    with project.tools(sandbox) as opened:
        opened.tools["note"].call({"text": "hello"})
    assert (project.work / "note").read_text() == "hello"
    assert sorted(path.name for path in project.code.iterdir()) == ["helper.py", "shop.py"]


def test_in_bubblewrap_the_code_cannot_be_changed(project: Project) -> None:
    if (why := Bubblewrap(TOOLCHAINS).check()) is not None:
        if os.environ.get("RUNNER_CI") == "1":
            pytest.fail(f"bubblewrap has to work where RUNNER_CI=1: {why}")
        pytest.skip(why)
    project.write("shop.py", "def change() -> None:\n    open(__file__, 'a').write('x')\n")
    with project.tools(Bubblewrap(TOOLCHAINS)) as opened:
        assert "Read-only file system" in str(failure(opened.tools["change"]))


def test_only_the_variables_that_the_entry_names_are_passed(
    sandbox: Sandbox, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEAKED", "by inheritance")
    project.write("shop.py", "import os\ndef environment() -> dict[str, str]:\n    return dict(os.environ)\n")
    entry = ToolModule(module="shop", env=("SHOP_KEY", "ABSENT"))
    env = {"PATH": PATH, "SHOP_KEY": "k", "OTHER_KEY": "secret"}
    with project.tools(sandbox, entry, env=env) as opened:
        seen = opened.tools["environment"].call({})
    # Python sets LC_CTYPE where there is no locale, bubblewrap HOME.
    assert {name: value for name, value in seen.items() if name not in ("LC_CTYPE", "HOME")} == {
        "PATH": PATH,
        "SHOP_KEY": "k",
    }


@pytest.mark.parametrize("named", [False, True])
def test_only_hosts_that_the_entry_names_are_reached(sandbox: Sandbox, project: Project, named: bool) -> None:
    project.write(
        "shop.py",
        """
        import socket
        def reach(port: int) -> bool:
            try:
                socket.create_connection(("127.0.0.1", port), 5).close()
            except OSError:
                return False
            return True
        """,
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        entry = ToolModule(module="shop", network=(f"localhost:{port}" if named else "example.test",))
        with project.tools(sandbox, entry) as opened:
            reached = opened.tools["reach"].call({"port": port})
    assert reached is (named or sandbox.name == "host")  # the host keeps nothing back


def test_effects_are_the_entrys_and_external_never_without_a_word(sandbox: Sandbox, project: Project) -> None:
    project.write(
        "shop.py",
        """
        def look() -> int: return 1
        def write() -> None: ...
        def send(ref: str) -> None: ...
        def book() -> None: ...
        def silent() -> None: ...
        """,
    )
    entry = ToolModule(
        module="shop",
        effects={
            "look": "read",
            "write": "workspace",
            "send": ToolEffect(external="keyed", key="ref"),
            "book": ToolEffect(external="probed", probe="look"),
        },
    )
    with project.tools(sandbox, entry) as opened:
        found = {name: (tool.contract.effect, tool.contract.repeat) for name, tool in opened.tools.items()}
    assert found == {
        "look": ("read", "never"),
        "write": ("workspace", "never"),
        "send": ("external", "keyed"),
        "book": ("external", "probed"),
        "silent": ("external", "never"),
    }


@pytest.mark.parametrize(
    ("effects", "what", "hint"),
    [
        ({"sned": "read"}, "no public function `sned` is defined in it", "did you mean send?"),
        ({"send": ToolEffect(external="keyed", key="rev")}, "`send` has no argument `rev`", "did you mean ref?"),
        ({"send": ToolEffect(external="probed", probe="xyz")}, "no public function `xyz`", "there is send"),
        ({"send": ToolEffect(external="keyed")}, "names no `key`", "add `key: …` beside `external: keyed`"),
        ({"send": ToolEffect(external="probed")}, "names no `probe`", "add `probe: …` beside `external: probed`"),
        ({"send": ToolEffect(external="probed", probe="send")}, "is not `read`", "add `send: read`"),
    ],
)
def test_an_entry_that_does_not_fit_its_module_is_refused(
    sandbox: Sandbox, project: Project, effects: dict[str, Any], what: str, hint: str
) -> None:
    project.write("shop.py", "def send(ref: str) -> None: ...\n")
    error = refusal(project.tools(sandbox, ToolModule(module="shop", effects=effects)))
    assert what in error.what
    assert error.hint == hint


def test_a_key_is_the_runners_to_fill_and_a_probe_looks_up(sandbox: Sandbox, project: Project) -> None:
    project.write(
        "shop.py",
        """
        def send(to: str, ref: str) -> str: return f"{to} {ref}"
        def book(seat: int, note: str = "") -> int: return seat
        def find(seat: int) -> int | None: return seat if seat > 3 else None
        """,
    )
    entry = ToolModule(
        module="shop",
        effects={
            "send": ToolEffect(external="keyed", key="ref"),
            "book": ToolEffect(external="probed", probe="find"),
            "find": "read",
        },
    )
    with project.tools(sandbox, entry) as opened:
        send, book = opened.tools["send"], opened.tools["book"]
        assert (send.contract.key, list(send.contract.parameters["properties"])) == ("ref", ["to"])
        assert send.contract.parameters["required"] == ["to"]
        assert send.call({"to": "ops", "ref": "k1"}) == "ops k1"
        assert book.probe is not None
        assert (book.probe({"seat": 4, "note": "x"}), book.probe({"seat": 2})) == (4, None)


@pytest.mark.parametrize(
    "body",
    [
        "import os; os._exit(3)",
        pytest.param("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", marks=pytest.mark.slow),
        pytest.param("import time; time.sleep(60)", marks=pytest.mark.slow),
    ],
)
def test_a_call_whose_process_is_gone_has_an_outcome_that_nobody_knows(
    sandbox: Sandbox, project: Project, body: str
) -> None:
    project.write("shop.py", f"def send() -> None:\n    {body}\ndef fail() -> None:\n    raise ValueError('no')\n")
    with project.tools(sandbox, timeout=3.0 * slack()) as opened:
        with pytest.raises(OutcomeUnknownError):
            opened.tools["send"].call({})
        with pytest.raises(ToolError, match="no") as told:
            opened.tools["fail"].call({})
        assert not isinstance(told.value, OutcomeUnknownError)


def test_another_python_than_ours_holds_the_module(sandbox: Sandbox, project: Project) -> None:
    """The child is standard library alone: the project's interpreter need not have what the runner needs."""
    project.write(
        "shop.py", "import sys\ndef flags() -> list[bool]:\n    return [sys.flags.safe_path, sys.dont_write_bytecode]\n"
    )
    with project.tools(sandbox, interpreter=(PYTHON, "-S")) as opened:  # -S: no site-packages, so no pydantic
        assert opened.tools["flags"].call({}) == [True, True]


def test_the_checkouts_path_is_hidden_where_it_is_a_path_and_in_no_file() -> None:
    alias = WorkspaceAlias(Path("/state/ws/work"), Path("/app"))
    assert alias.hide_all("/app/x.py:3 in src/app/y, https://x.org/app/v1, /state/ws/work/z") == (
        "/workspace/x.py:3 in src/app/y, https://x.org/app/v1, /workspace/z"
    )
    assert alias.hide({"text": "WORKDIR /app\n/state/ws/work/z"}) == {"text": "WORKDIR /app\n/workspace/z"}


@pytest.mark.parametrize(
    ("says", "what"),
    [
        (r"'{\"a\": 1}\n{\"a\": 2}\n'", "more than one line"),
        (r"'{\"a\": 1}\n{\"a'", "more than one line"),
        (r"'x' * 17_000_000 + '\n'", "more than 16,777,216 bytes"),
        (r"'[]\n'", "not an object"),
        (r"'no\n'", "not JSON"),
    ],
)
def test_a_child_that_answers_anything_but_one_line_is_ended(tmp_path: Path, says: str, what: str) -> None:
    code = f"import sys, time; sys.stdin.readline(); sys.stdout.write({says}); sys.stdout.flush(); time.sleep(60)"
    child = Child(Host(), Command((sys.executable, "-c", code), tmp_path, {}, 60, readable=(tmp_path,)))
    with pytest.raises(ToolError, match=what):
        child.ask({}, 20)
    assert not child.is_there and child.outcome is not None


def test_a_listener_that_fails_is_no_fault_of_the_childs(tmp_path: Path) -> None:
    def failing(data: bytes) -> None:
        raise ValueError("of the journal")

    pipes = Pipe(Host().open(Command(("echo", "{}"), tmp_path, {"PATH": os.environ["PATH"]}, 60, readable=(tmp_path,))))
    pipes.take = failing
    try:
        with pytest.raises(ValueError, match="of the journal"):
            pipes.next(20)
    finally:
        pipes.session.close()
