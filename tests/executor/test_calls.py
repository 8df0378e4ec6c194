"""Calls that need a word, and calls that reach outside: judged, held, made once, and never twice in silence."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Box, clone, command
from tests.executor.minds import agent, finish, mind, say, sound, texts, transcript, write
from tests.people import Person, govern, person, push
from tests.tools.test_fetch import page, serving

WAITS = 3

# Functions that reach outside: each call is a line in a ledger beside the repository.
TOOLS = '''
import os, pathlib, signal

LEDGER = pathlib.Path({ledger!r})


def _line(text):
    handle = os.open(LEDGER, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(handle, (text + "\\n").encode())
    os.fsync(handle)
    os.close(handle)
    if (fall := LEDGER.with_name("fall")).exists():
        how = fall.read_text()
        fall.unlink()
        if how == "runner":
            os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)


def send_report(to: str, subject: str) -> str:
    """Send a report."""
    _line(f"{{to}} {{subject}}")
    return f"sent to {{to}}"


def pay(amount: int, ref: str = "") -> str:
    """Pay; the bank takes a reference."""
    if not LEDGER.exists() or ref not in LEDGER.read_text():
        _line(f"{{amount}} {{ref}}")
    return "paid"


def book(seat: int) -> str:
    """Book a seat."""
    _line(f"seat {{seat}}")
    return f"booked {{seat}}"


def find(seat: int) -> str | None:
    """Look up a seat."""
    known = LEDGER.read_text().splitlines() if LEDGER.exists() else []
    return f"found {{seat}}" if f"seat {{seat}}" in known else None


def deploy_prod(version: str) -> str:
    """Deploy."""
    _line(f"deploy {{version}}")
    return f"deployed {{version}}"


def fail() -> None:
    """Go wrong."""
    raise ValueError("no such thing")
'''
EFFECTS = "effects: {pay: {external: keyed, key: ref}, book: {external: probed, probe: find}, find: read}"
ANALYST = "name: analyst\nobjective: Looks after operations.\n"


def outside(box: Box, *, coworker: str = "", config: str = "") -> Path:
    """Put the functions onto the trusted branch; return the ledger. `coworker`: more of the analyst's file."""
    ledger = box.path.parent / f"ledger-{box.path.name}"
    box.write("ops.py", TOOLS.format(ledger=str(ledger)))
    listed = f"tools:\n  - module: ops\n    {EFFECTS}\n"
    if coworker:
        box.write(".protocols/agents/analyst.yaml", ANALYST + coworker.replace("TOOLS\n", listed))
        box.write(".protocols/config.yaml", config)
    else:
        box.write(".protocols/config.yaml", listed + config)
    box.commit("tools")
    push(box)
    return ledger


def lines(ledger: Path) -> list[str]:
    return ledger.read_text().splitlines() if ledger.exists() else []


def tool(name: str, more: str = "", **given: Any) -> str:
    """Return the front matter of a tool step."""
    return f"kind: tool\ntool: {name}\nwith: {json.dumps(given)}\n{more}"


def wait(box: Box, protocol: str) -> Any:
    (found,) = box.state(protocol)["waiting"]
    return found


def held(box: Box, protocol: str, call: str) -> Any:
    return json.loads(box.git("show", f"{protocol}:.protocols/{protocol}/calls/{call}.json"))


def results(box: Box, protocol: str, name: str) -> list[dict[str, Any]]:
    """Return the results of all calls of an attempt, in order."""
    return [
        one for record in transcript(box, protocol, name) if record["kind"] == "results" for one in record["results"]
    ]


@pytest.fixture
def alice(tmp_path: Path) -> Person:
    return person(tmp_path / "people", "carol")


def allow(box: Box, alice: Person, rules: str) -> None:
    """A policy whose maintainer is Alice, with rules."""
    from tests.people import policy

    govern(box, [alice], text=policy([alice], more=rules))


REPORT = ("send_report", {"to": "ops@example.test", "subject": "All well"})


# --- held calls ----------------------------------------------------------------------------------------------------------


