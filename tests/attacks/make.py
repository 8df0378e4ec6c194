"""Bad words, as git bundles: made by git and ssh-keygen alone, with a writer of the record of its own.

`python tests/attacks/words.py FOLDER` makes a bundle for each case. A bundle has the trusted branch (`main`), a protocol's branch
where a word was abused (`0001-ship-it`), and the same with one more commit, by somebody who writes what no runner would: an event
that uses the word (`forged`). Keys are made anew each time; dates and names are fixed.

A history is written here as docs/design.md says, for the few events that are needed. Nothing of runner's is imported, so that an
error of its writer's is not made twice. A new kind of case needs its event in `_fold`, and its subject in `manifest`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

PROTOCOL, REPO = "0001-ship-it", "6f0c" * 8
FOLDER = f".protocols/{PROTOCOL}"
NOW = "2026-11-20T08:00:00Z"  # when words are judged
SAID, WEEK = "2026-11-20T07:00:00Z", "2026-11-27T07:00:00Z"
Change = str | bytes | tuple[str, str] | None  # text, bytes, (mode, text), or gone
Event = tuple[str, str, dict[str, Any]]  # name, subject, fields in their order

STEPS = {
    "01-a": "kind: command\nrun: echo a > a.txt\n",
    "02-deploy": "kind: command\nneeds: []\nrun: sh deploy.sh\napproval: before\n",
    "03-mail": "kind: tool\nneeds: []\ntool: send_report\nwith: {to: ops@example.test}\n",
    "04-write": "kind: agent\nneeds: []\nagent: coder\napproval: before\n",
    "05-ship": "kind: command\nneeds: []\nrun: sh deploy.sh\napproval: after\n",
}
KINDS = {"a": "command", "deploy": "command", "mail": "tool", "write": "agent", "ship": "command"}
THIRD = r"(?!\.protocols/)(?:.*/)?(?:AGENTS|CLAUDE|GEMINI)\.md"  # instructions, by version 3
CODER = "name: coder\nobjective: Write.\n"
POLICY = """repo: {repo}
roles:
  maintainer: [{maintainers}]
agents: [runner@example.test]
approvals:
  plan: {{roles: [maintainer], count: 1{plan}}}
  step: {{roles: [maintainer], count: {count}, expires: 720h{step}}}
  call: {{roles: [maintainer], count: 1}}
{more}"""


def sha(data: bytes) -> str:
    """Return a digest as the formats have it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def policy(*maintainers: str, count: int = 1, plan: str = "", step: str = "", more: str = "") -> str:
    """Return a policy.yaml."""
    names = ", ".join(f"{name}@example.test" for name in maintainers)
    return POLICY.format(repo=REPO, maintainers=names, count=count, plan=plan, step=step, more=more)


class Keys:
    """People's keys, made by ssh-keygen when they are first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.begun: dict[str, History] = {}  # histories to go on from, by what they are called

    def file(self, name: str) -> Path:
        """Return the private half of somebody's key."""
        path = self.folder / f"{name}.key"
        if not path.exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(path)], check=True)
        return path

    def public(self, name: str) -> str:
        """Return the public half, without its comment."""
        self.file(name)
        return " ".join((self.folder / f"{name}.key.pub").read_text().split()[:2])

    def line(self, name: str, namespaces: str = "git,runner-approval", more: str = "", principal: str = "") -> str:
        """Return somebody's line of allowed_signers."""
        who = principal or f"{name}@example.test"
        return f'{who} namespaces="{namespaces}"{more} {self.public(name)}\n'

    def sign(self, name: str, text: bytes, namespace: str = "runner-approval") -> bytes:
        """Return an armoured signature."""
        words = ["ssh-keygen", "-q", "-Y", "sign", "-n", namespace, "-f", str(self.file(name))]
        return subprocess.run(words, input=text, capture_output=True, check=True).stdout


