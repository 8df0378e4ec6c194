"""`runner init` and the first policy: one person, their key, and work that goes on with their word."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runner.protocol import policy_file
from tests.conftest import Box, command, make_box
from tests.people import Person, at_terminal, person

POLICY, SIGNERS = ".protocols/policy.yaml", ".protocols/allowed_signers"
BEFORE = {"01-deploy": command("echo deployed > d.txt", "approval: before\n")}


@pytest.fixture
def alone(tmp_path: Path) -> tuple[Box, Person]:
    """Ann, who works by herself and signs her commits' words with an SSH key."""
    ann = person(tmp_path, "ann")
    box = make_box(tmp_path / "repo")
    box.env.update(ann.env)
    return box, ann


def test_the_first_policy_names_the_person_and_their_key(alone: tuple[Box, Person]) -> None:
    box, ann = alone
    told = box.runner("init", "--yes", rc=0)
    assert f"wrote  {POLICY}\n" in told.out and f"wrote  {SIGNERS}\n" in told.out
    made = policy_file.parse((box.path / POLICY).read_bytes(), POLICY).content
    assert re.fullmatch("[0-9a-f]{32}", made.repo) and set(made.repo) != {"0"}
    assert made.roles == {"maintainer": (ann.email,)} and made.agents == ("runner@localhost.invalid",)
    assert made.own_work == "allow"
    assert "with one maintainer" in (box.path / POLICY).read_text()
    assert (box.path / SIGNERS).read_text().splitlines()[-1] + "\n" == ann.line()
    box.commit("set up")
    box.runner("policy", "test", rc=0)


def test_a_policy_has_an_id_of_its_own(tmp_path: Path) -> None:
    ids = set()
    for name in ("one", "two"):
        box = make_box(tmp_path / name)
        box.runner("init", rc=0)
        ids.add(policy_file.parse((box.path / POLICY).read_bytes(), POLICY).content.repo)
    assert len(ids) == 2


def test_a_team_of_one_works_with_it(alone: tuple[Box, Person]) -> None:
    box, _ = alone
    box.runner("init", "--yes", "--commit", rc=0)
    assert set(box.git("show", "--name-only", "--format=", "HEAD").split()) >= {POLICY, SIGNERS}
    protocol = box.new(BEFORE)
    assert "a person with a role (ann)" in box.runner("run", protocol, rc=3).err
    box.runner("approve", protocol, "--yes", rc=0)
    box.runner("run", protocol, rc=0)
    box.runner("verify", protocol, rc=0)
    box.runner("merge", protocol, rc=0)
    assert (box.path / "d.txt").read_text() == "deployed\n"


def test_written_first_and_committed_later_is_the_same(alone: tuple[Box, Person]) -> None:
    box, _ = alone
    box.runner("init", "--yes", rc=0)
    written = (box.path / POLICY).read_bytes()
    again = box.runner("init", "--commit", rc=0).out
    assert again == ""
    assert (box.path / POLICY).read_bytes() == written
    assert box.git("status", "--porcelain", "-uall") == ""
    assert "nothing to commit" in box.runner("init", "--commit", rc=0).err


def test_without_a_key_it_says_what_to_type(box: Box) -> None:
    told = box.runner("init", "--yes", rc=0)
    assert POLICY in told.out and SIGNERS not in told.out
    assert "list your key for approvals: ssh-keygen -t ed25519 && git config" in told.err
    assert "then `runner init` again" in told.err


def test_the_key_is_listed_only_after_asking(alone: tuple[Box, Person]) -> None:
    box, ann = alone
    told = box.runner("init", rc=0)  # no terminal, and no --yes
    assert not (box.path / SIGNERS).exists()
    assert "for approvals: runner init --yes\n" in told.err
    code, said = at_terminal(box, {b"later)": b"\n", b"]:": b"no\n"}, "init")
    assert code == 0 and "List your key SHA256:" in said and not (box.path / SIGNERS).exists()
    code, said = at_terminal(box, {b"later)": b"\n", b"]:": b"yes\n"}, "init")
    assert code == 0 and ann.public in (box.path / SIGNERS).read_text()


def test_what_people_wrote_is_never_overwritten(alone: tuple[Box, Person]) -> None:
    box, ann = alone
    box.write(POLICY, "repo: nonsense\n")
    box.write(SIGNERS, "# nobody yet\n")
    told = box.runner("init", "--yes", "--commit", rc=0)
    assert (
        f"kept   {POLICY}\n" in box.runner("init", rc=0).out
        and f"add this line to {SIGNERS}: {ann.line().strip()}" in told.err
    )
    assert (box.path / POLICY).read_text() == "repo: nonsense\n"
    assert (box.path / SIGNERS).read_text() == "# nobody yet\n"
    assert set(box.git("status", "--porcelain", "-uall").split()) == {"??", POLICY, SIGNERS}
    box.write(SIGNERS, ann.line())
    assert "add this line" not in box.runner("init", rc=0).err


def test_it_has_no_force_before_it_is_on_the_remote_and_that_is_said(remote: Box, tmp_path: Path) -> None:
    ann = person(tmp_path, "ann")
    remote.env.update(ann.env)
    told = remote.runner("init", "--yes", "--commit", rc=0).err
    assert "take effect once they are on main of origin\n  next          git push origin main\n" in told
    protocol = remote.new(BEFORE)
    assert "you, at a terminal" in remote.runner("run", protocol, rc=3).err
    error = remote.runner("approve", protocol, "--yes", rc=3).err
    assert "policy.yaml as committed here has no effect until it is on main of origin" in error
    remote.git("push", "-q", "origin", "main")
    remote.runner("approve", protocol, "--yes", rc=0)
    remote.runner("run", protocol, rc=0)


def test_what_was_pushed_since_has_force(remote: Box, tmp_path: Path) -> None:
    ann = person(tmp_path, "ann")
    remote.env.update(ann.env)
    remote.runner("run", remote.new(BEFORE, title="First"), rc=3)  # it looks at the remote, and keeps what it saw
    remote.runner("init", "--yes", "--commit", rc=0)
    (tmp_path / "second").mkdir()
    (tmp_path / "second/plan.md").write_text("---\ntitle: Second\n---\n")
    (tmp_path / "second/01-a.md").write_text("---\ntitle: a\nkind: human\n---\n")
    told = remote.runner("new", "--plan", tmp_path / "second", rc=0).err
    assert "policy.yaml differs from main of origin: this version takes effect once it is there" in told
    remote.git("push", "-q", "origin", "main")
    assert "takes effect once" not in remote.runner("new", "--plan", tmp_path / "second", rc=0).err


def test_who_joins_without_a_key_is_told_what_to_type(alone: tuple[Box, Person]) -> None:
    box, ann = alone
    box.runner("init", "--yes", "--commit", rc=0)
    assert "list your key" not in box.runner("init", rc=0).err
    (ann.home / ".gitconfig").write_text("[user]\n name = bo\n email = bo@example.test\n")
    assert "list your key for approvals: ssh-keygen -t ed25519" in box.runner("init", rc=0).err


def test_who_git_does_not_know_gets_no_policy(tmp_path: Path) -> None:
    box = make_box(tmp_path / "repo")
    (box.home / ".gitconfig").write_text("")
    nobody = {name: "" for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL")}
    told = box.runner("init", "--yes", rc=0, env=nobody)
    assert POLICY not in told.out and "git config --global user.email" in told.err
