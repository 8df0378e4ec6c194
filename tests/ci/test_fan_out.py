"""What `runner fleet plan` gives a CI: a matrix for GitHub, a pipeline for GitLab; its jobs are carried out here by their scripts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner.store import day_budget
from tests.ci.actions import ROOT
from tests.ci.test_templates import check
from tests.conftest import JOBS, Box, clone, command
from tests.executor.minds import agent, finish, mind


class Loader(yaml.SafeLoader):
    """Reads `!reference`, which no job here has."""


Loader.add_constructor("!reference", lambda loader, node: str(node))


@pytest.fixture
def gitlab(remote: Box) -> Box:
    """A repository that was set up for GitLab, its default branch pushed. No forge is asked: there is none here."""
    remote.runner("init", "--ci", "--yes", "--forge", "gitlab https://gitlab.com/g/r", env=JOBS, rc=0)
    settings = remote.path / ".protocols/config.yaml"
    settings.write_text(settings.read_text().replace("forge: gitlab https://gitlab.com/g/r\n", "# forge: none\n"))
    (remote.path / ".protocols/policy.yaml").unlink()
    remote.commit("set up")
    remote.git("push", "-q", "origin", "main")
    return remote


def limit(box: Box, day: str) -> None:
    """Set a day's budget on the trusted branch."""
    box.write(".protocols/policy.yaml", f"repo: {'6f0c' * 8}\nbudget: {{day: {day}}}\n")
    box.commit("policy")
    box.git("push", "-q", "origin", "main")


