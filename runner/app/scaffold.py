"""The files of a repository that not everybody wants, filled in for it: scripts and jobs for its CI, templates for its requests,
prompts for other agents, and schemas for editors. `runner init --ci`, `--prompts` and `--schemas` write them.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from runner import resources
from runner.errors import RunnerError
from runner.forge import ForgeProject
from runner.forge.registry import guess
from runner.git import Git
from runner.protocol import paths
from runner.store import trusted
from runner.values import dataclass

# The files at the top of a checkout that identify a stack; the first stack found is the default.
STACKS: Final = {
    "python": ("pyproject.toml", "setup.py", "setup.cfg", "requirements.txt"),
    "node": ("package.json",),
    "java": ("pom.xml", "build.gradle", "build.gradle.kts"),
    "go": ("go.mod",),
    "rust": ("Cargo.toml",),
}
OTHER: Final = "other"
# The scripts of scripts/ci with the project's own commands, and the purpose of each.
HOOKS: Final = {
    "bootstrap": "Prepare a fresh checkout",
    "lint": "Lint the code",
    "typecheck": "Check the types",
    "test": "Run the tests",
    "build": "Build the package",
}
SCHEMAS: Final = f"{paths.ROOT}/schemas"
PROMPTS: Final = ("project-init", "protocol-new", "protocol-resume", "protocol-review-merge", "quality-validator")


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts found in a checkout. `url`: the remote's address; `guess`: the project on a forge that it names; `stacks`: in the order
    of `STACKS`, empty where none is known."""

    base: str | None
    remote: str | None
    url: str
    guess: ForgeProject | None
    stacks: tuple[str, ...]


def facts(git: Git, top: Path) -> Facts:
    """Return the facts of a checkout, without the network."""
    remote = trusted.remote_name(git)
    url = trusted.remote_url(git, remote) if remote else ""
    head = git.symbolic_ref(f"refs/remotes/{remote}/HEAD") if remote else None
    base = head.removeprefix(f"refs/remotes/{remote}/") if head else None
    if base is None:
        here = git.symbolic_ref("HEAD", git.git_dir)
        base = here.removeprefix("refs/heads/") if here else None
    stacks = tuple(name for name, marks in STACKS.items() if any((top / mark).is_file() for mark in marks))
    return Facts(base, remote, url, guess(url), stacks)


def hook(name: str) -> str:
    """Return the path of one of `HOOKS`."""
    return f"scripts/ci/{name}.sh"


def script(name: str, run: str, how: str) -> bytes:
    """Return one of `HOOKS` that runs these lines of shell. `how`: their source, such as `as a model proposed it`."""
    return _filled("ci/said.sh", DOES=HOOKS[name], HOW=how, RUN=run.strip("\n"))


def prompts() -> dict[str, bytes]:
    """Return path to bytes of the prompts for other agents."""
    return {f"{paths.ROOT}/prompts/{name}.prompt.md": resources.prompt(f"{name}.prompt").encode() for name in PROMPTS}


def schemas() -> dict[str, bytes]:
    """Return path to bytes of the JSON Schemas by which editors validate and complete the files that people write."""
    return {f"{SCHEMAS}/{name}.schema.json": resources.schema(name) for name in ("config", "policy", "coworker")}


def scripts(top: Path, stack: str, better: Mapping[str, bytes] | None = None) -> dict[str, bytes]:
    """Return path to bytes of the project's own commands. `better`: scripts of `HOOKS` by their paths, which replace the stack's."""
    return {hook(name): data for name, data in hooks_of(top, stack).items()} | dict(better or {})


def jobs(top: Path, project: ForgeProject | None, pattern: str, package: str) -> dict[str, tuple[bytes, bool]]:
    """Return path to (bytes, whether it is executable) of what runs protocols in CI. `pattern`: of protocols' branches; `package`: the
    requirement of pip from which they install the runner."""
    found = {"scripts/ci/protocol.sh": (_filled("ci/protocol.sh", PACKAGE=package), True)}
    kind = project.kind if project else None
    names = {"FORGE": "none", "API": "", "PROJECT": ""}
    if project:
        names = {"FORGE": project.kind.name, "API": project.api, "PROJECT": project.api_path}
    report = _filled("ci/report.sh", **{name: shlex.quote(value) for name, value in names.items()})
    found["scripts/ci/report.sh"] = (report, True)
    branches = pattern.replace("{id}", "[0-9][0-9][0-9][0-9]*-*")
    entry = kind.ci_entry if kind else ""
    for path, template in kind.ci_files.items() if kind else ():
        if path == entry and (top / path).exists() and (top / path).read_bytes() != _filled(template):
            continue  # the team's own; `todo` returns the line to add
        found[path] = (_filled(template, **({"BRANCHES": branches} if template.endswith("events.yml") else {})), False)
    return found


