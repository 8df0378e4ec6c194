"""Coding agents that do the work of a step: `acp:NAME` speaks the Agent Client Protocol, `cli:NAME` only has a command line.

One is a row of `ACP` or `CLI`; config.yaml of the trusted branch may change one, or add one of its own.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from runner.engines import EngineError
from runner.errors import ExitCode, UsageError, installs

if TYPE_CHECKING:
    from runner.protocol.config import Config

PACKAGE: Final = "acp"  # the module of `agent-client-protocol`, and the extra that installs it


class AgentMissingError(EngineError):
    """The agent's program is not there, or does not start."""

    exit_code = ExitCode.USAGE


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """How a coding agent is started.

    `mode`: the strictest in which it still works; empty where it has none. `env`: what it gets, and `files`: files below
    HOME before it starts. In all of them, `{model}` is the model that the engine's name gives, `{endpoint}` the address where it is
    asked, and `{key}` a text in place of the key, which the endpoint adds; a variable, or a line of a file, with one that there
    is not is left out. `speaks`: whose API it expects at the endpoint, a row of `registry.ROWS`; empty where its endpoint cannot be
    set. `has_model`: it asks a model of its own where none is named. `reads`: whether it is offered to read files by the runner
    (gemini does not understand that one is missing). `needs`: how it is installed.
    `passed`, `hosts`: what the trusted branch lets in besides.
    """

    command: tuple[str, ...]
    mode: str = ""
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    speaks: str = "openai"
    has_model: bool = False
    reads: bool = True
    needs: str = ""
    passed: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()


_CODEX: Final = """\
model = "{model}"
model_provider = "runner"
[model_providers.runner]
name = "runner"
base_url = "{endpoint}"
env_key = "OPENAI_API_KEY"
wire_api = "responses"
"""
_OPENCODE: Final = (
    '{"permission": {"edit": "ask", "bash": "ask", "webfetch": "deny"}, "model": "runner/{model}", "provider": {"runner": '
    '{"npm": "@ai-sdk/openai-compatible", "options": {"baseURL": "{endpoint}", "apiKey": "{key}"}, "models": {"{model}": {}}}}}'
)


def _like_opencode(name: str, mode: str, package: str) -> Agent:
    """Return the row of opencode, or of a fork of it, whose variables have its own name."""
    of = name.upper()
    return Agent(
        command=(name, "acp"),
        mode=mode,
        env={
            f"{of}_DISABLE_MODELS_FETCH": "1",
            f"{of}_DISABLE_AUTOUPDATE": "1",
            f"{of}_CONFIG_CONTENT": _OPENCODE,
        },
        needs=f"npm install -g {package}",
    )


_CLINE: Final = (
    '{"version": 1, "lastUsedProvider": "openai-compatible", "modes": {}, "providers": {"openai-compatible": {'
    '"tokenSource": "manual", "updatedAt": "2026-01-01T00:00:00.000Z", "settings": '
    '{"provider": "openai-compatible", "apiKey": "{key}", "model": "{model}", "baseUrl": "{endpoint}"}}}}'
)
_CLINE_MODELS: Final = '{"version": 1, "providers": {"openai-compatible": {"models": {"{model}": {"id": "{model}"}}}}}'
_VIBE: Final = """\
active_model = "{model}"
enable_telemetry = false
enable_update_checks = false
enable_auto_update = false
[[providers]]
name = "runner"
api_base = "{endpoint}"
api_key_env_var = "OPENAI_API_KEY"
[[models]]
name = "{model}"
alias = "{model}"
provider = "runner"
"""

