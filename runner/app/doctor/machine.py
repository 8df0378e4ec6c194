"""Checks of this machine and of the project's set-up: room on the disk, permissions, the person, settings, the trusted branch."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner import sandbox
from runner.app import suite
from runner.app.doctor import Finding, Machine, Selection, fault, of_error, remark
from runner.errors import RunnerError, UnreachableError, UsageError, shown
from runner.executor import environments, submodules, transition
from runner.git import Git, GitError
from runner.lines import counted, few
from runner.protocol import clarifications, ids, paths, strict_yaml
from runner.store import trusted, workspace
from runner.store.environment import Clone, Environment, matching, writable_state_home
from runner.store.project import Project
from runner.store.remote import Mirror
from runner.trust import signature, trusted_config

ROOM = 200_000_000  # bytes on the disk below which work is likely to fail


def room(machine: Machine) -> Iterator[Finding]:
    """Yield the disks that are almost full."""
    seen = set()
    for folder in map(_existing, machine.folders):
        with contextlib.suppress(OSError):
            free, device = shutil.disk_usage(folder).free, folder.stat().st_dev
            if free < ROOM and device not in seen:
                yield fault(
                    f"the disk has {free // 1_000_000} MB left",
                    str(folder),
                    "steps and commits may fail; nothing is published in part",
                    "make room; `runner clean` removes what finished protocols left",
                )
            seen.add(device)


def _existing(folder: Path) -> Path:
    while not os.path.exists(folder) and folder != folder.parent:  # False, too, where a folder may not be entered
        folder = folder.parent
    return folder


def state_home(machine: Machine) -> Iterator[Finding]:
    """Yield that the person's own state cannot be written."""
    real = writable_state_home(machine.env.state_home)
    if real != machine.env.state_home:
        yield fault(
            "the folder for the runner's state is not writable",
            str(machine.env.state_home),
            f"workspaces, checkpoints and pins are in {real} and are lost when that is emptied",
            "make it writable, or set XDG_STATE_HOME to a folder of yours",
        )


def bytecode(machine: Machine) -> Iterator[Finding]:
    """Yield that each command compiles the runner's sources anew."""
    cached = __spec__.cached
    if cached is None or os.path.exists(cached):
        return
    switched_off = bool(machine.env.environ.get("PYTHONDONTWRITEBYTECODE"))
    if switched_off or not os.access(_existing(Path(cached)), os.W_OK):
        yield remark(
            "Python's bytecode of the runner is not kept",
            str(Path(cached).parent),
            "each command recompiles its sources and takes over 50 % longer",
            "unset PYTHONDONTWRITEBYTECODE for one command"
            if switched_off
            else "run `python -m compileall` on that folder as its owner",
        )


def writable(clone: Clone) -> Iterator[Finding]:
    """Yield what this user may not write, as after a `sudo git` or `sudo runner`, and files in the place of folders."""
    common = clone.dirs.common
    ours = (clone.dirs.beside, clone.dirs.beside / "locks", clone.dirs.beside / "journal")
    wrong = [path for path in ours if os.path.lexists(path) and not path.is_dir()]
    folders = [common, common / "objects", *ours]
    folders += matching(common, "refs/**/", "logs/**/", "objects/*/")
    closed = [path for path in folders if path.is_dir() and not os.access(path, os.W_OK | os.X_OK)]
    closed += [path for path in matching(ours[1], "*") if path.is_file() and not os.access(path, os.W_OK)]
    for path in wrong:
        yield fault(
            "a file is where the runner needs a folder",
            str(path),
            "nothing can be run or recorded in this clone",
            f"`mv {shlex.quote(str(path))} {shlex.quote(f'{path}.old')}`",
        )
    if closed:
        yield fault(
            f"you may not write in this clone: {counted(len(closed), 'folder')} of it, or files",
            str(closed[0]),
            "you can run and record nothing here; reading works",
            f'`sudo chown -R "$(id -u)" {shlex.quote(str(common))}` where it is yours, or use a clone of your own',
        )


