"""One pass of healing: what is damaged, what of it can be had here, and packs of it put in force.

A pack in force stands for a segment that the ledger names as collected: by a plan of collection, without any
victim. Nothing is written under an old key, and nothing is deleted: what is damaged stays until a pass of
collection takes it. All of an object is healed, or nothing of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Final

from cdp_agent.collector.counting import past_of
from cdp_agent.collector.inventory import counted_keys
from cdp_agent.collector.packing import CutFacts, cut_record, epoch_record
from cdp_agent.collector.pass_objects import PassObjects, read_runs
from cdp_agent.collector.pass_types import Around
from cdp_agent.collector.past import spared_by_history
from cdp_agent.healing.content import offer_cut, offer_files, offer_records, offer_volumes
from cdp_agent.healing.files import TreeFiles
from cdp_agent.healing.hole import Hole
from cdp_agent.healing.rebuild import check_rebuilt, holes_of, order_of, rebuilt
from cdp_agent.healing.torn import CannotHeal, Torn, bundled_heads, examine
from cdp_container.domain.collecting import carry_out, require_replicas, settle, wait_for_counted
from cdp_container.domain.contents import Contents
from cdp_container.domain.ends import read_segment
from cdp_container.domain.faults import faults_of
from cdp_container.domain.gathering import gather
from cdp_container.domain.heads import BROKEN
from cdp_container.domain.image import runs_of
from cdp_container.domain.opening import ByIndex, open_by_index
from cdp_container.domain.verify_types import needed_scope
from cdp_container.errors import CollectionStopped, NotFound
from cdp_container.format.domain import ObjectName
from cdp_container.format.holds import Hold
from cdp_container.format.index import Entry, Run
from cdp_container.format.keys import (
    LOG_PREFIX,
    PACKS_PREFIX,
    KeyKind,
    pack_key,
    parse_key,
    segment_key,
)
from cdp_container.format.layout import RunKind
from cdp_container.format.limits import SUM_BLOCK_BYTES
from cdp_container.format.pack import PackRecord
from cdp_container.format.preamble import Preamble
from cdp_container.journal.position import NOWHERE, Position
from cdp_container.journal.reader import JournalReader

LOST_BYTES_MAX: Final = 1 << 30
"""Content of one object that is held in memory while it is looked for."""
OBJECTS_MAX: Final = 10_000
"""Objects that one pass heals: each is a pack, which is looked for at every replica."""


SEGMENTS_OF_CUT_MAX: Final = 10_000
"""Preambles that are looked at for the cut before: no cut has so many segments."""


@dataclass(frozen=True, slots=True)
class Here:
    """What this site has: volumes by the ids of their spaces, and the journal with its published tail.

    `spaces` are those of the sources, by their numbers in the journal; `journal` None: there is none.
    `files`: of trees, as they were known before the container is read; None: there are none.
    """

    paths: Mapping[bytes, Path]
    spaces: Sequence[bytes] = ()
    journal: JournalReader | None = None
    tail: Position = NOWHERE
    files: TreeFiles | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one object. `why_not` is "" where all of it can be had; then `pack` names what heals it.

    `lost_bytes` of its content cannot be read any more, `found_bytes` of them were found here.
    """

    key: str
    why_not: str
    lost_bytes: int = 0
    found_bytes: int = 0
    pack: ObjectName | None = None


@dataclass(slots=True)
class Healed:
    """All that was looked at, in the order of keys; `is_done`: packs are in force."""

    outcomes: list[Outcome] = field(default_factory=list)
    is_done: bool = False

    @property
    def keys(self) -> list[str]:
        """What was healed."""
        return [one.key for one in self.outcomes if one.pack is not None]


