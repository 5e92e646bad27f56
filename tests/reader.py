"""An independent reader of containers: the promise that the data outlives the tools that wrote it.

Written from docs/container-format.md alone; "§" in comments is a section of that page. It shares no code with
the project and needs Python 3.11, `zstandard` and `cryptography`. It prefers being plain to being quick: it
reads whole objects, verifies what the page says must be, and ignores catalogs, which are only shortcuts.

    python reader.py CONTAINER_DIR list
    python reader.py CONTAINER_DIR restore VOLUME_NAME TARGET_FILE [--cut EPOCH.NUMBER | --marker NAME]

CONTAINER_DIR is a copy of a container, brought by any S3 tool. Nothing is ever written to it.
"""

from __future__ import annotations

import argparse
import bisect
import contextlib
import hashlib
import itertools
import json
import re
import struct
import sys
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, NamedTuple

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
OBJECTS_KEPT = 4  # decoded objects held at a time

SEGMENT, PACK, CATALOG, LEDGER = 1, 2, 3, 4  # kinds of objects
DATA, ZERO, DISCARD = 1, 2, 3  # kinds of extents
NONE = 0xFFFFFFFF  # no row
# §1 Keys: kind, and the shape of its keys; the two numbers are epoch and seq.
KEY_SHAPES = {
    SEGMENT: re.compile(r"log/([0-9]{10})/([0-9]{12})"),
    PACK: re.compile(r"packs/([0-9]{10})/([0-9]{12})"),
    CATALOG: re.compile(r"catalog/([0-9]{10})/[0-9]-([0-9]{12})"),
    LEDGER: re.compile(r"packs/([0-9]{10})/ledger-([0-9]{12})"),
}
# §2 The preamble: types and names of its fields, in the order of the table.
PREAMBLE = struct.Struct("<8sHHI16s16s9QIIQQqqq32sIIIIQHHI80s")
PREAMBLE_FIELDS = """magic format kind preamble_length domain object_id epoch seq base_epoch base_cut base_seq
    end_epoch end_cut end_seq cut flags not_whole_count journal_generation journal_offset cut_time_ns
    first_write_ns last_write_ns previous_digest header_stored header_raw index_stored index_raw frames_stored
    section_codec cipher key_block_length wrapped_content_key""".split()
# §3 The index: bytes of a row of each part.
PART_ROWS = {
    b"spaces": 16,
    b"order": 24,
    b"extents": 32,
    b"sums": 16,
    b"frames": 24,
    b"seals": 24,
    b"keys": 80,
}
PART_ROWS |= {b"records": 32, b"entries": 64, b"runs": 64, b"blob": 1, b"heads": 1}
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
    """A point of the history: a cut and its last segment; all 0: none."""

    epoch: int
    cut: int
    seq: int


class Cut(NamedTuple):
    """A consistent state of the domain that can be asked for."""

    place: Place
    complete: bool
    not_whole: frozenset[bytes]  # sources that must not be restored from it
    time_ns: int


class Extent(NamedTuple):
    """A row of `extents`, with the id of its space and the row of its first sum."""

    offset: int
    length: int
    space: bytes
    frame: int
    position: int
    kind: int
    first_sum: int


class Record(NamedTuple):
    """A row of `records`, with its place in the history."""

    place: Place
    name: bytes
    key: bytes
    value: dict[str, Any]


class Segment(NamedTuple):
    """What is remembered of a segment that was read."""

    cut: Cut
    digest: bytes
    previous_digest: bytes
    records: list[Record]


def parse_json(data: bytes) -> dict[str, Any]:
    """A JSON object; what is missing in it or of a wrong type refuses it where it is used."""
    value = json.loads(data.decode("utf-8"))
    must(isinstance(value, dict), "is not a JSON object")
    return dict(value)


def parse_place(value: dict[str, Any]) -> Place:
    """A place of §6."""
    return Place(int(value["epoch"]), int(value["cut"]), int(value["seq"]))