def test_an_agents_external_call_waits_and_is_made_once_after_the_word(box: Box, alice: Person) -> None:
    ledger = outside(box, coworker='TOOLS\npolicies:\n  approval_required: ["send_report"]\n')
    allow(box, alice, "")
    script = [
        say(write("a.txt", "a\n"), REPORT, write("b.txt", "b\n")),
        finish("told them"),
    ]
    with mind(box, *script) as wire:
        protocol = box.new({"01-tell": agent("agent: analyst\n")})
        said = box.runner("run", protocol, rc=WAITS)
        assert "send_report to=ops@example.test" in said.err
        assert lines(ledger) == []
        state = box.state(protocol)
        assert state["steps"]["tell"]["status"] == "awaiting_approval"
        assert (state["spent"]["input_tokens"], state["waiting"][0]["kind"]) == (100, "call")
        assert box.git("show", f"{protocol}:a.txt") == "a\n"
        assert box.git("ls-tree", protocol, "b.txt") == ""
        found = held(box, protocol, "tell.1.2")
        assert (found["tool"], found["arguments"], found["source"]) == ("send_report", REPORT[1], "ops:send_report")
        assert found["code"].startswith("sha256:") and found["effect"] == "external"
        sound(box, protocol)
        box.runner("run", protocol, rc=WAITS)  # nobody said anything
        assert len(wire.bodies) == 1
        box.runner("approve", protocol, "--yes", env=alice.env, rc=0)
        box.runner("run", protocol, rc=0)
        assert wire.wrong == []
        assert len(wire.bodies) == 2
    assert lines(ledger) == ["ops@example.test All well"]
    assert "sent to ops@example.test" in texts(wire.bodies[1])
    assert box.git("show", f"{protocol}:b.txt") == "b\n"
    state = box.state(protocol)
    assert (state["status"], state["spent"]["input_tokens"]) == ("completed", 200)
    records = transcript(box, protocol, "tell.1")
    assert [one["kind"] for one in records[:6]] == ["response", "results", "held", "intent", "outcome", "results"]
    sent = results(box, protocol, "tell.1")[1]
    assert (sent["decision"]["word"], sent["decision"]["by"]) == ("approved", "carol@example.test")
    assert sent["decision"]["where"] == ".protocols/agents/analyst.yaml on main:7"
    sound(box, protocol)


@pytest.mark.slow
def test_a_rejected_call_is_told_to_the_model_with_the_reason_and_not_made(box: Box, alice: Person) -> None:
    ledger = outside(box)
    allow(box, alice, "")
    with mind(box, say(REPORT), finish("left it")) as wire:
        protocol = box.new({"01-tell": agent()})
        box.runner("run", protocol, rc=WAITS)
        said = box.runner("reject", protocol, "--yes", "-m", "not on a Friday", env=alice.env, rc=0).err
        assert "next          runner run 1" in said and "still needed" not in said
        assert "carol@example.test rejected: not on a Friday" in box.runner("status", protocol).out
        box.runner("run", protocol, rc=0)
        assert "rejected by carol@example.test" in box.runner("show", protocol, "tell", rc=0).out
        assert wire.wrong == []
    told = texts(wire.bodies[1])
    assert "rejected by carol@example.test" in told and "not on a Friday" in told
    assert lines(ledger) == []
    assert box.state(protocol)["status"] == "completed"
    sound(box, protocol)


def test_a_denied_call_is_told_with_the_rule_and_the_step_goes_on(box: Box, alice: Person) -> None:
    ledger = outside(box)
    allow(box, alice, "rules:\n  - deny: {tool: send_report}\n    reason: reports go out by hand\n")
    with mind(box, say(REPORT, write("a.txt", "a\n")), finish()) as wire:
        protocol = box.new({"01-tell": agent()})
        box.runner("run", protocol, rc=0)
        assert wire.wrong == []
    assert "reports go out by hand" in texts(wire.bodies[1])
    denied = results(box, protocol, "tell.1")[0]
    assert denied["error"] and denied["decision"]["verdict"] == "deny"
    assert "policy.yaml" in denied["decision"]["where"]
    assert lines(ledger) == []
    assert box.git("show", f"{protocol}:a.txt") == "a\n"
    sound(box, protocol)


