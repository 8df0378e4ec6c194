"""Abuses of a word that are no history: the place where a runner works tries to have a stranger's word counted.

Mallory's word is right in everything but that nobody listed her. Each place below would make it count, or run something of hers, for
a runner that asks git, the clone or PATH whom to trust.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Box, command
from tests.people import Person, governed, person, policy

Place = Callable[
    [Box, Person, Path], dict[str, str]
]  # (the clone, Mallory, a program that leaves a trace) -> environment
PLACES: dict[str, Place] = {}
STEPS = {"01-deploy": command("sh deploy.sh > d.txt", "approval: before\n")}
POLICY, SIGNERS = ".protocols/policy.yaml", ".protocols/allowed_signers"


def place(function: Place) -> Place:
    """List a hostile place."""
    PLACES[function.__name__] = function
    return function


class Clone:
    """A clone of a shared repository in which a step waits for Alice, with Mallory's word on it."""

    def __init__(self, folder: Path) -> None:
        self.alice, self.mallory = person(folder, "alice"), person(folder, "mallory")
        self.box = governed(folder / "repo", [self.alice], remote=True)
        self.box.write("deploy.sh", "echo deployed\n")
        self.box.commit("script")
        self.box.git("push", "-q", "origin", "main")
        self.protocol = self.box.new(STEPS)
        self.box.runner("run", self.protocol, rc=3)

    def say(self) -> None:
        """Put Mallory's word onto the branch."""
        printed = self.box.runner("approve", self.protocol, "step:deploy", "--print", env=self.alice.env, rc=0).out
        text = printed[printed.index("runner-approval/v1") :].replace("approver: alice@", "approver: mallory@")
        name = hashlib.sha256(text.encode()).hexdigest()[:32]
        tree = self.box.worktree(self.protocol)
        file = tree / f".protocols/{self.protocol}/approvals/{name}.approval"
        file.parent.mkdir(exist_ok=True)
        file.write_text(self.mallory.sign(text))
        self.box.git("add", "-f", file, cwd=tree)
        self.box.git("commit", "-qm", "a word", cwd=tree)

    def is_done(self) -> bool:
        """Whether the step's work is on the branch."""
        return "d.txt" in self.box.git("ls-tree", "--name-only", self.protocol)


