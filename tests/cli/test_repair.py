"""What a power cut, a kill or a full disk breaks in a clone is found by `runner doctor`, and mended by `--fix`: real damage each.

After it git finds nothing wrong, the protocol verifies and goes on, and a second `--fix` has nothing to do.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.executor.journal import Journal
from runner.protocol.transcript import Unknown
from tests.conftest import Box, clone, command
from tests.executor.minds import agent, finish, mind

STEPS = {"01-a": command("echo a > a.txt"), "02-b": command("echo b > b.txt"), "03-c": command("echo c > c.txt")}


@pytest.fixture
def begun(box: Box) -> str:
    """A protocol on this machine alone, whose first two steps of three are done."""
    protocol = box.new(STEPS)
    box.runner("run", "--max-steps", "2", protocol)
    return protocol


@pytest.fixture
def published(remote: Box) -> str:
    """The same, and all of it is on the remote."""
    remote.write(".protocols/config.yaml", "publish: always\n")
    remote.commit("publish")
    remote.git("push", "-q", "origin", "main")
    protocol = remote.new(STEPS)
    remote.runner("run", "--max-steps", "2", protocol)
    return protocol


def tip(box: Box, name: str) -> str:
    return box.git("rev-parse", name).strip()


def found(box: Box, *, rc: int = 2) -> str:
    """What `doctor` finds; looking changes nothing."""
    before = state(box)
    told = box.runner("doctor", rc=rc).out
    assert state(box) == before
    return told[told.index("found:") :] if "found:" in told else told


def state(box: Box) -> dict[str, bytes]:
    """Every file of the git directory, but for who held a lock."""
    return {
        str(path): path.read_bytes()
        for path in (box.path / ".git").rglob("*")
        if path.is_file() and "runner/locks" not in str(path)
    }


def mended(box: Box, protocol: str) -> str:
    """Mend, and see that nothing is left to mend; return what was said."""
    told = box.runner("doctor", "--fix", rc=0).err
    assert box.git("fsck", "--no-dangling") == ""
    box.runner("verify", protocol, rc=0)
    again = box.runner("doctor", "--fix", rc=0)
    assert "found:" not in again.out and again.err == "all is well\n"
    box.runner("run", protocol, rc=0)
    assert box.state(protocol)["status"] == "completed"
    box.runner("verify", protocol, rc=0)
    assert box.git("fsck", "--no-dangling") == ""
    return told


def loose(box: Box, name: str) -> Path:
    """The file of an object."""
    oid = tip(box, name)
    return box.path / ".git/objects" / oid[:2] / oid[2:]


def zero(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(b"")


def cut(path: Path, end: int) -> None:
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:end])


# --- refs ------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("data", [b"", bytes(41), b"0123\n"], ids=["empty", "zeros", "cut"])
def test_a_broken_branch_is_had_again_from_its_reflog(box: Box, begun: str, data: bytes) -> None:
    was = tip(box, begun)
    (box.path / f".git/refs/heads/{begun}").write_bytes(data)
    told = found(box)
    assert f"the branch {begun} is broken" in told and was[:12] in told and "its reflog" in told
    assert "runner doctor --fix" in told
    mended(box, begun)
    assert tip(box, f"{begun}~1") == was


@pytest.mark.slow
def test_without_a_reflog_the_mark_of_what_verified_last_tells(box: Box, begun: str) -> None:
    box.runner("verify", begun, rc=0)
    was = tip(box, begun)
    (box.path / f".git/refs/heads/{begun}").write_bytes(b"")
    (box.path / f".git/logs/refs/heads/{begun}").unlink()
    box.runner("doctor", "--fix", rc=0)
    now = tip(box, begun)
    assert now == was or box.git("rev-list", "--count", f"{now}..{was}").strip() == "1"
    mended(box, begun)


@pytest.mark.slow
def test_without_reflog_and_mark_the_remote_tells(remote: Box, published: str) -> None:
    box, was = remote, tip(remote, published)
    (box.path / f".git/refs/heads/{published}").write_bytes(b"")
    shutil.rmtree(box.path / ".git/logs")
    shutil.rmtree(box.home / ".local")
    box.git("update-ref", "-d", f"refs/remotes/origin/{published}")
    assert "asks origin for it" in found(box)
    assert "from origin" in mended(box, published)
    assert tip(box, f"{published}~1") == was


def test_where_nobody_knows_what_a_branch_named_that_is_said_and_nothing_guessed(box: Box, begun: str) -> None:
    ref = box.path / ".git/refs/heads/mine"
    box.git("branch", "mine")
    ref.write_bytes(b"")
    shutil.rmtree(box.path / ".git/logs")
    told = found(box)
    assert "the branch mine is broken" in told and "git fsck --lost-found" in told and "no remote" in told
    box.runner("doctor", "--fix", rc=2)
    assert ref.read_bytes() == b""


@pytest.mark.slow
def test_a_tag_has_no_reflog_and_comes_back_from_the_remote_alone(remote: Box) -> None:
    remote.git("tag", "v1")
    remote.git("push", "-q", "origin", "v1")
    was = tip(remote, "v1")
    ref = remote.path / ".git/refs/tags/v1"
    ref.write_bytes(b"")
    assert "tags have no reflog, so only the remote has it" in found(remote)
    remote.runner("doctor", "--fix", rc=0)
    assert tip(remote, "v1") == was
    remote.git("push", "-q", "origin", ":v1")
    ref.write_bytes(b"")
    remote.runner("doctor", "--fix", rc=2)
    assert ref.read_bytes() == b""


@pytest.mark.slow
def test_the_number_is_claimed_again_and_the_trusted_branch_known_again(remote: Box, published: str) -> None:
    box = remote
    number, trusted = (box.path / f".git/refs/runner/{name}" for name in ("numbers/0001", "fetched/trusted"))
    was = number.read_bytes(), trusted.read_bytes()
    number.write_bytes(b"")
    trusted.write_bytes(b"")
    told = found(box)
    assert "its number counts as free" in told and "the next fetch restores it" in told
    mended(box, published)
    assert (number.read_bytes(), trusted.read_bytes()) == was


@pytest.mark.slow
@pytest.mark.parametrize("end", [0, 60, 130, -1])
def test_packed_refs_that_are_cut_short_are_gathered_again(remote: Box, published: str, end: int) -> None:
    box = remote
    box.git("pack-refs", "--all")
    packed = box.path / ".git/packed-refs"
    names = ("refs/heads/", "refs/remotes/")
    was = box.git("for-each-ref", *names)
    cut(packed, end)
    assert "packed-refs is broken" in found(box)
    mended(box, published)
    now = box.git("for-each-ref", *names).splitlines()
    assert [line.split()[2] for line in now if "heads" in line] == [
        line.split()[2] for line in was.splitlines() if "heads" in line
    ]
    assert f"{tip(box, 'main')} commit\trefs/heads/main" in was


# --- objects ---------------------------------------------------------------------------------------------------------------

PLACES = ["{}", "{}^{{tree}}", "{}:b.txt", "{}:.protocols/{}/state.json", "{}~1", "main"]


@pytest.mark.slow
@pytest.mark.window(3)
@pytest.mark.parametrize("place", PLACES)
def test_an_object_that_is_zeroed_comes_again_from_the_remote(remote: Box, published: str, place: str) -> None:
    path = loose(remote, place.format(published, published))
    was = path.read_bytes()
    zero(path)
    told = found(remote)
    assert "1 object is broken" in told and "it is empty" in told and str(path) in told
    mended(remote, published)
    assert not path.exists() or path.read_bytes() != was[:0]


@pytest.mark.slow
@pytest.mark.window(3)
@pytest.mark.parametrize("how", ["cut", "turned", "gone"])
@pytest.mark.parametrize("place", PLACES)
def test_an_object_that_is_cut_changed_or_gone_comes_again_too(
    remote: Box, published: str, place: str, how: str
) -> None:
    path = loose(remote, place.format(published, published))
    data = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    elif how == "cut":
        cut(path, len(data) // 2)
    else:
        path.chmod(0o644)
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(bytes(data))
    told = remote.runner("doctor").out
    assert "is broken" in told or "is missing" in told
    mended(remote, published)


def test_a_file_that_was_staged_before_the_power_went_is_written_again_from_the_work_tree(box: Box, begun: str) -> None:
    """git does not wait for the disk: the usual victim is what a person added last."""
    box.write("new/mine.txt", "mine\n")
    box.git("add", "-A")
    box.git("commit", "-qm", "mine")
    for name in ("HEAD:new/mine.txt", "HEAD:new"):
        zero(loose(box, name))
    assert "2 objects are broken" in found(box)
    assert "2 restored" in mended(box, begun)
    assert box.git("show", "HEAD:new/mine.txt") == "mine\n"


@pytest.mark.slow
def test_what_nothing_needs_is_taken_away(box: Box, begun: str) -> None:
    oid = box.git("hash-object", "-w", "--stdin", data="nobody's\n").strip()
    zero(box.path / ".git/objects" / oid[:2] / oid[2:])
    assert "1 that nothing needs removed" in mended(box, begun)


@pytest.mark.slow
def test_what_nobody_has_is_named_with_what_remains(box: Box, begun: str) -> None:
    folder = box.worktree(begun)
    (folder / "b.txt").unlink()
    oid = tip(box, f"{begun}:b.txt")
    shutil.rmtree(box.home / ".local")  # the workspace had it too
    zero(loose(box, f"{begun}:b.txt"))
    box.runner("doctor", "--fix", rc=2)
    told = found(box)
    assert f"a blob is missing: {oid}" in told and f"{begun}:b.txt" in told and "no remote" in told
    assert f"git cat-file blob {oid}" in told.replace("-C CLONE ", "")
    back = box.git("hash-object", "-w", "--stdin", data="b\n").strip()  # as the command would give it
    assert back == oid
    (folder / "b.txt").write_text("b\n")
    mended(box, begun)


@pytest.mark.slow
def test_a_commit_that_is_lost_is_left_to_a_person_with_the_one_before_it(box: Box, begun: str) -> None:
    box.git("commit", "-q", "--allow-empty", "-m", "one")
    box.git("commit", "-q", "--allow-empty", "-m", "two")
    was, before = tip(box, "main"), tip(box, "main~1")
    zero(loose(box, "main"))
    box.runner("doctor", "--fix", rc=2)
    told = found(box)
    line = f"git update-ref refs/heads/main {before} {was}"
    assert line in told and was in told
    box.git(*line.split()[1:])
    box.git("reflog", "expire", "--expire=now", "--all")
    mended(box, begun)


@pytest.mark.slow
def test_objects_on_a_disk_of_their_own_are_mended_too(remote: Box, published: str) -> None:
    objects = remote.path / ".git/objects"
    others = (Path(one) for one in ("/dev/shm", "/tmp", "/var/tmp") if os.access(one, os.W_OK))
    disk = next((one for one in others if one.stat().st_dev != objects.stat().st_dev), None)
    if disk is None:
        pytest.skip("allowed: there is one disk alone")
    with tempfile.TemporaryDirectory(dir=disk) as folder:
        there = Path(shutil.move(objects, folder))
        objects.symlink_to(there)
        broken = [loose(remote, f"{published}{what}") for what in ("^{tree}", f":.protocols/{published}/log.md")]
        shutil.rmtree(remote.worktree(published))
        for path in broken:
            zero(path)
        assert "2 objects are broken: 2 restored" in mended(remote, published)
        objects.unlink()
        shutil.move(there, objects)


# --- leftovers -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("what", ["an extension", "a version"])
def test_an_index_that_a_newer_git_wrote_is_left_alone(box: Box, begun: str, what: str) -> None:
    index = box.path / ".git/index"
    box.write("staged.txt", "s")
    box.git("add", "staged.txt")
    data = index.read_bytes()[:-20]
    data = data + b"zzzz" + bytes(4) if what == "an extension" else data[:4] + (9).to_bytes(4, "big") + data[8:]
    data += hashlib.sha1(data).digest()
    index.write_bytes(data)
    assert "index of a work tree is broken" not in box.runner("doctor", "--fix").out
    assert index.read_bytes() == data


def test_locks_of_the_dead_are_taken_away_wherever_they_are(box: Box, begun: str) -> None:
    names = [
        "index.lock",
        "HEAD.lock",
        "packed-refs.lock",
        f"refs/heads/{begun}.lock",
        f"worktrees/{begun}/index.lock",
        "config.lock",
        "runner/index.lock",
        "objects/info/commit-graph.lock",
        "info/sparse-checkout.lock",
        f"worktrees/{begun}/HEAD.lock",
        f"logs/refs/heads/{begun}.lock",
    ]
    (box.path / ".git/objects/info").mkdir(exist_ok=True)
    for name in names:
        (box.path / ".git" / name).touch()
        os.utime(box.path / ".git" / name, (1, 1))
    told = found(box)
    assert all(f".git/{name}" in told for name in names)
    told = mended(box, begun)
    assert all(f".git/{name}" in told and not (box.path / ".git" / name).exists() for name in names)


@pytest.mark.slow
def test_the_lock_that_a_killed_git_left_is_taken_away_and_that_of_a_living_one_left(box: Box, begun: str) -> None:
    hook = box.path / ".git/hooks/pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho ready >&2\nexec sleep 600\n")
    hook.chmod(0o755)
    box.write("README.md", "changed\n")
    with subprocess.Popen(
        ["git", "commit", "-qam", "never"],
        cwd=box.path,
        env=box.environment(),
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as git:
        assert git.stderr is not None and git.stderr.readline() == b"ready\n"
        lock = next((box.path / ".git").glob("*.lock"))
        told = box.runner("doctor", "--fix", rc=0).out
        assert lock.exists() and "a git process is running here" in told and str(lock) in told
        os.killpg(git.pid, 9)
    hook.unlink()
    assert "a git process that died left its lock" in found(box)
    mended(box, begun)
    assert not lock.exists()


@pytest.mark.slow
def test_a_worktree_that_git_names_by_a_relative_path_is_there(box: Box, begun: str) -> None:
    private = box.path / f".git/worktrees/{begun}"
    at = (private / "gitdir").read_text().strip()
    (private / "gitdir").write_text(f"{os.path.relpath(at, private)}\n")
    assert "folder is gone" not in box.runner("doctor", "--fix", rc=0).out
    assert (private / "HEAD").exists()


@pytest.mark.slow
def test_a_workspace_that_is_gone_is_made_again_by_the_next_step(box: Box, begun: str) -> None:
    spaces = list((box.home / ".local/state/protocol-runner").rglob("work"))
    assert spaces
    shutil.rmtree(spaces[0].parent)
    assert "found:" not in box.runner("doctor", rc=0).out
    box.runner("run", begun, rc=0)
    assert spaces[0].is_dir()


# --- clones that lack something --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_shallow_clone_is_deepened(remote: Box, published: str, tmp_path: Path) -> None:
    url = f"file://{tmp_path / 'origin.git'}"
    box = Box(tmp_path / "shallow", remote.home, remote.env)
    remote.git("clone", "-q", "--depth", "1", "--no-single-branch", url, box.path)
    told = found(box)
    assert "history is cut off" in told and "fetch-depth: 0" in told
    box.runner("doctor", "--fix", rc=2)
    box.git("fetch", "-q", *re.findall("`git fetch ([^`]+)`", told))
    mended(box, published)
    assert not (box.path / ".git/shallow").exists()
    assert box.count(published) == remote.count(published) + 1


@pytest.mark.slow
def test_a_clone_of_one_branch_is_told_how_to_follow_all(remote: Box, published: str, tmp_path: Path) -> None:
    box = Box(tmp_path / "single", remote.home, remote.env)
    remote.git("clone", "-q", "--single-branch", tmp_path / "origin.git", box.path)
    told = box.runner("doctor", rc=0).out
    line = "git remote set-branches origin '*' && git fetch origin"
    assert line in told
    subprocess.run(line, shell=True, cwd=box.path, env=box.environment(), check=True, capture_output=True)
    assert "follows only" not in box.runner("doctor", rc=0).out
    mended(box, published)


@pytest.mark.slow
def test_a_partial_clone_is_told_what_brings_the_rest(remote: Box, published: str, tmp_path: Path) -> None:
    remote.git("config", "uploadpack.allowFilter", "true", cwd=tmp_path / "origin.git")
    box = Box(tmp_path / "partial", remote.home, remote.env)
    remote.git("clone", "-q", "--filter=blob:none", f"file://{tmp_path / 'origin.git'}", box.path)
    line = "git fetch --refetch --no-filter"
    box.git("config", "gc.auto", "0")
    told = box.runner("doctor", rc=0).out
    assert "this is a partial clone" in told and line in told and "found:" not in told
    box.runner("run", published, rc=0)  # it fetches what it needs
    box.git(*line.split()[1:])
    box.runner("verify", published, rc=0)


@pytest.fixture
def asked(remote: Box) -> str:
    """A protocol whose first step a model did, so that the log names a transcript; published."""
    remote.write(".protocols/config.yaml", "publish: always\n")
    remote.commit("publish")
    remote.git("push", "-q", "origin", "main")
    with mind(remote, finish()):
        protocol = remote.new({"01-a": agent(), "02-b": command("echo b > b.txt")})
        remote.runner("step", protocol, rc=0)
    return protocol


@pytest.mark.slow
def test_transcripts_that_were_not_fetched_are_brought(remote: Box, asked: str) -> None:
    other = clone(remote, "bob")
    other.git("fetch", "-q", "origin")
    told = found(other)
    assert "of its transcripts is not in this clone" in told and f"refs/runner/history/{asked}" in told
    assert "fetched refs/runner/history" in mended(other, asked)


@pytest.mark.slow
def test_a_history_that_went_back_is_brought_forward_and_where_nobody_has_it_what_is_lost_is_said(
    remote: Box, asked: str
) -> None:
    ref = f"refs/runner/history/{asked}"
    was = tip(remote, ref)
    remote.git("update-ref", ref, f"{was}^")
    assert "found:" in found(remote)
    remote.runner("doctor", "--fix", rc=0)
    assert tip(remote, ref) == was
    remote.git("update-ref", "-d", ref)
    remote.git("remote", "remove", "origin")
    shutil.rmtree(remote.home / ".local")
    told = remote.runner("doctor", rc=2).out
    assert "runs/a.1.jsonl of its transcripts is not in this clone" in told and "else it is lost" in told


# --- protocols by half -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_branch_that_is_gone_comes_back_where_it_is_named(box: Box, begun: str) -> None:
    box.runner("verify", begun, rc=0)
    box.git("worktree", "remove", "--force", box.worktree(begun))
    was = tip(box, begun)
    box.git("branch", "-qD", begun)
    told = box.runner("doctor", rc=0).out
    assert f"the branch of {begun} is gone" in told and f"runner doctor --fix {begun}" in told
    box.runner("doctor", "--fix", rc=0)
    assert box.git("branch", "--list", begun) == ""  # somebody may have meant it
    assert "restored its branch" in box.runner("doctor", "--fix", begun, rc=0).err
    assert box.git("merge-base", was, begun).strip() in (was, tip(box, begun))
    mended(box, begun)


def test_a_branch_that_is_gone_with_completed_work_that_nobody_merged_is_not_well(box: Box) -> None:
    protocol = box.new({"01-a": command("echo a > a.txt")})
    box.runner("run", protocol, rc=0)
    was = tip(box, protocol)
    box.git("worktree", "remove", "--force", box.worktree(protocol))
    box.git("branch", "-qD", protocol)
    assert f"the branch of {protocol} is gone, and it was not merged: completed" in box.runner("doctor", rc=0).out
    box.runner("doctor", "--fix", protocol, rc=0)
    assert tip(box, protocol) == was
    box.runner("merge", protocol, rc=0)
    box.runner("clean", "--yes", rc=0)
    box.git("branch", "-qD", protocol, check=False)
    assert "is gone" not in box.runner("doctor", rc=0).out


@pytest.mark.slow
def test_a_number_that_nobody_claims_is_claimed_again(box: Box, begun: str) -> None:
    was = tip(box, "refs/runner/numbers/0001")
    box.git("update-ref", "-d", "refs/runner/numbers/0001")
    assert "is not claimed" in box.runner("doctor", rc=0).out
    mended(box, begun)
    assert tip(box, "refs/runner/numbers/0001") == was


def test_a_rewritten_history_is_adopted_only_where_the_protocol_is_named(box: Box, begun: str) -> None:
    box.git("reset", "-q", "--hard", "HEAD~1", cwd=box.worktree(begun))
    now = tip(box, begun)
    assert "rewritten" in box.runner("doctor", "--fix", rc=4).out
    assert tip(box, begun) == now and "lost" not in box.git("for-each-ref")
    box.runner("doctor", "--fix", begun, rc=0)
    mended(box, begun)


# --- the record ------------------------------------------------------------------------------------------------------------

MARKERS = "<<<<<<< ours\n{}\n=======\n{}\n>>>>>>> theirs\n"
HURT: dict[str, Callable[[str], str]] = {
    "truncated": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "markers": lambda text: MARKERS.format(text, text),
    "twice": lambda text: text.replace('"revision"', '"revision": 1, "revision"'),
    "by hand": lambda text: text.replace('"running"', '"completed"'),
    "merged as text": lambda text: text.replace('"pending"', '"completed"').replace('"revision": ', '"revision": 1'),
}


@pytest.mark.slow
@pytest.mark.window(2)
@pytest.mark.parametrize("how", [*HURT, "deleted"])
def test_a_record_that_people_hurt_is_what_its_events_make_it_again(box: Box, begun: str, how: str) -> None:
    folder = box.worktree(begun)
    file = folder / f".protocols/{begun}/state.json"
    was = box.state(begun)
    if how == "deleted":
        file.unlink()
    else:
        file.write_text(HURT[how](file.read_text()))
    hurt = box.commit("oops", cwd=folder)
    told = box.runner("verify", begun, rc=4)
    assert hurt[:7] in told.out + told.err and "state.json" in told.out + told.err
    box.runner("doctor", "--fix", rc=0)
    assert box.state(begun)["steps"] == was["steps"]
    mended(box, begun)


@pytest.mark.slow
def test_a_log_that_was_edited_changes_no_state(box: Box, begun: str) -> None:
    folder = box.worktree(begun)
    file = folder / f".protocols/{begun}/log.md"
    file.write_text(file.read_text().replace("step-completed", "step-failed"))
    box.commit("another story", cwd=folder)
    was = box.state(begun)
    box.runner("doctor", "--fix", rc=0)
    assert box.state(begun)["steps"] == was["steps"]
    mended(box, begun)


# --- journals --------------------------------------------------------------------------------------------------------------


def test_a_damaged_journal_is_told_with_record_and_byte_and_left_alone(box: Box, begun: str) -> None:
    path = box.path / f".git/runner/journal/{begun}/c.1.jsonl"
    for number in range(3):
        Journal(path).append(Unknown({"kind": "note", "n": number}))
    lines = path.read_bytes().splitlines(keepends=True)
    hurt = lines[0] + lines[1].replace(b'"n":1', b'"n":7') + lines[2]
    path.write_bytes(hurt)
    told = found(box)
    assert f"record 2 of the journal is damaged, at byte {len(lines[0])}" in told and str(path) in told
    assert "may be among them" in told and f"mv {path} {path}.damaged" in told
    box.runner("doctor", "--fix", rc=2)
    assert path.read_bytes() == hurt
    path.rename(f"{path}.damaged")
    mended(box, begun)


def test_temporary_files_that_a_killed_runner_left_are_removed_and_new_ones_stay(box: Box, begun: str) -> None:
    folder = box.path / ".git/runner/follows"
    folder.mkdir(parents=True, exist_ok=True)
    old, new = folder / ".x.json.abcd1234", folder / ".y.json.abcd1234"
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (1, 1))
    assert "1 temporary file of processes that died" in found(box)
    assert "removed 1 temporary file" in box.runner("doctor", "--fix", rc=0).err
    assert not old.exists() and new.exists()
