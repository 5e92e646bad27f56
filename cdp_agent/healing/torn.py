"""What is left of a damaged or missing object: its head, which frames are sound, and what it must be.

An object is named by its digest, which only others know once it is damaged: the segment that follows it, a
catalog, the ledger. Where none does, or no head is left, it cannot be healed. Its content: see content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from isal.isal_zlib import crc32

from cdp_container.domain.contents import Contents
from cdp_container.domain.ends import read_segment
from cdp_container.domain.heads import BROKEN
from cdp_container.domain.opening import ByIndex
from cdp_container.errors import DamagedObject, KeyMissing, NotFound
from cdp_container.format.frames import FrameReader
from cdp_container.format.head import Head, check_object, object_digest, open_head
from cdp_container.format.index import Entry
from cdp_container.format.keys import CATALOG_PREFIX, KeyKind, pack_key, parse_key, segment_key
from cdp_container.format.layout import DIGEST_BYTES, ObjectKind
from cdp_container.store.api import Store

_KEYS = {ObjectKind.SEGMENT: segment_key, ObjectKind.PACK: pack_key}


@dataclass(frozen=True, slots=True)
class Torn:
    """See the module.

    Attributes:
        head: as it was written.
        digest: of the object as it was written.
        data: what is there under its key, b"" where nothing is.
        lost_frames: by number.
        stored_ns: Last-Modified of what is there, 0 where nothing is.
    """

    key: str
    head: Head
    digest: bytes
    data: bytes = field(repr=False)
    lost_frames: frozenset[int]
    stored_ns: int

    def stored_frame(self, number: int) -> bytes:
        """The bytes of a sound frame."""
        assert number not in self.lost_frames, number
        start, end = self.head.frame_range(number)
        return self.data[start:end]


class CannotHeal(Exception):
    """Why an object cannot be healed."""


def bundled_heads(opened: ByIndex, wanted: Collection[str]) -> dict[str, Entry]:
    """What catalogs have of these objects, by key; the newest catalog's word counts."""
    found: dict[str, Entry] = {}
    domain = opened.history.domain
    for listed in reversed(list(opened.store.list(CATALOG_PREFIX))):
        if len(found) == len(wanted):
            break
        try:
            data = opened.store.get(listed.key).data
            check_object(data, listed.key, domain)
            head = open_head(data, listed.key, domain, opened.keys)
        except (NotFound, *BROKEN):
            continue
        for entry in head.index.iter_entries():
            name = _KEYS.get(entry.kind)
            key = "" if name is None else name(entry.epoch, entry.seq)
            if key in wanted:
                found.setdefault(key, entry)
    return found


def examine(opened: ByIndex, contents: Contents, bundled: Mapping[str, Entry], key: str) -> Torn | None:
    """What is left of an object; None where it is sound. Raises CannotHeal; errors of the store come through.

    Args:
        opened: the container.
        contents: of all that recovery points need, see `gather`.
        bundled: see `bundled_heads`.
        key: of a segment or pack that recovery points need.
    """
    data, stored_ns = _read(opened.store, key)
    digest = _digest_of(opened, contents, bundled.get(key), key)
    try:
        check_object(data, key, opened.history.domain)
        if object_digest(data) == digest:
            return None
    except BROKEN:
        pass  # that is why we are here
    head = _head_of(opened, bundled.get(key), key, data, digest)
    return Torn(key, head, digest, data, _lost_frames(opened, head, data), stored_ns)


def _read(store: Store, key: str) -> tuple[bytes, int]:
    try:
        blob = store.get(key)
    except NotFound:
        return b"", 0
    return blob.data, blob.found.modified_ns


def _digest_of(opened: ByIndex, contents: Contents, entry: Entry | None, key: str) -> bytes:
    """Of the object as it was written."""
    parsed = parse_key(key)
    assert parsed is not None, key
    if parsed.kind is KeyKind.PACK:
        return opened.ledger.packs[key]
    known = _named_by_next(opened, contents, parsed.epoch, parsed.number + 1)
    for epoch, span in opened.history.spans.items():
        base, first = span.record.base, contents.segments.get((epoch, 1))
        if (base.epoch, base.seq) == (parsed.epoch, parsed.number) and first is not None:
            known |= {first.previous_digest} if first.previous_digest else set()
    if entry is not None:
        known.add(entry.digest)
    if len(known) != 1:
        raise CannotHeal("nobody knows its digest" if not known else "others name different digests of it")
    return known.pop()


def _named_by_next(opened: ByIndex, contents: Contents, epoch: int, seq: int) -> set[bytes]:
    """What the next segment names, as long as its preamble can be read.

    One that was collected must be the very one. Whose another is need not be known: what it names is believed
    only of an object that ends so (`is_of_digest`), or where a catalog says the same.
    """
    following = contents.segments.get((epoch, seq))
    if following is not None and following.previous_digest:
        return {following.previous_digest}
    try:
        stored = read_segment(opened.store, opened.history.domain, epoch, seq)
    except (NotFound, *BROKEN):
        return set()
    is_collected = opened.ledger.is_collected(epoch, seq)
    is_it = not is_collected or stored.digest == opened.ledger.digest(epoch, seq)
    return {stored.preamble.previous_digest} if is_it else set()


def _head_of(opened: ByIndex, entry: Entry | None, key: str, data: bytes, digest: bytes) -> Head:
    """A catalog's word, if it is of this very object; else its own, if it is that of this very object."""
    domain = opened.history.domain
    try:
        if entry is not None and entry.digest == digest:
            return open_head(entry.head, key, domain, opened.keys)
        head = open_head(data, key, domain, opened.keys)
    except BROKEN as error:
        raise CannotHeal(f"no head of it is left: {error.why}") from error
    if not is_of_digest(data, head.preamble.object_length, digest):
        raise CannotHeal("no catalog bundles its head, and what is there cannot prove to be of it")
    return head


def is_of_digest(data: bytes, length: int, digest: bytes) -> bool:
    """Whether an object, whose frames may be damaged, ends in its digest; or only that end is damaged."""
    if len(data) != length:
        return False
    said, summed = data[-DIGEST_BYTES:], hashlib.sha256(data[:-DIGEST_BYTES]).digest()
    return digest in (said, summed)


def _lost_frames(opened: ByIndex, head: Head, data: bytes) -> frozenset[int]:
    reader = FrameReader(head, opened.keys)
    lost = set()
    for number in range(head.index.frame_count):
        start, end = head.frame_range(number)
        try:
            reader.open(number, data[start:end])
        except DamagedObject:
            lost.add(number)
        except KeyMissing:  # sealed: length and CRC-32 were looked at before
            assert crc32(data[start:end]) == head.index.frame(number).crc32, number
    return frozenset(lost)
