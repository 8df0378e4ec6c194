"""Real repositories in tmp, with fixed names and dates, and the command line as a user has it."""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import certifi
import hypothesis
import pytest

from runner.protocol.ids import is_protocol_id
from runner.store import remote as remote_
from runner.store.environment import Environment
from runner.store.project import Session
from tests.gate import AGREEMENT_PARTS, FURTHER_PARTS, LONG_PARTS, WHOLE, is_due, long_tests, turn, write_long_tests

hypothesis.settings.register_profile(
    "ci",
    max_examples=100 if WHOLE else 50,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
    print_blob=True,
)
# Of `make test`: the first of the same examples.
hypothesis.settings.register_profile("quick", hypothesis.settings.get_profile("ci"), max_examples=30)
hypothesis.settings.register_profile(
    "deep", deadline=None, max_examples=2000, suppress_health_check=list(hypothesis.HealthCheck)
)
hypothesis.settings.load_profile("ci")

# A job in the background, or below nohup, has these ignored, and so would all that the tests start.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)

# What `make -j` tells those that it starts, and every make that the tests start would take for itself.
for name in ("MAKEFLAGS", "MFLAGS"):
    os.environ.pop(name, None)

START = 1_700_000_000
PERSON = {
    "GIT_AUTHOR_NAME": "Alice",
    "GIT_AUTHOR_EMAIL": "alice@example.test",
    "GIT_COMMITTER_NAME": "Alice",
    "GIT_COMMITTER_EMAIL": "alice@example.test",
}


