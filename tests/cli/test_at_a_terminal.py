"""What a person sees at a terminal: lines that fit, nothing cut, local times, a pager; no colour or movement where none is wanted."""

from __future__ import annotations

import re
import signal
import time
from datetime import datetime

import pytest

from tests.conftest import Box, command
from tests.people import at_terminal

LONG = "A rather long title that says in so many words what is done that it does not fit into a line of eighty columns"
PLAIN = {"NO_COLOR": "1", "TERM": "dumb"}


def terminal(box: Box, env: dict[str, str], *args: str, columns: int = 80) -> tuple[int, str]:
    """Run the command line at a terminal of 24 lines; return its exit code, and all that came."""
    code, shown = at_terminal(box, {}, *args, env=env, columns=columns)
    return code, shown.replace("\r\n", "\n")


@pytest.fixture
def told(box: Box) -> str:
    """A protocol with long texts that waits, and one that failed."""
    protocol = box.new(
        {"01-a": command("echo a > a.txt", "qa: {checks: [test -s a.txt]}\n"), "02-look": "kind: human\n"}, title=LONG
    )
    box.runner("run", protocol, rc=3)
    failed = box.new({"01-a": command(f"echo '{LONG}'; exit 3")}, title=f"Second {LONG}")
    box.runner("run", failed, rc=1)
    return protocol


SAID = (
    ("status", "1"), ("show", "1"), ("show", "1", "look"), ("show", "2", "a"), ("verify", "1"), ("doctor",), ("merge", "1"),
    ("retry", "7"), ("engines",), ("new", LONG), ("approve", "1"), ("discard", "2", "--yes"), ("why", "a.txt:1"), ("check",),
    ("resume", "1"), ("list",), (),
)  # fmt: skip


def masked(text: str) -> str:
    """Text without what differs from second to second, and without where its lines break."""
    return re.sub(r"(· )?<?\b\d+ s\b|\d{4}-\d\d-\d\d[T ][0-9:]{8}Z?", "", " ".join(text.split()))


def test_at_a_width_of_80_and_without_colour_everything_reads(box: Box, told: str) -> None:
    for words in SAID:
        code, shown = terminal(box, PLAIN, *words)
        piped = box.runner(*words)
        assert code == piped.code, words
        assert not re.search(r"[\x1b\r\u2800-\u28ff]", shown), (words, shown)
        if words:  # bare `runner` is a table: its reasons are cut, and whole in `runner status N`
            assert sorted(masked(shown).split()) == sorted(masked(piped.out + piped.err).split()), words
        for line in shown.split("\n"):
            whole = re.search(r"^ *next(:| ) *(git|runner|ssh-keygen) | && |^ *\|", line)
            wide = max(map(len, re.findall(r"`[^`]*`|\S+", line)), default=0)  # such a word has no place to break
            assert len(line) <= 80 or whole or wide > 40, (words, line)


def test_lines_break_between_words_below_their_text(box: Box, told: str) -> None:
    _, shown = terminal(box, PLAIN, "merge", "1")
    first, second, *_ = shown.split("\n")
    assert (
        first.startswith("error: 0001-")
        and second.startswith("       ")
        and "completed protocol can be merged" in f"{first} {second}"
    )
    _, wide = terminal(box, PLAIN, "merge", "1", columns=300)
    assert wide.split("\n")[0] == box.runner("merge", "1", rc=4).err.split("\n")[0]


def test_the_end_of_the_input_at_a_question_is_no_interruption(box: Box) -> None:
    box.new({"01-a": command("true")})
    code, shown = at_terminal(box, {b"]:": b"\x04"}, "discard", "1")
    assert code == 130 and "the input ended before an answer, the same command asks again" in shown
    assert box.runner("list", rc=0).out.startswith("0001")


def test_an_interrupted_do_names_the_command_that_resumes_it(box: Box) -> None:
    """Typed again, it would make another protocol."""
    box.write(".protocols/workflows/slow/plan.md", "---\ntitle: Slow\n---\n")
    box.write(".protocols/workflows/slow/01-a.md", "---\ntitle: A\nkind: command\nrun: touch started; sleep 60\n---\n")
    box.commit("workflow")
    child = box.start("do", "--workflow", "slow", "--executor", "host")
    try:
        end = time.monotonic() + 60
        while not any(box.home.rglob("started")) and child.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=100)
    finally:
        child.kill()
    assert child.returncode == 130 and said.endswith("interrupted; nothing is lost, `runner run 1` resumes\n"), said


