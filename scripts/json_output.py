"""What the command line prints with `--json`: the types that its schemas are generated from (design §9).

`show --json` is one `Shown`, `status` and `list` a `Protocols`, `log` one entry of `events` a line, `verify` a `Verified`, `why` a
`Why`, `watch` one `Watched` and `fleet` one `FleetEvent` a line, `check` a `Checked`; `show STEP` is a `NamedStep`, with `--output` an
`Outputs`; `doctor` an `Examined`, with `--config` a `Values`; `engines` an `Engines`; `policy check` a `Decision`, `policy test`
a `Tested`. All other commands that act give an `Acted`.
Readers must expect further keys. Nothing is computed here.
"""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict  # pydantic refuses typing.TypedDict before Python 3.12

from runner.protocol.state import Artifact, Json, SpentTotal, Status, Wait


class Next(TypedDict):
    """The next action. `by`: who has to do it, empty where nobody has to."""

    action: Literal[
        "write-plan", "run-step", "ask-person", "take-work", "check-step", "complete-step", "complete", "none"
    ]
    step: str | None
    by: str


class ShownStep(TypedDict):
    """A step of state.json; `reason`, `passed` and `removed` are present only where they have a value."""

    place: int
    title: str
    kind: str
    needs: list[str]
    qa: str
    digest: str
    status: str
    attempt: int
    result: Json
    reason: NotRequired[str]
    passed: NotRequired[bool]
    removed: NotRequired[bool]


class NamedStep(ShownStep):
    """A step, with its protocol's id and its own slug."""

    protocol: str
    step: str


class Output(TypedDict):
    """What a command printed. `check`: the check's command; null for the step's own."""

    check: str | None
    output: str


class Outputs(TypedDict):
    """What the commands of an attempt printed, its checks included."""

    protocol: str
    step: str
    attempt: int
    outputs: list[Output]


class Readable(TypedDict):
    """The content of state.json, and what follows from it.

    `done`: the protocol is completed or cancelled; false for one that advanced and has more to do, with the same exit code 0.
    `command`: what to type next; of a completed protocol that is not merged, its merge. `undo`: of a cancelled one that was
    named, what takes that back; its `reason` is the one that was given.
    """

    schema: int
    protocol: str
    genesis: str
    revision: int
    status: Status
    title: str
    base: str
    plan: str | None
    steps: dict[str, ShownStep]
    waiting: list[Wait]
    artifacts: list[Artifact]
    spent: SpentTotal
    log: str
    done: bool
    next: Next
    reason: str
    command: str | None
    path: str | None
    undo: NotRequired[str]


class Unreadable(TypedDict):
    """A protocol whose state.json is missing or damaged; `runner verify` says how."""

    protocol: str
    status: Literal["unreadable"]
    title: str
    revision: int
    steps: dict[str, Json]
    waiting: list[Json]
    done: bool
    next: Next
    reason: str
    command: str | None
    path: str | None


Shown = Readable | Unreadable


class Protocols(TypedDict):
    """Several protocols."""

    protocols: list[Shown]


class Error(TypedDict):
    """An error or a problem, in the three parts that every message has: what happened, where, and what to do next."""

    what: str
    at: str
    next: str


class Acted(TypedDict):
    """The result of a command that acts. `code`: its exit code; `lines`: what it prints on stdout without `--json`;
    `protocols`: those that it was about, as they are now; `error`: what ended it, null if nothing did."""

    command: str
    code: int
    error: Error | None
    lines: list[str]
    protocols: list[Shown]


class Checked(TypedDict):
    """All that is wrong with plans, configuration, policy and agent files."""

    problems: list[Error]


class Engine(TypedDict):
    """An engine that `runner engines` lists. `missing`: what to do before it can be used, null if nothing."""

    name: str
    about: str
    missing: str | None


class Engines(TypedDict):
    """The engines, and what each needs on this machine."""

    engines: list[Engine]


class Decision(TypedDict):
    """What the policy decides. `at`: where the rule is; `why`: its reason; `needs`: whose approval, if it asks."""

    verdict: Literal["allow", "ask", "deny"]
    rule: str
    at: str | None
    why: str | None
    needs: str | None


class TriedExample(TypedDict):
    """An example of the policy: it holds if `verdict` is `expected`. `rule_at`: where the rule is that decided."""

    at: str
    text: str
    expected: Literal["allow", "ask", "deny"]
    verdict: Literal["allow", "ask", "deny"]
    why: str
    rule_at: str


class Remark(TypedDict):
    """A rule that matches less than it seems to."""

    at: str
    text: str


class Tested(TypedDict):
    """The examples of the policy, and remarks about its rules."""

    examples: list[TriedExample]
    notes: list[Remark]


class Problem(TypedDict):
    """A finding of doctor. `kind`: `here` is missing or in the way on this machine, `integrity` a record that contradicts its
    history, `note` something to know. `consequence`: what follows; `command`: what helps, empty where nothing does."""

    kind: Literal["here", "integrity", "note"]
    what: str
    where: str
    consequence: str
    command: str


class Examined(TypedDict):
    """What doctor found. `ok`: nothing but notes."""

    ok: bool
    findings: list[Problem]


