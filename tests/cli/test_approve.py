"""People's words, as people give them: real keys, real git, and what is said to each of them."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from runner.executor import advance
from runner.protocol import events as ev
from runner.store.snapshot import Snapshot
from tests.conftest import Box, Result, clone, command, second_verdicts
from tests.people import Person, at_terminal, govern, governed, person, policy, push

BEFORE = {"01-deploy": command("echo deployed > d.txt", "approval: before\n"), "02-after": command("true")}


class People:
    """Everybody. Alice and Bob are maintainers; Carol's key is listed, and she is in no role; nobody knows Mallory."""

    def __init__(self, folder: Path) -> None:
        self.alice, self.bob = person(folder, "alice"), person(folder, "bob")
        self.carol, self.mallory = person(folder, "carol"), person(folder, "mallory")


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> People:
    return People(tmp_path_factory.mktemp("people"))


@pytest.fixture
def gov(tmp_path: Path, people: People) -> Box:
    """A repository with a policy and no remote."""
    return governed(tmp_path / "repo", [people.alice, people.bob], [people.carol])


@pytest.fixture
def shared(tmp_path: Path, people: People) -> Box:
    """A repository with a policy whose `origin` has everything."""
    return governed(tmp_path / "repo", [people.alice, people.bob], [people.carol], remote=True)


def says(box: Box, who: Person, *args: str | Path, rc: int | None = 0, env: Mapping[str, str] | None = None) -> Result:
    """Let somebody run a command, in the box's checkout."""
    return box.runner(*args, rc=rc, env={**who.env, **(env or {})})


def waiting(box: Box, steps: Mapping[str, str] = BEFORE, title: str = "Ship it", front: str = "") -> str:
    """Make a protocol and run it till it waits."""
    protocol = box.new(steps, title=title, front=front)
    box.runner("run", protocol, rc=3)
    return protocol


def fields(box: Box, protocol: str, event: str) -> list[dict[str, object]]:
    """The entries of an event in the log, as plain fields."""
    from runner.protocol import log

    return [raw.fields for raw in log.parse_raw(box.log(protocol).encode(), "the log") if raw.event == event]


def approvals(box: Box, protocol: str) -> list[str]:
    """The approvals' files on the branch."""
    return box.git("ls-tree", "-r", "--name-only", protocol, f".protocols/{protocol}/approvals/").split()


def done(box: Box, protocol: str, path: str = "d.txt") -> bool:
    """Whether the step's work is on the branch."""
    return path in box.git("ls-tree", "-r", "--name-only", protocol).split()


# --- each thing that can be approved -----------------------------------------------------------------------------------


def test_a_step_waits_for_a_word_and_goes_on_with_it(gov: Box, people: People) -> None:
    protocol = waiting(gov)
    assert not done(gov, protocol)
    told = says(gov, people.alice, "approve", protocol, "--yes", "-m", "go").err
    assert "echo deployed" in told and "approve step:deploy as alice@example.test" in told
    assert "runner run 1" in told
    (file,) = approvals(gov, protocol)
    text = gov.git("show", f"{protocol}:{file}")
    assert text.startswith("runner-approval/v1\n") and "reason: go\n" in text
    made = gov.git("cat-file", "commit", protocol)
    assert "\ngpgsig " in made and "alice <alice@example.test>" in made
    assert gov.git("diff", "--name-only", f"{protocol}~1", protocol).split() == [file]
    went_on = gov.runner("run", protocol, rc=0).err
    assert "approved  by alice@example.test" in went_on and done(gov, protocol)
    (counted,) = fields(gov, protocol, "approval-counted")
    assert counted["by"] == ["alice@example.test"] and counted["approvals"] == [Path(file).stem]
    gov.runner("verify", protocol, rc=0)


@pytest.mark.parametrize("name", ["1", "01", "01-deploy", "01-deploy.md"])
def test_a_step_is_approved_by_its_number_too(gov: Box, people: People, name: str) -> None:
    assert "step:deploy: approved" in says(gov, people.alice, "approve", waiting(gov), name, "--yes").err


def test_a_dry_run_counts_an_approval_that_was_given(gov: Box, people: People) -> None:
    protocol = waiting(gov)
    told = gov.runner("step", protocol, "--dry-run", rc=3)
    assert "approval before it starts" in told.out
    assert told.err == "  next          runner approve 1, by alice@example.test or bob@example.test\n"
    says(gov, people.alice, "approve", protocol, "--yes")
    tip = gov.git("rev-parse", protocol)
    assert gov.runner("step", protocol, "--dry-run", rc=0).out.splitlines() == [
        "would record the decision of alice@example.test on deploy",
        "would run 01-deploy: 01-deploy, attempt 1",
    ]
    assert gov.git("rev-parse", protocol) == tip


def test_a_dry_run_asks_for_the_approval_that_the_step_would_ask_for(gov: Box, people: People) -> None:
    protocol = gov.new(BEFORE, front="approval: before\n")

    def would(rc: int = 0) -> list[str]:
        return gov.runner("step", protocol, "--dry-run", rc=rc).out.splitlines()

    assert would() == ["would ask a maintainer (alice, bob) for approval of the plan"]
    gov.runner("step", protocol, rc=3)
    says(gov, people.alice, "approve", protocol, "--yes")
    assert would() == [
        "would record the decision of alice@example.test on plan",
        "would ask a maintainer (alice, bob) for approval before it starts",
    ]


def test_the_word_on_a_result_comes_after_the_work(gov: Box, people: People) -> None:
    protocol = waiting(gov, {"01-deploy": command("echo deployed > d.txt", "approval: after\n")})
    assert done(gov, protocol)
    told = says(gov, people.bob, "approve", protocol, "--yes").err
    assert "approve result:deploy" in told and "+deployed" in told
    gov.runner("run", protocol, rc=0)
    gov.runner("verify", protocol, rc=0)


def test_a_plan_is_approved_before_any_step(gov: Box, people: People) -> None:
    protocol = waiting(gov, {"01-a": command("echo a > a.txt")}, front="approval: before\n")
    assert not done(gov, protocol, "a.txt")
    told = says(gov, people.alice, "approve", protocol, "--yes").err
    assert "  plan.md\n" in told and "  01-a.md\n" in told
    gov.runner("run", protocol, rc=0)
    assert done(gov, protocol, "a.txt")
    gov.runner("verify", protocol, rc=0)


