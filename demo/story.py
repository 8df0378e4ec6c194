"""The main job, shown in a small project with a failing test: a model plans, finds the bug and fixes it, people steer.

The model is a recording (`cassettes/shop.jsonl`), so there is no key, no network and no SDK; `record.py` makes it by playing this
same story. A request that differs from the recorded one by a word is not answered, so what is shown is what the model was
asked. Each scene promises to end with Failed where anything is not as it should be. Where there is no ssh-keygen, nobody can make
a key: the step that needs a person's word is left out, and that is said.
"""

from __future__ import annotations

import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from terminal import Terminal, expect, tell, write

CASSETTE = Path(__file__).with_name("cassettes") / "shop.jsonl"
TITLE = "Make the failing test pass"
PROTOCOL = "0001-make-the-failing-test-pass"
FOLDER = f".protocols/{PROTOCOL}"

PROJECT = {
    "AGENTS.md": """
        `make test` runs the tests. Where prices change, `scripts/table.py` makes RATES.md anew, `make table` checks it, and NEWS.md
        tells the customers.
        """,
    "Makefile": """
        test:
        \t@PYTHONDONTWRITEBYTECODE=1 python3 -m tests.test_tax

        table:
        \t@python3 scripts/table.py --check
        """,
    "shop/__init__.py": "",
    "shop/tax.py": """
        import json
        from decimal import Decimal
        from pathlib import Path

        RATES = json.loads(Path(__file__).with_name("rates.json").read_text())


        def gross(net: str, country: str) -> Decimal:
            \"\"\"Return the price with VAT, in cents that are rounded half up.\"\"\"
            percent = int(RATES[country])
            return (Decimal(net) * (100 + percent) / 100).quantize(Decimal("0.01"))
        """,
    "shop/rates.json": '{"de": 19, "fi": 25.5, "fr": 20}\n',
    "official/rates.csv": "de,19\nfi,25.5\nfr,20\n",
    "scripts/table.py": """
        import argparse
        import csv
        import json
        import sys
        from pathlib import Path

        TABLE = Path("RATES.md")

        parser = argparse.ArgumentParser(description="Write the customers' table of VAT rates, or check it.")
        parser.add_argument("--digits", type=int, default=0)
        parser.add_argument("--check", action="store_true")
        given = parser.parse_args()

        if given.check:
            table = TABLE.read_text() if TABLE.exists() else ""
            for country, official in csv.reader(Path("official/rates.csv").read_text().splitlines()):
                if f"| {country} | {float(official):g} % |" not in table:
                    sys.exit(f"{TABLE}: {country} is not {float(official):g} %, the official rate")
        else:
            rates = json.loads(Path("shop/rates.json").read_text())
            rows = [f"| {country} | {round(rate, given.digits):g} % |" for country, rate in rates.items()]
            TABLE.write_text("\\n".join(["| country | VAT |", "|---|---|", *rows, ""]))
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
    "project_tools/mail.py": """
        import http.client
        import os


        def announce(text: str) -> dict[str, int]:
            \"\"\"Mail a text to all customers.\"\"\"
            mail = http.client.HTTPConnection(os.environ["SHOP_MAIL"], timeout=20)
            mail.request("POST", "/", text.encode())
            return {"customers": int(mail.getresponse().read())}
        """,
    "tests/__init__.py": "",
    # Not unittest: what it prints depends on the version of Python, and what a planner saw is in the recording.
    "tests/test_tax.py": """
        import sys

        from shop.tax import gross


        def test_germany():
            return gross("100", "de"), "119.00"


        def test_finland():
            return gross("100", "fi"), "125.50"


        if __name__ == "__main__":
            results = {test.__name__: test() for test in (test_germany, test_finland)}
            failed = [f"{name}: {price} is not {wanted}" for name, (price, wanted) in results.items() if str(price) != wanted]
            sys.exit("\\n".join(["FAILED", *failed]) if failed else 0)
        """,
    ".protocols/config.yaml": """
        # Read from the trusted branch only: here the local main, as there is no remote.
        tools:
          - {module: project_tools.rates, effects: {official_rate: read}}
          - {module: project_tools.mail, effects: {announce: {external: never}}, env: [SHOP_MAIL], network: ["localhost:@PORT@"]}
        """,
}

REVIEWED = "qa:\n  policy: full\n"  # what Alice makes of the planned step's `qa:`

RATE_STEP = """
    ---
    title: Look the Finnish rate up
    kind: tool
    tool: official_rate
    with: {country: fi}
    ---
    """

ANNOUNCE_STEP = """
    ---
    title: Mail it to the customers
    kind: tool
    tool: announce
    with: {text: "VAT in Finland is ${{ steps.rate.result.percent }} %, and our prices have it."}
    ---
    """

NEWS = "VAT in Finland is 25.5 %, and our prices have it."


def play(term: Terminal, root: Path) -> None:
    """Show the whole story in folders below `root`; the terminal's engine is the recording unless it has one."""
    with mail_service(root / "mailed.txt") as term.env["SHOP_MAIL"]:
        worktree = plan(term, root)
        fix(term, worktree)
        # Not before: with a policy a model on the host is offered other tools, and the recording is to answer without a key too.
        signs = list_key(term)
        steer(term, worktree, announces=signs)
        retry(term, worktree, waits=signs)
        if signs:
            approve(term)
        look(term)
        forge(term, worktree)
        finish(term, worktree)


@contextmanager
def mail_service(mailed: Path) -> Iterator[str]:
    """Stand in for the shop's mail service while the block lasts: give its address; a line of `mailed` is a text that it sent."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            with mailed.open("ab") as file:
                file.write(self.rfile.read(int(self.headers["Content-Length"])) + b"\n")
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"212")

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def plan(term: Terminal, root: Path) -> Path:
    """Make the project, have the work planned; return the person's worktree of the protocol."""
    shop = root / "shop"
    port = term.env["SHOP_MAIL"].partition(":")[2]
    write(shop, {path: text.replace("@PORT@", port) for path, text in PROJECT.items()})
    term.cwd = shop
    for setting in (("user.name", "Alice"), ("user.email", "alice@example.test"), ("init.defaultBranch", "main")):
        term.run("git", "config", "--global", *setting, hide=True)
    term.run("git", "init", "-q", hide=True)
    term.run("git", "add", "-A", hide=True)
    term.run("git", "commit", "-qm", "A shop", hide=True)
    tell("A small project in git, in which a test fails:")
    expect("test_finland: 125.00 is not 125.50" in term.run("make", "test", code=2), "the test does not fail")
    if "RUNNER_ENGINE" not in term.env:
        shutil.copy(CASSETTE, root / "model.jsonl")
        term.env["RUNNER_ENGINE"] = "recorded:../model.jsonl"
    tell(
        "Alice states the task, and a model writes a plan. (The answers here are a script's, recorded: "
        "RUNNER_ENGINE=recorded:../model.jsonl. With a key it would be gemini:MODEL.)"
    )
    made = term.run("runner", "new", TITLE)
    expect(made.rstrip().splitlines()[-1] == PROTOCOL, f"the id is not {PROTOCOL}")
    return Path(json.loads(term.run("runner", "show", "1", "--json", hide=True))["path"])


def fix(term: Terminal, worktree: Path) -> None:
    """Let the model find and fix the bug, and another conversation judge the change."""
    tell(
        "The plan is Markdown files on a branch, in a worktree beside the checkout. Alice edits the first step: she sets a "
        "token budget, and asks for a review beside the tests (`policy: full`)."
    )
    file = worktree / FOLDER / "01-fix.md"
    text = file.read_text(encoding="utf-8")
    expect("qa:\n" in text, "the step has no checks")
    file.write_text(text.replace("qa:\n", f"budget: {{tokens: 100000}}\n{REVIEWED}"), encoding="utf-8")
    term.run("cat", str(file), shown=f"cat {_near(term, worktree)}/{FOLDER}/01-fix.md")
    tell("One step is one transition and one commit. In the first, the model works in its own workspace:")
    term.run("runner", "step", "1")
    tell(
        "The next is QA: the tests run again in a clean export of the commit. The review above was of these very files:"
    )
    term.run("runner", "step", "1")
    state = read_state(term)
    expect(state["steps"]["fix"]["status"] == "completed", "the model's step is not completed")
    term.run("git", "show", "--format=", f"{PROTOCOL}~1", "--", "shop", "tests")
    term.run("git", "show", f"{PROTOCOL}:{FOLDER}/reports/fix.1.md")


def list_key(term: Terminal) -> bool:
    """Make Alice a key and have the project take her word for what needs one; return whether it could be done."""
    if shutil.which("ssh-keygen", path=term.env["PATH"]) is None:
        tell(
            "ssh-keygen is not installed here, so nobody can sign: the demo continues without the step that needs an approval."
        )
        return False
    tell(
        "A tool with effects outside the workspace needs a person's approval: a signature. Alice makes a key for git to sign with. "
        "`runner init` lists it in files on main, the trusted branch, where no agent can write."
    )
    key = term.home / ".ssh" / "id_ed25519"
    key.parent.mkdir(mode=0o700)
    make = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "alice@example.test", "-f")
    term.run(*make, str(key), shown="ssh-keygen -q -t ed25519 -N '' -C alice@example.test -f ~/.ssh/id_ed25519")
    term.run("git", "config", "--global", "gpg.format", "ssh")
    term.run(
        *("git", "config", "--global", "user.signingkey", f"{key}.pub"),
        shown="git config --global user.signingkey ~/.ssh/id_ed25519.pub",
    )
    term.run("runner", "-q", "init", "--commit", "--yes")
    term.run("git", "show", "--stat", "--format=%h %an: %s")
    return True


