"""A connection to one MCP server, over the pipes of a process in the sandbox or over HTTP: the one module that loads the SDK's client.

The server is not trusted: what it sends is bounded in bytes and in time, and nothing that it asks for is done. Neither roots nor
sampling nor logging are offered; a question that it asks is for a person, never answered by a model.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import logging
import math
import os
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import anyio
import anyio.from_thread
import httpx2
import mcp_types as types
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.message import SessionMessage

from runner.lines import visible
from runner.sandbox.process import CommandOutcome, Session
from runner.tools import ASKS, AsksError, OutcomeUnknownError, ToolError
from runner.tools.python import ToolModuleError

CHUNK = 64 * 1024
MOST = 16 * 1024 * 1024  # bytes that a server may send for one request
MOST_TOOLS, MOST_PAGES = 1_000, 50
MOST_ASKED = 2_000  # characters of a question
LAST = 2_000  # characters of what it printed
_LOST = (types.CONNECTION_CLOSED, types.REQUEST_TIMEOUT)

# The person's answer to a server's question, or None: it is asked then, and the call made again with the answer.
Answers = Callable[[str], str | None]


class Connection:
    """An open connection. `open_`: a server's process in the sandbox, opened in this thread, or a URL and its token.

    Raises:
        ToolModuleError: the server does not start, or does not speak the protocol.
    """

    def __init__(
        self, name: str, open_: Callable[[], Session] | tuple[str, str | None], timeout: float, answers: Answers
    ) -> None:
        logging.getLogger("mcp").setLevel(logging.CRITICAL)  # it would print a stranger's words to the terminal
        self._name, self._timeout, self._answers = name, timeout, answers
        self.is_stale = False  # whether the server said that its list changed
        self.is_lost = False
        self._question: str | None = None
        self._called = ""
        self._received, self._why = 0, ""
        self._stack = contextlib.ExitStack()
        self._session: Session | None = None
        self._outcome: CommandOutcome | None = None
        try:
            if callable(open_):
                self._session = open_()
                transport = self._pipes(self._session)
            else:
                transport = self._http(*open_)
            self._loop = self._stack.enter_context(anyio.from_thread.start_blocking_portal())
            self._stack.callback(self._loop.call, self._loop.stop, True)  # it may hang in its first answer
            client = Client(
                transport,
                read_timeout_seconds=timeout,
                elicitation_callback=self._elicited,
                message_handler=self._noticed,
                cache=None,
                client_info=types.Implementation(name="protocol-runner", version="1"),
            )
            self._client = self._stack.enter_context(self._loop.wrap_async_context_manager(self._opened(client)))
        except (Exception, ExceptionGroup) as error:
            self.close()
            raise self._refusal(f"it does not answer as an MCP server: {self._told(error)}") from error
        except BaseException:
            self.close()
            raise

    @property
    def version(self) -> str:
        """The version that the server says it has."""
        info = self._client.server_info
        return str(info.version) if info is not None else ""

    def tools(self) -> list[dict[str, Any]]:
        """Return the server's list of tools, as it sends it.

        Raises:
            ToolModuleError: it has none that can be taken.
        """

        async def every() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = []
            cursor: str | None = None
            with anyio.fail_after(self._timeout):
                for _ in range(MOST_PAGES):
                    page = await self._client.list_tools(cursor=cursor)
                    found += [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in page.tools]
                    cursor = page.next_cursor
                    if cursor is None:
                        return found
                    if len(found) > MOST_TOOLS:
                        break
            raise ToolError(f"its list has more than {MOST_TOOLS} tools, or no end")

        self._received = 0
        try:
            return self._loop.call(every)
        except (Exception, ExceptionGroup) as error:
            self.close()
            raise self._refusal(f"it does not list its tools: {self._told(error)}") from error

    def call(self, tool: str, arguments: Mapping[str, Any]) -> Any:
        """Call a tool and return its result, as JSON.

        Raises:
            ToolError: the server says that it failed. AsksError: it asks a person first. OutcomeUnknownError: it gave no answer.
        """

        async def call() -> types.CallToolResult:
            with anyio.fail_after(self._timeout):
                return await self._client.call_tool(tool, dict(arguments))

        self._received, self._question, self._called = 0, None, tool
        try:
            result = self._loop.call(call)
        except BaseException as error:
            if self._question is not None and not self.is_lost:
                raise AsksError(self._question) from error
            if isinstance(error, MCPError) and error.error.code not in _LOST:
                raise ToolError(f"the server refused it: {error.error.message}") from error
            self.is_lost = True
            if isinstance(
                error, MCPError | TimeoutError | ExceptionGroup | concurrent.futures.CancelledError | OSError
            ):
                self.close()
                raise OutcomeUnknownError(self._told(error), self._printed()) from error
            if isinstance(error, Exception):  # what it sent is no result, or none as its own schema says
                raise ToolError(f"it was called, but its result cannot be taken: {error}"[:LAST]) from error
            raise
        if self._question is not None:
            raise AsksError(self._question)
        try:
            value = _value(result)
        except (ValueError, RecursionError) as error:
            raise ToolError(f"it was called, but its result is no JSON that can be kept: {error}") from error
        if result.is_error:
            raise ToolError(f"the tool failed: {value}")
        return value

    def close(self) -> None:
        """End the connection, and the server's process with all that it started."""
        self.is_lost = True
        try:
            # One that hangs must not keep us: leaving the protocol's own way has a bound of time, and the process is ended anyhow.
            if self._session is not None:
                with contextlib.suppress(OSError):
                    self._session.stdin.close()
            with contextlib.suppress(Exception, ExceptionGroup, concurrent.futures.CancelledError):
                self._stack.close()
        finally:
            if self._session is not None and self._outcome is None:
                self._outcome = self._session.close(0.5)

    # --- what the server sends -------------------------------------------------------------------------------------------

    async def _noticed(self, message: object) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            self.is_stale = True
        await anyio.lowlevel.checkpoint()

    async def _elicited(
        self, context: object, params: types.ElicitRequestParams
    ) -> types.ElicitResult | types.ErrorData:
        """Answer a server's question by what a person said to it before; else note it, and end the call."""
        question, schema = _question(self._name, self._called, params)
        question = visible(question)[:MOST_ASKED]
        said = self._answers(question)
        if said is None:
            self._question = question
            return types.ErrorData(code=types.INVALID_REQUEST, message="a person is asked; call again")
        if said.strip().lower() == "decline":
            return types.ElicitResult(action="decline")
        if isinstance(params, types.ElicitRequestURLParams):
            return types.ElicitResult(action="accept")
        return types.ElicitResult(action="accept", content=_content(said, schema))

    @contextlib.asynccontextmanager
    async def _opened(self, client: Client) -> AsyncIterator[Client]:
        """Open the client, all of its opening within the time limit."""
        with anyio.CancelScope(deadline=anyio.current_time() + self._timeout) as scope:
            async with client:
                scope.deadline = math.inf
                yield client
        if scope.cancelled_caught:
            raise TimeoutError

    @contextlib.asynccontextmanager
    async def _pipes(self, session: Session) -> AsyncIterator[Any]:
        """The transport over a process's pipes: a JSON-RPC message a line, bounded."""
        give, received = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        to_send, take = anyio.create_memory_object_stream[SessionMessage](0)
        stdin, stdout = session.stdin.fileno(), session.stdout.fileno()
        os.set_blocking(stdin, False)

        async def reader() -> None:
            line = bytearray()
            async with give:
                while True:
                    await anyio.wait_readable(stdout)
                    data = os.read(stdout, CHUNK)
                    if not data or not self._count(len(data)):
                        return
                    *whole, rest = (bytes(line) + data).split(b"\n") if b"\n" in data else (None,)
                    if rest is None:
                        line += data
                        continue
                    line = bytearray(rest)
                    for one in whole:
                        if one.strip() and not await self._give(give, one):
                            return

        async def read() -> None:
            try:
                await reader()
            finally:  # the next call starts the server anew; of a call under way the outcome is unknown
                self.is_lost = True

        async def writer() -> None:
            with contextlib.suppress(OSError, ValueError):
                async for message in take:
                    left = memoryview(
                        message.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"
                    )
                    while left:
                        await anyio.wait_writable(stdin)
                        with contextlib.suppress(BlockingIOError):
                            left = left[os.write(stdin, left[:CHUNK]) :]

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            group.start_soon(writer)
            yield received, to_send
            group.cancel_scope.cancel()

    async def _give(self, give: Any, line: bytes) -> bool:
        """Hand on a line that is a message; a line of a log is left out, and one that is nearly a message ends the connection."""
        if not line.lstrip().startswith(b"{"):
            return True
        try:
            message = types.jsonrpc_message_adapter.validate_json(line, by_name=False)
        except ValueError:
            self._why = "it sent a line that is no message of JSON-RPC"
            return False
        try:
            await give.send(SessionMessage(message))
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return False
        return True

    def _count(self, size: int) -> bool:
        self._received += size
        if self._received > MOST:
            self._why = f"it sent more than {MOST:,} bytes for one request"
        return self._received <= MOST

    @contextlib.asynccontextmanager
    async def _http(self, url: str, token: str | None) -> AsyncIterator[Any]:
        """The transport over HTTP: to that host alone, through no proxy of the environment, without cookies."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        transport = _Counted(self._count, verify=ssl.create_default_context())
        timeout = httpx2.Timeout(30.0, read=self._timeout)
        async with (
            httpx2.AsyncClient(headers=headers, transport=transport, timeout=timeout, trust_env=False) as client,
            streamable_http_client(
                url, http_client=client, terminate_on_close=False, max_sse_event_size=MOST
            ) as streams,
        ):
            yield streams

    # --- what is said of failures ----------------------------------------------------------------------------------------

    def _told(self, error: BaseException) -> str:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if self._why:
            return self._why
        if isinstance(error, TimeoutError) or (
            isinstance(error, MCPError) and error.error.code == types.REQUEST_TIMEOUT
        ):
            return f"timed out after {self._timeout:g} s; it was ended"
        if isinstance(error, MCPError) and error.error.code == types.CONNECTION_CLOSED:
            return "it ended its process" if self._session is not None else "it closed the connection"
        return (error.error.message if isinstance(error, MCPError) else f"{error}")[:LAST] or type(error).__name__

    def _printed(self) -> str:
        return self._outcome.tail.decode(errors="replace").strip()[-LAST:] if self._outcome is not None else ""

    def _refusal(self, what: str) -> ToolModuleError:
        printed = visible(self._printed())
        return ToolModuleError(
            f"the MCP server `{self._name}` cannot be used: {visible(what)}" + (f"\n{printed}" if printed else ""),
            f"mcp: {self._name}",
            "run its command by hand, or look at its entry in config.yaml on the trusted branch; docs/mcp.md says what it may reach",
        )


class _Counted(httpx2.AsyncHTTPTransport):
    """Counts what a server sends, and stops where it is too much."""

    def __init__(self, count: Callable[[int], bool], **more: Any) -> None:
        super().__init__(**more)
        self._count = count

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Return the response, whose body is counted as it is read."""
        response = await super().handle_async_request(request)
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _CountedStream(response.stream, self._count)
        return response