def test_without_a_policy_an_external_call_waits_for_the_keyboard(box: Box) -> None:
    outside(box)
    with mind(box, say(REPORT), finish()):
        protocol = box.new({"01-tell": agent()})
        box.runner("run", protocol, rc=WAITS)
    assert wait(box, protocol)["by"] == "you, at a terminal"
    refused = box.runner("approve", protocol, "--yes")
    assert refused.code != 0  # a script is no keyboard
    assert box.state(protocol)["steps"]["tell"]["status"] == "awaiting_approval"
    sound(box, protocol)


def test_a_tool_that_a_coworker_lists_may_be_called_unless_its_file_asks(box: Box) -> None:
    ledger = outside(box, coworker='TOOLS\npolicies:\n  approval_required: ["deploy_prod"]\n')
    steps = {
        "01-tell": tool("send_report", "agent: analyst\n", to="ops", subject="x"),
        "02-ship": tool("deploy_prod", "agent: analyst\n", version="1.2"),
    }
    protocol = box.new(steps)
    box.runner("run", protocol, rc=WAITS)
    assert lines(ledger) == ["ops x"]
    assert wait(box, protocol)["text"] == "deploy_prod version=1.2"
    assert box.state(protocol)["steps"]["tell"]["result"] == "sent to ops"
    sound(box, protocol)


def test_a_tool_step_is_held_and_made_after_the_word(box: Box, alice: Person) -> None:
    ledger = outside(box)
    allow(box, alice, "")
    protocol = box.new({"01-ship": tool("deploy_prod", version="1.2"), "02-b": command("true")})
    box.runner("run", protocol, rc=WAITS)
    assert held(box, protocol, "ship.1.1")["arguments"] == {"version": "1.2"}
    assert lines(ledger) == []
    sound(box, protocol)
    box.runner("approve", protocol, "--yes", env=alice.env, rc=0)
    box.runner("run", protocol, rc=0)
    assert lines(ledger) == ["deploy 1.2"]
    assert box.state(protocol)["steps"]["ship"]["result"] == "deployed 1.2"
    sound(box, protocol)


@pytest.mark.parametrize("said", ["denied", "rejected"])
def test_a_tool_step_that_may_not_be_blocks(box: Box, alice: Person, said: str) -> None:
    ledger = outside(box)
    allow(box, alice, "rules: [{deny: {tool: deploy_prod}, reason: frozen}]\n" if said == "denied" else "")
    protocol = box.new({"01-ship": tool("deploy_prod", version="1.2")})
    box.runner("run", protocol, rc=WAITS)
    if said == "rejected":
        box.runner("reject", protocol, "--yes", "-m", "frozen", env=alice.env, rc=0)
        box.runner("run", protocol, rc=WAITS)
    state = box.state(protocol)
    assert (state["status"], state["steps"]["ship"]["status"]) == ("blocked", "blocked")
    assert f"{said} by" in state["steps"]["ship"]["reason"] and "frozen" in state["steps"]["ship"]["reason"]
    assert lines(ledger) == []
    sound(box, protocol)


@pytest.mark.slow
def test_a_held_call_goes_on_in_another_clone(remote: Box, alice: Person) -> None:
    ledger = outside(remote, config="publish: always\n")
    allow(remote, alice, "")
    script = [say(write("a.txt", "a\n"), REPORT), say(write("b.txt", "b\n")), finish()]
    with mind(remote, *script) as wire:
        protocol = remote.new({"01-tell": agent()})
        remote.runner("run", protocol, rc=WAITS)
        other = clone(remote, "bob")
        other.runner("sync", protocol, rc=0)
        other.runner("approve", protocol, "--yes", env=alice.env, rc=0)
        other.runner("run", protocol, rc=0)
        assert wire.wrong == []
        assert len(wire.bodies) == 3
    assert lines(ledger) == ["ops@example.test All well"]
    assert "".join(other.git("show", f"{protocol}:{name}") for name in ("a.txt", "b.txt")) == "a\nb\n"
    sound(other, protocol)


