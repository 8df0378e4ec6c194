"""Where there is no working sandbox: one question at a terminal, its answer kept; elsewhere exit 2 with the install line."""

from __future__ import annotations

import os
import pty
import stat
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from tests.conftest import Box, command


@pytest.fixture
def bare(box: Box, tmp_path: Path) -> Box:
    """A person whose PATH has git and Python but no bubblewrap."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for folder in os.environ["PATH"].split(":"):
        for program in Path(folder).iterdir() if Path(folder).is_dir() else ():
            link = tools / program.name
            if program.name not in ("bwrap", "runner", "git-runner") and not link.exists() and not link.is_symlink():
                link.symlink_to(program)
    box.env["PATH"] = str(tools)
    del box.env["RUNNER_EXECUTOR"]
    return box


NOTHING: Mapping[str, str] = MappingProxyType({})


def at_terminal(
    box: Box, answer: str, *args: str, term: str = "dumb", env: Mapping[str, str] = NOTHING
) -> tuple[int, str]:
    """Run the command line at a real terminal and type `answer` when it asks."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "runner", *args],
        cwd=box.path,
        env={**box.environment(), "PYTHONPATH": str(Path(__file__).parents[2]), "TERM": term, **env},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    said = b""
    typed = False
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            data = os.read(ours, 65536)
        except OSError:
            break
        if not data:
            break
        said += data
        if not typed and (b"always" in said or b"Publish" in said) and b"]:" in said:
            os.write(ours, answer.encode() + b"\n")
            typed = True
    os.close(ours)
    return child.wait(timeout=100), said.decode("utf-8", "replace")


@pytest.mark.slow
def test_elsewhere_it_is_exit_2_with_the_install_line(bare: Box) -> None:
    protocol = bare.new({"01-a": command("echo a > a.txt")})
    done = bare.runner("step", protocol, rc=2)
    assert "apt-get install bubblewrap" in done.err and "--executor host" in done.err
    assert bare.state(protocol)["revision"] == 2


@pytest.mark.slow
def test_no_leaves_it_at_that(bare: Box) -> None:
    protocol = bare.new({"01-a": command("echo a > a.txt")})
    code, said = at_terminal(bare, "no", "step", protocol)
    assert code == 2 and "without a sandbox" in said
    assert bare.state(protocol)["revision"] == 2


@pytest.mark.slow
def test_always_is_kept_in_the_persons_own_configuration_and_named_in_the_log(bare: Box) -> None:
    protocol = bare.new({"01-a": command("echo a > a.txt"), "02-b": command("true")})
    code, said = at_terminal(bare, "always", "step", protocol)
    assert code == 0, said
    assert '"executor":"host"' in bare.log(protocol)
    assert bare.git("config", "--global", "runner.executor").strip() == "host"
    bare.runner("step", protocol, rc=0)


@pytest.mark.slow
def test_always_is_not_kept_where_git_would_put_a_file_in_the_place_of_a_device(bare: Box, tmp_path: Path) -> None:
    protocol = bare.new({"01-a": command("echo a > a.txt")})
    device = tmp_path / "null"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except OSError:  # then nor can anybody put a file where the real one is
        device = Path(os.devnull)
    home = {"GIT_CONFIG_GLOBAL": str(device), "GIT_AUTHOR_NAME": "Alice", "GIT_AUTHOR_EMAIL": "alice@example.test",
            "GIT_COMMITTER_NAME": "Alice", "GIT_COMMITTER_EMAIL": "alice@example.test"}  # fmt: skip
    code, said = at_terminal(bare, "always", "step", protocol, env=home)
    assert code == 0 and "not kept" in said, said
    assert stat.S_ISCHR(device.stat().st_mode)


@pytest.mark.slow
def test_once_is_not_kept(bare: Box) -> None:
    protocol = bare.new({"01-a": command("echo a > a.txt"), "02-b": command("true")})
    assert at_terminal(bare, "once", "step", protocol, term="xterm")[0] == 0
    bare.runner("step", protocol, rc=2)
