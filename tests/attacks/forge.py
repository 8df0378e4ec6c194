"""Bad histories, built with plain git: what a person or an agent could put on a protocol's branch."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.errors import InsufficientHistoryError, RunnerError
from runner.git import Git
from runner.protocol import log, machine, paths, state
from runner.protocol.events import Created, Entry, Event
from runner.protocol.ids import digest
from runner.protocol.state import State
from runner.store.trusted import policy_digest
from runner.trust import verify
from runner.trust.walk import Report
from tests.conftest import Box, second_verdicts

TIME = "2026-11-20T06:47:03Z"
Change = str | bytes | tuple[str, str] | None  # text, bytes, (mode, text or oid of a submodule), or gone


@dataclass(slots=True)
class Forge:
    """A copy of a repository in which one protocol lives, and somebody who writes its branch by hand."""

    box: Box
    protocol: str
    log: bytes = b""
    state: State | None = None
    segments: int = 0
    trusted: str = field(default="")

    @classmethod
    def copy(cls, box: Box, protocol: str, to: Path) -> Forge:
        """Copy the repository, without its worktrees, and stand at the protocol's tip."""
        to.mkdir(parents=True, exist_ok=True)
        shutil.copytree(box.path / ".git", to / "repo" / ".git", ignore=shutil.ignore_patterns("worktrees"))
        forge = cls(Box(to / "repo", box.home, dict(box.env)), protocol)
        forge.trusted = forge.box.git("rev-parse", "main").strip()
        forge.see()
        return forge

    @property
    def folder(self) -> str:
        """The protocol's folder."""
        return paths.folder(self.protocol)

    @property
    def now(self) -> State:
        """The state that the next imitation goes on from."""
        assert self.state is not None
        return self.state

    @property
    def tip(self) -> str:
        """Where the branch is."""
        return self.box.git("rev-parse", f"refs/heads/{self.protocol}").strip()

    def see(self) -> None:
        """Take log and state as they stand at the tip for what the next imitation goes on from."""
        self.log = self.box.git("show", f"{self.tip}:{self.folder}/log.md").encode()
        self.state = state.load(self.box.git("show", f"{self.tip}:{self.folder}/state.json").encode(), "state.json")
        names = self.box.git("ls-tree", "--name-only", self.tip, f"{self.folder}/log/").split()
        self.segments = len(names)

    def blob(self, data: str | bytes) -> str:
        """Write a blob."""
        raw = data.encode() if isinstance(data, str) else data
        return self.object("blob", raw)

    def object(self, kind: str, data: bytes) -> str:
        """Write an object of any kind, however odd."""
        argv = ["git", "hash-object", "-w", "--literally", "-t", kind, "--stdin"]
        done = subprocess.run(argv, cwd=self.box.path, env=self.box.environment(), input=data, capture_output=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode().strip()

    def tree(self, base: str, changes: Mapping[str, Change]) -> str:
        """Return the tree of `base` with changes."""
        index = {"GIT_INDEX_FILE": str(self.box.path / ".git" / "forged-index")}
        self.box.git("read-tree", base, env=index)
        lines = []
        for path, change in changes.items():
            if change is None:
                lines += [
                    f"0 {'0' * len(self.tip)}\t{name}"
                    for name in self.box.git("ls-files", "-z", "--", path, env=index).split("\0")
                    if name
                ]
            elif isinstance(change, tuple):
                oid = change[1] if change[0] == "160000" else self.blob(change[1])
                lines.append(f"{change[0]} {oid}\t{path}")
            else:
                lines.append(f"100644 {self.blob(change)}\t{path}")
        self.box.git(
            "update-index", "-z", "--add", "--index-info", data="".join(f"{line}\0" for line in lines), env=index
        )
        return self.box.git("write-tree", env=index).strip()

    def commit(
        self,
        changes: Mapping[str, Change] | None = None,
        text: str = "by hand\n",
        *,
        parents: Sequence[str] | None = None,
        tree: str | None = None,
        move: bool = True,
    ) -> str:
        """Make a commit with these changes, and move the branch to it."""
        before = [self.tip] if parents is None else list(parents)
        made = tree or self.tree(before[0], changes or {})
        given = [word for parent in before for word in ("-p", parent)]
        oid = self.box.git("commit-tree", made, *given, data=text).strip()
        if move:
            self.box.git("update-ref", f"refs/heads/{self.protocol}", oid)
        return oid

    def imitate(
        self,
        *events: Event,
        code: Mapping[str, Change] | None = None,
        record: Mapping[str, Change] | None = None,
        edit_log: Callable[[bytes], bytes] = lambda data: data,
        edit_state: Callable[[dict[str, Any]], None] | None = None,
        edit_text: Callable[[str], str] = lambda text: text,
        parents: Sequence[str] | None = None,
        rotate: bool | None = None,
        move: bool = True,
        fresh: bool = False,
        actor: str = "runner",
    ) -> str:
        """Make a commit that imitates a transition: all that can be made consistent is, but for what is edited.

        `code`: paths from the root; `record`: names in the folder; `fresh`: as if nothing had been before.
        """
        before = None if fresh else self.state
        old_log = b"" if fresh else self.log
        first = before.revision + 1 if before else 1
        entries = [Entry(first + at, TIME, actor, event) for at, event in enumerate(events)]
        files: dict[str, Change] = {f"{self.folder}/{name}": change for name, change in (record or {}).items()}
        if len(old_log) > log.SEGMENT if rotate is None else rotate:
            files.setdefault(f"{self.folder}/log/{self.segments + 1:04d}.md", old_log)
            old_log = b""
        new_log = edit_log(log.append(old_log, entries, self._schema(entries)))
        try:
            after = machine.fold(before, entries)
        except (RunnerError, ValueError, ArithmeticError):  # an illegal one: the state says what the forger wants
            assert before is not None
            after = before._replace(revision=entries[-1].revision)
        assert after is not None
        after = after._replace(log=digest(new_log))
        plain = json.loads(state.render(after))
        if edit_state is not None:
            edit_state(plain)
        files.setdefault(f"{self.folder}/log.md", new_log)
        files.setdefault(f"{self.folder}/state.json", json.dumps(plain, indent=2, sort_keys=True) + "\n")
        message = self.message(entries, after)
        text = edit_text(message.decode())
        oid = self.commit({**files, **(code or {})}, text, parents=parents, move=move)
        if move:
            self.log, self.state = new_log, state.load(json.dumps(plain).encode(), "state.json")
            self.segments = len(self.box.git("ls-tree", "--name-only", oid, f"{self.folder}/log/").split())
        return oid

    def message(self, entries: Sequence[Entry], after: State) -> bytes:
        """Return the message of a transition that ends in a state."""
        with Git.open(self.box.path) as git:
            policy = policy_digest(git, self.trusted)
        schema, plan = self._schema(entries), after.plan
        return log.render_message(self.protocol, entries, self.trusted, schema=schema, plan=plan, policy=policy)

    def _schema(self, entries: Sequence[Entry]) -> int:
        first = entries[0].event
        return first.schema or 1 if isinstance(first, Created) else self.now.schema

    # --- verdicts ------------------------------------------------------------------------------------------------------

    def verify(self) -> Report:
        """What ours says."""
        with Git.open(self.box.path) as git:
            return verify.verify(git, self.protocol, self.tip)

    def rules(self) -> list[str]:
        """The rules that ours names, each once."""
        return sorted({finding.rule for finding in self.verify().findings})

    def second(self) -> tuple[int, str]:
        """What the second verifier says."""
        return second(self.box.path, self.protocol)

    def refused(self, *rules: str) -> None:
        """Ours names exactly these rules, and the second verifier does not hold the history for good either."""
        report = self.verify()
        told = [f"{finding.rule}: {finding.path}: {finding.text}" for finding in report.findings]
        assert sorted({finding.rule for finding in report.findings}) == sorted(rules), told
        assert not report.ok
        code, said = self.second()
        assert code == 4, said

    def holds(self) -> Report:
        """Both verifiers say that it holds."""
        report = self.verify()
        assert report.ok, report.findings
        code, said = self.second()
        assert code == 0, said
        return report

    def cannot_tell(self) -> InsufficientHistoryError:
        """Both verifiers say that this clone cannot tell."""
        try:
            report = self.verify()
        except InsufficientHistoryError as error:
            code, said = self.second()
            assert code == 5, said
            return error
        raise AssertionError(f"it could tell: {report}")


def second(path: Path, *protocols: str, branches: Sequence[str] = ()) -> tuple[int, str]:
    """Run the second verifier on branches that are named as their protocols, or on `branches`."""
    git_dir = path / ".git" if (path / ".git").exists() else path
    told = second_verdicts(
        git_dir, [(f"refs/heads/{branch}", name) for branch, name in zip(branches or protocols, protocols, strict=True)]
    )
    codes = [code for code, _ in told]
    text = "".join(f"{code} {name} {why}\n" for (code, why), name in zip(told, protocols, strict=True))
    return 4 if 4 in codes else max(codes), text
