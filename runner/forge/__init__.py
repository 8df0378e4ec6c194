"""The interface of a forge: requests, comments, statuses, reviews, CI and settings as values, and one error class per cause.

`registry` has the forges that there are, a module each. An account is a host and a numeric id; a login can be renamed and registered
again by another person, so it is only shown. Each method reads before it writes, so a repeated call changes nothing: a caller may be
late, call twice, or not know how its last call ended. Lists are complete, however many pages they have. No value and no error
contains a token. `executor/permissions.py` decides which reviews count; the caller decides whether to post, and what.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import ClassVar, Final, Protocol
from urllib.parse import quote

from runner.errors import RunnerError
from runner.lines import pattern

STATUS_TEXT: Final = 140  # characters of a status that every forge shows
BODY_TEXT: Final = 60_000  # characters of a request's or comment's body that every forge takes
OUR_CONTEXTS: Final = ("runner/plan", "runner/step", "runner/qa", "runner/verify")
_KEY: Final = pattern(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class ForgeError(RunnerError):
    """The forge did not answer, or refused. Nothing is lost: the same call can be repeated."""

    exit_code = 69
    retryable: ClassVar[bool] = False


class TokenMissingError(ForgeError):
    """No token was found, or the forge's package is not installed; `where` lists the places searched."""

    exit_code = 2


class TokenRefusedError(ForgeError):
    """The forge does not know the token, or it has expired."""


class ScopeMissingError(ForgeError):
    """The token is valid but lacks a right."""


class RateLimitError(ForgeError):
    """Too many requests. `retry_at`: when the forge accepts requests again, seconds since the epoch."""

    retryable = True

    def __init__(self, what: str, where: str, hint: str, *, retry_at: float) -> None:
        super().__init__(what, where, hint)
        self.retry_at = retry_at


class NotFoundError(ForgeError):
    """The object does not exist, or the token may not see it; forges do not distinguish the two."""


class RequestRefusedError(ForgeError):
    """The forge calls the request invalid, or impossible now; `what` quotes it."""


class ServerError(ForgeError):
    """The forge failed (5xx)."""

    retryable = True


class NetworkError(ForgeError):
    """No response: no connection, an interrupted one, or a timeout."""

    retryable = True


class MalformedAnswerError(ForgeError):
    """The response is not in the forge's format."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgeKind:
    """A kind of forge: a row of `registry.FORGES`, all that the rest of the runner has to know of it.

    `name`: in `forge:` of config.yaml, and of the extra that installs its package; `is_host`: whether a host name is known to be
    one; `ssh_hosts`: hosts for ssh alone, to the real ones; `api`: the API's address for a scheme, host and path, None where the
    path names no project; `encodes_path`: the API takes a project's path as one segment.
    """

    name: str
    is_host: Callable[[str], bool]
    ssh_hosts: Mapping[str, str]
    api: Callable[[str, str, str], str | None]
    encodes_path: bool = False
    open: Callable[[ForgeProject, Token, Callable[[], float]], Forge]  # the last: seconds since the epoch
    # Where a token is looked for: variables, those that name the host they are for (else the public one), a program.
    token_variables: tuple[str, ...]
    host_variables: tuple[str, ...]
    public_host: str
    token_command: tuple[str, ...]  # without the host, its last argument
    login: str  # the command that logs a person in
    rights: str  # that a token needs, as the forge names them
    scopes: tuple[str, ...]  # of a classic token, any of which is enough
    writer_role: str  # the least role that may push
    require_verify: str  # how to make the status `runner/verify` a condition of the merge
    protecting_exposes_secrets: bool = False  # the pipeline of a protected branch is given protected variables
    ci_files: Mapping[str, str]  # that `runner init` writes: path to template below templates/init
    ci_entry: str = ""  # the one of them that a team may have already
    ci_include: tuple[str, str] = ("", "")  # the path that it then has to mention, and the line to add


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgeProject:
    """A repository on a forge. `host`: whose account ids count, with the port where it is not the usual one; `path`: OWNER/REPO or
    GROUP/…/PROJECT; `site`: the address for people; `api`: the one for programs."""

    kind: ForgeKind = field(repr=False)
    host: str
    path: str
    site: str
    api: str

    @property
    def api_path(self) -> str:
        """The path as a part of the API's addresses."""
        return quote(self.path, safe="" if self.kind.encodes_path else "/")


@dataclass(frozen=True, slots=True)
class Token:
    """A token and where it was found. Its `repr` does not show it."""

    value: str = field(repr=False)
    where: str


class Kind(StrEnum):
    """Whether an account is a person's. Only a person's review can count."""

    PERSON = "person"
    BOT = "bot"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """An account: `host` and `id` identify it, `login` is its current name. `kind` is None where the response does not include it."""

    host: str
    id: int
    login: str = field(compare=False)
    kind: Kind | None = field(default=None, compare=False)


class Access(IntEnum):
    """What an account may do in the repository, in order."""

    NONE = 0
    READ = 1
    WRITE = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """What an account may do now, and its kind; with None, which the forge does not report, no review of it counts."""

    access: Access
    kind: Kind | None


