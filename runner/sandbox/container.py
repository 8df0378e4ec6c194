"""Commands run in containers of an image: by podman, docker or nerdctl, the first whose command line works here and has the image.

A command sees the image's files read-only, and the folders that it names; HOME, /tmp, /run and /var/tmp are empty and its own. It has
no capabilities, a network as in bubblewrap (`network`), the engine's own seccomp filter, and the runner's user and group, so that
what it writes belongs to the person. Of the image's variables it has those that the caller takes from `Image.env`.

The first process of a container is the image's /bin/sh, which ends with the command's code; another one sends all SIGTERM. A shell
beside the runner removes the container, also when the runner is killed. `end_left` removes what outlived both.

Tried by our tests: podman. For docker and nerdctl they look at the arguments alone.
"""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from runner.errors import SandboxError, SandboxUnavailableError, UsageError
from runner.lines import lines_of, pattern
from runner.sandbox import network, terminal
from runner.sandbox.bubblewrap import MOST_PROCESSES, Bubblewrap
from runner.sandbox.host import Host
from runner.sandbox.mounts import HOME, binds, hidden_of_proc, home_of
from runner.sandbox.process import (
    Command,
    CommandOutcome,
    Group,
    Image,
    Limits,
    Place,
    Sandbox,
    Stdio,
    asked,
    last_line,
    not_started,
    program,
    started,
)
from runner.sandbox.seccomp import BY_FLAG, NEW_USER_NAMESPACE, REFUSED

ENGINES = ("podman", "docker", "nerdctl")
ANSWERS_WITHIN = 60.0  # seconds for what an engine is asked beside a command
MOST_ULIMIT = 32_768  # of open files, and of a user's processes where cgroups do not count a container's
LABEL = "protocol-runner.folder"
_WHERE = "executor: container"
_INSIDE = Path("/run/runner")
_NAME = pattern(r"[A-Za-z_][A-Za-z0-9_]*")
# The first process of a container gets no signal that it does not handle, and ends all others with itself. The command is no job in
# the background: a shell would have it ignore Ctrl-C.
_FIRST = b"""\
exec 4>&%d 2>/dev/null
trap : INT
[ ! -p /run/runner/gate ] || read -r go </run/runner/gate
(exec /usr/bin/env -i /bin/sh /run/runner/command "$@" 2>&4 4>&-)
code=$?
for file in /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control; do
    [ -r $file ] && while read -r key count; do
        [ "$key" = oom_kill ] && [ "$count" != 0 ] && echo "$count" >/run/runner/killed
    done <$file
done
exit $code
"""
# Beside the runner: at the end of its input the runner is dead, and the client, which would go on, is killed too.
_WATCH = """\
engine=$1 pid=$2 name=$3 folder=$4 word=
shift 4
while read -r word && [ "$word" = TERM ]; do
    "$engine" exec "$name" /bin/sh -c 'kill -TERM -1' &
done
[ "$word" = END ] || kill -KILL "$pid"
"$engine" "$@" "$name"
rm -rf "$folder"
"""
# What podman's filter allows although no build or test needs it: other file systems and namespaces, besides what bubblewrap's refuses.
_NOT_NEEDED = frozenset(
    (
        *("clone3", "setns", "mount", "umount", "umount2", "pivot_root", "mount_setattr", "move_mount"),
        *("open_tree", "fsopen", "fsconfig", "fsmount", "fspick"),
    )
)


@dataclass(frozen=True, slots=True)
class Engine:
    """A container engine's command line.

    `rootless`: its root is this user; `has_cgroups`: it can bound all processes together; `seccomp`: the file of its filter, if known.
    """

    path: str
    rootless: bool = False
    has_cgroups: bool = False
    seccomp: str = ""

    @property
    def name(self) -> str:
        """What it is called: one of `ENGINES`."""
        return Path(self.path).name

    @property
    def argv(self) -> tuple[str, ...]:
        """Return how it is called; a warning of its own would be taken for the command's output."""
        return (self.path, *(() if self.name == "nerdctl" else ("--log-level", "error")))

    @property
    def removal(self) -> tuple[str, ...]:
        """Return the command that removes a container at once."""
        return ("rm", "-f", *(("-t", "0") if self.name == "podman" else ()))


