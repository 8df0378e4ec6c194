"""GitLab: the `Forge` protocol in GitLab's words. How it is asked is `gitlab_line.py`'s matter.

What GitLab has otherwise than GitHub: an approval is tied to a version of the request by the time at which it was given; one
that GitLab reset at a push is gone without a trace; a pending status can only go forward, so its text stays; and what stands
at the beginning of a line like a quick action would be carried out, so it is written otherwise.

Least rights: `gitlab_line.RIGHTS`: no scope below `api` may write comments. With `read_api` everything can be read and
nothing written. CI_JOB_TOKEN may not use these routes.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Final
from urllib.parse import quote

from runner.forge.answer import Fields
from runner.forge.base import (
    OUR_CONTEXTS,
    Access,
    Check,
    Comment,
    Commit,
    Identity,
    Kind,
    MalformedAnswerError,
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
    TokenRefusedError,
    marker,
    same_text,
    status_text,
)
from runner.forge.gitlab_line import Line
from runner.forge.place import Place
from runner.forge.retrying import Patience

_PUSH_PAGES: Final = 10  # of a project's pushes, a hundred each: the events of all its branches are one list
_DRAFT: Final = re.compile(r"^\s*(?:(?:\[draft\]|\(draft\)|draft:)\s*)+", re.IGNORECASE)
_DEVELOPER, _MAINTAINER, _GUEST = 30, 40, 10
_STATES: Final = {
    "pending": StatusState.PENDING,
    "running": StatusState.PENDING,
    "success": StatusState.SUCCESS,
}
_OUTCOMES: Final = {
    "success": Outcome.SUCCESS,
    "failed": Outcome.FAILURE,
    "canceled": Outcome.CANCELLED,
    "skipped": Outcome.NEUTRAL,
    "manual": Outcome.NEUTRAL,
}

_OVER: Final = frozenset(
    ("success", "failed", "canceled", "skipped")
)  # what a job does not leave but by being started anew


class GitLab:
    """One project on GitLab. Asked by one thread at a time."""

    name: Final = "gitlab"

    def __init__(self, place: Place, token: str, patience: Patience, *, source: str = "") -> None:
        """Look for what is needed; nothing is imported or connected to yet. `source`: where the token was found, for errors.

        Raises:
            TokenMissingError: python-gitlab is not installed.
        """
        self.host: Final = place.host
        self._line = Line(place, token, patience.now, source)
        self._place, self._patience = place, patience
        self._project = f"/projects/{quote(place.path, safe='')}"
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
            self._me = self._identity(self._line.one("/user"))
        return self._me

    def standing(self, who: Identity) -> Standing:
        """Return what the account with that numeric id is and may do now; asked once an opened forge."""
        if who.id not in self._standings:
            self._standings[who.id] = self._patience.with_(lambda: self._find_standing(who.id))
        return self._standings[who.id]

    def _find_standing(self, user: int) -> Standing:
        kind, access = None, Access.NONE
        try:
            kind = self._kind(self._line.one(f"/users/{user}"))
            member = self._line.one(f"{self._project}/members/all/{user}")
        except NotFoundError:
            return Standing(access=Access.NONE, kind=kind)
        if member.text("state") == "active":  # not blocked, and not only invited
            access = _access(member.number("access_level"))
        return Standing(access=access, kind=kind)

    # requests

    def request(self, number: int) -> Request:
        """Return a request as it is now."""
        return self._patience.with_(lambda: self._request(number))

    def _request(self, number: int) -> Request:
        found = self._line.one(f"{self._project}/merge_requests/{number}")
        request = self._own(found)
        if request is None:
            hint = "requests of this project's own branches only"
            raise RequestRefusedError(f"request {number} comes from a fork", found.where, hint)
        return request

    def request_of(self, branch: str, base: str) -> Request | None:
        """Return the branch's open request into that base, else its newest, else None."""
        return self._patience.with_(lambda: self._request_of(branch, base))

    def _request_of(self, branch: str, base: str) -> Request | None:
        query = {
            "source_branch": branch,
            "target_branch": base,
            "state": "all",
            "order_by": "created_at",
            "sort": "desc",
        }
        found = [self._own(each) for each in self._line.pages(f"{self._project}/merge_requests", query)]
        ours = [each for each in found if each is not None and (each.branch, each.base) == (branch, base)]
        return next((each for each in ours if each.state is RequestState.OPEN), ours[0] if ours else None)

    def propose(self, *, branch: str, base: str, title: str, body: str) -> Request:
        """Return the branch's open request with this title and body; see `Forge.propose`."""
        return self._patience.with_(lambda: self._propose(branch, base, title, plain(body)))

    def _propose(self, branch: str, base: str, title: str, body: str) -> Request:
        there = self._request_of(branch, base)
        if there is None or there.state is not RequestState.OPEN:
            new = {"source_branch": branch, "target_branch": base, "title": f"Draft: {title}", "description": body}
            try:
                return self._read_request(self._line.send("POST", f"{self._project}/merge_requests", new))
            except RequestRefusedError:
                there = self._request_of(branch, base)  # somebody else opened it just now
                if there is None or there.state is not RequestState.OPEN:
                    raise
        changes = {}
        if there.title != title:
            changes["title"] = f"Draft: {title}" if there.draft else title
        if not same_text(there.body, body):
            changes["description"] = body
        if not changes:
            return there
        return self._read_request(self._line.send("PUT", f"{self._project}/merge_requests/{there.number}", changes))

    def mark_ready(self, number: int) -> Request:
        """Return the request, no longer a draft."""
        return self._patience.with_(lambda: self._mark(number, draft=False))

    def mark_draft(self, number: int) -> Request:
        """Return the request, a draft again."""
        return self._patience.with_(lambda: self._mark(number, draft=True))

    def _mark(self, number: int, *, draft: bool) -> Request:
        there = self._request(number)
        if there.draft == draft:
            return there
        path = f"{self._project}/merge_requests/{number}"
        title = f"Draft: {there.title}" if draft else there.title
        return self._read_request(self._line.send("PUT", path, {"title": title}))

    # comments

    def comments(self, number: int) -> tuple[Comment, ...]:
        """Return what people and programs wrote on a request, oldest first; what GitLab itself noted is left out."""
        return self._patience.with_(lambda: self._comments(number))

    def _comments(self, number: int) -> tuple[Comment, ...]:
        query = {"sort": "asc", "order_by": "created_at"}
        found = self._line.pages(f"{self._project}/merge_requests/{number}/notes", query)
        return tuple(self._comment(each, number) for each in found if not each.flag("system"))

    def keep_comment(self, number: int, key: str, body: str) -> Comment:
        """Return our one comment of that key, which now says `body`; see `Forge.keep_comment`."""
        return self._patience.with_(lambda: self._keep_comment(number, marker(key), plain(body)))

    def _keep_comment(self, number: int, mark: str, body: str) -> Comment:
        whole, me = f"{mark}\n{body}", self._whose()
        notes = f"{self._project}/merge_requests/{number}/notes"
        for there in self._comments(number):
            if there.by == me and there.body.replace("\r\n", "\n").split("\n")[:1] == [mark]:
                if same_text(there.body, whole):
                    return there
                return self._comment(self._line.send("PUT", f"{notes}/{there.id}", {"body": whole}), number)
        return self._comment(self._line.send("POST", notes, {"body": whole}), number)

    # statuses and checks

    def statuses(self, commit: str) -> tuple[Status, ...]:
        """Return our statuses of a commit as they stand."""
        return self._patience.with_(lambda: self._statuses(commit))

    def _statuses(self, commit: str) -> tuple[Status, ...]:
        found = (each for each in self._all_statuses(commit) if each.value.get("name") in OUR_CONTEXTS)
        newest = {each.text("name"): each for each in found}  # oldest first: the last one of a name is the newest
        return tuple(
            Status(
                context=name,
                state=_STATES.get(each.text("status"), StatusState.FAILURE),
                text=status_text(each.maybe("description") or ""),  # whoever may write it wrote it
                url=each.maybe("target_url") or "",
            )
            for name, each in newest.items()
        )

    def _all_statuses(self, commit: str) -> Iterator[Fields]:
        return self._line.pages(f"{self._project}/repository/commits/{quote(commit, safe='')}/statuses", {})

    def report(self, commit: str, statuses: Collection[Status], *, branch: str) -> tuple[Status, ...]:
        """Set what differs from what stands, and return only that. A pending status keeps its text till it ends."""
        return self._patience.with_(lambda: self._report(commit, statuses, branch))

    def _report(self, commit: str, statuses: Collection[Status], branch: str) -> tuple[Status, ...]:
        if not statuses:
            return ()
        there = {each.context: each for each in self._statuses(commit)}
        wanted = []
        for each in statuses:
            if _is_said(there.get(each.context), each):
                continue
            wanted.append(each)
            words = {
                "state": "failed" if each.state is StatusState.FAILURE else each.state.value,
                "name": each.context,
                "ref": branch,
                "description": each.text,
            }
            link = {"target_url": each.url} if each.url else {}
            try:
                self._line.send("POST", f"{self._project}/statuses/{quote(commit, safe='')}", {**words, **link})
            except RequestRefusedError:
                # GitLab takes nothing twice: another job may have said it meanwhile.
                now = {one.context: one for one in self._statuses(commit)}
                if not _is_said(now.get(each.context), each):
                    raise
        return tuple(wanted)

    def checks(self, commit: str) -> tuple[Check, ...]:
        """Return what CI says of a commit: its jobs and other programs' statuses, and pipelines that had none.

        Pipelines are not asked for their own status: our pending ones are part of it, so each would wait for the other.
        """
        return self._patience.with_(lambda: self._checks(commit))

    def _checks(self, commit: str) -> tuple[Check, ...]:
        statuses = list(self._all_statuses(commit))
        newest = {each.text("name"): each for each in statuses if each.text("name") not in OUR_CONTEXTS}
        found = [self._check(name, each) for name, each in newest.items()]
        for each in self._line.pages(f"{self._project}/pipelines", {"sha": commit}):
            # One that failed without a job has an error in its file.
            if each.text("status") == "failed" and each.text("source") != "external" and not newest:
                url = each.maybe("web_url") or ""
                found.append(Check(name="pipeline", outcome=Outcome.FAILURE, url=url, app=None, is_status=False))
        return tuple(found)

    def _check(self, name: str, found: Fields) -> Check:
        outcome = _OUTCOMES.get(found.text("status"), Outcome.PENDING)
        if outcome is Outcome.FAILURE and found.flag("allow_failure"):
            outcome = Outcome.NEUTRAL
        # GitLab gives jobs and statuses alike; either could have been set by whoever may write one.
        return Check(name=name, outcome=outcome, url=found.maybe("target_url") or "", app=None, is_status=True)

    def is_over(self, job: str) -> bool:
        """Return whether the job is over, however it ended; see `Forge.is_over`."""
        where = re.escape(f"{self._place.host}/{self._place.path}")
        found = re.fullmatch(rf"https?://{where}/-/jobs/([0-9]{{1,19}})", job)
        if found is None:
            return False
        told = self._patience.with_(lambda: self._line.one(f"{self._project}/jobs/{found[1]}"))
        return told.text("status") in _OVER

    # reviews and who wrote

    def reviews(self, number: int) -> tuple[Review, ...]:
        """Return the approvals that stand, and the requests for changes that stand; of the latter GitLab tells no commit."""
        return self._patience.with_(lambda: self._reviews(number))

    def _reviews(self, number: int) -> tuple[Review, ...]:
        at = f"{self._project}/merge_requests/{number}"
        given = [
            (each.inner("user"), each.maybe("approved_at"))
            for each in self._line.one(f"{at}/approvals").several("approved_by")
        ]
        if any(time is None for _, time in given):  # an older GitLab; its events tell the times
            times = self._approval_times(number)
            given = [(user, time or times.get(user.number("id"))) for user, time in given]
        versions = (
            [
                (_time(v.text("created_at"), v.where), v.text("head_commit_sha"))
                for v in self._line.pages(f"{at}/versions", {})
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
            found.append(Review(id=f"{number}-{by.id}", by=by, said=Said.APPROVED, commit=commit, time=time or ""))
        for each in self._line.pages(f"{at}/reviewers", {}):
            if each.text("state") == "requested_changes":  # an approval of the same person's would have ended it
                by = self._identity(each.inner("user"))
                found.append(Review(id=f"{number}-{by.id}-changes", by=by, said=Said.CHANGES, commit=None, time=""))
        return tuple(found)

    def _approval_times(self, number: int) -> dict[int, str]:
        """Return when each account last approved the request."""
        times: dict[int, str] = {}
        query = {"action": "approved", "target_type": "merge_request", "sort": "desc"}
        for event in self._line.pages(f"{self._project}/events", query, limit=_PUSH_PAGES):
            if event.value.get("target_iid") == number and event.text("action_name") == "approved":
                times.setdefault(event.number("author_id"), event.text("created_at"))
        return times

    def pushes(self, branch: str) -> tuple[Push, ...]:
        """Return who pushed to the branch, newest first, out of the project's last thousand pushes.

        A push of many branches at once is told without their names; it may have been to this one, so it is among them.
        """
        return self._patience.with_(lambda: self._pushes(branch))

    def _pushes(self, branch: str) -> tuple[Push, ...]:
        found = []
        for event in self._line.pages(
            f"{self._project}/events", {"action": "pushed", "sort": "desc"}, limit=_PUSH_PAGES
        ):
            data = event.maybe_inner("push_data")
            if data is None or data.maybe("ref_type") == "tag" or data.maybe("ref") not in (branch, None):
                continue
            author = event.maybe_inner("author")
            found.append(
                Push(
                    by=self._identity(author) if author else None,
                    before=data.maybe("commit_from"),
                    after=data.maybe("commit_to"),
                    time=event.text("created_at"),
                    forced=None,
                )
            )
        return tuple(found)

    def commits(self, number: int) -> tuple[Commit, ...]:
        """Return the request's commits, oldest first; GitLab names no accounts for them."""
        return self._patience.with_(lambda: self._commits(number))

    def _commits(self, number: int) -> tuple[Commit, ...]:
        found = self._line.pages(f"{self._project}/merge_requests/{number}/commits", {})
        return tuple(Commit(oid=each.text("id"), author=None, committer=None) for each in reversed(list(found)))

    # settings

    def settings(self, branch: str) -> Settings:
        """Return what the project allows and what guards the branch, as far as the token may see."""
        return self._patience.with_(lambda: self._settings(branch))

    def _settings(self, branch: str) -> Settings:
        found = self._line.one(self._project)
        method, squash = found.text("merge_method"), found.maybe("squash_option") or "default_off"
        methods = set()
        if squash != "never":
            methods.add(MergeMethod.SQUASH)
        if squash != "always":
            methods.add(MergeMethod.FAST_FORWARD if method == "ff" else MergeMethod.MERGE)
        rights = found.maybe_inner("permissions")
        levels = [
            inner.number("access_level")
            for key in ("project_access", "group_access")
            if rights is not None and (inner := rights.maybe_inner(key)) is not None
        ]
        scopes = None
        with contextlib.suppress(NotFoundError, TokenRefusedError, ScopeMissingError):  # another kind of token
            token = self._line.one("/personal_access_tokens/self")
            scopes = tuple(str(scope) for scope in token.value.get("scopes") or ())
        return Settings(
            default_branch=found.text("default_branch"),
            methods=frozenset(methods),
            access=_access(max(levels, default=0)),
            scopes=scopes,
            protection=self._protection(branch, found),
        )

    def _protection(self, branch: str, project: Fields) -> Protection:
        rules: list[Fields] | None = None
        approvals: Fields | None = None
        with contextlib.suppress(NotFoundError, ScopeMissingError):
            every = self._line.pages(f"{self._project}/protected_branches", {})
            rules = [each for each in every if fnmatchcase(branch, each.text("name"))]
        with contextlib.suppress(NotFoundError, ScopeMissingError):  # not a Premium instance, or not to be seen
            approvals = self._line.one(f"{self._project}/approvals")
        pipelines = project.flag("only_allow_merge_if_pipeline_succeeds")
        return Protection(
            protected=None if rules is None else bool(rules),
            # GitLab requires whole pipelines, and no check by its name; ours are part of them.
            required_checks=OUR_CONTEXTS if pipelines else (),
            required_reviews=None,
            dismisses_stale=approvals.flag("reset_approvals_on_push") if approvals else None,
            last_pusher_refused=approvals.flag("merge_requests_disable_committers_approval") if approvals else None,
            forced_pushes=None if rules is None else not rules or all(each.flag("allow_force_push") for each in rules),
            deletions=None if rules is None else not rules,
            linear=project.text("merge_method") in ("ff", "rebase_merge"),
        )

    # reading what came

    def _kind(self, user: Fields) -> Kind | None:
        bot = user.maybe_flag("bot")
        return None if bot is None else Kind.BOT if bot else Kind.PERSON

    def _identity(self, user: Fields) -> Identity:
        return Identity(host=self.host, id=user.number("id"), login=user.text("username"), kind=self._kind(user))

    def _own(self, found: Fields) -> Request | None:
        """Return a request of one of the project's own branches; None where it comes from a fork (P8)."""
        if found.value.get("source_project_id") != found.number("target_project_id"):
            return None
        return self._read_request(found)

    def _read_request(self, found: Fields) -> Request:
        state = {"opened": RequestState.OPEN, "locked": RequestState.OPEN, "merged": RequestState.MERGED}
        is_merged = found.text("state") == "merged"
        by = found.maybe_inner("merge_user") or found.maybe_inner("merged_by") or found.maybe_inner("closed_by")
        head = found.text("sha")
        return Request(
            number=found.number("iid"),
            url=found.text("web_url"),
            title=_DRAFT.sub("", found.text("title")),
            body=found.maybe("description") or "",
            state=state.get(found.text("state"), RequestState.CLOSED),
            draft=found.flag("draft"),
            branch=found.text("source_branch"),
            base=found.text("target_branch"),
            head=head,
            # A fast-forward makes no commit: the head itself is then on the base.
            merged=(found.maybe("merge_commit_sha") or found.maybe("squash_commit_sha") or head) if is_merged else None,
            ended=found.maybe("merged_at") or found.maybe("closed_at"),
            ended_by=self._identity(by) if by else None,
        )

    def _comment(self, found: Fields, number: int) -> Comment:
        return Comment(
            id=found.number("id"),
            by=self._identity(found.inner("author")),
            body=found.maybe("body") or "",
            url=f"{self._place.site}/{self._place.path}/-/merge_requests/{number}#note_{found.number('id')}",
            time=found.text("created_at"),
            edited=found.text("created_at") != found.text("updated_at"),
        )


def plain(text: str) -> str:
    """Return text that GitLab shows as it is: a line that begins as a quick action does would be carried out as one."""
    return re.sub(r"(?m)^([ \t]*)/(?=[A-Za-z_])", r"\1\\/", text)


def _access(level: int) -> Access:
    if level >= _MAINTAINER:
        return Access.ADMIN
    if level >= _DEVELOPER:
        return Access.WRITE
    return Access.READ if level >= _GUEST else Access.NONE


def _time(text: str, where: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:  # one without a zone is before and after everything
        raise MalformedAnswerError(f"`{text[:40]}` is no time", where, "report it, with GitLab's version")
    return moment


def _is_said(stands: Status | None, wanted: Status) -> bool:
    """Return whether a status needs no saying: it stands, or it goes on pending, for which GitLab takes no other text."""
    return stands == wanted or (stands is not None and stands.state is wanted.state is StatusState.PENDING)
