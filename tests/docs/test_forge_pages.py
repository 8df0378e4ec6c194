"""The commands of docs/gitlab.md, word by word, on the strict GitLab of the tests; docs/github.md has the same ones."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import command, make_box
from tests.forge.gitlab_fake import PATH
from tests.forge.gitlab_project import Project
from tests.forge.journey import TOKEN

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^<!-- run: (?P<what>[a-z]+) -->\n```sh\n(?P<code>.*?)^```\n", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> dict[str, str]:
    """The commands of a page, by what they are for."""
    return {match["what"]: match["code"] for match in BLOCK.finditer((DOCS / page).read_text())}


def test_both_pages_have_the_same_commands() -> None:
    there = {
        what: code.replace("gitlab", "github").replace("GitLab", "GitHub") for what, code in blocks("gitlab.md").items()
    }
    assert blocks("github.md") == there and set(there) == {"setup", "work", "merged"}


@pytest.mark.no_agreement("the branch is made by other processes")
def test_the_page_of_gitlab_leads_to_a_merged_protocol(tmp_path: Path) -> None:
    box = make_box(tmp_path / "repo")
    bare = tmp_path / "origin.git"
    box.git("clone", "-q", "--bare", box.path, bare, cwd=tmp_path)
    fake = Project(bare)
    try:
        url = f"{fake.url}/{PATH}.git"
        with (box.home / ".gitconfig").open("a") as file:
            file.write(f'[url "{bare}"]\n insteadOf = {url}\n')
        box.git("remote", "add", "origin", url)
        box.git("push", "-q", "-u", "origin", "main")
        bot = fake.account("project_7_bot", bot=True, level=40)
        fake.tokens[TOKEN] = (bot.id, ["api"])
        plan = box.plan({"01-hello": command("echo hello > hello.txt") + "outputs: [hello.txt]\n"})
        plan.rename(box.path / "plan")
        (box.path / ".git/info/exclude").write_text("/plan/\n")
        bin_ = tmp_path / "bin"
        bin_.mkdir()
        (bin_ / "runner").write_text(f'#!/bin/sh\nPYTHONPATH="{DOCS.parent}" exec "{sys.executable}" -m runner "$@"\n')
        (bin_ / "runner").chmod(0o755)
        env = box.environment({"RUNNER_FORGE_TOKEN": TOKEN})
        env["PATH"] = f"{bin_}:{env['PATH']}"

        def sh(what: str) -> str:
            done = subprocess.run(
                ["sh", "-eu"], input=blocks("gitlab.md")[what], cwd=box.path, env=env, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{what}: {done.stdout}{done.stderr}"
            assert TOKEN not in done.stdout + done.stderr
            return done.stdout

        assert "is not protected" in sh("setup")
        sh("work")
        assert not fake.requests[1].value["draft"]
        fake.merge(bot, 1)
        assert "completed · merged" in sh("merged")
    finally:
        fake.close()
