"""A protocol that lives in a merge request: two people, a pipeline and a forge, each of whom is shown what they see.

`make demo-forge` runs this. The forge is the strict GitLab of the tests (`tests/forge/gitlab_fake.py`), in this process: its answers
are the examples of GitLab's documentation, and it refuses what these do not list. Behind it is real git over HTTP, with a token for
everybody, each with the scopes that it needs and no others. The pipeline's jobs are what `runner init` wrote. It promises to show real
output only, to end with Failed where anything is not as it should be, and to leave nothing behind.

The model is a recording (`cassettes/forge.jsonl`, made by `record.py`). `forge.py --pages FOLDER` also keeps the request's text as it
stood each time that it is shown.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import story
from terminal import Failed, Terminal, choose_executor, expect, say, tell, write

from tests.forge.gitlab_fake import PATH, PROTECTED
from tests.forge.gitlab_project import Project

CASSETTE = Path(__file__).with_name("cassettes") / "forge.jsonl"
TITLE, PROTOCOL, FOLDER = story.TITLE, story.PROTOCOL, story.FOLDER
WIDTH = 104
PEOPLE = ("alice", "bob")
SHOP = {name: text for name, text in story.PROJECT.items() if not name.startswith(".protocols/")}
MAIL = "VAT in Finland is 25.5 %, and our prices have it."
CONFIG = """\

publish: always
tools:
  - {module: project_tools.rates, effects: {official_rate: read}}
  - {module: project_tools.mail, effects: {announce: {external: never}}, env: [SHOP_MAIL], network: ["localhost:@PORT@"]}
"""
APPROVALS = """\
approvals:
  plan: {roles: [maintainer], required: true}     # by a review, or signed
  merge: {roles: [maintainer], required: true}
  call: {roles: [maintainer]}                     # what reaches outside: signed, which is the default
