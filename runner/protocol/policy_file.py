"""policy.yaml: required approvals, permissions of tools, budgets; read from the trusted branch only (design §5).

A policy that parses can be carried out: an unknown key, a rule that could never match, a missing role that an approval needs, and a
count above the number of people are errors that name the line. `runner.trust.policy` evaluates a policy for one call.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from runner.errors import MalformedFileError
from runner.protocol import approval_file, globs, strict_yaml
from runner.protocol.file_models import (
    AfterValidator,
    Field,
    FileModel,
    Pattern,
    meant,
    model_validator,
    problem,
)
from runner.protocol.ids import digest
from runner.protocol.plans import Budget, Duration, seconds_of
from runner.protocol.strict_yaml import (
    NOT_EMPTY,
    Amount,
    Bool,
    Count,
    Line,
    OneOrMany,
    Positive,
    Script,
    Text,
    Value,
)

ROLE = r"[a-z0-9][a-z0-9_-]{0,63}"
# Tools of ours that run a program: nobody knows beforehand which files or hosts it touches.
RUNNING: Final = ("run", "shell")

Verdict = Literal["allow", "ask", "deny"]
Effect = Literal["read", "workspace", "external"]
Isolation = Literal["host", "container", "sandbox"]
ISOLATIONS: Final[tuple[Isolation, ...]] = ("host", "container", "sandbox")  # the weakest first
SubjectKind = Literal["plan", "step", "call", "protected-path", "merge"]

_SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SIZE = r"([0-9]{1,9}) ?([KMG]i?B|B)?"
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*|\*|[0-9a-f:]*:[0-9a-f:.]+"


# --- words -----------------------------------------------------------------------------------------------------------


_ONE = "^(?:{})$"  # how the JSON Schema has an expression that may be several


def _glob(wrong: Callable[[str], tuple[str, str] | None]) -> AfterValidator:
    def check(text: str) -> str:
        if found := wrong(text):
            raise problem(*found)
        return text

    return AfterValidator(check, {"type": "string", "minLength": 1, "maxLength": globs.LIMIT})


def _plain_path(text: str) -> str:
    if text.startswith("/") or any(part in ("", ".", "..") for part in text.split("/")):
        raise problem("should be a path as seen from the repository's root", "write it such as src/app.py")
    return text


def _argument(text: str) -> str:
    if text != "**" and (found := globs.wrong(text)):
        raise problem(*found)
    return text


RepoId = Annotated[
    Text,
    Pattern("[0-9a-f]{32}", "should be 32 hex digits", "write what `openssl rand -hex 16` prints, once for ever", _ONE),
]
RoleName = Annotated[
    Text,
    Pattern(ROLE, "should be the name of a role", "use lower case letters, digits, _ and -, such as maintainer", _ONE),
]
Principal = Annotated[
    Text,
    Pattern(
        approval_file.PRINCIPAL,
        "should be a principal of allowed_signers",
        "write the address as in allowed_signers, in lower case, such as alice@example.test",
        _ONE,
    ),
]
Host = Annotated[
    Text,
    Pattern(_HOST, "should be the name of a host", "write it in lower case without port, such as *.example.test", _ONE),
]
ForgeHost = Annotated[
    Text,
    Pattern(
        rf"{_LABEL}(?:\.{_LABEL})*(?::[1-9][0-9]{{0,4}})?",
        "should be a forge's host",
        "write it in lower case, with the port where it is not the usual one, such as github.com",
        _ONE,
    ),
]
PlainPath = Annotated[Line, AfterValidator(_plain_path, NOT_EMPTY)]
NameGlob = Annotated[Text, _glob(globs.wrong)]
PathGlob = Annotated[Text, _glob(globs.wrong_path)]
Argument = Annotated[Text, AfterValidator(_argument, NOT_EMPTY)]
Size = Annotated[Text, Pattern(_SIZE, "should be a size", "write it as 5MB, 200KB or 1GiB")]

NameGlobs = OneOrMany[NameGlob]
PathGlobs = OneOrMany[PathGlob]
Effects = OneOrMany[Effect]
Hosts = OneOrMany[Host]
Roles = OneOrMany[RoleName]


def bytes_of(size: str) -> int:
    """Return how many bytes a size such as `5MB` is.

    Raises:
        ValueError: it is not one.
    """
    match = re.fullmatch(_SIZE, size)
    if not match:
        raise ValueError(f"{size!r} is not a size")
    return int(match[1]) * _SIZES[match[2] or ""]


# --- rules -----------------------------------------------------------------------------------------------------------


class Match(FileModel):
    """The condition of a rule: every key that is there has to fit, by any one of its values.

    With `engine` and `step` alone it is about the choice of an engine, with `step` alone about the step's start, else about the
    step's actions: calls, commands, and changes of files.
    """

    tool: NameGlobs = ()
    path: PathGlobs = ()
    effect: Effects = ()
    program: NameGlobs = ()
    argv: tuple[Argument, ...] = ()
    shell: Bool | None = None
    host: Hosts = ()
    engine: NameGlobs = ()
    step: NameGlobs = ()

    @model_validator(mode="after")
    def _can_match(self) -> Match:
        if not self.model_fields_set:
            raise problem("should say what it is about", "write a key such as `tool: NAME`")
        for key in self.model_fields_set:
            if getattr(self, key) == ():
                raise problem("is empty, so the rule would match nothing", "write a value, or remove the key", key)
        if "**" in self.argv[:-1]:
            raise problem("should have ** at the end alone", "write * for each argument in the middle", "argv")
        only = [name for name in self.tool if not set("*?") & set(name)] if self.tool else []
        exact = bool(only) and len(only) == len(self.tool)
        for key in ("path", "host"):
            if getattr(self, key) and exact and set(only) <= set(RUNNING):
                raise problem(
                    f"is never known of a call of `{only[0]}`: a shell's text is not read",
                    "leave `tool` out: a path is then looked for in what the step changed too"
                    if key == "path"
                    else "remove the rule: a command has the network of its sandbox, or none",
                    key,
                )
        for key in ("program", "argv", "shell"):
            if key in self.model_fields_set and exact and not set(only) & set(RUNNING):
                raise problem(f"is never known of a call of `{only[0]}`, which runs no program", "remove it", key)
        return self

    @property
    def about(self) -> Literal["action", "engine", "step"]:
        """What it is asked about."""
        given = self.model_fields_set
        if given <= {"step"}:
            return "step"
        return "engine" if given <= {"step", "engine"} else "action"


class Rule(FileModel):
    """One rule: `deny`, `ask` or `allow`, and what it is about."""

    deny: Match | None = None
    ask: Match | None = None
    allow: Match | None = None
    reason: Line | None = None
    untrusted: Literal["allow"] | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Rule:
        said = [key for key in ("deny", "ask", "allow") if getattr(self, key) is not None]
        if len(said) != 1:
            raise problem("should have one of deny, ask and allow", "write each as a rule of its own")
        if self.untrusted and self.allow is None:
            raise problem("goes with `allow`", "remove it", "untrusted")
        if self.ask is not None and self.ask.about == "engine":
            raise problem(
                "cannot ask for approval of an engine alone",
                "use `deny`, `engines: {allow: […]}`, or ask before a step with `step`",
                "ask",
            )
        return self

    @property
    def verdict(self) -> Verdict:
        """The decision of the rule."""
        return "deny" if self.deny else "ask" if self.ask else "allow"

    @property
    def match(self) -> Match:
        """The condition of the rule."""
        found = self.deny or self.ask or self.allow
        assert found is not None
        return found

    def text(self) -> str:
        """Return the rule as it could be written: `deny: {tool: write_file, path: migrations/**}`."""
        parts = []
        for key, value in self.match.model_dump(exclude_unset=True).items():
            if isinstance(value, bool):
                shown = str(value).lower()
            else:
                shown = value[0] if len(value) == 1 and key != "argv" else f"[{', '.join(value)}]"
            parts.append(f"{key}: {shown}")
        return f"{self.verdict}: {{{', '.join(parts)}}}"


class Narrowing(FileModel):
    """Rules that make a policy stricter, never laxer: an agent file's `policies:`."""

    rules: tuple[Rule, ...] = ()
    approval_required: NameGlobs = ()

    @model_validator(mode="after")
    def _is_stricter(self) -> Narrowing:
        if any(rule.allow for rule in self.rules):
            raise problem(
                "should hold deny and ask alone",
                "name the agent's tools under its `tools`, or allow them in policy.yaml",
                "rules",
            )
        return self


