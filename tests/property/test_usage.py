"""Whatever a container went through, the kinds of its bytes add up, and say what can go without a loss."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdp_agent.collector.choose import SMALL_OBJECT_BYTES, key_of
from cdp_agent.collector.collect import look_around
from cdp_agent.collector.pass_types import Wishes
from cdp_agent.collector.remembered import Remembered
from cdp_agent.usage.kinds import DEAD_KINDS, SPLIT, Kind, Lock, Part, Usage, account
from cdp_agent.usage.look import Look, known_of, look_at
from cdp_container.domain.retention_policy import Retention
from cdp_container.format.keys import OWNER_KEY, segment_key
from cdp_container.store.inventory import Standing, Taken
from cdp_container.store.memory import MemoryStore
from tests.unit.collector.collecting_site import HOUR, CollectedSite, Time
from tests.unit.usage.account_site import a_container, around

pytestmark = pytest.mark.slow

LIVE, DEAD = SPLIT.index(Kind.LIVE), SPLIT.index(Kind.DEAD)
SEEDS = st.integers(0, 1 << 32)


def lived(rng: random.Random, directory: Path) -> CollectedSite:
    """Epochs, side branches, volumes that come and go, markers, holds, passes; a policy that changes."""
    site = CollectedSite(encrypted=rng.random() < 0.5, seed=rng.randrange(1 << 32))
    site.add_disk("disk", 200_000)
    site.begin_epoch()
    site.busy(rng.randrange(1, 8))
    for number in range(rng.randrange(6)):
        step = rng.randrange(6)
        if step == 0:
            site.begin_epoch(base=rng.choice([None, max(site.images)]))
        elif step == 1:
            site.add_disk(f"disk-{len(site.images)}", 100_000)
        elif step == 2:
            every = rng.choice([1, 8, 10_000]) * HOUR + number  # no policy comes twice
            site.retention = Retention(every, daily_seconds=rng.choice([0, 20_000 * HOUR]))
        elif step == 3:
            site.unhold()
            site.run_pass(directory, Wishes(private_key=site.private_key if rng.random() < 0.5 else None))
        elif step == 4:
            site.hold("0" * 32, rng.choice([None, max(site.images)]), site.owner.ledger)
        else:
            site.time.sleep(rng.choice([HOUR, 30 * HOUR]))
        site.busy(rng.randrange(1, 6), minutes=rng.choice([1, 60, 600]))
    return site


def with_others(site: CollectedSite, rng: random.Random) -> list[Taken]:
    """What stands there, and things of every standing beside it."""
    items = [Taken(found.key, found.size, found.modified_ns) for found in site.store.list("")]
    for _ in range(rng.randrange(10)):
        name = rng.choice([rng.choice(items).name, "notes", "log/1/2", "domain/probe/x"])
        standing = rng.choice([one for one in Standing if one is not Standing.CURRENT])
        items.append(Taken(name, rng.randrange(1 << 40), rng.randrange(1 << 60), standing))
    items += [Taken(name, rng.randrange(1000), 1) for name in ("x", "log/y", segment_key(9_999, 1))]
    rng.shuffle(items)
    return items


def told(site: CollectedSite, directory: Path, items: list[Taken], days: int | None) -> tuple[Look, Usage]:
    found = look_at(around(site, directory / "collector"), Wishes())
    usage = account([Part(items, Lock(days, found.now_ns))], found.known, SMALL_OBJECT_BYTES)
    assert usage.total.bytes == sum(item.size_bytes for item in items)
    assert usage.total.objects == len(items)
    assert all(amount.bytes >= 0 for amount in usage.amounts.values())
    return found, usage


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.sampled_from([None, 1, 400]))
def test_the_kinds_add_up(seed: int, days: int | None) -> None:
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        site = lived(rng, directory)
        items = with_others(site, rng)
        found, usage = told(site, directory, items, days)
        assert not found.doubts
        assert found.known is not None
        assert found.known.shares.min(initial=0) >= 0
        assert (found.known.shares.sum(axis=1) == found.known.objects["stored_bytes"]).all()
        assert usage.amounts[Kind.LIVE].bytes > 0
        if days is None:
            assert usage.amounts[Kind.LOCK].bytes == 0
        # Only the lock tells these two accounts apart, and only what is dead.
        _, unlocked = told(site, directory, items, None)
        free = (Kind.LOCK, *DEAD_KINDS)
        assert sum(usage.amounts[kind].bytes for kind in free) == sum(
            unlocked.amounts[kind].bytes for kind in free
        )


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_live_is_what_the_newest_point_shows_and_dead_what_no_kept_cut_does(seed: int) -> None:
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        site = lived(rng, directory)
        remembered = Remembered(directory, site.domain)
        try:
            place = around(site, directory)
            _, found = look_around(
                place, Wishes(), remembered, site.owner, {}, site.store.head(OWNER_KEY).modified_ns
            )
            known = known_of(place, Wishes(), remembered, found)
            newest = found.alive.needed_by([found.history.newest])
            kept = found.alive.needed_by(list(found.kept))
        finally:
            remembered.close()
        keys = [key_of(row) for row in known.objects]
        assert newest >= {key for key, share in zip(keys, known.shares, strict=True) if share[LIVE] > 0}
        assert not kept & {key for key, share in zip(keys, known.shares, strict=True) if share[DEAD] > 0}
        assert not kept & {key for key, kind in known.whole.items() if kind is Kind.DEAD}


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.booleans(), st.booleans())
def test_containers_with_packs_and_ledgers(seed: int, encrypted: bool, collected: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        site = a_container(MemoryStore(Time()), encrypted, collected, seed)
        items = [Taken(found.key, found.size, found.modified_ns) for found in site.store.list("")]
        place = around(site, Path(folder))
        found = look_at(place, Wishes())
        assert not found.doubts
        usage = account([Part(items, Lock(None, found.now_ns))], found.known, SMALL_OBJECT_BYTES)
        assert usage.total.bytes == sum(item.size_bytes for item in items)
        assert usage.amounts[Kind.UNTOLD].objects == usage.amounts[Kind.FOREIGN].objects == 0
        assert found.found is not None
        assert len(found.found.kept) == len(found.found.cuts)
