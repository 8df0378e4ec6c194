"""What issue 01 promises of a step from its plan to its commit, each sentence through the command line as a user has it."""

from __future__ import annotations

import ast
import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import Box, command, mostly_slow, slack

ROOT = Path(__file__).parents[1]


def configure(box: Box, text: str, **files: str) -> None:
    """Write the trusted branch's config.yaml, and other files beside it."""
    box.write(".protocols/config.yaml", text)
    for path, content in files.items():
        box.write(path, content)
    box.commit("configure")


# --- results, references, artifacts ----------------------------------------------------------------------------------


def test_a_result_reaches_later_commands_and_tools(box: Box) -> None:
    name = box.new(
        {
            "01-context": command('printf "text=two words\\nother_key=a=b\\n" > "$RUNNER_RESULT"'),
            "02-use": command('printf "%s|%s|%s|%s" "$RUNNER_STEPS_CONTEXT_TEXT" "$RUNNER_STEPS_CONTEXT_OTHER_KEY"'
                              ' "$RUNNER_INPUT_VERSION" "$RUNNER_ATTEMPT" > used'),
            "03-say": "kind: tool\ntool: echo\nwith: {text: 'v${{ inputs.version }}: ${{ steps.01-context.result.text }}'}",
        },
        front="inputs: {version: 3}\n",
    )  # fmt: skip
    box.runner("run", name, rc=0)
    state = box.state(name)
    assert state["steps"]["context"]["result"] == {"other_key": "a=b", "text": "two words"}
    assert state["steps"]["say"]["result"] == {"text": "v3: two words"}
    assert box.git("show", f"{name}:used") == "two words|a=b|3|1"


@pytest.mark.parametrize("left", ["no equals sign", "1=a", "a b=c"])
def test_a_result_that_is_none_fails_the_attempt(box: Box, left: str) -> None:
    name = box.new({"01-a": command(f'echo "{left}" > "$RUNNER_RESULT"; echo work > file')})
    box.runner("run", name, rc=1)
    assert "key=value" in box.state(name)["steps"]["a"]["reason"]
    assert box.git("show", f"refs/runner/attempts/{name}/a.1:file") == "work\n"


def test_outputs_are_artifacts_with_their_digests(box: Box) -> None:
    name = box.new({"01-a": command("mkdir -p out/deep; echo 1 > out/one; echo 2 > out/deep/two", "outputs: [out/**]")})
    box.runner("run", name, rc=0)
    found = box.state(name)["artifacts"]
    assert [(one["path"], one["step"], one["attempt"]) for one in found] == [
        ("out/deep/two", "a", 1),
        ("out/one", "a", 1),
    ]
    assert all(set(one) == {"id", "name", "kind", "path", "digest", "time", "step", "attempt"} for one in found)
    told = subprocess.run(["sha256sum"], input=b"1\n", capture_output=True).stdout.decode()
    assert found[1]["digest"] == f"sha256:{told.split()[0]}"


def test_an_output_is_none_of_the_protocol_s_own_files(box: Box) -> None:
    protocol = box.new(
        {
            "01-a": command("echo a > a.md", "outputs: ['**/*.md']\n"),
            "02-b": command("true", "outputs: ['**/0?-*.md']\n"),
        }
    )
    box.runner("step", protocol, rc=0)
    assert [one["path"] for one in box.state(protocol)["artifacts"]] == ["README.md", "a.md"]
    box.runner("run", protocol, rc=1)
    assert "0?-*.md" in box.state(protocol)["steps"]["b"]["reason"]
    box.runner("verify", protocol, rc=0)


def test_an_output_that_is_not_there_fails_qa_and_keeps_the_work(box: Box) -> None:
    name = box.new({"01-a": command("echo 1 > other", "outputs: [promised.txt]")})
    box.runner("run", name, rc=1)
    assert "promised.txt" in box.state(name)["steps"]["a"]["reason"]
    assert box.git("show", f"{name}:other") == "1\n"


