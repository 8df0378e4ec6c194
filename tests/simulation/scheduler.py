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
    "read": 0.02, "clock": 0.02, "write": 0.3, "written": 0.3, "fsync": 0.3, "fetch": 0.3, "push": 0.6, "received": 0.6,
    "ask": 0.5, "asked": 0.5, "effect": 0.6, "effected": 0.6, "command": 0.5, "word": 0.5,
}  # fmt: skip
# At which seams a process may die or stall, and how often beside the others.
HOT: Mapping[str, float] = {
    "read": 0.01, "clock": 0.05, "write": 0.5, "written": 0.5, "fsync": 1, "fetch": 1, "push": 3, "received": 3, "ask": 3, "asked": 3,
    "effect": 4, "effected": 5, "command": 2, "word": 1,
}  # fmt: skip


class Crash(BaseException):
    """The process is killed, here and at every further seam; no code of its own may go on after it."""


@dataclass(slots=True, eq=False)
class Task:
    """A thread of its own. `wake`: when it goes on at the earliest; `dying`: it has been killed and unwinds."""

    name: str
    main: Callable[[], None]
    wake: float = 0.0
    mortal: bool = True
    dying: bool = False
    over: bool = False
    error: BaseException | None = None
    go: threading.Lock = field(default_factory=threading.Lock)


class Scheduler:
    """Runs tasks one at a time. `crash`, `stall`: how often at a seam of weight 1, while `faults` are on."""

    def __init__(self, seed: int, *, loud: bool = False) -> None:
        self.rng = random.Random(seed)
        self.now = 1_700_000_000.0
        self.tasks: list[Task] = []
        self.current: Task | None = None
        self.crash = self.stall = 0.0
        self.longest_stall = 0.0
        self.faults = False
        self.steps = self.crashes = self.stalls = 0
        self.no_stall = 0  # in the middle of what cannot be fenced
        self.ending = False
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
            weight = HOT[kind]
            if rng.random() < self.crash * weight:
                self.kill(task, f"at {kind} {text}")
            if not self.no_stall and rng.random() < self.stall * weight:
                self.stalls += 1
                task.wake = self.now + rng.random() * self.longest_stall
                self.tell(f"STALLS {task.wake - self.now:.0f} s at {kind} {text}")
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

    def add(self, name: str, main: Callable[[], None], *, mortal: bool = True) -> Task:
        """Have a task that begins when it is chosen first."""
        task = Task(name, main, mortal=mortal)
        task.go.acquire()
        self.tasks.append(task)

        def run() -> None:
            task.go.acquire()
            try:
                if not task.dying:
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
        ready = [task for task in left if task.wake <= self.now]
        if not ready:
            first = min(left, key=lambda task: task.wake)
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
