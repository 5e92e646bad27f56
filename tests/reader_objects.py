"""The lower half of the independent reader: one object, from its bytes to its rows and raw content.

Written from docs/container-format.md alone ("§" is a section of that page): §2 objects, §3 the index,
§5 keys, §7 limits. How objects make an image is in reader.py beside it. It shares no code with the project.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import re
import struct
import zlib
from collections import defaultdict
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

# §7 Limits: checked before memory is taken for what an object claims.
PREAMBLE_BYTES_MAX, KEY_BLOCK_BYTES_MAX, NOT_WHOLE_MAX = 65536, 16384, 1024
HEADER_BYTES_MAX, INDEX_BYTES_MAX, BULK_INDEX_BYTES_MAX = 262144, 1048576, 67108864
OBJECT_BYTES_MAX, CATALOG_BYTES_MAX, DOMAIN_JSON_BYTES_MAX = 16777216, 134217728, 4194304
EXTENT_DATA_BYTES_MAX, EXTENT_VOID_BYTES_MAX, SPACE_BYTES_MAX = 65536, 2147483648, 2**63 - 1
FRAME_RAW_BYTES_MAX, FRAME_STORED_BYTES_MAX, SUM_BLOCK_BYTES = 262144, 262656, 4096
RECORD_KEY_BYTES_MAX, RECORD_VALUE_BYTES_MAX, PARTS_MAX = 65536, 524288, 64
SCRYPT_N_MAX, SCRYPT_R_MAX, SCRYPT_P_MAX, KEY_WRAPS_MAX = 1048576, 8, 4, 64
SECTION_OVERHEAD_BYTES_MAX = 65536

SEGMENT, PACK, CATALOG, LEDGER = 1, 2, 3, 4  # kinds of objects
DATA, ZERO, DISCARD = 1, 2, 3  # kinds of extents
NONE = 0xFFFFFFFF  # no row
KEYS = {  # §1: kinds and the shapes of their keys; the two numbers are epoch and seq
    SEGMENT: re.compile(r"log/([0-9]{10})/([0-9]{12})"),
    PACK: re.compile(r"packs/([0-9]{10})/([0-9]{12})"),
    CATALOG: re.compile(r"catalog/([0-9]{10})/[0-9]-([0-9]{12})"),
    LEDGER: re.compile(r"packs/([0-9]{10})/ledger-([0-9]{12})"),
}
# §2: the types and names of the preamble's fields, in the order of the table.
PREAMBLE = struct.Struct("<8sHHI16s16s9QIIQQqqq32sIIIIQHHI80s")
PREAMBLE_FIELDS = """magic format kind preamble_length domain object_id epoch seq base_epoch base_cut base_seq
    end_epoch end_cut end_seq cut flags not_whole_count journal_generation journal_offset cut_time_ns
    first_write_ns last_write_ns previous_digest header_stored header_raw index_stored index_raw frames_stored
    section_codec cipher key_block_length wrapped_content_key"""
# §3: the bytes of a row of each part, by the kinds of objects that have it.
BOTH = {b"spaces": 16, b"extents": 32, b"sums": 16, b"frames": 24, b"records": 32, b"blob": 1}
PARTS = {SEGMENT: BOTH, PACK: BOTH | {b"order": 24, b"seals": 24, b"keys": 80}}
PARTS |= {CATALOG: {b"entries": 64, b"heads": 1}, LEDGER: {b"runs": 64}}
ALL_PARTS = {name: row_bytes for parts in PARTS.values() for name, row_bytes in parts.items()}
KEPT_RECORDS = {b"space+", b"space=", b"space-", b"marker", b"cut"}
KNOWN_RECORDS = KEPT_RECORDS | {b"name+", b"name-", b"vm"}


class ReaderError(Exception):
    """A refusal: the key of the object that is missing, damaged or not understood, and why."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(f"{key}: {why}")
        self.key = key


@contextlib.contextmanager
def refusing(key: str) -> Iterator[None]:
    """Whatever goes wrong within is a refusal of the object with this key."""
    try:
        yield
    except InvalidTag as error:
        raise ReaderError(key, "does not open: damaged, or sealed with another key") from error
    except (ValueError, LookupError, TypeError, struct.error, zstandard.ZstdError, RecursionError) as error:
        raise ReaderError(key, f"{error}") from error


