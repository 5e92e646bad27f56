"""One object read whole and checked by itself: its shape, digest, seals, frames and content checksums.

What objects say of each other does not belong here (verifying).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from isal.isal_zlib import crc32

from cdp_container.domain.heads import BROKEN, Seen
from cdp_container.domain.verify_types import Opened
from cdp_container.errors import CdpError, DamagedObject, KeyMissing, MissingObject, NotFound
from cdp_container.extents.tables import Table, extent_rows, sums_before
from cdp_container.format.domain import config_digest, parse_config, parse_epoch_record, parse_owner
from cdp_container.format.frames import FrameReader
from cdp_container.format.gc import parse_final, parse_plan
from cdp_container.format.head import Head, check_object, object_digest, open_head
from cdp_container.format.holds import parse_holds
from cdp_container.format.keys import OBJECT_KINDS, KeyKind, ParsedKey, parse_key
from cdp_container.format.layout import DIGEST_BYTES, SUM_BYTES, Cipher, ExtentKind, ObjectKind
from cdp_container.format.sums import block_sums, sum_count
from cdp_container.store.api import Found


@dataclass(frozen=True, slots=True)
class Told:
    """What a catalog says of an object, or that itself: its digest, and the SHA-256 of its head."""

    digest: bytes
    head: bytes


@dataclass(frozen=True, slots=True)
class Checked:
    """One object after its check.

    Attributes:
        found: as it was listed.
        seen: the head of a segment or pack.
        error: what is wrong with it.
        is_gone: it was listed, and is not there.
        frames: how many were checked.
        told: of a segment or pack, by itself; None where its head could not be opened.
        entries: of a catalog: what it says, by kind, epoch and seq.
    """

    found: Found
    seen: Seen | None = None
    error: CdpError | None = None
    is_gone: bool = False
    frames: int = 0
    told: Told | None = None
    entries: Mapping[tuple[int, int, int], Told] = field(default_factory=dict)


def check(opened: Opened, found: Found) -> Checked:
    """Read and check one listed object. Errors of the store come through."""
    try:
        parsed = parse_key(found.key)
        if parsed is None:
            return Checked(found)
        data = opened.store.get(found.key).data
        if parsed.kind in OBJECT_KINDS:
            return _check_object(opened, found, data)
        _check_domain_object(opened, parsed, found.key, data)
    except NotFound as error:
        gone = MissingObject(found.key, f"it was listed, but is gone: {error.why}")
        return Checked(found, error=gone, is_gone=True)
    except BROKEN as error:
        return Checked(found, error=error)
    return Checked(found)


def _check_object(opened: Opened, found: Found, data: bytes) -> Checked:
    domain, keys = opened.history.domain, opened.keys
    preamble = check_object(data, found.key, domain)
    digest = object_digest(data)
    carries_data = preamble.kind in (ObjectKind.SEGMENT, ObjectKind.PACK)
    if preamble.cipher is not Cipher.NONE and keys.index_key is None:
        return Checked(found, Seen(found.key, preamble, None, digest) if carries_data else None)
    head = open_head(data, found.key, domain, keys)
    if preamble.kind is ObjectKind.CATALOG:
        return Checked(found, entries=_entries(head))
    if not carries_data:
        return Checked(found)
    frames = check_frames(head, data, opened)
    head_bytes = len(data) - DIGEST_BYTES - preamble.frames_stored
    told = Told(digest, hashlib.sha256(data[:head_bytes]).digest())
    return Checked(found, Seen(found.key, preamble, head, digest), frames=frames, told=told)


def check_frames(head: Head, data: bytes, opened: Opened) -> int:
    """Check every frame, and its content as far as it can be opened; gives how many there are.

    Raises DamagedObject.
    """
    reader = FrameReader(head, opened.keys)
    rows = extent_rows(head.index.extent_table)
    first_sums = sums_before(rows)
    numbers = np.flatnonzero(rows["kind"] == ExtentKind.DATA)
    by_frame = numbers[np.argsort(rows["frame"][numbers], kind="stable")]
    edges = np.searchsorted(rows["frame"][by_frame], np.arange(head.index.frame_count + 1))
    view = memoryview(data)
    for number in range(head.index.frame_count):
        start, end = head.frame_range(number)
        try:
            raw = reader.open(number, view[start:end])
        except KeyMissing:
            _check_crc(head, number, view[start:end])
        else:
            own = by_frame[edges[number] : edges[number + 1]]
            _check_sums(head, number, raw, rows[own], first_sums[own])
    return head.index.frame_count


def _check_crc(head: Head, number: int, stored: memoryview) -> None:
    if crc32(stored) != head.index.frame(number).crc32:
        raise DamagedObject(f"{head.key}, frame {number}", "its CRC-32 is wrong")


def _check_sums(head: Head, number: int, raw: bytes, extents: Table, first_sums: Table) -> None:
    view = memoryview(raw)
    for row, first in zip(extents, first_sums.tolist(), strict=True):
        offset, position, length = int(row["offset"]), int(row["position"]), int(row["length"])
        count = sum_count(offset, length)
        said = head.index.sums[first * SUM_BYTES : (first + count) * SUM_BYTES]
        if count and block_sums(offset, view[position : position + length]) != said:
            why = f"byte {offset} of its space is not what the index has a checksum of"
            raise DamagedObject(f"{head.key}, frame {number}", why)


def _entries(head: Head) -> dict[tuple[int, int, int], Told]:
    return {
        (entry.kind, entry.epoch, entry.seq): Told(entry.digest, hashlib.sha256(entry.head).digest())
        for entry in head.index.iter_entries()
        if entry.kind in (ObjectKind.SEGMENT, ObjectKind.PACK)
    }


def _check_domain_object(opened: Opened, parsed: ParsedKey, key: str, data: bytes) -> None:
    domain = opened.history.domain
    match parsed.kind:
        case KeyKind.OWNER:
            parse_owner(data, key, domain)
        case KeyKind.EPOCH_RECORD:
            if parse_epoch_record(data, key, domain).epoch != parsed.epoch:
                raise DamagedObject(key, "it is the record of another epoch")
        case KeyKind.CONFIG:
            if config_digest(data).hex() != parsed.name:
                raise DamagedObject(key, "it has not the digest that its key names")
            parse_config(data, key, domain)
        case KeyKind.HOLDS:
            parse_holds(data, key, domain)
        case KeyKind.GC:
            plan = parse_plan(data, key, domain)
            _check_place(parsed, key, plan.epoch, plan.n)
        case KeyKind.GC_FINAL:
            final = parse_final(data, key, domain)
            _check_place(parsed, key, final.epoch, final.n)
        case _:
            return  # a request is a message, and decides nothing


def _check_place(parsed: ParsedKey, key: str, epoch: int, number: int) -> None:
    if (parsed.epoch, parsed.number) != (epoch, number):
        raise DamagedObject(key, "it is the plan of another pass")
