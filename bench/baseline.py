"""The small programs that our pipelines are measured against: the same client and codecs, and nothing else.

    python -m bench.baseline put FILE ADDRESS MANIFEST THREADS    reads, compresses, seals and PUTs
    python -m bench.baseline get FILE ADDRESS MANIFEST THREADS    GETs, opens, decompresses and writes

Each thread does one object after another, so as many are in flight as there are threads. `put` tells its
seconds and CPU seconds without those of its start. No history, no index, no sums, no proof: what is put so
could not be trusted with anything. `get` makes the file durable, as a restore does.
"""

from __future__ import annotations

import json
import os
import resource
import secrets
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cdp_container.format.codec import Compressor, decompress
from cdp_container.format.limits import FRAME_RAW_BYTES_MAX
from cdp_container.format.seal import FrameCipher
from cdp_container.store.address import open_store
from cdp_container.store.api import Store

OBJECT_RAW_BYTES = 16 << 20
"""Of VM-like data some 7 MiB are stored of it, like our segments."""
CONTENT_KEY = bytes(range(32))


def put(path: Path, store: Store, threads: int) -> list[dict[str, Any]]:
    """Store the file; gives what `get` must know."""
    own = threading.local()
    run = secrets.token_hex(8)
    fd = os.open(path, os.O_RDONLY)

    def one(at: int) -> dict[str, Any]:
        if not hasattr(own, "compressor"):
            own.compressor = Compressor()
        object_id = secrets.token_bytes(16)
        cipher = FrameCipher(CONTENT_KEY, object_id)
        frames, rows = [], []
        for number, start in enumerate(range(at, min(at + OBJECT_RAW_BYTES, size), FRAME_RAW_BYTES_MAX)):
            raw = os.pread(fd, FRAME_RAW_BYTES_MAX, start)
            codec, packed = own.compressor.compress(raw)
            stored = cipher.seal(number, packed)
            frames.append(stored)
            rows.append([len(stored), len(raw), int(codec)])
        key = f"{run}/{at // OBJECT_RAW_BYTES:08d}"
        store.put_new(key, b"".join(frames))
        return {"key": key, "at": at, "id": object_id.hex(), "frames": rows}

    size = path.stat().st_size
    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(one, range(0, size, OBJECT_RAW_BYTES)))
    finally:
        os.close(fd)


def get(path: Path, store: Store, manifest: list[dict[str, Any]], threads: int) -> None:
    """Write the file anew from what `put` stored, and make it durable."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)

    def one(entry: dict[str, Any]) -> None:
        data = store.get(entry["key"]).data
        cipher = FrameCipher(CONTENT_KEY, bytes.fromhex(entry["id"]))
        start, at = 0, entry["at"]
        for number, (stored, raw_bytes, codec) in enumerate(entry["frames"]):
            packed = cipher.open(number, data[start : start + stored], entry["key"])
            os.pwrite(fd, decompress(codec, packed, raw_bytes, entry["key"]), at)
            start, at = start + stored, at + raw_bytes

    try:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(one, manifest))
        os.fsync(fd)
    finally:
        os.close(fd)


def _measured(work: Callable[[], object]) -> dict[str, float]:
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": time.monotonic() - began, "cpu_seconds": cpu_seconds}


def main() -> None:
    """See the module."""
    verb, file, address, manifest, threads = sys.argv[1:]
    store = open_store(address)
    if verb == "put":
        entries: list[dict[str, Any]] = []
        spent = _measured(lambda: entries.extend(put(Path(file), store, int(threads))))
        Path(manifest).write_text(json.dumps(entries))
        print(json.dumps(spent))
    else:
        get(Path(file), store, json.loads(Path(manifest).read_text()), int(threads))


if __name__ == "__main__":
    main()