@pytest.mark.slow
def test_a_plan_can_be_approved_before_anybody_asks(gov: Box, people: People) -> None:
    protocol = gov.new({"01-a": command("true")}, front="approval: before\n")
    says(gov, people.alice, "approve", protocol, "plan", "--yes")
    gov.runner("run", protocol, rc=0)  # it is asked, and the word is there already
    assert fields(gov, protocol, "approval-counted")[0]["by"] == ["alice@example.test"]


@pytest.mark.slow
def test_a_policy_asks_where_the_plan_does_not(tmp_path: Path, people: People) -> None:
    required = "  plan: {roles: [maintainer], required: true}\n"
    box = governed(tmp_path / "repo", [people.alice, people.bob], approvals=required)
    protocol = waiting(box, {"01-a": command("true")})
    says(box, people.alice, "approve", protocol, "--yes")
    box.runner("run", protocol, rc=0)


def test_a_protected_file_that_a_step_changed_is_looked_at(gov: Box, people: People) -> None:
    protocol = waiting(gov, {"01-ci": command("mkdir -p .github && echo x > .github/ci.yml")})
    told = says(gov, people.alice, "approve", protocol, "--yes").err
    assert "approve protected-path:ci" in told and "+++ b/.github/ci.yml" in told
    gov.runner("run", protocol, rc=0)
    gov.runner("verify", protocol, rc=0)


def test_what_waits_is_named_in_any_way(gov: Box, people: People) -> None:
    protocol = waiting(gov)
    for named in (("step:deploy",), ("01-deploy",), ("deploy",), ("01-deploy.md",), ("w3",), ()):
        assert "subject: step:deploy\n" in says(gov, people.alice, "approve", protocol, *named, "--print").out


@pytest.mark.slow
def test_two_things_that_wait_are_told_apart(gov: Box, people: People) -> None:
    steps = {name: command("true", "approval: before\nneeds: []\n") for name in ("01-a", "02-b")}
    protocol = gov.new(steps)
    for slug in ("a", "b"):
        gov.runner("step", protocol, "--step", slug, rc=3)
    error = says(gov, people.alice, "approve", protocol, "--yes", rc=2).err
    assert "2 approvals are pending" in error and "name one: step:a, step:b" in error
    says(gov, people.alice, "approve", protocol, "b", "--yes")
    gov.runner("run", protocol, rc=3)  # the word on b is counted; a goes first
    gov.runner("step", protocol, "--step", "b", rc=0)
    assert gov.state(protocol)["steps"]["b"]["status"] == "completed"


# --- how many, and who ---------------------------------------------------------------------------------------------------


def test_two_have_to_say_it_and_one_twice_is_not_two(gov: Box, people: People, tmp_path: Path) -> None:
    steps = {"01-deploy": command("echo deployed > d.txt", "approval: {when: before, count: 2}\n")}
    protocol = waiting(gov, steps)
    statements = [says(gov, people.alice, "approve", protocol, "--print").out for _ in range(2)]
    assert statements[0] != statements[1]
    for at, statement in enumerate(statements):
        (tmp_path / f"{at}").write_text(people.alice.sign(statement))
        told = says(gov, people.alice, "approve", "--import", tmp_path / f"{at}").err
        assert "still needed: 2 of maintainer (alice, bob), 1 so far" in told
        assert "next          runner approve 1, by bob@example.test" in told
    gov.runner("run", protocol, rc=3)
    assert not done(gov, protocol)
    assert "runner run 1" in says(gov, people.bob, "approve", protocol, "--yes").err
    gov.runner("run", protocol, rc=0)
    assert fields(gov, protocol, "approval-counted")[0]["by"] == ["alice@example.test", "bob@example.test"]
    gov.runner("verify", protocol, rc=0)


def test_an_approval_that_a_failed_start_used_up_is_still_needed_after_another_s(gov: Box, people: People) -> None:
    protocol = waiting(gov, {"01-deploy": command("false", "approval: {when: before, count: 2}\n")})
    for one in (people.alice, people.bob):
        says(gov, one, "approve", protocol, "--yes")
    gov.runner("run", protocol)
    gov.runner("retry", protocol)
    gov.runner("step", protocol, rc=3)
    told = says(gov, people.alice, "approve", protocol, "--yes").err
    assert "still needed: 2 of maintainer (alice, bob), 1 so far" in told
    assert "next          runner approve 1, by bob@example.test" in told


def test_two_that_can_never_be_reached_are_refused_before_anything_waits(gov: Box, people: People) -> None:
    steps = {"01-deploy": command("echo deployed > d.txt", "approval: {when: before, count: 2}\n")}
    protocol = says(gov, people.alice, "new", "Ship it", "--plan", gov.plan(steps)).out.strip()
    error = gov.runner("run", protocol, rc=2).err
    assert "step:deploy needs approval by 2 of maintainer (alice, bob)" in error
    assert "`own_work: refuse` leaves out alice@example.test" in error and ".protocols/policy.yaml on main:" in error
    govern(gov, [people.alice, people.bob, people.carol])
    gov.runner("run", protocol, rc=3)


def test_a_step_may_want_a_further_role(tmp_path: Path, people: People) -> None:
    names = f"  release: [{people.carol.email}]\nagents: []\n"
    text = policy([people.alice, people.bob]).replace("agents: [runner@example.test]\n", names)
    box = governed(tmp_path / "repo", [people.alice], [people.bob, people.carol])
    govern(box, [people.alice], [people.bob, people.carol], text=text)
    protocol = waiting(box, {"01-deploy": command("echo x > d.txt", "approval: {when: before, roles: [release]}\n")})
    assert "a maintainer (alice, bob) and a release (carol)" in box.runner("status", protocol).out
    told = says(box, people.carol, "approve", protocol, "--yes").err
    assert "still needed: a maintainer (alice, bob)" in told
    box.runner("run", protocol, rc=3)
    says(box, people.bob, "approve", protocol, "--yes")
    box.runner("run", protocol, rc=0)
    box.runner("verify", protocol, rc=0)


def test_saying_a_thing_twice_writes_nothing(gov: Box, people: People) -> None:
    protocol = waiting(gov)
    says(gov, people.alice, "approve", protocol, "--yes")
    tip = gov.git("rev-parse", protocol)
    assert "you approved it already" in says(gov, people.alice, "approve", protocol, "--yes").err
    assert gov.git("rev-parse", protocol) == tip