def test_bytes_that_were_changed_after_the_word_are_not_carried_out(box: Box, alice: Person) -> None:
    ledger = outside(box)
    allow(box, alice, "")
    protocol = box.new({"01-ship": tool("deploy_prod", version="1.2")})
    box.runner("run", protocol, rc=WAITS)
    at = box.worktree(protocol)
    file = at / ".protocols" / protocol / "calls/ship.1.1.json"
    file.write_text(file.read_text().replace("1.2", "6.6"))
    box.commit("sneak", cwd=at)
    box.runner("approve", protocol, "--yes", env=alice.env)
    box.runner("run", protocol)
    assert lines(ledger) == []


# --- whose words the context is ----------------------------------------------------------------------------------------


ALLOWED = "rules: [{allow: {tool: send_report}}]\n"


def test_untrusted_text_in_the_context_makes_an_allowed_call_ask(box: Box, alice: Person) -> None:
    ledger = outside(box)
    allow(box, alice, ALLOWED)
    with mind(box, say(write("a.txt", "a\n")), say(REPORT), finish()):
        protocol = box.new({"01-tell": agent()}, title="clean")
        box.runner("run", protocol, rc=0)
    assert len(lines(ledger)) == 1
    with mind(box, say(("read_file", {"path": "README.md"})), say(REPORT), finish()):
        protocol = box.new({"01-tell": agent()}, title="read")
        box.runner("run", protocol, rc=WAITS)
    assert "untrusted" in transcript(box, protocol, "tell.1")[-1]["decision"]["why"]
    with mind(box, say(REPORT), finish()):
        protocol = box.new({"01-a": command("echo text=x > $RUNNER_RESULT"), "02-tell": agent()}, title="fenced")
        box.runner("run", protocol, rc=WAITS)
    assert len(lines(ledger)) == 1


@pytest.mark.slow
def test_a_rule_may_allow_it_all_the_same(box: Box, alice: Person) -> None:
    ledger = outside(box)
    allow(box, alice, "rules: [{allow: {tool: send_report}, untrusted: allow}]\n")
    with mind(box, say(("read_file", {"path": "README.md"})), say(REPORT), finish()):
        box.runner("run", box.new({"01-tell": agent()}), rc=0)
    assert len(lines(ledger)) == 1


@pytest.mark.slow
def test_a_steps_result_in_a_tools_arguments_is_nobodys_word(box: Box, alice: Person) -> None:
    ledger = outside(box)
    allow(box, alice, ALLOWED)
    made = command("echo text=x > $RUNNER_RESULT")
    protocol = box.new({"01-a": made, "02-tell": tool("send_report", to="ops", subject="mine")}, title="own")
    box.runner("run", protocol, rc=0)
    given = tool("send_report", to="ops", subject="${{ steps.a.result.text }}")
    protocol = box.new({"01-a": made, "02-tell": given}, title="given")
    box.runner("run", protocol, rc=WAITS)
    assert lines(ledger) == ["ops mine"]


# --- on the host, nothing keeps a model's commands in ------------------------------------------------------------------


@pytest.mark.slow
def test_on_the_host_a_models_commands_are_there_under_a_policy_and_ask(box: Box, alice: Person) -> None:
    run = say(("run", {"argv": ["touch", "made.txt"]}))
    with mind(box, run, finish()) as wire:
        box.runner("run", box.new({"01-x": agent()}, title="none"), rc=0)
        assert "there is no tool `run`" in texts(wire.bodies[1])
    allow(box, alice, "")
    with mind(box, run, finish()):
        box.runner("run", box.new({"01-x": agent()}, title="asks"), rc=WAITS)
    allow(box, alice, "rules: [{allow: {tool: run, program: touch}}]\n")
    with mind(box, run, finish()):
        protocol = box.new({"01-x": agent()}, title="allowed")
        box.runner("run", protocol, rc=0)
    assert box.git("show", f"{protocol}:made.txt") == ""
    sound(box, protocol)


# --- killed around an effect ---------------------------------------------------------------------------------------------

