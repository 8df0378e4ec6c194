"""What grows, in CPU time of whole processes with the git that they start, and the goal of each row; beside floors that are floors.

A busy neighbour stretches wall time several times, CPU time by half; so ratios are of CPU, and the least of some rounds counts.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import ground as ground_
from benchmarks.ground import Ground
from benchmarks.measure import Figure, duration
from benchmarks.peers import installing
from benchmarks.plumbing import Object, written
from benchmarks.startup import CLICK, copies
from benchmarks.step import COMMIT
from benchmarks.steps import PEERS, SCRIPTS
from runner.store.project import Session

DJANGO = "django==5.2.8"


def run(ground: Ground) -> Iterator[Figure]:
    """Measure the steps of a run, verify, list, new and a transition among many, disk and a newcomer's clone."""
    yield from _runs(ground)
    yield from _one_shot(ground)
    yield from _many(ground)
    yield from _monorepo(ground)


def cpu(ground: Ground, argv: Sequence[str | Path], at: Path, rounds: int = 3) -> tuple[float, float]:
    """Return the least CPU time of a whole process with all that it starts, and the wall time of that round."""
    found = []
    for _ in range(rounds):
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        ground.run(argv, at)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        found.append((used, time.perf_counter() - began))
    return min(found)


def row(
    name: str, took: tuple[float, float], *, goal: float | None = None, over: float | None = None, waits: bool = False
) -> Figure:
    """Return a row of CPU and wall time. `goal`: of the CPU time in seconds, or of the wall time where a person `waits`, as git reads
    beside Python there; with `over`, of the CPU time's ratio to that."""
    told, ratio = f"CPU {duration(took[0])}, wall {duration(took[1])}", took[0] / over if over else None
    judged = took[1 if waits else 0] if ratio is None else ratio
    shown = "" if goal is None else f"≤ {duration(goal) if ratio is None else f'{goal:g}x'}"
    return Figure(f"goals: {name}", told, ratio, shown, None if goal is None else judged <= goal)


def _plan(ground: Ground, count: int) -> Path:
    at = ground.at / f"plan-{count}"
    if not at.is_dir():
        at.mkdir()
        (at / "plan.md").write_text("---\ntitle: A plan\n---\nWhat and why.\n")
        for number in range(1, count + 1):
            text = f"---\ntitle: S{number}\nkind: tool\ntool: echo\nwith: {{text: a}}\n---\nDo it.\n"
            (at / f"{number:04d}-s{number}.md").write_text(text)
    return at


def _commands(ground: Ground) -> Path:
    at = ground.at / "plan-of-commands"
    at.mkdir()
    (at / "plan.md").write_text("---\ntitle: Commands\n---\nWhat and why.\n")
    for number in range(1, 6):
        text = f"---\ntitle: C{number}\nkind: command\nrun: echo {number} > file-{number}\n---\nDo it.\n"
        (at / f"{number:02d}-c{number}.md").write_text(text)
    return at


