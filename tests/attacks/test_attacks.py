"""Each attack thought of: a bad history built with plain git, and the rule that finds it. Names say what was tried."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runner.git import Git
from runner.protocol import events as ev
from runner.protocol import log, machine, plans, state
from runner.protocol.events import Entry
from runner.protocol.ids import digest, manifest_digest
from tests.attacks.forge import TIME, Change, Forge

Attack = Callable[[Forge], None]
ATTACKS: dict[str, tuple[Attack, str]] = {}  # name to (what is done, the rule that finds it)


def attack(rule: str) -> Callable[[Attack], Attack]:
    """List a function as an attack that `rule` finds."""

    def add(function: Attack) -> Attack:
        ATTACKS[function.__name__] = (function, rule)
        return function

    return add


def finish(forge: Forge, slug: str = "b", **fields: Any) -> ev.StepFinished:
    """Return the event of work on a step, as it would be right."""
    assert forge.state is not None
    step = forge.state.steps[slug]
    told = {"attempt": step.attempt, "digest": step.digest, "start": forge.tip, "executor": "host", **fields}
    return ev.StepFinished(subject=slug, **told)


def passed(
    forge: Forge, slug: str = "b", code: int = 0, tree: str | None = None, check: str = "outputs: b.txt"
) -> ev.QaPassed:
    """Return the event of a QA of the tip's tree."""
    assert forge.state is not None
    tree = tree or forge.box.git("rev-parse", f"{forge.tip}^{{tree}}").strip()
    found: ev.CheckEvidence = {"check": check, "code": code, "seconds": 0, "output": "", "tail": ""}
    return ev.QaPassed(
        subject=slug, attempt=forge.state.steps[slug].attempt, tree=tree, evidence=[found], executor="host"
    )


def unknown() -> ev.EffectUnknown:
    """Return the event that nobody knows whether a call of the second step happened."""
    return ev.EffectUnknown(subject="b", call="b.1.1", tool="send", digest=digest(b"to"), text="sent?")


def paused(forge: Forge) -> ev.Paused:
    """Return an event that is legal now."""
    return ev.Paused(subject=forge.protocol)


def set_status(status: str) -> Callable[[dict[str, Any]], None]:
    """Return an edit of state.json."""
    return lambda plain: plain.update(status=status)


# --- 1. paths --------------------------------------------------------------------------------------------------------


@attack("paths")
def a_symlink_in_the_folder(forge: Forge) -> None:
    forge.commit({f"{forge.folder}/notes.md": ("120000", "/etc/passwd")})


@attack("paths")
def a_submodule_in_the_folder(forge: Forge) -> None:
    forge.commit({f"{forge.folder}/vendor": ("160000", forge.tip)})


@attack("paths")
def names_that_differ_in_case(forge: Forge) -> None:
    forge.commit({f"{forge.folder}/Plan.md": "other"})


@attack("paths")
def a_folder_that_differs_in_case(forge: Forge) -> None:
    forge.commit({f".protocols/{forge.protocol.upper()}/state.json": "{}"})


@attack("paths")
def a_root_that_differs_in_case(forge: Forge) -> None:
    forge.commit({f".Protocols/{forge.protocol}/state.json": "{}"})


@attack("paths")
def a_name_that_is_not_ascii(forge: Forge) -> None:
    forge.commit({f"{forge.folder}/plän.md": "x"})


@attack("paths")
def a_transition_onto_a_symlink(forge: Forge) -> None:
    forge.commit({f"{forge.folder}/link": ("120000", "/etc/passwd")})
    forge.imitate(paused(forge))


# --- 2. approvals ----------------------------------------------------------------------------------------------------


@attack("approvals")
def an_approval_deleted(forge: Forge) -> None:
    forge.commit({f"{forge.folder}/approvals/00.approval": "yes"})
    forge.commit({f"{forge.folder}/approvals/00.approval": None})


@attack("approvals")
def an_approval_changed(forge: Forge) -> None:
    forge.commit({f"{forge.folder}/approvals/00.approval": "yes"})
    forge.commit({f"{forge.folder}/approvals/00.approval": "yes, really"})


@attack("approvals")
def an_approval_deleted_and_added_again(forge: Forge) -> None:
    forge.commit({f"{forge.folder}/approvals/00.approval": "yes"})
    forge.commit({f"{forge.folder}/approvals/00.approval": None})
    forge.commit({f"{forge.folder}/approvals/00.approval": "yes"})


# --- 3. genesis ------------------------------------------------------------------------------------------------------


def _genesis(forge: Forge, **fields: Any) -> list[ev.Event]:
    assert forge.state is not None and forge.state.plan is not None
    steps: dict[str, ev.PlannedStep] = {
        slug: {"place": step.place, "title": step.title, "kind": step.kind, "needs": step.needs, "qa": step.qa, "digest": step.digest}
        for slug, step in forge.state.steps.items()
    }  # fmt: skip
    told: dict[str, Any] = {"title": forge.state.title, "base": "main", "start": forge.trusted, "nonce": "0" * 32}
    told["schema"] = forge.state.schema
    return [
        ev.Created(**{"subject": forge.protocol, **told, **fields}),
        ev.Planned(subject="plan", plan=forge.state.plan, steps=steps),
    ]


def _words(forge: Forge) -> dict[str, Any]:
    names = [f"{forge.folder}/{name}" for name in ("plan.md", "01-a.md", "02-b.md", "03-c.md")]
    return {name: forge.box.git("show", f"{forge.tip}:{name}") for name in names}


@attack("genesis")
def a_folder_made_by_hand(forge: Forge) -> None:
    words = {
        path: forge.box.git("show", f"{forge.tip}:{path}")
        for path in [f"{forge.folder}/state.json", f"{forge.folder}/log.md"]
    }
    forge.commit({**_words(forge), **words}, parents=[forge.trusted])


@attack("legality")
def resumed_while_the_step_that_failed_is_in_the_plan(forge: Forge) -> None:
    forge.imitate(
        ev.StepFailed(subject="b", attempt=1, reason="exit 1", executor="host"),
        ev.Failed(subject=forge.protocol, reason="b: exit 1"),
    )
    forge.imitate(ev.Resumed(subject=forge.protocol))


@attack("legality")
def cancelled_once_more_with_nothing_paid(forge: Forge) -> None:
    forge.imitate(ev.Cancelled(subject=forge.protocol))
    forge.imitate(ev.Cancelled(subject=forge.protocol, reason="and again"))


@attack("legality")
def a_second_genesis(forge: Forge) -> None:
    forge.imitate(_genesis(forge)[0])


@attack("legality")
def a_genesis_of_another_protocol(forge: Forge) -> None:
    events = _genesis(forge, subject="0009-other")
    forge.imitate(*events, code=_words(forge), parents=[forge.trusted], fresh=True)


@attack("genesis")
def a_genesis_whose_nonce_was_chosen(forge: Forge) -> None:
    forge.imitate(*_genesis(forge, nonce="guess"), code=_words(forge), parents=[forge.trusted], fresh=True)


@attack("genesis")
def a_foxtrot_merge(forge: Forge) -> None:
    forge.commit(tree=forge.tree(forge.tip, {"other.txt": "x"}), parents=[forge.trusted, forge.tip], text="Merge\n")


@attack("genesis")
def an_empty_chain(forge: Forge) -> None:
    forge.box.git("update-ref", f"refs/heads/{forge.protocol}", forge.trusted)


# --- 4. trailers -----------------------------------------------------------------------------------------------------


@attack("trailers")
def a_trailer_in_a_persons_commit(forge: Forge) -> None:
    forge.commit({"x": "x"}, f"work\n\nRunner-Protocol: {forge.protocol}\nRunner-Event: completed {forge.protocol}\n")


@attack("trailers")
def a_trailer_in_capitals(forge: Forge) -> None:
    forge.commit({"x": "x"}, "work\n\nRUNNER-REVISION: 9\n")


@attack("trailers")
def a_trailer_hidden_by_a_line_after_it(forge: Forge) -> None:
    text = forge.box.git("log", "-1", "--format=%B", forge.tip).rstrip("\n")
    forge.commit({"x": "x"}, f"{text}\n---\n")


@attack("trailers")
def trailers_in_a_merge(forge: Forge) -> None:
    side = forge.commit({"side.txt": "x"}, parents=[forge.trusted], move=False)
    tree = forge.tree(forge.tip, {"side.txt": "x"})
    forge.commit(tree=tree, parents=[forge.tip, side], text="Merge\n\nRunner-Actor: runner\n")


# --- 5. record-changed, 13. repair -----------------------------------------------------------------------------------


@attack("record-changed")
def state_json_forged(forge: Forge) -> None:
    plain = json.loads(forge.box.git("show", f"{forge.tip}:{forge.folder}/state.json"))
    plain["status"] = "completed"
    forge.commit({f"{forge.folder}/state.json": json.dumps(plain, indent=2, sort_keys=True) + "\n"})


@attack("record-changed")
def state_json_deleted(forge: Forge) -> None:
    forge.commit({f"{forge.folder}/state.json": None})


