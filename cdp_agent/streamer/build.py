"""From a cut to its segments: reads what steps.py asked for, and seals it segment by segment.

One builder serves one epoch, whose keys and places it holds; it is used by one thread at a time. When a cut
is taken, and what its segments are numbered, does not belong here.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from cdp_agent.streamer.coalesce import coalesce, take_batch
from cdp_agent.streamer.copying import Copying
from cdp_agent.streamer.images import Images, volume_record
from cdp_agent.streamer.payloads import Chunk, Journal, chunks_of
from cdp_agent.streamer.step_types import (
    CATALOG_SEGMENTS,
    Asked,
    CutRead,
    ReadCut,
    SealSegment,
    SegmentSealed,
    WriteCatalog,
)
from cdp_agent.streamer.trees import Batch, Taken, Trees
from cdp_container.clock import Clock
from cdp_container.domain.identity import SourceIdentity, TreeIdentity
from cdp_container.errors import LimitExceeded
from cdp_container.format.assemble import SealedObject
from cdp_container.format.catalog import CatalogFacts, build_catalog
from cdp_container.format.codec import Compressor
from cdp_container.format.index import Entry, Record
from cdp_container.format.layout import ExtentKind, ObjectKind
from cdp_container.format.limits import BULK_INDEX_BYTES_MAX, CUT_BYTES_MAX
from cdp_container.format.names import skewed, tree_added, tree_gone
from cdp_container.format.place import Place
from cdp_container.format.records import make_record
from cdp_container.format.seal import WriterKeys
from cdp_container.format.segment import PENDING_FRAMES_MAX, SegmentBuilder, SegmentFacts, StartPacking
from cdp_container.journal.position import Position

Entropy = Callable[[int], bytes]
"""Gives that many fresh random bytes, like `os.urandom`."""

BLOCK_BYTES: Final = 512
"""What a volume's record calls its block: the smallest that a guest may write."""
HEADS_BYTES_MAX: Final = BULK_INDEX_BYTES_MAX
"""Heads that are kept for catalogs, as many as the widest may hold; the oldest are forgotten, and their
catalog is left out."""

TREES_BYTES_MAX: Final = 512 << 20
"""Of a cut, for what the watcher gives: an eighth of it for a batch of trees, half for images."""
NOT_WHOLE: Final = "not all of the file trees and of captured VMs is in the container yet"
TOO_LATE: Final = "the hooks held nothing still any more when the file trees were read"

ENTRIES_MAX: Final = 512
"""Segments of the widest catalog, and those that are in flight meanwhile."""


@dataclass(frozen=True, slots=True)
class EpochFacts:
    """What every object of the epoch says."""

    epoch: int
    base: Place
    end: Place
    site: str
    software: str


@dataclass(slots=True)
class _Segment:
    """A segment that is being filled. `times`: of the oldest and newest write in each of its chunks."""

    builder: SegmentBuilder
    times: list[int] = field(default_factory=list)


class Content(NamedTuple):
    """A piece of a cut as a segment takes it; times are 0 where nobody knows them."""

    space: bytes
    offset: int
    length: int
    kind: ExtentKind
    data: bytes | memoryview | None
    first_ns: int
    last_ns: int


@dataclass(slots=True)
class _Cut:
    """The cut that is being built.

    `record` is the next of `records`; `left`: what did not fit of a chunk; `begun`: its next segment.
    """

    marker: str | None
    record: Record | None
    records: Iterator[Record]
    chunks: Iterator[Content]
    taken_ns: int
    left: Content | None = None
    begun: _Segment | None = None


