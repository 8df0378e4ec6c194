"""The parts of prompts about work that exists: of earlier steps and attempts, the findings of checks and reviews, and the start.

An attempt's first request says of the repository what saves turns: its files, how it is tested where the step has no checks, the
lines that the step names, and what its checks find before the work. A step with a tool that reaches outside starts without it: its
calls would need approval from the first one on. All of it but the runner's sentences is quoted as untrusted.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import filterfalse

from runner import qa
from runner.errors import InsufficientHistoryError, RunnerError
from runner.executor import permissions, prompting
from runner.executor.step_run import StepRun
from runner.executor.workspace_session import KeptOutput
from runner.git import BLOB, EXECUTABLE, TreeEntry
from runner.lines import few, lines_of
from runner.protocol import log, paths
from runner.protocol.event_types import event_type
from runner.protocol.events import CheckEvidence
from runner.protocol.ids import digest
from runner.protocol.log import RawEntry
from runner.protocol.model_answers import Verdict
from runner.protocol.plans import QaPolicy
from runner.protocol.state import read_json
from runner.sandbox.process import CommandOutcome
from runner.store import history
from runner.store.environment import matching, write_atomically
from runner.store.workspace import place
from runner.tools import Tool
from runner.tools.commands import WorkspaceAlias, folded
from runner.trust.transitions import transitions_below

REPORT_LIMIT = 16_000  # characters of the report of a review
DIFF_LIMIT = 6_000  # characters of the diffs so far
NAMES_MOST = 50  # files of an earlier step, or of an earlier attempt
OUTPUT_LIMIT = 4_000  # characters of one command's output


def for_model(run: StepRun, output: str) -> str:
    """Return a command's output as a model gets it: the folders of the checkout, the work and the checks are `/workspace`."""
    project = run.project
    space = place(project, run.snapshot.protocol, project.config.workspace.path)
    for folder in (space.export, space.work):
        output = WorkspaceAlias(folder, project.git.top or folder).hide_all(output)
    return output


def of_checks(run: StepRun, evidence: Sequence[CheckEvidence], reason: str, outputs: Sequence[bytes]) -> str:
    """Return which checks failed, each with the end of its output. `outputs`: of those that are commands, in their order."""
    commands = len(evidence) - len(outputs)  # promised files come first
    parts = [reason]
    for number, check in enumerate(evidence):
        if check["code"]:
            printed = (
                for_model(run, outputs[number - commands].decode("utf-8", "replace")) if number >= commands else ""
            )
            parts.append(f"{check['check']}: exit {check['code']}\n{end_of(printed)}".strip())
    return prompting.fence("\n\n".join(parts), "what the checks found")


def of_review(verdict: Verdict) -> str:
    """Return the findings of a review."""
    lines = [qa.plain(verdict.summary).strip()]
    for one in verdict.findings:
        place = f" {one.file}" + (f":{one.line}" if one.line else "") if one.file else ""
        lines.append(f"- {one.severity}{place}: {qa.plain(one.text).strip()}")
    return prompting.fence("\n".join(lines), "what the review found")


def end_of(text: str) -> str:
    """Return the last lines of a text, `OUTPUT_LIMIT` characters at most, with a note of how much is left out."""
    text = text.strip("\n")
    if len(text) <= OUTPUT_LIMIT:
        return text
    end = text[-OUTPUT_LIMIT:]
    end = end[end.find("\n") + 1 :] if 0 <= end.find("\n") < len(end) - 1 else end
    return f"[… {len(text) - len(end):,} characters left out …]\n{end}"


# --- earlier steps and attempts ------------------------------------------------------------------------------------------


def of_earlier(run: StepRun, entries: Sequence[RawEntry], before: str) -> list[str]:
    """Return the work of earlier steps and attempts, and the failure to fix. `before`: the commit before the step's work so far."""
    return [*_of_steps(run, entries), *(_of_attempts(run, entries, before) if run.attempt > 1 else ())]


