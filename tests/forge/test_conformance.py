"""What every forge promises, once for all: GitLab against the strict fake, GitHub against `emulate` (`make forge`)."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import pytest

from runner.executor.forge_reviews import Reason, count_reviews
from runner.forge import (
    BODY_TEXT,
    STATUS_TEXT,
    Access,
    AccountKind,
    CheckOutcome,
    ForgeError,
    NetworkError,
    NotFoundError,
    RateLimitError,
    Request,
    RequestState,
    ReviewState,
    ScopeMissingError,
    ServerError,
    Status,
    StatusState,
    TokenRefusedError,
)
from runner.forge.registry import FORGES
from runner.forge.retry import ATTEMPTS, LONGEST
from tests.forge.grounds import START, TOKEN, GitHubGround, GitLabGround, Ground
from tests.forge.serving import Fault

BRANCH = "0007-rate-limit"
PENDING = Status(context="runner/step", state=StatusState.PENDING, text="02-middleware waits for alice")
DONE = Status(context="runner/step", state=StatusState.SUCCESS, text="3 of 3 steps", url="https://example.test/run/1")


def proposed(ground: Ground, branch: str = BRANCH) -> Request:
    ground.push("runner", branch)
    return ground.forge().propose(branch=branch, base="main", title="Rate limit the API", body="plan\n\nhow")


def test_every_forge_has_a_ground() -> None:
    assert {*FORGES} == {one.name for one in (GitHubGround, GitLabGround)}


# requests


def test_a_draft_is_opened_once_and_then_kept_current(ground: Ground) -> None:
    forge = ground.forge()
    assert forge.request_of(BRANCH, "main") is None
    request = proposed(ground)
    assert (request.draft, request.state, request.branch, request.base) == (True, RequestState.OPEN, BRANCH, "main")
    assert (request.title, request.body) == ("Rate limit the API", "plan\n\nhow")

    written = len(ground.server.writes())
    same = forge.propose(branch=BRANCH, base="main", title="Rate limit the API", body="plan\r\n\r\nhow\n")
    assert same == request and len(ground.server.writes()) == written

    other = forge.propose(branch=BRANCH, base="main", title="Rate limit", body="plan 2")
    assert (other.number, other.title, other.body, other.draft) == (request.number, "Rate limit", "plan 2", True)
    assert forge.request_of(BRANCH, "main") == forge.request(request.number) == other


def test_a_request_into_another_branch_is_another_one(ground: Ground) -> None:
    request = proposed(ground)
    ground.push("alice", "elsewhere")
    other = ground.forge().propose(branch=BRANCH, base="elsewhere", title="T", body="b")
    assert (other.number != request.number, other.base) == (True, "elsewhere")
    assert ground.forge().request_of(BRANCH, "main") == request
    assert ground.forge().request_of(BRANCH, "elsewhere") == other


def test_a_draft_is_made_ready_once(ground: Ground) -> None:
    request = proposed(ground)
    ready = ground.forge().mark(request.number, draft=False)
    assert not ready.draft and ready.title == request.title
    written = len(ground.server.writes())
    assert ground.forge().mark(request.number, draft=False) == ready and len(ground.server.writes()) == written
    changed = ground.forge().propose(branch=BRANCH, base="main", title="T", body="b")
    assert (changed.draft, changed.title) == (False, "T")


def test_what_was_ready_is_made_a_draft_once_and_ready_again(ground: Ground) -> None:
    request = proposed(ground)
    ground.forge().mark(request.number, draft=False)
    draft = ground.forge().mark(request.number, draft=True)
    assert draft.draft and draft.title == request.title
    written = len(ground.server.writes())
    assert ground.forge().mark(request.number, draft=True) == draft and len(ground.server.writes()) == written
    assert not ground.forge().mark(request.number, draft=False).draft


def test_a_closed_request_is_told_and_a_new_one_is_opened_where_the_caller_wants_it(ground: Ground) -> None:
    first = proposed(ground)
    ground.close_request("alice", first.number)
    found = ground.forge().request_of(BRANCH, "main")
    assert found is not None and (found.number, found.state) == (first.number, RequestState.CLOSED)
    closed = ground.forge().request(first.number)
    assert closed.ended and closed.merged is None and closed.ended_by == ground.identity("alice")
    second = ground.forge().propose(branch=BRANCH, base="main", title="again", body="")
    assert second.number != first.number
    assert ground.forge().request_of(BRANCH, "main") == second


def test_a_merge_is_told_with_its_commit_and_who(ground: Ground) -> None:
    request = proposed(ground)
    ground.forge().mark(request.number, draft=False)
    oid = ground.merge("alice", request.number)
    merged = ground.forge().request(request.number)
    assert (merged.state, merged.merged, merged.ended_by) == (RequestState.MERGED, oid, ground.identity("alice"))
    assert merged.ended


def test_the_head_follows_the_branch_and_outlives_it(ground: Ground) -> None:
    request = proposed(ground)
    head = ground.push("alice", BRANCH)
    assert ground.forge().request(request.number).head == head
    ground.merge("alice", ground.forge().mark(request.number, draft=False).number)
    ground.delete_branch("alice", BRANCH)
    assert ground.forge().request(request.number).branch == BRANCH
    last = ground.forge().pushes(BRANCH)[0]
    assert (last.before, last.after) == (head, None)


def test_a_request_that_is_not_there_is_not_found(ground: Ground) -> None:
    with pytest.raises(NotFoundError, match="no such thing"):
        ground.forge().request(99)


# comments


def test_one_comment_is_kept_current(ground: Ground) -> None:
    number = proposed(ground).number
    forge = ground.forge()
    # Whoever copies the marker has not our id; what we wrote without it is not ours to change.
    ground.comment("alice", number, "<!-- runner: 0007-rate-limit -->\nmine")
    first = forge.keep_comment(number, "0007-rate-limit", "step 1")
    again = ground.forge().keep_comment(number, "0007-rate-limit", "step 2")
    assert again.id == first.id and again.edited and again.by == ground.identity("runner")
    written = len(ground.server.writes())
    assert forge.keep_comment(number, "0007-rate-limit", "step 2") == again
    assert len(ground.server.writes()) == written
    assert forge.keep_comment(number, "other", "step 2").id != first.id
    assert [c.body for c in forge.comments(number)] == [
        "<!-- runner: 0007-rate-limit -->\nmine",
        "<!-- runner: 0007-rate-limit -->\nstep 2",
        "<!-- runner: other -->\nstep 2",
    ]


def test_an_edited_comment_is_told(ground: Ground) -> None:
    number = proposed(ground).number
    plain = ground.comment("alice", number, "/runner retry")
    changed = ground.comment("alice", number, "hello")
    ground.edit_comment("bob", number, changed, "/runner cancel")
    found = {comment.id: comment for comment in ground.forge().comments(number)}
    assert not found[plain].edited and found[changed].edited
    assert found[plain].by == found[changed].by == ground.identity("alice")
    assert str(plain) in found[plain].url


def test_a_thousand_comments_come_in_pages(ground: Ground) -> None:
    number = proposed(ground).number
    for index in range(1000):
        ground.comment("alice", number, f"{index}")
    before = len(ground.server.asked)
    found = ground.forge().comments(number)
    assert [comment.body for comment in found] == [str(index) for index in range(1000)]
    assert len(ground.server.asked) - before <= 11
    assert ground.forge().keep_comment(number, "k", "ours").id not in {comment.id for comment in found}


def test_long_and_odd_bodies_arrive(ground: Ground) -> None:
    number = proposed(ground).number
    odd = "<b>&amp;</b> \N{SNOWMAN} `x` | a | ```\n" + "y" * (BODY_TEXT - 100)
    assert ground.forge().keep_comment(number, "k", odd).body.endswith(odd)


# statuses and checks


def test_a_status_is_set_only_where_it_differs(ground: Ground) -> None:
    commit = ground.push("runner", BRANCH)
    forge = ground.forge()
    verify = Status(context="runner/verify", state=StatusState.FAILURE, text="1 finding")
    assert forge.statuses(commit) == ()
    assert forge.report(commit, [PENDING, verify], branch=BRANCH) == (PENDING, verify)
    assert forge.report(commit, [PENDING, verify], branch=BRANCH) == ()
    assert forge.report(commit, [DONE, verify], branch=BRANCH) == (DONE,)
    assert forge.report(commit, [PENDING], branch=BRANCH) == (PENDING,)
    assert {each.context: each for each in forge.statuses(commit)} == {"runner/step": PENDING, "runner/verify": verify}
    assert len([w for w in ground.server.writes() if "statuses" in w]) == 4
    before = len(ground.server.asked)
    assert forge.report(commit, [], branch=BRANCH) == () and len(ground.server.asked) == before


def test_a_status_that_somebody_else_set_under_our_name_is_read_and_replaced(ground: Ground) -> None:
    commit = ground.push("runner", BRANCH)
    ground.foreign_status(commit, "runner/step", "two\nlines, " + "long " * 40)
    (found,) = ground.forge().statuses(commit)
    assert found.text.startswith("two lines, long") and len(found.text) == STATUS_TEXT
    assert ground.forge().report(commit, [DONE], branch=BRANCH) == (DONE,)
    assert ground.forge().statuses(commit) == (DONE,)


def test_ci_is_read_without_our_own_statuses(ground: Ground) -> None:
    commit = ground.push("runner", BRANCH)
    forge = ground.forge()
    assert forge.checks(commit) == ()
    forge.report(commit, [PENDING], branch=BRANCH)
    for name, outcome in (
        ("test", CheckOutcome.SUCCESS),
        ("lint", CheckOutcome.FAILURE),
        ("slow", CheckOutcome.PENDING),
        ("old", CheckOutcome.CANCELLED),
    ):
        ground.ci(commit, name, outcome)
    assert {check.name: check.outcome for check in forge.checks(commit)} == {
        "test": CheckOutcome.SUCCESS, "lint": CheckOutcome.FAILURE, "slow": CheckOutcome.PENDING, "old": CheckOutcome.CANCELLED,
    }  # fmt: skip


def test_a_job_of_its_own_that_ended_is_over_and_nothing_else_is(ground: Ground) -> None:
    forge, over, running = ground.forge(), ground.job(over=True), ground.job(over=False)
    assert (forge.is_over(over), forge.is_over(running)) == (True, False)
    asked = len(ground.server.asked)
    for other in (over.replace("://", "://x."), over.replace("shop", "shops"), f"{over}/../1", "", f"{over}\n"):
        assert not forge.is_over(other)
    assert len(ground.server.asked) == asked
    with pytest.raises(NotFoundError):
        forge.is_over(f"{over}999")


# reviews and people


def test_a_review_says_who_what_and_of_which_commit(ground: Ground) -> None:
    request = proposed(ground)
    ground.approve("alice", request.number)
    head = ground.push("runner", BRANCH)
    ground.approve("bob", request.number)
    reviews = ground.forge().reviews(request.number)
    assert [(review.by, review.state, review.commit) for review in reviews] == [
        (ground.identity("alice"), ReviewState.APPROVED, request.head),
        (ground.identity("bob"), ReviewState.APPROVED, head),
    ]
    assert all(review.time and review.dismissed is None for review in reviews)


def test_changes_requested_later_are_the_last_word(ground: Ground) -> None:
    request = proposed(ground)
    ground.approve("alice", request.number)
    ground.request_changes("alice", request.number)
    last = [review for review in ground.forge().reviews(request.number) if review.by == ground.identity("alice")][-1]
    assert last.state is ReviewState.CHANGES
    ground.approve("alice", request.number)
    last = [review for review in ground.forge().reviews(request.number) if review.by == ground.identity("alice")][-1]
    assert last.state is ReviewState.APPROVED


def test_standing_tells_people_from_bots_and_who_may_write(ground: Ground) -> None:
    forge = ground.forge()
    assert forge.membership(ground.identity("alice")).access is Access.WRITE
    assert forge.membership(ground.identity("alice")).kind is AccountKind.PERSON
    assert forge.membership(ground.identity("guest")).access is Access.READ
    assert forge.membership(ground.identity("machine")).kind is AccountKind.BOT
    before = len(ground.server.asked)
    forge.membership(ground.identity("alice"))
    assert len(ground.server.asked) == before


@pytest.mark.parametrize("says", ["approve", "request_changes"])
def test_a_review_of_a_bot_never_counts_though_the_policy_lists_it_and_it_may_write(ground: Ground, says: str) -> None:
    request, forge = proposed(ground), ground.forge()
    getattr(ground, says)("machine", request.number)
    ground.approve("alice", request.number)
    found = forge.reviews(request.number)
    counted = count_reviews(
        found,
        principals={ground.identity(who): who for who in ("machine", "alice")},
        agents=(),
        members={one.by: forge.membership(one.by) for one in found},
        fresh={request.head},
        authors=(),
    )
    assert ([*counted.approvals], [*counted.objections]) == (["alice"], [])
    assert {(one.by, reason) for one, reason in counted.refused} == {(ground.identity("machine"), Reason.BOT)}


def test_standing_is_told_by_the_id_alone_as_the_policy_has_it(ground: Ground) -> None:
    ground.rename("alice", "alice-the-second")
    for who, access, kind in (("alice", Access.WRITE, AccountKind.PERSON), ("machine", Access.WRITE, AccountKind.BOT)):
        nameless = dataclasses.replace(ground.identity(who), login="")
        standing = ground.forge().membership(nameless)
        assert (standing.access, standing.kind) == (access, kind)
    nobody = dataclasses.replace(nameless, id=999_999)
    assert ground.forge().membership(nobody).access is Access.NONE


def test_a_renamed_person_is_the_same_one_and_who_took_the_login_is_nobody(ground: Ground) -> None:
    request = proposed(ground)
    ground.approve("alice", request.number)
    alice = ground.identity("alice")
    ground.rename("alice", "alice-the-second")
    (review,) = ground.forge().reviews(request.number)
    assert review.by == alice and review.by.login == "alice-the-second"
    assert ground.forge().membership(review.by).access is Access.WRITE
    squatter = type(alice)(host=alice.host, id=999_999, login="alice-the-second")
    assert squatter != alice and ground.forge().membership(squatter).access is Access.NONE


def test_who_pushed_is_told_newest_first(ground: Ground) -> None:
    first = ground.push("runner", BRANCH)
    ground.push("bob", "elsewhere")
    second = ground.push("alice", BRANCH)
    pushes = ground.forge().pushes(BRANCH)
    assert [(push.by, push.before, push.after) for push in pushes] == [
        (ground.identity("alice"), first, second),
        (ground.identity("runner"), None, first),
    ]
    assert all(push.time for push in pushes)


def test_the_commits_of_a_request_are_listed_oldest_first(ground: Ground) -> None:
    first = ground.push("alice", BRANCH)
    request = proposed(ground)
    assert [commit.oid for commit in ground.forge().commits(request.number)][-2:] == [first, request.head]


def test_me_is_whose_token_it_is(ground: Ground) -> None:
    assert ground.forge().me() == ground.identity("runner")


# settings


def test_settings_of_a_branch_that_nothing_guards(ground: Ground) -> None:
    settings = ground.forge().settings("main")
    assert (settings.default_branch, settings.access >= Access.WRITE) == ("main", True)
    assert {method.value for method in settings.methods} >= {"merge", "squash"}
    assert (settings.protection.protected, settings.protection.forced_pushes) == (False, True)
    assert settings.protection.required_checks == ()


def test_settings_of_a_guarded_branch(ground: Ground) -> None:
    ground.protect()
    protection = ground.forge().settings("main").protection
    assert (protection.protected, protection.forced_pushes, protection.deletions) == (True, False, False)
    assert protection.required_checks is not None and "runner/verify" in protection.required_checks
    assert (protection.dismisses_stale, protection.last_pusher_refused) == (True, True)


# what goes wrong


def test_an_unknown_token_is_refused_by_name(ground: Ground) -> None:
    with pytest.raises(TokenRefusedError, match="refuses the token"):
        ground.forge("canary-of-nobody").me()
    assert ground.hours.slept == []


def test_a_token_that_may_only_read_is_told_what_it_lacks(ground: Ground) -> None:
    request = proposed(ground)
    forge = ground.forge(ground.read_only_token())
    assert forge.request(request.number) == request
    with pytest.raises(ScopeMissingError) as refused:
        forge.keep_comment(request.number, "k", "words")
    assert refused.value.hint in ("give the token pull_requests=write", "give the token api")
    with pytest.raises(ScopeMissingError):
        forge.report(request.head, [DONE], branch=BRANCH)


def test_a_short_limit_is_waited_out(ground: Ground) -> None:
    ground.limit(7)
    assert ground.forge().me() == ground.identity("runner")
    assert ground.hours.slept == [7.0]


def test_a_long_limit_is_told_with_its_end(ground: Ground) -> None:
    ground.limit(int(LONGEST) + 1)
    with pytest.raises(RateLimitError, match="asks for a pause") as limited:
        ground.forge().me()
    assert limited.value.retry_at == START + LONGEST + 1
    assert ground.hours.slept == [] and "UTC" in limited.value.hint


def test_a_problem_of_the_forges_own_passes_or_is_told(ground: Ground) -> None:
    ground.server.faults.append(Fault("", 502, body=b"<html>bad gateway</html>", times=2))
    assert ground.forge().me() == ground.identity("runner")
    assert ground.hours.slept == [1.0, 2.0]
    ground.server.faults.append(Fault("", 503, times=ATTEMPTS))
    with pytest.raises(ServerError, match="reports a server error"):
        ground.forge().me()


def test_a_cut_line_passes_or_is_told(ground: Ground) -> None:
    ground.server.faults.append(Fault("", times=1))
    assert ground.forge().me() == ground.identity("runner")
    ground.server.faults.append(Fault("", times=2 * ATTEMPTS))
    with pytest.raises(NetworkError, match="no answer"):
        ground.forge().me()


def test_no_network_is_told(ground: Ground) -> None:
    ground.server.close()
    with pytest.raises(NetworkError, match="check the network"):
        ground.forge().reviews(1)


@pytest.mark.parametrize("act", ["propose", "comment", "status"])
def test_what_was_done_before_the_line_was_cut_is_not_done_twice(ground: Ground, act: str) -> None:
    commit = ground.push("runner", BRANCH)
    forge = ground.forge()
    number = 1
    if act != "propose":
        number = forge.propose(branch=BRANCH, base="main", title="T", body="b").number
    ground.server.faults.append(Fault("POST", after=True))
    if act == "propose":
        assert forge.propose(branch=BRANCH, base="main", title="T", body="b").number == 1
        ground.server.asked.clear()
        assert forge.propose(branch=BRANCH, base="main", title="T", body="b").number == 1
        assert ground.server.writes() == []
    elif act == "comment":
        forge.keep_comment(number, "k", "words")
        assert len(forge.comments(number)) == 1
    else:
        forge.report(commit, [DONE], branch=BRANCH)
        assert forge.statuses(commit) == (DONE,)
        assert len([w for w in ground.server.writes() if "statuses" in w]) == 1


def test_another_answer_than_the_forges_is_named(ground: Ground) -> None:
    for status, body in (
        (200, ["not what was asked for"]),
        (200, {"login": 7, "username": 7, "id": "x"}),
        (200, b"<html>"),
    ):
        ground.server.faults[:] = [Fault("", status, body=body)]
        with pytest.raises(ForgeError, match="not the forge's format") as told:
            ground.forge().me()
        assert "proxy" in told.value.hint
    for data in (
        b'{"id": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"login": "\\ud800", "username": "\\ud800", "id": 1e999}',
    ):
        ground.server.faults[:] = [Fault("", 200, body=data)]
        with pytest.raises(ForgeError, match="not the forge's format"):
            ground.forge().me()
    ground.server.faults[:] = [Fault("", 400, body=["an error that is no object"])]
    with pytest.raises(ForgeError):
        ground.forge().me()


def test_a_list_without_end_is_refused(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.forge.MOST_PAGES", 3)
    number = proposed(ground).number
    again = {"X-Next-Page": "2", "Link": f'<{ground.server.url}/x?page=2>; rel="next"'}
    ground.server.faults[:] = [Fault("GET", 200, again, [], times=9)]
    with pytest.raises(ForgeError, match="does not end"):
        ground.forge().comments(number)


def test_the_token_stands_nowhere(
    ground: Ground, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    seen: list[str] = []
    forge = ground.forge()
    request = proposed(ground)
    forge.keep_comment(request.number, "k", "words")
    forge.report(request.head, [DONE], branch=BRANCH)
    for fault in (
        Fault("", 401, body={"message": f"bad token {TOKEN}"}),
        Fault("", 403, body={"message": TOKEN}),
        Fault("", 404, body={"message": TOKEN}),
        Fault("", 422, body={"message": TOKEN, "errors": [{"message": TOKEN}]}),
        Fault("", 500, body={"message": TOKEN}, times=ATTEMPTS),
        Fault("", 200, body=TOKEN.encode()),
        Fault("", times=2 * ATTEMPTS),
    ):
        ground.server.faults[:] = [fault]
        with pytest.raises(ForgeError) as told:
            ground.forge().request(request.number)
        error: Any = told.value
        while error is not None:
            seen += [str(error), repr(error), repr(vars(error))]
            error = error.__cause__
    seen += [repr(forge), repr(request), caplog.text, *capfd.readouterr()]
    assert seen and not [text for text in seen if TOKEN in text]
