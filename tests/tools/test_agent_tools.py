"""The model's tools: what they do, what they say when they cannot, and how much of it."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.tools import ToolError, registry
from runner.tools.commands import folded
from runner.tools.files import interpreter_and_library, parse
from tests.conftest import slack
from tests.tools.agent_ground import Ground, Hand, place


@pytest.fixture(params=["sandbox", "host"])
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Ground:
    return Ground(tmp_path, place(request.param))


@pytest.fixture
def hand(ground: Ground) -> Iterator[Hand]:
    with ground.open() as tools:
        yield Hand(tools)


# --- contracts ---------------------------------------------------------------------------------------------------------


def test_every_tool_has_a_plain_contract(hand: Hand) -> None:
    known = {name: tool.contract for name, tool in hand.tools.tools.items()} | registry.LOOP
    assert set(known) == {
        *("read_file", "write_file", "edit_file", "apply_patch", "list_files", "search_text", "run", "shell", "git"),
        *("fetch", "remember", "recall", "ask_person", "publish_artifact", "finish"),
    }
    for contract in known.values():
        text = json.dumps(contract.parameters)
        assert "$ref" not in text and "null" not in text and '"ge"' not in text
        assert contract.parameters["type"] == "object" and contract.parameters["additionalProperties"] is False
    effects = {name: contract.effect for name, contract in known.items()}
    command = "external" if hand.tools.tools["run"].contract.effect == "external" else "workspace"
    assert {name for name, effect in effects.items() if effect == "read"} == {
        *(
            "read_file",
            "list_files",
            "search_text",
            "git",
            "fetch",
            "recall",
            "ask_person",
            "publish_artifact",
            "finish",
        )
    }
    assert effects["run"] == effects["shell"] == command
    assert known["read_file"].parameters["properties"]["start_line"] == {"minimum": 1, "type": "integer"}


def test_a_models_commands_are_external_on_the_host_alone(ground: Ground) -> None:
    with ground.open() as tools:
        assert tools.tools["shell"].contract.effect == ("external" if ground.sandbox.name == "host" else "workspace")


def test_wrong_arguments_are_told_and_nulls_are_as_if_left_out(hand: Hand) -> None:
    assert "did you mean `path`" in hand.refused("read_file", pth="a.txt")
    assert "`start_line`" in hand.refused("read_file", path="a.txt", start_line=0)
    assert "should be text" in hand.refused("write_file", path="a.txt", content=3)
    assert hand("read_file", path="a.txt", start_line=2.0, end_line=None)["text"] == "two\nthree"


def test_the_loops_tools_read_their_arguments() -> None:
    done = registry.read_arguments(
        registry.FINISH, registry.FinishInput, {"status": "done", "summary": "done", "result": {"n": 1}}
    )
    assert (done.status, done.summary, done.result) == ("done", "done", {"n": 1})
    with pytest.raises(ToolError, match="`summary` is missing"):
        registry.read_arguments(registry.FINISH, registry.FinishInput, {"status": "done"})


# --- reading -----------------------------------------------------------------------------------------------------------


def test_a_file_is_read_and_only_a_part_says_which(ground: Ground, hand: Hand) -> None:
    ground.write("b.txt", "".join(f"line {n}\n" for n in range(1, 21)))
    found = hand("read_file", path="b.txt", start_line=9, end_line=10)
    assert found == {"text": "line 9\nline 10", "note": "lines 9-10 of 20"}
    assert hand("read_file", path="b.txt", start_line=20, end_line=99)["text"] == "line 20"
    assert hand("read_file", path="a.txt") == {"text": "one\ntwo\nthree"}
    assert "there is no line 21" in hand.refused("read_file", path="b.txt", start_line=21)
    ground.write("empty", "")
    assert hand("read_file", path="empty") == {"text": ""}


def test_what_is_missing_is_told_with_near_names(ground: Ground, hand: Hand) -> None:
    ground.write("src/deep/ledger.py", "")
    assert "there is a.txt" in hand.refused("read_file", path="a.tx")
    assert "src/deep/ledger.py" in hand.refused("read_file", path="ledger.py")
    assert "is a folder" in hand.refused("read_file", path="src")


def test_what_is_no_text_is_told(ground: Ground, hand: Hand) -> None:
    ground.write("image", b"\x89PNG\0\0")
    ground.write("wide", "text".encode("utf-16"))
    ground.write("latin", b"caf\xe9\n")
    with (ground.work / "huge").open("wb") as file:
        file.truncate(3_000_000_000)
    assert "binary file, 6 bytes" in hand.refused("read_file", path="image")
    assert "UTF-16" in hand.refused("read_file", path="wide")
    assert "3,000,000,000 bytes" in hand.refused("read_file", path="huge")
    assert "not UTF-8" in hand.refused("edit_file", path="latin", edits=[{"old": "caf", "new": "tea"}])
    found = hand("read_file", path="latin")
    assert ("caf�" in found["text"], "not UTF-8" in found["note"]) == (True, True)
    os.mkfifo(ground.work / "pipe")
    assert "no plain file" in hand.refused("read_file", path="pipe")


def test_a_long_file_is_read_in_parts(ground: Ground, hand: Hand) -> None:
    ground.write("long", "".join(f"{n:070}\n" for n in range(1, 2001)))
    first = hand("read_file", path="long")
    assert len(first["text"]) <= 30_000
    following = int(first["note"].rpartition("=")[2])
    assert hand("read_file", path="long", start_line=following)["text"].startswith(f"{following:070}")
    ground.write("wide-line", "x" * 1_000_000)
    assert "[… 998,000 more characters]" in hand("read_file", path="wide-line")["text"]


def test_files_are_listed(ground: Ground, hand: Hand) -> None:
    for path in ("src/a.py", "src/in/b.py", "src/in/c.txt", "node_modules/x/y.js", ".github/w.yml"):
        ground.write(path, "")
    (ground.work / "link").symlink_to("src")
    everything = [".github/w.yml", "a.txt", "link -> src", "node_modules/", "src/a.py", "src/in/b.py", "src/in/c.txt"]
    assert hand("list_files")["files"] == everything
    assert hand("list_files", depth=1)["files"] == [".github/", "a.txt", "link -> src", "node_modules/", "src/"]
    assert hand("list_files", glob="*.py")["files"] == ["src/a.py", "src/in/b.py"]
    assert hand("list_files", path="src", glob="in/*.{py,txt}")["files"] == ["src/in/b.py", "src/in/c.txt"]
    assert hand("list_files", glob="src/**/b.py")["files"] == ["src/in/b.py"]
    assert hand("list_files", path="src/in/..", glob="[ab].py")["files"] == ["src/a.py", "src/in/b.py"]
    assert hand("list_files", path="node_modules")["files"] == ["node_modules/x/y.js"]
    for number in range(1100):
        ground.write(f"many/{number:04}", "")
    many = hand("list_files", path="many")
    assert (len(many["files"]), many["note"][:9]) == (1000, "100 more;")


@pytest.mark.parametrize("ripgrep", [True, False], ids=["ripgrep where it is there", "python"])
def test_text_is_found(ground: Ground, ripgrep: bool) -> None:
    ground.write("src/a.py", "import os\nVALUE = 1\n")
    ground.write("src/b.txt", "value: 2\r\n")
    ground.write("image", b"\0VALUE")
    ground.write("node_modules/m.js", "VALUE")
    ground.write(".github/w.yml", "value" + "x" * 1000 + "\n")
    if not ripgrep:
        ground.env["PATH"] = "/nonexistent"
    with ground.open() as tools:
        hand = Hand(tools)
        assert hand("search_text", pattern="VALUE")["matches"] == ["src/a.py:2:VALUE = 1"]
        both = hand("search_text", pattern="^value", ignore_case=True, glob="src/*")["matches"]
        assert both == ["src/a.py:2:VALUE = 1", "src/b.txt:1:value: 2"]
        assert hand("search_text", pattern=r"value(?=:)", path="src")["matches"] == ["src/b.txt:1:value: 2"]
        assert hand("search_text", pattern="import", path="src/a.py")["matches"] == ["src/a.py:1:import os"]
        (cut,) = hand("search_text", pattern="valuex")["matches"]
        assert len(cut) < 350
        few = hand("search_text", pattern="[a-z]", max=1)
        assert (len(few["matches"]), "more than 1 match" in few["note"]) == (1, True)
        ground.write(".protocols/0001-x/plan.md", "VALUE")
        ground.write(".protocols/memory/m.md", "VALUE of memory")
        assert hand("search_text", pattern="VALUE")["matches"] == [
            ".protocols/memory/m.md:1:VALUE of memory",
            "src/a.py:2:VALUE = 1",
        ]
        assert hand("search_text", pattern="VALUE", path=".protocols/0001-x")["matches"] == [
            ".protocols/0001-x/plan.md:1:VALUE"
        ]
        assert "no regular expression" in hand.refused("search_text", pattern="(")
        assert "does not exist" in hand.refused("search_text", pattern="x", path="missing/y")


@pytest.mark.slow
def test_a_search_without_an_end_is_ended_and_the_next_call_works(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.tools.agent.FILES_TIMEOUT", 1.0)
    ground.write("bad", "a" * 60 + "!\n")
    ground.env["PATH"] = "/nonexistent"
    with ground.open() as tools:
        hand = Hand(tools)
        assert "timed out after 1 s" in hand.refused("search_text", pattern="^(a+)+$")
        assert hand("read_file", path="a.txt")["text"] == "one\ntwo\nthree"


# --- writing -----------------------------------------------------------------------------------------------------------


def test_a_file_is_written_and_keeps_its_mode(ground: Ground, hand: Hand) -> None:
    assert hand("write_file", path="new/deep/b.txt", content="grüß\n") == {
        "bytes": 7,
    }  # fmt: skip
    assert ground.text("new/deep/b.txt") == "grüß\n"
    script = ground.write("go", "#!/bin/sh\n")
    script.chmod(0o755)
    assert hand("write_file", path="go", content="#!/bin/sh\nexit\n")["replaced"] is True
    assert script.stat().st_mode & 0o777 == 0o755
    assert "is a folder" in hand.refused("write_file", path="new", content="")
    assert sorted(os.listdir(ground.work)) == [".git", "a.txt", "go", "new"]


def test_ends_of_lines_stay(ground: Ground, hand: Hand) -> None:
    ground.write("dos", b"\xef\xbb\xbfone\r\ntwo\r\n")
    assert "CRLF" in hand("read_file", path="dos")["note"]
    hand("edit_file", path="dos", edits=[{"old": "one\ntwo", "new": "1\n2\n3"}])
    assert (ground.work / "dos").read_bytes() == b"\xef\xbb\xbf1\r\n2\r\n3\r\n"
    hand("apply_patch", patch="--- a/dos\n+++ b/dos\n@@ -1,2 +1,2 @@\n 1\n-2\n+zwei\n")
    assert (ground.work / "dos").read_bytes() == b"\xef\xbb\xbf1\r\nzwei\r\n3\r\n"
    ground.write("dos", b"x\r\n")
    hand("write_file", path="dos", content="a\nb\n")
    assert (ground.work / "dos").read_bytes() == b"a\r\nb\r\n"


def test_edits_are_exact_and_all_or_none(ground: Ground, hand: Hand) -> None:
    ground.write("b.py", "x = 1\nif x:\n    x = 1\n    y = 2\n")
    assert "2 times, at lines 1, 3" in hand.refused("edit_file", path="b.py", edits=[{"old": "x = 1", "new": "z"}])
    both = [{"old": "y = 2", "new": "y = 3"}, {"old": "missing = 1", "new": ""}]
    assert "edit 2 of 2" in (told := hand.refused("edit_file", path="b.py", edits=both)) and "no edit was made" in told
    assert ground.text("b.py") == "x = 1\nif x:\n    x = 1\n    y = 2\n"
    spaces = hand.refused("edit_file", path="b.py", edits=[{"old": "x = 1\n  y = 2", "new": ""}])
    assert "it is at line 3:\n3\t    x = 1\n4\t    y = 2" in spaces
    assert "\n4\t    y = 2" in hand.refused("edit_file", path="b.py", edits=[{"old": "    y = 22", "new": ""}])
    assert "empty" in hand.refused("edit_file", path="b.py", edits=[{"old": "", "new": "x"}])
    assert "the same" in hand.refused("edit_file", path="b.py", edits=[{"old": "x", "new": "x"}])
    done = hand(
        "edit_file",
        path="b.py",
        edits=[{"old": "x = 1", "new": "x = 9", "all": True}, {"old": "y = 2", "new": "y = x"}],
    )
    assert done == {"changed": "1\tx = 9\n2\tif x:\n3\t    x = 9\n4\t    y = x"}
    assert ground.text("b.py") == "x = 9\nif x:\n    x = 9\n    y = x\n"


def test_an_edit_of_what_the_one_before_it_changed_shows_its_own_lines(ground: Ground, hand: Hand) -> None:
    ground.write("n", "abc\n" + "x\n" * 20)
    edits = [{"old": "b", "new": "B"}, {"old": "aBc", "new": ""}]
    assert hand("edit_file", path="n", edits=edits) == {"changed": "1\t\n2\tx"}


def test_edits_of_a_hundred_thousand_places_end_in_seconds(ground: Ground, hand: Hand) -> None:
    ground.write("big", "x\n" * 100_000)
    edits = [{"old": "x", "new": "yy", "all": True}, {"old": "yy", "new": "z", "all": True}]
    started = time.monotonic()
    shown = hand("edit_file", path="big", edits=edits)["changed"]
    assert "100000 times, at lines 1, 2, 3" in hand.refused("edit_file", path="big", edits=[{"old": "z", "new": "x"}])
    assert time.monotonic() - started < 20  # a place compared with every other: a quarter of an hour
    assert shown == "1\tz\n2\tz\n3\tz\n4\tz\n…\n99997\tz\n99998\tz\n99999\tz\n100000\tz"
    assert ground.text("big") == "z\n" * 100_000


def test_the_workspaces_real_name_is_neither_shown_nor_in_the_way(ground: Ground, hand: Hand) -> None:
    ground.write("log", f"at {ground.work}/a.txt, {ground.work}2\n")
    assert hand("read_file", path="log")["text"] == f"at /workspace/a.txt, {ground.work}2"
    hand("edit_file", path="log", edits=[{"old": "at /workspace/a", "new": "in /workspace/b"}])
    assert ground.text("log") == f"in {ground.work}/b.txt, {ground.work}2\n"
    assert hand("run", argv=["pwd"])["output"] == "/workspace\n"
    assert hand("shell", command="cat /workspace/a.txt")["output"] == "one\ntwo\nthree\n"
    assert hand("read_file", path=str(ground.work / "a.txt"))["text"] == "one\ntwo\nthree"


# --- patches -----------------------------------------------------------------------------------------------------------

PATCH = """\
diff --git a/a.txt b/a.txt
index 4cb29ea..ddc897f 100644
--- a/a.txt
+++ b/a.txt
@@ -1,3 +1,3 @@
 one