"""
ANNOUNCE = f"""
    ---
    title: Mail it to the customers
    kind: tool
    tool: announce
    with: {{text: "{MAIL}"}}
    ---
    """


class Team(Terminal):
    """People, a bot, their forge and their machines; who types is said before each command."""

    def __init__(self, root: Path, pages: Path | None = None) -> None:
        """Make all of it in the folder `root`; `pages`: where the request's text is kept."""
        super().__init__(root / "home")
        self.root, self.pages, self.views = root, pages, 0
        self.plain = dict(self.env)
        shop, bare = root / "alice" / "shop", root / "group" / "shop.git"
        write(shop, SHOP)
        self.cwd = shop
        who = ("-c", "user.name=Alice", "-c", "user.email=alice@example.test")
        for words in (("init", "-q", "-b", "main"), ("add", "-A"), (*who, "commit", "-qm", "A shop")):
            self.run("git", *words, hide=True)
        self.run("git", "clone", "-q", "--bare", str(shop), str(bare), hide=True)
        self.run("git", "--git-dir", str(bare), "config", "http.receivepack", "true", hide=True)
        self.lab = Project(bare)
        self.lab.project["only_allow_merge_if_pipeline_succeeds"] = True
        self.url = f"{self.lab.url}/{PATH}"
        self.accounts = {
            "alice": self.lab.account("alice", level=40),
            "bob": self.lab.account("bob", level=40),
            "bot": self.lab.account("shop_bot", bot=True, level=40),
        }
        for name in PEOPLE:
            self._settle(name)
        self.lab.tokens |= {
            "glpat-bot": (self.accounts["bot"].id, ["api"]),
            "glpat-reads": (self.accounts["bot"].id, ["read_api", "read_repository"]),
        }
        self.act("alice")
        self.run("git", "remote", "add", "origin", f"{self.url}.git", hide=True)
        self.run("git", "fetch", "-q", "origin", hide=True)
        self.run("git", "branch", "-q", "-u", "origin/main", hide=True)

    def act(self, name: str) -> None:
        """Let the next commands be somebody's, in their clone."""
        home = self.root / name
        self.env.clear()
        self.env.update(self.plain)
        self.env |= {"HOME": str(home), "RUNNER_FORGE_TOKEN": "glpat-bot", "RUNNER_PACKAGE": "protocol-runner"}
        self.prompt, self.cwd = f"{name}$", home / "shop"

    def job(self, name: str, *, writes: bool) -> None:
        """Let the next commands be a job's of the pipeline, in a fresh clone; `writes`: it has the token that may push."""
        self.act("ci")
        token = "glpat-bot" if writes else "glpat-reads"
        self.env |= {
            "CI": "true",
            "RUNNER_NAME": "protocol-runner",
            "RUNNER_EMAIL": "runner@localhost.invalid",
            "RUNNER_FORGE_TOKEN": token,
            "RUNNER_GIT_TOKEN": token,
            "RUNNER_FOLDER": str(self.root / "ci" / "nothing"),
            "HANDOVER": "../../handover",
        }
        self.prompt, self.cwd = f"{name}$", self.root / "ci" / name / "shop"
        shutil.rmtree(self.cwd, ignore_errors=True)
        self.clone(self.cwd, token)

    def clone(self, folder: Path, token: str) -> None:
        """Clone the project with somebody's token, which does not stay there."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        address = f"{self.url}.git".replace("//", f"//somebody:{token}@")
        self.run("git", "clone", "-q", address, str(folder), hide=True, cwd=folder.parent)
        self.run("git", "remote", "set-url", "origin", f"{self.url}.git", hide=True)

    def pipeline(self, *, code: int = 0) -> None:
        """Do what the jobs of the pipeline do for the protocol; `code`: how the one that works ends."""
        script = "scripts/ci/protocol.sh"
        planned = self.root / "ci" / "handover" / "pipeline.yml"
        shutil.rmtree(planned.parent, ignore_errors=True)
        planned.parent.mkdir(parents=True)
        self.job("find", writes=True)
        line = f"{script} plan gitlab {PROTOCOL} >"
        self.run("sh", "-c", f'{line} "$HANDOVER/pipeline.yml"', shown=f"{line} pipeline.yml")
        if f"protocol-work {PROTOCOL}" in planned.read_text():
            self.job("work", writes=False)
            self.run(script, "work", PROTOCOL, code=code)
        self.job("publish", writes=True)
        self.run(script, "publish", PROTOCOL)

    def press(self, name: str, what: str) -> None:
        """Say what somebody does on the request's page."""
        say(f"{name}, in the browser:  {what}")

    def commit(self, worktree: Path, text: str) -> None:
        """Commit all that was changed in a worktree, as who is acting."""
        self.run("git", "-C", str(worktree), "add", "-A", hide=True)
        at = f"../{worktree.relative_to(self.cwd.parent)}"
        self.run("git", "-C", str(worktree), "commit", "-qm", text, shown=f"git -C {at} commit -qam '{text}'")

    def state(self) -> Any:
        """Return state.json as the remote has it."""
        return json.loads(self.lab.git("show", f"{PROTOCOL}:{FOLDER}/state.json"))

    def may_merge(self) -> bool:
        """Return whether GitLab would merge: the pipeline, of which the statuses are part, must succeed."""
        return not self.request["draft"] and {state for state, _ in self.statuses().values()} == {"success"}

    def checks(self) -> list[str]:
        """Return the statuses, a line each."""
        mark = {"success": "✔", "failed": "✘"}
        return [f"{mark.get(state, '…')} {name:14} {words}" for name, (state, words) in sorted(self.statuses().items())]

    @property
    def request(self) -> dict[str, Any]:
        """The one merge request."""
        found: dict[str, Any] = self.lab.requests[1].value
        return found

    def statuses(self) -> dict[str, tuple[str, str]]:
        """Return what stands at the request's last commit, as the forge has it."""
        tip = self.lab.branches[PROTOCOL]
        return {
            each["name"]: (each["status"], each["description"])
            for each in self.lab.statuses
            if each["sha"] == tip and each["id"] not in self.lab.retried
        }

    def look(self, what: str, *, comment: bool = False) -> None:
        """Show the request as its page has it."""
        self.views += 1
        text, told = self.request["description"], self.comment()
        if self.pages is not None:
            self.pages.mkdir(parents=True, exist_ok=True)
            facts = {"title": self.request["title"], "branch": PROTOCOL, "statuses": self.statuses()}
            name = f"{self.views}-{what}"
            (self.pages / f"{name}.md").write_text(text, encoding="utf-8")
            (self.pages / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        lines = [f"!1  {self.request['title']}", "", *as_text(text)]
        if comment:
            lines += ["", "shop_bot says:", *(f"  {line}" for line in as_text(told, WIDTH - 2))]
        lines += ["", *self.checks()]
        for line in lines:
            say(f"  │ {line}".rstrip())

    def comment(self) -> str:
        """Return the one comment of the runner's."""
        bot = self.accounts["bot"].id
        (note,) = [each["body"] for each in self.lab.requests[1].notes if each["author"]["id"] == bot]
        return str(note)

    def _settle(self, name: str) -> None:
        """Give a person a key, a token for git, and a clone."""
        home = self.root / name
        key = home / ".ssh" / "id_ed25519"
        key.parent.mkdir(parents=True, mode=0o700)
        self.act(name)
        self.cwd = home
        make = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"{name}@example.test")
        self.run(*make, "-f", str(key), hide=True)
        token = f"glpat-{name}"
        self.lab.tokens[token] = (self.accounts[name].id, ["write_repository"])
        (home / ".git-credentials").write_text(self.lab.url.replace("//", f"//{name}:{token}@") + "\n")
        settings = {
            "user.name": name.capitalize(),
            "user.email": f"{name}@example.test",
            "user.signingkey": f"{key}.pub",
            "gpg.format": "ssh",
            "credential.helper": "store",
        }
        for setting, value in settings.items():
            self.run("git", "config", "--global", setting, value, hide=True)
        self.cwd = home / "shop"
        if not self.cwd.exists():
            self.clone(home / "shop", token)

    def key_line(self, name: str) -> str:
        """Return somebody's line in allowed_signers."""
        public = (self.root / name / ".ssh" / "id_ed25519.pub").read_text(encoding="utf-8").split()[:2]
        return f'{name}@example.test namespaces="git,runner-approval" {" ".join(public)}\n'


