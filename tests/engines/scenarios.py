"""Conversations that every engine has to hold: what the model says, and what is asked in turn. Nothing here is a provider's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from runner.engines import (
    Call,
    Engine,
    ModelTurn,
    Request,
    Response,
    ToolResult,
    ToolSpec,
    ToolTurn,
    Turn,
    Usage,
    UserTurn,
)

TIMEOUT = 20.0
READ = ToolSpec(
    name="read_file",
    description="Read a file.",
    parameters={
        "type": "object",
        "properties": {"path": {"type": "string"}, "start_line": {"$ref": "#/$defs/line"}},
        "required": ["path"],
        "$defs": {"line": {"type": "integer", "minimum": 1}},
    },
)
SHELL = ToolSpec(
    name="shell", description="", parameters={"type": "object", "properties": {"command": {"type": "string"}}}
)
VERDICT = {"type": "object", "properties": {"verdict": {"enum": ["PASS", "FAIL"]}}, "required": ["verdict"]}
ODD = 'grüße 你好 🎉 \u202e\u2028\x7f\x00 "quotes" \\ back\r\n</tag> {{x}} data: [DONE]\n\n'


# A picture of one pixel, as `read_file` gives it.
DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PICTURE = {"text": "a picture, image/png, 70 bytes", "image": f"image/png;base64,{DOT}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A call that the model makes. `id`: empty where the provider gives none."""

    name: str
    arguments: dict[str, object]
    id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What the model says to one request, in pieces. `signature`: the provider's own token at the first call."""

    text: tuple[str, ...] = ()
    calls: tuple[Asked, ...] = ()
    thoughts: tuple[str, ...] = ()
    finish: str = "stop"
    problem: str = ""
    blocked: bool = False
    signature: bytes = b""
    usage: Usage = field(default_factory=lambda: Usage(input=100, output=20))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What the model says in turn, and the questions that are put to it."""

    script: tuple[Said, ...]
    play: Callable[[Engine], list[Response]]


def request(*turns: Turn, **more: object) -> Request:
    """Return a request of a worker with two tools."""
    return Request(system="You mend programs.", turns=turns, **{"tools": (READ, SHELL), **more})  # type: ignore[arg-type]


def one(asked: Request) -> Callable[[Engine], list[Response]]:
    """Ask one question."""
    return lambda engine: [engine.ask(asked, timeout=TIMEOUT)]


def results(turn: ModelTurn, *contents: object, errors: frozenset[int] = frozenset()) -> ToolTurn:
    """Return the results of a turn's calls."""
    return ToolTurn(
        results=tuple(
            ToolResult(id=call.id, name=call.name, content=content, is_error=number in errors)
            for number, (call, content) in enumerate(zip(turn.calls, contents, strict=True))
        )
    )


def until_text(
    *contents: tuple[object, ...], errors: frozenset[int] = frozenset(), **more: object
) -> Callable[[Engine], list[Response]]:
    """Ask, give each turn's calls their results, and ask again."""

    def play(engine: Engine) -> list[Response]:
        turns: tuple[Turn, ...] = (UserTurn(text="Make the test pass."),)
        responses = [engine.ask(request(*turns, **more), timeout=TIMEOUT)]
        for given in contents:
            turns = (*turns, responses[-1].turn, results(responses[-1].turn, *given, errors=errors))
            responses.append(engine.ask(request(*turns, **more), timeout=TIMEOUT))
        return responses

    return play


def _two_hundred_turns() -> Request:
    turns: list[Turn] = []
    for number in range(66):
        turns.append(UserTurn(text=f"question {number}"))
        turns.append(ModelTurn(text=f"answer {number}", calls=(), provider="elsewhere"))
        turns.append(UserTurn(text=f"and {number}?"))
    return request(*turns, ModelTurn(text="so", calls=()), UserTurn(text="and now?"))


