"""A protocol lives in its request: told, heard, counted, merged; and what may go wrong on the way."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import Box, clone, command, mostly_slow
from tests.executor.minds import agent, ask, finish, mind, say, write
from tests.forge.journey import TOKEN, Town, town
from tests.forge.serving import Fault

ONE = {"01-a": command("echo one > a.txt") + "outputs: [a.txt]\n"}
WAITS = {"01-a": command("echo one > a.txt") + "approval: before\n"}


@pytest.mark.parametrize("how", [pytest.param("merge", marks=pytest.mark.slow), "squash"])
def test_from_new_to_merged(place: Town, how: str) -> None:
    box, fake = place.box, place.fake
    checked = f'outputs: [b.txt]\nqa: {{policy: light, checks: ["test -e {box.path.parent}/ready"]}}\n'
    protocol = box.new({**ONE, "02-b": command("echo two > b.txt") + checked + "approval: before\n"})
    assert str(place.fake.url) in place.sync(protocol).err
    assert place.request["draft"] and place.request["source_branch"] == protocol
    assert place.statuses(protocol)["runner/plan"] == ("success", "2 steps")

    assert box.runner("run", protocol).code == 3
    assert place.statuses(protocol)["runner/step"] == (
        "pending",
        "1 of 2 steps done; waits for a maintainer (alice, bob)",
    )
    assert place.statuses(protocol)["runner/qa"] == ("pending", "1 of 2 passed")
    for text in (place.said().partition("<!-- seen: 0 -->")[2].strip(), str(place.request["description"])):
        assert text.startswith("### Waits for a maintainer (alice, bob)\n\n`02-b`: approval before it starts (since 20")
        assert "approve this request in a review, or sign with `runner approve 1`" in text
    page = str(place.request["description"])
    assert "| `01-a` | `01-a` | command | ✔ completed | ✔ passed |" in page and "### 1 of 2 steps done" in page
    assert "| `02-b` | `02-b` | command | ▸ **waits** | to come |" in page

    fake.approve(place.accounts["bob"], 1)
    place.sync(protocol)
    assert "approval-counted b" in box.log(protocol)
    assert f'"user":{place.accounts["bob"].id}' in box.log(protocol) and '"by":["bob@example.test"]' in box.log(
        protocol
    )
    told = box.runner("verify", protocol, rc=0)
    assert "a review on the forge: said by the forge, not provable offline" in told.err

    assert box.runner("run", protocol).code == 1
    assert place.statuses(protocol)["runner/step"] == ("failed", "failed: b")
    assert place.statuses(protocol)["runner/qa"] == ("failed", "failed: b") and "/runner retry" in place.said()
    page = str(place.request["description"])
    assert page.startswith("### `02-b` failed") and "| ✘ **failed** | ✘ **failed** |" in page
    (box.path.parent / "ready").touch()
    fake.comment(place.accounts["carol"], 1, "/runner retry")
    place.sync(protocol)
    assert "will be retried" in place.said() and box.state(protocol)["steps"]["b"]["attempt"] == 2
    host = fake.url.removeprefix("http://")
    assert f'"actor":"{host}/{place.accounts["carol"].id}/comment/' in box.log(protocol)

    # A retry by hand is a start of its own, which the word before does not cover.
    assert box.runner("run", protocol).code == 3
    fake.unapprove(place.accounts["bob"], 1)
    fake.approve(place.accounts["alice"], 1)
    ended = box.runner("run", protocol, rc=0)
    assert "merge its request, then runner sync 1" in ended.err and f"request       {fake.url}" in ended.err
    assert "merge its request" in box.runner("merge", protocol, rc=4).err
    assert not place.request["draft"]
    assert {state for state, _ in place.statuses(protocol).values()} == {"success"}
    page = str(place.request["description"])
    assert page.startswith("### Every step is done") and "| ✔ completed, attempt 2 | ✔ passed |" in page
    assert place.request["title"] == "0001: A plan"
    assert "waits for merge" in box.runner("list").out

    fake.merge(place.accounts["alice"], 1, how)
    before = box.git("rev-parse", protocol)
    fake.asked.clear()
    place.sync(protocol)
    assert fake.asked == []  # git tells
    box.runner("run", protocol, rc=0)
    fake.look()
    assert "completed · merged" in box.runner("list").out
    assert box.git("rev-parse", protocol) == before and protocol not in fake.branches
    assert box.runner("verify", protocol).code == 0
    assert TOKEN not in place.written() + box.log(protocol)


@pytest.mark.parametrize(
    ("source", "says", "not_that"),
    [("signed", "sign with `runner approve 1`", "in a review"), ("review", "in a review", "runner approve")],
)
def test_the_page_names_the_ways_that_the_policy_takes(tmp_path: Path, source: str, says: str, not_that: str) -> None:
    place = town(tmp_path, approvals=f"  step: {{roles: [maintainer], from: [{source}]}}")
    try:
        place.box.runner("run", place.box.new(WAITS), rc=3)
        for text in (place.said(), str(place.request["description"])):
            assert says in text and not_that not in text
    finally:
        place.fake.close()


def test_looking_again_changes_nothing(place: Town) -> None:
    protocol = place.box.new(WAITS)
    assert place.box.runner("run", protocol).code == 3
    place.fake.approve(place.accounts["alice"], 1)
    place.fake.comment(place.accounts["carol"], 1, "/runner pause for lunch")
    place.sync(protocol)
    tip, count = place.box.git("rev-parse", protocol), len(place.fake.writes())
    for _ in range(3):
        place.sync(protocol)
    assert place.box.git("rev-parse", protocol) == tip and len(place.fake.writes()) == count


def test_nothing_is_posted_without_forge(place: Town) -> None:
    place.box.write(".protocols/config.yaml", "publish: always\n")
    place.box.commit("no forge")
    place.box.git("push", "-q", "origin", "main")
    protocol = place.box.new(ONE)
    place.box.runner("run", protocol, rc=0)
    place.sync(protocol)
    assert place.fake.asked == []


def test_ten_steps_are_told_politely(place: Town) -> None:
    protocol = place.box.new({f"{n:02d}-s{n}": command(f"echo {n} > {n}.txt") for n in range(1, 11)})
    place.fake.look()
    place.fake.asked.clear()
    place.fake.pushes = 0
    place.box.runner("run", protocol, rc=0)
    place.fake.look()
    assert place.fake.pushes == 1
    statuses = [one for one in place.fake.writes() if "/statuses/" in one]
    others = [one for one in place.fake.writes() if "/statuses/" not in one]
    assert len(statuses) == 4 and len(others) == 3  # the draft, ready, the comment
    assert len(place.fake.asked) <= 20


def test_a_request_of_work_that_is_open_again_is_a_draft_again(place: Town) -> None:
    box = place.box
    protocol = box.new(ONE)
    place.fake.requests[1].value |= {"title": f"{protocol}: A plan", "draft": False}
    box.runner("pause", protocol, rc=0)
    assert not place.request["draft"]  # before it was ready once, that is people's to say
    box.runner("resume", protocol, rc=0)
    box.runner("run", protocol, rc=0)
    box.runner("undo", protocol, rc=0)
    assert place.request["draft"] and box.state(protocol)["status"] != "completed"
    box.runner("run", protocol, rc=0)
    assert not place.request["draft"]


@pytest.mark.slow
def test_whatever_a_person_types_is_told(place: Town) -> None:
    box, fake = place.box, place.fake
    protocol = box.new({"01-a": "kind: human\n", "02-b": command("test -e mended")})
    assert place.request["draft"] and "Waits for nobody" in place.said()

    def step() -> tuple[str, str]:
        fake.look()
        return place.statuses(protocol)["runner/step"]

    assert step() == ("pending", "0 of 2 steps done")
    box.runner("pause", protocol, rc=0)
    assert step() == ("pending", "0 of 2 steps done; paused") and "/runner resume" in place.said()
    box.runner("resume", protocol, rc=0)
    box.runner("step", protocol, rc=3)
    assert "/runner answer w" in place.said()
    box.runner("answer", protocol, "done", rc=0)
    assert "/runner answer w" not in place.said()
    box.runner("edit", protocol, "b", rc=0, env={"EDITOR": "sed -i s/mended/b.txt/"})
    assert "test -e b.txt" in str(place.fake.git("show", f"{protocol}:.protocols/{protocol}/02-b.md"))
    assert step() == ("pending", "0 of 2 steps done")  # on the new tip too
    assert box.runner("run", protocol).code == 1 and step() == ("failed", "failed: b")
    box.runner("retry", protocol, rc=0)
    assert step() == ("pending", "1 of 2 steps done")
    box.runner("cancel", protocol, rc=0)
    assert step() == ("failed", "cancelled")


def test_what_was_not_published_is_not_told(place: Town) -> None:
    protocol = place.box.runner(
        "new", "X", "--plan", place.box.plan(ONE), rc=0, env={"RUNNER_PUBLISH": "never"}
    ).out.strip()
    place.box.runner("pause", protocol, rc=0, env={"RUNNER_PUBLISH": "never"})
    assert place.fake.asked == []


@pytest.mark.parametrize(
    ("who", "text", "told"),
    [
        ("guest", "/runner pause", "only people who may write"),
        ("machine", "/runner pause", "only people who may write"),
        ("carol", "/runner approve", "a comment is no approval"),
        ("carol", "/runner dance", "not done: there are"),
        ("carol", "/runner retry", "not done: `nothing failed"),
        ("carol", "/runner answer w99 yes", "not done"),
    ],
)
@pytest.mark.slow
def test_commands_that_are_not_carried_out(place: Town, who: str, text: str, told: str) -> None:
    protocol = place.box.new(WAITS)
    place.box.runner("run", protocol)
    before = place.box.log(protocol)
    place.fake.comment(place.accounts[who], 1, text)
    place.sync(protocol)
    assert told in place.said() and place.box.log(protocol) == before
    count = len(place.fake.writes())
    place.sync(protocol)
    assert len(place.fake.writes()) == count


def test_a_bot_that_the_policy_lists_gives_commands_and_never_an_answer_or_an_approval(tmp_path: Path) -> None:
    place = town(tmp_path, bot=True)
    try:
        protocol = place.box.new({**WAITS, "02-look": "kind: human\n"})
        place.box.runner("run", protocol, rc=3)
        approve(place, "machine")
        told = place.sync(protocol).err
        assert "does not count for step:a: a bot's" in told and "approval-counted" not in place.box.log(protocol)
        place.fake.comment(place.accounts["machine"], 1, "/runner pause")
        place.sync(protocol)
        assert place.box.state(protocol)["status"] == "paused"
        place.fake.comment(place.accounts["machine"], 1, "/runner resume")
        approve(place, "alice")
        place.sync(protocol)
        place.box.runner("run", protocol, rc=3)
        place.fake.comment(place.accounts["machine"], 1, "/runner answer yes")
        place.sync(protocol)
        assert "not done: a person answers" in place.said()
        assert place.box.state(protocol)["steps"]["look"]["status"] == "running"
        place.box.runner("verify", protocol, rc=0)
        place.accounts["machine"].level = 10  # not a developer of the project any more
        place.fake.comment(place.accounts["machine"], 1, "/runner pause")
        place.sync(protocol)
        assert place.box.state(protocol)["status"] != "paused"
    finally:
        place.fake.close()


def test_an_edited_comment_and_prose_are_no_commands(place: Town) -> None:
    protocol = place.box.new(WAITS)
    place.box.runner("run", protocol)
    before = place.box.log(protocol)
    note = place.fake.comment(place.accounts["carol"], 1, "fine")
    place.fake.edit_comment(1, note, "/runner pause")
    place.fake.comment(place.accounts["carol"], 1, "I would say /runner pause here")
    place.sync(protocol)
    assert place.box.log(protocol) == before


def test_a_command_counts_once_although_our_comment_is_gone(place: Town) -> None:
    protocol = place.box.new(WAITS)
    place.box.runner("run", protocol)
    place.fake.comment(place.accounts["carol"], 1, "/runner pause")
    place.sync(protocol)
    place.box.runner("resume", protocol, rc=0)
    notes = place.fake.requests[1].notes
    notes[:] = [each for each in notes if each["author"]["id"] != place.accounts["runner"].id]
    place.sync(protocol)
    assert (
        place.box.state(protocol)["status"] in ("planned", "running") and place.box.log(protocol).count(" paused ") == 1
    )


def test_answer_and_step_by_comment(place: Town) -> None:
    protocol = place.box.new({"01-a": "kind: human\n", "02-b": command("echo > b.txt")})
    place.box.runner("run", protocol)
    wait = place.box.state(protocol)["waiting"][0]["id"]
    assert f"/runner answer {wait} TEXT" in place.said()
    place.fake.comment(place.accounts["carol"], 1, f"/runner answer {wait} it is\ndone")
    place.fake.comment(place.accounts["carol"], 1, "/runner step")
    place.sync(protocol)
    assert place.box.state(protocol)["steps"]["a"]["status"] == "completed"
    assert place.box.git("log", "-3", "--format=%an", protocol).split() == ["runner"] * 3


def test_in_ci_what_a_comment_asks_for_is_left_to_the_job_that_cannot_write(place: Town) -> None:
    protocol = place.box.new({"01-a": "kind: human\n", "02-b": command("echo > b.txt")})
    place.box.runner("run", protocol)
    wait = place.box.state(protocol)["waiting"][0]["id"]
    place.fake.comment(place.accounts["carol"], 1, f"/runner answer {wait} it is\ndone")
    place.fake.comment(place.accounts["carol"], 1, "/runner step")
    place.box.runner("sync", protocol, "--no-work", rc=0)
    state = place.box.state(protocol)
    assert state["steps"]["b"]["status"] == "pending"  # heard, and nothing done for it
    place.box.runner("run", protocol, rc=0)
    assert place.box.state(protocol)["status"] == "completed"


@pytest.mark.parametrize(
    ("rule", "status", "step"),
    [("fail", "failed", "failed"), ("block", "blocked", "blocked"), ("ignore", "running", "needs_qa")],
)
@pytest.mark.slow
def test_ci_ends_the_step_as_configured(tmp_path: Path, rule: str, status: str, step: str) -> None:
    place = town(tmp_path, config=f"ci: {rule}\nqa: {{on_ci: true}}\n")
    try:
        protocol = place.box.new(ONE)
        place.box.runner("step", protocol, rc=0)
        tip = place.fake.branches[protocol]
        for name in ("runner-advance", "protocol-tell", "protocol-verify"):
            place.fake.job(tip, name, "failed")
        place.sync(protocol)
        assert "ci-reported" not in place.box.log(protocol)
        place.fake.job(tip, "build", "failed")
        place.sync(protocol)
        found = place.box.state(protocol)
        assert (found["status"], found["steps"]["a"]["status"]) == (status, step)
        assert '"context":"build"' in place.box.log(protocol)
        place.sync(protocol)
        assert place.box.log(protocol).count("ci-reported") == 1
        assert place.box.runner("verify", protocol).code == 0
    finally:
        place.fake.close()


@pytest.mark.slow
def test_green_ci_starts_qa(tmp_path: Path) -> None:
    place = town(tmp_path, config="ci: block\nqa: {on_ci: true}\n")
    try:
        protocol = place.box.new(ONE)
        place.box.runner("step", protocol, rc=0)
        place.fake.job(place.fake.branches[protocol], "build", "success")
        place.sync(protocol)
        assert place.box.state(protocol)["status"] == "completed" and not place.request["draft"]
        for _ in range(2):  # CI runs again on the record's commits, and says nothing new
            place.fake.job(place.fake.branches[protocol], "build", "success")
            place.sync(protocol)
        assert place.box.log(protocol).count("ci-reported") == 1
    finally:
        place.fake.close()


@pytest.mark.slow
def test_a_step_goes_on_on_the_review_that_it_began_on(place: Town) -> None:
    box = place.box
    with mind(box, say(write("b.txt", "b\n"), ask("which one?")), finish()) as wire:
        protocol = box.new({"01-b": agent("approval: before\n")})
        box.runner("run", protocol, rc=3)
        approve(place, "alice")
        box.runner("run", protocol, rc=3)
        assert box.git("show", f"{protocol}:b.txt") == "b\n"  # its own work is no change of what was reviewed
        box.runner("answer", protocol, "the first", rc=0)
        box.runner("run", protocol, rc=0)
        assert wire.wrong == []
    assert box.log(protocol).count("approval-asked") == 1
    assert box.runner("verify", protocol).code == 0


def test_of_a_commit_that_was_recorded_just_now_ci_is_not_asked(tmp_path: Path) -> None:
    place = town(tmp_path, config="ci: block\n")
    try:
        protocol = place.box.new(WAITS)
        place.box.runner("run", protocol, rc=3)
        place.fake.job(place.fake.branches[protocol], "build", "success")
        approve(place, "alice")
        place.sync(protocol)  # counts the review in a commit that the forge does not have yet
        log = place.box.log(protocol)
        assert " approval-counted " in log and " ci-reported " in log
    finally:
        place.fake.close()


def test_where_the_merge_needs_a_word_the_check_that_is_required_waits_for_it(tmp_path: Path) -> None:
    place = town(tmp_path, approvals="  step: {roles: [maintainer]}\n  merge: {roles: [maintainer], required: true}\n")
    try:
        protocol = place.box.new(ONE)
        approve(place, "alice")  # of work that is not done yet
        for args, state in ((("sync", protocol), "pending"), (("run", protocol), "pending")):
            place.box.runner(*args, rc=0)
            assert place.statuses(protocol)["runner/verify"] == (state, "the merge waits for a maintainer (alice, bob)")
        approve(place, "alice")
        place.sync(protocol)
        assert place.statuses(protocol)["runner/verify"][0] == "success"
    finally:
        place.fake.close()


def test_closed_and_opened_again_is_recorded_and_left_alone(place: Town) -> None:
    protocol = place.box.new(WAITS)
    place.box.runner("run", protocol)
    place.fake.close_request(place.accounts["alice"], 1)
    place.sync(protocol)
    assert '"change":"closed"' in place.box.log(protocol)
    place.sync(protocol)
    assert place.box.log(protocol).count("request-changed") == 1 and len(place.fake.requests) == 1
    place.fake.requests[1].value |= {"state": "opened", "closed_at": None, "closed_by": None}
    place.sync(protocol)
    assert '"change":"reopened"' in place.box.log(protocol)


def test_a_branch_that_was_deleted_with_its_request_is_not_pushed_again(place: Town) -> None:
    protocol = place.box.new(WAITS)
    place.box.runner("run", protocol)
    place.fake.close_request(place.accounts["alice"], 1)
    place.fake.git("update-ref", "-d", f"refs/heads/{protocol}")
    done = place.sync(protocol)
    assert "not pushed again" in done.err and protocol not in place.fake.branches


@pytest.mark.parametrize("how", [pytest.param("merge", marks=pytest.mark.slow), "squash"])
@pytest.mark.parametrize("typed", ["sync", pytest.param("run", marks=pytest.mark.slow)])
def test_a_clone_that_was_behind_at_the_merge_follows_to_the_end(place: Town, how: str, typed: str) -> None:
    other, protocol = behind_at_the_merge(place, how)
    other.runner(typed, protocol, rc=0)
    place.fake.look()
    assert "completed · merged" in other.runner("list").out and protocol not in place.fake.branches
    assert other.git("rev-parse", protocol) == place.box.git("rev-parse", protocol)
    assert (other.worktree(protocol) / "a.txt").exists() and other.runner("verify", protocol, rc=0)
    fresh = clone(place.box, "fresh")
    assert "merged" in fresh.runner("sync", protocol, rc=0).err


def test_what_a_person_committed_behind_a_merge_stays_and_is_named(place: Town) -> None:
    other, protocol = behind_at_the_merge(place, "merge", own="mine.txt")
    before = other.git("rev-parse", protocol)
    done = other.runner("sync", protocol, rc=0)
    assert f"{protocol} ended and was merged into main, without 1 commit that is here" in done.err
    refused = other.runner("run", protocol, rc=4)
    assert "without 1 commit" in refused.err and f"git log origin/main..{protocol}" in refused.err
    place.fake.look()
    assert other.git("rev-parse", protocol) == before and protocol not in place.fake.branches


def behind_at_the_merge(place: Town, how: str, own: str = "") -> tuple[Box, str]:
    """A clone that has the protocol as it began, which was then done, merged and deleted by others; `own`: a file of its person's."""
    box = place.box
    protocol = box.new(ONE)
    other = clone(box, "other")
    other.runner("sync", protocol, rc=0)
    tree = other.path.parent / "tree"
    other.git("worktree", "add", "-q", tree, protocol)
    if own:
        (tree / own).write_text("mine\n")
        other.commit("mine", cwd=tree)
    box.runner("run", protocol, rc=0)
    place.fake.merge(place.accounts["alice"], 1, how)
    return other, protocol


