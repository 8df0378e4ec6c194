"""The `Forge` of GitLab, its row of `FORGES`, and the client that sends its requests.

Differences from GitHub: the version of the request that an approval is for follows from the time of the approval; an approval that
GitLab reset at a push leaves no trace; a pending status keeps its text until it ends; a line that starts like a quick action would
be executed, so it is escaped. No scope below `api` may write comments; with `read_api` everything can be read and nothing written.
CI_JOB_TOKEN may not use these routes.

Requests go by python-gitlab's low-level ones, imported at the first. Each sends one request to one host. The SDK's own retries and
waits are off, and no response chooses the address of the next request.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote

from runner import forge
from runner.forge import Failures, Fields, check_page, malformed, objects

if TYPE_CHECKING:
    import gitlab
    import requests

T = TypeVar("T")

_TIMEOUT: Final = 20.0  # seconds a request
_LIMIT_SECONDS: Final = 60.0  # where GitLab does not say how long
_ONCE: Final[dict[str, Any]] = {"obey_rate_limit": False, "retry_transient_errors": False}


class Client:
    """A connection to one GitLab."""

    def __init__(self, project: forge.ForgeProject, token: forge.Token, now: Callable[[], float]) -> None:
        """`now`: seconds since the epoch.

        Raises:
            TokenMissingError: python-gitlab is not installed.
        """
        self._failures = Failures("GitLab", project, token)
        self._failures.check_installed("gitlab", "python-gitlab")
        self._project, self._token, self._now = project, token.value, now
        self._opened: gitlab.Gitlab | None = None
        self._headers: dict[str, str] = {}  # of the last response; the SDK's exceptions do not keep them

    def close(self) -> None:
        """Close connections; a later request opens new ones."""
        if self._opened is not None:
            self._opened.session.close()
            self._opened = None

    def one(self, path: str) -> Fields:
        """Return the object at a path.

        Raises:
            ForgeError: by its class, why there is none.
        """
        client = self._client()
        return Fields.of(self._call(f"GET {path}", lambda: client.http_get(path, **_ONCE)), f"GET {path}")

    def write(self, verb: str, path: str, body: dict[str, Any]) -> Fields:
        """Return the object that a POST or a PUT makes."""
        client, where = self._client(), f"{verb} {path}"
        send = client.http_post if verb == "POST" else client.http_put
        return Fields.of(self._call(where, lambda: send(path, post_data=body, **_ONCE)), where)

    def pages(self, path: str, query: dict[str, Any], *, limit: int | None = None) -> Iterator[Fields]:
        """Return the items of every page, or of the first `limit`."""
        client, where, number = self._client(), f"GET {path}", 1
        while limit is None or number <= limit:
            check_page(number, where)
            asked = {**query, "per_page": 100, "page": number}
            # By number, so that no response's address is followed; one page at a time, so that `limit` is kept.
            page = partial(client.http_list, path, asked, get_all=False, iterator=False, **_ONCE)
            value = self._call(where, page)
            yield from objects(value, where)
            if not self._headers.get("x-next-page"):
                return
            number += 1

    def _client(self) -> gitlab.Gitlab:
        if self._opened is None:
            import gitlab

            self._opened = gitlab.Gitlab(
                self._project.api,
                # Every kind of token may be sent as a bearer, and a redirect to another host does not take it along.
                oauth_token=self._token,
                timeout=_TIMEOUT,
                user_agent="protocol-runner",
                retry_transient_errors=False,
            )
            self._opened.session.hooks["response"].append(self._note)
        return self._opened

    def _note(self, response: requests.Response, *args: object, **kwargs: object) -> None:
        self._headers = {key.lower(): value for key, value in response.headers.items()}

    def _call(self, what: str, call: Callable[[], T]) -> T:
        """Return the result of `call`, or raise the `ForgeError` for its exception, by type and status code."""
        import gitlab
        import requests

        where = f"{what} at {self._project.host}"
        try:
            return call()
        except gitlab.exceptions.RedirectError as error:
            raise self._failures.redirected(error, where) from None
        except gitlab.exceptions.GitlabParsingError:
            raise malformed("JSON", where) from None
        except gitlab.exceptions.GitlabError as error:
            raise self._refusal(error, where) from None  # the SDK's exception holds whole answers
        except (requests.RequestException, OSError) as error:
            raise self._failures.unanswered(error, where) from None

    def _refusal(self, error: gitlab.exceptions.GitlabError, where: str) -> forge.ForgeError:
        status = error.response_code or 0
        body = error.response_body.decode("utf-8", "replace") if isinstance(error.response_body, bytes) else ""
        scope = re.search(r'"scope"\s*:\s*"([a-z_ ]+)"', body)  # RFC 6750, `insufficient_scope`
        return self._failures.refused(
            status,
            self._failures.quoted(error.error_message or f"status {status}"),
            where,
            scope=scope[1] if scope else "",
            retry_at=self._limit() if status == 429 else None,
        )

    def _limit(self) -> float:
        """Return when GitLab accepts requests again. Docs: "Rate limits", response headers."""
        after, reset = self._headers.get("retry-after", ""), self._headers.get("ratelimit-reset", "")
        if re.fullmatch(r"\d{1,9}", after):
            return self._now() + int(after)
        return float(reset) if re.fullmatch(r"\d{1,12}", reset) else self._now() + _LIMIT_SECONDS


_PUSH_PAGES: Final = 10  # of a project's pushes, a hundred each: the events of all its branches are one list
_DRAFT: Final = re.compile(r"^\s*(?:(?:\[draft\]|\(draft\)|draft:)\s*)+", re.IGNORECASE)
_DEVELOPER, _MAINTAINER, _GUEST = 30, 40, 10
_STATES: Final = {
    "pending": forge.StatusState.PENDING,
    "running": forge.StatusState.PENDING,
    "success": forge.StatusState.SUCCESS,
}
_OUTCOMES: Final = {
    "success": forge.CheckOutcome.SUCCESS,
    "failed": forge.CheckOutcome.FAILURE,
    "canceled": forge.CheckOutcome.CANCELLED,
    "skipped": forge.CheckOutcome.NEUTRAL,
    "manual": forge.CheckOutcome.NEUTRAL,
}
_ENDED: Final = ("success", "failed", "canceled", "skipped")  # a job in one of these only changes by a new start


class GitLab(forge.Forge):
    """One project on GitLab."""

    _always_drafts, _body_key = True, "description"

    def __init__(self, project: forge.ForgeProject, token: forge.Token, now: Callable[[], float]) -> None:
        """`now`: seconds since the epoch.

        Raises:
            TokenMissingError: python-gitlab is not installed.
        """
        super().__init__(project)
        self._client = Client(project, token, now)
        self._site = f"{project.site}/{project.path}"
        self._project = f"/projects/{project.api_path}"

    def close(self) -> None:
        """Close connections."""
        self._client.close()

    # accounts

    def _find_me(self) -> forge.Identity:
        return self._identity(self._client.one("/user"))

    def _find_membership(self, who: forge.Identity) -> forge.Membership:
        kind, access = None, forge.Access.NONE
        try:
            kind = self._kind(self._client.one(f"/users/{who.id}"))
            member = self._client.one(f"{self._project}/members/all/{who.id}")
        except forge.NotFoundError:
            return forge.Membership(access=forge.Access.NONE, kind=kind)
        if member.text("state") == "active":  # not blocked, and not only invited
            access = _access(member.number("access_level"))
        return forge.Membership(access=access, kind=kind)

    # requests

    def request(self, number: int) -> forge.Request:
        """Return a request as it is now."""
        found = self._client.one(f"{self._project}/merge_requests/{number}")
        request = self._own(found)
        if request is None:
            hint = "requests of this project's own branches only"
            raise forge.RequestRefusedError(f"request {number} comes from a fork", found.where, hint)
        return request

    def request_of(self, branch: str, base: str) -> forge.Request | None:
        """Return the branch's open request into that base, else its newest, else None."""
        order = {"state": "all", "order_by": "created_at", "sort": "desc"}
        query = {"source_branch": branch, "target_branch": base, **order}
        found = self._client.pages(f"{self._project}/merge_requests", query)
        return forge.open_or_newest(map(self._own, found), branch, base)

    def _open(self, branch: str, base: str, title: str, body: str, *, draft: bool) -> forge.Request:
        new = {"source_branch": branch, "target_branch": base, "title": self._titled(title, draft=draft)}
        path = f"{self._project}/merge_requests"
        return self._read_request(self._client.write("POST", path, {**new, "description": body}))

    def _change(self, number: int, changes: Mapping[str, str]) -> forge.Request:
        path = f"{self._project}/merge_requests/{number}"
        return self._read_request(self._client.write("PUT", path, {**changes}))

    def _titled(self, title: str, *, draft: bool) -> str:
        return f"Draft: {title}" if draft else title

    def _harmless(self, text: str) -> str:
        return plain(text)

    def issue(self, number: int) -> forge.Issue:
        """Return an issue."""
        found = self._client.one(f"{self._project}/issues/{number}")
        return forge.Issue(
            number=found.number("iid"),
            title=found.text("title"),
            body=found.maybe("description") or "",
            confidential=found.flag("confidential"),
        )

    def mark(self, number: int, *, draft: bool) -> forge.Request:
        """Return the request, made a draft or no longer one."""
        there = self.request(number)
        if there.draft == draft:
            return there
        return self._change(number, {"title": self._titled(there.title, draft=draft)})

    # comments

    def comments(self, number: int) -> tuple[forge.Comment, ...]:
        """Return the comments of a request, oldest first, without GitLab's own notes."""
        query = {"sort": "asc", "order_by": "created_at"}
        found = self._client.pages(f"{self._project}/merge_requests/{number}/notes", query)
        return tuple(self._comment(each, number) for each in found if not each.flag("system"))

    def _write_comment(self, number: int, id: int | None, body: str) -> forge.Comment:
        notes = f"{self._project}/merge_requests/{number}/notes"
        verb, path = ("POST", notes) if id is None else ("PUT", f"{notes}/{id}")
        return self._comment(self._client.write(verb, path, {"body": body}), number)

    # statuses and checks

    def statuses(self, commit: str) -> tuple[forge.Status, ...]:
        """Return our current statuses of a commit."""
        found = (each for each in self._all_statuses(commit) if each.value.get("name") in forge.OUR_CONTEXTS)
        newest = {each.text("name"): each for each in found}  # oldest first: the last one of a name is the newest
        return tuple(
            forge.Status(
                context=name,
                state=_STATES.get(each.text("status"), forge.StatusState.FAILURE),
                text=forge.status_text(each.maybe("description") or ""),  # anybody who may write could have written it
                url=each.maybe("target_url") or "",
            )
            for name, each in newest.items()
        )

    def _all_statuses(self, commit: str) -> Iterator[Fields]:
        return self._client.pages(f"{self._project}/repository/commits/{quote(commit, safe='')}/statuses", {})

    def report(self, commit: str, statuses: Collection[forge.Status], *, branch: str) -> tuple[forge.Status, ...]:
        """Set the statuses that differ from the current ones, and return those. A pending status keeps its text until it ends."""
        if not statuses:
            return ()
        there = {each.context: each for each in self.statuses(commit)}
        wanted = []
        for each in statuses:
            if _is_set(there.get(each.context), each):
                continue
            wanted.append(each)
            fields = {
                "state": "failed" if each.state is forge.StatusState.FAILURE else each.state.value,
                "name": each.context,
                "ref": branch,
                "description": each.text,
            }
            link = {"target_url": each.url} if each.url else {}
            try:
                self._client.write("POST", f"{self._project}/statuses/{quote(commit, safe='')}", {**fields, **link})
            except forge.RequestRefusedError:
                # GitLab refuses a status that is set already, perhaps by another job meanwhile.
                now = {one.context: one for one in self.statuses(commit)}
                if not _is_set(now.get(each.context), each):
                    raise
        return tuple(wanted)

    def checks(self, commit: str) -> tuple[forge.Check, ...]:
        """Return the results of CI for a commit: its jobs and other programs' statuses, and pipelines that had none.

        The pipelines' own statuses are not used: our pending ones are part of them, so each would wait for the other.
        """
        statuses = list(self._all_statuses(commit))
        newest = {each.text("name"): each for each in statuses if each.text("name") not in forge.OUR_CONTEXTS}
        found = [self._check(name, each) for name, each in newest.items()]
        for each in self._client.pages(f"{self._project}/pipelines", {"sha": commit}):
            # A pipeline that failed without a job has an error in its file.
            if each.text("status") == "failed" and each.text("source") != "external" and not newest:
                url = each.maybe("web_url") or ""
                found.append(forge.Check(name="pipeline", outcome=forge.CheckOutcome.FAILURE, url=url))
        return tuple(found)

    def _check(self, name: str, found: Fields) -> forge.Check:
        outcome = _OUTCOMES.get(found.text("status"), forge.CheckOutcome.PENDING)
        if outcome is forge.CheckOutcome.FAILURE and found.flag("allow_failure"):
            outcome = forge.CheckOutcome.NEUTRAL
        return forge.Check(name=name, outcome=outcome, url=found.maybe("target_url") or "")

    def is_over(self, job: str) -> bool:
        """Return whether the job ended; see `Forge.is_over`."""
        project = re.escape(self._site.partition("://")[2])
        found = re.fullmatch(rf"https?://{project}/-/jobs/([0-9]{{1,19}})", job)
        return found is not None and self._client.one(f"{self._project}/jobs/{found[1]}").text("status") in _ENDED

    # reviews and authors

    def reviews(self, number: int) -> tuple[forge.Review, ...]:
        """Return the approvals and the requests for changes in force; GitLab does not report the commit of the latter."""
        at = f"{self._project}/merge_requests/{number}"
        given = [
            (each.inner("user"), each.maybe("approved_at"))
            for each in self._client.one(f"{at}/approvals").several("approved_by")
        ]
        if any(time is None for _, time in given):  # an older GitLab; its events have the times
            times = self._approval_times(number)
            given = [(user, time or times.get(user.number("id"))) for user, time in given]
        versions = (
            [
                (_time(v.text("created_at"), v.where), v.text("head_commit_sha"))
                for v in self._client.pages(f"{at}/versions", {})
            ]
            if given
            else []
        )
        found = []
        for user, time in sorted(given, key=lambda each: each[1] or ""):
            moment = _time(time, at) if time else None
            seen = [version for version in versions if moment is not None and version[0] <= moment]
            commit = max(seen)[1] if seen else None
            by = self._identity(user)
            found.append(
                forge.Review(
                    id=f"{number}-{by.id}", by=by, state=forge.ReviewState.APPROVED, commit=commit, time=time or ""
                )
            )
        for each in self._client.pages(f"{at}/reviewers", {}):
            if each.text("state") == "requested_changes":  # an approval by the same person would have ended it
                by = self._identity(each.inner("user"))
                found.append(
                    forge.Review(
                        id=f"{number}-{by.id}-changes", by=by, state=forge.ReviewState.CHANGES, commit=None, time=""
                    )
                )
        return tuple(found)

    def _approval_times(self, number: int) -> dict[int, str]:
        """Return when each account last approved the request."""
        times: dict[int, str] = {}
        query = {"action": "approved", "target_type": "merge_request", "sort": "desc"}
        for event in self._client.pages(f"{self._project}/events", query, limit=_PUSH_PAGES):
            if event.value.get("target_iid") == number and event.text("action_name") == "approved":
                times.setdefault(event.number("author_id"), event.text("created_at"))
        return times

    def pushes(self, branch: str) -> tuple[forge.Push, ...]:
        """Return the pushes to the branch, newest first, out of the project's last thousand.

        GitLab reports a push of many branches at once without their names; it may have been to this one, so it is included.
        """
        found = []
        for event in self._client.pages(
            f"{self._project}/events", {"action": "pushed", "sort": "desc"}, limit=_PUSH_PAGES
        ):
            data = event.maybe_inner("push_data")
            if data is None or data.maybe("ref_type") == "tag" or data.maybe("ref") not in (branch, None):
                continue
            author = event.maybe_inner("author")
            found.append(
                forge.Push(
                    by=self._identity(author) if author else None,
                    before=data.maybe("commit_from"),
                    after=data.maybe("commit_to"),
                    time=event.text("created_at"),
                )
            )
        return tuple(found)

    def commits(self, number: int) -> tuple[forge.Commit, ...]:
        """Return the request's commits, oldest first; GitLab names no accounts for them."""
        found = self._client.pages(f"{self._project}/merge_requests/{number}/commits", {})
        return tuple(forge.Commit(oid=each.text("id"), author=None, committer=None) for each in reversed(list(found)))

    # settings

    def settings(self, branch: str) -> forge.Settings:
        """Return the project's settings and the branch's protection, as far as the token may see them."""
        found = self._client.one(self._project)
        method, squash = found.text("merge_method"), found.maybe("squash_option") or "default_off"
        methods = set()
        if squash != "never":
            methods.add(forge.MergeMethod.SQUASH)
        if squash != "always":
            methods.add(forge.MergeMethod.FAST_FORWARD if method == "ff" else forge.MergeMethod.MERGE)
        rights = found.maybe_inner("permissions")
        levels = [
            inner.number("access_level")
            for key in ("project_access", "group_access")
            if rights is not None and (inner := rights.maybe_inner(key)) is not None
        ]
        scopes = None
        # Another kind of token.
        with contextlib.suppress(forge.NotFoundError, forge.TokenRefusedError, forge.ScopeMissingError):
            token = self._client.one("/personal_access_tokens/self")
            scopes = tuple(str(scope) for scope in token.value.get("scopes") or ())
        return forge.Settings(
            default_branch=found.text("default_branch"),
            methods=frozenset(methods),
            access=_access(max(levels, default=0)),
            scopes=scopes,
            protection=self._protection(branch, found),
        )

    def _protection(self, branch: str, project: Fields) -> forge.Protection:
        rules: list[Fields] | None = None
        approvals: Fields | None = None
        with contextlib.suppress(forge.NotFoundError, forge.ScopeMissingError):
            every = self._client.pages(f"{self._project}/protected_branches", {})
            rules = [each for each in every if fnmatchcase(branch, each.text("name"))]
        # Not a Premium instance, or the token may not see it.
        with contextlib.suppress(forge.NotFoundError, forge.ScopeMissingError):
            approvals = self._client.one(f"{self._project}/approvals")
        pipelines = project.flag("only_allow_merge_if_pipeline_succeeds")
        return forge.Protection(
            protected=None if rules is None else bool(rules),
            # GitLab requires whole pipelines, not single checks by name; our statuses are part of them.
            required_checks=forge.OUR_CONTEXTS if pipelines else (),
            dismisses_stale=approvals.flag("reset_approvals_on_push") if approvals else None,
            last_pusher_refused=approvals.flag("merge_requests_disable_committers_approval") if approvals else None,
            forced_pushes=None if rules is None else not rules or all(each.flag("allow_force_push") for each in rules),
            deletions=None if rules is None else not rules,
            linear=project.text("merge_method") in ("ff", "rebase_merge"),
        )

    # reading responses

    def _kind(self, user: Fields) -> forge.AccountKind | None:
        bot = user.maybe_flag("bot")
        return None if bot is None else forge.AccountKind.BOT if bot else forge.AccountKind.PERSON

    def _identity(self, user: Fields) -> forge.Identity:
        return forge.Identity(host=self.host, id=user.number("id"), login=user.text("username"), kind=self._kind(user))

    def _own(self, found: Fields) -> forge.Request | None:
        """Return a request of one of the project's own branches; None where it comes from a fork (P8)."""
        if found.value.get("source_project_id") != found.number("target_project_id"):
            return None
        return self._read_request(found)

    def _read_request(self, found: Fields) -> forge.Request:
        state = {
            "opened": forge.RequestState.OPEN,
            "locked": forge.RequestState.OPEN,
            "merged": forge.RequestState.MERGED,
        }
        is_merged = found.text("state") == "merged"
        by = found.maybe_inner("merge_user") or found.maybe_inner("merged_by") or found.maybe_inner("closed_by")
        head = found.text("sha")
        return forge.Request(
            number=found.number("iid"),
            url=found.text("web_url"),
            title=_DRAFT.sub("", found.text("title")),
            body=found.maybe("description") or "",
            state=state.get(found.text("state"), forge.RequestState.CLOSED),
            draft=found.flag("draft"),
            branch=found.text("source_branch"),
            base=found.text("target_branch"),
            head=head,
            # A fast-forward makes no commit: the head itself is then on the base.
            merged=(found.maybe("merge_commit_sha") or found.maybe("squash_commit_sha") or head) if is_merged else None,
            ended=found.maybe("merged_at") or found.maybe("closed_at"),
            ended_by=self._identity(by) if by else None,
        )

    def _comment(self, found: Fields, number: int) -> forge.Comment:
        return forge.Comment(
            id=found.number("id"),
            by=self._identity(found.inner("author")),
            body=found.maybe("body") or "",
            url=f"{self._site}/-/merge_requests/{number}#note_{found.number('id')}",
            time=found.text("created_at"),
            edited=found.text("created_at") != found.text("updated_at"),
        )


