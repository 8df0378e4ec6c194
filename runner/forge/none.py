"""`none`: no forge. Nothing exists there, and nothing can be written."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NoReturn

from runner.forge.base import (
    Access,
    Check,
    Comment,
    Commit,
    Identity,
    NoForgeError,
    NotFoundError,
    Protection,
    Push,
    Request,
    Review,
    Settings,
    Standing,
    Status,
)

_HINT: Final = "set `forge:` in .protocols/config.yaml on the trusted branch"


class NoForge:
    """Reading finds nothing; writing raises NoForgeError."""

    name: Final = "none"
    host: Final = ""

    def me(self) -> Identity:
        """Raise: there is nobody."""
        self._refuse("there is no account")

    def request(self, number: int) -> Request:
        """Raise: there is no request."""
        raise NotFoundError(f"there is no request {number}", "forge: none", _HINT)

    def request_of(self, branch: str, base: str) -> Request | None:
        """Return None."""
        return None

    def propose(self, *, branch: str, base: str, title: str, body: str) -> Request:
        """Raise: nothing can be written."""
        self._refuse(f"no request can be opened for {branch}")

    def mark_ready(self, number: int) -> Request:
        """Raise: nothing can be written."""
        self._refuse(f"there is no request {number}")

    def mark_draft(self, number: int) -> Request:
        """Raise: nothing can be written."""
        self._refuse(f"there is no request {number}")

    def comments(self, number: int) -> tuple[Comment, ...]:
        """Return none."""
        return ()

    def keep_comment(self, number: int, key: str, body: str) -> Comment:
        """Raise: nothing can be written."""
        self._refuse(f"there is no request {number} to comment on")

    def statuses(self, commit: str) -> tuple[Status, ...]:
        """Return none."""
        return ()

    def report(self, commit: str, statuses: Collection[Status], *, branch: str) -> tuple[Status, ...]:
        """Raise: nothing can be written."""
        self._refuse("no status can be set")

    def checks(self, commit: str) -> tuple[Check, ...]:
        """Return none."""
        return ()

    def is_over(self, job: str) -> bool:
        """Return that nobody knows."""
        return False

    def reviews(self, number: int) -> tuple[Review, ...]:
        """Return none."""
        return ()

    def standing(self, who: Identity) -> Standing:
        """Return that nobody may do anything."""
        return Standing(access=Access.NONE, kind=None)

    def pushes(self, branch: str) -> tuple[Push, ...]:
        """Return none."""
        return ()

    def commits(self, number: int) -> tuple[Commit, ...]:
        """Return none."""
        return ()

    def settings(self, branch: str) -> Settings:
        """Return that nothing guards the branch."""
        unguarded = Protection(
            protected=False,
            required_checks=(),
            required_reviews=0,
            dismisses_stale=False,
            last_pusher_refused=False,
            forced_pushes=True,
            deletions=True,
            linear=False,
        )
        return Settings(
            default_branch=branch, methods=frozenset(), access=Access.NONE, scopes=None, protection=unguarded
        )

    def close(self) -> None:
        """Do nothing."""

    def _refuse(self, what: str) -> NoReturn:
        raise NoForgeError(what, "forge: none", _HINT)
