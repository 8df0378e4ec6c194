"""What is wrong is found, named with what helps, and mended without losing anything; real repositories, real damage."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from runner.executor.journal import Journal
from runner.git import Git
from runner.store import locks
from runner.store.environment import StateDir
from runner.trust import verify
from runner.trust.walk import Finding, Walk
from tests.conftest import Box, command, make_box, mostly_slow

STEPS = {"01-a": command("echo a > a.txt"), "02-b": command("echo b > b.txt"), "03-c": command("echo c > c.txt")}


@pytest.fixture
def begun(box: Box) -> str:
    """A protocol whose first two steps of three are done."""
    protocol = box.new(STEPS)
    box.runner("step", protocol, rc=0)
    box.runner("step", protocol, rc=0)
    return protocol


def tip(box: Box, name: str) -> str:
    return box.git("rev-parse", name).strip()


def goes_on(box: Box, protocol: str) -> None:
    """The protocol verifies, runs to its end, and nothing of it is broken."""
    box.runner("verify", protocol, rc=0)
    box.runner("run", protocol, rc=0)
    assert box.state(protocol)["status"] == "completed"
    box.runner("verify", protocol, rc=0)
    assert box.git("fsck", "--no-dangling", "--no-reflogs") == ""
    assert box.runner("doctor", protocol, rc=0).out.count("found:") == 0


def findings(box: Box, *args: str) -> list[dict[str, str]]:
    told: list[dict[str, str]] = box.runner("doctor", "--json", *args).json()["findings"]
    return told


# --- all is well ---------------------------------------------------------------------------------------------------------


def test_a_sound_repository_has_notes_and_no_findings(box: Box, begun: str) -> None:
    before = box.git("for-each-ref"), box.git("status", "--porcelain")
    told = box.runner("doctor", rc=0)
    assert "not protected" in told.out and "without a sandbox" in told.out and "runner init" in told.out
    assert "found:" not in told.out and "all is well" in told.err
    box.runner("doctor", "--fix", rc=0)
    assert (box.git("for-each-ref"), box.git("status", "--porcelain")) == before
    assert {one["kind"] for one in findings(box)} == {"note"}


@pytest.mark.parametrize(("off", "noted"), [("1", True), ("", False)])
def test_commands_that_compile_the_runner_anew_each_time_are_noted(
    box: Box, tmp_path: Path, off: str, noted: bool
) -> None:
    env = {**box.environment(), "PYTHONPYCACHEPREFIX": str(tmp_path / "cache"), "PYTHONDONTWRITEBYTECODE": off}
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-m", "runner", "doctor"],
        cwd=box.path, env={**env, "PYTHONPATH": root}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert ("unset PYTHONDONTWRITEBYTECODE" in done.stdout) == noted


def test_a_setup_that_is_not_published_is_not_called_missing(remote: Box) -> None:
    def note() -> str:
        found = findings(remote)
        return next(f"{one['what']}: {one['command']}" for one in found if one["consequence"] == "the defaults apply")

    assert note() == "nothing is set up: `runner init` writes the files"
    remote.runner("init", "--yes", rc=0)
    assert note() == "the files that `runner init` wrote are in no commit: `runner init --commit` commits them"
    remote.git("checkout", "-q", "-b", "setup")
    remote.runner("init", "--yes", "--commit", rc=0)
    assert note().startswith("the setup is committed here, and not on main: merge it into main, then")
    remote.git("checkout", "-q", "main")
    remote.git("merge", "-q", "setup")
    assert note() == "the setup is committed here, and not on origin yet: `git push origin main`"
    remote.git("push", "-q", "origin", "main")
    assert not any(one["consequence"] == "the defaults apply" for one in findings(remote))


def test_a_chain_is_walked_once(box: Box, begun: str, monkeypatch: pytest.MonkeyPatch) -> None:
    walked, real = list[str](), verify.walk_commits

    def walk_commits(walk: Walk, commits: Sequence[str]) -> list[Finding]:
        walked.append(walk.protocol)
        return real(walk, commits)

    monkeypatch.setattr(verify, "walk_commits", walk_commits)
    box.runner("doctor", rc=0)
    assert walked == [begun]


def test_each_finding_says_what_where_what_follows_and_what_helps(box: Box) -> None:
    told = box.runner("doctor", rc=0).out.splitlines()
    assert [line.split(":")[0].strip() for line in told[:4]] == ["note", "at", "so", "next"]


# --- a damaged record ------------------------------------------------------------------------------------------------------


def forge(box: Box, protocol: str) -> str:
    folder = box.worktree(protocol)
    state = folder / f".protocols/{protocol}/state.json"
    state.write_text(state.read_text().replace('"pending"', '"completed"'))
    box.git("commit", "-qam", "cheat", cwd=folder)
    return tip(box, protocol)


def test_a_forged_state_is_mended_by_a_commit_that_names_the_forgery(box: Box, begun: str) -> None:
    good = box.state(begun)
    forged = forge(box, begun)
    box.runner("step", begun, rc=4)
    told = box.runner("doctor", begun, rc=4)
    assert f"runner doctor --fix {begun}" in told.out and forged[:12] in told.out and "state.json" in told.out
    assert tip(box, begun) == forged  # looking changes nothing

    mended = box.runner("doctor", "--fix", begun, rc=0)
    assert "the record is repaired" in mended.err and forged[:12] in mended.err
    assert box.git("rev-parse", f"{begun}^").strip() == forged
    assert f'"commits":{json.dumps([forged])}' in box.log(begun)
    now = box.state(begun)
    assert now["revision"] == good["revision"] + 1 and now["steps"] == good["steps"]
    assert box.git("status", "--porcelain", cwd=box.worktree(begun)) == ""
    assert "repaired" in box.runner("verify", begun, "--json", rc=0).out + box.log(begun)
    goes_on(box, begun)


def test_two_forgeries_are_mended_together_and_both_are_named(box: Box, begun: str) -> None:
    first = forge(box, begun)
    folder = box.worktree(begun)
    (folder / f".protocols/{begun}/log.md").write_text("# nothing happened\n")
    box.git("commit", "-qam", "wipe the log", cwd=folder)
    second = tip(box, begun)
    box.runner("doctor", "--fix", begun, rc=0)
    assert json.dumps([first, second], separators=(",", ":")) in box.log(begun)
    goes_on(box, begun)


def test_a_file_added_to_the_record_by_hand_is_taken_out(box: Box, begun: str) -> None:
    folder = box.worktree(begun)
    report = folder / f".protocols/{begun}/reports/a.1.md"
    report.parent.mkdir()
    report.write_text("all good\n")
    box.commit("a report of mine", cwd=folder)
    box.runner("doctor", begun, rc=4)
    box.runner("doctor", "--fix", begun, rc=0)
    assert not report.exists()
    goes_on(box, begun)


def test_a_record_that_was_made_executable_is_mended(box: Box, begun: str) -> None:
    folder = box.worktree(begun)
    (folder / f".protocols/{begun}/state.json").chmod(0o755)
    box.git("commit", "-qam", "chmod", cwd=folder)
    box.runner("step", begun, rc=4)
    box.runner("doctor", "--fix", begun, rc=0)
    assert box.git("ls-tree", begun, f".protocols/{begun}/state.json").startswith("100644")
    goes_on(box, begun)


def test_a_forgery_in_a_sha256_repository_is_mended(tmp_path: Path) -> None:
    box = make_box(tmp_path / "repo", "--object-format=sha256")
    protocol = box.new(STEPS)
    box.runner("step", protocol, rc=0)
    assert len(forge(box, protocol)) == 64
    box.runner("doctor", "--fix", protocol, rc=0)
    goes_on(box, protocol)


def test_mending_works_without_a_worktree(box: Box, begun: str) -> None:
    forged = forge(box, begun)
    box.git("worktree", "remove", box.worktree(begun))
    bare = box.path.parent / "bare.git"
    box.git("clone", "-q", "--bare", box.path, bare)
    box.runner("doctor", begun, cwd=bare, rc=4)
    box.runner("doctor", "--fix", begun, cwd=bare, rc=0)
    assert box.git("rev-parse", f"{begun}^", cwd=bare).strip() == forged
    box.runner("verify", begun, cwd=bare, rc=0)


def test_a_forgery_of_a_finished_protocol_is_mended_too(box: Box) -> None:
    protocol = box.new({"01-a": command("true")})
    box.runner("run", protocol, rc=0)
    folder = box.worktree(protocol)
    state = folder / f".protocols/{protocol}/state.json"
    state.write_text(state.read_text().replace('"base": "main"', '"base": "prod"'))
    box.git("commit", "-qam", "cheat", cwd=folder)
    box.runner("doctor", "--fix", protocol, rc=0)
    assert box.state(protocol)["base"] == "main"
    box.runner("verify", protocol, rc=0)


def test_a_commit_after_a_missed_follow_puts_the_record_back_and_is_mended(box: Box) -> None:
    protocol = box.new(STEPS)
    folder = box.worktree(protocol)
    box.runner("step", protocol, rc=0)
    after = tip(box, protocol)
    # The worktree as it was before the step, its branch as it is after it: what a follow that never came leaves.
    box.git("read-tree", "-m", "-u", after, f"{after}^", cwd=folder)
    box.git("commit", "-qam", "my own small change", "--allow-empty", cwd=folder)
    assert "a.txt" not in box.git("ls-tree", "-r", "--name-only", protocol)
    box.runner("step", protocol, rc=4)
    box.runner("doctor", "--fix", protocol, rc=0)
    assert box.state(protocol)["steps"]["a"]["status"] == "completed"
    goes_on(box, protocol)


def test_a_revert_of_a_transition_keeps_its_code_change_and_the_record_is_mended(box: Box, begun: str) -> None:
    folder = box.worktree(begun)
    box.git("revert", "--no-edit", "HEAD", cwd=folder)
    assert not (folder / "b.txt").exists()
    box.runner("step", begun, rc=4)
    told = box.runner("doctor", "--fix", begun, rc=0).err
    assert "the code is unchanged" in told
    assert box.state(begun)["steps"]["b"]["status"] == "completed" and not (folder / "b.txt").exists()
    goes_on(box, begun)


def test_a_folder_that_a_person_deleted_is_put_back(box: Box, begun: str) -> None:
    folder = box.worktree(begun)
    box.git("rm", "-rq", f".protocols/{begun}", cwd=folder)
    (folder / "mine.txt").write_text("mine\n")
    taken = box.commit("tidy up", cwd=folder)
    (folder / "later.txt").write_text("later\n")
    later = box.commit("later", cwd=folder)
    told = box.runner("doctor", begun, rc=4).out
    assert f"removed by commit {taken[:12]}" in told and f"doctor --fix {begun}" in told
    box.runner("doctor", "--fix", begun, rc=0)
    back = tip(box, f"{begun}^")
    assert json.dumps([taken, later, back], separators=(",", ":")) in box.log(begun)
    assert box.git("log", "-1", "--format=%an %s", back) == f"Alice {begun}: put plan and steps back\n"
    assert box.git("log", "-1", "--format=%an", begun) == "protocol-runner\n"
    assert (folder / "mine.txt").read_text() == "mine\n" and (folder / "later.txt").exists()
    assert (folder / f".protocols/{begun}/03-c.md").is_file()
    assert box.git("status", "--porcelain", cwd=folder) == ""
    goes_on(box, begun)


def test_a_deletion_that_a_person_took_back_needs_no_mending(box: Box, begun: str) -> None:
    folder = box.worktree(begun)
    box.git("rm", "-rq", ".protocols", cwd=folder)
    box.commit("tidy up", cwd=folder)
    box.runner("step", begun, rc=4)
    box.git("revert", "--no-edit", "HEAD", cwd=folder)
    goes_on(box, begun)


def test_a_mended_record_never_overwrites_a_persons_file(box: Box, begun: str) -> None:
    forge(box, begun)
    folder = box.worktree(begun)
    state = folder / f".protocols/{begun}/state.json"
    state.write_text("{}\n")
    before = tip(box, begun)
    told = box.runner("doctor", "--fix", begun, rc=4)
    assert "overwrite" in told.err and str(folder) in told.err
    assert state.read_text() == "{}\n" and tip(box, begun) == before


def test_a_record_changed_by_hand_and_not_committed_is_named(box: Box, begun: str) -> None:
    folder = box.worktree(begun)
    state = folder / f".protocols/{begun}/state.json"
    state.write_text("{}\n")
    told = box.runner("doctor", begun, rc=2).out
    assert "state.json" in told and f"git -C {folder} restore" in told
    assert state.read_text() == "{}\n"


def imitate(box: Box, protocol: str) -> str:
    """A commit of a person's that pretends to be the runner's: verify can never hold with it in the chain."""
    folder = box.worktree(protocol)
    box.git("commit", "-q", "--allow-empty", "-m", "done\n\nRunner-Event: step-completed c", cwd=folder)
    return tip(box, protocol)


def test_what_cannot_be_mended_is_refused_with_the_way_back(box: Box, begun: str) -> None:
    good = tip(box, begun)
    folder = box.worktree(begun)
    bad = imitate(box, begun)
    told = box.runner("doctor", begun, rc=4).out
    assert f"git -C {folder} reset --keep {good}" in told
    box.runner("doctor", "--fix", begun, rc=4)
    assert tip(box, begun) == bad
    box.git("reset", "-q", "--keep", good, cwd=folder)
    box.runner("doctor", "--fix", begun, rc=0)
    goes_on(box, begun)


def test_an_odd_file_of_a_persons_is_theirs_to_take_away(box: Box, begun: str) -> None:
    folder = box.worktree(begun)
    (folder / f".protocols/{begun}/link.md").symlink_to("plan.md")
    box.commit("a link", cwd=folder)
    told = box.runner("doctor", begun, rc=4).out
    command = f"git -C {folder} rm -- .protocols/{begun}/link.md"
    assert command in told
    box.runner("doctor", "--fix", begun, rc=4)
    subprocess.run(command.split(), check=True, env=box.environment(), capture_output=True)
    box.git("commit", "-qm", "no link", cwd=folder)
    goes_on(box, begun)


@pytest.mark.slow
def test_one_that_cannot_be_mended_does_not_keep_another_from_it(box: Box, begun: str) -> None:
    other = box.new(STEPS, title="Other")
    box.runner("step", other, rc=0)
    imitate(box, begun)
    forge(box, other)
    told = box.runner("doctor", "--fix", rc=4)
    assert f"{begun}: " in told.err
    goes_on(box, other)


# --- a rewritten history ---------------------------------------------------------------------------------------------------


def test_a_roll_back_is_adopted_and_the_old_history_is_kept(box: Box, begun: str) -> None:
    folder = box.worktree(begun)
    old = tip(box, begun)
    box.git("reset", "-q", "--hard", "HEAD~1", cwd=folder)
    assert f"doctor --fix {begun}" in box.runner("step", begun, rc=4).err
    assert "rewritten" in box.runner("doctor", begun, rc=4).out
    told = box.runner("doctor", "--fix", begun, rc=0).err
    lost = f"refs/runner/lost/{begun}/{old[:12]}"
    assert tip(box, lost) == old and lost in told
    revision = box.state(begun)["revision"]
    assert f"revisions {revision + 1} to {box.state(begun, old)['revision']} are no longer in it" in told
    goes_on(box, begun)


def test_an_amended_code_commit_of_a_persons_is_adopted(box: Box, begun: str) -> None:
    folder = box.worktree(begun)
    (folder / "mine.txt").write_text("one\n")
    box.commit("mine", cwd=folder)
    box.runner("step", begun, rc=0)
    old = tip(box, begun)
    box.git("reset", "-q", "--hard", "HEAD~1", cwd=folder)
    (folder / "mine.txt").write_text("two\n")
    box.git("commit", "-qa", "--amend", "--no-edit", cwd=folder)
    box.runner("step", begun, rc=4)
    box.runner("doctor", "--fix", begun, rc=0)
    assert tip(box, f"refs/runner/lost/{begun}/{old[:12]}") == old
    goes_on(box, begun)
    assert box.git("show", f"{begun}:mine.txt") == "two\n"


def test_an_amended_transition_becomes_a_persons_commit_and_its_step_is_open_again(box: Box, begun: str) -> None:
    folder = box.worktree(begun)
    old = tip(box, begun)
    box.git("commit", "-q", "--amend", "-m", "my words", cwd=folder)
    box.runner("step", begun, rc=4)
    told = box.runner("doctor", "--fix", begun, rc=0).err
    assert "adopted" in told and "the record is repaired" in told
    assert box.state(begun)["steps"]["b"]["status"] == "pending"
    assert box.git("show", f"{begun}:b.txt") == "b\n"  # its work is the person's now
    assert tip(box, f"refs/runner/lost/{begun}/{old[:12]}") == old
    goes_on(box, begun)


def test_a_rebase_of_the_whole_chain_is_adopted_where_it_verifies(box: Box, begun: str) -> None:
    old = tip(box, begun)
    box.write("base.txt", "moved\n")
    box.commit("the base moves")
    folder = box.worktree(begun)
    box.git("rebase", "-q", "main", cwd=folder)
    assert tip(box, begun) != old
    box.runner("step", begun, rc=4)
    told = box.runner("doctor", "--fix", begun, rc=0).err
    assert "no revision was lost" in told
    assert tip(box, f"refs/runner/lost/{begun}/{old[:12]}") == old
    goes_on(box, begun)
    assert box.git("show", f"{begun}:base.txt") == "moved\n"


def test_a_rebase_that_moves_checked_work_onto_another_tree_is_adopted_as_a_merge(box: Box) -> None:
    """QA's evidence names the tree that it saw; on another base no such tree is in the history, but in the old one it is."""
    protocol = box.new({"01-a": command("echo a > a.txt", 'qa: {checks: ["test -s a.txt"]}'), "02-b": command("true")})
    box.runner("step", protocol, rc=0)
    box.runner("step", protocol, rc=0)
    old = tip(box, protocol)
    box.write("base.txt", "moved\n")
    base = box.commit("the base moves")
    folder = box.worktree(protocol)
    box.git("rebase", "-q", "main", cwd=folder)
    rebased = tip(box, protocol)
    assert f"doctor --fix {protocol}` adopts it as a merge" in box.runner("doctor", protocol, rc=4).out
    told = box.runner("doctor", "--fix", protocol, rc=0).err
    assert "adopted as a merge" in told
    assert box.git("rev-parse", f"{protocol}^1", f"{protocol}^2").split() == [old, base]
    assert tip(box, f"refs/runner/lost/{protocol}/{rebased[:12]}") == rebased
    goes_on(box, protocol)
    assert box.git("show", f"{protocol}:base.txt") == "moved\n"


