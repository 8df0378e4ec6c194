"""Rules 1 to 13: the record, commit by commit: its files, its messages, its log and the fold of it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from runner.errors import InsufficientHistoryError, RunnerError
from runner.git import LINK, SUBMODULE
from runner.git.objects import name_of
from runner.protocol import decision, log, machine, paths, state
from runner.protocol import events as ev
from runner.protocol.event_types import may_follow
from runner.protocol.events import Event
from runner.protocol.ids import digest
from runner.protocol.log import RawEntry
from runner.protocol.state import State, StepStatus
from runner.trust.transitions import brought
from runner.trust.walk import ParsedCommit, Said, Walk, bytes_of, edited

NONCE = re.compile(r"[0-9a-f]{32}")


# --- any commit ------------------------------------------------------------------------------------------------------


def check_paths(walk: Walk, parsed: ParsedCommit) -> Said:
    """1. The folder holds plain files with plain names, and nothing beside it could be taken for it."""
    for path in parsed.lookalikes:
        yield path, "a file system that ignores case would take this for the protocol's folder"
    kinds = {LINK: "a symbolic link", SUBMODULE: "a submodule"}
    for name in sorted(parsed.folder.odd):
        mode = parsed.files[name].mode
        yield walk.path(name), f"it is {kinds.get(mode, f'of mode {mode}')}, not a plain file"
    if parsed.files.keys() == walk.folder.files.keys():
        return
    folded: dict[str, str] = {}
    for name in sorted(parsed.files):
        if not name.isascii() or not name.isprintable() or "\\" in name:
            yield walk.path(name), "its name is not plain ASCII"
        if folded.setdefault(name.lower(), name) != name:
            yield walk.path(name), f"it differs from {folded[name.lower()]} in case only"


def check_approvals(walk: Walk, parsed: ParsedCommit) -> Said:
    """2. Approvals are only ever added, by a merge too, and what an event counts is there."""
    now, before = parsed.folder.approvals, walk.folder.approvals
    for name, _ in sorted(before.items() - now.items() if before is not now else ()):
        yield walk.path(name), "an approval was changed or deleted"
    if len(parsed.commit.parents) > 1:
        for name in sorted({name for name, _ in brought(walk.git, parsed.commit, walk.protocol) - now.items()}):
            yield walk.path(name), "the merge leaves out an approval, or a refusal, that it brought"
    for event in parsed.events:
        for name in getattr(event, "approvals", ()):
            if f"approvals/{name}" not in now and f"approvals/{name}.approval" not in now:
                yield walk.path(paths.LOG), f"`{event.name}` counts an approval that is not there"


def check_genesis(walk: Walk, parsed: ParsedCommit) -> Said:
    """3. The first commit of the chain is a transition with `created`, of this protocol, on a commit without the folder."""
    if walk.state is not None:
        return  # a second one is not legal
    created = [event for event in parsed.events if isinstance(event, ev.Created)]
    if parsed.trailers is None:
        merge = " by a merge the wrong way round" if len(parsed.commit.parents) > 1 else ""
        yield walk.path(), f"the folder came here{merge}, not by a transition of the runner's"
    elif not created:
        yield walk.path(paths.LOG), "its first transition does not say `created`"
    elif not NONCE.fullmatch(created[0].nonce):
        yield walk.path(paths.LOG), "the nonce is not 32 hex digits"
    elif not parsed.commit.parents:
        yield walk.path(), "the genesis has no parent"


# --- ordinary commits ------------------------------------------------------------------------------------------------


def check_trailers(walk: Walk, parsed: ParsedCommit) -> Said:
    """4. An ordinary commit has no line that could be taken for a trailer of the runner's."""
    if (
        parsed.trailers is None
        and log.parse_message(parsed.commit.message) is None
        and log.has_forged_trailer(parsed.commit.message)
    ):
        yield "", "a commit that is no transition carries a Runner- trailer"


def check_record_changed(walk: Walk, parsed: ParsedCommit) -> Said:
    """5. An ordinary commit leaves the record as the last transition left it; else it is damaged until it is repaired."""
    if parsed.trailers is None and walk.state is not None:
        now = parsed.record
        for name in sorted({*now, *walk.record}):
            if now.get(name) != walk.record.get(name):
                what = "deleted" if name not in now else "changed" if name in walk.record else "added to"
                yield walk.path(name), f"an ordinary commit {what} the runner's record"


