"""One `runner step`, a whole process: what it loads and starts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Box, command

ASKS = "kind: human\n"
ECHO = "kind: tool\ntool: echo\nwith: {text: a}\n"
HEAVY = {"pydantic", "jsonschema", "rich", "git", "tenacity", "asyncio"}
CODE = """
import contextlib, gc, sys
from runner import Unused
from runner.cli import main
with contextlib.suppress(SystemExit): main.call(['step', '1'])
ours = [
    one for one in gc.get_objects()
    if isinstance(one, type) and {'__dataclass_fields__', '__slots__'} <= vars(one).keys() and one.__module__[:7] == 'runner.'
]
ran = [name for name, one in sys.modules.items() if type(one) is not Unused]
print(len(ours), *ran, file=sys.stderr)
"""


class Step:
    """What a step, as a process of its own, loaded and started."""

    def __init__(self, box: Box, tmp_path: Path) -> None:
        told, bin_ = tmp_path / "told", tmp_path / "bin"
        told.write_text("")
        for name in ("git", "bwrap") if not bin_.exists() else ():  # another program is tried anew
            bin_.mkdir(exist_ok=True)
            (bin_ / name).write_text(
                f'#!/bin/sh\necho {name} "$@" >> {told}\n'
                f'case "$*" in *cat-file*) tee -a {told}.read | {shutil.which(name)} "$@"; exit;; esac\n'
                f'exec {shutil.which(name)} "$@"\n'
            )
            (bin_ / name).chmod(0o755)
        env = {
            **box.environment({"RUNNER_EXECUTOR": "sandbox"}),
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}",
        }
        argv = [sys.executable, "-c", CODE]
        done = subprocess.run(argv, cwd=box.path, env=env, capture_output=True, text=True, check=True)
        classes, *loaded = done.stderr.splitlines()[-1].split()
        self.dataclasses, self.loaded = int(classes), set(loaded)
        self.own = [name for name in loaded if name.startswith("runner")]
        self.started = told.read_text().splitlines()
        self.read = Path(f"{told}.read").read_text().splitlines()

    def count(self, program: str) -> int:
        """Return how often it started a program."""
        return sum(line.split()[0] == program for line in self.started)


def test_a_step_that_only_records_makes_few_dataclasses_and_starts_few_gits(box: Box, tmp_path: Path) -> None:
    box.new({"01-ask": ASKS, "02-a": command("true")})
    step = Step(box, tmp_path)
    assert 5 < step.dataclasses <= 25  # Python takes half a millisecond for each; a NamedTuple takes a tenth
    assert not step.loaded & HEAVY and len(step.loaded) <= 240
    assert step.count("git") <= 7 and not step.count("bwrap")


def test_a_built_in_tool_needs_no_sandbox_and_no_library_of_schemas(box: Box, tmp_path: Path) -> None:
    protocol = box.new({"01-a": ECHO})
    step = Step(box, tmp_path)
    assert not step.count("bwrap") and not step.loaded & HEAVY
    assert step.count("git") <= 7
    assert box.state(protocol)["steps"]["a"]["status"] == "completed"


def test_a_step_asks_git_for_few_paths_and_resolves_no_id(box: Box, tmp_path: Path) -> None:
    box.new({"01-a": ECHO})
    step = Step(box, tmp_path)
    asked = [line for line in step.read if line.partition(":")[2].startswith(".protocols")]
    assert 3 < len(asked) <= 12  # some twice: git, held open, answers as fast as a cache
    assert not [line for line in step.read if line.endswith("^{commit}") and "refs/" not in line]


def test_gits_version_is_asked_once(box: Box, tmp_path: Path) -> None:
    box.new({"01-ask": ASKS})
    first, second = Step(box, tmp_path), Step(box, tmp_path)
    asked = [sum(line == "git version" for line in one.started) for one in (first, second)]
    assert asked == [1, 0]
    (tmp_path / "bin/git").write_text("#!/bin/sh\necho git version 2.30.1\n")
    assert "git is too old: git version 2.30.1" in box.runner("step", rc=2, env={"PATH": f"{tmp_path}/bin"}).err


def test_files_that_were_read_before_are_not_parsed_again(box: Box, tmp_path: Path) -> None:
    box.new({f"{number:02}-a{number}": ECHO for number in range(1, 6)})
    first, second = Step(box, tmp_path), Step(box, tmp_path)
    assert "yaml" in first.loaded and "yaml" not in second.loaded
    (kept,) = box.home.glob(".local/state/protocol-runner/*/documents.json")
    told = json.loads(kept.read_bytes())
    for damaged in (b"", b"{", b"[]", json.dumps({**told, "reader": [0]}).encode()):
        kept.write_bytes(damaged)
        assert "yaml" in Step(box, tmp_path).loaded
    assert json.loads(kept.read_bytes()) == told


def test_the_sandbox_is_tried_once(box: Box, tmp_path: Path) -> None:
    box.new({"01-a": command("true"), "02-b": command("true")})
    first, second = Step(box, tmp_path), Step(box, tmp_path)
    assert (first.count("bwrap"), second.count("bwrap")) == (3, 1)  # what it can do, whether it works; the command


END = """
import atexit, sys, threading, time
from runner.cli.main import main
class Kept:
    def __del__(self): print('taken apart')
