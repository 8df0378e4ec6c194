"""Names of engines, the default, the list and the check."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runner.engines import EngineError, KeyMissingError, KeyRefusedError, Usage, registry
from runner.engines.line import LineEngine
from runner.errors import UsageError
from tests.engines.benches import CASSETTES, FAULTS
from tests.engines.wire_gemini import KEY, Answer, serving

SDKS = ("google.genai", "openai", "anthropic", "acp", "mcp", "httpx", "httpx2", "genai_prices", "github", "gitlab")
IMPORTS = """\
import importlib, pkgutil, sys
import runner
print(*[name for name in sys.modules if name.startswith("runner")])
for one in pkgutil.walk_packages(runner.__path__, "runner."):
    if one.name not in ("runner.__main__", "runner.tools.mcp_client"):  # the command; the one that is loaded to call a server
        hasattr(importlib.import_module(one.name), "anything")  # it runs when something of it is used
print(len([name for name, one in sys.modules.items() if name.startswith("runner.") and type(one) is not runner.Unused]))
print(*sys.modules)
"""


def test_importing_the_runner_loads_no_sdk() -> None:
    """Neither `import runner` nor any of its modules: a package of a provider is loaded where its model is asked."""
    argv, root = [sys.executable, "-c", IMPORTS], str(Path(__file__).parents[2])
    done = subprocess.run(argv, env={"PYTHONPATH": root}, capture_output=True, text=True, check=True)
    bare, count, loaded = done.stdout.splitlines()
    assert bare == "runner" and int(count) > 150
    assert not set(SDKS) & set(loaded.split())


def test_engines_are_opened_by_name() -> None:
    gemini = registry.open_engine("gemini:gemini-3.8-flash", {"GEMINI_API_KEY": "k"}, Path())
    assert (gemini.name, gemini.provider, gemini.model) == ("gemini:gemini-3.8-flash", "gemini", "gemini-3.8-flash")
    recorded = registry.open_engine("recorded:answer.jsonl", {}, CASSETTES)
    assert (recorded.name, recorded.provider) == ("recorded:answer.jsonl", "recorded")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("gemni:x", "did you mean gemini:MODEL?"),
        ("Gemini:x", "did you mean gemini:MODEL?"),
        ("opanai:x", "did you mean openai:MODEL?"),
        ("zzz:x", f"there is {', '.join(registry.FORMS.values())}"),
        ("", f"there is {', '.join(registry.FORMS.values())}"),
        ("gemini", "write it as gemini:MODEL"),
        ("recorded:", "write it as recorded:FILE"),
    ],
)
def test_names_that_are_none_get_a_near_one(name: str, hint: str) -> None:
    with pytest.raises(UsageError) as told:
        registry.open_engine(name, {}, Path())
    assert told.value.hint == hint


def test_the_default_needs_a_key() -> None:
    assert registry.default_name({"GOOGLE_API_KEY": "k"}) == f"gemini:{registry.DEFAULT_GEMINI_MODEL}"
    assert registry.default_name({"ANTHROPIC_API_KEY": "k"}).startswith("anthropic:claude-")
    assert registry.default_name({"ANTHROPIC_API_KEY": "k", "OPENAI_API_KEY": "k"}).startswith("openai:gpt-")
    with pytest.raises(KeyMissingError) as told:
        registry.default_name({"OLLAMA_API_KEY": "k"})
    assert (
        told.value.where
        == "looked for GEMINI_API_KEY, GOOGLE_API_KEY, OPENAI_API_KEY and ANTHROPIC_API_KEY: no key is set"
    )
    assert told.value.hint.startswith("set GEMINI_API_KEY, GOOGLE_API_KEY, OPENAI_API_KEY or ANTHROPIC_API_KEY")


def test_a_key_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(KeyMissingError) as told:
        registry.default_name({"OPENAI_API_KEY": "k"})
    assert told.value.where.endswith("OPENAI_API_KEY is set, and openai is not installed")
    assert told.value.hint.startswith(f"{sys.executable} -m pip install 'protocol-runner[openai]'")


def test_every_default_model_has_a_price() -> None:
    for name, row in registry.ROWS.items():
        if row.default:
            assert registry.cost_usd(name, row.default, Usage(input=1, output=1)) is not None, name


def test_the_list_says_what_is_missing() -> None:
    every = {each.form: each.missing for each in registry.listed({})}
    assert list(every) == list(registry.FORMS.values())
    assert every["gemini:MODEL"] == "set GEMINI_API_KEY or GOOGLE_API_KEY"
    assert every["openai:MODEL"] == "set OPENAI_API_KEY"
    assert every["compatible:MODEL"] == "set RUNNER_COMPATIBLE_URL"
    assert every["azure:MODEL"] == "set AZURE_OPENAI_ENDPOINT and AZURE_OPENAI_API_KEY"
    assert (every["ollama:MODEL"], every["recorded:FILE"]) == ("", "")
    ready = {each.form: each.missing for each in registry.listed({"GEMINI_API_KEY": "k"})}
    assert ready["gemini:MODEL"] == ""


@pytest.mark.parametrize(
    ("name", "environ", "host"),
    [
        ("ollama:qwen3:8b", {}, "127.0.0.1:11434"),
        ("ollama:qwen3:8b", {"OLLAMA_BASE_URL": "http://desk:1/v1"}, "desk:1"),
        ("compatible:m", {"RUNNER_COMPATIBLE_URL": "https://llm.example.test/v1"}, "llm.example.test"),
        ("openrouter:anthropic/claude-x:free", {"OPENROUTER_API_KEY": "k"}, "openrouter.ai"),
        ("deepseek:deepseek-chat", {"DEEPSEEK_API_KEY": "k"}, "api.deepseek.com"),
        (
            "azure:my-deployment",
            {"AZURE_OPENAI_API_KEY": "k", "AZURE_OPENAI_ENDPOINT": "https://mine.openai.azure.com/"},
            "mine.openai.azure.com",
        ),
        (
            "bedrock:openai.gpt-oss-120b-1:0",
            {"AWS_BEARER_TOKEN_BEDROCK": "k", "AWS_REGION": "us-west-2"},
            "bedrock-runtime.us-west-2.amazonaws.com",
        ),
        (
            "vertex:google/gemini-2.5-pro",
            {"GOOGLE_OAUTH_ACCESS_TOKEN": "k", "GOOGLE_CLOUD_PROJECT": "p", "GOOGLE_CLOUD_LOCATION": "europe-west1"},
            "europe-west1-aiplatform.googleapis.com",
        ),
    ],
)
def test_a_row_says_where_its_models_are(name: str, environ: dict[str, str], host: str) -> None:
    engine = registry.open_engine(name, environ, Path())
    assert isinstance(engine, LineEngine)
    assert (engine.name, engine._place.host) == (name, host)


def test_a_part_of_an_address_that_is_missing_is_named() -> None:
    with pytest.raises(KeyMissingError) as told:
        registry.open_engine("bedrock:m", {"AWS_BEARER_TOKEN_BEDROCK": "k"}, Path())
    assert told.value.hint == "set AWS_REGION"


def test_an_address_with_a_password_is_refused_and_not_shown() -> None:
    """It would be sent in the key's place, and stand in what an endpoint says back."""
    environ = {"RUNNER_COMPATIBLE_URL": "http://bob:hunter2secret@127.0.0.1:1/v1"}
    with pytest.raises(UsageError, match="contains a user or a password") as told:
        registry.open_engine("compatible:m", environ, Path())
    assert "hunter2secret" not in str(told.value) and "RUNNER_COMPATIBLE_KEY" in told.value.hint


