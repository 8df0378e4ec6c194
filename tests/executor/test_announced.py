"""Effects on a machine that may vanish: announced on the remote before they begin, and never made twice in silence."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runner.store import history, lease
from tests.conftest import Box, clone, command
from tests.executor.minds import agent, finish, lead, mind, say, sound
from tests.executor.test_calls import REPORT, WAITS, kill, lines, outside, tool, wait
from tests.store.test_lease import HELD, count, hook, leased, origin, outlast, steal

UNREACHABLE = 69


def intents(box: Box, protocol: str) -> list[str]:
    """Return the names of what the lease announces on the remote."""
    return box.git("ls-tree", "--name-only", f"{lease.ref_of(protocol)}:intents", cwd=origin(box), check=False).split()


def vanish(remote: Box, name: str, given: dict[str, Any], moment: str) -> tuple[str, Path, Box]:
    """Make a call on a machine that vanishes at the moment; return the protocol, the ledger and another machine's clone."""
    ledger = outside(remote, coworker="TOOLS\n", config="publish: always\n")
    protocol = remote.new({"01-tell": tool(name, "agent: analyst\n", **given), "02-b": command("true")})
    kill(remote, ledger, moment, "run", protocol, "--ephemeral")
    return protocol, ledger, clone(remote, "bob")


def test_its_outcome_goes_with_the_work_and_pushes_stay_few(remote: Box) -> None:
    ledger = outside(remote, coworker="TOOLS\n", config="publish: always\n")
    steps = {
        "01-tell": tool(REPORT[0], "agent: analyst\n", **REPORT[1]),
        "02-b": command("true"),
        "03-c": command("true"),
    }
    protocol = remote.new(steps)
    count(remote)
    remote.runner("run", protocol, "--ci", rc=0)
    pushed = [[name for _, _, name in push] for push in count(remote)]
    ref, branch = lease.ref_of(protocol), f"refs/heads/{protocol}"
    # taken, announced, published and renewed for the rest, published
    assert [sorted(set(one) & {ref, branch}) for one in pushed] == [[ref], [ref], [branch, ref], [branch, ref]]
    assert leased(remote, protocol) is None and len(lines(ledger)) == 1
    sound(remote, protocol)


@pytest.mark.parametrize("moment", ["in-runner", "after-intent", "after-outcome"])
@pytest.mark.slow
def test_on_another_machine_it_is_put_to_a_person_and_happens_at_most_once(remote: Box, moment: str) -> None:
    protocol, ledger, other = vanish(remote, *REPORT, moment)
    begun = len(lines(ledger))
    assert "the same command takes over its lease" in other.runner("run", protocol, rc=HELD).err
    assert "watches its lease for 1200 s" in other.runner("run", protocol, "--ephemeral", rc=HELD).err
    if moment != "after-intent":  # it was on the remote before it began
        assert intents(remote, protocol) == ["tell.1.1.json"]
        shown = remote.git("show", f"{lease.ref_of(protocol)}:intents/tell.1.1.json", cwd=origin(remote))
        assert json.loads(shown)["arguments"] == REPORT[1]
    outlast(other, protocol)
    if moment == "after-intent":  # it was not on the remote yet, so it had not begun
        assert begun == 0
        other.runner("run", protocol, "--ephemeral", rc=0)
        assert len(lines(ledger)) == 1
        return
    done = other.runner("run", protocol, "--ephemeral", rc=WAITS)
    assert "took over the lease" in done.err and "tell.1.1" in done.err
    assert wait(other, protocol)["kind"] == "effect" and leased(remote, protocol) is None
    other.runner("answer", protocol, "happened", rc=0)
    other.runner("run", protocol, "--ephemeral", rc=0)
    assert len(lines(ledger)) == begun == 1
    assert other.state(protocol)["status"] == "completed" and leased(remote, protocol) is None
    sound(other, protocol)


@pytest.mark.parametrize(("name", "given"), [("pay", {"amount": 5}), ("book", {"seat": 7})])
@pytest.mark.slow
def test_on_another_machine_one_that_can_be_repeated_or_looked_up_needs_nobody(
    remote: Box, name: str, given: dict[str, Any]
) -> None:
    protocol, ledger, other = vanish(remote, name, given, "in-runner")
    outlast(other, protocol)
    other.runner("run", protocol, rc=0)
    assert len(lines(ledger)) == 1 and leased(remote, protocol) is None
    sound(other, protocol)


