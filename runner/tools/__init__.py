"""Tools with typed contracts: the runner's own, and functions of the project's Python modules.

Here is the interface: a contract (arguments, result, effect) and a call. Values on both sides are JSON (str, int, float, bool, None,
list, dict); a contract's schemas are JSON Schema 2020-12. The caller decides whether a call is allowed, and whether its effect
permits a repeat. `registry` finds a
tool by its name, and has what each built-in one takes and gives. `python` has the functions of modules (run by `child`, a process
in the sandbox), `servers` the tools of MCP servers (spoken to by `mcp_client`). `agent` has a model's tools for a workspace: files
(by `files` and its `worker`), `commands`, `git`, memory.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from runner.protocol.state import read_json

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError


Effect = Literal["read", "workspace", "external"]
Repeat = Literal["never", "keyed", "probed"]

ASKS = "The MCP server "  # how a server's question to a person starts
SHOWN = 5  # problems in one message
WORDS = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
    "array": "a list",
    "object": "an object",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """The contract of a tool."""

    name: str
    description: str
    effect: Effect
    repeat: Repeat = "never"  # what a repeat of an external one means
    parameters: Mapping[str, Any]  # JSON schema of the arguments, an object
    returns: Mapping[str, Any] | None  # JSON schema of the result; None where nothing is known of it
    source: str  # "built in", or module:function
    timeout: float | None = None  # seconds that a call may take; None where the opener of the tool sets it
    key: str | None = None  # the argument of a keyed one that takes an idempotency key of ours; not among `parameters`
    env: tuple[str, ...] = ()  # names of the environment variables that it is given
    network: tuple[str, ...] = ()  # hosts that its entry names
    concurrent: bool = False  # whether calls of it may run at the same time, in threads

    def keyed(self, key: str) -> Contract:
        """Return the contract of a tool that takes an idempotency key: the runner fills it in, so no model sees the argument."""
        properties = {name: of for name, of in self.parameters["properties"].items() if name != key}
        required = [name for name in self.parameters.get("required", ()) if name != key]
        parameters = {**self.parameters, "properties": properties, "required": required}
        return dataclasses.replace(self, parameters=parameters, key=key)


class ToolError(Exception):
    """A call failed; the caller gets the message: the model, or the step, which then fails.

    `output` holds the last lines of the tool's output, or of its traceback.
    """

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(message, output)
        self.message, self.output = message, output

    def __str__(self) -> str:
        return f"{self.message}\n{self.output}" if self.output else self.message


class OutcomeUnknownError(ToolError):
    """A call was started, and its outcome is unknown."""


class AsksError(ToolError):
    """The tool asks a person before it acts; `message` is the question. The call is made again with the answer."""


class Tool(NamedTuple):
    """A contract with its implementation, which raises a ToolError where it fails.

    `call(arguments)`: checks them, executes the call and returns its result. `probe(arguments)`: returns the result of an earlier call
    with these arguments, None where there was none; there is no `probe` where nothing can find that out.
    """

    contract: Contract
    call: Callable[[Mapping[str, Any]], Any]
    probe: Callable[[Mapping[str, Any]], Any] | None = None


def typed(contract: Contract, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with text read as what the contract wants, where that is a number or a truth value.

    A command's results are text. What cannot be read so stays as it is, for `check_arguments` to name.
    """
    wanted = {name: of.get("type") for name, of in contract.parameters.get("properties", {}).items()}
    return {name: _read(value, wanted.get(name)) for name, value in arguments.items()}


def _read(value: Any, wanted: object) -> Any:
    if not isinstance(value, str) or wanted not in ("integer", "number", "boolean"):
        return value
    read = read_json(value)
    return read if isinstance(read, bool if wanted == "boolean" else (int, float)) else value


