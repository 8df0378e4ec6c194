"""Histories to be stored that are no abuse of a word and no attack on a chain: good ones, and what lies beside a chain.

`python -m tests.histories` makes them. What the runner does is the runner's own doing, at fixed times and with fixed random
numbers; what it does not do yet, or seldom, is imitated. A new event wants a function here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.cli.console import Console
from runner.protocol import events as ev
from runner.protocol.ids import digest
from runner.protocol.paths import folder as folder_of
from runner.store.environment import Environment
from tests.attacks.conftest import STEPS
from tests.attacks.forge import Change, Forge
from tests.attacks.make import PROTOCOL, History, Keys
from tests.attacks.test_attacks import (
    answers,
    asks,
    asks_before,
    edited,
    finish,
    fork,
    passed,
    paused,
    plan_event,
    question,
    written,
)
from tests.attacks.words import begin
from tests.conftest import Box, command
from tests.people import REPO

DATE = "2026-11-20T06:00:00Z"
NOW = 1_795_000_000  # seconds since 1970, on 2026-11-18
SIGNED = (
    f"repo: {REPO}\nroles: {{maintainer: [alice@example.test]}}\nagents: [runner@example.test]\ntransitions: signed\n"
)


@dataclass(slots=True, kw_only=True)
class Made:
    """A history as it was made: where, its refs (`tip`, `main`, `history`, `origin/ID`) and the rules that are meant to find
    something."""

    path: Path
    protocol: str
    refs: dict[str, str]
    rules: tuple[str, ...] = ()
    whole: bool = False
    seen: str = ""
    wait: str = ""
    says: str = ""
    cannot_tell: bool = False
    job: bool = False


class FixedKeys(Keys):
    """Keys that are the same each time, so that what is signed with them is."""

    def file(self, name: str) -> Path:
        """Return the private half of somebody's key."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

        path = self.folder / f"{name}.key"
        if not path.exists():
            key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"nobody's: {name}".encode()).digest())
            path.touch(mode=0o600)
            path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
            public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
            path.with_name(f"{name}.key.pub").write_text(f"{public} {name}\n")
        return path


@contextlib.contextmanager
def fixed() -> Iterator[None]:
    """Let the command line have a clock and random numbers of its own, which go on from one command to the next."""
    ticks, digits, spans = itertools.count(NOW), itertools.count(1), itertools.count(1)
    real = Console.environment

    def environment(self: Console) -> Environment:
        return real(self)._replace(
            now=lambda: float(next(ticks)),
            monotonic=lambda: next(spans) / 10_000,
            random_hex=lambda count: f"{next(digits):0{count}x}"[-count:],
            host="host",
            pid=1,
        )

    Console.environment = environment  # type: ignore[method-assign]
    try:
        yield
    finally:
        Console.environment = real  # type: ignore[method-assign]


@dataclass(slots=True)
class Desk:
    """Where histories are made: repositories that differ in nothing from one time to the next."""

    folder: Path
    keys: FixedKeys = field(init=False)
    _base: tuple[Box, str] | None = None
    _count: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        (self.folder / "keys").mkdir(parents=True, exist_ok=True)
        self.keys = FixedKeys(self.folder / "keys")

    def place(self) -> Path:
        """Return a folder that is not there yet."""
        return self.folder / f"made-{next(self._count)}"

    def box(self, kind: str = "sha1") -> Box:
        """Return a repository with one commit on main."""
        at = self.place()
        (at / "home").mkdir(parents=True)
        (at / "home/.gitconfig").write_text("[user]\n name = Alice\n email = alice@example.test\n")
        box = Box(
            at / "repo",
            at / "home",
            {"RUNNER_EXECUTOR": "host", "GIT_AUTHOR_DATE": DATE, "GIT_COMMITTER_DATE": DATE},
        )
        box.git("init", "-q", "-b", "main", f"--object-format={kind}", box.path, cwd=at)
        box.write("README.md", "# a project\n")
        box.write("src/app.py", "print('hello')\n")
        box.commit("start")
        return box

    def base(self) -> tuple[Box, str]:
        """Return a repository with a protocol whose first step is done, as the attacks begin with."""
        if self._base is None:
            with fixed():
                box = self.box()
                protocol = box.new(STEPS)
                for _ in range(2):
                    box.runner("step", protocol, rc=0)
            self._base = box, protocol
        return self._base

    def forge(self) -> Forge:
        """Return a copy of it to write in by hand."""
        return Forge.copy(*self.base(), self.place())

    def signed_box(self, alice: str) -> tuple[Box, Mapping[str, str]]:
        """Return a repository whose policy wants transitions signed, and the environment of the runner that signs them."""
        box = self.box()
        box.write(".protocols/policy.yaml", SIGNED)
        lines = self.keys.line("alice", alice) + self.keys.line("runner", "git,runner-sync,runner-seal")
        box.write(".protocols/allowed_signers", lines)
        box.commit("policy")
        return box, {"RUNNER_SIGNING_KEY": str(self.keys.file("runner"))}


Make = Callable[[Desk], Made]
HISTORIES: dict[str, Make] = {}


def good(function: Make) -> Make:
    """List a function as one that makes a chain which holds."""
    HISTORIES[f"good/{function.__name__}"] = function
    return function


def beside(function: Make) -> Make:
    """List a function as one that makes a repository, of whose chain something stands elsewhere."""
    HISTORIES[f"beside/{function.__name__}"] = function
    return function


def taken(box: Box, protocol: str, *, branch: bool = True, origin: str = "", **how: Any) -> Made:
    """Return a protocol of a repository as it stands; `branch`: whether its branch is still there; `origin`: what it forks."""
    refs = {"tip": f"refs/heads/{protocol}"} if branch else {}
    if how.get("whole"):
        refs |= {"main": "refs/heads/main", "history": f"refs/runner/history/{protocol}"}
    if origin:
        refs[f"origin/{origin}"] = f"refs/runner/history/{origin}"
    found = {name: box.git("rev-parse", "-q", "--verify", ref, check=False).strip() for name, ref in refs.items()}
    return Made(path=box.path, protocol=protocol, refs={name: oid for name, oid in found.items() if oid}, **how)


def of(forge: Forge) -> Made:
    """Return what stands on a forged branch."""
    return taken(forge.box, forge.protocol)


# --- what the runner does ----------------------------------------------------------------------------------------------


@good
def a_protocol_from_its_first_to_its_last_step(desk: Desk) -> Made:
    box = desk.box()
    with fixed():
        protocol = box.new(STEPS)
        box.runner("run", protocol, rc=0)
    return taken(box, protocol)


@good
def with_object_ids_of_sha256(desk: Desk) -> Made:
    box = desk.box("sha256")
    with fixed():
        protocol = box.new({"01-a": STEPS["01-a"]})
        box.runner("run", protocol, rc=0)
    return taken(box, protocol)


@good
def failed_and_tried_again_paused_resumed_and_cancelled(desk: Desk) -> Made:
    box = desk.box()
    with fixed():
        protocol = box.new(
            {
                "01-a": command("test -e ok && echo a > a.txt", "on_failure: {retry: 1, then: fail}\n"),
                "02-b": command("true"),
            }
        )
        box.runner("run", protocol, rc=1)
        tree = box.worktree(protocol)
        (tree / "ok").write_text("ok\n")
        box.commit("mine", cwd=tree)
        box.runner("retry", protocol, rc=0)
        box.runner("step", protocol, rc=0)
        box.runner("pause", protocol, rc=0)
        box.runner("resume", protocol, rc=0)
        box.runner("cancel", protocol, rc=0)
    return taken(box, protocol)


