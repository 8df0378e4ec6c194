"""The main job, shown: two protocols run from plan to finished in small projects, by the commands that people type.

The first one's steps are commands and a tool; in the second a model finds and fixes a bug (`story.py`).

`make demo` runs this. It promises to show real output only, to leave nothing behind but on `--keep`, and to exit non-zero
where anything is not as it should be. It needs the `runner` command beside this Python, and git; no key and no network.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import story
from terminal import Failed, Terminal, choose_executor, expect, say, tell, write

PROTOCOL = "0001-sell-to-finland"
FOLDER = f".protocols/{PROTOCOL}"
STEPS = 4

PROJECT = {
    "Makefile": """
        test:
        \tpython3 -m unittest -q tests.test_shop
        """,
    "shop/__init__.py": "",
    "shop/tax.py": """
        import json
        from decimal import Decimal
        from pathlib import Path

        RATES = Path(__file__).with_name("rates.json")


        def gross(net: str, country: str) -> Decimal:
            rates = json.loads(RATES.read_text())
            percent = Decimal(str(rates[country]))
            return (Decimal(net) * (100 + percent) / 100).quantize(Decimal("0.01"))
        """,
    "shop/rates.json": '{"de": 19, "fr": 20}\n',
    "official/rates.csv": "de,19\nfr,20\nfi,25.5\n",
    "scripts/add_country.py": """
        import argparse
        import json
        from pathlib import Path

        parser = argparse.ArgumentParser()
        parser.add_argument("country")
        parser.add_argument("percent", type=float)
        parser.add_argument("--digits", type=int, default=1)
        given = parser.parse_args()

        file = Path("shop/rates.json")
        rates = json.loads(file.read_text())
        rates[given.country] = round(given.percent, given.digits)
        file.write_text(json.dumps(rates, sort_keys=True) + "\\n")
        print(f"{given.country}: {rates[given.country]} %")
        """,
    "project_tools/__init__.py": "",
    "project_tools/rates.py": """
        import csv
        from pathlib import Path


        def official_rate(country: str) -> dict[str, float]:
            \"\"\"Look the VAT rate of a country up in the official list.\"\"\"
            rows = dict(csv.reader(Path("official/rates.csv").read_text().splitlines()))
            return {"percent": float(rows[country])}
        """,
    "tests/__init__.py": "",
    "tests/test_shop.py": """
        import csv
        import json
        import unittest
        from decimal import Decimal
        from pathlib import Path

        from shop.tax import RATES, gross

        ROOT = Path(__file__).parent.parent


        class Shop(unittest.TestCase):
            def test_gross(self):
                self.assertEqual(gross("100", "de"), Decimal("119.00"))

            def test_every_rate_is_the_official_one(self):
                official = dict(csv.reader((ROOT / "official/rates.csv").read_text().splitlines()))
                for country, percent in json.loads(RATES.read_text()).items():
                    self.assertEqual(percent, float(official[country]), country)
        """,
    ".protocols/config.yaml": """
        # Read from the trusted branch only: here the local main, as there is no remote.
        tools:
          - {module: project_tools.rates, effects: {official_rate: read}}
        """,
}

PLAN = {
    "plan.md": """
        ---
        title: Sell to Finland
        inputs: {country: fi}
        acceptance: The shop knows the Finnish VAT rate, and its tests hold.
        ---
        We open in Finland next month. The rate comes from the official list, not from memory.
        """,
    "01-tests.md": """
        ---
        title: The tests hold before anything changes
        kind: command
        run: make test
        ---
        """,
    "02-rate.md": """
        ---
        title: Look the rate up
        kind: tool
        tool: official_rate
        with: {country: "${{ inputs.country }}"}
        ---
        """,
    "03-table.md": """
        ---
        title: Add the country to the table
        kind: command
        run: python3 scripts/add_country.py "$RUNNER_INPUT_COUNTRY" "$RUNNER_STEPS_RATE_PERCENT" --digits 0
        outputs: shop/rates.json
        qa: {checks: [make test]}
        ---
        The check runs in a clean export of what was committed, not in the folder where the command ran.
        """,
    "04-news.md": """
        ---
        title: Tell the customers
        kind: command
        run: printf 'We deliver to Finland.\\n' > NEWS.md
        outputs: NEWS.md
        ---
        """,
}


def begin(term: Terminal, root: Path) -> None:
    """Make the project and the protocol."""
    shop = root / "shop"
    write(shop, PROJECT)
    write(root / "plan", PLAN)
    term.cwd = shop
    for setting in (("user.name", "Alice"), ("user.email", "alice@example.test"), ("init.defaultBranch", "main")):
        term.run("git", "config", "--global", *setting, hide=True)
    tell("A small project: a Python module, its tests, a Makefile, and a function that steps may call as a tool.")
    term.run("git", "init", "-q")
    term.run("git", "add", "-A")
    term.run("git", "commit", "-qm", "A shop")
    term.run("git", "ls-files")
    tell("A plan is a folder of Markdown files, one a step. This one has commands, a tool, and a check:")
    term.run("cat", "../plan/03-table.md")
    made = term.run("runner", "new", "--plan", "../plan")
    expect(made.rstrip().splitlines()[-1] == PROTOCOL, f"the id is not {PROTOCOL}")


def advance(term: Terminal, root: Path) -> Path:
    """Run the protocol to its end, over a check that fails; return the person's worktree."""
    tell("One step is one transition and one commit. `run` goes on until somebody is needed:")
    term.run("runner", "step", "1")
    term.run("runner", "run", "1", code=1)
    tell("The check has failed: the command rounds 25.5 to 26, and the tests compare with the official list.")
    term.run("runner", "status")
    state = read_state(term)
    expect(state["status"] == "failed", "the protocol has not failed")
    expect(state["steps"]["rate"]["result"] == {"percent": 25.5}, "the tool's result is not in the record")

    worktree = Path(json.loads(term.run("runner", "show", "1", "--json", hide=True))["path"])
    tell("People steer by editing. Alice opens the step's file in the protocol's worktree and mends the command:")
    file = worktree / FOLDER / "03-table.md"
    file.write_text(file.read_text(encoding="utf-8").replace(" --digits 0", ""), encoding="utf-8")
    term.run("git", "-C", str(worktree), "diff", "-U0", shown=f"git -C ../{worktree.relative_to(root)} diff -U0")
    tell("A retry is a second attempt. Before it begins, her edit is committed, as hers:")
    term.run("runner", "retry", "1")
    term.run("runner", "run", "1")
    state = read_state(term)
    expect(state["status"] == "completed", "the protocol is not completed")
    expect(state["steps"]["table"]["attempt"] == 2, "the step has no second attempt")
    rates = json.loads(term.run("git", "show", f"{PROTOCOL}:shop/rates.json", hide=True))
    expect(rates == {"de": 19, "fi": 25.5, "fr": 20}, f"the table is {rates}")
    return worktree