def sum_blocks(offset: int, length: int) -> range:
    """Where the blocks of a data extent begin that have a content checksum (§3)."""
    first = -(-offset // SUM_BLOCK_BYTES) * SUM_BLOCK_BYTES
    return range(first, offset + length - SUM_BLOCK_BYTES + 1, SUM_BLOCK_BYTES)


def decompress(codec: int, data: bytes, raw_length: int) -> bytes:
    """Undo a codec (§2); never takes more memory than the raw length that was stated."""
    must(codec in (0, 1), f"unknown codec {codec}")
    if codec == 1:
        must(zstandard.frame_content_size(data) in (-1, raw_length), "a zstd frame has a wrong length")
        zstd = zstandard.ZstdDecompressor()
        data = zstd.decompress(data, max_output_size=raw_length, allow_extra_data=False)
    must(len(data) == raw_length, "something decompressed to a wrong length")
    return data


# ---- §5 Keys and sealing ----


def hkdf(key: bytes, salt: bytes, info: str) -> bytes:
    """HKDF-SHA256 with 32 bytes of output."""
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info.encode("ascii")).derive(key)


def public_of(private: bytes) -> bytes:
    """The public key of an X25519 private key."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def unwrap(private: bytes, wrapped: bytes, domain: bytes, info: str) -> bytes:
    """Open `E || GCM(...)`, the shape of a wrapped content key."""
    must(len(wrapped) == 80, "a wrapped key has not 80 bytes")
    ephemeral = X25519PublicKey.from_public_bytes(wrapped[:32])
    shared = X25519PrivateKey.from_private_bytes(private).exchange(ephemeral)
    secret = hkdf(shared, wrapped[:32] + public_of(private), info)
    return AESGCM(secret).decrypt(bytes(12), wrapped[32:], domain)


def unlock_passphrase(wrap: dict[str, Any], passphrase: str, domain: bytes) -> bytes:
    """The private key of a domain out of a wrap of type `passphrase`."""
    n, r, p = int(wrap["n"]), int(wrap["r"]), int(wrap["p"])
    must(wrap["kdf"] == "scrypt" and n <= SCRYPT_N_MAX, "a passphrase asks for an unknown or too costly kdf")
    must(r <= SCRYPT_R_MAX and p <= SCRYPT_P_MAX, "a passphrase asks for a too costly kdf")
    stretched = Scrypt(bytes.fromhex(wrap["salt"]), 32, n, r, p).derive(passphrase.encode("utf-8"))
    check = hkdf(stretched, b"", "cdp passphrase check v1")[:8]
    must(check == bytes.fromhex(wrap["check"]), "wrong passphrase")
    secret = AESGCM(hkdf(stretched, b"", "cdp passphrase wrap v1"))
    return secret.decrypt(bytes.fromhex(wrap["nonce"]), bytes.fromhex(wrap["sealed"]), domain)


class Keys:
    """The domain's private key, opened once with what the user knows."""

    def __init__(self, domain: bytes, passphrase: str | None, recipient: bytes | None) -> None:
        self.domain, self.passphrase, self.recipient = domain, passphrase, recipient
        self.private = b""

    def unlock(self, block: dict[str, Any]) -> None:
        """Open a key block."""
        must(
            block["format"] == 1 and len(block["wraps"]) <= KEY_WRAPS_MAX, "has a key block of unknown format"
        )
        public = bytes.fromhex(block["public"])
        for wrap in [] if self.private else block["wraps"]:
            if wrap["type"] == "passphrase" and self.passphrase is not None:
                self.private = unlock_passphrase(wrap, self.passphrase, self.domain)
            elif wrap["type"] == "recipient" and self.recipient is not None:
                if bytes.fromhex(wrap["public"]) == public_of(self.recipient):
                    sealed = bytes.fromhex(wrap["sealed"])
                    self.private = unwrap(self.recipient, sealed, self.domain, "cdp recipient v1")
        must(self.private != b"", "is sealed; give the passphrase, or the key of a recipient")
        must(public_of(self.private) == public, "was sealed for another key pair")


# ---- §2, §3 Objects ----