@good
def checks_that_failed_and_a_step_that_was_blocked(desk: Desk) -> Made:
    box = desk.box()
    checked = 'qa: {policy: light, checks: ["test -e ok"]}\non_failure: {retry: 0, then: block}\n'
    with fixed():
        protocol = box.new({"01-a": command("echo a > a.txt", checked)})
        box.runner("run", protocol)
        tree = box.worktree(protocol)
        (tree / "ok").write_text("ok\n")
        box.commit("mine", cwd=tree)
        box.runner("retry", protocol, rc=0)
        box.runner("run", protocol, rc=0)
    return taken(box, protocol)


@good
def checked_by_the_default_of_the_trusted_branch(desk: Desk) -> Made:
    """The default is another one when the second step is checked, and an agent's step that was planned before has it too."""
    box = desk.box()
    with fixed():
        box.write(".protocols/config.yaml", "checks: ['true']\n")  # without a default there would be no plan
        box.commit("checks")
        protocol = box.new(
            {
                "01-a": command("echo a > a.txt", "qa: light\n"),
                "02-b": command("true", "qa: light\n"),
                "03-c": "kind: agent\n",
            }
        )
        for check in ("test -s a.txt", "test -e a.txt"):
            box.write(".protocols/config.yaml", f"checks: [{check}]\n")
            box.commit("checks")
            box.runner("step", protocol, rc=0)
            box.runner("step", protocol, rc=0)
    return taken(box, protocol, whole=True)


@good
def edited_by_people_and_undone(desk: Desk) -> Made:
    box = desk.box()
    with fixed():
        protocol = box.new(STEPS)
        box.runner("step", protocol, rc=0)
        tree = box.worktree(protocol)
        own = tree / folder_of(protocol)
        (own / "03-c.md").unlink()
        (own / "context.md").write_text("Be kind.\n")
        (own / "02-b.md").write_text((own / "02-b.md").read_text() + "More.\n")
        (own / "04-d.md").write_text("---\ntitle: d\nkind: command\nrun: 'true'\n---\n")
        box.commit("mine", cwd=tree)
        box.runner("run", protocol, rc=0)
        box.runner("undo", protocol, rc=0)
        box.runner("run", protocol, rc=0)
    return taken(box, protocol)


@good
def undone_with_what_people_committed_before_it_kept(desk: Desk) -> Made:
    box = desk.box()
    with fixed():
        protocol = box.new({"01-a": command("echo a > a.txt"), "02-b": command("echo b > b.txt")})
        box.runner("step", protocol, rc=0)
        tree = box.worktree(protocol)
        (tree / "mine.txt").write_text("mine\n")
        box.commit("mine", cwd=tree)
        box.runner("step", protocol, rc=0)
        box.runner("undo", protocol, rc=0)
        box.runner("run", protocol, rc=0)
    return taken(box, protocol)


@good
def a_step_of_a_person_s(desk: Desk) -> Made:
    box = desk.box()
    with fixed():
        protocol = box.new({"01-look": "kind: human\n"})
        box.runner("step", protocol, rc=3)
        tree = box.worktree(protocol)
        (tree / "logo.svg").write_text("<svg/>\n")
        box.commit("the logo", cwd=tree)
        box.runner("answer", protocol, "done", rc=0)
        box.runner("run", protocol, rc=0)
    return taken(box, protocol)


@good
def a_person_asked_again_as_what_they_look_at_is_made_again(desk: Desk) -> Made:
    """By a retry while the question waits, and after its answer; and by a step that is put in between."""
    box = desk.box()
    with fixed():
        protocol = box.new({"01-make": command("echo a >> a.txt"), "02-look": "kind: human\n"})
        box.runner("run", protocol, rc=3)
        box.runner("retry", protocol, "--step", "make", rc=0)
        box.runner("run", protocol, rc=3)
        box.runner("answer", protocol, "good", rc=0)
        box.runner("retry", protocol, "--step", "make", rc=0)
        box.runner("run", protocol, rc=3)
        box.runner("edit", protocol, "--add", "more", "--kind", "command", *["--run", "true", "--after", "make"], rc=0)
        box.runner("run", protocol, rc=3)
        box.runner("answer", protocol, "better", rc=0)
        box.runner("run", protocol, rc=0)
    return taken(box, protocol)


@good
def a_record_that_was_damaged_and_repaired(desk: Desk) -> Made:
    box = desk.box()
    with fixed():
        protocol = box.new(STEPS)
        tree = box.worktree(protocol)
        (tree / folder_of(protocol) / "state.json").write_text("{}\n")
        box.commit("oops", cwd=tree)
        box.runner("doctor", "--fix", protocol)
        box.runner("run", protocol, rc=0)
    return taken(box, protocol)


# --- what is imitated -------------------------------------------------------------------------------------------------------


@good
def a_call_that_waited_and_one_that_nobody_knows_of(desk: Desk) -> Made:
    forge = desk.forge()
    said = b'{"arguments": {"to": "ops@example.test"}, "tool": "send_report"}\n'
    held = ev.CallHeld(
        subject="b", call="b.1.1", digest=digest(said), text="send_report", by="anyone", transcript=digest(b"so far")
    )
    forge.imitate(held, code={"b.txt": "half\n"}, record={"calls/b.1.1.json": said})
    forge.imitate(
        ev.ApprovalRefused(subject="b", reason="it ended", wait=f"w{forge.now.revision}"),
        held.model_copy(update={"call": "b.1.2", "transcript": None}),
        record={"calls/b.1.2.json": said},
    )
    forge.imitate(
        ev.CallDecided(subject="b", wait=f"w{forge.now.revision}", decision="approved", by="keyboard", approvals=[]),
        ev.EffectUnknown(
            subject="b",
            call="b.1.2",
            tool="send_report",
            digest=digest(b"{}"),
            text="send_report",
            transcript=digest(b"more"),
        ),
    )
    forge.imitate(ev.EffectDecided(subject="b", wait=f"w{forge.now.revision}", happened=True, by="alice"))
    forge.imitate(finish(forge), code={"b.txt": "b\n"})
    return of(forge)


@good
def failed_and_resumed_without_the_step_that_failed(desk: Desk) -> Made:
    box = desk.box()
    with fixed():
        protocol = box.new({"01-a": command("true"), "02-b": command("false"), "03-c": command("true")})
        box.runner("run", protocol, rc=1)
        tree = box.worktree(protocol)
        (tree / f".protocols/{protocol}/02-b.md").unlink()
        box.commit("not needed", cwd=tree)
        box.runner("run", protocol, rc=1)
        box.runner("resume", protocol, rc=0)
        box.runner("run", protocol, rc=0)
    return taken(box, protocol)


@good
def cancelled_while_a_step_was_at_work_and_what_it_had_paid(desk: Desk) -> Made:
    forge = desk.forge()
    forge.imitate(ev.Cancelled(subject=forge.protocol, reason="not needed"))
    forge.imitate(ev.Cancelled(subject=forge.protocol, spent={"input_tokens": 900, "output_tokens": 80, "usd": "0.02"}))
    return of(forge)


