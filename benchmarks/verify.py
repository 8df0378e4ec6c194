"""Proving a long history: with words and signatures and without, against `git verify-commit`, and how it grows."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

from benchmarks import chains
from benchmarks.chains import Made
from benchmarks.ground import Ground
from benchmarks.measure import Figure, Spread, at_most, duration, in_turns, timed, within
from benchmarks.startup import CLICK
from runner.app import verify

# What the process itself had at most: what `wait4` tells has the git that it held open in it, and that maps the whole pack.
OWN_MEMORY = (
    "import resource, sys; from runner.cli import main; sys.argv[0] = 'runner'\n"
    "try: raise SystemExit(main.call())\n"
    "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, file=sys.stderr)"
)


def run(ground: Ground) -> Iterator[Figure]:
    """Measure `verify` of many transitions, plain, with words and signed; of ten times as many; and of a protocol of many steps."""
    many, words, files, rounds = (200, 20, 500, 2) if ground.quick else (1000, 100, 5000, 5)
    plain = chains.make(ground, files, many, words)
    spoken = chains.make(ground, files, many, words, words=True)
    signed = chains.make(ground, files, many, words, signed=True)
    long = chains.make(ground, files, 10 * many, words)
    found = in_turns(
        rounds,
        {
            "click": lambda: ground.run(CLICK, plain.at),
            "plain": lambda: ground.runner(plain.at, "verify"),
            "words": lambda: ground.runner(spoken.at, "verify"),
            "signed": lambda: ground.runner(signed.at, "verify"),
            "plain, library": lambda: _prove(ground, plain),
            "words, library": lambda: _prove(ground, spoken, approvals=words),
            "signed, library": lambda: _prove(ground, signed, signed=many - 1),
        },
    )
    name = f"verify: {many:,} transitions, {words} steps done, {files:,} files"
    yield within(name, found["plain"], 2.0, found["click"])
    yield at_most(f"{name}, each on a signed word, against that", found["words"], found["plain"], 2.0)
    yield at_most(f"{name}, each transition signed, against that", found["signed"], found["plain"], 2.0)
    yield within(f"{name}, library", found["plain, library"], 2.0, found["click"])
    yield at_most(f"{name}, words, library, against that", found["words, library"], found["plain, library"])
    yield at_most(f"{name}, signed, library, against that", found["signed, library"], found["plain, library"])
    yield from _against_git(ground, signed, found)
    yield from _grown(ground, plain, long, found["plain"])


def _prove(ground: Ground, made: Made, *, approvals: int = 0, signed: int = 0) -> None:
    with ground.session(made.at) as session:
        report, code = verify.prove(session, made.protocol)
    assert code == 0 and report.transitions == made.transitions, report
    assert (report.approvals, report.walk.signed) == (approvals, signed), report


def _against_git(ground: Ground, made: Made, found: dict[str, Spread]) -> Iterator[Figure]:
    """Compare with git's own judging of the same signatures. It proves nothing else; of ours what signatures add is told too."""
    oids = ground.git(made.at, "rev-list", f"--max-count={made.transitions - 1}", made.protocol).decode().split()
    keys = ground.at / "allowed_signers"
    keys.write_bytes(ground.git(made.at, "show", "main:.protocols/allowed_signers"))
    git = ["git", "-c", f"gpg.ssh.allowedSignersFile={keys}", "verify-commit"]

    def each() -> None:
        for oid in oids:
            subprocess.run([*git, oid], cwd=made.at, stderr=subprocess.DEVNULL, check=True)

    def together() -> None:
        subprocess.run([*git, *oids], cwd=made.at, stderr=subprocess.DEVNULL, check=True)

    slow, whole = timed(each), timed(together)
    ours = found["signed"].median
    added = max(found["signed, library"].median - found["plain, library"].median, 1e-9)
    name = f"verify: {len(oids):,} signatures"
    yield Figure(
        f"{name}, git verify-commit, a process each, against runner verify",
        duration(slow),
        slow / ours,
        "≥ 20x",
        slow / ours >= 20,
    )
    yield Figure(f"{name}, one git verify-commit of all, against runner verify", duration(whole), whole / ours)
    yield Figure(
        f"{name}, git verify-commit, a process each, against what they add to verify",
        duration(slow),
        slow / added,
        "≥ 20x",
        slow / added >= 20,
    )
    yield Figure(f"{name}, one git verify-commit of all, against what they add", duration(whole), whole / added)


def _grown(ground: Ground, short: Made, long: Made, plain: Spread) -> Iterator[Figure]:
    """Compare the time of a transition, and the memory of the process, with ten times as many."""
    times = Spread(tuple(timed(lambda: ground.runner(long.at, "verify")) for _ in range(1 if ground.quick else 3)))
    name = f"verify: {long.transitions:,} transitions"
    ratio = times.median / long.transitions / (plain.median / short.transitions)
    yield Figure(f"{name}, a transition, against {short.transitions:,}", times.text(), ratio, "≤ 1.2x", ratio <= 1.2)
    (few, all_few), (many, all_many) = _memory(ground, short), _memory(ground, long)
    told = f"{many} MiB, {few} MiB at {short.transitions:,}"
    yield Figure(f"{name}, memory of the process", told, many / few, "≤ 1.5x", many / few <= 1.5)
    yield Figure(
        f"{name}, and of the git that it holds open", f"{all_many} MiB, {all_few} MiB at {short.transitions:,}"
    )


def _memory(ground: Ground, made: Made) -> tuple[int, int]:
    """Return the most memory that the runner's own process had, and that the largest of it and its gits had, in MiB."""
    argv = [sys.executable, "-c", OWN_MEMORY, "verify"]
    process = subprocess.Popen(argv, cwd=made.at, env=ground.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    own = int(process.stderr.read().split()[-1])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return own, usage.ru_maxrss // 1024
