"""What GitLab has otherwise than others."""

from __future__ import annotations

import pytest

from runner.forge import (
    Access,
    CheckOutcome,
    MalformedAnswerError,
    MergeMethod,
    RequestRefusedError,
    ReviewState,
    Status,
    StatusState,
)
from runner.forge.gitlab import plain
from tests.forge.gitlab_fake import PATH, like
from tests.forge.gitlab_fake import PROTECTED as PROTECTED
from tests.forge.grounds import TOKEN, GitLabGround

BRANCH = "0007-rate-limit"


def proposed(gitlab: GitLabGround) -> int:
    gitlab.push("runner", BRANCH)
    return gitlab.forge().propose(branch=BRANCH, base="main", title="T", body="b").number


@pytest.mark.parametrize("act", ["/merge", "  /approve", "text\n/close", "text\r\n/assign @x"])
def test_no_text_of_ours_is_carried_out(gitlab: GitLabGround, act: str) -> None:
    number = proposed(gitlab)
    forge = gitlab.forge()
    request = forge.propose(branch=BRANCH, base="main", title="T", body=act)
    comment = forge.keep_comment(number, "k", act)
    assert "\\/" in request.body and "\\/" in comment.body
    written = len(gitlab.server.writes())
    forge.propose(branch=BRANCH, base="main", title="T", body=act)
    forge.keep_comment(number, "k", act)
    assert len(gitlab.server.writes()) == written


def test_what_is_no_quick_action_stays() -> None:
    text = "see src/a.py\n//comment\n- /x\n/1 of 2"
    assert plain(text) == text


@pytest.mark.parametrize("tells", [True, False])
def test_an_approval_is_of_the_version_that_stood_when_it_was_given(gitlab: GitLabGround, tells: bool) -> None:
    gitlab.fake.tells_approved_at = tells
    number = proposed(gitlab)
    first = gitlab.push("runner", BRANCH)
    gitlab.approve("alice", number)
    gitlab.push("runner", BRANCH)
    (review,) = gitlab.forge().reviews(number)
    assert (review.commit, review.state) == (first, ReviewState.APPROVED)
    assert any("/events" in each.path for each in gitlab.server.asked) is not tells


def test_a_time_without_a_zone_is_none(gitlab: GitLabGround) -> None:
    number = proposed(gitlab)
    gitlab.approve("alice", number)
    gitlab.fake.requests[number].approved[gitlab.accounts["alice"].id] = "2026-11-20T09:00:00"
    with pytest.raises(MalformedAnswerError, match="is no time"):
        gitlab.forge().reviews(number)


def test_an_approval_given_again_is_of_the_later_version(gitlab: GitLabGround) -> None:
    gitlab.fake.tells_approved_at = False
    number = proposed(gitlab)
    gitlab.approve("alice", number)
    gitlab.fake.unapprove(gitlab.accounts["alice"], number)
    head = gitlab.push("runner", BRANCH)
    gitlab.approve("alice", number)
    (review,) = gitlab.forge().reviews(number)
    assert review.commit == head


def test_an_approval_that_gitlab_took_back_is_gone(gitlab: GitLabGround) -> None:
    gitlab.fake.resets_approvals = True
    number = proposed(gitlab)
    gitlab.approve("alice", number)
    gitlab.push("runner", BRANCH)
    assert gitlab.forge().reviews(number) == ()


def test_of_a_request_for_changes_no_commit_is_told(gitlab: GitLabGround) -> None:
    number = proposed(gitlab)
    gitlab.request_changes("bob", number)
    (review,) = gitlab.forge().reviews(number)
    assert (review.state, review.commit, review.by) == (ReviewState.CHANGES, None, gitlab.identity("bob"))


def test_a_thousand_reviewers_come_in_pages(gitlab: GitLabGround) -> None:
    number = proposed(gitlab)
    for who in range(1000):
        account = gitlab.fake.account(f"reviewer-{who}")
        (gitlab.fake.approve if who % 2 else gitlab.fake.request_changes)(account, number)
    reviews = gitlab.forge().reviews(number)
    assert [
        len([one for one in reviews if one.state is said]) for said in (ReviewState.APPROVED, ReviewState.CHANGES)
    ] == [500, 500]


def test_what_gitlab_itself_notes_is_no_comment(gitlab: GitLabGround) -> None:
    number = proposed(gitlab)
    gitlab.fake.system_note(gitlab.accounts["alice"], number, "approved this merge request")
    assert gitlab.forge().comments(number) == ()