@good
def a_word_at_a_keyboard_where_there_is_no_policy(desk: Desk) -> Made:
    forge = desk.forge()
    path = f"{forge.folder}/03-c.md"
    text = forge.box.git("show", f"{forge.tip}:{path}").replace(
        "title: 03-c\n", "title: 03-c\nneeds: []\napproval: before\n"
    )
    forge.commit({path: text})
    step = forge.now.steps["c"]
    told: ev.PlannedStep = {
        "place": 3,
        "title": step.title,
        "kind": step.kind,
        "needs": [],
        "qa": step.qa,
        "digest": digest(text.encode()),
    }
    plan = forge.now.plan
    assert plan is not None
    asked = ev.ApprovalAsked(
        subject="c", kind="step", digest=digest(b""), text="approval before it starts", by="you, at a terminal"
    )
    forge.imitate(ev.PlanEdited(subject="plan", plan=plan, steps={"c": told}, removed=[], dropped=[]), asked)
    forge.imitate(
        ev.ApprovalCounted(subject="c", wait=f"w{forge.now.revision}", approvals=[], by=["keyboard"]),
        finish(forge, "c"),
        ev.StepCompleted(subject="c", attempt=1),
    )
    return of(forge)


@good
def an_approval_that_was_refused(desk: Desk) -> Made:
    forge = desk.forge()
    forge.commit({f"{forge.folder}/approvals/00.approval": "yes"})
    forge.imitate(
        ev.ApprovalRefused(subject="b", reason="malformed", approval="00"), finish(forge), code={"b.txt": "b\n"}
    )
    return of(forge)


@good
def a_plan_after_questions(desk: Desk) -> Made:
    forge = desk.forge()
    asks(forge)
    answers(forge)
    forge.imitate(question(digest(b"more said")))
    forge.imitate(ev.Answered(subject="plan", wait=f"w{forge.now.revision}", text="yes", by="alice"))
    forge.imitate(plan_event(forge), code=written(forge))
    forge.imitate(finish(forge, "look"), ev.StepCompleted(subject="look", attempt=1), code={"code.py": "1\n"})
    return of(forge)


@good
def a_budget_that_was_reached_and_a_question(desk: Desk) -> Made:
    forge = desk.forge()
    spent: ev.Spent = {"usd": "0.08", "input_tokens": 11802, "output_tokens": 640, "seconds": 3}
    forge.imitate(
        ev.Asked(subject="b", kind="question", text="Which?", by="anyone", transcript=digest(b"x"), spent=spent),
        code={"b.txt": "half\n"},
    )
    forge.imitate(ev.Answered(subject="b", wait=f"w{forge.now.revision}", text="blue", by="alice"))
    forge.imitate(ev.BudgetReached(subject="b", text="1 of 1 turns", by="whoever plans", spent=spent))
    forge.imitate(
        ev.StepCancelled(subject="b", reason="too dear"),
        ev.StepCancelled(subject="c", reason="too dear"),
        ev.Cancelled(subject=forge.protocol),
    )
    return of(forge)


@good
def what_ci_and_the_forge_said(desk: Desk) -> Made:
    forge = desk.forge()
    forge.imitate(ev.RequestChanged(subject=forge.protocol, url="https://forge.test/1", change="opened"))
    forge.imitate(finish(forge), code={"b.txt": "b\n"})
    reported = ev.CiReported(subject=forge.protocol, commit=forge.tip, outcome="failure", context="ci/build")
    forge.imitate(reported, ev.StepFailed(subject="b", attempt=1, reason="ci/build failed"))
    forge.imitate(ev.StepRetried(subject="b", attempt=2))
    forge.imitate(reported.model_copy(update={"outcome": "success"}))
    forge.imitate(ev.StepBlocked(subject="b", attempt=2, reason="x"), ev.Blocked(subject=forge.protocol, reason="x"))
    forge.imitate(ev.StepRetried(subject="b", attempt=3))
    forge.imitate(ev.StepFailed(subject="b", attempt=3, reason="x"), ev.Failed(subject=forge.protocol, reason="x"))
    return of(forge)


def _anew(desk: Desk, kind: Callable[..., ev.Event], **more: Any) -> Made:
    """Begin a protocol whose plan comes from elsewhere."""
    forge = desk.forge()
    state, names = forge.now, ("plan.md", "01-a.md", "02-b.md", "03-c.md")
    words: dict[str, Change] = {
        f"{forge.folder}/{name}": forge.box.git("show", f"{forge.tip}:{forge.folder}/{name}") for name in names
    }
    steps = {
        slug: {key: getattr(one, key) for key in ev.PlannedStep.__annotations__} for slug, one in state.steps.items()
    }
    created = ev.Created(subject=forge.protocol, title=state.title, base="main", start=forge.trusted, nonce="2" * 32)
    told = kind(subject="plan", plan=state.plan, steps=steps, **more)
    forge.imitate(created, told, code=words, parents=[forge.trusted], fresh=True)
    forge.imitate(paused(forge))
    return of(forge)


@good
def a_plan_that_was_imported(desk: Desk) -> Made:
    return _anew(desk, ev.Imported, source="elsewhere")


@good
def steps_taken_over_from_another_protocol(desk: Desk) -> Made:
    """It held until a fork had to prove what it takes over; what is stored has no genesis, and cannot be read any more."""
    made = _anew(desk, ev.Forked, source="0009-other@7", genesis=digest(b""), done={"a": None})
    return dataclasses.replace(made, rules=("forked",))


@good
def a_fork(desk: Desk) -> Made:
    forge = desk.forge()
    fork(forge)
    with fixed():
        forge.box.runner("run", forge.protocol, rc=0)
    return of(forge)


@good
def a_fork_of_a_fork_after_an_undo(desk: Desk) -> Made:
    forge = desk.forge()
    fork(forge)
    with fixed():
        for _ in range(2):  # the work of b, and its check
            forge.box.runner("step", forge.protocol, rc=0)
        forge.box.runner("undo", f"{forge.protocol}@2", rc=0)
        forge.see()
        fork(forge, to="0003-third")
        forge.box.runner("run", forge.protocol, rc=0)
    return of(forge)


@good
def a_log_of_several_files(desk: Desk) -> Made:
    forge = desk.forge()
    for attempt in (1, 2):
        forge.imitate(ev.StepFailed(subject="b", attempt=attempt, reason="x" * 70_000))
        forge.imitate(ev.StepRetried(subject="b", attempt=attempt + 1))
    return of(forge)


@good
def people_s_commits_and_the_base_between(desk: Desk) -> Made:
    forge = desk.forge()
    side = forge.commit({"side.txt": "x"}, parents=[forge.trusted], move=False)
    forge.commit(tree=forge.tree(forge.tip, {"side.txt": "x"}), parents=[forge.tip, side], text="Merge main\n")
    forge.commit(
        {"code.py": "1\n", f"{forge.folder}/notes.txt": "mine\n", f"{forge.folder}/run.sh": ("100755", "true\n")}
    )
    forge.commit({f"{forge.folder}/link": ("120000", "plan.md")})
    forge.commit({f"{forge.folder}/link": None})
    before = forge.box.git("show", f"{forge.tip}:{forge.folder}/state.json")
    forge.commit({f"{forge.folder}/state.json": None})
    forge.commit({f"{forge.folder}/state.json": before})
    forge.imitate(paused(forge))
    forge.commit({"code.py": None})
    return of(forge)


