"""Noticing that something in a repository may have changed: refs, worktrees, edits of plan files (ADR 0012).

A noticed change is a reason to look, and nothing more: the caller reads the refs anew, so an event that was lost, came twice or
late changes nothing. Where the system reports no changes (its limits are used up, or it lost some), that is noticed too.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from watchdog.events import FileSystemEvent, FileSystemEventHandler
    from watchdog.observers.api import BaseObserver, ObservedWatch

Why = Literal["changed", "edited", "lost", "woke", "timer"]

SETTLE = 0.005  # seconds without another ref that moved, after which one looks: a fetch moves many
SETTLE_MOST = 0.05
EDIT_SETTLE = 0.3  # the same for an editor's save, which is several events
EDIT_SETTLE_MOST = 2.0
SLICE = 1.0  # seconds after which the clocks are compared: the machine may have slept
SLEPT = 2.0  # seconds that they have to differ by
POLL = 2.0  # seconds between two looks at the files' times where no events come
FOLDERS = 50  # of worktrees, that are watched; more cost a thread each, and nothing depends on them

_TOP = (
    "HEAD",
    "config",
    "packed-refs",
    "refs",
    "reftable",
    "worktrees",
)  # what in the git directory itself tells of a change


@dataclass(frozen=True, slots=True)
class Clocks:
    """`monotonic` excludes the machine's sleep, `boottime` includes it; both in seconds."""

    monotonic: Callable[[], float]
    boottime: Callable[[], float]


def is_noise(name: str) -> bool:
    """Return whether a file comes and goes while another one is written: git's locks, editors' swap and backup files."""
    return (
        name.endswith((".lock", ".swp", ".swx", ".swo", "~", ".tmp", "___jb_tmp___", "___jb_old___"))
        or name.startswith((".#", "#", ".goutputstream-"))
        or name == "4913"  # vim tries whether it may write here
    )


def is_being_edited(folder: Path) -> bool:
    """Return whether an editor has a file of the folder open, as its swap or lock file tells."""
    try:
        names = os.listdir(folder)
    except OSError:
        return False
    return any(name.endswith((".swp", ".swx", ".swo")) or name.startswith(".#") for name in names)


