"""GitLab, small, stateful and strict: the routes that the adapter may use, as GitLab's documentation describes them.

Each answer is an example copied from the vendor's page that stands beside it, with the values that the state decides put in
its place: a field that the example lacks cannot be answered. A path, a query's or a body's field that is not listed is refused.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote

from tests.forge.serving import Answer, Asked, Server, paged

API = "/api/v4"
PATH = "group/shop"
ZERO = "0" * 40

# https://docs.gitlab.com/api/users/#get-the-current-user, "Get a single user" (as a regular user)
USER = json.loads("""{
  "id": 1, "username": "john_smith", "name": "John Smith", "state": "active", "locked": false,
  "avatar_url": "http://localhost:3000/uploads/user/avatar/1/cd8.jpeg", "web_url": "http://localhost:3000/john_smith",
  "created_at": "2012-05-23T08:00:58Z", "bio": "", "bot": false, "location": null, "public_email": "john@example.com",
  "linkedin": "", "twitter": "", "discord": "", "github": "", "website_url": "", "organization": "",
  "job_title": "Operations Specialist", "pronouns": "he/him", "work_information": null, "followers": 1, "following": 1,
  "local_time": "3:38 PM", "is_followed": false
}""")

# https://docs.gitlab.com/api/members/ "Get a member of a group or project, including inherited and invited members"
MEMBER = json.loads("""{
  "id": 1, "username": "raymond_smith", "name": "Raymond Smith", "state": "active",
  "avatar_url": "https://www.gravatar.com/avatar/c2525a7f58ae3776070e44c106c48e15?s=80&d=identicon",
  "web_url": "http://192.168.1.8:3000/root", "access_level": 30, "email": "john@example.com", "expires_at": null,
  "group_saml_identity": null
}""")

# https://docs.gitlab.com/api/merge_requests/ "Get single MR"
MERGE_REQUEST = json.loads("""{
  "id": 155016530, "iid": 133, "project_id": 15513260, "title": "Manual job rules", "description": "", "state": "opened",
  "imported": false, "imported_from": "none", "created_at": "2022-05-13T07:26:38.402Z",
  "updated_at": "2022-05-14T03:38:31.354Z", "merged_by": null, "merge_user": null, "merged_at": null,
  "merge_after": "2018-09-07T11:16:00.000Z", "prepared_at": "2018-09-04T11:16:17.520Z", "closed_by": null, "closed_at": null,
  "target_branch": "main", "source_branch": "manual-job-rules", "user_notes_count": 0, "upvotes": 0, "downvotes": 0,
  "author": {
    "id": 4155490, "username": "marcel.amirault", "name": "Marcel Amirault", "state": "active",
    "avatar_url": "https://gitlab.com/uploads/-/system/user/avatar/4155490/avatar.png",
    "web_url": "https://gitlab.com/marcel.amirault"
  },
  "assignees": [], "assignee": null, "reviewers": [], "source_project_id": 15513260, "target_project_id": 15513260,
  "labels": [], "draft": false, "work_in_progress": false, "milestone": null, "merge_when_pipeline_succeeds": false,
  "merge_status": "can_be_merged", "detailed_merge_status": "can_be_merged",
  "sha": "e82eb4a098e32c796079ca3915e07487fc4db24c", "merge_commit_sha": null, "squash_commit_sha": null,
  "discussion_locked": null, "should_remove_source_branch": null, "force_remove_source_branch": true, "reference": "!133",
  "references": {"short": "!133", "relative": "!133", "full": "marcel.amirault/test-project!133"},
  "web_url": "https://gitlab.com/marcel.amirault/test-project/-/merge_requests/133",
  "time_stats": {"time_estimate": 0, "total_time_spent": 0, "human_time_estimate": null, "human_total_time_spent": null},
  "squash": false, "task_completion_status": {"count": 0, "completed_count": 0}, "has_conflicts": false,
  "blocking_discussions_resolved": true, "subscribed": true, "changes_count": "1",
  "latest_build_started_at": "2022-05-13T09:46:50.032Z", "latest_build_finished_at": null,
  "first_deployed_to_production_at": null,
  "diff_refs": {
    "base_sha": "1162f719d711319a2efb2a35566f3bfdadee8bab", "head_sha": "e82eb4a098e32c796079ca3915e07487fc4db24c",
    "start_sha": "1162f719d711319a2efb2a35566f3bfdadee8bab"
  },
  "merge_error": null, "first_contribution": false, "user": {"can_merge": true}
}""")

# https://docs.gitlab.com/api/notes/ "Get single merge request note"
NOTE = json.loads("""{
  "id": 301, "body": "Comment for MR", "attachment": null,
  "author": {
    "id": 1, "username": "pipin", "email": "admin@example.com", "name": "Pip", "state": "active",
    "created_at": "2013-09-30T13:46:01Z"
  },
  "created_at": "2013-10-02T08:57:14Z", "updated_at": "2013-10-02T08:57:14Z", "system": false, "noteable_id": 2,
  "noteable_type": "MergeRequest", "project_id": 5, "noteable_iid": 2, "resolvable": false, "confidential": false,
  "internal": false
}""")

# https://docs.gitlab.com/api/merge_request_approvals/ "Merge request-level MR approvals", "Get Configuration"; `approved_at`
# beside `user` since gitlab-org/gitlab!204605 ("Include approved_at timestamp in approvals API response")
APPROVALS = json.loads("""{
  "id": 5, "iid": 5, "project_id": 1, "title": "Approvals API", "description": "Test", "state": "opened",
  "created_at": "2016-06-08T00:19:52.638Z", "updated_at": "2016-06-08T21:20:42.470Z", "merge_status": "cannot_be_merged",
  "approvals_required": 2, "approvals_left": 1,
  "approved_by": [
    {"user": {
      "name": "Administrator", "username": "root", "id": 1, "state": "active",
      "avatar_url": "http://www.gravatar.com/avatar/e64c7d89f26bd1972efa854d13d7dd61?s=80&d=identicon",
      "web_url": "http://localhost:3000/root"
    }}
  ]
}""")

# https://docs.gitlab.com/api/merge_requests/ "Get single merge request reviewers"; the states are those of the page's history
# and of GraphQL's MergeRequestReviewState: unreviewed, reviewed, requested_changes, approved, unapproved, review_started
REVIEWER = json.loads("""{
  "user": {
    "id": 1, "name": "John Doe1", "username": "user1", "state": "active",
    "avatar_url": "http://www.gravatar.com/avatar/c922747a93b40d1ea88262bf1aebee62?s=80&d=identicon",
    "web_url": "http://localhost/user1"
  },
  "state": "unreviewed", "created_at": "2022-07-27T17:03:27.684Z"
}""")

# https://docs.gitlab.com/api/merge_requests/ "Get merge request diff versions"
VERSION = json.loads("""{
  "id": 110, "head_commit_sha": "33e2ee8579fda5bc36accc9c6fbd0b4fefda9e30",
  "base_commit_sha": "eeb57dffe83deb686a60a71c16c32f71046868fd",
  "start_commit_sha": "eeb57dffe83deb686a60a71c16c32f71046868fd", "created_at": "2016-07-26T14:44:48.926Z",
  "merge_request_id": 105, "state": "collected", "real_size": "1",
  "patch_id_sha": "d504412d5b6e6739647e752aff8e468dde093f2f"
}""")

# https://docs.gitlab.com/api/merge_requests/ "Get single merge request commits"
COMMIT = json.loads("""{
  "id": "ed899a2f4b50b4370feeea94676502b42383c746", "short_id": "ed899a2f4b5", "title": "Replace sanitize with escape once",
  "author_name": "Example User", "author_email": "user@example.com", "authored_date": "2012-09-20T11:50:22+03:00",
  "committer_name": "Example User", "committer_email": "user@example.com", "committed_date": "2012-09-20T11:50:22+03:00",
  "created_at": "2012-09-20T11:50:22+03:00", "message": "Replace sanitize with escape once", "trailers": {},
  "extended_trailers": {},
  "web_url": "https://gitlab.example.com/project/-/commit/ed899a2f4b50b4370feeea94676502b42383c746"
}""")

# https://docs.gitlab.com/api/commits/ "List the statuses of a commit", "Set the pipeline status of a commit". The page says
# that `ref` is the default branch where it is not given; lib/api/commit_statuses.rb filters by it only where it is given, and
# that is what is done here.
STATUS = json.loads("""{
  "status": "pending", "created_at": "2016-01-19T08:40:25.934Z", "started_at": null, "name": "bundler:audit",
  "allow_failure": true,
  "author": {
    "username": "janedoe", "state": "active", "web_url": "https://gitlab.example.com/janedoe",
    "avatar_url": "https://gitlab.example.com/uploads/user/avatar/28/jane-doe-400-400.png", "id": 28, "name": "Jane Doe"
  },
  "description": null, "sha": "18f3e63d05582537db6d183d9d557be09e1f90c8",
  "target_url": "https://gitlab.example.com/janedoe/gitlab-foss/builds/91", "finished_at": null, "id": 91, "ref": "main"
}""")

# https://docs.gitlab.com/api/pipelines/ "List project pipelines"
PIPELINE = json.loads("""{
  "id": 47, "iid": 12, "project_id": 1, "status": "pending", "source": "push", "ref": "new-pipeline",
  "sha": "a91957a858320c0e17f3a0eca7cfacbff50ea29a", "name": "Build pipeline",
  "web_url": "https://example.com/foo/bar/pipelines/47", "created_at": "2016-08-11T11:28:34.085Z",
  "updated_at": "2016-08-11T11:32:35.169Z"
}""")

# https://docs.gitlab.com/api/jobs/ "Get a single job" (without commit, pipeline, runner and user)
JOB = json.loads("""{
  "id": 8, "name": "rspec:other", "stage": "test", "status": "failed", "ref": "main", "tag": false, "allow_failure": false,
  "coverage": null, "created_at": "2015-12-24T15:51:21.880Z", "started_at": "2015-12-24T17:54:30.733Z",
  "finished_at": "2015-12-24T17:54:31.198Z", "duration": 0.465, "web_url": "https://example.com/foo/bar/-/jobs/8"
}""")

# https://docs.gitlab.com/api/events/ "Get user contribution events" (the pushed one; the project's list has `created_at` too)
PUSH = json.loads("""{
  "id": 4, "title": null, "project_id": 15, "action_name": "pushed", "target_id": null, "target_iid": null,
  "target_type": null, "author_id": 1, "created_at": "2017-02-09T10:43:19.426Z",
  "author": {
    "name": "Dmitriy Zaporozhets", "username": "root", "id": 1, "state": "active",
    "avatar_url": "http://localhost:3000/uploads/user/avatar/1/fox_avatar.png", "web_url": "http://localhost:3000/root"
  },
  "author_username": "john",
  "push_data": {
    "commit_count": 1, "action": "pushed", "ref_type": "branch", "commit_from": "50d4420237a9de7be1304607147aec22e4a14af7",
    "commit_to": "c5feabde2d8cd023215af4d2ceeb7a64839fc428", "ref": "master",
    "commit_title": "Add simple search to projects in public area"
  },
  "target_title": null
}""")

# https://docs.gitlab.com/api/events/ "List a project's visible events"
EVENT = json.loads("""{
  "id": 8, "title": null, "project_id": 1, "action_name": "opened", "target_id": 160, "target_iid": 160,
  "target_type": "Issue", "author_id": 25,
  "target_title": "Qui natus eos odio tempore et quaerat consequuntur ducimus cupiditate quis.",
  "created_at": "2017-02-09T10:43:19.667Z",
  "author": {
    "name": "User 3", "username": "user3", "id": 25, "state": "active",
    "avatar_url": "http://www.gravatar.com/avatar/97d6d9441ff85fdc730e02a6068d267b?s=80&d=identicon",
    "web_url": "https://gitlab.example.com/user3"
  },
  "author_username": "user3"
}""")

# https://docs.gitlab.com/api/projects/ "Get a single project" (its middle, from `namespace` to `enforce_auth_checks_on_uploads`)
PROJECT = json.loads("""{
  "id": 3, "default_branch": "main", "creator_id": 3, "created_at": "2013-09-30T13:46:02Z",
  "last_activity_at": "2013-09-30T13:46:02Z",
  "namespace": {
    "id": 3, "name": "Diaspora", "path": "diaspora", "kind": "group", "full_path": "diaspora",
    "avatar_url": "http://localhost:3000/uploads/group/avatar/3/foo.jpg", "web_url": "http://localhost:3000/groups/diaspora"
  },
  "permissions": {
    "project_access": {"access_level": 10, "notification_level": 3},
    "group_access": {"access_level": 50, "notification_level": 3}
  },
  "archived": false, "shared_runners_enabled": true, "public_jobs": true,
  "ci_push_repository_for_job_token_allowed": false, "repository_storage": "default",
  "only_allow_merge_if_pipeline_succeeds": false, "allow_merge_on_skipped_pipeline": false,
  "only_allow_merge_if_all_discussions_are_resolved": false, "remove_source_branch_after_merge": false,
  "request_access_enabled": false, "merge_method": "merge", "squash_option": "default_on", "approvals_before_merge": 0,
  "autoclose_referenced_issues": true, "enforce_auth_checks_on_uploads": true
}""")

# https://docs.gitlab.com/api/protected_branches/ "List protected branches"
PROTECTED = json.loads("""{
  "id": 100, "name": "main",
  "push_access_levels": [
    {"id": 1001, "access_level": 40, "access_level_description": "Maintainers"},
    {"id": 1002, "access_level": 40, "access_level_description": "Deploy key", "deploy_key_id": 1}
  ],
  "merge_access_levels": [{"id": 2001, "access_level": 40, "access_level_description": "Maintainers"}],
  "allow_force_push": false, "code_owner_approval_required": false
}""")

# https://docs.gitlab.com/api/merge_request_approvals/ "Project-level MR approvals", "Get Configuration"
PROJECT_APPROVALS = json.loads("""{
  "approvers": [], "approver_groups": [], "approvals_before_merge": 2, "reset_approvals_on_push": true,
  "selective_code_owner_removals": false, "disable_overriding_approvers_per_merge_request": false,
  "merge_requests_author_approval": true, "merge_requests_disable_committers_approval": false,
  "require_password_to_approve": true
}""")

# https://docs.gitlab.com/api/personal_access_tokens/ "List all personal access tokens"; "Self-inform" gives one of them
TOKEN = json.loads("""{
  "id": 4, "name": "Test Token", "revoked": false, "created_at": "2020-07-23T14:31:47.729Z",
  "description": "Test Token description", "scopes": ["api"], "user_id": 3, "last_used_at": "2021-10-06T17:58:37.550Z",
  "active": true, "expires_at": null
}""")


def like(example: Any, **changes: Any) -> Any:
    """Return the example with these values in it; a field that it lacks is refused."""
    unknown = changes.keys() - example.keys()
    assert not unknown, f"GitLab's example has no {sorted(unknown)}"
    return {**copy.deepcopy(example), **changes}


@dataclass(slots=True)
class Account:
    """A user of the fake."""

    id: int
    username: str
    level: int = 30  # https://docs.gitlab.com/api/members/#roles
    bot: bool = False
    state: str = "active"


@dataclass(slots=True)
class MergeRequest:
    """A merge request and what happened to it."""

    value: dict[str, Any]
    notes: list[dict[str, Any]] = field(default_factory=list)
    versions: list[dict[str, Any]] = field(default_factory=list)
    commits: list[dict[str, Any]] = field(default_factory=list)
    approved: dict[int, str] = field(default_factory=dict)
    reviewers: dict[int, str] = field(default_factory=dict)


Route = tuple[str, str, set[str], set[str], set[str], Callable[..., Answer]]
PAGES = {"page", "per_page"}
_BRANCHES = ("source_branch", "target_branch")


class GitLabFake(Server):
    """One project, its people and its merge requests. `tells_approved_at`: whether it is as new as gitlab-org/gitlab!204605."""

    def __init__(self) -> None:
        super().__init__()
        self._ids = itertools.count(1000)
        self._clock = datetime(2026, 11, 20, 6, 0, tzinfo=UTC)
        self.accounts: dict[int, Account] = {}
        self.tokens: dict[str, tuple[int, list[str]]] = {}
        self.branches: dict[str, str] = {"main": "a" * 40}
        self.requests: dict[int, MergeRequest] = {}
        self.statuses: list[dict[str, Any]] = []
        self.retried: set[int] = set()
        self.pipelines: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.project = like(PROJECT, id=7)
        self.protected: list[dict[str, Any]] = []
        self.project_approvals: dict[str, Any] | None = None  # None: not a Premium instance
        self.jobs: dict[int, dict[str, Any]] = {}
        self.tells_approved_at = True
        self.resets_approvals = False
        self.has_commit: Callable[[str], bool] = lambda oid: True
        mr = "/projects/:id/merge_requests/:iid"
        self._routes: list[Route] = [
            ("GET", "/user", set(), set(), set(), self._me),
            ("GET", "/users/:user", set(), set(), set(), self._user),
            ("GET", "/personal_access_tokens/self", set(), set(), set(), self._token),
            ("GET", "/projects/:id", set(), set(), set(), self._project),
            ("GET", "/projects/:id/approvals", set(), set(), set(), self._project_approvals),
            ("GET", "/projects/:id/protected_branches", PAGES | {"search"}, set(), set(), self._protected),
            ("GET", "/projects/:id/members/all/:user", set(), set(), set(), self._member),
            (
                "GET",
                "/projects/:id/events",
                PAGES | {"action", "target_type", "before", "after", "sort"},
                set(),
                set(),
                self._events,
            ),
            (
                "GET",
                "/projects/:id/pipelines",
                PAGES | {"sha", "ref", "source", "status", "order_by", "sort"},
                set(),
                set(),
                self._pipelines,
            ),
            (
                "GET",
                "/projects/:id/merge_requests",
                PAGES | {"state", "order_by", "sort", "source_branch", "target_branch", "scope"},
                set(),
                set(),
                self._list,
            ),
            (
                "POST",
                "/projects/:id/merge_requests",
                set(),
                {"source_branch", "target_branch", "title", "description", "remove_source_branch", "squash"},
                {"source_branch", "target_branch", "title"},
                self._create,
            ),
            ("GET", "/projects/:id/jobs/:job", set(), set(), set(), self._job),
            ("GET", mr, set(), set(), set(), self._get),
            ("PUT", mr, set(), {"title", "description", "target_branch", "state_event"}, set(), self._update),
            ("GET", f"{mr}/notes", PAGES | {"sort", "order_by"}, set(), set(), self._notes),
            ("POST", f"{mr}/notes", set(), {"body", "created_at"}, {"body"}, self._add_note),
            ("PUT", f"{mr}/notes/:note", set(), {"body"}, {"body"}, self._change_note),
            ("GET", f"{mr}/approvals", set(), set(), set(), self._approvals),
            ("GET", f"{mr}/reviewers", PAGES, set(), set(), self._reviewers),
            ("GET", f"{mr}/versions", PAGES, set(), set(), self._versions),
            ("GET", f"{mr}/commits", PAGES, set(), set(), self._commits),
            (
                "GET",
                "/projects/:id/repository/commits/:sha/statuses",
                PAGES | {"ref", "stage", "name", "all"},
                set(),
                set(),
                self._statuses,
            ),
            (
                "POST",
                "/projects/:id/statuses/:sha",
                set(),
                {"state", "ref", "name", "context", "target_url", "description", "coverage", "pipeline_id"},
                {"state"},
                self._set_status,
            ),
        ]

    # serving

    def handle(self, asked: Asked) -> Answer:
        """Answer as GitLab does: who, then what, then whether that is listed."""
        known = self.tokens.get(asked.token)
        if known is None:
            return Answer(401, {"message": "401 Unauthorized"})
        user, scopes = known
        if (asked.method != "GET" and "api" not in scopes) or not {"api", "read_api"} & set(scopes):
            words = "The request requires higher privileges than provided by the access token."
            return Answer(403, {"error": "insufficient_scope", "error_description": words, "scope": "api"})
        for method, pattern, query, body, required, answer in self._routes:
            found = re.fullmatch(API + re.sub(r":(\w+)", r"(?P<\1>[^/]+)", pattern), asked.path)
            if found is None or method != asked.method:
                continue
            sent = asked.body or {}
            if wrong := (asked.query.keys() - query) | (sent.keys() - body):
                return Answer(400, {"error": f"{', '.join(sorted(wrong))} is not listed for {method} {pattern}"})
            if missing := required - sent.keys():
                return Answer(400, {"error": f"{', '.join(sorted(missing))} is missing"})
            names = {key: unquote(value) for key, value in found.groupdict().items()}
            if names.pop("id", PATH) not in (PATH, str(self.project["id"])):
                return Answer(404, {"message": "404 Project Not Found"})
            if "iid" in names and int(names["iid"]) not in self.requests:
                return Answer(404, {"message": "404 Not found"})
            if "iid" in names:
                names["iid"] = self.requests[int(names["iid"])]  # type: ignore[assignment]
            return answer(asked, self.accounts[user], **names)
        return Answer(404, {"error": "404 Not Found"})

    def now(self) -> str:
        """A second later than the last time."""
        self._clock += timedelta(seconds=1)
        return self._clock.strftime("%Y-%m-%dT%H:%M:%S.000Z")

    # what happens there

    def account(self, username: str, **what: Any) -> Account:
        """Somebody new."""
        account = Account(next(self._ids), username, **what)
        self.accounts[account.id] = account
        return account

    def push(self, who: Account, branch: str, oid: str | None = None) -> str:
        """A push of one commit."""
        before, after = self.branches.get(branch), oid or f"{next(self._ids):040x}"
        self.branches[branch] = after
        data = like(
            PUSH["push_data"], ref=branch, commit_from=before, commit_to=after, action="pushed" if before else "created"
        )
        action = "pushed to" if before else "pushed new"
        self._event(PUSH, who, action_name=action, push_data=data)
        for request in self.requests.values():
            if request.value["source_branch"] == branch and request.value["state"] == "opened":
                self._grow(request, after)
                if self.resets_approvals:
                    request.approved.clear()
        return after

    def delete_branch(self, who: Account, branch: str) -> None:
        """The branch goes; GitLab keeps its requests as they are."""
        before = self.branches.pop(branch)
        self._event(
            PUSH,
            who,
            action_name="deleted",
            push_data=like(PUSH["push_data"], ref=branch, commit_from=before, commit_to=None, action="removed"),
        )

    def open_request(self, who: Account, source: str, target: str) -> int:
        """A request that somebody opens by hand."""
        body = {"source_branch": source, "target_branch": target, "title": "By hand", "description": ""}
        made = self._create(Asked("POST", "", {}, body, {}), who)
        return int(made.body["iid"])

    def approve(self, who: Account, iid: int) -> None:
        """The button."""
        self.requests[iid].approved[who.id] = self.now()
        self.requests[iid].reviewers.pop(who.id, None)
        self._event(EVENT, who, action_name="approved", target_iid=iid, target_type="MergeRequest", target_title="x")

    def unapprove(self, who: Account, iid: int) -> None:
        """The other button."""
        self.requests[iid].approved.pop(who.id, None)

    def request_changes(self, who: Account, iid: int) -> None:
        """A review that asks for changes; it takes the person's approval back."""
        self.requests[iid].approved.pop(who.id, None)
        self.requests[iid].reviewers[who.id] = "requested_changes"

    def comment(self, who: Account, iid: int, body: str) -> int:
        """A comment from the page."""
        return int(self._note(self.requests[iid], who, body)["id"])

    def edit_comment(self, iid: int, note: int, body: str) -> None:
        """Somebody who may changes it."""
        found = next(each for each in self.requests[iid].notes if each["id"] == note)
        found |= {"body": body, "updated_at": self.now()}

    def close_request(self, who: Account, iid: int) -> None:
        """The close button."""
        self.requests[iid].value |= {"state": "closed", "closed_at": self.now(), "closed_by": self._basic(who)}

    def merge(self, who: Account, iid: int) -> str:
        """The merge button."""
        value, oid = self.requests[iid].value, f"{next(self._ids):040x}"
        basic = self._basic(who)
        value |= {
            "state": "merged",
            "merged_at": self.now(),
            "merged_by": basic,
            "merge_user": basic,
            "merge_commit_sha": oid,
        }
        self.branches[value["target_branch"]] = oid
        return oid

    def job(self, commit: str, name: str, status: str, *, allow_failure: bool = False) -> None:
        """A job of a pipeline."""
        self.statuses.append(
            like(
                STATUS,
                id=next(self._ids),
                name=name,
                status=status,
                sha=commit,
                ref="main",
                allow_failure=allow_failure,
            )
        )

    def pipeline(self, commit: str, status: str, source: str = "push") -> None:
        """A pipeline, which may have failed before it had jobs."""
        self.pipelines.append(like(PIPELINE, id=next(self._ids), sha=commit, status=status, source=source))

    def ci_job(self, status: str) -> str:
        """A job, by its address."""
        job = next(self._ids)
        self.jobs[job] = like(JOB, id=job, status=status, web_url=f"{self.url}/{PATH}/-/jobs/{job}")
        return str(self.jobs[job]["web_url"])

    # routes

    def _job(self, asked: Asked, who: Account, job: str) -> Answer:
        found = self.jobs.get(int(job))
        return Answer(200, found) if found else Answer(404, {"message": "404 Not found"})

    def _me(self, asked: Asked, who: Account) -> Answer:
        return Answer(200, self._full(who))

    def _user(self, asked: Asked, who: Account, user: str) -> Answer:
        found = self.accounts.get(int(user))
        return Answer(200, self._full(found)) if found else Answer(404, {"message": "404 User Not Found"})

    def _token(self, asked: Asked, who: Account) -> Answer:
        return Answer(200, like(TOKEN, user_id=who.id, scopes=self.tokens[asked.token][1]))

    def _project(self, asked: Asked, who: Account) -> Answer:
        access = {"project_access": {"access_level": who.level, "notification_level": 3}, "group_access": None}
        return Answer(200, {**self.project, "permissions": access})

    def _project_approvals(self, asked: Asked, who: Account) -> Answer:
        if self.project_approvals is None:
            return Answer(404, {"error": "404 Not Found"})
        return Answer(200, like(PROJECT_APPROVALS, **self.project_approvals))

    def _protected(self, asked: Asked, who: Account) -> Answer:
        if who.level < 40:
            return Answer(403, {"message": "403 Forbidden"})
        return paged(asked, self.protected, gitlab=True)

    def _member(self, asked: Asked, who: Account, user: str) -> Answer:
        found = self.accounts.get(int(user))
        if found is None or found.level == 0:
            return Answer(404, {"message": "404 Not found"})
        return Answer(
            200, like(MEMBER, id=found.id, username=found.username, access_level=found.level, state=found.state)
        )

    def _events(self, asked: Asked, who: Account) -> Answer:
        # https://docs.gitlab.com/user/profile/contributions_calendar/#user-contribution-events: approved, pushed, …
        wanted = asked.query.get("action")
        found = [
            e
            for e in self.events
            if wanted is None
            or ((wanted == "pushed") == ("push_data" in e) and (wanted == "pushed" or e["action_name"] == wanted))
        ]
        return paged(asked, found[::-1] if asked.query.get("sort", "desc") == "desc" else found, gitlab=True)

    def _pipelines(self, asked: Asked, who: Account) -> Answer:
        return paged(
            asked, [p for p in self.pipelines if p["sha"] == asked.query.get("sha", p["sha"])][::-1], gitlab=True
        )

    def _list(self, asked: Asked, who: Account) -> Answer:
        state = asked.query.get("state", "all")
        found = [
            r.value
            for r in self.requests.values()
            if state in ("all", r.value["state"])
            and all(asked.query.get(key) in (None, r.value[key]) for key in _BRANCHES)
        ]
        return paged(asked, found[::-1], gitlab=True)

    def _create(self, asked: Asked, who: Account) -> Answer:
        sent = asked.body
        if sent["source_branch"] not in self.branches:
            return Answer(400, {"message": {"source_branch": ["does not exist"]}})
        for there in self.requests.values():
            # app/models/merge_request.rb, validate_branches: one that is open from this branch into that one
            if there.value["state"] == "opened" and all(there.value[key] == sent[key] for key in _BRANCHES):
                return Answer(
                    409,
                    {
                        "message": [
                            f"Another open merge request already exists for this source branch: !{there.value['iid']}"
                        ]
                    },
                )
        if refused := _quick_action(sent.get("description", "")):
            return refused
        iid, head = len(self.requests) + 1, self.branches[sent["source_branch"]]
        at, page = self.now(), f"{self.url}/{PATH}/-/merge_requests/{iid}"
        value = like(
            MERGE_REQUEST,
            id=next(self._ids),
            iid=iid,
            project_id=self.project["id"],
            source_project_id=self.project["id"],
            target_project_id=self.project["id"],
            title=sent["title"],
            description=sent.get("description"),
            created_at=at,
            updated_at=at,
            source_branch=sent["source_branch"],
            target_branch=sent["target_branch"],
            author=self._basic(who),
            draft=_is_draft(sent["title"]),
            work_in_progress=_is_draft(sent["title"]),
            sha=head,
            web_url=page,
        )
        self.requests[iid] = MergeRequest(value)
        earlier = [
            e["push_data"]["commit_to"]
            for e in self.events
            if e.get("push_data", {}).get("ref") == sent["source_branch"]
        ]
        self.requests[iid].commits += [
            like(COMMIT, id=oid, short_id=oid[:11]) for oid in earlier if oid not in (head, None)
        ]
        self._grow(self.requests[iid], head)
        return Answer(201, value)

    def _get(self, asked: Asked, who: Account, iid: MergeRequest) -> Answer:
        return Answer(200, iid.value)

    def _update(self, asked: Asked, who: Account, iid: MergeRequest) -> Answer:
        if refused := _quick_action(asked.body.get("description", "")):
            return refused
        iid.value |= {key: value for key, value in asked.body.items() if key != "state_event"}
        iid.value |= {"draft": _is_draft(iid.value["title"]), "updated_at": self.now()}
        return Answer(200, iid.value)

    def _notes(self, asked: Asked, who: Account, iid: MergeRequest) -> Answer:
        found = iid.notes if asked.query.get("sort") == "asc" else iid.notes[::-1]
        return paged(asked, found, gitlab=True)

    def _add_note(self, asked: Asked, who: Account, iid: MergeRequest) -> Answer:
        return _quick_action(asked.body["body"]) or Answer(201, self._note(iid, who, asked.body["body"]))

    def _change_note(self, asked: Asked, who: Account, iid: MergeRequest, note: str) -> Answer:
        found = next((each for each in iid.notes if each["id"] == int(note)), None)
        if found is None:
            return Answer(404, {"message": "404 Not found"})
        if found["author"]["id"] != who.id:
            return Answer(403, {"message": "403 Forbidden"})
        if refused := _quick_action(asked.body["body"]):
            return refused
        found |= {"body": asked.body["body"], "updated_at": self.now()}
        return Answer(200, found)

    def _approvals(self, asked: Asked, who: Account, iid: MergeRequest) -> Answer:
        by = [
            {
                "user": like(APPROVALS["approved_by"][0]["user"], **self._names(self.accounts[user])),
                **({"approved_at": at} if self.tells_approved_at else {}),
            }
            for user, at in iid.approved.items()
        ]
        return Answer(200, like(APPROVALS, iid=iid.value["iid"], approved_by=by))

    def _reviewers(self, asked: Asked, who: Account, iid: MergeRequest) -> Answer:
        found = [
            like(REVIEWER, user=like(REVIEWER["user"], **self._names(self.accounts[user])), state=state)
            for user, state in iid.reviewers.items()
        ]
        return paged(asked, found, gitlab=True)

    def _versions(self, asked: Asked, who: Account, iid: MergeRequest) -> Answer:
        return paged(asked, iid.versions[::-1], gitlab=True)

    def _commits(self, asked: Asked, who: Account, iid: MergeRequest) -> Answer:
        return paged(asked, iid.commits[::-1], gitlab=True)

    def _statuses(self, asked: Asked, who: Account, sha: str) -> Answer:
        if not self.has_commit(sha):
            return Answer(404, {"message": "404 Commit Not Found"})
        found = [
            s
            for s in self.statuses
            if s["sha"] == sha and (asked.query.get("all") == "true" or s["id"] not in self.retried)
        ]
        return paged(asked, [s for s in found if s["ref"] == asked.query.get("ref", s["ref"])], gitlab=True)

    def _set_status(self, asked: Asked, who: Account, sha: str) -> Answer:
        if not self.has_commit(sha):
            return Answer(404, {"message": "404 Commit Not Found"})
        sent = asked.body
        name, state = sent.get("name") or sent.get("context") or "default", sent["state"]
        if state not in ("pending", "running", "success", "failed", "canceled", "skipped"):
            return Answer(400, {"error": "state does not have a valid value"})
        if any(len(sent.get(key) or "") > 255 for key in ("ref", "target_url", "description")):
            return Answer(400, {"message": "must be 255 characters or fewer"})
        there = next(
            (s for s in self.statuses if s["sha"] == sha and s["name"] == name and s["id"] not in self.retried), None
        )
        if there is not None and there["status"] in ("pending", "running"):
            # app/services/ci/create_commit_status_service.rb: a status that is under way only goes forward
            if state == "pending" or state == there["status"]:
                act = {"pending": "enqueue", "running": "run"}[state]
                why = f'Status cannot transition via "{act}"'
                words = f"Cannot transition status via :{act} from :{there['status']} (Reason(s): {why})"
                return Answer(400, {"message": words})
        else:
            if there is not None:
                self.retried.add(there["id"])
            there = like(
                STATUS,
                id=next(self._ids),
                name=name,
                sha=sha,
                ref=sent.get("ref"),
                author=self._basic(who),
                allow_failure=False,
            )
            self.statuses.append(there)
        there |= {"status": state, "description": sent.get("description"), "target_url": sent.get("target_url")}
        return Answer(201, there)

    # values

    def _grow(self, request: MergeRequest, head: str) -> None:
        request.value["sha"] = head
        request.versions.append(like(VERSION, id=next(self._ids), head_commit_sha=head, created_at=self.now()))
        request.commits.append(like(COMMIT, id=head, short_id=head[:11]))

    def _note(self, request: MergeRequest, who: Account, body: str, *, system: bool = False) -> dict[str, Any]:
        at = self.now()
        author = like(NOTE["author"], id=who.id, username=who.username, name=who.username)
        note: dict[str, Any] = like(
            NOTE,
            id=next(self._ids),
            body=body,
            author=author,
            created_at=at,
            updated_at=at,
            system=system,
            noteable_iid=request.value["iid"],
        )
        request.notes.append(note)
        return note

    def system_note(self, who: Account, iid: int, body: str) -> None:
        """What GitLab itself writes among the comments."""
        self._note(self.requests[iid], who, body, system=True)

    def _event(self, example: Any, who: Account, **changes: Any) -> None:
        author = like(example["author"], **self._names(who))
        self.events.append(
            like(
                example,
                id=next(self._ids),
                author_id=who.id,
                author=author,
                author_username=who.username,
                created_at=self.now(),
                **changes,
            )
        )

    def _names(self, who: Account) -> dict[str, Any]:
        return {"id": who.id, "username": who.username, "name": who.username, "state": who.state}

    def _basic(self, who: Account) -> Any:
        return like(MERGE_REQUEST["author"], **self._names(who))

    def _full(self, who: Account) -> Any:
        return like(USER, **self._names(who), bot=who.bot)


def _is_draft(title: str) -> bool:
    # https://docs.gitlab.com/user/project/merge_requests/drafts/: [Draft], Draft:, or (Draft) at the beginning
    return re.match(r"(?i)\s*(\[draft\]|\(draft\)|draft:)", title) is not None


def _quick_action(text: str) -> Answer | None:
    """Refuse what GitLab would carry out (https://docs.gitlab.com/user/project/quick_actions/); a test must not let it through."""
    found = re.search(r"(?m)^\s*/[a-z_]+", text or "")
    return Answer(400, {"message": f"a quick action would be carried out: {found[0]}"}) if found else None
