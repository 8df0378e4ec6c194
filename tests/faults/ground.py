"""One protocol that does all that a runner does, run again and again from the same beginning while something goes wrong.

An agent's step with recorded answers, a command, an effect outside with a counter, a batch of steps after it; published to a bare
repository behind `git daemon`, so that the remote is no part of what is killed. What runs is the real program, a process each time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

from runner.executor.journal import Journal
from tests.conftest import Box, clone, command, make_box
from tests.executor.minds import finish, mind, say, write
from tests.faults.points import Place, about, always, points

ROOT = Path(__file__).parents[2]
STRIKE = Path(__file__).with_name("strike.py")
HELD, WAITS = 75, 3
ENDED = 20.0  # seconds in which all that a runner started has to be gone after it
AT = os.environ.get("RUNNER_AT", "").split()  # points that are tried in place of a sweep's own

TOOLS = '''
import os


def tell(text: str) -> str:
    """Say something to the world: a line in a ledger."""
    handle = os.open({ledger!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(handle, (text + "\\n").encode())
    os.fsync(handle)
    os.close(handle)
    return "told " + text
'''
COWORKER = "name: crier\nobjective: Tells the world.\ntools:\n  - module: ops\n"
STEPS = {
    "01-think": 'kind: agent\noutputs: [thought.txt]\nqa: {checks: ["grep -q right thought.txt"]}\n',
    "02-build": command(
        "echo once >> built.txt; rm src/app.py", 'qa: {policy: light, checks: ["test -f built.txt"]}\n'
    ),
    "03-tell": 'kind: tool\nagent: crier\ntool: tell\nwith: {text: "once"}\n',
    **{f"0{number}-pure-{number}": "kind: tool\ntool: echo\nwith: {text: a}\n" for number in range(4, 10)},  # a batch
}
ANSWERS = 4  # of the model, in a run that nobody disturbs


def can_strike() -> str | None:
    """Return why nothing can be struck here, or None."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        return "allowed: the tracer knows the system calls of Linux on x86-64 alone"
    return None