def must(condition: bool, why: str) -> None:
    """What the page says must be; to be used where `refusing` adds the key."""
    if not condition:
        raise ValueError(why)


class Place(NamedTuple):
    """A point of the history (§6): a cut and its last segment; all 0: none."""

    epoch: int
    cut: int
    seq: int


class Record(NamedTuple):
    """A row of `records`, with its place in the history."""

    place: Place
    name: bytes
    key: bytes
    value: dict[str, Any]


def parse_json(data: bytes) -> dict[str, Any]:
    """A JSON object. What is missing in it, or of a wrong type, refuses it where it is used."""
    value = json.loads(data.decode("utf-8"))
    must(isinstance(value, dict), "is not a JSON object")
    return dict(value)


def parse_place(value: dict[str, Any]) -> Place:
    """A place in JSON."""
    return Place(int(value["epoch"]), int(value["cut"]), int(value["seq"]))


def decompress(codec: int, data: bytes, raw_length: int) -> bytes:
    """Undo a codec (§2), never taking more memory than the raw length that was stated."""
    must(codec in (0, 1), f"has an unknown codec {codec}")
    if codec == 1:
        must(zstandard.frame_content_size(data) == raw_length, "has a zstd frame of a wrong length")
        data = zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
    must(len(data) == raw_length, "has something of a wrong length")
    return data


