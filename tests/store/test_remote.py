"""The remote: the trusted branch, publishing, and two clones that advance beside each other. Real git, two clones, one origin."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from runner.errors import shown
from runner.store.remote import Mirror
from tests.conftest import Box, clone, command, slack, waits_for

STEPS = {"01-a": command("echo a > a.txt"), "02-b": command("cat a.txt > b.txt"), "03-c": command("echo c > c.txt")}


def publish(box: Box, when: str = "always") -> None:
    """Set `publish` on the trusted branch."""
    box.write(".protocols/config.yaml", f"publish: {when}\n")
    box.commit("config")
    box.git("push", "-q", "origin", "main")


def test_a_new_protocol_says_whether_it_went_out_and_another_clone_how_to_see_it(remote: Box) -> None:
    publish(remote)
    other = clone(remote, "other")
    remote.write("new/plan.md", "---\ntitle: Out\n---\n")
    remote.write("new/01-a.md", "---\ntitle: a\nkind: human\n---\n")
    assert remote.runner("new", "--plan", "new", rc=0).err.splitlines()[0].endswith("· published to origin")
    assert "on origin, as last fetched; none here yet" in other.runner("status", "1", rc=0).out
    other.runner("sync", "1", rc=0)
    assert "Out" in other.runner("status", "1", rc=0).out


def origin(box: Box) -> Path:
    return box.path.parent / "origin.git"


def there(box: Box, ref: str) -> str:
    return box.git("rev-parse", "--verify", "-q", ref, cwd=origin(box), check=False).strip()


def here(box: Box, ref: str) -> str:
    return box.git("rev-parse", ref).strip()


def test_a_remote_whose_default_branch_is_not_there_is_told_from_one_without_branches(remote: Box) -> None:
    protocol = remote.new(STEPS)
    remote.git("symbolic-ref", "HEAD", "refs/heads/master", cwd=origin(remote))
    with remote.session() as session:
        session.dirs.pin.unlink()  # what it was when it was last asked
    told = remote.runner("sync", protocol, rc=69).err
    assert "origin's default branch is one that it does not have" in told
    assert "git symbolic-ref HEAD refs/heads/main" in told and "push one first" not in told
    remote.git("update-ref", "-d", "refs/heads/main", cwd=origin(remote))
    assert "push one first: git push -u origin main" in remote.runner("sync", protocol, rc=69).err


def test_nothing_leaves_the_machine_unasked(remote: Box) -> None:
    before = remote.git("for-each-ref", cwd=origin(remote))
    protocol = remote.new(STEPS)
    remote.runner("run", protocol, rc=0)
    assert remote.git("for-each-ref", cwd=origin(remote)) == before


def test_always_publishes_branch_and_number_in_one_push_with_each_step(remote: Box) -> None:
    publish(remote)
    protocol = remote.new(STEPS)
    assert there(remote, protocol) == here(remote, protocol)
    assert there(remote, "refs/runner/numbers/0001") == here(remote, protocol)
    remote.runner("step", protocol, rc=0)
    assert there(remote, protocol) == here(remote, protocol)
    remote.runner("run", protocol, rc=0)
    assert there(remote, protocol) == here(remote, protocol)
    assert remote.state(protocol)["status"] == "completed"


def test_two_clones_claim_two_numbers(remote: Box) -> None:
    publish(remote)
    other = clone(remote, "bob")
    first = remote.new(STEPS, title="One")
    second = other.new(STEPS, title="Two")
    assert (first, second) == ("0001-one", "0002-two")


def test_what_others_pushed_is_taken_up_by_the_next_step_worktree_and_all(remote: Box) -> None:
    publish(remote)
    protocol = remote.new(STEPS)
    other = clone(remote, "bob")
    other.runner("step", protocol, rc=0)
    remote.runner("step", protocol, rc=0)
    assert remote.git("show", f"{protocol}:b.txt") == "a\n"
    assert (remote.worktree(protocol) / "a.txt").exists()
    assert remote.git("status", "--porcelain", cwd=remote.worktree(protocol)) == ""
    remote.runner("verify", protocol, rc=0)


def test_never_goes_on_apart_and_sync_settles_it_the_second_loses(remote: Box) -> None:
    protocol = remote.new(STEPS)
    remote.runner("sync", protocol, rc=0)
    other = clone(remote, "bob")
    other.runner("step", protocol, rc=0)
    other.runner("sync", protocol, rc=0)
    remote.env["RUNNER_EXECUTOR"] = "host"
    tree = remote.worktree(protocol)
    # this side, which has not looked, advances as well, and a person commits beside it
    remote.git("remote", "set-url", "origin", str(origin(remote)))
    (tree / "mine.txt").write_text("mine\n")
    remote.git("add", "mine.txt", cwd=tree)
    remote.git("commit", "-qm", "by hand", cwd=tree)
    origin(remote).rename(origin(remote).with_suffix(".away"))
    done = remote.runner("step", protocol, rc=0)
    assert "could not be reached" in done.err
    origin(remote).with_suffix(".away").rename(origin(remote))
    lost = here(remote, protocol)
    done = remote.runner("step", protocol, rc=0)
    assert done.err.count("has diverged from") == 1 and "runner sync" in done.err
    lost = here(remote, protocol)
    done = remote.runner("sync", protocol, rc=0)
    assert "was first" in done.err
    assert here(remote, f"refs/runner/lost/{protocol}/{lost[:12]}") == lost
    assert remote.git("show", f"{protocol}:mine.txt") == "mine\n"
    assert remote.git("log", "--format=%an", "-1", protocol, "--", "mine.txt").strip() == "Alice"
    assert there(remote, protocol) == here(remote, protocol)
    assert remote.git("status", "--porcelain", cwd=tree) == ""
    remote.runner("run", protocol, rc=0)
    remote.runner("verify", protocol, rc=0)
    assert remote.state(protocol)["status"] == "completed"


def test_people_on_both_sides_lose_nothing(remote: Box) -> None:
    protocol = remote.new(STEPS)
    remote.runner("sync", protocol, rc=0)
    other = clone(remote, "bob")
    other.git("checkout", "-q", protocol)
    other.write("theirs.txt", "theirs\n")
    other.commit("theirs")
    other.git("push", "-q", "origin", protocol)
    remote.runner("pause", protocol, rc=0)
    remote.runner("sync", protocol, rc=0)
    assert remote.git("show", f"{protocol}:theirs.txt") == "theirs\n"
    assert remote.state(protocol)["status"] == "paused"
    assert there(remote, protocol) == here(remote, protocol)
    remote.runner("verify", protocol, rc=0)


def test_a_push_that_lost_the_race_merges_and_does_not_run_the_step_again(remote: Box) -> None:
    publish(remote)
    began, ends = remote.path.parent / "began", remote.path.parent / "ends"
    steps = {"01-a": command(f"echo ran >> ran.txt; touch {began}; {waits_for(ends)}"), "02-b": command("true")}
    protocol = remote.new(steps)
    other = clone(remote, "bob")
    other.git("checkout", "-q", protocol)
    step = remote.start("step", protocol)
    while not began.exists():
        assert step.poll() is None, step.communicate()
        time.sleep(0.02)
    other.write("theirs.txt", "theirs\n")
    other.commit("theirs")
    other.git("push", "-q", "origin", protocol)
    ends.touch()
    _, err = step.communicate(timeout=100)
    assert step.returncode == 0, err
    assert remote.git("show", f"{protocol}:ran.txt") == "ran\n"
    assert remote.git("show", f"{protocol}:theirs.txt") == "theirs\n"
    assert there(remote, protocol) == here(remote, protocol)
    remote.runner("verify", protocol, rc=0)


@pytest.mark.slow
def test_a_step_that_began_at_a_merge_of_this_clones_and_was_edited_meanwhile_is_told_of_what_both_have(
    remote: Box,
) -> None:
    """The merge gives way to another one, so nobody finds it on the chain that is published (seed 405 of the simulation)."""
    publish(remote)
    began, ends = remote.path.parent / "began", remote.path.parent / "ends"
    steps = {"01-a": command(f"echo ran >> ran.txt; touch {began}; {waits_for(ends)}"), "02-b": command("true")}
    protocol = remote.new(steps)
    other = clone(remote, "bob")
    other.git("checkout", "-q", protocol)
    other.write("theirs.txt", "theirs\n")
    other.commit("theirs")
    other.git("push", "-q", "origin", protocol)
    tree = remote.worktree(protocol)
    (tree / "ours.txt").write_text("ours\n")
    remote.git("add", "ours.txt", cwd=tree)
    remote.git("commit", "-q", "-m", "ours", cwd=tree)
    step = remote.start("step", protocol)
    while not began.exists():
        assert step.poll() is None, step.communicate()
        time.sleep(0.02)
    path = f".protocols/{protocol}/01-a.md"
    other.write(path, (other.path / path).read_text() + "More of it.\n")
    other.commit("edited")
    other.git("push", "-q", "origin", protocol)
    ends.touch()
    _, err = step.communicate(timeout=100)
    assert step.returncode == 0 and err.count("merged what others pushed") == 2, err
    assert remote.git("show", f"{protocol}:ran.txt") == "ran\n"
    assert there(remote, protocol) == here(remote, protocol)
    other.git("pull", "-q", "origin", protocol)
    for box in (remote, other):
        box.runner("verify", protocol, rc=0)


@pytest.mark.slow
def test_a_step_that_another_clone_did_meanwhile_without_a_lease_is_theirs(remote: Box) -> None:
    publish(remote)
    first, ends = remote.path.parent / "first", remote.path.parent / "ends"
    waits = f"if mkdir {first}; then {waits_for(ends)}; fi"  # the one that begins first waits for the other
    protocol = remote.new({"01-a": command(f"{waits}; date +%N > a.txt"), "02-b": command("true")})
    other = clone(remote, "bob")
    other.env["RUNNER_PUBLISH"] = "never"
    other.git("fetch", "-q", "origin")
    other.git("branch", "-q", protocol, f"origin/{protocol}")
    slow = remote.start("step", protocol)
    while not first.exists():
        assert slow.poll() is None, slow.communicate()
        time.sleep(0.02)
    other.runner("step", protocol, rc=0)
    other.runner("sync", protocol, rc=0)
    ends.touch()
    _, err = slow.communicate(timeout=100)
    assert slow.returncode == 0 and "was done elsewhere meanwhile" in err, err
    for box in (remote, other):
        box.runner("run", protocol, rc=0)
        box.runner("verify", protocol, rc=0)
    other.runner("sync", protocol, rc=0)
    remote.runner("sync", protocol, rc=0)
    assert there(remote, protocol) == here(remote, protocol)


def test_a_remote_that_is_away_when_a_publish_is_due_gives_69_and_loses_nothing(remote: Box) -> None:
    publish(remote)
    protocol = remote.new(STEPS)
    tip = here(remote, protocol)
    origin(remote).rename(origin(remote).with_suffix(".away"))
    done = remote.runner("step", protocol)
    assert done.code == 69, done.err
    assert here(remote, protocol) == tip
    origin(remote).with_suffix(".away").rename(origin(remote))
    remote.runner("run", protocol, rc=0)


def test_a_server_that_refuses_is_told_with_its_words(remote: Box) -> None:
    publish(remote)
    protocol = remote.new(STEPS)
    hook = origin(remote) / "hooks/pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho 'closed for today' >&2\nexit 1\n")
    hook.chmod(0o755)
    done = remote.runner("step", protocol)
    assert done.code == 69 and "closed for today" in done.err, done.err
    hook.unlink()
    remote.runner("run", protocol, rc=0)


def test_a_pushed_tip_that_does_not_verify_is_not_taken_up(remote: Box) -> None:
    protocol = remote.new(STEPS)
    remote.runner("sync", protocol, rc=0)
    other = clone(remote, "mallory")
    other.git("checkout", "-q", protocol)
    state = other.path / f".protocols/{protocol}/state.json"
    state.write_text(state.read_text().replace('"pending"', '"completed"', 1))
    other.commit("cheat")
    other.git("push", "-q", "origin", protocol)
    tip = here(remote, protocol)
    done = remote.runner("step", protocol)
    assert done.code == 4 and "does not verify" in done.err, done.err
    assert here(remote, protocol) == tip


def test_configuration_comes_from_the_remote_and_never_from_a_branch(remote: Box) -> None:
    protocol = remote.new(STEPS)
    tree = remote.worktree(protocol)
    (tree / ".protocols/config.yaml").write_text("identity: {name: Evil, email: evil@example.test}\n")
    remote.git("add", "-A", cwd=tree)
    remote.git("commit", "-qm", "config on the branch", cwd=tree)
    remote.write(".protocols/config.yaml", "identity: {name: Local, email: local@example.test}\n")
    remote.commit("config here, not pushed")
    remote.runner("step", protocol, rc=0)
    assert remote.git("log", "-1", "--format=%ce", protocol).strip() == "runner@localhost.invalid"
    remote.git("push", "-q", "origin", "main")
    remote.runner("step", protocol, rc=0)
    assert remote.git("log", "-1", "--format=%ce", protocol).strip() == "local@example.test"


def test_another_address_is_refused_until_it_is_pinned_again(remote: Box) -> None:
    protocol = remote.new(STEPS)
    remote.runner("step", protocol, rc=0)
    elsewhere = remote.path.parent / "elsewhere.git"
    remote.git("clone", "-q", "--bare", origin(remote), elsewhere, cwd=remote.path.parent)
    remote.git("remote", "set-url", "origin", str(elsewhere))
    done = remote.runner("step", protocol)
    assert done.code == 4 and "--repin" in done.err
    remote.runner("doctor", "--repin", rc=0)
    remote.runner("step", protocol, rc=0)


def test_a_trusted_branch_that_went_back_is_refused(remote: Box) -> None:
    publish(remote, "never")
    protocol = remote.new(STEPS)
    remote.runner("step", protocol, rc=0)
    remote.git("push", "-qf", "origin", "main~1:main")
    done = remote.runner("step", protocol)
    assert done.code == 4 and "went back" in done.err, done.err


@pytest.mark.parametrize("url", ["ext::sh -c touch% {canary}", "--upload-pack=touch {canary}"])
def test_an_address_that_runs_a_command_runs_none(remote: Box, url: str) -> None:
    protocol = remote.new(STEPS)
    canary = remote.path.parent / "canary"
    remote.git("config", "remote.origin.url", url.format(canary=canary))
    done = remote.runner("step", protocol)
    assert not canary.exists(), done.err


def test_settings_of_the_repository_do_not_reach_the_transport(remote: Box) -> None:
    protocol = remote.new(STEPS)
    canary = remote.path.parent / "canary"
    remote.git("config", "core.sshCommand", f"touch {canary}; false")
    remote.git("config", "url.ssh://evil.invalid/.insteadOf", str(origin(remote)))
    remote.git("config", "remote.origin.uploadpack", f"touch {canary}; git-upload-pack")
    remote.runner("step", protocol, rc=0)
    assert not canary.exists()


def test_a_relative_address_and_one_with_spaces_work(remote: Box) -> None:
    spaced = remote.path.parent / "or igin.git"
    origin(remote).rename(spaced)
    remote.git("remote", "set-url", "origin", "../or igin.git")
    publish(remote)
    protocol = remote.new(STEPS)
    remote.runner("run", protocol, rc=0)
    assert remote.git("rev-parse", protocol, cwd=spaced).strip() == here(remote, protocol)


def test_a_relative_address_is_the_same_in_each_worktree_and_folder(remote: Box) -> None:
    remote.git("remote", "set-url", "origin", "../origin.git")
    protocol = remote.new({"01-a": command("echo a > a.txt")})
    remote.runner("sync", protocol, rc=0)  # pins the address
    for folder in (remote.worktree(protocol), remote.worktree(protocol) / ".protocols", remote.path / ".git"):
        assert remote.runner("status", protocol, cwd=folder, rc=0).err.count("error") == 0
    remote.runner("run", "--publish", "always", cwd=remote.worktree(protocol), rc=0)
    assert there(remote, f"refs/heads/{protocol}") == here(remote, f"refs/heads/{protocol}")


def test_ask_publishes_only_at_a_persons_word(remote: Box) -> None:
    from tests.cli.test_sandbox_question import asked

    publish(remote, "ask")
    protocol = remote.new(STEPS)
    done = remote.runner("step", protocol, rc=0)
    assert "not published" in done.err and "runner sync" in done.err
    assert there(remote, protocol) == ""
    code, said = asked(remote, "no", "step", protocol)
    assert code == 0 and "Publish" in said and there(remote, protocol) == ""
    code, said = asked(remote, "yes", "run", protocol)
    assert code == 0, said
    assert there(remote, protocol) == here(remote, protocol)


def test_rules_that_are_committed_and_not_pushed_are_named(remote: Box) -> None:
    remote.write(".protocols/config.yaml", "publish: always\n")
    remote.commit("rules")
    done = remote.runner("new", "X", "--plan", remote.plan(STEPS), "--base", "main", rc=0)
    assert ".protocols/config.yaml differs from main of origin" in done.err
    assert there(remote, done.out.strip()) == ""


def test_an_address_is_shown_without_the_token_in_it(remote: Box) -> None:
    protocol, url = remote.new(STEPS), "http://alice:canary-5d1f@127.0.0.1:9/origin.git"
    remote.git("remote", "set-url", "origin", url)
    told = ""
    for args in (("sync", protocol), ("doctor",), ("doctor", "--repin"), ("run", protocol), ("init", "--clone", url)):
        done = remote.runner(*args)
        told += done.out + done.err
    assert "http://127.0.0.1:9/origin.git" in told and "canary" not in told + remote.log(protocol)
    assert shown("HTTPS://canary@h/x, https://a:canary@h:1/y") == "HTTPS://h/x, https://h:1/y"
    assert shown("ssh://git@h/x git@h:y https://h/z?q=a@b") == "ssh://git@h/x git@h:y https://h/z?q=a@b"


def _commit(box: Box, protocol: str, path: str, text: str) -> None:
    """Commit a file on the protocol's branch, checked out here, and push it."""
    box.git("fetch", "-q", "origin")
    box.git("checkout", "-q", protocol)
    box.git("merge", "-q", "--ff-only", f"origin/{protocol}")
    box.write(path, text)
    box.commit(path)
    box.git("push", "-q", "origin", protocol)


