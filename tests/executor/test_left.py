"""How much a step may leave: sizes are looked at before anything is stored, and too much waits for a person."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.executor import workspace_session
from runner.git import GitError
from runner.protocol.paths import POLICY
from runner.store import workspace
from runner.store.workspace import Bounds, TooMuchError, Workspace
from tests.conftest import Box, command, make_box, mostly_slow, slack
from tests.executor.minds import agent, finish, mind, say
from tests.people import Person, govern, person, policy

WAITS, FAILS = 3, 1


def stored(box: Box) -> int:
    """How many KiB the objects of the repository take."""
    counted = dict(line.split(": ") for line in box.git("count-objects", "-v").splitlines())
    return int(counted["size"]) + int(counted["size-pack"])


def rewrite(box: Box, protocol: str, step: str, old: str, new: str) -> None:
    """Have a person change a step's file, and commit that."""
    tree = box.worktree(protocol)
    file = tree / f".protocols/{protocol}/{step}.md"
    file.write_text(file.read_text().replace(old, new))
    box.git("commit", "-qam", "less", cwd=tree)


def test_a_file_that_is_too_big_blocks_its_step_before_anything_is_stored(box: Box) -> None:
    protocol = box.new(
        {
            "01-ok": command("head -c 3000000 /dev/urandom > ok.bin"),
            "02-big": command("truncate -s 2G model.bin"),
            "03-c": command("true"),
        }
    )
    box.runner("step", protocol, rc=0)
    before, began = stored(box), time.monotonic()
    told = box.runner("run", protocol, rc=WAITS)
    assert "model.bin has 2,147,483,648 bytes" in told.err and "50 MB" in told.err and "limits.file_size" in told.err
    assert stored(box) < before + 1000 and time.monotonic() - began < 60
    assert box.state(protocol)["steps"]["big"]["status"] == "blocked" and "retry" in told.err
    assert box.runner("run", protocol, rc=WAITS).out == ""  # it is not tried again by itself
    assert box.state(protocol)["steps"]["big"]["attempt"] == 1
    rewrite(box, protocol, "02-big", "2G", "2k")
    box.runner("retry", protocol, rc=0)
    box.runner("run", protocol, rc=0)
    assert "model.bin" in box.git("ls-tree", "-r", "--name-only", protocol)
    box.runner("verify", protocol, rc=0)


@pytest.fixture
def small(box: Box, tmp_path: Path) -> Person:
    """Who approves in a project whose policy lets a step leave files of 2 KB, and 5 KB in all."""
    alice = person(tmp_path / "people", "alice")
    box.write("data/tracked.bin", b"t" * 3000)
    box.write(".gitignore", "ignored.bin\n")
    box.commit("data")
    govern(box, [alice], text=policy([alice]) + "limits: {file_size: 2KB, total: 5KB}\n")
    return alice


TOO_MUCH = {
    "a new file": ("truncate -s 2001 new.bin", "new.bin has 2,001 bytes", "2KB"),
    "a file in a folder": ("mkdir -p a/b; truncate -s 2001 a/b/new.bin", "a/b/new.bin has 2,001 bytes", "2KB"),
    "one that grows": ("truncate -s 5000 data/tracked.bin", "data/tracked.bin has 5,000 bytes", "2KB"),
    "one that is rewritten in its size": (
        "yes | head -c 3000 > data/tracked.bin",
        "data/tracked.bin has 3,000 bytes",
        "2KB",
    ),
    "one that has another name": ("mv data/tracked.bin other.bin", "other.bin has 3,000 bytes", "2KB"),
    "many": ("for n in 1 2 3; do head -c 1900 /dev/zero > n$n; done", "5,700 bytes", "5KB"),
    "a long name": (
        "mkdir -p $(printf 'd%.0s' $(seq 200))/$(printf 'e%.0s' $(seq 200)); cd d*/e*; truncate -s 2001 x",
        "eee/x has 2,001 bytes",
        "2KB",
    ),
    "an odd name": ("truncate -s 2001 \"$(printf 'a\\nb')\"", '"a\\nb" has 2,001 bytes', "2KB"),
}
FINE = {
    "the most": "truncate -s 2000 new.bin",
    "ignored": "truncate -s 9000 ignored.bin",
    "tracked as it was": "touch data/tracked.bin; cp data/tracked.bin x; mv x data/tracked.bin",
    "tracked, and gone": "rm -r data",
    "a link": "ln -s /dev/zero zero; ln -s data d",
    "a folder": "mkdir empty",
}


