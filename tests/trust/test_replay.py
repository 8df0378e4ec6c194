"""Words judged again, where the work that followed took long: at the time and on the commit that they were judged at."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from runner.executor import advance
from runner.git import Git
from runner.protocol import log
from runner.protocol.approval_file import seconds
from runner.trust import trusted_config
from tests.conftest import Box, command, set_env
from tests.people import Person, govern, person

WAITS = 3


@pytest.fixture
def alice(box: Box, tmp_path: Path) -> Person:
    """The one maintainer; whoever starts the work is somebody else."""
    found = person(tmp_path / "people", "carol")
    govern(box, [found])
    return found


def approved(box: Box, alice: Person, line: str) -> str:
    """Make a protocol whose step has its word, and no transition that used it."""
    protocol = box.new({"01-deploy": command(line, "approval: before\n")})
    box.runner("step", protocol, rc=WAITS)
    box.runner("approve", protocol, "--for", "1h", "--yes", env=alice.env, rc=0)
    return protocol


def entry(box: Box, protocol: str, event: str) -> log.RawEntry:
    (found,) = [raw for raw in log.parse_raw(box.log(protocol).encode(), "the log") if raw.event == event]
    return found


def verified(box: Box, protocol: str) -> None:
    """It holds, and so the second verifier says after the test; a machine that never saw the branch works on it."""
    (told,) = box.runner("verify", protocol, "--json", rc=0).json()["protocols"]
    assert told["approvals"] == 1
    said = box.runner("verify", protocol, rc=0)
    assert "· 1 approval ·" in said.out and "timestamps are unproven" in said.err
    box.runner("run", protocol, rc=0, env={"XDG_STATE_HOME": str(box.path.parent / "another-machine")})


def test_a_word_that_expires_while_the_step_is_at_work(box: Box, alice: Person, tmp_path: Path) -> None:
    flag = tmp_path / "later"
    protocol = approved(box, alice, f"touch {flag}; echo ok > out.txt")
    session = box.session()
    set_env(session, now=lambda: time.time() + (7200 if flag.exists() else 0))
    advance.step(session, protocol)
    counted, finished = (entry(box, protocol, event) for event in ("approval-counted", "step-finished"))
    assert seconds(finished.time) - seconds(counted.time) >= 7200
    verified(box, protocol)


def test_a_word_that_became_stale_while_the_step_was_at_work(box: Box, alice: Person, tmp_path: Path) -> None:
    """Somebody's commit came between: the work is merged onto it, and the event names the commit that it was judged at."""
    protocol = approved(box, alice, f"sh {tmp_path}/meanwhile; echo ok > out.txt")
    there = box.worktree(protocol)
    before = box.git("rev-parse", protocol).strip()
    (tmp_path / "meanwhile").write_text(
        f"cd {there} && echo more > more.txt && git add more.txt && "
        "git -c user.name=dana -c user.email=dana@example.test commit -qm more\n"
    )
    box.runner("step", protocol, rc=0)
    assert entry(box, protocol, "approval-counted").fields["at"] == before
    assert {"more.txt", "out.txt"} <= set(box.git("ls-tree", "--name-only", protocol).split())
    verified(box, protocol)


def test_a_trusted_branch_that_moves_while_the_step_is_at_work(box: Box, alice: Person, tmp_path: Path) -> None:
    """Everybody's role is taken away meanwhile: the word was used under the policy of then, which the transition names."""
    protocol = approved(
        box, alice, f"cd {box.path} && git -c user.name=d -c user.email=d@example.test commit -qam gone"
    )
    then = box.git("rev-parse", "main").strip()
    policy = box.path / ".protocols/policy.yaml"
    policy.write_text(policy.read_text().replace(alice.email, "nobody@example.test"))
    box.runner("step", protocol, rc=0)
    trusted = box.git("log", "-1", "--format=%(trailers:key=Runner-Trusted,valueonly)", protocol).strip()
    assert trusted == then != box.git("rev-parse", "main").strip()
    verified(box, protocol)


def test_what_says_whose_word_counts_is_the_same_only_with_the_same_keys_of_openpgp(box: Box, alice: Person) -> None:
    """A key that was taken out, or has its revocation by now, was not so in the commit before."""
    before = box.git("rev-parse", "HEAD").strip()
    box.write("README.md", "more\n")
    other = box.commit("another file")
    box.write(f".protocols/openpgp/{alice.email}.asc", "a key\n")
    now = box.commit("a key of OpenPGP")
    with Git.open(box.path) as git:
        assert not trusted_config.differs(git, before, other)
        assert trusted_config.differs(git, before, now) and trusted_config.differs(git, now, before)