@attack("record-changed")
def state_json_with_merge_markers(forge: Forge) -> None:
    forge.commit({f"{forge.folder}/state.json": "<<<<<<< ours\n{}\n=======\n{}\n>>>>>>> theirs\n"})


@attack("record-changed")
def log_md_with_an_entry_by_hand(forge: Forge) -> None:
    forge.commit(
        {f"{forge.folder}/log.md": forge.log + b"## 6 completed x\n- time: 2026-11-20T06:47:03Z\n- actor: runner\n\n"}
    )


@attack("record-changed")
def a_call_planted(forge: Forge) -> None:
    forge.commit({f"{forge.folder}/calls/b.1.1.json": "{}"})


@attack("record-changed")
def a_report_planted(forge: Forge) -> None:
    forge.commit({f"{forge.folder}/reports/b.1.md": "PASS"})


@attack("record-changed")
def a_segment_planted(forge: Forge) -> None:
    forge.commit({f"{forge.folder}/log/0001.md": "## 1\n"})


@attack("record-changed")
def the_folder_deleted(forge: Forge) -> None:
    forge.commit({forge.folder: None})


@attack("record-changed")
def a_textual_merge_of_two_states(forge: Forge) -> None:
    """P11: both sides' lines in one valid JSON that nobody wrote."""
    start = forge.tip
    theirs = forge.imitate(paused(forge), move=False)
    plain = json.loads(forge.box.git("show", f"{start}:{forge.folder}/state.json"))
    plain["revision"] += 1
    merged = json.dumps(plain, indent=2, sort_keys=True) + "\n"
    forge.commit(
        tree=forge.tree(start, {f"{forge.folder}/state.json": merged}), parents=[start, theirs], text="Merge\n"
    )


@attack("log")
def the_folder_deleted_and_made_again(forge: Forge) -> None:
    words = _words(forge)
    forge.commit({forge.folder: None})
    forge.imitate(*_genesis(forge), code=words, fresh=True)


@attack("repair")
def a_transition_that_hides_damage(forge: Forge) -> None:
    good = forge.box.git("show", f"{forge.tip}:{forge.folder}/state.json")
    forge.commit({f"{forge.folder}/state.json": good.replace("running", "failed")})
    forge.imitate(paused(forge))


@attack("repair")
def a_repair_that_names_other_commits(forge: Forge) -> None:
    start = forge.tip
    forge.commit({f"{forge.folder}/state.json": "{}"})
    forge.imitate(ev.RecordRepaired(subject=forge.protocol, commits=[start], reason="x"))


@attack("repair")
def a_repair_of_nothing(forge: Forge) -> None:
    forge.imitate(ev.RecordRepaired(subject=forge.protocol, commits=[forge.trusted], reason="x"))


# --- 6. commit -------------------------------------------------------------------------------------------------------


@attack("commit")
def a_transition_that_is_a_merge(forge: Forge) -> None:
    side = forge.commit({"evil.txt": "x"}, parents=[forge.trusted], move=False)
    forge.imitate(paused(forge), parents=[forge.tip, side])


@attack("commit")
def a_header_that_git_does_not_show(forge: Forge) -> None:
    oid = forge.imitate(paused(forge), move=False)
    raw = forge.box.git("cat-file", "commit", oid)
    odd = forge.object("commit", raw.replace("\n\n", "\nencoding UTF-7\n\n", 1).encode())
    forge.box.git("update-ref", f"refs/heads/{forge.protocol}", odd)


@attack("commit")
def a_second_tree_in_the_header(forge: Forge) -> None:
    """git takes the first tree: that one is verified, and the second is not believed."""
    oid = forge.imitate(paused(forge), move=False)
    evil = forge.tree(forge.tip, {"evil.txt": "x"})
    raw = forge.box.git("cat-file", "commit", oid)
    odd = forge.object("commit", raw.replace("\n\n", f"\ntree {evil}\n\n", 1).encode())
    forge.box.git("update-ref", f"refs/heads/{forge.protocol}", odd)


# --- 7. message ------------------------------------------------------------------------------------------------------


@attack("message")
def a_subject_line_that_says_more(forge: Forge) -> None:
    forge.imitate(paused(forge), edit_text=lambda text: text.replace(": paused", ": approved by everyone", 1))


@attack("message")
def a_body_that_is_not_the_entry(forge: Forge) -> None:
    body = f"\n{forge.protocol} paused\n"
    forge.imitate(paused(forge), edit_text=lambda text: text.replace(body, f"\n{forge.protocol} completed\n", 1))


@attack("message")
def a_trailer_of_another_event(forge: Forge) -> None:
    forge.imitate(
        paused(forge), edit_text=lambda text: text.replace("Runner-Event: paused", "Runner-Event: completed", 1)
    )


@attack("message")
def a_trailer_with_another_revision(forge: Forge) -> None:
    forge.imitate(
        paused(forge),
        edit_text=lambda text: text.replace("Runner-Revision: ", "Runner-Revision: 1", 1),
    )


def _more(trailer: str) -> Callable[[str], str]:
    return lambda text: f"{text}{trailer}\n"


@attack("message")
def a_plan_that_the_trailers_alone_name(forge: Forge) -> None:
    plan = str(forge.now.plan)
    forge.imitate(paused(forge), edit_text=lambda text: text.replace(plan, digest(b"another")))


@attack("message")
def a_policy_that_the_trailers_alone_name(forge: Forge) -> None:
    forge.imitate(paused(forge), edit_text=_more(f"Runner-Policy: {digest(b'nothing is asked')}"))


@attack("message")
def an_engine_that_the_trailers_alone_name(forge: Forge) -> None:
    forge.imitate(finish(forge), code={"b.txt": "b\n"}, edit_text=_more("Runner-Engine: openai:gpt-5"))


@attack("message")
def a_cost_that_the_trailers_alone_name(forge: Forge) -> None:
    event = finish(forge).model_copy(update={"engine": "openai:gpt-5", "spent": {"usd": "12.5"}})
    forge.imitate(event, code={"b.txt": "b\n"}, edit_text=lambda text: text.replace("Cost: $12.5", "Cost: $0.01"))


@attack("message")
def a_verdict_that_the_trailers_alone_give(forge: Forge) -> None:
    forge.imitate(finish(forge), code={"b.txt": "b\n"}, edit_text=_more("Runner-Verdict: passed"))


# --- 8. log ----------------------------------------------------------------------------------------------------------


@attack("log")
def an_old_entry_rewritten(forge: Forge) -> None:
    forge.imitate(paused(forge), edit_log=lambda data: data.replace(b'"actor":"alice@', b'"actor":"mallory@'))


@attack("log")
def fields_in_another_order(forge: Forge) -> None:
    _of_schema_1(forge)
    event = ev.StepFailed(subject="a", attempt=1, reason="r", tail="x")
    forge.imitate(event, edit_log=lambda data: data.replace(b"- reason: r\n- tail: x\n", b"- tail: x\n- reason: r\n"))


def _of_schema_1(forge: Forge) -> None:
    """Begin the protocol again as one that an older version made."""
    forge.imitate(*_genesis(forge, schema=None), code=_words(forge), parents=[forge.trusted], fresh=True)


@attack("log")
def an_entry_of_schema_1_in_a_log_of_schema_2(forge: Forge) -> None:
    entry = Entry(forge.now.revision + 1, TIME, "runner", paused(forge))
    forge.imitate(paused(forge), edit_log=lambda data: log.append(forge.log, [entry], 1))


@attack("log")
def an_entry_of_schema_2_in_a_log_of_schema_1(forge: Forge) -> None:
    _of_schema_1(forge)
    entry = Entry(forge.now.revision + 1, TIME, "runner", paused(forge))
    forge.imitate(paused(forge), edit_log=lambda data: log.append(forge.log, [entry], 2))


@attack("log")
def a_log_begun_anew_before_it_is_full(forge: Forge) -> None:
    forge.imitate(paused(forge), rotate=True, record={"log/0001.md": None})


def _long(forge: Forge) -> None:
    """Let the log grow past its limit."""
    forge.imitate(ev.StepFailed(subject="b", attempt=1, reason="x" * 70_000))


@attack("log")
def a_segment_number_skipped(forge: Forge) -> None:
    _long(forge)
    forge.imitate(paused(forge), rotate=True, record={"log/0001.md": None, "log/0002.md": forge.log})


@attack("log")
def a_segment_kept_with_a_change(forge: Forge) -> None:
    _long(forge)
    forge.imitate(paused(forge), record={"log/0001.md": forge.log.replace(b"x", b"y", 1)})


@attack("log")
def a_full_log_that_goes_on(forge: Forge) -> None:
    _long(forge)
    forge.imitate(paused(forge), rotate=False)


# --- 9. record -------------------------------------------------------------------------------------------------------


@attack("record")
def a_transition_that_plants_a_call(forge: Forge) -> None:
    forge.imitate(paused(forge), record={"calls/b.1.1.json": "{}"})


@attack("record")
def a_transition_that_plants_a_report(forge: Forge) -> None:
    forge.imitate(paused(forge), record={"reports/b.1.md": "PASS"})