@pytest.mark.slow
def test_a_machine_that_stays_announces_too_since_another_may_take_over(remote: Box) -> None:
    ledger = outside(remote, coworker="TOOLS\n", config="publish: always\n")
    protocol = remote.new({"01-tell": tool(REPORT[0], "agent: analyst\n", **REPORT[1]), "02-b": command("true")})
    kill(remote, ledger, "in-runner", "run", protocol)  # a laptop, switched off for some days
    assert len(lines(ledger)) == 1 and intents(remote, protocol) == ["tell.1.1.json"]
    other = clone(remote, "bob")
    outlast(other, protocol)
    other.runner("run", protocol, rc=WAITS)
    assert wait(other, protocol)["kind"] == "effect" and len(lines(ledger)) == 1
    sound(other, protocol)


@pytest.mark.slow
def test_where_it_is_published_no_effect_begins_while_the_remote_is_away(remote: Box) -> None:
    ledger = outside(remote, coworker="TOOLS\n", config="publish: always\n")
    protocol = remote.new({"01-tell": tool(REPORT[0], "agent: analyst\n", **REPORT[1])})
    away = origin(remote).rename(origin(remote).with_suffix(".away"))
    assert "nothing was started" in remote.runner("run", protocol, rc=69).err
    told = remote.runner("run", protocol, "--offline", rc=69).err
    assert "another clone may make the same call" in told and "without --offline" in told and lines(ledger) == []
    away.rename(origin(remote))
    remote.runner("run", protocol, rc=0)
    assert len(lines(ledger)) == 1
    sound(remote, protocol)


@pytest.mark.slow
def test_on_the_same_machine_the_journal_tells_more(remote: Box) -> None:
    protocol, ledger, _ = vanish(remote, *REPORT, "after-outcome")
    remote.runner("run", protocol, "--ephemeral", rc=0)
    assert len(lines(ledger)) == 1 and leased(remote, protocol) is None
    assert remote.state(protocol)["steps"]["tell"]["result"] == "sent to ops@example.test"
    sound(remote, protocol)


@pytest.mark.slow
def test_one_of_which_nobody_knows_stays_announced_whatever_is_done_instead(remote: Box) -> None:
    protocol, ledger, other = vanish(remote, *REPORT, "in-runner")
    outlast(other, protocol)
    other.git("fetch", "-q", "origin")
    other.git("checkout", "-q", protocol)
    other.write(f".protocols/{protocol}/01-tell.md", f"---\ntitle: tell\n{command('true')}---\n")
    other.commit("by hand instead")
    other.runner("run", protocol, rc=0)
    assert intents(remote, protocol) == ["tell.1.1.json"] and leased(remote, protocol)["expires"] is None
    assert other.state(protocol)["status"] == "completed" and len(lines(ledger)) == 1


@pytest.mark.slow
def test_an_outcome_whose_transition_gave_way_to_a_persons_word_is_asked_about(remote: Box) -> None:
    ledger = outside(remote, coworker="TOOLS\n", config="publish: always\n")
    protocol = remote.new({"01-tell": tool(REPORT[0], "agent: analyst\n", **REPORT[1]), "02-b": command("true")})
    other = clone(remote, "bob")
    said = " ".join(f"{name}='{value}'" for name, value in other.environment().items())
    paused = hook(  # somebody pauses it when the effect is announced
        remote, "post-receive",
        f'read old new ref; case "$old $new $ref" in *0000000*|*heads*) exit ;; esac; unset GIT_DIR; cd {other.path} && '
        f"env {said} PYTHONPATH={Path(__file__).parents[2]} {sys.executable} -m runner pause {protocol}\n",
    )  # fmt: skip
    other.git("branch", "-q", protocol, f"origin/{protocol}")
    done = remote.runner("run", protocol, "--ephemeral", rc=WAITS)
    assert "was first" in done.err and len(lines(ledger)) == 1
    assert intents(remote, protocol) == ["tell.1.1.json"] and leased(remote, protocol)["expires"] is None
    paused.unlink()
    third = clone(remote, "carol")
    third.runner("run", protocol, "--ephemeral", rc=WAITS)
    third.runner("resume", protocol, rc=0)
    third.runner("run", protocol, "--ephemeral", rc=WAITS)
    assert wait(third, protocol)["kind"] == "effect"
    third.runner("answer", protocol, "happened", rc=0)
    third.runner("run", protocol, "--ephemeral", rc=0)
    assert len(lines(ledger)) == 1 and leased(remote, protocol) is None
    sound(third, protocol)


