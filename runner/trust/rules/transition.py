"""Rules 1 to 19: a transition: its record (files, message, log and the fold of it), and its work: changes of plan files and code,
the artifacts and evidence that it names, and the files that an undo restores.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from runner.errors import MalformedFileError
from runner.git import LINK, SUBMODULE, Commit, Git, TreeEntry
from runner.git.objects import name_of
from runner.lines import pattern
from runner.protocol import events as ev
from runner.protocol import log, machine, paths, plans, state
from runner.protocol.event_types import may_follow
from runner.protocol.events import Event
from runner.protocol.ids import digest
from runner.protocol.plans import Step, outputs_among
from runner.protocol.state import State, StepStatus
from runner.store.record import transition_of
from runner.trust.transitions import brought, first_parents
from runner.trust.view import View
from runner.trust.walk import ParsedCommit, Said, Walk

NONCE = pattern(r"[0-9a-f]{32}")


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
    for name, other in paths.odd_names(sorted(parsed.files)):
        yield walk.path(name), f"it differs from {other} in case only" if other else "its name is not plain ASCII"


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
    trailers, after = parsed.trailers, parsed.after
    if trailers is None or after is None:
        return
    policy = walk.policy_digest(trailers) if after.schema > 1 else None
    made = log.render_message(
        walk.protocol,
        parsed.entries,
        trailers.trusted,
        schema=after.schema,
        plan=after.plan,
        policy=policy,
        raws=parsed.written,
    )
    if made != parsed.commit.message:
        yield "", "the commit's message is not that of its entries"


def check_log(walk: Walk, parsed: ParsedCommit) -> Said:
    """8. The log is the one before with the entries added, as the runner writes them; a full one is kept, whole, in log/."""
    if parsed.trailers is None:
        return
    due = due_segment(walk)
    if due is not None:
        kept = parsed.files.get(due)
        if walk.git.content(kept) != walk.log:
            yield walk.path(due), "the full log was not kept whole under the next number"
    schema = parsed.after.schema if parsed.after is not None else 1
    if log.continued(walk.log, parsed.written, schema) != parsed.log:
        goes_on = due is not None or parsed.log.startswith(walk.log)
        told = (
            "the entries are not written as the runner writes them"
            if goes_on
            else "the log does not continue the one before"
        )
        yield walk.path(paths.LOG), told


def due_segment(walk: Walk) -> str | None:
    """Return the name under which the log is kept before the next entry, or None where the log continues."""
    return log.segment_name(sum(name.startswith("log/") for name in walk.record)) if log.is_full(walk.log) else None


def check_record(walk: Walk, parsed: ParsedCommit) -> Said:
    """9. Of the other files of the record none changes, and none is new that no event names; each is the one named."""
    if parsed.trailers is None:
        return
    now, free = parsed.record, {paths.LOG, paths.STATE, due_segment(walk)}
    for event in parsed.events:
        if isinstance(event, ev.CallHeld):
            name = paths.call_file(event.call)
            free.add(name)
            if name not in now or digest(walk.git.content(now[name]) or b"") != event.digest:
                yield walk.path(name), "it is not the call that `call-held` names"
            if event.call.rpartition(".")[0] != f"{event.subject}.{parsed.attempt(event.subject)}":
                yield walk.path(name), "it is no call of the step's attempt"
        elif isinstance(event, ev.QaPassed | ev.QaFailed) and event.report:
            report = paths.report_file(event.subject, event.attempt)
            free.add(report)
            if report not in now or digest(walk.git.content(now[report]) or b"") != event.report:
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
            elif by_person and not log.is_answered([*walk.entries(), *parsed.raw[:number]], event.subject):
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


def _begun_early(walk: Walk, parsed: ParsedCommit, before: State) -> Said:
    """Yield which steps started before the steps that they need were done."""
    for number, event in enumerate(parsed.events):
        row = event.type  # work that moves a step which was pending until then has started it
        then = machine.fold(before, parsed.entries[:number]) if row.role == "work" and row.step else None
        step = then.steps.get(event.subject) if then is not None else None
        if then is not None and step is not None and step.status is StepStatus.PENDING and machine.lacks(then, step):
            for text in _unready(walk, parsed, then, event.subject):
                yield walk.path(paths.LOG), text


def check_fold(walk: Walk, parsed: ParsedCommit) -> Said:
    """12. state.json is the fold of the log, byte for byte."""
    if parsed.trailers is not None and parsed.after is not None:
        # Equal ids are equal bytes, and thousands of states need not be read.
        fold = name_of("blob", state.render(parsed.after, walk.rendered), walk.git.object_format)
        if fold != parsed.files[paths.STATE].oid:
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
        view = walk.view_at(parsed, commit, with_edit=True)
        if isinstance(view, str):
            continue  # nothing began where the words or the record could not be read
        now = view.state.steps.get(slug)
        if now is None or (now.status, now.attempt) != (step.status, step.attempt):
            break
        if not machine.lacks(view.state, now):
            return
    yield f"{slug} started, and {', '.join(machine.lacks(then, step))}, which it needs, was not done"


PLAN_FILE_LIMIT = 2 * 1024 * 1024  # bytes; the parser allows less


def check_words(walk: Walk, parsed: ParsedCommit) -> Said:
    """14. A transition changes no plan files; the first one brings them, or the one that a planner's plan came with."""
    if parsed.trailers is None or parsed.before is None:
        return
    own = walk.path() + "/"
    planned = parsed.first(ev.Planned)
    brings = isinstance(planned, ev.Planned) and planned.transcript is not None and parsed.before.plan is None
    for path in _changed(walk.git, parsed):
        name = path.removeprefix(own)
        if not path.startswith(own) or paths.is_record(name):
            continue
        new = name in parsed.files and name not in walk.folder.files
        if not (brings and new and paths.is_plan_file(name) and name != paths.CONTEXT):
            yield path, "a transition changed a plan file"


