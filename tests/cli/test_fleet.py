"""`runner fleet`: real protocols, real processes, several fleets at once, and some of them killed."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.app import fleet
from runner.app.fleet import EndedTurn, Ready
from runner.cli.watch import open_turns
from runner.store.remote import RATE_WINDOW
from tests.conftest import Box, clone, command, set_env
from tests.executor.minds import ENGINE, mind, say, sound
from tests.gate import WHOLE
from tests.protocol.test_schema import validator
from tests.store.test_lease import count
from tests.store.test_remote import publish

FAILED, WAITS, HELD = 1, 3, 75


def events(out: str) -> list[Any]:
    found = [json.loads(line) for line in out.splitlines()]
    for one in found:
        validator("fleet").validate(one)
    return found


def many(box: Box, count: int, steps: int, told: Path, *, more: str = "") -> list[str]:
    """Make protocols whose steps each add a line to a file outside."""
    return [
        box.new(
            {
                f"{step:02d}-s{step}": command(f"echo {number}.{step} >> {told}; {more}echo x > f{step}.txt")
                for step in range(1, steps + 1)
            },
            title=f"Number {number}",
        )
        for number in range(count)
    ]


def wait_for(there: Path, lines: int = 1) -> None:
    while not there.exists() or len(there.read_text().splitlines()) < lines:
        time.sleep(0.02)


def test_what_may_go_on_goes_on_and_the_rest_is_told(box: Box, tmp_path: Path) -> None:
    told = tmp_path / "told"
    first, second = many(box, 2, 2, told)
    waits = box.new({"01-a": command("echo a > a.txt"), "02-b": "kind: human\n"}, title="Waits")
    paused = box.new({"01-a": command("echo a > a.txt")}, title="Paused")
    box.runner("pause", paused, rc=0)
    done = box.runner("fleet", "-j", "2", rc=WAITS)
    assert sorted(told.read_text().split()) == ["0.1", "0.2", "1.1", "1.2"]
    assert box.state(first)["status"] == box.state(second)["status"] == "completed"
    assert box.state(paused)["status"] == "paused"
    assert "0001  01-s1" in done.err and "0003  waits" in done.out.replace("   ", "  ") and "0004" not in done.out
    assert waits in box.runner("list", rc=0).out or "0003" in done.out
    again = box.runner("fleet", rc=0)
    assert "no protocol can advance" in again.err and again.out == ""
    assert "no protocol can advance" in box.runner("fleet", "plan", rc=0).err
    for one in (first, second, waits):
        sound(box, one)


def test_events_are_lines_of_json_and_a_failure_is_what_it_ends_with(box: Box, tmp_path: Path) -> None:
    fails = box.new({"01-a": command("exit 3")}, title="Fails")
    waits = box.new({"01-a": "kind: human\n"}, title="Waits")
    found = events(box.runner("fleet", "--json", rc=FAILED).out)
    assert [(one["event"], one.get("protocol")) for one in found[:2]] == [("started", fails), ("started", waits)]
    assert found[0]["action"] == "run-step" and found[0]["step"] == "a"
    assert {one["protocol"]: one["code"] for one in found if one["event"] == "ended"} == {fails: FAILED, waits: WAITS}
    assert found[-1]["protocols"] == {fails: FAILED, waits: WAITS} and found[-1]["code"] == FAILED
    assert events(box.runner("fleet", "--json", rc=0).out)[-1]["protocols"] == {}


@pytest.mark.slow
def test_a_word_that_came_since_is_taken_up(box: Box) -> None:
    protocol = box.new({"01-a": "kind: human\n", "02-b": command("echo b > b.txt")})
    box.runner("fleet", rc=WAITS)
    box.runner("answer", protocol, "done", rc=0)
    box.runner("fleet", rc=0)
    assert box.state(protocol)["status"] == "completed"
    edited = box.new({"01-a": command("exit 1")}, title="Edited")
    at = box.worktree(edited) / f".protocols/{edited}/01-a.md"
    at.write_text(at.read_text().replace("exit 1", "echo a > a.txt"))
    box.commit("edit", cwd=at.parent)
    box.runner("fleet", rc=0)
    assert box.state(edited)["status"] == "completed"


class Hands:
    """A crew of one process: each turn is carried out at once, by the real command, and they end in the order they began."""

    def __init__(self, box: Box, *argv: str) -> None:
        self.box, self.argv = box, argv
        self.ended: list[EndedTurn] = []
        self.order: list[str] = []
        self.most = 0

    def start(self, one: Ready) -> None:
        self.order.append(one.protocol)
        done = self.box.runner("run", one.protocol, *self.argv)
        self.ended.append(EndedTurn(one.protocol, done.code, done.err))
        self.most = max(self.most, len(self.ended))

    def next(self, timeout: float) -> EndedTurn | None:
        return self.ended.pop(0) if self.ended else None


def quiet(event: str, one: Ready, ended: EndedTurn | None) -> None:
    """Nobody listens."""


def test_what_a_turn_says_again_is_shown_once(box: Box, capsys: pytest.CaptureFixture[str]) -> None:
    from runner.cli.console import Console
    from runner.cli.watch import _Teller

    teller = _Teller(Console(box.path, box.env), False, "4 at a time")
    one = Ready("0001-a", "tip", "run-step", "a", "Add it", 0)
    for code, said in ((HELD, "held"), (HELD, "held"), (128 + signal.SIGKILL, ""), (0, "done")):
        teller.tell("started", one, None)
        teller.tell("ended", one, EndedTurn("0001-a", code, said))
    assert capsys.readouterr().err.splitlines() == [
        "4 at a time; Ctrl-C ends them, and nothing is lost",
        "0001  starts    a: Add it",
        "0001  held",
        "0001    retries       in a moment, 5 times at most",
        "0001    ended         by SIGKILL, from outside",
        "0001    retries       in a moment, 5 times at most",
        "0001  done",
    ]


@pytest.mark.slow
def test_a_busy_protocol_starves_nobody(box: Box, tmp_path: Path) -> None:
    """Each has a turn before any has its next one, and whoever waited longest has the first."""
    busy = box.new({f"{step:02d}-s{step}": command(f"echo {step} > f.txt") for step in range(1, 7)}, title="Busy")
    others = many(box, 4, 2, tmp_path / "told")
    hands = Hands(box, "--max-steps", "1")
    with box.session() as session:
        codes = fleet.run(session, hands, jobs=2, tell=quiet)
    assert set(codes.values()) == {0} and hands.most == 2
    assert hands.order[:5] == [busy, *others]
    turns = [at for at, name in enumerate(hands.order) if name == others[-1]]
    assert all(later - earlier <= 5 for earlier, later in itertools.pairwise(turns))
    assert hands.order[-3:] == [busy] * 3


def test_what_another_runner_held_and_brought_to_its_end_is_no_failure(box: Box, tmp_path: Path) -> None:
    (name,) = many(box, 1, 1, tmp_path / "told")

    class Late(Hands):
        """Another runner has it, and is done a moment later."""

        def start(self, one: Ready) -> None:
            super().start(one)
            self.ended[-1] = EndedTurn(one.protocol, HELD, "held")

    with box.session() as session:
        assert fleet.run(session, Late(box), jobs=1, tell=quiet) == {name: 0}


def test_what_another_runner_holds_is_tried_again_and_then_left(box: Box, tmp_path: Path) -> None:
    held, free = many(box, 2, 1, tmp_path / "told")
    slept: list[float] = []

    class Stubborn(Hands):
        """Another runner has it, whenever it is looked at."""

        def start(self, one: Ready) -> None:
            if one.protocol != held:
                return super().start(one)
            self.order.append(one.protocol)
            self.ended.append(EndedTurn(one.protocol, HELD, "held"))

    now = [0.0]

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    hands = Stubborn(box)
    with box.session() as session:
        set_env(session, monotonic=lambda: now[0], sleep=sleep)
        codes = fleet.run(session, hands, jobs=1, tell=quiet)
    assert codes == {held: HELD, free: 0}
    assert hands.order.count(held) == fleet.TRIES and slept == [1.0, 2.0, 4.0, 8.0]
    assert fleet.exit_code(codes.values()) == HELD


@pytest.mark.parametrize(
    ("codes", "code"),
    [((), 0), ((0, 0), 0), ((0, 3), 3), ((3, 75), 75), ((75, 1, 3), 1), ((1, 69), 69), ((69, 4, 2), 4), ((0, 137), 70)],
)
def test_it_ends_with_the_worst_of_its_turns(codes: tuple[int, ...], code: int) -> None:
    assert fleet.exit_code(codes) == code


@pytest.mark.slow
def test_what_others_pushed_is_found_and_a_remote_that_is_away_stops_it_before_a_turn(
    remote: Box, tmp_path: Path
) -> None:
    publish(remote)
    other = clone(remote, "bob")
    (theirs,) = many(other, 1, 1, tmp_path / "told")
    found = events(remote.runner("fleet", "--json", rc=0).out)
    assert found[-1]["protocols"] == {theirs: 0}
    assert remote.git("rev-parse", theirs) == remote.git("rev-parse", theirs, cwd=tmp_path / "origin.git")
    (tmp_path / "origin.git").rename(tmp_path / "away")
    assert "nothing was started" in remote.runner("fleet", rc=69).err
    assert "no protocol can advance" in remote.runner("fleet", "--offline", rc=0).err


@pytest.mark.slow
@pytest.mark.parametrize(("then", "code"), [(command("true"), 0), ("kind: human\n", WAITS)])
def test_what_an_ended_run_did_not_publish_any_more_is_published(
    remote: Box, tmp_path: Path, then: str, code: int
) -> None:
    publish(remote)
    protocol = remote.new({"01-a": command("echo a > a.txt"), "02-b": then})
    remote.runner("run", protocol, "--publish", "never", rc=code)  # as one that was killed before it published
    origin = tmp_path / "origin.git"
    assert remote.git("rev-parse", protocol) != remote.git("rev-parse", protocol, cwd=origin)
    remote.runner("fleet", rc=code)
    assert remote.git("rev-parse", protocol) == remote.git("rev-parse", protocol, cwd=origin)
    assert "no protocol can advance" in remote.runner("fleet", rc=0).err


def test_a_review_that_gave_no_verdict_is_left_to_a_person(box: Box) -> None:
    """Once more after the turn that did the step, and not five times as where the network is away."""
    with mind(box, *[say(text="Fine.")] * 10) as wire:
        box.new({"01-a": command("echo a > a.txt", f"qa: full\nengine: {ENGINE}\n")})
        box.runner("fleet", rc=WAITS)
        assert len(wire.bodies) == 4


def living(word: str) -> list[int]:
    """Return the processes that have a word among their arguments."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if word.encode() in (process / "cmdline").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def turns_of(box: Box, protocol: str) -> list[int]:
    """Return the processes that have a protocol's turn; other tests' have the same names elsewhere."""
    return living(f"\0{box.path}\0run\0{protocol}\0")