@attack("record")
def a_report_that_is_not_the_one_that_qa_names(forge: Forge) -> None:
    forge.imitate(finish(forge), code={"b.txt": "b\n"})
    told = passed(forge).model_copy(update={"report": digest(b"FAIL")})
    forge.imitate(told, record={"reports/b.1.md": "PASS"})


@attack("record")
def a_report_that_qa_names_and_that_is_not_there(forge: Forge) -> None:
    forge.imitate(finish(forge), code={"b.txt": "b\n"})
    forge.imitate(passed(forge).model_copy(update={"report": digest(b"PASS")}))


@attack("record")
def a_report_that_qa_names_by_the_digest_of_nothing(forge: Forge) -> None:
    forge.imitate(finish(forge), code={"b.txt": "b\n"})
    forge.imitate(passed(forge).model_copy(update={"report": digest(b"")}))


@attack("record")
def a_call_that_is_named_by_the_digest_of_nothing(forge: Forge) -> None:
    forge.imitate(ev.CallHeld(subject="b", call="b.1.1", digest=digest(b""), text="a call", by="anyone"))


@attack("record")
def a_segment_that_was_not_due(forge: Forge) -> None:
    forge.imitate(paused(forge), record={"log/0001.md": "x"})


@attack("record")
def a_segment_changed_later(forge: Forge) -> None:
    _long(forge)
    forge.imitate(paused(forge))
    forge.imitate(ev.Resumed(subject=forge.protocol), record={"log/0001.md": "x"})


# --- 10. transition --------------------------------------------------------------------------------------------------


@attack("transition")
def two_transitions_in_one_commit(forge: Forge) -> None:
    forge.imitate(paused(forge), ev.Resumed(subject=forge.protocol))


@attack("transition")
def two_steps_done_in_one_commit(forge: Forge) -> None:
    assert forge.state is not None
    events = [finish(forge, "c"), ev.StepCompleted(subject="c", attempt=1)]
    forge.imitate(*events, finish(forge, "b"), code={"b.txt": "b\n"})


@attack("transition")
def work_and_its_approval_by_nobody_in_one_commit(forge: Forge) -> None:
    forge.imitate(finish(forge), ev.StepFailed(subject="b", attempt=1, reason="x"), code={"b.txt": "b\n"})


# --- 11. legality ----------------------------------------------------------------------------------------------------


@attack("legality")
def a_step_completed_without_its_work(forge: Forge) -> None:
    forge.imitate(
        ev.StepCompleted(subject="b", attempt=1),
        edit_state=lambda plain: plain["steps"]["b"].update(status="completed"),
    )


@attack("legality")
def an_event_after_the_end(forge: Forge) -> None:
    forge.imitate(ev.Cancelled(subject=forge.protocol))
    forge.imitate(paused(forge))


@attack("legality")
def an_event_about_another_protocol(forge: Forge) -> None:
    forge.imitate(ev.Paused(subject="0009-other"))


@attack("legality")
def a_command_that_a_person_is_said_to_have_done(forge: Forge) -> None:
    forge.imitate(finish(forge, executor="person"))


@attack("legality")
def an_attempt_skipped(forge: Forge) -> None:
    forge.imitate(ev.StepFailed(subject="b", attempt=7, reason="x"))


@attack("legality")
def a_step_done_before_the_one_that_it_needs(forge: Forge) -> None:
    forge.imitate(finish(forge, "c"), ev.StepCompleted(subject="c", attempt=1))


@attack("legality")
def a_question_of_a_step_whose_turn_has_not_come(forge: Forge) -> None:
    forge.imitate(question(subject="c"))


@attack("legality")
def a_new_attempt_begun_before_what_it_needs_is_done_again(forge: Forge) -> None:
    """At the first one it was done; what that began on does not serve for the second."""
    forge.imitate(ev.StepFailed(subject="b", attempt=1, reason="x"), ev.Failed(subject=forge.protocol, reason="x"))
    forge.imitate(ev.StepRetried(subject="a", attempt=2))
    forge.imitate(ev.StepRetried(subject="b", attempt=2))
    forge.imitate(finish(forge), code={"b.txt": "b\n"})


@attack("legality")
def a_doubt_about_an_effect_that_an_answer_ends(forge: Forge) -> None:
    """What became of it is not asked any more, and nobody said it."""
    forge.imitate(unknown())
    forge.imitate(ev.Answered(subject="b", wait=f"w{forge.now.revision}", text="go on", by="you"))


@attack("legality")
def a_doubt_about_an_effect_that_a_refused_word_ends(forge: Forge) -> None:
    forge.imitate(unknown())
    refused = ev.ApprovalRefused(subject="b", reason="nobody asks for it", wait=f"w{forge.now.revision}")
    forge.imitate(refused, finish(forge), code={"b.txt": "b\n"})


@attack("legality")
def a_question_that_is_ended_as_an_effect(forge: Forge) -> None:
    forge.imitate(question(subject="b"))
    forge.imitate(ev.EffectDecided(subject="b", wait=f"w{forge.now.revision}", happened=True, by="you"))


@attack("legality")
def a_budget_that_an_answer_raises(forge: Forge) -> None:
    forge.imitate(ev.BudgetReached(subject="b", text="$2 of $2 are used", by="whoever plans"))
    forge.imitate(ev.Answered(subject="b", wait=f"w{forge.now.revision}", text="go on", by="you"))


@attack("legality")
def a_question_of_one_step_answered_for_another(forge: Forge) -> None:
    forge.imitate(question(subject="b"))
    forge.imitate(ev.Answered(subject="c", wait=f"w{forge.now.revision}", text="yes", by="you"))


@attack("legality")
def money_given_back(forge: Forge) -> None:
    forge.imitate(ev.StepFailed(subject="b", attempt=1, reason="x", spent={"usd": "-5"}))


@attack("legality")
def an_amount_that_fills_the_memory(forge: Forge) -> None:
    forge.imitate(
        ev.StepFailed(subject="b", attempt=1, reason="x", spent={"usd": "1e9999999"}), edit_state=lambda plain: None
    )


# --- 12. fold --------------------------------------------------------------------------------------------------------


@attack("fold")
def a_transition_with_another_status(forge: Forge) -> None:
    forge.imitate(paused(forge), edit_state=set_status("completed"))


@attack("fold")
def a_state_with_another_log(forge: Forge) -> None:
    forge.imitate(paused(forge), edit_state=lambda plain: plain.update(log="sha256:" + "0" * 64))


@attack("fold")
def state_json_written_otherwise(forge: Forge) -> None:
    forge.imitate(paused(forge))
    oid = forge.tip
    plain = json.loads(forge.box.git("show", f"{oid}:{forge.folder}/state.json"))
    tree = forge.tree(oid, {f"{forge.folder}/state.json": json.dumps(plain)})
    text = forge.box.git("log", "-1", "--format=%B", oid)
    forge.commit(tree=tree, parents=[f"{oid}^"], text=text.rstrip("\n") + "\n")


@attack("fold")
def duplicate_keys_in_state_json(forge: Forge) -> None:
    oid = forge.imitate(paused(forge))
    good = forge.box.git("show", f"{oid}:{forge.folder}/state.json")
    tree = forge.tree(
        oid, {f"{forge.folder}/state.json": good.replace('  "status"', '  "status": "completed",\n  "status"')}
    )
    forge.commit(
        tree=tree, parents=[f"{oid}^"], text=forge.box.git("log", "-1", "--format=%B", oid).rstrip("\n") + "\n"
    )


# --- 14. words, 15. work ---------------------------------------------------------------------------------------------


@attack("words")
def a_transition_that_edits_the_plan(forge: Forge) -> None:
    plan = forge.box.git("show", f"{forge.tip}:{forge.folder}/plan.md")
    forge.imitate(paused(forge), code={f"{forge.folder}/plan.md": plan + "And more.\n"})


@attack("words")
def a_transition_that_adds_an_approval(forge: Forge) -> None:
    forge.imitate(paused(forge), code={f"{forge.folder}/approvals/00.approval": "yes"})


@attack("work")
def code_in_a_transition_without_work(forge: Forge) -> None:
    forge.imitate(paused(forge), code={"evil.txt": "x"})


@attack("work")
def work_in_the_name_of_a_person(forge: Forge) -> None:
    forge.imitate(finish(forge, executor="person"), code={"b.txt": "b\n"})


@attack("work")
def work_on_another_protocols_folder(forge: Forge) -> None:
    forge.imitate(finish(forge), code={"b.txt": "b\n", ".protocols/0009-other/state.json": "{}"})


@attack("work")
def work_on_the_configuration(forge: Forge) -> None:
    forge.imitate(finish(forge), code={"b.txt": "b\n", ".protocols/config.yaml": "executor: host\n"})


@attack("work")
def a_genesis_that_brings_code(forge: Forge) -> None:
    forge.imitate(*_genesis(forge), code={**_words(forge), "evil.txt": "x"}, parents=[forge.trusted], fresh=True)


# --- 16. plan --------------------------------------------------------------------------------------------------------


