"""The protocol of a pass of collection (docs/collection.md): what is named, executed and deleted.

Any error ends the pass, wherever it is; the one after it begins at `settle`. What is decided is decided by
`plan_rules` and `plan_changes`. How victims are chosen and packs written does not belong here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from cdp_container.domain.owner_types import ChangePlan
from cdp_container.domain.plan_changes import end_plan, execute_plan, name_plan
from cdp_container.domain.plan_rules import fault_of_final, fault_of_plan, promises_late, strike_off
from cdp_container.errors import (
    CollectionStopped,
    Contention,
    DamagedObject,
    NotFound,
    ObjectLocked,
    PreconditionFailed,
    StoreUnavailable,
)
from cdp_container.format.domain import ObjectName, Owner, OwnerState, PlanState, parse_owner
from cdp_container.format.gc import (
    FinalList,
    Plan,
    build_final,
    build_plan,
    parse_final,
    parse_plan,
    plan_digest,
)
from cdp_container.format.holds import Hold
from cdp_container.format.keys import (
    LOG_PREFIX,
    OWNER_KEY,
    PACKS_PREFIX,
    gc_final_key,
    gc_key,
    ledger_key,
)
from cdp_container.store.api import Store

CONFIRM_ROUNDS: Final = 30
"""Looks at a deleted object that is still told of, a second apart, before the pass ends."""
REPLICA_ROUNDS: Final = 720
REPLICA_PAUSE_SECONDS: Final = 5.0
"""Looks at what a replica lacks, so far apart: one that lags by more than an hour ends the pass."""


@dataclass(frozen=True, slots=True)
class Collector:
    """What a pass acts on.

    Attributes:
        store: the container; repeats reads and deletes.
        replicas: other places that are to hold the same.
        domain, site: whose pass it is.
        holds: reads the roster, without holds that are known to be dead. Raises CdpError.
        change: asks the run that owns for a change; returns once it is made. Raises CdpError.
        pause: waits so many seconds.
    """

    store: Store
    replicas: Sequence[Store]
    domain: bytes
    site: str
    holds: Callable[[], Mapping[str, Hold]]
    change: Callable[[ChangePlan], None]
    pause: Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Finished:
    """What became of a plan.

    Attributes:
        gone: keys that were deleted.
        kept: how many were not, for holds.
        locked: keys that the store keeps until then by its clock; None: not known.
        lost: the key of the plan where it executed and is gone; nothing was deleted then.
    """

    gone: Sequence[str]
    kept: int
    locked: Mapping[str, int | None] = field(default_factory=dict)
    lost: str = ""

    @property
    def deleted(self) -> int:
        """How many."""
        return len(self.gone)


def read_owner(collector: Collector) -> Owner:
    """`domain/owner`, owned by this site. Raises CollectionStopped where it is not."""
    owner = parse_owner(collector.store.get(OWNER_KEY).data, OWNER_KEY, collector.domain)
    if owner.state is not OwnerState.ACTIVE or owner.site != collector.site:
        raise _stopped(f"site {owner.site!r} has the domain, and it is {owner.state.value}")
    return owner


def settle(collector: Collector) -> tuple[Owner, Finished | None]:
    """Step 1: drop a plan that is merely named, finish one that executes; gives the owner without a plan."""
    owner = read_owner(collector)
    if owner.plan is None:
        return owner, None
    finished = None
    if owner.plan.state is PlanState.EXECUTING:
        finished = finish(collector, owner)
    else:
        collector.change(end_plan(owner))
    owner = read_owner(collector)
    if owner.plan is not None:
        raise _stopped("another pass is under way")
    return owner, finished


def require_replicas(collector: Collector, owner: Owner) -> None:
    """Before anything is packed: what a plan waits for at replicas seems to be possible, as things are.

    Else each pass would write packs of which none comes into force, and none can be deleted either. Raises
    CollectionStopped, and what replicas raise that cannot be asked.
    """
    if not collector.replicas:
        return
    ledgers = ledger_key(owner.epoch, 1).rpartition("-")[0]
    newest = max((found.key for found in collector.store.list(f"{ledgers}-")), default="")
    for store in collector.replicas:
        if not _names(store, collector.domain, owner.ledger):
            raise _stopped(f"{OWNER_KEY} in {store.address} does not name the ledger in force yet")
        if newest and not is_there(store, newest):
            raise _stopped(f"{store.address} has not got {newest} yet")


def wait_for_counted(collector: Collector, counted: Collection[str]) -> None:
    """Every replica has what a plan's ledger goes on counting. Raises CollectionStopped.

    By the new ledger a reader there would else find no point that is whole, and by then the old ones are
    retired. One listing per replica; what it omits is asked for by name.

    `counted`: keys of segments up to `protected`, and of packs.
    """
    lacks = []
    for store in collector.replicas:
        absent = set(counted)
        for prefix in (LOG_PREFIX, PACKS_PREFIX):
            for found in store.list(prefix):
                absent.discard(found.key)
        lacks += [_not_yet(store, key) for key in sorted(absent)]
    _wait(collector, lacks)


def carry_out(
    collector: Collector,
    owner: Owner,
    plan: Plan,
    spared: Collection[str],
    counted: Collection[str],
    grace_seconds: float,
) -> Finished:
    """Steps 4 to 10, of a plan that was made when `owner` stood.

    `spared`: see `fault_of_plan`; `counted`: see `wait_for_counted`.
    """
    fault = fault_of_plan(plan, owner, spared)
    if fault:  # a mistake of ours: the last look before anything is named
        raise _stopped(fault)
    data = build_plan(plan)
    put_once(collector.store, gc_key(plan.epoch, plan.n), data)
    collector.change(name_plan(owner, plan.n, plan_digest(data)))
    collector.pause(grace_seconds)
    owner = read_owner(collector)
    if owner.plan is None or owner.plan.digest != plan_digest(data) or owner.epoch != plan.epoch:
        raise _stopped("the plan that was named is not named any more")
    wait_for_counted(collector, counted)
    # The plan, too: whoever takes a replica over while it executes finishes it there.
    _look_for(collector, [gc_key(plan.epoch, plan.n), plan.ledger.key, *(name.key for name in plan.packs)])
    if promises_late(plan, collector.holds()):
        collector.change(end_plan(owner))
        raise _stopped("a point was held for an operator since it began, and its plan may retire that point")
    collector.change(execute_plan(owner, plan.ledger))
    owner = read_owner(collector)
    if owner.plan is None or owner.plan.state is not PlanState.EXECUTING:
        raise _stopped("another pass is under way")
    return finish(collector, owner)


def finish(collector: Collector, owner: Owner) -> Finished:
    """Steps 8 to 10 of a plan that executes, whoever made it and however far it was.

    One that is gone ends without a delete: its ledger is in force, by which nobody counts its victims, and
    they are victims of a later plan.
    """
    read = _read_plan(collector, owner)
    if read is None:
        assert owner.plan is not None
        collector.change(end_plan(owner))
        return Finished((), 0, lost=gc_key(owner.plan.epoch, owner.plan.n))
    plan, digest = read
    final = _final_list(collector, plan, digest)
    if final.delete:
        _wait_for_owners(collector, plan)
    locked: dict[str, int | None] = {}
    for key in final.delete:
        try:
            collector.store.delete(key)
        except ObjectLocked as error:
            # No doubt: it was collected, nothing counts it any more, and it is a victim again later.
            locked[key] = error.until_ns
    gone = [key for key in final.delete if key not in locked]
    for key in gone:
        _confirm(collector, key)
    collector.change(end_plan(owner))
    return Finished(gone, len(final.kept), locked)


def _read_plan(collector: Collector, owner: Owner) -> tuple[Plan, bytes] | None:
    """The plan that executes and its digest; None where it is gone. Raises DamagedObject."""
    named = owner.plan
    assert named is not None
    assert named.state is PlanState.EXECUTING, named
    key = gc_key(named.epoch, named.n)
    try:
        data = collector.store.get(key).data
    except NotFound:
        return None
    if plan_digest(data) != named.digest:
        raise DamagedObject(key, f"it has not the digest by which {OWNER_KEY} names it")
    plan = parse_plan(data, key, collector.domain)
    if (plan.epoch, plan.n, plan.ledger) != (named.epoch, named.n, owner.ledger):
        raise DamagedObject(key, "it executes, and its ledger is not in force")
    return plan, named.digest


def _final_list(collector: Collector, plan: Plan, digest: bytes) -> FinalList:
    """The one that is there, or else one by the roster as it stands *now*: after the plan executed."""
    key = gc_final_key(plan.epoch, plan.n)
    found = _read_final(collector, key)
    if found is None:
        made = strike_off(plan, digest, collector.site, collector.holds())
        try:
            collector.store.put_new(key, build_final(made))
        except (PreconditionFailed, Contention, StoreUnavailable) as error:
            # Ours or another's: the one that is there counts.
            found = _read_final(collector, key)
            if found is None:
                raise error
        else:
            found = made
    fault = fault_of_final(found, plan, digest)
    if fault:
        raise DamagedObject(key, fault)
    return found


def _read_final(collector: Collector, key: str) -> FinalList | None:
    try:
        return parse_final(collector.store.get(key).data, key, collector.domain)
    except NotFound:
        return None


def _confirm(collector: Collector, key: str) -> None:
    """The store tells of the object no more; nobody waits for replicas here. Raises CollectionStopped."""
    for _ in range(CONFIRM_ROUNDS):
        if not is_there(collector.store, key):
            return
        collector.pause(1.0)
    raise _stopped(f"{key} was deleted, and {collector.store.address} still has it")


def is_there(store: Store, key: str) -> bool:
    """Whether a store tells of an object."""
    try:
        store.head(key)
    except NotFound:
        return False
    return True


@dataclass(frozen=True, slots=True)
class _Lack:
    """What is waited for: what to say while it is so, and whether it is over."""

    words: str
    is_over: Callable[[], bool]


def _look_for(collector: Collector, keys: Sequence[str]) -> None:
    """What the pass wrote is here, and comes to every replica. Raises CollectionStopped."""
    for key in keys:
        if not is_there(collector.store, key):
            raise _stopped(f"{collector.store.address} has not got {key}")
    _wait(collector, [_not_yet(store, key) for store in collector.replicas for key in keys])


def _not_yet(store: Store, key: str) -> _Lack:
    return _Lack(f"{store.address} has not got {key} yet", partial(is_there, store, key))


def _wait_for_owners(collector: Collector, plan: Plan) -> None:
    """Whoever reads a replica goes by the plan's ledger: what it deletes is counted nowhere any more."""
    ledger = plan.ledger
    _wait(collector, [
        _Lack(
            f"{OWNER_KEY} in {store.address} does not name {ledger.key} yet",
            partial(_names, store, collector.domain, ledger),
        )
        for store in collector.replicas
    ])  # fmt: skip


def _names(store: Store, domain: bytes, ledger: ObjectName | None) -> bool:
    """Whether the owner as a store has it names this ledger; where there is none it names nothing."""
    try:
        data = store.get(OWNER_KEY).data
    except NotFound:
        return False
    return parse_owner(data, OWNER_KEY, domain).ledger == ledger


def _wait(collector: Collector, lacks: list[_Lack]) -> None:
    """Until none is left. Raises CollectionStopped."""
    for _ in range(REPLICA_ROUNDS):
        while lacks and lacks[-1].is_over():
            lacks.pop()
        if not lacks:
            return
        collector.pause(REPLICA_PAUSE_SECONDS)
    raise _stopped(lacks[-1].words)


def put_once(store: Store, key: str, data: bytes) -> None:
    """Create an object; where the answer is lost, what stands there tells. Raises CollectionStopped."""
    try:
        store.put_new(key, data)
    except (PreconditionFailed, Contention, StoreUnavailable) as error:
        try:
            there = store.get(key).data
        except NotFound:
            raise error from None
        if there != data:
            raise _stopped(f"{key} is there already, and it is another's") from error


def _stopped(why: str) -> CollectionStopped:
    return CollectionStopped("the pass ended", why)