def test_of_somebodys_words_the_last_alone_is_told(gov: Box, people: People) -> None:
    protocol = waiting(gov)
    says(gov, people.alice, "approve", protocol, "--yes")
    at = gov.worktree(protocol)
    step = at / f".protocols/{protocol}/01-deploy.md"
    step.write_text(step.read_text().replace("deployed", "shipped"))
    gov.commit("ship", cwd=at)
    told = gov.runner("run", protocol, rc=3).err
    assert "an approval does not count: alice@example.test: stale: " in told
    says(gov, people.alice, "reject", protocol, "--yes", "-m", "not like this")
    told = gov.runner("status", protocol).out
    assert "alice@example.test rejected: not like this" in told and "stale" not in told
    assert "not needed: approvals/" in gov.runner("verify", protocol, rc=0).err
    says(gov, people.alice, "approve", protocol, "--yes")
    gov.runner("run", protocol, rc=0)
    assert "approval-counted  approved by alice@example.test" in gov.runner("show", protocol, "deploy").out


def test_a_rejection_by_somebody_without_the_role_is_said_not_to_count(gov: Box, people: People) -> None:
    protocol = waiting(gov)
    said = says(gov, people.carol, "reject", protocol, "--yes", "-m", "no", rc=4).err
    assert "error: the rejection would not count: carol@example.test is not" in said


def test_a_rejection_stands_till_it_is_taken_back(gov: Box, people: People) -> None:
    protocol = waiting(gov)
    says(gov, people.alice, "approve", protocol, "--yes")
    told = says(gov, people.bob, "reject", protocol, "--yes", "-m", "not on a friday").err
    assert "still needed: a revocation by bob@example.test, or an edit" in told
    assert "bob@example.test rejected: not on a friday" in gov.runner("run", protocol, rc=3).err
    assert not done(gov, protocol)
    says(gov, people.bob, "revoke", protocol, "--yes")
    assert "runner run 1" in gov.runner("status", protocol).out
    gov.runner("run", protocol, rc=0)
    assert done(gov, protocol)
    gov.runner("verify", protocol, rc=0)


def test_a_step_that_somebody_else_rejected_is_not_to_be_approved_next(gov: Box, people: People) -> None:
    protocol = waiting(gov)
    own = says(gov, people.bob, "reject", protocol, "--yes").err
    given = says(gov, people.alice, "approve", protocol, "--yes").err
    assert "next          runner revoke 1, by bob@example.test, or runner edit 1 deploy\n" in given
    told = [says(gov, people.alice, verb, protocol, rc=rc) for verb, rc in (("run", 3), ("status", 0))]
    for one in told:
        assert "runner revoke 1, by bob@example.test, or runner edit 1 deploy" in one.out + one.err
        assert "runner approve" not in one.out + one.err
    assert (
        "next          runner edit 1 deploy, or runner approve 1\n" in says(gov, people.bob, "status", protocol).out
    ), own
    assert "runner revoke 1, by bob@example.test" in says(gov, people.alice, "status").out


@pytest.mark.parametrize("decision", ["reject", "revoke"])
def test_a_merge_that_leaves_a_decision_out_is_refused_though_it_is_a_fast_forward(
    gov: Box, people: People, decision: str
) -> None:
    protocol = waiting(gov)
    if decision == "revoke":
        says(gov, people.alice, "approve", protocol, "--yes")
    before = gov.git("rev-parse", protocol).strip()
    says(gov, people.alice, decision, protocol, "--yes")
    merge = gov.git("commit-tree", f"{before}^{{tree}}", "-p", before, "-p", protocol, "-m", "Merge branch 'x'").strip()
    gov.git("reset", "-q", "--hard", merge, cwd=gov.worktree(protocol))
    assert "the merge leaves out an approval" in gov.runner("verify", protocol, rc=4).out
    says(gov, people.bob, "approve", protocol, "--yes", rc=4)
    gov.runner("run", protocol, rc=4)
    assert not done(gov, protocol)


def test_a_merge_that_keeps_each_decision_holds(gov: Box, people: People) -> None:
    protocol = waiting(gov)
    tree = gov.worktree(protocol)
    gov.git("branch", "side", protocol)
    says(gov, people.alice, "approve", protocol, "--yes")
    said = gov.git("rev-parse", protocol).strip()
    gov.git("reset", "-q", "--hard", "side", cwd=tree)
    gov.git("commit", "-q", "--allow-empty", "-m", "by hand", cwd=tree)
    gov.git("merge", "-q", "-m", "merge", said, cwd=tree)
    gov.runner("run", protocol, rc=0)
    assert done(gov, protocol)
    gov.runner("verify", protocol, rc=0)


def test_an_approval_outlives_damage_that_was_repaired(gov: Box, people: People) -> None:
    protocol = waiting(gov)
    says(gov, people.alice, "approve", protocol, "--yes")
    gov.git("rm", "-q", f".protocols/{protocol}/state.json", cwd=gov.worktree(protocol))
    gov.git("commit", "-qm", "oops", cwd=gov.worktree(protocol))
    gov.runner("doctor", "--fix", protocol, rc=0)
    gov.runner("run", protocol, rc=0)
    assert done(gov, protocol)
    gov.runner("verify", protocol, rc=0)


@pytest.mark.slow
def test_rejected_by_mistake_and_approved_again(gov: Box, people: People) -> None:
    protocol = waiting(gov)
    says(gov, people.alice, "reject", protocol, "--yes")
    says(gov, people.alice, "approve", protocol, "--yes")
    gov.runner("run", protocol, rc=0)
    assert fields(gov, protocol, "approval-counted")[0]["by"] == ["alice@example.test"]


def test_a_decision_is_taken_back_before_it_is_used(gov: Box, people: People) -> None:
    protocol = waiting(gov)
    says(gov, people.alice, "approve", protocol, "--yes")
    says(gov, people.alice, "revoke", protocol, "--yes")
    gov.runner("run", protocol, rc=3)
    assert not done(gov, protocol)
    error = says(gov, people.alice, "revoke", protocol, "--yes", rc=4).err
    assert "has no approval or rejection of it to revoke" in error


# --- signed elsewhere ----------------------------------------------------------------------------------------------------


def test_a_word_is_printed_signed_elsewhere_and_brought_back(gov: Box, people: People, tmp_path: Path) -> None:
    protocol = waiting(gov)
    printed = says(gov, people.alice, "approve", protocol, "--print", "--for", "2h")
    assert printed.out.startswith("runner-approval/v1\n") and printed.out.endswith("reason: \n")
    assert "ssh-keygen -Y sign -n runner-approval" in printed.err
    (tmp_path / "word").write_text(people.alice.sign(printed.out))
    told = gov.runner("approve", protocol, "--import", tmp_path / "word", rc=0).err  # brought by Dana
    assert "added in" in told and "runner run 1" in told
    assert "dana@example.test" in gov.git("log", "-1", "--format=%ae", protocol)
    gov.runner("run", protocol, rc=0)
    gov.runner("verify", protocol, rc=0)


