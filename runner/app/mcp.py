"""MCP: pinning a server, and what a program may leave for people: a plan or an edit that a person commits, an answer to a question.

A server is pinned by its list of tools, shown beside the one that a person accepted before. A proposal is kept beside the clone's
notes, on no branch and in no checkout: the runner picks up edits in a worktree as that person's own, so nothing of a program's may
lie there.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from runner.app import by_hand, create, steer
from runner.errors import RefusedError, UsageError
from runner.executor import load, toolbox
from runner.executor.workspace_session import WorkspaceSession
from runner.lines import visible, with_ends
from runner.protocol import config, ids, paths, plans, strict_yaml
from runner.protocol.ids import digest
from runner.store import lookup, snapshot
from runner.store.project import Project, Session
from runner.tools import ASKS, servers

_NO_PROTOCOL = "0000-mcp"  # whose workspace the server sees: that of no protocol, which is discarded


@dataclass(frozen=True, slots=True)
class Pinned:
    """A server's list. `changed`: lines that show how it differs; `written`: the files that have it now; `line`: the one that
    config.yaml lacks."""

    digest: str
    count: int
    changed: tuple[str, ...]
    written: tuple[str, ...]
    line: str | None


def pin(session: Session, name: str) -> Pinned:
    """Ask a server for its list, and write it and its digest into the checkout, where a person commits them.

    The entry is that of the checkout's config.yaml, the program that of its last commit.

    Raises:
        UsageError: there is no checkout, or no such entry. ToolModuleError: the server does not start, or has no list.
    """
    top = session.git.top
    if top is None:
        raise UsageError(
            "a digest is written into a checkout, and there is none here",
            str(session.git.common_dir),
            "run it in a checkout",
        )
    at = top / paths.CONFIG
    found = config.parse(at.read_bytes() if at.is_file() else None, paths.CONFIG)
    if name not in found.mcp:
        known = ", ".join(found.mcp) or "none"
        raise UsageError(
            f"there is no MCP server `{name}`; there is {known}", f"{at}, mcp", "docs/mcp.md shows an entry"
        )
    commit = session.git.resolve("HEAD") or session.project.trusted.commit
    with by_hand.space_for(session.project, _NO_PROTOCOL) as space:
        workspace = WorkspaceSession.open(session, _NO_PROTOCOL, None, space)
        workspace.prepare(commit)
        connection = toolbox.connection_to(
            workspace, name, found.mcp[name], lambda question: None, workspace.export(commit)
        )
        try:
            words, version = servers.words_of(connection.tools()), connection.version
        finally:
            connection.close()
    wanted = found.mcp[name].version
    if wanted is not None and version != wanted:
        what = f"the MCP server `{name}` says that it is version {visible(version)[:40]}, not {wanted}"
        raise UsageError(what, f"{at}, mcp: {name}", "install the declared version, or declare this one")
    return _write(top, name, words, found.mcp[name].tools)


def _write(top: Path, name: str, words: list[servers.Words], before: str | None) -> Pinned:
    file, at, digest = top / paths.pinned_tools_file(name), top / paths.CONFIG, servers.digest_of(words)
    old = servers.parse(file.read_bytes(), str(file)) if file.is_file() else []
    written, line = [], None
    if not file.is_file() or file.read_bytes() != servers.render(words):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(servers.render(words))
        written.append(paths.pinned_tools_file(name))
    if before != digest:
        text = _with_digest(at.read_text(), name, before, digest)
        if text is None:
            line = f"tools: {digest}"
        else:
            at.write_text(text)
            written.append(paths.CONFIG)
    return Pinned(digest, len(words), tuple(servers.changes(old, words)), tuple(written), line)


def _with_digest(text: str, name: str, before: str | None, digest: str) -> str | None:
    """Return the text of config.yaml with a server's digest; None where it is not plain where that goes."""
    if before is not None:
        new = text.replace(before, digest)
    else:
        new = re.sub(rf"(?m)^([ ]+){name}:[ ]*\n([ ]+)(?=\S)", rf"\1{name}:\n\2tools: {digest}\n\2", text)
    wanted, found = (config.parse(one.encode(), paths.CONFIG) for one in (text, new))
    pinned = wanted.mcp[name].model_copy(update={"tools": digest})
    return new if found == wanted.model_copy(update={"mcp": {**wanted.mcp, name: pinned}}) else None


