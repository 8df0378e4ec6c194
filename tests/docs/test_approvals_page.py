"""The commands of docs/approvals.md, word by word: a person who uses git and ssh-keygen alone comes to the runner's verdicts."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Box, clone, command
from tests.people import governed, person

PAGE = Path(__file__).parents[2] / "docs/approvals.md"
BLOCK = re.compile(r"^<!-- run: (?P<what>[a-z]+) -->\n```sh\n(?P<code>.*?)^```\n", re.MULTILINE | re.DOTALL)
STEPS = {"01-deploy": command("sh deploy.sh > d.txt", "approval: before\n"), "02-after": command("true")}


def page(what: str) -> str:
    """The commands of the page's blocks of one kind, in their order."""
    return "".join(match["code"] for match in BLOCK.finditer(PAGE.read_text()) if match["what"] == what)


@dataclass(frozen=True, slots=True)
class Scene:
    """A step that waits, and Alice with a clone in which nothing but git and ssh-keygen is used."""

    box: Box
    hers: Box
    protocol: str

    def sh(self, code: str) -> subprocess.CompletedProcess[str]:
        """Run commands as Alice, in her clone; the first that fails ends them."""
        return subprocess.run(
            ["sh", "-eu"], input=code, cwd=self.hers.path, env=self.hers.environment(), capture_output=True, text=True
        )

    def status(self) -> str:
        """What `runner status` says elsewhere, once what was pushed is there."""
        self.box.git("fetch", "-q", "origin")
        self.box.git("merge", "-q", "--ff-only", f"origin/{self.protocol}", cwd=self.box.worktree(self.protocol))
        return self.box.runner("status", self.protocol, rc=0).out


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    alice, bob = person(tmp_path, "alice", signs=False), person(tmp_path, "bob")
    (alice.home / ".ssh").mkdir()
    for suffix in ("", ".pub"):
        Path(f"{alice.key}{suffix}").rename(alice.home / ".ssh" / f"id_ed25519{suffix}")
    box = governed(tmp_path / "repo", [bob], remote=True)
    text = (box.path / ".protocols/policy.yaml").read_text()
    box.write(".protocols/policy.yaml", text.replace("[bob@", "[alice@example.test, bob@"))
    box.write("deploy.sh", "echo deployed\n")
    box.commit("Alice is a maintainer")
    box.git("push", "-q", "origin", "main")
    hers = clone(box, "hers")
    hers.env.update(alice.env)
    listed = Scene(box, hers, "").sh(page("key") + page("list"))
    assert listed.returncode == 0, listed.stderr
    protocol = box.new(STEPS, title="Ship it")
    box.runner("run", protocol, rc=3)
    hers.git("fetch", "-q", "origin")
    hers.git("switch", "-q", protocol)
    return Scene(box, hers, protocol)


def test_a_word_given_by_hand_counts_and_both_say_so(scene: Scene) -> None:
    done = scene.sh(page("hand") + page("check"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the runner asks about the same" in done.stdout
    assert 'Good "runner-approval" signature for alice@example.test' in done.stdout
    assert "alice@example.test approved: it does what the ticket says\n" in scene.status()
    scene.box.runner("run", scene.protocol, rc=0)
    assert "deployed" in scene.box.git("show", f"{scene.protocol}:d.txt")
    scene.box.runner("verify", scene.protocol, rc=0)


def test_a_stale_word_is_stale_by_hand_and_by_the_runner(scene: Scene) -> None:
    sneak = "echo 'echo pwned' > deploy.sh; git commit -qam sneak; git push -q origin HEAD:$protocol\n"
    done = scene.sh(page("hand") + sneak + page("check"))
    assert done.returncode == 1 and "Good" in done.stdout  # the signature holds; what it names is not there any more
    assert "alice@example.test approved: stale: deploy.sh was changed since" in scene.status()
    scene.box.runner("run", scene.protocol, rc=3)


@pytest.mark.slow
def test_a_word_under_anothers_name_is_none_by_hand_and_by_the_runner(scene: Scene) -> None:
    by_hand = page("hand").replace("$(git config user.email)", "bob@example.test")
    assert by_hand != page("hand")
    done = scene.sh(by_hand + page("check"))
    assert done.returncode != 0 and "Good" not in done.stdout
    assert "bob@example.test approved: untrusted" in scene.status()
    scene.box.runner("run", scene.protocol, rc=3)


def test_every_command_of_the_page_is_run() -> None:
    assert PAGE.read_text().count("```sh\n") == len(BLOCK.findall(PAGE.read_text())) == 7
