"""The day's budget: many processes in many clones reserve and settle on one ref. Real git, real processes, some of them killed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from runner.errors import IntegrityError, SpentError, UnreachableError
from runner.git import BLOB, TreeEntry
from runner.protocol.policy_file import DayBudget
from runner.store import day_budget
from runner.store.project import Session
from tests.conftest import Box, clone, set_env
from tests.protocol.test_schema import validator

DAY = "2023-11-14"  # of the fixed clock
PAID = Decimal("0.0004")

# One runner: it asks for many requests, pays for most of them less than they could have cost, and may die at any of them.
SPENDER = """
import os, random, sys, time
from decimal import Decimal
from pathlib import Path
from runner.errors import SpentError
from runner.protocol.policy_file import DayBudget
from runner.store import day_budget
from runner.store.project import Session
from runner.store.environment import Environment

path, home, publish, seed, told = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5]
dice = random.Random(seed)
who = Environment(
    now=lambda: 1_700_000_000.0, monotonic=time.monotonic, sleep=time.sleep, host=f"host-{seed}", pid=os.getpid(), state_home=home,
    random_hex=lambda count: os.urandom(count).hex()[:count], environ=dict(os.environ) | {"RUNNER_EMAIL": "r@example.test"},
)
with Session.open(Path(path), who, {"publish": publish}) as session, open(told, "a", buffering=1) as paid:
    session.shared_budget = day_budget.Reservation(session, lambda: DayBudget(usd="1", tokens="5000"))
    try:
        for _ in range(dice.randrange(5, 40)):
            most = dice.randrange(1, 60)
            session.shared_budget.reserve("model", Decimal(most) / 1000, most)
            if dice.random() < 0.04:
                os._exit(9)
            really = dice.randrange(0, most + 1)
            paid.write(f"{really}\\n")
            session.shared_budget.charge(Decimal(really) / 1000, really)
    except SpentError as error:
        print(error.what, flush=True)
        if dice.random() < 0.5:
            os._exit(3)
"""


def spend(box: Box, publish: str, seed: int, told: Path) -> subprocess.Popen[str]:
    """Start a runner that spends."""
    argv = [sys.executable, "-c", SPENDER.replace('usd="1", tokens="5000"', "usd=1.0, tokens=5000")]
    argv += [str(box.path), str(box.home / "state"), publish, str(seed), str(told)]
    env = {**box.environment(), "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def days(box: Box, cwd: Path) -> list[Any]:
    """Return what each commit of the ledger says of the day, the first one first."""
    commits = box.git("rev-list", "--reverse", day_budget.REF, cwd=cwd).split()
    return [json.loads(box.git("show", f"{one}:{DAY}.json", cwd=cwd)) for one in commits]


def whole(day: Any) -> Decimal:
    """Return all that a day's file counts."""
    return Decimal(day["usd"]) + sum((Decimal(one["usd"]) for one in day["open"].values()), Decimal(0))


def run_all(boxes: list[Box], publish: str, runners: int, at: Path) -> None:
    """Let runners spend at once; no commit of the ledger passes the cap, and nothing was paid that it does not count."""
    told = [at / f"paid-{number}" for number in range(runners)]
    started = [spend(boxes[number % len(boxes)], publish, number, told[number]) for number in range(runners)]
    for one in started:
        out, err = one.communicate(timeout=110)
        assert one.returncode in (0, 3, 9), err
        assert one.returncode != 3 or "the day's budget" in out
    paid = sum(int(line) for one in told for line in one.read_text().split())
    where = at / "origin.git" if publish == "always" else boxes[0].path
    seen = days(boxes[0], where)
    assert len(seen) > runners
    for day in seen:
        validator("ledger").validate(day)
        assert whole(day) <= 1
        assert day["tokens"] + sum(one["tokens"] for one in day["open"].values()) <= 5000
    last = seen[-1]
    assert Decimal(paid) / 1000 <= whole(last)
    killed = sum(one.returncode != 0 for one in started)
    assert len(last["open"]) <= killed
    # It was worth the trouble: what they wanted passes the cap, and much of it was spent.
    assert whole(last) > Decimal("0.5")