class Changes:
    """The changes of one repository, given by its common git directory. Ends with `close`."""

    def __init__(self, common: Path, clocks: Clocks, *, events: bool = True) -> None:
        """`events`: False looks at the files' times only."""
        self.common, self._clocks = common, clocks
        self.polls: str | None = None if events else "--poll"  # why no events come, where none do
        self._identity = _identity(common)
        self._woken = threading.Event()
        self._lock = threading.Lock()
        self._why: set[Why] = set()
        self._edited: set[str] = set()
        self._count = 0
        self._folders: dict[str, str] = {}  # path of a worktree's protocol folder to what it is known as
        self._observer: BaseObserver | None = None
        self._watched: dict[tuple[str, bool], tuple[ObservedWatch, tuple[int, int]]] = {}
        self._stale: set[str] = set()  # of those, the ones that were deleted; a new one may have the old one's number
        self._warnings = _Warnings(self._lose)
        self._seen: object = None
        self._offset = clocks.boottime() - clocks.monotonic()

    def __enter__(self) -> Changes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop noticing; the threads have ended when this returns."""
        logging.getLogger("watchdog").removeHandler(self._warnings)
        observer, self._observer = self._observer, None
        if observer is not None and observer.is_alive():
            observer.stop()
            observer.join()

    def is_gone(self) -> bool:
        """Return whether the repository was deleted, or replaced by another one."""
        return self._identity is None or _identity(self.common) != self._identity

    # --- what is watched ---------------------------------------------------------------------------------------------

    def arm(self, folders: Mapping[str, Path] | None = None) -> None:
        """Watch what there is now: before one looks, so that nothing falls between. `folders`: name to a worktree's folder."""
        self._folders = {os.path.realpath(path): name for name, path in list((folders or {}).items())[:FOLDERS]}
        if self.polls is not None:
            self._seen = self._times()
            return
        try:
            self._arm({**dict(self._places()), **{(path, False): None for path in self._folders}})
        except (OSError, ImportError) as error:
            self.polls = (error.strerror if isinstance(error, OSError) else None) or str(error)
            self.close()
            self._watched = {}
            self._seen = self._times()

    def _places(self) -> Iterator[tuple[tuple[str, bool], None]]:
        """Return the folders in which a ref that moved shows, and whether those below them count."""
        yield (str(self.common), False), None
        for name, recursive in (("refs", False), ("reftable", False), ("worktrees", False), ("refs/heads", True),
                                ("refs/remotes", True), ("refs/runner/fetched", False)):  # fmt: skip
            yield (str(self.common / name), recursive), None

    def _arm(self, wanted: Mapping[tuple[str, bool], None]) -> None:
        if self._observer is None:
            from watchdog.observers import Observer

            watchdog = logging.getLogger("watchdog")
            watchdog.addHandler(self._warnings)
            watchdog.propagate = False
            self._observer = Observer()
            self._observer.start()
        with self._lock:
            stale, self._stale = self._stale, set()
        for place, (watch, was) in list(self._watched.items()):
            if place not in wanted or place[0] in stale or _identity(Path(place[0])) != was:
                del self._watched[place]
                self._observer.unschedule(watch)
        for place in wanted:
            now = _identity(Path(place[0]))
            if now is not None and place not in self._watched:
                with contextlib.suppress(FileNotFoundError):  # it went away since; whoever looks next sees that
                    self._watched[place] = (self._schedule(*place), now)

    def _schedule(self, path: str, recursive: bool) -> ObservedWatch:
        from watchdog import events

        assert self._observer is not None
        kinds = [
            events.FileCreatedEvent, events.FileDeletedEvent, events.FileMovedEvent, events.FileClosedEvent,
            events.DirCreatedEvent, events.DirDeletedEvent, events.DirMovedEvent,
        ]  # fmt: skip
        return self._observer.schedule(_handler(self._note), path, recursive=recursive, event_filter=kinds)

    # --- what is noticed ---------------------------------------------------------------------------------------------

    def _note(self, paths: Iterable[str]) -> None:
        """Take an event up; called by the observer's thread."""
        for path in paths:
            folder, name = os.path.split(path)
            if (path, True) in self._watched or (path, False) in self._watched:
                with self._lock:
                    self._stale.add(path)
            if is_noise(name):
                continue
            known = self._folders.get(folder) or self._folders.get(path)
            with self._lock:
                if known is not None:
                    self._edited.add(known)
                    self._why.add("edited")
                elif folder == str(self.common) and name not in _TOP:
                    continue
                else:
                    self._why.add("changed")
                self._count += 1
            self._woken.set()

    def _lose(self) -> None:
        with self._lock:
            self._why.add("lost")
            self._count += 1
        self._woken.set()

    def _take(self) -> set[Why]:
        with self._lock:
            found, self._why = self._why, set()
            self._woken.clear()
        return found

    def edited(self) -> set[str]:
        """Return the names of the folders in which people changed something since this was last asked."""
        with self._lock:
            found, self._edited = self._edited, set()
        return found

    def wait(self, seconds: float) -> set[Why]:
        """Return why to look, as soon as there is a reason: at the latest after `seconds`, for `timer`."""
        until = self._clocks.monotonic() + seconds
        while True:
            left = until - self._clocks.monotonic()
            if self._woken.wait(max(0.0, min(left, SLICE if self.polls is None else POLL))):
                self._settle()
            found = self._take()
            offset = self._clocks.boottime() - self._clocks.monotonic()
            if offset - self._offset > SLEPT:
                found.add("woke")
            self._offset = offset
            if self.polls is not None and not found and self._times() != self._seen:
                found.add("changed")
            if found:
                return found
            if self.is_gone():  # it was moved, of which nothing in it tells
                return {"changed"}
            if self._clocks.monotonic() >= until:
                return {"timer"}

    def _settle(self) -> None:
        """Wait until no more comes for a moment, so that one look does for many events."""
        began = self._clocks.monotonic()
        while True:
            with self._lock:
                edit_only = self._why == {"edited"}
                count = self._count
            pause, most = (EDIT_SETTLE, EDIT_SETTLE_MOST) if edit_only else (SETTLE, SETTLE_MOST)
            time.sleep(pause)
            with self._lock:
                is_still = count == self._count
            if is_still or self._clocks.monotonic() - began > most:
                return

    def _times(self) -> object:
        """Return what differs when a ref has moved: the times of the folders that git renames its files into, and of what it packs."""
        found: list[tuple[str, int, int]] = []
        stack = [str(self.common / name) for name in ("refs", "worktrees")]
        stack += [str(self.common / name) for name in ("HEAD", "packed-refs", "reftable/tables.list")]
        stack += list(self._folders)
        while stack:
            path = stack.pop()
            try:
                status = os.stat(path)
                found.append((path, status.st_ino, status.st_mtime_ns))
                if path.startswith(str(self.common / "refs")):
                    stack += [one.path for one in os.scandir(path) if one.is_dir(follow_symlinks=False)]
            except OSError:
                found.append((path, 0, 0))
        return sorted(found)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _handler(note: Callable[[Iterable[str]], None]) -> FileSystemEventHandler:
    """Return what watchdog calls with each event; its module is loaded only now."""
    from watchdog.events import FileSystemEventHandler

    class Handler(FileSystemEventHandler):
        def dispatch(self, event: FileSystemEvent) -> None:
            note(os.fsdecode(path) for path in (event.src_path, event.dest_path) if path)

    return Handler()


class _Warnings(logging.Handler):
    """Takes whatever watchdog warns of, such as a queue that ran over, for changes that were lost."""

    def __init__(self, lose: Callable[[], None]) -> None:
        super().__init__(logging.WARNING)
        self._lose = lose

    def emit(self, record: logging.LogRecord) -> None:
        """Look at everything anew."""
        self._lose()
