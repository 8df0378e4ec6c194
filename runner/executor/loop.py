"""The agent's loop: ask the model, journal its answer, run the tools it calls, until it says that it is done.

Each answer is on the disk before it is used, and each round of tools ends with a note of the tree that they left: a killed step
resumes from the last whole record, in the same tree, and asks nothing twice. Limits are reserved before they are spent. The gate
(`calls`) decides about a call; a turn with a held call has the results of the calls before it in the journal, and resumes with it.
"""

from __future__ import annotations

import contextlib
import json
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import astuple, dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

from runner import signals
from runner.engines import (
    IMAGE_TOKENS,
    Call,
    ContextTooLongError,
    Engine,
    EngineError,
    ModelTurn,
    RateLimitError,
    Request,
    Response,
    ToolResult,
    ToolSpec,
    ToolTurn,
    Turn,
    Usage,
    UserTurn,
    picture_of,
    without_picture,
)
from runner.engines.recorded import dump_response
from runner.errors import RefusedError
from runner.executor.calls import CallHeldError, DeniedError, Gate, Open
from runner.executor.effects import EffectError
from runner.executor.journal import Journal
from runner.lines import money
from runner.protocol import aliases, transcript
from runner.protocol.config import EngineSettings
from runner.protocol.transcript import Result, Results, Summary, Typed
from runner.store.environment import Environment, Redactor
from runner.store.project import SharedBudget
from runner.tools import AsksError, Tool, ToolError, registry