# The real command line, which kills itself where it writes a record of some kind to the journal, or where refs move.
KILLED = """
import os, signal, sys
from runner.cli import main
from runner.executor.journal import Journal
from runner.git import Git

where, kind = sys.argv[1].split("-")

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def appending(self, record, append=Journal.append):
    if record.kind == kind and where == "before":
        die()
    append(self, record)
    if record.kind == kind and where == "torn":
        os.truncate(self.path, self._length - 20)
    if record.kind == kind:
        die()

def moving(self, *args, update=Git.update_refs, **more):
    if where == "before":
        die()
    update(self, *args, **more)
    die()

if kind == "refs":
    Git.update_refs = moving
else:
    Journal.append = appending
sys.exit(main.call(sys.argv[2:]))
"""
MOMENTS = [f"{where}-{kind}" for kind in ("intent", "outcome") for where in ("before", "torn", "after")] + [
    "before-refs",
    "after-refs",
    "in-runner",
    "in-tool",
]


def kill(box: Box, ledger: Path, moment: str, *args: str) -> None:
    """Run the command line until it, or the tool's process, is killed at the moment."""
    where, _, kind = moment.partition("-")
    if where == "in":
        ledger.with_name("fall").write_text(kind)
        code = box.start(*args)
        code.communicate(timeout=100)
        assert code.returncode == (-signal.SIGKILL if kind == "runner" else WAITS)
        assert not ledger.with_name("fall").exists()
        return
    done = subprocess.run(
        [sys.executable, "-c", KILLED, moment, *args],
        cwd=box.path,
        env={**box.environment(), "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, f"{moment}: {done.returncode} {done.stderr}"


def unknown(moment: str) -> bool:
    """Return whether nobody can know what came of the call: it was announced, and nothing says how it ended."""
    return moment in ("after-intent", "before-outcome", "torn-outcome", "in-runner", "in-tool")


def test_where_a_conflict_with_another_clone_is_settled_by_hand_no_effect_is_made_again(remote: Box) -> None:
    ledger = outside(remote, coworker="TOOLS\n")
    protocol = remote.new({"01-a": tool("send_report", "agent: analyst\n", **REPORT[1]), "02-b": command("true")})
    remote.runner("sync", protocol, rc=0)
    bob, tree = clone(remote, "bob"), remote.worktree(protocol)
    remote.runner("step", protocol, rc=0)
    (tree / "same.txt").write_text("ours\n")
    own = remote.commit("ours", cwd=tree)
    for words in (("pause",), ("resume",)):
        bob.runner(*words, protocol, rc=0)
    bob.git("checkout", "-q", protocol)
    bob.write("same.txt", "theirs\n")
    bob.commit("theirs")
    bob.runner("sync", protocol, rc=0)
    told = remote.runner("sync", protocol, rc=4).err
    (back,) = re.findall("`git (.* reset --keep .*?)`", told)
    remote.git(*back.split())
    assert "are made again" in remote.runner("doctor", "--fix", protocol, rc=0).err
    remote.git("cherry-pick", "-Xtheirs", own, cwd=tree)
    remote.runner("run", protocol, rc=0)
    assert len(lines(ledger)) == 1
    sound(remote, protocol)


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "code"), [("after-intent", WAITS), ("after-outcome", 0)])
def test_a_branch_that_was_reset_is_not_adopted_over_an_effect_that_would_be_forgotten(
    box: Box, moment: str, code: int
) -> None:
    ledger = outside(box, coworker="TOOLS\n")
    again = {**REPORT[1], "subject": "Still well"}
    steps = [tool("send_report", "agent: analyst\n", **given) for given in (REPORT[1], again)]
    protocol = box.new({"01-a": steps[0], "02-b": steps[1]})
    box.runner("step", protocol, rc=0)
    kill(box, ledger, moment, "step", protocol)
    box.git("reset", "-q", "--hard", "HEAD~1", cwd=box.worktree(protocol))
    before = box.git("for-each-ref")
    for _ in range(2):
        refused = box.runner("doctor", "--fix", protocol, rc=4).err
        assert "b.1.1" in refused and box.git("for-each-ref") == before
    (way,) = [line.split("`")[1] for line in refused.splitlines() if "next:" in line]
    box.git(*way.removeprefix("git ").split())
    box.runner("run", protocol, rc=code)
    assert len(lines(ledger)) == (2 if moment == "after-outcome" else 1)


