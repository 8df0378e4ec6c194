"""What a judge is shown and what is kept of its word: bounds that are named, files to be careful with, a report that is inert."""

from __future__ import annotations

import json
from typing import Any

import hypothesis.strategies as st
import jsonschema
import pytest
from hypothesis import given, settings

from runner import qa, resources
from runner.git import Git
from runner.protocol import model_answers
from runner.protocol.events import CheckEvidence
from runner.protocol.model_answers import Finding, Verdict
from tests.conftest import Box

PASS = {"verdict": "PASS", "summary": "All holds."}
GRAVE = {"severity": "blocker", "text": "The test is gone.", "file": "tests/test_a.py", "line": 3, "criterion": "1"}


def change(box: Box, *checks: str) -> qa.Change:
    with Git.open(box.path) as git:
        return qa.change(git, "0001-x", "HEAD~1", "HEAD", checks)


@pytest.mark.parametrize(
    "said",
    [
        PASS,
        {**PASS, "findings": [{"severity": "note", "text": "x"}]},
        {"verdict": "FAIL", "summary": "No.", "findings": [GRAVE]},
    ],
)
def test_a_verdict_is_read_and_fits_the_schema(said: dict[str, Any]) -> None:
    jsonschema.validate(said, json.loads(resources.schema("qa-verdict")))
    found, problems = model_answers.read_verdict(json.dumps(said))
    assert found is not None and not problems
    assert found.passed is (said["verdict"] == "PASS")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("PASS", "the answer"),
        (json.dumps({**PASS, "verdict": "pass"}), "verdict"),
        (json.dumps({**PASS, "extra": 1}), "extra"),
        (json.dumps({**PASS, "summary": ""}), "summary"),
        (json.dumps({**PASS, "findings": [GRAVE]}), "verdict is PASS beside a finding of severity blocker"),
        (json.dumps({"verdict": "FAIL", "summary": "No."}), "verdict FAIL needs at least one finding"),
        (json.dumps({**PASS, "findings": [{**GRAVE, "line": "3"}]}), "findings.0.line"),
        (json.dumps({**PASS, "findings": [{**GRAVE, "line": 0}]}), "findings.0.line"),
        (json.dumps({**PASS, "findings": [GRAVE] * 101}), "findings"),
        ("[" * 100_000, "the answer"),
    ],
)
def test_what_is_no_verdict_is_told_and_not_mended(text: str, told: str) -> None:
    found, problems = model_answers.read_verdict(text)
    assert found is None and told in "\n".join(problems)


def test_tests_ci_and_policy_are_told_apart() -> None:
    changed = [
        "src/app.py", "src/latest.py", "contest/a.py", "tests/test_a.py", "pkg/a_test.go", "web/a.spec.ts", "conftest.py",
        ".github/workflows/ci.yml", "scripts/ci/test.sh", "tools/check.sh", ".gitattributes", "AGENTS.md", ".protocols/memory/a.md",
    ]  # fmt: skip
    found = qa.touched_by(changed, ["./tools/check.sh --all && true"])
    assert found.tests == ("conftest.py", "pkg/a_test.go", "tests/test_a.py", "web/a.spec.ts")
    assert found.ci == (".github/workflows/ci.yml", "scripts/ci/test.sh", "tools/check.sh")
    assert found.policy == (".gitattributes", ".protocols/memory/a.md", "AGENTS.md")
    assert len(found.lines()) == 3


def test_no_attribute_of_the_change_hides_a_file_from_the_judge(box: Box) -> None:
    box.write(".gitattributes", "*.py -diff\n*.py diff=none\n")
    box.write("src/app.py", "print('backdoor')\n")
    box.commit()
    seen = change(box)
    assert "+print('backdoor')" in seen.diff and seen.left_out == ()
    assert seen.touched.policy == (".gitattributes",)
    assert seen.files == ("A .gitattributes", "M src/app.py")  # what one has to be careful with comes first


def test_a_function_of_moderate_size_is_whole_in_the_diff_and_a_long_one_is_not(box: Box) -> None:
    names = "".join(f"import a_module_with_a_long_name_{n}\n" for n in range(50))
    small = "\n\ndef small():\n" + "".join(f"    small_{n}()\n" for n in range(30))
    large = "\n\ndef large():\n" + "".join(f"    large_{n}_of_very_many()\n" for n in range(200))
    box.write("a.py", names + small + large + small.replace("small", "last"))
    box.commit("before")
    text = (box.path / "a.py").read_text()
    for old in (
        "import a_module_with_a_long_name_40",
        "small_15()",
        "large_20_of_very_many()",
        "large_150_of_very_many()",
        "last_3()",
    ):
        text = text.replace(old, f"{old}  # changed")
    box.write("a.py", text)
    box.commit("after")
    diff = change(box).diff
    assert all(
        word in diff
        for word in ("def small", "small_0()", "small_29()", "def last", "last_29()", "large_19_of", "large_151_of")
    )
    assert not any(word in diff for word in ("large_80_of", "long_name_20"))
    (box.path.parent / "made.diff").write_text(diff)
    box.git("checkout", "-q", "HEAD~1", "--", "a.py")
    box.git("apply", "../made.diff")
    assert (box.path / "a.py").read_text() == text


