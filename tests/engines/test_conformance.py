"""What every engine has to hold, over the bench of each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from runner.engines import (
    ContextTooLongError,
    EngineError,
    KeyRefusedError,
    MalformedResponseError,
    NetworkError,
    OverloadedError,
    QuotaError,
    RateLimitError,
    RequestRefusedError,
    Response,
    Usage,
    WebPageError,
    registry,
)
from tests.conftest import slack
from tests.engines.benches import BENCHES, OVER_A_WIRE, Bench
from tests.engines.scenarios import DOT, HELLO, ODD, SCENARIOS
from tests.engines.wire_gemini import KEY, Answer, Flood, Refusal, serving
from tests.engines.wires import FORMATS

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=BENCHES)
def bench(request: pytest.FixtureRequest) -> Bench:
    """Each engine's bench."""
    return BENCHES[request.param]


@pytest.fixture(params=OVER_A_WIRE)
def wired(request: pytest.FixtureRequest) -> Bench:
    """The bench of each engine that has an endpoint."""
    return BENCHES[request.param]


def play(bench: Bench, scenario: str, tmp: Path) -> list[Response]:
    """Hold a scenario's conversation."""
    with bench.holding(scenario, tmp) as stand:
        return SCENARIOS[scenario].play(stand.engine)


def test_every_wire_format_has_a_bench() -> None:
    held = {registry.ROWS[one.engine.partition(":")[0]].wire for one in FORMATS.values()}
    assert {row.wire for row in registry.ROWS.values()} == held | {registry.ROWS["gemini"].wire}


def test_an_answer_comes_with_its_thoughts_apart(bench: Bench, tmp_path: Path) -> None:
    (response,) = play(bench, "answer", tmp_path)
    assert (response.turn.text, response.thoughts) == ("Hello, world.", "A greeting.")
    assert (response.finish, response.problem, response.turn.calls) == ("stop", "", ())
    assert response.model
    assert response.turn.provider


def test_a_call_has_an_id_and_is_answered(bench: Bench, tmp_path: Path) -> None:
    first, last = play(bench, "one-call", tmp_path)
    (call,) = first.turn.calls
    assert (call.name, call.arguments, call.problem) == ("read_file", {"path": "a.py", "start_line": 3}, "")
    assert call.id
    assert last.turn.text == "done"


def test_several_calls_keep_their_order_and_have_ids_of_their_own(bench: Bench, tmp_path: Path) -> None:
    first, second, last = play(bench, "several-calls", tmp_path)
    assert first.turn.text == "Both."
    assert [(call.name, call.arguments) for call in first.turn.calls] == [
        ("read_file", {"path": "a.py"}),
        ("shell", {"command": "ls"}),
        ("read_file", {"path": "b.py"}),
    ]
    ids = [call.id for response in (first, second) for call in response.turn.calls]
    assert len(set(ids)) == 4
    assert last.turn.text == "done"


def test_ids_that_the_provider_gives_are_kept(bench: Bench, tmp_path: Path) -> None:
    first, _ = play(bench, "given-ids", tmp_path)
    assert [call.id for call in first.turn.calls] == ["call-7", "c1"]


def test_signatures_go_back_as_they_came(wired: Bench, tmp_path: Path) -> None:
    with wired.holding("several-calls", tmp_path) as stand:
        SCENARIOS["several-calls"].play(stand.engine)
        assert stand.wire is not None
        bodies = stand.wire.bodies
    sent = [wired.signatures(body) for body in bodies]
    one, other = (said.signature for said in SCENARIOS["several-calls"].script[:2])
    assert sent == [[], [one], [one, other]]


def test_pictures_reach_a_model_that_can_see_and_lines_one_that_cannot(wired: Bench, tmp_path: Path) -> None:
    """Through the provider's SDK, as parts of its own form, whose kind and bytes a server reads; each with its line of text."""
    for scenario, pictures in (("pictures", 2), ("no-pictures", 0)):
        with wired.holding(scenario, tmp_path) as stand:
            first, last = SCENARIOS[scenario].play(stand.engine)
            assert stand.wire is not None
            bodies = stand.wire.bodies
        assert (len(first.turn.calls), last.turn.text) == (2, "done")
        assert [shown(bodies[0]), shown(bodies[1])] == [[], ["image/png"] * pictures]
        assert json.dumps(bodies[1]).count("a picture, image/png, 70 bytes") == 2


def shown(body: object) -> list[str]:
    """Return the kinds of the pictures of a request, in any of the wire formats."""
    match body:
        case {"mimeType": str(kind), "data": str(data)} | {"media_type": str(kind), "data": str(data)}:
            return [kind] if data == DOT else []
        case str() if body.endswith(f";base64,{DOT}"):
            return [body.removeprefix("data:").partition(";")[0]]
        case dict() | list():
            return [kind for one in (body.values() if isinstance(body, dict) else body) for kind in shown(one)]
    return []


