"""One suite over all places to run commands in, and what bubblewrap keeps from a command."""

from __future__ import annotations

import gc
import hashlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from runner.errors import SandboxError, SandboxUnavailableError, UsageError
from runner.sandbox import choose
from runner.sandbox.bubblewrap import Bubblewrap, remedy
from runner.sandbox.container import Container
from runner.sandbox.host import Host
from runner.sandbox.mounts import ETC, toolchains
from runner.sandbox.network import Network
from runner.sandbox.process import (
    Command,
    CommandOutcome,
    Place,
    Sandbox,
    Session,
    explain,
)
from runner.sandbox.seccomp import BY_FLAG, CLONE3, MACHINES, REFUSED
from runner.store.environment import matching
from tests.conftest import slack
from tests.sandbox import image

PYTHON = sys.executable
PATH = f"{Path(PYTHON).parent}:/usr/local/bin:/usr/bin:/bin"
TOOLCHAINS = toolchains(f"{PATH}:{os.environ['PATH']}", Path.home())
BEAT = "while :; do date +%s%N >> beat; sleep 0.02; done"  # a line while it lives
LIVES = "until [ -s beat ]; do sleep 0.02; done"


def containers() -> Container:
    """Containers of the image of `tests.sandbox.image`. Where none starts, `.ci/run` leaves these tests out."""
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed")
    try:
        found = choose("container", image=image.make())
    except SandboxUnavailableError as error:
        pytest.skip(error.what)
    assert isinstance(found, Container)
    return found


def bubblewrap() -> Bubblewrap:
    sandbox = Bubblewrap(TOOLCHAINS)
    if (why := sandbox.check()) is not None:
        if os.environ.get("RUNNER_CI") == "1":
            pytest.fail(f"bubblewrap has to work where RUNNER_CI=1: {why}")
        pytest.skip(why)
    return sandbox


CONTAINER = pytest.param("container", marks=pytest.mark.peers)  # `make containers`
PLACES: dict[str, Callable[[], Sandbox]] = {"sandbox": bubblewrap, "container": containers, "host": Host}


@pytest.fixture(params=["sandbox", CONTAINER, "host"])
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    return PLACES[request.param]()


@pytest.fixture(params=["sandbox", CONTAINER])
def closed(request: pytest.FixtureRequest) -> Sandbox:
    """A place that keeps commands from everything else."""
    return PLACES[request.param]()


def python(sandbox: Sandbox) -> str:
    return "python3" if sandbox.name == "container" else PYTHON  # an image has its own


@pytest.fixture
def bwrap() -> Bubblewrap:
    return bubblewrap()


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def command(work: Path, *argv: str, **more: Any) -> Command:
    more.setdefault("env", {"PATH": PATH})
    more.setdefault("timeout", 30.0)
    return Command(argv, work, writable=(work, *more.pop("writable", ())), **more)


def sh(work: Path, line: str, **more: Any) -> Command:
    return command(work, "sh", "-c", line, **more)


def timed(work: Path, run: Callable[[float], CommandOutcome], seconds: float) -> tuple[CommandOutcome, float]:
    """Return how what writes `beat` ended with so many seconds, or with ten times as many, where it did not begin in that time; and
    the seconds."""
    outcome = run(seconds)
    return (outcome, seconds) if (work / "beat").exists() or seconds > 50 else timed(work, run, seconds * 10)


def assert_stopped(beat: Path) -> None:
    """It lived, and does not any more."""
    before = beat.read_bytes()
    assert before
    time.sleep(0.3)
    assert beat.read_bytes() == before


# --- every place ------------------------------------------------------------------------------------------------------


def test_an_exit_code_is_the_commands(sandbox: Sandbox, work: Path) -> None:
    assert [sandbox.run(sh(work, f"exit {code}")).code for code in (0, 1, 7, 255)] == [0, 1, 7, 255]
    assert sandbox.run(command(work, "true")).ok
    assert not sandbox.run(command(work, "false")).ok


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_signal_is_128_and_its_number(sandbox: Sandbox, work: Path, number: signal.Signals) -> None:
    assert sandbox.run(sh(work, f"kill -{int(number)} $$")).code == 128 + number


def test_what_cannot_be_started_is_127_or_126_and_named(sandbox: Sandbox, work: Path) -> None:
    (work / "plain").write_text("no program")
    missing, plain = sandbox.run(command(work, "no-such-program")), sandbox.run(command(work, "./plain"))
    assert (missing.code, plain.code) == (127, 126)
    assert b"no-such-program" in missing.tail
    assert b"./plain" in plain.tail


