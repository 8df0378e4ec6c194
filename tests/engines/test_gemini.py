"""What is Gemini's alone: keys and addresses, what goes over the wire and what must not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runner.engines import (
    KeyMissingError,
    KeyRefusedError,
    MalformedResponseError,
    Request,
    RequestRefusedError,
    UserTurn,
    registry,
)
from runner.engines.line import LineEngine
from runner.errors import UsageError
from tests.engines.scenarios import HELLO, READ, VERDICT
from tests.engines.wire_gemini import KEY, Answer, Raw, Refusal, error, serving

ROOT = Path(__file__).parents[2]
HI = Answer(pieces=[[{"text": "hi"}]])


def opened(model: str, environ: dict[str, str]) -> LineEngine:
    """Return the engine of a model."""
    engine = registry.open_engine(f"gemini:{model}", environ, Path())
    assert isinstance(engine, LineEngine)
    return engine


@pytest.mark.parametrize(
    "environ",
    [
        {"GEMINI_API_KEY": KEY},
        {"GOOGLE_API_KEY": KEY},
        {"GOOGLE_API_KEY": f" {KEY}\n", "GEMINI_API_KEY": "another"},
        {"GOOGLE_API_KEY": "", "GEMINI_API_KEY": KEY},
    ],
)
def test_either_variable_has_the_key_and_googles_goes_first(environ: dict[str, str]) -> None:
    with serving(HI) as wire:
        engine = opened("gemini-3.8-flash", {**environ, "GEMINI_BASE_URL": wire.url})
        assert engine.ask(HELLO, timeout=20).turn.text == "hi"
        engine.close()
    assert wire.headers[0]["x-goog-api-key"] == KEY


def test_the_environment_of_the_process_is_not_read(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in {
        "GOOGLE_API_KEY": "of-the-process",
        "GEMINI_API_KEY": "of-the-process-too",
        "GOOGLE_GEMINI_BASE_URL": "http://127.0.0.1:9",
        "GOOGLE_GENAI_USE_VERTEXAI": "true",
        "GOOGLE_GENAI_USE_ENTERPRISE": "true",
        "GOOGLE_GENAI_API_VERSION": "v7",
        "GOOGLE_CLOUD_PROJECT": "p",
    }.items():
        monkeypatch.setenv(name, value)
    with serving(HI) as wire:
        engine = opened("gemini-3.8-flash", {"GEMINI_API_KEY": KEY, "GOOGLE_GEMINI_BASE_URL": wire.url})
        assert engine.ask(HELLO, timeout=20).turn.text == "hi"
    assert wire.wrong == []
    assert capfd.readouterr() == ("", ""), "the SDK speaks of both keys on stderr"
    with pytest.raises(KeyMissingError):
        opened("gemini-3.8-flash", {})


def test_no_key_says_what_was_looked_for() -> None:
    with pytest.raises(KeyMissingError) as told:
        opened("gemini-3.8-flash", {"GEMINI_API_KEY": " "})
    assert told.value.exit_code == 2
    assert "GEMINI_API_KEY and GOOGLE_API_KEY" in told.value.where
    assert "set GEMINI_API_KEY" in told.value.hint


@pytest.mark.parametrize("key", ["two words", "schlüssel", "a\nb", "auth_tokens/x"])
def test_what_cannot_be_a_key_is_not_sent(key: str) -> None:
    with pytest.raises(KeyRefusedError) as told:
        opened("gemini-3.8-flash", {"GEMINI_API_KEY": key})
    assert key not in str(told.value)


@pytest.mark.parametrize("url", ["example.test", "file:///etc/passwd", "http://", "http://[", "http://h:port"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="GEMINI_BASE_URL"):
        opened("gemini-3.8-flash", {"GEMINI_API_KEY": KEY, "GEMINI_BASE_URL": url})


@pytest.mark.parametrize("model", ["", "../x", "a b", "a/../b", "m:generateContent?x", "/m"])
def test_a_name_that_is_no_models_is_refused(model: str) -> None:
    with pytest.raises(UsageError):
        opened(model, {"GEMINI_API_KEY": KEY})


def test_the_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(KeyMissingError) as told:
        opened("gemini-3.8-flash", {"GEMINI_API_KEY": KEY})
    assert told.value.exit_code == 2
    assert told.value.hint == f"{sys.executable} -m pip install 'protocol-runner[gemini]'"


def test_opening_an_engine_imports_nothing_of_the_sdk() -> None:
    code = (
        "import sys; from pathlib import Path; from runner.engines.registry import open_engine\n"
        "open_engine('gemini:m', {'GEMINI_API_KEY': 'k'}, Path())\n"
        "open_engine('openai:m', {'OPENAI_API_KEY': 'k'}, Path())\n"
        "open_engine('anthropic:m', {'ANTHROPIC_API_KEY': 'k'}, Path())\n"
        "heavy = ('google.genai', 'openai', 'anthropic', 'pydantic', 'httpx2', 'genai_prices')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_what_is_sent_has_the_documented_names() -> None:
    asked = Request(system="Be brief.", turns=(UserTurn(text="hi"),), tools=(READ,), max_output=77)
    judged = Request(system="", turns=(UserTurn(text="hi"),), schema=VERDICT)
    with serving(HI, HI) as wire:
        engine = opened("gemini-3.8-flash", {"GEMINI_API_KEY": KEY, "GEMINI_BASE_URL": wire.url + "/"})
        engine.ask(asked, timeout=20)
        engine.ask(judged, timeout=20)
    assert wire.bodies[0] == {
        "contents": [{"role": "user", "parts": [{"text": "hi"}]}],
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "generationConfig": {"maxOutputTokens": 77, "thinkingConfig": {"includeThoughts": True}},
        "tools": [
            {
                "functionDeclarations": [
                    {"name": "read_file", "description": "Read a file.", "parametersJsonSchema": dict(READ.parameters)}
                ]
            }
        ],
    }
    assert wire.bodies[1]["generationConfig"]["responseJsonSchema"] == VERDICT
    assert "systemInstruction" not in wire.bodies[1]


def test_a_continuation_is_not_asked_for_behind_our_back() -> None:
    more = Raw(
        data=b'data: {"candidates":[{"content":{"parts":[{"text":"half"}]},"finishReason":"CONTINUATION",'
        b'"continuationToken":"AAAA"}]}\r\n\r\n'
    )
    with serving(more, HI) as wire:
        engine = opened("gemini-3.8-flash", {"GEMINI_API_KEY": KEY, "GEMINI_BASE_URL": wire.url})
        response = engine.ask(HELLO, timeout=20)
    assert (response.finish, response.turn.text, len(wire.bodies)) == ("length", "half", 1)


def test_a_redirect_does_not_get_the_key() -> None:
    with serving(HI) as other, serving(Refusal(code=308, body=b"", headers=[("Location", other.url)])) as wire:
        engine = opened("gemini-3.8-flash", {"GEMINI_API_KEY": KEY, "GEMINI_BASE_URL": wire.url})
        with pytest.raises(RequestRefusedError):
            engine.ask(HELLO, timeout=20)
    assert other.headers == []


def test_words_of_the_providers_are_one_short_line_without_the_key() -> None:
    words = f"bad {KEY}\n\x1b[31mred" + "x" * 10_000
    with serving(Refusal(code=400, body=error(400, "INVALID_ARGUMENT", words))) as wire:
        engine = opened("gemini-3.8-flash", {"GEMINI_API_KEY": KEY, "GEMINI_BASE_URL": wire.url})
        with pytest.raises(RequestRefusedError) as told:
            engine.ask(HELLO, timeout=20)
    assert "bad [key] [31mred" in told.value.what
    assert KEY not in str(told.value)
    assert len(told.value.what) < 400
    assert told.value.what.isprintable()


def test_a_reason_newer_than_the_sdk_is_no_good_answer(capfd: pytest.CaptureFixture[str]) -> None:
    with serving(Answer(pieces=[[{"text": "x"}]], finish="NOT_YET_THOUGHT_OF")) as wire:
        engine = opened("gemini-3.8-flash", {"GEMINI_API_KEY": KEY, "GEMINI_BASE_URL": wire.url})
        response = engine.ask(HELLO, timeout=20)
    assert (response.finish, response.problem) == ("malformed", "NOT_YET_THOUGHT_OF")
    assert capfd.readouterr().err == ""


def test_connections_are_kept_between_questions() -> None:
    with serving(HI, HI) as wire:
        engine = opened("gemini-3.8-flash", {"GEMINI_API_KEY": KEY, "GEMINI_BASE_URL": wire.url})
        engine.ask(HELLO, timeout=20)
        line = engine._line
        engine.ask(HELLO, timeout=20)
        assert engine._line is line
        assert line is not None
        assert len(line._streams) == 1
        engine.close()


def test_the_package_is_found_without_being_imported() -> None:
    assert registry.missing(registry.ROWS["gemini"], {"GEMINI_API_KEY": KEY}) == ""


@pytest.mark.parametrize("count", [-1, 10**30])
def test_a_count_of_tokens_that_is_none_is_no_answer(count: int) -> None:
    with serving(
        Answer(pieces=[[{"text": "x"}]], usage={"promptTokenCount": 5, "candidatesTokenCount": count})
    ) as wire:
        engine = opened("gemini-3.8-flash", {"GEMINI_API_KEY": KEY, "GEMINI_BASE_URL": wire.url})
        with pytest.raises(MalformedResponseError):
            engine.ask(HELLO, timeout=20)
        engine.close()


def test_arguments_nested_without_end_are_no_answer() -> None:
    deep: object = 1
    for _ in range(300):
        deep = [deep]
    with serving(Answer(pieces=[[{"functionCall": {"name": "read", "args": {"path": deep}}}]])) as wire:
        engine = opened("gemini-3.8-flash", {"GEMINI_API_KEY": KEY, "GEMINI_BASE_URL": wire.url})
        with pytest.raises(MalformedResponseError):
            engine.ask(HELLO, timeout=20)
        engine.close()
