"""The lease on the remote: one runner of all clones at a time. Real git, real clones."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from runner.app import run
from runner.errors import RefusedError
from runner.executor import advance
from runner.protocol import ref_files
from runner.store import history, lease, publishing
from tests.conftest import Box, clone, command, set_env, waits_for
from tests.executor.minds import Script, agent, finish, mind, say, sound, write
from tests.protocol.test_schema import validator

HELD, WAITS = 75, 3


def settle_on(box: Box, config: str = "publish: always\n") -> None:
    """Set the configuration on the trusted branch."""
    box.write(".protocols/config.yaml", config)
    box.commit("config")
    box.git("push", "-q", "origin", "main")


def origin(box: Box) -> Path:
    return box.path.parent / "origin.git"


def there(box: Box, ref: str) -> str:
    return box.git("rev-parse", "--verify", "-q", ref, cwd=origin(box), check=False).strip()


def leased(box: Box, protocol: str) -> Any:
    """Return lease.json as the remote has it, or None."""
    shown = box.git("show", f"{lease.ref_of(protocol)}:lease.json", cwd=origin(box), check=False)
    return json.loads(shown) if shown else None


def hook(box: Box, name: str, script: str) -> Path:
    """Put a hook into the remote."""
    path = origin(box) / "hooks" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}")
    path.chmod(0o755)
    return path


def count(box: Box) -> list[list[list[str]]]:
    """Return the pushes since the last call, each its lines `old new ref`; the first call begins to count."""
    ledger = origin(box) / "pushes"
    hook(
        box, "post-receive", f"said=$(cat)\nprintf '%s\\n\\n' \"$said\" >> {ledger}\n"
    )  # in one write: pushes may be at once
    told = ledger.read_text() if ledger.exists() else ""
    ledger.unlink(missing_ok=True)
    return [[line.split() for line in push.splitlines()] for push in told.split("\n\n") if push.strip()]


def outlast(box: Box, protocol: str) -> None:
    """Let this machine have seen the lease that is there for long enough to take it over."""
    with box.session() as session:
        note = session.dirs.seen_lease(protocol)
    boot, up = Path("/proc/sys/kernel/random/boot_id").read_text().strip(), time.clock_gettime(time.CLOCK_BOOTTIME)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps({"lease": there(box, lease.ref_of(protocol)), "boot": boot, "since": up - 100_000}))


def until(box: Box, protocol: str) -> None:
    """Wait till somebody has the lease."""
    end = time.monotonic() + 100
    while leased(box, protocol) is None:
        assert time.monotonic() < end
        time.sleep(0.02)


# --- one runner at a time ----------------------------------------------------------------------------------------------


def test_of_two_clones_one_works_and_the_other_says_who_does(remote: Box) -> None:
    settle_on(remote)
    ran, ends = remote.path.parent / "ran", remote.path.parent / "ends"
    protocol = remote.new({"01-a": command(f"echo once >> {ran}; {waits_for(ends)}"), "02-b": command("true")})
    other = clone(remote, "bob")
    server = {"GITHUB_SERVER_URL": "https://forge.test", "GITHUB_REPOSITORY": "a/b", "GITHUB_RUN_ID": "7"}
    at_work = remote.start("run", protocol, env=server)
    until(remote, protocol)
    found = leased(remote, protocol)
    validator("lease").validate(found)
    assert (found["holder"], found["ci"]) == ("alice@example.test", "https://forge.test/a/b/actions/runs/7")
    held = other.runner("run", protocol, rc=HELD)
    assert "is held by another runner: alice@example.test on " in held.err and "/runs/7, until 20" in held.err
    shown = other.runner("status", rc=0).out
    assert (
        " works " in shown and "alice@example.test's runner works on 01-a, since " in shown and " until " not in shown
    )
    output = remote.path.parent / "output"
    job = other.runner("step", protocol, "--ci", env={"GITHUB_OUTPUT": str(output)}, rc=0)
    assert "held by another runner" in job.err and "held=true" in output.read_text()
    assert other.runner("run", protocol, "--ci", "--publish", "never", rc=0).err.startswith("held: ")
    ends.touch()
    _, err = at_work.communicate(timeout=100)
    assert at_work.returncode == 0, err
    assert leased(remote, protocol) is None
    other.runner("run", protocol, rc=0)
    assert ran.read_text() == "once\n"
    assert there(remote, protocol) == other.git("rev-parse", protocol).strip()
    assert other.git("for-each-ref", "refs/runner/leases") == ""
    sound(other, protocol)


@pytest.mark.slow
def test_a_persons_word_needs_none(remote: Box) -> None:
    settle_on(remote)
    ends = remote.path.parent / "ends"
    protocol = remote.new({"01-a": command(f"{waits_for(ends)}; echo a > a.txt"), "02-b": command("true")})
    other = clone(remote, "bob")
    other.git("branch", "-q", protocol, f"origin/{protocol}")
    at_work = remote.start("step", protocol)
    until(remote, protocol)
    other.runner("pause", protocol, rc=0)
    assert leased(remote, protocol) is not None
    ends.touch()
    _, err = at_work.communicate(timeout=100)
    assert at_work.returncode == WAITS and leased(remote, protocol) is None, err
    other.runner("sync", protocol, rc=0)
    assert (other.state(protocol)["status"], other.git("show", f"{protocol}:a.txt")) == ("paused", "a\n")


def test_it_is_given_up_in_the_push_that_publishes_and_pushes_stay_few(remote: Box) -> None:
    settle_on(remote)
    protocol = remote.new({f"{n:02d}-s{n}": command(f"echo {n} > {n}.txt") for n in range(1, 11)})
    count(remote)
    remote.runner("step", protocol, rc=0)
    taken, published = count(remote)
    ref, nothing = lease.ref_of(protocol), "0" * 40
    assert [(old, name) for old, _, name in taken] == [(nothing, ref)]
    assert {name: new for _, new, name in published} == {
        f"refs/heads/{protocol}": there(remote, protocol),
        ref: nothing,
    }
    remote.runner("run", protocol, rc=0)
    assert len(count(remote)) == 2 and leased(remote, protocol) is None


def test_what_only_records_takes_none(remote: Box) -> None:
    settle_on(remote)
    protocol = remote.new({"01-a": "kind: human\n"})
    count(remote)
    remote.runner("run", protocol, rc=WAITS)
    remote.runner("run", protocol, rc=WAITS)
    assert [[name for _, _, name in push] for push in count(remote)] == [[f"refs/heads/{protocol}"]]


@pytest.mark.parametrize("how", ["step", "run"])
@pytest.mark.slow
def test_a_stalled_runner_cannot_publish_and_its_work_is_kept(remote: Box, how: str) -> None:
    settle_on(remote, "publish: always\nlease: {ttl: 1s, grace: 1s}\n")
    began, ends = remote.path.parent / "began", remote.path.parent / "ends"
    wait = f"touch {began}; while [ ! -e {ends} ]; do sleep 0.1; done; echo first > a.txt"
    line = f"if [ -e {began} ]; then echo second > a.txt; else {wait}; fi"
    protocol = remote.new({"01-a": command(line), "02-b": "kind: human\n"})
    other = clone(remote, "bob")
    stalled = remote.start(how, protocol)
    while not began.exists():
        time.sleep(0.02)
    stalled.send_signal(signal.SIGSTOP)  # its command goes on, its renewals do not
    ends.touch()
    end = time.monotonic() + 120
    while (code := other.runner("step", protocol).code) == HELD:
        assert time.monotonic() < end
        time.sleep(0.5)
    assert code == 0
    published = there(remote, protocol)
    stalled.send_signal(signal.SIGCONT)
    _, err = stalled.communicate(timeout=120)
    assert stalled.returncode == HELD and "ran out here, and another runner has taken it" in err, err
    assert there(remote, protocol) == published
    kept = f"refs/runner/attempts/{protocol}/a.1" if how == "step" else protocol
    assert remote.git("show", f"{kept}:a.txt") == "first\n" and (how == "run" or kept in err)
    remote.runner("run", protocol, rc=WAITS)
    assert remote.git("show", f"{protocol}:a.txt") == "second\n"
    assert how == "step" or remote.git("for-each-ref", f"refs/runner/lost/{protocol}") != ""
    sound(remote, protocol)


def test_a_run_has_a_lease_again_where_another_process_of_its_clone_came_in_between(remote: Box) -> None:
    settle_on(remote)
    seen = remote.path.parent / "seen"
    look = f"git -C {origin(remote)} for-each-ref refs/runner/leases > {seen}"
    protocol = remote.new({"01-a": command("true"), "02-b": command("true"), "03-c": command(look)})
    with remote.session() as session, remote.session() as other:
        steps = run.run(session, protocol, max_steps=9, adopt=True, tell=lambda done: None)
        next(steps)
        other.env.random_hex(32)  # its nonces are others
        advance.step(other, protocol)  # takes the lease of its own clone, and gives it up
        assert leased(remote, protocol) is None
        list(steps)
    assert seen.read_text() != "", "a command began without a lease"
    assert leased(remote, protocol) is None
    sound(remote, protocol)


def test_a_clone_takes_its_own_lease_again_at_once_where_its_process_is_gone(remote: Box) -> None:
    settle_on(remote)
    gate = remote.path.parent / "gate"
    protocol = remote.new({"01-a": command(f"[ -e {gate} ] || {{ touch {gate}; sleep 60; }}"), "02-b": command("true")})
    other = clone(remote, "bob")
    dead = remote.start("run", protocol)
    while not gate.exists():
        time.sleep(0.02)
    dead.send_signal(signal.SIGKILL)
    dead.communicate(timeout=100)
    other.runner("step", protocol, rc=HELD)
    remote.runner("run", protocol, rc=0)
    assert leased(remote, protocol) is None
    sound(remote, protocol)


@pytest.mark.parametrize(
    "amid",
    ["kill -9 $PPID; exit 1", 'env -i PATH="$PATH" git -C {bob} push -q origin {protocol}'],
    ids=["killed", "raced"],
)
@pytest.mark.slow
def test_a_clone_that_is_cut_as_it_takes_its_own_lease_again_is_not_locked_out_by_itself(
    remote: Box, tmp_path: Path, amid: str
) -> None:
    settle_on(remote)
    gate = tmp_path / "gate"
    protocol = remote.new({"01-a": command(f"[ -e {gate} ] || {{ touch {gate}; sleep 60; }}"), "02-b": command("true")})
    other = clone(remote, "bob")
    other.git("checkout", "-q", protocol)
    other.write("bob.txt", "mine\n")
    other.commit("bob's")
    dead = remote.start("run", protocol)
    while not gate.exists():
        time.sleep(0.02)
    dead.send_signal(signal.SIGKILL)
    dead.communicate(timeout=100)
    assert leased(remote, protocol) is not None
    (tmp_path / "bin").mkdir()
    script = f"#!/bin/sh\nPATH={os.environ['PATH']}\n"
    script += (
        f'case " $* " in *" push "*) if mkdir {tmp_path}/amid 2>/dev/null; then {amid}; fi;; esac\nexec git "$@"\n'
    )
    (tmp_path / "bin/git").write_text(script.format(bob=other.path, protocol=protocol))
    (tmp_path / "bin/git").chmod(0o755)
    again = remote.start("run", protocol, env={"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"})
    said = again.communicate(timeout=100)
    assert (tmp_path / "amid").exists() and again.returncode in (-9, 0), said
    remote.runner("run", protocol, rc=0)
    assert leased(remote, protocol) is None
    assert "bob.txt" in remote.git("ls-tree", "--name-only", protocol) or "kill" in amid
    sound(remote, protocol)


def test_what_was_published_since_the_remote_was_looked_at_is_not_done_again(remote: Box) -> None:
    settle_on(remote)
    ran = remote.path.parent / "ran"
    steps = {f"0{n}-s{n}": command(f"echo {n} >> {ran}") for n in (1, 2, 3)}
    protocol = remote.new(steps)
    other = clone(remote, "bob")
    with remote.session() as session:
        publishing.look(session, f"refs/heads/{protocol}", history.ref_of(protocol), lease.ref_of(protocol))
        other.runner("step", protocol, rc=0)
        advance.step(session, protocol)
    assert ran.read_text() == "1\n2\n"
    assert leased(remote, protocol) is None and there(remote, protocol) == remote.git("rev-parse", protocol).strip()


@pytest.mark.slow
def test_one_that_was_given_up_since_the_remote_was_looked_at_holds_nobody(remote: Box) -> None:
    settle_on(remote)
    ends = remote.path.parent / "ends"
    protocol = remote.new({"01-a": command(waits_for(ends)), "02-b": command("true")})
    other = clone(remote, "bob")
    at_work = other.start("step", protocol)
    until(remote, protocol)
    with remote.session() as session:
        publishing.look(session, f"refs/heads/{protocol}", history.ref_of(protocol), lease.ref_of(protocol))
        ends.touch()
        at_work.communicate(timeout=100)
        assert advance.step(session, protocol).state.revision > 4
    sound(remote, protocol)


@pytest.mark.slow
def test_who_is_at_work_elsewhere_is_told_as_it_was_last_seen(remote: Box) -> None:
    settle_on(remote)
    protocol = remote.new({"01-a": "kind: human\n"})
    other = clone(remote, "bob")
    with remote.session() as session:
        set_env(session, now=time.time, host="workshop")
        publishing.look(session, f"refs/heads/{protocol}", history.ref_of(protocol), lease.ref_of(protocol))
        lease.take(session, protocol)
        held = session.lease
        assert held is not None
        held.since -= 1000
        lease.ensure(session)  # renewed: it has been at work since before that
        other.runner("run", protocol, rc=WAITS)  # what only records needs none, and sees it
        away = origin(remote).rename(origin(remote).with_suffix(".away"))
        looked = next(other.home.glob(f".local/state/protocol-runner/*/mirror/looked/{protocol}"))
        assert looked.stat().st_mtime > time.time() - 60
        os.utime(looked, (time.time() - 130,) * 2)
        for _ in range(2):
            shown = other.runner("status", protocol, rc=0).out
            assert "as seen 2 min ago" in shown and "refresh       runner sync 1" in shown
            assert other.runner("status", rc=0).out.endswith("as seen 2 min ago)  runner sync 1\n")
            assert re.search(
                r"works +alice@example.test's runner works on 01-a, since \d+ s \(workshop, as seen", shown
            )
            assert (
                other.runner("status", rc=0).out.startswith("0001  works ")
                and " works " in other.runner("list", rc=0).out
            )
            assert "workshop" not in other.runner("show", protocol, "--json", rc=0).out
            other.git("pack-refs", "--all", cwd=next(other.home.glob(".local/state/protocol-runner/*/mirror")))
        assert "'s runner" not in remote.runner("status", protocol, rc=0).out
        noted = session.dirs.lease(protocol)  # cut as it took its own again: the last one stands before it
        noted.write_text(f"{'0' * 64} {remote.path}\n{noted.read_text()}")
        assert "'s runner" not in remote.runner("status", protocol, rc=0).out
        away.rename(origin(remote))
        copied = Box(remote.path.with_name("copied"), remote.home, remote.env)
        shutil.copytree(remote.path, copied.path)  # the note of what the first one took comes along
        copied.runner("sync", protocol, rc=0)
        assert "'s runner works" in copied.runner("status", protocol, rc=0).out
        lease.drop(session)
    other.runner("sync", protocol, rc=0)
    assert "'s runner" not in other.runner("status", protocol, rc=0).out


# --- remotes that do not take it ---------------------------------------------------------------------------------------


def test_a_remote_that_refuses_it_is_told_before_anything_begins(remote: Box) -> None:
    settle_on(remote)
    ran = remote.path.parent / "ran"
    protocol = remote.new({"01-a": command(f"echo x >> {ran}")})
    refuses = hook(remote, "update", 'case $1 in refs/runner/leases/*) echo "no such names here" >&2; exit 1 ;; esac\n')
    told = remote.runner("run", protocol, rc=69).err
    assert "the lease of" in told and "no such names here" in told and "`--publish never`" in told
    assert not ran.exists()
    remote.runner("run", protocol, "--publish", "never", rc=0)
    refuses.unlink()
    remote.runner("sync", protocol, rc=0)
    assert there(remote, protocol) == remote.git("rev-parse", protocol).strip()


def test_while_the_remote_is_away_run_goes_on_without_only_where_that_is_asked_for(remote: Box) -> None:
    settle_on(remote)
    protocol = remote.new({"01-a": command("true"), "02-b": command("true")})
    away = origin(remote).rename(origin(remote).with_suffix(".away"))
    remote.runner("run", protocol, rc=69)
    remote.runner("run", protocol, "--offline", rc=0)
    away.rename(origin(remote))
    remote.runner("sync", protocol, rc=0)
    assert there(remote, protocol) == remote.git("rev-parse", protocol).strip()


@pytest.mark.parametrize("what", ["no lease.json", "an intent of another name"])
def test_what_no_runner_wrote_is_refused_with_the_way_out(remote: Box, what: str) -> None:
    settle_on(remote)
    protocol = remote.new({"01-a": command("true")})
    good = {"schema": 1, "holder": "a", "host": "b", "ci": None, "expires": None, "nonce": "0" * 32}
    blob = remote.git("hash-object", "-w", "--stdin", data=json.dumps(good)).strip()
    entry = f"100644 blob {blob}\t{'x' if what == 'no lease.json' else 'lease.json'}\n"
    if what == "an intent of another name":
        inner = remote.git("mktree", data=f"100644 blob {blob}\ta.1.1.json\n").strip()
        entry = f"040000 tree {inner}\tintents\n" + entry
    commit = remote.git("commit-tree", "-m", "x", remote.git("mktree", data=entry).strip()).strip()
    remote.git("push", "-q", "origin", f"{commit}:{lease.ref_of(protocol)}")
    told = remote.runner("step", protocol, rc=4).err
    assert "a lease that cannot be read" in told and f"--delete {lease.ref_of(protocol)}" in told
    remote.git("push", "-q", "origin", "--delete", lease.ref_of(protocol))
    remote.runner("step", protocol, rc=0)


@pytest.mark.slow
def test_a_partial_clone_reads_it(remote: Box) -> None:
    settle_on(remote)
    remote.git("config", "uploadpack.allowFilter", "true", cwd=origin(remote))
    other = clone(remote, "bob")
    other.git("clone", "-q", "--filter=blob:none", f"file://{origin(remote)}", "partial", cwd=other.path.parent)
    other.path = other.path.parent / "partial"
    ends = remote.path.parent / "ends"
    protocol = other.new({"01-a": command(waits_for(ends)), "02-b": command("true")})
    remote.git("fetch", "-q", "origin")
    at_work = remote.start("step", protocol)
    until(remote, protocol)
    assert "alice@example.test" in other.runner("step", protocol, rc=HELD).err
    ends.touch()
    at_work.communicate(timeout=100)


# --- beside the work ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_long_command_keeps_it_and_its_work_is_published(remote: Box) -> None:
    settle_on(remote, "publish: always\nlease: {ttl: 2s, grace: 20s}\n")
    ends, ran = remote.path.parent / "ends", remote.path.parent / "ran"
    protocol = remote.new({"01-a": command(f"echo x >> {ran}; while [ ! -e {ends} ]; do sleep 0.1; done")})
    other = clone(remote, "bob")
    at_work = remote.start("run", protocol)
    until(remote, protocol)
    nonce, seen, end = leased(remote, protocol)["nonce"], set[str](), time.monotonic() + 120
    while len(seen) < 6:  # it is renewed for longer than it lasts
        seen.add(there(remote, lease.ref_of(protocol)))
        other.runner("step", protocol, rc=HELD)
        assert time.monotonic() < end
    assert leased(remote, protocol)["nonce"] == nonce
    ends.touch()
    _, err = at_work.communicate(timeout=120)
    assert at_work.returncode == 0, err
    assert leased(remote, protocol) is None and ran.read_text() == "x\n"
    assert there(remote, protocol) == remote.git("rev-parse", protocol).strip()
    sound(remote, protocol)


def steal(box: Box, protocol: str) -> str:
    """Return lines of shell by which somebody else takes the lease."""
    ref = lease.ref_of(protocol)
    return (
        f"cd {origin(box)}; unset GIT_DIR GIT_OBJECT_DIRECTORY\n"
        f'blob=$(git show {ref}:lease.json | sed \'s/"nonce": ".*"/"nonce": "{"0" * 32}"/\' | git hash-object -w --stdin)\n'
        "tree=$(printf '100644 blob %s\\tlease.json\\n' $blob | git mktree)\n"
        f"git update-ref {ref} $(git -c user.name=x -c user.email=x commit-tree -m x $tree)\n"
    )


def test_a_renewal_that_meets_a_look_at_the_remote_comes_back(remote: Box) -> None:
    settle_on(remote)
    protocol = remote.new({"01-a": command("true")})
    with remote.session() as session:
        publishing.look(session, f"refs/heads/{protocol}")
        assert lease.take(session, protocol)
        held, mirror = session.lease, session.mirror
        assert held is not None
        held.since -= held.ttl
        session.mirror = None  # as `publishing.look_again` has it for a while
        assert lease._beat(session, held) == held.every / 5
        session.mirror, before = mirror, held.oid
        assert lease._beat(session, held) == held.every and held.oid != before == there(remote, f"{held.oid}^")
        lease.drop(session)


def test_it_is_not_taken_for_a_tip_that_another_process_of_the_clone_has_seen_replaced(remote: Box) -> None:
    settle_on(remote)
    protocol = remote.new({"01-a": command("true"), "02-b": command("true")})
    branch = f"refs/heads/{protocol}"
    with remote.session() as session:
        publishing.look(session, branch)
        decided = session.git.ref(branch)
        clone(remote, "bob").runner("step", protocol, rc=0)
        assert session.mirror is not None
        session.mirror.fetch(branch)  # the mirror is the clone's: another process looks
        assert not lease.take(session, protocol, decided=decided)
    assert leased(remote, protocol) is None


def test_it_is_given_up_where_a_look_at_the_remote_amid_the_work_is_refused(remote: Box) -> None:
    settle_on(remote)
    protocol = remote.new({"01-a": command("true")})
    with remote.session() as session:
        publishing.look(session, f"refs/heads/{protocol}")
        assert lease.take(session, protocol)
        remote.git("update-ref", "-d", "refs/heads/main", cwd=origin(remote))  # the trusted branch is gone
        session.looked = False
        with pytest.raises(RefusedError):
            publishing.look_again(session, protocol)
        lease.drop(session)
    assert leased(remote, protocol) is None


@pytest.mark.slow
def test_a_command_does_not_begin_where_it_was_lost_while_the_workspace_was_set_up(remote: Box) -> None:
    ran, script = remote.path.parent / "ran", remote.path.parent / "setup.sh"
    settle_on(remote, f"publish: always\nlease: {{ttl: 3s, grace: 1s}}\nworkspace: {{setup: sh {script}}}\n")
    protocol = remote.new({"01-a": command(f"echo x >> {ran}")})
    script.write_text(f"{steal(remote, protocol)}sleep 4\n")
    lost = remote.runner("run", protocol, rc=HELD)
    assert "another runner has taken it" in lost.err and not ran.exists()
    assert remote.git("log", "--format=%s", f"origin/{protocol}..{protocol}") == ""


@pytest.mark.slow
def test_an_agent_that_lost_it_asks_nothing_and_calls_nothing_any_more(remote: Box) -> None:
    settle_on(remote, "publish: always\nlease: {ttl: 2s, grace: 1s}\n")
    with mind(remote, say(write("a.txt", "a\n")), finish()) as wire:
        protocol = remote.new({"01-x": agent()})

        def robbed() -> None:  # while the model thinks
            subprocess.run(["sh", "-c", steal(remote, protocol)], check=True)
            time.sleep(3)

        assert isinstance(wire.script, Script)
        wire.script.before[0] = robbed
        lost = remote.runner("run", protocol, rc=HELD)
        assert "another runner has taken it" in lost.err and len(wire.bodies) == 1
        assert not list(remote.home.rglob("a.txt"))
        remote.git("update-ref", "-d", lease.ref_of(protocol), cwd=origin(remote))
        remote.runner("run", protocol, rc=0)  # what was heard was paid for, and is not asked again
        assert len(wire.bodies) == 2
    assert remote.git("show", f"{protocol}:a.txt") == "a\n"
    sound(remote, protocol)


@pytest.mark.slow
def test_a_persons_commits_amid_a_run_are_carried_over_and_no_step_runs_again(remote: Box) -> None:
    settle_on(remote)
    ran, goes = remote.path.parent / "ran", remote.path.parent / "goes"
    wait = f"while [ ! -e {goes} ]; do sleep 0.1; done"
    steps = {
        f"0{n}-s{n}": command(f"echo {n} >> {ran}; echo {n} > {n}.txt{f'; {wait}' if n == 2 else ''}")
        for n in (1, 2, 3)
    }
    protocol = remote.new(steps)
    other = clone(remote, "bob")
    other.git("checkout", "-q", protocol)
    at_work = remote.start("run", protocol)
    while not ran.exists() or ran.read_text() != "1\n2\n":
        time.sleep(0.05)
    for name in ("one.txt", "two.txt"):  # it has one transition that nobody else has seen, and a step at work
        other.write(name, "theirs\n")
        other.commit(name)
        other.git("push", "-q", "origin", protocol)
    goes.touch()
    _, err = at_work.communicate(timeout=120)
    assert at_work.returncode == 0, err
    assert ran.read_text() == "1\n2\n3\n" and leased(remote, protocol) is None
    assert (
        remote.git("ls-tree", "--name-only", protocol, "1.txt", "2.txt", "3.txt", "one.txt", "two.txt").count("\n") == 5
    )
    assert remote.git("log", "--format=%an", "-1", protocol, "--", "two.txt").strip() == "bob"
    assert remote.git("for-each-ref", f"refs/runner/lost/{protocol}") == ""
    assert there(remote, protocol) == remote.git("rev-parse", protocol).strip()
    sound(remote, protocol)


@pytest.mark.slow
def test_a_job_takes_over_from_a_machine_that_was_thrown_away(remote: Box) -> None:
    settle_on(remote, "publish: always\nlease: {ttl: 2s, grace: 1s}\n")
    gate = remote.path.parent / "gate"
    protocol = remote.new({"01-a": command(f"[ -e {gate} ] || {{ touch {gate}; sleep 60; }}"), "02-b": command("true")})
    first = clone(remote, "job-1")
    dead = first.start("run", protocol, "--ci")
    while not gate.exists():
        time.sleep(0.02)
    dead.send_signal(signal.SIGKILL)
    dead.communicate(timeout=100)
    shutil.rmtree(first.path)
    shutil.rmtree(first.home)
    end = time.monotonic() + 120
    for number in range(2, 100):  # each on a machine that knows nothing
        job = clone(remote, f"job-{number}")
        done = job.runner("run", protocol, "--ci", rc=0)
        if "held: " not in done.err:
            break
        assert time.monotonic() < end
    assert "took over the lease" in done.err and leased(remote, protocol) is None
    assert job.state(protocol)["status"] == "completed"
    sound(job, protocol)


@pytest.mark.parametrize("committer", [None, "x <x@y> nope"])
def test_a_lease_that_no_runner_made_stops_nothing_that_only_reads(remote: Box, committer: str | None) -> None:
    settle_on(remote)
    protocol = remote.new({"01-a": command("true"), "02-b": "kind: human\n"})
    held = ref_files.Lease(holder="x", host="h", ci=None, expires="2999-01-01T00:00:00Z", nonce="0" * 32)
    blob = remote.git("hash-object", "-w", "--stdin", data=ref_files.render(held).decode()).strip()
    made = remote.git("mktree", data=f"100644 blob {blob}\tlease.json\n").strip()
    if committer is not None:
        text = f"tree {made}\nauthor a <a@b> 1 +0000\ncommitter {committer}\n\nx\n"
        made = remote.git("hash-object", "-w", "-t", "commit", "--literally", "--stdin", data=text).strip()
    remote.git("push", "-q", "origin", f"{made}:{lease.ref_of(protocol)}")
    remote.runner("sync", protocol)
    for words in (("status",), ("status", protocol), ("list",)):
        assert "  works  " in remote.runner(*words, rc=0).out
