"""A repository as the runner sees it: its git, where its things lie, which branch is trusted, how it is configured; and the session
of a process that works with it. Who only reads the repository takes the `Project`; who depends on what this process did, or changes
that (the remote's answer, the lease, the day's budget), takes the `Session`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from runner.errors import HeldError, UnsupportedError, UsageError
from runner.git import Git, Ident
from runner.protocol import ids, paths
from runner.protocol.log import actor as log_actor
from runner.store import objects, remote
from runner.store.environment import Clone, Environment, Redactor, StateDir, read_checkpoint
from runner.store.trusted import OnlyProtocolsError, Trusted, last_seen

if TYPE_CHECKING:
    from decimal import Decimal

    from runner.git import TreeEntry
    from runner.git.process import Location
    from runner.protocol.config import Config
    from runner.protocol.plans import Plan
    from runner.protocol.ref_files import Lease
    from runner.store.batch import Batch
    from runner.store.snapshot import Snapshot
    from runner.store.worktree import Quiet


SETTINGS = {"executor": ("sandbox", "container", "host"), "publish": ("never", "ask", "always")}


@dataclass(frozen=True, slots=True, eq=False)
class Project(Clone):
    """`options`: those of the command line; they go before the environment and config.yaml.

    It is at one commit of the trusted branch: where that moves, the session continues with another project.
    """

    trusted: Trusted
    options: Mapping[str, str] = field(default_factory=dict)
    # From the trusted commit: the configuration, the policy and keys …
    derived: dict[str, Any] = field(default_factory=dict)

    # --- configuration -----------------------------------------------------------------------------------------------

    @property
    def config(self) -> Config:
        """The trusted branch's configuration.

        Raises:
            MalformedFileError: it is not valid; UnsupportedError: it asks for what this version does not do.
        """
        if "config" not in self.derived:
            from runner.protocol import config

            where = f"{paths.CONFIG} on {self.trusted.branch}"
            self.derived["config"] = config.parse(self.trusted.blob(self.git, paths.CONFIG), where)
        found: Config = self.derived["config"]
        return found

    def refuse_unsupported(self) -> None:
        """Refuse by name what the trusted branch asks for and this version does not do.

        Raises:
            UnsupportedError: naming the file.
        """
        if (self.config.ci or self.config.qa.on_ci) and not self.config.has_requests:
            key = "ci" if self.config.ci else "qa"
            raise UnsupportedError(
                f"`{key}:` is about what CI says, and there is no `forge:` to ask",
                f"{paths.CONFIG} on {self.trusted.branch}",
                f"set `forge:`, or remove `{key}:`",
            )

    @property
    def has_requests(self) -> bool:
        """Whether work is merged by a request on the forge, not here."""
        return self.trusted.remote is not None and self.config.has_requests and self.setting("publish") != "never"

    @property
    def publishes(self) -> bool:
        """Whether each transition is pushed at once (`publish: always`)."""
        return self.setting("publish") == "always"

    @property
    def is_ephemeral(self) -> bool:
        """Whether this machine may vanish, as a CI job's does (`--ephemeral`, `--ci`)."""
        return "ephemeral" in self.options

    @property
    def hands_over(self) -> bool:
        """Whether this is a job that may not push: another job publishes what it made, and judges it first."""
        return self.is_ephemeral and self.trusted.remote is not None and not self.publishes

    def setting(self, key: str) -> str:
        """Return `executor` or `publish`: option, else environment, else config.yaml. Offline nothing is published.

        Raises:
            UsageError: a value that there is not.
        """
        value, where = ("never", "--offline") if key == "publish" and self.offline else self.source(key)
        if value not in SETTINGS[key]:
            raise UsageError(f"`{value}` is not a value of `{key}`", where, f"use {', '.join(SETTINGS[key])}")
        return value

    def source(self, key: str) -> tuple[str, str]:
        """Return a setting's value and where it came from."""
        if self.options.get(key):
            return self.options[key], f"--{key}"
        name = f"RUNNER_{key.upper()}"
        if self.env.environ.get(name):
            return self.env.environ[name], name
        config = self.config
        where = paths.CONFIG if key in config.model_fields_set else "default"
        return str(getattr(config, key)), where

    @property
    def offline(self) -> bool:
        """Whether the person said that the remote is not to be asked."""
        return bool(self.options.get("offline"))

    @property
    def is_shared(self) -> bool:
        """Whether others do this project's work too, by the remote: offline as well, where they are only not asked."""
        return self.trusted.remote is not None and self.source("publish")[0] == "always"

    @property
    def promised(self) -> objects.Promised:
        """The objects that a partial clone has left at its remote."""
        return objects.Promised(self, self.trusted.commit, self.offline)

    # --- names -------------------------------------------------------------------------------------------------------

    @property
    def pattern(self) -> str:
        """The pattern of protocols' branches; read without loading models."""
        if "pattern" not in self.derived:
            self.derived["pattern"] = ids.branch_pattern(self.trusted.blob(self.git, paths.CONFIG))
        found: str = self.derived["pattern"]
        return found

    def branch(self, protocol: str) -> str:
        """Return the full name of a protocol's branch."""
        return f"refs/heads/{ids.branch_of(self.pattern, protocol)}"

    def tip(self, protocol: str) -> str | None:
        """Return the commit of a protocol's branch here, else of the remote's as last fetched, or None."""
        branch = self.branch(protocol)
        here = self.git.resolve(branch)
        return self.git.resolve(self.tracking(branch)) if here is None and self.trusted.remote else here

    def checkpoint_and_tip(self, protocol: str) -> tuple[str | None, str | None]:
        """Return the commit of a protocol that verified here last, and the one that its branch here is at, read in this order.

        A runner that works beside moves the branch, and then the checkpoint: read the other way round, the branch would seem to lack
        a commit that verified, as if its history was rewritten.
        """
        checkpoint = read_checkpoint(self.dirs, protocol)
        return checkpoint, self.git.ref(self.branch(protocol))

    def tracking(self, branch: str) -> str:
        """Return the ref by which the person's own git sees a branch, by its full name, on the remote."""
        return f"refs/remotes/{self.trusted.remote}/{branch.removeprefix('refs/heads/')}"

    def branches(self, number: int | None = None) -> dict[str, str]:
        """Return full ref name to tip of the branches that may be protocols', here and at the remote as last fetched.

        `number`: of those alone that have it, however many others there are.
        """
        before = self.pattern.partition("{id}")[0]
        folder = before.rpartition("/")[0] + "/" if "/" in before else ""
        roots = ["refs/heads/", *([f"refs/remotes/{self.trusted.remote}/"] if self.trusted.remote else [])]
        ways = [folder] if number is None else [f"{before}{spelt}*" for spelt in ids.spellings(number)]
        return self.git.refs(*(root + way for root in roots for way in ways))

    def protocols(self, number: int | None = None, branches: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return id to tip of the protocols that have a branch here, or at the remote as last fetched, by number.

        `number`: as for `branches`; `branches`: what that returned, where the caller has it.
        """
        here, found = "refs/heads/", dict[str, str]()
        there, of = f"refs/remotes/{self.trusted.remote}/", ids.of_branches(self.pattern)
        for name, oid in (self.branches(number) if branches is None else branches).items():
            root = here if name.startswith(here) else there
            protocol = of(name[len(root) :])
            if protocol and (protocol not in found or root is here):
                found[protocol] = oid
        return ids.in_order(found)

    def runner(self) -> Ident:
        """Return who commits of work and record are by."""
        identity = self.config.identity
        return Ident(
            self.env.environ.get("RUNNER_NAME") or identity.name,
            self.env.environ.get("RUNNER_EMAIL") or identity.email,
            int(self.env.now()),
        )


Intents = Mapping[str, dict[str, Any]]  # effects that a lease announces, by their calls' names


@dataclass(slots=True, eq=False)
class HeldLease:
    """The lease that this process has. `oid`: its commit; `since`: when that was made, in seconds that include those of sleep.

    `ttl`: how long it lasts without being renewed; `intents`: the effects that it announces, by their calls' names; `tip`: the
    branch's commit on the remote that was looked at. It is renewed beside the work: a thread that moves it, or reads more than one of
    these, holds `lock`.
    """

    protocol: str
    lease: Lease
    oid: str
    since: float
    ttl: float
    author: Ident
    intents: Intents = field(default_factory=dict)
    tip: str | None = None
    renewed: bool = False  # since it was taken, or something was published
    lost: HeldError | None = None  # it was found to be another runner's
    lock: threading.RLock = field(default_factory=threading.RLock)
    stop: Callable[[], None] = lambda: None  # ends the renewals

    @property
    def every(self) -> float:
        """How long after it was moved it is renewed."""
        return self.ttl / 3


class SharedBudget(Protocol):
    """What a process has of the day's budget (`day_budget.Reservation`). `protocol`: whose work it pays for."""

    protocol: str

    def reserve(self, engine: str, usd: Decimal | None, tokens: int) -> None:
        """Have enough for a request, or refuse it by a RunnerError: nothing is recorded then, and the work resumes later."""

    def charge(self, usd: Decimal | None, tokens: int) -> None:
        """Note what it did cost."""

    def close(self) -> None:
        """Give back what was not spent."""


@dataclass(slots=True, eq=False)
class Session:
    """What this process has of a project, and what it was told."""

    project: Project
    looked: bool = False  # whether the remote was asked in this process
    mirror: remote.Mirror | None = None  # the remote, where it answered
    lease: HeldLease | None = None  # the remote's, while this process has it
    shared_budget: SharedBudget | None = None  # what this process has of the day's budget, once it asks a model
    batch: bool = False  # `run` pushes once, when it ends
    pending: Batch | None = None  # transitions that the branch does not show yet
    looked_at: float = 0.0  # by the monotonic clock
    speaker: str = ""  # who said it on the forge, where somebody there did: `HOST/ID/comment/ID`
    snapshot: Snapshot | None = None  # the protocol that was read last
    quiet: Quiet | None = None  # the last look for a person's edits, where it found none
    # The plan that was read last, and of which files and default checks.
    plan: tuple[tuple[str, Mapping[str, TreeEntry], tuple[str, ...]], Plan] | None = None
    proposals: dict[str, object] = field(default_factory=dict)  # what checks found of an attempt's work before its QA
    quiet_parts: set[str] = field(default_factory=set)  # the ids of parts of logs without a call or an effect
    _redactor: Redactor | None = None
    _told: set[str] = field(default_factory=set)  # what was said once
    _edits: str = ""  # the trusted commit that the checkout's rules were compared with

    @classmethod
    def open(
        cls, cwd: Path, env: Environment, options: Mapping[str, str] | None = None, at: Location | None = None
    ) -> Session:
        """Open the repository that `cwd` is in, or `at` where it was found already. The network is not asked, but by a clone of
        nothing but protocols' branches, once: their policy is no policy.

        Raises:
            UsageError: there is none, or it cannot be used.
            RefusedError: its remote is not the pinned one.
            UnreachableError: it has to be asked, and does not answer.
        """
        git = Git.open(cwd, env.state_home) if at is None else Git(at)
        try:
            clone = Clone.of(git, env)
            try:
                trusted = last_seen(git, clone.dirs)
            except OnlyProtocolsError:
                mirror = remote.Mirror.of(clone)
                if mirror is None:
                    raise
                trusted = mirror.look()
            session = cls(Project(git, clone.dirs, env, trusted, dict(options or {})))
            session.fetch_promised()
            return session
        except BaseException:
            git.close()
            raise

    def fetch_promised(self) -> None:
        """Let git fetch the objects that a partial clone has left at its remote."""
        if self.git.is_partial():
            self.git.fetch_promised = lambda oid, names: self.project.promised.bring(oid, names)

    def close(self) -> None:
        """Close the open processes and settle the day's budget."""
        try:
            if self.shared_budget is not None:
                self.shared_budget.close()
        finally:
            self.git.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def git(self) -> Git:
        """The project's git."""
        return self.project.git

    @property
    def dirs(self) -> StateDir:
        """Where the project's things lie."""
        return self.project.dirs

    @property
    def env(self) -> Environment:
        """The environment of the process."""
        return self.project.env

    @property
    def redactor(self) -> Redactor:
        """Removes the secrets of the runner's own environment from text that is written."""
        if self._redactor is None:
            self._redactor = Redactor(self.env.environ)
        return self._redactor

    def trust(self, trusted: Trusted) -> None:
        """Continue with a trusted branch that was fetched just now."""
        moved = trusted.commit != self.project.trusted.commit
        if moved:
            self.proposals.clear()
        self.project = replace(self.project, trusted=trusted, derived={} if moved else self.project.derived)

    @property
    def to_ask(self) -> str | None:
        """The remote that may have what is not here; None if there is none, or this process has asked it."""
        return self.project.trusted.remote if self.mirror is None else None

    def above(self, ref: str) -> str | None:
        """Return what a ref is on the remote, as this command last read it; None where it has none, or was not read."""
        return self.mirror.ref(ref) if self.mirror is not None else None

    def tell_once(self, line: str) -> None:
        """Say something to the person that stays true however often it is found out."""
        if line not in self._told:
            self._told.add(line)
            self.env.say(line)

    def tell_unread_edits(self) -> None:
        """Say once which rules of the checkout are not those of the trusted branch: a person may think that their edit is read.

        An edit is in no commit, or in one on top of the trusted branch's. A checkout that is only older has none.
        """
        git, trusted = self.git, self.project.trusted
        if git.top is None or self._edits == trusted.commit:
            return
        self._edits, differing = trusted.commit, dict[str, bytes]()
        for path in (paths.CONFIG, paths.POLICY, paths.SIGNERS):
            try:
                here = (git.top / path).read_bytes().replace(b"\r\n", b"\n")
            except OSError:  # it is not there
                continue
            if here != trusted.blob(git, path):
                differing[path] = here
        if not differing:
            return
        head = git.resolve("HEAD")
        is_ahead = head is None or git.is_ancestor(trusted.commit, head)
        found = [path for path, here in differing.items() if is_ahead or here != git.blob(f"{head}:{path}")]
        if found:
            there = f"{trusted.branch} of {trusted.remote}" if trusted.remote else trusted.branch
            self.tell_once(
                f"{', '.join(found)} as edited here: not read before it is committed on {there}, the trusted branch"
            )

    def person(self) -> Ident:
        """Return the person at the keyboard; in CI, and for somebody on the forge, the runner's identity stands for them.

        Raises:
            UsageError: git does not know who they are.
        """
        if self.speaker or self.env.environ.get("RUNNER_EMAIL"):
            return self.project.runner()
        return self.git.person(int(self.env.now()))

    def actor(self) -> str:
        """Return who typed the command, as the record names them."""
        if self.speaker:
            return log_actor(self.speaker)
        if self.env.environ.get("RUNNER_EMAIL"):
            return log_actor(self.env.environ["RUNNER_EMAIL"])
        try:
            return log_actor(self.git.person(0).email)
        except UsageError:
            return "runner"