@good
def the_folder_deleted_and_repaired(desk: Desk) -> Made:
    forge = desk.forge()
    before = forge.tip
    gone = forge.commit({forge.folder: None})
    names = [f"{forge.folder}/{name}" for name in ("plan.md", "01-a.md", "02-b.md", "03-c.md")]
    back = forge.commit({name: forge.box.git("show", f"{before}:{name}") for name in names})
    forge.imitate(ev.RecordRepaired(subject=forge.protocol, commits=[gone, back], reason="it was deleted"))
    return of(forge)


@good
def odd_dates(desk: Desk) -> Made:
    forge = desk.forge()
    for date in ("1970-01-02T00:00:00Z", "2099-01-01T00:00:00Z"):
        forge.box.env.update(GIT_AUTHOR_DATE=date, GIT_COMMITTER_DATE=date)
        forge.imitate(paused(forge))
        forge.imitate(ev.Resumed(subject=forge.protocol))
    return of(forge)


@good
def work_that_was_merged_onto_an_edit(desk: Desk) -> Made:
    """The step's file was edited while it was at work; what was carried out is that of the commit where it began."""
    forge = desk.forge()
    start, event = (
        forge.tip,
        finish(forge, artifacts=[{"name": "b.txt", "kind": "file", "path": "b.txt", "digest": digest(b"b\n")}]),
    )
    path = f"{forge.folder}/02-b.md"
    forge.commit({path: forge.box.git("show", f"{forge.tip}:{path}") + "Otherwise.\n"})
    assert event.start == start
    forge.imitate(event, code={"b.txt": "b\n"})
    forge.imitate(passed(forge), ev.StepCompleted(subject="b", attempt=1))
    return of(forge)


@good
def work_that_ended_after_what_it_needs_was_opened_again(desk: Desk) -> Made:
    """A person wanted the step before it done again while it was at work."""
    forge = desk.forge()
    event = finish(forge)
    forge.imitate(ev.StepRetried(subject="a", attempt=2))
    forge.commit({"notes.txt": "why\n"})
    forge.imitate(event, code={"b.txt": "b\n"})
    return of(forge)


@good
def work_that_ended_after_an_edit_of_what_it_needs(desk: Desk) -> Made:
    """It began with one edit, which is told with it, and with a second one: by that it comes after a step that is not done."""
    forge = desk.forge()
    forge.commit({f"{forge.folder}/context.md": "Be kind.\n"})
    event = finish(forge)
    text = forge.box.git("show", f"{forge.tip}:{forge.folder}/02-b.md")
    forge.commit({f"{forge.folder}/plan.md": "unreadable\n"})
    forge.commit({f"{forge.folder}/plan.md": forge.box.git("show", f"{event.start}:{forge.folder}/plan.md")})
    forge.commit({f"{forge.folder}/02-b.md": None, f"{forge.folder}/04-b.md": text})
    forge.imitate(edited(forge), event, code={"b.txt": "b\n"})
    return of(forge)


@good
def an_artifact_that_a_person_s_change_was_merged_into(desk: Desk) -> Made:
    forge = desk.forge()
    made = [{"name": "a.txt", "kind": "file", "path": "a.txt", "digest": digest(b"a\n\nb\n")}]
    event = finish(forge, artifacts=made)
    forge.commit({"a.txt": "mine\na\n"})
    forge.imitate(event, code={"a.txt": "mine\na\n\nb\n", "b.txt": "b\n"})
    return of(forge)


@good
def outputs_that_are_deleted_and_that_were_there_before(desk: Desk) -> Made:
    box = desk.box()
    with fixed():
        protocol = box.new({"01-a": command("rm README.md", "outputs: [README.md]\n")})
        box.runner("run", protocol, rc=0)
    return taken(box, protocol)


@good
def begun_on_a_base_that_holds_another_protocol(desk: Desk) -> Made:
    """Below its genesis there are transitions, of the other."""
    box, _ = _ended(desk)
    box.git("merge", "-q", "--ff-only", "0001-a-plan")
    with fixed():
        protocol = box.new({"01-a": command("true")}, title="Another")
        box.runner("run", protocol, rc=0)
    return taken(box, protocol)


@good
def work_on_a_word_at_the_keyboard(desk: Desk) -> Made:
    forge = desk.forge()
    asks_before(forge)
    forge.commit({f"{forge.folder}/approvals/00.approval": "no change of what it covers"})
    forge.imitate(finish(forge), code={"b.txt": "b\n"})
    return of(forge)


# --- what lies beside a chain ---------------------------------------------------------------------------------------------


def _ended(desk: Desk) -> tuple[Box, str]:
    """Return a protocol that was done, with its worktree away."""
    box = desk.box()
    with fixed():
        protocol = box.new({"01-a": command("echo a > a.txt"), "02-b": command("echo b > b.txt")})
        box.runner("run", protocol, rc=0)
        box.git("worktree", "remove", "--force", box.worktree(protocol))
    return box, protocol


def _squashed(desk: Desk) -> tuple[Box, str]:
    box, protocol = _ended(desk)
    box.git("merge", "-q", "--squash", protocol)
    box.commit("squashed")
    return box, protocol


def _by_hand(box: Box, path: str, old: str, new: str) -> None:
    file = box.path / path
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    box.commit("a small correction")


def _filed(box: Box, protocol: str, files: Mapping[str, str], tip: str = "", *, after: bool = False) -> None:
    """Put a history of one commit in the place of the protocol's, or `after` it; `files`: name to text."""
    lines, runs = "", ""
    for name, text in files.items():
        oid = box.git("hash-object", "-w", "--stdin", data=text).strip()
        if name.startswith("runs/"):
            runs += f"100644 blob {oid}\t{name.removeprefix('runs/')}\n"
        else:
            lines += f"100644 blob {oid}\t{name}\n"
    if runs:
        lines += f"040000 tree {box.git('mktree', data=runs).strip()}\truns\n"
    tree = box.git("mktree", data=lines).strip()
    before = ("-p", f"refs/runner/history/{protocol}") if after else ()
    made = box.git("commit-tree", tree, *before, "-p", tip or protocol, data=f"{protocol}: history\n").strip()
    box.git("update-ref", f"refs/runner/history/{protocol}", made)


@beside
def squashed_with_the_branch_gone(desk: Desk) -> Made:
    """The history alone has the chain."""
    return taken(*_squashed(desk), branch=False, whole=True)


@beside
def merged_with_branch_and_history_gone(desk: Desk) -> Made:
    """The base's own history has the chain."""
    box, protocol = _ended(desk)
    box.write("other.txt", "x\n")
    box.commit("main goes on")
    box.git("merge", "-q", "--no-ff", "-m", "Merge", protocol)
    box.git("update-ref", "-d", f"refs/runner/history/{protocol}")
    return taken(box, protocol, branch=False, whole=True)


@beside
def merged_the_wrong_way_round(desk: Desk) -> Made:
    """A foxtrot merge; main's first parents are the protocol's."""
    box, protocol = _ended(desk)
    box.write("other.txt", "x\n")
    box.commit("main goes on")
    box.git("checkout", "-q", "--detach", protocol)
    box.git("merge", "-q", "--no-ff", "-m", "Merge main", "main")
    box.git("checkout", "-q", "-B", "main")
    box.git("update-ref", "-d", f"refs/runner/history/{protocol}")
    return taken(box, protocol, branch=False, whole=True)


