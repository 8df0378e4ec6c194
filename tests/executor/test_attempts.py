"""A later attempt, and a later step, know where they stand: what was changed, what was said of it, and what failed."""

from __future__ import annotations

import re

from tests.conftest import Box
from tests.executor.minds import agent, finish, mind, say, sound, texts, write
from tests.tools.agent_ground import place

HM = (say(text="Hm."), say(text="Hm?"), say(text="Hm!"))  # ends an attempt
RETRY = "on_failure: {retry: 1}\n"
LONG = "for n in $(seq 200); do echo canary $n xxxxxxxxxxxxxxxxxxxx; done; grep -q right a.txt"


def own_words(text: str) -> str:
    return re.sub("<<<untrusted.*?untrusted>>>", "", text, flags=re.S)


def test_the_next_attempt_has_the_diff_the_summary_and_the_end_of_what_failed(box: Box) -> None:
    step = agent(f'qa: {{checks: ["{LONG}"], rounds: 1}}\n{RETRY}')
    script = [say(write("a.txt", "wrong\n"), write("src/app.py", "print('go')\n")), finish("I guessed")]
    with mind(box, *script, say(write("a.txt", "right\n")), finish()) as wire:
        protocol = box.new({"01-a": step})
        box.runner("run", protocol, rc=0)
        assert wire.wrong == []
    told = texts(wire.bodies[2])
    assert "A a.txt" in told and "+wrong" in told and "-print('hello')" in told and "2 files, +2 −1" in told
    assert "<<<untrusted the summary of attempt 1\nI guessed\n" in told
    assert "canary 200 x" in told and "canary 100 x" in told and "canary 1 x" not in told
    assert "\n[… " in told and "characters left out …]\ncanary" in told  # cut at a line
    assert "Fix what the last attempt did not pass" in own_words(told) and "canary 200" not in own_words(told)
    assert "This is attempt" not in texts(wire.bodies[0])
    sound(box, protocol)


def test_a_diff_that_is_long_is_only_counted(box: Box) -> None:
    long = "".join(f"line {number}\n" for number in range(2000))
    step = agent(f'qa: {{checks: ["grep -q right a.txt"], rounds: 1}}\n{RETRY}')
    with mind(
        box, say(write("big.txt", long), write("a.txt", "wrong\n")), finish(), say(write("a.txt", "right\n")), finish()
    ) as wire:
        protocol = box.new({"01-a": step})
        box.runner("run", protocol, rc=0)
    told = texts(wire.bodies[2])
    assert "A big.txt" in told and "+2000 −0 lines, not shown" in told and "+wrong" in told and "line 1999" not in told


def test_an_attempt_that_ended_by_itself_is_continued_by_its_retry(box: Box) -> None:
    with mind(box, say(write("a.txt", "half\n")), *HM, finish()) as wire:
        protocol = box.new({"01-a": agent(RETRY)})
        box.runner("run", protocol, rc=0)
        assert "+half" in texts(wire.bodies[4]) and "called no tool" in texts(wire.bodies[4])
    assert box.git("show", f"{protocol}:a.txt") == "half\n"
    sound(box, protocol)


def test_retry_continues_the_work_and_with_clean_starts_from_before_it(box: Box) -> None:
    with mind(box, say(write("a.txt", "half\n")), *HM, *HM, finish()) as wire:
        protocol = box.new({"01-a": agent()})
        box.runner("run", protocol, rc=1)
        assert "attempt 2, from the work of the last one" in box.runner("retry", protocol, rc=0).err
        box.runner("run", protocol, rc=1)
        assert "+half" in texts(wire.bodies[4])
        assert "from the work" not in box.runner("retry", protocol, "--clean", rc=0).err
        box.runner("run", protocol, rc=0)
        assert "+half" not in texts(wire.bodies[7]) and "as they were before the step" in texts(wire.bodies[7])
    assert "a.txt" not in box.git("ls-tree", "--name-only", protocol)
    sound(box, protocol)


def test_where_the_ref_of_the_work_is_gone_the_history_has_it(box: Box) -> None:
    with mind(box, say(write("a.txt", "half\n")), *HM, finish()):
        protocol = box.new({"01-a": agent(RETRY)})
        box.runner("step", protocol, rc=0)
        box.git("update-ref", "-d", f"refs/runner/attempts/{protocol}/a.1")  # of the clone that made it
        box.runner("run", protocol, rc=0)
    assert box.git("show", f"{protocol}:a.txt") == "half\n"


def test_a_retry_that_nobody_asked_for_starts_without_work_that_conflicts_by_now(box: Box) -> None:
    with mind(box, say(write("a.txt", "half\n")), *HM, finish()):
        protocol = box.new({"01-a": agent(RETRY)})
        box.runner("step", protocol, rc=0)
        (box.worktree(protocol) / "a.txt").write_text("a person's\n")
        box.commit("mine", cwd=box.worktree(protocol))
        assert "attempt 2 of a starts without it" in box.runner("run", protocol, rc=0).err
    assert box.git("show", f"{protocol}:a.txt") == "a person's\n"
    sound(box, protocol)


def test_work_that_only_people_may_do_is_not_continued(box: Box) -> None:
    place("sandbox")
    box.env["RUNNER_EXECUTOR"] = "sandbox"
    bad = ("shell", {"command": "echo 1 > .protocols/policy.yaml; echo 1 > a.txt"})
    with mind(box, say(bad), finish()):
        protocol = box.new({"01-a": agent()})
        box.runner("run", protocol, rc=1)
        assert "from the work" not in box.runner("retry", protocol, rc=0).err


def test_clean_is_refused_where_the_work_is_on_the_branch(box: Box) -> None:
    with mind(box, say(write("a.txt", "wrong\n")), finish()):
        protocol = box.new({"01-a": agent('qa: {checks: ["exit 1"], rounds: 1}\n')})
        box.runner("run", protocol, rc=1)
    told = box.runner("retry", protocol, "--clean", rc=4).err
    (undo,) = re.findall("`runner (undo .*?)` reverts it", told)
    box.runner(*undo.split(), rc=0)
    assert "a.txt" not in box.git("ls-tree", "--name-only", protocol)


def test_a_later_step_has_the_title_the_files_and_what_each_attempt_said(box: Box) -> None:
    first = agent(f'qa: {{checks: ["grep -q right a.txt"], rounds: 1}}\n{RETRY}')
    script = [say(write("a.txt", "wrong\n")), finish("I guessed"), say(write("a.txt", "right\n")), finish("now right")]
    with mind(box, *script, finish()) as wire:
        protocol = box.new({"01-a": first, "02-b": agent()})
        box.runner("run", protocol, rc=0)
    told = texts(wire.bodies[4])
    assert "<<<untrusted what the step a did" in told and "\nfiles: a.txt\n" in told
    assert "summary of attempt 1: I guessed" in told and '"summary": "now right"' in told
