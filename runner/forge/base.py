"""What a forge promises: requests, comments, statuses, reviews, CI and settings as values, and errors that are told apart.

A person is a host and a numeric id; a login can be renamed and registered again by somebody else, so it is only ever shown. Each
ability looks at what is there before it writes, so calling it again changes nothing: whoever calls may be late, twice, or
not know how the call before ended. Lists are whole, however many pages they have. A token stands in no value and no error. Whose
review counts is `counting.py`'s matter; what is posted, and whether anything is, the caller's.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import field
from enum import IntEnum, StrEnum
from typing import ClassVar, Final, Protocol

from runner.errors import RunnerError
from runner.values import dataclass

STATUS_TEXT: Final = 140  # characters of a status that every forge shows
BODY_TEXT: Final = 60_000  # characters of a request's or comment's body that every forge takes
OUR_CONTEXTS: Final = ("runner/plan", "runner/step", "runner/qa", "runner/verify")
_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class ForgeError(RunnerError):
    """The forge could not be asked, or said no. Nothing is lost: the same call may be made again."""

    exit_code = 69
    retryable: ClassVar[bool] = False


class NoForgeError(ForgeError):
    """There is no forge to write to: `forge:` is not set."""

    exit_code = 2


class TokenMissingError(ForgeError):
    """No token was found, or the forge's package is not installed; `where` says what was looked for."""

    exit_code = 2


class TokenRefusedError(ForgeError):
    """The forge does not know the token, or it has expired."""


class ScopeMissingError(ForgeError):
    """The token is good, but may not do this. `scope`: what it lacks, in the forge's words, empty where it does not say."""

    def __init__(self, what: str, where: str, hint: str, *, scope: str = "") -> None:
        super().__init__(what, where, hint)
        self.scope = scope


class RateLimitError(ForgeError):
    """Too many requests. `retry_at`: when the forge will listen again, seconds since the epoch."""

    retryable = True

    def __init__(self, what: str, where: str, hint: str, *, retry_at: float) -> None:
        super().__init__(what, where, hint)
        self.retry_at = retry_at


class NotFoundError(ForgeError):
    """There is no such thing, or the token may not see it; forges do not say which."""


class RequestRefusedError(ForgeError):
    """The forge calls what we sent wrong, or not possible now; `what` has its words."""


class ServerError(ForgeError):
    """The forge has a problem of its own (5xx)."""

    retryable = True


class NetworkError(ForgeError):
    """No answer: no connection, cut off in the middle, or silence for too long."""

    retryable = True


class MalformedAnswerError(ForgeError):
    """What came back is not the forge's format."""


class Kind(StrEnum):
    """What an account is. Only a person's word can count."""

    PERSON = "person"
    BOT = "bot"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """An account: `host` and `id` are who it is, `login` is only what it is called today.

    `kind` is None where the forge does not tell with what it was asked.
    """

    host: str
    id: int
    login: str = field(compare=False)
    kind: Kind | None = field(default=None, compare=False)


class Access(IntEnum):
    """What somebody may do in the repository, in order."""

    NONE = 0
    READ = 1
    WRITE = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What an account is and may do, now. `kind` is None where the forge does not tell, which no word can count with."""

    access: Access
    kind: Kind | None


class RequestState(StrEnum):
    """Where a request is."""

    OPEN = "open"
    CLOSED = "closed"
    MERGED = "merged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A pull or merge request of one branch of the repository itself into another; those from forks are not seen.

    `head`: the commit that the forge has for it; `merged`: the commit that it became on the base, where it is known;
    `ended`: when it was closed or merged. Times are as the forge gives them: ISO 8601 with a zone.
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
    """A comment on a request. `edited`: it is no longer what was first written, or that cannot be told."""

    id: int
    by: Identity
    body: str
    url: str
    time: str
    edited: bool


class Said(StrEnum):
    """What a review says. `unknown`: it was dismissed, and the forge does not tell what it said before."""

    APPROVED = "approved"
    CHANGES = "changes"
    COMMENTED = "commented"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dismissal:
    """The end of a review. `commit`: the push at which the forge itself ended it; None where a person did."""

    by: Identity | None
    time: str | None
    commit: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """One review, in the order in which they were given. `commit`: what was reviewed, None where the forge does not tell."""

    id: str
    by: Identity
    said: Said
    commit: str | None
    time: str
    dismissed: Dismissal | None = None


class StatusState(StrEnum):
    """What a commit status says."""

    PENDING = "pending"
    SUCCESS = "success"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A commit status of ours. `text`: one line, `STATUS_TEXT` characters at most; `url`: where there is more, or empty."""

    context: str
    state: StatusState
    text: str
    url: str = ""

    def __post_init__(self) -> None:
        if self.context not in OUR_CONTEXTS or len(self.text) > STATUS_TEXT or not self.text.isprintable():
            raise AssertionError(f"unreachable: no status of ours: {self.context!r}, {self.text!r}")


