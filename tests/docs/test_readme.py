"""Every command block of README.md is run, in order, in a fresh HOME and a real project, and prints what the README shows."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import iniconfig
import pytest

from tests.docs.typed import ROOT, Block, Typist, blocks, copy_of_checkout, environment, without_runner

README = ROOT / "README.md"
LINK = re.compile(r"\]\((?!https?:)([^)#]+)?(?:#([a-z0-9-]+))?\)")
PAGES = [
    *("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"),
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")),
]


def make_project(folder: Path, env: Mapping[str, str]) -> Path:
    """A real project: the sources of an installed package, in a repository of somebody's."""
    project = folder / "iniconfig"
    sources = Path(iniconfig.__file__).parent
    shutil.copytree(sources, project / "src/iniconfig", ignore=shutil.ignore_patterns("__pycache__"))
    for args in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", "start"]):
        subprocess.run(["git", *args], cwd=project, env=env, check=True)
    return project


def test_the_commands_of_the_readme_print_what_it_shows(tmp_path: Path) -> None:
    env = {**environment(tmp_path), "RUNNER_EXECUTOR": "host"}
    alice = Typist(make_project(tmp_path, env), env)
    for block in blocks("README.md"):
        if "install" not in block.how:
            alice.type(block)


@pytest.mark.slow
def test_the_readme_installs_it_as_it_says(tmp_path: Path) -> None:
    env = without_runner(environment(tmp_path))
    if shutil.which("bwrap") is None and not os.environ.get("RUNNER_CI"):
        env["RUNNER_EXECUTOR"] = "host"  # as the README says for such a machine
    install, *others = blocks("README.md")
    assert "install" in install.how
    project = make_project(tmp_path, env)
    alice = Typist(copy_of_checkout(tmp_path), env)
    for block in (install, Block(f"cd {project}\n"), *others):
        alice.type(block)


def test_every_command_block_is_run_or_says_why_not() -> None:
    text = README.read_text()
    assert text.count("```sh\n") == len(blocks("README.md")) + text.count("<!-- not run: ")


def plain(text: str) -> str:
    """Return a terminal's text without what differs from one demo to the next, one space between words."""
    return re.sub(r"\b[0-9a-f]{7}\b|<?\b\d+ s\b|\b[\d-]{10}T[\d:]{8}Z", "…", " ".join(html.unescape(text).split()))


def test_the_session_at_the_top_is_part_of_the_demo() -> None:
    """Each line is in docs/demo.svg, in the same order; tests/test_demo.py compares that picture with what the demo prints."""
    session = re.search(r"^```console\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    assert session is not None and 25 <= len(session[1].splitlines()) <= 30
    rest = plain("".join(re.findall(r"<text[^>]*>([^<]*)</text>", (ROOT / "docs/demo.svg").read_text())))
    for line in session[1].splitlines():
        _, found, rest = rest.partition(plain(line.removesuffix("…")))
        assert found, f"docs/demo.svg does not have this line after the one before it: {line}"


@pytest.mark.parametrize("page", PAGES)
def test_links_between_pages_lead_somewhere(page: str) -> None:
    at = ROOT / page
    for path, anchor in LINK.findall(at.read_text()):
        target = at.parent / path if path else at
        assert target.exists(), path
        if anchor:
            titles = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}
