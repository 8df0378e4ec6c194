"""The verifier with one of its checks taken out: which those are is read from its source, and a mutant lasts as long as a `with`.

A check is a place that says what does not hold: a finding or its text that is yielded, returned or appended, a word's fault, a "no"
(`return False`), an error that is raised. Taken out is the branch that says it, or that statement, and one after the other what its
condition joins by `or`; of an answer that joins by `and`, each of those; of a literal list that is gone through, each entry. What
comes of it is put into the very function objects that the package has, by their code. That a clone cannot tell is no check: what is
missing is taken away object by object in `test_histories`.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import importlib
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

MODULES = (
    "runner.trust.verify", "runner.trust.walk", "runner.trust.transitions", "runner.trust.permit", "runner.trust.view",
    "runner.trust.approval", "runner.trust.rules.transition", "runner.trust.rules.permissions",
    "runner.trust.rules.transcripts", "runner.trust.rules.ends", "runner.app.verify", "runner.protocol.paths",
)  # fmt: skip

# What functions return that say what is wrong: texts, findings, and answers.
SAYS = {"Said", "Iterator[str]", "Iterator[tuple[str, str]]", "Iterator[Finding]", "str | None", "View | str",
        "TrustedConfig | str", "bool", "ApprovalFile | None", "ApprovalFile", "Review", "Verdict", "Iterator[Verdict]"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mutant:
    """A check taken out. `key`: module, function and what is taken out, whatever line it stands in; `lines`: that say it."""

    module: str
    function: str
    lines: range
    what: str
    code: CodeType

    @property
    def key(self) -> str:
        """What names it."""
        return f"{self.module.removeprefix('runner.')}.{self.function}: {self.what}"

    @property
    def place(self) -> str:
        """Where it stands."""
        return f"{self.module.replace('.', '/')}.py:{self.lines[0]}"


# Functions that say nothing of a verdict, each with the tests that need what it asks.
ELSEWHERE = {
    "trust.verify._damaged": "bytes of an object: tests/cli/test_verify_while_it_runs.py",
    "trust.verify._notes": "notes: tests/trust/test_verify.py",
    "app.verify.washed": "what `runner fork` refuses: tests/cli/test_fork.py",
    "protocol.paths.is_for_people": "what a step may change; rule 15 says that it did: tests/protocol/test_names.py",
    "app.verify.find": "which protocol a person means: tests/cli/test_history_here.py",
    "app.verify.keep_histories_apart": "where git fetches histories to: tests/cli/test_history_here.py",
    "app.verify.fetch_histories": "what `--yes` fetches: tests/cli/test_history_here.py",
    "trust.verify.advance": "a runner's own walk, which asks what verify asks: tests/trust/test_verify.py",
    "trust.verify._refuse_newer": "how a runner's own walk words what verify finds: tests/faults/test_others.py",
    "trust.verify._beside": "where a runner's own walk goes on after a merge: tests/store/test_remote.py",
    "trust.transitions.trusted_commits": "what a runner asks before it acts: tests/attacks/test_record_forged.py",
    "trust.transitions.Distances.__getitem__": "as a dict has it: tests/trust/test_past.py",
    "trust.walk.Report.is_repairable": "what `doctor` repairs: tests/cli/test_repair.py",
    "trust.approval.foresee": "what `approve` says beforehand: tests/cli/test_approve.py",
    "trust.view.View.binds": "what `approve` shows of the changes: tests/cli/test_binding.py",
    "trust.rules.ends.was_taken_away": "a note: tests/trust/test_merged.py",
    "trust.rules.ends.check_merge": "rule 28, which judges the base that a bundle has not: tests/trust/test_merge_word.py",
    "trust.rules.ends._has_accounts": "a note of rule 28: tests/trust/test_merge_word.py",
    "trust.rules.ends.seal_note": "a note: tests/executor/test_signed.py",
    "trust.rules.permissions.not_handed_over": "what a CI job may publish: tests/attacks/test_entries.py",
    "trust.rules.permissions._said": "what a CI job may publish: tests/attacks/test_entries.py",
}


def mutants(module: str) -> Iterator[Mutant]:
    """Return a module with each of its checks taken out once."""
    path = Path(importlib.import_module(module).__file__ or "")
    tree = ast.parse(path.read_text())
    for name, function in _functions(tree):
        if f"{module.removeprefix('runner.')}.{name}" in ELSEWHERE:
            continue
        for lines, what, change in _changes(function):
            undo = change()
            code = compile(ast.fix_missing_locations(tree), str(path), "exec")
            undo()
            yield Mutant(module, name, lines, what, _code(code, name.split(".")))


@contextlib.contextmanager
def lives(mutant: Mutant) -> Iterator[None]:
    """Let the mutant stand in the place of its function."""
    function = _function(importlib.import_module(mutant.module), mutant.function)
    before, function.__code__ = function.__code__, mutant.code
    try:
        yield
    finally:
        function.__code__ = before


@contextlib.contextmanager
def traced(into: set[tuple[str, int]]) -> Iterator[None]:
    """Note (module, line) of what runs of the modules meanwhile."""
    names = {importlib.import_module(module).__file__: module for module in MODULES}

    def begin(frame: FrameType, event: str, _: Any) -> Any:
        module = names.get(frame.f_code.co_filename)
        if module is None:
            return None

        def line(frame: FrameType, event: str, _: Any) -> Any:
            if event == "line":
                into.add((module, frame.f_lineno))
            return line

        return line

    before = sys.gettrace()
    sys.settrace(begin)
    try:
        yield
    finally:
        sys.settrace(before)


# --- what is taken out ----------------------------------------------------------------------------------------------------

Undo = Callable[[], None]
Change = tuple[range, str, Callable[[], Undo]]


def _functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from ((f"{node.name}.{one.name}", one) for one in node.body if isinstance(one, ast.FunctionDef))


def _changes(function: ast.FunctionDef) -> Iterator[Change]:
    returns = ast.unparse(function.returns) if function.returns else ""
    for block, number, guard in _statements(function):
        statement = block[number]
        if not _is_report(statement, returns):
            continue
        shown = ast.unparse(statement)[:70]
        if guard is not None:
            yield (
                _lines(statement),
                f"if {ast.unparse(guard.test)} -> {shown}",
                _put(guard, "test", ast.Constant(False)),
            )
            for join in _joins(guard.test):
                for place, one in enumerate(join.values):
                    rest = _joined(join.values, place)
                    yield _lines(statement), f"or {ast.unparse(one)} -> {shown}", _put(join, "values", rest)
        elif isinstance(statement, ast.Return) and isinstance(statement.value, ast.BoolOp):
            answer = statement.value
            for place, one in enumerate(answer.values if isinstance(answer.op, ast.And) else ()):
                rest = _joined(answer.values, place)
                yield _lines(statement), f"and {ast.unparse(one)} -> {shown}", _put(answer, "values", rest)
        elif not (isinstance(statement, ast.Return) and returns == "bool"):
            yield _lines(statement), shown, _put(block, number, _nothing(statement))
    for node in ast.walk(function):
        if isinstance(node, ast.For) and isinstance(node.iter, ast.Tuple) and returns in SAYS:
            for place, one in enumerate(node.iter.elts):
                rest = [*node.iter.elts[:place], *node.iter.elts[place + 1 :]]
                shown = f"in {ast.unparse(one)} -> for {ast.unparse(node.target)}"
                yield _lines(node.body[0]), shown[:90], _put(node.iter, "elts", rest)


def _statements(function: ast.FunctionDef) -> Iterator[tuple[list[Any], int, ast.If | None]]:
    """Return (block, place in it, the `if` whose branch it is) of each statement."""

    def inner(block: list[Any], guard: ast.If | None) -> Iterator[tuple[list[Any], int, ast.If | None]]:
        for number, statement in enumerate(block):
            yield block, number, guard
            if isinstance(statement, ast.If):
                yield from inner(statement.body, statement)
                yield from inner(statement.orelse, None)
            else:
                for name in ("body", "orelse", "finalbody"):
                    yield from inner(getattr(statement, name, []), None)
                for one in [*getattr(statement, "handlers", []), *getattr(statement, "cases", [])]:
                    yield from inner(one.body, None)

    yield from inner(function.body, None)


def _joins(test: ast.expr) -> Iterator[ast.BoolOp]:
    """Return what a condition joins by `or`, not within what it calls."""
    if isinstance(test, ast.BoolOp):
        if isinstance(test.op, ast.Or):
            yield test
        for one in test.values:
            yield from _joins(one)


def _is_report(statement: ast.stmt, returns: str) -> bool:
    match statement:
        case ast.Raise(exc=ast.Call()):
            return not re.match(
                r"raise (AssertionError|InsufficientHistoryError|([\w.]+\.)?missing|_gone)\(",
                ast.unparse(statement),
            )
        case ast.Expr(value=ast.Yield() | ast.YieldFrom()):
            return returns in SAYS
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id="findings"), attr="append"))):
            return True
        case ast.AugAssign(target=ast.Name(id="findings")):
            return True
        case ast.Assign(targets=[ast.Attribute(attr="illegal")]):
            return True
        case ast.Return(value=ast.Constant(value=value)):
            return returns in SAYS and (value is False or (isinstance(value, str) and returns != "bool"))
        case ast.Return(value=None):
            return False
        case ast.Return(value=ast.Name()):
            return returns in ("str | None", "View | str")
        case ast.Return(value=ast.Call(func=ast.Name(id=name))):
            return name in ("faulty", "Ask", "Denied")
        case ast.Return(value=ast.Call(func=ast.Attribute(attr="reject" | "by"))):
            return True
        case ast.Return(value=value):
            said = isinstance(value, ast.JoinedStr) or (
                isinstance(value, ast.BoolOp) and not isinstance(value.values[0], ast.Call)
            )
            return returns in SAYS and (said or returns == "bool")
    return False


def _nothing(statement: ast.stmt) -> ast.stmt:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Yield | ast.YieldFrom):
        return ast.Expr(ast.YieldFrom(ast.Tuple([], ast.Load())))  # it stays a generator
    return ast.Return(ast.Constant(None)) if isinstance(statement, ast.Return) else ast.Pass()


def _put(holder: Any, name: str | int, value: Any) -> Callable[[], Undo]:
    """Return what puts a value somewhere and returns what puts back what was there."""

    def change() -> Undo:
        if isinstance(holder, list):
            assert isinstance(name, int)
            before, holder[name] = holder[name], ast.copy_location(copy.deepcopy(value), holder[name])
            return lambda: holder.__setitem__(name, before)
        was = getattr(holder, str(name))
        setattr(holder, str(name), value if isinstance(value, list) else ast.copy_location(value, was))
        return lambda: setattr(holder, str(name), was)

    return change


# --- code -----------------------------------------------------------------------------------------------------------------


def _code(code: CodeType, names: list[str]) -> CodeType:
    for name in names:
        code = next(one for one in code.co_consts if isinstance(one, CodeType) and one.co_name == name)
    return code


def _function(module: ModuleType, name: str) -> FunctionType:
    found: Any = module
    for part in name.split("."):
        found = vars(found)[part] if isinstance(found, type) else getattr(found, part)
    found = getattr(found, "fget", None) or getattr(found, "__func__", found)
    assert isinstance(found, FunctionType)
    return found


def _joined(values: list[ast.expr], without: int) -> list[ast.expr]:
    """Return operands without one of them; two are the fewest that Python joins."""
    rest = [*values[:without], *values[without + 1 :]]
    return rest if len(rest) > 1 else rest * 2


def _lines(statement: ast.stmt) -> range:
    return range(statement.lineno, (statement.end_lineno or statement.lineno) + 1)