LONG = 600  # seconds that a test has, from which on it is begun first


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update-golden` rewrites the golden files; people review the diff."""
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden files")
    parser.addoption(
        "--update-long", action="store_true", help="rewrite tests/long.txt by the time that each test takes"
    )


def mostly_slow(values: Iterable[Any], keep: int = 2) -> list[Any]:
    """Parameters of a test of which the first `keep` stand for all in `make test`; of the others CI and `make slow` try a third."""
    found = [value if isinstance(value, tuple) else (value,) for value in values]
    return [pytest.param(*value, marks=() if at < keep else pytest.mark.slow) for at, value in enumerate(found)]


def pytest_configure(config: pytest.Config) -> None:
    """Register what tests here may be marked with."""
    if "not slow" in config.option.markexpr and not config.getoption("--hypothesis-profile", None):
        hypothesis.settings.load_profile("quick")
    config.addinivalue_line(
        "markers", "window(parts): one of so many cases is tried a commit, all of them at night (tests/gate.py)"
    )
    config.addinivalue_line(
        "markers", "together: tests of a file that share what takes long to make: one worker begins with all"
    )
    config.addinivalue_line("markers", "no_agreement(reason): the two verifiers are not compared after this test")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the cases whose turn it is not, and let each worker begin with some of the tests that have the most time: at the
    end none is left alone with one."""
    has_others = {_function(item) for item in items if item.get_closest_marker("slow") is None}
    if not any("::" in arg for arg in config.args):  # a test that is named is run
        left_out = [item for item in items if not _has_its_turn(item, has_others)]
        if not config.option.update_long and config.option.markexpr.startswith("not slow") and not _names_files(config):
            left_out += [item for item in items if not _is_short_or_due(item)]
        items[:] = [item for item in items if item not in set(left_out)]
        config.hook.pytest_deselected(items=left_out)
    time = {item: mark.args[0] for item in items if (mark := item.get_closest_marker("timeout"))}
    long = sorted((item for item in items if time.get(item, 0) >= LONG), key=lambda item: -time[item])
    parts = dict.fromkeys(item.path if item.get_closest_marker("together") else item for item in long)
    turns = {part: at for at, part in enumerate(parts)}
    rest = [item for item in items if time.get(item, 0) < LONG]
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))  # each gets a part of the list, one after the other
    size = -(-len(items) // count)
    items.clear()
    for at in range(count):
        mine = [item for item in long if turns.get(item, turns.get(item.path, 0)) % count == at]
        fill = max(size - len(mine), 0) if at + 1 < count else len(rest)
        items += [*mine, *rest[:fill]]
        rest = rest[fill:]


def pytest_collection_finish() -> None:
    """Keep the garbage collector from going through thousands of collected tests again and again."""
    gc.collect()
    gc.freeze()


def _names_files(config: pytest.Config) -> bool:
    """Return whether not all tests were asked for."""
    return {Path(arg).name for arg in config.args} != {Path(path).name for path in config.getini("testpaths")}


def _function(item: pytest.Item) -> str:
    return item.nodeid.partition("[")[0]


def _is_short_or_due(item: pytest.Item) -> bool:
    return _function(item) not in long_tests() or is_due(item.nodeid, LONG_PARTS)


_took: dict[str, float] = {}  # seconds of each test


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up what each test takes."""
    _took[report.nodeid] = _took.get(report.nodeid, 0.0) + report.duration


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how what failed is run again, whatever another commit tries; write which tests take longest, where that was asked for."""
    if config.option.update_long:
        write_long_tests(_took)
    if names := [one.nodeid for what in ("failed", "error") for one in terminalreporter.stats.get(what, ())]:
        terminalreporter.section(f"again, by name (this was RUNNER_TURN={turn()})")
        for name in dict.fromkeys(names):
            terminalreporter.line(f".venv/bin/python -m pytest -m '' {shlex.quote(name)}")


def _has_its_turn(item: pytest.Item, has_others: Container[str]) -> bool:
    """Return whether an item is tried at this commit. `has_others`: the tests that have a case that is not slow."""
    if (mark := item.get_closest_marker("window")) is not None:
        return is_due(item.nodeid, mark.args[0])
    is_further = item.get_closest_marker("slow") is not None and _function(item) in has_others
    return not is_further or is_due(item.nodeid, FURTHER_PARTS)


def slack() -> float:
    """Return how many times as long things take as where a core is free: as others wait for one, now or in the last minute. For
    bounds of elapsed time. Hundreds that wait for an instant are not a load: at most 16 for each core are counted of those."""
    running, cores = 0, os.cpu_count() or 1
    with contextlib.suppress(OSError):  # elsewhere than on Linux
        running = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])
    return max(1.0, max(min(running, 16 * cores), os.getloadavg()[0]) / cores)


@pytest.fixture(autouse=True, scope="session")
def patience() -> None:
    """A look at a remote on this disk takes as long as the machine is busy: no test fails for the 5 s that people wait."""
    remote_.FETCH_SECONDS = 60.0


# The same for a process of its own: `python -m runner`.
_PATIENT = (
    "import runpy; from runner.store import remote; remote.FETCH_SECONDS = 60.0;"
    " runpy.run_module('runner', run_name='__main__', alter_sys=True)"
)


_made_boxes: list[Path] = []  # repositories of the test that runs
_AGREE_ON = 12  # branches of a repository


@pytest.fixture(autouse=True)
def agreement(request: pytest.FixtureRequest) -> Iterator[None]:
    """After a test that made protocols: `runner verify` and the second verifier say the same of every branch of theirs. Where all
    tests run, after half of them, by the commit: stored histories are compared at every one."""
    _made_boxes.clear()
    yield
    is_compared = _names_files(request.config) or is_due(request.node.nodeid, AGREEMENT_PARTS)
    if is_compared and request.node.get_closest_marker("no_agreement") is None:
        for path in dict.fromkeys(_made_boxes):
            if names := _protocol_branches(path / ".git"):
                _agree(path, names[:_AGREE_ON])


def _protocol_branches(git_dir: Path) -> list[str]:
    """Return the branches that are named as protocols, read from the files without starting git."""
    if not git_dir.is_dir():
        return []
    heads = git_dir / "refs" / "heads"
    names = {str(file.relative_to(heads)) for file in heads.rglob("*") if file.is_file()}
    packed = git_dir / "packed-refs"
    if packed.is_file():
        names |= set(re.findall(r"^[0-9a-f]+ refs/heads/(.+)$", packed.read_text("utf-8", "replace"), re.MULTILINE))
    return sorted(name for name in names if is_protocol_id(name.rsplit("/", 1)[-1]))


def _agree(path: Path, names: list[str]) -> None:
    from runner.errors import InsufficientHistoryError, RunnerError
    from runner.git import Git
    from runner.trust import verify

    ours: dict[str, int] = {}
    try:
        with Git.open(path) as git:
            for name in names:
                protocol, tip = name.rsplit("/", 1)[-1], git.ref(f"refs/heads/{name}")
                try:
                    if tip is not None:
                        ours[name] = 0 if verify.verify(git, protocol, tip).ok else 4
                except InsufficientHistoryError:
                    ours[name] = 5
    except RunnerError:  # a repository that the test broke as a whole
        return
    told = second_verdicts(path / ".git", [(f"refs/heads/{name}", name.rsplit("/", 1)[-1]) for name in ours])
    theirs = [
        code if ", not judged: " in why and code == 4 else said
        for code, (said, why) in zip(ours.values(), told, strict=True)
    ]
    assert list(ours.values()) == theirs, f"the verifiers differ: ours {ours}, the second {told}"


def second_verdicts(git_dir: Path, branches: Iterable[tuple[str, str]]) -> list[tuple[int, str]]:
    """Return what the second verifier says of (branch, protocol) each: exit code and why. In this process, as starting one for
    every test costs more than the verdict; that it stands alone is tested beside its imports."""
    from tests import second_verifier

    judged: Any = second_verifier.judged
    return [judged(git_dir, branch, protocol) for branch, protocol in branches]


@functools.cache
def one_authority() -> str:
    """Return a file with one certificate authority. Each client of a model loads all that there are, twice, which takes 40 ms; the
    models of the tests are asked over plain HTTP."""
    with tempfile.NamedTemporaryFile("w", prefix="authority-", suffix=".pem", delete=False) as file:
        file.write(Path(certifi.where()).read_text("utf-8").partition("-----END CERTIFICATE-----\n")[0])
        file.write("-----END CERTIFICATE-----\n")
    os.chmod(file.name, 0o644)  # another user too runs the command line
    atexit.register(os.unlink, file.name)
    return file.name


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Its stdout, read as JSON."""
        return json.loads(self.out)


@dataclass(slots=True)
class Box:
    """A repository on disk, and a person with a HOME of their own who works in it."""

    path: Path
    home: Path
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _made_boxes.append(self.path)

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """The person's whole environment."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "NO_COLOR": "1",
            "GIT_CONFIG_NOSYSTEM": "1",
            "SSL_CERT_FILE": one_authority(),
            **PERSON,
            **self.env,
            **(more or {}),
        }

    def git(
        self,
        *args: str | Path,
        cwd: Path | None = None,
        check: bool = True,
        env: Mapping[str, str] | None = None,
        data: str | None = None,
    ) -> str:
        """Run the person's own git."""
        done = subprocess.run(
            ["git", *map(str, args)],
            cwd=cwd or self.path,
            env=self.environment(env),
            capture_output=True,
            text=True,
            input=data,
        )
        assert not check or done.returncode == 0, f"git {args}: {done.stderr}"
        return done.stdout

    def runner(
        self, *args: str | Path, cwd: Path | None = None, rc: int | None = None, env: Mapping[str, str] | None = None
    ) -> Result:
        """Run the command line in this process, as `runner` would."""
        from runner.cli import main

        out, err = io.StringIO(), io.StringIO()
        before, at = dict(os.environ), Path.cwd()
        wanted = self.environment(env)
        os.environ.clear()
        os.environ.update(wanted)
        os.chdir(cwd or self.path)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    code = main.call([str(arg) for arg in args])
                except SystemExit as ended:
                    code = ended.code if isinstance(ended.code, int) else 1
        finally:
            os.chdir(at)
            os.environ.clear()
            os.environ.update(before)
        result = Result(code, out.getvalue(), err.getvalue())
        assert rc is None or code == rc, f"runner {args}: exit {code}, wanted {rc}\n{result.out}{result.err}"
        return result

    def start(
        self, *args: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start the command line as a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-c", _PATIENT, *map(str, args)],
            cwd=cwd or self.path,
            env={**self.environment(env), "PYTHONPATH": str(Path(__file__).parents[1])},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def loaded(self, *args: str) -> tuple[str, set[str]]:
        """Return what the command line prints as a process of its own, and the modules that it ran."""
        code = (
            "import contextlib, sys; from runner import Unused; from runner.cli import main\n"
            "with contextlib.suppress(SystemExit): main.call(sys.argv[1:])\n"
            "print(*[name for name, one in sys.modules.items() if type(one) is not Unused], file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *args],
            cwd=self.path,
            env={**self.environment(), "PYTHONPATH": str(Path(__file__).parents[1])},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-600:]
        return done.stdout, set(done.stderr.splitlines()[-1].split())

    def session(self, **options: str) -> Session:
        """Open the repository through the library, with a fixed clock that ticks and fixed randomness."""
        ticks = iter(range(START, START + 10_000_000))
        digits = iter(range(1, 1_000_000))
        env = Environment(
            now=lambda: float(next(ticks)),
            monotonic=__import__("time").monotonic,
            sleep=__import__("time").sleep,
            random_hex=lambda count: f"{next(digits):0{count}x}",
            host="test-host",
            pid=os.getpid(),
            state_home=self.home / ".local/state/protocol-runner",
            environ={
                "PATH": os.environ["PATH"],
                "HOME": str(self.home),
                "RUNNER_EMAIL": "alice@example.test",
                "RUNNER_NAME": "Alice",
                **self.env,
            },
        )
        return Session.open(self.path, env, options)

    def write(self, path: str, text: str | bytes) -> Path:
        """Write a file below the repository."""
        at = self.path / path
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_bytes(text if isinstance(text, bytes) else text.encode())
        return at

    def commit(self, subject: str = "change", cwd: Path | None = None) -> str:
        """Commit everything, as the person."""
        self.git("add", "-A", cwd=cwd)
        self.git("commit", "-qm", subject, "--allow-empty", cwd=cwd)
        return self.git("rev-parse", "HEAD", cwd=cwd).strip()

    def plan(self, steps: Mapping[str, str], *, title: str = "A plan", front: str = "", name: str = "plan") -> Path:
        """Write a plan's folder beside the repository; `steps`: `01-a` to front matter lines."""
        folder = self.path.parent / name
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        (folder / "plan.md").write_text(f"---\ntitle: {title}\n{front}---\nWhat and why.\n")
        for step, lines in steps.items():
            (folder / f"{step}.md").write_text(f"---\ntitle: {step}\n{lines.rstrip()}\n---\nDo it.\n")
        return folder

    def new(self, steps: Mapping[str, str], *, title: str = "A plan", front: str = "") -> str:
        """Make a protocol and return its id."""
        return self.runner("new", title, "--plan", self.plan(steps, title=title, front=front), rc=0).out.strip()

    def worktree(self, protocol: str) -> Path:
        """The person's worktree of a protocol."""
        return Path(self.runner("show", protocol, "--json", rc=0).json()["path"])

    def state(self, protocol: str, revision: str | None = None) -> Any:
        """state.json on the protocol's branch."""
        return json.loads(self.git("show", f"{revision or protocol}:.protocols/{protocol}/state.json"))

    def log(self, protocol: str) -> str:
        """log.md on the protocol's branch."""
        return self.git("show", f"{protocol}:.protocols/{protocol}/log.md")

    def count(self, protocol: str) -> int:
        """How many commits the protocol's branch has."""
        return int(self.git("rev-list", "--count", protocol))


def command(line: str, more: str = "") -> str:
    """Front matter of a command step."""
    return f"kind: command\nrun: {json.dumps(line)}\n{more}"


def waits_for(path: Path) -> str:
    """A line of shell that waits for a file: at most some minutes, so that a test that failed leaves nothing behind for ever."""
    return f"i=0; until [ -e {path} ] || [ $((i += 1)) -gt 4000 ]; do sleep 0.05; done"


@pytest.fixture
def box(tmp_path: Path) -> Box:
    """A repository with one commit on `main`, and a person in it. Commands run on the host unless a test says otherwise."""
    return make_box(tmp_path / "repo")


_started: dict[tuple[str, ...], Path] = {}  # words of `git init` to a repository with its first commit, which is copied


@atexit.register
def _forget_started() -> None:
    for path in _started.values():
        shutil.rmtree(path.parent, ignore_errors=True)


# Of whoever works in a test: files are remotes, and no git starts another one after each commit, fetch and push, to see whether there
# is much to pack.
GITCONFIG = '[protocol "file"]\n allow = always\n[maintenance]\n auto = false\n[receive]\n autogc = false\n'


def make_box(path: Path, *init: str) -> Box:
    """Make a repository at `path`."""
    home = path.parent / f"home-{path.name}"
    home.mkdir(parents=True)
    (home / ".gitconfig").write_text(
        f"[user]\n name = Alice\n email = alice@example.test\n[init]\n defaultBranch = main\n{GITCONFIG}"
    )
    box = Box(path, home, {"RUNNER_EXECUTOR": "host"})
    if (made := _started.get(init)) is not None and made.is_dir():
        shutil.copytree(made, path, symlinks=True, dirs_exist_ok=True)
        box.git("update-index", "-q", "--refresh")
        return box
    box.git("init", "-q", *init, path, cwd=path.parent)
    box.write("README.md", "# a project\n")
    box.write("src/app.py", "print('hello')\n")
    box.commit("start")
    for sample in (path / ".git/hooks").glob("*.sample"):
        sample.unlink()
    _started[init] = Path(tempfile.mkdtemp(prefix="started-")) / "repo"
    shutil.copytree(path, _started[init], symlinks=True)
    return box


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[Box]:
    """A repository whose `origin` is a bare one beside it."""
    box = make_box(tmp_path / "repo")
    add_origin(box)
    box.git("branch", "-q", "-u", "origin/main", "main")
    yield box


JOBS = {"RUNNER_PACKAGE": "protocol-runner"}  # what CI jobs install, for `init --ci`


def add_origin(box: Box) -> Path:
    """Give a box an `origin`, a bare repository beside it, and return that."""
    bare = box.path.parent / "origin.git"
    box.git("clone", "-q", "--bare", box.path, bare, cwd=box.path.parent)
    box.git("remote", "add", "origin", bare)
    box.git("fetch", "-q", "origin")
    return bare


def clone(box: Box, name: str) -> Box:
    """Another person's clone of the box's `origin`."""
    path = box.path.parent / name
    home = box.path.parent / f"home-{name}"
    home.mkdir()
    (home / ".gitconfig").write_text(f"[user]\n name = {name}\n email = {name}@example.test\n{GITCONFIG}")
    other = Box(
        path,
        home,
        {
            **box.env,
            "GIT_AUTHOR_NAME": name,
            "GIT_AUTHOR_EMAIL": f"{name}@example.test",
            "GIT_COMMITTER_NAME": name,
            "GIT_COMMITTER_EMAIL": f"{name}@example.test",
        },
    )
    other.git("clone", "-q", box.path.parent / "origin.git", path, cwd=box.path.parent)
    return other


def set_env(session: Session, **changes: Any) -> None:
    """Have the session go on with another clock, host, …"""
    session.project = replace(session.project, env=session.env._replace(**changes))
