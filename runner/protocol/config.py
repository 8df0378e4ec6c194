"""A project's own settings, read from the trusted branch only (design §2): config.yaml, and the agent files `agents/NAME.yaml`.

Plans and steps name an agent by the NAME of its file.
"""

from __future__ import annotations

import posixpath
import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from runner.errors import MalformedFileError
from runner.lines import pattern
from runner.protocol import ids, policy_file, strict_yaml
from runner.protocol.file_models import (
    AfterValidator,
    BeforeValidator,
    Field,
    FileModel,
    Pattern,
    model_validator,
    problem,
)
from runner.protocol.ids import branch_of, protocol_of_branch
from runner.protocol.plans import (
    Branch,
    Budget,
    Duration,
    NetworkHost,
    NetworkHosts,
    Paths,
    RelativePath,
    Resources,
    Texts,
    ToolName,
    branch_name,
)
from runner.protocol.strict_yaml import NOT_EMPTY, Amount, Bool, Line, OneOrMany, Positive, Script, Text

_MODULE = r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*"
_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"
_SERVER = r"[a-z0-9](?:-?[a-z0-9]){0,31}"
_DIGEST = r"sha256:[0-9a-f]{64}"
_PACKAGE = r"(?:npm|pypi):@?[A-Za-z0-9][A-Za-z0-9._/-]*@[0-9][A-Za-z0-9.+!-]*"
_IMAGE = r"[a-z0-9][a-z0-9._-]*(?::[0-9]+/)?[a-z0-9._/-]*@sha256:[0-9a-f]{64}"


def _branch(pattern: str) -> str:
    hint = "write it with {id} once, such as runner/{id}"
    if pattern.count("{id}") != 1 or not re.fullmatch(r"[A-Za-z0-9._/{}-]+", pattern):
        raise problem("should hold {id} once, and else letters, digits and . _ / -", hint)
    branch_name(branch_of(pattern, "0001-a"))
    if protocol_of_branch(pattern, branch_of(pattern, "0001-a")) != "0001-a":
        raise problem("should let the id be read again", hint)
    return pattern


def _who(text: str) -> str:
    if re.search(r"[<>\n\r\0]", text):
        raise problem("should not hold < or >", "write the name or the address alone")
    return text


def _endpoint(text: str) -> str:
    """Refuse a URL that would send requests in the clear, or that has a secret in it."""
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        parts, host = urlsplit(""), ""
    local = host in ("localhost", "127.0.0.1", "::1")
    if not host or not text.isascii() or not text.isprintable() or parts.scheme not in ("https", "http"):
        raise problem("should be a URL", "write it whole, such as https://mcp.example.test/mcp")
    if parts.scheme == "http" and not local:
        raise problem("should be https", "write https://, as http is for servers on this machine")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise problem("should have no name, password or fragment", "name the variable of a token under `bearer`")
    return text


Image = Annotated[
    Text,
    Pattern(
        _IMAGE,
        "should be an image by its digest",
        "write it as NAME@sha256:DIGEST; `podman image inspect --format '{{.RepoDigests}}' NAME` prints it",
    ),
]
Variable = Annotated[
    Text,
    Pattern(_VARIABLE, "should be an environment variable's name", "write the name alone, such as DEPLOY_TOKEN"),
]
BranchPattern = Annotated[
    Text,
    AfterValidator(_branch, {"type": "string", "pattern": r"^[A-Za-z0-9._/-]*\{id\}[A-Za-z0-9._/-]*$"}),
]
Who = Annotated[Line, AfterValidator(_who)]


class Identity(FileModel):
    """Who the runner's commits are by."""

    name: Who = "protocol-runner"
    email: Who = "runner@localhost.invalid"


# What a setup reads, whether or not `key` names it.
_MANIFESTS = (
    *("pyproject.toml", "setup.py", "setup.cfg", "uv.lock", "poetry.lock", "pdm.lock", "Pipfile", "Pipfile.lock"),
    *("requirements.txt", "requirements-dev.txt", "dev-requirements.txt", "environment.yml", "tox.ini", "noxfile.py"),
    *("package.json", "package-lock.json", "yarn.lock", "pnpm-lock.yaml", "bun.lock"),
    *("go.mod", "go.sum", "Cargo.toml", "Cargo.lock", "Gemfile", "Gemfile.lock"),
    *("pom.xml", "build.gradle", "composer.json", "composer.lock"),
)
_PATH = pattern(r"[\w.][\w./-]*")


