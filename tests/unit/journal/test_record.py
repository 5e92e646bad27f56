"""Many records made at once are those made one by one."""

from __future__ import annotations

from random import Random

import pytest

from cdp_container.journal.position import Position
from cdp_container.journal.record import (
    Kind,
    encode_record_header,
    encode_writes,
    padded_bytes,
    record_bytes,
)


@pytest.mark.parametrize("seed", range(4))
def test_records_made_together_are_those_made_one_by_one(seed: int) -> None:
    rng = Random(seed)
    writes = [(rng.randrange(1 << 40), rng.randbytes(rng.choice([1, 7, 8, 4096, 5000]))) for _ in range(30)]
    expected, position, ends = b"", 1 << 33, []
    for offset, data in writes:
        at = Position(7, position)
        header = encode_record_header(Kind.WRITE, 3, at, offset, len(data), 99, data)
        expected += header + data.ljust(padded_bytes(len(data)), b"\0")
        position += record_bytes(len(data))
        ends.append(position - (1 << 33))
    pieces, found = encode_writes(3, Position(7, 1 << 33), writes, 99, 1 << 30)
    assert b"".join(pieces) == expected
    assert found == ends


def test_the_first_record_without_room_ends_it() -> None:
    writes = [(0, b"a" * 4096), (4096, b"b" * 4096), (8192, b"c")]
    for missing in (0, 1):
        room_bytes = 2 * record_bytes(4096) - missing
        pieces, ends = encode_writes(0, Position(1, 0), writes, 0, room_bytes)
        assert len(ends) == 2 - missing
        assert sum(map(len, pieces)) == ends[-1]
    assert encode_writes(0, Position(1, 0), writes, 0, 100) == ([], [])
