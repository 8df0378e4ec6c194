"""`runner why`: each way that a line can have come here, in real repositories; that it only reads, and runs nothing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_reading import HEAVY, everything, matches
from tests.conftest import Box, command, make_box
from tests.executor.minds import ENGINE, agent, ask, finish, mind, say, write
from tests.people import governed, person

CODE = (
    "def limit(rate):\n    return min(rate, CEILING_OF_THE_WHOLE_TEAM)\n\n\ndef ceiling():\n    return 42 * 1000 + 7\n"
)


def why(box: Box, place: str, cwd: Path | None = None) -> list[dict[str, Any]]:
    """What is told of lines, held to the schema."""
    done = box.runner("why", place, "--json", cwd=cwd)
    told = done.json()
    matches("why", told)
    origins: list[dict[str, Any]] = told["origins"]
    assert done.code == (5 if any(origin["kind"] == "unknown" for origin in origins) else 0)
    return origins


def one(box: Box, place: str, cwd: Path | None = None) -> dict[str, Any]:
    """What is told of lines that came together."""
    (told,) = why(box, place, cwd)
    return told


@pytest.fixture
def written(box: Box) -> str:
    """A protocol in which a model wrote lib.py and a command file.txt, completed; the folder of the checkout is on main."""
    with mind(
        box, say(("read_file", {"path": "src/app.py"}), text="Looking."), say(write("lib.py", CODE)), finish("limited")
    ):
        qa = 'outputs: [lib.py]\nqa: {checks: ["grep -q 42 lib.py"]}\n'
        protocol = box.new({"01-limit": agent(qa), "02-list": command("seq 100 120 > file.txt")}, title="Limit it")
        box.runner("run", protocol, rc=0)
    return protocol


def squash(box: Box, protocol: str) -> str:
    """Merge as forges squash: one commit of a person's on main, the branch deleted."""
    box.git("merge", "-q", "--squash", protocol)
    box.git("commit", "-qm", "Limit it (#12)")
    box.git("worktree", "remove", "--force", box.worktree(protocol))
    box.git("branch", "-qD", protocol)
    return box.git("rev-parse", "HEAD").strip()


def test_on_the_branch_and_merged_step_model_turn_checks_and_cost_are_told(box: Box, written: str) -> None:
    tree = box.worktree(written)
    told = one(box, "lib.py:2", tree)
    assert (told["kind"], told["protocol"], told["step"], told["attempt"]) == ("step", written, "limit", 1)
    assert told["commit"] == box.git("log", "-1", "--format=%H", written, "--", "lib.py").strip()
    assert told["engine"] == "gemini:gemini-2.5-flash" and told["actor"] == "alice@example.test"
    said = told["transcript"]
    assert (said["file"], said["turn"], said["tool"], said["model"]) == (
        "runs/limit.1.jsonl", 2, "write_file", "gemini-2.5-flash",
    )  # fmt: skip
    assert "    return min(rate, CEILING_OF_THE_WHOLE_TEAM)" in said["text"].splitlines()
    assert [(check["check"], check["code"]) for check in told["checks"]] == [
        ("outputs: lib.py", 0),
        ("grep -q 42 lib.py", 0),
    ]
    assert told["cost"]["input_tokens"] == 300 and told["cost"]["output_tokens"] == 60
    assert told["step_file"] == f".protocols/{written}/01-limit.md" and told["prose"] == "Do it."
    assert told["text"] == ["    return min(rate, CEILING_OF_THE_WHOLE_TEAM)"]
    shown = box.runner("why", "lib.py:2", cwd=tree, rc=0).out
    for part in (
        "step       01-limit of",
        "attempt 1",
        "write_file",
        "grep -q 42 lib.py  passed",
        "300 tokens in, 60 out",
    ):
        assert part in shown, part
    commanded = one(box, "file.txt:3-5", tree)
    assert (commanded["step"], commanded["first"], commanded["last"]) == ("list", 3, 5)
    assert commanded["transcript"] is None and commanded["executor"] == "host" and commanded["step_kind"] == "command"
    box.runner("merge", written, rc=0)
    assert (one(box, "lib.py:6")["step"], one(box, "lib.py:6")["came_in"]) == ("limit", None)
    assert one(box, "src/app.py:1")["protocol"] is None  # nobody's but a person's
    assert one(box, "README.md:1")["kind"] == "person"


