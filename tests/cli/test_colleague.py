"""What a colleague's clone says of a protocol that others published, and what a person can do with it there."""

from __future__ import annotations

import json
import re

import pytest

from runner.cli.main import COMMANDS
from tests.conftest import Box, clone, command, mostly_slow

HUMAN = {"01-a": command("echo a > a.txt"), "02-look": "kind: human\n"}
WAITS = 3


def publish(box: Box, when: str = "always") -> None:
    """Set `publish` on the trusted branch."""
    box.write(".protocols/config.yaml", f"publish: {when}\n")
    box.commit("config")
    box.git("push", "-q", "origin", "main")
    box.git("fetch", "-q", "origin")


def published(box: Box, title: str = "Shared") -> str:
    """Make a protocol that waits for a person, and publish it."""
    protocol = box.new(HUMAN, title=title)
    box.runner("run", protocol, rc=WAITS)
    return protocol


def asks(remote: Box, steps: dict[str, str] | None = None) -> str:
    """Make a protocol whose first step is a person's, run it to that step, and push it."""
    protocol = remote.new(steps or {"01-ask": "kind: human\n", "02-end": command("echo x > x.txt")})
    remote.runner("run", protocol, rc=WAITS)
    remote.runner("sync", protocol, rc=0)
    return protocol


def there(box: Box, ref: str) -> str:
    """What a ref of the remote points at, or nothing."""
    return box.git("rev-parse", "--verify", "-q", ref, cwd=box.path.parent / "origin.git", check=False).strip()


@pytest.mark.parametrize("words", mostly_slow([(("show", "1"),), (("list",),), (("status", "1"),), (("status",),)]))
def test_a_published_unmerged_protocol_is_shown_as_the_remote_has_it(remote: Box, words: tuple[str, ...]) -> None:
    publish(remote)
    published(remote)
    told = clone(remote, "bob").runner(*words, rc=0)
    assert "waits" in told.out and "gone" not in told.out and "how main has it" not in told.out
    if words[-1] == "1":
        assert "on origin, as last fetched" in told.out


def test_a_merged_protocol_whose_branch_was_deleted_is_said_to_be_gone(remote: Box) -> None:
    publish(remote)
    protocol = remote.new({"01-a": command("true")})
    remote.runner("run", protocol, rc=0)
    remote.git("merge", "-q", "--no-ff", "-m", "merged", protocol)
    remote.git("push", "-q", "origin", "main", f":{protocol}")
    assert "not here; shown as main has it" in clone(remote, "bob").runner("status", protocol, rc=0).out


def test_sync_names_what_is_new_on_the_remote_and_list_knows_it_then(remote: Box) -> None:
    publish(remote)
    other = clone(remote, "bob")
    protocol = published(remote, "Newer")
    assert "Newer" not in other.runner("list", rc=0).out
    told = other.runner("sync", rc=0).err
    assert f"{protocol}  new  " in told and "Newer" in told
    assert "Newer" in other.runner("list", rc=0).out
    assert f"{protocol}  up to date" in other.runner("sync", rc=0).err


def test_the_push_of_a_merge_tells_a_colleague_that_the_protocol_is_done(remote: Box) -> None:
    other = clone(remote, "bob")
    asks(remote)
    other.runner("answer", "1", "fine", rc=0)
    other.runner("sync", "1", rc=0)
    remote.runner("sync", "1", rc=0)
    remote.runner("run", "1", rc=0)
    (push,) = re.findall(r"next +git (push .*)", remote.runner("merge", "1", "--squash", rc=0).err)
    remote.git(*push.split())
    other.git("pull", "-q")
    assert "origin has 2 newer transitions  runner sync 1" in other.runner(rc=0).out
    other.runner("sync", "1", rc=0)
    assert "no protocol is open" in other.runner(rc=0).err


def test_a_merged_protocol_whose_branch_was_left_behind_on_the_remote_is_not_shown_as_open(remote: Box) -> None:
    asks(remote)
    remote.runner("answer", "1", "fine", rc=0)
    remote.runner("run", "1", rc=0)
    remote.runner("merge", "1", "--squash", rc=0)
    remote.git("push", "-q", "origin", "main")
    remote.runner("clean", "--yes", rc=0)
    for one in (remote, clone(remote, "bob")):
        assert "completed · merged" in one.runner("list", rc=0).out
        assert "no protocol is open" in one.runner(rc=0).err
        assert "completed · merged" in one.runner("status", "1", rc=0).out
        rows = json.loads(one.runner("list", "--json", rc=0).out)["protocols"]
        assert [(row["status"], row["command"]) for row in rows] == [("completed", None)]
        assert json.loads(one.runner("status", "--json", rc=0).out) == {"protocols": []}