def approve(place: Town, who: str) -> None:
    place.fake.approve(place.accounts[who], 1)


@pytest.mark.parametrize(
    "case", ["guest", "runner", "carol", "older", "changes", "taken-back", "moved-on", "author", "pusher"]
)
@pytest.mark.slow
def test_reviews_that_do_not_count(place: Town, case: str) -> None:
    box, fake = place.box, place.fake
    name = {"author": "bob", "pusher": "dave"}.get(case)
    author = {"RUNNER_NAME": name, "RUNNER_EMAIL": f"{name}@example.test"} if name else None
    if case == "pusher":
        fake.pusher = place.accounts["bob"]
    planned = box.plan(WAITS if case != "older" else {"01-x": command("echo > x.txt"), "02-a": WAITS["01-a"]})
    protocol = box.runner("new", "A plan", "--plan", planned, rc=0, env=author).out.strip()
    if case == "older":
        place.sync(protocol)
        approve(place, "alice")  # before it was asked for
    fake.look()
    fake.pusher = place.accounts["runner"]
    box.runner("run", protocol)
    if case in ("guest", "runner", "carol"):
        approve(place, case)
    elif name:
        approve(place, "bob")
    elif case == "changes":
        approve(place, "alice")
        fake.request_changes(place.accounts["bob"], 1)
    elif case == "taken-back":
        approve(place, "alice")
        fake.unapprove(place.accounts["alice"], 1)
    elif case == "moved-on":
        approve(place, "alice")
        tree = box.worktree(protocol)
        (tree / "more.txt").write_text("more\n")
        box.git("add", "more.txt", cwd=tree)
        box.git("commit", "-qm", "more", cwd=tree)
    told = place.sync(protocol).err
    assert "approval-counted" not in box.log(protocol)
    assert box.runner("run", protocol).code == 3
    why = {
        "guest": "the review of guest (id 1005) does not count for step:a: its account is not in the policy's `forge:`",
        "runner": "the review of runner (id 1000) does not count for step:a: its account is not in",
        "carol": "the review of carol@example.test does not count for step:a: carol@example.test is not a maintainer",
        "older": "does not count for step:a: of an older commit",
        "moved-on": "does not count for step:a: of an older commit",
        "changes": "bob@example.test asks for changes in the request",
        "author": "the review of bob@example.test does not count for step:a: ",
        "pusher": "the review of bob (id 1002) does not count for step:a: its author wrote part of what it is about",
    }
    assert told.count(why[case]) == 1 if case in why else "does not count" not in told, told