def check_work(walk: Walk, parsed: ParsedCommit) -> Said:
    """15. Code changes only where a step's work ends or is undone, and below .protocols nothing does but memory/."""
    if parsed.trailers is None or parsed.first(ev.Undone):  # an undoing is compared with what it goes back to
        return
    own = walk.path() + "/"
    works = any(
        (isinstance(event, ev.StepFinished) and event.executor != "person")
        # a step's work so far, and what it waits for; the planner does no work
        or (
            isinstance(event, ev.Asked | ev.CallHeld | ev.EffectUnknown)
            and event.transcript is not None
            and event.subject != "plan"
        )
        for event in parsed.events
    )
    for path in _changed(walk.git, parsed):
        if path.startswith(own):
            continue
        if not works:
            yield path, "a transition without work changed this"
        elif paths.is_for_people(path):
            yield path, "a step changed what only people may change"


def _changed(git: Git, parsed: ParsedCommit) -> tuple[str, ...]:
    if parsed.changed is None:
        parsed.changed = tuple(git.changed(parsed.parent.tree, parsed.commit.tree)) if parsed.parent else ()
    return parsed.changed


def check_plan(walk: Walk, parsed: ParsedCommit) -> Said:
    """16. What `planned` and `plan-edited` say is what the plan's files say in that commit."""
    planned, edit = parsed.first(ev.Planned), parsed.first(ev.PlanEdited)
    if planned is None and edit is None:
        return
    texts = parsed.folder.texts
    for name, size in zip(texts, walk.git.sizes([entry.oid for entry in texts.values()]), strict=True):
        if size is not None and size > PLAN_FILE_LIMIT:
            yield walk.path(name), "the file is too big to be read"
            return
    try:
        plan = walk.plan_in(parsed.folder, parsed.commit.oid, walk.path())
    except MalformedFileError as error:
        yield error.where, f"the plan that the event speaks of cannot be read: {error.what}"
        return
    read = [plans.with_default_checks(plan, checks) for checks in walk.default_checks(parsed)]
    if isinstance(planned, ev.Planned):
        if (planned.plan, planned.steps) not in [(one.digest, machine.planned_steps(one.steps)) for one in read]:
            yield walk.path(paths.PLAN), "`planned` does not say what the plan's files say"
        created = parsed.first(ev.Created)
        if isinstance(created, ev.Created) and created.title != plan.header.title:
            yield walk.path(paths.PLAN), "`created` gives another title"
    elif isinstance(edit, ev.PlanEdited) and parsed.before is not None:
        if edit.model_copy(update={"transcript": None, "spent": {}}) in [
            machine.edit_of(parsed.before, one) for one in read
        ]:
            return  # what planning cost is the history's to show, which a clone may lack
        yield walk.path(paths.PLAN), "`plan-edited` does not say what people changed"


