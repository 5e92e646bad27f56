"""One site: what is durable on its disk, its clocks, and the process that runs the real owner's machine.

A process may be paused, killed between any two effects, started again, cloned. What goes wrong and when is
for world.py to say, and so is what must hold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Final, TypeAlias

from cdp_container.domain import owner, owner_work
from cdp_container.domain import owner_types as ot
from cdp_container.format.domain import (
    DomainConfig,
    Encryption,
    EpochRecord,
    build_config,
    config_digest,
)
from cdp_container.format.keys import config_key
from tests.sim.clock import SECOND
from tests.sim.owners.writer import Writer
from tests.sim.store import SimStore

if TYPE_CHECKING:
    from tests.sim.owners.world import World

Wish: TypeAlias = ot.Claim | ot.TakeOver
LEASE_SECONDS: Final = 30
SLOW_ODDS: Final = 0.015


@dataclass(frozen=True, slots=True)
class Durable:
    """What survives a process."""

    nonces: tuple[bytes, ...] = ()
    fenced: str = ""
    releasing_to: str = ""
    released_to: str = ""


class Site:
    """See the module."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.store = SimStore(world.time, world.rng, world.store)
        self.store.landed = world.landed
        self.notes = Durable()
        self.process: Process | None = None
        self.paused_until_ns = 0
        self.disk_full = False
        self.wall_offset_ns = 0
        self._booted_ns = world.time.now_ns - 500 * SECOND

    def boottime_ns(self) -> int:
        return self.world.time.now_ns - self._booted_ns

    def wall_ns(self) -> int:
        return self.world.time.wall_ns() + self.wall_offset_ns

    def start(self, wish: Wish, writes: bool = True) -> None:
        """A new process; one that is fenced or released stays so until an operator's word."""
        assert self.process is None
        self.process = Process(self, wish, writes)
        self.process.begin()

    def kill(self) -> None:
        if self.process is not None:
            self.process.alive = False
        self.process = None

    def crash(self) -> None:
        """Gone; the supervisor starts it again. What was sent may land yet."""
        self.kill()
        self.world.time.after(self.world.rng.uniform(0.1, 8.0), self.supervise)

    def supervise(self) -> None:
        if self.process is None and not self.notes.fenced and not self.world.over:
            self.start(ot.Claim())

    def reboot(self) -> None:
        self.kill()
        self._booted_ns = self.world.time.now_ns
        self.world.time.after(self.world.rng.uniform(5.0, 60.0), self.supervise)

    def forgive(self) -> None:
        """An operator fails over, or back: nothing of what happened here before holds any more."""
        self.notes = replace(self.notes, fenced="", releasing_to="", released_to="")


