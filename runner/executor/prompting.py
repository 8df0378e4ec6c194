"""The parts of prompts: of an agent step (plan, step), and about the project (files, history, symbols).

Plan files are the task. The output of steps and models (earlier results, findings) is quoted as untrusted.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from runner import resources
from runner.executor import symbols
from runner.executor.step_run import StepRun
from runner.git import BLOB, EXECUTABLE, TreeEntry
from runner.protocol import paths
from runner.protocol.plans import Step
from runner.protocol.state import State
from runner.store.project import Project

RESULT_LIMIT = 4_000  # characters of the result of one step
# Characters, about three to a token, of each part about the project.
TREE_LIMIT = 12_000
PLANNERS_TREE_LIMIT = 3_000
FILES_LIMIT = 45_000
FILE_LIMIT = 8_000
FILES_MOST = 16
SUBJECTS_MOST = 8
WORDS_MOST = 10
GREP_MOST = 20_000  # files of a repository whose content is searched
COMMON = 200  # a word that more files hold than this says nothing
BLOB_MOST = 512 * 1024
_GREP = ("-l", "-z", "-I", "-i", "-F", "--no-color", "--no-recurse-submodules")
_PARTS = re.compile(r"[^a-z0-9]+")
WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]*[A-Za-z0-9_]")
STOP = frozenset(
    WORD.findall(
        "the and for with that this from into when where make makes let all any not are its our use have has should must can so to"
        " add fix new run runs pass passes failing fails test tests make change get set of in on is be it as at by or an if do no"
    )
)


FENCE = "<<<untrusted"  # the first line of quoted untrusted text


def fence(text: str, label: str) -> str:
    """Return text that is material and no instruction, between lines that it cannot close by itself; nor can the label."""
    return f"{FENCE} {_inner(label)}\n{_inner(text)}\nuntrusted>>>"


def _inner(text: str) -> str:
    return text.replace("untrusted>>>", "untrusted>> >").replace(FENCE, "<< <untrusted")


def system(coworker: str | None, name: str = "execute") -> str:
    """Return the system instruction of an agent step; `coworker`: the objective and instructions of its agent file."""
    text = resources.prompt(name).strip()
    return f"{text}\n\n{coworker.strip()}" if coworker else text


def task(run: StepRun, earlier: Sequence[str] = ()) -> str:
    """Return the first turn of an attempt. `earlier`: instructions, the repository, earlier steps and attempts."""
    plan, step, state = run.plan, run.step, run.state
    # `runner do` writes the same text into plan and step: it is said once.
    whole = [_titled("The work", plan.header.title, plan.prose)] if plan.prose.strip() != step.prose.strip() else []
    parts = list(whole)
    if plan.header.acceptance:
        parts.append("It is accepted when:\n" + "\n".join(f"- {line}" for line in plan.header.acceptance))
    if plan.header.inputs:
        parts.append(
            "Inputs:\n" + "\n".join(f"- {key}: {json.dumps(value)}" for key, value in plan.header.inputs.items())
        )
    if len(plan.steps) > 1:
        parts.append("Its steps:\n" + "\n".join(_line(one, step, state) for one in plan.steps))
    if plan.context:
        parts.append(f"# Notes\n\n{plan.context.strip()}")
    parts += earlier
    parts.append(_titled("Your step" if whole else "Your task", step.header.title, step.prose))
    if step.header.outputs:
        parts.append("It must leave: " + ", ".join(step.header.outputs))
    if step.checks:
        parts.append("It is checked with: " + "; ".join(f"`{check}`" for check in step.checks))
    return "\n\n".join(part for part in parts if part)


def _titled(what: str, title: str, text: str) -> str:
    """Return a text below its title, which is left out where it is only the start of the text."""
    start = " ".join(title.removesuffix("…").split())
    heading = f"# {what}" if " ".join(text.split()).startswith(start) else f"# {what}: {title}"
    return f"{heading}\n\n{text.strip()}".strip()


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
    return said if one.number >= step.number else f"{said}: {one.header.title}"


# --- the project ---------------------------------------------------------------------------------------------------------


def context(project: Project, request: str, commit: str) -> list[str]:
    """Return the parts of the prompt about the project, of limited size: files, history, symbols. They are the same in every
    clone."""
    files = files_of(project, commit)
    parts = [listing(files, PLANNERS_TREE_LIMIT)]
    subjects = _subjects(project, commit)
    if subjects:
        parts.append(fence("\n".join(subjects), "subjects of the last commits, newest first"))
    first = relevant(project, request, commit, files)[:FILES_MOST]
    asked = [
        word for word in _words(request) if not any(path.lower().endswith(word) for path in first)
    ]  # no file's name
    named = {part for word in asked for part in _PARTS.split(word) if len(part) > 3} - STOP
    known = symbols.of_commit(project.git, commit, files, first, named)
    if known:
        parts.append(fence(known, "classes and functions, with the line of each; .x is inside of what is before it"))
    return [part for part in parts if part]


def files_of(project: Project, commit: str) -> dict[str, TreeEntry]:
    """Return the files of a commit that a prompt may name: none of the runner's, and none with an unprintable name."""
    return {
        path: entry
        for path, entry in project.git.files(commit).items()
        if not path.startswith(f"{paths.ROOT}/") and path.isprintable()
    }


