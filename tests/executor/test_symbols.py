"""The map of a commit's code: how much of it a model is shown."""

from __future__ import annotations

import subprocess
from pathlib import Path

from runner.executor import symbols
from runner.git import Git


def test_the_map_keeps_its_limit_where_the_first_files_fill_it(tmp_path: Path) -> None:
    for file in "abcdef":
        (tmp_path / f"{file}.py").write_text("".join(f"def {file}_function_{n}(): pass\n" for n in range(300)))
    who = ("-c", "user.name=A", "-c", "user.email=a@example.test")
    for args in (("init", "-q"), ("add", "-A"), (*who, "commit", "-qm", "start")):
        subprocess.run(("git", *args), cwd=tmp_path, check=True)
    with Git.open(tmp_path) as git:
        shown = symbols.of_commit(git, "HEAD", git.files("HEAD"), ["a.py", "b.py", "c.py"])
    assert shown.startswith("a.py: a_function_0 1, ")
    assert len(shown) <= symbols.LIMIT + 100  # "… 3 more" beside it
