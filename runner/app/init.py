"""Set a repository up: write the files that a team shares into the checkout, and overwrite none.

A repository need not be set up to be worked in: these files say what would hold anyway, and where to change it. They have
force once the trusted branch holds them.

The repository may be made or cloned first: completely, or nothing is left.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from runner import resources
from runner.app import scaffold
from runner.errors import InTheWayError, MalformedFileError, RefusedError, RunnerError, UnreachableError, UsageError
from runner.forge import ForgeProject
from runner.forge.registry import FORGES, configured, is_project
from runner.git import BLOB, EXECUTABLE, Git, Ident, TreeEntry, repository
from runner.lines import lines_of
from runner.protocol import approval_file, clarifications, config, paths, strict_yaml, workflow
from runner.protocol.clarifications import Question
from runner.protocol.config import Config
from runner.store import transaction, worktree
from runner.store.environment import Clone, Environment, Redactor, StateDir, write_atomically
from runner.trust import signature, signers

if TYPE_CHECKING:
    from runner.app.scaffold import Discovered
    from runner.store.project import Session

TEMPLATES = {
    paths.CONFIG: "init/config.yaml",
    f"{paths.ROOT}/.gitattributes": "init/gitattributes",
    paths.POLICY: "init/policy.yaml",
}
# What the template says of nobody in particular, which the first policy says of this project.
_BASE, _FORGE, _CHECKS = "# base: main\n", "# forge: none\n", "# checks: [make test]\n"
_SCHEMAS = "schemas"  # the folder, from config.yaml's and the policy's
TESTS = "How are the tests run? A line of shell."
PACKAGE = "From where do CI jobs install the runner? A requirement of pip, such as protocol-runner @ git+https://HOST/PATH@COMMIT"
_REPO, _PERSON, _AGENTS, _OWN = "0" * 32, "you@example.test", "agents: []", "own_work: refuse"


@dataclass(frozen=True, slots=True)
class File:
    """A file that is shared. `here`: its bytes in the checkout before, or None; `own`: they are a person's, and are left alone;
    `over`: they are replaced, by the person's answers, or with the command that runs the tests."""

    path: str
    data: bytes
    here: bytes | None
    own: bool = False
    over: bool = False
    executable: bool = False

    @property
    def is_new(self) -> bool:
        """Whether there is something to write."""
        return self.here is None or self.over


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a repository is to be set up with, besides config, policy and key. `scripts`: of scripts/ci; `ci`: they, jobs and
    templates of requests; `prompts`: for other agents; `schemas`: for editors; `forge`: as `forge:` of config.yaml has it,
    where it is named now;
    `proposed`: scripts of scripts/ci that take the place of the stack's, by their paths; `check`: the line that runs the
    tests, as far as one was tried; `update`: replace the files that are as `init` wrote them."""

    scripts: bool = False
    ci: bool = False
    prompts: bool = False
    schemas: bool = False
    forge: str | None = None
    update: bool = False
    proposed: Mapping[str, bytes] = field(default_factory=dict)
    check: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """What a repository is set up with. `forge`: its project on a forge, where that is known; `todo`: what a person has to add;
    `package`: from which CI jobs install the runner, empty where there are none."""

    files: list[File]
    facts: scaffold.Facts
    forge: ForgeProject | None
    stack: str
    todo: str
    package: str = ""


@dataclass(slots=True)
class Questions:
    """Questions of the set-up: answered by clarifications.yaml, else by the person at the terminal, else kept there.

    `data`: the file in the checkout, or None; `said`: the person's answers of now; `left`: the questions without an answer."""

    data: bytes | None
    env: Environment
    said: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    _known: tuple[Question, ...] = ()

    def __post_init__(self) -> None:
        self._known = clarifications.parse(self.data, paths.CLARIFICATIONS)

    def ask(self, text: str, choices: Sequence[str] = ()) -> str | None:
        """Return the answer, None while there is none. `choices`: its first word is one of these; Enter means the first.

        Raises:
            MalformedFileError: the file's answer is another.
        """
        known = next((one for one in self._known if one.text == text), None)
        answer = self.said.get(text) or (known.answer if known else None)
        if answer is None and text not in self.left:
            answer = self._asked(text, choices)
            if answer:
                self.said[text] = answer
            else:
                self.left.append(text)
        if answer and choices and answer.split()[0] not in choices:
            raise MalformedFileError(
                f"`{strict_yaml.shown(answer)}` is not an answer to: {text}",
                f"{paths.CLARIFICATIONS}:{known.line if known else 1}",
                f"write one of {', '.join(choices)}",
            )
        return answer or None

    def ask_open(self) -> None:
        """Ask the questions of the file that have no answer yet."""
        for one in self._known:
            self.ask(one.text)

    def settle(self, text: str, answer: str) -> None:
        """Keep an answer that was given otherwise, where the file has the question and no answer."""
        if any(one.text == text and not one.answer for one in self._known):
            self.said[text] = answer

    def drop(self, texts: Sequence[str]) -> None:
        """Do not keep these questions, where they have no answer."""
        self.left = [text for text in self.left if text not in texts]

    def answers(self) -> dict[str, str]:
        """Return every question that is answered, with its answer."""
        return {one.text: one.answer for one in self._known if one.answer} | self.said

    def file(self) -> bytes | None:
        """Return the file with all answers; None where there is nothing to keep.

        Raises:
            InTheWayError: nothing can be added to the file as it is written.
        """
        if self.data is None and not self.said and not self.left:
            return None
        return clarifications.added(self.data, paths.CLARIFICATIONS, self.said, self.left)

    def _asked(self, text: str, choices: Sequence[str]) -> str:
        if choices:
            return self.env.ask(text, tuple(choices)) or ""
        said = self.env.ask_text(f"{text} (Enter: later)") or ""
        said = strict_yaml.decode(said.encode("utf-8", "surrogateescape"), "the answer").strip()
        return Redactor(self.env.environ).text(said)  # the file is shared


