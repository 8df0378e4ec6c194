"""The prompt of an agent step: the plan, the step, earlier results, and the project's own instructions.

Plan files are the task. The output of steps and models (earlier results, findings, memory) is quoted as untrusted. Instructions and
memory come from the trusted branch alone; memory that a person wrote is trusted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from runner import resources
from runner.executor.step_run import StepRun
from runner.protocol import log, paths
from runner.protocol.digest import digest
from runner.protocol.plans import Step
from runner.protocol.state import State
from runner.store.project import Project
from runner.store.snapshot import Snapshot
from runner.trust import manifest, trusted_config

INSTRUCTIONS_LIMIT = 24_000  # characters of one instruction file
MEMORY_LIMIT = 12_000  # characters of all memory
RESULT_LIMIT = 4_000  # characters of one earlier result
REPORT_LIMIT = 16_000  # characters of the report of a review


FENCE = "<<<untrusted"  # the first line of quoted untrusted text


def fence(text: str, label: str) -> str:
    """Return text that is material and no instruction, between lines that it cannot close by itself; nor can the label."""
    return f"{FENCE} {_inner(label)}\n{_inner(text)}\nuntrusted>>>"


def _inner(text: str) -> str:
    return text.replace("untrusted>>>", "untrusted>> >").replace(FENCE, "<< <untrusted")


def system(coworker: str | None) -> str:
    """Return the system instruction of an agent step; `coworker`: the objective and instructions of its agent file."""
    text = resources.prompt("execute").strip()
    return f"{text}\n\n{coworker.strip()}" if coworker else text


def task(run: StepRun) -> str:
    """Return the first turn of an attempt."""
    plan, step, state = run.plan, run.step, run.state
    parts = [f"# The work: {plan.header.title}", plan.prose.strip()]
    if plan.header.acceptance:
        parts.append("It is accepted when:\n" + "\n".join(f"- {line}" for line in plan.header.acceptance))
    if plan.header.inputs:
        parts.append(
            "Inputs:\n" + "\n".join(f"- {key}: {json.dumps(value)}" for key, value in plan.header.inputs.items())
        )
    parts.append("Its steps:\n" + "\n".join(_line(one, step, state) for one in plan.steps))
    if plan.context:
        parts.append(f"# Notes\n\n{plan.context.strip()}")
    parts += instructions(run.project)
    results = {slug: result for slug, result in run.results.items() if result is not None}
    for slug, result in results.items():
        shown = json.dumps(result, indent=1, ensure_ascii=False)[:RESULT_LIMIT]
        parts.append(fence(shown, f"result of the step {slug}"))
    found = _findings(run)
    if found:
        parts.append(f"This is attempt {run.attempt}. The one before did not do:\n{fence(found, 'findings')}")
    parts.append(f"# Your step: {step.header.title}\n\n{step.prose.strip()}")
    if step.header.outputs:
        parts.append("It must leave: " + ", ".join(step.header.outputs))
    if step.checks:
        parts.append("It is checked with: " + "; ".join(f"`{check}`" for check in step.checks))
    return "\n\n".join(part for part in parts if part)


def _line(one: Step, step: Step, state: State) -> str:
    mark = (
        "yours"
        if one.slug == step.slug
        else state.steps[one.slug].status.value
        if one.slug in state.steps
        else "pending"
    )
    said = f"- {one.number:02d}-{one.slug} ({mark})"
    # The approval of a step leaves later steps' files out, so that nothing in them is among the words that are trusted.
    return said if one.number > step.number else f"{said}: {one.header.title}"


def instructions(project: Project) -> list[str]:
    """Return the project's own instructions and memory, as the trusted branch has them."""
    found = []
    for name in manifest.INSTRUCTIONS:  # those that a word is about
        data = project.trusted.blob(project.git, name)
        if data:
            text = data.decode("utf-8", "replace")[:INSTRUCTIONS_LIMIT]
            found.append(f"# The project's {name}\n\n{text.strip()}")
    return [*found, *_memory(project)]


def _memory(project: Project) -> Iterator[str]:
    """Yield the memory of earlier work: that of people, then, quoted, that of steps; a merge does not make it trusted."""
    files = project.git.tree(f"{project.trusted.commit}:{paths.MEMORY.rstrip('/')}") or {}
    told: dict[bool, list[str]] = {True: [], False: []}
    size, vouched = 0, trusted_config.written_by_people(project.git, project.trusted.commit) if files else frozenset()
    for name in sorted(files):
        data = project.git.blob(files[name].oid) if name.endswith(".md") else None
        if data and size < MEMORY_LIMIT:
            line = f"- {name.removesuffix('.md')}: {data.decode('utf-8', 'replace').strip()}"[: MEMORY_LIMIT - size]
            told[paths.MEMORY + name in vouched].append(line)
            size += len(line)
    if told[True]:
        yield "# What is known from earlier work\n\n" + "\n".join(told[True])
    if told[False]:
        yield fence("\n".join(told[False]), "memory that steps of earlier work wrote")


def _findings(run: StepRun) -> str:
    """Return why the attempt before failed, by the log."""
    if run.attempt == 1:
        return ""
    for raw in reversed(log.parse_raw(run.view.log, run.view.where)):
        if raw.subject == run.slug and raw.event in ("qa-failed", "step-failed", "step-blocked"):
            told = [str(raw.fields.get("reason", ""))]
            told += [
                f"{check['check']}: exit {check['code']}\n{check['tail']}"
                for check in raw.fields.get("evidence", [])
                if check["code"]
            ]
            told += _report(run.project, run.view, raw)
            if raw.event == "step-failed" and raw.fields.get("reason", "").startswith("QA:"):
                continue  # the verdict before it says more
            return "\n\n".join(told)
    return ""


def _report(project: Project, snapshot: Snapshot, raw: log.RawEntry) -> list[str]:
    """Return the findings of the review that an event names, from its report; nothing where it is not that report any more."""
    entry = snapshot.files.get(paths.report_file(raw.subject, int(raw.fields.get("attempt", 0))))
    data = project.git.blob(entry.oid) if entry and raw.fields.get("report") else None
    if data is None or digest(data) != raw.fields["report"]:
        return []
    return [data.decode("utf-8", "replace")[:REPORT_LIMIT]]