def as_text(markdown: str, width: int = WIDTH) -> list[str]:
    """Return Markdown as the lines that a reader sees."""
    from rich.console import Console
    from rich.markdown import Markdown

    markdown = re.sub(
        r"(?s)<details><summary>(.*?)</summary>.*?</details>", r"▸ \1", markdown
    )  # closed, until one opens it
    out = io.StringIO()
    Console(file=out, width=width, color_system=None, legacy_windows=False).print(Markdown(markdown))
    text = "\n".join(line.rstrip() for line in out.getvalue().splitlines())
    return re.sub(r"\n{3,}", "\n\n", text.strip("\n")).splitlines()


def play(team: Team) -> None:
    """Show the whole story; the engine is the recording unless the team has one."""
    with story.mail_service(team.root / "mailed.txt") as address:
        team.env["SHOP_MAIL"] = address
        if "RUNNER_ENGINE" not in team.env:
            team.env["RUNNER_ENGINE"] = "recorded:../model.jsonl"
            for machine in ("alice", "ci/work"):
                (team.root / machine).mkdir(parents=True, exist_ok=True)
                shutil.copy(CASSETTE, team.root / machine / "model.jsonl")
        team.plain = dict(team.env)
        try:
            set_up(team)
            worktree = begin(team)
            review(team)
            mend(team, worktree)
            sign(team)
            merge(team)
        finally:
            team.lab.close()


def set_up(team: Team) -> None:
    """Alice sets the project up, and says whose word counts."""
    tell(
        "Alice and Bob keep a shop's code on a GitLab. (The GitLab is the tests' strict fake, in this process; the git behind it "
        "is real, over HTTP with tokens.) Alice sets it up: a policy, her key, the pipeline's jobs."
    )
    team.act("alice")
    team.run("runner", "init", "--ci", "--forge", f"gitlab {team.url}", "--yes")
    folder = team.cwd / ".protocols"
    before = (folder / "policy.yaml").read_text(encoding="utf-8")
    text = re.sub(r"maintainer: \[.*\]", "maintainer: [alice@example.test, bob@example.test]", before)
    text = re.sub(r"(?m)^own_work: .*$", "own_work: refuse", text)
    host = team.lab.url.removeprefix("http://")
    ids = ", ".join(f"{name}@example.test: {team.accounts[name].id}" for name in PEOPLE)
    rules = f'\nforge: {{"{host}": {{{ids}}}}}\n{APPROVALS}'
    (folder / "policy.yaml").write_text(text + rules, encoding="utf-8")
    port = team.env["SHOP_MAIL"].partition(":")[2]
    for name, more in (("config.yaml", CONFIG.replace("@PORT@", port)), ("allowed_signers", team.key_line("bob"))):
        with (folder / name).open("a", encoding="utf-8") as file:
            file.write(more)
    tell(
        "She adds Bob, with his key and his account's number, and lists what needs an approval; nobody approves their own work:"
    )
    shown = [*re.findall(r"(?m)^(?:  maintainer|own_work): .*$", text), *rules.strip().splitlines()]
    say("\n".join(f"  + {line}" for line in shown))
    team.run("git", "add", "-A", hide=True)
    team.run("git", "commit", "-qm", "Protocols live in requests", hide=True)
    team.run("git", "push", "-q")
    tell("The forge has settings too. `doctor` reads them, and names what they do not enforce:")
    expect("runner/verify" not in team.run("runner", "doctor", "--forge"), "the required check is not set up")
    team.press("alice", "Settings, Repository, Protected branches: main")
    team.lab.protected.append(dict(PROTECTED))


