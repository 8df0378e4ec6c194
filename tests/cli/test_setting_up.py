"""`runner init` by parts: config, policy and key first; CI and prompts when they are wanted; and again, later."""

from __future__ import annotations

import pytest

from runner import resources
from runner.app import scaffold, suite
from runner.app.suite import Tried
from tests.cli.test_proved_command import SANDBOX, check_of, make, sandbox  # noqa: F401
from tests.conftest import JOBS, Box
from tests.people import at_terminal

CONFIG, CLARIFICATIONS = ".protocols/config.yaml", ".protocols/clarifications.yaml"
GITHUB = "git@github.com:o/r.git"
ELSEWHERE = "https://example.test/o/r.git"


def test_the_rest_is_added_later_to_a_repository_that_has_been_set_up(box: Box) -> None:
    box.git("remote", "add", "origin", GITHUB)
    box.runner("init", "--yes", "--commit", rc=0)
    assert not (box.path / "scripts").exists() and not (box.path / ".github").exists()
    told = box.runner("init", "--ci", "--yes", "--commit", env=JOBS, rc=0)
    assert "jobs   install protocol-runner\n" in told.err and (box.path / ".github/workflows").is_dir()
    box.runner("init", "--prompts", "--yes", "--commit", rc=0)
    assert {path.name for path in (box.path / ".protocols/prompts").iterdir()} == {
        f"{name}.prompt.md" for name in scaffold.PROMPTS
    }
    assert box.git("status", "--porcelain", "-uall") == ""


def test_an_editor_finds_the_schema_of_each_file_that_init_writes(box: Box) -> None:
    box.git("remote", "add", "origin", GITHUB)
    box.runner("init", "--schemas", "--yes", "--commit", rc=0)
    for name in ("config", "policy"):
        first = (box.path / f".protocols/{name}.yaml").read_text().split("\n")[0]
        schema = box.path / ".protocols" / first.removeprefix("# yaml-language-server: $schema=")
        assert schema.read_bytes() == resources.schema(name)
    assert (box.path / ".protocols/schemas/coworker.schema.json").is_file()
    box.runner("check", ".protocols/config.yaml", ".protocols/policy.yaml", rc=0)
    assert box.runner("init", "--yes", "--commit", rc=0).err.endswith("there is nothing to commit\n")
    schema.write_text("{}")
    assert ".protocols/schemas/policy.schema.json" in box.runner("init", "--update", "--yes", rc=0).out


def test_schemas_that_are_added_later_are_named_by_a_config_that_nobody_edited(box: Box) -> None:
    box.runner("init", "--yes", "--commit", rc=0)
    config, policy = box.path / ".protocols/config.yaml", box.path / ".protocols/policy.yaml"
    before, kept = config.read_text(), policy.read_bytes()
    box.runner("init", "--schemas", "--yes", "--commit", rc=0)
    assert config.read_text() == f"# yaml-language-server: $schema=schemas/config.schema.json\n{before}"
    assert policy.read_bytes() == kept
    config.write_text("branch: '{id}'\n")
    box.runner("init", "--schemas", "--yes", rc=0)
    assert config.read_text() == "branch: '{id}'\n"


def test_no_job_is_written_that_cannot_install_the_runner(box: Box) -> None:
    box.git("remote", "add", "origin", GITHUB)
    told = box.runner("init", "--ci", "--yes", rc=0)
    assert "open   From where do CI jobs install the runner?" in told.err and "to do  name in" in told.err
    assert not (box.path / ".github").exists() and not (box.path / "scripts/ci/protocol.sh").exists()
    at = "protocol-runner @ git+https://example.test/r@" + "0" * 40
    box.write(
        CLARIFICATIONS,
        (box.path / CLARIFICATIONS).read_text().replace('COMMIT"\n    answer:', f'COMMIT"\n    answer: {at}'),
    )
    assert f"jobs   install {at}" in box.runner("init", "--ci", "--yes", rc=0).err
    assert f"\npackage=${{RUNNER_PACKAGE:-{at}}}\n" in (box.path / "scripts/ci/protocol.sh").read_text()