def test_through_a_squash_whose_branch_is_gone(box: Box, written: str) -> None:
    commit = box.git("log", "-1", "--format=%H", written, "--", "lib.py").strip()
    made = squash(box, written)
    told = one(box, "lib.py:2")
    assert (told["kind"], told["step"], told["commit"], told["came_in"]) == ("step", "limit", commit, made)
    assert told["transcript"]["turn"] == 2 and told["checks"] and told["cost"]["input_tokens"] == 300
    assert one(box, "file.txt:1")["step"] == "list"
    # Several places of one squash, with other lines between them.
    lines = (box.path / "file.txt").read_text().splitlines()
    box.write("file.txt", "\n".join([*lines[:2], "by hand", *lines[2:]]) + "\n")
    box.commit("between")
    assert [(part["kind"], part["step"]) for part in why(box, "file.txt:1-5")] == [
        ("step", "list"), ("person", None), ("step", "list"),
    ]  # fmt: skip


def test_commits_that_a_file_says_to_pass_over_are_told(box: Box) -> None:
    """Who can push can list a commit of theirs there; the line would be told as the step's that it changed."""
    protocol = box.new({"01-list": command("seq 100 120 > file.txt")})
    box.runner("run", protocol, rc=0)
    box.runner("merge", protocol, rc=0)
    lines = (box.path / "file.txt").read_text()
    box.write("file.txt", lines.replace("101", "1013"))
    box.write(".git-blame-ignore-revs", box.commit("by hand") + "\n")
    box.commit("passed over")
    box.git("config", "blame.ignoreRevsFile", ".git-blame-ignore-revs")
    assert [told["kind"] for told in why(box, "file.txt:1-3")] == ["step", "person", "step"]


@pytest.mark.slow
def test_a_squash_whose_message_ends_as_a_transitions_does(box: Box, written: str) -> None:
    last = box.git("log", "-1", "--format=%B", written)
    box.git("merge", "-q", "--squash", written)
    box.git("commit", "-qF", "-", data=f"Limit it (#12)\n\n* {last}")
    assert one(box, "lib.py:2")["step"] == "limit"
    assert one(box, "lib.py:2")["came_in"] == box.git("rev-parse", "HEAD").strip()


def test_a_squash_without_its_history_says_what_brings_it(box: Box, written: str, tmp_path: Path) -> None:
    squash(box, written)
    box.git("clone", "-q", box.path, tmp_path / "other")
    told = one(box, "lib.py:2", tmp_path / "other")
    assert (told["kind"], told["protocol"], told["step"]) == ("unknown", written, None)
    assert f"`runner verify {written} --yes`" in told["note"]
    box.runner("verify", written, "--yes", cwd=tmp_path / "other", rc=0)
    assert one(box, "lib.py:2", tmp_path / "other")["step"] == "limit"


@pytest.mark.slow
def test_where_it_was_rebased(box: Box, written: str) -> None:
    box.write("other.txt", "meanwhile\n")
    box.commit("meanwhile")
    tree = box.worktree(written)
    box.git("rebase", "-q", "main", cwd=tree)
    copied = box.git("log", "-1", "--format=%H", written, "--", "lib.py").strip()
    box.git("merge", "-q", "--ff-only", written)
    box.git("worktree", "remove", "--force", tree)
    box.git("branch", "-qD", written)
    told = one(box, "lib.py:2")
    assert (told["step"], told["commit"], told["came_in"]) == ("limit", copied, None)
    assert told["transcript"]["turn"] == 2


def test_a_moved_file_a_moved_block_and_a_file_with_an_odd_name(box: Box, written: str) -> None:
    squash(box, written)
    box.git("mv", "lib.py", 'li "b".py')
    box.commit("renamed")
    told = one(box, 'li "b".py:2')
    assert (told["step"], told["path"], told["line"]) == ("limit", "lib.py", 2)
    text = (box.path / 'li "b".py').read_text()
    part = text.split("\n\n\n")[0]
    box.write('li "b".py', text.removeprefix(part))
    box.write("src/app.py", f"print('hello')\n\n\n{part}\n")
    box.commit("a block goes elsewhere")
    told = one(box, "src/app.py:5")
    assert (told["step"], told["path"], told["line"]) == ("limit", "lib.py", 2)