def steer(term: Terminal, worktree: Path, *, announces: bool) -> None:
    """Edit what comes later, as a person does; `announces`: with a last step that reaches outside."""
    tell(
        "People steer a running protocol by editing it. Customers need the official rate, so Alice adds a step that calls a "
        "function of the project (a typed tool), and edits the next step to use its result."
        + (" A last step mails it." if announces else "")
    )
    folder = worktree / FOLDER
    write(folder, {"03-rate.md": RATE_STEP})
    news = (folder / "03-news.md").read_text(encoding="utf-8")
    line = "printf 'VAT in Finland is %s %%, and our prices have it.\\n' \"$RUNNER_STEPS_RATE_PERCENT\" > NEWS.md"
    lines = [f"run: {line}" if one.startswith("run:") else one for one in news.splitlines()]
    (folder / "04-news.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "03-news.md").unlink()
    if announces:
        write(folder, {"05-announce.md": ANNOUNCE_STEP})
    at = _near(term, worktree)
    term.run("git", "-C", str(worktree), "add", "-A", shown=f"git -C {at} add -A")
    term.run("git", "-C", str(worktree), "diff", "--cached", "-M30", "-U0", shown=f"git -C {at} diff --cached -M30 -U0")


def retry(term: Terminal, worktree: Path, *, waits: bool) -> None:
    """Run on, over a check that fails and what a person does about it, to the end, or to where it `waits` for a word."""
    tell("`run` continues until it needs a person:")
    term.run("runner", "run", "1", code=1)
    tell(
        "The check failed: the planned command rounds 25.5 to 26. No work is lost, and `status` names the next command."
    )
    term.run("runner", "status")
    expect(read_state(term)["status"] == "failed", "the protocol has not failed")
    tell(
        "Alice fixes the step's command. A retry is a second attempt; before it starts, her edit is committed in her name:"
    )
    file = worktree / FOLDER / "02-table.md"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("scripts/table.py", "scripts/table.py --digits 1", 1), encoding="utf-8")
    term.run("git", "-C", str(worktree), "diff", "-U0", shown=f"git -C {_near(term, worktree)} diff -U0")
    term.run("runner", "retry", "1")
    term.run("runner", "run", "1", code=3 if waits else 0)
    state = read_state(term)
    expect(state["status"] == ("running" if waits else "completed"), f"the protocol is {state['status']}")
    expect(state["steps"]["table"]["attempt"] == 2, "the step has no second attempt")
    expect(state["steps"]["rate"]["result"] == {"percent": 25.5}, "the tool's result is not in the record")
    expect(term.run("git", "show", f"{PROTOCOL}:NEWS.md", hide=True) == f"{NEWS}\n", "the edit was not taken up")


