"""What setting a repository up has to ask: answered by clarifications.yaml, else by the person at the terminal, else kept there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field

from runner.errors import MalformedFileError
from runner.executor.redact import Redactor
from runner.protocol import clarifications, paths, strict_yaml
from runner.protocol.clarifications import Question
from runner.store.environment import Environment
from runner.values import dataclass


@dataclass(slots=True)
class Questions:
    """`data`: the file as it stands in the checkout, or None; `said`: what the person answered now; `left`: what nobody did."""

    data: bytes | None
    who: Environment
    said: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    _known: tuple[Question, ...] = ()

    def __post_init__(self) -> None:
        self._known = clarifications.parse(self.data, paths.CLARIFICATIONS)

    def ask(self, text: str, choices: Sequence[str] = ()) -> str | None:
        """Return the answer, None while there is none. `choices`: its first word is one of these; Enter means the first.

        Raises:
            MalformedFileError: the file's answer is another.
        """
        known = next((one for one in self._known if one.text == text), None)
        answer = self.said.get(text) or (known.answer if known else None)
        if answer is None and text not in self.left:
            answer = self._heard(text, choices)
            if answer:
                self.said[text] = answer
            else:
                self.left.append(text)
        if answer and choices and answer.split()[0] not in choices:
            raise MalformedFileError(
                f"`{strict_yaml.shown(answer)}` is no answer to: {text}",
                f"{paths.CLARIFICATIONS}:{known.line if known else 1}",
                f"write one of {', '.join(choices)}",
            )
        return answer or None

    def ask_what_is_open(self) -> None:
        """Ask the questions of the file that nobody answered yet."""
        for one in self._known:
            self.ask(one.text)

    def drop(self, texts: Sequence[str]) -> None:
        """Do not keep these questions, where nobody answered them."""
        self.left = [text for text in self.left if text not in texts]

    def answers(self) -> dict[str, str]:
        """Return every question that is answered, with its answer."""
        return {one.text: one.answer for one in self._known if one.answer} | self.said

    def file(self) -> bytes | None:
        """Return the file with what is known now; None where there is nothing to keep.

        Raises:
            InTheWayError: nothing can be added to it as it is written.
        """
        if self.data is None and not self.said and not self.left:
            return None
        return clarifications.added(self.data, paths.CLARIFICATIONS, self.said, self.left)

    def _heard(self, text: str, choices: Sequence[str]) -> str:
        if choices:
            return self.who.ask(text, tuple(choices)) or ""
        said = self.who.ask_text(f"{text} (Enter: later)") or ""
        said = strict_yaml.decode(said.encode("utf-8", "surrogateescape"), "the answer").strip()
        return Redactor(self.who.environ).text(said)  # the file is everybody's
