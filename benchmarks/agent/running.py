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

from benchmarks.agent.tasks import Task

ROOT = Path(__file__).resolve().parents[2]
KEYS = ("GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_GEMINI_BASE_URL", "GEMINI_BASE_URL")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a task. `solved`: the protocol completed, the test holds in its tree, and is the one that was given.

    `seconds` are those of `runner new` and `runner run`.
    """

    task: str
    solved: bool
    turns: int
    input_tokens: int
    output_tokens: int
    usd: str | None
    seconds: float
    said: str


def wish(task: Task) -> str:
    """Return what is asked, in the words that every agent gets."""
    test = f"test_{task.package}.py"
    return (
        f"`python3 {test}` fails by a bug in the folder {task.package}. Find it and mend it. Leave the test as it is."
    )


def plan(task: Task) -> dict[str, str]:
    """Return the files of the plan: one agent step, checked by the test."""
    test = f"test_{task.package}.py"
    return {
        "plan.md": f"---\ntitle: Task {task.name}\nbudget: {{turns: 40, tokens: 500000}}\n---\n`python3 {test}` fails.\n",
        "01-fix.md": f'---\ntitle: Make the test pass\nkind: agent\nqa: {{policy: light, checks: ["python3 {test}"]}}\n---\n'
        f"{wish(task)}\n",
    }


def carry_out(
    task: Task, engine: str, executor: str, *, env: Mapping[str, str] | None = None, more: Sequence[str] = ()
) -> Outcome:
    """Run a task with an engine (`gemini:MODEL`, `recorded:/ABSOLUTE/FILE`).

    `env` is in place of this process's keys and addresses; `more` are further options.
    """
    root = Path(tempfile.mkdtemp(prefix="runner-task-")).resolve()
    try:
        keys = {name: os.environ[name] for name in KEYS if name in os.environ} if env is None else env
        given = {"PYTHONPATH": str(ROOT), "RUNNER_ENGINE": engine, "RUNNER_EXECUTOR": executor, **keys}
        return _run(Scratch(root, executor, given), task, more)
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
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(root / "home"),
            "LANG": "C.UTF-8",
            "NO_COLOR": "1",
            "GIT_CONFIG_NOSYSTEM": "1",
            **env,
        }

    def lay(self, task: Task) -> None:
        """Commit the task's files; its test fails."""
        write(self.at, task.files())
        for args in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "start")):
            self.do("git", *args)
        if self.do("python3", "-B", f"test_{task.package}.py", check=False).returncode == 0:
            raise SystemExit(f"{task.name}: its test holds before anything is done")

    def holds(self, task: Task, tree: Path) -> bool:
        """Return whether the test holds in a tree, and is the one that was given."""
        test = f"test_{task.package}.py"
        given = task.files()[test].encode()
        left = tree / test
        return (
            left.is_file()
            and left.read_bytes() == given
            and self.do(*self.inside("python3", "-B", test), check=False, cwd=tree).returncode == 0
        )

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


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Write files, by their paths below a folder."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def _run(scratch: Scratch, task: Task, more: Sequence[str]) -> Outcome:
    scratch.lay(task)
    write(scratch.root / "plan", plan(task))
    began = time.monotonic()
    protocol = scratch.do("runner", "new", "--plan", "../plan").stdout.split()[-1]
    done = scratch.do("runner", "run", protocol, *more, check=False)
    seconds = time.monotonic() - began
    state = json.loads(scratch.do("git", "show", f"{protocol}:.protocols/{protocol}/state.json").stdout)
    spent = state["spent"]
    scratch.do("git", "worktree", "add", "-q", "--detach", "../result", protocol)
    return Outcome(
        task=task.name,
        solved=state["status"] == "completed" and scratch.holds(task, scratch.root / "result"),
        turns=_turns(scratch, protocol),
        input_tokens=spent["input_tokens"],
        output_tokens=spent["output_tokens"],
        usd=spent.get("usd"),
        seconds=seconds,
        said=done.stderr.strip(),
    )


def _turns(scratch: Scratch, protocol: str) -> int:
    name = f"refs/runner/history/{protocol}:runs/fix.1.jsonl"
    lines = scratch.do("git", "show", name, check=False).stdout.splitlines()
    return sum(json.loads(line)["kind"] == "response" for line in lines)
