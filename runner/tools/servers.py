"""Tools of MCP servers: by the descriptions that people pinned, and calls of which the first starts the server.

The texts of a tool (title, description, schemas) reach a model, so they are an instruction that a stranger wrote. A person reads them
once (`runner mcp pin NAME`) and commits them with their digest; models are shown those, never what the server says now. A server whose
list is another one is not called. Its annotations, such as `readOnlyHint`, are its own claim: config.yaml declares the effects.
`mcp_client` speaks the protocol; it and the SDK are loaded by the first call.
"""

from __future__ import annotations

import contextlib
import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from runner.errors import MalformedFileError
from runner.lines import visible
from runner.protocol import aliases, ids
from runner.protocol.config import McpServer
from runner.protocol.plans import TOOL_NAME
from runner.protocol.state import read_json
from runner.tools import Contract, Tool, ToolError, check_arguments
from runner.tools.python import ToolModuleError, effect_of, repeatable

if TYPE_CHECKING:
    from runner.tools.mcp_client import Connection

Words = Mapping[str, Any]  # of one tool, as the server says them

WORDS = ("name", "title", "description", "inputSchema", "outputSchema", "annotations")
MOST_WORDS = 2 * 1024 * 1024  # bytes of a pinned list
WIRE_NAME = 64  # characters of a tool's name that every provider takes
MOST_SHOWN = 30_000  # characters of a result


def plain(value: Any) -> Any:
    """Return a JSON value whose texts are `visible`."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {visible(str(key)): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def shown(value: Any) -> Any:
    """Return a result as a model and the journal get it: visible, and at most `MOST_SHOWN` characters."""
    value = plain(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) <= MOST_SHOWN:
        return value
    return f"{text[:MOST_SHOWN]}\n[the result is cut here: it has {len(text):,} characters]"


# --- the pinned words ----------------------------------------------------------------------------------------------------


def words_of(tools: Sequence[Mapping[str, Any]]) -> list[Words]:
    """Return what a digest covers of a list of tools, in the order of their names."""
    found = [{key: tool[key] for key in WORDS if tool.get(key) is not None} for tool in tools]
    return sorted(found, key=lambda tool: str(tool.get("name")))


def digest_of(words: Sequence[Words]) -> str:
    """Return the digest of a list of tools: of its canonical JSON, as tools that pin MCP servers make it."""
    return ids.digest(
        json.dumps(words, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    )


def render(words: Sequence[Words]) -> bytes:
    """Return the bytes of a file of pinned words, in ASCII: a reader of the diff sees each character."""
    return json.dumps(words, indent=2, sort_keys=True).encode() + b"\n"


def parse(data: bytes, where: str) -> list[Words]:
    """Return the list that a file holds.

    Raises:
        MalformedFileError: it is not one that `runner mcp pin` wrote.
    """
    found = read_json(data) if len(data) <= MOST_WORDS else None
    if not isinstance(found, list) or not all(
        isinstance(one, dict) and isinstance(one.get("name"), str) for one in found
    ):
        raise MalformedFileError("this is no list of an MCP server's tools", where, "`runner mcp pin NAME` writes it")
    return words_of(found)


def changes(old: Sequence[Words], new: Sequence[Words]) -> Iterator[str]:
    """Yield lines that show how a list of tools differs from the one before, with every character to be seen."""
    before, after = ({str(one["name"]): one for one in words} for words in (old, new))
    for name in sorted({*before, *after}):
        was, now = before.get(name, {}), after.get(name, {})
        if was == now:
            continue
        yield f"{'+' if not was else '-' if not now else '~'} {visible(name)}"
        for key in WORDS[1:]:
            if was.get(key) == now.get(key):
                continue
            for sign, words in (("-", was), ("+", now)):
                if key in words:
                    yield from (f"    {sign} {key}: {line}" for line in _lines(words[key]))


def _lines(value: Any) -> list[str]:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    return visible(text).split("\n")


# --- the lock file -------------------------------------------------------------------------------------------------------


def unlocked(package: str, data: bytes | None) -> str | None:
    """Return why a lock file does not hold a package in its version with a hash; None where it does.

    It is package-lock.json, pnpm-lock.yaml, uv.lock, poetry.lock, pdm.lock, pylock.toml, or a requirements file with hashes.
    """
    ecosystem, _, rest = package.partition(":")
    name, _, version = rest.rpartition("@")
    if data is None:
        return "it is not on the trusted branch"
    text = data.decode("utf-8", "replace")
    found = _of_npm(name, version, text) if ecosystem == "npm" else _of_pypi(name, version, text)
    return None if found else f"it does not have {name} in version {version} with a hash"


def _of_npm(name: str, version: str, text: str) -> bool:
    lock = read_json(text)
    if isinstance(lock, dict):
        one = (lock.get("packages") or {}).get(f"node_modules/{name}")
        return isinstance(one, dict) and one.get("version") == version and bool(one.get("integrity"))
    entry = rf"(?m)^  ['\"]?/?{re.escape(name)}@{re.escape(version)}['\"]?:\n +resolution: \{{integrity: [^\s}}]"
    return re.search(entry, text) is not None


def _of_pypi(name: str, version: str, text: str) -> bool:
    def plain_name(one: object) -> str:
        return re.sub(r"[-_.]+", "-", str(one)).lower()

    try:
        lock = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        lines = re.sub(r"\\\n", " ", text).split("\n")
        read = [
            re.match(r"\s*([\w.-]+)(?:\[[^]]*\])?\s*==\s*([^\s;]+).*--hash=sha256:[0-9a-f]{64}", line) for line in lines
        ]
        return any(one and (plain_name(one[1]), one[2]) == (plain_name(name), version) for one in read)
    every = [one for key in ("package", "packages") for one in lock.get(key) or () if isinstance(one, dict)]
    wanted = (plain_name(name), version)
    return any((plain_name(one.get("name")), one.get("version")) == wanted and "sha256" in str(one) for one in every)


# --- the tools -----------------------------------------------------------------------------------------------------------


class Unpinned(ToolModuleError):
    """The tools of a server are not there: no person pinned its list, or the server has another one now."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(
            f"the tools of the MCP server `{name}` are disabled: {why}",
            f"mcp: {name}",
            f"`runner mcp pin {name}` shows its list; commit the digest on the trusted branch if you want those tools",
        )


