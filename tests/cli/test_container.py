"""`executor: container`: a step's commands, checks and an agent's files in an image, as the person and the record see it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_shell import Terminal
from tests.conftest import Box, command
from tests.executor.minds import agent, finish, mind, say, texts
from tests.sandbox import image
from tests.sandbox.test_sandbox import containers

REAL = pytest.mark.peers  # `make containers`


@pytest.fixture
def contained(box: Box) -> Box:
    """A project whose commands run in the tests' image."""
    name = containers().image.name
    # Without root, podman keeps images below HOME, which is another one for the runner.
    box.env["XDG_DATA_HOME"] = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local/share")
    return configured(box, f"executor: container\nworkspace: {{image: '{name}'}}\n")


def configured(box: Box, config: str) -> Box:
    del box.env["RUNNER_EXECUTOR"]
    box.write(".protocols/config.yaml", config)
    box.commit("config")
    return box


@REAL
def test_a_step_and_its_check_run_in_the_image_at_the_checkout_s_path(contained: Box) -> None:
    told = 'echo "$OF_IMAGE $(pwd) $HOME $RUNNER_STEP" > told; echo "answer=42" > $RUNNER_RESULT'
    protocol = contained.new({"01-a": command(told, "qa: {checks: ['grep -q ^yes told && pwd && touch /tmp/x']}\n")})
    contained.runner("run", protocol, rc=0)
    assert contained.git("show", f"{protocol}:told") == f"yes {contained.path} /run/runner/home a\n"
    log = contained.git("show", f"{protocol}:.protocols/{protocol}/log.md")
    assert f'"environment":"image {image.make()}","executor":"container"' in log, log
    assert json.loads(contained.runner("show", protocol, "a", "--json", rc=0).out)
    assert f"with image {image.make()}" in contained.runner("log", protocol).out


@REAL
def test_what_a_step_leaves_in_its_home_does_not_reach_its_check(contained: Box) -> None:
    step = command("echo evil > ~/planted; mkdir -p ~/.cache; echo evil > /tmp/planted; touch kept")
    step += "qa: {checks: ['test -e kept && test ! -e ~/planted && test ! -e /tmp/planted && ! touch .git/x']}\n"
    contained.runner("run", contained.new({"01-a": step}), rc=0)