def test_what_was_merged_and_cleaned_is_not_brought_back_by_a_command_that_would_do_nothing(remote: Box) -> None:
    protocol = remote.new({"01-a": command("echo x > x.txt")})
    remote.runner("run", protocol, rc=0)
    remote.runner("sync", protocol, rc=0)
    remote.runner("merge", protocol, rc=0)
    remote.git("push", "-q", "origin", "main")
    remote.runner("clean", rc=0)
    for one in (remote, clone(remote, "bob")):
        for words in (("run", "1"), ("answer", "1", "fine"), ("retry", "1"), ("pause", "1"), ("step", protocol)):
            said = one.runner(*words, rc=4).err
            assert f"{protocol} is merged in " in said and "next: `runner show 1` shows its status\n" in said
        assert one.git("branch", "--list", protocol) == ""
        one.runner("sync", "1", rc=0)
        assert one.git("branch", "--list", protocol) != ""
        one.runner("clean", rc=0)


@pytest.mark.parametrize("words", ["sync 1", "sync", "run 1"])
def test_a_merge_whose_main_alone_was_pushed_is_known_after_any_look_at_the_remote(remote: Box, words: str) -> None:
    other = clone(remote, "bob")
    protocol = remote.new({"01-a": command("echo x > x.txt")})
    remote.runner("run", protocol, rc=0)
    remote.runner("sync", protocol, rc=0)
    other.runner("sync", "1", rc=0)
    assert "waits for merge" in other.runner(rc=0).out
    remote.runner("merge", protocol, rc=0)
    remote.git("push", "-q", "origin", "main")
    told = other.runner(*words.split(), rc=0).err
    assert "runner merge" not in told and (words != "run 1" or ("1 of 1 step done · " in told and "merged in " in told))
    assert "no protocol is open" in other.runner(rc=0).err
    assert other.git("rev-parse", "origin/main") == remote.git("rev-parse", "main")


@pytest.mark.parametrize("how", mostly_slow(["--no-ff", "--squash", "--ff-only"], 3))
@pytest.mark.parametrize("left", mostly_slow(["behind", "deleted"], 1))
def test_a_protocol_that_ended_on_main_is_not_open_in_a_clone_with_an_earlier_state_of_it(
    remote: Box, how: str, left: str
) -> None:
    """The one who merged pushed main alone, and the branch is on the remote as it was, or was deleted there."""
    other = clone(remote, "bob")
    protocol = asks(remote)
    other.runner("sync", rc=0)
    remote.runner("answer", "1", "fine", rc=0)
    remote.runner("run", "1", rc=0)
    end = remote.git("rev-parse", protocol)
    remote.git("merge", "-q", how, protocol)
    if how == "--squash":
        remote.git("commit", "-qm", "squashed")
    remote.git("push", "-q", "origin", "main", *([f":{protocol}"] if left == "deleted" else []))
    other.git("fetch", "-q", "--prune")
    unknown = how == "--squash" and left == "deleted"  # if the branch here has commits that nobody else has
    if not unknown:
        assert "no protocol is open" in other.runner("status", rc=0).err
        assert "completed · merged" in other.runner("list", rc=0).out
        assert "completed · merged" in other.runner("show", "1", rc=0).out
    for words in (("answer", "1", "mine"), ("run", "1")):
        if how == "--squash":  # its end is in no commit that was pushed
            said = other.runner(*words, rc=4).err
            assert f"{protocol} ended and was merged into main; its last commits are not on origin" in said
        else:
            said = other.runner(*words).err
            assert other.git("rev-parse", protocol) == end
        assert "waits" not in said
    if how == "--squash":
        (push,) = re.findall(r"type `git (push .*?)`", said)
        remote.git(*push.split())
        assert f"{protocol}  merged" in other.runner("sync", "1", rc=0).err
        assert other.git("rev-parse", protocol) == end
    other.runner("verify", "1", rc=0)
    other.runner("clean", rc=0)
    assert other.git("branch", "--list", protocol) == ""


