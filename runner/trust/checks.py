"""What verify asks of every commit of a protocol's chain: a table of checks, each a rule by the name that findings carry.

A check is a function of (git, what the walk has seen, this commit); it yields (path, text) for what does not hold and changes
nothing. `docs/verify.md` has one line for each, with the same numbers. Reading the commits, folding and reporting is `verify`'s.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from dataclasses import field
from typing import Any

from runner.errors import MalformedFileError
from runner.git import BLOB, EXECUTABLE, LINK, SUBMODULE, Commit, Git, TreeEntry
from runner.protocol import events as ev
from runner.protocol import log, machine, paths, plans, state
from runner.protocol.digest import digest
from runner.protocol.event_types import may_follow
from runner.protocol.events import Entry, Event
from runner.protocol.log import RawEntry
from runner.protocol.plans import Plan
from runner.protocol.state import Rendered, State, StepStatus
from runner.store.trusted import Trusted
from runner.trust.past import Past, brought, missing
from runner.values import dataclass

Said = Iterator[tuple[str, str]]  # (path from the tree's root, what is wrong, in one line)

NONCE = re.compile(r"[0-9a-f]{32}")
WORDS_MOST = 2 * 1024 * 1024  # bytes of one file of people's; the parser allows less


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be. `rule`: a name from `docs/verify.md`; `text`: one line."""

    rule: str
    commit: str
    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Named:
    """A transcript that an event names by its digest; `attempt`: of the step, 0 where the subject is none."""

    commit: str
    event: str
    subject: str
    attempt: int
    digest: str


@dataclass(frozen=True, slots=True)
class Origin:
    """A protocol that a fork goes on from. `fork`: the fork's first commit; `named`: the transcripts up to there."""

    protocol: str
    fork: str
    named: tuple[Named, ...]


@dataclass(slots=True)
class Chain:
    """What a walk has seen so far: the state by the fold, and the record's files as the last transition left them.

    `trusted`: the trusted branch as it was last seen; None where that is not known, and nothing is said of it.
    """

    protocol: str
    trusted: Trusted | None = None
    state: State | None = None
    log: bytes = b""
    record: dict[str, TreeEntry] = field(default_factory=dict)
    approvals: dict[str, TreeEntry] = field(default_factory=dict)
    rendered: Rendered = field(default_factory=Rendered)  # what state.json was rendered with
    names: frozenset[str] = frozenset()  # the folder's files in the commit before
    transitions: int = 0
    damage: list[Finding] = field(default_factory=list)  # by ordinary commits, not repaired yet
    damaged_by: list[str] = field(default_factory=list)  # the commits that stand on a damaged record
    repaired: int = 0
    mended: int = 0
    moved: str | None = None  # the commit that the genesis was made on, where it stands on another one now
    taken_over: list[str] = field(default_factory=list)  # what is to be said of a fork's steps that came done
    origins: list[Origin] = field(default_factory=list)  # whose transcripts are asked about beside the chain
    counted: set[str] = field(default_factory=set)  # ids of the words that events used, and that hold
    named: list[Named] = field(default_factory=list)  # transcripts, in the order of the chain
    reviews: int = 0  # on the forge, that events used: nothing here proves them
    # What `replay` and `acts` keep from one transition to the next.
    past: Past | None = None  # None where the walk goes on from a known tip, and nobody has asked yet
    known: list[RawEntry] | None = None  # the whole log, once somebody has asked for it
    authorities: dict[str, Any] = field(default_factory=dict)  # what the trusted branch said, by commit
    said: dict[tuple[TreeEntry | None, ...], Any] = field(default_factory=dict)  # the same, by the files that say it
    plan: tuple[tuple[tuple[str, str], ...], Plan] | None = (
        None  # the last plan that was read, and the files that it is of
    )
    rules: dict[str, tuple[str | None, ...]] = field(default_factory=dict)  # whose policy and keys a trusted commit has
    below: dict[str, set[str]] = field(default_factory=dict)  # trusted commits that are known to be below one
    was_at: set[str] = field(default_factory=set)  # those that the trusted branch is known to have been at
    doubted: set[int] = field(default_factory=set)  # revisions of the counts that do not hold
    stood: dict[str, Any] = field(default_factory=dict)  # the words that stood for an earlier deed, by subject
    signed: int = 0  # transitions whose signature the policy wanted, and that holds
    unseen: set[str] = field(default_factory=set)  # commits of a local trusted branch that are gone