-two
+TWO
 three
diff --git a/bin/go b/bin/go
new file mode 100755
--- /dev/null
+++ b/bin/go
@@ -0,0 +1,2 @@
+#!/bin/sh
+exit
\\ No newline at end of file
diff --git a/old b/old
deleted file mode 100644
--- a/old
+++ /dev/null
@@ -1 +0,0 @@
-bye
"""


def test_a_patch_changes_creates_and_deletes(ground: Ground, hand: Hand) -> None:
    ground.write("old", "bye\n")
    assert [(c["path"], c["change"]) for c in hand("apply_patch", patch=PATCH)["files"]] == [
        ("a.txt", "changed at 1"),
        ("bin/go", "created"),
        ("old", "deleted"),
    ]
    assert ground.text("a.txt") == "one\nTWO\nthree\n"
    assert ground.text("bin/go") == "#!/bin/sh\nexit"
    assert (ground.work / "bin/go").stat().st_mode & 0o777 == 0o755
    assert not (ground.work / "old").exists()


def test_what_git_writes_is_applied(ground: Ground, hand: Hand) -> None:
    before = "".join(f"{n}\n" for n in range(40))
    after = before.replace("5\n", "five\n", 1).replace("30\n", "thirty\nand more\n") + "no end"
    ground.commit("before", {"n.txt": before, "ü.txt": "x\n", "gone/e": ""})
    ground.write("n.txt", after)
    ground.write("ü.txt", "y\n")
    (ground.work / "gone/e").unlink()
    patch = ground.git("diff")
    ground.git("checkout", "-q", ".")
    hand("apply_patch", patch=patch)
    assert (ground.text("n.txt"), ground.text("ü.txt")) == (after, "y\n")
    assert not (ground.work / "gone/e").exists()


def test_a_patch_that_does_not_fit_changes_nothing(ground: Ground, hand: Hand) -> None:
    assert "old does not exist" in hand.refused("apply_patch", patch=PATCH)
    assert ground.text("a.txt") == "one\ntwo\nthree\n" and not (ground.work / "bin").exists()
    ground.write("old", "bye\nbye\n")
    assert "holds more than the patch removes" in hand.refused("apply_patch", patch=PATCH)
    ground.write("old", "bye\n")
    ground.write("a.txt", "one\n2\nthree\n")
    told = hand.refused("apply_patch", patch=PATCH)
    assert "line 2 of the file should be 'two\\n', but it has '2\\n'" in told
    ground.write("bin/go", "")
    ground.write("a.txt", "one\ntwo\nthree\n")
    assert "bin/go is there already" in hand.refused("apply_patch", patch=PATCH)


def test_a_wrong_line_number_is_forgiven_where_the_place_is_certain(ground: Ground, hand: Hand) -> None:
    hunk = "--- a/a.txt\n+++ b/a.txt\n@@ -40,2 +40,2 @@\n two\n-three\n+3\n"
    hand("apply_patch", patch=hunk)
    assert ground.text("a.txt") == "one\ntwo\n3\n"
    ground.write("a.txt", "two\nthree\ntwo\nthree\n")
    assert "are at 1, 3" in hand.refused("apply_patch", patch=hunk)


def test_the_counts_of_a_hunk_may_be_wrong(ground: Ground, hand: Hand) -> None:
    patch = "--- a/a.txt\n+++ b/a.txt\n@@ -1,7 +1,9 @@\n one\n-two\n+2\n\n@@ -9 +9,2 @@ words\n three\n+four\n"
    hand("apply_patch", patch=patch + "--- /dev/null\n+++ b/new\n@@ -0,0 +1,5 @@\n+x\n")
    assert (ground.text("a.txt"), ground.text("new")) == ("one\n2\nthree\nfour\n", "x\n")
    hand("apply_patch", patch="--- a/a.txt\n+++ b/a.txt\n@@ @@\n-2\n+zwei\n")
    assert ground.text("a.txt") == "one\nzwei\nthree\nfour\n"


def test_openais_form_of_a_patch_is_applied(ground: Ground, hand: Hand) -> None:
    ground.write(
        "b.py", "class A:\n    def f(self):\n        return 1\n\n\nclass B:\n    def f(self):\n        return 1"
    )
    ground.write("old", b"\0gone".replace(b"\0", b""))
    patch = """\
