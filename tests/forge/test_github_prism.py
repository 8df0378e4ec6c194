"""Each request of the adapter against GitHub's own REST description, under Prism, and its examples read: `make forge`."""

from __future__ import annotations

from typing import Any

import pytest

from runner.forge import Access, Identity, RequestState, Status, StatusState, Token
from runner.forge.github import GitHub
from runner.forge.registry import configured
from tests.forge.github_front import ROUTES
from tests.forge.grounds import TOKEN, Hours
from tests.forge.prism import OID, Prism

pytestmark = [pytest.mark.peers, pytest.mark.timeout(600)]  # Prism takes a minute to start where the machine is busy


def test_each_request_is_as_github_describes_it_and_its_examples_are_read(prism: Prism) -> None:
    place = configured(f"github {prism.url}/owner/shop", None)
    assert place is not None
    forge = GitHub(place, Token(TOKEN, "RUNNER_FORGE_TOKEN"), Hours().now, write_pause=0)

    me = forge.me()
    assert (me.login, me.id) == ("octocat", 1)
    there = forge.request_of("new-topic", "master")
    assert there is not None and there.state is RequestState.OPEN and there.branch == "new-topic"
    assert forge.propose(branch="new-topic", base="master", title="T", body="b").number == there.number
    assert forge.propose(branch="not-there-yet", base="main", title="T", body="b").state is RequestState.OPEN
    assert forge.mark(there.number, draft=False).number == there.number
    (comment,) = forge.comments(1)
    assert comment.by == me
    assert forge.keep_comment(1, "k", "words").id == comment.id
    # The example is a comment of ours: with the marker it is edited.
    forge.comments = lambda number: (type(comment)(**{**_values(comment), "body": "<!-- runner: k -->\nold"}),)  # type: ignore[method-assign]
    forge.keep_comment(1, "k", "words")
    status = Status(context="runner/step", state=StatusState.PENDING, text="waits", url="https://example.test/1")
    assert forge.report(OID, [status], branch="b") == (status,)
    assert forge.checks(OID)
    assert forge.is_over(f"{prism.url}/owner/shop/actions/runs/30433642") in (True, False)
    assert forge.reviews(1)
    assert forge.pushes("new-topic")
    assert forge.commits(1)
    assert forge.membership(Identity(host=place.host, id=1, login="")).access is Access.ADMIN
    settings = forge.settings("main")
    assert settings.default_branch and settings.protection.protected
    list(forge._client.pages(f"{forge._repo}/issues/1/events", {}))
    forge._client.one(f"{forge._repo}/issues/1")

    assert prism.objections == []
    asked = {f"{each.method} {each.path.removeprefix('/api/v3')}" for each in prism.asked}
    missed = [
        f"{m} {p.pattern}"
        for m, p, _ in ROUTES
        if not any(p.fullmatch(a.split(" ")[1]) and a.startswith(f"{m} ") for a in asked)
    ]
    assert missed == ["POST /graphql"]


def test_prism_would_object(prism: Prism) -> None:
    place = configured(f"github {prism.url}/owner/shop", None)
    assert place is not None
    forge = GitHub(place, Token(TOKEN, "RUNNER_FORGE_TOKEN"), Hours().now, write_pause=0)
    before = list(prism.objections)
    for body in ({"title": "no head"}, {"title": "T", "head": "h", "base": "b", "reviewer": "x"}):
        with pytest.raises(Exception, match="GitHub refuses"):
            forge._client.write("POST", f"{forge._repo}/pulls", body)
    forge._client.send("GET", f"{forge._repo}/pulls", query={"branch": "x"})
    told = prism.objections[len(before) :]
    prism.objections[:] = before
    assert len(told) == 3 and "no parameters ['branch']" in told[2]


def _values(comment: Any) -> dict[str, Any]:
    return {name: getattr(comment, name) for name in ("id", "by", "body", "url", "time", "edited")}