def _of_steps(run: StepRun, entries: Sequence[RawEntry]) -> Iterator[str]:
    """Yield what each completed step with a result did: its files, the summaries of its attempts, its result."""
    results = {slug: result for slug, result in run.results.items() if result is not None}
    if not results:
        return
    files = _files_of(run, entries)
    for slug, result in results.items():
        lines = [f"title: {run.state.steps[slug].title}"]
        if names := files.get(slug, ()):
            lines.append(f"files: {few(names, NAMES_MOST)}")
        said = _summaries(entries, slug)
        lines += [f"summary of attempt {number}: {text}" for number, text in said[:-1]]
        shown = json.dumps(result, indent=1, ensure_ascii=False)[: prompting.RESULT_LIMIT]
        yield prompting.fence("\n".join([*lines, shown]), f"what the step {slug} did, and its result")


def _summaries(entries: Sequence[RawEntry], slug: str) -> list[tuple[int, str]]:
    """Return what each attempt of a step said when it finished, by its number."""
    found: dict[int, str] = {}
    for raw in entries:
        result = raw.fields.get("result")
        if raw.event == "step-finished" and raw.subject == slug and isinstance(result, dict) and result.get("summary"):
            found[int(raw.fields.get("attempt", 0))] = str(result["summary"])[: prompting.RESULT_LIMIT]
    return sorted(found.items())


def _files_of(run: StepRun, entries: Sequence[RawEntry]) -> dict[str, list[str]]:
    """Return the files that each step's transitions changed, outside the record."""
    git, found = run.project.git, dict[str, set[str]]()
    works = {raw.revision: raw.subject for raw in entries if event_type(raw.event).role == "work"}
    with contextlib.suppress(InsufficientHistoryError):  # in a shallow clone, those that are here
        for below in transitions_below(git, run.snapshot.protocol, run.snapshot.tip):
            for revision in below.revisions:
                if revision in works and below.commit.parents:
                    changed = git.changed(below.commit.parents[0], below.commit.oid)
                    found.setdefault(works[revision], set()).update(filterfalse(paths.is_for_people, changed))
    return {slug: sorted(names) for slug, names in found.items() if names}


def _of_attempts(run: StepRun, entries: Sequence[RawEntry], before: str) -> Iterator[str]:
    """Yield the state of the step after its earlier attempts: their changes, the last summary, the failure."""
    found = _findings(run, entries)
    seen = qa.change(run.project.git, run.snapshot.protocol, before, run.started, run.step.checks)
    state = f"The work of {'attempt 1' if run.attempt == 2 else 'the attempts before'} is in the files: fix it there."
    if not seen.files:
        state = "The files are as they were before the step: nothing of earlier attempts is in them."
    wanted = " Fix what the last attempt did not pass, quoted below, then finish." if found else ""
    yield f"# This is attempt {run.attempt}\n\n{state}{wanted}"
    if seen.files:
        yield prompting.fence(_so_far(seen), "what the step changed so far")
    said = _summaries(entries, run.slug)
    if said and said[-1][0] == run.attempt - 1:
        yield prompting.fence(said[-1][1], f"the summary of attempt {run.attempt - 1}")
    if found:
        yield prompting.fence(found, "findings")


def _so_far(seen: qa.Change) -> str:
    """Return the files that changed, with their lines added and removed, and the diffs that are short."""
    diffs = re.split(r"(?m)^(?=diff --git )", seen.diff)[1:]
    counts = [(len(re.findall(r"(?m)^\+(?!\+\+ )", one)), len(re.findall(r"(?m)^-(?!-- )", one))) for one in diffs]
    lines = [
        *seen.files[:NAMES_MOST],
        *([f"… and {len(seen.files) - NAMES_MOST} more"] if len(seen.files) > NAMES_MOST else []),
    ]
    lines.append(f"{len(seen.files)} files, +{sum(plus for plus, _ in counts)} −{sum(minus for _, minus in counts)}")
    left = DIFF_LIMIT
    for one, (plus, minus) in zip(diffs, counts, strict=True):
        if len(one) <= left:
            lines += ["", one.rstrip("\n")]
            left -= len(one)
        else:
            lines += ["", one.partition("\n")[0], f"[… +{plus} −{minus} lines, not shown …]"]
    return "\n".join([*lines, *seen.left_out])


