"""Who goes on, when, and who falls: decided by one seed, at every seam.

Each process is a thread, and one of them at a time runs: at a seam it may have to hand over, sleep, stall, or die. So what
happens is a function of the seed and the code alone. Time is the scheduler's: it goes on by what is done, and jumps where
everybody sleeps.
"""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

# How likely a process has to hand over at a seam of a kind. What only reads is seldom interesting, and often.
HANDS_OVER: Mapping[str, float] = {
    "read": 0.02, "clock": 0.02, "write": 0.3, "move": 0.3, "written": 0.3, "fsync": 0.3, "append": 0.3, "lock": 0.3, "fetch": 0.3,
    "push": 0.6, "received": 0.6, "ask": 0.5, "asked": 0.5, "effect": 0.6, "effected": 0.6, "command": 0.5, "word": 0.5,
}  # fmt: skip
# How likely a process dies at a seam of a kind, beside the others. What is rare and matters most is weighted: of a seed's seams one in
# four hundred is at an effect, and one in a hundred at a journal's fsync (`append`).
DIES: Mapping[str, float] = {
    "read": 0.01, "clock": 0.05, "write": 0.5, "move": 0.5, "written": 0.5, "fsync": 0.5, "append": 10, "lock": 0.2, "fetch": 1,
    "push": 3, "received": 3, "ask": 3, "asked": 30, "effect": 40, "effected": 50, "command": 10, "word": 1,
}  # fmt: skip
# The same for a stall. None between looking whether the lease still holds and what begins then: nobody can fence that.
STALLS: Mapping[str, float] = {
    "read": 0, "clock": 0, "write": 0.5, "move": 0.5, "written": 0.5, "fsync": 0.5, "append": 1, "lock": 0.5, "fetch": 1, "push": 40,
    "received": 6, "ask": 15, "asked": 20, "effect": 4, "effected": 5, "command": 15, "word": 1,
}  # fmt: skip
MOST = 0.4  # how likely a process dies at one seam, at most: some have to get through


class Crash(BaseException):
    """The process is killed, here and at every further seam; no code of its own may go on after it."""


@dataclass(slots=True, eq=False)
class Task:
    """A thread of its own. `wake`: when it goes on at the earliest; `dying`: it has been killed and unwinds.

    `lurks`: how likely it goes on at once where another task is at a seam of a kind, while it is `idle`; `woken`: that it did;
    `met`: the task that was there.
    """

    name: str
    main: Callable[[], None]
    wake: float = 0.0
    mortal: bool = True
    dying: bool = False
    over: bool = False
    lurks: Mapping[str, float] = field(default_factory=dict)
    idle: bool = False
    woken: str = ""
    met: Task | None = None
    error: BaseException | None = None
    go: threading.Lock = field(default_factory=threading.Lock)


