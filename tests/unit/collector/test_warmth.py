"""What is packed together: regions by how often they were overwritten lately, the rest by age."""

from __future__ import annotations

import numpy as np
import pytest

from cdp_agent.collector.alive_types import LIVE
from cdp_agent.collector.facts import EXTENT
from cdp_agent.collector.remembered import RUNS
from cdp_agent.collector.warmth import COLD, GROUPS, HOT, REGION_BYTES, Warmth, alike, warmth_of
from cdp_container.extents.tables import Table
from cdp_container.format.layout import NONE_U32

DISK, OTHER = b"d" * 16, b"o" * 16
LASTS = {3: 100, 5: 400}
TURN = 200.0


def warmth(*written: tuple[int, int, int]) -> Warmth:
    """Of (space, region, bytes), each an extent of a run of its own."""
    runs, extents = np.zeros(len(written), dtype=RUNS), np.zeros(len(written), dtype=EXTENT)
    runs["count"] = 1
    for at, (space, region, length) in enumerate(written):
        runs["space"][at], extents["start"][at] = space, region * REGION_BYTES + 4096
        extents["length"][at] = length
    return warmth_of(np.frombuffer(DISK + OTHER, dtype="V16"), runs, extents, LASTS, TURN)


def piece(space: bytes, region: int, epoch: int = 5, seq: int = 400) -> Table:
    pieces = np.zeros(1, dtype=LIVE)
    pieces["space"], pieces["start"] = np.frombuffer(space, dtype="V16"), region * REGION_BYTES
    pieces["epoch"], pieces["seq"] = epoch, seq
    return pieces


def test_regions_are_told_apart_by_what_was_written_to_them() -> None:
    found = warmth((0, 0, 9000), (0, 1, 1000), (1, 0, 3000), (1, 7, 2000), (1, 8, 0))
    pieces = [piece(DISK, 0), piece(DISK, 1), piece(DISK, 2), piece(OTHER, 7), piece(OTHER, 0)]
    groups = found.groups(np.concatenate(pieces)).tolist()
    assert groups == [HOT, COLD, COLD, 1, 1]


@pytest.mark.parametrize(
    ("epoch", "seq", "group"),
    [(5, 400, 1), (5, 351, 1), (5, 350, 2), (5, 300, 3), (5, 201, 3), (5, 200, 4), (3, 100, 4), (9, 1, 4)],
)
def test_what_is_alike_is_told_apart_by_age(epoch: int, seq: int, group: int) -> None:
    assert warmth((0, 0, 1000), (0, 1, 1000)).groups(piece(DISK, 1, epoch, seq)).tolist() == [group]


def test_voids_do_not_count_and_nothing_at_all_is_cold() -> None:
    runs, extents = np.zeros(1, dtype=RUNS), np.zeros(1, dtype=EXTENT)
    runs["count"], extents["length"], extents["frame"] = 1, 1 << 30, NONE_U32
    found = warmth_of(np.frombuffer(DISK, dtype="V16"), runs, extents, {}, 0.0)
    assert found.groups(piece(DISK, 0)).tolist() == [COLD]
    assert warmth().groups(np.zeros(0, dtype=LIVE)).tolist() == []


def test_all_groups_are_below_their_number() -> None:
    found = warmth((0, 0, 9000), (0, 1, 100), *((0, region, 3000) for region in range(2, 6)))
    pieces = [piece(DISK, region, 5, seq) for region in range(6) for seq in range(1, 401)]
    groups = found.groups(np.concatenate(pieces))
    assert set(groups.tolist()) == set(range(GROUPS))
    assert not alike(np.concatenate(pieces)).any()