@pytest.mark.slow
def test_one_that_cannot_be_announced_does_not_begin(remote: Box) -> None:
    ledger = outside(remote, coworker="TOOLS\n", config="publish: always\n")
    protocol = remote.new({"01-tell": tool(REPORT[0], "agent: analyst\n", **REPORT[1])})
    refuses = hook(
        remote, "update", 'case "$1 $2 $3" in refs/runner/leases/*000000*) ;; refs/runner/leases/*) exit 1 ;; esac\n'
    )
    assert "refused the push" in remote.runner("run", protocol, "--ephemeral", rc=69).err
    assert lines(ledger) == [] and leased(remote, protocol) is None
    refuses.unlink()
    remote.runner("run", protocol, "--ephemeral", rc=0)
    assert len(lines(ledger)) == 1
    sound(remote, protocol)


def test_whoever_lost_the_lease_begins_no_effect(remote: Box) -> None:
    ledger = outside(remote, coworker="TOOLS\n", config="publish: always\n")
    protocol = remote.new({"01-tell": tool(REPORT[0], "agent: analyst\n", **REPORT[1])})
    ref = lease.ref_of(protocol)
    taker = hook(  # somebody takes it as soon as it was taken
        remote, "post-receive",
        f"blob=$(git show {ref}:lease.json | sed 's/\"nonce\": \".*\"/\"nonce\": \"{'0' * 32}\"/' | git hash-object -w --stdin)\n"
        "tree=$(printf '100644 blob %s\\tlease.json\\n' $blob | git mktree)\n"
        f"git update-ref {ref} $(git -c user.name=x -c user.email=x commit-tree -m x $tree)\n",
    )  # fmt: skip
    assert "another runner has taken it" in remote.runner("run", protocol, "--ephemeral", rc=HELD).err
    assert lines(ledger) == []
    taker.unlink()
    remote.git("update-ref", "-d", ref, cwd=origin(remote))
    remote.runner("run", protocol, "--ephemeral", rc=0)
    assert len(lines(ledger)) == 1


@pytest.mark.slow
def test_it_does_not_begin_where_the_lease_was_taken_while_its_announcement_was_on_its_way(remote: Box) -> None:
    ledger = outside(remote, coworker="TOOLS\n", config="publish: always\nlease: {ttl: 3s, grace: 1s}\n")
    protocol = remote.new({"01-tell": tool(REPORT[0], "agent: analyst\n", **REPORT[1])})
    taker = hook(
        remote, "post-receive",
        f"git cat-file -e {lease.ref_of(protocol)}:intents || exit 0\nsleep 4\n{steal(remote, protocol)}",
    )  # fmt: skip
    assert "another runner has taken it" in remote.runner("run", protocol, rc=HELD).err
    assert lines(ledger) == []
    taker.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("word", ["pause", "cancel"])
def test_it_does_not_begin_where_the_protocol_was_stopped_before(remote: Box, word: str) -> None:
    ledger = outside(remote, coworker="TOOLS\n", config="publish: always\n")
    protocol = remote.new({"01-tell": tool(REPORT[0], "agent: analyst\n", **REPORT[1])})
    other = clone(remote, "bob")
    said = " ".join(f"{name}='{value}'" for name, value in other.environment().items())
    hook(  # somebody stops it as soon as the lease is taken
        remote, "post-receive",
        f'read old new ref; case "$old $ref" in 0000000*leases*) ;; *) exit ;; esac; unset GIT_DIR; cd {other.path} && '
        f"env {said} PYTHONPATH={Path(__file__).parents[2]} {sys.executable} -m runner {word} {protocol}\n",
    )  # fmt: skip
    other.git("branch", "-q", protocol, f"origin/{protocol}")
    remote.runner("run", protocol, rc=HELD)
    assert lines(ledger) == [] and leased(remote, protocol) is None
    remote.runner("run", protocol)
    assert lines(ledger) == [] and remote.state(protocol)["status"] == ("paused" if word == "pause" else "cancelled")