ACP: Final[Mapping[str, Agent]] = {
    "claude": Agent(
        command=("claude-agent-acp",),
        mode="default",
        env={
            "ANTHROPIC_BASE_URL": "{endpoint}",
            "ANTHROPIC_API_KEY": "{key}",
            "ANTHROPIC_MODEL": "{model}",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "ENABLE_TOOL_SEARCH": "false",  # it would show its model no server's tools at first
            "IS_SANDBOX": "1",
        },
        speaks="anthropic",
        has_model=True,
        needs="npm install -g @agentclientprotocol/claude-agent-acp",
    ),
    "codex": Agent(
        command=("codex-acp",),
        mode="agent-full-access",  # in the others it starts a sandbox of its own, which does not work inside of ours
        env={"OPENAI_API_KEY": "{key}"},
        files={".codex/config.toml": _CODEX},
        has_model=True,
        needs="npm install -g @agentclientprotocol/codex-acp",
    ),
    "gemini": Agent(
        command=("gemini", "--acp"),
        mode="default",
        env={
            "GOOGLE_GEMINI_BASE_URL": "{endpoint}",
            "GEMINI_API_KEY": "{key}",
            "GEMINI_MODEL": "{model}",
            "GEMINI_CLI_TRUST_WORKSPACE": "true",
        },
        files={
            ".gemini/settings.json": '{"security":{"auth":{"selectedType":"gemini-api-key"}},'
            '"privacy":{"usageStatisticsEnabled":false},"general":{"disableAutoUpdate":true}}'
        },
        speaks="gemini",
        reads=False,
        has_model=True,
        needs="npm install -g @google/gemini-cli",
    ),
    "opencode": _like_opencode("opencode", "build", "opencode-ai"),
    "kilo": _like_opencode("kilo", "code", "@kilocode/cli"),
    "kimi": Agent(
        command=("kimi", "acp"),
        mode="default",
        env={
            "KIMI_MODEL_PROVIDER_TYPE": "openai",
            "KIMI_MODEL_BASE_URL": "{endpoint}",
            "KIMI_MODEL_API_KEY": "{key}",
            "KIMI_MODEL_NAME": "{model}",
            "KIMI_CODE_NO_AUTO_UPDATE": "1",
        },
        needs="npm install -g @moonshot-ai/kimi-code",
    ),
    "qwen": Agent(
        command=("qwen", "--acp", "--auth-type", "openai"),
        mode="default",
        env={
            "OPENAI_BASE_URL": "{endpoint}",
            "OPENAI_API_KEY": "{key}",
            "OPENAI_MODEL": "{model}",
            "QWEN_CODE_LEGACY_MCP_BLOCKING": "1",
        },
        files={
            ".qwen/settings.json": '{"tools":{"toolSearch":{"enabled":false}},"general":{"enableAutoUpdate":false}}'
        },
        needs="npm install -g @qwen-code/qwen-code",
    ),
    "copilot": Agent(
        command=("copilot", "--acp"),
        mode="https://agentclientprotocol.com/protocol/session-modes#agent",
        env={
            "COPILOT_PROVIDER_BASE_URL": "{endpoint}",
            "COPILOT_PROVIDER_API_KEY": "{key}",
            "COPILOT_PROVIDER_TYPE": "openai",
            "COPILOT_MODEL": "{model}",
            "COPILOT_OFFLINE": "true",
        },
        needs="npm install -g @github/copilot",
    ),
    "cline": Agent(
        command=("cline", "--acp"),
        mode="act",
        env={
            "CLINE_API_KEY": "{key}",
            "CLINE_PROVIDER": "openai-compatible",
            "CLINE_MODEL": "{model}",
            "CLINE_NO_AUTO_UPDATE": "1",
        },
        files={
            ".cline/data/settings/providers.json": _CLINE,
            ".cline/data/settings/models.json": _CLINE_MODELS,
            ".cline/data/settings/global-settings.json": '{"telemetryOptOut": true, "autoUpdateEnabled": false}',
        },
        needs="npm install -g cline",
    ),
    "vibe": Agent(
        command=("vibe-acp",),
        mode="ask",
        env={"OPENAI_API_KEY": "{key}"},
        files={".vibe/config.toml": _VIBE},
        needs="pipx install mistral-vibe",
    ),
}
_LITELLM: Final = {
    "OPENAI_API_BASE": "{endpoint}",
    "OPENAI_API_KEY": "{key}",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}

