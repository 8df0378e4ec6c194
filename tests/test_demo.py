"""The demos: the same recordings answer in any folder, in sandbox and on host; the README's picture is what the first prints."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MASKS = (
    (re.compile(r"\b[0-9a-f]{7}(?:[0-9a-f]{5})?\b"), "COMMIT"),
    (re.compile(r", on (?:sandbox|host)\b"), ""),
    (re.compile(r"(?: ·)? *<?\b(?:\d+m )?\d+ ?s\b"), ""),  # what took no second is not summed up
    (re.compile(r"\$0\.\d+"), "PRICE"),
    (re.compile(r"\bSHA256:\S+"), "KEY"),
    (re.compile(r"\blocalhost:\d+"), "localhost:PORT"),
    (re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"), "TIME"),
    (re.compile(r"^(    digest +)sha256:[0-9a-f]{64}"), r"\1DIGEST"),  # of a held call, which has the port
)
SHOWN = "import picture; print('\\n'.join(picture.excerpt(open(sys.argv[2]).read())))"
DRAWN = "import picture; print('\\n'.join(picture.read(open(sys.argv[2]).read())))"


def sandbox() -> bool:
    """Return whether bubblewrap works here."""
    argv = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"]
    return shutil.which("bwrap") is not None and subprocess.run(argv, capture_output=True).returncode == 0


def demo(tmp: Path, **env: str) -> str:
    """Play the demo with its folders below `tmp`; return what it printed."""
    tmp.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, str(ROOT / "demo/demo.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp), **env},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert not list(tmp.glob("protocol-runner-demo-*")), "it left something behind"
    return done.stdout


def programs(tmp: Path, *names: str) -> str:
    """Return a PATH on which these programs are, python3, and no others."""
    folder = tmp / "bin"
    folder.mkdir()
    for name in names:
        (folder / name).symlink_to(shutil.which(name) or name)
    (folder / "python3").symlink_to(sys.executable)
    return str(folder)


def of_picture(script: str, file: Path) -> list[str]:
    """Return the lines that a script of picture.py finds in a file, without what differs from run to run."""
    code = f"import sys; sys.path.insert(0, sys.argv[1]); {script}"
    done = subprocess.run([sys.executable, "-c", code, str(ROOT / "demo"), str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Only in a sandbox does the planner try checks.
    lines = [line for line in done.stdout.splitlines() if not line.startswith("  trying `")]
    for pattern, name in MASKS:
        lines = [pattern.sub(name, line).rstrip() for line in lines]
    return lines


@pytest.mark.slow
@pytest.mark.window(2)
def test_it_runs_without_bubblewrap_and_the_picture_shows_what_it_prints(tmp_path: Path) -> None:
    printed = demo(tmp_path / "a", PATH=programs(tmp_path, "git", "make", "sh", "cat", "ssh-keygen"))
    assert "bubblewrap is not installed here" in printed
    assert "1 approval" in printed
    (tmp_path / "printed").write_text(printed)
    shown = of_picture(SHOWN, tmp_path / "printed")
    assert shown == of_picture(DRAWN, ROOT / "docs/demo.svg"), "run `make picture`, and look at it"
    assert len(shown) > 40 and "PRICE" in "\n".join(shown)


def test_the_picture_fetches_nothing() -> None:
    svg = (ROOT / "docs/demo.svg").read_text()
    assert set(re.findall(r"https?://[^\"' ]+", svg)) == {"http://www.w3.org/2000/svg"}


def test_the_picture_is_a_window_of_thirty_lines_in_which_the_session_plays_to_its_end() -> None:
    svg = (ROOT / "docs/demo.svg").read_text()
    rows = len(set(re.findall(r'<text class="demo-r\d+" x="[\d.]+" y="([\d.]+)"', svg)))
    height, last = re.search(r'viewBox="0 0 1385 ([\d.]+)"', svg), re.findall(r"translateY\((-?[\d.]+)px\)", svg)[-1]
    assert rows > 40 and height is not None and float(height[1]) < 33 * 24.4
    assert float(last) == pytest.approx((30 - rows_of(svg)) * 24.4, abs=0.1)
    assert "demo-play 20s step-end" in svg and "prefers-reduced-motion: reduce" in svg


def rows_of(svg: str) -> int:
    """The number of the picture's lines, empty ones too."""
    return max(int(number) for number in re.findall(r'id="demo-line-(\d+)"', svg)) + 2


@pytest.mark.slow
@pytest.mark.window(2)
def test_it_needs_neither_sdk_nor_table_of_prices_nor_ssh_keygen_and_runs_in_the_sandbox(tmp_path: Path) -> None:
    if not sandbox():
        pytest.skip("allowed: bubblewrap does not work here")
    bare = tmp_path / "bare"
    for name in ("google", "genai_prices", "httpx", "httpx2"):  # as if the extras were not installed
        (bare / name).mkdir(parents=True)
        (bare / name / "__init__.py").write_text(f"raise ModuleNotFoundError('No module named {name}')\n")
    path = programs(tmp_path, "git", "make", "sh", "cat", "bwrap")
    printed = demo(tmp_path / "another/folder", PYTHONPATH=f"{bare}{os.pathsep}{ROOT}", PATH=path)
    assert "ssh-keygen is not installed here" in printed and "announce" not in printed.partition("People steer")[2]
    assert "run in a sandbox" in printed and "merged in" in printed
    squashed = printed.partition("Squashed, and without its branch")[2]
    assert "verified · " in squashed and "step       01-fix of 0001-make-the-failing-test-pass" in squashed
    assert "at most $0.0" in printed  # the recording knows what its answers cost


