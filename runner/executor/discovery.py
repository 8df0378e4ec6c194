"""Let a model find out how a project is set up, checked, tested and built.

Everything in its prompt comes from the repository and is quoted as untrusted. The errors of an answer are fed back once; each answer
is journaled, so that the same command pays for none twice. Nothing is written here.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Final

from runner import resources
from runner.engines import EngineError, Request, Turn, UserTurn
from runner.errors import WaitingError
from runner.executor import asking, planning, prompting, spending
from runner.executor.asking import Consultation
from runner.executor.journal import Journal
from runner.executor.loop import BudgetStop, turn_of
from runner.executor.step_run import Redactor
from runner.protocol import model_answers
from runner.protocol.ids import digest
from runner.protocol.model_answers import Discovery, UnfitError
from runner.store import locks
from runner.store.project import Project
from runner.values import dataclass

# What is shown, the likeliest to tell first; below the top only what CI reads.
_SHOWN: Final = tuple(
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
class Found:
    """The findings of a model. `usd`: the cost of its answers, as far as it is known."""

    commands: Mapping[str, str]
    questions: tuple[str, ...]
    engine: str
    usd: Decimal


@contextlib.contextmanager
def found(project: Project, commit: str, answers: Mapping[str, str]) -> Iterator[Found]:
    """Let a model examine the commit, and yield its findings. `answers`: people's answers to earlier questions.

    The model's answers are kept for the same command, unless the block ends without an error.

    Raises:
        EngineError: there is no model, it gave no answer, or none that can be taken. HeldError: another process asks the same.
        WaitingError: it takes too long.
    """
    redactor = Redactor(project.env.environ)
    task = redactor.text(_task(project, commit, answers))
    names = asking.engine_names(project, None, None, None, "plan")
    key = digest(f"{' '.join(names)}\n{task}".encode()).removeprefix("sha256:")[:32]
    with locks.hold(project.dirs.lock(f"planning-{key}"), project.env, what="this look at the repository"):
        journal = Journal(project.dirs.planning / f"{key}.jsonl")
        with asking.open_engines(project, names) as engines:
            loop = asking.questioner(project, journal, engines, redactor, planning.UNBOUNDED)
            try:
                told, engine = _told(loop, task)
            except BudgetStop as stop:
                raise WaitingError(
                    f"the discovery stopped: {stop}", "runner init", "run the same command again"
                ) from stop
        yield Found(told.commands(), told.questions, engine, spending.of(journal.records).usd)
        journal.path.unlink(missing_ok=True)


def _told(loop: Consultation, task: str) -> tuple[Discovery, str]:
    schema, system = asking.answer_schema("discovery"), resources.prompt("repo-discovery.prompt").strip()
    turns: list[Turn] = [UserTurn(text=task)]
    why: tuple[str, ...] = ()
    for _ in range(2):
        record = loop.question(Request(system=system, turns=tuple(turns), schema=schema))
        if record.finish == "refused":
            why = (f"it refused: {record.text[:300] or 'no reason given'}",)
            break
        try:
            return model_answers.parse(model_answers.Discovery, record.text), record.engine
        except UnfitError as error:
            why = error.problems
        turns.append(turn_of(record))
        reasons = "\n".join(f"- {one}" for one in why)
        turns.append(UserTurn(text=f"This cannot be taken:\n{reasons}\nGive the whole answer again, with that mended."))
    loop.undecided(*why)
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
    ranked = [(rank, path) for path in paths for rank, told in enumerate(_SHOWN) if told.fullmatch(path)]
    return [path for _, path in sorted(ranked)]
