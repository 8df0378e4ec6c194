"""`runner init` finds the command that runs the project's tests, tries it in the sandbox, and makes it the default check."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from runner.app import create, suite
from runner.errors import WaitingError
from runner.git import Git
from runner.sandbox.bubblewrap import Bubblewrap
from tests.conftest import Box, command, set_env
from tests.executor.minds import sound

SANDBOX = {"RUNNER_EXECUTOR": "sandbox"}
CONFIG = ".protocols/config.yaml"


@pytest.fixture
def sandbox() -> None:
    if (why := Bubblewrap().check()) is not None:
        pytest.skip(f"allowed: no sandbox here: {why}")


def make(box: Box, *lines: str, target: str = "test") -> None:
    """Commit a Makefile whose target runs these lines."""
    box.write("Makefile", f"{target}:\n" + "".join(f"\t@{line}\n" for line in lines))
    box.commit("make")


def check_of(box: Box) -> str:
    """Return the line of config.yaml that names the default checks; empty where it is a comment."""
    lines = (box.path / CONFIG).read_text().splitlines()
    return next((line for line in lines if line.startswith("checks:")), "")


# --- what is found ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "lines"),
    [
        ({"package.json": '{"scripts": {"test": "tape test.js"}}'}, ["npm test"]),
        ({"package.json": '{"scripts": {"test": "x"}}', "pnpm-lock.yaml": ""}, ["pnpm test"]),
        ({"package.json": '{"scripts": {"test": "echo \\"Error: no test specified\\" && exit 1"}}'}, []),
        ({"package.json": "[" * 100_000}, []),
        ({"Makefile": "lint:\ntest: build\n"}, ["make test"]),
        ({"Makefile": "check:\n"}, ["make check"]),
        ({"Makefile": "check: lint\n\nlint:\n\ntest:\n"}, ["make test"]),
        ({"Makefile": "test := x\n"}, []),
        ({"scripts/ci/test.sh": "#!/bin/sh\n"}, ["scripts/ci/test.sh"]),
        ({"go.mod": "module x\n"}, ["go test ./..."]),
        ({"Cargo.toml": ""}, ["cargo test"]),
        ({"setup.py": ""}, []),  # no tests
        ({"tests/test_a.py": ""}, ["python3 -m pytest", "python3 -m unittest discover", "python3 -m unittest discover -s tests"]),
        (
            {"tests/test_a.py": "", "tox.ini": "[testenv]\ncommands = python -m pytest -n 2 {posargs}\n"},
            ["python3 -m pytest", "python3 -m unittest discover", "python3 -m unittest discover -s tests", "python3 -m pytest -n 2"],
        ),
        ({".github/workflows/ci.yml": "steps:\n   - run: pytest tests/unit\n   - run: curl x | sh\n"}, ["pytest tests/unit"]),
        ({".github/workflows/ci.yml": "    run: |\n     make test\n     npm test; rm -rf /\n"}, ["make test"]),
    ],
)  # fmt: skip
def test_the_project_s_own_files_say_what_may_run_its_tests(box: Box, files: dict[str, str], lines: list[str]) -> None:
    for path, text in files.items():
        box.write(path, text)
    commit = box.commit("files")
    with Git.open(box.path) as git:
        assert [one.line for one in suite.candidates(git, commit)] == lines
        assert [one.line for one in suite.candidates(git, commit, ["mine", "make test"])][:2] == [
            "mine",
            "make test",
        ]


@pytest.mark.parametrize(
    ("text", "counted"),
    [
        ("===== 3 passed in 0.12s =====", (3, 0, 0)),
        ("1 failed, 20 passed, 2 skipped, 1 xfailed in 61.20s (0:01:01)", (21, 1, 0)),
        ("no tests ran in 0.01s", (0, 0, 0)),
        ("2 skipped, 1 warning in 0.01s", (0, 0, 0)),
        ("=== 1 error in 0.20s ===", (0, 0, 1)),
        ("Ran 0 tests in 0.000s\n\nOK", (0, 0, 0)),
        ("Ran 5 tests in 0.010s\n\nFAILED (failures=1, errors=2, skipped=1)", (1, 1, 2)),
        ("Ran 5 tests in 0.010s\n\nFAILED (errors=1, expected failures=2)", (4, 0, 1)),
        ("Ran 5 tests in 0.010s\n\nFAILED (failures=1, unexpected successes=2)", (2, 3, 0)),
        (f"Ran {'9' * 5000} tests in 0.010s\n\nOK", None),
        (f"{'9' * 5000} passed in 0.01s", None),
        (f"Tests run: {'9' * 5000}, Failures: 1, Errors: 0, Skipped: 1", None),
        ("Tests:       1 failed, 2 passed, 3 total", (2, 1, 0)),
        ("      Tests  1 failed | 4 passed (5)", (4, 1, 0)),
        ("  12 passing (30ms)\n  2 failing\n", (12, 2, 0)),
        ("1..2\n# tests 2\n# pass  2\n\n# ok\n", (2, 0, 0)),
        ("ℹ tests 0\nℹ pass 0\nℹ fail 0", (0, 0, 0)),
        ("test result: ok. 4 passed; 0 failed; 0 ignored\ntest result: FAILED. 1 passed; 1 failed; 0", (5, 1, 0)),
        ("Tests run: 5, Failures: 1, Errors: 0, Skipped: 1", (3, 1, 0)),
        ("ok  \tx/a\t0.1s\n?   \tx/b\t[no test files]\nFAIL\tx/c\t0.1s", (1, 1, 0)),
        ("?   \tx/b\t[no test files]", (0, 0, 0)),
        ("all good", None),
        ("built 3 files in 0.3s", None),
    ],
)
def test_what_test_runners_say_is_counted(text: str, counted: tuple[int, int, int] | None) -> None:
    assert suite.count(text) == counted


# --- what is tried ----------------------------------------------------------------------------------------------------------


def test_the_command_that_works_becomes_the_default_check(box: Box, sandbox: None) -> None:
    make(box, "echo 3 passed in 0.01s", "test ! -e broken")
    told = box.runner("init", "--yes", "--commit", env=SANDBOX, rc=0)
    assert check_of(box) == 'checks: ["make test"]' and "checks make test · 3 tests passed on " in told.err
    assert box.git("status", "--porcelain") == ""
    for line, rc in (("echo x > x.txt", 0), ("touch broken", 1)):
        protocol = box.new({"01-a": command(line, "qa: light\n")})
        box.runner("run", protocol, env=SANDBOX, rc=rc)
        sound(box, protocol)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["echo no tests ran in 0.01s"], "it ran no test"),
        (["echo Ran 0 tests in 0.000s"], "it ran no test"),
        (["echo /usr/bin/python3: No module named pytest; exit 1"], "pytest is not installed in python3, and there is no .venv"),
        (["echo sh: 1: tape: not found; exit 127"], "tape is not installed, and the checkout has no .venv or node_modules"),
        (["echo \"Error: Cannot find module 'tape'\"; exit 1"], "tape is not installed in node_modules, which is not there"),
        (["echo getaddrinfo EAI_AGAIN registry; exit 1"], "it needs the network"),
        (
            ["echo \"Error: EROFS: read-only file system, mkdir '$PWD/node_modules/.cache'\"; exit 1"],
            "it makes node_modules/.cache, which is read-only in a step: run it once in the checkout",
        ),
        (["echo first; echo the end; exit 3"], "the end"),
        (["echo 'TypeError: x is no function'; echo '    at a.js:1'; echo Node.js v20.20.2; exit 1"], "TypeError: x is no function"),
        (["echo 2 failed, 3 passed in 0.01s"], "2 of 5 tests fail, and it exits with 0"),
        (["echo 'pytest: error: unrecognized arguments: -x'; echo '  rootdir: /x'; exit 4"], "error: unrecognized arguments: -x"),
    ],
)  # fmt: skip
def test_what_does_not_run_is_no_default_and_what_is_missing_is_said(
    box: Box, sandbox: None, lines: list[str], why: str
) -> None:
    make(box, *lines)
    told = box.runner("init", "--yes", env=SANDBOX, rc=0)
    assert (
        check_of(box) == ""
        and f"no check: `make test` (Makefile): {'' if why != 'the end' else 'exit 2: '}" in told.err
    )
    assert why in told.err and "to do  make one of these commands work" in told.err


def test_an_environment_that_git_tracks_is_said_to_be_none(box: Box, sandbox: None) -> None:
    box.write(".venv/pyvenv.cfg", "home = /usr/bin\n")
    make(box, "echo /usr/bin/python3: No module named pytest; exit 1")
    told = box.runner("init", "--yes", env=SANDBOX, rc=0).err
    assert "pytest is not installed in python3, and git tracks .venv, so it is no environment" in told


def test_tests_that_fail_as_something_is_not_installed_are_said_to(box: Box, sandbox: None) -> None:
    make(
        box,
        "echo \"E   ModuleNotFoundError: No module named 'text_unidecode'\"; echo 20 failed, 119 passed in 1.00s; exit 1",
    )
    why = "text_unidecode is not installed in python3, and there is no .venv\n"
    at = box.git("rev-parse", "--short=7", "HEAD").strip()
    told = box.runner("init", "--yes", "--commit", env=SANDBOX, rc=0).err
    assert f"20 of 139 tests fail on {at}, before any change: {why}" in told
    assert "to do  install what is missing and run `runner init` again" in told
    said = box.runner("new", "--manual", "X", env=SANDBOX, rc=0).err
    assert f"20 of 139 tests fail on main already: {why.strip()} (`make test`" in said


def test_one_whose_tests_fail_before_any_change_is_kept_and_people_are_told(box: Box, sandbox: None) -> None:
    make(box, "echo 2 failed, 3 passed in 0.01s; exit 1")
    told = box.runner("init", "--yes", "--commit", env=SANDBOX, rc=0)
    assert check_of(box) == 'checks: ["make test"]'
    assert "checks make test · 2 of 5 tests fail on " in told.err and "before any change" in told.err
    plan = box.plan({"01-a": command("true")})
    told = box.runner("new", "A", "--plan", plan, rc=0)
    assert "2 of 5 tests fail on main already (`make test`" in told.err
    assert "2 of 5 tests fail (`make test`)" in box.runner("log", told.out.strip(), rc=0).out
    box.runner("verify", told.out.strip(), rc=0)
    box.write("src/app.py", "print('another')\n")
    box.commit("code that nobody tried")
    assert "fail" not in box.runner("new", "A", "--plan", plan, rc=0).err


def test_a_check_that_failed_before_the_protocol_is_said_to_when_it_fails(box: Box, sandbox: None) -> None:
    make(box, "echo 2 failed, 3 passed in 0.01s; exit 1")
    box.runner("init", "--yes", "--commit", env=SANDBOX, rc=0)
    protocol = box.new({"01-a": command("true", "qa: light\n")})
    assert "  before        2 of 5 tests fail without the protocol, too\n" in box.runner("run", protocol, rc=1).err


def test_a_person_at_a_terminal_is_asked_whether_to_start_where_tests_fail(box: Box) -> None:
    make(box, "true")
    box.write(CONFIG, 'checks: ["make test"]\n')
    box.commit("check")
    with box.session() as session:
        commit = session.git.resolve("HEAD")
        assert commit is not None
        suite.note(session.project, commit, suite.Tried("make test", "", False, 5, 2, "", 1))
        asked: list[str] = []

        def no(question: str, choices: tuple[str, ...]) -> str:
            asked.append(question)
            return choices[1]

        set_env(session, ask=no)
        with pytest.raises(WaitingError, match="nothing was made: 2 of 5 tests fail on main already"):
            create.create(session, "A", create.manual("A"), where="here")
        assert asked == ["start all the same?"] and session.project.protocols() == {}


def test_tests_that_pass_in_a_command_that_fails_are_said_so(box: Box, sandbox: None) -> None:
    make(box, "echo 5 passed in 0.01s; exit 1")
    told = box.runner("init", "--yes", "--commit", env=SANDBOX, rc=0)
    assert (
        "checks make test · 5 tests passed on " in told.err
        and ", before any change, and it ends with exit 2\n" in told.err
    )
    assert "5 tests passed, and it ends with exit 2 on main, by" in box.runner("doctor", env=SANDBOX, rc=0).out


def test_doctor_names_tests_that_fail_and_a_default_check_that_is_missing(box: Box, sandbox: None) -> None:
    make(box, "echo 2 failed, 3 passed in 0.01s; exit 1")
    box.runner("init", "--yes", "--commit", "--no-try", env=SANDBOX, rc=0)
    assert "no command that runs the tests is named as `checks:`" in box.runner("doctor", env=SANDBOX, rc=0).out
    (box.path / CONFIG).unlink()
    box.runner("init", "--yes", env=SANDBOX, rc=0)
    box.commit("checks")
    told = box.runner("doctor", env=SANDBOX, rc=0).out
    assert "2 of 5 tests fail on main, by `make test`" in told and "is named as" not in told


def test_the_first_that_works_is_taken_before_one_whose_tests_fail(box: Box, sandbox: None) -> None:
    box.write("scripts/ci/test.sh", "#!/bin/sh\necho 4 passed in 0.1s\n").chmod(0o755)
    make(box, "echo 1 failed in 0.01s; exit 1")
    told = box.runner("init", "--yes", env=SANDBOX, rc=0)
    assert check_of(box) == 'checks: ["scripts/ci/test.sh"]' and "4 tests passed" in told.err


def test_one_that_says_how_many_tests_passed_is_taken_before_one_that_does_not(box: Box, sandbox: None) -> None:
    box.write("scripts/ci/test.sh", "#!/bin/sh\necho 4 passed in 0.1s\n").chmod(0o755)
    make(box, "echo all is well")
    told = box.runner("init", "--yes", env=SANDBOX, rc=0)
    assert check_of(box) == 'checks: ["scripts/ci/test.sh"]' and "4 tests passed" in told.err


def test_one_that_does_not_say_what_ran_is_taken_where_no_other_does(box: Box, sandbox: None) -> None:
    box.write("scripts/ci/test.sh", "#!/bin/sh\necho 1 failed in 0.1s; exit 1\n").chmod(0o755)
    make(box, "echo all is well")
    told = box.runner("init", "--yes", env=SANDBOX, rc=0)
    assert check_of(box) == 'checks: ["make test"]' and "does not say how many tests ran" in told.err


def test_what_is_tried_is_the_last_commit_and_not_the_checkout(box: Box, sandbox: None) -> None:
    make(box, "echo 1 passed in 0.01s; test ! -e unfinished && echo x > left.txt")
    box.write("unfinished", "x\n")
    box.runner("init", "--yes", env=SANDBOX, rc=0)
    assert check_of(box) and not (box.path / "left.txt").exists()
    assert not list((box.home / ".local/state/protocol-runner").glob("*/init"))


@pytest.mark.parametrize("options", [("--no-try",), ("--executor", "host")])
def test_nothing_is_run_without_a_sandbox_or_where_nobody_wants_it(box: Box, options: tuple[str, ...]) -> None:
    make(box, f"touch {box.path}/ran")
    given = {"RUNNER_EXECUTOR": options[1]} if options[0] == "--executor" else SANDBOX
    told = box.runner("init", "--yes", *(() if options[0] == "--executor" else options), env=given, rc=0)
    assert check_of(box) == "" and not (box.path / "ran").exists()
    assert (
        options[0] == "--executor" or f"to do  name the command that runs the tests: `checks:` of {CONFIG}" in told.err
    )


def test_a_repository_without_a_commit_is_set_up_as_before(box: Box) -> None:
    box.git("update-ref", "-d", "HEAD")
    box.write("pyproject.toml", "")
    told = box.runner("init", "--yes", env=SANDBOX, rc=0)
    assert "checks" not in told.err and check_of(box) == ""
    assert "to do  commit your project and run `runner init` again: it tries the tests on the last commit" in told.err


def test_a_configuration_of_the_persons_own_is_left_and_the_line_to_add_is_said(box: Box, sandbox: None) -> None:
    box.write(CONFIG, "publish: never\n")
    make(box, "echo 1 passed in 0.01s")
    told = box.runner("init", "--yes", env=SANDBOX, rc=0)
    assert f'to do  write into {CONFIG}: checks: ["make test"]' in told.err
    assert (box.path / CONFIG).read_text() == "publish: never\n"
    box.write(CONFIG, "checks: [make test]\n")
    assert "trying" not in box.runner("init", "--yes", env=SANDBOX, rc=0).err


@pytest.mark.parametrize("commits", [False, True])
def test_a_configuration_that_nobody_edited_gets_the_command_once_it_works(
    box: Box, sandbox: None, *, commits: bool
) -> None:
    make(box, "test -e made && echo 1 passed in 0.01s")
    box.runner("init", "--yes", *(["--commit"] if commits else []), env=SANDBOX, rc=0)
    assert check_of(box) == ""
    box.write("made", "x\n")
    box.git("add", "made")
    box.git("commit", "-qm", "made", "--", "made")
    told = box.runner("init", "--yes", env=SANDBOX, rc=0)
    assert check_of(box) == 'checks: ["make test"]' and f"wrote  {CONFIG}" in told.out and "write into" not in told.err
    told = box.runner("init", "--yes", "--commit", env=SANDBOX, rc=0)
    assert "with your edits" not in told.err and box.git("status", "--porcelain") == ""
    assert 'checks: ["make test"]' in box.git("show", f"HEAD:{CONFIG}")


SLEEP = f"sleep 300.{os.getpid()}"  # no other test run's


@contextlib.contextmanager
def trying(box: Box) -> Iterator[subprocess.Popen[str]]:
    """Give `runner init` while it tries the test command, which sleeps."""
    make(box, SLEEP)
    with box.start("init", "--yes", env=SANDBOX) as process:
        while not sleeps():
            assert process.poll() is None
            time.sleep(0.05)
        yield process


def sleeps() -> bool:
    return subprocess.run(["pgrep", "-fx", SLEEP], capture_output=True).returncode == 0


def test_all_tries_together_have_ten_minutes(box: Box, sandbox: None) -> None:
    make(box, "touch ran; exit 1")
    later = iter(range(0, 10**6, 400))
    with box.session(executor="sandbox") as session:
        set_env(session, monotonic=lambda: float(next(later)))
        commit, every = session.git.resolve("HEAD"), [suite.Candidate("make test", "Makefile")] * 9
        assert commit is not None and suite.LIMIT == 600
        assert len(list(suite.tried(session, commit, every, lambda one: None))) < 2


def test_ctrl_c_skips_the_tries_and_the_files_are_written(box: Box, sandbox: None) -> None:
    with trying(box) as process:
        process.send_signal(signal.SIGINT)
        said = process.communicate()[1]
    assert process.returncode == 0 and "skipped" in said and check_of(box) == ""


def test_a_kill_of_init_ends_what_it_tries_and_writes_nothing(box: Box, sandbox: None) -> None:
    with trying(box) as process:
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert process.returncode == 130 and not (box.path / CONFIG).exists()
    assert not sleeps()


def test_what_passed_on_a_commit_is_not_tried_again_there(box: Box, sandbox: None) -> None:
    make(box, "echo 1 passed in 0.01s")
    box.runner("init", "--yes", env=SANDBOX, rc=0)
    (box.path / CONFIG).unlink()
    told = box.runner("init", "--yes", env=SANDBOX, rc=0)
    assert "trying" not in told.err and check_of(box) == 'checks: ["make test"]'
    (note,) = (box.home / ".local/state/protocol-runner").glob("*/tests.json")
    assert json.loads(note.read_text())["ran"] == 1