class Value(TypedDict):
    """A key of the configuration. `source`: where its value comes from."""

    key: str
    value: Json
    source: str


class Values(TypedDict):
    """The whole configuration."""

    config: list[Value]


class FindingRow(TypedDict):
    """Something that is not as it should be. `rule`: a name of `docs/verify.md`; `text`: one line."""

    rule: str
    commit: str
    path: str
    text: str


class VerifiedProtocol(TypedDict):
    """What verify found for one protocol."""

    protocol: str
    ok: bool
    transitions: int
    approvals: int
    findings: list[FindingRow]


class Verified(TypedDict):
    """Whether all protocols verify, and the findings."""

    ok: bool
    protocols: list[VerifiedProtocol]


class Check(TypedDict):
    """A check of QA, and how it ended; `engine`: the model that reviewed beside it; `attempt`: of which, that of the line or a later
    one, which left the line as it is."""

    check: str
    code: int | None
    time: str
    engine: str | None
    attempt: int


class Word(TypedDict):
    """A decision of people, as the record counted it. `kind`: plan, step, result, protected-path, call or merge."""

    kind: str
    subject: str
    time: str
    decision: str
    by: list[str]
    reasons: list[str]


class Cost(TypedDict):
    """What an attempt cost, its checks included. `usd`: a decimal string; null where the price of a part is not known."""

    usd: str | None
    input_tokens: int
    output_tokens: int
    seconds: int


class Said(TypedDict):
    """The part of a transcript that wrote a line; where there is none, `note` says why. `file`: in the history's tree."""

    file: str | None
    digest: str
    turn: int | None
    time: str | None
    model: str | None
    tool: str | None
    text: str
    note: str


class Origin(TypedDict):
    """The origin of lines that were added together.

    `kind`: a `step` added them, or the `plan`'s first commit, or they are the runner's own `record`; or a `person` did by hand, or
    they are `uncommitted`; or the origin is `unknown`, and `note` says why. `first`, `last`: line numbers in the file that was
    asked about; `path`, `line`: in the commit. `came_in`: the commit on the way that has a protocol's work as a copy.
    `replaced`: what protocols had written where a hand changed it.
    """

    kind: Literal["step", "plan", "record", "person", "uncommitted", "unknown"]
    first: int
    last: int
    text: list[str]
    commit: str | None
    path: str
    line: int
    time: str | None
    author: str | None
    subject: str | None
    came_in: str | None
    protocol: str | None
    title: str | None
    step: str | None
    replaced: list[Origin]
    note: str
    revision: NotRequired[int]
    events: NotRequired[list[str]]
    actor: NotRequired[str]
    place: NotRequired[int]
    step_title: NotRequired[str]
    step_kind: NotRequired[str]
    step_file: NotRequired[str | None]
    prose: NotRequired[str]
    attempt: NotRequired[int]
    executor: NotRequired[str | None]
    agent: NotRequired[str | None]
    engine: NotRequired[str | None]
    transcript: NotRequired[Said | None]
    checks: NotRequired[list[Check]]
    approvals: NotRequired[list[Word]]
    cost: NotRequired[Cost]


class Why(TypedDict):
    """Where the lines of a file come from, in their order. `path`: from the top of the repository."""

    path: str
    origins: list[Origin]


class ChangedFile(TypedDict):
    """A file that differs. `added`, `removed`: lines; null where it is binary."""

    path: str
    added: int | None
    removed: int | None


# What a protocol, or the last attempt of its step, changed. `from`, `to`: commits; null where the step has no work.
Changed = TypedDict(
    "Changed",
    {"protocol": str, "step": str | None, "from": str | None, "to": str | None, "files": list[ChangedFile]},
)


class WatchedEvent(TypedDict):
    """An event of a transition's."""

    revision: int
    event: str
    subject: str


class Watched(TypedDict):
    """A line of `runner watch --json`. `docs/watch.md` says which keys come with which event."""

    event: Literal[
        "watching", "polling", "lost", "woke", "fetched", "unreachable",
        "started", "advanced", "rests", "held-up", "failed", "ended",
    ]  # fmt: skip
    time: str
    protocol: NotRequired[str]
    protocols: NotRequired[int | list[str]]
    due: NotRequired[int]
    by: NotRequired[Literal["events", "polling"]]
    fetches: NotRequired[float | None]
    commit: NotRequired[str]
    revision: NotRequired[int]
    status: NotRequired[Status]
    events: NotRequired[list[WatchedEvent]]
    next: NotRequired[Next]
    reason: NotRequired[str]
    code: NotRequired[int]
    what: NotRequired[str]
    where: NotRequired[str]
    hint: NotRequired[str]
    again: NotRequired[int]


class FleetEvent(TypedDict):
    """A line of `fleet --json`. `started`: a turn, with what would follow; `ended`: it, with its exit code; `done`: the fleet, with
    how the last turn of each protocol ended, and what it exits with itself."""

    event: Literal["started", "ended", "done"]
    time: str
    protocol: NotRequired[str]
    action: NotRequired[str]
    step: NotRequired[str | None]
    code: NotRequired[int]
    protocols: NotRequired[dict[str, int]]