@pytest.mark.parametrize("option", [pytest.param("--ephemeral", marks=pytest.mark.slow), "--ci"])
def test_where_nothing_is_published_no_effect_begins_on_such_a_machine(remote: Box, option: str) -> None:
    ledger = outside(remote, coworker="TOOLS\n")
    protocol = remote.new({"01-tell": tool(REPORT[0], "agent: analyst\n", **REPORT[1])})
    told = remote.runner("run", protocol, option, "--publish", "never", rc=2).err
    assert "may vanish" in told and "`--publish always`" in told and lines(ledger) == []
    remote.runner("run", protocol, rc=0)
    assert len(lines(ledger)) == 1


@pytest.mark.slow
def test_one_that_a_person_was_asked_about_is_not_made_again_because_the_step_was_edited(remote: Box) -> None:
    """The question goes with the words that it was asked about; what was asked does not."""
    protocol, ledger, other = vanish(remote, *REPORT, "in-runner")
    outlast(other, protocol)
    other.runner("run", protocol, rc=WAITS)
    assert wait(other, protocol)["kind"] == "effect"
    other.git("checkout", "-q", protocol)
    step = other.path / f".protocols/{protocol}/01-tell.md"
    step.write_text(f"{step.read_text()}And mind the gap.\n")
    other.git("commit", "-qam", "say more")
    other.runner("run", protocol, rc=WAITS)
    assert wait(other, protocol)["kind"] == "effect" and len(lines(ledger)) == 1
    other.runner("answer", protocol, "happened", rc=0)
    other.runner("run", protocol, rc=0)
    assert len(lines(ledger)) == 1 and other.state(protocol)["status"] == "completed"
    sound(other, protocol)


@pytest.mark.slow
def test_one_that_was_made_again_at_a_persons_word_is_asked_about_again(remote: Box) -> None:
    protocol, ledger, other = vanish(remote, *REPORT, "in-runner")
    outlast(other, protocol)
    other.runner("run", protocol, "--ephemeral", rc=WAITS)
    other.runner("answer", protocol, "did-not", rc=0)
    kill(other, ledger, "in-runner", "run", protocol, "--ephemeral")
    third = clone(remote, "carol")
    outlast(third, protocol)
    third.runner("run", protocol, "--ephemeral", rc=WAITS)
    assert wait(third, protocol)["kind"] == "effect"
    third.runner("answer", protocol, "happened", rc=0)
    third.runner("run", protocol, "--ephemeral", rc=0)
    assert len(lines(ledger)) == 2  # what the first machine's made, a person did not see
    assert leased(remote, protocol) is None
    sound(third, protocol)


@pytest.mark.slow
def test_what_a_person_said_of_a_call_is_not_taken_for_a_later_one_like_it(remote: Box) -> None:
    ledger = outside(remote, coworker="TOOLS\n", config="publish: always\n")
    step = tool(REPORT[0], "agent: analyst\n", **REPORT[1])
    protocol = remote.new({"01-tell": step, "02-again": step})
    kill(remote, ledger, "in-runner", "run", protocol)
    remote.runner("run", protocol, rc=WAITS)
    remote.runner("answer", protocol, "happened", rc=0)
    remote.runner("step", protocol, rc=0)
    other = clone(remote, "bob")
    other.runner("run", protocol, rc=0)
    assert len(lines(ledger)) == 2
    sound(other, protocol)


@pytest.mark.slow
@pytest.mark.parametrize("clock", ["", "@2030-01-01 00:00:00 x0.5"])
def test_one_that_was_asked_about_here_alone_and_made_again_stays_announced(remote: Box, clock: str) -> None:
    if clock:  # of each process, so both calls start in the same second
        if shutil.which("faketime") is None:
            pytest.skip("faketime is not installed")
        preload = subprocess.check_output(["faketime", "-f", "+0", "sh", "-c", 'printf %s "$LD_PRELOAD"'], text=True)
        remote.env |= {"LD_PRELOAD": preload, "FAKETIME": clock}
    ledger = outside(remote, coworker="TOOLS\n", config="publish: always\n")
    protocol = remote.new({"01-tell": tool(REPORT[0], "agent: analyst\n", **REPORT[1])})
    kill(remote, ledger, "in-runner", "run", protocol)
    remote.runner("run", protocol, "--publish", "never", rc=WAITS)
    remote.env["RUNNER_PUBLISH"] = "never"
    remote.runner("answer", protocol, "did-not", rc=0)
    del remote.env["RUNNER_PUBLISH"]
    kill(remote, ledger, "in-runner", "run", protocol)
    assert intents(remote, protocol) == ["tell.1.1.json"] and len(lines(ledger)) == 2
    remote.runner("sync", protocol, rc=0)
    assert intents(remote, protocol) == ["tell.1.1.json"]
    other = clone(remote, "bob")
    other.runner("run", protocol, rc=WAITS)
    assert wait(other, protocol)["kind"] == "effect" and len(lines(ledger)) == 2
    other.runner("answer", protocol, "happened", rc=0)
    other.runner("run", protocol, rc=0)
    assert len(lines(ledger)) == 2 and leased(remote, protocol) is None
    sound(other, protocol)


