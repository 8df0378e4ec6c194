"""The interface of a forge: requests, comments, statuses, reviews, CI and settings as values, and one error class per cause.

`registry` has the forges that there are, a module each. An account is a host and a numeric id; a login can be renamed and registered
again by another person, so it is only shown. Each method reads before it writes, so a repeated call changes nothing: a caller may be
late, call twice, or not know how its last call ended. Lists are complete, however many pages they have. No value and no error
contains a token. `executor/permissions.py` decides which reviews count; the caller decides whether to post, and what.

An adapter reads the forge's JSON by `Fields`: one that is missing, or of another type, is an error that names it. `Failures` is the
one table from a status to a `ForgeError`; an adapter's client says only how its SDK reports the status.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from typing import Any, ClassVar, Final, Protocol
from urllib.parse import quote

from runner.errors import ExitCode, RunnerError, installs
from runner.lines import one_line, pattern

STATUS_TEXT: Final = 140  # characters of a status that every forge shows
BODY_TEXT: Final = 60_000  # characters of a request's or comment's body that every forge takes
OUR_CONTEXTS: Final = ("runner/plan", "runner/step", "runner/qa", "runner/verify")
_KEY: Final = pattern(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class ForgeError(RunnerError):
    """The forge did not answer, or refused. Nothing is lost: the same call can be repeated."""

    exit_code = ExitCode.UNREACHABLE
    retryable: ClassVar[bool] = False


class TokenMissingError(ForgeError):
    """No token was found, or the forge's package is not installed; `where` lists the places searched."""

    exit_code = ExitCode.USAGE


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


class AccountKind(StrEnum):
    """Whether an account is a person's. Only a person's review can count."""

    PERSON = "person"
    BOT = "bot"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """An account: `host` and `id` identify it, `login` is its current name. `kind` is None where the response does not include it."""

    host: str
    id: int
    login: str = field(compare=False)
    kind: AccountKind | None = field(default=None, compare=False)


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
    kind: AccountKind | None


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


class CheckOutcome(StrEnum):
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
    outcome: CheckOutcome
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

    def mark(self, number: int, *, draft: bool) -> Request:
        """Return the request, made a draft where this repository has drafts, or no longer one."""

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
    return one_line(text, STATUS_TEXT)


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


# --- what adapters share: JSON, and failures --------------------------------------------------------------------------

MOST_PAGES: Final = 1000  # of a list, a hundred items each


@dataclass(frozen=True, slots=True)
class Fields:
    """One JSON object of a response; `where`: the request that returned it."""

    value: dict[str, Any]
    where: str

    @classmethod
    def of(cls, value: Any, where: str) -> Fields:
        """Return the fields of a response that must be an object.

        Raises:
            MalformedAnswerError: it is not one.
        """
        if not isinstance(value, dict):
            raise malformed("an object", where)
        return cls(value, where)

    def text(self, key: str) -> str:
        """Return a string; a lone surrogate in it becomes a question mark."""
        found = self.value.get(key)
        if not isinstance(found, str):
            raise malformed(f"`{key}` as text", self.where)
        return found.encode("utf-8", "replace").decode()

    def maybe(self, key: str) -> str | None:
        """Return a string, or None where it is null, absent or empty."""
        return self.text(key) if self.value.get(key) not in (None, "") else None

    def number(self, key: str) -> int:
        """Return a whole number."""
        found = self.value.get(key)
        if not isinstance(found, int) or isinstance(found, bool):
            raise malformed(f"`{key}` as a number", self.where)
        return found

    def flag(self, key: str) -> bool:
        """Return whether it is true; absent is false."""
        found = self.value.get(key)
        if found is not None and not isinstance(found, bool):
            raise malformed(f"`{key}` as true or false", self.where)
        return bool(found)

    def maybe_flag(self, key: str) -> bool | None:
        """Return whether it is true, or None where it is null or absent."""
        return None if self.value.get(key) is None else self.flag(key)

    def inner(self, key: str) -> Fields:
        """Return an object inside."""
        return Fields.of(self.value.get(key), f"{self.where}, `{key}`")

    def maybe_inner(self, key: str) -> Fields | None:
        """Return an object inside, or None where it is null or absent."""
        return None if self.value.get(key) is None else self.inner(key)

    def several(self, key: str) -> tuple[Fields, ...]:
        """Return the objects of a list inside; absent is none."""
        return objects(self.value.get(key) or [], f"{self.where}, `{key}`")