def read_state(term: Terminal) -> Any:
    """Return state.json as the branch has it."""
    return json.loads(term.run("git", "show", f"{PROTOCOL}:{FOLDER}/state.json", hide=True))


def look(term: Terminal) -> None:
    """Show what a protocol is, and that its record holds."""
    tell(
        "The whole protocol is a folder on a branch of the same name. plan and steps are people's, the rest the runner's:"
    )
    term.run("git", "ls-tree", "--name-only", PROTOCOL, f"{FOLDER}/")
    term.run("git", "log", "--graph", "--format=%h %<(15,trunc)%an %s", PROTOCOL)
    tell("state.json is nothing but the fold of the log. verify computes it again for every commit, offline:")
    term.run("runner", "verify", "1")


def forge(term: Terminal, worktree: Path) -> None:
    """Show what a forged state gets, and how it is mended."""
    tell("Somebody forges state.json, so that the failed attempt never was, and commits it under the runner's name:")
    term.cwd = worktree
    file = worktree / FOLDER / "state.json"
    text = file.read_text(encoding="utf-8")
    forged = text.replace('"attempt": 2', '"attempt": 1')
    expect(forged != text, "there is nothing to forge")
    file.write_text(forged, encoding="utf-8")
    forger = ["-c", "user.name=protocol-runner", "-c", "user.email=runner@localhost.invalid"]
    term.run("git", *forger, "commit", "-qam", f"{PROTOCOL}: table completed")
    term.run("runner", "verify", "1", code=4)
    tell("The runner does not go on from it either, and says what mends it:")
    term.run("runner", "step", "1", code=4)
    term.run("runner", "doctor", "1", "--fix")
    term.run("runner", "verify", "1")


def finish(term: Terminal, root: Path) -> None:
    """Bring the work where it belongs."""
    term.cwd = root / "shop"
    tell("Until now main and Alice's checkout are as they were. She takes the work:")
    expect(term.run("git", "status", "--porcelain", hide=True) == "", "the person's checkout has changed")
    term.run("runner", "take", "1")
    term.run("git", "log", "--graph", "--oneline", "-4")
    term.run("cat", "shop/rates.json")
    term.run("make", "-s", "test", hide=True)
    term.run("git", "fsck", "--no-dangling", "--no-progress", hide=True)
    term.run("runner", "status", "1")


def main() -> int:
    """Run the demo; return its exit code."""
    parser = argparse.ArgumentParser(description="Run a protocol from plan to finished in a temporary folder.")
    parser.add_argument("--keep", action="store_true", help="leave the folder there, and say where it is")
    keep = parser.parse_args().keep
    began = time.monotonic()
    root = Path(tempfile.mkdtemp(prefix="protocol-runner-demo-")).resolve()
    home = root / "home"
    home.mkdir()
    term = Terminal(home)
    try:
        choose_executor(term)
        begin(term, root)
        worktree = advance(term, root)
        look(term)
        forge(term, worktree)
        finish(term, root)
        story.play(term, root)
    except Failed as error:
        say(f"\nthe demo failed: {error}")
        return 1
    finally:
        if keep:
            say(f"\nThe folder is {root}; its HOME is {home}.")
        else:
            shutil.rmtree(root, ignore_errors=True)
    tell(
        f"That was all of it, in {time.monotonic() - began:.0f} s: every word of it stands in git, and none was pushed."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
