"""One pass of collection: what is there, what is kept, what is to go; packed, written, and carried out.

The order of it all is that of docs/collection.md. Any error ends the pass. What runs it, and when, does not
belong here (process, schedule); the protocol from the plan on is domain.collecting's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from cdp_agent.collector.alive import alive_of
from cdp_agent.collector.alive_types import Alive
from cdp_agent.collector.cache import CacheDamaged
from cdp_agent.collector.catalogs import COLLECTED_LEVEL, Bundling, bundle_anew, superseded_catalogs
from cdp_agent.collector.choose import (
    LIVE_SHARE_MAX,
    PASS_BYTES_MAX,
    SPACE_TARGET,
    Bounds,
    Chosen,
    choose,
    is_worth_a_plan,
)
from cdp_agent.collector.counting import past_of
from cdp_agent.collector.inventory import Inventory, take_inventory
from cdp_agent.collector.ledger_runs import next_runs
from cdp_agent.collector.packing import Counted, Packing, PackWriter, cut_record, epoch_record
from cdp_agent.collector.past import (
    cut_facts,
    past_cuts,
    spared_by_history,
    spared_by_hold,
    unnamed_of,
)
from cdp_agent.collector.remembered import Remembered, Tables
from cdp_agent.collector.warmth import PART_BYTES_MIN, Grouping, groups_of
from cdp_agent.collector.whole_frames import LIVE_SHARE_WHOLE, copied_whole
from cdp_container.clock import Clock
from cdp_container.domain.clock_doubt import ClockLook, clock_doubt
from cdp_container.domain.collecting import Collector, Finished, carry_out, put_once, settle
from cdp_container.domain.held import seen_of
from cdp_container.domain.history import History, read_domain, read_history
from cdp_container.domain.identity import AgentIdentity
from cdp_container.domain.ledgers import NO_LEDGER, Ledger, ledger_of
from cdp_container.domain.retention import (
    COLLECT_AGE_SECONDS_MIN,
    Circumstances,
    Kept,
    PastCut,
    kept_cuts,
    parse_retention,
)
from cdp_container.domain.roster import read_roster
from cdp_container.errors import CollectionStopped, DamagedObject, MissingObject, NotFound
from cdp_container.format.assemble import SealedObject
from cdp_container.format.catalog import CatalogFacts, build_catalog
from cdp_container.format.codec import Compressor
from cdp_container.format.domain import ObjectName, Owner, OwnerState, parse_owner
from cdp_container.format.gc import Plan
from cdp_container.format.head import check_object, object_digest, open_head
from cdp_container.format.holds import Hold
from cdp_container.format.index import Run
from cdp_container.format.keys import (
    CATALOG_PREFIX,
    GC_PREFIX,
    OWNER_KEY,
    PACKS_PREFIX,
    KeyKind,
    config_key,
    parse_key,
)
from cdp_container.format.ledger import LedgerFacts, build_ledger, predecessor_of
from cdp_container.format.pack import PackFacts, PackRecord
from cdp_container.format.place import Place
from cdp_container.format.seal import ReaderKeys, WriterKeys, writer_keys
from cdp_container.store.api import Store
from cdp_container.store.attest import PROBE_PREFIX

PACKS_PER_PASS: Final = 1_000_000
"""The numbers of what pass n of an epoch writes begin at n times that: none is ever used twice."""
GRACE_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Wishes:
    """How a pass is to go about it; see `Bounds`, too.

    `private_key`: of the domain, where frames are to be split; without it no object is packed of which
    LIVE_SHARE_WHOLE lives. `part_bytes_min`: hot and cold are not parted where less is packed.
    """

    grace_seconds: float = GRACE_SECONDS
    space_target: float = SPACE_TARGET
    live_share: float = LIVE_SHARE_MAX
    age_seconds: float = COLLECT_AGE_SECONDS_MIN
    copy_bytes_max: int = PASS_BYTES_MAX
    part_bytes_min: int = PART_BYTES_MIN
    private_key: bytes | None = field(default=None, repr=False)
    software: str = ""
    locked: Collection[str] = ()
    """Keys that are no victims: the store is known not to delete them yet."""


@dataclass(frozen=True, slots=True)
class Around:
    """What a pass runs in.

    Attributes:
        identity: the agent's.
        directory: the collector's, `<journal>/collector`.
        collector: what the protocol acts on.
        store: the container; repeats reads and deletes.
        clock, entropy: of this machine.
        report: is given lines for people.
        store_seen_ns: the newest time of the store that any pass before this one saw, 0 for none.
    """

    identity: AgentIdentity
    directory: Path
    collector: Collector
    store: Store
    clock: Clock
    entropy: Callable[[int], bytes]
    report: Callable[[str], None]
    store_seen_ns: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """What a pass found out before it writes anything."""

    history: History
    runs: Sequence[Run]
    ledger: Ledger
    inventory: Inventory
    cuts: Sequence[PastCut]
    kept: Mapping[Place, Kept]
    alive: Alive
    chosen: Chosen
    superseded: Sequence[str]
    spared: set[str]

    @property
    def retired(self) -> list[PastCut]:
        """The cuts that are not offered any more once the plan executes, oldest first."""
        return sorted((cut for cut in self.cuts if cut.place not in self.kept), key=lambda cut: cut.place)


@dataclass(frozen=True, slots=True)
class Passed:
    """What a pass did. `finished_before`: an older plan that it finished; `found`: what it looked at."""

    why_not: str
    finished_before: Finished | None
    found: Found | None = None
    finished: Finished | None = None
    packing: Counted = field(default_factory=Counted)
    store_ns: int = 0


def run_pass(around: Around, wishes: Wishes) -> Passed:
    """One whole pass. Raises CdpError, wherever it ended; nothing needs to be undone."""
    elsewhere = _elsewhere(around)
    if elsewhere:
        return Passed(elsewhere, None)
    owner, before = settle(around.collector)
    looks = [look_at_clocks(around)]
    _refuse_doubt(looks, around.store_seen_ns)
    now_ns = looks[0].store_ns
    holds = around.collector.holds()
    if any(hold.cut is None for hold in holds.values()):
        return Passed("a hold on everything stands", before, store_ns=now_ns)
    remembered = Remembered(around.directory, around.identity.domain)
    try:
        tables, found = look_around(around, wishes, remembered, owner, holds, now_ns)
        if not is_worth_a_plan(found.chosen):
            return Passed("there is nothing to collect", before, found, store_ns=now_ns)
        is_enough = found.chosen.copied_bytes >= wishes.part_bytes_min
        groups = groups_of(remembered, found.history, found.alive, is_enough)
        writing = _Writing(around, wishes, tables, found, groups)
        plan = writing.write_all(holds, looks[0].wall_ns)
        looks.append(look_at_clocks(around))
        _refuse_doubt(looks, around.store_seen_ns)
        around.report(f"{len(plan.victims)} objects are to go; the plan is named, and waits")
        finished = carry_out(around.collector, writing.owner, plan, found.spared, wishes.grace_seconds)
    except CacheDamaged as error:
        raise _forgotten(remembered, error) from error
    finally:
        remembered.close()
    return Passed("", before, found, finished, writing.counted, looks[-1].store_ns)


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
    keys = ReaderKeys(_index_key(around.identity))
    facts = read_domain(store)
    if (facts.owner.epoch, facts.owner.ledger, facts.owner.plan) != (owner.epoch, owner.ledger, owner.plan):
        raise CollectionStopped("the pass ended", "the domain changed while it was looked at")
    runs = read_runs(store, domain, keys, facts.owner.ledger)
    ledger = ledger_of(runs)
    history = read_history(store, facts)
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
    spared = spared_by_history(history, wholes)
    for hold in holds.values():
        name = hold.ledger if hold.until_ns is None else None  # what an operator's notes may be gone
        read_by = NO_LEDGER if name is None else ledger_of(read_runs(store, domain, keys, name))
        spared |= spared_by_hold(hold, history, read_by)
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
    return tables, Found(history, runs, ledger, inventory, cuts, kept, alive, chosen, superseded, spared)


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


def read_runs(store: Store, domain: bytes, keys: ReaderKeys, name: ObjectName | None) -> list[Run]:
    """The runs of a complete ledger. Raises MissingObject, DamagedObject and their kin."""
    if name is None:
        return []
    try:
        data = store.get(name.key).data
    except NotFound as error:
        raise MissingObject(name.key, "this ledger is needed, and it is gone") from error
    check_object(data, name.key, domain)
    if object_digest(data) != name.digest:
        raise DamagedObject(name.key, "it has not the digest by which it was named")
    head = open_head(data, name.key, domain, keys)
    if predecessor_of(head) is not None:
        raise CollectionStopped("the pass ended", f"{name.key} is not complete, and none that we write is so")
    return list(head.index.iter_runs())


def _index_key(identity: AgentIdentity) -> bytes | None:
    return identity.index_key or None


class _Writing:
    """Steps 3 and 4: packs, catalogs and the ledger, each read back; and the plan that names them."""

    def __init__(
        self, around: Around, wishes: Wishes, tables: Tables, found: Found, groups: Grouping
    ) -> None:
        self._groups = groups
        self._around = around
        self._wishes = wishes
        self._tables = tables
        self._found = found
        self._compressor = Compressor()
        self.owner = found.history.owner
        self._span = found.history.spans[self.owner.epoch]
        self._n = next_number(around.store, self.owner.epoch)
        self._written = 0
        self.counted = Counted()
        self._digests = {
            key: digest.tobytes() for key, digest in zip(tables.keys, tables.facts["digest"], strict=True)
        }

    def write_all(self, holds: Mapping[str, Hold], wall_ns: int) -> Plan:
        """Everything but the plan, which is given."""
        chosen = self._found.chosen
        packs: dict[str, bytes] = {}
        remembered = self._remembered()
        told = tuple(key for key in chosen.dead if key in remembered)
        if chosen.packed:
            self._around.report(f"packing what lives in {len(chosen.packed)} objects")
        for pack in self._packed(sorted((*chosen.packed, *told)), remembered):
            self._put(pack)
            packs[pack.key] = pack.digest
        names = [ObjectName(key, digest) for key, digest in packs.items()]
        names += [ObjectName(built.key, built.digest) for built in self._catalogs()]
        victims = set(chosen.victims)
        in_force = {key: digest for key, digest in self._found.ledger.packs.items() if key not in victims}
        ledger = self._ledger({**in_force, **packs})
        owner = self.owner
        return Plan(
            domain=owner.domain,
            epoch=owner.epoch,
            n=self._n,
            made_ns=wall_ns,
            site=owner.site,
            before=owner.ledger,
            ledger=ledger,
            packs=tuple(names),
            victims=chosen.victims,
            holds=seen_of(holds),
            protected=owner.protected,
        )

    def _remembered(self) -> dict[str, list[PackRecord]]:
        """By victim what packs tell of it besides: a retained cut that ends there, an epoch that began."""
        kept = {(place.epoch, place.seq) for place in self._found.kept}
        told: dict[str, list[PackRecord]] = {}
        for key, cut in cut_facts(self._tables, self._found.chosen.packed).items():
            if (cut.place.epoch, cut.place.seq) in kept:
                told.setdefault(key, []).append(cut_record(cut))
        cuts = dict(zip(self._tables.keys, self._tables.facts["cut"].tolist(), strict=True))
        for key in self._found.chosen.victims:
            parsed = parse_key(key)
            assert parsed is not None, key
            span = self._found.history.spans.get(parsed.epoch)
            is_first = parsed.kind is KeyKind.SEGMENT and parsed.number == 1
            if is_first and span is not None and not self._found.ledger.is_collected(parsed.epoch, 1):
                told.setdefault(key, []).append(epoch_record(span.record, cuts[key]))
        return told

    def _packed(
        self, victims: Sequence[str], remembered: Mapping[str, Sequence[PackRecord]]
    ) -> Iterator[SealedObject]:
        around = self._around
        reader = ReaderKeys(_index_key(around.identity), self._wishes.private_key)
        writer = PackWriter(
            around.identity.domain, self._pack_facts, self._keys, around.entropy, self._compressor, reader
        )
        packing = Packing(writer, self._found.alive, groups=self._groups)
        packing.counted = self.counted
        for key in victims:
            data = around.store.get(key).data
            yield from packing.take(key, data, self._digests[key], remembered.get(key, ()))
        yield from packing.close()

    def _catalogs(self) -> list[SealedObject]:
        if not self._found.superseded:
            return []
        victims = set(self._found.chosen.victims)
        past = past_of(self._found.history)

        def stays(epoch: int, seq: int) -> bool:
            key = f"log/{epoch:010}/{seq:012}"
            collected = self._found.ledger.is_collected(epoch, seq)
            return not collected and key not in victims and seq <= past.lasts.get(epoch, 0)

        def build(entries: list) -> SealedObject:  # type: ignore[type-arg]
            facts = CatalogFacts(
                self.owner.epoch, COLLECTED_LEVEL, self._number(), self.owner.site, self._wishes.software
            )
            return build_catalog(facts, entries, self._keys(), self._around.entropy(16), self._compressor)

        reader = ReaderKeys(_index_key(self._around.identity))
        bundling = Bundling(self._around.store, self.owner.domain, reader, stays, build)
        built = []
        for one in bundle_anew(bundling, self._found.superseded):
            self._put(one)
            built.append(replace(one, data=b""))
        return built

    def _ledger(self, packs: Mapping[str, bytes]) -> ObjectName:
        found = self._found
        collected = {}
        for key in (*found.chosen.dead, *found.chosen.packed):
            parsed = parse_key(key)
            assert parsed is not None, key
            if parsed.kind is KeyKind.SEGMENT:
                collected[parsed.epoch, parsed.number] = self._digests[key]
        lasts = past_of(found.history).lasts
        runs = next_runs(found.runs, collected, packs, list(found.kept), lasts)
        facts = LedgerFacts(self.owner.epoch, self._n, None, self.owner.site, self._wishes.software)
        built = build_ledger(facts, runs, self._keys(), self._around.entropy(16), self._compressor)
        self._put(built)
        return ObjectName(built.key, built.digest)

    # --- objects -------------------------------------------------------------------------------

    def _put(self, built: SealedObject) -> None:
        """Write an object, and read it back."""
        put_once(self._around.store, built.key, built.data)
        if self._around.store.get(built.key).data != built.data:
            raise DamagedObject(built.key, "it does not read back as it was written")

    def _number(self) -> int:
        number = self._n * PACKS_PER_PASS + self._written
        self._written += 1
        assert self._written < PACKS_PER_PASS, self._written
        return number

    def _pack_facts(self) -> PackFacts:
        record = self._span.record
        return PackFacts(
            self.owner.epoch, self._number(), record.base, record.end,
            site=self.owner.site, software=self._wishes.software,
        )  # fmt: skip

    def _keys(self) -> WriterKeys:
        """Fresh ones for every object."""
        identity, entropy = self._around.identity, self._around.entropy
        if not identity.key_block:
            return WriterKeys(identity.domain)
        return writer_keys(
            identity.domain,
            identity.public_key,
            identity.key_block,
            identity.index_key,
            entropy(32),
            entropy(32),
        )


def next_number(store: Store, epoch: int) -> int:
    """The number of the next pass of an epoch: above every plan, ledger, pack and own catalog that it has.

    None is used twice: plans stay, and what a pass without one left is named by a later one before it goes.
    """
    numbers = [0]
    for prefix in (GC_PREFIX, PACKS_PREFIX, CATALOG_PREFIX):
        for found in store.list(f"{prefix}{epoch:010}/"):
            parsed = parse_key(found.key)
            if parsed is not None and (parsed.kind is not KeyKind.CATALOG or parsed.level == COLLECTED_LEVEL):
                of_many = parsed.kind in (KeyKind.PACK, KeyKind.CATALOG)
                numbers.append(parsed.number // PACKS_PER_PASS if of_many else parsed.number)
    return max(numbers) + 1
