"""What a model says over the local wire endpoint, and a person's environment that leads there."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tests.conftest import Box
from tests.engines.wire_gemini import KEY, Answer, Reply, Wire, serving

ENGINE = "gemini:gemini-2.5-flash"
Action = Mapping[str, Any]


def say(*calls: tuple[str, Action], text: str = "", tokens: tuple[int, int] = (100, 20)) -> Answer:
    """Return a model's turn: text, and calls of tools."""
    parts: list[Any] = [{"text": text}] if text else []
    parts += [{"functionCall": {"name": name, "args": dict(arguments)}} for name, arguments in calls]
    usage = {"promptTokenCount": tokens[0], "candidatesTokenCount": tokens[1], "totalTokenCount": sum(tokens)}
    return Answer(pieces=[parts or [{"text": ""}]], usage=usage, model="gemini-2.5-flash")


def write(path: str, text: str) -> tuple[str, Action]:
    """Return a call that writes a file."""
    return ("write_file", {"path": path, "content": text})


def finish(summary: str = "done", status: str = "done", **result: Any) -> Answer:
    """Return the turn that ends a step."""
    return say(("finish", {"status": status, "summary": summary, **({"result": result} if result else {})}))


def ask(question: str) -> tuple[str, Action]:
    """Return a call that asks a person."""
    return ("ask_person", {"question": question})


def agent(more: str = "", engine: str = ENGINE) -> str:
    """Return the front matter of an agent step."""
    return f"kind: agent\nengine: {engine}\n{more}"


class Script(list[Reply]):
    """Replies; before one of them is given, something happens in the world."""

    def __init__(self, *replies: Reply) -> None:
        super().__init__(replies)
        self.before: dict[int, Callable[[], object]] = {}

    def __getitem__(self, number: Any) -> Any:
        if number in self.before:
            self.before[number]()
        return super().__getitem__(number)


@contextlib.contextmanager
def mind(box: Box, *replies: Reply) -> Iterator[Wire]:
    """Serve what a model says while the block lasts, and set the person's key and endpoint for it."""
    with serving() as wire:
        wire.script = Script(*replies)
        lead(box, wire.url)
        yield wire


def lead(box: Box, url: str) -> None:
    """Set the person's key and endpoint."""
    box.env.update({"GEMINI_API_KEY": KEY, "GOOGLE_GEMINI_BASE_URL": url, "NO_PROXY": "*"})


def sound(box: Box, protocol: str) -> None:
    """The record verifies, the repository is whole, and people's checkouts are as they left them."""
    box.runner("verify", protocol, rc=0)
    assert box.git("fsck", "--no-dangling", "--no-progress") == ""
    assert box.git("status", "--porcelain") == ""
    if box.runner("show", protocol, "--json", rc=0).json()["path"] is not None:
        assert box.git("status", "--porcelain", cwd=box.worktree(protocol)) == ""


def transcript(box: Box, protocol: str, name: str) -> list[dict[str, Any]]:
    """Return the records of a transcript in the history."""
    lines = box.git("show", f"refs/runner/history/{protocol}:runs/{name}.jsonl").splitlines()
    return [json.loads(line) for line in lines]


def texts(body: Any) -> str:
    """Return all text that a request says, for looking something up in it."""
    parts = itertools.chain.from_iterable(content["parts"] for content in body["contents"])
    return "\n".join(json.dumps(part) if "text" not in part else part["text"] for part in parts)