# --- the rest of the file --------------------------------------------------------------------------------------------


class Approval(FileModel):
    """An approval requirement: `count` people who are in one of the `roles`; in any role where none is named."""

    roles: Roles = ()
    count: Positive = 1
    required: Bool = False
    expires: Duration = "168h"
    from_: tuple[Literal["signed", "review"], ...] = Field(default=("signed", "review"), alias="from", min_length=1)

    @model_validator(mode="after")
    def _lasts(self) -> Approval:
        if seconds_of(self.expires) > approval_file.LONGEST:
            raise problem("should be 30 days at most", "write 720h or less", "expires")
        return self


class CallApproval(Approval):
    """The same for a held call: signed, and for a day at most, unless the policy says less."""

    expires: Duration = "24h"
    from_: tuple[Literal["signed", "review"], ...] = Field(default=("signed",), alias="from", min_length=1)

    @model_validator(mode="after")
    def _lasts_a_day(self) -> CallApproval:
        if seconds_of(self.expires) > approval_file.LONGEST_CALL:
            raise problem("should be a day at most", "write 24h or less", "expires")
        return self


class Approvals(FileModel):
    """`approvals:`, by the subject of the approval. `step`: before it and after it.

    `ignore`: paths whose bytes a person may change without voiding the approval of a step's start. `base`: whether git's own merge
    of the trusted branch voids it.
    """

    plan: Approval = Approval.model_construct()
    step: Approval = Approval.model_construct()
    call: CallApproval = CallApproval.model_construct()
    protected_path: Approval = Field(default=Approval.model_construct(), alias="protected-path")
    merge: Approval = Approval.model_construct()
    ignore: PathGlobs = ()
    base: Literal["void", "keep"] = "void"

    @model_validator(mode="after")
    def _required(self) -> Approvals:
        for key, of in (("step", self.step), ("call", self.call), ("protected-path", self.protected_path)):
            if of.required:
                raise problem("has no `required`: a rule asks for it", 'write a rule such as `ask: {step: "*"}`', key)
        return self

    def of(self, kind: SubjectKind) -> Approval:
        """Return the requirement for a kind of approval."""
        found: Approval = getattr(self, kind.replace("-", "_"))
        return found


