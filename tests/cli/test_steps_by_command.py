"""Steps that a person adds, moves, removes and skips by command, and runs that stop where the person wants."""

from __future__ import annotations

from tests.conftest import Box, command
from tests.people import at_terminal

THREE = {"01-a": command("true"), "02-b": command("true"), "03-c": command("true")}


def steps(box: Box, protocol: str) -> list[str]:
    """The names of the step files on the branch, in order."""
    names = box.git("ls-tree", "--name-only", f"{protocol}:.protocols/{protocol}").split()
    return [name.removesuffix(".md") for name in names if name[:2].isdigit()]


def test_a_step_is_added_behind_another_and_those_that_follow_move(box: Box) -> None:
    protocol = box.new(THREE)
    told = box.runner("edit", protocol, "--add", 'Check: it\'s "done"', "--after", "01", "--run", "test -n x", rc=0).err
    assert "added 02-check-it-s-done.md, committed as yours" in told
    assert steps(box, protocol) == ["01-a", "02-check-it-s-done", "03-b", "04-c"]
    assert box.git("log", "-1", "--format=%an %s", protocol) == f"Alice {protocol}: add check-it-s-done\n"
    assert (box.worktree(protocol) / f".protocols/{protocol}/04-c.md").is_file()
    box.runner("run", protocol, rc=0)
    assert box.state(protocol)["steps"]["check-it-s-done"]["status"] == "completed"
    box.runner("verify", protocol, rc=0)


def test_a_gap_is_used_and_without_after_a_step_is_the_last(box: Box) -> None:
    protocol = box.new({"01-a": command("true"), "05-b": command("true")})
    box.runner("edit", protocol, "--add", "A", "--after", "a", "--run", "true", rc=0)
    box.runner("edit", protocol, "--add", "End", "--kind", "human", rc=0)
    assert steps(box, protocol) == ["01-a", "02-a-2", "05-b", "06-end"]


def test_a_step_is_moved_and_removed(box: Box) -> None:
    protocol = box.new(THREE)
    box.runner("edit", protocol, "--move", "c", "--after", "plan", rc=0)
    assert steps(box, protocol) == ["01-c", "02-a", "03-b"]
    box.runner("edit", protocol, "--remove", "02-a", rc=0)
    assert steps(box, protocol) == ["01-c", "03-b"]
    box.runner("run", protocol, rc=0)
    box.runner("verify", protocol, rc=0)


def test_a_step_is_skipped_while_it_is_not_done(box: Box) -> None:
    protocol = box.new({"01-a": command("true"), "02-b": command("false"), "03-c": command("true")})
    box.runner("run", protocol, rc=1)
    assert "a is completed: there is nothing to skip" in box.runner("skip", protocol, "a", rc=4).err
    assert "b skipped, committed as yours" in box.runner("skip", protocol, "b", rc=0).err
    box.runner("resume", protocol, rc=0)
    box.runner("run", protocol, rc=0)
    assert box.state(protocol)["steps"]["c"]["status"] == "completed"
    box.runner("verify", protocol, rc=0)


def test_what_makes_no_plan_changes_nothing(box: Box) -> None:
    protocol = box.new({"01-a": command("true"), "02-b": command("true", "needs: [a]\n")})
    before = box.git("rev-parse", protocol)
    for words, says in (
        (("--remove", "a"), "a"),
        (("--add", " "), "TITLE is empty"),
        (("--add", "x", "--kind", "command"), "go together"),
        (("--add", "x", "--run", "true", "--after", "zzz"), "there is no step `zzz`"),
        (("--move", "a", "--after", "a"), "behind itself"),
        (("--move", "a"), "--after STEP"),
        (("--remove", "a", "--add", "x"), "give one of"),
        (("--kind", "human", "--remove", "a"), "go with --add"),
    ):
        assert says in box.runner("edit", protocol, *words, rc=2).err
    assert box.git("rev-parse", protocol) == before


def test_uncommitted_changes_of_plan_files_are_not_overwritten(box: Box) -> None:
    protocol = box.new(THREE)
    file = box.worktree(protocol) / f".protocols/{protocol}/02-b.md"
    file.write_text(file.read_text() + "More.\n")
    assert "not committed" in box.runner("edit", protocol, "--add", "X", rc=4).err
    assert file.read_text().endswith("More.\n")


