"""A forge to try the adapter on, in the words of what people do there: one for GitHub, one for GitLab, one suite for both."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

from runner.forge import CheckOutcome, Forge, ForgeProject, Identity, Token
from runner.forge.github import GitHub
from runner.forge.gitlab import GitLab
from runner.forge.registry import configured
from runner.forge.retry import Retrying
from tests.forge.github_front import HERE, REPO, GitHubFront, Known, emulated
from tests.forge.gitlab_fake import PATH, Account, GitLabFake, like
from tests.forge.gitlab_fake import PROTECTED as GITLAB_PROTECTED
from tests.forge.serving import Server

TOKEN = "canary-3f9c1d7e5b8a4260"  # of the runner's own account
START = 1_795_000_000.0
PEOPLE = (
    "runner",
    "alice",
    "bob",
    "carol",
    "machine",
    "guest",
)  # carol may write, machine is a bot, guest may only read


@dataclass(slots=True)
class Hours:
    """A clock that only moves when somebody sleeps."""

    time: float = START
    slept: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        """Sleep at once."""
        self.slept.append(seconds)
        self.time += seconds

    def now(self) -> float:
        """Seconds since the epoch."""
        return self.time


class MergeRefusedError(Exception):
    """The forge does not merge: a check that it requires is not green."""


class Ground(Protocol):
    """What people do on a forge. Numbers are requests'; `who` is one of PEOPLE."""

    name: str
    server: Server
    hours: Hours
    place: ForgeProject

    def forge(self, token: str = TOKEN) -> Forge: ...
    def identity(self, who: str) -> Identity: ...
    def push(self, who: str, branch: str) -> str: ...
    def delete_branch(self, who: str, branch: str) -> None: ...
    def approve(self, who: str, number: int) -> None: ...
    def request_changes(self, who: str, number: int) -> None: ...
    def comment(self, who: str, number: int, body: str) -> int: ...
    def edit_comment(self, who: str, number: int, comment: int, body: str) -> None: ...
    def close_request(self, who: str, number: int) -> None: ...
    def merge(self, who: str, number: int) -> str: ...
    def ci(self, commit: str, name: str, outcome: CheckOutcome) -> None: ...
    def job(self, *, over: bool) -> str: ...
    def foreign_status(self, commit: str, context: str, text: str) -> None: ...
    def rename(self, who: str, login: str) -> None: ...
    def protect(self) -> None: ...
    def read_only_token(self) -> str: ...
    def limit(self, seconds: int) -> None: ...


