"""The metadata contexts of NBD: their options and answers, as pure functions.

There is one context, base:allocation. What its parts are is the export's word (`backend.State`);
how they are sent belongs to `transmission`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from nbd_export import wire
from nbd_export.limits import CONTEXT_QUERIES_MAX

ALLOCATION: Final = b"base:allocation"
ALLOCATION_ID: Final = 1


def parse_queries(data: bytes) -> tuple[bytes, list[bytes]]:
    """The export's name and the queries in the data of LIST_META_CONTEXT or SET_META_CONTEXT.

    Raises:
        ValueError: it does not hold together.
    """
    name, rest = _string(data)
    if len(rest) < wire.UINT32.size:
        raise ValueError("the option's data is too short")
    (count,) = wire.UINT32.unpack_from(rest)
    if count > CONTEXT_QUERIES_MAX:
        raise ValueError("too many queries")
    rest = rest[wire.UINT32.size :]
    queries = []
    for _ in range(count):
        query, rest = _string(rest)
        queries.append(query)
    if rest:
        raise ValueError("the option's data is longer than its queries")
    return name, queries


def listed(queries: list[bytes]) -> Iterator[bytes]:
    """The data of the replies to LIST_META_CONTEXT; without a query all are meant. Listed ones have no id."""
    if not queries or b"base:" in queries or ALLOCATION in queries:
        yield wire.UINT32.pack(0) + ALLOCATION


def chosen(queries: list[bytes]) -> Iterator[bytes]:
    """The data of the replies to SET_META_CONTEXT: what is not known is passed over."""
    if ALLOCATION in queries:
        yield wire.UINT32.pack(ALLOCATION_ID) + ALLOCATION


def _string(data: bytes) -> tuple[bytes, bytes]:
    """A string with its length before it; and what follows."""
    if len(data) < wire.UINT32.size:
        raise ValueError("the option's data is too short")
    (length,) = wire.UINT32.unpack_from(data)
    end = wire.UINT32.size + length
    if end > len(data):
        raise ValueError("a string is longer than the option's data")
    return data[wire.UINT32.size : end], data[end:]