def attack(tmp: Path, code: str, *names: str, **env: str) -> tuple[int, str, list[str]]:
    """Attack with folders below `tmp`, after `code`; return the exit code, what was printed, and how each attack ended."""
    script = f"import sys; sys.path.insert(0, {str(ROOT / 'demo')!r}); import attack; {code}; sys.exit(attack.main())"
    done = subprocess.run(
        [sys.executable, "-c", script, *names],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp), **env},
        capture_output=True,
        text=True,
    )
    assert not done.stderr and not list(tmp.glob("protocol-runner-attack-*")), done.stderr
    ended = done.stdout.partition("How each ended:\n")[2].partition("\n\n")[0]
    return done.returncode, done.stdout, [" ".join(line.split()) for line in ended.splitlines()]


@pytest.mark.slow
@pytest.mark.window(2)
def test_no_attack_gets_through(tmp_path: Path) -> None:
    code, printed, ended = attack(tmp_path, "pass")
    assert (code, ended) == (0, [
        "agent refused it changed README.md: exit 3, then 0; verify: exit 0",
        "edited refused the word is stale: exit 3; verify: exit 0",
        "edited-and-back refused the word is stale: exit 3; verify: exit 0",
        "forged refused the word is untrusted: exit 3; verify: exit 0",
        "own-work refused the word is own-work: exit 3; verify: exit 0",
        "replayed refused the word is other: exit 3; verify: exit 0",
    ]), printed  # fmt: skip


@pytest.mark.slow
@pytest.mark.window(2)
def test_an_attack_that_gets_through_is_seen_and_the_agent_attacks_on_the_host_too(tmp_path: Path) -> None:
    path = programs(tmp_path, "git", "sh", "ssh-keygen")
    allow = "attack.PROJECT['.protocols/policy.yaml'] = attack.POLICY.replace('refuse', 'allow')"
    code, printed, ended = attack(tmp_path, allow, "agent", "own-work", PATH=path)
    assert (code, ended) == (1, [
        "agent refused it changed README.md: exit 3, then 0; verify: exit 0",
        "own-work GOT THROUGH the step ran: exit 0; verify: exit 0",
    ]), printed  # fmt: skip
    assert "bubblewrap is not installed here" in printed


@pytest.mark.slow
@pytest.mark.window(3)
@pytest.mark.timeout(900)
def test_the_recordings_are_what_the_scripts_make(tmp_path: Path) -> None:
    if not sandbox():
        pytest.skip("allowed: bubblewrap does not work here")
    done = subprocess.run(
        [sys.executable, str(ROOT / "demo/record.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    usd = re.compile(r'"usd": "[0-9.]+"')  # the table of prices follows the providers
    for name in ("shop.jsonl", "forge.jsonl", "attack.jsonl"):
        made, there = (tmp_path / name).read_text(), (ROOT / "demo/cassettes" / name).read_text()
        assert usd.sub("", made) == usd.sub("", there), "run `make cassettes`"


@pytest.mark.peers
@pytest.mark.timeout(600)
def test_a_protocol_lives_in_a_request_from_an_empty_project_to_merged(tmp_path: Path) -> None:
    pages = tmp_path / "pages"
    done = subprocess.run(
        [sys.executable, str(ROOT / "demo/forge.py"), "--pages", str(pages)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and not done.stderr, done.stdout[-3000:] + done.stderr[-3000:]
    assert not list(tmp_path.glob("protocol-runner-forge-*")), "it left something behind"
    told = [
        "wrote  .gitlab/protocol-runner.yml",
        "plan         waits     for a maintainer (alice, bob): approval of the plan",
        "Draft: 0001: Make the failing test pass",
        "bob, in the browser:  Approve",
        "01-fix       done",
        "02-table     failed    QA: exit 2, `make table`",
        "alice, in the browser:  /runner retry",
        "02-table     done",
        "To approve: sign with runner approve 1",
        "signed in ",
        "VAT in Finland is 25.5 %, and our prices have it.",
        "… runner/verify  the merge waits for a maintainer (alice, bob)",
        "GitLab: merge blocked",
        "✔ runner/verify  the record is what its history says",
        "bob, in the browser:  Merge",
        "completed · merged",
        "removed  branch     0001-make-the-failing-test-pass",
        "verified · ",
        "RATES.md:4  | fi | 25.5 % |",
        "step       02-table of 0001-make-the-failing-test-pass, attempt 2",
        "plan approved by bob@example.test",
    ]
    at = 0
    for line in told:  # in this order
        found = done.stdout.find(line, at)
        assert found >= 0, f"{line!r} is not said, or not there:\n{done.stdout}"
        at = found
    assert "glpat-" not in done.stdout

    page = (pages / "3-call.md").read_text()
    assert (
        page.startswith("### Waits for a maintainer (alice, bob)\n\n`04-announce`: `announce text=")
        and "| ✔ passed |" in page
    )
    picture = [sys.executable, str(ROOT / "demo/request_picture.py"), str(pages), "3-call", str(tmp_path / "page.png")]
    drawn = subprocess.run(
        picture, env={**os.environ, "PATH": programs(tmp_path, "sh")}, capture_output=True, text=True
    )
    assert drawn.returncode == 1 and "install chromium" in drawn.stderr, drawn.stderr
