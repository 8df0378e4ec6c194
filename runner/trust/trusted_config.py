"""Load the policy, the keys, and the files that steps get, from the trusted branch at one commit.

It never reads a branch that an agent can write. Without a policy.yaml only the defaults apply, and approvals are given at a
keyboard.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from runner.errors import InsufficientHistoryError, MalformedFileError
from runner.git import BLOB, SUBMODULE, TREE, Commit, Git, TreeEntry, split_signature
from runner.protocol import globs, log, paths, policy_file, strict_yaml
from runner.protocol.ids import is_protocol_id
from runner.protocol.plans import Plan, Step, StepKind
from runner.trust import manifest, programs, signature, signers, transitions
from runner.trust import policy as rules_
from runner.trust.manifest import HARMLESS, Cover, Loaded
from runner.trust.policy import Change, Decision, Policy
from runner.trust.signers import GIT, Signers

# What a step without a policy, tools or signatures does not need is loaded where it is used: it would take a third of its start.
if TYPE_CHECKING:
    from runner.protocol.config import AgentFile, Config
    from runner.protocol.policy_file import Approval, PolicyFile
    from runner.store.project import Project
    from runner.trust.signature import SshSignature, Verdict


@dataclass(slots=True, eq=False)
class TrustedConfig:
    """The trusted branch at `commit`. `policy`: None where there is none; `signers`: with the revocations of now."""

    commit: str
    branch: str
    policy: PolicyFile | None
    signers: Signers
    config: Config
    rules: rules_.Policy
    _files: dict[tuple[Loaded, int], dict[str, TreeEntry]] = field(default_factory=dict)
    _changed: dict[tuple[str, tuple[tuple[str, str], ...]], list[Change]] = field(default_factory=dict)

    def at(self, commit: str) -> TrustedConfig:
        """Return what another commit says whose policy, keys and configuration are the same; what it lends may differ."""
        return replace(self, commit=commit, _files={}, _changed={})

    @property
    def where(self) -> str:
        """The policy's file, for messages."""
        return f"{paths.POLICY} on {self.branch}"

    @property
    def repo(self) -> str:
        """The project's id; empty without a policy."""
        return self.policy.content.repo if self.policy else ""

    @property
    def agents(self) -> Collection[str]:
        """Who is a runner or an agent, and never approves."""
        return self.policy.content.agents if self.policy else ()

    @property
    def own_work(self) -> str:
        """refuse, allow or signed."""
        return self.policy.content.own_work if self.policy else "allow"

    def requires(self, kind: str) -> bool:
        """Return whether the policy requires an approval of the kind, even where the plan does not ask."""
        return kind in ("plan", "merge") and self.policy is not None and self.approval(kind).required

    def approval(self, kind: str) -> Approval:
        """Return what the policy says of words on plan, step, result, call, protected-path or merge."""
        assert self.policy is not None
        return self.policy.content.approvals.of("step" if kind == "result" else kind)  # type: ignore[arg-type]

    @property
    def asks_on_change(self) -> bool:
        """Whether a person is asked for another environment where a step changes a file that the setup reads."""
        workspace = self.config.workspace
        return bool(workspace.setup) and (workspace.on_change or ("ask" if self.policy else "keep")) == "ask"

    # --- what may happen -------------------------------------------------------------------------------------------------

    def start_of(self, step: Step, *, loose: bool = False) -> Decision:
        """Return what the policy says of a step's start, and of the commands and hosts that its author wrote; the strictest.

        `loose`: as for `policy.evaluate`.
        """
        asked = [rules_.Subject(kind="step", step=step.slug)]
        lines = [*([step.header.run] if step.header.run else []), *step.checks]
        asked += [rules_.command(line, step=step.slug) for line in lines]
        asked += [rules_.reached(host, step=step.slug) for host in step.header.network]
        found = [rules_.evaluate(self.rules, one, loose=loose) for one in asked]
        return max(found, key=lambda said: rules_.SEVERITY[said.verdict])

    def rules_of(self, agent: AgentFile | None, data: bytes, where: str) -> Policy:
        """Return the rules with the stricter ones of an agent file. `data`: its bytes; `where`: it is, for messages."""
        if agent is None or agent.policies is None:
            return self.rules
        _, lines = strict_yaml.load_yaml(strict_yaml.decode(data, where), where)
        return rules_.compiled(self.policy, [rules_.More(agent.policies, where, lines, ("policies",))])

    def work_of(
        self,
        git: Git,
        protocol: str,
        pieces: Iterable[tuple[str, str]],
        plan: Plan,
        step: Step,
        *,
        loose: bool = False,
    ) -> list[Decision]:
        """Return what of a step's work is denied, or requires an approval (ask), the strictest first. `pieces`: as for `changes`.

        A file that a check names requires one where an agent or a tool changed it and the trusted branch has it, or the check runs it
        or reads there what to do; unless the step says that it makes it. `loose`: as older versions, which left
        out the files that it reads.
        """
        at = (protocol, tuple(pieces))
        if at not in self._changed:
            limits = self.policy.content.limits if self.policy is not None else None
            asked = (limits.lines, limits.file_size, limits.total) if limits is not None else ()
            measured = any(one is not None for one in asked) or (limits is not None and limits.binaries != "allow")
            self._changed[at] = changes(git, protocol, at[1], measured=measured)
        found = self._changed[at]
        named: frozenset[str] = frozenset()
        if found and not step.header.kind.is_written:
            checks = [check for one in plan.steps for check in one.checks]
            sizes = git.sizes([f"{self.commit}:{one.path}" for one in found]) if checks else []
            there = {globs.fold(one.path) for one, size in zip(found, sizes, strict=False) if size is not None}
            named = (programs.named_files(checks) & there) | programs.named_programs(checks)
            if checks and not loose:
                read = programs.inputs(checks)
                named |= {
                    globs.fold(one.path)
                    for one in found
                    if read.match(globs.fold(one.path)) and _decides(git, at[1], one)
                }
            named -= {globs.fold(path) for path in step.header.outputs}
        said = rules_.judge(self.rules, found, step=step.slug, named=named)
        if not loose and self.asks_on_change and step.header.kind is not StepKind.HUMAN:
            is_read = self.config.workspace.is_read_by_setup
            said += [rules_.read_by_setup(one.path) for one in found if is_read(one.path)]
        return said

    # --- what is lent to steps -------------------------------------------------------------------------------------------

    def loaded(self, steps: Iterable[Step], plan: Plan) -> Loaded:
        """Return what these steps will load of the trusted branch."""
        agents: set[str] = set()
        prompts = tools = False
        for step in steps:
            if not step.header.kind.is_written:
                tools = True
                prompts |= step.header.kind is StepKind.AGENT
                agents |= {name for name in (step.header.agent or plan.header.agent,) if name}
        modules = frozenset(module.module for module in self.config.tools) if tools else frozenset()
        return Loaded(frozenset(agents), modules, prompts, tools)

    def files(self, git: Git, loaded: Loaded, version: int = manifest.VERSION) -> dict[str, TreeEntry]:
        """Return the files of the trusted branch that will be loaded; `version`: of the manifest that they are for."""
        if (loaded, version) not in self._files:
            self._files[loaded, version] = manifest.trusted_files(git, self.commit, loaded, version)
        return self._files[loaded, version]

    def tools(self, loaded: Loaded) -> bytes:
        """Return a line a tool module of config.yaml that steps load, and one for the Python that runs them.

        An agent file may name modules too, which that Python runs.
        """
        if not loaded.tools:
            return b""
        told = [module.model_dump(exclude_defaults=True) for module in self.config.tools]
        told += [{"python": self.config.workspace.python}] if self.config.workspace.python is not None else []
        return "".join(f"{json.dumps(one, sort_keys=True)}\n" for one in told).encode("ascii")

    def cover(self, protocol: str, plan: Plan, step: Step, file: bytes) -> Cover:
        """Return what an approval of a step's start leaves out of the tree. `file`: the bytes of the step's own.

        What runs with a network, or is a model or a project's own tool, has no default set: it may read such files to some effect.
        """
        asked = self.policy.content.approvals if self.policy is not None else None
        alone = step.header.kind.is_written and self.config.executor != "host"
        checks = [check for one in plan.steps if one.number <= step.number for check in one.checks]
        return Cover(
            protocol,
            number=step.number,
            harmless=(*(HARMLESS if alone else ()), *(asked.ignore if asked is not None else ())),
            text="\n".join([file.decode("utf-8", "replace"), *checks]),
            is_protected=lambda path: rules_.is_protected(self.rules, path),
            keeps_base=asked is not None and asked.base == "keep",
        )

    # --- whose keys ------------------------------------------------------------------------------------------------------

    def signing_key(self, git: Git, commit: Commit) -> str:
        """Return the fingerprint of the key that a commit claims to be signed with; empty where it has no SSH signature."""
        if not commit.signed:
            return ""
        found = read_ssh(raw_signature(git, commit)[1])
        return found.key.fingerprint if found is not None else ""

    def vouches_for(self, git: Git, commit: Commit, at: int) -> bool:
        """Return whether a commit is signed by a key that is listed for git."""
        if not commit.signed:
            return False
        text, armour = raw_signature(git, commit)
        return any(self.judge(text, armour, email.casefold(), at).ok for email in dict.fromkeys(commit.emails))

    def judge(
        self,
        text: bytes,
        armour: bytes,
        principal: str,
        at: int,
        *,
        namespace: str = GIT,
        vouched: bool = False,
    ) -> Verdict:
        """Judge a signature over `text` as a principal's, by a key listed for the namespace; otherwise as `signature.verify`."""
        return signature.verify(
            armour, text, namespace=namespace, principal=principal, signers=self.signers, at=at, vouched=vouched
        )