class Container(Sandbox):
    """Runs each command in a container of its own."""

    name = "container"
    image: Image

    def __init__(self, engine: Engine, image: Image) -> None:
        self.engine, self.image = engine, image

    @property
    def helper(self) -> Sandbox:
        """Where the runner's own programs run, which the image does not have; see `Sandbox.helper`."""
        return (Bubblewrap().placed(self.place) if _bubblewrap_works() else Host()).limited(self.limits)

    def attach(self, command: Command) -> CommandOutcome:
        """Run `command` at a terminal of its own; see `Sandbox.attach`."""
        return terminal.attach(partial(self._spawn, has_terminal=True), command)

    def check(self) -> str | None:
        """Return None where containers of the image run here, else why not; see `Sandbox.check`."""
        try:
            _try(self.engine, self.image.id)
        except SandboxError as error:
            return error.what
        return None

    def _spawn(self, command: Command, stdio: Stdio, *, has_terminal: bool = False) -> Group:
        import tempfile  # here, because most commands run in no container

        argv = program(command, ("PWD", "OLDPWD", "SHLVL", "_"))
        folder, name = Path(tempfile.mkdtemp(prefix="runner-")), f"runner-{os.urandom(8).hex()}"
        try:
            (folder / "first").write_bytes(
                _FIRST % (1 if stdio[2] == subprocess.STDOUT else 2)
            )  # one stream keeps its order
            (folder / "killed").touch()
            (folder / "command").write_bytes(b"\n".join(_script(command, self.place)))
            if command.network:
                os.mkfifo(folder / "gate")
            keys = ("--detach-keys=",) if self.engine.name == "podman" else ()  # they are the shell's
            first = (*(("--tty", *keys) if has_terminal else ()), self.image.id, f"{_INSIDE}/first", *argv)
            words = (*self.engine.argv, "run", *self.options(command, name, folder), *first)
            if has_terminal:
                words = (sys.executable, "-I", "-S", "-c", terminal.TAKE, *words)
            process = started(words, stdio, cwd="/")
            return _ContainerGroup(self.engine, process, name, folder, command.network)
        except OSError as error:
            shutil.rmtree(folder)
            raise not_started(command, error) from error
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)  # what watches a container removes it, too
            raise

    def options(self, command: Command, name: str, folder: Path) -> Iterator[str]:
        """Yield the options of the engine's `run`. `name`: of the container; `folder`: has the scripts that start the command."""
        yield from ("--name", name, "--label", f"{LABEL}={command.cwd}", "--interactive")
        yield from ("--pull=never", "--log-driver=none", "--read-only", "--cap-drop=all")
        yield from ("--security-opt=no-new-privileges", "--entrypoint=/bin/sh", "--workdir=/")
        if self.engine.name != "nerdctl":
            yield "--security-opt=label=disable"  # else SELinux would keep the person's own folders from it
        if self.engine.name == "podman":
            yield "--read-only-tmpfs=false"
            if hidden := hidden_of_proc():
                yield f"--security-opt=mask={':'.join(hidden)}"
        if self.engine.seccomp:
            (folder / "seccomp.json").write_bytes(_filter(self.engine.seccomp))
            yield f"--security-opt=seccomp={folder / 'seccomp.json'}"
        yield from _user(self.engine)
        yield "--network=none"
        yield from self._limits()
        shown = {there: (path, is_writable) for is_writable, path, there in binds(command, self.place)}
        for link, target in command.links:  # a container's root takes no link: the folder is shown there once more
            if not any(there.is_relative_to(link) for there in shown):
                below = {there: bind for there, bind in shown.items() if there.is_relative_to(target)}
                shown |= {Path(link, there.relative_to(target)): bind for there, bind in below.items()}
        more = f",size={self.limits.disk}" if self.limits.disk else ""
        more += (
            ",notmpcopyup" if self.engine.name == "podman" else ""
        )  # else it has what the image has there, and its mode
        for there in (Path("/tmp"), Path("/var/tmp"), Path("/run"), HOME):
            if there not in shown:
                yield f"--tmpfs={there}:rw,exec,nosuid,nodev,mode=1777{more}"
        for file in ("first", "command", "killed", *(("gate",) if command.network else ())):
            yield _mount(folder / file, _INSIDE / file, is_writable=file == "killed")
        for there, (path, is_writable) in shown.items():
            yield _mount(path, there, is_writable=is_writable)

    def _limits(self) -> Iterator[str]:
        limits = self.limits
        if self.engine.has_cgroups:
            yield f"--pids-limit={limits.processes or MOST_PROCESSES}"
            if limits.memory:
                yield from (f"--memory={limits.memory}", f"--memory-swap={limits.memory}")
            limits = Limits(cpu=limits.cpu, disk=limits.disk)
        options = limits.options()
        for option in options:
            yield f"--ulimit={option.removeprefix('--')}"
        yield "--ulimit=core=0:0"
        # An engine asks for more than the runner itself may have, which fails where nobody is allowed to raise it.
        for name, kind in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC)):
            if f"--{name}" not in {option.partition("=")[0] for option in options}:
                hard = resource.getrlimit(kind)[1]
                most = MOST_ULIMIT if hard == resource.RLIM_INFINITY else min(hard, MOST_ULIMIT)
                yield f"--ulimit={name}={most}:{most}"


