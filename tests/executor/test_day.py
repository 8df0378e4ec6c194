"""The day's budget where models are asked: steps, reviews and plans wait for tomorrow, and nothing of it is recorded."""

from __future__ import annotations

import json
import signal
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from runner.store import day_budget
from tests.conftest import Box
from tests.executor.minds import agent, finish, mind, say, sound, write
from tests.executor.test_resume import kill


def limit(box: Box, day: str, config: str = "") -> None:
    """Set a day's budget on the trusted branch."""
    box.write(".protocols/policy.yaml", f"repo: {'6f0c' * 8}\nbudget: {{day: {day}}}\n")
    if config:
        box.write(".protocols/config.yaml", config)
    box.commit("policy")


def day(box: Box) -> Any:
    """Return the ledger's only day."""
    (name,) = box.git("ls-tree", "--name-only", day_budget.REF).split()
    return json.loads(box.git("show", f"{day_budget.REF}:{name}"))


@pytest.mark.slow
def test_what_a_step_spends_is_settled_and_what_the_day_has_not_waits_unrecorded(box: Box) -> None:
    with mind(box, say(write("a.txt", "a\n")), finish(), finish()) as wire:
        limit(box, "{usd: 0.05}")
        first, second = box.new({"01-x": agent()}), box.new({"01-x": agent()}, title="Another")
        box.runner("run", first, rc=0)
        spent = box.state(first)["spent"]
        assert (day(box)["usd"], day(box)["open"]) == (spent["usd"].rstrip("0"), {})
        assert day(box)["tokens"] == spent["input_tokens"] + spent["output_tokens"] == 240
        limit(box, "{usd: 0.01}")
        before = box.count(second)
        stopped = box.runner("run", second, rc=3)
        assert "the day's budget" in stopped.err and "00:00 UTC" in stopped.err
        assert box.count(second) == before and len(wire.bodies) == 2
        limit(box, "{usd: 0.06}")
        box.runner("run", second, rc=0)
        assert day(box)["tokens"] == 360
    sound(box, first)
    sound(box, second)


@pytest.mark.slow
def test_in_the_middle_of_a_step_it_waits_and_goes_on_without_asking_twice(box: Box) -> None:
    with mind(box, say(write("a.txt", "a\n"), tokens=(10_000, 2_000)), finish()) as wire:
        limit(box, "{tokens: 27000}")
        protocol = box.new({"01-x": agent()})
        box.runner("run", protocol, rc=3)
        assert len(wire.bodies) == 1 and box.state(protocol)["steps"]["x"]["attempt"] == 1
        assert (day(box)["tokens"], day(box)["open"]) == (12_000, {})
        limit(box, "{tokens: 60000}")
        box.runner("run", protocol, rc=0)
        assert len(wire.bodies) == 2
        assert day(box)["tokens"] == 12_120
    sound(box, protocol)


@pytest.mark.slow
def test_what_a_killed_runner_had_reserved_counts(box: Box) -> None:
    with mind(box, say(write("a.txt", "a\n")), finish()):
        limit(box, "{usd: 0.2}")
        protocol = box.new({"01-x": agent()})
        kill(box, "after", 1, "step", protocol)
        (left,) = day(box)["open"].values()
        assert Decimal(left["usd"]) > Decimal("0.04")
        box.runner("run", protocol, rc=0)
        assert [one["usd"] for one in day(box)["open"].values()] == [left["usd"]]
    sound(box, protocol)


@pytest.mark.slow
def test_a_signal_settles(box: Box) -> None:
    with mind(box, say(write("a.txt", "a\n")), finish()) as wire:
        limit(box, "{usd: 0.2}")
        protocol = box.new({"01-x": agent()})
        started: list[Any] = []
        wire.script.before = {1: lambda: started[0].send_signal(signal.SIGINT)}  # type: ignore[attr-defined]
        started.append(box.start("run", protocol))
        _, err = started[0].communicate()
        assert started[0].returncode == 130, err
        assert day(box)["open"] == {} and Decimal(day(box)["usd"]) > 0
    box.runner("verify", protocol, rc=0)


def test_a_model_without_a_price_is_not_asked_while_the_day_is_limited(box: Box) -> None:
    with mind(box, finish()) as wire:
        limit(box, "{usd: 5}")
        protocol = box.new({"01-x": agent(engine="gemini:nobody-has-priced-this")})
        assert "the price of" in box.runner("run", protocol, rc=3).err
        assert wire.bodies == [] and box.count(protocol) == 2 + 1


@pytest.mark.slow
def test_a_review_and_a_plan_are_paid_from_it_too(box: Box, tmp_path: Path) -> None:
    with mind(box, finish()) as wire:
        limit(box, "{usd: 0.01}")
        box.env["RUNNER_ENGINE"] = "gemini:gemini-2.5-flash"
        assert "the day's budget" in box.runner("new", "Something new", "--no-questions", rc=3).err
        protocol = box.new({"01-x": "kind: command\nrun: echo x > x.txt\nqa: full\noutputs: [x.txt]\n"})
        assert "the day's budget" in box.runner("run", protocol, rc=3).err
        assert wire.bodies == []
        assert box.state(protocol)["steps"]["x"]["status"] == "needs_qa"


def test_in_a_job_it_is_no_failure(box: Box, tmp_path: Path) -> None:
    with mind(box, finish()):
        limit(box, "{usd: 0.01}", "publish: never\n")
        protocol = box.new({"01-x": agent()})
        outputs = tmp_path / "outputs"
        told = box.runner("run", protocol, "--ci", "--publish", "never", rc=0, env={"GITHUB_OUTPUT": str(outputs)})
        assert "the day's budget" in told.err
        assert "waits=true" in outputs.read_text()


@pytest.mark.slow
def test_many_protocols_at_once_stay_below_it(box: Box) -> None:
    """Ten runners at once, and a budget for some of their requests: what is left waits, and is done the next day."""
    with mind(box, *[finish() for _ in range(10)]) as wire:
        limit(box, "{usd: 0.13}")
        names = [box.new({"01-x": agent()}, title=f"Number {number}") for number in range(10)]
        started = [box.start("run", name) for name in names]
        codes = [one.communicate() and one.returncode for one in started]
        assert set(codes) <= {0, 3} and 0 in codes and 3 in codes
        assert day(box)["open"] == {} and Decimal(day(box)["usd"]) <= Decimal("0.13")
        limit(box, "{usd: 10}")
        for name in names:
            box.runner("run", name, rc=0)
        assert len(wire.bodies) == 10
