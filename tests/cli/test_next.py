"""What a message says to type next works: in every state, after every command, it is neither refused nor the command that said it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Box, Result, command, make_box
from tests.people import env_of, governed, person

State = Callable[[Box], str]  # brings a box there, and returns the protocol
STATES: dict[str, State] = {}
LOOKS = ("show", "status", "log", "list", "verify", "diff", "why", "audit", "doctor")
COMMANDS = (
    ["status"], ["status", "1"], ["show", "1"], ["diff", "1"], ["verify", "1"], ["doctor"], ["doctor", "--fix", "1"], ["run", "1"],
    ["step", "1"], ["approve", "1", "--yes"], ["reject", "1", "--yes"], ["revoke", "1", "--yes"], ["answer", "1", "fine"],
    ["pause", "1"], ["resume", "1"], ["cancel", "1"], ["retry", "1"], ["undo", "1"], ["fork", "1"], ["merge", "1"], ["edit", "1"],
    ["sync"], ["sync", "1"], ["clean", "--yes"], ["show", "1", "--json"],
)  # fmt: skip
# What a person did to its files, which a command that only reads does not judge: `run` refuses that, and leads on by another way.
ONLY_RUN_CAN_TELL = (
    "its_plan_is_broken", "paused_before_its_plan_is_broken", "its_record_is_changed", "its_record_is_changed_and_not_committed",
    "its_last_transition_is_amended",
)  # fmt: skip
FILLED = {"TEXT": "fine", "happened|did-not": "happened"}


def state(make: State) -> State:
    """List a state that all commands are tried in."""
    STATES[make.__name__] = make
    return make


def folder(box: Box, protocol: str) -> Path:
    """The protocol's folder in the person's worktree."""
    return box.worktree(protocol) / f".protocols/{protocol}"


def after(box: Box, verb: str, rc: int, steps: dict[str, str]) -> str:
    """A protocol with these steps, after `runner VERB` on it."""
    protocol = box.new(steps)
    box.runner(verb, protocol, rc=rc)
    return protocol


def without_branch(box: Box, protocol: str) -> str:
    """The protocol, its worktree and branch deleted."""
    box.git("worktree", "remove", "--force", box.worktree(protocol))
    box.git("branch", "-q", "-D", protocol)
    return protocol


@state
def planned(box: Box) -> str:
    return box.new({"01-a": command("true"), "02-b": command("true")})


@state
def begun(box: Box) -> str:
    protocol = planned(box)
    box.runner("step", protocol, rc=0)
    return protocol


@state
def to_be_checked(box: Box) -> str:
    return after(
        box, "step", 0, {"01-a": command("echo a > a.txt", 'qa: {policy: light, checks: ["test -f a.txt"]}\n')}
    )


@state
def its_check_failed(box: Box) -> str:
    return after(box, "run", 1, {"01-a": command("true", 'qa: {policy: light, checks: ["false"]}\n')})


@state
def failed(box: Box) -> str:
    return after(box, "run", 1, {"01-a": command("false"), "02-b": command("true")})


@state
def failed_and_its_file_is_deleted(box: Box) -> str:
    protocol = failed(box)
    (folder(box, protocol) / "01-a.md").unlink()
    return protocol


@state
def failed_and_its_file_is_out_of_the_plan(box: Box) -> str:
    protocol = failed_and_its_file_is_deleted(box)
    box.runner("run", protocol, rc=1)
    return protocol


@state
def blocked(box: Box) -> str:
    return after(box, "run", 3, {"01-a": command("false", "on_failure: {retry: 0, then: block}\n")})


@state
def blocked_and_its_file_is_out_of_the_plan(box: Box) -> str:
    protocol = after(
        box, "run", 3, {"01-a": command("false", "on_failure: {retry: 0, then: block}\n"), "02-b": command("true")}
    )
    (folder(box, protocol) / "01-a.md").unlink()
    box.runner("run", protocol, rc=3)
    return protocol


@state
def paused(box: Box) -> str:
    protocol = planned(box)
    box.runner("pause", protocol, rc=0)
    return protocol


@state
def paused_before_its_plan_is_broken(box: Box) -> str:
    protocol = paused(box)
    (folder(box, protocol) / "01-a.md").write_text("no front matter\n")
    return protocol


@state
def its_plan_is_broken(box: Box) -> str:
    protocol = begun(box)
    (folder(box, protocol) / "02-b.md").write_text("---\ntitle: b\nkind: comand\n---\n")
    return protocol


@state
def a_person_s_step_waits(box: Box) -> str:
    return after(box, "run", 3, {"01-a": "kind: human\n", "02-b": command("true")})


@state
def a_word_at_a_terminal_is_needed(box: Box) -> str:
    return after(box, "run", 3, {"01-a": command("true", "approval: before\n")})


@state
def cancelled(box: Box) -> str:
    protocol = begun(box)
    box.runner("cancel", protocol, rc=0)
    return protocol


@state
def completed(box: Box) -> str:
    protocol = planned(box)
    box.runner("run", protocol, rc=0)
    return protocol


@state
def merged(box: Box) -> str:
    protocol = completed(box)
    box.runner("merge", protocol, rc=0)
    return protocol


@state
def merged_and_its_branch_is_deleted(box: Box) -> str:
    return without_branch(box, merged(box))


@state
def its_branch_is_deleted(box: Box) -> str:
    return without_branch(box, begun(box))


@state
def its_last_transition_is_amended(box: Box) -> str:
    protocol = begun(box)
    box.git("commit", "-q", "--amend", "-m", "mine", cwd=box.worktree(protocol))
    return protocol


@state
def its_record_is_changed(box: Box) -> str:
    protocol = begun(box)
    with (folder(box, protocol) / "log.md").open("a") as log:
        log.write("and this\n")
    box.git("commit", "-qam", "a note", cwd=box.worktree(protocol))
    return protocol


@state
def its_record_is_changed_and_not_committed(box: Box) -> str:
    protocol = begun(box)
    (folder(box, protocol) / "state.json").write_text("{}\n")
    return protocol


# --- with a policy -----------------------------------------------------------------------------------------------------


def signed(box: Box) -> str:
    """A protocol whose first step waits for a maintainer; Dana works here."""
    return after(box, "run", 3, {"01-a": command("true", "approval: before\n"), "02-b": command("true")})


@state
def an_approval_waits(box: Box) -> str:
    return signed(box)


@state
def it_was_approved(box: Box) -> str:
    protocol = signed(box)
    box.runner("approve", protocol, "--yes", rc=0, env=alice_of(box))
    return protocol


@state
def it_was_rejected(box: Box) -> str:
    protocol = signed(box)
    box.runner("reject", protocol, "--yes", rc=0, env=alice_of(box))
    box.runner("run", protocol, rc=3)
    return protocol


@state
def what_was_approved_is_edited(box: Box) -> str:
    protocol = it_was_approved(box)
    path = folder(box, protocol) / "01-a.md"
    path.write_text(path.read_text().replace("true", "true #"))
    box.git("commit", "-qam", "otherwise", cwd=box.worktree(protocol))
    return protocol


def alice_of(box: Box) -> dict[str, str]:
    """What makes a command the maintainer's."""
    return env_of(box.path.parent / "home-of-alice", "alice")


