"""`workspace: {user_namespaces: true}` on the trusted branch, for tests with a sandbox of their own."""

from __future__ import annotations

import os

import pytest

from runner.sandbox.bubblewrap import Bubblewrap
from tests.conftest import Box, command

NESTED = {"01-nest": command("unshare --user true && echo made > made.txt")}


@pytest.fixture
def sandboxed(box: Box) -> Box:
    if (why := Bubblewrap().check()) is not None:
        if os.environ.get("RUNNER_CI") == "1":
            pytest.fail(f"bubblewrap has to work where RUNNER_CI=1: {why}")
        pytest.skip(why)
    box.env["RUNNER_EXECUTOR"] = "sandbox"
    return box


def trust(box: Box, config: str) -> None:
    box.write(".protocols/config.yaml", config)
    box.commit("config")


def test_a_step_makes_none(sandboxed: Box) -> None:
    protocol = sandboxed.new(NESTED)
    sandboxed.runner("run", protocol, rc=1)
    assert '"executor":"sandbox"' in sandboxed.log(protocol)


def test_the_trusted_branch_gives_them_and_the_record_shows_it(sandboxed: Box) -> None:
    trust(sandboxed, "workspace: {user_namespaces: true}\n")
    protocol = sandboxed.new(NESTED)
    sandboxed.runner("run", protocol, rc=0)
    assert '"executor":"sandbox+user-namespaces"' in sandboxed.log(protocol)
    sandboxed.runner("verify", protocol, rc=0)


def test_the_protocol_s_own_branch_does_not_give_them(sandboxed: Box) -> None:
    protocol = sandboxed.new(NESTED)
    place = sandboxed.worktree(protocol)
    (place / ".protocols/config.yaml").write_text("workspace: {user_namespaces: true}\n")
    sandboxed.git("add", "-A", cwd=place)
    sandboxed.git("commit", "-qm", "mine", cwd=place)
    sandboxed.runner("run", protocol, rc=1)
    assert "sandbox+" not in sandboxed.log(protocol)


def test_it_is_a_sandbox_where_the_policy_wants_one(sandboxed: Box) -> None:
    sandboxed.write(".protocols/policy.yaml", "repo: 0123456789abcdef0123456789abcdef\nisolation: sandbox\n")
    trust(sandboxed, "workspace: {user_namespaces: true}\n")
    protocol = sandboxed.new(NESTED)
    sandboxed.runner("run", protocol, rc=0)
    sandboxed.runner("verify", protocol, rc=0)
