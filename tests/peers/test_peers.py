"""What comparable tools do where the runner is killed, or waits for a yes; the same with the runner, beside it.

Each peer is installed as pinned, by itself, and started as its own documentation begins, with its durable storage on a file. What it
does is stated as its documentation states it: none of this is a fault of theirs, each says so. A peer that cannot be installed here
is no failure. `docs/reliability.md` has the results.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from benchmarks.peers.installing import Missing, Pin, install
from tests.conftest import Box, command
from tests.executor.test_calls import allow, kill, lines, outside, tool, wait
from tests.people import Person, governed, person

ROOT = Path(__file__).parents[2]
PINS = {
    "langgraph": ("langgraph==1.2.22", "langgraph-checkpoint-sqlite==3.1.2"),
    "dbos": ("dbos==3.4.0",),
    "huey": ("huey==3.5.4",),
}
LIMIT = 600.0  # seconds that a peer may take to be installed, or to do its part

pytestmark = [pytest.mark.peers, pytest.mark.timeout(1800)]


def python_of(name: str) -> Path:
    """Return the Python that has a peer; the test is skipped where there is none to be had."""
    found = install(Pin("pip", PINS[name], "python"), ROOT / "build/peers" / f"of-{name}", limit=LIMIT)
    if isinstance(found, Missing):
        pytest.skip(f"allowed: {name} is {found.reason}")
    return found


def start(name: str, folder: Path, text: str, *args: str) -> subprocess.Popen[str]:
    """Start a program that uses a peer, in a folder of its own."""
    (folder / "app.py").write_text(text)
    argv = [str(python_of(name)), "app.py", *args]
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8"}
    return subprocess.Popen(argv, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, start_new_session=True)  # fmt: skip


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, _ = process.communicate(timeout=LIMIT)
    return process.returncode, out


# Each part that reaches outside is a line of this file.
EFFECT = """
import os, signal, sys

