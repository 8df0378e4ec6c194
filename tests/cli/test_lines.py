"""Text of others is shown on the lines that it has: LF alone ends one, and what else could look like an end is escaped."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import runner
from runner.lines import lines_of
from tests.conftest import Box, command
from tests.people import Person, governed, person

# All at which str.splitlines splits, but LF and the one that `\r\n` is.
ENDS = ["\r", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
EVIL = "".join(f"true #{end}+planted{end}diff --git a/planted b/planted{end}  next  planted\n" for end in ENDS)

# Where readers disagree on the lines of a text, one is what every reader takes for one; bytes split at CR and LF alone.
SPLIT = {
    "protocol/plans.py": "refuses what any reader takes for two lines",
    "protocol/strict_yaml.py": "refuses what any reader takes for two lines",
    "protocol/globs.py": "refuses what any reader takes for two lines",
    "app/create.py": "a title, which is refused where any reader takes it for two lines",
    "resources.py": "bytes of our own files",
    "protocol/transcript.py": "bytes of JSON, which escapes CR",
    "executor/journal.py": "bytes of JSON, which escapes CR",
    "executor/steps/work.py": "bytes of JSON, which escapes CR",
    "git/objects.py": "bytes of a commit's parents, which are hexadecimal",
    "trust/programs.py": "setup.cfg, of which pytest takes the lines so",
    "store/worktree.py": "bytes of a file of git's",
    "tools/worker.py": "loads nothing of ours; a model reads it",
}


def planted(shown: str) -> list[str]:
    """Return the lines that begin as no line of a file does, for whoever splits at any of the ends."""
    lines = (re.sub(r"^\s*(\|\s?)?", "", line) for line in shown.splitlines())
    return [line for line in lines if re.match(r"\+planted|diff --git a/planted|next\s+planted", line)]


def test_lf_alone_ends_a_line() -> None:
    assert lines_of("") == []
    assert lines_of("a") == lines_of("a\n") == ["a"]
    assert lines_of("a\n\nb") == ["a", "", "b"]
    assert lines_of(f"x{''.join(ENDS)}y\nz\n") == [f"x{''.join(ENDS)}y", "z"]


def test_nothing_else_splits_text_into_lines() -> None:
    root, found = Path(runner.__file__).parent, set()
    for path in root.rglob("*.py"):
        text = path.read_text("utf-8")
        for node in ast.walk(ast.parse(text)) if "splitlines" in text else ():
            if isinstance(node, ast.Attribute) and node.attr == "splitlines":
                found.add(str(path.relative_to(root)))
    assert found == set(SPLIT)


@pytest.fixture(scope="module")
def alice(tmp_path_factory: pytest.TempPathFactory) -> Person:
    return person(tmp_path_factory.mktemp("people"), "alice")


@pytest.mark.parametrize(("when", "subject"), [("before", "step:ship"), ("after", "result:ship")])
def test_approve_shows_the_lines_that_are_there(tmp_path: Path, alice: Person, when: str, subject: str) -> None:
    box = governed(tmp_path / "repo", [alice])
    box.write("run.sh", "true\n")
    box.commit("script")
    protocol = box.new({"01-ship": command("sh run.sh; echo x > x.txt", f"approval: {when}\n")})
    box.runner("run", protocol, rc=3)
    box.runner("approve", protocol, subject, "--yes", rc=0, env=alice.env)
    at = box.worktree(protocol)
    (at / "run.sh").write_bytes(f"true\necho honest\n{EVIL}".encode())
    box.commit("planted", cwd=at)
    shown = box.runner("approve", protocol, subject, "--yes", env=alice.env)
    assert "+echo honest" in shown.err and r"true #\r+planted\rdiff --git" in shown.err and r"\u2028" in shown.err
    assert not planted(shown.out + shown.err)


def test_what_a_check_printed_is_shown_line_for_line(box: Box, tmp_path: Path) -> None:
    flag = tmp_path / "fails"
    box.write("check.sh", f"test -e {flag} || exit 0\ncat <<'EOF'\n{EVIL}EOF\nexit 1\n")
    box.commit("check")
    checks = 'qa: {checks: ["sh check.sh"]}\n'
    protocol = box.new({"01-a": command("echo a > a.txt", checks), "02-b": command("true", checks)})
    box.runner("step", protocol, rc=0)
    box.runner("step", protocol, rc=0)
    flag.touch()
    shown = [
        box.runner("run", protocol, rc=1),
        box.runner("qa", protocol, "a", rc=1),
        *(box.runner(*words, rc=0) for words in (("log", protocol), ("show", protocol, "b"))),
    ]
    for one in shown:
        assert "+planted" in one.out + one.err and not planted(one.out + one.err), one


def test_a_path_with_a_line_end_is_shown_on_one_line(tmp_path: Path, alice: Person) -> None:
    box = governed(tmp_path / "repo", [alice])
    protocol = box.new({"01-ship": command("true", "approval: before\n")})
    box.runner("run", protocol, rc=3)
    box.runner("approve", protocol, "--yes", rc=0, env=alice.env)
    at = box.worktree(protocol)
    (at / "a\n  next          planted").write_text("x\n")
    box.commit("a path of two lines", cwd=at)
    for words in (("status", protocol), ("show", protocol), ("run", protocol), ("log", protocol), ("status",)):
        shown = box.runner(*words)
        assert not planted(shown.out + shown.err), (words, shown)


def test_a_branch_whose_name_holds_a_line_end_hinders_nothing(remote: Box) -> None:
    for end in ("\x85", "\u2028"):
        remote.git("push", "-q", "origin", f"main:refs/heads/odd{end}name")
    remote.write(".protocols/config.yaml", "publish: always\n")
    remote.commit("publish")
    remote.git("push", "-q", "origin", "main")
    protocol = remote.new({"01-a": command("true")})
    remote.runner("run", protocol, rc=0)
    remote.runner("sync", rc=0)
    remote.git("fetch", "-q", "origin")
    remote.runner("list", rc=0)