def test_a_transition_dropped_from_the_middle_is_refused_and_update_ref_leads_back(box: Box, begun: str) -> None:
    old = tip(box, begun)
    folder = box.worktree(begun)
    box.git("worktree", "remove", folder)
    box.git("branch", "-q", "tmp", f"{begun}~2")
    # The second step's commit on the genesis, as `rebase --onto` with the first one's dropped would leave it.
    made = box.git(
        "commit-tree", "-p", "tmp", "-F", "-", f"{begun}^{{tree}}", data=box.git("log", "-1", "--format=%B", begun)
    )
    box.git("update-ref", f"refs/heads/{begun}", made.strip())
    told = box.runner("doctor", "--fix", begun, rc=4).err
    back = f"git update-ref refs/heads/{begun} {old} {made.strip()}"
    assert back in told and tip(box, begun) == made.strip()
    box.git(*back.split()[1:])
    goes_on(box, begun)


def test_squashed_transitions_are_mended_as_an_ordinary_commit(box: Box, begun: str) -> None:
    folder = box.worktree(begun)
    box.git("reset", "-q", "--soft", "HEAD~2", cwd=folder)
    box.git("commit", "-qm", "both in one", cwd=folder)
    box.runner("doctor", "--fix", begun, rc=0)
    state = box.state(begun)
    assert {slug: step["status"] for slug, step in state["steps"].items()} == dict.fromkeys("abc", "pending")
    goes_on(box, begun)