@dataclass(slots=True)
class Look:
    """One commit, taken apart. `trailers` is None for an ordinary commit; the fields after it are a transition's."""

    commit: Commit
    parent: Commit | None
    files: dict[str, TreeEntry]  # of the protocol's folder, by name in it
    record: dict[str, TreeEntry]  # those of them that are the runner's
    approvals: dict[str, TreeEntry]
    lookalikes: list[str]  # paths that a file system could take for the folder
    trailers: log.Trailers | None = None
    log: bytes = b""
    state: bytes = b""
    entries: list[Entry] = field(default_factory=list)
    raw: list[RawEntry] = field(default_factory=list)  # the same, as they stand in the log
    before: State | None = None
    after: State | None = None
    illegal: str | None = None
    changed: tuple[str, ...] | None = None  # paths that differ from the parent's tree, once somebody has asked

    @property
    def events(self) -> list[Event]:
        """The transition's events, in order."""
        return [entry.event for entry in self.entries]

    def attempt(self, slug: str) -> int:
        """Return the attempt that a step is at after the transition; 0 where there is no such step."""
        step = self.after.steps.get(slug) if self.after else None
        return step.attempt if step else 0

    def first(self, kind: type[Event]) -> Event | None:
        """Return the first event of a kind."""
        return next((event for event in self.events if isinstance(event, kind)), None)


def at(walk: Chain, name: str = "") -> str:
    """Return the path of a file of the protocol's folder."""
    return f"{paths.folder(walk.protocol)}/{name}".rstrip("/")


# --- any commit ------------------------------------------------------------------------------------------------------


def check_paths(git: Git, walk: Chain, look: Look) -> Said:
    """1. The folder holds plain files with plain names, and nothing beside it could be taken for it."""
    for path in look.lookalikes:
        yield path, "a file system that ignores case would take this for the protocol's folder"
    kinds = {LINK: "a symbolic link", SUBMODULE: "a submodule"}
    for name, entry in look.files.items():
        allowed = (BLOB,) if name in look.record else (BLOB, EXECUTABLE)
        if entry.mode not in allowed:
            yield at(walk, name), f"it is {kinds.get(entry.mode, f'of mode {entry.mode}')}, not a plain file"
    if look.files.keys() == walk.names:
        return
    folded: dict[str, str] = {}
    for name in sorted(look.files):
        if not name.isascii() or not name.isprintable() or "\\" in name:
            yield at(walk, name), "its name is not plain ASCII"
        if folded.setdefault(name.lower(), name) != name:
            yield at(walk, name), f"it differs from {folded[name.lower()]} in case only"


def check_approvals(git: Git, walk: Chain, look: Look) -> Said:
    """2. Approvals are only ever added, by a merge too, and what an event counts is there."""
    now = look.approvals
    for name, _ in sorted(walk.approvals.items() - now.items()):
        yield at(walk, name), "an approval was changed or deleted"
    if len(look.commit.parents) > 1:
        for name in sorted({name for name, _ in brought(git, look.commit, walk.protocol) - now.items()}):
            yield at(walk, name), "the merge leaves out an approval, or a refusal, that it brought"
    for event in look.events:
        for name in getattr(event, "approvals", ()):
            if f"approvals/{name}" not in now and f"approvals/{name}.approval" not in now:
                yield at(walk, paths.LOG), f"`{event.name}` counts an approval that is not there"


def check_genesis(git: Git, walk: Chain, look: Look) -> Said:
    """3. The chain begins with a transition that says `created`, of this protocol, on a commit without the folder."""
    if walk.state is not None:
        return  # a second one is not legal
    created = [event for event in look.events if isinstance(event, ev.Created)]
    if look.trailers is None:
        merge = " by a merge the wrong way round" if len(look.commit.parents) > 1 else ""
        yield at(walk), f"the folder came here{merge}, not by a transition of the runner's"
    elif not created:
        yield at(walk, paths.LOG), "its first transition does not say `created`"
    elif not NONCE.fullmatch(created[0].nonce):
        yield at(walk, paths.LOG), "the nonce is not 32 hex digits"
    elif not look.commit.parents:
        yield at(walk), "the genesis stands on no commit"


