"""A model fixes a bug: an agent step in a project with a failing test, checked, steered by a person's edit, and looked into.

The model is a recording (`cassettes/median.jsonl`), so there is no key, no network and no SDK; `record.py` makes it. A request
that differs from the recorded one by a word is not answered, so what is shown is what the model was asked.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from terminal import Terminal, expect, tell, write

CASSETTE = Path(__file__).with_name("cassettes") / "median.jsonl"
PROTOCOL = "0001-make-the-failing-test-pass"
FOLDER = f".protocols/{PROTOCOL}"

PROJECT = {
    "Makefile": """
        test:
        \tPYTHONDONTWRITEBYTECODE=1 python3 -m unittest -q tests.test_median
        """,
    "stats/__init__.py": "",
    "stats/median.py": """
        def median(values: list[float]) -> float:
            \"\"\"Return the middle value; of an even number of values, the mean of the middle two.\"\"\"
            if not values:
                raise ValueError("there is no median of nothing")
            ordered = sorted(values)
            return ordered[len(ordered) // 2]
        """,
    "tests/__init__.py": "",
    "tests/test_median.py": """
        import unittest

        from stats.median import median


        class Median(unittest.TestCase):
            def test_of_an_odd_number(self):
                self.assertEqual(median([9, 1, 5]), 5)

            def test_of_an_even_number(self):
                self.assertEqual(median([4, 1, 3, 2]), 2.5)

            def test_of_nothing(self):
                with self.assertRaises(ValueError):
                    median([])
        """,
}

PLAN = {
    "plan.md": """
        ---
        title: Make the failing test pass
        acceptance: The tests hold, and none of them was changed.
        budget: {tokens: 100000, turns: 12}
        ---
        A test fails since last week, and nobody knows why.
        """,
    "01-fix.md": """
        ---
        title: Find the bug and fix it
        kind: agent
        qa: {policy: light, checks: [make test]}
        ---
        A test in tests/test_median.py fails. Find out why, and mend the code, not the test.
        """,
    "02-news.md": """
        ---
        title: Tell the users
        kind: command
        run: printf 'Bug fixes.\\n' > NEWS.md
        outputs: NEWS.md
        ---
        """,
}

EDIT = {
    "old": "    return ordered[len(ordered) // 2]\n",
    "new": "    middle = len(ordered) // 2\n"
    "    if len(ordered) % 2:\n"
    "        return ordered[middle]\n"
    "    return (ordered[middle - 1] + ordered[middle]) / 2\n",
}


def prepare(term: Terminal, root: Path) -> None:
    """Make the project, its plan, and the protocol."""
    project = root / "stats"
    write(project, PROJECT)
    write(root / "fix", PLAN)
    term.cwd = project
    term.run("git", "init", "-q", hide=True)
    term.run("git", "add", "-A", hide=True)
    term.run("git", "commit", "-qm", "Statistics", hide=True)


def play(term: Terminal, root: Path) -> None:
    """Show the story."""
    prepare(term, root)
    tell("Now a model does the work. Another small project, in which a test fails:")
    shown = term.run("make", "test", code=2)
    expect("FAILED (failures=1)" in shown, "the test does not fail")
    tell("Its plan has an agent step, checked by the tests, within a budget. People write what, the model finds how:")
    term.run("cat", "../fix/01-fix.md")
    shutil.copy(CASSETTE, root / "model.jsonl")
    term.env["RUNNER_ENGINE"] = "recorded:../model.jsonl"
    tell("The model is a recording here, so this needs no key: RUNNER_ENGINE=recorded:../model.jsonl")
    made = term.run("runner", "new", "--plan", "../fix")
    expect(made.rstrip().splitlines()[-1] == PROTOCOL, f"the id is not {PROTOCOL}")
    term.run("runner", "step", "1")
    term.run("runner", "step", "1")
    state = read_state(term)
    expect(state["steps"]["fix"]["status"] == "completed", "the model's step is not completed")
    tell("It looked, changed one file, and the tests hold in a clean export of what was committed:")
    term.run("git", "show", "--format=", "--stat", PROTOCOL + "~1", "--", "stats", "tests")
    worktree = Path(json.loads(term.run("runner", "show", "1", "--json", hide=True))["path"])
    tell("Alice reads what it said it did, and edits the step that comes next, to tell the users more than nothing:")
    file = worktree / FOLDER / "02-news.md"
    old = file.read_text(encoding="utf-8")
    file.write_text(old.replace("Bug fixes.", "The median of an even number of values is right now."), encoding="utf-8")
    term.run("git", "-C", str(worktree), "diff", "-U0", shown=f"git -C ../{worktree.relative_to(root)} diff -U0")
    term.run("runner", "run", "1")
    news = term.run("git", "show", f"{PROTOCOL}:NEWS.md", hide=True)
    expect(news == "The median of an even number of values is right now.\n", "the edit was not taken up")
    state = read_state(term)
    expect(state["status"] == "completed", "the protocol is not completed")
    look(term, state)
    term.run("runner", "take", "1")
    term.run("make", "test")


def look(term: Terminal, state: Any) -> None:
    """Show the transcript, what it took, and that the record holds."""
    tell("Every word between runner and model is kept, out of the team's diffs, in a ref beside the branch:")
    history = f"refs/runner/history/{PROTOCOL}"
    term.run("git", "ls-tree", "-r", "--name-only", history)
    lines = term.run("git", "show", f"{history}:runs/fix.1.jsonl", hide=True).splitlines()
    calls = [call["name"] for line in lines for call in json.loads(line).get("calls", [])]
    expect(calls == ["list_files", "read_file", "read_file", "edit_file", "finish"], f"the model called {calls}")
    term.run("runner", "show", "1", "fix", "--transcript")
    spent = state["spent"]
    expect(spent["input_tokens"] > 0 and spent["output_tokens"] > 0, "no tokens were counted")
    tell(
        f"It took {spent['input_tokens']:,} tokens of input and {spent['output_tokens']:,} of output. A budget is kept by asking "
        "first what a request could cost at most; prices come with the extra `gemini`."
    )
    term.run("runner", "show", "1")
    term.run("runner", "verify", "1")


def read_state(term: Terminal) -> Any:
    """Return state.json as the branch has it."""
    return json.loads(term.run("git", "show", f"{PROTOCOL}:{FOLDER}/state.json", hide=True))
