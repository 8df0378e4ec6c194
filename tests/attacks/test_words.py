"""Each abuse of a word, as the git bundle that `words.py` makes of it: the word does not count, and an event that uses it is found."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from runner.errors import InsufficientHistoryError, IntegrityError, RunnerError
from runner.git import Git
from runner.protocol import log, machine, paths, state
from runner.protocol import plan as plan_
from runner.protocol.events import Entry
from runner.protocol.statement import seconds
from runner.store.trusted import Trusted
from runner.trust import approval, authority, checks, verify, waits
from runner.trust.approval import Bench
from tests.attacks.forge import second
from tests.attacks.make import FOLDER, NOW, PROTOCOL, History, Keys
from tests.attacks.words import CASES, bundle

MAIN, BRANCH, FORGED = "refs/heads/main", f"refs/heads/{PROTOCOL}", "refs/heads/forged"

# Words that stand as they do by one check alone.
NEEDED = {
    "_is_placed": ("an_approval_of_a_call_mixed_with_code",),
    "_is_of_this": ("a_word_of_another_repository", "a_word_of_another_life"),
    "_is_timely": ("an_expired_word",),
    "_is_signed": ("an_altered_statement",),
    "_is_in_role": ("a_reject_by_somebody_without_the_role",),
    "_is_fresh": ("edited_and_edited_back",),
    "_is_of_others": ("own_work_by_author",),
}


# What the second verifier does not judge, and says so: rules, limits, isolation, who signed a transition.
NOT_JUDGED = (
    "a_step_done_that_a_rule_asks_about", "a_step_done_that_the_policy_denies", "work_that_the_policy_denies",
    "more_work_than_the_policy_allows_unseen", "a_step_done_where_the_policy_wants_a_sandbox",
    "a_transition_that_a_runner_signed", "a_transition_that_nobody_signed", "a_transition_that_a_person_signed_for_the_runner",
    "a_transition_signed_by_a_key_that_is_not_listed",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Held:
    """A bundle, fetched into a repository of its own. `subject`, `wait`: what the word is said to be on."""

    git: Git
    path: Path
    subject: str
    wait: str

    def trusted(self) -> Trusted:
        """Return the trusted branch as a remote would have it."""
        commit = self.git.ref(MAIN)
        assert commit is not None
        return Trusted(commit, "main", "origin", "")

    def rules(self, ref: str, trusted: Trusted | None) -> list[str]:
        """Return the rules by which verify finds something on a branch."""
        tip = self.git.ref(ref)
        assert tip is not None
        report = verify.verify(self.git, PROTOCOL, tip, trusted)
        assert report.ok == (not report.findings)
        return sorted({finding.rule for finding in report.findings})


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """Keys, each made when it is first asked for."""
    return Keys(tmp_path_factory.mktemp("keys"))


@contextlib.contextmanager
def held(name: str, keys: Keys, folder: Path) -> Iterator[Held]:
    """Make a case's bundle, and fetch it as anybody would."""
    folder.mkdir(exist_ok=True)
    told = bundle(History(folder / "made", keys), name, folder)
    words = ["git", "clone", "-q", "--mirror", str(folder / f"{name}.bundle"), str(folder / "fetched")]
    subprocess.run(words, check=True, env={**os.environ, "GIT_CONFIG_GLOBAL": os.devnull})
    with Git.open(folder / "fetched") as git:
        yield Held(git, folder / "fetched", str(told["subject"]), str(told["wait"]))