class RequestState(StrEnum):
    """Whether a request is open."""

    OPEN = "open"
    CLOSED = "closed"
    MERGED = "merged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A pull or merge request between two branches of the repository itself; those from forks are left out.

    `head`: its newest commit on the forge; `merged`: its merge commit on the base, where that is known; `ended`: when it was closed
    or merged. Times are the forge's: ISO 8601 with a zone.
    """

    number: int
    url: str
    title: str
    body: str
    state: RequestState
    draft: bool
    branch: str
    base: str
    head: str
    merged: str | None = None
    ended: str | None = None
    ended_by: Identity | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comment:
    """A comment on a request. `edited`: it was changed since it was written, or that is unknown."""

    id: int
    by: Identity
    body: str
    url: str
    time: str
    edited: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """An issue, or a request where both have one row of numbers. `confidential`: not everybody who sees the repository may read it."""

    number: int
    title: str
    body: str
    confidential: bool = False


class ReviewState(StrEnum):
    """The verdict of a review. `unknown`: it was dismissed, and the forge does not report its verdict before."""

    APPROVED = "approved"
    CHANGES = "changes"
    COMMENTED = "commented"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dismissal:
    """The end of a review. `commit`: the push at which the forge itself dismissed it; None where a person did."""

    by: Identity | None
    time: str | None
    commit: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """One review. `commit`: the commit that was reviewed, None where the forge does not report it."""

    id: str
    by: Identity
    state: ReviewState
    commit: str | None
    time: str
    dismissed: Dismissal | None = None


class StatusState(StrEnum):
    """The state of a commit status."""

    PENDING = "pending"
    SUCCESS = "success"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A commit status of ours. `text`: one line, `STATUS_TEXT` characters at most; `url`: of the details, or empty."""

    context: str
    state: StatusState
    text: str
    url: str = ""

    def __post_init__(self) -> None:
        if self.context not in OUR_CONTEXTS or len(self.text) > STATUS_TEXT or not self.text.isprintable():
            raise AssertionError(f"unreachable: no status of ours: {self.context!r}, {self.text!r}")


class Outcome(StrEnum):
    """The outcome of a CI check. `neutral`: nothing waits for it; `cancelled`: it ended without a verdict."""

    PENDING = "pending"
    SUCCESS = "success"
    FAILURE = "failure"
    NEUTRAL = "neutral"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The result of CI for a commit; our own statuses are left out. Everybody who may write a status could have set one."""

    name: str
    outcome: Outcome
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """A push to a branch. `before` is None where it made the branch, `after` where it deleted it; both where the forge
    does not report the branch. `by` is None where the account is gone."""

    by: Identity | None
    before: str | None
    after: str | None
    time: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """A commit of a request, with the accounts of its email addresses: a claim, not a proof."""

    oid: str
    author: Identity | None
    committer: Identity | None


class MergeMethod(StrEnum):
    """How a request may be merged. A merge and a fast-forward keep the commits unchanged."""

    MERGE = "merge"
    SQUASH = "squash"
    REBASE = "rebase"
    FAST_FORWARD = "fast-forward"


@dataclass(frozen=True, slots=True, kw_only=True)
class Protection:
    """The protection of a branch. None: the token may not see it, or this forge does not have it."""

    protected: bool | None
    required_checks: tuple[str, ...] | None
    dismisses_stale: bool | None
    last_pusher_refused: bool | None
    forced_pushes: bool | None
    deletions: bool | None
    linear: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The repository's settings. `methods` is empty where the token may not see them; `access`: the token's own."""

    default_branch: str
    methods: frozenset[MergeMethod]
    access: Access
    scopes: tuple[str, ...] | None
    protection: Protection