def test_evidence_is_command_exit_duration_digest_tail_and_tree(box: Box) -> None:
    name = box.new({"01-a": command("echo 1 > file", 'qa: {checks: ["echo fine; test -f file"]}')})
    box.runner("step", name, rc=0)
    tree = box.git("rev-parse", f"{name}^{{tree}}").strip()
    box.runner("step", name, rc=0)
    lines = [json.loads(line) for line in box.runner("log", name, "--json", rc=0).out.splitlines()]
    passed = next(line for line in lines if line["event"] == "qa-passed")
    assert passed["tree"] == tree
    (check,) = passed["evidence"]
    assert (check["check"], check["code"], check["tail"].strip()) == ("echo fine; test -f file", 0, "fine")
    assert check["output"].startswith("sha256:") and isinstance(check["seconds"], int)


@pytest.mark.parametrize(
    "check, said", [("scripts/ok.sh", "ok.sh passed"), ("grep -q hello src/app.py", "grep -q hello src/app.py passed")]
)
def test_a_check_that_passed_is_named_as_it_was_written(box: Box, check: str, said: str) -> None:
    box.write("scripts/ok.sh", "#!/bin/sh\n").chmod(0o755)
    box.commit("a check")
    name = box.new({"01-a": command("true", f"qa: {{checks: ['{check}']}}")})
    assert f"  {said}\n" in box.runner("run", name, rc=0).err


# --- on_failure and timeouts -----------------------------------------------------------------------------------------


def test_retry_is_a_new_attempt_from_before_the_failed_one(box: Box) -> None:
    line = 'test ! -e left; echo "$RUNNER_ATTEMPT" > left; test "$RUNNER_ATTEMPT" = 3'
    name = box.new({"01-a": command(f"{line}", "on_failure: {retry: 2, then: block}")})
    box.runner("run", name, rc=0)
    assert box.state(name)["steps"]["a"]["attempt"] == 3
    assert box.git("show", f"{name}:left") == "3\n"
    kept = box.git("for-each-ref", "--format=%(refname)", f"refs/runner/attempts/{name}/").split()
    assert kept == [f"refs/runner/attempts/{name}/a.{number}" for number in (1, 2)]


def test_retries_that_are_used_up_block_where_the_step_says_so(box: Box) -> None:
    name = box.new({"01-a": command("exit 7", "on_failure: {retry: 1, then: block}"), "02-b": command("true")})
    box.runner("run", name, rc=3)
    state = box.state(name)
    assert (state["status"], state["steps"]["a"]["status"], state["steps"]["a"]["attempt"]) == ("blocked", "blocked", 2)
    assert "exit 7" in state["steps"]["a"]["reason"]
    assert state["steps"]["b"]["status"] == "pending"


@pytest.mark.slow
def test_goto_does_earlier_steps_again_so_often_and_no_more(box: Box, tmp_path: Path) -> None:
    count = tmp_path / "count"
    name = box.new(
        {
            "01-context": command(f"echo x >> {count}"),
            "02-between": command("true"),
            "03-deploy": command("exit 1", "on_failure: {goto: context, limit: 3}"),
        }
    )
    box.runner("run", name, rc=1)
    state = box.state(name)
    assert count.read_text() == "x\n" * 4
    assert {slug: step["attempt"] for slug, step in state["steps"].items()} == {"context": 4, "between": 4, "deploy": 4}
    assert state["status"] == "failed"


