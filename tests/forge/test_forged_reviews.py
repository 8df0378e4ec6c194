"""A record that tells of a review which does not count by what git knows: both verifiers find it, whatever the forge once said."""

from __future__ import annotations

import pytest

from runner.executor import advance
from runner.protocol import events as ev
from runner.store.snapshot import Snapshot
from tests.conftest import command
from tests.forge.journey import Town

CASES = {
    "good": (0, ""),
    "both people": (0, ""),
    "unlisted": (4, "is not in `forge:`"),
    "another host": (4, "is not in `forge:`"),
    "another's name": (4, "other approvals count"),
    "not in the role": (4, "is not a maintainer"),
    "own work": (4, "wrote what it approves"),
    "before it was asked for": (4, "before it was asked for"),
    "no commit of the branch": (4, "is no commit of the branch"),
    "changed since": (4, "was changed since"),
    "twice the same person": (4, "other approvals count"),
    "nobody": (4, "missing"),
    "signed words only": (4, "no review counts here"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.slow
@pytest.mark.window(3)
def test_what_is_told_of_reviews_is_judged_again(place: Town, case: str) -> None:
    code, said = CASES[case]
    box, accounts = place.box, place.accounts
    if case == "signed words only":
        policy = (box.path / ".protocols/policy.yaml").read_text()
        box.write(".protocols/policy.yaml", policy.replace("step: {roles", "step: {from: [signed], roles"))
        box.commit("signed only")
        box.git("push", "-q", "origin", "main")
        box.git("fetch", "-q", "origin")
    author = {"RUNNER_NAME": "bob", "RUNNER_EMAIL": "bob@example.test"} if case == "own work" else None
    planned = box.plan({"01-a": command("true"), "02-b": command("echo > b.txt") + "approval: before\n"})
    protocol = box.runner("new", "X", "--plan", planned, rc=0, env=author).out.strip()
    box.runner("run", protocol, rc=3)
    asked, before = box.git("log", "-2", "--format=%H", protocol).split()
    if case == "changed since":
        tree = box.worktree(protocol)
        (tree / "more.txt").write_text("more\n")
        box.git("add", "more.txt", cwd=tree)
        box.git("commit", "-qm", "more", cwd=tree)
    who = {"unlisted": "guest", "not in the role": "carol", "own work": "bob"}.get(case, "alice")
    by = {"another's name": "bob", "unlisted": "alice"}.get(case, who)
    commit = {"before it was asked for": before, "no commit of the branch": box.git("rev-parse", "main").strip()}
    host = "gitlab.com" if case == "another host" else place.fake.url.removeprefix("http://")
    one = ev.ReviewFields(host=host, user=accounts[who].id, request=1, review="1-1", commit=commit.get(case, asked))
    reviews, names = [one], [f"{by}@example.test"]
    if case == "both people":
        reviews, names = [*reviews, {**one, "user": accounts["bob"].id}], [*names, "bob@example.test"]
    elif case == "twice the same person":
        reviews, names = reviews * 2, names * 2
    elif case == "nobody":
        reviews, names = [], []

    def build(seen: Snapshot) -> list[ev.Event]:
        return [ev.ApprovalCounted(subject="b", wait=seen.state.waiting[0].id, approvals=[], by=names, reviews=reviews)]

    with box.session() as session:
        advance.record_events(session, protocol, build)
    done = box.runner("verify", protocol, rc=code)
    assert said in done.out, done.out
    assert ("not provable offline" in done.err) == (code == 0)
