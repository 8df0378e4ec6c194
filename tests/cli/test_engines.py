"""`runner engines`: what there is here, and whether one answers."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.engines import agents, registry
from tests.cli.test_planning import PLAN, says
from tests.conftest import Box
from tests.engines.scenarios import Asked, Said
from tests.engines.wire_gemini import KEY, Refusal, Wire, error, serving
from tests.engines.wires import FORMATS
from tests.executor.minds import ENGINE, agent, finish, mind, say, sound, transcript, write


def test_what_is_there_and_what_is_missing(box: Box) -> None:
    told = box.runner("engines", rc=0).out.splitlines()
    assert told[0].startswith("gemini:MODEL") and "set GEMINI_API_KEY" in told[0].replace("GOOGLE_API_KEY or ", "")
    assert told[-1].startswith("recorded:FILE") and told[-1].endswith("  ready")
    assert told[0].index("Google's") == told[-1].index("answers from") and told[0].index("set ") == told[-1].index(
        "ready"
    )
    ready = box.runner("engines", rc=0, env={"GEMINI_API_KEY": "some-key-of-mine"}).out
    assert "ready" in ready.splitlines()[0] and "some-key" not in ready


def test_every_prefix_is_listed_and_has_a_row_of_its_page(box: Box) -> None:
    told = box.runner("engines", rc=0).out.splitlines()
    assert [line.partition(":")[0] for line in told] == [*registry.ROWS, "acp", "cli", "recorded"]
    page = (Path(__file__).parents[2] / "docs/engines.md").read_text()
    for row in (*(f"| `{name}:" for name in registry.ROWS), *(f"| `acp:{name}" for name in agents.ACP), "`cli:NAME`"):
        assert row in page, row
    for table in agents.TABLES.values():
        assert any(", ".join(table) in line for line in told)


def test_coding_agents_that_are_installed_are_named(box: Box, tmp_path: Path) -> None:
    def states() -> dict[str, str]:
        lines = box.runner("engines", rc=0, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}).out.splitlines()
        return {line.partition(":")[0]: line.rpartition("  ")[2] for line in lines}

    assert (states()["cli"], states()["ollama"]) == ("install one of them", "needs no key")
    (tmp_path / "aider").write_text("#!/bin/sh\n")
    (tmp_path / "aider").chmod(0o755)
    assert states()["cli"] == "ready: aider"


def test_it_works_outside_a_repository(box: Box, tmp_path: Path) -> None:
    assert "gemini:MODEL" in box.runner("engines", cwd=tmp_path, rc=0).out


def test_one_is_asked(box: Box) -> None:
    with mind(box, say(text="ready")) as wire:
        told = box.runner("engines", ENGINE, rc=0).out
        assert len(wire.bodies) == 1
    assert told.startswith(f"{ENGINE}  answers") and "100 tokens in, 20 out · $0.0" in told


def test_a_key_that_is_refused_a_missing_key_and_no_such_engine(box: Box) -> None:
    assert "GOOGLE_API_KEY" in box.runner("engines", ENGINE, rc=2).err
    with mind(box, Refusal(code=401, body=error(401, "UNAUTHENTICATED", "no such key"))):
        assert "next: set GEMINI_API_KEY to a key" in box.runner("engines", ENGINE, rc=69).err
    with mind(box, Refusal(code=401, body=error(401, "UNAUTHENTICATED", "no such key"))):
        told = box.runner("engines", ENGINE, rc=69, env={"GOOGLE_API_KEY": KEY, "GEMINI_API_KEY": "not-asked"}).err
        assert "next: set GOOGLE_API_KEY to a key" in told
    assert "gemini:MODEL" in box.runner("engines", "gemni:x", rc=2).err
    assert box.runner("engines", "recorded:none.jsonl").code == 2


def test_a_cassette_is_read(box: Box) -> None:
    box.write("answers.jsonl", "")
    assert "is readable" in box.runner("engines", "recorded:answers.jsonl", rc=0).out


def test_a_check_asks_each_engine_that_is_configured_and_says_which_answers(box: Box) -> None:
    box.write(".protocols/config.yaml", f"engine: {{default: {ENGINE}, review: recorded:none.jsonl}}\n")
    box.commit("engines")
    with mind(box, say(text="ready"), say(text="ready")) as wire:
        box.write("none.jsonl", "")
        told = box.runner("engines", "--check", rc=0).out.splitlines()
        assert len(wire.bodies) == 2
    assert [line.split()[:2] for line in told] == [
        ["recorded:none.jsonl", "is"],
        [ENGINE, "answers"],
        ["gemini:gemini-3.8-flash", "answers"],
    ]


def test_a_check_asks_the_engines_of_every_phase_and_of_each_reviewer(box: Box) -> None:
    phases = ("plan", "decompose", "execute", "review", "default")
    named = ", ".join(f"{name}: 'recorded:{name}.jsonl'" for name in phases)
    reviewers = "review: {reviewers: [{aspects: [security], engine: 'recorded:security.jsonl'}]}\n"
    box.write(".protocols/config.yaml", f"engine: {{{named}}}\n{reviewers}")
    for name in (*phases, "security"):
        box.write(f"{name}.jsonl", "")
    box.commit("engines")
    told = box.runner("engines", "--check", rc=0).out.splitlines()
    assert {line.split()[0] for line in told} == {f"recorded:{name}.jsonl" for name in (*phases, "security")}


def test_a_check_tries_the_others_where_one_does_not_answer(box: Box) -> None:
    with mind(box, Refusal(code=500, body=error(500, "INTERNAL", "oh")), say(text="ready")):
        told = box.runner("engines", "--check", rc=69, env={"RUNNER_ENGINE": ENGINE})
    assert f"{ENGINE}  does not answer: Gemini reports a server error (500): oh" in told.out
    assert "gemini:gemini-3.8-flash  answers" in told.out


def test_a_check_without_any_engine_says_what_to_set(box: Box) -> None:
    assert "set RUNNER_ENGINE" in box.runner("engines", "--check", rc=2).err


@contextlib.contextmanager
def leading(box: Box, name: str, *script: Refusal | Said) -> Iterator[tuple[str, Wire]]:
    """Serve a provider's form, and set its key and address; give the engine's name and the server."""
    format = FORMATS[name]
    replies = [one if isinstance(one, Refusal) else format.answer(one, number) for number, one in enumerate(script)]
    with serving(*replies, wire_of=format.wire) as wire:
        engine, environ = format.environ(wire)
        box.env.update({**environ, "NO_PROXY": "*"})
        yield engine, wire


DONE = Said(calls=(Asked(name="finish", arguments={"status": "done", "summary": "all"}),))


@pytest.mark.parametrize("name", ["gemini", *FORMATS])
def test_a_limit_of_each_provider_is_a_wait_that_says_until_when(box: Box, name: str) -> None:
    """And no failure: the same command goes on with the same attempt, after that time."""
    limited = Refusal(code=429, body={"error": {"message": "slow"}}, headers=[("Retry-After", "9000")])
    with contextlib.ExitStack() as stack:
        if name == "gemini":
            engine, wire = ENGINE, stack.enter_context(mind(box, limited, finish()))
        else:
            engine, wire = stack.enter_context(leading(box, name, limited, DONE))
        protocol = box.new({"01-a": agent(engine=engine)})
        told = box.runner("run", protocol, rc=69).err
        assert re.search(r"wait 2 h 30 min, until (\d{4}-\d\d-\d\d )?\d\d:\d\d(:\d\d)? UTC", told), told
        assert len(wire.bodies) == 1 and not box.state(protocol)["waiting"]
        box.runner("run", protocol, rc=0)
        assert len(wire.bodies) == 2 and not wire.wrong
    assert box.state(protocol)["steps"]["a"]["attempt"] == 1
    sound(box, protocol)


PHASES = """\
engine:
  plan: gemini:gemini-2.5-pro
  execute: ['openai:gpt-6.1-terra', 'gemini:gemini-2.5-flash']
  review: gemini:gemini-3.8-flash