def test_a_line_that_a_step_copied_is_the_steps(box: Box) -> None:
    """Not by whom the same line stood elsewhere before: a restored line of code often has a twin."""
    twin = "        return the_result_of(sorted(arguments.items()))\n"
    box.write(
        "keys.py",
        f"def one(arguments):\n    if arguments:\n{twin}\n\ndef two(arguments):\n    if arguments:\n        pass\n",
    )
    box.commit("by hand")
    protocol = box.new({"01-fix": command("sed -i 8d keys.py && sed -n 3p keys.py >> keys.py && cp keys.py other.py")})
    box.runner("run", protocol, rc=0)
    assert one(box, "keys.py:3")["kind"] == "person"
    for place in ("keys.py:8", "other.py:8", "other.py:3"):
        told = one(box, place, cwd=box.worktree(protocol))
        assert (told["kind"], told["step"], told["line"]) == ("step", "fix", int(place[-1]))
    squash(box, protocol)
    assert one(box, "keys.py:8")["step"] == "fix" and one(box, "keys.py:3")["kind"] == "person"
    box.write("keys.py", (box.path / "keys.py").read_text() + twin)
    assert one(box, "keys.py:9")["kind"] == "uncommitted"


def test_a_later_edit_by_hand_is_said_and_what_stood_there_before(box: Box, written: str) -> None:
    squash(box, written)
    box.write("lib.py", CODE.replace("42 * 1000 + 7", "43 * 1000 + 7"))
    box.commit("One more", cwd=None)
    edit = box.git("rev-parse", "HEAD").strip()
    told = one(box, "lib.py:6")
    assert (told["kind"], told["commit"], told["author"], told["protocol"]) == (
        "person", edit, "Alice <alice@example.test>", None,
    )  # fmt: skip
    (before,) = told["replaced"]
    assert (before["kind"], before["step"], before["first"]) == ("step", "limit", 6)
    assert before["text"] == ["    return 42 * 1000 + 7"] and before["transcript"]["turn"] == 2
    # Once more, and not committed yet; what is quite another line replaced nothing of theirs.
    box.write("lib.py", CODE.replace("42 * 1000 + 7", "44 * 1000 + 7") + "# the end\n")
    told = one(box, "lib.py:6")
    assert (told["kind"], told["commit"], [one["step"] for one in told["replaced"]]) == ("uncommitted", None, ["limit"])
    told = one(box, "lib.py:7")
    assert (told["kind"], told["replaced"]) == ("uncommitted", [])
    shown = box.runner("why", "lib.py:6", rc=0).out
    assert "by hand    not committed yet" in shown and "before that, lines 6-6, by\n    step       01-limit" in shown


def test_an_edit_by_hand_on_the_branch_and_a_step_of_a_persons(box: Box) -> None:
    protocol = box.new({"01-a": command("seq 10 > a.txt"), "02-mine": "kind: human\n", "03-c": command("true")})
    box.runner("step", protocol, rc=0)
    tree = box.worktree(protocol)
    (tree / "a.txt").write_text((tree / "a.txt").read_text().replace("5\n", "five\n"))
    box.commit("between steps", cwd=tree)
    box.runner("step", protocol, rc=3)
    (tree / "b.txt").write_text("a person's own work\n")
    box.commit("mine", cwd=tree)
    assert (one(box, "b.txt:1", tree)["protocol"], one(box, "b.txt:1", tree)["step"]) == (
        protocol,
        None,
    )  # not ended yet
    box.runner("answer", protocol, "done", rc=0)
    box.runner("run", protocol, rc=0)
    edited, work = one(box, "a.txt:5", tree), one(box, "b.txt:1", tree)
    assert (edited["kind"], edited["protocol"], edited["step"]) == ("person", protocol, None)
    assert (work["kind"], work["protocol"], work["step"]) == ("person", protocol, "mine")
    squash(box, protocol)
    edited, work = one(box, "a.txt:5"), one(box, "b.txt:1")
    assert (edited["kind"], edited["protocol"], edited["step"]) == ("person", protocol, None)
    assert (work["kind"], work["protocol"], work["step"]) == ("person", protocol, "mine")
    assert "by hand    Alice <alice@example.test>, for 02-mine of 0001-a-plan" in box.runner("why", "b.txt:1", rc=0).out


