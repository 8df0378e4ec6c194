"""A protocol lives in its pull request: what GitHub has otherwise than GitLab, on `emulate`; `make forge` installs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.forge import CheckOutcome
from tests.conftest import command
from tests.forge.github_front import HERE
from tests.forge.grounds import TOKEN, GitHubGround
from tests.forge.team import Team, team_on

pytestmark = pytest.mark.peers
STEP = "  step: {roles: [maintainer]}\n"


@pytest.fixture
def team(tmp_path: Path, github: GitHubGround) -> Iterator[Team]:
    """A team on GitHub; its project is not set up yet."""
    with team_on(tmp_path, github) as made:
        yield made


def begun(team: Team, config: str = "", more: str = "") -> str:
    """Set the project up, and make a protocol of one step."""
    team.init(config=f"publish: always\n{config}", approvals=STEP)
    plan = team.box.plan({"01-a": command("echo one > a.txt", f"outputs: [a.txt]\n{more}")})
    return team.runner("new", "A plan", "--plan", plan, rc=0).out.strip()


@pytest.mark.parametrize("case", ["machine", "guest", "alice", "dismissed", "changes"])
def test_reviews_that_do_not_count(team: Team, case: str) -> None:
    protocol, ground = begun(team, more="approval: before\n"), team.ground
    team.runner("run", protocol, rc=3)
    assert isinstance(ground, GitHubGround)
    if case in ("machine", "guest", "alice"):
        ground.approve(case, 1)
    else:
        ground.approve("bob", 1)
        (review,) = ground.emulated.done("owner", "GET", f"{HERE}/pulls/1/reviews")
        if case == "dismissed":
            ground.dismiss("carol", 1, review["id"])
        else:
            ground.request_changes("carol", 1)
    team.runner("sync", protocol, rc=0)
    assert "approval-counted" not in team.box.log(protocol)


def test_doctor(team: Team) -> None:
    team.init(config="publish: always\n", approvals=STEP)
    done = team.runner("doctor", "--forge", rc=0)
    assert "runner/verify is not required" in done.out and TOKEN not in done.out + done.err
    assert "the account" not in done.out, done.out  # of Bob and Carol, whose reviews count


@pytest.mark.parametrize(
    ("rule", "said_by", "status", "step"),
    [
        ("fail", "a check run", "failed", "failed"),
        ("block", "a status", "blocked", "blocked"),
        ("ignore", "a check run", "running", "needs_qa"),
    ],
)
def test_ci_ends_the_step_as_configured(team: Team, rule: str, said_by: str, status: str, step: str) -> None:
    protocol, ground = begun(team, f"ci: {rule}\nqa: {{on_ci: true}}\n"), team.ground
    assert isinstance(ground, GitHubGround)
    team.runner("step", protocol, rc=0)
    tip = team.tips[protocol]
    for name in ("protocol-verify", f"protocol-work ({protocol})", "protocol-changes", "runner / advance"):
        ground.ci(tip, name, CheckOutcome.FAILURE)
    ground.ci(tip, "lint", CheckOutcome.SUCCESS)
    ground.ci(tip, "build", CheckOutcome.PENDING)
    team.runner("sync", protocol, rc=0)
    assert "ci-reported" not in team.box.log(protocol)
    if said_by == "a status":
        ground.foreign_status(tip, "jenkins", "it broke")
        ground.front.statuses[-1]["state"] = "error"
    else:
        ground.ci(tip, "build", CheckOutcome.FAILURE)
    team.runner("sync", protocol, rc=0)
    found = team.box.state(protocol)
    assert (found["status"], found["steps"]["a"]["status"]) == (status, step)
    assert f'"context":"{"jenkins" if said_by == "a status" else "build"}"' in team.box.log(protocol)
    team.runner("sync", protocol, rc=0)
    assert team.box.log(protocol).count(" ci-reported ") == 1
    team.runner("verify", protocol, rc=0)


def test_green_ci_starts_qa(team: Team) -> None:
    protocol = begun(team, "ci: block\nqa: {on_ci: true}\n")
    team.runner("step", protocol, rc=0)
    team.ground.ci(team.tips[protocol], "protocol-tell", CheckOutcome.SUCCESS)
    team.runner("sync", protocol, rc=0)
    assert team.box.state(protocol)["steps"]["a"]["status"] == "needs_qa"  # our own job is no CI
    team.ground.ci(team.tips[protocol], "build", CheckOutcome.SUCCESS)
    team.runner("sync", protocol, rc=0)
    assert team.box.state(protocol)["status"] == "completed" and not team.request(protocol).draft