# --- transitions -----------------------------------------------------------------------------------------------------


def check_commit(walk: Walk, parsed: ParsedCommit) -> Said:
    """6. A transition's commit has one parent, and no header but tree, parent, author, committer and a signature."""
    if parsed.trailers is not None:
        if len(parsed.commit.parents) > 1:
            yield "", f"a transition with {len(parsed.commit.parents)} parents"
        if not parsed.commit.plain:
            yield "", "the commit object has a header that the runner does not write"


def check_message(walk: Walk, parsed: ParsedCommit) -> Said:
    """7. The message is, byte for byte, what the entries render to."""
    trailers = parsed.trailers
    if (
        trailers is not None
        and log.render_message(walk.protocol, parsed.entries, trailers.trusted) != parsed.commit.message
    ):
        yield "", "the commit's message is not that of its entries"


def check_log(walk: Walk, parsed: ParsedCommit) -> Said:
    """8. The log is the one before with the entries added, as the runner writes them; a full one is kept, whole, in log/."""
    if parsed.trailers is None:
        return
    before, due = walk.log, due_segment(walk)
    if due is not None:
        kept = parsed.files.get(due)
        if kept is None or walk.git.blob(kept.oid) != walk.log:
            yield walk.path(due), "the full log was not kept whole under the next number"
        before = b""
    if log.append(before, parsed.entries) != parsed.log:
        goes_on = parsed.log.startswith(before)
        told = (
            "the entries are not written as the runner writes them"
            if goes_on
            else "the log does not continue the one before"
        )
        yield walk.path(paths.LOG), told


def due_segment(walk: Walk) -> str | None:
    """Return the name under which the log is kept before the next entry, or None where the log continues."""
    if len(walk.log) <= log.SEGMENT:
        return None
    return f"log/{1 + sum(name.startswith('log/') for name in walk.record):04d}.md"


def check_record(walk: Walk, parsed: ParsedCommit) -> Said:
    """9. Of the other files of the record none changes, and none is new that no event names; each is the one named."""
    if parsed.trailers is None:
        return
    now, free = parsed.record, {paths.LOG, paths.STATE, due_segment(walk)}
    for event in parsed.events:
        if isinstance(event, ev.CallHeld):
            name = paths.call_file(event.call)
            free.add(name)
            if name not in now or digest(bytes_of(walk.git, now[name])) != event.digest:
                yield walk.path(name), "it is not the call that `call-held` names"
            if event.call.rpartition(".")[0] != f"{event.subject}.{parsed.attempt(event.subject)}":
                yield walk.path(name), "it is no call of the step's attempt"
        elif isinstance(event, ev.QaPassed | ev.QaFailed) and event.report:
            report = paths.report_file(event.subject, event.attempt)
            free.add(report)
            if report not in now or digest(bytes_of(walk.git, now[report])) != event.report:
                yield walk.path(report), f"it is not the report that `{event.name}` names"
    for name in sorted({*now, *walk.record}):
        if name in walk.record and name not in (paths.LOG, paths.STATE) and now.get(name) != walk.record[name]:
            yield walk.path(name), "a transition changed a file of the record that never changes"
        elif name not in walk.record and name not in free:
            yield walk.path(name), "a file of the record that no event names"


def check_transition(walk: Walk, parsed: ParsedCommit) -> Said:
    """10. The events are those of one transition: what one decision brings about, of one step."""
    before: Event | None = None
    for event in parsed.events:
        if not may_follow(before.type if before else None, event.type):
            told = f"`{before.name}` and `{event.name}`" if before else f"`{event.name}` alone"
            yield walk.path(paths.LOG), f"{told}: not one transition"
        elif (
            before is not None
            and before.type.is_of_step
            and event.type.is_of_step
            and not isinstance(event, ev.StepRetried | ev.StepCancelled)
            and not isinstance(before, ev.CallDecided)
            and event.subject != before.subject
        ):
            yield walk.path(paths.LOG), f"one transition of two steps, {before.subject} and {event.subject}"
        elif isinstance(before, ev.Asked) and not before.subject == event.subject == "plan":
            yield walk.path(paths.LOG), "several questions that are not the planner's"
        before = event
    if isinstance(before, ev.StepCancelled):
        # What needs a cancelled step goes on: alone it would be a way around the approval or the person that the step waits for.
        yield walk.path(paths.LOG), f"{before.subject} was cancelled, and its protocol was not"