@pytest.mark.parametrize("name", ["compatible:m", "anthropic:m"])
def test_an_address_that_no_sdk_reads_is_an_error_of_the_engine(name: str) -> None:
    provider = name.partition(":")[0]
    row = registry.ROWS[provider]
    variable = row.addresses[0] if row.addresses else "RUNNER_COMPATIBLE_URL"
    with pytest.raises(EngineError, match="endpoint") as told:
        registry.check(name, {variable: "http://\u2603.invalid/v1", row.keys[0]: "k"}, Path())
    assert not told.value.retryable and told.value.hint == f"correct {variable}"


def test_a_check_asks_one_small_question() -> None:
    with serving(Answer(pieces=[[{"text": "ready"}]]), FAULTS["401"], Answer(pieces=[[]], block="SAFETY")) as wire:
        environ = {"GEMINI_API_KEY": KEY, "GEMINI_BASE_URL": wire.url}
        response = registry.check("gemini:gemini-3.8-flash", environ, Path())
        assert response is not None
        assert response.turn.text == "ready"
        with pytest.raises(KeyRefusedError):
            registry.check("gemini:gemini-3.8-flash", environ, Path())
        with pytest.raises(EngineError, match="harmless"):
            registry.check("gemini:gemini-3.8-flash", environ, Path())
        assert len(wire.bodies) == 3


def test_a_check_of_a_cassette_reads_it(tmp_path: Path) -> None:
    assert registry.check("recorded:answer.jsonl", {}, CASSETTES) is None
    with pytest.raises(UsageError):
        registry.check("recorded:none", {}, tmp_path)


@pytest.mark.parametrize(
    ("model", "most"),
    [
        ("gemini-3.8-flash", 65_536),
        ("claude-sonnet-5-5", 64_000),
        ("anthropic/claude-opus-4-1", 32_000),
        ("openai.gpt-6-sol", 128_000),
        ("qwen3:8b", None),
    ],
)
def test_the_most_that_a_model_says_at_once(model: str, most: int | None) -> None:
    assert registry.most_output(model) == most


@pytest.mark.parametrize("key", ["sk-ü", "a b", "auth_tokens/x"])
def test_what_is_no_key_is_refused_for_a_coding_agent_as_for_a_model(key: str, tmp_path: Path) -> None:
    environ = {"GEMINI_API_KEY": key}
    for ask in (
        lambda: registry.open_engine("gemini:gemini-3.8-flash", environ, tmp_path),
        lambda: registry.upstream("gemini", environ),
    ):
        with pytest.raises(KeyRefusedError, match="the value is not an API key of Gemini"):
            ask()