@pytest.mark.parametrize(
    "moment",
    [pytest.param(one, marks=() if one == "in-tool" else [pytest.mark.slow, pytest.mark.window(3)]) for one in MOMENTS],
)
@pytest.mark.parametrize("kind", ["tool", pytest.param("agent", marks=pytest.mark.slow)])
def test_killed_around_an_effect_it_happens_once_or_a_person_is_asked(box: Box, moment: str, kind: str) -> None:
    ledger = outside(box, coworker="TOOLS\n")
    step = tool("send_report", "agent: analyst\n", **REPORT[1]) if kind == "tool" else agent("agent: analyst\n")
    with mind(box, say(REPORT), finish()) as wire:
        protocol = box.new({"01-tell": step, "02-b": command("true")})
        kill(box, ledger, moment, "step", protocol)
        box.runner("verify", protocol, rc=0)
        if unknown(moment):
            box.runner("run", protocol, rc=WAITS)
            found = wait(box, protocol)
            assert found["kind"] == "effect" and "it is unknown whether it happened" in found["text"]
            sound(box, protocol)
            assert box.runner("run", protocol).code == WAITS
            box.runner("answer", protocol, "perhaps", rc=2)
            box.runner("answer", protocol, "happened" if lines(ledger) else "did-not", rc=0)
        box.runner("run", protocol, rc=0)
        assert wire.wrong == []
        assert len(wire.bodies) == (2 if kind == "agent" else 0)
    assert lines(ledger) == ["ops@example.test All well"]
    state = box.state(protocol)
    assert state["status"] == "completed"
    known = moment not in ("in-runner", "in-tool", "before-outcome", "torn-outcome")
    if kind == "tool":
        assert state["steps"]["tell"]["result"] == ("sent to ops@example.test" if known else None)
    else:
        told = "sent to ops@example.test" if known else "a person says that it happened"
        assert told in texts(wire.bodies[1])
    sound(box, protocol)


@pytest.mark.parametrize(
    "moment",
    [
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("after-intent", "before-outcome", "in-runner")),
        "in-tool",
    ],
)
@pytest.mark.parametrize("name", ["pay", "book"])
def test_a_call_that_can_be_repeated_or_looked_up_needs_nobody(box: Box, moment: str, name: str) -> None:
    ledger = outside(box, coworker="TOOLS\n")
    given = {"amount": 5} if name == "pay" else {"seat": 7}
    protocol = box.new({"01-x": tool(name, "agent: analyst\n", **given)})
    if moment == "in-tool":
        ledger.with_name("fall").write_text("tool")
    else:
        kill(box, ledger, moment, "step", protocol)
    box.runner("run", protocol, rc=0)
    assert len(lines(ledger)) == 1
    result = box.state(protocol)["steps"]["x"]["result"]
    assert result == ("paid" if name == "pay" else "booked 7" if moment == "after-intent" else "found 7")
    sound(box, protocol)


@pytest.mark.parametrize("effect", ["read", "workspace", "{external: keyed, key: version}", "{external: never}"])
def test_a_killed_call_of_a_python_tool_is_retried_where_its_effect_allows(box: Box, effect: str) -> None:
    """What only reads, or what the workspace takes back, is made again, and so is what the target knows by its key; no other."""
    listed = f"tools:\n  - module: ops\n    effects: {{deploy_prod: {effect}}}\n"
    ledger = outside(box, coworker=listed)
    given = {} if "keyed" in effect else {"version": "1"}
    protocol = box.new({"01-x": tool("deploy_prod", "agent: analyst\n", **given)})
    kill(box, ledger, "in-runner", "run", protocol)
    may_repeat = "never" not in effect
    box.runner("run", protocol, rc=0 if may_repeat else WAITS)
    made = lines(ledger)
    assert len(made) == (2 if may_repeat else 1) and len(set(made)) == 1  # with the same key
    assert box.state(protocol)["steps"]["x"]["attempt"] == 1
    if not may_repeat:
        assert wait(box, protocol)["kind"] == "effect"
        box.runner("answer", protocol, "did-not", rc=0)  # then a person says so
        box.runner("run", protocol, rc=0)
        assert lines(ledger) == made * 2
    sound(box, protocol)


