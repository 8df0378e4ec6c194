"""Histories that hold, clones that cannot tell, and what `runner verify` says."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from runner.errors import IntegrityError
from runner.git import Git
from runner.protocol import events as ev
from runner.trust import verify
from tests.attacks.forge import Forge
from tests.attacks.test_attacks import finish, paused
from tests.conftest import Box, command, make_box

ONE = {"01-a": command("echo a > a.txt")}


def test_an_imitation_holds_and_is_said_to_be_unsigned(forge: Forge) -> None:
    forge.imitate(finish(forge), code={"b.txt": "b\n"})
    assert forge.holds().transitions == 4
    said = forge.box.runner("verify", forge.protocol, rc=0).out
    assert said == f"{forge.protocol}  verified · 4 transitions · unsigned: proves consistency, not who ran them\n"


def test_base_merged_into_the_branch_and_commits_of_people_between(forge: Forge) -> None:
    side = forge.commit({"side.txt": "x"}, parents=[forge.trusted], move=False)
    forge.commit(tree=forge.tree(forge.tip, {"side.txt": "x"}), parents=[forge.tip, side], text="Merge main\n")
    forge.commit({"code.py": "1\n", f"{forge.folder}/notes.txt": "mine\n"})
    forge.commit({f"{forge.folder}/approvals/00.approval": "yes"})
    forge.imitate(paused(forge))
    forge.commit({"code.py": None})
    assert forge.holds().transitions == 4


def test_a_log_that_is_full_goes_on_in_a_new_one(forge: Forge) -> None:
    for attempt in (1, 2):
        forge.imitate(ev.StepFailed(subject="b", attempt=attempt, reason="x" * 70_000))
        forge.imitate(ev.StepRetried(subject="b", attempt=attempt + 1))
    assert forge.segments == 2
    forge.holds()
    assert forge.box.runner("step", forge.protocol, rc=0)
    forge.see()
    forge.holds()


def test_damage_that_is_repaired_by_name_or_put_back(forge: Forge) -> None:
    path = f"{forge.folder}/state.json"
    good = forge.box.git("show", f"{forge.tip}:{path}")
    damaging = [forge.commit({path: "{}"}), forge.commit({"x": "x"})]
    forge.imitate(ev.RecordRepaired(subject=forge.protocol, commits=damaging, reason="a hand edit"))
    good = forge.box.git("show", f"{forge.tip}:{path}")
    assert any("repaired" in note for note in forge.holds().notes)
    forge.commit({path: None})
    forge.commit({path: good})
    assert any("a person reverted them" in note for note in forge.holds().notes)


def test_an_odd_name_that_was_taken_away_again(forge: Forge) -> None:
    forge.commit({f"{forge.folder}/link": ("120000", "plan.md")})
    forge.refused("paths")
    forge.commit({f"{forge.folder}/link": None})
    forge.imitate(paused(forge))
    forge.holds()


def test_a_name_that_goes_on_like_a_verdict_stays_on_its_line(forge: Forge) -> None:
    name = f"{forge.folder}/x\n{forge.protocol}  verified · 3 transitions"
    forge.commit({name: "x\n", f"{forge.folder}/approvals/y\n{forge.protocol}  verified": "y\n"})
    said = forge.box.runner("verify", forge.protocol, rc=4)
    own = [line for line in (said.out + said.err).splitlines() if line.startswith(f"{forge.protocol}  verified")]
    assert not own and "x\\n" in said.out and "y\\n" in said.err


def test_the_folder_deleted_and_repaired(forge: Forge) -> None:
    before = forge.tip
    gone = forge.commit({forge.folder: None})
    names = [f"{forge.folder}/{name}" for name in ("plan.md", "01-a.md", "02-b.md", "03-c.md")]
    words = {name: forge.box.git("show", f"{before}:{name}") for name in names}
    back = forge.commit(words)
    forge.imitate(ev.RecordRepaired(subject=forge.protocol, commits=[gone, back], reason="it was deleted"))
    forge.holds()


def test_odd_dates_do_not_matter(forge: Forge) -> None:
    for date in ("1970-01-02T00:00:00Z", "2099-01-01T00:00:00Z"):
        forge.box.env.update(GIT_AUTHOR_DATE=date, GIT_COMMITTER_DATE=date)
        forge.imitate(paused(forge))
        forge.imitate(ev.Resumed(subject=forge.protocol))
    forge.holds()


def test_replace_refs_and_grafts_are_not_followed(forge: Forge) -> None:
    good = forge.tip
    forge.commit({f"{forge.folder}/state.json": "{}"})
    bad = forge.tip
    forge.box.git("replace", bad, good)
    (forge.box.path / ".git/info").mkdir(exist_ok=True)
    (forge.box.path / ".git/info/grafts").write_text(f"{bad} {forge.trusted}\n")
    forge.refused("record-changed")
    assert "refs/replace/" in forge.box.runner("verify", forge.protocol, rc=4).err


def test_sha256_and_plans_with_other_line_ends(tmp_path: Path) -> None:
    box = make_box(tmp_path / "repo", "--object-format=sha256")
    plan = box.plan(ONE)
    for file in plan.iterdir():
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    protocol = box.runner("new", "CRLF", "--plan", plan, rc=0).out.strip()
    box.runner("step", protocol, rc=0)
    box.runner("verify", protocol, rc=0)


def _clone(remote: Box, name: str, *args: str) -> Box:
    """Clone the box's remote by URL, so that depth and filter are heeded."""
    origin = remote.path.parent / "origin.git"
    remote.git("config", "uploadpack.allowFilter", "true", cwd=origin)
    to = Box(remote.path.parent / name, remote.home, dict(remote.env))
    remote.git("clone", "-q", *args, f"file://{origin}", to.path, cwd=remote.path.parent)
    return to