@pytest.mark.slow
def test_whoever_has_seen_peoples_commits_takes_up_transitions_that_these_were_merged_into(remote: Box) -> None:
    publish(remote)
    protocol = remote.new(STEPS)
    other = clone(remote, "bob")
    remote.runner("step", protocol, "--publish", "never", rc=0)
    _commit(other, protocol, "notes.txt", "one\n")
    other.runner("sync", protocol, rc=0)  # the commit is the last one that verified here
    remote.runner("sync", protocol, rc=0)  # it is on the chain by a merge alone
    other.runner("sync", protocol, rc=0)
    assert other.git("show", f"{protocol}:notes.txt") == "one\n" and here(other, protocol) == here(remote, protocol)
    other.runner("run", protocol, rc=0)
    other.runner("verify", protocol, rc=0)


@pytest.mark.slow
@pytest.mark.parametrize("apart", [False, True])
def test_peoples_commits_that_were_merged_and_not_published_are_no_hindrance(remote: Box, apart: bool) -> None:
    """`apart`: there are transitions on both sides then, and those made here give way."""
    publish(remote)
    protocol = remote.new(STEPS)
    other = clone(remote, "bob")
    remote.runner("step", protocol, "--publish", "never", rc=0)
    _commit(other, protocol, "notes.txt", "one\n")
    hook = origin(remote) / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    mine = remote.git("worktree", "list", "--porcelain").split("worktree ")[-1].splitlines()[0]
    remote.git("-c", "user.name=Alice", "commit", "-q", "--allow-empty", "-m", "mine", cwd=Path(mine))
    remote.runner("sync", protocol, rc=69)
    hook.unlink()
    _commit(other, protocol, "notes.txt", "two\n")
    if apart:
        other.runner("pause", protocol, rc=0)
        other.runner("resume", protocol, rc=0)
    remote.runner("sync", protocol, rc=0)
    assert remote.git("show", f"{protocol}:notes.txt") == "two\n" and there(remote, protocol) == here(remote, protocol)
    assert "mine" in remote.git("log", "--format=%s", protocol).splitlines()
    remote.runner("run", protocol, rc=0)
    other.runner("run", protocol, rc=0)
    other.runner("verify", protocol, rc=0)


