"""A coding agent over the Agent Client Protocol as an engine: it works by itself, and answers with what it asks or did.

A turn of the conversation ends where the agent asks for a permission, which is a call of `acp:NAME/KIND`, or ends its own turn, which
is a call of `finish`. Calls that it made without asking come first, as calls of the same kind that are over. So the loop judges,
journals and limits it as it does a model. The child's output is kept byte for byte, before it is parsed. The agent says of itself
what it does: what holds it is the sandbox around it, and that its work is judged.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import re
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, Protocol

from runner.engines import (
    Call,
    Json,
    KeyRefusedError,
    ModelTurn,
    RateLimitError,
    Request,
    Response,
    ToolTurn,
    Usage,
    UserTurn,
)
from runner.engines.agents import Agent, AgentMissingError
from runner.engines.child import MOST_LINE, EndedError, Pipe, Terminal
from runner.engines.endpoints import Egress, ToolCall, Tools
from runner.engines.line import RESETS, duration, wait_told
from runner.errors import UsageError
from runner.lines import lines_of, with_ends
from runner.protocol import aliases
from runner.sandbox.process import Session

VERSION: Final = 1  # of the protocol
STARTING: Final = 120.0  # seconds until an agent has a session
IDLE: Final = 600.0  # seconds for which a call may go on in silence
_MOST_SHOWN: Final = 20_000  # characters of a summary, and of a text of an earlier turn
_AUTH: Final = -32000  # JSON-RPC's code of an agent that is not logged in
_NO_METHOD: Final = -32601
_NOT_DONE: Final = -32603
_NO_FILE: Final = -32002
_MOST_KEPT: Final = 1_000_000  # bytes of a command's output
_MOST_TERMINALS: Final = 16  # that it has at once
KINDS: Final = ("read", "edit", "delete", "move", "search", "execute", "think", "fetch", "switch_mode", "other")
_DONE: Final = ("completed", "failed")

# What an agent's error says where its model takes no more requests for now: each has words of its own.
_LIMIT: Final = re.compile(
    r"\b429\b|rate.?limit|too many requests|(usage|session|weekly|daily|hourly|request) limit|hit your .{0,20}limit",
    re.I,
)


class NotDoneError(Exception):
    """The runner does not do what the agent asks of it; the agent gets the message."""


class Client(Protocol):
    """Where the agent works, and what it has the runner do there, by the runner's own tools, which may raise a `NotDoneError`."""

    @property
    def cwd(self) -> str:
        """The workspace as the agent sees it."""

    def start(self) -> Session:
        """Start the agent, in the sandbox."""

    def plain(self, value: Json) -> Json:
        """Take the workspace's path out of JSON."""

    def read(self, path: str) -> str:
        """Return a file's text.

        Raises:
            FileNotFoundError: there is none.
        """

    def write(self, path: str, text: str) -> None:
        """Write a file."""

    def now(self) -> float:
        """Return the time, in seconds since the epoch."""

    def shell(self, command: str, folder: str) -> Session:
        """Start a line of the shell in a folder of the workspace; all of its output is on its stdout."""


@dataclass(slots=True)
class Asked:
    """What the agent asks, or did: a call that the loop judges. `number`: of its request; None where it did not ask.

    `call`: of a server's tool, which the loop makes; `does`: what the agent wants the runner to do, and gets for it.
    """

    id: str
    name: str
    arguments: dict[str, Json]
    number: Json = None
    options: dict[str, str] = field(default_factory=dict)  # kind to id
    does: Callable[[], Json] | None = None
    status: str = ""
    call: ToolCall | None = None

    @property
    def is_lasting(self) -> bool:
        """Whether the same again is the same: it reads a file, or says which bytes it writes where."""
        return self.name.endswith(("/edit", "/read"))

    def is_same(self, other: Asked) -> bool:
        """Return whether it is the call that was approved: of edits, the same bytes in the same place."""
        return (self.name, self.arguments) == (other.name, other.arguments)

    def is_part_of(self, other: Asked) -> bool:
        """Return whether it does what the agent said of a call: runs that command, or reads or writes that file."""
        mine, others = self.arguments, other.arguments
        if self.name != other.name or mine.get("command") != others.get("command"):
            return False
        return "command" in mine or mine.get("path") == others.get("path")

    def is_permitted_by(self, other: Asked) -> bool:
        """Return whether what was permitted is this: the same command at the top, or the same file with the same bytes."""
        said = other.arguments.get("input")
        texts = list(said.values()) if isinstance(said, dict) else []
        mine = self.arguments.get("edits")
        has_bytes = mine is None or mine == other.arguments.get("edits") or mine[0]["text"] in texts
        return has_bytes and self.is_part_of(other) and not ("command" in self.arguments and "path" in self.arguments)