@pytest.mark.slow
def test_a_protocol_that_ended_on_main_is_shown_where_a_person_has_work_of_their_own_on_its_branch(remote: Box) -> None:
    other = clone(remote, "bob")
    protocol = asks(remote, {"01-ask": "kind: human\n"})
    other.runner("sync", rc=0)
    other.git("switch", "-q", protocol)
    other.write("mine.txt", "mine\n")
    other.commit("mine")
    other.git("switch", "-q", "main")
    remote.runner("answer", "1", "fine", rc=0)
    remote.runner("run", "1", rc=0)
    remote.runner("merge", "1", rc=0)
    remote.git("push", "-q", "origin", "main")
    other.git("fetch", "-q")
    assert "waits" in other.runner("status", rc=0).out
    other.runner("run", "1", rc=WAITS)
    (other.path.parent / "origin.git").rename(other.path.parent / "away.git")
    other.runner("run", "1", rc=WAITS)  # as while the remote answers


def test_a_protocol_that_is_new_here_is_fetched_and_one_that_is_not_asked_for_yet_is_run_first(remote: Box) -> None:
    protocol = remote.new({"01-ask": "kind: human\n"})
    remote.runner("sync", protocol, rc=0)
    other = clone(remote, "bob")
    told = other.runner("sync", rc=0).err
    assert f"fetched {protocol}, which others pushed: " in told and "fast-forwarded" not in told
    assert "next: `runner run 1` continues until one is asked for" in other.runner("answer", "1", "mine", rc=2).err
    remote.runner("run", "1", rc=WAITS)
    remote.runner("sync", "1", rc=0)
    assert f"fast-forwarded {protocol} to what others pushed: " in other.runner("sync", rc=0).err


def test_a_second_end_of_a_merged_protocol_is_not_merged(remote: Box) -> None:
    other = clone(remote, "bob")
    asks(remote, {"01-ask": "kind: human\n"})
    other.runner("sync", rc=0)
    other.runner("answer", "1", "mine", rc=0)
    other.runner("run", "1", rc=0)
    remote.runner("answer", "1", "fine", rc=0)
    remote.runner("run", "1", rc=0)
    remote.runner("merge", "1", rc=0)
    remote.git("push", "-q", "origin", "main")
    other.git("pull", "-q")
    error = other.runner("merge", "1", rc=4).err
    assert "was already merged into main" in error and "`git log main..0001-" in error and "git merge " not in error


def test_sync_that_pushes_a_history_meets_the_end_in_the_same_call(remote: Box) -> None:
    other = clone(remote, "bob")
    protocol = asks(
        remote, {"01-a": command("echo x | tee x.txt"), "02-ask": "kind: human\n", "03-again": "kind: human\n"}
    )
    other.runner("sync", rc=0)
    kept = f"refs/runner/history/{protocol}"
    remote.runner("answer", "1", "fine", rc=0)
    remote.runner("run", "1", rc=WAITS)
    remote.git("push", "-q", "origin", protocol, f":{kept}")
    remote.runner("answer", "1", "fine", rc=0)
    remote.runner("run", "1", rc=0)
    remote.runner("merge", "1", rc=0)
    remote.git("push", "-q", "origin", "main")
    assert other.git("rev-parse", "--verify", kept)
    assert f"{protocol}  merged" in other.runner("sync", "1", rc=0).err
    assert other.git("rev-parse", protocol) == remote.git("rev-parse", protocol)


@pytest.mark.parametrize("words", mostly_slow(["answer 1 mine", "run 1", "sync 1"], 1))
@pytest.mark.parametrize("here", mostly_slow(["older", "none"], 2))
@pytest.mark.parametrize("how", mostly_slow(["--no-ff", "--squash"], 1))
def test_what_ended_on_main_is_not_done_again_from_the_earlier_state_that_the_remote_has(
    remote: Box, how: str, here: str, words: str
) -> None:
    """The branch that was left behind on the remote is itself ahead of the one here, or there is none here."""
    other = clone(remote, "bob")
    steps = {"01-ask": "kind: human\n", "02-b": command("echo x > x.txt"), "03-again": "kind: human\n"}
    protocol = asks(remote, steps)
    if here == "older":
        other.runner("sync", rc=0)
    remote.runner("answer", "1", "fine", rc=0)
    remote.runner("run", "1", rc=WAITS)
    remote.runner("sync", "1", rc=0)
    behind = remote.git("rev-parse", protocol)
    remote.runner("answer", "1", "fine", rc=0)
    remote.runner("run", "1", rc=0)
    end = remote.git("rev-parse", protocol)
    remote.git("merge", "-q", how, protocol)
    if how == "--squash":
        remote.git("commit", "-qm", "squashed")
    remote.git("push", "-q", "origin", "main")
    said = other.runner(*words.split())
    assert "waits" not in said.out + said.err and "answered\n" not in said.err
    if words != "sync 1" and here == "none":
        assert said.code == 4 and f"{protocol} is merged in " in said.err
        assert other.git("branch", "--list", protocol) == ""
    else:
        assert other.git("rev-parse", protocol) == (end if how == "--no-ff" else behind)
        assert how == "--no-ff" or "its last commits are not on origin" in said.err
        assert words != "sync 1" or f"{protocol}  merged" in said.err
    assert "no protocol is open" in other.runner("status", rc=0).err