class ServerTools:
    """The tools of one server while the block lasts. `connect` starts it, or reaches it, when the first of them is called.

    `refused`: the tools that cannot be called, and why.

    Raises:
        Unpinned: the pinned list does not have the digest. ToolModuleError: the entry does not fit them.
    """

    def __init__(
        self, name: str, server: McpServer, words: Sequence[Words] | None, connect: Callable[[], Connection]
    ) -> None:
        if server.tools is None:
            raise Unpinned(name, "nobody pinned its list")
        if words is None or digest_of(words) != server.tools:
            raise Unpinned(name, "the file of its list does not have the digest that config.yaml names")
        self._name, self._server, self._connect = name, server, connect
        self._connection: Connection | None = None
        self.tools: dict[str, Tool] = {}
        self.refused: dict[str, str] = {}
        self._offer(words)

    def __enter__(self) -> ServerTools:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def ask(self, tool: str, arguments: Mapping[str, Any]) -> Any:
        """Have the server call its tool; return the result, visible and bounded.

        Raises:
            ToolError: it failed. OutcomeUnknownError: there was no answer. Unpinned: its list changed.
            ToolModuleError: the server could not be reached; nothing was called.
        """
        if self._connection is not None and (self._connection.is_stale or self._connection.is_lost):
            self._end()
        if self._connection is None:
            self._start()
        assert self._connection is not None
        try:
            return shown(self._connection.call(tool, arguments))
        except ToolError as error:
            raise type(error)(visible(error.message)[:2000], visible(error.output)) from error
        finally:
            if self._connection.is_lost:
                self._end()

    def _start(self) -> None:
        self._connection = connection = self._connect()
        try:
            if (wanted := self._server.version) is not None and connection.version != wanted:
                raise Unpinned(
                    self._name, f"it says that it is version {visible(connection.version)[:40]}, not {wanted}"
                )
            if digest_of(words_of(connection.tools())) != self._server.tools:
                raise Unpinned(self._name, "its list of tools is not the one that was pinned")
        except BaseException:
            self._end()
            raise

    def _end(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _offer(self, words: Sequence[Words]) -> None:
        for one in words:
            said = self._contract(str(one["name"]), one)
            if isinstance(said, str):
                self.refused[f"mcp:{self._name}/{one['name']}"] = said
            else:
                self.tools[said.name] = self._tool(said, str(one["name"]))
        prefix = f"mcp:{self._name}/"
        known = {name.removeprefix(prefix): tool.contract for name, tool in self.tools.items()}

        def none(name: str) -> str:
            return f"`{name}`: {self.refused.get(prefix + name, 'it has no such tool')}"

        for name, declared in repeatable(self._server.effects, known, none, self._unfit):
            if declared.external == "keyed":
                self.tools[prefix + name] = self._tool(known[name].keyed(str(declared.key)), name)
            elif declared.external == "probed":
                by = self.tools[f"{prefix}{declared.probe}"]
                self.tools[prefix + name] = self.tools[prefix + name]._replace(probe=partial(_probed, by))

    def _contract(self, name: str, words: Words) -> Contract | str:
        """Return the contract of a tool, or why it cannot be one."""
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import SchemaError

        ours, schema = f"mcp:{self._name}/{name}", words.get("inputSchema")
        if not TOOL_NAME.fullmatch(ours) or len(aliases.wire_name(ours)) > WIRE_NAME:
            return "its name has other characters, or more of them, than models' providers take"
        if any(aliases.wire_name(ours) == aliases.wire_name(other) for other in self.tools):
            return "models' providers take its name for that of another tool"
        try:
            if not isinstance(schema, dict) or schema.get("type") != "object":
                return "its arguments are no object"
            Draft202012Validator.check_schema(schema)
        except (SchemaError, RecursionError) as error:
            return f"its schema is not valid: {getattr(error, 'message', 'it is too deep')}"
        effect, repeat = effect_of(self._server.effects.get(name))
        return Contract(
            name=ours,
            description=visible(str(words.get("description") or words.get("title") or "")),
            effect=effect,
            repeat=repeat,
            parameters={"properties": {}, **plain(schema)},
            returns=None,
            source=f"mcp:{self._name} {self._server.tools}",
            env=self._server.env,
            network=(urlsplit(self._server.url).hostname or "",) if self._server.url else self._server.network,
        )

    def _tool(self, contract: Contract, name: str) -> Tool:
        """Return one tool of the server, whose own name for it is `name`."""

        def call(arguments: Mapping[str, Any]) -> Any:
            check_arguments(contract, arguments)
            return self.ask(name, arguments)

        return Tool(contract, call)

    def _unfit(self, what: str, key: str, hint: str) -> ToolModuleError:
        what = f"the entry of the MCP server `{self._name}` does not fit its tools: {visible(what)}"
        hint = f"{visible(hint)}; `runner mcp pin {self._name}` shows the tools"
        return ToolModuleError(what, f"mcp: {self._name}, effects.{visible(key)}", hint)


def _probed(by: Tool, arguments: Mapping[str, Any]) -> Any:
    """Return what a tool finds that looks up another one's effect, null or nothing where there was no such call."""
    takes = by.contract.parameters.get("properties", {})
    found = by.call({key: arguments[key] for key in takes if key in arguments})
    if isinstance(found, dict) and [*found] == ["result"]:  # as libraries wrap a value that is no object
        found = found["result"]
    return found or None


@contextlib.contextmanager
def opened(servers: Sequence[ServerTools]) -> Iterator[dict[str, Tool]]:
    """Give the tools of several servers, which end with the block."""
    with contextlib.ExitStack() as stack:
        yield {name: tool for server in servers for name, tool in stack.enter_context(server).tools.items()}