class History:
    """A repository in which one protocol's branch is written by hand. `tip`, `main`: commits; refs are set at the end."""

    def __init__(self, path: Path, keys: Keys) -> None:
        self.path, self.keys = path, keys
        path.mkdir(parents=True)
        self.git("init", "-q", "--bare", "-b", "main")
        self.main = self.tip = ""
        self.state: dict[str, Any] = {}
        self.log = b""
        self.given = 0
        # Of the manifest that words name; from version 2 on, what it leaves out and which tools it binds.
        self.version, self.keeps, self.bound = 1, False, set[str]()
        self.ignore: tuple[str, ...] = ()
        self.tools: tuple[str, ...] = ()
        self._hashes: dict[str, tuple[str, int]] = {}

    def copy(self, path: Path) -> History:
        """Return a history of its own that is as far as this one."""
        made = History(path, self.keys)
        made.go_on_from(self)
        return made

    def go_on_from(self, other: History) -> None:
        """Take another history as far as it is."""
        shutil.copytree(other.path / "objects", self.path / "objects", dirs_exist_ok=True)
        self.main, self.tip, self.state, self.log = other.main, other.tip, other.state, other.log
        self._hashes = dict(other._hashes)

    def git(self, *words: str, data: bytes | None = None, who: str = "dana", **env: str) -> str:
        """Run git, as somebody, with nobody's configuration."""
        email = "runner@example.test" if who == "runner" else f"{who}@example.test"
        people = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER")
                  for what, value in (("NAME", who), ("EMAIL", email), ("DATE", SAID))}  # fmt: skip
        sealed = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.path),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
        }
        done = subprocess.run(
            ["git", *words], cwd=self.path, env={**sealed, **people, **env}, input=data, capture_output=True
        )
        assert done.returncode == 0, f"git {words}: {done.stderr.decode()}"
        return done.stdout.decode("utf-8", "surrogateescape").rstrip("\n")

    # --- commits -----------------------------------------------------------------------------------------------------------

    def tree(self, base: str, changes: Mapping[str, Change]) -> str:
        """Return the tree of `base` (or of nothing) with changes."""
        index = str(self.path / "index.made")
        self.git("read-tree", base or "--empty", GIT_INDEX_FILE=index)
        lines = []
        for path, change in changes.items():
            if change is None:
                lines.append(f"0 {'0' * 40}\t{path}")
                continue
            mode, text = change if isinstance(change, tuple) else ("100644", change)
            data = text.encode() if isinstance(text, str) else text
            lines.append(f"{mode} {self.git('hash-object', '-w', '--no-filters', '--stdin', data=data)}\t{path}")
        self.git(
            "update-index",
            "-z",
            "--add",
            "--index-info",
            data="".join(f"{line}\0" for line in lines).encode(),
            GIT_INDEX_FILE=index,
        )
        return self.git("write-tree", GIT_INDEX_FILE=index)

    def made(
        self,
        parents: list[str],
        changes: Mapping[str, Change],
        text: str = "by hand",
        who: str = "dana",
        key: str = "",
        **env: str,
    ) -> str:
        """Make a commit on the first of `parents`, as somebody, signed where `key` names whose key; no ref moves."""
        tree = self.tree(parents[0] if parents else "", changes)
        signing = ["-c", "gpg.format=ssh", "-c", f"user.signingkey={self.keys.file(key)}"] if key else []
        words = ["commit-tree", tree, *(["-S"] if key else []), *(word for one in parents for word in ("-p", one))]
        return self.git(*signing, *words, data=(text if text.endswith("\n") else text + "\n").encode(), who=who, **env)

    def commit(
        self, changes: Mapping[str, Change], text: str = "by hand", who: str = "dana", key: str = "", **env: str
    ) -> str:
        """Put a commit of somebody's onto the protocol's branch."""
        self.tip = self.made([self.tip], changes, text, who, key, **env)
        return self.tip

    def trust(self, changes: Mapping[str, Change], text: str = "main moves") -> str:
        """Put a commit onto the trusted branch."""
        self.main = self.made([self.main] if self.main else [], changes, text)
        return self.main

    # --- the record --------------------------------------------------------------------------------------------------------

    def transition(
        self,
        *events: Event,
        changes: Mapping[str, Change] | None = None,
        trusted: str = "",
        time: str = SAID,
        on: str = "",
        key: str = "",
    ) -> str:
        """Put a transition onto the protocol's branch, as the formats say. `trusted`: whose policy it says that held."""
        first, entries = self.state.get("revision", 0) + 1, []
        for number, (name, subject, fields) in enumerate(events, first):
            lines = [f"## {number} {name} {subject}", f"- time: {time}", "- actor: runner"]
            lines += [f"- {key}: {_value(value)}" for key, value in fields.items()]
            entries.append("\n".join(lines) + "\n")
            self.state = _fold(self.state, number, time, name, subject, fields)
        self.log += "".join(f"{entry}\n" for entry in entries).encode()
        self.state["log"] = sha(self.log)
        record = {f"{FOLDER}/log.md": self.log, f"{FOLDER}/state.json": _rendered(self.state)}
        named = "".join(f"Runner-Event: {name} {subject}\n" for name, subject, _ in events)
        text = (
            f"{PROTOCOL}: {_title(events)}\n\n" + "\n".join(entries) + f"\nRunner-Protocol: {PROTOCOL}\n"
            f"Runner-Revision: {self.state['revision']}\n{named}Runner-Trusted: {trusted or self.main}\nRunner-Actor: runner\n"
        )
        self.tip = self.made([on or self.tip], {**record, **(changes or {})}, text, "runner", key)
        return self.tip

    def begin(self, base: str = "main", nonce: str = "5" * 32, steps: Mapping[str, str] | None = None) -> None:
        """Make the protocol, on the trusted branch's tip."""
        words = {
            f"{number}.md": f"---\ntitle: {number}\n{lines}---\nDo it.\n" for number, lines in (steps or STEPS).items()
        }
        plan = f"---\ntitle: Ship it\nbase: {base}\n---\nWhat and why.\n"
        before, told = None, {}
        for name, text in words.items():
            place, _, slug = name.removesuffix(".md").partition("-")
            needs: list[str] = [before] if before and "needs: []" not in text else []
            told[slug] = {"digest": sha(text.encode()), "kind": KINDS[slug], "needs": needs,
                          "place": int(place), "qa": "skip", "title": name.removesuffix(".md")}  # fmt: skip
            before = slug
        self.state, self.log = {}, b""
        lines = f"100644 {sha(plan.encode())[7:]} {len(plan)} plan.md\n"
        created = {"title": "Ship it", "base": base, "start": self.main, "nonce": nonce}
        files: dict[str, Change] = {f"{FOLDER}/{name}": text for name, text in {"plan.md": plan, **words}.items()}
        planned = {"plan": sha(lines.encode()), "steps": told}
        self.transition(("created", PROTOCOL, created), ("planned", "plan", planned), changes=files, on=self.main)

    def done(
        self,
        slug: str,
        changes: Mapping[str, Change],
        *after: Event,
        trusted: str = "",
        time: str = SAID,
        key: str = "",
        **how: Any,
    ) -> None:
        """Record the work of a step, and what follows it in the same commit. `how`: where it began, what carried it out."""
        work = {
            "attempt": 1,
            "digest": self.state["steps"][slug]["digest"],
            "start": self.tip,
            "executor": "host",
            **how,
        }
        self.transition(("step-finished", slug, work), *after, changes=changes, trusted=trusted, time=time, key=key)

    def ask(self, subject: str, **how: str) -> str:
        """Let the protocol wait for a word on a subject, and return the wait's id; a result's step is done first, `how` says how."""
        kind, _, name = subject.partition(":")
        slug = name.partition(".")[0]
        asked = {"kind": kind, "digest": sha(b""), "text": f"approval of {subject}", "by": "a maintainer"}
        if kind == "call":
            data = json.dumps({"arguments": {"to": "ops@example.test"}, "tool": "send_report"}).encode() + b"\n"
            path = f"{FOLDER}/calls/{name}.json"
            held = {"call": name, "digest": sha(data), "text": "send_report to=ops@example.test", "by": "a maintainer"}
            self.transition(("call-held", slug, held), changes={path: data})
        elif kind == "result":
            self.done(slug, {} if how else {"ship.txt": "shipped\n"}, ("approval-asked", slug, asked), **how)
        else:
            asked["digest"] = self.digest(subject, 0)
            self.transition(("approval-asked", slug or kind, asked))
        return f"w{self.state['revision']}"

    # --- words -------------------------------------------------------------------------------------------------------------

    def files(self, commit: str) -> dict[str, tuple[str, str, int]]:
        """Return path to (mode, SHA-256, size) of a commit's files."""
        found = {}
        for line in self.git("ls-tree", "-r", "-z", commit).split("\0")[:-1] if commit else []:
            mode, _, oid = line.partition("\t")[0].split(" ")
            if oid not in self._hashes:
                data = subprocess.run(
                    ["git", "cat-file", "blob", oid], cwd=self.path, capture_output=True, check=True
                ).stdout
                self._hashes[oid] = hashlib.sha256(data).hexdigest(), len(data)
            found[line.partition("\t")[2]] = (mode, *self._hashes[oid])
        return found

    def manifest(self, subject: str, attempt: int, commit: str) -> bytes:
        """Return what a word on a subject is about, as bytes."""
        kind, _, name = subject.partition(":")
        files = self.files(commit)
        record = re.compile(rf"{FOLDER}/(state\.json|log\.md|(log|calls|reports|approvals)/.*)")
        code = {path: one for path, one in files.items() if not record.fullmatch(path)}
        sections: dict[str, Mapping[str, tuple[str, str, int]]] = {"tree": code}
        if kind == "call":
            sections = {"call": {path: one for path, one in files.items() if path == f"{FOLDER}/calls/{name}.json"}}
        elif kind == "plan":
            ended = {slug for slug, step in self.state["steps"].items() if step["status"] in ("completed", "cancelled")}
            own = {path: one for path, one in code.items() if path.startswith(f"{FOLDER}/")}
            sections = {"words": {p: one for p, one in own.items() if p.rpartition("/")[2][3:-3] not in ended}}
        elif kind == "result":
            now = self.git("rev-parse", f"{commit}^{{commit}}")
            while f"step-finished {name}" not in self.git("log", "-1", "--format=%B", now):
                now = self.git("rev-parse", f"{now}^")
            start = re.findall(r"^- start: (\S+)$", self.git("log", "-1", "--format=%B", now), re.MULTILINE)[-1]
            before = {path: one for path, one in self.files(start).items() if not record.fullmatch(path)}
            sections = {"before": before, "after": code}
        if kind in ("plan", "step", "call"):
            agent = kind == "plan" or name == "write"
            lent = re.compile(r"\.protocols/agents/coder\.yaml|" + (r"AGENTS\.md" if self.version < 3 else THIRD))
            files = self.files(self.main) if agent else {}
            sections["trusted"] = {path: one for path, one in files.items() if lent.fullmatch(path)}
        more: dict[str, list[str]] = {}
        if self.version > 1:
            more = self._second(sections, kind, name)
        lines = [f"runner-manifest/v{self.version}", f"subject: {subject}", f"attempt: {attempt}"]
        for title, part in sections.items():
            lines += [
                f"[{title}]",
                *(f"{mode} {hash_} {size} {json.dumps(p)}" for p, (mode, hash_, size) in sorted(part.items())),
                *more.get(title, []),
            ]
        return ("\n".join(lines) + "\n").encode()

    def _second(
        self, sections: dict[str, Mapping[str, tuple[str, str, int]]], kind: str, name: str
    ) -> dict[str, list[str]]:
        """Make the sections those of version 2 and 3, and return the lines that are of no file."""
        more: dict[str, list[str]] = {}
        lent = dict(sections.pop("trusted", {}))
        if kind == "step":
            place = self.state["steps"][name]["place"]
            globs = sorted([*self.ignore, *(("README*", "CHANGELOG*", "LICENSE*") if KINDS[name] == "command" else ())])
            fits = re.compile(
                "|".join(re.escape(one).replace(r"\*\*", ".*").replace(r"\*", "[^/]*") for one in globs) or "(?!)"
            )

            def is_out(path: str, mode: str) -> bool:
                later = re.fullmatch(rf"{FOLDER}/([0-9]+)-[a-z-]+\.md", path)
                free = fits.fullmatch(path) and path not in self.bound
                return mode == "100644" and bool(free or (later and int(later[1]) > place))

            sections["tree"] = {path: one for path, one in sections["tree"].items() if not is_out(path, one[0])}
            sections |= {"inputs": {}, "exceptions": {}}
            more["exceptions"] = [f"ignore {json.dumps(one)}" for one in globs] + ["base keep"] * self.keeps
        if kind in ("plan", "step", "call"):
            tool = KINDS.get(name.partition(".")[0], "agent") in ("tool", "agent")
            top = self.files(self.main)
            if kind == "call":
                lent = {}
            elif KINDS.get(name, "agent") == "agent":
                lent |= {path: one for path, one in top.items() if path.startswith(".protocols/memory/")}
            if self.tools and tool:
                tops = {path.partition("/")[0] for path in top if path.endswith(".py")}
                lent |= {path: one for path, one in top.items() if path.partition("/")[0] in tops}
                more["tools"] = list(self.tools)
            sections |= {"trusted": lent, "tools": {}}
        return more

    def digest(self, subject: str, attempt: int, commit: str = "") -> str:
        """Return what a word on a subject has to name."""
        return sha(self.manifest(subject, attempt, commit or self.tip))

    def statement(self, who: str, subject: str = "step:deploy", **fields: Any) -> dict[str, str]:
        """Return the fields of a word, in their order; `fields` replaces some."""
        kind, _, name = subject.partition(":")
        attempt = int(fields.get("attempt", name.split(".")[1] if kind == "call" else kind == "result"))
        self.given += 1
        shown = self.git("show", f"{self.main}:.protocols/policy.yaml").encode() + b"\n"
        told = {"repo": REPO, "protocol": PROTOCOL, "genesis": self.state["genesis"], "subject": subject, "attempt": attempt,
                "digest": self.digest(subject, attempt), "policy": sha(shown), "seen": self.tip, "decision": "approve",
                "approver": f"{who}@example.test", "issued": SAID, "expires": "2026-11-21T06:00:00Z" if kind == "call" else WEEK,
                "nonce": f"{self.given:032x}", "reason": "looked at it"}  # fmt: skip
        return {key: str(fields.get(key, value)) for key, value in told.items()}

    def word(
        self,
        who: str,
        subject: str = "step:deploy",
        *,
        key: str = "",
        namespace: str = "runner-approval",
        before: Callable[[bytes], bytes] = bytes,
        after: Callable[[bytes], bytes] = bytes,
        **fields: Any,
    ) -> bytes:
        """Return an approval's file. `key`: whose key signs; `before`, `after`: what is done to the bytes, signed or whole."""
        told = self.statement(who, subject, **fields)
        text = before(("runner-approval/v1\n" + "".join(f"{name}: {value}\n" for name, value in told.items())).encode())
        return after(text + self.keys.sign(key or who, text, namespace))

    def add(
        self, data: bytes, *, name: str = "", changes: Mapping[str, Change] | None = None, mode: str = "100644"
    ) -> str:
        """Commit an approval's file, with whatever else; return its id."""
        text = data[: data.find(b"-----BEGIN")]
        named = name or hashlib.sha256(text).hexdigest()[:32] + ".approval"
        self.tip = self.made([self.tip], {f"{FOLDER}/approvals/{named}": data, **(changes or {})}, "a word", "somebody")
        if mode != "100644":
            link = self.tree(f"{self.tip}^", {f"{FOLDER}/approvals/{named}": (mode, "../plan.md")})
            self.tip = self.git("commit-tree", link, "-p", f"{self.tip}^", data=b"a word\n", who="somebody")
        return named.removesuffix(".approval")

    def say(self, who: str, subject: str = "step:deploy", **how: Any) -> str:
        """Let somebody give a word: make it and commit it."""
        return self.add(self.word(who, subject, **how))

    def count(
        self,
        wait: str,
        subject: str,
        by: str | None = None,
        words: list[str] | None = None,
        trusted: str = "",
        **more: Any,
    ) -> None:
        """Put an event onto the branch that uses words, whether they count or not: all that are there where none are named."""
        kind, _, name = subject.partition(":")
        paths = self.git("ls-tree", "--name-only", self.tip, f"{FOLDER}/approvals/").split()
        ids = words if words is not None else [Path(path).name.removesuffix(".approval") for path in paths]
        who = by if by is not None else ", ".join(self.approver(one) for one in ids)
        if kind == "call":
            told = {"wait": wait, "decision": "approved", "by": who, "approvals": ids, **more}
            self.transition(("call-decided", name.partition(".")[0], told), trusted=trusted, time=NOW)
        else:
            told = {"wait": wait, "approvals": ids, "by": who.split(", "), **more}
            self.transition(("approval-counted", name or kind, told), trusted=trusted, time=NOW)

    def approver(self, word: str) -> str:
        """Return whom a word's file names."""
        found = re.search(
            r"^approver: (\S+)$",
            self.git("cat-file", "-p", f"{self.tip}:{FOLDER}/approvals/{word}.approval"),
            re.MULTILINE,
        )
        return found[1] if found else "alice@example.test"


