"""What a run reaches beside git: a model, a shell, files, and tools whose calls are counted in the world.

The sandbox and the engine are registered as any other is. A child is asked without its pipes; what is said is what the real
ones say, and what it does to the world is done between two seams.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from runner.engines import Call, ModelTurn, NetworkError, Request, Response, ToolTurn, Usage, registry
from runner.sandbox import process
from runner.sandbox.process import Command, CommandOutcome, Group, Limits, Pipes, Place, Stdio
from runner.store.remote import Mirror

if TYPE_CHECKING:
    from tests.simulation.world import World

MODULE = "ops"
ENTRY = (
    f"  - module: {MODULE}\n"
    "    effects: {pay: {external: keyed, key: ref}, book: {external: probed, probe: find}, find: read}\n"
)
_TEXT, _NUMBER = {"type": "string"}, {"type": "integer"}
TOOLS: Mapping[str, tuple[Mapping[str, Any], tuple[str, ...]]] = {
    "send": ({"to": _TEXT}, ("to",)),
    "pay": ({"amount": _NUMBER, "ref": _TEXT}, ("amount", "ref")),
    "book": ({"seat": _NUMBER}, ("seat",)),
    "find": ({"seat": _NUMBER}, ("seat",)),
}
SCRIPT = "sim:script"


class Child(process.Session):
    """A session whose requests are answered at once."""

    def __init__(
        self, answer: Callable[[Mapping[str, Any] | None], dict[str, Any] | None], ended: Callable[[], None]
    ) -> None:
        self.answer, self._ended = answer, ended
        self.stdin, self.stdout = io.BytesIO(), io.BytesIO()

    def close(self, grace: float = 2.0) -> CommandOutcome:
        """See `Session.close`."""
        self._ended()
        return outcome()


def outcome(code: int = 0, said: bytes = b"") -> CommandOutcome:
    """Return how a command ended."""
    return CommandOutcome(code, False, 0.0, "sha256:" + hashlib.sha256(said).hexdigest(), len(said), said)


def exchange(pipes: Pipes, request: Mapping[str, Any] | None, timeout: float) -> dict[str, Any] | None:
    """Ask a child; see `runner.tools.commands.exchange`."""
    assert isinstance(pipes.session, Child)
    return pipes.session.answer(request)


@dataclass(slots=True)
class Sandbox(process.Sandbox):
    """A place whose commands are `echo TEXT > PATH`, `test -f PATH` and `true`, and whose children are ours."""

    world: World
    name: str = "sandbox"

    def placed(self, place: Place) -> Sandbox:
        """See `Sandbox.placed`: its commands take paths as they are."""
        return self

    def limited(self, limits: Limits) -> Sandbox:
        """See `Sandbox.limited`: nothing here uses much."""
        return self

    def _spawn(self, command: Command, stdio: Stdio) -> Group:
        raise AssertionError(command)

    def attach(self, command: Command) -> CommandOutcome:
        """See `Sandbox.attach`: nobody sits here."""
        raise AssertionError(command)

    def check(self) -> str | None:
        """See `Sandbox.check`."""
        return None

    def run(self, command: Command, on_output: Callable[[bytes], None] | None = None) -> CommandOutcome:
        """See `Sandbox.run`."""
        seam = self.world.scheduler.seam
        line = command.argv[-1]
        self.world.check_begins(line)
        seam("command", line)
        self.world.work()
        words = line.split()
        code = 0
        if words[0] == "echo":
            _write(command.cwd / words[3], words[1])
        elif words[:2] == ["test", "-f"]:
            code = 0 if (command.cwd / words[2]).is_file() else 1
        if self.world.faults.commands_fail and self.world.chance(self.world.faults.commands_fail):
            code = 1
        seam("command", f"{line}: exit {code}")
        return outcome(code)

    def open(self, command: Command) -> Child:
        """See `Sandbox.open`."""
        alive = self.world.scheduler.seam
        if any(word.endswith("child.py") for word in command.argv):
            return Child(lambda request: self.world.ledger.call(request), lambda: alive("read", "a child ends"))
        return Child(lambda request: _files(command.cwd, request), lambda: alive("read", "a child ends"))


def _files(work: Path, request: Mapping[str, Any] | None) -> dict[str, Any]:
    if request is None:
        return {"ready": True}
    assert request["call"] == "write_file", request
    path, content = request["arguments"]["path"], request["arguments"]["content"]
    there = (work / path).exists()
    _write(work / path, content)
    return {"result": {"bytes": len(content), "replaced": there}}


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


@dataclass(slots=True)
class Ledger:
    """What happened outside. `under_way`: calls that were begun and whose process has not heard of their end."""

    world: World
    happened: list[tuple[str, str]] = field(default_factory=list)
    keys: set[tuple[str, str]] = field(default_factory=set)
    under_way: dict[str, int] = field(default_factory=dict)

    def count(self, tool: str, arguments: Mapping[str, Any]) -> int:
        """Return how often a call had its effect."""
        return self.happened.count((tool, _about(arguments)))

    def call(self, request: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """Answer the runner as the module's child does."""
        if request is None:
            told = []
            for name, (properties, required) in TOOLS.items():
                schema = {"type": "object", "properties": properties, "required": list(required)}
                told.append({"name": name, "description": name, "parameters": schema, "returns": None})
            return {"tools": told, "refused": {}}
        name, arguments = request["call"], request["arguments"]
        world, about = self.world, _about(request["arguments"])
        seam = world.scheduler.seam
        if name == "find":
            seam("effect", f"find {about}")
            return {"result": "found" if ("book", about) in self.happened else None}
        who = f"{name} {about}"
        world.check_begins(who)
        self.under_way[who] = self.under_way.get(who, 0) + 1
        # A call that is on its way when its process is suspended cannot be fenced by anybody.
        world.scheduler.no_stall += 1
        try:
            seam("effect", who)
            known = (name, str(arguments.get("ref")))
            if name != "pay" or known not in self.keys:
                self.happened.append((name, about))
                world.scheduler.tell(f"HAPPENS {who}")
            if name == "pay":
                self.keys.add(known)
            world.check_effects()
            seam("effected", who)
            if world.chance(world.faults.answers_lost):
                return None
        finally:
            world.scheduler.no_stall -= 1
            self.under_way[who] -= 1
        return {"result": f"done {about}"}


