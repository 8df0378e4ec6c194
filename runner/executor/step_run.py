"""One attempt of a step: all that it works on and with, as one value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Any

from runner.errors import MalformedFileError
from runner.executor.redact import Redactor
from runner.protocol import paths
from runner.protocol.events import Event
from runner.protocol.plans import Plan, Step, seconds_of
from runner.protocol.state import State, StepStatus
from runner.store.project import Project
from runner.store.snapshot import Snapshot
from runner.values import dataclass

if TYPE_CHECKING:
    from runner.executor.journal import Journal
    from runner.executor.workspace_session import WorkspaceSession
    from runner.protocol.agent_file import AgentFile

TIME_LIMIT = "1h"  # of a step that names none


@dataclass(slots=True)
class StepRun:
    """One attempt of a step. `view`: the protocol at the commit where the attempt starts.

    `state`: that of `view` after the events that the same transition records first; `approvals`: those of them that approvals made.
    `workspace` and `journal` are set by the step kind that uses them.
    """

    project: Project
    view: Snapshot
    plan: Plan
    step: Step
    state: State
    approvals: Sequence[Event] = ()
    workspace: WorkspaceSession = field(init=False)
    journal: Journal = field(init=False)
    _agent: AgentFile | None = None
    _redactor: Redactor | None = None

    @property
    def slug(self) -> str:
        """The step's slug."""
        return self.step.slug

    @property
    def attempt(self) -> int:
        """The attempt's number, from 1."""
        return self.state.steps[self.step.slug].attempt

    @property
    def name(self) -> str:
        """The name of the attempt's journal and transcript."""
        return f"{self.slug}.{self.attempt}"

    @property
    def where(self) -> str:
        """The path of the step's file, for messages."""
        return f"{paths.folder(self.view.protocol)}/{self.step.file}"

    @property
    def time_limit(self) -> str:
        """How long a command of the step may take, as its author wrote it."""
        return self.step.header.timeout or TIME_LIMIT

    @property
    def timeout(self) -> float:
        """The time limit in seconds."""
        return float(seconds_of(self.time_limit))

    @property
    def results(self) -> dict[str, Any]:
        """The results of the completed steps, by slug."""
        return {slug: step.result for slug, step in self.state.steps.items() if step.status is StepStatus.COMPLETED}

    @property
    def redactor(self) -> Redactor:
        """Removes the secrets of the runner's own environment from text that is written."""
        if self._redactor is None:
            self._redactor = Redactor(self.project.env.environ)
        return self._redactor

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
    from runner.protocol import agent_file  # loads the models of policies

    path, branch = paths.agent_file(name), project.trusted.branch
    data = project.trusted.blob(project.git, path)
    if data is None:
        raise MalformedFileError(
            f"agent file `{name}` does not exist", where, f"write {path} on {branch}, the trusted branch"
        )
    return agent_file.parse(data, f"{path} on {branch}")