@contextlib.contextmanager
def daemon(folder: Path) -> Iterator[int]:
    """Serve the repositories below a folder by git's own protocol, for fetch and push; give the port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    argv = ["git", "daemon", "--reuseaddr", "--export-all", "--enable=receive-pack", "--listen=127.0.0.1"]
    process = subprocess.Popen(
        [*argv, f"--port={port}", f"--base-path={folder}", str(folder)],
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for _ in range(500):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.02)
        yield port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@dataclass(frozen=True, slots=True)
class Ran:
    """How a run ended. `asked`: how many answers it had of the model; the rest is what `strike.py` tells."""

    code: int
    out: str
    err: str
    asked: int
    struck: int = 0
    where: str = ""
    left: tuple[str, ...] = ()


@dataclass(slots=True)
class Ground:
    """The protocol, the repository and its remote, and what they were before the run."""

    folder: Path
    box: Box
    protocol: str
    options: tuple[str, ...] = ()
    runs: int = 0
    wanted: Any = field(default=None)

    @classmethod
    def make(cls, folder: Path, port: int, *options: str, config: str = "") -> Ground:
        """Make it below `folder`, which the daemon at `port` serves as its `live/`; `options`: of `runner run`."""
        box = make_box(folder / "live" / "repo")
        box.write("ops.py", TOOLS.format(ledger=str(folder / "live/ledger")))
        box.write(".protocols/agents/crier.yaml", COWORKER)
        box.write(".protocols/config.yaml", f"publish: always\n{config}")
        box.commit("what the team shares")
        bare = box.path.parent / "origin.git"
        box.git("clone", "-q", "--bare", box.path, bare, cwd=folder)
        box.git("remote", "add", "origin", f"git://127.0.0.1:{port}/{folder.name}/live/origin.git")
        box.git("fetch", "-q", "origin")
        box.git("branch", "-q", "-u", "origin/main", "main")
        ground = cls(folder, box, box.new(STEPS), options)
        shutil.rmtree(folder / "kept", ignore_errors=True)
        subprocess.run(["cp", "-a", str(folder / "live"), str(folder / "kept")], check=True)
        answers = [
            say(write("thought.txt", "a thought\n")),
            finish("its check fails"),
            say(write("thought.txt", "the right thought\n")),
            finish("thought it over"),
        ]
        with mind(box, *answers):
            recorded = ["--record", str(ground.cassette), "--engine", "gemini:gemini-2.5-flash", "--max-steps", "1"]
            box.runner("run", ground.protocol, *recorded, rc=0)
        for name in ("GEMINI_API_KEY", "GOOGLE_GEMINI_BASE_URL", "NO_PROXY"):
            box.env.pop(name)
        assert len(ground.cassette.read_text().splitlines()) == ANSWERS
        ground.reset()
        done = ground.run()
        assert done.code == 0, done.err
        ground.wanted = ground.outcome()
        assert (done.asked, ground.told()) == (ANSWERS, 1)
        return ground

    @property
    def live(self) -> Path:
        return self.folder / "live"

    @property
    def cassette(self) -> Path:
        return self.folder / "cassette.jsonl"

    def reset(self) -> None:
        """Put everything back to where it began."""
        subprocess.run(["rm", "-rf", str(self.live)], check=True)
        subprocess.run(["cp", "-a", str(self.folder / "kept"), str(self.live)], check=True)

    def argv(self) -> list[str]:
        self.runs += 1
        recorded = ["--engine", f"recorded:{self.cassette}", "--record", f"{self.folder}/asked-{self.runs}"]
        return [sys.executable, "-m", "tests.faults.unhurried", "run", self.protocol, *recorded, *self.options]

    def environment(self, box: Box) -> dict[str, str]:
        # A short PATH: each folder in front of git's is a call of execve for every git.
        path = f"{os.path.dirname(shutil.which('git') or '')}:/usr/bin:/bin"
        return {**box.environment(), "PATH": path, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}

    def asked(self) -> int:
        """Return how many answers the last run had."""
        path = self.folder / f"asked-{self.runs}"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def run(self, box: Box | None = None, env: dict[str, str] | None = None) -> Ran:
        """Run the protocol, with nobody in the way."""
        box = box or self.box
        done = subprocess.run(
            self.argv(),
            cwd=box.path,
            env={**self.environment(box), **(env or {})},
            capture_output=True,
            text=True,
            timeout=300,
            stdin=subprocess.DEVNULL,
        )
        return Ran(done.returncode, done.stdout, done.stderr, self.asked())

    def strike(self, *how: str) -> Ran:
        """Run the protocol and strike, as `strike.py` is told."""
        argv = [sys.executable, "-S", str(STRIKE), "--patience", str(ENDED), *how, "--", *self.argv()]
        done = subprocess.run(
            argv,
            cwd=self.box.path,
            env=self.environment(self.box),
            capture_output=True,
            text=True,
            timeout=600,
            stdin=subprocess.DEVNULL,
        )
        assert done.stdout, done.stderr
        told = json.loads(done.stdout.splitlines()[-1])
        return Ran(
            told["code"], done.stdout, done.stderr, self.asked(), told["struck"], told["where"], tuple(told["left"])
        )

    def trace(self) -> list[tuple[str, str, str]]:
        """Return (who, call, what it is about) of each call that a run can be struck at, in their order."""
        self.reset()
        path = self.folder / "trace"
        done = self.strike("--trace", str(path))
        assert done.code == 0, done.err
        found = [[*line.split(" ", 2), ""][:3] for line in path.read_text().splitlines()]
        return [(who, call, about) for who, call, about in found]

    # --- what it comes to --------------------------------------------------------------------------------------------

    def told(self) -> int:
        """Return how often the effect happened."""
        ledger = self.live / "ledger"
        return len(ledger.read_text().splitlines()) if ledger.exists() else 0

    def journal(self, box: Box | None = None) -> list[dict[str, Any]]:
        """Return what the journals of the clone have, a torn last record left out."""
        folder = (box or self.box).path / f".git/runner/journal/{self.protocol}"
        return [one for path in sorted(folder.glob("*.jsonl")) for one in Journal(path).rows]

    def heard(self) -> int:
        """Return how many answers of the model are on the disk."""
        return sum(one["kind"] == "response" for one in self.journal())

    def in_doubt(self) -> bool:
        """Whether an effect was begun of which nothing tells what came."""
        last = None
        for one in self.journal():
            if one["kind"] in ("intent", "outcome", "settled"):
                last = one["kind"]
        return last == "intent"

    def outcome(self, box: Box | None = None) -> Any:
        """Return what every run has to come to: the tree and the state, and how often each event happened; time and nonce masked.

        A doubt that was put to a person leaves its two events, a result that nobody knows, and revisions that are later by two.
        """
        box = box or self.box
        files = box.git("ls-tree", "-r", self.protocol).splitlines()
        record = (f"{self.protocol}/state.json", f"{self.protocol}/log.md")
        state = box.state(self.protocol)
        events = Counter(re.findall(r"^  <!-- \d+ (\S+ \S+) ", box.log(self.protocol), re.MULTILINE))
        doubt = sum(events.pop(f"effect-{one} tell", 0) for one in ("unknown", "decided"))
        state["revision"] -= doubt
        state["steps"]["tell"].pop("result", None)
        return [one for one in files if not one.endswith(record)], events, masked(state)

    def doubts(self, box: Box | None = None) -> int:
        """Return how often a person was asked what became of the effect."""
        return (box or self.box).log(self.protocol).count("effect-unknown tell")

    def finish(self, box: Box | None = None, env: dict[str, str] | None = None) -> list[Ran]:
        """Do what a person does who finds it cut off: the same command again, and the answer that it asks for."""
        box, ran = box or self.box, list[Ran]()
        until = time.monotonic() + 120
        while True:
            ran.append(self.run(box, env))
            last = ran[-1]
            if last.code == WAITS:
                assert "effect-unknown" in box.log(self.protocol), last.err
                box.runner("answer", self.protocol, "happened" if self.told() else "did-not", rc=0)
            elif last.code == HELD and box is not self.box and time.monotonic() < until:
                time.sleep(
                    0.5 if len(ran) > 1 else 4
                )  # the lease of the machine that is gone, which has been seen once now
            else:
                assert last.code == 0, f"exit {last.code}: {last.err}"
                return ran

    def sound(self, box: Box | None = None) -> None:
        """What has to hold after every finish: nothing lost, nothing twice, nothing left lying about."""
        box = box or self.box
        assert self.told() == 1
        assert self.outcome(box) == self.wanted
        assert box.runner("verify", self.protocol).code == 0
        assert box.git("fsck", "--no-dangling", "--no-progress") == ""
        places = [box.path]
        if box is self.box:
            places.append(box.path.parent / "repo.worktrees" / self.protocol)
        for place in places:
            assert box.git("status", "--porcelain", cwd=place) == "", place
        assert left_over(box) == []
        lease = f"refs/runner/leases/{self.protocol}:lease.json"
        held = box.git("show", lease, cwd=self.live / "origin.git", check=False)
        assert not held or json.loads(held)["expires"] is None  # one that is nobody's holds nobody up
        there = box.git("rev-parse", self.protocol, cwd=self.live / "origin.git")
        assert there == box.git("rev-parse", self.protocol)
        here = box.git("for-each-ref", "--format=%(refname)").split()
        kept = [f"refs/runner/{kind}/{self.protocol}" for kind in ("history", "lost", "attempts")]
        known = ("refs/heads/", "refs/remotes/", "refs/runner/numbers/", "refs/runner/fetched/trusted", *kept)
        odd = [name for name in here if not name.startswith(known)]
        assert odd == [], odd

    def elsewhere(self, name: str) -> Box:
        """Throw away the machine's folder, and take a fresh clone of the remote in its place."""
        for gone in (self.box.path, self.box.path.parent / "repo.worktrees", self.box.home):
            subprocess.run(["rm", "-rf", str(gone)], check=True)
        port = re.search(r":(\d+)/", (self.folder / "kept/repo/.git/config").read_text())
        assert port
        other = clone(self.box, name)
        other.git("remote", "set-url", "origin", f"git://127.0.0.1:{port[1]}/{self.folder.name}/live/origin.git")
        return other


