"""The `Forge` of GitHub and GitHub Enterprise, its row of `FORGES`, and the client that sends its requests.

It makes few requests: pages of a hundred, one read before each write, and none that the SDK's lazy objects would make, since
responses are read as JSON. To see a classic branch protection completely, the token needs Administration read beside `KIND.rights`.

Requests go by PyGithub's transport, which is imported at the first one. Each sends one request to one host, with the token in one
header. Redirects to another host are refused, and no response chooses the address of the next request.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import parse_qsl, quote, urlsplit

from runner import forge
from runner.forge import Failures, Fields, check_page, malformed, objects

if TYPE_CHECKING:
    from github import GithubException
    from github.Requester import Requester

T = TypeVar("T")

_TIMEOUT: Final = 20  # seconds a request
_PAGE: Final = 100
_SECONDARY_SECONDS: Final = 60.0  # the wait that GitHub asks for where a secondary limit does not say


class Client:
    """A connection to one GitHub."""

    def __init__(
        self, project: forge.ForgeProject, token: forge.Token, now: Callable[[], float], write_pause: float
    ) -> None:
        """`now`: seconds since the epoch; `write_pause`: seconds between two writes.

        Raises:
            TokenMissingError: PyGithub is not installed.
        """
        self._failures = Failures("GitHub", project, token)
        self._failures.check_installed("github", "the package pygithub")
        self._project, self._token, self._now, self._write_pause = project, token.value, now, write_pause
        self._opened: Requester | None = None

    def close(self) -> None:
        """Close connections; a later request opens new ones."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def one(self, path: str) -> Fields:
        """Return the object at a path."""
        return Fields.of(self.send("GET", path)[1], f"GET {path}")

    def write(self, verb: str, path: str, body: dict[str, Any]) -> Fields:
        """Return the object that a POST or a PATCH makes."""
        return Fields.of(self.send(verb, path, body=body)[1], f"{verb} {path}")

    def pages(self, path: str, query: dict[str, Any], *, key: str | None = None) -> Iterator[Fields]:
        """Return the items of every page; `key`: of the list, where the response is an object."""
        where = f"GET {path}"
        asked: dict[str, Any] | None = {**query, "per_page": _PAGE}
        number = 1
        while asked is not None:
            check_page(number, where)
            number += 1
            headers, value = self.send("GET", path, query=asked)
            yield from objects(value, where) if key is None else Fields.of(value, where).several(key)
            # Only the query of the next address is used: some lists have cursors, and no response chooses a host.
            following = re.search(r'<([^>]*)>\s*;\s*rel="next"', headers.get("link") or "")
            asked = dict(parse_qsl(urlsplit(following[1]).query)) if following else None

    def graphql(self, query: str, variables: dict[str, Any]) -> Fields:
        """Return the data of a GraphQL response."""
        requester = self._requester()
        _, value = self._call("POST graphql", lambda: requester.graphql_query(query, variables))
        return Fields.of(value, "POST graphql").inner("data")

    def send(
        self, verb: str, path: str, *, query: dict[str, Any] | None = None, body: Any = None
    ) -> tuple[dict[str, str], Any]:
        """Return the headers of a response, in lower case, and its JSON.

        Raises:
            ForgeError: by its class, why there is none.
        """
        requester = self._requester()
        return self._call(f"{verb} {path}", lambda: requester.requestJsonAndCheck(verb, path, query, None, body))

    def _requester(self) -> Requester:
        if self._opened is None:
            import github

            self._opened = github.Github(
                auth=github.Auth.Token(self._token),
                base_url=self._project.api,
                timeout=_TIMEOUT,
                per_page=_PAGE,
                retry=None,
                user_agent="protocol-runner",
                seconds_between_requests=None,
                seconds_between_writes=self._write_pause,
            ).requester
        return self._opened

    def _call(self, what: str, call: Callable[[], T]) -> T:
        """Return the result of `call`, or raise the `ForgeError` for its exception, by type and status code."""
        import github
        import requests

        where = f"{what} at {self._project.host}"
        try:
            return call()
        except github.GithubException as error:
            raise self._refusal(error, where) from None  # the SDK's exception holds whole answers
        except (requests.RequestException, OSError) as error:
            raise self._failures.unanswered(error, where) from None
        except (AttributeError, ValueError, RecursionError):  # the SDK met no JSON, or a value of another type
            raise malformed("JSON", where) from None
        except RuntimeError as error:  # a redirect that the SDK does not follow
            raise self._failures.redirected(error, where) from None

    def _refusal(self, error: GithubException, where: str) -> forge.ForgeError:
        headers = {key.lower(): value for key, value in (error.headers or {}).items()}
        data = error.data if isinstance(error.data, dict) else {}
        errors = [each for each in data.get("errors") or [] if isinstance(each, dict)]
        quoted = self._failures.quoted
        message = quoted(data.get("message") or f"status {error.status}")
        more = "; ".join(quoted(each.get("message") or f"{each.get('field')}: {each.get('code')}") for each in errors)
        status, kinds = error.status, {each.get("type") for each in errors}  # GraphQL answers 200 and names the kind
        is_limited = status == 429 or "RATE_LIMITED" in kinds
        at = self._limit(is_limited, headers, data)
        if kinds & {"FORBIDDEN", "INSUFFICIENT_SCOPES"} and status != 401:
            status = 403
        return self._failures.refused(
            status,
            f"{message}: {more}" if more else message,
            where,
            # The first header is for fine-grained tokens, the second for classic ones.
            scope=headers.get("x-accepted-github-permissions") or headers.get("x-accepted-oauth-scopes") or "",
            retry_at=at if is_limited or error.status == 403 else None,
        )

    def _limit(self, is_one: bool, headers: dict[str, str], data: dict[str, Any]) -> float | None:
        """Return when GitHub accepts requests again; None where neither headers nor body name a rate limit.

        Docs: "Rate limits for the REST API", "Rate limits and query limits for the GraphQL API".
        """
        now = self._now()
        if re.fullmatch(r"\d{1,9}", headers.get("retry-after", "")):
            return now + int(headers["retry-after"])
        if headers.get("x-ratelimit-remaining") == "0" and headers.get("x-ratelimit-reset", "").isdigit():
            return float(headers["x-ratelimit-reset"])
        if is_one or "secondary-rate-limit" in str(data.get("documentation_url")):
            return now + _SECONDARY_SECONDS
        return None