# --- the walk ----------------------------------------------------------------------------------------------------------


def hints(result: Result) -> Iterator[list[str]]:
    """The commands of ours that `next` lines name, ready to be typed."""
    shown = result.out
    if shown.startswith("{"):
        told = result.json()["command"]
        shown = f"next {told}" if told else ""
    for line in f"{shown}\n{result.err}".split("\n"):
        if not re.match(r"\s*next\b", line):
            continue
        told = re.findall(r"`(?:git )?runner ([^`]+)`", line) or re.findall(r"\brunner ([a-z][^,;·(#]*)", line)
        for text in told:
            words = [FILLED.get(word, word) for word in text.split()]
            if not any(re.search(r"\b[A-Z]{3,}\b|…|\$", word) for word in words):
                yield words


def alike(words: list[str]) -> list[str]:
    """The command, however the protocol is named in it."""
    return [re.sub(r"^0*(\d+)(-[a-z0-9-]+)?(?=@|$)", r"\1", word) for word in words]


class Ground:
    """A box that is put back as it was, as often as wanted."""

    def __init__(self, box: Box, aside: Path) -> None:
        self.box, self._there, self._aside = box, box.path.parent, aside / "aside"
        shutil.copytree(self._there, self._aside, symlinks=True)

    def put_back(self) -> None:
        """Put everything back."""
        shutil.rmtree(self._there)
        shutil.copytree(self._aside, self._there, symlinks=True)