def effect(what):
    handle = os.open("effects", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(handle, (what + "\\n").encode())
    os.close(handle)
"""

# --- a yes: is what was done before it done again? ---------------------------------------------------------------------

LANGGRAPH = (
    EFFECT
    + """
from typing import TypedDict
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

class State(TypedDict):
    said: str

def deploy(state):
    effect("prepared")
    return {"said": interrupt("deploy?")}

with SqliteSaver.from_conn_string("state.db") as saver:
    graph = StateGraph(State).add_node("deploy", deploy).add_edge(START, "deploy").add_edge("deploy", END).compile(saver)
    thread = {"configurable": {"thread_id": "1"}}
    print(graph.invoke({"said": ""} if sys.argv[1] == "ask" else Command(resume="yes"), thread))
"""
)


def test_langgraph_runs_what_came_before_an_interrupt_again_with_the_answer(tmp_path: Path) -> None:
    """A node that was interrupted begins again from its first line, its documentation says; what it did before has to bear that."""
    for word in ("ask", "yes"):
        code, out = ended(start("langgraph", tmp_path, LANGGRAPH, word))
        assert code == 0, out
    assert lines(tmp_path / "effects") == ["prepared", "prepared"]


def test_the_runner_goes_on_from_the_yes(tmp_path: Path) -> None:
    alice, effects = person(tmp_path, "alice"), tmp_path / "effects"
    box = governed(tmp_path / "repo", [alice])
    protocol = box.new({"01-deploy": command(f"echo prepared >> {effects}; echo a > a.txt", "approval: after\n")})
    box.runner("run", protocol, rc=3)
    box.runner("approve", protocol, "--yes", rc=0, env=alice.env)
    box.runner("run", protocol, rc=0)
    assert lines(effects) == ["prepared"]


# --- kill -9 while something reaches outside: does it happen again? ------------------------------------------------------

DBOS = (
    EFFECT
    + """
from dbos import DBOS, SetWorkflowID

DBOS(config={"name": "app", "system_database_url": "sqlite:///state.db", "run_admin_server": False})

@DBOS.step()
def pay():
    effect("paid")
    if sys.argv[1] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return "ok"

@DBOS.workflow()
def work():
    return pay()

DBOS.launch()  # which recovers what was pending
with SetWorkflowID("1"):
    print(DBOS.start_workflow(work).get_result())
DBOS.destroy()
"""
)


def test_dbos_does_the_step_in_flight_again(tmp_path: Path) -> None:
    """Steps happen at least once, its documentation says: one that had no time to be recorded is executed on recovery."""
    code, out = ended(start("dbos", tmp_path, DBOS, "die"))
    assert code == -signal.SIGKILL, out
    code, out = ended(start("dbos", tmp_path, DBOS, "go on"))
    assert code == 0 and "ok" in out, out
    assert lines(tmp_path / "effects") == ["paid", "paid"]


@pytest.fixture
def alice(tmp_path: Path) -> Person:
    return person(tmp_path / "people", "carol")


def test_the_runner_does_not_make_the_call_again_and_asks(box: Box, alice: Person) -> None:
    effects = outside(box, coworker="TOOLS\n")
    allow(box, alice, "")
    step = tool("send_report", "agent: analyst\n", to="ops@example.test", subject="All well")
    protocol = box.new({"01-tell": step, "02-b": command("true")})
    kill(box, effects, "in-runner", "step", protocol)
    box.runner("run", protocol, rc=3)
    assert wait(box, protocol)["kind"] == "effect" and len(lines(effects)) == 1
    box.runner("answer", protocol, "happened", rc=0)
    box.runner("run", protocol, rc=0)
    assert len(lines(effects)) == 1 and box.state(protocol)["status"] == "completed"


# --- kill -9 while something is at work: is it still known that it is to be done? -----------------------------------------

HUEY = (
    EFFECT
    + """
import time
from huey import SqliteHuey

huey = SqliteHuey(filename="queue.db")

@huey.task()
def work():
    effect("began")
    time.sleep(3600 if os.path.exists("slow") else 0)
    effect("ended")

if sys.argv[1] == "queue":
    work()
elif sys.argv[1] == "count":
    print(f"pending {len(huey.pending())}")
else:
    huey.create_consumer(workers=1).run()
"""
)


def test_huey_forgets_the_task_that_a_killed_worker_had(tmp_path: Path) -> None:
    """A task leaves the queue as a worker takes it, and nothing gives it back: no acknowledgement, its documentation says."""
    assert ended(start("huey", tmp_path, HUEY, "queue"))[0] == 0
    assert "pending 1" in ended(start("huey", tmp_path, HUEY, "count"))[1]
    (tmp_path / "slow").touch()
    worker = start("huey", tmp_path, HUEY, "work")
    until(lambda: lines(tmp_path / "effects") == ["began"], worker)
    os.killpg(worker.pid, signal.SIGKILL)
    worker.communicate()
    (tmp_path / "slow").unlink()
    assert "pending 0" in ended(start("huey", tmp_path, HUEY, "count"))[1]
    # A worker that comes afterwards does what is queued later, and never the one that was lost.
    assert ended(start("huey", tmp_path, HUEY, "queue"))[0] == 0
    again = start("huey", tmp_path, HUEY, "work")
    until(lambda: "ended" in lines(tmp_path / "effects"), again)
    os.killpg(again.pid, signal.SIGKILL)
    again.communicate()
    assert lines(tmp_path / "effects") == ["began", "began", "ended"]


def until(holds: object, process: subprocess.Popen[str]) -> None:
    """Wait till something holds, as long as a program runs."""
    assert callable(holds)
    end = time.monotonic() + LIMIT
    while not holds():
        assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
        time.sleep(0.1)


def test_the_runner_still_knows_what_was_at_work_and_ends_it(box: Box) -> None:
    began, slow = box.path.parent / "began", box.path.parent / "slow"
    slow.touch()
    line = f"echo began >> {began}; test ! -e {slow} || sleep 3600; echo a > a.txt"
    protocol = box.new({"01-a": command(line)})
    process = box.start("run", protocol)
    until(lambda: lines(began) == ["began"], process)
    process.kill()
    process.communicate()
    slow.unlink()
    box.runner("run", protocol, rc=0)
    assert box.state(protocol)["steps"]["a"]["status"] == "completed" and lines(began) == ["began", "began"]
    box.runner("verify", protocol, rc=0)