def test_the_environment_is_exactly_what_is_given(
    sandbox: Sandbox, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEAKED", "yes")
    env = {"PATH": PATH, "HOME": str(work), "TEXT": "two\nlines = ü", "EMPTY": ""}
    outcome = sandbox.run(command(work, "env", "-0", env=env))
    assert dict(item.split("=", 1) for item in outcome.tail.decode().split("\0")[:-1]) == env


def test_a_command_runs_in_its_folder(sandbox: Sandbox, work: Path) -> None:
    below = work / "a b" / "ü"
    below.mkdir(parents=True)
    outcome = sandbox.run(Command(("pwd", "-P"), below, {"PATH": PATH}, 30, writable=(work,)))
    assert outcome.tail.decode() == f"{below.resolve()}\n"


def test_a_folder_that_is_not_there_is_said(sandbox: Sandbox, work: Path) -> None:
    with pytest.raises(SandboxError, match="not there"):
        sandbox.run(Command(("true",), work / "missing", {"PATH": PATH}, 30, writable=(work,)))


def test_stdout_and_stderr_come_together_with_digest_and_tail(sandbox: Sandbox, work: Path) -> None:
    heard: list[bytes] = []
    outcome = sandbox.run(sh(work, "echo one; echo two >&2; printf '\\377\\000\\303'", keep=6), heard.append)
    whole = b"one\ntwo\n\xff\x00\xc3"
    assert b"".join(heard) == whole
    assert (outcome.size, outcome.tail) == (len(whole), whole[-6:])
    assert outcome.digest == "sha256:" + hashlib.sha256(whole).hexdigest()
    assert sandbox.run(sh(work, "echo one", keep=0)).tail == b""


def test_output_comes_while_the_command_runs(sandbox: Sandbox, work: Path) -> None:
    def answer(data: bytes) -> None:
        (work / "go").write_bytes(data)

    assert sandbox.run(sh(work, "echo ready; while [ ! -e go ]; do sleep 0.02; done; exit 5"), answer).code == 5


def test_endless_output_takes_bounded_time_and_memory(sandbox: Sandbox, work: Path) -> None:
    sandbox.run(command(work, "yes", timeout=0.1, keep=1000))
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    outcome = sandbox.run(command(work, "yes", timeout=1.0 * slack(), keep=1000))
    assert (outcome.code, outcome.timed_out) == (124, True)
    assert time.monotonic() - began < 5 * slack()
    assert (
        outcome.size > 3_000_000
    )  # of which a thousand bytes are kept; where a core is free it is a hundred times as much
    assert len(outcome.tail) == 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kilobytes


def test_a_command_is_given_nothing_on_stdin(sandbox: Sandbox, work: Path) -> None:
    assert sandbox.run(command(work, "cat")).size == 0


def test_a_command_can_be_interrupted(sandbox: Sandbox, work: Path) -> None:
    line = "import os, signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, flush=True)"
    outcome = sandbox.run(command(work, python(sandbox), "-c", f"{line}; os.kill(os.getpid(), 2)"))
    assert (outcome.code, outcome.tail.split(b"\n")[0]) == (130, b"True")


@pytest.mark.parametrize(
    "line",
    [f"sh -c '{BEAT}'", f"setsid sh -c '{BEAT}' & wait", f"(setsid sh -c '({BEAT}) &' &) ; sleep 60"],
    ids=["child", "setsid", "setsid and forked twice"],
)
@pytest.mark.slow
def test_a_timeout_ends_all_that_was_started(sandbox: Sandbox, work: Path, line: str) -> None:
    outcome, seconds = timed(work, lambda seconds: sandbox.run(sh(work, line, timeout=seconds)), 0.6)
    assert (outcome.code, outcome.timed_out) == (124, True)
    assert outcome.seconds < seconds + 4.4 * slack()
    assert_stopped(work / "beat")


@pytest.mark.slow
def test_a_timeout_leaves_time_to_clean_up_but_not_for_ever(sandbox: Sandbox, work: Path) -> None:
    wait = "while :; do sleep 0.05; done"
    line = f"trap 'echo cleaned; exit 0' TERM; touch beat; {wait}"
    polite, _ = timed(work, lambda seconds: sandbox.run(sh(work, line, timeout=seconds)), 0.5)
    (work / "beat").unlink()
    assert (polite.code, polite.timed_out) == (124, True)
    assert b"cleaned" in polite.tail
    line = f"trap '' TERM; {BEAT}"
    stubborn, seconds = timed(work, lambda seconds: sandbox.run(sh(work, line, timeout=seconds)), 0.3)
    assert stubborn.timed_out
    assert 2.0 < stubborn.seconds < seconds + 5.7 * slack()
    assert_stopped(work / "beat")


@pytest.mark.slow
def test_a_background_child_does_not_hold_the_run(sandbox: Sandbox, work: Path) -> None:
    for line in (f"({BEAT}) & {LIVES}; echo done; exit 3", f"setsid sh -c '{BEAT}' & {LIVES}; echo done; exit 3"):
        (work / "beat").unlink(missing_ok=True)
        outcome = sandbox.run(sh(work, line))
        assert (outcome.code, outcome.tail, outcome.timed_out) == (3, b"done\n", False)
        assert outcome.seconds < 4 * slack()
        assert_stopped(work / "beat")


def test_a_background_child_without_the_pipe_is_ended_too(sandbox: Sandbox, work: Path) -> None:
    outcome = sandbox.run(sh(work, f"(setsid sh -c '{BEAT}' >/dev/null 2>&1 &); {LIVES}"))
    assert outcome.ok
    assert_stopped(work / "beat")


def test_a_command_that_closes_its_output_is_waited_for(sandbox: Sandbox, work: Path) -> None:
    assert sandbox.run(sh(work, "exec >&- 2>&-; sleep 0.3; exit 4")).code == 4


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
@pytest.mark.slow
def test_an_exception_while_it_runs_ends_the_group(sandbox: Sandbox, work: Path, kind: type[BaseException]) -> None:
    def stop(data: bytes) -> None:
        raise kind

    began = time.monotonic()
    with pytest.raises(kind):
        sandbox.run(sh(work, f"setsid sh -c '{BEAT}' & {LIVES}; echo now; wait"), stop)
    assert time.monotonic() - began < 5 * slack()
    assert_stopped(work / "beat")


def test_who_is_inside_itself_ends_nobody(tmp_path: Path) -> None:
    lines = f"from runner.sandbox.process import end_all; print(end_all(b'HOME={tmp_path}'))"
    alone = ["sh", "-c", f'HOME={tmp_path} sleep 1000 & "$0" -c "$1"; kill $! && echo it lived', PYTHON, lines]
    inside = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "HOME": str(tmp_path)}
    assert subprocess.run(alone, env=inside, capture_output=True, text=True).stdout == "0\nit lived\n"
    outside = {**inside, "HOME": "/elsewhere"}
    assert subprocess.run(alone, env=outside, capture_output=True, text=True).stdout == "1\n"


