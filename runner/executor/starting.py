"""What an attempt's first request says of the repository, to save turns: its files, how it is tested where the step has no checks,
the lines that the step names, and what its checks find before the work.

All of it but the runner's sentences is quoted as untrusted. A step with a tool that reaches outside starts without it: its calls would
need approval from the first one on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from runner import qa
from runner.errors import RunnerError
from runner.executor import feedback, prompting
from runner.executor.step_run import KeptOutput, StepRun
from runner.git import BLOB, EXECUTABLE, TreeEntry
from runner.lines import lines_of
from runner.protocol import paths
from runner.protocol.ids import digest
from runner.protocol.plans import QaPolicy
from runner.protocol.state import read_json
from runner.sandbox import Outcome
from runner.store.environment import matching, write_atomically
from runner.tools import Tool
from runner.tools.commands import WorkspaceAlias, folded

TREE_LIMIT = 1_200  # characters
MANIFEST_LIMIT = 1_200
LINES_LIMIT = 4_000  # of the lines that the step names
SECONDS = 60.0  # for all checks before the work; slower ones are not tried again for a week
WEEK = 7 * 86_400
KEPT = 50  # results in this clone
_NAMED = re.compile(r"(?m)^- `?([^\s:`]+):(\d{1,7})-(\d{1,7})(?![\w.])")  # `- src/app.py:10-40: what is there`
_PYTEST = re.compile(r"^\[(?:tool\.)?(?:pytest|tox|tool:pytest)[^\n]*\]\n(?:(?!\[)[^\n]*\n?)*", re.MULTILINE)
_MAKE = re.compile(r"^(?:test|tests|check)\s*:(?!=)[^\n]*\n(?:\t[^\n]*\n?)*", re.MULTILINE)


def of(run: StepRun, tools: Mapping[str, Tool]) -> list[str]:
    """Return the parts of the first request, which are the same whenever the attempt is resumed in this clone."""
    if any(tool.contract.effect == "external" for tool in tools.values()):
        return []
    files = prompting.files_of(run.project, run.view.tip)
    parts = [
        prompting.tree_listing(list(files), TREE_LIMIT),
        "" if run.step.checks else _tests(run, files)[:MANIFEST_LIMIT],
    ]
    listed = prompting.fence("\n\n".join(filter(None, parts)), "files of the repository")
    return [listed, *_lines(run, files), *_before(run)]


def _lines(run: StepRun, files: Mapping[str, TreeEntry]) -> Iterator[str]:
    """Yield the lines that the step names, which its planner read: they are not read again. A later attempt has its own diff."""
    left = LINES_LIMIT if run.attempt == 1 else 0
    for path, first, last in _NAMED.findall(run.step.prose):
        plain = path in files and files[path].mode in (BLOB, EXECUTABLE)
        text = prompting.text_of(run.project, files[path]) if plain else None
        lines = lines_of(text or "")[max(0, int(first) - 1) : int(last)]
        if lines and left > 0:
            told = prompting.cut(run.redactor.text("\n".join(lines)), left)
            left -= len(told)
            yield prompting.fence(told, f"lines {first} to {last} of {path}")


def _tests(run: StepRun, files: Mapping[str, TreeEntry]) -> str:
    """Return the first part of a manifest that is about tests."""
    for name, part in (("pyproject.toml", _PYTEST), ("tox.ini", _PYTEST), ("Makefile", _MAKE), ("package.json", None)):
        data = run.project.git.blob(files[name].oid) if name in files else None
        text = (data or b"").decode("utf-8", "replace")
        if part is None:
            manifest = read_json(text)
            scripts = manifest.get("scripts") if isinstance(manifest, dict) else None
            found = json.dumps(scripts) if scripts else ""
        else:
            found = "\n".join(part.findall(text)).strip()
        if found:
            return f"{name}:\n{found}"
    return ""


def _before(run: StepRun) -> list[str]:
    """Return what the step's checks find before its first attempt, if they are fast enough."""
    checks = run.step.checks
    if run.attempt > 1 or not checks or run.step.qa is QaPolicy.SKIP:
        return []
    names = digest(json.dumps([checks, run.workspace.environment_name]).encode()).removeprefix("sha256:")[:24]
    folder = run.project.dirs.own / "before"
    slow, file = folder / f"{names}.slow", folder / f"{names}-{_code(run)}.txt"
    now = run.project.env.now()
    if file.exists():
        found = file.read_text("utf-8")
    elif slow.exists() and now - slow.stat().st_mtime < WEEK:
        return []
    else:
        try:
            told = _try(run)
        except RunnerError:  # what the setup lacks is for the QA to say
            return []
        folder.mkdir(parents=True, exist_ok=True)
        for old in sorted(matching(folder, "*"), key=lambda path: path.stat().st_mtime)[:-KEPT]:
            old.unlink(missing_ok=True)
        found = "" if told is None else told
        write_atomically(slow if told is None else file, found.encode())
    return [found] if found else []


def _code(run: StepRun) -> str:
    """Return a name for the files that checks see, which the record is not among."""
    tree = run.project.git.tree(run.view.tip) or {}
    known = sorted((name, entry.mode, entry.oid) for name, entry in tree.items() if name != paths.ROOT)
    return digest(json.dumps(known).encode()).removeprefix("sha256:")[:24]


def _try(run: StepRun) -> str | None:
    """Run the checks as the QA would, on the commit that the attempt starts at; None where they took too long."""
    env, session = run.project.env, run.workspace.beside(run, run.view.tip)
    folder, until = session.export(run.view.tip), env.monotonic() + SECONDS
    alias = WorkspaceAlias(folder, session.sandbox.place.inside(folder))
    outputs, slow = list[bytes](), False

    def execute(line: str) -> Outcome:
        nonlocal slow
        kept = KeptOutput(run.redactor)
        left = max(min(until - env.monotonic(), run.timeout), 0.1)
        outcome = session.run(line, session.environment(run, folder), timeout=left, cwd=folder, on_output=kept.take)
        slow = slow or outcome.timed_out
        outputs.append(folded(alias.hide_all(kept.data().decode("utf-8", "replace"))).encode())
        return outcome

    env.hear_output(f"{run.label} checks before the work", b"")
    verdict = qa.run_checks(
        (),
        run.step.checks,
        files=(),
        changed=(),
        execute=execute,
        explain=lambda line, outcome: session.explain(line, outcome),
    )
    if slow:
        return None
    if verdict.passed:
        return "Before your work, all the step's checks pass."
    return "Before your work, the step's checks fail:\n" + feedback.of_checks(verdict.evidence, verdict.reason, outputs)