def listing(files: Mapping[str, TreeEntry], limit: int = TREE_LIMIT) -> str:
    """Return the names of the files, quoted as untrusted."""
    return fence(tree_listing(list(files), limit), "files of the repository")


def shown(project: Project, files: Mapping[str, TreeEntry], names: Sequence[str]) -> Iterator[str]:
    """Yield the text of the files with these names, each quoted as untrusted, as many as there is room for."""
    left = FILES_LIMIT
    for path in names[:FILES_MOST]:
        plain = files[path].mode in (BLOB, EXECUTABLE)
        text = text_of(project, files[path]) if plain else None
        if text is not None and left > 0:
            told = cut(text, min(FILE_LIMIT, left))
            left -= len(told)
            yield fence(told, path)


def tree_listing(names: Sequence[str], limit: int) -> str:
    """Return the names where they fit into `limit` characters; else its folders with how many files each has."""
    if sum(len(name) + 1 for name in names) <= limit:
        return "\n".join(sorted(names))
    for depth in (6, 4, 3, 2, 1):
        counted = Counter("/".join(name.split("/")[:-1][:depth]) for name in names)
        lines = [
            f"{folder or '.'}/  {count} file{'s' if count != 1 else ''}" for folder, count in sorted(counted.items())
        ]
        if sum(len(line) + 1 for line in lines) <= limit:
            break
    return cut("\n".join(lines), limit)


def relevant(project: Project, request: str, commit: str, files: Mapping[str, TreeEntry]) -> list[str]:
    """Return the files that a request is probably about, the likeliest first: by their names, and by their text."""
    found: Counter[str] = Counter()
    wanted = _words(request)
    for word in wanted:
        for path in files:
            folder, _, name = path.lower().rpartition("/")
            found[path] += 4 * (word == name) + 3 * (word in name) + (word in folder)
    for word in wanted if len(files) <= GREP_MOST else ():
        _, out, _ = project.git.try_run("grep", *_GREP, "-e", word, commit)
        hits = [one.partition(":")[2] for one in out.decode("utf-8", "surrogateescape").split("\0") if one]
        if len(hits) <= COMMON:
            found.update(path for path in hits if path in files)
    plain = [path for path, score in found.items() if score and files[path].mode in (BLOB, EXECUTABLE)]
    return sorted(plain, key=lambda path: (-found[path], path))


def _words(request: str) -> list[str]:
    every = [word.lower() for word in WORD.findall(request)]
    return list(dict.fromkeys(word for word in every if len(word) > 2 and word not in STOP))[:WORDS_MOST]


def _subjects(project: Project, commit: str) -> list[str]:
    code, out, _ = project.git.try_run("rev-list", f"--max-count={SUBJECTS_MOST}", commit)
    found = [project.git.commit(oid) for oid in out.decode().split()] if code == 0 else []
    return [one.message.decode("utf-8", "replace").split("\n")[0][:80] for one in found if one is not None]


def text_of(project: Project, entry: TreeEntry) -> str | None:
    """Return the text of a file; None where it is binary or large."""
    size = project.git.sizes([entry.oid])[0]
    data = project.git.blob(entry.oid) if size is not None and size <= BLOB_MOST else None
    return None if data is None or b"\0" in data else data.decode("utf-8", "replace")


def cut(text: str, limit: int) -> str:
    """Return the text with at most `limit` characters of it, and a note of how many are left out."""
    return text if len(text) <= limit else f"{text[:limit]}\n[… {len(text) - limit:,} characters left out …]"