# What may stand in protocol.sh: nothing that its shell would read as more than a word.
PACKAGE: Final = re.compile(r"[A-Za-z0-9./][A-Za-z0-9._\[\],@ +:/=~%#&?<>!-]{0,500}")


def package(project: ForgeProject | None) -> str | None:
    """Return pip's requirement for this very runner, by the address and commit that it was installed from; None where another machine
    could not reach them. That an index has the name proves nothing: anybody can register it."""
    extras = ",".join(("gemini", "openai", "anthropic", *([project.kind.name] if project else ())))
    try:
        told = json.loads(importlib.metadata.distribution("protocol-runner").read_text("direct_url.json") or "")
        url, commit = str(told["url"]), str(told.get("vcs_info", {}).get("commit_id", ""))
    except (importlib.metadata.PackageNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if url.startswith("file://"):
        url, commit = _pushed(Path(unquote(urlsplit(url).path)))
    at = _reachable(url, is_git=bool(commit))
    found = f"protocol-runner[{extras}] @ {at}{f'@{commit}' if commit else ''}"
    return found if at and PACKAGE.fullmatch(found) else None


def _pushed(folder: Path) -> tuple[str, str]:
    """Return the address and the commit of the checkout that a folder is; empty where it is none, or its remote lacks the commit."""
    try:
        with Git.open(folder) as git:
            remote, commit = trusted.remote_name(git), git.resolve("HEAD")
            there = git.refs(f"refs/remotes/{remote}/").values() if remote and commit and git.top == folder else ()
            if remote and commit and any(git.is_ancestor(commit, oid) for oid in there):
                return trusted.remote_url(git, remote), commit
    except (RunnerError, OSError):
        pass
    return "", ""


def _reachable(url: str, *, is_git: bool) -> str:
    """Return an address as pip takes it, without a password; empty where it is of this machine."""
    if is_git and (scp := re.fullmatch(r"(\w+@[\w.-]+):([\w./~-]+)", url)):
        url = f"ssh://{scp[1]}/{scp[2]}"
    parts = urlsplit(url)
    if parts.scheme not in ("https", "ssh") or parts.hostname in (None, "localhost", "127.0.0.1", "::1"):
        return ""
    host = parts.netloc.rpartition("@")[2] if parts.scheme == "https" else parts.netloc
    return f"{'git+' if is_git else ''}{parts.scheme}://{host}{parts.path}"


def todo(top: Path, project: ForgeProject | None) -> str:
    """Return the line that a person has to add to a file of theirs, or nothing."""
    if project is None or not project.kind.ci_entry:
        return ""
    entry, (jobs, line) = project.kind.ci_entry, project.kind.ci_include
    at = top / entry
    return f"add to {entry}:  {line}" if at.is_file() and jobs.encode() not in at.read_bytes() else ""


def _filled(template: str, **values: str) -> bytes:
    text = resources.template(f"init/{template}").read_text(encoding="utf-8")
    for name, value in values.items():
        assert text.count(f"@{name}@") == 1, (template, name)
        text = text.replace(f"@{name}@", value)
    return text.encode()


def hooks_of(top: Path, stack: str) -> dict[str, bytes]:
    """Return name to script for each of `HOOKS` that the stack has; for another stack, each that is a target of its Makefile."""
    if stack == OTHER:
        return {name: _filled(f"ci/make/{name}.sh") for name in HOOKS if name in _targets(top)}
    folder = resources.template(f"init/ci/{stack}")
    filled = {name: {"INSTALL": _installed(top)} if (stack, name) == ("python", "bootstrap") else {} for name in HOOKS}
    return {
        name: _filled(f"ci/{stack}/{name}.sh", **filled[name]) for name in HOOKS if (folder / f"{name}.sh").exists()
    }


def _targets(top: Path) -> set[str]:
    try:
        text = (top / "Makefile").read_text("utf-8", "replace")
    except OSError:
        return set()
    return set(re.findall(rf"^({'|'.join(HOOKS)})[ \t]*:(?!=)", text, re.MULTILINE))


def _installed(top: Path) -> str:
    """Return pip's argument: the project, with the extras for developers."""
    try:
        table = tomllib.loads((top / "pyproject.toml").read_text("utf-8"))
        extras = table["project"]["optional-dependencies"]
        named = [name for name in ("dev", "test", "tests", "lint") if name in extras]
    except (OSError, ValueError, KeyError, TypeError):
        named = []
    return f".[{','.join(named)}]" if named else "."
