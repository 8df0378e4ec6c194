"""scripts/ci: what is found out about a repository, and what the scripts that are written for it do."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.forge.registry import FORGES
from tests.ci.actions import ROOT
from tests.conftest import JOBS, Box, command, make_box
from tests.forge.serving import Answer, Asked, Server

PYPROJECT = '[project]\nname = "x"\nversion = "1"\n[project.optional-dependencies]\ndev = []\ndocs = []\n'
MARKS = {
    "python": ("pyproject.toml", PYPROJECT),
    "node": ("package.json", '{"scripts": {"test": "node -e \\"process.exit(0)\\"", "lint": "exit 3"}}'),
    "java": ("pom.xml", "<project/>"),
    "go": ("go.mod", "module x\n"),
    "rust": ("Cargo.toml", "[package]\nname = 'x'\n"),
    "other": ("Makefile", "test:\n\techo tested\nlint:\n\tfalse\n"),
}


def script(box: Box, name: str, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run one of the scripts, as a person or a CI does."""
    at = box.path / f"scripts/ci/{name}.sh"
    return subprocess.run([at, *args], cwd=box.path / "src", env=box.environment(env), capture_output=True, text=True)


def setup(box: Box, stack: str, *args: str) -> str:
    name, text = MARKS[stack]
    box.write(name, text)
    return box.runner("init", "--ci", "--yes", *args, env=JOBS, rc=0).err


@pytest.mark.parametrize("stack", MARKS)
def test_a_stack_is_told_by_its_files(box: Box, stack: str) -> None:
    assert f"stack {stack}" in setup(box, stack)
    names = sorted(path.stem for path in (box.path / "scripts/ci").iterdir())
    if stack == "other":
        assert names == ["lint", "protocol", "report", "test"]
    else:
        assert {"bootstrap", "typecheck", "test", "build"} <= set(names)


def test_of_several_stacks_the_person_is_asked_and_without_them_the_first_is_taken(box: Box) -> None:
    setup(box, "node")
    assert "stack python" in setup(box, "python")


def test_python_says_what_it_cannot_do(box: Box) -> None:
    setup(box, "python")
    box.write(".venv/bin/python", '#!/bin/sh\nexec python3 "$@"\n')
    assert "pip -e '.[dev]'" in (box.path / "scripts/ci/bootstrap.sh").read_text()
    few = {"PATH": "/usr/bin:/bin"}
    for name, said in (("lint", "nothing was linted"), ("typecheck", "no types were checked")):
        done = script(box, name, **few)
        assert done.returncode == 77 and said in done.stderr, done.stdout
    box.write("test_x.py", "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(1, 2)\n")
    assert script(box, "test", **few).returncode == 1  # one that fails, fails
    box.write(".venv/bin/ruff", '#!/bin/sh\necho linted "$@"; exit 4\n').chmod(0o755)
    done = script(box, "lint", **few)
    assert (done.returncode, done.stdout) == (4, "linted check .\n")


NO_PYTEST = """#!/bin/sh
case "$*" in *"import pytest"*) exit 1 ;; esac
exec python3 "$@"
"""


@pytest.mark.parametrize("text", ["def test_f():\n    assert 1 == 2\n", None])
def test_python_tests_that_nothing_runs_do_not_pass(box: Box, text: str | None) -> None:
    setup(box, "python")
    box.write(".venv/bin/python", NO_PYTEST).chmod(0o755)
    if text:
        box.write("test_f.py", text)
    done = script(box, "test", PATH="/usr/bin:/bin")
    assert done.returncode == 1 and "nothing was checked" in done.stderr, done.stdout


def test_python_tests_of_unittest_pass_by_their_own_result(box: Box) -> None:
    setup(box, "python")
    box.write(".venv/bin/python", NO_PYTEST).chmod(0o755)
    text = "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(1, {})\n"
    for value, code in ((1, 0), (22, 1)):  # of another size: Python keeps what it compiled in the same second
        box.write("test_x.py", text.format(value))
        assert script(box, "test", PATH="/usr/bin:/bin").returncode == code