def test_a_pending_status_keeps_its_text_and_then_ends(gitlab: GitLabGround) -> None:
    commit = gitlab.push("runner", BRANCH)
    forge = gitlab.forge()

    def status(state: StatusState, text: str) -> Status:
        return Status(context="runner/step", state=state, text=text)

    pending = status(StatusState.PENDING, "1 of 3")
    forge.report(commit, [pending], branch=BRANCH)
    assert forge.report(commit, [status(StatusState.PENDING, "2 of 3")], branch=BRANCH) == ()
    assert forge.statuses(commit) == (pending,)
    failed = status(StatusState.FAILURE, "failed")
    assert forge.report(commit, [failed], branch=BRANCH) == (failed,)
    assert forge.report(commit, [pending], branch=BRANCH) == (pending,)
    assert forge.statuses(commit) == (pending,)


def test_our_pending_status_does_not_hold_ci_up(gitlab: GitLabGround) -> None:
    commit = gitlab.push("runner", BRANCH)
    gitlab.fake.pipeline(commit, "running")
    gitlab.ci(commit, "test", CheckOutcome.SUCCESS)
    gitlab.fake.job(commit, "flaky", "failed", allow_failure=True)
    gitlab.forge().report(commit, [Status(context="runner/qa", state=StatusState.PENDING, text="waits")], branch=BRANCH)
    assert {check.outcome for check in gitlab.forge().checks(commit)} == {CheckOutcome.SUCCESS, CheckOutcome.NEUTRAL}


def test_a_pipeline_that_failed_before_it_had_jobs_is_a_failure(gitlab: GitLabGround) -> None:
    commit = gitlab.push("runner", BRANCH)
    gitlab.fake.pipeline(commit, "failed")
    assert [check.outcome for check in gitlab.forge().checks(commit)] == [CheckOutcome.FAILURE]


def test_a_request_of_a_fork_is_not_seen(gitlab: GitLabGround) -> None:
    number = proposed(gitlab)
    gitlab.fake.requests[number].value["source_project_id"] = 99
    assert gitlab.forge().request_of(BRANCH, "main") is None
    with pytest.raises(RequestRefusedError, match="comes from a fork"):
        gitlab.forge().request(number)


def test_who_is_blocked_may_do_nothing(gitlab: GitLabGround) -> None:
    gitlab.accounts["alice"].state = "blocked"
    assert gitlab.forge().membership(gitlab.identity("alice")).access is Access.NONE


def test_who_is_no_member_may_do_nothing(gitlab: GitLabGround) -> None:
    gitlab.accounts["alice"].level = 0
    assert gitlab.forge().membership(gitlab.identity("alice")).access is Access.NONE


def test_a_push_of_many_branches_may_have_been_to_this_one(gitlab: GitLabGround) -> None:
    gitlab.push("alice", "other")
    gitlab.fake.events[-1]["push_data"] |= {"ref": None, "commit_from": None, "commit_to": None}
    (push,) = gitlab.forge().pushes(BRANCH)
    assert (push.by, push.before, push.after) == (gitlab.identity("alice"), None, None)


@pytest.mark.parametrize(
    ("method", "squash", "methods"),
    [
        ("merge", "default_off", {MergeMethod.MERGE, MergeMethod.SQUASH}),
        ("merge", "always", {MergeMethod.SQUASH}),
        ("merge", "never", {MergeMethod.MERGE}),
        ("ff", "never", {MergeMethod.FAST_FORWARD}),
    ],
)
def test_how_it_may_be_merged(gitlab: GitLabGround, method: str, squash: str, methods: set[MergeMethod]) -> None:
    gitlab.fake.project |= {"merge_method": method, "squash_option": squash}
    assert gitlab.forge().settings("main").methods == methods


def test_a_protected_branch_may_be_named_by_a_wildcard_and_need_not_be_seen(gitlab: GitLabGround) -> None:
    gitlab.fake.protected.append(like(PROTECTED, name="rel*"))
    assert gitlab.forge().settings("release-1").protection.protected is True
    assert gitlab.forge().settings("main").protection.protected is False
    gitlab.accounts["runner"].level = 30
    settings = gitlab.forge().settings("main")
    assert (settings.protection.protected, settings.access, settings.scopes) == (None, Access.WRITE, ("api",))


def test_the_fake_refuses_what_is_not_listed(gitlab: GitLabGround) -> None:
    import requests

    headers = {"PRIVATE-TOKEN": TOKEN}
    project = f"{gitlab.fake.url}/api/v4/projects/{PATH.replace('/', '%2F')}"
    number = proposed(gitlab)
    assert requests.get(f"{project}/merge_requests?stat=all", headers=headers).status_code == 400
    assert (
        requests.post(f"{project}/merge_requests/{number}/notes", headers=headers, json={"text": "x"}).status_code
        == 400
    )
    assert requests.get(f"{project}/issues", headers=headers).status_code == 404