def readable(clone: Clone) -> Iterator[Finding]:
    """Yield that this user may not read git's objects: git takes them for lost, and no check may give up objects that are only closed.

    Raises:
        GitError: it may not, so no later check can work.
    """
    files = matching(clone.git.common_dir / "objects", "pack/pack-*", "[0-9a-f][0-9a-f]/*")
    closed = [path for path in files if not os.access(path, os.R_OK) and path.exists()]
    if closed:
        common = shlex.quote(str(clone.git.common_dir))
        yield fault(
            f"you may not read {counted(len(closed), 'file')} of git's objects",
            str(closed[0]),
            "git considers these objects lost",
            f'`sudo chown -R "$(id -u)" {common}` where it is yours, or `sudo chmod -R a+rX {common}`',
        )
        raise GitError("git cannot read its objects", str(closed[0]), "let this user read them")


# --- the project -------------------------------------------------------------------------------------------------------


def identity(chosen: Selection) -> Iterator[Finding]:
    """Yield why nothing can be committed in the person's name."""
    git = chosen.session.git
    try:
        chosen.session.person()
    except RunnerError as error:
        yield of_error(error, "nothing can be committed in your name")
    if git.signs_commits():
        try:
            signature.check_commits(git)
        except RunnerError as error:
            why = "your git signs commits (commit.gpgsign), and cannot: nothing of yours can be committed"
            yield of_error(error, why)


def executor(chosen: Selection) -> Iterator[Finding]:
    """Yield that commands of steps are run without a sandbox; fail where they cannot be run."""
    project = chosen.session.project
    project.refuse_unsupported()
    name = project.setting("executor")
    image = environments.image_of(project) if name == "container" else None
    sandbox.choose(name, user_namespaces=project.config.workspace.user_namespaces, image=image)
    if image and "@sha256:" not in image:
        yield remark(
            f"commands of steps run in an image that is named without its digest: {image}",
            f"devcontainer.json on {project.trusted.branch}",
            "its publisher can change the environment of commands; the record names the digest that it had",
            f"name it in {paths.CONFIG}: `workspace: {{image: NAME@sha256:DIGEST}}`",
        )
    if name == "host":
        yield remark(
            "commands of steps run on this machine without a sandbox",
            f"executor: host, by {project.source('executor')[1]}",
            "they can read and change whatever you can, and see no environment of the checkout",
            "`--executor sandbox` where bubblewrap is installed",
        )


def ignored_sources(chosen: Selection) -> Iterator[Finding]:
    """Yield the ignored files in folders of the source that tests may need, and that no step is shown."""
    on_host = chosen.session.project.source("executor")[0] == "host"  # where `generated` brings nothing in
    if not on_host and (missing := environments.left_out(chosen.session.project)):
        names = [*map(strict_yaml.shown, missing)]
        yield remark(
            f"{counted(len(missing), 'file')} in the source that git ignores: {few(names, 5)}",
            str(chosen.session.git.main_worktree()),
            "steps and checks do not have them",
            f"name those that tests need in {paths.CONFIG}: `workspace: {{generated: [GLOB]}}`",
        )


def empty_content(chosen: Selection) -> Iterator[Finding]:
    """Yield the submodules and files of LFS whose content no step is shown."""
    project = chosen.session.project
    partial = project.git.is_partial()  # its files may have to be fetched to know
    for line in () if partial else submodules.empty_submodules(project, project.trusted.commit):
        what, _, how = line.partition("; ")
        yield remark(what, project.trusted.branch, "tests that need them fail", how)


def trusted_branch(chosen: Selection) -> Iterator[Finding]:
    """Yield where configuration is read from, and that there is none."""
    project, trusts = chosen.session.project, chosen.session.project.trusted
    if trusts.note:
        yield remark(
            f"the trusted branch is {trusts.note}",
            f"{trusts.branch} at {trusts.commit[:12]}",
            "configuration and tools are read from there",
            f"`runner policy test --live` asks {trusts.remote} for it, and runs the policy's examples"
            if trusts.remote
            else "push to a remote that protects its default branch, so that changes to them are reviewed",
        )
    if trusts.blob(project.git, paths.CONFIG) is None:
        what, command = _setup(project)
        yield remark(what, f"{paths.CONFIG} on {trusts.branch}", "the defaults apply", command)


