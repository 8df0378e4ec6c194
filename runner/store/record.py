"""The record read as plain data, for commands that only show it: no models, git's objects asked for in one go.

`row` is state.json verbatim; `outlook` is the one typed function that says what would follow, by the machine's own rules.
That the record is right is `verify`'s to say.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

from runner import __version__
from runner.errors import IntegrityError, MalformedFileError, RunnerError
from runner.git import Commit, Git, Tree, Worktree
from runner.lines import lines_of
from runner.protocol import log, machine, paths, plans, references, state, strict_yaml
from runner.protocol.ids import STEP_FILE
from runner.protocol.log import RawEntry, Trailers
from runner.protocol.machine import Halt
from runner.protocol.state import ENDED, read_json
from runner.store import worktree
from runner.store.environment import write_loosely

if TYPE_CHECKING:
    from runner.protocol.state import Row, State, StepRow

UNREADABLE = "unreadable"

_NAMES: dict[type, str] = {
    machine.WritePlan: "write-plan",
    machine.RunStep: "run-step",
    machine.AskPerson: "ask-person",
    machine.TakeWork: "take-work",
    machine.CheckStep: "check-step",
    machine.CompleteStep: "complete-step",
    machine.Complete: "complete",
}


class Outlook(NamedTuple):
    """What would follow. `action`: one of `_NAMES`, or `none`; `by`: who owes it, empty where nobody does; `waiting`: the
    ids of the waits; `reason`: why nothing can happen next, or what it is."""

    action: str
    step: str | None
    by: str
    reason: str
    waiting: tuple[str, ...] = ()


# --- rows ------------------------------------------------------------------------------------------------------------


def _place(protocol: str, source: str) -> str:
    """Return a name of a protocol's state.json. `source`: a commit, or `FOLDER:`, the id of its folder."""
    return f"{source}{paths.STATE}" if source[-1] == ":" else f"{source}:{paths.ROOT}/{protocol}/{paths.STATE}"


def _row(protocol: str, data: bytes | None) -> Row:
    return _shown(protocol, read_json(data))


def _shown(protocol: str, found: object) -> Row:
    if not _is_shown(found):
        return {
            "protocol": protocol,
            "status": UNREADABLE,
            "steps": {},
            "waiting": [],
            "title": protocol,
            "revision": 0,
        }
    return {**found, "protocol": protocol}


def _is_shown(found: object) -> TypeGuard[Row]:
    """Return whether it has the fields of a record that are shown, of the right types; the rest is looked at where it is needed."""
    return (
        isinstance(found, dict)
        and all(isinstance(found.get(key), str) for key in ("status", "title", "base"))
        and isinstance(found.get("revision"), int)
        and isinstance(found.get("steps"), dict)
        and isinstance(found.get("waiting"), list)
        and all(isinstance(wait, dict) for wait in found["waiting"])
        and all(
            isinstance(step, dict)
            and isinstance(step.get("place"), int)
            and isinstance(step.get("status"), str)
            and isinstance(step.get("needs"), list)
            for step in found["steps"].values()
        )
    )


def row(git: Git, protocol: str, commit: str) -> Row:
    """Return state.json of a protocol at a commit; status `unreadable` where it is none."""
    return _row(protocol, git.blob(_place(protocol, commit)))


def rows(git: Git, protocols: Mapping[str, str]) -> list[Row]:
    """Return the rows of many protocols, given as id to commit."""
    return list(stream(git, protocols))


def stream(git: Git, protocols: Mapping[str, str]) -> Iterator[Row]:
    """Give what `rows` returns one by one, while git reads on."""
    return map(_row, protocols, git.stream(list(map(_place, protocols, _sources(git, protocols)))))


def _sources(git: Git, protocols: Mapping[str, str]) -> list[str]:
    """Return the commit that shows each protocol or, as `FOLDER:`, the id of its folder where that commit shows others, too.

    git would go through all of `.protocols` for each path in it.
    """
    shown = Counter(protocols.values())
    folders = {commit: git.tree(f"{commit}:{paths.ROOT}") or {} for commit, count in shown.items() if count > 1}
    if not folders:
        return list(protocols.values())
    return [
        f"{at.oid}:" if (at := folders.get(commit, {}).get(protocol)) is not None else commit
        for protocol, commit in protocols.items()
    ]


