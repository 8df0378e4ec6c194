"""Clones without blobs, or without trees: what is read is brought in one go, by every command that reads or goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Box, command, mostly_slow
from tests.people import govern, person, policy
from tests.trust.test_merge_word import WANTED
from tests.trust.test_merged import no_ff

HUMAN = {"01-a": command("echo a > a.txt"), "02-look": "kind: human\n"}
FILTERS = mostly_slow(["blob:none", "tree:0"], 1)
WAITS = 3


def origin(box: Box) -> Path:
    return box.path.parent / "origin.git"


def published(box: Box, count: int) -> list[str]:
    """Protocols that wait for a person, on the remote."""
    box.write(".protocols/config.yaml", "publish: always\n")
    box.commit("config")
    box.git("push", "-q", "origin", "main")
    found = [box.new(HUMAN, title=f"Partial {number}") for number in range(1, count + 1)]
    for protocol in found:
        box.runner("run", protocol, rc=WAITS)
    return found


def partial(box: Box, what: str) -> Box:
    """A clone that has left objects at the remote."""
    box.git("config", "uploadpack.allowFilter", "true", cwd=origin(box))
    at = box.path.parent / "partial"
    box.git("clone", "-q", f"--filter={what}", "--no-checkout", f"file://{origin(box)}", at, cwd=box.path.parent)
    trace = box.path.parent / "trace"
    home = box.path.parent / "home-partial"
    home.mkdir()
    (home / ".gitconfig").write_text((box.home / ".gitconfig").read_text())
    return Box(at, home, {**box.env, "GIT_TRACE": str(trace)})


def fetches(box: Box) -> int:
    """How often objects were asked for of the remote since it was last asked."""
    trace = Path(box.env["GIT_TRACE"])
    told = trace.read_text() if trace.exists() else ""
    trace.unlink(missing_ok=True)
    return sum("built-in: git fetch" in line and "--stdin" in line for line in told.splitlines())


@pytest.mark.parametrize("what", FILTERS)
@pytest.mark.parametrize(
    "words",
    mostly_slow([((),), (("log", "2"),), (("list",),), (("status",),), (("status", "2"),), (("show", "2", "look"),)]),
)
def test_what_is_shown_is_brought(remote: Box, what: str, words: tuple[str, ...]) -> None:
    published(remote, 2)
    box = partial(remote, what)
    told = box.runner(*words, rc=0)
    assert "unreadable" not in told.out + told.err
    assert ("Partial 2" if words == ("list",) else "look") in told.out


def test_a_list_of_many_takes_one_fetch_and_the_next_none(remote: Box) -> None:
    found = published(remote, 5)
    box = partial(remote, "blob:none")
    box.runner("list", rc=0)
    assert fetches(box) <= 2  # what the trusted branch says, and the records
    assert all(title in box.runner("list", rc=0).out for title in (f"Partial {n}" for n in range(1, len(found) + 1)))
    assert fetches(box) == 0


def test_more_than_are_read_one_by_one_take_one_fetch(remote: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are many, git reads ahead of us, and dies at the first that is missing."""
    monkeypatch.setattr("runner.git.database.FEW", 1)
    published(remote, 3)
    box = partial(remote, "blob:none")
    assert box.runner("list", rc=0).out.count("Partial") == 3
    assert fetches(box) <= 2


@pytest.mark.parametrize("what", FILTERS)
def test_a_protocol_goes_on_to_its_end(remote: Box, what: str) -> None:
    (protocol,) = published(remote, 1)
    box = partial(remote, what)
    box.runner("run", protocol, rc=WAITS)
    assert fetches(box) < 12, "objects are asked for one by one"
    box.runner("answer", protocol, "fine", rc=0)
    box.runner("run", protocol, rc=0)
    assert box.state(protocol)["status"] == "completed"
    remote.runner("sync", protocol, rc=0)
    remote.runner("verify", protocol, rc=0)


@pytest.mark.parametrize("what", FILTERS)
def test_new_begins_in_one(remote: Box, what: str) -> None:
    published(remote, 1)
    box = partial(remote, what)
    protocol = box.new({"01-a": command("cat README.md > copy.txt")}, title="Mine")
    box.runner("run", protocol, rc=0)
    assert (box.worktree(protocol) / "copy.txt").read_text() == "# a project\n"


