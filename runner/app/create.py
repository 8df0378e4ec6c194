"""Create a protocol: from plan files, those of a folder or a workflow, a skeleton, or a plan that a model writes.

It is created completely or not at all: branch, genesis commit and number in one ref transaction. The person's checkout is not
touched. `runner.protocol.plans` defines the files.

A workflow is a plan with declared inputs (`runner.protocol.workflow`), of the trusted branch's `.protocols/workflows/` or built in.
One of the project's own goes before a built-in one of the same name; one on a branch that is not trusted does not exist.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runner import resources
from runner.app import suite
from runner.errors import ConflictError, MalformedFileError, UnsupportedError, UsageError, WaitingError
from runner.executor import asking, load, planning, step_run, transition
from runner.git import BLOB, EXECUTABLE, TREE, TreeEntry
from runner.lines import counted, cut, is_harmless
from runner.protocol import clarifications, config, ids, log, machine, paths, plans, strict_yaml, workflow
from runner.protocol import events as ev
from runner.protocol.ids import digest
from runner.protocol.plans import TITLE_LIMIT, Plan, StepKind
from runner.protocol.state import SCHEMA, State
from runner.store import batch, history, locks, lookup, protocol_worktree, publishing, transaction
from runner.store.environment import write_atomically, write_checkpoint
from runner.store.project import Project, Session
from runner.store.transaction import RefUpdate
from runner.store.trusted import policy_digest
from runner.trust import requirements, trusted_config
from runner.trust.transitions import commit_of

RACES = 50
MANY = 16  # files of a plan that are worth a pack: each one is 4 kB of the disk, and waited for
COMMANDS = 4  # commands that may run the tests, of which a planner may try each
WORKFLOWS = f"{paths.ROOT}/workflows"
_WORKFLOW_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")

Refs = Mapping[str, tuple[str | None, str | None]]  # how refs move: name to (new, expected)


def _no_note() -> None:
    """Remove nothing: no note was written of the command."""


@dataclass(frozen=True, slots=True)
class Made:
    """A new protocol. `path`: the person's worktree, or None.

    If a model wrote its plan: `spent`, what that cost; `outline`, its steps with their commands; `questions`, wait (w2) and text of
    each question that it has before it can plan. Of a fork: `source`, PROTOCOL@REVISION; `done`, the number of completed steps.
    `printed()` has to be called once the id is printed: until then the same command finishes this protocol and makes no other.
    """

    protocol: str
    steps: int
    base: str
    start: str
    path: Path | None
    note: str
    spent: ev.Spent = field(default_factory=ev.Spent)
    outline: tuple[str, ...] = ()
    questions: tuple[tuple[str, str], ...] = ()
    source: str = ""
    done: int = 0
    printed: Callable[[], None] = _no_note


_HIDDEN = re.compile(r"<!--.*?(?:-->|\Z)|^[ \t]*\[[^\]\n]*\]:[ \t]*#[^\n]*$", re.DOTALL | re.MULTILINE)


def text_from(cwd: Path, named: Path) -> str:
    """Return the text of a file, such as a spec or an issue, without what its reader does not see: comments and invisible characters.

    Raises:
        UsageError: it cannot be read, or has no text.
    """
    try:
        text = visible((cwd / named).read_bytes().decode("utf-8", "replace"))
    except OSError as error:
        raise UsageError(f"{named} cannot be read: {error.strerror}", str(cwd), "name another file") from error
    if not text:
        raise UsageError(f"{named} has no text", str(cwd), "name another file")
    return text


def visible(text: str) -> str:
    """Return a text of others as its reader sees it: without comments and invisible characters."""
    text, before = text.replace("\r\n", "\n"), ""
    while text != before:  # the rest of one may form another
        before = text
        text = _HIDDEN.sub("", "".join(char for char in text if char in "\n\t" or is_harmless(char)))
    return text.strip()


def planned(
    session: Session, title: str, *, base: str | None = None, questions: bool = True, text: str = "", where: str = ""
) -> Made:
    """Create a protocol whose plan a model writes; the commit is the person's who asked for it. `text`: what it is about, quoted as
    untrusted, from `where`; its first line is the title if that is empty.

    If the model has questions and nobody is at the terminal, they wait in the record, and the plan follows their answers.

    Raises:
        EngineError: there is no plan. Nothing was made. WaitingError: as `create`.
    """
    session.project.refuse_unsupported()
    heed_open_questions(session)
    title = title or (text.splitlines()[0].lstrip("#").strip() or "Plan from a text" if text else "")
    request = strict_yaml.decode(title.encode("utf-8", "surrogateescape"), "TITLE").strip()
    if not request:
        raise UsageError("TITLE is empty", "the command line", "describe the task")
    session.person()  # an unknown identity is reported before a model is paid
    planning.need_model(session.project, _headline(request), where if text else "")
    start = _tell_of_start(session.project, base)
    task = planning.task_of_new(session.project, request, start, text=text, where=where)
    commands = tuple(one.line for one in suite.candidates(session.git, start))
    named = "" if text else planning.named_command(request, (*session.project.config.checks, *commands))
    seen = planning.Base(start, commands[:COMMANDS], named=named)
    with planning.written(session, task, questions=questions, waits=True, base=seen) as made_plan:
        if isinstance(made_plan, planning.Asking):
            asked = made_plan.events()
            genesis = Genesis(_headline(request), asked, {}, title.strip(), base, made_plan.transcript)
            made = make(session, genesis)
            waits = tuple((f"w{number}", event.text) for number, event in enumerate(asked, 2))
            return dataclasses.replace(made, spent=made_plan.spent, questions=waits)
        made = create(session, title, made_plan.files, where="the model's plan", base=base, by=made_plan)
        outline = tuple(planning.outline(made_plan.files, made_plan.untried))
        return dataclasses.replace(made, spent=made_plan.spent, outline=outline)


def create(
    session: Session,
    title: str,
    files: Mapping[str, bytes],
    *,
    where: str,
    base: str | None = None,
    by: planning.Written | None = None,
) -> Made:
    """Create a protocol with these plan files (name in the folder to bytes): branch, genesis commit, worktree.

    `title`: the text that the id is made from; if it is empty, the plan's title. `where`: the name of the files in messages.
    `by`: the model's work, if a model wrote them.

    Raises:
        MalformedFileError: a file is not valid; nothing was made.
        WaitingError: the project has an open question, and the configuration asks for its answer first.
    """
    session.project.refuse_unsupported()
    if by is None:  # else they were checked before the model was asked
        heed_open_questions(session)
    plan = plans.parse(files, where, session.project.config.checks)
    plans.refuse_unsupported(plan, where)
    for error in (*plans.unchecked(plan, where), *workflow.undeclared(plan, where)):
        raise error
    _refuse_unattainable(session.project, plan, where)
    planned = ev.Planned(
        subject="plan",
        plan=plan.digest,
        steps=machine.planned_steps(plan.steps),
        engine=by.engine if by else None,
        transcript=digest(by.transcript) if by else None,
        spent=by.spent if by else {},
    )
    transcript = by.transcript if by else None
    base = base or plan.header.base
    if by is None:
        _tell_of_start(session.project, base)
    return make(session, Genesis(plan.header.title, [planned], files, title.strip(), base, transcript))


def _refuse_unattainable(project: Project, plan: Plan, where: str) -> None:
    """Refuse a plan that asks for an approval no one can give; without one the policy is not read."""
    steps = [step for step in plan.steps if step.header.approval]
    if not steps and not plan.header.approval:
        return
    trusted = trusted_config.of(project)
    requirements.of_plan(trusted, plan, where)
    for step in steps:
        requirements.of_start(trusted, step, where)
        requirements.of_result(trusted, step, 1, where)


@dataclass(frozen=True, slots=True)
class Genesis:
    """The first transition of a protocol: `created` and these events, with the person's plan files.

    `name`: the text that the id is made from, else the title; `base`: the branch to merge into, None: the default; `transcript`: the
    planner's, for the history; `start`: the commit that the branch starts at, None: the base's tip.
    """

    title: str
    events: Sequence[ev.Event]
    files: Mapping[str, bytes]
    name: str
    base: str | None
    transcript: bytes | None = None
    start: str | None = None


Then = Callable[[str, str], tuple[str, Refs]]


def make(session: Session, genesis: Genesis, then: Then | None = None) -> Made:
    """Make the branch of a protocol, with its genesis commit and the claim of its number.

    `then(id, genesis)` returns the commit that the branch moves on to, and refs that move in the same transaction; it notes them,
    so that they are finished after a kill.
    """
    git, env = session.git, session.env
    session.person()
    base_name, base_tip = protocol_worktree.base_of(session.project, genesis.base)
    if genesis.start is None:
        _warn_of_untrusted_rules(session, base_tip)
        genesis = dataclasses.replace(genesis, start=base_tip)
    start = str(genesis.start)
    trunk = {**(git.tree(f"{base_tip}:{paths.ROOT}") or {}), **(git.tree(f"{start}:{paths.ROOT}") or {})}
    slug = ids.slug_of_title(genesis.name or genesis.title)
    nonce = env.random_hex(32)
    note = _note(session, genesis, base_name) if then is None else None  # `then` writes its own
    if note is not None and (made := _finish(session, note)) is not None:
        return made
    claimed = publishing.look_at_numbers(session, always=then is not None)
    for _ in range(RACES):
        number = max(lookup.numbers_taken(git, base_tip, session.project.pattern) | claimed, default=0) + 1
        protocol = ids.protocol_id(number, slug)
        if protocol in trunk:
            continue
        tests = f"{one.text()} (`{one.line}`)" if (one := suite.failing(session.project, start)) else None
        created = ev.Created(
            subject=protocol, title=genesis.title, base=base_name, start=start, nonce=nonce, tests=tests, schema=SCHEMA
        )
        with git.collecting() if len(genesis.files) > MANY else contextlib.nullcontext():
            commit, state = _commit(session, genesis, created)
        also: dict[str, tuple[str | None, str | None]] = {lookup.claim_ref(number): (commit, None)}
        filed = None
        if genesis.transcript is not None:
            said = {history.transcript_name("plan", 1): genesis.transcript}
            filed, before = history.add(git, protocol, said, commit, session.project.runner())
            also[history.ref_of(protocol)] = (filed, before)
        tip = commit
        if then is not None:
            tip, refs = then(protocol, commit)
            also |= refs
            filed = refs.get(history.ref_of(protocol), (None, None))[0]
        if note is not None:
            note.write(protocol, tip)
        try:
            push = publishing.pusher(session, protocol, tip, genesis=commit, filed=filed)
            update = RefUpdate(session.project.branch(protocol), None, tip, "runner: created", also)
            transaction.move_refs(session.project, update, push)
        except ConflictError:
            if then is not None and any(git.ref(name) == new for name, (new, old) in also.items() if new != old):
                raise  # a git died amid the refs: `then` noted them, and another number would be a second protocol
            claimed = publishing.look_at_numbers(session, always=then is not None)
            continue
        write_checkpoint(session.dirs, protocol, commit, state.genesis)
        batch.fold(session.project)
        path, why = protocol_worktree.add_worktree(session.project, protocol)
        printed = note.remove if note is not None else _no_note
        return Made(protocol, len(state.steps), base_name, start, path, why, printed=printed)
    raise ConflictError("no number could be claimed", lookup.NUMBERS, "run the same command again")


def _note(session: Session, genesis: Genesis, base: str) -> locks.RequestNote:
    """Return the note by which the same command finishes this protocol after a kill."""
    files = sorted((name, digest(data)) for name, data in genesis.files.items())
    asked = repr((genesis.name or genesis.title, base, genesis.events, files, session.person().email))
    key = digest(asked.encode("utf-8", "surrogateescape")).removeprefix("sha256:")
    return locks.RequestNote(session.dirs.unfinished(key))


def _commit(session: Session, genesis: Genesis, created: ev.Created) -> tuple[str, State]:
    """Write the genesis commit of a protocol on its start; return it, and the state that it records."""
    git, protocol, person = session.git, created.subject, session.person()
    entries = transaction.entries_of(None, [created, *genesis.events], session.env.timestamp(), session.actor())
    state, record = transaction.render_record(None, b"", 0, entries)
    start, folder = commit_of(git, created.start), paths.folder(protocol)
    files = {**genesis.files, **record}
    written = {f"{folder}/{name}": TreeEntry(BLOB, git.write("blob", data)) for name, data in files.items()}
    tree = git.edited(start.tree, written)
    trusted = session.project.trusted.commit
    policy = policy_digest(git, trusted)
    text = log.render_message(protocol, entries, trusted, schema=state.schema, plan=state.plan, policy=policy)
    sign = transition.signer(session.project, genesis.events)
    if sign is None:
        return git.person_commit(tree, (start.oid,), person, text), state
    return git.write_commit(tree, (start.oid,), person, person, text, sign), state


def _finish(session: Session, note: locks.RequestNote) -> Made | None:
    """Finish the protocol that the same command was creating when it was killed; None if there is none, or it has advanced since."""
    if note.told is None:
        return None
    git, (protocol, tip) = session.git, note.told
    branch, check = session.project.branch(protocol), load.Checker(session, protocol)
    # The command may have been killed after the push, before the branch was made here.
    if git.ref(branch) is None and session.mirror is not None:
        session.mirror.fetch(branch)
        if tip in session.mirror.refs().values():
            publishing.bring(session, protocol, check)
    if git.ref(branch) != tip:
        return None
    with load.at_work(session, protocol):  # which finishes an interrupted worktree
        state = load.read(session, protocol).state
    there = git.checked_out(branch)
    path, why = (there[0].path, "") if there else protocol_worktree.add_worktree(session.project, protocol)
    session.env.say(f"{protocol} was left unfinished by an earlier, killed run of this command; it is complete now")
    start = commit_of(git, tip)
    waits = tuple((wait.id, wait.text) for wait in state.waiting)
    return Made(
        protocol, len(state.steps), state.base, start.parents[0], path, why, questions=waits, printed=note.remove
    )


def heed_open_questions(session: Session) -> None:
    """Print each open question of the project, or refuse to start anything before its answer, as `clarifications:` says.

    Raises:
        WaitingError: naming the place of the first one, and what to do.
    """

    def still() -> list[clarifications.Question]:
        data = session.project.trusted.blob(session.git, paths.CLARIFICATIONS)
        return [one for one in clarifications.parse(data, where) if one.answer is None]

    where = f"{paths.CLARIFICATIONS} on {session.project.trusted.branch}"
    if still() and session.project.trusted.remote:
        publishing.look(session)  # the answers may have been pushed since this clone last looked
    found = still()
    if found and session.project.config.clarifications == "block":
        many = "a question is" if len(found) == 1 else f"{len(found)} questions are"
        remote, branch = session.project.trusted.remote, session.project.trusted.branch
        raise WaitingError(
            f"{many} open, and no protocol starts before:" + "".join(f"\n  - {one.text}" for one in found),
            f"{where}:{found[0].line}",
            "write the answers there, or run `runner init` at a terminal, which asks; then commit the file"
            + (f" and `git push {remote} {branch}`" if remote else f" on {branch}"),
        )
    known, text = session.dirs.beside / "questions", "".join(f"{one.text}\n" for one in found)
    with contextlib.suppress(OSError):
        if not found or known.read_text("utf-8") == text:
            return  # this clone's person has read them
    for one in found:
        session.env.say(f"open question: {one.text} ({where}:{one.line})")
    with contextlib.suppress(OSError):
        known.parent.mkdir(exist_ok=True)
        write_atomically(known, text.encode())


def _tell_of_start(project: Project, base: str | None) -> str:
    """Return the commit that work starts at. Print how many tests fail there; and where no base is named, that the base's branch
    here has commits that the remote's has not, or that the person is on another branch with commits of its own."""
    name, start = protocol_worktree.base_of(project, base)
    here, remote = project.git.resolve(f"refs/heads/{name}"), project.trusted.remote
    if not base and here is not None and remote is not None and not project.git.is_ancestor(here, start):
        count = int(project.git.run("rev-list", "--count", here, f"^{start}"))
        project.env.say(
            f"it starts from {remote}/{name}, without {counted(count, 'commit')} of your {name}: "
            f"`git push {remote} {name}` first, or `--base {name}`, takes {'them' if count > 1 else 'it'} along"
        )
    head = project.git.symbolic_ref("HEAD", project.git.git_dir) or ""
    branch, at = head.removeprefix("refs/heads/"), project.git.resolve("HEAD")
    is_other = bool(head) and branch != name and ids.protocol_of_branch(project.pattern, branch) is None
    if not base and is_other and at is not None and not project.git.is_ancestor(at, start):
        project.env.say(
            f"it starts from {name}, and you are on {branch}: `--base {branch}` starts from that, and merges into it"
        )
    suite.tell_failing(project, name, start)
    return start


