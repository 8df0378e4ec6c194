"""What stands between the adapter and `emulate`, npm's stateful GitHub: it adds what that lacks and is stricter than it.

Added, as GitHub's REST description (npm `@octokit/openapi`) has it: commit statuses, the activity of a repository, rules of
a branch, events of a request (dismissals), who closed it, the two GraphQL questions that the adapter asks. Mended: a
request's head follows its branch, roles have GitHub's names, commits have accounts, bots and renamed people are told.
Stricter: unknown tokens are refused, rights are asked for, and so is a path that is not listed. Whether each request has the
shape that GitHub wants is Prism's to say (test_github_prism.py).
"""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlencode

from tests.forge.serving import Answer, Asked, Server, paged

REPO = "owner/shop"
HERE = f"/repos/{REPO}"
ZERO = "0" * 40
NODE_FOLDER = Path(__file__).parents[2] / "build/forge/node_modules"
ROLES = {"push": "write", "maintain": "write", "pull": "read", "triage": "read"}

# What may be asked, and the right that it needs (the header X-Accepted-GitHub-Permissions of GitHub's own answers).
ROUTES = [
    (method, re.compile(pattern.replace("REPO", HERE)), right)
    for method, pattern, right in [
        ("GET", r"/user", ""),
        ("GET", r"/user/\d+", ""),
        ("GET", r"REPO", "metadata=read"),
        ("GET", r"REPO/collaborators/[^/]+/permission", "metadata=read"),
        ("GET", r"REPO/pulls", "pull_requests=read"),
        ("POST", r"REPO/pulls", "pull_requests=write"),
        ("GET", r"REPO/pulls/\d+", "pull_requests=read"),
        ("PATCH", r"REPO/pulls/\d+", "pull_requests=write"),
        ("GET", r"REPO/pulls/\d+/(reviews|commits)", "pull_requests=read"),
        ("GET", r"REPO/issues/\d+", "pull_requests=read"),
        ("GET", r"REPO/issues/\d+/(comments|events)", "pull_requests=read"),
        ("POST", r"REPO/issues/\d+/comments", "pull_requests=write"),
        ("PATCH", r"REPO/issues/comments/\d+", "pull_requests=write"),
        ("GET", r"REPO/commits/[0-9a-f]{40}/status", "statuses=read"),
        ("POST", r"REPO/statuses/[0-9a-f]{40}", "statuses=write"),
        ("GET", r"REPO/commits/[0-9a-f]{40}/check-runs", "checks=read"),
        ("GET", r"REPO/activity", "contents=read"),
        ("GET", r"REPO/actions/runs/\d+", "actions=read"),
        ("GET", r"REPO/branches/[^/]+", "contents=read"),
        ("GET", r"REPO/branches/[^/]+/protection", "administration=read"),
        ("GET", r"REPO/rules/branches/[^/]+", "metadata=read"),
        ("POST", r"/graphql", ""),
    ]
]
# Whether it is then a draft. https://docs.github.com/en/graphql/reference/mutations#convertpullrequesttodraft
MARKS = {
    f"mutation ($id: ID!) {{ {act}(input: {{pullRequestId: $id}}) {{ pullRequest {{ isDraft }} }} }}": (act, draft)
    for act, draft in (("markPullRequestReadyForReview", False), ("convertPullRequestToDraft", True))
}
# Both, as cli/cli discussion 6924 and argoproj/argo-workflows 16639 found.
MARK_RIGHTS = {"pull_requests=write", "contents=write"}
VIEWER = "query { viewer { login databaseId } }"


