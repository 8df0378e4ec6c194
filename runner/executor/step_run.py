"""One attempt of a step, with everything that it uses, as one value."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import MalformedFileError
from runner.executor.workspace_session import KeptOutput, WorkspaceSession
from runner.protocol import config, paths, references
from runner.protocol.events import Event
from runner.protocol.plans import Plan, Step, seconds_of
from runner.protocol.state import State, StepStatus
from runner.sandbox.process import CommandOutcome
from runner.store.environment import Redactor
from runner.store.project import Project, Session
from runner.store.snapshot import Snapshot

if TYPE_CHECKING:
    from runner.executor.journal import Journal
    from runner.protocol.config import AgentFile

TIME_LIMIT = "1h"  # of a step that names none
ROUNDS = 3  # of a model's work and its checks in an attempt, where nothing else is said


@dataclass(slots=True, eq=False)
class StepRun:
    """One attempt of a step. `snapshot`: the protocol at the commit where the attempt starts.

    `state`: that of `snapshot` after the events that the same transition records first; `approvals`: those of them by approvals.
    `workspace`, `journal` and `started`, the commit that the workspace started with, are set by the step kind that uses them. `kept`:
    a commit with the work of a failed attempt that is judged by hand, in the place of the snapshot's, or with the work that an attempt
    proposes, which says `proposed` of itself.
    """

    session: Session
    snapshot: Snapshot
    plan: Plan
    step: Step
    state: State
    approvals: Sequence[Event] = ()
    workspace: WorkspaceSession = field(init=False)
    journal: Journal = field(init=False)
    started: str = field(init=False)
    kept: str | None = None
    proposed: dict[str, Any] | None = None
    _agent: AgentFile | None = None

    @property
    def project(self) -> Project:
        """The project as the session has it now."""
        return self.session.project

    @property
    def slug(self) -> str:
        """The step's slug."""
        return self.step.slug

    @property
    def attempt(self) -> int:
        """The attempt's number, from 1."""
        return self.state.steps[self.step.slug].attempt

    @property
    def judged(self) -> str:
        """The commit whose tree its QA checks."""
        return self.kept or self.snapshot.tip

    @property
    def name(self) -> str:
        """The name of the attempt's journal and transcript."""
        return f"{self.slug}.{self.attempt}"

    @property
    def label(self) -> str:
        """The step's name and its place among the plan's steps, as people see them: `04-build 4/7`."""
        own = self.state.steps[self.slug]
        places = self.state.steps.order[1]
        again = f", attempt {self.attempt}" if self.attempt > 1 else ""
        # One that was removed has no place.
        at = "" if own.removed else f" {bisect_left(places, own.place) + 1}/{len(places)}"
        return f"{own.place:02d}-{self.slug}{at}{again}"

    @property
    def where(self) -> str:
        """The path of the step's file, for messages."""
        return f"{paths.folder(self.snapshot.protocol)}/{self.step.file}"

    @property
    def timeout(self) -> float:
        """How long a command of the step may take, in seconds."""
        return float(seconds_of(self.step.header.timeout or TIME_LIMIT))

    @property
    def rounds(self) -> int:
        """How often the step's checks may run in an attempt that a model makes."""
        own = [one.rounds for one in (self.step.header.qa, self.plan.header.qa) if one and one.rounds]
        return next(iter(own), self.project.config.qa.rounds or ROUNDS)

    def environment(self, workspace: WorkspaceSession, cwd: Path | None = None) -> dict[str, str]:
        """Return the whole environment of its commands in a workspace, or of its checks where `cwd` is the export."""
        return {
            **workspace.environment(cwd),
            **references.environment(self.plan.header.inputs, self.results),
            "RUNNER_STEP": self.slug,
            "RUNNER_ATTEMPT": str(self.attempt),
            "RUNNER_RESULT": str(workspace.out(cwd) / "result"),
        }

    def execute(
        self, workspace: WorkspaceSession, line: str | tuple[str, ...], *, cwd: Path | None = None, part: str = ""
    ) -> tuple[CommandOutcome, bytes]:
        """Run a command of the step's in a workspace, within the step's time; return how it ended, and its output as the history
        keeps it.

        `part`: what it is of the step, where it is not all of it: `check 2/3`.

        The secrets of our own environment are taken out of both.

        Raises:
            HeldError: the lease was lost; it did not start.
        """
        kept = KeptOutput(self.redactor)
        take = workspace.taking(kept, f"{self.label} {part}".rstrip())
        network = workspace.network(self.step.header.network, f"`network` of {self.where}", kept.contact)
        env = self.environment(workspace, cwd)
        outcome = workspace.run(line, env, timeout=self.timeout, cwd=cwd, network=network, on_output=take)
        asked = tuple(one._replace(host=self.redactor.text(one.host)) for one in outcome.network)
        return outcome._replace(tail=self.redactor.data(outcome.tail), network=asked), kept.data()

    @property
    def results(self) -> dict[str, Any]:
        """The results of the completed steps, by slug."""
        return {slug: step.result for slug, step in self.state.steps.items() if step.status is StepStatus.COMPLETED}

    @property
    def redactor(self) -> Redactor:
        """Removes the secrets of the runner's own environment from text that is written."""
        return self.session.redactor

    @property
    def agent(self) -> AgentFile | None:
        """The agent file that the step names, or its plan, as the trusted branch has it.

        Raises:
            MalformedFileError: it does not exist, or is not valid.
        """
        if self._agent is None:
            self._agent = agent_of(self.project, self.plan, self.step, self.where)
        return self._agent

    @property
    def agent_file(self) -> str:
        """The path of that agent file, empty where none is named."""
        name = self.step.header.agent or self.plan.header.agent
        return paths.agent_file(name) if name else ""


def agent_of(project: Project, plan: Plan, step: Step, where: str) -> AgentFile | None:
    """Return the agent file that a step names, or its plan, as the trusted branch has it. `where`: the step's file, for messages.

    Raises:
        MalformedFileError: it does not exist, or is not valid.
    """
    name = step.header.agent or plan.header.agent
    if name is None:
        return None
    path, branch = paths.agent_file(name), project.trusted.branch
    data = project.trusted.blob(project.git, path)
    if data is None:
        raise MalformedFileError(
            f"agent file `{name}` does not exist", where, f"write {path} on {branch}, the trusted branch"
        )
    return config.parse_agent(data, f"{path} on {branch}")