def masked(value: Any) -> Any:
    """Return a state without what time and nonce make of it."""
    if isinstance(value, dict):
        return {
            key: masked(one)
            for key, one in value.items()
            if key not in ("time", "seconds", "log", "genesis", "transcript")
        }
    if isinstance(value, list):
        return [masked(one) for one in value]
    return value


def left_over(box: Box) -> list[str]:
    """Return locks, notes and half-written files that nobody owns any more."""
    git = box.path / ".git"
    state = box.home / ".local/state/protocol-runner"
    found = [
        *git.rglob("*.lock"),
        *git.rglob("runner-index*"),
        *git.glob("runner/follows/*"),
        *git.glob("runner/making/*"),
        *(path for path in state.rglob("*.lock") if "mirror" not in path.parts),  # it goes once it is in somebody's way
    ]
    return [str(path) for path in found]


_ground: Ground


def _begin(folder: Path, port: int, options: tuple[str, ...], config: str) -> None:
    global _ground
    _ground = Ground.make(folder / f"ground-{os.getpid()}", port, *options, config=config)
    _can_be_ended()


def _can_be_ended() -> None:
    """Let SIGTERM, by which the pool ends its processes, end this one: a command line that ran in it takes the signal for itself."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _try(told: tuple[Callable[[Ground, str], bool], str]) -> tuple[str, bool, str]:
    attempt, point = told
    _ground.reset()
    try:
        return point, attempt(_ground, point), ""
    except Exception:
        return point, True, traceback.format_exc()
    finally:
        _can_be_ended()


Key = tuple[tuple[str, ...], str]  # options of `runner run`, and the project's configuration


class Grounds:
    """The grounds of one process of pytest, each made once and put back before it is used: to make one takes seconds."""

    def __init__(self, folder: Path, held: contextlib.ExitStack) -> None:
        self._folder, self._held = folder, held
        self._port = held.enter_context(daemon(folder))
        self._made: dict[Key, Ground] = {}
        self._traces: dict[Key, list[tuple[str, str, str]]] = {}
        self._pools: dict[tuple[Key, int], Pool] = {}

    def get(self, *options: str, config: str = "") -> Ground:
        """Return a ground as it was in the beginning, whose repository is judged after the test."""
        key = (options, config)
        if key not in self._made:
            folder = self._folder / f"ground-{len(self._made)}"
            self._made[key] = Ground.make(folder, self._port, *options, config=config)
        ground = self._made[key]
        ground.reset()
        ground.options, ground.box = options, dataclasses.replace(ground.box)
        return ground

    def trace(self, key: Key) -> list[tuple[str, str, str]]:
        """Return the calls of a run that nobody disturbs."""
        if key not in self._traces:
            self._traces[key] = self.get(*key[0], config=key[1]).trace()
        return self._traces[key]

    @contextlib.contextmanager
    def pool(self, key: Key, workers: int) -> Iterator[Pool]:
        """Give processes with a ground each; they are ended where something goes wrong."""
        if (key, workers) not in self._pools:
            made = multiprocessing.get_context("fork").Pool(workers, _begin, (self._folder, self._port, *key))
            self._pools[key, workers] = self._held.enter_context(made)
        try:
            yield self._pools[key, workers]
        except BaseException:
            self._pools.pop((key, workers)).terminate()
            raise


def sweep(
    grounds: Grounds,
    attempt: Callable[[Ground, str], bool],
    limit: int,
    *options: str,
    least: float,
    who: Sequence[str] = ("runner", "git", "tool"),
    calls: Sequence[str] = (),
    config: str = "",
    workers: int = 2,
    hot: Sequence[Place] = (),
    turn: int | None = None,
) -> None:
    """Try `limit` points, each with a ground as it was in the beginning; and those at `hot` places.

    `attempt` says whether anything was struck, and raises where what came of it does not hold; all such points are told together.
    Something has to be struck at `least` of the points, of 1.
    """
    key = (options, config)
    trace = grounds.trace(key)
    found = AT or list(dict.fromkeys([*always(trace, hot), *points(trace, limit, who, calls, turn)]))
    begun, tried = time.monotonic(), []
    with grounds.pool(key, workers) as pool:
        for told in pool.imap_unordered(_try, [(attempt, point) for point in found]):
            tried.append(told)
            print(f"{len(tried)}/{len(found)} {told[0]} {told[2]}", file=sys.stderr, flush=True)
    bad = [f"{point} ({about(trace, point)}): {what}" for point, _, what in tried if what]
    struck = sum(is_struck for _, is_struck, _ in tried)
    seconds = time.monotonic() - begun
    name = getattr(attempt, "__name__", "")
    print(f"{name}: {len(found)} points tried, struck at {struck}, in {seconds:.0f} s", file=sys.stderr, flush=True)
    assert not bad, f"{len(bad)} of {len(tried)} points do not hold\n\n" + "\n\n".join(bad[:20])
    assert AT or struck >= least * len(found), f"struck at {struck} of {len(found)} points only"