class Limits(FileModel):
    """Limits of a step's diff above which a person has to look; without a key there is no limit.

    But `file_size` and `total`, 50 MB and 500 MB where they are not there: a step that leaves more is blocked before its commit.
    """

    files: Count | None = None
    lines: Count | None = None
    file_size: Size | None = None
    total: Size | None = None
    binaries: Verdict = "allow"
    modes: Verdict = "allow"
    symlinks: Verdict = "allow"

    @property
    def file_bytes(self) -> int | None:
        """`file_size` as a number."""
        return None if self.file_size is None else bytes_of(self.file_size)

    @property
    def total_bytes(self) -> int | None:
        """`total` as a number."""
        return None if self.total is None else bytes_of(self.total)


class DayBudget(FileModel):
    """The most that all runners of a project together may spend on a UTC day."""

    usd: Amount | None = None
    tokens: Count | None = None


class Budgets(FileModel):
    """The most that any step, any protocol, and all of them on a day may spend."""

    step: Budget = Budget.model_construct()
    protocol: Budget = Budget.model_construct()
    day: DayBudget = DayBudget.model_construct()


class Network(FileModel):
    """The hosts that may be reached at all."""

    allow: Hosts


class Engines(FileModel):
    """The engines that may be chosen at all."""

    allow: NameGlobs


class ExampleCall(FileModel):
    """A call of a tool, as in `runner policy check`. `effect`: where the tool is none of ours or of config.yaml's."""

    tool: Line
    args: dict[Text, Value] = Field(default_factory=dict)
    effect: Effect | None = None


