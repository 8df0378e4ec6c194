"""One bench an engine: how the conformance suite opens it before a model that follows a script.

A later engine of a format of its own joins by one more entry of `wires.FORMATS`.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from runner.engines import Engine, Json, registry
from runner.engines.recorded import RecordedEngine, Recorder
from tests.engines.scenarios import SCENARIOS, STORED, Said
from tests.engines.wire_gemini import KEY, Answer, Raw, Refusal, Reply, Silence, Wire, error, serving, sse
from tests.engines.wires import FORMATS

CASSETTES = Path(__file__).with_name("cassettes")
MODEL = "gemini-3.8-flash"


@dataclass(frozen=True, slots=True)
class Stand:
    """An engine before its model. `wire` is None where nothing goes over one; `signatures`: those that a body sends."""

    engine: Engine
    wire: Wire | None


class Bench(Protocol):
    """How one engine is opened. `faults`: those of its endpoint, by name."""

    @property
    def faults(self) -> Mapping[str, Reply]:
        """The faults of its endpoint, by name; none where it has no endpoint."""

    def holding(self, scenario: str, tmp: Path) -> contextlib.AbstractContextManager[Stand]:
        """Open it before a model that follows a scenario."""

    def failing(self, fault: str) -> contextlib.AbstractContextManager[Stand]:
        """Open it before an endpoint that has a fault."""

    def signatures(self, body: Json) -> list[bytes]:
        """Return the provider's own tokens that a request sends back, in their order."""

    def environ(self, wire: Wire) -> tuple[str, dict[str, str]]:
        """Return the engine's name and the environment that it is opened in, for a process of its own."""


class GeminiBench:
    """Gemini, over google-genai, before the local server of its wire format."""

    @property
    def faults(self) -> Mapping[str, Reply]:
        """Gemini's faults."""
        return FAULTS

    @contextlib.contextmanager
    def holding(self, scenario: str, tmp: Path) -> Iterator[Stand]:
        """Serve what the model says in a scenario."""
        with self._before(*map(answer, SCENARIOS[scenario].script)) as stand:
            yield stand
            assert stand.wire is not None
            assert stand.wire.wrong == []

    def failing(self, fault: str) -> contextlib.AbstractContextManager[Stand]:
        """Serve a fault."""
        return self._before(FAULTS[fault])

    def signatures(self, body: Json) -> list[bytes]:
        """Return the thought signatures of a body."""
        parts = [part for content in body["contents"] for part in content["parts"]]
        return [base64.b64decode(part["thoughtSignature"]) for part in parts if "thoughtSignature" in part]

    def environ(self, wire: Wire) -> tuple[str, dict[str, str]]:
        """Name the server by the variables that people set."""
        return f"gemini:{MODEL}", {"GEMINI_API_KEY": KEY, "GOOGLE_GEMINI_BASE_URL": wire.url}

    @contextlib.contextmanager
    def _before(self, *script: Reply) -> Iterator[Stand]:
        with serving(*script) as wire:
            engine = registry.open_engine(*self.environ(wire), Path())
            try:
                yield Stand(engine, wire)
            finally:
                engine.close()


class FormatBench:
    """An engine before the local server of one of the formats in `wires`."""

    def __init__(self, name: str) -> None:
        self._format = FORMATS[name]
        self.signatures, self.environ = self._format.signatures, self._format.environ

    @property
    def faults(self) -> Mapping[str, Reply]:
        """The format's faults."""
        return self._format.faults

    @contextlib.contextmanager
    def holding(self, scenario: str, tmp: Path) -> Iterator[Stand]:
        """Serve what the model says in a scenario."""
        script = [self._format.answer(said, number) for number, said in enumerate(SCENARIOS[scenario].script)]
        with self._before(*script) as stand:
            yield stand
            assert stand.wire is not None
            assert stand.wire.wrong == []

    def failing(self, fault: str) -> contextlib.AbstractContextManager[Stand]:
        """Serve a fault."""
        return self._before(self.faults[fault])

    @contextlib.contextmanager
    def _before(self, *script: Reply) -> Iterator[Stand]:
        with serving(*script, wire_of=self._format.wire) as wire:
            engine = registry.open_engine(*self.environ(wire), Path())
            try:
                yield Stand(engine, wire)
            finally:
                engine.close()


class RecordedBench:
    """Answers from the cassettes that the scenarios were recorded in."""

    faults: Mapping[str, Reply] = {}

    @contextlib.contextmanager
    def holding(self, scenario: str, tmp: Path) -> Iterator[Stand]:
        """Open a stored cassette; the large ones are made here."""
        path = CASSETTES / f"{scenario}.jsonl"
        if scenario not in STORED:
            path = tmp / path.name
            record(scenario, path)
        yield Stand(RecordedEngine(path), None)

    def failing(self, fault: str) -> contextlib.AbstractContextManager[Stand]:
        """It has no endpoint."""
        raise AssertionError("unreachable: a cassette has no endpoint")

    def signatures(self, body: Json) -> list[bytes]:
        """It has no endpoint."""
        raise AssertionError("unreachable: a cassette has no endpoint")

    def environ(self, wire: Wire) -> tuple[str, dict[str, str]]:
        """It has no endpoint."""
        raise AssertionError("unreachable: a cassette has no endpoint")


