"""Objects of every kind from fixed inputs, for the tests of the format and for the golden objects."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from cdp_container.format import domain, gc, keyblock
from cdp_container.format.assemble import SealedObject
from cdp_container.format.catalog import CatalogFacts, build_catalog, entry_of
from cdp_container.format.codec import Compressor
from cdp_container.format.frames import StoredFrame
from cdp_container.format.head import open_head
from cdp_container.format.holds import Hold, Holds, build_holds
from cdp_container.format.index import Entry, Extent, Order, Record, Run
from cdp_container.format.keys import (
    config_key,
    epoch_key,
    gc_final_key,
    gc_key,
    ledger_key,
    pack_key,
    request_key,
    segment_key,
)
from cdp_container.format.layout import Codec, ExtentKind, ObjectKind, RunKind
from cdp_container.format.ledger import LedgerFacts, build_ledger
from cdp_container.format.pack import CopiedFrame, PackContent, PackExtent, PackFacts, PackRecord, build_pack
from cdp_container.format.place import Place
from cdp_container.format.preamble import parse_preamble
from cdp_container.format.records import make_record
from cdp_container.format.request import Answer, OwnershipRequest, build_request
from cdp_container.format.seal import (
    NO_KEYS,
    ReaderKeys,
    WriterKeys,
    derive_index_key,
    public_of,
    writer_keys,
)
from cdp_container.format.segment import NewExtent, SegmentBuilder, SegmentFacts
from cdp_container.format.sums import block_sums

PASSPHRASE = "correct horse battery staple"
CHEAP = keyblock.ScryptCost(n=2, r=8, p=1)


def fixed(label: str, length: int) -> bytes:
    """Bytes that look random and depend on the label alone."""
    return hashlib.shake_128(label.encode()).digest(length)


DOMAIN = fixed("domain", 16)
DISK, OTHER_DISK = fixed("disk", 16), fixed("other disk", 16)
PRIVATE_KEY = fixed("private key", 32)
PUBLIC_KEY = public_of(PRIVATE_KEY)
RECIPIENT_PRIVATE = fixed("recipient", 32)
BASE = Place(2, 7, 19)
END = Place(2, 8, 23)


def key_block() -> bytes:
    wraps = (
        keyblock.wrap_for_passphrase(
            PRIVATE_KEY, PASSPHRASE, DOMAIN, fixed("salt", 16), fixed("nonce", 12), CHEAP
        ),
        keyblock.wrap_for_recipient(
            PRIVATE_KEY, public_of(RECIPIENT_PRIVATE), fixed("ephemeral recipient", 32), DOMAIN
        ),
    )
    return keyblock.build_key_block(PUBLIC_KEY, wraps)


def writer(encrypted: bool, epoch: str = "3") -> WriterKeys:
    """The keys of one epoch's writer."""
    if not encrypted:
        return WriterKeys(DOMAIN)
    return writer_keys(
        DOMAIN,
        PUBLIC_KEY,
        key_block(),
        derive_index_key(PRIVATE_KEY, DOMAIN),
        fixed(f"content key {epoch}", 32),
        fixed(f"ephemeral {epoch}", 32),
    )


def reader(encrypted: bool) -> ReaderKeys:
    return ReaderKeys.of_private_key(PRIVATE_KEY, DOMAIN) if encrypted else NO_KEYS


def facts() -> SegmentFacts:
    return SegmentFacts(
        epoch=3,
        seq=1,
        cut=1,
        complete=True,
        base=BASE,
        end=END,
        not_whole=(OTHER_DISK,),
        journal_generation=0x1122334455667788,
        journal_offset=4096,
        cut_time_ns=1_700_000_000_123_456_789,
        first_write_ns=1_700_000_000_000_000_000,
        last_write_ns=1_700_000_000_100_000_000,
        previous_digest=hashlib.sha256(b"previous").digest(),
        site="site-a",
        software="0.1.0",
        marker="before upgrade",
    )


def records() -> list[Record]:
    value = {"kind": "volume", "name": "disk", "size_bytes": 1 << 30, "block_bytes": 512}
    return [
        make_record("space+", DISK, value),
        make_record("space=", DISK, {"size_bytes": 1 << 31}),
        make_record("marker", b"before upgrade", {"kind": "bookmark", "note": "", "time_ns": 5}),
    ]


