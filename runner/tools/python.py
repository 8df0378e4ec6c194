"""Functions of Python modules as tools: loaded from the trusted branch's tree by a child process in the sandbox.

The module runs in the project's environment and never in the runner's. It gets PATH and the variables that its entry in config.yaml
names, reaches only the hosts that the entry names, and may write the workspace. The entry declares the effects of its functions; one
that it does not list is external, never repeated. Calls are made one at a time, in the thread that opened the tools.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from runner.errors import UsageError
from runner.lines import lines_of
from runner.protocol.config import ToolEffect, ToolModule
from runner.sandbox.process import Command, Outcome, Sandbox, Session
from runner.tools import Contract, Effect, OutcomeUnknownError, Repeat, Tool, ToolError, check_arguments, check_result
from runner.tools.commands import exchange

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
        self._sandbox, self._module, self._command, self._timeout = sandbox, module, command, timeout
        self._session: Session | None = None
        self._open = False
        self.tools: dict[str, Tool] = {}
        self.refused: dict[str, str] = {}

    def __enter__(self) -> Self:
        hello = self._start()
        try:
            self._offer(hello)
        except BaseException:
            self._end(0.0)
            raise
        self._open = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open = False
        self._end(2.0 if kind is None else 0.0)

    def _start(self) -> dict[str, Any]:
        """Start the child and return its first message, which offers its functions.

        Raises:
            ToolModuleError: it offers none.
        """
        self._session = self._sandbox.open(self._command)
        try:
            hello = exchange(self._session, None, self._timeout)
        except TimeoutError:
            raise self._refusal(f"timed out after {self._timeout:g} s", self._end(0.0)) from None
        except ToolError as error:
            raise self._refusal(error.message, self._end(0.0)) from error
        except BaseException:
            self._end(0.0)
            raise
        if hello is None:
            outcome = self._end(2.0)
            assert outcome is not None
            raise self._refusal(f"its process ended with exit code {outcome.code}", outcome)
        if "error" in hello:
            self._end(2.0)
            raise self._refusal(hello["error"], None, hello.get("where"))
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
        self._check_entry()
        for name, declared in self._module.effects.items():
            if isinstance(declared, ToolEffect) and name in self.tools:
                self.tools[name] = self._repeatable(self.tools[name].contract, declared)

    def _repeatable(self, contract: Contract, declared: ToolEffect) -> Tool:
        """Return an external tool that is repeatable as its entry says."""
        if contract.repeat == "probed":
            assert declared.probe is not None
            by, takes = declared.probe, _properties(self.tools[declared.probe])
            return self._tool(contract, lambda given: self._ask(by, {key: given[key] for key in takes if key in given}))
        is_keyed = contract.repeat == "keyed" and declared.key is not None
        return self._tool(contract.keyed(str(declared.key)) if is_keyed else contract)

    def _tool(self, contract: Contract, probe: Callable[[Mapping[str, Any]], Any] | None = None) -> Tool:
        """Return one function as a tool; the idempotency key of a keyed one is among its arguments."""

        def call(arguments: Mapping[str, Any]) -> Any:
            check_arguments(contract, arguments)
            result = self._ask(contract.name, arguments)
            check_result(contract, result)
            return result

        return Tool(contract, call, probe)

    def _check_entry(self) -> None:
        """Check that the effects in the configuration name functions of the module.

        Raises:
            ToolModuleError: it names a missing function; the one that was meant would stay external, never repeated.
        """
        for name, declared in self._module.effects.items():
            if name not in self.tools and name not in self.refused:
                raise self._misfit(f"no public function `{name}` is defined in it", name, name, self.tools)
            if not isinstance(declared, ToolEffect) or name in self.refused:
                continue
            arguments = _properties(self.tools[name])
            needs = {"keyed": ("key", declared.key), "probed": ("probe", declared.probe)}.get(declared.external)
            if needs is not None and needs[1] is None:
                what = f"`{name}` is {declared.external} and names no `{needs[0]}`"
                raise self._unfit(what, name, f"add `{needs[0]}: …` beside `external: {declared.external}`")
            if declared.key is not None and declared.key not in arguments:
                raise self._misfit(f"`{name}` has no argument `{declared.key}`", f"{name}.key", declared.key, arguments)
            if declared.key is not None and arguments[declared.key].get("type") != "string":
                raise self._unfit(
                    f"`{declared.key}` of `{name}` is no text, as a key is", f"{name}.key", "annotate it as `str`"
                )
            if declared.probe is not None:
                self._check_probe(name, declared.probe, arguments)

    def _check_probe(self, name: str, probe: str, arguments: Mapping[str, Any]) -> None:
        where = f"{name}.probe"
        if probe not in self.tools:
            raise self._misfit(f"no public function `{probe}` is defined in it", where, probe, self.tools)
        if self.tools[probe].contract.effect != "read":
            raise self._unfit(f"`{probe}` looks up what `{name}` did, and is not `read`", where, f"add `{probe}: read`")
        needed = self.tools[probe].contract.parameters.get("required", ())
        if unknown := [one for one in needed if one not in arguments]:
            hint = f"give `{unknown[0]}` a default, or take the arguments of `{name}` alone"
            raise self._unfit(f"`{probe}` takes `{unknown[0]}`, which `{name}` is not given", where, hint)

    def _misfit(self, what: str, key: str, name: str, known: Mapping[str, object]) -> ToolModuleError:
        from difflib import get_close_matches  # here, because few names have a mistake

        near = get_close_matches(name, known, n=1)
        return self._unfit(what, key, f"did you mean {near[0]}?" if near else f"there is {', '.join(known) or 'none'}")

    def _unfit(self, what: str, key: str, hint: str) -> ToolModuleError:
        what = f"the entry of the module {self._module.module} does not fit it: {what}"
        return ToolModuleError(what, where=f"tools: {self._module.module}, effects.{key}", hint=hint)

    def _refusal(self, what: str, outcome: Outcome | None, where: str | None = None) -> ToolModuleError:
        said = _last_lines(outcome)
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
        if self._session is None:
            self._start()
        assert self._session is not None
        try:
            answer = exchange(self._session, {"call": name, "arguments": dict(arguments)}, self._timeout)
        except TimeoutError:
            said = _last_lines(self._end(0.0))
            raise OutcomeUnknownError(f"timed out after {self._timeout:g} s; it was ended", said) from None
        except ToolError as error:
            self._end(0.0)
            raise OutcomeUnknownError(error.message) from error
        except BaseException:
            self._end(0.0)
            raise
        if answer is None:
            outcome = self._end(2.0)
            assert outcome is not None
            raise OutcomeUnknownError(f"it ended its process, with exit code {outcome.code}", _last_lines(outcome))
        if "error" in answer:
            raise ToolError(answer["error"], _cut(answer.get("trace", "")))
        return answer["result"]

    def _end(self, grace: float) -> Outcome | None:
        """End the child where there is one; return how it ended."""
        session, self._session = self._session, None
        return session.close(grace) if session is not None else None


def effect_of(declared: Effect | ToolEffect | None) -> tuple[Effect, Repeat]:
    """Return the effect of a tool by what its entry declares, and what a repeat of it means."""
    if declared is None:
        return "external", "never"
    return ("external", declared.external) if isinstance(declared, ToolEffect) else (declared, "never")


def _properties(tool: Tool) -> Mapping[str, Any]:
    found: Mapping[str, Any] = tool.contract.parameters["properties"]
    return found


def _last_lines(outcome: Outcome | None) -> str:
    return _cut(outcome.tail.decode(errors="replace")) if outcome is not None else ""


def _cut(text: str) -> str:
    return "\n".join(lines_of(text.strip())[-LAST_LINES:])[-LAST_CHARACTERS:]