def approve(term: Terminal) -> None:
    """Show what the call that waits would do, sign it, and that it is made then, once."""
    mailed = term.cwd.parent / "mailed.txt"
    expect(not mailed.exists(), "the call was made without a word")
    tell(
        "The call waits: its exact bytes are in a file, and nothing was mailed. `approve` shows Alice what she signs (without "
        "--yes it would ask first). Her approval covers exactly that, and is a commit in her name."
    )
    term.run("runner", "approve", "1", "--yes", "-m", "the text is right")
    tell("The next `run`, in any clone, makes that call, once:")
    term.run("runner", "run", "1")
    term.run("cat", "../mailed.txt")
    expect(mailed.read_text(encoding="utf-8") == f"{NEWS}\n", "the call was not made once")
    state = read_state(term)
    expect(state["status"] == "completed", "the protocol is not completed")
    expect(state["steps"]["announce"]["result"] == {"customers": 212}, "the call's result is not in the record")


def look(term: Terminal) -> None:
    """Show what a protocol is: its files and commits, what was said, what it cost, and that its record holds."""
    tell(
        "The whole protocol is a folder on a branch of the same name: people own the plan and the steps, the runner the rest."
    )
    term.run("git", "ls-tree", "-r", "--name-only", PROTOCOL, f"{FOLDER}/")
    term.run("git", "log", "--graph", "--format=%h %<(15,trunc)%an %s", PROTOCOL)
    tell("All messages between runner and model are kept in a ref beside the branch, outside the team's diffs:")
    history = f"refs/runner/history/{PROTOCOL}"
    term.run("git", "ls-tree", "-r", "--name-only", history)
    lines = term.run("git", "show", f"{history}:runs/fix.1.jsonl", hide=True).splitlines()
    calls = [call["name"] for line in lines for call in json.loads(line).get("calls", [])]
    expect(calls == ["list_files", "read_file", "read_file", "edit_file", "finish"], f"the model called {calls}")
    term.run("runner", "show", "1", "fix", "--transcript")
    spent = read_state(term)["spent"]
    expect(spent["input_tokens"] > 0 and spent["output_tokens"] > 0, "no tokens were counted")
    tell(
        f"It took {spent['input_tokens']:,} tokens of input, {spent['output_tokens']:,} of output, and at most ${spent['usd']}: "
        "the script's numbers, at the prices of the model that it replaces."
    )
    term.run("runner", "show", "1")
    tell("state.json is the fold of the log. `verify` computes it again for every commit, offline:")
    term.run("runner", "verify", "1")