@beside
def squashed_and_taken_away_again(desk: Desk) -> Made:
    """The folder was reverted on the base."""
    box, protocol = _squashed(desk)
    box.git("revert", "--no-edit", "HEAD")
    return taken(box, protocol, branch=False, whole=True)


@beside
def squashed_with_its_history_gone(desk: Desk) -> Made:
    """Nothing here has the chain."""
    box, protocol = _squashed(desk)
    box.git("update-ref", "-d", f"refs/runner/history/{protocol}")
    return taken(box, protocol, branch=False, whole=True, cannot_tell=True)


@beside
def squashed_as_a_forge_does_with_its_history_gone(desk: Desk) -> Made:
    """The message is that of all its commits, so its last paragraph reads like a transition's trailers."""
    box, protocol = _ended(desk)
    box.git("merge", "-q", "--squash", protocol)
    told = box.git("log", "--reverse", "--format=* %B", f"main..{protocol}")
    box.git("commit", "-q", "-F", "-", data=f"Title\n\n{told}")
    box.git("update-ref", "-d", f"refs/runner/history/{protocol}")
    return taken(box, protocol, branch=False, whole=True, cannot_tell=True)


@beside
def a_base_that_somebody_edited(desk: Desk) -> Made:
    """The base's record is none of the chain's."""
    box, protocol = _squashed(desk)
    _by_hand(box, f"{folder_of(protocol)}/log.md", '"attempt":1', '"attempt":2')
    return taken(box, protocol, branch=False, whole=True, rules=("base",))


@beside
def a_history_that_was_swapped_for_another_good_one(desk: Desk) -> Made:
    """The same protocol, done again otherwise; it holds, and the base has another one."""
    box, protocol = _squashed(desk)
    forge = Forge(box, protocol, trusted=box.git("rev-parse", "main~1").strip())
    genesis = box.git("rev-list", "--first-parent", "--reverse", f"main~1..{protocol}").split()[0]
    box.git("update-ref", f"refs/heads/{protocol}", genesis)
    forge.see()
    forge.imitate(ev.Cancelled(subject=protocol))
    _filed(box, protocol, {"runs/other.1.jsonl": ""})
    return taken(box, protocol, branch=False, whole=True, rules=("base",))


@beside
def a_branch_that_went_back(desk: Desk) -> Made:
    """This machine has seen more of it."""
    box, protocol = _ended(desk)
    seen = box.git("rev-parse", protocol).strip()
    box.git("update-ref", f"refs/heads/{protocol}", f"{protocol}~1")
    box.git("update-ref", "-d", f"refs/runner/history/{protocol}")
    return taken(box, protocol, whole=True, seen=seen, rules=("mark",))


def _behind(desk: Desk) -> tuple[Box, str]:
    """Return a protocol of which the base holds more than the branch that is here, and the history is not."""
    box = desk.box()
    with fixed():
        protocol = box.new({"01-a": command("echo a > a.txt"), "02-b": command("echo b > b.txt")})
        box.runner("step", protocol, rc=0)
        older = box.git("rev-parse", protocol).strip()
        box.runner("step", protocol, rc=0)
        box.git("worktree", "remove", "--force", box.worktree(protocol))
    box.git("merge", "-q", "--squash", protocol)
    box.commit("squashed")
    box.git("update-ref", f"refs/heads/{protocol}", older)
    box.git("update-ref", "-d", f"refs/runner/history/{protocol}")
    return box, protocol


@beside
def a_base_that_goes_on_from_what_is_here(desk: Desk) -> Made:
    """This clone is behind, and no witness against the base."""
    return taken(*_behind(desk), whole=True, cannot_tell=True)


@beside
def a_base_that_has_more_and_does_not_go_on_from_what_is_here(desk: Desk) -> Made:
    """What both have differs."""
    box, protocol = _behind(desk)
    _by_hand(box, f"{folder_of(protocol)}/log.md", '"attempt":1', '"attempt":2')
    return taken(box, protocol, whole=True, rules=("base",))


@beside
def a_base_whose_state_alone_was_edited_before_the_end(desk: Desk) -> Made:
    """Its log is the branch's: it does not go on from it."""
    box = desk.box()
    with fixed():
        protocol = box.new({"01-a": command("echo a > a.txt"), "02-b": command("echo b > b.txt")})
        box.runner("step", protocol, rc=0)
        box.git("worktree", "remove", "--force", box.worktree(protocol))
    box.git("merge", "-q", "--squash", protocol)
    box.commit("squashed")
    _by_hand(box, f"{folder_of(protocol)}/state.json", '"revision": ', '"revision":  ')
    return taken(box, protocol, branch=True, whole=True, rules=("base",))


@beside
def squashed_without_the_word_that_a_merge_needs(desk: Desk) -> Made:
    """The policy of the trusted branch wanted one before the merge."""
    box = desk.box()
    box.write(
        ".protocols/policy.yaml",
        f"repo: {REPO}\nroles: {{maintainer: [alice@example.test]}}\nagents: [runner@example.test]\n"
        "approvals:\n  merge: {roles: [maintainer], required: true}\n",
    )
    box.write(".protocols/allowed_signers", desk.keys.line("alice") + desk.keys.line("runner", "git"))
    box.commit("policy")
    with fixed():
        protocol = box.new({"01-a": command("echo a > a.txt")})
        box.runner("run", protocol, rc=0)
        box.git("worktree", "remove", "--force", box.worktree(protocol))
    box.git("merge", "-q", "--squash", protocol)
    box.commit("squashed")
    return taken(box, protocol, branch=False, whole=True, rules=("merge",))


TALK = json.dumps({"kind": "request", "time": "2026-11-20T06:47:03Z", "number": 1}) + "\n"


def _talked(desk: Desk, **more: Any) -> Forge:
    """Return a protocol whose second step names a transcript."""
    forge = desk.forge()
    forge.imitate(finish(forge, transcript=digest(TALK.encode()), **more), code={"b.txt": "b\n"})
    return forge


@beside
def a_transcript_that_the_log_does_not_name(desk: Desk) -> Made:
    """Its bytes were changed afterwards."""
    forge = _talked(desk)
    _filed(forge.box, forge.protocol, {"runs/b.1.jsonl": TALK.replace("1", "2")})
    return taken(forge.box, forge.protocol, whole=True, rules=("transcript",))


@beside
def a_transcript_that_is_none(desk: Desk) -> Made:
    """The log names what nobody can read."""
    forge = desk.forge()
    forge.imitate(finish(forge, transcript=digest(b"nothing\n")), code={"b.txt": "b\n"})
    _filed(forge.box, forge.protocol, {"runs/b.1.jsonl": "nothing\n"})
    return taken(forge.box, forge.protocol, whole=True, rules=("transcript",))


@beside
def a_transcript_with_a_call_that_its_agent_did_not_make(desk: Desk) -> Made:
    """The digest is that of the log; the agent's own output has another call."""
    said = {"sessionUpdate": "tool_call", "toolCallId": "c1", "kind": "edit", "rawInput": {"path": "b.txt"}}
    call = {"id": "c1", "name": "acp:fake/edit", "arguments": {"path": "a.txt"}, "problem": ""}
    return _by_an_agent(desk, [call], {"method": "session/update", "params": {"update": said}})