@attack("plan")
def a_plan_told_with_another_digest(forge: Forge) -> None:
    path = f"{forge.folder}/plan.md"
    forge.commit({path: forge.box.git("show", f"{forge.tip}:{path}") + "More.\n"})
    edited = ev.PlanEdited(subject="plan", plan="sha256:" + "0" * 64, steps={}, removed=[], dropped=[])
    forge.imitate(edited, paused(forge))


@attack("plan")
def an_edit_that_takes_qa_away(forge: Forge) -> None:
    """The file still names its outputs; the event says that nothing is checked."""
    path = f"{forge.folder}/02-b.md"
    text = forge.box.git("show", f"{forge.tip}:{path}") + "More.\n"
    forge.commit({path: text})
    assert forge.state is not None and forge.state.plan is not None
    step = forge.state.steps["b"]
    told: ev.PlannedStep = {
        "place": 2, "title": step.title, "kind": step.kind, "needs": step.needs, "qa": "skip", "digest": digest(text.encode()),
    }  # fmt: skip
    edited = ev.PlanEdited(subject="plan", plan=forge.state.plan, steps={"b": told}, removed=[], dropped=[])
    forge.imitate(edited, paused(forge))


@attack("plan")
def an_edit_that_hides_a_step(forge: Forge) -> None:
    plan = forge.box.git("show", f"{forge.tip}:{forge.folder}/plan.md") + "More.\n"
    forge.commit({f"{forge.folder}/plan.md": plan})
    edited = ev.PlanEdited(
        subject="plan", plan=manifest_digest({"plan.md": plan.encode()}), steps={}, removed=["c"], dropped=[]
    )
    forge.imitate(edited, paused(forge))


# --- 17. digest ------------------------------------------------------------------------------------------------------


@attack("digest")
def a_step_edited_and_the_old_one_carried_out(forge: Forge) -> None:
    path = f"{forge.folder}/02-b.md"
    forge.commit({path: forge.box.git("show", f"{forge.tip}:{path}") + "Otherwise.\n"})
    forge.imitate(finish(forge), code={"b.txt": "b\n"})


def edited(forge: Forge) -> ev.PlanEdited:
    """Return the event of what people edited since the last transition."""
    names = forge.box.git("ls-tree", "--name-only", forge.tip, f"{forge.folder}/").split()
    words = {Path(name).name: name for name in names if name.endswith(".md") and not name.endswith("/log.md")}
    told = {name: forge.box.git("show", f"{forge.tip}:{path}").encode() for name, path in words.items()}
    found = machine.edit_of(forge.now, plans.parse(told, forge.folder))
    assert found is not None
    return found


def artifact(text: bytes, path: str = "b.txt") -> list[ev.ArtifactFields]:
    """Return what an event says of an artifact."""
    return [{"name": path, "kind": "file", "path": path, "digest": digest(text)}]


@attack("digest")
def an_artifact_that_is_not_there_by_the_digest_of_nothing(forge: Forge) -> None:
    forge.imitate(finish(forge, artifacts=artifact(b"", "report.pdf")), code={"b.txt": "b\n"})


@attack("digest")
def an_artifact_with_another_digest_of_work_that_began_before(forge: Forge) -> None:
    """Nobody changed code since: it was merged with nothing."""
    start = forge.tip
    forge.commit({f"{forge.folder}/context.md": "Be kind.\n"})
    forge.imitate(finish(forge, artifacts=artifact(b"other"), start=start), code={"b.txt": "b\n"})


@attack("digest")
def an_artifact_with_another_digest_of_work_that_began_nowhere(forge: Forge) -> None:
    forge.imitate(finish(forge, artifacts=artifact(b"other"), start="f" * 40), code={"b.txt": "b\n"})


@attack("digest")
def an_artifact_that_is_not_what_a_person_committed(forge: Forge) -> None:
    forge.commit({f"{forge.folder}/04-look.md": "---\ntitle: look\nkind: human\nneeds: []\n---\n"})
    forge.imitate(edited(forge), ev.Asked(subject="look", kind="human", text="Look.", by="anyone"))
    start = forge.tip
    forge.commit({"look.txt": "seen\n"})
    forge.imitate(ev.Answered(subject="look", wait=f"w{forge.now.revision}", text="done", by="you"))
    made = artifact(b"other", "look.txt")
    forge.imitate(finish(forge, "look", start=start, executor="person", artifacts=made))


LOOK = "---\ntitle: look\nkind: human\nneeds: []\n---\n"


def asked_of_a_person(forge: Forge) -> str:
    """Add a human step and ask for it; return the commit that asks."""
    forge.commit({f"{forge.folder}/04-look.md": LOOK})
    forge.imitate(edited(forge), ev.Asked(subject="look", kind="human", text="Look.", by="anyone"))
    return forge.tip


def done_by_a_person(forge: Forge) -> None:
    """Record that a person finished the human step."""
    attempt = forge.now.steps["look"].attempt
    forge.imitate(
        finish(forge, "look", executor="person"),
        ev.StepCompleted(subject="look", attempt=attempt),
    )


@attack("legality")
def a_human_step_that_nobody_was_asked_about(forge: Forge) -> None:
    forge.commit({f"{forge.folder}/04-look.md": LOOK})
    forge.imitate(edited(forge), paused(forge))
    forge.imitate(ev.Resumed(subject=forge.protocol))
    done_by_a_person(forge)


@attack("legality")
def a_human_step_whose_answer_was_to_an_earlier_attempt(forge: Forge) -> None:
    asked_of_a_person(forge)
    forge.imitate(ev.Answered(subject="look", wait=f"w{forge.now.revision}", text="no", by="alice"))
    forge.imitate(ev.StepFailed(subject="look", attempt=1, reason="no"), ev.StepRetried(subject="look", attempt=2))
    done_by_a_person(forge)


@attack("legality")
def a_human_step_whose_answer_was_to_work_that_was_made_anew(forge: Forge) -> None:
    forge.commit({f"{forge.folder}/04-look.md": LOOK.replace("needs: []", "needs: [a]")})
    forge.imitate(edited(forge), ev.Asked(subject="look", kind="human", text="Look.", by="anyone"))
    forge.imitate(ev.Answered(subject="look", wait=f"w{forge.now.revision}", text="good", by="alice"))
    forge.imitate(ev.StepRetried(subject="a", attempt=2), actor="alice")
    forge.imitate(finish(forge, "a"))
    forge.imitate(passed(forge, "a", check="outputs: a.txt"), ev.StepCompleted(subject="a", attempt=2))
    done_by_a_person(forge)


@attack("legality")
def a_human_step_whose_answer_was_taken_back(forge: Forge) -> None:
    asked_of_a_person(forge)
    then = forge.now.revision
    forge.imitate(ev.Answered(subject="look", wait=f"w{then}", text="yes", by="alice"))
    forge.imitate(undone(forge, then))
    done_by_a_person(forge)


@attack("legality")
def a_human_step_that_waited_for_something_else(forge: Forge) -> None:
    """An edit drops the wait for the effect; the step is under way, nobody was asked, and nothing is owed."""
    forge.commit({f"{forge.folder}/04-look.md": LOOK})
    told = ev.EffectUnknown(subject="look", call="look.1.1", tool="send", digest=digest(b"to"), text="sent?")
    forge.imitate(edited(forge), told)
    forge.commit({f"{forge.folder}/04-look.md": f"{LOOK}Look well.\n"})
    forge.imitate(edited(forge), paused(forge))
    forge.imitate(ev.Resumed(subject=forge.protocol))
    done_by_a_person(forge)


@attack("legality")
def a_human_step_that_a_program_is_said_to_have_done(forge: Forge) -> None:
    asked_of_a_person(forge)
    forge.imitate(ev.Answered(subject="look", wait=f"w{forge.now.revision}", text="yes", by="alice"))
    forge.imitate(finish(forge, "look", executor="host"), ev.StepCompleted(subject="look", attempt=1))


def test_a_step_that_became_a_persons_after_it_began_is_asked_for(forge: Forge) -> None:
    """Nobody was asked about it, so nobody can have finished it: it is blocked, and a retry asks."""
    forge.imitate(unknown())
    forge.imitate(ev.EffectDecided(subject="b", wait=f"w{forge.now.revision}", happened=True, by="alice"))
    forge.commit({f"{forge.folder}/02-b.md": "---\ntitle: 02-b\nkind: human\n---\nDo it.\n"})
    runner, protocol = forge.box.runner, forge.protocol
    assert "runner retry 1" in runner("run", protocol, rc=3).err
    runner("retry", protocol, rc=0)
    runner("run", protocol, rc=3)
    runner("answer", protocol, "done", rc=0)
    runner("run", protocol, rc=0)
    runner("verify", protocol, rc=0)


@attack("transition")
def a_human_step_cancelled(forge: Forge) -> None:
    asked_of_a_person(forge)
    forge.imitate(ev.StepCancelled(subject="look", reason="not needed"))


@attack("transition")
def a_step_that_waits_for_an_approval_cancelled(forge: Forge) -> None:
    path = f"{forge.folder}/02-b.md"
    forge.commit(
        {path: forge.box.git("show", f"{forge.tip}:{path}").replace("title: 02-b\n", "title: 02-b\napproval: before\n")}
    )
    told = ev.ApprovalAsked(subject="b", kind="step", digest=digest(b""), text="approval", by="you")
    forge.imitate(edited(forge), told)
    forge.imitate(ev.StepCancelled(subject="b", reason="not needed"))


