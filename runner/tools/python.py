"""Functions of Python modules as tools: loaded from the trusted branch's tree by a child process in the sandbox.

The module runs in the project's environment and never in the runner's. It gets PATH and the variables that its entry in config.yaml
names, reaches only the hosts that the entry names, and may write the workspace. The entry declares the effects of its functions; one
that it does not list is external, never repeated. Calls are made one at a time, in the thread that opened the tools.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from runner.errors import UsageError
from runner.lines import few, lines_of
from runner.protocol.config import ToolEffect, ToolModule
from runner.sandbox.process import Command, Sandbox
from runner.tools import Contract, Effect, OutcomeUnknownError, Repeat, Tool, ToolError, check_arguments, check_result
from runner.tools.commands import Child

CHILD = Path(__file__).with_name("child.py").resolve()
LAST_LINES, LAST_CHARACTERS = 12, 2000  # of what the child said


class ToolModuleError(UsageError):
    """A module of tools cannot be loaded, or its entry in the configuration does not fit it."""


def command_of(
    module: ToolModule, python: tuple[str, ...], code: Path, work: Path, env: Mapping[str, str], **more: Any
) -> Command:
    """Return the command that holds a module's functions. `python`: the project's, 3.11 or later; `code`: a folder with the trusted
    branch's tree; `work`: the workspace; `env`: values of the variables that modules' entries name, and PATH."""
    argv = (*python, "-P", "-B", str(CHILD), module.module, str(code))
    readable = (code, CHILD, *more.pop("readable", ()))
    named = {name: env[name] for name in ("PATH", *module.env) if name in env}
    return Command(argv=argv, cwd=work, env=named, writable=(work,), readable=readable, **more)


class PythonTools:
    """The tools of one module while the block lasts; a child that a call ended is started again by the next call.

    `command`: starts its process (`command_of`). `timeout`: seconds for loading, and for each call. `refused`: the module's public
    functions that cannot be tools, and why.

    Raises:
        ToolModuleError: by entering the block: the module cannot be loaded.
    """

    def __init__(self, sandbox: Sandbox, module: ToolModule, command: Command, *, timeout: float) -> None:
        self._module, self._child, self._timeout = module, Child(sandbox, command), timeout
        self._open = False
        self.tools: dict[str, Tool] = {}
        self.refused: dict[str, str] = {}

    def __enter__(self) -> Self:
        hello = self._start()
        try:
            self._offer(hello)
        except BaseException:
            self._child.end(0.0)
            raise
        self._open = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open = False
        self._child.end(2.0 if kind is None else 0.0)

    def _start(self) -> dict[str, Any]:
        """Start the child and return its first message, which offers its functions.

        Raises:
            ToolModuleError: it offers none.
        """
        try:
            hello = self._child.ask(None, self._timeout)
        except TimeoutError:
            raise self._refusal(f"timed out after {self._timeout:g} s", self._last_lines()) from None
        except ToolError as error:
            raise self._refusal(error.message, self._last_lines()) from error
        if hello is None:
            raise self._refusal(f"its process ended with exit code {self._code}", self._last_lines())
        if "error" in hello:
            self._child.end(2.0)
            raise self._refusal(hello["error"], "", hello.get("where"))
        return hello

    def _offer(self, hello: dict[str, Any]) -> None:
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import SchemaError

        self.refused = dict(hello["refused"])
        for said in hello["tools"]:
            name = said["name"]
            try:
                for schema in (said["parameters"], said["returns"] or {}):
                    Draft202012Validator.check_schema(schema)
            except SchemaError as error:  # a pydantic model may say anything of itself
                self.refused[name] = f"its schema is not valid: {error.message}"
                continue
            effect, repeat = effect_of(self._module.effects.get(name))
            contract = Contract(
                name=name,
                description=said["description"],
                effect=effect,
                repeat=repeat,
                parameters=said["parameters"],
                returns=said["returns"],
                source=f"{self._module.module}:{name}",
                env=self._module.env,
                network=self._module.network,
            )
            self.tools[name] = self._tool(contract)
        known = {name: tool.contract for name, tool in self.tools.items()}
        effects = {name: declared for name, declared in self._module.effects.items() if name not in self.refused}
        none = "no public function `{}` is defined in it".format
        for name, declared in repeatable(effects, known, none, self._unfit):
            if declared.external == "keyed":
                self.tools[name] = self._tool(known[name].keyed(str(declared.key)))
            elif declared.external == "probed":
                self.tools[name] = self._tool(known[name], partial(self._looked_up, known[str(declared.probe)]))

    def _looked_up(self, probe: Contract, arguments: Mapping[str, Any]) -> Any:
        """Return what the probe finds, which takes some of a call's arguments."""
        taken = probe.parameters["properties"]
        return self._ask(probe.name, {key: value for key, value in arguments.items() if key in taken})

    def _tool(self, contract: Contract, probe: Callable[[Mapping[str, Any]], Any] | None = None) -> Tool:
        """Return one function as a tool; the idempotency key of a keyed one is among its arguments."""

        def call(arguments: Mapping[str, Any]) -> Any:
            check_arguments(contract, arguments)
            result = self._ask(contract.name, arguments)
            check_result(contract, result)
            return result

        return Tool(contract, call, probe)

    def _unfit(self, what: str, key: str, hint: str) -> ToolModuleError:
        what = f"the entry of the module {self._module.module} does not fit it: {what}"
        return ToolModuleError(what, where=f"tools: {self._module.module}, effects.{key}", hint=hint)

    def _refusal(self, what: str, said: str, where: str | None = None) -> ToolModuleError:
        return ToolModuleError(
            f"the tools of the module {self._module.module} cannot be loaded: {what}" + (f"\n{said}" if said else ""),
            where=f"{where}, on the trusted branch" if where else f"tools: {self._module.module}",
            hint="fix the module on the trusted branch, or name under workspace.python a Python (3.11 or later) that has"
            " what it imports",
        )

    def _ask(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Have the child call the function; return its result.

        Raises:
            ToolError: it failed. OutcomeUnknownError: it ended its process, ran out of time, or gave no answer that is one.
        """
        if not self._open:
            raise RuntimeError(f"the tools of {self._module.module} are closed")
        if not self._child.is_there:
            self._start()
        try:
            answer = self._child.ask({"call": name, "arguments": dict(arguments)}, self._timeout)
        except TimeoutError:
            what = f"timed out after {self._timeout:g} s; it was ended"
            raise OutcomeUnknownError(what, self._last_lines()) from None
        except ToolError as error:
            raise OutcomeUnknownError(error.message) from error
        if answer is None:
            raise OutcomeUnknownError(f"it ended its process, with exit code {self._code}", self._last_lines())
        if "error" in answer:
            raise ToolError(answer["error"], _cut(answer.get("trace", "")))
        return answer["result"]

    @property
    def _code(self) -> int:
        assert self._child.outcome is not None
        return self._child.outcome.code

    def _last_lines(self) -> str:
        return _cut(self._child.printed)


def effect_of(declared: Effect | ToolEffect | None) -> tuple[Effect, Repeat]:
    """Return the effect of a tool by what its entry declares, and what a repeat of it means."""
    if declared is None:
        return "external", "never"
    return ("external", declared.external) if isinstance(declared, ToolEffect) else (declared, "never")


def repeatable(
    effects: Mapping[str, Effect | ToolEffect],
    known: Mapping[str, Contract],
    none: Callable[[str], str],
    unfit: Callable[[str, str, str], ToolModuleError],
) -> Iterator[tuple[str, ToolEffect]]:
    """Yield what an entry declares of external tools, if it fits the tools: one that is misspelt would never be repeated.

    `none(name)`: that there is no tool of a name; `unfit(what, key, hint)`: the error, which names the key below `effects`.
    """
    for name, declared in effects.items():
        if name not in known:
            raise unfit(none(name), name, _nearest(name, known))
        if not isinstance(declared, ToolEffect):
            continue
        arguments, key, probe = known[name].parameters["properties"], declared.key, declared.probe
        needs = {"keyed": ("key", key), "probed": ("probe", probe)}.get(declared.external)
        if needs is not None and needs[1] is None:
            what = f"`{name}` is {declared.external} and names no `{needs[0]}`"
            raise unfit(what, name, f"add `{needs[0]}: …` beside `external: {declared.external}`")
        if key is not None and key not in arguments:
            raise unfit(f"`{name}` has no argument `{key}`", f"{name}.key", _nearest(key, arguments))
        # A schema may be `true`, too, for any value.
        if key is not None and (not isinstance(arguments[key], dict) or arguments[key].get("type") != "string"):
            raise unfit(
                f"`{key}` of `{name}` is no text, as a key is", f"{name}.key", "name an argument that is text (`str`)"
            )
        if probe is not None and probe not in known:
            raise unfit(none(probe), f"{name}.probe", _nearest(probe, known))
        if probe is not None and known[probe].effect != "read":
            what = f"`{probe}`, the `probe` of `{name}`, is not `read`"
            raise unfit(what, f"{name}.probe", f"add `{probe}: read`")
        needed = known[probe].parameters.get("required", ()) if probe is not None else ()
        if unknown := [one for one in needed if one not in arguments]:
            hint = f"name a probe that needs only arguments of `{name}`; one with a default is not needed"
            raise unfit(f"`{probe}` takes `{unknown[0]}`, which `{name}` is not given", f"{name}.probe", hint)
        yield name, declared


def _nearest(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches  # here, because few names have a mistake

    near = get_close_matches(name, [*known], n=1)
    return f"did you mean {near[0]}?" if near else f"there is {few([*known]) or 'none'}"


def _cut(text: str) -> str:
    return "\n".join(lines_of(text.strip())[-LAST_LINES:])[-LAST_CHARACTERS:]
