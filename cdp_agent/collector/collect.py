"""One pass of collection: what is there, what is kept, what is to go; packed, written, and carried out.

The order of it all is that of docs/collection.md. Any error ends the pass. What runs it, and when, does not
belong here (process, schedule); the protocol from the plan on is domain.collecting's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from cdp_agent.collector.alive import alive_of
from cdp_agent.collector.cache import CacheDamaged
from cdp_agent.collector.catalogs import superseded_catalogs
from cdp_agent.collector.choose import (
    Bounds,
    choose,
    is_worth_a_plan,
)
from cdp_agent.collector.counting import past_of
from cdp_agent.collector.inventory import counted_keys, take_inventory
from cdp_agent.collector.pass_objects import read_runs
from cdp_agent.collector.pass_types import Around, Found, Passed, Wishes
from cdp_agent.collector.past import (
    past_cuts,
    spared_by_history,
    spared_by_holds,
    unnamed_of,
)
from cdp_agent.collector.remembered import Remembered, Tables
from cdp_agent.collector.warmth import groups_of
from cdp_agent.collector.whole_frames import LIVE_SHARE_WHOLE, copied_whole
from cdp_agent.collector.writing import Writing
from cdp_container.domain.clock_doubt import ClockLook, clock_doubt
from cdp_container.domain.collecting import carry_out, require_replicas, settle, wait_for_counted
from cdp_container.domain.ends import Collected
from cdp_container.domain.history import History, read_domain, read_history
from cdp_container.domain.ledgers import ledger_of
from cdp_container.domain.retention import Circumstances, Kept, PastCut, kept_cuts
from cdp_container.domain.retention_policy import parse_retention
from cdp_container.domain.roster import read_roster
from cdp_container.errors import CdpError, CollectionStopped
from cdp_container.format.domain import Owner, OwnerState, parse_owner
from cdp_container.format.holds import Hold
from cdp_container.format.keys import (
    OWNER_KEY,
    config_key,
)
from cdp_container.format.place import Place
from cdp_container.format.seal import ReaderKeys
from cdp_container.store.attest import PROBE_PREFIX

PACKS_PER_PASS: Final = 1_000_000
"""The numbers of what pass n of an epoch writes begin at n times that: none is ever used twice."""


def run_pass(around: Around, wishes: Wishes) -> Passed:
    """One whole pass. Raises CdpError, wherever it ended; nothing needs to be undone.

    What replicas keep from beginning is told as `Passed.stopped`: locks are extended all the same.
    """
    elsewhere = _elsewhere(around)
    if elsewhere:
        return Passed(elsewhere, None)
    owner, before = settle(around.collector)
    if before is not None and before.lost:
        around.report(f"{before.lost} was to be finished, and is gone; what it named goes with a later plan")
    looks = [look_at_clocks(around)]
    _refuse_doubt(looks, around.store_seen_ns)
    now_ns = looks[0].store_ns
    holds = around.collector.holds()
    if any(hold.cut is None for hold in holds.values()):
        return Passed("a hold on everything stands", before, store_ns=now_ns)
    try:
        require_replicas(around.collector, owner)
    except CdpError as error:
        return Passed(str(error), before, store_ns=now_ns, stopped=error)
    remembered = Remembered(around.directory, around.identity.domain)
    try:
        tables, found = look_around(around, wishes, remembered, owner, holds, now_ns)
        if not is_worth_a_plan(found.chosen):
            return Passed("there is nothing to collect", before, found, store_ns=now_ns)
        counted = _counted(found)
        try:
            wait_for_counted(around.collector, counted)  # before packs are written that come to nothing
        except CdpError as error:
            return Passed(str(error), before, found, store_ns=now_ns, stopped=error)
        is_enough = found.chosen.copied_bytes >= wishes.part_bytes_min
        groups = groups_of(remembered, found.history, found.alive, is_enough)
        writing = Writing(around, wishes, tables, found, groups)
        plan = writing.write_all(holds, looks[0].wall_ns)
        looks.append(look_at_clocks(around))
        _refuse_doubt(looks, around.store_seen_ns)
        around.report(f"{len(plan.victims)} objects are to go; the plan is named, and waits")
        finished = carry_out(
            around.collector, found.history.owner, plan, found.spared, counted, wishes.grace_seconds
        )
    except CacheDamaged as error:
        raise _forgotten(remembered, error) from error
    finally:
        remembered.close()
    return Passed("", before, found, finished, writing.counted, looks[-1].store_ns)


def _counted(found: Found) -> set[str]:
    """What the plan's ledger counts of what is there now."""
    past, protected = past_of(found.history), found.history.owner.protected
    return set(counted_keys(past, found.ledger, protected)).difference(found.chosen.victims)


