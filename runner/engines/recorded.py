"""`recorded:FILE`: answers from a cassette, and the recorder that makes one from any engine.

A cassette is JSON lines, one answer each: `schema`, `engine` (whose answer it is), `digest` and `request` (of the request,
for finding and for reading), `response` (in neutral form, with the provider's own beside it, and what it cost, `usd`, where that
was known: replaying needs no table of prices, and costs what the original did). It is found strictly by `Request.digest()`; the
same request asked again gets the next answer that was recorded for it. Cassettes are made, never edited: a request that is not
its digest's is refused. The caller removes secrets from them, by `clean`.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from runner.engines import Call, Engine, EngineError, Json, ModelTurn, Request, Response, Usage, digest_of
from runner.errors import ExitCode, MalformedFileError, UnsupportedError, UsageError

PROVIDER: Final = "recorded"
SCHEMA: Final = 1


class RecordingMissingError(EngineError):
    """The cassette has no answer to this request."""

    exit_code = ExitCode.USAGE


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One answer of a cassette; `line` counts from 1."""

    line: int
    engine: str
    digest: str
    request: Json
    response: Response


class RecordedEngine:
    """Answers from a cassette. `model`: the recorded model, whose price bounds an answer's cost."""

    def __init__(self, path: Path, name: str = "") -> None:
        """Read the cassette.

        Raises:
            UsageError: there is no such file.
            MalformedFileError: a line of it is no recording, or was edited.
            UnsupportedError: it was made by a newer version.
        """
        self.name, self.provider = name or f"{PROVIDER}:{path}", PROVIDER
        self._path = path
        self._recordings = read(path)
        first = next(iter(self._recordings), None)
        self.model = first.engine.partition(":")[2] if first is not None else ""
        self._waiting: dict[str, list[Recording]] = {}
        for recording in self._recordings:
            self._waiting.setdefault(recording.digest, []).append(recording)

    def ask(self, request: Request, *, timeout: float, on_bytes: Callable[[bytes], None] | None = None) -> Response:
        """Return the recorded answer to this request, at once.

        Raises:
            RecordingMissingError: there is none, or each was given already.
        """
        waiting = self._waiting.get(request.digest())
        if not waiting:
            raise self._missing(request, given=waiting is not None)
        return waiting.pop(0).response

    def close(self) -> None:
        """Do nothing: a cassette is not kept open."""

    def _missing(self, request: Request, *, given: bool) -> RecordingMissingError:
        plain = _through_json(request.plain())
        last = plain["turns"][-1] if plain["turns"] else {}
        what = f"no answer is recorded for request {request.digest()}, which ends with {_short(last)}"
        if given:
            what = f"the answers to request {request.digest()} were all given already; it ends with {_short(last)}"
        where = str(self._path)
        nearest = max(self._recordings, key=lambda found: _alike(found.request, plain), default=None)
        if nearest is None:
            where += ", which is empty"
        elif (difference := _difference(nearest.request, plain)) is not None:
            place, recorded, asked = difference
            where += (
                f"; the nearest is line {nearest.line}, where {place} is {_short(recorded)}, and not {_short(asked)}"
            )
        else:
            where += f"; the same was asked in line {nearest.line}"
        return RecordingMissingError(what, where, "record it again with --record FILE, or ask a model with --engine")


class Recorder:
    """An engine that appends another one's answers to a cassette."""

    def __init__(
        self,
        engine: Engine,
        path: Path,
        price: Callable[[Engine, Usage], Decimal | None] = lambda engine, usage: None,
        clean: Callable[[Json], Json] = lambda said: said,
    ) -> None:
        """Wrap `engine`; an existing cassette is continued. `price`: the cost of an answer, if that is known.

        `clean`: removes secrets from a record before it is written; the answer is returned as it is written.

        Raises:
            MalformedFileError: the file is not a cassette.
            UsageError: nothing can be written there.
        """
        self.name, self.provider, self.model = engine.name, engine.provider, engine.model
        self._engine, self._path, self._price, self._clean = engine, path, price, clean
        if path.exists():
            read(path)
        self._append(b"")

    def ask(self, request: Request, *, timeout: float, on_bytes: Callable[[bytes], None] | None = None) -> Response:
        """Return the engine's answer after it was written to the cassette."""
        response = self._engine.ask(request, timeout=timeout, on_bytes=on_bytes)
        if response.usd is None:
            response = dataclasses.replace(response, usd=self._price(self._engine, response.usage))
        response = _load_response(self._clean(dump_response(response)))
        self._append(dump(self.name, self._clean(request.plain()), response))
        return response

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()

    def _append(self, data: bytes) -> None:
        try:
            with self._path.open("ab") as file:
                file.write(data)
        except OSError as error:
            raise UsageError(
                f"the recording cannot be written: {error.strerror}", str(self._path), "name a file that can be"
            ) from error


