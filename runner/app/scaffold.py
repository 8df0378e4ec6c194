"""The files of a repository besides `.protocols`, filled in for it: scripts and jobs for its CI, templates for its requests, and
prompts for people's own agents. `runner init` writes them.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from runner import __version__, resources
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


def files(
    top: Path, project: ForgeProject | None, stack: str, pattern: str, better: Mapping[str, bytes] | None = None
) -> dict[str, tuple[bytes, bool]]:
    """Return path to (bytes, whether it is executable). `pattern`: of protocols' branches; `better`: scripts of `HOOKS` by
    their paths, which replace the stack's."""
    hooks = {hook(name): data for name, data in hooks_of(top, stack).items()} | dict(better or {})
    found = {path: (data, True) for path, data in hooks.items()}
    kind = project.kind if project else None
    extra = f",{kind.name}" if kind else ""
    package = f"protocol-runner[gemini,openai,anthropic{extra}]=={__version__}"
    found["scripts/ci/protocol.sh"] = (_filled("ci/protocol.sh", PACKAGE=package), True)
    names = {"FORGE": "none", "API": "", "PROJECT": ""}
    if project:
        names = {"FORGE": project.kind.name, "API": project.api, "PROJECT": project.api_path}
    report = _filled("ci/report.sh", **{name: shlex.quote(value) for name, value in names.items()})
    found["scripts/ci/report.sh"] = (report, True)
    for name in PROMPTS:
        found[f"{paths.ROOT}/prompts/{name}.prompt.md"] = (resources.prompt(f"{name}.prompt").encode(), False)
    branches = pattern.replace("{id}", "[0-9][0-9][0-9][0-9]*-*")
    entry = kind.ci_entry if kind else ""
    for path, template in kind.ci_files.items() if kind else ():
        if path == entry and (top / path).exists() and (top / path).read_bytes() != _filled(template):
            continue  # the team's own; `todo` returns the line to add
        found[path] = (_filled(template, **({"BRANCHES": branches} if template.endswith("events.yml") else {})), False)
    return found


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
