"""Building a catalog: the heads of many objects in one, so that a restore reads few objects for its metadata.

Reading one is `head.open_head` and `Index.iter_entries`. Which objects a catalog bundles, and whether they
are still there, is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cdp_container.format import layout
from cdp_container.format.assemble import SealedObject, assemble
from cdp_container.format.codec import Compressor
from cdp_container.format.index import Entry, build_index
from cdp_container.format.keys import catalog_key
from cdp_container.format.layout import ObjectKind
from cdp_container.format.preamble import Preamble
from cdp_container.format.seal import WriterKeys


@dataclass(frozen=True, slots=True)
class CatalogFacts:
    """The catalog's place (the writer's epoch, level, number), and who writes it."""

    epoch: int
    level: int
    number: int
    site: str = ""
    software: str = ""


def build_catalog(
    facts: CatalogFacts, entries: Iterable[Entry], keys: WriterKeys, object_id: bytes, compressor: Compressor
) -> SealedObject:
    """A catalog of these entries, in any order, each (epoch, seq, kind) once and at least one.

    Raises:
        LimitExceeded: they are too many; bundle fewer.
    """
    ordered = sorted(entries, key=lambda entry: (entry.epoch, entry.seq, entry.kind))
    assert ordered, "a catalog of nothing"
    rows = bytearray()
    heads = bytearray()
    for entry in ordered:
        rows += layout.ENTRY_ROW.struct.pack(
            entry.kind,
            bytes(2),
            len(entry.head),
            len(heads),
            entry.object_length,
            entry.epoch,
            entry.seq,
            entry.digest,
        )
        heads += entry.head
    numbered = [[entry.epoch, entry.seq] for entry in ordered if entry.seq] or [[0, 0]]
    header = {
        "site": facts.site,
        "software": facts.software,
        "level": facts.level,
        "first": numbered[0],
        "last": numbered[-1],
    }
    index_raw = build_index({"entries": rows, "heads": heads})
    heads.clear()  # 20 MiB of a wide catalog
    return assemble(
        catalog_key(facts.epoch, facts.level, facts.number),
        Preamble(ObjectKind.CATALOG, keys.domain, object_id, facts.epoch, facts.number),
        header,
        index_raw,
        (),
        keys,
        compressor,
    )


def entry_of(built: SealedObject, preamble: Preamble) -> Entry:
    """The entry of an object that was just built."""
    return Entry(preamble.kind, preamble.epoch, preamble.seq, len(built.data), built.digest, built.head)