class Emulated:
    """A running `emulate` and the people whom it knows."""

    def __init__(self, folder: Path, logins: list[str]) -> None:
        self.port, self.logins = _free_port(), logins
        seed = folder / "seed.yaml"
        seed.write_text(
            json.dumps(
                {
                    "tokens": {f"t-{login}": {"login": login, "scopes": ["repo"]} for login in logins},
                    "github": {
                        "users": [{"login": n, "name": n, "email": f"{n}@example.test"} for n in logins],
                        "repos": [{"owner": "owner", "name": "shop", "auto_init": True}],
                    },
                }
            )
        )
        argv: list[str | Path] = [
            NODE_FOLDER / "node/bin/node", NODE_FOLDER / "emulate/dist/index.js", "start",
            "--service", "github", "--port", str(self.port), "--seed", seed,
        ]  # fmt: skip
        self.log = (folder / "emulate.log").open("wb")
        self.process = subprocess.Popen(argv, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL, cwd=folder)
        deadline = time.monotonic() + 100
        while True:
            try:
                self.ask("owner", "GET", "/user")
                return
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    self.close()
                    raise AssertionError((folder / "emulate.log").read_text()) from None
                time.sleep(0.05)

    def ask(self, login: str, method: str, path: str, body: Any = None) -> tuple[int, dict[str, str], Any]:
        """Ask as somebody."""
        line = http.client.HTTPConnection("localhost", self.port, timeout=20)
        try:
            data = None if body is None else json.dumps(body).encode()
            line.request(method, path, data, {"Authorization": f"token t-{login}", "Content-Type": "application/json"})
            answer = line.getresponse()
            text = answer.read()
            return answer.status, {k.title(): v for k, v in answer.getheaders()}, json.loads(text) if text else None
        finally:
            line.close()

    def done(self, login: str, method: str, path: str, body: Any = None) -> Any:
        """Ask as somebody, and it works."""
        status, _, value = self.ask(login, method, path, body)
        assert status < 300, f"{method} {path}: {status} {value}"
        return value

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        self.log.close()


@dataclass(slots=True)
class Known:
    """A token: whose it is and what it may do. `is_app`: it has no /user, as GITHUB_TOKEN."""

    login: str
    rights: set[str] = field(default_factory=set)
    is_app: bool = False
    scopes: str | None = None  # of a classic token