class AcpEngine:
    """One agent, at work on one attempt.

    `until`: when its time is over, by `time.monotonic`; `meter`: counts what its model is asked, where it can be; `tools`: of MCP
    servers, that it may call.
    """

    provider: Final = "acp"

    def __init__(
        self,
        name: str,
        row: Agent,
        client: Client,
        *,
        until: float,
        meter: Egress | None = None,
        tools: Tools | None = None,
    ) -> None:
        self.name, self.model = name, name.partition(":")[2]
        self.prefix = ":".join(name.split(":")[:2])
        self._row, self._client, self._cwd, self._plain, self._until = row, client, client.cwd, client.plain, until
        self.meter, self._tools, self._servers = meter, tools, list[Json]()
        self._pipe: Pipe | None = None
        self._session = ""
        self._prompt: int | None = None  # the request that is under way
        self._events: deque[Asked | dict[str, Json]] = deque()
        self._asked: Asked | None = None  # what the loop was told of last, and has not decided
        self.over: deque[Asked] = deque()  # what the loop was told of that is done already
        self.is_wrong = False  # whether it did some of that against the policy
        self._granted: list[Asked] = []  # approved in an earlier process
        self._permitted: list[Asked] = []  # in this one, which it may have the runner do
        self._terminals: dict[str, Terminal] = {}
        self._calls: dict[str, dict[str, Json]] = {}
        self._seen: set[str] = set()  # the calls that the loop knows
        self._let: set[str] = set()  # those that were permitted as calls of servers' tools
        self._text, self._thoughts, self._bytes = "", "", bytearray()
        self._number = 0  # of calls of servers' tools
        self._came: list[ToolCall] = []  # of which it was not yet told what they are
        self._cost: Decimal | None = None
        self._charged = Decimal(0)
        self._resets: float | None = None  # when a limit of its model ends, in seconds since the epoch

    # --- the engine ---------------------------------------------------------------------------------------------------

    def ask(self, request: Request, *, timeout: float, on_bytes: Callable[[bytes], None] | None = None) -> Response:
        """Return what the agent asks or did next. See `Engine.ask`; `timeout`: how long it may say nothing."""
        last = request.turns[-1]
        try:
            if self._pipe is None:
                self._open(request, on_bytes)
            else:
                self._listen(on_bytes)
                if self.is_wrong:
                    return self._failed("it made a call without asking that the policy does not allow")
                if self._asked is not None and self._asked.call is not None:
                    self._give(self._asked.call, last)
                elif self._asked is not None:
                    self._answer(self._asked, allowed=False)
                elif self._prompt is None:
                    self._say(_text_of(last))
            self.over.clear()
            return self._response(self._next(timeout))
        except TimeoutError:
            if time.monotonic() >= self._until:
                return self._ended(finish="length", problem="its time is over")
            return self._failed(f"it sent no message for {timeout:g} s")
        except EndedError as error:
            return self._failed(f"{error}{self._last_words()}")

    def close(self) -> None:
        """Cancel the current turn, and end the agent."""
        pipe, self._pipe = self._pipe, None
        if self._tools is not None:
            self._tools.release()
        if pipe is None:
            return
        if self._session:
            for one in (self._asked, *self._events):
                if isinstance(one, Asked) and one.does is not None:
                    pipe.refuse(one.number, _NOT_DONE, "not done: the step stops here")
                elif isinstance(one, Asked) and one.number is not None:
                    pipe.reply(one.number, {"outcome": {"outcome": "cancelled"}})
            pipe.notify("session/cancel", {"sessionId": self._session})
            pipe.flush(1.0)
        pipe.session.close(1.0)
        self._release()

    def _release(self) -> None:
        """End the commands that still run for it."""
        for one in self._terminals.values():
            one.end()
        self._terminals.clear()

    def permit(self, name: str, arguments: Mapping[str, Json]) -> dict[str, Json]:
        """Let the agent make the last call that the loop got, and wait for its end; the loop gets its result.

        Where that was in another process, the agent asks again, and is allowed then.
        """
        asked, self._asked = self._asked, None
        if asked is None:
            self._granted.append(Asked("", name, dict(arguments)))
            return {"permission": "allow_once", "status": "granted"}
        if not self._answer(asked, allowed=True):
            return {"permission": "cancelled", "status": "failed"}
        status = self._status(asked)
        try:
            while not status and not self._events and self._prompt is not None:
                self._take_message(min(IDLE, self._left(self._until)))
                status = self._status(asked)
        except (TimeoutError, EndedError) as error:
            status = f"unknown: {error or 'its time is over'}"
        ran = [one for one in self._terminals.values() if one.call == asked.id and one.ended is not None]
        told = [{"exit_code": one.ended.code, "output": one.text[-_MOST_SHOWN:]} for one in ran if one.ended]
        made: dict[str, Json] = {"permission": "allow_once", "status": status or "under way"}
        return made | ({"ran": self._plain(told)} if told else {})

    def _status(self, asked: Asked) -> str:
        """Return how a permitted call ended; empty while it runs."""
        ran = [one for one in self._terminals.values() if one.call == asked.id]
        if asked.does is not None:
            return "" if any(one.ended is None for one in ran) else "completed"
        found = self._calls.get(asked.id, {}).get("status")
        return str(found) if found in _DONE else ""

    # --- starting -----------------------------------------------------------------------------------------------------

    def _open(self, request: Request, on_bytes: Callable[[bytes], None] | None) -> None:
        """Start the agent, with the session of the turns before where it can, and tell it the task.

        Raises:
            EngineError: it does not start, or is not logged in. UsageError: it does not have the mode.
        """
        self._pipe = Pipe(self._client.start())
        if self._tools is not None:
            self._pipe.beside[self._tools.wake] = lambda: None  # `_take_message` takes its calls
        by = time.monotonic() + STARTING
        self._listen(on_bytes)
        before = next(
            (
                turn.raw
                for turn in reversed(request.turns)
                if isinstance(turn, ModelTurn) and turn.provider == self.provider
            ),
            None,
        )
        try:
            can = {"fs": {"readTextFile": self._row.reads, "writeTextFile": True}, "terminal": True}
            found = self._call(
                "initialize", {"protocolVersion": VERSION, "clientCapabilities": can}, "InitializeResponse", by
            )
            if found.protocol_version != VERSION:
                raise EndedError(f"it speaks version {found.protocol_version} of the protocol, not {VERSION}")
            self._offer(found.agent_capabilities)
            session, resumed = None, False
            if isinstance(before, dict) and before.get("session"):
                self._charged = Decimal(str(before.get("usd") or 0))
                session = self._resume(str(before["session"]), found.agent_capabilities, by)
                resumed = session is not None
            if session is None:
                self._charged = Decimal(0)
                params = {"cwd": self._cwd, "mcpServers": self._servers}
                session = self._call("session/new", params, "NewSessionResponse", by)
                self._session = session.session_id
            self._set_mode(session, by)
        except TimeoutError:
            raise AgentMissingError(
                f"{self.prefix} did not start within {STARTING:g} s{self._last_words()}", self._where, "try it by hand"
            ) from None
        except EndedError as error:
            hint = f"install it: {self._row.needs}" if self._row.needs else "try it by hand"
            raise AgentMissingError(
                f"{self.prefix} does not start: {error}{self._last_words()}", self._where, hint
            ) from None
        self._text, self._thoughts = "", ""  # of an old session that it told again
        self._calls.clear()
        self._seen.clear()
        self._say(_anew(request, resumed))

    def _offer(self, can: Any) -> None:
        """Have the agent connect to the servers' tools, if it can.

        Raises:
            UsageError: it cannot.
        """
        if self._tools is None or not self._tools.specs:
            return
        if not (can and can.mcp_capabilities and can.mcp_capabilities.http):
            hint = "give the step an agent file that lists none of their tools, or another engine"
            raise UsageError(
                f"{self.prefix} does not support MCP servers over HTTP, and the project has some", self._where, hint
            )
        self._servers = self._tools.servers()

    @property
    def _where(self) -> str:
        return f"engine `{self.name}`"

    def _resume(self, session: str, can: Any, by: float) -> Any:
        """Return the session of an earlier process, None where the agent does not have it any more."""
        params = {"sessionId": session, "cwd": self._cwd, "mcpServers": self._servers}
        self._session = session
        with contextlib.suppress(RefusedByAgentError):
            if can and can.session_capabilities and can.session_capabilities.resume is not None:
                return self._call("session/resume", params, "ResumeSessionResponse", by)
            if can and can.load_session:
                return self._call("session/load", params, "LoadSessionResponse", by)
        self._session = ""
        return None

    def _set_mode(self, session: Any, by: float) -> None:
        """Put the session into the mode of the table.

        Raises:
            UsageError: it does not have it.
        """
        modes, wanted = session.modes, self._row.mode
        there, now = [one.id for one in modes.available_modes] if modes else [], modes.current_mode_id if modes else ""
        choice = next((one for one in session.config_options or () if one.category == "mode"), None)
        if not there and choice is not None:
            there, now = [one.value for one in choice.options], choice.current_value
        if (wanted or there) and wanted not in there:
            what = f"has no mode `{wanted}`" if wanted else "has modes, and none is named"
            raise UsageError(
                f"{self.prefix} {what}: it offers {', '.join(there) or 'none'}",
                self._where,
                f"name its strictest one in .protocols/config.yaml: `{self.prefix.replace(':', ': {')}: {{mode: …}}}}`",
            )
        if now == wanted:
            return
        if modes:
            self._call("session/set_mode", {"sessionId": self._session, "modeId": wanted}, "SetSessionModeResponse", by)
        elif choice is not None:
            params = {"sessionId": self._session, "configId": choice.id, "value": wanted}
            self._call("session/set_config_option", params, "SetSessionConfigOptionResponse", by)

    def _call(self, method: str, params: Json, model: str, by: float) -> Any:
        """Return the answer to a request, as the package reads it.

        Raises:
            RefusedByAgentError: it is an error. KeyRefusedError: the agent is not logged in.
        """
        assert self._pipe is not None
        number = self._pipe.request(method, params)
        while True:
            message = self._take_message(self._left(by))
            if "method" in message or message.get("id") != number:
                continue
            if (error := message.get("error")) is not None:
                said = error if isinstance(error, dict) else {}
                what = f"{method}: {said.get('message', 'an error')}"
                if said.get("code") == _AUTH:
                    hint = "name its key in `env` of its row in .protocols/config.yaml: docs/engines.md, Coding agents"
                    raise KeyRefusedError(f"{self.prefix} is not logged in", self._where, hint)
                raise RefusedByAgentError(what)
            return self._read(model, message.get("result") or {})

    @staticmethod
    def _read(model: str, value: Json) -> Any:
        schema = importlib.import_module("acp.schema")  # slow to load
        try:
            return getattr(schema, model).model_validate(value)
        except ValueError as error:
            raise EndedError(f"its {model} is not in the protocol's form") from error

    # --- messages -----------------------------------------------------------------------------------------------------

    def _listen(self, on_bytes: Callable[[bytes], None] | None) -> None:
        assert self._pipe is not None

        def take(data: bytes) -> None:
            self._bytes.extend(data)
            if len(self._bytes) > MOST_LINE:
                raise EndedError(f"it said more than {MOST_LINE:,} bytes between two records")
            if on_bytes is not None:
                on_bytes(data)

        self._pipe.take = take

    def _left(self, by: float) -> float:
        return max(0.0, min(by, self._until) - time.monotonic())

    def _say(self, text: str) -> None:
        assert self._pipe is not None
        self._prompt = self._pipe.request(
            "session/prompt", {"sessionId": self._session, "prompt": [{"type": "text", "text": text}]}
        )

    def _next(self, timeout: float) -> Asked | dict[str, Json]:
        """Return what the agent asks next, or the answer that ends its turn."""
        while not self._events:
            self._take_message(min(timeout, self._left(self._until)))
        return self._events.popleft()

    def _take_message(self, timeout: float) -> dict[str, Json]:
        """Take in the agent's next message, and return it."""
        assert self._pipe is not None
        message = self._pipe.next(timeout)
        for call in self._tools.arrived() if self._tools is not None and not message else ():
            self._number += 1
            self._events.append(Asked(f"tool-{self._number}", call.name, call.arguments, call=call))
            self._came.append(call)
        if not message:
            return message
        method, params = message.get("method"), message.get("params")
        params = params if isinstance(params, dict) else {}
        if method == "session/update":
            update = params.get("update")
            self._updated(update if isinstance(update, dict) else {})
        elif method is not None and "id" in message:
            self._requested(str(method), params, message["id"])
        elif method is None and message.get("id") == self._prompt:
            self._prompt = None
            self._events.append(message)
        return message

    def _updated(self, update: dict[str, Json]) -> None:
        match update.get("sessionUpdate"):
            case "agent_message_chunk":
                self._text += _chunk(update)
            case "agent_thought_chunk":
                self._thoughts += _chunk(update)
            case "tool_call" | "tool_call_update":
                self._merge(update)
            case "usage_update":
                if (found := RESETS.search(json.dumps(update.get("_meta")))) is not None:
                    self._resets = float(found[1])
                cost = update.get("cost")
                if (
                    isinstance(cost, dict)
                    and cost.get("currency") == "USD"
                    and isinstance(cost.get("amount"), int | float)
                ):
                    self._cost = Decimal(str(round(float(cost["amount"]), 9)))
            case "current_mode_update":
                if self._row.mode and update.get("currentModeId") != self._row.mode:
                    raise EndedError(f"it left the mode `{self._row.mode}` for `{update.get('currentModeId')}`")

    def _merge(self, update: dict[str, Json]) -> dict[str, Json]:
        """Take in what the agent says of one of its calls; return all that it said of it."""
        said = {key: value for key, value in update.items() if value is not None}
        found = self._calls.setdefault(str(update.get("toolCallId")), {})
        found.update(said)
        return found

    def _requested(self, method: str, params: dict[str, Json], number: Json) -> None:
        assert self._pipe is not None
        if method == "session/request_permission":
            self._read("RequestPermissionRequest", params)
            call = self._merge(params["toolCall"])
            asked = self._asked_of(call)
            asked.number = number
            asked.options = {str(one["kind"]): str(one["optionId"]) for one in reversed(params["options"])}
        elif (wants := self._wants(method, params, number)) is not None:
            asked, call = wants, {}
        else:
            self._for_terminal(method, params, number)
            return
        if asked.does is None and self._servers_tool(call) is not None:
            self._let.add(asked.id)
            self._answer(asked, allowed=True)
            return
        self._seen.add(asked.id)
        same = next((one for one in self._granted if asked.is_same(one)), None)
        if same is not None and not asked.is_lasting:
            self._granted.remove(same)
        if same is None and asked.does is not None:
            same = next((one for one in self._permitted if asked.is_permitted_by(one)), None)
            if same is not None:
                self._permitted.remove(same)
        if same is None:
            self._events.append(asked)
            return
        asked.id = same.id or asked.id
        self._answer(asked, allowed=True)

    def _wants(self, method: str, params: dict[str, Json], number: Json) -> Asked | None:
        """Return what the agent wants the runner to do in its place, as a call of the agent's; None where that is nothing of it."""
        place, client = self._relative(str(params.get("path", ""))), self._client
        given: dict[str, Json] = {"path": place}
        match method:
            case "fs/read_text_file":
                wanted = self._read("ReadTextFileRequest", params)
                name, kind = "read", "read"

                def does() -> Json:
                    return {"content": _part(client.read(place), wanted.line, wanted.limit)}

            case "fs/write_text_file":
                text = str(self._read("WriteTextFileRequest", params).content)
                name, kind = "write", "edit"
                given["edits"] = [{"path": place, "text": text}]

                def does() -> Json:
                    client.write(place, text)
                    return {}

            case "terminal/create":
                wanted = self._read("CreateTerminalRequest", params)
                folder, limit = self._relative(wanted.cwd or self._cwd), wanted.output_byte_limit
                most = _MOST_KEPT if limit is None else max(0, min(limit, _MOST_KEPT))
                name, kind = "terminal", "execute"
                given = {"command": aliases.line_of(params)} | ({"path": folder} if folder != "." else {})

                def does() -> Json:
                    return self._run(asked, folder, most)

            case _:
                return None
        asked = Asked(f"{name}-{number}", f"{self.prefix}/{kind}", self._plain(given), number, does=does)
        self._seen.update(key for key, call in self._calls.items() if asked.is_part_of(self._asked_of(call)))
        return asked

    def _run(self, asked: Asked, folder: str, most: int) -> Json:
        """Start a command for the agent; return what it asks about that by.

        Raises:
            NotDoneError: it does not start.
        """
        assert self._pipe is not None
        if sum(one.ended is None for one in self._terminals.values()) >= _MOST_TERMINALS:
            raise NotDoneError(f"there are {_MOST_TERMINALS} commands at once at most")
        # The line that was judged, and so not the request's own.
        made = Terminal(self._client.shell(str(asked.arguments["command"]), folder), asked.id, most)
        name, fd, beside = f"terminal-{asked.number}", made.session.stdout.fileno(), self._pipe.beside

        def take() -> None:
            if made.take():
                del beside[fd]
                self._tell_end(made)

        self._terminals[name], beside[fd] = made, take
        return {"terminalId": name}

    def _tell_end(self, terminal: Terminal) -> None:
        assert self._pipe is not None
        for number in terminal.waits:
            self._pipe.reply(number, terminal.status)
        terminal.waits.clear()

    def _for_terminal(self, method: str, params: dict[str, Json], number: Json) -> None:
        """Answer what the agent asks about a command of its own."""
        assert self._pipe is not None
        found = self._terminals.get(str(params.get("terminalId")))
        if not method.startswith("terminal/") or found is None:
            code = _NO_FILE if method.startswith("terminal/") else _NO_METHOD
            return self._pipe.refuse(number, code, f"{method} is not offered, or there is no such terminal")
        match method:
            case "terminal/output":
                said: dict[str, Json] = {"output": found.text, "truncated": found.is_cut}
                return self._pipe.reply(number, said | ({"exitStatus": found.status} if found.ended else {}))
            case "terminal/wait_for_exit" if found.ended is None:
                return found.waits.append(number)
            case "terminal/wait_for_exit":
                return self._pipe.reply(number, found.status)
            case "terminal/kill" | "terminal/release":
                self._pipe.beside.pop(found.session.stdout.fileno() if found.ended is None else -1, None)
                found.end()
                self._tell_end(found)
                return self._pipe.reply(number, {})
        return self._pipe.refuse(number, _NO_METHOD, f"{method} is not offered")

    def _servers_tool(self, call: Mapping[str, Json]) -> tuple[str, dict[str, Json]] | None:
        """Return which server's tool the agent seems to call, and with what; such a call is judged where it comes in.

        A model can choose these words for another call: `_has_come` finds that out.
        """
        raw, meta = call.get("rawInput"), call.get("_meta")
        given = raw if isinstance(raw, dict) else {}
        said = {_letters(call.get("title")), _letters(meta.get("toolName")) if isinstance(meta, dict) else ""}
        for name, spec in self._tools.specs.items() if self._tools is not None else ():
            server, _, tool = name.removeprefix("mcp:").partition("/")
            if given.keys() <= {"server", "tool", "arguments"} and (given.get("server"), given.get("tool")) == (
                server,
                tool,
            ):
                return name, given.get("arguments") or {}
            titles = (tool, f"{server} {tool}", f"mcp {server} {tool}", f"{tool} ({server} MCP Server)")
            is_named = call.get("kind") == "other" and not said.isdisjoint(map(_letters, titles))
            if is_named and given.keys() <= spec.parameters.get("properties", {}).keys():
                return name, given
        return None

    def _has_come(self, name: str, given: dict[str, Json]) -> bool:
        """Return whether a call of this server's tool came in, which is then no other's."""
        for one in self._came:
            if one.name == name and all(one.arguments.get(key, value) == value for key, value in given.items()):
                self._came.remove(one)
                return True
        return False

    def _is_own(self, key: str, call: Mapping[str, Json], over: Collection[str]) -> bool:
        """Return whether the agent made a call by itself, and the loop does not know it yet.

        One that seems to be of a server's tool is its own if it is over, and did not come in.
        """
        if key in self._seen:
            return False
        found = self._servers_tool(call)
        if found is None:
            return call.get("status") in over
        is_over = call.get("status") in _DONE or (self._prompt is None and key in self._let)
        if is_over and self._has_come(*found):
            self._seen.add(key)
        return is_over and key not in self._seen

    def _asked_of(self, call: Mapping[str, Json]) -> Asked:
        """Return one of the agent's calls as the loop judges it: its paths, its command or address, and the bytes that it writes."""
        kind = call.get("kind") if call.get("kind") in KINDS else "other"
        raw = call.get("rawInput")
        given = raw if isinstance(raw, dict) else {}
        parts = [one for one in call.get("content") or () if isinstance(one, dict) and one.get("type") == "diff"]
        places = [one.get("path") for one in (*(call.get("locations") or ()), *parts) if isinstance(one, dict)]
        names = ("file_path", "filePath", "path", "absolute_path", "notebook_path", "dir_path")
        places += [given.get(name) for name in names]
        found = list(dict.fromkeys(self._relative(one) for one in places if isinstance(one, str) and one))
        arguments: dict[str, Json] = {"path": found[0]} if found else {}
        if len(found) > 1:
            arguments["paths"] = found
        if kind == "execute":
            arguments["command"] = aliases.command_of(given) or str(call.get("title", ""))
        if isinstance(given.get("url"), str):
            arguments["url"] = given["url"]
        if parts:
            arguments["edits"] = [
                {"path": self._relative(str(one.get("path"))), "text": one.get("newText")} for one in parts
            ]
        elif given:
            arguments["input"] = given
        else:
            arguments["title"] = str(call.get("title", ""))
        return Asked(
            str(call.get("toolCallId")),
            f"{self.prefix}/{kind}",
            self._plain(arguments),
            status=str(call.get("status", "")),
        )

    def _relative(self, path: str) -> str:
        return relative(path, (self._cwd, self._plain(self._cwd)))

    def _give(self, call: ToolCall, last: object) -> None:
        """Give the call of a server's tool its result, which the loop has."""
        assert isinstance(last, ToolTurn) and self._tools is not None
        self._asked = None
        self._tools.answer(call, last.results[-1])

    def _answer(self, asked: Asked, *, allowed: bool) -> bool:
        """Answer what the agent asks; return whether it may do it."""
        assert self._pipe is not None
        self._asked = None
        if asked.does is not None:
            if not allowed:
                self._pipe.refuse(asked.number, _NOT_DONE, "it is not allowed; do not try it again")
                return False
            try:
                self._pipe.reply(asked.number, asked.does())
            except FileNotFoundError as error:
                self._pipe.refuse(asked.number, _NO_FILE, f"Resource not found: {error}")
                return False
            except NotDoneError as error:
                self._pipe.refuse(asked.number, _NOT_DONE, str(error))
                return False
            return True
        if allowed:
            self._permitted.append(asked)
        option = asked.options.get("allow_once" if allowed else "reject_once")
        outcome = {"outcome": "selected", "optionId": option} if option is not None else {"outcome": "cancelled"}
        self._pipe.reply(asked.number, {"outcome": outcome})
        return option is not None

    # --- what the loop is told ------------------------------------------------------------------------------------------

    def _response(self, event: Asked | dict[str, Json]) -> Response:
        # What it has the runner do may be part of a call that it told of already.
        over = _DONE if isinstance(event, Asked) and event.does is not None else (*_DONE, "in_progress")
        made = [self._asked_of(call) for key, call in self._calls.items() if self._is_own(key, call, over)]
        if made:
            self._seen.update(one.id for one in made)
            self._events.appendleft(event)
            self.over.extend(made)
            return self._goes_on(*made)
        if isinstance(event, Asked):
            self._asked = event
            return self._goes_on(event)
        if self.meter is not None and (limit := self.meter.limit) is not None:  # a wait, whatever it made of that
            self.close()
            raise limit
        if (error := event.get("error")) is not None:
            if _LIMIT.search(json.dumps(error)):
                wait = wait_told(json.dumps(error, ensure_ascii=False), self._client.now())
                self.close()
                raise self._limited(self._resets - self._client.now() if wait is None and self._resets else wait)
            said = error.get("message") if isinstance(error, dict) else error
            return self._failed(f"it reports an error: {str(said)[:600]}")
        answer = self._read("PromptResponse", event.get("result") or {})
        used = answer.usage
        usage = Usage()
        if used is not None:
            cached, written = used.cached_read_tokens or 0, used.cached_write_tokens or 0
            usage = Usage(
                input=used.input_tokens + cached + written,
                output=used.output_tokens,
                cached=cached,
                cache_write=written,
            )
        match answer.stop_reason:
            case "end_turn" if self.meter is not None and self.meter.refused:
                return self._ended(finish="length", problem=self.meter.refused)
            case "end_turn":
                return self._ended((self._finish(),), usage=usage)
            case "refusal":
                return self._ended(usage=usage, finish="refused", problem="the agent refuses")
            case "cancelled":
                return self._failed("it was cancelled")
            case other:
                return self._ended(usage=usage, finish="length", problem=str(other))

    def _limited(self, wait: float | None) -> RateLimitError:
        """Return the error for an agent that says that it may ask its model no more for now."""
        wait = None if wait is None else max(0.0, round(wait))
        hint = "wait a little" if wait is None else f"wait {duration(wait)}"
        return RateLimitError(f"{self.prefix} is at a limit of its model", self._where, hint, retry_after=wait)

    def _goes_on(self, *made: Asked) -> Response:
        """Return calls of an unfinished turn: its end has the cost."""
        calls = tuple(Call(id=one.id, name=one.name, arguments=one.arguments) for one in made)
        response = self._ended(calls)
        is_known = response.usd is not None or response.usage != Usage()
        return response if is_known else dataclasses.replace(response, usd=Decimal(0))

    def _finish(self) -> Call:
        text = str(self._plain(self._text.strip()))
        given: dict[str, Json] = {"status": "done", "summary": text[-_MOST_SHOWN:] or "the agent ended its turn"}
        _, opened, rest = text.rpartition("```json\n")
        with contextlib.suppress(ValueError):
            if opened and isinstance(value := json.loads(rest.partition("```")[0]), dict):
                given["result"] = value
        return Call(id=f"finish-{len(self._seen)}", name="finish", arguments=given)

    def _failed(self, why: str) -> Response:
        """Return that the attempt failed by the agent, which is ended."""
        over = self.meter.refused if self.meter is not None else ""
        response = self._ended(finish="length" if over else "failed", problem=over or f"{self.prefix}: {why}")
        self.close()
        return response

    def _ended(
        self,
        calls: tuple[Call, ...] = (),
        *,
        usage: Usage | None = None,
        finish: str = "stop",
        problem: str = "",
    ) -> Response:
        """Return a turn of the conversation with its text, and its cost, where the agent reports one."""
        usd: Decimal | None = None
        if self.meter is not None:
            usage, usd = self.meter.take()
            usage, usd = (None, None) if usage == Usage() else (usage, usd)
        elif self._cost is not None:
            usd, self._charged = max(Decimal(0), self._cost - self._charged), self._cost
        text, thoughts, said = self._text, self._thoughts, bytes(self._bytes)
        self._text, self._thoughts, self._bytes = "", "", bytearray()
        state = {"session": self._session, "usd": format(self._charged, "f")}
        return Response(
            turn=ModelTurn(text=self._plain(text), calls=calls, provider=self.provider, raw=state),
            thoughts=self._plain(thoughts),
            usage=usage if usage is not None else Usage(),
            usd=usd,
            finish=finish,
            problem=problem,
            model=self.model,
            raw={"stdout": said.decode("utf-8", "surrogateescape")},
        )

    def _last_words(self) -> str:
        """Return the end of the agent's error output, and end it."""
        pipe, self._pipe = self._pipe, None
        if pipe is None:
            return ""
        outcome = pipe.session.close(0.5)
        self._release()
        lines = [line.strip() for line in lines_of(outcome.tail.decode(errors="replace")) if line.strip()]
        said = next((line for line in reversed(lines) if "error" in line.lower()), "".join(lines[-1:]))
        return f" with exit code {outcome.code}" + (f": {said[:300]}" if said else "")