@pytest.mark.slow
def test_a_call_that_was_begun_is_not_made_again_where_the_policy_denies_it_now(box: Box, alice: Person) -> None:
    ledger = outside(box, coworker="TOOLS\n")
    protocol = box.new({"01-x": tool("pay", "agent: analyst\n", amount=5)})
    kill(box, ledger, "after-intent", "step", protocol)
    allow(box, alice, "rules: [{deny: {tool: pay}, reason: no money}]\n")
    box.runner("run", protocol, rc=WAITS)  # keyed, and yet a person has to look
    assert wait(box, protocol)["kind"] == "effect"
    box.runner("answer", protocol, "did-not", rc=0)
    box.runner("run", protocol, rc=WAITS)
    assert "no money" in box.state(protocol)["steps"]["x"]["reason"]
    assert lines(ledger) == []
    sound(box, protocol)


@pytest.mark.slow
def test_an_effect_of_a_step_that_is_called_otherwise_now_is_found_again(box: Box) -> None:
    ledger = outside(box, coworker="TOOLS\n")
    step = tool("send_report", "agent: analyst\n", **REPORT[1])
    protocol = box.new({"01-tell": step})
    kill(box, ledger, "in-runner", "step", protocol)
    at = box.worktree(protocol) / ".protocols" / protocol
    (at / "01-tell.md").rename(at / "01-other.md")
    box.commit("renamed", cwd=at)
    box.runner("run", protocol, rc=WAITS)
    assert (wait(box, protocol)["kind"], wait(box, protocol)["subject"]) == ("effect", "other")
    box.runner("answer", protocol, "happened", rc=0)
    box.runner("run", protocol, rc=0)
    assert len(lines(ledger)) == 1
    sound(box, protocol)


@pytest.mark.slow
@pytest.mark.window(2)
@pytest.mark.parametrize("moment", ["after-outcome", "after-settled"])
@pytest.mark.parametrize("named", ["01-tell.md", "01-other.md"])
def test_killed_while_it_takes_up_that_it_happened_it_is_not_made_again(box: Box, moment: str, named: str) -> None:
    ledger = outside(box, coworker="TOOLS\n")
    protocol = box.new({"01-tell": tool("send_report", "agent: analyst\n", **REPORT[1])})
    kill(box, ledger, "in-runner", "step", protocol)
    at = box.worktree(protocol) / ".protocols" / protocol
    if named != "01-tell.md":  # the announcement is in another journal then
        (at / "01-tell.md").rename(at / named)
        box.commit("renamed", cwd=at)
    box.runner("run", protocol, rc=WAITS)
    box.runner("answer", protocol, "happened", rc=0)
    kill(box, ledger, moment, "run", protocol)
    box.runner("run", protocol, rc=0)
    assert lines(ledger) == ["ops@example.test All well"]
    assert box.state(protocol)["status"] == "completed"
    sound(box, protocol)


@pytest.mark.slow
@pytest.mark.window(2)
@pytest.mark.parametrize("moment", ["after-outcome", "after-settled"])
@pytest.mark.parametrize("name", ["pay", "book"])
def test_killed_while_it_looks_whether_it_happened_it_is_not_made_again(box: Box, moment: str, name: str) -> None:
    ledger = outside(box, coworker="TOOLS\n")
    protocol = box.new({"01-x": tool(name, "agent: analyst\n", **({"amount": 5} if name == "pay" else {"seat": 7}))})
    kill(box, ledger, "in-runner", "step", protocol)
    at = box.worktree(protocol) / ".protocols" / protocol
    (at / "01-x.md").rename(at / "01-y.md")
    box.commit("renamed", cwd=at)
    kill(box, ledger, moment, "run", protocol)
    box.runner("run", protocol, rc=0)
    assert len(lines(ledger)) == 1
    sound(box, protocol)


