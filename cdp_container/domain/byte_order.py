"""Many strings of bytes, which lie somewhere in one memory, put in order and compared at once. PURE, numpy.

Eight bytes of each are looked at together, and further ones only where those before are the same. What the
bytes mean does not belong here (name_rows).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cdp_container.extents.intervals import Flags, Ints

WORD_BYTES: Final = 8

_WORD: Final = np.dtype(">u8")


def in_order(data: memoryview, starts: Ints, lengths: Ints, before: Ints | None = None) -> tuple[Ints, Flags]:
    """How to sort strings as Python sorts bytes; what is equal stays in its order.

    Args:
        data: all bytes.
        starts: where each string begins.
        lengths: how many bytes it has.
        before: numbers by which they are sorted first.

    Returns:
        The order, and of each string in it whether it is as the one before (of the same number).
    """
    count = len(starts)
    groups = np.zeros(count, dtype=np.int64) if before is None else np.asarray(before, dtype=np.int64)
    order = np.argsort(groups, kind="stable")
    groups = groups[order]
    is_new = _differs(groups)
    at = np.flatnonzero(_is_shared(is_new))  # places in the order that are not decided yet, group by group
    skip = 0
    while len(at):
        mine = order[at]
        left = np.maximum(lengths[mine] - skip, 0)
        word, used = _words(data, starts[mine] + skip, left), np.minimum(left, WORD_BYTES).astype(np.uint8)
        group = np.cumsum(is_new[at], dtype=np.int32)
        sub = np.lexsort((used, word, group))
        order[at] = mine[sub]
        word, used, group, left = word[sub], used[sub], group[sub], left[sub]
        is_new[at] = _differs(group) | _differs(word) | _differs(used)
        skip += WORD_BYTES
        goes_on = _is_shared(is_new[at]) & (
            left > WORD_BYTES
        )  # a word that ends is like no word that does not
        at = at[goes_on | _of_group(goes_on, is_new[at])]
    return order, ~is_new


def like_the_last(data: memoryview, starts: Ints, lengths: Ints) -> Flags:
    """Of each string whether it is as the one before it."""
    found = np.zeros(len(starts), dtype=np.bool_)
    at = np.flatnonzero(lengths[1:] == lengths[:-1]) + 1
    skip = 0
    while len(at):
        left = np.maximum(lengths[at] - skip, 0)
        same = _words(data, starts[at] + skip, left) == _words(data, starts[at - 1] + skip, left)
        at, left = at[same], left[same]
        skip += WORD_BYTES
        is_done = left <= WORD_BYTES
        found[at[is_done]] = True
        at = at[~is_done]
    return found


def _differs(numbers: NDArray[Any]) -> Flags:
    """Of each whether it is another one than that before; the first is."""
    found = np.ones(len(numbers), dtype=np.bool_)
    found[1:] = numbers[1:] != numbers[:-1]
    return found


def _is_shared(is_new: Flags) -> Flags:
    """Of each whether its group, which begins where `is_new`, has others."""
    found: Flags = ~(is_new & np.append(is_new[1:], True))
    return found


def _of_group(flags: Flags, is_new: Flags) -> Flags:
    """Of each whether any of its group has the flag."""
    group = np.cumsum(is_new) - 1
    found: Flags = np.bincount(group, weights=flags).astype(np.bool_)[group]
    return found


def _words(data: memoryview, starts: Ints, lengths: Ints) -> NDArray[np.uint64]:
    """The next eight bytes of each as a number that sorts as they do; zeros are behind its end."""
    if len(data) < WORD_BYTES:
        data = memoryview(bytes(data).ljust(WORD_BYTES, b"\0"))
    last = len(data) - WORD_BYTES
    found = np.zeros(len(starts), dtype=np.uint64)
    used = np.flatnonzero(lengths > 0)
    where = np.minimum(starts[used], last)
    every = np.ndarray((last + 1,), dtype=_WORD, buffer=data, strides=(1,))
    words = every[where].astype(np.uint64) << _bits(starts[used] - where)
    beyond = _bits(WORD_BYTES - np.minimum(lengths[used], WORD_BYTES))
    found[used] = words >> beyond << beyond
    return found


def _bits(lengths: Ints) -> NDArray[np.uint64]:
    return (8 * lengths).astype(np.uint64)