@REAL
def test_nothing_of_the_machine_is_there(contained: Box, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    line = f"! ls {tmp_path}/secret {Path.home()}/.ssh /etc/shadow && ! touch /usr/x && ! getent hosts example.com && touch ok"
    contained.runner("run", contained.new({"01-a": command(line)}), rc=0)


@REAL
def test_a_setup_makes_its_environment_in_the_image(contained: Box) -> None:
    name = image.make()
    setup = 'setup: "mkdir -p tools && echo made $OF_IMAGE > tools/word"'
    contained.write(".protocols/config.yaml", f"executor: container\nworkspace:\n  image: '{name}'\n  {setup}\n")
    contained.write(".gitignore", "tools/\n")
    contained.commit("setup")
    protocol = contained.new({"01-a": command("cat tools/word > got; ! touch tools/x")})
    contained.runner("run", protocol, rc=0)
    assert contained.git("show", f"{protocol}:got") == "made yes\n"
    assert f"image {name}; made " in contained.git("show", f"{protocol}:.protocols/{protocol}/log.md")


@REAL
def test_the_found_environment_of_the_checkout_is_not_shown(contained: Box) -> None:
    subprocess.run(["python3", "-m", "venv", "--without-pip", contained.path / ".venv"], check=True)
    contained.write(".gitignore", ".venv/\n")
    contained.commit("ignored")
    protocol = contained.new({"01-a": command("test ! -e .venv && python3 -V > version")})
    contained.runner("run", protocol, rc=0)


@REAL
def test_memory_that_all_processes_used_up_is_the_failure_s_reason(contained: Box) -> None:
    line = "python3 -c 'bytearray(300 << 20)'; exit 3"
    done = contained.runner("run", contained.new({"01-a": command(line, "resources: {memory: 100M}\n")}), rc=1)
    # Without cgroups the process is told that there is no more, and says so itself.
    reason = "all of them together used more memory than they may (`resources: {memory: …}`)"
    assert (reason if containers().engine.has_cgroups else "MemoryError") in done.err


@REAL
@pytest.mark.parametrize("has_bubblewrap", [True, False])
def test_an_agent_s_commands_run_in_the_image_and_its_file_tools_beside_it(
    contained: Box, has_bubblewrap: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.sandbox.container._bubblewrap_works", lambda: has_bubblewrap)
    contained.write("src/app.py", "print('hello')\n")
    contained.commit("app")
    calls: list[tuple[str, dict[str, Any]]] = [
        ("read_file", {"path": "src/app.py"}),
        ("edit_file", {"path": "src/app.py", "edits": [{"old": "hello", "new": "bye"}]}),
        ("write_file", {"path": "../outside", "content": "x"}),
        ("shell", {"command": "cat /workspace/src/app.py; echo $OF_IMAGE; pwd; touch by-shell; ls -A ~"}),
        ("search_text", {"pattern": "bye"}),
        ("git", {"args": ["status", "--short"]}),
    ]
    with mind(contained, *(say(call) for call in calls), finish()) as wire:
        protocol = contained.new({"01-a": agent()})
        contained.runner("run", protocol, rc=0)
    told = texts(wire.bodies[-1])
    assert "print('hello')" in told and "src/app.py:1:print('bye')" in told and "?? by-shell" in told
    assert "print('bye')\nyes\n" in told.replace("\\n", "\n")
    assert contained.git("show", f"{protocol}:src/app.py") == "print('bye')\n"
    assert contained.git("show", f"{protocol}:by-shell") == "" and not (contained.path / "by-shell").exists()


@REAL
def test_a_shell_in_the_container(contained: Box) -> None:
    protocol = contained.new({"01-a": command("touch made")})
    contained.runner("run", protocol, rc=0)
    done = contained.runner("shell", protocol, "a", "--", "sh", "-c", "ls made; echo $OF_IMAGE; pwd")
    assert done.out.splitlines()[-3:] == ["made", "yes", str(contained.path)]


@REAL
def test_a_shell_at_a_terminal_has_job_control(contained: Box) -> None:
    protocol = contained.new({"01-a": command("touch made")})
    contained.runner("run", protocol, rc=0)
    with Terminal(contained, protocol, "a") as at:
        at.see("discarded at the end")
        at.see(r"\$ ")
        at.type("echo $OF_IMAGE; tty; sh -c 'echo go; exec sleep 100'\n")
        at.see("yes\r\n/dev/pts/0\r\ngo\r\n")
        at.type("\x03")
        at.type("echo a$?b\n")
        at.see("a130b")
        at.type("exit 7\n")
        assert at.end() == 7


@REAL
def test_the_image_of_a_devcontainer(contained: Box) -> None:
    contained.write(".protocols/config.yaml", "executor: container\n")
    text = '// as editors write it\n{"name": "a // b", /* more */ "image": "%s:1", "features": {},}\n'
    contained.write(".devcontainer/devcontainer.json", text % image.NAME)
    contained.commit("devcontainer")
    protocol = contained.new({"01-a": command("echo $OF_IMAGE > got")})
    contained.runner("run", protocol, rc=0)
    digest = image.make().partition("@")[2]
    assert f"image {image.NAME}:1@{digest}" in contained.git("show", f"{protocol}:.protocols/{protocol}/log.md")
    assert "named without its digest" in contained.runner("doctor").out


@REAL
def test_an_image_that_is_not_here_is_named_with_the_way_to_it(contained: Box) -> None:
    missing = f"localhost/none@sha256:{'0' * 64}"
    contained.write(".protocols/config.yaml", f"executor: container\nworkspace: {{image: '{missing}'}}\n")
    contained.commit("missing")
    told = contained.runner("step", contained.new({"01-a": command("true")}), rc=2).err
    assert f"the image {missing} is not on this machine" in told and f"`podman pull {missing}`" in told
    assert "is not on this machine" in contained.runner("doctor").out


def test_an_image_without_a_digest_is_refused(box: Box) -> None:
    configured(box, "executor: container\nworkspace: {image: 'python:3.12'}\n")
    told = box.runner("doctor").out
    assert "should be an image by its digest" in told


@pytest.mark.parametrize("text", ['{"build": {"dockerfile": "Dockerfile"}}', "[]", "{", '{"image": "a b"}', "/*"])
def test_a_devcontainer_that_names_no_image_is_said(box: Box, text: str) -> None:
    box.write(".devcontainer/devcontainer.json", text)
    configured(box, "executor: container\n")
    told = box.runner("step", box.new({"01-a": command("true")}), rc=2).err
    assert "no `image` for containers is named there" in told and "devcontainer.json on main" in told