# --- ordinary commits ------------------------------------------------------------------------------------------------


def check_trailers(git: Git, walk: Chain, look: Look) -> Said:
    """4. An ordinary commit has no line that could be taken for a trailer of the runner's."""
    if (
        look.trailers is None
        and log.parse_message(look.commit.message) is None
        and log.has_forged_trailer(look.commit.message)
    ):
        yield "", "a commit that is no transition carries a Runner- trailer"


def check_record_changed(git: Git, walk: Chain, look: Look) -> Said:
    """5. An ordinary commit leaves the record as the last transition left it; else it is damaged until it is repaired."""
    if look.trailers is None and walk.state is not None:
        now = look.record
        for name in sorted({*now, *walk.record}):
            if now.get(name) != walk.record.get(name):
                what = "deleted" if name not in now else "changed" if name in walk.record else "added to"
                yield at(walk, name), f"an ordinary commit {what} the runner's record"


# --- transitions -----------------------------------------------------------------------------------------------------


def check_commit(git: Git, walk: Chain, look: Look) -> Said:
    """6. A transition's commit has one parent, and no header but tree, parent, author, committer and a signature."""
    if look.trailers is not None:
        if len(look.commit.parents) > 1:
            yield "", f"a transition with {len(look.commit.parents)} parents"
        if not look.commit.plain:
            yield "", "the commit object has a header that the runner does not write"


def check_message(git: Git, walk: Chain, look: Look) -> Said:
    """7. The message is, byte for byte, what the entries render to."""
    trailers = look.trailers
    if (
        trailers is not None
        and log.render_message(walk.protocol, look.entries, trailers.trusted) != look.commit.message
    ):
        yield "", "the commit's message is not that of its entries"


def check_log(git: Git, walk: Chain, look: Look) -> Said:
    """8. The log is the one before with the entries added, as the runner writes them; a full one is kept, whole, in log/."""
    if look.trailers is None:
        return
    before, due = walk.log, due_segment(walk)
    if due is not None:
        kept = look.files.get(due)
        if kept is None or git.blob(kept.oid) != walk.log:
            yield at(walk, due), "the full log was not kept whole under the next number"
        before = b""
    if log.append(before, look.entries) != look.log:
        goes_on = look.log.startswith(before)
        told = (
            "the entries are not written as the runner writes them"
            if goes_on
            else "the log does not go on from the one before"
        )
        yield at(walk, paths.LOG), told


def due_segment(walk: Chain) -> str | None:
    """Return the name under which the log is kept before the next entry, or None where it goes on."""
    if len(walk.log) <= log.SEGMENT:
        return None
    return f"log/{1 + sum(name.startswith('log/') for name in walk.record):04d}.md"


def check_record(git: Git, walk: Chain, look: Look) -> Said:
    """9. Of the other files of the record none changes, and none is new that no event names; each is the one named."""
    if look.trailers is None:
        return
    now, free = look.record, {paths.LOG, paths.STATE, due_segment(walk)}
    for event in look.events:
        if isinstance(event, ev.CallHeld):
            name = paths.call_file(event.call)
            free.add(name)
            if name not in now or digest(_bytes(git, now[name])) != event.digest:
                yield at(walk, name), "it is not the call that `call-held` names"
            if event.call.rpartition(".")[0] != f"{event.subject}.{look.attempt(event.subject)}":
                yield at(walk, name), "it is no call of the step's attempt"
        elif isinstance(event, ev.QaPassed | ev.QaFailed) and event.report:
            report = paths.report_file(event.subject, event.attempt)
            free.add(report)
            if report not in now or digest(_bytes(git, now[report])) != event.report:
                yield at(walk, report), f"it is not the report that `{event.name}` names"
    for name in sorted({*now, *walk.record}):
        if name in walk.record and name not in (paths.LOG, paths.STATE) and now.get(name) != walk.record[name]:
            yield at(walk, name), "a transition changed a file of the record that never changes"
        elif name not in walk.record and name not in free:
            yield at(walk, name), "a file of the record that no event names"