@pytest.mark.slow
def test_each_of_an_agents_calls_is_announced_and_settled(remote: Box) -> None:
    ledger = outside(remote, coworker="TOOLS\n", config="publish: always\n")
    ship = ("deploy_prod", {"version": "1"})
    with mind(remote, say(REPORT, ship), finish()) as wire:
        protocol = remote.new({"01-tell": agent("agent: analyst\n")})
        kill(remote, ledger, "in-runner", "run", protocol, "--ephemeral")  # amid the first
        remote.runner("run", protocol, "--ephemeral", rc=WAITS)
        remote.runner("answer", protocol, "happened", rc=0)
        kill(remote, ledger, "in-runner", "run", protocol, "--ephemeral")  # amid the second
        assert lines(ledger) == ["ops@example.test All well", "deploy 1"]
        assert intents(remote, protocol) == ["tell.1.2.json"]
        other = clone(remote, "bob")
        outlast(other, protocol)
        lead(other, wire.url)
        other.runner("run", protocol, "--ephemeral", rc=WAITS)
        assert "deploy_prod" in wait(other, protocol)["text"]
        other.runner("answer", protocol, "happened", rc=0)
        other.runner("run", protocol, "--ephemeral", rc=0)
    assert lines(ledger) == ["ops@example.test All well", "deploy 1"]
    assert leased(remote, protocol) is None
    sound(other, protocol)


@pytest.mark.slow
def test_a_machine_that_stays_announces_too_and_makes_no_call_while_the_remote_is_away(remote: Box) -> None:
    ledger = outside(remote, coworker="TOOLS\n", config="publish: always\n")
    protocol = remote.new({"01-tell": tool(REPORT[0], "agent: analyst\n", **REPORT[1]), "02-b": command("true")})
    away = origin(remote).with_name("away.git")
    origin(remote).rename(away)
    remote.runner("run", protocol, rc=UNREACHABLE)
    said = remote.runner("run", protocol, "--offline", rc=UNREACHABLE)
    assert "another clone may make the same call" in said.err and lines(ledger) == []
    away.rename(origin(remote))
    kill(remote, ledger, "in-runner", "run", protocol)
    assert intents(remote, protocol) == ["tell.1.1.json"]
    other = clone(remote, "bob")
    outlast(other, protocol)
    other.runner("run", protocol, rc=WAITS)
    assert wait(other, protocol)["kind"] == "effect"
    other.runner("answer", protocol, "happened", rc=0)
    other.runner("run", protocol, rc=0)
    assert len(lines(ledger)) == 1 and leased(remote, protocol) is None
    sound(other, protocol)


@pytest.mark.slow
def test_a_push_that_stood_still_as_it_took_the_lease_lets_nothing_be_done_twice(remote: Box) -> None:
    """The remote tells where the branch is; the push waits; another does the step, publishes and gives the lease back."""
    ledger = outside(remote, coworker="TOOLS\n", config="publish: always\n")
    protocol = remote.new({"01-tell": tool(REPORT[0], "agent: analyst\n", **REPORT[1]), "02-b": command("true")})
    other = clone(remote, "bob")
    other.runner("run", protocol, "--publish", "never", rc=0)
    assert len(lines(ledger)) == 1
    done = [f"refs/heads/{protocol}", history.ref_of(protocol)]
    other.git("push", "-q", "origin", *(f"{ref}:refs/made/{n}" for n, ref in enumerate(done)))
    moved = hook(
        remote,
        "pre-receive",
        "unset GIT_QUARANTINE_PATH\n"
        + "".join(f"git update-ref {ref} $(git rev-parse refs/made/{n})\n" for n, ref in enumerate(done)),
    )
    said = remote.runner("run", protocol)
    assert said.code == HELD, said.err
    moved.unlink()
    remote.runner("run", protocol, rc=0)
    assert len(lines(ledger)) == 1 and leased(remote, protocol) is None
    sound(remote, protocol)
