"""`--ci`: what a job publishes, is told and exits with, and that nothing printed there is taken for a command to the CI."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from runner.cli import fence
from runner.cli.ci import plain
from runner.store import locks
from tests.conftest import Box, command
from tests.people import at_terminal

TITLE = "::set-output name=a::b <img src=x> @alice [x](https://evil.example) ##[add-mask]x"


@pytest.fixture
def job(remote: Box, tmp_path: Path) -> Box:
    """A person whose environment is a job's of GitHub."""
    remote.env |= {"CI": "true", "GITHUB_ACTIONS": "true"}
    for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"):
        remote.env[name] = str(tmp_path / name)
    return remote


def outputs(box: Box) -> dict[str, str]:
    """What the job has as outputs; the last of a name counts."""
    lines = Path(box.env["GITHUB_OUTPUT"]).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_a_job_publishes_what_is_done_and_says_how_it_stands(job: Box) -> None:
    protocol = job.new({"01-a": command("echo a > a.txt"), "02-b": command("true")})
    assert job.git("ls-remote", "origin", protocol) == ""
    job.runner("step", protocol, "--ci", rc=0)
    assert job.git("ls-remote", "origin", protocol).split()[0] == job.git("rev-parse", protocol).strip()
    told = outputs(job)
    assert (told["protocol"], told["status"], told["waits"], told["more"]) == (protocol, "running", "false", "true")
    assert told["commit"] == job.git("rev-parse", protocol).strip()
    job.runner("run", protocol, "--ci", rc=0)
    assert (outputs(job)["status"], outputs(job)["more"]) == ("completed", "false")
    assert "completed" in Path(job.env["GITHUB_STEP_SUMMARY"]).read_text()


def test_publish_never_keeps_it_here(job: Box) -> None:
    protocol = job.new({"01-a": command("true")})
    for args in (("--ci", "--publish", "never"), ("--publish", "never", "--ci")):
        job.runner("step", protocol, *args, rc=0)
    assert job.git("ls-remote", "origin", protocol) == ""


def test_to_wait_is_no_failure_of_a_job_and_to_fail_is(job: Box) -> None:
    waits = job.new({"01-a": "kind: human\n"}, title=json.dumps(TITLE))
    assert job.runner("run", waits, "--ci", rc=0).code == 0
    assert (outputs(job)["waits"], outputs(job)["more"]) == ("true", "false")
    assert job.runner("run", waits, "--publish", "never").code == 3  # by hand as ever
    fails = job.new({"01-a": command("false")})
    job.runner("run", fails, "--ci", rc=1)
    assert outputs(job)["status"] == "failed"
    assert job.runner("run", fails, "--ci").code == 1


def test_held_by_another_runner_is_no_failure_of_a_job(job: Box) -> None:
    protocol = job.new({"01-a": command("true")})
    with job.project() as project, locks.hold(project.places.lock(protocol), project.who, what=protocol):
        assert job.runner("step", protocol).code == 75
        job.runner("step", protocol, "--ci", rc=0)
        job.runner("run", protocol, "--ci", rc=0)
    assert outputs(job)["held"] == "true" and "held" in Path(job.env["GITHUB_STEP_SUMMARY"]).read_text()


def test_without_a_ci_around_it_nothing_is_written(remote: Box) -> None:
    protocol = remote.new({"01-a": command("true")})
    remote.runner("run", protocol, "--ci", rc=0)
    remote.env |= {"GITHUB_OUTPUT": str(remote.path / "no/such/folder/x")}
    assert "GITHUB_OUTPUT cannot be written" in remote.runner("run", protocol, "--ci", rc=2).err


def test_the_summary_shows_words_of_others_and_nothing_else(job: Box) -> None:
    protocol = job.new({"01-a": "kind: human\n"})
    step = job.worktree(protocol) / f".protocols/{protocol}/01-a.md"
    step.write_text(f"---\ntitle: {json.dumps(TITLE)}\nkind: human\n---\nDo it.\n")
    job.runner("run", protocol, "--ci", rc=0)
    summary = Path(job.env["GITHUB_STEP_SUMMARY"]).read_text()
    assert "&#60;img" in summary
    assert not set("<@[`|*") & set(summary.replace("### ", ""))
    assert plain("a\n# b") == "a &#35; b"


@pytest.mark.parametrize("stream", ["out", "err"])
def test_no_line_is_a_command_to_the_ci(job: Box, stream: str) -> None:
    step = "echo '::add-mask::x' >&2; echo '  ::stop-commands::y' >&2; echo 'a ##[group]b' >&2; echo '##vso[task.x]' >&2; exit 1"
    protocol = job.new({"01-a": command(step)}, title=json.dumps(TITLE))
    for args in (("run", protocol, "--ci"), ("show", protocol), ("log", protocol), ("list",), ("show", protocol, "a")):
        done = job.runner(*args)
        for line in getattr(done, stream).splitlines():
            assert not line.lstrip().startswith("::") and "##[" not in line and "##vso[" not in line, (args, line)
    shown = job.runner("show", protocol, "--json", rc=0)
    assert "##[" not in shown.out and shown.json()["title"] == TITLE


def test_a_bug_is_fenced_too(job: Box) -> None:
    """What no code of ours made safe: a traceback, written in pieces, by a process as CI starts it."""
    code = (
        "import sys\nfrom runner.cli import main\n"
        "def bug(*a, **k): raise ValueError('x\\n::add-mask::x\\r\\n\\x1b[0Ksection_start:1:x')\n"
        "main.cli.main = bug\nsys.exit(main.call(['status']))\n"
    )
    env = {**job.environment(), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=job.path, capture_output=True, text=True)
    assert done.returncode == 70 and "\\u003a:add-mask::x" in done.stderr
    assert "\n::" not in done.stderr and "\x1b" not in done.stderr


def test_at_a_desk_nothing_is_fenced(box: Box) -> None:
    box.new({"01-a": command("true")}, title='"::a"')
    assert (
        "::a" in box.runner("list", rc=0).out and not fence.is_needed({"CI": "false"}) and fence.is_needed({"CI": "1"})
    )


def test_a_line_that_comes_in_pieces_is_judged_as_a_whole(capsys: pytest.CaptureFixture[str]) -> None:
    one = fence.Fence(sys.stdout)
    for piece in (" ", ":", ":a\n", "b ##", "[c]"):
        one.write(piece)
        one.flush()
    one.end()
    assert capsys.readouterr().out == " \\u003a:a\nb ##\\u005bc]"


def test_at_a_terminal_a_question_is_seen_whatever_the_environment_says(box: Box) -> None:
    box.env["CI"] = "true"
    code, seen = at_terminal(box, {b"later)": b"\n", b"]:": b"n\n"}, "init")
    assert code == 0 and "  .protocols/config.yaml" in seen and "Write these?" in seen and "nothing was written" in seen