def test_what_has_nothing_to_check_fails_a_step_and_does_not_hold_up_ci(box: Box) -> None:
    setup(box, "node", "--commit")
    box.write("scripts/ci/bootstrap.sh", "#!/bin/sh\n")
    box.write("package.json", '{"scripts": {"test": "node -e \'process.exit(0)\'"}}')
    done = script(box, "protocol", "qa", RUNNER_FOLDER="/nonexistent")
    assert done.returncode == 0 and "failed" not in done.stdout and "nothing was linted" in done.stderr
    box.write("scripts/ci/test.sh", "#!/bin/sh\nexit 77\n")
    assert script(box, "protocol", "qa", RUNNER_FOLDER="/nonexistent").returncode == 1
    protocol = box.new({"01-a": command("echo x > x.txt", "qa: {checks: [scripts/ci/lint.sh]}\n")})
    assert "scripts/ci/lint.sh" in box.runner("run", protocol, rc=1).err


def test_node_runs_the_scripts_that_there_are(box: Box) -> None:
    setup(box, "node")
    assert script(box, "test").returncode == 0
    assert script(box, "lint").returncode == 3
    for name, said in (("build", "nothing to build"), ("typecheck", "no types were checked")):
        done = script(box, name)
        assert done.returncode == 77 and said in done.stderr, done.stdout
    box.write("package.json", "{}")
    assert script(box, "test").returncode == 1  # no tests are no tests that passed


def test_a_makefile_is_called(box: Box) -> None:
    setup(box, "other")
    assert "tested" in script(box, "test").stdout and script(box, "lint").returncode == 2
    done = script(box, "protocol", "qa", RUNNER_FOLDER="/nonexistent")
    assert done.returncode == 1 and "== lint failed" in done.stdout and "tested" in done.stdout


def test_qa_without_a_script_is_no_success(box: Box) -> None:
    box.runner("init", "--ci", "--yes", env=JOBS, rc=0)
    done = script(box, "protocol", "qa")
    assert done.returncode == 2 and "write scripts/ci/test.sh" in done.stderr


def test_qa_fences_what_is_printed_and_keeps_the_files_of_the_ci(box: Box, tmp_path: Path) -> None:
    box.runner("init", "--ci", "--yes", env=JOBS, rc=0)
    box.write("scripts/ci/test.sh", "#!/bin/sh\necho ::add-mask::x\nenv\n").chmod(0o755)
    files = {
        name: str(tmp_path / name) for name in ("GITHUB_ENV", "GITHUB_OUTPUT", "GITHUB_PATH", "GITHUB_STEP_SUMMARY")
    }
    done = script(box, "protocol", "qa", GITHUB_ACTIONS="true", **files)
    assert done.returncode == 0 and not any(f"{name}=" in done.stdout for name in files)
    first, *_, last = [line for line in done.stdout.splitlines() if line]
    assert first.startswith("::stop-commands::") and last == f"::{first.removeprefix('::stop-commands::')}::"


@pytest.mark.parametrize(
    "name", ["", "-x", "0001-X", "0001-a b", "0001-a;x", "0001-a\n0002-b", "1-a", "../0001-a", "0001-"]
)
@pytest.mark.parametrize("command", ["plan github", "plan gitlab", "work", "publish", "next"])
def test_a_name_is_checked_before_it_is_used(box: Box, command: str, name: str) -> None:
    if not name and command.startswith("plan"):
        return  # every protocol is meant
    box.runner("init", "--ci", "--yes", env=JOBS, rc=0)
    done = script(box, "protocol", *command.split(), name, RUNNER_FOLDER="/nonexistent", PATH="/usr/bin:/bin")
    assert done.returncode == 2 and "not the id of a protocol" in done.stderr and not done.stdout