@pytest.mark.slow
def test_while_one_is_open_no_other_effect_begins(box: Box) -> None:
    ledger = outside(box, coworker="TOOLS\n")
    steps = {
        "01-tell": tool("send_report", "agent: analyst\nneeds: []\n", **REPORT[1]),
        "02-ship": tool("deploy_prod", "agent: analyst\nneeds: []\n", version="1"),
    }
    protocol = box.new(steps)
    kill(box, ledger, "in-runner", "step", protocol)
    done = box.runner("step", protocol, "--step", "ship", rc=WAITS)  # the one before is put to a person first
    assert "send_report" in done.err and lines(ledger) == ["ops@example.test All well"]
    assert wait(box, protocol)["kind"] == "effect"
    box.runner("answer", protocol, "happened", rc=0)
    box.runner("run", protocol, rc=0)
    assert sorted(lines(ledger)) == ["deploy 1", "ops@example.test All well"]
    sound(box, protocol)


@pytest.mark.slow
def test_a_reference_to_a_result_that_nobody_knows_blocks(box: Box) -> None:
    ledger = outside(box, coworker="TOOLS\n")
    steps = {
        "01-book": tool("send_report", "agent: analyst\n", **REPORT[1]),
        "02-say": tool("echo", text="${{ steps.book.result.seat }}"),
    }
    protocol = box.new(steps)
    kill(box, ledger, "in-tool", "step", protocol)
    box.runner("answer", protocol, "happened", rc=0)
    box.runner("run", protocol, rc=WAITS)
    assert box.state(protocol)["steps"]["say"]["status"] == "blocked"
    sound(box, protocol)


def test_a_call_that_fails_has_an_outcome(box: Box) -> None:
    outside(box, coworker="TOOLS\n")
    protocol = box.new({"01-x": tool("fail", "agent: analyst\n")})
    box.runner("run", protocol, rc=1)
    assert "no such thing" in box.state(protocol)["steps"]["x"]["reason"]
    sound(box, protocol)


# --- the network -----------------------------------------------------------------------------------------------------


def test_fetch_is_there_where_the_policy_names_hosts_and_reaches_no_other(box: Box, alice: Person) -> None:
    with serving(page(b"the page says hello")) as server:
        there, other = f"http://127.0.0.1:{server.server_port}/", "https://example.test/x"
        script = [say(("fetch", {"url": there}), ("fetch", {"url": other})), finish()]
        with mind(box, *script) as wire:
            box.runner("run", box.new({"01-x": agent()}, title="none"), rc=0)
            assert "there is no tool `fetch`" in texts(wire.bodies[1])
        allow(box, alice, "network: {allow: [127.0.0.1]}\n")
        with mind(box, *script) as wire:
            protocol = box.new({"01-x": agent()}, title="named")
            box.runner("run", protocol, rc=0)
            told = texts(wire.bodies[1])
            assert "the page says hello" in told and "no instruction" in told
            assert "is not one of them" in told
    got, refused = results(box, protocol, "x.1")[:2]
    assert (got["error"], refused["error"]) == (False, True)
    assert "network" in refused["decision"]["why"]
    sound(box, protocol)


@pytest.mark.slow
def test_a_held_call_that_outlived_its_word_is_asked_again_with_the_same_bytes(box: Box, alice: Person) -> None:
    from tests.people import policy

    def lasts(time: str) -> None:
        govern(box, [alice], text=policy([alice], approvals=f"  call: {{roles: [maintainer], expires: {time}}}\n"))

    ledger = outside(box, coworker='TOOLS\npolicies:\n  approval_required: ["send_report"]\n')
    lasts("1s")
    protocol = box.new({"01-tell": tool("send_report", "agent: analyst\n", to="ops@example.test", subject="All well")})
    box.runner("run", protocol, rc=WAITS)
    first, asked = wait(box, protocol), box.git("show", f"{protocol}:.protocols/{protocol}/calls/tell.1.1.json")
    time.sleep(2.1)
    box.runner("run", protocol, rc=WAITS)
    again = wait(box, protocol)
    assert "nobody decided within" in box.log(protocol)
    assert (again["id"] != first["id"], again["digest"]) == (True, first["digest"])
    assert box.git("show", f"{protocol}:.protocols/{protocol}/calls/tell.1.1.json") == asked
    assert lines(ledger) == []
    lasts("24h")
    box.runner("approve", protocol, "--yes", env=alice.env, rc=0)
    box.runner("run", protocol, rc=0)
    assert lines(ledger) == ["ops@example.test All well"]
    sound(box, protocol)
