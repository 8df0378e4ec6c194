"""What a repository is given besides `.protocols`: scripts and jobs for its CI, templates for its requests, prompts for people's
own agents. Found out here is what they have to say of this repository; `runner init` writes them.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote

from runner import __version__, resources
from runner.forge.place import Place, guess
from runner.git import Git
from runner.protocol import paths
from runner.store import trusted
from runner.values import dataclass

# What tells a stack, at the top of the checkout; the first that is there is meant where nobody says otherwise.
STACKS: Final = {
    "python": ("pyproject.toml", "setup.py", "setup.cfg", "requirements.txt"),
    "node": ("package.json",),
    "java": ("pom.xml", "build.gradle", "build.gradle.kts"),
    "go": ("go.mod",),
    "rust": ("Cargo.toml",),
}
OTHER: Final = "other"
# The scripts of scripts/ci that say what the project does, and what each is for.
HOOKS: Final = {
    "bootstrap": "Makes a fresh checkout ready",
    "lint": "Reads the code for mistakes of form",
    "typecheck": "Checks the types",
    "test": "Runs the tests",
    "build": "Builds what is shipped",
}
PROMPTS: Final = ("project-init", "protocol-new", "protocol-resume", "protocol-review-merge", "quality-validator")
_GITLAB_CI: Final = ".gitlab-ci.yml"
_GITLAB_JOBS: Final = ".gitlab/protocol-runner.yml"
_FORGES: Final = {
    "github": {
        ".github/actions/protocol-runner/action.yml": "github/action.yml",
        ".github/workflows/protocol-advance.yml": "github/protocol-advance.yml",
        ".github/workflows/protocol-events.yml": "github/protocol-events.yml",
        ".github/workflows/protocol-qa.yml": "github/protocol-qa.yml",
        ".github/workflows/protocol-verify.yml": "github/protocol-verify.yml",
        ".github/PULL_REQUEST_TEMPLATE/protocol.md": "github/pull_request.md",
    },
    "gitlab": {
        _GITLAB_CI: "gitlab/gitlab-ci.yml",
        _GITLAB_JOBS: "gitlab/protocol-runner.yml",
        ".gitlab/merge_request_templates/protocol.md": "gitlab/merge_request.md",
    },
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What a checkout tells. `url`: the remote's address; `guess`: the place on a forge that it points to; `stacks`: in the order
    of `STACKS`, empty where there is none that is known."""

    base: str | None
    remote: str | None
    url: str
    guess: Place | None
    stacks: tuple[str, ...]


def facts(git: Git, top: Path) -> Facts:
    """Look at the checkout; the network is not asked."""
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
    """Return one of `HOOKS` that runs these lines of shell. `how`: it came to be, such as `as clarifications.yaml says`."""
    return _filled("ci/said.sh", DOES=HOOKS[name], HOW=how, RUN=run.strip("\n"))


def files(
    top: Path, place: Place | None, stack: str, pattern: str, better: Mapping[str, bytes] | None = None
) -> dict[str, tuple[bytes, bool]]:
    """Return path to (bytes, whether it is executable). `pattern`: of protocols' branches; `better`: scripts of `HOOKS`, by
    their paths, that somebody told better than the stack does."""
    hooks = {hook(name): data for name, data in hooks_of(top, stack).items()} | dict(better or {})
    found = {path: (data, True) for path, data in hooks.items()}
    extra = f",{place.name}" if place else ""
    package = f"protocol-runner[gemini{extra}]=={__version__}"
    found["scripts/ci/protocol.sh"] = (_filled("ci/protocol.sh", PACKAGE=package), True)
    project = quote(place.path, safe="") if place and place.name == "gitlab" else place.path if place else ""
    said = {"FORGE": place.name if place else "none", "API": place.api if place else "", "PROJECT": project}
    found["scripts/ci/report.sh"] = (
        _filled("ci/report.sh", **{name: shlex.quote(value) for name, value in said.items()}),
        True,
    )
    for name in PROMPTS:
        found[f"{paths.ROOT}/prompts/{name}.prompt.md"] = (resources.prompt(f"{name}.prompt").encode(), False)
    branches = pattern.replace("{id}", "[0-9][0-9][0-9][0-9]*-*")
    for path, template in _FORGES.get(place.name if place else "", {}).items():
        if path == _GITLAB_CI and (top / path).exists() and (top / path).read_bytes() != _filled(template):
            continue  # the team's own; `todo` says what to add
        found[path] = (_filled(template, **({"BRANCHES": branches} if template.endswith("events.yml") else {})), False)
    return found


def todo(top: Path, place: Place | None) -> str:
    """Return what a person has to add to a file of theirs, or nothing."""
    at = top / _GITLAB_CI
    if place is None or place.name != "gitlab" or not at.is_file() or _GITLAB_JOBS.encode() in at.read_bytes():
        return ""
    return f"add to {_GITLAB_CI}:  include: [{{local: {_GITLAB_JOBS}}}]"


def _filled(template: str, **values: str) -> bytes:
    text = resources.template(f"init/{template}").read_text(encoding="utf-8")
    for name, value in values.items():
        assert text.count(f"@{name}@") == 1, (template, name)
        text = text.replace(f"@{name}@", value)
    return text.encode()


def hooks_of(top: Path, stack: str) -> dict[str, bytes]:
    """Return name to script, of what the stack can do; of another stack, what its Makefile has targets for."""
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
    """Return what pip is given: the project, with those extras that developers are meant to have."""
    try:
        told = tomllib.loads((top / "pyproject.toml").read_text("utf-8"))
        extras = told["project"]["optional-dependencies"]
        named = [name for name in ("dev", "test", "tests", "lint") if name in extras]
    except (OSError, ValueError, KeyError, TypeError):
        named = []
    return f".[{','.join(named)}]" if named else "."
