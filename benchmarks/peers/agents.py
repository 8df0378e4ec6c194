"""What the agents are: how each is started, and which tools the scripted model calls of each.

All are asked in the same words (`benchmarks.agent.running.wish`), start without questions in a home of their own, and reach
no model but the endpoint. Their prompts, tools and retries are their own.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.agent.tasks import Task
from benchmarks.peers.endpoint import GEMINI, RESPONSES, Turn


@dataclass(frozen=True, slots=True)
class Agent:
    """A peer. `argv` is of program, the endpoint's address, model, and what is asked; `env` of address and key; `home` are files."""

    name: str
    format: str
    argv: Callable[[Path, str, str, str], Sequence[str]]
    env: Callable[[str, str], Mapping[str, str]]
    script: Callable[[Task], Sequence[Turn]]
    home: Mapping[str, str] = field(default_factory=dict)


def look_edit(task: Task) -> tuple[str, str]:
    """Return two commands of a shell that solve a task: one that shows the files, one that edits."""
    path = f"{task.package}/{task.file}"
    code = (
        f"from pathlib import Path; p = Path({path!r}); s = p.read_text(); "
        f"assert s.count({task.wrong!r}) == 1; p.write_text(s.replace({task.wrong!r}, {task.right!r}))"
    )
    return f"cat test_{task.package}.py {path}", f"python3 -c {shlex.quote(code)}"


def runner_script(task: Task) -> tuple[Turn, ...]:
    """Return the same solution in the runner's own tools."""
    path = f"{task.package}/{task.file}"
    return (
        Turn([("read_file", {"path": f"test_{task.package}.py"}), ("read_file", {"path": path})]),
        Turn([("edit_file", {"path": path, "edits": [{"old": task.wrong, "new": task.right}]})]),
        Turn([("finish", {"summary": f"the bug was in {path}"})]),
    )


def _mini(task: Task) -> list[Turn]:
    commands = (*look_edit(task), "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT")
    return [Turn([("bash", {"command": command})]) for command in commands]


def _gemini_cli(task: Task) -> list[Turn]:
    calls = [Turn([("run_shell_command", {"command": command})]) for command in look_edit(task)]
    return [*calls, Turn()]


def _codex(task: Task) -> list[Turn]:
    return [*(Turn([("exec_command", {"cmd": command})]) for command in look_edit(task)), Turn()]


AGENTS = (
    Agent(
        "mini-swe-agent",
        GEMINI,
        argv=lambda program, _url, model, text: [
            *(str(program), "--yolo", "--exit-immediately", "--cost-limit", "0"),
            *("--model", f"gemini/{model}", "--task", text, "--output", "../trajectory.json"),
        ],
        env=lambda url, key: {
            "MSWEA_CONFIGURED": "true",
            "MSWEA_SILENT_STARTUP": "1",
            "MSWEA_COST_TRACKING": "ignore_errors",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "GEMINI_API_KEY": key,
            "GEMINI_API_BASE": f"{url}/v1beta",
        },
        script=_mini,
    ),
    Agent(
        "gemini-cli",
        GEMINI,
        argv=lambda program, _url, model, text: [
            *(str(program), "--skip-trust", "--yolo", "--model", model, "--output-format", "json", "--prompt", text)
        ],
        env=lambda url, key: {"GEMINI_API_KEY": key, "GOOGLE_GEMINI_BASE_URL": url},
        script=_gemini_cli,
        home={
            ".gemini/settings.json": json.dumps(
                {
                    "security": {"auth": {"selectedType": "gemini-api-key"}},
                    "privacy": {"usageStatisticsEnabled": False},
                    "general": {"enableAutoUpdate": False, "enableAutoUpdateNotification": False},
                }
            )
        },
    ),
    Agent(
        "codex",
        RESPONSES,
        # Its own sandbox is off, as the other two have none: all stand in the harness's.
        argv=lambda program, url, model, text: [
            *(str(program), "exec", "--json", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"),
            *("-c", "check_for_update_on_startup=false", "-c", "analytics.enabled=false", "-c", 'model_provider="one"'),
            *("-c", f'model_providers.one={{name="one",base_url="{url}/v1",env_key="ONE_KEY",wire_api="responses"}}'),
            *("--model", model, text),
        ],
        env=lambda _url, key: {"ONE_KEY": key},
        script=_codex,
    ),
)
