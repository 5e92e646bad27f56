"""An independent reader of containers: the promise that the data outlives the tools that wrote it.

Written from docs/container-format.md alone ("§" is a section of it), it shares no code with the project.

    python reader.py CONTAINER_DIR list
    python reader.py CONTAINER_DIR restore VOLUME TARGET_FILE [--cut EPOCH.NUMBER | --marker NAME]
"""

from __future__ import annotations

import argparse
import contextlib
import hmac
import itertools
import json
import re
import struct
import sys
import zlib
from collections import defaultdict, namedtuple
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from hashlib import scrypt, sha256
from pathlib import Path
from typing import Any, BinaryIO

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

# §7: what is beyond these is refused before memory is taken for it.
PREAMBLE_BYTES_MAX, KEY_BLOCK_BYTES_MAX, KEY_WRAPS_MAX, NOT_WHOLE_MAX, PARTS_MAX = 65536, 16384, 64, 1024, 64
HEADER_BYTES_MAX, INDEX_BYTES_MAX, BULK_INDEX_BYTES_MAX = 262144, 1048576, 67108864
SECTION_OVERHEAD_BYTES_MAX, OBJECT_BYTES_MAX, CATALOG_BYTES_MAX = 65536, 16777216, 134217728
EXTENT_DATA_BYTES_MAX, EXTENT_VOID_BYTES_MAX, SPACE_BYTES_MAX = 65536, 2147483648, 9223372036854775807
FRAME_RAW_BYTES_MAX, FRAME_STORED_BYTES_MAX, SUM_BLOCK_BYTES = 262144, 262656, 4096
RECORD_KEY_BYTES_MAX, RECORD_VALUE_BYTES_MAX, DOMAIN_JSON_BYTES_MAX = 65536, 524288, 4194304
SCRYPT_N_MAX, SCRYPT_R_MAX, SCRYPT_P_MAX, SCRYPT_WORK_MAX = 1048576, 8, 4, 67108864

NONE, IN_FORCE, RETIRED = 0xFFFFFFFF, 3, 4  # no row; kinds of runs: packs in force, cuts retired
DATA, ZERO, DISCARD = 1, 2, 3  # kinds of extents
SEGMENT, PACK, CATALOG, LEDGER = 1, 2, 3, 4  # kinds of objects; §1: and their keys, by epoch and number
KEYS = {SEGMENT: "log/{:010}/{:012}", PACK: "packs/{:010}/{:012}"}
KEYS |= {CATALOG: "catalog/{:010}/[0-9]-{:012}", LEDGER: "packs/{:010}/ledger-{:012}"}
PREAMBLE = struct.Struct("<8xHHI16s16s9QII16xq16x32sIIIIQHHI80s")  # §2; x is not needed here
Preamble = namedtuple(
    "Preamble",
    "format kind preamble_length domain object_id epoch seq base_epoch base_cut base_seq end_epoch end_cut "
    "end_seq cut flags not_whole_count cut_time_ns previous_digest header_stored header_raw index_stored "
    "index_raw frames_stored section_codec cipher key_block_length wrapped_content_key",
)
BOTH = {b"spaces": "<16s", b"extents": "<QIIIIIB3x", b"sums": "<16s", b"frames": "<IIIIIB3x"}
BOTH |= {b"records": "<8sIIIIII", b"blob": ""}  # §3: parts and the layouts of their rows; x is reserved
PARTS = {SEGMENT: BOTH, PACK: BOTH | {b"order": "<QQQ", b"seals": "<16sII", b"keys": "<80s"}}
PARTS |= {CATALOG: {b"entries": "<H2xIIIQQ32s", b"heads": ""}, LEDGER: {b"runs": "<H6xQQQ32s"}}
LAYOUTS = {name: layout for parts in PARTS.values() for name, layout in parts.items()}
NEEDED = dict.fromkeys((b"marker", b"cut", b"vm", b"epoch"), 0)  # kinds of records, and their critical bits
NEEDED |= dict.fromkeys(b"space+ space= space- name+ name- tree+ tree-".split(), 1)