def heal(around: Around, here: Here, known: Collection[str], software: str, plan_only: bool) -> Healed:
    """Look at what is known to be damaged, and at what is missing, and heal what can be.

    Args:
        around: see `Around`.
        here: see `Here`.
        known: keys that a verification found something wrong with.
        software: who writes.
        plan_only: write nothing.

    Raises CollectionStopped where nothing can be named now; errors of the store come through.
    """
    owner, _ = settle(around.collector)
    holds = around.collector.holds()
    if any(hold.cut is None for hold in holds.values()):
        raise _stopped("a hold on everything stands: somebody reads")
    if not plan_only:
        require_replicas(around.collector, owner)
    identity = around.identity
    opened = open_by_index(around.store, identity.domain, identity.index_key)
    now = opened.history.owner
    if (now.epoch, now.ledger, now.plan) != (owner.epoch, owner.ledger, owner.plan):
        raise _stopped("the domain changed while it was looked at")
    if opened.history.in_doubt is not None:
        raise _stopped(str(opened.history.in_doubt))
    scope = needed_scope(opened.history, opened.ledger)
    with closing(gather(around.store, identity.domain, opened.keys, scope, opened.ledger)) as contents:
        healing = _Healing(around, here, opened, contents, software)
        keys = _suspects(opened, contents, scope, known)
        if keys and not plan_only:
            wait_for_counted(around.collector, healing.counted(keys))  # before packs are written
        healed = healing.look(keys, plan_only)
        if not plan_only and healing.packs:
            healing.put_in_force(holds)
            healed.is_done = True
    return healed


def _suspects(
    opened: ByIndex, contents: Contents, scope: Mapping[int, int], known: Collection[str]
) -> list[str]:
    """What may be damaged of what recovery points need: what is known to be, missing, or breaks the chain."""
    keys = set(known) | set(contents.broken)
    for fault in faults_of(contents, scope, opened.history.origins()):
        keys.add(fault.error.what)
        is_there = fault.error.what not in contents.broken and (fault.epoch, fault.seq) in contents.segments
        if is_there and fault.seq > 1:
            keys.add(segment_key(fault.epoch, fault.seq - 1))  # of two that do not fit either may be wrong
    return sorted(key for key in keys if _is_needed(key, opened, scope))


def _is_needed(key: str, opened: ByIndex, scope: Mapping[int, int]) -> bool:
    parsed = parse_key(key)
    if parsed is None:
        return False
    if parsed.kind is KeyKind.PACK:
        return key in opened.ledger.packs
    counts = parsed.kind is KeyKind.SEGMENT and parsed.number <= scope.get(parsed.epoch, 0)
    return counts and not opened.ledger.is_collected(parsed.epoch, parsed.number)


