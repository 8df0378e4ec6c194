"""How containers are started, by the engines' command lines; `test_sandbox` runs podman's."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from runner.errors import SandboxError, SandboxUnavailableError
from runner.sandbox.container import LABEL, Container, Engine, choose, end_left
from runner.sandbox.process import Command, Image, Limits
from tests.sandbox import image
from tests.sandbox.test_sandbox import BEAT, assert_stopped, command, containers, sh

IMAGE = Image("i", "4f1c", {})
ENV = {"PATH": "/usr/bin:/bin", "TOKEN": "hunter2"}


def started(tmp_path: Path, engine: Engine, limits: Limits | None = None, **more: Any) -> list[str]:
    """The options of the engine's `run` for a command in `work`."""
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    more.setdefault("writable", (work,))
    given = Command(("true",), work, ENV, **more)
    sandbox = Container(engine, IMAGE).limited(limits or Limits())
    return list(sandbox.options(given, "name", tmp_path))


@pytest.mark.parametrize("name", ["podman", "docker", "nerdctl"])
def test_every_engine_is_told_to_hold_everything_back(tmp_path: Path, name: str) -> None:
    told = started(tmp_path, Engine(f"/usr/bin/{name}"))
    for option in (
        "--network=none",
        "--read-only",
        "--cap-drop=all",
        "--security-opt=no-new-privileges",
        "--pull=never",
    ):
        assert option in told
    assert not any("hunter2" in word for word in told)
    assert f"--mount=type=bind,src={tmp_path}/work,dst={tmp_path}/work" in told


@pytest.mark.parametrize(
    ("engine", "user"),
    [
        (Engine("podman", rootless=True), "--userns=keep-id"),
        (Engine("podman"), f"--user={os.geteuid()}:{os.getegid()}"),
        (Engine("docker"), f"--user={os.geteuid()}:{os.getegid()}"),
        (Engine("docker", rootless=True), "--user=0:0"),
        (Engine("nerdctl", rootless=True), "--user=0:0"),
    ],
)
def test_what_a_command_writes_belongs_to_the_person(tmp_path: Path, engine: Engine, user: str) -> None:
    told = started(tmp_path, engine)
    assert [word for word in told if word.startswith(("--user", "--userns"))] == [user]


def test_only_podman_gets_what_the_others_do_not_know(tmp_path: Path) -> None:
    own = ("--read-only-tmpfs", "--security-opt=mask", "notmpcopyup", "--userns")
    for name in ("docker", "nerdctl"):
        told = started(tmp_path, Engine(name, rootless=True))
        assert not any(word in option for word in own for option in told)
    assert "--security-opt=label=disable" in started(tmp_path, Engine("docker"))
    assert "--security-opt=label=disable" not in started(tmp_path, Engine("nerdctl"))


def test_with_cgroups_memory_and_processes_are_those_of_all_together(tmp_path: Path) -> None:
    limits = Limits(memory=1 << 30, cpu=60, processes=100, disk=1 << 20)
    told = started(tmp_path, Engine("docker", has_cgroups=True), limits)
    assert {"--memory=1073741824", "--memory-swap=1073741824", "--pids-limit=100", "--ulimit=cpu=60:65"} <= set(told)
    assert not any(word.startswith("--ulimit=data") for word in told)
    assert any(word.startswith("--tmpfs=/tmp:") and word.endswith(",size=1048576") for word in told)
    without = started(tmp_path, Engine("docker"), limits)
    assert {"--ulimit=data=1073741824:1073741824", "--ulimit=nproc=100:100"} <= set(without)
    assert not any(word.startswith(("--memory", "--pids-limit")) for word in without)


def test_a_path_s_comma_is_no_option(tmp_path: Path) -> None:
    odd = tmp_path / 'a,ro "b"'
    odd.mkdir()
    told = started(tmp_path, Engine("docker"), readable=(odd,))
    quoted = str(odd).replace('"', '""')
    assert f'--mount=type=bind,"src={quoted}","dst={quoted}",ro' in told


def test_a_variable_that_no_shell_has_is_refused(tmp_path: Path) -> None:
    given = Command(("true",), tmp_path, {"a-b": "x"}, writable=(tmp_path,))
    with pytest.raises(SandboxError, match="no variable of this name"):
        Container(Engine("docker"), IMAGE).run(given)


