"""A GitLab whose project is a real bare repository: what is pushed there shows in its merge requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import Box, Result, clone, make_box
from tests.forge.gitlab_fake import PATH, Account
from tests.forge.gitlab_project import Project
from tests.people import REPO

TOKEN = "glpat-canary-5d1f0a9c7e3b2468"


@dataclass(slots=True)
class Town:
    """A team: a box with a remote, its GitLab, and accounts of the runner, of maintainers and of others."""

    box: Box
    fake: Project
    accounts: dict[str, Account] = field(default_factory=dict)

    @property
    def request(self) -> dict[str, object]:
        """The one merge request."""
        return self.fake.requests[1].value

    def said(self) -> str:
        """The runner's own comment."""
        ours = [
            each["body"] for each in self.fake.requests[1].notes if each["author"]["id"] == self.accounts["runner"].id
        ]
        assert len(ours) == 1
        return str(ours[0])

    def statuses(self, protocol: str) -> dict[str, tuple[str, str]]:
        """What stands at the tip that the remote has."""
        tip = self.fake.branches[protocol]
        return {
            each["name"]: (each["status"], each["description"])
            for each in self.fake.statuses
            if each["sha"] == tip and each["name"].startswith("runner/") and each["id"] not in self.fake.retried
        }

    def sync(self, protocol: str, rc: int = 0, env: Mapping[str, str] | None = None) -> Result:
        """Synchronise."""
        return self.box.runner("sync", protocol, rc=rc, env=env)

    def written(self) -> str:
        """Everything that was sent to the forge."""
        return "\n".join(str(asked.body) for asked in self.fake.asked if asked.body)


def town(folder: Path, *, config: str = "", approvals: str = "", own: str = "", bot: bool = False) -> Town:
    """Make a town whose trusted branch says `forge:`, with alice and bob as maintainers; carol may write, guest may not.

    `bot`: whether the policy lists the bot `machine` too, as a maintainer.
    """
    box = make_box(folder / "repo")
    bare = folder / "origin.git"
    box.git("clone", "-q", "--bare", box.path, bare, cwd=folder)
    box.git("remote", "add", "origin", bare)
    fake = Project(bare)
    fake.has_commit = lambda oid: box.git("cat-file", "-t", oid, cwd=bare, check=False) == "commit\n"
    accounts = {
        name: fake.account(name, bot=name in ("runner", "machine"), level=10 if name == "guest" else 40)
        for name in ("runner", "alice", "bob", "carol", "machine", "guest")
    }
    fake.tokens[TOKEN] = (accounts["runner"].id, ["api"])
    fake.pusher = accounts["runner"]
    maintainers = ("alice@example.test", "bob@example.test", *(["machine@example.test"] if bot else []))
    listed = ("alice", "bob", "carol", *(["machine"] if bot else []))
    people = "{" + ", ".join(f"{name}@example.test: {accounts[name].id}" for name in listed) + "}"
    host = fake.url.removeprefix("http://")
    box.write(".protocols/config.yaml", f"forge: gitlab {fake.url}/{PATH}\n{config}")
    box.write(
        ".protocols/policy.yaml",
        f"repo: {REPO}\nroles:\n  maintainer: [{', '.join(maintainers)}]\nagents: [runner@example.test]\n"
        f'forge: {{"{host}": {people}}}\n{own}'
        f"approvals:\n{approvals or '  step: {roles: [maintainer]}'}\n",
    )
    box.commit("set up")
    box.git("push", "-q", "origin", "main")
    box.git("fetch", "-q", "origin")
    box.env |= {
        "RUNNER_FORGE_TOKEN": TOKEN, "RUNNER_NAME": "runner", "RUNNER_EMAIL": "runner@example.test", "RUNNER_PUBLISH": "always",
    }  # fmt: skip
    fake.look()
    fake.pushes = 0
    fake.asked.clear()
    return Town(box, fake, accounts)


__all__ = ["TOKEN", "Town", "clone", "town"]