@pytest.mark.parametrize(
    ("spoil", "code", "said"),
    [
        (lambda text, who: text, 2, "the line BEGIN"),  # not signed at all
        (lambda text, who: who.sign(text).replace("approve", "reject", 1), 4, "the signature does not fit"),
        (lambda text, who: who.sign(text).replace("\n", "\r\n"), 2, "line"),
        (lambda text, who: who.sign(text, "git"), 4, "namespace"),
        (lambda text, who: who.sign(text) + "\n", 2, "after the END line"),
        (lambda text, who: who.sign(text.replace("0001-ship-it", "0009-other")), 4, "0009-other has no branch"),
    ],
)
def test_a_word_that_would_not_count_is_not_brought_in(
    gov: Box, people: People, tmp_path: Path, spoil: object, code: int, said: str
) -> None:
    protocol = waiting(gov)
    tip = gov.git("rev-parse", protocol)
    statement = says(gov, people.alice, "approve", protocol, "--print").out
    assert callable(spoil)
    (tmp_path / "word").write_bytes(spoil(statement, people.alice).encode())
    error = says(gov, people.alice, "approve", "--import", tmp_path / "word", rc=code).err
    assert "next:" in error
    assert gov.git("rev-parse", protocol) == tip


def test_a_file_that_is_not_there_is_told(gov: Box) -> None:
    assert "cannot be read" in gov.runner("approve", "--import", "nowhere", rc=2).err


# --- mistakes ------------------------------------------------------------------------------------------------------------


def test_a_word_that_an_edit_made_stale_is_told_with_the_commit_and_the_diff(gov: Box, people: People) -> None:
    protocol = waiting(gov)
    says(gov, people.alice, "approve", protocol, "--yes")
    at = gov.worktree(protocol)
    file = at / f".protocols/{protocol}/01-deploy.md"
    file.write_text(file.read_text().replace("deployed", "pwned"))
    gov.git("commit", "-qam", "a small change", cwd=at)
    commit = gov.git("rev-parse", protocol).strip()[:12]
    status = gov.runner("status", protocol).out
    assert "alice@example.test approved: stale" in status and commit in status and "a small change" in status
    assert "runner run 1" in status
    told = gov.runner("run", protocol, rc=3).err
    assert "refused" in told and "stale" in told and commit in told
    assert not done(gov, protocol)
    told = says(gov, people.alice, "approve", protocol, "--yes").err
    assert "changed since your last approval" in told and '-run: "echo deployed' in told and '+run: "echo pwned' in told
    assert "BEGIN SSH SIGNATURE" not in told and "state.json" not in told
    gov.runner("run", protocol, rc=0)
    gov.runner("verify", protocol, rc=0)


def test_an_edit_that_is_not_committed_is_said_before_it_makes_the_word_stale(gov: Box, people: People) -> None:
    protocol = waiting(gov)
    file = gov.worktree(protocol) / f".protocols/{protocol}/01-deploy.md"
    file.write_text(file.read_text().replace("deployed", "pwned"))
    told = says(gov, people.alice, "approve", protocol, "--yes").err
    assert "your uncommitted edit of 01-deploy.md" in told
    gov.runner("run", protocol, rc=3)
    assert not done(gov, protocol)


@pytest.mark.slow
def test_windows_line_ends_do_not_make_a_word_stale(gov: Box, people: People) -> None:
    plan = gov.plan(BEFORE)
    for file in plan.iterdir():
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    protocol = gov.runner("new", "Windows", "--plan", plan, rc=0).out.strip()
    gov.runner("run", protocol, rc=3)
    says(gov, people.alice, "approve", protocol, "--yes")
    gov.runner("run", protocol, rc=0)
    gov.runner("verify", protocol, rc=0)


def test_a_key_that_is_not_listed_gets_the_line_to_add(gov: Box, people: People, tmp_path: Path) -> None:
    protocol = waiting(gov)
    alice = person(tmp_path, "alice")  # with another key
    error = says(gov, alice, "approve", protocol, "--yes", rc=4).err
    assert "is not listed" in error and ".protocols/allowed_signers on main" in error
    assert alice.line().strip() in error
    assert approvals(gov, protocol) == []


def test_what_comes_before_the_next_approval_is_named(gov: Box, people: People) -> None:
    protocol = gov.new({"01-a": "kind: human\n", "02-b": command("true", "approval: before\n")})
    hint = "next: `runner run 1` continues until an approval is needed\n"
    assert hint in says(gov, people.alice, "approve", protocol, rc=2).err
    gov.runner("run", protocol, rc=3)
    assert "next: `runner answer 1 TEXT` comes first\n" in says(gov, people.alice, "approve", protocol, rc=2).err


def test_a_checkout_that_is_behind_has_no_list_of_keys_to_push(shared: Box, people: People, tmp_path: Path) -> None:
    keys = shared.path / ".protocols/allowed_signers"
    shared.write(".protocols/allowed_signers", f"{keys.read_text()}# all\n")
    shared.commit("more keys")
    shared.git("push", "-q", "origin", "main")
    shared.git("reset", "-q", "--hard", "HEAD~1")
    protocol = waiting(shared)
    alice = person(tmp_path, "alice")  # with another key
    error = says(shared, alice, "approve", protocol, "--yes", rc=4).err
    assert "is not listed" in error and alice.line().strip() in error and "git push" not in error
    shared.write(".protocols/allowed_signers", alice.line())
    shared.commit("my key")
    assert "`git push origin main`" in says(shared, alice, "approve", protocol, "--yes", rc=4).err


def test_a_person_without_the_role_is_told_who_has_it(gov: Box, people: People) -> None:
    protocol = waiting(gov)
    error = says(gov, people.carol, "approve", protocol, "--yes", rc=4).err
    assert "carol@example.test is not a maintainer (alice, bob)" in error and "policy.yaml" in error


@pytest.mark.parametrize("signs", [False, True])
def test_who_is_no_approver_is_not_asked_for_a_key(gov: Box, people: People, tmp_path: Path, signs: bool) -> None:
    protocol = waiting(gov)
    error = says(gov, person(tmp_path, "erin", signs=signs), "approve", protocol, "--yes", rc=4).err
    assert "erin@example.test is not a maintainer (alice, bob)" in error and "ask one of them" in error
    assert "key" not in error and approvals(gov, protocol) == []