def test_a_roll_back_behind_the_genesis_is_refused(box: Box, begun: str) -> None:
    old, folder = tip(box, begun), box.worktree(begun)
    box.git("reset", "-q", "--hard", "main", cwd=folder)
    back = f"git -C {folder} reset --keep {old}"
    assert back in box.runner("doctor", begun, rc=4).out
    assert back in box.runner("doctor", "--fix", begun, rc=4).err
    subprocess.run(back.split(), check=True, env=box.environment(), capture_output=True)
    goes_on(box, begun)


def test_an_old_history_that_was_pruned_cannot_be_kept_and_that_is_said(box: Box, begun: str) -> None:
    folder = box.worktree(begun)
    box.git("reset", "-q", "--hard", "HEAD~1", cwd=folder)
    for reflog in (box.path / ".git").rglob("logs"):
        shutil.rmtree(reflog)
    (Path(box.git("rev-parse", "--absolute-git-dir", cwd=folder).strip()) / "ORIG_HEAD").unlink()
    box.git("gc", "-q", "--prune=now")
    box.runner("step", begun, rc=4)
    assert "not in this clone any more" in box.runner("doctor", "--fix", begun, rc=0).err
    goes_on(box, begun)


def test_forget_takes_the_history_as_it_stands(box: Box, begun: str) -> None:
    folder = box.worktree(begun)
    box.git("reset", "-q", "--hard", "HEAD~1", cwd=folder)
    box.runner("step", begun, rc=4)
    assert "checkpoint is removed" in box.runner("doctor", "--forget", begun, rc=0).err
    goes_on(box, begun)
    box.runner("doctor", "--forget", rc=2)


