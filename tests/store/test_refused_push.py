"""A push that the remote's rules refuse for what is in it: named, and taken out again. A lock that was left on the remote: told."""

from __future__ import annotations

import pytest

from runner.executor.journal import Journal
from runner.protocol.transcript import HeldRecord, Intent
from tests.conftest import Box, clone, command, mostly_slow
from tests.executor.minds import agent, finish, mind, say, write
from tests.store.test_remote import here, origin, publish, there

HISTORY = "refs/runner/history"
RULE = """#!/bin/sh
while read old new ref; do
  case $new in *[!0]*) ;; *) continue;; esac
  big=$(git rev-list --objects $new --not --all | cut -d" " -f1 \
    | git cat-file --batch-check="%(objecttype) %(objectsize)" | awk '$1 == "blob" && $2 > 100000')
  test -z "$big" || { echo "GH001: Large files detected: this exceeds the limit of 0.1 MB"; exit 1; }
done
"""
STEPS = {
    "01-a": command("echo a > a.txt"),
    "02-model": command("head -c 500000 /dev/urandom > model.bin"),
    "03-c": command("echo c > c.txt"),
}


def rule(box: Box, text: str = RULE) -> None:
    hook = origin(box) / "hooks/pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(text)
    hook.chmod(0o755)


@pytest.fixture
def refused(remote: Box) -> str:
    """A protocol whose second step made what the remote refuses; all three are done here."""
    publish(remote)
    rule(remote)
    protocol = remote.new(STEPS, title="Refused")
    remote.runner("run", protocol, rc=69)
    return protocol


def smaller(box: Box, protocol: str) -> None:
    tree = box.worktree(protocol)
    step = tree / f".protocols/{protocol}/02-model.md"
    step.write_text(step.read_text().replace("500000", "500"))
    box.commit("smaller", cwd=tree)


def undo_of(err: str) -> list[str]:
    """The `undo` that a message offers."""
    return err.partition("`runner undo ")[2].partition("`")[0].split()


def test_step_file_commit_and_rule_are_named(remote: Box, refused: str) -> None:
    told = remote.runner("run", refused, rc=69).err
    made = remote.git("log", "--format=%h", "--abbrev=12", refused, "--", "model.bin").strip()
    assert all(word in told for word in ("GH001", "model.bin", "500 kB", "02-model", made)), told
    assert undo_of(told) and "may do the same steps" in told


@pytest.mark.slow
def test_a_file_that_the_rule_names_is_the_one_that_is_told(remote: Box) -> None:
    publish(remote)
    rule(remote, "#!/bin/sh\necho 'GH013: secret in  locations:\n  path: keys/aws.txt:3'\nexit 1\n")
    with_key = {"01-a": command("mkdir keys; echo k > keys/aws.txt; head -c 9000 /dev/zero > big.bin")}
    remote.env["RUNNER_PUBLISH"] = "never"
    protocol = remote.new(with_key)
    remote.runner("run", protocol, rc=0)
    told = remote.runner("sync", protocol, rc=69).err
    assert "keys/aws.txt" in told and "GH013" in told and "big.bin" not in told and "01-a" in told


def test_undo_takes_it_out_of_branch_and_history_and_the_next_run_publishes(remote: Box, refused: str) -> None:
    bad = here(remote, refused)
    told = remote.runner("run", refused, rc=69).err
    remote.runner("undo", *undo_of(told), rc=0)
    assert "model.bin" not in remote.git("log", "--name-only", "--format=", refused)
    kept = f"{HISTORY}/{refused}"
    assert not remote.git("for-each-ref", kept) or "model.bin" not in remote.git(
        "log", "--name-only", "--format=", kept
    )
    assert here(remote, f"refs/runner/lost/{refused}/{bad[:12]}") == bad
    assert remote.state(refused)["steps"]["a"]["status"] == "completed"
    assert remote.git("status", "--porcelain", cwd=remote.worktree(refused)) == ""
    smaller(remote, refused)
    remote.runner("run", refused, rc=0)
    assert there(remote, refused) == here(remote, refused)
    assert there(remote, f"{HISTORY}/{refused}") == here(remote, f"{HISTORY}/{refused}")
    other = clone(remote, "bob")
    other.git("fetch", "-q", "origin", f"+{HISTORY}/*:{HISTORY}/*")
    for box in (remote, other):
        box.runner("verify", refused, rc=0)
    assert remote.state(refused)["status"] == "completed"


@pytest.mark.slow
def test_undo_typed_without_a_revision_gets_there_too(remote: Box, refused: str) -> None:
    for _ in range(5):
        remote.runner("undo", refused, rc=0)
        if "model.bin" not in remote.git("log", "--name-only", "--format=", refused):
            break
    smaller(remote, refused)
    remote.runner("run", refused, rc=0)
    assert there(remote, refused) == here(remote, refused)


@pytest.mark.slow
def test_what_is_published_is_undone_by_a_transition_and_never_taken_out(remote: Box) -> None:
    publish(remote)
    protocol = remote.new(STEPS, title="Refused")
    remote.runner("step", protocol, rc=0)
    published = there(remote, protocol)
    rule(remote)
    remote.runner("run", protocol, rc=69)
    remote.runner("undo", f"{protocol}@2", rc=0)
    assert published in remote.git("rev-list", protocol).split()
    assert "undone" in remote.log(protocol) and there(remote, protocol) == here(remote, protocol)
    assert "model.bin" not in remote.git("log", "--name-only", "--format=", protocol)