@pytest.fixture
def waits(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def usurp(mallory: Person) -> dict[str, str]:
    """The files with which the trusted branch would list Mallory."""
    return {POLICY: policy([mallory]), SIGNERS: mallory.line()}


def commit(box: Box, parent: str, files: dict[str, str]) -> str:
    """Make a commit with files, and move nothing."""
    index = {"GIT_INDEX_FILE": str(box.path / ".git" / "usurped")}
    box.git("read-tree", parent, env=index)
    for path, text in files.items():
        oid = box.git("hash-object", "-w", "--stdin", data=text).strip()
        box.git("update-index", "--add", "--cacheinfo", f"100644,{oid},{path}", env=index)
    return box.git("commit-tree", box.git("write-tree", env=index).strip(), "-p", parent, "-m", "usurped").strip()


@place
def local_main_moved(box: Box, mallory: Person, program: Path) -> dict[str, str]:
    box.git("update-ref", "refs/heads/main", commit(box, "main", usurp(mallory)))
    return {}


@place
def remote_tracking_branch_moved(box: Box, mallory: Person, program: Path) -> dict[str, str]:
    usurped = commit(box, "main", usurp(mallory))
    box.git("update-ref", "refs/remotes/origin/main", usurped)
    box.git("update-ref", "refs/heads/usurped", usurped)
    box.git("symbolic-ref", "refs/remotes/origin/HEAD", "refs/heads/usurped")
    return {}


@place
def what_was_fetched_moved(box: Box, mallory: Person, program: Path) -> dict[str, str]:
    usurped = commit(box, "main", usurp(mallory))
    for ref in box.git("for-each-ref", "--format=%(refname)", "refs/runner/fetched").split():
        box.git("update-ref", ref, usurped)
    return {}


@place
def programs_of_the_repository(box: Box, mallory: Person, program: Path) -> dict[str, str]:
    listed = box.path / ".git" / "signers"
    listed.write_text(mallory.line())
    for key, value in {
        "gpg.ssh.program": program, "gpg.program": program, "gpg.ssh.allowedSignersFile": listed, "gpg.format": "ssh",
        "core.sshCommand": program, "core.fsmonitor": program, "core.pager": program, "core.editor": program,
        "diff.external": program, "credential.helper": program, "gpg.ssh.defaultKeyCommand": program,
        "filter.lfs.clean": program, "filter.lfs.smudge": program, "filter.lfs.process": program, "filter.evil.clean": program,
        "filter.evil.smudge": program, "filter.evil.required": "true", "uploadpack.packObjectsHook": program,
    }.items():  # fmt: skip
        box.git("config", key, str(value))
    (box.path / ".git" / "info").mkdir(exist_ok=True)
    (box.path / ".git" / "info" / "attributes").write_text("* filter=evil diff=evil\n")
    return {}


@place
def hooks(box: Box, mallory: Person, program: Path) -> dict[str, str]:
    own = box.path / ".git" / "hooks"
    own.mkdir(exist_ok=True)
    names = (
        "pre-commit",
        "post-commit",
        "reference-transaction",
        "post-checkout",
        "pre-push",
        "post-index-change",
        "post-rewrite",
    )
    for name in names:
        shutil.copy(program, own / name)
    return {}


@place
def first_on_path(box: Box, mallory: Person, program: Path) -> dict[str, str]:
    folder = program.parent / "first"
    folder.mkdir()
    for name in ("ssh-keygen", "gpg", "gpgv", "ssh", "gpgsm"):
        shutil.copy(program, folder / name)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


@place
def the_environment(box: Box, mallory: Person, program: Path) -> dict[str, str]:
    listed = box.path / ".git" / "signers"
    listed.write_text(mallory.line())
    return {
        "GIT_CONFIG_COUNT": "2", "GIT_CONFIG_KEY_0": "gpg.ssh.program", "GIT_CONFIG_VALUE_0": str(program),
        "GIT_CONFIG_KEY_1": "gpg.ssh.allowedSignersFile", "GIT_CONFIG_VALUE_1": str(listed),
        "GIT_EXTERNAL_DIFF": str(program), "GIT_PAGER": str(program), "GIT_REPLACE_REF_BASE": "refs/heads/",
    }  # fmt: skip


@place
def objects_replaced(box: Box, mallory: Person, program: Path) -> dict[str, str]:
    main = box.git("rev-parse", "main").strip()
    box.git("replace", main, commit(box, "main", usurp(mallory)))
    return {}


@place
def a_remote_s_address_rewritten(box: Box, mallory: Person, program: Path) -> dict[str, str]:
    evil = evil_remote(box, mallory)
    box.git("config", f"url.{evil}.insteadOf", str(box.path.parent / "origin.git"))
    return {}


def evil_remote(box: Box, mallory: Person) -> Path:
    """A copy of the remote whose main lists Mallory."""
    evil = box.path.parent / "evil.git"
    shutil.copytree(box.path.parent / "origin.git", evil)
    box.git("push", "-q", evil, f"{commit(box, 'main', usurp(mallory))}:refs/heads/main")
    return evil


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.slow
def test_a_hostile_place_makes_no_word_count(name: str, waits: Clone, tmp_path: Path) -> None:
    waits.say()
    trace = tmp_path / "trace"
    program = tmp_path / "program"
    program.write_text(
        f'#!/bin/sh\necho "$0 $*" >> {trace}\necho \'Good "runner-approval" signature for mallory@example.test\'\n'
    )
    program.chmod(0o755)
    env = PLACES[name](waits.box, waits.mallory, program)
    for _ in range(2):
        assert waits.box.runner("step", waits.protocol, env=env).code in (3, 4)
    assert not waits.is_done()
    assert waits.box.runner("verify", waits.protocol, env=env, rc=0)
    assert not trace.exists(), trace.read_text()


def test_her_word_counts_where_the_trusted_branch_lists_her(waits: Clone) -> None:
    """Nothing else keeps it from counting: so each place above is refused for what it is."""
    waits.say()
    box = waits.box
    box.git("push", "-q", "origin", f"{commit(box, 'main', usurp(waits.mallory))}:refs/heads/main")
    box.runner("step", waits.protocol, rc=0)
    assert waits.is_done()
    box.runner("verify", waits.protocol, rc=0)


def test_a_remote_s_address_replaced_is_refused_by_name(waits: Clone) -> None:
    waits.say()
    waits.box.git("remote", "set-url", "origin", evil_remote(waits.box, waits.mallory))
    said = waits.box.runner("step", waits.protocol)
    assert said.code == 4 and "doctor --repin" in said.err, said
    assert not waits.is_done()


def test_base_names_an_attacker_s_branch(waits: Clone) -> None:
    """What the plan calls base says where the work is merged, never whom to trust."""
    box = waits.box
    usurped = commit(box, "main", usurp(waits.mallory))
    box.git("update-ref", "refs/heads/evil", usurped)
    box.git("push", "-q", "origin", "evil")
    waits.protocol = box.new(STEPS, title="Evil", front="base: evil\n")
    box.runner("run", waits.protocol, rc=3)
    waits.say()
    assert box.runner("step", waits.protocol).code == 3
    assert not waits.is_done()


def test_a_policy_that_the_remote_took_back_is_refused(waits: Clone) -> None:
    """The remote's main is moved back to before the policy that the record tells of: Alice's word is not used under an older one."""
    box = waits.box
    box.runner("approve", waits.protocol, "--yes", env=waits.alice.env, rc=0)
    first = box.git("rev-list", "--max-parents=0", "main").strip()
    old = commit(box, first, usurp(waits.mallory))
    box.git("push", "-qf", "origin", f"{old}:refs/heads/main")
    said = box.runner("step", waits.protocol)
    assert said.code == 4 and "main went back" in said.err, said
    assert not waits.is_done()


def test_a_protocol_that_says_it_was_made_before_the_policy(waits: Clone, tmp_path: Path) -> None:
    """Nothing proves when commits were made: one that starts on an old main is judged by the policy of then. It is said."""
    box = waits.box
    old = box.git("rev-list", "--max-parents=0", "main").strip()
    assert not box.git("ls-tree", old, POLICY), "main had no policy there"
    shutil.copytree(tmp_path / "origin.git", tmp_path / "older.git")
    box.git("--git-dir", tmp_path / "older.git", "update-ref", "refs/heads/main", old)
    box.git("clone", "-q", tmp_path / "older.git", tmp_path / "mallory-works")
    other = Box(tmp_path / "mallory-works", tmp_path / "mallory-home", {**box.env, **waits.mallory.env})
    made = other.new({"01-a": command("echo evil > evil.txt")}, title="Old")
    other.runner("run", made, rc=0)
    other.git("push", "-q", tmp_path / "origin.git", made)
    box.git("fetch", "-q")
    told = (
        f"judged by the policy at {old[:12]}, which main has changed since; nothing proves that it was made before that"
    )
    for command_line in (("verify", made), ("verify", made, "--live"), ("merge", made, "--dry-run"), ("merge", made)):
        assert told in box.runner(*command_line, rc=0).err, command_line
    # One that was merged while its policy was main's is proven by main's own order.
    box.runner("approve", waits.protocol, "--yes", env=waits.alice.env, rc=0)
    box.runner("run", waits.protocol, rc=0)
    box.runner("merge", waits.protocol, rc=0)
    box.write(POLICY, box.git("show", f"main:{POLICY}") + "# changed\n")
    box.commit("another policy")
    box.git("push", "-q", "origin", "main")
    assert told in box.runner("verify", made, "--live", rc=0).err
    assert "judged by the policy" not in box.runner("verify", waits.protocol, "--live", rc=0).err


def test_a_policy_that_a_branch_changes_is_named_when_it_is_merged(waits: Clone) -> None:
    """A person's commit on the branch may change it, and no step's approval is about that: who merges reads it."""
    box = waits.box
    made = box.new({"01-a": command("echo a > a.txt")}, title="Also")
    tree = box.worktree(made)
    (tree / POLICY).write_text((tree / POLICY).read_text() + "# mine\n")
    box.git("commit", "-qam", "policy", cwd=tree)
    box.runner("run", made, rc=0)
    for options in (("--dry-run",), ()):
        assert f"2 files changed, {POLICY} among them" in box.runner("merge", made, *options, rc=0).err


def test_a_step_that_writes_the_next_step_s_file(waits: Clone) -> None:
    box = waits.box
    text = "---\\ntitle: x\\nkind: command\\nrun: echo pwned > d.txt\\n---\\n"
    line = f"echo x > a.txt; for f in .protocols/*/02-deploy.md; do printf -- '{text}' > $f; done"
    waits.protocol = box.new({"01-a": command(line), "02-deploy": STEPS["01-deploy"]}, title="Next")
    before = box.git("rev-parse", f"{waits.protocol}:.protocols/{waits.protocol}/02-deploy.md")
    box.runner("run", waits.protocol)
    assert box.git("rev-parse", f"{waits.protocol}:.protocols/{waits.protocol}/02-deploy.md") == before
    assert not waits.is_done()


@pytest.mark.skipif(os.geteuid() != 0, reason="allowed: only root can give a repository away")
def test_a_repository_of_another_user_is_not_worked_on(waits: Clone) -> None:
    waits.say()
    for at in (waits.box.path, waits.box.path / ".git"):
        os.chown(at, 65534, 65534)
    said = waits.box.runner("step", waits.protocol)
    assert said.code not in (0, 3) and "safe.directory" in said.err, said


@pytest.mark.parametrize("how", [("remote", "remove", "origin"), ("remote", "rename", "origin", "other")])
def test_a_remote_that_was_taken_away_is_refused_by_name(waits: Clone, how: tuple[str, ...]) -> None:
    """Whoever owns the clone's configuration does not make the local branch the one that is trusted."""
    waits.say()
    waits.box.git("update-ref", "refs/heads/main", commit(waits.box, "main", usurp(waits.mallory)))
    waits.box.git(*how)
    if how[1] == "rename":
        waits.box.git("remote", "add", "another", "/nowhere")
    said = waits.box.runner("step", waits.protocol)
    assert said.code == 4 and "doctor --repin" in said.err, said
    assert not waits.is_done()