@pytest.mark.slow
def test_install_puts_the_runner_into_a_folder_of_its_own_once(box: Box, tmp_path: Path) -> None:
    box.runner("init", "--ci", "--yes", env=JOBS, rc=0)
    where = {"RUNNER_FOLDER": str(tmp_path / "runner"), "RUNNER_PACKAGE": str(ROOT)}
    first = script(box, "protocol", "install", **where)
    assert first.returncode == 0 and first.stdout.startswith("protocol-runner, version"), first.stderr
    at = (tmp_path / "runner/bin/runner").stat()
    assert script(box, "protocol", "install", **where).returncode == 0
    assert (tmp_path / "runner/bin/runner").stat() == at


@pytest.mark.parametrize(
    ("configured", "env", "used"),
    [
        ("", {}, "uv"),
        ("global.index-url='https://own.test'", {}, "pip"),
        ("", {"PIP_INDEX_URL": "https://own.test"}, "pip"),
    ],
)
def test_uv_installs_where_nothing_configures_pip(
    box: Box, tmp_path: Path, configured: str, env: dict[str, str], used: str
) -> None:
    """uv does not read pip's configuration: from another index, the package of the name may be somebody else's."""
    box.runner("init", "--ci", "--yes", env=JOBS, rc=0)
    folder, bin_, told = tmp_path / "runner", tmp_path / "bin", tmp_path / "told"
    bin_.mkdir()
    fake = f"""#!/bin/sh
[ "$*" = '-m pip config list' ] && {{ echo "{configured}"; exit; }}
echo "${{0##*/}} $*" >> {told}
mkdir -p {folder}/bin
cp {bin_}/python3 {folder}/bin/python
printf '#!/bin/sh\\necho installed\\n' > {folder}/bin/runner
chmod +x {folder}/bin/*
"""
    for name in ("uv", "python3", "bwrap"):
        (bin_ / name).write_text(fake)
        (bin_ / name).chmod(0o755)
    clean = {name: value for name, value in box.environment({}).items() if not name.startswith("PIP_")}
    given = (
        clean | env | {"PATH": f"{bin_}:/usr/bin:/bin", "RUNNER_FOLDER": str(folder), "RUNNER_PACKAGE": "a-package==1"}
    )
    done = subprocess.run(
        [box.path / "scripts/ci/protocol.sh", "install"], cwd=box.path, env=given, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "installed\n"), done.stderr
    calls = told.read_text().splitlines()
    assert "a-package==1" in calls[-1] and calls[-1].startswith(
        "uv pip install" if used == "uv" else "python -m pip install"
    )
    assert any(one.startswith("uv ") for one in calls) == (used == "uv")


# --- init ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("forge", "at"), [("github", ".github/workflows"), ("gitlab", ".gitlab")])
def test_the_remote_tells_the_forge_and_only_a_person_sets_it(box: Box, forge: str, at: str) -> None:
    box.git("remote", "add", "origin", f"git@{forge}.com:o/r.git")
    told = box.runner("init", "--ci", "--yes", env=JOBS, rc=0)
    assert f"forge {forge} ({forge}.com/o/r)" in told.err and (box.path / at).is_dir()
    assert "\n# forge: none\n" in (box.path / ".protocols/config.yaml").read_text()
    (box.path / ".protocols/config.yaml").unlink()
    box.runner("init", "--ci", "--yes", "--forge", forge, env=JOBS, rc=0)
    assert f"\nforge: {forge}\n" in (box.path / ".protocols/config.yaml").read_text()
    again = box.runner("init", "--ci", "--yes", env=JOBS, rc=0).out
    assert "wrote" not in again and "left" not in again


def test_a_forge_that_there_is_not_or_that_nobody_tells_is_refused(box: Box) -> None:
    assert "there is no forge `moon`" in box.runner("init", "--ci", "--forge", "moon", env=JOBS, rc=2).err
    assert (
        "there is no remote that names a project" in box.runner("init", "--ci", "--forge", "github", env=JOBS, rc=2).err
    )
    assert not (box.path / ".protocols").exists()
    box.git("remote", "add", "origin", "git@github.com:o/r.git")
    box.runner("init", "--ci", "--forge", "none", "--yes", env=JOBS, rc=0)
    assert (
        not (box.path / ".github").exists() and "\nforge: none\n" in (box.path / ".protocols/config.yaml").read_text()
    )