class Object:
    """One object under log/, packs/ or catalog/, verified and decoded; frames are opened when asked for."""

    def __init__(self, key: str, data: bytes, keys: Keys) -> None:
        self.data, self.keys = data, keys
        must(data[:8] == b"CDPOBJ\r\n" and len(data) >= PREAMBLE.size, "is not an object of a container")
        fields = zip(PREAMBLE_FIELDS, PREAMBLE.unpack_from(data), strict=True)
        self.pre = pre = SimpleNamespace(**dict(fields))
        self.check_preamble(key)
        # The head is everything before the frames. All lengths must add up to the object's, exactly.
        index_at = pre.preamble_length + pre.header_stored + 32
        self.frames_at = index_at + pre.index_stored + 32
        must(len(data) == self.frames_at + pre.frames_stored + 32, "has not the length that it states")
        self.digest = data[-32:]
        must(hashlib.sha256(data[:-32]).digest() == self.digest, "is damaged: wrong trailer")
        if pre.cipher == 1:
            keys.unlock(parse_json(self.key_block))
        self.header = parse_json(self.section(1, pre.preamble_length, pre.header_stored, pre.header_raw))
        self.parts = self.parse_index(self.section(2, index_at, pre.index_stored, pre.index_raw))
        self.order = list(struct.iter_unpack("<QQQ", self.parts[b"order"]))  # epoch, seq, cut
        must(all(a < b for a, b in itertools.pairwise(self.order)), "order rows are not sorted")
        self.frames = self.parse_frames()
        self.extents = self.parse_extents()
        self.last_frame = (NONE, b"")  # number and content of the frame that was opened last

    def check_preamble(self, key: str) -> None:
        """What the preamble must be, before anything else of the object is believed."""
        pre, data = self.pre, self.data
        must(pre.format == 1, f"has format {pre.format}; this reader knows 1")
        sources_end = PREAMBLE.size + 16 * pre.not_whole_count
        end = sources_end + pre.key_block_length
        lengths = pre.not_whole_count <= NOT_WHOLE_MAX and pre.key_block_length <= KEY_BLOCK_BYTES_MAX
        must(lengths and pre.preamble_length == end + 32 <= PREAMBLE_BYTES_MAX, "preamble has a wrong length")
        must(hashlib.sha256(data[:end]).digest() == data[end : end + 32], "is damaged: wrong preamble digest")
        self.not_whole = frozenset(data[at : at + 16] for at in range(PREAMBLE.size, sources_end, 16))
        self.key_block = data[sources_end:end]
        found = KEY_SHAPES[pre.kind].fullmatch(key) if pre.kind in KEY_SHAPES else None
        agrees = found is not None and (int(found[1]), int(found[2])) == (pre.epoch, pre.seq)
        must(agrees and pre.domain == self.keys.domain, "says that it is another object than its key names")
        must(pre.flags >> 16 == 0 and pre.cipher in (0, 1), "has flags or a cipher unknown to this reader")
        must((pre.cut > 0) == (pre.kind == SEGMENT), "has a cut number that does not fit its kind")
        bulk = pre.kind in (CATALOG, LEDGER)
        must(len(data) <= (CATALOG_BYTES_MAX if bulk else OBJECT_BYTES_MAX), "is too long")
        index_max = INDEX_BYTES_MAX if pre.kind == SEGMENT else BULK_INDEX_BYTES_MAX
        must(pre.header_raw <= HEADER_BYTES_MAX and pre.index_raw <= index_max, "header or index is too long")

    def section(self, number: int, at: int, stored: int, raw: int) -> bytes:
        """The header (1) or the index (2): checked, opened, decompressed."""
        data, digest = self.data[at : at + stored], self.data[at + stored : at + stored + 32]
        must(hashlib.sha256(data).digest() == digest, "is damaged: wrong digest of header or index")
        if self.pre.cipher == 1:
            index_key = hkdf(self.keys.private, self.pre.domain, "cdp index key v1")
            secret = AESGCM(hkdf(index_key, self.pre.object_id, "cdp index v1"))
            preamble = self.data[: self.pre.preamble_length]
            data = secret.decrypt(struct.pack("<IQ", number, 0), data, preamble)
        return decompress(self.pre.section_codec, data, raw)

    def parse_index(self, index: bytes) -> dict[bytes, bytes]:
        """The known parts; an absent one is empty."""
        must(index[:4] == b"CDPI", "index has no magic")
        count = int.from_bytes(index[4:8], "little")
        at = 8 + 24 * count  # parts follow the directory, in its order, without gaps
        must(count <= PARTS_MAX and at <= len(index), "index has too many parts")
        parts: dict[bytes, bytes] = {}
        for name, flags, rows, offset, length in struct.iter_unpack("<8sIIII", index[8:at]):
            name = name.rstrip(b"\0")
            must(name not in parts and offset == at, f"part {name!r} is not where it should be")
            must(name in PART_ROWS or flags & 1 == 0, f"part {name!r} must be understood and is unknown")
            must(
                name not in PART_ROWS or length == rows * PART_ROWS[name], f"part {name!r} has a wrong length"
            )
            at += length
            parts[name] = index[offset:at]
        must(at == len(index), "index has not the length of its parts")
        return {name: parts.get(name, b"") for name in PART_ROWS}

    def parse_frames(self) -> list[tuple[Any, ...]]:
        """Frame rows: offset, stored length, raw length, CRC, seal, codec, reserved."""
        frames, at = list(struct.iter_unpack("<IIIIIB3s", self.parts[b"frames"])), 0
        for offset, stored, raw, _crc, seal, _codec, _reserved in frames:
            must(offset == at and stored <= FRAME_STORED_BYTES_MAX, "a frame is not where it should be")
            must(1 <= raw <= FRAME_RAW_BYTES_MAX, "a frame is too long")
            must(
                seal == NONE or seal * 24 < len(self.parts[b"seals"]), "a frame has a seal that is not there"
            )
            at += stored
        must(at == self.pre.frames_stored, "frames are not as long as stated")
        return frames

    def parse_extents(self) -> dict[int, list[Extent]]:
        """Extents by order row; in a segment that is NONE."""
        extents: dict[int, list[Extent]] = defaultdict(list)
        spaces = [self.parts[b"spaces"][at : at + 16] for at in range(0, len(self.parts[b"spaces"]), 16)]
        before, sums = (-1, -1, 0), 0  # order row, space row and end of the extent before
        for row in struct.iter_unpack("<QIIIIIB3x", self.parts[b"extents"]):
            offset, length, space, frame, position, order, kind = row
            must(kind in (DATA, ZERO, DISCARD), f"an extent has unknown kind {kind}")
            length_max = EXTENT_DATA_BYTES_MAX if kind == DATA else EXTENT_VOID_BYTES_MAX
            must(1 <= length <= length_max and offset + length <= SPACE_BYTES_MAX, "an extent is too long")
            must((order, space, offset) >= before, "extents overlap or are not sorted")
            must(order < len(self.order) if self.pre.kind == PACK else order == NONE, "a wrong order row")
            if kind == DATA:
                must(position + length <= self.frames[frame][2], "an extent lies outside of its frame")
            extents[order].append(Extent(offset, length, spaces[space], frame, position, kind, sums))
            sums += len(sum_blocks(offset, length)) if kind == DATA else 0
            before = (order, space, offset + length)
        must(sums * 16 == len(self.parts[b"sums"]), "has a wrong number of content checksums")
        return extents

    def records(self) -> list[Record]:
        """The records that this reader needs; all are checked."""
        found, blob, own = [], self.parts[b"blob"], [(self.pre.epoch, self.pre.seq, self.pre.cut)]
        for row in struct.iter_unpack("<8sIIIIII", self.parts[b"records"]):
            name, flags, order, key_at, key_length, at, length = row
            name = name.rstrip(b"\0")
            must(
                name in KNOWN_RECORDS or flags & 1 == 0, f"record {name!r} must be understood and is unknown"
            )
            must(
                key_length <= RECORD_KEY_BYTES_MAX and length <= RECORD_VALUE_BYTES_MAX,
                "a record is too long",
            )
            must(max(key_at + key_length, at + length) <= len(blob), "a record lies outside of the blob")
            must(order == NONE or self.pre.kind == PACK, "a wrong order row")
            if name in KEPT_RECORDS:
                epoch, seq, cut = self.order[order] if self.pre.kind == PACK else own[0]
                key, value = blob[key_at : key_at + key_length], parse_json(blob[at : at + length])
                found.append(Record(Place(epoch, cut, seq), name, key, value))
        return found

    def frame(self, number: int) -> bytes:
        """The raw bytes of a frame: checked, opened, decompressed."""
        if self.last_frame[0] != number:
            offset, stored, raw, crc, seal, codec, _reserved = self.frames[number]
            data = self.data[self.frames_at + offset : self.frames_at + offset + stored]
            must(zlib.crc32(data) == crc, f"frame {number} is damaged")
            self.last_frame = (number, decompress(codec, self.open_frame(number, seal, data), raw))
        return self.last_frame[1]

    def open_frame(self, number: int, seal: int, data: bytes) -> bytes:
        """Unseal a frame: with the key of this object, or, copied into a pack, with that of its first one."""
        object_id, wrapped, sealed = self.pre.object_id, self.pre.wrapped_content_key, self.pre.cipher == 1
        if seal != NONE:
            object_id, number, key = struct.unpack_from("<16sII", self.parts[b"seals"], seal * 24)
            wrapped, sealed = self.parts[b"keys"][key * 80 : key * 80 + 80], key != NONE
        if not sealed:
            return data
        must(self.keys.private != b"", "holds sealed frames; give the passphrase, or the key of a recipient")
        content_key = unwrap(self.keys.private, wrapped, self.keys.domain, "cdp content key v1")
        secret = AESGCM(hkdf(content_key, object_id, "cdp frames v1"))
        return secret.decrypt(struct.pack("<IQ", 3, number), data, object_id + struct.pack("<I", number))

    def content(self, extent: Extent) -> bytes:
        """The bytes of an extent, proven by its content checksums; none where it is not data."""
        if extent.kind != DATA:
            return b""
        data = self.frame(extent.frame)[extent.position : extent.position + extent.length]
        for row, at in enumerate(sum_blocks(extent.offset, extent.length), extent.first_sum):
            block = data[at - extent.offset : at - extent.offset + SUM_BLOCK_BYTES]
            right = hashlib.sha256(block).digest()[:16] == self.parts[b"sums"][row * 16 : row * 16 + 16]
            must(right, f"content at {at} has a wrong checksum")
        return data