def _findings(run: StepRun, entries: Sequence[RawEntry]) -> str:
    """Return why the attempt before failed, by the record, with the end of what its checks printed, where the history has that."""
    for raw in reversed(entries):
        if raw.subject == run.slug and raw.event in ("qa-failed", "step-failed", "step-blocked"):
            if raw.event == "step-failed" and raw.fields.get("reason", "").startswith("QA:"):
                continue  # the verdict before it says more
            told, number = [str(raw.fields.get("reason", ""))], 0
            for check in raw.fields.get("evidence", []):
                is_command = log.is_command(check["check"])
                number += is_command
                if check["code"]:
                    name = history.output_name(run.slug, int(raw.fields["attempt"]), number)
                    data = history.read(run.project.git, run.snapshot.protocol, name) if is_command else None
                    printed = for_model(run, end_of(data.decode("utf-8", "replace")) if data else check["tail"])
                    told.append(f"{check['check']}: exit {check['code']}\n{printed}")
            return "\n\n".join([*told, *_report(run, raw)])
    return ""


def _report(run: StepRun, raw: RawEntry) -> list[str]:
    """Return the findings of the review that an event names, from its report; nothing where it is not that report any more."""
    entry = run.snapshot.files.get(paths.report_file(raw.subject, int(raw.fields.get("attempt", 0))))
    data = run.project.git.content(entry) if raw.fields.get("report") else None
    if data is None or digest(data) != raw.fields["report"]:
        return []
    return [data.decode("utf-8", "replace")[:REPORT_LIMIT]]


TREE_LIMIT = 1_200  # characters
MANIFEST_LIMIT = 1_200
LINES_LIMIT = 4_000  # of the lines that the step names
SECONDS = 60.0  # for all checks before the work; slower ones are not tried again for a week
WEEK = 7 * 86_400
KEPT = 50  # results in this clone
_NAMED = re.compile(r"(?m)^- `?([^\s:`]+):(\d{1,7})-(\d{1,7})(?![\w.])")  # `- src/app.py:10-40: what is there`
_PYTEST = re.compile(r"^\[(?:tool\.)?(?:pytest|tox|tool:pytest)[^\n]*\]\n(?:(?!\[)[^\n]*\n?)*", re.MULTILINE)
_MAKE = re.compile(r"^(?:test|tests|check)\s*:(?!=)[^\n]*\n(?:\t[^\n]*\n?)*", re.MULTILINE)


def of_start(run: StepRun, tools: Mapping[str, Tool]) -> list[str]:
    """Return the parts of the first request, which are the same whenever the attempt is resumed in this clone."""
    if any(tool.contract.effect == "external" for tool in tools.values()):
        return []
    files = prompting.files_of(run.project, run.snapshot.tip)
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
        data = run.project.git.content(files.get(name))
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
    tree = run.project.git.tree(run.snapshot.tip) or {}
    known = sorted((name, entry.mode, entry.oid) for name, entry in tree.items() if name != paths.ROOT)
    return digest(json.dumps(known).encode()).removeprefix("sha256:")[:24]


def _try(run: StepRun) -> str | None:
    """Run the checks as the QA would, on the commit that the attempt starts at; None where they took too long."""
    env, approved = run.project.env, permissions.approved_changes(run)
    workspace = run.workspace.beside(run.snapshot.tip, run.step.header.resources, approved)
    folder, until = workspace.export(run.snapshot.tip), env.monotonic() + SECONDS
    outputs, slow = list[bytes](), False

    def execute(line: str) -> CommandOutcome:
        nonlocal slow
        kept = KeptOutput(run.redactor)
        left = max(min(until - env.monotonic(), run.timeout), 0.1)
        outcome = workspace.run(line, run.environment(workspace, folder), timeout=left, cwd=folder, on_output=kept.take)
        slow = slow or outcome.timed_out
        outputs.append(folded(kept.data().decode("utf-8", "replace")).encode())
        return outcome

    env.hear_output(f"{run.label} checks before the work", b"")
    verdict = qa.run_checks(
        (),
        run.step.checks,
        files=(),
        changed=(),
        execute=execute,
        explain=workspace.explain,
    )
    if slow:
        return None
    if verdict.passed:
        return "Before your work, all the step's checks pass."
    return "Before your work, the step's checks fail:\n" + of_checks(run, verdict.evidence, verdict.reason, outputs)
