"""The agent's loop beside a scripted mind: order, limits, resuming."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import runner.executor.loop
from runner.engines import (
    Call,
    ContextTooLongError,
    Engine,
    EngineError,
    KeyRefusedError,
    ModelTurn,
    OverloadedError,
    RateLimitError,
    Request,
    Response,
    ToolTurn,
    Turn,
    Usage,
    UserTurn,
)
from runner.errors import HeldError
from runner.executor.journal import Journal
from runner.executor.loop import CHARACTERS_A_TOKEN, Limits, Loop
from runner.protocol.config import EngineSettings
from runner.protocol.transcript import Response as Answer
from runner.store.environment import Environment, Redactor
from runner.tools import Contract, Tool, ToolError

Said = Response | EngineError


class Scripted:
    """An engine that says what it is given, and keeps what it was asked."""

    provider, model, name = "scripted", "one", "scripted:one"

    def __init__(self, said: list[Said]) -> None:
        self.said, self.asked = said, list[Request]()

    def ask(self, request: Request, *, timeout: float, **_: Any) -> Response:
        self.asked.append(request)
        one = self.said.pop(0)
        if isinstance(one, EngineError):
            raise one
        return one

    def close(self) -> None:
        """Nothing is held."""


def counting(name: str, files: list[str], description: str = "x", said: Any = None) -> Tool:
    """Return a tool that counts its calls and writes into a list, which stands for the workspace."""
    contract = Contract(
        name=name,
        description=description,
        effect="workspace",
        parameters={"type": "object"},
        returns=None,
        source="test",
    )

    def call(arguments: Mapping[str, Any]) -> Any:
        if arguments.get("fail"):
            raise ToolError("no")
        if said is None:
            files.append(f"{name} {arguments.get('n', '')}".strip())
        return {"ok": True} if said is None else said

    return Tool(contract, call)


def say(*calls: tuple[str, dict[str, Any]], text: str = "", tokens: int = 10) -> Response:
    made = tuple(
        Call(id=f"c{number}", name=name, arguments=arguments) for number, (name, arguments) in enumerate(calls)
    )
    return Response(
        turn=ModelTurn(text=text, calls=made, provider="scripted", raw={"sig": "abc"}),
        usage=Usage(input=tokens, output=tokens),
        model="one",
    )


FINISH = say(("finish", {"status": "done", "summary": "done", "result": {"n": 1}}))


def overloaded() -> OverloadedError:
    return OverloadedError("too much", "there", "wait")


class Bench:
    """A loop, its workspace as a list, and the clock in a variable."""

    def __init__(self, tmp_path: Path, said: list[Said], **limits: Any) -> None:
        self.files: list[str] = []
        self.path = tmp_path / "journal.jsonl"
        self.slept: list[float] = []
        self.clock = 0.0
        self.limits = Limits(**{"seconds": 3600.0, **limits})
        self.engine = Scripted(said)

    def loop(self, *engines: Engine, price: Decimal | None = Decimal("0.001")) -> Loop:
        tools: dict[str, Tool] = {name: counting(name, self.files) for name in ("write", "finish", "ask_person")}

        def sleep(seconds: float) -> None:
            self.slept.append(seconds)
            self.clock += seconds

        return Loop(
            journal=Journal(self.path),
            engines=engines or (self.engine,),
            tools=tools,
            system="system",
            task="task",
            summarize="sum it up",
            limits=self.limits,
            redactor=Redactor({"API_KEY": "a-secret-value"}),
            tree=lambda: "\n".join(self.files),
            restore=lambda tree: self.files.__setitem__(slice(None), tree.splitlines()),
            price=lambda engine, usage: None if price is None else price * (usage.input + usage.output) / 10,
            env=Environment(
                now=lambda: 1_795_132_800,
                monotonic=lambda: self.clock,
                sleep=sleep,
                random_hex=lambda count: "0" * count,
                host="here",
                pid=1,
                state_home=self.path.parent,
            ),
        )


def test_calls_run_in_order_and_finish_gives_the_typed_result(tmp_path: Path) -> None:
    bench = Bench(tmp_path, [say(("write", {"n": 1}), ("write", {"n": 2})), FINISH])
    ended = bench.loop().run()
    assert (ended.outcome, ended.result) == ("finished", {"summary": "done", "n": 1})
    assert bench.files == ["write 1", "write 2", "finish"]
    turns = bench.engine.asked[1].turns
    assert isinstance(turns[1], ModelTurn) and turns[1].raw == {"sig": "abc"} and isinstance(turns[2], ToolTurn)


def test_a_secret_that_is_the_name_of_a_field_leaves_the_journal_readable(tmp_path: Path) -> None:
    bench = Bench(tmp_path, [say(("write", {"n": 1}), text="my provider, my response"), FINISH])
    loop = bench.loop()
    loop.redactor = Redactor(
        {"A_TOKEN": "provider", "B_TOKEN": "response", "C_TOKEN": "finished", "D_TOKEN": "arguments"}
    )
    assert loop.run().outcome == "finished"
    assert bench.loop().run().outcome == "finished"
    assert b"my [A_TOKEN], my [B_TOKEN]" in Journal(bench.path).transcript()


def test_errors_of_tools_unknown_ones_and_malformed_arguments_go_back_to_the_model(tmp_path: Path) -> None:
    bad = Response(turn=ModelTurn(text="", calls=(Call(id="x", name="write", arguments=None, problem="not JSON"),)))
    bench = Bench(tmp_path, [say(("write", {"fail": True}), ("moon", {})), bad, FINISH])
    assert bench.loop().run().outcome == "finished"
    first, second = (turn for turn in bench.engine.asked[2].turns if isinstance(turn, ToolTurn))
    assert [result.is_error for result in (*first.results, *second.results)] == [True, True, True]
    assert "there is no tool `moon`" in first.results[1].content and "malformed" in second.results[0].content


def wrong(finish: str, text: str = "", problem: str = "") -> Response:
    return dataclasses.replace(say(text=text), finish=finish, problem=problem)


CUT, MALFORMED = wrong("length", "First I will"), wrong("malformed", problem="MALFORMED_FUNCTION_CALL: print(wombat(")
REFUSED, FILTERED = wrong("refused", "I will not."), wrong("refused", problem="SAFETY")


def test_calls_of_tools_that_do_not_exist_end_the_attempt_at_the_third_turn_in_a_row(tmp_path: Path) -> None:
    bad = say(("moon", {}))
    bench = Bench(tmp_path, [bad] * 5)
    ended = bench.loop().run()
    assert ended.outcome == "failed" and "there is no tool `moon`" in ended.text and len(bench.engine.asked) == 3
    assert bench.loop().run() == ended  # killed after that
    bench = Bench(tmp_path / "b", [bad, bad, say(("moon", {}), ("write", {"n": 1})), bad, bad, FINISH])
    assert bench.loop().run().outcome == "finished"


@pytest.mark.parametrize("call", [("write", {"fail": True}), ("write", {"n": 1})], ids=["fails", "works"])
def test_the_same_calls_with_the_same_results_end_the_attempt_at_the_fifth_turn(
    tmp_path: Path, call: tuple[str, dict[str, Any]]
) -> None:
    bench = Bench(tmp_path, [say(call)] * 9)
    ended = bench.loop().run()
    assert ended.outcome == "failed" and len(bench.engine.asked) == 5
    assert ended.text == "the model made the same call 5 times in a row, with the same result: write"
    assert bench.loop().run() == ended  # killed after that: nothing is asked again
    other = say(("write", {"n": 2}))
    bench = Bench(tmp_path / "b", [*[say(call)] * 4, other, *[say(call)] * 4, FINISH])
    assert bench.loop().run().outcome == "finished"


@pytest.mark.parametrize(
    ("answer", "said", "words"),
    [
        (say(text="hm"), "called no tool", "You called no tool"),
        (say(), "was empty", "Your answer was empty"),
        (CUT, "was cut off at its output limit", "cut off at the output limit"),
        (MALFORMED, "was malformed: MALFORMED_FUNCTION_CALL: print(wombat(", 'could not be read: "MALFORMED'),
        (REFUSED, "refused: I will not.", "You refused"),
        (FILTERED, "filter stopped the answer: SAFETY", 'filter stopped your last answer: "SAFETY"'),
    ],
)
def test_an_answer_that_went_wrong_is_asked_again_twice_and_the_third_in_a_row_ends_the_attempt(
    tmp_path: Path, answer: Response, said: str, words: str
) -> None:
    bench = Bench(tmp_path, [answer, answer, answer])
    ended = bench.loop().run()
    assert ended.outcome == "failed" and said in ended.text
    last = bench.engine.asked[2].turns[-1]
    assert isinstance(last, UserTurn) and words in last.text
    bench = Bench(tmp_path / "b", [answer, answer, say(("write", {"n": 1})), answer, answer, FINISH])
    assert bench.loop().run().outcome == "finished"


def test_calls_with_malformed_arguments_end_the_attempt_at_the_third_turn_in_a_row_too(tmp_path: Path) -> None:
    bad = Response(
        turn=ModelTurn(text="", calls=(Call(id="x", name="write", arguments=None, problem="not JSON"),)),
        finish="length",
    )
    bench = Bench(tmp_path, [bad, bad, bad])
    ended = bench.loop().run()
    assert ended.outcome == "failed" and "malformed: not JSON" in ended.text
    told = bench.engine.asked[1].turns[-1]
    assert isinstance(told, ToolTurn) and "cut off at its output limit" in told.results[0].content
    assert bench.loop().run() == ended  # killed after that
    bench = Bench(tmp_path / "b", [bad, bad, say(("write", {"n": 1})), bad, bad, FINISH])
    assert bench.loop().run().outcome == "finished"


@pytest.mark.parametrize("answer", [MALFORMED, REFUSED, FILTERED])
def test_a_malformed_or_refused_answer_is_first_asked_again_unchanged(tmp_path: Path, answer: Response) -> None:
    bench = Bench(tmp_path, [answer, FINISH])
    assert bench.loop().run().outcome == "finished"
    assert bench.engine.asked[1] == bench.engine.asked[0]


def test_after_a_cut_answer_the_limit_is_the_model_s_own_where_the_budget_allows_it(tmp_path: Path) -> None:
    def limits(folder: str, **budget: Any) -> list[int]:
        bench = Bench(tmp_path / folder, [CUT, FINISH], **budget)
        loop = bench.loop()
        loop.most_output = lambda engine: 65_536
        assert loop.run().outcome == "finished"
        return [request.max_output for request in bench.engine.asked]

    assert limits("a") == [16_384, 65_536]
    assert limits("b", tokens=20_000) == [16_384, 16_384]


def test_killed_after_an_answer_that_went_wrong_it_asks_what_it_would_have_asked(tmp_path: Path) -> None:
    script: list[Said] = [MALFORMED, CUT, say(("write", {"n": 1})), say(text="hm"), wrong("length"), FINISH]
    whole = Bench(tmp_path, list(script))
    whole.loop().run()
    lines = whole.path.read_bytes().splitlines(keepends=True)
    heard = 0
    for count, line in enumerate(lines[:-1], 1):
        heard += b'"kind":"response"' in line
        again = Bench(tmp_path / str(count), list(script[heard:]))
        again.path.parent.mkdir()
        again.path.write_bytes(b"".join(lines[:count]))
        assert again.loop().run().outcome == "finished"
        assert [one.turns for one in again.engine.asked] == [one.turns for one in whole.engine.asked[heard:]], count


def test_what_a_long_call_gave_is_in_the_journal_before_the_next_call_starts(tmp_path: Path) -> None:
    def run(seconds: float) -> list[list[str]]:
        bench = Bench(tmp_path / str(seconds), [say(*(("write", {"n": n}) for n in (1, 2, 3))), FINISH])
        loop = bench.loop()
        made, seen = loop.tools["write"].call, list[list[str]]()

        def call(arguments: Mapping[str, Any]) -> Any:
            seen.append([str(one.name) for record in loop._results() for one in record.results])
            bench.clock += seconds if arguments["n"] == 2 else 0
            return made(arguments)

        loop.tools = {**loop.tools, "write": loop.tools["write"]._replace(call=call)}
        assert loop.run().outcome == "finished"
        return seen

    assert run(0.5) == [[], [], []]
    assert run(1.5) == [[], [], ["write", "write"]]


def reading(bench: Bench) -> Loop:
    """Return a loop with a read of which two meet, or time out."""
    loop, meet = bench.loop(), threading.Barrier(2, timeout=10)
    contract = replace(loop.tools["write"].contract, name="look", effect="read", concurrent=True)

    def call(arguments: Mapping[str, Any]) -> Any:
        if arguments.get("alone"):
            raise ToolError("nothing is there")
        meet.wait()
        bench.files.append("look")
        return {"n": arguments["n"]}

    return replace(loop, tools={**loop.tools, "look": Tool(contract, call)})


def test_reads_of_a_turn_run_side_by_side_and_their_results_have_its_order(tmp_path: Path) -> None:
    calls: list[tuple[str, dict[str, Any]]] = [
        ("look", {"n": 1}),
        ("look", {"alone": True}),
        ("look", {"n": 2}),
        ("write", {"n": 3}),
        ("look", {"alone": True}),
    ]
    bench = Bench(tmp_path, [say(*calls), FINISH])
    loop = reading(bench)
    assert loop.run().outcome == "finished"
    assert bench.files == ["look", "look", "write 3", "finish"]
    (results, _) = loop._results()
    assert [(one.name, one.content, one.error) for one in results.results] == [
        ("look", {"n": 1}, False),
        ("look", "nothing is there", True),
        ("look", {"n": 2}, False),
        ("write", {"ok": True}, False),
        ("look", "nothing is there", True),
    ]


def test_work_is_not_done_by_a_turn_in_which_a_read_beside_it_failed(tmp_path: Path) -> None:
    looks: list[tuple[str, dict[str, Any]]] = [("look", {"n": 1}), ("look", {"alone": True}), ("look", {"n": 2})]
    done: tuple[str, dict[str, Any]] = ("finish", {"status": "done", "summary": "done"})
    bench = Bench(tmp_path, [say(*looks, done), FINISH])
    loop = reading(bench)
    assert loop.run().outcome == "finished" and len(bench.engine.asked) == 2
    assert "`look` of the same turn failed" in str(loop._results()[0].results[-1].content)


def test_killed_at_every_record_of_reads_it_asks_nothing_twice_and_no_write_is_repeated(tmp_path: Path) -> None:
    looks, work = (("look", {"n": 1}), ("look", {"n": 2})), ("write", {"n": 3})
    script = [say(*looks), say(work, *looks), FINISH]
    whole = Bench(tmp_path, list(script))
    assert reading(whole).run().outcome == "finished"
    lines = whole.path.read_bytes().splitlines(keepends=True)
    for count in range(len(lines) + 1):
        heard = sum(b'"kind":"response"' in line for line in lines[:count])
        again = Bench(tmp_path / str(count), list(script[heard:]))
        again.path.parent.mkdir()
        again.path.write_bytes(b"".join(lines[:count]))
        loop = reading(again)
        assert loop.run().outcome == "finished" and len(again.engine.asked) == 3 - heard
        assert [[one.name for one in record.results] for record in loop._results()] == [
            ["look", "look"],
            ["write", "look", "look"],
            ["finish"],
        ]


def test_a_retry_after_is_waited_for_and_a_refused_key_is_not_tried_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, [RateLimitError("slow", "there", "wait", retry_after=7.0), overloaded(), FINISH])
    assert bench.loop().run().outcome == "finished"
    assert bench.slept == [7.0, 2.0]
    bench = Bench(tmp_path / "b", [KeyRefusedError("no", "there", "set it"), FINISH])
    with pytest.raises(KeyRefusedError):
        bench.loop().run()
    assert len(bench.engine.asked) == 1


def test_retries_end_with_the_steps_time_and_nothing_is_recorded(tmp_path: Path) -> None:
    bench = Bench(tmp_path, [overloaded() for _ in range(20)], seconds=5.0)
    with pytest.raises(OverloadedError):
        bench.loop().run()
    assert sum(bench.slept) < 5 and Journal(bench.path).records == []


def test_the_next_engine_is_asked_where_the_first_does_not_answer(tmp_path: Path) -> None:
    first, second = Scripted([KeyRefusedError("no", "there", "set it")]), Scripted([FINISH])
    bench = Bench(tmp_path, [])
    assert bench.loop(first, second).run().outcome == "finished"


@pytest.mark.parametrize("refusal", [overloaded(), KeyRefusedError("no", "there", "set it")])
def test_no_model_is_asked_again_by_a_runner_that_lost_its_lease_meanwhile(
    tmp_path: Path, refusal: OverloadedError | KeyRefusedError
) -> None:
    """Neither the same one after a wait nor the next one."""
    first, second = Scripted([refusal, FINISH]), Scripted([FINISH])
    loop = Bench(tmp_path, []).loop(first, second)

    def ensure() -> None:
        if first.asked:
            raise HeldError("held by another runner", "there", "wait")

    loop.ensure = ensure
    with pytest.raises(HeldError):
        loop.run()
    assert (len(first.asked), len(second.asked)) == (1, 0)


def test_a_long_wait_is_for_the_last_engine_alone(tmp_path: Path) -> None:
    def limited(seconds: float) -> RateLimitError:
        return RateLimitError("slow", "there", "wait", retry_after=seconds)

    bench = Bench(tmp_path / "two", [])
    first, second = Scripted([limited(600.0)]), Scripted([FINISH])
    assert bench.loop(first, second).run().outcome == "finished" and bench.slept == []
    bench = Bench(tmp_path / "soon", [])
    assert bench.loop(Scripted([limited(7.0), FINISH]), Scripted([])).run().outcome == "finished" and bench.slept == [
        7.0
    ]
    bench = Bench(tmp_path / "one", [limited(600.0), FINISH])
    assert bench.loop().run().outcome == "finished" and bench.slept == [600.0]


def test_an_answer_costs_what_the_engine_takes_that_gave_it(tmp_path: Path) -> None:
    first, second = Scripted([KeyRefusedError("no", "there", "set it")]), Scripted([FINISH])
    first.name, first.provider, second.name = "scripted:dear", "scripted", "scripted:cheap"
    loop = Bench(tmp_path, []).loop(first, second)
    loop.price = lambda engine, usage: Decimal(5) if engine is first else Decimal("0.5")
    assert loop.run().outcome == "finished"
    (answer, _) = loop.journal.records
    assert isinstance(answer, Answer)
    assert (answer.engine, answer.usd, loop.total.usd) == ("scripted:cheap", "0.5", Decimal("0.5"))


def test_what_a_recorded_answer_cost_needs_no_price(tmp_path: Path) -> None:
    loop = Bench(tmp_path, [dataclasses.replace(FINISH, usd=Decimal("0.25"))]).loop(price=None)
    assert loop.run().outcome == "finished"
    assert (loop.total.usd, loop.total.unpriced) == (Decimal("0.25"), 0)


@pytest.mark.parametrize("limits", [{"tokens": 50}, {"usd": Decimal("0.002")}, {"turns": 1}])
def test_a_limit_stops_before_the_request_that_would_pass_it(tmp_path: Path, limits: dict[str, Any]) -> None:
    bench = Bench(tmp_path, [say(("write", {"n": 1})), FINISH], **limits)
    ended = bench.loop().run()
    assert ended.outcome == "budget"
    assert len(bench.engine.asked) <= 1


def test_an_unknown_price_is_never_taken_for_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path, [FINISH], usd=Decimal(5))
    ended = bench.loop(price=None).run()
    assert ended.outcome == "budget" and "price" in ended.text and not bench.engine.asked


def test_killed_at_every_record_it_goes_on_and_asks_nothing_twice(tmp_path: Path) -> None:
    script = [say(("write", {"n": 1})), say(("write", {"n": 2}), ("write", {"n": 3})), FINISH]
    whole = Bench(tmp_path, list(script))
    whole.loop().run()
    lines = whole.path.read_bytes().splitlines(keepends=True)
    ends = [sum(map(len, lines[:count])) for count in range(len(lines) + 1)]
    points = sorted({*ends, *(end + 5 for end in ends[:-1])})
    for point in points:
        heard = sum(b'"kind":"response"' in line for line in whole.path.read_bytes()[:point].split(b"\n")[:-1])
        again = Bench(tmp_path / str(point), list(script[heard:]))
        again.path.parent.mkdir()
        again.path.write_bytes(whole.path.read_bytes()[:point])
        again.files = ["left over from before it was killed"] if point else []
        if not heard or point < ends[2]:
            again.files = []  # the workspace is reset to the attempt's start by whoever runs the loop
        ended = again.loop().run()
        assert ended.outcome == "finished", point
        assert len(again.engine.asked) == 3 - heard
        assert [name for name in again.files if name != "finish"] == ["write 1", "write 2", "write 3"], point


def test_a_question_ends_the_loop_and_its_answer_goes_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path, [say(("ask_person", {"question": "which?"}))])
    ended = bench.loop().run()
    assert (ended.outcome, ended.text) == ("asked", "which?")
    bench.engine.said.append(FINISH)
    assert bench.loop().run(["the left one"]).outcome == "finished"
    turn = bench.engine.asked[-1].turns[-1]
    assert isinstance(turn, ToolTurn) and turn.results[0].content == {"answer": "the left one"}


def test_secrets_do_not_reach_the_journal(tmp_path: Path) -> None:
    bench = Bench(tmp_path, [say(("write", {"text": "a-secret-value"}), text="a-secret-value"), FINISH])
    bench.loop().run()
    assert b"a-secret-value" not in bench.path.read_bytes()


def test_what_the_checks_find_comes_back_until_they_ran_for_the_last_time(tmp_path: Path) -> None:
    bench = Bench(tmp_path, [say(("write", {"n": 1})), FINISH, FINISH, FINISH])
    loop, seen = bench.loop(), list[Any]()
    loop.rounds, loop.check = 3, lambda result: seen.append(result) or "quoted: broken"  # type: ignore[func-returns-value]
    ended = loop.run()
    assert (ended.outcome, ended.result, len(seen)) == ("finished", {"summary": "done", "n": 1}, 3)
    assert seen[0] == ended.result and loop.untrusted
    back = bench.engine.asked[2].turns[-1]
    assert isinstance(back, ToolTurn) and back.results[0].is_error
    assert "Fix what they found" in back.results[0].content["not_done"]
    assert back.results[0].content["found"] == "quoted: broken" and "run 1 of 3" in back.results[0].content["not_done"]
    assert bench.engine.asked[2].turns[:-2] == bench.engine.asked[1].turns  # the same conversation


def test_work_is_not_done_by_a_turn_in_which_a_call_failed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, [say(("writ", {"n": 1}), ("finish", {"status": "done", "summary": "done"})), FINISH])
    loop, ran = bench.loop(), list[Any]()
    loop.check = lambda result: ran.append(result) or ""  # type: ignore[func-returns-value]
    assert loop.run().outcome == "finished"
    back = bench.engine.asked[1].turns[-1]
    assert (
        isinstance(back, ToolTurn)
        and back.results[1].is_error
        and "`writ` of the same turn failed" in str(back.results[1].content)
    )
    assert len(ran) == 1


def test_killed_at_every_record_no_check_runs_twice_and_the_count_goes_on(tmp_path: Path) -> None:
    script = [say(("write", {"n": 1})), FINISH, say(("write", {"n": 2})), FINISH, FINISH]

    def loop(bench: Bench, ran: list[int]) -> Loop:
        made = bench.loop()
        made.rounds, made.check = 3, lambda result: ran.append(1) or "broken"  # type: ignore[func-returns-value]
        return made

    whole = Bench(tmp_path, list(script))
    assert loop(whole, []).run().outcome == "finished"
    lines = whole.path.read_bytes().splitlines(keepends=True)
    for count in range(len(lines) + 1):
        kept = b"".join(lines[:count])
        heard = kept.count(b'"kind":"response"')
        again, ran = Bench(tmp_path / str(count), list(script[heard:])), list[int]()
        again.path.parent.mkdir()
        again.path.write_bytes(kept)
        assert loop(again, ran).run() == loop(whole, []).run(), count
        had = sum(b'"kind":"results"' in line and b'"name":"finish"' in line for line in lines[:count])
        assert len(ran) == 3 - had and len(again.engine.asked) == 5 - heard, count


def test_what_cannot_be_done_is_no_finished_work_and_its_checks_do_not_run(tmp_path: Path) -> None:
    bench = Bench(tmp_path, [say(("finish", {"status": "cannot", "summary": "there is no such word"}))])
    loop = bench.loop()
    loop.check = lambda result: pytest.fail("a check ran")
    ended = loop.run()
    assert (ended.outcome, ended.text) == ("failed", "it cannot be done: there is no such word")
    assert bench.loop().run() == ended  # killed after that


@pytest.mark.parametrize("script", [[REFUSED, REFUSED, REFUSED], [say(text="hm"), MALFORMED, say(text="hm?")]])
def test_killed_after_the_answer_that_ends_it_it_ends_the_same_way(tmp_path: Path, script: list[Said]) -> None:
    whole = Bench(tmp_path, list(script))
    ended = whole.loop().run()
    assert ended.outcome == "failed"
    whole.engine.said.append(FINISH)
    assert whole.loop().run() == ended
    assert len(whole.engine.asked) == len(script)


def test_a_budget_that_does_not_allow_the_summary_ends_the_loop(tmp_path: Path) -> None:
    bench = Bench(tmp_path, [say(("write", {"n": "x" * 20_000})), FINISH], turns=1)
    loop = bench.loop()
    loop.context = lambda: 20
    assert loop.run().outcome == "budget"
    assert len(bench.engine.asked) == 1


def test_old_output_is_folded_once_at_a_size_and_the_requests_between_extend_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.executor.loop.FOLD", 9_000)
    bench = Bench(tmp_path, [*[say(("read", {"n": n})) for n in range(20)], FINISH])
    loop = bench.loop()
    loop.tools = {**loop.tools, "read": counting("read", bench.files, said="x" * 4_000)}
    assert loop.run().outcome == "finished"
    turns = [request.turns for request in bench.engine.asked]
    broken = [at for at, (one, then) in enumerate(pairwise(turns)) if then[: len(one)] != one]
    assert 1 <= len(broken) <= 3
    assert all(after - before > 2 for before, after in pairwise(broken))
    last = [turn.results[0].content for turn in turns[-1] if isinstance(turn, ToolTurn)]
    assert "left out" in last[0] and len(last[0]) < 2_000 and len(last[-1]) > 3_000


def test_a_conversation_that_the_model_calls_too_long_is_shortened_and_summarised(tmp_path: Path) -> None:
    too_long = ContextTooLongError("too long", "there", "")
    bench = Bench(tmp_path, [say(("write", {"n": "x" * 9_000})), too_long, say(text="I wrote it."), FINISH])
    assert bench.loop().run().outcome == "finished"
    assert bench.engine.asked[-1].turns[-1] == UserTurn(text="I wrote it.")
    hopeless = Bench(tmp_path / "b", [too_long, too_long, too_long])
    with pytest.raises(ContextTooLongError):
        hopeless.loop().run()


def test_an_engine_is_asked_by_its_settings_and_a_person_s_limit_is_not_widened(tmp_path: Path) -> None:
    bench = Bench(tmp_path, [dataclasses.replace(say(text="wri"), finish="length"), FINISH])
    loop = bench.loop()
    loop.settings = lambda engine: EngineSettings.model_validate(
        {"thinking": "high", "temperature": 0.5, "output": 900}
    )
    loop.most_output = lambda engine: 64_000
    assert loop.run().outcome == "finished"
    assert {(one.thinking, one.temperature, one.max_output) for one in bench.engine.asked} == {("high", 0.5, 900)}


def test_an_answer_that_does_not_say_what_it_cost_is_not_taken_for_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path, [say(("write", {"n": "x" * 300}), tokens=0), FINISH], tokens=50_000)
    loop = bench.loop()
    assert loop.run().outcome == "finished"
    answer = loop.journal.records[0]
    assert isinstance(answer, Answer) and answer.usd is not None and answer.usage.input > 0 and answer.usage.output > 0
    assert Decimal(answer.usd) > 0


def test_what_is_reserved_is_all_that_is_said_in_any_script(tmp_path: Path) -> None:
    bench = Bench(tmp_path, [FINISH], tokens=16_384 + 1_000)
    loop = bench.loop()
    loop.task = "数" * 1_500
    assert loop.run().outcome == "budget"
    bench = Bench(tmp_path / "b", [FINISH], tokens=16_384 + 1_000)
    loop = bench.loop()
    loop.tools = {**loop.tools, "write": counting("write", bench.files, "x" * 6_000)}
    assert loop.run().outcome == "budget"


def test_a_request_is_weighed_whole_and_each_turn_of_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = [say(("write", {"n": "é数\udcff" * number}), text="“so”") for number in range(20)]
    bench = Bench(tmp_path, [*said, say(text="I go on."), FINISH])
    loop, measured = bench.loop(), list[Turn]()
    size_of = runner.executor.loop._size

    def counted(turn: Turn) -> int:
        measured.append(turn)
        return size_of(turn)

    monkeypatch.setattr("runner.executor.loop._size", counted)
    assert loop.run().outcome == "finished"
    for request in bench.engine.asked:
        whole = json.dumps(request.plain(), ensure_ascii=False).encode("utf-8", "surrogatepass")
        assert loop._weight(request) == len(whole) // CHARACTERS_A_TOKEN
    assert len(measured) == len(bench.engine.asked[-1].turns)


def test_a_try_is_given_the_time_that_is_left(tmp_path: Path) -> None:
    bench = Bench(tmp_path, [overloaded(), overloaded(), FINISH], seconds=60.0)
    given: list[float] = []

    class Slow(Scripted):
        def ask(self, request: Request, *, timeout: float, **_: Any) -> Response:
            given.append(timeout)
            bench.clock += 20.0
            return super().ask(request, timeout=timeout)

    assert bench.loop(Slow(bench.engine.said)).run().outcome == "finished"
    assert given == [60.0, 39.0, 17.0]
