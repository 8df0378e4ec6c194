"""Budgets hold, whatever happens to the process, the clone or the answers: what was paid is paid once, and counts."""

from __future__ import annotations

import json
import threading
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.executor import load, spending
from runner.executor.journal import Journal, open_journal
from runner.executor.loop import Total
from runner.protocol.state import SpentTotal
from runner.protocol.transcript import record_of
from runner.store import history
from tests.conftest import Box, clone, command, make_box, waits_for
from tests.engines.wire_gemini import Answer
from tests.executor.minds import Script, agent, ask, finish, mind, say, sound, transcript, write
from tests.executor.test_resume import kill
from tests.protocol.test_transcript import ANSWER
from tests.store.test_lease import settle_on
from tests.store.test_remote import publish

# A request counts with 18,500 tokens and some: one that comes after 5,000 does not fit into 21,500.
DEAR = (3_000, 2_000)


def paid(box: Box, protocol: str) -> tuple[int, int, Decimal]:
    """Return what all transcripts of the history say was paid, which is what the record has to say."""
    names = box.git("ls-tree", "-r", "--name-only", f"refs/runner/history/{protocol}").split()
    told = [
        one for name in names for one in transcript(box, protocol, name.removeprefix("runs/").removesuffix(".jsonl"))
    ]
    answers = [one for one in told if one["kind"] in ("response", "summary")]
    tokens = [sum(one["usage"][key] for one in answers) for key in ("input", "output")]
    return tokens[0], tokens[1], sum((Decimal(one["usd"] or "0") for one in answers), Decimal(0))


def recorded(box: Box, protocol: str) -> tuple[int, int, Decimal]:
    """Return what the record says was spent."""
    spent = box.state(protocol)["spent"]
    return spent["input_tokens"], spent["output_tokens"], Decimal(spent["usd"])


@pytest.mark.slow
def test_a_kill_does_not_widen_the_protocols_budget(box: Box) -> None:
    script = [say(write("a.txt", "a\n"), tokens=DEAR), finish(), say(write("b.txt", "b\n"), tokens=DEAR), finish()]
    with mind(box, *script) as wire:
        protocol = box.new({"01-x": agent(), "02-y": agent()}, front="budget: {tokens: 26600}\n")
        box.runner("step", protocol, rc=0)
        kill(box, "after", 1, "step", protocol)
        assert len(wire.bodies) == 3
        stopped = box.runner("step", protocol, rc=3)
        assert "tokens are used" in stopped.err + stopped.out
        assert len(wire.bodies) == 3
    assert recorded(box, protocol) == paid(box, protocol)
    assert recorded(box, protocol)[0] == 6_100
    sound(box, protocol)


@pytest.mark.slow
def test_what_a_step_that_is_gone_had_paid_for_counts(box: Box) -> None:
    with mind(box, say(write("a.txt", "a\n"), tokens=DEAR), say(write("b.txt", "b\n"), tokens=DEAR), finish()) as wire:
        protocol = box.new({"01-x": agent(), "02-y": agent()}, front="budget: {tokens: 24500}\n")
        kill(box, "after", 2, "step", protocol)
        at = box.worktree(protocol) / ".protocols" / protocol
        (at / "01-x.md").unlink()
        box.commit("away", cwd=at)
        stopped = box.runner("step", protocol, rc=3)
        assert "could need" in stopped.err + stopped.out
        assert len(wire.bodies) == 2
    assert box.state(protocol)["spent"]["input_tokens"] == 0  # it stands in the journal alone
    sound(box, protocol)


@pytest.mark.slow
def test_a_plans_turns_calls_and_minutes_are_the_whole_protocols(box: Box) -> None:
    with mind(box, say(write("a.txt", "a\n")), finish(), say(write("b.txt", "b\n")), finish()) as wire:
        for front, asked, why in (
            ("{turns: 3}", 3, "turns are used up"),
            ("{calls: 2}", 3, "calls"),
            ("{minutes: 0}", 0, "time"),
        ):
            del wire.bodies[:]
            protocol = box.new({"01-x": agent(), "02-y": agent()}, front=f"budget: {front}\n")
            stopped = box.runner("run", protocol, rc=3)
            assert why in stopped.err + stopped.out, front
            assert len(wire.bodies) == asked, front
            sound(box, protocol)


