"""Whole containers for tests, small and exact: epochs, cuts, side branches, zombies, a model of every image.

    site = Site(store, seed=1)
    disk = site.add_volume("disk", 1 << 20)
    site.begin_epoch()
    first = site.cut([write(disk, 0, b"hello")])
    assert site.images[first][disk][:5] == b"hello"

Everything is made by the builders of `cdp_container.format`; what the agent does between a guest's write and
them (journal, cadence, proof) does not belong here.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from cdp_container.format.assemble import SealedObject
from cdp_container.format.catalog import CatalogFacts, build_catalog
from cdp_container.format.codec import Compressor
from cdp_container.format.domain import (
    DomainConfig,
    Encryption,
    EpochRecord,
    ObjectName,
    Owner,
    OwnerState,
    Source,
    build_config,
    build_epoch_record,
    build_owner,
    config_digest,
)
from cdp_container.format.frames import StoredFrame
from cdp_container.format.head import Head, object_digest, open_head
from cdp_container.format.index import Entry, Order, Record, Run
from cdp_container.format.keyblock import ScryptCost, build_key_block, wrap_for_passphrase
from cdp_container.format.keys import OWNER_KEY, config_key, epoch_key, parse_key, segment_key
from cdp_container.format.layout import RunKind
from cdp_container.format.ledger import LedgerFacts, build_ledger
from cdp_container.format.pack import CopiedFrame, PackContent, PackExtent, PackFacts, PackRecord, build_pack
from cdp_container.format.packed import packed_epoch
from cdp_container.format.place import NOWHERE, Place
from cdp_container.format.preamble import NO_DIGEST, Preamble, parse_preamble
from cdp_container.format.records import make_record
from cdp_container.format.seal import ReaderKeys, WriterKeys, derive_index_key, public_of, writer_keys
from cdp_container.format.segment import NewExtent, SegmentFacts, build_segment
from cdp_container.store.api import Store
from tests.writes import Write as Write
from tests.writes import coalesced
from tests.writes import discard as discard
from tests.writes import write as write
from tests.writes import zero as zero

PASSPHRASE = "correct horse battery staple"
CHEAP = ScryptCost(n=2, r=1, p=1)
FIRST_CUT_NS = 1_700_000_000_000_000_000
CUT_NS = 1_000_000_000

Image = dict[bytes, bytes]
"""Content by space id."""


@dataclass
class _Line:
    """Where the writer stands: the last segment and the content after it."""

    place: Place = NOWHERE
    digest: bytes = NO_DIGEST
    image: dict[bytes, bytearray] = field(default_factory=dict)


class Site:
    """One writer that makes a container object by object.

    Attributes:
        images: what every volume holds at each complete cut.
        objects: the segments in the order in which they were made.
        owner: as last written.
        name_of_site: who begins the next epochs.
        journal: the position in its journal (generation, offset) that the next cuts name; None for any.
    """

    def __init__(self, store: Store, seed: int = 0, encrypted: bool = True, name: str = "shop") -> None:
        self.store = store
        self.rng = random.Random(seed)
        self.domain = self.rng.randbytes(16)
        self.private_key = self.rng.randbytes(32)
        self.encrypted = encrypted
        self.key_block = self._key_block() if encrypted else b""
        self.images: dict[Place, Image] = {}
        self.objects: list[SealedObject] = []
        self.name_of_site = "site-a"
        self.journal: tuple[int, int] | None = None
        self._name = name
        self._sources: list[Source] = []
        self._pending: list[Record] = []
        self._line = _Line()
        self._newest = NOWHERE
        self._lines: dict[Place, _Line] = {NOWHERE: _Line()}
        self._record: EpochRecord | None = None
        self._keys = WriterKeys(self.domain)
        self._seq = self._cut = 0
        self._tag: str | None = None
        self._packs: list[Run] = []
        self.owner = self._new_owner()

    # --- the domain ----------------------------------------------------------------------------

    def add_volume(self, name: str, size_bytes: int) -> bytes:
        """A volume from the next cut on, full of zeros; gives its space id."""
        space = self.rng.randbytes(16)
        self.add_again(space, name, size_bytes)
        self._sources.append(Source("volume", name, space, size_bytes))
        return space

    def add_again(self, space: bytes, name: str, size_bytes: int) -> None:
        """A volume with the id of one that was removed."""
        value = {"kind": "volume", "name": name, "size_bytes": size_bytes, "block_bytes": 512}
        self._pending.append(make_record("space+", space, value))
        self._line.image[space] = bytearray(size_bytes)

    def resize(self, space: bytes, size_bytes: int) -> None:
        """Resize a volume with the next cut."""
        self._pending.append(make_record("space=", space, {"size_bytes": size_bytes}))
        old = self._line.image[space]
        self._line.image[space] = old[:size_bytes] + bytearray(max(0, size_bytes - len(old)))

    def remove(self, space: bytes) -> None:
        """Remove a volume with the next cut."""
        self._pending.append(make_record("space-", space, {}))
        del self._line.image[space]

    def say(self, record: Record) -> None:
        """A record of the next cut, as it is."""
        self._pending.append(record)

    def hold_space(self, space: bytes, size_bytes: int) -> None:
        """Content of so many bytes without a `space+`, as files have: what was there, then zeros."""
        old = self._line.image.get(space, bytearray())
        self._line.image[space] = old[:size_bytes] + bytearray(max(0, size_bytes - len(old)))

    @property
    def next_cut(self) -> int:
        """The number that the next cut will have."""
        return self._cut + 1

    def reader_keys(self) -> ReaderKeys:
        """What somebody with the passphrase holds."""
        return ReaderKeys.of_private_key(self.private_key, self.domain) if self.encrypted else ReaderKeys()

    # --- epochs --------------------------------------------------------------------------------

    def begin_epoch(self, base: Place | None = None, skip: int = 0) -> int:
        """A new run takes over at `base` (the newest cut if None); gives its epoch.

        `skip` leaves out epoch numbers, as a forced takeover in another zone does.
        """
        end = self._newest
        self._pending = [record for record in self._pending if record.name == "space+"]
        new = {space: data for space, data in self._line.image.items() if space in self._unsaid()}
        self._line = self._copy(self._lines[end if base is None else base])
        self._line.image |= new
        epoch = self.owner.epoch + 1 + skip
        self._record = EpochRecord(
            domain=self.domain,
            epoch=epoch,
            previous=self.owner.epoch,
            site=self.name_of_site,
            instance=self.rng.randbytes(16),
            began_ns=FIRST_CUT_NS,
            base=self._line.place,
            end=end,
        )
        self.store.put_new(epoch_key(epoch), build_epoch_record(self._record))
        self._newest = self._line.place
        self._seq = self._cut = 0
        self._keys = self._epoch_keys()
        self.write_owner(epoch=epoch, previous=self.owner.epoch, protected=max(self.owner.protected, end))
        return epoch

    def write_owner(self, **changes: object) -> None:
        """Replace `domain/owner` with these members changed."""
        config = build_config(self._config())
        digest = config_digest(config)
        if digest != self.owner.config:
            self.store.put_new(config_key(digest), config)
        self.owner = replace(
            self.owner,
            version=self.owner.version + 1,
            nonce=self.rng.randbytes(16),
            config=digest,
            **changes,  # type: ignore[arg-type] # the tests name them
        )
        data = build_owner(self.owner)
        if self._tag is None:
            self._tag = self.store.put_new(OWNER_KEY, data)
        else:
            self._tag = self.store.put_if(OWNER_KEY, data, self._tag)

    def protect(self, place: Place) -> None:
        """Say that a cut is proven."""
        self.write_owner(protected=place)

    # --- cuts ----------------------------------------------------------------------------------

    def cut(
        self,
        writes: Sequence[Write] = (),
        marker: str | None = None,
        not_whole: Sequence[bytes] = (),
        segments: int = 1,
        complete: bool = True,
        put: bool = True,
    ) -> Place:
        """Take a cut of these writes, in their order; gives its place.

        Args:
            writes: later ones win where they overlap.
            marker: the name of the cut.
            not_whole: spaces that are not whole at it.
            segments: how many segments carry it.
            complete: False leaves the last segment's flag out, as a crash between two puts does.
            put: False builds the segments (in `objects`) without putting them.
        """
        self._cut += 1
        for change in writes:
            content = self._line.image[change.space]
            content[change.offset : change.offset + change.length] = change.data or bytes(change.length)
        extents = list(coalesced(writes))
        records, self._pending = self._pending, []
        if marker is not None:
            value = {"kind": "bookmark", "note": f"note of {marker}", "time_ns": FIRST_CUT_NS}
            records = [*records, make_record("marker", marker.encode(), value)]
        share = -(-len(extents) // segments) if extents else 0
        for number in range(segments):
            mine = extents[number * share : (number + 1) * share]
            last = number == segments - 1
            self._segment(mine, records if number == 0 else [], not_whole, marker, complete and last, put)
        if complete:
            self.images[self._line.place] = {space: bytes(data) for space, data in self._line.image.items()}
            self._lines[self._line.place] = self._copy(self._line)
            self._newest = self._line.place
        return self._line.place

    def zombie(self, writes: Sequence[Write]) -> Place:
        """A late cut of an epoch that is about to end: complete, sound, and beyond the end.

        Call it between the end of an epoch and `begin_epoch`: what it writes is forgotten by the model.
        """
        kept, seq, cut, newest = self._copy(self._line), self._seq, self._cut, self._newest
        place = self.cut(writes)
        del self.images[place], self._lines[place]
        self._line, self._seq, self._cut, self._newest = kept, seq, cut, newest
        return place

    def _segment(
        self,
        extents: Sequence[NewExtent],
        records: Iterable[Record],
        not_whole: Sequence[bytes],
        marker: str | None,
        complete: bool,
        put: bool,
    ) -> None:
        assert self._record is not None, "begin_epoch comes first"
        self._seq += 1
        facts = SegmentFacts(
            epoch=self._record.epoch,
            seq=self._seq,
            cut=self._cut,
            complete=complete,
            base=self._record.base,
            end=self._record.end,
            not_whole=tuple(not_whole),
            journal_generation=7 if self.journal is None else self.journal[0],
            journal_offset=len(self.objects) if self.journal is None else self.journal[1],
            cut_time_ns=FIRST_CUT_NS + len(self.objects) * CUT_NS,
            previous_digest=self._line.digest,
            site="site-a",
            software="tests",
            marker=marker,
        )
        built = build_segment(facts, extents, records, self._keys, self.rng.randbytes(16))
        self.objects.append(built)
        if put:
            self.store.put_new(built.key, built.data)
        self._line.place = Place(facts.epoch, facts.cut, facts.seq)
        self._line.digest = built.digest

    # --- catalogs and collection ---------------------------------------------------------------

    def catalog(self, keys: Sequence[str], level: int = 0, number: int = 1) -> SealedObject:
        """Put a catalog of stored segments."""
        entries = []
        for key in keys:
            data = self.store.get(key).data
            preamble = parse_preamble(data, key)
            entries.append(
                Entry(preamble.kind, preamble.epoch, preamble.seq, len(data), object_digest(data),
                      data[: preamble.head_length])
            )  # fmt: skip
        facts = CatalogFacts(self.owner.epoch, level, number)
        built = build_catalog(facts, entries, self._keys, self.rng.randbytes(16), Compressor())
        self.store.put_new(built.key, built.data)
        return built

    def collect(
        self, epoch: int, first: int, last: int, number: int = 1, epochs: Sequence[EpochRecord] = ()
    ) -> SealedObject:
        """Replace segments by one pack that copies their frames, and say so in a ledger; gives the pack.

        `epochs`: records of epochs that the pack is to remember.
        """
        pack = self.pack(epoch, first, last, number, epochs=epochs)
        self._packs.append(in_force(pack))
        self.write_ledger([self.run(epoch, first, last), *self._packs], number)
        for seq in range(first, last + 1):
            self.store.delete(segment_key(epoch, seq))
        return pack

    def pack(
        self,
        epoch: int,
        first: int,
        last: int,
        number: int = 1,
        cut_records: bool = True,
        epochs: Sequence[EpochRecord] = (),
    ) -> SealedObject:
        """Put a pack of stored segments; without `cut_records` it does not tell of their cuts."""
        frames: list[CopiedFrame | bytes] = []
        extents, records = [], []
        for seq in range(first, last + 1):
            head = self._head(segment_key(epoch, seq))
            order = Order(epoch, seq, head.preamble.cut)
            offset = len(frames)
            frames.extend(self._copied(head))
            for extent in head.index.iter_extents():
                moved = None if extent.frame is None else extent.frame + offset
                extents.append(PackExtent(order, replace(extent, frame=moved)))
            records += [PackRecord(order, record) for record in head.index.iter_records()]
            if head.preamble.complete and cut_records:
                records.append(PackRecord(order, _cut_record(head.preamble)))
            if seq == 1:
                records += [PackRecord(order, packed_epoch(record)) for record in epochs]
        content = PackContent(frames, extents, records)
        facts = PackFacts(self.owner.epoch, number)
        pack = build_pack(facts, content, self._epoch_keys(), self.rng.randbytes(16), Compressor())
        self.store.put_new(pack.key, pack.data)
        return pack

    def run(self, epoch: int, first: int, last: int) -> Run:
        """What a ledger says of these collected segments, which must still be stored."""
        digest = object_digest(self.store.get(segment_key(epoch, last)).data)
        return Run(RunKind.SEGMENT_COLLECTED, epoch, first, last, digest)

    def write_ledger(self, runs: Iterable[Run], number: int = 1) -> None:
        """Put a ledger and let the owner name it."""
        facts = LedgerFacts(self.owner.epoch, number, self.owner.ledger)
        ledger = build_ledger(facts, runs, self._keys, self.rng.randbytes(16), Compressor())
        self.store.put_new(ledger.key, ledger.data)
        self.write_owner(ledger=ObjectName(ledger.key, ledger.digest))

    def _head(self, key: str) -> Head:
        return open_head(self.store.get(key).data, key, self.domain, self.reader_keys())

    def _copied(self, head: Head) -> Iterator[CopiedFrame]:
        data = self.store.get(head.key).data
        wrapped = head.preamble.wrapped_content_key if self.encrypted else None
        for number, frame in enumerate(head.index.iter_frames()):
            start, end = head.frame_range(number)
            stored = StoredFrame(data[start:end], frame.raw_length, frame.crc32, frame.codec)
            yield CopiedFrame(stored, head.preamble.object_id, number, wrapped)

    # --- inside --------------------------------------------------------------------------------

    def _key_block(self) -> bytes:
        wrap = wrap_for_passphrase(
            self.private_key, PASSPHRASE, self.domain, self.rng.randbytes(16), self.rng.randbytes(12), CHEAP
        )
        return build_key_block(public_of(self.private_key), [wrap])

    def _epoch_keys(self) -> WriterKeys:
        if not self.encrypted:
            return WriterKeys(self.domain)
        return writer_keys(
            self.domain,
            public_of(self.private_key),
            self.key_block,
            derive_index_key(self.private_key, self.domain),
            self.rng.randbytes(32),
            self.rng.randbytes(32),
        )

    def _config(self) -> DomainConfig:
        return DomainConfig(
            domain=self.domain,
            name=self._name,
            encryption=Encryption.AES_256_GCM if self.encrypted else Encryption.NONE,
            key_block=self.key_block,
            sources=tuple(self._sources),
        )

    def _new_owner(self) -> Owner:
        return Owner(
            domain=self.domain,
            name=self._name,
            version=0,
            nonce=bytes(16),
            site="site-a",
            instance=self.rng.randbytes(16),
            epoch=0,
            state=OwnerState.ACTIVE,
            previous=0,
            since_ns=FIRST_CUT_NS,
            renewals=0,
            lease_seconds=30,
            config=bytes(32),
        )

    def _unsaid(self) -> set[bytes]:
        """Spaces that no segment has named yet."""
        return {record.key for record in self._pending if record.name == "space+"}

    @staticmethod
    def _copy(line: _Line) -> _Line:
        return _Line(line.place, line.digest, {space: bytearray(data) for space, data in line.image.items()})


def in_force(pack: SealedObject) -> Run:
    """What a ledger says of a pack that is in force."""
    parsed = parse_key(pack.key)
    assert parsed is not None
    return Run(RunKind.PACK_IN_FORCE, parsed.epoch, parsed.number, parsed.number, pack.digest)


def _cut_record(preamble: Preamble) -> Record:
    """What a pack remembers of a collected cut."""
    value = {
        "epoch": preamble.epoch,
        "cut": preamble.cut,
        "seq": preamble.seq,
        "complete": preamble.complete,
        "not_whole": [space.hex() for space in preamble.not_whole],
        "cut_time_ns": preamble.cut_time_ns,
        "stored_ns": preamble.cut_time_ns,
    }
    return make_record("cut", struct.pack("<QQ", preamble.epoch, preamble.cut), value)


def busy_container(store: Store, seed: int = 0, encrypted: bool = True) -> Site:
    """A container with a past: epochs, a side branch, a zombie, resizes, discards, markers, several volumes.

    `images` tells what every cut must restore to; the main line ends at the last cut that was made.
    """
    site = Site(store, seed, encrypted)
    rng = site.rng
    disk, log = site.add_volume("disk", 600_000), site.add_volume("log", 100_000)
    site.begin_epoch()
    site.cut(
        [write(disk, 0, rng.randbytes(300_000)), write(log, 512, b"log" * 1000)],
        marker="installed",
        segments=3,
    )
    site.cut([write(disk, 4096, rng.randbytes(50_000)), zero(disk, 200_000, 4096)], not_whole=[log])
    fork = site.cut([discard(disk, 8192, 100_000), write(disk, 10_000, rng.randbytes(100))], marker="before")
    site.cut([write(disk, 0, b"only on the side branch" * 500)])
    site.cut([write(log, 0, b"never complete")], complete=False)
    site.begin_epoch(base=fork)
    spare = site.add_volume("spare", 50_000)
    site.cut([write(spare, 0, rng.randbytes(50_000)), write(disk, 100_000, rng.randbytes(9_000))])
    site.resize(disk, 150_000)
    site.cut([write(disk, 140_000, rng.randbytes(1_000))], segments=2)
    site.resize(disk, 700_000)
    site.cut([write(disk, 690_000, rng.randbytes(10_000))], marker="grown")
    site.zombie([write(disk, 0, b"zombie" * 1000)])
    site.begin_epoch(skip=3)
    site.remove(spare)
    last = site.cut([write(disk, 12_345, rng.randbytes(70_000)), write(log, 99_000, b"x" * 1000)])
    site.protect(last)
    site.cut([write(log, 0, rng.randbytes(3_000))], marker="grown")
    return site