# What it keeps in the checkout, its history and its map of the repository, would be the step's work.
_AIDER: Final = (
    "aider --yes-always --no-auto-commits --no-gitignore --no-check-update --analytics-disable --no-show-model-warnings --no-stream"
    " --no-show-release-notes --map-tokens 0 --chat-history-file /dev/null --input-history-file /dev/null --model openai/{model}"
    " --message-file {prompt_file}"
)
CLI: Final[Mapping[str, Agent]] = {
    "aider": Agent(
        command=tuple(_AIDER.split()),
        env=_LITELLM,
        needs="pipx install aider-chat",
    ),
    "mini-swe-agent": Agent(
        command=("mini", "-y", "--exit-immediately", "-l", "0", "-m", "openai/{model}", "-t", "{prompt}"),
        env={**_LITELLM, "MSWEA_CONFIGURED": "true", "MSWEA_COST_TRACKING": "ignore_errors"},
        needs="pipx install mini-swe-agent",
    ),
}
TABLES: Final[Mapping[str, Mapping[str, Agent]]] = {"acp": ACP, "cli": CLI}
_KEYS: Final = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY", "gemini": "GEMINI_API_KEY"}
ABOUT: Final = {"acp": "coding agents over ACP", "cli": "coding agents by their command line"}


def is_installed() -> bool:
    """Return whether the package for ACP is there, without importing it."""
    return importlib.util.find_spec(PACKAGE) is not None


def is_agent(engine: str) -> bool:
    """Return whether an engine is a coding agent, which does a step's work and answers no single question."""
    return engine.partition(":")[0] in TABLES


def split(engine: str) -> tuple[str, str, str]:
    """Return the prefix, the agent and the model, empty where none is named, of `acp:NAME` or `acp:NAME:MODEL`."""
    prefix, _, rest = engine.partition(":")
    name, _, model = rest.partition(":")
    return prefix, name, model


def find(engine: str, config: Config) -> Agent:
    """Return how the coding agent `engine` is started, as the table and config.yaml say.

    Raises:
        UsageError: there is none of that name, or it needs a model.
    """
    prefix, name, model = split(engine)
    table, own = TABLES[prefix], getattr(config, prefix)
    row, given = table.get(name), own.get(name)
    if given is not None and given.command:
        keys = {_KEYS[given.speaks]: "{key}"} if given.speaks else {}
        row = Agent(
            command=given.command,
            env={**dict.fromkeys(given.endpoint, "{endpoint}"), **keys},
            speaks=given.speaks or "",
            has_model=True,
        )
    if row is None:
        near = difflib.get_close_matches(name, [*table, *own], n=1)
        hint = (
            f"did you mean {prefix}:{near[0]}?" if near else f"there is {', '.join(f'{prefix}:{one}' for one in table)}"
        )
        more = f"; one of your own is `{prefix}: {{{name or 'NAME'}: {{command: […]}}}}` in .protocols/config.yaml"
        raise UsageError(f"there is no coding agent `{engine}`", f"engine `{engine}`", hint + more)
    if not model and (not row.has_model or any("{model}" in word for word in row.command)):
        raise UsageError(
            f"`{engine}` does not say which model", f"engine `{engine}`", f"write it as {prefix}:{name}:MODEL"
        )
    if given is None:
        return row
    mode = given.mode if given.mode is not None else row.mode
    return dataclasses.replace(row, mode=mode, passed=given.env, hosts=given.network)


def filled(text: str, words: Mapping[str, str]) -> str | None:
    """Return the text with its placeholders filled in; None where one is missing."""
    for name, value in words.items():
        if name in text and not value:
            return None
        text = text.replace(name, value)
    return text


def need(engine: str, config: Config, path: str | None) -> Agent:
    """Return how a coding agent is started, if that is there: its program is on `path`; None: a container's image may have it.

    Raises:
        UsageError: there is none of that name. AgentMissingError: its program is not there, or the package for ACP.
    """
    row, where = find(engine, config), f"engine `{engine}`"
    if engine.startswith("acp:") and not is_installed():
        raise AgentMissingError("the package agent-client-protocol is not installed", where, installs(PACKAGE))
    if path is not None and shutil.which(row.command[0], path=path) is None:
        hint = f"install it: {row.needs}" if row.needs else "install it, or correct .protocols/config.yaml"
        raise AgentMissingError(f"the program `{row.command[0]}` is not on the PATH", where, hint)
    return row


def known(config: Config) -> Iterator[str]:
    """Yield the names of the coding agents that config.yaml has, then those of the table that it has not."""
    for prefix, table in TABLES.items():
        yield from (f"{prefix}:{name}" for name in dict.fromkeys((*getattr(config, prefix), *table)))