@pytest.mark.slow
def test_a_bubblewrap_that_hangs_is_given_up(tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs = tmp_path / "bin/bwrap"
    hangs.parent.mkdir()
    hangs.write_text(f"#!/bin/sh\necho $$ >{tmp_path}/pid\nexec sleep 1000\n")
    hangs.chmod(0o755)
    monkeypatch.setenv("PATH", f"{hangs.parent}:{os.environ['PATH']}")
    monkeypatch.setattr("runner.sandbox.bubblewrap.STARTS_WITHIN", 2.0)

    with pytest.raises(SandboxError, match="started nothing within 2 s"):
        Bubblewrap(TOOLCHAINS).run(sh(work, "touch ran"))

    assert not (work / "ran").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize("begin", ["run", "open"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_is_started_leaves_nothing_behind(
    sandbox: Sandbox, work: Path, begin: str, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Struck(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            os.kill(os.getpid(), number)  # the command lives, and nobody was given what can end it
            time.sleep(2 if sandbox.name == "container" else 0.2)

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = len(os.listdir("/dev/fd"))
    known = signal.signal(number, interrupt)
    try:
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(subprocess, "Popen", Struck)
            getattr(sandbox, begin)(sh(work, f"setsid sh -c '{BEAT}' & wait"))
        assert signal.getsignal(number) is interrupt
    finally:
        signal.signal(number, known)
    assert_stopped(work / "beat")
    assert len(os.listdir("/dev/fd")) == before


def test_a_run_leaves_no_descriptor_and_no_zombie(sandbox: Sandbox, work: Path) -> None:
    sandbox.run(command(work, "true"))
    gc.collect()  # what tests before this one left behind, such as an open git
    before, others = len(os.listdir("/dev/fd")), children()
    for line in ("true", "(setsid sleep 60 &)", "no-such-program"):
        sandbox.run(sh(work, line))
    assert len(os.listdir("/dev/fd")) == before
    assert children() <= others


def children() -> set[str]:
    """Return the processes that are this one's, zombies too."""
    found = set[str]()
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):  # it ended meanwhile
            if int(Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.add(entry)
    return found


def test_a_session_answers_line_by_line_and_closes(sandbox: Sandbox, work: Path) -> None:
    session = sandbox.open(sh(work, 'while read -r line; do echo "got $line"; echo "saw $line" >&2; done; exit 6'))
    for word in (b"one", b"two"):
        session.stdin.write(word + b"\n")
        session.stdin.flush()
        assert session.stdout.readline() == b"got " + word + b"\n"
    outcome = session.close()
    assert (outcome.code, outcome.tail, outcome.timed_out) == (6, b"saw one\nsaw two\n", False)
    assert session.close() is outcome


def test_a_session_outlives_the_thread_that_opened_it(sandbox: Sandbox, work: Path) -> None:
    opened: list[Session] = []
    thread = threading.Thread(target=lambda: opened.append(sandbox.open(sh(work, "read -r line; echo got $line"))))
    thread.start()
    thread.join()
    opened[0].stdin.write(b"one\n")
    opened[0].stdin.flush()
    assert opened[0].stdout.readline() == b"got one\n"
    assert opened[0].close().ok


def test_a_session_that_does_not_end_is_ended(sandbox: Sandbox, work: Path) -> None:
    session = sandbox.open(sh(work, f"setsid sh -c '{BEAT}' & {LIVES}; echo up; while :; do sleep 1; done"))
    assert session.stdout.readline() == b"up\n"
    began = time.monotonic()
    outcome = session.close(grace=0.2)
    assert time.monotonic() - began < 4 * slack()
    assert outcome.code in (128 + signal.SIGTERM, 128 + signal.SIGKILL)
    assert_stopped(work / "beat")


def test_a_command_that_cannot_be_is_the_callers_mistake(work: Path) -> None:
    for argv, cwd, env, paths in (
        ((), work, {}, (work,)),
        (("true",), work, {}, ()),
        (("true",), Path("work"), {}, (Path("work"),)),
        (("true",), work / ".." / "x", {}, (work,)),
        (("true",), work, {"A": "x\0--bind\0/\0/"}, (work,)),
        (("true",), work, {"A=B": "x"}, (work,)),
    ):
        with pytest.raises(ValueError, match=r"."):
            Command(argv, cwd, env, writable=paths)


def test_a_program_named_like_an_assignment_is_refused(sandbox: Sandbox, work: Path) -> None:
    with pytest.raises(SandboxError, match="="):
        sandbox.run(command(work, "A=b"))


def test_an_argument_too_long_is_said(sandbox: Sandbox, work: Path) -> None:
    with pytest.raises(SandboxError, match="too long"):
        sandbox.run(command(work, "true", "x" * 3_000_000))


# --- bubblewrap alone -------------------------------------------------------------------------------------------------


def test_nothing_outside_can_be_written(closed: Sandbox, work: Path, tmp_path: Path) -> None:
    assert work.is_relative_to(tmp_path)  # a workspace, here below the machine's /tmp, works
    (tmp_path / "readable").mkdir()
    places = ["/usr/x", "/etc/x", "/x", str(tmp_path / "readable" / "x"), "/var/x"]
    lines = "; ".join(f"touch {place} 2>/dev/null && echo wrote {place}" for place in places)
    outcome = closed.run(sh(work, f"{lines}; touch inside", readable=(tmp_path / "readable",)))
    assert (outcome.code, outcome.tail) == (0, b"")
    assert (work / "inside").exists()
    own = [f"{folder}/of-its-own" for folder in ("/tmp", "/var/tmp", "$HOME")]
    own += (
        ["/run/of-its-own"] if closed.name == "sandbox" or os.geteuid() == 0 else []
    )  # runc gives it the mode that the image's has
    assert closed.run(sh(work, f"touch {' '.join(own)}")).ok
    assert not closed.run(sh(work, f"ls {own[0]}")).ok  # the next command's /tmp is another
    closed.run(sh(work, f"touch {tmp_path}/beside"))
    assert not (tmp_path / "beside").exists()
    assert not Path("/tmp/of-its-own").exists()


def test_home_holds_no_secret(closed: Sandbox, work: Path) -> None:
    outcome = closed.run(sh(work, f"echo $HOME; ls -A $HOME; ls -A {Path.home()} 2>/dev/null; true"))
    allowed = {p.relative_to(Path.home()).parts[0] for p in TOOLCHAINS if p.is_relative_to(Path.home())}
    home, *seen = outcome.tail.decode().splitlines()
    assert home == "/run/runner/home"
    assert set(seen) <= allowed


def test_of_home_only_the_toolchain_is_there(work: Path, tmp_path: Path) -> None:
    bubblewrap()
    home = tmp_path / "home"
    for path, text in (
        (".tool/bin/greet", "#!/bin/sh\ncat $(dirname $(readlink -f $0))/../lib/word\n"),
        (".tool/lib/word", "hello"),
        (".local/bin/alone", "#!/bin/sh\necho alone\n"),
        (".local/share/keyrings/login", "secret"),
        (".cargo/bin/cargo", "#!/bin/sh\necho cargo\n"),
        (".cargo/credentials.toml", "secret"),
        (".ssh/id_ed25519", "secret"),
    ):
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_text(text)
        (home / path).chmod(0o755)
    (home / "linked").mkdir()
    (home / "linked" / "hi").symlink_to(home / ".tool" / "bin" / "greet")
    path = ":".join(str(home / name) for name in (".local/bin", ".cargo/bin", "linked", "."))
    found = toolchains(f"{path}:{home}:relative:/usr/bin:/no/such", home)
    assert set(found) == {home / ".local/bin", home / ".cargo/bin", home / "linked", home / ".tool"}

    outcome = Bubblewrap(found).run(
        sh(work, f"hi; alone; cargo; cd {home} && grep -rl secret .", env={"PATH": f"{path}:/usr/bin:/bin"})
    )
    assert (outcome.code, outcome.tail) == (1, b"helloalone\ncargo\n")


def test_a_person_s_python_is_found_inside(work: Path) -> None:
    bubblewrap()
    path = os.environ["PATH"]
    assert shutil.which("python3")
    outcome = Bubblewrap(toolchains(path, Path.home())).run(
        command(work, "python3", "-c", "print(6 * 7)", env={"PATH": path})
    )
    assert (outcome.code, outcome.tail) == (0, b"42\n")


def test_a_home_below_a_writable_folder_is_kept(closed: Sandbox, work: Path) -> None:
    assert closed.run(sh(work, "echo $HOME", env={"PATH": PATH, "HOME": str(work)})).tail.decode() == f"{work}\n"
    assert (
        closed.run(sh(work, "echo $HOME", env={"PATH": PATH, "HOME": "/home/somebody"})).tail == b"/run/runner/home\n"
    )


def test_no_other_process_is_seen(closed: Sandbox, work: Path) -> None:
    look = sh(work, "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '")
    with subprocess.Popen(["sleep", "299.375"]) as other:
        try:
            assert b"sleep 299.375" in Host().run(look).tail
            assert b"299.375" not in closed.run(look).tail
        finally:
            other.kill()


def test_the_environment_is_seen_by_nobody_else(closed: Sandbox, work: Path) -> None:
    seen: list[bytes] = []

    def look(data: bytes) -> None:
        for path in matching(Path("/proc"), "[0-9]*/cmdline"):
            try:
                seen.append(path.read_bytes())
            except OSError:
                continue
        (work / "looked").touch()

    env = {"PATH": PATH, "TOKEN": "hunter2-in-env", "LD_PRELOAD": str(work / "evil.so")}
    outcome = closed.run(sh(work, "echo up; until [ -e looked ]; do sleep 0.02; done; echo $TOKEN", env=env), look)
    assert b"hunter2-in-env" in outcome.tail
    assert any(b"bwrap" in line or b"podman" in line for line in seen)
    assert not any(b"hunter2-in-env" in line or b"evil.so" in line for line in seen)


@contextmanager
def loopback_server() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                with peer:
                    peer.sendall(b"reached")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(5)


def connecting(sandbox: Sandbox, port: int) -> tuple[str, ...]:
    return python(sandbox), "-c", f"import socket; print(socket.create_connection(('127.0.0.1', {port}), 5).recv(9))"


def test_there_is_no_network_that_nobody_asked_for(closed: Sandbox, work: Path) -> None:
    with loopback_server() as port:
        without = closed.run(command(work, *connecting(closed, port)))
    assert without.code == 1
    assert b"ConnectionRefusedError" in without.tail


def test_the_network_is_there_when_asked_for(bwrap: Bubblewrap, work: Path) -> None:
    with loopback_server() as port:
        with_it = bwrap.run(command(work, *connecting(bwrap, port), network=Network((f"localhost:{port}",))))
    assert (with_it.code, with_it.tail) == (0, b"b'reached'\n")


def test_sockets_of_agents_are_not_there(closed: Sandbox, work: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(tmp_path / "agent"))
        env = {"PATH": PATH, "SSH_AUTH_SOCK": str(tmp_path / "agent")}
        look = sh(work, "ls -d $SSH_AUTH_SOCK; ls /run /var/run /tmp; test -S $SSH_AUTH_SOCK", env=env)
        assert Host().run(look).ok
        inside = closed.run(look)
    assert inside.code == 1
    assert b"docker.sock" not in inside.tail


def test_no_capability_and_no_secret_of_etc(closed: Sandbox, work: Path) -> None:
    look = "grep CapEff /proc/self/status; cat /etc/shadow /etc/ssl/private/* /etc/gitconfig; ls /etc/ssh /etc/sudoers"
    outcome = closed.run(sh(work, f"({look}) 2>/dev/null; getent passwd 0 >/dev/null && echo names"))
    assert outcome.tail.split() == [b"CapEff:", b"0000000000000000", b"names"]


@pytest.mark.parametrize("network", [None, Network(("*",))])
def test_etc_is_the_machines_and_cannot_be_changed_and_no_descriptor_is_left(
    bwrap: Bubblewrap, work: Path, network: Network | None
) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    look = "cat /etc/passwd; ls /proc/self/fd | wc -l; (echo x >> /etc/passwd; touch /etc/x) 2>/dev/null || echo no"
    outcome = bwrap.run(sh(work, look, network=network))
    assert outcome.tail == Path("/etc/passwd").read_bytes() + b"4\nno\n"
    assert sorted(os.listdir("/proc/self/fd")) == before


DYING = {
    "sandbox": "from runner.sandbox.bubblewrap import Bubblewrap\nsandbox = Bubblewrap()\n",
    "container": f"from runner.sandbox import choose\nsandbox = choose('container', image='{image.NAME}:1')\n",
}


def test_what_of_etc_is_shown_is_what_the_machine_has(bwrap: Bubblewrap, work: Path) -> None:
    names = [path.name for name in ETC if "/" not in name for path in Path("/etc").glob(name) if path.is_dir()]
    assert names
    find = f"find {' '.join(names)}"
    look = f"cd /etc; {find} -type f -exec sha256sum {{}} + | sort; {find} -type l -printf '%p %l\\n' | sort"
    machine = subprocess.run(["sh", "-c", look], capture_output=True, check=True).stdout
    assert bwrap.run(command(work, "sh", "-c", look)).digest == f"sha256:{hashlib.sha256(machine).hexdigest()}"
    touch = "; ".join(f"touch /etc/{name}/x" for name in names)
    assert bwrap.run(sh(work, touch)).tail.count(b"Read-only file system") == len(names)


def test_the_inside_dies_with_the_runner(closed: Sandbox, work: Path) -> None:
    script = DYING[closed.name] + (
        "import sys; from pathlib import Path; from runner.sandbox.process import Command\n"
        "work = Path(sys.argv[1])\n"
        "sandbox.run(Command(('sh', '-c', sys.argv[2]), work, {'PATH': '/usr/bin:/bin'}, writable=(work,)))\n"
    )
    root = Path(__file__).resolve().parents[2]
    line = f"setsid sh -c '{BEAT}' & wait"
    runner = subprocess.Popen([PYTHON, "-c", script, str(work), line], cwd=root)
    try:
        by = time.monotonic() + 100
        while not (work / "beat").exists() and time.monotonic() < by:
            time.sleep(0.05)
    finally:
        runner.kill()
        runner.wait()
    time.sleep(0.3 if closed.name == "sandbox" else 5)  # podman has to be started first
    assert_stopped(work / "beat")


def test_an_inner_folder_has_its_own_word(closed: Sandbox, work: Path) -> None:
    (work / "kept").mkdir()
    outcome = closed.run(sh(work, "touch free; touch kept/x", readable=(work / "kept",)))
    assert outcome.code == 1
    assert sorted(path.name for path in work.rglob("*")) == ["free", "kept"]


def test_a_folder_that_became_a_link_outwards_is_not_bound(closed: Sandbox, work: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (work / "share").symlink_to(tmp_path / "secret")
    with pytest.raises(SandboxError, match="leads out"):
        closed.run(sh(work, "ls share", readable=(work / "share",)))


def test_a_sandbox_that_cannot_be_made_is_no_failed_command(closed: Sandbox, work: Path) -> None:
    with pytest.raises(SandboxError, match="missing"):
        closed.run(sh(work, "true", readable=(work / "missing",)))
    with pytest.raises(SandboxError, match="missing"):
        closed.open(sh(work, "true", readable=(work / "missing",))).close()


WRITABLE = """
import os
def below(folder):
    for entry in os.scandir(folder):
        if entry.is_symlink() or folder == "/proc" and entry.name.isdigit():
            continue
        if entry.is_dir(follow_symlinks=False):
            try:
                yield from below(entry.path)
            except OSError:
                pass
        else:
            yield entry.path
for path in below("/proc"):
    try:
        handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        continue
    if os.fstat(handle).st_rdev != os.stat("/dev/null").st_rdev:  # an engine hides files behind it
        print(path)
"""


def test_nothing_of_proc_but_processes_can_be_written(closed: Sandbox, work: Path) -> None:
    outcome = closed.run(command(work, python(closed), "-c", WRITABLE))
    assert (outcome.code, outcome.tail) == (0, b"")
    assert closed.run(sh(work, "cat /proc/sys/kernel/ostype; echo 500 > /proc/self/oom_score_adj")).tail == b"Linux\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root could read it")
def test_root_reads_of_proc_what_any_user_may(closed: Sandbox, work: Path) -> None:
    look = "for f in /proc/[a-z]*; do test -f $f && test -r $f || continue; stat -c '%a %n' $f; done; cat /proc/keys 2>/dev/null"
    seen = closed.run(sh(work, look)).tail.decode().splitlines()
    assert seen
    assert [line for line in seen if int(line.split()[0], 8) & 0o004 == 0] == []


CALL = "import ctypes; call = ctypes.CDLL(None, use_errno=True).syscall; "


def system_call(closed: Sandbox, work: Path, *arguments: object) -> str:
    """Make one system call inside, and return the name of its error, or what it returned."""
    line = f"{CALL}import errno; n = call({', '.join(map(str, arguments))}); e = ctypes.get_errno()"
    outcome = closed.run(command(work, python(closed), "-c", f"{line}; print(errno.errorcode[e] if n == -1 else n)"))
    return outcome.tail.decode().strip()


def own_number(name: str) -> int:
    if os.uname().machine not in MACHINES:
        pytest.skip("the filter has no table for this machine")
    return {**REFUSED, **BY_FLAG, "clone3": CLONE3}[name][MACHINES[os.uname().machine][1]]


@pytest.mark.parametrize("name", REFUSED)
def test_a_system_call_that_is_refused_says_so(closed: Sandbox, work: Path, name: str) -> None:
    expected = "ENOSYS" if name.startswith("io_uring") else "EPERM"
    assert system_call(closed, work, own_number(name), 0, 0, 0, 0, 0) == expected


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="these are other ABIs of x86-64")
def test_the_machine_s_other_abis_are_refused(closed: Sandbox, work: Path) -> None:
    x32 = f"{CALL}print(call({0x40000000 + 39}))"  # getpid
    # mov eax, 20 (getpid of i386); int 0x80; ret
    i386 = (
        "import ctypes, mmap; m = mmap.mmap(-1, 4096, prot=7); m.write(bytes.fromhex('b814000000cd80c3'))"
        "; f = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m))); print(f())"
    )
    for line, refused in ((x32, b"-1\n"), (i386, b"-38\n")):  # -ENOSYS
        outcome = closed.run(command(work, python(closed), "-c", line))
        killed = (128 + signal.SIGSYS, b"")  # libseccomp's filters end whoever calls by another ABI
        assert (outcome.code, outcome.tail) == (killed if closed.name == "container" else (0, refused))


def test_no_other_namespace_is_made_and_nothing_is_mounted(closed: Sandbox, work: Path) -> None:
    for line in (NESTED, "unshare --mount true", "mount -t tmpfs none /tmp", "unshare --user --map-root-user true"):
        assert not closed.run(sh(work, line)).ok, line


NESTED = "unshare --user true"  # the kernel does not let a root without capabilities map its uid there


def test_a_command_makes_no_user_namespace_unless_it_may(work: Path) -> None:
    bubblewrap()
    assert not Bubblewrap(TOOLCHAINS).run(sh(work, NESTED)).ok
    outcome = Bubblewrap(TOOLCHAINS, user_namespaces=True).run(sh(work, NESTED))
    assert (outcome.code, outcome.tail) == (0, b"")


@pytest.mark.parametrize("name", ["unshare", "clone"])
def test_no_user_namespace_where_bubblewrap_cannot_forbid_it(work: Path, name: str) -> None:
    bubblewrap()
    old = Bubblewrap(TOOLCHAINS)
    old.__dict__["_can_disable_userns"] = False  # as of an older one
    assert system_call(old, work, own_number(name), 0x10000000 | (17 if name == "clone" else 0), 0, 0, 0, 0) == "EPERM"
    assert system_call(old, work, own_number("clone3"), 0, 0) == "ENOSYS"
    threads = "import threading, subprocess; t = threading.Thread(target=print, args=['ran']); t.start(); t.join()"
    assert old.run(command(work, PYTHON, "-c", f"{threads}; subprocess.run(['true'], check=True)")).tail == b"ran\n"


def test_a_setuid_bubblewrap_is_not_given_an_option_that_it_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho '    --disable-userns   Disable further use of user namespaces'\n")
    fake.chmod(0o4755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert not Bubblewrap()._can_disable_userns


@pytest.mark.parametrize("change", ["nothing", "program", "setting", "toolchain", "damage"])
def test_what_worked_is_tried_again_only_where_something_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    bubblewrap()
    bin_, told, memory = tmp_path / "bin", tmp_path / "told", tmp_path / "state/sandbox"
    bin_.mkdir()
    (bin_ / "bwrap").write_text(f'#!/bin/sh\necho "$1" >> {told}\nexec {shutil.which("bwrap")} "$@"\n')
    (bin_ / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_}:{os.environ['PATH']}")

    def asked(*toolchains: Path) -> list[str]:
        """Return bwrap's first words as a new process asks whether it works."""
        told.write_text("")
        assert Bubblewrap(toolchains, memory=memory).check() is None
        return told.read_text().split()

    assert "--args" in asked()
    assert asked() == []
    if change == "program":
        os.utime(bin_ / "bwrap", (1, 1))
    elif change == "setting":
        monkeypatch.setattr("runner.sandbox.bubblewrap._FORBIDS", (("kernel/ostype", "", ""),))
    elif change == "damage":
        memory.write_bytes(b"\xff\0")
    assert ("--args" in asked(*([tmp_path] if change == "toolchain" else []))) == (change != "nothing")
    assert len(list(memory.parent.iterdir())) == 1


def test_a_sandbox_that_could_not_be_made_is_tried_again(
    tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bubblewrap()
    memory = tmp_path / "sandbox"
    assert Bubblewrap(memory=memory).check() is None and memory.exists()
    (tmp_path / "bwrap").write_text("#!/bin/sh\necho 'setting up uid map: Permission denied' >&2; exit 1\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(SandboxError, match="could not make the sandbox: setting up uid map"):
        Bubblewrap(memory=memory).run(sh(work, "true"))
    assert not memory.exists()


def test_a_sandbox_that_worked_and_could_not_be_made_is_tried_again_by_the_same_run(
    tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bubblewrap()
    program, real = tmp_path / "bin/bwrap", shutil.which("bwrap")
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {real} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    sandbox = Bubblewrap(memory=tmp_path / "sandbox")
    assert sandbox.check() is None
    program.write_text("#!/bin/sh\necho 'setting up uid map: Permission denied' >&2; exit 1\n")
    with pytest.raises(SandboxError, match="could not make the sandbox: setting up uid map"):
        sandbox.run(sh(work, "true"))
    assert "setting up uid map" in str(sandbox.check())


SESSION = """
import ctypes, sys
call = ctypes.CDLL(None, use_errno=True).syscall
add, keyctl, line = int(sys.argv[1]), int(sys.argv[2]), sys.argv[4]
assert call(keyctl, 1, None) != -1  # a session keyring of this test's own
assert call(add, b"user", b"runner-test", b"hunter2", 7, -3) != -1
from pathlib import Path
from runner.sandbox.bubblewrap import Bubblewrap
from runner.sandbox.process import Command
from runner.sandbox import bubblewrap
if sys.argv[5:] == ["unfiltered"]:
    bubblewrap.filter_for = lambda machine, *, user_namespaces: None
work = Path(sys.argv[3])
found = "import ctypes, sys; print(ctypes.CDLL(None).syscall(int(sys.argv[1]), 10, -3, b'user', b'runner-test', 0))"
outcome = Bubblewrap().run(Command((line, "-c", found, str(keyctl)), work, {"PATH": "/usr/bin:/bin"}, 30, writable=(work,)))
print(outcome.tail.decode(), call(keyctl, 10, -3, b"user", b"runner-test", 0) > 0)
"""


@pytest.mark.parametrize("how", ["filtered", "unfiltered"])
def test_a_key_of_the_session_is_not_found_inside(work: Path, how: str) -> None:
    bubblewrap()
    numbers = [str(own_number(name)) for name in ("add_key", "keyctl")]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [PYTHON, "-c", SESSION, *numbers, str(work), "/usr/bin/python3", how], cwd=root, capture_output=True, text=True
    )
    assert done.stdout.split() == ["-1", "True"], done.stderr


# --- choosing, explaining ---------------------------------------------------------------------------------------------


def test_choose_gives_what_works() -> None:
    bubblewrap()
    assert [choose(name).name for name in ("sandbox", "host")] == ["sandbox", "host"]
    assert choose("host").check() is None


def test_choose_refuses_what_has_no_image_and_what_never_was() -> None:
    with pytest.raises(UsageError, match="no image is named"):
        choose("container")
    with pytest.raises(UsageError, match=r"(?s)sandbx.*use sandbox"):
        choose("sandbx")


def test_choose_says_how_to_get_a_sandbox(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxUnavailableError) as caught:
        choose("sandbox")
    assert caught.value.exit_code == 2
    for word in ("apt-get install bubblewrap", "dnf install bubblewrap", "--executor host", "RUNNER_EXECUTOR=host"):
        assert word in caught.value.hint


def test_a_bwrap_that_does_not_work_is_told_with_its_own_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert "No permissions to create new namespace" in (Bubblewrap().check() or "")


@pytest.mark.parametrize("line", ["tool", "cd . && tool --fast", "exec tool"])
def test_a_program_that_is_outside_only_is_told_as_that(
    bwrap: Bubblewrap, work: Path, tmp_path: Path, line: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "tool").write_text("#!/bin/sh\n")
    (outside / "tool").chmod(0o755)
    path = f"{outside}:{PATH}"
    argv = ("sh", "-c", line)
    outcome = bwrap.run(command(work, *argv, env={"PATH": path}))
    assert outcome.code == 127
    assert explain(outcome, argv, path) == f"tool is found outside the sandbox ({outside}/tool) but not inside"
    assert explain(outcome, argv, PATH) is None


@pytest.mark.parametrize(
    "said",
    [
        b"sh: 1: env: not found",  # dash
        b"bash: line 1: env: command not found",
        b"sh: env: not found",  # busybox
        b"/usr/bin/env: \xe2\x80\x98env\xe2\x80\x99: No such file or directory",
        b"env: env: No such file or directory",  # BSD
    ],
)
def test_explain_reads_the_names_that_shells_say(said: bytes) -> None:
    def ended(code: int, tail: bytes) -> CommandOutcome:
        return CommandOutcome(code, False, 0.1, "", len(tail), tail)

    assert str(explain(ended(127, said + b"\n"), ("sh", "-c", "env"), PATH)).startswith("env is found outside")
    assert explain(ended(1, said), ("sh", "-c", "env"), PATH) is None
    assert explain(ended(127, said.replace(b"env", b"no-such-program")), ("sh", "-c", "no-such-program"), PATH) is None
    assert explain(ended(127, b""), ("sh", "-c", "exit 127"), PATH) is None


def test_what_the_runner_had_started_before_is_left_alone(work: Path) -> None:
    for _ in range(20):  # a process that began in the same tick of the kernel's clock cannot be told by its age
        before = subprocess.Popen(["sleep", "60"], start_new_session=True)
        try:
            assert Host().run(command(work, "true")).ok
            assert before.poll() is None
        finally:
            before.kill()
            before.wait()


def test_on_macos_the_way_out_is_a_container_or_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SandboxUnavailableError, match="bubblewrap is for Linux") as caught:
        choose("sandbox")
    for word in ("`executor: container`", "--executor host"):
        assert word in caught.value.hint


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`",
        ),
        ("kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1`"),
        ("user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=15000`"),
        ("user/max_user_namespaces", "1000", "a container that runs this has to allow user namespaces"),
    ],
)
def test_where_user_namespaces_are_forbidden_the_setting_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    (tmp_path / "bwrap").write_text("#!/bin/sh\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text(f"{value}\n")
    assert told in remedy(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "kernel"))
    assert remedy(tmp_path).startswith("install bubblewrap")


@pytest.mark.parametrize("is_folder", [True, False])
def test_a_link_on_the_way_to_what_is_shown_is_not_followed(tmp_path: Path, is_folder: bool) -> None:
    """bubblewrap would follow it, out of the sandbox, and make a folder or an empty file there."""
    work, there, victim = tmp_path / "work", tmp_path / "shown/inner", tmp_path / "victim"
    for folder in (work, there, victim):
        folder.mkdir(parents=True)
    source = there if is_folder else there / "file"
    if not is_folder:
        source.write_text("")
    (work / "inner").symlink_to(f"/oldroot{victim}")
    sandbox = Bubblewrap(TOOLCHAINS).placed(Place({work: tmp_path / "shown"}))
    with pytest.raises(SandboxError, match="in the way"):
        sandbox.run(Command(("true",), work, {"PATH": PATH}, 30, writable=(work,), readable=(source,)))
    assert not list(victim.iterdir())