def begin(team: Team) -> Path:
    """Alice has the work planned, adds a step, and asks for it; return her worktree of the protocol."""
    tell("A test fails. Alice states the task, and a model writes a plan. (Its answers are a script's, recorded.)")
    team.run("runner", "new", TITLE)
    worktree = Path(json.loads(team.run("runner", "show", "1", "--json", hide=True))["path"])
    tell(
        "Customers should know, so she adds a step that calls a function of the project, which mails them. She commits and pushes:"
    )
    write(worktree / FOLDER, {"04-announce.md": ANNOUNCE})
    say(f"alice$ cat {FOLDER}/04-announce.md")
    say("\n".join(f"  {line}" for line in (worktree / FOLDER / "04-announce.md").read_text().splitlines()))
    team.commit(worktree, "Mail it to the customers")
    team.run("runner", "sync", "1")
    tell(
        "That opened a draft request. From here on the pipeline advances it: one job talks to the forge, the next works and cannot "
        "push, a third checks that work and publishes it. Each is a fresh clone, with a token for its part alone."
    )
    team.pipeline()
    return worktree


def review(team: Team) -> None:
    """Bob reads the plan in the request and approves it there; the pipeline works until a check fails."""
    tell("This is what Bob sees in the request:")
    team.look("plan")
    tell("The steps' files are the request's changes. Bob reads them, and approves, as he would any request:")
    team.press("bob", "Approve")
    team.lab.approve(team.accounts["bob"], 1)
    tell("His review is counted, and recorded with his account's number. The model fixes the bug; then a check fails:")
    team.pipeline()
    state = team.state()
    expect(state["steps"]["fix"]["status"] == "completed", "the model's step is not completed")
    expect(state["status"] == "failed" and "QA:" in state["steps"]["table"]["reason"], "no check has failed")
    expect(team.statuses()["runner/qa"] == ("failed", "failed: table"), "the failure is not told")
    tell("The request shows it; nobody needs to read a CI log:")
    team.look("failed")


def mend(team: Team, worktree: Path) -> None:
    """Alice mends the step and asks for a retry in a comment; as the plan has changed, it needs Bob's yes again."""
    tell("The planned command rounds 25.5 to 26. Alice fixes it, pushes, and asks for another attempt in a comment:")
    team.act("alice")
    team.run("runner", "sync", "1")
    file = worktree / FOLDER / "02-table.md"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("scripts/table.py", "scripts/table.py --digits 1", 1), encoding="utf-8")
    at = f"../{worktree.relative_to(team.cwd.parent)}"
    team.run("git", "-C", str(worktree), "diff", "-U0", "--", FOLDER, shown=f"git -C {at} diff -U0")
    team.commit(worktree, "The table shows fractions")
    team.run(
        "git", "-C", str(worktree), "push", "-q", "origin", PROTOCOL, shown=f"git -C {at} push -q origin {PROTOCOL}"
    )
    team.press("alice", "/runner retry")
    team.lab.comment(team.accounts["alice"], 1, "/runner retry")
    tell("Her comment is a command, since she may write there. But the plan is no longer what Bob approved:")
    team.pipeline()
    expect(team.state()["steps"]["table"]["attempt"] == 2, "the retry was not heard")
    expect([wait["kind"] for wait in team.state()["waiting"]] == ["plan"], "the edit did not need another yes")
    tell("Bob looks at what she changed, and gives his approval again:")
    team.press("bob", "Revoke approval, Approve")
    team.lab.unapprove(team.accounts["bob"], 1)
    team.lab.approve(team.accounts["bob"], 1)
    team.pipeline()
    expect(team.state()["steps"]["table"]["status"] == "completed", "the retry did not help")