class _ContainerGroup(Group):
    """The engine's client, and the container with all that runs in it; a shell beside the runner acts on that."""

    def __init__(
        self, engine: Engine, process: subprocess.Popen[bytes], name: str, folder: Path, reached: network.Network | None
    ) -> None:
        self.process, self._engine, self._name, self._folder = process, engine, name, folder
        self._was_ended = False
        self._gate: int | None = None
        words = ("/bin/sh", "-c", _WATCH, "sh", engine.path, str(process.pid), name, str(folder), *engine.removal)
        try:
            self._watch = started(words, (subprocess.PIPE, subprocess.DEVNULL, subprocess.DEVNULL), cwd="/")
        except BaseException:
            process.kill()
            process.wait()
            raise

        try:
            if reached:
                self._let_go(reached)
        except BaseException:
            self._was_ended = True
            self._tell(b"KILL\n")
            self._watch.wait()
            process.wait()
            raise

    def _let_go(self, reached: network.Network) -> None:
        """Start the proxy in the container's network, then its command, which waits at the gate.

        Raises:
            SandboxError: it cannot be entered.
        """
        until, pid = time.monotonic() + ANSWERS_WITHIN, ""
        while pid in ("", "0") and self.process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
            code, said = _ask(self._engine, "inspect", "--format", "{{.State.Pid}}", self._name)
            pid = said.strip() if code == 0 else ""
        if pid.isdecimal() and pid != "0":
            self.proxy = network.Proxy(reached, int(pid))
            self._gate = os.open(self._folder / "gate", os.O_RDWR)
            os.write(self._gate, b"\n")
        elif self.process.poll() is None:
            raise SandboxError(
                f"{self._engine.name} does not say which process the container is",
                where="executor: container",
                hint="remove `network:`; `runner doctor` shows whether containers run at all",
            )

    def remains(self) -> bool:
        return self.process.poll() is None

    def send(self, number: signal.Signals) -> None:
        self._was_ended = True
        self._tell(b"TERM\n" if number != signal.SIGKILL else b"KILL\n")

    def _tell(self, word: bytes) -> None:
        assert self._watch.stdin is not None
        with suppress(OSError):
            self._watch.stdin.write(word)
            self._watch.stdin.flush()

    def release(self, said: bytes) -> None:
        code, why = self.process.poll(), ""
        if self._gate is not None:
            os.close(self._gate)
        try:
            if code != 0 and not self._was_ended:
                self.out_of_memory = (self._folder / "killed").stat().st_size > 0
                if code is None or code < 0 or code in (125, 126, 127):
                    code, said_of = _ask(self._engine, "inspect", "--format", "{{.State.Status}}", self._name)
                    has_run = code == 0 and said_of.strip() in ("running", "exited", "stopped", "dead")
                    why = "" if has_run else last_line(said)
        finally:
            self._tell(b"END\n")
            assert self._watch.stdin is not None
            with suppress(OSError):
                self._watch.stdin.close()
            with suppress(subprocess.TimeoutExpired):  # an engine that hangs goes on beside us
                self._watch.wait(ANSWERS_WITHIN)
        if why:
            raise SandboxError(
                f"{self._engine.name} could not start the container: {why}",
                where=_WHERE,
                hint="an image needs /bin/sh and /usr/bin/env; `runner doctor` shows whether containers of it run at all",
            )


