"""The memory of a restore: a huge, sparse volume costs no more than what is in flight."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from cdp_container.format.layout import ExtentKind
from cdp_container.format.records import make_record
from cdp_container.format.seal import WriterKeys
from cdp_container.format.segment import NewExtent, SegmentFacts, build_segment
from cdp_container.store.directory import DirectoryStore
from tests.containers import Site

pytestmark = pytest.mark.e2e

VOLUME_BYTES: Final = 1 << 40
REGIONS: Final = 10_000
CUTS: Final = 20
REGION_BYTES: Final = 16 << 10
PEAK_BYTES_MAX: Final = 300 << 20

# The peak of all resident memory, which is more than that of anonymous memory alone.
MEASURED: Final = """
import sys
from pathlib import Path
from rehydrate.cli.app import main
code = main()
status = Path("/proc/self/status").read_text()
print([line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")][0])
sys.exit(code)
"""


def sparse_container(directory: Path) -> dict[int, bytes]:
    """A container of one volume that is nearly all holes; gives what was written, by offset."""
    site = Site(DirectoryStore(directory), encrypted=False)
    disk = site.add_volume("disk", 512)
    value = {"kind": "volume", "name": "disk", "size_bytes": VOLUME_BYTES, "block_bytes": 512}
    site.begin_epoch()
    site.cut()
    previous, written = site.objects[-1].digest, dict[int, bytes]()
    records = [make_record("space+", disk, value)]
    offsets = [number * (VOLUME_BYTES // REGIONS) // REGION_BYTES * REGION_BYTES for number in range(REGIONS)]
    site.rng.shuffle(offsets)
    for number in range(CUTS):
        mine = {offset: site.rng.randbytes(REGION_BYTES) for offset in sorted(offsets[number::CUTS])}
        extents = [NewExtent(disk, at, len(data), ExtentKind.DATA, data) for at, data in mine.items()]
        facts = SegmentFacts(1, number + 2, number + 2, True, previous_digest=previous)
        built = build_segment(facts, extents, records, WriterKeys(site.domain), site.rng.randbytes(16))
        site.store.put_new(built.key, built.data)
        previous, records, written = built.digest, [], written | mine
    return written


def test_a_sparse_tebibyte_is_restored_in_little_memory(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    written = sparse_container(tmp_path / "store")
    target = tmp_path / "disk.raw"
    argv = [sys.executable, "-c", MEASURED, "restore", str(tmp_path / "store"), "--target", str(target)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    peak_bytes = int(done.stdout.splitlines()[-1]) << 10
    assert peak_bytes <= PEAK_BYTES_MAX, f"{peak_bytes >> 20} MiB"
    assert target.stat().st_size == VOLUME_BYTES
    assert target.stat().st_blocks * 512 <= 2 * REGIONS * REGION_BYTES
    with target.open("rb") as image:
        for offset, data in written.items():
            image.seek(offset)
            assert image.read(REGION_BYTES) == data
            assert not any(image.read(REGION_BYTES))