def check_legality(walk: Walk, parsed: ParsedCommit) -> Said:
    """11. Each event may happen to the state before it, is about what it can be about, and its revision is the next one."""
    if parsed.illegal is not None:
        yield walk.path(paths.LOG), parsed.illegal
        return
    steps = (
        parsed.after.steps if parsed.after else {}
    )  # no event of the commit that a step is done in gives it another kind
    for number, event in enumerate(parsed.events):
        if isinstance(event, ev.StepFinished):
            by_person = event.executor == "person"
            if by_person != (steps[event.subject].kind == "human"):
                yield walk.path(paths.LOG), f"a {steps[event.subject].kind} step, {event.subject}, by {event.executor}"
            elif by_person and not _is_answered(walk, parsed.raw[:number], event.subject):
                yield (
                    walk.path(paths.LOG),
                    f"a person finished {event.subject}, and nobody was asked and answered in attempt {event.attempt}",
                )
        about = {"protocol": [walk.protocol], "plan": ["plan"]}.get(event.type.about, ["plan", walk.protocol])
        is_step = event.subject in steps or (parsed.before is not None and event.subject in parsed.before.steps)
        if event.subject not in about and not (is_step and event.type.about not in ("protocol", "plan")):
            yield walk.path(paths.LOG), f"`{event.name}` cannot be about {event.subject}"
    if parsed.before is not None:
        yield from _begun_early(walk, parsed, parsed.before)


def _is_answered(walk: Walk, added: list[RawEntry], slug: str) -> bool:
    """Return whether a person was asked about the step's attempt, and answered, by the log and the entries `added` to it."""
    return log.is_answered([*walk.entries(), *added], slug)


def _begun_early(walk: Walk, parsed: ParsedCommit, before: State) -> Said:
    """Yield which steps started before the steps that they need were done."""
    for number, event in enumerate(parsed.events):
        row = event.type  # work that moves a step which was pending until then has started it
        then = machine.fold(before, parsed.entries[:number]) if row.role == "work" and row.step else None
        step = then.steps.get(event.subject) if then is not None else None
        if then is not None and step is not None and step.status is StepStatus.PENDING and decision.lacks(then, step):
            for text in _unready(walk, parsed, then, event.subject):
                yield walk.path(paths.LOG), text


def _id(walk: Walk, data: bytes) -> str:
    """Return the id that a file has in git: equal ids are equal bytes, and thousands of states need not be read."""
    return name_of("blob", data, walk.git.object_format)


def check_fold(walk: Walk, parsed: ParsedCommit) -> Said:
    """12. state.json is the fold of the log, byte for byte."""
    if (
        parsed.trailers is not None
        and parsed.after is not None
        and _id(walk, state.render(parsed.after, walk.rendered)) != parsed.files[paths.STATE].oid
    ):
        yield walk.path(paths.STATE), "state.json is not the fold of the log"


def check_repair(walk: Walk, parsed: ParsedCommit) -> Said:
    """13. After damage comes `record-repaired`; it names the commits whose record is damaged, and no others."""
    if parsed.trailers is not None and walk.damaged_by and parsed.first(ev.RecordRepaired) is None:
        yield walk.path(), "a transition follows an ordinary commit that damaged the record"
    for event in parsed.events:
        if isinstance(event, ev.RecordRepaired) and sorted(event.commits) != sorted(walk.damaged_by):
            yield walk.path(paths.LOG), "it does not name the commits whose damage it repairs"


def _unready(walk: Walk, parsed: ParsedCommit, then: State, slug: str) -> Iterator[str]:
    """Yield what a step lacks that was pending until now, unless it could have started at a commit before, at the same attempt.

    `then`: the state in which it was at work by the log.

    Raises:
        InsufficientHistoryError: a file of the plan is not in this clone.
    """
    step = then.steps[slug]
    for commit in reversed(walk.history(parsed).order):
        try:
            view = walk.view_at(parsed, commit)
            was = view if isinstance(view, str) else edited(view).state
        except InsufficientHistoryError:
            raise
        except RunnerError:
            continue  # nothing began where the words or the record could not be read
        if isinstance(was, str):
            continue
        now = was.steps.get(slug)
        if now is None or (now.status, now.attempt) != (step.status, step.attempt):
            break
        if not decision.lacks(was, now):
            return
    yield f"{slug} started, and {', '.join(decision.lacks(then, step))}, which it needs, was not done"