# --- the formats -------------------------------------------------------------------------------------------------------------


def _value(value: Any) -> str:
    bare = isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.:/@+-]*", value)
    if bare and not re.fullmatch(r"true|false|null|NaN|Infinity|[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?", value):
        return str(value)
    return json.dumps(value, sort_keys=True)


def _rendered(state: dict[str, Any]) -> bytes:
    return (json.dumps(state, indent=2, sort_keys=True) + "\n").encode()


def _title(events: tuple[Event, ...]) -> str:
    says = {"planned": "planned", "plan-edited": "edited", "step-finished": "finished", "step-completed": "completed",
            "step-failed": "failed", "step-retried": "to be tried again"}  # fmt: skip
    name, subject, _ = next(
        (
            one
            for kind in ("step-failed", "step-completed", "step-finished", "planned")
            for one in events
            if one[0] == kind
        ),
        events[-1],
    )
    return f"{subject} {says.get(name, name)}" if subject != PROTOCOL else says.get(name, name)


def _fold(state: dict[str, Any], number: int, time: str, name: str, subject: str, f: dict[str, Any]) -> dict[str, Any]:
    """Return the state after an event, without asking whether it may be."""
    if name == "created":
        return {"artifacts": [], "base": f["base"], "genesis": sha(f["nonce"].encode()), "log": "", "plan": None, "protocol": PROTOCOL,
                "revision": 1, "schema": 1, "spent": {"input_tokens": 0, "output_tokens": 0, "seconds": 0, "usd": "0"},
                "status": "pending", "steps": {}, "title": f["title"], "waiting": []}  # fmt: skip
    state = json.loads(json.dumps(state))
    state["revision"] = number
    step = state["steps"].get(subject, {})
    if name == "planned":
        steps = {slug: {**told, "attempt": 1, "result": None, "status": "pending"} for slug, told in f["steps"].items()}
        state |= {"plan": f["plan"], "status": "planned", "steps": steps}
    elif name == "plan-edited":
        state["plan"] = f["plan"]
        for slug, told in f["steps"].items():
            state["steps"][slug] |= told
    elif name in ("approval-asked", "call-held", "asked"):
        state["waiting"].append({"id": f"w{number}", "kind": f.get("kind", "call"), "subject": subject, "digest": f.get("digest"),
                                 "text": f["text"], "by": f["by"], "since": time})  # fmt: skip
    elif name in ("approval-counted", "call-decided", "answered"):
        state["waiting"] = [wait for wait in state["waiting"] if wait["id"] != f["wait"]]
    if name == "step-failed":
        step |= {"status": "failed", "reason": f["reason"]}
        state["status"] = "running"
    after = {
        "step-finished": "needs_qa",
        "step-completed": "completed",
        "call-held": "awaiting_approval",
        "call-decided": "running",
        "asked": "running",
        "step-retried": "pending",
    }
    if name == "step-retried":
        step |= {"attempt": f["attempt"], "result": None}
    if name == "paused":
        state["status"] = "paused"
    if name == "undone":
        state["status"] = f["status"]
        for slug, told in f["steps"].items():
            state["steps"][slug] |= told
    if name == "step-finished":
        step.pop("reason", None)
    if name in after:
        step["status"], state["status"] = after[name], "running"
    return state