def policy(chosen: Selection) -> Iterator[Finding]:
    """Yield what the policy does not do as it reads; fail where policy or keys of the trusted branch cannot be carried out."""
    found = trusted_config.of(chosen.session.project).policy
    if found is not None and (wrong := found.misread()):
        yield of_error(wrong, "merges pass without them")


def runner_key(chosen: Selection) -> Iterator[Finding]:
    """Yield why no step can be run here, where the policy wants what a runner does to be signed."""
    try:
        transition.signer(chosen.session.project)
    except UsageError as error:
        yield remark(error.what, error.where, "no step can be run here; people can approve and merge", error.hint)
    except RunnerError:
        return  # `policy` says why


def tests(chosen: Selection) -> Iterator[Finding]:
    """Yield that the trusted branch names no default check for tests that are there, or that tests are known to fail on it."""
    project, trusts = chosen.session.project, chosen.session.project.trusted
    try:
        named = project.config.checks
    except RunnerError:
        return  # `policy` says why
    where, known = f"{paths.CONFIG} on {trusts.branch}", suite.noted(project, trusts.commit)
    if named and known is not None and not known.passed and known.line in named:
        what = f"{known.text()} on {trusts.branch}, by `{known.line}` when `runner init` tried it"
        yield remark(what, where, "steps that it checks fail until they pass", "make them pass there")
    elif (
        not named
        and trusts.blob(project.git, paths.CONFIG) is not None
        and suite.candidates(project.git, trusts.commit)
    ):
        what = "no command that runs the tests is named as `checks:`"
        yield remark(what, where, "an agent step that names no check is not checked", "`runner init` finds it")


def questions(chosen: Selection) -> Iterator[Finding]:
    """Yield the open questions about the project."""
    project = chosen.session.project
    where = f"{paths.CLARIFICATIONS} on {project.trusted.branch}"
    known = clarifications.parse(project.trusted.blob(project.git, paths.CLARIFICATIONS), where)
    so = "no protocol starts before" if project.config.clarifications == "block" else "nothing waits for it"
    for one in known:
        if one.answer is None:
            hint = "`runner init` at a terminal asks it, or write the answer there; then commit the file"
            yield remark(f"open question: {one.text}", f"{where}:{one.line}", so, hint)


def _setup(project: Project) -> tuple[str, str]:
    """Return how far the project is set up where the trusted branch has no configuration, and what comes next."""
    git, trusts = project.git, project.trusted
    push = f"`git push {trusts.remote} {trusts.branch}`"
    if trusts.remote and git.blob(f"refs/heads/{trusts.branch}:{paths.CONFIG}") is not None:
        return f"the setup is committed here, and not on {trusts.remote} yet", push
    if git.blob(f"HEAD:{paths.CONFIG}") is not None:
        then = f", then {push}" if trusts.remote else ""
        return f"the setup is committed here, and not on {trusts.branch}", f"merge it into {trusts.branch}{then}"
    if project.dirs.setup.exists():
        return "the files that `runner init` wrote are in no commit", "`runner init --commit` commits them"
    return "nothing is set up", "`runner init` writes the files"


def shared_numbers(chosen: Selection) -> Iterator[Finding]:
    """Yield the numbers that several protocols have."""
    by_number: dict[int, list[str]] = {}
    for protocol in chosen.session.project.protocols():
        by_number.setdefault(ids.number_of(protocol), []).append(protocol)
    for number, sharing in by_number.items():
        if len(sharing) > 1:
            yield remark(
                f"{len(sharing)} protocols have the number {number}",
                ", ".join(sharing),
                f"`{number}` is ambiguous",
                "give the whole id",
            )