# ---- §1, §4, §6 The container ----


class Container:
    """A container behind two functions: `read` gives the bytes of a key, `list_keys` gives all keys."""

    def __init__(
        self,
        read: Callable[[str], bytes],
        list_keys: Callable[[], list[str]],
        passphrase: str | None = None,
        recipient: bytes | None = None,
    ) -> None:
        self.read, self.present = read, set(list_keys())
        self.objects: dict[str, Object] = {}  # those read last
        self.segments: dict[str, Segment] = {}
        self.owner = owner = self.get_json("domain/owner", "cdp-owner")
        with refusing("domain/owner"):
            self.keys = Keys(bytes.fromhex(owner["domain"]), passphrase, recipient)
            # §4.1: the epoch in force. Only epochs that are reached from there through `previous` count.
            newest = int(owner["previous"] if owner["state"] == "claiming" else owner["epoch"])
            ledger = (owner["ledger"]["key"], owner["ledger"]["digest"]) if owner["ledger"] else None
        self.epochs: dict[int, dict[str, Any]] = {}  # their records, newest first
        self.ends: dict[int, int] = {}  # the last seq that counts in each but the newest
        while newest:
            self.epochs[newest] = record = self.get_epoch(newest)
            newest, end = record["previous"], parse_place(record["end"])
            self.ends[newest] = end.seq if end.epoch == newest else 0
        self.runs = self.get_runs(*ledger) if ledger else []
        found = [(key, KEY_SHAPES[PACK].fullmatch(key)) for key in sorted(self.present)]
        packs = [(key, int(match[1]), int(match[2])) for key, match in found if match and self.runs]
        needed = [
            key for key, epoch, n in packs if epoch in self.epochs and not self.collected(PACK, epoch, n)
        ]
        self.packs = [(key, self.get(key).order, self.get(key).records()) for key in needed]

    def get_bytes(self, key: str, bytes_max: int) -> bytes:
        """What is under a key."""
        with refusing(key):
            must(key in self.present, "is missing")
            data = self.read(key)
            must(len(data) <= bytes_max, "is too long")
            return data

    def get_json(self, key: str, magic: str) -> dict[str, Any]:
        """An object under domain/."""
        with refusing(key):
            value = parse_json(self.get_bytes(key, DOMAIN_JSON_BYTES_MAX))
            must(value["magic"] == magic and value["format"] <= 1, "has another magic, or a newer format")
            return value

    def get_config(self) -> dict[str, Any]:
        """The configuration in force."""
        key = f"domain/config/{self.owner['config']}"
        digest = hashlib.sha256(self.get_bytes(key, DOMAIN_JSON_BYTES_MAX)).hexdigest()
        with refusing(key):
            must(digest == self.owner["config"], "is damaged: has not the digest that its key names")
        return self.get_json(key, "cdp-config")

    def get_epoch(self, number: int) -> dict[str, Any]:
        """The record of an epoch."""
        key = f"domain/epochs/{number:010}"
        record = self.get_json(key, "cdp-epoch")
        with refusing(key):
            must(record["epoch"] == number, "is the record of another epoch")
            must(bytes.fromhex(record["domain"]) == self.keys.domain, "is the record of another domain")
            places = parse_place(record["base"]), parse_place(record["end"])
            must(max(record["previous"], places[0].epoch, places[1].epoch) < number, "does not look back")
            return record

    def get(self, key: str) -> Object:
        """An object under log/ or packs/."""
        if key not in self.objects:
            data = self.get_bytes(key, CATALOG_BYTES_MAX)
            with refusing(key):
                found = Object(key, data, self.keys)
            for oldest in list(self.objects)[: len(self.objects) - OBJECTS_KEPT + 1]:
                del self.objects[oldest]
            self.objects[key] = found
        return self.objects[key]

    def get_runs(self, key: str, digest: str) -> list[tuple[int, int, int, int, bytes]]:
        """What the ledger in force says was collected: kind, epoch, first, last, digest of the last; sorted."""
        ledger = self.get(key)
        with refusing(key):
            must(ledger.pre.kind == LEDGER and ledger.digest.hex() == digest, "is not what the owner names")
            return sorted(struct.iter_unpack("<H6xQQQ32s", ledger.parts[b"runs"]))

    def get_segment(self, epoch: int, seq: int) -> Segment:
        """What is worth to remember of a segment."""
        key = f"log/{epoch:010}/{seq:012}"
        if key not in self.segments:
            found, pre, record = self.get(key), self.get(key).pre, self.epochs[epoch]
            with refusing(key):
                places = (
                    (pre.base_epoch, pre.base_cut, pre.base_seq),
                    (pre.end_epoch, pre.end_cut, pre.end_seq),
                )
                right = places == (parse_place(record["base"]), parse_place(record["end"]))
                must(right, "does not agree with the record of its epoch")
                cut = Cut(Place(epoch, pre.cut, seq), bool(pre.flags & 1), found.not_whole, pre.cut_time_ns)
                self.segments[key] = Segment(cut, found.digest, pre.previous_digest, found.records())
        return self.segments[key]

    def collected(self, kind: int, epoch: int, number: int) -> tuple[int, bytes] | None:
        """The run that has this object: its last number, and the digest of that one."""
        at = bisect.bisect(self.runs, (kind, epoch, number, 2**64, b"")) - 1
        if at >= 0 and self.runs[at][:2] == (kind, epoch) and number <= self.runs[at][3]:
            return self.runs[at][3:]
        return None

    def cuts(self, epoch: int) -> dict[int, Cut]:
        """The cuts of an epoch that count (§4.1). Of a collected one a pack has a `cut` record."""
        found: dict[int, Cut] = {}
        for key, _order, records in self.packs:
            with refusing(key):
                for value in (record.value for record in records if record.name == b"cut"):
                    place, not_whole = parse_place(value), map(bytes.fromhex, value["not_whole"])
                    if place.epoch == epoch:
                        found[place.cut] = Cut(
                            place, value["complete"], frozenset(not_whole), value["cut_time_ns"]
                        )
        last = self.ends.get(epoch)
        for seq in itertools.count(1) if last is None else range(1, last + 1):
            if f"log/{epoch:010}/{seq:012}" in self.present and not self.collected(SEGMENT, epoch, seq):
                cut = self.get_segment(epoch, seq).cut
                found[cut.place.cut] = cut  # the last segment of a cut speaks for it
            elif last is None and not self.collected(SEGMENT, epoch, seq):
                break  # the newest epoch ends in its contiguous run, with the newest complete cut
        if last is None:
            last = max((cut.place.seq for cut in found.values() if cut.complete), default=0)
        return {number: found[number] for number in sorted(found) if found[number].place.seq <= last}

    def cut(self, epoch: int, number: int) -> Cut:
        """A cut that can be restored."""
        found = self.cuts(epoch).get(number) if epoch in self.epochs else None
        if found is None or not found.complete:
            raise ReaderError(f"log/{epoch:010}", f"has no complete cut {number} that counts")
        return found

    def newest_cut(self) -> Cut:
        """The newest complete cut of the epoch in force, or where it has none, its base."""
        with refusing("domain/owner"):
            must(len(self.epochs) > 0, "no epoch was ever in force")
        newest, record = next(iter(self.epochs.items()))
        complete = [cut for cut in self.cuts(newest).values() if cut.complete]
        return complete[-1] if complete else self.cut(record["base"]["epoch"], record["base"]["cut"])

    def steps(self, place: Place) -> list[tuple[list[Record], list[tuple[str, int]]]]:
        """§4.2, §4.3: for each cut of the branch, oldest first: its records, and its extents as (key, order row)."""
        branch: list[Place] = []
        while place.epoch:
            with refusing(f"domain/epochs/{place.epoch:010}"):
                must(place.epoch in self.epochs, "is a base, and does not count")
                branch.insert(0, place)
                place = parse_place(self.epochs[place.epoch]["base"])
        records: dict[tuple[int, int], list[Record]] = defaultdict(list)
        sources: dict[tuple[int, int], list[tuple[str, int]]] = defaultdict(list)
        digest: bytes | None = bytes(32)
        for part in branch:
            before = Cut(Place(part.epoch, 0, 0), True, frozenset(), 0)
            for seq in range(1, part.seq + 1):
                if run := self.collected(SEGMENT, part.epoch, seq):
                    digest = run[1] if seq == run[0] else None  # not known within a run
                    continue
                segment, key = self.get_segment(part.epoch, seq), f"log/{part.epoch:010}/{seq:012}"
                with refusing(key):
                    must(digest in (None, segment.previous_digest), "does not continue the one before it")
                    must(
                        segment.cut.place.cut >= before.place.cut + before.complete, "repeats a cut's number"
                    )
                digest, before = segment.digest, segment.cut
                records[before.place[:2]] += segment.records
                sources[before.place[:2]].append((key, NONE))
            with refusing(f"log/{part.epoch:010}/{part.seq:012}"):
                ended = (before.place, before.complete) == (part, True)
                must(
                    ended or self.collected(SEGMENT, part.epoch, part.seq) is not None, "does not end its cut"
                )
        lasts = {part.epoch: part.seq for part in branch}
        for key, order, pack_records in self.packs:
            for row, (epoch, seq, cut) in enumerate(order):
                if seq <= lasts.get(epoch, 0) and self.collected(SEGMENT, epoch, seq):
                    sources[epoch, cut].append((key, row))
            for record in pack_records:
                epoch, cut, seq = record.place
                if seq <= lasts.get(epoch, 0) and self.collected(SEGMENT, epoch, seq):
                    records[epoch, cut].append(record)
        numbers = sorted(records.keys() | sources.keys())
        return [(sorted(records[n], key=lambda record: record.place), sources[n]) for n in numbers]

    def volumes(self, cut: Cut) -> dict[bytes, tuple[str, int]]:
        """§4.4: names and sizes of the volumes at a cut, by the ids of their spaces."""
        found: dict[bytes, tuple[str, int]] = {}
        for record in itertools.chain.from_iterable(records for records, _sources in self.steps(cut.place)):
            with refusing(f"log/{record.place.epoch:010}/{record.place.seq:012}"):
                if record.name == b"space+" and record.value["kind"] == "volume":
                    found[record.key] = (str(record.value["name"]), int(record.value["size_bytes"]))
                elif record.name == b"space=" and record.key in found:
                    found[record.key] = (found[record.key][0], int(record.value["size_bytes"]))
                elif record.name == b"space-":
                    found.pop(record.key, None)
        return found

    def restore(self, name: str, target: BinaryIO, cut: Cut) -> int:
        """§4.5: write a volume as it was at a cut into an empty file, sparsely; returns its size in bytes."""
        with refusing(f"log/{cut.place.epoch:010}/{cut.place.seq:012}"):
            found = [(space, size) for space, (other, size) in self.volumes(cut).items() if other == name]
            must(len(found) == 1, f"{len(found)} volumes are called {name!r} at this cut")
            space, size = found[0]
            must(space not in cut.not_whole, f"volume {name!r} is not whole at this cut")
            must(0 <= size <= SPACE_BYTES_MAX, f"volume {name!r} has an impossible size")
        for records, sources in self.steps(cut.place):  # oldest first: what is newer overwrites
            changes = [record for record in records if record.key == space]
            for record in changes:
                if record.name == b"space=":  # covers everything at or beyond that size in older cuts
                    target.truncate(int(record.value["size_bytes"]))
            if any(record.name == b"space-" for record in changes):
                target.truncate(0)  # covers everything of the space in older cuts, and in its own
                continue
            for key, order in sources:
                source = self.get(key)
                with refusing(key):
                    for extent in source.extents.get(order, []):
                        if extent.space == space:
                            write(target, extent.offset, extent.length, source.content(extent))
        target.truncate(size)
        return size

    def markers(self) -> dict[str, Place]:
        """The cuts that have names; of several with one name the newest wins."""
        cuts = {cut.place[:2] for epoch in self.epochs for cut in self.cuts(epoch).values()}
        records = [record for segment in self.segments.values() for record in segment.records]
        records += [record for _key, _order, records in self.packs for record in records]
        found = sorted((record.place, record.key) for record in records if record.name == b"marker")
        return {key.decode("utf-8", "replace"): place for place, key in found if place[:2] in cuts}


