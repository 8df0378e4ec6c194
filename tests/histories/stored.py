"""Stored histories: git bundles of protocols, good and bad, and what verify says of each, a line of `manifest.jsonl`.

A line's `name` says which refs of its bundle are the case's: `refs/cases/NAME/tip` (the protocol's branch), `main` (the trusted
branch), `history`, `fetched` (the history as git fetched it from the remote), `origin/ID` (the history of the protocol ID, which
this one goes on from), `there` (the branch on the remote). `verdict`: its findings, as "RULE COMMIT PATH", nothing where it holds,
or "cannot tell". `job`: it is asked about what a job hands over that a model works in.
`second`: the second verifier's exit code; `unjudged`: it says that it did not judge all. `says`: how the word stands that the wait
`wait` is about. `whole`: it is judged as a repository, with all that lies beside the chain; `seen`: what the machine has seen of it
before. Lines are only added: a history of an older version of the formats keeps its verdict.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from runner.app import verify as app_verify
from runner.errors import InsufficientHistoryError
from runner.git import Git
from runner.store.environment import Environment, write_checkpoint
from runner.store.history import fetched
from runner.store.project import Session
from runner.store.trusted import Trusted
from runner.trust import verify
from runner.trust.walk import Finding, Report
from tests.attacks.test_words import standing_of
from tests.conftest import second_verdicts

HERE = Path(__file__).parent
MANIFEST = HERE / "manifest.jsonl"
DIGESTS = HERE / "digests"  # of the bundles, as sha256sum has them
CANNOT_TELL = "cannot tell"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A line of the manifest."""

    name: str
    bundle: str
    protocol: str
    verdict: tuple[str, ...]
    second: int
    unjudged: bool = False
    transitions: int = 0
    wait: str = ""
    says: str = ""
    whole: bool = False
    seen: str = ""
    job: bool = False

    @property
    def rules(self) -> set[str]:
        """The rules that find something."""
        return {one.partition(" ")[0] for one in self.verdict} - {"cannot"}

    def line(self) -> str:
        """Return the case as the manifest has it; what is empty is left out."""
        told = {
            name: value for name in self.__slots__ if (value := getattr(self, name)) or name in ("verdict", "second")
        }
        return json.dumps(told, ensure_ascii=True) + "\n"


@functools.cache
def cases() -> dict[str, Case]:
    """Return the manifest's cases by their names."""
    lines = MANIFEST.read_text().splitlines() if MANIFEST.exists() else []
    found = [Case(**{**told, "verdict": tuple(told["verdict"])}) for told in map(json.loads, lines)]
    assert len({one.name for one in found}) == len(found), "a name stands twice in the manifest"
    return {one.name: one for one in found}


