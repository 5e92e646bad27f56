"""A tiny writer of containers, from docs/container-format.md alone: what tests/reader.py is tried on.

It shares no code with the project nor with the reader, so the pair also tests whether the page is complete.
It keeps everything in memory, and does only what tests ask for.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import random
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

import zstandard
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SEGMENT, PACK, LEDGER = 1, 2, 4
PACK_IN_FORCE = 3
DATA, ZERO, DISCARD = 1, 2, 3
NONE = 0xFFFFFFFF
GRAIN = 512  # extents of tests begin and end at multiples of it
ROW_BYTES = {"spaces": 16, "order": 24, "extents": 32, "sums": 16, "frames": 24, "seals": 24, "keys": 80}
ROW_BYTES |= {"records": 32, "runs": 64, "blob": 1}
Place = tuple[int, int, int]  # epoch, cut, seq
NOWHERE: Place = (0, 0, 0)


def hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    """HKDF-SHA256 by hand: 32 bytes are one block."""
    secret = hmac.digest(salt or bytes(32), key, "sha256")
    return hmac.digest(secret, info + b"\x01", "sha256")


def as_json(place: Place) -> dict[str, int]:
    return dict(zip(("epoch", "cut", "seq"), place, strict=True))


def public_of(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


@dataclass
class Extent:
    """A change of a space. `length` counts where kind is not data."""

    space: bytes
    offset: int
    data: bytes = b""
    kind: int = DATA
    length: int = 0
    order: int = NONE
    frame: int = NONE
    position: int = 0

    def __post_init__(self) -> None:
        self.length = len(self.data) or self.length


@dataclass
class Segment:
    """What a pack needs of a segment."""

    place: Place
    object_id: bytes
    wrapped: bytes
    sealed: bool
    digest: bytes
    extents: list[Extent]
    records: list[tuple[str, bytes, dict[str, Any]]]
    frames: list[tuple[int, int, int, bytes]]  # raw length, CRC, codec, stored bytes
    complete: bool
    not_whole: list[bytes]


@dataclass
class TinyWriter:
    """One domain and its container, `store`. Attributes that begin an epoch's writing are set by `begin`."""

    seed: int = 0
    passphrase: str | None = None
    recipient: bytes | None = None
    store: dict[str, bytes] = field(default_factory=dict)
    segments: dict[tuple[int, int], Segment] = field(default_factory=dict)
    ledger: dict[str, str] | None = None
    in_force: list[tuple[int, int, bytes]] = field(default_factory=list)  # packs: epoch, number, digest
    epoch: int = 0
    seq: int = 0
    base: Place = NOWHERE
    end: Place = NOWHERE
    state: str = "active"
    protected: Place = NOWHERE

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.domain, self.private = self.rng.randbytes(16), self.rng.randbytes(32)
        self.content_key = self.rng.randbytes(32)
        self.cipher = int(self.passphrase is not None or self.recipient is not None)
        self.key_block = self.make_key_block() if self.cipher else None

    def make_key_block(self) -> dict[str, Any]:
        wraps: list[dict[str, Any]] = [{"type": "of another age"}]
        if self.passphrase is not None:
            salt, nonce = self.rng.randbytes(16), self.rng.randbytes(12)
            stretched = hashlib.scrypt(self.passphrase.encode(), salt=salt, n=16, r=8, p=1, dklen=32)
            secret = AESGCM(hkdf(stretched, b"", b"cdp passphrase wrap v1"))
            sealed = secret.encrypt(nonce, self.private, self.domain)
            check = hkdf(stretched, b"", b"cdp passphrase check v1")[:8]
            wrap: dict[str, Any] = {"type": "passphrase", "kdf": "scrypt", "n": 16, "r": 8, "p": 1}
            wrap |= {"salt": salt.hex(), "check": check.hex(), "nonce": nonce.hex(), "sealed": sealed.hex()}
            wraps.append(wrap)
        if self.recipient is not None:
            public = public_of(self.recipient)
            sealed = self.wrap(public, self.private, b"cdp recipient v1")
            wraps.append({"type": "recipient", "public": public.hex(), "sealed": sealed.hex()})
        return {"format": 1, "public": public_of(self.private).hex(), "wraps": wraps}

    def wrap(self, public: bytes, secret: bytes, info: bytes) -> bytes:
        ephemeral = X25519PrivateKey.from_private_bytes(self.rng.randbytes(32))
        shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(public))
        clear = ephemeral.public_key().public_bytes_raw()
        return clear + AESGCM(hkdf(shared, clear + public, info)).encrypt(bytes(12), secret, self.domain)

    def put_json(self, key: str, value: dict[str, Any]) -> None:
        self.store[key] = json.dumps({"format": 1, "domain": self.domain.hex(), **value}).encode()

    def begin(self, epoch: int, base: Place = NOWHERE, end: Place = NOWHERE) -> None:
        """Start an epoch: `end` is where the one before ends."""
        record = {"magic": "cdp-epoch", "epoch": epoch, "previous": self.epoch, "site": "here"}
        record |= {"base": as_json(base), "end": as_json(end)}
        self.put_json(f"domain/epochs/{epoch:010}", record)
        self.previous, self.epoch, self.seq, self.base, self.end = self.epoch, epoch, 0, base, end
        self.content_key = self.rng.randbytes(32)
        self.write_owner()

    def write_config(self) -> str:
        config: dict[str, Any] = {
            "magic": "cdp-config",
            "format": 1,
            "domain": self.domain.hex(),
            "name": "tiny",
        }
        config |= {"key_block": self.key_block, "encryption": "aes-256-gcm" if self.cipher else "none"}
        data = json.dumps(config).encode()
        digest = hashlib.sha256(data).hexdigest()
        self.store[f"domain/config/{digest}"] = data
        return digest

    def write_owner(self) -> None:
        owner: dict[str, Any] = {
            "magic": "cdp-owner",
            "name": "tiny",
            "state": self.state,
            "config": self.write_config(),
        }
        owner |= {"epoch": self.epoch, "previous": self.previous, "ledger": self.ledger, "site": "here"}
        owner["protected"] = as_json(self.protected)
        self.put_json("domain/owner", owner)

    def write(
        self,
        cut: int,
        extents: list[Extent],
        records: list[tuple[str, bytes, dict[str, Any]]] | None = None,
        *,
        complete: bool = True,
        not_whole: list[bytes] | None = None,
        cut_time_ns: int = 1_700_000_000_000_000_000,
    ) -> Place:
        """Write the next segment of this epoch."""
        self.seq += 1
        records, not_whole = records or [], not_whole or []
        before = self.segments.get(
            (self.epoch, self.seq - 1) if self.seq > 1 else (self.base[0], self.base[2])
        )
        object_id = self.rng.randbytes(16)
        wrapped = self.wrap(public_of(self.private), self.content_key, b"cdp content key v1")
        extents = sorted(extents, key=lambda extent: (extent.space, extent.offset))
        frames = self.make_frames(extents, object_id, 0)
        rows = [(NONE, *frame) for frame in frames]
        preamble: dict[str, Any] = {"cut": cut, "flags": int(complete), "time": cut_time_ns}
        preamble |= {"previous": before.digest if before else bytes(32)}
        digest = self.put(
            SEGMENT, f"log/{self.epoch:010}/{self.seq:012}", self.seq, object_id, wrapped,
            self.make_parts(extents, [(NONE, *record) for record in records], rows), rows, preamble,
            not_whole,
        )  # fmt: skip
        place = (self.epoch, cut, self.seq)
        sealed = bool(self.cipher)
        self.segments[self.epoch, self.seq] = Segment(
            place, object_id, wrapped, sealed, digest, extents, records, frames, complete, not_whole
        )
        return place

    def make_frames(
        self, extents: list[Extent], object_id: bytes, first: int
    ) -> list[tuple[int, int, int, bytes]]:
        """Put the data of extents into frames of this object; several extents share one."""
        raws: list[bytes] = []
        for extent in (extent for extent in extents if extent.kind == DATA):
            if not raws or len(raws[-1]) + extent.length > 100_000:
                raws.append(b"")
            extent.frame, extent.position = first + len(raws) - 1, len(raws[-1])
            raws[-1] += extent.data
        frames = []
        for number, raw in enumerate(raws, first):
            codec = self.rng.randrange(2)
            stored = zstandard.compress(raw) if codec else raw
            if self.cipher:
                secret = AESGCM(hkdf(self.content_key, object_id, b"cdp frames v1"))
                nonce, data = struct.pack("<IQ", 3, number), object_id + struct.pack("<I", number)
                stored = secret.encrypt(nonce, stored, data)
            frames.append((len(raw), zlib.crc32(stored), codec, stored))
        return frames

    def make_parts(
        self,
        extents: list[Extent],
        records: list[tuple[int, str, bytes, dict[str, Any]]],
        frames: list[tuple[int, int, int, int, bytes]],
    ) -> dict[str, bytes]:
        """The parts of a segment, which packs share; frames are (seal, raw length, CRC, codec, stored)."""
        spaces = sorted({extent.space for extent in extents})
        parts = {
            "spaces": b"".join(spaces),
            "extents": b"",
            "sums": b"",
            "frames": b"",
            "records": b"",
            "blob": b"",
        }
        for extent in extents:
            row = (extent.offset, extent.length, spaces.index(extent.space), extent.frame, extent.position)
            parts["extents"] += struct.pack("<QIIIIIB3x", *row, extent.order, extent.kind)
            for at in range(-extent.offset % 4096, len(extent.data) - 4095, 4096):
                parts["sums"] += hashlib.sha256(extent.data[at : at + 4096]).digest()[:16]
        at = 0
        for seal, raw_bytes, crc, codec, stored in frames:
            parts["frames"] += struct.pack("<IIIIIB3x", at, len(stored), raw_bytes, crc, seal, codec)
            at += len(stored)
        for order, name, key, value in records:
            data, start = json.dumps(value).encode(), len(parts["blob"])
            numbers = (
                int(name.startswith(("space", "name", "tree"))),
                order,
                start,
                len(key),
                start + len(key),
                len(data),
            )
            parts["records"] += struct.pack("<8sIIIIII", name.encode(), *numbers)
            parts["blob"] += key + data
        return {name: data for name, data in parts.items() if data}

    def put(
        self, kind: int, key: str, number: int, object_id: bytes, wrapped: bytes, parts: dict[str, bytes],
        frames: list[tuple[int, int, int, int, bytes]], preamble: dict[str, Any], not_whole: list[bytes],
    ) -> bytes:  # fmt: skip
        """Store an object; returns its digest."""
        index, at, body = struct.pack("<4sI", b"CDPI", len(parts) + 1), 8 + 24 * (len(parts) + 1), b""
        for name, data in [*parts.items(), ("ignorab", b"xyz")]:
            rows = len(data) // ROW_BYTES.get(name, 1)
            index += struct.pack(
                "<8sIIII", name.encode(), int(name in ROW_BYTES), rows, at + len(body), len(data)
            )
            body += data
        index += body
        header = json.dumps({"software": "tiny", "unknown": [1], "predecessor": self.ledger}).encode()
        codec = self.rng.randrange(2)
        sections = [zstandard.compress(raw) if codec else raw for raw in (header, index)]
        content = b"".join(frame[4] for frame in frames)
        block = json.dumps(self.key_block).encode() if self.cipher else b""
        places = (0,) * 6 if kind == LEDGER else (*self.base, *self.end)
        fixed = struct.pack(
            "<8sHHI16s16s9QIIQQqqq32sIIIIQHHI80s",
            b"CDPOBJ\r\n", 1, kind, 312 + 16 * len(not_whole) + len(block) + 32, self.domain, object_id,
            self.epoch, number, *places, preamble.get("cut", 0), preamble.get("flags", 0),
            len(not_whole), 0, 0, preamble.get("time", 0), 0, 0, preamble.get("previous", bytes(32)),
            len(sections[0]) + 16 * self.cipher, len(header), len(sections[1]) + 16 * self.cipher, len(index),
            len(content), codec, self.cipher, len(block), wrapped if self.cipher else bytes(80),
        )  # fmt: skip
        data = fixed + b"".join(not_whole) + block
        data += hashlib.sha256(data).digest()
        whole_preamble = data
        secret = AESGCM(
            hkdf(hkdf(self.private, self.domain, b"cdp index key v1"), object_id, b"cdp index v1")
        )
        for which, section in enumerate(sections, 1):
            sealed = (
                secret.encrypt(struct.pack("<IQ", which, 0), section, whole_preamble)
                if self.cipher
                else section
            )
            data += sealed + hashlib.sha256(sealed).digest()
        data += content
        digest = hashlib.sha256(data).digest()
        self.store[key] = data + digest
        return digest

    # -------- collection: a pack, and the ledger that puts it in force --------

    def collect(self, epoch: int, first: int, last: int, kept: list[int], pack: int = 1) -> None:
        """Collect some segments of an epoch; of their cuts only those of `kept` stay restorable.

        What no kept cut shows is dropped. Frames of odd segments are copied with their seals, others remade.
        """
        collected = [self.segments[epoch, seq] for seq in range(first, last + 1)]
        order = [(segment.place[0], segment.place[2], segment.place[1]) for segment in collected]
        object_id, content_key = self.rng.randbytes(16), self.content_key
        self.content_key = self.rng.randbytes(32)
        wrapped = self.wrap(public_of(self.private), self.content_key, b"cdp content key v1")
        extents: list[Extent] = []
        frames: list[tuple[int, int, int, int, bytes]] = []
        parts: dict[str, bytes] = {"order": b"".join(struct.pack("<QQQ", *row) for row in order)}
        seals, keys = b"", b""
        for row, segment in enumerate(collected):
            mine = live_extents(collected, segment, kept)
            for extent in mine:
                extent.order = row
            if segment.place[2] % 2:
                for extent in mine:
                    extent.frame += len(frames) if extent.kind == DATA else 0
                for number, frame in enumerate(segment.frames):
                    key = len(keys) // 80 if segment.sealed else NONE
                    frames.append((len(seals) // 24, *frame))
                    seals += struct.pack("<16sII", segment.object_id, number, key)
                keys += segment.wrapped if segment.sealed else b""
            else:
                frames += [(NONE, *frame) for frame in self.make_frames(mine, object_id, len(frames))]
            extents += mine
        records = [(row, *record) for row, segment in enumerate(collected) for record in segment.records]
        for row, segment in enumerate(collected):
            if segment.complete and segment.place[1] in kept:
                value: dict[str, Any] = {
                    **dict(zip(("epoch", "cut", "seq"), segment.place, strict=True)),
                    "complete": True,
                }
                value |= {"not_whole": [source.hex() for source in segment.not_whole], "cut_time_ns": 5}
                records.append((row, "cut", struct.pack("<QQ", *segment.place[:2]), value))
        records.sort(key=lambda record: record[0])
        parts |= self.make_parts(extents, records, frames) | {"seals": seals, "keys": keys}
        digest = self.put(
            PACK, f"packs/{self.epoch:010}/{pack:012}", pack, object_id, wrapped, parts, frames, {}, []
        )
        self.in_force.append((self.epoch, pack, digest))
        self.content_key = content_key
        runs = struct.pack("<H6xQQQ32s", SEGMENT, epoch, first, last, collected[-1].digest)
        for of_epoch, number, digest in sorted(self.in_force):
            runs += struct.pack("<H6xQQQ32s", PACK_IN_FORCE, of_epoch, number, number, digest)
        name = f"packs/{self.epoch:010}/ledger-{pack:012}"
        digest = self.put(LEDGER, name, pack, self.rng.randbytes(16), wrapped, {"runs": runs}, [], {}, [])
        self.ledger = {"key": name, "digest": digest.hex()}
        self.write_owner()
        for seq in range(first, last + 1):
            del self.store[f"log/{epoch:010}/{seq:012}"]


def live_extents(history: list[Segment], segment: Segment, kept: list[int]) -> list[Extent]:
    """The pieces of a segment's extents that an image of one of the kept cuts (by number) shows."""
    live: list[Extent] = []
    for extent in segment.extents:
        for at in range(0, extent.length, GRAIN):
            spot = extent.offset + at
            later = [
                other.place[1]
                for other in history
                if other.place[1] > segment.place[1]
                and any(
                    e.space == extent.space and e.offset <= spot < e.offset + e.length for e in other.extents
                )
            ]
            if any(segment.place[1] <= cut < min(later, default=cut + 1) for cut in kept):
                grown = live[-1] if live else None
                if grown and grown.space == extent.space and grown.offset + grown.length == spot and at:
                    grown.length += GRAIN
                    grown.data = extent.data and extent.data[grown.offset - extent.offset : at + GRAIN]
                else:
                    piece = extent.data[at : at + GRAIN]
                    position = extent.position + at if extent.kind == DATA else 0
                    live.append(
                        Extent(extent.space, spot, piece, extent.kind, GRAIN, NONE, extent.frame, position)
                    )
    return live