@pytest.fixture
def word(tmp_path: Path) -> Iterator[str]:
    """A word that tells processes of this test from all others; what has it in the end is ended."""
    name = f"{100_000 + os.getpid()}.{abs(hash(tmp_path)) % 10**6}"
    yield name
    for pid in living(name):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_ends_all_and_what_they_started(box: Box, tmp_path: Path, word: str, how: signal.Signals) -> None:
    told = tmp_path / "told"
    names = [
        box.new({"01-a": command(f"echo x >> {told}; sleep {word}")}, title=f"Number {number}") for number in range(3)
    ]
    started = box.start("fleet", "-j", "3")
    wait_for(told, 3)
    assert len(living(word)) >= 3
    started.send_signal(how)
    _, err = started.communicate()
    assert started.returncode == 130 and "ending: 0001, 0002, 0003\n" in err and "nothing is lost" in err
    assert living(word) == []
    for name in names:
        assert box.state(name)["steps"]["a"]["status"] == "pending"
        sound(box, name)


@pytest.mark.slow
def test_ctrl_c_again_waits_for_what_does_not_end_at_once_and_a_stopped_turn_hears_it(
    box: Box, tmp_path: Path, word: str
) -> None:
    told = tmp_path / "told"
    stubborn = box.new(
        {"01-a": command(f"trap '' TERM; echo x >> {told}; sleep {word}; sleep {word}")}, title="Stubborn"
    )
    stopped = box.new({"01-a": command(f"echo x >> {told}; sleep {word}")}, title="Stopped")
    started = box.start("fleet", "-j", "2")
    wait_for(told, 2)
    (turn,) = turns_of(box, stopped)
    os.kill(turn, signal.SIGSTOP)
    again = time.monotonic() + 0.5
    while time.monotonic() < again:  # one of them could come between what raised and what ends the turns
        started.send_signal(signal.SIGINT)
    _, err = started.communicate()
    assert started.returncode == 130 and err.count("ending: ") == 1
    assert living(word) + turns_of(box, stubborn) + turns_of(box, stopped) == []
    sound(box, stubborn)
    sound(box, stopped)


