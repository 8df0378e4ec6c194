"""Make a project's optional files: CI scripts and jobs, request templates, prompts for other agents, and schemas for editors.

`runner init --ci`, `--prompts` and `--schemas` write them.

`--discover` lets a model find out how the project is set up, checked, tested and built. Everything in its prompt comes from the
repository and is quoted as untrusted. The errors of an answer are fed back once; each answer is journaled, so that the same command
pays for none twice. Nothing is written here.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import re
import shlex
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from runner import resources
from runner.engines import EngineError, Request, Turn, UserTurn, registry
from runner.errors import RunnerError, WaitingError
from runner.executor import asking, journal, loop, planning, prompting, spending
from runner.forge import ForgeProject
from runner.forge.registry import guess
from runner.git import Git
from runner.protocol import model_answers, paths
from runner.protocol.ids import digest
from runner.protocol.model_answers import Discovery, UnfitError
from runner.store import locks, trusted
from runner.store.project import Project, Session

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
    providers = dict.fromkeys(row.extra for row in registry.ROWS.values())
    extras = ",".join((*providers, *([project.kind.name] if project else ())))
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


# --- scripts, as a model proposes them --------------------------------------------------------------------------------


# What is shown, the likeliest to tell first; below the top only what CI reads.
_TELLING: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\.github/workflows/(?!protocol-)[^/]+\.ya?ml|\.gitlab-ci\.yml|\.circleci/config\.yml|\.woodpecker\.ya?ml"
        r"|azure-pipelines\.yml|\.travis\.yml|jenkinsfile|appveyor\.yml|\.forgejo/workflows/[^/]+\.ya?ml",
        r"makefile|gnumakefile|justfile|taskfile\.ya?ml|noxfile\.py|tox\.ini|\.pre-commit-config\.yaml",
        r"pyproject\.toml|setup\.(py|cfg)|requirements[^/]*\.txt|package\.json|pom\.xml|build\.gradle(\.kts)?|go\.mod|cargo\.toml"
        r"|gemfile|rakefile|composer\.json|mix\.exs|cmakelists\.txt|meson\.build|[^/]+\.(csproj|sln)|deno\.json|dune-project",
        r"scripts/ci/(bootstrap|lint|typecheck|test|build)\.sh",
        r"(readme|contributing|hacking|development|agents)[^/]*",
    )
)


@dataclass(frozen=True, slots=True)
class Discovered:
    """The findings of a model. `usd`: the cost of its answers, as far as it is known."""

    commands: Mapping[str, str]
    questions: tuple[str, ...]
    engine: str
    usd: Decimal


@contextlib.contextmanager
def discovered(session: Session, commit: str, answers: Mapping[str, str]) -> Iterator[Discovered]:
    """Let a model examine the commit, and yield its findings. `answers`: people's answers to earlier questions.

    The model's answers are kept for the same command, unless the block ends without an error.

    Raises:
        EngineError: there is no model, it gave no answer, or none that can be taken. HeldError: another process asks the same.
        WaitingError: it takes too long.
    """
    redactor = session.redactor
    task = redactor.text(_task(session.project, commit, answers))
    names = asking.engine_names(session.project, None, None, None, "plan")
    key = digest(f"{' '.join(names)}\n{task}".encode()).removeprefix("sha256:")[:32]
    with locks.hold(session.dirs.lock(f"planning-{key}"), session.env, what="this look at the repository"):
        kept = journal.Journal(session.dirs.planning / f"{key}.jsonl")
        with asking.open_engines(session.project, names) as engines:
            consultation = asking.questioner(session, kept, engines, redactor, planning.UNBOUNDED)
            try:
                told, engine = _told(consultation, task)
            except loop.BudgetStop as stop:
                raise WaitingError(
                    f"the discovery stopped: {stop}", "runner init", "run the same command again"
                ) from stop
        yield Discovered(told.commands(), told.questions, engine, spending.of(kept.records).usd)
        kept.path.unlink(missing_ok=True)


def _told(consultation: asking.Consultation, task: str) -> tuple[Discovery, str]:
    schema, system = asking.answer_schema("discovery"), resources.prompt("repo-discovery.prompt").strip()
    turns: list[Turn] = [UserTurn(text=task)]
    why: tuple[str, ...] = ()
    for _ in range(2):
        record = consultation.question(Request(system=system, turns=tuple(turns), schema=schema))
        if record.finish == "refused":
            why = (f"it refused: {record.text[:300] or 'no reason given'}",)
            break
        try:
            return model_answers.parse(model_answers.Discovery, record.text), record.engine
        except UnfitError as error:
            why = error.problems
        turns.append(loop.turn_of(record))
        reasons = "\n".join(f"- {one}" for one in why)
        turns.append(UserTurn(text=f"This cannot be taken:\n{reasons}\nGive the whole answer again, with that fixed."))
    consultation.undecided(*why)
    raise EngineError(
        "the model proposed no usable commands:" + "".join(f"\n- {one}" for one in why),
        f"engine {record.engine}",
        "nothing was written; run the same command again, or without --discover",
    )


def _task(project: Project, commit: str, answers: Mapping[str, str]) -> str:
    files = prompting.files_of(project, commit)
    parts = ["Find out how this repository is made ready, checked, tested and built."]
    if answers:
        told = "\n\n".join(f"{asked}\n{said}" for asked, said in answers.items())
        parts.append(prompting.fence(told, "questions that people answered"))
    parts.append(prompting.listing(files))
    return "\n\n".join([*parts, *prompting.shown(project, files, _telling(files))])


def _telling(paths: Iterable[str]) -> list[str]:
    """Return those of the paths that tell how a project is worked on, by how much they do."""
    ranked = [(rank, path) for path in paths for rank, told in enumerate(_TELLING) if told.fullmatch(path)]
    return [path for _, path in sorted(ranked)]
