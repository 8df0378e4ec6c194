"""Calls by the names that models know from other programs become the runner's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.tools import Contract, Tool, ToolError, check_arguments, registry
from runner.tools.registry import canonical, contract_of, schema_of
from tests.tools.agent_ground import Ground, place


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Tool]]:
    with Ground(Path(tmp_path_factory.mktemp("ground")), place("host")).open() as opened:
        yield {**opened.tools}


EDIT = ("edit_file", {"path": "a.py", "edits": [{"old": "x", "new": "y"}]})


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [
        # Gemini's
        ("replace", {"file_path": "a.py", "instruction": "do", "old_string": "x", "new_string": "y"}, EDIT),
        (
            "replace",
            {"file_path": "a.py", "old_string": "x", "new_string": "y", "expected_replacements": 2},
            ("edit_file", {"path": "a.py", "edits": [{"old": "x", "new": "y", "all": True}]}),
        ),
        ("read_file", {"absolute_path": "a.py"}, ("read_file", {"path": "a.py"})),
        ("read_file", {"file_path": "a.py", "offset": 5, "limit": "2"},
         ("read_file", {"path": "a.py", "start_line": 5, "end_line": 6})),
        ("write_file", {"file_path": "a.py", "content": "x"}, ("write_file", {"path": "a.py", "content": "x"})),
        ("run_shell_command", {"command": "ls", "description": "list"}, ("shell", {"command": "ls"})),
        ("run_shell_command", {"command": "ls", "directory": "a b"}, ("shell", {"command": "cd 'a b' || exit\nls"})),
        ("search_file_content", {"pattern": "x", "include": "*.py"}, ("search_text", {"pattern": "x", "glob": "*.py"})),
        ("list_directory", {"dir_path": "src"}, ("list_files", {"path": "src"})),
        ("default_api.glob", {"pattern": "*.py"}, ("list_files", {"glob": "*.py"})),
        # Claude's
        ("Edit", {"file_path": "a.py", "old_string": "x", "new_string": "y", "replace_all": False},
         ("edit_file", {"path": "a.py", "edits": [{"old": "x", "new": "y", "all": False}]})),
        ("MultiEdit", {"file_path": "a.py", "edits": [{"old_string": "x", "new_string": "y"}]}, EDIT),
        ("Read", {"file_path": "a.py", "offset": 3}, ("read_file", {"path": "a.py", "start_line": 3})),
        ("Write", {"file_path": "a.py", "content": "x"}, ("write_file", {"path": "a.py", "content": "x"})),
        ("Bash", {"command": "ls", "description": "list", "timeout": 120000}, ("shell", {"command": "ls", "timeout": 120})),
        ("Grep", {"pattern": "x", "-i": True, "output_mode": "content", "-n": True},
         ("search_text", {"pattern": "x", "ignore_case": True})),
        # Anthropic's
        ("str_replace_based_edit_tool", {"command": "str_replace", "path": "a.py", "old_str": "x", "new_str": "y"}, EDIT),
        ("str_replace_based_edit_tool", {"command": "view", "path": "a.py", "view_range": [2, -1]},
         ("read_file", {"path": "a.py", "start_line": 2})),
        ("str_replace_based_edit_tool", {"command": "create", "path": "a.py", "file_text": "x"},
         ("write_file", {"path": "a.py", "content": "x"})),
        # OpenAI's
        ("apply_patch", {"input": "*** Begin Patch"}, ("apply_patch", {"patch": "*** Begin Patch"})),
        ("shell", {"command": ["bash", "-lc", "ls | wc"], "workdir": "."}, ("shell", {"command": "ls | wc"})),
        ("shell", {"command": ["git", "log", "a b"], "timeout_ms": 5000},
         ("shell", {"command": "git log 'a b'", "timeout": 5})),
        # our own, and values as text
        ("read_file", {"path": "a.py", "start_line": "3"}, ("read_file", {"path": "a.py", "start_line": 3})),
        ("edit_file", {"path": "a.py", "edits": [{"old": "x", "new": "y"}]}, EDIT),
        ("shell", {"command": "ls", "timeout": 7200}, ("shell", {"command": "ls", "timeout": 7200})),
    ],
)  # fmt: skip
def test_a_known_name_is_the_runners_tool(
    tools: dict[str, Tool], name: str, given: dict[str, Any], wanted: tuple[str, dict[str, Any]]
) -> None:
    assert canonical(name, given, tools) == wanted


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        (
            "replace",
            {"file_path": "a.py", "path": "b.py", "old_string": "x", "new_string": "y"},
            "no argument `file_path`",
        ),
        ("run_shell_command", {"command": "ls", "is_background": True}, "no argument `is_background`"),
        (
            "str_replace_based_edit_tool",
            {"command": "insert", "path": "a.py", "insert_line": 3},
            "no argument `command`",
        ),
        ("Grep", {"pattern": "x", "type": "py"}, "no argument `type`"),
        ("replace", {"file_path": "a.py", "old_string": 3, "new_string": "y"}, "should be text"),
        ("replace", {"file_path": "a.py", "edits": "all"}, "should be a list"),
        ("shell", {"command": [1]}, "should be text"),
        ("shell", {"command": "ls", "timeout": "²"}, "`timeout`"),
        ("shell", {"command": "ls", "timeout": 10**400}, "`timeout`"),
    ],
)
def test_what_has_no_counterpart_is_refused(
    tools: dict[str, Tool], name: str, given: dict[str, Any], told: str
) -> None:
    own, arguments = canonical(name, given, tools)
    with pytest.raises(ToolError, match=told):
        check_arguments(tools[own].contract, arguments)


def test_a_tool_of_the_project_keeps_its_name_and_arguments(tools: dict[str, Tool]) -> None:
    contract = Contract(name="replace", description="", effect="external", parameters=schema_of(registry.AddInput),
                        returns=None, source="shop.tools:replace")  # fmt: skip
    given = {"file_path": "x", "a": "3"}
    assert canonical("replace", given, {**tools, "replace": Tool(contract, dict)}) == (
        "replace",
        {"file_path": "x", "a": 3},
    )
    assert canonical("mcp.docs.search", given, tools) == ("mcp.docs.search", given)


def test_a_tool_that_is_not_there_is_not_there_by_another_name(tools: dict[str, Tool]) -> None:
    few = {"read_file": tools["read_file"]}
    assert canonical("Bash", {"command": "ls"}, few)[0] == "shell" and "shell" not in few


def test_what_a_model_is_shown_has_no_bounds() -> None:
    contract = contract_of("x", "", "read", registry.SearchTextInput)
    assert registry.shown(contract)["properties"]["pattern"] == {
        "description": "regular expression, for one line", "type": "string",
    }  # fmt: skip
    assert "additionalProperties" not in registry.shown(contract) and "additionalProperties" in contract.parameters


def test_the_schema_of_a_step_s_result_is_shown_whole() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1, "default": 2}}}
    assert registry.shown(registry.finish_with(schema))["properties"]["result"] == schema
