"""What a program may leave for people: a plan or an edit that a person commits, and an answer to a model's question.

A proposal is kept beside the clone's notes, on no branch and in no checkout: the runner picks up edits in a worktree as that
person's own, so nothing of a program's may lie there.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Mapping
from typing import Final

from runner.app import create, steer
from runner.errors import RefusedError, UsageError
from runner.executor import load
from runner.lines import with_ends
from runner.protocol import ids, paths, plans, strict_yaml
from runner.protocol.ids import digest
from runner.store import lookup, snapshot, worktree
from runner.store.project import Project
from runner.tools.servers import ASKS

MOST_FILES: Final = 60
THROUGH: Final = "mcp"  # before a person's address in the record, where a program spoke through their clone


def plan(project: Project, title: str, files: Mapping[str, str]) -> str:
    """Keep a plan that a person can make a protocol of; return what they type. Without `files` it is one agent step of that text.

    Raises:
        MalformedFileError, UnsupportedError: it cannot be carried out. UsageError: there is no title, or a name is no plan file's.
    """
    said = {name: text.encode("utf-8", "surrogateescape") for name, text in files.items()}
    if not said:
        title, said = create.task(title)
    if len(said) > MOST_FILES or not all(paths.is_words(name) for name in said):
        hint = f"give {paths.PLAN}, {paths.CONTEXT} and step files such as 01-do.md, at most {MOST_FILES}"
        raise UsageError("these are no plan files", ", ".join(sorted(said))[:200], hint)
    read = plans.parse(said, "the proposal", project.config.checks)
    plans.refuse_unsupported(read, "the proposal")
    name = f"{ids.slug_of_title(title or read.header.title)}-{digest(repr(sorted(said.items())).encode())[7:13]}"
    folder = project.dirs.beside / "proposals" / name
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for file, data in said.items():
        (folder / file).write_bytes(data)
    return f"runner new --plan {shlex.quote(str(folder))}"


def edit(project: Project, protocol: str, file: str, text: str) -> str:
    """Keep an edit of a plan file as a patch; return what a person types to have it in their worktree.

    Raises:
        UsageError: it is no plan file, or there is no worktree. MalformedFileError: the plan would not be valid.
    """
    name = load.find_protocol(project, protocol)
    if not paths.is_words(file):
        raise UsageError(f"`{file}` is no plan file", name, f"give {paths.PLAN}, {paths.CONTEXT} or a step file's name")
    seen = load.view(project, name)
    before = snapshot.words(project.git, seen)
    new = text if text.endswith("\n") else f"{text}\n"
    after = {**before, file: new.encode("utf-8", "surrogateescape")}
    plans.refuse_unsupported(plans.parse(after, "the proposal", project.config.checks), "the proposal")
    old = strict_yaml.decode(before[file], file) if file in before else ""
    path = f"{paths.folder(name)}/{file}"
    lines = difflib.unified_diff(
        with_ends(old),
        with_ends(new),
        f"a/{path}" if file in before else "/dev/null",
        f"b/{path}",
    )
    patch = "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
    if not patch:
        raise RefusedError("nothing would change", path, "give the whole new text of the file")
    trees = worktree.on_branch(project.git, project.branch(name))
    if not trees:
        raise UsageError(f"{name} has no worktree", path, f"a person can type `runner edit {steer.number(name)}`")
    at = project.dirs.beside / "proposals" / f"{name}-{digest(patch.encode())[7:13]}.patch"
    at.parent.mkdir(parents=True, exist_ok=True)
    at.write_text(patch)
    return f"git -C {shlex.quote(str(trees[0].path))} apply {shlex.quote(str(at))}"


def answer(project: Project, protocol: str, which: str | None, text: str) -> str:
    """Answer a model's question, and record through which program it came; return the recorded text.

    Raises:
        RefusedError: it is a person's: a human step, an unknown effect, a held call, an approval, or what an MCP server asks.
    """
    name = load.find_protocol(project, protocol)
    state = load.view(project, name).state
    waits = [wait for wait in state.waiting if which in (None, wait.id, wait.subject)]
    questions = [wait for wait in waits if wait.kind == "question" and not wait.text.startswith(ASKS)]
    if len(questions) != 1 or len(waits) != 1:
        there = "; ".join(f"{wait.id} ({wait.kind})" for wait in waits) or "nothing"
        typed = lookup.typed(project, name)
        hint = f"name the question by its id; a person types `runner status {typed}` for the rest"
        raise RefusedError(f"only a model's question is answered here, one at a time; {there} waits", name, hint)
    before, project.speaker = project.speaker, f"{THROUGH}/{project.actor()}"
    try:
        return steer.answer(project, name, questions[0].id, text).said
    finally:
        project.speaker = before