@pytest.mark.slow
def test_a_turn_that_is_killed_is_told_and_tried_again(box: Box, tmp_path: Path, word: str) -> None:
    told = tmp_path / "told"
    name = box.new({"01-a": command(f"echo x >> {told}; [ -e {tmp_path}/again ] || sleep {word}; echo a > a.txt")})
    started = box.start("fleet")
    wait_for(told)
    (tmp_path / "again").touch()
    (turn,) = turns_of(box, name)
    os.kill(turn, signal.SIGKILL)
    _, err = started.communicate()
    assert started.returncode == 0 and "0001    ended         by SIGKILL, from outside\n" in err
    assert box.state(name)["status"] == "completed"
    sound(box, name)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_fleet_that_is_killed_is_begun_again_and_nothing_is_done_twice(box: Box, tmp_path: Path) -> None:
    told = tmp_path / "told"
    names = many(box, 12, 3, told, more="sleep 0.2; ")
    for lines in (3, 12, 20):
        started = box.start("fleet", "-j", "4", "--max-steps", "2")
        wait_for(told, lines)
        started.kill()
        started.communicate()
    box.runner("fleet", "-j", "4", rc=0)
    assert {box.state(name)["status"] for name in names} == {"completed"}
    # Turns that the killed fleet had begun went on to their ends: no step was carried out twice.
    assert sorted(told.read_text().split()) == sorted(f"{n}.{s}" for n in range(12) for s in (1, 2, 3))
    for name in names:
        sound(box, name)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_turns_wait_for_the_limit_of_pushes_and_all_is_published(remote: Box, tmp_path: Path) -> None:
    publish(remote)
    names = many(remote, 2, 2, tmp_path / "told")
    count(remote)
    done = remote.runner("fleet", "-j", "2", "--max-pushes-per-minute", "3", rc=0)
    assert "2 at a time, 3 pushes a minute; Ctrl-C" in done.err and "3 pushes a minute are allowed" in done.err
    pushes = count(remote)
    assert len(pushes) == 4  # each turn: the lease, and all of its work at once
    times = [float(line) for line in (remote.path / ".git/runner/pushes").read_text().split()]
    assert times and all(later - earlier >= RATE_WINDOW for earlier, later in zip(times, times[3:], strict=False))
    for name in names:
        assert remote.git("rev-parse", name) == remote.git("rev-parse", name, cwd=tmp_path / "origin.git")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_several_fleets_on_one_remote_do_each_step_once(remote: Box, tmp_path: Path) -> None:
    publish(remote)
    told = tmp_path / "told"
    protocols = 12 if WHOLE else 6
    names = many(remote, protocols, 2, told)
    boxes = [remote, clone(remote, "bob"), clone(remote, "carol")]
    started = [box.start("fleet", "-j", "2", "--max-steps", "1", "--json") for box in boxes]
    ended = [one.communicate() for one in started]
    assert {one.returncode for one in started} <= {0, HELD}, ended
    remote.runner("fleet", rc=0)
    assert sorted(told.read_text().split()) == sorted(f"{n}.{s}" for n in range(protocols) for s in (1, 2))
    worked = [sum(one["event"] == "ended" for one in events(out)) for out, _ in ended]
    assert all(worked), worked
    for name in names:
        there = remote.git("rev-parse", name, cwd=tmp_path / "origin.git")
        assert there == remote.git("rev-parse", name)
        sound(remote, name)
    assert remote.git("for-each-ref", "refs/runner/leases/", cwd=tmp_path / "origin.git") == ""


def test_a_signal_while_a_turn_is_started_ends_the_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Struck(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            started.append(self)
            os.kill(os.getpid(), signal.SIGTERM)  # it lives, and nobody was given what can end it

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", Struck)
    known = signal.signal(signal.SIGTERM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt), open_turns(str(tmp_path), (), os.environ) as turns:
            turns.start(Ready("0001-a", "0" * 40, "run-step", "a", "A", 0))
    finally:
        signal.signal(signal.SIGTERM, known)
    assert len(started) == 1 and started[0].returncode is not None
