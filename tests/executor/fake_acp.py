"""A coding agent that speaks ACP and does what the task says: one line of it each.

`edit PATH TEXT` asks for permission and writes; `sneak PATH` writes without asking; `miss PATH` fails before it asks; `exec COMMAND`
asks and runs, `execs COMMAND && COMMAND` both by one call; `say TEXT` speaks; `fail` ends the process; `leave` leaves its mode; `hang`
waits, once; `model` asks its model;
`half` tells of a call with half a letter; `tool SERVER NAME HOW` calls a server's tool, but if it was told of that call's result;
`pose SERVER NAME PATH` asks as if it called that tool, and writes the file; `limit TEXT` ends its turn with an error, once.
By the client, as it offers: `read PATH`, `write PATH TEXT`, `run COMMAND` (in a terminal), `asked COMMAND` (after a permission),
`start COMMAND` and `stop` (killed), `in FOLDER COMMAND`.
It needs nothing but Python.
"""

import json
import os
import pathlib
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import Any

mode, session, opened, asked = "yolo", "", "", 0
started: list[str] = []
SERVERS: dict[str, str] = {}
MODES = {"currentModeId": "yolo", "availableModes": [{"id": "yolo", "name": "Y"}, {"id": "ask", "name": "A"}]}
STORE = pathlib.Path(os.environ["HOME"]) / "sessions"
RESUMES, LOADS = "--resume" in sys.argv, "--load" in sys.argv


def send(**message: Any) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def update(**fields: Any) -> None:
    send(method="session/update", params={"sessionId": session, "update": fields})


def told(text: str) -> None:
    update(sessionUpdate="agent_message_chunk", content={"type": "text", "text": text + "\n"})


def permission(call: dict[str, Any]) -> str:
    """Ask; return the kind of the answer."""
    global asked
    asked += 1
    options = [("n", "reject_once"), ("a", "allow_always"), ("y", "allow_once")]
    send(
        id=f"p{asked}",
        method="session/request_permission",
        params={
            "sessionId": session,
            "toolCall": call,
            "options": [{"optionId": i, "name": kind, "kind": kind} for i, kind in options],
        },
    )
    while True:
        answer = json.loads(sys.stdin.readline())
        if answer.get("id") == f"p{asked}":
            outcome = answer["result"]["outcome"]
            return dict(options).get(outcome.get("optionId"), "cancelled")


def client(method: str, **params: Any) -> dict[str, Any]:
    """Have the client do something; return its result, or its error."""
    global asked
    asked += 1
    send(id=f"c{asked}", method=method, params={"sessionId": session, **params})
    while True:
        answer = json.loads(sys.stdin.readline())
        if answer.get("id") == f"c{asked}":
            found: dict[str, Any] = answer.get("result", answer.get("error"))
            return found


def ended(terminal: str) -> str:
    """Wait for the end of a command; return what came of it."""
    status = client("terminal/wait_for_exit", terminalId=terminal)
    said = client("terminal/output", terminalId=terminal)
    client("terminal/release", terminalId=terminal)
    return f"{status['exitCode']}/{status['signal']} {said['output']!r} {said['truncated']}"