def forge(term: Terminal, worktree: Path) -> None:
    """Show what a forged state gets, and how it is mended."""
    tell("An attacker removes the failed attempt from state.json, and commits that under the runner's name:")
    file = worktree / FOLDER / "state.json"
    text = file.read_text(encoding="utf-8")
    forged = text.replace('"attempt": 2', '"attempt": 1')
    expect(forged != text, "there is nothing to forge")
    file.write_text(forged, encoding="utf-8")
    at = _near(term, worktree)
    forger = ["-c", "user.name=protocol-runner", "-c", "user.email=runner@localhost.invalid"]
    commit = ["commit", "-qam", f"{PROTOCOL}: table completed"]
    shown = f"git -C {at} {' '.join(forger)} commit -qam '{commit[-1]}'"
    term.run("git", "-C", str(worktree), *forger, *commit, shown=shown)
    term.run("runner", "verify", "1", code=4)
    tell("The runner refuses to continue from it, and names the command that repairs it:")
    term.run("runner", "step", "1", code=4)
    term.run("runner", "doctor", "1", "--fix")
    term.run("runner", "verify", "1")


def finish(term: Terminal, worktree: Path) -> None:
    """Bring the work where it belongs, as one commit, and show what is left of the protocol then."""
    tell("So far the work is neither on main nor in Alice's checkout. She merges it as one commit:")
    expect(term.run("git", "log", "--format=%h", f"main..{PROTOCOL}", hide=True) != "", "the work is on main already")
    expect(term.run("git", "status", "--porcelain", hide=True) == "", "the person's checkout has changed")
    term.run("git", "merge", "-q", "--squash", PROTOCOL)
    term.run("git", "commit", "-qm", "The Finnish rate has a fraction")
    term.run("git", "log", "--oneline")
    term.run("make", "test", "table")
    term.run("runner", "status", "1")
    tell("`clean` removes what is left: worktree, workspace, and the branch, whose commits the history ref keeps.")
    term.run("runner", "clean", "--yes")
    expect(term.run("git", "branch", "--format=%(refname:short)", hide=True) == "main\n", "a branch was left")
    expect(not worktree.exists(), "the worktree was left")
    tell("Squashed, and without its branch, it still verifies:")
    term.run("runner", "verify", "1")
    tell("And `why` shows where a line of code came from:")
    text = (term.cwd / "shop" / "tax.py").read_text(encoding="utf-8").splitlines()
    (line,) = [number for number, one in enumerate(text, 1) if "percent = " in one]
    said = term.run("runner", "why", f"shop/tax.py:{line}")
    expect("01-fix" in said and "transcript" in said, "nobody knows where the line comes from")
    term.run("git", "fsck", "--no-dangling", "--no-progress", hide=True)


def read_state(term: Terminal) -> Any:
    """Return state.json as the branch has it."""
    return json.loads(term.run("git", "show", f"{PROTOCOL}:{FOLDER}/state.json", hide=True))


def _near(term: Terminal, worktree: Path) -> str:
    return f"../{worktree.relative_to(term.cwd.parent)}"