@pytest.mark.parametrize("name", ["podman", "docker", "nerdctl"])
def test_an_engine_that_does_not_work_is_said_in_its_own_words(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_text("#!/bin/sh\necho 'Cannot connect to the daemon' >&2\nexit 1\n")
    (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxUnavailableError, match=f"{name}: Cannot connect to the daemon"):
        choose("python@sha256:1")


def test_an_engine_that_did_not_work_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "docker"
    fake.write_text("#!/bin/sh\ntest -e $0.up || exit 1\ntest $3 = info && printf '[]\\ntrue\\n'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr("runner.sandbox.container.ENGINES", ("docker",))
    with pytest.raises(SandboxUnavailableError, match="no container engine works here"):
        choose("python@sha256:1")
    (tmp_path / "docker.up").touch()
    with pytest.raises(SandboxUnavailableError, match="is not on this machine") as caught:
        choose("python@sha256:1")
    assert "`docker pull python@sha256:1`" in caught.value.hint


@pytest.mark.peers
def test_what_starts_a_command_is_the_image_s_own_program(tmp_path: Path) -> None:
    """The image's PATH may name a folder at which a checkout appears."""
    for name in ("env", "sh", "kill"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 0\n")
        (tmp_path / name).chmod(0o755)
    name = f"{image.NAME}-path"
    change = ("--change", f"ENV PATH={tmp_path}:/usr/bin:/bin")
    subprocess.run(("podman", "tag", containers().image.id, f"{name}:0"), check=True, capture_output=True)
    made = (
        subprocess.run(("podman", "create", f"{name}:0", "true"), check=True, capture_output=True)
        .stdout.decode()
        .strip()
    )
    try:
        subprocess.run(("podman", "commit", "-q", *change, made, f"{name}:1"), check=True, capture_output=True)
        assert choose(f"{name}:1").run(command(tmp_path, "/bin/false")).code == 1
    finally:
        subprocess.run(("podman", "rm", "-f", made), capture_output=True)
        subprocess.run(("podman", "rmi", "-f", f"{name}:0", f"{name}:1"), capture_output=True)


def test_without_any_engine_it_is_said_which_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxUnavailableError) as caught:
        choose("python@sha256:1")
    assert "neither podman, docker nor nerdctl" in caught.value.what and "apt-get install podman" in caught.value.hint


@pytest.mark.peers
def test_a_container_that_outlived_its_runner_is_removed_by_the_next(tmp_path: Path) -> None:
    containers()
    limits = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024", "--network=none")
    mount = f"--mount=type=bind,src={tmp_path},dst={tmp_path}"
    started = ("podman", "run", "-d", "--label", f"{LABEL}={tmp_path}", *limits, mount, f"{image.NAME}:1")
    subprocess.run((*started, "sh", "-c", f"cd {tmp_path}; {BEAT}"), check=True, capture_output=True)
    by = time.monotonic() + 20
    while not (tmp_path / "beat").exists() and time.monotonic() < by:
        time.sleep(0.05)
    time.sleep(0.2)
    assert end_left(tmp_path / "other") == 0
    assert end_left(tmp_path) == 1
    assert_stopped(tmp_path / "beat")
    assert end_left(tmp_path) == 0


@pytest.mark.peers
def test_nothing_is_left_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def left() -> bytes:
        return subprocess.run(("podman", "ps", "-a", "-q", "--filter", f"label={LABEL}"), capture_output=True).stdout

    sandbox = containers()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for line in ("true", "exit 3", "kill -9 $$", "sleep 60 & exit 1"):
        sandbox.run(sh(tmp_path, line))
    sandbox.run(sh(tmp_path, "trap '' TERM; sleep 60", timeout=1.0))
    with pytest.raises(RuntimeError):
        sandbox.run(sh(tmp_path, "echo up; sleep 60"), fail)
    assert left() == b""
    assert list(tmp_path.iterdir()) == []


def fail(data: bytes) -> None:
    raise RuntimeError


@pytest.mark.peers
def test_an_odd_path_is_the_one_that_is_shown(tmp_path: Path) -> None:
    work = tmp_path / "a,ro=1 \"b\" 'c' :ü"
    work.mkdir()
    (work / "in").write_text("it")
    assert containers().run(sh(work, "cat in && touch out")).tail == b"it"
    assert (work / "out").exists()


@pytest.mark.peers
def test_the_reason_of_a_container_out_of_memory_is_known(tmp_path: Path) -> None:
    sandbox = containers()
    if not sandbox.engine.has_cgroups:
        pytest.skip("allowed: without cgroups nothing counts what all processes use together")
    limited = sandbox.limited(Limits(memory=100 << 20))
    line = "python3 -c 'bytearray(300 << 20)' || exit 3"
    assert (limited.run(sh(tmp_path, line)).out_of_memory, sandbox.run(sh(tmp_path, line)).out_of_memory) == (
        True,
        False,
    )
    small = "for n in 1 2 3 4; do python3 -c 'import time; a = bytearray(60 << 20); time.sleep(2)' & done; wait; exit 1"
    assert limited.run(sh(tmp_path, small)).out_of_memory  # none of them alone used more
    assert not limited.run(sh(tmp_path, "exit 137")).out_of_memory