def test_one_step_alone_that_is_refused_is_recorded_here_and_undone_in_the_same_way(remote: Box) -> None:
    publish(remote)
    rule(remote)
    protocol = remote.new(STEPS, title="Refused")
    remote.runner("step", protocol, rc=0)
    told = remote.runner("step", protocol, rc=69).err
    assert remote.state(protocol)["steps"]["model"]["status"] == "completed"
    remote.runner("undo", *undo_of(told), rc=0)
    assert here(remote, protocol) == there(remote, protocol)
    smaller(remote, protocol)
    remote.runner("run", protocol, rc=0)
    assert there(remote, protocol) == here(remote, protocol)


@pytest.mark.slow
def test_what_people_committed_meanwhile_is_carried_over(remote: Box, refused: str) -> None:
    smaller(remote, refused)
    told = remote.runner("run", refused, rc=69).err
    remote.runner("undo", *undo_of(told), rc=0)
    assert "-c 500 " in remote.git("show", f"{refused}:.protocols/{refused}/02-model.md")
    remote.runner("run", refused, rc=0)
    assert there(remote, refused) == here(remote, refused)


@pytest.mark.slow
def test_a_model_is_asked_again_for_what_was_taken_out(remote: Box) -> None:
    publish(remote)
    rule(remote)
    with mind(remote, say(write("big.txt", "x" * 200_000)), finish(), say(write("big.txt", "small")), finish()):
        protocol = remote.new({"01-a": agent()})
        told = remote.runner("run", protocol, rc=69).err
        remote.runner("undo", *undo_of(told), rc=0)
        remote.runner("run", protocol, rc=0)
    assert remote.git("show", f"{protocol}:big.txt") == "small"
    assert there(remote, f"{HISTORY}/{protocol}") == here(remote, f"{HISTORY}/{protocol}")
    remote.runner("verify", protocol, rc=0)


def test_a_persons_commit_is_named_with_its_author_and_a_reset_is_adopted_with_the_history(remote: Box) -> None:
    publish(remote)
    rule(remote)
    protocol = remote.new({"01-a": command("echo a > a.txt")})
    tree = remote.worktree(protocol)
    (tree / "data.bin").write_bytes(bytes(range(256)) * 1000)
    remote.commit("data", cwd=tree)
    before = here(remote, f"{protocol}~1")
    told = remote.runner("run", protocol, rc=69).err
    assert "data.bin" in told and "Alice" in told and "undo" not in told
    assert f"reset --keep {before}" in told and f"runner doctor --fix {protocol}" in told
    remote.git("reset", "-q", "--keep", before, cwd=tree)
    remote.runner("doctor", "--fix", protocol, rc=0)
    remote.runner("run", protocol, rc=0)
    assert there(remote, protocol) == here(remote, protocol)
    assert there(remote, f"{HISTORY}/{protocol}") == here(remote, f"{HISTORY}/{protocol}")
    remote.runner("verify", protocol, rc=0)


@pytest.mark.slow
def test_an_effect_of_which_nobody_knows_is_not_forgotten(remote: Box, refused: str) -> None:
    about = {"call": "c.1.1", "tool": "send", "digest": "sha256:0", "time": "2026-11-20T06:47:03Z", "text": "send"}
    begun = Intent(kind="intent", arguments={}, decision=None, **about)
    Journal(remote.path / ".git/runner/journal" / refused / "c.1.jsonl").append(begun)
    bad = here(remote, refused)
    assert "c.1.1" in remote.runner("undo", refused, rc=4).err
    assert here(remote, refused) == bad


@pytest.mark.slow
def test_where_a_file_is_in_the_way_of_undo_the_journals_stay(remote: Box, refused: str) -> None:
    about = {"call": "c.1.1", "tool": "send", "digest": "sha256:0", "time": "2026-11-20T06:47:03Z", "text": "send"}
    held = HeldRecord(kind="held", decision=None, **about)
    journal = remote.path / ".git/runner/journal" / refused / "c.1.jsonl"
    Journal(journal).append(held)
    bad, mine = here(remote, refused), remote.worktree(refused) / "model.bin"
    mine.write_text("mine\n")
    assert "model.bin" in remote.runner("undo", f"{refused}@2", rc=4).err
    assert here(remote, refused) == bad and journal.exists()
    mine.unlink()
    remote.git("checkout", "-q", "--", "model.bin", cwd=mine.parent)
    remote.runner("undo", f"{refused}@2", rc=0)
    assert not journal.exists()


@pytest.mark.parametrize("command_line", mostly_slow([(("sync",),), (("run",),)], 1))
def test_a_lock_that_was_left_on_the_remote_is_told_with_gits_words(remote: Box, command_line: tuple[str, ...]) -> None:
    publish(remote)
    protocol = remote.new({"01-a": command("echo a > a.txt")})
    remote.runner("step", protocol, rc=0, env={"RUNNER_PUBLISH": "never"})
    lock = origin(remote) / f"refs/heads/{protocol}.lock"
    lock.touch()
    told = remote.runner(*command_line, protocol, rc=69).err
    assert f"{protocol}.lock" in told and "keeps moving" not in told and "File exists" in told
    lock.unlink()
    remote.runner(*command_line, protocol, rc=0)
    assert there(remote, protocol) == here(remote, protocol)


@pytest.mark.slow
def test_a_lock_on_the_lease_is_told_too(remote: Box) -> None:
    publish(remote)
    protocol = remote.new({"01-a": command("echo a > a.txt")})
    lock = origin(remote) / f"refs/runner/leases/{protocol}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.touch()
    assert f"{protocol}.lock" in remote.runner("run", protocol, rc=69).err
    lock.unlink()
    remote.runner("run", protocol, rc=0)