def test_what_ended_on_main_as_last_fetched_is_not_done_again_while_the_remote_is_away(remote: Box) -> None:
    other = clone(remote, "bob")
    protocol = asks(remote, {"01-ask": "kind: human\n"})
    other.runner("sync", rc=0)
    remote.runner("answer", "1", "fine", rc=0)
    remote.runner("run", "1", rc=0)
    remote.runner("merge", "1", rc=0)
    remote.git("push", "-q", "origin", "main")
    other.git("fetch", "-q")
    (other.path.parent / "origin.git").rename(other.path.parent / "away.git")
    assert "is completed" in other.runner("answer", "1", "mine", rc=4).err
    assert other.git("rev-parse", protocol) == remote.git("rev-parse", protocol)


def test_a_look_at_the_remote_is_made_where_git_cannot_be_told_where_main_is(remote: Box) -> None:
    """A branch `main/x` that the remote had once leaves no place for `main`."""
    other = clone(remote, "bob")
    protocol = published(remote)
    remote.runner("sync", protocol, rc=0)
    other.git("update-ref", "-d", "refs/remotes/origin/main")
    other.git("update-ref", "refs/remotes/origin/main/x", "HEAD")
    other.runner("sync", "1", rc=0)
    assert other.git("rev-parse", protocol) == remote.git("rev-parse", protocol)


@pytest.mark.parametrize("name", mostly_slow(["1", "0001-newer"], 1))
def test_sync_brings_a_protocol_that_only_the_remote_has_by_its_name(remote: Box, name: str) -> None:
    publish(remote)
    other = clone(remote, "bob")
    protocol = published(remote, "Newer")
    other.runner("sync", name, rc=0)
    assert other.git("rev-parse", protocol).strip() == there(remote, protocol)


def test_a_protocol_that_nobody_has_is_not_looked_for_in_a_circle(remote: Box) -> None:
    publish(remote)
    published(remote)
    told = remote.runner("sync", "9", rc=2).err
    assert "there is no protocol `9`, here or on origin" in told and "sync" not in told.partition("next:")[2]
    assert "`runner list`" in told and "0001" not in told


def test_one_that_does_not_verify_keeps_no_other_from_being_synchronised(remote: Box) -> None:
    publish(remote)
    other = clone(remote, "bob")
    bad, good = published(remote, "Bad"), published(remote, "Good")
    mallory = clone(remote, "mallory")
    mallory.git("checkout", "-q", bad)
    log = mallory.path / f".protocols/{bad}/log.md"
    log.write_text(log.read_text().replace('"title":"Bad', '"title":"Dab'))
    mallory.commit("typo")
    mallory.git("push", "-q", "origin", bad)
    told = other.runner("sync", rc=4).err
    assert f"{good}  new" in told and bad in told.partition("error:")[2]
    assert other.git("rev-parse", good).strip() == there(remote, good)
    assert other.git("rev-parse", "--verify", "-q", bad, check=False) == ""


STEER = [
    ("answer", ("1", "fine by me")),
    ("pause", ("1",)),
    ("cancel", ("1",)),
    ("undo", ("1",)),
    ("edit", ("1", "look")),
    ("resume", ("1",)),
]


@pytest.mark.parametrize(("verb", "rest"), mostly_slow(STEER))
@pytest.mark.parametrize("known", [True, False], ids=["fetched by git", "only on the remote"])
def test_what_a_person_says_picks_up_what_the_remote_has(
    remote: Box, verb: str, rest: tuple[str, ...], known: bool
) -> None:
    publish(remote)
    other = None if known else clone(remote, "bob")
    protocol = published(remote)
    if verb == "resume":
        remote.runner("pause", protocol, rc=0)
    other = other or clone(remote, "bob")
    before = there(remote, protocol)
    other.runner(verb, *rest, env={"EDITOR": "echo more >>"}, rc=0)
    assert there(remote, protocol) == other.git("rev-parse", protocol).strip() != before
    other.runner("verify", protocol, rc=0)


