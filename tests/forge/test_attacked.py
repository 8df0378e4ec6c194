"""What people on a forge try: to be heard twice, to be heard for somebody else, to let a word count for what it was not given for."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.app.request import KEY
from runner.forge import marker
from tests.conftest import command, mostly_slow
from tests.forge.journey import Town, town

WAITS = {"01-a": command("echo one > a.txt") + "approval: before\n"}
MERGE = "  step: {roles: [maintainer]}\n  merge: {roles: [maintainer], required: true}"


@pytest.mark.slow
def test_a_stranger_s_flood_does_not_make_us_hear_old_commands_again(place: Town) -> None:
    protocol = place.box.new({"01-a": command("exit 1")})
    place.sync(protocol)
    place.fake.comment(place.accounts["carol"], 1, "/runner retry")
    place.sync(protocol)
    assert "nothing failed" in place.said()
    place.box.runner("run", protocol, rc=1)
    for _ in range(3):
        place.fake.comment(place.accounts["guest"], 1, f"/runner {'x' * 65_000}")
        place.fake.comment(place.accounts["carol"], 1, f"/runner retry {'y' * 65_000}")
    for _ in range(2):
        place.sync(protocol)
    assert place.box.state(protocol)["steps"]["a"]["attempt"] == 1 and len(place.said()) < 20_000
    count = len(place.fake.writes())
    place.sync(protocol)
    assert len(place.fake.writes()) == count


def test_half_a_character_is_none(place: Town) -> None:
    protocol = place.box.new({"01-a": "kind: human\n"})
    place.box.runner("run", protocol, rc=3)
    place.fake.comment(place.accounts["carol"], 1, "/runner answer yes \ud800")
    place.sync(protocol)
    assert '"text":"yes ?"' in place.box.log(protocol)


@pytest.mark.parametrize("how", ["gone", "another account"])
@pytest.mark.slow
def test_a_command_that_could_not_be_done_is_not_done_later(place: Town, how: str) -> None:
    protocol = place.box.new(WAITS)
    place.box.runner("run", protocol, rc=3)
    place.fake.comment(place.accounts["carol"], 1, "/runner resume")
    place.sync(protocol)
    assert "it is not paused" in place.said()
    place.fake.comment(place.accounts["carol"], 1, "/runner pause")
    place.sync(protocol)
    env = None
    if how == "gone":
        notes = place.fake.requests[1].notes
        notes[:] = [each for each in notes if each["author"]["id"] != place.accounts["runner"].id]
    else:
        place.fake.tokens["another-token-1234"] = (place.accounts["bob"].id, ["api"])
        env = {"RUNNER_FORGE_TOKEN": "another-token-1234"}
    place.sync(protocol, env=env)
    assert place.box.state(protocol)["status"] == "paused"


@pytest.mark.parametrize("who", mostly_slow(["carol", "guest", "robot"], 1))
def test_a_comment_with_our_marker_silences_no_command(place: Town, who: str) -> None:
    """Whoever may comment can copy the marker; what was looked at is believed of our own account and of programs alone."""
    protocol = place.box.new(WAITS)
    place.box.runner("run", protocol, rc=3)
    place.sync(protocol)
    place.accounts["robot"] = place.fake.account("robot", bot=True, level=10)  # a program, and none of this project's
    place.fake.comment(place.accounts[who], 1, f"{marker(KEY)}\n<!-- seen: {10**17} -->")
    place.fake.comment(place.accounts["bob"], 1, "/runner pause")
    place.sync(protocol)
    assert place.box.state(protocol)["status"] == "paused"


def test_what_another_program_of_the_project_looked_at_is_not_done_again(place: Town) -> None:
    """Two runners with accounts of their own, say a pipeline's and a machine's: what one answered the other does not try later."""
    protocol = place.box.new(WAITS)
    place.box.runner("run", protocol, rc=3)
    place.sync(protocol)
    asked = place.fake.comment(place.accounts["carol"], 1, "/runner pause")
    place.fake.comment(place.accounts["machine"], 1, f"{marker(KEY)}\n<!-- seen: {asked} -->")
    place.sync(protocol)
    assert place.box.state(protocol)["status"] != "paused"


def test_a_review_of_a_request_into_another_branch_does_not_count(place: Town) -> None:
    box, fake = place.box, place.fake
    protocol = box.new(WAITS)
    box.runner("run", protocol, rc=3)
    # Its page shows another difference than what is asked about, perhaps none.
    fake.git("update-ref", "refs/heads/elsewhere", protocol)
    fake.look()
    other = fake.open_request(place.accounts["carol"], protocol, "elsewhere")
    fake.approve(place.accounts["alice"], other)
    place.sync(protocol)
    assert "approval-counted" not in box.log(protocol)
    assert fake.requests[other].value["title"] == "By hand" and not fake.requests[other].notes
    fake.approve(place.accounts["alice"], 1)
    place.sync(protocol)
    assert box.log(protocol).count("approval-counted") == 1


@pytest.mark.slow
def test_a_review_of_the_work_is_no_word_on_the_merge(tmp_path: Path) -> None:
    place = town(tmp_path, approvals=MERGE)
    try:
        protocol = place.box.new({"01-a": command("echo one > a.txt"), "02-b": command("true") + "approval: before\n"})
        place.box.runner("run", protocol, rc=3)
        place.fake.approve(place.accounts["alice"], 1)  # of the step that starts
        place.box.runner("run", protocol, rc=0)
        place.sync(protocol)
        assert place.statuses(protocol)["runner/verify"] == ("pending", "the merge waits for a maintainer (alice, bob)")
        place.fake.unapprove(place.accounts["alice"], 1)
        place.fake.approve(place.accounts["alice"], 1)
        place.sync(protocol)
        assert place.statuses(protocol)["runner/verify"][0] == "success"
    finally:
        place.fake.close()


@pytest.mark.parametrize("pushes", [0, 1000])
@pytest.mark.slow
def test_where_nobody_can_tell_who_pushed_no_review_counts(place: Town, pushes: int) -> None:
    box, fake, bob = place.box, place.fake, place.accounts["bob"]
    planned = box.plan(WAITS)
    dave = {"RUNNER_NAME": "dave", "RUNNER_EMAIL": "dave@example.test"}  # whom bob calls himself
    fake.pusher = bob
    protocol = box.runner("new", "A plan", "--plan", planned, rc=0, env=dave).out.strip()
    fake.look()
    fake.pusher = place.accounts["runner"]
    box.runner("run", protocol, rc=3)
    fake.look()
    for _ in range(pushes):  # the forge tells of so many and no more
        fake.push(bob, "noise")
    fake.branches.pop("noise", None)
    fake.approve(bob, 1)
    told = place.sync(protocol)
    assert "approval-counted" not in box.log(protocol)
    assert ("who pushed" in told.err) == bool(pushes)
    fake.request_changes(place.accounts["alice"], 1)
    box.runner("run", protocol, rc=3)


def test_a_job_that_hands_over_counts_no_review_and_waits_where_one_objects(place: Town) -> None:
    protocol = place.box.new(WAITS)
    place.box.runner("run", protocol, rc=3)
    place.fake.approve(place.accounts["alice"], 1)
    count = len(place.fake.asked)
    place.box.runner("run", protocol, "--ci", "--publish", "never", rc=0)
    assert "approval-counted" not in place.box.log(protocol) and len(place.fake.asked) > count
    place.box.runner("sync", protocol, "--no-work", rc=0)
    place.box.runner("run", protocol, "--ci", "--publish", "never", rc=0)
    assert place.box.state(protocol)["status"] == "completed"


@pytest.mark.parametrize("url", ["javascript:alert(1)", "https://ci.test/\u202e\x1b[2J" + "x" * 5000])
def test_a_check_s_address_is_a_plain_link_or_none(tmp_path: Path, url: str) -> None:
    place = town(tmp_path, config="ci: block\n")
    try:
        protocol = place.box.new({"01-a": command("echo one > a.txt") + "outputs: [a.txt]\n"})
        place.box.runner("step", protocol, rc=0)
        place.fake.job(place.fake.branches[protocol], "build\x1b[2J", "failed")
        place.fake.statuses[-1]["target_url"] = url
        place.sync(protocol)
        log = place.box.log(protocol)
        assert "ci-reported" in log and "ci.test" not in log and "javascript" not in log
        assert "\x1b" not in place.written() + place.box.runner("show", protocol).out
    finally:
        place.fake.close()
