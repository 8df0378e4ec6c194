"""References: `${{ inputs.version }}` and `${{ steps.context.result.text }}`.

They occur in a tool's `with:`. A value that is one whole reference keeps the type of the value that it names; inside longer text it
is written as text. In prose only inputs are replaced. They are never spliced into a shell line: commands get the same values as
environment variables.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from runner.errors import MalformedFileError, WaitingError
from runner.lines import pattern
from runner.protocol import ids

_REFERENCE = pattern(r"\$\{\{([^{}]*)\}\}")
_PATH = pattern(
    r"(?:inputs\.(?P<input>[A-Za-z_][A-Za-z0-9_]*)|steps\.(?P<step>[a-z0-9-]+)\.result)(?P<rest>(?:\.[A-Za-z0-9_-]+)*)"
)


def names_in(value: Any, where: str) -> list[str]:
    """Return every reference in a value, as written between the braces.

    Raises:
        MalformedFileError: one is not closed.
    """
    if isinstance(value, str):
        if "${{" in _REFERENCE.sub("", value):
            raise MalformedFileError("a reference that is not closed", where, "end it with `}}`")
        return [name.strip() for name in _REFERENCE.findall(value)]
    if isinstance(value, Mapping):
        return [name for item in value.values() for name in names_in(item, where)]
    if isinstance(value, list | tuple):
        return [name for item in value for name in names_in(item, where)]
    return []


def split(name: str, where: str) -> tuple[str, str]:
    """Return ("inputs", the input's name) or ("steps", the step's slug) of a reference.

    Raises:
        MalformedFileError: it is no reference.
    """
    match = _PATH.fullmatch(name)
    if not match:
        raise MalformedFileError(
            f"`${{{{ {name[:80]} }}}}` is not a reference",
            where,
            "write ${{ inputs.NAME }} or ${{ steps.SLUG.result.NAME }}",
        )
    return ("inputs", match["input"]) if match["input"] else ("steps", match["step"])


def variable_for(text: str) -> str | None:
    """Return the environment variable that a command should use for the first reference in `text`; None without one."""
    for name in _REFERENCE.findall(text):
        match = _PATH.fullmatch(name.strip())
        if match:
            rest = match["rest"].removeprefix(".").split(".")[0]
            if match["input"]:
                return _variable("INPUT", match["input"])
            return _variable("STEPS", ids.step_slug(match["step"]) or match["step"], rest)
    return None


def resolve(value: Any, inputs: Mapping[str, Any], results: Mapping[str, Any], where: str) -> Any:
    """Return `value` with its references replaced. `results`: step slug to result, of the steps that are done.

    Raises:
        MalformedFileError: a reference names nothing.
        WaitingError: it names a result that is not known yet.
    """
    if isinstance(value, str):
        whole = _REFERENCE.fullmatch(value)
        if whole:
            return _look_up(whole[1].strip(), inputs, results, where)
        return _REFERENCE.sub(lambda match: _as_text(_look_up(match[1].strip(), inputs, results, where)), value)
    if isinstance(value, Mapping):
        return {key: resolve(item, inputs, results, where) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [resolve(item, inputs, results, where) for item in value]
    return value


def in_prose(text: str, inputs: Mapping[str, Any]) -> str:
    """Return prose with the references to `inputs` replaced.

    A name that is no input stays, since prose may quote a CI's file. Results of steps stay too: a model follows prose, and must not
    follow what a step printed.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1].strip()
        named = _PATH.fullmatch(name)
        if named is None or named["input"] not in inputs:
            return match[0]
        try:
            return _as_text(_look_up(name, inputs, {}, ""))
        except (MalformedFileError, WaitingError):
            return match[0]

    return _REFERENCE.sub(value, text)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _look_up(name: str, inputs: Mapping[str, Any], results: Mapping[str, Any], where: str) -> Any:
    split(name, where)
    match = _PATH.fullmatch(name)
    assert match is not None
    if match["input"]:
        if match["input"] not in inputs:
            raise MalformedFileError(
                f"there is no input `{match['input']}`", where, "name it under `inputs:` in plan.md"
            )
        value = inputs[match["input"]]
    else:
        step = ids.find_step(match["step"], results)
        if step is None:
            raise MalformedFileError(
                f"there is no result of a step `{match['step']}` yet",
                where,
                "name a step that comes before, and list it in `needs`",
            )
        value = results[step]
    for part in match["rest"].split(".")[1:]:
        if value is None:
            raise WaitingError(f"the result `{name}` is not known", where, "edit the step so that it does without it")
        if not isinstance(value, Mapping) or part not in value:
            known = f"; there are {', '.join(value)}" if isinstance(value, Mapping) and value else ""
            raise MalformedFileError(f"`{name}`: there is no `{part}`{known}", where, "correct the reference")
        value = value[part]
    return value


def environment(inputs: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, str]:
    """Return what a command sees of inputs and results: `RUNNER_INPUT_VERSION`, `RUNNER_STEPS_CONTEXT_TEXT`."""
    found = {_variable("INPUT", key): _as_text(value) for key, value in inputs.items()}
    for step, result in results.items():
        if isinstance(result, Mapping):
            found |= {_variable("STEPS", step, str(key)): _as_text(value) for key, value in result.items()}
    return {key: value for key, value in found.items() if "\0" not in value}


def _variable(*parts: str) -> str:
    return re.sub(r"[^A-Z0-9]", "_", "_".join(("RUNNER", *filter(None, parts))).upper())
