"""RUNNER_GIT_TOKEN: given to git for the one remote, over smart HTTP with authentication, and found nowhere afterwards."""

from __future__ import annotations

import base64
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from runner.git.repository import token_settings
from tests.conftest import Box, command
from tests.forge import smart_http

TOKEN = "canary-5f1d2c3b4a"


class Backend:
    """`git http-backend` behind basic authentication; notes who asked."""

    def __init__(self, root: Path, user: str) -> None:
        wanted = "Basic " + base64.b64encode(f"{user}:{TOKEN}".encode()).decode()
        self.refused = self.served = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                data = smart_http.body(self)
                if self.headers.get("Authorization") != wanted:
                    outer.refused += 1
                    smart_http.refuse(self)
                    return
                outer.served += 1
                smart_http.serve(self, root, data, "runner")

            do_GET = do_POST = _serve

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/origin.git"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def backend(remote: Box) -> Iterator[Backend]:
    bare = remote.path.parent / "origin.git"
    remote.git("config", "http.receivepack", "true", cwd=bare)
    found = Backend(bare.parent, "x-access-token")
    remote.git("remote", "set-url", "origin", found.url)
    yield found
    found.close()


def test_it_pushes_where_nothing_else_is_known(remote: Box, backend: Backend) -> None:
    protocol = remote.new({"01-a": command("env; git config --list; true")})
    assert remote.runner("sync", protocol, rc=69).err and not backend.served
    told = remote.runner("run", protocol, "--ci", env={"RUNNER_GIT_TOKEN": TOKEN}, rc=0)
    there = remote.git("rev-parse", protocol, cwd=remote.path.parent / "origin.git")
    assert there == remote.git("rev-parse", protocol) and backend.served
    assert TOKEN not in told.out + told.err
    for folder in (remote.path, remote.home, remote.path.parent / "origin.git"):
        found = subprocess.run(["grep", "-rl", TOKEN, str(folder)], capture_output=True, text=True)
        assert found.stdout == "", found.stdout


def test_a_wrong_one_is_refused_and_not_told(remote: Box, backend: Backend) -> None:
    protocol = remote.new({"01-a": command("true")})
    done = remote.runner("sync", protocol, env={"RUNNER_GIT_TOKEN": "wrong-canary-77"}, rc=69)
    assert "wrong-canary" not in done.out + done.err and backend.refused and not backend.served


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("https://github.com/o/r", "credential.https://github.com.helper"),
        ("https://someone@gitlab.example.test:8443/g/r.git", "credential.https://gitlab.example.test:8443.helper"),
        ("http://example.test/o/r", None),
        ("git@github.com:o/r.git", None),
        ("ssh://git@github.com/o/r", None),
        ("/srv/git/r.git", None),
        ("file:///srv/r.git", None),
    ],
)
def test_it_goes_to_that_host_alone_and_never_in_the_clear(url: str, key: str | None) -> None:
    assert token_settings(url, {"RUNNER_GIT_TOKEN": TOKEN}).get("GIT_CONFIG_KEY_1") == key
    assert token_settings(url, {}) == {}


def test_gitlabs_job_token_has_a_user_of_its_own() -> None:
    made = token_settings("https://gitlab.com/g/r", {"RUNNER_GIT_TOKEN": TOKEN, "CI_JOB_TOKEN": TOKEN})
    assert "username=gitlab-ci-token" in made["GIT_CONFIG_VALUE_1"] and TOKEN not in made["GIT_CONFIG_VALUE_1"]


def test_a_clone_that_was_deleted_and_made_again_at_its_path(remote: Box, backend: Backend) -> None:
    """As a job does whose machine is kept. What is in no branch, such as what a model said, went with the clone."""
    remote.env["RUNNER_GIT_TOKEN"] = TOKEN
    protocol = remote.new({"01-a": command("true"), "02-b": command("true")})
    remote.runner("run", protocol, "--publish", "always", "--max-steps", "1", rc=0)
    bare, where = remote.path.parent / "origin.git", remote.path
    said = remote.git("commit-tree", "-m", "said", "main^{tree}", cwd=bare).strip()
    remote.git("update-ref", f"refs/runner/history/{protocol}", said, cwd=bare)
    remote.runner("sync", protocol, rc=0)
    shutil.rmtree(where)
    remote.git("clone", "-q", "--no-local", bare, where, cwd=bare)
    remote.git("remote", "set-url", "origin", backend.url)
    newer = remote.git("commit-tree", "-m", "more", "-p", "main", "main^{tree}", cwd=bare).strip()
    remote.git("update-ref", "refs/heads/main", newer, cwd=bare)
    remote.runner("sync", protocol, rc=0)
    assert remote.git("rev-parse", "refs/runner/fetched/trusted").strip() == newer