def git(*words: str | Path, at: Path, data: bytes = b"", env: Mapping[str, str] | None = None) -> str:
    """Run git with nobody's configuration."""
    sealed = {"PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, **(env or {})}
    done = subprocess.run(["git", *map(str, words)], cwd=at, env=sealed, input=data, capture_output=True)
    assert done.returncode == 0, f"git {words}: {done.stderr.decode()}"
    return done.stdout.decode().strip()


_taken_in: list[Path] = []  # a copy of the first shelf with the stored bundles, which others are copied from


@atexit.register
def _forget_taken_in() -> None:
    for path in _taken_in:
        shutil.rmtree(path, ignore_errors=True)


class Shelf:
    """Repositories in a folder, one for each kind of object ids, that have what the bundles have; and cases taken from them."""

    def __init__(self, folder: Path, bundles: Path = HERE) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._held = contextlib.ExitStack()
        self._gits: dict[str, Git] = {}
        self._projects: dict[str, Session] = {}
        self._kinds: dict[str, str] = {}
        if bundles == HERE and _taken_in:  # once in each process: to take in 39 bundles takes seconds
            shutil.copytree(_taken_in[0], folder, dirs_exist_ok=True)
        for bundle in sorted(bundles.glob("*.bundle")):
            with bundle.open("rb") as file:
                kind = "sha256" if b"object-format=sha256" in file.read(200) else "sha1"
            self.add(bundle.stem, kind, "" if bundles == HERE and _taken_in else str(bundle))
        if bundles == HERE and not _taken_in:
            _taken_in.append(Path(tempfile.mkdtemp(prefix="shelf-")))
            shutil.copytree(folder, _taken_in[0], dirs_exist_ok=True)

    def add(self, bundle: str, kind: str, source: str) -> Path:
        """Take in a bundle's refs, or a repository's; return where they stand now."""
        self._kinds[bundle] = kind
        at = self.folder / f"{kind}.git"
        if not at.exists():
            git("init", "-q", "--bare", f"--object-format={kind}", at, at=self.folder)
        if source:
            git("fetch", "-q", source, "+refs/cases/*:refs/cases/*", at=at)
        return at

    def close(self) -> None:
        """End what is held open."""
        for session in self._projects.values():
            session.close()
        self._held.close()

    def path(self, case: Case) -> Path:
        """Where the case's refs stand."""
        return self.folder / f"{self._kinds[case.bundle]}.git"

    def objects(self, case: Case) -> Git:
        """What reads the case's objects."""
        kind = self._kinds[case.bundle]
        if kind not in self._gits:
            self._gits[kind] = self._held.enter_context(Git.open(self.path(case)))
        return self._gits[kind]

    def ref(self, case: Case, name: str) -> str | None:
        """Return a commit of the case's."""
        return self.objects(case).ref(f"refs/cases/{case.name}/{name}")

    def trusted(self, case: Case) -> Trusted | None:
        """Return the trusted branch as a remote would have it."""
        commit = self.ref(case, "main")
        return Trusted(commit, "main", "origin", "") if commit is not None else None

    def report(self, case: Case) -> Report:
        """Return what verify says.

        Raises:
            InsufficientHistoryError: it cannot tell.
        """
        if case.whole:
            return app_verify.examine(self.session(case), case.protocol, live=case.job, from_work=case.job)
        tip = self.ref(case, "tip")
        assert tip is not None
        return verify.verify(self.objects(case), case.protocol, tip, self.trusted(case))

    def verdict(self, case: Case) -> tuple[tuple[str, ...], int]:
        """Return (verdict, transitions) as the manifest has them."""
        return _told(lambda: self.report(case))

    @contextlib.contextmanager
    def lacking(self, case: Case) -> Iterator[tuple[list[str], Callable[[str], tuple[tuple[str, ...], int]]]]:
        """Return (what the case's chain and trusted branch have, what returns the verdict of a clone that lacks one of those)."""
        oids = [oid for name in ("tip", "main") if (oid := self.ref(case, name)) is not None]
        listed = git("rev-list", "--objects", "--no-object-names", *oids, at=self.path(case))
        at = Path(tempfile.mkdtemp(dir=self.folder))
        git("init", "-q", "--bare", f"--object-format={self._kinds[case.bundle]}", at, at=at)
        pack = subprocess.run(
            ["git", "pack-objects", "-q", "--stdout"], cwd=self.path(case), input=listed.encode(), capture_output=True
        )
        git("unpack-objects", "-q", at=at, data=pack.stdout)
        tip, trusted = self.ref(case, "tip"), self.trusted(case)
        assert tip is not None

        def verdict(oid: str) -> tuple[tuple[str, ...], int]:
            file = at / "objects" / oid[:2] / oid[2:]
            gone = file.rename(f"{file}.gone")
            try:
                with Git.open(at) as found:
                    return _told(lambda: verify.verify(found, case.protocol, tip, trusted))
            finally:
                gone.rename(file)

        yield sorted(listed.split()), verdict

    def says(self, case: Case) -> str:
        """Return how the word stands that the case is about, for a runner that sees it now."""
        tip, trusted = self.ref(case, "tip"), self.trusted(case)
        assert tip is not None and trusted is not None
        return standing_of(self.objects(case), tip, trusted, case.wait)

    def second(self, case: Case) -> tuple[int, str]:
        """Return what the second verifier says of the chain."""
        ((code, why),) = second_verdicts(self.path(case), [(f"refs/cases/{case.name}/tip", case.protocol)])
        return code, why

    def events(self, case: Case) -> set[str]:
        """Return the events that a case's chain tells of, by its trailers."""
        tip = next(oid for name in ("tip", "history", "main") if (oid := self.ref(case, name)) is not None)
        text = git("log", "--format=%(trailers:key=Runner-Event,valueonly)", tip, at=self.path(case))
        return {line.partition(" ")[0] for line in text.split("\n") if line}

    def session(self, case: Case) -> Session:
        """Return a repository that has the case's refs where a clone has them, and nothing else."""
        if case.name not in self._projects:
            at = self.folder / "whole" / case.name
            at.mkdir(parents=True)
            git("init", "-q", "--bare", "-b", "main", f"--object-format={self._kinds[case.bundle]}", at, at=at)
            (at / "objects/info/alternates").write_text(f"{self.path(case)}/objects\n")
            trusted = (
                "main" if self.ref(case, "main") else "trust"
            )  # what an attack names as that, where there is no other
            names = {"tip": f"refs/heads/{case.protocol}", trusted: "refs/heads/main"}
            names["history"] = f"refs/runner/history/{case.protocol}"
            names["fetched"] = fetched(case.protocol)
            own = f"refs/cases/{case.name}/"
            for ref in self.objects(case).refs(f"{own}origin/"):
                name = ref.removeprefix(own)
                names[name] = f"refs/runner/history/{name.removeprefix('origin/')}"
            refs = [(ref, oid) for name, ref in names.items() if (oid := self.ref(case, name)) is not None]
            git("update-ref", "--stdin", at=at, data="".join(f"update {ref} {oid}\n" for ref, oid in refs).encode())
            if case.job:
                self._publish(case, at)
            session = Session.open(at, _surroundings(at), {})
            if case.seen:
                write_checkpoint(session.dirs, case.protocol, case.seen, "")
            self._projects[case.name] = session
        return self._projects[case.name]

    def _publish(self, case: Case, at: Path) -> None:
        """Give a case's repository a remote, which has `main` and the branch at `there`, if anything."""
        remote = at.with_name(f"{at.name}.remote")
        git("init", "-q", "--bare", "-b", "main", f"--object-format={self._kinds[case.bundle]}", remote, at=at)
        (remote / "objects/info/alternates").write_text(f"{self.path(case)}/objects\n")
        for name, ref in (("main", "refs/heads/main"), ("there", f"refs/heads/{case.protocol}")):
            if (oid := self.ref(case, name)) is not None:
                git("update-ref", ref, oid, at=remote)
        git("remote", "add", "origin", remote, at=at)
        git("fetch", "-q", "origin", "+refs/heads/main:refs/remotes/origin/main", at=at)
        git("remote", "set-head", "origin", "main", at=at)


def _told(judge: Callable[[], Report]) -> tuple[tuple[str, ...], int]:
    try:
        report = judge()
    except InsufficientHistoryError:
        return (CANNOT_TELL,), 0
    assert report.ok == (not report.findings and report.transitions > 0)
    return tuple(sorted({_shown(one) for one in report.findings})), report.transitions


def _shown(finding: Finding) -> str:
    return f"{finding.rule} {finding.commit[:12]} {finding.path}".rstrip()


def _surroundings(at: Path) -> Environment:
    home = at / "home"
    return Environment(
        now=lambda: 1_795_000_000.0,
        monotonic=lambda: 0.0,
        sleep=lambda seconds: None,
        random_hex=lambda count: "0" * count,
        host="host",
        pid=os.getpid(),
        state_home=home / "state",
        environ={"PATH": os.environ["PATH"], "HOME": str(home)},
    )