class CutBuilder:
    """Reads cuts and seals their segments.

    Args:
        facts: of the epoch.
        keys: of the epoch.
        sources: as in agent.json; journal records and volumes name them by index.
        journal: read by this builder alone.
        copying: what is copied.
        clock: for the time of a cut.
        entropy: for object ids.
        compressor: used by this builder alone.
        start_packing: packs frames side by side; None packs them in the caller's thread.
        trees: where batches come from; None where there are none.
        announced: the trees of agent.json.
        images: of volumes that are captured from their VMs; None where there are none.
    """

    def __init__(
        self,
        facts: EpochFacts,
        keys: WriterKeys,
        sources: Sequence[SourceIdentity],
        journal: Journal,
        copying: Copying,
        clock: Clock,
        entropy: Entropy,
        compressor: Compressor,
        start_packing: StartPacking | None = None,
        trees: Trees | None = None,
        announced: Sequence[TreeIdentity] = (),
        images: Images | None = None,
    ) -> None:
        self._facts = facts
        self._keys = keys
        self._sources = sources
        self._journal = journal
        self._copying = copying
        self._clock = clock
        self._entropy = entropy
        self._compressor = compressor
        self._start_packing = start_packing
        self.trees = trees
        self._announced = announced
        self.images = images
        of_vms = () if images is None else images.spaces
        self._lacking_trees = (*(tree.tree for tree in announced), *of_vms)  # in the cut before
        self._cut = _Cut(None, None, iter(()), iter(()), 0)
        self._entries: deque[Entry] = deque()
        self._entries_bytes = 0

    # --- reading -----------------------------------------------------------------------------

    def read(self, effect: ReadCut, of_vms: Sequence[Record] = ()) -> CutRead:
        """Read and coalesce the next cut; the bytes follow when its segments are sealed.

        `of_vms`: what it says of VMs, if it holds anything else or they are due.

        Raises:
            PositionUnknown, JournalDamaged: the journal does not hold what it should.
            BackingUnreadable, DeviceError: a volume cannot be copied.
        """
        taken = None
        if effect.copy is not None:
            chunks = self._copying.round(effect.copy)
            position, reached, taken_ns = effect.to_position, True, effect.taken_ns
        else:
            taken = self._take(effect)
            if taken is not None and not taken.swept:
                effect = replace(effect, to_position=taken.position, taken_ns=taken.taken_ns)
            position, reached, taken_ns, chunks = self._read_journal(effect)
        # Where the watcher gives nothing no tree is whole.
        read = CutRead(
            position, False, reached, taken_ns, effect.lacking_trees,
            sweep=effect.trees and taken is None, refused=NOT_WHOLE if effect.lacking_trees else "",
        )  # fmt: skip
        if taken is not None:
            read = self._with_batch(effect, read, taken)
        self._lacking_trees = read.lacking_trees
        batch = taken.batch if taken is not None and (reached or taken.swept) else None
        # A marker that waits for trees to be whole stands in the cut at which they are, and in no other.
        is_named = reached and not read.refused and not read.lacking_trees
        marked = [asked for asked in effect.asked if asked.name is not None and is_named]
        records = itertools.chain(
            self._space_records() if effect.announce else (),
            self._marker_records(marked),
            () if batch is None else batch.records(),
        )
        contents = self._contents(chunks, batch)
        record = next(records, None)
        content = next(contents, None) if record is None else None
        # Nothing of what follows makes a cut, but for what is due.
        told: list[Record] = []
        if record is not None or content is not None or (of_vms and effect.vms_due):
            told += of_vms
            if taken is not None and batch is not None and not taken.swept:
                told += self._skewed_records(effect.cut, batch)
        if told:
            records = itertools.chain(told[1:], () if record is None else (record,), records)
            record = told[0]
        self._cut = _Cut(marked[0].name if marked else None, record, records, contents, taken_ns, content)
        return replace(read, empty=record is None and content is None)

    def _take(self, effect: ReadCut) -> Taken | None:
        if not effect.trees or self.trees is None:
            return None
        since_ns = max((asked.since_ns for asked in effect.asked), default=0)
        return self.trees.take(effect.to_position, effect.taken_ns, since_ns)

    def _with_batch(self, effect: ReadCut, read: CutRead, taken: Taken) -> CutRead:
        """What the cut is with a batch, which goes into it if it comes so far."""
        assert self.trees is not None, "it gave the batch"
        batch = taken.batch
        if taken.swept:
            self.trees.put_into(effect.cut)
            return replace(read, again=True)
        if not read.reached:
            # What was not whole before, or changed since then, is not whole at an instant in between.
            lacking = {*batch.lacking, *batch.touched, *self._lacking_trees}
            return replace(
                read, lacking_trees=_in_order(effect.lacking_trees, lacking), waits=True, refused=""
            )
        refused = why_refused(
            effect.asked, taken.until_ns, is_whole=not batch.lacking, more=batch.more, swept=effect.swept
        )
        self.trees.put_into(effect.cut)
        lacking_trees = _in_order(effect.lacking_trees, {*batch.lacking})
        again = bool(batch.lacking) and bool(batch.number) and not batch.more
        return replace(read, lacking_trees=lacking_trees, again=again, sweep=batch.more, refused=refused)

    def _skewed_records(self, cut: int, batch: Batch) -> Iterator[Record]:
        if batch.skewed or batch.instants:
            yield skewed(self._facts.epoch, cut, batch.skewed, batch.skewed_more, batch.instants)

    def _contents(self, chunks: Iterable[Chunk], batch: Batch | None) -> Iterator[Content]:
        for chunk in chunks:
            yield Content(self._sources[chunk.source].space, *chunk[1:])
        if batch is not None:
            for extent in batch.extents() if self.images is None else self.images.sent_of(batch):
                yield Content(extent.space, extent.offset, extent.length, extent.kind, extent.data, 0, 0)

    def _read_journal(self, effect: ReadCut) -> tuple[Position, bool, int, Iterator[Chunk]]:
        """Position, whether it is the one asked for, the time of the cut, and what is in it."""
        records = self._journal.records(effect.from_position, effect.to_position)
        batch = take_batch(records, bytes_max=CUT_BYTES_MAX - (TREES_BYTES_MAX if self.trees else 0))
        position, taken_ns = effect.to_position, effect.taken_ns
        if not batch.reached:
            # What comes next was written later, but perhaps long before the cut was asked for.
            position, taken_ns = batch.records[-1].end, batch.records[-1].time_ns
        kept = (extent for extent in coalesce(batch.records) if not self._sources[extent.source].removed)
        return position, batch.reached, taken_ns, chunks_of(kept, self._journal)

    def _space_records(self) -> Iterator[Record]:
        for source in self._sources:
            yield volume_record(source, BLOCK_BYTES)
        if self.images is not None:
            yield from self.images.space_records(BLOCK_BYTES)
        for tree in self._announced:
            yield tree_gone(tree.tree) if tree.removed else tree_added(tree.tree, tree.name, tree.rules)

    def _marker_records(self, asked: Sequence[Asked]) -> Iterator[Record]:
        for one in asked:
            if one.name is not None:
                kind = "application" if one.application else "bookmark"
                value = {**one.more, "kind": kind, "note": one.note, "time_ns": self._clock.wall_ns()}
                yield make_record("marker", one.name.encode(), value)

    # --- sealing -----------------------------------------------------------------------------

    def seal(self, effect: SealSegment) -> tuple[SegmentSealed, SealedObject]:
        """Seal as much of the cut as one segment holds. Errors as in `read`."""
        cut = self._cut
        segment, cut.begun = cut.begun or self._segment(), None
        while cut.record is not None and segment.builder.add_record(cut.record):
            cut.record = next(cut.records, None)
        if cut.record is None:
            self._fill(segment)
        complete = cut.left is None and cut.record is None
        if cut.left is not None:
            # While this one is finished here, the packing threads have something to do.
            cut.begun = self._segment()
            self._fill(cut.begun, pending_frames_max=PENDING_FRAMES_MAX)
        built = segment.builder.finish(self._segment_facts(effect, complete, segment.times))
        self._remember(ObjectKind.SEGMENT, effect.seq, built)
        return SegmentSealed(effect.seq, built.digest, len(built.data), complete), built

    def _segment(self) -> _Segment:
        builder = SegmentBuilder(self._keys, self._entropy(16), self._compressor, self._start_packing)
        return _Segment(builder)

    def _fill(self, segment: _Segment, pending_frames_max: int | None = None) -> None:
        """Add chunks until the segment is full, so many frames are being packed, or the cut is at its end."""
        cut = self._cut
        chunk = cut.left if cut.left is not None else next(cut.chunks, None)
        while chunk is not None and segment.builder.pending_frames != pending_frames_max:
            taken = self._add(segment.builder, chunk)
            if taken:
                segment.times += (time_ns for time_ns in (chunk.first_ns, chunk.last_ns) if time_ns)
            if taken < chunk.length:
                chunk = _rest(chunk, taken)
                break
            chunk = next(cut.chunks, None)
        cut.left = chunk

    def _add(self, builder: SegmentBuilder, chunk: Content) -> int:
        if chunk.kind is ExtentKind.DATA:
            assert chunk.data is not None
            return builder.add_data(chunk.space, chunk.offset, chunk.data)
        return builder.add_void(chunk.space, chunk.offset, chunk.length, chunk.kind)

    def _segment_facts(self, effect: SealSegment, complete: bool, times: Sequence[int]) -> SegmentFacts:
        return SegmentFacts(
            epoch=self._facts.epoch,
            seq=effect.seq,
            cut=effect.cut,
            complete=complete,
            base=self._facts.base,
            end=self._facts.end,
            not_whole=(
                *(self._sources[source].space for source in effect.lacking),
                *effect.lacking_trees,
            ),
            journal_generation=effect.position.generation,
            journal_offset=effect.position.offset,
            cut_time_ns=self._cut.taken_ns,
            first_write_ns=min(times, default=0),
            last_write_ns=max(times, default=0),
            previous_digest=effect.previous_digest,
            site=self._facts.site,
            software=self._facts.software,
            marker=self._cut.marker,
        )

    # --- catalogs ----------------------------------------------------------------------------

    def catalog(self, effect: WriteCatalog) -> SealedObject | None:
        """Bundle the heads of these segments; None where they were forgotten, or are too many."""
        entries = [entry for entry in self._entries if effect.first_seq <= entry.seq <= effect.last_seq]
        if effect.level == len(CATALOG_SEGMENTS) - 1:
            self._forget(effect.last_seq)
        if len(entries) != effect.last_seq - effect.first_seq + 1:
            return None
        facts = CatalogFacts(
            self._facts.epoch, effect.level, effect.number, self._facts.site, self._facts.software
        )
        try:
            return build_catalog(facts, entries, self._keys, self._entropy(16), self._compressor)
        except LimitExceeded:
            return None

    def _remember(self, kind: ObjectKind, seq: int, built: SealedObject) -> None:
        entry = Entry(kind, self._facts.epoch, seq, len(built.data), built.digest, built.head)
        self._entries.append(entry)
        self._entries_bytes += len(entry.head)
        while self._entries_bytes > HEADS_BYTES_MAX or len(self._entries) > ENTRIES_MAX:
            self._entries_bytes -= len(self._entries.popleft().head)

    def _forget(self, last_seq: int) -> None:
        """They are in their widest catalog, and narrower ones came before."""
        while self._entries and self._entries[0].seq <= last_seq:
            self._entries_bytes -= len(self._entries.popleft().head)