@pytest.mark.parametrize(
    "fault",
    [
        Fault("", 503, times=500),
        Fault("", None, times=500),
        Fault("", 403, {}, {"error": "insufficient_scope", "scope": "api"}, times=500),
        Fault("", 429, {"Retry-After": "3600"}, times=500),
    ],
    ids=["5xx", "no network", "no scope", "rate limit"],
)
@pytest.mark.slow
def test_work_goes_on_where_the_forge_does_not(place: Town, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.forge.retry._FIRST", 0.0)
    protocol = place.box.new(ONE)
    place.fake.faults.append(fault)
    done = place.box.runner("run", protocol, rc=0)
    assert "posting to the forge failed" in done.err and TOKEN not in done.err
    assert place.box.runner("sync", protocol).code == 69
    place.fake.faults.clear()
    place.sync(protocol)
    assert not place.request["draft"]


@pytest.mark.parametrize("match", ["PUT", "POST", "GET"])
@pytest.mark.slow
def test_an_answer_that_is_lost_is_no_second_request(place: Town, match: str) -> None:
    protocol = place.box.new(ONE)
    place.fake.faults.append(Fault(match, None, after=True))
    place.box.runner("run", protocol, rc=0)
    place.sync(protocol)
    assert len(place.fake.requests) == 1 and place.said()


def test_no_token(place: Town) -> None:
    protocol = place.box.new(ONE)
    gone = {"RUNNER_FORGE_TOKEN": ""}
    assert "nothing is posted to the forge" in place.box.runner("run", protocol, rc=0, env=gone).err
    done = place.sync(protocol, rc=2, env=gone)
    assert "there is no token" in done.err
    place.fake.look()
    assert place.fake.branches[protocol] == place.box.git("rev-parse", protocol).strip()


def test_what_plans_say_stands_there_as_code_alone(place: Town) -> None:
    hostile = "x`](http://evil.test) ![i](http://evil.test/x.png) @alice </details> | #1"
    import json

    steps = {"01-a": "kind: human\n"}
    folder = place.box.plan(steps, title=json.dumps(hostile))
    (folder / "01-a.md").write_text(f"---\ntitle: {json.dumps(hostile)}\nkind: human\n---\n```\n/close\n")
    protocol = place.box.runner("new", hostile, "--plan", folder, rc=0).out.strip()
    place.box.runner("run", protocol)
    for text in (str(place.request["description"]), place.said()):
        outside = re.sub(r"(?s)^(`{3,})text\n.*?\n\1$", "", text, flags=re.MULTILINE)
        outside = re.sub(r"`[^`\n]*`", "", outside)
        assert "evil.test" not in outside and "@alice" not in outside and outside.count("</details>") <= 1
    assert "@" not in str(place.request["title"]) and "`" not in str(place.request["title"])


def test_a_renamed_account_is_the_same_person(place: Town) -> None:
    protocol = place.box.new(WAITS)
    place.box.runner("run", protocol, rc=3)
    place.accounts["alice"].username = "alice-after-the-wedding"
    place.accounts["guest"].username, place.accounts["guest"].level = "alice", 40
    place.fake.approve(place.accounts["guest"], 1)
    place.sync(protocol)
    assert "approval-counted" not in place.box.log(protocol)
    place.fake.approve(place.accounts["alice"], 1)
    place.box.runner("run", protocol, rc=0)
    assert place.box.log(protocol).count("approval-counted") == 1


def test_a_token_in_a_plan_is_not_told(place: Town) -> None:
    folder = place.box.plan({"01-a": "kind: human\n"}, title=f"Use {TOKEN}")
    (folder / "plan.md").write_text(f"---\ntitle: Use {TOKEN}\n---\nLog in with {TOKEN}.\n")
    protocol = place.box.runner("new", "X", "--plan", folder, rc=0).out.strip()
    place.box.runner("run", protocol, rc=3)
    assert "[RUNNER_FORGE_TOKEN]" in place.written() and TOKEN not in place.written()


def test_a_step_that_cannot_be_taken_is_answered_once(place: Town) -> None:
    protocol = place.box.new({"01-a": "kind: agent\nengine: recorded:nowhere.jsonl\n"})
    place.sync(protocol)
    place.fake.comment(place.accounts["carol"], 1, "/runner step")
    place.sync(protocol)
    assert "`step`: not done" in place.said()
    count = len(place.fake.writes())
    place.sync(protocol)
    assert len(place.fake.writes()) == count


def test_no_network_at_all(place: Town) -> None:
    box, fake = place.box, place.fake
    protocol = box.new(ONE)
    fake.faults.append(Fault("", None, times=500))
    fake.bare.rename(away := fake.bare.with_suffix(".away"))
    box.runner("run", protocol, rc=69)
    box.runner("run", protocol, "--offline", rc=0)
    assert box.state(protocol)["status"] == "completed"
    assert box.runner("sync", protocol).code == 69
    fake.faults.clear()
    away.rename(fake.bare)
    place.sync(protocol)
    assert not place.request["draft"] and fake.branches[protocol] == box.git("rev-parse", protocol).strip()


def test_a_branch_that_was_deleted_while_its_request_is_open_is_pushed_again(place: Town) -> None:
    protocol = place.box.new(WAITS)
    place.fake.git("update-ref", "-d", f"refs/heads/{protocol}")
    place.sync(protocol)
    place.fake.look()
    assert place.fake.branches[protocol] == place.box.git("rev-parse", protocol).strip()
    assert len(place.fake.requests) == 1


def test_a_command_among_a_thousand_comments(place: Town) -> None:
    protocol = place.box.new(WAITS)
    for number in range(1000):
        place.fake.comment(place.accounts["carol"], 1, "/runner pause" if number == 500 else f"chatter {number}")
    before = len(place.fake.asked)
    place.sync(protocol)
    assert place.box.state(protocol)["status"] == "paused"
    assert len(place.fake.asked) - before < 40  # the pages of three readings, and what one command needs


@pytest.mark.slow
def test_an_event_that_reaches_two_jobs_at_once_is_done_once(place: Town) -> None:
    protocol = place.box.new({"01-a": command("exit 1")})
    place.box.runner("run", protocol, rc=1)
    place.fake.comment(place.accounts["carol"], 1, "/runner retry")
    other = clone(place.box, "other")
    other.git("fetch", "-q", "origin", f"{protocol}:{protocol}")
    both = [one.start("sync", protocol) for one in (place.box, other)]
    said = [one.communicate(timeout=100) for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    place.sync(protocol)
    assert place.box.log(protocol).count(" step-retried ") == 1
    assert "will be retried" in place.said()


def test_a_command_that_is_heard_late_is_answered_by_what_is_there_then(place: Town) -> None:
    protocol = place.box.new({"01-a": "kind: human\n"})
    place.box.runner("run", protocol, rc=3)
    place.fake.comment(place.accounts["carol"], 1, "/runner answer too late")
    place.fake.comment(place.accounts["carol"], 1, "/runner pause")
    place.box.runner("answer", protocol, "here first", rc=0)
    place.box.runner("run", protocol, rc=0)
    place.sync(protocol)
    assert place.box.state(protocol)["status"] == "completed" and place.said().count("not done") == 2
    place.fake.comment(place.accounts["carol"], 1, "/runner pause")
    place.fake.merge(place.accounts["alice"], 1)
    place.sync(protocol)
    assert "completed · merged" in place.box.runner("list").out


@pytest.mark.parametrize("how", mostly_slow(["aside", "back"], 1))
def test_a_force_push(place: Town, how: str) -> None:
    box, fake = place.box, place.fake
    protocol = box.new(WAITS)
    box.runner("run", protocol, rc=3)
    tip = box.git("rev-parse", protocol).strip()
    tree = box.git("rev-parse", f"{tip}^{{tree}}").strip()
    made = fake.git("commit-tree", tree, "-p", f"{tip}~1", "-m", "mine") if how == "aside" else f"{tip}~1"
    fake.git("update-ref", f"refs/heads/{protocol}", made)
    done = box.runner("sync", protocol)
    assert done.code == (0 if how == "back" else 4), done.err
    fake.look()
    assert (fake.branches[protocol] == tip) == (how == "back") and box.git("rev-parse", protocol).strip() == tip