class Outcome(StrEnum):
    """How a check of CI stands. `neutral`: nothing waits for it; `cancelled`: it ended without a verdict."""

    PENDING = "pending"
    SUCCESS = "success"
    FAILURE = "failure"
    NEUTRAL = "neutral"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What CI says of a commit; our own statuses are none. `app`: the numeric id of the program that said so, where known.

    `is_status`: whoever may write a status could have said it, so it never counts alone.
    """

    name: str
    outcome: Outcome
    url: str
    app: int | None
    is_status: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """A push to a branch. `before` is None where it made the branch, `after` where it deleted it; both where the forge
    does not tell which. `by` is None where the account is gone."""

    by: Identity | None
    before: str | None
    after: str | None
    time: str
    forced: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """A commit of a request, with the accounts that the forge knows by the addresses in it: a claim, not a proof."""

    oid: str
    author: Identity | None
    committer: Identity | None


class MergeMethod(StrEnum):
    """How a request may become part of its base. A merge and a fast-forward keep the commits as they are."""

    MERGE = "merge"
    SQUASH = "squash"
    REBASE = "rebase"
    FAST_FORWARD = "fast-forward"


@dataclass(frozen=True, slots=True, kw_only=True)
class Protection:
    """What guards a branch. None: the token may not see it, or this forge has no such thing."""

    protected: bool | None
    required_checks: tuple[str, ...] | None
    required_reviews: int | None
    dismisses_stale: bool | None
    last_pusher_refused: bool | None
    forced_pushes: bool | None
    deletions: bool | None
    linear: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the repository allows. `methods` is empty where the token may not see it; `access`: the token's own."""

    default_branch: str
    methods: frozenset[MergeMethod]
    access: Access
    scopes: tuple[str, ...] | None
    protection: Protection


class Forge(Protocol):
    """One repository on one forge. Every method may raise a child of `ForgeError`.

    Transient failures (rate limits that end soon, 5xx, network) have been tried again before one is raised.
    """

    @property
    def name(self) -> str:
        """What people write in `forge:`."""

    @property
    def host(self) -> str:
        """Whose ids the identities are; as policy.yaml writes it, such as github.com."""

    def me(self) -> Identity:
        """Return whose token it is."""

    def request(self, number: int) -> Request:
        """Return a request as it is now."""

    def request_of(self, branch: str, base: str) -> Request | None:
        """Return the branch's open request into that base, else its newest into it, else None.

        One into another branch shows another difference, whatever people say of it.
        """

    def propose(self, *, branch: str, base: str, title: str, body: str) -> Request:
        """Return the branch's open request into that base, with this title and body; a draft is opened where there is none.

        Whether it is a draft is left as it is. A body of the same text is not written again.
        """

    def mark_ready(self, number: int) -> Request:
        """Return the request, no longer a draft."""

    def mark_draft(self, number: int) -> Request:
        """Return the request, a draft again, where this repository has drafts."""

    def comments(self, number: int) -> tuple[Comment, ...]:
        """Return what people and programs wrote on a request, oldest first."""

    def keep_comment(self, number: int, key: str, body: str) -> Comment:
        """Return our one comment of that key, which now says `body`: edited if it stands there, else made.

        Ours is the first whose author has our numeric id and whose first line is the key's hidden marker.
        """

    def statuses(self, commit: str) -> tuple[Status, ...]:
        """Return our statuses of a commit as they stand."""

    def report(self, commit: str, statuses: Collection[Status], *, branch: str) -> tuple[Status, ...]:
        """Set what differs from what stands, and return only that. `branch`: one that has the commit."""

    def checks(self, commit: str) -> tuple[Check, ...]:
        """Return what CI says of a commit, the newest word of each check."""

    def is_over(self, job: str) -> bool:
        """Return whether the CI's job at this address, as it told its own, has ended; False where it is none of this repository's."""

    def reviews(self, number: int) -> tuple[Review, ...]:
        """Return the reviews of a request, in the order in which they were given."""

    def standing(self, who: Identity) -> Standing:
        """Return what the account with that numeric id is and may do now."""

    def pushes(self, branch: str) -> tuple[Push, ...]:
        """Return who pushed to the branch, as far back as the forge remembers, newest first."""

    def commits(self, number: int) -> tuple[Commit, ...]:
        """Return the request's commits as the forge lists them (it may stop at some hundred)."""

    def settings(self, branch: str) -> Settings:
        """Return what the repository allows and what guards the branch, as far as the token may see."""

    def close(self) -> None:
        """Let go of connections."""


def status_text(text: str) -> str:
    """Return a text as a status shows it: one line, cut where it is too long."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= STATUS_TEXT else line[: STATUS_TEXT - 1] + "…"


def marker(key: str) -> str:
    """Return the line that no forge renders and that our comment of that key begins with."""
    if not _KEY.fullmatch(key):
        raise AssertionError(f"unreachable: no key of a comment: {key!r}")
    return f"<!-- runner: {key} -->"


def same_text(one: str, other: str) -> bool:
    """Tell whether two bodies are the same but for line ends and spaces at the end, which forges and browsers change."""
    return one.replace("\r\n", "\n").rstrip() == other.replace("\r\n", "\n").rstrip()
