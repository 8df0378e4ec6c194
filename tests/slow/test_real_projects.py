"""Three projects of other people's run their own test suites as command steps in the sandbox, set-up included."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from runner.sandbox.bubblewrap import Bubblewrap
from tests.conftest import Box, command

pytestmark = pytest.mark.nightly

MANY = 20  # tests that a suite has at least; one that finds none has shown nothing


@dataclass(frozen=True, slots=True)
class Real:
    """A project whose sdist holds its tests. `needs`: what the suite imports; `tests`: where it lies; `source`: PYTHONPATH."""

    name: str
    version: str
    tests: str
    source: str = "."
    needs: str = "pytest==8.4.2"


PROJECTS = (
    Real("h11", "0.16.0", "h11"),
    Real("idna", "3.10", "tests"),
    Real("itsdangerous", "2.2.0", "tests", source="src", needs="pytest==8.4.2 freezegun==1.5.5"),
)


@pytest.fixture(autouse=True)
def _sandbox() -> None:
    if (why := Bubblewrap().check()) is not None:
        if os.environ.get("RUNNER_CI") == "1":
            pytest.fail(f"no working sandbox here: {why}")
        pytest.skip(f"no working sandbox here: {why}")


def fetch(project: Real, into: Path) -> Path:
    """Fetch the project's sources and return their folder."""
    wanted = f"{project.name}=={project.version}"
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", project.name, "-d", into, wanted],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (archive,) = into.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(into, filter="data")
    archive.unlink()
    return into / f"{project.name}-{project.version}"


def pip_options() -> str:
    """How this machine reaches its package index; the sandbox has none of a person's settings."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    told = dict(re.findall(r"^(?:global|:env:)\.(cert|index-url|proxy)='(.+)'$", listed, re.MULTILINE))
    return " ".join(f"--{option} {value}" for option, value in told.items())


@pytest.mark.timeout(900)
@pytest.mark.parametrize("project", PROJECTS, ids=lambda project: project.name)
def test_a_project_s_own_suite(box: Box, tmp_path: Path, project: Real) -> None:
    (tmp_path / "sources").mkdir()
    source = fetch(project, tmp_path / "sources")
    real = Box(source, box.home, {"RUNNER_EXECUTOR": "sandbox"})
    real.git("init", "-q")
    # The environment lies in the workspace's own home: there the steps and the checks, which see a clean export, both find it.
    install = f'"$HOME/venv/bin/pip" install -q {pip_options()} {project.needs}'
    setup = f'python3 -m venv "$HOME/venv" && {install} && echo once >> "$HOME/setups"'
    real.write(
        ".protocols/config.yaml",
        f"workspace:\n  setup: '{setup}'\n  network: true\n  key: [pyproject.toml]\n",
    )
    real.commit("sources")
    suite = f'PYTHONPATH={project.source} "$HOME/venv/bin/python" -m pytest -q -p no:cacheprovider'
    protocol = real.new(
        {
            "01-suite": command(f"{suite} {project.tests} > suite.txt; code=$?; tail -n 3 suite.txt; exit $code"),
            "02-again": command(
                f'wc -l < "$HOME/setups" > setups.txt && {suite} {project.tests} | tail -n 1',
                f"qa: {{policy: light, checks: ['test ! -e .git && {suite} {project.tests}']}}\n",
            ),
        },
        title=f"The suite of {project.name}",
    )
    before = real.git("status", "--porcelain")
    result = real.runner("run", protocol, rc=0)
    assert real.state(protocol)["status"] == "completed", result.err
    passed = re.search(r"(\d+) passed", real.git("show", f"{protocol}:suite.txt"))
    assert passed and int(passed[1]) >= MANY, "the suite found no tests"
    assert real.git("show", f"{protocol}:setups.txt").strip() == "1", "the setup ran again, although nothing changed"
    log = real.log(protocol)
    assert "qa-passed again" in log and '"executor":"sandbox"' in log
    assert real.git("status", "--porcelain") == before
    real.runner("verify", protocol, rc=0)