def _elsewhere(around: Around) -> str:
    """Why this site has nothing to collect, "" where it owns the domain."""
    owner = parse_owner(around.store.get(OWNER_KEY).data, OWNER_KEY, around.identity.domain)
    if owner.state is OwnerState.RELEASED:
        return f"the domain is released to site {owner.released_to!r}"
    if owner.site != around.collector.site:
        return f"site {owner.site!r} has the domain"
    return ""


def look_only(around: Around, wishes: Wishes) -> Found:
    """What a pass would do now; changes nothing in the container. Raises CdpError."""
    store = around.store
    blob = store.get(OWNER_KEY)
    owner = parse_owner(blob.data, OWNER_KEY, around.identity.domain)
    holds = read_roster(store, around.identity.domain).holds.holds
    remembered = Remembered(around.directory, around.identity.domain)
    try:
        # The owner was written a moment ago: what is old by its time is old.
        return look_around(around, wishes, remembered, owner, holds, blob.found.modified_ns)[1]
    except CacheDamaged as error:
        raise _forgotten(remembered, error) from error
    finally:
        remembered.close()


def _forgotten(remembered: Remembered, error: CacheDamaged) -> CollectionStopped:
    remembered.cache.throw_away()
    return CollectionStopped("the pass ended", f"what was remembered is damaged: {error}")


def look_at_clocks(around: Around) -> ClockLook:
    """All clocks, the store's by an object that is written for it."""
    key = PROBE_PREFIX + around.entropy(16).hex()
    around.store.put_new(key, b"a look at the clock")
    try:
        stored_ns = around.store.head(key).modified_ns
    finally:
        around.store.delete(key)
    return ClockLook(stored_ns, around.clock.wall_ns(), around.clock.boottime_ns())


def _refuse_doubt(looks: Sequence[ClockLook], seen_ns: int) -> None:
    doubt = clock_doubt(looks, seen_ns)
    if doubt is not None:
        raise CollectionStopped("the pass ended", doubt, "set the clocks right; ages are told by them")


def look_around(
    around: Around,
    wishes: Wishes,
    remembered: Remembered,
    owner: Owner,
    holds: Mapping[str, Hold],
    now_ns: int,
) -> tuple[Tables, Found]:
    """Step 2: what is there, kept and live, and what is to go. Changes nothing but what it remembers."""
    store, domain = around.store, around.identity.domain
    keys = ReaderKeys(around.identity.index_key or None)
    facts = read_domain(store)
    if (facts.owner.epoch, facts.owner.ledger, facts.owner.plan) != (owner.epoch, owner.ledger, owner.plan):
        raise CollectionStopped("the pass ended", "the domain changed while it was looked at")
    runs = read_runs(store, domain, keys, facts.owner.ledger)
    ledger = ledger_of(runs)
    history = read_history(store, facts, Collected(ledger))
    if history.in_doubt is not None:
        raise CollectionStopped("the pass ended", str(history.in_doubt))
    past = past_of(history)
    around.report("looking at what is there")
    inventory = take_inventory(store, domain, keys, remembered, past, ledger)
    tables = remembered.tables()
    cuts = past_cuts(tables, history, ledger)
    kept = _kept(history, cuts, holds, now_ns)
    alive = alive_of(remembered, past, ledger, list(kept))
    wholes = [place for place, why in kept.items() if why.whole]
    held = spared_by_holds(
        holds, history, inventory, lambda name: ledger_of(read_runs(store, domain, keys, name))
    )
    spared = spared_by_history(history, wholes) | held.keys
    spared |= set(wishes.locked)
    is_readable = not around.identity.key_block or wishes.private_key is not None
    live_share = wishes.live_share if is_readable else min(wishes.live_share, LIVE_SHARE_WHOLE)
    bounds = Bounds(
        now_ns, history.owner.protected, spared, wishes.space_target, live_share, wishes.age_seconds,
        copy_bytes_max=wishes.copy_bytes_max,
    )  # fmt: skip
    superseded = superseded_catalogs(list(inventory.found.values()), bounds.is_old)
    unnamed = unnamed_of(inventory, history, ledger, set(superseded))
    objects = alive.objects if is_readable else copied_whole(remembered, alive, live_share)
    chosen = choose(objects, unnamed, bounds)
    return tables, Found(
        history, runs, ledger, inventory, cuts, kept, alive, chosen, superseded, spared, held.doubts
    )


def _kept(
    history: History, cuts: Sequence[PastCut], holds: Mapping[str, Hold], now_ns: int
) -> dict[Place, Kept]:
    config = history.config
    if config is None:
        raise CollectionStopped("the pass ended", "the domain's configuration is not there")
    retention = parse_retention(config.retention, config_key(history.owner.config))
    at = Circumstances(
        now_ns=now_ns,
        protected=history.owner.protected,
        held={hold.cut for hold in holds.values() if hold.cut is not None},
        sources=[source.space for source in config.sources],
        epochs={epoch: (span.record.base, span.end) for epoch, span in history.spans.items()},
    )
    return kept_cuts(cuts, retention, at)
