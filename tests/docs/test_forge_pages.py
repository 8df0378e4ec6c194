"""The commands of docs/gitlab.md, word by word, on the strict GitLab of the tests, with git over HTTP; those of docs/github.md on
`emulate`, which `make forge` installs.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Box, make_box
from tests.forge.gitlab_fake import PATH
from tests.forge.gitlab_project import Project
from tests.forge.grounds import TOKEN as GITHUB_TOKEN
from tests.forge.grounds import github_ground
from tests.forge.journey import TOKEN
from tests.forge.team import team_on

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^<!-- run: (?P<what>[a-z]+) -->\n```sh\n(?P<code>.*?)^```\n", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> dict[str, str]:
    """The commands of a page, by what they are for."""
    return {match["what"]: match["code"] for match in BLOCK.finditer((DOCS / page).read_text())}


def test_both_pages_have_the_same_commands() -> None:
    there = {
        what: code.replace("gitlab", "github").replace("GitLab", "GitHub") for what, code in blocks("gitlab.md").items()
    }
    assert blocks("github.md") == there and set(there) == {"setup", "work", "review", "merged"}


def shell(box: Box, page: str, host: str, alice: int, token: str) -> Callable[[str], str]:
    """Return what runs a block of a page in the box, on this host and with this account in the place of the page's."""
    bin_ = box.path.parent / "bin"
    bin_.mkdir()
    (bin_ / "runner").write_text(f'#!/bin/sh\nPYTHONPATH="{DOCS.parent}" exec "{sys.executable}" -m runner "$@"\n')
    (bin_ / "runner").chmod(0o755)
    env = box.environment({"RUNNER_FORGE_TOKEN": token})
    env["PATH"] = f"{bin_}:{env['PATH']}"

    def sh(what: str) -> str:
        code = blocks(page)[what]
        for old, new in ((f"{page.removesuffix('.md')}.com", f'"{host}"'), ("1234567", str(alice))):
            assert (old in code) == (what == "setup")
            code = code.replace(old, new)
        done = subprocess.run(["sh", "-eu"], input=code, cwd=box.path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, f"{what}: {done.stdout}{done.stderr}"
        assert token not in done.stdout + done.stderr
        return done.stdout + done.stderr

    return sh


@pytest.mark.no_agreement("the branch is made by other processes")
@pytest.mark.slow
def test_the_page_of_gitlab_leads_to_a_merged_protocol(tmp_path: Path) -> None:
    box = make_box(tmp_path / "repo")
    bare = tmp_path / "origin.git"
    box.git("clone", "-q", "--bare", box.path, bare, cwd=tmp_path)
    box.git("config", "http.receivepack", "true", cwd=bare)
    fake = Project(bare)
    try:
        bot, alice = fake.account("project_7_bot", bot=True, level=40), fake.account("alice", level=40)
        fake.tokens |= {TOKEN: (bot.id, ["api"]), "glpat-alice": (alice.id, ["write_repository"])}
        (box.home / ".git-credentials").write_text(fake.url.replace("//", "//alice:glpat-alice@") + "\n")
        box.git("config", "--global", "credential.helper", "store")
        box.git("remote", "add", "origin", f"{fake.url}/{PATH}.git")
        box.git("fetch", "-q", "origin")
        box.git("branch", "-q", "-u", "origin/main", "main")
        sh = shell(box, "gitlab.md", fake.url.removeprefix("http://"), alice.id, TOKEN)
        assert "is not protected" in sh("setup")
        shown = sh("work")
        assert "waits" in shown and fake.requests[1].value["draft"]
        assert "approve this request in a review" in fake.requests[1].value["description"]
        fake.approve(alice, 1)
        sh("review")
        assert not fake.requests[1].value["draft"]
        fake.merge(alice, 1)
        assert "completed · merged" in sh("merged")
    finally:
        fake.close()


@pytest.mark.peers
@pytest.mark.no_agreement("the branch is made by other processes")
def test_the_page_of_github_leads_to_a_merged_protocol(tmp_path: Path) -> None:
    with github_ground(tmp_path) as ground, team_on(tmp_path, ground) as team:
        box, url = team.box, f"{ground.front.url}/owner/shop.git"
        with (team.people["alice"].home / ".gitconfig").open("a") as file:
            file.write(f'[url "{team.url}"]\n insteadOf = {url}\n')
        box.git("remote", "set-url", "origin", url)
        box.git("fetch", "-q", "origin")
        sh = shell(box, "github.md", ground.place.host, ground.ids["alice"], GITHUB_TOKEN)
        assert "runner/verify is not required" in sh("setup")
        assert "waits" in sh("work")
        ground.approve("alice", 1)
        sh("review")
        team.merge("alice", "0001-say-hello")
        assert "completed · merged" in sh("merged")