def by_client(number: int, word: str, rest: str) -> str:
    """Do a line by the client; return what came of it."""
    path, _, text = rest.partition(" ")
    place = str(pathlib.Path.cwd() / path)
    name = f"call-{os.getpid()}-{number}"
    if word == "read":
        found = (
            client("fs/read_text_file", path=place, line=2, limit=1)
            if text
            else client("fs/read_text_file", path=place)
        )
        return json.dumps(found)
    if word == "write":
        call: dict[str, Any] = {"toolCallId": name, "title": f"Write {path}", "kind": "edit"}
        call["locations"] = [{"path": place}]
        update(sessionUpdate="tool_call", status="in_progress", **call)
        found = client("fs/write_text_file", path=place, content=text + "\n")
        update(sessionUpdate="tool_call_update", toolCallId=name, status="failed" if found else "completed")
        return json.dumps(found)
    if word == "stop":
        client("terminal/kill", terminalId=started[-1])
        return ended(started[-1])
    folder, command = (place, text) if word == "in" else (None, rest)
    call = {"toolCallId": name, "title": command, "kind": "execute", "rawInput": {"command": command}}
    if word == "asked" and permission(call) != "allow_once":
        return "not permitted"
    update(sessionUpdate="tool_call", status="in_progress", **call)
    shell = ("sh", ["-c", command]) if word == "start" else (command, None)
    more: dict[str, Any] = {"args": shell[1]} if shell[1] else {}
    more |= {"cwd": folder} if folder else {}
    found = client("terminal/create", command=shell[0], outputByteLimit=2000, **more)
    status = "failed" if "code" in found else "completed"
    if word == "start":
        started.append(found["terminalId"])
        return "started"
    said = found["message"] if status == "failed" else ended(found["terminalId"])
    update(sessionUpdate="tool_call_update", toolCallId=name, status=status)
    return said


def model() -> str:
    """Ask the model at the endpoint; return its status and how many times it was asked."""
    body = json.dumps({"model": "m"}).encode()
    asked = urllib.request.Request(
        f"{os.environ['MODEL_URL']}/chat/completions", body, {"Authorization": "Bearer mine"}
    )
    try:
        with urllib.request.urlopen(asked, timeout=20) as answer:
            answer.read()
            return str(answer.status)
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.read().decode()}"


