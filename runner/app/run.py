"""Run a protocol until something else is needed, and the exit code of a command that advanced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from runner.app import sync
from runner.errors import ExitCode
from runner.executor import advance
from runner.executor.advance import Advanced
from runner.protocol import machine, state
from runner.protocol.machine import Halt
from runner.protocol.state import ACTIVE, ENDED
from runner.store import lease, publishing, transaction
from runner.store.project import Session

if TYPE_CHECKING:
    from runner.forge import Forge


class Pace(NamedTuple):
    """How far a run goes. `until`: a step that ends it; `ask`: asks a person who is here whether it continues, and with `each` does so
    after each step."""

    until: str | None = None
    each: bool = False
    ask: Callable[[Advanced], bool] = lambda done: True

    def is_over(self, done: Advanced) -> bool:
        """Return whether the step is done that ends the run."""
        known = done.state.steps.get(self.until) if self.until is not None else None
        return known is not None and known.status in ENDED


TURN = "RUNNER_FLEET_TURN"  # set for the processes that `fleet` starts


def run(
    session: Session,
    protocol: str,
    *,
    max_steps: int,
    adopt: bool,
    tell: Callable[[Advanced], None],
    forge: Forge | None = None,
    pace: Pace | None = None,
) -> Iterator[Advanced]:
    """Step until someone or something else is needed; published, where that is on, in one push at the end.

    An effect that was announced on the remote, and a lease that grows old, are published for in between.

    Raises:
        RunnerError: as `step` does; everything until then is recorded here.
    """
    session.batch = True
    pace = pace or Pace()
    left, wait = max_steps, 0.0

    def more(made: Sequence[Advanced]) -> bool:
        return len(made) < left and not pace.each and not pace.is_over(made[-1])

    try:
        while left:
            done = advance.step(session, protocol, adopt=adopt, forge=forge, wait=wait, more=more)
            wait = transaction.PUBLISH_WAIT  # for a `sync` or an `undo` that comes in between
            for one in (*done.before, done):
                left -= 1
                if one.entries:
                    tell(one)
                yield one
            ended = isinstance(done.action, Halt) or done.state.status not in ACTIVE or not left
            ended = ended or pace.is_over(done) or not pace.ask(done)
            if not ended and (session.lease is None or not lease.is_due(session)):
                continue
            if session.project.publishes and session.mirror is not None:
                acts = isinstance(machine.decide(done.state), machine.RunStep | machine.CheckStep)
                published = sync.settle_and_push(session, protocol, keep=not ended and acts)
                if published.tip != done.commit:
                    continue  # somebody was first: their transitions stand, ours are done again
            if ended:
                return
    finally:
        publishing.drop_lease(session)


def begins_to_wait(done: Advanced) -> bool:
    """Return whether a transition made the protocol wait for somebody, or stopped it: people are notified of that."""
    stops = done.state.status in (state.Status.FAILED, state.Status.BLOCKED)
    return any(one.type.opens for one in done.events) or (stops and bool(done.entries))


def notify(session: Session, *protocols: str) -> None:
    """Notify people of what waits in protocols, as `watch` does. A turn of `fleet` leaves it to the fleet, which sends one message."""
    own = session.git.personal_settings()
    ways = own.get("runner.notify") or own.get("runner.mail") or session.project.config.notify.webhooks
    if not ways or session.env.environ.get(TURN):
        return
    from runner.app import notify  # HTTP, mail and TLS, which nobody needs who set no way

    notify.tell(session, {name: tip for name in protocols if (tip := session.project.tip(name))})


def exit_code(done: Advanced) -> int:
    """Return what a command that advanced exits with (design §9)."""
    status = done.state.status
    if status is state.Status.FAILED:
        return ExitCode.FAILED
    if status in (state.Status.PAUSED, state.Status.BLOCKED):
        return ExitCode.WAITS
    owes = isinstance(done.action, Halt | machine.AskPerson) or any(one.type.opens for one in done.events)
    if done.state.waiting and owes:
        return ExitCode.WAITS
    if isinstance(done.action, Halt) and status in ACTIVE:
        return ExitCode.WAITS
    return ExitCode.DONE