@attack("transition")
def steps_cancelled_and_the_protocol_goes_on(forge: Forge) -> None:
    forge.imitate(ev.StepCancelled(subject="b", reason="x"), ev.StepCancelled(subject="c", reason="x"))


@attack("digest")
def an_artifact_with_another_digest(forge: Forge) -> None:
    made: ev.ArtifactFields = {"name": "b.txt", "kind": "file", "path": "b.txt", "digest": digest(b"other")}
    forge.imitate(finish(forge, artifacts=[made]), code={"b.txt": "b\n"})


# --- 18. evidence ----------------------------------------------------------------------------------------------------


@attack("evidence")
def qa_of_another_tree(forge: Forge) -> None:
    forge.imitate(finish(forge), code={"b.txt": "b\n"})
    other = forge.box.git("rev-parse", f"{forge.trusted}^{{tree}}").strip()
    forge.imitate(passed(forge, tree=other), ev.StepCompleted(subject="b", attempt=1))


@attack("evidence")
def qa_that_passed_with_a_check_that_failed(forge: Forge) -> None:
    forge.imitate(finish(forge), code={"b.txt": "b\n"})
    forge.imitate(passed(forge, code=1), ev.StepCompleted(subject="b", attempt=1))


@attack("evidence")
def qa_that_passed_without_the_output_that_it_names(forge: Forge) -> None:
    forge.imitate(finish(forge), code={"other.txt": "b\n"})
    forge.imitate(passed(forge), ev.StepCompleted(subject="b", attempt=1))


@attack("evidence")
def qa_that_passed_with_an_output_that_a_person_took_away(forge: Forge) -> None:
    forge.imitate(finish(forge, artifacts=artifact(b"b\n")), code={"b.txt": "b\n"})
    forge.commit({"b.txt": None})
    forge.imitate(passed(forge), ev.StepCompleted(subject="b", attempt=1))


@attack("evidence")
def qa_that_looked_at_something_else(forge: Forge) -> None:
    forge.imitate(finish(forge))  # without the output that it promised
    forge.imitate(passed(forge, check="true"), ev.StepCompleted(subject="b", attempt=1))


@attack("evidence")
def qa_that_did_not_look_at_the_output_that_is_there(forge: Forge) -> None:
    forge.imitate(finish(forge), code={"b.txt": "b\n"})
    forge.imitate(passed(forge, check="true"), ev.StepCompleted(subject="b", attempt=1))


@attack("evidence")
def qa_of_a_step_whose_file_is_away(forge: Forge) -> None:
    forge.imitate(finish(forge))
    forge.commit({f"{forge.folder}/02-b.md": None})
    forge.imitate(passed(forge, check="true"), ev.StepCompleted(subject="b", attempt=1))


@attack("evidence")
def qa_by_a_plan_that_cannot_be_read(forge: Forge) -> None:
    forge.imitate(finish(forge))
    forge.commit({f"{forge.folder}/plan.md": "no front matter\n"})
    forge.imitate(passed(forge, check="true"), ev.StepCompleted(subject="b", attempt=1))


# --- 19. undone ------------------------------------------------------------------------------------------------------


def undone(forge: Forge, to: int, **fields: Any) -> ev.Undone:
    """Return the event of an undoing, as it would be right but for `fields`."""
    found = ev.Undone(subject=forge.protocol, to=to, status="planned", steps={}, artifacts=[], dropped=[])
    for oid in forge.box.git("rev-list", "--first-parent", forge.tip).split():
        data = forge.box.git("show", f"{oid}:{forge.folder}/state.json", check=False).encode()
        then = state.load(data, "state.json") if data else None
        if then is not None and then.revision == to:
            found = machine.undone_of(forge.now, then)
    return found.model_copy(update=fields)


@attack("undone")
def an_undoing_that_brings_code(forge: Forge) -> None:
    forge.imitate(undone(forge, 2), code={"a.txt": None, "evil.txt": "x"})


@attack("undone")
def an_undoing_to_no_revision(forge: Forge) -> None:
    forge.imitate(undone(forge, 1, status="running"), code={"evil.txt": "x"})


@attack("undone")
def an_undoing_that_completes_a_step(forge: Forge) -> None:
    done = {"b": {"status": "completed", "attempt": 1, "result": None}}
    forge.imitate(undone(forge, 2, status="running", steps=done), code={"a.txt": None})


@attack("undone")
def an_undoing_that_leaves_a_step_done_whose_work_it_takes_away(forge: Forge) -> None:
    forge.imitate(undone(forge, 2, status="running", steps={}), code={"a.txt": None})


@attack("undone")
def an_undoing_after_which_an_attempt_s_number_is_given_again(forge: Forge) -> None:
    again = {"a": {"status": "pending", "attempt": 1, "result": None}}
    forge.imitate(undone(forge, 2, steps=again), code={"a.txt": None})


@attack("undone")
def an_undoing_of_nothing_that_ends_a_doubt(forge: Forge) -> None:
    forge.imitate(unknown())
    forge.imitate(undone(forge, forge.now.revision, dropped=[f"w{forge.now.revision}"]))


# --- a plan that is written after questions ------------------------------------------------------------------------------

PLAN = b"---\ntitle: Greet\n---\n"
STEP = b"---\ntitle: Look\nkind: command\nrun: cat code.py\n---\n"


def question(transcript: str | None = None, subject: str = "plan") -> ev.Asked:
    """Return a question, of the planner's by default."""
    return ev.Asked(subject=subject, kind="question", text="Formal?", by="anyone", transcript=transcript)


def asks(forge: Forge, code: dict[str, Any] | None = None) -> None:
    """Go on in a protocol of its own that begins with the planner's questions."""
    forge.protocol = "0002-greet"
    forge.box.git("update-ref", f"refs/heads/{forge.protocol}", forge.trusted)
    made = ev.Created(subject=forge.protocol, title="Greet", base="main", start=forge.trusted, nonce="1" * 32)
    forge.imitate(made, question(digest(b"said")), question(), code=code, fresh=True)


def answers(forge: Forge) -> None:
    """Answer both questions."""
    for wait in ("w2", "w3"):
        forge.imitate(ev.Answered(subject="plan", wait=wait, text="yes", by="alice"))


def plan_event(forge: Forge, transcript: str | None = digest(b"said")) -> ev.Planned:
    """Return the event of the plan whose files are `written`."""
    step: ev.PlannedStep = {
        "place": 1, "title": "Look", "kind": "command", "needs": [], "qa": "skip", "digest": digest(STEP),
    }  # fmt: skip
    plan = manifest_digest({"plan.md": PLAN})
    return ev.Planned(subject="plan", plan=plan, steps={"look": step}, transcript=transcript)


def written(forge: Forge) -> dict[str, Any]:
    """Return the files of a planner's plan."""
    return {f"{forge.folder}/plan.md": PLAN, f"{forge.folder}/01-look.md": STEP}


def test_a_plan_after_questions_holds(forge: Forge) -> None:
    asks(forge)
    forge.imitate(ev.Paused(subject=forge.protocol))
    forge.imitate(ev.Resumed(subject=forge.protocol))
    answers(forge)
    forge.imitate(question(digest(b"more said")))
    forge.imitate(ev.Answered(subject="plan", wait="w8", text="yes", by="alice"))
    forge.imitate(plan_event(forge), code=written(forge))
    forge.imitate(finish(forge, "look"), ev.StepCompleted(subject="look", attempt=1), code={"code.py": "1\n"})
    assert forge.holds().transitions == 9


def test_a_plan_of_a_person_s_holds_while_the_planner_asks(forge: Forge) -> None:
    asks(forge)
    forge.commit(written(forge))
    forge.imitate(plan_event(forge, None))
    assert forge.state is not None and forge.state.waiting == []
    forge.holds()


@attack("work")
def code_that_comes_with_the_planner_s_first_questions(forge: Forge) -> None:
    asks(forge, {"evil.txt": "x"})


@attack("work")
def code_that_comes_with_the_planner_s_questions(forge: Forge) -> None:
    asks(forge)
    answers(forge)
    forge.imitate(question(digest(b"said")), code={"evil.txt": "x"})


@attack("work")
def code_that_comes_with_a_planner_s_plan(forge: Forge) -> None:
    asks(forge)
    forge.imitate(plan_event(forge), code={**written(forge), "evil.txt": "x"})


@attack("words")
def a_plan_that_names_no_transcript(forge: Forge) -> None:
    asks(forge)
    forge.imitate(plan_event(forge, None), code=written(forge))


@attack("words")
def a_planner_s_plan_over_a_person_s(forge: Forge) -> None:
    asks(forge)
    forge.commit({f"{forge.folder}/01-look.md": "mine\n"})
    forge.imitate(plan_event(forge), code=written(forge))


@attack("words")
def notes_that_come_with_a_planner_s_plan(forge: Forge) -> None:
    asks(forge)
    forge.imitate(plan_event(forge), code={**written(forge), f"{forge.folder}/notes.txt": "evil\n"})


