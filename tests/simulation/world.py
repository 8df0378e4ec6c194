"""One seed's world: hosts with clones, a remote, people, what goes wrong, and what has to hold all the while."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from runner.app import approve, create, run, steer, sync
from runner.app.doctor import checks
from runner.engines import EngineError, Request
from runner.errors import ConflictError, HeldError, IntegrityError, RefusedError, RunnerError, UnreachableError
from runner.executor import advance
from runner.executor.advance import Advanced
from runner.git import BLOB, Ident, TreeEntry
from runner.git.objects import commit_bytes, parse_commit
from runner.protocol import log, machine, paths, state, transcript
from runner.protocol.approval_file import Decision
from runner.store import history, lease, record, trusted
from runner.store.environment import Environment, StateDir
from runner.store.project import Project, Session
from runner.trust import verify
from tests.simulation import outside
from tests.simulation.disk import Disk, Unsynced
from tests.simulation.memory_git import Line, LineError, MemoryGit, Repository
from tests.simulation.scheduler import Crash, Scheduler, Task

START = 1_700_000_000.0
URL = "sim://remote/shop.git"
TTL, GRACE = 900.0, 300.0
DEEDS = 30  # how often people do something unasked, at most
POLL = 0.02  # how often the runner looks whether a lock is free
# When a person comes in between: where a process of their machine is about to move refs, and where it acts.
LURKS: Mapping[str, float] = {
    "write": 0.01, "move": 0.05, "push": 0.15, "received": 0.1, "asked": 0.15, "command": 0.05, "effect": 0.1, "lock": 0.01,
}  # fmt: skip
WORDS = ("paused", "resumed", "step-retried", "answered", "effect-decided", "approval-counted", "call-decided")
CI = {"RUNNER_NAME": "ci", "RUNNER_EMAIL": "ci@example.test"}  # what all jobs of a CI are called

EFFECTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "send": ("send", {"to": "all"}),
    "pay": ("pay", {"amount": 5}),
    "book": ("book", {"seat": 7}),
    "agent-send": ("send", {"to": "agent-send"}),
}


class Violation(AssertionError):
    """Something that has to hold does not."""


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong in a seed, and how often: each seed has some of it, so that no kind hides another."""

    crash: float = 0.0
    power: float = 0.0  # of the crashes, those that take the machine with them
    stall: float = 0.0
    longest_stall: float = 0.0
    answers_lost: float = 0.0  # of tools
    pushes_lost: float = 0.0
    push_answers_lost: float = 0.0
    pushes_twice: float = 0.0  # heard twice, or asked again from the beginning
    pushes_late: float = 0.0  # of those that are lost: heard later all the same
    remote_away: float = 0.0
    model_away: float = 0.0
    commands_fail: float = 0.0
    clocks: float = 0.0  # seconds that the clocks of two hosts may differ by
    slow: float = 0.0  # of commands and models: those that take longer than a lease
    people: float = 0.0
    lurks: float = 0.0  # how often a person comes in between, beside `LURKS`
    rewrites: float = 0.0  # of what people do
    until: float = 4 * 3600.0

    @classmethod
    def of(cls, rng: random.Random) -> Faults:
        """Choose some."""

        def some(*values: float, often: float = 0.6) -> float:
            return rng.choice(values) if rng.random() < often else 0.0

        return cls(
            crash=some(0.002, 0.005, 0.01, 0.02, often=0.8),
            power=some(0.3, 1.0),
            stall=some(0.001, 0.003, 0.006),
            longest_stall=rng.choice((60.0, 2000.0, 4000.0)),
            answers_lost=some(0.1, 0.3, often=0.4),
            pushes_lost=some(0.03, 0.1, 0.3),
            push_answers_lost=some(0.03, 0.1, 0.3),
            pushes_twice=some(0.05, 0.1, often=0.5),
            pushes_late=some(0.3, 1.0, often=0.5),
            remote_away=some(0.02, 0.1),
            model_away=some(0.05, 0.3, often=0.3),
            commands_fail=some(0.05, 0.2, often=0.3),
            clocks=some(300.0, 3600.0, 86400.0, often=0.5),
            slow=some(0.1, 0.4),
            people=some(0.2, 0.5, 0.9, often=0.8),
            lurks=some(0.3, 1.0, often=0.7),
            rewrites=some(0.1, 0.3, often=0.4),
            until=rng.choice((3600.0, 4 * 3600.0)),
        )


@dataclass(slots=True, eq=False)
class Host:
    """A machine with a clone. `vanishes`: it is a machine of a CI, which may be gone with all that it has.

    `cron`: its jobs begin by the clock, at the minute, as others' do.
    """

    world: World
    name: str
    vanishes: bool = False
    cron: bool = False
    skew: float = 0.0
    booted: float = 0.0
    life: int = 0  # how often it was made
    repository: Repository = field(default_factory=Repository)
    unsynced: Unsynced = field(default_factory=Unsynced)
    boots: int = 0
    processes: int = 0

    @property
    def folder(self) -> Path:
        """Where its things lie."""
        return self.world.folder / f"{self.name}-{self.life}"

    def make(self) -> None:
        """Be a fresh clone."""
        remote = self.world.remote
        heads = {name: oid for name, oid in remote.refs.items() if name.startswith("refs/heads/")}
        refs = {f"refs/remotes/origin/{name.removeprefix('refs/heads/')}": oid for name, oid in heads.items()}
        refs["refs/heads/main"] = remote.refs["refs/heads/main"]
        settings = {
            "remote.origin.url": [URL],
            "user.name": [self.name],
            "user.email": [f"{self.name}@example.test"],
        }
        self.repository = Repository(dict(remote.closure(*refs.values(), have={})), refs, settings=settings)
        self.unsynced = Unsynced()

    def throw_away(self) -> None:
        """Be gone, with journal, locks and state; another one comes in its place."""
        self.world.scheduler.tell(f"{self.name} is thrown away")
        self.world.forget_local_words(self)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.life += 1
        self.make()
        self.start()

    def start(self) -> None:
        """Be switched on again."""
        self.boots += 1
        self.booted = self.world.scheduler.now - self.world.scheduler.rng.random() * 100


