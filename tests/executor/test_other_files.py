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


def test_the_external_tools_of_a_file_that_the_trusted_branch_lacks_ask(box: Box, ledger: Path, tmp_path: Path) -> None:
    carol = person(tmp_path / "people", "carol")
    govern(box, [carol], text=policy([carol], approvals="  call: {roles: [maintainer]}\n"))
    config = f"workspace: {{python: {sys.executable}}}\ntools: [{{module: examples.incident_tools}}]\n"
    box.write(".protocols/config.yaml", config)
    box.commit("tools for all")
    elsewhere = box.path.parent / "elsewhere.yaml"
    elsewhere.write_text(UNTRUSTED)
    with mind(box, say(("send_report", {"summary": "s", "recipient": "r"})), finish("sent")) as wire:
        result = box.runner("do", "-f", elsewhere, rc=WAITS)
        assert "You are Reporter" in str(wire.bodies[0]) and "Be short." in str(wire.bodies[0])
    assert "elsewhere.yaml is not on" in result.err and not ledger.exists()
    (wait,) = box.state("0001-send-a-report")["waiting"]
    assert wait["kind"] == "call" and "send_report" in wait["text"]
    refused = box.runner("do", "-f", elsewhere, rc=2, env={"CI": "true"}).err
    assert "this is a CI job" in refused
    elsewhere.write_text(UNTRUSTED.replace("[send_report]", "[{module: os}]"))
    assert "it names modules with tools" in box.runner("do", "-f", elsewhere, rc=2).err