class RefusedByAgentError(EndedError):
    """The agent answers a request with an error."""


def _chunk(update: Mapping[str, Json]) -> str:
    content = update.get("content")
    text = content.get("text") if isinstance(content, dict) else None
    return text if isinstance(text, str) else ""


def relative(path: str, roots: Sequence[str]) -> str:
    """Return a path from the workspace's top, where it is below it, however it is spelled. `roots`: the names of the top."""
    if path.startswith("/"):
        path = "/" + os.path.normpath(path).lstrip("/")
    for root in roots:
        if path == root or path.startswith(f"{root}/"):
            return os.path.normpath(path[len(root) :].lstrip("/") or ".")
    return path if path.startswith("/") else os.path.normpath(path)


def _part(text: str, line: int | None, limit: int | None) -> str:
    """Return the lines of a text from a number on, of the first one, and so many at most."""
    if line is None and limit is None:
        return text
    start = max(0, (line or 1) - 1)
    return "".join(with_ends(text)[start : None if limit is None else start + limit])


def _letters(title: object) -> str:
    return re.sub(r"[\W_]+", " ", str(title)).strip()


def _text_of(turn: object) -> str:
    """Return what the last turn has to say to an agent whose own turn is over."""
    if isinstance(turn, UserTurn):
        return turn.text
    assert isinstance(turn, ToolTurn)
    said = [
        one.content if isinstance(one.content, str) else json.dumps(one.content, ensure_ascii=False)
        for one in turn.results
    ]
    return "\n\n".join(said)


def _anew(request: Request, resumed: bool) -> str:
    """Return the text for an agent that starts: the task, and how far it was where it was stopped."""
    first, *rest = request.turns
    assert isinstance(first, UserTurn)
    if not rest:
        return f"{first.text}\n\n{request.system}"
    told = []
    for turn in rest:
        match turn:
            case UserTurn():
                told.append(turn.text)
            case ModelTurn():
                told += [turn.text] if turn.text.strip() else []
                told += [f"[{call.name} {json.dumps(call.arguments, ensure_ascii=False)}]" for call in turn.calls]
            case ToolTurn():
                told += [json.dumps(one.content, ensure_ascii=False) for one in turn.results]
    words = (
        "You were stopped in the middle, and go on now. The files are as they were after what is listed here last, which may be "
        'less than you remember: look first. A call with the status "granted" was approved since: make it now, exactly as it is.'
    )
    account = f"{words}\n\n" + "\n".join(one[-_MOST_SHOWN:] for one in told)
    return account if resumed else f"{first.text}\n\n{request.system}\n\n{account}"