def _in_order(trees: Sequence[bytes], wanted: Collection[bytes]) -> tuple[bytes, ...]:
    return tuple(tree for tree in trees if tree in wanted)


def _rest(chunk: Content, taken: int) -> Content:
    return chunk._replace(
        offset=chunk.offset + taken,
        length=chunk.length - taken,
        data=None if chunk.data is None else chunk.data[taken:],
    )


def why_refused(asked: Sequence[Asked], taken_ns: int, *, is_whole: bool, more: bool, swept: bool) -> str:
    """Why the markers among these cannot name a cut with what was taken; "" where they do, or may do later.

    Args:
        asked: for this cut.
        taken_ns: when it was taken, by the boot-time clock.
        is_whole: all trees are.
        more: the watcher has more, which a sweep would read.
        swept: it did one just before. Whoever is held still until later waits for as many as it takes: what
            a hook wrote into a tree, a dump of a database for one, is not much to the one who waits.
    """
    markers = [one for one in asked if one.name is not None]
    if not markers:
        return ""
    held = all(one.until_ns for one in markers)
    too_late = any(one.until_ns and taken_ns >= one.until_ns for one in markers)
    if more and not too_late and (held or not swept):
        return ""
    return NOT_WHOLE if not is_whole else TOO_LATE if too_late else ""