def questions(git: Git, env: Environment) -> Questions:
    """Return the questions of the checkout's clarifications.yaml, and who is asked those that are open.

    Raises:
        UsageError: there is no checkout. MalformedFileError: the file is not valid.
    """
    return Questions(_here(_top(git), paths.CLARIFICATIONS), env)


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a model proposes. `files`: scripts, none of which is `here` with the same bytes; those that are there are left alone."""

    files: list[File]
    questions: tuple[str, ...]
    engine: str
    usd: str

    def taken(self) -> dict[str, bytes]:
        """Return path to bytes of the scripts."""
        return {file.path: file.data for file in self.files}


@contextlib.contextmanager
def propose(session: Session, asked: Questions) -> Iterator[Proposal]:
    """Let a model read the commit, and yield its proposal; nothing is written. Its questions are asked, and after answers it reads
    once more.

    What it said is kept for the same command, unless the block ends well.

    Raises:
        EngineError: there is no model, or no answer of its that can be taken.
    """
    commit = session.git.resolve("HEAD") or session.project.trusted.commit
    with contextlib.ExitStack() as stack:
        found: Discovered = stack.enter_context(scaffold.discovered(session, commit, asked.answers()))
        before, usd = len(asked.said), found.usd
        for text in found.questions:
            asked.ask(text)
        if len(asked.said) > before:
            found = stack.enter_context(scaffold.discovered(session, commit, asked.answers()))
            usd += found.usd
        top, files = _top(session.git), []
        for name, run in found.commands.items():
            path, data = scaffold.hook(name), scaffold.script(name, run, "as a model proposed it")
            here = _here(top, path)
            if here != data:
                files.append(File(path, data, here, executable=True))
        yield Proposal(files, found.questions, found.engine, format(usd, "f") if usd else "")


def look(clone: Clone, asked: Questions, wanted: Wanted) -> Look:
    """Return the files that a team shares, and the files of the checkout in their place.

    The first policy names the person as its one maintainer; where git does not know who that is, it is left out. One that is
    there already is kept. The forge is the one that is named, that of the checkout, or that of the remote's address. If the
    address is a server's and identifies none, the person is asked, and the answer kept in clarifications.yaml. Only an answer or
    option is written as `forge:`.

    Raises:
        UsageError: there is no checkout; or the forge is unknown, or not to be identified by the remote's address.
        InTheWayError: one of these paths is no plain file, or questions cannot be added to their file.
        MalformedFileError: clarifications.yaml is not valid, or has no requirement of pip as the answer to `PACKAGE`.
    """
    git, env, better = clone.git, clone.env, dict(wanted.proposed)
    top = _top(git)
    known, facts = configuration(git), scaffold.facts(git, top)
    check = wanted.check or (known.checks[0] if len(known.checks) == 1 else "")
    named = f"{known.forge.name} {known.forge.url or ''}".strip() if known.forge else None
    said, names = wanted.forge or named, ("none", *FORGES)
    question = f"On which forge is the remote {facts.remote}: {', '.join(names)}?"
    if said is not None:
        asked.settle(question, said)
    elif facts.guess is None and is_project(facts.url):
        answer = asked.ask(question, names)
        said = answer if answer != "none" else None
    where = configured(said, facts.url) if said else facts.guess
    stack = facts.stacks[0] if facts.stacks else scaffold.OTHER
    if wanted.scripts and len(facts.stacks) > 1 and scaffold.hook("test") not in better:
        choices = (*facts.stacks, scaffold.OTHER)
        stack = asked.ask(f"Which stack are the scripts of scripts/ci for: {', '.join(choices)}?", choices) or stack
    tests = scaffold.hook("test")
    if tests not in better and "test" not in scaffold.hooks_of(top, stack):
        said_tests = asked.answers().get(TESTS)
        run = said_tests or check or (asked.ask(TESTS) if _here(top, tests) is None else None)
        if run:
            how = "from `checks:` of config.yaml" if run == check else "from the answer in clarifications.yaml"
            better[tests] = scaffold.script("test", run, how)
    package = _package(env, asked, where) if wanted.ci or (wanted.update and _here(top, _JOBS) is not None) else ""
    asked.ask_open()
    has_schemas = wanted.schemas or (top / scaffold.SCHEMAS).is_dir()
    found = []
    for path, template in TEMPLATES.items():
        here, own, over = _here(top, path), False, False
        data: bytes | None = resources.for_people(resources.template(template), _SCHEMAS if has_schemas else "")
        if path == paths.CONFIG:
            data = _config(has_schemas, facts.base, said, check)
            # as it was written before the forge was named, the tests worked or schemas were there, and nobody edited it
            over = here != data and _is_as_written(here, {said, named, None}, {check, "", *known.checks})
        elif path == paths.POLICY:
            data = _policy(git, env, data or b"", known, here)
            own = here is not None and here != data
        if data is not None:
            found.append(File(path, data, here, own, over))
    parts: dict[str, tuple[bytes, bool]] = {}
    if wanted.scripts or wanted.update:
        parts |= {path: (data, True) for path, data in scaffold.scripts(top, stack, better).items()}
    if package:
        parts |= scaffold.jobs(top, where, known.branch, package)
    for asked_for, files in ((wanted.prompts, scaffold.prompts()), (wanted.schemas, scaffold.schemas())):
        if asked_for or wanted.update:
            parts |= {path: (data, False) for path, data in files.items() if asked_for or _here(top, path) is not None}
    for path, (data, executable) in parts.items():
        here = _here(top, path)
        if here is not None or path.startswith(paths.ROOT) or wanted.scripts:
            found.append(File(path, data, here, executable=executable))
    if wanted.update:
        written = _written(clone.dirs)
        found = [replace(file, over=True) if _is_outdated(written, file) else file for file in found]
    kept = asked.file()
    if kept is not None:
        over = asked.data is not None and bool(asked.said)
        found.append(File(paths.CLARIFICATIONS, kept, asked.data, over=over))
    return Look(found, facts, where, stack, scaffold.todo(top, where) if package else "", package)


_JOBS = "scripts/ci/protocol.sh"


def _is_outdated(written: Mapping[str, str], file: File) -> bool:
    """Return whether a file is as `write` wrote it in this clone, and would be written otherwise now."""
    if file.over or file.own or file.here in (None, file.data):
        return file.over
    return written.get(file.path) == hashlib.sha256(file.here or b"").hexdigest()


def _package(env: Environment, asked: Questions, where: ForgeProject | None) -> str:
    """Return pip's requirement from which jobs install the runner; empty while nobody knows one.

    Raises:
        MalformedFileError: the answer or $RUNNER_PACKAGE is none.
    """
    named = env.environ.get("RUNNER_PACKAGE")
    known = named or asked.answers().get(PACKAGE) or scaffold.package(where)
    if known and not asked.answers().get(PACKAGE):
        asked.settle(PACKAGE, known)
    known = known or asked.ask(PACKAGE)
    if known and not scaffold.PACKAGE.fullmatch(known):
        raise MalformedFileError(
            f"`{strict_yaml.shown(known)}` is not a requirement of pip",
            "RUNNER_PACKAGE" if named else paths.CLARIFICATIONS,
            "write one such as protocol-runner @ git+https://HOST/PATH@COMMIT",
        )
    return known or ""


def _here(top: Path, path: str) -> bytes | None:
    """Return the bytes of a file in the checkout, or None.

    Raises:
        InTheWayError: it is no plain file, or its folder is none.
    """
    at = top / path
    above = [part for part in at.parents if part.is_relative_to(top) and part != top]
    if any(part.is_symlink() for part in (at, *above)) or (at.exists() and not at.is_file()):
        raise InTheWayError(f"{path} is not a plain file", str(at), "move it away, and run the same command again")
    for part in above:
        if part.exists() and not part.is_dir():
            name = part.relative_to(top)
            raise InTheWayError(f"{name} is not a folder", str(part), "move it away, and run the same command again")
    return at.read_bytes() if at.exists() else None


def is_untouched(git: Git) -> bool:
    """Return whether config.yaml is still as it was written here, with the one check that it names."""
    top, known = _top(git), configuration(git)
    said = f"{known.forge.name} {known.forge.url or ''}".strip() if known.forge else None
    return len(known.checks) == 1 and _is_as_written(_here(top, paths.CONFIG), {said}, set(known.checks))


def _is_as_written(here: bytes | None, forges: set[str | None], checks: set[str]) -> bool:
    """Return whether config.yaml is as `_config` writes it with one of these, whichever base its comment names."""
    named = re.search(rb"(?m)^# base: (\S+)$", here or b"")
    base = named[1].decode("utf-8", "replace") if named else None
    return here in [_config(has, base, one, line) for has in (True, False) for one in forges for line in checks]


def configuration(git: Git) -> Config:
    """Return the configuration of the checkout; the defaults where it cannot be read."""
    top = _top(git)
    try:
        return config.parse((top / paths.CONFIG).read_bytes(), paths.CONFIG)
    except (OSError, RunnerError):
        return Config()


def _config(has_schemas: bool, base: str | None, forge: str | None, check: str) -> bytes:
    """Return the configuration: all comments, except for a forge that was named, and the check that runs the tests."""
    template = resources.template(TEMPLATES[paths.CONFIG])
    text = resources.for_people(template, _SCHEMAS if has_schemas else "").decode()
    for old, new in (
        (_BASE, f"# base: {base}\n" if base else _BASE),
        (_FORGE, f"forge: {forge}\n" if forge else _FORGE),
        (_CHECKS, f"{checks_line(check)}\n" if check else _CHECKS),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text.encode()


def checks_line(check: str) -> str:
    """Return the line of config.yaml that names a check."""
    return f"checks: [{workflow.written(workflow.Type.STRING, check)}]"


def _policy(git: Git, env: Environment, template: bytes, known: Config, here: bytes | None) -> bytes | None:
    """Return the first policy: the template with the id that `here` has, or one of its own, the person, and the runner."""
    person = principal(git)
    if person is None:
        return here
    known_id = re.search(rb'^repo: "?([0-9a-f]{32})"?$', here or b"", re.MULTILINE)
    text = template.decode()
    for old, new in (
        (_REPO, known_id[1].decode() if known_id else env.random_hex(32)),
        (_PERSON, person),
        (_AGENTS, f"agents: [{known.identity.email.lower()}]"),
        (_OWN, "own_work: allow  # with one maintainer, nobody else could approve; once there are two, write refuse"),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text.encode()


def principal(git: Git) -> str | None:
    """Return the person as policy and keys name them, or None where their git does not say who they are."""
    try:
        email = git.person(0).email.lower()
    except UsageError:
        return None
    return email if re.fullmatch(approval_file.PRINCIPAL, email) else None


@dataclass(frozen=True, slots=True)
class Listing:
    """Whether the person's key is listed for approvals. `file`: what lists it, where nothing else is there.

    `fingerprint`: of the key that is to be listed; `todo`: what to type instead; both empty where it is listed already.
    """

    file: File | None = None
    fingerprint: str = ""
    todo: str = ""


def listing(git: Git) -> Listing:
    """Return what would list the key that the person's git signs with, in the checkout's allowed_signers."""
    at, person = _top(git) / signers.FILE, principal(git)
    here = at.read_bytes() if at.is_file() else None
    if person is None:
        return Listing(todo="git config --global user.email YOU, then `runner init` again")
    try:
        key = signature.signing_key(git)
    except RunnerError as error:
        return Listing(todo=f"{error.hint}, then `runner init` again")
    if key.form is not approval_file.Form.SSH:
        name = f"{signers.OPENPGP}{person}.asc"
        there = (_top(git) / name).is_file()
        return Listing(
            todo="" if there else f"mkdir -p {signers.OPENPGP} && gpg --armor --export {key.fingerprint} > {name}"
        )
    public = signers.read_key(key.public)
    line = f'{person} namespaces="git,{approval_file.NAMESPACE}" {public}'
    head = "# Whose keys count, and for what. The runner reads this file from the trusted branch only.\n"
    file = File(signers.FILE, f"{head}{line}\n".encode(), here)
    if here in (None, file.data):
        return Listing(file, "" if here else key.fingerprint)
    if str(public).encode() in (here or b""):
        return Listing()
    return Listing(fingerprint=key.fingerprint, todo=f"add this line to {signers.FILE}: {line}")


def write(clone: Clone, files: list[File]) -> None:
    """Write those files of `look` that are not there yet, and those that the person answered: all of them or, where that is
    interrupted, none. Their paths are noted: `commit` takes those files along, edited or not.

    Raises:
        UsageError: the checkout cannot be written.
        InTheWayError: a file that the person answered was changed meanwhile.
    """
    top = _top(clone.git)
    made: list[File] = []
    with contextlib.ExitStack() as undo:
        undo.callback(_take_back, top, made)
        for file in files:
            if file.is_new:
                _write(top, file, made)
        with contextlib.suppress(OSError):  # a clone that is another user's: then edited files are left to git
            if made:
                known = _written(clone.dirs) | {file.path: hashlib.sha256(file.data).hexdigest() for file in made}
                lines = [f"{digest}  {path}\n" for path, digest in sorted(known.items())]
                write_atomically(clone.dirs.setup, "".join(lines).encode())
        undo.pop_all()


def _written(dirs: StateDir) -> dict[str, str]:
    """Return path to digest of the files that `write` wrote in this clone; an older version noted no digests."""
    lines = lines_of(dirs.setup.read_text("utf-8")) if dirs.setup.is_file() else []
    return {path or digest: digest if path else "" for digest, _, path in (line.partition("  ") for line in lines)}


def _write(top: Path, file: File, made: list[File]) -> None:
    """Write a file, and note it in `made` as soon as something of it may be there."""
    at = top / file.path
    try:
        at.parent.mkdir(parents=True, exist_ok=True)
        if file.here is not None and at.read_bytes() != file.here:
            raise InTheWayError(f"{file.path} was changed meanwhile", str(at), "run the same command again")
        with at.open("xb" if file.here is None else "r+b") as handle:
            made.append(file)
            handle.write(file.data)
            handle.truncate()
        if file.executable:
            at.chmod(at.stat().st_mode | 0o111)
    except FileExistsError:
        return  # somebody was faster; it is theirs
    except OSError as error:
        raise UsageError(
            f"{file.path} cannot be written: {error.strerror}", str(at), "make the checkout writable"
        ) from error


def _take_back(top: Path, made: list[File]) -> None:
    for file in made:
        at = top / file.path
        if file.here is not None:
            at.write_bytes(file.here)
            continue
        at.unlink(missing_ok=True)
        for above in at.relative_to(top).parents:
            with contextlib.suppress(OSError):  # what is not empty stays
                if above.parts:
                    (top / above).rmdir()


@dataclass(frozen=True, slots=True)
class Committed:
    """What `commit` made. `edited`: the files among `paths` that a person changed since they were written."""

    commit: str
    paths: tuple[str, ...]
    edited: frozenset[str]


def commit(clone: Clone, files: list[File], author: Ident) -> Committed | None:
    """Commit, as the person, those of the files that differ from HEAD: files that `write` wrote in this clone, edited or not, and
    uncommitted ones that are in the checkout as given.

    Nothing else that is staged or changed is taken along. Returns None where there is nothing to commit.

    Raises:
        RefusedError: no branch is checked out.
        ConflictError: the branch moved meanwhile.
    """
    git = clone.git
    top = _top(git)
    branch = git.symbolic_ref("HEAD", git.git_dir)
    if branch is None:
        raise RefusedError(
            "no branch is checked out here", str(top), f"`git switch` to one, or commit {paths.ROOT}/ yourself"
        )
    old = git.ref(branch)
    known = git.commit(old) if old else None
    written, edited = _written(clone.dirs), set()
    changes: dict[str, TreeEntry | None] = {}
    for file in files:
        at = top / file.path
        if not at.is_file():
            continue
        data, committed = at.read_bytes(), git.blob(f"{old}:{file.path}") if old else None
        is_given = not file.own and data == file.data
        takes = is_given and (committed is None or file.over or file.path == paths.CLARIFICATIONS)
        if (takes or file.path in written) and data != committed:
            changes[file.path] = TreeEntry(EXECUTABLE if file.executable else BLOB, git.write("blob", data))
            edited |= set() if is_given else {file.path}
    if not changes:
        return None
    if old is not None and known is not None:
        edit = transaction.PersonEdit(branch, old, changes, author, "Set up protocol-runner")
        new = transaction.adopt(clone, edit)
        return Committed(new, tuple(changes), frozenset(edited))
    tree = git.edited(None, changes)
    new = git.person_commit(tree, (), author, b"Set up protocol-runner\n")
    git.update_refs({branch: (new, None)}, "runner: init")
    nothing = git.write_tree({})
    for there in git.checked_out(branch):
        worktree.finish_follow(git, there, nothing, new, clone.env)
    return Committed(new, tuple(changes), frozenset(edited))


def hooks(git: Git) -> list[str]:
    """Return the hooks that `git commit` would have run here: no call of the runner's runs what a repository's settings name."""
    top = _top(git)
    named = git.setting("core.hookspath")
    folder = top / Path(named).expanduser() if named else git.common_dir / "hooks"
    there = [folder / name for name in ("pre-commit", "prepare-commit-msg", "commit-msg", "post-commit")]
    return [os.path.relpath(path, top) for path in there if path.is_file() and os.access(path, os.X_OK)]


def _top(git: Git) -> Path:
    if git.top is None:
        raise UsageError(
            "a bare repository has no checkout to write into", str(git.common_dir), "run it in a clone of this one"
        )
    return git.top


def clone(url: str, folder: Path | None, cwd: Path, env: Environment) -> Path:
    """Clone a repository with the person's own git, and the token of RUNNER_GIT_TOKEN, and return its folder. Progress is
    printed. Interrupted, it leaves nothing.

    Raises:
        UsageError: the address is not one that is safe to clone from, or the folder is taken.
        UnreachableError: the remote did not answer, or refused us.
    """
    name = re.split(r"[/:\\]", url.rstrip("/"))[-1].removesuffix(".git")
    if folder is None and (not name or name.startswith((".", "-"))):
        raise UsageError(f"`{url}` does not say what its folder is called", "--clone", "name the folder after it")
    at = cwd / (folder or name)
    if at.exists() and (not at.is_dir() or any(at.iterdir())):
        raise UsageError(
            f"{at} is there already, and not empty",
            str(at),
            f"name another folder; `runner -C {shlex.quote(str(at))} init` sets this one up",
        )
    if "://" not in url and "::" not in url and (cwd / url).exists():
        url = os.path.abspath(cwd / url)
    if re.match(r"[A-Za-z0-9+.-]+::", url):
        raise UsageError(
            f"`{_without_password(url)}` is not an address that is safe to clone from",
            "--clone",
            "use https, ssh, or a path",
        )
    stages: set[str] = set()
    wrong: list[str] = []

    def tell(line: str) -> None:
        """Print the first and the last line of each of git's stages, and all other lines."""
        line = _without_password(line.strip())
        stage = re.match(r"(.+?): +\d+%", line)
        if line.startswith(("fatal:", "error:")):
            wrong.append(line)
        elif line and (stage is None or stage[1] not in stages or line.endswith("done.")):
            stages.update([stage[1]] if stage else [])
            env.say(line)

    made = not at.exists()
    try:
        failed = repository.clone(url, at, env.environ, tell)
    except BaseException:
        # git takes away what it made, but not where the signal came while it was making it, and not if it had to be killed.
        for left in [at] if made else list(at.iterdir()):
            shutil.rmtree(left, ignore_errors=True)
        raise
    if failed:
        if made:
            with contextlib.suppress(OSError):
                at.rmdir()
        raise UnreachableError(
            f"it could not be cloned: {wrong[0] if wrong else 'git gives no reason'}",
            _without_password(url),
            "try `git clone` with that address; nothing was left here",
        )
    return at


def _without_password(text: str) -> str:
    """Return the text without who signs in, where an address in it says so."""
    return re.sub(r"(?<=://)[^/@\s]+@", "", text)