Place = namedtuple("Place", "epoch cut seq")  # §6: a cut and its last segment; all 0: none
Cut = namedtuple("Cut", "place not_whole time_ns names")  # a complete one; names are those of its markers
Epoch = namedtuple("Epoch", "site base end last")  # `last`: the last seq that counts; None in the newest
Record = namedtuple("Record", "name key value")
Layer = namedtuple("Layer", "place key row records")  # what a segment changed; once collected: in a pack

FAULTS: Any = (ValueError, LookupError, TypeError, OverflowError, RecursionError, OSError, struct.error)
FAULTS += (zstandard.ZstdError, InvalidTag)  # what damage and lies end in


class ReaderError(Exception):
    """A refusal: the key of the object that is missing, damaged or not understood, and why."""

    def __init__(self, key: str, why: object) -> None:
        super().__init__(f"{key}: {str(why) or 'does not open: damaged, or sealed with another key'}")
        self.key = key


def must(condition: object, why: str) -> None:
    """What the page says must be; whoever catches the error knows of which object."""
    if not condition:
        raise ValueError(why)


def parse_place(value: dict[str, int]) -> Place:
    return Place(int(value["epoch"]), int(value["cut"]), int(value["seq"]))


def decompress(codec: int, data: bytes, raw_bytes: int) -> bytes:
    """Undo a codec (§2), never taking more memory than the raw length that was stated."""
    if codec == 1:
        must(zstandard.frame_content_size(data) == raw_bytes, "has a zstd frame of a wrong length")
        data = zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
    must(codec in (0, 1) and len(data) == raw_bytes, "has an unknown codec, or is of another length")
    return data


def hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    return hmac.digest(hmac.digest(salt or bytes(32), key, "sha256"), info + b"\1", "sha256")  # one block