class GitHubFront(Server):
    """The GitHub that the adapter sees, at /api/v3."""

    def __init__(self, emulated: Emulated) -> None:
        super().__init__()
        self.emulated = emulated
        self.tokens: dict[str, Known] = {}
        self.bots: set[int] = set()
        self.renamed: dict[str, str] = {}  # from what emulate calls them to what they are called now
        self.logins = emulated.logins
        self.ids: dict[str, int] = {}
        self.edited: set[int] = set()  # comments
        self.tips: dict[str, str] = {}
        self.closed_by: dict[int, str] = {}
        self.statuses: list[dict[str, Any]] = []
        self.runs: list[dict[str, Any]] = []
        self.has_commit: Callable[[str], bool] = lambda oid: False  # beside those that emulate has
        self.activity: list[dict[str, Any]] = []
        self.events: dict[int, list[dict[str, Any]]] = {}
        self.rules: list[dict[str, Any]] = []
        self.jobs: dict[int, str] = {}  # runs of Actions: their status
        self.drafts_allowed = True
        self.forks: dict[int, bool] = {}  # requests that come from a fork: whether that still exists

    def handle(self, asked: Asked) -> Answer:
        """Answer as GitHub does: who, then whether that may be asked, then what."""
        known = self.tokens.get(asked.token)
        if known is None:
            return Answer(
                401,
                {"message": "Bad credentials", "documentation_url": "https://docs.github.com/rest", "status": "401"},
            )
        path = (
            asked.path.removeprefix("/api/v3") if asked.path.startswith("/api/v3/") else asked.path.removeprefix("/api")
        )
        right = next(
            (
                r
                for m, p, r in ROUTES
                if m == asked.method and p.fullmatch(unquote(path) if "/branches/" not in path else path)
            ),
            None,
        )
        if right is None:
            return _not_found()
        name = right.partition("=")[0]
        if (right and known.rights and not {right, f"{name}=write"} & known.rights) or (
            known.is_app and path == "/user"
        ):
            body = {
                "message": "Resource not accessible by personal access token",
                "documentation_url": "https://docs.github.com/rest",
                "status": "403",
            }
            return Answer(403, body, {"X-Accepted-GitHub-Permissions": right or "users=read"})
        answer = self._own(asked, path, known) or self._theirs(asked, path, known)
        headers = {} if known.scopes is None else {"X-OAuth-Scopes": known.scopes}
        return Answer(answer.status, self._mended(answer.body), {**answer.headers, **headers})

    def _theirs(self, asked: Asked, path: str, known: Known) -> Answer:
        for theirs, today in self.renamed.items():
            path = path.replace(f"/collaborators/{today}/", f"/collaborators/{theirs}/")
        if asked.method == "POST" and path.endswith("/pulls") and asked.body.get("draft") and not self.drafts_allowed:
            words = "Draft pull requests are not supported in this repository."
            return Answer(422, {"message": "Validation Failed", "errors": [{"message": words}]})
        if asked.method == "POST" and path.endswith("/pulls") and asked.body["head"] not in self.tips:
            return Answer(422, {"message": "Validation Failed", "errors": [{"field": "head", "code": "invalid"}]})
        query = f"?{urlencode(asked.query)}" if asked.query else ""
        status, headers, value = self.emulated.ask(known.login, asked.method, path + query, asked.body)
        if asked.method == "PATCH" and "/issues/comments/" in path and status < 300:
            self.edited.add(int(path.rpartition("/")[2]))
        kept: dict[str, str] = {
            key: headers[key] for key in ("Link", "X-Ratelimit-Remaining", "X-Ratelimit-Reset") if key in headers
        }
        if path.endswith("/permission") and status == 200:
            value["permission"] = ROLES.get(value["permission"], value["permission"])
        if re.fullmatch(rf"{HERE}/pulls(/\d+)?", path) and status < 300:
            for each in value if isinstance(value, list) else [value]:
                if each["number"] in self.forks:
                    each["head"]["repo"] = {**each["head"]["repo"], "id": 4711} if self.forks[each["number"]] else None
                if each["state"] == "open":
                    each["head"]["sha"] = self.tips.get(each["head"]["ref"], each["head"]["sha"])
        if path.endswith("/commits") and status == 200:
            for each in value:
                for key in ("author", "committer"):
                    each[key] = self._account(each["commit"][key]["email"].partition("@")[0])
        return Answer(status, value, kept)

    def _own(self, asked: Asked, path: str, known: Known) -> Answer | None:
        if path == "/graphql":
            return self._graphql(asked.body, known)
        if found := re.fullmatch(r"/user/(\d+)", path):
            login = next((login for login in self.logins if self._account(login)["id"] == int(found[1])), None)
            return Answer(200, self._account(login)) if login else _not_found()
        if path.startswith(f"{HERE}/rules/branches/"):
            return paged(asked, self.rules)
        found = re.fullmatch(rf"{HERE}/commits/([0-9a-f]{{40}})/check-runs", path)
        if found and self.has_commit(found[1]):  # emulate takes a check run of it, and then does not find it
            assert asked.query.get("filter", "latest") == "latest"
            return paged(
                asked,
                list({each["name"]: each for each in self.runs if each["head_sha"] == found[1]}.values()),
                key="check_runs",
            )
        if found := re.fullmatch(rf"{HERE}/actions/runs/(\d+)", path):
            at = self.jobs.get(int(found[1]))
            return Answer(200, {"id": int(found[1]), "status": at}) if at else _not_found()
        if path == f"{HERE}/activity":
            return paged(
                asked, [each for each in self.activity if each["ref"] == asked.query.get("ref", each["ref"])][::-1]
            )
        if found := re.fullmatch(rf"{HERE}/issues/(\d+)/events", path):
            return paged(asked, self.events.get(int(found[1]), []))
        if found := re.fullmatch(rf"{HERE}/issues/(\d+)", path):
            by = self.closed_by.get(int(found[1]))
            return Answer(200, {"number": int(found[1]), "closed_by": self._account(by) if by else None})
        if found := re.fullmatch(rf"{HERE}/statuses/([0-9a-f]{{40}})", path):
            sent = asked.body
            if len(sent.get("description") or "") > 140:
                return Answer(
                    422, {"message": "Validation Failed", "errors": [{"field": "description", "code": "too_long"}]}
                )
            status = {
                "id": len(self.statuses) + 1, "sha": found[1], "state": sent["state"], "context": sent["context"],
                "description": sent.get("description"), "target_url": sent.get("target_url"),
            }  # fmt: skip
            self.statuses.append(status)
            return Answer(201, status)
        if found := re.fullmatch(rf"{HERE}/commits/([0-9a-f]{{40}})/status", path):
            newest = {each["context"]: each for each in self.statuses if each["sha"] == found[1]}
            return paged(asked, list(newest.values()), key="statuses")
        return None

    def _graphql(self, sent: Any, known: Known) -> Answer:
        if sent == {"query": VIEWER, "variables": {}}:
            account = self._account(known.login)
            return Answer(200, {"data": {"viewer": {"login": account["login"], "databaseId": account["id"]}}})
        if sent["query"] in MARKS and sent["variables"].keys() == {"id"}:
            act, draft = MARKS[sent["query"]]
            if known.rights and not known.rights >= MARK_RIGHTS:
                return _wrong("FORBIDDEN", "Resource not accessible by personal access token")
            if draft and not self.drafts_allowed:
                return _wrong("UNPROCESSABLE", "Draft pull requests are not supported in this repository.")
            for pull in self.emulated.done(known.login, "GET", f"{HERE}/pulls?state=open&per_page=100"):
                if pull["node_id"] == sent["variables"]["id"]:
                    self.emulated.done(known.login, "PATCH", f"{HERE}/pulls/{pull['number']}", {"draft": draft})
                    return Answer(200, {"data": {act: {"pullRequest": {"isDraft": draft}}}})
            return _wrong("NOT_FOUND", "Could not resolve to a node")
        return Answer(400, {"message": f"a question that is not listed: {sent}"})

    def _account(self, login: str) -> dict[str, Any]:
        if login not in self.ids:
            self.ids[login] = int(self.emulated.done("owner", "GET", f"/users/{login}")["id"])
        return {"login": login, "id": self.ids[login], "type": "User"}

    def _mended(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._mended(each) for each in value]
        if isinstance(value, dict):
            found = {key: self._mended(each) for key, each in value.items()}
            if "login" in found and "id" in found:
                found["login"] = self.renamed.get(found["login"], found["login"])
                found["type"] = "Bot" if found["id"] in self.bots else found.get("type", "User")
            if (
                "/issues/comments/" in str(found.get("url")) and "created_at" in found
            ):  # emulate's two times may differ by a millisecond
                found["updated_at"] = "2099-01-01T00:00:00Z" if found["id"] in self.edited else found["created_at"]
            return found
        return value

    # what happens there

    def pushed(self, login: str, branch: str, before: str | None, after: str | None, *, forced: bool = False) -> None:
        """Note a push as the repository's activity has it."""
        kind = (
            "force_push"
            if forced
            else "branch_creation"
            if before is None
            else "branch_deletion"
            if after is None
            else "push"
        )
        number = len(self.activity) + 1
        self.activity.append(
            {
                "id": number, "node_id": f"PSH_{number}", "before": before or ZERO, "after": after or ZERO,
                "ref": f"refs/heads/{branch}", "timestamp": f"2026-11-20T07:{number // 60:02}:{number % 60:02}Z",
                "activity_type": kind, "actor": self._account(login),
            }
        )  # fmt: skip
        if after is None:
            self.tips.pop(branch, None)
        else:
            self.tips[branch] = after

    def dismissed(self, number: int, review: int, state: str, by: str, commit: str | None) -> None:
        """Note a dismissal as the request's events have it."""
        before: dict[str, Any] = {"review_id": review, "state": state, "dismissal_message": "stale"}
        if commit is not None:
            before["dismissal_commit_id"] = commit
        event = {
            "id": 1 + sum(map(len, self.events.values())), "event": "review_dismissed", "actor": self._account(by),
            "created_at": "2026-11-20T08:00:00Z", "dismissed_review": before,
        }  # fmt: skip
        self.events.setdefault(number, []).append(event)


def _wrong(kind: str, words: str) -> Answer:
    """GraphQL's way to say so: 200 with errors."""
    return Answer(200, {"data": None, "errors": [{"type": kind, "message": words}]})


def _not_found() -> Answer:
    return Answer(404, {"message": "Not Found", "documentation_url": "https://docs.github.com/rest", "status": "404"})


def _free_port() -> int:
    import socket

    with socket.create_server(("localhost", 0)) as found:
        return int(found.getsockname()[1])


@contextmanager
def emulated(folder: Path, logins: list[str]) -> Iterator[Emulated]:
    """Run `emulate` for a while."""
    running = Emulated(folder, logins)
    try:
        yield running
    finally:
        running.close()