"""


def test_each_phase_has_its_model_and_a_list_falls_back_on_the_next(box: Box) -> None:
    """Planner, executor and reviewer are three models; the executor's first one refuses, and the second does the work."""
    box.write(".protocols/config.yaml", PHASES)
    box.commit("models")
    step = {"slug": "greet", "title": "Greet", "kind": "agent", "checks": ["test -f made"], "prose": "Make it."}
    passed = say(text='{"verdict": "PASS", "summary": "It is there.", "findings": []}')
    script = (says({**PLAN, "steps": [step]}), say(write("made", "x\n")), finish("made it"), passed)
    refused = Refusal(code=401, body={"error": {"message": "no such key"}})
    with leading(box, "openai", *[refused] * 3) as (_, first), mind(box, *script) as wire:
        protocol = box.runner("new", "--no-questions", "Make a greeting", rc=0).out.strip()
        file = box.worktree(protocol) / f".protocols/{protocol}/01-greet.md"
        file.write_text(file.read_text().replace("qa:\n", "qa:\n  policy: full\n"))
        told = box.runner("run", protocol, rc=0)
        assert wire.wrong == [] and first.bodies, told.err
        assert wire.models == ["gemini-2.5-pro", "gemini-2.5-flash", "gemini-2.5-flash", "gemini-3.8-flash"]
        assert first.bodies[0]["model"] == "gpt-6.1-terra"
    rows = {name: transcript(box, protocol, name) for name in ("plan.1", "greet.1", "greet.1.qa")}
    asked = {name: {one["engine"] for one in found if one["kind"] == "response"} for name, found in rows.items()}
    assert asked == {
        "plan.1": {"gemini:gemini-2.5-pro"},
        "greet.1": {"gemini:gemini-2.5-flash"},
        "greet.1.qa": {"gemini:gemini-3.8-flash"},
    }
    sound(box, protocol)


def test_a_price_that_nobody_knows_is_said_by_run_and_show_and_never_as_nothing(box: Box) -> None:
    format = FORMATS["compatible"]
    done = Said(calls=(Asked(name="finish", arguments={"status": "done", "summary": "all"}),))
    with serving(format.answer(done, 0), wire_of=format.wire) as wire:
        engine, environ = format.environ(wire)
        box.env.update({**environ, "NO_PROXY": "*"})
        protocol = box.new({"01-a": f"kind: agent\nengine: {engine}\n"})
        assert "price not known" in box.runner("run", protocol, rc=0).err
    told = box.runner("show", protocol, rc=0).out
    assert "price not known" in told and "$0" not in told


def test_an_unknown_price_stops_a_budget_in_money_before_anything_is_asked(box: Box) -> None:
    format = FORMATS["compatible"]
    with serving(wire_of=format.wire) as wire:
        engine, environ = format.environ(wire)
        box.env.update({**environ, "NO_PROXY": "*"})
        protocol = box.new({"01-a": f"kind: agent\nengine: {engine}\nbudget: {{usd: 1}}\n"})
        assert "price of compatible:fake-1 is not known" in box.runner("run", protocol, rc=3).err
        assert wire.bodies == []