def mcp(server: str, method: str, **params: Any) -> Any:
    """Ask one of the servers that it was given; return its result."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    kinds = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    with urllib.request.urlopen(urllib.request.Request(SERVERS[server], body, kinds), timeout=60) as answer:
        said = json.loads(answer.read())
    return said.get("result") or said["error"]


def tool(number: int, server: str, name: str, how: str) -> str:
    """Call a tool, and tell of that as other calls are told of."""
    assert mcp(server, "initialize", protocolVersion="2025-06-18", capabilities={})["capabilities"]["tools"] == {}
    listed = [one["name"] for one in mcp(server, "tools/list")["tools"]]
    call = {"toolCallId": f"tool-{os.getpid()}-{number}", "title": f"mcp__{server}__{name}", "kind": "other"}
    update(sessionUpdate="tool_call", status="pending", rawInput={"how": how}, **call)
    if permission(call | {"rawInput": {"how": how}}) != "allow_once":
        return "not permitted"
    update(sessionUpdate="tool_call_update", toolCallId=call["toolCallId"], status="in_progress")
    said = mcp(server, "tools/call", name=name, arguments={"how": how})
    status = "failed" if said.get("isError", True) else "completed"
    update(sessionUpdate="tool_call_update", toolCallId=call["toolCallId"], status=status)
    return f"{name} of {listed}: {said.get('isError')} {said.get('content', [said])[0].get('text')}"


def turn(text: str) -> None:
    for number, line in enumerate(text.splitlines()):
        word, _, rest = line.strip().partition(" ")
        name = f"call-{os.getpid()}-{number}"
        if word in ("edit", "sneak", "miss"):
            path, _, content = rest.partition(" ")
            place = pathlib.Path.cwd() / path
            call = {
                "toolCallId": name,
                "title": f"Write {path}",
                "kind": "edit",
                "status": "pending",
                "locations": [{"path": str(place)}],
                "rawInput": {"file_path": str(place), "content": content},
            }
            update(sessionUpdate="tool_call", **call)
            kind = permission(call) if word == "edit" else "none" if word == "sneak" else "not asked"
            if kind in ("none", "allow_once"):
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(content + "\n")
            update(
                sessionUpdate="tool_call_update",
                toolCallId=name,
                status="completed" if kind in ("none", "allow_once") else "failed",
            )
            told(f"{path} {word}: {kind}")
        elif word in ("exec", "execs"):
            call = {
                "toolCallId": name,
                "title": rest,
                "kind": "execute",
                "status": "pending",
                "rawInput": {"command": rest} if word == "exec" else {"commands": rest.split(" && ")},
            }
            update(sessionUpdate="tool_call", **call)
            kind = permission(call)
            if kind == "allow_once":
                subprocess.run(rest, shell=True)
            update(
                sessionUpdate="tool_call_update",
                toolCallId=name,
                status="completed" if kind == "allow_once" else "failed",
            )
            told(f"exec: {kind}")
        elif word == "tool" and f"did {rest.split()[-1]}" not in text:
            told(tool(number, *rest.split()))
        elif word == "pose":
            title, path = rest.split()[1:]
            call = {"toolCallId": name, "title": title, "kind": "other", "rawInput": {"how": path}}
            update(sessionUpdate="tool_call", status="pending", **call)
            if permission(call) == "allow_once":
                place = pathlib.Path.cwd() / path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text("posed\n")
                update(sessionUpdate="tool_call_update", toolCallId=name, status="completed")
        elif word in ("read", "write", "run", "asked", "start", "stop", "in"):
            told(f"{word}: {by_client(number, word, rest)}")
        elif word == "limit" and not (STORE / "limited").exists():
            (STORE / "limited").write_text("")
            raise OverflowError(rest)
        elif word == "model":
            told(f"model: {model()}")
        elif word == "show":
            told("env " + " ".join(sorted(os.environ)))
        elif word == "say":
            told(rest)
        elif word == "half":
            update(sessionUpdate="tool_call", toolCallId=name, title="cut \ud83d", kind="think", status="completed")
        elif word == "leave":
            update(sessionUpdate="current_mode_update", currentModeId="yolo")
        elif word == "fail":
            sys.stderr.write("it broke\n")
            sys.exit(7)
        elif word == "hang" and not (STORE / "hung").exists():
            (STORE / "hung").write_text("")
            time.sleep(600)


for row in sys.stdin:
    message = json.loads(row)
    method, params, number = message.get("method"), message.get("params", {}), message.get("id")
    if method == "initialize":
        can: dict[str, Any] = {"loadSession": LOADS, "mcpCapabilities": {"http": "--deaf" not in sys.argv}}
        can |= {"sessionCapabilities": {"resume": {}}} if RESUMES else {}
        send(id=number, result={"protocolVersion": 1, "agentCapabilities": can})
    elif method == "session/new":
        SERVERS = {one["name"]: one["url"] for one in params["mcpServers"] if one["type"] == "http"}
        opened, session = method, f"session-{os.getpid()}-{time.time_ns()}"
        STORE.mkdir(exist_ok=True)
        (STORE / session).write_text("")
        send(id=number, result={"sessionId": session, "modes": MODES})
    elif method in ("session/resume", "session/load"):
        opened, session = method, params["sessionId"]
        if LOADS:  # it tells of all that was
            told("as it was before")
            before = {"toolCallId": "of-old", "title": "true", "kind": "execute", "rawInput": {"command": "true"}}
            update(sessionUpdate="tool_call", status="completed", **before)
        SERVERS = {one["name"]: one["url"] for one in params["mcpServers"]}
        if (STORE / session).exists():
            send(id=number, result={"modes": MODES})
        else:
            send(id=number, error={"code": -32602, "message": "no such session"})
    elif method == "session/set_mode":
        mode = params["modeId"]
        send(id=number, result={})
    elif method == "session/prompt":
        text = params["prompt"][0]["text"]
        told(f"mode {mode}, opened by {opened}")
        with (STORE / session).open("a") as file:
            file.write(text)
        if RESUMES or LOADS:  # it remembers the task
            text = (STORE / session).read_text()
        try:
            turn(text)
        except OverflowError as error:
            send(id=number, error={"code": -32603, "message": "Internal error", "data": {"details": str(error)}})
            continue
        update(sessionUpdate="usage_update", used=10, size=100, cost={"amount": 0.25, "currency": "USD"})
        send(
            id=number,
            result={"stopReason": "end_turn", "usage": {"totalTokens": 30, "inputTokens": 20, "outputTokens": 10}},
        )