class GitLabGround:
    """A fresh fake."""

    name = "gitlab"

    def __init__(self) -> None:
        self.server = self.fake = GitLabFake()
        self.hours = Hours()
        found = configured(f"gitlab {self.fake.url}/{PATH}", None)
        assert found is not None
        self.place = found
        self.accounts: dict[str, Account] = {
            who: self.fake.account(
                who, bot=who in ("runner", "machine"), level=10 if who == "guest" else 40 if who == "runner" else 30
            )
            for who in PEOPLE
        }
        self.fake.tokens[TOKEN] = (self.accounts["runner"].id, ["api"])

    def forge(self, token: str = TOKEN) -> Forge:
        adapter = GitLab(self.place, Token(token, "RUNNER_FORGE_TOKEN"), self.hours.now)
        return cast(Forge, Retrying(adapter, self.hours.now, self.hours.sleep))

    def identity(self, who: str) -> Identity:
        account = self.accounts[who]
        return Identity(host=self.place.host, id=account.id, login=account.username)

    def push(self, who: str, branch: str) -> str:
        return self.fake.push(self.accounts[who], branch)

    def delete_branch(self, who: str, branch: str) -> None:
        self.fake.delete_branch(self.accounts[who], branch)

    def approve(self, who: str, number: int) -> None:
        self.fake.approve(self.accounts[who], number)

    def request_changes(self, who: str, number: int) -> None:
        self.fake.request_changes(self.accounts[who], number)

    def comment(self, who: str, number: int, body: str) -> int:
        return self.fake.comment(self.accounts[who], number, body)

    def edit_comment(self, who: str, number: int, comment: int, body: str) -> None:
        self.fake.edit_comment(number, comment, body)

    def close_request(self, who: str, number: int) -> None:
        self.fake.close_request(self.accounts[who], number)

    def merge(self, who: str, number: int) -> str:
        sha = self.fake.requests[number].value["sha"]
        there = [one for one in self.fake.statuses if one["sha"] == sha and one["id"] not in self.fake.retried]
        red = [one["name"] for one in there if one["status"] != "success" and not one["allow_failure"]]
        if self.fake.project["only_allow_merge_if_pipeline_succeeds"] and (red or not there):
            raise MergeRefusedError(red)
        return self.fake.merge(self.accounts[who], number)

    def ci(self, commit: str, name: str, outcome: CheckOutcome) -> None:
        words = {
            CheckOutcome.SUCCESS: "success",
            CheckOutcome.FAILURE: "failed",
            CheckOutcome.PENDING: "running",
            CheckOutcome.CANCELLED: "canceled",
        }
        self.fake.job(commit, name, words[outcome])

    def job(self, *, over: bool) -> str:
        return self.fake.ci_job("canceled" if over else "running")

    def foreign_status(self, commit: str, context: str, text: str) -> None:
        self.fake.job(commit, context, "success")
        self.fake.statuses[-1]["description"] = text

    def rename(self, who: str, login: str) -> None:
        self.accounts[who].username = login

    def protect(self) -> None:
        self.fake.protected.append(like(GITLAB_PROTECTED, name="main"))
        self.fake.project |= {"only_allow_merge_if_pipeline_succeeds": True}
        self.fake.project_approvals = {
            "reset_approvals_on_push": True,
            "merge_requests_disable_committers_approval": True,
        }

    def read_only_token(self) -> str:
        self.fake.tokens["reads-only"] = (self.accounts["runner"].id, ["read_api"])
        return "reads-only"

    def limit(self, seconds: int) -> None:
        self.fail(429, {"Retry-After": str(seconds), "RateLimit-Reset": str(int(START) + seconds)})

    def fail(self, status: int, headers: dict[str, str]) -> None:
        from tests.forge.serving import Fault

        self.fake.faults.append(Fault("", status, headers))