def _decides(git: Git, pieces: Iterable[tuple[str, str]], change: Change) -> bool:
    """Return whether one of the pieces changed what checks read in the file."""
    texts = [[git.blob(f"{commit}:{change.path}") for commit in piece] for piece in pieces]
    return change.after in rules_.LINKS or not all(programs.same_for_checks(change.path, *pair) for pair in texts)


def raw_signature(git: Git, commit: Commit) -> tuple[bytes, bytes]:
    """Return (what a commit's signature is over, the armoured signature), empty where it has none."""
    found = git.object(commit.oid)
    return split_signature(found[2]) if found else (b"", b"")


def read_ssh(armour: bytes) -> SshSignature | None:
    """Return an SSH signature, or None where it cannot be read as one."""
    try:
        return signature.read_ssh(armour)
    except ValueError:
        return None


def load(
    git: Git, commit: str, branch: str, config: Config | None = None, revoked_at: str | None = None
) -> TrustedConfig:
    """Return what the trusted branch says at a commit. `config`: where it was read; `revoked_at`: whose revocations count.

    Raises:
        MalformedFileError: a file of it cannot be carried out, naming the line.
    """
    files = git.tree(f"{commit}:{paths.ROOT}") or {}
    name = paths.POLICY.rpartition("/")[2]
    file = None
    if name in files:
        file = policy_file.parse(_plain(git, files[name], paths.POLICY, branch), f"{paths.POLICY} on {branch}")
    keys = _signers(git, commit, revoked_at or commit, branch, file)
    return TrustedConfig(commit, branch, file, keys, config or config_of(git, commit, branch), rules_.compiled(file))


