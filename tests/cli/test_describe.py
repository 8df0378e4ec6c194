"""What a protocol's status, its waits and the command to type next are said to be: the same wherever they are printed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from runner.app import describe
from runner.executor.loop import Total
from runner.protocol.state import Json
from tests.conftest import Box, add_origin, command
from tests.people import Person, governed, person

APPROVED = {"01-ship": command("true", "approval: before\n")}


@pytest.fixture
def alice(tmp_path: Path) -> Person:
    return person(tmp_path, "alice")


@pytest.fixture
def asked(tmp_path: Path, alice: Person) -> tuple[Box, str]:
    """A protocol that waits for Alice's approval."""
    box = governed(tmp_path / "repo", [alice])
    protocol = box.new(APPROVED)
    box.runner("step", protocol, rc=3)
    return box, protocol


@pytest.fixture
def nobody(alice: Person) -> dict[str, str]:
    """Alice's key, on a machine where git knows nobody's name."""
    who = (f"GIT_{role}_{what}" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL"))
    config = alice.home / ".gitconfig"
    config.write_text("".join(line for line in config.read_text().splitlines(True) if "name =" not in line))
    return {**alice.env, **dict.fromkeys(who, "")}


def next_of(text: str) -> str:
    """The command after `next` in what was printed, or nothing."""
    lines = [line.split(None, 1)[1] for line in text.splitlines() if line.split(None, 1)[:1] == ["next"]]
    return lines[-1] if lines else ""


def test_status_run_and_resume_name_the_same_next_command(asked: tuple[Box, str], alice: Person) -> None:
    box, protocol = asked
    for who, wanted in ((alice.env, "runner approve 1"), ({}, "runner approve 1, by alice@example.test")):
        (line,) = box.runner("status", env=who, rc=0).out.splitlines()
        assert line.endswith(f"  {wanted}")
        assert next_of(box.runner("status", protocol, env=who, rc=0).out) == wanted
        assert next_of(box.runner("run", protocol, env=who, rc=3).err) == wanted
        assert next_of(box.runner("resume", protocol, env=who, rc=0).err) == wanted


def test_who_has_no_identity_is_told_to_set_one_before_approving(
    asked: tuple[Box, str], nobody: dict[str, str]
) -> None:
    box, protocol = asked
    for name in ("user.name", "user.email"):
        box.git("config", "--unset-all", name, check=False)
    assert "git does not know who you are" in box.runner("approve", protocol, "--yes", env=nobody, rc=2).err
    shown = next_of(box.runner("status", protocol, env=nobody, rc=0).out)
    assert shown == "set user.name and user.email in git, then runner approve 1"
    assert box.runner("status", env=nobody, rc=0).out.rstrip().endswith(shown)


def test_a_cancelled_protocol_waits_for_nothing_and_run_names_undo(asked: tuple[Box, str]) -> None:
    box, protocol = asked
    assert "waits" in box.runner("status", protocol, rc=0).out
    box.runner("cancel", protocol, rc=0)
    assert "waits" not in box.runner("status", protocol, rc=0).out
    assert "waits" not in box.runner("show", protocol, "ship", rc=0).out
    assert next_of(box.runner("run", protocol, rc=3).err) == "runner undo 1"


def test_a_rebase_that_is_not_finished_is_named(box: Box) -> None:
    protocol = box.new({"01-a": command("true")})
    other = box.new({"01-a": command("true")}, title="Another")
    at = box.worktree(protocol)
    (at / "a").write_text("1\n")
    box.commit("one", cwd=at)
    (box.path / "a").write_text("2\n")
    box.commit("two")
    box.git("rebase", "-q", "main", cwd=at, check=False)
    shown = box.runner("status", protocol, rc=0).out
    assert "rebase" in shown and next_of(shown) == "git rebase --continue, or git rebase --abort"
    (line,) = (line for line in box.runner("status", rc=0).out.splitlines() if line.startswith("0001"))
    assert "a rebase of it is under way" in line
    assert f"a rebase of {protocol} is under way" in box.runner("doctor", rc=2).out
    assert "a rebase of" not in box.runner("doctor", other).out
    refused = box.runner("run", cwd=at, rc=4).err
    assert "attempts/" not in refused  # it is refused before the step works
    assert "a rebase of 0001-a-plan is under way" in refused and "protocols are open" not in refused
    assert "a rebase of" not in box.runner("status", other, rc=0).out
    box.git("rebase", "--abort", cwd=at)
    assert "rebase" not in box.runner("status", protocol, rc=0).out


def test_a_name_whose_number_another_protocol_has_is_no_lost_branch(box: Box) -> None:
    box.new({"01-a": command("true")})
    told = box.runner("status", "0001-nope", rc=2).err
    assert "there is no protocol `0001-nope`" in told and "was lost" not in told and "0001-a-plan" in told


@pytest.mark.parametrize("publish", ["never", "ask"])
def test_an_answer_says_that_nothing_was_pushed(box: Box, publish: str) -> None:
    box.write(".protocols/config.yaml", f"publish: {publish}\n")
    box.commit("config")
    add_origin(box)
    protocol = box.new({"01-do": "kind: human\n"})
    box.runner("run", protocol, rc=3)
    assert "not published: " not in box.runner("pause", protocol, rc=0).err  # nobody waits for that
    box.runner("resume", protocol, rc=0)
    told = box.runner("answer", protocol, "done", rc=0).err
    assert told.count("not published") == 1 and "`runner sync 1`" in told


def test_an_approval_says_that_nothing_was_pushed(tmp_path: Path, alice: Person) -> None:
    box = governed(tmp_path / "repo", [alice], remote=True)
    box.write(".protocols/config.yaml", "publish: never\n")
    box.commit("config")
    box.git("push", "-q", "origin", "main")
    protocol = box.new(APPROVED)
    box.runner("step", protocol, rc=3)
    told = box.runner("approve", protocol, "--yes", env=alice.env, rc=0).err
    assert told.count("not published: ") == 1 and "`runner sync 1`" in told
    told = box.runner("reject", protocol, "--yes", env=alice.env, rc=0).err
    assert told.count("not published: ") == 1


def test_a_late_answer_says_who_answered(box: Box) -> None:
    protocol = box.new({"01-do": "kind: human\nqa: skip\n"})
    box.runner("run", protocol, rc=3)
    box.runner("answer", protocol, "it is done", rc=0)
    box.runner("run", protocol, rc=0)
    told = box.runner("answer", protocol, "do", "late", rc=4).err
    assert "is completed" in told and "01-do was answered already, by" in told and "it is done" in told


@pytest.mark.parametrize(
    ("cost", "text"),
    [
        ({"seconds": 100, "usd": "0.08"}, "1m 40s · $0.08"),
        ({"usd": "0.08", "unpriced": 500}, "$0.08 and a price not known"),
        ({"usd": "0", "unpriced": 500}, "price not known"),
        ({"usd": "0", "unpriced": 0, "input_tokens": 500}, "500 tokens in, 0 out"),
        ({"usd": "0", "input_tokens": 500, "output_tokens": 20}, "500 tokens in, 20 out"),
        ({"input_tokens": 1000, "cached_tokens": 250, "usd": "0.001"}, "$0.001 · 25 % of the input cached · 1,000 tokens in, 0 out"),
        ({"seconds": "4", "usd": None}, ""),
        (None, ""),
    ],
)  # fmt: skip
def test_a_cost_never_hides_tokens_whose_price_is_not_known(cost: Json, text: str) -> None:
    assert describe.spent(cost, tokens=True) == text


def test_a_model_that_costs_nothing_has_a_price_and_one_whose_price_is_not_known_has_none() -> None:
    free = Total(input_tokens=1000, turns=2)
    assert describe.price_of(free) == "$0.00"
    assert describe.price_of(dataclasses.replace(free, unpriced=1000)) == "price not known"


def test_costs_of_forged_entries_are_left_out_of_a_sum() -> None:
    costs = (
        {"usd": "0.10", "seconds": 2},
        None,
        {"usd": "-1", "seconds": -2, "unpriced": "x"},
        {"usd": "0.02", "unpriced": 7},
    )
    whole = describe.together(costs)
    assert (whole["usd"], whole["seconds"], whole["unpriced"], whole["input_tokens"]) == ("0.12", 2, 7, 0)