def check_digest(walk: Walk, parsed: ParsedCommit) -> Said:
    """17. The step's file that work names by digest is there, and so are the artifacts.

    Where a person's edit came between, the file is that of the commit at which the work started, on this chain.
    """
    for event in parsed.events:
        if not isinstance(event, ev.StepFinished) or parsed.after is None or event.subject not in parsed.after.steps:
            continue
        name = f"{parsed.after.steps[event.subject].place:02d}-{event.subject}.md"
        if _step_digest(walk, parsed.folder.texts, event.subject) != event.digest:
            began = _files_at(walk, parsed.commit, event.start)
            if began is None or _step_digest(walk, began, event.subject) != event.digest:
                yield walk.path(name), "the step's file is not the one that was carried out"
        if event.artifacts and _is_merged(walk, parsed, event):
            continue  # the artifact is what it was before that
        for artifact in event.artifacts:
            path, data = artifact["path"], walk.git.blob(f"{parsed.commit.tree}:{artifact['path']}")
            if data is None:
                entry = walk.git.files(parsed.commit.tree, path).get(path)
                if entry is None:
                    yield path, "the artifact is not there"
                data = walk.git.content(entry) or b""
            if digest(data) != artifact["digest"]:
                yield path, "the artifact has another digest"


def _is_merged(walk: Walk, parsed: ParsedCommit, event: ev.StepFinished) -> bool:
    """Return whether the work was merged onto a person's: code changed between its start and the commit before this one."""
    began = next((commit for commit in _back(walk, parsed.commit) if commit.oid == event.start), None)
    if began is None or event.executor == "person":  # whose work those changes are
        return False
    return any(not path.startswith(walk.path() + "/") for path in walk.git.changed(began.tree, parsed.below.tree))


def _step_digest(walk: Walk, files: dict[str, TreeEntry], slug: str) -> str | None:
    if walk.step_files[0] is not files:  # a folder in which nothing changed is the very same
        names = (name for name in files if paths.is_plan_file(name))
        walk.step_files = files, {name.partition("-")[2]: name for name in reversed([*names])}  # the first of each
    name = walk.step_files[1].get(f"{slug}.md")
    if name is None:
        return None
    oid = files[name].oid
    if oid not in walk.digests:
        return digest(walk.git.require(oid, name))
    return walk.digests[oid]


def _files_at(walk: Walk, tip: Commit, oid: str) -> dict[str, TreeEntry] | None:
    """Return the folder's files in a commit of the chain below `tip`; None where it is no commit of it."""
    for commit in _back(walk, tip):
        if commit.oid == oid:
            return walk.git.tree(f"{oid}:{walk.path()}")
    return None


def _back(walk: Walk, commit: Commit) -> Iterator[Commit]:
    """Return the chain below a commit, newest first, down to its genesis."""
    own = transition_of(commit, walk.protocol)
    if not commit.parents or (own is not None and own.has("created", walk.protocol)):
        return
    for below in first_parents(walk.git, commit.parents[0]):
        yield below
        own = transition_of(below, walk.protocol)
        if own is not None and own.has("created", walk.protocol):
            return


def check_evidence(walk: Walk, parsed: ParsedCommit) -> Said:
    """18. QA looked at the tree of the commit before; what passed has every check that the step wants, and none that failed; no step
    that wants QA is completed without."""
    for event in parsed.events:
        if isinstance(event, ev.QaPassed | ev.QaFailed):
            if event.tree != (parsed.parent.tree if parsed.parent else None):
                yield "", f"the QA of {event.subject} did not look at the tree before this commit"
            elif isinstance(event, ev.QaPassed) and any(check["code"] != 0 for check in event.evidence):
                yield walk.path(paths.LOG), f"the QA of {event.subject} passed with a check that failed"
            elif isinstance(event, ev.QaPassed) and parsed.is_judged:
                for text in _unchecked(walk, parsed, event):
                    yield walk.path(paths.LOG), text
        elif isinstance(event, ev.StepCompleted) and parsed.is_judged and _wants_qa(walk, parsed, event.subject):
            yield walk.path(paths.LOG), f"{event.subject} was completed without QA, and the step wants it"


def check_undone(walk: Walk, parsed: ParsedCommit) -> Said:
    """19. After `undone` all that the record says is as at the revision that it names. So is the tree outside the folder, or it is
    that from which the next transition started, with what people committed between."""
    event = parsed.first(ev.Undone)
    if not isinstance(event, ev.Undone) or parsed.after is None:
        return
    then = _transition_at(walk, parsed.commit, event.to)
    if then is None:
        yield walk.path(paths.LOG), f"no transition ended at revision {event.to}"
        return
    own, moved = walk.path() + "/", set(_changed(walk.git, parsed))

    def others(tree: str) -> list[str]:
        changed = walk.git.changed(tree, parsed.commit.tree)
        return [
            path for path in changed if not path.startswith(own) and (not paths.is_for_people(path) or path in moved)
        ]

    if wrong := others(then.tree) and others(_tree_after(walk, parsed.commit, then)):
        yield from ((path, f"it is not as it was at revision {event.to}") for path in wrong)
    where = walk.path(paths.STATE)
    old = state.load(walk.git.require(f"{then.oid}:{where}", f"state.json of commit {then.oid[:12]}"), where)
    before = machine.fold(parsed.before, parsed.entries[: parsed.events.index(event)])
    assert before is not None
    if event != machine.undone_of(before, old):
        yield walk.path(paths.LOG), f"it does not list what an undo to this revision takes back: {event.to}"