@pytest.mark.slow
def test_a_timeout_ends_all_that_the_step_started(box: Box, tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    line = f"(trap '' TERM; while sleep 0.1; do echo x >> {sign}; done) & sleep 600"
    seconds = math.ceil(slack())
    name = box.new({"01-a": command(line, f"timeout: {seconds}s")})
    box.runner("run", name, rc=1)
    assert f"timed out after {seconds}s" in box.state(name)["steps"]["a"]["reason"]
    size = sign.stat().st_size
    time.sleep(1)
    assert sign.stat().st_size == size


# --- workspace -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_setup_runs_once_and_again_when_a_key_changes_or_the_workspace_is_made_anew(box: Box, tmp_path: Path) -> None:
    count = tmp_path / "count"
    box.write(".gitignore", "deps/\n")
    box.write("lock", "1\n")
    configure(box, f"workspace: {{setup: 'mkdir -p deps && touch deps/made && echo x >> {count}', key: [lock]}}\n")
    name = box.new({f"0{at}-s{at}": command("test -f deps/made") for at in range(1, 6)})
    for _ in range(2):
        box.runner("step", name, rc=0)
    assert count.read_text() == "x\n"
    tree = box.worktree(name)
    (tree / "lock").write_text("2\n")
    box.commit("newer", cwd=tree)
    box.runner("step", name, rc=0)
    assert count.read_text() == "x\n" * 2
    (work,) = (box.home / ".local/state/protocol-runner").glob("*/*/work")
    for thing in (work, work.parent / "index"):  # each way in which the workspace is made anew
        subprocess.run(["rm", "-rf", str(thing)], check=True)
        box.runner("step", name, rc=0)
    assert count.read_text() == "x\n" * 4


@pytest.mark.parametrize("path", mostly_slow(["../beside", "~/mine", "ABSOLUTE/../there"], keep=1))
def test_workspace_and_worktrees_lie_where_the_configuration_says(box: Box, tmp_path: Path, path: str) -> None:
    path = path.replace("ABSOLUTE", str(tmp_path / "no such folder"))
    configure(box, f"workspace: {{path: {path}}}\nworktrees: {{path: {path}-trees}}\n")
    name = box.new({"01-a": command('echo "at=$PWD" > "$RUNNER_RESULT"'), "02-b": "kind: human"})
    box.runner("run", name, rc=3)
    wanted = {"../beside": tmp_path / "beside", "~/mine": box.home / "mine"}.get(path, tmp_path / "there")
    at = Path(box.state(name)["steps"]["a"]["result"]["at"])
    assert at.is_relative_to(wanted) and at.name == "work" and ".." not in at.parts
    assert box.worktree(name) == Path(f"{wanted}-trees") / name
    assert box.git("status", "--porcelain") == ""
    box.runner("cancel", name, rc=0)
    box.runner("clean", "--yes", rc=0)
    assert not at.exists() and not Path(f"{wanted}-trees/{name}").exists()


def test_a_state_folder_whose_name_goes_up_and_down_works(box: Box, tmp_path: Path) -> None:
    box.env["XDG_STATE_HOME"] = f"{tmp_path}/repo/../state"
    name = box.new({"01-a": command("true", "qa: {checks: ['test -f README.md']}")})
    box.runner("run", name, rc=0)


def test_setup_that_fails_uses_up_no_attempt(box: Box) -> None:
    configure(box, "workspace: {setup: 'echo no such thing; exit 9'}\n")
    name = box.new({"01-a": command("true")})
    before = box.git("rev-parse", name)
    done = box.runner("step", name, rc=1)
    assert "exit 9" in done.err and "no such thing" in done.err
    assert box.git("rev-parse", name) == before


@pytest.mark.parametrize("pattern", ["node_modules/", "node_modules"])
def test_shared_folders_are_there_and_never_become_work(box: Box, pattern: str) -> None:
    box.write(".gitignore", f"{pattern}\nlibs/\n")
    configure(box, "workspace: {share: [node_modules, libs/deep]}\n")
    box.write("node_modules/left/index.js", "1\n")
    box.write("libs/deep/x", "2\n")
    name = box.new({"01-a": command("cat node_modules/left/index.js libs/deep/x > got",
                                    "qa: {checks: ['test -f node_modules/left/index.js']}")})  # fmt: skip
    box.runner("run", name, rc=0)
    assert box.git("show", f"{name}:got") == "1\n2\n"
    added = box.git("diff", "--name-only", "main", name).split()
    assert [path for path in added if not path.startswith(".protocols/")] == ["got"]


# --- options ---------------------------------------------------------------------------------------------------------


def test_an_option_goes_before_the_environment_and_that_before_the_configuration(box: Box) -> None:
    configure(box, "executor: container\npublish: always\n")
    shown = box.runner("doctor", "--config", env={"RUNNER_PUBLISH": "never"}).out
    assert "RUNNER_PUBLISH" in shown
    box.runner("new", "x", "--plan", box.plan({"01-a": command("true")}), rc=0, env={"RUNNER_EXECUTOR": "host"})
    assert "container" in box.runner("step", rc=2, env={"RUNNER_EXECUTOR": ""}).err
    assert "nowhere" in box.runner("step", rc=2, env={"RUNNER_EXECUTOR": "nowhere"}).err
    box.runner("step", "--executor", "host", rc=0, env={"RUNNER_EXECUTOR": "nowhere"})


def test_step_by_name_goes_on_with_that_one_only(box: Box) -> None:
    name = box.new({"01-a": command("true"), "02-b": command("true", "needs: []"), "03-c": command("true")})
    assert "cannot continue yet" in box.runner("step", name, "--step", "c", rc=3).err
    box.runner("step", name, "--step", "02-b", rc=0)
    assert {slug: step["status"] for slug, step in box.state(name)["steps"].items()} == {
        "a": "pending",
        "b": "completed",
        "c": "pending",
    }
    assert "did you mean `b`" in box.runner("step", name, "--step", "02-bb", rc=2).err


def test_max_steps_is_a_number_of_transitions(box: Box) -> None:
    name = box.new({f"0{at}-s{at}": command("true") for at in range(1, 5)})
    before = box.count(name)
    box.runner("run", name, "--max-steps", "2", rc=0)
    assert box.count(name) == before + 2
    box.runner("run", name, "--max-steps", "0", rc=2)


def test_an_identity_of_the_configuration_commits_and_the_environment_goes_before_it(box: Box) -> None:
    configure(box, "identity: {name: Robot, email: robot@example.test}\n")
    name = box.new({"01-a": command("true"), "02-b": command("true")})
    assert box.git("log", "-1", "--format=%an <%ae>", name) == "Alice <alice@example.test>\n"
    box.runner("step", name, rc=0)
    assert (
        box.git("log", "-1", "--format=%an <%ae> %cn <%ce>", name)
        == "Robot <robot@example.test> Robot <robot@example.test>\n"
    )
    box.runner("step", name, rc=0, env={"RUNNER_NAME": "CI", "RUNNER_EMAIL": "ci@example.test"})
    assert box.git("log", "-1", "--format=%an <%ae>", name) == "CI <ci@example.test>\n"


@pytest.mark.slow
def test_messages_print_what_was_typed(box: Box, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "git-runner"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable} -P\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
                       "from runner.cli.main import main\nmain()\n")  # fmt: skip
    program.chmod(0o755)

    def typed(*args: str | Path) -> str:
        env = box.environment({"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"})
        done = subprocess.run(["git", "runner", *map(str, args)], cwd=box.path, env=env, capture_output=True, text=True)
        return done.stdout + done.stderr

    plan = box.plan({"01-a": command("false"), "02-b": "kind: human"})
    lines = [
        "",
        "verify",
        "new x --plan PLAN",
        "status",
        "init",
        "run 1",
        "status",
        "show 1",
        "doctor",
        "retry 1",
        "step 9",
        "cancel 1",
        "step 1",
        "list",
        "--help",
        "step --help",
        "nonsense",
        "step --nonsense",
        "answer 1 x",
        "do x",
        "edit",
    ]
    told = [typed(*line.replace("PLAN", str(plan)).split()) for line in lines]
    said = "\n".join(told)
    assert "git runner run 1" in said and "git runner show 1 a" in said
    left = re.findall(r"(?:`|  |then |Usage: )runner (?:[a-z]|--).*", said)
    assert left == []


