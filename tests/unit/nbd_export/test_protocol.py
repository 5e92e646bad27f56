"""One recorded conversation, cut at every byte; and clients that say anything at all."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Sequence
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbd_export.backend import FixedExports
from nbd_export.errors import ClientProtocolError
from nbd_export.limits import BUFFER_BYTES, PAYLOAD_BYTES_MAX
from nbd_export.protocol import Disconnected, Event, Opened, ServerConnection
from nbd_export.transmission import Request
from tests.nbd_server import MemoryExport
from tests.unit.nbd_export.wire_client import (
    DISC,
    FLAGS,
    FLUSH,
    FUA,
    GO,
    INFO,
    LIST,
    NO_HOLE,
    READ,
    TRIM,
    WRITE,
    WRITE_ZEROES,
    feed,
    go,
    option,
    request,
    take_events,
    take_events_quickly,
)

DISK = MemoryExport(1 << 20)
EXPORTS = FixedExports([DISK])

RECORDED = b"".join([
    FLAGS, option(8), option(LIST), go("nobody"), go("disk", 1, 3, number=INFO), go("", 3),
    request(WRITE, 0x1122334455667788, 4096, 700, FUA, payload=bytes(range(7)) * 100),
    request(READ, 2, 4096, 700),
    request(WRITE, 3, 1 << 20, 9, payload=b"beyond it"),
    request(WRITE_ZEROES, 4, 0, 1 << 20, NO_HOLE), request(TRIM, 5, 1, 2), request(FLUSH, 6),
    request(READ, 7, 0, 0), request(DISC),
])  # fmt: skip

EVENTS: list[Event] = [
    Opened(DISK, structured=True),
    Request(WRITE, 0x1122334455667788, 4096, 700, 1, bytes(range(7)) * 100),
    Request(READ, 2, 4096, 700, 0, b""),
    Request(WRITE_ZEROES, 4, 0, 1 << 20, 2, b""),
    Request(TRIM, 5, 1, 2, 0, b""),
    Request(FLUSH, 6, 0, 0, 0, b""),
    Disconnected(),
]


def converse(pieces: Sequence[bytes]) -> tuple[list[Event], bytes]:
    connection = ServerConnection(EXPORTS)
    return feed(connection, pieces), connection.data_to_send()


def test_a_conversation_cut_at_any_byte_is_the_same() -> None:
    whole = converse([RECORDED])
    assert whole[0] == EVENTS
    for at in range(len(RECORDED) + 1):
        assert converse([RECORDED[:at], RECORDED[at:]]) == whole, at


def test_a_conversation_of_single_bytes_is_the_same() -> None:
    assert converse([RECORDED[at : at + 1] for at in range(len(RECORDED))]) == converse([RECORDED])


@pytest.mark.parametrize("length", [32 << 10, (32 << 10) + 1, BUFFER_BYTES, BUFFER_BYTES + 1, 700_000])
@pytest.mark.parametrize("piece_bytes", [997, 65536, 1 << 20])
def test_payloads_of_all_sizes_arrive_whole(length: int, piece_bytes: int) -> None:
    payload = bytes(at * 31 % 251 for at in range(length))
    stream = FLAGS + go("") + request(WRITE, 1, 9, length, payload=payload) * 2 + request(FLUSH, 2)
    events, _ = converse([stream[at : at + piece_bytes] for at in range(0, len(stream), piece_bytes)])
    write = Request(WRITE, 1, 9, length, 0, payload)
    assert events == [Opened(DISK), write, write, Request(FLUSH, 2, 0, 0, 0, b"")]


def test_a_conversation_cut_off_at_any_byte_yields_only_a_beginning() -> None:
    for at in range(len(RECORDED)):
        events, _ = converse([RECORDED[:at]])
        assert events == EVENTS[: len(events)], at
        assert len(events) < len(EVENTS), at


junk = st.binary(max_size=200)
numbers = st.one_of(st.integers(0, 12), st.integers(0, 2**32 - 1))
options = st.one_of(
    st.builds(option, numbers, junk),
    st.builds(lambda name, infos, number: go(name, *infos, number=number),
              st.text(max_size=20), st.lists(st.integers(0, 65535), max_size=5), st.sampled_from([GO, INFO])),
    junk,
)  # fmt: skip
requests = st.one_of(
    st.builds(
        request,
        st.one_of(st.integers(0, 8), st.integers(0, 65535)),
        st.integers(0, 2**64 - 1),
        st.one_of(st.integers(0, 2 << 20), st.integers(0, 2**64 - 1)),
        st.one_of(st.integers(0, 5000), st.integers(0, 2**32 - 1)),
        st.one_of(st.integers(0, 3), st.integers(0, 65535)),
        st.binary(max_size=5000),
    ),
    junk,
)
hostile = st.builds(
    lambda haggling, opening, asking: FLAGS + b"".join(haggling) + opening + b"".join(asking),
    st.lists(options, max_size=6), st.sampled_from([b"", go("disk")]), st.lists(requests, max_size=8),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(stream=hostile, piece_bytes=st.integers(1, 4000))
def test_any_bytes_give_events_inside_the_export_or_the_typed_error(stream: bytes, piece_bytes: int) -> None:
    connection = ServerConnection(EXPORTS)
    try:
        events = feed(
            connection, [stream[at : at + piece_bytes] for at in range(0, len(stream), piece_bytes)]
        )
    except ClientProtocolError:
        assert take_events(connection) == []
        return
    for event in events:
        if isinstance(event, Request) and event.command != FLUSH:
            assert 0 < event.length <= DISK.size_bytes - event.offset
            assert len(event.payload) == (event.length if event.command == WRITE else 0)
    # It can be cut into other pieces, and nothing changes.
    assert converse([stream])[0] == events


plain_writes = st.builds(
    lambda cookie, offset, payload: request(WRITE, cookie, offset, len(payload), 0, payload),
    st.integers(0, 2**64 - 1), st.integers(0, (1 << 20) + 9), st.binary(max_size=40_000),
)  # fmt: skip
plain_reads = st.builds(
    lambda cookie, offset, length: request(READ, cookie, offset, length),
    st.integers(0, 2**64 - 1), st.integers(0, (1 << 20) + 9), st.integers(0, 40_000),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(
    asking=st.lists(st.one_of(plain_writes, plain_reads, requests), max_size=12),
    piece_bytes=st.integers(1, 60_000),
)
def test_the_quick_ways_see_what_the_slow_one_sees(asking: list[bytes], piece_bytes: int) -> None:
    stream = b"".join(asking)
    pieces = [stream[at : at + piece_bytes] for at in range(0, len(stream), piece_bytes)]
    seen = []
    for take in (take_events, take_events_quickly):
        connection = ServerConnection(EXPORTS)
        events = feed(connection, [FLAGS, go("disk")])
        with suppress(ClientProtocolError):
            for piece in pieces:
                events += feed(connection, [piece], take)
        seen.append((events, connection.data_to_send(), connection.steps_count))
    assert seen[0] == seen[1]


def test_the_quick_way_changes_nothing_that_is_read_only() -> None:
    export = MemoryExport(1 << 20, read_only=True)
    connection = ServerConnection(FixedExports([export]))
    events = feed(connection, [FLAGS, go(""), request(WRITE, 1, 0, 3, payload=b"abc")], take_events_quickly)
    assert events == [Opened(export)]
    assert connection.data_to_send().endswith(struct.pack(">IIQ", 0x67446698, 1, 1))


def test_reads_that_are_taken_together_are_bounded() -> None:
    connection = ServerConnection(EXPORTS)
    feed(connection, [FLAGS, go("disk")])
    stream = b"".join(request(READ, n, 0, 32 << 10) for n in range(9))
    room = connection.receive_buffer()
    room[: len(stream)] = stream
    connection.received(len(stream))
    assert [len(connection.take_reads(256)) for _ in range(4)] == [4, 4, 1, 0]
    assert connection.is_used_up


def test_memory_is_bounded_whatever_a_client_announces() -> None:
    export = MemoryExport(0)
    export.size_bytes = 1 << 40
    connection = ServerConnection(FixedExports([export]))
    feed(connection, [FLAGS, go("")])
    tracemalloc.start()
    try:
        for n in range(50):
            length = PAYLOAD_BYTES_MAX + 1 + n  # refused and skipped
            feed(connection, [request(WRITE, n, 0, length)])
            for _ in range(length // BUFFER_BYTES):
                connection.received(len(connection.receive_buffer()))
                take_events(connection)
            feed(connection, [bytes(length % BUFFER_BYTES)])
        feed(connection, [request(WRITE, 99, 0, PAYLOAD_BYTES_MAX), bytes(10)])
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < PAYLOAD_BYTES_MAX + 2 * BUFFER_BYTES