def choose(reference: str | None, *, user_namespaces: bool = False) -> Container:
    """Return containers of an image (a name with a digest, or a tag) of the first engine that works here and has it.

    Raises:
        SandboxUnavailableError: none does, or the image cannot run a command.
        UsageError: no image is given, or commands are to make user namespaces.
    """
    if reference is None or user_namespaces:
        raise UsageError(
            "commands in a container make no user namespaces" if reference else "no image is named for containers",
            f"{_WHERE}, in .protocols/config.yaml",
            "remove `workspace: {user_namespaces: true}`"
            if reference
            else "add `workspace: {image: NAME@sha256:DIGEST}` on the trusted branch, or a devcontainer.json with an `image`",
        )
    installed = [path for name in ENGINES if (path := shutil.which(name))]
    found, failed = list[Engine](), list[str]()
    for path in installed:
        try:
            found.append(_engine(path))
        except SandboxUnavailableError as error:
            failed.append(error.what)
    if not found:
        raise SandboxUnavailableError(
            f"no container engine works here: {'; '.join(failed)}"
            if installed
            else "neither podman, docker nor nerdctl is installed",
            _WHERE,
            f"`{Path(installed[0]).name} info` has to succeed: start its service, or its virtual machine"
            if installed
            else "install one, such as podman: `apt-get install podman`, `dnf install podman`, `brew install podman`",
        )
    for engine in found:
        if image := _image(engine, reference):
            sandbox = Container(engine, image)
            if (why := sandbox.check()) is not None:
                raise SandboxUnavailableError(
                    f"commands cannot be run in a container here: {why}",
                    _WHERE,
                    f"an image needs /bin/sh and /usr/bin/env; `{engine.name} run --rm {reference} true` has to succeed",
                )
            return sandbox
    raise SandboxUnavailableError(
        f"the image {reference} is not on this machine",
        _WHERE,
        f"`{found[0].name} pull {reference}`; the runner itself fetches none",
    )


def end_left(folder: Path) -> int:
    """Remove the containers whose commands ran in this folder, and that outlived a killed runner; return their number."""
    count = 0
    for path in filter(None, map(shutil.which, ENGINES)):
        engine = Engine(path)
        code, said = _ask(engine, "ps", "-a", "-q", "--filter", f"label={LABEL}={folder}")
        for name in said.split() if code == 0 else ():
            _ask(engine, *engine.removal, name)
            count += 1
    return count


@cache
def _engine(path: str) -> Engine:
    """Return the engine.

    Raises:
        SandboxUnavailableError: it does not work here. It is asked again the next time.
    """
    name = Path(path).name
    asked = "{{.SecurityOptions}}\n{{.MemoryLimit}}"
    if name == "podman":
        asked = "{{.Host.CgroupsVersion}} {{.Host.CgroupControllers}}\n"
        asked += "{{.Host.Security.Rootless}}\n{{.Host.Security.SECCOMPProfilePath}}"
    code, said = _ask(Engine(path), "info", "--format", asked)
    if code or len(lines := lines_of(said)) < 2:
        raise SandboxUnavailableError(f"{name}: {last_line(said.encode())}", _WHERE, f"`{name} info` has to succeed")
    if name != "podman":
        return Engine(path, "rootless" in lines[0] or (name == "nerdctl" and os.geteuid() != 0), lines[1] == "true")
    cgroups, is_rootless = re.findall(r"\w+", lines[0]), lines[1] == "true"
    # Without root, version 1 of cgroups cannot be used at all.
    has_cgroups = {"memory", "pids"} <= set(cgroups) and (not is_rootless or "v2" in cgroups)
    return Engine(path, is_rootless, has_cgroups, lines[2] if os.path.isfile(lines[2]) else "")


