"""The project's data files: schemas, templates and prompts, installed or in a checkout.

Promises the shipped bytes and paths, by name, and never a path outside the data. What a schema says, how a template is
filled in and which prompt is sent is left to the callers. Data that is absent is a broken installation and nobody's
mistake, so it raises `FileNotFoundError`; a caller that takes names from people lists the folder and offers those.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

_KINDS = ("schemas", "templates", "prompts")
_MODELINE = b"# yaml-language-server: $schema="


def schema(name: str) -> bytes:
    """Return the JSON Schema called `name` (`state`, for `schemas/state.schema.json`), as it was shipped.

    Raises:
        FileNotFoundError: there is no such schema.
        ValueError: `name` leads out of the data.
    """
    return _find("schemas", f"{name}.schema.json").read_bytes()


def schemas() -> list[str]:
    """Return the names of all schemas."""
    return sorted(path.name.removesuffix(".schema.json") for path in (_root() / "schemas").glob("*.schema.json"))


def template(path: str) -> Path:
    """Return the path of the template file or folder `path` (`workflows/echo-add`), to be read and never written.

    Raises:
        FileNotFoundError: there is no such template.
        ValueError: `path` leads out of the data.
    """
    return _find("templates", path)


def for_people(path: Path, schemas: str = "") -> bytes:
    """Return a template as it is written for people.

    `schemas`: the folder, from the file's, where editors find its schema; empty where none is: the line that names it is left out.
    """
    found = list[bytes]()
    for line in path.read_bytes().splitlines(keepends=True):
        if not line.startswith(_MODELINE):
            found.append(line)
        elif schemas:
            found.append(_MODELINE + schemas.encode() + line[line.rindex(b"/") :])
    return b"".join(found)


def prompt(name: str) -> str:
    """Return the text of the prompt called `name` (`plan`, for `prompts/plan.md`).

    Raises:
        FileNotFoundError: there is no such prompt.
        ValueError: `name` leads out of the data.
    """
    return _find("prompts", f"{name}.md").read_text(encoding="utf-8")


def _find(kind: str, path: str) -> Path:
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or "\\" in path or "\0" in path:
        raise ValueError(f"{path!r} leads out of {kind}/")
    found = _root() / kind / parts
    if not found.exists():
        raise FileNotFoundError(f"{kind}/{path} is not part of this installation: {found} does not exist")
    return found


def _root() -> Path:
    package = Path(__file__).resolve().parent
    # A wheel carries the data inside the package; an editable checkout has it beside the package.
    for root in (package / "_data", package.parent):
        if all((root / kind).is_dir() for kind in _KINDS):
            return root
    raise FileNotFoundError(
        f"the data files ({', '.join(_KINDS)}) are neither in {package / '_data'} nor in {package.parent}; "
        "install protocol-runner again"
    )