def _bytes(git: Git, entry: TreeEntry | None) -> bytes:
    """Return a file's bytes; of one that is not there, or is none, nothing."""
    if entry is None or entry.mode == SUBMODULE:
        return b""
    data = git.blob(entry.oid)
    if data is None:
        raise missing(git, f"the object {entry.oid[:12]}")
    return data


def check_transition(git: Git, walk: Chain, look: Look) -> Said:
    """10. The events are those of one transition: what one decision brings about, of one step."""
    before: Event | None = None
    for event in look.events:
        if not may_follow(before.type if before else None, event.type):
            told = f"`{before.name}` and `{event.name}`" if before else f"`{event.name}` alone"
            yield at(walk, paths.LOG), f"{told}: not one transition"
        elif (
            before is not None
            and before.type.is_of_step
            and event.type.is_of_step
            and not isinstance(event, ev.StepRetried | ev.StepCancelled)
            and not isinstance(before, ev.CallDecided)
            and event.subject != before.subject
        ):
            yield at(walk, paths.LOG), f"one transition of two steps, {before.subject} and {event.subject}"
        elif isinstance(before, ev.Asked) and not before.subject == event.subject == "plan":
            yield at(walk, paths.LOG), "several questions that are not the planner's"
        before = event
    if isinstance(before, ev.StepCancelled):
        # What needs a cancelled step goes on: alone it would be a way around the approval or the person that the step waits for.
        yield at(walk, paths.LOG), f"{before.subject} was cancelled, and its protocol was not"


def check_legality(git: Git, walk: Chain, look: Look) -> Said:
    """11. Each event may happen to the state before it, is about what it can be about, and its revision is the next one."""
    if look.illegal is not None:
        yield at(walk, paths.LOG), look.illegal
        return
    known = {
        "plan",
        walk.protocol,
        *(look.before.steps if look.before else ()),
        *(look.after.steps if look.after else ()),
    }
    steps = (
        look.after.steps if look.after else {}
    )  # no event of the commit that a step is done in gives it another kind
    for number, event in enumerate(look.events):
        if isinstance(event, ev.StepFinished):
            by_person = event.executor == "person"
            if by_person != (steps[event.subject].kind == "human"):
                yield at(walk, paths.LOG), f"a {steps[event.subject].kind} step, {event.subject}, by {event.executor}"
            elif by_person and not _is_answered(git, walk, look.raw[:number], event.subject):
                yield (
                    at(walk, paths.LOG),
                    f"a person finished {event.subject}, and nobody was asked and answered in attempt {event.attempt}",
                )
        about = {"protocol": {walk.protocol}, "plan": {"plan"}}.get(event.type.about, known)
        if event.subject not in about:
            yield at(walk, paths.LOG), f"`{event.name}` cannot be about {event.subject}"
    if look.before is not None:
        yield from _begun_early(git, walk, look, look.before)


def _is_answered(git: Git, walk: Chain, added: list[RawEntry], slug: str) -> bool:
    """Return whether a person was asked about the step's attempt, and answered, by the log and the entries `added` to it."""
    from runner.trust import replay

    return log.is_answered([*replay.known_of(git, walk), *added], slug)


def _begun_early(git: Git, walk: Chain, look: Look, before: State) -> Said:
    """Return which steps began before what they need was done."""
    for number, event in enumerate(look.events):
        row = event.type  # work that moves a step which was pending until then has started it
        then = machine.fold(before, look.entries[:number]) if row.role == "work" and row.step else None
        step = then.steps.get(event.subject) if then is not None else None
        if then is not None and step is not None and step.status is StepStatus.PENDING and machine.lacks(then, step):
            from runner.trust import acts  # it is a lie, or one of those was opened again meanwhile

            for text in acts.unready(git, walk, look, then, event.subject):
                yield at(walk, paths.LOG), text


def check_fold(git: Git, walk: Chain, look: Look) -> Said:
    """12. state.json is the fold of the log, byte for byte."""
    if look.trailers is not None and look.after is not None and state.render(look.after, walk.rendered) != look.state:
        yield at(walk, paths.STATE), "state.json is not the fold of the log"


