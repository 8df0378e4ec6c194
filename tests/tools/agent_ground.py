"""A workspace with a repository of its own, and the model's tools in it."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from runner.sandbox.bubblewrap import Bubblewrap
from runner.sandbox.host import Host
from runner.sandbox.mounts import toolchains
from runner.sandbox.process import Sandbox
from runner.tools import ToolError
from runner.tools.agent import AgentTools
from runner.tools.commands import Commands

PATH = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
TOOLCHAINS = toolchains(f"{PATH}:{os.environ['PATH']}", Path.home())


_first: list[Path] = []  # a copy of the first workspace, which the others are copied from


def place(name: str) -> Sandbox:
    """Return the sandbox or the host; without bubblewrap, skip, or fail where RUNNER_CI=1."""
    if name == "host":
        return Host()
    sandbox = Bubblewrap(TOOLCHAINS)
    if (why := sandbox.check()) is not None:
        if os.environ.get("RUNNER_CI") == "1":
            pytest.fail(f"bubblewrap has to work where RUNNER_CI=1: {why}")
        pytest.skip(why)
    return sandbox


class Ground:
    """`outside` is a folder beside the workspace `work`, which nothing may touch; `objects` is lent to it."""

    def __init__(self, root: Path, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.work, self.outside, self.home = root / "work", root / "outside", root / "home"
        for folder in (self.work, self.outside, self.home):
            folder.mkdir()
        (self.outside / "secret").write_text("s3cret-canary\n")
        self.env = {"PATH": PATH, "HOME": str(self.home), "LANG": "C.UTF-8", "TMPDIR": "/tmp"}
        if _first:
            shutil.copytree(_first[0], self.work, symlinks=True, dirs_exist_ok=True)
            return
        self.git("init", "-q", "-b", "main")
        self.commit("first", {"a.txt": "one\ntwo\nthree\n"})
        made = tempfile.TemporaryDirectory(prefix="first-")
        atexit.register(made.cleanup)
        _first.append(Path(made.name))
        shutil.copytree(self.work, made.name, symlinks=True, dirs_exist_ok=True)

    def git(self, *args: str) -> str:
        env = {"PATH": PATH, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "HOME": "/nonexistent"}
        done = subprocess.run(
            ("git", "-c", "user.name=T", "-c", "user.email=t@example.test", *args),
            cwd=self.work, env=env, check=True, capture_output=True, text=True,
        )  # fmt: skip
        return done.stdout

    def commit(self, message: str, files: Mapping[str, str]) -> None:
        for path, text in files.items():
            self.write(path, text)
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)

    def write(self, path: str, text: str | bytes) -> Path:
        file = self.work / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return file

    def text(self, path: str) -> str:
        return (self.work / path).read_bytes().decode()

    def open(self, readable: tuple[Path, ...] = ()) -> AgentTools:
        commands = Commands(self.sandbox, self.work, self.env, readable, (self.home,))
        return AgentTools(commands, default_timeout=30.0)


class Hand:
    """Calls tools by name."""

    def __init__(self, tools: AgentTools) -> None:
        self.tools = tools

    def __call__(self, tool: str, /, **arguments: Any) -> Any:
        return self.tools.tools[tool].call(arguments)

    def refused(self, tool: str, /, **arguments: Any) -> str:
        with pytest.raises(ToolError) as caught:
            self.tools.tools[tool].call(arguments)
        return str(caught.value)