def write(target: BinaryIO, offset: int, length: int, content: bytes) -> None:
    """Write an extent (no content: zeros), but leave as holes what are zeros already."""
    for at in range(0, length, EXTENT_DATA_BYTES_MAX):
        piece_bytes = min(length - at, EXTENT_DATA_BYTES_MAX)
        piece = content[at : at + piece_bytes] or bytes(piece_bytes)
        target.seek(offset + at)
        if any(piece) or any(target.read(piece_bytes)):
            target.seek(offset + at)
            target.write(piece)


# ---- The program ----


def show(container: Container) -> None:
    """Print what a container holds; a damaged epoch does not hide the others."""
    for number, record in reversed(container.epochs.items()):
        print(
            f"epoch {number} of site {record.get('site')!r}, based on cut {parse_place(record['base'])[:2]}"
        )
        try:
            for cut in container.cuts(number).values():
                taken = datetime.fromtimestamp(cut.time_ns / 1e9, UTC).isoformat(timespec="milliseconds")
                whole = (
                    "whole" if not cut.not_whole else f"not whole: {sorted(map(bytes.hex, cut.not_whole))}"
                )
                print(
                    f"  cut {number}.{cut.place.cut}  {taken}  {'complete' if cut.complete else 'incomplete'}  {whole}"
                )
        except ReaderError as error:
            print(f"  REFUSED {error}")
    for name, place in container.markers().items():
        print(f"marker {name!r} is cut {place.epoch}.{place.cut}")
    newest = container.newest_cut()
    for space, (name, size) in container.volumes(newest).items():
        print(
            f"volume {name!r} has {size} bytes at cut {newest.place.epoch}.{newest.place.cut} ({space.hex()})"
        )