@attack("words")
def words_that_come_with_a_planner_s_question(forge: Forge) -> None:
    asks(forge)
    forge.imitate(question(digest(b"said")), code=written(forge))


@attack("words")
def a_second_plan_of_a_planner_s(forge: Forge) -> None:
    forge.imitate(question(digest(b"said")), code={f"{forge.folder}/09-look.md": STEP})


@attack("transition")
def two_questions_of_a_step(forge: Forge) -> None:
    forge.imitate(question(subject="b"), question(subject="b"))


@attack("legality")
def a_plan_that_is_taken_back(forge: Forge) -> None:
    asks(forge)
    forge.imitate(plan_event(forge), code=written(forge))
    forge.imitate(undone(forge, 3, status="planning"), edit_state=set_status("planning"))


# --- what cannot be read ---------------------------------------------------------------------------------------------


@attack("readable")
def a_log_that_is_cut_off(forge: Forge) -> None:
    forge.imitate(paused(forge), edit_log=lambda data: data[:-2])


@attack("readable")
def an_unknown_event(forge: Forge) -> None:
    forge.imitate(
        paused(forge),
        edit_log=lambda data: data.replace(b" paused", b" promoted"),
        edit_text=lambda text: text.replace(" paused", " promoted"),
    )


@attack("readable")
def a_number_that_json_does_not_know(forge: Forge) -> None:
    forge.imitate(
        ev.StepFailed(subject="b", attempt=1, reason="x"),
        edit_log=lambda data: data.replace(b'"reason":"x"', b'"reason":NaN'),
    )


@attack("readable")
def a_value_nested_without_end(forge: Forge) -> None:
    deep = b'"reason":' + b"[" * 100_000 + b"]" * 100_000
    forge.imitate(
        ev.StepFailed(subject="b", attempt=1, reason="x"), edit_log=lambda data: data.replace(b'"reason":"x"', deep)
    )


@attack("readable")
def a_line_that_says_otherwise_than_its_data(forge: Forge) -> None:
    said = f"{forge.protocol} paused\n".encode()
    forge.imitate(paused(forge), edit_log=lambda data: data.replace(said, f"{forge.protocol} completed\n".encode()))


@attack("readable")
def a_text_that_ends_the_comment_of_its_data(forge: Forge) -> None:
    text = "--> # approved by everyone <!--"
    event = ev.StepFailed(subject="b", attempt=1, reason=text)
    plain = json.dumps(text).encode()
    escaped = plain.replace(b"--", b"-\\u002d").replace(b"<", b"\\u003c").replace(b">", b"\\u003e")
    forge.imitate(event, edit_log=lambda data: data.replace(escaped, plain))


@attack("readable")
def a_transition_without_its_record(forge: Forge) -> None:
    forge.imitate(paused(forge), record={"log.md": None})


@attack("readable")
def a_tree_that_names_a_file_twice(forge: Forge) -> None:
    oid = forge.imitate(paused(forge))
    root = forge.box.git("rev-parse", f"{oid}^{{tree}}").strip()
    with Git.open(forge.box.path) as git:
        found = git.object(root)
    assert found is not None
    entry = found[2][found[2].index(b"100644 README.md") :][: len(b"100644 README.md\0") + 20]
    double = forge.object("tree", entry + found[2])
    raw = forge.box.git("cat-file", "commit", oid)
    odd = forge.object("commit", raw.replace(root, double, 1).encode())
    forge.box.git("update-ref", f"refs/heads/{forge.protocol}", odd)


# --- one for each check that none of those above needs ----------------------------------------------------------------


@attack("paths")
def a_name_with_a_control_character(forge: Forge) -> None:
    forge.commit({f"{forge.folder}/no\x01tes.md": "x"})


@attack("paths")
def a_name_with_a_backslash(forge: Forge) -> None:
    forge.commit({f"{forge.folder}/no\\tes.md": "x"})


@attack("genesis")
def a_genesis_on_nothing(forge: Forge) -> None:
    made = forge.imitate(*_genesis(forge), code=_words(forge), parents=[forge.trusted], fresh=True, move=False)
    forge.commit(
        tree=f"{made}^{{tree}}", parents=[], text=forge.box.git("log", "-1", "--format=%B", made).rstrip("\n") + "\n"
    )


@attack("genesis")
def a_chain_that_begins_in_its_middle(forge: Forge) -> None:
    entries = [Entry(forge.now.revision + 1, TIME, "runner", paused(forge))]
    data = log.append(b"", entries, forge.now.schema)
    after = forge.now._replace(log=digest(data), revision=entries[0].revision)
    record = {"log.md": data, "state.json": state.render(after)}
    files: dict[str, Change] = {**_words(forge), **{f"{forge.folder}/{name}": data for name, data in record.items()}}
    text = forge.message(entries, after).decode()
    forge.commit(files, text, parents=[forge.trusted])


@attack("transition")
def a_genesis_that_brings_work(forge: Forge) -> None:
    forge.imitate(
        *_genesis(forge),
        finish(forge, "a", start=forge.trusted),
        code=_words(forge),
        parents=[forge.trusted],
        fresh=True,
    )


@attack("approvals")
def an_approval_that_is_not_there_counted(forge: Forge) -> None:
    forge.imitate(ev.ApprovalAsked(subject="b", kind="step", digest=digest(b""), text="x", by="x"))
    wait = f"w{forge.now.revision}"
    forge.imitate(
        ev.ApprovalCounted(subject="b", wait=wait, approvals=["0" * 32], by=["alice@example.test"]), paused(forge)
    )


CALL = b'{"arguments": {}, "tool": "send_report"}\n'


def held(said: bytes = CALL, call: str = "b.1.1") -> ev.CallHeld:
    """Return the event that a call waits."""
    return ev.CallHeld(subject="b", call=call, digest=digest(said), text="send_report", by="anyone")


@attack("record")
def a_call_that_is_not_the_one_that_waits(forge: Forge) -> None:
    forge.imitate(held(b"{}"), record={"calls/b.1.1.json": CALL})


@attack("record")
def a_call_that_waits_and_is_not_there(forge: Forge) -> None:
    forge.imitate(held())


@attack("record")
def a_call_of_another_step(forge: Forge) -> None:
    forge.imitate(held(call="c.1.1"), record={"calls/c.1.1.json": CALL})


@attack("transition")
def one_transition_of_two_steps(forge: Forge) -> None:
    forge.imitate(finish(forge), code={"b.txt": "b\n"})
    tree = forge.box.git("rev-parse", f"{forge.tip}^{{tree}}").strip()
    failed = ev.QaFailed(subject="b", attempt=1, tree=tree, reason="x", evidence=[])
    forge.imitate(failed, ev.StepFailed(subject="c", attempt=1, reason="x"))


@attack("plan")
def an_edit_whose_plan_cannot_be_read(forge: Forge) -> None:
    forge.commit({f"{forge.folder}/plan.md": "---\ntitle: [\n---\n"})
    assert forge.now.plan is not None
    forge.imitate(ev.PlanEdited(subject="plan", plan=forge.now.plan, steps={}, removed=[], dropped=[]), paused(forge))


@attack("plan")
def a_genesis_whose_plan_is_told_otherwise(forge: Forge) -> None:
    created, planned = _genesis(forge)
    assert isinstance(planned, ev.Planned)
    planned.steps["b"]["qa"] = "skip"
    forge.imitate(created, planned, code=_words(forge), parents=[forge.trusted], fresh=True)


@attack("plan")
def a_genesis_with_another_title(forge: Forge) -> None:
    forge.imitate(*_genesis(forge, title="Harmless"), code=_words(forge), parents=[forge.trusted], fresh=True)


@attack("digest")
def a_step_edited_and_begun_nowhere(forge: Forge) -> None:
    path = f"{forge.folder}/02-b.md"
    forge.commit({path: forge.box.git("show", f"{forge.tip}:{path}") + "Otherwise.\n"})
    forge.imitate(finish(forge, start=forge.trusted), code={"b.txt": "b\n"})


@attack("undone")
def an_undoing_that_leaves_the_work(forge: Forge) -> None:
    forge.imitate(undone(forge, 2))


@attack("undone")
def an_undoing_that_changes_the_configuration(forge: Forge) -> None:
    forge.imitate(undone(forge, 2), code={"a.txt": None, ".protocols/config.yaml": "executor: host\n"})


@attack("undone")
def an_undoing_that_ends_the_protocol(forge: Forge) -> None:
    forge.imitate(undone(forge, 2, status="completed"), code={"a.txt": None})


@attack("undone")
def an_undoing_that_completes_a_step_which_was_not_there(forge: Forge) -> None:
    text = "---\ntitle: d\nkind: command\nrun: 'true'\n---\n"
    forge.commit({f"{forge.folder}/04-d.md": text})
    told: ev.PlannedStep = {
        "place": 4,
        "title": "d",
        "kind": "command",
        "needs": ["c"],
        "qa": "skip",
        "digest": digest(text.encode()),
    }
    assert forge.now.plan is not None
    forge.imitate(
        ev.PlanEdited(subject="plan", plan=forge.now.plan, steps={"d": told}, removed=[], dropped=[]), paused(forge)
    )
    done = {"d": {"status": "completed", "attempt": 1, "result": None}}
    forge.imitate(undone(forge, 5, status="running", steps=done))


