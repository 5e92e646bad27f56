"""Values of `name+` like most, parsed thousands at once: files and directories as our writers say them. PURE.

Values of one length that differ in their figures alone are compared with the first of them, byte by byte.
What any other value says is for `parse_name`, which is asked for all that is not found here.
"""

from __future__ import annotations

import re
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cdp_container.format.layout import ID_BYTES
from cdp_container.format.limits import SPACE_BYTES_MAX
from cdp_container.format.members import I64_MAX
from cdp_container.format.names import MODE_MAX, OWNER_MAX, NameType

PLAIN: Final = np.dtype(
    [
        ("type", "u1"),
        ("mode", "<u2"),
        ("uid", "<u4"),
        ("gid", "<u4"),
        ("mtime_ns", "<i8"),
        ("size_bytes", "<i8"),
        ("has_space", "?"),
        ("space", "u1", (ID_BYTES,)),
    ]
)
"""What a name without target, device and extended attributes says; `type` is its number among `TYPES`."""
TYPES: Final = tuple(NameType)
PATTERNS_MAX: Final = 16
"""Kinds of values of one length that are told apart; what is of none is left to others."""

_FILE, _DIRECTORY = TYPES.index(NameType.FILE), TYPES.index(NameType.DIRECTORY)
_PATTERN: Final = re.compile(
    rb'\{(?:"gid":(?P<gid>\d+),)?(?:"mode":(?P<mode>\d+),)?(?:"mtime_ns":(?P<sign>-?)(?P<mtime_ns>\d+),)?'
    rb'(?:"size_bytes":(?P<size_bytes>\d+),)?(?:"space":"(?P<space>[0-9a-f]{%d})",)?'
    rb'"type":"(?P<type>file|directory)"(?:,"uid":(?P<uid>\d+))?\}' % (2 * ID_BYTES)
)
_MOST: Final = {
    "gid": OWNER_MAX,
    "mode": MODE_MAX,
    "mtime_ns": I64_MAX,
    "size_bytes": SPACE_BYTES_MAX,
    "uid": OWNER_MAX,
}
_DIGITS_MAX: Final = len(str(I64_MAX))
_ZERO, _NINE, _A, _F = (ord(sign) for sign in "09af")

_Bytes = NDArray[np.uint8]
_Numbers = NDArray[np.int64]
_Flags = NDArray[np.bool_]


def parse_plain(data: bytes, starts: _Numbers, lengths: _Numbers) -> tuple[NDArray[Any], _Flags]:
    """What values say (PLAIN), and of which of them that was found; the rows of others are zeros.

    Args:
        data: all bytes.
        starts: where each value begins.
        lengths: how many bytes it has, one at least.
    """
    found = np.zeros(len(starts), dtype=PLAIN)
    is_found = np.zeros(len(starts), dtype=np.bool_)
    for length in np.unique(lengths).tolist():
        every = np.ndarray((len(data) - length + 1, length), dtype=np.uint8, buffer=data, strides=(1, 1))
        left = np.flatnonzero(lengths == length)
        values = every[starts[left]]
        for _ in range(PATTERNS_MAX):
            if not len(left):
                break
            match = _PATTERN.fullmatch(values[0].tobytes())
            fits = _fitting(match, values) if match is not None else None
            if match is None or fits is None:
                left, values = left[1:], values[1:]  # `parse_name` says what it is
                continue
            rows, is_right = _rows(match, values[fits])
            found[left[fits][is_right]] = rows[is_right]
            is_found[left[fits][is_right]] = True
            left, values = left[~fits], values[~fits]
    return found, is_found


def _fitting(match: re.Match[bytes], values: _Bytes) -> _Flags | None:
    """Which values differ from the matched one in figures alone; None where its own are too many."""
    literal = np.ones(values.shape[1], dtype=np.bool_)
    fits = np.ones(len(values), dtype=np.bool_)
    for member in _MOST:
        first, beyond = match.span(member)
        if first < 0:
            continue
        if beyond - first > _DIGITS_MAX:
            return None
        literal[first:beyond] = False
        digits = values[:, first:beyond]
        fits &= ((digits >= _ZERO) & (digits <= _NINE)).all(axis=1)
    first, beyond = match.span("space")
    if first >= 0:
        literal[first:beyond] = False
        signs = values[:, first:beyond]
        is_hex = ((signs >= _ZERO) & (signs <= _NINE)) | ((signs >= _A) & (signs <= _F))
        fits &= is_hex.all(axis=1)
    fits &= (values[:, literal] == values[0, literal]).all(axis=1)
    return fits


def _rows(match: re.Match[bytes], values: _Bytes) -> tuple[NDArray[Any], _Flags]:
    """Values that fit as rows, and which of them are within their limits and no other damage."""
    rows = np.zeros(len(values), dtype=PLAIN)
    is_right = np.ones(len(values), dtype=np.bool_)
    is_file = match["type"] == b"file"
    rows["type"] = _FILE if is_file else _DIRECTORY
    for member, most in _MOST.items():
        first, beyond = match.span(member)
        if first < 0:
            continue
        digits = values[:, first:beyond].astype(np.uint64) - np.uint64(_ZERO)
        powers = np.array([10**power for power in reversed(range(beyond - first))], dtype=np.uint64)
        numbers = (digits * powers).sum(axis=1, dtype=np.uint64)
        is_right &= numbers <= most
        if beyond - first > 1 or (member == "mtime_ns" and match["sign"]):
            is_right &= digits[:, 0] > 0  # JSON begins no number with a zero
        numbers = np.where(is_right, numbers, 0).astype(np.int64)
        rows[member] = -numbers if member == "mtime_ns" and match["sign"] else numbers
    first, beyond = match.span("space")
    if first >= 0:
        signs = values[:, first:beyond]
        nibbles = np.where(signs <= _NINE, signs - _ZERO, signs - _A + 10).astype(np.uint8)
        rows["space"] = nibbles[:, ::2] << 4 | nibbles[:, 1::2]
        rows["has_space"] = True
        is_right &= is_file
    elif match["size_bytes"] is not None:
        is_right &= rows["size_bytes"] == 0
    return rows, is_right