def check_repair(git: Git, walk: Chain, look: Look) -> Said:
    """13. After damage comes `record-repaired`; it names the commits that stand on a damaged record, and no others."""
    if look.trailers is not None and walk.damaged_by and look.first(ev.RecordRepaired) is None:
        yield at(walk), "a transition stands on a record that an ordinary commit had damaged"
    for event in look.events:
        if isinstance(event, ev.RecordRepaired) and sorted(event.commits) != sorted(walk.damaged_by):
            yield at(walk, paths.LOG), "it does not name the commits whose damage it repairs"


def check_words(git: Git, walk: Chain, look: Look) -> Said:
    """14. A transition changes no words of people's; the first one brings them, or the one that a planner's plan came with."""
    if look.trailers is None or look.before is None:
        return
    own = at(walk) + "/"
    planned = look.first(ev.Planned)
    brings = isinstance(planned, ev.Planned) and planned.transcript is not None and look.before.plan is None
    for path in _changed(git, look):
        name = path.removeprefix(own)
        if not path.startswith(own) or paths.is_record(name):
            continue
        new = name in look.files and name not in walk.names
        if not (brings and new and paths.is_words(name) and name != paths.CONTEXT):
            yield path, "a transition changed people's words"


def check_work(git: Git, walk: Chain, look: Look) -> Said:
    """15. Code changes only where a step's work ends or is undone, and below .protocols nothing does but memory/."""
    if look.trailers is None or look.first(ev.Undone):  # an undoing is compared with what it goes back to
        return
    own = at(walk) + "/"
    works = any(
        (isinstance(event, ev.StepFinished) and event.executor != "person")
        # a step's work so far, and what it waits for; the planner does no work
        or (
            isinstance(event, ev.Asked | ev.CallHeld | ev.EffectUnknown)
            and event.transcript is not None
            and event.subject != "plan"
        )
        for event in look.events
    )
    for path in _changed(git, look):
        if path.startswith(own):
            continue
        if not works:
            yield path, "a transition without work changed this"
        elif path.partition("/")[0].casefold() == paths.ROOT and not path.startswith(paths.MEMORY):
            yield path, "a step changed what only people may change"


def _changed(git: Git, look: Look) -> tuple[str, ...]:
    if look.changed is None:
        look.changed = tuple(git.changed(look.parent.tree, look.commit.tree)) if look.parent else ()
    return look.changed


def check_plan(git: Git, walk: Chain, look: Look) -> Said:
    """16. What `planned` and `plan-edited` say is what the plan's files say in that commit."""
    planned, edit = look.first(ev.Planned), look.first(ev.PlanEdited)
    if planned is None and edit is None:
        return
    told = {}
    for name, entry in look.files.items():
        if "/" in name or not name.endswith(".md") or name == paths.LOG:
            continue
        size = git.sizes([entry.oid])[0]
        if size is not None and size > WORDS_MOST:
            yield at(walk, name), "the file is too big to be read"
            return
        data = git.blob(entry.oid)
        if data is None:
            raise missing(git, f"{name} of commit {look.commit.oid[:12]}")
        told[name] = data
    try:
        plan = plans.parse(told, at(walk))
    except MalformedFileError as error:
        yield error.where, f"the plan that the event speaks of cannot be read: {error.what}"
        return
    if isinstance(planned, ev.Planned):
        if (planned.plan, planned.steps) != (plan.digest, machine.planned_steps(plan)):
            yield at(walk, paths.PLAN), "`planned` does not say what the plan's files say"
        created = look.first(ev.Created)
        if isinstance(created, ev.Created) and created.title != plan.header.title:
            yield at(walk, paths.PLAN), "`created` gives another title"
    elif isinstance(edit, ev.PlanEdited) and look.before is not None:
        if dataclasses.replace(edit, transcript=None, spent={}) == machine.edit_of(look.before, plan):
            return  # what planning cost is the history's to show, which a clone may lack
        yield at(walk, paths.PLAN), "`plan-edited` does not say what people changed"