class WorkspaceKey(FileModel):
    """How the runner's own checkout is made ready. `key`: files whose change runs `setup` again.

    `env`: further variables that `setup` gets, by name; no step does. `on_change`: whether a person is asked, where a step changes a
    file that `setup` reads, if another environment is made from it; None: where there is a policy.

    `network`: the hosts that `setup` may reach; true: all but this machine. `share`, `generated`: folders, and globs of files, that
    git ignores and commands are shown. `submodules`, `lfs`: whether commands see the content of submodules and of files that LFS
    holds, as this clone has it.

    `user_namespaces`: whether commands may make some in the sandbox, as browsers do for sandboxes of their own. `image`: of the
    containers that commands run in with `executor: container`; None: the one that the project's devcontainer.json names.
    """

    path: Line | None = None
    image: Image | None = None
    setup: Script | None = None
    network: Bool | tuple[NetworkHost, ...] = False
    env: tuple[Variable, ...] = ()
    user_namespaces: Bool = False
    key: Paths = ()
    on_change: Literal["ask", "keep"] | None = None
    share: Paths = ()
    generated: Paths = ()
    submodules: Bool = False
    lfs: Bool = False
    python: Line | None = None

    @property
    def read_by_setup(self) -> set[str]:
        """The paths of files that `setup` may read: those of `key` and below, known manifests, and what its line names."""
        scripts = [word for word in (self.setup or "").split() if _PATH.fullmatch(word) and ".." not in word]
        return {*self.key, *_MANIFESTS, *(posixpath.normpath(word) for word in scripts)} - {"."}

    def is_read_by_setup(self, path: str) -> bool:
        """Return whether `setup` may read a file. A folder that its line names, such as that of the project, is what it installs."""
        return path in self.read_by_setup or any(path.startswith(f"{name}/") for name in self.key)


class ToolEffect(FileModel):
    """What a repeat of an external tool means."""

    external: Literal["never", "keyed", "probed"]
    key: Line | None = None
    probe: Line | None = None


class ToolModule(FileModel):
    """A Python module whose functions are tools."""

    module: Annotated[
        Text, Pattern(_MODULE, "should be a Python module", "write it as it is imported, such as tools.deploy")
    ]
    effects: dict[Text, Literal["read", "workspace"] | ToolEffect] = Field(default_factory=dict)
    env: tuple[Variable, ...] = ()
    network: NetworkHosts = ()


Package = Annotated[
    Text,
    Pattern(_PACKAGE, "should be a package in one exact version", "write npm:NAME@1.2.3 or pypi:NAME@1.2.3"),
]
ToolsDigest = Annotated[
    Text,
    Pattern(_DIGEST, "should be a digest", "write the line that `runner mcp pin NAME` prints: sha256: and 64 digits"),
]


class McpServer(FileModel):
    """An MCP server: a program that the sandbox runs, or a URL. `bearer`: the variable that holds a URL's token.

    `package`: what the command is of, in the version that the trusted branch's file `lock` has with a hash. `version`: the
    version that it must report. `tools`: the digest of its list of tools as people pinned it; without it none of its tools is there.
    `effects`: those of its tools, by their names.
    """

    command: tuple[Line, ...] = ()
    url: Annotated[Line, AfterValidator(_endpoint, NOT_EMPTY)] | None = None
    bearer: Variable | None = None
    env: tuple[Variable, ...] = ()
    network: NetworkHosts = ()
    package: Package | None = None
    lock: RelativePath | None = None
    version: Line | None = None
    tools: ToolsDigest | None = None
    effects: dict[Text, Literal["read", "workspace"] | ToolEffect] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _either(self) -> McpServer:
        if bool(self.command) == bool(self.url):
            raise problem(
                "has a command or a URL", "write `command: [PROGRAM, ARGUMENT]` or `url: https://…`, not both"
            )
        if (self.package is None) != (self.lock is None):
            given, other = ("package", "lock") if self.package is not None else ("lock", "package")
            raise problem(f"and `{other}` must be set together", "write both, or neither", given)
        for key in ("env", "network", "package", "lock") if self.url else ("bearer",):
            if key in self.model_fields_set:
                raise problem(f"goes with `{'command' if self.url else 'url'}`", "remove it", key)
        return self


ServerName = Annotated[
    Text,
    Pattern(_SERVER, "should be a short name", "write lower case letters, digits and single -, such as docs"),
]


class Lease(FileModel):
    """How long a runner may be silent before another may take its protocol."""

    ttl: Duration = "15m"
    grace: Duration = "5m"


class QaDefaults(FileModel):
    """When QA starts. `on_ci`: `runner sync` starts it where CI is green; `rounds`: those of steps whose `qa` names none."""

    on_ci: Bool = False
    rounds: Positive | None = None


ForgeName = Literal["github", "gitlab", "none"]  # one for each row of `forge.registry.FORGES`, and `none`


class ForgeKey(FileModel):
    """Which forge requests are on; `url`: the project's address there, where the remote's does not tell it."""

    name: ForgeName
    url: Line | None = None


