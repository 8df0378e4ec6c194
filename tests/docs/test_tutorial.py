"""docs/tutorial.md, typed: nothing but its commands, by a reader, a colleague and a newcomer, on a project of the package index.

The reader's project is h11, or what TUTORIAL_PROJECT names (`parse==1.20.2`), whose remote is a folder; the model is a script behind
Gemini's wire format. What each of them typed, and waited for, is printed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from runner.sandbox.bubblewrap import Bubblewrap
from tests.conftest import slack
from tests.docs.typed import ROOT, Block, Typist, blocks, copy_of_checkout, environment, without_runner
from tests.engines.wire_gemini import KEY, Answer, Json, Refusal, Reply, error, serving

PAGE = "docs/tutorial.md"
PROJECT, NEEDS = os.environ.get("TUTORIAL_PROJECT", "h11==0.16.0"), "pytest==8.4.2"
COMMANDS = 22  # that the reader types until the first work is merged, and explained


def turn(text: str, *calls: tuple[str, Json]) -> Answer:
    """What the model says: text, and calls."""
    parts: list[Json] = [{"text": text}] if text else []
    parts += [{"functionCall": {"name": name, "args": args}} for name, args in calls]
    usage = {"promptTokenCount": 1500, "candidatesTokenCount": 90, "totalTokenCount": 1590}
    return Answer(pieces=[parts], usage=usage)


def work(title: str, slug: str, path: str, text: str) -> list[Reply]:
    """A planner that tries the tests and plans one step, and an agent that writes one file."""
    step = {
        **{"slug": slug, "title": f"Write {path}", "kind": "agent", "prose": f"{title}."},
        **{"outputs": [path], "checks": ["python3 -m pytest"]},
    }
    plan = {"title": title, "prose": "New people look there.", "acceptance": [f"{path} says it"], "steps": [step]}
    said = title.replace("Say in ", "").replace(path, f"{path} says")
    return [
        turn("I see whether the tests run.", ("run_check", {"command": "python3 -m pytest"})),
        turn("", ("propose_plan", plan)),
        turn("", ("list_files", {})),
        turn("", ("write_file", {"path": path, "content": text})),
        turn("", ("finish", {"status": "done", "summary": f"{said}."})),
    ]


HELLO = turn("Hello.")
GUIDE = "# Contributing\n\nInstall pytest, then run the tests:\n\n    python3 -m pytest\n"
SECURITY = "# Security\n\nWrite to security@example.test.\n"
SCRIPT: list[Reply] = [
    HELLO,
    *work("Say in CONTRIBUTING.md how to run the tests", "guide", "CONTRIBUTING.md", GUIDE),
    *work("Say in SECURITY.md where to report a hole", "policy", "SECURITY.md", SECURITY),
    Refusal(code=404, body=error(404, "NOT_FOUND", "models/gemini-3.8-flsh is not found")),
    HELLO,
]


def fetch(into: Path) -> Path:
    """Fetch the project's sources, and return a bare repository that has them."""
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", str(into), PROJECT]
    subprocess.run(pip, check=True, timeout=300, capture_output=True)
    (archive,) = into.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(into, filter="data")
    source, shared = into / PROJECT.replace("==", "-"), into / "shared.git"
    (source / ".gitignore").write_text(".venv\n")
    who = ("-c", "user.name=Maintainer", "-c", "user.email=maintainer@example.test", "-c", "safe.directory=*")
    for words in (
        ["init", "-q", "-b", "main", "."],
        ["add", "-A"],
        ["commit", "-qm", "start"],
        ["clone", "-q", "--bare", ".", shared],
    ):
        subprocess.run(["git", *who, *words], cwd=source, check=True)
    return shared


def person(folder: Path, name: str, shared: Path, *, cloned: bool, more: dict[str, str]) -> Typist:
    """Somebody with a HOME, in which `shared.git` is the remote; `cloned`: and their project is. Without the runner."""
    folder.mkdir()
    cache = subprocess.run([sys.executable, "-m", "pip", "cache", "dir"], capture_output=True, text=True).stdout.strip()
    env = {**without_runner(environment(folder, name)), "PIP_CACHE_DIR": cache, **more}
    home = Path(env["HOME"])
    (home / "shared.git").symlink_to(shared)
    if cloned:
        subprocess.run(["git", "clone", "-q", shared, home / "your-project"], env=env, check=True)
        at = home / "your-project/.venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", at], check=True)
        subprocess.run([sys.executable, "-m", "pip", "--python", at / "bin/python", "install", "-q", NEEDS], check=True)
    return Typist(home, env)


def filled(block: Block) -> Block:
    """A block with the key that the page leaves to the reader."""
    from dataclasses import replace

    return replace(block, code=block.code.replace("KEY=…", f"KEY={KEY}"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_tutorial_ends_with_merged_work_by_what_it_says_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if (why := Bubblewrap().check()) is not None:
        pytest.skip(f"no working sandbox here: {why}")
    (tmp_path / "fetched").mkdir()
    shared = fetch(tmp_path / "fetched")
    install, *others = blocks(PAGE)
    assert "install" in install.how
    with serving(*SCRIPT) as wire:
        more = {"GOOGLE_GEMINI_BASE_URL": wire.url, "NO_PROXY": "*"}
        reader = person(tmp_path / "reader", "Alice", shared, cloned=True, more=more)
        colleague = person(tmp_path / "colleague", "Bob", shared, cloned=False, more={})
        newcomer = person(tmp_path / "newcomer", "", shared, cloned=True, more=more)
        began = time.monotonic()
        for block in (Block(f"cd {copy_of_checkout(tmp_path)}\n"), install):
            reader.type(block)
        for other in (colleague, newcomer):  # who installed it in the same way
            (other.folder / ".local").symlink_to(reader.folder / ".local")
            other.type(Block('export PATH="$HOME/.local/bin:$PATH"\n'))
        took = {reader.folder: time.monotonic() - began, colleague.folder: 0.0, newcomer.folder: 0.0}
        typed = {reader.folder: len(install.code.splitlines()), colleague.folder: 0, newcomer.folder: 0}
        for block in others:
            who = colleague if "colleague" in block.how else newcomer if "newcomer" in block.how else reader
            began = time.monotonic()
            who.type(filled(block))
            took[who.folder] += time.monotonic() - began
            typed[who.folder] += len(block.code.splitlines())
        assert not wire.wrong and len(wire.bodies) == len(SCRIPT)
    with capsys.disabled():
        for name, who in (("reader", reader), ("colleague", colleague), ("newcomer", newcomer)):
            print(
                f"\n{PROJECT}: the {name} typed {typed[who.folder]} lines and waited {took[who.folder]:.0f} s", end=""
            )
        print()
    log = subprocess.run(["git", "log", "--format=%an %s"], cwd=shared, capture_output=True, text=True, check=True)
    assert log.stdout.splitlines()[:2] == [
        "Alice Say in SECURITY.md where to report a hole",
        "Alice Say in CONTRIBUTING.md how to run the tests",
    ]
    # What people wait for; reading and typing is left of ten minutes, and of two.
    assert took[reader.folder] < 240 * slack() and took[colleague.folder] < 30 * slack(), took


def test_the_tutorial_is_short() -> None:
    text = (ROOT / PAGE).read_text()
    first = [block.code for block in blocks(PAGE)]
    until = next(at for at, code in enumerate(first) if "runner why" in code)
    lines = "".join(first[: until + 1]).splitlines()
    assert len(lines) <= COMMANDS
    assert len(re.findall(r"```sh\n", text)) == len(first), "a block that no test types"