def answer(said: Said) -> Answer:
    """Return what a model says as Gemini says it."""
    pieces: list[list[Json]] = [[{"text": text, "thought": True}] for text in said.thoughts]
    pieces += [[{"text": text}] for text in said.text]
    calls: list[Json] = []
    for number, asked in enumerate(said.calls):
        call: Json = {"name": asked.name, "args": asked.arguments}
        part: Json = {"functionCall": {**call, "id": asked.id} if asked.id else call}
        if said.signature and number == 0:
            part["thoughtSignature"] = base64.b64encode(said.signature).decode()
        calls.append(part)
    if calls or not pieces:
        pieces.append(calls)
    thought = sum(map(len, said.thoughts))
    usage = {
        "promptTokenCount": said.usage.input,
        "cachedContentTokenCount": said.usage.cached,
        "thoughtsTokenCount": thought,
        "candidatesTokenCount": said.usage.output - thought,
        "totalTokenCount": said.usage.input + said.usage.output,
    }
    reason = {"stop": "STOP", "length": "MAX_TOKENS", "refused": "SAFETY", "malformed": "MALFORMED_FUNCTION_CALL"}
    return Answer(
        pieces=pieces,
        finish=reason[said.finish],
        finish_message=said.problem,
        block="PROHIBITED_CONTENT" if said.blocked else None,
        usage=usage,
        model=MODEL,
    )


def record(scenario: str, path: Path) -> None:
    """Record a scenario over the wire."""
    with GeminiBench().holding(scenario, path.parent) as stand:
        recorder = Recorder(stand.engine, path)
        SCENARIOS[scenario].play(recorder)


_RPC = "type.googleapis.com/google.rpc"
_HALF = sse({"candidates": [{"content": {"role": "model", "parts": [{"text": "Hel"}]}, "index": 0}]})
_QUOTA = "You exceeded your current quota"
FAULTS: Mapping[str, Reply] = {
    "401": Refusal(code=401, body=error(401, "UNAUTHENTICATED", "no such key")),
    "403": Refusal(code=403, body=error(403, "PERMISSION_DENIED", "not for you")),
    "key-invalid": Refusal(
        code=400,
        body=error(
            400, "INVALID_ARGUMENT", f"{KEY} is wrong", [{"@type": f"{_RPC}.ErrorInfo", "reason": "API_KEY_INVALID"}]
        ),
    ),
    "429": Refusal(code=429, body=error(429, "RESOURCE_EXHAUSTED", "slow down")),
    "429-header": Refusal(code=429, body=error(429, "RESOURCE_EXHAUSTED", ""), headers=[("Retry-After", "7")]),
    "429-details": Refusal(
        code=429,
        body=error(
            429,
            "RESOURCE_EXHAUSTED",
            _QUOTA,
            [
                {
                    "@type": f"{_RPC}.QuotaFailure",
                    "violations": [{"quotaId": "GenerateRequestsPerMinutePerProjectPerModel"}],
                },
                {"@type": f"{_RPC}.RetryInfo", "retryDelay": "34.5s"},
            ],
        ),
    ),
    "429-date": Refusal(
        code=429,
        body=error(429, "RESOURCE_EXHAUSTED", ""),
        headers=[("Date", "Fri, 31 Dec 1999 23:59:50 GMT"), ("Retry-After", "Sat, 01 Jan 2000 00:00:02 GMT")],
    ),
    "quota": Refusal(
        code=429,
        body=error(
            429,
            "RESOURCE_EXHAUSTED",
            _QUOTA,
            [
                {
                    "@type": f"{_RPC}.QuotaFailure",
                    "violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel"}],
                },
                {"@type": f"{_RPC}.RetryInfo", "retryDelay": "3s"},
            ],
        ),
    ),
    "400": Refusal(code=400, body=error(400, "INVALID_ARGUMENT", "no such field")),
    "404": Refusal(code=404, body=error(404, "NOT_FOUND", "no such model")),
    "413": Refusal(code=413, body=b"too large"),
    "500": Refusal(code=500, body=error(500, "INTERNAL", "oh")),
    "503": Refusal(code=503, body=error(503, "UNAVAILABLE", "overloaded")),
    "503-html": Refusal(code=503, body=b"<html>down</html>", headers=[("Content-Type", "text/html")]),
    "error-in-stream": Raw(data=_HALF + sse(error(503, "UNAVAILABLE", "overloaded"))),
    "redirect": Refusal(code=307, body=b"", headers=[("Location", "/v1beta/elsewhere")]),
    "html": Raw(data=b"<html>\n<body>Log in to the hotel's network</body>\n</html>", content_type="text/html"),
    "not-utf8": Raw(data=b"\xff\xfe\x00\n\n"),
    "no-object": Raw(data=b"data: [1, 2]\n\n"),
    "empty": Raw(data=b""),
    "arguments-no-object": Raw(
        data=sse(
            {
                "candidates": [
                    {"content": {"parts": [{"functionCall": {"name": "f", "args": "x"}}]}, "finishReason": "STOP"}
                ]
            }
        )
    ),
    "cut": Raw(data=_HALF, cut=True),
    "cut-in-a-chunk": Raw(data=_HALF + b'data: {"candi', cut=True),
    "cut-between": Raw(data=_HALF),
    "silence": Silence(),
    "silence-after-headers": Silence(headers=True),
    "silence-in-the-middle": Silence(data=_HALF),
    "drip": Silence(drip=0.05),
}
OVER_A_WIRE: dict[str, Bench] = {"gemini": GeminiBench(), **{name: FormatBench(name) for name in FORMATS}}
BENCHES: dict[str, Bench] = {**OVER_A_WIRE, "recorded": RecordedBench()}