def test_a_review_by_hand_counts_each_time(box: Box) -> None:
    verdict = Answer(
        pieces=[[{"text": json.dumps({"verdict": "PASS", "summary": "fine", "findings": []})}]],
        usage={"promptTokenCount": 3_000, "candidatesTokenCount": 2_000, "totalTokenCount": 5_000},
        model="gemini-2.5-flash",
    )
    with mind(box, verdict, verdict, verdict) as wire:
        box.env["RUNNER_ENGINE"] = "gemini:gemini-2.5-flash"
        protocol = box.new(
            {"01-x": command("echo x > x.txt", "qa: light\noutputs: [x.txt]\n")}, front="budget: {tokens: 25000}\n"
        )
        box.runner("run", protocol, rc=0)
        for _ in range(2):
            box.runner("qa", protocol, "--full", rc=0)
        assert len(wire.bodies) == 2
        box.runner("qa", protocol, "--full", rc=4)
        assert len(wire.bodies) == 2
    sound(box, protocol)


@pytest.mark.slow
def test_an_answer_is_found_also_where_the_log_began_anew_in_between(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.protocol.log.SEGMENT", 200)
    script = [say(ask("Which?"), tokens=DEAR), say(ask("Really?"), tokens=DEAR), finish()]
    with mind(box, *script) as wire:
        protocol = box.new({"01-x": agent()})
        for word in ("Blue.", "Yes."):
            box.runner("run", protocol, rc=3)
            box.runner("answer", protocol, word, rc=0)
        box.runner("run", protocol, rc=0)
        assert len(wire.bodies) == 3
    assert box.git("ls-tree", "--name-only", f"{protocol}:.protocols/{protocol}/log/")
    assert recorded(box, protocol) == paid(box, protocol)
    assert recorded(box, protocol)[0] == 6_100


@pytest.mark.slow
def test_what_was_undone_is_paid_and_the_next_attempt_pays_anew(box: Box) -> None:
    with mind(box, say(ask("Which?"), tokens=DEAR), finish(), finish()):
        protocol = box.new({"01-x": agent()})
        box.runner("run", protocol, rc=3)
        box.runner("answer", protocol, "Blue.", rc=0)
        box.runner("run", protocol, rc=0)
        box.runner("undo", f"{protocol}@2", rc=0)
        box.runner("run", protocol, rc=0)
    assert recorded(box, protocol) == paid(box, protocol)
    assert recorded(box, protocol)[0] == 3_200
    sound(box, protocol)


@pytest.mark.slow
def test_two_clones_ask_in_turn_and_each_goes_on_from_what_the_other_heard(remote: Box) -> None:
    publish(remote)
    script = [
        say(ask("One?"), tokens=DEAR),
        say(ask("Two?"), tokens=DEAR),
        say(write("b.txt", "b\n"), tokens=DEAR),
        finish(),
    ]
    with mind(remote, *script) as wire:
        protocol = remote.new({"01-x": agent()})
        remote.runner("run", protocol, rc=3)
        other = clone(remote, "bob")
        other.runner("sync", protocol, rc=0)
        other.runner("answer", protocol, "1", rc=0)
        other.runner("run", protocol, rc=3)
        remote.runner("sync", protocol, rc=0)
        remote.runner("answer", protocol, "2", rc=0)
        remote.runner("run", protocol, rc=0)
        assert wire.wrong == []
        assert len(wire.bodies) == 4
    assert recorded(remote, protocol) == paid(remote, protocol)
    assert recorded(remote, protocol)[0] == 9_100
    sound(remote, protocol)


def test_what_has_no_known_price_is_said_and_bars_a_budget_in_money_for_good(box: Box) -> None:
    with mind(box, finish(), finish()) as wire:
        protocol = box.new({"01-x": agent(engine="gemini:nobody-has-priced-this"), "02-y": agent()})
        done = box.runner("step", protocol, rc=0)
        assert "price not known" in done.err + done.out
        assert '"unpriced":120' in box.log(protocol)
        box.runner("audit", protocol, "-o", box.path.parent / "audit.html", rc=0)
        total = (box.path.parent / "audit.html").read_text().partition("all, planning too")[2].partition("</tr>")[0]
        assert "not known" in total and "$" not in total
        plan = box.worktree(protocol) / ".protocols" / protocol / "plan.md"
        plan.write_text(plan.read_text().replace("title: A plan\n", "title: A plan\nbudget: {usd: 5}\n"))
        stopped = box.runner("step", protocol, rc=3)
        assert "the price of 120 tokens" in stopped.err + stopped.out
        assert len(wire.bodies) == 1
    sound(box, protocol)


# --- the arithmetic, over whatever can happen -----------------------------------------------------------------------------

# What happens: somebody pays for an answer (of a step, so many cents); the record takes a step's journal up; the process is
# killed; the journals of this clone are gone (it is another one); another clone's answers are in the history instead of ours.
STEPS = ("a.1", "a.2", "b.1", "b.1.qa")
HAPPENING = st.one_of(
    st.tuples(st.just("answer"), st.sampled_from(STEPS), st.integers(0, 50)),
    st.tuples(st.sampled_from(["record", "clone", "race"]), st.sampled_from(STEPS), st.integers(1, 50)),
)


def answer(cents: int) -> dict[str, Any]:
    """Return an answer's record."""
    answer.count += 1  # type: ignore[attr-defined]
    usage = {"input": cents * 10, "output": cents, "cached": 0}
    usd = format(Decimal(cents) / 100, "f")
    return ANSWER | {"text": str(answer.count), "calls": [], "usage": usage, "usd": usd}  # type: ignore[attr-defined]


answer.count = 0  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> tuple[Box, str]:
    """A protocol with a budget in money and tokens."""
    box = make_box(tmp_path_factory.mktemp("spending") / "repo")
    return box, box.new({"01-a": agent(), "02-b": agent()}, front="budget: {usd: 10, tokens: 10000}\n")


@settings(max_examples=40)
@given(happened=st.lists(HAPPENING, max_size=12), at=st.sampled_from(STEPS))
def test_whatever_happens_a_budget_leaves_what_was_not_paid(
    ground: tuple[Box, str], happened: list[tuple[str, str, int]], at: str
) -> None:
    box, protocol = ground
    with box.session() as session:
        git = session.git
        seen = load.read(session, protocol)
        plan = load.read_plan(session, seen)
        folder = session.dirs.journal(protocol)
        git.update_refs({history.ref_of(protocol): (None, git.ref(history.ref_of(protocol)))}, "test: again")
        for path in folder.glob("*"):
            path.unlink()
        kept, here = Total(), Total()  # what the record has; what only this clone knows of

        def file(name: str, data: bytes) -> None:
            made, before = history.add(git, protocol, {f"runs/{name}.jsonl": data}, seen.tip, session.project.runner())
            git.update_refs({history.ref_of(protocol): (made, before)}, "test: filed")

        for what, name, cents in happened:
            journal = open_journal(session, protocol, name)  # each time anew: as after a kill
            if what == "answer":
                journal.append(record_of(answer(cents)))
                here += spending.of(journal.records[-1:])
            elif what == "record":
                new = spending.since(journal, 0)
                kept += Total(Decimal(new["usd"]), 0, new["input_tokens"], new["output_tokens"])
                here = _without(here, spending.of(journal.records[journal.filed :]))
                file(name, journal.transcript())
            elif what == "clone":
                here = Total()
                for path in folder.glob("*"):
                    path.unlink()
            else:
                theirs = Journal(Path(folder / "theirs"))
                theirs.rows = [*journal.rows[: journal.filed], answer(cents)]
                kept += spending.of(theirs.records[-1:])
                file(name, theirs.transcript())

        journal = open_journal(session, protocol, at)
        spent = SpentTotal(usd=format(kept.usd, "f"), input_tokens=kept.input_tokens, output_tokens=kept.output_tokens)
        state = seen.state._replace(spent=spent)
        found = spending.limits(session.project, seen, plan, state, journal, spending.Own("01-a.md", (), 60.0))
        used = spending.of(journal.records)
        assert found.usd is not None and found.tokens is not None
        assert found.usd == max(Decimal(10) - kept.usd - here.usd + used.usd, 0)
        assert found.tokens == max(10_000 - kept.tokens - here.tokens + used.tokens, 0)


def _without(total: Total, part: Total) -> Total:
    tokens = (total.input_tokens - part.input_tokens, total.output_tokens - part.output_tokens)
    return Total(total.usd - part.usd, 0, *tokens)


# --- cancelled ---------------------------------------------------------------------------------------------------------


def test_cancel_stops_a_question_to_the_model_and_what_was_paid_is_recorded(box: Box) -> None:
    asked, over = threading.Event(), threading.Event()
    script = Script(say(write("a.txt", "a\n"), tokens=(1_000, 200)), say(write("b.txt", "b\n"), tokens=DEAR), finish())

    def hold() -> None:
        asked.set()
        over.wait(60)

    script.before[1] = hold
    with mind(box, *script) as wire:
        wire.script = script
        protocol = box.new({"01-x": agent()})
        process = box.start("run", protocol)
        assert asked.wait(30)
        told = box.runner("cancel", protocol, rc=0).err
        _, error = process.communicate(timeout=100)
        over.set()
    assert process.returncode == 4 and "that it had cost is recorded" in error and "was stopped" in told
    assert recorded(box, protocol)[:2] == (1_000, 200) and recorded(box, protocol) == paid(box, protocol)
    before = box.git("rev-parse", protocol)
    box.runner("cancel", protocol, rc=0)
    assert box.git("rev-parse", protocol) == before
    sound(box, protocol)


def test_cancel_records_what_a_killed_step_had_paid_and_undo_does_not_pay_again(box: Box) -> None:
    with mind(box, say(write("a.txt", "a\n"), tokens=(1_000, 200)), finish()) as wire:
        protocol = box.new({"01-x": agent()})
        kill(box, "after", 1, "step", protocol)
        assert ", is now recorded" in box.runner("cancel", protocol, rc=0).err
        assert recorded(box, protocol)[:2] == (1_000, 200)
        box.runner("undo", protocol, rc=0)
        box.runner("run", protocol, rc=0)
        assert len(wire.bodies) == 2
    assert recorded(box, protocol) == paid(box, protocol)
    sound(box, protocol)


@pytest.mark.slow
def test_cancel_in_another_clone_stops_the_work_as_its_lease_is_renewed(remote: Box, tmp_path: Path) -> None:
    settle_on(remote, "publish: always\nlease: {ttl: 6s, grace: 1s}\n")
    protocol = remote.new({"01-x": command(f"touch {tmp_path}/begun; sleep 60")})
    process = remote.start("run", protocol)
    while not (tmp_path / "begun").exists():
        time.sleep(0.05)
    other = clone(remote, "bob")
    other.git("branch", "-q", protocol, f"origin/{protocol}")
    assert "is running it elsewhere" in other.runner("cancel", protocol, rc=0).err
    _, error = process.communicate(timeout=100)
    assert process.returncode == 4 and "was cancelled, and its work was stopped" in error
    assert remote.state(protocol)["status"] == "cancelled"


@pytest.mark.slow
def test_a_cancel_that_was_taken_back_stops_no_work(remote: Box, tmp_path: Path) -> None:
    settle_on(remote, "publish: always\nlease: {ttl: 6s, grace: 1s}\n")
    protocol = remote.new(
        {"01-x": command(f"echo x >> {tmp_path}/begun; touch {tmp_path}/there; {waits_for(tmp_path / 'ends')}")}
    )
    process = remote.start("run", protocol)
    while not (tmp_path / "there").exists():
        time.sleep(0.05)
    other = clone(remote, "bob")
    for words in (("cancel",), ("undo",)):
        other.runner(*words, protocol, rc=0)
    time.sleep(5)  # it is renewed meanwhile
    (tmp_path / "ends").touch()
    # One renewal may fall between the two; what then begins anew is not cut again.
    _, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    assert len((tmp_path / "begun").read_text().split()) <= 2