# --- many rows, in brief -------------------------------------------------------------------------------------------------

BRIEF = 3  # the schema of the file of briefs: another one's are dropped
_FEW = 8  # protocols that a base is asked for one by one
MANY = 100  # protocols from which on the file is worth its reading


class Brief(NamedTuple):
    """What `list` shows of a protocol by its record. `acts`: whether something can happen next (`Outlook.action`); `when`: when the
    commit that was read was made, in seconds since the epoch, 0 where a folder was read; `done` of so many `steps`."""

    status: str
    base: str
    acts: bool
    done: int
    steps: int
    when: int
    title: str


def briefs(git: Git, protocols: Mapping[str, str], at: Path) -> list[tuple[str, Brief]]:
    """Return (id, brief) of protocols given as id to commit. `at`: keeps the briefs of many.

    A brief is kept under the id of the commit or the folder that it was read from, so it is the same for ever, as far as the code
    that decided it is. What could not be read is not kept.
    """
    ids, sources = list(protocols), _sources(git, protocols)
    keys = list(map("{} {}".format, sources, ids))
    kept = _kept(at) if len(keys) >= MANY else {}
    lines = list(map(kept.get, keys))
    known = [_brief_of(line) if line is not None else None for line in lines]
    # The newest first: git stores an older version by its difference from a newer one, which it then has at hand.
    new = [number for number, brief in enumerate(known) if brief is None][::-1]
    data = git.stream([_place(ids[number], sources[number]) for number in new])
    first = list(islice(data, 1))  # git reads on while another one is asked for the times
    made = times(git, [sources[number] for number in new if sources[number][-1] != ":"])
    for number, found in zip(new, chain(first, data), strict=True):
        brief = known[number] = _brief(ids[number], found, made.get(sources[number], 0))
        lines[number] = _line_of(brief)
    if len(keys) >= MANY and (new or len(lines) < len(kept)):
        rows = [f"{key}\t{line}" for key, line in zip(keys, lines, strict=True) if line]
        write_loosely(at, "\n".join([_made_by(), *rows, _WHOLE]).encode("utf-8", "surrogatepass"))
    return [(protocol, brief) for protocol, brief in zip(ids, known, strict=True) if brief is not None]  # none is


_WHOLE = "end"  # the last line of the file


def _line_of(brief: Brief) -> str:
    """Return a brief as the file has it; empty where it is not kept."""
    numbers = "\t".join(map(str, map(int, brief[2:6])))
    line = f"{brief.status}\t{brief.base}\t{numbers}\t{brief.title}"
    return line if brief.status != UNREADABLE and line.count("\t") == 6 and "\n" not in line else ""


def _brief_of(line: str) -> Brief | None:
    """Return the brief of a line of the file; None where it is none."""
    try:
        status, base, acts, done, steps, when, title = line.split("\t")
        return Brief(status, base, acts == "1", int(done), int(steps), int(when), title)
    except ValueError:
        return None


def _brief(protocol: str, data: bytes | None, when: int) -> Brief:
    found = read_json(data)
    if isinstance(found, dict) and found.get("status") in ENDED:  # nothing follows, whatever else it has
        row, acts = _shown(protocol, found), False
    elif state.is_whole(found) and isinstance(found["waiting"], list):
        row, acts = found, machine.can_act(found, protocol)
    else:
        row = _shown(protocol, found)
        acts = outlook(row).action != "none"
    every = [step["status"] in ENDED for step in row["steps"].values() if not step.get("removed")]
    return Brief(row["status"], row.get("base", ""), acts, every.count(True), len(every), when, row["title"])


def _made_by() -> str:
    """Return what decides a brief: the version, and the code, which a checkout changes without one."""
    made = [str(BRIEF), __version__]
    with contextlib.suppress(OSError):  # there are no files of it
        files = [module.__file__ or "" for module in (machine, state)] + [__file__]
        made += [str(os.stat(file).st_mtime_ns) for file in files]
    return " ".join(made)