@beside
def a_transcript_that_leaves_out_a_call_that_its_agent_made(desk: Desk) -> Made:
    """The agent ended its turn, and its own output has a call that is not recorded."""
    return _by_an_agent(desk, [FINISH], _says("c1", "edit", path="b.txt"), ENDS)


@beside
def a_transcript_with_a_call_of_which_its_agent_says_nothing(desk: Desk) -> Made:
    """The recorded call has an id that the agent's output never names."""
    return _by_an_agent(desk, [_recorded("c2", "edit", path="b.txt")], _says("c1", "edit", path="b.txt"))


@beside
def a_transcript_with_a_call_of_another_kind(desk: Desk) -> Made:
    """The agent read the file; the record says that it edited it."""
    return _by_an_agent(desk, [_recorded("c1", "edit", path="b.txt")], _says("c1", "read", path="b.txt"))


@beside
def a_transcript_with_other_files_than_its_agent_named(desk: Desk) -> Made:
    """A list of files was recorded with another one in it."""
    said = _says("c1", "read", paths=["a.txt", "b.txt"])
    return _by_an_agent(desk, [_recorded("c1", "read", paths=["a.txt", "c.txt"])], said)


@beside
def a_transcript_that_leaves_out_an_edit_beside_another_file_s(desk: Desk) -> Made:
    """An edit of one file is recorded; the agent made two."""
    said = (_says("c1", "edit", path="a.txt"), _says("c2", "edit", path="b.txt"))
    return _by_an_agent(desk, [_recorded("c1", "edit", path="a.txt"), FINISH], *said, ENDS)


@beside
def a_transcript_that_leaves_out_an_edit_beside_one_of_no_file(desk: Desk) -> Made:
    """A recorded edit that names no file stands for no other."""
    said = (_says("c1", "edit"), _says("c2", "edit", path="b.txt"))
    return _by_an_agent(desk, [_recorded("c1", "edit"), FINISH], *said, ENDS)


@beside
def a_transcript_that_leaves_out_a_removal_beside_an_edit_of_the_file(desk: Desk) -> Made:
    """A recorded edit of a file stands for no call of another kind."""
    said = (_says("c1", "edit", path="b.txt"), _says("c2", "delete", path="b.txt"))
    return _by_an_agent(desk, [_recorded("c1", "edit", path="b.txt"), FINISH], *said, ENDS)


@beside
def a_transcript_whose_agent_calls_a_server_s_tool(desk: Desk) -> Made:
    """The call is recorded as the server's tool, by another id: it holds."""
    call = {"id": "m1", "name": "mcp:files/read_text", "arguments": {}, "problem": ""}
    said = {**_says("c1", "other")["params"]["update"], "title": "read_text (files)"}
    said_so = {"method": "session/update", "params": {"update": said}}
    return _by_an_agent(desk, [call, FINISH], said_so, ENDS, rules=())


FINISH = {"id": "finish-1", "name": "finish", "arguments": {"status": "done", "summary": "done"}, "problem": ""}
ENDS = {"id": 4, "result": {"stopReason": "end_turn"}}


def _recorded(name: str, kind: str, **arguments: object) -> dict[str, object]:
    """Return a recorded call of a coding agent."""
    return {"id": name, "name": f"acp:fake/{kind}", "arguments": arguments, "problem": ""}


def _says(name: str, kind: str, **arguments: object) -> dict[str, Any]:
    """Return the message by which a coding agent tells of a call that it made."""
    said = {"sessionUpdate": "tool_call", "toolCallId": name, "kind": kind, "status": "completed"}
    return {"method": "session/update", "params": {"update": {**said, "rawInput": arguments}}}


def _by_an_agent(
    desk: Desk, calls: Sequence[Mapping[str, object]], *messages: object, rules: tuple[str, ...] = ("transcript",)
) -> Made:
    """A coding agent's attempt with its recorded calls, and what it said."""
    line = "".join(json.dumps(one) + "\n" for one in messages)
    record = {
        **{
            "kind": "response",
            "time": "2026-11-20T06:47:03Z",
            "engine": "acp:fake",
            "model": "fake",
            "text": "",
            "thoughts": "",
        },
        **{
            "calls": calls,
            "usage": {"input": 1, "output": 1, "cached": 0, "cache_write": 0},
            "usd": None,
            "finish": "stop",
        },
        **{"provider": "acp", "turn": {}, "raw": {"stdout": line}},
    }
    forge, talk = desk.forge(), json.dumps(record) + "\n"
    forge.imitate(finish(forge, transcript=digest(talk.encode())), code={"b.txt": "b\n"})
    _filed(forge.box, forge.protocol, {"runs/b.1.jsonl": talk})
    return taken(forge.box, forge.protocol, whole=True, rules=rules)


@beside
def a_transcript_that_is_not_here(desk: Desk) -> Made:
    """The history has none."""
    forge = _talked(desk)
    return taken(forge.box, forge.protocol, whole=True, cannot_tell=True)


@beside
def a_plan_s_transcript_that_the_log_does_not_name(desk: Desk) -> Made:
    """The planner said something else."""
    forge = desk.forge()
    asks(forge)
    _filed(forge.box, forge.protocol, {"runs/plan.1.jsonl": "else"})
    return taken(forge.box, forge.protocol, whole=True, rules=("transcript",))


SAYS = json.dumps({"kind": "undecided", "time": "2026-11-20T06:47:03Z", "problems": ["one"]}) + "\n"


def _filed_after(desk: Desk, files: dict[str, str], **how: Any) -> Made:
    """Return a protocol whose transcript is filed, and a history commit after it that has `files`."""
    forge = desk.forge()
    forge.imitate(finish(forge, transcript=digest(SAYS.encode())), code={"b.txt": "b\n"})
    _filed(forge.box, forge.protocol, {"runs/b.1.jsonl": SAYS})
    _filed(forge.box, forge.protocol, files, after=True)
    return taken(forge.box, forge.protocol, whole=True, **how)


@beside
def a_transcript_that_went_on(desk: Desk) -> Made:
    """The attempt did, and what it was when the log named it is its beginning."""
    return _filed_after(desk, {"runs/b.1.jsonl": SAYS + SAYS.replace("one", "two")})


@beside
def a_transcript_that_was_taken_out(desk: Desk) -> Made:
    """The history's newest commit, which everybody reads, lacks what an older one has."""
    return _filed_after(desk, {}, rules=("transcript",))


@beside
def a_transcript_that_was_replaced(desk: Desk) -> Made:
    """The history's newest commit has another one in its place."""
    return _filed_after(desk, {"runs/b.1.jsonl": SAYS.replace("one", "two")}, rules=("transcript",))


# --- a history on the remote that is not the one here -------------------------------------------------------------------------


def _offered(made: Made, tree: str, *parents: str) -> Made:
    """Return a protocol beside whose history git fetched another one: of `tree`, after `parents`."""
    box = Box(made.path, made.path, {"GIT_AUTHOR_DATE": DATE, "GIT_COMMITTER_DATE": DATE})
    words = [word for parent in parents for word in ("-p", parent)]
    oid = box.git("commit-tree", tree, *words, data=f"{made.protocol}: history\n").strip()
    return dataclasses.replace(made, refs={**made.refs, "fetched": oid}, rules=("transcript",))


