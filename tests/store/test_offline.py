"""`publish: always` while the remote is away: nothing is begun without the lease, unless `--offline` asks for that."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Box, clone, command, mostly_slow
from tests.executor.minds import agent, finish, mind

STEPS = {"01-a": command("echo a > a.txt"), "02-b": command("echo b > b.txt")}
UNREACHABLE = 69


def publish(box: Box, when: str = "always") -> None:
    """Set `publish` on the trusted branch."""
    box.write(".protocols/config.yaml", f"publish: {when}\n")
    box.commit("config")
    box.git("push", "-q", "origin", "main")
    box.git("fetch", "-q", "origin")


@contextlib.contextmanager
def away(box: Box) -> Iterator[None]:
    """The remote does not answer meanwhile."""
    origin = box.path.parent / "origin.git"
    gone = origin.rename(origin.with_suffix(".away"))
    yield
    gone.rename(origin)


def there(box: Box, ref: str) -> str:
    return box.git("rev-parse", "--verify", "-q", ref, cwd=box.path.parent / "origin.git", check=False).strip()


def refs(box: Box) -> str:
    return box.git("for-each-ref", "refs/heads", "refs/runner/history", "refs/runner/numbers")


@pytest.mark.parametrize("verb", mostly_slow(["run", "fleet", "step"]))
def test_nothing_is_begun(remote: Box, verb: str) -> None:
    publish(remote)
    protocol = remote.new(STEPS)
    plan = remote.worktree(protocol) / f".protocols/{protocol}/01-a.md"
    plan.write_text(plan.read_text() + "\nan edit\n")
    before = refs(remote)
    with away(remote):
        told = remote.runner(*((verb,) if verb == "fleet" else (verb, protocol)), rc=UNREACHABLE).err
    assert "could not be reached" in told and "`--offline`" in told and "going on" not in told
    assert refs(remote) == before
    remote.runner("run", protocol, rc=0)


@pytest.mark.parametrize("verb", ["new", "do"])
def test_no_protocol_is_made_and_no_model_is_asked(remote: Box, tmp_path: Path, verb: str) -> None:
    publish(remote)
    asked = tmp_path / "asked"
    with away(remote):
        told = remote.runner(verb, "Do it", "--engine", f"recorded:{asked}", rc=UNREACHABLE).err
    assert "could not be reached" in told and "`--offline`" in told
    assert "0001" not in refs(remote)


@pytest.mark.parametrize("verb", mostly_slow(["pause", "edit", "cancel", "undo"]))
def test_what_people_say_is_not_recorded_either_but_with_offline(remote: Box, verb: str) -> None:
    publish(remote)
    protocol = remote.new(STEPS)
    remote.runner("step", protocol, rc=0)
    before, env = refs(remote), {"EDITOR": "echo more >>"}
    with away(remote):
        assert "`--offline`" in remote.runner(verb, protocol, env=env, rc=UNREACHABLE).err
        assert refs(remote) == before
        told = remote.runner(verb, protocol, "--offline", env=env, rc=0).err
        assert "not published: 1 commit of 0001-a-plan" in told and "`runner sync 1`" in told
    remote.runner("sync", protocol, rc=0)
    assert there(remote, protocol) == remote.git("rev-parse", protocol).strip()


def test_an_approval_is_refused_without_being_offered_what_would_be_refused_too(remote: Box) -> None:
    publish(remote)
    protocol = remote.new(STEPS)
    with away(remote):
        told = remote.runner("approve", protocol, "plan", rc=UNREACHABLE).err
    assert "could not be reached" in told and "when it answers" in told and "--offline" not in told


def test_offline_goes_on_without_asking_and_says_at_its_end_what_is_not_published(remote: Box) -> None:
    publish(remote)
    protocol = remote.new(STEPS)
    with away(remote):
        told = remote.runner("run", protocol, "--offline", rc=0).err
        assert "completed" in told and "could not be reached" not in told
        assert "not published: 2 commits of 0001-a-plan" in told.rpartition("completed")[2]
        assert "`runner sync 1` publishes" in told
    assert remote.state(protocol)["status"] == "completed" and there(remote, protocol) != ""
    told = remote.runner("run", protocol, rc=0).err
    assert "not published" not in told
    assert there(remote, protocol) == remote.git("rev-parse", protocol).strip()


def test_offline_says_it_too_where_the_run_breaks_off(remote: Box) -> None:
    publish(remote)
    protocol = remote.new({"01-a": command("true"), "02-b": "kind: agent\n"})
    told = remote.runner("run", protocol, "--offline", "--engine", "recorded:/nonexistent").err
    assert "not published: " in told.partition("error:")[0]


def test_offline_leaves_the_remote_alone_though_it_is_there(remote: Box) -> None:
    publish(remote)
    protocol = remote.new(STEPS)
    before = remote.git("for-each-ref", cwd=remote.path.parent / "origin.git")
    other = clone(remote, "bob")
    other.runner("step", protocol, rc=0)
    after = remote.git("for-each-ref", cwd=remote.path.parent / "origin.git")
    assert after != before
    assert "fast-forwarded" not in remote.runner("step", protocol, "--offline", rc=0).err
    assert remote.git("for-each-ref", cwd=remote.path.parent / "origin.git") == after


def test_offline_with_ci_is_refused(remote: Box) -> None:
    protocol = remote.new(STEPS)
    assert "does not go together" in remote.runner("run", protocol, "--ci", "--offline", rc=2).err
    assert "does not go together" in remote.runner("run", protocol, "--ephemeral", "--offline", rc=2).err


def test_a_day_budget_and_an_effect_outside_are_not_spent_unseen(remote: Box) -> None:
    """What the ledger and the lease keep together for all clones is refused offline, as while the remote is away."""
    remote.write(".protocols/policy.yaml", f"repo: {'6' * 32}\nbudget: {{day: {{tokens: 1000000}}}}\n")
    publish(remote)
    protocol = remote.new({"01-a": agent()})
    with mind(remote, finish()):
        told = remote.runner("run", protocol, "--offline", rc=UNREACHABLE).err
    assert "budget" in told and "without --offline" in told


@pytest.mark.parametrize("when", ["never", "ask"])
def test_where_it_is_not_published_as_it_goes_the_remote_may_be_away(remote: Box, when: str) -> None:
    publish(remote, when)
    protocol = remote.new(STEPS)
    with away(remote):
        assert "continuing with the local state" in remote.runner("run", protocol, rc=0).err
    assert remote.state(protocol)["status"] == "completed"