def test_a_turn_can_be_kept_as_json(bench: Bench, tmp_path: Path) -> None:
    for response in play(bench, "several-calls", tmp_path):
        assert json.loads(json.dumps(response.turn.raw)) == response.turn.raw
        assert json.loads(json.dumps(response.raw)) == response.raw


def test_a_malformed_call_is_said_and_the_conversation_goes_on(bench: Bench, tmp_path: Path) -> None:
    first, last = play(bench, "malformed-call", tmp_path)
    assert (first.finish, first.turn.calls) == ("malformed", ())
    assert first.problem
    assert last.turn.text == "done"


def test_an_unknown_tool_is_passed_through(bench: Bench, tmp_path: Path) -> None:
    first, _ = play(bench, "unknown-tool", tmp_path)
    assert [(c.name, c.arguments) for c in first.turn.calls] == [("launch_missiles", {"a_b": {"cD": [None]}})]


@pytest.mark.parametrize(("scenario", "text"), [("refused", "I wi"), ("blocked", "")])
def test_a_refusal_is_a_finish_with_its_reason(bench: Bench, scenario: str, text: str, tmp_path: Path) -> None:
    (response,) = play(bench, scenario, tmp_path)
    assert (response.finish, response.turn.text) == ("refused", text)
    assert response.problem


def test_an_answer_that_was_too_long_says_so(bench: Bench, tmp_path: Path) -> None:
    (response,) = play(bench, "length", tmp_path)
    assert (response.finish, response.turn.text) == ("length", "Once upon a")


def test_unicode_comes_through_both_ways(bench: Bench, tmp_path: Path) -> None:
    first, last = play(bench, "unicode", tmp_path)
    assert first.turn.text == last.turn.text == ODD
    assert first.turn.calls[0].arguments == {ODD: ODD}


def test_an_answer_to_a_schema(bench: Bench, tmp_path: Path) -> None:
    (response,) = play(bench, "schema", tmp_path)
    assert json.loads(response.turn.text) == {"verdict": "PASS"}


def test_usage_is_counted_with_thoughts_in_the_output(bench: Bench, tmp_path: Path) -> None:
    (response,) = play(bench, "usage", tmp_path)
    assert response.usage == Usage(input=1_000, output=70, cached=600)


@pytest.mark.parametrize("name", list(FORMATS))
def test_what_is_written_to_a_cache_is_counted(name: str, tmp_path: Path) -> None:
    (response,) = play(BENCHES[name], "cache-write", tmp_path)
    assert response.usage == Usage(input=1_000, output=70, cached=600, cache_write=300)


@pytest.mark.parametrize("name", OVER_A_WIRE)
def test_what_nobody_knows_in_an_answer_is_kept_and_changes_nothing(name: str, tmp_path: Path) -> None:
    if name in FORMATS:
        response = play(BENCHES[name], "answer", tmp_path)[0]
    else:
        counts = {"promptTokenCount": 1, "candidatesTokenCount": 1, "x_vendor": {"a": 1}}
        script = Answer(pieces=[[{"text": "Hello, world.", "x_vendor": 1}]], usage=counts)
        with serving(script) as wire:
            environ = {"GEMINI_API_KEY": KEY, "GOOGLE_GEMINI_BASE_URL": wire.url}
            response = registry.open_engine("gemini:m", environ, tmp_path).ask(HELLO, timeout=20)
    assert response.turn.text == "Hello, world." and "x_vendor" in json.dumps(response.raw)


def test_a_conversation_begun_with_another_provider_goes_on(bench: Bench, tmp_path: Path) -> None:
    assert play(bench, "from-elsewhere", tmp_path)[-1].turn.text == "done"


def test_a_result_of_a_megabyte(bench: Bench, tmp_path: Path) -> None:
    assert play(bench, "large-result", tmp_path)[-1].turn.text == "done"


def test_two_hundred_turns(bench: Bench, tmp_path: Path) -> None:
    assert play(bench, "two-hundred-turns", tmp_path)[-1].turn.text == "done"


TOLD: dict[str, type[EngineError]] = {
    "401": KeyRefusedError,
    "403": KeyRefusedError,
    "key-invalid": KeyRefusedError,
    "429": RateLimitError,
    "429-header": RateLimitError,
    "429-details": RateLimitError,
    "429-date": RateLimitError,
    "quota": QuotaError,
    "400": RequestRefusedError,
    "404": RequestRefusedError,
    "413": ContextTooLongError,
    "500": OverloadedError,
    "503": OverloadedError,
    "503-html": OverloadedError,
    "error-in-stream": OverloadedError,
    "redirect": RequestRefusedError,
    "html": WebPageError,
    "not-utf8": MalformedResponseError,
    "no-object": MalformedResponseError,
    "empty": MalformedResponseError,
    "arguments-no-object": MalformedResponseError,
    "cut": NetworkError,
    "cut-in-a-chunk": NetworkError,
    "cut-between": NetworkError,
    "cut-in-a-last-chunk": NetworkError,
    "too-long": ContextTooLongError,
    "529": OverloadedError,
    "failed-in-stream": RateLimitError,
    "refused-in-stream": RequestRefusedError,
    "error-instead-of-a-stream": OverloadedError,
    "silence": NetworkError,
    "silence-after-headers": NetworkError,
    "silence-in-the-middle": NetworkError,
    "drip": NetworkError,
}


