"""Which decision of a person is in force: the last one, whatever time has passed and however often the step was tried."""

from __future__ import annotations

import datetime
import hashlib
import re
from pathlib import Path

import pytest

from tests.conftest import Box, Result, command
from tests.people import Person, governed, person

DEPLOY = {"01-deploy": command("echo deployed > d.txt", "approval: before\n")}


MONTH = "  step: {roles: [maintainer], expires: 720h}\n"


class Team:
    """Alice and Bob, who are maintainers."""

    def __init__(self, folder: Path) -> None:
        self.alice, self.bob = person(folder, "alice"), person(folder, "bob")


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Team:
    return Team(tmp_path_factory.mktemp("team"))


@pytest.fixture
def gov(tmp_path: Path, team: Team) -> Box:
    return governed(tmp_path / "repo", [team.alice, team.bob])


def does(box: Box, who: Person, *args: str, rc: int | None = 0) -> Result:
    return box.runner(*args, rc=rc, env=who.env)


def is_done(box: Box, protocol: str) -> bool:
    return "d.txt" in box.git("ls-tree", "--name-only", protocol).split()


def printed(box: Box, who: Person, protocol: str) -> str:
    """The statement that somebody would sign."""
    return does(box, who, "approve", protocol, "--print").out


def decided_earlier(box: Box, who: Person, text: str, decision: str, days: int, lasts: int = 7) -> None:
    """Commit a decision that somebody signed `days` ago, for `lasts` days. `text`: their statement."""
    protocol = text.split("\nprotocol: ")[1].split("\n")[0]
    issued = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=days)
    for name, value in (("issued", issued), ("expires", issued + datetime.timedelta(days=lasts))):
        text = re.sub(rf"(?m)^{name}: .*", f"{name}: {value:%Y-%m-%dT%H:%M:%SZ}", text)
    text = text.replace("decision: approve", f"decision: {decision}")
    tree, name = box.worktree(protocol), hashlib.sha256(text.encode()).hexdigest()[:32]
    file = tree / f".protocols/{protocol}/approvals/{name}.approval"
    file.parent.mkdir(exist_ok=True)
    file.write_text(who.sign(text))
    box.commit(f"{who.name}: {decision}", cwd=tree)


def test_a_rejection_is_in_force_after_its_week(gov: Box, team: Team) -> None:
    protocol = gov.new(DEPLOY)
    gov.runner("run", protocol, rc=3)
    decided_earlier(gov, team.bob, printed(gov, team.bob, protocol), "reject", days=8)
    told = does(gov, team.alice, "approve", protocol, "--yes").err
    assert "still needed: a revocation by bob@example.test" in told
    gov.runner("run", protocol, rc=3)
    assert not is_done(gov, protocol)
    does(gov, team.bob, "revoke", protocol, "--yes")
    gov.runner("run", protocol, rc=0)
    gov.runner("verify", protocol, rc=0)


def test_a_revocation_outlives_the_approval_that_it_takes_back(tmp_path: Path, team: Team) -> None:
    gov = governed(tmp_path / "repo", [team.alice], approvals=MONTH)
    protocol = gov.new(DEPLOY)
    gov.runner("run", protocol, rc=3)
    text = printed(gov, team.alice, protocol)
    decided_earlier(gov, team.alice, text, "approve", days=10, lasts=30)
    decided_earlier(gov, team.alice, text, "revoke", days=9)
    gov.runner("run", protocol, rc=3)
    assert not is_done(gov, protocol)


def test_a_rejection_says_how_long_it_is_in_force(gov: Box, team: Team) -> None:
    protocol = gov.new(DEPLOY)
    gov.runner("run", protocol, rc=3)
    said = does(gov, team.bob, "reject", protocol, "--yes").err
    assert "valid until   your next decision on it, or until it changes" in said
    assert re.search(r"valid until   20\d\d-", does(gov, team.alice, "approve", protocol, "--yes").err)


def test_who_approved_after_rejecting_has_not_rejected_the_next_attempt(gov: Box, team: Team) -> None:
    protocol = gov.new({"01-deploy": command("false", "approval: before\n")})
    gov.runner("run", protocol, rc=3)
    does(gov, team.alice, "reject", protocol, "--yes")
    does(gov, team.alice, "approve", protocol, "--yes")
    gov.runner("run", protocol, rc=1)
    gov.runner("retry", protocol, rc=0)
    told = gov.runner("run", protocol, rc=3)
    assert "revocation" not in told.out + told.err and "runner approve 1" in told.out + told.err
    assert "still needed" not in does(gov, team.bob, "approve", protocol, "--yes").err
    gov.runner("run", protocol, rc=1)
    assert gov.state(protocol)["steps"]["deploy"]["attempt"] == 2
    gov.runner("verify", protocol, rc=0)


