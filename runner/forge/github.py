"""GitHub, and GitHub Enterprise: the `Forge` protocol in GitHub's words.

Promises few requests: pages of a hundred, one look before each write, and nothing fetched behind our back, since answers are
read by `answer.py` and not by the SDK's lazy objects. How they are sent is `github_line.py`'s matter.

Least rights: `github_line.RIGHTS`; to see a classic branch protection whole, Administration read beside them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Final
from urllib.parse import quote

from runner.forge.answer import Fields
from runner.forge.base import (
    OUR_CONTEXTS,
    Access,
    Check,
    Comment,
    Commit,
    Dismissal,
    Identity,
    Kind,
    MergeMethod,
    NotFoundError,
    Outcome,
    Protection,
    Push,
    Request,
    RequestRefusedError,
    RequestState,
    Review,
    Said,
    ScopeMissingError,
    Settings,
    Standing,
    Status,
    StatusState,
    marker,
    same_text,
    status_text,
)
from runner.forge.github_line import Line
from runner.forge.place import Place
from runner.forge.retrying import Patience

_ACCESS: Final = {"admin": Access.ADMIN, "maintain": Access.WRITE, "write": Access.WRITE, "read": Access.READ}
_SAID: Final = {
    "approved": Said.APPROVED,
    "changes_requested": Said.CHANGES,
    "commented": Said.COMMENTED,
    "dismissed": Said.UNKNOWN,
}
_STATES: Final = {"pending": StatusState.PENDING, "success": StatusState.SUCCESS}
_OUTCOMES: Final = {
    "success": Outcome.SUCCESS,
    "neutral": Outcome.NEUTRAL,
    "skipped": Outcome.NEUTRAL,
    "cancelled": Outcome.CANCELLED,
    "stale": Outcome.CANCELLED,
    "action_required": Outcome.PENDING,
}


class GitHub:
    """One repository on GitHub. Asked by one thread at a time."""

    name: Final = "github"

    def __init__(
        self, place: Place, token: str, patience: Patience, *, write_pause: float = 1.0, source: str = ""
    ) -> None:
        """`write_pause`: seconds between two writes; `source`: where the token was found, for errors.

        Raises:
            TokenMissingError: PyGithub is not installed.
        """
        self.host: Final = place.host
        self._line = Line(place, token, patience.now, write_pause, source)
        self._patience = patience
        self._path = place.path
        self._owner = place.path.split("/")[0]
        self._repo = f"/repos/{quote(place.path)}"
        self._me: Identity | None = None
        self._standings: dict[int, Standing] = {}

    def close(self) -> None:
        """Let go of connections; a later question opens new ones."""
        self._line.close()

    # who

    def me(self) -> Identity:
        """Return whose token it is."""
        return self._patience.with_(self._whose)

    def _whose(self) -> Identity:
        if self._me is None:
            self._me = self._find_me()
        return self._me

    def _find_me(self) -> Identity:
        try:
            return self._identity(Fields.of(self._line.ask("GET", "/user"), "GET /user"))
        except ScopeMissingError:
            # The token of an App, GITHUB_TOKEN of Actions among them, has no /user; GraphQL tells whose it is.
            data = self._line.graphql("query { viewer { login databaseId } }", {})
            viewer = data.inner("viewer")
            return Identity(host=self.host, id=viewer.number("databaseId"), login=viewer.text("login"), kind=Kind.BOT)

    def standing(self, who: Identity) -> Standing:
        """Return what the account with that numeric id is and may do now; asked once an opened forge."""
        if who.id not in self._standings:
            self._standings[who.id] = self._patience.with_(lambda: self._find_standing(who))
        return self._standings[who.id]

    def _find_standing(self, who: Identity) -> Standing:
        try:
            login = who.login
            if not login:  # the policy has the id alone
                login = Fields.of(self._line.ask("GET", f"/user/{who.id}"), f"GET /user/{who.id}").text("login")
            path = f"{self._repo}/collaborators/{quote(login, safe='')}/permission"
            found = Fields.of(self._line.ask("GET", path), f"GET {path}")
        except NotFoundError:
            return Standing(access=Access.NONE, kind=who.kind)
        user = found.maybe_inner("user")
        # Asked by login, since GitHub knows no other way: a login that somebody else has by now is nobody we asked for.
        if user is None or user.number("id") != who.id:
            return Standing(access=Access.NONE, kind=who.kind)
        role = found.text("permission")
        return Standing(access=_ACCESS.get(role, Access.NONE), kind=self._identity(user).kind)

    # requests

    def request(self, number: int) -> Request:
        """Return a request as it is now."""
        return self._patience.with_(lambda: self._request(number))

    def _request(self, number: int) -> Request:
        where = f"GET {self._repo}/pulls/{number}"
        found = Fields.of(self._line.ask("GET", f"{self._repo}/pulls/{number}"), where)
        request = self._own(found)
        if request is None:
            raise RequestRefusedError(
                f"request {number} comes from a fork", where, "requests of this repository's own branches only"
            )
        if request.state is not RequestState.CLOSED:
            return request
        issue = Fields.of(self._line.ask("GET", f"{self._repo}/issues/{number}"), where)
        by = issue.maybe_inner("closed_by")
        return self._read_request(found, ended_by=self._identity(by) if by else None)

    def request_of(self, branch: str, base: str) -> Request | None:
        """Return the branch's open request into that base, else its newest, else None; who ended it is not told here."""
        return self._patience.with_(lambda: self._request_of(branch, base))

    def _request_of(self, branch: str, base: str) -> Request | None:
        query = {
            "head": f"{self._owner}:{branch}",
            "base": base,
            "state": "all",
            "sort": "created",
            "direction": "desc",
        }
        found = [self._own(each) for each in self._line.pages(f"{self._repo}/pulls", query)]
        ours = [each for each in found if each is not None and (each.branch, each.base) == (branch, base)]
        return next((each for each in ours if each.state is RequestState.OPEN), ours[0] if ours else None)

    def propose(self, *, branch: str, base: str, title: str, body: str) -> Request:
        """Return the branch's open request with this title and body; see `Forge.propose`."""
        return self._patience.with_(lambda: self._propose(branch, base, title, body))

    def _propose(self, branch: str, base: str, title: str, body: str) -> Request:
        there = self._request_of(branch, base)
        if there is None or there.state is not RequestState.OPEN:
            new = {"title": title, "body": body, "head": branch, "base": base}
            try:
                return self._read_request(self._line.post(f"{self._repo}/pulls", {**new, "draft": True}))
            except RequestRefusedError:
                # Somebody else opened it just now, or drafts are not part of this repository's plan.
                there = self._request_of(branch, base)
            if there is None or there.state is not RequestState.OPEN:
                return self._read_request(self._line.post(f"{self._repo}/pulls", {**new, "draft": False}))
        changes = {}
        if there.title != title:
            changes["title"] = title
        if not same_text(there.body, body):
            changes["body"] = body
        if not changes:
            return there
        path = f"{self._repo}/pulls/{there.number}"
        return self._read_request(Fields.of(self._line.ask("PATCH", path, body=changes), f"PATCH {path}"))

    def mark_ready(self, number: int) -> Request:
        """Return the request, no longer a draft."""
        return self._patience.with_(lambda: self._mark(number, draft=False))

    def mark_draft(self, number: int) -> Request:
        """Return the request, a draft again; as it is where drafts are not part of the repository's plan."""
        return self._patience.with_(lambda: self._mark(number, draft=True))

    def _mark(self, number: int, *, draft: bool) -> Request:
        found = Fields.of(self._line.ask("GET", f"{self._repo}/pulls/{number}"), f"GET {self._repo}/pulls/{number}")
        if found.flag("draft") != draft:  # REST cannot
            act = "convertPullRequestToDraft" if draft else "markPullRequestReadyForReview"
            question = f"mutation ($id: ID!) {{ {act}(input: {{pullRequestId: $id}}) {{ pullRequest {{ isDraft }} }} }}"
            try:
                self._line.graphql(question, {"id": found.text("node_id")})
            except RequestRefusedError:
                if not draft:
                    raise
        return self._request(number)

    # comments

    def comments(self, number: int) -> tuple[Comment, ...]:
        """Return what people and programs wrote on a request, oldest first."""
        return self._patience.with_(lambda: self._comments(number))

    def _comments(self, number: int) -> tuple[Comment, ...]:
        found = self._line.pages(f"{self._repo}/issues/{number}/comments", {})
        return tuple(self._comment(each) for each in found if each.maybe_inner("user") is not None)

    def keep_comment(self, number: int, key: str, body: str) -> Comment:
        """Return our one comment of that key, which now says `body`; see `Forge.keep_comment`."""
        return self._patience.with_(lambda: self._keep_comment(number, marker(key), body))

    def _keep_comment(self, number: int, mark: str, body: str) -> Comment:
        whole, me = f"{mark}\n{body}", self._whose()
        for there in self._comments(number):
            if there.by == me and there.body.replace("\r\n", "\n").split("\n")[:1] == [mark]:
                if same_text(there.body, whole):
                    return there
                path = f"{self._repo}/issues/comments/{there.id}"
                return self._comment(Fields.of(self._line.ask("PATCH", path, body={"body": whole}), f"PATCH {path}"))
        return self._comment(self._line.post(f"{self._repo}/issues/{number}/comments", {"body": whole}))

    # statuses and checks

    def statuses(self, commit: str) -> tuple[Status, ...]:
        """Return our statuses of a commit as they stand."""
        return self._patience.with_(lambda: self._statuses(commit))

    def _statuses(self, commit: str) -> tuple[Status, ...]:
        return tuple(
            Status(
                context=each.text("context"),
                state=_STATES.get(each.text("state"), StatusState.FAILURE),
                text=status_text(each.maybe("description") or ""),  # whoever may write it wrote it
                url=each.maybe("target_url") or "",
            )
            for each in self._all_statuses(commit)
            if each.value.get("context") in OUR_CONTEXTS
        )

    def _all_statuses(self, commit: str) -> Iterator[Fields]:
        return self._line.pages(f"{self._repo}/commits/{quote(commit, safe='')}/status", {}, key="statuses")

    def report(self, commit: str, statuses: Collection[Status], *, branch: str) -> tuple[Status, ...]:
        """Set what differs from what stands, and return only that. GitHub needs no `branch`."""
        return self._patience.with_(lambda: self._report(commit, statuses))

    def _report(self, commit: str, statuses: Collection[Status]) -> tuple[Status, ...]:
        if not statuses:
            return ()
        there = self._statuses(commit)
        wanted = tuple(each for each in statuses if each not in there)
        for each in wanted:
            words = {"state": each.state.value, "context": each.context, "description": each.text}
            link = {"target_url": each.url} if each.url else {}
            self._line.post(f"{self._repo}/statuses/{quote(commit, safe='')}", {**words, **link})
        return wanted

    def checks(self, commit: str) -> tuple[Check, ...]:
        """Return what CI says of a commit: check runs, and statuses that are not ours."""
        return self._patience.with_(lambda: self._checks(commit))

    def _checks(self, commit: str) -> tuple[Check, ...]:
        path = f"{self._repo}/commits/{quote(commit, safe='')}/check-runs"
        runs = [self._check_run(each) for each in self._line.pages(path, {"filter": "latest"}, key="check_runs")]
        statuses = [
            Check(
                name=each.text("context"),
                outcome=Outcome(_STATES.get(each.text("state"), StatusState.FAILURE).value),
                url=each.maybe("target_url") or "",
                app=None,
                is_status=True,
            )
            for each in self._all_statuses(commit)
            if each.text("context") not in OUR_CONTEXTS
        ]
        return (*runs, *statuses)

    def is_over(self, job: str) -> bool:
        """Return whether the run of Actions that has the job is over, however it ended; see `Forge.is_over`."""
        found = re.fullmatch(
            rf"https?://{re.escape(self.host)}/{re.escape(self._path)}/actions/runs/([0-9]{{1,19}})", job
        )
        if found is None:
            return False
        path = f"{self._repo}/actions/runs/{found[1]}"
        run = self._patience.with_(lambda: Fields.of(self._line.ask("GET", path), f"GET {path}"))
        return run.text("status") == "completed"

    # reviews and who wrote

    def reviews(self, number: int) -> tuple[Review, ...]:
        """Return the reviews of a request, in the order in which they were given."""
        return self._patience.with_(lambda: self._reviews(number))

    def _reviews(self, number: int) -> tuple[Review, ...]:
        found = [
            each
            for each in self._line.pages(f"{self._repo}/pulls/{number}/reviews", {})
            # one that is not sent yet, or of an account that is gone
            if each.text("state").lower() != "pending" and each.maybe_inner("user") is not None
        ]
        ends: dict[int, Fields] = {}
        if any(each.text("state").lower() == "dismissed" for each in found):
            # What it said before, and at which push the forge itself ended it, only the events tell.
            for event in self._line.pages(f"{self._repo}/issues/{number}/events", {}):
                if event.text("event") == "review_dismissed":
                    ends[event.inner("dismissed_review").number("review_id")] = event
        return tuple(self._review(each, ends.get(each.number("id"))) for each in found)

    def _review(self, found: Fields, end: Fields | None) -> Review:
        state = found.text("state").lower()
        said, dismissed = _SAID.get(state, Said.UNKNOWN), None
        if state == "dismissed":
            dismissed = Dismissal(by=None, time=None, commit=None)
            if end is not None:
                before, actor = end.inner("dismissed_review"), end.maybe_inner("actor")
                said = _SAID.get(before.text("state").lower(), Said.UNKNOWN)
                dismissed = Dismissal(
                    by=self._identity(actor) if actor else None,
                    time=end.maybe("created_at"),
                    commit=before.maybe("dismissal_commit_id"),
                )
        return Review(
            id=str(found.number("id")),
            by=self._identity(found.inner("user")),
            said=said,
            commit=found.maybe("commit_id"),
            time=found.maybe("submitted_at") or "",
            dismissed=dismissed,
        )

    def pushes(self, branch: str) -> tuple[Push, ...]:
        """Return who pushed to the branch, newest first."""
        return self._patience.with_(lambda: self._pushes(branch))

    def _pushes(self, branch: str) -> tuple[Push, ...]:
        return tuple(
            Push(
                by=self._identity(actor) if (actor := each.maybe_inner("actor")) else None,
                before=_commit_or_none(each.text("before")),
                after=_commit_or_none(each.text("after")),
                time=each.text("timestamp"),
                forced=each.text("activity_type") == "force_push",
            )
            for each in self._line.pages(f"{self._repo}/activity", {"ref": f"refs/heads/{branch}"})
        )

    def commits(self, number: int) -> tuple[Commit, ...]:
        """Return the request's commits; GitHub lists 250 at most."""
        return self._patience.with_(lambda: self._commits(number))

    def _commits(self, number: int) -> tuple[Commit, ...]:
        return tuple(
            Commit(
                oid=each.text("sha"), author=self._account(each, "author"), committer=self._account(each, "committer")
            )
            for each in self._line.pages(f"{self._repo}/pulls/{number}/commits", {})
        )

    # settings

    def settings(self, branch: str) -> Settings:
        """Return what the repository allows and what guards the branch, as far as the token may see."""
        return self._patience.with_(lambda: self._settings(branch))

    def _settings(self, branch: str) -> Settings:
        headers, value = self._line.send("GET", self._repo)
        found = Fields.of(value, f"GET {self._repo}")
        allowed = {
            MergeMethod.MERGE: "allow_merge_commit",
            MergeMethod.SQUASH: "allow_squash_merge",
            MergeMethod.REBASE: "allow_rebase_merge",
        }
        rights = found.maybe_inner("permissions")
        access = Access.NONE
        for level, key in ((Access.ADMIN, "admin"), (Access.WRITE, "push"), (Access.READ, "pull")):
            if rights is not None and rights.flag(key):
                access = level
                break
        scopes = headers.get("x-oauth-scopes")
        return Settings(
            default_branch=found.text("default_branch"),
            methods=frozenset(method for method, key in allowed.items() if found.flag(key)),
            access=access,
            scopes=None if scopes is None else tuple(word.strip() for word in scopes.split(",") if word.strip()),
            protection=self._protection(branch),
        )

    def _protection(self, branch: str) -> Protection:
        at = f"{self._repo}/branches/{quote(branch, safe='')}"
        found = Fields.of(self._line.ask("GET", at), f"GET {at}")
        rules: dict[str, list[Fields]] = {}
        for rule in self._line.pages(f"{self._repo}/rules/branches/{quote(branch, safe='')}", {}):
            parameters = rule.maybe_inner("parameters") or Fields({}, rule.where)
            rules.setdefault(rule.text("type"), []).append(parameters)
        classic: Fields | None = Fields({}, at)
        if found.flag("protected"):
            try:
                classic = Fields.of(self._line.ask("GET", f"{at}/protection"), f"GET {at}/protection")
            except NotFoundError:  # protected by rules alone
                pass
            except ScopeMissingError:
                classic = None
        pulls = [each for each in rules.get("pull_request", [])]
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
        counts = [int(each.value.get("required_approving_review_count") or 0) for each in pulls]

        def either(seen: bool, key: str) -> bool | None:
            """True where something says so; unknown where the classic protection may not be seen."""
            if seen:
                return True
            if classic is None:
                return None
            inner = classic.maybe_inner(key)
            return inner.flag("enabled") if inner is not None else False

        def pull(key: str) -> bool | None:
            return True if any(each.flag(key) for each in pulls) else (None if classic is None else False)

        return Protection(
            protected=found.flag("protected") or bool(rules),
            required_checks=tuple(dict.fromkeys(checks)),
            required_reviews=None if classic is None and not counts else max(counts, default=0),
            dismisses_stale=pull("dismiss_stale_reviews_on_push") or pull("dismiss_stale_reviews"),
            last_pusher_refused=pull("require_last_push_approval"),
            forced_pushes=self._allowed(found, classic, rules, "non_fast_forward", "allow_force_pushes"),
            deletions=self._allowed(found, classic, rules, "deletion", "allow_deletions"),
            linear=either("required_linear_history" in rules, "required_linear_history"),
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
        inner = classic.maybe_inner(key)
        return inner is not None and inner.flag("enabled")

    # reading what came

    def _identity(self, user: Fields) -> Identity:
        kind = Kind.PERSON if user.maybe("type") == "User" else Kind.BOT
        return Identity(host=self.host, id=user.number("id"), login=user.text("login"), kind=kind)

    def _account(self, found: Fields, key: str) -> Identity | None:
        inner = found.maybe_inner(key)
        return self._identity(inner) if inner is not None and inner.value else None

    def _own(self, found: Fields) -> Request | None:
        """Return a request of one of the repository's own branches; None where it comes from a fork (P8)."""
        head = found.inner("head").maybe_inner("repo")
        if head is None or head.number("id") != found.inner("base").inner("repo").number("id"):
            return None
        return self._read_request(found)

    def _read_request(self, found: Fields, *, ended_by: Identity | None = None) -> Request:
        merged = found.maybe("merged_at") if found.text("state") == "closed" else None
        merger = found.maybe_inner("merged_by")
        state = RequestState.MERGED if merged else RequestState(found.text("state"))
        return Request(
            number=found.number("number"),
            url=found.text("html_url"),
            title=found.text("title"),
            body=found.maybe("body") or "",
            state=state,
            draft=found.flag("draft"),
            branch=found.inner("head").text("ref"),
            base=found.inner("base").text("ref"),
            head=found.inner("head").text("sha"),
            # of one that is open it would be the commit of a trial merge
            merged=found.maybe("merge_commit_sha") if merged else None,
            ended=merged or found.maybe("closed_at"),
            ended_by=ended_by or (self._identity(merger) if merger else None),
        )

    def _comment(self, found: Fields) -> Comment:
        return Comment(
            id=found.number("id"),
            by=self._identity(found.inner("user")),
            body=found.maybe("body") or "",
            url=found.text("html_url"),
            time=found.text("created_at"),
            edited=found.text("created_at") != found.text("updated_at"),
        )

    def _check_run(self, found: Fields) -> Check:
        app = found.maybe_inner("app")
        conclusion = found.maybe("conclusion")
        is_over = found.text("status") == "completed" and conclusion is not None
        return Check(
            name=found.text("name"),
            outcome=_OUTCOMES.get(conclusion or "", Outcome.FAILURE) if is_over else Outcome.PENDING,
            url=found.maybe("html_url") or found.maybe("details_url") or "",
            app=app.number("id") if app else None,
            is_status=False,
        )


def _commit_or_none(oid: str) -> str | None:
    return oid if oid.strip("0") else None
