"""`runner show --output`, the last lines of a failure, and what is shown while a command runs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from runner.cli import progress
from runner.cli.progress import Live
from runner.store import workspace
from runner.store.environment import Redactor
from tests.conftest import Box, clone, command
from tests.people import at_terminal

SAY = "for i in $(seq 1 100); do echo line $i; done"


def test_show_offers_the_output_of_the_check_that_failed(box: Box, tmp_path: Path) -> None:
    go = tmp_path / "go"
    checks = f"qa: {{policy: light, checks: ['echo fine', 'echo no; test -e {go}']}}\n"
    protocol = box.new({"01-say": command("echo said", checks)})
    box.runner("run", protocol, rc=1)
    assert "  output  runner show 1 say --output --check 2\n" in box.runner("show", protocol, "say", rc=0).out
    assert box.runner("show", protocol, "say", "--output", "--check", "2", rc=0).out == "no\n"
    go.touch()
    box.runner("retry", protocol, rc=0)
    box.runner("run", protocol, rc=0)
    assert "  output  runner show 1 say --output\n" in box.runner("show", protocol, "say", rc=0).out


def test_a_failure_prints_its_last_40_lines_and_names_the_command_for_the_rest(box: Box) -> None:
    protocol = box.new({"01-say": command(f"{SAY}; exit 3")})
    told = box.runner("run", protocol, rc=1).err.splitlines()
    assert [line for line in told if line.startswith("  | ")] == [f"  | line {number}" for number in range(61, 101)]
    assert "  all of it     runner show 1 say --output" in told
    assert box.runner("show", "1", "say", "--output", rc=0).out == "".join(f"line {n}\n" for n in range(1, 101))


def test_the_command_for_the_rest_names_the_attempt_where_another_follows(box: Box) -> None:
    protocol = box.new({"01-say": command(f"echo attempt $RUNNER_ATTEMPT; {SAY}; exit 3", "on_failure: {retry: 1}\n")})
    told = box.runner("run", protocol, rc=1).err
    assert re.findall(r"runner show 1 say --output.*", told) == [
        "runner show 1 say --output --attempt 1",
        "runner show 1 say --output",
    ]
    for args, number in ((["--attempt", "1"], 1), ([], 2)):
        shown = box.runner("show", protocol, "say", "--output", *args, rc=0).out
        assert shown.startswith(f"attempt {number}\n") and shown.endswith("line 100\n")


def test_of_an_attempt_that_has_not_started_the_one_before_is_shown(box: Box) -> None:
    protocol = box.new({"01-say": command("echo attempt $RUNNER_ATTEMPT; exit 3", "on_failure: {retry: 1}\n")})
    box.runner("step", protocol)
    assert box.state(protocol)["steps"]["say"]["attempt"] == 2
    assert box.runner("show", protocol, "say", "--output", rc=0).out == "attempt 1\n"


def test_each_failed_check_prints_its_last_lines(box: Box) -> None:
    checks = f'qa: {{checks: ["true", "{SAY}; exit 1", "echo of the third; exit 2"]}}\n'
    protocol = box.new({"01-say": command("true", checks)})
    told = box.runner("run", protocol, rc=1).err.splitlines()
    assert "  | line 61" in told and "  | line 60" not in told and "  | of the third" in told
    assert [line for line in told if "all of it" in line] == ["  all of it     runner show 1 say --output --check 2"]
    shown = box.runner("show", protocol, "say", "--output", "--check", "2", rc=0).out
    assert shown.startswith("line 1\n") and shown.endswith("line 100\n")


def test_an_output_that_git_ignores_is_said_to_be_ignored(box: Box) -> None:
    box.write(".gitignore", "dist\n")
    box.commit("ignore")
    protocol = box.new(
        {"01-a": command("mkdir -p dist/x; echo a > dist/x/a.txt", "outputs: ['dist/**/*.txt', other.txt]\n")}
    )
    said = box.runner("run", protocol, rc=1).err
    assert (
        "QA: git ignores the output `dist/**/*.txt`, so no commit has it; the output `other.txt` is not there" in said
    )


def test_an_output_that_a_person_did_not_make_fails_qa_also_where_the_workspace_was_deleted(box: Box) -> None:
    protocol = box.new({"01-a": command("echo a > a.txt"), "02-b": "kind: human\noutputs: [not-there.txt]\n"})
    box.runner("run", protocol, rc=3)
    with box.session() as session:
        shutil.rmtree(workspace.place(session.project, protocol, None).work)
    box.runner("answer", protocol, "b", "done", rc=0)
    assert "QA: the output `not-there.txt` is not there" in box.runner("run", protocol, rc=1).err


def test_promised_outputs_do_not_count_as_checks(box: Box) -> None:
    checks = 'outputs: [x.txt]\nqa: {checks: ["echo the first; exit 1"]}\n'
    protocol = box.new({"01-say": command("true", checks)})
    box.runner("run", protocol, rc=1)
    assert box.runner("show", protocol, "say", "--output", "--check", "1", rc=0).out == "the first\n"


def test_of_a_step_without_a_command_its_checks_are_shown(box: Box) -> None:
    extra = 'kind: tool\ntool: echo\nwith: {text: hello}\nqa: {checks: ["echo the first", "echo the second"]}\n'
    protocol = box.new({"01-say": extra})
    box.runner("run", protocol, rc=0)
    shown = box.runner("show", protocol, "say", "--output", rc=0).out
    assert shown == "== check 1 of 01-say, attempt 1\nthe first\n== check 2 of 01-say, attempt 1\nthe second\n"
    told = box.runner("show", protocol, "say", "--output", "--json", rc=0).json()
    assert told["outputs"] == [{"check": 1, "output": "the first\n"}, {"check": 2, "output": "the second\n"}]


def test_nothing_printed_is_said(box: Box) -> None:
    protocol = box.new({"01-say": command("true")})
    box.runner("run", protocol, rc=0)
    done = box.runner("show", protocol, "say", "--output", rc=0)
    assert (done.out, done.err) == ("", "it printed nothing\n")


def test_where_the_command_printed_nothing_its_checks_that_did_are_named(box: Box) -> None:
    protocol = box.new({"01-say": command("true", "qa: {checks: ['true', 'echo why; false']}\n")})
    box.runner("run", protocol, rc=1)
    done = box.runner("show", protocol, "say", "--output", rc=0)
    assert (done.out, done.err) == ("", "it printed nothing\n  check 2       runner show 1 say --output --check 2\n")
    assert box.runner("show", "1", "say", "--output", "--check", "2", rc=0).out == "why\n"


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["say", "--output", "--check", "2"], "its QA ran 1 check"),
        (["say", "--output", "--attempt", "2"], "it is at attempt 1"),
        (["later", "--output"], "attempt 1 of later ran no command"),
        (["--output"], "next: `runner show 1 say --output`\n"),
        (["say", "--check", "1"], "--check goes with --output"),
        (["say", "--output", "--transcript"], "one at a time"),
    ],
)
def test_what_is_not_there_is_explained(box: Box, args: list[str], why: str) -> None:
    protocol = box.new({"01-say": command("true", 'qa: {checks: ["false"]}\n'), "02-later": command("true")})
    box.runner("run", protocol, rc=1)
    assert why in box.runner("show", protocol, *args, rc=2).err


def test_a_history_without_output_says_that_it_was_not_kept(box: Box) -> None:
    protocol = box.new({"01-say": command(f"{SAY}; exit 3")})
    box.runner("run", protocol, rc=1)
    box.git("update-ref", "-d", f"refs/runner/history/{protocol}")
    box.runner("verify", protocol, rc=0)
    told = box.runner("show", protocol, "say", "--output", rc=2).err
    assert "the output of say, attempt 1, was not kept here" in told and f"`runner show {protocol} say`" in told


def test_a_clone_fetches_it_at_a_yes(remote: Box) -> None:
    remote.write(".protocols/config.yaml", "publish: always\n")
    remote.commit("config")
    remote.git("push", "-q", "origin", "main")
    made = remote.new({"01-say": command("echo what was said; exit 3")})
    remote.runner("run", made, rc=1)
    other = clone(remote, "other")
    told = other.runner("show", "1", "say", "--output", rc=2).err
    assert "was not kept here" in told and f"`runner show {made} say --output --yes` fetches it from origin" in told
    assert other.runner("show", "1", "say", "--output", "--yes", rc=0).out == "what was said\n"


def test_output_cannot_steer_the_terminal(box: Box) -> None:
    say = r"printf '\033[31mred\033[0m \033]0;title\007\033[2J\r\n\033[\033[0m31m end\n'; exit 3"
    protocol = box.new({"01-say": command(say)})
    assert "\x1b" not in box.runner("run", protocol, rc=1).err
    shown = at_terminal(box, {}, "show", protocol, "say", "--output", env={"TERM": "xterm"})[1]
    assert "red \\x1b]0;title\\x07\\x1b[2J" in shown and "\x1b" not in shown and "\x07" not in shown
    in_a_file, _ = box.start("show", protocol, "say", "--output").communicate()
    assert in_a_file.startswith("\x1b[31mred\x1b[0m")  # as it was printed


def test_a_terminal_sees_the_step_its_place_and_the_last_line(box: Box) -> None:
    steps = {"01-one": command("true"), "02-two": command("echo the last line; sleep 1.5")}
    shown = at_terminal(box, {}, "run", box.new(steps), env={"TERM": "xterm"})[1]
    assert re.search(r"02-two 2/2  (<1|1) s  the last line", shown)


def test_elsewhere_there_is_a_line_now_and_then(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.3)
    protocol = box.new({"01-one": command("true", 'qa: {checks: ["echo checking; sleep 1"]}\n')})
    told = box.runner("run", protocol, rc=0).err
    assert re.search(r"^  01-one 1/1 check 1/1  (<1|1) s  checking$", told, re.MULTILINE)
    assert "checking" not in box.runner("--quiet", "run", protocol).err


def test_verbose_streams_what_is_printed(box: Box) -> None:
    protocol = box.new(
        {"01-one": command("echo of the command; printf 'no end'", 'qa: {checks: ["echo of the check"]}\n')}
    )
    told = box.runner("run", "-v", protocol, rc=0).err.splitlines()
    assert told[:5] == ["01-one 1/1", "  | of the command", "  | no end", "01-one 1/1 check 1/1", "  | of the check"]


def set_up(box: Box, line: str) -> str:
    """A protocol whose workspace is set up by `line`."""
    box.write(".protocols/config.yaml", f"workspace:\n  setup: |\n    {line}\n")
    box.commit("a setup")
    return box.new({"01-one": command("echo of the command")})


def test_a_setup_that_fails_prints_its_last_40_lines_and_names_the_file_that_has_all(box: Box) -> None:
    told = box.runner("run", set_up(box, f"{SAY}; printf '\\033[31mred\\033[2J\\n'; exit 9"), rc=1).err
    shown = [line for line in told.splitlines() if line.startswith("  | ")]
    assert shown == [*(f"  | line {number}" for number in range(62, 101)), "  | red\\x1b[2J"]
    assert "the workspace's setup failed: exit 9, `" in told
    (file,) = re.findall(r"all that it printed is in (\S+)", told)
    assert Path(file).read_text().startswith("line 1\nline 2\n")


def test_a_secret_that_a_setup_prints_is_taken_out(box: Box) -> None:
    box.env["DEPLOY_TOKEN"] = "sk-0123456789-abcdefghij"
    told = box.runner("run", "-v", set_up(box, "printf 'sk-0123456'; sleep 0.2; echo 789-abcdefghij; exit 9"), rc=1).err
    assert told.count("  | [DEPLOY_TOKEN]") == 2 and "sk-0" not in told.partition("setup\n")[2].partition("error")[0]
    (file,) = box.home.glob(".local/state/protocol-runner/*/setup-output")
    assert file.read_text() == "[DEPLOY_TOKEN]\n"


def test_a_setup_is_streamed_and_then_its_step_is(box: Box) -> None:
    told = box.runner("run", "-v", set_up(box, "echo of the setup"), rc=0).err.splitlines()
    at = told.index("setup")
    assert told[at : at + 4] == ["setup", "  | of the setup", "01-one 1/1", "  | of the command"]


def test_a_secret_is_not_streamed_either(box: Box) -> None:
    box.env["DEPLOY_TOKEN"] = "sk-0123456789-abcdefghij"
    protocol = box.new({"01-one": command("printf 'sk-0123456'; sleep 0.2; echo 789-abcdefghij")})
    told = box.runner("run", "-v", protocol, rc=0).err
    assert "  | [DEPLOY_TOKEN]" in told and "sk-0" not in told


def test_lines_that_may_begin_a_secret_of_several_are_held_back() -> None:
    shown: list[str] = []
    live = Live(Redactor({"SIGNING_KEY": "first-line\nsecond-line\nthird-line"}), lambda: 0.0, shown.append)
    for part in (b"before\nfirst-line\n", b"second-line\n", b"third-line\nafter\n"):
        live.hear("x", part)
        assert not any("-line" in line for line in shown)
    live.end()
    assert shown == ["x", "  | before", "  | [SIGNING_KEY]", "  | after"]


@pytest.mark.parametrize("verbose", [False, True])
def test_of_a_line_whose_beginning_was_dropped_nothing_is_shown(verbose: bool) -> None:
    """A secret that begins in the part that was dropped is not recognized in the rest."""
    shown: list[str] = []
    live = Live(Redactor({"DEPLOY_TOKEN": "t" * 40_000 + "-the-end"}), lambda: 0.0, shown.append if verbose else None)
    for part in (b"x" * 50_000, b"t" * 40_000, b"-the", b"-end\nafter\n"):
        live.hear("x", part)
        assert "the-end" not in live.now()
    live.end()
    assert not any("the-end" in line for line in shown)
    assert not verbose or shown[-1] == "  | after"


def test_the_last_line_is_what_a_progress_bar_shows_last() -> None:
    live = Live(Redactor({}), lambda: 0.0)
    live.hear("x", b"one\n 1%\r 2%\r100%\r\nnot whole")
    assert live.now() == "x  <1 s  100%"
    live.end()
    assert live.now() == ""


def edited(box: Box, protocol: str, name: str) -> None:
    tree = box.worktree(protocol)
    file = tree / f".protocols/{protocol}/{name}"
    file.write_text(f"{file.read_text()}\nMore.\n")
    box.git("add", "-A", cwd=tree)
    box.git("commit", "-qm", "edit", cwd=tree)


def test_what_a_check_prints_when_it_runs_again_follows_what_it_printed(remote: Box) -> None:
    remote.write(".protocols/config.yaml", "publish: always\n")
    remote.commit("config")
    remote.git("push", "-q", "origin", "main")
    protocol = remote.new({"01-say": command("true", 'approval: after\nqa: {checks: ["date +%s%N"]}\n')})
    remote.runner("run", protocol, rc=3)
    other = clone(remote, "other")
    other.runner("sync", protocol, rc=0)
    name = f"refs/runner/history/{protocol}:output/say.1.check-1.txt"
    before = remote.git("show", name)
    edited(remote, protocol, "01-say.md")
    remote.runner("run", protocol, rc=3)
    first, second = remote.git("show", name).split("\n== again ==\n")
    assert first == before and second.strip().isdigit()
    other.runner("sync", protocol, rc=0)
    assert second in other.runner("show", protocol, "say", "--output", "--check", "1", "--yes", rc=0).out


def test_a_check_that_fails_without_a_word_is_not_shown_with_what_it_printed_before(box: Box) -> None:
    seen = box.path.parent / "seen"
    check = f"test -e {seen} && exit 1; touch {seen}; echo ALL GOOD"
    protocol = box.new({"01-say": command("true", f'approval: after\nqa: {{checks: ["{check}"]}}\n')})
    box.runner("run", protocol, rc=3)
    edited(box, protocol, "01-say.md")
    assert "ALL GOOD" not in box.runner("run", protocol, rc=1).err.replace(check, "")
    assert "ALL GOOD" not in box.runner("show", protocol, "say", "--output", "--check", "1", rc=0).out


def test_a_promised_file_that_is_missing_is_not_shown_with_what_the_command_printed(box: Box) -> None:
    protocol = box.new({"01-say": command("echo of the command", 'outputs: [x.txt]\nqa: {checks: ["true"]}\n')})
    told = box.runner("run", protocol, rc=1).err
    assert "x.txt" in told and "  | of the command" not in told


def test_a_check_may_be_called_as_a_review_is(box: Box) -> None:
    protocol = box.new({"01-say": command("echo of the command", 'qa: {checks: ["review", "echo second; exit 1"]}\n')})
    told = box.runner("run", protocol, rc=1).err
    assert "  | second" in told and "  | of the command" not in told
    assert box.runner("show", protocol, "say", "--output", "--check", "2", rc=0).out == "second\n"


def test_qa_by_hand_of_a_step_that_was_removed_and_put_back(box: Box) -> None:
    checked = command("true", 'qa: {checks: ["true"]}\n')
    protocol = box.new({"01-a": checked, "02-b": command("true"), "03-c": "kind: human\n"})
    box.runner("run", protocol)
    tree = box.worktree(protocol)
    file = tree / f".protocols/{protocol}/01-a.md"
    text = file.read_text()
    for there in (False, True):
        file.write_text(text) if there else file.unlink()
        box.git("add", "-A", cwd=tree)
        box.git("commit", "-qm", "edit", cwd=tree)
        if not there:
            box.runner("run", protocol, rc=3)
    assert "PASS" in box.runner("qa", protocol, "a", rc=0).out


def test_a_secret_that_begins_with_another_one_is_not_streamed_in_parts() -> None:
    told: list[str] = []
    redactor = Redactor({"A_TOKEN": "abc12345", "B_TOKEN": "abc12345-more-secret"})
    live = Live(redactor, lambda: 0.0, told.append)
    live.hear("01-a", b"it is abc12345")
    live.hear("01-a", b"-more-secret\n")
    live.end()
    assert len(told) == 2 and "more-secret" not in told[1]
