"""Eight days later, by the clock of another day: what verified verifies, and what changed meanwhile has the outcome it should."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Result, command
from tests.people import governed, person, policy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("faketime") is None, reason="faketime is not installed"),
]

ONE = {"01-deploy": command("echo deployed > d.txt", "approval: before\n")}
MORE = {**ONE, "02-ci": command("mkdir -p .github && echo x > .github/ci.yml", "approval: after\n")}


class Scene:
    """Two maintainers. One protocol has ended with their words; on another, Alice's word was given and not used yet."""

    def __init__(self, folder: Path) -> None:
        self.alice, self.bob = person(folder, "alice"), person(folder, "bob")
        self.box = governed(folder / "repo", [self.alice, self.bob])
        self.ended = self.box.new(ONE, title="Ended")
        self.approve(self.ended)
        self.box.runner("run", self.ended, rc=0)
        self.open = self.box.new(ONE, title="Open")
        self.approve(self.open)

    def approve(self, protocol: str) -> None:
        """Go on till it waits, and let Alice say yes."""
        self.box.runner("run", protocol, rc=3)
        self.box.runner("approve", protocol, "--yes", rc=0, env=self.alice.env)

    def later(self, *args: str, rc: int) -> Result:
        """Run the command line eight days later."""
        done = subprocess.run(
            ["faketime", "-f", "+8d", sys.executable, "-m", "runner", *args],
            cwd=self.box.path,
            env={**self.box.environment(), "PYTHONPATH": str(Path(__file__).parents[2])},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == rc, f"runner {args}: exit {done.returncode}, wanted {rc}\n{done.stdout}{done.stderr}"
        return Result(done.returncode, done.stdout, done.stderr)

    def change(self, path: str, text: str) -> None:
        """Change a file of the trusted branch."""
        self.box.write(path, text)
        self.box.commit(f"change {path}")


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_what_verified_verifies_and_what_nobody_used_is_expired(scene: Scene) -> None:
    every = scene.box.new(MORE, title="Every kind", front="approval: before\n")
    for _ in range(4):  # the plan, the start, what is protected, the result
        scene.approve(every)
    scene.box.runner("run", every, rc=0)
    told = scene.later("verify", "--all", rc=0)
    assert "timestamps are unproven" in told.out + told.err
    assert "alice@example.test approved: expired" in scene.later("status", scene.open, rc=0).out
    scene.later("run", scene.open, rc=3)
    scene.later("merge", scene.ended, rc=0)
    scene.later("verify", scene.ended, rc=0)


@pytest.mark.parametrize("since", ["", " since=20990101Z"])
def test_a_key_that_is_revoked_today_takes_its_words_with_it(scene: Scene, since: str) -> None:
    scene.change(".protocols/revoked_keys", f"{scene.alice.public}{since} it was in a bag that is gone\n")
    for verify in (lambda *args, rc: scene.box.runner(*args, rc=rc), scene.later):
        told = verify("verify", scene.ended, rc=4)
        assert "counted" in told.out and "revoked" in told.out
    assert "alice@example.test approved: revoked-key" in scene.box.runner("status", scene.open, rc=0).out
    scene.box.runner("run", scene.open, rc=3)
    error = scene.box.runner("reject", scene.open, "--yes", rc=4, env=scene.alice.env).err
    assert "is revoked" in error and "use your new key" in error


def test_what_a_colleague_who_left_approved_was_right_then(scene: Scene) -> None:
    scene.change(".protocols/policy.yaml", policy([scene.bob]))
    scene.change(".protocols/allowed_signers", scene.bob.line())
    scene.later("verify", scene.ended, rc=0)
    scene.box.runner("verify", scene.ended, rc=0)
    assert "alice@example.test approved: untrusted" in scene.box.runner("status", scene.open, rc=0).out
    scene.box.runner("run", scene.open, rc=3)


def test_a_colleague_without_the_role_is_told_apart_from_one_without_a_key(scene: Scene) -> None:
    scene.change(".protocols/policy.yaml", policy([scene.bob]))
    assert "alice@example.test approved: wrong-role" in scene.box.runner("status", scene.open, rc=0).out
    scene.box.runner("run", scene.open, rc=3)
    scene.later("verify", scene.ended, rc=0)


def test_a_policy_that_changes_in_a_comment_makes_no_word_stale(scene: Scene) -> None:
    scene.change(".protocols/policy.yaml", f"{policy([scene.alice, scene.bob])}# looked at again\n")
    scene.box.runner("run", scene.open, rc=0)
    assert "deployed" in scene.box.git("show", f"{scene.open}:d.txt")
    scene.later("verify", "--all", rc=0)


def test_a_key_that_ended_verifies_for_the_days_that_it_had(scene: Scene) -> None:
    ended = scene.alice.line().replace("namespaces=", 'valid-before="20200101Z",namespaces=')
    scene.change(".protocols/allowed_signers", ended + scene.bob.line())
    scene.later("verify", scene.ended, rc=0)
    scene.box.runner("run", scene.open, rc=3)
    assert "deployed" not in scene.box.git("ls-tree", "-r", "--name-only", scene.open)