@pytest.mark.slow
def test_a_squash_onto_a_base_that_went_on_and_two_of_them(box: Box, written: str) -> None:
    box.write("src/app.py", "print('hello')\nprint('meanwhile')\n")
    box.commit("meanwhile")
    first = squash(box, written)
    other = box.new({"01-b": command("sed -i s/110/one-hundred-and-ten/ file.txt")}, title="Another")
    box.runner("run", other, rc=0)
    second = squash(box, other)
    told = why(box, "file.txt:10-12")
    assert [(part["protocol"], part["step"], part["came_in"]) for part in told] == [
        (written, "list", first), (other, "b", second), (written, "list", first),
    ]  # fmt: skip
    assert one(box, "src/app.py:2")["kind"] == "person"


def test_what_a_retry_wrote_and_what_undo_brought_back(box: Box) -> None:
    steps = {
        "01-a": command(
            "echo $RUNNER_ATTEMPT > a.txt; test $RUNNER_ATTEMPT -gt 1", "on_failure: {retry: 1, then: fail}\n"
        ),
        "02-b": command("echo gone > a.txt"),
    }
    protocol = box.new(steps)
    box.runner("run", protocol)
    tree = box.worktree(protocol)
    assert (one(box, "a.txt:1", tree)["step"], one(box, "a.txt:1", tree)["text"]) == ("b", ["gone"])
    box.runner("undo", protocol, rc=0)
    told = one(box, "a.txt:1", tree)
    assert (told["text"], told["step"], told["attempt"]) == (["2"], "a", 2)


def test_a_line_that_a_later_attempt_left_has_the_checks_that_passed(box: Box, tmp_path: Path) -> None:
    go, check = tmp_path / "go", "qa: {policy: light, checks: [%s]}\n"
    protocol = box.new({"01-a": command("echo hello > a.txt", check % f"test -e {go}")})
    box.runner("run", protocol, rc=1)
    assert [entry["code"] for entry in one(box, "a.txt:1", box.worktree(protocol))["checks"]] == [1]
    go.touch()
    box.runner("retry", protocol, rc=0)
    box.runner("run", protocol, rc=0)
    box.runner("merge", protocol, rc=0)
    told = one(box, "a.txt:1")
    assert (told["attempt"], [(entry["code"], entry["attempt"]) for entry in told["checks"]]) == (1, [(0, 2)])
    assert f"test -e {go}  passed in attempt 2" in box.runner("why", "a.txt:1", rc=0).out


def test_a_line_that_undo_brought_back_has_the_checks_of_then(box: Box, tmp_path: Path) -> None:
    stop, check = tmp_path / "stop", "qa: {policy: light, checks: [%s]}\n"
    protocol = box.new({"01-a": command("echo hello > a.txt", check % f"test ! -e {stop}"), "02-b": command("true")})
    box.runner("step", protocol, rc=0)
    box.runner("step", protocol, rc=0)
    passed = box.state(protocol)["revision"]
    stop.touch()
    box.runner("retry", protocol, "--step", "a", rc=0)
    box.runner("run", protocol, rc=1)
    tree = box.worktree(protocol)
    assert [entry["code"] for entry in one(box, "a.txt:1", tree)["checks"]] == [1]
    box.runner("undo", f"{protocol}@{passed}", rc=0)
    assert [(entry["code"], entry["attempt"]) for entry in one(box, "a.txt:1", tree)["checks"]] == [(0, 1)]