@pytest.mark.parametrize("name", ["serve", "tui"])
def test_a_command_of_a_later_version_is_refused_by_name(box: Box, name: str) -> None:
    assert f"`runner {name}` is not supported by this version" in box.runner(name, "1", rc=2).err


# --- what a commit holds ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_log_past_64_kib_begins_anew_and_the_old_one_is_kept_whole(box: Box) -> None:
    long = "on_failure: {retry: 200, then: fail}"
    name = box.new({"01-a": command("head -c 900 /dev/zero | tr '\\0' x; test \"$RUNNER_ATTEMPT\" -gt 130", long)})
    box.runner("run", name, "--max-steps", "200", rc=0)
    files = box.git("ls-tree", "-r", "--name-only", name, f".protocols/{name}/").split()
    assert f".protocols/{name}/log/0001.md" in files
    old = box.git("show", f"{name}:.protocols/{name}/log/0001.md")
    assert 65536 < len(old) < 65536 + 4096
    lines = [json.loads(line) for line in box.runner("log", name, "--json", rc=0).out.splitlines()]
    assert [line["revision"] for line in lines] == list(range(1, len(lines) + 1))
    assert box.runner("verify", name, "--json", rc=0).json()["ok"]


def test_state_json_has_the_keys_of_the_design(box: Box) -> None:
    name = box.new({"01-a": command("echo 1 > f", "outputs: [f]"), "02-b": "kind: human"})
    box.runner("run", name, rc=3)
    state = box.state(name)
    design = (ROOT / "docs/design.md").read_text().split("**state.json**: ")[1].split("Sorted keys")[0]
    assert set(state) == set(re.findall(r"`([a-z]+)`", design))
    assert set(state["waiting"][0]) == {"id", "kind", "subject", "digest", "text", "by", "since"}
    assert set(state["spent"]) == {"usd", "input_tokens", "output_tokens", "seconds"}
    assert {"place", "status", "attempt", "digest", "result"} <= set(state["steps"]["a"])