def test_a_pipeline_of_the_teams_own_is_left_and_the_line_to_add_is_said(box: Box) -> None:
    box.git("remote", "add", "origin", "git@gitlab.com:g/r.git")
    box.write(".gitlab-ci.yml", "test: {script: [make test]}\n")
    told = box.runner("init", "--ci", "--yes", env=JOBS, rc=0)
    assert "add to .gitlab-ci.yml:  include: [{local: .gitlab/protocol-runner.yml}]" in told.err
    assert (box.path / ".gitlab-ci.yml").read_text() == "test: {script: [make test]}\n"
    box.write(".gitlab-ci.yml", "include: [{local: .gitlab/protocol-runner.yml}]\n")
    assert "add to" not in box.runner("init", "--ci", "--yes", env=JOBS, rc=0).err


def test_scripts_are_committed_as_programs_and_edited_ones_are_left(box: Box) -> None:
    box.write("scripts/ci/test.sh", "#!/bin/sh\nmine\n")
    setup(box, "python", "--commit")
    tree = box.git("ls-tree", "-r", "HEAD", "scripts/ci")
    assert tree.count("100755") == 6 and "test.sh" not in tree  # the person's is theirs to commit
    assert (box.path / "scripts/ci/test.sh").read_text() == "#!/bin/sh\nmine\n"
    assert "-mine" in box.runner("init", "--ci", "--yes", env=JOBS, rc=0).err


def test_a_folder_that_is_a_link_is_not_written_through(box: Box, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (box.path / "scripts").symlink_to(elsewhere)
    assert "not a plain file" in box.runner("init", "--ci", "--yes", env=JOBS, rc=4).err and not list(
        elsewhere.iterdir()
    )


# --- report.sh -----------------------------------------------------------------------------------------------------------


class Api(Server):
    """Takes any status."""

    def handle(self, asked: Asked) -> Answer:
        return Answer(201, {})


@pytest.fixture
def api() -> Iterator[Api]:
    found = Api()
    yield found
    found.close()


@pytest.mark.parametrize("forge", FORGES)
@pytest.mark.parametrize("state", ["success", "failure"])
def test_another_ci_reports_to_the_forge(tmp_path: Path, api: Api, forge: str, state: str) -> None:
    box = make_box(tmp_path / "repo")
    box.runner("init", "--ci", "--yes", "--forge", f"{forge} http://127.0.0.1:{api.port}/g/r", env=JOBS, rc=0)
    name = {"github": "GITHUB_TOKEN", "gitlab": "GITLAB_TOKEN"}[forge]
    assert f"{name} is not set" in script(box, "report", state).stderr
    done = script(box, "report", state, **{name: "canary-1", "CI_URL": "https://ci.example.test/7"})
    assert done.returncode == 0, done.stderr
    (asked,) = api.asked
    head = box.git("rev-parse", "HEAD").strip()
    where = {"github": f"/api/v3/repos/g/r/statuses/{head}", "gitlab": f"/api/v4/projects/g%2Fr/statuses/{head}"}[forge]
    said = {"github": {"state": state, "context": "ci"}, "gitlab": {"name": "ci"}}[forge]
    if forge == "gitlab":
        said["state"] = {"success": "success", "failure": "failed"}[state]
    assert (asked.method, asked.path, asked.token) == ("POST", where, "canary-1")
    assert asked.body == {**said, "target_url": "https://ci.example.test/7"}
    assert "canary" not in done.stdout + done.stderr


def test_without_a_forge_nobody_is_told_and_a_wrong_word_is_refused(box: Box) -> None:
    box.runner("init", "--ci", "--yes", env=JOBS, rc=0)
    assert "nothing was reported: failure" in script(box, "report", "failure").stdout
    for env in ({"CI_COMMIT": '"; rm'}, {"RUNNER_CI_NAME": 'x"y'}, {"CI_URL": 'https://x"'}):
        assert script(box, "report", "success", **env).returncode == 2
    assert script(box, "report", "perhaps").returncode == 2
