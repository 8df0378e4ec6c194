"""Names of engines, the default, the list and the check."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.engines import EngineError, KeyMissingError, KeyRefusedError, registry
from runner.errors import UsageError
from tests.engines.benches import CASSETTES, FAULTS
from tests.engines.wire_gemini import KEY, Answer, serving


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
        ("zzz:x", "there is gemini:MODEL, recorded:FILE"),
        ("", "there is gemini:MODEL, recorded:FILE"),
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
    with pytest.raises(KeyMissingError) as told:
        registry.default_name({})
    assert "GEMINI_API_KEY and GOOGLE_API_KEY" in told.value.where
    assert "no key is set" in told.value.where
    assert told.value.hint.startswith("set GEMINI_API_KEY or GOOGLE_API_KEY")


def test_the_list_says_what_is_missing() -> None:
    assert [(each.form, each.missing) for each in registry.listed({})] == [
        ("gemini:MODEL", "set GEMINI_API_KEY or GOOGLE_API_KEY"),
        ("recorded:FILE", ""),
    ]
    assert all(not each.missing for each in registry.listed({"GEMINI_API_KEY": "k"}))


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
