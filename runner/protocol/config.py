"""config.yaml: a project's defaults, read from the trusted branch only (design §2)."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from runner.protocol import words
from runner.protocol.ids import branch_of, protocol_of_branch
from runner.protocol.model import Duration, Line, RelativePath, _one_or_many
from runner.protocol.words import Bool, Text, Words


def _branch(pattern: str) -> str:
    if pattern.count("{id}") != 1 or not re.fullmatch(r"[A-Za-z0-9._/{}-]+", pattern):
        raise ValueError("should hold {id} once, such as runner/{id}")
    if (
        protocol_of_branch(pattern, branch_of(pattern, "0001-a")) != "0001-a"
        or ".." in pattern
        or pattern.startswith(("/", "-", "."))
    ):
        raise ValueError("should be a name that git allows for a branch, with {id} in it")
    return pattern


class Identity(Words):
    """Who the runner's commits are by."""

    name: Line = "protocol-runner"
    email: Line = "runner@localhost.invalid"


class WorkspaceKey(Words):
    """How the runner's own checkout is made ready. `key`: files whose change runs `setup` again."""

    path: Line | None = None
    setup: Line | None = None
    network: Bool = False
    key: Annotated[tuple[RelativePath, ...], BeforeValidator(_one_or_many)] = ()
    share: Annotated[tuple[RelativePath, ...], BeforeValidator(_one_or_many)] = ()
    python: Line | None = None


class ToolEffect(Words):
    """What a repeat of an external tool means."""

    external: Literal["never", "keyed", "probed"]
    key: Line | None = None
    probe: Line | None = None


class ToolModule(Words):
    """A Python module whose functions are tools."""

    module: Annotated[Text, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$")]
    effects: dict[Text, Literal["read", "workspace"] | ToolEffect] = Field(default_factory=dict)
    env: tuple[Annotated[Text, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], ...] = ()
    network: tuple[Line, ...] = ()


class Lease(Words):
    """How long a runner may be silent before another may take its protocol."""

    ttl: Duration = "15m"
    grace: Duration = "5m"


class QaDefaults(Words):
    """When QA starts."""

    on_ci: Bool = False


class Worktrees(Words):
    """Where people's worktrees of protocols are made; relative to the main worktree's parent."""

    path: Line | None = None


def _engine(value: object) -> object:
    return {"default": [value]} if isinstance(value, str) else {"default": value} if isinstance(value, list) else value


_Engines = Annotated[tuple[Line, ...], BeforeValidator(_one_or_many)]


class EngineKey(Words):
    """Which model does what; the first that answers."""

    default: _Engines = ()
    plan: _Engines = ()
    decompose: _Engines = ()
    execute: _Engines = ()
    review: _Engines = ()


class Config(Words):
    """The whole of config.yaml."""

    base: Line | None = None
    branch: Annotated[Text, AfterValidator(_branch)] = "{id}"
    identity: Identity = Identity()
    publish: Literal["never", "ask", "always"] = "never"
    forge: Line | None = None
    engine: Annotated[EngineKey, BeforeValidator(_engine)] = EngineKey()
    executor: Literal["sandbox", "container", "host"] = "sandbox"
    workspace: WorkspaceKey = WorkspaceKey()
    worktrees: Worktrees = Worktrees()
    lease: Lease = Lease()
    tools: tuple[ToolModule, ...] = ()
    mcp: tuple[Line, ...] = ()
    filters: tuple[Line, ...] = ()
    ci: Line | None = None
    qa: QaDefaults = QaDefaults()
    clarifications: Literal["block", "go-on"] = "go-on"


def parse(data: bytes | None, where: str) -> Config:
    """Return the configuration that the bytes hold; the defaults where there is no file.

    Raises:
        MalformedFileError: with the line.
    """
    if data is None:
        return Config()
    value, lines = words.load_yaml(words.decode(data, where), where)
    return words.validate(Config, value if value is not None else {}, lines, where)
