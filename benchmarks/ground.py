"""Where it is measured: a scratch folder with repositories of many files, and the library and the command line in them.

Nothing is deleted before the end: ext4 is slow for minutes after thousands of small files went away.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from runner.app import create
from runner.executor import advance
from runner.executor.advance import Advanced
from runner.protocol import events as ev
from runner.store.environment import Environment
from runner.store.project import Session

PERSON = "alice@example.test"
ROOT = Path(__file__).resolve().parents[1]


class Ground:
    """A scratch folder, with a HOME of its own. This process's environment becomes that of the person who lives there."""

    def __init__(self, *, quick: bool) -> None:
        self.quick = quick
        self.at = Path(tempfile.mkdtemp(prefix="runner-bench-"))
        self.home = self.at / "home"
        self.home.mkdir()
        (self.home / ".gitconfig").write_text(
            f"[user]\n name = Alice\n email = {PERSON}\n[init]\n defaultBranch = main\n[gc]\n auto = 0\n[maintenance]\n auto = false\n"
        )
        self.env = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "NO_COLOR": "1",
            "GIT_CONFIG_NOSYSTEM": "1",
            "PYTHONPATH": str(ROOT),
        }
        os.environ.clear()
        os.environ.update(self.env)
        self._made = 0

    def close(self) -> None:
        """Take all of it away."""
        shutil.rmtree(self.at, ignore_errors=True)

    # --- repositories --------------------------------------------------------------------------------------------------

    def git(self, at: Path, *args: str, data: bytes = b"") -> bytes:
        """Run the person's git to its end."""
        return subprocess.run(["git", *args], cwd=at, input=data, stdout=subprocess.PIPE, check=True).stdout

    def repository(self, files: int, *, bare: bool = False) -> Path:
        """Make a repository whose one commit on `main` has so many files, packed as a clone has them."""
        self._made += 1
        at = self.at / f"repository-{self._made}"
        self.git(self.at, "init", "-q", *(["--bare"] if bare else []), str(at))
        lines = [b"commit refs/heads/main\ncommitter Alice <alice@example.test> 1700000000 +0000\ndata 6\nstart\n"]
        for number in range(files):
            text = b"".join(b"x%d = %d\n" % (line, line * number) for line in range(40))
            path = b"src/p%02d/q%02d/f%04d.py" % (number // 250, number // 25 % 10, number)
            lines.append(b"M 100644 inline %s\ndata %d\n%s\n" % (path, len(text), text))
        self.git(at, "fast-import", "--quiet", data=b"".join(lines))
        self.git(at, "gc", "-q")
        if not bare:
            self.git(at, "checkout", "-q", "-f", "main")
        return at

    def twin(self, of: Path, *, bare: bool = True) -> Path:
        """Clone a repository, with objects of its own."""
        self._made += 1
        at = self.at / f"repository-{self._made}"
        how = ["--mirror"] if bare else []
        self.git(self.at, "clone", "-q", "--no-hardlinks", *how, str(of), str(at))
        return at

    # --- the library ---------------------------------------------------------------------------------------------------

    def environment(self) -> Environment:
        """Return this machine's clock and randomness, with a state folder in the scratch folder."""
        return Environment(
            now=time.time,
            monotonic=time.monotonic,
            sleep=time.sleep,
            random_hex=lambda count: os.urandom((count + 1) // 2).hex()[:count],
            host="here",
            pid=os.getpid(),
            state_home=self.home / ".local/state/protocol-runner",
            environ=self.env,
        )

    def session(self, at: Path) -> Session:
        """Open a repository, held open by the caller."""
        return Session.open(at, self.environment())

    # --- the command line ----------------------------------------------------------------------------------------------

    def run(self, argv: Sequence[str | Path], at: Path, env: Mapping[str, str] | None = None) -> str:
        """Run a whole process that has to succeed, and return what it printed."""
        done = subprocess.run(
            argv, cwd=at, env={**self.env, **(env or {})}, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(map(str, argv))}: exit {done.returncode}\n{done.stderr[-2000:]}")
        return done.stdout

    def runner(self, at: Path, *args: str, env: Mapping[str, str] | None = None) -> str:
        """Run the `runner` command as a process of its own."""
        return self.run(["runner", *args], at, env)


def new(session: Session, steps: int = 3, line: str = "true", title: str = "A plan") -> str:
    """Make a protocol of so many command steps, and return its id."""
    files = {"plan.md": f"---\ntitle: {title}\n---\nWhat and why.\n".encode()}
    for number in range(1, steps + 1):
        text = f'---\ntitle: Step {number}\nkind: command\nrun: "{line}"\n---\nDo it.\n'
        files[f"{number:02d}-step-{number}.md"] = text.encode()
    return create.create(session, title, files, where="plan").protocol


def record(session: Session, protocol: str) -> Advanced:
    """Record the smallest transition that there is: a pause, or the end of one."""

    def build(seen: object) -> list[ev.Event]:
        paused = getattr(getattr(seen, "state", None), "status", None) == "paused"
        return [ev.Resumed(subject=protocol)] if paused else [ev.Paused(subject=protocol)]

    return advance.record_events(session, protocol, build)


def finish_step(session: Session, protocol: str, slug: str) -> Advanced:
    """Record a step that left no work."""
    return advance.record_events(
        session,
        protocol,
        lambda seen: [
            ev.StepFinished(
                subject=slug, attempt=1, digest=seen.state.steps[slug].digest, start=seen.tip, executor="host"
            ),
            ev.StepCompleted(subject=slug, attempt=1),
        ],
    )