@pytest.mark.parametrize("text", ["x}; touch pwned; : ${y", "$(id)", "`id`", "a\nb", "-r requirements.txt"])
def test_what_jobs_install_cannot_be_a_command(box: Box, text: str) -> None:
    told = box.runner("init", "--ci", "--yes", env={"RUNNER_PACKAGE": text}, rc=2)
    assert "is not a requirement of pip" in told.err and not (box.path / ".protocols").exists()


@pytest.mark.parametrize(
    ("url", "commit", "found"),
    [
        ("https://me:secret@example.test/r.git", "a" * 40, "git+https://example.test/r.git@" + "a" * 40),
        ("git@example.test:o/r.git", "a" * 40, "git+ssh://git@example.test/o/r.git@" + "a" * 40),
        ("https://example.test/r.whl", "", "https://example.test/r.whl"),
        ("/srv/r.git", "a" * 40, None),
        ("file:///srv/r.git", "", None),
        ("https://localhost/r.git", "a" * 40, None),
        ("http://example.test/r.git", "a" * 40, None),
    ],
)
def test_jobs_install_the_runner_from_where_this_one_came(
    monkeypatch: pytest.MonkeyPatch, url: str, commit: str, found: str | None
) -> None:
    vcs = f', "vcs_info": {{"vcs": "git", "commit_id": "{commit}"}}' if commit else ""

    class Installed:
        def read_text(self, name: str) -> str:
            return f'{{"url": "{url}"{vcs}}}'

    monkeypatch.setattr(scaffold.importlib.metadata, "distribution", lambda name: Installed())  # type: ignore[attr-defined]
    assert scaffold.package(None) == (f"protocol-runner[gemini,openai,anthropic] @ {found}" if found else None)