@dataclass(slots=True, eq=False)
class Process:
    """Where one command runs after the other, of whoever it is. `batches`: it is `run` and not `step`."""

    host: Host
    batches: bool = False
    beat: tuple[float, Callable[[], float]] | None = None  # when the lease is renewed beside the work, and how
    session: Session | None = None
    patience: float = 120.0  # seconds till the next one, at most
    is_unanswered: bool = False  # its last push: it was not told what came of it
    saw: str | None = None  # where the branch was on the remote when its last push began
    is_wrong: bool = False  # it was told that the record, or the history, is not what it was

    @property
    def world(self) -> World:
        """The world that it is in."""
        return self.host.world

    def environment(self) -> Environment:
        """Return its clock, randomness and names."""
        world, host = self.world, self.host
        scheduler, rng = world.scheduler, world.scheduler.rng

        def now() -> float:
            scheduler.seam("clock")
            return scheduler.now + host.skew

        def monotonic() -> float:
            return scheduler.now - host.booted

        def sleep(seconds: float) -> None:  # who waits for a lock looks as often as the seed wants it
            scheduler.sleep(rng.choice((POLL, 1.0, 10.0)) if seconds == POLL else seconds)

        def beside(seconds: float, beat: Callable[[], float]) -> Callable[[], None]:
            self.beat = scheduler.now + seconds, beat
            return self.stop_beating

        host.processes += 1
        return Environment(
            now=now,
            monotonic=monotonic,
            sleep=sleep,
            random_hex=lambda count: f"{rng.getrandbits(4 * count):0{count}x}",
            host=host.name,
            pid=host.processes,
            state_home=host.folder / "state",
            environ={"PATH": "/nonexistent", **(CI if host.vanishes else {})},
            hear=lambda record: world.heard(host, record),
            say=lambda line: scheduler.tell(f"says: {line}"),
            ask=lambda question, choices: rng.choice((None, *choices)),
            boot=lambda: f"{host.name}-{host.life}-{host.boots}",
            beside=beside,
        )

    def stop_beating(self) -> None:
        """Renew no lease any more."""
        self.beat = None

    def open(self) -> Session:
        """Return the project as a new process finds it."""
        world, host, who = self.world, self.host, self.environment()
        git = MemoryGit(host.repository, host.folder / "shop.git", world.line, world.scheduler.seam)
        dirs = StateDir(git.common_dir, who.state_home)
        options = {"ephemeral": "yes"} if host.vanishes else {}
        self.session = Session(Project(git, dirs, who, trusted.last_seen(git, dirs), options))
        return self.session


@dataclass(frozen=True, slots=True)
class Sent:
    """A push on its way: who sent it, and the nonce of the lease that they have.

    What a push does not move git compares as it begins, with what the remote tells then, and the remote never: `saw`.
    """

    by: Process | None
    host: str
    life: int
    nonce: str | None
    saw: str | None = None  # where the branch was when the push began


class Way(Line):
    """The way to the remote, on which things are lost, come late, or come twice; the remote looks at what it is told."""

    def __init__(self, world: World) -> None:
        super().__init__(world.remote)
        self._world = world
        self._late: list[tuple[float, Sent, Mapping[str, tuple[str | None, str | None]]]] = []

    def reach(self, what: str) -> None:
        self.hear_late()
        if self._world.process is not None:
            self._world.process.saw = self.remote.refs.get(self._world.ref)
        if self._world.chance(self._world.faults.remote_away):
            if what == "push":
                self._unanswered("no route")
            raise LineError(f"{what}: no route")

    def hear_late(self) -> None:
        """Have the remote hear what was on its way for long: what others find there is the same as if it had come on time."""
        due = [one for one in self._late if one[0] <= self._world.scheduler.now]
        self._late = [one for one in self._late if one not in due]
        for _, sent, changes in due:
            self._world.scheduler.tell("LATE comes what was given up")
            self._hear(sent, changes)

    def receive(self, changes: Mapping[str, tuple[str | None, str | None]]) -> str | None:
        world = self._world
        words, sent = _words(changes), world.sends()
        if world.chance(world.faults.pushes_lost):
            world.scheduler.tell(f"LOST push {words}")
            if world.chance(world.faults.pushes_late):
                self._late.append((world.scheduler.now + world.scheduler.rng.random() * 2000, sent, dict(changes)))
            self._unanswered("broken pipe")
        refused = self._hear(sent, changes)
        world.scheduler.seam("received", words)
        if world.chance(world.faults.pushes_twice):
            world.scheduler.tell("TWICE comes the same")
            refused = self._hear(sent, changes)
        if refused is not None and world.process is not None:  # of the first or the second hearing: nobody can tell
            world.process.is_unanswered = True
        if world.chance(world.faults.push_answers_lost):
            world.scheduler.tell("LOST the answer")
            self._unanswered("connection reset")
        return refused

    def _hear(self, sent: Sent, changes: Mapping[str, tuple[str | None, str | None]]) -> str | None:
        before = dict(self.remote.refs)
        refused = super().receive(changes)
        self._world.scheduler.tell(f"{'REFUSED' if refused else 'PUSHED'} {_words(changes)}")
        if refused is None:
            self._world.check_push(before, changes, sent)
        return refused

    def _unanswered(self, why: str) -> None:
        process = self._world.process
        if process is not None:
            process.is_unanswered = True
        raise LineError(f"push: {why}")

    def repeats(self) -> bool:
        again = self._world.chance(self._world.faults.pushes_twice)
        if again:
            self._world.scheduler.tell("AGAIN is asked the same")
        return again