_ACCESS: Final = {
    "admin": forge.Access.ADMIN,
    "maintain": forge.Access.WRITE,
    "write": forge.Access.WRITE,
    "read": forge.Access.READ,
}
_REVIEWS: Final = {
    "approved": forge.ReviewState.APPROVED,
    "changes_requested": forge.ReviewState.CHANGES,
    "commented": forge.ReviewState.COMMENTED,
    "dismissed": forge.ReviewState.UNKNOWN,
}
_STATES: Final = {"pending": forge.StatusState.PENDING, "success": forge.StatusState.SUCCESS}
_OUTCOMES: Final = {
    "success": forge.CheckOutcome.SUCCESS,
    "neutral": forge.CheckOutcome.NEUTRAL,
    "skipped": forge.CheckOutcome.NEUTRAL,
    "cancelled": forge.CheckOutcome.CANCELLED,
    "stale": forge.CheckOutcome.CANCELLED,
    "action_required": forge.CheckOutcome.PENDING,
}


class GitHub(forge.Forge):
    """One repository on GitHub."""

    _always_drafts, _body_key = False, "body"

    def __init__(
        self, project: forge.ForgeProject, token: forge.Token, now: Callable[[], float], *, write_pause: float = 1.0
    ) -> None:
        """`now`: seconds since the epoch; `write_pause`: seconds between two writes, as GitHub's guidelines ask.

        Raises:
            TokenMissingError: PyGithub is not installed.
        """
        super().__init__(project)
        self._client = Client(project, token, now, write_pause)
        self._project = project
        self._repo = f"/repos/{project.api_path}"

    def close(self) -> None:
        """Close connections."""
        self._client.close()

    # accounts

    def _find_me(self) -> forge.Identity:
        try:
            return self._identity(self._client.one("/user"))
        except forge.ScopeMissingError:
            # An App's token, such as GITHUB_TOKEN of Actions, may not read /user; GraphQL names its account.
            data = self._client.graphql("query { viewer { login databaseId } }", {})
            viewer = data.inner("viewer")
            return forge.Identity(
                host=self.host, id=viewer.number("databaseId"), login=viewer.text("login"), kind=forge.AccountKind.BOT
            )

    def _find_membership(self, who: forge.Identity) -> forge.Membership:
        try:
            login = who.login
            if not login:  # the policy has the id alone
                login = self._client.one(f"/user/{who.id}").text("login")
            found = self._client.one(f"{self._repo}/collaborators/{quote(login, safe='')}/permission")
        except forge.NotFoundError:
            return forge.Membership(access=forge.Access.NONE, kind=who.kind)
        user = found.maybe_inner("user")
        # GitHub can only be asked by login, and another person may have that login by now.
        if user is None or user.number("id") != who.id:
            return forge.Membership(access=forge.Access.NONE, kind=who.kind)
        role = found.text("permission")
        return forge.Membership(access=_ACCESS.get(role, forge.Access.NONE), kind=self._identity(user).kind)

    # requests

    def request(self, number: int) -> forge.Request:
        """Return a request as it is now."""
        found = self._client.one(f"{self._repo}/pulls/{number}")
        request = self._own(found)
        if request is None:
            hint = "requests of this repository's own branches only"
            raise forge.RequestRefusedError(f"request {number} comes from a fork", found.where, hint)
        if request.state is not forge.RequestState.CLOSED:
            return request
        by = self._client.one(f"{self._repo}/issues/{number}").maybe_inner("closed_by")
        return self._read_request(found, ended_by=self._identity(by) if by else None)

    def request_of(self, branch: str, base: str) -> forge.Request | None:
        """Return the branch's open request into that base, else its newest, else None; without who ended it."""
        owner = self._project.path.split("/")[0]
        query = {"head": f"{owner}:{branch}", "base": base, "state": "all", "sort": "created", "direction": "desc"}
        return forge.open_or_newest(map(self._own, self._client.pages(f"{self._repo}/pulls", query)), branch, base)

    def _open(self, branch: str, base: str, title: str, body: str, *, draft: bool) -> forge.Request:
        new = {"title": title, "body": body, "head": branch, "base": base, "draft": draft}
        return self._read_request(self._client.write("POST", f"{self._repo}/pulls", new))

    def _change(self, number: int, changes: Mapping[str, str]) -> forge.Request:
        return self._read_request(self._client.write("PATCH", f"{self._repo}/pulls/{number}", {**changes}))

    def issue(self, number: int) -> forge.Issue:
        """Return an issue or a pull request."""
        found = self._client.one(f"{self._repo}/issues/{number}")
        return forge.Issue(number=found.number("number"), title=found.text("title"), body=found.maybe("body") or "")

    def mark(self, number: int, *, draft: bool) -> forge.Request:
        """Return the request, made a draft or no longer one."""
        found = self._client.one(f"{self._repo}/pulls/{number}")
        if found.flag("draft") != draft:  # REST cannot
            act = "convertPullRequestToDraft" if draft else "markPullRequestReadyForReview"
            question = f"mutation ($id: ID!) {{ {act}(input: {{pullRequestId: $id}}) {{ pullRequest {{ isDraft }} }} }}"
            try:
                self._client.graphql(question, {"id": found.text("node_id")})
            except forge.RequestRefusedError:  # drafts are not part of the repository's plan
                if not draft:
                    raise
        return self.request(number)

    # comments

    def comments(self, number: int) -> tuple[forge.Comment, ...]:
        """Return the comments of a request, oldest first."""
        found = self._client.pages(f"{self._repo}/issues/{number}/comments", {})
        return tuple(self._comment(each) for each in found if each.maybe_inner("user") is not None)

    def _write_comment(self, number: int, id: int | None, body: str) -> forge.Comment:
        verb, path = ("POST", f"{number}/comments") if id is None else ("PATCH", f"comments/{id}")
        return self._comment(self._client.write(verb, f"{self._repo}/issues/{path}", {"body": body}))

    # statuses and checks

    def statuses(self, commit: str) -> tuple[forge.Status, ...]:
        """Return our current statuses of a commit."""
        return tuple(
            forge.Status(
                context=each.text("context"),
                state=_STATES.get(each.text("state"), forge.StatusState.FAILURE),
                text=forge.status_text(each.maybe("description") or ""),  # anybody who may write could have written it
                url=each.maybe("target_url") or "",
            )
            for each in self._all_statuses(commit)
            if each.value.get("context") in forge.OUR_CONTEXTS
        )

    def _all_statuses(self, commit: str) -> Iterator[Fields]:
        return self._client.pages(f"{self._repo}/commits/{quote(commit, safe='')}/status", {}, key="statuses")

    def report(self, commit: str, statuses: Collection[forge.Status], *, branch: str) -> tuple[forge.Status, ...]:
        """Set the statuses that differ from the current ones, and return those. GitHub needs no `branch`."""
        if not statuses:
            return ()
        there = self.statuses(commit)
        wanted = tuple(each for each in statuses if each not in there)
        for each in wanted:
            fields = {"state": each.state.value, "context": each.context, "description": each.text}
            link = {"target_url": each.url} if each.url else {}
            self._client.write("POST", f"{self._repo}/statuses/{quote(commit, safe='')}", {**fields, **link})
        return wanted

    def checks(self, commit: str) -> tuple[forge.Check, ...]:
        """Return the results of CI for a commit: check runs, and statuses that are not ours."""
        path = f"{self._repo}/commits/{quote(commit, safe='')}/check-runs"
        runs = [self._check_run(each) for each in self._client.pages(path, {"filter": "latest"}, key="check_runs")]
        statuses = [
            forge.Check(
                name=each.text("context"),
                outcome=forge.CheckOutcome(_STATES.get(each.text("state"), forge.StatusState.FAILURE).value),
                url=each.maybe("target_url") or "",
            )
            for each in self._all_statuses(commit)
            if each.text("context") not in forge.OUR_CONTEXTS
        ]
        return (*runs, *statuses)

    def is_over(self, job: str) -> bool:
        """Return whether the job's run of Actions ended; see `Forge.is_over`."""
        repository = re.escape(f"{self.host}/{self._project.path}")
        found = re.fullmatch(rf"https?://{repository}/actions/runs/([0-9]{{1,19}})", job)
        return (
            found is not None
            and self._client.one(f"{self._repo}/actions/runs/{found[1]}").text("status") == "completed"
        )

    # reviews and authors

    def reviews(self, number: int) -> tuple[forge.Review, ...]:
        """Return the reviews of a request, oldest first."""
        found = [
            each
            for each in self._client.pages(f"{self._repo}/pulls/{number}/reviews", {})
            # Left out: a review that is not submitted yet, or of a deleted account.
            if each.text("state").lower() != "pending" and each.maybe_inner("user") is not None
        ]
        ends: dict[int, Fields] = {}
        if any(each.text("state").lower() == "dismissed" for each in found):
            # Only the events have the verdict before, and the push at which the forge itself dismissed it.
            for event in self._client.pages(f"{self._repo}/issues/{number}/events", {}):
                if event.text("event") == "review_dismissed":
                    ends[event.inner("dismissed_review").number("review_id")] = event
        return tuple(self._review(each, ends.get(each.number("id"))) for each in found)

    def _review(self, found: Fields, end: Fields | None) -> forge.Review:
        state = found.text("state").lower()
        verdict, dismissed = _REVIEWS.get(state, forge.ReviewState.UNKNOWN), None
        if state == "dismissed":
            dismissed = forge.Dismissal(by=None, time=None, commit=None)
            if end is not None:
                before, actor = end.inner("dismissed_review"), end.maybe_inner("actor")
                verdict = _REVIEWS.get(before.text("state").lower(), forge.ReviewState.UNKNOWN)
                dismissed = forge.Dismissal(
                    by=self._identity(actor) if actor else None,
                    time=end.maybe("created_at"),
                    commit=before.maybe("dismissal_commit_id"),
                )
        return forge.Review(
            id=str(found.number("id")),
            by=self._identity(found.inner("user")),
            state=verdict,
            commit=found.maybe("commit_id"),
            time=found.maybe("submitted_at") or "",
            dismissed=dismissed,
        )

    def pushes(self, branch: str) -> tuple[forge.Push, ...]:
        """Return the pushes to the branch, newest first."""
        return tuple(
            forge.Push(
                by=self._identity(actor) if (actor := each.maybe_inner("actor")) else None,
                before=_commit_or_none(each.text("before")),
                after=_commit_or_none(each.text("after")),
                time=each.text("timestamp"),
            )
            for each in self._client.pages(f"{self._repo}/activity", {"ref": f"refs/heads/{branch}"})
        )

    def commits(self, number: int) -> tuple[forge.Commit, ...]:
        """Return the request's commits; GitHub lists 250 at most."""
        return tuple(
            forge.Commit(
                oid=each.text("sha"), author=self._account(each, "author"), committer=self._account(each, "committer")
            )
            for each in self._client.pages(f"{self._repo}/pulls/{number}/commits", {})
        )

    # settings

    def settings(self, branch: str) -> forge.Settings:
        """Return the repository's settings and the branch's protection, as far as the token may see them."""
        headers, value = self._client.send("GET", self._repo)
        found = Fields.of(value, f"GET {self._repo}")
        allowed = {
            forge.MergeMethod.MERGE: "allow_merge_commit",
            forge.MergeMethod.SQUASH: "allow_squash_merge",
            forge.MergeMethod.REBASE: "allow_rebase_merge",
        }
        rights = found.maybe_inner("permissions")
        access = forge.Access.NONE
        for level, key in ((forge.Access.ADMIN, "admin"), (forge.Access.WRITE, "push"), (forge.Access.READ, "pull")):
            if rights is not None and rights.flag(key):
                access = level
                break
        scopes = headers.get("x-oauth-scopes")
        return forge.Settings(
            default_branch=found.text("default_branch"),
            methods=frozenset(method for method, key in allowed.items() if found.flag(key)),
            access=access,
            scopes=None if scopes is None else tuple(word.strip() for word in scopes.split(",") if word.strip()),
            protection=self._protection(branch),
        )

    def _protection(self, branch: str) -> forge.Protection:
        at = f"{self._repo}/branches/{quote(branch, safe='')}"
        found = self._client.one(at)
        rules: dict[str, list[Fields]] = {}
        for rule in self._client.pages(f"{self._repo}/rules/branches/{quote(branch, safe='')}", {}):
            parameters = rule.maybe_inner("parameters") or Fields({}, rule.where)
            rules.setdefault(rule.text("type"), []).append(parameters)
        classic: Fields | None = Fields({}, at)
        if found.flag("protected"):
            try:
                classic = self._client.one(f"{at}/protection")
            except forge.NotFoundError:  # protected by rules alone
                pass
            except forge.ScopeMissingError:
                classic = None
        pulls = [*rules.get("pull_request", [])]
        checks = [
            check.text("context")
            for each in rules.get("required_status_checks", [])
            for check in each.several("required_status_checks")
        ]
        short = found.maybe_inner("protection")
        named = short.maybe_inner("required_status_checks") if short else None
        checks += [str(context) for context in (named.value.get("contexts") or [] if named else [])]
        reviews = classic.maybe_inner("required_pull_request_reviews") if classic else None
        if reviews is not None:
            pulls.append(reviews)

        unseen = (
            None if classic is None else False
        )  # what no rule says, the classic protection may say where it is not seen

        def pull(key: str) -> bool | None:
            return True if any(each.flag(key) for each in pulls) else unseen

        key = "required_linear_history"
        return forge.Protection(
            protected=found.flag("protected") or bool(rules),
            required_checks=tuple(dict.fromkeys(checks)),
            dismisses_stale=pull("dismiss_stale_reviews_on_push") or pull("dismiss_stale_reviews"),
            last_pusher_refused=pull("require_last_push_approval"),
            forced_pushes=self._allowed(found, classic, rules, "non_fast_forward", "allow_force_pushes"),
            deletions=self._allowed(found, classic, rules, "deletion", "allow_deletions"),
            linear=True if key in rules or (classic and _is_on(classic, key)) else unseen,
        )

    def _allowed(
        self, branch: Fields, classic: Fields | None, rules: dict[str, list[Fields]], rule: str, key: str
    ) -> bool | None:
        if rule in rules:
            return False
        if classic is None:
            return None
        if not branch.flag("protected") or not classic.value:
            return True
        return _is_on(classic, key)

    # reading responses

    def _identity(self, user: Fields) -> forge.Identity:
        kind = forge.AccountKind.PERSON if user.maybe("type") == "User" else forge.AccountKind.BOT
        return forge.Identity(host=self.host, id=user.number("id"), login=user.text("login"), kind=kind)

    def _account(self, found: Fields, key: str) -> forge.Identity | None:
        inner = found.maybe_inner(key)
        return self._identity(inner) if inner is not None and inner.value else None

    def _own(self, found: Fields) -> forge.Request | None:
        """Return a request of one of the repository's own branches; None where it comes from a fork (P8)."""
        head = found.inner("head").maybe_inner("repo")
        if head is None or head.number("id") != found.inner("base").inner("repo").number("id"):
            return None
        return self._read_request(found)

    def _read_request(self, found: Fields, *, ended_by: forge.Identity | None = None) -> forge.Request:
        merged = found.maybe("merged_at") if found.text("state") == "closed" else None
        merger = found.maybe_inner("merged_by")
        state = forge.RequestState.MERGED if merged else forge.RequestState(found.text("state"))
        return forge.Request(
            number=found.number("number"),
            url=found.text("html_url"),
            title=found.text("title"),
            body=found.maybe("body") or "",
            state=state,
            draft=found.flag("draft"),
            branch=found.inner("head").text("ref"),
            base=found.inner("base").text("ref"),
            head=found.inner("head").text("sha"),
            # For an open request it would be the commit of a trial merge.
            merged=found.maybe("merge_commit_sha") if merged else None,
            ended=merged or found.maybe("closed_at"),
            ended_by=ended_by or (self._identity(merger) if merger else None),
        )

    def _comment(self, found: Fields) -> forge.Comment:
        return forge.Comment(
            id=found.number("id"),
            by=self._identity(found.inner("user")),
            body=found.maybe("body") or "",
            url=found.text("html_url"),
            time=found.text("created_at"),
            edited=found.text("created_at") != found.text("updated_at"),
        )

    def _check_run(self, found: Fields) -> forge.Check:
        conclusion = found.maybe("conclusion")
        is_over = found.text("status") == "completed" and conclusion is not None
        return forge.Check(
            name=found.text("name"),
            outcome=_OUTCOMES.get(conclusion or "", forge.CheckOutcome.FAILURE)
            if is_over
            else forge.CheckOutcome.PENDING,
            url=found.maybe("html_url") or found.maybe("details_url") or "",
        )


