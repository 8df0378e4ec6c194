"""Whose time it is: leases that are renewed, lost and taken over. Real git and clones; each machine's clocks are the test's."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest

from runner.errors import ConflictError, HeldError, UnreachableError
from runner.store import history, lease, publishing
from runner.store.project import Session
from tests.conftest import START, Box, clone, command, mostly_slow, set_env
from tests.store.test_lease import hook, leased, origin, settle_on, there

TTL, GRACE = 900.0, 300.0
DAY = 86_400.0


@dataclass
class Machine:
    """A machine with a clone. `wall`: what its clock says; `up`: how long it runs; `boot`: which start of it this is."""

    box: Box
    wall: float = float(START)
    up: float = 5_000.0
    boot: str = "one"
    beats: list[Callable[[], float]] = field(default_factory=list)
    slept: Callable[[], object] = lambda: None
    hexes: Callable[[int], str] = lambda count: os.urandom(count).hex()[:count]

    def pass_by(self, seconds: float) -> None:
        """Let time go on, as its clocks see it."""
        self.wall, self.up = self.wall + seconds, self.up + seconds

    def _sleep(self, seconds: float) -> None:
        self.pass_by(seconds)
        self.slept()

    @contextlib.contextmanager
    def command(self, protocol: str, **options: str) -> Iterator[Session]:
        """Begin a command that has looked at the remote."""

        def beside(seconds: float, beat: Callable[[], float]) -> Callable[[], None]:
            self.beats.append(beat)
            return lambda: self.beats.remove(beat)

        with self.box.session(publish="always", **options) as session:
            set_env(
                session,
                now=lambda: self.wall,
                monotonic=lambda: 0.0,  # it stands still while a machine sleeps, so nothing here may depend on it
                uptime=lambda: self.up,
                sleep=self._sleep,
                boot=lambda: self.boot,
                beside=beside,
                random_hex=self.hexes,
                host=self.box.path.name,
            )
            names = (f"refs/heads/{protocol}", history.ref_of(protocol), lease.ref_of(protocol))
            assert publishing.look(session, *names) is not None
            yield session

    def takes(self, protocol: str, **options: str) -> bool:
        """Return whether a command that begins now gets the lease; it keeps it."""
        with self.command(protocol, **options) as session:
            try:
                return lease.take(session, protocol)
            except HeldError:
                return False


@pytest.fixture
def protocol(remote: Box) -> str:
    settle_on(remote)
    return remote.new({"01-a": command("true")})


# --- clocks that disagree ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("apart", mostly_slow([0.0, 3600.0, -3600.0, -DAY, 3650 * DAY, -20 * 365 * DAY], 1))
def test_however_far_clocks_are_apart_nobody_is_robbed_early_and_none_waits_for_ever(
    remote: Box, protocol: str, apart: float
) -> None:
    alice, bob = Machine(remote), Machine(clone(remote, "bob"), wall=START + apart)
    assert alice.takes(protocol)
    for passed in (0.0, TTL, GRACE - 1):
        bob.pass_by(passed)
        assert not bob.takes(protocol)
    bob.pass_by(1.0)
    assert bob.takes(protocol)
    assert leased(remote, protocol)["host"] == "bob"


@pytest.mark.slow
@pytest.mark.parametrize("jump", [10 * 365 * DAY, -DAY])
def test_a_clock_that_is_set_meanwhile_changes_nothing(remote: Box, protocol: str, jump: float) -> None:
    alice, bob = Machine(remote), Machine(clone(remote, "bob"))
    with alice.command(protocol) as session:
        assert lease.take(session, protocol)
        assert not bob.takes(protocol)
        bob.wall += jump
        assert not bob.takes(protocol)
        alice.pass_by(TTL / 3 + 1)
        bob.pass_by(TTL / 3 + 1)
        alice.wall -= jump
        alice.beats[0]()
        bob.pass_by(TTL + GRACE - 1)
        assert not bob.takes(protocol)  # it moved
        bob.pass_by(TTL + GRACE)
        assert bob.takes(protocol)


@pytest.mark.slow
def test_another_start_of_the_machine_begins_to_look_anew(remote: Box, protocol: str) -> None:
    alice, bob = Machine(remote), Machine(clone(remote, "bob"))
    assert alice.takes(protocol) and not bob.takes(protocol)
    bob.boot, bob.up = "two", 100_000.0  # or another machine, with the same home
    assert not bob.takes(protocol)
    bob.pass_by(TTL + GRACE - 1)
    assert not bob.takes(protocol)
    bob.pass_by(1)
    assert bob.takes(protocol)


@pytest.mark.slow
def test_who_cannot_remember_watches_one_that_seems_left_and_no_other(remote: Box, protocol: str) -> None:
    alice, job = Machine(remote), Machine(clone(remote, "job"), boot="")
    with alice.command(protocol) as session:
        assert lease.take(session, protocol)
        before = job.up
        assert (
            not job.takes(protocol, ephemeral="yes") and job.up == before
        )  # it may well be alive: no time is spent on it
        alice.pass_by(2 * TTL)
        job.pass_by(2 * TTL)
        job.slept = lambda: alice.beats[0]()  # it was only slow
        assert not job.takes(protocol, ephemeral="yes") and job.up < before + 2 * TTL + (TTL + GRACE) / 5
    job.slept = lambda: None
    job.pass_by(2 * TTL)
    before = job.up
    assert job.takes(protocol, ephemeral="yes") and TTL + GRACE <= job.up - before < 2 * (TTL + GRACE)


@pytest.mark.slow
def test_a_job_that_publishes_nothing_stands_back_while_one_may_be_alive_and_spends_no_time(
    remote: Box, protocol: str
) -> None:
    alice, job = Machine(remote), Machine(clone(remote, "job"), boot="")
    assert alice.takes(protocol)
    with job.command(protocol, ephemeral="yes") as session:
        session.project = replace(session.project, options={"publish": "never", "ephemeral": "yes"})
        with pytest.raises(HeldError):
            lease.take(session, protocol)
        job.pass_by(TTL + GRACE + 2)
        before = job.up
        assert lease.take(session, protocol) and session.lease is None and job.up == before
    assert leased(remote, protocol)["host"] == "repo"


@pytest.mark.slow
def test_who_cannot_remember_takes_one_of_a_clock_that_is_years_ahead(remote: Box, protocol: str) -> None:
    alice, job = Machine(remote, wall=START + 50 * 365 * DAY), Machine(clone(remote, "job"), boot="")
    assert alice.takes(protocol) and leased(remote, protocol)["expires"].startswith("2073")
    before = job.up
    assert job.takes(protocol) and job.up - before >= TTL + GRACE


# --- jobs of a CI --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_of_a_job_that_is_over_is_taken_at_once_and_of_one_that_may_run_it_is_not(
    remote: Box, protocol: str
) -> None:
    job = "https://forge.test/a/b/actions/runs/7"
    server = {"GITHUB_SERVER_URL": "https://forge.test", "GITHUB_REPOSITORY": "a/b", "GITHUB_RUN_ID": "7"}
    remote.env.update(server)
    bob = Machine(clone(remote, "bob"))
    for name in server:
        del bob.box.env[name]
    assert Machine(remote).takes(protocol)
    asked = []
    with bob.command(protocol) as session:
        with pytest.raises(HeldError, match="actions/runs/7"):
            lease.take(session, protocol, lambda address: asked.append(address) is not None)  # type: ignore[func-returns-value]
        assert lease.take(session, protocol, lambda address: address == job)
    assert set(asked) == {job}


# --- renewals --------------------------------------------------------------------------------------------------------------


def test_it_is_renewed_while_the_work_goes_on_and_not_before_it_is_due(remote: Box, protocol: str) -> None:
    alice, bob = Machine(remote), Machine(clone(remote, "bob"))
    with alice.command(protocol) as session:
        assert lease.take(session, protocol)
        first = there(remote, lease.ref_of(protocol))
        assert 0 < alice.beats[0]() <= TTL / 3 and there(remote, lease.ref_of(protocol)) == first
        for _ in range(6):
            alice.pass_by(TTL / 3)
            bob.pass_by(TTL / 3)
            assert alice.beats[0]() == TTL / 3
            assert not bob.takes(protocol)
        assert session.lease is not None and session.lease.renewed and lease.is_due(session)
        assert leased(remote, protocol)["nonce"] == session.lease.lease.nonce
        lease.push(session, {}, keep=True)  # published on the way
        assert not lease.is_due(session) and leased(remote, protocol)["expires"] is not None
        lease.push(session, {})
        assert leased(remote, protocol) is None and alice.beats == [] and session.lease is None


def test_who_cannot_renew_it_begins_nothing_in_its_last_third_and_goes_on_when_the_remote_answers(
    remote: Box, protocol: str
) -> None:
    alice = Machine(remote)
    with alice.command(protocol) as session:
        assert lease.take(session, protocol)
        away = origin(remote).rename(origin(remote).with_suffix(".away"))
        alice.pass_by(TTL * 2 / 3 - 1)
        assert alice.beats[0]() < TTL / 3  # tried, and soon again
        publishing.ensure_lease(session)
        alice.pass_by(2)
        with pytest.raises(UnreachableError, match="no further work starts"):
            publishing.ensure_lease(session)
        away.rename(origin(remote))
        publishing.ensure_lease(session)
        alice.pass_by(TTL / 2)
        publishing.ensure_lease(session)
        lease.drop(session)
    assert leased(remote, protocol) is None


@pytest.mark.parametrize("found", ["by the renewal", pytest.param("by who begins something", marks=pytest.mark.slow)])
def test_who_lost_it_begins_nothing_and_publishes_nothing(remote: Box, protocol: str, found: str) -> None:
    alice, bob = Machine(remote), Machine(clone(remote, "bob"))
    with alice.command(protocol) as session:
        assert lease.take(session, protocol)
        alice.pass_by(TTL * 3)  # a laptop that slept
        bob.takes(protocol)
        bob.pass_by(TTL + GRACE)
        assert bob.takes(protocol)
        if found == "by the renewal":
            alice.beats[0]()
            assert session.lease is not None
        with pytest.raises(HeldError, match="another runner has taken it"):
            publishing.ensure_lease(session)
        assert session.lease is None and leased(remote, protocol)["host"] == "bob"


@pytest.mark.slow
def test_one_that_slept_and_was_not_robbed_goes_on(remote: Box, protocol: str) -> None:
    alice = Machine(remote)
    with alice.command(protocol) as session:
        assert lease.take(session, protocol)
        alice.pass_by(TTL * 10)
        publishing.ensure_lease(session)
        lease.push(session, {})
    assert leased(remote, protocol) is None


# --- answers that are lost, and answers that say nothing -------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("then", ["publishes", "renews"])
def test_a_renewal_whose_answer_was_lost_is_ones_own(remote: Box, protocol: str, then: str) -> None:
    alice = Machine(remote)
    with alice.command(protocol) as session:
        assert lease.take(session, protocol)
        held, mirror = session.lease, session.mirror
        assert held is not None and mirror is not None
        unheard = dataclasses.replace(held)
        lease._renew(session.project, unheard, mirror)
        assert unheard.oid == there(remote, lease.ref_of(protocol)) != held.oid
        if then == "renews":
            alice.pass_by(TTL)
            publishing.ensure_lease(session)
            assert held.oid == there(remote, lease.ref_of(protocol)) != unheard.oid
        lease.push(session, {})
    assert leased(remote, protocol) is None


@pytest.mark.slow
def test_a_push_whose_answer_was_cut_off_is_looked_up(remote: Box, protocol: str) -> None:
    hook(remote, "post-receive", "kill -9 $PPID\n")
    alice = Machine(remote)
    with alice.command(protocol) as session:
        assert lease.take(session, protocol)
        assert session.lease is not None and session.lease.oid == there(remote, lease.ref_of(protocol))
        lease.push(session, {})
    assert leased(remote, protocol) is None


def test_the_very_same_lease_pushed_twice_has_one_winner(remote: Box, protocol: str) -> None:
    other = clone(remote, "bob")
    alice, bob = (Machine(box, hexes=lambda count: "7" * count) for box in (remote, other))
    with alice.command(protocol) as first, bob.command(protocol) as second:
        set_env(second, host=first.env.host)
        assert lease.take(first, protocol)
        assert lease.take(second, protocol) is False  # git says `=` and exits with 0
        with pytest.raises(HeldError):
            lease.take(second, protocol)
        lease.push(first, {})
    assert leased(remote, protocol) is None


@pytest.mark.slow
def test_what_git_calls_up_to_date_is_a_lost_race(remote: Box, protocol: str) -> None:
    with Machine(remote).command(protocol) as session:
        mirror, tip = session.mirror, there(remote, protocol)
        assert mirror is not None
        mirror.push({"refs/runner/leases/x": (tip, None)})
        mirror.push({"refs/runner/leases/x": (tip, tip)})  # that it stays is no race
        with pytest.raises(ConflictError, match=r"refs/runner/leases/x .* by somebody else"):
            mirror.push({"refs/runner/leases/x": (tip, None)})