def _about(arguments: Mapping[str, Any]) -> str:
    return json.dumps({key: value for key, value in arguments.items() if key != "ref"}, sort_keys=True)


class Script:
    """A model that writes a file, perhaps calls a tool, and is done: its answer is a function of what it is asked."""

    name, provider, model = SCRIPT, "sim", "script"

    def __init__(self, world: World) -> None:
        self._world = world

    def ask(self, request: Request, *, timeout: float, **_: Any) -> Response:
        """See `Engine.ask`."""
        world = self._world
        world.check_begins("the model")
        world.scheduler.seam("ask", "the model")
        if world.chance(world.faults.model_away):
            raise NetworkError("the model is away", "sim", "wait")
        world.asked(request)
        text = json.dumps(request.plain(), sort_keys=True)
        slug = text.partition("THE STEP IS ")[2].partition(" ")[0]
        world.work()
        heard = sum(isinstance(turn, ToolTurn) for turn in request.turns)
        calls: list[tuple[str, dict[str, Any]]] = []
        if heard == 0:
            calls = [("write_file", {"path": f"{slug}.txt", "content": slug})]
            if "AND SEND" in text:
                calls.append(("send", {"to": slug}))
        elif heard == 1:
            calls = [("write_file", {"path": f"{slug}-2.txt", "content": slug})]
        elif heard == 2:
            calls = [("finish", {"status": "done", "summary": f"{slug} done"})]
        turn = ModelTurn(
            text=world.response_of(request),
            calls=tuple(Call(id=f"c{heard}{n}", name=name, arguments=given) for n, (name, given) in enumerate(calls)),
            provider="sim",
            raw={"heard": heard},
        )
        world.scheduler.seam("asked", "the model answers")
        return Response(turn=turn, usage=Usage(input=100, output=10), model="script", raw={}, usd=Decimal("0.01"))

    def close(self) -> None:
        """See `Engine.close`."""


class Locks:
    """`fcntl` for the runner's locks: the real `flock`, at which others may come in between."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __getattr__(self, name: str) -> Any:
        return getattr(fcntl, name)

    def flock(self, handle: int, operation: int) -> None:
        """See `fcntl.flock`."""
        if not operation & fcntl.LOCK_UN:
            self._world.scheduler.seam("lock", "flock")
        fcntl.flock(handle, operation)


def _watched(world: World, push: Callable[..., None]) -> Callable[..., None]:
    """Note which pushes are answered as done."""

    def watched(mirror: Mirror, changes: Mapping[str, tuple[str | None, str | None]], **named: Any) -> None:
        process = world.process
        if process is None:
            return push(mirror, changes, **named)
        process.is_unanswered = False
        push(mirror, changes, **named)
        world.check_answer(changes)

    return watched


@contextlib.contextmanager
def laid(world: World) -> Iterator[None]:
    """Be what is outside while the block lasts."""
    place = Sandbox(world)
    with (
        mock.patch("runner.sandbox.bubblewrap.Bubblewrap", lambda toolchains, user_namespaces, memory=None: place),
        mock.patch.object(registry, "open_engine", lambda name, environ, base: Script(world)),
        mock.patch("runner.tools.commands.exchange", exchange),
        mock.patch("runner.executor.workspace_session.toolchains", lambda path, home, known=(): ()),
        # The files of a workspace have real times, and a second of those may end anywhere in a seed.
        mock.patch("runner.store.workspace._is_older_than_index", lambda space: False),
        mock.patch("runner.store.objects.lend", lambda *_: None),  # no git runs in these workspaces
        mock.patch("runner.executor.workspace_session.end_all", lambda word: 0),
        mock.patch("runner.store.locks.fcntl", Locks(world)),
        mock.patch.object(Mirror, "push", _watched(world, Mirror.push)),
    ):
        yield
