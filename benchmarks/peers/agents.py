"""What the agents are: how each is started, and which tools the scripted model calls of each.

All are asked in the same words (the task's `wish`), start without questions in a home of their own, and reach
no model but the endpoint. Their prompts, tools and retries are their own.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

from benchmarks.agent.packages import Package
from benchmarks.agent.tasks import BadEdit, Cut, Edit, Look, Task, Thought
from benchmarks.peers.endpoint import GEMINI, MESSAGES, RESPONSES, Call, Turn

NOT_THERE = "this line is not in the file\n"
CUT_TEXT = "The bug is in the function that"


@dataclass(frozen=True, slots=True)
class Agent:
    """A peer. `argv` is of program, the endpoint's address, model, and what is asked; `env` of address and key; `home` are files.

    `tools`: it offers some. Without them the script is answered in its order.
    """

    name: str
    format: str
    argv: Callable[[Path, str, str, str], Sequence[str]]
    env: Callable[[str, str], Mapping[str, str]]
    script: Callable[[Task | Package], Sequence[Turn]]
    home: Mapping[str, str] = field(default_factory=dict)
    tools: bool = True


def turns(task: Task | Package) -> list[list[Thought]]:
    """Return the thoughts of a task, those of one turn together: all the edits that follow each other."""
    kinds = groupby(task.thoughts, key=lambda thought: isinstance(thought, Edit) or thought)
    return [list(together) for _, together in kinds]


def shell(thought: Thought) -> list[str]:
    """Return a thought as commands of a shell, which is all that some agents have."""
    match thought:
        case Look(commands):
            return list(commands)
        case BadEdit(path):
            return [_replacing(path, NOT_THERE, "")]
        case Edit(path, _, old, new):
            return [_replacing(path, old, new)]
    return []


def _replacing(path: str, old: str, new: str) -> str:
    code = (
        f"from pathlib import Path; p = Path({path!r}); s = p.read_text(); "
        f"assert s.count({old!r}) == 1; p.write_text(s.replace({old!r}, {new!r}))"
    )
    return f"python3 -c {shlex.quote(code)}"


def _script(task: Task | Package, tool: str, key: str, *, joined: bool = False) -> list[Turn]:
    """Return the thoughts as turns of an agent with a shell. `joined`: it would run the calls of a turn at the same time."""
    said = []
    for turn in turns(task):
        commands = [command for thought in turn for command in shell(thought)]
        commands = ["\n".join(commands)] if joined and commands else commands
        said.append(Turn([(tool, {key: command}) for command in commands], CUT_TEXT, cut=Cut() in turn))
    return said


def runner_script(task: Task | Package) -> tuple[Turn, ...]:
    """Return the same solution in the runner's own tools, with `finish` beside the last edit, as its prompt asks."""
    done = "finish", {"status": "done", "summary": "the bug is fixed"}

    def calls(thought: Thought) -> list[Call]:
        match thought:
            case Look(proposes=True):
                return [done]
            case Look(commands):
                return [call for command in commands for call in _reading(command)]
            case BadEdit(path):
                return [("edit_file", {"path": path, "edits": [{"old": NOT_THERE, "new": ""}]})]
            case Edit(path, _, old, new):
                return [("edit_file", {"path": path, "edits": [{"old": old, "new": new}]})]
        return []

    said = [Turn([call for one in turn for call in calls(one)], CUT_TEXT, cut=Cut() in turn) for turn in turns(task)]
    return (*said[:-1], replace(said[-1], calls=[*said[-1].calls, done]))


def flow_scripts(task: Task | Package) -> dict[str, Sequence[Turn]]:
    """Return what planner and reviewer answer on the way from `runner new` to `runner merge`, by the tool that is theirs."""
    step = {"slug": "fix", "title": "Do it", "kind": "agent", "prose": task.wish, "checks": [task.check]}
    plan = {"title": task.name, "prose": "As it was asked.", "acceptance": ["The tests pass."], "steps": [step]}
    return {
        "propose_plan": (Turn([("run_check", {"command": task.check})]), Turn([("propose_plan", plan)])),
        "give_verdict": (Turn([("give_verdict", {"verdict": "PASS", "summary": "It does what was asked."})]),),
    }