class GitHubGround:
    """emulate, started for this one, with the front before it."""

    name = "github"

    def __init__(self, front: GitHubFront) -> None:
        self.server = self.front = front
        self.emulated = front.emulated
        self.hours = Hours()
        found = configured(f"github {front.url}/{REPO}", None)
        assert found is not None
        self.place = found
        for who in PEOPLE:
            role = "pull" if who == "guest" else "push"
            self.emulated.done("owner", "PUT", f"{HERE}/collaborators/{who}", {"permission": role})
        self.logins = {who: who for who in PEOPLE}
        self.ids = {who: int(self.emulated.done("owner", "GET", f"/users/{who}")["id"]) for who in PEOPLE}
        front.bots |= {self.ids["machine"], self.ids["runner"]}
        front.tokens[TOKEN] = Known("runner")
        self._files = itertools.count()

    def forge(self, token: str = TOKEN) -> Forge:
        adapter = GitHub(self.place, Token(token, "RUNNER_FORGE_TOKEN"), self.hours.now, write_pause=0)
        return cast(Forge, Retrying(adapter, self.hours.now, self.hours.sleep))

    def identity(self, who: str) -> Identity:
        return Identity(host=self.place.host, id=self.ids[who], login=self.logins[who])

    def push(self, who: str, branch: str) -> str:
        before = self.front.tips.get(branch)
        if before is None:
            main = self.emulated.done("owner", "GET", f"{HERE}/branches/main")["commit"]["sha"]
            self.emulated.done("owner", "POST", f"{HERE}/git/refs", {"ref": f"refs/heads/{branch}", "sha": main})
        body = {"message": "work", "content": "YQ==", "branch": branch}
        done = self.emulated.done(who, "PUT", f"{HERE}/contents/file-{next(self._files)}.txt", body)
        after = str(done["commit"]["sha"])
        self.front.pushed(who, branch, before, after)
        return after

    def delete_branch(self, who: str, branch: str) -> None:
        self.emulated.done("owner", "DELETE", f"{HERE}/git/refs/heads/{branch}")
        self.front.pushed(who, branch, self.front.tips[branch], None)

    def _review(self, who: str, number: int, event: str) -> int:
        pull = self.emulated.done("owner", "GET", f"{HERE}/pulls/{number}")
        head = self.front.tips.get(pull["head"]["ref"], pull["head"]["sha"])
        body = {"event": event, "body": "words", "commit_id": head}
        return int(self.emulated.done(who, "POST", f"{HERE}/pulls/{number}/reviews", body)["id"])

    def approve(self, who: str, number: int) -> None:
        self._review(who, number, "APPROVE")

    def request_changes(self, who: str, number: int) -> None:
        self._review(who, number, "REQUEST_CHANGES")

    def dismiss(self, by: str, number: int, review: int, *, commit: str | None = None) -> None:
        """Dismiss a review; `commit`: as the forge itself does at a push."""
        path = f"{HERE}/pulls/{number}/reviews/{review}"
        state = self.emulated.done("owner", "GET", path)["state"].lower()
        self.emulated.done("owner", "PUT", f"{path}/dismissals", {"message": "stale"})
        self.front.dismissed(number, review, state, by, commit)

    def comment(self, who: str, number: int, body: str) -> int:
        return int(self.emulated.done(who, "POST", f"{HERE}/issues/{number}/comments", {"body": body})["id"])

    def edit_comment(self, who: str, number: int, comment: int, body: str) -> None:
        self.emulated.done("owner", "PATCH", f"{HERE}/issues/comments/{comment}", {"body": body})
        self.front.edited.add(comment)

    def close_request(self, who: str, number: int) -> None:
        self.emulated.done("owner", "PATCH", f"{HERE}/pulls/{number}", {"state": "closed"})
        self.front.closed_by[number] = who

    def merge(self, who: str, number: int) -> str:
        sha = self.forge().request(number).head
        green = {one["context"]: one["state"] == "success" for one in self.front.statuses if one["sha"] == sha}
        wanted = [rule["parameters"] for rule in self.front.rules if rule["type"] == "required_status_checks"]
        names = [one["context"] for rule in wanted for one in rule["required_status_checks"]]
        if red := [name for name in names if not green.get(name)]:
            raise MergeRefusedError(red)
        return str(self.emulated.done(who, "PUT", f"{HERE}/pulls/{number}/merge", {})["sha"])

    def ci(self, commit: str, name: str, outcome: CheckOutcome) -> None:
        body = {"name": name, "head_sha": commit, "status": "in_progress"}
        if outcome is not CheckOutcome.PENDING:
            body |= {"status": "completed", "conclusion": outcome.value}
        self.front.runs.append(self.emulated.done("owner", "POST", f"{HERE}/check-runs", body))

    def job(self, *, over: bool) -> str:
        number = len(self.front.jobs) + 1
        self.front.jobs[number] = "completed" if over else "in_progress"
        return f"{self.front.url}/{REPO}/actions/runs/{number}"

    def foreign_status(self, commit: str, context: str, text: str) -> None:
        status = {"sha": commit, "state": "success", "context": context, "description": text, "target_url": None}
        self.front.statuses.append(status)

    def rename(self, who: str, login: str) -> None:
        self.front.renamed[who] = self.logins[who] = login

    def protect(self) -> None:
        self.front.rules += [
            {"type": "deletion"},
            {"type": "non_fast_forward"},
            {
                "type": "pull_request",
                "parameters": {
                    "required_approving_review_count": 1, "dismiss_stale_reviews_on_push": True,
                    "require_last_push_approval": True, "require_code_owner_review": False,
                },
            },
            {"type": "required_status_checks", "parameters": {"required_status_checks": [{"context": "runner/verify"}]}},
        ]  # fmt: skip

    def read_only_token(self) -> str:
        rights = {"metadata=read", "pull_requests=read", "statuses=read", "contents=read", "checks=read"}
        self.front.tokens["reads-only"] = Known("runner", rights)
        return "reads-only"

    def limit(self, seconds: int) -> None:
        from tests.forge.serving import Fault

        headers = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(START) + seconds)}
        body = {"message": "API rate limit exceeded for user ID 1."}
        self.front.faults.append(Fault("", 403, headers, body))


@contextmanager
def gitlab_ground() -> Iterator[GitLabGround]:
    """A GitLab."""
    ground = GitLabGround()
    try:
        yield ground
    finally:
        ground.fake.close()


@contextmanager
def github_ground(folder: Path) -> Iterator[GitHubGround]:
    """A GitHub."""
    with emulated(folder, ["owner", *PEOPLE]) as running:
        front = GitHubFront(running)
        try:
            yield GitHubGround(front)
        finally:
            front.close()
