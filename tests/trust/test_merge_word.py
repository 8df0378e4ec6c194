"""Whether a merge had the word that the policy wanted then: asked of the base, however it was merged, with the branch gone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import Box, command, mostly_slow
from tests.people import Person, governed, person, policy
from tests.trust.test_merged import Merge, fast_forward, foxtrot, no_ff, rebase, squash, squash_as_a_forge

WANTED = "  merge: {roles: [maintainer], required: true}\n"
NOT_WANTED = "  merge: {roles: [maintainer]}\n"
EVERY = pytest.mark.parametrize(
    "merge",
    mostly_slow([squash, fast_forward, no_ff, squash_as_a_forge, rebase, foxtrot]),
    ids=lambda merge: merge.__name__,
)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("people")
    return SimpleNamespace(**{name: person(folder, name) for name in ("alice", "bob", "eve")})


@pytest.fixture
def gov(tmp_path: Path, people: SimpleNamespace) -> Box:
    return governed(tmp_path / "repo", [people.alice, people.bob], approvals=WANTED)


def completed(box: Box) -> str:
    protocol = box.new({"01-a": command("echo a > a.txt")})
    box.runner("run", protocol, rc=0)
    return protocol


def says(box: Box, who: Person, *words: str) -> None:
    box.runner(*words, "merge", "--yes", env=who.env, rc=0)


def merged(box: Box, protocol: str, merge: Merge, *, moved: bool = True) -> None:
    """Merge it and take the branch away; `moved`: main went on meanwhile, where the merge allows it."""
    if moved and merge is not fast_forward:
        box.write("other.txt", "x\n")
        box.commit("main goes on")
    merge(box, protocol)
    box.git("worktree", "remove", "--force", box.worktree(protocol))
    box.git("branch", "-qD", protocol)


def finding(box: Box, protocol: str) -> str:
    """What the one finding says, which is of the merge."""
    (found,) = box.runner("verify", protocol, "--json", rc=4).json()["protocols"][0]["findings"]
    assert found["rule"] == "merge" and found["path"] == f".protocols/{protocol}"
    return str(found["text"])


@EVERY
def test_a_merge_without_the_word_that_the_policy_wanted_is_found(gov: Box, merge: Merge) -> None:
    protocol = completed(gov)
    gov.runner("verify", protocol, rc=0)
    merged(gov, protocol, merge)
    assert finding(gov, protocol) == "it was merged without the approval of a maintainer (alice, bob)"


def test_a_merge_under_a_policy_that_cannot_be_read_is_found(gov: Box) -> None:
    protocol = completed(gov)
    good = gov.git("show", "main:.protocols/policy.yaml")
    gov.write(".protocols/policy.yaml", "rols: {}\n")
    gov.commit("a policy that is none")
    no_ff(gov, protocol)
    gov.write(".protocols/policy.yaml", good)
    gov.commit("the policy again")
    assert "unknown key `rols`" in finding(gov, protocol)


@EVERY
def test_a_merge_with_its_word_holds(gov: Box, people: SimpleNamespace, merge: Merge) -> None:
    protocol = completed(gov)
    says(gov, people.alice, "approve", protocol)
    merged(gov, protocol, merge)
    assert "its merge was approved by alice@example.test" in gov.runner("verify", protocol, rc=0).err


def test_what_keeps_a_word_on_a_merge_from_counting(gov: Box, people: SimpleNamespace) -> None:
    protocol = completed(gov)
    says(gov, people.alice, "approve", protocol)
    says(gov, people.bob, "reject", protocol)
    merged(gov, protocol, squash)
    assert finding(gov, protocol) == "it was merged, and rejected by bob@example.test"


def test_code_that_came_after_the_word_makes_it_stale(gov: Box, people: SimpleNamespace) -> None:
    protocol = completed(gov)
    says(gov, people.alice, "approve", protocol)
    folder = gov.worktree(protocol)
    (folder / "late.txt").write_text("late\n")
    gov.commit("late", cwd=folder)
    squash(gov, protocol)
    assert "alice@example.test's does not count: late.txt was changed since" in finding(gov, protocol)


@pytest.mark.parametrize("seen", ["right", "f" * 40], ids=["seen", "unseen"])
def test_a_word_by_a_key_that_is_not_listed_does_not_count(gov: Box, people: SimpleNamespace, seen: str) -> None:
    import hashlib

    protocol = completed(gov)
    text = gov.runner("approve", protocol, "merge", "--print", env=people.alice.env, rc=0).out
    if seen != "right":
        text = "".join(f"seen: {seen}\n" if line.startswith("seen: ") else line for line in text.splitlines(True))
    folder = gov.worktree(protocol) / f".protocols/{protocol}/approvals"
    folder.mkdir()
    name = hashlib.sha256(text.encode()).hexdigest()[:32]
    (folder / f"{name}.approval").write_text(people.eve.sign(text))
    gov.commit("a word", cwd=folder)
    merged(gov, protocol, squash)
    assert "alice@example.test's does not count: " in finding(gov, protocol)


def test_a_word_on_what_is_not_here_any_more_is_neither_believed_nor_doubted(gov: Box, people: SimpleNamespace) -> None:
    import hashlib

    protocol = completed(gov)
    folder = gov.worktree(protocol)
    (folder / "late.txt").write_text("late\n")
    gov.commit("late", cwd=folder)
    text = gov.runner("approve", protocol, "merge", "--print", env=people.alice.env, rc=0).out
    (folder / f".protocols/{protocol}/approvals").mkdir()
    name = hashlib.sha256(text.encode()).hexdigest()[:32]
    (folder / f".protocols/{protocol}/approvals/{name}.approval").write_text(people.alice.sign(text))
    gov.commit("a word", cwd=folder)
    squash(gov, protocol)
    assert "its merge was approved by alice" in gov.runner("verify", protocol, rc=0).err
    gov.git("worktree", "remove", "--force", folder)
    gov.git("branch", "-qD", protocol)
    assert "whether its merge was approved is unknown" in gov.runner("verify", protocol, rc=0).err


def test_it_is_the_policy_of_then_and_never_the_branchs_own(gov: Box, people: SimpleNamespace) -> None:
    maintainers = [people.alice, people.bob]
    gov.write(".protocols/policy.yaml", policy(maintainers, approvals=NOT_WANTED))
    gov.commit("no word on merges")
    before = completed(gov)
    merged(gov, before, squash)
    gov.write(".protocols/policy.yaml", policy(maintainers, approvals=WANTED))
    gov.commit("a word on merges")
    gov.runner("verify", before, rc=0)

    protocol = completed(gov)
    folder = gov.worktree(protocol)
    (folder / ".protocols/policy.yaml").write_text(policy(maintainers, approvals=NOT_WANTED))
    gov.commit("a policy of their own", cwd=folder)
    merged(gov, protocol, rebase, moved=False)
    assert "without the approval of" in finding(gov, protocol)


def test_of_a_review_is_said_that_it_cannot_be_proved(tmp_path: Path, people: SimpleNamespace) -> None:
    accounts = 'forge: {"forge.example": {alice@example.test: 7}}\n'
    box = governed(tmp_path / "repo", [people.alice], approvals=WANTED, more=accounts)
    protocol = completed(box)
    merged(box, protocol, squash)
    told = box.runner("verify", protocol, rc=0).err
    assert "its merge required a maintainer (alice); a review may have given it (said by the forge" in told


def test_the_word_on_a_merge_is_in_the_history_and_its_branch_can_go(gov: Box, people: SimpleNamespace) -> None:
    protocol = completed(gov)
    says(gov, people.alice, "approve", protocol)
    squash(gov, protocol)
    assert f"removed  branch     {protocol}" in gov.runner("clean", "--yes", rc=0).out
    assert "its merge was approved by alice" in gov.runner("verify", protocol, rc=0).err