@pytest.mark.parametrize(
    "args",
    [("--depth=1",), ("--depth=2",), ("--filter=blob:none",), ("--filter=tree:0",)],
    ids=lambda args: args[0][2:],
)
@pytest.mark.slow
def test_a_clone_that_cannot_tell_says_what_to_fetch(remote: Box, args: tuple[str, ...]) -> None:
    protocol = remote.new({"01-a": command("echo a > a.txt"), "02-b": command("true"), "03-c": command("true")})
    remote.runner("run", protocol, rc=0)
    remote.git("push", "-q", "origin", protocol)
    other = _clone(remote, "other", *args, "--no-checkout", "--branch", protocol)
    told = other.runner("verify", protocol, rc=5)
    assert "cannot tell" in told.out and "history" in told.out
    program, *words = shlex.split(
        next(one for one in told.out.split("`")[1::2] if one.startswith(("git fetch", "runner")))
    )
    (other.git if program == "git" else other.runner)(*words)
    other.runner("verify", protocol, rc=0)


def test_a_branch_that_is_gone_is_verified_from_the_base(box: Box) -> None:
    protocol = box.new(ONE)
    box.runner("run", protocol, rc=0)
    box.git("merge", "-q", "--no-ff", "-m", "Merge", protocol)
    box.git("worktree", "remove", "--force", box.worktree(protocol))
    box.git("branch", "-qD", protocol)
    assert "verified · 2 transitions" in box.runner("verify", protocol, rc=0).out


def test_a_protocol_that_was_squashed_says_that_its_history_is_not_here(box: Box) -> None:
    protocol = box.new(ONE)
    box.runner("run", protocol, rc=0)
    box.git("merge", "-q", "--squash", protocol)
    box.commit("squashed")
    box.git("worktree", "remove", "--force", box.worktree(protocol))
    box.git("branch", "-qD", protocol)
    box.git("update-ref", "-d", f"refs/runner/history/{protocol}")
    told = box.runner("verify", protocol, rc=5)
    assert "squashed" in told.out
    assert box.runner("verify", "--all", rc=5).out == told.out


def test_the_json_and_all_of_them(box: Box) -> None:
    assert box.runner("verify", "--all", "--json", rc=0).json() == {"ok": True, "protocols": []}
    first, second = box.new(ONE, title="One"), box.new(ONE, title="Two")
    box.runner("run", first, rc=0)
    tree = box.worktree(second)
    (tree / f".protocols/{second}/state.json").write_text("{}\n")
    box.commit("forged", cwd=tree)
    told = box.runner("verify", "--all", "--json", rc=4).json()
    commit = box.git("rev-parse", second).strip()
    finding = {
        "rule": "record-changed", "commit": commit, "path": f".protocols/{second}/state.json",
        "text": "an ordinary commit changed the runner's record",
    }  # fmt: skip
    assert told == {
        "ok": False,
        "protocols": [
            {"protocol": first, "ok": True, "transitions": 2, "approvals": 0, "findings": []},
            {"protocol": second, "ok": False, "transitions": 1, "approvals": 0, "findings": [finding]},
        ],
    }
    said = box.runner("verify", second, rc=4).out
    assert said.splitlines()[-1] == f"{second}  does not verify · 1 finding"


def test_what_is_new_is_checked_as_all_of_it_is(forge: Forge) -> None:
    with Git.open(forge.box.path) as git:
        start = forge.tip
        state = verify.verify(git, forge.protocol, start).state
        assert state is not None
        forge.imitate(finish(forge), code={"b.txt": "b\n"})
        forge.commit({"x": "x"})
        assert verify.advance(git, forge.protocol, forge.tip, (start, state)) == forge.verify().state
        forge.imitate(paused(forge), code={"evil.txt": "x"})
        with pytest.raises(IntegrityError, match="without work"):
            verify.advance(git, forge.protocol, forge.tip, (start, state))
        with pytest.raises(IntegrityError, match="rewritten"):
            verify.advance(git, forge.protocol, start, (forge.tip, state))


def test_a_log_that_starts_another_one_is_not_read(box: Box) -> None:
    class Counted(Git):
        asked: ClassVar[set[str]] = set()

        def blob(self, name: str) -> bytes | None:
            self.asked.add(name)
            return super().blob(name)

        def blobs(self, names: Sequence[str]) -> list[bytes | None]:
            self.asked.update(names)
            return super().blobs(names)

    git = Counted.open(box.path)
    logs = [b"a" * 10 * count for count in range(1, 30)]
    logs.insert(20, b"another" * 3)  # as after a full log, and where somebody wrote another one
    oids = [git.write("blob", data) for data in logs]
    git.settle()
    assert verify._logs(git, oids, dict(zip(oids, map(len, logs), strict=True))) == dict(zip(oids, logs, strict=True))
    assert git.asked == {oids[-1], oids[20]}  # the last, and the one that is no start of it
    git.close()
