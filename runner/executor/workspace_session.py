"""Where a step's commands run: the workspace, and the sandbox around it, with their environment."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner import beneath, signals
from runner.errors import RunnerError, SandboxUnavailableError, StepFailedError, UsageError
from runner.executor import environments, submodules
from runner.git import TreeEntry
from runner.lines import LAST, WIDTH, headline, lines_of, lines_of_output
from runner.protocol import paths
from runner.protocol.plans import Resources, bytes_of, seconds_of
from runner.sandbox import choose, container, network
from runner.sandbox.mounts import HOME, is_system, toolchains
from runner.sandbox.process import (
    Command,
    CommandOutcome,
    Limits,
    Place,
    Sandbox,
    end_all,
    explain,
    found_outside,
)
from runner.store import publishing, workspace
from runner.store.environment import Redactor, write_atomically
from runner.store.project import Project, Session
from runner.store.workspace import Workspace
from runner.trust import permit, trusted_config

if TYPE_CHECKING:
    from runner.executor.environments import ProjectEnvironment
    from runner.sandbox.network import Contact, Network

SETUP_TIMEOUT = 3600.0  # seconds
MOST_BUILT = 2_000_000_000  # bytes of a build folder that is copied
OUTPUT_LIMIT = 1024 * 1024  # bytes of a command's output that are kept
_CHUNK = 64 * 1024
COLLECTING = 30.0  # seconds, the least that git has to store what a step left


_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
# Exit codes of a command that a signal ended. What a program does where it gets no memory is its own; it says so in its output.
_RAN_OUT = {
    128 + signal.SIGXCPU: "a process used up its time on the processors (`resources: {cpu: …}`)",
    128 + signal.SIGXFSZ: "a file became larger than it may (`resources: {disk: …}`)",
    128 + signal.SIGKILL: "it was killed; the machine, or the container around it, may have run out of memory",
}
# What programs print that get no more of a resource: they go on, or end with an exit code of their own.
_LACKS = (
    (
        "memory",
        r"MemoryError|[Cc]annot allocate memory|bad_alloc|[Oo]ut ?[Oo]f ?[Mm]emory|memory allocation of \d+ bytes failed",
    ),
    ("processes", r"Resource temporarily unavailable|can't start new thread|[Cc]annot fork"),
    ("disk", r"No space left on device|ENOSPC|File too large"),
)
_MEMORY = "a process was killed, since all of them together used more memory than they may (`resources: {memory: …}`)"
# The variable by which a version manager's programs find what they start; their folder on PATH; what the variable then is.
_MANAGERS = (("PYENV_ROOT", "/.pyenv/shims", "/.pyenv"), ("RUSTUP_HOME", "/.cargo/bin", "/.rustup"))
_KEPT = "runner.executor"  # in the person's own git configuration: their answer where there is no sandbox


def _choose(project: Project, found: tuple[Path, ...], image: str | None) -> Sandbox:
    """Return the sandbox; where it does not work, ask once at a terminal, and keep the answer as the person's own.

    `image`: of containers.

    Raises:
        SandboxUnavailableError: there is none, and nobody said to do without.
    """
    wanted, where = project.source("executor")
    try:
        nested = project.config.workspace.user_namespaces
        return choose(
            project.setting("executor"),
            toolchains=found,
            user_namespaces=nested,
            image=image,
            memory=project.dirs.state_home / "sandbox",
        )
    except SandboxUnavailableError as error:
        if wanted != "sandbox" or where.startswith(("--", "RUNNER_")):
            raise
        code, out, _ = project.git.personal("config", "--global", "--get", _KEPT)
        if code == 0 and out.strip() == b"host":
            return choose("host", toolchains=found)
        answer = project.env.ask(
            f"{error.what}\nRun commands on this machine without a sandbox? They can then read and change whatever you can.",
            ("no", "once", "always"),
        )
        own = project.env.environ.get("GIT_CONFIG_GLOBAL")
        if answer == "always" and own is not None and Path(own).exists() and not Path(own).is_file():
            project.env.say(f"not kept: GIT_CONFIG_GLOBAL is {own}, and git would put a file in its place")
        elif answer == "always":
            project.git.personal("config", "--global", _KEPT, "host")
            project.env.say(f"kept as `git config --global {_KEPT} host`")
        if answer in ("once", "always"):
            return choose("host", toolchains=found)
        raise


def step_path(path: str) -> str:
    """Return the PATH of steps: `path` without the folder of the runner's own environment, whose python3 is not the project's.

    Where the system's own Python runs the runner, its folder holds the system's programs too, and stays.
    """
    own, folders = os.path.realpath(os.path.dirname(sys.executable)), path.split(os.pathsep)
    if sys.prefix != sys.base_prefix or not is_system(Path(own)):
        folders = [folder for folder in folders if not folder or os.path.realpath(folder) != own]
    return os.pathsep.join(folders) or _SYSTEM_PATH


def _limits(*given: Resources | None) -> Limits:
    """Return the lowest of each limit that is given."""

    def lowest(name: str, read: Callable[[Any], int]) -> int | None:
        return min((read(most) for one in given if (most := getattr(one, name, None)) is not None), default=None)

    return Limits(
        lowest("memory", bytes_of), lowest("cpu", seconds_of), lowest("processes", int), lowest("disk", bytes_of)
    )


def end_left(project: Project, protocol: str) -> None:
    """End the processes that a killed runner's commands left: they would work in the workspace beside the next ones.

    The caller holds the protocol. A sandbox's processes ended with their runner; on the host they are known by their HOME, containers
    by the folder.
    """
    try:
        space = workspace.place(project, protocol, project.config.workspace.path)
    except RunnerError:  # it is told by what needs one; nothing of ours ran there by this configuration
        return
    count = end_all(b"HOME=" + os.fsencode(space.home))
    if project.setting("executor") == "container":
        count += sum(map(container.end_left, (space.work, space.export)))
    if count:
        project.env.say(
            f"ended {count} process{'es' if count != 1 else ''} that a runner of {protocol} had left when it was killed"
        )


class KeptOutput:
    """Collects a command's output as it comes, for the history; of a long one it holds the first and the last half of `limit`.

    A secret that a cut divides would not be recognized in either part. Each part therefore holds as much more as the longest
    secret, which is dropped at the cut after the secrets are taken out.
    """

    def __init__(self, redactor: Redactor, limit: int = OUTPUT_LIMIT) -> None:
        self._redactor, self._half = redactor, limit // 2
        self._head, self._tail, self._size = bytearray(), bytearray(), 0
        self._part = self._half + redactor.longest

    def take(self, data: bytes) -> None:
        """Add the next part of the output."""
        self._size += len(data)
        room = self._part - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        if len(self._tail) > 2 * self._part + _CHUNK:
            del self._tail[: -self._part]

    def contact(self, one: Contact) -> None:
        """Add which host the command asked its proxy for."""
        self.take(f"[network] {one}\n".encode())

    def data(self) -> bytes:
        """Return the kept part; a line in the middle says where something is left out."""
        if len(self._head) + len(self._tail) == self._size:
            head = tail = self._redactor.data(bytes(self._head + self._tail))
            if len(head) <= 2 * self._half:
                return head
        else:
            head, tail = self._redactor.data(bytes(self._head)), self._redactor.data(bytes(self._tail))
            head, tail = head[: len(head) - self._redactor.longest], tail[self._redactor.longest :]
        head, tail = head[: self._half], tail[-self._half :]
        end, start = head.rfind(b"\n") + 1, tail.find(b"\n") + 1
        head = head[:end] if end > len(head) // 2 else head + b"\n"
        tail = tail[start:] if start <= len(tail) // 2 else tail
        return head + b"[... the middle of %d bytes is left out ...]\n" % self._size + tail


@dataclass(slots=True, eq=False)
class WorkspaceSession:
    """A workspace and the sandbox that its commands run in."""

    session: Session
    protocol: str
    space: Workspace
    sandbox: Sandbox
    own: ProjectEnvironment | None  # None on the host, which has all of it where it is
    limits: Limits
    tools_output: KeptOutput | None = None  # which hosts the processes of tools asked for

    @classmethod
    def open(
        cls,
        session: Session,
        protocol: str,
        resources: Resources | None = None,
        space: Workspace | None = None,
        *,
        runs_commands: bool = True,
    ) -> WorkspaceSession:
        """Choose the sandbox and find the workspace: the protocol's, if `space` is no other one.

        `resources`: the step's own, which lower what config.yaml says. `runs_commands`: if not, no sandbox is tried and nothing is
        looked for that commands would be shown; only containers are, since their image is part of their name.

        Raises:
            SandboxUnavailableError: there is no working sandbox here.
        """
        project = session.project
        project.refuse_unsupported()
        environ, found, environment = session.env.environ, tuple[Path, ...](), None
        space = space or workspace.place(session.project, protocol, project.config.workspace.path)
        executor = project.setting("executor")
        if not runs_commands and executor != "container":
            untried = choose(executor, user_namespaces=project.config.workspace.user_namespaces, tries=False)
            permit.refuse_denied(permit.executor(trusted_config.of(project), untried.name))
            return cls(session, protocol, space, untried, None, Limits())
        if executor == "container":
            environment = environments.find(project, space, in_image=True)
        elif executor != "host":
            path, home = step_path(environ.get("PATH", "")), Path(environ.get("HOME", "/nonexistent"))
            found = toolchains(path, home)
            environment = environments.find(project, space, found)
            programs = [str(at / "bin") for at in environment.folders.values()]
            found = toolchains(os.pathsep.join(programs), home, found) if programs else found
        image = environments.image_of(project) if executor == "container" else None
        limits = _limits(project.config.resources, resources)
        sandbox = _choose(project, found, image).limited(limits)
        permit.refuse_denied(permit.executor(trusted_config.of(project), sandbox.name))
        if environment and sandbox.image:
            environment = environment._replace(image=sandbox.image.name)
        return cls(session, protocol, space, sandbox, environment if sandbox.name != "host" else None, limits)

    @property
    def project(self) -> Project:
        """The project as the session has it now."""
        return self.session.project

    @property
    def environment_name(self) -> str | None:
        """What the record calls the environment of commands."""
        return self.own.name if self.own else None

    def home(self, cwd: Path | None = None) -> Path:
        """Return the HOME of a step's commands, or of its checks where `cwd` is the export."""
        return self.space.check_home if self.own and cwd == self.space.export else self.space.home

    def out(self, cwd: Path | None = None) -> Path:
        """Return where a command may leave its result."""
        return self.space.root / ("check-out" if self.own and cwd == self.space.export else "out")

    def environment(self, cwd: Path | None = None) -> dict[str, str]:
        """Return the environment that commands of each step of the protocol have, or of its checks where `cwd` is the export."""
        return {**self.base_environment(cwd), "RUNNER_PROTOCOL": self.protocol}

    def base_environment(self, cwd: Path | None = None) -> dict[str, str]:
        """Return the environment of commands that belong to no step."""
        environ, image = self.project.env.environ, self.sandbox.image
        kept = {key: environ[key] for key in ("PYENV_ROOT", "RUSTUP_HOME", "NVM_DIR", "JAVA_HOME") if key in environ}
        if image:
            environ, kept = image.env, dict(image.env)
        path = self.path
        # Where another environment is activated than the runner's own, it is the one that the person works in.
        if self.own and (environ.get("VIRTUAL_ENV") or None) in (None, sys.prefix):
            path = os.pathsep.join((*self.own.programs(cwd or self.space.work), path))
        for name, programs, root in _MANAGERS:  # their programs would look in HOME, which is another one inside
            if name not in kept and (at := next((one for one in path.split(":") if one.endswith(programs)), None)):
                kept[name] = at.removesuffix(programs) + root
        own = {"PATH": path, "HOME": str(self.home(cwd)), "LANG": "C.UTF-8", "TERM": "dumb", "TMPDIR": "/tmp"}
        return {**kept, **own}

    @property
    def path(self) -> str:
        """The PATH of programs that are not the project's own."""
        image = self.sandbox.image
        return image.env.get("PATH") or _SYSTEM_PATH if image else step_path(self.project.env.environ.get("PATH", ""))

    def prepare(
        self,
        commit: str,
        *,
        clean: bool = False,
        attempt: str = "",
        resumes: bool = False,
        approved: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Make the workspace hold exactly `commit`, and run the project's setup where it is due.

        `clean`: nothing is left of earlier steps, no ignored file and no HOME; the setup is due then. `attempt`: for which the HOME is
        emptied; one that `resumes` keeps what it has left there. `approved`: (before, after) of work that a
        person approved, newest first.

        Raises:
            StepFailedError: the setup failed; nothing is recorded.
        """
        git, config = self.project.git, self.project.config.workspace
        is_first = not os.path.exists(self.space.index)  # also where nobody may look
        workspace.reset(self.space, commit, self.protocol, clean=clean, trusted=self.project.trusted.commit)
        if is_first:  # a partial clone has its files now
            for line in submodules.empty_submodules(self.project, commit):
                self.session.tell_once(line)
        made = self._made(commit, approved) if self.own and config.setup else None
        try:
            if clean:
                workspace.forget_setup(self.space)
            note = self.space.root / "home-of"
            is_same = resumes and note.exists() and note.read_text() == attempt
            if clean or (self.own and not is_same):
                self._empty(self.space.home, () if clean else (environments.CACHE,))
            note.write_text(attempt)
            beneath.ensure(self.space.root, self.space.home.name)
            self._empty(self.out())
            if self.own:
                self.own = (environments.with_made(self.own, made) if made else self.own).at(git, commit)
                self.space.empty.touch()
                self._place(commit)
                self.own.fill(self.space.home)
                if self.own.generated:
                    workspace.put_ignored(self.space, self.own.generated)
                self._put_builds(self.space.work)
        except OSError as error:
            raise workspace.unusable(self.space, error) from error
        if not config.setup or made:
            return
        key = workspace.setup_key(git, commit, config.setup, config.key)
        if workspace.setup_done(self.space) == key:
            return
        self._set_up(config.setup, self.base_environment())
        workspace.note_setup(self.space, key)

    def _put_builds(self, folder: Path) -> None:
        """Put copies of build folders where commands may write; one that is too large, or that a build is writing, is left out."""
        assert self.own is not None
        for name, source in self.own.builds.items():
            if beneath.names(folder, name):
                continue
            why = f"it has more than {MOST_BUILT / 1e9:g} GB" if beneath.size(source) > MOST_BUILT else ""
            try:
                if not why:
                    workspace.put_build(self.space, name, source, folder)
            except shutil.Error:
                why = "it changes, or has something that cannot be read"
            if why:
                self.session.tell_once(f"steps and checks do not have {source}: {why}")

    def _place(self, commit: str) -> None:
        """Have the sandbox show the environment, and what the commit only names.

        Raises:
            StepFailedError: this clone does not have that.
        """
        assert self.own is not None
        self.own = self.own._replace(outside=submodules.content_shown(self.session, commit))
        self.sandbox = self.sandbox.placed(self.own.place(self.space))

    def beside(self, commit: str, resources: Resources | None, approved: Iterable[tuple[str, str]]) -> WorkspaceSession:
        """Return a session for checks of `commit` while the step is at work in the workspace, whose files stay as they are.

        `resources`, `approved`: as in `open` and `prepare`.
        """
        git, other = self.project.git, WorkspaceSession.open(self.session, self.protocol, resources)
        if other.own:
            made = other._made(commit, approved) if self.project.config.workspace.setup else None
            other.own = (environments.with_made(other.own, made) if made else other.own).at(git, commit)
            other._place(commit)
        return other

    def _empty(self, folder: Path, kept: Container[str] = ()) -> None:
        """Make an empty folder of one beside the workspace, whatever a command made of it; but for the names in `kept`."""
        root, name = self.space.root, folder.name
        if kept and beneath.is_folder(root, name):
            for one in beneath.names(root, name):
                if one not in kept or not beneath.is_folder(root, f"{name}/{one}"):
                    beneath.remove(root, f"{name}/{one}")
        else:
            beneath.remove(root, name)
        beneath.ensure(root, name)

    def _made(self, commit: str, approved: Iterable[tuple[str, str]]) -> Path:
        """Return what the setup makes of the trusted commit that this one grew out of, having run it where nobody has yet.

        It sees no file of a step's but those that it reads, where a person approved them. What it makes is the same for all protocols
        of that commit's manifests, and read-only.

        Raises:
            StepFailedError: the setup failed.
        """
        git, project, space = self.project.git, self.project, self.space
        assert self.own is not None
        base = git.merge_base(commit, project.trusted.commit) or project.trusted.commit
        top = self.own.top or space.export
        now, before = environments.manifests(project, commit), environments.manifests(project, base)
        folder = environments.made_in(project, before, top, self.own.image)
        if differ := sorted(path for path in {*now, *before} if now.get(path) != before.get(path)):
            anew = environments.made_in(project, now, top, self.own.image)
            asks = trusted_config.of(project).asks_on_change
            if asks and (environments.is_whole(anew) or self._are_approved(now, differ, approved)):
                folder, base = anew, self._with(base, {path: now.get(path) for path in differ})
            else:
                verb = "is" if len(differ) == 1 else "are"
                self.session.tell_once(
                    f"{', '.join(differ)} {verb} not as on {project.trusted.branch}, from which the environment was made"
                )
        try:
            if not environments.is_whole(folder):
                for one in environments.unused(project):
                    with contextlib.suppress(OSError):
                        beneath.remove(one)
                with environments.making(project, folder) as making:
                    self._make(making, base)
            os.utime(folder / environments.MADE, (project.env.now(),) * 2)
        except OSError as error:
            raise workspace.unusable(space, error) from error
        return folder

    def _make(self, making: Path, base: str) -> None:
        """Run the setup in an export of a commit, and keep below `making` what it leaves there and in its HOME."""
        git, space, setup = self.project.git, self.space, self.project.config.workspace.setup
        assert self.own is not None and setup is not None
        home, work = making / "home", making / "work"
        for one in (home, work):
            one.mkdir()
        self._empty(self.out(space.export))
        workspace.export(space, base)
        outside = submodules.content_shown(self.session, base)
        place = self.own.at(git, base)._replace(outside=outside).place(space)
        self.sandbox = self.sandbox.placed(Place({**place.at, home: HOME}, place.shown))
        env = {**self.base_environment(space.export), "HOME": str(home)}
        workspace.put_repository(space, base, self.protocol)
        self._set_up(setup, env, cwd=space.export)
        beneath.remove(space.export, ".git")
        beneath.remove(home, environments.CACHE)  # no step is shown it
        names = [name for name in workspace.beside(space, base) if name not in self.own.folders]
        for name in names:
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            beneath.is_folder(space.export, name)  # one that is locked is opened to be moved
            shutil.move(space.export / name, work / name)
        self._refuse_secret(making)
        write_atomically(making / environments.MADE, json.dumps(names).encode())

    def _are_approved(
        self, now: Mapping[str, TreeEntry], differ: Iterable[str], approved: Iterable[tuple[str, str]]
    ) -> bool:
        """Return whether a person approved each of the files as they are now."""
        given: dict[str, TreeEntry | None] = {}
        for before, after in approved:
            for path, (_, entry) in self.project.git.changed(before, after).items():
                given.setdefault(path, entry)
        return all(path in given and given[path] == now.get(path) for path in differ)

    def _with(self, base: str, changes: Mapping[str, TreeEntry | None]) -> str:
        """Return a commit, on no branch, that is `base` with other files."""
        git, index, gone = self.project.git, self.space.root / "setup-index", "0" * self.project.git.oid_length
        lines = [f"{one.mode if one else 0} {one.oid if one else gone}\t{path}\0" for path, one in changes.items()]
        git.run("read-tree", base, index=index)
        git.run("update-index", "-z", "--index-info", data="".join(lines).encode(), index=index)
        tree, who = git.run("write-tree", index=index).decode().strip(), self.project.runner()
        return git.write_commit(tree, (base,), who, who, b"files that a person approved\n")

    def _refuse_secret(self, made: Path) -> None:
        """Refuse an environment that holds the value of a variable which no step gets.

        Raises:
            StepFailedError: it does.
        """
        environ, names = self.project.env.environ, self.project.config.workspace.env
        own = Redactor({name: environ[name] for name in names if name in environ}, names)
        if found := environments.holding(made, own.forms):
            name, path = found
            shown = path.replace("home/", "~/", 1) if path.startswith("home/") else path.removeprefix("work/")
            raise StepFailedError(
                f"the workspace's setup left the value of {name} in {own.text(shown)}, which every step could read",
                ".protocols/config.yaml, workspace.env",
                "have the setup remove it at its end, on the trusted branch; no attempt was used up",
            )

    def _set_up(self, line: str, env: Mapping[str, str], *, cwd: Path | None = None) -> None:
        """Run the project's setup. All that it prints is kept, without the secrets of our own environment, until the next one.

        Raises:
            StepFailedError: it failed; the error has its last lines.
        """
        who, named = self.project.env, self.project.config.workspace.env
        given, private = environments.for_setup(who.environ, named)
        env = {**given, **env}
        who.say(f"setting up the workspace: {line}")
        kept, file = KeptOutput(Redactor(who.environ, named)), self.project.dirs.own / "setup-output"
        take, declared = self.taking(kept, "setup"), self.project.config.workspace.network
        hosts = ("*",) if declared is True else declared or ()
        network = self.network(hosts, f"`workspace.network` in {paths.CONFIG}", kept.contact)
        outcome = self.run(line, env, timeout=SETUP_TIMEOUT, cwd=cwd, network=network, on_output=take)
        output = kept.data()
        try:
            write_atomically(file, output)
        except OSError as error:
            raise workspace.unusable(self.space, error) from error
        if outcome.ok:
            return
        lacks = [f"{name} of workspace.env is not set" for name in named if name not in given]
        lacks += [
            f"{name} holds a user or token, and only `workspace: {{env: [{name}]}}` passes it" for name in private
        ]
        how = f"timed out after {SETUP_TIMEOUT / 3600:g} h" if outcome.timed_out else f"exit {outcome.code}"
        shown, printed = lines_of(line)[0], lines_of_output(output)
        raise StepFailedError(
            f"the workspace's setup failed: {self.explain(line, outcome) or f'{how}, `{shown}`'}",
            ".protocols/config.yaml, workspace.setup",
            "; ".join(["fix the setup on the trusted branch; no attempt was used up", *lacks])
            + (f"; all that it printed is in {file}" if printed else ""),
            printed=[one[:WIDTH] for one in printed[-LAST:]],
        )

    def export(self, commit: str) -> Path:
        """Make the folder that checks run in: a clean export of the prepared commit, and the files that its build generates."""
        own, folder = self.own, workspace.export(self.space, commit)
        try:
            if own:
                for one in (self.home(folder), self.out(folder)):
                    self._empty(one)
                own.fill(self.home(folder))
                for path, source in own.generated.items():
                    beneath.copy(folder, path, source)
                self._put_builds(folder)
                self._place(commit)
        except OSError as error:
            raise workspace.unusable(self.space, error) from error
        return folder

    def command(
        self,
        run: str | tuple[str, ...],
        env: Mapping[str, str],
        *,
        timeout: float | None,
        cwd: Path | None = None,
        network: Network | None = None,
    ) -> Command:
        """Return the sandbox's command for a shell line, or for a list that is run as it is."""
        cwd = cwd or self.space.work
        shared = () if self.own else self._shared(cwd)
        return Command(
            argv=("sh", "-c", run) if isinstance(run, str) else tuple(run),
            cwd=cwd,
            env=env,
            timeout=timeout,
            writable=(cwd, Path(env.get("HOME", self.home(cwd))), self.out(cwd)),
            readable=(
                # An export has no repository, but while a setup runs in it.
                *((self.space.objects,) if cwd == self.space.work or (cwd / ".git").is_dir() else ()),
                *shared,
                *environments.certificates(env),
            ),
            network=network,
        )

    def network(self, hosts: tuple[str, ...], where: str, log: Callable[[Contact], None]) -> Network | None:
        """Return what a command reaches that may reach these hosts; `where`: the key that names them; `log`: as in `Network`."""
        return network.Network(hosts, where, environments.proxies(self.project.env.environ), log=log) if hosts else None

    def network_log(self, whose: str = "") -> Callable[[Contact], None]:
        """Return what keeps which hosts a tool's process asked for; of `whose`, the refused ones are printed."""

        def log(one: Contact) -> None:
            redactor = self.session.redactor
            self.tools_output = self.tools_output or KeptOutput(redactor)
            self.tools_output.contact(one)
            if whose and one.refused:
                self.session.tell_once(redactor.text(f"{whose} refused {one.host}:{one.port}: {one.refused}"))

        return log

    def _shared(self, cwd: Path) -> tuple[Path, ...]:
        """On the host, link the ignored folders of the checkout that `workspace.share` names."""
        top = self.project.git.top
        found = []
        for name in self.project.config.workspace.share if top else ():
            assert top is not None
            source = top / name
            # A protocol's branch that is checked out there may have a link in its place, or above it.
            if source.is_dir() and os.path.realpath(source) == os.path.join(os.path.realpath(top), name):
                found.append(source)
                try:
                    beneath.link(cwd, name, source)
                except FileExistsError:
                    pass
                except OSError as error:  # the step, or its project, has no folder above it
                    self.session.tell_once(f"`share: {name}` is left out of {cwd}: {error.strerror}")
        return tuple(found)

    def bounds(self, timeout: float | None = None) -> workspace.Bounds:
        """Return what a step may leave, by the policy or by default; `timeout`: the seconds that the step has to do its work.

        As many again are there to collect it, and `COLLECTING` at least: a machine may be busy.
        """
        policy, most = trusted_config.of(self.project).policy, workspace.Bounds()
        if timeout is not None:
            monotonic, until = self.project.env.monotonic, self.project.env.monotonic() + max(timeout, COLLECTING)
            most = most._replace(left=lambda: until - monotonic())
        if policy is None:
            return most
        limits = policy.content.limits
        return most._replace(
            file=most.file if limits.file_bytes is None else limits.file_bytes,
            file_said=limits.file_size or most.file_said,
            total=most.total if limits.total_bytes is None else limits.total_bytes,
            total_said=limits.total or most.total_said,
            files=max(most.files, limits.files or 0),
        )

    def collect(self, start: str, timeout: float | None = None) -> workspace.Work:
        """Return what the step left in the workspace since `start`, without the links to what `workspace.share` names.

        Raises:
            RefusedError: as `workspace.collect` does.
        """
        # `node_modules/` in a .gitignore speaks of folders only: git would take the link for a new file.
        top = self.project.git.top
        for name in self.project.config.workspace.share if top else ():
            assert top is not None
            if beneath.target(self.space.work, name) == str(top / name):
                beneath.remove(self.space.work, name)
        filters = self.project.config.filters
        return workspace.collect(self.space, start, filters, self.bounds(timeout))

    def run(
        self,
        run: str | tuple[str, ...],
        env: Mapping[str, str],
        *,
        timeout: float,
        cwd: Path | None = None,
        network: Network | None = None,
        on_output: Callable[[bytes], None] | None = None,
    ) -> CommandOutcome:
        """Run a command in the workspace (or `cwd`) to its end.

        Raises:
            HeldError: the lease was lost; it did not start.
        """
        publishing.ensure_lease(self.session)
        ready = self.command(run, env, timeout=timeout, cwd=cwd, network=network)
        with signals.stoppable():
            return self.sandbox.run(ready, on_output)

    def taking(self, kept: KeptOutput, what: str) -> Callable[[bytes], None]:
        """Return what takes the output of a command that starts now: it is kept, and shown to the person as it comes."""
        show = self.project.env.hear_output

        def take(data: bytes) -> None:
            kept.take(data)
            show(what, data)

        show(what, b"")
        return take

    def explain(self, run: str | tuple[str, ...], outcome: CommandOutcome) -> str | None:
        """Return which resource ran out, why a program was found outside alone, or what host was refused."""
        failed = f"exit {outcome.code}, `{headline(run) if isinstance(run, str) else ' '.join(run)}`"
        why = _MEMORY if outcome.out_of_memory else _RAN_OUT.get(outcome.code)
        if not outcome.timed_out and why is not None:
            return f"{failed}: {why}"
        argv, path = ("sh", "-c", run) if isinstance(run, str) else tuple(run), self.project.env.environ.get("PATH", "")
        if (why := explain(outcome, argv, step_path(path))) is not None:
            return why
        if (own := found_outside(outcome, argv, path)) is not None:
            return f"{own[0]} is only in the runner's own environment ({own[1]}), which no step has on its PATH"
        if outcome.timed_out:
            return None
        said = outcome.tail[-4096:].decode(errors="replace")
        for name, words in _LACKS:
            if getattr(self.limits, name) is not None and (found := re.search(words, said)):
                return f"{failed}: it got no more than `resources: {{{name}: …}}` allows, as it says by `{found[0]}`"
        refused = next((f"{one.host}:{one.port}; {one.refused}" for one in outcome.network if one.refused), None)
        return f"{failed}; it was refused {refused}" if refused else None

    def result(self) -> dict[str, str] | None:
        """Return what the command left in `$RUNNER_RESULT`: `key=value` lines.

        Raises:
            UsageError: a line that is none, or too much of them.
        """
        data = beneath.read(self.space.root, f"{self.out().name}/result", 64 * 1024 + 1)
        if data is None:
            return None
        found: dict[str, str] = {}
        for number, line in enumerate(lines_of(data.decode("utf-8", "replace").replace("\r\n", "\n")), 1):
            key, equals, value = line.partition("=")
            if not line.strip():
                continue
            if not equals or not key.isidentifier() or not key.isascii() or len(data) > 64 * 1024:
                raise UsageError(
                    "the result is not lines of `key=value`, 64 KiB at most",
                    f"$RUNNER_RESULT:{number}",
                    "fix the command's output",
                )
            found[key] = value
        return found