def _with_history(desk: Desk) -> tuple[Made, Box]:
    forge = desk.forge()
    forge.imitate(finish(forge, transcript=digest(SAYS.encode())), code={"b.txt": "b\n"})
    _filed(forge.box, forge.protocol, {"runs/b.1.jsonl": SAYS})
    return taken(forge.box, forge.protocol, whole=True), forge.box


@beside
def a_history_on_the_remote_that_goes_on_from_ours(desk: Desk) -> Made:
    """As another clone's: it is taken."""
    made, box = _with_history(desk)
    tree = box.git("rev-parse", f"{made.refs['history']}^{{tree}}").strip()
    return dataclasses.replace(_offered(made, tree, made.refs["history"], made.refs["tip"]), rules=())


@beside
def a_history_on_the_remote_that_was_swapped_for_another(desk: Desk) -> Made:
    """The same files, and another beginning."""
    made, box = _with_history(desk)
    tree = box.git("rev-parse", f"{made.refs['history']}^{{tree}}").strip()
    return _offered(made, tree, f"{made.refs['tip']}~1")


@beside
def a_history_on_the_remote_that_lacks_a_transcript(desk: Desk) -> Made:
    """It goes on from ours."""
    made, box = _with_history(desk)
    return _offered(made, box.git("mktree", data="").strip(), made.refs["history"], made.refs["tip"])


@beside
def a_history_on_the_remote_that_names_ours_as_its_second_parent(desk: Desk) -> Made:
    """Ours is among its ancestors, and it does not go on from it."""
    made, box = _with_history(desk)
    tree = box.git("rev-parse", f"{made.refs['history']}^{{tree}}").strip()
    return _offered(made, tree, made.refs["tip"], made.refs["history"])


@beside
def a_history_that_was_swapped_after_a_rebase_that_doctor_adopted(desk: Desk) -> Made:
    """It is filed beside the rebased commits, which gave way; what was adopted is a merge into the old chain."""
    box = desk.box()
    with fixed():
        protocol = box.new(
            {"01-a": command("echo a > a.txt", 'qa: {policy: light, checks: ["true"]}\n'), "02-b": command("true")}
        )
        for _ in range(2):
            box.runner("step", protocol, rc=0)
        box.write("base.txt", "new\n")
        box.commit("main moves")
        tree = box.worktree(protocol)
        box.git("rebase", "-q", "main", cwd=tree)
        rebased = box.git("rev-parse", protocol).strip()
        box.runner("doctor", "--fix", protocol, rc=0)
        box.runner("run", protocol, rc=0)
        box.git("worktree", "remove", "--force", tree)
    assert "take over what the rewritten history changed" in box.git("log", "--merges", "--format=%s", protocol)
    made = taken(box, protocol, whole=True)
    old = box.git("rev-parse", f"{made.refs['history']}^{{tree}}").strip()
    return _offered(made, old, rebased)


# --- what a job of a CI hands over, in which a model works -----------------------------------------------------------------


@beside
def a_job_that_hands_over_a_step_s_work(desk: Desk) -> Made:
    """As it should be."""
    forge = desk.forge()
    there = forge.tip
    forge.imitate(finish(forge), code={"b.txt": "b\n"})
    made = taken(forge.box, forge.protocol, whole=True)
    return dataclasses.replace(made, refs={**made.refs, "there": there}, job=True)


@beside
def a_job_that_hands_over_a_pause_in_a_person_s_name(desk: Desk) -> Made:
    """Nothing in the chain shows who said it."""
    forge = desk.forge()
    there = forge.tip
    forge.imitate(paused(forge))
    made = taken(forge.box, forge.protocol, whole=True)
    return dataclasses.replace(made, refs={**made.refs, "there": there}, job=True, rules=("handed-over",))


@beside
def a_job_that_hands_over_a_protocol_of_its_own(desk: Desk) -> Made:
    """The remote never had the branch."""
    forge = desk.forge()
    forge.imitate(finish(forge), code={"b.txt": "b\n"})
    return dataclasses.replace(taken(forge.box, forge.protocol, whole=True), job=True, rules=("handed-over",))


# --- calls that a transcript tells of -------------------------------------------------------------------------------------


def _called(desk: Desk, more: str = "", *, lines: list[dict[str, Any]] | None = None, coworker: str = "") -> Made:
    """Return a protocol one of whose steps called a tool that reaches outside."""
    forge = _calls(desk, more, lines=lines, coworker=coworker)
    return taken(forge.box, forge.protocol, whole=True)


def _calls(
    desk: Desk,
    more: str = "",
    *done: ev.Event,
    lines: list[dict[str, Any]] | None = None,
    coworker: str = "",
) -> Forge:
    """Let a step call a tool that reaches outside, as its transcript tells; `more`: what the policy says else; `done`: with it."""
    box = desk.box()
    listed = "alice@example.test"
    box.write(
        ".protocols/policy.yaml",
        f"repo: {REPO}\nroles: {{maintainer: [{listed}]}}\nagents: [runner@example.test]\n{more}",
    )
    box.write(".protocols/allowed_signers", desk.keys.line("alice") + desk.keys.line("runner", "git"))
    if coworker:
        box.write(".protocols/agents/analyst.yaml", coworker)
    box.commit("policy")
    with fixed():
        protocol = box.new({"01-send": "kind: agent\n" + ("agent: analyst\n" if coworker else "")})
        box.git("worktree", "remove", "--force", box.worktree(protocol))
    record = {
        "time": "2026-11-20T07:00:00Z",
        "call": "send.1.1",
        "tool": "send_report",
        "digest": digest(b""),
        "decision": None,
    }
    intent = {"kind": "intent", **record, "arguments": {"to": "ops", "subject": "done"}, "text": "send_report"}
    outcome = {"kind": "outcome", **record, "content": "sent", "error": False}
    data = "".join(json.dumps(one) + "\n" for one in (lines or [intent, outcome]))
    forge = Forge(box, protocol, trusted=box.git("rev-parse", "main").strip())
    forge.see()
    forge.imitate(finish(forge, "send", transcript=digest(data.encode()), executor="host"), *done)
    _filed(box, protocol, {"runs/send.1.jsonl": data})
    return forge


@beside
def a_call_that_nobody_was_asked_about(desk: Desk) -> Made:
    """External calls ask by default."""
    return dataclasses.replace(_called(desk), rules=("needed",))


@beside
def a_call_that_the_policy_denies(desk: Desk) -> Made:
    """And it was made."""
    return dataclasses.replace(_called(desk, "rules: [{deny: {tool: send_report}}]\n"), rules=("needed",))


@beside
def a_call_that_the_policy_allows(desk: Desk) -> Made:
    """No word was needed."""
    return _called(desk, "rules: [{allow: {tool: send_report}}]\n")


@beside
def a_call_that_the_coworker_s_own_policies_deny(desk: Desk) -> Made:
    """A coworker's file makes it stricter."""
    text = "name: analyst\nobjective: o\npolicies:\n  rules: [{deny: {tool: send_report}}]\n"
    made = _called(desk, "rules: [{allow: {tool: send_report}}]\n", coworker=text)
    return dataclasses.replace(made, rules=("needed",))


# --- what a fork goes on from: its transcripts lie beside the other's chain ----------------------------------------------------


def _forked(forge: Forge) -> Made:
    """Let another protocol go on from this one as it stands, and return it: both chains hold."""
    origin = forge.protocol
    fork(forge)
    return taken(forge.box, forge.protocol, whole=True, origin=origin, rules=("forked",))


