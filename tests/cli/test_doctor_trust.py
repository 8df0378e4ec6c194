"""`runner doctor` finds a policy that cannot be carried out, and an approval that nobody can give."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Box, command
from tests.people import Person, governed, person, policy

DEPLOY = {"01-deploy": command("true", "approval: before\n")}
ALLOWED = ".protocols/allowed_signers"


@pytest.fixture(scope="module")
def alice(tmp_path_factory: pytest.TempPathFactory) -> Person:
    return person(tmp_path_factory.mktemp("people"), "alice")


@pytest.fixture
def gov(tmp_path: Path, alice: Person) -> Box:
    return governed(tmp_path / "repo", [alice])


def waiting(box: Box, steps: dict[str, str] = DEPLOY) -> str:
    protocol = box.new(steps)
    box.runner("run", protocol, rc=3)
    return protocol


@pytest.mark.parametrize(
    ("path", "text", "at"),
    [
        (".protocols/policy.yaml", "roles: {}\nrulez: []\n", ".protocols/policy.yaml on main:2"),
        (ALLOWED, "alice@example.test ssh-ed25519 AAAA\n", ".protocols/allowed_signers:1"),
    ],
)
def test_a_policy_that_cannot_be_carried_out_is_found(gov: Box, path: str, text: str, at: str) -> None:
    gov.write(path, text)
    gov.commit("break it")
    told = gov.runner("doctor", rc=2).out
    assert f"  at:   {at}\n" in told and "no approval counts" in told and "all is well" not in told


def test_an_approval_by_a_role_that_is_gone_is_found(gov: Box, alice: Person) -> None:
    gov.write(
        ".protocols/policy.yaml",
        policy([alice], more="").replace("agents:", "  release: [alice@example.test]\nagents:"),
    )
    gov.commit("a role")
    protocol = waiting(gov, {"01-deploy": command("true", "approval: {when: before, roles: [release]}\n")})
    gov.runner("doctor", rc=0)
    gov.write(".protocols/policy.yaml", policy([alice]))
    gov.commit("no role")
    told = gov.runner("doctor", rc=2).out
    assert "nobody is in the role `release`" in told and f"  at:   .protocols/{protocol}/01-deploy.md:" in told


@pytest.mark.parametrize(
    ("line", "why", "at", "next_"),
    [
        (
            "",
            "no key of alice@example.test is listed",
            f"{ALLOWED} on main",
            'add the line `alice@example.test namespaces="git,runner-approval" KEY`',
        ),
        (
            "git",
            "is not listed for runner-approval",
            f"{ALLOWED} on main:1",
            'write namespaces="git,runner-approval" in line 1',
        ),
        (
            'git,runner-approval",valid-before="20200101Z',
            "has expired",
            f"{ALLOWED} on main:1",
            "change the times in line 1",
        ),
        (
            'git,runner-approval",valid-after="20990101Z',
            "is not valid yet",
            f"{ALLOWED} on main:1",
            "change the times in line 1",
        ),
    ],
)
def test_an_approval_for_which_nobody_has_a_key_is_found(
    gov: Box, alice: Person, line: str, why: str, at: str, next_: str
) -> None:
    protocol = waiting(gov)
    gov.write(ALLOWED, alice.line(line) if line else "# nobody yet\n")
    gov.commit("keys")
    told = gov.runner("doctor", rc=2).out
    assert (
        f"step:deploy waits for a maintainer (alice): {'the key of alice@example.test ' if line else ''}{why}" in told
    )
    assert f"  at:   {at}\n" in told and f"  next: {next_}" in told
    assert next_ in gov.runner("status", protocol, rc=0).out


def test_an_approval_by_a_role_of_the_step_is_described_as_status_does(tmp_path: Path, alice: Person) -> None:
    text = policy([alice]).partition("approvals:")[0].replace("agents:", "  ops: [carol@example.test]\nagents:")
    box = governed(tmp_path / "repo", [alice])
    box.write(".protocols/policy.yaml", text)
    box.commit("carol")
    plan = box.plan({"01-deploy": command("true", "approval: {when: before, roles: [ops]}\n")})
    protocol = box.runner("new", "Mine", "--plan", plan, rc=0, env=alice.env).out.strip()
    box.runner("run", protocol, rc=3)
    told, add = box.runner("doctor", rc=2).out, "add the line `carol@example.test namespaces="
    assert "step:deploy waits for an ops (carol): no key of carol@example.test is listed" in told
    assert f"  next: {add}" in told and "wrote it" not in told
    shown = box.runner("status", protocol, rc=0).out
    assert "for an ops (carol)" in shown and add in shown


def test_an_approval_that_a_cancelled_protocol_waited_for_is_no_finding(gov: Box) -> None:
    protocol = waiting(gov)
    gov.write(ALLOWED, "# nobody yet\n")
    gov.commit("keys")
    gov.runner("doctor", rc=2)
    gov.runner("cancel", protocol, rc=0)
    gov.runner("doctor", rc=0)


def test_an_approval_by_a_revoked_key_is_found(gov: Box, alice: Person) -> None:
    waiting(gov)
    gov.write(".protocols/revoked_keys", f"{alice.public} lost\n")
    gov.commit("revoked")
    told = gov.runner("doctor", rc=2).out
    assert (
        "the key of alice@example.test is revoked" in told and "where KEY is the first two words of their new" in told
    )


def test_an_approval_that_one_of_two_can_give_is_no_finding(tmp_path: Path, alice: Person) -> None:
    bob = person(tmp_path, "bob")
    box = governed(tmp_path / "repo", [alice, bob])
    protocol = waiting(box)
    box.write(ALLOWED, bob.line())
    box.commit("keys")
    box.runner("doctor", rc=0)
    told = box.runner("status", protocol, rc=0).out
    assert "runner approve 1, by bob@example.test" in told and "alice@example.test or" not in told


def test_an_approval_of_the_only_approver_s_own_work_is_found(tmp_path: Path, alice: Person) -> None:
    box = governed(tmp_path / "repo", [alice])
    plan = box.plan(DEPLOY)
    protocol = box.runner("new", "Mine", "--plan", plan, rc=0, env=alice.env).out.strip()
    box.runner("run", protocol, rc=3)
    told = box.runner("doctor", rc=2).out
    assert (
        "alice@example.test wrote it" in told
        and "own_work: allow" in told
        and ".protocols/policy.yaml on main:" in told
    )