def test_who_cannot_approve_is_told_who_can(gov: Box, people: People) -> None:
    protocol = says(gov, people.alice, "new", "Mine", "--plan", gov.plan(BEFORE)).out.strip()
    told = says(gov, people.alice, "run", protocol, rc=3).err
    assert "next          runner approve 1, by bob@example.test" in told
    for words in (["status", protocol], ["status"]):
        for who in (people.alice, people.carol):
            assert "runner approve 1, by bob@example.test\n" in says(gov, who, *words).out
        assert "runner approve 1\n" in says(gov, people.bob, *words).out
    for who, typed in ((people.alice, None), (people.bob, "runner approve 1")):
        assert says(gov, who, "show", protocol, "--json").json()["command"] == typed


def test_where_everybody_wrote_it_the_policy_is_what_has_to_change(tmp_path: Path, people: People) -> None:
    box = governed(tmp_path / "repo", [people.alice])
    protocol = says(box, people.alice, "new", "Mine", "--plan", box.plan(BEFORE)).out.strip()
    told = says(box, people.alice, "run", protocol, rc=3).err
    assert "next          add another person to a role in .protocols/policy.yaml" in told


def test_nobody_approves_their_own_work(gov: Box, people: People) -> None:
    plan = gov.plan(BEFORE)
    protocol = says(gov, people.alice, "new", "Mine", "--plan", plan).out.strip()
    gov.runner("run", protocol, rc=3)
    error = says(gov, people.alice, "approve", protocol, "--yes", rc=4).err
    assert "alice@example.test wrote what it approves" in error and "another person has to" in error
    assert "bob" in error
    says(gov, people.bob, "approve", protocol, "--yes")
    gov.runner("run", protocol, rc=0)


def test_without_a_signing_key_the_commands_that_make_one_are_said(gov: Box, people: People, tmp_path: Path) -> None:
    protocol = waiting(gov)
    alice = person(tmp_path, "alice", signs=False)
    error = says(gov, alice, "approve", protocol, "--yes", rc=2).err
    assert "your git has no signing key" in error and "ssh-keygen -t ed25519" in error and "user.signingkey" in error
    (alice.home / ".ssh").mkdir()
    for suffix in ("", ".pub"):
        Path(f"{alice.key}{suffix}").rename(alice.home / ".ssh" / f"id_ed25519{suffix}")
    error = says(gov, alice, "approve", protocol, "--yes", rc=2).err
    assert "ssh-keygen" not in error and "user.signingkey ~/.ssh/id_ed25519.pub" in error


def test_a_runners_own_identity_approves_nothing(gov: Box, people: People) -> None:
    protocol = waiting(gov)
    machine = {"RUNNER_EMAIL": "runner@example.test", "RUNNER_NAME": "runner"}
    error = says(gov, people.alice, "approve", protocol, "--print", rc=4, env=machine).err
    assert "runner@example.test is a runner or an agent" in error and "a person has to approve it" in error
    # The statement decides, and not whose machine it is: Alice's key says that it is Alice.
    says(gov, people.alice, "approve", protocol, "--yes", env=machine)
    assert gov.git("log", "-1", "--format=%ae", protocol).strip() == "runner@example.test"
    gov.runner("run", protocol, rc=0)


def test_nothing_waits(gov: Box, people: People) -> None:
    protocol = gov.new(BEFORE)
    for named in ("", "deploy", "merge", "call:deploy.1.1", "nonsense"):
        error = says(gov, people.alice, "approve", protocol, *filter(None, [named]), "--yes", rc=2).err
        assert "nothing waits for an approval" in error and "`runner run 1`" in error
    gov.runner("run", protocol, rc=3)
    error = says(gov, people.alice, "approve", protocol, "after", "--yes", rc=2).err
    assert "what waits: step:deploy" in error


def test_what_has_ended_cannot_be_approved(gov: Box, people: People) -> None:
    protocol = waiting(gov)
    gov.runner("cancel", protocol, rc=0)
    error = says(gov, people.alice, "approve", protocol, "--yes", rc=4).err
    assert "is cancelled" in error and "runner undo 1" in error
    other = gov.new({"01-a": command("true")})
    gov.runner("run", other, rc=0)
    error = says(gov, people.alice, "approve", other, "step:a", "--yes", rc=2).err
    assert "`merge` can be approved" in error


def test_without_a_terminal_and_without_yes_nothing_is_signed(gov: Box, people: People) -> None:
    protocol = waiting(gov)
    told = says(gov, people.alice, "approve", protocol, rc=3).err
    assert "decision      approve step:" in told and "nothing was signed; without a terminal, add --yes" in told
    assert approvals(gov, protocol) == []


def test_a_word_lasts_as_long_as_is_said_and_no_longer_than_the_policy_allows(gov: Box, people: People) -> None:
    protocol = waiting(gov)
    for given, lasts in (("2h", 2 * 3600), ("2000h", 7 * 24 * 3600)):
        text = says(gov, people.alice, "approve", protocol, "--print", "--for", given).out
        times = [time.strptime(text.split(f"{name}: ")[1][:20], "%Y-%m-%dT%H:%M:%SZ") for name in ("issued", "expires")]
        assert time.mktime(times[1]) - time.mktime(times[0]) == lasts
    assert "--for" in says(gov, people.alice, "approve", protocol, "--for", "long", rc=2).err


def test_what_would_steer_a_terminal_is_shown_and_does_not(gov: Box, people: People) -> None:
    protocol = waiting(
        gov, {"01-a": command("printf 'a\\033]0;x\\007\\n\\342\\200\\256b\\n' > a.txt", "approval: after\n")}
    )
    told = says(gov, people.alice, "approve", protocol, "--yes").err
    assert "\x1b" not in told and "\u202e" not in told
    assert "\\x1b]0;x\\x07" in told and "\\u202e" in told


# --- the trusted branch ----------------------------------------------------------------------------------------------------


def test_a_policy_that_is_not_on_the_remote_yet_is_named(remote: Box, people: People) -> None:
    remote.write(".protocols/policy.yaml", policy([people.bob]))
    remote.write(".protocols/allowed_signers", people.bob.line())
    remote.commit("policy")
    protocol = remote.new(BEFORE)
    remote.runner("run", protocol, rc=3)
    error = says(remote, people.bob, "approve", protocol, "--yes", rc=3).err
    assert "policy.yaml as committed here has no effect" in error and "git push origin main" in error
    push(remote)
    says(remote, people.bob, "approve", protocol, "--yes")
    remote.runner("run", protocol, rc=0)
    assert fields(remote, protocol, "approval-counted")[0]["by"] == ["bob@example.test"]