@cache
def _filter(path: str) -> bytes:
    """Return podman's seccomp filter without what bubblewrap's refuses: kernel keys, user namespaces, other ABIs …"""
    profile = json.loads(Path(path).read_bytes())
    for one in profile.get("archMap", ()):
        one["subArchitectures"] = []
    refused = {*REFUSED, *BY_FLAG, *_NOT_NEEDED}
    rules = [{**rule, "names": [name for name in rule["names"] if name not in refused]} for rule in profile["syscalls"]]
    for code in {code for *_, code in REFUSED.values()}:
        names = [name for name, call in REFUSED.items() if call[2] == code]
        rules.append({"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": code})
    given = {"index": 0, "value": NEW_USER_NAMESPACE, "op": "SCMP_CMP_MASKED_EQ"}
    rules.append({"names": [*BY_FLAG], "action": "SCMP_ACT_ALLOW", "args": [{**given, "valueTwo": 0}]})
    forbidden = {
        "action": "SCMP_ACT_ERRNO",
        "errnoRet": errno.EPERM,
        "args": [{**given, "valueTwo": NEW_USER_NAMESPACE}],
    }
    rules.append({"names": [*BY_FLAG], **forbidden})
    profile["syscalls"] = [rule for rule in rules if rule["names"]]
    return json.dumps(profile).encode()


def _image(engine: Engine, reference: str) -> Image | None:
    asked = "{{.Id}} {{json .RepoDigests}}\n{{json .Config.Env}}"
    code, said = _ask(engine, "image", "inspect", "--format", asked, reference)
    lines = lines_of(said)
    if code or len(lines) < 2:
        return None
    id, _, digests = lines[0].partition(" ")
    bare, _, digest = reference.partition("@")
    known = [one.partition("@")[2] for one in json.loads(digests) or ()]
    digest = digest or (known[0] if known else f"sha256:{id.removeprefix('sha256:')}")
    env = dict(one.split("=", 1) for one in json.loads(lines[1]) or () if "=" in one)
    return Image(f"{bare}@{digest}", id, env)


@cache
def _try(engine: Engine, image: str) -> None:
    """Run `true` in a container of an image, once.

    Raises:
        SandboxError: it does not run there. The next command tries again.
    """
    import tempfile

    with tempfile.TemporaryDirectory(prefix="runner-") as folder:
        given = Command(("true",), Path(folder), {"PATH": "/usr/bin:/bin"}, ANSWERS_WITHIN, readable=(Path(folder),))
        outcome = Container(engine, Image(image, image, {})).run(given)
    if not outcome.ok:
        what = f"{engine.name} cannot run `true`: {last_line(outcome.tail)}"
        raise SandboxUnavailableError(what, _WHERE, "an image needs /bin/sh and /usr/bin/env")


@cache
def _bubblewrap_works() -> bool:
    return Bubblewrap().check() is None


def _user(engine: Engine) -> Iterator[str]:
    """Yield the options by which a command has the runner's user and group outside."""
    if engine.name == "podman" and engine.rootless:
        yield "--userns=keep-id"
    else:
        yield "--user=0:0" if engine.rootless else f"--user={os.geteuid()}:{os.getegid()}"


def _mount(path: Path, there: Path, *, is_writable: bool) -> str:
    fields = ["type=bind", f"src={path}", f"dst={there}", *([] if is_writable else ["ro"])]
    quoted = [f'"{field.replace(chr(34), chr(34) * 2)}"' if set(field) & set(',"\r\n') else field for field in fields]
    return f"--mount={','.join(quoted)}"  # engines read it as CSV


def _script(command: Command, place: Place) -> Iterator[bytes]:
    """Yield the lines of the shell script that gives the command its environment: an argument could be read by every user.

    Raises:
        SandboxError: a shell has no variable of that name.
    """
    env = network.with_proxy(command.env) if command.network else command.env
    for name, value in {**env, "HOME": str(place.inside(home_of(command)))}.items():
        if not _NAME.fullmatch(name):
            raise SandboxError(
                "a container's shell has no variable of this name", where=name, hint="choose another one"
            )
        yield b"export %s=%s" % (name.encode(), os.fsencode(shlex.quote(value)))
    yield b"cd %s || exit 126" % os.fsencode(shlex.quote(str(place.inside(command.cwd))))
    yield b'exec "$@"\n'


def _ask(engine: Engine, *words: str) -> tuple[int, str]:
    """Ask an engine something: its exit code, and what it said."""
    code, said = asked((*engine.argv, *words), ANSWERS_WITHIN)
    return code, said.decode(errors="replace")