def _kept(at: Path) -> dict[str, str]:
    """Return the lines that are kept; none where another version made them, or the file is not as it was written."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        lines = at.read_bytes().decode("utf-8", "surrogatepass").split("\n")
        if lines[0] == _made_by() and lines[-1] == _WHOLE:
            return {key: line for key, _, line in (line.partition("\t") for line in lines[1:-1])}
    return {}


def is_cancelled(git: Git, protocol: str, tip: str | None) -> bool:
    """Return whether the protocol's record says so at a commit; None is no commit."""
    return tip is not None and row(git, protocol, tip)["status"] == "cancelled"


def outlook(row: Row) -> Outlook:
    """Return what would follow, as the machine decides it; uncommitted edits of the plan are ignored."""
    status = row["status"]
    if status in ENDED:
        return Outlook("none", None, "", f"it is {status}")
    try:
        now = state.from_plain(row, str(row["protocol"]))
    except RunnerError as error:
        return Outlook("none", None, "anyone", f"{error.what}; {error.hint}")
    return outlook_of(now)


def outlook_of(now: State) -> Outlook:
    """Return what would follow a state."""
    if now.status in ENDED:
        return Outlook("none", None, "", f"it is {now.status}")
    action = machine.decide(now)
    if isinstance(action, Halt):
        owed = action.waiting or tuple(now.waiting)
        failed = next(iter(now.stopped), None)
        step = owed[0].subject if owed and owed[0].subject in now.steps else failed
        by = ", ".join(dict.fromkeys(wait.by for wait in owed)) or "anyone"
        return Outlook("none", step, by, action.reason, tuple(wait.id for wait in owed))
    slug = getattr(action, "slug", None)
    by = "anyone" if isinstance(action, machine.AskPerson) else "runner"
    done = "the questions are answered" if isinstance(action, machine.WritePlan) else "every step is done"
    return Outlook(_NAMES[type(action)], slug, by, now.steps[slug].title if slug else done)


def label(row: Row, slug: str) -> str:
    """Return a step as people see it, its place before it: `02-middleware`; the slug alone where it is no step."""
    return f"{row['steps'][slug]['place']:02d}-{slug}" if slug in row["steps"] else slug


def open_steps(row: Row) -> list[tuple[str, StepRow]]:
    """Return the steps that still count, in the order of their places."""
    found = [(slug, step) for slug, step in row["steps"].items() if not step.get("removed")]
    return sorted(found, key=lambda item: int(item[1]["place"]))


# --- transitions ----------------------------------------------------------------------------------------------------


class Transition(NamedTuple):
    """A transition of a protocol: its commit, and what its trailers say."""

    commit: Commit
    trailers: Trailers

    @property
    def revisions(self) -> range:
        """The revisions of its events."""
        last = self.trailers.revision + 1
        return range(last - len(self.trailers.events), last)

    @property
    def events(self) -> list[tuple[str, str]]:
        """The name of each event, and what it is about."""
        return [(name, about) for name, _, about in (event.partition(" ") for event in self.trailers.events)]

    def has(self, event: str, about: str) -> bool:
        """Return whether it has an event, by its name, on a step, the plan or the protocol."""
        return f"{event} {about}" in self.trailers.events


def transition_of(commit: Commit | None, protocol: str) -> Transition | None:
    """Return the transition of a protocol that a commit is by its trailers, or None."""
    trailers = log.parse_message(commit.message) if commit is not None else None
    if commit is None or trailers is None or trailers.protocol != protocol:
        return None
    return Transition(commit, trailers)


def is_transition(commit: Commit, protocol: str) -> bool:
    """Return whether a commit is a transition of the protocol by its trailers."""
    return transition_of(commit, protocol) is not None


# --- events ----------------------------------------------------------------------------------------------------------


def folder(git: Git, protocol: str, commit: str) -> Tree:
    """Return the entries of the protocol's folder in a commit, not those below its folders."""
    return git.tree(f"{commit}:{paths.folder(protocol)}") or {}