def _warn_of_untrusted_rules(session: Session, start: str) -> None:
    """Print which rules of the base are not on the trusted branch yet: the person who committed them may think that they apply."""

    def differing() -> list[str]:
        rules = (paths.CONFIG, paths.POLICY, f"{paths.ROOT}/allowed_signers")
        here, there = {path: session.git.blob(f"{start}:{path}") for path in rules}, session.project.trusted
        return [path for path, data in here.items() if data not in (None, there.blob(session.git, path))]

    if differing() and session.project.trusted.remote:
        publishing.look(session)  # it may have been pushed since this clone last looked
    found = differing()
    if not found:
        session.tell_unread_edits()
    for path in found:
        trusted = session.project.trusted
        remote = f"{trusted.branch} of {trusted.remote}" if trusted.remote else trusted.branch
        session.env.say(f"{path} differs from {remote}: this version takes effect once it is there")


def read_folder(cwd: Path, named: Path) -> dict[str, bytes]:
    """Return the plan files of a folder: plan.md, context.md and the step files. `named`: the folder, relative to `cwd`.

    Raises:
        UsageError: there is no such folder. MalformedFileError: a file that cannot be used.
    """
    folder = cwd / named
    if not folder.is_dir():
        what = f"{named} is not a folder" if folder.exists() else f"there is no folder {named}"
        raise UsageError(what, os.path.normpath(folder), "name a folder with plan.md and step files")
    found = {}
    for path in sorted(folder.iterdir()):
        if not path.name.endswith(".md") or path.name == paths.LOG:
            continue
        if path.is_symlink() or not path.is_file():
            raise MalformedFileError(f"{path.name} is not a plain file", str(path), "replace it by one")
        if path.stat().st_size > 2 * 1024 * 1024:
            raise MalformedFileError(
                f"the file has {path.stat().st_size:,} bytes; at most {1024 * 1024:,} are read",
                str(path),
                "make it smaller",
            )
        found[path.name] = path.read_bytes()
    return found