kept = Kept()
atexit.register(print, 'at exit')
if sys.argv.pop() == 'thread':
    threading.Thread(target=lambda: (time.sleep(0.5), print('thread'))).start()
main(['--version'])
"""


def test_a_command_ends_without_taking_apart_what_it_loaded() -> None:
    def ended(word: str, stdout: int = subprocess.PIPE) -> tuple[int, list[str]]:
        done = subprocess.run([sys.executable, "-c", END, word], stdout=stdout, stderr=subprocess.PIPE, text=True)
        return done.returncode, (done.stdout or "").splitlines()[1:]

    assert ended("alone") == (0, ["at exit"])
    assert ended("thread") == (0, ["thread", "at exit", "taken apart"])
    with open("/dev/full", "wb") as full:
        assert ended("alone", full.fileno())[0] != 0


def test_a_workspace_that_nobody_changed_follows_the_record_alone(box: Box, tmp_path: Path) -> None:
    box.new({"01-a": command("echo a > a.txt"), "02-b": command("test -f a.txt"), "03-c": command("true")})
    steps = [Step(box, tmp_path) for _ in range(3)]
    acts = [[line.split()[1:] for line in one.started if line.startswith("git ")] for one in steps]
    writes = [
        {word for words in one for word in words if word in ("read-tree", "clean", "write-tree", "add", "update-index")}
        for one in acts
    ]
    assert writes == [{"read-tree", "update-index", "write-tree"}, set(), set()]
    assert not any("pack-objects" in words for words in acts[2])
    assert len(acts[2]) <= 8 and [words.count("config") for words in acts[2]].count(1) == 1


@pytest.mark.parametrize("how", ["changed", "gone", "new", "an empty folder", "a link", "of the record", "executable"])
def test_a_workspace_that_was_changed_between_steps_is_made_again(box: Box, how: str) -> None:
    look = (
        "git status --porcelain > seen.txt; find . -name .git -prune -o -print >> seen.txt; cat README.md >> seen.txt"
    )
    protocol = box.new({"01-a": command("mkdir d; echo d > d/f.txt"), "02-b": command(look)})
    box.runner("step", rc=0)
    (work,) = box.home.glob(".local/state/protocol-runner/*/*/work")
    match how:
        case "changed":
            (work / "README.md").write_text("hello there")
        case "gone":
            (work / "README.md").unlink()
        case "new":
            (work / "more.txt").write_text("more")
        case "an empty folder":
            (work / "more").mkdir()
        case "a link":
            (work / "d/f.txt").rename(work / "f.txt")
            (work / "d").rmdir()
            (work / "d").symlink_to(".")
        case "of the record":
            (work / f".protocols/{protocol}/state.json").write_text("{}")
        case _:
            (work / "README.md").chmod(0o755)
    box.runner("step", rc=0)
    expected = set(box.git("ls-tree", "-r", "-t", "--name-only", f"{protocol}~1").splitlines())
    seen = box.git("show", f"{protocol}:seen.txt").splitlines()
    readme = box.git("show", "main:README.md").splitlines()
    assert {line[2:] for line in seen if line.startswith("./")} == expected | {"seen.txt"}
    assert [line for line in seen if not line.startswith(".")] == ["?? seen.txt", *readme]
