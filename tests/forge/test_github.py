"""What GitHub has otherwise than others. Against `emulate`: `make forge`."""

from __future__ import annotations

import pytest

from runner.forge import (
    Access,
    AccountKind,
    Identity,
    MergeMethod,
    RateLimitError,
    RequestRefusedError,
    ReviewState,
    ScopeMissingError,
    TokenRefusedError,
)
from tests.forge.github_front import HERE, Known
from tests.forge.grounds import START, TOKEN, GitHubGround
from tests.forge.serving import Fault

pytestmark = pytest.mark.peers
BRANCH = "0007-rate-limit"


def proposed(github: GitHubGround) -> int:
    github.push("runner", BRANCH)
    return github.forge().propose(branch=BRANCH, base="main", title="T", body="b").number


def test_a_dismissal_tells_what_it_ended_and_why(github: GitHubGround) -> None:
    number = proposed(github)
    github.approve("alice", number)
    github.request_changes("bob", number)
    github.approve("carol", number)
    alice, bob, _ = github.forge().reviews(number)
    assert not [each for each in github.server.asked if each.path.endswith("/events")]
    push = github.push("runner", BRANCH)
    github.dismiss("runner", number, int(alice.id), commit=push)
    github.dismiss("carol", number, int(bob.id))
    alice, bob, carol = github.forge().reviews(number)
    assert alice.state is ReviewState.APPROVED and alice.dismissed is not None and alice.dismissed.commit == push
    assert bob.state is ReviewState.CHANGES and bob.dismissed is not None
    assert (bob.dismissed.commit, bob.dismissed.by) == (None, github.identity("carol"))
    assert carol.dismissed is None


def test_a_dismissal_without_its_event_says_nothing_of_before(github: GitHubGround) -> None:
    number = proposed(github)
    github.approve("alice", number)
    (review,) = github.forge().reviews(number)
    github.dismiss("carol", number, int(review.id))
    github.front.events.clear()
    (review,) = github.forge().reviews(number)
    assert review.state is ReviewState.UNKNOWN and review.dismissed is not None


def test_a_thousand_reviews_come_in_pages(github: GitHubGround) -> None:
    number = proposed(github)
    for _ in range(1000):
        github.approve("alice", number)
    before = len(github.server.asked)
    assert len(github.forge().reviews(number)) == 1000
    assert len(github.server.asked) - before == 10


def test_the_token_of_an_app_knows_whose_it_is(github: GitHubGround) -> None:
    github.front.tokens["of-an-app"] = Known("machine", is_app=True)
    me = github.forge("of-an-app").me()
    assert me == github.identity("machine") and me.kind is AccountKind.BOT
    number = proposed(github)
    first = github.forge("of-an-app").keep_comment(number, "k", "one")
    assert github.forge("of-an-app").keep_comment(number, "k", "two").id == first.id


def test_where_drafts_are_not_to_be_had_an_open_request_is_made(github: GitHubGround) -> None:
    github.front.drafts_allowed = False
    number = proposed(github)
    assert not github.forge().request(number).draft
    assert github.forge().mark(number, draft=False).number == number
    assert not github.forge().mark(number, draft=True).draft  # and it is not told as something wrong


def test_what_cannot_be_proposed_is_told_in_githubs_words(github: GitHubGround) -> None:
    with pytest.raises(RequestRefusedError, match="GitHub refuses"):
        github.forge().propose(branch="never-pushed", base="main", title="T", body="b")


@pytest.mark.parametrize("lacks", ["pull_requests=write", "contents=write"])
def test_marking_ready_needs_both_of_its_rights(github: GitHubGround, lacks: str) -> None:
    number = proposed(github)
    rights = {"metadata=read", "pull_requests=write", "contents=write", "pull_requests=read"} - {lacks}
    github.front.tokens["lacks"] = Known("runner", rights)
    with pytest.raises(ScopeMissingError):
        github.forge("lacks").mark(number, draft=False)
    assert github.forge().request(number).draft