def extents() -> list[NewExtent]:
    """Aligned and unaligned data, zeros and a discard, on two disks."""
    text = b"All that a recovery site needs is in the container. " * 200
    return [
        NewExtent(DISK, 0, 4096, ExtentKind.DATA, fixed("aligned", 4096)),
        NewExtent(DISK, 4096, 1 << 20, ExtentKind.ZERO),
        NewExtent(DISK, (1 << 21) + 512, len(text), ExtentKind.DATA, text),
        NewExtent(OTHER_DISK, 8192, 512, ExtentKind.DATA, fixed("small", 512)),
        NewExtent(OTHER_DISK, 1 << 30, 1 << 31, ExtentKind.DISCARD),
    ]


def segment(encrypted: bool, codec: Codec = Codec.ZSTD) -> SealedObject:
    builder = SegmentBuilder(writer(encrypted), fixed("segment id", 16), Compressor(codec))
    assert all(builder.add_record(record) for record in records())
    assert all(builder.add_extent(extent) == extent.length for extent in extents())
    return builder.finish(facts())


def pack(encrypted: bool, codec: Codec = Codec.ZSTD) -> SealedObject:
    """A pack of a frame that was copied from `segment` as it is, and one of its own."""
    carried = segment(encrypted, codec)
    head = open_head(carried.data, carried.key, DOMAIN, reader(encrypted))
    frame = head.index.frame(0)
    start, end = head.frame_range(0)
    copied = CopiedFrame(
        StoredFrame(carried.data[start:end], frame.raw_length, frame.crc32, frame.codec),
        head.preamble.object_id,
        0,
        head.preamble.wrapped_content_key if encrypted else None,
    )
    own = fixed("own frame", 8192)
    first, second = Order(3, 1, 1), Order(3, 2, 1)
    content = PackContent(
        frames=[copied, own],
        extents=[
            PackExtent(second, Extent(DISK, 0, 8192, ExtentKind.DATA, 1, 0, None, block_sums(0, own))),
            PackExtent(second, Extent(OTHER_DISK, 0, 4096, ExtentKind.ZERO)),
            *(PackExtent(first, extent) for extent in head.index.iter_extents()),
        ],
        records=[
            PackRecord(second, make_record("space-", OTHER_DISK, {})),
            *(PackRecord(first, record) for record in records()),
        ],
    )
    place = PackFacts(
        5, 2, BASE, END, 1_700_000_000_000_000_000, 1_700_000_000_100_000_000, "site-a", "0.1.0"
    )
    return build_pack(place, content, writer(encrypted, "pack"), fixed("pack id", 16), Compressor(codec))


def epoch_record() -> bytes:
    return domain.build_epoch_record(
        domain.EpochRecord(
            domain=DOMAIN,
            epoch=3,
            previous=2,
            site="site-a",
            instance=fixed("instance", 16),
            began_ns=1_699_999_999_000_000_000,
            base=BASE,
            end=END,
            operator="somebody",
            reason="start",
            software="0.1.0",
        )
    )


def catalog(encrypted: bool, codec: Codec = Codec.ZSTD) -> SealedObject:
    bundled = [segment(encrypted, codec), pack(encrypted, codec)]
    entries = [entry_of(one, parse_preamble(one.data, one.key)) for one in bundled]
    record = epoch_record()
    digest = hashlib.sha256(record).digest()
    entries.append(Entry(ObjectKind.EPOCH_RECORD, 3, 0, len(record), digest, record))
    place = CatalogFacts(5, 0, 16, "site-a", "0.1.0")
    keys = writer(encrypted, "5")
    return build_catalog(place, entries, keys, fixed("catalog id", 16), Compressor(codec))


def ledger(encrypted: bool, codec: Codec = Codec.ZSTD) -> SealedObject:
    runs = [
        Run(RunKind.SEGMENT_COLLECTED, 3, 1, 40, fixed("last of 40", 32)),
        Run(RunKind.SEGMENT_COLLECTED, 3, 44, 44, fixed("last of 44", 32)),
        Run(RunKind.PACK_COLLECTED, 4, 1, 2, fixed("last of 2", 32)),
        # Without compression, as that one has the same digest for ever.
        Run(RunKind.PACK_IN_FORCE, 5, 2, 2, pack(encrypted, Codec.NONE).digest),
    ]
    before = domain.ObjectName("packs/0000000004/ledger-000000000001", fixed("ledger before", 32))
    place = LedgerFacts(5, 2, before, "site-a", "0.1.0")
    return build_ledger(place, runs, writer(encrypted, "5"), fixed("ledger id", 16), Compressor(codec))


BUILDERS = {"segment": segment, "pack": pack, "catalog": catalog, "ledger": ledger}