IN_MAKE_TEST = ("begun", "cancelled")


def publishing(box: Box) -> None:
    """Give the box a remote to which everything is published as it advances."""
    box.write(".protocols/config.yaml", "publish: always\n")
    box.commit("config")
    bare = box.path.parent / "origin.git"
    box.git("clone", "-q", "--bare", box.path, bare, cwd=box.path.parent)
    box.git("remote", "add", "origin", bare)
    box.git("fetch", "-q", "origin")
    box.git("branch", "-q", "-u", "origin/main", "main")


def marks(name: str, publish: str) -> list[pytest.MarkDecorator]:
    if publish == "never":
        return [] if name in IN_MAKE_TEST else [pytest.mark.slow, pytest.mark.window(4)]
    return [pytest.mark.slow, *([] if name == "completed" else [pytest.mark.window(8)])]


@pytest.mark.timeout(500)
@pytest.mark.parametrize(
    ("name", "publish"),
    [pytest.param(one, publish, marks=marks(one, publish)) for publish in ("never", "always") for one in STATES],
)
def test_what_is_to_be_typed_next_is_not_refused(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, name: str, publish: str
) -> None:
    make = STATES[name]
    with_policy = list(STATES).index(name) >= list(STATES).index("an_approval_waits")
    (tmp_path / "all").mkdir()
    if with_policy:
        alice, bob = person(tmp_path / "all", "alice"), person(tmp_path / "all", "bob")
        box = governed(tmp_path / "all/repo", [alice, bob])
    else:
        box = make_box(tmp_path / "all/repo")
    if publish == "always":
        publishing(box)
    box.env["EDITOR"] = "true"
    make(box)
    ground, wrong = Ground(box, tmp_path_factory.mktemp("aside")), []
    for words in COMMANDS:
        result = box.runner(*words)
        assert result.code != 70, result.err
        for hint in list(hints(result)):
            if result.code and alike(hint) == alike(list(words)):
                wrong.append(f"{name}: `runner {' '.join(words)}` ({result.code}) names itself: {result.err[-200:]}")
                continue
            is_word = hint[0] in ("approve", "reject", "revoke")
            then = box.runner(
                *hint, *(["--yes"] if is_word else []), env=alice_of(box) if is_word and with_policy else {}
            )
            if (
                name in ONLY_RUN_CAN_TELL
                and hint[0] == "run"
                and then.code != 70
                and ["run"] not in [on[:1] for on in hints(then)]
            ):
                then = Result(0, "", "")
            if then.code in (2, 4, 70) and hint[0] not in LOOKS:
                wrong.append(
                    f"{name}: `runner {' '.join(words)}` ({result.code}) > `runner {' '.join(hint)}` ({then.code}): {then.err[-200:]}"
                )
            ground.put_back()
            box.runner(*words)
        ground.put_back()
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", ["planned", "failed", "failed_and_its_file_is_deleted", "completed", "merged"])
def test_list_names_the_command_that_show_names(box: Box, name: str) -> None:
    protocol = STATES[name](box)
    (row,) = box.runner("list", "--json", rc=0).json()["protocols"]
    assert row["command"] == box.runner("show", protocol, "--json", rc=0).json()["command"]
