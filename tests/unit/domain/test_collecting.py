"""A pass ends anywhere, and what follows it is whole; readers hold at any step, and what they need stays."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest

from cdp_container.domain.collecting import carry_out, finish, settle
from cdp_container.domain.plan_rules import fault_of_plan, strike_off
from cdp_container.errors import CdpError, CollectionStopped, DamagedObject
from cdp_container.format.domain import PlanState
from cdp_container.format.gc import FinalList, SeenHold, build_final, build_plan, plan_digest
from cdp_container.format.keys import OWNER_KEY, gc_final_key, gc_key, segment_key
from cdp_container.format.place import Place
from tests.unit.domain.collect_play import (
    CUT,
    LEDGER,
    LOCKED_UNTIL_NS,
    NEEDS,
    OLD,
    PACK,
    Crash,
    World,
    a_hold,
)

EFFECTS = 13
"""More than a pass has: an end that lies beyond it is a pass that is whole."""


def crashed(world: World, at: float) -> None:
    world.crash_at = at
    with contextlib.suppress(Crash):
        world.run_pass()
    world.crash_at = -1.0


def sound(world: World) -> None:
    """Whoever looks now finds all that the ledger in force needs."""
    assert all(world.has(key) for key in NEEDS[world.owner.ledger]), world.owner


def test_a_pass() -> None:
    world = World()
    finished = world.run_pass()
    assert finished is not None
    assert (finished.deleted, finished.kept) == (3, 0)
    assert (world.owner.plan, world.owner.ledger) == (None, LEDGER)
    assert not any(world.has(key) for key in OLD)
    sound(world)
    assert world.effects < EFFECTS


def test_what_the_store_keeps_is_no_doubt() -> None:
    world = World(locked=frozenset(OLD[:2]))
    finished = world.run_pass()
    assert finished is not None
    assert (finished.deleted, finished.kept) == (1, 0)
    assert finished.locked == dict.fromkeys(OLD[:2], LOCKED_UNTIL_NS)
    assert [world.has(key) for key in OLD] == [True, True, False]
    assert (world.owner.plan, world.owner.ledger) == (None, LEDGER)
    sound(world)


@pytest.mark.parametrize("at", [half / 2 for half in range(2 * EFFECTS)])
@pytest.mark.parametrize("overtaken", [False, True])
def test_killed_at_any_step_and_run_again_here_or_by_the_next_epoch(at: float, overtaken: bool) -> None:
    world = World()
    crashed(world, at)
    sound(world)
    if world.owner.ledger is None:
        assert not world.deleted, "nothing is deleted that no owner has executed"
    if overtaken:
        world.write_owner(epoch=9, previous=4)
    world.run_pass()
    sound(world)
    assert (world.owner.plan, world.owner.ledger) == (None, LEDGER)
    assert not any(world.has(key) for key in OLD)


@pytest.mark.parametrize("at", [half / 2 for half in range(2 * EFFECTS)])
def test_killed_at_any_step_and_inherited_by_another_site(at: float) -> None:
    world = World()
    crashed(world, at)
    world.write_owner(epoch=9, previous=4, site="site-b")
    with pytest.raises(CollectionStopped, match="site-b"):
        settle(world.collector())
    executing = world.owner.plan is not None and world.owner.plan.state is PlanState.EXECUTING
    owner, finished = settle(world.collector("site-b"))
    assert owner.plan is None
    assert (finished is not None) == executing
    assert not (executing and any(world.has(key) for key in OLD))
    sound(world)


@pytest.mark.parametrize("placed", range(EFFECTS))
@pytest.mark.parametrize("narrowed", range(EFFECTS))
def test_a_reader_holds_at_any_step_and_reads_on(placed: int, narrowed: int) -> None:
    """It places its hold on everything, then reads the owner, then narrows it; all it needs stays."""
    world = World()
    reads_by: list[object] = []

    def between(at: int) -> None:
        if at == placed:
            world.holds["f" * 32] = a_hold(None)
            reads_by.append(world.owner.ledger)
        if at >= max(placed, narrowed) and reads_by:
            world.holds["f" * 32] = a_hold(CUT, reads_by[0])  # type: ignore[arg-type]  # a ledger's name
        if reads_by:
            assert all(world.has(key) for key in NEEDS[reads_by[0]])  # type: ignore[index]  # the same

    world.between = between
    world.run_pass()
    if reads_by:
        assert all(world.has(key) for key in NEEDS[reads_by[0]])  # type: ignore[index]  # the same
    assert world.owner.ledger == LEDGER


@pytest.mark.parametrize("at", range(EFFECTS))
def test_a_point_that_an_operator_holds_is_not_retired_by_a_plan_that_was_there_before(at: int) -> None:
    """Found by the model: its objects would stay, and whoever restores it later would not find it."""
    world = World()
    executed_before: list[bool] = []

    def between(effect: int) -> None:
        if effect == at:
            executed_before.append(world.owner.ledger == LEDGER)
            world.holds["f" * 32] = replace(a_hold(CUT), counter=0, term_seconds=0, until_ns=2**62)

    world.between = between
    with contextlib.suppress(CollectionStopped):
        world.run_pass()
    between_look_and_swap = at == 4
    if executed_before and not executed_before[0] and not between_look_and_swap:
        assert (world.owner.plan, world.owner.ledger) == (None, None), "the plan is dropped"
        assert not world.deleted
    if between_look_and_swap:
        assert world.owner.ledger == LEDGER, "that it is going is what `rehydrate hold` sees (is_going)"


def test_negative_control_a_roster_read_before_the_plan_executes() -> None:
    """The same, by a collector that reads the roster too early: a reader loses what it needs."""
    world = World()
    early = dict(world.holds)
    world.read_holds = lambda: early  # type: ignore[method-assign]  # the bug
    world.between = lambda _: world.holds.update({"f" * 32: a_hold(None)})
    world.run_pass()
    assert not any(world.has(key) for key in OLD), "the story must tell them apart"


@pytest.mark.parametrize("at", range(EFFECTS))
def test_without_a_roster_nothing_is_deleted_and_the_next_pass_goes_on(at: int) -> None:
    world = World()

    def between(effect: int) -> None:
        world.roster_fails = effect >= at

    world.between = between
    if at <= 5:
        with pytest.raises(CollectionStopped, match="roster"):
            world.run_pass()
        assert not world.deleted
    else:
        world.run_pass()
    world.between, world.roster_fails = lambda _: None, False
    world.run_pass()
    assert not any(world.has(key) for key in OLD)


@pytest.mark.parametrize("at", range(EFFECTS))
def test_a_zombie_that_was_overtaken_before_it_executes_deletes_nothing(at: int) -> None:
    world = World()

    def between(effect: int) -> None:
        if effect == at:
            world.write_owner(epoch=9, previous=4)

    world.between = between
    try:
        world.run_pass()
    except CollectionStopped:
        executed = world.owner.ledger == LEDGER
        assert executed or not world.deleted
    world.between = lambda _: None
    sound(world)
    world.run_pass()
    assert not any(world.has(key) for key in OLD)


@pytest.mark.parametrize("at", range(EFFECTS))
def test_two_collectors_at_once(at: int) -> None:
    """Another pass, whole, amid this one: a lock forbids it, and nothing is lost where it does not hold."""
    world = World()

    def between(effect: int) -> None:
        if effect == at:
            world.between = lambda _: None
            world.run_pass()

    world.between = between
    with contextlib.suppress(CdpError):
        world.run_pass()
    sound(world)
    world.between = lambda _: None
    world.run_pass()
    assert world.owner.plan is None
    sound(world)


def test_a_late_hold_keeps_everything_and_whoever_reads_by_the_new_ledger_nothing() -> None:
    world = World()
    seen = replace(world.plan(), holds=(SeenHold("e" * 32, CUT),))
    digest = plan_digest(build_plan(seen))
    for holds in ({}, {"e" * 32: a_hold(CUT)}, {"f" * 32: a_hold(CUT, LEDGER)}):
        assert strike_off(seen, digest, "s", holds).delete == OLD
    for hold in (a_hold(None), a_hold(CUT), a_hold(None, LEDGER), a_hold(Place(4, 1, 1))):
        final = strike_off(seen, digest, "s", {"f" * 32: hold})
        assert ([kept.key for kept in final.kept], final.delete) == (list(OLD), ())
    assert not strike_off(seen, digest, "s", {"e" * 32: a_hold(None)}).delete, "it is not what was seen"


def test_the_final_list_that_is_there_counts() -> None:
    world = World()
    world.crash_at = 5  # executed, and no final list yet
    with pytest.raises(Crash):
        world.run_pass()
    world.crash_at = -1
    plan = world.owner.plan
    assert plan is not None
    theirs = strike_off(world.plan(), plan.digest, "site-b", {"f" * 32: a_hold(None)})
    theirs = FinalList(theirs.domain, 4, plan.n, plan.digest, "site-b", (), theirs.kept)
    world.store.put_new(gc_final_key(4, plan.n), build_final(theirs))
    finished = finish(world.collector(), world.owner)
    assert (finished.deleted, finished.kept) == (0, 3)
    assert all(world.has(key) for key in OLD)


def test_a_final_list_or_plan_that_is_not_the_named_one_ends_the_pass() -> None:
    world = World()
    world.crash_at = 5
    with pytest.raises(Crash):
        world.run_pass()
    world.crash_at = -1
    plan = world.owner.plan
    assert plan is not None
    other = FinalList(world.plan().domain, 4, plan.n, plan.digest, "s", (segment_key(4, 9),), ())
    world.store.put_new(gc_final_key(4, plan.n), build_final(other))
    with pytest.raises(DamagedObject, match="victims of its plan"):
        settle(world.collector())
    world.store.delete(gc_key(4, plan.n))
    world.store.put_new(gc_key(4, plan.n), build_plan(replace(world.plan(), made_ns=5)))
    with pytest.raises(DamagedObject, match="digest"):
        settle(world.collector())
    assert all(world.has(key) for key in OLD)


def test_a_plan_that_executes_and_is_gone_ends_without_a_delete() -> None:
    """A replica was taken over to which it never came."""
    world = World()
    world.crash_at = 5
    with pytest.raises(Crash):
        world.run_pass()
    world.crash_at = -1
    world.store.delete(gc_key(4, 1))
    owner, finished = settle(world.collector())
    assert finished is not None
    assert (finished.lost, finished.deleted, finished.kept) == (gc_key(4, 1), 0, 0)
    assert (owner.plan, owner.ledger) == (None, LEDGER)
    assert all(world.has(key) for key in OLD)


@pytest.mark.parametrize("key", [segment_key(4, 9), gc_key(4, 1)])
def test_a_replica_that_lacks_what_still_counts_or_the_plan_is_waited_for(key: str) -> None:
    world, behind = World(), World()
    counted = {segment_key(4, 9)}
    for there in (*counted, gc_key(4, 1)):
        if there != key:
            behind.store.put_new(there, b"")
    looks: list[float] = []
    behind.write_owner(ledger=LEDGER)
    collector = replace(world.collector(), replicas=(behind.store,), pause=looks.append)
    with pytest.raises(CollectionStopped, match=f"has not got {key} yet"):
        carry_out(collector, world.owner, world.plan(), (), counted, 1.0)
    assert world.owner.ledger is None, "nothing executed"
    assert not world.deleted
    settle(world.collector())

    def pause(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            behind.store.put_new(key, b"")

    looks.clear()
    collector = replace(world.collector(), replicas=(behind.store,), pause=pause)
    carry_out(collector, world.owner, world.plan(), (), counted, 1.0)
    assert tuple(world.deleted) == OLD


def test_a_replica_that_lacks_a_pack_ends_the_pass_before_the_plan_executes() -> None:
    world, behind = World(), World()
    behind.store.delete(PACK.key)
    waited: list[float] = []
    collector = replace(world.collector(), replicas=(behind.store,), pause=waited.append)
    with pytest.raises(CollectionStopped, match="has not got"):
        carry_out(collector, world.owner, world.plan(), (), (), 1.0)
    assert world.owner.ledger is None
    assert sum(waited) == 1.0 + 3600.0, "the grace, and an hour"


def test_a_replica_that_comes_to_it_meanwhile_is_waited_for() -> None:
    world, behind = World(), World()
    pack = behind.store.get(PACK.key).data
    behind.store.delete(PACK.key)
    behind.has_plan()
    looks: list[float] = []

    def pause(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            behind.store.put_new(PACK.key, pack)
        if len(looks) == 9:
            assert world.owner.ledger == LEDGER
            assert not world.deleted, "whoever reads the replica counts on the victims yet"
            behind.write_owner(ledger=LEDGER)

    collector = replace(world.collector(), replicas=(behind.store,), pause=pause)
    finished = carry_out(collector, world.owner, world.plan(), (), (), 1.0)
    assert finished.deleted == 3
    assert len(looks) == 9


@pytest.mark.parametrize("has_owner", [False, True])
def test_nothing_is_deleted_until_the_owner_at_every_replica_names_the_ledger(has_owner: bool) -> None:
    world, one, other = World(), World(), World()
    one.write_owner(ledger=LEDGER)
    for replica in (one, other):
        replica.has_plan()
    if not has_owner:
        other.store.delete(OWNER_KEY)
    collector = replace(world.collector(), replicas=(one.store, other.store), pause=lambda _: None)
    with pytest.raises(CollectionStopped, match="does not name"):
        carry_out(collector, world.owner, world.plan(), (), (), 1.0)
    assert not world.deleted
    with pytest.raises(CollectionStopped, match="does not name"):
        settle(collector)
    assert not world.deleted, "nor by who finishes it"
    if not has_owner:
        other.store.put_new(OWNER_KEY, one.store.get(OWNER_KEY).data)
    other.write_owner(ledger=LEDGER)
    _, finished = settle(collector)
    assert finished is not None
    assert tuple(finished.gone) == OLD
    assert world.owner.plan is None


def test_a_replica_that_keeps_the_victims_is_not_waited_for() -> None:
    """A copy that never loses anything would keep the plan executing for ever."""
    world, keeps = World(), World()
    keeps.write_owner(ledger=LEDGER)
    keeps.has_plan()
    collector = replace(world.collector(), replicas=(keeps.store,))
    finished = carry_out(collector, world.owner, world.plan(), (), (), 1.0)
    assert tuple(finished.gone) == OLD
    assert world.owner.plan is None
    assert all(keeps.has(key) for key in OLD)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"epoch": 3}, "epoch"),
        ({"before": PACK}, "another ledger"),
        ({"holds": (SeenHold("f" * 32, None),)}, "held"),
        ({"protected": Place(4, 9, 12)}, "protected"),
        ({"victims": (*OLD, PACK.key)}, "stand for"),
        ({"victims": (*OLD, LEDGER.key)}, "stand for"),
        ({"victims": (segment_key(4, 11),)}, "not older"),
        ({"victims": (segment_key(5, 1),)}, "not older"),
        ({"victims": (segment_key(4, 4),)}, "needed"),
    ],
)
def test_what_no_plan_may_say(changes: dict[str, object], why: str) -> None:
    world = World()
    plan = replace(world.plan(), **changes)  # type: ignore[arg-type]  # by name
    assert why in fault_of_plan(plan, world.owner, {segment_key(4, 4)})
    assert not fault_of_plan(world.plan(), world.owner, set())


def test_the_ledger_in_force_is_no_victim() -> None:
    world = World()
    world.write_owner(ledger=PACK)
    plan = replace(world.plan(), packs=(), victims=(PACK.key,))
    assert "in force" in fault_of_plan(plan, world.owner, set())