def workspaces(chosen: Selection) -> Iterator[Finding]:
    """Yield the workspaces that cannot be reset, since they have folders of other users."""
    project, configured = chosen.session.project, chosen.session.project.config.workspace.path
    try:
        folder = workspace.place(project, "0000-none", configured).root.parent
    except RunnerError as error:
        yield of_error(error, "steps that run commands cannot be run")
        return
    if configured:
        beside = {_existing(one).stat().st_dev for one in (project.git.common_dir, project.dirs.state_home)}
        if _existing(folder).stat().st_dev not in beside:
            yield from room(Machine(project.env, (folder,)))
    for path in matching(folder, "*"):
        if not ids.is_protocol_id(path.name) or chosen.only not in (None, path.name):
            continue
        try:
            closed: str | None = workspace.not_ours(workspace.Workspace(project, path))
            why = "you may not change the files of a folder in it"
        except OSError as error:
            closed, why = str(path), str(error.strerror)
        if closed is not None:
            yield fault(
                f"the workspace of {path.name} can be neither reset nor removed: {why}",
                closed,
                f"no step of {path.name} that runs something can start here",
                f"`sudo rm -r {shlex.quote(str(path))}`: it holds nothing of value, and the next step makes it again",
            )


# --- what a person decides about the trusted branch --------------------------------------------------------------------


def repin(cwd: Path, env: Environment) -> str:
    """Trust the current default branch of the remote at its current address, and return a line that says so.

    Raises:
        RunnerError: there is no remote branch to trust; the pin is unchanged.
    """
    with Git.open(cwd) as git:
        clone = Clone.of(git, env)
        dirs = clone.dirs
        before = dirs.pin.with_name(f"{dirs.pin.name}.before")
        with contextlib.suppress(FileNotFoundError):
            os.replace(dirs.pin, before)  # as it is: it may be damaged
        try:
            trusts = _pin_anew(clone)
        except BaseException:  # Ctrl-C too, while the remote is asked
            with contextlib.suppress(FileNotFoundError):
                os.replace(before, dirs.pin)
            raise
        shutil.rmtree(before) if before.is_dir() else before.unlink(missing_ok=True)
        return trusts


def _pin_anew(clone: Clone) -> str:
    git = clone.git
    remote = trusted.remote_name(git)
    if remote is None:
        return f"there is no remote: {trusted.last_seen(git, clone.dirs).note}"
    try:
        mirror = Mirror.of(clone)
        assert mirror is not None
        now = mirror.look()
    except UnreachableError:
        # The person gave the address, so it counts; its first answer decides the branch.
        return (
            f"{shown(trusted.remote_url(git, remote))} is trusted from its first answer on; it could not be reached now"
        )
    return f"{now.branch} of {shown(trusted.remote_url(git, remote))} is trusted, at {now.commit[:12]}"


# --- configuration -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Value:
    """A key of config.yaml, its effective value, and where that comes from."""

    key: str
    value: Any
    source: str


def values(project: Project) -> list[Value]:
    """Return the effective value of every key, and its source: option, environment, config.yaml, default.

    Raises:
        MalformedFileError: config.yaml is not valid.
    """
    config = project.config.model_dump()
    given = project.config.model_dump(exclude_unset=True)
    return [_overridden(project, one) for one in _flat("", config, given)]


def _overridden(project: Project, one: Value) -> Value:
    environ = project.env.environ
    match one.key:
        case "executor" | "publish":
            return Value(one.key, *project.source(one.key))
        case "engine.default" if project.options.get("engine"):
            return Value(one.key, [project.options["engine"]], "--engine")
    name = {"engine.default": "RUNNER_ENGINE", "identity.name": "RUNNER_NAME", "identity.email": "RUNNER_EMAIL"}.get(
        one.key, ""
    )
    if not environ.get(name):
        return one
    return Value(one.key, [environ[name]] if isinstance(one.value, list) else environ[name], name)


def _flat(prefix: str, config: Mapping[str, Any], given: Mapping[str, Any]) -> list[Value]:
    found: list[Value] = []
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            inner = given.get(key)
            found += _flat(f"{name}.", value, inner if isinstance(inner, dict) else {})
        else:
            found.append(Value(name, value, paths.CONFIG if key in given else "default"))
    return found