class _Healing:
    """A pass: `packs` are those that were written, by the key of what each stands for."""

    def __init__(
        self, around: Around, here: Here, opened: ByIndex, contents: Contents, software: str
    ) -> None:
        self._around = around
        self._here = here
        self._opened = opened
        self._contents = contents
        self._objects = PassObjects(around, opened.history, software)
        self._owner = opened.history.owner
        self._spared = spared_by_history(opened.history, [])
        self._digests: dict[str, bytes] = {}
        self._suspected: dict[str, frozenset[bytes] | None] = {}
        self.packs: dict[str, ObjectName] = {}

    def look(self, keys: Sequence[str], plan_only: bool) -> Healed:
        """At each object, at most OBJECTS_MAX, one after another: one is held in memory at a time."""
        bundled = bundled_heads(self._opened, keys)
        healed = Healed()
        if self._here.files is not None:
            self._suspected = dict.fromkeys(keys)
            self._suspected |= {key: self._spaces_of(bundled, key) for key in keys[:OBJECTS_MAX]}
        for key in keys[:OBJECTS_MAX]:
            try:
                torn = examine(self._opened, self._contents, bundled, key)
                if torn is None:
                    continue  # it is sound: again, or all along
                healed.outcomes.append(self._heal(torn, plan_only))
            except CannotHeal as error:
                healed.outcomes.append(Outcome(key, str(error)))
        return healed

    def _heal(self, torn: Torn, plan_only: bool) -> Outcome:
        self._check_place(torn)
        holes = holes_of(torn)
        lost_bytes = sum(hole.extent.length for hole in holes.values())
        if lost_bytes > LOST_BYTES_MAX:
            raise CannotHeal(f"{lost_bytes} bytes of it are lost, too many to look for at once")
        self._fill(torn, list(holes.values()))
        found_bytes = sum(hole.found_bytes for hole in holes.values())
        if not all(hole.is_filled for hole in holes.values()):
            why = f"{lost_bytes - found_bytes} bytes of it are nowhere here any more"
            return Outcome(torn.key, why, lost_bytes, found_bytes)
        if plan_only:
            return Outcome(torn.key, "", lost_bytes, found_bytes)
        content = rebuilt(torn, holes, list(self._remembered(torn)))
        built = self._objects.pack(content)
        check_rebuilt(torn, built, self._owner.domain, self._opened.keys)
        self._objects.put(built)
        name = self.packs[torn.key] = ObjectName(built.key, built.digest)
        self._digests[torn.key] = torn.digest
        self._around.report(f"{torn.key}: {found_bytes} bytes found again")
        return Outcome(torn.key, "", lost_bytes, found_bytes, name)

    def _check_place(self, torn: Torn) -> None:
        """Raises CannotHeal."""
        preamble, protected = torn.head.preamble, self._owner.protected
        if parse_key(torn.key).kind is KeyKind.PACK:  # type: ignore[union-attr]
            return
        if (preamble.epoch, preamble.seq) >= (protected.epoch, protected.seq):
            raise CannotHeal("it is not older than what is protected")
        ends_well = len(torn.data) == preamble.object_length and torn.data.endswith(torn.digest)
        if torn.key in self._spared and not ends_well:
            raise CannotHeal("an epoch begins or ends with it, and writers read it by its name")

    def _fill(self, torn: Torn, holes: list[Hole]) -> None:
        here, preamble = self._here, torn.head.preamble
        if here.journal is not None and preamble.cut:
            after = self._position_before(preamble)
            up_to = Position(preamble.journal_generation, preamble.journal_offset)
            if after is not None:
                offer_cut(holes, here.journal, here.spaces, after, up_to)
        offer_volumes(holes, here.paths)
        if here.files is not None:
            offer_files(holes, here.files, lambda hole: self._is_newest(torn, hole))
        if here.journal is not None:
            offer_records(holes, here.journal, here.spaces, here.tail)

    def _spaces_of(self, bundled: Mapping[str, Entry], key: str) -> frozenset[bytes] | None:
        """Which spaces a damaged object tells of; None where nobody knows any more."""
        try:
            torn = examine(self._opened, self._contents, bundled, key)
        except CannotHeal:
            return None
        return frozenset() if torn is None else frozenset(torn.head.index.spaces)

    def _is_newest(self, torn: Torn, hole: Hole) -> bool:
        """Whether no object, of those that can be read and those that cannot, wrote a hole's end later.

        Then what the watcher's index says that the container has there is said of this very extent.
        """
        extent, history, files = hole.extent, self._opened.history, self._here.files
        if files is None or files.epoch != self._owner.epoch:
            return False
        if not self._contents.broken.keys() <= self._suspected.keys():
            return False
        for key, spaces in self._suspected.items():
            if key != torn.key and (spaces is None or extent.space in spaces):
                return False
        orders = list(torn.head.index.iter_orders())
        order = order_of(torn.head, orders, extent.order)
        branch = history.branch_of(history.newest)
        if order.seq > branch.get(order.epoch, 0) or any(one > order for one in orders):
            return False  # a pack's newer rows may be of this space, too
        end = extent.offset + extent.length
        newer = runs_of(self._contents, branch, extent.space, after=(order.epoch, order.seq))
        return not ((newer["start"] < end) & (newer["end"] > end - end % SUM_BLOCK_BYTES)).any()

    def _position_before(self, preamble: Preamble) -> Position | None:
        """Of the cut before this segment's; None where nobody knows it any more."""
        base, journal = preamble.base, self._here.journal
        if preamble.cut == 1:
            if base:
                found = self._told_of(base.epoch, base.seq)
                return found[1] if found is not None and found[0] == base.cut else None
            return journal.start if journal is not None and journal.is_from_the_beginning else None
        for seq in range(preamble.seq - 1, max(0, preamble.seq - 1 - SEGMENTS_OF_CUT_MAX), -1):
            found = self._told_of(preamble.epoch, seq)
            if found is None or found[0] != preamble.cut:
                return found[1] if found is not None and found[0] == preamble.cut - 1 else None
        return None

    def _told_of(self, epoch: int, seq: int) -> tuple[int, Position] | None:
        """The cut of a segment and its position: its preamble tells, be the rest damaged, or collected."""
        segment = self._contents.segments.get((epoch, seq))
        if segment is not None and segment.journal[0]:
            return segment.cut, Position(*segment.journal)
        try:
            preamble = read_segment(self._around.store, self._owner.domain, epoch, seq).preamble
        except (NotFound, *BROKEN):
            return None
        return preamble.cut, Position(preamble.journal_generation, preamble.journal_offset)

    def _remembered(self, torn: Torn) -> Iterator[PackRecord]:
        """What the pack tells of a collected segment besides: a cut that ends there, an epoch that began."""
        preamble = torn.head.preamble
        if not preamble.cut:
            return
        if preamble.complete and not self._opened.ledger.is_retired(preamble.epoch, preamble.seq):
            facts = CutFacts(preamble.place, preamble.not_whole, preamble.cut_time_ns, self._stored_ns(torn))
            yield cut_record(facts)
        if preamble.seq == 1:
            yield epoch_record(self._opened.history.spans[preamble.epoch].record, preamble.cut)

    def _stored_ns(self, torn: Torn) -> int:
        """When it was stored; of one that is gone, when the one after it was: it is kept the longer."""
        if torn.stored_ns:
            return torn.stored_ns
        preamble = torn.head.preamble
        try:
            return self._around.store.head(segment_key(preamble.epoch, preamble.seq + 1)).modified_ns
        except NotFound:
            return max(preamble.cut_time_ns, 0)

    # --- what is put in force ------------------------------------------------------------------

    def put_in_force(self, holds: Mapping[str, Hold]) -> None:
        """A ledger and a plan that name the packs; see `collecting`."""
        owner, around = self._owner, self._around
        before = read_runs(around.store, owner.domain, self._opened.keys, owner.ledger)
        ledger = self._objects.put_ledger(self._runs(before))
        packs = list(self.packs.values())
        plan = self._objects.plan(ledger, packs, (), holds, around.clock.wall_ns())
        carry_out(around.collector, owner, plan, frozenset(), self.counted(self.packs), 0.0)

    def counted(self, healed: Iterable[str]) -> set[str]:
        """What the ledger goes on counting and is here, which something else that is damaged may not be."""
        past, protected = past_of(self._opened.history), self._owner.protected
        counted = set(counted_keys(past, self._opened.ledger, protected)).difference(healed)
        listed = (self._around.store.list(prefix) for prefix in (LOG_PREFIX, PACKS_PREFIX))
        return counted.intersection(found.key for found in chain.from_iterable(listed))

    def _runs(self, before: Iterable[Run]) -> Iterator[Run]:
        """Those in force, less the packs that are healed, and each healed segment as a run of its own."""
        for run in before:
            if not (run.kind is RunKind.PACK_IN_FORCE and _pack_of(run) in self.packs):
                yield run
        for key, digest in self._digests.items():
            parsed = parse_key(key)
            assert parsed is not None, key
            if parsed.kind is KeyKind.SEGMENT:
                yield Run(RunKind.SEGMENT_COLLECTED, parsed.epoch, parsed.number, parsed.number, digest)
        for name in self.packs.values():
            parsed = parse_key(name.key)
            assert parsed is not None, name
            yield Run(RunKind.PACK_IN_FORCE, parsed.epoch, parsed.number, parsed.number, name.digest)


def _pack_of(run: Run) -> str:
    return pack_key(run.epoch, run.first)


def _stopped(why: str) -> CollectionStopped:
    return CollectionStopped("nothing was healed", why)