def test_trailers_are_exactly_these(box: Box) -> None:
    name = box.new({"01-a": command("true")})
    box.runner("run", name, rc=0)
    raw = box.git("cat-file", "commit", name)
    last = raw.rstrip("\n").split("\n\n")[-1].splitlines()
    assert [line.split(": ")[0] for line in last] == [
        "Runner-Protocol", "Runner-Revision", "Runner-Event", "Runner-Event", "Runner-Event", "Runner-Trusted", "Runner-Actor",
        "Runner-Plan",
    ]  # fmt: skip
    assert last[2:5] == [f"Runner-Event: {one}" for one in ("step-finished a", "step-completed a", f"completed {name}")]
    assert last[5] == f"Runner-Trusted: {box.git('rev-parse', 'main').strip()}"
    assert last[6] == "Runner-Actor: alice@example.test"
    assert last[7] == f"Runner-Plan: {box.state(name)['plan']}"
    parsed = box.git("log", "-1", "--format=%(trailers:only,unfold)", name).strip()
    assert parsed.splitlines() == last


# --- tools -----------------------------------------------------------------------------------------------------------

TOOLS = """
from pathlib import Path

def look(path: str) -> dict:
    return {"text": Path(path).read_text()}

def put(path: str, text: str) -> dict:
    Path(path).write_text(text)
    return {"path": path}

def send(text: str) -> dict:
    raise AssertionError("must not be called")
"""


def test_tools_of_the_trusted_branch_read_and_write_the_workspace_and_others_wait(box: Box) -> None:
    configure(
        box,
        f"workspace: {{python: {sys.executable}}}\ntools: [{{module: ours, effects: {{look: read, put: workspace}}}}]\n",
        **{"ours.py": TOOLS},
    )
    name = box.new(
        {
            "01-look": "kind: tool\ntool: look\nwith: {path: src/app.py}",
            "02-put": "kind: tool\ntool: put\nwith: {path: new.txt, text: '${{ steps.look.result.text }}'}",
            "03-send": "kind: tool\ntool: send\nwith: {text: hello}",
        }
    )
    told = box.runner("run", name, rc=3)
    assert "send text=hello" in told.err and "runner approve 1" in told.err
    state, stands = box.state(name), ["completed", "completed", "awaiting_approval"]
    assert [state["steps"][slug]["status"] for slug in ("look", "put", "send")] == stands
    assert box.git("show", f"{name}:new.txt") == "print('hello')\n"


def test_a_tool_that_is_not_there_is_named_with_its_file_and_a_near_one(box: Box) -> None:
    name = box.new({"01-a": "kind: tool\ntool: eco\nwith: {text: x}"})
    told = box.runner("step", name, rc=2).err
    assert f".protocols/{name}/01-a.md" in told and "did you mean echo?" in told


def test_what_a_coworker_asks_for_is_refused_or_done(box: Box) -> None:
    coworker = "name: coder\nobjective: code\nengine: gemini:x\nbudget: {usd: 1}\ntools: [{module: ours, effects: {look: read}}]\n"
    key = "policies: {network: none}"  # engine and budget are a model's: a tool step asks none
    configure(box, f"workspace: {{python: {sys.executable}}}\n",
              **{".protocols/agents/coder.yaml": f"{coworker}{key}\n", "ours.py": TOOLS})  # fmt: skip
    name = box.new({"01-look": "kind: tool\ntool: look\nagent: coder\nwith: {path: src/app.py}"})
    told = box.runner("run", name, rc=2).err
    assert "`policies" in told and "agents/coder.yaml" in told
    box.write(".protocols/agents/coder.yaml", coworker)
    box.commit("without")
    box.runner("run", name, rc=0)