def objects(value: Any, where: str) -> tuple[Fields, ...]:
    """Return the objects of a response that must be a list of them.

    Raises:
        MalformedAnswerError: it is not one.
    """
    if not isinstance(value, list):
        raise malformed("a list", where)
    return tuple(Fields.of(each, where) for each in value)


def check_page(number: int, where: str) -> None:
    """Check the number of a list's page before it is requested: a broken server may offer pages without end.

    Raises:
        MalformedAnswerError: the list has more than `MOST_PAGES`.
    """
    if number > MOST_PAGES:
        raise MalformedAnswerError(
            f"a list does not end: it has more than {MOST_PAGES} pages", where, "look at the list on the forge"
        )


@dataclass(frozen=True, slots=True)
class Failures:
    """Turn a failed request into a `ForgeError`: `forge` is its name in messages, as people write it."""

    forge: str
    project: ForgeProject
    token: Token

    def check_installed(self, module: str, package: str) -> None:
        """Check that the forge's SDK is installed.

        Raises:
            TokenMissingError: it is not.
        """
        if importlib.util.find_spec(module) is None:
            name = self.project.kind.name
            raise TokenMissingError(
                f"{package} is not installed",
                f"forge: {name}, {self.project.host}",
                installs(name),
            )

    def quoted(self, message: object) -> str:
        """Return a forge's message on one line, cut, and without the token."""
        return one_line(str(message).replace(self.token.value, "[token]"), 300)

    def refused(
        self, status: int, message: str, where: str, *, scope: str = "", retry_at: float | None = None
    ) -> ForgeError:
        """Return the error for a status. `message`: the forge's, quoted; `scope`: the right that the token lacks, where the forge
        names it; `retry_at`: when a rate limit ends, seconds since the epoch."""
        named, rights = f"the token of {self.token.where}", self.project.kind.rights
        if retry_at is not None:
            hint = f"run it again after {clock(retry_at)}"
            return RateLimitError(f"{self.forge} asks for a pause ({message})", where, hint, retry_at=retry_at)
        if status == 401:
            return TokenRefusedError(f"{self.forge} refuses {named} ({message})", where, f"make a new token: {rights}")
        if status == 403:
            return ScopeMissingError(f"{named} may not do this ({message})", where, f"give the token {scope or rights}")
        if status in (404, 410):
            hint = "check the name, and that the token sees the repository"
            return NotFoundError(f"{self.forge} has no such thing ({message})", where, hint)
        if status >= 500:
            return ServerError(f"{self.forge} reports a server error ({message})", where, "run it again later")
        return RequestRefusedError(f"{self.forge} refuses the request ({message})", where, "read the forge's message")

    def unanswered(self, error: Exception, where: str) -> NetworkError:
        """Return the error for a request without a response."""
        message = self.quoted(f"{type(error).__name__}: {error}")
        return NetworkError(f"no answer from {self.forge} ({message})", where, "check the network; run it again")

    def redirected(self, error: Exception, where: str) -> RequestRefusedError:
        """Return the error for a redirect, which is not followed."""
        hint = "correct the address of the remote, or `forge:`"
        return RequestRefusedError(f"{self.forge} redirects elsewhere ({self.quoted(error)})", where, hint)


def clock(at: float) -> str:
    """Return a time of day for a message; `at`: seconds since the epoch."""
    return datetime.fromtimestamp(int(at), UTC).strftime("%H:%M:%S UTC")


def malformed(wanted: str, where: str) -> MalformedAnswerError:
    """Return the error for a response in another format; `wanted`: the expected part of it."""
    return MalformedAnswerError(
        f"the response is not the forge's format: {wanted} was expected",
        where,
        "check that `forge:` names the right address; a proxy may have answered instead",
    )