def _words(changes: Mapping[str, tuple[str | None, str | None]]) -> str:
    return " ".join(f"{name.removeprefix('refs/')}={(new or 'gone')[:7]}" for name, (new, _) in changes.items())


@dataclass(slots=True)
class World:
    """Everything that a seed has. `publish`: what the project's configuration says; `home`: where people see how it stands."""

    seed: int
    folder: Path
    loud: bool = False
    scheduler: Scheduler = field(init=False)
    faults: Faults = field(init=False)
    publish: str = field(init=False)
    remote: Repository = field(default_factory=Repository)
    line: Way = field(init=False)
    hosts: list[Host] = field(default_factory=list)
    desk: Process = field(init=False)
    disk: Disk = field(init=False)
    ledger: outside.Ledger = field(init=False)
    protocol: str = ""
    ref: str = ""  # its branch
    over: bool = False
    at: dict[Task, Process] = field(default_factory=dict)
    known: dict[str, state.State] = field(default_factory=dict)  # the tips of the remote that were judged
    answered: dict[str, str] = field(default_factory=dict)  # text of an answer to the request that it is to
    had: set[tuple[str, int, str]] = field(default_factory=set)  # host, life, request: its answer is on the disk
    tokens: dict[str, tuple[Host | None, int]] = field(
        default_factory=dict
    )  # people's commits, and where they were made
    made: dict[str, tuple[str, str]] = field(default_factory=dict)  # those commits, and the file that each is of
    words: int = 0  # how many commits people made
    deeds: int = 0  # how often they did something unasked
    said: list[tuple[str, str]] = field(default_factory=list)  # what people were told is done, and its commit
    amended: dict[str, str] = field(default_factory=dict)  # commits that a person made anew, to what they are now
    damaged: bool = False  # a person changed the record by hand, and nobody has mended it
    told: dict[tuple[str, str], Process] = field(default_factory=dict)  # ref, new: whose push was answered as done
    holders: dict[str, tuple[str, int]] = field(default_factory=dict)  # nonces of leases: host, life
    moved: float = 0.0  # when the lease was, last
    slugs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.seed, loud=self.loud)
        rng = self.scheduler.rng
        self.faults = Faults.of(rng)
        self.publish = rng.choice(("always", "always", "always", "never", "ask"))
        self.line = Way(self)
        self.ledger = outside.Ledger(self)
        self.disk = Disk(self.scheduler, self._unsynced)
        self.scheduler.on_crash = self._fell
        self.scheduler.crash, self.scheduler.stall = self.faults.crash, self.faults.stall
        self.scheduler.longest_stall = self.faults.longest_stall

    @property
    def home(self) -> Repository:
        """Where people see how it stands: the remote, where all is published; else the one clone that has it."""
        return self.remote if self.publish == "always" else self.desk.host.repository

    @property
    def process(self) -> Process | None:
        """The process that runs."""
        task = self.scheduler.current
        return self.at.get(task) if task is not None else None

    def _running(self) -> Process:
        process = self.process
        assert process is not None
        return process

    # --- chance ----------------------------------------------------------------------------------------------------------

    def chance(self, often: float) -> bool:
        """Return whether something goes wrong now."""
        scheduler = self.scheduler
        return bool(often) and scheduler.faults and scheduler.current is not None and scheduler.rng.random() < often

    def _unsynced(self) -> Unsynced | None:
        return self.process.host.unsynced if self.process is not None else None

    def _fell(self, task: Task) -> None:
        host = self.at[task].host
        if self.faults.power and self.scheduler.rng.random() < self.faults.power:
            self.scheduler.tell(f"{host.name} has no power")
            self._end_all(host)
            self.disk.cut(host.unsynced)
            host.start()

    def _end_all(self, host: Host) -> None:
        """Let no process of a machine go on."""
        for task, process in self.at.items():
            if process.host is host and task is not self.scheduler.current and not task.over:
                task.dying, task.wake = True, self.scheduler.now

    def work(self) -> None:
        """Let a command or a model take its time, while the lease is renewed beside it."""
        scheduler, process = self.scheduler, self._running()
        slow = self.chance(self.faults.slow)
        until = scheduler.now + scheduler.rng.random() * (2 * (TTL + GRACE) if slow else 5)
        while True:
            due = process.beat[0] if process.beat is not None else until
            scheduler.sleep(max(0.0, min(due, until) - scheduler.now))
            if scheduler.now >= until:
                return
            if process.beat is not None and scheduler.now >= process.beat[0]:
                beat = process.beat[1]
                process.beat = scheduler.now + beat(), beat

    # --- the beginning ---------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Make the remote, the clones and the protocol."""
        rng, remote = self.scheduler.rng, self.remote
        config = f"publish: {self.publish}\nlease: {{ttl: {TTL:.0f}s, grace: {GRACE:.0f}s}}\n"
        files = {
            paths.CONFIG: config,
            paths.agent_file("analyst"): f"name: analyst\nobjective: Works.\ntools:\n  - write_file\n{outside.ENTRY}",
            "ops.py": "",
            "README.md": "a shop\n",
        }
        entries = {path: TreeEntry(BLOB, remote.put("blob", text.encode())) for path, text in files.items()}
        alice = Ident("Alice", "alice@example.test", int(START))
        remote.refs["refs/heads/main"] = remote.put(
            "commit", commit_bytes(remote.tree_of(entries), (), alice, alice, b"begin\n")
        )
        shared = self.publish == "always"
        for number in range(rng.choice((2, 2, 3, 3, 4)) if shared else 1):
            host = Host(self, f"host{number}", vanishes=shared and rng.random() < 0.5)
            host.cron = host.vanishes and rng.random() < 0.5
            if not host.cron:
                host.skew = (rng.random() - 0.5) * 2 * self.faults.clocks
            host.make()
            host.start()
            self.hosts.append(host)
        staying = [host for host in self.hosts if not host.vanishes]
        if shared and (not staying or rng.random() < 0.6):
            desk = Host(self, "desk")
            desk.make()
            desk.start()
        else:
            desk = staying[0]
        self.desk = Process(desk)
        with self.desk.open() as session:
            self.protocol = create.create(session, "Work", self._plan(), where="plan").protocol
        self.ref = f"refs/heads/{self.protocol}"
        for host in self.hosts:
            for number in range(1 if host.vanishes else rng.choice((1, 2, 2))):
                process = Process(host, batches=rng.random() < 0.6)
                name = host.name if number == 0 else f"{host.name}.{number}"
                self.at[self.scheduler.add(name, self._life_of(process))] = process
        lurks = {kind: often * self.faults.lurks for kind, often in LURKS.items()} if self.faults.lurks else None
        self.at[self.scheduler.add("desk", self._at_the_desk, lurks=lurks)] = self.desk
        self.scheduler.faults = True

    def _plan(self) -> dict[str, bytes]:
        rng = self.scheduler.rng
        kinds = ["agent", "agent-send", "command", "checked", "send", "pay", "book", "human"]
        chosen = rng.sample(kinds, rng.choice((2, 3, 3, 4)))
        files = {"plan.md": b"---\ntitle: Work\n---\nDo it.\n"}
        for number, kind in enumerate(chosen, 1):
            slug = kind
            text = {
                "agent": f"kind: agent\nengine: {outside.SCRIPT}\n",
                "agent-send": f"kind: agent\nagent: analyst\nengine: {outside.SCRIPT}\n",
                "command": "kind: command\nrun: echo made > made.txt\non_failure: {retry: 1, then: fail}\n",
                "checked": "kind: command\nrun: echo out > out.txt\nqa: {policy: light, checks: [test -f out.txt]}\n",
                "send": 'kind: tool\ntool: send\nwith: {to: "all"}\nagent: analyst\n',
                "pay": "kind: tool\ntool: pay\nwith: {amount: 5}\nagent: analyst\n",
                "book": "kind: tool\ntool: book\nwith: {seat: 7}\nagent: analyst\n",
                "human": "kind: human\n",
            }[kind]
            prose = f"THE STEP IS {slug} and nothing else.{' AND SEND' if kind == 'agent-send' else ''}\n"
            files[f"{10 * number:02d}-{slug}.md"] = f"---\ntitle: {slug}\n{text}---\n{prose}".encode()
            self.slugs.append(slug)
        if rng.random() < 0.6:  # a batch, somewhere in between
            place = rng.randrange(len(chosen) + 1)
            for number in range(1, rng.choice((2, 3, 3, 6)) + 1):
                slug = f"pure-{number}"
                files[f"{10 * place + number:02d}-{slug}.md"] = (
                    f"---\ntitle: {slug}\nkind: tool\ntool: echo\nwith: {{text: a}}\n---\n".encode()
                )
                self.slugs.append(slug)
        return files

    # --- a host ----------------------------------------------------------------------------------------------------------

    def _life_of(self, process: Process) -> Callable[[], None]:
        def life() -> None:
            scheduler, rng, host = self.scheduler, self.scheduler.rng, process.host
            task = scheduler.current
            assert task is not None
            while not self.over:
                try:
                    if host.cron:
                        scheduler.idle(60.0 - (scheduler.now - START) % 60.0)
                    else:
                        scheduler.idle(rng.random() * process.patience)
                        if self.chance(0.05):
                            host.skew = (rng.random() - 0.5) * 2 * self.faults.clocks
                    if process.is_wrong and rng.random() < 0.5:
                        self._doctor(process)
                    self._command(process)
                except Crash:
                    process.session = process.beat = None
                    if scheduler.ending:
                        raise
                    task.dying = False
                    if host.vanishes and rng.random() < 0.5:
                        host.throw_away()
                    task.wake = scheduler.now + rng.choice((1.0, 60.0, 2000.0))

        return life

    def _command(self, process: Process) -> None:
        """Be one process: `runner run` or `runner step`."""
        scheduler = self.scheduler
        try:
            with process.open() as session:
                if not process.batches:
                    advance.step(session, self.protocol)
                else:
                    most = scheduler.rng.choice((1, 3, 100))
                    steps = run.run(session, self.protocol, max_steps=most, adopt=True, tell=self._told)
                    assert isinstance(steps, Generator)
                    with contextlib.closing(steps):
                        for _ in steps:
                            scheduler.seam("word", "a transition")
                if self.publish == "ask":
                    sync.offer(session, self.protocol)
        except RunnerError as error:
            if not self._may_end_so(process, error):
                raise
            process.is_wrong = isinstance(error, IntegrityError)
            scheduler.tell(f"ends: {type(error).__name__}: {error.what}")
            process.patience = 400.0
        else:
            scheduler.tell("ends")
            process.patience = 120.0
        finally:
            process.session = process.beat = None

    def _told(self, done: Advanced) -> None:
        if done.commit not in self._running().host.repository.objects:
            raise Violation("a transition was reported that is nowhere but in a process")

    def _may_end_so(self, process: Process, error: RunnerError) -> bool:
        """Return whether a command may end by this error: somebody was faster, something does not answer, a person did it."""
        if isinstance(error, IntegrityError):
            return self.damaged or bool(self.amended)
        # somebody else was faster; it was never seen; the published one was replaced
        if isinstance(error, RefusedError):
            is_unseen = self.ref not in process.host.repository.refs
            return "at work" in error.what or is_unseen or self._is_replaced(error)
        return isinstance(error, HeldError | ConflictError | UnreachableError | EngineError)

    def _is_replaced(self, error: RefusedError) -> bool:
        """Return whether a clone with a commit that a person amended elsewhere is refused: a person has to decide."""
        return bool(self.amended) and "in the same places here and on the remote" in error.what

    # --- people ----------------------------------------------------------------------------------------------------------

    def _at_the_desk(self) -> None:
        scheduler, rng = self.scheduler, self.scheduler.rng
        task = scheduler.current
        assert task is not None
        while not self.over:
            try:
                woken = scheduler.idle(rng.random() * 300)
                if scheduler.faults and (woken or rng.random() < self.faults.people):
                    self._do_something(task.met if woken == "move" else None)
                if self.desk.is_wrong:
                    self._doctor(self.desk)
                tip = self.desk.host.repository.refs.get(self.ref)
                if not woken and self.publish == "always" and tip is not None and not self._is_kept(tip):
                    self._said("sync", lambda session: None)
                if not woken:
                    self._say_what_is_owed()
                    if self.publish != "always" and rng.random() < 0.2:
                        self._said("sync", lambda session: sync.sync(session, [self.protocol]))
            except Crash:
                self.desk.session = self.desk.beat = None
                if scheduler.ending:
                    raise
                task.dying = False

    def _do_something(self, mover: Task | None) -> None:
        """Be a person who does not look who is at work. `mover`: a process that is about to move refs: they commit right there."""
        rng = self.scheduler.rng
        self.deeds += 1
        if self.deeds > DEEDS or self.state()["status"] in ("completed", "cancelled"):
            return
        if mover is not None:
            self._commit_in_a_clone(self.at[mover].host)
            return
        if rng.random() < self.faults.rewrites and not self.damaged and len(self.amended) < 2:
            rng.choice((self._amend, self._damage))()
            return
        acts = (self._edit_code, self._edit_a_step, self._commit_in_a_clone, self._commit_in_a_clone)
        rng.choice((*acts, self._pause, self._pause))()

    def state(self) -> dict[str, Any]:
        """Return the state as people see it."""
        oid = self.home.find(f"{self.ref}:{paths.folder(self.protocol)}/{paths.STATE}")
        assert oid is not None
        found: dict[str, Any] = json.loads(self.home.objects[oid][1])
        return found

    def _said(self, what: str, word: Callable[[Session], object]) -> None:
        """Have the person type a command at the desk."""
        self.scheduler.tell(f"the person: {what}")
        desk = self.desk
        try:
            if self.publish == "always":
                with desk.open() as session:
                    sync.sync(session, [self.protocol])
            with desk.open() as session:
                word(session)
                seen = session.snapshot
        except RunnerError as error:
            self.scheduler.tell(f"told: {type(error).__name__}: {error.what}")
            desk.is_wrong = isinstance(error, IntegrityError)
            return
        finally:
            desk.session = desk.beat = None
        if seen is not None and self._is_a_word(seen.tip):
            self.said.append((what, seen.tip))
            if self.publish == "always" and not self._is_kept(seen.tip):
                raise Violation(f"the word `{what}` was acknowledged and is not on the remote")

    def _is_a_word(self, tip: str) -> bool:
        """Return whether a commit is what a person has said."""
        commit = parse_commit(tip, self.desk.host.repository.objects[tip][1])
        told = log.parse_message(commit.message)
        return told is not None and any(event.partition(" ")[0] in WORDS for event in told.events)

    def _is_kept(self, tip: str) -> bool:
        """Return whether the remote has a commit in the branch, or what a person made of it."""
        there = self.remote.ancestors(self.remote.refs[self.ref])
        while tip not in there and tip in self.amended:
            tip = self.amended[tip]
        return tip in there

    def _say_what_is_owed(self) -> None:
        now = self.state()
        if now["status"] in ("completed", "cancelled"):
            self._look_whether_all_is_over()
            return
        if now["status"] == "paused":
            self._said("resume", lambda session: steer.resume(session, self.protocol))
        elif now["status"] in ("failed", "blocked"):
            stopped = [slug for slug, step in now["steps"].items() if step["status"] in ("failed", "blocked")]
            if stopped:
                self._said("retry", lambda session: steer.retry(session, self.protocol, step=stopped[0]))
            else:
                self._said("resume", lambda session: steer.resume(session, self.protocol))
        for wait in now["waiting"]:
            self._answer(wait)

    def _answer(self, wait: Mapping[str, Any]) -> None:
        name, text = str(wait["id"]), "done"
        if wait["kind"] in ("call", "approval"):

            def approves(session: Session) -> object:
                return approve.answer(session, approve.matter(session, self.protocol, name), Decision.APPROVE)

            self._said(f"approve {name}", approves)
            return
        if wait["kind"] == "effect":
            tool, _, rest = wait["text"].partition(" ")
            if any(count and who.startswith(tool) for who, count in self.ledger.under_way.items()):
                return  # the person looks, and it is still on its way
            happened = any(one == tool and self._is_about(about, rest) for one, about in self.ledger.happened)
            text = "happened" if happened else "did-not"
        elif wait["kind"] == "budget":  # an hour at work is soon over where machines stall for longer
            self._give_time(str(wait["subject"]))
            return
        elif wait["kind"] not in ("human", "question"):
            raise Violation(f"nobody knows what to say to {wait}")
        self._said(f"answer {name} {text}", lambda session: steer.answer(session, self.protocol, name, text))

    @staticmethod
    def _is_about(about: str, text: str) -> bool:
        return all(f"{key}={value}" in text for key, value in json.loads(about).items())

    def _token(self, host: Host | None) -> bytes:
        self.words += 1
        token = f"people-{self.words}"
        self.tokens[token] = (host, host.life if host else 0)
        return f"{token}\n".encode()

    def _commit(self, repository: Repository, tip: str, path: str, text: str, said: bytes) -> str:
        commit = parse_commit(tip, repository.objects[tip][1])
        files = repository.files(commit.tree)
        files[path] = TreeEntry(BLOB, repository.put("blob", text.encode()))
        bob = Ident("Bob", "bob@example.test", int(self.scheduler.now))
        new = repository.put("commit", commit_bytes(repository.tree_of(files), (tip,), bob, bob, said))
        self.made[said.decode().strip()] = (new, path)
        return new

    def _push_a_commit(self, path: str, text: str) -> None:
        """A commit of a person's, pushed by plain git."""
        tip = self.remote.refs[self.ref]
        self.scheduler.seam("word", "a person pushes")
        if self.remote.refs[self.ref] == tip:
            new = self._commit(self.remote, tip, path, text, self._token(None))
            before = dict(self.remote.refs)
            self.remote.refs[self.ref] = new
            self.scheduler.tell(f"a person pushed {path}")
            self.check_push(before, {self.ref: (new, tip)}, None)

    def _commit_at_home(self, path: str, text: str) -> None:
        """A commit of a person's where all who look see it."""
        if self.publish == "always":
            self._push_a_commit(path, text)
        else:
            self._commit_in(self.desk.host, path, text)

    def _commit_in(self, host: Host, path: str, text: str) -> None:
        """A commit of a person's, made by plain git in a clone."""
        tip = host.repository.refs[self.ref]
        host.repository.refs[self.ref] = self._commit(host.repository, tip, path, text, self._token(host))
        self.scheduler.tell(f"a person committed {host.repository.refs[self.ref][:7]} in the clone of {host.name}")

    def _edit_code(self) -> None:
        if self.ref in self.remote.refs:
            self._push_a_commit(f"people/{self.words}.txt", "by hand\n")

    def _edit_a_step(self) -> None:
        now = self.state()
        open_ = [slug for slug, step in now["steps"].items() if step["status"] == "pending" and step["attempt"] == 1]
        if not open_ or now["status"] in ("completed", "cancelled", "failed", "blocked"):
            return
        name, text = self._step_file(self.scheduler.rng.choice(sorted(open_)))
        self._commit_at_home(name, f"{text}More words: {self.words}.\n")

    def _step_file(self, slug: str) -> tuple[str, str]:
        folder = paths.folder(self.protocol)
        name = next(
            path
            for path in self.home.files(self.home.refs[self.ref])
            if path.startswith(f"{folder}/") and path.endswith(f"-{slug}.md")
        )
        oid = self.home.find(f"{self.ref}:{name}")
        assert oid is not None
        return name, self.home.objects[oid][1].decode()

    def _give_time(self, slug: str) -> None:
        name, text = self._step_file(slug)
        if "timeout:" not in text:
            self._commit_at_home(name, text.replace("---\n", "---\ntimeout: 1000h\n", 1))

    def _commit_in_a_clone(self, host: Host | None = None) -> None:
        rng = self.scheduler.rng
        if host is None:
            host = self.desk.host if rng.random() < 0.5 else rng.choice(self.hosts)
        tip = host.repository.refs.get(self.ref)
        if tip is not None and tip in host.repository.objects:
            self._commit_in(host, f"people/{host.name}-{self.words}.txt", "here\n")

    def _pause(self) -> None:
        if self.state()["status"] == "running":
            self._said("pause", lambda session: steer.pause(session, self.protocol))

    # --- people who rewrite ----------------------------------------------------------------------------------------------

    def _amend(self) -> None:
        """`git commit --amend` of what everybody has, and `git push --force`; what is told of it is `doctor --fix`."""
        repository = self.desk.host.repository
        tip = repository.refs.get(self.ref)
        if tip is None or self.remote.refs.get(self.ref, tip) != tip or not self._is_quiet():
            return
        commit = parse_commit(tip, repository.objects[tip][1])
        files = repository.files(commit.tree)
        if log.parse_message(commit.message) is None:  # else its work is what the record says of it
            files[f"people/amended-{len(self.amended)}.txt"] = TreeEntry(BLOB, repository.put("blob", b"amended\n"))
        bob = Ident("Bob", "bob@example.test", int(self.scheduler.now))
        data = commit_bytes(repository.tree_of(files), commit.parents, bob, bob, commit.message)
        new = repository.put("commit", data)
        self.amended[tip] = repository.refs[self.ref] = new
        self.scheduler.tell(f"a person amended {tip[:7]} to {new[:7]}")
        self._force(tip, new)
        self._doctor(self.desk)

    def _is_quiet(self) -> bool:
        """Return whether nothing runs in the person's clone: who rewrites looks for that at least."""
        return not any(one.session for one in self.at.values() if one.host is self.desk.host)

    def _damage(self) -> None:
        """The record is changed by hand, in a commit that is pushed; what is told of it is `doctor --fix`."""
        repository = self.desk.host.repository
        tip = repository.refs.get(self.ref)
        if tip is None or self.remote.refs.get(self.ref, tip) != tip or not self._is_quiet():
            return
        name = f"{paths.folder(self.protocol)}/{paths.LOG}"
        oid = repository.find(f"{tip}:{name}")
        assert oid is not None
        text = repository.objects[oid][1].decode().replace("Work", "Wrok")
        new = repository.refs[self.ref] = self._commit(repository, tip, name, text, self._token(self.desk.host))
        self.damaged = True
        self.scheduler.tell(f"a person changed the log in {new[:7]}")
        self._force(tip, new)
        self._doctor(self.desk)

    def _force(self, tip: str, new: str) -> None:
        repository = self.desk.host.repository
        if self.remote.refs.get(self.ref) == tip:
            self.remote.objects.update(repository.closure(new, have=self.remote.objects))
            self.remote.refs[self.ref] = new

    def _doctor(self, process: Process) -> None:
        """Type `runner doctor --fix ID`, and publish what came of it."""
        self.scheduler.tell("a person: doctor --fix")
        process.is_wrong = False
        try:
            with process.open() as session:
                checks.fix_protocols(session, self.protocol)
            if self.publish == "always":
                with process.open() as session:
                    sync.sync(session, [self.protocol])
        except RunnerError as error:
            self.scheduler.tell(f"told: {type(error).__name__}: {error.what}")
        finally:
            process.session = process.beat = None

    def forget_local_words(self, host: Host) -> None:
        """What was committed in a clone alone goes with it."""
        there = self._tokens_at_remote()
        for token, (where, life) in list(self.tokens.items()):
            if where is host and life == host.life and token not in there:
                del self.tokens[token]

    # --- what has to hold --------------------------------------------------------------------------------------------------

    def asked(self, request: Request) -> None:
        """A model is asked: not for what this clone's journal has."""
        host = self._running().host
        if (host.name, host.life, request.digest()) in self.had:
            raise Violation(f"{host.name} asks the model again for what is in its journal")

    def response_of(self, request: Request) -> str:
        """Return the text by which an answer is known again."""
        text = f"r{len(self.answered)}"
        self.answered[text] = request.digest()
        return text

    def heard(self, host: Host, record: transcript.Line) -> None:
        """A record is on the disk."""
        if isinstance(record, transcript.Response):
            self.had.add((host.name, host.life, self.answered[record.text]))

    def check_begins(self, what: str) -> None:
        """A command, a call or a question to a model begins: where all is published, under a lease that is this process's."""
        process = self._running()
        session = process.session
        assert session is not None
        if self.publish != "always":
            return
        there, held = self._lease(self.remote.refs.get(lease.ref_of(self.protocol))), session.lease
        if held is None or there is None or there["nonce"] != held.lease.nonce:
            raise Violation(f"{what} begins on {process.host.name}, which has no lease: {there}")

    def sends(self) -> Sent:
        """Return who sends a push now."""
        process = self.process
        if process is None:
            return Sent(None, "", 0, None)
        held = process.session.lease if process.session else None
        return Sent(process, process.host.name, process.host.life, held.lease.nonce if held else None, process.saw)

    def check_answer(self, changes: Mapping[str, tuple[str | None, str | None]]) -> None:
        """A push is answered as done: nobody else was told so of the same movement of the same refs."""
        process = self._running()
        moves = [(name, new) for name, (new, old) in changes.items() if new != old]
        if process.is_unanswered or not moves:
            return
        others = [self.told.setdefault((name, new), process) for name, new in moves if new is not None]
        if len(others) == len(moves) and all(one is not process for one in others):
            names = ", ".join(f"{name}={str(new)[:7]}" for name, new in moves)
            raise Violation(f"{process.host.name} was told that it moved {names}, as another one was before it")

    def check_effects(self) -> None:
        """No call of class never, and none that is known by its key, has its effect twice."""
        for one in set(self.ledger.happened):
            if (count := self.ledger.happened.count(one)) > 1:
                raise Violation(f"{one[0]} {one[1]} happened {count} times")

    def check_push(
        self, before: Mapping[str, str], changes: Mapping[str, tuple[str | None, str | None]], sent: Sent | None
    ) -> None:
        """Look at what the remote has just taken."""
        for name, (new, _) in changes.items():
            old = before.get(name)
            kept = name == self.ref or name.startswith(("refs/runner/history/", "refs/runner/numbers/"))
            if kept and old is not None and (new is None or old not in self.remote.ancestors(new)):
                raise Violation(f"{name} went back from {old[:7]} to {new}: what was published is lost")
        if self.ref in changes and changes[self.ref][0] is not None and not (sent is None and self.damaged):
            self._check_tip(str(changes[self.ref][0]))
        if sent is not None and sent.by is not None:
            self._check_lease(before, changes, sent)

    def _check_tip(self, tip: str) -> None:
        git = MemoryGit(self.remote, self.folder / "remote.git")
        commit = git.commit(tip)
        assert commit is not None
        data = git.blob(f"{tip}:{paths.folder(self.protocol)}/{paths.STATE}")
        assert data is not None
        seen = state.load(data, tip)
        entries = log.parse(git.blob(f"{tip}:{paths.folder(self.protocol)}/{paths.LOG}") or b"", tip)
        folded = machine.fold(None, entries)
        if folded is None or folded._replace(log=seen.log) != seen:
            raise Violation(f"the state at {tip[:7]} is not the fold of its log")
        for parent in commit.parents:
            if parent in self.known and self.known[parent].revision > seen.revision:
                raise Violation(f"{tip[:7]} has fewer events than {parent[:7]} before it")
        self.known[tip] = seen

    def _check_lease(
        self, before: Mapping[str, str], changes: Mapping[str, tuple[str | None, str | None]], sent: Sent
    ) -> None:
        ref = lease.ref_of(self.protocol)
        old = self._lease(before.get(ref))
        if sent.nonce is not None and self.ref in changes and (old is None or old["nonce"] != sent.nonce):
            raise Violation(f"{sent.host} published by a lease that it does not have")
        if ref not in changes:
            return
        new, mine = self._lease(changes[ref][0]), (sent.host, sent.life)
        if old is not None and old["expires"] is not None and (new is None or new["nonce"] != old["nonce"]):
            stood = self.scheduler.now - self.moved
            if self.holders[old["nonce"]] != mine and stood < TTL + GRACE:
                raise Violation(f"{sent.host} took a lease that had stood still for {stood:.0f} s")
        if new is not None:
            self.holders.setdefault(new["nonce"], mine)
            self.moved = self.scheduler.now
            for name in self._intents(changes[ref][0]) - self._intents(before.get(ref)) if new["expires"] else ():
                self._check_announced(name, sent)

    def _check_announced(self, name: str, sent: Sent) -> None:
        """An effect is about to begin: of a step that is still to be done, by what the branch said as the push began."""
        seen, slug = self.known.get(sent.saw or ""), name.partition(".")[0]
        if seen is None:
            return
        step = seen.steps.get(slug)
        over = step is None or step.status in ("completed", "cancelled")
        if seen.status in ("paused", "blocked", "failed", "cancelled", "completed") or over:
            raise Violation(f"{name} is announced, and the protocol is {seen.status}, its step {step and step.status}")

    def _intents(self, oid: str | None) -> set[str]:
        files = self.remote.files(oid) if oid else {}
        return {path.partition("/")[2].removesuffix(".json") for path in files if path.startswith("intents/")}

    def _lease(self, oid: str | None) -> dict[str, Any] | None:
        found = self.remote.find(f"{oid}:lease.json") if oid else None
        told: dict[str, Any] | None = json.loads(self.remote.objects[found][1]) if found else None
        return told

    def _tokens_at_remote(self) -> set[str]:
        found = set()
        for oid in self.remote.ancestors(self.remote.refs[self.ref]):
            text = parse_commit(oid, self.remote.objects[oid][1]).message.decode().strip()
            found.add(text)
        return found

    def _look_whether_all_is_over(self) -> None:
        self.scheduler.faults = False
        self.over = True

    # --- all of it -------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Go through the seed.

        Raises:
            Violation: something did not hold.
        """
        scheduler = self.scheduler
        with self.disk.laid(), outside.laid(self):
            try:
                self.begin()
                while scheduler.step():
                    if scheduler.faults and scheduler.now - START > self.faults.until:
                        scheduler.faults = False
                        scheduler.tell("from here on nothing goes wrong any more")
                    if scheduler.now - START > self.faults.until + 48 * 3600 or scheduler.steps > 400_000:
                        now = self.state()
                        raise Violation(f"it does not end: {now['status']}, waiting {now['waiting']}")
                self._at_the_end()
            finally:
                scheduler.end()
                shutil.rmtree(self.folder, ignore_errors=True)

    def _at_the_end(self) -> None:
        for host in (self.desk.host, *self.hosts):
            with Process(host).open() as session:
                try:
                    sync.sync(session, [self.protocol])
                except verify.RewrittenError:  # the person was told to type this, while the remote was away
                    checks.fix_protocols(session, self.protocol)
                    sync.sync(session, [self.protocol])
                except (
                    RefusedError
                ) as error:  # it has the commit that was amended, and a later edit is in the same lines
                    if not self._is_replaced(error):
                        raise
        git = MemoryGit(self.remote, self.folder / "remote.git")
        tip = self.remote.refs[self.ref]
        report = verify.verify(git, self.protocol, tip)
        if not report.ok:
            raise Violation(f"verify: {report.findings}")
        files = self.remote.files(parse_commit(tip, self.remote.objects[tip][1]).tree)
        lost = sorted(
            token for token in set(self.tokens) - self._tokens_at_remote() if not self._is_taken_over(token, files)
        )
        if lost:
            raise Violation(f"commits of people are lost: {lost}")
        gone = [what for what, tip in self.said if not self._is_kept(tip)]
        if gone:
            raise Violation(f"was acknowledged, and is lost: {gone}")
        self._count_once(git, tip)
        for slug, (tool, arguments) in EFFECTS.items():
            if slug in self.slugs and self.state()["status"] == "completed" and self.ledger.count(tool, arguments) != 1:
                raise Violation(f"{slug} is done, and {tool} happened {self.ledger.count(tool, arguments)} times")

    def _is_taken_over(self, token: str, files: Mapping[str, TreeEntry]) -> bool:
        """Return whether a commit of a rewritten history is kept, and its file came with the merge that adopted it."""
        host, made = self.tokens[token][0], self.made.get(token)
        if host is None or made is None or made[1] not in files:
            return False
        kept = [oid for ref, oid in host.repository.refs.items() if ref.startswith("refs/runner/lost/")]
        return any(made[0] in host.repository.ancestors(oid) for oid in kept)

    def _count_once(self, git: MemoryGit, tip: str) -> None:
        """What models were paid is in the record once, and so is how each attempt ended."""
        ends: dict[tuple[str, int, bool], int] = {}
        for raw in record.events(git, self.protocol, tip):
            if raw.event in ("step-finished", "step-failed", "step-blocked", "step-cancelled"):
                key = raw.subject, int(str(raw.fields.get("attempt") or 0)), raw.event == "step-finished"
                ends[key] = ends.get(key, 0) + 1
        twice = sorted(f"{slug}.{attempt}" for (slug, attempt, _), count in ends.items() if count > 1)
        if twice:
            raise Violation(f"attempts that ended twice: {twice}")
        heard = [
            one.text
            for name, data in history.transcripts(git, self.protocol)
            for one in transcript.parse(data, name)
            if isinstance(one, transcript.Response)
        ]
        spent = Decimal(self.state()["spent"]["usd"])
        if len(heard) != len(set(heard)) or spent != Decimal("0.01") * len(heard):
            raise Violation(f"the record says ${spent}, and models were heard {len(heard)} times: {heard}")