def test_nothing_moves_where_the_terminal_is_dumb(box: Box) -> None:
    protocol = box.new({"01-a": command("echo tick; sleep 1.5; echo tock")})
    code, shown = terminal(box, PLAIN, "run", protocol)
    assert code == 0 and not re.search(r"[\x1b\r\u2800-\u28ff]", shown) and "01-a  done" in shown
    protocol = box.new({"01-a": command("echo tick; sleep 1.5; echo tock")})
    assert "\x1b[" in terminal(box, {"TERM": "xterm"}, "run", protocol)[1]


def test_times_are_local_at_a_terminal_and_utc_elsewhere(box: Box, told: str) -> None:
    first = box.runner("log", told, rc=0).out.split()[1]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", first)
    _, shown = terminal(box, {**PLAIN, "TZ": "Asia/Kathmandu"}, "log", told)
    here = " ".join(shown.split()[1:3])
    assert (
        datetime.fromisoformat(here) - datetime.fromisoformat(first.removesuffix("Z"))
    ).total_seconds() == 5.75 * 3600


def test_what_is_longer_than_the_terminal_is_paged_as_git_does(box: Box) -> None:
    protocol = box.new({"01-a": command("seq 100 > a.txt"), "02-b": "kind: human\n"})
    box.runner("run", protocol, rc=3)
    box.git("config", "--global", "core.pager", f"cat > {box.home}/paged; echo shown")
    box.git("config", "core.pager", f"touch {box.home}/evil")  # of the repository: others can write it
    page = box.home / "paged"
    code, shown = terminal(box, {"TERM": "xterm", "NO_COLOR": "1"}, "diff", protocol)
    assert (code, shown) == (0, "shown\n") and page.read_text() == box.runner("diff", protocol, rc=0).out
    page.unlink()
    for words, env in (
        (("diff", protocol, "--stat"), {"TERM": "xterm"}),  # it is short
        (("diff", protocol), {"TERM": "dumb"}),
        (("diff", protocol), {"TERM": "xterm", "GIT_PAGER": "cat"}),
        (("diff", protocol), {"TERM": "xterm", "GIT_PAGER": "no-such-pager"}),
    ):
        assert "a.txt" in terminal(box, env, *words)[1] and not page.exists()
    assert not (box.home / "evil").exists()
    long = box.new({f"{at:02d}-s{at}": command("true") for at in range(1, 40)})
    for shows in (("show", long), ("show", protocol, "a")):  # the second is short
        code, shown = terminal(box, {"TERM": "xterm", "NO_COLOR": "1"}, *shows)
        assert code == 0 and (shown == "shown\n") == (shows[1] == long), (shows, shown)
    assert "39-s39" in page.read_text()


def test_rows_of_the_list_break_between_words_below_the_title(box: Box, told: str) -> None:
    first, second, *_ = terminal(box, PLAIN, "list")[1].split("\n")
    at = first.index("A rather")
    assert first.startswith("0001  waits ") and len(first) <= 80 and second == " " * at + second.strip()
    assert LONG.startswith(first[at:]) and LONG.endswith(second.strip())


def test_an_id_stands_alone_for_programs_and_not_for_people(box: Box) -> None:
    assert "\n0001-say-hello\n" not in terminal(box, PLAIN, "new", "Say hello", "--manual")[1]
    assert box.runner("new", "Say hello", "--manual", rc=0).out == "0002-say-hello\n"


def test_the_lines_of_steps_break_too(box: Box) -> None:
    plan = box.plan({"01-a": command("true")})
    (plan / "01-a.md").write_text(f"---\ntitle: {LONG}\nkind: command\nrun: 'true'\n---\nDo it.\n")
    protocol = box.runner("new", "--plan", str(plan), rc=0).out.strip()
    for words in (("status", protocol), ("show", protocol)):
        shown = terminal(box, PLAIN, *words)[1]
        assert " ".join(LONG.split()) in " ".join(shown.split())
        assert max(map(len, shown.split("\n"))) <= 80, shown