def _runs(ground: Ground) -> Iterator[Figure]:
    """Measure runs of few and of many steps, a person's worktree on the branch, and verify of each."""
    counts = (50, 100) if ground.quick else (100, 1000, 3000)
    each, proved = dict[int, tuple[float, float]](), dict[int, float]()
    pins = installing.pins(installing.LIBRARIES)
    pythons = {name: installing.install(pins[name], PEERS / name) for name in SCRIPTS}
    for count in counts:
        rounds = 3 if count <= 100 else 1
        held, begun, first, used = 0, (0.0, 0.0), (0.0, 0.0), (0.0, 0.0)
        peers: dict[str, list[tuple[float, float]]] = {}
        for turn in range(rounds):
            at = ground.repository(50)
            ground.runner(at, "new", "--plan", str(_plan(ground, count)))
            alone = cpu(ground, ["runner", "run", "1", "--max-steps", "1"], at, 1)
            at = ground.repository(50)
            held = _disk(at)  # by the project's own files
            ground.runner(at, "new", "--plan", str(_plan(ground, count)))
            looked = cpu(ground, ["runner", "status", "1"], at)
            ran = cpu(ground, ["runner", "run", "1", "--max-steps", str(count + 1)], at, 1)
            begun, first, used = (min(filter(any, pair)) for pair in ((begun, looked), (first, alone), (used, ran)))
            for name, python in pythons.items():
                if not isinstance(python, installing.Missing) and count <= 1000:
                    peers.setdefault(name, []).append(_peer(ground, python, name, count, turn))
        each[count] = ((used[0] - begun[0]) / count, (used[1] - begun[1]) / count)
        yield row(f"a pure step of {count:,}, a person's worktree on the branch", each[count], goal=0.006)
        # The peers' start-up is not in their steps; so it is not in the runner's, and once it is, for comparison.
        a_step = ((used[0] - first[0]) / count, max(used[1] - first[1], 0.0) / count)
        for name, found in peers.items():
            least = min(found)
            yield row(f"{count:,} steps of {name} {pins[name].version} on SQLite, each", least)
            wanted = {"dbos": 1.7 if count == 1000 else 1.2}.get(name)
            yield row(f"a pure step of {count:,} less start-up, against {name}", a_step, goal=wanted, over=least[0])
            yield row(f"a pure step of {count:,} with what a run loads, against {name}", each[count], over=least[0])
        yield row(f"the objects of these, by one git fast-import, a step of {count:,}", _imported(ground, at, count))
        disk = _disk(at) - held
        yield Figure(
            f"goals: disk a step before gc, {count:,} steps, the plan's files included",
            f"{disk / count / 1000:.1f} kB",
            None,
            "≤ 4 kB",
            disk / count <= 4000,
        )
        took = cpu(ground, ["runner", "verify", "1"], at, 1 if ground.quick else 2)
        proved[count] = (took[0] - begun[0]) / count
        yield row(f"verify, {count:,} steps", took, goal=1.6 if count == 1000 else None)
        most = subprocess.run(
            [sys.executable, "-c", _MEMORY, "verify", "1"], cwd=at, env=ground.env, capture_output=True, text=True
        )
        yield Figure(f"goals: memory of verify, {count:,} steps", f"{most.stderr.split()[-1]} MiB")
    few, many = counts[0], counts[1]
    for what, one, other in (("run", each[many][0], each[few][0]), ("verify", proved[many], proved[few])):
        name = f"goals: {what}, a step of {many:,} against one of {few:,}"
        yield Figure(name, f"{one * 1e3:.1f} ms, {other * 1e3:.1f} ms", one / other, "≤ 1.3x", one / other <= 1.3)


def _peer(ground: Ground, python: Path, name: str, count: int, turn: int) -> tuple[float, float]:
    """Return what a step takes in a workflow library, by its own clocks: its start-up varies by more than that."""
    at = ground.at / f"goals-{name}-{count}-{turn}"
    at.mkdir()
    told = ground.run([python, "-c", SCRIPTS[name], str(count)], at, {"PYTHONPATH": ""}).split()
    return float(told[-2]) / count, float(told[-1]) / count


def _disk(at: Path) -> int:
    """Return how many bytes of the disk the objects take, in whole blocks."""
    return sum(path.stat().st_blocks * 512 for path in (at / ".git/objects").rglob("*") if path.is_file())


_MEMORY = (
    "import resource, sys; from runner.cli import main; sys.argv[0] = 'runner'\n"
    "try: raise SystemExit(main.call())\n"
    "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, file=sys.stderr)"
)


