"""Values of names parsed together: never anything that one by one would be refused, or be something else."""

from __future__ import annotations

import random

import numpy as np
import pytest

from cdp_container.errors import CdpError
from cdp_container.format.jsontext import dump_object
from cdp_container.format.limits import SPACE_BYTES_MAX
from cdp_container.format.names import MODE_MAX, OWNER_MAX, Name, NameType, name_members, parse_name
from cdp_container.format.plain_names import TYPES, parse_plain

FIGURES: dict[str, list[int]] = {
    "mode": [0o644, 0o755, MODE_MAX, MODE_MAX + 1],
    "uid": [0, 1, 1000, OWNER_MAX, OWNER_MAX + 1],
    "gid": [0, 5, 10**15],
    "mtime_ns": [1_600_000_000_123_456_789, -5, 2**63 - 1, -(2**63), 2**63, 10**19 - 1],
    "size_bytes": [0, 5, 10**6, SPACE_BYTES_MAX, SPACE_BYTES_MAX + 1],
}
CONTENTS = ["00" * 16, "0123456789abcdef" * 2, "fe" * 16, "AB" * 16, "g0" * 16, "00" * 15]


def found_of(values: list[bytes]) -> list[Name | None]:
    lengths = np.array([len(value) for value in values], dtype=np.int64)
    rows, is_found = parse_plain(b"".join(values), np.cumsum(lengths) - lengths, lengths)
    return [_name(row) if found else None for row, found in zip(rows, is_found.tolist(), strict=True)]


def _name(row: np.void) -> Name:
    kind, mode, uid, gid, mtime_ns, size_bytes, has_space, space = (
        row[column] for column in row.dtype.names or ()
    )
    figures = (int(mode), int(uid), int(gid), int(mtime_ns), int(size_bytes))
    return Name(TYPES[kind], *figures, space.tobytes() if has_space else None)


def said_of(value: bytes) -> Name | None:
    try:
        return parse_name(value, "a name")
    except CdpError:
        return None


def drawn(rng: random.Random) -> bytes:
    """A value that may be sound, or out of range, or no JSON."""
    members: dict[str, object] = {"type": rng.choice(["file", "file", "directory", "fifo"])}
    for member, figures in FIGURES.items():
        if rng.random() < 0.5:
            members[member] = rng.choice(figures[: rng.choice([1, 2, 9])])
    if rng.random() < 0.5:
        members["space"] = rng.choice(CONTENTS[: rng.choice([3, 9])])
    value = bytearray(dump_object(members))
    if rng.random() < 0.2:
        value[rng.randrange(len(value))] = rng.choice(b'09"-{}:, afz')
    return bytes(value)


@pytest.mark.parametrize("seed", range(200))
def test_what_is_found_is_what_one_by_one_says(seed: int) -> None:
    rng = random.Random(seed)
    values = [drawn(rng) for _ in range(rng.randrange(1, 60))]
    for value, found in zip(values, found_of(values), strict=True):
        assert found is None or found == said_of(value), value


def test_names_as_writers_say_them_are_found() -> None:
    names = [
        Name(NameType.FILE, 0o644, 0, 0, 1_600_000_000_000_000_000 + number, number, bytes([number]) * 16)
        for number in range(100)
    ]
    names += [Name(NameType.DIRECTORY, 0o755, number, 7, -number) for number in range(30)]
    names += [Name(NameType.FILE), Name(NameType.FILE, 0o600, space=b"s" * 16)]
    assert found_of([dump_object(name_members(name)) for name in names]) == names


@pytest.mark.parametrize(
    "value",
    [
        b'{"mode":0644,"type":"file"}',
        b'{"mtime_ns":-0,"type":"file"}',
        b'{"size_bytes":5,"type":"file"}',
        b'{"size_bytes":5,"type":"directory"}',
        b'{"space":"00000000000000000000000000000000","type":"directory"}',
        b'{"mode":420,"type":"file"} ',
        b'{"mode":420,"type":"file",}',
    ],
)
def test_what_is_left_to_others(value: bytes) -> None:
    sound = b'{"mode":' + b"4" * (len(value) - 24) + b',"type":"file"}'
    assert found_of([sound, value])[1] is None
