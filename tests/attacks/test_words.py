"""How a word stands, and what a runner makes of its abuse; what verify makes of each is stored in `tests/histories`."""

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
from runner.protocol import log, machine, plans, state
from runner.protocol.approval_file import seconds
from runner.protocol.events import Entry
from runner.store.trusted import Trusted
from runner.trust import approval, manifest, trusted_config, verify
from runner.trust.view import View
from tests.attacks.make import FOLDER, NOW, PROTOCOL, History, Keys
from tests.attacks.words import bundle

MAIN, BRANCH, FORGED = "refs/heads/main", f"refs/heads/{PROTOCOL}", "refs/heads/forged"


@dataclass(frozen=True, slots=True)
class Held:
    """A bundle, fetched into a repository of its own."""

    git: Git

    def trusted(self) -> Trusted:
        """Return the trusted branch as a remote would have it."""
        commit = self.git.ref(MAIN)
        assert commit is not None
        return Trusted(commit, "main", "origin", "")


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """Keys, each made when it is first asked for."""
    return Keys(tmp_path_factory.mktemp("keys"))


@contextlib.contextmanager
def held(name: str, keys: Keys, folder: Path) -> Iterator[Held]:
    """Make a case's bundle, and fetch it as anybody would."""
    folder.mkdir(exist_ok=True)
    bundle(History(folder / "made", keys), name, folder)
    words = ["git", "clone", "-q", "--mirror", str(folder / f"{name}.bundle"), str(folder / "fetched")]
    subprocess.run(words, check=True, env={**os.environ, "GIT_CONFIG_GLOBAL": os.devnull})
    with Git.open(folder / "fetched") as git:
        yield Held(git)


def standing_of(git: Git, tip: str, trusted: Trusted, waits_as: str) -> str:
    """Return how the words on a wait stand for a runner that sees the branch at `tip`."""
    files = {name: git.blob(f"{tip}:{FOLDER}/{name}") or b"" for name in git.tree(f"{tip}:{FOLDER}") or ()}
    known = log.parse_raw(files["log.md"], "log.md")
    then = state.load(files["state.json"], "state.json")
    plan = plans.parse(
        {name: data for name, data in files.items() if name.endswith(".md") and name != "log.md"}, FOLDER
    )
    if edit := machine.edit_of(then, plan):
        then = machine.apply(then, Entry(then.revision + 1, "", "", edit))
    wait = next((one for one in then.waiting if one.id == waits_as), None)
    if wait is None:
        return "dropped"
    try:
        found = trusted_config.load(git, trusted.commit, "main")
        view = View(git, PROTOCOL, tip, then, plan, found, seconds(NOW), known=known)
        standing = approval.status_of(view, wait)
    except RunnerError:
        return "refused"
    assert standing is not None
    if standing.satisfied:
        return "counts"
    faults = {str(word.rejection) for word in (*view.approvals(), *standing.refused) if word.rejection}
    return "rejected" if standing.rejected else ", ".join(sorted(faults)) or "missing"


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


def test_a_word_of_version_1_does_not_count_once_that_was_given_up(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for issued_after, says in ((False, "counts"), (True, "other")):
        if issued_after:
            monkeypatch.setattr(manifest, "OLD_UNTIL", seconds("2026-11-20T00:00:00Z"))
        with held("a_word_as_it_should_be", keys, tmp_path / says) as one:
            tip = one.git.ref(BRANCH)
            assert tip is not None
            assert standing_of(one.git, tip, one.trusted(), "w5") == says