def events(git: Git, protocol: str, commit: str) -> list[RawEntry]:
    """Return every event of the protocol as its log has it, older segments too.

    Raises:
        IntegrityError: the log is not of the grammar.
    """
    there = folder(git, protocol, commit)
    segments = git.tree(f"{commit}:{paths.folder(protocol)}/log") if "log" in there else None
    names = [f"log/{name}" for name in sorted(segments or {})] + [paths.LOG]
    data = git.blobs([f"{commit}:{paths.folder(protocol)}/{name}" for name in names])
    found: list[RawEntry] = []
    for name, part in zip(names, data, strict=True):
        found += log.parse_raw(part or b"", f"{paths.folder(protocol)}/{name} in {commit[:12]}")
    return found


def added(git: Git, protocol: str, commit: Commit) -> list[RawEntry]:
    """Return the entries that a commit added to the log; none where it is no transition of the protocol.

    Raises:
        IntegrityError: the log does not have exactly the entries that the commit's trailers name.
        InsufficientHistoryError: the log is not in this clone.
    """
    own = transition_of(commit, protocol)
    if own is None:
        return []
    at = f"{paths.folder(protocol)}/{paths.LOG}"
    now, *old = git.blobs([f"{oid}:{at}" for oid in (commit.oid, *commit.parents[:1])])
    where, before = f"{at} in {commit.oid[:12]}", (old[0] if old else None) or b""
    if now is None and paths.LOG in folder(git, protocol, commit.oid):
        raise git.missing(f"{paths.LOG} of commit {commit.oid[:12]}")
    now = now or b""
    if before and now.startswith(before):
        found = log.parse_raw(now[len(before) :], where)
    else:  # a new segment, or the log before was damaged
        found = [entry for entry in log.parse_raw(now, where) if entry.revision >= own.revisions[0]]
    told = list(zip(own.revisions, own.trailers.events, strict=True))
    if [(entry.revision, f"{entry.event} {entry.subject}") for entry in found] != told:
        raise IntegrityError(
            "the log has other entries than the commit's trailers say", where, f"run `runner verify {protocol}`"
        )
    return found


def has_unrecorded_approvals(git: Git, protocol: str, commit: str) -> bool:
    """Return whether a protocol has an approval that its log does not name."""
    at = f"{commit}:{paths.folder(protocol)}"
    there = git.tree(f"{at}/{paths.APPROVALS.rstrip('/')}") or {}
    log = (git.blob(f"{at}/{paths.LOG}") or b"") if there else b""
    return any(name.partition(".")[0].encode() not in log for name in there)


def without_undone(entries: Sequence[RawEntry]) -> list[RawEntry]:
    """Return the entries of a log that no undo reverted, oldest first."""
    found: list[RawEntry] = []
    for entry in entries:
        if entry.event == "undone" and isinstance(to := entry.fields.get("to"), int):
            found = [one for one in found if one.revision <= to]
        else:
            found.append(entry)
    return found


# --- facts that git knows ----------------------------------------------------------------------------------------------


def base_tip(git: Git, base: str, remote: str | None) -> str | None:
    """Return the commit that a protocol's base is at here: the branch, else the remote's as last fetched, else the commit."""
    return next(iter(base_tips(git, base, remote)), None)


def base_tips(git: Git, base: str, remote: str | None) -> list[str]:
    """Return the commits that a protocol's base is at: the branch's, the remote's as last fetched; else the commit itself."""
    names = (f"refs/heads/{base}", *([f"refs/remotes/{remote}/{base}"] if remote else []))
    found = [commit for commit in map(git.resolve, names) if commit]
    found = found or [commit for commit in (git.resolve(base),) if commit]
    return list(dict.fromkeys(found))


def left_base(git: Git, tip: str, base: str, remote: str | None) -> str | None:
    """Return the newest commit of the base that `tip` has; a branch here that is behind the remote's is not all of the base."""
    found: str | None = None
    for one in base_tips(git, base, remote):
        common = git.merge_base(one, tip)
        if common is not None and (found is None or git.is_ancestor(found, common)):
            found = common
    return found


def since(git: Git, tip: str, other: str) -> tuple[list[Commit], str | None]:
    """Return the commits of `tip`'s first-parent chain that `other` does not have, oldest first, and the one before them."""
    found: list[Commit] = []
    at: str | None = tip
    while at is not None and not git.is_ancestor(at, other):
        commit = git.commit(at)
        if commit is None:
            break
        found.append(commit)
        at = commit.parents[0] if commit.parents else None
    return found[::-1], at