def _forge(value: object) -> object:
    if not isinstance(value, str):
        return value
    name, _, url = value.strip().partition(" ")
    return {"name": name, **({"url": url.strip()} if url.strip() else {})}


class MergeKey(FileModel):
    """How `runner merge` merges. `as`: by a commit without the protocol's commits, or by a merge commit; `base`: whether the
    protocol has to have all commits of its base; `assisted_by`: whether the commit has a trailer for each model that worked."""

    as_: Literal["squash", "merge"] = Field(default="merge", alias="as")
    base: Literal["any", "up-to-date"] = "any"
    assisted_by: Bool = False


class NotifyKey(FileModel):
    """Where `runner watch` and commands that end with a wait post it: `webhooks`, the variables that hold an address each.
    What still waits `after` that time is posted once more, with the people of the roles `also` named; whose approval counts
    stays with the policy."""

    webhooks: tuple[Variable, ...] = ()
    after: Duration | None = None
    also: Texts = ()

    @model_validator(mode="after")
    def _when(self) -> NotifyKey:
        if self.also and not self.after:
            raise problem("goes with `after`", "write when they are notified too, such as `after: 4h`", "also")
        return self


class Worktrees(FileModel):
    """Where people's worktrees of protocols are made; relative to the main worktree's parent."""

    path: Line | None = None


_NAME = r"[a-z0-9][a-z0-9._-]{0,31}"


AgentName = Annotated[
    Text,
    Pattern(_NAME, "should be a name of lower case letters, digits and . _ -", "write it as in acp:NAME"),
]


class CodingAgent(FileModel):
    """A program that does the work of a step by itself: one of one's own, or how one of the runner's table is started here.

    `endpoint`: the variables that name its model's address; the runner asks the model for it there, in the form that it `speaks`.
    `mode`: the one that it is put into; `env`: the variables that it gets, by name, keys among them; `network`: the hosts that it
    may reach besides its model's endpoint.
    """

    command: OneOrMany[Line] = ()
    mode: Line | None = None
    env: tuple[Variable, ...] = ()
    network: NetworkHosts = ()
    endpoint: tuple[Variable, ...] = ()
    speaks: Literal["openai", "anthropic", "gemini"] | None = None

    @model_validator(mode="after")
    def _both(self) -> CodingAgent:
        if bool(self.endpoint) != bool(self.speaks):
            given, other = ("speaks", "endpoint") if self.speaks else ("endpoint", "speaks")
            raise problem(f"and `{other}` must be set together", "write both, or neither", given)
        return self


_Engines = OneOrMany[Line]


class Reviewer(FileModel):
    """One of several reviewers. `engine`: without it, that of the phase `review`."""

    aspects: tuple[Line, ...] = ()
    engine: _Engines = ()


class ReviewKey(FileModel):
    """What a review looks at: `correctness`, `security`, `tests`, or a line of one's own. `reviewers`: each judges by itself."""

    aspects: tuple[Line, ...] = ()
    reviewers: tuple[Reviewer, ...] = Field(default=(), max_length=5)


def _thinking(value: object) -> object:
    return value if value in ("low", "medium", "high") else strict_yaml.integer(value)


class EngineSettings(FileModel):
    """How an engine is asked, where its provider has that: `thinking` in tokens, or `low`, `medium`, `high`; `output`: the most tokens
    of an answer; `context`: those of a conversation, before the model summarises it;
    `images`: whether the model can see."""

    thinking: Annotated[
        Literal["low", "medium", "high"] | int | None,
        BeforeValidator(_thinking, json_schema_input_type=Literal["low", "medium", "high"] | int),
    ] = None
    temperature: Amount | None = None
    output: Positive | None = None
    context: Positive | None = None
    images: Bool | None = None


class EngineKey(FileModel):
    """Which model does what; the first that answers. `settings`: by the name of an engine, wherever it is asked."""

    default: _Engines = ()
    plan: _Engines = ()
    decompose: _Engines = ()
    execute: _Engines = ()
    review: _Engines = ()
    settings: dict[Line, EngineSettings] = Field(default_factory=dict)


def _engine(value: object) -> object:
    return {"default": value} if isinstance(value, str | list) else value