def test_several_processes_of_a_clone_never_pass_the_cap(box: Box, tmp_path: Path) -> None:
    run_all([box], "never", 3, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_several_clones_of_one_remote_never_pass_the_cap(remote: Box, tmp_path: Path) -> None:
    run_all([remote, clone(remote, "bob"), clone(remote, "carol")], "always", 9, tmp_path)


def opened(box: Box, now: list[float] | None = None, **options: str) -> Session:
    """Open a clone whose clock stands at `now`."""

    session = box.session(**options)
    set_env(
        session,
        now=lambda: (now or [1_700_000_000.0])[0],
        sleep=lambda seconds: None,
        random_hex=lambda count: os.urandom(count).hex()[:count],
    )
    return session


def shared_budget(session: Session, **cap: Any) -> day_budget.Reservation:
    session.shared_budget = day_budget.Reservation(session, lambda: DayBudget.model_construct(**cap))
    return session.shared_budget


def test_parts_grow_so_that_pushes_are_few_and_the_rest_is_given_back(remote: Box, tmp_path: Path) -> None:
    with opened(remote, publish="always") as session:
        mine = shared_budget(session, usd=Decimal(10))
        for _ in range(1000):
            mine.reserve("model", PAID, 10)
            mine.charge(PAID / 2, 10)
    seen = days(remote, tmp_path / "origin.git")
    assert len(seen) == 11  # ten doublings hold a thousand requests, and one settles
    assert seen[-1] == {"schema": 1, "day": DAY, "usd": "0.2", "tokens": 10_000, "unpriced": 0, "open": {}}
    assert remote.git("for-each-ref", day_budget.REF) == ""  # it is on the remote alone
    fast_forward = remote.git("rev-list", "--count", "--min-parents=1", day_budget.REF, cwd=tmp_path / "origin.git")
    assert int(fast_forward) == 10


def test_without_a_days_budget_there_is_no_ledger(box: Box) -> None:
    with opened(box) as session:
        mine = shared_budget(session, usd=None, tokens=None)
        mine.reserve("model", None, 10**9)
        mine.charge(None, 10**9)
    assert box.git("for-each-ref", day_budget.REF) == ""


def test_what_a_dead_runner_reserved_counts_till_midnight(box: Box) -> None:
    now = [1_700_000_000.0]
    with opened(box, now) as dead:
        shared_budget(dead, usd=Decimal(1)).reserve("model", Decimal("0.7"), 10)
        dead.shared_budget = None  # it was killed
    with opened(box, now) as session:
        mine = shared_budget(session, usd=Decimal(1))
        with pytest.raises(
            SpentError, match=r"\$0\.3 of \$1 are left .*, \$0\.7 more are reserved by others, and .*\n.*\n.* gave back"
        ):
            mine.reserve("model", Decimal("0.7"), 10)
        mine.reserve("model", Decimal("0.3"), 10)
        mine.charge(Decimal("0.1"), 10)
        now[0] += 24 * 3600
        mine.reserve("model", Decimal("0.9"), 10)  # a new day: what was begun on the old one is settled there
        mine.charge(Decimal("0.9"), 10)
    assert days(box, box.path)[0]["open"]
    first = json.loads(box.git("show", f"{day_budget.REF}:{DAY}.json"))
    assert (first["usd"], len(first["open"])) == ("0.1", 1)
    assert json.loads(box.git("show", f"{day_budget.REF}:2023-11-15.json"))["usd"] == "0.9"


def test_tokens_without_a_price_keep_money_from_being_spent_and_tokens_not(box: Box) -> None:
    with opened(box) as session:
        mine = shared_budget(session, usd=Decimal(1))
        with pytest.raises(SpentError, match="the price of nobody is not known"):
            mine.reserve("nobody", None, 10)
        mine.reserve("model", Decimal("0.1"), 10)
        mine.charge(None, 10)
        with pytest.raises(SpentError, match="the price of 10 tokens"):
            mine.reserve("model", Decimal("0.1"), 10)
    with opened(box) as session, pytest.raises(SpentError, match="the price of 10 tokens"):
        shared_budget(session, usd=Decimal(1)).reserve("model", Decimal("0.1"), 10)
    with opened(box) as session:
        shared_budget(session, tokens=100).reserve("nobody", None, 90)
        with pytest.raises(SpentError, match="of 100 tokens are left"):
            shared_budget(session, tokens=100).reserve("nobody", None, 91)


def test_a_stale_sight_of_the_ledger_refuses_nobody(remote: Box) -> None:
    other = clone(remote, "bob")
    with opened(other, publish="always") as bob:
        theirs = shared_budget(bob, usd=Decimal(1))
        theirs.reserve("model", Decimal("0.9"), 1)
        with opened(remote, publish="always") as session:
            mine = shared_budget(session, usd=Decimal(1))
            with pytest.raises(SpentError):
                mine.reserve("model", Decimal("0.5"), 1)
            theirs.charge(Decimal("0.1"), 1)
            theirs.close()
            mine.reserve("model", Decimal("0.5"), 1)  # what was given back since is found
            mine.charge(Decimal("0.5"), 1)


def test_a_remote_that_is_away_lets_nothing_be_spent(remote: Box, tmp_path: Path) -> None:
    (tmp_path / "origin.git").rename(tmp_path / "away.git")
    with opened(remote, publish="always") as session, pytest.raises(UnreachableError):
        shared_budget(session, usd=Decimal(1)).reserve("model", Decimal("0.1"), 1)


def test_a_job_that_may_not_push_spends_what_another_reserved_for_it(remote: Box) -> None:
    env = {"RUNNER_RUN": "https://forge.test/runs/7"}
    remote.env |= env
    with opened(remote, publish="always") as session:
        given = day_budget.reserved(session, Decimal("0.5"), 0, "0001-a")
        day_budget.change(session, DAY, lambda day: day.reserve("0" * 32, given))
    for protocol, ok in (("0001-a", True), ("0002-b", False)):
        with opened(remote, publish="never", ephemeral="yes") as session:
            mine = shared_budget(session, usd=Decimal(1))
            mine.protocol = protocol
            if ok:
                mine.reserve("model", Decimal("0.5"), 1)
                mine.charge(Decimal("0.4"), 1)
                with pytest.raises(SpentError, match=r"may spend \$0\.5"):
                    mine.reserve("model", Decimal("0.2"), 1)
            else:
                with pytest.raises(SpentError, match="no budget left: none was reserved"):
                    mine.reserve("model", Decimal("0.1"), 1)
    remote.env["RUNNER_RUN"] = "https://forge.test/runs/8"
    with (
        opened(remote, publish="never", ephemeral="yes") as session,
        pytest.raises(SpentError, match="no budget left: none was reserved"),
    ):
        mine = shared_budget(session, usd=Decimal(1))
        mine.protocol = "0001-a"
        mine.reserve("model", Decimal("0.1"), 1)


@pytest.mark.slow
def test_old_days_leave_the_tree_and_stay_in_the_history(box: Box) -> None:
    now = [1_700_000_000.0]
    for _ in range(35):
        with opened(box, now) as session:
            mine = shared_budget(session, usd=Decimal(1))
            mine.reserve("model", Decimal("0.1"), 1)
            mine.charge(Decimal("0.1"), 1)
        now[0] += 24 * 3600
    names = box.git("ls-tree", "--name-only", day_budget.REF).split()
    assert len(names) == 31 and f"{DAY}.json" not in names
    assert random.Random(1).choice(names) in box.git("log", "--name-only", "--format=", day_budget.REF)


def push(remote: Box, at: Path, files: dict[str, str], *, tag: bool = False) -> None:
    """Have the ledger on the remote hold these files, or be a tag of that commit, whoever wrote it."""

    def git(*argv: str, data: str) -> str:
        done = subprocess.run(
            ["git", *argv], input=data, cwd=at, env=remote.environment(), capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    blobs = {name: git("hash-object", "-w", "--stdin", data=text) for name, text in files.items()}
    tree = git("mktree", data="".join(f"100644 blob {oid}\t{name}\n" for name, oid in blobs.items()))
    oid = git("commit-tree", tree, "-m", "ledger", data="")
    if tag:
        oid = git("mktag", data=f"object {oid}\ntype commit\ntag x\ntagger a <a@example.test> 1 +0000\n\nx\n")
    git("update-ref", day_budget.REF, oid, data="")


def pay(box: Box) -> None:
    with opened(box, publish="always") as session:
        mine = shared_budget(session, usd=Decimal(1))
        mine.reserve("model", Decimal("0.5"), 1)
        mine.charge(Decimal("0.5"), 1)


@pytest.mark.slow
def test_a_ledger_that_was_broken_and_put_back_is_taken_as_it_is_now(remote: Box, tmp_path: Path) -> None:
    at = tmp_path / "origin.git"
    pay(remote)
    good = remote.git("rev-parse", day_budget.REF, cwd=at).strip()
    push(remote, at, {f"{DAY}.json": "{"})
    with pytest.raises(IntegrityError):
        pay(remote)
    remote.git("update-ref", day_budget.REF, good, cwd=at)
    pay(remote)
    with pytest.raises(SpentError):
        pay(remote)


@pytest.mark.slow
def test_a_ledger_that_is_no_commit_is_said_to_be_none(remote: Box, tmp_path: Path) -> None:
    push(remote, tmp_path / "origin.git", {}, tag=True)
    with pytest.raises(IntegrityError, match="it is not a commit"):
        pay(remote)


@pytest.mark.slow
def test_days_to_come_that_somebody_pushed_do_not_crowd_this_one_out(remote: Box, tmp_path: Path) -> None:
    push(remote, tmp_path / "origin.git", {f"9999-12-{day:02d}.json": "" for day in range(1, 32)})
    pay(remote)
    pay(remote)
    with pytest.raises(SpentError):
        pay(remote)


def test_a_folder_in_place_of_the_days_file_is_no_budget(box: Box) -> None:
    with box.session() as session:
        git, who = session.git, session.project.runner()
        tree = git.edit_tree(None, {f"{DAY}.json/inner": TreeEntry(BLOB, git.write("blob", b"{}"))})
        assert tree is not None
        commit = git.write_commit(tree, (), who, who, b"ledger\n")
        with pytest.raises(IntegrityError, match="too large, or not here"):
            day_budget.read(session.project, commit, DAY)
