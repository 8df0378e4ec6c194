"""The commands of docs/audit.md, word by word: a person with git and ssh-keygen comes to the verdict that `runner verify` comes to."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conftest import Box, command
from tests.executor.minds import agent, finish, mind, say, write
from tests.people import Person, governed, person

PAGE = Path(__file__).parents[2] / "docs/audit.md"
BLOCK = re.compile(r"^<!-- run: (?P<what>[a-z]+) -->\n```sh\n(?P<code>.*?)^```\n", re.MULTILINE | re.DOTALL)
NAME = "0001-ship-it"
FOLDER = f".protocols/{NAME}"


def by_hand(box: Box, *without: str) -> subprocess.CompletedProcess[str]:
    """Run the page's commands in their order, but the blocks of some kinds."""
    code = "".join(match["code"] for match in BLOCK.finditer(PAGE.read_text()) if match["what"] not in without)
    return subprocess.run(["sh"], input=code, cwd=box.path, env=box.environment(), capture_output=True, text=True)


def rewrite(box: Box, since: str, files: Mapping[str, str]) -> None:
    """Make the chain anew: from the commit on whose message has `since`, each has these files; messages stay as they were."""
    index = {"GIT_INDEX_FILE": str(box.home / "index")}
    begun, new = False, ""
    for oid in box.git("rev-list", "--reverse", "--first-parent", f"main..{NAME}").split():
        message = box.git("cat-file", "commit", oid).partition("\n\n")[2]
        begun = begun or since in message
        box.git("read-tree", oid, env=index)
        for path, text in files.items() if begun else ():
            blob = box.git("hash-object", "-w", "--stdin", data=text).strip()
            box.git("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", env=index)
        tree = box.git("write-tree", env=index).strip()
        new = box.git("commit-tree", tree, "-p", new or "main", "-F", "-", data=message).strip()
    box.git("update-ref", f"refs/heads/{NAME}", new)


@pytest.fixture
def box(tmp_path: Path) -> Box:
    """A completed protocol of two steps, the second of which Alice approved; origin has the base."""
    alice: Person = person(tmp_path, "alice")
    box = governed(tmp_path / "repo", [alice], remote=True)
    check = "outputs: [built.txt]\nqa: {checks: ['grep -q it built.txt']}\n"
    steps = {
        "01-build": command("echo it > built.txt", check),
        "02-deploy": command("cat built.txt > d.txt", "approval: before\n"),
    }
    protocol = box.new(steps, title="Ship it")
    assert protocol == NAME
    box.runner("run", NAME, rc=3)
    box.runner("approve", NAME, "-m", "it does what the ticket says", "--yes", env=alice.env, rc=0)
    box.runner("run", NAME, rc=0)
    return box


@pytest.mark.slow
def test_a_good_record_holds_for_both(box: Box) -> None:
    done = by_hand(box, "merged")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert done.stdout.endswith(f"{NAME} holds\n")
    assert 'Good "runner-approval" signature for alice@example.test' in done.stdout
    assert "reason: it does what the ticket says" in done.stdout
    box.runner("verify", NAME, rc=0)


@pytest.mark.slow
@pytest.mark.no_agreement("the branches are forged")
def test_what_is_wrong_is_wrong_for_both(box: Box) -> None:
    tip, tree = box.git("rev-parse", NAME).strip(), box.worktree(NAME)
    state = box.git("show", f"{NAME}:{FOLDER}/state.json")
    (approval,) = box.git("ls-tree", "--name-only", NAME, f"{FOLDER}/approvals/").split()
    word = box.git("show", f"{NAME}:{approval}")
    armour = word.splitlines()
    forged = "\n".join([*armour[:-3], armour[-3][::-1], *armour[-2:]]) + "\n"
    cases: dict[str, tuple[str, Mapping[str, str]]] = {
        "a person's commit changed the record": ("", {f"{FOLDER}/state.json": state.replace("Ship it", "Ship more")}),
        "code came where no work ended": ("qa-passed build", {"built.txt": "something else\n"}),
        "state.json: deploy is not completed": (
            "completed deploy", {f"{FOLDER}/state.json": state.replace('"status": "completed"', '"status": "failed"')},
        ),
        "state.json is of another log": ("completed deploy", {f"{FOLDER}/log.md": box.log(NAME).replace("it does", "it did") + "\n"}),
        "the signature is not alice@example.test's": ("alice@example.test approves", {approval: forged}),
        "what alice@example.test saw was changed": ("approval-asked deploy", {"README.md": "something else\n"}),
    }  # fmt: skip
    for told, (since, files) in cases.items():
        if since:
            rewrite(box, since, files)
        else:
            for path, text in files.items():
                (tree / path).write_text(text)
            box.commit("forged", cwd=tree)
        done = by_hand(box, "merged")
        assert done.returncode == 1 and f"{told}" in done.stdout, f"{told}: {done.stdout}{done.stderr}"
        assert box.runner("verify", NAME).code == 4, told
        box.git("reset", "-q", "--hard", tip, cwd=tree)


@pytest.mark.slow
def test_after_a_squash_with_the_branch_gone(box: Box) -> None:
    box.git("merge", "-q", "--squash", NAME)
    box.git("commit", "-qm", "Ship it (#7)")
    box.git("push", "-q", "origin", "main")
    box.git("worktree", "remove", "--force", box.worktree(NAME))
    box.git("branch", "-qD", NAME)
    box.git("push", "-q", "origin", "--delete", NAME)
    box.git("fetch", "-q", "--prune", "origin")
    found = re.search(r"`git rev-parse (refs/runner/history/\S+\^)2` \(`\^1`", PAGE.read_text().replace("\n", " "))
    assert found is not None
    parents = box.git("rev-list", "--parents", "-1", f"refs/runner/history/{NAME}").split()
    box.git("tag", NAME, f"{found[1]}{2 if len(parents) > 2 else 1}")
    done = by_hand(box)
    assert done.returncode == 0, done.stdout + done.stderr
    box.write(f"{FOLDER}/state.json", "{}\n")
    box.commit("changed on the base")
    box.git("push", "-q", "origin", "main")
    assert "the base has another state.json" in by_hand(box).stdout


@pytest.mark.slow
@pytest.mark.no_agreement("the history is forged")
def test_transcripts_are_those_that_the_log_names(tmp_path: Path) -> None:
    box = governed(tmp_path / "repo", [person(tmp_path, "alice")], remote=True)
    with mind(box, say(write("a.txt", "a\n")), finish()):
        box.new({"01-a": agent()}, title="Ship it")
        box.runner("run", NAME, rc=0)
    assert by_hand(box, "merged").returncode == 0
    ref = f"refs/runner/history/{NAME}"
    blob = box.git("hash-object", "-w", "--stdin", data=box.git("show", f"{ref}:runs/a.1.jsonl") + "{}\n").strip()
    runs = box.git("mktree", data=f"100644 blob {blob}\ta.1.jsonl\n").strip()
    tree = box.git("mktree", data=f"040000 tree {runs}\truns\n").strip()
    box.git("update-ref", ref, box.git("commit-tree", tree, "-p", ref, "-m", f"{NAME}: history").strip())
    assert "wrong: runs/a.1.jsonl is not what the log names" in by_hand(box, "merged").stdout


def test_every_command_of_the_page_is_run() -> None:
    text = PAGE.read_text()
    assert text.count("```sh\n") == len(BLOCK.findall(text)) == 8