def check_arguments(contract: Contract, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that the contract does not allow. A key of the runner's own may be among them.

    Raises:
        ToolError: it names each wrong argument, and the expected type.
    """
    given = {name: value for name, value in arguments.items() if name != contract.key}
    try:
        json.dumps(given, ensure_ascii=False, allow_nan=False).encode()
    except (
        ValueError,
        TypeError,
        RecursionError,
    ) as error:  # what Python takes for JSON may hold NaN and half characters
        raise ToolError(f"the arguments are not JSON: {error}") from error
    if problems := _problems(contract.parameters, given, "argument"):
        raise ToolError("; ".join(problems))


def check_result(contract: Contract, result: Any) -> None:
    """Refuse a result that the contract does not allow; the call has been made all the same.

    Raises:
        ToolError: it names the problems.
    """
    if contract.returns is not None and (problems := _problems(contract.returns, result, "result")):
        raise ToolError(f"it was called, but its result is not what it declares: {'; '.join(problems)}")


# Python's types of JSON's, without those that need a second look: true is no integer, and 3.0 is one.
_TYPES = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
    "null": (NoneType,),
}
_SAID = {"type", "properties", "required", "additionalProperties", "items", "title", "description", "default"}


def plainly_fits(schema: Any, value: Any) -> bool:
    """Return whether a value fits a schema of a few plain keywords, as the runner's own are; False leaves it to `jsonschema`.

    That library takes longer to load than a whole step that needs nothing else of it.
    """
    if not isinstance(schema, Mapping) or not _SAID.issuperset(schema) or type(schema.get("type")) is not str:
        return False
    kind, more = type(value), schema.get("additionalProperties", True)
    if kind not in _TYPES.get(schema["type"], ()) or not isinstance(more, bool):
        return False
    if kind is list:
        return "items" not in schema or all(plainly_fits(schema["items"], one) for one in value)
    if kind is not dict:
        return True
    known, needed = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(known, Mapping) or not isinstance(needed, list):
        return False
    return all(name in value for name in needed) and all(
        plainly_fits(known[name], one) if name in known else more for name, one in value.items()
    )


def _problems(schema: Mapping[str, Any], value: Any, what: str) -> list[str]:
    if plainly_fits(schema, value):
        return []
    from jsonschema import Draft202012Validator  # here: only a call needs it
    from jsonschema.exceptions import best_match
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    # An empty registry, because the default one fetches what a $ref names from the network.
    validator = Draft202012Validator(dict(schema), registry=Registry())
    try:
        errors = list(validator.iter_errors(value))
    except Unresolvable as error:
        raise ToolError(f"the schema of the {what}s has a reference to nothing: {error.ref}") from error
    errors.sort(key=lambda error: [str(part) for part in error.absolute_path])
    found = [text for error in errors for text in _told(best_match([error]) or error, schema, what)]
    problems = list(dict.fromkeys(found))
    more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    return problems[:SHOWN] + more


def _told(error: ValidationError, root: Mapping[str, Any], what: str) -> list[str]:
    """Return one line a problem that the validator found."""
    path = list(error.absolute_path)
    place = f"{what} `{_dotted(path)}`" if path else f"the {what}" if what == "result" else "the arguments"
    # A schema may be `false`, and an instance not set: not where these errors come from.
    schema, instance = cast("Mapping[str, Any]", error.schema), cast("Any", error.instance)
    known = dict(schema.get("properties", {}))
    if error.validator == "required":
        missing = [name for name in schema["required"] if name not in instance]
        expected = {name: _expected(known.get(name, {}), root) for name in missing}
        return [f"{what} `{_dotted([*path, name])}` is missing: {expected[name]} is expected" for name in missing]
    if error.validator == "additionalProperties":
        return [_unknown(name, path, list(known), what) for name in instance if name not in known]
    if error.validator in ("type", "enum", "const", "anyOf", "oneOf"):
        return [f"{place} should be {_expected(schema, root)}, not {_short(instance)}"]
    return [f"{place}: {error.message[:200]}"]


def _unknown(name: str, path: list[str | int], known: list[str], what: str) -> str:
    from difflib import get_close_matches  # here, because few calls have a mistake

    near = get_close_matches(name, known, n=1)
    there = f"did you mean `{near[0]}`?" if near else f"there is {', '.join(known)}" if known else "there is none"
    return f"there is no {what} `{_dotted([*path, name])}`; {there}"


def _dotted(path: list[str | int]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _expected(schema: Any, root: Mapping[str, Any]) -> str:
    """Say in a few words what a schema allows."""
    if not isinstance(schema, Mapping):
        return "anything"
    if (ref := schema.get("$ref")) is not None:
        target = root.get("$defs", {}).get(str(ref).removeprefix("#/$defs/"))
        return _expected(target, root) if target is not None and "$ref" not in target else "an object"
    if "enum" in schema or "const" in schema:
        choices = schema.get("enum", [schema.get("const")])
        return " or ".join(_short(choice) for choice in choices)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(_expected(part, root) for part in schema[key]))
    types = schema.get("type")
    names = [types] if isinstance(types, str) else types or []
    return " or ".join(WORDS.get(name, name) for name in names) or "anything"
