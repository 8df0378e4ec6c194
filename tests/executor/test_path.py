"""The runner's own environment is not on the PATH of what a step runs; the person's own folders are."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from runner.executor.workspace_session import step_path
from tests.conftest import Box, command

OWN = Path(sys.executable).parent  # of the virtual environment that runs the tests, and with them the runner
PLACES = pytest.mark.parametrize("executor", ["host", "sandbox"])


def _environment(box: Box, executor: str) -> dict[str, str]:
    """A PATH with the runner's environment in front, under two names, and a folder of the person's."""
    own = box.home / "linked"
    own.symlink_to(OWN)
    mine = box.home / "mine/bin"
    mine.mkdir(parents=True)
    (mine / "mine").write_text("#!/bin/sh\necho of the person\n")
    (mine / "mine").chmod(0o755)
    path = os.pathsep.join([str(OWN), f"{own}/", str(mine), "/usr/local/bin", "/usr/bin", "/bin"])
    return {"RUNNER_EXECUTOR": executor, "PATH": path}


@PLACES
def test_a_step_and_its_check_do_not_see_the_runners_python(box: Box, executor: str) -> None:
    env = _environment(box, executor)
    look = f'mine && case "$(command -v python3) $PATH" in *{OWN}*|*linked*) exit 9;; esac'
    protocol = box.new(
        {"01-look": command(f"{look}; mine > mine.txt", f'qa: {{checks: ["{look.replace(chr(34), chr(39))}"]}}\n')}
    )
    box.runner("run", protocol, env=env, rc=0)
    assert box.git("show", f"{protocol}:mine.txt") == "of the person\n"


@PLACES
def test_a_projects_tool_does_not_run_in_the_runners_python(box: Box, executor: str) -> None:
    env = _environment(box, executor)
    box.write("own.py", 'import sys\n\n\ndef prefix() -> str:\n    """Where Python is."""\n    return sys.prefix\n')
    box.write(".protocols/config.yaml", "tools:\n  - module: own\n    effects: {prefix: read}\n")
    box.commit("a tool")
    protocol = box.new({"01-tool": "kind: tool\ntool: prefix\n"})
    box.runner("run", protocol, env=env, rc=0)
    assert box.state(protocol)["steps"]["tool"]["result"] not in (str(OWN.parent), sys.prefix, None)


def test_a_program_that_only_the_runners_environment_has_is_explained(box: Box) -> None:
    protocol = box.new({"01-look": command("ruff --version")})
    done = box.runner("run", protocol, env=_environment(box, "host"), rc=1)
    assert f"ruff is only in the runner's own environment ({OWN}/ruff), which no step has on its PATH" in done.err


def test_the_folder_of_the_systems_own_python_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
    assert step_path("/usr/local/bin:/usr/bin:/bin") == "/usr/local/bin:/usr/bin:/bin"


def test_a_virtual_environment_among_the_systems_folders_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/opt/protocol-runner/bin/python")
    assert step_path("/opt/protocol-runner/bin:/usr/bin") == "/usr/bin"


def test_a_path_of_nothing_else_becomes_the_systems() -> None:
    assert step_path(str(OWN)) == step_path("") == "/usr/local/bin:/usr/bin:/bin"