def _is_on(found: Fields, key: str) -> bool:
    inner = found.maybe_inner(key)
    return inner is not None and inner.flag("enabled")


def _commit_or_none(oid: str) -> str | None:
    return oid if oid.strip("0") else None


def _is_host(host: str) -> bool:
    return "github" in host.split(".") or host.endswith(".ghe.com")


def _api(scheme: str, host: str, path: str) -> str | None:
    if path.count("/") != 1:
        return None
    if host == "github.com":
        return "https://api.github.com"
    return f"https://api.{host}" if host.endswith(".ghe.com") else f"{scheme}://{host}/api/v3"


KIND: Final = forge.ForgeKind(
    name="github",
    is_host=_is_host,
    ssh_hosts={"ssh.github.com": "github.com"},
    api=_api,
    open=GitHub,
    token_variables=("GITHUB_TOKEN", "GH_TOKEN"),
    host_variables=("GITHUB_SERVER_URL", "GH_HOST"),
    public_host="github.com",
    token_command=("gh", "auth", "token", "--hostname"),
    login="gh auth login",
    # Contents write is needed to mark a draft ready, or a draft again.
    rights="Metadata, Checks and, for `--from-issue`, Issues read, Contents, Pull requests and Commit statuses write (a classic token:"
    " `repo`)",
    scopes=("repo", "public_repo"),
    writer_role="Write",
    require_verify="make `runner/verify` a required check",
    ci_files={
        ".github/actions/protocol-runner/action.yml": "github/action.yml",
        ".github/workflows/protocol-advance.yml": "github/protocol-advance.yml",
        ".github/workflows/protocol-events.yml": "github/protocol-events.yml",
        ".github/workflows/protocol-qa.yml": "github/protocol-qa.yml",
        ".github/workflows/protocol-verify.yml": "github/protocol-verify.yml",
        ".github/PULL_REQUEST_TEMPLATE/protocol.md": "github/pull_request.md",
    },
)
