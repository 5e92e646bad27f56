"""The preamble: an object's facts in clear, and the shape that they give it.

See docs/container-format.md, section 2. It can be read and checked without any key. Headers, indexes
and frames do not belong here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from cdp_container.errors import DamagedObject, ForeignObject, LimitExceeded, NewerFormat
from cdp_container.format import limits
from cdp_container.format.keys import EPOCH_MAX, NUMBER_MAX, OBJECT_KINDS, parse_key
from cdp_container.format.layout import (
    DIGEST_BYTES,
    FORMAT_VERSION,
    ID_BYTES,
    OBJECT_MAGIC,
    PREAMBLE,
    WRAPPED_KEY_BYTES,
    Cipher,
    Codec,
    ObjectKind,
)
from cdp_container.format.place import NOWHERE, Place, is_place

FLAG_COMPLETE: Final = 1
FLAGS_REFUSED: Final = 0xFFFF0000
NO_DIGEST: Final = bytes(DIGEST_BYTES)
PREAMBLE_BYTES_MIN: Final = PREAMBLE.size_bytes + DIGEST_BYTES
_KINDS: Final = {
    int(kind): kind for kind in (ObjectKind.SEGMENT, ObjectKind.PACK, ObjectKind.CATALOG, ObjectKind.LEDGER)
}
_CODECS: Final = {int(codec): codec for codec in Codec}
_CIPHERS: Final = {int(cipher): cipher for cipher in Cipher}
PREFIX_BYTES: Final = 16
"""Enough of an object to know how long its preamble is."""


@dataclass(frozen=True, slots=True)
class Preamble:
    """What an object says of itself in clear; the fields are those of the document's table."""

    kind: ObjectKind
    domain: bytes
    object_id: bytes
    epoch: int
    seq: int
    base: Place = NOWHERE
    end: Place = NOWHERE
    cut: int = 0
    complete: bool = False
    not_whole: tuple[bytes, ...] = ()
    journal_generation: int = 0
    journal_offset: int = 0
    cut_time_ns: int = 0
    first_write_ns: int = 0
    last_write_ns: int = 0
    previous_digest: bytes = NO_DIGEST
    header_stored: int = 0
    header_raw: int = 0
    index_stored: int = 0
    index_raw: int = 0
    frames_stored: int = 0
    section_codec: Codec = Codec.NONE
    cipher: Cipher = Cipher.NONE
    key_block: bytes = b""
    wrapped_content_key: bytes = bytes(WRAPPED_KEY_BYTES)

    @property
    def preamble_length(self) -> int:
        """Bytes of the stored preamble, its SHA-256 included."""
        return PREAMBLE_BYTES_MIN + len(self.not_whole) * ID_BYTES + len(self.key_block)

    @property
    def head_length(self) -> int:
        """Bytes before the frames: what a reader of metadata fetches."""
        return self.preamble_length + self.header_stored + self.index_stored + 2 * DIGEST_BYTES

    @property
    def object_length(self) -> int:
        """Bytes of the whole object, exactly."""
        return self.head_length + self.frames_stored + DIGEST_BYTES

    @property
    def place(self) -> Place:
        """The cut that this segment is part of, up to this segment."""
        return Place(self.epoch, self.cut, self.seq)

    @property
    def whole(self) -> bool:
        """Whether every source is whole at this cut."""
        return not self.not_whole


def index_bytes_max(kind: ObjectKind) -> int:
    """The most bytes of a raw index in an object of this kind."""
    return limits.INDEX_BYTES_MAX if kind is ObjectKind.SEGMENT else limits.BULK_INDEX_BYTES_MAX


def object_bytes_max(kind: ObjectKind) -> int:
    """The most stored bytes of an object of this kind."""
    data = kind in (ObjectKind.SEGMENT, ObjectKind.PACK)
    return limits.OBJECT_BYTES_MAX if data else limits.CATALOG_BYTES_MAX