_ELSEWHERE = ModelTurn(
    text="Two.",
    calls=(
        Call(id="x1", name="shell", arguments={"command": "ls"}),
        Call(id="x2", name="shell", arguments=None, problem="?"),
    ),
    provider="elsewhere",
    raw={"of": "another provider"},
)
HELLO = request(UserTurn(text="Say hello."))
SCENARIOS: dict[str, Scenario] = {
    **{
        name: Scenario(
            script=(
                Said(calls=tuple(Asked(name="read_file", arguments={"path": f"{one}.png"}) for one in "ab")),
                Said(text=("done",)),
            ),
            play=until_text((PICTURE, PICTURE), images=can_see),
        )
        for name, can_see in (("pictures", True), ("no-pictures", False))
    },
    "answer": Scenario(
        script=(Said(text=("Hel", "lo", ", world."), thoughts=("A gree", "ting.")),),
        play=one(HELLO),
    ),
    "one-call": Scenario(
        script=(
            Said(
                calls=(Asked(name="read_file", arguments={"path": "a.py", "start_line": 3}),),
                signature=bytes(range(256)),
            ),
            Said(text=("done",)),
        ),
        play=until_text(("1\tx = 1\n",)),
    ),
    "several-calls": Scenario(
        script=(
            Said(
                text=("Both.",),
                calls=(
                    Asked(name="read_file", arguments={"path": "a.py"}),
                    Asked(name="shell", arguments={"command": "ls"}),
                    Asked(name="read_file", arguments={"path": "b.py"}),
                ),
                signature=b"\xfb\xff\xfe of the first",
            ),
            Said(calls=(Asked(name="shell", arguments={}),), signature=b"of the second"),
            Said(text=("done",)),
        ),
        play=until_text(("a", {"exit": 1, "output": ""}, "no such file"), (["x", None, 1.5],), errors=frozenset({2})),
    ),
    "given-ids": Scenario(
        script=(
            Said(calls=(Asked(name="shell", arguments={}, id="call-7"), Asked(name="shell", arguments={}, id="c1"))),
            Said(text=("done",)),
        ),
        play=until_text(("a", "b")),
    ),
    "malformed-call": Scenario(
        script=(Said(finish="malformed", problem="Malformed function call: print(shell("), Said(text=("done",))),
        play=lambda engine: [
            engine.ask(HELLO, timeout=TIMEOUT),
            engine.ask(request(*HELLO.turns, UserTurn(text="That was no call.")), timeout=TIMEOUT),
        ],
    ),
    "unknown-tool": Scenario(
        script=(Said(calls=(Asked(name="launch_missiles", arguments={"a_b": {"cD": [None]}}),)), Said(text=("done",))),
        play=until_text(("there is no such tool",), errors=frozenset({0})),
    ),
    "refused": Scenario(script=(Said(text=("I wi",), finish="refused"),), play=one(HELLO)),
    "blocked": Scenario(script=(Said(finish="refused", blocked=True),), play=one(HELLO)),
    "length": Scenario(
        script=(Said(text=("Once upon a",), finish="length"),), play=one(request(*HELLO.turns, max_output=3))
    ),
    "unicode": Scenario(
        script=(Said(text=tuple(ODD), calls=(Asked(name="shell", arguments={ODD: ODD}),)), Said(text=(ODD,))),
        play=until_text((ODD,)),
    ),
    "schema": Scenario(
        script=(Said(text=('{"verdict"', ': "PASS"}')),),
        play=one(request(UserTurn(text="Judge."), tools=(), schema=VERDICT)),
    ),
    "usage": Scenario(
        script=(Said(text=("x",), thoughts=("y",), usage=Usage(input=1_000, output=70, cached=600)),), play=one(HELLO)
    ),
    "cache-write": Scenario(
        script=(Said(text=("x",), usage=Usage(input=1_000, output=70, cached=600, cache_write=300)),), play=one(HELLO)
    ),
    "from-elsewhere": Scenario(
        script=(Said(text=("done",)),),
        play=one(request(UserTurn(text="Go on."), _ELSEWHERE, results(_ELSEWHERE, "a", "b"))),
    ),
    "large-result": Scenario(
        script=(
            Said(calls=(Asked(name="read_file", arguments={"path": "big"}),), signature=b"s"),
            Said(text=("done",)),
        ),
        play=until_text(("0123456789abcde\n" * 65_536,)),
    ),
    "two-hundred-turns": Scenario(script=(Said(text=("done",)),), play=one(_two_hundred_turns())),
}
STORED = [name for name in SCENARIOS if name not in ("large-result", "two-hundred-turns", "cache-write")]