class Forge(Protocol):
    """One repository on one forge, asked by one thread at a time. Every method may raise a child of `ForgeError`.

    `kind`: its row of `FORGES`; `host`: that of its identities as policy.yaml writes it, such as github.com. What has a body here
    is the same on each forge; a forge says how it asks for the rest.
    """

    kind: ForgeKind
    host: str
    _me: Identity | None
    _members: dict[int, Membership]
    _always_drafts: ClassVar[bool]  # whether every repository there has drafts
    _body_key: ClassVar[str]  # of a request's text

    def __init__(self, project: ForgeProject) -> None:
        self.kind, self.host, self._me, self._members = project.kind, project.host, None, {}

    def me(self) -> Identity:
        """Return the token's account."""
        self._me = self._me or self._find_me()
        return self._me

    def _find_me(self) -> Identity:
        """Ask for the token's account."""

    def request(self, number: int) -> Request:
        """Return a request as it is now."""

    def request_of(self, branch: str, base: str) -> Request | None:
        """Return the branch's open request into that base, else its newest into it, else None.

        One into another branch shows another difference, whatever its reviews say.
        """

    def propose(self, *, branch: str, base: str, title: str, body: str) -> Request:
        """Return the branch's open request into that base, with this title and body; a draft is opened where there is none.

        An open one stays a draft or ready. A body of the same text is not written again.
        """
        body, there = self._harmless(body), self.request_of(branch, base)
        if there is None or there.state is not RequestState.OPEN:
            try:
                return self._open(branch, base, title, body, draft=True)
            except RequestRefusedError:
                there = self.request_of(branch, base)  # another process opened it just now, or there are no drafts here
                if there is None or there.state is not RequestState.OPEN:
                    if self._always_drafts:
                        raise
                    return self._open(branch, base, title, body, draft=False)
        changes = {"title": self._titled(title, draft=there.draft)} if there.title != title else {}
        changes |= {} if _same_text(there.body, body) else {self._body_key: body}
        return self._change(there.number, changes) if changes else there

    def _open(self, branch: str, base: str, title: str, body: str, *, draft: bool) -> Request:
        """Open a request."""

    def _change(self, number: int, changes: Mapping[str, str]) -> Request:
        """Change fields of a request, by their names on the forge."""

    def _titled(self, title: str, *, draft: bool) -> str:
        """Return the title of a request as the forge has it."""
        return title

    def _harmless(self, text: str) -> str:
        """Return a text in which the forge executes nothing."""
        return text

    def mark_ready(self, number: int) -> Request:
        """Return the request, no longer a draft."""
        return self._mark(number, draft=False)

    def mark_draft(self, number: int) -> Request:
        """Return the request, a draft again, where this repository has drafts."""
        return self._mark(number, draft=True)

    def _mark(self, number: int, *, draft: bool) -> Request:
        """Make a request a draft, or no draft."""

    def issue(self, number: int) -> Issue:
        """Return an issue as it is now, without its comments."""

    def comments(self, number: int) -> tuple[Comment, ...]:
        """Return the comments of people and programs on a request, oldest first."""

    def keep_comment(self, number: int, key: str, body: str) -> Comment:
        """Return our one comment of that key, with this body: edited where it exists, else made.

        Ours is the first whose author has our numeric id and whose first line is the key's hidden marker.
        """
        me, comments = self.me(), self.comments(number)
        mine = (one for one in comments if one.by == me)  # other accounts can copy the marker
        there = next((one for one in mine if one.body.replace("\r\n", "\n").split("\n")[0] == marker(key)), None)
        new = f"{marker(key)}\n{self._harmless(body)}"
        if there is not None and _same_text(there.body, new):
            return there
        return self._write_comment(number, there.id if there else None, new)

    def _write_comment(self, number: int, id: int | None, body: str) -> Comment:
        """Write a comment on a request, or change the one with that id."""

    def statuses(self, commit: str) -> tuple[Status, ...]:
        """Return our current statuses of a commit."""

    def report(self, commit: str, statuses: Collection[Status], *, branch: str) -> tuple[Status, ...]:
        """Set the statuses that differ from the current ones, and return those. `branch`: one that has the commit."""

    def checks(self, commit: str) -> tuple[Check, ...]:
        """Return the newest result of each CI check of a commit."""

    def is_over(self, job: str) -> bool:
        """Return whether the CI job with this address ended; False where it is not one of this repository's."""

    def reviews(self, number: int) -> tuple[Review, ...]:
        """Return the reviews of a request, oldest first."""

    def membership(self, who: Identity) -> Membership:
        """Return the current access and kind of the account with that numeric id; asked once per opened forge."""
        if who.id not in self._members:
            self._members[who.id] = self._find_membership(who)
        return self._members[who.id]

    def _find_membership(self, who: Identity) -> Membership:
        """Ask for the access and kind of an account."""

    def pushes(self, branch: str) -> tuple[Push, ...]:
        """Return the pushes to the branch that the forge remembers, newest first."""

    def commits(self, number: int) -> tuple[Commit, ...]:
        """Return the request's commits as the forge lists them (it may stop at some hundred)."""

    def settings(self, branch: str) -> Settings:
        """Return the repository's settings and the branch's protection, as far as the token may see them."""

    def close(self) -> None:
        """Close connections; a later call opens new ones."""


def status_text(text: str) -> str:
    """Return a text as one line for a status, cut where it is too long."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= STATUS_TEXT else line[: STATUS_TEXT - 1] + "…"


def marker(key: str) -> str:
    """Return the first line of our comment of that key, which no forge renders."""
    if not _KEY.fullmatch(key):
        raise AssertionError(f"unreachable: no key of a comment: {key!r}")
    return f"<!-- runner: {key} -->"


def open_or_newest(requests: Iterable[Request | None], branch: str, base: str) -> Request | None:
    """Return the open request of a branch into a base, else the newest one; `requests`: newest first."""
    found = [one for one in requests if one is not None and (one.branch, one.base) == (branch, base)]
    return next((one for one in found if one.state is RequestState.OPEN), found[0] if found else None)


def _same_text(one: str, other: str) -> bool:
    """Return whether two bodies differ only in line ends and trailing space, which forges and browsers change."""
    return one.replace("\r\n", "\n").rstrip() == other.replace("\r\n", "\n").rstrip()
