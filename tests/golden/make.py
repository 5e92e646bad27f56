"""Writes the golden objects: whole objects of the format, from the inputs of tests/unit/format/samples.py.

    python -m tests.golden.make

A file that is there is never changed: what it holds was written once, and every later release must read it.
A new version of the format gets a directory of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cdp_container.format.layout import Codec
from tests.unit.format import samples

DIRECTORY = Path(__file__).parent / "v1"


def golden_objects() -> dict[str, bytes]:
    """What today's builders make of the fixed inputs, by file name.

    Objects without compression are pinned to the byte; zstd's output may differ between its versions.
    """
    files = {"key-block.json": samples.key_block()}
    for key, data in samples.domain_objects().items():
        files[f"{key.split('/')[1]}.json"] = data
    for kind, build in samples.BUILDERS.items():
        for codec in Codec:
            for encrypted in (False, True):
                files[name_of(kind, codec, encrypted)] = build(encrypted, codec).data
    return files


def name_of(kind: str, codec: Codec, encrypted: bool) -> str:
    """The file name of an object."""
    return f"{kind}-{'raw' if codec is Codec.NONE else 'zstd'}-{'sealed' if encrypted else 'plain'}.bin"


def main() -> int:
    """Write what is missing; say what is there and differs."""
    DIRECTORY.mkdir(exist_ok=True)
    differing = 0
    for name, data in golden_objects().items():
        path = DIRECTORY / name
        if not path.exists():
            path.write_bytes(data)
            print(f"wrote {path.name}, {len(data)} bytes")
        elif path.read_bytes() != data:
            print(f"kept {path.name}: today's builder makes other bytes")
            differing += 1
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