@pytest.mark.parametrize(("name", "fault"), [(name, one) for name in OVER_A_WIRE for one in OVER_A_WIRE[name].faults])
def test_faults_are_told_apart_and_asked_once(name: str, fault: str) -> None:
    with OVER_A_WIRE[name].failing(fault) as stand:
        assert stand.wire is not None
        waits = fault.startswith(("silence", "drip"))
        started = time.monotonic()
        with pytest.raises(EngineError) as told:
            stand.engine.ask(HELLO, timeout=2.0 if waits else 20.0)
        assert time.monotonic() - started < 15 * slack()  # the first of all imports the SDK
        assert type(told.value) is TOLD[fault]
        assert KEY not in str(told.value)
        assert len(stand.wire.bodies) == 1, "only the caller decides what is asked again"
        assert stand.wire.wrong == []
        if waits:
            assert stand.wire.gone.wait(10), "nobody waits, and the connection still stands"


def test_what_the_key_may_not_do_speaks_of_the_key(wired: Bench) -> None:
    for fault in ("401", "403", "key-invalid"):
        with wired.failing(fault) as stand, pytest.raises(KeyRefusedError, match="key"):
            stand.engine.ask(HELLO, timeout=20)


def test_a_key_that_is_refused_and_was_not_set_is_named() -> None:
    class Refuses(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_error(401)

    with ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        environ = {"RUNNER_COMPATIBLE_URL": f"http://127.0.0.1:{server.server_port}/v1"}
        engine = registry.open_engine("compatible:m", environ, Path())
        with pytest.raises(KeyRefusedError) as told:
            engine.ask(HELLO, timeout=20)
        engine.close()
    assert told.value.hint == "set RUNNER_COMPATIBLE_KEY to a key that is valid"


def test_an_account_without_credit_is_said_in_plain_words(wired: Bench) -> None:
    with wired.failing("500") as stand, pytest.raises(QuotaError) as told:
        assert stand.wire is not None
        stand.wire.script[0] = Refusal(code=402, body={"error": {"message": "Insufficient credits"}})
        stand.engine.ask(HELLO, timeout=20)
    assert "quota of your account is used up" in told.value.what and "the the" not in told.value.what


def test_a_web_page_instead_of_an_answer_is_said_to_be_one(wired: Bench) -> None:
    with wired.failing("html") as stand, pytest.raises(WebPageError) as told:
        stand.engine.ask(HELLO, timeout=20)
    assert "a web page" in told.value.what and "JSONDecodeError" not in told.value.what
    assert "_URL" in told.value.hint and "log in" in told.value.hint
    assert not told.value.retryable


@pytest.mark.parametrize(
    ("fault", "seconds"), [("429", None), ("429-header", 7.0), ("429-details", 34.5), ("429-date", 12.0)]
)
def test_a_rate_limit_says_how_long_to_wait(wired: Bench, fault: str, seconds: float | None) -> None:
    if fault not in wired.faults:
        return  # Anthropic has the header alone
    with wired.failing(fault) as stand, pytest.raises(RateLimitError) as told:
        stand.engine.ask(HELLO, timeout=20)
    assert told.value.retry_after == seconds


def test_a_long_wait_is_said_as_people_say_it(wired: Bench) -> None:
    for seconds, said in (("7", "7 seconds"), ("600", "10 min"), ("9001", "2 h 31 min")):
        refused = Refusal(code=429, body={"error": {"message": "slow"}}, headers=[("Retry-After", seconds)])
        with wired.failing("500") as stand:
            assert stand.wire is not None
            stand.wire.script[0] = refused
            with pytest.raises(RateLimitError) as told:
                stand.engine.ask(HELLO, timeout=20)
        assert told.value.hint == f"wait {said}"


def test_what_the_environment_says_for_openai_goes_to_no_other_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer of-openai\nX-Gateway: of-openai")
    monkeypatch.setenv("OPENAI_ORG_ID", "of-openai")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "of-openai")
    with BENCHES["compatible"].holding("answer", tmp_path) as stand:
        stand.engine.ask(HELLO, timeout=20)
        assert stand.wire is not None and "of-openai" not in str(stand.wire.headers)


