"""The names that models know from other tools, for those of the runner: of Gemini's, Claude's and OpenAI's own programs.

A call is put into the runner's form before anything else sees it, so that policy, agent files and results know one name a tool. The
transcript has the model's own names, which verify puts into that form again. A tool of a project's own is never renamed.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Collection, Container, Mapping
from typing import Any, Final

from runner.lines import pattern

Arguments = dict[str, Any]
MILLISECONDS: Final = 10_000  # the least timeout that is taken for milliseconds: nobody waits so many seconds

# Names in lower case without `_` and `-`, so that read_file, ReadFile and Read-File are one.
NAMES: Final = {
    **dict.fromkeys(("read", "readfile", "view", "viewfile", "openfile", "cat"), "read_file"),
    **dict.fromkeys(("write", "writefile", "createfile", "create", "savefile"), "write_file"),
    **dict.fromkeys(("edit", "editfile", "multiedit", "replace", "strreplace", "searchreplace"), "edit_file"),
    **dict.fromkeys(("applypatch", "applydiff", "patch"), "apply_patch"),
    **dict.fromkeys(("grep", "search", "searchtext", "searchfiles", "searchfilecontent", "grepsearch"), "search_text"),
    **dict.fromkeys(("glob", "ls", "list", "listfiles", "listdir", "listdirectory", "findfiles"), "list_files"),
    **dict.fromkeys(("bash", "sh", "shell", "runshellcommand", "executecommand", "runcommand", "exec"), "shell"),
    **dict.fromkeys(("localshell", "shellcommand", "execcommand", "containerexec", "runinterminal"), "shell"),
    **dict.fromkeys(("askperson", "askuser", "askuserquestion"), "ask_person"),
    **dict.fromkeys(("remember", "savememory"), "remember"),
    **dict.fromkeys(("finish", "submit", "completetask", "attemptcompletion"), "finish"),
}
# What other programs call an argument, by the tool and by the runner's own name for it.
_PATH: Final = ("file_path", "filepath", "absolute_path", "filename", "file", "target_file", "dir_path", "directory")
ARGUMENTS: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "read_file": {"path": _PATH},
    "write_file": {"path": _PATH, "content": ("file_text", "contents", "text")},
    "edit_file": {"path": _PATH},
    "apply_patch": {"patch": ("input", "diff", "patch_text")},
    "search_text": {
        "pattern": ("query", "regex", "regexp"),
        "path": _PATH,
        "glob": ("include", "include_pattern"),
        "ignore_case": ("case_insensitive", "-i"),
        "max": ("max_results", "max_matches", "head_limit"),
    },
    "list_files": {"path": _PATH, "glob": ("pattern",), "depth": ("max_depth",)},
    "shell": {"command": ("cmd", "script", "command_line"), "timeout": ("timeout_seconds",)},
    "remember": {"text": ("fact", "memory")},
    "ask_person": {"question": ("prompt", "text")},
    "finish": {"summary": ("message", "answer", "text", "result_summary")},
}
_EDIT: Final = {
    "old": ("old_string", "old_str", "old_text", "search"),
    "new": ("new_string", "new_str", "new_text", "replace"),
    "all": ("replace_all", "allow_multiple"),
}
# What such a call says besides: to people, about how its result shall look, or that nothing more is wanted.
_IGNORED: Final = frozenset(
    ("description", "instruction", "explanation", "justification", "output_mode", "-n", "-A", "-B", "-C", "context")
)
_IGNORED_IF_FALSE: Final = frozenset(("is_background", "run_in_background", "with_escalated_permissions", "multiline"))
WIRE: Final = "mcp__"  # how other programs write it, too
_PREFIX: Final = pattern(r"(default_api|functions|tools|container)\.")


def wire_name(name: str) -> str:
    """Return a tool's name as models' providers take it: `mcp:docs/look.up` is `mcp__docs__look_up`."""
    if not name.startswith("mcp:"):
        return name
    return WIRE + re.sub(r"[^A-Za-z0-9_-]", "_", name.removeprefix("mcp:").replace("/", "__", 1))


def named(name: str, arguments: Mapping[str, Any], tools: Collection[str]) -> tuple[str, Arguments]:
    """Return the runner's name for the tool of a call, and the arguments without the part that the name had; as they are where `tools`
    has the name, or nobody knows it."""
    given = dict(arguments)
    if name in tools:
        return name, given
    if name.startswith(WIRE):
        return next((one for one in tools if wire_name(one) == name), name), given
    if re.fullmatch(r"str_?replace_?based_?edit_?tool|text_?editor", name, re.IGNORECASE):
        return _text_editor(given)
    own = NAMES.get(re.sub(r"[_-]", "", _PREFIX.sub("", name).lower()), name)
    return own, {"status": "done", **given} if own == "finish" else given  # elsewhere such a call has no other meaning


def translated(tool: str, given: Arguments, known: Container[str] = ()) -> Arguments:
    """Return the arguments of a call of a tool of the runner's by its own names for them. `known`: names that it takes for certain."""
    return _FORMS.get(tool, dict)(_renamed(given, ARGUMENTS.get(tool, {}), known))