def test_a_checkout_that_the_runner_was_installed_from_counts_once_it_is_pushed(
    remote: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Installed:
        def read_text(self, name: str) -> str:
            return f'{{"url": "file://{remote.path}", "dir_info": {{}}}}'

    monkeypatch.setattr(scaffold.importlib.metadata, "distribution", lambda name: Installed())  # type: ignore[attr-defined]
    remote.git("fetch", "-q", "origin")
    remote.git("remote", "set-url", "origin", ELSEWHERE)
    head = remote.git("rev-parse", "HEAD").strip()
    assert scaffold.package(None) == f"protocol-runner[gemini,openai,anthropic] @ git+{ELSEWHERE}@{head}"
    remote.write("more.txt", "x\n")
    remote.commit("not pushed")
    assert scaffold.package(None) is None


def test_a_config_that_nobody_edited_gets_the_forge_though_its_comment_names_another_base(box: Box) -> None:
    box.git("branch", "-q", "-m", "main", "trunk")
    box.runner("init", "--yes", "--commit", "--no-try", rc=0)
    box.git("branch", "-q", "-m", "trunk", "main")
    told = box.runner("init", "--yes", "--no-try", "--forge", "none", rc=0)
    text = (box.path / CONFIG).read_text()
    assert f"wrote  {CONFIG}" in told.out and "\nforge: none\n" in text and "\n# base: main\n" in text


def test_an_answer_by_option_closes_the_question(box: Box) -> None:
    box.git("remote", "add", "origin", ELSEWHERE)
    box.runner("init", "--yes", "--commit", rc=0)
    assert "On which forge" in box.runner("new", "A", "--manual", rc=0).err
    told = box.runner("init", "--yes", "--commit", "--forge", "none", rc=0)
    assert "On which forge" not in told.err and f"wrote  {CONFIG}" in told.out
    assert "\nforge: none\n" in box.git("show", f"HEAD:{CONFIG}") and box.git("status", "--porcelain") == ""
    assert "On which forge" not in box.runner("new", "B", "--manual", rc=0).err


def test_a_difference_of_quotes_alone_is_not_shown(box: Box) -> None:
    box.write("Makefile", "test:\n")
    box.runner("init", "--yes", rc=0)
    text = (box.path / CONFIG).read_text()
    box.write(CONFIG, text.replace("# checks: [make test]\n", "checks: [make test]\n"))
    told = box.runner("init", "--yes", rc=0)
    assert f"kept   {CONFIG}\n" in told.out and "-checks" not in told.err


def test_update_takes_what_nobody_edited_and_shows_the_rest(box: Box) -> None:
    box.write("Makefile", "test:\n\ttrue\nlint:\n\ttrue\n")
    box.runner("init", "--ci", "--prompts", "--yes", "--commit", env=JOBS, rc=0)
    box.write("scripts/ci/lint.sh", "#!/bin/sh\nmine\n")
    box.commit("mine")
    (box.path / ".protocols/prompts/project-init.prompt.md").unlink()
    told = box.runner("init", "--update", "--yes", env={"RUNNER_PACKAGE": "protocol-runner==9"}, rc=0)
    assert (
        "wrote  scripts/ci/protocol.sh\n" in told.out and "+package=${RUNNER_PACKAGE:-protocol-runner==9}" in told.err
    )
    assert "kept   scripts/ci/lint.sh, which differs" in told.out and "-mine" in told.err
    assert "project-init" not in told.out  # a part that somebody removed is not brought back
    assert (box.path / "scripts/ci/lint.sh").read_text() == "#!/bin/sh\nmine\n"


def test_at_a_terminal_the_files_come_first_and_then_a_question_at_a_time(box: Box) -> None:
    box.git("remote", "add", "origin", ELSEWHERE)
    typed = {b"Write": b"\n", b"A line of shell": b"make all\n", b"On which forge": b"none\n"}
    code, shown = at_terminal(box, typed, "init", "--commit")
    assert code == 0, shown
    places = [shown.index(text) for text in (f"  {CONFIG}", "Write these?", "On which forge", "wrote  ")]
    assert places == sorted(places)
    again = at_terminal(box, {}, "init", "--commit")
    assert again[0] == 0 and "?" not in again[1].replace("A line of shell?", ""), again[1]


def test_unittest_whose_tests_fail_is_no_check_while_pytest_is_missing() -> None:
    def tried(line: str, *, passed: bool = False, lacks: str = "") -> Tried:
        return Tried(line, "the tests", passed, None if lacks else 3, 2, lacks, 1)

    missing = tried("python3 -m pytest", lacks="pytest is not installed in python3, and there is no .venv")
    fails = tried("python3 -m unittest discover")
    assert suite.best([missing, fails]) is None
    assert suite.best([fails]) is fails
    passes = tried("python3 -m unittest discover", passed=True)
    assert suite.best([missing, fails, passes]) is passes


def test_a_check_that_failed_when_it_was_found_is_looked_for_again(box: Box, sandbox: None) -> None:  # noqa: F811
    box.write("scripts/ci/test.sh", "#!/bin/sh\nexit 1\n").chmod(0o755)
    make(box, "echo 2 failed, 3 passed in 0.01s; exit 1")
    box.runner("init", "--yes", "--commit", env=SANDBOX, rc=0)
    assert check_of(box) == 'checks: ["make test"]'
    box.write("scripts/ci/test.sh", "#!/bin/sh\necho 5 passed in 0.01s\n")
    box.commit("mended")
    box.runner("init", "--yes", "--commit", env=SANDBOX, rc=0)
    assert check_of(box) == 'checks: ["scripts/ci/test.sh"]' and box.git("status", "--porcelain") == ""
    assert "trying" not in box.runner("init", "--yes", env=SANDBOX, rc=0).err


def test_a_difference_in_quotes_alone_is_in_no_diff(box: Box) -> None:
    box.runner("init", "--yes", rc=0)
    at = box.path / ".protocols/config.yaml"
    at.write_text(at.read_text().replace("# forge: none", '# forge: "none"') + "# ours\n")
    told = box.runner("init", "--yes", rc=0)
    assert "differs from what `runner init` would write" in told.out
    assert "-# ours" in told.err and "-# forge" not in told.err


def test_a_second_time_what_is_not_committed_yet_is_said_to_be_next(box: Box) -> None:
    box.runner("init", "--yes", rc=0)
    assert "  next          runner init --commit" in box.runner("init", "--yes", rc=0).err
    box.runner("init", "--yes", "--commit", rc=0)
    assert "next" not in box.runner("init", "--yes", rc=0).err