def config(encrypted: bool = True) -> domain.DomainConfig:
    return domain.DomainConfig(
        domain=DOMAIN,
        name="shop",
        encryption=domain.Encryption.AES_256_GCM if encrypted else domain.Encryption.NONE,
        key_block=key_block() if encrypted else b"",
        endpoints=("https://s3.example.org",),
        retention={"every_cut_hours": 24},
        sources=(domain.Source("volume", "disk", DISK, 1 << 31),),
    )


def owner() -> domain.Owner:
    in_force = ledger(True, Codec.NONE)
    return domain.Owner(
        domain=DOMAIN,
        name="shop",
        version=12,
        nonce=fixed("owner nonce", 16),
        site="site-a",
        instance=fixed("instance", 16),
        epoch=3,
        state=domain.OwnerState.ACTIVE,
        previous=2,
        since_ns=1_699_999_999_000_000_000,
        renewals=4,
        lease_seconds=30,
        config=domain.config_digest(domain.build_config(config())),
        protected=Place(3, 1, 1),
        operator="somebody",
        reason="start",
        ledger=domain.ObjectName(in_force.key, in_force.digest),
    )


def holds() -> Holds:
    """A restore under way, and what an operator keeps."""
    ledger = domain.ObjectName(ledger_key(3, 2), fixed("held ledger", 32))
    read = Hold("site-b", "Sepp", "restore", Place(3, 1, 1), 2, 900, 1_700_000_000_000_000_000, None, ledger)
    kept = Hold("site-a", "Inge", "audit", None, 0, 0, 1_700_000_000_000_000_000, 1_800_000_000_000_000_000)
    by_id = {fixed("restore", 16).hex(): read, fixed("audit", 16).hex(): kept}
    return Holds(DOMAIN, 3, fixed("holds nonce", 16), by_id)


def request() -> OwnershipRequest:
    """A request that was granted."""
    answer = Answer(True, "hamburg", "Inge", "go ahead", 1_700_000_100_000_000_000)
    return OwnershipRequest(
        domain=DOMAIN,
        request_id=fixed("request", 8).hex(),
        site="munich",
        operator="Sepp",
        reason="maintenance in Hamburg",
        asked_ns=1_700_000_000_000_000_000,
        owner_site="hamburg",
        owner_epoch=3,
        answer=answer,
    )


def gc_plan() -> gc.Plan:
    """The plan that put the sample ledger in force."""
    in_force = ledger(True, Codec.NONE)
    written = pack(True, Codec.NONE)
    return gc.Plan(
        domain=DOMAIN,
        epoch=5,
        n=2,
        made_ns=1_700_000_000_000_000_000,
        site="site-a",
        before=domain.ObjectName("packs/0000000004/ledger-000000000001", fixed("ledger before", 32)),
        ledger=domain.ObjectName(in_force.key, in_force.digest),
        packs=(domain.ObjectName(written.key, written.digest),),
        victims=(segment_key(3, 1), segment_key(3, 2), pack_key(4, 1)),
        holds=(gc.SeenHold(fixed("hold", 16).hex(), Place(3, 1, 1)),),
        protected=Place(5, 3, 3),
    )


def gc_final() -> gc.FinalList:
    digest = gc.plan_digest(gc.build_plan(gc_plan()))
    kept = (gc.Kept(segment_key(3, 2), fixed("late hold", 16).hex()),)
    return gc.FinalList(DOMAIN, 5, 2, digest, "site-b", (segment_key(3, 1), pack_key(4, 1)), kept)


def domain_objects() -> dict[str, bytes]:
    """The objects under `domain/`, by key."""
    built = domain.build_config(config())
    return {
        "domain/owner": domain.build_owner(owner()),
        epoch_key(3): epoch_record(),
        config_key(domain.config_digest(built)): built,
        "domain/holds": build_holds(holds()),
        request_key(request().request_id): build_request(request()),
        gc_key(5, 2): gc.build_plan(gc_plan()),
        gc_final_key(5, 2): gc.build_final(gc_final()),
    }


def empty_segment(encrypted: bool, seq: int = 2) -> SealedObject:
    """The smallest segment: a cut at which nothing changed."""
    builder = SegmentBuilder(writer(encrypted), fixed(f"empty {seq}", 16), Compressor())
    return builder.finish(replace(facts(), seq=seq, not_whole=(), marker=None))


def name_of(key: str) -> str:
    """What an object under `domain/` is, in one word."""
    kind = key.split("/")[1]
    return "final" if kind == "gc" and "final-" in key else kind