def test_a_model_that_is_not_there_is_named(wired: Bench) -> None:
    with wired.failing("404") as stand, pytest.raises(RequestRefusedError, match=stand.engine.model):
        stand.engine.ask(HELLO, timeout=20)


def test_no_endpoint_at_all(wired: Bench) -> None:
    with wired.failing("500") as stand:
        assert stand.wire is not None
        stand.wire.close()
        with pytest.raises(NetworkError):
            stand.engine.ask(HELLO, timeout=20)


def test_what_came_before_a_cut_was_handed_on_and_is_no_answer(wired: Bench) -> None:
    came = bytearray()
    with wired.failing("cut") as stand, pytest.raises(NetworkError):
        stand.engine.ask(HELLO, timeout=20, on_bytes=came.extend)
    assert b"Hel" in came and b"world" not in came


def test_an_engine_is_good_again_after_it_was_left_waiting(wired: Bench, tmp_path: Path) -> None:
    with wired.holding("answer", tmp_path) as stand:
        assert stand.wire is not None
        stand.wire.script.insert(0, wired.faults["silence-in-the-middle"])
        with pytest.raises(NetworkError):
            stand.engine.ask(HELLO, timeout=1.5)
        assert stand.engine.ask(HELLO, timeout=20).turn.text == "Hello, world."


def test_an_answer_that_comes_faster_than_it_is_read_ends_in_time(wired: Bench) -> None:
    with wired.failing("500") as stand:
        assert stand.wire is not None
        stand.wire.script[0] = Flood(b": more\n\n" * 8192)
        started = time.monotonic()
        with pytest.raises(NetworkError, match="no whole answer came within"):
            stand.engine.ask(HELLO, timeout=2.0, on_bytes=lambda data: time.sleep(0.05))
        assert time.monotonic() - started < 15 * slack()
        assert stand.wire.gone.wait(10)


def test_an_answer_without_end_is_given_up_before_it_fills_the_machine(wired: Bench) -> None:
    taken = 0

    def count(data: bytes) -> None:
        nonlocal taken
        taken += len(data)

    with wired.failing("500") as stand:
        assert stand.wire is not None
        stand.wire.script[0] = Flood(b": " + b"x" * 65_534 + b"\n\n")
        with pytest.raises(MalformedResponseError, match=r"is not .* format \(ValueError: it is longer than 64 MiB\)"):
            stand.engine.ask(HELLO, timeout=100.0, on_bytes=count)
        assert taken <= 64 * 1024 * 1024 and stand.wire.gone.wait(10)


def test_whoever_listens_may_end_it(wired: Bench) -> None:
    def enough(data: bytes) -> None:
        raise EOFError(data.decode())

    with wired.failing("silence-in-the-middle") as stand:
        assert stand.wire is not None
        with pytest.raises(EOFError, match="Hel"):
            stand.engine.ask(HELLO, timeout=20, on_bytes=enough)
        assert stand.wire.gone.wait(10)


_ASKS = """
import json, signal, sys, time
from pathlib import Path
from runner.engines import Request, UserTurn
from runner.engines.registry import open_engine
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is started without
engine = open_engine(sys.argv[1], json.loads(sys.argv[2]), Path())
try:
    engine.ask(Request(system="", turns=(UserTurn(text="hi"),)), timeout=60)
except KeyboardInterrupt:
    print(time.monotonic(), flush=True)
    sys.exit(130)
"""


@pytest.mark.parametrize(
    "fault",
    [
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("silence", "silence-after-headers", "drip")),
        "silence-in-the-middle",
    ],
)
def test_an_interrupt_ends_it_within_two_seconds(wired: Bench, fault: str) -> None:
    with wired.failing(fault) as stand:
        assert stand.wire is not None
        name, environ = wired.environ(stand.wire)
        clean = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            [sys.executable, "-c", _ASKS, name, json.dumps(environ)],
            env=clean,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert stand.wire.arrived.wait(60)
            time.sleep(0.2)
            started = time.monotonic()
            process.send_signal(signal.SIGINT)
            out, said = process.communicate(timeout=100)
            assert (process.returncode, said) == (130, "")
            # The clock is the system's, so the two processes' can be compared. What comes after is Python taking its
            # modules down: 0.3 s of a processor, and on a busy machine any time at all.
            assert float(out) - started < 2 * slack()
            assert stand.wire.gone.wait(10)
        finally:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_no_thread_is_left_behind(wired: Bench) -> None:
    for fault in ("silence", "drip", "cut", "500"):
        with wired.failing(fault) as stand, pytest.raises(EngineError):
            stand.engine.ask(HELLO, timeout=1.5)
    deadline = time.monotonic() + 60
    while (left := [t for t in threading.enumerate() if t.name.startswith("ask ")]) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert left == []