MOST_FILES: Final = 60
THROUGH: Final = "mcp"  # before a person's address in the record, where a program spoke through their clone


def propose_plan(project: Project, title: str, files: Mapping[str, str]) -> str:
    """Keep a plan that a person can make a protocol of; return what they type. Without `files` it is one agent step of that text.

    Raises:
        MalformedFileError, UnsupportedError: it cannot be carried out. UsageError: there is no title, or a name is no plan file's.
    """
    said = {name: text.encode("utf-8", "surrogateescape") for name, text in files.items()}
    if not said:
        title, said = create.task(title)
    if len(said) > MOST_FILES or not all(paths.is_plan_file(name) for name in said):
        hint = f"give {paths.PLAN}, {paths.CONTEXT} and step files such as 01-do.md, at most {MOST_FILES}"
        raise UsageError("these are not plan files", ", ".join(sorted(said))[:200], hint)
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


def propose_edit(session: Session, protocol: str, file: str, text: str) -> str:
    """Keep an edit of a plan file as a patch; return what a person types to have it in their worktree.

    Raises:
        UsageError: it is no plan file, or there is no worktree. MalformedFileError: the plan would not be valid.
    """
    name = load.find_protocol(session, protocol)
    if not paths.is_plan_file(file):
        raise UsageError(
            f"`{file}` is not a plan file", name, f"give {paths.PLAN}, {paths.CONTEXT} or a step file's name"
        )
    seen = load.read(session, name)
    before = snapshot.plan_files(session.git, seen)
    new = text if text.endswith("\n") else f"{text}\n"
    after = {**before, file: new.encode("utf-8", "surrogateescape")}
    plans.refuse_unsupported(plans.parse(after, "the proposal", session.project.config.checks), "the proposal")
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
    trees = session.git.checked_out(session.project.branch(name))
    if not trees:
        raise UsageError(
            f"{name} has no worktree", path, f"a person can type `runner edit {lookup.typed(session.project, name)}`"
        )
    at = session.dirs.beside / "proposals" / f"{name}-{digest(patch.encode())[7:13]}.patch"
    at.parent.mkdir(parents=True, exist_ok=True)
    at.write_text(patch)
    return f"git -C {shlex.quote(str(trees[0].path))} apply {shlex.quote(str(at))}"


def answer(session: Session, protocol: str, which: str | None, text: str) -> str:
    """Answer a model's question, and record through which program it came; return the recorded text.

    Raises:
        RefusedError: it is a person's: a human step, an unknown effect, a held call, an approval, or what an MCP server asks.
    """
    name = load.find_protocol(session, protocol)
    state = load.read(session, name).state
    waits = [wait for wait in state.waiting if which in (None, wait.id, wait.subject)]
    questions = [wait for wait in waits if wait.kind == "question" and not wait.text.startswith(ASKS)]
    if len(questions) != 1 or len(waits) != 1:
        there = "; ".join(f"{wait.id} ({wait.kind})" for wait in waits) or "nothing"
        typed = lookup.typed(session.project, name)
        hint = f"name the question by its id; a person types `runner status {typed}` for the rest"
        raise RefusedError(f"only a model's question is answered here, one at a time; {there} waits", name, hint)
    before, session.speaker = session.speaker, f"{THROUGH}/{session.actor()}"
    try:
        return steer.answer(session, name, questions[0].id, text).said
    finally:
        session.speaker = before
