"""Writes the golden objects: whole objects of the format, from the inputs of tests/unit/format/samples.py.

    python -m tests.golden.make

A file that is there is never changed: what it holds was written once, and every later release must read it.
A new version of the format gets a directory of its own. `expected.json` says what is in the objects and what
opens them, so that a reader that shares no code with this one can be held to it.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import orjson

from cdp_container.format.frames import open_frame
from cdp_container.format.head import check_object, object_digest, open_head
from cdp_container.format.index import Extent
from cdp_container.format.layout import Codec
from tests.unit.format import samples

DIRECTORY = Path(__file__).parent / "v1"


def golden_objects() -> dict[str, bytes]:
    """What today's builders make of the fixed inputs, by file name.

    Objects without compression are pinned to the byte; zstd's output may differ between its versions.
    """
    files = {"key-block.json": samples.key_block()}
    for key, data in samples.domain_objects().items():
        files[f"{samples.name_of(key)}.json"] = data
    for kind, build in samples.BUILDERS.items():
        for codec in Codec:
            for encrypted in (False, True):
                files[name_of(kind, codec, encrypted)] = build(encrypted, codec).data
    return files


def name_of(kind: str, codec: Codec, encrypted: bool) -> str:
    """The file name of an object."""
    return f"{kind}-{'raw' if codec is Codec.NONE else 'zstd'}-{'sealed' if encrypted else 'plain'}.bin"


def expected(directory: Path) -> bytes:
    """`expected.json`: what opens the objects in this directory, and what they hold.

    An extent's `sha256` is that of its raw content, null where its kind is not data; `order` is
    `[epoch, seq, cut]`, null in a segment.
    """
    objects = {}
    for kind, build in samples.BUILDERS.items():
        for codec in Codec:
            for encrypted in (False, True):
                name = name_of(kind, codec, encrypted)
                objects[name] = _said(build(encrypted, codec).key, (directory / name).read_bytes(), encrypted)
    members = {
        "domain": samples.DOMAIN.hex(),
        "passphrase": samples.PASSPHRASE,
        "private_key": samples.PRIVATE_KEY.hex(),
        "recipient_private_key": samples.RECIPIENT_PRIVATE.hex(),
        "objects": objects,
    }
    return orjson.dumps(
        members, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
    )


def _said(key: str, data: bytes, encrypted: bool) -> dict[str, Any]:
    """All that one object says but its preamble."""
    keys = samples.reader(encrypted)
    check_object(data, key, samples.DOMAIN)
    head = open_head(data, key, samples.DOMAIN, keys)
    frames = []
    for number in range(head.index.frame_count):
        start, end = head.frame_range(number)
        frames.append(open_frame(head, number, data[start:end], keys))
    orders = [[order.epoch, order.seq, order.cut] for order in head.index.iter_orders()]
    return {
        "key": key,
        "digest": object_digest(data).hex(),
        "header": head.header,
        "extents": [_extent_said(extent, frames, orders) for extent in head.index.iter_extents()],
        "records": [
            {
                "name": record.name,
                "key": record.key.hex(),
                "value": orjson.loads(record.value),
                "order": None if record.order is None else orders[record.order],
            }
            for record in head.index.iter_records()
        ],
        "runs": [[r.kind, r.epoch, r.first, r.last, r.digest.hex()] for r in head.index.iter_runs()],
        "entries": [
            [e.kind, e.epoch, e.seq, e.object_length, e.digest.hex(), hashlib.sha256(e.head).hexdigest()]
            for e in head.index.iter_entries()
        ],
    }


def _extent_said(extent: Extent, frames: list[bytes], orders: list[list[int]]) -> dict[str, Any]:
    raw = None if extent.frame is None else frames[extent.frame]
    content = None if raw is None else raw[extent.position : extent.position + extent.length]
    return {
        "space": extent.space.hex(),
        "offset": extent.offset,
        "length": extent.length,
        "kind": extent.kind.name.lower(),
        "sha256": None if content is None else hashlib.sha256(content).hexdigest(),
        "order": None if extent.order is None else orders[extent.order],
    }


def main() -> int:
    """Write what is missing; say what is there and differs."""
    DIRECTORY.mkdir(exist_ok=True)
    differing = 0
    for name, data in golden_objects().items():
        differing += _write(name, data)
    differing += _write("expected.json", expected(DIRECTORY))
    return 1 if differing else 0


def _write(name: str, data: bytes) -> bool:
    """Write a file that is missing; whether one is there that differs."""
    path = DIRECTORY / name
    if not path.exists():
        path.write_bytes(data)
        print(f"wrote {name}, {len(data)} bytes")
    elif path.read_bytes() != data:
        print(f"kept {name}: today's builder makes other bytes")
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())