def public_of(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def unwrap(private: bytes, wrapped: bytes, domain: bytes, info: bytes) -> bytes:
    """Open `E || GCM(...)`, the shape of a wrapped content key (§5)."""
    must(len(wrapped) == 80 or info == b"cdp credentials v1", "has a wrapped key of a wrong length")
    ephemeral = X25519PublicKey.from_public_bytes(wrapped[:32])
    shared = X25519PrivateKey.from_private_bytes(private).exchange(ephemeral)
    key = hkdf(shared, wrapped[:32] + public_of(private), info)
    return AESGCM(key).decrypt(bytes(12), wrapped[32:], domain)


class Keys:
    """The domain's private key (§5), opened once with what the user has: a passphrase, or a private key."""

    def __init__(self, domain: bytes, *secrets: str | bytes | None) -> None:
        self.domain, self.private = domain, b""
        self.passphrase = next((secret for secret in secrets if isinstance(secret, str)), None)
        self.held = next((secret for secret in secrets if isinstance(secret, bytes)), None)

    def unlock(self, block: dict[str, Any]) -> None:
        """Get from a key block to the private key; unknown wraps are skipped, and those of other people."""
        must(block["format"] == 1 and len(block["wraps"]) <= KEY_WRAPS_MAX, "has an unknown key block")
        found, work = [key for key in (self.private, self.held) if key], SCRYPT_WORK_MAX
        for wrap in block["wraps"] if not self.private else []:
            if wrap["type"] == "recipient" and self.held and wrap["public"] == public_of(self.held).hex():
                found += [unwrap(self.held, bytes.fromhex(wrap["sealed"]), self.domain, b"cdp recipient v1")]
            elif wrap["type"] == "passphrase" and self.passphrase is not None:
                salt, n, r, p = bytes.fromhex(wrap["salt"]), int(wrap["n"]), int(wrap["r"]), int(wrap["p"])
                fit = n <= SCRYPT_N_MAX, r <= SCRYPT_R_MAX, p <= SCRYPT_P_MAX, (work := work - n * r * p) >= 0
                must(all(fit) and wrap["kdf"] == "scrypt", "asks for an unknown or too costly kdf")
                key = scrypt(self.passphrase.encode(), salt=salt, n=n, r=r, p=p, maxmem=2**31 - 1, dklen=32)
                if hkdf(key, b"", b"cdp passphrase check v1")[:8].hex() == wrap["check"]:
                    nonce, sealed = bytes.fromhex(wrap["nonce"]), bytes.fromhex(wrap["sealed"])
                    key = hkdf(key, b"", b"cdp passphrase wrap v1")
                    found.append(AESGCM(key).decrypt(nonce, sealed, self.domain))
        self.private = next((key for key in found if public_of(key).hex() == block["public"]), b"")
        must(self.private, "is sealed; wrong or no passphrase or private key was given")


class Object:
    """One object under log/, packs/ or catalog/ (§2, §3), verified and decoded; frames open on demand."""

    def __init__(self, key: str, data: bytes, keys: Keys) -> None:
        self.key, self.data, self.keys, self.digest = key, data, keys, data[-32:]
        must(data[:8] == b"CDPOBJ\r\n" and len(data) >= PREAMBLE.size, "is not an object of a container")
        self.pre = pre = Preamble._make(PREAMBLE.unpack_from(data))
        must(pre.format == 1, f"has format {pre.format}; this reader knows 1")
        sources_end = PREAMBLE.size + 16 * pre.not_whole_count
        end = sources_end + pre.key_block_length
        must(pre.preamble_length == end + 32 <= PREAMBLE_BYTES_MAX, "has a preamble of a wrong length")
        must(sha256(data[:end]).digest() == data[end : end + 32], "is damaged: wrong preamble digest")
        named = pre.kind in KEYS and re.fullmatch(KEYS[pre.kind].format(pre.epoch, pre.seq), key)
        must(named and pre.domain == keys.domain, "says that it is another object than its key names")
        must(pre.flags >> 16 == 0 and pre.cipher in (0, 1), "has flags or a cipher unknown to this reader")
        must(pre.cipher or not (keys.passphrase or keys.held), "is not sealed, though you hold keys: forged")
        object_max = OBJECT_BYTES_MAX if pre.kind in (SEGMENT, PACK) else CATALOG_BYTES_MAX
        index_max = INDEX_BYTES_MAX if pre.kind == SEGMENT else BULK_INDEX_BYTES_MAX
        must(pre.key_block_length <= KEY_BLOCK_BYTES_MAX, "has a too long key block")
        must(pre.not_whole_count <= NOT_WHOLE_MAX and len(data) <= object_max, "is too long")
        must(pre.header_raw <= HEADER_BYTES_MAX and pre.index_raw <= index_max, "has a too long head")
        over = max(pre.header_stored - HEADER_BYTES_MAX, pre.index_stored - index_max)
        must(over <= SECTION_OVERHEAD_BYTES_MAX, "has a too long stored head")
        index_at = pre.preamble_length + pre.header_stored + 32
        self.frames_at = index_at + pre.index_stored + 32
        must(len(data) == self.frames_at + pre.frames_stored + 32, "has not the length that it states")
        must(sha256(data[:-32]).digest() == self.digest, "is damaged: wrong trailer")
        if pre.cipher:
            keys.unlock(json.loads(data[sources_end:end]))
        self.not_whole = frozenset(data[at : at + 16] for at in range(PREAMBLE.size, sources_end, 16))
        self.base, self.end = Place(*pre[7:10]), Place(*pre[10:13])
        self.header = json.loads(self.section(1, pre.preamble_length, pre.header_stored, pre.header_raw))
        self.rows: dict[bytes, list[tuple[Any, ...]]] = defaultdict(list)
        self.parts = self.parse_index(self.section(2, index_at, pre.index_stored, pre.index_raw))
        rows = enumerate(self.rows[b"order"]) if pre.kind == PACK else [(NONE, (pre.epoch, pre.seq, pre.cut))]
        self.order = {row: Place(epoch, cut, seq) for row, (epoch, seq, cut) in rows}
        must(not pre.cipher or NONE not in [row[2] for row in self.rows[b"seals"]], "has a seal without key")
        self.extents, self.layers, self.last_frame = self.parse_extents(), self.parse_layers(), (NONE, b"")

    def section(self, number: int, at: int, stored: int, raw_bytes: int) -> bytes:
        data, digest = self.data[at : at + stored], self.data[at + stored : at + stored + 32]
        must(sha256(data).digest() == digest, "is damaged: wrong digest of header or index")
        if self.pre.cipher:
            index_key = hkdf(self.keys.private, self.pre.domain, b"cdp index key v1")
            secret = AESGCM(hkdf(index_key, self.pre.object_id, b"cdp index v1"))
            data = secret.decrypt(struct.pack("<IQ", number, 0), data, self.data[: self.pre.preamble_length])
        return decompress(self.pre.section_codec, data, raw_bytes)

    def parse_index(self, index: bytes) -> dict[bytes, bytes]:
        """The parts, by name: they follow the directory, in its order, without gaps."""
        count = int.from_bytes(index[4:8], "little")
        at, parts = 8 + 24 * count, dict[bytes, bytes]()
        must(index[:4] == b"CDPI" and count <= PARTS_MAX, "has an index without magic, or too many parts")
        for name, flags, count, offset, length in struct.iter_unpack("<8sIIII", index[8:at]):
            name, part = name.rstrip(b"\0"), index[offset : offset + length]
            must(name not in parts and offset == at, f"has a part {name!r} where it should not be")
            parts[name], at = part, at + length
            if name not in LAYOUTS or (length and name not in PARTS[self.pre.kind]):
                must(flags & 1 == 0, f"has a part {name!r} that must be understood and is not")
            elif LAYOUTS[name]:
                layout = struct.Struct(LAYOUTS[name])
                self.rows[name] = rows = list(layout.iter_unpack(part))
                packed = b"".join(itertools.starmap(layout.pack, rows))  # with zeros in reserved bytes
                must(packed == part and len(rows) == count, f"has a part {name!r} with wrong bytes")
        must(at == len(index), "has an index of a wrong length")
        return parts

    def parse_extents(self) -> dict[tuple[int, bytes], list[tuple[Any, ...]]]:
        """By order row and space: offset, length, frame, position, kind, content checksums by offset."""
        extents: dict[tuple[int, bytes], list[tuple[Any, ...]]] = defaultdict(list)
        spaces, sums = self.rows[b"spaces"], iter(self.rows[b"sums"])
        for offset, length, space, frame, position, order, kind in self.rows[b"extents"]:
            must(kind in (DATA, ZERO, DISCARD), f"has an extent of unknown kind {kind}")
            must(order in self.order, "has an extent with a wrong order row")
            length_max = EXTENT_DATA_BYTES_MAX if kind == DATA else EXTENT_VOID_BYTES_MAX
            must(1 <= length <= length_max and offset + length <= SPACE_BYTES_MAX, "has a too long extent")
            raw_bytes = self.rows[b"frames"][frame][2] if kind == DATA else NONE
            must(position + length <= raw_bytes, "has an extent outside of its frame")
            first, end = -(-offset // SUM_BLOCK_BYTES), (offset + length) // SUM_BLOCK_BYTES * (kind == DATA)
            blocks = [(SUM_BLOCK_BYTES * n, *next(sums, (b"",))) for n in range(first, end)]
            extents[order, spaces[space][0]].append((offset, length, frame, position, kind, blocks))
        must(next(sums, None) is None, "has content checksums of nothing")
        return extents

    def parse_layers(self) -> list[Layer]:
        """For each order row the records that this reader needs; all are checked."""
        layers = {row: Layer(place, self.key, row, []) for row, place in self.order.items()}
        blob, at = self.parts.get(b"blob", b""), 0
        for name, flags, order, key_at, key_bytes, value_at, value_bytes in self.rows[b"records"]:
            name = name.rstrip(b"\0")
            must(flags & 1 == NEEDED.get(name, 0), f"has a record {name!r} with a wrong critical bit")
            fits = key_bytes <= RECORD_KEY_BYTES_MAX and value_bytes <= RECORD_VALUE_BYTES_MAX
            must(fits and (key_at, value_at) == (at, at + key_bytes), "has a record where it should not be")
            at = value_at + value_bytes
            if name in NEEDED:
                value = json.loads(blob[value_at:at])
                must(0 <= value.get("size_bytes", 0) <= SPACE_BYTES_MAX, "has an impossible size")
                layers[order].records.append(Record(name, blob[key_at:value_at], value))
        must(at == len(blob), "has a blob of a wrong length")
        return list(layers.values())

    def content(self, offset: int, length: int, frame: int, position: int, sums: list[Any]) -> bytes:
        """The bytes of a data extent, proven by its content checksums."""
        if self.last_frame[0] != frame:
            self.last_frame = (frame, self.open_frame(frame))
        data = self.last_frame[1][position : position + length]
        blocks = [(data[at - offset : at - offset + SUM_BLOCK_BYTES], digest) for at, digest in sums]
        must(all(sha256(block).digest()[:16] == digest for block, digest in blocks), "has a wrong checksum")
        return data

    def open_frame(self, number: int) -> bytes:
        at, stored, raw, crc, seal, codec = self.rows[b"frames"][number]
        right = stored <= FRAME_STORED_BYTES_MAX and at + stored <= self.pre.frames_stored
        must(right and 1 <= raw <= FRAME_RAW_BYTES_MAX, f"has an impossible frame {number}")
        data = self.data[self.frames_at + at : self.frames_at + at + stored]
        must(zlib.crc32(data) == crc, f"is damaged: frame {number}")
        if self.pre.cipher:
            object_id, wrapped = self.pre.object_id, self.pre.wrapped_content_key
            if seal != NONE:  # a copy in a pack is sealed by the object that first carried it
                object_id, number, key = self.rows[b"seals"][seal]
                wrapped = self.rows[b"keys"][key][0]
            content_key = unwrap(self.keys.private, wrapped, self.keys.domain, b"cdp content key v1")
            secret = AESGCM(hkdf(content_key, object_id, b"cdp frames v1"))
            data = secret.decrypt(struct.pack("<IQ", 3, number), data, object_id + struct.pack("<I", number))
        return decompress(codec, data, raw)


class Container:
    """A container (§4), by functions that give the bytes of a key and all keys; secrets are as for `Keys`."""

    def __init__(
        self, read: Callable[[str], bytes], list_keys: Callable[[], list[str]], *secrets: str | bytes | None
    ) -> None:
        self.read, self.present, self.at = read, set(list_keys()), ""  # `at`: the key that was read last
        self.kept: dict[str, Object] = {}  # the object that was read last
        self.faults: dict[int, ReaderError] = {}  # by epoch, whose rest is not read; under 0: for all epochs
        self.epochs: dict[int, Epoch] = {}  # those that count, newest first
        self.runs: dict[tuple[int, int], list[tuple[int, int, bytes]]] = defaultdict(list)  # by kind, epoch
        self.layers: dict[tuple[int, int], list[Layer]] = defaultdict(list)  # what changed, by epoch and seq
        self.packed_cuts: dict[tuple[int, int], Cut] = {}  # what packs know of collected ones, likewise
        self.digests: dict[tuple[int, int], bytes | None] = {(0, 0): bytes(32)}  # likewise; None: unknown
        self.cuts: list[Cut] = []  # that can be restored, oldest first
        with self.refusing():
            self.owner = owner = self.get_json("domain/owner", "cdp-owner")
            self.keys = Keys(bytes.fromhex(owner["domain"]), *secrets)
            state = {"active": "epoch", "released": "epoch", "claiming": "previous"}[owner["state"]]
            self.newest, self.protected = int(owner[state]), parse_place(owner["protected"])
            config = f"domain/config/{owner['config']}"
            if config in self.present and any(secrets):  # older objects have older wraps
                self.keys.unlock(self.get_json(config, "cdp-config", owner["config"])["key_block"])
        number, last = self.newest, None
        while number:  # §4.1: the records that are reached from the epoch in force
            previous = 0  # of a damaged record
            with self.refusing(number):
                record = self.get_json(f"domain/epochs/{number:010}", "cdp-epoch")
                right = record["epoch"] == number and record["domain"] == self.keys.domain.hex()
                must(right and 0 <= record["previous"] < number, "is the record of another epoch or domain")
                base, end = parse_place(record["base"]), parse_place(record["end"])
                self.epochs[number] = Epoch(record["site"], base, end, last)
                previous, last = record["previous"], end.seq if end.epoch == record["previous"] else 0
            number = previous
        with self.refusing(0):
            self.load_ledgers()
        for epoch in reversed(self.epochs):
            with self.refusing(epoch):
                self.load_segments(epoch)

    @contextlib.contextmanager
    def refusing(self, epoch: int | None = None) -> Iterator[None]:
        """What goes wrong within refuses what was read last: now or, with an epoch, when that is needed."""
        try:
            yield
        except (ReaderError, *FAULTS) as error:
            refusal = error if isinstance(error, ReaderError) else ReaderError(self.at, error)
            if epoch is None:
                raise refusal from error
            self.faults.setdefault(epoch, refusal)

    def get_bytes(self, key: str) -> bytes:
        self.at = key
        must(key in self.present, "is missing")
        return bytes(self.read(key))

    def get_json(self, key: str, magic: str, digest: str | None = None) -> dict[str, Any]:
        data = self.get_bytes(key)
        must(len(data) <= DOMAIN_JSON_BYTES_MAX, "is too long")
        must(digest in (None, sha256(data).hexdigest()), "is damaged: not the digest that it is named with")
        value = dict(json.loads(data))
        must(value["magic"] == magic and value["format"] == 1, "has another magic, or a newer format")
        return value

    def get(self, key: str, digest: str | None = None) -> Object:
        if key not in self.kept:
            self.kept = {key: Object(key, self.get_bytes(key), self.keys)}
        self.at = key
        must(digest in (None, self.kept[key].digest.hex()), "is not the object that is named: other digest")
        return self.kept[key]

    def load_ledgers(self) -> None:
        """What ledgers say was collected, and what is in the packs that the first of them lists."""
        named, packs = self.owner["ledger"], dict[str, str]()
        while named:
            ledger = self.get(named["key"], named["digest"])
            must(ledger.pre.kind == LEDGER, "is not a ledger")
            for kind, epoch, first, last, digest in ledger.rows[b"runs"]:
                must(0 < kind < 5 and 1 <= first <= last and (kind != 3 or first == last), "has a wrong run")
                self.runs[kind, epoch].append((first, last, digest))
                if kind == IN_FORCE and named == self.owner["ledger"]:
                    packs[KEYS[PACK].format(epoch, last)] = digest.hex()
            named = ledger.header["predecessor"]
        for layer in itertools.chain.from_iterable(self.get(*pack).layers for pack in packs.items()):
            self.layers[layer.place.epoch, layer.place.seq].append(layer)
            for value in (r.value for r in layer.records if r.name == b"cut" and r.value["complete"]):
                place, not_whole = parse_place(value), frozenset(map(bytes.fromhex, value["not_whole"]))
                self.packed_cuts[place.epoch, place.seq] = Cut(place, not_whole, value["cut_time_ns"], [])

    def load_segments(self, epoch: int) -> None:
        """§4.3: the segments of an epoch that count; none may be missing, or not follow the one before."""
        self.at = f"domain/epochs/{epoch:010}"
        _, base, end, last = self.epochs[epoch]
        if (base.epoch, base.seq) not in self.digests:
            raise self.faults.get(base.epoch) or ReaderError(self.at, "has a base that does not count")
        digest, number = self.digests[base.epoch, base.seq], 1  # the number of the next cut
        names: dict[int, set[str]] = defaultdict(set)  # what markers call cuts, by number
        for seq in itertools.count(1) if last is None else range(1, last + 1):
            key, cut = KEYS[SEGMENT].format(epoch, seq), None
            run = next((run for run in self.runs[SEGMENT, epoch] if run[0] <= seq <= run[1]), None)
            if run:  # after it, neither is known but what the run says
                digest, number, cut = run[2] if seq == run[1] else None, 0, self.packed_cuts.get((epoch, seq))
            elif last is None and key not in self.present:
                break  # this is where its contiguous run of segments ends
            else:
                found, pre = self.get(key), self.get(key).pre
                must((found.base, found.end) == (base, end), "does not agree with the record of its epoch")
                must(digest in (None, pre.previous_digest), "does not continue the one before it")
                must(number in (0, pre.cut), "is not of the cut that comes next")
                digest, number, complete = found.digest, pre.cut + (pre.flags & 1), pre.flags & 1
                cut = Cut(found.order[NONE], found.not_whole, pre.cut_time_ns, []) if complete else None
                self.layers[epoch, seq] = found.layers  # what packs may have of it does not count
            self.digests[epoch, seq] = digest
            for layer in self.layers[epoch, seq]:
                names[layer.place.cut] |= {r.key.decode() for r in layer.records if r.name == b"marker"}
            if cut and not any(first <= seq <= last for first, last, _ in self.runs[RETIRED, epoch]):
                self.cuts.append(cut._replace(names=sorted(names[cut.place.cut])))
        if epoch == self.newest == self.protected.epoch and all(c.place < self.protected for c in self.cuts):
            raise ReaderError("domain/owner", f"protected is {self.protected}, segments are missing")

    def cut(self, epoch: int, number: int, name: str | None = None) -> Cut:
        """A cut that can be restored; of several that markers gave one name the newest."""
        found = [cut for cut in self.cuts if cut.place[:2] == (epoch, number) or name in cut.names]
        if not found or 0 in self.faults:
            raise self.faults.get(0, self.faults.get(epoch)) or ReaderError("log", f"no cut {name or number}")
        return found[-1]

    def newest_cut(self) -> Cut:
        """The newest cut of the epoch in force; where it has none, its base."""
        if fault := self.faults.get(0) or self.faults.get(self.newest):
            raise fault
        mine = [cut for cut in self.cuts if cut.place.epoch == self.newest]
        return mine[-1] if mine else self.cut(*self.epochs[self.newest].base[:2])

    def history(self, place: Place) -> list[Layer]:
        """§4.2: what leads to this place, oldest first."""
        ends = [place]
        while ends[-1].epoch:
            ends.append(self.epochs[ends[-1].epoch].base)
        return [one for end in ends[::-1] for n in range(1, end.seq + 1) for one in self.layers[end.epoch, n]]

    def volumes(self, cut: Cut) -> dict[bytes, dict[str, Any]]:
        """§4.4: what `space+` and `space=` say of each volume at a cut, by the id of its space."""
        found: dict[bytes, dict[str, Any]] = {}
        for name, space, value in (record for layer in self.history(cut.place) for record in layer.records):
            if name in (b"space+", b"space="):
                found[space] = {**found.get(space, {}), **value}
            elif name == b"space-":
                found.pop(space, None)
        return {space: value for space, value in found.items() if value.get("kind") == "volume"}

    def restore(self, name: str, target: BinaryIO, cut: Cut) -> int:
        """§4.5: write a volume as it was at a cut into an empty file, sparsely; returns its size in bytes."""
        with self.refusing():
            self.at, volumes = KEYS[SEGMENT].format(cut.place.epoch, cut.place.seq), self.volumes(cut)
            found = [space for space, value in volumes.items() if name in (value["name"], space.hex())]
            must(len(found) == 1, f"has {len(found)} volumes called {name!r} at this cut")
            must(found[0] not in cut.not_whole, f"has a cut in which volume {name!r} is not whole")
            for _, layers in itertools.groupby(self.history(cut.place), lambda layer: layer.place[:2]):
                self.apply(list(layers), found[0], target)  # oldest first: what is newer overwrites
            return target.truncate(volumes[found[0]]["size_bytes"])

    def apply(self, layers: list[Layer], space: bytes, target: BinaryIO) -> None:
        """Apply what one cut changed in a space: all records of the cut come before all of its extents."""
        changes = [record for layer in layers for record in layer.records if record.key == space]
        for record in changes:
            if record.name in (b"space=", b"space-"):  # cover everything from a size on, in older cuts
                target.truncate(min(record.value.get("size_bytes", 0), target.seek(0, 2)))
        if b"space-" in (record.name for record in changes):
            return  # it covers its own cut, too
        for layer in layers:
            found = self.get(layer.key)
            for offset, length, frame, position, kind, sums in found.extents.get((layer.row, space), []):
                data = found.content(offset, length, frame, position, sums) if kind == DATA else b""
                for at in range(0, length, EXTENT_DATA_BYTES_MAX):
                    piece = data or bytes(min(length - at, EXTENT_DATA_BYTES_MAX))
                    target.seek(offset + at)
                    if piece.strip(b"\0") or target.read(len(piece)).strip(b"\0"):  # else a hole may stay
                        target.seek(offset + at)
                        target.write(piece)


def show(container: Container) -> int:
    """Print what a container holds, and what of it is refused; returns the exit code."""
    print(f"domain {container.owner['name']!r}, {container.owner['state']}")
    for number, epoch in reversed(container.epochs.items()):
        print(f"epoch {number} at {epoch.site!r}, based on cut {epoch.base.epoch}.{epoch.base.cut}")
        for cut in (cut for cut in container.cuts if cut.place.epoch == number):
            taken = datetime.fromtimestamp(cut.time_ns / 1e9, UTC).isoformat(timespec="milliseconds")
            whole = f"not whole: {sorted(map(bytes.hex, cut.not_whole))}" if cut.not_whole else "whole"
            print(f"  cut {number}.{cut.place.cut}  {taken}  {whole}  {', '.join(cut.names)}".rstrip())
    with container.refusing(container.newest):
        for space, value in container.volumes(container.newest_cut()).items():
            print(f"volume {value['name']!r} has {value['size_bytes']} bytes ({space.hex()})")
    for error in container.faults.values():
        print(f"REFUSED {error}", file=sys.stderr)
    return 1 if container.faults else 0


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("container", type=Path, help="directory with a copy of it; nothing is written there")
    parser.add_argument("command", nargs="+", help="list, or restore VOLUME TARGET_FILE")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--cut", metavar="EPOCH.NUMBER")
    choice.add_argument("--marker", metavar="NAME")
    parser.add_argument("--passphrase-file", type=Path, dest="phrase")
    parser.add_argument("--private-key-file", type=Path, dest="key", help="domain's or recipient's, in hex")
    args = parser.parse_intermixed_args(arguments)
    keys = [path.relative_to(args.container).as_posix() for path in args.container.rglob("*")]
    try:
        phrase, key = (path and path.read_bytes().decode() for path in (args.phrase, args.key))
        secrets = (phrase and re.sub(r"\r?\n\Z", "", phrase), key and bytes.fromhex(key))  # less one line end
        container = Container(lambda name: (args.container / name).read_bytes(), lambda: keys, *secrets)
        if args.command == ["list"]:
            return show(container)
        must(len(args.command) == 3 and args.command[0] == "restore", "knows no such command")
        (_, volume, target), (epoch, number) = args.command, map(int, (args.cut or "0.0").split("."))
        cut = container.cut(epoch, number, args.marker) if args.cut or args.marker else container.newest_cut()
        with Path(target + ".partial").open("w+b") as file:  # what is refused midway never looks finished
            size = container.restore(volume, file, cut)
        Path(target + ".partial").rename(target)
        print(f"wrote {size} bytes: {volume!r} at cut {cut.place.epoch}.{cut.place.cut}")
    except (ReaderError, *FAULTS) as error:
        print(f"REFUSED {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
