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
    """What came of a task. `solved`: the protocol completed, the test holds in its tree, and is the one that was given."""

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
    test = f"test_{task.package}.py"
    return {
        "plan.md": f"---\ntitle: Task {task.name}\nbudget: {{turns: 40, tokens: 500000}}\n---\n`python3 {test}` fails.\n",
        "01-fix.md": f'---\ntitle: Make the test pass\nkind: agent\nqa: {{policy: light, checks: ["python3 {test}"]}}\n---\n'
        f"`python3 {test}` fails by a bug in the folder {task.package}. Find it and mend it. Leave the test as it is.\n",
    }


def carry_out(
    task: Task, engine: str, executor: str, *, env: Mapping[str, str] | None = None, more: Sequence[str] = ()
) -> Outcome:
    """Run a task with an engine (`gemini:MODEL`, `recorded:/ABSOLUTE/FILE`). `env`, `more`: further environment and options."""
    root = Path(tempfile.mkdtemp(prefix="runner-task-")).resolve()
    try:
        return _Scratch(root, engine, executor, env or {}).run(task, more)
    finally:
        shutil.rmtree(root, ignore_errors=True)


class _Scratch:
    def __init__(self, root: Path, engine: str, executor: str, env: Mapping[str, str]) -> None:
        self.root, self.at = root, root / "project"
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
            "PYTHONPATH": str(ROOT),
            "RUNNER_ENGINE": engine,
            "RUNNER_EXECUTOR": executor,
            **{name: os.environ[name] for name in KEYS if name in os.environ},
            **env,
        }

    def run(self, task: Task, more: Sequence[str]) -> Outcome:
        test = f"test_{task.package}.py"
        for folder, files in ((self.at, task.files()), (self.root / "plan", plan(task))):
            for name, text in files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(text, encoding="utf-8")
        for args in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "start")):
            self._do("git", *args)
        if self._do("python3", "-B", test, check=False).returncode == 0:
            raise SystemExit(f"{task.name}: its test holds before anything is done")
        protocol = self._do("runner", "new", "--plan", "../plan").stdout.split()[-1]
        began = time.monotonic()
        done = self._do("runner", "run", protocol, *more, check=False)
        seconds = time.monotonic() - began
        state = json.loads(self._do("git", "show", f"{protocol}:.protocols/{protocol}/state.json").stdout)
        spent = state["spent"]
        return Outcome(
            task=task.name,
            solved=state["status"] == "completed" and self._holds(protocol, test),
            turns=self._turns(protocol),
            input_tokens=spent["input_tokens"],
            output_tokens=spent["output_tokens"],
            usd=spent.get("usd"),
            seconds=seconds,
            said=done.stderr.strip(),
        )

    def _holds(self, protocol: str, test: str) -> bool:
        self._do("git", "worktree", "add", "-q", "--detach", "../result", protocol)
        held = self._do("python3", "-B", test, check=False, cwd=self.root / "result").returncode == 0
        return held and (self.root / "result" / test).read_bytes() == (self.at / test).read_bytes()

    def _turns(self, protocol: str) -> int:
        name = f"refs/runner/history/{protocol}:runs/fix.1.jsonl"
        lines = self._do("git", "show", name, check=False).stdout.splitlines()
        return sum(json.loads(line)["kind"] == "response" for line in lines)

    def _do(self, *argv: str, check: bool = True, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            argv, cwd=cwd or self.at, env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        if check and done.returncode:
            raise SystemExit(f"{' '.join(argv)}: exit {done.returncode}\n{done.stderr[-2000:]}")
        return done
