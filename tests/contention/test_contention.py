"""Many runners and a person at one git server, for real: processes, clones, pushes over smart HTTP and ssh. Nothing is lost, nothing
is done twice, and who loses is told.

`RUNNER_CONTENTION=8x20` says how many runners there are and how many steps each of them does (`make contention`); without it, few.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Box, command, make_box
from tests.contention.servers import over_http, over_ssh

ROOT = Path(__file__).parents[2]
RUNNERS, STEPS = map(int, os.environ.get("RUNNER_CONTENTION", "3x3").split("x"))
# What a loser is told, by its exit code; a server that is too busy to answer at all is 69, and loses nothing either.
LOST = {
    75: re.compile(r"is held by|moved|took|lease"),
    4: re.compile(r"moved|in the way"),
    69: re.compile(r"nothing was published and nothing is lost"),
}
SERVERS = {"http": over_http, "ssh": over_ssh}

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(7200)]


@dataclass(slots=True)
class Ground:
    """A bare repository behind a server, and clones of it that know nothing of each other."""

    folder: Path
    url: str
    config: str
    counter: Path

    @property
    def bare(self) -> Path:
        return self.folder / "origin.git"

    def clone(self, name: str) -> Box:
        """Somebody's clone, with a HOME of their own."""
        home = self.folder / f"home-{name}"
        home.mkdir()
        (home / ".gitconfig").write_text(f"[user]\n name = {name}\n email = {name}@example.test\n{self.config}")
        who = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER")
               for what, value in (("NAME", name), ("EMAIL", f"{name}@example.test"))}  # fmt: skip
        box = Box(self.folder / name, home, {"RUNNER_EXECUTOR": "host", "PYTHONPATH": str(ROOT), **who})
        box.git("clone", "-q", self.url, box.path, cwd=self.folder)
        return box

    def start(self, box: Box, *args: object) -> subprocess.Popen[str]:
        """Start a program of Python's in somebody's clone."""
        argv = [sys.executable, *map(str, args)]
        return subprocess.Popen(
            argv, cwd=box.path, env=box.environment(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip


@pytest.fixture(params=SERVERS)
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    server: Callable[[Path], AbstractContextManager[tuple[str, str]]] = SERVERS[request.param]
    box, bare = make_box(tmp_path / "begin"), tmp_path / "origin.git"
    box.git("clone", "-q", "--bare", box.path, bare, cwd=tmp_path)
    box.git("--git-dir", bare, "config", "http.receivepack", "true")
    with server(bare) as (url, config):
        yield Ground(tmp_path, url, config, tmp_path / "counter")


def begun(ground: Ground, box: Box) -> subprocess.Popen[str]:
    """Have a clone begin a protocol of `STEPS` steps, each of which counts outside of every repository that it was done."""
    line = f'echo "$RUNNER_PROTOCOL $RUNNER_STEP" >> {ground.counter}; echo x > "$RUNNER_STEP.txt"'
    steps = {
        f"{number:02d}-s{number}": command(line, f"outputs: [s{number}.txt]\nqa: skip\n")
        for number in range(1, STEPS + 1)
    }
    plan = box.plan(steps, name=f"plan-{box.path.name}")
    return ground.start(box, "-m", "runner", "new", box.path.name, "--plan", plan, "--publish", "always")


def writes(box: Box, protocols: list[str], over: threading.Event, wrote: list[tuple[str, str]]) -> None:
    """Be a person who commits to the branches with plain git and pushes, again where somebody else was faster."""
    while not over.is_set() or len(wrote) < len(protocols):
        protocol = protocols[len(wrote) % len(protocols)]
        name = f"note-{len(wrote)}.txt"
        for _ in range(200):
            box.git("fetch", "-q", "origin")
            box.git("checkout", "-q", "--detach", f"origin/{protocol}")
            box.write(name, "mine\n")
            box.git("add", name)
            box.git("commit", "-qm", f"note {name}")
            push = subprocess.run(["git", "push", "-q", "origin", f"HEAD:{protocol}"], cwd=box.path, env=box.environment(),
                                  capture_output=True)  # fmt: skip
            if push.returncode == 0:
                wrote.append((protocol, name))
                break
        over.wait(0.5)


def test_many_at_one_server_lose_nothing_and_do_nothing_twice(ground: Ground) -> None:
    boxes = [ground.clone(f"runner{number}") for number in range(RUNNERS)]
    person = ground.clone("paula")
    started = [begun(ground, box) for box in boxes]  # all at once: numbers are raced for too
    told = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0] * RUNNERS, told
    protocols = sorted(out.strip() for out, _ in told)
    assert [name[:4] for name in protocols] == [f"{number:04d}" for number in range(1, RUNNERS + 1)], "a number twice"
    for box in boxes:
        box.git("fetch", "-q", "origin", "+refs/heads/*:refs/remotes/origin/*")

    over, wrote = threading.Event(), list[tuple[str, str]]()
    writer = threading.Thread(target=writes, args=(person, protocols, over, wrote))
    writer.start()
    logs = [box.home / "worker.jsonl" for box in boxes]
    workers = [
        ground.start(box, ROOT / "tests/contention/worker.py", log, STEPS, *protocols)
        for box, log in zip(boxes, logs, strict=True)
    ]
    said = [worker.communicate() for worker in workers]
    over.set()
    writer.join()
    assert [worker.returncode for worker in workers] == [0] * RUNNERS, said

    calls = [
        (box, *json.loads(line)) for box, log in zip(boxes, logs, strict=True) for line in log.read_text().splitlines()
    ]
    codes = Counter(code for _, _, code, _, _ in calls)
    for box, protocol, code, _, err in calls:
        assert code == 0 or (code in LOST and LOST[code].search(err) and "\n  next: " in err), (
            box.path.name,
            protocol,
            code,
            err,
        )

    last = ground.clone("last")
    for protocol in protocols:
        last.git("branch", "-q", protocol, f"origin/{protocol}")
    last.git("fetch", "-q", "origin", "+refs/runner/history/*:refs/runner/history/*")
    ended = {protocol: last.state(protocol)["status"] for protocol in protocols}
    for protocol in [name for name, status in ended.items() if status != "completed"]:
        last.runner("run", protocol, rc=0)  # who went home early left it in order
    counted = Counter(ground.counter.read_text().splitlines())
    assert counted == {f"{protocol} s{number}": 1 for protocol in protocols for number in range(1, STEPS + 1)}
    for protocol in protocols:
        steps = last.state(protocol)["steps"]
        assert {(step["status"], step["attempt"]) for step in steps.values()} == {("completed", 1)}
        there = set(last.git("ls-tree", "--name-only", protocol).split())
        lost = [name for where, name in wrote if where == protocol and name not in there]
        assert lost == [] and {f"s{number}.txt" for number in range(1, STEPS + 1)} <= there
    last.runner("verify", *protocols, rc=0)
    assert last.git("--git-dir", ground.bare, "fsck", "--strict", "--no-dangling") == ""
    assert last.git("--git-dir", ground.bare, "for-each-ref", "refs/runner/leases") == ""
    # Each who was told that a step is done did it, and by the record nobody else.
    advanced = Counter(box.path.name for box, _, _, done, _ in calls if done)
    recorded = Counter(
        json.loads(line)["actor"].partition("@")[0]
        for protocol in protocols
        for line in last.runner("log", protocol, "--json", rc=0).out.splitlines()
        if json.loads(line)["event"] == "step-completed"
    )
    recorded.pop("last", None)  # what was left to do afterwards, here
    assert advanced == recorded
    told_of = f"{RUNNERS} runners, {sum(counted.values())} steps, {len(wrote)} commits of a person's, exit codes {dict(codes)}"
    print(told_of)
    assert RUNNERS < 8 or (codes[75] + codes[4] and wrote), f"nobody lost a race: {told_of}"