@attack("readable")
def a_transition_without_an_event(forge: Forge) -> None:
    before = forge.log
    forge.imitate(paused(forge), edit_log=lambda data: before)


# --- words at a keyboard, where there is no policy ----------------------------------------------------------------------


def keyboard(forge: Forge, wait: str, subject: str = "b", **fields: Any) -> ev.ApprovalCounted:
    """Return the event that somebody at a terminal said yes."""
    return ev.ApprovalCounted(subject=subject, wait=wait, **{"approvals": [], "by": ["keyboard"], **fields})


def waits(forge: Forge, event: ev.Event) -> str:
    """Let something be asked, and return what it waits as."""
    forge.imitate(event)
    return f"w{forge.now.revision}"


def asked(subject: str = "b", kind: str = "step") -> ev.ApprovalAsked:
    """Return the event that a word is needed."""
    return ev.ApprovalAsked(subject=subject, kind=kind, digest=digest(b""), text="approval before it starts", by="you")


@attack("counted")
def a_question_that_a_word_ends(forge: Forge) -> None:
    forge.imitate(keyboard(forge, waits(forge, question(subject="b"))), paused(forge))


@attack("counted")
def a_call_that_a_word_on_a_step_decides(forge: Forge) -> None:
    forge.imitate(held(), record={"calls/b.1.1.json": CALL})
    forge.imitate(keyboard(forge, f"w{forge.now.revision}"), paused(forge))


@attack("counted")
def a_word_on_a_call_for_a_start(forge: Forge) -> None:
    wait = waits(forge, asked())
    forge.imitate(held(), record={"calls/b.1.1.json": CALL})
    forge.imitate(
        ev.CallDecided(subject="b", wait=wait, decision="approved", by="keyboard", approvals=[]), paused(forge)
    )


@attack("counted")
def a_word_on_one_step_for_another(forge: Forge) -> None:
    forge.imitate(keyboard(forge, waits(forge, asked("c"))), paused(forge))


@attack("counted")
def a_keyboard_that_names_a_file(forge: Forge) -> None:
    wait = waits(forge, asked())
    forge.commit({f"{forge.folder}/approvals/00.approval": "yes"})
    forge.imitate(keyboard(forge, wait, approvals=["00"]), paused(forge))


@attack("counted")
def a_name_where_nobody_s_word_counts(forge: Forge) -> None:
    forge.imitate(keyboard(forge, waits(forge, asked()), by=["alice@example.test"]), paused(forge))


def trusts(forge: Forge, *changes: dict[str, Change]) -> None:
    """Let the trusted branch go on, a commit each, and be named from now on."""
    for change in changes:
        forge.trusted = forge.commit(change, "main moves\n", parents=[forge.trusted], move=False)
        forge.imitate(ev.RequestChanged(subject=forge.protocol, url="x", change="opened"))


@attack("counted")
def a_keyboard_after_a_policy_that_cannot_be_read(forge: Forge) -> None:
    wait = waits(forge, asked())
    trusts(forge, {".protocols/policy.yaml": "repo: ["}, {".protocols/policy.yaml": None})
    forge.imitate(keyboard(forge, wait), paused(forge))


@attack("needed")
def work_under_a_policy_that_cannot_be_read(forge: Forge) -> None:
    trusts(forge, {".protocols/policy.yaml": "repo: ["})
    forge.imitate(finish(forge), code={"b.txt": "b\n"})


def _without_state(forge: Forge) -> str:
    """Return a commit of the chain that has no state.json; it was put back."""
    path = f"{forge.folder}/state.json"
    before = forge.box.git("show", f"{forge.tip}:{path}")
    gone = forge.commit({path: None})
    forge.commit({path: before})
    return gone


@attack("needed")
def work_that_began_where_there_was_no_state(forge: Forge) -> None:
    forge.imitate(finish(forge, start=_without_state(forge)), code={"b.txt": "b\n"})


@attack("counted")
def a_word_judged_where_there_was_no_state(forge: Forge) -> None:
    wait = waits(forge, asked())
    gone = _without_state(forge)
    forge.imitate(keyboard(forge, wait, at=gone), finish(forge, start=gone), code={"b.txt": "b\n"})


@attack("counted")
def a_word_judged_on_main(forge: Forge) -> None:
    wait = waits(forge, asked())
    forge.imitate(keyboard(forge, wait, at=forge.trusted), finish(forge), code={"b.txt": "b\n"})


@attack("counted")
def a_word_judged_before_the_work_began(forge: Forge) -> None:
    wait, before = waits(forge, asked()), forge.tip
    forge.commit({"other.txt": "x"})
    forge.imitate(keyboard(forge, wait, at=before), finish(forge), code={"b.txt": "b\n"})


@attack("counted")
def a_word_on_a_plan_that_cannot_be_read(forge: Forge) -> None:
    wait = waits(forge, asked())
    forge.commit({f"{forge.folder}/plan.md": "What and why.\n"})
    forge.imitate(keyboard(forge, wait), paused(forge))


def asks_before(forge: Forge) -> None:
    """Let step b need a word before it starts, have it, and pause."""
    path = f"{forge.folder}/02-b.md"
    text = forge.box.git("show", f"{forge.tip}:{path}").replace("title: 02-b\n", "title: 02-b\napproval: before\n")
    forge.commit({path: text})
    step = forge.now.steps["b"]
    told: ev.PlannedStep = {
        "place": 2,
        "title": step.title,
        "kind": step.kind,
        "needs": step.needs,
        "qa": step.qa,
        "digest": digest(text.encode()),
    }
    assert forge.now.plan is not None
    forge.imitate(
        ev.PlanEdited(subject="plan", plan=forge.now.plan, steps={"b": told}, removed=[], dropped=[]), asked()
    )
    forge.imitate(keyboard(forge, f"w{forge.now.revision}"), paused(forge))
    forge.imitate(ev.Resumed(subject=forge.protocol))


@attack("needed")
def work_on_what_was_edited_after_the_word_at_the_keyboard(forge: Forge) -> None:
    asks_before(forge)
    forge.commit({"src/app.py": "print('pwned')\n"})
    forge.imitate(finish(forge), code={"b.txt": "b\n"})


@attack("counted")
def a_word_judged_on_a_side_branch(forge: Forge) -> None:
    wait = waits(forge, asked())
    side = forge.commit({"side.txt": "x"}, move=False)
    forge.commit(tree=f"{side}^{{tree}}", parents=[forge.tip, side], text="Merge\n")
    forge.imitate(keyboard(forge, wait, at=side), finish(forge, start=side), code={"b.txt": "b\n"})


@attack("transition")
def a_genesis_that_counts_a_word(forge: Forge) -> None:
    asks_first = [*_genesis(forge), asked(), keyboard(forge, "w3")]
    forge.imitate(*asks_first, code=_words(forge), parents=[forge.trusted], fresh=True)


@attack("plan")
def a_plan_too_big_to_be_read(forge: Forge) -> None:
    forge.commit({f"{forge.folder}/context.md": "x" * (2 * 1024 * 1024 + 1)})
    assert forge.now.plan is not None
    forge.imitate(ev.PlanEdited(subject="plan", plan=forge.now.plan, steps={}, removed=[], dropped=[]), paused(forge))


# --- what git makes possible ----------------------------------------------------------------------------------------------


@attack("paths")
def a_name_that_reads_backwards(forge: Forge) -> None:
    forge.commit({f"{forge.folder}/no\u202etes.md": "x"})


@attack("plan")
def a_plan_that_reads_backwards(forge: Forge) -> None:
    forge.commit({f"{forge.folder}/plan.md": "---\ntitle: A plan\n---\nDo \u202eton\u202c it.\n"})
    assert forge.now.plan is not None
    forge.imitate(ev.PlanEdited(subject="plan", plan=forge.now.plan, steps={}, removed=[], dropped=[]), paused(forge))


@attack("record-changed")
def a_symlink_in_the_folder_s_place(forge: Forge) -> None:
    forge.commit({forge.folder: None})
    forge.commit({forge.folder: ("120000", "../elsewhere")})


@attack("record-changed")
def a_record_that_git_is_told_to_ignore(forge: Forge) -> None:
    forge.commit({".gitignore": "*\n"})
    state_json_forged(forge)


@attack("readable")
def a_way_out_of_the_folder(forge: Forge) -> None:
    """A folder `..` in the protocol's, which git does not check out, and stores."""
    with Git.open(forge.box.path) as git:
        found = {
            name: git.object(forge.box.git("rev-parse", f"{forge.tip}:{name}").strip())
            for name in (forge.folder, ".protocols", "")
        }
    up = forge.object("tree", b"100644 x\0" + bytes.fromhex(forge.blob("x")))
    raw = found[forge.folder]
    assert raw is not None
    own = forge.object("tree", b"40000 ..\0" + bytes.fromhex(up) + raw[2])
    for at, name in ((".protocols", forge.protocol), ("", ".protocols")):
        raw = found[at]
        assert raw is not None
        entry = b"40000 " + name.encode() + b"\0"
        place = raw[2].index(entry) + len(entry)
        own = forge.object("tree", raw[2][:place] + bytes.fromhex(own) + raw[2][place + 20 :])
    forge.commit(tree=own)