def is_loaded(project: Project) -> bool:
    """Return whether `of` was called before, so that it costs nothing now."""
    return "trusted_config" in project.derived


def of(project: Project) -> TrustedConfig:
    """Return the policy and keys of the trusted branch, as this process last saw it."""
    if not is_loaded(project):
        trusted = project.trusted
        project.derived["trusted_config"] = load(project.git, trusted.commit, trusted.branch, project.config)
    found: TrustedConfig = project.derived["trusted_config"]
    return found


def config_of(git: Git, commit: str, branch: str) -> Config:
    """Return the configuration at a commit.

    Raises:
        MalformedFileError: it is not valid.
    """
    from runner.protocol.config import parse as parse_config

    return parse_config(git.blob(f"{commit}:{paths.CONFIG}"), f"{paths.CONFIG} on {branch}")


def _signers(git: Git, commit: str, revoked_at: str, branch: str, file: PolicyFile | None) -> Signers:
    def read(at: str, path: str) -> bytes | None:
        entry = (git.tree(f"{at}:{paths.ROOT}") or {}).get(path.rpartition("/")[2])
        return _plain(git, entry, path, branch) if entry else None

    folder = git.tree(f"{commit}:{signers.OPENPGP.rstrip('/')}") or {}
    openpgp = {
        one: _plain(git, entry, signers.OPENPGP + one, branch) for one, entry in folder.items() if entry.mode != TREE
    }
    found = signers.parse(read(commit, signers.FILE), read(revoked_at, signers.REVOKED), openpgp)
    if file is not None:
        signers.check_agents(found, file.content.agents)
    return found


def _plain(git: Git, entry: TreeEntry, path: str, branch: str) -> bytes:
    if entry.mode != BLOB:
        raise MalformedFileError("it is not a plain file", f"{path} on {branch}", "replace it by one")
    return git.require(entry.oid, f"{path} on {branch}")