class Config(FileModel):
    """The whole of config.yaml."""

    base: Branch | None = Field(default=None, description="The branch where work is merged.")
    branch: BranchPattern = Field(default="{id}", description="The name of a protocol's branch, with {id} in it.")
    identity: Identity = Field(
        default=Identity.model_construct(), description="The author and committer of the runner's commits."
    )
    publish: Literal["never", "ask", "always"] = Field(default="never", description="Whether branches are pushed.")
    forge: Annotated[ForgeKey | None, BeforeValidator(_forge, json_schema_input_type=Line | ForgeKey | None)] = Field(
        default=None, description="The forge that gets requests, comments and statuses; without it, none."
    )
    merge: MergeKey = Field(default=MergeKey.model_construct(), description="How `runner merge` merges.")
    notify: NotifyKey = Field(
        default=NotifyKey.model_construct(),
        description="Whom `runner watch` tells what waits for people, and when again.",
    )
    engine: Annotated[
        EngineKey, BeforeValidator(_engine, json_schema_input_type=Line | tuple[Line, ...] | EngineKey)
    ] = Field(
        default=EngineKey.model_construct(), description="The model of each phase; of a list, the first that answers."
    )
    executor: Literal["sandbox", "container", "host"] = Field(default="sandbox", description="Where commands run.")
    workspace: WorkspaceKey = Field(
        default=WorkspaceKey.model_construct(), description="How the runner's own checkout is made ready."
    )
    resources: Resources = Field(
        default=Resources.model_construct(), description="The most that a process of a command or check may use."
    )
    worktrees: Worktrees = Field(default=Worktrees.model_construct(), description="Where people's worktrees are made.")
    lease: Lease = Field(
        default=Lease.model_construct(),
        description="When another runner may take over from a silent one: after `ttl` and `grace`.",
    )
    tools: tuple[ToolModule, ...] = Field(default=(), description="Python modules whose functions are tools.")
    mcp: dict[ServerName, McpServer] = Field(
        default_factory=dict, description="MCP servers whose tools agent and tool steps may call, by name."
    )
    acp: dict[AgentName, CodingAgent] = Field(
        default_factory=dict, description="Coding agents that speak ACP, by the name in `acp:NAME`."
    )
    cli: dict[AgentName, CodingAgent] = Field(
        default_factory=dict, description="Coding agents that only have a command line, by the name in `cli:NAME`."
    )
    filters: tuple[Line, ...] = Field(default=(), description="Filter drivers that may run, such as lfs.")
    ci: Literal["fail", "block", "ignore"] | None = Field(default=None, description="The CI that runs steps.")
    review: ReviewKey = Field(
        default=ReviewKey.model_construct(), description="What the model of `qa: full` judges a change under."
    )
    qa: QaDefaults = Field(default=QaDefaults.model_construct(), description="When QA starts.")
    checks: Texts = Field(
        default=(), description="The checks of agent steps, and of steps with `qa: light` or `full`, that name none."
    )
    clarifications: Literal["block", "warn"] = Field(
        default="warn",
        description="Whether open questions of clarifications.yaml prevent new protocols, or are only printed.",
    )

    @property
    def has_requests(self) -> bool:
        """Whether protocols live in requests on a forge."""
        return self.forge is not None and self.forge.name != "none"


def parse(data: bytes | None, where: str) -> Config:
    """Return the configuration that the bytes hold; the defaults where there is no file.

    Raises:
        MalformedFileError: with the line.
    """
    if data is None:
        return Config.model_construct()
    found, lines = strict_yaml.read(Config, data, where, may_be_empty=True)
    if ids.branch_pattern(data) != found.branch:  # commands that only read look for a line of that form
        raise MalformedFileError(
            "`branch` is not on a line of its own",
            f"{where}:{lines.get(('branch',), 1)}",
            f"write the line `branch: {found.branch}`, without indentation",
        )
    return found


# --- agent files ------------------------------------------------------------------------------------------------------


class AgentFile(FileModel):
    """The whole of an agent file. `name`, `description`: for people; `tools`: names of tools, and modules that hold them; `policies`:
    rules that make the policy stricter."""

    name: Line = Field(description="The agent's name for people; plans and steps name the file.")
    description: Text = Field(default="", description="What people should know about the agent.")
    objective: Script = Field(description="The agent's purpose.")
    instructions: Text = Field(default="", description="How the agent works.")
    engine: Line | None = Field(default=None, description="The model, such as openai:gpt-6.1-terra.")
    tools: tuple[ToolName | ToolModule, ...] = Field(
        default=(), description="The tools that the agent may use: names, and Python modules with tools."
    )
    policies: policy_file.Narrowing | None = Field(
        default=None, description="Rules that make the policy stricter for this agent."
    )
    budget: Budget | None = Field(default=None, description="The most that one of the agent's steps may spend.")

    def tool_modules(self) -> list[ToolModule]:
        """Return the modules among its tools."""
        return [tool for tool in self.tools if isinstance(tool, ToolModule)]


def parse_agent(data: bytes, where: str) -> AgentFile:
    """Return the agent file that the bytes hold.

    Raises:
        MalformedFileError: with the line.
    """
    return strict_yaml.read(AgentFile, data, where)[0]