class _CountedStream(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream, count: Callable[[int], bool]) -> None:
        self._inner, self._count = inner, count

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for data in self._inner:
            if not self._count(len(data)):
                raise httpx2.ReadError("the response is too long")
            yield data

    async def aclose(self) -> None:
        """Close the response."""
        await self._inner.aclose()


def _value(result: types.CallToolResult) -> Any:
    """Return a result: its structure where it has one, else its text. Other content is named, and left out."""
    if result.structured_content is not None:
        return json.loads(json.dumps(result.structured_content, allow_nan=False))
    texts = []
    for one in result.content:
        if isinstance(one, types.TextContent):
            texts.append(one.text)
        elif isinstance(one, types.EmbeddedResource) and isinstance(one.resource, types.TextResourceContents):
            texts.append(f"[{one.resource.uri}]\n{one.resource.text}")
        elif isinstance(one, types.ResourceLink):
            texts.append(f"[a link, not opened: {one.uri}]")
        else:
            texts.append(f"[{one.type}, left out: the runner takes text]")
    return "\n".join(texts)


def _question(name: str, tool: str, params: types.ElicitRequestParams) -> tuple[str, Mapping[str, Any]]:
    """Return a server's question for a person, which is also what its answer is known by, and the schema of the answer."""
    if isinstance(params, types.ElicitRequestURLParams):
        return f"{ASKS}{name}, for {tool}, asks you to open {params.url} : {params.message}\n(`done`, or `decline`)", {}
    schema = params.requested_schema
    fields = {key: of for key, of in schema.get("properties", {}).items() if isinstance(of, dict)}
    how = [
        f"{key}: {of.get('description') or of.get('title') or ''} ({_kind(of)})"
        for key, of in list(fields.items())[:20]
    ]
    form = "the value alone" if len(fields) == 1 else "JSON, an object with these keys"
    return "\n".join((f"{ASKS}{name} asks for {tool}: {params.message}", *how, f"({form}, or `decline`)")), schema


def _kind(schema: Mapping[str, Any]) -> str:
    choices = schema.get("enum") or [one.get("const") for one in schema.get("oneOf", ()) if isinstance(one, dict)]
    return " or ".join(map(str, choices[:20])) if choices else str(schema.get("type", "text"))


def _content(said: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a person's answer by the schema of the question."""
    fields = list(schema.get("properties", {}))
    with contextlib.suppress(ValueError):
        found = json.loads(said)
        if isinstance(found, dict):
            return found
    if len(fields) != 1:
        return {fields[0]: said} if fields else {}
    wanted = schema["properties"][fields[0]].get("type")
    if wanted == "boolean":
        return {fields[0]: said.strip().lower() in ("true", "yes", "y")}
    if wanted in ("integer", "number"):
        with contextlib.suppress(ValueError):
            return {fields[0]: json.loads(said)}
    return {fields[0]: said}