def _renamed(given: Arguments, names: Mapping[str, tuple[str, ...]], known: Container[str]) -> Arguments:
    """Return arguments by the names that are known; one that is given by two names stays, for the contract to refuse."""
    ours = {other: own for own, others in names.items() for other in others}
    found: Arguments = {}
    for key, value in given.items():
        own = key if key in known else ours.get(key, key)
        if own in found or (own != key and own in given):
            own = key
        found[own] = value
    said = {key for key in found if key in _IGNORED or (key in _IGNORED_IF_FALSE and not found[key])}
    return {key: value for key, value in found.items() if key in known or key not in said}


def _text_editor(given: Arguments) -> tuple[str, Arguments]:
    """Return a call of Anthropic's str_replace_based_edit_tool, whose `command` says what it does."""
    rest = {key: value for key, value in given.items() if key != "command"}
    match given.get("command"):
        case "view":
            return "read_file", rest
        case "create":
            return "write_file", rest
        case "str_replace":
            return "edit_file", {**rest, "new_str": rest.get("new_str") or ""}
    return "edit_file", given


def _edit(given: Arguments) -> Arguments:
    """Return the arguments of `edit_file`, whose one edit may be beside the path."""
    names = {*_EDIT, *(other for others in _EDIT.values() for other in others), "expected_replacements"}
    flat = names & given.keys()
    edits = given.get("edits", [{}] if flat else None)
    if isinstance(edits, list):
        beside = {key: given[key] for key in flat}
        edits = [_one(edit, beside) for edit in edits]
    return {key: value for key, value in given.items() if key not in flat} | ({} if edits is None else {"edits": edits})


def _one(edit: Any, beside: Arguments) -> Any:
    if not isinstance(edit, Mapping):
        return edit
    found = _renamed({**edit, **beside}, _EDIT, _EDIT)
    if (count := _number(found.pop("expected_replacements", None))) is not None and count > 1:
        found.setdefault("all", True)
    if found.get("all") in ("true", "false"):
        found["all"] = found["all"] == "true"
    return found


def _read(given: Arguments) -> Arguments:
    """Return the arguments of `read_file`: others have an offset and a limit, or a range."""
    found = {key: value for key, value in given.items() if key not in ("offset", "limit", "view_range")}
    match given.get("view_range"):
        case [first, last]:
            found |= {"start_line": first} | ({"end_line": last} if last != -1 else {})
    first, count = _number(given.get("offset")), _number(given.get("limit"))
    if first is not None:
        found["start_line"] = max(first, 1)
    if count is not None:
        found["end_line"] = max(first or 1, 1) + count - 1
    return found


def _number(value: Any) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,15}", value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _shell(given: Arguments) -> Arguments:
    """Return the arguments of `shell`: others give a list of words, a folder, or milliseconds."""
    found, command = dict(given), given.get("command")
    if isinstance(command, list) and command and all(isinstance(word, str) for word in command):
        line = len(command) == 3 and re.fullmatch(r"(.*/)?(ba|z|da)?sh -l?c", " ".join(command[:2]))
        found["command"] = command[2] if line else shlex.join(command)
    for key in ("directory", "dir_path", "workdir", "cwd"):
        folder = found.pop(key, None)
        if isinstance(folder, str) and folder.strip() not in ("", ".", "/workspace"):
            found["command"] = f"cd {shlex.quote(folder)} || exit\n{found.get('command', '')}"
    time = _number(found.pop("timeout_ms", None)) or _number(found.get("timeout"))
    if time is not None and abs(time) < 2**53 and ("timeout_ms" in given or time >= MILLISECONDS):
        found["timeout"] = time / 1000
    return found


_FORMS: Final[Mapping[str, Callable[[Arguments], Arguments]]] = {
    "edit_file": _edit,
    "read_file": _read,
    "shell": _shell,
}


def command_of(given: Mapping[str, Any]) -> str | None:
    """Return the shell's text of an agent's call, by any of the names that agents have for it: a line for each of `commands`."""
    command = given.get("command", given.get("cmd"))
    if isinstance(command, list):
        return " ".join(map(str, command))
    if isinstance(command, str):
        return command
    several = given.get("commands")
    lines = (
        [line_of(one) if isinstance(one, dict) else str(one) for one in several or ()]
        if isinstance(several, list)
        else []
    )
    return "\n".join(lines) or None


def line_of(request: Mapping[str, Any]) -> str:
    """Return the line for a shell that does what ACP's `terminal/create` asks: with its variables, and its arguments as words."""
    given = [one for one in request.get("env") or () if isinstance(one, dict)]
    words = [str(one) for one in request.get("args") or ()]
    command = str(request.get("command", ""))
    if len(words) == 2 and words[0] in ("-c", "-lc") and os.path.basename(command) in ("sh", "bash"):
        line = words[1]
    else:
        line = shlex.join((command, *words)) if words else command
    variables = "; ".join(f"export {one.get('name')}={shlex.quote(str(one.get('value', '')))}" for one in given)
    return f"{variables}; {line}" if variables else line