READERS = 4  # calls that run at the same time
LONG = 1.0  # seconds after which a call's result is journaled at once: a kill does not repeat the call
WRONG_MOST = 3  # answers in a row of which nothing can be made; the last of them ends the attempt
SAME_MOST = 5  # turns in a row with the same calls and results; each is paid for, and the last of them ends the attempt
PATIENCE = 60.0  # seconds to wait for an engine while another one could be asked
TRIES = 6  # how often one request is made before its error is told
CONTEXT = 160_000  # tokens that a conversation may have, by estimate, before the model summarises it
SMALLEST = 2_000  # up to which no limit is looked up: the table of models takes long to load
FOLD = 40_000  # tokens by which it grows before old tool output is shortened: each time the provider's cache is lost
KEEP_WHOLE = 6  # tool turns at the end that are never shortened
Answer = TypeVar("Answer", transcript.Response, Summary)
SHORT = 600  # characters that remain of a shortened output
CHARACTERS_A_TOKEN = 3  # an estimate that is rather too many tokens than too few
CANNOT = "it cannot be done: "  # the beginning of the reason where a model says so
_IN_PATCH = re.compile(r"(?m)^(?:\+\+\+ b/|\*\*\* (?:Update|Add|Delete) File: )(\S+)")
# The results of these are the runner's or a person's text; those of all others are untrusted. `edit_file` shows lines of the file.
VOUCHED = frozenset(("finish", "ask_person", "publish_artifact", "write_file", "apply_patch", "remember"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an attempt may use in all; None is no limit.

    `unpriced`: tokens that count against `usd` beside the attempt's own, and whose price nobody knows; `where`: by limit, a hint that
    names the file that sets it.
    """

    usd: Decimal | None = None
    tokens: int | None = None
    turns: int | None = None
    calls: int | None = None
    seconds: float
    unpriced: int = 0
    where: Mapping[str, str] = field(default_factory=dict)

    def reached(self, kind: str, text: str) -> str:
        """Return why work stops at the limit `kind` (usd, tokens …), and where a person can change it."""
        return "; ".join(filter(None, (text, self.where.get(kind))))


@dataclass(slots=True)
class Total:
    """The usage so far. `unpriced`: tokens whose price is not known; `usd` is without them."""

    usd: Decimal = Decimal(0)
    unpriced: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    turns: int = 0
    calls: int = 0
    cached: int = 0  # of the input

    @property
    def tokens(self) -> int:
        """All tokens, of requests and answers."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Total) -> Total:
        return Total(*map(operator.add, astuple(self), astuple(other)))

    def __sub__(self, other: Total) -> Total:
        return Total(*map(operator.sub, astuple(self), astuple(other)))

    def add(self, record: transcript.Response | Summary) -> None:
        """Count a response of the journal."""
        self.turns += 1
        self.calls += len(record.calls)
        self.input_tokens += record.usage.input
        self.cached += record.usage.cached
        self.output_tokens += record.usage.output
        if record.usd is None:
            self.unpriced += max(1, record.usage.input + record.usage.output)
        else:
            self.usd += Decimal(record.usd)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a loop ended. `outcome`: finished, failed, asked, budget, held or unknown; `text`: summary, reason or question.

    `stop`: the held call, or the effect that a person is asked about.
    """

    outcome: str
    text: str
    result: dict[str, Any] | None = None
    artifacts: tuple[str, ...] = ()
    stop: CallHeldError | EffectError | None = None


class BudgetStop(Exception):
    """The next request would pass a limit."""


@dataclass(slots=True)
class Loop:
    """One attempt of an agent step.

    `tools`: what the model may call, those that the loop itself carries out included; `offered`: which of them it is offered, None for
    all; `tree()`: the workspace's tree now;
    `restore(tree)`: makes the workspace hold it; `price(engine, usage)`: in US dollars, None where it is not known;
    `settings(engine)`: how it is asked;
    `most_output(engine)`: the most tokens that one of its answers can have, None where it is not known;
    `told`: gets each record; `ensure()`: raises where nothing may start here any more; `untrusted`: whether the conversation
    has untrusted text; `context`: the tokens that it may have, None: the engine keeps a conversation of its own;
    `check(result)`: what the step's checks find wrong in the work that `finish` proposes, quoted, empty where
    nothing is; `rounds`: how often they may run in the attempt; `guide(paths)`: the instructions for these paths that the conversation
    has not yet; `answered`: people's answers by their questions, for tools that ask.
    """

    journal: Journal
    engines: tuple[Engine, ...]
    limits: Limits
    redactor: Redactor
    price: Callable[[Engine, Usage], Decimal | None]
    env: Environment
    tools: Mapping[str, Tool] = field(default_factory=dict)
    system: str = ""
    task: str = ""
    summarize: str = ""
    tree: Callable[[], str] = lambda: ""
    restore: Callable[[str], None] = lambda tree: None
    most_output: Callable[[Engine], int | None] = lambda engine: None
    settings: Callable[[Engine], EngineSettings] = lambda engine: EngineSettings()
    told: Callable[[transcript.Line], None] = lambda record: None
    ensure: Callable[[], None] = lambda: None
    check: Callable[[dict[str, Any]], str] = lambda result: ""
    guide: Callable[[Sequence[str]], str] = lambda paths: ""
    rounds: int = 1
    gate: Gate = field(default_factory=Open)
    answered: dict[str, str] = field(default_factory=dict)
    offered: frozenset[str] | None = None
    untrusted: bool = False
    context: Callable[[], int] | None = lambda: CONTEXT
    total: Total = field(default_factory=Total)
    shared_budget: SharedBudget | None = None
    _began: float = 0.0
    _guided: list[str] = field(default_factory=list)  # instructions since the first request
    # The `finish` of the last answers in a row of which nothing could be made.
    _wrong: list[str] = field(default_factory=list)
    _same: list[object] = field(default_factory=list)  # the last turns' calls and results, while they are the same
    _failed: int = 0  # proposals whose checks failed
    _is_cut: bool = False  # whether an answer was cut off at the output limit
    _folded: int = 0  # tokens of the conversation after old tool output was shortened last
    _ended: Ended | None = None  # by the last answer, if nothing could be made of it
    _pool: ThreadPoolExecutor | None = None  # of calls that run at the same time
    # The tools as a request has them, and by the id of a turn its sizes: what all requests have is not read anew for each.
    _shown: tuple[Mapping[str, Tool], tuple[ToolSpec, ...]] | None = None
    _sizes: dict[int, tuple[Turn, int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._began = self.env.monotonic()

    def run(self, answers: Sequence[str] = ()) -> Ended:
        """Resume from the journal, and run to the end. `answers`: people's answers to its questions so far, in order.

        Raises:
            EngineError: no engine answered; earlier answers are in the journal.
        """
        self._began = self.env.monotonic()
        turns: list[Turn] = [UserTurn(text=self.task)]
        pending, done = self._replay(turns, answers)
        ended = self._ended_before(answers) or self._ended
        if ended is not None:
            return ended
        # The threads live as long as the loop: what one of them starts may end with it.
        self._pool = ThreadPoolExecutor(READERS)
        try:
            while True:
                if pending is not None:
                    ended = self._tools(turns, pending, done) or self._ended
                    if ended is not None:
                        return ended
                following = self._next(turns)
                if isinstance(following, Ended):
                    return following
                pending, done = following, []
        finally:
            self._pool.shutdown(cancel_futures=True)

    # --- what was heard before ---------------------------------------------------------------------------------------

    def _ended_before(self, answers: Sequence[str]) -> Ended | None:
        """Return how the loop had ended where it was killed after that; a question that is answered by now is no end, nor is a
        budget that was raised."""
        made = self._results()
        told = made[-1].ended if made else None
        if told is None or made[-1] is not self.journal.records[-1]:
            return None
        if told.outcome == "asked" and len(answers) >= sum(map(_asks, made)):
            return None
        if told.outcome == "budget" and (self.limits.calls is None or self.total.calls <= self.limits.calls):
            return None
        return Ended(told.outcome, told.text, told.result, self._artifacts())

    def _results(self) -> list[Results]:
        return [record for record in self.journal.records if isinstance(record, Results)]

    def _replay(self, turns: list[Turn], answers: Sequence[str]) -> tuple[ModelTurn | None, list[Result]]:
        """Put the journal's records into the conversation; return the turn whose calls were not all carried out, if any,
        and the results of those that were."""
        pending: ModelTurn | None = None
        done: list[Result] = []
        tree = ""
        left = list(answers)
        for record in self.journal.records:
            match record:
                case transcript.Response():
                    self.total.add(record)
                    pending, done = self._heard(record, turns), []
                case Results():
                    answer = left.pop(0) if _asks(record) and left else None
                    done += [_answered(one, answer) for one in record.results]
                    if record.results:
                        self.answered.clear()
                    if answer is not None and record.ended is not None:
                        self.answered[record.ended.text] = answer
                    self._failed += sum(map(_is_failed_proposal, record.results))
                    tree = record.tree
                    if pending is None or len(done) >= len(pending.calls):
                        self._hear(turns, done)
                        pending, done = None, []
                case Summary():
                    self.total.add(record)
                    self._begin_anew(turns, record.text)
        if tree:
            self.restore(tree)
        return pending, done

    def _hear(self, turns: list[Turn], results: Sequence[Result]) -> None:
        """Put the results of a whole turn's calls into the conversation, each by the name that the model called."""
        last = turns[-1]
        called: dict[str, str] = {call.id: call.name for call in last.calls} if isinstance(last, ModelTurn) else {}
        turns.append(
            ToolTurn(
                results=tuple(
                    ToolResult(id=one.id, name=called.get(one.id) or one.name, content=one.content, is_error=one.error)
                    for one in results
                )
            )
        )
        if isinstance(last, ModelTurn):
            self._compare(last, results)
        self.untrusted = self.untrusted or any(_taints(one) for one in results)
        words = self.guide(_places(map(self._canonical, last.calls))) if isinstance(last, ModelTurn) else ""
        if words:
            self._guided.append(words)
            turns.append(UserTurn(text=words))

    def _compare(self, turn: ModelTurn, results: Sequence[Result]) -> None:
        """End the attempt where the last turns made the same calls and got the same results."""
        made = [(call.name, call.arguments) for call in turn.calls], [(one.content, one.error) for one in results]
        self._same = [*self._same, made] if self._same[-1:] == [made] else [made]
        if len(self._same) >= SAME_MOST:
            calls = f"call{'s' if len(turn.calls) > 1 else ''} {SAME_MOST} times in a row, with the same result"
            why = f"the model made the same {calls}: {', '.join(call.name for call in turn.calls)}"
            self._ended = self._left(why) or Ended("failed", why)

    # --- asking --------------------------------------------------------------------------------------------------------

    def _next(self, turns: list[Turn]) -> ModelTurn | Ended:
        size = self._tokens(turns)
        most = self.context() if self.context and size > SMALLEST else None
        if most is not None and size > min(self._folded + FOLD, most):
            self._shorten(turns)
            size = self._folded = self._tokens(turns)
        try:
            if most is not None and size > most:
                self._sum_up(turns)
            engine, response = self._ask(Request(system=self.system, turns=tuple(turns), tools=self._specs()))
        except BudgetStop as stop:
            return Ended("budget", str(stop))
        except ContextTooLongError:  # the size is an estimate
            half = self._tokens(turns) // 2
            if most is None or most <= half:
                raise
            self.context = lambda: half
            return self._next(turns)
        record = self._answer(transcript.Response, engine, response, kind="response")
        return self._heard(record, turns, response.turn) or self._ended or self._next(turns)

    def _heard(self, record: transcript.Response, turns: list[Turn], turn: ModelTurn | None = None) -> ModelTurn | None:
        """Take a model's turn into the conversation; return it where it calls tools, else ask again or end by it.

        `turn`: as the model gave it, where it was asked just now; else that of the journal.
        """
        turn = turn or turn_of(record)
        self._ended = None
        self._is_cut = self._is_cut or record.finish == "length"
        if record.finish == "failed":
            self._ended = Ended("failed", record.problem)
            return None
        what, words = _of_wrong(record)
        if turn.calls and record.finish != "refused":
            if any(call.arguments is not None and self._canonical(call).name in self.tools for call in turn.calls):
                self._wrong.clear()
            else:  # the results say so
                self._wrong.append("length" if record.finish == "length" else "malformed")
            if len(self._wrong) < WRONG_MOST:
                turns.append(turn)
                return turn
            first = turn.calls[0]
            what = (
                f"the model's call was malformed: {first.problem}"
                if first.problem
                else f"there is no tool `{first.name}`"
            )
        unchanged = record.finish in ("malformed", "refused") and record.finish not in self._wrong
        self._wrong.append(record.finish)
        if len(self._wrong) >= WRONG_MOST:
            why = f"{what}; it was the third answer in a row without a usable call"
            self._ended = self._left(why) or Ended("failed", why)
        elif not unchanged:
            if turn.text and record.finish in ("stop", "length"):
                turns.append(turn)
            turns.append(UserTurn(text=words))
        return None

    def _left(self, why: str) -> Ended | None:
        """Return the end by work that was proposed, failed its checks and was then left; None where none was proposed.

        QA records what the checks find, which says more than how the model stopped.
        """
        if not self._failed:
            return None
        heard = [record for record in self.journal.records if isinstance(record, transcript.Response)]
        said = [self._canonical(call) for record in heard for call in turn_of(record).calls]
        given = next(call.arguments for call in reversed(said) if call.name == "finish" and call.arguments)
        value = given.get("result")
        summary = f"{given.get('summary', '')} (then {why})"
        return Ended("finished", summary, {"summary": summary, **(value if isinstance(value, dict) else {})})

    def _specs(self) -> tuple[ToolSpec, ...]:
        if self._shown is None or self._shown[0] is not self.tools:
            specs = (
                ToolSpec(
                    name=aliases.wire_name(name),
                    description=tool.contract.description,
                    parameters=registry.shown(tool.contract),
                )
                for name, tool in self._offered().items()
            )
            self._shown = self.tools, tuple(specs)
        return self._shown[1]

    def _offered(self) -> Mapping[str, Tool]:
        return {name: tool for name, tool in self.tools.items() if self.offered is None or name in self.offered}

    def _ask(self, request: Request) -> tuple[Engine, Response]:
        """Return the first engine that answers, and what it says; tokens that it did not count are counted by estimate.

        Raises:
            BudgetStop: the request could cost more than is left.
            EngineError: none did.
        """
        problem: EngineError | None = None
        for engine in self.engines:
            self.ensure()
            wanted = self._widened(engine, self._set(engine, request))
            try:
                response = self._insist(engine, wanted, is_last=engine is self.engines[-1])
            except EngineError as error:
                problem = problem or error
                continue
            if not response.usage.input and response.usd is None:  # no question is of no tokens
                said = len(json.dumps([response.turn.raw, response.turn.text, response.thoughts])) // CHARACTERS_A_TOKEN
                usage = Usage(input=self._weight(request), output=max(said, response.usage.output))
                response = replace(response, usage=usage, usd=None)
            return engine, response
        assert problem is not None
        raise problem

    def _set(self, engine: Engine, request: Request) -> Request:
        said = self.settings(engine)
        most, warmth = said.output or request.max_output, None if said.temperature is None else float(said.temperature)
        return replace(request, max_output=most, thinking=said.thinking, temperature=warmth, images=said.images)

    def _widened(self, engine: Engine, request: Request) -> Request:
        """Reserve what a request can cost, and return it: after a cut answer with the model's own output limit, if a budget allows.

        Raises:
            BudgetStop: it could cost more than is left.
        """
        most = self.most_output(engine) if self._is_cut and self.settings(engine).output is None else None
        if most is not None and most > request.max_output:
            wide = replace(request, max_output=most)
            with contextlib.suppress(BudgetStop):
                self._reserve(engine, wide)
                return wide
        self._reserve(engine, request)
        return request

    def _insist(self, engine: Engine, request: Request, *, is_last: bool) -> Response:
        """Return an engine's answer; a request that may work later is made again, while there is time for it."""
        with signals.stoppable():
            for number in range(1, TRIES + 1):
                timeout = max(1.0, min(self._seconds_left(), 600.0))
                try:
                    return engine.ask(request, timeout=timeout, on_bytes=self.journal.arriving())
                except EngineError as error:
                    asked = error.retry_after if isinstance(error, RateLimitError) else None
                    wait = min(2.0 ** (number - 1), 30.0) if asked is None else asked
                    is_too_long = self._seconds_left() <= wait or (wait > PATIENCE and not is_last)
                    if not error.retryable or number == TRIES or is_too_long:
                        error.hint += "" if asked is None else f", until {self._at(asked)}"
                        raise
                    at = f", at {self._at(wait)}" if wait >= PATIENCE else ""
                    self.env.say(f"  {error.what}; asked again in {wait:g} s{at}")
                    self.env.sleep(wait)
                    self.ensure()  # another runner may have the work by now
        raise AssertionError("unreachable: the last try returns or raises")

    def _at(self, seconds: float) -> str:
        """Return the time in so many seconds, with its day where that is another one."""
        now = datetime.fromisoformat(self.env.timestamp())
        at = now + timedelta(seconds=seconds)
        return f"{at:%H:%M:%S} UTC" if at.date() == now.date() else f"{at:%Y-%m-%d %H:%M} UTC"

    def _seconds_left(self) -> float:
        return self.limits.seconds - (self.env.monotonic() - self._began)

    def _reserve(self, engine: Engine, request: Request) -> None:
        """Refuse a request that could go past a limit, before it is made."""
        limits, total = self.limits, self.total
        if limits.turns is not None and total.turns >= limits.turns:
            raise BudgetStop(limits.reached("turns", f"{total.turns} of {limits.turns} turns are used up"))
        if self._seconds_left() <= 0:
            why = f"the time of {limits.seconds:g} s is used up" if limits.seconds else "no time is left"
            raise BudgetStop(limits.reached("seconds", why))
        weight = self._weight(request)
        # What is written to a cache costs most.
        asked = Usage(input=weight, output=request.max_output, cache_write=weight)
        used, more = total.tokens, asked.input + asked.output
        if limits.tokens is not None and used + more > limits.tokens:
            why = f"{used:,} of {limits.tokens:,} tokens are used, and the next request could need {more:,}"
            raise BudgetStop(limits.reached("tokens", why))
        if limits.usd is not None:
            cost, unpriced = self.price(engine, asked), total.unpriced + limits.unpriced
            if cost is None:
                why = f"the price of {engine.name} is not known, so a budget in money cannot be kept"
            elif unpriced:
                why = (
                    f"the price of {unpriced:,} tokens that were used is not known, so a budget in money cannot be kept"
                )
            elif total.usd + cost > limits.usd:
                why = (
                    f"{money(total.usd)} of {money(limits.usd)} are used, and the next request could cost {money(cost)}"
                )
            else:
                why = ""
            if why:
                raise BudgetStop(limits.reached("usd", why))
        if self.shared_budget is not None:
            self.shared_budget.reserve(engine.name, self.price(engine, asked), asked.input + asked.output)

    def _weight(self, request: Request) -> int:
        """Return how many tokens a request has, by estimate: of all that it says, in bytes, since foreign letters weigh more."""
        turns = [self._sizes_of(turn)[1] for turn in request.turns]
        between = 2 * max(0, len(turns) - 1)
        return (_bytes(replace(request, turns=())) + sum(turns) + between) // CHARACTERS_A_TOKEN

    def _sizes_of(self, turn: Turn) -> tuple[int, int]:
        """Return the characters of a turn, and its bytes in a request."""
        known = self._sizes.get(id(turn))
        if known is None:
            told = replace(turn, results=tuple(map(_blind, turn.results))) if isinstance(turn, ToolTurn) else turn
            weight = _bytes(Request(system="", turns=(told,))) - _bytes(Request(system="", turns=()))
            known = self._sizes[id(turn)] = turn, _size(turn), weight  # which keeps the turn, so its id is no other's
        return known[1:]

    def _answer(self, model: type[Answer], engine: Engine, response: Response, **more: str) -> Answer:
        """Journal an answer as a record of its `kind`, and count its cost."""
        if response.usd is None:
            response = replace(response, usd=self.price(engine, response.usage))
        if self.shared_budget is not None:
            self.shared_budget.charge(response.usd, response.usage.input + response.usage.output)
        said = {"usd": None, **dump_response(response), "time": self.env.timestamp(), "engine": engine.name, **more}
        record = self._noted(model.model_validate(said))
        self.total.add(record)
        return record

    def _noted(self, record: Typed) -> Typed:
        """Journal a record without its secrets, and return it as it is there."""
        record = transcript.mapped(record, self.redactor.value)
        self.journal.append(record)
        self.told(record)
        return record

    # --- tools -----------------------------------------------------------------------------------------------------------

    def _tools(self, turns: list[Turn], turn: ModelTurn, done: list[Result]) -> Ended | None:
        """Carry out a turn's calls but those that are `done`; return how the loop ends by them, if it does."""
        fresh: list[Result] = []
        reads: dict[int, Future[Any]] = {}  # calls that have started, by the places of their results in `fresh`
        ended: Ended | None = None
        before = self.total.calls - len(turn.calls)
        calls = [self._canonical(call) for call in turn.calls]
        began = self.env.monotonic()
        for at, call in enumerate(calls[len(done) :], len(done)):
            started: list[Future[Any]] = []
            tool = self._beside(call, calls, started)
            outside = tool is not None and tool.contract.effect == "external"
            if tool is None or tool.contract.effect != "read" or call.name in registry.LOOP:
                self._wait(reads, fresh)  # what changes something comes after what was read before it
            # What came before must not be made again where this one is the last that happens.
            if fresh and not reads and ended is None and (outside or self.env.monotonic() - began > LONG):
                done, stopped = self._note(done, fresh, None)
                fresh = []
                if stopped is not None:
                    return stopped
            began = began if reads else self.env.monotonic()
            try:
                result, said = self._carry_out(call, tool, before + at + 1, ended, [*done, *fresh])
            except (CallHeldError, EffectError) as stop:
                self._wait(reads, fresh)
                stopped = self._note(done, fresh, None)[1] if fresh else None
                return stopped or Ended("held" if isinstance(stop, CallHeldError) else "unknown", str(stop), stop=stop)
            except AsksError as asks:
                self._wait(reads, fresh)
                return self._note(done, fresh, Ended("asked", self.redactor.text(asks.message)))[1]
            self.answered.clear()  # an answer is for the call that asked: a later one with the same question asks anew
            ended = said or ended
            fresh.append(transcript.mapped(result, self.redactor.value))
            if started:
                reads[len(fresh) - 1] = started.pop()
            elif outside and ended is None and at + 1 < len(turn.calls):
                done, stopped = self._note(done, fresh, None)
                fresh = []
                if stopped is not None:
                    return stopped
        self._wait(reads, fresh)
        done, ended = self._note(done, fresh, ended)
        self._hear(turns, done)
        return None if ended is None else replace(ended, artifacts=self._artifacts())

    def _beside(self, call: Call, calls: Sequence[Call], started: list[Future[Any]]) -> Tool | None:
        """Return the tool of a call; where the turn has several that may run in threads, one that starts it there, in `started`."""
        tool = self.tools.get(call.name)
        able = [one for one in calls if (of := self.tools.get(one.name)) is not None and of.contract.concurrent]
        if tool is None or self._pool is None or not tool.contract.concurrent or len(able) < 2:
            return tool
        pool = self._pool
        return Tool(tool.contract, lambda given: started.append(pool.submit(tool.call, given)))

    def _wait(self, reads: dict[int, Future[Any]], fresh: list[Result]) -> None:
        """Put what the started calls give into the places of their results."""
        for place, started in reads.items():
            try:
                with signals.stoppable():
                    given = {"content": started.result()}
            except ToolError as error:
                given = {"content": str(error), "error": True}
            fresh[place] = transcript.mapped(fresh[place].model_copy(update=given), self.redactor.value)
        reads.clear()

    def _canonical(self, call: Call) -> Call:
        """Return a call by the names of the runner's own tools, which policy and journal know."""
        if call.arguments is None:
            return call
        name, arguments = registry.canonical(call.name, call.arguments, self.tools)
        return replace(call, name=name, arguments=arguments)

    def _note(self, done: list[Result], fresh: list[Result], ended: Ended | None) -> tuple[list[Result], Ended | None]:
        """Journal results of a turn, and the tree that the calls left; return all that the turn has, and how it ended.

        What git cannot take of what they left ends the attempt.
        """
        try:
            tree = self._tree_after([one.name for one in fresh])
        except RefusedError as error:
            tree, ended = "", Ended("failed", f"{error.what}; {error.hint}")
        how = {"outcome": ended.outcome, "text": ended.text, "result": ended.result} if ended else None
        told = transcript.EndOfWork.model_validate(how) if how else None
        self._noted(Results(kind="results", time=self.env.timestamp(), results=fresh, tree=tree, ended=told))
        return [*done, *fresh], ended

    def _tree_after(self, names: Sequence[str]) -> str:
        """Return the tree that calls of these tools left: that of the round before where they only read.

        Raises:
            RefusedError: git cannot take what they left.
        """
        before = next((one.tree for one in reversed(self._results())), None)
        called = [self.tools[name] for name in names if name in self.tools]
        if before is not None and all(tool.contract.effect == "read" for tool in called):
            return str(before)
        return self.tree()

    def _artifacts(self) -> tuple[str, ...]:
        made = [name for one in self._results() for name in _artifacts_in(one)]
        return tuple(dict.fromkeys(made))

    def _carry_out(
        self, call: Call, tool: Tool | None, number: int, ended: Ended | None, earlier: Sequence[Result]
    ) -> tuple[Result, Ended | None]:
        """Return the result of a call as the transcript has it, and how the loop ends by it. `earlier`: those of its turn."""

        def refused(text: str, decision: Mapping[str, Any] | None = None) -> Result:
            return Result(id=call.id, name=call.name, content=text, error=True, decision=decision)

        if call.arguments is None:
            cut = (
                "; the answer was cut off at its output limit: go on in smaller pieces"
                if self._wrong[-1:] == ["length"]
                else ""
            )
            return refused(f"the call is malformed: {call.problem}{cut}"), None
        if tool is None:
            return refused(
                f"there is no tool `{call.name}`; there are {', '.join(map(aliases.wire_name, self._offered()))}"
            ), None
        if ended is not None:
            return refused("not done: an earlier call of this turn ended the work"), None
        if self.limits.calls is not None and self.total.calls > self.limits.calls:
            text = self.limits.reached("calls", f"{self.limits.calls} calls are used up")
            return refused("not done: the budget of calls is used up"), Ended("budget", text)
        given = call.arguments
        failed = next((one.name for one in earlier if one.error), None)
        if call.name == "finish" and given.get("status") == "done" and failed is not None:
            # Checks may pass without the edit that did not fit.
            return refused(f"not done: `{failed}` of the same turn failed; see its result first"), None
        try:
            made = self.gate.make(number, tool, given, self.untrusted)
        except DeniedError as error:
            return refused(str(error), error.decision), None
        except AsksError:
            raise
        except ToolError as error:
            return refused(str(error)), None
        result = Result(id=call.id, name=call.name, content=made.content, error=made.is_error, decision=made.decision)
        if made.is_error:
            return result, None
        if call.name == "finish":
            return self._propose(given, result)
        if call.name == "ask_person":
            return result, Ended("asked", str(call.arguments.get("question", "")))
        return result, None

    def _propose(self, given: Mapping[str, Any], result: Result) -> tuple[Result, Ended | None]:
        """Return the result of `finish`: the end where the checks pass, or ran for the last time; else what they found."""
        summary, value = str(given.get("summary", "")), given.get("result")
        if given["status"] == "cannot":
            return result, Ended("failed", f"{CANNOT}{summary}", {"status": "cannot"})
        typed = {"summary": summary, **(value if isinstance(value, dict) else {})}
        began = self.env.monotonic()
        found = self.check(typed)
        self._began += self.env.monotonic() - began  # each check has a time limit of its own
        if not found or self._failed + 1 >= self.rounds:  # what fails now is for QA to record
            return result, Ended("finished", summary, typed)
        self._failed += 1
        words = (
            f"The step is not done: its checks did not pass (run {self._failed} of {self.rounds}). Fix what they found, quoted below, "
            "then call `finish` again; if it cannot be fixed, with the status `cannot`."
        )
        return result.model_copy(update={"content": {"not_done": words, "found": found}, "error": True}), None

    # --- the conversation's size -------------------------------------------------------------------------------------

    def _tokens(self, turns: list[Turn]) -> int:
        return sum(self._sizes_of(turn)[0] for turn in turns) // CHARACTERS_A_TOKEN

    def _shorten(self, turns: list[Turn]) -> None:
        """Shorten old tool output, whatever is there more than the last few rounds."""
        self._sizes.clear()
        at = [number for number, turn in enumerate(turns) if isinstance(turn, ToolTurn)]
        for number in at[:-KEEP_WHOLE]:
            turn = turns[number]
            assert isinstance(turn, ToolTurn)
            turns[number] = ToolTurn(results=tuple(_shortened(result) for result in turn.results))

    def _sum_up(self, turns: list[Turn]) -> None:
        """Replace the conversation by the model's summary of it; the journal has the summary."""
        request = Request(system=self.summarize, turns=(*turns, UserTurn(text=self.summarize)), tools=())
        engine, response = self._ask(request)
        self._answer(Summary, engine, response, kind="summary")
        self._begin_anew(turns, response.turn.text)

    def _begin_anew(self, turns: list[Turn], summary: str) -> None:
        """Put a summary, and the instructions that came after the first request, in the place of the conversation after that."""
        turns[1:] = [UserTurn(text=text) for text in (summary, *self._guided)]
        self._folded = 0


def _of_wrong(record: transcript.Response) -> tuple[str, str]:
    """Return what went wrong with an answer that has no usable call, for people, and the text that asks the model again."""
    why = f": {record.problem[:SHORT]}" if record.problem else ""
    quoted = f": {json.dumps(record.problem[:SHORT])}" if record.problem else ""  # it may hold words of the model's own
    match record.finish:
        case "length":
            what = "the model's answer was cut off at its output limit"
            ask = "Your answer was cut off at the output limit before it called a tool, so nothing of it was done."
            return what, f"{ask} Go on in smaller pieces: write a long file in several calls."
        case "malformed":
            what = f"the model's call was malformed{why or ': it could not be read'}"
            return (
                what,
                f"Your last call was malformed and could not be read{quoted}. Make it again, with valid JSON arguments.",
            )
        case "refused" if record.problem:
            what = f"the provider's filter stopped the answer{why}"
            ask = f"The provider's filter stopped your last answer{quoted}. Go on without what it may have stopped, or call"
            return what, f"{ask} `finish` with the status `cannot`."
        case "refused":
            ask = "Go on with the step; or, if it cannot be done, call `finish` with the status `cannot` and say why."
            return f"the model refused: {record.text[:300] or 'no reason given'}", f"You refused to go on. {ask}"
    ask = "Go on with the step, or call `finish` if it is done or cannot be done."
    if not record.text:
        return "the model's answer was empty", f"Your answer was empty. {ask}"
    return "the model called no tool and did not finish", f"You called no tool. {ask}"


def turn_of(record: transcript.Response) -> ModelTurn:
    """Return the model's turn that the journal has."""
    calls = tuple(Call(id=c.id, name=c.name, arguments=c.arguments, problem=c.problem) for c in record.calls)
    return ModelTurn(text=record.text, calls=calls, provider=record.provider, raw=record.turn)


def _answered(result: Result, answer: str | None) -> Result:
    """Return a result with what a person said to its question."""
    asked = result.name == "ask_person" and not result.error and answer is not None
    return result.model_copy(update={"content": {"answer": answer}}) if asked else result


def _places(calls: Iterable[Call]) -> list[str]:
    """Return the paths that calls of the runner's own tools name; a patch names them in its text."""
    given = [call.arguments for call in calls if call.arguments is not None]
    found = [one["path"] for one in given if isinstance(one.get("path"), str)]
    patches = [one["patch"] for one in given if isinstance(one.get("patch"), str)]
    return found + [path for text in patches for path in _IN_PATCH.findall(text)]


def _is_failed_proposal(result: Result) -> bool:
    return result.name == "finish" and isinstance(result.content, dict) and "not_done" in result.content


def _taints(result: Result) -> bool:
    """Return whether a result brings untrusted text; a call that a rule or a person refused brings none."""
    decision = result.decision or {}
    if decision.get("verdict") == "deny" or decision.get("word") == "rejected":
        return False
    return result.error or result.name not in VOUCHED


def _asks(record: Results) -> bool:
    return record.ended is not None and record.ended.outcome == "asked"


def _artifacts_in(record: Results) -> list[str]:
    return [
        str(one.content["path"])
        for one in record.results
        if one.name == "publish_artifact" and not one.error and isinstance(one.content, dict) and "path" in one.content
    ]


def _bytes(request: Request) -> int:
    return len(json.dumps(request.plain(), ensure_ascii=False).encode("utf-8", "surrogatepass"))


def _size(turn: Turn) -> int:
    match turn:
        case UserTurn():
            return len(turn.text)
        case ModelTurn():
            return len(turn.text) + len(json.dumps([call.arguments for call in turn.calls]))
        case ToolTurn():
            said = [_blind(result).content for result in turn.results]
            return sum(len(one) if isinstance(one, str) else len(json.dumps(one)) for one in said)


def _blind(result: ToolResult) -> ToolResult:
    """Return a result with as many characters in the place of a picture as its tokens would have."""
    if picture_of(result.content) is None:
        return result
    return replace(
        result, content={**without_picture(result.content), "image": "x" * IMAGE_TOKENS * CHARACTERS_A_TOKEN}
    )


def _shortened(result: ToolResult) -> ToolResult:
    result = replace(result, content=without_picture(result.content))
    text = result.content if isinstance(result.content, str) else json.dumps(result.content)
    if len(text) <= 2 * SHORT:
        return result
    short = (
        f"{text[:SHORT]}\n[… {len(text) - 2 * SHORT:,} characters left out, they were shown before …]\n{text[-SHORT:]}"
    )
    return ToolResult(id=result.id, name=result.name, content=short, is_error=result.is_error)