def sum_blocks(offset: int, length: int) -> range:
    """Where the blocks of a data extent begin that have a content checksum (§3)."""
    first = -(-offset // SUM_BLOCK_BYTES) * SUM_BLOCK_BYTES
    return range(first, offset + length - SUM_BLOCK_BYTES + 1, SUM_BLOCK_BYTES)


def hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    """HKDF-SHA256 with 32 bytes of output (§5)."""
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(key)


def public_of(private: bytes) -> bytes:
    """The public key of an X25519 private key."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def unwrap(private: bytes, wrapped: bytes, domain: bytes, info: bytes) -> bytes:
    """Open `E || GCM(...)`, the shape of a wrapped content key (§5)."""
    must(len(wrapped) == 80, "has a wrapped key of a wrong length")
    ephemeral = X25519PublicKey.from_public_bytes(wrapped[:32])
    shared = X25519PrivateKey.from_private_bytes(private).exchange(ephemeral)
    secret = hkdf(shared, wrapped[:32] + public_of(private), info)
    return AESGCM(secret).decrypt(bytes(12), wrapped[32:], domain)


class Keys:
    """The domain's private key (§5), opened once with what the user knows."""

    def __init__(self, domain: bytes, passphrase: str | None, recipient: bytes | None) -> None:
        self.domain, self.passphrase, self.recipient, self.private = domain, passphrase, recipient, b""

    def unlock(self, block: dict[str, Any]) -> None:
        """Get from a key block to the private key, by the first wrap that fits; others are skipped."""
        must(block["format"] == 1 and len(block["wraps"]) <= KEY_WRAPS_MAX, "has an unknown key block")
        for wrap in block["wraps"]:
            if not self.private and wrap["type"] == "passphrase" and self.passphrase is not None:
                self.private = self.from_passphrase(wrap, self.passphrase.encode("utf-8"))
            if not self.private and wrap["type"] == "recipient" and self.recipient is not None:
                public, sealed = bytes.fromhex(wrap["public"]), bytes.fromhex(wrap["sealed"])
                if public == public_of(self.recipient):
                    self.private = unwrap(self.recipient, sealed, self.domain, b"cdp recipient v1")
        must(self.private != b"", "is sealed; wrong or no passphrase or key of a recipient was given")
        must(public_of(self.private).hex() == block["public"], "is sealed for another key pair")

    def from_passphrase(self, wrap: dict[str, Any], passphrase: bytes) -> bytes:
        """The private key out of a wrap of type `passphrase`; nothing where it is of another passphrase."""
        n, r, p = int(wrap["n"]), int(wrap["r"]), int(wrap["p"])
        cheap = n <= SCRYPT_N_MAX and r <= SCRYPT_R_MAX and p <= SCRYPT_P_MAX
        must(cheap and wrap["kdf"] == "scrypt", "asks for an unknown or too costly kdf")
        stretched = Scrypt(bytes.fromhex(wrap["salt"]), 32, n, r, p).derive(passphrase)
        check = hkdf(stretched, b"", b"cdp passphrase check v1")[:8]
        if check.hex() != wrap["check"]:
            return b""
        secret = AESGCM(hkdf(stretched, b"", b"cdp passphrase wrap v1"))
        return secret.decrypt(bytes.fromhex(wrap["nonce"]), bytes.fromhex(wrap["sealed"]), self.domain)


class Object:
    """One object under log/, packs/ or catalog/ (§2, §3), verified and decoded; frames open on demand."""

    def __init__(self, key: str, data: bytes, keys: Keys) -> None:
        self.data, self.keys = data, keys
        must(data[:8] == b"CDPOBJ\r\n" and len(data) >= PREAMBLE.size, "is not an object of a container")
        fields = zip(PREAMBLE_FIELDS.split(), PREAMBLE.unpack_from(data), strict=True)
        self.pre = pre = SimpleNamespace(**dict(fields))
        self.check_preamble(key)
        # The head is everything before the frames. All lengths must add up to the object's, exactly.
        index_at = pre.preamble_length + pre.header_stored + 32
        self.frames_at = index_at + pre.index_stored + 32
        must(len(data) == self.frames_at + pre.frames_stored + 32, "has not the length that it states")
        self.digest = data[-32:]
        must(hashlib.sha256(data[:-32]).digest() == self.digest, "is damaged: wrong trailer")
        must(bool(pre.cipher) or not keys.private, "is not sealed, though its domain is: forged")
        if pre.cipher:
            keys.unlock(parse_json(self.key_block))
        self.header = parse_json(self.section(1, pre.preamble_length, pre.header_stored, pre.header_raw))
        self.parts = self.parse_index(self.section(2, index_at, pre.index_stored, pre.index_raw))
        own = [(pre.epoch, pre.seq, pre.cut)]
        self.order = self.rows(b"order", "<QQQ") if pre.kind == PACK else own
        must(all(a[:2] < b[:2] for a, b in itertools.pairwise(self.order)), "order rows are not sorted")
        self.frames = self.parse_frames()
        self.extents = self.parse_extents()
        self.last_frame = (NONE, b"")  # the one that was opened last

    def check_preamble(self, key: str) -> None:
        """What must be before anything else of the object is believed."""
        pre, data = self.pre, self.data
        must(pre.format == 1, f"has format {pre.format}; this reader knows 1")
        sources_end = PREAMBLE.size + 16 * pre.not_whole_count
        end = sources_end + pre.key_block_length
        must(pre.not_whole_count <= NOT_WHOLE_MAX, "names too many sources")
        must(pre.key_block_length <= KEY_BLOCK_BYTES_MAX, "has a too long key block")
        must(pre.preamble_length == end + 32 <= PREAMBLE_BYTES_MAX, "has a preamble of a wrong length")
        must(hashlib.sha256(data[:end]).digest() == data[end : end + 32], "is damaged: wrong preamble digest")
        self.not_whole = frozenset(data[at : at + 16] for at in range(PREAMBLE.size, sources_end, 16))
        self.key_block = data[sources_end:end]
        found = KEYS[pre.kind].fullmatch(key) if pre.kind in KEYS else None
        agrees = found is not None and (int(found[1]), int(found[2])) == (pre.epoch, pre.seq)
        must(agrees and pre.domain == self.keys.domain, "says that it is another object than its key names")
        must(pre.flags >> 16 == 0 and pre.cipher in (0, 1), "has flags or a cipher unknown to this reader")
        must(bool(pre.cipher) == bool(self.key_block), "has a key block without a cipher, or the reverse")
        must((pre.cut > 0) == (pre.kind == SEGMENT), "has a cut number that does not fit its kind")
        self.base = Place(pre.base_epoch, pre.base_cut, pre.base_seq)
        self.end = Place(pre.end_epoch, pre.end_cut, pre.end_seq)
        for place in (self.base, self.end):
            must(any(place) == all(place) and place.epoch < pre.epoch, "has an impossible base or end")
        bulk = pre.kind in (CATALOG, LEDGER)
        must(len(data) <= (CATALOG_BYTES_MAX if bulk else OBJECT_BYTES_MAX), "is too long")
        index_max = INDEX_BYTES_MAX if pre.kind == SEGMENT else BULK_INDEX_BYTES_MAX
        must(pre.header_raw <= HEADER_BYTES_MAX and pre.index_raw <= index_max, "has a too long head")
        must(pre.header_stored <= HEADER_BYTES_MAX + SECTION_OVERHEAD_BYTES_MAX, "has a too long header")
        must(pre.index_stored <= index_max + SECTION_OVERHEAD_BYTES_MAX, "has a too long index")

    def section(self, number: int, at: int, stored: int, raw: int) -> bytes:
        """The header (1) or the index (2): checked, opened, decompressed."""
        data, digest = self.data[at : at + stored], self.data[at + stored : at + stored + 32]
        must(hashlib.sha256(data).digest() == digest, "is damaged: wrong digest of header or index")
        if self.pre.cipher:
            index_key = hkdf(self.keys.private, self.pre.domain, b"cdp index key v1")
            secret = AESGCM(hkdf(index_key, self.pre.object_id, b"cdp index v1"))
            preamble = self.data[: self.pre.preamble_length]
            data = secret.decrypt(struct.pack("<IQ", number, 0), data, preamble)
        return decompress(self.pre.section_codec, data, raw)

    def parse_index(self, index: bytes) -> dict[bytes, bytes]:
        """The known parts; an absent one is empty."""
        must(index[:4] == b"CDPI", "has an index without magic")
        count = int.from_bytes(index[4:8], "little")
        at = 8 + 24 * count  # parts follow the directory, in its order, without gaps
        must(count <= PARTS_MAX and at <= len(index), "has too many parts")
        parts: dict[bytes, bytes] = {}
        for name, flags, rows, offset, length in struct.iter_unpack("<8sIIII", index[8:at]):
            name = name.rstrip(b"\0")
            known = name in ALL_PARTS and (length == 0 or name in PARTS[self.pre.kind])
            must(known or flags & 1 == 0, f"has a part {name!r} that must be understood and is not")
            must(name not in parts and offset == at, f"has a part {name!r} where it should not be")
            must(not known or length == rows * ALL_PARTS[name], f"has a part {name!r} of a wrong length")
            at += length
            parts[name] = index[offset:at]
        must(at == len(index), "has an index of a wrong length")
        return {name: parts.get(name, b"") for name in ALL_PARTS}

    def rows(self, part: bytes, shape: str) -> list[tuple[Any, ...]]:
        """The rows of a part."""
        return list(struct.iter_unpack(shape, self.parts[part]))

    def parse_frames(self) -> list[tuple[Any, ...]]:
        """Frame rows: offset, stored length, raw length, CRC, seal, codec, reserved."""
        frames, at = self.rows(b"frames", "<IIIIIB3s"), 0
        for offset, stored, raw, _crc, seal, _codec, reserved in frames:
            must(offset == at and stored <= FRAME_STORED_BYTES_MAX, "has a frame where it should not be")
            must(1 <= raw <= FRAME_RAW_BYTES_MAX and not any(reserved), "has an impossible frame")
            must(seal == NONE or seal * 24 < len(self.parts[b"seals"]), "lacks the seal of a frame")
            at += stored
        must(at == self.pre.frames_stored, "has frames that are not as long as stated")
        return frames

    def parse_extents(self) -> dict[tuple[int, bytes], list[tuple[int, ...]]]:
        """By order row and space: offset, length, frame, position, kind, row of the first sum."""
        extents: dict[tuple[int, bytes], list[tuple[int, ...]]] = defaultdict(list)
        spaces = [space for (space,) in self.rows(b"spaces", "16s")]
        before, sums = (-1, -1, 0), 0  # order row, space row and end of the extent before
        for row in self.rows(b"extents", "<QIIIIIB3s"):
            offset, length, space, frame, position, order, kind, reserved = row
            must(kind in (DATA, ZERO, DISCARD) and not any(reserved), f"has an extent of unknown kind {kind}")
            length_max = EXTENT_DATA_BYTES_MAX if kind == DATA else EXTENT_VOID_BYTES_MAX
            must(1 <= length <= length_max and offset + length <= SPACE_BYTES_MAX, "has a too long extent")
            must((order, space, offset) >= before, "has extents that overlap or are not sorted")
            must(order < len(self.order) if self.pre.kind == PACK else order == NONE, "has a wrong order row")
            end_max = self.frames[frame][2] if kind == DATA else length
            must(position + length <= end_max, "has an extent outside of its frame")
            extents[order, spaces[space]].append((offset, length, frame, position, kind, sums))
            sums += len(sum_blocks(offset, length)) if kind == DATA else 0
            before = (order, space, offset + length)
        must(sums * 16 == len(self.parts[b"sums"]), "has a wrong number of content checksums")
        return extents

    def records(self) -> list[Record]:
        """The records that this reader needs; all are checked."""
        found, blob, at, before = [], self.parts[b"blob"], 0, 0
        for row in self.rows(b"records", "<8sIIIIII"):
            name, flags, order, key_at, key_length, value_at, length = row
            name = name.rstrip(b"\0")
            must(
                name in KNOWN_RECORDS or flags & 1 == 0, f"has an unknown record {name!r} that must be known"
            )
            must(
                key_length <= RECORD_KEY_BYTES_MAX and length <= RECORD_VALUE_BYTES_MAX,
                "has a too long record",
            )
            must((key_at, value_at) == (at, at + key_length), "has a record where it should not be")
            right = before <= order < len(self.order) if self.pre.kind == PACK else order == NONE
            must(right, "has records that are not sorted, or a wrong order row")
            before = order
            at = value_at + length
            if name in KEPT_RECORDS:
                epoch, seq, cut = self.order[order if self.pre.kind == PACK else 0]
                key, value = blob[key_at:value_at], parse_json(blob[value_at:at])
                found.append(Record(Place(epoch, cut, seq), name, key, value))
        must(at == len(blob), "has a blob of a wrong length")
        return found

    def frame(self, number: int) -> bytes:
        """The raw bytes of a frame: checked, opened, decompressed."""
        if self.last_frame[0] != number:
            offset, stored, raw, crc, seal, codec, _reserved = self.frames[number]
            data = self.data[self.frames_at + offset : self.frames_at + offset + stored]
            must(zlib.crc32(data) == crc, f"is damaged: frame {number}")
            self.last_frame = (number, decompress(codec, self.open_frame(number, seal, data), raw))
        return self.last_frame[1]

    def open_frame(self, number: int, seal: int, data: bytes) -> bytes:
        """Unseal a frame: with this object's key or, copied into a pack, with that of its first object."""
        object_id, wrapped, sealed = self.pre.object_id, self.pre.wrapped_content_key, bool(self.pre.cipher)
        if seal != NONE:
            object_id, number, key = self.rows(b"seals", "<16sII")[seal]
            wrapped, sealed = self.parts[b"keys"][key * 80 : key * 80 + 80], key != NONE
        if not sealed:
            return data
        must(self.keys.private != b"", "has sealed frames; give the passphrase, or the key of a recipient")
        content_key = unwrap(self.keys.private, wrapped, self.keys.domain, b"cdp content key v1")
        secret = AESGCM(hkdf(content_key, object_id, b"cdp frames v1"))
        return secret.decrypt(struct.pack("<IQ", 3, number), data, object_id + struct.pack("<I", number))

    def content(self, offset: int, length: int, frame: int, position: int, first_sum: int) -> bytes:
        """The bytes of a data extent, proven by its content checksums."""
        data = self.frame(frame)[position : position + length]
        for row, at in enumerate(sum_blocks(offset, length), first_sum):
            digest = hashlib.sha256(data[at - offset : at - offset + SUM_BLOCK_BYTES]).digest()
            right = digest[:16] == self.parts[b"sums"][row * 16 : row * 16 + 16]
            must(right, f"is damaged: content at {at} has a wrong checksum")
        return data