def _imported(ground: Ground, at: Path, count: int) -> tuple[float, float]:
    """Return what git takes for each step to write its blobs and its commit as a stream, with one flush at the end."""
    commits = ground.git(at, "rev-list", "--reverse", "--max-count=50", "--branches=0*").decode().split()
    lines = list[bytes]()
    for number, commit in enumerate(commits):
        made: list[Object] = written(at, f"{commit}^", commit)
        lines += [
            b"blob\nmark :%d\ndata %d\n%s\n" % (2 * i + 1, len(one.data), one.data)
            for i, one in enumerate(made)
            if one.kind == "blob"
        ]
        lines.append(b"commit refs/heads/floor\ncommitter A <a@example.test> %d +0000\ndata 1\nx\n" % number)
        lines += [b"M 100644 :%d %d\n" % (2 * i + 1, i) for i, one in enumerate(made) if one.kind == "blob"]
    other, stream = ground.repository(1, bare=True), ground.at / f"stream-{count}"
    stream.write_bytes(b"".join(lines))
    took = cpu(ground, ["sh", "-c", f"git -C {other} fast-import --quiet --force <{stream}"], ground.at)
    return took[0] / max(len(commits), 1), took[1] / max(len(commits), 1)


def _one_shot(ground: Ground) -> Iterator[Figure]:
    at = ground.repository(2000)
    ground.runner(at, "new", "--plan", str(_plan(ground, 50)))
    base = cpu(ground, [sys.executable, "-c", COMMIT], ground.repository(2000), 5)
    yield row("python that spawns git add && git commit, 2,000 files", base)
    yield row('python -c "import click"', cpu(ground, CLICK, at, 5))
    ground.runner(at, "step", "1")
    yield row(
        "runner step, a built-in tool, against git", cpu(ground, ["runner", "step", "1"], at, 5), goal=5, over=base[0]
    )


def _many(ground: Ground) -> Iterator[Figure]:
    """Measure what a repository of ten thousand protocols takes, on branches and ended in main; packed, as git's own gc leaves it."""
    count = 1000 if ground.quick else 10_000
    few = ground.repository(50)
    with ground.session(few) as session:
        protocol = ground_.new(session)
        moved, bare = _moved(ground, session, protocol)
    yield row("a transition, few protocols", bare)
    yield row("a transition, few protocols, a person's worktree on the branch", moved)
    alone = {words: cpu(ground, ["runner", words, "1"], few) for words in ("status", "show")}
    for of in ("branches", "folders in main"):
        at = ground.repository(50)
        ground.runner(at, "new", "--plan", str(_plan(ground, 3)))
        protocol = ground.git(at, "for-each-ref", "--format=%(refname:short)", "refs/heads/0*").decode().strip()
        if of != "branches":
            ground.runner(at, "run", "1")
            ground.git(at, "merge", "-q", protocol)
        copies(ground, at, protocol, count, merged=of != "branches")
        ground.git(at, "reset", "-q", "--hard")
        ground.git(at, "gc", "-q")
        yield row(f"list, {count:,} {of}, the first time", _first_list(ground, at), goal=0.6, waits=True)
        yield row(f"list, {count:,} {of}, again", cpu(ground, ["runner", "list"], at), goal=0.25)
        yield row(f"list --json, {count:,} {of}", cpu(ground, ["runner", "list", "--json"], at, 2))
        for words, one in alone.items():
            took = cpu(ground, ["runner", words, "1"], at)
            yield row(f"{words} of one among {count:,} {of}, against few", took, goal=1.3, over=one[0])
    with ground.session(at) as session:
        protocol = ground_.new(session)
        followed, took = _moved(ground, session, protocol)
    yield row(f"a transition among {count:,} ended, against few", took, goal=2, over=bare[0])
    yield row(f"the same, a worktree with all of them on the branch: {6 * count:,} files", followed, over=moved[0])
    new = ["runner", "new", "--plan", str(_plan(ground, 50))]
    yield row("new, few folders", cpu(ground, new, few, 1))
    floor = cpu(ground, ["git", "worktree", "add", "-q", "-b", "floor", str(ground.at / "floor"), "main"], at, 1)
    made = cpu(ground, new, at, 1)
    yield row(f"git worktree add among {count:,} folders, which checks them out", floor)
    yield row(f"new among {count:,} folders, its worktree with all of them", made)
    ground.git(at, "sparse-checkout", "set", "--no-cone", "/*", "!/.protocols/[0-9]*/")
    leaner = f"new among {count:,} folders, its worktree without them by a sparse checkout of the person's"
    yield row(leaner, cpu(ground, new, at), goal=0.7)
    ground.git(at, "sparse-checkout", "disable")
    alone_at = ground.at / "without-a-worktree"
    ground.git(ground.at, "clone", "-q", "--bare", str(at), str(alone_at))
    ground.git(alone_at, "config", "--remove-section", "remote.origin")
    # Not the difference of the two above: a checkout takes between 2 and 18 s of CPU, as the file system is.
    alone_made = cpu(ground, new, alone_at)
    yield row(f"new among {count:,} folders, in a bare repository, where nothing is checked out", alone_made, goal=0.4)
    ground.git(at, "gc", "-q")
    size = sum(path.stat().st_size for path in (at / ".git/objects").rglob("*") if path.is_file())
    yield Figure(f"goals: disk after gc, {count:,} ended protocols", f"{size / 1e6:.1f} MB")
    to = ground.at / "newcomer"
    cloned = cpu(ground, ["git", "clone", "-q", "--no-local", str(at), str(to)], ground.at, 1)
    yield row(f"a newcomer's clone, {count:,} ended protocols", cloned)
    yield row("and a fetch that brings nothing", cpu(ground, ["git", "fetch", "-q"], to))