def newer(git: Git, protocol: str, here: str | None, there: str | None) -> int:
    """Return how many transitions the commit `there` has that `here` has not, as far as this clone knows; nothing is verified."""
    if here is None or there is None or here == there:
        return 0
    try:
        return sum(transition_of(git.commit(oid), protocol) is not None for oid in git.first_parents(there, stop=here))
    except RunnerError:
        return 0


def is_merged(git: Git, protocol: str, tip: str, base: str) -> bool:
    """Return whether the base's commit holds the protocol's record as `tip` has it: by merge, fast-forward or squash."""
    there = folder(git, protocol, base).get(paths.STATE)
    return there is not None and there == folder(git, protocol, tip).get(paths.STATE)


def merged_in(git: Git, protocol: str, base: str) -> str | None:
    """Return the commit of the base's own line that brought the protocol's record as it is there now.

    Raises:
        InsufficientHistoryError: that line, or a tree of it, is not in this clone.
    """
    path = f"{paths.folder(protocol)}/{paths.STATE}"
    code, out, _ = git.try_run("rev-list", "-1", "--first-parent", base, "--", path)
    if code:
        raise git.missing(f"the history of {path}")
    return out.decode().strip() or None


def work_of(git: Git, protocol: str, tip: str, slug: str) -> tuple[str, str] | None:
    """Return (before, after), the two commits between which a step's work lies: its last attempt's; None where it has none.

    The work of a failed attempt is the kept part.
    """
    last = None
    for entry in events(git, protocol, tip):
        if entry.subject != slug or entry.event not in ("step-finished", "step-failed", "step-blocked"):
            continue
        # The work of an attempt that its QA, or CI, failed is on the branch.
        was_checked = (
            last and last.event == "step-finished" and last.fields.get("attempt") == entry.fields.get("attempt")
        )
        last = last if was_checked and not entry.fields.get("kept") else entry
    if last is None:
        return None
    kept = last.fields.get("kept")
    if last.event != "step-finished":
        commit = git.commit(git.resolve(kept) or "") if isinstance(kept, str) else None
        return (commit.parents[0], commit.oid) if commit and commit.parents else None
    for oid in git.first_parents(tip):
        own = transition_of(git.commit(oid), protocol)
        if own is not None and last.revision in own.revisions:
            start = last.fields.get("start")
            by_person = last.fields.get("executor") == "person" and isinstance(start, str)
            return (str(start) if by_person else own.commit.parents[0], oid)
    return None


def reopens(row: Row) -> str:
    """Return the command that opens a failed or blocked protocol again: `retry` where a step did, else `resume`."""
    return "retry" if any(step.get("status") in state.STOPPED for _, step in open_steps(row)) else "resume"


def untaken(git: Git, protocol: str, tip: str) -> list[str]:
    """Return the names of the protocol's words that people committed after its last transition."""
    _, out, _ = git.try_run("rev-list", "--max-count=1", tip, "--", f"{paths.folder(protocol)}/{paths.STATE}")
    last = out.decode().strip()
    if last in ("", tip):
        return []
    before, now = folder(git, protocol, last), folder(git, protocol, tip)
    return sorted(name for name in {*before, *now} if paths.is_plan_file(name) and before.get(name) != now.get(name))


def as_planned(git: Git, row: Row, tip: str) -> Row:
    """Return the row with the steps as people's commits after the last transition have them: the next one records these edits.

    It is as it was where there are none, or where the files make no plan.
    """
    protocol = row["protocol"]
    if row["status"] in ENDED or not row["steps"] or not untaken(git, protocol, tip):
        return row

    names = [(name, entry) for name, entry in folder(git, protocol, tip).items() if paths.is_plan_file(name)]
    try:
        plan = plans.parse({name: git.content(entry) or b"" for name, entry in names}, paths.folder(protocol))
    except MalformedFileError:
        return row
    steps: dict[str, StepRow] = {}
    for step in plan.steps:
        head, needs = step.header, list(step.needs)
        new: StepRow = {"place": 0, "needs": [], "status": "pending", "attempt": 1, "qa": step.qa.value}
        steps[step.slug] = {
            **row["steps"].get(step.slug, new),
            "place": step.number, "title": head.title, "kind": head.kind.value, "needs": needs, "removed": False,
        }  # fmt: skip
    return {**row, "steps": steps}


