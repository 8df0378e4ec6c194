"""`transitions: signed`: the runner signs what it does with the key that it was given, and does nothing that it could not sign."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import Box, command, mostly_slow
from tests.people import REPO, Person, person

pytestmark = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not here")

STEPS = {"01-a": command("echo a > a.txt"), "02-b": command("echo b > b.txt", "outputs: [b.txt]\n")}
POLICY = (
    f"repo: {REPO}\nroles: {{maintainer: [alice@example.test]}}\nagents: [runner@example.test]\ntransitions: signed\n"
)


@pytest.fixture
def people(box: Box, tmp_path: Path) -> tuple[Person, Person]:
    """Alice, who is listed, and the runner, whose key is listed for git alone."""
    alice, runner = (person(tmp_path / "people", name) for name in ("alice", "runner"))
    box.write(".protocols/policy.yaml", POLICY)
    box.write(".protocols/allowed_signers", alice.line() + runner.line("git,runner-sync,runner-seal"))
    box.commit("policy")
    return alice, runner


def test_nothing_is_done_that_nobody_could_sign(box: Box, people: tuple[Person, Person]) -> None:
    alice, runner = people
    assert "your git has no signing key" in box.runner("new", "X", "--plan", box.plan(STEPS), rc=2).err
    protocol = box.runner("new", "X", "--plan", box.plan(STEPS), env=alice.env, rc=0).out.strip()
    told = box.runner("step", protocol, env=alice.env, rc=2).err
    assert "is alice@example.test's" in told and "RUNNER_SIGNING_KEY" in told
    told = box.runner("step", protocol, env={**alice.env, "RUNNER_SIGNING_KEY": "/nowhere/key"}, rc=2).err
    assert "at:   RUNNER_SIGNING_KEY /nowhere/key\n" in told and "user.signingkey" not in told
    assert box.state(protocol)["revision"] == 2
    told = box.runner("doctor", env=alice.env, rc=0).out
    assert "is alice@example.test's" in told and "no step can be run here" in told
    key = {"RUNNER_SIGNING_KEY": str(runner.key)}
    assert "no step can be run" not in box.runner("doctor", env={**alice.env, **key}, rc=0).out


@pytest.mark.parametrize("form", mostly_slow(["sha1", "sha256"], 1))
def test_what_the_runner_did_is_signed(people: tuple[Person, Person], box: Box, form: str) -> None:
    alice, runner = people
    if form == "sha256":
        shutil.rmtree(box.path / ".git")
        box.git("init", "-q", "--object-format=sha256", box.path)
        box.commit("start")
    key = {"RUNNER_SIGNING_KEY": str(runner.key)}
    protocol = box.runner("new", "X", "--plan", box.plan(STEPS), env={**alice.env, **key}, rc=0).out.strip()
    box.runner("step", protocol, env=key, rc=0)
    box.runner("pause", protocol, env=alice.env, rc=0)
    box.runner("resume", protocol, env=key, rc=0)
    box.runner("run", protocol, env=key, rc=0)
    told = box.runner("verify", protocol, rc=0).out
    assert "each signed by a key that the policy lists" in told and "unsigned" not in told
    box.git("config", "gpg.ssh.allowedSignersFile", box.path / ".protocols/allowed_signers")
    box.git("verify-commit", *box.git("rev-list", f"main..{protocol}").split())


def test_a_protocol_that_ended_is_sealed(people: tuple[Person, Person], box: Box) -> None:
    _, runner = people
    key = {"RUNNER_SIGNING_KEY": str(runner.key)}
    protocol = box.runner("new", "X", "--plan", box.plan(STEPS), env=key, rc=0).out.strip()
    box.runner("run", protocol, env=key, rc=0)
    ref = f"refs/runner/history/{protocol}"
    assert "sealed by runner@example.test at revision" in box.runner("verify", protocol, rc=0).err
    whole = box.git("show", f"{ref}:seal")
    seals = {
        "no seal in its form": whole.replace("runner-seal/v1", "runner-seal/v2"),
        "none of `agents`": whole.replace("signer: runner@", "signer: alice@"),
        "does not match": whole.replace("revision: ", "revision: 1"),
    }
    seals["no commit of this history"] = "\n".join(
        f"tip: {'0' * 40}" if line.startswith("tip: ") else line for line in whole.split("\n")
    )
    seals["signature"] = "\n".join(
        line[:-2] + "1Z"
        if line.startswith("time: ") and not line.endswith("1Z")
        else line[:-2] + "2Z"
        if line.startswith("time: ")
        else line
        for line in whole.split("\n")
    )
    for reason, text in seals.items():
        blob = box.git("hash-object", "-w", "--stdin", data=text).strip()
        tree = box.git("mktree", data=f"100644 blob {blob}\tseal\n").strip()
        tip = box.git("rev-parse", protocol).strip()
        made = box.git("commit-tree", tree, "-p", tip, data=f"{protocol}: history\n").strip()
        box.git("update-ref", ref, made)
        (found,) = box.runner("verify", protocol, "--json", rc=4).json()["protocols"][0]["findings"]
        assert found["rule"] == "seal" and reason in found["text"], (reason, found)


def test_a_key_that_is_not_listed_to_seal_seals_nothing(people: tuple[Person, Person], box: Box) -> None:
    alice, runner = people
    box.write(".protocols/allowed_signers", alice.line() + runner.line("git"))
    box.commit("git alone")
    key = {"RUNNER_SIGNING_KEY": str(runner.key)}
    protocol = box.runner("new", "X", "--plan", box.plan(STEPS), env=key, rc=0).out.strip()
    box.runner("run", protocol, env=key, rc=0)
    assert box.git("ls-tree", "--name-only", f"refs/runner/history/{protocol}") == ""
    assert "sealed" not in box.runner("verify", protocol, rc=0).err