# --- 29. forked ------------------------------------------------------------------------------------------------------


def fork(
    forge: Forge, *, to: str = "0002-other", at: str | None = None, words: dict[str, str] | None = None, **says: Any
) -> None:
    """Begin another protocol where this one stands, as a runner would but for `at`, `words` (step files) and `says`."""
    then, tip, folder = forge.now, forge.tip, forge.folder
    names = ("plan.md", *(f"{step.place:02d}-{slug}.md" for slug, step in then.steps.items()))
    told = {name: forge.box.git("show", f"{tip}:{folder}/{name}") for name in names} | (words or {})
    steps: Any = {
        slug: {key: getattr(step, key) for key in ev.PlannedStep.__annotations__}
        | {"digest": digest(told[f"{step.place:02d}-{slug}.md"].encode())}
        for slug, step in then.steps.items()
    }
    done = {slug: step.result for slug, step in then.steps.items() if step.status == "completed"}
    fields = {"source": f"{forge.protocol}@{then.revision}", "genesis": then.genesis, "done": done, **says}
    forge.protocol = to
    begun = ev.Created(subject=forge.protocol, title=then.title, base="main", start=at or tip, nonce="2" * 32)
    code: dict[str, Change] = {f"{forge.folder}/{name}": text for name, text in told.items()}
    event = ev.Forked(subject="plan", plan=then.plan or "", steps=steps, **fields)
    forge.imitate(begun, event, code=code, parents=[at or tip], fresh=True)


def test_a_fork_as_a_runner_makes_it_holds(forge: Forge) -> None:
    fork(forge)
    assert forge.now.steps["a"].status == "completed"
    assert any("which verifies" in note for note in forge.holds().notes)


@attack("forked")
def a_fork_with_a_step_that_was_not_done(forge: Forge) -> None:
    fork(forge, done={"a": None, "b": None})


@attack("forked")
def a_fork_with_a_step_left_out_that_was_done(forge: Forge) -> None:
    fork(forge, done={})


@attack("forked")
def a_fork_with_another_result(forge: Forge) -> None:
    fork(forge, done={"a": {"text": "mine"}})


@attack("forked")
def a_fork_with_another_file_of_a_step_that_was_done(forge: Forge) -> None:
    fork(forge, words={"01-a.md": "---\ntitle: 01-a\nkind: command\nrun: echo other > a.txt\noutputs: [a.txt]\n---\n"})


@attack("forked")
def a_fork_that_begins_elsewhere(forge: Forge) -> None:
    fork(forge, at=forge.trusted)


@attack("forked")
def a_fork_that_begins_at_a_person_s_commit(forge: Forge) -> None:
    """Whose code nobody asked about: it is none of what the revision has."""
    fork(forge, at=forge.commit({"a.txt": "mine\n"}))


@attack("forked")
def a_fork_of_another_revision_than_it_names(forge: Forge) -> None:
    fork(forge, source=f"{forge.protocol}@{forge.now.revision - 1}")


@attack("forked")
def a_fork_of_a_protocol_that_was_made_again(forge: Forge) -> None:
    fork(forge, genesis=digest(b"another nonce"))


@attack("forked")
def a_fork_of_itself(forge: Forge) -> None:
    fork(forge, source=f"0002-other@{forge.now.revision}")


@attack("forked")
def a_fork_of_no_revision(forge: Forge) -> None:
    fork(forge, source=f"{forge.protocol}@0{forge.now.revision}")


@attack("forked")
def a_fork_of_work_that_nobody_checked(forge: Forge) -> None:
    """The step is to be done again, and what it left is judged by nobody."""
    forge.imitate(finish(forge), code={"b.txt": "b\n", ".github/workflows/x.yml": "on: push\n"})
    fork(forge)


@attack("forked")
def a_fork_of_work_that_was_taken_back_to_unchecked(forge: Forge) -> None:
    forge.imitate(finish(forge), code={"b.txt": "b\n"})
    between = forge.now.revision
    forge.imitate(passed(forge), ev.StepCompleted(subject="b", attempt=1))
    forge.imitate(undone(forge, between))
    fork(forge)


@attack("forked")
def a_fork_of_a_chain_that_does_not_hold(forge: Forge) -> None:
    forge.imitate(paused(forge), code={"src/app.py": "evil()\n"})
    fork(forge)


@attack("forked")
def a_fork_of_a_fork_that_does_not_hold(forge: Forge) -> None:
    fork(forge, done={"a": None, "b": None})
    fork(forge, to="0003-third")


def with_default_checks(forge: Forge, step: str) -> None:
    """Let the trusted branch have default checks, and people edit the second step."""
    config = {".protocols/config.yaml": "checks: [make test]\n"}
    forge.trusted = forge.commit(config, "checks\n", parents=[forge.trusted], move=False)
    forge.commit({f"{forge.folder}/02-b.md": f"---\ntitle: b\n{step}---\nDo it.\n"})


@attack("plan")
def an_edit_that_leaves_an_agent_without_the_default_checks(forge: Forge) -> None:
    with_default_checks(forge, "kind: agent\n")
    forge.imitate(edited(forge), paused(forge))


@attack("evidence")
def qa_that_did_not_run_the_default_checks(forge: Forge) -> None:
    with_default_checks(forge, "kind: command\nrun: echo b > b.txt\noutputs: [b.txt]\nqa: light\n")
    forge.imitate(edited(forge), finish_edited(forge), code={"b.txt": "b\n"})
    forge.imitate(passed(forge), ev.StepCompleted(subject="b", attempt=1))


@attack("evidence")
def an_agent_completed_without_the_default_checks_and_without_the_edit(forge: Forge) -> None:
    forge.imitate(edited_to_an_agent(forge))
    config = {".protocols/config.yaml": "checks: [make test]\n"}
    forge.trusted = forge.commit(config, "checks\n", parents=[forge.trusted], move=False)
    forge.imitate(finish_edited(forge), ev.StepCompleted(subject="b", attempt=1), code={"b.txt": "b\n"})


@attack("evidence")
def a_step_completed_without_the_qa_that_people_added_to_the_plan(forge: Forge) -> None:
    forge.imitate(edited_to_an_agent(forge))
    plan = forge.box.git("show", f"{forge.tip}:{forge.folder}/plan.md")
    forge.commit({f"{forge.folder}/plan.md": plan.replace("---\n", "---\nqa: full\n", 1)})
    forge.imitate(finish_edited(forge), ev.StepCompleted(subject="b", attempt=1), code={"b.txt": "b\n"})


@attack("paths")
def a_full_log_kept_as_a_submodule(forge: Forge) -> None:
    forge.imitate(ev.StepFailed(subject="b", attempt=1, reason="x" * 70_000))
    forge.imitate(ev.StepRetried(subject="b", attempt=2), record={"log/0001.md": ("160000", "1" * 40)}, rotate=True)


@attack("legality")
def a_step_too_early_above_a_state_that_was_a_submodule(forge: Forge) -> None:
    kept = forge.box.git("show", f"{forge.tip}:{forge.folder}/state.json")
    forge.commit({f"{forge.folder}/state.json": ("160000", "1" * 40)})
    forge.commit({f"{forge.folder}/state.json": kept})
    forge.imitate(finish(forge, "c"), code={"c.txt": "c\n"})


def edited_to_an_agent(forge: Forge) -> ev.PlanEdited:
    """Let people make the second step an agent's that names no check; return the event that records it."""
    forge.commit({f"{forge.folder}/02-b.md": "---\ntitle: b\nkind: agent\n---\nDo it.\n"})
    return edited(forge)


def finish_edited(forge: Forge) -> ev.StepFinished:
    """Return the event of work on the second step as it is in the commit."""
    data = forge.box.git("show", f"{forge.tip}:{forge.folder}/02-b.md").encode()
    return finish(forge, digest=digest(data))


# What else is told, because one deed breaks more than one rule.
ALSO = {
    "work_in_the_name_of_a_person": ("legality",),
    "two_steps_done_in_one_commit": ("legality",),
    "one_transition_of_two_steps": ("legality",),
    "a_full_log_kept_as_a_submodule": ("log",),
    "the_folder_deleted_and_made_again": ("legality", "repair", "words", "record-changed"),
    "a_transition_that_hides_damage": ("record-changed",),
    "a_repair_that_names_other_commits": ("record-changed",),
    "a_segment_number_skipped": ("record",),
    "a_chain_that_begins_in_its_middle": ("legality",),
    "an_approval_that_is_not_there_counted": ("counted",),
    "a_call_of_another_step": ("record",),
    "a_word_judged_where_there_was_no_state": ("needed",),
    "qa_of_a_step_whose_file_is_away": ("needed",),
    "qa_by_a_plan_that_cannot_be_read": ("needed",),
}
