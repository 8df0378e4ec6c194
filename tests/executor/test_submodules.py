"""Steps and checks see the content of submodules and of LFS's files where the project says so, and cannot change it."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from runner.sandbox.bubblewrap import Bubblewrap
from tests.conftest import Box, command

SANDBOX = {"RUNNER_EXECUTOR": "sandbox"}
CONFIG = ".protocols/config.yaml"
BIG = b"\0the content\n" * 100


@pytest.fixture(autouse=True)
def works() -> None:
    if (why := Bubblewrap().check()) is not None:
        pytest.skip(f"allowed: no sandbox here: {why}")


@pytest.fixture
def nested(box: Box, tmp_path: Path) -> Box:
    """A project with a submodule in `libs/one`, which has one in `two`."""
    for name in ("two", "one"):
        at = tmp_path / name
        at.mkdir()
        box.git("init", "-q", "-b", "main", cwd=at)
        (at / f"{name}.txt").write_text(f"{name}\n")
        if name == "one":
            add(box, tmp_path / "two", "two", at)
        box.commit(name, cwd=at)
    add(box, tmp_path / "one", "libs/one", box.path)
    box.git(*LOCAL, "submodule", "update", "-q", "--init", "--recursive")
    box.commit("a submodule")
    return box


LOCAL = ("-c", "protocol.file.allow=always")


def add(box: Box, source: Path, path: str, to: Path) -> None:
    box.git(*LOCAL, "submodule", "--quiet", "add", str(source), path, cwd=to)


def configured(box: Box, line: str) -> None:
    box.write(CONFIG, f"workspace: {line}\n")
    box.commit("configured")


def lfs(box: Box, *, has_content: bool = True) -> str:
    """Commit a pointer of LFS, with its content in the clone."""
    oid = hashlib.sha256(BIG).hexdigest()
    box.write(".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n")
    box.write("data/big.bin", f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(BIG)}\n")
    box.commit("a file of LFS")
    if has_content:
        box.write(f".git/lfs/objects/{oid[:2]}/{oid[2:4]}/{oid}", BIG)
    return oid


def ran(box: Box, run: str, check: str = "true", rc: int = 0) -> tuple[str, str]:
    """Run a step in the sandbox; return the protocol's id, and what was printed."""
    protocol = box.new({"01-work": command(run, f"qa: {{checks: ['{check}']}}\n")})
    return protocol, box.runner("run", protocol, env=SANDBOX, rc=rc).err


def test_submodules_and_those_in_them_are_there_for_steps_checks_and_the_setup(nested: Box) -> None:
    configured(nested, "{submodules: true, setup: 'cat libs/one/one.txt > ~/seen'}")
    look = "grep -x one libs/one/one.txt && grep -x two libs/one/two/two.txt && grep -x one ~/seen"
    protocol, said = ran(nested, f"{look} && touch done.txt", look)
    assert "empty" not in said
    assert nested.git("diff", "--name-only", "main", protocol, "--", "libs") == ""


def test_a_step_cannot_change_a_submodule(nested: Box) -> None:
    configured(nested, "{submodules: true}")
    spoil = "! touch libs/one/new && ! rm libs/one/one.txt && ! mv libs/one away && touch done.txt"
    protocol, _ = ran(nested, spoil, "grep -x one libs/one/one.txt && test ! -e libs/one/new")
    assert nested.git("diff", "--name-only", "main", protocol, "--", "libs", "away") == ""
    assert (nested.path / "libs/one/one.txt").read_text() == "one\n"


def test_each_commit_of_a_submodule_is_taken_out_once(nested: Box) -> None:
    configured(nested, "{submodules: true}")
    for _ in range(2):
        ran(nested, "cat libs/one/one.txt > seen.txt")
    found = sorted(path.name for path in nested.home.glob(".local/state/protocol-runner/*/environments/*"))
    oid = nested.git("rev-parse", "main:libs/one").strip()
    assert len(found) == 2 and f"submodule-{oid}" in found


def test_a_submodule_that_is_not_in_the_clone_stops_the_step_with_the_way_out(nested: Box) -> None:
    configured(nested, "{submodules: true}")
    shutil.rmtree(nested.path / ".git/modules")
    shutil.rmtree(nested.path / "libs/one")
    protocol, said = ran(nested, "true", rc=1)
    assert "the submodule libs/one is not in this clone" in said and "`git submodule update --init --recursive`" in said
    assert nested.state(protocol)["steps"]["work"]["attempt"] == 1


@pytest.mark.parametrize("executor", ["sandbox", "host"])
def test_the_first_run_and_doctor_say_what_is_empty(nested: Box, executor: str) -> None:
    lfs(nested)
    env = {"RUNNER_EXECUTOR": executor}
    protocol = nested.new({"01-a": command("test ! -e libs/one/one.txt"), "02-b": command("grep oid data/big.bin")})
    told = [nested.runner("step", protocol, env=env, rc=0).err for _ in range(2)]
    one = "empty in steps and checks: submodule libs/one; `workspace: {submodules: true}` in .protocols/config.yaml shows it"
    two = "a pointer, not its content, in steps and checks: file of LFS data/big.bin; "
    two += "`workspace: {lfs: true}` in .protocols/config.yaml shows it"
    assert one in told[0] and two in told[0] and "submodule" not in told[1]
    examined = nested.runner("doctor", env=env).out
    assert one.partition(";")[0] in examined and two.partition(";")[0] in examined
    configured(nested, "{submodules: true, lfs: true}")
    examined = nested.runner("doctor", env=env).out
    assert ("in steps and checks" in examined) == (executor == "host")


def test_a_path_of_a_submodule_reaches_no_terminal_as_it_is(nested: Box) -> None:
    nested.git("mv", "libs/one", "libs/\x1b[2Jone")
    nested.commit("moved")
    for said in (ran(nested, "touch done.txt")[1], nested.runner("doctor", env=SANDBOX).out):
        assert "empty in steps" in said and "\x1b" not in said


def test_files_of_lfs_have_their_content_and_the_commit_has_the_pointer(box: Box) -> None:
    oid = lfs(box)
    configured(box, "{lfs: true}")
    look = f"sha256sum data/big.bin | grep ^{oid}"
    protocol, said = ran(box, f'{look} && ! sh -c ": > data/big.bin" && touch done.txt', look)
    assert "LFS" not in said and box.git("diff", "--name-only", "main", protocol, "--", "data") == ""
    assert (box.path / f".git/lfs/objects/{oid[:2]}/{oid[2:4]}/{oid}").read_bytes() == BIG


def test_content_of_lfs_that_is_not_in_the_clone_stays_a_pointer_and_that_is_said(box: Box) -> None:
    lfs(box, has_content=False)
    configured(box, "{lfs: true}")
    _, said = ran(box, "grep ^oid data/big.bin && touch done.txt")
    assert said.count("data/big.bin stays a pointer") == 1 and "`git lfs fetch`" in said


def test_a_pointer_that_a_step_writes_stays_one_and_a_file_that_looks_like_one_is_none(box: Box) -> None:
    oid = lfs(box)
    configured(box, "{lfs: true}\nfilters: [lfs]")
    box.git("config", "--global", "filter.lfs.clean", "cat")
    new = f"sed s/{oid[:8]}/00000000/ .big > data/new.bin"
    box.write(".big", box.git("show", "HEAD:data/big.bin"))
    box.commit("a file that only looks like one of LFS")
    ran(box, new, f"grep 00000000{oid[8:]} data/new.bin && sha256sum data/big.bin | grep ^{oid}")