def test_what_is_done_again_after_an_undo_has_its_checks_and_its_approval(tmp_path: Path) -> None:
    alice = person(tmp_path, "alice")
    box = governed(tmp_path / "repo", [alice])
    header = "outputs: [d.txt]\napproval: before\n"
    protocol = box.new({"01-a": command("echo deployed > d.txt; echo n=1 > $RUNNER_RESULT", header)}, title="Ship it")
    for again in (False, True):
        box.runner("run", protocol, rc=3)
        box.runner("approve", protocol, "--yes", env=alice.env, rc=0)
        box.runner("run", protocol, rc=0)
        if not again:
            box.runner("undo", f"{protocol}@2", rc=0)
    told = one(box, "d.txt:1", box.worktree(protocol))
    assert told["attempt"] == box.state(protocol)["steps"]["a"]["attempt"] == 2
    assert ([check["check"] for check in told["checks"]], told["executor"]) == (["outputs: d.txt"], "host")
    assert [word["kind"] for word in told["approvals"]] == ["step"]
    page = box.runner("audit", protocol, "-o", "-", rc=0).out
    assert "attempt 2 · qa light · host" in page and "<td>outputs: d.txt</td>" in page


def test_a_step_that_left_the_plan_and_came_back_has_its_new_attempts_approval(tmp_path: Path) -> None:
    alice = person(tmp_path, "alice")
    box = governed(tmp_path / "repo", [alice])
    run = "echo deployed > d.txt; exit $(($RUNNER_ATTEMPT < 2))"
    protocol = box.new(
        {"01-a": command(run, "approval: before\n"), "02-b": "kind: human\nneeds: []\n"}, title="Ship it"
    )
    box.runner("run", protocol, rc=3)
    box.runner("approve", protocol, "--yes", env=alice.env, rc=0)
    box.runner("run", protocol, rc=1)
    file = box.worktree(protocol) / f".protocols/{protocol}/01-a.md"
    text = file.read_text()
    file.unlink()
    box.runner("resume", protocol, rc=0)
    box.runner("run", protocol, rc=3)
    file.write_text(text)
    box.runner("run", protocol, rc=3)
    box.runner("approve", protocol, "--yes", env=alice.env, rc=0)
    box.runner("run", protocol, rc=3)
    told = one(box, "d.txt:1", box.worktree(protocol))
    assert (told["attempt"], [word["kind"] for word in told["approvals"]]) == (2, ["step"])


def test_who_approved_what_and_when(tmp_path: Path) -> None:
    alice = person(tmp_path, "alice")
    box = governed(tmp_path / "repo", [alice])
    protocol = box.new({"01-a": command("echo deployed > d.txt", "approval: before\n")}, title="Ship it")
    box.runner("run", protocol, rc=3)
    box.runner("approve", protocol, "-m", "it does what the ticket says", "--yes", env=alice.env, rc=0)
    box.runner("run", protocol, rc=0)
    told = one(box, "d.txt:1", box.worktree(protocol))
    (word,) = told["approvals"]
    assert (word["kind"], word["decision"], word["by"]) == ("step", "approved", ["alice@example.test"])
    assert word["reasons"] == ["it does what the ticket says"] and word["time"].endswith("Z")
    squash(box, protocol)
    assert one(box, "d.txt:1")["approvals"] == [word]
    shown = box.runner("why", "d.txt:1", rc=0).out
    assert "approval   step a approved by alice@example.test" in shown and "it does what the ticket says" in shown


@pytest.mark.slow
def test_work_of_an_attempt_that_waited_in_between(box: Box) -> None:
    first, second = say(write("a.txt", "first\n"), ask("Which colour?")), say(write("b.txt", "blue\n"))
    with mind(box, first, second, finish()):
        protocol = box.new({"01-x": agent()})
        box.runner("run", protocol, rc=3)
        tree = box.worktree(protocol)
        told = one(box, "a.txt:1", tree)
        assert (told["step"], told["attempt"], told["transcript"]["turn"]) == ("x", 1, 1)
        box.runner("answer", protocol, "Blue.", rc=0)
        box.runner("run", protocol, rc=0)
    squash(box, protocol)
    early, late = one(box, "a.txt:1"), one(box, "b.txt:1")
    assert [(said["step"], said["transcript"]["turn"]) for said in (early, late)] == [("x", 1), ("x", 2)]
    assert early["commit"] != late["commit"] and early["cost"] == late["cost"]


@pytest.mark.slow
def test_what_only_the_squash_itself_has_is_by_hand(box: Box, written: str) -> None:
    box.git("merge", "-q", "--squash", written)
    box.write("lib.py", CODE + "import evil\n")
    box.commit("Limit it (#12)")
    assert [(part["kind"], part["step"]) for part in why(box, "lib.py:6-7")] == [("step", "limit"), ("person", None)]


