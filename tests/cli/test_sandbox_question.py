"""Where there is no working sandbox: one question at a terminal, its answer kept; elsewhere exit 2 with the install line."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conftest import Box, command
from tests.people import at_terminal


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


def asked(box: Box, answer: str, *args: str, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run the command line at a real terminal and type `answer` when it asks."""
    return at_terminal(box, {b"]:": answer.encode() + b"\n"}, *args, env=env)


@pytest.mark.slow
def test_elsewhere_it_is_exit_2_with_the_install_line(bare: Box) -> None:
    protocol = bare.new({"01-a": command("echo a > a.txt")})
    done = bare.runner("step", protocol, rc=2)
    assert "apt-get install bubblewrap" in done.err and "--executor host" in done.err
    assert bare.state(protocol)["revision"] == 2


@pytest.mark.slow
def test_no_leaves_it_at_that(bare: Box) -> None:
    protocol = bare.new({"01-a": command("echo a > a.txt")})
    code, said = asked(bare, "no", "step", protocol)
    assert code == 2 and "without a sandbox" in said
    assert bare.state(protocol)["revision"] == 2


@pytest.mark.slow
def test_always_is_kept_in_the_persons_own_configuration_and_named_in_the_log(bare: Box) -> None:
    protocol = bare.new({"01-a": command("echo a > a.txt"), "02-b": command("true")})
    code, said = asked(bare, "always", "step", protocol)
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
    code, said = asked(bare, "always", "step", protocol, env=home)
    assert code == 0 and "not kept" in said, said
    assert stat.S_ISCHR(device.stat().st_mode)


@pytest.mark.slow
def test_once_is_not_kept(bare: Box) -> None:
    protocol = bare.new({"01-a": command("echo a > a.txt"), "02-b": command("true")})
    assert asked(bare, "once", "step", protocol, env={"TERM": "xterm"})[0] == 0
    bare.runner("step", protocol, rc=2)
