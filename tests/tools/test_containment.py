"""Attacks on the model's tools: what a hostile model, or a hostile repository, gets out of them.

`host` has no sandbox: what commands do there is held by nothing but a person's word, so only file tools and git, and what is
ended, are tested in both places.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import pytest

from runner.store.environment import matching
from runner.tools import ToolError
from tests.conftest import mostly_slow, slack
from tests.tools.agent_ground import Ground, Hand, place

CANARY = "s3cret-canary"


@pytest.fixture(params=["sandbox", "host"])
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Ground:
    return Ground(tmp_path, place(request.param))


@pytest.fixture
def hand(ground: Ground) -> Iterator[Hand]:
    with ground.open() as tools:
        yield Hand(tools)


@pytest.fixture
def boxed(tmp_path: Path) -> Ground:
    return Ground(tmp_path, place("sandbox"))


@pytest.fixture
def inside(boxed: Ground) -> Iterator[Hand]:
    with boxed.open() as tools:
        yield Hand(tools)


def untouched(ground: Ground) -> bool:
    return os.listdir(ground.outside) == ["secret"] and (ground.outside / "secret").read_text() == f"{CANARY}\n"


def living(mark: str) -> list[str]:
    """Return the processes of the machine that have `mark` in their command line."""
    found = []
    for path in matching(Path("/proc"), "[0-9]*/cmdline"):
        with suppress(OSError):
            if mark.encode() in path.read_bytes() and int(path.parent.name) != os.getpid():
                found.append(path.parent.name)
    return found


def write_by_every_tool(hand: Hand, path: str) -> None:
    """No tool that writes takes the path."""
    hand.refused("write_file", path=path, content="owned")
    hand.refused("edit_file", path=path, edits=[{"old": "s", "new": "owned"}])
    hand.refused("apply_patch", patch=f"--- /dev/null\n+++ {path}\n@@ -0,0 +1 @@\n+owned\n")
    hand.refused("apply_patch", patch=f"--- {path}\n+++ {path}\n@@ -1 +1 @@\n-{CANARY}\n+owned\n")
    hand.refused("apply_patch", patch=f"--- {path}\n+++ /dev/null\n@@ -1 +0,0 @@\n-{CANARY}\n")


# --- writes outside, reads of secrets ----------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["sandbox", "host"])
def links(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ground, Hand]]:
    """Links that lead out of the workspace, and tools that were opened once: they refuse all, so nothing changes between tests."""
    ground = Ground(tmp_path_factory.mktemp("links"), place(request.param))
    (ground.work / "link").symlink_to("../outside")
    (ground.work / "file").symlink_to("../outside/secret")
    (ground.work / "absolute").symlink_to(ground.outside)
    (ground.work / "up").symlink_to("..")
    (ground.work / "chain").symlink_to("link")
    (ground.work / "a").mkdir()
    with ground.open() as tools:
        yield ground, Hand(tools)


@pytest.mark.parametrize(
    "path",
    [
        *("../outside/secret", "a/../../outside/secret", "./../outside/secret", "..", "/workspace/../outside/secret"),
        *("OUTSIDE/secret", "/etc/passwd", "/workspace2/x", "//etc/passwd", "~/.ssh/id_ed25519", "~root/x"),
        *("link/secret", "file", "absolute/secret", "up/outside/secret", "chain/secret", "/workspace/link/secret"),
    ],
)
def test_no_file_tool_leaves_the_workspace(links: tuple[Ground, Hand], path: str) -> None:
    ground, hand = links
    path = path.replace("OUTSIDE", str(ground.outside))
    write_by_every_tool(hand, path)
    for tool, more in (("read_file", {}), ("list_files", {}), ("search_text", {"pattern": "."})):
        hand.refused(tool, path=path, **more)
    assert untouched(ground)
    assert hand("search_text", pattern=CANARY)["matches"] == []


def test_links_that_stay_inside_are_read_and_never_written_through(ground: Ground, hand: Hand) -> None:
    ground.write("src/b.txt", "inside\n")
    (ground.work / "link").symlink_to("src")
    (ground.work / "absolute").symlink_to("/workspace/src/b.txt")
    (ground.work / "round").symlink_to("round")
    assert hand("read_file", path="link/b.txt")["text"] == "inside"
    assert hand("read_file", path="absolute")["text"] == "inside"
    assert "too many links" in hand.refused("read_file", path="round")
    for path in ("link/b.txt", "absolute", "link/new", "round"):
        assert "nothing is written through links" in hand.refused("write_file", path=path, content="x")
    assert ground.text("src/b.txt") == "inside\n"


@pytest.mark.parametrize("path", ["", "a\0b", "/", "/workspace", ".", "a.txt/x", "x" * 5000, "x/" * 3000 + "x"])
def test_what_is_no_files_name_is_refused(hand: Hand, path: str) -> None:
    hand.refused("write_file", path=path, content="x")
    hand.refused("read_file", path=path)


def test_a_hard_link_is_replaced_not_written_through(ground: Ground, hand: Hand) -> None:
    (ground.work / "hard").hardlink_to(ground.outside / "secret")
    hand("write_file", path="hard", content="mine\n")
    assert untouched(ground) and ground.text("hard") == "mine\n"


def test_commands_write_nothing_but_what_they_are_given(boxed: Ground, inside: Hand) -> None:
    targets = [
        boxed.outside / "new",
        boxed.outside / "secret",
        boxed.work.parent / "new",
        Path("/usr/new"),
        Path("/etc/passwd"),
    ]
    for target in targets:
        inside("shell", command=f"echo owned > {shlex.quote(str(target))}")
    inside(
        "shell",
        command=f"rm -rf {boxed.outside} {boxed.work.parent}/*; mkdir -p {boxed.outside}; echo x > {boxed.outside}/y",
    )
    assert untouched(boxed) and not Path("/usr/new").exists() and not (boxed.work.parent / "new").exists()
    assert "owned" not in Path("/etc/passwd").read_text()


def test_commands_read_no_secrets(boxed: Ground, inside: Hand) -> None:
    home = Path.home()
    told = inside(
        "shell", command=f"cat {boxed.outside}/secret; grep -rs {CANARY} {boxed.outside} {home}/.ssh /etc 2>&1"
    )
    assert CANARY not in told["output"] and told["exit_code"] != 0
    names = ("/etc/shadow", "/etc/ssh", "/var/run/docker.sock", f"{home}/.ssh", f"{home}/.netrc", f"{home}/.config/gh")
    assert inside("shell", command=f"ls -d {' '.join(names)} 2>/dev/null")["output"] == ""


# --- /proc of the parent -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["self", "thread-self", "1", "PARENT"])
def test_file_tools_read_nothing_of_proc(ground: Ground, hand: Hand, name: str) -> None:
    name = name.replace("PARENT", str(os.getpid()))
    (ground.work / "link").symlink_to(f"/proc/{name}/environ")
    (ground.work / "root").symlink_to(f"/proc/{name}/root")
    for path in (f"/proc/{name}/environ", "link", f"root{ground.outside}/secret", f"root/proc/{name}/environ"):
        hand.refused("read_file", path=path)
        hand.refused("write_file", path=path, content="")


def test_commands_see_no_process_but_their_own(inside: Hand) -> None:
    own = Path("/proc/self/cmdline").read_bytes().split(b"\0")[0].decode()
    told = inside("shell", command="cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr '\\0' '\\n'; ls /proc")
    assert own not in told["output"].splitlines()
    assert len([line for line in told["output"].splitlines() if line.isdigit()]) < 10
    assert inside("run", argv=["kill", "-0", str(os.getpid())])["exit_code"] != 0


def test_a_command_does_not_reach_the_worker(boxed: Ground, inside: Hand) -> None:
    inside("read_file", path="a.txt")
    assert "worker.py" not in inside("shell", command="cat /proc/[0-9]*/cmdline | tr '\\0' ' '")["output"]
    inside("shell", command="kill -9 -1")
    assert inside("read_file", path="a.txt")["text"] == "one\ntwo\nthree"


# --- network and sockets -----------------------------------------------------------------------------------------------


@contextmanager
def listening(family: int, address: object) -> Iterator[list[int]]:
    """Give a list that gets an entry for each connection made."""
    heard: list[int] = []
    with socket.socket(family, socket.SOCK_STREAM) as server:
        server.bind(address)  # type: ignore[arg-type]
        server.listen()
        server.settimeout(0.1)
        over = threading.Event()

        def accept() -> None:
            while not over.is_set():
                with suppress(OSError):
                    server.accept()[0].close()
                    heard.append(1)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            heard.append(server.getsockname()[1] if family != socket.AF_UNIX else 0)
            yield heard
        finally:
            over.set()
            thread.join()


CONNECT = "import socket,sys; s = socket.socket({family}, {kind}); s.settimeout(2); s.connect({address})"


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_commands_have_no_network(inside: Hand, family: int) -> None:
    local = "127.0.0.1" if family == socket.AF_INET else "::1"
    try:
        probe = socket.socket(family)
        probe.bind((local, 0))
        probe.close()
    except OSError:  # a machine without IPv6 has nothing to reach
        return
    with listening(family, (local, 0)) as heard:
        line = CONNECT.format(family=int(family), kind=1, address=(local, heard[0]))
        assert inside("run", argv=["python3", "-c", line])["exit_code"] == 1
        assert len(heard) == 1
    lookup = inside("run", argv=["python3", "-c", "import socket; socket.getaddrinfo('example.com', 80)"])
    assert lookup["exit_code"] == 1
    metadata = CONNECT.format(family=2, kind=1, address=("169.254.169.254", 80))
    assert inside("run", argv=["python3", "-c", metadata])["exit_code"] == 1
    assert (
        inside("shell", command="ls /sys/class/net 2>/dev/null || cut -d: -f1 /proc/net/dev")["output"].count("eth")
        == 0
    )


def test_the_ssh_agents_socket_is_not_there(
    boxed: Ground, inside: Hand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = Path("/tmp") / f"agent-{uuid4().hex[:8]}"  # a socket's path is 107 bytes at most
    monkeypatch.setenv("SSH_AUTH_SOCK", str(short))
    try:
        with listening(socket.AF_UNIX, str(short)) as heard:
            assert inside("shell", command="env | grep -c SSH")["output"] == "0\n"
            line = CONNECT.format(family=1, kind=1, address=repr(str(short)))
            assert inside("run", argv=["python3", "-c", line])["exit_code"] == 1
            (boxed.work / "agent").symlink_to(short)
            inside.refused("read_file", path="agent")
            assert len(heard) == 1
        abstract = f"\0runner-{uuid4().hex}"
        with listening(socket.AF_UNIX, abstract) as heard:
            line = CONNECT.format(family=1, kind=1, address=repr(abstract))
            inside.refused("run", argv=["python3", "-c", line.replace("\\x00", "\0")])
            assert inside("run", argv=["python3", "-c", line])["exit_code"] == 1
            assert len(heard) == 1
    finally:
        short.unlink(missing_ok=True)


# --- too much, and too long --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_fork_bomb_is_bounded_and_ended(ground: Ground, hand: Hand) -> None:
    """Five hundred processes of a bomb; one without bound would be bounded by the limit alone, from which root is exempt."""
    mark = f"0.{uuid4().int % 10**8:08}"
    line = f"f() {{ if [ $1 -gt 0 ]; then f $(($1-1)) & f $(($1-1)) & fi; exec sleep 30{mark[1:]}; }}; f 8"
    began = time.monotonic()
    assert hand("shell", command=line, timeout=3)["timed_out"]
    assert time.monotonic() - began < 20 * slack()
    assert living(f"30{mark[1:]}") == []
    if ground.sandbox.name == "sandbox":
        limit = hand("shell", command="cat /proc/self/limits")["output"]
        (processes,) = [line.split()[2] for line in limit.splitlines() if line.startswith("Max processes")]
        assert int(processes) <= 4096


@pytest.mark.slow
def test_endless_output_is_ended(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.tools.commands.MOST_OUTPUT", 20_000_000)
    mark = uuid4().hex
    told = hand.refused("run", argv=["yes", mark])
    assert "ended after 2" in told and len(told) < 3000
    assert living(mark) == []
    timed = hand("shell", command=f"while :; do echo {mark}; sleep 0.001; done", timeout=1)
    assert timed["timed_out"] and len(timed["output"]) < 11_000
    assert living(mark) == []


@pytest.mark.parametrize(
    "line",
    [
        "sleep MARK & exit 0",
        "setsid sleep MARK & exit 0",
        "(setsid sh -c 'sleep MARK & sleep MARK' >/dev/null 2>&1 &) ; exit 0",
        "nohup setsid sleep MARK >/dev/null 2>&1 </dev/null & sleep 60",
        "trap '' TERM HUP; setsid sh -c \"trap '' TERM HUP; while :; do sleep MARK; done\" & sleep 60",
    ],
    ids=["child", "session", "forked twice", "with a timeout", "stubborn"],
)
@pytest.mark.slow
def test_no_child_survives(hand: Hand, line: str) -> None:
    mark = f"61.{uuid4().int % 10**9:09}"
    hand("shell", command=line.replace("MARK", mark), timeout=1.0)
    assert living(mark) == []


def test_nothing_of_the_tools_survives_them(ground: Ground) -> None:
    with ground.open() as tools:
        Hand(tools)("read_file", path="a.txt")
        assert living(str(ground.work))
    assert living(str(ground.work)) == []


# --- races -------------------------------------------------------------------------------------------------------------


@contextmanager
def swapping(one: Path, other: Path) -> Iterator[list[int]]:
    """Exchange two names all the time, each time at once (renameat2(2), RENAME_EXCHANGE); give a list of how often."""
    over, count = threading.Event(), [0]
    exchange: Callable[..., int] = ctypes.CDLL(None, use_errno=True).renameat2

    def swap() -> None:
        while not over.is_set():
            assert exchange(-100, os.fsencode(one), -100, os.fsencode(other), 2) == 0, os.strerror(ctypes.get_errno())
            count[0] += 1
            time.sleep(0.0002)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield count
    finally:
        over.set()
        thread.join()


def test_a_folder_that_becomes_a_link_meanwhile_is_not_followed(ground: Ground, hand: Hand) -> None:
    ground.write("d/in/file", "inside\n")
    (ground.outside / "in").mkdir()
    (ground.outside / "in/file").write_text(CANARY)
    (ground.work / "l").symlink_to(ground.outside)
    done = refused = 0
    with swapping(ground.work / "d", ground.work / "l") as count:
        for number in range(500):
            try:
                hand("write_file", path=f"d/in/new-{number % 7}", content=f"{number}")
                done += 1
            except ToolError:
                refused += 1
            with suppress(ToolError):
                assert CANARY not in hand("read_file", path="d/in/file")["text"]
            with suppress(ToolError):
                hand("edit_file", path="d/in/file", edits=[{"old": CANARY, "new": "owned"}])
    assert done and refused and count[0] > 100
    assert sorted(os.listdir(ground.outside)) == ["in", "secret"]
    assert os.listdir(ground.outside / "in") == ["file"] and (ground.outside / "in/file").read_text() == CANARY


@pytest.mark.slow
def test_a_file_that_becomes_a_link_meanwhile_is_not_followed(ground: Ground, hand: Hand) -> None:
    ground.write("file", "inside\n")
    (ground.work / "l").symlink_to(ground.outside / "secret")
    with swapping(ground.work / "file", ground.work / "l") as count:
        for number in range(250):
            with suppress(ToolError):
                assert CANARY not in hand("read_file", path="file")["text"]
            if number % 5 == 0:
                with suppress(ToolError):
                    hand(
                        "edit_file",
                        path="file",
                        edits=[{"old": "inside", "new": "inside"}, {"old": CANARY, "new": "x"}],
                    )
            assert all(CANARY not in line for line in hand("search_text", pattern="[a-z]", path=".")["matches"])
    assert count[0] > 100
    assert untouched(ground)


# --- git's directories -------------------------------------------------------------------------------------------------

GITS = [
    *(
        ".git",
        ".GIT",
        ".Git",
        "a/../.git",
        "./.git",
        "sub/.git",
        "sub/.GIT",
        ".git.",
        ".git ",
        ".git::$INDEX_ALLOCATION",
    ),
    *("git~1", "GIT~1", ".g\u200cit", "/workspace/.git", "sub\\.git", "link", "sub/../link"),
]


@pytest.fixture(scope="module", params=["sandbox", "host"])
def gits(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ground, Hand]]:
    """Repositories in the workspace and a link to one, and tools that were opened once: they refuse all."""
    ground = Ground(tmp_path_factory.mktemp("gits"), place(request.param))
    ground.write("sub/.git/config", "[core]\n")
    (ground.work / "a").mkdir()
    (ground.work / "link").symlink_to(".git")
    with ground.open() as tools:
        yield ground, Hand(tools)


@pytest.mark.parametrize("name", GITS)
def test_what_is_gits_is_not_for_file_tools(gits: tuple[Ground, Hand], name: str) -> None:
    ground, hand = gits
    before = {path: path.read_bytes() for path in ground.work.rglob("*") if path.is_file()}
    for inner in ("config", "hooks/post-checkout", "HEAD"):
        write_by_every_tool(hand, f"{name}/{inner}")
        hand.refused("read_file", path=f"{name}/{inner}")
    hand.refused("write_file", path=name, content="gitdir: /elsewhere\n")
    hand.refused("list_files", path=name)
    assert {path: path.read_bytes() for path in ground.work.rglob("*") if path.is_file()} == before
    assert not any(".git/" in path for path in hand("list_files")["files"])
    assert hand("search_text", pattern="repositoryformatversion")["matches"] == []


@pytest.mark.parametrize(
    "path",
    [
        *(".protocols/0001-x/state.json", ".protocols/policy.yaml", ".Protocols/policy.yaml", ".protocols/memory"),
        *(".protocols/memory/../policy.yaml", ".protocols/Memory/x.md", "protoc~1/x", ".protocols"),
    ],
)
def test_of_the_record_only_memory_is_written(ground: Ground, hand: Hand, path: str) -> None:
    write_by_every_tool(hand, path)
    assert not (ground.work / ".protocols/policy.yaml").exists()
    hand("write_file", path=".protocols/memory/fact.md", content="x\n")


def test_our_own_repository_is_not_there(boxed: Ground, tmp_path: Path) -> None:
    ours = tmp_path / "ours.git"
    for folder in ("objects/pack", "hooks"):
        (ours / folder).mkdir(parents=True)
    (ours / "config").write_text(CANARY)
    with boxed.open(readable=(ours / "objects",)) as tools:
        hand = Hand(tools)
        assert hand("shell", command=f"ls {ours}")["output"] == "objects\n"
        line = f"cat {ours}/config; echo x > {ours}/hooks/post-checkout; echo x > {ours}/objects/x; rm -rf {ours}/objects/pack"
        assert CANARY not in hand("shell", command=line)["output"]
    assert sorted(os.listdir(ours)) == ["config", "hooks", "objects"]
    assert os.listdir(ours / "hooks") == [] and os.listdir(ours / "objects") == ["pack"]


PLANTED = {
    "fsmonitor": "[core]\n\tfsmonitor = MARK\n",
    "hooks": "[core]\n\thooksPath = HOOKS\n",
    "pager": "[core]\n\tpager = MARK\n[pager]\n\tlog = MARK\n\tdiff = MARK\n",
    "external diff": '[diff]\n\texternal = MARK\n[diff "x"]\n\tcommand = MARK\n\ttextconv = MARK\n',
    "filter": '[filter "x"]\n\tclean = MARK\n\tsmudge = MARK\n\tprocess = MARK\n',
    "alias": "[alias]\n\tlog = !MARK\n\tstatus = !MARK\n",
    "signature": "[log]\n\tshowSignature = true\n[gpg]\n\tprogram = MARK\n",
    "include": "[include]\n\tpath = ../planted\n",
}


@pytest.mark.parametrize("planted", mostly_slow(PLANTED, 3))
def test_git_starts_nothing_that_the_workspace_names(ground: Ground, hand: Hand, planted: str) -> None:
    script = ground.write("mark", f"#!/bin/sh\ntouch {ground.work}/marked {ground.outside}/marked\ncat\n")
    script.chmod(0o755)
    hooks = ground.write("hooks/post-index-change", script.read_bytes())
    hooks.chmod(0o755)
    ground.write(".gitattributes", "* diff=x filter=x\n")
    text = PLANTED[planted].replace("MARK", str(script)).replace("HOOKS", str(hooks.parent))
    ground.write("planted", "[core]\n\tfsmonitor = " + str(script) + "\n")
    with (ground.work / ".git/config").open("a") as config:
        config.write(text)
    ground.write("a.txt", "changed\n")
    for args in (["status"], ["diff"], ["log", "-p"], ["show"], ["blame", "a.txt"], ["diff", "HEAD"]):
        if ground.sandbox.name == "host":
            assert "might start a program" in hand.refused("git", args=args)
        else:
            hand("git", args=args)
    assert untouched(ground) and not (ground.work / "marked").exists()


def test_a_repository_that_is_elsewhere_is_not_read(ground: Ground, hand: Hand, tmp_path: Path) -> None:
    (ground.work / ".git").rename(tmp_path / "elsewhere")
    (ground.work / ".git").symlink_to(tmp_path / "elsewhere")
    assert "not what it should be" in hand.refused("git", args=["log"])
    (ground.work / ".git").unlink()
    ground.write(".git", f"gitdir: {tmp_path}/elsewhere\n")
    assert "not what it should be" in hand.refused("git", args=["log"])


def test_git_does_not_read_through_links(ground: Ground, hand: Hand) -> None:
    (ground.work / "link").symlink_to(ground.outside)
    for args in (["diff", "HEAD:a.txt", "link/secret"], ["diff", "a.txt", "link/secret"], ["blame", "link/secret"]):
        assert CANARY not in hand.refused("git", args=args)
