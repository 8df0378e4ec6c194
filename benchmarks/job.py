"""What a CI job costs before and after its work: from an empty folder to the pushed transition, with a cold and a warm cache.

The runner is installed as the job that `runner init` writes does it: by uv, and by pip where there is no uv. Beside it the least
job of pre-commit (installed, one hook that does nothing) and of langgraph (installed, one step kept on SQLite). All of them make
an environment, install from the package index that is configured for pip, and clone; a program that cannot be installed is an
empty row with the reason.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks import ground as ground_
from benchmarks.ground import ROOT, Ground
from benchmarks.measure import Act, Figure, Spread, timed, within
from benchmarks.peers import installing
from benchmarks.steps import SCRIPTS

_HOOK = "repos:\n- repo: local\n  hooks:\n  - {id: none, name: none, entry: 'true', language: system}\n"


def run(ground: Ground) -> Iterator[Figure]:
    """Measure the jobs in turns, each round with a cache of its own: first cold, then warm."""
    wheel = _wheel(ground)
    pins = installing.pins(installing.LIBRARIES)
    jobs: dict[str, Callable[[Path, Path], Act]] = {
        "runner": partial(_runner, ground, wheel, None),
        "runner, by uv": partial(_runner, ground, wheel, _uv(ground, pins["uv"])),
        "pre-commit": partial(_pre_commit, ground, pins["pre-commit"].packages),
        "langgraph": partial(_langgraph, ground, pins["langgraph"].packages),
    }
    times: dict[tuple[str, str], list[float]] = {}
    why: dict[str, str] = {}
    for turn in range(1 if ground.quick else 3):
        for name, job in jobs.items():
            cache = ground.at / f"cache-{name}-{turn}"
            for state in ("cold", "warm"):
                at = ground.at / f"job-{name}-{state}-{turn}"
                at.mkdir()
                act = job(at, cache)  # what it finds there is no part of its time
                try:
                    times.setdefault((name, state), []).append(timed(act))
                except SystemExit as error:
                    why[name] = installing.last_line(str(error))
                    break
    for name in jobs:
        for state in ("cold", "warm"):
            found = times.get((name, state))
            title = f"job, {state} cache: {name}"
            if name == "runner, by uv" and found and state == "warm":
                yield within(title, Spread(tuple(found)), 4, Spread(tuple(times["runner", state])))
                continue
            if not found:
                yield Figure(f"{title}: {why[name]}", "")
                continue
            spread, ours = Spread(tuple(found)), times.get(("runner", state))
            yield Figure(title, spread.text(), spread.median / Spread(tuple(ours)).median if ours else None)


def _wheel(ground: Ground) -> Path:
    """Build the wheel of this tree, from a copy of it."""
    copy, made = ground.at / "source", ground.at / "wheel"
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy / name)
    ground.run([sys.executable, "-m", "venv", ground.at / "builder"], ground.at)
    ground.run([ground.at / "builder/bin/python", "-m", "pip", "wheel", "-q", "--no-deps", "-w", made, copy], ground.at)
    return next(made.glob("*.whl"))


def _install(ground: Ground, at: Path, cache: Path, *packages: str) -> Path:
    ground.run([sys.executable, "-m", "venv", "env"], at)
    quiet: list[str | Path] = ["--quiet", "--no-input", "--disable-pip-version-check", "--cache-dir", cache]
    ground.run([at / "env/bin/python", "-m", "pip", "install", *quiet, *packages], at, {"PYTHONPATH": ""})
    return at / "env/bin"


def _uv(ground: Ground, pin: installing.Pin) -> Path:
    """Return uv; a path where there is nothing if it cannot be installed, which makes an empty row."""
    found = installing.install(pin, ground.at / "uv")
    return ground.at / "no-uv" if isinstance(found, installing.Missing) else found


def _install_by_uv(ground: Ground, uv: Path, at: Path, cache: Path, package: Path) -> Path:
    if not uv.exists():
        raise SystemExit("uv was not installed")
    told = {"PYTHONPATH": "", "UV_CACHE_DIR": str(cache)}
    ground.run([uv, "venv", "--quiet", "--no-config", "--python", sys.executable, "env"], at, told)
    python = at / "env/bin/python"
    quiet: list[str | Path] = [
        "--quiet",
        "--no-config",
        "--system-certs",
    ]  # as pip, which also trusts what this machine trusts
    ground.run([uv, "pip", "install", *quiet, "--python", python, package], at, told)
    return at / "env/bin"


def _runner(ground: Ground, wheel: Path, uv: Path | None, at: Path, cache: Path) -> Act:
    remote = ground.repository(50)
    with ground.session(remote) as session:
        protocol = ground_.new(session, steps=1)
    bare = ground.twin(remote)
    before = ground.git(bare, "rev-parse", protocol)

    def act() -> None:
        programs = _install_by_uv(ground, uv, at, cache, wheel) if uv else _install(ground, at, cache, str(wheel))
        ground.git(at, "clone", "-q", str(bare), "clone")
        ground.git(at / "clone", "branch", "-q", protocol, f"origin/{protocol}")
        words = ["step", protocol, "--publish", "always", "--executor", "host", "--ephemeral"]
        ground.run([programs / "runner", *words], at / "clone", {"PYTHONPATH": ""})
        if ground.git(bare, "rev-parse", protocol) == before:
            raise SystemExit("nothing was pushed")

    return act


def _pre_commit(ground: Ground, packages: tuple[str, ...], at: Path, cache: Path) -> Act:
    remote = ground.repository(50)
    (remote / ".pre-commit-config.yaml").write_text(_HOOK)
    ground.git(remote, "add", ".")
    ground.git(remote, "commit", "-q", "-m", "hook")

    def act() -> None:
        programs = _install(ground, at, cache, *packages)
        ground.git(at, "clone", "-q", str(remote), "clone")
        told = {"PYTHONPATH": "", "PRE_COMMIT_HOME": str(at)}
        ground.run([programs / "pre-commit", "run", "--all-files"], at / "clone", told)

    return act


def _langgraph(ground: Ground, packages: tuple[str, ...], at: Path, cache: Path) -> Act:
    def act() -> None:
        programs = _install(ground, at, cache, *packages)
        ground.run([programs / "python", "-c", SCRIPTS["langgraph"], "1"], at, {"PYTHONPATH": ""})

    return act