def task(
    text: str, agent: str | config.AgentFile | None = None, checks: Sequence[str] = ()
) -> tuple[str, dict[str, bytes]]:
    """Return (title, files) of a plan with one agent step that does what `text` says.

    `agent`: the name of an agent file of the trusted branch, or another file, whose words become the plan's.

    Raises:
        UsageError: it or a check is empty. MalformedFileError: a control or bidi character in it, or in a check.
    """
    said = strict_yaml.decode(text.encode("utf-8", "surrogateescape"), "TEXT").strip()
    if not said:
        raise UsageError("TEXT is empty", "the command line", "describe the task")
    title = _headline(said)
    front = f"title: {workflow.written(workflow.Type.STRING, title)}\n"
    by = f"agent: {agent}\n" if isinstance(agent, str) else ""
    context: dict[str, bytes] = {}
    if isinstance(agent, config.AgentFile):
        spent = agent.budget.model_dump(exclude_defaults=True) if agent.budget else {}
        header = {
            "engine": agent.engine,
            "budget": {key: float(one) if key == "usd" else one for key, one in spent.items()},
        }
        by = "".join(f"{key}: {json.dumps(value)}\n" for key, value in header.items() if value)
        who = f"You are {agent.name}. {agent.objective.strip()}\n\n{agent.instructions.strip()}".rstrip()
        context[paths.CONTEXT] = f"{who}\n".encode()
    plan = f"---\n{front}{by}---\n{said}\n"
    lines = [strict_yaml.decode(check.encode("utf-8", "surrogateescape"), "--check") for check in checks]
    if any(not line.strip() for line in lines):
        raise UsageError("a check is empty", "--check", "write the command that checks the work, such as 'make test'")
    qa = "".join(f"    - {workflow.written(workflow.Type.STRING, line)}\n" for line in lines)
    asked = f"qa:\n  checks:\n{qa}" if qa else ""
    step = f"---\n{front}kind: agent\n{asked}---\n{said}\n"
    return title, {paths.PLAN: plan.encode(), **context, "01-do.md": step.encode()}


