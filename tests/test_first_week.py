"""The 31 findings of a new user's first hour on real projects, each with the tests that hold its answer; those without one are here.

Each row: what was found, and the tests (`file::name`). A test that is renamed or removed fails the first test of this file.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.conftest import Box, command
from tests.people import governed, person

HERE = Path(__file__).parent
ROWS: dict[int, tuple[str, str]] = {
    1: ("a failing project passes QA", """
        ci/test_scripts.py::test_python_tests_that_nothing_runs_do_not_pass
        ci/test_scripts.py::test_what_has_nothing_to_check_fails_a_step_and_does_not_hold_up_ci"""),
    2: ("the output of a step or check is lost", """
        executor/test_output.py::test_the_output_of_a_command_and_of_each_check_is_filed
        executor/test_output.py::test_of_a_long_output_the_first_and_the_last_whole_lines_are_kept
        cli/test_output.py::test_a_failure_prints_its_last_40_lines_and_names_the_command_for_the_rest"""),
    3: ("the install shadows the user's python", """
        executor/test_path.py::test_a_step_and_its_check_do_not_see_the_runners_python
        docs/test_readme.py::test_the_readme_installs_it_as_it_says"""),
    4: ("what init writes for Python cannot work as a check", """
        cli/test_proved_command.py::test_the_command_that_works_becomes_the_default_check
        executor/test_environments.py::test_what_is_installed_as_editable_is_the_steps_code
        executor/test_environments.py::test_a_file_that_the_build_generates_is_there"""),
    5: ("a step that failed and was deleted is a dead end", """
        cli/test_steering.py::test_a_failed_step_whose_file_is_deleted_needs_resume_alone
        cli/test_next.py::test_what_is_to_be_typed_next_is_not_refused"""),
    6: ("uncommitted work is left behind silently", """
        cli/test_steering.py::test_merge_leaves_no_uncommitted_work_behind_unasked
        cli/test_steps_by_command.py::test_at_a_terminal_answer_offers_to_commit_what_the_person_wrote"""),
    7: ("new reads a stale trusted branch", """
        cli/test_fresh.py::test_new_knows_a_workflow_that_was_pushed_since
        cli/test_fresh.py::test_a_remote_that_is_away_is_said_and_the_last_seen_serves"""),
    8: ("the set-up cannot reach a private index", """
        executor/test_environments.py::test_a_setup_gets_settings_and_what_is_named_and_no_step_does
        executor/test_environments.py::test_a_setup_that_fails_says_which_variables_it_had_not_and_prints_none
        executor/test_environments.py::test_a_setup_can_read_the_certificates_that_a_variable_names"""),
    9: ("CI jobs install a package that nobody has published", """
        cli/test_setting_up.py::test_no_job_is_written_that_cannot_install_the_runner
        cli/test_setting_up.py::test_jobs_install_the_runner_from_where_this_one_came"""),
    10: ("main's history drowns", """
        cli/test_steering.py::test_merge_by_squash_makes_one_commit_that_verifies
        cli/test_steering.py::test_merge_squashes_where_the_configuration_says_so_and_no_option_else
        cli/test_steering.py::test_merge_takes_a_message_and_says_what_it_would_do"""),
    11: ("a long command shows nothing", """
        cli/test_output.py::test_a_terminal_sees_the_step_its_place_and_the_last_line
        cli/test_output.py::test_elsewhere_there_is_a_line_now_and_then
        cli/test_output.py::test_verbose_streams_what_is_printed"""),
    12: ("a colleague cannot find, nor answer, a protocol", """
        cli/test_colleague.py::test_sync_names_what_is_new_on_the_remote_and_list_knows_it_then
        cli/test_colleague.py::test_every_verb_works_on_a_protocol_that_only_the_remote_has"""),
    13: ("init twice leaves config.yaml out", """
        cli/test_making.py::test_init_commits_what_was_edited_after_it_wrote_it_and_names_it
        cli/test_setting_up.py::test_an_answer_by_option_closes_the_question"""),
    14: ("a reason of many lines breaks the tables", """
        test_first_week.py::test_a_reason_of_many_lines_is_one_line_in_each_table
        test_first_week.py::test_a_tool_of_the_project_s_own_names_its_line_that_failed"""),
    15: ("after a failure nothing reruns the check by hand", """
        cli/test_qa.py::test_qa_by_hand_judges_the_work_that_a_failed_check_left
        cli/test_shell.py::test_it_has_the_work_that_a_failed_check_refused"""),
    16: ("jargon", """
        cli/test_wording.py::test_what_is_typed_wrongly_is_told_as_every_error_is
        docs/test_policy_page.py::test_the_session_of_the_page_is_what_is_printed"""),
    17: ("the picture does not sell", """
        test_demo.py::test_the_picture_is_a_window_of_thirty_lines_in_which_the_session_plays_to_its_end"""),
    18: ("help is one flat list", """
        cli/test_session.py::test_the_commands_are_listed_in_groups_and_none_of_their_modules_is_loaded
        docs/test_cli_page.py::test_the_man_page_is_up_to_date
        cli/test_first_steps.py::test_a_new_protocol_without_a_model_names_the_plan_by_hand"""),
    19: ("a plan cannot be checked, nor an unwanted protocol removed", """
        cli/test_check.py::test_all_mistakes_of_a_plan_are_named_with_file_and_line
        cli/test_clean.py::test_a_protocol_for_which_nothing_was_done_is_discarded_whole
        cli/test_list.py::test_a_list_is_narrowed_to_what_is_asked_for"""),
    20: ("submodules, LFS and generated files are just missing", """
        executor/test_submodules.py::test_the_first_run_and_doctor_say_what_is_empty
        executor/test_submodules.py::test_files_of_lfs_have_their_content_and_the_commit_has_the_pointer
        executor/test_environments.py::test_a_file_that_the_build_generates_is_there"""),
    21: ("the log does not read well", """
        cli/test_list_and_log_by_form.py::test_log_shows_a_commit_a_line
        protocol/test_log_lines.py::test_a_log_as_a_whole
        protocol/test_log_lines.py::test_no_text_is_anything_but_quoted_text_on_a_page"""),
    22: ("a published protocol without a forge cannot be merged", """
        cli/test_steering.py::test_without_a_forge_what_is_published_is_merged_here"""),
    23: ("undo and fork take revision numbers alone", """
        cli/test_steering.py::test_undo_of_a_step_goes_back_to_before_it_started
        cli/test_fork.py::test_a_fork_goes_on_from_where_a_step_was_completed
        cli/test_fork.py::test_without_a_revision_it_is_the_last_one_and_a_step_that_failed_is_tried_another_way"""),
    24: ("a waiting step shows its old text, a retried one its old output", """
        cli/test_steps_by_command.py::test_a_waiting_step_of_a_person_that_was_edited_is_shown_as_it_is_now
        cli/test_output.py::test_of_an_attempt_that_has_not_started_the_one_before_is_shown"""),
    25: ("an approval that does not count is printed three times", """
        test_first_week.py::test_an_approval_that_does_not_count_is_printed_once
        cli/test_approve.py::test_of_somebodys_words_the_last_alone_is_told"""),
    26: ("do prints done and never the result", """
        test_first_week.py::test_a_short_result_stands_on_its_step_s_line"""),
    27: ("no editor support", """
        cli/test_setting_up.py::test_an_editor_finds_the_schema_of_each_file_that_init_writes
        cli/test_making.py::test_every_template_names_the_schema_of_its_kind
        docs/test_files_page.py::test_the_page_names_every_key_and_no_other"""),
    28: ("status hides titles, a step that waits is called running, ids and nulls look like debug output", """
        test_first_week.py::test_each_step_has_its_title_and_one_that_waits_is_said_to
        test_first_week.py::test_doctor_says_what_is_not_set"""),
    29: ("init writes files that nobody asked for", """
        test_first_week.py::test_init_writes_three_files
        cli/test_setting_up.py::test_the_rest_is_added_later_to_a_repository_that_has_been_set_up"""),
    30: ("a detached HEAD is told at merge only", """
        test_first_week.py::test_new_says_that_head_is_on_no_branch"""),
    31: ("disk: two checkouts a protocol, no total", """
        cli/test_clean.py::test_doctor_says_what_the_runner_has_on_the_disk
        store/test_shapes.py::test_sparse_checkout_of_the_person_stays_sparse"""),
}  # fmt: skip


@pytest.mark.parametrize("row", range(1, 32))
def test_each_row_is_answered_by_tests_that_are_there(row: int) -> None:
    named = ROWS[row][1].split()
    assert named
    for one in named:
        file, _, name = one.partition("::")
        assert re.search(rf"^def {name}\(", (HERE / file).read_text(), re.MULTILINE), one


def test_a_reason_of_many_lines_is_one_line_in_each_table(box: Box) -> None:
    protocol = box.new({"01-a": command("\nset -e\necho one\n\nexit 3\n")})
    said = box.runner("run", protocol, rc=1).err
    assert "exit 3, `set -e …`" in said
    for words in (("status",), ("status", protocol), ("show", protocol)):
        told = box.runner(*words, rc=0).out
        assert "`set -e …`" in told and "\\n" not in told and "echo one" not in told


def test_a_tool_of_the_project_s_own_names_its_line_that_failed(box: Box) -> None:
    box.write(
        ".protocols/config.yaml",
        f"workspace: {{python: {sys.executable}}}\ntools: [{{module: rel, effects: {{get: read}}}}]\n",
    )
    lines = ["import json", "def get(text: str) -> str:", '    """Get."""', "    return json.loads(text)"]
    box.write("rel.py", "\n".join(lines) + "\n")
    box.commit("tools")
    protocol = box.new({"01-a": "kind: tool\ntool: get\nwith: {text: '{'}\n"})
    box.runner("run", protocol, rc=1)
    (line,) = box.runner("status", rc=0).out.splitlines()
    assert "JSONDecodeError: " in line and "(rel.py:4) …" in line and "decoder.py" not in line


def test_an_approval_that_does_not_count_is_printed_once(tmp_path: Path) -> None:
    alice, bob = person(tmp_path, "alice"), person(tmp_path, "bob")
    box = governed(tmp_path / "repo", [alice, bob])
    protocol = box.new({"01-a": command("true") + "approval: before\n"})
    box.runner("run", protocol, rc=3)
    for verb in ("reject", "revoke", "approve"):
        box.runner(verb, protocol, "--yes", rc=0, env=alice.env)
    file = box.worktree(protocol) / f".protocols/{protocol}/01-a.md"
    file.write_text(f"{file.read_text()}More.\n")
    said = box.runner("run", protocol, rc=3).err
    assert said.count("stale") == 1 and said.count("for a maintainer (alice, bob)") == 1
    assert box.runner("status", protocol, rc=0).out.count("stale") == 1


def test_a_short_result_stands_on_its_step_s_line(box: Box) -> None:
    words = ("do", "--workflow", "echo-add", "--input", "text=hello", "--input", "a=2", "--input", "b=3")
    said = box.runner(*words, rc=0).err
    assert re.search(r"^01-echo  done .*hello", said, re.MULTILINE) and re.search(
        r"^02-add   done .*5", said, re.MULTILINE
    )


def test_each_step_has_its_title_and_one_that_waits_is_said_to(box: Box) -> None:
    folder = box.plan({"01-look": "kind: human\n", "02-b": command("true"), "03-c": "kind: human\n"})
    for name, title in (("01-look", "Look at it"), ("02-b", "Build it"), ("03-c", "Read it")):
        (folder / f"{name}.md").write_text(
            (folder / f"{name}.md").read_text().replace(f"title: {name}", f"title: {title}")
        )
    protocol = box.runner("new", "--plan", folder, rc=0).out.strip()
    box.runner("run", protocol, rc=3)
    for verb in ("status", "show"):
        rows = [" ".join(line.split()) for line in box.runner(verb, protocol, rc=0).out.splitlines()]
        assert {"01-look waits Look at it", "02-b pending Build it · needs look", "03-c pending Read it · needs b"} <= {
            *rows
        }


def test_doctor_says_what_is_not_set(box: Box) -> None:
    told = box.runner("doctor", "--config", rc=0).out
    assert "null" not in told and re.search(r"^forge +not set +\(", told, re.MULTILINE)


def test_init_writes_three_files(box: Box) -> None:
    box.runner("init", "--commit", "--yes", "--no-try", rc=0)
    made = box.git("show", "--name-only", "--format=", "HEAD").split()
    assert [one for one in made if "clarifications" not in one] == [
        ".protocols/.gitattributes",
        ".protocols/config.yaml",
        ".protocols/policy.yaml",
    ]


def test_new_says_that_head_is_on_no_branch(box: Box) -> None:
    assert "HEAD" not in box.runner("new", "On main", "--manual", rc=0).err
    box.git("checkout", "-q", "--detach")
    assert "HEAD is on no branch; `runner new --base BRANCH`" in box.runner("new", "Nowhere", "--manual", rc=0).err
    assert "HEAD" not in box.runner("new", "Elsewhere", "--manual", "--base", "main", rc=0).err


def test_people_are_named_once_where_one_requirement_implies_another(tmp_path: Path) -> None:
    alice, bob = person(tmp_path, "alice"), person(tmp_path, "bob")
    box = governed(tmp_path / "repo", [alice, bob], approvals="  step: {count: 1}\n")
    one = command("true") + "approval: {when: before, roles: [maintainer]}\n"
    protocol = box.new({"01-a": one, "02-b": one.replace("roles", "count: 2, roles")})
    assert "waits     for a maintainer (alice, bob): approval before it starts" in box.runner("run", protocol, rc=3).err
    box.runner("approve", protocol, "--yes", rc=0, env=alice.env)
    assert "waits     for 2 of maintainer (alice, bob): approval" in box.runner("run", protocol, rc=3).err
    box.runner("verify", protocol, rc=0)