def test_retry_picks_up_what_the_remote_has(remote: Box) -> None:
    publish(remote)
    other = clone(remote, "bob")
    protocol = remote.new({"01-a": command("test -e never")})
    remote.runner("run", protocol, rc=1)
    other.runner("retry", "1", rc=0)
    assert other.state(protocol)["steps"]["a"]["attempt"] == 2


def test_an_answer_is_about_what_the_remote_has_by_now_not_what_was_fetched_before(remote: Box) -> None:
    publish(remote)
    protocol = remote.new({"01-a": command("true"), "02-look": "kind: human\n"})
    other = clone(remote, "bob")
    other.git("branch", "-q", protocol, f"origin/{protocol}")
    remote.runner("run", protocol, rc=WAITS)
    other.runner("answer", protocol, "fine", rc=0)
    assert other.state(protocol)["waiting"] == []


def test_a_step_s_name_is_not_looked_for_on_the_remote(remote: Box) -> None:
    """`runner edit look` in the one open protocol: the word names a step, and no protocol of the remote's."""
    publish(remote)
    protocol = published(remote)
    remote.runner("edit", "look", env={"EDITOR": "echo more >>"}, rc=0)
    assert "more" in remote.git("show", f"{protocol}:.protocols/{protocol}/02-look.md")


def test_dry_run_says_what_would_happen_to_one_that_has_no_branch_here(remote: Box) -> None:
    publish(remote)
    protocol = published(remote)
    other = clone(remote, "bob")
    assert "look" in other.runner("step", protocol, "--dry-run", rc=WAITS).out
    assert other.git("rev-parse", "--verify", "-q", f"refs/heads/{protocol}", check=False) == ""


@pytest.mark.parametrize("verb", mostly_slow(["status", "show", "log", "diff"], 2))
def test_what_only_looks_asks_the_remote_for_a_protocol_that_is_not_known_here(remote: Box, verb: str) -> None:
    publish(remote)
    other = clone(remote, "bob")
    protocol = published(remote, "Newer")
    other.runner(verb, "1", rc=0)
    assert other.git("rev-parse", "--verify", "-q", f"refs/heads/{protocol}", check=False) == ""  # it only looked
    assert "there is no protocol `7`" in other.runner(verb, "7", rc=2).err


@pytest.mark.parametrize("words", [("diff",), ("audit", "-o", "-")])
def test_a_main_that_is_behind_adds_nothing_to_what_a_protocol_changed(remote: Box, words: tuple[str, ...]) -> None:
    bob = clone(remote, "bob")
    remote.write("LATER.md", "of the base\n")
    remote.commit("later")
    remote.git("push", "-q", "origin", "main")
    protocol = remote.new({"01-write": command("echo news > NEWS.md"), "02-read": "kind: human\n"})
    remote.runner("run", protocol, rc=3)
    remote.runner("sync", protocol, rc=0)
    bob.git("fetch", "-q", "origin")
    out = bob.runner(words[0], protocol, *words[1:], rc=0).out
    assert "NEWS.md" in out and "LATER.md" not in out


def test_runner_alone_shows_what_waits_for_the_person_first(remote: Box) -> None:
    publish(remote)
    published(remote, "For anybody")
    remote.new({"01-a": command("true")}, title="Ready")
    other = clone(remote, "bob")
    told = other.runner(rc=0)
    mine, others = told.out.split("for others, or ready to run\n")
    assert mine.startswith("for you\n0001  waits") and "runner answer 1 TEXT" in mine and "0002" not in mine
    assert others.startswith("0002  ready")
    other.runner("sync", rc=0)
    assert "`runner sync` fetches and publishes" in other.runner(rc=0).err
    assert "for you" not in remote.runner("status", rc=0).out


def test_runner_alone_in_an_empty_repository_names_the_first_three_commands(box: Box) -> None:
    told = box.runner(rc=0).err
    assert [line.split()[1] for line in told.splitlines()[1:]] == ["init", "new", "run"]


def test_a_protocol_is_handed_over_by_stopping_and_running_it_elsewhere(remote: Box) -> None:
    publish(remote)
    protocol = remote.new({"01-a": command("echo a > a.txt"), "02-b": command("echo b > b.txt")})
    remote.runner("run", protocol, "--max-steps", "1")
    other = clone(remote, "bob")
    other.runner("run", "1", rc=0)
    assert other.state(protocol)["status"] == "completed"
    assert "runner sync 1" in remote.runner("sync", rc=0).err or remote.state(protocol)["status"] == "completed"
    remote.runner("verify", protocol, rc=0)


