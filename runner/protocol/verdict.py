"""What a model says of a change that it was asked to judge: PASS or FAIL, with findings. Read strictly, never mended."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

MOST = 100  # findings of one verdict


class Finding(BaseModel):
    """Something about the change. What is not about a file, a line or a criterion leaves that out."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    severity: Literal["blocker", "major", "minor", "note"] = Field(
        description="blocker and major: it cannot stay so; minor and note: it may."
    )
    text: str = Field(min_length=1, description="What is wrong, and what would be right.")
    file: str | None = Field(default=None, description="The file, from the top of the repository.")
    line: int | None = Field(default=None, ge=1, description="The line in the file as it is after the change.")
    criterion: str | None = Field(default=None, description="The number of the acceptance criterion, or its words.")


class Verdict(BaseModel):
    """PASS or FAIL, why in a few words, and the findings."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    verdict: Literal["PASS", "FAIL"] = Field(
        description="FAIL where a criterion does not hold or a finding cannot stay."
    )
    summary: str = Field(min_length=1, description="Why, in one to three sentences.")
    findings: tuple[Finding, ...] = Field(default=(), max_length=MOST, description="What was found, the worst first.")

    @model_validator(mode="after")
    def _agrees(self) -> Verdict:
        grave = [one for one in self.findings if one.severity in ("blocker", "major")]
        if self.verdict == "PASS" and grave:
            raise ValueError(f"PASS does not go with a finding of severity {grave[0].severity}")
        if self.verdict == "FAIL" and not self.findings:
            raise ValueError("FAIL needs at least one finding that says what does not hold")
        return self

    @property
    def passed(self) -> bool:
        """Whether the change may stay as it is."""
        return self.verdict == "PASS"


def read(text: str) -> tuple[Verdict | None, tuple[str, ...]]:
    """Return the verdict that a model's text is, or None and what is wrong with it, a line each."""
    try:
        return Verdict.model_validate_json(text), ()
    except ValidationError as error:
        told = error.errors(include_url=False, include_input=False, include_context=False)
        return None, tuple(
            f"{'.'.join(str(part) for part in one['loc']) or 'the answer'}: {one['msg']}" for one in told[:10]
        )