*** Begin Patch
*** Update File: b.py
@@ class B:
     def f(self):
-        return 1
+        return 2
*** Update File: a.txt
@@
 one
-two
+TWO
*** Add File: new/c.txt
+first
+second
*** Delete File: old
*** End Patch"""
    assert [one["change"] for one in hand("apply_patch", patch=patch)["files"]] == [
        "changed at 7", "changed at 1", "created", "deleted",
    ]  # fmt: skip
    assert ground.text("b.py").endswith("class B:\n    def f(self):\n        return 2")
    assert ground.text("b.py").startswith("class A:\n    def f(self):\n        return 1\n")
    assert (ground.text("a.txt"), ground.text("new/c.txt")) == ("one\nTWO\nthree\n", "first\nsecond\n")
    assert not (ground.work / "old").exists()
    ground.write("b.py", "x\ny\nx\ny\n")
    twice = "*** Begin Patch\n*** Update File: b.py\n x\n-y\n+z\n*** End Patch\n"
    assert "are at 1, 3; give more of the lines" in hand.refused("apply_patch", patch=twice)


def test_an_edit_answers_with_the_changed_lines(ground: Ground, hand: Hand) -> None:
    ground.write("n.txt", "".join(f"{n}\n" for n in range(1, 101)))
    edits = [
        {"old": "\n50\n", "new": "\nfifty\n"},
        {"old": "10\n11\n", "new": ""},
        {"old": "\n90", "new": "\n90" + "\nx" * 20},
    ]
    changed = hand("edit_file", path="n.txt", edits=edits)["changed"]
    assert changed.split("\n\n") == [
        "9\t9\n10\t12\n11\t13",
        "46\t48\n47\t49\n48\tfifty\n49\t51",
        "86\t88\n87\t89\n88\t90\n89\tx\n…\n106\tx\n107\tx\n108\tx\n109\t91",
    ]
    ground.write("same", "x\n\n\n\n" * 12)
    assert (
        "and 2 more places" in hand("edit_file", path="same", edits=[{"old": "x", "new": "y", "all": True}])["changed"]
    )


def test_a_write_that_fails_takes_the_others_back(ground: Ground, hand: Hand) -> None:
    ground.write("dir/x", "x\n")
    patch = "--- a/a.txt\n+++ b/a.txt\n@@ -1 +1 @@\n-one\n+1\n--- /dev/null\n+++ b/a.txt/x\n@@ -0,0 +1 @@\n+x\n"
    hand.refused("apply_patch", patch=patch)
    long = "n" * 250
    patch = f"--- a/a.txt\n+++ b/a.txt\n@@ -1 +1 @@\n-one\n+1\n--- /dev/null\n+++ b/{long}{long}\n@@ -0,0 +1 @@\n+x\n"
    hand.refused("apply_patch", patch=patch)
    assert ground.text("a.txt") == "one\ntwo\nthree\n"


@pytest.mark.parametrize(
    ("patch", "told"),
    [
        ("", "empty"),
        ("*** Begin Patch\n", "empty"),
        ("*** Begin Patch\nhello\n", r"line 2 .* `\*\*\* Update File: FILE`"),
        ("*** Begin Patch\n*** Update File: x\n*** End Patch\n", "a hunk is expected"),
        ("*** Begin Patch\n*** Update File: x\n*** Move to: y\n@@\n-a\n+b\n*** End Patch\n", "renames"),
        ("*** Begin Patch\n*** Update File: x\n@@\n-a\nb\n*** End Patch\n", "begins with a space"),
        ("*** Begin Patch\n*** Add File: x\n-a\n*** End Patch\n", "added lines alone"),
        ("--- a/x\n@@ -1 +1 @@\n-a\n+b\n", r"`\+\+\+ FILE` is expected"),
        ("--- a/x\n+++ b/x\n", "a hunk"),
        ("--- a/x\n+++ b/x\n@@ -1,2 +1 @@\n-a\n+b\nc\n", "begins with a space"),
        ("--- a/x\n+++ b/y\n@@ -1 +1 @@\n-a\n+b\n", "one file has one name"),
        ("diff --git a/x b/y\nrename from x\nrename to y\n", "renames"),
        ("diff --git a/x b/x\nold mode 100644\nnew mode 100755\n", "mode"),
        (
            "diff --git a/x b/x\nnew file mode 120000\n--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+/etc\n",
            "100644 or 100755",
        ),
        ("--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-b\n+c\n", "twice"),
    ],
)
def test_what_is_no_patch_is_refused(patch: str, told: str) -> None:
    with pytest.raises(ToolError, match=told):
        parse(patch)


# --- commands ----------------------------------------------------------------------------------------------------------


def test_a_command_ends_with_its_code_and_output(hand: Hand) -> None:
    assert hand("shell", command="echo out; echo err >&2; exit 3") == {
        "exit_code": 3, "output": "out\nerr\n",
    }  # fmt: skip
    missing = hand("run", argv=["no-such-program"])
    assert (missing["exit_code"], "no-such-program" in missing["output"]) == (127, True)
    seconds = round(0.5 * slack(), 1)
    slow = hand("shell", command="echo begun; sleep 300", timeout=seconds)
    assert (slow["exit_code"], slow["timed_out"]) == (124, True)
    assert slow["output"].startswith("begun\n") and f"[it was ended after {seconds:g} s" in slow["output"]


def test_much_output_is_cut_in_the_middle(hand: Hand) -> None:
    whole = "".join(f"{n}\n" for n in range(1, 100_001)).encode()
    result = hand("run", argv=["seq", "100000"])
    assert result["truncated"] and len(result["output"]) < 10_300
    assert result["output"].startswith("1\n2\n") and result["output"].endswith("99999\n100000\n")
    assert (
        f"\n[… of {len(whole):,} bytes in all the middle is left out; the whole is in ~/outputs/1.txt …]\n"
        in result["output"]
    )
    assert hand("shell", command="grep -n '^54321$' ~/outputs/1.txt")["output"] == "54321:54321\n"
    for count in (2_000, 3_000):  # around what is shown
        result = hand("run", argv=["seq", str(count)])
        assert result.get("truncated", False) is (count > 2_500) and result["output"].endswith(f"\n{count}\n")
    result = hand("run", argv=["seq", "1000000"])
    assert "its first 4,000,000 bytes and its end are in ~/outputs/3.txt" in result["output"]
    assert hand("shell", command="tail -1 ~/outputs/3.txt; tail -c 80000 ~/outputs/3.txt | grep -c 'are left out'")[
        "output"
    ] == ("1000000\n1\n")


def test_an_output_is_kept_through_no_link(ground: Ground, hand: Hand) -> None:
    (ground.home / "outputs").symlink_to(ground.outside)
    result = hand("run", argv=["seq", "100000"])
    assert "is left out …]" in result["output"] and [one.name for one in ground.outside.iterdir()] == ["secret"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\rab\rabc\n", "abc\n"),
        ("one\r\ntwo\r\n", "one\ntwo\n"),
        ("10%\r 50%\r100%\r\n", "100%\n"),
        ("\x1b[32mgreen\x1b[0m\n", "green\n"),
        (f"{'.' * 72} [ 50%]\n{'.' * 72} [100%]\n\nOK\n", "[144 dots] [100%]\n\nOK\n"),
        (f"t.py {'.' * 30}F{'.' * 30}\n", "t.py [30 dots]F[30 dots]\n"),
        ("x\nx\nx\n", "x\nx\nx\n"),
        ("x\n" * 5 + "y\n", "x\n[4 more such lines]\ny\n"),
        ("......\nwait...\n", "......\nwait...\n"),
    ],
)
def test_what_says_nothing_is_folded(text: str, shown: str) -> None:
    assert folded(text) == shown


def test_the_shell_is_bash_where_there_is_one(hand: Hand) -> None:
    assert hand("shell", command="[[ a == a ]] && echo {1..3}")["output"] == "1 2 3\n"


def test_what_cannot_be_a_command_is_told(hand: Hand) -> None:
    assert "not empty" in hand.refused("run", argv=[""])
    assert "without a =" in hand.refused("run", argv=["A=1", "true"])
    assert "NUL" in hand.refused("run", argv=["echo", "a\0b"])
    assert "too much for a command" in hand.refused("shell", command="#" * 200_000)


def test_a_command_costs_little(ground: Ground, hand: Hand) -> None:
    """The bound is loose: machines that run tests are busy. What is measured is in the benchmarks."""
    times = []
    for _ in range(15):
        began = time.perf_counter()
        hand("run", argv=["true"])
        times.append(time.perf_counter() - began)
    assert statistics.median(times) < 0.4 * slack()


# --- git ---------------------------------------------------------------------------------------------------------------


def test_git_is_read(ground: Ground, hand: Hand) -> None:
    ground.write("a.txt", "one\n2\nthree\n")
    ground.write("b.txt", "new\n")
    assert hand("git", args=["status", "--short"])["output"] == " M a.txt\n?? b.txt\n"
    assert "-two\n+2\n" in hand("git", args=["diff", "HEAD", "--", "a.txt"])["output"]
    assert hand("git", args=["log", "-n", "1", "--format=%s"])["output"] == "first\n"
    assert hand("git", args=["log", "-1", "--oneline", "-S", "two"])["output"].endswith("first\n")
    assert hand("git", args=["show", "HEAD:a.txt"])["output"] == "one\ntwo\nthree\n"
    assert "three" in hand("git", args=["blame", "-L3,3", "HEAD", "--", "a.txt"])["output"]
    assert hand("git", args=["diff", "--stat", "no-such-ref"])["exit_code"] == 128


@pytest.fixture(scope="module", params=["sandbox", "host"])
def reading(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hand]:
    """Tools that were opened once, for tests that change nothing."""
    with Ground(tmp_path_factory.mktemp("reading"), place(request.param)).open() as tools:
        yield Hand(tools)


@pytest.mark.parametrize(
    "args",
    [
        *(["push"], ["-c", "core.pager=touch x", "log"], ["commit", "-m", "x"], ["config", "--list"]),
        *(["log", "--exec=x"], ["diff", "--output=x"], ["diff", "--ext-diff"], ["show", "--textconv"], ["diff", "-Ox"]),
        *(
            ["diff", "--no-index", "a", "b"],
            ["diff", "/etc/hosts", "/etc/passwd"],
            ["diff", "a.txt", "../outside/secret"],
        ),
        *(["log", "--show-signature"], ["log", "--format=%GK"], ["blame", "--contents=/etc/passwd", "a.txt"]),
        *(
            ["blame", "--contents", "/etc/passwd", "a.txt"],
            ["log", "-n"],
            ["status", "--", ".git"],
            ["log", "--", "/etc"],
        ),
        *(["diff", "--", ":(top)../x"], ["--git-dir=/x", "log"], ["status", "--no-optional-locks"], ["log", "a\0b"]),
        *(["blame", "--ignore-revs-file=/etc/passwd", "a.txt"], ["log", "--stdin"], ["show", "~/x"]),
    ],
    ids=" ".join,
)
def test_what_is_not_for_reading_is_refused(reading: Hand, args: list[str]) -> None:
    reading.refused("git", args=args)


# --- memory and the rest -----------------------------------------------------------------------------------------------


def test_facts_are_remembered_and_found(ground: Ground, hand: Hand) -> None:
    assert hand("recall") == {"facts": [], "note": "nothing is remembered"}
    first = hand("remember", text="The tests need Redis.\n")
    assert first == {"path": ".protocols/memory/the-tests-need-redis.md"}
    assert ground.text(first["path"]) == "The tests need Redis.\n"
    assert hand("remember", text="The tests need redis!")["path"].endswith("/the-tests-need-redis-2.md")
    assert hand("remember", text="Releases are on Monday.", name="releases").get("replaced") is None
    assert hand("remember", text="Releases are on Tuesday.", name="releases")["replaced"] is True
    assert [fact["name"] for fact in hand("recall", query="Tuesday releases")["facts"]] == ["releases"]
    assert len(hand("recall")["facts"]) == 3
    assert "name" in hand.refused("remember", text="x", name="../x")


def test_no_host_is_allowed(hand: Hand) -> None:
    assert "no host is allowed" in hand.refused("fetch", url="https://example.test/")


def test_the_interpreter_is_the_one_behind_a_virtual_environment() -> None:
    interpreter, needed = interpreter_and_library()
    assert interpreter.is_file() and not interpreter.is_symlink()
    assert any(interpreter.is_relative_to(folder) for folder in needed)
    assert not any(Path.home().is_relative_to(folder) for folder in needed)


def test_a_worker_that_is_ended_is_started_again(ground: Ground, hand: Hand) -> None:
    hand("read_file", path="a.txt")
    files: Any = hand.tools._files
    files.close(0.0)
    assert hand("read_file", path="a.txt")["text"] == "one\ntwo\nthree"