def jobs_of(box: Box, text: str) -> dict[str, dict[str, Any]]:
    """Return the jobs of a generated pipeline with what they extend, as GitLab puts them together."""
    told = yaml.load(text, Loader)
    (include,) = told.pop("include")
    shared = yaml.load((box.path / include["local"]).read_text(), Loader)
    whole = shared | told

    def extended(job: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        names = job.get("extends", [])
        for name in [names] if isinstance(names, str) else names:
            for key, value in extended(whole[name]).items():
                found[key] = {**found.get(key, {}), **value} if isinstance(value, dict) else value
        for key, value in job.items():
            found[key] = {**found.get(key, {}), **value} if isinstance(value, dict) else value
        return found

    return {name: extended(job) for name, job in told.items()}


def carry_out(box: Box, job: Mapping[str, Any], at: Path, given: Path | None, **variables: str) -> Path:
    """Run a job's script on a machine of its own; return the folder that it hands over."""
    other = clone(box, at.name)
    handover = other.path / ".protocol-handover"
    if given is not None:
        shutil.copytree(given, handover)
    installed = other.home / "installed"
    (installed / "bin").mkdir(parents=True)
    package = re.search(
        r"^package=\$\{RUNNER_PACKAGE:-(.*)\}$", (box.path / "scripts/ci/protocol.sh").read_text(), re.M
    )
    assert package
    (installed / "package").write_text(package[1] + "\n")
    for name, line in (
        ("python", f'exec "{sys.executable}" "$@"'),
        ("runner", f'PYTHONPATH="{ROOT}" exec "{sys.executable}" -m runner "$@"'),
    ):
        (installed / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (installed / "bin" / name).chmod(0o755)
    told = {name: str(value).replace("$CI_PROJECT_DIR", str(other.path)) for name, value in job["variables"].items()}
    env = {
        **other.environment(),
        "CI": "true",
        **told,
        "RUNNER_FOLDER": str(installed),
        "HANDOVER": str(handover),
        **variables,
    }
    for line in [*job["before_script"][:1], *job["script"]]:
        done = subprocess.run(["sh", "-ec", line], cwd=other.path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return handover


@pytest.mark.slow
def test_gitlab_works_on_each_in_jobs_of_its_own_and_publishes_it(gitlab: Box, tmp_path: Path) -> None:
    names = [gitlab.new({"01-a": command(f"echo {n} > a.txt")}, title=f"Number {n}") for n in range(2)]
    waits = gitlab.new({"01-a": "kind: human\n"}, title="Waits")
    gitlab.runner("run", waits, rc=3)
    gitlab.runner("sync", rc=0)
    shared = yaml.load((gitlab.path / ".gitlab/protocol-runner.yml").read_text(), Loader)
    find = {**shared[".protocol-runner"], **shared["protocol-find"]}
    made = carry_out(
        gitlab, find, tmp_path / "find", None, PROTOCOL="", CI_PIPELINE_URL="https://gitlab.com/g/r/-/pipelines/7"
    )
    text = (made / "pipeline.yml").read_text()
    advance = shared["protocol-advance"]["trigger"]["include"]
    assert advance == [{"artifact": ".protocol-handover/pipeline.yml", "job": "protocol-find"}]
    check(
        "check-jsonschema",
        "--builtin-schema",
        "vendor.gitlab-ci",
        "--data-transform",
        "gitlab-ci",
        made / "pipeline.yml",
    )
    jobs = jobs_of(gitlab, text)
    assert set(jobs) == {f"protocol-{what} {name}" for what in ("work", "publish") for name in names}
    for name in names:
        work, publish = jobs[f"protocol-work {name}"], jobs[f"protocol-publish {name}"]
        assert work["environment"]["name"] == "protocol-work" and publish["environment"]["name"] == "protocol-publish"
        assert work["cache"]["policy"] == "pull" and "rules" not in work and "rules" not in publish
        assert work["variables"]["RUNNER_RUN"].endswith("/pipelines/7")
        assert publish["needs"] == [{"job": f"protocol-work {name}", "artifacts": True}]
        handed = carry_out(gitlab, work, tmp_path / f"work-{name}", None)
        assert [path.name for path in handed.iterdir()] == [f"{name}.bundle"]
        carry_out(gitlab, publish, tmp_path / f"publish-{name}", handed)
    for number, name in enumerate(names):
        assert gitlab.git("show", f"{name}:a.txt", cwd=tmp_path / "origin.git") == f"{number}\n"


def test_a_plan_is_what_may_go_on_and_nothing_else(box: Box) -> None:
    assert box.runner("fleet", "plan", "--json", rc=0).out == '{"include":[]}\n'
    empty = yaml.safe_load(box.runner("fleet", "plan", "--gitlab", rc=0).out)
    assert list(empty) == ["include", "protocol-none"]  # a pipeline needs a job
    first = box.new({"01-a": command("true"), "02-b": "kind: human\n"}, title="First")
    second = box.new({"01-a": "kind: human\n"}, title='Second"; $(touch pwned) ${{ x }}')
    paused = box.new({"01-a": command("true")}, title="Paused")
    box.runner("pause", paused, rc=0)
    found = box.runner("fleet", "plan", "--json", rc=0).json()["include"]
    assert found == [
        {"protocol": first, "action": "run-step", "step": "a"},
        {"protocol": second, "action": "ask-person", "step": "a"},
    ]
    made = box.runner("fleet", "plan", "--gitlab", rc=0).out
    assert not re.search(r"[^\x20-\x7e\n]|[$();]", made) and "First" not in made
    assert [line.split()[0] for line in box.runner("fleet", "plan", rc=0).out.splitlines()] == [first, second]
    limited = box.runner("fleet", "plan", "--json", "--limit", "1", rc=0)
    assert len(limited.json()["include"]) == 1 and "1 more can advance" in limited.err
    assert [one["protocol"] for one in box.runner("fleet", "plan", "2", "--json", rc=0).json()["include"]] == [second]
    box.runner("fleet", "plan", "--json", "--gitlab", rc=2)
    box.runner("fleet", "plan", "0009-nobody", rc=2)


def test_what_each_may_spend_is_reserved_for_it(remote: Box, tmp_path: Path) -> None:
    limit(remote, "{usd: 1}")
    names = [remote.new({"01-a": agent()}, title=f"Number {number}") for number in range(3)]
    other = remote.new({"01-a": command("true")}, title="No model")
    env = {"GITHUB_RUN_ID": "7", "GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "o/r"}
    told = remote.runner("fleet", "plan", "--json", "--reserve", "0.40", rc=0, env=env)
    assert [one["protocol"] for one in told.json()["include"]] == [*names[:2], other]
    assert f"{names[2]} waits: the day budget" in told.err
    at = tmp_path / "origin.git"
    (name,) = remote.git("ls-tree", "--name-only", day_budget.REF, cwd=at).split()
    reserved = json.loads(remote.git("show", f"{day_budget.REF}:{name}", cwd=at))["open"].values()
    assert sorted((one["protocol"], one["usd"]) for one in reserved) == [(names[0], "0.4"), (names[1], "0.4")]
    assert {one["ci"] for one in reserved} == {"https://github.com/o/r/actions/runs/7/attempts/1"}
    again = remote.runner("fleet", "plan", "--json", "--reserve", "0.40", rc=0, env=env)
    assert [one["protocol"] for one in again.json()["include"]] == [other]
    for none in ("nan", "inf"):
        assert (
            "not an amount of money" in remote.runner("fleet", "plan", "--json", "--reserve", none, rc=2, env=env).err
        )


@pytest.mark.slow
def test_a_job_that_is_repeated_after_its_work_was_published_spends_nothing_twice(remote: Box, tmp_path: Path) -> None:
    """GitLab's button to repeat a job: the same pipeline, so the same run."""
    with mind(remote, finish()) as wire:
        limit(remote, "{usd: 1}")
        protocol = remote.new({"01-a": agent(), "02-b": agent()})
        run = {"CI_PIPELINE_URL": "https://gitlab.com/g/r/-/pipelines/7"}
        remote.runner("sync", protocol, rc=0, env=run)
        remote.runner("fleet", "plan", "--json", "--reserve", "0.40", rc=0, env=run)
        work = ("run", protocol, "--ci", "--publish", "never", "--max-steps", "1")
        remote.runner(*work, rc=0, env=run)
        assert len(wire.bodies) == 1
        remote.runner("sync", "--no-work", protocol, rc=0, env=run)
        at = tmp_path / "origin.git"
        (name,) = remote.git("ls-tree", "--name-only", day_budget.REF, cwd=at).split()
        day = json.loads(remote.git("show", f"{day_budget.REF}:{name}", cwd=at))
        assert (day["usd"], day["open"]) == ("0.4", {})
        before = remote.git("rev-parse", day_budget.REF, cwd=at)
        remote.runner("sync", "--no-work", protocol, rc=0, env=run)
        assert remote.git("rev-parse", day_budget.REF, cwd=at) == before
        told = remote.runner(*work, rc=0, env=run)
        assert "an earlier job of this run used it" in told.err and len(wire.bodies) == 1