def _tree_after(walk: Walk, tip: Commit, then: Commit) -> str:
    """Return the tree from which the first transition after `then` started, in the chain below `tip`."""
    tree, at = then.tree, [tip, *itertools.takewhile(lambda one: one.oid != then.oid, _back(walk, tip))]
    for below, commit in zip([*at[1:], then], at, strict=True):
        if transition_of(commit, walk.protocol) is not None:
            tree = below.tree
    return tree


def _transition_at(walk: Walk, tip: Commit, revision: int) -> Commit | None:
    """Return the transition of the chain below `tip` whose last event has the revision."""
    for commit in _back(walk, tip):
        own = transition_of(commit, walk.protocol)
        if own is not None and own.trailers.revision <= revision:
            return commit if own.trailers.revision == revision else None
    return None


def _wants_qa(walk: Walk, parsed: ParsedCommit, slug: str) -> bool:
    """Return whether a step that was completed without QA has one in the plan that the transition read, at its start or before it.

    A transition that leaves out `plan-edited` would else skip the default checks, or the QA that people added to plan.md.
    """
    assert parsed.after is not None
    if parsed.after.steps[slug].passed:
        return False
    work, past, wants = parsed.first(ev.StepFinished), walk.history(parsed).positions, list[bool]()
    start = work.start if isinstance(work, ev.StepFinished) and work.start in past else parsed.below.oid
    for commit in dict.fromkeys((start, parsed.below.oid)):
        view = walk.view_at(parsed, commit)  # where it cannot be read, rule 22 reports it
        step = view.plan.step(slug) if not isinstance(view, str) and view.plan is not None else None
        wants += [step.qa is not plans.QaPolicy.SKIP] if step is not None else []
        if wants and not wants[-1]:
            return False
    return bool(wants)


def _unchecked(walk: Walk, parsed: ParsedCommit, event: ev.QaPassed) -> Iterator[str]:
    """Return how the evidence differs from what the step's file, in the commit that QA looked at, wants to be checked.

    Raises:
        InsufficientHistoryError: a file of the plan is not in this clone.
    """
    view = walk.view_at(parsed, parsed.below.oid)
    if isinstance(view, str):
        yield f"what the QA of {event.subject} had to look at cannot be read: {view}"
        return
    assert view.plan is not None
    step, named = view.plan.step(event.subject), [check["check"] for check in event.evidence]
    read = [plans.with_default_checks(view.plan, checks).step(event.subject) for checks in walk.default_checks(parsed)]
    if step is None:
        yield f"the QA of {event.subject} passed, and it is no step of the plan"
    elif named not in [one.evidence for one in read if one is not None]:
        wanted = ", ".join(step.evidence) or "nothing"
        yield f"the QA of {event.subject} looked at {', '.join(named)}, and the step wants {wanted}"
    else:
        for glob in _lacking(walk, parsed, view, step):
            yield f"the QA of {event.subject} passed, and {glob} was not there"


def _lacking(walk: Walk, parsed: ParsedCommit, view: View, step: Step) -> list[str]:
    """Return the outputs that nothing fits in the tree that QA looked at, nor anything that the step's work changed."""
    made = [one.path for one in view.state.artifacts if one.step == step.slug]
    tree, left = parsed.below.tree, []
    for glob in step.header.outputs:
        if not any(walk.git.ref(f"{tree}:{path}") for path in outputs_among(glob, made)):
            left.append(glob)
    if left:  # an output may have been deleted, or be somebody else's
        works = [raw for raw in walk.entries() if (raw.event, raw.subject) == ("step-finished", step.slug)]
        start = str(works[-1].fields["start"])
        files = [
            *walk.git.files(tree),
            *(walk.git.changed(start, parsed.below.oid) if start in view.branch.positions else ()),
        ]
        left = [glob for glob in left if not outputs_among(glob, files)]
    return left
