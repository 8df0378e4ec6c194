"""The commands of docs/recipes/ are run as they stand there, one page after the other, each in a real project."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.docs.typed import ROOT, Typist, blocks, environment

STEPS = {
    "01-count": "def total(cents): return cents\n",
    "02-tax": "def total(cents): return cents * 1.1\nassert total(100) == 110, total(100)\nprint(total(100))\n",
    "03-words": "",
}


@pytest.mark.slow
def test_bisection_over_steps_finds_the_one_that_broke_it(tmp_path: Path) -> None:
    env = {**environment(tmp_path), "RUNNER_EXECUTOR": "host", "PYTHONPATH": str(ROOT)}
    shop, plan = tmp_path / "shop", tmp_path / "plan"
    for folder in (shop, plan):
        folder.mkdir()
    (plan / "plan.md").write_text("---\ntitle: prices\n---\n")
    for name, text in STEPS.items():
        (plan / name).write_text(text)
        line = f"cp {plan}/{name} total.py" if text else "echo words > words.md"
        (plan / f"{name}.md").write_text(f"---\ntitle: {name}\nkind: command\nrun: {line}\n---\n")
    (shop / "total.py").write_text("def total(cents): return 0\n")
    for words in (
        ["git", "init", "-q", "-b", "main"],
        ["git", "add", "-A"],
        ["git", "commit", "-qm", "start"],
        ["runner", "new", "prices", "--plan", str(plan)],
        ["runner", "run", "1"],
    ):
        subprocess.run(words, cwd=shop, env=env, check=True, capture_output=True)
    page = "docs/recipes/bisect.md"
    found = blocks(page)
    assert len(found) == (ROOT / page).read_text().count("```sh\n") == 4
    person = Typist(shop, env)
    for block in found:
        person.type(block)
    assert (
        "0002-prices-again"
        in subprocess.run(["git", "branch"], cwd=shop, env=env, check=True, capture_output=True, text=True).stdout
    )
    worktrees = subprocess.run(["git", "worktree", "list"], cwd=shop, env=env, capture_output=True, text=True).stdout
    assert "/bisect" not in worktrees