def test_a_tool_changed_on_the_protocols_branch_is_not_the_one_that_runs(box: Box) -> None:
    configure(
        box,
        f"workspace: {{python: {sys.executable}}}\ntools: [{{module: ours, effects: {{put: workspace}}}}]\n",
        **{"ours.py": TOOLS},
    )
    name = box.new({"01-put": "kind: tool\ntool: put\nwith: {path: new.txt, text: good}"})
    tree = box.worktree(name)
    (tree / "ours.py").write_text(TOOLS.replace("write_text(text)", "write_text('evil')"))
    box.commit("evil", cwd=tree)
    box.runner("run", name, rc=0)
    assert box.git("show", f"{name}:new.txt") == "good"


# --- what is a person's ----------------------------------------------------------------------------------------------


def test_checkout_index_and_untracked_files_are_byte_for_byte_what_they_were(box: Box) -> None:
    box.write("src/app.py", "print('changed')\n")
    box.write("staged.txt", "staged\n")
    box.git("add", "staged.txt")
    box.write("untracked.bin", b"\x00\xff\r\n")

    def picture() -> dict[str, tuple[bytes, int]]:
        found = {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in box.path.rglob("*")
                 if p.is_file() and ".git" not in p.relative_to(box.path).parts}  # fmt: skip
        return {
            **found,
            "index": ((box.path / ".git/index").read_bytes(), 0),
            "HEAD": ((box.path / ".git/HEAD").read_bytes(), 0),
        }

    before = picture()
    name = box.new({"01-a": command("echo x > src/app.py"), "02-b": command("false"), "03-c": "kind: human"})
    for words in (["run", name], ["retry", name], ["run", name], ["status"], ["undo", name], ["verify", name], ["doctor"],
                  ["cancel", name], ["clean", "--yes"]):  # fmt: skip
        box.runner(*words)
        assert picture() == before, words
    assert box.git("fsck", "--strict", "--no-dangling") == ""


# --- the house -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["second_verifier", "second_log", "second_words", "second_deeds", "second_policy", "second_cover"]
)
def test_the_second_verifier_is_short_and_imports_nothing_of_ours(name: str) -> None:
    text = (ROOT / f"tests/{name}.py").read_text()
    assert len(text.splitlines()) <= 200
    imported = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            imported |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add("." * node.level + (node.module or ""))
    assert (
        imported - {"second_log", "second_words", "second_deeds", "second_policy", "second_cover"}
        <= sys.stdlib_module_names
    )


def test_the_second_verifier_is_a_program(box: Box) -> None:
    protocol, other = box.new({"01-a": command("true")}), box.new({"01-a": command("true")})
    box.runner("run", protocol, rc=0)
    box.git("update-ref", f"refs/heads/{other}", "main")
    argv = [sys.executable, "-I", str(ROOT / "tests/second_verifier.py"), str(box.path / ".git")]
    told = []
    for names in ([protocol], [protocol, other], []):
        done = subprocess.run(
            [*argv, *(word for name in names for word in (f"refs/heads/{name}", name))], capture_output=True, text=True
        )
        told.append((done.returncode, [line.split(" ")[:2] for line in done.stdout.splitlines()]))
    assert told == [(0, [["0", protocol]]), (4, [["0", protocol], ["4", other]]), (0, [])]


@pytest.mark.parametrize("reason, code", [("no bwrap", 1), ("allowed: only root can", 0)])
@pytest.mark.slow
def test_a_skipped_test_fails_under_ci_unless_it_says_that_it_may(tmp_path: Path, reason: str, code: int) -> None:
    (tmp_path / "test_it.py").write_text(f"import pytest\ndef test_a(): pytest.skip({reason!r})\ndef test_b(): pass\n")
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "tests.no_skips", "-c", os.devnull, str(tmp_path)]
    assert subprocess.run(argv, cwd=ROOT, capture_output=True).returncode == code
    assert "export RUNNER_CI=1" in (ROOT / ".ci/run").read_text()