def changes(git: Git, protocol: str, pieces: Iterable[tuple[str, str]], *, measured: bool) -> list[Change]:
    """Return a step's diff as the policy looks at it, without the protocol's own folder: no step's work is taken from there.

    `pieces`: the (before, after) of what the step did, newest first; changes by others between them are not the step's. `measured`:
    with lines, sizes and the binary flag, which only a policy's limits ask for.
    """
    made: dict[str, Change] = {}
    for start, tree in pieces:
        for one in _changes(git, protocol, start, tree, measured=measured):
            later = made.get(one.path)
            made[one.path] = later._replace(before=one.before, lines=later.lines + one.lines) if later else one
    return list(made.values())


def _changes(git: Git, protocol: str, start: str, tree: str, *, measured: bool) -> list[Change]:
    own = f"{paths.folder(protocol)}/"
    found = {path: pair for path, pair in git.changed(start, tree).items() if not path.startswith(own)}
    counted: dict[str, tuple[str, str]] = {}
    sizes: dict[str, int | None] = {}
    if found and measured:
        words = ("diff-tree", "-r", "--numstat", "--no-renames", "--no-ext-diff", "--no-textconv", "-z", start, tree)
        for line in git.run(*words).decode("utf-8", "surrogateescape").split("\0"):
            plus, _, rest = line.partition("\t")
            minus, tab, path = rest.partition("\t")
            if tab:
                counted[path] = (plus, minus)
        blobs = [after.oid for _, after in found.values() if after and after.mode != SUBMODULE]
        sizes = dict(zip(blobs, git.sizes(blobs), strict=True))
    made = []
    for path, (before, after) in found.items():
        plus, minus = counted.get(path, ("0", "0"))
        made.append(
            Change(
                path=path,
                before=before.mode if before else None,
                after=after.mode if after else None,
                lines=sum(int(number) for number in (plus, minus) if number.isdigit()),
                size=(sizes.get(after.oid) or 0) if after else 0,
                binary=plus == "-",
            )
        )
    return made


# --- its history -------------------------------------------------------------------------------------------------------


def rules_of(git: Git, oid: str) -> tuple[str | None, ...] | None:
    """Return which policy, keys, configuration and agent files a trusted commit has, the policy first.

    None where it is not in this clone.
    """
    if git.commit(oid) is None:
        return None
    files = git.tree(f"{oid}:{paths.ROOT}") or {}
    said = (paths.POLICY, paths.SIGNERS, signers.OPENPGP, paths.CONFIG, paths.AGENTS)
    names = [path.rstrip("/").rpartition("/")[2] for path in said]
    return tuple(files[name].oid if name in files else None for name in names)


def differs(git: Git, one: str, other: str) -> bool:
    """Return whether two trusted commits may decide differently who may do what.

    Where one is not in this clone, they may if the other has a policy.
    """
    if one == other:
        return False
    known, now = rules_of(git, one), rules_of(git, other)
    return known != now if known is not None else now is None or now[0] is not None


def is_below(git: Git, old: str, new: str) -> bool:
    there(git, old)
    if git.is_ancestor(old, new):
        return True
    if git.is_shallow():
        raise git.missing(f"the history of {new[:12]}")
    return False


def there(git: Git, oid: str) -> None:
    if git.commit(oid) is None:
        raise git.missing(f"commit {oid[:12]}, which the record says was the trusted branch's,")


def written_by_people(git: Git, trusted: str) -> frozenset[str]:
    """Return the paths below memory/ whose last change on the trusted branch, at the commit `trusted`, was a person's own.

    It was where that commit of the first-parent chain is no transition and brings no protocol's record: a merge or a squash of a
    protocol's branch has its record with it. What this clone lacks the history of is nobody's.
    """
    left = {paths.MEMORY + name for name in git.tree(f"{trusted}:{paths.MEMORY.rstrip('/')}") or {}}
    if not left:
        return frozenset()
    found: set[str] = set()
    try:
        for oid in transitions.touched(git, ["--first-parent", trusted], [paths.MEMORY.rstrip("/")]):
            commit = transitions.commit_of(git, oid)
            before = transitions.commit_of(git, commit.parents[0]).oid if commit.parents else None
            changed = git.changed(before, oid)
            if log.parse_message(commit.message) is None and not any(_is_record(path) for path in changed):
                found |= left & changed.keys()
            left -= changed.keys()
            if not left:
                break
    except InsufficientHistoryError:
        pass
    return frozenset(found)


def _is_record(path: str) -> bool:
    root, _, rest = path.partition("/")
    protocol, _, name = rest.partition("/")
    return root == paths.ROOT and is_protocol_id(protocol) and paths.is_record(name)