def _reading(command: str) -> list[Call]:
    """Return the calls that show what a command shows: files and lines of them by the tool for them, all else by the shell."""
    if part := re.fullmatch(r"sed -n (\d+),(\d+)p (\S+)", command):
        return [("read_file", {"path": part[3], "start_line": int(part[1]), "end_line": int(part[2])})]
    if command.startswith("cat "):
        return [("read_file", {"path": path}) for path in command.split()[1:]]
    return [("shell", {"command": command})]


def _mini(task: Task | Package) -> list[Turn]:
    return [
        *_script(task, "bash", "command"),
        Turn([("bash", {"command": "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"})]),
    ]


def _gemini_cli(task: Task | Package) -> list[Turn]:
    return [*_script(task, "run_shell_command", "command"), Turn()]


def _codex(task: Task | Package) -> list[Turn]:
    return [*_script(task, "exec_command", "cmd", joined=True), Turn()]


def _claude_code(task: Task | Package) -> list[Turn]:
    return [*_script(task, "Bash", "command"), Turn()]


def _aider(task: Task | Package) -> list[Turn]:
    """Return what aider takes, which offers no tools: names of files, which it then shows, and blocks to replace."""
    edits = [one for one in task.thoughts if isinstance(one, Edit)]
    said = [Turn(text="I need to see " + ", ".join({f"`{one.path}`": 0 for one in edits}))]
    said += [Turn(text=_block(one)) for one in task.thoughts if isinstance(one, BadEdit)]
    # It ends with the first blocks that fit, and runs nothing: no place for tests before the rest.
    return [*said, Turn(text="\n".join(_block(_whole_lines(task, one)) for one in edits))]


def _whole_lines(task: Task | Package, edit: Edit) -> Edit:
    """Return an edit that replaces whole lines, as blocks do; those of packages do so already."""
    if not isinstance(task, Task):
        return edit
    before, _, after = task.files()[edit.path].partition(edit.old)
    start, end = before.rpartition("\n")[2], after.partition("\n")[0]
    return replace(edit, old=start + edit.old + end, new=start + edit.new + end)


def _block(edit: Edit | BadEdit) -> str:
    old, new = (edit.old, edit.new) if isinstance(edit, Edit) else (NOT_THERE, "")
    old, new = (text if text.endswith("\n") or not text else f"{text}\n" for text in (old, new))
    return f"{edit.path}\n```\n<<<<<<< SEARCH\n{old}=======\n{new}>>>>>>> REPLACE\n```\n"


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
    Agent(
        "claude-code",
        MESSAGES,
        # The package's own script would put the program in place; without it the wrapper finds it.
        argv=lambda program, _url, model, text: [
            *("node", str(program), "--print", "--output-format", "json", "--dangerously-skip-permissions"),
            *("--model", model, text),
        ],
        env=lambda url, key: {
            "ANTHROPIC_BASE_URL": url,
            "ANTHROPIC_API_KEY": key,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "IS_SANDBOX": "1",
        },
        script=_claude_code,
    ),
    Agent(
        "aider",
        GEMINI,
        argv=lambda program, _url, model, text: [
            *(
                str(program),
                "--model",
                f"gemini/{model}",
                "--weak-model",
                f"gemini/{model}",
                "--edit-format",
                "diff",
                "--yes-always",
            ),
            *(
                "--no-auto-commits",
                "--no-stream",
                "--no-check-update",
                "--analytics-disable",
                "--no-show-model-warnings",
            ),
            *("--no-suggest-shell-commands", "--message", text),
        ],
        env=lambda url, key: {
            "GEMINI_API_KEY": key,
            "GEMINI_API_BASE": f"{url}/v1beta",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        },
        script=_aider,
        tools=False,
    ),
)
