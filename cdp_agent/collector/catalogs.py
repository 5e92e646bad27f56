"""Catalogs that a pass bundles anew, without what is collected: readers get all heads from few objects.

Nobody needs a catalog: one that cannot be read is left out of the next. When catalogs are deleted does not
belong here (choose).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from cdp_container.domain.heads import BROKEN
from cdp_container.errors import NotFound
from cdp_container.format.assemble import SealedObject
from cdp_container.format.head import check_object, open_head
from cdp_container.format.index import Entry
from cdp_container.format.keys import CATALOG_PREFIX, LEVEL_MAX, KeyKind, parse_key
from cdp_container.format.layout import ObjectKind
from cdp_container.format.seal import ReaderKeys
from cdp_container.store.api import Found, Store

COLLECTED_LEVEL: Final = LEVEL_MAX
"""The level of what collection writes: readers look at the widest first."""
NARROW_MIN: Final = 64
"""Narrower catalogs that are worth bundling anew; a reader asks for each of them."""
WIDE_MAX: Final = 32
"""Catalogs of our own level that stay; where they are more, they are bundled anew, too."""
READ_MAX: Final = 4096
"""Catalogs that one pass reads."""
ENTRIES_MAX: Final = 4096
HEADS_BYTES_MAX: Final = 16 << 20
"""Of one catalog, and what of it is in memory at a time."""


def superseded_catalogs(found: Sequence[Found], is_old: Callable[[int], bool]) -> list[str]:
    """The catalogs to bundle anew; none where it is not worth it."""
    narrow: list[str] = []
    wide: list[str] = []
    for one in (one for one in found if one.key.startswith(CATALOG_PREFIX)):
        parsed = parse_key(one.key)
        if parsed is not None and parsed.kind is KeyKind.CATALOG and is_old(one.modified_ns):
            (wide if parsed.level == COLLECTED_LEVEL else narrow).append(one.key)
    keys = narrow if len(narrow) >= NARROW_MIN else []
    keys += wide if len(wide) > WIDE_MAX else []
    return sorted(keys)[:READ_MAX]


@dataclass(frozen=True, slots=True)
class Bundling:
    """What catalogs are read and written with.

    Attributes:
        stays: whether a segment (epoch, seq) is to be in a catalog.
        build: makes one of some entries.
    """

    store: Store
    domain: bytes
    keys: ReaderKeys
    stays: Callable[[int, int], bool]
    build: Callable[[list[Entry]], SealedObject]


def bundle_anew(bundling: Bundling, catalogs: Sequence[str]) -> Iterator[SealedObject]:
    """Catalogs of all segments that stay and that these bundle, each once."""
    seen: set[tuple[int, int]] = set()
    entries: list[Entry] = []
    heads_bytes = 0
    for key in catalogs:
        for entry in _entries(bundling, key):
            place = entry.epoch, entry.seq
            if entry.kind is not ObjectKind.SEGMENT or place in seen or not bundling.stays(*place):
                continue
            seen.add(place)
            entries.append(entry)
            heads_bytes += len(entry.head)
            if len(entries) >= ENTRIES_MAX or heads_bytes >= HEADS_BYTES_MAX:
                yield bundling.build(entries)
                entries, heads_bytes = [], 0
    if entries:
        yield bundling.build(entries)


def _entries(bundling: Bundling, key: str) -> Iterator[Entry]:
    try:
        data = bundling.store.get(key).data
        check_object(data, key, bundling.domain)
        yield from open_head(data, key, bundling.domain, bundling.keys).index.iter_entries()
    except (NotFound, *BROKEN):
        return
