"""One seed's world: hosts with clones, a remote, people, what goes wrong, and what has to hold all the while."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import shutil
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.app import approve, create, go, steer, sync
from runner.engines.base import EngineError, Request
from runner.errors import ConflictError, HeldError, RefusedError, RunnerError, UnreachableError
from runner.executor import advance
from runner.git import BLOB, Ident, TreeEntry
from runner.git.objects import commit_bytes, parse_commit
from runner.protocol import log, machine, paths, state
from runner.protocol.statement import Decision
from runner.store import lease, trusted
from runner.store.places import Places
from runner.store.project import Project
from runner.store.surroundings import Surroundings
from runner.trust import verify
from tests.simulation import outside
from tests.simulation.disk import Disk, Unsynced
from tests.simulation.memory_git import Line, LineError, MemoryGit, Repository
from tests.simulation.scheduler import Crash, Scheduler, Task

START = 1_700_000_000.0
URL = "sim://remote/shop.git"
TTL, GRACE = 900.0, 300.0


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
    remote_away: float = 0.0
    model_away: float = 0.0
    commands_fail: float = 0.0
    clocks: float = 0.0  # seconds that the clocks of two hosts may differ by
    slow: float = 0.0  # of commands and models: those that take longer than a lease
    people: float = 0.0
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
            longest_stall=rng.choice((60.0, 1000.0, 4000.0)),
            answers_lost=some(0.1, 0.3, often=0.4),
            pushes_lost=some(0.03, 0.1, 0.3),
            push_answers_lost=some(0.03, 0.1, 0.3),
            remote_away=some(0.02, 0.1),
            model_away=some(0.05, 0.3, often=0.3),
            commands_fail=some(0.05, 0.2, often=0.3),
            clocks=some(300.0, 3600.0, 86400.0, often=0.5),
            slow=some(0.05, 0.3),
            people=some(0.2, 0.5, 0.9, often=0.8),
            until=rng.choice((3600.0, 4 * 3600.0)),
        )


@dataclass(slots=True, eq=False)
class Host:
    """A machine with a clone. `vanishes`: it is a machine of a CI, which may be gone with all that it has."""

    world: World
    name: str
    vanishes: bool
    batches: bool
    skew: float = 0.0
    booted: float = 0.0
    life: int = 0  # how often it was made
    repository: Repository = field(default_factory=Repository)
    unsynced: Unsynced = field(default_factory=Unsynced)
    boots: int = 0
    beat: tuple[float, Callable[[], float]] | None = None  # when the lease is renewed beside the work, and how
    project: Project | None = None
    processes: int = 0
    patience: float = 120.0  # seconds till its next process, at most

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

    def surroundings(self) -> Surroundings:
        """Return its clock, randomness and names."""
        scheduler = self.world.scheduler

        def now() -> float:
            scheduler.seam("clock")
            return scheduler.now + self.skew

        def monotonic() -> float:
            return scheduler.now - self.booted

        def beside(seconds: float, beat: Callable[[], float]) -> Callable[[], None]:
            self.beat = scheduler.now + seconds, beat
            return self.stop_beating

        self.processes += 1
        return Surroundings(
            now=now,
            monotonic=monotonic,
            sleep=scheduler.sleep,
            random_hex=lambda count: f"{scheduler.rng.getrandbits(4 * count):0{count}x}",
            host=self.name,
            pid=self.processes,
            state_home=self.folder / "state",
            environ={"PATH": "/nonexistent"},
            hear=lambda record: self.world.heard(self, record),
            say=lambda line: scheduler.tell(f"says: {line}"),
            boot=lambda: f"{self.name}-{self.life}-{self.boots}",
            beside=beside,
        )

    def stop_beating(self) -> None:
        """Renew no lease any more."""
        self.beat = None

    def start(self) -> None:
        """Be switched on again."""
        self.boots += 1
        self.booted = self.world.scheduler.now - self.world.scheduler.rng.random() * 100

    def open(self) -> Project:
        """Return the project as a new process finds it."""
        who = self.surroundings()
        git = MemoryGit(self.repository, self.folder / "shop.git", self.world.line, self.world.scheduler.seam)
        places = Places(git.common_dir, who.state_home)
        options = {"publish": "always", **({"ephemeral": "yes"} if self.vanishes else {})}
        return Project(git, places, who, trusted.last_seen(git, places), options)


class Way(Line):
    """The way to the remote, on which things are lost; the remote looks at what it is told."""

    def __init__(self, world: World) -> None:
        super().__init__(world.remote)
        self._world = world

    def reach(self, what: str) -> None:
        if self._world.chance(self._world.faults.remote_away):
            raise LineError(f"{what}: no route")

    def receive(self, changes: Mapping[str, tuple[str | None, str | None]]) -> str | None:
        world = self._world
        words = " ".join(f"{name.removeprefix('refs/')}={(new or 'gone')[:7]}" for name, (new, _) in changes.items())
        if world.chance(world.faults.pushes_lost):
            world.scheduler.tell(f"LOST push {words}")
            raise LineError("push: broken pipe")
        before = dict(self.remote.refs)
        refused = super().receive(changes)
        world.scheduler.tell(f"{'REFUSED' if refused else 'PUSHED'} {words}")
        if refused is None:
            world.check_push(before, changes)
        world.scheduler.seam("received", words)
        if world.chance(world.faults.push_answers_lost):
            world.scheduler.tell("LOST the answer")
            raise LineError("push: connection reset")
        return refused


@dataclass(slots=True)
class World:
    """Everything that a seed has."""

    seed: int
    folder: Path
    loud: bool = False
    scheduler: Scheduler = field(init=False)
    faults: Faults = field(init=False)
    remote: Repository = field(default_factory=Repository)
    line: Way = field(init=False)
    hosts: list[Host] = field(default_factory=list)
    desk: Host = field(init=False)
    disk: Disk = field(init=False)
    ledger: outside.Ledger = field(init=False)
    protocol: str = ""
    ref: str = ""  # its branch
    over: bool = False
    here: dict[Task, Host] = field(default_factory=dict)
    known: dict[str, state.State] = field(default_factory=dict)  # the tips of the remote that were judged
    answered: dict[str, str] = field(default_factory=dict)  # request to the text of its answer
    had: set[tuple[str, int, str]] = field(default_factory=set)  # host, life, request: its answer is on the disk
    tokens: dict[str, tuple[Host | None, int]] = field(
        default_factory=dict
    )  # people's commits, and where they were made
    words: int = 0  # how many commits people made
    holders: dict[str, tuple[str, int]] = field(default_factory=dict)  # nonces of leases: host, life
    moved: float = 0.0  # when the lease was, last
    slugs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.seed, loud=self.loud)
        rng = self.scheduler.rng
        self.faults = Faults.of(rng)
        self.line = Way(self)
        self.ledger = outside.Ledger(self)
        self.disk = Disk(self.scheduler, self._unsynced)
        self.scheduler.on_crash = self._fell
        self.scheduler.crash, self.scheduler.stall = self.faults.crash, self.faults.stall
        self.scheduler.longest_stall = self.faults.longest_stall

    # --- chance ----------------------------------------------------------------------------------------------------------

    def chance(self, often: float) -> bool:
        """Return whether something goes wrong now."""
        scheduler = self.scheduler
        return bool(often) and scheduler.faults and scheduler.current is not None and scheduler.rng.random() < often

    def _unsynced(self) -> Unsynced | None:
        task = self.scheduler.current
        return self.here[task].unsynced if task is not None and task in self.here else None

    def _fell(self, task: Task) -> None:
        host = self.here[task]
        if self.faults.power and self.scheduler.rng.random() < self.faults.power:
            self.scheduler.tell(f"{host.name} has no power")
            for other, at in self.here.items():
                if at is host and not other.over:
                    other.dying, other.wake = True, self.scheduler.now
            self.disk.cut(host.unsynced)
            host.start()

    def work(self) -> None:
        """Let a command or a model take its time, while the lease is renewed beside it."""
        scheduler, host = self.scheduler, self._host()
        slow = self.chance(self.faults.slow)
        until = scheduler.now + scheduler.rng.random() * (2 * (TTL + GRACE) if slow else 5)
        while True:
            due = host.beat[0] if host.beat is not None else until
            scheduler.sleep(max(0.0, min(due, until) - scheduler.now))
            if scheduler.now >= until:
                return
            if host.beat is not None and scheduler.now >= host.beat[0]:
                beat = host.beat[1]
                host.beat = scheduler.now + beat(), beat

    # --- the beginning ---------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Make the remote, the clones and the protocol."""
        rng, remote = self.scheduler.rng, self.remote
        config = f"publish: always\nlease: {{ttl: {TTL:.0f}s, grace: {GRACE:.0f}s}}\n"
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
        self.desk = Host(self, "desk", vanishes=False, batches=False)
        self.desk.make()
        for number in range(rng.choice((2, 2, 3, 3, 4))):
            host = Host(self, f"host{number}", vanishes=rng.random() < 0.5, batches=rng.random() < 0.6)
            host.skew = (rng.random() - 0.5) * 2 * self.faults.clocks
            host.make()
            host.start()
            self.hosts.append(host)
        with self.desk.open() as project:
            self.protocol = create.create(project, "Work", self._plan(), where="plan").protocol
        self.ref = f"refs/heads/{self.protocol}"
        for host in (self.desk, *self.hosts):
            main = self._at_the_desk if host is self.desk else self._life_of(host)
            self.here[self.scheduler.add(host.name, main)] = host
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
            files[f"{number:02d}-{slug}.md"] = f"---\ntitle: {slug}\n{text}---\n{prose}".encode()
            self.slugs.append(slug)
        return files

    # --- a host ----------------------------------------------------------------------------------------------------------

    def _life_of(self, host: Host) -> Callable[[], None]:
        def life() -> None:
            scheduler, rng = self.scheduler, self.scheduler.rng
            task = scheduler.current
            assert task is not None
            while not self.over:
                try:
                    scheduler.sleep(rng.random() * host.patience)
                    if self.chance(0.05):
                        host.skew = (rng.random() - 0.5) * 2 * self.faults.clocks
                    self._process(host)
                except Crash:
                    host.project = host.beat = None
                    if scheduler.ending:
                        raise
                    task.dying = False
                    if host.vanishes and rng.random() < 0.5:
                        host.throw_away()
                    task.wake = scheduler.now + rng.choice((1.0, 60.0, 2000.0))

        return life

    def _process(self, host: Host) -> None:
        """Be one process: `runner run` or `runner step`."""
        scheduler = self.scheduler
        try:
            with host.open() as project:
                host.project = project
                if not host.batches:
                    advance.step(project, self.protocol)
                else:
                    most = scheduler.rng.choice((1, 3, 100))
                    steps = go.run(project, self.protocol, max_steps=most, adopt=True, tell=lambda done: None)
                    assert isinstance(steps, Generator)
                    with contextlib.closing(steps):
                        for _ in steps:
                            scheduler.seam("word", "a transition")
        except (HeldError, ConflictError, UnreachableError, EngineError, RefusedError) as error:
            told = (
                "at work" in error.what or self.ref not in host.repository.refs
            )  # somebody else was faster; or it was never seen
            if isinstance(error, RefusedError) and not told:
                raise
            scheduler.tell(f"ends: {type(error).__name__}: {error.what}")
            host.patience = 400.0
        else:
            scheduler.tell("ends")
            host.patience = 120.0
        finally:
            host.project = host.beat = None

    # --- people ----------------------------------------------------------------------------------------------------------

    def _at_the_desk(self) -> None:
        scheduler, rng = self.scheduler, self.scheduler.rng
        task = scheduler.current
        assert task is not None
        while not self.over:
            try:
                scheduler.sleep(rng.random() * 300)
                if scheduler.faults and rng.random() < self.faults.people:
                    rng.choice((self._edit_code, self._edit_a_step, self._commit_in_a_clone, self._pause))()
                self._say_what_is_owed()
            except Crash:
                if scheduler.ending:
                    raise
                task.dying = False

    def state(self) -> dict[str, Any]:
        """Return the state as the remote has it."""
        oid = self.remote.find(f"{self.ref}:{paths.folder(self.protocol)}/{paths.STATE}")
        assert oid is not None
        found: dict[str, Any] = json.loads(self.remote.objects[oid][1])
        return found

    def _said(self, what: str, word: Callable[[Project], object]) -> None:
        """Have the person type a command at the desk."""
        self.scheduler.tell(f"the person: {what}")
        try:
            with self.desk.open() as project:
                sync.sync(project, [self.protocol])
            with self.desk.open() as project:
                word(project)
        except RunnerError as error:
            self.scheduler.tell(f"told: {type(error).__name__}: {error.what}")
            return
        tip = self.desk.repository.refs[self.ref]
        if tip not in self.remote.ancestors(self.remote.refs[self.ref]):
            raise Violation(f"the word `{what}` was acknowledged and is not on the remote")

    def _say_what_is_owed(self) -> None:
        now = self.state()
        if now["status"] in ("completed", "cancelled"):
            self._look_whether_all_is_over()
            return
        if now["status"] == "paused":
            self._said("resume", lambda project: steer.resume(project, self.protocol))
        elif now["status"] in ("failed", "blocked"):
            stopped = [slug for slug, step in now["steps"].items() if step["status"] in ("failed", "blocked")]
            if stopped:
                self._said("retry", lambda project: steer.retry(project, self.protocol, step=stopped[0]))
            else:
                self._said("resume", lambda project: steer.resume(project, self.protocol))
        for wait in now["waiting"]:
            self._answer(wait)

    def _answer(self, wait: Mapping[str, Any]) -> None:
        name, text = str(wait["id"]), "done"
        if wait["kind"] in ("call", "approval"):

            def approves(project: Project) -> object:
                return approve.answer(project, approve.matter(project, self.protocol, name), Decision.APPROVE)

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
        self._said(f"answer {name} {text}", lambda project: steer.answer(project, self.protocol, name, text))

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
        return repository.put("commit", commit_bytes(repository.tree_of(files), (tip,), bob, bob, said))

    def _push_a_commit(self, path: str, text: str) -> None:
        """A commit of a person's, pushed by plain git."""
        tip = self.remote.refs[self.ref]
        self.scheduler.seam("word", "a person pushes")
        if self.remote.refs[self.ref] == tip:
            new = self._commit(self.remote, tip, path, text, self._token(None))
            before = dict(self.remote.refs)
            self.remote.refs[self.ref] = new
            self.scheduler.tell(f"a person pushed {path}")
            self.check_push(before, {self.ref: (new, tip)})

    def _edit_code(self) -> None:
        self._push_a_commit(f"people/{self.words}.txt", "by hand\n")

    def _edit_a_step(self) -> None:
        now = self.state()
        open_ = [slug for slug, step in now["steps"].items() if step["status"] == "pending" and step["attempt"] == 1]
        if not open_ or now["status"] in ("completed", "cancelled", "failed", "blocked"):
            return
        name, text = self._step_file(self.scheduler.rng.choice(sorted(open_)))
        self._push_a_commit(name, f"{text}More words: {self.words}.\n")

    def _step_file(self, slug: str) -> tuple[str, str]:
        folder = paths.folder(self.protocol)
        name = next(
            path
            for path in self.remote.files(self.remote.refs[self.ref])
            if path.startswith(f"{folder}/") and path.endswith(f"-{slug}.md")
        )
        oid = self.remote.find(f"{self.ref}:{name}")
        assert oid is not None
        return name, self.remote.objects[oid][1].decode()

    def _give_time(self, slug: str) -> None:
        name, text = self._step_file(slug)
        if "timeout:" not in text:
            self._push_a_commit(name, text.replace("---\n", "---\ntimeout: 1000h\n", 1))

    def _commit_in_a_clone(self) -> None:
        host = self.scheduler.rng.choice(self.hosts)
        tip = host.repository.refs.get(self.ref)
        if tip is None or tip not in host.repository.objects or self.state()["status"] in ("completed", "cancelled"):
            return
        new = self._commit(host.repository, tip, f"people/{host.name}-{self.words}.txt", "here\n", self._token(host))
        host.repository.refs[self.ref] = new
        self.scheduler.tell(f"a person committed {new[:7]} in the clone of {host.name}")

    def _pause(self) -> None:
        if self.state()["status"] == "running":
            self._said("pause", lambda project: steer.pause(project, self.protocol))

    def forget_local_words(self, host: Host) -> None:
        """What was committed in a clone alone goes with it."""
        there = self._tokens_at_remote()
        for token, (where, life) in list(self.tokens.items()):
            if where is host and life == host.life and token not in there:
                del self.tokens[token]

    # --- what has to hold --------------------------------------------------------------------------------------------------

    def asked(self, request: Request) -> None:
        """A model is asked: not for what this clone's journal has."""
        host = self._host()
        if (host.name, host.life, request.digest()) in self.had:
            raise Violation(f"{host.name} asks the model again for what is in its journal")

    def response_of(self, request: Request) -> str:
        """Return the text by which an answer is known again."""
        text = f"r{len(self.answered)}"
        self.answered[text] = request.digest()
        return text

    def heard(self, host: Host, record: Mapping[str, Any]) -> None:
        """A record is on the disk."""
        if record["kind"] == "response":
            self.had.add((host.name, host.life, self.answered[record["text"]]))

    def _host(self) -> Host:
        assert self.scheduler.current is not None
        return self.here[self.scheduler.current]

    def check_effects(self) -> None:
        """No call of class never, and none that is known by its key, has its effect twice."""
        for one in set(self.ledger.happened):
            if (count := self.ledger.happened.count(one)) > 1:
                raise Violation(f"{one[0]} {one[1]} happened {count} times")

    def check_push(self, before: Mapping[str, str], changes: Mapping[str, tuple[str | None, str | None]]) -> None:
        """Look at what the remote has just taken."""
        for name, (new, _) in changes.items():
            old = before.get(name)
            kept = name == self.ref or name.startswith(("refs/runner/history/", "refs/runner/numbers/"))
            if kept and old is not None and (new is None or old not in self.remote.ancestors(new)):
                raise Violation(f"{name} went back from {old[:7]} to {new}: what was published is lost")
        if self.ref in changes and changes[self.ref][0] is not None:
            self._check_tip(str(changes[self.ref][0]))
        self._check_lease(before, changes)

    def _check_tip(self, tip: str) -> None:
        git = MemoryGit(self.remote, self.folder / "remote.git")
        commit = git.commit(tip)
        assert commit is not None
        data = git.blob(f"{tip}:{paths.folder(self.protocol)}/{paths.STATE}")
        assert data is not None
        seen = state.load(data, tip)
        entries = log.parse(git.blob(f"{tip}:{paths.folder(self.protocol)}/{paths.LOG}") or b"", tip)
        folded = machine.fold(None, entries)
        if folded is None or dataclasses.replace(folded, log=seen.log) != seen:
            raise Violation(f"the state at {tip[:7]} is not the fold of its log")
        for parent in commit.parents:
            if parent in self.known and self.known[parent].revision > seen.revision:
                raise Violation(f"{tip[:7]} has fewer events than {parent[:7]} before it")
        self.known[tip] = seen

    def _check_lease(self, before: Mapping[str, str], changes: Mapping[str, tuple[str | None, str | None]]) -> None:
        ref, task = lease.ref_of(self.protocol), self.scheduler.current
        host = self.here.get(task) if task is not None else None
        old, held = self._lease(before.get(ref)), host.project.lease if host and host.project else None
        if held is not None and self.ref in changes and (old is None or old["nonce"] != held.words.nonce):
            raise Violation(f"{host.name if host else ''} published by a lease that it does not have")
        if ref not in changes or host is None:
            return
        new, mine = self._lease(changes[ref][0]), (host.name, host.life)
        if old is not None and old["expires"] is not None and (new is None or new["nonce"] != old["nonce"]):
            stood = self.scheduler.now - self.moved
            if self.holders[old["nonce"]] != mine and stood < TTL + GRACE:
                raise Violation(f"{host.name} took a lease that had stood still for {stood:.0f} s")
        if new is not None:
            self.holders.setdefault(new["nonce"], mine)
            self.moved = self.scheduler.now

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
        git = MemoryGit(self.remote, self.folder / "remote.git")
        tip = self.remote.refs[self.ref]
        report = verify.verify(git, self.protocol, tip)
        if not report.ok:
            raise Violation(f"verify: {report.findings}")
        for host in (self.desk, *self.hosts):
            with host.open() as project:
                sync.sync(project, [self.protocol])
        lost = sorted(set(self.tokens) - self._tokens_at_remote())
        if lost:
            raise Violation(f"commits of people are lost: {lost}")
        for slug, (tool, arguments) in EFFECTS.items():
            if slug in self.slugs and self.state()["status"] == "completed" and self.ledger.count(tool, arguments) != 1:
                raise Violation(f"{slug} is done, and {tool} happened {self.ledger.count(tool, arguments)} times")