@beside
def a_fork_of_a_call_that_nobody_was_asked_about(desk: Desk) -> Made:
    """The fork's own chain tells of no call."""
    return _forked(_calls(desk, "", ev.StepCompleted(subject="send", attempt=1)))


@beside
def a_fork_of_a_transcript_that_the_log_does_not_name(desk: Desk) -> Made:
    """Its bytes were changed before the fork, or after."""
    forge = _talked(desk)
    forge.imitate(passed(forge), ev.StepCompleted(subject="b", attempt=1))
    _filed(forge.box, forge.protocol, {"runs/b.1.jsonl": TALK.replace("1", "2")})
    return _forked(forge)


# --- seals ----------------------------------------------------------------------------------------------------------------


def _sealed(desk: Desk, alice: str = "git,runner-approval") -> tuple[Box, str, str]:
    """Return a protocol that the runner signed and sealed, and the seal. `alice`: what her key is listed for."""
    box, key = desk.signed_box(alice)
    with fixed():
        protocol = box.runner(
            "new", "X", "--plan", box.plan({"01-a": command("echo a > a.txt")}), env=key, rc=0
        ).out.strip()
        box.runner("run", protocol, env=key, rc=0)
        box.git("worktree", "remove", "--force", box.worktree(protocol))
    return box, protocol, box.git("show", f"refs/runner/history/{protocol}:seal")


@beside
def signed_and_sealed(desk: Desk) -> Made:
    """As it should be."""
    box, protocol, _ = _sealed(desk)
    return taken(box, protocol, whole=True)


def _resealed(name: str, change: Callable[[str], str], *, sign: str = "", alice: str = "git,runner-approval") -> None:
    def make(desk: Desk) -> Made:
        box, protocol, seal = _sealed(desk, alice)
        text = change(seal)
        if sign:
            text = text[: text.index("-----BEGIN")]
            text += desk.keys.sign(sign, text.encode(), "runner-seal").decode()
        _filed(box, protocol, {"seal": text})
        return taken(box, protocol, whole=True, rules=("seal",))

    make.__name__ = name
    beside(make)


def _line(field_: str, value: str) -> Callable[[str], str]:
    return lambda text: "\n".join(
        f"{field_}: {value}" if line.startswith(f"{field_}: ") else line for line in text.split("\n")
    )


_resealed("a_seal_of_a_newer_form", lambda text: text.replace("runner-seal/v1", "runner-seal/v2"), sign="runner")
_resealed("a_seal_that_is_cut_off", lambda text: text[:-40])
_resealed("a_seal_of_another_tip", _line("tip", "0" * 40), sign="runner")
_resealed("a_seal_of_another_revision", _line("revision", "99"), sign="runner")
_resealed("a_seal_of_another_tree", _line("tree", "0" * 40), sign="runner")
_resealed("a_seal_of_another_state", _line("state", digest(b"")), sign="runner")
_resealed("a_seal_of_another_life", _line("genesis", digest(b"")), sign="runner")
_resealed("a_seal_of_another_repository", _line("repo", "a" * 32), sign="runner")
_resealed("a_seal_by_a_person", _line("signer", "alice@example.test"), sign="alice")
_resealed("a_seal_that_another_key_signed", str, sign="alice")
_resealed("a_seal_whose_time_was_changed", _line("time", "2026-11-19T00:00:00Z"))
_resealed(
    "a_seal_by_a_person_whose_key_is_listed_for_seals",
    _line("signer", "alice@example.test"),
    sign="alice",
    alice="git,runner-seal",
)


@beside
def a_seal_of_a_transition_that_was_taken_away(desk: Desk) -> Made:
    """It says what stands in that commit, which is no commit of this chain any more."""
    box, protocol, seal = _sealed(desk)
    old = box.git("rev-parse", protocol).strip()
    box.git("update-ref", f"refs/heads/{protocol}", f"{old}~1")
    _filed(box, protocol, {"seal": seal})
    made = taken(box, protocol, whole=True, rules=("seal",))
    return dataclasses.replace(made, refs={**made.refs, "gone": old})


@beside
def a_policy_s_commit_that_is_not_here(desk: Desk) -> Made:
    """The trusted branch is a local one, and was rewritten; nobody was asked for anything."""
    forge = desk.forge()
    forge.trusted = "1" * 40
    forge.imitate(finish(forge), code={"b.txt": "b\n"})
    return taken(forge.box, forge.protocol, whole=True)


@beside
def work_under_a_policy_s_commit_that_is_not_here(desk: Desk) -> Made:
    """Nobody knows what the trusted branch is."""
    forge = desk.forge()
    forge.trusted = "1" * 40
    forge.imitate(finish(forge), code={"b.txt": "b\n"})
    return dataclasses.replace(of(forge), cannot_tell=True)


@beside
def work_under_a_policy_s_commit_that_the_remote_has(desk: Desk) -> Made:
    """The trusted branch has a policy, and a remote: whose word was needed is not known here."""
    made = History(desk.place(), desk.keys)
    begin(made)
    made.done("mail", {"m.txt": "m\n"}, trusted="1" * 40)
    return Made(path=made.path, protocol=PROTOCOL, refs={"tip": made.tip, "main": made.main}, cannot_tell=True)


# --- schema 2 of the record ------------------------------------------------------------------------------------------------


def what_models_did_and_what_it_cost(desk: Desk) -> Made:
    """Two engines in one transition, a cost of each, a verdict of each kind, and an engine that no trailer can name."""
    forge = desk.forge()
    done = finish(forge).model_copy(update={"engine": "openai:gpt-5", "spent": {"usd": "0.07", "input_tokens": 900}})
    forge.imitate(done, code={"b.txt": "b\n"})
    checked = passed(forge).model_copy(update={"engine": "gemini:g", "spent": {"usd": "0.0125", "output_tokens": 8}})
    failed = vars(checked)
    retry = ev.StepRetried(subject="b", attempt=2)
    reason = "`no` <!-- --> ü"
    broken = ev.StepFailed(subject="b", attempt=1, reason=reason)
    forge.imitate(ev.QaFailed(**failed, reason=reason), broken, retry)
    forge.imitate(finish(forge).model_copy(update={"engine": "two words"}), code={"b.txt": "bb\n"})
    forge.imitate(passed(forge).model_copy(update={"engine": "gemini:g"}), ev.StepCompleted(subject="b", attempt=2))
    return of(forge)


# What is stored under `good/` and `beside/` was made when there was schema 1 alone. These ways to go on are stored in both.
for _made in (
    what_models_did_and_what_it_cost,
    a_protocol_from_its_first_to_its_last_step,
    with_object_ids_of_sha256,
    failed_and_tried_again_paused_resumed_and_cancelled,
    checks_that_failed_and_a_step_that_was_blocked,
    edited_by_people_and_undone,
    a_step_of_a_person_s,
    a_record_that_was_damaged_and_repaired,
    a_call_that_waited_and_one_that_nobody_knows_of,
    a_plan_after_questions,
    a_budget_that_was_reached_and_a_question,
    what_ci_and_the_forge_said,
    a_fork_of_a_fork_after_an_undo,
    a_log_of_several_files,
    signed_and_sealed,
    squashed_with_the_branch_gone,
    a_policy_s_commit_that_is_not_here,
):
    HISTORIES[f"schema-2/{_made.__name__}"] = _made