def unsaved(git: Git, branch: str, protocol: str) -> list[tuple[Worktree, list[str]]]:
    """Return the worktrees of the branch in which a person changed plan files of the protocol and did not commit them, with the
    names of these."""
    at = paths.folder(protocol)
    found = []
    for tree in git.checked_out(branch):
        names = (name.removeprefix(f"{at}/") for name in worktree.unsaved(git, tree, at))
        if edited := sorted(name for name in names if paths.is_plan_file(name)):
            found.append((tree, edited))
    return found


def out_of_plan(git: Git, protocol: str, tip: str, trees: Sequence[Worktree], slugs: Sequence[str]) -> bool:
    """Return whether a person deleted the files of all these steps, in a commit or in a worktree; renumbered ones are there."""

    there = planned(git, protocol, tip, trees)
    return bool(slugs) and all(any(slug not in one for one in there) for slug in slugs)


def planned(git: Git, protocol: str, tip: str, trees: Sequence[Worktree]) -> list[set[str]]:
    """Return the slugs that have a step file: in the commit, then in each worktree, where edits are not recorded yet."""
    listed: list[Iterable[str]] = [folder(git, protocol, tip)]
    for tree in trees:
        with contextlib.suppress(OSError):
            listed.append(os.listdir(tree.path / paths.folder(protocol)))
    return [{match["slug"] for name in names if (match := STEP_FILE.fullmatch(name))} for names in listed]


def prose(data: bytes | None) -> str:
    """Return the text below a file's front matter; all of it where it has none. Nothing is judged here."""
    text = (data or b"").decode("utf-8-sig", "replace").replace("\r\n", "\n")
    if text.startswith("---\n"):
        lines = text.split("\n")
        for at, line in enumerate(lines[1:], 1):
            if line.rstrip() in ("---", "..."):
                return "\n".join(lines[at + 1 :]).strip()
    return text.strip()


def question(title: str, prose: str) -> str:
    """Return what a person's step asks: its title, and the first line of its text."""
    first = next((line.strip() for line in lines_of(prose) if line.strip()), title)
    return log.cut(f"{title}: {first}" if first != title else title)


def asked_now(git: Git, protocol: str, tip: str, steps: Mapping[str, Any], wait: Mapping[str, Any]) -> str:
    """Return the text of a wait; of a person's step, as its file has it now: it may have been edited since."""
    name, data = step_file(git, protocol, tip, str(wait["subject"])) if wait.get("kind") == "human" else ("", None)
    title = (steps.get(str(wait.get("subject"))) or {}).get("title")
    return (
        question(str(title), with_inputs(git, protocol, tip, prose(data)))
        if name and title
        else str(wait.get("text") or "")
    )


def with_inputs(git: Git, protocol: str, tip: str, text: str) -> str:
    """Return a step's prose with its references to the plan's inputs replaced, where plan.md can be read."""
    data = git.blob(f"{tip}:{paths.folder(protocol)}/{paths.PLAN}") if "${{" in text else None
    if data is None:
        return text

    with contextlib.suppress(MalformedFileError):
        front, _ = strict_yaml.split_front_matter(strict_yaml.decode(data, paths.PLAN), paths.PLAN)
        value, _ = strict_yaml.load_yaml(front, paths.PLAN)
        inputs = value.get("inputs") if isinstance(value, dict) else None
        return references.in_prose(text, inputs) if isinstance(inputs, dict) else text
    return text


def step_file(git: Git, protocol: str, tip: str, slug: str) -> tuple[str, bytes | None]:
    """Return (name, bytes) of a step's file in a commit; the name is empty where there is none."""
    for name in folder(git, protocol, tip):
        if (match := STEP_FILE.fullmatch(name)) and match["slug"] == slug:
            return name, git.blob(f"{tip}:{paths.folder(protocol)}/{name}")
    return "", None


