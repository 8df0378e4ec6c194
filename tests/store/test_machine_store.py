"""Two clones and a remote, driven at random beside a plain dict of what people wrote: nothing is lost, nothing is done twice."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.conftest import Box, clone, command, make_box
from tests.gate import WHOLE

SLUGS = ("a", "b", "c")
WHO = st.sampled_from(["alice", "bob"])


class TwoClones(RuleBasedStateMachine):
    """`texts`: what each step was ever told to write; `files`: what people committed beside the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="two-clones-"))
        self.texts: dict[str, set[str]] = {slug: {slug} for slug in SLUGS}
        self.files: dict[str, str] = {}
        self.count = 0

    @initialize(always=st.booleans())
    def begin(self, always: bool) -> None:
        self.always = always
        alice = make_box(self.folder / "repo")
        alice.write(".protocols/config.yaml", f"publish: {'always' if always else 'never'}\n")
        alice.commit("config")
        alice.git("clone", "-q", "--bare", alice.path, self.folder / "origin.git", cwd=self.folder)
        alice.git("remote", "add", "origin", self.folder / "origin.git")
        alice.git("fetch", "-q", "origin")
        alice.git("branch", "-q", "-u", "origin/main", "main")
        steps = {f"{number:02d}-{slug}": command(f"echo {slug} >> {slug}.txt") for number, slug in enumerate(SLUGS, 1)}
        self.protocol = alice.new(steps)
        alice.runner("sync", self.protocol, rc=0)
        bob = clone(alice, "bob")
        bob.runner("sync", self.protocol, rc=0)
        bob.git("worktree", "add", "-q", self.folder / "bob-tree", self.protocol)
        self.boxes: dict[str, Box] = {"alice": alice, "bob": bob}

    def teardown(self) -> None:
        with contextlib.suppress(AttributeError):
            self.finish()
        shutil.rmtree(self.folder, ignore_errors=True)

    def tree(self, who: str) -> Path:
        return self.boxes[who].worktree(self.protocol)

    @rule(who=WHO)
    def step(self, who: str) -> None:
        done = self.boxes[who].runner("step", self.protocol)
        assert done.code in (0, 3), done.err

    @rule(who=WHO)
    def sync(self, who: str) -> None:
        done = self.boxes[who].runner("sync", self.protocol)
        assert done.code in (0, 4), done.err  # 4: people's own commits conflict, and both sides are as they were
        if done.code == 4:
            assert "in the same places" in done.err, done.err

    @rule(who=WHO, slug=st.sampled_from(SLUGS), commit=st.booleans())
    def edit(self, who: str, slug: str, commit: bool) -> None:
        tree = self.tree(who)
        found = list((tree / ".protocols" / self.protocol).glob(f"*-{slug}.md"))
        if not found:
            return
        self.count += 1
        text = f"{slug}{self.count}"
        self.texts[slug].add(text)
        body = f"---\ntitle: {slug}\n{command(f'echo {text} >> {slug}.txt')}---\nEdited.\n"
        found[0].write_text(body)
        if commit:
            self.boxes[who].git("commit", "-qam", f"edit {slug}", cwd=tree)

    @rule(who=WHO)
    def code(self, who: str) -> None:
        self.count += 1
        name = f"{who}{self.count}.txt"
        (self.tree(who) / name).write_text(f"{name}\n")
        self.boxes[who].git("add", name, cwd=self.tree(who))
        self.boxes[who].git("commit", "-qm", name, "--", name, cwd=self.tree(who))
        self.files[name] = f"{name}\n"

    @rule(who=WHO, pause=st.booleans())
    def steer(self, who: str, pause: bool) -> None:
        done = self.boxes[who].runner("pause" if pause else "resume", self.protocol)
        assert done.code in (0, 4), done.err

    @precondition(lambda self: hasattr(self, "boxes"))
    @invariant()
    def every_branch_verifies(self) -> None:
        for box in self.boxes.values():
            box.runner("verify", self.protocol, rc=0)

    def finish(self) -> None:
        """Bring both together by hand where people's edits conflict, finish the work, and look at what came of it."""
        alice, bob = self.boxes["alice"], self.boxes["bob"]
        for box, who in ((alice, "alice"), (bob, "bob"), (alice, "alice")):
            tree = self.tree(who)
            box.git("add", "-A", cwd=tree)
            box.git("commit", "-qm", "left over", cwd=tree, check=False)
            done = box.runner("sync", self.protocol)
            if done.code == 4:  # people's own edits of one step: a person decides
                box.git("fetch", "-q", "origin", cwd=tree)
                box.git("merge", "-q", "-X", "ours", f"origin/{self.protocol}", cwd=tree, check=False)
                if box.git("status", "--porcelain", cwd=tree).strip():
                    return  # both sides hold transitions and conflict in the record: it is refused, nothing is lost
                done = box.runner("sync", self.protocol)
                if done.code == 4:
                    return
            assert done.code == 0, done.err
        alice.runner("resume", self.protocol)
        alice.runner("run", self.protocol, rc=0)
        alice.runner("verify", self.protocol, rc=0)
        assert alice.state(self.protocol)["status"] == "completed"
        for slug in SLUGS:
            lines = alice.git("show", f"{self.protocol}:{slug}.txt").splitlines()
            assert len(lines) == 1, f"{slug} was done {len(lines)} times"
            assert lines[0] in self.texts[slug]
        for name, text in self.files.items():
            assert alice.git("show", f"{self.protocol}:{name}") == text, "a person's commit was lost"
        assert alice.git("status", "--porcelain", cwd=self.tree("alice")) == ""
        assert alice.git("fsck", "--no-dangling") == ""


@pytest.mark.timeout(600)
@pytest.mark.slow
@pytest.mark.parametrize("examples", [2, pytest.param(30 if WHOLE else 10, marks=pytest.mark.window(4))])
def test_two_clones_and_a_remote(examples: int) -> None:
    run_state_machine_as_test(
        TwoClones, settings=settings(max_examples=examples, stateful_step_count=10, phases=(Phase.generate,))
    )