def test_run_stops_when_the_step_is_done(box: Box) -> None:
    protocol = box.new(THREE)
    box.runner("run", protocol, "--until", "02-b", rc=0)
    state = box.state(protocol)["steps"]
    assert (state["b"]["status"], state["c"]["status"]) == ("completed", "pending")
    tip = box.git("rev-parse", protocol)
    assert "b is completed" in box.runner("run", protocol, "--until", "b", rc=0).err
    assert box.git("rev-parse", protocol) == tip
    assert "there is no step `z`" in box.runner("run", protocol, "--until", "z", rc=2).err


def test_a_step_at_a_time_stops_after_one_and_asks_at_a_terminal(box: Box) -> None:
    protocol = box.new(THREE)
    box.runner("run", protocol, "--step-at-a-time", rc=0)
    assert [one["status"] for one in box.state(protocol)["steps"].values()].count("completed") == 1
    code, _ = at_terminal(box, {b"next step?": b"no\n"}, "run", protocol, "--step-at-a-time")
    assert code == 0 and [one["status"] for one in box.state(protocol)["steps"].values()].count("completed") == 2


def test_at_a_terminal_answer_offers_to_commit_what_the_person_wrote(box: Box) -> None:
    protocol = box.new({"01-write": "kind: human\n"})
    box.runner("run", protocol, rc=3)
    (box.worktree(protocol) / "NEWS.txt").write_text("news\n")
    code, shown = at_terminal(box, {b"as yours?": b"yes\n"}, "answer", protocol, "done")
    assert code == 0 and "NEWS.txt" in shown and "committed as yours" in shown
    assert box.git("show", f"{protocol}:NEWS.txt") == "news\n"
    assert box.git("status", "--porcelain", cwd=box.worktree(protocol)) == ""
    box.runner("run", protocol, rc=0)
    box.runner("verify", protocol, rc=0)
    box.runner("merge", protocol, rc=0)
    assert (box.path / "NEWS.txt").read_text() == "news\n"


def test_an_empty_message_is_no_message_of_a_merge(box: Box) -> None:
    protocol = box.new({"01-a": command("echo a > a.txt")})
    box.runner("run", protocol, rc=0)
    before = box.git("rev-parse", "main")
    assert "the message is empty" in box.runner("merge", protocol, "--squash", "-m", " ", rc=2).err
    assert box.git("rev-parse", "main") == before


def test_a_waiting_step_of_a_person_that_was_edited_is_shown_as_it_is_now(box: Box) -> None:
    protocol = box.new({"01-look": "kind: human\n"})
    assert "for anyone: 01-look" in box.runner("run", protocol, rc=3).err
    file = box.worktree(protocol) / f".protocols/{protocol}/01-look.md"
    file.write_text("---\ntitle: Look twice\nkind: human\n---\nAt all of it.\n")
    assert "for anyone: Look twice: At all of it." in box.runner("run", protocol, rc=3).err
    assert "Look twice: At all of it." in box.runner("status", protocol, rc=0).out


def test_a_question_has_the_values_of_the_plan_s_inputs(box: Box) -> None:
    folder = box.plan({"01-ask": "kind: human"}, front='inputs: {version: "2.3"}\n')
    (folder / "01-ask.md").write_text("---\ntitle: Look\nkind: human\n---\nIs ${{ inputs.version }} good?\n")
    protocol = box.runner("new", "--plan", folder, rc=0).out.strip()
    assert "Look: Is 2.3 good?" in box.runner("run", protocol, rc=3).err
    for words in (("status",), ("status", protocol), ("show", protocol, "ask")):
        told = box.runner(*words, rc=0).out
        assert words == ("status",) or "Is 2.3 good?" in told
        assert "${{" not in told
    box.runner("verify", protocol, rc=0)


def test_a_run_stops_behind_a_step_that_was_just_added(box: Box) -> None:
    protocol = box.new(THREE)
    box.runner("edit", protocol, "--add", "Look", "--after", "a", "--run", "true", rc=0)
    box.runner("run", protocol, "--until", "look", rc=0)
    assert [step["status"] for step in box.state(protocol)["steps"].values()].count("completed") == 2
    at = box.worktree(protocol) / f".protocols/{protocol}/05-more.md"
    at.write_text("---\ntitle: More\nkind: command\nrun: 'true'\nneeds: [look]\n---\n")
    box.runner("run", protocol, "--until", "more", rc=0)
    assert box.state(protocol)["steps"]["more"]["status"] == "completed"
    assert "there is no step `moore`" in box.runner("run", protocol, "--until", "moore", rc=2).err