def test_what_changed_since_an_approval_of_something_else_is_not_shown(gov: Box, team: Team) -> None:
    protocol = gov.new(
        {"01-deploy": command("true", "approval: before\n"), "02-ship": command("true", "approval: before\n")}
    )
    gov.runner("run", protocol, rc=3)
    does(gov, team.alice, "approve", protocol, "--yes")
    gov.runner("run", protocol, rc=3)
    assert "since your last" not in does(gov, team.alice, "reject", protocol, "--yes").err
    tree = gov.worktree(protocol)
    (tree / "more.txt").write_text("more\n")
    gov.commit("more", cwd=tree)
    said = does(gov, team.alice, "approve", protocol, "--yes").err
    assert "changed since your last rejection" in said and "+more" in said


def test_an_older_approval_that_arrives_later_does_not_replace_the_rejection(gov: Box, team: Team) -> None:
    protocol = gov.new(DEPLOY)
    gov.runner("run", protocol, rc=3)
    text = printed(gov, team.bob, protocol)
    does(gov, team.bob, "reject", protocol, "--yes")
    decided_earlier(gov, team.bob, text, "approve", days=1)
    gov.runner("run", protocol, rc=3)
    assert not is_done(gov, protocol)
    assert "it is older than what the same person decided since" in gov.runner("status", protocol).out
    does(gov, team.bob, "approve", protocol, "--yes")
    gov.runner("run", protocol, rc=0)


def test_a_rejection_can_be_revoked_after_an_older_revocation_arrived(gov: Box, team: Team) -> None:
    protocol = gov.new(DEPLOY)
    gov.runner("run", protocol, rc=3)
    text = printed(gov, team.bob, protocol)
    does(gov, team.bob, "reject", protocol, "--yes")
    decided_earlier(gov, team.bob, text, "revoke", days=1)
    does(gov, team.alice, "approve", protocol, "--yes")
    gov.runner("run", protocol, rc=3)
    does(gov, team.bob, "revoke", protocol, "--yes")
    gov.runner("run", protocol, rc=0)


def test_a_rejection_is_in_force_after_its_key_has_expired(gov: Box, team: Team) -> None:
    protocol = gov.new(DEPLOY)
    gov.runner("run", protocol, rc=3)
    decided_earlier(gov, team.bob, printed(gov, team.bob, protocol), "reject", days=8)
    ended = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    line = team.bob.line().replace("namespaces", f'valid-before="{ended:%Y%m%dZ}",namespaces')
    gov.write(".protocols/allowed_signers", team.alice.line() + line)
    gov.commit("bob's key ends")
    does(gov, team.alice, "approve", protocol, "--yes")
    gov.runner("run", protocol, rc=3)
    assert not is_done(gov, protocol)


def test_an_approval_of_an_older_time_than_the_rejection_is_not_added(gov: Box, team: Team, tmp_path: Path) -> None:
    protocol = gov.new(DEPLOY)
    gov.runner("run", protocol, rc=3)
    early = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    text = re.sub(r"(?m)^issued: .*", f"issued: {early:%Y-%m-%dT%H:%M:%SZ}", printed(gov, team.bob, protocol))
    text = re.sub(r"(?m)^expires: .*", f"expires: {early + datetime.timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}", text)
    does(gov, team.bob, "reject", protocol, "--yes")
    (tmp_path / "kept.approval").write_text(team.bob.sign(text))
    told = gov.runner("approve", protocol, "--import", str(tmp_path / "kept.approval"), rc=4)
    assert "would not count: it is older than what the same person decided since" in told.err


def test_who_rejected_what_they_wrote_is_told_to_revoke(gov: Box, team: Team) -> None:
    plan = gov.plan(DEPLOY)
    protocol = does(gov, team.alice, "new", "A plan", "--plan", str(plan)).out.strip()
    gov.runner("run", protocol, rc=3)
    does(gov, team.alice, "reject", protocol, "--yes")
    assert "runner revoke 1, or runner edit 1 deploy" in does(gov, team.alice, "status", protocol).out
    does(gov, team.alice, "approve", protocol, "--yes", rc=4)
    does(gov, team.alice, "revoke", protocol, "--yes")