@pytest.mark.slow
def test_a_plan_that_a_model_wrote(box: Box) -> None:
    step = {"slug": "fix", "title": "Fix it", "kind": "command", "run": "make", "prose": "Mend the sign of the sum."}
    plan = {"title": "Add adds", "prose": "It subtracts.", "acceptance": [], "steps": [step]}
    with mind(box, say(text=json.dumps(plan))):
        protocol = box.runner("new", "Add adds", "--engine", ENGINE, rc=0).out.strip()
    told = one(box, f".protocols/{protocol}/01-fix.md:6", box.worktree(protocol))
    assert (told["kind"], told["engine"], told["text"]) == ("plan", ENGINE, ["Mend the sign of the sum."])
    assert (told["transcript"]["file"], told["transcript"]["turn"]) == ("runs/plan.1.jsonl", 1)
    assert told["cost"]["input_tokens"] == 100


@pytest.mark.slow
@pytest.mark.parametrize("form", ["sha1", "sha256"])
def test_in_a_bare_repository_and_with_other_object_ids(tmp_path: Path, form: str) -> None:
    box = make_box(tmp_path / "repo", f"--object-format={form}")
    protocol = box.new({"01-a": command("seq 3 > a.txt")})
    box.runner("run", protocol, rc=0)
    box.runner("merge", protocol, rc=0)
    assert one(box, "a.txt:2")["step"] == "a"
    box.git("clone", "-q", "--bare", box.path, tmp_path / "bare.git")
    assert one(box, "a.txt:2", tmp_path / "bare.git")["step"] == "a"


@pytest.mark.slow
def test_lines_of_the_plan_and_of_the_record(box: Box, written: str) -> None:
    squash(box, written)
    plan, log = one(box, f".protocols/{written}/01-limit.md:2"), one(box, f".protocols/{written}/log.md:1")
    assert (plan["kind"], plan["protocol"], plan["actor"]) == ("plan", written, "alice@example.test")
    assert (log["kind"], log["events"][0]) == ("record", f"created {written}")


@pytest.mark.slow
def test_a_transcript_that_is_not_the_one_that_was_named_is_not_shown(box: Box, written: str) -> None:
    ref = f"refs/runner/history/{written}"
    forged = box.git("show", f"{ref}:runs/limit.1.jsonl").replace("Looking.", "Innocent.")
    blob = box.git("hash-object", "-w", "--stdin", data=forged).strip()
    runs = box.git("mktree", data=f"100644 blob {blob}\tlimit.1.jsonl\n").strip()
    tree = box.git("mktree", data=f"040000 tree {runs}\truns\n").strip()
    box.git(
        "update-ref", ref, box.git("commit-tree", tree, "-p", ref, "-p", written, "-m", f"{written}: history").strip()
    )
    said = one(box, "lib.py:2", box.worktree(written))["transcript"]
    assert said["turn"] is None and "the one in this clone is not the one that the record names" in said["note"]


@pytest.mark.slow
def test_a_commit_that_only_says_it_is_a_transition_is_a_persons(box: Box, written: str) -> None:
    box.git("merge", "-q", "--squash", written)
    box.git("commit", "-qm", "squashed")
    message = box.git("log", "--format=%B", "--grep=step-finished limit", written)
    box.write("lib.py", CODE + "import evil\n")
    box.git("add", "-A")
    box.git("commit", "-qF", "-", data=message)
    told = one(box, "lib.py:7")
    assert (told["kind"], told["step"], told["protocol"]) == ("person", None, None)


@pytest.mark.slow
def test_a_shallow_clone_says_where_it_ends(box: Box, written: str, tmp_path: Path) -> None:
    box.runner("merge", written, rc=0)
    box.git("clone", "-q", "--depth", "1", f"file://{box.path}", tmp_path / "other")
    told = one(box, "lib.py:2", tmp_path / "other")
    assert told["kind"] == "unknown" and "--unshallow" in told["note"]


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("lib.py", "names no line"),
        ("lib.py:0", "names no line"),
        ("lib.py:9-3", "names no line"),
        ("README.md:99", "has only 1 line"),
        ("README.md:1-4", "the file has 1 lines"),
        ("nothing.py:1", "nothing.py"),
        ("../outside.py:1", "not in this repository"),
    ],
)
def test_what_cannot_be_asked(box: Box, place: str, said: str) -> None:
    box.write("new.py", "x\n")
    wrong = box.runner("why", place, rc=2)
    assert said in wrong.err and wrong.out == ""