def choose_cut(container: Container, cut: str | None, marker: str | None) -> Cut:
    """The cut that was asked for; the newest where none was."""
    if cut is None and marker is None:
        return container.newest_cut()
    with refusing("domain/owner"):
        place = [int(number) for number in cut.split(".")] if cut else container.markers()[str(marker)]
        return container.cut(place[0], place[1])


def main(arguments: list[str]) -> int:
    """Run the program; returns 1 where the container is refused."""
    parser = argparse.ArgumentParser(description="Read a container, from its specification alone.")
    parser.add_argument("container", type=Path)
    parser.add_argument("--passphrase-file", type=Path)
    parser.add_argument("--recipient-file", type=Path, help="private key of a recipient, 64 hex digits")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list")
    restore = commands.add_parser("restore")
    restore.add_argument("volume")
    restore.add_argument("target", type=Path)
    restore.add_argument("--cut")
    restore.add_argument("--marker")
    options = parser.parse_args(arguments)
    root: Path = options.container
    passphrase = options.passphrase_file and options.passphrase_file.read_text("utf-8").rstrip("\r\n")
    recipient = options.recipient_file and bytes.fromhex(options.recipient_file.read_text("ascii"))
    keys = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    try:
        container = Container(lambda key: (root / key).read_bytes(), lambda: keys, passphrase, recipient)
        if options.command == "list":
            show(container)
            return 0
        cut = choose_cut(container, options.cut, options.marker)
        partial = options.target.with_name(options.target.name + ".partial")
        with partial.open("x+b") as target:  # what was refused midway never looks like a finished image
            size = container.restore(options.volume, target, cut)
        partial.rename(options.target)
        print(f"wrote {size} bytes: {options.volume!r} at cut {cut.place.epoch}.{cut.place.cut}")
    except ReaderError as error:
        print(f"REFUSED {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