def checks(entries: Sequence[RawEntry], slug: str) -> Iterator[tuple[RawEntry, dict[str, Any]]]:
    """Return each check of a step's QA with the event that records it."""
    for entry in entries:
        evidence = entry.fields.get("evidence")
        if entry.subject == slug and isinstance(evidence, list):
            for check in evidence:
                if isinstance(check, dict):
                    yield entry, check


class Merges:
    """Which protocols' records their bases hold, here or on the remote as last fetched; each base is looked at once.

    `.protocols` of a base is read whole for the protocols after the first few, for each of which git is asked by its path.
    """

    def __init__(self, git: Git, remote: str | None) -> None:
        self._git, self._remote, self._asked = git, remote, 0
        self._bases: dict[str, list[str]] = {}
        self._folders: dict[str, Tree] = {}  # by commit

    def holds(self, protocol: str, base: str, tip: str) -> bool:
        """Return whether a protocol's base holds its record as the commit `tip` has it."""
        return self.base_with(protocol, base, tip) is not None

    def base_with(self, protocol: str, base: str, tip: str) -> str | None:
        """Return the commit that a base is at which holds a protocol's record as the commit `tip` has it, or None."""
        if base not in self._bases:
            self._bases[base] = base_tips(self._git, base, self._remote) if base else []
        self._asked += 1
        for commit in self._bases[base]:
            at = self._folder(protocol, commit)
            if at is None:
                continue
            if tip == commit:  # the record was read there
                return commit
            state = (self._git.tree(at) or {}).get(paths.STATE)
            if state is not None and state == folder(self._git, protocol, tip).get(paths.STATE):
                return commit
        return None

    def _folder(self, protocol: str, commit: str) -> str | None:
        """Return a name of the protocol's folder in a commit, or None where it has none."""
        if self._asked > _FEW:
            if commit not in self._folders:
                self._folders[commit] = self._git.tree(f"{commit}:{paths.ROOT}") or {}
            there = self._folders[commit].get(protocol)
            return there.oid if there is not None else None
        at = f"{commit}:{paths.folder(protocol)}"
        return at if self._git.tree(at) is not None else None


def holder(git: Git, protocol: str, tip: str, remote: str | None) -> str | None:
    """Return the commit of its base that holds the end of a protocol as the commit `tip` has it, or None."""
    there = row(git, protocol, tip)
    return Merges(git, remote).base_with(protocol, there.get("base", ""), tip) if there["status"] in ENDED else None


def worktree_paths(git: Git) -> dict[str, str]:
    """Return full branch name to the path of the worktree that has it checked out."""
    return {tree.branch: str(tree.path) for tree in git.worktrees() if tree.branch}


def times(git: Git, commits: Collection[str]) -> dict[str, int]:
    """Return when each of the commits that are here was made, in seconds since the epoch."""
    if not commits:
        return {}
    asked = "".join(f"{commit}\n" for commit in dict.fromkeys(commits)).encode()
    words = ("rev-list", "--no-walk=unsorted", "--ignore-missing", "--timestamp", "--stdin")
    out = git.run(*words, data=asked, env={"GIT_FLUSH": "0"})  # else it writes each line by itself
    pairs = (line.split(" ") for line in out.decode().split("\n"))
    return {pair[1]: int(pair[0]) for pair in pairs if len(pair) == 2}


PLAIN = ("--no-ext-diff", "--no-textconv", "--no-color", "--submodule=short", "--src-prefix=a/", "--dst-prefix=b/")


def diff(
    git: Git,
    old: str,
    new: str,
    *options: str,
    without: str = "",
    parts: Sequence[str] = ("",),
    only: Sequence[str] = (),
) -> bytes:
    """Return the difference of two trees as git prints it for everybody. `without`: a protocol whose folder is left out, or these
    `parts` of it; `only`: the paths that are compared, all where none is named."""
    leave = [f":(top,exclude){paths.folder(without)}{part and '/'}{part}" for part in parts] if without else ()
    where = [*(f":(top,literal){path}" for path in only), *leave]
    return git.run("diff", *PLAIN, *options, old, new, "--", *where, env={"GIT_LITERAL_PATHSPECS": "0"})