def test_a_secondary_limit_is_waited_out_and_told_apart_from_a_missing_right(github: GitHubGround) -> None:
    docs = "https://docs.github.com/free-pro-team@latest/rest/overview/rate-limits-for-the-rest-api#about-secondary-rate-limits"
    github.server.faults.append(
        Fault("", 403, {"Retry-After": "3"}, {"message": "You have exceeded a secondary rate limit"})
    )
    github.server.faults.append(
        Fault("", 403, {}, {"message": "You have exceeded a secondary rate limit", "documentation_url": docs})
    )
    assert github.forge().me() == github.identity("runner")
    assert github.hours.slept == [3.0, 60.0]
    number = proposed(github)
    github.server.faults.append(
        Fault("/graphql", 200, {}, {"errors": [{"type": "RATE_LIMITED", "message": "API rate limit exceeded"}]})
    )
    assert not github.forge().mark(number, draft=False).draft
    assert github.hours.slept == [3.0, 60.0, 60.0]
    github.server.faults.append(Fault("", 429, {"Retry-After": "3600"}))
    with pytest.raises(RateLimitError) as limited:
        github.forge().me()
    assert limited.value.retry_at == START + 123 + 3600
    github.server.faults.append(Fault("", 403, {"X-RateLimit-Remaining": "17"}, {"message": "Resource not accessible"}))
    with pytest.raises(ScopeMissingError):
        github.forge().membership(github.identity("alice"))


def test_a_bot_is_told(github: GitHubGround) -> None:
    number = proposed(github)
    github.approve("machine", number)
    (review,) = github.forge().reviews(number)
    assert review.by.kind is AccountKind.BOT


def test_who_wrote_a_commit_is_told_by_account(github: GitHubGround) -> None:
    github.push("alice", BRANCH)
    last = github.forge().commits(proposed(github))
    assert github.identity("alice") in {commit.author for commit in last}


def test_a_classic_protection_is_seen_by_an_administrator_only(github: GitHubGround) -> None:
    body = {
        "required_status_checks": {"strict": True, "contexts": ["runner/verify"]},
        "enforce_admins": True,
        "required_pull_request_reviews": {"dismiss_stale_reviews": True, "required_approving_review_count": 2},
        "restrictions": None,
    }
    github.emulated.done("owner", "PUT", f"{HERE}/branches/main/protection", body)
    github.front.tokens["of-the-owner"] = Known("owner", scopes="repo, workflow")
    whole = github.forge("of-the-owner").settings("main")
    assert (whole.access, whole.scopes) == (Access.ADMIN, ("repo", "workflow"))
    assert whole.methods == {MergeMethod.MERGE, MergeMethod.SQUASH, MergeMethod.REBASE}
    seen = whole.protection
    assert (seen.protected, seen.dismisses_stale) == (True, True)
    assert (seen.forced_pushes, seen.deletions, seen.linear, seen.required_checks) == (
        False,
        False,
        False,
        ("runner/verify",),
    )
    part = github.forge(github.read_only_token()).settings("main").protection
    assert (part.protected, part.required_checks) == (True, ("runner/verify",))
    assert (part.dismisses_stale, part.forced_pushes) == (None, None)


@pytest.mark.parametrize("exists", [True, False])
def test_a_request_of_a_fork_is_not_seen(github: GitHubGround, exists: bool) -> None:
    number = proposed(github)
    github.front.forks[number] = exists
    assert github.forge().request_of(BRANCH, "main") is None
    with pytest.raises(RequestRefusedError, match="comes from a fork"):
        github.forge().request(number)


def test_a_forced_push_is_told(github: GitHubGround) -> None:
    first = github.push("runner", BRANCH)
    github.front.pushed("alice", BRANCH, first, "f" * 40, forced=True)
    forced, made = github.forge().pushes(BRANCH)
    assert (forced.by, forced.after, made.after) == (github.identity("alice"), "f" * 40, first)


def test_the_shop_is_found_after_it_moved(github: GitHubGround) -> None:
    path = "/api/v3/repos/owner/shop/pulls"
    github.server.faults.append(
        Fault(f"GET {path}", 301, {"Location": f"{github.front.url}{path}?state=all&per_page=100"})
    )
    assert github.forge().request_of(BRANCH, "main") is None


def test_a_redirect_to_another_host_is_refused_and_the_token_stays(github: GitHubGround) -> None:
    github.server.faults.append(Fault("", 301, {"Location": "http://127.0.0.1:9/elsewhere"}))
    with pytest.raises(RequestRefusedError, match="redirects elsewhere") as told:
        github.forge().me()
    assert TOKEN not in str(told.value)


def test_a_token_that_has_expired_is_refused(github: GitHubGround) -> None:
    del github.front.tokens[TOKEN]
    with pytest.raises(TokenRefusedError, match="Bad credentials"):
        github.forge().membership(Identity(host="x", id=1, login="alice"))
