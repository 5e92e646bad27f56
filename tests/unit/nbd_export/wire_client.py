"""What a client says, byte by byte, and what a server said: for tests of the protocol without I/O."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from nbd_export.protocol import NEED_DATA, Event, Progress, ServerConnection
from nbd_export.transmission import Request

FLAGS = struct.pack(">I", 3)
GO, INFO, LIST, ABORT, EXPORT_NAME = 7, 6, 3, 2, 1
STARTTLS, STRUCTURED_REPLY, LIST_META_CONTEXT, SET_META_CONTEXT = 5, 8, 9, 10
READ, WRITE, DISC, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS = 0, 1, 2, 3, 4, 5, 6, 7
FUA, NO_HOLE, DF, REQ_ONE = 1, 2, 4, 8
ACK, SERVER, INFO_REPLY, META_CONTEXT = 1, 2, 3, 4


def option(number: int, data: bytes = b"") -> bytes:
    return struct.pack(">QII", 0x49484156454F5054, number, len(data)) + data


def go(name: str = "", *infos: int, number: int = GO) -> bytes:
    encoded = name.encode()
    return option(
        number,
        struct.pack(f">I{len(encoded)}sH{len(infos)}H", len(encoded), encoded, len(infos), *infos),
    )


def meta_context(number: int, name: str, *queries: bytes) -> bytes:
    encoded = name.encode()
    parts = [struct.pack(">I", len(query)) + query for query in queries]
    return option(
        number, struct.pack(">I", len(encoded)) + encoded + struct.pack(">I", len(parts)) + b"".join(parts)
    )


def request(
    command: int, cookie: int = 0, offset: int = 0, length: int = 0, flags: int = 0, payload: bytes = b""
) -> bytes:
    return struct.pack(">IHHQQI", 0x25609513, flags, command, cookie, offset, length) + payload


def option_replies(data: bytes) -> list[tuple[int, int, bytes]]:
    """All of `data` as option replies: (option, kind, data)."""
    replies = []
    while data:
        magic, number, kind, length = struct.unpack_from(">QIII", data)
        assert magic == 0x3E889045565A9
        replies.append((number, kind, data[20 : 20 + length]))
        data = data[20 + length :]
    return replies


def simple_replies(data: bytes) -> list[tuple[int, int]]:
    """All of `data` as replies without payload: (cookie, error)."""
    assert len(data) % 16 == 0
    replies = []
    for magic, error, cookie in struct.iter_unpack(">IIQ", data):
        assert magic == 0x67446698
        replies.append((cookie, error))
    return replies


def chunks(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """All of `data` as chunks of structured replies: (cookie, flags, type, what follows)."""
    found = []
    while data:
        magic, flags, kind, cookie, length = struct.unpack_from(">IHHQI", data)
        assert magic == 0x668E33EF
        found.append((cookie, flags, kind, data[20 : 20 + length]))
        data = data[20 + length :]
    return found


def take_events(connection: ServerConnection) -> list[Event]:
    events: list[Event] = []
    while (event := connection.next_event()) is not NEED_DATA:
        assert not isinstance(event, Progress)
        events.append(event)
    return events


def take_events_quickly(connection: ServerConnection) -> list[Event]:
    """The same, with the quick ways for writes and reads."""
    events: list[Event] = []
    while True:
        cookies, writes = connection.take_writes(3)
        for cookie, (offset, data) in zip(cookies, writes, strict=True):
            events.append(Request(WRITE, cookie, offset, len(data), 0, data))
        reads = connection.take_reads(3)
        events += [Request(READ, cookie, offset, length, 0, b"") for cookie, offset, length in reads]
        if not cookies and not reads:
            event = connection.next_event()
            if event is NEED_DATA:
                return events
            assert not isinstance(event, Progress)
            events.append(event)


def feed(
    connection: ServerConnection,
    pieces: Sequence[bytes],
    take_events: Callable[[ServerConnection], list[Event]] = take_events,
) -> list[Event]:
    """Give the pieces as separate receives, however little the connection takes at a time; all events."""
    events = take_events(connection)
    for piece in pieces:
        left = memoryview(piece)
        while left:
            room = connection.receive_buffer()
            taken = min(len(room), len(left))
            room[:taken] = left[:taken]
            connection.received(taken)
            left = left[taken:]
            events += take_events(connection)
    return events
