"""Rules 14 to 19: what a transition changed: plan files, code, the artifacts and evidence that it names, and what an undo restores."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from runner.errors import InsufficientHistoryError, MalformedFileError, RunnerError
from runner.git import Commit, Git, TreeEntry
from runner.protocol import events as ev
from runner.protocol import machine, paths, plans, state
from runner.protocol.ids import digest
from runner.protocol.plans import Step, outputs_among
from runner.trust.transitions import first_parents, missing, transition_of
from runner.trust.view import View
from runner.trust.walk import ParsedCommit, Said, Walk, bytes_of

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
        if not (brings and new and paths.is_words(name) and name != paths.CONTEXT):
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
        elif path.partition("/")[0].casefold() == paths.ROOT and not path.startswith(paths.MEMORY):
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
        if (planned.plan, planned.steps) not in [(one.digest, machine.planned_steps(one)) for one in read]:
            yield walk.path(paths.PLAN), "`planned` does not say what the plan's files say"
        created = parsed.first(ev.Created)
        if isinstance(created, ev.Created) and created.title != plan.header.title:
            yield walk.path(paths.PLAN), "`created` gives another title"
    elif isinstance(edit, ev.PlanEdited) and parsed.before is not None:
        if dataclasses.replace(edit, transcript=None, spent={}) in [
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
                data = bytes_of(walk.git, entry)
            if digest(data) != artifact["digest"]:
                yield path, "the artifact has another digest"


def _is_merged(walk: Walk, parsed: ParsedCommit, event: ev.StepFinished) -> bool:
    """Return whether the work was merged onto a person's: code changed between its start and the commit before this one."""
    began = next((commit for commit in _back(walk, parsed.commit) if commit.oid == event.start), None)
    if began is None or event.executor == "person":  # whose work those changes are
        return False
    assert parsed.parent is not None
    return any(not path.startswith(walk.path() + "/") for path in walk.git.changed(began.tree, parsed.parent.tree))


def _step_digest(walk: Walk, files: dict[str, TreeEntry], slug: str) -> str | None:
    for name, entry in files.items():
        if name.endswith(f"-{slug}.md") and paths.is_words(name) and name.partition("-")[2] == f"{slug}.md":
            if entry.oid not in walk.digests:
                data = walk.git.blob(entry.oid)
                if data is None:
                    raise missing(walk.git, name)
                return digest(data)
            return walk.digests[entry.oid]
    return None


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
    """19. After `undone` the tree outside the folder, and all that the record says, are those of the revision that it names."""
    event = parsed.first(ev.Undone)
    if not isinstance(event, ev.Undone) or parsed.after is None:
        return
    then = _transition_at(walk, parsed.commit, event.to)
    if then is None:
        yield walk.path(paths.LOG), f"no transition ended at revision {event.to}"
        return
    own, moved = walk.path() + "/", set(_changed(walk.git, parsed))
    for path in walk.git.changed(then.tree, parsed.commit.tree):
        people = path.startswith(f"{paths.ROOT}/") and not path.startswith(paths.MEMORY)
        if not path.startswith(own) and (not people or path in moved):
            yield path, f"it is not as it was at revision {event.to}"
    data = walk.git.blob(f"{then.oid}:{walk.path(paths.STATE)}")
    if data is None:
        raise missing(walk.git, f"state.json of commit {then.oid[:12]}")
    old = state.load(data, walk.path(paths.STATE))
    before = machine.fold(parsed.before, parsed.entries[: parsed.events.index(event)])
    assert before is not None
    if event != machine.undone_of(before, old):
        yield walk.path(paths.LOG), f"it does not list what an undo to this revision takes back: {event.to}"


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
    assert parsed.parent is not None and parsed.after is not None
    if parsed.after.steps[slug].passed:
        return False
    work, past, wants = parsed.first(ev.StepFinished), walk.history(parsed).positions, list[bool]()
    start = work.start if isinstance(work, ev.StepFinished) and work.start in past else parsed.parent.oid
    for commit in dict.fromkeys((start, parsed.parent.oid)):
        try:
            view = walk.view_at(parsed, commit)
        except InsufficientHistoryError:
            raise
        except RunnerError:  # rule 22 reports it
            continue
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
    assert parsed.parent is not None
    try:
        view = walk.view_at(parsed, parsed.parent.oid)
    except InsufficientHistoryError:
        raise
    except RunnerError as error:
        yield f"what the QA of {event.subject} had to look at cannot be read: {error.what}, {error.where}"
        return
    assert not isinstance(view, str), "the state before a transition is known"
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
    assert parsed.parent is not None
    made = [one.path for one in view.state.artifacts if one.step == step.slug]
    tree, left = parsed.parent.tree, []
    for glob in step.header.outputs:
        if not any(walk.git.ref(f"{tree}:{path}") for path in outputs_among(glob, made)):
            left.append(glob)
    if left:  # an output may have been deleted, or be somebody else's
        works = [raw for raw in walk.entries() if (raw.event, raw.subject) == ("step-finished", step.slug)]
        start = str(works[-1].fields["start"])
        files = [
            *walk.git.files(tree),
            *(walk.git.changed(start, parsed.parent.oid) if start in view.branch.positions else ()),
        ]
        left = [glob for glob in left if not outputs_among(glob, files)]
    return left