def test_what_does_not_fit_is_named(box: Box) -> None:
    box.write("big.txt", "x" * (qa.BLOB_LIMIT + 1))
    box.write("bin.dat", b"\0\1\2")
    for number in range(8):
        box.write(f"part{number}.txt", f"{number} line\n" * 4_000)
    box.commit()
    seen = change(box)
    assert len(seen.diff) < qa.DIFF_LIMIT + 1_000
    told = "\n".join(seen.left_out)
    assert (
        "big.txt: too big" in told
        and "bin.dat: binary" in told
        and "part0.txt: " in told
        and "part7.txt: the diff is full" in told
    )
    assert len(seen.files) == 10


def test_a_file_that_becomes_a_link_odd_names_and_modes(box: Box) -> None:
    (box.path / "src/app.py").unlink()
    (box.path / "src/app.py").symlink_to("/etc/passwd")
    box.write("ein name\twith tab.txt", "diff --git a/x b/x\n")
    box.write("a-b", "1\n")
    box.write("a/b", "2\n")
    box.write("a.b", "3\n")
    (box.path / "README.md").chmod(0o755)
    box.commit()
    seen = change(box)
    assert "+/etc/passwd" in seen.diff and "+diff --git a/x b/x" in seen.diff and "new mode 100755" in seen.diff
    assert [line[2:] for line in seen.files] == [
        "README.md",
        "a-b",
        "a.b",
        "a/b",
        "ein name\twith tab.txt",
        "src/app.py",
    ]
    for name, said in (("a-b", "+1"), ("a.b", "+3"), ("a/b", "+2")):
        part = seen.diff.split(f"diff --git a/{name} b/{name}\n")[1].split("diff --git")[0]
        assert said in part


def test_the_protocol_s_own_folder_is_not_judged(box: Box) -> None:
    box.write(".protocols/0001-x/state.json", "{}")
    box.write(".protocols/memory/a.md", "a fact\n")
    box.commit()
    assert change(box).files == ("A .protocols/memory/a.md",)


@settings(max_examples=200)
@given(st.text(min_size=1), st.text(max_size=60), st.text(max_size=60))
def test_a_report_is_inert_whatever_a_model_writes(text: str, file: str, criterion: str) -> None:
    said = Verdict(
        verdict="FAIL",
        summary=text,
        findings=(Finding(severity="major", text=text, file=file or None, criterion=criterion or None),),
    )
    seen = qa.Change((), "", (), qa.Touched())
    made = (
        qa.Report("a", 1, said, judges={"x:y": "x:y"}, author="x:y", tree="0" * 40, evidence=(), seen=seen)
        .render()
        .decode()
    )
    assert made.isprintable() or set(char for char in made if not char.isprintable()) == {"\n"}
    for line in made.splitlines():
        assert not line or line.startswith(("# QA of a", "- ", "    ", "## Findings: 1", "1. **major**")), line


def test_a_report_says_who_judged_whom(box: Box) -> None:
    seen = qa.Change(("M a",), "", ("b: binary, 3 bytes",), qa.Touched(tests=("tests/test_a.py",)))
    said = Verdict(verdict="PASS", summary="Fine.")
    check: CheckEvidence = {"check": "make test", "code": 0, "seconds": 1, "output": "", "tail": ""}
    made = (
        qa.Report("a", 2, said, judges={"x:one": "x:one"}, author="x:one", tree="0" * 40, evidence=[check], seen=seen)
        .render()
        .decode()
    )
    assert made.startswith("# QA of a, attempt 2: PASS\n")
    for line in (
        "in a conversation of its own",
        "- tests: `tests/test_a.py`",
        "- passed: `make test`",
        "- `b: binary, 3 bytes`",
    ):
        assert line in made
    other = (
        qa.Report("a", 2, said, judges={"x:two": "x:two"}, author="x:one", tree="0" * 40, evidence=[], seen=seen)
        .render()
        .decode()
    )
    assert "conversation of its own" not in other and "`x:two`" in other and "`x:one`" in other