def pack_preamble(preamble: Preamble) -> bytes:
    """The stored bytes of a preamble, checked against everything that a reader refuses."""
    fixed = PREAMBLE.struct.pack(
        OBJECT_MAGIC,
        FORMAT_VERSION,
        preamble.kind,
        preamble.preamble_length,
        preamble.domain,
        preamble.object_id,
        preamble.epoch,
        preamble.seq,
        preamble.base.epoch,
        preamble.base.cut,
        preamble.base.seq,
        preamble.end.epoch,
        preamble.end.cut,
        preamble.end.seq,
        preamble.cut,
        FLAG_COMPLETE if preamble.complete else 0,
        len(preamble.not_whole),
        preamble.journal_generation,
        preamble.journal_offset,
        preamble.cut_time_ns,
        preamble.first_write_ns,
        preamble.last_write_ns,
        preamble.previous_digest,
        preamble.header_stored,
        preamble.header_raw,
        preamble.index_stored,
        preamble.index_raw,
        preamble.frames_stored,
        preamble.section_codec,
        preamble.cipher,
        len(preamble.key_block),
        preamble.wrapped_content_key,
    )
    body = fixed + b"".join(preamble.not_whole) + preamble.key_block
    stored = body + hashlib.sha256(body).digest()
    again = parse_preamble(stored, "the object that is being built")
    assert again == preamble, "a preamble must say what was put into it"
    return stored


def preamble_need(prefix: bytes, what: str) -> int:
    """How many bytes of an object hold its preamble, from at least its first `PREFIX_BYTES`.

    Raises:
        DamagedObject: these are not the first bytes of an object.
        LimitExceeded: the preamble is longer than a reader fetches.
    """
    if len(prefix) < PREFIX_BYTES:
        raise DamagedObject(what, f"it has only {len(prefix)} bytes")
    if prefix[:8] != OBJECT_MAGIC:
        raise DamagedObject(what, "it does not begin as an object of a container does")
    length = int.from_bytes(prefix[12:16], "little")
    if length > limits.PREAMBLE_BYTES_MAX:
        raise LimitExceeded(what, f"a preamble of {length} bytes (PREAMBLE_BYTES_MAX)")
    if length < PREAMBLE_BYTES_MIN:
        raise DamagedObject(what, f"a preamble of {length} bytes")
    return length


def parse_preamble(data: bytes, what: str) -> Preamble:
    """The preamble at the start of `data`, which may be longer.

    Raises:
        DamagedObject: it is cut short, altered, or contradicts itself.
        NewerFormat: a format, kind, codec, cipher or critical flag that is not known here.
        LimitExceeded: it announces more than a reader takes.
    """
    length = preamble_need(data, what)
    if len(data) < length:
        raise DamagedObject(what, f"it ends within its preamble: {len(data)} of {length} bytes")
    body, digest = data[: length - DIGEST_BYTES], data[length - DIGEST_BYTES : length]
    if hashlib.sha256(body).digest() != digest:
        raise DamagedObject(what, "the preamble's SHA-256 is wrong")
    preamble = _read(bytes(body), what)
    _check_limits(preamble, what)
    _check_sense(preamble, what)
    return preamble


def check_key(preamble: Preamble, key: str, domain: bytes | None) -> None:
    """Refuse an object that is sound but does not belong under this key, or to this domain (None: to any)."""
    if domain is not None and preamble.domain != domain:
        raise ForeignObject(key, f"it belongs to the domain {preamble.domain.hex()}")
    parsed = parse_key(key)
    kind = OBJECT_KINDS.get(parsed.kind) if parsed is not None else None
    if parsed is None or kind is None:
        raise ForeignObject(key, "no object of this kind stands under such a key")
    said = (preamble.kind, preamble.epoch, preamble.seq)
    if said != (kind, parsed.epoch, parsed.number):
        what = f"{preamble.kind.name.lower()} {preamble.seq} of epoch {preamble.epoch}"
        raise ForeignObject(key, f"by its preamble it is {what}")


