"""What a model is told of work that exists: what its checks and its review found wrong. All of it is quoted as untrusted."""

from __future__ import annotations

from collections.abc import Sequence

from runner import qa
from runner.executor import prompting
from runner.protocol.events import CheckEvidence
from runner.protocol.model_answers import Verdict

OUTPUT_LIMIT = 4_000  # characters of one command's output


def of_checks(evidence: Sequence[CheckEvidence], reason: str, outputs: Sequence[bytes]) -> str:
    """Return which checks failed, each with the end of its output. `outputs`: of those that are commands, in their order."""
    commands = len(evidence) - len(outputs)  # promised files come first
    parts = [reason]
    for number, check in enumerate(evidence):
        if check["code"]:
            printed = outputs[number - commands].decode("utf-8", "replace") if number >= commands else ""
            parts.append(f"{check['check']}: exit {check['code']}\n{end_of(printed)}".strip())
    return prompting.fence("\n\n".join(parts), "what the checks found")


def of_review(verdict: Verdict) -> str:
    """Return the findings of a review."""
    lines = [qa.plain(verdict.summary).strip()]
    for one in verdict.findings:
        place = f" {one.file}" + (f":{one.line}" if one.line else "") if one.file else ""
        lines.append(f"- {one.severity}{place}: {qa.plain(one.text).strip()}")
    return prompting.fence("\n".join(lines), "what the review found")


def end_of(text: str, limit: int = OUTPUT_LIMIT) -> str:
    """Return the last lines of a text, `limit` characters at most, with a note of how much is left out."""
    text = text.strip("\n")
    if len(text) <= limit:
        return text
    end = text[-limit:]
    end = end[end.find("\n") + 1 :] if 0 <= end.find("\n") < len(end) - 1 else end
    return f"[… {len(text) - len(end):,} characters left out …]\n{end}"