def test_a_place_is_seen_from_the_folder_one_is_in(box: Box) -> None:
    assert one(box, "app.py:1", box.path / "src")["path"] == "src/app.py"
    assert one(box, "../README.md:1", box.path / "src")["path"] == "README.md"


def test_nothing_of_the_repository_runs_nothing_is_written_and_nothing_heavy_is_loaded(
    box: Box, written: str, tmp_path: Path
) -> None:
    squash(box, written)
    canary = tmp_path / "canary"
    for key in (
        "diff.evil.textconv",
        "diff.evil.command",
        "filter.evil.clean",
        "core.fsmonitor",
        "core.pager",
        "diff.external",
    ):
        box.git("config", key, f"touch {canary}; cat")
    box.write(".git/info/attributes", "* diff=evil filter=evil\n")
    environ = {**box.environment(), "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run(
        [sys.executable, "-m", "runner", "status"], cwd=box.path, env=environ, check=True
    )  # git's version is remembered
    before = everything(box)
    box.runner("why", "lib.py:2", rc=0)
    box.runner("why", "lib.py:2", "--json", rc=0)
    _, loaded = box.loaded("why", "lib.py:2")
    assert "runner.app.why" in loaded and sorted(loaded & set(HEAVY)) == ["decimal"]  # it adds up what was spent
    assert not canary.exists() and everything(box) == before
    box.git("blame", "lib.py", check=False)
    assert canary.exists()  # it would have run


@pytest.mark.slow
@pytest.mark.no_agreement("the record is forged")
def test_a_record_of_nonsense_is_no_crash(box: Box) -> None:
    protocol = box.new({"01-a": command("seq 3 > a.txt", "outputs: [a.txt]\n")})
    box.runner("run", protocol, rc=0)
    tree = box.worktree(protocol)
    folder = tree / f".protocols/{protocol}"
    log, state = (folder / "log.md").read_text(), (folder / "state.json").read_text()
    nonsense = [
        "many",
        '"1e999999999"',
        '{"usd": "1e999999999", "seconds": -1}',
        "[[1]]",
        "null",
        "1e300",
        "[" * 500 + "]" * 500,
    ]
    for number, value in enumerate(nonsense):
        forged = re.sub(
            r'"(attempt|spent|evidence|start|transcript|artifacts)":(?:"[^"]*"|[0-9]+|\{[^{}]*\}|\[[^][]*\])',
            rf'"\1":{value}',
            log,
        )
        assert forged != log
        (folder / "log.md").write_text(forged)
        (folder / "state.json").write_text(state.replace('"attempt": 1', f'"attempt": {number or 10**30}'))
        box.commit("nonsense", cwd=tree)
        assert box.runner("why", "a.txt:1-3", cwd=tree).code in (0, 5), value
        assert box.runner("audit", protocol, "-o", "page.html", rc=4).out


def test_of_a_command_that_cost_nothing_no_cost_is_told(box: Box) -> None:
    protocol = box.new({"01-a": command("echo one > a.txt")})
    box.runner("run", protocol, rc=0)
    told = box.runner("why", "a.txt:1", cwd=box.worktree(protocol), rc=0).out
    assert "  step       01-a" in told and "  cost" not in told


def test_where_a_call_wrote_a_part_of_the_line_why_says_no_more_than_it_knows(box: Box) -> None:
    part = {"path": "a.txt", "edits": [{"old": "uno", "new": "one"}]}
    with mind(box, say(write("a.txt", "number uno\n")), say(("edit_file", part)), finish()):
        protocol = box.new({"01-a": agent()})
        box.runner("run", protocol, rc=0)
    told = box.runner("why", "a.txt:1", cwd=box.worktree(protocol), rc=0).out
    assert "no call has the whole line: a command wrote it, or an edit of a part of it" in told