def test_a_shell_opens_for_a_protocol_that_only_the_remote_has(remote: Box) -> None:
    publish(remote)
    other = clone(remote, "bob")
    published(remote, "Newer")
    assert other.runner("shell", "1", "--", "cat", "a.txt", rc=0).out == "a\n"


@pytest.mark.parametrize("words", mostly_slow([(("verify", "1"),), (("audit", "1"),), (("clean", "1"),)]))
def test_what_only_the_remote_has_is_found_by_its_number(remote: Box, words: tuple[str, ...]) -> None:
    publish(remote)
    other = clone(remote, "bob")
    protocol = remote.new({"01-a": command("true")})
    told = other.runner(*words, rc=0)
    assert protocol in told.out or "nothing to remove" in told.err


# Each verb in a clone that was made before the protocol was: what is typed, and the exit code. `failed` and `done` name the state
# that the protocol is in; else it waits for a person at `look`.
EVERYWHERE: tuple[tuple[str, tuple[str, ...], int], ...] = (
    ("", ("show", "1"), 0),
    ("", ("approve", "1", "--yes"), 2),  # nothing waits for an approval
    ("", ("check", "1"), 0),
    ("", ("doctor", "1"), 0),
    ("", ("status", "1"), 0),
    ("", ("log", "1"), 0),
    ("", ("list", "--waiting"), 0),
    ("", ("diff", "1"), 0),
    ("", ("verify", "1"), 0),
    ("", ("audit", "1", "-o", "-"), 0),
    ("", ("reject", "1", "--yes"), 2),
    ("", ("revoke", "1", "--yes"), 2),
    ("", ("answer", "1", "fine"), 0),
    ("", ("pause", "1"), 0),
    ("", ("cancel", "1"), 0),
    ("", ("undo", "1"), 0),
    ("", ("edit", "1", "look"), 0),
    ("", ("skip", "1", "end"), 0),
    ("", ("fork", "1"), 0),
    ("", ("discard", "1", "--yes"), 4),  # others have it
    ("", ("run", "1"), WAITS),
    ("", ("step", "1"), WAITS),
    ("", ("sync", "1"), 0),
    ("", ("shell", "1", "--", "true"), 0),
    ("", ("qa", "1", "a"), 0),
    ("", ("plan", "1"), 2),  # there is no model
    ("", ("clean", "1", "--yes"), 0),
    ("failed", ("retry", "1"), 0),
    ("paused", ("resume", "1"), 0),
    ("done", ("merge", "1"), 0),
)
NAMELESS = {"completion", "do", "engines", "fleet", "help", "init", "mcp", "new", "policy", "schema", "watch", "why"}


def test_every_command_that_takes_a_protocol_is_tried_on_one_that_only_the_remote_has() -> None:
    assert {words[0] for _, words, _ in EVERYWHERE} == set(COMMANDS) - NAMELESS


@pytest.mark.parametrize(("state", "words", "code"), mostly_slow(list(EVERYWHERE), 4))
def test_every_verb_works_on_a_protocol_that_only_the_remote_has(
    remote: Box, state: str, words: tuple[str, ...], code: int
) -> None:
    publish(remote)
    other = clone(remote, "bob")
    check = "qa: {checks: [test -s a.txt]}\n"
    last = {"failed": command("false"), "done": command("true")}.get(state, "kind: human\n")
    protocol = remote.new({"01-a": command("echo a > a.txt", check), "02-look": last, "03-end": command("true")})
    remote.runner("run", protocol, rc={"failed": 1, "done": 0}.get(state, WAITS))
    if state == "paused":
        remote.runner("pause", protocol, rc=0)
    if words[0] == "list":
        other.runner("sync", rc=0)
    told = other.runner(*words, env={"EDITOR": "echo more >>"}, rc=code)
    assert "there is no protocol" not in told.err


def test_runner_alone_in_a_repository_that_is_set_up_and_has_a_remote(remote: Box) -> None:
    remote.runner("init", "--yes", "--commit", rc=0)
    remote.git("push", "-q", "origin", "HEAD")
    remote.runner("sync", rc=0)
    told = remote.runner(rc=0).err
    assert "  runner new TITLE " in told and "runner init" not in told
    assert "`runner sync` fetches and publishes" in told