def dump(engine: str, request: Json, response: Response) -> bytes:
    """Return a recording as its line, the same bytes for the same answer; `request` as `Request.plain()` gives it."""
    said = {
        "schema": SCHEMA,
        "engine": engine,
        "digest": digest_of(request),
        "request": request,
        "response": dump_response(response),
    }
    # A lone surrogate (a file name that is no UTF-8) has no UTF-8 form; it is kept rather than refused.
    return (json.dumps(said, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")


def read(path: Path) -> list[Recording]:
    """Return the recordings of a cassette, in their order.

    Raises:
        UsageError: there is no such file.
        MalformedFileError: a line of it is no recording, or was edited.
        UnsupportedError: it was made by a newer version.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"the recording cannot be read: {error.strerror}", str(path), "name a file that is there"
        ) from error
    recordings = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line:
            continue
        where = f"{path}:{number}"
        try:
            said = json.loads(line.decode("utf-8", "surrogatepass"))
        except ValueError as error:
            raise MalformedFileError("the line is not JSON", where, "record it again with --record FILE") from error
        schema = said.get("schema") if isinstance(said, dict) else None
        if isinstance(schema, int) and schema > SCHEMA:
            raise UnsupportedError(f"the recording is of schema {schema}", where, "use a newer version of the runner")
        try:
            recording = Recording(
                line=number,
                engine=said["engine"],
                digest=said["digest"],
                request=said["request"],
                response=_load_response(said["response"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise MalformedFileError(
                "the line is not a recording", where, "record it again with --record FILE"
            ) from error
        if digest_of(recording.request) != recording.digest:
            raise MalformedFileError("the recording was edited", where, "record it again with --record FILE")
        recordings.append(recording)
    if data and not data.endswith(b"\n"):
        raise MalformedFileError("the last line is cut off", f"{path}:{data.count(10) + 1}", "remove it")
    return recordings


def dump_response(response: Response) -> dict[str, Json]:
    """Return a response as JSON, with the provider's own form of it; tokens that were written to a cache are named where some were."""
    turn, usage = response.turn, dataclasses.asdict(response.usage)
    return {
        "text": turn.text,
        "calls": [dataclasses.asdict(call) for call in turn.calls],
        "thoughts": response.thoughts,
        "finish": response.finish,
        "problem": response.problem,
        "usage": {name: tokens for name, tokens in usage.items() if tokens or name != "cache_write"},
        "model": response.model,
        "provider": turn.provider,
        "turn": turn.raw,
        "raw": response.raw,
        **({"usd": format(response.usd, "f")} if response.usd is not None else {}),
    }


def _load_response(said: Json) -> Response:
    calls = tuple(Call(**call) for call in said["calls"])
    return Response(
        turn=ModelTurn(text=said["text"], calls=calls, provider=said["provider"], raw=said["turn"]),
        thoughts=said["thoughts"],
        usage=Usage(**said["usage"]),
        finish=said["finish"],
        problem=said["problem"],
        model=said["model"],
        raw=said["raw"],
        usd=_amount(said["usd"]) if "usd" in said else None,
    )


def _amount(said: Json) -> Decimal:
    found = Decimal(said)
    if not found.is_finite() or found < 0:
        raise ValueError(f"{said} is not an amount")
    return found


def _through_json(value: Json) -> Json:
    """Return a value as a cassette would give it back: tuples as lists, mappings as dicts."""
    return json.loads(json.dumps(value))


def _alike(recorded: Json, asked: Json) -> tuple[int, int]:
    """Return how much of two requests is the same from the start: turns, and then whatever else."""
    theirs, ours = recorded["turns"], asked["turns"]
    same = 0
    while same < min(len(theirs), len(ours)) and theirs[same] == ours[same]:
        same += 1
    rest = sum(recorded.get(name) == asked[name] for name in asked)
    return (same, rest)


def _difference(recorded: Json, asked: Json, place: str = "request") -> tuple[str, Json, Json] | None:
    """Return where two JSON values first differ, and the value of each there."""
    if isinstance(recorded, dict) and isinstance(asked, dict):
        pairs: list[tuple[str, Any, Any]] = [
            (f"{place}.{name}", recorded.get(name), asked.get(name)) for name in {**recorded, **asked}
        ]
    elif isinstance(recorded, list) and isinstance(asked, list):
        pairs = [(f"{place}[{at}]", *both) for at, both in enumerate(itertools.zip_longest(recorded, asked))]
    else:
        return None if recorded == asked else (place, recorded, asked)
    return next((found for name, one, other in pairs if (found := _difference(one, other, name)) is not None), None)


def _short(value: Json) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 160 else f"{text[:120]}…{text[-39:]}"