def plain(text: str) -> str:
    """Return text with its quick actions escaped: GitLab would execute a line that starts like one."""
    return re.sub(r"(?m)^([ \t]*)/(?=[A-Za-z_])", r"\1\\/", text)


def _access(level: int) -> forge.Access:
    if level >= _MAINTAINER:
        return forge.Access.ADMIN
    if level >= _DEVELOPER:
        return forge.Access.WRITE
    return forge.Access.READ if level >= _GUEST else forge.Access.NONE


def _time(text: str, where: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:  # one without a zone is before and after everything
        raise forge.MalformedAnswerError(f"`{text[:40]}` is no time", where, "report it, with GitLab's version")
    return moment


def _is_set(now: forge.Status | None, wanted: forge.Status) -> bool:
    """Return whether a status need not be set: it is equal, or both are pending, whose text GitLab does not change."""
    return now == wanted or (now is not None and now.state is wanted.state is forge.StatusState.PENDING)


JOBS: Final = ".gitlab/protocol-runner.yml"  # the jobs that `runner init` writes, and that child pipelines extend


KIND: Final = forge.ForgeKind(
    name="gitlab",
    is_host=lambda host: "gitlab" in host.split("."),
    ssh_hosts={"altssh.gitlab.com": "gitlab.com"},
    api=lambda scheme, host, path: f"{scheme}://{host}",
    encodes_path=True,
    open=GitLab,
    token_variables=("GITLAB_TOKEN",),
    host_variables=("CI_SERVER_URL", "GITLAB_HOST"),
    public_host="gitlab.com",
    token_command=("glab", "config", "get", "token", "--host"),
    login="glab auth login",
    rights="scope `api` and the role Developer; Maintainer to see protected branches",
    scopes=("api",),
    writer_role="Developer",
    require_verify="Settings, Merge requests: tick `Pipelines must succeed`, of which our statuses are part",
    protecting_exposes_secrets=True,
    ci_files={
        ".gitlab-ci.yml": "gitlab/gitlab-ci.yml",
        JOBS: "gitlab/protocol-runner.yml",
        ".gitlab/merge_request_templates/protocol.md": "gitlab/merge_request.md",
    },
    ci_entry=".gitlab-ci.yml",
    ci_include=(JOBS, f"include: [{{local: {JOBS}}}]"),
)
