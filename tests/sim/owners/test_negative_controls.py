"""Broken ways to own a domain, each in one way: the simulator must catch every one within the seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from cdp_container.domain import history, owner, owner_objects, owner_takeover, owner_work, requests
from cdp_container.domain import owner_types as ot
from cdp_container.domain.ends import Collected, find_end
from cdp_container.domain.history import History
from cdp_container.errors import CdpError
from cdp_container.format.domain import EpochRecord, Owner, OwnerState, build_owner
from cdp_container.format.keys import OWNER_KEY
from cdp_container.format.place import NOWHERE, Place
from cdp_container.format.preamble import parse_preamble
from cdp_container.format.request import OwnershipRequest
from cdp_container.store.api import Store
from tests.sim import store as sim_store
from tests.sim.clock import SECOND
from tests.sim.owners import world as owners_world
from tests.sim.owners.checks import OwnersFailure
from tests.sim.owners.site import Process
from tests.sim.owners.world import World
from tests.sim.store import Odds, TwoContents

pytestmark = pytest.mark.sim

SEEDS = 100
CAUGHT = (OwnersFailure, TwoContents, CdpError, AssertionError)

Break = Callable[[pytest.MonkeyPatch, World], None]


def lease_by_wall_clocks(patch: pytest.MonkeyPatch, world: World) -> None:
    """The lease is a time of day: its owner proves within it, and whoever finds it past takes the domain."""
    wanted, step = owner_objects.wanted_owner, owner.step

    def dated(state: ot.RunState, moment: ot.Moment) -> Owner:
        return replace(wanted(state, moment), since_ns=moment.wall_ns)

    def is_past(shown: Owner, moment: ot.Moment) -> bool:
        return moment.wall_ns > shown.since_ns + shown.lease_seconds * SECOND

    def watch(
        state: ot.RunState, shown: Owner, wish: ot.TakeOver, moment: ot.Moment
    ) -> owner_takeover.Considered:
        if is_past(shown, moment):
            return owner_takeover._claim(state, shown, wish)
        return replace(state, phase=ot.Phase.WATCHING, retry_at_ns=moment.boottime_ns + SECOND), ()

    def by_clock(state: ot.RunState, event: ot.Event, moment: ot.Moment) -> owner.Step:
        held = state.phase is ot.Phase.ACTIVE and state.seen is not None and not is_past(state.seen, moment)
        if not isinstance(event, ot.Prove) or not held:
            return step(state, event, moment)
        after, effects = step(replace(state, proven=event.place), ot.Tick(), moment)
        return after, (*effects, ot.Proven(event.place))

    patch.setattr(owner, "wanted_owner", dated)
    patch.setattr(owner, "step", by_clock)
    patch.setattr(owner_takeover, "_watch", watch)
    patch.setattr(world.checks, "proven", lambda process, place: world.checks.promised.update({place: None}))


def trust_the_old_version(patch: pytest.MonkeyPatch, world: World) -> None:
    """A release that is not seen at once is taken for lost, and its site goes on; it lands later."""
    real = owner._take_owner
    # What it takes is a swap that lands after it was looked for, and before the next one.
    patch.setattr(sim_store, "LATE_SECONDS_MAX", 8.0)
    patch.setattr(owners_world, "STORMY", Odds(late=0.3))
    patch.setattr(owners_world, "ACTIONS", ("release", "release", "storm", "take over"))

    def trusting(
        state: ot.RunState, shown: Owner, tag: str, proving: Place | None, moment: ot.Moment
    ) -> owner.Step:
        after, effects = real(state, shown, tag, proving, moment)
        old = state.seen is not None and shown.nonce == state.seen.nonce
        undone = old and state.phase is ot.Phase.RELEASING
        return (replace(after, attempts=(), phase=ot.Phase.ACTIVE) if undone else after), effects

    patch.setattr(owner, "_take_owner", trusting)


def find_the_end_before_the_claim(patch: pytest.MonkeyPatch, world: World) -> None:
    """What its owner proves between the look and the claim is cut off."""
    consider, work = owner_takeover.consider, world.do_work
    early: dict[bytes, ot.End] = {}
    world.cut_seconds, world.delay_seconds = 0.7, 0.6
    patch.setattr(owners_world, "ACTIONS", ("force", "force", "force", "crash", "calm"))

    def look(state: ot.RunState, shown: Owner, tag: str, moment: ot.Moment) -> owner_takeover.Considered:
        after = consider(state, shown, tag, moment)
        if after[0].phase is ot.Phase.CLAIMING:
            epoch = shown.epoch_in_force
            early[state.claimant.instance] = find_end(world.store.inner, world.domain, epoch, shown.protected)
        return after

    def early_end(process: Process, effect: owner_work.OwnerWork) -> ot.Event:
        end = early.get(process.state.claimant.instance)
        return ot.EndFound(end) if isinstance(effect, ot.FindEnd) and end else work(process, effect)

    patch.setattr(owner, "consider", look)
    patch.setattr(world, "do_work", early_end)


def end_at_the_highest_seen(patch: pytest.MonkeyPatch, world: World) -> None:
    """The newest segment that is there is the end, whatever is missing before it: a zombie fills the gap."""

    def highest(store: Store, domain: bytes, epoch: int, protected: Place, collected: Collected) -> ot.End:
        end = find_end(store, domain, epoch, protected, collected)
        for found in world.store.inner.list(f"log/{epoch:010}/") if epoch else ():
            data = world.store.inner.get(found.key).data
            preamble = parse_preamble(data, found.key)
            if preamble.complete and preamble.place > end.place:
                end = ot.End(preamble.place, data[-32:], preamble)
        return end

    patch.setattr(owner_work, "find_end", highest)


def lose_the_previous_of_a_claim(patch: pytest.MonkeyPatch, world: World) -> None:
    """A claim that came to nothing is taken for an epoch."""
    wanted = owner_objects.wanted_owner

    def forgets(state: ot.RunState, moment: ot.Moment) -> Owner:
        new = wanted(state, moment)
        assert state.seen is not None
        return replace(new, previous=state.seen.epoch) if state.phase is ot.Phase.CLAIMING else new

    patch.setattr(owner, "wanted_owner", forgets)


def keep_a_dead_owner_alive(patch: pytest.MonkeyPatch, world: World) -> None:
    """A request is noted in `domain/owner`, so that whoever watches it sees it move."""

    def ask(store: Store, shown: Owner, wish: OwnershipRequest) -> None:
        nonce = world.rng.randbytes(16)
        noted = replace(shown, version=shown.version + 1, nonce=nonce, renewals=shown.renewals + 1)
        store.put_if(OWNER_KEY, build_owner(noted), store.head(OWNER_KEY).tag)

    patch.setattr(requests, "ask", ask)


def ignore_the_chosen_base(patch: pytest.MonkeyPatch, world: World) -> None:
    """Whoever takes over goes on from the newest cut, whichever was chosen."""
    real = owner_objects.epoch_record

    def newest(state: ot.RunState, moment: ot.Moment) -> EpochRecord:
        record = real(state, moment)
        return replace(record, base=record.end)

    patch.setattr(owner, "epoch_record", newest)


def read_across_a_chosen_base(patch: pytest.MonkeyPatch, world: World) -> None:
    """A reader takes the end of an epoch for what the next one starts from."""

    def branch_of(self: History, place: Place) -> dict[int, int]:
        branch: dict[int, int] = {}
        while place:
            branch[place.epoch] = place.seq
            place = self.spans[place.epoch].record.end
        return branch

    patch.setattr(History, "branch_of", branch_of)


def count_a_late_record(patch: pytest.MonkeyPatch, world: World) -> None:
    """The highest record of an epoch names the history, whoever wrote it and whenever it landed."""
    real = history._read_chain

    def chain(store: Store, shown: Owner) -> list[EpochRecord]:
        record = history._highest_record(store)
        if record is not None and record.epoch > shown.epoch_in_force:
            shown = replace(shown, epoch=record.epoch, state=OwnerState.ACTIVE)
        return real(store, shown)

    patch.setattr(history, "_read_chain", chain)


def believe_the_instance(patch: pytest.MonkeyPatch, world: World) -> None:
    """What shows our instance is ours: two clones believe each other."""
    real = owner._take_owner
    world.clones = True
    for site in world.sites:
        site.store.allow_two_contents = True

    def by_instance(
        state: ot.RunState, shown: Owner, tag: str, proving: Place | None, moment: ot.Moment
    ) -> owner.Step:
        mine = shown.instance == state.claimant.instance and shown.epoch == state.epoch
        if mine and state.phase is ot.Phase.ACTIVE and shown.state is OwnerState.ACTIVE:
            attempt = ot.Attempt(shown.nonce, moment.boottime_ns)
            after, effects = owner._confirmed(state, shown, tag, attempt)
            if proving is None:
                return after, effects
            return replace(after, proven=proving), (*effects, ot.Proven(proving))
        return real(state, shown, tag, proving, moment)

    patch.setattr(owner, "_take_owner", by_instance)


BROKEN: tuple[tuple[Break, str], ...] = (
    (lease_by_wall_clocks, "was protected"),
    (trust_the_old_version, "had thought it lost"),
    (find_the_end_before_the_claim, "was protected"),
    (end_at_the_highest_seen, "zombie"),
    (lose_the_previous_of_a_claim, "epochs"),
    (keep_a_dead_owner_alive, "nobody can take over"),
    (ignore_the_chosen_base, "was chosen"),
    (read_across_a_chosen_base, "show beyond the chosen base"),
    (count_a_late_record, "count, and"),
    (believe_the_instance, "by what another process wrote"),
)


@pytest.mark.parametrize(("broken", "why"), BROKEN, ids=lambda value: getattr(value, "__name__", ""))
def test_a_broken_owner_is_caught(broken: Break, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(SEEDS):
        with pytest.MonkeyPatch.context() as patch:
            world = World(seed)
            broken(patch, world)
            try:
                world.play()
            except CAUGHT as error:
                if why in str(error):
                    with capsys.disabled():
                        print(f"\n  {broken.__name__}: seed {seed}: {str(error)[:100]}", end="")
                    return
    pytest.fail(f"{SEEDS} seeds went by, and nothing was noticed: {broken.__doc__}")


def test_nowhere_is_no_promise() -> None:
    """The checks' own control: a cut that never was is missed."""
    world = World(0)
    world.play()
    world.checks.promised[Place(world.checks.active[-1], 10**6, 10**6)] = None
    with pytest.raises(OwnersFailure):
        world.checks.check()
    assert NOWHERE not in world.checks.promised
