"""The whole journey on each forge: from `runner init` to `completed · merged`, through the jobs of CI, and no secret in any of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.forge import CheckOutcome, StatusState
from tests.conftest import command
from tests.engines.wire_gemini import KEY, serving
from tests.executor.minds import agent, finish, say, write
from tests.forge.grounds import TOKEN, GitHubGround, GitLabGround, MergeRefusedError
from tests.forge.prism import Prism
from tests.forge.team import JOB, OF_GIT, READS, Team, basic, jobs, leaks, team_on, unbundled

APPROVALS = (
    "  step: {roles: [maintainer]}\n  call: {roles: [maintainer]}\n  merge: {roles: [maintainer], required: true}\n"
)
ANALYST = """name: analyst
objective: Looks after operations.
tools:
  - module: ops
policies:
  approval_required: [send_report]
"""
REPORTS = '''
def send_report(to: str) -> str:
    """Send a report."""
    with open({ledger!r}, "a") as file:
        file.write(to + "\\n")
    return "sent"
'''


@pytest.fixture(
    params=[pytest.param("gitlab", marks=pytest.mark.slow), pytest.param("github", marks=pytest.mark.peers)]
)
def team(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Team]:
    """A team on each forge in turn."""
    ground: GitHubGround | GitLabGround = request.getfixturevalue(request.param)
    with team_on(tmp_path, ground) as made:
        yield made


@pytest.mark.timeout(600)  # the adapter waits a second between writes, as GitHub asks
def test_from_init_to_merged(team: Team, request: pytest.FixtureRequest) -> None:
    box, ground, ledger = team.box, team.ground, team.folder / "ledger"
    team.init(
        config="publish: always\nci: block\n",
        approvals=APPROVALS,
        coworkers={".protocols/agents/analyst.yaml": ANALYST, "ops.py": REPORTS.format(ledger=str(ledger))},
    )
    ground.protect()
    done = team.runner("doctor", "--forge", rc=0)
    assert "not required" not in done.out and "not protected" not in done.out, done.out

    script = [
        say(write("b.txt", "two\n")),
        finish("made b.txt"),
        say(write("b.txt", "TWO\n"), ("send_report", {"to": "ops@example.test"})),
        say(write("c.txt", "told\n")),
        finish("mended b.txt, and told them"),
    ]
    with serving(*script) as wire:
        told = {"GOOGLE_GEMINI_BASE_URL": wire.url, "NO_PROXY": "*", "RUNNER_EXECUTOR": "host"}
        ci = jobs(team, KEY, told)
        box.env |= told | {"GEMINI_API_KEY": KEY}

        # Alice makes a protocol: a draft request.
        looks = "env > {0}; cat ~/.gitconfig ~/.git-credentials >> {0}; git config --list >> {0}; true"
        steps = {
            "01-a": command(looks.format("a.txt"), "outputs: [a.txt]\n"),
            "02-b": agent("agent: analyst\napproval: before\noutputs: [b.txt]\n")
            + 'qa: {policy: light, checks: ["grep -q TWO b.txt"], rounds: 1}\n',
            "03-d": command(looks.format("d.txt"), "outputs: [d.txt]\n"),
        }
        protocol = team.runner("new", "Tell them", "--plan", box.plan(steps), rc=0).out.strip()
        draft = team.request(protocol)
        assert draft.draft and draft.base == "main"
        assert team.statuses(protocol)["plan"].text == "3 steps"

        # CI takes the first step; the second waits for a word, which a review is.
        assert ci.advance(protocol)
        assert team.statuses(protocol)["step"].text == "1 of 3 steps done; waits for a maintainer (bob, carol)"
        assert "approve this request in a review" in team.said(protocol) and not wire.bodies
        with pytest.raises(MergeRefusedError, match="runner/verify"):
            team.merge("bob", protocol)
        ground.ci(team.tips[protocol], "protocol-advance / work", CheckOutcome.FAILURE)  # our own job is no CI
        ground.ci(team.tips[protocol], "build", CheckOutcome.SUCCESS)
        ground.approve("bob", draft.number)

        # What the model made does not pass; Carol says what to do about it.
        assert ci.advance(protocol)
        assert f'"user":{ground.identity("bob").id}' in _log(team, protocol)
        assert team.statuses(protocol)["qa"].state is StatusState.FAILURE
        assert "/runner retry" in team.said(protocol) and not ci.advance(protocol)
        ground.comment("carol", draft.number, "/runner retry")
        assert ci.advance(protocol), team.told[-1] + team.said(protocol)
        assert "will be retried" in team.said(protocol)
        ground.approve("bob", draft.number)  # a retry by hand is a start of its own

        # Its call is held, and waits for a signature.
        assert ci.advance(protocol)
        assert len(wire.bodies) == 3 and not ledger.exists()
        assert "sign with `runner approve 1`" in team.said(protocol)
        assert "in a review" not in team.said(protocol)
        ground.approve("bob", draft.number)
        ci.advance(protocol)
        assert len(wire.bodies) == 3 and not ledger.exists()  # a review is no signature
        carol = team.clone("carol")
        team.runner("sync", protocol, box=carol, rc=0)
        team.runner("approve", protocol, "--yes", box=carol, rc=0)

        # Where the machine stays, the call is made, once.
        team.runner("sync", protocol, rc=0)
        team.runner("run", protocol, rc=0)
        assert ledger.read_text() == "ops@example.test\n" and wire.wrong == []
        assert KEY not in json.dumps(wire.bodies) and TOKEN not in json.dumps(wire.bodies)

    # Done, and ready; the check that the branch requires waits for the word on the merge.
    verify = team.statuses(protocol)["verify"]
    assert not team.request(protocol).draft and verify.state is StatusState.PENDING and "merge" in verify.text
    with pytest.raises(MergeRefusedError, match="runner/verify"):
        team.merge("bob", protocol)
    ground.approve("bob", draft.number)
    team.runner("sync", protocol, rc=0)
    assert {one.state for one in team.statuses(protocol).values()} == {StatusState.SUCCESS}
    assert "verified" in ci.verify(protocol)
    team.merge("bob", protocol)
    before = box.git("rev-parse", protocol)
    team.runner("sync", protocol, rc=0)
    assert "completed · merged" in team.runner("list", rc=0).out and box.git("rev-parse", protocol) == before
    assert ledger.read_text() == "ops@example.test\n"
    team.runner("verify", protocol, rc=0)
    team.runner("show", protocol, "b", "--transcript", rc=0)
    log = box.log(protocol)
    for event in (
        "approval-counted",
        "qa-failed",
        "step-retried",
        "call-held",
        "call-decided",
        "qa-passed",
        "ci-reported",
    ):
        assert f" {event} " in log, event

    # No secret in anything that was said, written or kept, what goes wrong included.
    bundles = list(team.folder.rglob("*.bundle"))
    assert bundles
    unbundled(team.folder, team.bare)
    team.git_server.close()
    for args in (("sync", protocol), ("doctor",), ("doctor", "--forge"), ("doctor", "--config"), ("log", protocol)):
        team.runner(*args, box=carol)
    secrets = [TOKEN, JOB, READS, KEY, *OF_GIT.values(), *(basic(*one) for one in OF_GIT.items())]
    sent = json.dumps([[one.path, one.query, one.body] for one in ground.server.asked])
    for secret in secrets:
        assert secret not in sent + "".join(team.told), secret
    known = carol.env["XDG_STATE_HOME"]  # what git knows anyway, the runner keeps for her eyes alone
    kept = {*Path(known).rglob("trusted.json"), *Path(known).rglob("mirror/config")}
    assert kept and {path.stat().st_mode & 0o077 for path in kept} == {0}
    people = {*team.folder.rglob(".gitconfig"), carol.path / ".git/config", *kept}
    assert leaks(team.folder, secrets, but=people) == []
    assert leaks(team.folder, [team.people["carol"].email], but=set())  # it would find one

    if isinstance(ground, GitHubGround):
        prism: Prism = request.getfixturevalue("prism")
        prism.replay(ground.server.asked)
        assert prism.objections == []


def _log(team: Team, protocol: str) -> str:
    return team.git("show", f"{protocol}:.protocols/{protocol}/log.md")
