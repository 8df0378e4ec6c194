"""`--ci`: what a job publishes, is told and exits with, and that nothing printed there is taken for a command to the CI."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from runner.cli import streams
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
    with job.session() as session, locks.hold(session.dirs.lock(protocol), session.env, what=protocol):
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


def damaged(box: Box, name: str = "state.json") -> str:
    """A protocol whose record an ordinary commit changed, or got another file."""
    protocol = box.new({"01-a": command("true")})
    folder = box.worktree(protocol)
    (folder / f".protocols/{protocol}/{name}").write_text("{}\n")
    box.commit("by hand", cwd=folder)
    return protocol


def test_what_verify_finds_is_annotated_where_it_stands(job: Box) -> None:
    good, bad = job.new({"01-a": command("true")}), damaged(job)
    done = job.runner("verify", good, bad, "1", "--ci", rc=4)
    assert done.out.count("verified · 1 transition") == 1 and f"{bad}  does not verify · 1 finding" in done.out
    (line,) = [line for line in done.err.splitlines() if line.startswith("::")]
    commit = job.git("rev-parse", bad).strip()[:12]
    where = f"file=.protocols/{bad}/state.json,line=1,title={bad} record-changed"
    assert line == f"::error {where}::an ordinary commit changed the runner's record (commit {commit})"
    summary = Path(job.env["GITHUB_STEP_SUMMARY"]).read_text().replace("&#45;", "-")
    assert f"### {good}: verified" in summary and f"### {bad}: does not verify" in summary
    assert "\n::" not in job.runner("verify", bad, rc=4).err  # unasked, as ever
    shown = job.runner("verify", good, bad, "--ci", "--json", rc=4).json()
    assert [(one["protocol"], one["ok"]) for one in shown["protocols"]] == [(good, True), (bad, False)]


def test_a_hostile_name_ends_no_annotation(job: Box) -> None:
    bad = damaged(job, "reports.a,line=9::x %0A##[group]\n::stop-commands::y.md")
    lines = job.runner("verify", bad, "--ci", rc=4).err.splitlines()
    (line,) = [line for line in lines if line.lstrip().startswith("::") or "##[" in line]
    assert line.startswith(f"::error file=.protocols/{bad}/") and "line=9::x" not in line.partition("title=")[0]
    assert not any(line.startswith("::stop") for line in lines)


def test_what_a_transition_lacks_is_shown_at_its_entry_in_the_log(job: Box) -> None:
    from runner.app import verify
    from runner.trust.walk import Finding

    protocol = job.new({"01-a": command("true")})
    job.runner("run", protocol, rc=0)
    with job.session() as session:
        report, _ = verify.prove(session, protocol)
        file, line = verify.place_of(session.project, report, Finding("needed", report.tip, "", "no word"))
        assert file == f".protocols/{protocol}/log.md"
        assert job.git("show", f"{protocol}:{file}").splitlines()[line - 1].endswith(f"Z {protocol} completed")
        assert verify.place_of(session.project, report, Finding("history", "", "refs/runner/x", "gone"))[1] == 1


def test_gitlab_gets_a_report_and_no_link_of_a_branch_leads_it_away(remote: Box, tmp_path: Path) -> None:
    good, bad = remote.new({"01-a": command("true")}), damaged(remote)
    remote.env |= {"CI": "true", "GITLAB_CI": "true", "CI_PROJECT_DIR": str(remote.path)}
    (tmp_path / "theirs").write_text("theirs\n")
    report = remote.path / "gl-code-quality-report.json"
    report.symlink_to(tmp_path / "theirs")
    remote.runner("verify", good, bad, "--ci", rc=4)
    assert (tmp_path / "theirs").read_text() == "theirs\n" and not report.is_symlink()
    (told,) = json.loads(report.read_text())
    assert told["location"] == {"path": f".protocols/{bad}/state.json", "lines": {"begin": 1}}
    assert (told["check_name"], told["severity"]) == (f"{bad} record-changed", "blocker")
    assert "an ordinary commit changed" in told["description"] and len(told["fingerprint"]) == 64
    remote.runner("verify", good, "--ci", rc=0)
    assert json.loads(report.read_text()) == []


def test_a_name_that_nobody_has_is_told_before_anything_is_judged(box: Box) -> None:
    protocol = box.new({"01-a": command("true")})
    assert box.runner("verify", protocol, "0009-none", rc=2).out == ""
    assert box.runner("verify", protocol, "--all", rc=2).out == ""


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
        "::a" in box.runner("list", rc=0).out
        and not streams.is_read_by_ci({"CI": "false"})
        and streams.is_read_by_ci({"CI": "1"})
    )


def test_a_line_that_comes_in_pieces_is_judged_as_a_whole(capsys: pytest.CaptureFixture[str]) -> None:
    one = streams.Escaped(sys.stdout)
    for piece in (" ", ":", ":a\n", "b ##", "[c]"):
        one.write(piece)
        one.flush()
    one.end()
    assert capsys.readouterr().out == " \\u003a:a\nb ##\\u005bc]"


def test_at_a_terminal_a_question_is_seen_whatever_the_environment_says(box: Box) -> None:
    box.env["CI"] = "true"
    code, seen = at_terminal(box, {b"later)": b"\n", b"]:": b"n\n"}, "init")
    assert code == 0 and "  .protocols/config.yaml" in seen and "Write these?" in seen and "nothing was written" in seen