def test_a_key_that_is_not_on_the_remote_yet_is_named(shared: Box, people: People, tmp_path: Path) -> None:
    protocol, alice = waiting(shared), person(tmp_path, "alice")  # with another key
    signers = shared.path / ".protocols/allowed_signers"
    signers.write_text(signers.read_text() + alice.line())
    shared.commit("Alice has a new key")
    error = says(shared, alice, "approve", protocol, "--yes", rc=4).err
    assert "allowed_signers as committed here has no effect" in error and "git push origin main" in error


def test_a_word_is_not_used_while_the_remote_is_away(shared: Box, people: People, tmp_path: Path) -> None:
    protocol = waiting(shared)
    says(shared, people.alice, "approve", protocol, "--yes")
    (tmp_path / "origin.git").rename(tmp_path / "away.git")
    assert "could not be reached" in shared.runner("run", protocol, rc=69).err
    error = shared.runner("run", protocol, "--offline", rc=69).err
    assert "is not asked" in error and "whose approvals count" in error and "next:" in error
    error = says(shared, people.bob, "approve", protocol, "--yes", rc=69).err
    assert "could not be reached" in error
    assert not done(shared, protocol)
    (tmp_path / "away.git").rename(tmp_path / "origin.git")
    shared.runner("run", protocol, rc=0)
    assert done(shared, protocol)


def test_another_clone_goes_on_with_the_word(shared: Box, people: People) -> None:
    protocol = waiting(shared)
    other = clone(shared, "second")
    told = other.runner("approve", protocol, "--yes", rc=0, env=people.bob.env).err
    assert "signed in" in told
    other.runner("run", protocol, rc=0)
    other.runner("verify", protocol, rc=0)
    shared.runner("run", protocol, rc=0)
    assert done(shared, protocol)
    assert shared.git("rev-parse", protocol) == other.git("rev-parse", protocol)


def test_yes_signs_nothing_that_only_the_fetch_brought(shared: Box, people: People) -> None:
    """Seen: the step that was shown had been approved elsewhere, and another one's approval was signed unseen."""
    protocol = waiting(shared, {f"0{at}-s{at}": command("true", "approval: before\n") for at in (1, 2)})
    other = clone(shared, "second")
    says(shared, people.alice, "approve", protocol, "--yes")
    shared.runner("run", protocol, rc=3)
    tip = shared.git("rev-parse", protocol)
    told = other.runner("approve", protocol, "--yes", rc=3, env=people.bob.env).err
    assert "approve step:s2 as bob" in told and "nothing was signed" in told
    assert "`runner approve 1 step:s2 --yes`" in told and other.git("rev-parse", protocol) == tip
    other.runner("approve", protocol, "step:s2", "--yes", rc=0, env=people.bob.env)


def test_yes_signs_no_merge_that_only_the_fetch_brought(tmp_path: Path, people: People) -> None:
    shared = governed(tmp_path / "repo", [people.alice, people.bob], approvals=MERGE, remote=True)
    protocol = shared.new({"01-h": "kind: human\n", "02-b": command("echo b > b.txt")})
    shared.runner("run", protocol, rc=3)
    other = clone(shared, "second")
    shared.runner("answer", protocol, "good", rc=0)
    shared.runner("run", protocol, rc=0)
    told = other.runner("approve", protocol, "--yes", rc=3, env=people.bob.env).err
    assert "nothing was signed" in told and "`runner approve 1 merge --yes`" in told
    assert "merge: approved" in other.runner("approve", protocol, "--yes", rc=0, env=people.bob.env).err  # it was shown


def test_approvals_are_verified_one_transition_after_another(gov: Box, people: People) -> None:
    steps = {f"0{at}-s{at}": command("true", "approval: before\n") for at in (1, 2)}
    protocol = waiting(gov, steps)
    for rc in (3, 0):
        says(gov, people.alice, "approve", protocol, "--yes")
        gov.runner("run", protocol, rc=rc)
    gov.runner("verify", protocol, rc=0)


@pytest.mark.slow
def test_run_goes_through_one_wait_after_another(gov: Box, people: People) -> None:
    steps = {f"0{at}-s{at}": command(f"echo {at} > {at}.txt", "approval: before\n") for at in (1, 2, 3)}
    protocol = waiting(gov, steps)
    for at, who in ((1, people.alice), (2, people.bob), (3, people.alice)):
        assert f"approve step:s{at} as" in says(gov, who, "approve", protocol, "--yes").err
        gov.runner("run", protocol, rc=0 if at == 3 else 3)
        assert done(gov, protocol, f"{at}.txt")
    gov.runner("verify", protocol, rc=0)


@pytest.mark.slow
def test_two_people_approve_at_once_and_both_words_are_there(shared: Box, people: People) -> None:
    steps = {"01-deploy": command("echo deployed > d.txt", "approval: {when: before, count: 2}\n")}
    protocol = waiting(shared, steps)
    other = clone(shared, "second")
    other.runner("status", protocol)
    started = [
        shared.start("approve", protocol, "--yes", env=people.alice.env),
        other.start("approve", protocol, "--yes", env=people.bob.env),
    ]
    ended = [child.communicate(timeout=100) for child in started]
    assert [child.returncode for child in started] == [0, 0], ended
    shared.runner("run", protocol, rc=0)
    assert set(fields(shared, protocol, "approval-counted")[0]["by"]) == {"alice@example.test", "bob@example.test"}  # type: ignore[call-overload]
    shared.runner("verify", protocol, rc=0)


# --- without a policy ------------------------------------------------------------------------------------------------------


def test_a_time_that_is_none_says_how_one_is_written(gov: Box, people: People) -> None:
    error = says(gov, people.alice, "approve", waiting(gov), "--yes", "--for", "7d", rc=2).err
    assert "'7d' is not a duration; one is written as 90m, 24h or 168h" in error


def test_at_a_terminal_a_signature_is_asked_for_once(gov: Box, people: People) -> None:
    protocol = waiting(gov)
    code, said = at_terminal(gov, {b"approve this": b"no\n"}, "approve", protocol, env=people.alice.env)
    assert code == 3 and "nothing was signed" in said
    code, said = at_terminal(gov, {b"approve this": b"y\n"}, "approve", protocol, env=people.alice.env)
    assert code == 0, said
    assert len(re.findall(r"\]:", said)) == 1 and "signed in" in said
    gov.runner("run", protocol, rc=0)