def check_digest(git: Git, walk: Chain, look: Look) -> Said:
    """17. The step's file that work names by digest is there, and so are the artifacts.

    Where a person's edit came between, the file is that of the commit which the work began at, on this chain.
    """
    for event in look.events:
        if not isinstance(event, ev.StepFinished) or look.after is None or event.subject not in look.after.steps:
            continue
        name = f"{look.after.steps[event.subject].place:02d}-{event.subject}.md"
        if _step_digest(git, look.files, event.subject) != event.digest:
            began = _files_at(git, walk, look.commit, event.start)
            if began is None or _step_digest(git, began, event.subject) != event.digest:
                yield at(walk, name), "the step's file is not the one that was carried out"
        if event.artifacts and _is_merged(git, walk, look, event):
            continue  # the artifact is what it was before that
        for artifact in event.artifacts:
            path, data = artifact["path"], git.blob(f"{look.commit.tree}:{artifact['path']}")
            if data is None:
                entry = git.files(look.commit.tree, path).get(path)
                if entry is None:
                    yield path, "the artifact is not there"
                data = _bytes(git, entry)
            if digest(data) != artifact["digest"]:
                yield path, "the artifact has another digest"


def _is_merged(git: Git, walk: Chain, look: Look, event: ev.StepFinished) -> bool:
    """Return whether the work was merged onto a person's: code changed between the commit that it began at and the one before."""
    began = next((commit for commit in _back(git, walk, look.commit) if commit.oid == event.start), None)
    if began is None or event.executor == "person":  # whose work those changes are
        return False
    assert look.parent is not None
    return any(not path.startswith(at(walk) + "/") for path in git.changed(began.tree, look.parent.tree))


def _step_digest(git: Git, files: dict[str, TreeEntry], slug: str) -> str | None:
    for name, entry in files.items():
        if paths.is_words(name) and name.partition("-")[2] == f"{slug}.md":
            data = git.blob(entry.oid)
            if data is None:
                raise missing(git, name)
            return digest(data)
    return None


def _files_at(git: Git, walk: Chain, tip: Commit, oid: str) -> dict[str, TreeEntry] | None:
    """Return the folder's files in a commit of the chain below `tip`; None where it is no commit of it."""
    for commit in _back(git, walk, tip):
        if commit.oid == oid:
            return git.tree(f"{oid}:{at(walk)}")
    return None


def _back(git: Git, walk: Chain, commit: Commit) -> Iterator[Commit]:
    """Return the chain below a commit, newest first, down to its genesis."""
    while commit.parents:
        trailers = log.parse_message(commit.message)
        if trailers and trailers.protocol == walk.protocol and trailers.events[0] == f"created {walk.protocol}":
            return
        below = git.commit(commit.parents[0])
        if below is None:
            raise missing(git, f"commit {commit.parents[0][:12]}")
        commit = below
        yield commit


def check_evidence(git: Git, walk: Chain, look: Look) -> Said:
    """18. QA looked at the tree of the commit before; what passed has every check that the step wants, and none that failed."""
    for event in look.events:
        if isinstance(event, ev.QaPassed | ev.QaFailed):
            if event.tree != (look.parent.tree if look.parent else None):
                yield "", f"the QA of {event.subject} did not look at the tree before this commit"
            elif isinstance(event, ev.QaPassed) and any(check["code"] != 0 for check in event.evidence):
                yield at(walk, paths.LOG), f"the QA of {event.subject} passed with a check that failed"
            elif isinstance(event, ev.QaPassed) and _is_judged(look):
                from runner.trust import acts  # as for what was needed

                for text in acts.unchecked(git, walk, look, event):
                    yield at(walk, paths.LOG), text


def check_undone(git: Git, walk: Chain, look: Look) -> Said:
    """19. After `undone` the tree outside the folder, and all that the record says, are those of the revision that it names."""
    event = look.first(ev.Undone)
    if not isinstance(event, ev.Undone) or look.after is None:
        return
    then = _transition_at(git, walk, look.commit, event.to)
    if then is None:
        yield at(walk, paths.LOG), f"no transition ended at revision {event.to}"
        return
    own, moved = at(walk) + "/", set(_changed(git, look))
    for path in git.changed(then.tree, look.commit.tree):
        people = path.startswith(f"{paths.ROOT}/") and not path.startswith(paths.MEMORY)
        if not path.startswith(own) and (not people or path in moved):
            yield path, f"it is not as it was at revision {event.to}"
    data = git.blob(f"{then.oid}:{at(walk, paths.STATE)}")
    if data is None:
        raise missing(git, f"state.json of commit {then.oid[:12]}")
    old = state.load(data, at(walk, paths.STATE))
    before = machine.fold(look.before, look.entries[: look.events.index(event)])
    assert before is not None
    if event != machine.undone_of(before, old):
        yield at(walk, paths.LOG), f"it does not say what is to be taken back to stand as at revision {event.to}"