class Process:
    """One run of the machine, and of a writer where the epoch is to be written.

    `sent`: the nonces of its swaps; `looked`: the nonce that stood there when its last request arrived.
    """

    def __init__(self, site: Site, wish: Wish, writes: bool) -> None:
        self.site = site
        self.rng: Random = site.world.rng
        self.alive = True
        self.wish = wish
        self.writes = writes
        self.writer: Writer | None = None
        self.sent: set[bytes] = set()
        self.looked = b""
        self._tick = 0
        notes = site.notes
        instance = self.rng.randbytes(16)
        if isinstance(wish, ot.TakeOver) and wish.base is not None:
            site.world.checks.wishes[instance] = wish.base
        claimant = ot.Claimant(site.world.domain, site.name, instance, LEASE_SECONDS, "root", "sim", "sim")
        self.state = owner.begin(
            claimant, notes.nonces, bool(notes.fenced), bool(notes.released_to), notes.releasing_to
        )

    def begin(self) -> None:
        if self.state.phase is ot.Phase.IDLE:
            self.on(self.wish)

    # --- time and the network ----------------------------------------------------------------------

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Let this process do something, once it is neither paused nor gone."""

        def wake() -> None:
            if not self.alive:
                return
            if self.site.paused_until_ns > self.site.world.time.now_ns:
                self.site.world.time.at(self.site.paused_until_ns, wake)
            else:
                call()

        self.site.world.time.after(seconds, wake)

    def send(self, request: Callable[[], None]) -> None:
        """A request leaves; where its process dies meanwhile it arrives all the same, or does not."""

        def arrive() -> None:
            if self.alive or self.rng.random() < 0.5:
                request()

        self.site.world.time.after(self._delay(), arrive)

    def reply(self, call: Callable[[], None]) -> None:
        self.later(self._delay(), call)

    def _delay(self) -> float:
        slow = self.rng.random() < SLOW_ODDS
        return self.rng.uniform(1, 60) if slow else self.rng.expovariate(1 / self.site.world.delay_seconds)

    # --- the machine -------------------------------------------------------------------------------

    def on(self, event: ot.Event) -> None:
        """One step; its effects in their order, with a crash between any two of them now and then."""
        if not self.alive:
            return
        moment = ot.Moment(self.site.boottime_ns(), self.site.wall_ns(), self.rng.randbytes(16))
        self.state, effects = owner.step(self.state, event, moment)
        is_noted = True
        for effect in effects:
            if not self.site.world.quiet and self.rng.random() < self.site.world.crash_odds:
                self.site.crash()
                return
            is_noted = self._carry_out(effect, is_noted) and is_noted
            if self.site.process is not self:
                return
        if self.state.phase is ot.Phase.FENCED:
            self.site.kill()
            return
        if self.state.phase is ot.Phase.REFUSED:
            self.site.crash()  # the command is over, and the site's agent runs again
            return
        self.wake()

    def wake(self) -> None:
        due_ns = owner.due_ns(self.state)
        self._tick += 1
        number = self._tick
        if due_ns is not None:
            seconds = max(0.0, (due_ns - self.site.boottime_ns()) / SECOND) + 0.001
            self.later(seconds, lambda: self.on(ot.Tick()) if number == self._tick else None)

    def _carry_out(self, effect: ot.Effect, is_noted: bool) -> bool:
        """Whether what it notes is durable."""
        site, notes = self.site, self.site.notes
        match effect:
            case ot.NoteNonces(nonces):
                return self._note(replace(notes, nonces=nonces))
            case ot.NoteReleasing(name):
                return self._note(replace(notes, releasing_to=name))
            case ot.NoteReleased(name):
                site.notes = replace(notes, released_to=name)
            case ot.NoteOwning():
                site.notes = replace(notes, releasing_to="", released_to="")
            case ot.NoteFenced(why):
                site.notes = replace(notes, fenced=why)
            case ot.ReadOwner() | ot.SwapOwner():
                self._request(effect, is_noted)
            case ot.FindEnd() | ot.WriteEpoch() | ot.ReadEpoch() | ot.CountEpochs():
                self.send(lambda: self._worked(site.world.do_work(self, effect)))
            case ot.Activated(record, end):
                self._activated(record, end)
            case ot.Proven(place):
                site.world.proven(self, place)
        return True

    def _note(self, notes: Durable) -> bool:
        if self.site.disk_full:
            return False
        self.site.notes = notes
        return True

    def _request(self, effect: owner_work.OwnerRequest, is_noted: bool) -> None:
        if not is_noted:
            failed = ot.OwnerFailed(ot.Failure.LOCAL, "the disk is full")
            self.later(0.0, lambda: self.on(failed))
            return
        if isinstance(effect, ot.SwapOwner):
            self.sent.add(effect.owner.nonce)
        domain = self.site.world.domain

        def look() -> None:
            event = owner_work.request_owner(self.site.store, domain, effect)
            self.looked = self.site.world.shown().nonce
            self._worked(event)

        self.send(look)

    def _worked(self, event: ot.Event) -> None:
        self.reply(lambda: self.on(event))

    def _activated(self, record: EpochRecord, end: ot.End) -> None:
        self.site.world.activated(self, record)
        if self.writes:
            self.later(float(record.epoch % 5), self._configure)
            self.writer = Writer(self, record, end, closed=bool(self.site.notes.releasing_to))
            if self.site.notes.releasing_to:
                self.release(self.site.notes.releasing_to)
        else:
            # A failover holds its epoch while it restores, and leaves the next one to the agent.
            self.later(self.rng.uniform(1, 60), self._hand_over)

    def _configure(self) -> None:
        """Ask for the configuration that runs of this epoch want; its object is put before that."""
        world, data = self.site.world, configuration(self.site.world.domain, self.state.epoch)
        key = config_key(config_digest(data))
        if not any(world.store.inner.list(key)):
            world.store.inner.put_new(key, data)
        self.on(ot.Configure(config_digest(data)))

    def _hand_over(self) -> None:
        self.site.kill()
        self.site.supervise()

    def fence(self, why: str) -> None:
        self.site.notes = replace(self.site.notes, fenced=why)
        self.site.kill()

    def release(self, name: str) -> None:
        """Take no more writes; once everything is protected, give the domain to that site."""
        if self.writer is None or self.state.phase is not ot.Phase.ACTIVE:
            return
        self.writer.closed = True
        if self.writer.drained:
            self.site.world.final[self.state.epoch] = self.writer.last
            self.on(ot.Release(name))
        else:
            self.later(1.0, lambda: self.release(name))


def configuration(domain: bytes, epoch: int) -> bytes:
    """What a run of an epoch wants: every second one has nothing to change, unless one before was lost."""
    return build_config(DomainConfig(domain, f"shop of {epoch // 2}", Encryption.NONE))
