"""Pinning an MCP server: its list of tools, as it is now, beside the one that a person accepted before."""

from __future__ import annotations

import re
from pathlib import Path

from runner.app import shell
from runner.errors import UsageError
from runner.executor import toolbox
from runner.executor.workspace_session import WorkspaceSession
from runner.protocol import config, paths
from runner.store.project import Project
from runner.tools import servers
from runner.values import dataclass

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


def pin(project: Project, name: str) -> Pinned:
    """Ask a server for its list, and write it and its digest into the checkout, where a person commits them.

    The entry is that of the checkout's config.yaml, the program that of its last commit.

    Raises:
        UsageError: there is no checkout, or no such entry. ToolModuleError: the server does not start, or has no list.
    """
    top = project.git.top
    if top is None:
        raise UsageError(
            "a digest is written into a checkout, and there is none here", str(project.git.at), "run it in a checkout"
        )
    at = top / paths.CONFIG
    found = config.parse(at.read_bytes() if at.is_file() else None, paths.CONFIG)
    if name not in found.mcp:
        known = ", ".join(found.mcp) or "none"
        raise UsageError(
            f"there is no MCP server `{name}`; there is {known}", f"{at}, mcp", "docs/mcp.md shows an entry"
        )
    commit = project.git.resolve("HEAD") or project.trusted.commit
    with shell.space_for(project, _NO_PROTOCOL) as space:
        session = WorkspaceSession.open(project, _NO_PROTOCOL, None, space)
        session.prepare(commit)
        connection = toolbox.connection_to(
            session, name, found.mcp[name], lambda question: None, session.export(commit)
        )
        try:
            words, version = servers.words_of(connection.tools()), connection.version
        finally:
            connection.close()
    wanted = found.mcp[name].version
    if wanted is not None and version != wanted:
        what = f"the MCP server `{name}` says that it is version {servers.visible(version)[:40]}, not {wanted}"
        raise UsageError(what, f"{at}, mcp: {name}", "install the declared version, or declare this one")
    return _write(top, name, words, found.mcp[name].tools)


def _write(top: Path, name: str, words: list[servers.Words], before: str | None) -> Pinned:
    file, at, digest = top / paths.words_file(name), top / paths.CONFIG, servers.digest_of(words)
    old = servers.parse(file.read_bytes(), str(file)) if file.is_file() else []
    written, line = [], None
    if not file.is_file() or file.read_bytes() != servers.render(words):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(servers.render(words))
        written.append(paths.words_file(name))
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