def _headline(said: str) -> str:
    """Return the title of a task: its first line, shortened if it is long."""
    return cut(said.splitlines()[0].strip(), TITLE_LIMIT)


def agent_given(project: Project, path: Path, in_ci: bool) -> tuple[str | config.AgentFile, str]:
    """Return an agent file that a person gives, and its objective: by its name where the trusted branch has it with the same bytes.

    Another one is the decision of the person at the keyboard, who is none `in_ci`: its words become those of the plan, and no tool is
    listed by it.

    Raises:
        UsageError: there is no such file. MalformedFileError: it is no agent file. UnsupportedError: only the trusted branch may have
            this one.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"the agent file cannot be read: {error.strerror}", str(path), "name another file") from error
    given = config.parse_agent(data, str(path))
    folder = project.git.tree(f"{project.trusted.commit}:{paths.AGENTS}") or {}
    for name, entry in folder.items():
        if name.endswith(".yaml") and project.git.content(entry) == data:
            return name.removesuffix(".yaml"), given.objective
    why = "this is a CI job" if in_ci else ""
    # Their code would be loaded, and their rules would not hold.
    why = why or (
        "it has `policies`" if given.policies else "it names modules with tools" if given.tool_modules() else ""
    )
    if why:
        raise UnsupportedError(
            f"the trusted branch does not have this agent file with this content, and {why}",
            str(path),
            f"commit it as {paths.agent_file(path.stem)} on {project.trusted.branch}, then run the same command again",
        )
    project.env.say(
        f"{path.name} is not on {project.trusted.branch}: its text is used, but not its list of tools; external tools need approval"
    )
    return given, given.objective


def need_engine(project: Project, files: Mapping[str, bytes], where: str) -> None:
    """Check that the model of a plan's first step can be used; no request is made.

    Raises:
        EngineError: something that it needs is missing. UsageError: no model is configured, or its name is unknown.
    """
    plan = plans.parse(files, where)
    step = next(iter(plan.steps), None)
    if step is not None and step.header.kind is StepKind.AGENT:
        names = asking.engine_names(project, plan, step, step_run.agent_of(project, plan, step, where))
        asking.need(project, names)


def manual(title: str) -> dict[str, bytes]:
    """Return a plan with this title and one human step, to be edited by hand."""
    files = {path.name: resources.for_people(path) for path in sorted(resources.template("manual").iterdir())}
    # Quoted, so that no title can say more than a title.
    quoted = (workflow.written(workflow.Type.STRING, title) or "").encode("utf-8", "surrogateescape")
    return {**files, paths.PLAN: files[paths.PLAN].replace(b"title: TITLE", b"title: " + quoted, 1)}


def workflow_names(project: Project) -> list[str]:
    """Return the names of the workflows that there are."""
    own = project.git.tree(f"{project.trusted.commit}:{WORKFLOWS}") or {}
    found = {name for name, entry in own.items() if entry.mode == TREE and _WORKFLOW_NAME.fullmatch(name)}
    return sorted(found | {path.name for path in resources.template("workflows").iterdir() if path.is_dir()})


def _workflow(project: Project, name: str) -> tuple[dict[str, bytes], str]:
    """Return a workflow's files, by name in its folder, and their place.

    Raises:
        UsageError: there is none of that name; near ones are offered.
        MalformedFileError: a file of it is a link, or is not plain.
    """
    known = workflow_names(project)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
        raise UsageError(
            f"there is no workflow `{name}`",
            f"{WORKFLOWS} on {project.trusted.branch}, and those built in",
            f"did you mean {' or '.join(near)}?" if near else f"there is {', '.join(known)}",
        )
    git, folder = project.git, f"{WORKFLOWS}/{name}"
    tree = git.tree(f"{project.trusted.commit}:{folder}")
    if tree is None:
        built_in = resources.template(f"workflows/{name}")
        files = {path.name: resources.for_people(path) for path in sorted(built_in.glob("*.md"))}
        return files, f"the built-in workflow {name}"
    files = {}
    for file, entry in tree.items():
        if not file.endswith(".md"):
            continue
        data = git.content(entry) if entry.mode in (BLOB, EXECUTABLE) else None
        if data is None:
            raise MalformedFileError(
                f"{file} is not a plain file", f"{folder}/{file} on {project.trusted.branch}", "replace it by one"
            )
        files[file] = data
    return files, folder


def instantiate(project: Project, name: str, given: Sequence[str]) -> tuple[dict[str, bytes], str]:
    """Return the plan's files of a workflow with its inputs (`k=v` each) put in, and their place.

    Raises:
        UsageError: no such workflow, or an input that is not as it should be.
        MalformedFileError: the workflow itself is not valid.
    """
    files, where = _workflow(project, name)
    return workflow.instantiate(files, where, _inputs(given)), where


def _inputs(given: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in given:
        key, equals, value = one.partition("=")
        if not equals or not key:
            raise UsageError(f"`{one}` is not an input", "--input", "write NAME=VALUE, such as --input text=hello")
        if key in found:
            raise UsageError(f"the input `{key}` is given twice", "--input", "give it once")
        found[key] = value
    return found