class Scheduler:
    """Runs tasks one at a time. `crash`, `stall`: how often at a seam of weight 1, while `faults` are on."""

    def __init__(self, seed: int, *, loud: bool = False) -> None:
        self.rng = random.Random(seed)
        self.now = 1_700_000_000.0
        self.tasks: list[Task] = []
        self.lurking: list[Task] = []  # those that come in between
        self.current: Task | None = None
        self.crash = self.stall = 0.0
        self.longest_stall = 0.0
        self.faults = False
        self.steps = self.crashes = self.stalls = 0
        self.no_stall = 0  # in the middle of what cannot be fenced
        self.ending = False
        self.following: Task | None = None  # who goes on next, where that is decided already
        self.hurried: Task | None = None  # who came in between, and is done before others go on
        self.loud = loud
        self.on_crash: Callable[[Task], None] = lambda task: None
        self._digest = hashlib.sha256()
        self._back = threading.Lock()
        self._back.acquire()

    # --- what is told ------------------------------------------------------------------------------------------------------

    def tell(self, what: str) -> None:
        """Note a decision: in the digest by which two runs of a seed are compared, and on stdout where that is wanted."""
        line = (
            f"{self.steps:6d} {self.now - 1_700_000_000:10.2f} {self.current.name if self.current else '-':10s} {what}"
        )
        self._digest.update(line.encode())
        if self.loud:
            print(line, flush=True)

    @property
    def trace(self) -> str:
        """The digest of all decisions."""
        return self._digest.hexdigest()

    # --- in a task -----------------------------------------------------------------------------------------------------------

    def seam(self, kind: str, text: str = "") -> None:
        """Be at a moment at which others may go on, or this process may fall."""
        task = self.current
        if task is None:  # the world's own hands, before it begins
            return
        if task.dying:
            raise Crash
        rng = self.rng
        self.now += rng.random() * 0.01
        if kind != "read":
            self.steps += 1
        if self.faults and task.mortal:
            if rng.random() < min(self.crash * DIES[kind], MOST):
                self.kill(task, f"at {kind} {text}")
            if not self.no_stall and rng.random() < self.stall * STALLS[kind]:
                self.stalls += 1
                task.wake = self.now + rng.random() * self.longest_stall
                self.tell(f"STALLS {task.wake - self.now:.0f} s at {kind} {text}")
                self.hand_over()
                return
        if self.faults:
            for other in self.lurking:
                if other.idle and other is not task and rng.random() < other.lurks.get(kind, 0.0):
                    self.tell(f"{other.name} comes in between, at {kind} {text}")
                    other.woken, other.met, other.wake, self.following = kind, task, self.now, other
                    self.hurried = other if rng.random() < 0.5 else None
                    self.hand_over()
                    return
        if rng.random() < HANDS_OVER[kind]:
            self.tell(f"{kind} {text}")
            self.hand_over()

    def kill(self, task: Task, where: str) -> None:
        """Kill the process that runs."""
        self.crashes += 1
        self.tell(f"DIES {where}")
        task.dying = True
        self.on_crash(task)
        raise Crash

    def idle(self, seconds: float) -> str:
        """Sleep with nothing begun; return the kind of seam at which this task came in, if it did not sleep to the end."""
        task = self.current
        assert task is not None
        task.idle, task.woken = True, ""
        try:
            self.sleep(seconds)
        finally:
            task.idle = False
        return task.woken

    def sleep(self, seconds: float) -> None:
        """Let others go on for so long."""
        task = self.current
        assert task is not None
        if task.dying:
            raise Crash
        task.wake = self.now + max(seconds, 0.001)
        self.hand_over()

    def hand_over(self) -> None:
        """Let the scheduler choose who goes on."""
        task = self.current
        assert task is not None
        self._back.release()
        task.go.acquire()
        if task.dying:
            raise Crash

    # --- around them -----------------------------------------------------------------------------------------------------

    def add(
        self, name: str, main: Callable[[], None], *, mortal: bool = True, lurks: Mapping[str, float] | None = None
    ) -> Task:
        """Have a task that begins when it is chosen first."""
        task = Task(name, main, mortal=mortal, lurks=lurks or {})
        task.go.acquire()
        self.tasks.append(task)
        if lurks:
            self.lurking.append(task)

        def run() -> None:
            task.go.acquire()
            try:
                if not self.ending:
                    main()
            except Crash:
                pass
            except BaseException as error:  # told by whoever runs it all
                task.error = error
            task.over = True
            self._back.release()

        threading.Thread(target=run, name=name, daemon=True).start()
        return task

    def step(self) -> bool:
        """Let one task go on to its next hand-over; False where all have ended."""
        left = [task for task in self.tasks if not task.over]
        if not left:
            return False
        hurried = self.hurried
        if self.following is None and hurried is not None and not (hurried.idle or hurried.over):
            self.following = hurried if hurried.wake <= self.now else None
        elif self.following is None:
            self.hurried = None
        task, self.following = self.following, None
        if dying := [one for one in left if one.dying]:  # a machine that has no power lets go of its locks at once
            task = dying[0]
        if task is None:
            ready = [one for one in left if one.wake <= self.now]
            if not ready:
                first = min(left, key=lambda one: one.wake)
                self.now = first.wake
                ready = [first]
            task = self.rng.choice(ready)
        self._run(task)
        if task.error is not None:
            raise task.error
        return True

    def _run(self, task: Task) -> None:
        self.current = task
        task.go.release()
        self._back.acquire()
        self.current = None

    def end(self) -> None:
        """Let every thread end, wherever it is."""
        self.ending, self.faults = True, False
        for task in self.tasks:
            for _ in range(100):
                if task.over:
                    break
                task.dying = True
                self._run(task)
