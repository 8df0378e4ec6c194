"""Questions to a model that stand for themselves, before whose answer it may call tools: for a plan or a verdict.

Each answer is found in the journal by the digest of what was asked, so that what has an answer is neither asked nor called again.
"""

from __future__ import annotations

import json
from dataclasses import replace

from runner.engines import Request, Turn
from runner.executor.loop import BudgetStop, Loop, turn_of
from runner.protocol import transcript
from runner.protocol.ids import digest
from runner.protocol.transcript import Result, Results, Undecided
from runner.values import dataclass

LOOKS = 12  # rounds of calls before a plan or a verdict


@dataclass(slots=True)
class Consultation(Loop):
    """Asks single questions. `proposal`: the tool whose arguments are an answer; `looked`: the rounds of calls so far."""

    proposal: str = ""
    looked: int = 0

    def consult(self, request: Request) -> tuple[transcript.Response, list[Turn]]:
        """Return the answer to a request before which the model may call tools, and the turns from the request to the answer.

        The answer is text, or the arguments of a call of `proposal` as JSON. After `LOOKS` rounds of calls the gate refuses more; a
        model that still makes some gave no answer. What the journal has is neither asked nor called again.

        Raises:
            BudgetStop, EngineError: as `question`.
        """
        turns: list[Turn] = []
        while True:
            asked = replace(request, turns=(*request.turns, *turns))
            record = self.question(asked, replace(asked, tools=self._specs(), schema=None) if self.tools else asked)
            turn = turn_of(record)
            turns.append(turn)
            if not turn.calls:
                return record, turns
            self.looked += 1
            done = self._results_of(record)
            if len(done) < len(turn.calls):
                ended = self._tools(turns, turn, done)
                if ended is not None:
                    raise BudgetStop(ended.text)
            else:
                self._hear(turns, done)
            for call in turn.calls:
                if call.name == self.proposal and call.arguments is not None:
                    return record.model_copy(update={"text": json.dumps(call.arguments)}), turns
            if self.looked > LOOKS + 1:
                return record, turns

    def _results_of(self, response: transcript.Response) -> list[Result]:
        """Return the results that the journal has of a response's calls."""
        found: list[Result] = []
        for record in reversed(self.journal.records):
            if isinstance(record, Results):
                found[:0] = record.results
            elif isinstance(record, transcript.Response):
                if record.request == response.request:
                    return found
                found = []
        return []

    def question(self, request: Request, sent: Request | None = None) -> transcript.Response:
        """Return the answer to a request that stands for itself, journaled; one that the journal has is not asked again,
        unless nothing could be made of it (a record `undecided` came after it).

        `sent`: the request with the tools that there are, which may be others in another clone.

        Raises:
            BudgetStop: it could cost more than is left. EngineError: no engine answered.
        """
        found = self.known(request)
        if found is not None:
            return found
        return self._answer(transcript.Response, *self._ask(sent or request), kind="response", request=_digest(request))

    def known(self, request: Request) -> transcript.Response | None:
        """Return the answer that the journal has to a request that stands for itself."""
        asked = _digest(request)
        for record in reversed(self.journal.records):
            if isinstance(record, Undecided):
                break
            if isinstance(record, transcript.Response) and record.request == asked:
                return record
        return None

    def undecided(self, *problems: str) -> None:
        """Note that nothing could be made of the answers so far: the questions are asked anew."""
        self.journal.undecided(self.now(), *problems)


def _digest(request: Request) -> str:
    """Return the digest of a request, of which every letter counts: it is no recording."""
    return digest(json.dumps(request.plain(), sort_keys=True).encode())