def _first_list(ground: Ground, at: Path) -> tuple[float, float]:
    """Return what a list takes that finds no briefs of an earlier one: CPU and wall time of the round that was waited for least."""
    found = []
    for _ in range(3):
        with ground.session(at) as session:
            session.dirs.briefs.unlink(missing_ok=True)
        found.append(cpu(ground, ["runner", "list"], at, 1))
    return min(found, key=lambda took: took[1])


def _moved(ground: Ground, session: Session, protocol: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return what a transition takes with the worktree that `new` makes on the branch, and without one."""
    followed = _transition(session, protocol)
    for tree in session.git.checked_out(session.project.branch(protocol)):
        ground.git(tree.path, "worktree", "remove", "--force", str(tree.path))
    return followed, _transition(session, protocol)


def _transition(session: Session, protocol: str) -> tuple[float, float]:
    """Return the median CPU time of a recorded pause or resume in this process and its threads, and the wall time of that one."""
    found = []
    for _ in range(12):
        before, began = _used(), time.perf_counter()
        ground_.record(session, protocol)
        found.append((_used() - before, time.perf_counter() - began))
    return sorted(found)[len(found) // 2]


def _used() -> float:
    own = resource.getrusage(resource.RUSAGE_SELF)  # git is held open, and takes the same in both
    return own.ru_utime + own.ru_stime


def _monorepo(ground: Ground) -> Iterator[Figure]:
    """Measure status and a step in Django's sources, as PyPI has them."""
    at = ground.at / "django"
    at.mkdir()
    argv = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "--no-binary",
        ":all:",
        DJANGO,
        "-d",
        str(at),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, "HOME": str(ground.home)})
    packed = next(iter(at.glob("*.tar.gz")), None)
    if packed is None:
        yield Figure(f"goals: {DJANGO}: {installing.last_line(done.stderr)}", "")
        return
    ground.run(["tar", "xzf", packed, "--strip-components=1"], at)
    packed.unlink()
    for words in (("init", "-q"), ("add", "-A"), ("commit", "-qm", DJANGO)):
        ground.git(at, *words)
    files = len(ground.git(at, "ls-files").splitlines())
    made = cpu(ground, ["runner", "new", "--plan", str(_plan(ground, 50))], at, 1)
    yield row(f"{DJANGO}, {files:,} files: new, with a worktree", made)
    ground.runner(at, "step", "1")
    yield row(f"{DJANGO}: status", cpu(ground, ["runner", "status", "1"], at))
    yield row(f"{DJANGO}: step, a built-in tool", cpu(ground, ["runner", "step", "1"], at))
    ground.runner(at, "new", "--plan", str(_commands(ground)))
    ground.runner(at, "step", "2")  # it makes the workspace
    yield row(f"{DJANGO}: git status", cpu(ground, ["git", "status", "--porcelain"], at))
    yield row(f"{DJANGO}: step, a command that writes a file", cpu(ground, ["runner", "step", "2"], at))