# --- this machine ----------------------------------------------------------------------------------------------------------


def test_not_a_repository_and_no_git_are_findings(box: Box, tmp_path: Path) -> None:
    assert "not a git repository" in box.runner("doctor", cwd=tmp_path, rc=2).out
    assert "there is no git" in box.runner("doctor", env={"PATH": str(tmp_path)}, rc=2).out


def test_a_missing_identity_is_found(box: Box) -> None:
    (box.home / ".gitconfig").unlink()
    nobody = {key: "" for key in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL")}
    told = box.runner("doctor", env=nobody, rc=2).out
    assert "git does not know who you are" in told and "git config --global user.name" in told


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({}, "gpg has not one secret key"),
        ({"gpg.format": "ssh", "user.signingkey": "/nowhere/key.pub"}, "the signing key cannot be read"),
        ({"gpg.format": "ssh"}, "your git has no signing key"),
    ],
)
def test_signing_that_cannot_work_is_found(box: Box, settings: dict[str, str], what: str) -> None:
    box.runner("doctor", rc=0)
    for key, value in {"commit.gpgsign": "true", **settings}.items():
        box.git("config", key, value)
    told = box.runner("doctor", rc=2).out
    assert what in told and "nothing of yours can be committed" in told


def test_a_signing_key_whose_private_half_is_elsewhere_is_found(box: Box, tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    for name, value in {"commit.gpgsign": "true", "gpg.format": "ssh", "user.signingkey": f"{key}.pub"}.items():
        box.git("config", name, value)
    box.runner("doctor", rc=0)
    box.new(STEPS)  # it does sign
    key.unlink()
    assert "the private half of the signing key is not here" in box.runner("doctor", rc=2).out


def test_an_executor_that_does_not_work_is_found(box: Box) -> None:
    assert "is not a value of `executor`" in box.runner("doctor", "--executor", "moon", rc=2).out
    tools = box.home / "bin"
    tools.mkdir()
    (tools / "git").symlink_to(shutil.which("git") or "")
    told = box.runner("doctor", env={"RUNNER_EXECUTOR": "sandbox", "PATH": str(tools)}, rc=2).out
    assert "bubblewrap" in told


def test_a_state_folder_that_cannot_be_written_is_found(box: Box) -> None:
    blocked = box.home / "file"
    blocked.write_text("")
    told = box.runner("doctor", env={"XDG_STATE_HOME": str(blocked / "state")}).out
    if os.geteuid() != 0:
        assert "cannot be written where it belongs" in told
    else:  # a file in the way stops root too
        assert "cannot be written" in told or "Traceback" not in told


def test_a_dead_lock_is_found_and_taken_away(box: Box, begun: str) -> None:
    lock = box.path / f".git/refs/heads/{begun}.lock"
    index = box.path / ".git/index.lock"
    for path in (lock, index):
        path.write_text("")
        os.utime(path, (1, 1))
    told = box.runner("doctor", rc=2).out
    assert str(lock) in told and str(index) in told
    box.runner("doctor", "--fix", rc=0)
    assert not lock.exists() and not index.exists()


def test_a_lock_that_somebody_has_open_is_left(box: Box, begun: str) -> None:
    lock = box.path / ".git/index.lock"
    with subprocess.Popen(
        ["sh", "-c", f"exec 9>'{lock}'; echo ready; exec sleep 60"], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"ready\n"
        box.runner("doctor", "--fix", rc=0)
        assert lock.exists()
        holder.kill()


def test_a_follow_that_was_cut_is_brought_to_its_end(box: Box) -> None:
    protocol = box.new(STEPS)
    folder = box.worktree(protocol)
    old = tip(box, protocol)
    box.runner("step", protocol, rc=0)
    new = tip(box, protocol)
    # As a kill between the ref and the files leaves it: the note, the moved ref, the files of before.
    box.git("read-tree", "-m", "-u", new, old, cwd=folder)
    with Git.open(box.path) as git:
        tree = git.checked_out(f"refs/heads/{protocol}")[0]
        dirs = StateDir(git.common_dir, box.home / ".local/state/protocol-runner")
    dirs.follows.mkdir(parents=True, exist_ok=True)
    note = dirs.follows / "0123456789abcdef.json"
    told = {"worktree": str(tree.path), "git_dir": str(tree.git_dir), "ref": f"refs/heads/{protocol}"}
    note.write_text(json.dumps({**told, "old": old, "new": new}) + "\n")
    assert "was interrupted" in box.runner("doctor", rc=2).out
    box.runner("doctor", "--fix", rc=0)
    assert (folder / "a.txt").read_text() == "a\n" and not note.exists()
    assert box.git("status", "--porcelain", cwd=folder) == ""
    goes_on(box, protocol)


def test_a_note_of_a_follow_that_lacks_what_a_fix_needs_is_removed(box: Box) -> None:
    protocol = box.new(STEPS)
    note = StateDir(box.path / ".git", box.home / ".local/state/protocol-runner").follows / "0123456789abcdef.json"
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps({"ref": f"refs/heads/{protocol}"}) + "\n")
    assert "was interrupted" in box.runner("doctor", rc=2).out
    box.runner("doctor", "--fix", rc=0)
    assert not note.exists()
    goes_on(box, protocol)


@pytest.mark.slow
def test_a_branch_that_is_gone_is_named_by_its_number_too(box: Box, begun: str) -> None:
    tip = box.git("rev-parse", begun)
    box.git("update-ref", "-d", f"refs/heads/{begun}")
    for name in ("status", "run"):
        assert "`runner doctor` says whether its branch was lost" in box.runner(name, "1", rc=2).err
    assert "is gone" in box.runner("doctor", "1").out
    assert "restored its branch" in box.runner("doctor", "--fix", "1").err
    assert box.git("rev-parse", begun) == tip
    goes_on(box, begun)


def test_protocols_that_share_a_number_are_named(box: Box, begun: str) -> None:
    box.git("branch", "0001-other", begun)
    told = [one for one in findings(box) if "have the number 1" in one["what"]]
    assert told and "0001-other" in told[0]["where"] and told[0]["kind"] == "note"


def test_a_branch_that_only_has_a_protocols_name_is_a_note(box: Box) -> None:
    box.git("branch", "-q", "0007-hotfix")
    told = [one for one in findings(box) if "0007-hotfix" in one["what"]]
    assert told and told[0]["kind"] == "note" and "git branch -m 0007-hotfix" in told[0]["command"]
    box.runner("doctor", "--fix", rc=0)


def test_a_shallow_clone_says_what_to_fetch(box: Box, begun: str) -> None:
    shallow = box.path.parent / "shallow"
    box.git("clone", "-q", "--depth", "1", "-b", begun, f"file://{box.path}", shallow)
    told = box.runner("doctor", begun, cwd=shallow, rc=2).out
    assert "git fetch --unshallow" in told
    box.git("fetch", "-q", "--unshallow", cwd=shallow)
    assert "found:" not in box.runner("doctor", begun, cwd=shallow, rc=0).out


def test_a_clone_of_a_protocol_s_branch_alone_asks_the_remote_whom_it_trusts(box: Box, begun: str) -> None:
    alone, away = box.path.parent / "alone", box.path.with_name("away")
    box.git("clone", "-q", "--single-branch", "-b", begun, f"file://{box.path}", alone)
    box.path.rename(away)
    assert "could not be reached" in box.runner("step", begun, cwd=alone, rc=69).err
    away.rename(box.path)
    box.runner("status", begun, cwd=alone, rc=0)
    box.path.rename(away)  # it is pinned
    assert "as of" in box.runner("status", begun, cwd=alone, rc=0).out
    away.rename(box.path)


def test_a_held_protocol_is_not_mended_under_its_runner(box: Box, begun: str) -> None:
    forged = forge(box, begun)
    session = box.session()
    with session, locks.hold(session.dirs.lock(begun), session.env, what=begun):
        assert "held by another runner" in box.runner("doctor", "--fix", begun, rc=75).err
    assert tip(box, begun) == forged


def test_a_configuration_that_is_not_valid_is_found(box: Box) -> None:
    box.write(".protocols/config.yaml", "executer: host\n")
    box.commit("config")
    told = box.runner("doctor", rc=2).out
    assert "executer" in told and ".protocols/config.yaml on main:1" in told


def test_every_setting_says_where_it_came_from(box: Box) -> None:
    box.write(".protocols/config.yaml", "publish: ask\nexecutor: sandbox\nworkspace: {setup: make deps}\n")
    box.commit("config")

    def sources(*args: str, **env: str) -> dict[str, tuple[object, str]]:
        told = box.runner("doctor", "--config", "--json", *args, env=env, rc=0).json()["config"]
        return {one["key"]: (one["value"], one["source"]) for one in told}

    found = sources()
    assert found["publish"] == ("ask", ".protocols/config.yaml")
    assert found["executor"] == ("host", "RUNNER_EXECUTOR")
    assert found["workspace.setup"] == ("make deps", ".protocols/config.yaml")
    assert found["workspace.network"] == (False, "default") and found["branch"] == ("{id}", "default")
    found = sources("--executor", "sandbox", RUNNER_PUBLISH="always", RUNNER_EMAIL="ci@example.test")
    assert found["executor"] == ("sandbox", "--executor") and found["publish"] == ("always", "RUNNER_PUBLISH")
    assert found["identity.email"] == ("ci@example.test", "RUNNER_EMAIL")
    assert "publish" in box.runner("doctor", "--config", rc=0).out


def test_a_trusted_branch_that_git_fetched_since_is_named_beside_the_runner_s_own_copy(remote: Box) -> None:
    remote.runner("sync", remote.new({"01-a": command("true")}), rc=0)  # the runner has a copy of its own from now on
    before = remote.git("rev-parse", "main").strip()
    remote.git("commit", "-qm", "more", "--allow-empty")
    remote.git("push", "-q", "origin", "main")
    said = remote.runner("doctor", rc=0).out
    assert (
        f"the trusted branch is main of origin, as last fetched by git; the runner's own copy is {before[:12]}, as of 20"
        in said
    )


def test_repin_trusts_the_remote_at_its_new_address(remote: Box, tmp_path: Path) -> None:
    protocol = remote.new(STEPS)
    remote.runner("step", protocol, rc=0)
    moved = tmp_path / "moved.git"
    (tmp_path / "origin.git").rename(moved)
    remote.git("remote", "set-url", "origin", moved)
    found = findings(remote)
    if not any("another address" in one["what"] for one in found):
        pytest.fail(f"the new address was taken without a word: {found}")
    assert "another address" in remote.runner("step", protocol, rc=4).err
    assert "is trusted" in remote.runner("doctor", "--repin", rc=0).err
    remote.runner("step", protocol, rc=0)


def pinned(remote: Box) -> tuple[str, Path]:
    """Make a protocol and step it once; return it, and the note of what is trusted since."""
    protocol = remote.new(STEPS)
    remote.runner("step", protocol, rc=0)
    (pin,) = (remote.home / ".local/state/protocol-runner").glob("*/trusted.json")
    return protocol, pin


@pytest.mark.parametrize(
    "data",
    mostly_slow(
        [b"\0" * 180, b"", b"{}", b"[1]", b'{"remote": "origin", "url": 1, "branch": "main", "oid": "", "time": ""}'], 1
    ),
)
def test_a_pin_that_is_damaged_is_told_and_not_taken_for_first_use(remote: Box, tmp_path: Path, data: bytes) -> None:
    protocol, pin = pinned(remote)
    pin.write_bytes(data)
    before = remote.git("rev-parse", protocol)
    for argv in (["step", protocol], ["status"], ["doctor", "--fix"]):
        said = remote.runner(*argv, rc=None)
        assert said.code not in (0, 70) and "is damaged" in said.out + said.err and "--repin" in said.out + said.err
    assert pin.read_bytes() == data and remote.git("rev-parse", protocol) == before
    assert "is trusted" in remote.runner("doctor", "--repin", rc=0).err
    remote.runner("step", protocol, rc=0)


def test_a_pin_that_cannot_be_read_is_no_first_use_either(remote: Box) -> None:
    protocol, pin = pinned(remote)
    pin.unlink()
    pin.mkdir()
    assert "is damaged" in remote.runner("step", protocol, rc=4).err
    for _ in range(2):
        assert "is trusted" in remote.runner("doctor", "--repin", rc=0).err
    remote.runner("step", protocol, rc=0)


def test_a_repin_that_fails_leaves_the_pin_as_it_was_damaged_or_not(remote: Box) -> None:
    _, pin = pinned(remote)
    remote.git("remote", "set-url", "origin", "ext::sh -c x")
    for data in (pin.read_bytes(), b"\0" * 90):
        pin.write_bytes(data)
        remote.runner("doctor", "--repin", rc=2)
        assert pin.read_bytes() == data


def test_a_repin_that_is_interrupted_leaves_the_pin(remote: Box) -> None:
    _, pin = pinned(remote)
    before = pin.read_bytes()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        remote.git("remote", "set-url", "origin", f"git://127.0.0.1:{silent.getsockname()[1]}/x")
        with remote.start("doctor", "--repin") as asks:
            heard, _ = silent.accept()
            asks.send_signal(signal.SIGINT)
            told = asks.communicate(timeout=60)
            assert asks.returncode == 130, told
            heard.close()
    assert pin.read_bytes() == before


def test_repin_without_an_answer_and_without_a_remote(remote: Box, tmp_path: Path) -> None:
    remote.git("remote", "set-url", "origin", tmp_path / "nowhere.git")
    told = remote.runner("doctor", "--repin", rc=0).err
    assert "nowhere.git is trusted from its first answer on" in told
    remote.git("remote", "remove", "origin")
    assert "there is no remote" in remote.runner("doctor", "--repin", rc=0).err


def test_a_journal_whose_record_this_version_cannot_read_is_found(box: Box) -> None:
    protocol = box.new({"01-t": "kind: tool\ntool: echo\nwith: {text: hello}\n"})
    journal = box.path / ".git/runner/journal" / protocol / "t.1.jsonl"
    Journal(journal)._write([{"kind": "undecided", "time": "x", "problems": [], "new": 1}])
    assert "this version of the runner cannot read record" in box.runner("doctor").out
