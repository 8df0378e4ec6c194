"""The map of a commit's code: how much of it a model is shown."""

from __future__ import annotations

import subprocess
from pathlib import Path

from runner.executor import prompting
from runner.git import Git


def committed(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    who = ("-c", "user.name=A", "-c", "user.email=a@example.test")
    for args in (("init", "-q"), ("add", "-A"), (*who, "commit", "-qm", "start")):
        subprocess.run(("git", *args), cwd=folder, check=True)


def test_what_the_request_names_is_first_and_the_map_is_small_where_it_names_nothing(tmp_path: Path) -> None:
    many = "".join(f"def function_{number}(): pass\n" for number in range(300))
    zebra = "class Zebra:\n    def stripes(self): pass\n    def legs(self): pass\n"
    committed(tmp_path, {"a.py": many, "b.py": zebra + many, "tests/test_b.py": "def test_stripes(): pass\n" + many})
    with Git.open(tmp_path) as git:
        shown = prompting.symbols_of(git, "HEAD", git.files("HEAD"), ["a.py"], {"stripe"})
        nothing = prompting.symbols_of(git, "HEAD", git.files("HEAD"), ["a.py"], {"legs2", "ribra", "unction"})
    assert shown.startswith("b.py: Zebra 1, .stripes 2, function_0 4, ") and "\na.py: function_0 1, " in shown
    assert ".legs" not in shown and "\ntests/test_b.py: test_stripes 1\n" in f"{shown}\n"
    assert nothing.startswith("a.py: function_0 1, ") and "test_b" not in nothing
    assert len(nothing) <= prompting.UNNAMED_LIMIT + 100 < len(shown)


def test_the_map_keeps_its_limit_where_the_first_files_fill_it(tmp_path: Path) -> None:
    committed(tmp_path, {f"{f}.py": "".join(f"def {f}_function_{n}(): pass\n" for n in range(300)) for f in "abcdef"})
    with Git.open(tmp_path) as git:
        shown = prompting.symbols_of(git, "HEAD", git.files("HEAD"), ["a.py", "b.py", "c.py"], {"function"})
    assert shown.startswith("a.py: a_function_0 1, ")
    assert len(shown) <= prompting.SYMBOLS_LIMIT + 100  # "… 3 more" beside it