def _read(body: bytes, what: str) -> Preamble:
    """The fields, where their codes are known and the variable part has the length that they give."""
    (
        _magic, version, kind, length, domain, object_id, epoch, seq, base_epoch, base_cut, base_seq,
        end_epoch, end_cut, end_seq, cut, flags, not_whole_count, journal_generation, journal_offset,
        cut_time_ns, first_write_ns, last_write_ns, previous_digest, header_stored, header_raw,
        index_stored, index_raw, frames_stored, section_codec, cipher, key_block_length, wrapped_content_key,
    ) = PREAMBLE.struct.unpack_from(body)  # fmt: skip
    if version != FORMAT_VERSION:
        raise NewerFormat(what, f"it is of format {version}, and this release knows {FORMAT_VERSION}")
    if kind not in _KINDS:
        raise NewerFormat(what, f"kind {kind} is unknown")
    if flags & FLAGS_REFUSED:
        raise NewerFormat(what, f"flags {flags:#010x} hold bits that are unknown and critical")
    if section_codec not in _CODECS or cipher not in _CIPHERS:
        raise NewerFormat(what, f"codec {section_codec} or cipher {cipher} is unknown")
    if not_whole_count > limits.NOT_WHOLE_MAX:
        raise LimitExceeded(what, f"{not_whole_count} sources that are not whole (NOT_WHOLE_MAX)")
    ids_end = PREAMBLE.size_bytes + not_whole_count * ID_BYTES
    if length != ids_end + key_block_length + DIGEST_BYTES:
        raise DamagedObject(what, "the preamble's parts do not add up to its length")
    return Preamble(
        kind=_KINDS[kind],
        domain=domain,
        object_id=object_id,
        epoch=epoch,
        seq=seq,
        header_stored=header_stored,
        header_raw=header_raw,
        index_stored=index_stored,
        index_raw=index_raw,
        frames_stored=frames_stored,
        section_codec=_CODECS[section_codec],
        cipher=_CIPHERS[cipher],
        base=Place(base_epoch, base_cut, base_seq),
        end=Place(end_epoch, end_cut, end_seq),
        cut=cut,
        complete=bool(flags & FLAG_COMPLETE),
        not_whole=tuple(body[at : at + ID_BYTES] for at in range(PREAMBLE.size_bytes, ids_end, ID_BYTES)),
        journal_generation=journal_generation,
        journal_offset=journal_offset,
        cut_time_ns=cut_time_ns,
        first_write_ns=first_write_ns,
        last_write_ns=last_write_ns,
        previous_digest=previous_digest,
        key_block=body[ids_end:],
        wrapped_content_key=wrapped_content_key,
    )


def _check_limits(preamble: Preamble, what: str) -> None:
    overhead = limits.SECTION_OVERHEAD_BYTES_MAX
    index_max = index_bytes_max(preamble.kind)
    for name, value, limit in (
        ("header_raw", preamble.header_raw, limits.HEADER_BYTES_MAX),
        ("header_stored", preamble.header_stored, limits.HEADER_BYTES_MAX + overhead),
        ("index_raw", preamble.index_raw, index_max),
        ("index_stored", preamble.index_stored, index_max + overhead),
        ("the key block", len(preamble.key_block), limits.KEY_BLOCK_BYTES_MAX),
        ("the object", preamble.object_length, object_bytes_max(preamble.kind)),
    ):
        if value > limit:
            raise LimitExceeded(what, f"{name} has {value} bytes, and {limit} are the most")


def _check_sense(preamble: Preamble, what: str) -> None:
    """What the document says of each kind; an object that contradicts it was written by no sound writer."""
    segment = preamble.kind is ObjectKind.SEGMENT
    data = segment or preamble.kind is ObjectKind.PACK
    sealed = preamble.cipher is not Cipher.NONE
    origin = (preamble.base, preamble.end)
    position = (preamble.journal_generation, preamble.journal_offset)
    times = (preamble.first_write_ns, preamble.last_write_ns)
    cut = (preamble.cut, preamble.cut_time_ns, preamble.complete, preamble.not_whole)
    faults = (
        ("epoch or seq is 0", not (preamble.epoch and preamble.seq)),
        ("base or end is neither a cut nor none", not (is_place(preamble.base) and is_place(preamble.end))),
        (
            "base or end is not before its epoch",
            max(preamble.base.epoch, preamble.end.epoch) >= preamble.epoch,
        ),
        ("a segment without a cut", segment and not preamble.cut),
        (
            "a number beyond what keys hold",
            preamble.epoch > EPOCH_MAX or max(preamble.seq, preamble.cut) > NUMBER_MAX,
        ),
        ("a cut in an object that is no segment", not segment and any(cut)),
        (
            "a chain in an object that is no segment",
            not segment and preamble.previous_digest != NO_DIGEST,
        ),
        ("facts of data in an object without data", not data and any((*origin, *position, *times))),
        ("frames in an object without data", not data and preamble.frames_stored > 0),
        (
            "a key block or content key without a cipher, or none with one",
            sealed != bool(preamble.key_block) or sealed != any(preamble.wrapped_content_key),
        ),
    )
    for fault, found in faults:
        if found:
            raise DamagedObject(what, f"its preamble contradicts itself: {fault}")