def test_a_ref_that_another_process_here_moves_is_fetched_again(remote: Box) -> None:
    """Processes of a clone share one mirror: that one of them holds a ref's lock is no remote that cannot be reached."""
    with remote.session() as session:
        mirror = Mirror.of(session.project)
        assert mirror is not None
        mirror.fetch("refs/heads/*")
        remote.commit("more")
        remote.git("push", "-q", "origin", "main")
        lock = mirror.path / "refs/there/heads/main.lock"
        with lock.open("w") as held, subprocess.Popen(["sleep", "600"], stdout=held) as other:
            slept: list[float] = []

            def sleep(seconds: float) -> None:
                slept.append(seconds)
                lock.unlink()

            try:
                clone_ = dataclasses.replace(mirror.clone, env=session.env._replace(sleep=sleep))
                mirror._replace(clone=clone_).fetch("refs/heads/*")
            finally:
                other.kill()
        assert len(slept) == 1
        assert mirror.refs()["refs/heads/main"] == remote.git("rev-parse", "main").strip()


@pytest.mark.slow
def test_a_remote_that_answers_and_is_slow_to_send_is_not_away(
    remote: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(remote)
    protocol = remote.new({"01-a": command("true")})
    (tmp_path / "bin").mkdir()
    git, seconds = tmp_path / "bin/git", 3.0 * slack()
    sleeps = f'case " $* " in *" fetch --quiet "*) sleep {seconds + 1:.1f};; esac'
    git.write_text(f'#!/bin/sh\n{sleeps}\nexec {shutil.which("git")} "$@"\n')
    git.chmod(0o755)
    monkeypatch.setattr("runner.store.remote.FETCH_SECONDS", seconds)
    told = remote.runner("run", protocol, rc=0, env={"PATH": f"{git.parent}:{os.environ['PATH']}"}).err
    assert "fetching from origin: this takes a while" in told


def test_the_refs_of_the_mirror_are_read_as_git_lists_them(remote: Box) -> None:
    for name in ("refs/heads/0001-a", "refs/heads/0001-a.b/c", "refs/runner/leases/0001-a", "refs/heads/gone"):
        remote.git("push", "-q", "origin", f"main:{name}")
    with remote.session() as session:
        mirror = Mirror.of(session.project)
        assert mirror is not None
        mirror.fetch("refs/heads/*", "refs/runner/leases/*")

        def listed() -> dict[str, str]:
            out = remote.git(
                f"--git-dir={mirror.path}", "for-each-ref", "--format=%(refname) %(objectname)", "refs/there"
            )
            lines = (line.split(" ") for line in out.splitlines())
            return {name.replace("refs/there/", "refs/", 1): oid for name, oid in lines}

        assert len(listed()) == 5 and mirror.refs() == listed()
        remote.git(f"--git-dir={mirror.path}", "pack-refs", "--all", "--no-prune")
        remote.write("more", "x")
        remote.commit("more")
        tip = remote.git("rev-parse", "main").strip()
        remote.git("push", "-q", "origin", "main", "main:refs/heads/0002-b", ":refs/heads/gone")
        mirror.fetch("refs/heads/*", "refs/runner/leases/*")  # some are packed, one is packed as it was, one is gone
        (mirror.path / "refs/there/heads/half").write_bytes(b"")
        (mirror.path / "refs/there/heads/main.lock").write_text(f"{'1' * 40}\n")
        assert len(listed()) == 5 and mirror.refs() == listed() and list(mirror.refs()) == sorted(listed())
        assert mirror.ref("refs/heads/main") == tip and mirror.ref("refs/heads/0001-a") != tip
        assert mirror.ref("refs/heads/0001-a.b") is None and mirror.ref("refs/heads/gone") is None