class Example(FileModel):
    """What the policy is meant to say of one thing. `command`: a step's; `path`: a change of it, by whatever made it."""

    call: ExampleCall | None = None
    command: Script | tuple[Script, ...] | None = None
    path: PlainPath | None = None
    engine: Line | None = None
    isolation: Isolation | None = None
    step: Line | None = None
    untrusted: Bool = False
    expect: Verdict

    @model_validator(mode="after")
    def _is_one(self) -> Example:
        said = [key for key in ("call", "command", "path", "engine", "isolation") if getattr(self, key) is not None]
        if len(said) > 1 or not (said or self.step):
            raise problem(
                "should have one of call, command, path, engine, isolation and step",
                "write each as an example of its own; `step` may be added to any, as the step that does it",
            )
        return self


class Policy(FileModel):
    """The whole of policy.yaml."""

    repo: RepoId = Field(description="The project's id in approvals: 32 hex digits, made once.")
    roles: dict[RoleName, tuple[Principal, ...]] = Field(
        default_factory=dict, description="The members of each role: principals of allowed_signers."
    )
    agents: tuple[Principal, ...] = Field(
        default=(), description="The principals of runners and agents; their approvals never count."
    )
    forge: dict[ForgeHost, dict[Principal, Positive]] = Field(
        default_factory=dict, description="Host to principal to numeric id, for reviews on a forge."
    )
    own_work: Literal["refuse", "allow", "signed"] = Field(
        default="refuse",
        description="Whether people may approve what they wrote themselves; signed: where those commits are signed.",
    )
    approvals: Approvals = Field(
        default=Approvals.model_construct(), description="The approval requirements, by subject."
    )
    rules: tuple[Rule, ...] = Field(
        default=(),
        description="Decisions to deny, ask or allow. Deny overrides ask, ask overrides allow; their order has no effect.",
    )
    approval_required: NameGlobs = Field(
        default=(), description="Tools whose calls need an approval; short for rules with ask and tool."
    )
    protected: PathGlobs = Field(
        default=(), description="Files whose change needs an approval, besides the built-in ones."
    )
    limits: Limits = Field(
        default=Limits.model_construct(), description="The largest change that a step may make without an approval."
    )
    budget: Budgets = Field(
        default=Budgets.model_construct(),
        description="The most that any step, any protocol, and all of them on a UTC day may spend.",
    )
    network: Network | None = Field(default=None, description="The hosts that may be reached.")
    engines: Engines | None = Field(default=None, description="The engines that may be chosen.")
    isolation: Isolation = Field(
        default="host", description="The weakest isolation that is allowed: host, container or sandbox."
    )
    environment: Literal["found", "made"] | None = Field(
        default=None,
        description="Where the environment of steps may come from: `made`, by workspace.setup alone; `found`, also from the"
        " checkout. By default the checkout's is used, except with --ci.",
    )
    transitions: Literal["any", "signed"] = Field(
        default="any", description="Whether the runner's commits must be signed by one of agents."
    )
    examples: tuple[Example, ...] = Field(
        default=(), description="Decisions that the policy must give; `runner policy test` checks them."
    )


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """A policy and its source. `content`: its keys; `digest`: of its very bytes; `lines`: of each key and item."""

    content: Policy
    where: str
    digest: str
    lines: Mapping[strict_yaml.Path, int]

    def line(self, *path: str | int) -> int:
        """Return the line of a key or item, or of the nearest one above it that is written out."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def at(self, *path: str | int) -> str:
        """Return the place of a key or item, as `file:line`."""
        return f"{self.where}:{self.line(*path)}"

    def misread(self) -> MalformedFileError | None:
        """Return the error of approvals of the merge that are counted and not required. The file is valid: a merge may be rejected."""
        of = self.content.approvals.merge
        if of.count < 2 or of.required:
            return None
        what = f"`approvals.merge` counts {of.count} approvals, and no merge waits for them: it has no `required: true`"
        return MalformedFileError(what, self.at("approvals", "merge"), "add `required: true`, or remove `count`")


def parse(data: bytes, where: str) -> PolicyFile:
    """Return the policy that the bytes hold.

    Raises:
        MalformedFileError: with the line.
    """
    content, lines = strict_yaml.read(Policy, data, where)
    found = PolicyFile(content, where, digest(data), lines)
    for path, what, hint in _impossible(found.content):
        raise MalformedFileError(what, found.at(*path), hint)
    return found


def people(policy: Policy, roles: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the principals in any of the roles, of all of them where none is named, without a repetition."""
    named = roles or tuple(policy.roles)
    return tuple(dict.fromkeys(person for role in named for person in policy.roles.get(role, ())))


