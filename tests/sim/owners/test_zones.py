"""A takeover in a zone to which not everything came, and the reunion: one winner, and no loss untold."""

from __future__ import annotations

from random import Random

import pytest

from cdp_container.domain import owner
from cdp_container.domain import owner_types as ot
from cdp_container.domain.history import read_history
from cdp_container.format.domain import build_owner
from cdp_container.format.keys import OWNER_KEY
from tests.sim.owners.site import Site
from tests.sim.owners.world import JUMP, World

pytestmark = pytest.mark.sim

TURNS = 100
"""Of ten seconds each, after the zones met: longer than an idle domain's lease."""
FAILING_SEEDS = [
    924,  # refused and lost replies held the takeover up for longer than the test gave it
]
"""Seeds that once failed, each for a reason of its own; never taken out."""
LAG_ODDS = 0.3
"""Of a zone's copy, that it lacks some of the newest segments."""


def zone_of(world: World, rng: Random) -> World:
    """Another zone, as a copy that may lag, with one site that knows nothing."""
    zone = World(rng.getrandbits(32))
    zone.domain, zone.lossy, zone.clones = world.domain, True, False
    zone.crash_odds = 0.0
    zone.time.now_ns = world.time.now_ns
    zone.checks.follow(world.checks)
    zone.store.inner.delete(OWNER_KEY)
    zone.store.inner._writes = 10**6  # no two objects have one tag, not even in two zones (seed 287)
    lag = rng.choice((1, 3, 10)) if rng.random() < LAG_ODDS else 0
    keys = [found.key for found in world.store.inner.list("")]
    late = [key for key in keys if key.startswith("log/")][-lag or len(keys) :]
    for key in keys:
        if key in late and rng.random() < 0.7:
            zone.checks.lost.add(key)
        else:
            zone.store.inner.put_new(key, world.store.inner.get(key).data)
    zone.sites = [Site(zone, "site-z")]
    return zone


def meet(world: World, zone: World, rng: Random) -> None:
    """Everything of the zone comes to the other; of the two `domain/owner` one stands there, by chance."""
    store, theirs = world.store.inner, zone.shown()
    assert theirs.epoch > world.shown().epoch, "the zones' epochs are not apart"
    for found in zone.store.inner.list(""):
        data = zone.store.inner.get(found.key).data
        if found.key == OWNER_KEY:
            if rng.random() < 0.5:
                store.put_if(OWNER_KEY, build_owner(theirs), store.head(OWNER_KEY).tag)
        elif any(store.list(found.key)):
            assert store.get(found.key).data == data, f"{found.key} has two contents"
        else:
            store.put_new(found.key, data)
    zone.checks.store = zone.store.inner = store
    for site in zone.sites:
        site.store.inner = store


def test_two_zones(sim_seed: int) -> None:
    rng = Random(sim_seed)
    world = World(sim_seed)
    world.lossy = world.clones = world.jumps = False
    world.begin()
    world.run(90)
    zone = zone_of(world, rng)
    shown = zone.shown()
    seen = (shown.epoch, shown.nonce)
    zone.sites[0].start(ot.TakeOver(forced=seen, jump=JUMP, accept_loss=True))
    zone.run(90)
    zone.checks.check(thorough=True)
    (process,) = (site.process for site in zone.sites)
    assert process is not None
    for _ in range(TURNS):
        if process.state.phase is ot.Phase.ACTIVE:
            break
        zone.run(10)  # in a storm that takes longer now and then
    assert process.state.phase is ot.Phase.ACTIVE
    assert process.state.epoch > JUMP
    world.run(60)
    world.settle()
    world.checks.check()
    meet(world, zone, rng)
    for _ in range(TURNS):
        zone.run(10)
        world.run(10)
    assert world.shown().epoch >= process.state.epoch, "the higher epoch did not win"
    for site in world.sites:
        held = site.process is not None and site.process.state.phase is ot.Phase.ACTIVE
        assert not held, f"{site.name} goes on in the zone that lost"
    # What a reader finds is what the winner had; what the other promised beyond that, its record tells of.
    history = read_history(world.store.inner)
    zone.checks.check(thorough=True)
    unsynchronised = [span.record for span in history.spans.values() if span.record.unsynchronised]
    for place in world.checks.promised:
        span = history.spans.get(place.epoch)
        if span is None or place > span.end:
            assert any(record.end < place for record in unsynchronised), f"{place} is lost, and nothing tells"


def test_seeds_that_once_failed() -> None:
    for seed in FAILING_SEEDS:
        test_two_zones(seed)


def test_an_owner_that_yields_to_an_older_epoch_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: whoever stands there is taken for one who came later."""
    monkeypatch.setattr(owner, "put_back", lambda state, shown, tag, proving: owner._fence(state, shown))

    def play_all() -> None:
        for seed in range(20):
            test_two_zones(seed)

    with pytest.raises(AssertionError, match="the higher epoch did not win"):
        play_all()