def sign(team: Team) -> None:
    """The mail waits for a signature; Bob gives it, and a machine that stays makes the call."""
    tell(
        "The next step mails the customers, which cannot be undone. A review is not enough for that; a person has to sign:"
    )
    team.look("call", comment=True)
    mailed = team.root / "mailed.txt"
    expect(not mailed.exists(), "the call was made without a word")
    tell("Bob sees the exact bytes that would be sent, and signs them with his key (without --yes it would ask first):")
    team.act("bob")
    team.run("git", "fetch", "-q", "origin", hide=True)
    team.run("runner", "approve", "1", "--yes", "-m", "the text is right")
    tell(
        "A CI machine may vanish in the middle of a call, so the call is not started there. The office's machine makes it, once:"
    )
    team.act("office")
    team.clone(team.cwd, "glpat-bot")
    team.env |= {
        "RUNNER_NAME": "protocol-runner",
        "RUNNER_EMAIL": "runner@localhost.invalid",
        "RUNNER_GIT_TOKEN": "glpat-bot",
    }
    team.run("runner", "run", "1")
    team.run("cat", str(mailed), shown="cat mailed.txt")
    expect(mailed.read_text(encoding="utf-8") == f"{MAIL}\n", "the call was not made once")


def merge(team: Team) -> None:
    """The required check holds the merge until somebody but Alice has looked at the whole; then it is merged."""
    tell(
        "Every step is done, and the request is ready. The policy requires an approval of the merge, so the check waits:"
    )
    team.look("ready")
    expect(not team.request["draft"], "the request is still a draft")
    expect(team.statuses()["runner/verify"][0] == "pending", "the check does not wait for the word on the merge")
    team.act("alice")
    team.run("runner", "sync", "1")
    team.press("alice", "Merge")
    expect(not team.may_merge(), "GitLab would have merged")
    say("  GitLab: merge blocked: pipeline must succeed (runner/verify is pending)")
    tell("Bob reads the changes and approves. A job reads that, and the check is green:")
    team.press("bob", "Revoke approval, Approve")
    team.lab.unapprove(team.accounts["bob"], 1)
    team.lab.approve(team.accounts["bob"], 1)
    team.job("find", writes=True)
    team.run("runner", "sync", "1")
    for line in team.checks():
        say(f"  │ {line}")
    expect(team.may_merge(), "the required check is not green")
    team.press("bob", "Merge, squashed into one commit")
    team.lab.merge(team.accounts["bob"], 1, "squash")
    tell("Git shows that it is merged. Alice removes what is left of it on her machine:")
    team.act("alice")
    team.run("runner", "sync", "1")
    listed = team.run("runner", "list")
    expect("completed · merged" in listed, "it is not shown as merged")
    team.run("git", "fetch", "-q", "--prune", hide=True)
    team.run("git", "merge", "-q", "--ff-only", "origin/main", hide=True)
    team.run("runner", "clean", "--yes")
    tell(
        "Main has one commit of it, and no branch is left. Its history ref proves it, and shows where each line came from:"
    )
    team.run("git", "log", "--first-parent", "--format=%h %an %s", "-3")
    team.run("git", "branch", "--all", "--format=%(refname:short)")
    team.run("runner", "verify", "1")
    expect("25.5" in (team.cwd / "RATES.md").read_text(encoding="utf-8"), "the work is not on main")
    team.run("make", "test", "table")
    said = team.run("runner", "why", "RATES.md:4")
    expect("02-table" in said and "plan approved by bob@example.test" in said, "nobody knows how the line came here")
    sent = str([asked.body for asked in team.lab.asked])
    expect("glpat-" not in sent, "a token was sent to the forge as text")
    posts = sum("/statuses/" in one for one in team.lab.writes())
    tell(
        f"On the forge that was one request, one comment that was edited, and {posts} statuses. There is no server of ours and no "
        "database: the record is in git."
    )


def main() -> int:
    """Run the demo; return its exit code."""
    parser = argparse.ArgumentParser(description="Run a protocol in a merge request, in a temporary folder.")
    parser.add_argument("--pages", type=Path, metavar="FOLDER", help="keep the request's text there")
    pages = parser.parse_args().pages
    if shutil.which("ssh-keygen") is None:
        say("error: ssh-keygen is not installed; install openssh-client")
        return 1
    began = time.monotonic()
    root = Path(tempfile.mkdtemp(prefix="protocol-runner-forge-")).resolve()
    try:
        team = Team(root, pages)
        choose_executor(team)
        team.plain |= {name: team.env[name] for name in ("RUNNER_EXECUTOR",) if name in team.env}
        play(team)
    except Failed as error:
        say(f"\nthe demo failed: {error}")
        return 1
    finally:
        shutil.rmtree(root, ignore_errors=True)
    tell(f"The demo took {time.monotonic() - began:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
