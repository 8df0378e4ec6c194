"""A plain clone proves an agent's run: what the proof needs is fetched at a yes, into its place, and never over what is here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import Box, clone, command, mostly_slow
from tests.executor.minds import agent, finish, mind, say, write

REFSPEC = "+refs/runner/*:refs/runner-remote/*"
CANNOT_TELL = 5


@pytest.fixture
def protocol(remote: Box) -> str:
    """A protocol with an agent's step that wrote `made.txt`, merged and published, its history too."""
    remote.write(".protocols/config.yaml", "publish: always\n")
    remote.commit("config")
    remote.git("push", "-q", "origin", "main")
    with mind(remote, say(write("made.txt", "by an agent\n")), finish()):
        made = remote.new({"01-do": agent()})
        remote.runner("run", made, rc=0)
    remote.git("merge", "-q", "--no-ff", "-m", "merged", made)
    remote.git("push", "-q", "origin", "main")
    return made


def plain(remote: Box) -> Box:
    """A clone as git makes it."""
    return clone(remote, "plain")


def terminal(monkeypatch: pytest.MonkeyPatch, answer: str) -> list[str]:
    """Somebody is at a terminal, and gives this answer; return the questions."""
    asked: list[str] = []

    def ask(self: object, question: str, choices: tuple[str, ...]) -> str:
        asked.append(question)
        return answer

    monkeypatch.setattr("runner.cli.console.Console.ask", ask)
    return asked


def refs(box: Box) -> str:
    return box.git("for-each-ref", "refs/runner/history")


WORDS = [("verify", "1"), ("why", "made.txt:1"), ("show", "1", "do", "--transcript"), ("audit", "1", "-o", "-")]


@pytest.mark.parametrize("words", mostly_slow([(words,) for words in WORDS], keep=1))
def test_unasked_nothing_is_fetched_and_the_command_is_named_that_fetches(
    remote: Box, protocol: str, words: tuple[str, ...]
) -> None:
    box = plain(remote)
    told = box.runner(*words)
    said = told.out + told.err
    assert refs(box) == "" and "refs/runner/*:refs/runner/*" not in said and "history/*:refs/runner/history" not in said
    hint = re.findall(r"`(runner [^`]*--yes)`", said)
    assert hint, said
    box.runner(*hint[0].split()[1:], rc=0)
    assert refs(box)
    again = box.runner(*words, rc=0)
    assert "--yes" not in again.out + again.err


def test_verify_alone_means_the_only_protocol_or_names_all(remote: Box, protocol: str) -> None:
    """In a fresh clone of a project whose protocols are all merged; `runner new` would be no help there."""
    box = plain(remote)
    assert f"{protocol}  verified" in box.runner("verify", "--yes", rc=0).out
    for title in ("Two", "Three"):
        box.runner("cancel", box.new({"01-a": "kind: human\n"}, title=title), rc=0)
    said = box.runner("verify", "--yes", rc=2).err
    assert "`runner verify --all`" in said and "runner new" not in said


@pytest.mark.parametrize("words", mostly_slow([(words,) for words in WORDS], keep=1))
def test_with_yes_it_is_fetched_and_used_at_once(remote: Box, protocol: str, words: tuple[str, ...]) -> None:
    told = plain(remote).runner(*words, "--yes", rc=0)
    assert {"verify": "verified", "why": "turn 1", "show": "write_file", "audit": "made.txt"}[words[0]] in told.out


@pytest.mark.parametrize("answer", ["yes", "no"])
def test_at_a_terminal_it_is_asked_once(
    remote: Box, protocol: str, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    asked = terminal(monkeypatch, answer)
    box = plain(remote)
    box.runner("verify", protocol, rc=0 if answer == "yes" else CANNOT_TELL)
    assert len(asked) == 1 and "Fetch it from origin?" in asked[0] and bool(refs(box)) == (answer == "yes")


def test_what_the_remote_has_not_either_is_not_asked_for_in_a_circle(remote: Box, protocol: str) -> None:
    remote.git("update-ref", "-d", f"refs/runner/history/{protocol}", cwd=remote.path.parent / "origin.git")
    told = plain(remote).runner("verify", protocol, "--yes", rc=CANNOT_TELL)
    said = told.out + told.err
    assert "runner verify" not in said.partition("run `")[2] and "--yes" not in said
    fetch = re.findall(r"`(git fetch CLONE [^`]*)`", said)
    assert fetch == [f"git fetch CLONE '{REFSPEC}'"]


def test_what_git_fetches_from_another_clone_proves_it_too(remote: Box, protocol: str) -> None:
    box = plain(remote)
    box.git("fetch", "-q", remote.path, REFSPEC)
    box.runner("verify", protocol, rc=0)
    assert "write_file" in box.runner("show", protocol, "do", "--transcript", rc=0).out
    assert "turn 1" in box.runner("why", "made.txt:1", rc=0).out


def test_init_has_git_fetch_it_beside_what_is_here(remote: Box, protocol: str) -> None:
    box = plain(remote)
    told = box.runner("init", "--yes", rc=0)
    assert "remote.origin.fetch" in told.out
    assert box.git("config", "--get-all", "remote.origin.fetch").splitlines().count(REFSPEC) == 1
    assert "remote.origin.fetch" not in box.runner("init", "--yes", rc=0).out
    assert box.git("config", "--get-all", "remote.origin.fetch").splitlines().count(REFSPEC) == 1
    box.git("fetch", "-q", "origin")
    assert box.git("rev-parse", "--verify", "-q", f"refs/runner-remote/history/{protocol}") and refs(box) == ""
    box.runner("verify", protocol, rc=0)


def test_a_history_that_was_replaced_there_is_found_and_takes_no_place_here(remote: Box, protocol: str) -> None:
    box = plain(remote)
    box.runner("verify", protocol, "--yes", rc=0)
    before = refs(box)
    forged = remote.git("commit-tree", "-m", f"{protocol}: history", f"{protocol}^{{tree}}").strip()
    remote.git("push", "-qf", "origin", f"{forged}:refs/runner/history/{protocol}")
    box.git("fetch", "-q", "origin", REFSPEC)
    told = box.runner("verify", protocol, rc=4)
    assert "were replaced on origin" in told.out and refs(box) == before
    told = box.runner("show", protocol, "do", "--transcript", rc=0)
    assert "were replaced on origin" in told.err and refs(box) == before


def test_no_message_or_page_says_to_fetch_over_our_own_names() -> None:
    root = Path(__file__).parents[2]
    files = [root / "README.md", *root.glob("docs/*.md"), *root.glob("runner/**/*.py"), *root.glob("templates/**/*")]
    over = re.compile(r"refs/runner/(\w+/)?\*:refs/runner/")
    assert [str(file.relative_to(root)) for file in files if file.is_file() and over.search(file.read_text())] == []


def test_a_run_of_commands_asks_nothing(remote: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    remote.write(".protocols/config.yaml", "publish: always\n")
    remote.commit("config")
    remote.git("push", "-q", "origin", "main")
    made = remote.new({"01-a": command("echo a > a.txt")})
    remote.runner("run", made, rc=0)
    asked = terminal(monkeypatch, "no")
    plain(remote).runner("verify", made, rc=0)
    assert asked == []