def says(case: Held) -> str:
    """Return how the word stands for a runner that sees the branch with the wait still open."""
    git, tip = case.git, case.git.ref(BRANCH)
    assert tip is not None
    files = {name: git.blob(f"{tip}:{FOLDER}/{name}") or b"" for name in git.tree(f"{tip}:{FOLDER}") or ()}
    known = log.parse_raw(files["log.md"], "log.md")
    then = state.load(files["state.json"], "state.json")
    plan = plan_.parse(
        {name: data for name, data in files.items() if name.endswith(".md") and name != "log.md"}, FOLDER
    )
    if edit := machine.edit_of(then, plan):
        then = machine.apply(then, Entry(then.revision + 1, "", "", edit))
    wait = next((one for one in then.waiting if one.id == case.wait), None)
    if wait is None:
        return "dropped"
    try:
        found = authority.load(git, case.trusted().commit, "main")
    except RunnerError:
        return "refused"
    subject = waits.subject_of(wait, then, known)
    asked = waits.demanded(found, subject, wait.text, plan, paths.folder(PROTOCOL))
    assert asked is not None
    bench = Bench(git, PROTOCOL, tip, then, found, seconds(NOW))
    standing = approval.judge(bench, asked, plan, waits.used(subject, known))
    if standing.satisfied:
        return "counts"
    faults = {str(word.fault) for word in (*bench.words(), *standing.refused) if word.fault}
    return "rejected" if standing.rejected else ", ".join(sorted(faults)) or "missing"


@pytest.mark.parametrize("name", CASES)
def test_a_word_that_is_abused(name: str, keys: Keys, tmp_path: Path) -> None:
    """It does not count, or counts as it should; where an event uses it all the same, exactly the rules that are meant find it."""
    expected = CASES[name]
    with held(name, keys, tmp_path) as case:
        assert says(case) == expected.says
        assert case.rules(BRANCH, case.trusted()) == sorted(expected.plain)
        assert case.rules(FORGED, case.trusted()) == sorted(expected.rules)
        # The second verifier knows of the trusted branch what the record names.
        _, said = second(case.path, PROTOCOL, PROTOCOL, branches=(PROTOCOL, "forged"))
        assert [int(line[0]) for line in said.splitlines()] == [
            4 if name not in NOT_JUDGED and case.rules(ref, None) else 0 for ref in (BRANCH, FORGED)
        ], said
        assert ("not judged" in said) == (CASES[name].make.__name__ in NOT_JUDGED)


@pytest.mark.parametrize("check", approval._CHECKS, ids=lambda check: check.__name__)
def test_each_check_of_a_word_is_needed(
    check: object, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it, a word stands otherwise than it should: no other check sees what it sees."""
    monkeypatch.setattr(approval, "_CHECKS", tuple(one for one in approval._CHECKS if one is not check))
    for number, name in enumerate(NEEDED[check.__name__]):  # type: ignore[attr-defined]
        with held(name, keys, tmp_path / str(number)) as case:
            if says(case) != CASES[name].says:
                return
    raise AssertionError("every word stands as it did with it")


@pytest.mark.parametrize("rule", ["counted", "trusted", "needed", "signed"])
def test_each_rule_about_words_is_needed(
    rule: str, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = {
        "counted": "somebody_without_the_role",
        "trusted": "a_role_added_on_the_branch",
        "needed": "a_step_done_and_nobody_asked",
        "signed": "a_transition_that_nobody_signed",
    }[rule]
    monkeypatch.setitem(checks.CHECKS, rule, lambda git, walk, look: iter(()))
    with held(name, keys, tmp_path) as case:
        assert case.rules(FORGED, case.trusted()) == []


def test_a_policy_s_commit_that_is_not_here_is_no_yes(keys: Keys, tmp_path: Path) -> None:
    with held("a_word_as_it_should_be", keys, tmp_path) as case:
        tip = case.git.ref(FORGED)
        assert tip is not None
        gone = Trusted("0" * 39 + "1", "main", "origin", "")
        with pytest.raises(InsufficientHistoryError, match="not in this clone"):
            verify.verify(case.git, PROTOCOL, tip, gone)


def test_a_runner_s_own_walk_refuses_the_forged_event(keys: Keys, tmp_path: Path) -> None:
    with held("somebody_without_the_role", keys, tmp_path) as case:
        old, new = case.git.ref(BRANCH), case.git.ref(FORGED)
        assert old is not None and new is not None
        then = verify.advance(case.git, PROTOCOL, old, None, case.trusted())
        for since in (None, (old, then)):
            with pytest.raises(IntegrityError, match="wrong-role: carol"):
                verify.advance(case.git, PROTOCOL, new, since, case.trusted())