def _transition_at(git: Git, walk: Chain, tip: Commit, revision: int) -> Commit | None:
    """Return the transition of the chain below `tip` whose last event has the revision."""
    for commit in _back(git, walk, tip):
        trailers = log.parse_message(commit.message)
        if trailers and trailers.protocol == walk.protocol and trailers.revision <= revision:
            return commit if trailers.revision == revision else None
    return None


def _uses_words(look: Look) -> bool:
    return any(isinstance(event, ev.ApprovalCounted | ev.CallDecided) for event in look.events)


def _is_judged(look: Look) -> bool:
    """Return whether what a transition did, or whose words it used, can be judged: of a chain that holds so far."""
    return look.before is not None and look.illegal is None  # an ordinary commit has no state before it


def check_counted(git: Git, walk: Chain, look: Look) -> Said:
    """20. The words that an event uses are those that counted then, and they were enough."""
    if _is_judged(look) and _uses_words(look):
        from runner.trust import replay  # takes what reading the policy takes, and most chains have no words

        for text in replay.wrong(git, walk, look):
            yield at(walk, paths.LOG), text


def check_trusted(git: Git, walk: Chain, look: Look) -> Said:
    """21. The policy that words were counted or work was done under is the trusted branch's, and no older one than before."""
    used = _uses_words(look)
    if _is_judged(look) and (used or deed_of(look) is not None):
        from runner.trust import acts

        for text in acts.went_back(git, walk, look, used=used):
            yield "", text


def check_needed(git: Git, walk: Chain, look: Look) -> Said:
    """22. What was done had the words that the policy of then and the plan wanted for it, and nothing of it was denied."""
    if _is_judged(look) and deed_of(look) is not None and next(check_work(git, walk, look), None) is None:
        from runner.trust import acts

        for text in acts.wrong(git, walk, look):
            yield at(walk, paths.LOG), text


def check_signed(git: Git, walk: Chain, look: Look) -> Said:
    """23. A transition is signed by a key that the policy of then lists, where it wants that; and no signature is a bad one."""
    if look.commit.signed or (look.trailers is not None and look.illegal is None):
        from runner.trust import acts

        for text in acts.unsigned(git, walk, look):
            yield "", text


def check_forked(git: Git, walk: Chain, look: Look) -> Said:
    """29. What a fork has as done was done in the protocol that it names, at the commit that it begins at, and that verifies."""
    if look.first(ev.Forked) is not None and look.illegal is None:
        from runner.trust import forked  # verifies that other chain

        for text in forked.wrong(git, walk, look):
            yield at(walk, paths.LOG), text


def deed_of(look: Look) -> int | None:
    """Return the place of the event by which a transition carried out, checked or ended a step; None where it did not."""
    for number, event in enumerate(look.events):
        role = event.type.role
        if role in ("edit", "approval"):
            continue
        again = isinstance(event, ev.CallHeld) and event.transcript is None and number > 0  # its word had ended
        done = role in ("work", "qa") and look.after is not None and event.subject in look.after.steps
        return number if done and not again else None
    return None


Check = Callable[[Git, Chain, Look], Said]

# The rules by their numbers, in the order in which a commit is asked.
CHECKS: dict[str, Check] = {
    "paths": check_paths,  # 1
    "approvals": check_approvals,  # 2
    "genesis": check_genesis,  # 3
    "trailers": check_trailers,  # 4
    "record-changed": check_record_changed,  # 5
    "commit": check_commit,  # 6
    "message": check_message,  # 7
    "log": check_log,  # 8
    "record": check_record,  # 9
    "transition": check_transition,  # 10
    "legality": check_legality,  # 11
    "fold": check_fold,  # 12
    "repair": check_repair,  # 13
    "words": check_words,  # 14
    "work": check_work,  # 15
    "plan": check_plan,  # 16
    "digest": check_digest,  # 17
    "evidence": check_evidence,  # 18
    "undone": check_undone,  # 19
    "counted": check_counted,  # 20
    "trusted": check_trusted,  # 21
    "needed": check_needed,  # 22
    "signed": check_signed,  # 23
    "forked": check_forked,  # 29
}
