"""One task, carried out by the command line in a scratch repository, and what came of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.agent.packages import Package
from benchmarks.agent.tasks import Task, write

PLAN, DO, FLOW = (
    "plan",
    "do",
    "new → merge",
)  # ways through the runner: a plan of one step by hand; `do`; plan, review, merge
ROOT = Path(__file__).resolve().parents[2]
KEYS = ("GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_GEMINI_BASE_URL", "GEMINI_BASE_URL")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a task. `solved`: the protocol completed, and the test that judges holds in its tree.

    `seconds` are those of the runner's commands.
    """

    task: str
    solved: bool
    turns: int
    input_tokens: int
    output_tokens: int
    usd: str | None
    seconds: float
    said: str


def plan(task: Task) -> dict[str, str]:
    """Return the files of the plan: one agent step, checked by the test."""
    return {
        "plan.md": f"---\ntitle: Task {task.name}\nbudget: {{turns: 40, tokens: 500000}}\n---\n`{task.check}` fails.\n",
        "01-fix.md": f'---\ntitle: Make the test pass\nkind: agent\nqa: {{policy: light, checks: ["{task.check}"]}}\n---\n'
        f"{task.wish}\n",
    }


def carry_out(
    task: Task | Package,
    engine: str,
    executor: str,
    *,
    way: str = PLAN,
    env: Mapping[str, str] | None = None,
    more: Sequence[str] = (),
) -> Outcome:
    """Run a task with an engine (`gemini:MODEL`, `recorded:/ABSOLUTE/FILE`) on one of the ways.

    `env` is in place of this process's keys and addresses; `more` are further options.
    """
    root = Path(tempfile.mkdtemp(prefix="runner-task-")).resolve()
    try:
        keys = {name: os.environ[name] for name in KEYS if name in os.environ} if env is None else env
        given = {"PYTHONPATH": str(ROOT), "RUNNER_ENGINE": engine, "RUNNER_EXECUTOR": executor, **keys}
        return _run(Scratch(root, executor, given), task, way, more)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def executor_here() -> str:
    """Return `sandbox` where bubblewrap works, else `host`."""
    argv = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"]
    works = shutil.which("bwrap") is not None and subprocess.run(argv, capture_output=True).returncode == 0
    return "sandbox" if works else "host"


class Scratch:
    """A folder with a home and a repository of its own, in which an agent does one task. `at`: the repository."""

    def __init__(self, root: Path, executor: str, env: Mapping[str, str]) -> None:
        self.root, self.at, self.executor = root, root / "project", executor
        (root / "home").mkdir()
        (root / "home/.gitconfig").write_text(
            "[user]\n name = Alice\n email = alice@example.test\n[init]\n defaultBranch = main\n"
        )
        self.env = {
            # As in a shell in which the project's own environment is activated.
            "PATH": os.pathsep.join((f"{self.at}/.venv/bin", str(Path(sys.executable).parent), os.environ["PATH"])),
            "HOME": str(root / "home"),
            "LANG": "C.UTF-8",
            "NO_COLOR": "1",
            "GIT_CONFIG_NOSYSTEM": "1",
            **env,
        }

    def lay(self, task: Task | Package) -> None:
        """Commit the task's files; what judges them fails."""
        task.lay(self.at)
        for args in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "start")):
            self.do("git", *args)
        before = self.root / "before"
        shutil.copytree(self.at, before, symlinks=True)
        if self.holds(task, before):
            raise SystemExit(f"{task.name}: its test holds before anything is done")
        shutil.rmtree(before)

    def holds(self, task: Task | Package, tree: Path) -> bool:
        """Return whether the test that judges holds in a tree, which may get the hidden tests by it."""
        argv = task.judge(tree)
        return argv is not None and self.do(*self.inside(*argv), check=False, cwd=tree).returncode == 0

    def inside(self, *argv: str) -> list[str]:
        """Return the command, in a sandbox if that is asked for: it writes in this folder alone and ends with its children.

        The network stays: an agent as a whole runs in it, and talks to a model.
        """
        if self.executor == "host":
            return list(argv)
        box = ["bwrap", "--die-with-parent", "--unshare-pid", "--unshare-ipc", "--ro-bind", "/", "/", "--dev", "/dev"]
        return [*box, "--proc", "/proc", "--bind", str(self.root), str(self.root), "--", *argv]

    def do(self, *argv: str, check: bool = True, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a program in the repository, or in `cwd`."""
        done = subprocess.run(
            argv, cwd=cwd or self.at, env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        if check and done.returncode:
            raise SystemExit(f"{' '.join(argv)}: exit {done.returncode}\n{done.stderr[-2000:]}")
        return done


def _run(scratch: Scratch, task: Task | Package, way: str, more: Sequence[str]) -> Outcome:
    scratch.lay(task)
    began = time.monotonic()
    if way == DO:
        done = scratch.do("runner", "do", task.wish, "--check", task.check, *more, check=False)
    else:
        write(scratch.root / "plan", plan(task) if isinstance(task, Task) else {})
        made = [task.wish, "--no-questions", *more] if way == FLOW else ["--plan", "../plan"]
        scratch.do("runner", "new", *made)
        if way == FLOW:
            _reviewed(scratch)
        done = scratch.do("runner", "run", *more, check=False)
        if way == FLOW and not done.returncode:
            done = scratch.do("runner", "merge", check=False)
    seconds = time.monotonic() - began
    (protocol,) = scratch.do("git", "for-each-ref", "--format=%(refname:short)", "refs/heads/0*").stdout.split()
    state = json.loads(scratch.do("git", "show", f"{protocol}:.protocols/{protocol}/state.json").stdout)
    spent = state["spent"]
    scratch.do("git", "worktree", "add", "-q", "--detach", "../result", "main" if way == FLOW else protocol)
    completed = state["status"] == "completed"
    solved = completed and scratch.holds(task, scratch.root / "result")
    return Outcome(
        task=task.name,
        solved=solved,
        turns=_turns(scratch, protocol),
        input_tokens=spent["input_tokens"],
        output_tokens=spent["output_tokens"],
        usd=spent.get("usd"),
        seconds=seconds,
        said="completed, but what judges fails" if completed and not solved else done.stderr.strip(),
    )


def _reviewed(scratch: Scratch) -> None:
    """Ask for a review of each step, as a person does in the plan's files."""
    for path in scratch.root.glob("*.worktrees/*/.protocols/*/[0-9]*.md"):
        text = path.read_text(encoding="utf-8")
        asks, whole = (
            ("\nqa:\n", "\nqa:\n  policy: full\n")
            if "\nqa:\n" in text
            else ("\nkind: agent\n", "\nkind: agent\nqa: full\n")
        )
        path.write_text(text.replace(asks, whole, 1), encoding="utf-8")


def _turns(scratch: Scratch, protocol: str) -> int:
    name = f"refs/runner/history/{protocol}:runs/fix.1.jsonl"
    lines = scratch.do("git", "show", name, check=False).stdout.splitlines()
    return sum(json.loads(line)["kind"] == "response" for line in lines)