def test_while_the_remote_is_away_it_says_that_something_is_missing(remote: Box) -> None:
    published(remote, 1)
    box = partial(remote, "blob:none")
    origin(remote).rename(origin(remote).with_suffix(".away"))
    told = box.runner("list", rc=69).err
    assert "this is a partial clone" in told and "could not be reached" in told and "Traceback" not in told


def test_verify_brings_nothing_unasked(remote: Box) -> None:
    (protocol,) = published(remote, 1)
    box = partial(remote, "blob:none")
    told = box.runner("verify", protocol, rc=5)
    assert "cannot tell" in told.out and fetches(box) == 0
    assert f"`runner verify {protocol} --yes` fetches it from origin" in told.out and "--refetch" not in told.out
    box.runner("verify", protocol, "--yes", rc=0)


def test_a_policy_that_was_left_at_the_remote_is_not_one_that_never_was(remote: Box, tmp_path: Path) -> None:
    """A merge that the policy of then wanted approved, judged without that policy."""
    people = [person(tmp_path, name) for name in ("alice", "bob")]
    govern(remote, people, text=policy(people, approvals=WANTED))
    remote.git("push", "-q", "origin", "main")
    protocol = remote.new({"01-a": command("echo a > a.txt")})
    remote.runner("run", protocol, rc=0)
    remote.write("other.txt", "x\n")
    remote.commit("main goes on")
    no_ff(remote, protocol)
    remote.git("push", "-q", "origin", "main", protocol, "refs/runner/*:refs/runner/*")
    box = partial(remote, "tree:0")
    box.runner("sync", protocol, rc=0)
    assert f"`runner verify {protocol} --yes` fetches it" in box.runner("verify", protocol, rc=5).out
    assert "without the approval of" in box.runner("verify", protocol, "--yes", rc=4).out


def test_the_page_of_an_audit_says_what_fetches_what_it_shows(remote: Box) -> None:
    (protocol,) = published(remote, 1)
    box = partial(remote, "blob:none")
    box.runner("verify", protocol, "--yes", rc=0)
    assert f"`runner audit {protocol} --yes` fetches it from origin" in box.runner("audit", protocol, rc=0).err
    box.runner("audit", protocol, "--yes", rc=0)


def test_doctor_calls_it_no_fault(remote: Box) -> None:
    published(remote, 1)
    box = partial(remote, "blob:none")
    assert "objects stay on the remote until something needs them" in box.runner("doctor").out


def done(box: Box, *, merged: bool = True) -> str:
    """A completed protocol on the remote; `merged`: there, too. A line of `a.txt` comes from its step."""
    (protocol,) = published(box, 1)
    box.runner("answer", protocol, "look", "seen", rc=0)
    box.runner("run", protocol, rc=0)
    if not merged:
        return protocol
    box.git("merge", "-q", "--no-ff", "-m", "merged", protocol)
    box.git("push", "-q", "origin", "main")
    return protocol


def test_why_offers_to_fetch_the_versions_of_the_file(remote: Box) -> None:
    protocol = done(remote)
    box = partial(remote, "blob:none")
    assert "a.txt" in box.runner("why", "a.txt:1", "--yes", rc=2).err  # nothing is checked out
    box.git("reset", "-q", "--hard", "main~0")
    fetches(box)
    told = box.runner("why", "a.txt:1", rc=5)
    assert "`runner why a.txt:1 --yes` fetches" in told.err and fetches(box) == 0
    shown = box.runner("why", "a.txt:1", "--yes", rc=0).out
    assert f"01-a of {protocol}" in shown
    box.runner("why", "a.txt:1", rc=0)


def test_audit_writes_a_page_that_says_what_is_missing_and_fetches_it_on_demand(remote: Box) -> None:
    protocol = done(remote, merged=False)
    box = partial(remote, "blob:none")
    page = box.path / f"{protocol}.html"
    told = box.runner("audit", protocol, rc=5)
    assert "--yes` fetches it from origin" in told.out and "It cannot be verified here" in page.read_text()
    box.runner("verify", protocol, "--yes", rc=0)
    told = box.runner("audit", protocol, rc=0)  # the record is here now, the work is not
    assert "the page has no diff" in told.err and "difference is not in this clone" in page.read_text()
    told = box.runner("audit", protocol, "--yes", rc=0)
    assert "no difference" not in told.err and "difference is not in this clone" not in page.read_text()
    assert "a.txt" in page.read_text()
