"""Workflows: plans with declared inputs, of the trusted branch's `.protocols/workflows/` and built in.

Promises a workflow's files as plain bytes. One of the project's own goes before a built-in one of the same name; one on a
branch that is not trusted does not exist. `runner.protocol.workflow` defines the inputs.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from runner import resources
from runner.errors import MalformedFileError, UsageError
from runner.git import BLOB, EXECUTABLE, TREE
from runner.protocol import paths, workflow
from runner.store.project import Project

FOLDER = f"{paths.ROOT}/workflows"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def names(project: Project) -> list[str]:
    """Return the names of the workflows that there are."""
    own = project.git.tree(f"{project.trusted.commit}:{FOLDER}") or {}
    found = {name for name, entry in own.items() if entry.mode == TREE and NAME.fullmatch(name)}
    return sorted(found | {path.name for path in resources.template("workflows").iterdir() if path.is_dir()})


def find(project: Project, name: str) -> tuple[dict[str, bytes], str]:
    """Return a workflow's files, by name in its folder, and their place.

    Raises:
        UsageError: there is none of that name; near ones are offered.
        MalformedFileError: a file of it is a link, or is not plain.
    """
    known = names(project)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        raise UsageError(
            f"there is no workflow `{name}`",
            f"{FOLDER} on {project.trusted.branch}, and those built in",
            f"did you mean {' or '.join(near)}?" if near else f"there is {', '.join(known)}",
        )
    git, folder = project.git, f"{FOLDER}/{name}"
    tree = git.tree(f"{project.trusted.commit}:{folder}")
    if tree is None:
        built_in = resources.template(f"workflows/{name}")
        files = {path.name: resources.for_people(path) for path in sorted(built_in.glob("*.md"))}
        return files, f"the built-in workflow {name}"
    files = {}
    for file, entry in tree.items():
        if not file.endswith(".md"):
            continue
        data = git.blob(entry.oid) if entry.mode in (BLOB, EXECUTABLE) else None
        if data is None:
            raise MalformedFileError(
                f"{file} is not a plain file", f"{folder}/{file} on {project.trusted.branch}", "replace it by one"
            )
        files[file] = data
    return files, folder


def instantiate(project: Project, name: str, given: Sequence[str]) -> tuple[dict[str, bytes], str]:
    """Return the plan's files of a workflow with its inputs (`k=v` each) put in, and their place.

    Raises:
        UsageError: no such workflow, or an input that is not as it should be.
        MalformedFileError: the workflow itself is not valid.
    """
    files, where = find(project, name)
    return workflow.instantiate(files, where, _inputs(given)), where


def _inputs(given: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in given:
        key, equals, value = one.partition("=")
        if not equals or not key:
            raise UsageError(f"`{one}` is no input", "--input", "write NAME=VALUE, such as --input text=hello")
        if key in found:
            raise UsageError(f"the input `{key}` is given twice", "--input", "give it once")
        found[key] = value
    return found
