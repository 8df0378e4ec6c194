"""A remote that is asked without encryption is not trusted: anybody on the way could say who may approve."""

from __future__ import annotations

import re

import pytest

from tests.conftest import Box, command

STEPS = {"01-a": command("echo a > a.txt")}
COMMANDS = [
    ("new", "A plan", "--manual"),
    ("sync",),
    ("doctor",),
    ("policy", "check", "--tool", "run"),
]


@pytest.mark.parametrize("url", ["http://example.test/a/b.git", "HTTP://example.test/b", "git://example.test/b", "ftp://example.test/b",
                                 "http://127.0.0.1.example.test/b", "http://localhost@example.test/b", "http://[fe80::1]:8080/b",
                                 "http://[x/b"])  # fmt: skip
def test_it_is_refused_with_what_to_type(remote: Box, url: str) -> None:
    remote.git("config", "remote.origin.url", url)
    done = remote.runner("new", "A plan", "--plan", remote.plan(STEPS), rc=4)
    assert "anybody on the network path" in done.err
    assert re.search(r"next: `git remote set-url origin '?https://", done.err)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_no_command_trusts_it(remote: Box, words: tuple[str, ...]) -> None:
    remote.git("config", "remote.origin.url", "http://example.test/a/b.git")
    done = remote.runner(*words)
    assert done.code in (2, 4)
    assert "git remote set-url origin https://example.test/a/b.git" in done.out + done.err


def test_what_is_offered_leads_out(remote: Box) -> None:
    good = remote.git("config", "remote.origin.url").strip()
    protocol = remote.new(STEPS)
    remote.runner("run", protocol, rc=0)
    remote.git("config", "remote.origin.url", "http://example.test/b.git")
    done = remote.runner("run", protocol, rc=4)
    assert "then `runner doctor --repin`" in done.err
    remote.git("remote", "set-url", "origin", good)
    remote.runner("doctor", "--repin", rc=0)
    remote.runner("run", protocol, rc=0)


@pytest.mark.parametrize("host", ["127.0.0.1:9", "localhost:9", "[::1]:9", "127.8.9.1:9"])
def test_this_machine_is_asked_as_it_likes(remote: Box, host: str) -> None:
    remote.git("config", "remote.origin.url", f"http://{host}/b.git")
    done = remote.runner("new", "A plan", "--plan", remote.plan(STEPS))
    assert "anybody on the network path" not in done.err
