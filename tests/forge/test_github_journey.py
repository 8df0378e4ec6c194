"""A protocol lives in its pull request: real git beside `emulate`, npm's stateful GitHub; `make forge` installs it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Box, command, make_box
from tests.forge.github_front import HERE
from tests.forge.grounds import TOKEN, GitHubGround
from tests.forge.serving import Answer, Asked
from tests.people import REPO

pytestmark = pytest.mark.peers


class Place:
    """A box whose remote's branches are GitHub's: what is pushed there is known before a question is answered."""

    def __init__(self, folder: Path, ground: GitHubGround) -> None:
        self.ground, self.bare = ground, folder / "origin.git"
        self.box = make_box(folder / "repo")
        self.box.git("clone", "-q", "--bare", self.box.path, self.bare, cwd=folder)
        self.box.git("remote", "add", "origin", self.bare)
        people = ", ".join(f"{who}@example.test: {ground.ids[who]}" for who in ("alice", "bob"))
        self.box.write(".protocols/config.yaml", f"forge: github {ground.front.url}/owner/shop\npublish: always\n")
        self.box.write(
            ".protocols/policy.yaml",
            f"repo: {REPO}\nroles:\n  maintainer: [alice@example.test, bob@example.test]\nagents: [runner@example.test]\n"
            f'forge: {{"{ground.place.host}": {{{people}}}}}\napprovals:\n  step: {{roles: [maintainer]}}\n',
        )
        self.box.commit("set up")
        self.box.git("push", "-q", "origin", "main")
        self.box.env |= {"RUNNER_FORGE_TOKEN": TOKEN, "RUNNER_NAME": "runner", "RUNNER_EMAIL": "runner@example.test"}
        answer = ground.front.handle

        def handle(asked: Asked) -> Answer:
            self.look()
            return answer(asked)

        ground.front.handle = handle  # type: ignore[method-assign]

    def git(self, *args: str) -> str:
        """Run git in the bare repository."""
        who = {
            f"GIT_{role}_{what}": "forge@example.test" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
        }
        argv = ["git", f"--git-dir={self.bare}", *args]
        return subprocess.run(
            argv, capture_output=True, text=True, check=True, env={**os.environ, **who}
        ).stdout.strip()

    def look(self) -> None:
        """Take up what git has now; emulate's own branch only has to be there."""
        front, ground = self.ground.front, self.ground
        out = self.git("for-each-ref", "--format=%(objectname) %(refname:short)", "refs/heads/")
        now = {name: oid for oid, name in map(str.split, out.splitlines()) if name != "main"}
        for name, oid in now.items():
            if front.tips.get(name) == oid:
                continue
            if name not in front.tips:
                main = ground.emulated.done("owner", "GET", f"{HERE}/branches/main")["commit"]["sha"]
                ground.emulated.done("owner", "POST", f"{HERE}/git/refs", {"ref": f"refs/heads/{name}", "sha": main})
                body = {"message": "work", "content": "YQ==", "branch": name}
                ground.emulated.done("runner", "PUT", f"{HERE}/contents/{name}.txt", body)
            front.pushed("runner", name, front.tips.get(name), oid)
        for name in front.tips.keys() - now.keys():
            front.pushed("owner", name, front.tips[name], None)

    def merge(self, protocol: str) -> None:
        """The merge button, which deletes the branch."""
        base, head = self.git("rev-parse", "main"), self.git("rev-parse", protocol)
        tree = self.git("merge-tree", "--write-tree", base, head)
        made = self.git("commit-tree", tree, "-p", base, "-p", head, "-m", "Merge it")
        self.ground.merge("alice", 1)
        self.git("update-ref", "refs/heads/main", made)
        self.git("update-ref", "-d", f"refs/heads/{protocol}")


@pytest.fixture
def place(tmp_path: Path, github: GitHubGround) -> Iterator[Place]:
    """A team on GitHub."""
    yield Place(tmp_path, github)


def waits(box: Box) -> str:
    """Make a protocol whose one step waits for a word."""
    checks = f'outputs: [a.txt]\nqa: {{policy: light, checks: ["test -e {box.path.parent}/ready"]}}\n'
    protocol = box.new({"01-a": command("echo one > a.txt") + "approval: before\n" + checks})
    assert box.runner("run", protocol).code == 3
    return protocol


def test_from_new_to_merged(place: Place) -> None:
    box, front, ground = place.box, place.ground.front, place.ground
    protocol = waits(box)
    pull = ground.emulated.done("owner", "GET", f"{HERE}/pulls/1")
    assert pull["draft"] and pull["head"]["ref"] == protocol and "waits" in pull["body"].lower()
    ground.approve("bob", 1)
    assert box.runner("run", protocol).code == 1
    assert f'"user": {ground.ids["bob"]}' in box.log(protocol)
    newest = {each["context"]: each["state"] for each in front.statuses if each["sha"] == front.tips[protocol]}
    assert newest == {
        "runner/plan": "success",
        "runner/step": "failure",
        "runner/qa": "failure",
        "runner/verify": "success",
    }

    (box.path.parent / "ready").touch()
    ground.comment("carol", 1, "/runner retry")
    box.runner("sync", protocol, rc=0)
    assert f"actor: {ground.place.host}/{ground.ids['carol']}/comment/" in box.log(protocol)
    assert box.runner("run", protocol).code == 3
    ground.approve("alice", 1)
    assert box.runner("run", protocol).code == 0
    assert not ground.emulated.done("owner", "GET", f"{HERE}/pulls/1")["draft"]
    comments = ground.emulated.done("owner", "GET", f"{HERE}/issues/1/comments")
    assert [each["user"]["login"] for each in comments].count("runner") == 1

    place.merge(protocol)
    tip = box.git("rev-parse", protocol)
    box.runner("sync", protocol, rc=0)
    assert "completed · merged" in box.runner("list").out and box.git("rev-parse", protocol) == tip
    sent = "".join(str(each.body) for each in front.asked)
    assert TOKEN not in sent + box.log(protocol)
    assert box.runner("verify", protocol).code == 0


@pytest.mark.parametrize("case", ["machine", "guest", "carol", "dismissed", "changes"])
def test_reviews_that_do_not_count(place: Place, case: str) -> None:
    protocol = waits(place.box)
    if case in ("machine", "guest", "carol"):
        place.ground.approve(case, 1)
    else:
        place.ground.approve("alice", 1)
        (review,) = place.ground.emulated.done("owner", "GET", f"{HERE}/pulls/1/reviews")
        if case == "dismissed":
            place.ground.dismiss("bob", 1, review["id"])
        else:
            place.ground.request_changes("bob", 1)
    place.box.runner("sync", protocol, rc=0)
    assert "approval-counted" not in place.box.log(protocol)


def test_doctor(place: Place) -> None:
    done = place.box.runner("doctor", "--forge", rc=0)
    assert "runner/verify is not required" in done.out and TOKEN not in done.out + done.err
