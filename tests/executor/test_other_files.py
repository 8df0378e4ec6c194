"""Coworker files in the form that TaskCraft gives them: they are read as they are written there, halt, and finish after a word."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.conftest import Box, command
from tests.executor.minds import ENGINE, finish, mind, say, sound
from tests.people import govern, person, policy

WAITS = 3

# Keys, nesting and quoting as there: a name with a space, a description, a module without effects, a list below policies.
ANALYST = """name: "Ops Analyst"
description: "Watches the incidents of a week, and reports under supervision."
objective: "Look at the incidents of week '2026-W03', say what was critical, and report it to 'lead@example.test'."

# Tools are plain Python modules
tools:
  - module: "examples.incident_tools"

policies:
  # A person looks first
  approval_required:
    - "send_report" # it leaves the house
    - "deploy_prod"
"""
INCIDENTS = '''
import functools


def kept(function):
    """A decorator, as tools have them there."""
    @functools.wraps(function)
    async def again(*given, **named):
        return await function(*given, **named)
    return again


@kept
async def fetch_incidents(week: str) -> str:
    """Read the incidents of a week."""
    return f"{{week}}: the database lagged"


@kept
async def send_report(summary: str, recipient: str) -> str:
    """Send a report."""
    print("sending", summary)
    with open({ledger!r}, "a") as ledger:
        ledger.write(recipient + ": " + summary + "\\n")
    return "sent"


@kept
async def deploy_prod(version: str) -> str:
    """Deploy a version."""
    with open({ledger!r}, "a") as ledger:
        ledger.write("deploy " + version + "\\n")
    return "deployed"
'''


@pytest.fixture
def ledger(box: Box) -> Path:
    found = box.path.parent / "ledger"
    box.write("examples/incident_tools.py", INCIDENTS.format(ledger=str(found)))
    box.write(".protocols/agents/ops-analyst.yaml", ANALYST)
    box.write(".protocols/config.yaml", f"workspace: {{python: {sys.executable}}}\n")
    box.commit("an analyst")
    return found


def test_the_ops_analyst_runs_as_written_halts_and_finishes_after_the_word(
    box: Box, ledger: Path, tmp_path: Path
) -> None:
    carol = person(tmp_path / "people", "carol")
    govern(box, [carol], text=policy([carol], approvals="  call: {roles: [maintainer]}\n"))
    report = ("send_report", {"summary": "the database lagged", "recipient": "lead@example.test"})
    script = [say(("fetch_incidents", {"week": "2026-W03"})), say(report), finish("reported")]
    with mind(box, *script) as wire:
        protocol = box.new({"01-report": f"kind: agent\nagent: ops-analyst\nengine: {ENGINE}\n"})
        said = box.runner("run", protocol, rc=WAITS).err
        assert "send_report" in said and "carol" in said and not ledger.exists()
        box.runner("approve", protocol, "--yes", env=carol.env, rc=0)
        box.runner("run", protocol, rc=0)
        assert wire.wrong == []
    assert ledger.read_text() == "lead@example.test: the database lagged\n"
    sound(box, protocol)


def test_its_deploy_waits_as_a_step_too(box: Box, ledger: Path, tmp_path: Path) -> None:
    carol = person(tmp_path / "people", "carol")
    govern(box, [carol], text=policy([carol], approvals="  call: {roles: [maintainer]}\n"))
    front = 'kind: tool\ntool: deploy_prod\nagent: ops-analyst\nwith: {version: "1.2"}\n'
    protocol = box.new({"01-build": command("true"), "02-deploy": front})
    box.runner("run", protocol, rc=WAITS)
    assert not ledger.exists()
    box.runner("approve", protocol, "--yes", env=carol.env, rc=0)
    box.runner("run", protocol, rc=0)
    assert ledger.read_text() == "deploy 1.2\n"
    sound(box, protocol)


def test_a_person_names_the_file_and_the_trusted_branch_has_it(box: Box, ledger: Path) -> None:
    elsewhere = box.path.parent / "incident_reporter.yaml"
    elsewhere.write_text(ANALYST)
    with mind(box, finish("nothing to do")):
        box.runner("do", "Look at the incidents", "-f", elsewhere, "--engine", ENGINE, rc=0)
    with mind(box, finish("nothing to do")) as wire:
        box.runner("do", "-f", elsewhere, "--engine", ENGINE, rc=0)  # its objective is the task
        assert "Look at the incidents of week '2026-W03', say what was critical" in str(wire.bodies[0])
    elsewhere.write_text(ANALYST + "budget: {turns: 3}\n")
    told = box.runner("do", "Look again", "-f", elsewhere, "--engine", ENGINE, rc=2).err
    assert ".protocols/agents/incident_reporter.yaml" in told and "it has `policies`" in told


UNTRUSTED = """\
name: Reporter
objective: Send a report.
instructions: Be short.
engine: gemini:gemini-2.5-flash
tools: [send_report]
budget: {turns: 5, usd: 0.5}
"""


def test_a_file_that_the_trusted_branch_lacks_is_a_task_whose_external_tools_ask(
    box: Box, ledger: Path, tmp_path: Path
) -> None:
    """`runner do -f coworker.yaml` alone: its objective is the task. Its call waits, and is made once, after the approval."""
    carol = person(tmp_path / "people", "carol")
    govern(box, [carol], text=policy([carol], approvals="  call: {roles: [maintainer]}\n"))
    config = f"workspace: {{python: {sys.executable}}}\ntools:\n  - module: examples.incident_tools\n"
    box.write(".protocols/config.yaml", config)
    box.commit("tools for all")
    coworker, protocol = box.path.parent / "coworker.yaml", "0001-send-a-report"
    coworker.write_text(UNTRUSTED)
    with mind(box, say(("send_report", {"summary": "s", "recipient": "r"})), finish("sent")) as wire:
        result = box.runner("do", "-f", coworker, rc=WAITS)
        assert "You are Reporter" in str(wire.bodies[0]) and "Be short." in str(wire.bodies[0])
        assert "coworker.yaml is not on" in result.err and not ledger.exists()
        (wait,) = box.state(protocol)["waiting"]
        assert wait["kind"] == "call" and "send_report" in wait["text"]
        box.runner("approve", protocol, "--yes", env=carol.env, rc=0)
        box.runner("run", protocol, rc=0)
        assert wire.wrong == []
    assert ledger.read_text() == "r: s\n" and box.state(protocol)["status"] == "completed"
    assert "examples" not in box.git("diff", "--name-only", "main", protocol)
    sound(box, protocol)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ("tools: [{module: trap}]\n", "it names modules with tools"),
        ("tools: [send_report]\npolicies: {approval_required: [send_report]}\n", "it has `policies`"),
        ("tools: [send_report]\n", "this is a CI job"),
    ],
)
def test_what_only_a_file_of_the_trusted_branch_may_do_is_refused_with_what_to_type(
    box: Box, ledger: Path, more: str, why: str
) -> None:
    """A module of it would run as the runner's own: it is not even looked at. Its rules would hold in no verification."""
    trap = box.path.parent / "sprung"
    box.write("trap.py", f"open({str(trap)!r}, 'w')\n\ndef spring() -> None:\n    '''Spring.'''\n")
    coworker, before = box.path.parent / "coworker.yaml", box.git("for-each-ref")
    coworker.write_text(UNTRUSTED.replace("tools: [send_report]\n", more))
    env = {"CI": "true"} if "CI" in why else {}
    told = box.runner("do", "-f", coworker, rc=2, env=env).err
    assert f"does not have this agent file with this content, and {why}" in told
    assert "next: commit it as .protocols/agents/coworker.yaml on main, then run the same command again" in told
    assert not trap.exists() and box.git("for-each-ref") == before