@pytest.mark.parametrize("case", mostly_slow(TOO_MUCH))
def test_what_the_policy_calls_too_much_blocks_until_it_calls_it_fine(box: Box, small: Person, case: str) -> None:
    line, told, limit = TOO_MUCH[case]
    protocol = box.new({"01-a": command(line)})
    said = box.runner("run", protocol, rc=WAITS).err
    assert told in said and limit in said
    tip = box.git("rev-parse", f"{protocol}^{{tree}}:data")
    box.write(POLICY, policy([small]) + "limits: {file_size: 6KB, total: 9KB}\n")
    box.commit("more")
    box.runner("retry", protocol, rc=0)
    box.runner("run", protocol, rc=0)
    assert tip and box.state(protocol)["status"] == "completed"
    box.runner("verify", protocol, rc=0)


@pytest.mark.parametrize("case", mostly_slow(FINE))
def test_what_is_not_stored_anew_is_not_too_much(box: Box, small: Person, case: str) -> None:
    protocol = box.new({"01-a": command(FINE[case])})
    box.runner("run", protocol, rc=0)


def test_a_command_that_failed_has_failed_whatever_it_left(box: Box, small: Person) -> None:
    protocol = box.new({"01-a": command("truncate -s 3G big; exit 7", "on_failure: {retry: 1}\n")})
    told = box.runner("run", protocol, rc=FAILS).err
    assert told.count("failed    exit 7") == 2 and box.state(protocol)["steps"]["a"]["attempt"] == 2


def test_a_file_that_a_filter_stores_elsewhere_counts_with_what_is_stored(box: Box, small: Person) -> None:
    box.write(".protocols/config.yaml", "filters: [lfs]\n")
    box.write(".gitattributes", "*.bin filter=lfs\n")
    box.commit("large files are elsewhere")
    box.git("config", "--global", "filter.lfs.clean", "wc -c")
    protocol = box.new({"01-a": command("truncate -s 1M model.bin"), "02-b": command("truncate -s 1M model.txt")})
    assert "model.txt has 1,048,576 bytes" in box.runner("run", protocol, rc=WAITS).err
    assert box.git("show", f"{protocol}:model.bin") == "1048576\n"
    assert "model.bin" not in box.git("log", "-1", "--format=%B", protocol)


@pytest.mark.parametrize("place", [".gitattributes", ".git/info/attributes", "the step", "an index of version 4"])
def test_a_file_of_a_filter_that_nobody_allowed_is_refused(box: Box, place: str) -> None:
    line = "echo 1 > a.bin"
    if place == "the step":
        line += "; echo '*.bin filter=x' > .gitattributes"
    elif place == "an index of version 4":
        box.git("config", "index.version", "4")
        box.write(".gitattributee", "")  # of the name after it the index has one letter then
        box.write(".gitattributes", "*.bin filter=x\n")
    else:
        box.write(place, "*.bin filter=x\n")
    box.write("b.txt", "")
    box.commit("attributes")
    protocol = box.new({"01-a": command("echo 1 > a.txt"), "02-b": command(line)})
    told = box.runner("run", protocol, rc=FAILS).err
    assert "a.bin goes through the filter `x`, which the runner does not run" in told
    assert "a.txt" in box.git("ls-tree", "-r", "--name-only", protocol)


def test_the_time_of_a_step_bounds_how_long_its_files_are_collected(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace_session, "COLLECTING", 1.0)
    box.write(".protocols/config.yaml", "filters: [slow]\n")
    box.write(".gitattributes", "*.bin filter=slow\n")
    box.commit("slow")
    box.git("config", "--global", "filter.slow.clean", "sleep 100; cat")
    protocol = box.new({"01-a": command("echo 1 > x.bin", f"timeout: {math.ceil(slack())}s\n")})
    began = time.monotonic()
    told = box.runner("run", protocol, rc=FAILS).err
    assert "could not be collected in the time that it has" in told and time.monotonic() - began < 60
    rewrite(box, protocol, "01-a", "x.bin", "x.txt")
    box.runner("retry", protocol, rc=0)
    box.runner("run", protocol, rc=0)  # the lock of the git that was killed is in nobody's way


