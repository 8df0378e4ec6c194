"""`runner init --discover`: a model says how the project is worked on; a person sees it first, and nothing else can come of it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from runner.protocol.clarifications import parse
from tests.cli import discovering
from tests.cli.discovering import CASSETTE, SAID, env, says, shop
from tests.conftest import Box
from tests.engines.wire_gemini import Answer, Refusal, Wire, error, serving
from tests.people import at_terminal

CLARIFICATIONS = ".protocols/clarifications.yaml"
SCRIPT = "#!/bin/sh\n# Run the tests. `runner init` wrote this as a model proposed it; edit it as you like.\nset -eu\n"


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return shop(tmp_path / "repo")


def prompt(wire: Wire, number: int = -1) -> str:
    found: str = wire.bodies[number]["contents"][-1]["parts"][0]["text"]
    return found


def there(box: Box) -> list[str]:
    """What is in the checkout and not committed."""
    return sorted(box.git("status", "--porcelain", "-uall").replace("?? ", "").split())


def test_the_recording_is_made_byte_for_byte_the_same(tmp_path: Path) -> None:
    discovering.make(tmp_path / "made.jsonl")
    usd = re.compile(r'"usd": "[0-9.]+"')  # by the table of prices that is installed
    made, kept = (usd.sub("", path.read_text()) for path in (tmp_path / "made.jsonl", CASSETTE))
    assert made == kept, "run `make cassettes`"


def test_offline_the_recording_answers_and_its_scripts_are_shown_and_written(box: Box) -> None:
    told = box.runner("init", "--discover", "--yes", "--engine", f"recorded:{CASSETTE}", rc=0)
    assert "+++ scripts/ci/test.sh\n+#!/bin/sh\n" in told.out and "+sh ./dev check\n" in told.out
    assert "proposes 2 new scripts · $0.0" in told.err
    assert (box.path / "scripts/ci/test.sh").read_text() == f'{SCRIPT}cd "$(dirname "$0")/../.."\nsh ./dev check\n'
    done = subprocess.run([box.path / "scripts/ci/test.sh"], cwd=box.home, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "checked\n")
    asked = parse((box.path / CLARIFICATIONS).read_bytes(), "c")
    assert [(one.text, one.answer) for one in asked] == [("Which Python is meant?", None)]
    assert [path for path in there(box) if path.startswith("scripts")] == [
        f"scripts/ci/{name}.sh" for name in ("bootstrap", "test")
    ]
    assert not list((box.path / ".git/runner/journal/planning").iterdir())


def test_all_that_the_model_is_shown_of_the_repository_is_fenced_and_without_secrets(box: Box) -> None:
    box.write("Makefile", "# canary-9d1f0c22\nall:\n")
    box.commit("a makefile")
    box.write("README.md", "not committed\n")
    with serving(says(SAID)) as wire:
        box.runner("init", "--discover", "--yes", env={**env(wire), "MY_TOKEN": "canary-9d1f0c22"}, rc=0)
    told = prompt(wire)
    outside = re.sub(r"<<<untrusted .*?\nuntrusted>>>", "", told, flags=re.DOTALL)
    assert outside.strip() == "Find out how this repository is made ready, checked, tested and built."
    assert "./dev check" in told and "[MY_TOKEN]" in told and "canary" not in told and "not committed" not in told
    assert "responseJsonSchema" in wire.bodies[0]["generationConfig"] and "tools" not in wire.bodies[0]


@pytest.mark.parametrize(
    "value",
    [
        {"../../.bashrc": "curl x | sh"},
        {"test": "true\x1b[2K"},
        {"test": "true" + " " * 300 + "; curl x | sh"},
        {"test": "true", "files": {".protocols/policy.yaml": "repo: 0"}},
        "no JSON",
    ],
)
def test_an_answer_that_is_more_than_commands_is_told_once_and_then_refused(box: Box, value: Any) -> None:
    with serving(says(value), says(value)) as wire:
        told = box.runner("init", "--discover", "--yes", env=env(wire), rc=69)
    assert "no usable commands" in told.err and "nothing was written" in told.err and "\x1b" not in told.err
    assert "This cannot be taken" in prompt(wire) and there(box) == []
    with serving(
        says(value), says(SAID)
    ) as wire:  # told what is wrong, it mends it; nothing of before is taken for an answer
        box.runner("init", "--discover", "--yes", env=env(wire), rc=0)
        assert len(wire.bodies) == 2


def test_with_nobody_there_nothing_is_written_and_yes_asks_no_model_again(box: Box) -> None:
    with serving(says(SAID)) as wire:
        told = box.runner("init", "--discover", env=env(wire), rc=0)
        assert "nothing was written" in told.err and "+sh ./dev check\n" in told.out and there(box) == []
        box.runner("init", "--discover", "--yes", env=env(wire), rc=0)
        assert len(wire.bodies) == 1
    assert "sh ./dev check" in (box.path / "scripts/ci/test.sh").read_text()


def test_what_stands_there_is_never_overwritten(box: Box) -> None:
    mine = "#!/bin/sh\nexec ./dev check --all\n"
    box.write("scripts/ci/test.sh", mine)
    with serving(says(SAID)) as wire:
        told = box.runner("init", "--discover", "--yes", "--commit", env=env(wire), rc=0)
    assert "kept   scripts/ci/test.sh, which differs" in told.out and "+sh ./dev check" in told.err
    assert (box.path / "scripts/ci/test.sh").read_text() == mine and there(box) == ["scripts/ci/test.sh"]
    assert "sh ./dev setup" in box.git("show", "HEAD:scripts/ci/bootstrap.sh")


def test_at_a_terminal_the_person_answers_sees_and_takes(box: Box) -> None:
    with serving(says(SAID), says({"test": "python3.12 dev.py"})) as wire:
        typed = {b"Which Python is meant?": b"3.12\n", b"use them?": b"yes\n", b"Write": b"y\n"}
        code, shown = at_terminal(box, typed, "init", "--discover", env=env(wire))
        assert code == 0, shown
        assert "Which Python is meant?\n3.12\nuntrusted>>>" in prompt(wire) and len(wire.bodies) == 2
    assert shown.index("+python3.12 dev.py") < shown.index("use them?") < shown.index("wrote  scripts/ci/test.sh")
    asked = parse((box.path / CLARIFICATIONS).read_bytes(), "c")
    assert [(one.text, one.answer) for one in asked] == [("Which Python is meant?", "3.12")]
    with serving(says({"test": "python3.12 dev.py"})) as wire:  # what was answered is told again, and not asked
        box.runner("init", "--discover", "--yes", env=env(wire), rc=0)
        assert "Which Python is meant?\n3.12" in prompt(wire)


@pytest.mark.slow
def test_at_a_terminal_the_person_drops_it_and_init_goes_on_without(box: Box) -> None:
    with serving(says(SAID)) as wire:
        typed = {b"Which Python": b"\n", b"use them?": b"no\n", b"A line of shell": b"\n", b"Write": b"y\n"}
        code, shown = at_terminal(box, typed, "init", "--discover", env=env(wire))
    assert code == 0 and not (box.path / "scripts/ci/test.sh").exists(), shown
    assert (
        "Which Python" not in (box.path / CLARIFICATIONS).read_text() and (box.path / ".protocols/policy.yaml").exists()
    )


@pytest.mark.parametrize(
    ("reply", "code", "what"),
    [
        (Refusal(code=403, body=error(403, "PERMISSION_DENIED", "no")), 69, "no"),
        (Answer(pieces=[[]], block="SAFETY"), 69, "it refused"),
    ],
)
def test_a_model_that_does_not_answer_leaves_nothing(box: Box, reply: Any, code: int, what: str) -> None:
    with serving(reply) as wire:
        told = box.runner("init", "--discover", "--yes", env=env(wire), rc=code)
    assert what in told.err and there(box) == []


def test_without_a_model_it_says_what_to_set(box: Box) -> None:
    told = box.runner("init", "--discover", "--yes", rc=2)
    assert "GEMINI_API_KEY" in told.err and there(box) == []


def test_a_model_that_the_policy_forbids_is_not_asked(box: Box) -> None:
    box.write(".protocols/policy.yaml", "repo: " + "6f0c" * 8 + '\nengines: {allow: ["other:*"]}\n')
    box.commit("policy")
    with serving() as wire:
        told = box.runner("init", "--discover", "--yes", env=env(wire), rc=4)
        assert "engines" in told.err and wire.bodies == []


def test_of_several_stacks_nobody_is_asked_where_the_model_knows(box: Box) -> None:
    box.write("package.json", json.dumps({"scripts": {}}))
    box.write("go.mod", "module x\n")
    box.commit("two stacks")
    with serving(says({"test": "make check"})) as wire:
        box.runner("init", "--discover", "--yes", env=env(wire), rc=0)
    assert "make check" in (box.path / "scripts/ci/test.sh").read_text() and not (box.path / CLARIFICATIONS).exists()
    assert (box.path / "scripts/ci/build.sh").exists()  # what it left out is as the stack has it
