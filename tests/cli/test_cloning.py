"""`runner init --clone`: from an empty remote, a private one, into a folder that is there; interrupted, nothing is left."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Box, mostly_slow
from tests.store.test_token import TOKEN, Backend

PROMPTLESS = {"GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "true"}  # nobody is here, whatever the tests run at


@pytest.fixture
def at(tmp_path: Path) -> Path:
    """Where the person is."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def private(remote: Box) -> Iterator[Backend]:
    """The remote over smart HTTP, for those who have the token."""
    found = Backend(remote.path.parent, "x-access-token")
    yield found
    found.close()


@contextlib.contextmanager
def silent() -> Iterator[str]:
    """A server that takes requests and never answers: its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/o/r.git"


def nothing_of(secret: str, *folders: Path) -> bool:
    """Whether no file of these folders holds it."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return not any(secret.encode() in path.read_bytes() for path in files)


def test_an_empty_remote_is_set_up_with_its_first_commit(box: Box, at: Path, tmp_path: Path) -> None:
    bare = tmp_path / "empty.git"
    box.git("init", "-q", "--bare", bare)
    told = box.runner("init", "--clone", bare, "--commit", cwd=at, rc=0)
    assert "cloned into" in told.err and "git push origin main" in told.err and "base main" in told.err
    here = at / "empty"
    assert (
        box.git("status", "--porcelain", cwd=here) == "" and box.git("rev-list", "--count", "HEAD", cwd=here) == "1\n"
    )
    box.git("push", "-q", "origin", "main", cwd=here)
    assert box.runner("new", "X", "--manual", cwd=here, rc=0).out == "0001-x\n"


def test_a_model_has_nothing_to_look_at_in_an_empty_remote(box: Box, at: Path, tmp_path: Path) -> None:
    bare = tmp_path / "empty.git"
    box.git("init", "-q", "--bare", bare)
    told = box.runner("init", "--clone", bare, "--discover", "--yes", cwd=at, rc=2)
    assert "no commits yet" in told.err and [path.name for path in (at / "empty").iterdir()] == [".git"]


def test_a_private_remote_is_cloned_with_the_token_which_is_kept_nowhere(
    remote: Box, private: Backend, at: Path
) -> None:
    told = remote.runner("init", "--clone", private.url, "--yes", cwd=at, env={"RUNNER_GIT_TOKEN": TOKEN}, rc=0)
    assert (at / "origin/README.md").is_file() and private.served
    assert TOKEN not in told.out + told.err and nothing_of(TOKEN, at, remote.home)


def test_a_private_remote_is_cloned_with_the_persons_own_helper(remote: Box, private: Backend, at: Path) -> None:
    helper = f"!f() {{ echo username=x-access-token; echo password={TOKEN}; }}; f"
    remote.git("config", "--global", f"credential.{private.url.removesuffix('/origin.git')}.helper", helper)
    remote.runner("init", "--clone", private.url, "--yes", cwd=at, rc=0)
    assert (at / "origin/README.md").is_file() and nothing_of(TOKEN, at)


def test_without_either_it_is_refused_and_nothing_is_left(remote: Box, private: Backend, at: Path) -> None:
    told = remote.runner("init", "--clone", private.url, "--yes", cwd=at, env=PROMPTLESS, rc=69)
    assert "could not be cloned" in told.err and not list(at.iterdir()) and not private.served


def test_a_password_in_the_address_is_not_told(remote: Box, private: Backend, at: Path) -> None:
    url = private.url.replace("http://", "http://someone:wrong-canary-5@")
    told = remote.runner("init", "--clone", url, "--yes", cwd=at, env=PROMPTLESS, rc=69)
    assert "wrong-canary-5" not in told.out + told.err and "127.0.0.1" in told.err and not list(at.iterdir())


def test_into_a_folder_that_is_there_only_where_it_is_empty(remote: Box, at: Path) -> None:
    (at / "here").mkdir()
    remote.runner("init", "--clone", "../origin.git", "here", "--yes", cwd=at, rc=0)
    before = sorted(at.rglob("*"))
    told = remote.runner("init", "--clone", "../origin.git", "here", "--yes", cwd=at, rc=2)
    assert "not empty" in told.err and "init" in told.err.partition("next:")[2] and sorted(at.rglob("*")) == before
    (at / "file").write_text("mine\n")
    remote.runner("init", "--clone", "../origin.git", "file", cwd=at, rc=2)
    assert (at / "file").read_text() == "mine\n"


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("number", mostly_slow([signal.SIGINT, signal.SIGTERM], 1))
def test_interrupted_it_leaves_nothing(box: Box, at: Path, existing: bool, number: signal.Signals) -> None:
    if existing:
        (at / "here").mkdir()
    with silent() as url:
        child = box.start("init", "--clone", url, "here", "--yes", cwd=at)
        end = time.monotonic() + 100
        while not (at / "here/.git").exists() and child.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        assert (at / "here/.git").exists()
        child.send_signal(number)
        _, told = child.communicate(timeout=100)
    assert child.returncode == 130 and "interrupted" in told, told
    assert [path.name for path in at.rglob("*")] == (["here"] if existing else [])


@pytest.mark.slow
def test_interrupted_while_git_is_started_it_leaves_nothing(box: Box, at: Path, tmp_path: Path) -> None:
    real = shutil.which("git")
    fake = tmp_path / "bin/git"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\n[ "$1" != clone ] || kill -TERM $PPID\nexec {real} "$@"\n')
    fake.chmod(0o755)
    with silent() as url:
        for _ in range(5):
            child = box.start(
                "init", "--clone", url, "here", "--yes", cwd=at, env={"PATH": f"{fake.parent}:{os.environ['PATH']}"}
            )
            _, told = child.communicate(timeout=100)
            assert child.returncode == 130 and "interrupted" in told, told
            assert list(at.iterdir()) == []