def test_an_agent_that_leaves_too_much_is_blocked_with_what_it_paid(box: Box, small: Person) -> None:
    big = ("write_file", {"path": "big.bin", "content": "x" * 9000})
    with mind(box, say(big), finish()):
        protocol = box.new({"01-x": agent()})
        box.runner("run", protocol, rc=WAITS)
    log = box.log(protocol)
    assert "step-blocked" in log and "big.bin has 9,000 bytes" in log and "transcript" in log
    assert "big.bin" not in box.git("log", "--all", "--name-only", "--format=")


def space(box: Box, protocol: str) -> Workspace:
    with box.session() as session:
        return Workspace(session.project, session.dirs.own / protocol)


def test_work_so_far_leaves_out_what_is_too_big(box: Box) -> None:
    protocol = box.new({"01-a": command("true"), "02-b": command("true")})
    box.runner("step", protocol, rc=0)
    at = space(box, protocol)
    (at.work / "README.md").unlink()
    (at.work / "src/app.py").write_text("x" * 200)
    (at.work / "big").write_bytes(b"x" * 101)
    for number in range(5):
        (at.work / f"f{number}").write_bytes(b"x" * (10 + number))
    with box.session() as session:
        tree = workspace.tree_now(Workspace(session.project, at.root), Bounds(file=100, total=40))
        names = box.git("ls-tree", "-r", "--name-only", tree).split()
        assert [name for name in names if not name.startswith(".protocols")] == ["f0", "f1", "f2", "src/app.py"]
        assert box.git("show", f"{tree}:src/app.py") == "print('hello')\n"


def test_too_many_files_are_refused_too(box: Box) -> None:
    protocol = box.new({"01-a": command("true"), "02-b": command("true")})
    box.runner("step", protocol, rc=0)
    at = space(box, protocol)
    for number in range(5):
        (at.work / f"f{number}").touch()
    with box.session() as session:
        start = session.git.resolve(f"{protocol}~1") or ""
        with pytest.raises(TooMuchError, match="5 new or changed files"):
            workspace.collect(Workspace(session.project, at.root), start, (), Bounds(files=4))
        assert len(workspace.collect(Workspace(session.project, at.root), start, (), Bounds(files=5)).changed) == 5


NAMES = ("README.md", "src/app.py", "src", "new", "new/a", "d/e/f", "x.pyc", "crlf.txt", "\udcff")
FILES = {"1": (b"1\r\n", 0o644), "2": (b"2\n", 0o644), "runs": (b"1\r\n", 0o755), "locked": (b"1\n", 0)}


def act(how: str, at: Path) -> None:
    """Put something else at a path."""
    shutil.rmtree(at) if at.is_dir() and not at.is_symlink() else at.unlink(missing_ok=True)
    if how in FILES:
        at.write_bytes(FILES[how][0])
        at.chmod(FILES[how][1])
    elif how == "link":
        at.symlink_to("../src")
    elif how == "folder":
        at.mkdir()
    elif how == "repository":
        for folder in ("refs", "objects"):
            (at / ".git" / folder).mkdir(parents=True)
        (at / ".git/HEAD").write_bytes(b"ref: refs/heads/main\n")
        (at / "inside").write_bytes(b"1\n")


HOW = st.sampled_from([*FILES, "link", "folder", "repository", "gone"])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Box:
    """One repository for many examples."""
    box = make_box(tmp_path_factory.mktemp("shared") / "repo")
    box.write(".gitattributes", "crlf.txt text\n")
    box.commit("attributes")
    return box


@given(rounds=st.lists(st.dictionaries(st.sampled_from(NAMES), HOW, max_size=3), max_size=3))
def test_work_so_far_is_what_git_adds_when_it_looks_at_every_file(
    shared: Box, tmp_path_factory: pytest.TempPathFactory, rounds: list[dict[str, str]]
) -> None:
    root = tmp_path_factory.mktemp("at") / "root"
    whole = root / "whole"
    with shared.session() as session:
        git, at = session.git, Workspace(session.project, root)
        workspace.reset(at, git.resolve("main") or "", "0001-x")
        old = time.time() - 10
        os.utime(root / "checked-out", (old, old))  # as when the index was written later than all files
        for acts in rounds:
            for name, how in acts.items():
                path = at.work / name
                if any(one.is_symlink() or one.is_file() for one in path.parents):
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                act(how, path)
            shutil.copy2(at.index, whole)
            found = workspace.tree_now(at)
            with contextlib.suppress(GitError):  # it names what it left out
                workspace._run(at, "add", "-A", "--ignore-errors", ".", index=whole)
            assert found == workspace._run(at, "write-tree", index=whole).decode().strip()