def _impossible(policy: Policy) -> Iterator[tuple[strict_yaml.Path, str, str]]:
    """Yield (where, what, hint) of each requirement that cannot be met."""
    for role, members in policy.roles.items():
        for at, person in enumerate(members):
            if person in policy.agents:
                hint = "take it out of `agents` or out of the role"
                yield ("roles", role, at), f"{person} is one of `agents`, and no agent's approval counts", hint
            if person in members[:at]:
                yield ("roles", role, at), f"{person} is in `{role}` twice", "keep one of them"
    if policy.engines and not policy.engines.allow:
        yield ("engines",), "`engines.allow` is empty, so no engine could be chosen", 'name one, such as "gemini:*"'
    for kind in ("plan", "step", "call", "protected-path", "merge"):
        of = policy.approvals.of(kind)
        for at, role in enumerate(of.roles):
            if not policy.roles.get(role):
                manned = [name for name, members in policy.roles.items() if members]
                what = f"the role `{role}` {'is empty' if role in policy.roles else 'is not there'}"
                yield ("approvals", kind, "roles", at), what, meant(role, manned, "list its people under `roles`")
        if kind.replace("-", "_") in policy.approvals.model_fields_set:
            yield from _few(policy, kind, ("approvals", kind), f"`approvals.{kind}`")
    for at, glob in enumerate(policy.approvals.ignore):
        if globs.fold(glob).partition("/")[0] == ".protocols":
            hint = "remove it: a change of the permissions is never harmless"
            yield ("approvals", "ignore", at), "nothing below .protocols is left out of an approval", hint
    for path, kind, name in _asking(policy):
        yield from _few(policy, kind, path, name)


def _asking(policy: Policy) -> Iterator[tuple[strict_yaml.Path, SubjectKind, str]]:
    """Yield (where, kind of approval, name) of all keys that ask for an approval."""
    for at, rule in enumerate(policy.rules):
        if rule.verdict == "ask":
            yield ("rules", at), "step" if rule.match.about == "step" else "call", f"`{strict_yaml.shown(rule.text())}`"
    for at, tool in enumerate(policy.approval_required):
        yield ("approval_required", at), "call", f"`approval_required: [{strict_yaml.shown(tool)}]`"
    for at, glob in enumerate(policy.protected):
        yield ("protected", at), "protected-path", f"`protected: [{strict_yaml.shown(glob)}]`"
    limits = policy.limits
    for key in ("files", "lines", "file_size", "total"):
        if getattr(limits, key) is not None:
            yield ("limits", key), "protected-path", f"`limits.{key}`"
    for key in ("binaries", "modes", "symlinks"):
        if getattr(limits, key) == "ask":
            yield ("limits", key), "protected-path", f"`limits.{key}: ask`"


def _few(
    policy: Policy, kind: SubjectKind, path: strict_yaml.Path, name: str
) -> Iterator[tuple[strict_yaml.Path, str, str]]:
    of = policy.approvals.of(kind)
    there = len(people(policy, of.roles))
    if there == 0:
        what = f"{name} needs an approval, and nobody is in a role that could give it"
        yield path, what, "list people under `roles`, such as `roles: {maintainer: [alice@example.test]}`"
    elif there < of.count:
        what = f"{name} needs {of.count} people, and {there} could approve"
        yield path, what, f"lower the count under `approvals: {{{kind}: …}}`, or add people to its roles"