def test_without_a_policy_a_word_is_an_answer_at_a_terminal(box: Box) -> None:
    protocol = box.new(BEFORE)
    assert "you, at a terminal" in box.runner("run", protocol, rc=3).err
    code, said = at_terminal(box, {b"approve this": b"no\n"}, "approve", protocol)
    assert code == 3 and "nothing was decided" in said and "error" not in said
    code, said = at_terminal(box, {b"approve this": b"Y\n"}, "approve", protocol)
    assert code == 0 and "step:deploy: approved, without a signature" in said, said
    box.runner("run", protocol, rc=0)
    (counted,) = fields(box, protocol, "approval-counted")
    assert counted["by"] == ["keyboard"] and counted["approvals"] == []
    assert approvals(box, protocol) == []


def test_without_a_policy_nobody_says_it_but_a_person_at_a_terminal(box: Box) -> None:
    protocol = box.new(BEFORE)
    box.runner("run", protocol, rc=3)
    for args in ((), ("--yes",)):
        error = box.runner("approve", protocol, *args, rc=3).err
        assert "only a person at a terminal can decide" in error and "`runner init` writes one" in error
    code, said = at_terminal(box, {b"]:": b"yes\n"}, "approve", protocol, "--yes")
    assert code == 3 and "not --yes" in said
    code, said = at_terminal(box, {b"]:": b"yes\n"}, "approve", protocol, env={"CI": "true"})
    assert code == 3 and "not CI" in said
    assert not done(box, protocol)
    for words in (["revoke", protocol], ["approve", protocol, "plan"]):
        assert "no signature counts" in box.runner(*words, "--yes", rc=4).err


def test_a_policy_that_was_there_and_is_gone_makes_it_no_easier(gov: Box) -> None:
    protocol = waiting(gov)
    gov.git("rm", "-q", ".protocols/policy.yaml")
    gov.commit("no policy any more")
    gov.runner("run", protocol, rc=3)
    code, said = at_terminal(gov, {b"]:": b"yes\n"}, "approve", protocol)
    assert code == 4 and "the policy was deleted after" in said and "git checkout" in said
    assert not done(gov, protocol)
    gov.runner("verify", protocol, rc=0)


# --- the merge -------------------------------------------------------------------------------------------------------------

MERGE = "  step: {roles: [maintainer]}\n  merge: {roles: [maintainer], required: true}\n"


def test_nothing_is_still_needed_of_an_approval_that_nothing_requires(gov: Box, people: People) -> None:
    protocol = gov.new({"01-a": command("echo a > a.txt")})
    gov.runner("run", protocol, rc=0)
    for verb, needed in (("approve", False), ("revoke", False), ("reject", True), ("revoke", False)):
        told = says(gov, people.alice, verb, protocol, "merge", "--yes").err
        assert ("still needed" in told) is needed and ("next          runner merge 1\n" in told) is not needed
    gov.runner("merge", protocol, rc=0)


def test_a_merge_that_needs_a_word_is_not_taken_without(tmp_path: Path, people: People) -> None:
    box = governed(tmp_path / "repo", [people.alice, people.bob], approvals=MERGE)
    protocol = box.new({"01-a": command("echo a > a.txt")})
    box.runner("run", protocol, rc=0)
    error = box.runner("merge", protocol, rc=4).err
    assert "not approved" in error and "a maintainer (alice, bob)" in error and "runner approve 1 merge" in error
    told = says(box, people.alice, "approve", protocol, "merge", "--yes").err
    assert "approve merge as alice" in told and "+a" in told and "runner merge 1" in told
    says(box, people.bob, "reject", protocol, "merge", "--yes")
    error = box.runner("merge", protocol, rc=4).err
    assert "rejected by bob@example.test" in error and "runner revoke 1 merge" in error
    says(box, people.bob, "revoke", protocol, "merge", "--yes")
    box.runner("merge", protocol, rc=0)
    assert done(box, "main", "a.txt")


def test_what_comes_next_is_the_approval_that_the_merge_needs(tmp_path: Path, people: People) -> None:
    """Seen: `runner merge 1` was next, also for the author, whose approval does not count."""
    box = governed(tmp_path / "repo", [people.alice, people.bob], approvals=MERGE)
    folder = box.plan({"01-a": command("echo a > a.txt")}, title="A plan")
    protocol = says(box, people.alice, "new", "A plan", "--plan", folder).out.strip()
    ran = says(box, people.alice, "run", protocol).err
    status = says(box, people.alice, "status", protocol).out
    for told in (ran, status):
        assert "next          runner approve 1, by bob@example.test\n" in told
    listed = says(box, people.alice, "status").out
    assert "waits for an approval of its merge" in listed and "runner approve 1, by bob@example.test" in listed
    for words, who, typed in (("list", "alice", None), ("status", "bob", "runner approve 1")):
        (row,) = says(box, getattr(people, who), words, "--json").json()["protocols"]
        assert row.get("command") == typed
    assert says(box, people.bob, "status", protocol).out.endswith("  runner approve 1\n")
    says(box, people.bob, "approve", protocol, "--yes")
    assert says(box, people.alice, "status", protocol).out.endswith("  runner merge 1\n")
    box.runner("merge", protocol, rc=0)


@pytest.mark.slow
def test_a_word_on_a_merge_is_stale_when_code_comes_after_it(tmp_path: Path, people: People) -> None:
    box = governed(tmp_path / "repo", [people.alice, people.bob], approvals=MERGE)
    protocol = box.new({"01-a": command("echo a > a.txt")})
    box.runner("run", protocol, rc=0)
    says(box, people.alice, "approve", protocol, "merge", "--yes")
    at = box.worktree(protocol)
    (at / "late.txt").write_text("late\n")
    box.commit("late", cwd=at)
    error = box.runner("merge", protocol, rc=4).err
    assert "late.txt was changed since" in error and "alice@example.test's does not count" in error
    says(box, people.alice, "approve", protocol, "merge", "--yes")
    box.runner("merge", protocol, rc=0)


# --- reading what waits ------------------------------------------------------------------------------------------------------


def test_status_judges_words_that_nothing_took_up_yet(gov: Box, people: People, tmp_path: Path) -> None:
    protocol = waiting(gov)
    before = gov.runner("status", "--json").out
    says(gov, people.alice, "approve", protocol, "--yes")
    # A word of Carol's that she put there by hand: the commands refuse it.
    statement = says(gov, people.bob, "approve", protocol, "--print").out.replace("bob@", "carol@")
    at = gov.worktree(protocol)
    name = hashlib.sha256(statement.encode()).hexdigest()[:32]
    (at / f".protocols/{protocol}/approvals/{name}.approval").write_text(people.carol.sign(statement))
    gov.commit("by hand", cwd=at)
    for args in (("status", protocol), ("show", protocol), ("show", protocol, "deploy")):
        told = gov.runner(*args, rc=0).out
        assert "alice@example.test approved\n" in told
        assert "carol@example.test approved: wrong-role: carol@example.test is not a maintainer (alice, bob)" in told
    (line,) = gov.runner("status", rc=0).out.splitlines()
    assert "alice@example.test approved" in line and line.endswith("runner run 1") and "carol" not in line
    assert gov.runner("status", "--json").out == before
    assert "wrong-role" in gov.runner("run", protocol, rc=0).err