def test_show_has_the_steps_as_committed_edits_made_them(box: Box) -> None:
    protocol = box.new(THREE)
    box.runner("edit", protocol, "--add", "Read it over", "--after", "01", "--kind", "human", rc=0)
    box.runner("edit", protocol, "--remove", "c", rc=0)
    shown = box.runner("show", protocol, rc=0).out
    assert "0 of 3 steps done" in shown
    listed = [line.split()[:2] for line in shown.splitlines() if line.startswith("  0")]
    assert listed == [["01-a", "pending"], ["02-read-it-over", "pending"], ["03-b", "pending"]]
    assert "pending · human · attempt 1" in box.runner("show", protocol, "read-it-over", rc=0).out
    box.runner("show", protocol, "read-it-over", "--output", rc=2)


def test_show_is_as_recorded_where_an_edit_makes_no_plan(box: Box) -> None:
    protocol = box.new(THREE)
    tree = box.worktree(protocol)
    (tree / f".protocols/{protocol}/02-b.md").write_text("---\ntitle: b\nkind: nothing\n---\n")
    box.git("commit", "-qam", "broken", cwd=tree)
    assert "0 of 3 steps done" in box.runner("show", protocol, rc=0).out


def test_a_step_is_named_by_its_number(box: Box) -> None:
    protocol = box.new(THREE)
    assert "02-b of" in box.runner("show", protocol, "02", rc=0).out
    assert "03-c of" in box.runner("show", protocol, "3", rc=0).out
    told = box.runner("edit", protocol, "02", rc=0, env={"EDITOR": "sed -i s/title:.*/title:\\ Another/"}).err
    assert "02-b.md committed as yours" in told
    assert "there is no step `7`" in box.runner("edit", protocol, "7", rc=2, env={"EDITOR": "true"}).err


def test_a_persons_step_without_prose_is_asked_by_its_title_once(box: Box) -> None:
    protocol = box.new({"01-a": command("true")})
    box.runner("edit", protocol, "--add", "Read it over", "--kind", "human", rc=0)
    assert "for anyone: Read it over\n" in box.runner("run", protocol, rc=3).err


def test_the_only_step_is_not_skipped_and_a_failed_one_without_a_reason_is_said_to_have_failed(box: Box) -> None:
    protocol = box.new({"01-a": command("exit 3")})
    box.runner("run", protocol, rc=1)
    told = box.runner("skip", protocol, "a", rc=4).err
    assert "a is the only step of the plan" in told and "next: `runner cancel 1` ends the protocol" in told
    box.runner("retry", protocol, rc=0)
    box.runner("undo", protocol, rc=0)
    assert "a failed\n" in box.runner("run", protocol, rc=1).err
    assert "has failed: a failed\n" in box.runner("resume", protocol, rc=4).err


def test_the_work_that_a_skipped_step_left_on_the_branch_is_said_with_what_takes_it_back(box: Box) -> None:
    """It failed its checks, so what follows would run on it."""
    steps = {"01-a": command("echo bad > a.txt", "qa: {checks: ['false']}\n"), "02-b": command("test ! -e a.txt")}
    protocol = box.new(steps)
    box.runner("run", protocol, rc=1)
    told = box.runner("skip", protocol, "a", rc=0).err
    assert "  the work of a is still on the branch; `runner undo 1 a` reverts it\n" in told
    box.runner("undo", "1", "a", rc=0)
    assert "done" in box.runner("run", "1", rc=0).err
    other = box.new({"01-a": command("echo bad > a.txt; false"), "02-b": command("test ! -e a.txt")})
    box.runner("run", other, rc=1)
    told = box.runner("skip", other, "a", rc=0).err
    assert "still on the branch" not in told  # it failed at its work, which is nowhere
    assert "next          runner resume 2\n" in told
    box.runner("resume", other, rc=0)
    box.runner("run", other, rc=0)
