"""What later versions bring is refused by name, exit 2, and nothing is made; it is never ignored."""

from __future__ import annotations

import pytest

from tests.conftest import Box, command

STEP = command("true")


@pytest.mark.parametrize(
    ("named", "step", "front"),
    [
        ("`budget:`", STEP + "budget: {usd: 1}\n", ""),
    ],
)
def test_a_plan_that_asks_for_what_is_not_there_yet(box: Box, named: str, step: str, front: str) -> None:
    before = box.git("for-each-ref")
    done = box.runner("new", "X", "--plan", box.plan({"01-a": step}, front=front))
    assert done.code == 2 and "not supported" in done.err
    assert named in done.err, done.err
    assert (".md:" in done.err) and box.git("for-each-ref") == before


@pytest.mark.parametrize(
    ("named", "config"),
    [
        ("`ci:`", "ci: block\n"),
        ("`qa:`", "qa: {on_ci: true}\n"),
    ],
)
def test_a_configuration_that_asks_for_what_is_not_there_yet(box: Box, named: str, config: str) -> None:
    del box.env["RUNNER_EXECUTOR"]
    box.write(".protocols/config.yaml", config)
    box.commit("config")
    done = box.runner("new", "X", "--plan", box.plan({"01-a": STEP}))
    assert done.code == 2 and named in done.err and "config.yaml" in done.err, done.err


def test_a_policy_that_cannot_be_carried_out_is_not_ignored_when_it_comes_later(box: Box) -> None:
    protocol = box.new({"01-a": STEP, "02-b": STEP})
    box.write(".protocols/policy.yaml", "repo: 0\n")
    box.commit("policy")
    done = box.runner("step", protocol)
    assert done.code == 2 and "policy.yaml" in done.err and box.state(protocol)["revision"] == 2


@pytest.mark.parametrize("args", [["--executor", "container"], ["--executor", "moon"]])
def test_options(box: Box, args: list[str]) -> None:
    protocol = box.new({"01-a": STEP})
    done = box.runner("step", protocol, *args)
    assert done.code == 2 and (args[0] in done.err or args[1] in done.err)
    assert box.state(protocol)["revision"] == 2