def test_status_loads_what_judges_approvals_only_where_one_waits(gov: Box, people: People) -> None:
    def judges() -> bool:
        return "runner.trust.approval" in gov.loaded("status")[1]

    protocol = waiting(gov)
    assert judges()  # whether the person here can give it, and what was given since
    says(gov, people.alice, "approve", protocol, "--yes")
    gov.runner("run", protocol, rc=0)  # it was used: the log names it
    assert not judges()


def test_status_says_so_where_words_cannot_be_judged(gov: Box, people: People) -> None:
    protocol = waiting(gov)
    says(gov, people.alice, "approve", protocol, "--yes")
    gov.write(".protocols/policy.yaml", "repo: nonsense\n")
    gov.commit("broken")
    told = gov.runner("status", protocol, rc=0)
    assert "cannot be judged" in told.err and ".protocols/policy.yaml" in told.err and "step:deploy" in told.out


def test_nobody_approves_the_result_of_their_own_work(gov: Box, people: People) -> None:
    protocol = waiting(gov, {"01-write": "kind: human\napproval: after\n"})
    at = gov.worktree(protocol)
    (at / "text.txt").write_text("Alice's own words\n")
    gov.git("add", "-A", cwd=at, env=people.alice.env)
    gov.git("commit", "-qm", "my work", cwd=at, env=people.alice.env)
    gov.runner("answer", protocol, "done", rc=0)
    gov.runner("run", protocol, rc=3)
    error = says(gov, people.alice, "approve", protocol, "--yes", rc=4).err
    assert "alice@example.test wrote what it approves" in error
    says(gov, people.bob, "approve", protocol, "--yes")
    gov.runner("run", protocol, rc=0)
    gov.runner("verify", protocol, rc=0)


def test_a_step_whose_result_waits_is_not_retried(gov: Box, people: People) -> None:
    protocol = waiting(gov, {"01-c": command("date +%N > c.txt", "approval: after\n")})
    for decision in (None, "reject"):
        if decision:
            says(gov, people.alice, decision, protocol, "--yes")
        refused = gov.runner("retry", protocol, "--step", "c", rc=4).err
        assert "the work of c waits for an approval" in refused and "`runner undo 1@2` reverts it" in refused
    gov.runner("undo", protocol, rc=0)
    gov.runner("run", protocol, rc=3)
    says(gov, people.alice, "approve", protocol, "--yes")
    gov.runner("run", protocol, rc=0)
    gov.runner("verify", protocol, rc=0)


def test_an_approval_that_a_transition_counts_does_not_cover_the_work_that_comes_with_it(
    gov: Box, people: People
) -> None:
    """As a version did that let a step be retried while its result waited: the approval of that one was the new one's too."""
    protocol = waiting(gov, {"01-c": command("date +%N > c.txt", "approval: after\n")})

    def build(seen: Snapshot) -> list[ev.Event]:
        return [ev.StepRetried(subject="c", attempt=2)]

    with gov.session() as session:
        advance.record_events(session, protocol, build)
    says(gov, people.alice, "approve", protocol, "--yes")
    gov.runner("run", protocol, rc=3)
    assert gov.state(protocol)["steps"]["c"]["attempt"] == 2
    gov.runner("verify", protocol, rc=0)
    says(gov, people.alice, "approve", protocol, "--yes")
    gov.runner("run", protocol, rc=0)
    gov.runner("verify", protocol, rc=0)


def test_who_may_approve_and_has_no_key_is_told_how_to_get_one(gov: Box, people: People, tmp_path: Path) -> None:
    protocol = gov.new(BEFORE)
    gov.runner("step", protocol, rc=3)
    keyless = {**people.alice.env, "HOME": str(tmp_path)}
    told = gov.runner("status", protocol, env=keyless, rc=0).out
    assert "user.signingkey" in told and "then runner approve 1" in told
    assert "next          runner approve 1\n" in says(gov, people.alice, "status", protocol).out


def test_an_answer_where_an_approval_is_waited_for_is_told_so_whatever_was_answered_before(
    gov: Box, people: People
) -> None:
    protocol = waiting(gov, {"01-read": "kind: human\n", "02-deploy": command("true", "approval: before\n")})
    says(gov, people.alice, "answer", protocol, "fine")
    gov.runner("run", protocol, rc=3)
    told = says(gov, people.alice, "answer", protocol, "go", rc=4).err
    assert "waits for step deploy, not for an answer" in told and "next: `runner status 1` shows what to type" in told


@pytest.mark.parametrize(
    "form", ["tools: [{module: figures, effects: {measure: read}}]", "tools:\n  [{module: figures}]"]
)
def test_tools_in_flow_form_are_not_judged_by_the_second_verifier(gov: Box, people: People, form: str) -> None:
    gov.write(".protocols/config.yaml", f"{form}\n")
    gov.write("figures.py", 'def measure(path: str) -> int:\n    """Measure."""\n    return len(path)\n')
    gov.commit("tools")
    step = "kind: tool\ntool: measure\nwith: {path: a}\napproval: before\n"
    protocol = waiting(gov, {"01-m": step})
    says(gov, people.alice, "approve", protocol, "--yes")
    assert "approved  by alice" in gov.runner("run", protocol).err
    gov.runner("verify", protocol, rc=0)
    ((code, why),) = second_verdicts(gov.path / ".git", [(f"refs/heads/{protocol}", protocol)])
    assert (code, why.partition(", ")[0]) == (0, "verified") and "tools that are not written plainly" in why


def test_files_whose_ids_begin_alike_are_each_covered(gov: Box, people: People) -> None:
    alike = ("x=b316e2c64f40", "x=96112fd18683")  # in git, two blobs whose ids have their first twelve digits in common
    write = "; ".join(f"echo {text} > {name}.txt" for name, text in zip("ab", alike, strict=True))
    protocol = gov.new({"01-write": command(write), "02-deploy": BEFORE["01-deploy"]}, title="Alike")
    gov.runner("run", protocol, rc=3)
    says(gov, people.alice, "approve", protocol, "--yes")
    gov.runner("run", protocol, rc=0)
    gov.runner("verify", protocol, rc=0)
