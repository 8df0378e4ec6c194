"""`decompose: true`: a model splits a step into ordinary ones before it starts, and a person takes them."""

from __future__ import annotations

from pathlib import Path

from tests.cli.test_planning import env, prompt, says, words
from tests.conftest import Box, command
from tests.engines.wire_gemini import serving
from tests.people import governed, person

BIG = "kind: agent\ndecompose: true\nneeds: []\ntimeout: 20m\nresult: {type: object}\napproval: before\n"
PARTS: list[dict[str, object]] = [
    {"slug": "model", "title": "The model", "prose": "Write it."},
    {"slug": "big", "title": "The rest", "checks": ["true"], "prose": "Finish it."},
]


def split(box: Box, steps: list[dict[str, object]], *more: str, rc: int = 0) -> tuple[str, str]:
    protocol = box.new(
        {
            "01-a": command("true"),
            "02-big": BIG,
            "03-end": command("true", "needs: [big]\n"),
            "04-side": command("true", "needs: []\n"),
        }
    )
    box.runner("step", protocol, rc=0)
    box.runner("step", protocol, "--step", "side", rc=0)
    with serving(*[says({"title": "x", "steps": steps})] * 2) as wire:
        box.runner("plan", protocol, "--split", "big", "--yes", *more, env=env(wire), rc=rc)
        return protocol, prompt(wire)


def test_a_step_is_split_before_it_starts_and_the_last_part_has_its_slug(box: Box) -> None:
    protocol, told = split(box, PARTS)
    assert "02-big (to be split)" in told and "03-end (stays: pending)" in told
    assert words(box, protocol) == ["01-a.md", "02-model.md", "03-big.md", "04-end.md", "05-side.md"]
    model, big = (box.git("show", f"{protocol}:.protocols/{protocol}/{name}") for name in ("02-model.md", "03-big.md"))
    assert "needs: []" in model and "result" not in model and "needs" not in big and "result: {type: object}" in big
    for file in (model, big):
        assert "timeout: 20m\n" in file and "approval: before\n" in file and "decompose" not in file
    box.runner("step", protocol, rc=3)
    box.runner("verify", protocol, rc=0)


def test_a_step_that_is_to_be_split_does_not_start(box: Box) -> None:
    protocol = box.new({"01-big": BIG})
    then = "runner plan 1 --split big"
    assert f"next          {then}, then runner run 1" in box.runner("status", protocol, rc=0).out
    assert box.runner("status", "--json", rc=0).json()["protocols"][0]["command"] == then
    shown = box.runner("run", protocol, rc=3).err
    assert "01-big.md:" in shown and "runner plan 1 --split big" in shown
    assert "asked" not in box.log(protocol)


def test_parts_of_which_the_last_has_another_slug_are_refused(box: Box) -> None:
    protocol, _ = split(box, [PARTS[1], PARTS[0]], rc=69)
    assert words(box, protocol) == ["01-a.md", "02-big.md", "03-end.md", "04-side.md"]


def test_what_started_is_not_split(box: Box) -> None:
    protocol = box.new({"01-a": command("true")})
    assert "a cannot be split" in box.runner("plan", protocol, "--split", "a", rc=4).err


def test_the_engine_of_decompose_splits(box: Box) -> None:
    box.write(".protocols/config.yaml", "engine: {default: x:none, decompose: gemini:gemini-2.5-flash}\n")
    box.commit("config")
    split(box, PARTS)


def test_only_an_agent_s_step_is_split(box: Box) -> None:
    plan = box.plan({"01-a": command("true", "decompose: true\n")})
    assert "goes with a step of kind agent" in box.runner("new", "x", "--plan", plan).err


def test_the_plan_s_approval_is_asked_again_for_the_parts(tmp_path: Path) -> None:
    alice = person(tmp_path, "alice")
    box = governed(tmp_path / "repo", [alice], approvals="  plan: {roles: [maintainer], required: true}\n")
    protocol = box.new({"01-a": command("true"), "02-big": BIG})
    box.runner("run", protocol, rc=3)
    box.runner("approve", protocol, "--yes", rc=0, env=alice.env)
    box.runner("run", protocol, rc=3)
    with serving(says({"title": "x", "steps": PARTS})) as wire:
        box.runner("plan", protocol, "--split", "big", "--yes", env=env(wire), rc=0)
    box.runner("run", protocol, rc=3)
    assert box.state(protocol)["steps"]["model"]["status"] == "pending"
    assert [wait["subject"] for wait in box.state(protocol)["waiting"]] == ["plan"]
