"""A network that is cut, and a remote that is slow, refuses or dies: what is there is believed, not what was answered."""

from __future__ import annotations

import contextlib
import re
import socket
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.conftest import make_box
from tests.faults.ground import ANSWERS, Ground, Grounds, daemon
from tests.faults.test_kill import finished
from tests.forge import smart_http
from tests.gate import is_due
from tests.store.test_day_budget import days, opened, shared_budget

AWAY = 69


class Wire:
    """A TCP proxy in front of the daemon that can be told to cut. A push is told by the service that its first line asks for."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.at = int(self.listening.getsockname()[1])
        self.pushes = 0
        self.cut: tuple[int, str, int] | None = None
        self.cuts = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def when(self, push: int, way: str, after: int) -> None:
        """Cut the `push`-th push when `after` bytes have gone `up` or come `down`; 0: all but the answer's end (`down`)."""
        self.pushes, self.cuts, self.cut = 0, 0, (push, way, after)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self.listening.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self.port)) as server:
            first = client.recv(65536)
            limit = {"up": -1, "down": -1}
            if b"git-receive-pack" in first:
                self.pushes += 1
                if self.cut and self.cut[0] == self.pushes:
                    limit[self.cut[1]] = self.cut[2]
            if limit["up"] == 0:
                self.cuts += 1
                return
            server.sendall(first)
            ends = [
                threading.Thread(target=self._pump, args=(client, server, limit["up"]), daemon=True),
                threading.Thread(target=self._pump, args=(server, client, limit["down"]), daemon=True),
            ]
            for end in ends:
                end.start()
            for end in ends:
                end.join()

    def _pump(self, source: socket.socket, sink: socket.socket, limit: int) -> None:
        gone = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if 0 <= limit < gone + len(data):
                    with contextlib.suppress(OSError):
                        sink.sendall(data[: limit - gone])
                    self.cuts += 1
                    for one in (source, sink):
                        with contextlib.suppress(OSError):
                            one.shutdown(socket.SHUT_RDWR)
                    return
                sink.sendall(data)
                gone += len(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.listening.close()


@pytest.fixture
def wired(tmp_path: Path) -> Iterator[tuple[Ground, Wire]]:
    """The ground, whose remote is reached through a wire."""
    with daemon(tmp_path) as port:
        wire = Wire(port)
        try:
            yield Ground.make(tmp_path / "ground", wire.at), wire
        finally:
            wire.close()


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_a_push_that_is_cut_anywhere_is_settled_by_looking(wired: tuple[Ground, Wire]) -> None:
    ground, wire = wired
    ground.reset()
    wire.when(0, "up", 0)
    assert ground.run().code == 0
    pushes, cut = wire.pushes, 0
    # Before anything was sent, amid the commands and the pack, before the remote spoke, amid its refs, amid its last word.
    ways = (("up", 0), ("up", 100), ("up", 400), ("down", 0), ("down", 200), ("down", 700))
    every = [(push, way, after) for push in range(1, pushes + 1) for way, after in ways]
    sure = ((1, "up", 100), (1, "down", 0))  # on a busy machine there may be one push, with all that was done
    due = [case for case in every if case in sure or is_due(f"cut {case}", 3)]
    for push, way, after in due:
        ground.reset()
        wire.when(push, way, after)
        done = ground.run()
        assert done.code in (0, AWAY), f"push {push}, {way} {after}: exit {done.code}: {done.err}"
        assert done.code == 0 or "nothing is lost" in done.err or "could not be taken" in done.err, done.err
        cut += wire.cuts > 0
        wire.cut = None
        finished(ground)
    print(f"{pushes} pushes, {cut} of {len(due)} cut", file=sys.stderr)
    assert pushes and cut >= max(1, len(due) // 3)


def hook(ground: Ground, name: str, script: str) -> None:
    path = ground.live / "origin.git/hooks" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


ONCE = 'mkdir "$GIT_DIR/fault" 2>/dev/null || exit 0\n'
# What the remote does with a push of the branch: the first one to the branch itself, or the first of all.
BRANCH = "grep -q refs/heads/ || exit 0\n"
FAULTS = {
    "refuses": ("pre-receive", f"{ONCE}echo 'not today' >&2; exit 1"),
    "refuses-the-work": ("pre-receive", f"{BRANCH}{ONCE}echo 'not today' >&2; exit 1"),
    "is-slow": ("pre-receive", "sleep 2"),
    "dies": ("pre-receive", f"{ONCE}kill -9 $PPID"),
    "dies-with-the-work": ("pre-receive", f"{BRANCH}{ONCE}kill -9 $PPID"),
    "accepts-and-dies": ("post-receive", f"{ONCE}kill -9 $PPID"),
    "accepts-the-work-and-dies": ("post-receive", f"{BRANCH}{ONCE}kill -9 $PPID"),
    "accepts-and-hangs-up": ("post-receive", f"{BRANCH}{ONCE}sleep 1; kill -9 $PPID"),
    "says-more-than-it-should": ("post-receive", "printf '\\033[31munpack ok\\nok refs/heads/main\\n' >&2"),
}


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_remote_that_goes_wrong_is_no_loss(grounds: Grounds, fault: str) -> None:
    ground = grounds.get()
    hook(ground, *FAULTS[fault])
    done = ground.run()
    assert done.code in (0, AWAY), f"exit {done.code}: {done.err}"
    if "refuses" in fault:
        assert done.code == AWAY and "not today" in done.err
    if fault in ("is-slow", "says-more-than-it-should"):
        assert done.code == 0, done.err
    finished(ground)


# What becomes of a push's request: how often it is carried out, and which of the answers are given.
TWICE = {"heard, the last answer": (2, [1]), "heard, both answers": (2, [0, 1]), "answered": (1, [0, 0])}


@contextlib.contextmanager
def repeating(root: Path, times: int, given: list[int]) -> Iterator[tuple[str, list[int]]]:
    """Serve the repositories below `root` over smart HTTP; give (where, how many bytes each push was answered with)."""
    answered: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            data = smart_http.body(self)
            if self.command == "GET" or not self.path.endswith("/git-receive-pack"):
                return smart_http.respond(self, *smart_http.answer(self, root, data, "somebody"))
            found = [smart_http.answer(self, root, data, "somebody") for _ in range(times)]
            told = b"".join(found[at][2] for at in given)
            answered.append(len(told))
            return smart_http.respond(self, *found[given[-1]][:2], told)

        do_GET = do_POST = _serve

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", answered
        server.shutdown()


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", TWICE)
def test_a_remote_that_hears_or_answers_twice_does_nothing_twice(grounds: Grounds, way: str) -> None:
    ground = grounds.get()
    with repeating(ground.live, *TWICE[way]) as (url, answered):
        there = ground.box.git("config", "remote.origin.url").strip()
        moved(ground, f"{url}/origin.git")
        done = ground.run(env={"NO_PROXY": "127.0.0.1"})
        assert done.code in (0, AWAY), f"exit {done.code}: {done.err}"
        assert answered, "no push got there"
    moved(ground, there)
    finished(ground)


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_of_what_is_begun_while_pushes_are_heard_twice_there_is_one(tmp_path: Path) -> None:
    box = make_box(tmp_path / "repo")
    box.write(".protocols/config.yaml", "publish: always\n")
    box.commit("what the team shares")
    bare = tmp_path / "origin.git"
    box.git("clone", "-q", "--bare", box.path, bare)
    with repeating(tmp_path, *TWICE["heard, the last answer"]) as (url, answered):
        box.git("remote", "add", "origin", f"{url}/origin.git")
        protocol = box.new({"01-look": "kind: human\n"})
        assert protocol == "0001-a-plan"
        box.runner("pause", protocol, rc=0)
        box.runner("resume", protocol, rc=0)
        assert len(answered) >= 3
    refs = box.git("for-each-ref", "--format=%(refname) %(objectname)", "refs/heads", "refs/runner/numbers", cwd=bare)
    assert refs == box.git("for-each-ref", "--format=%(refname) %(objectname)", "refs/heads", "refs/runner/numbers")
    assert len(refs.splitlines()) == 3, refs
    log = box.git("log", "--format=%s", protocol)
    assert log.count("paused") == log.count("resumed") == 1, log
    box.runner("verify", protocol, rc=0)


ANOTHER = """
set -e
export GIT_AUTHOR_NAME=b GIT_AUTHOR_EMAIL=b@example.test GIT_COMMITTER_NAME=b GIT_COMMITTER_EMAIL=b@example.test
git update-ref refs/runner/ledger "$(git commit-tree -p refs/runner/ledger -m another "refs/runner/ledger^{tree}")"
"""


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_what_is_settled_while_pushes_are_heard_twice_counts_once(tmp_path: Path) -> None:
    """Another runner goes on from the first hearing before the second, so the ref is not where either put it."""
    box = make_box(tmp_path / "repo")
    box.git("clone", "-q", "--bare", box.path, bare := tmp_path / "origin.git")
    (bare / "hooks/post-receive").write_text(f"#!/bin/sh\n{ANOTHER}")
    (bare / "hooks/post-receive").chmod(0o755)
    with repeating(tmp_path, *TWICE["heard, the last answer"]) as (url, answered):
        box.git("remote", "add", "origin", f"{url}/origin.git")
        with opened(box, publish="always") as session:
            spends = shared_budget(session, usd=Decimal(1))
            spends.reserve("model", Decimal("0.5"), 10)
            spends.charge(Decimal("0.2"), 7)
            spends.close()
    assert len(answered) == 2
    last = days(box, bare)[-1]
    assert (last["open"], Decimal(last["usd"]), last["tokens"]) == ({}, Decimal("0.2"), 7)


def moved(ground: Ground, url: str) -> None:
    """Reach the remote at another address, and say that it is trusted."""
    ground.box.git("config", "remote.origin.url", url)
    ground.box.runner("doctor", "--repin")


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_remote_that_is_away_costs_nothing_that_was_done(tmp_path: Path) -> None:
    with daemon(tmp_path) as port:
        ground = Ground.make(tmp_path / "ground", port)
        ground.reset()
    done = ground.run()  # the daemon has ended
    with socket.create_server(("127.0.0.1", 0)) as silent:  # one that takes the call and never says a word
        url = ground.box.git("config", "remote.origin.url").strip()
        assert re.search(rf":{port}/", url)
        assert done.code in (0, AWAY), done.err
        assert silent.getsockname()[1] != port
    heard = ground.heard()
    assert done.asked == heard <= ANSWERS
    assert ground.box.runner("verify", ground.protocol).code == 0
