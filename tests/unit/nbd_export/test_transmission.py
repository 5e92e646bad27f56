"""Which requests are refused, and with what; and that a refused one does not derail the stream."""

from __future__ import annotations

import pytest

from nbd_export.backend import FixedExports
from nbd_export.errors import ClientProtocolError, NbdErrno
from nbd_export.limits import PAYLOAD_BYTES_MAX, SKIPPED_PAYLOAD_BYTES_MAX
from nbd_export.protocol import Disconnected, ServerConnection
from nbd_export.transmission import Request, bytes_for_reads, fault_of, read_header, room_for_reads
from tests.nbd_server import MemoryExport
from tests.unit.nbd_export.wire_client import (
    DISC,
    FLAGS,
    FLUSH,
    FUA,
    NO_HOLE,
    READ,
    TRIM,
    WRITE,
    WRITE_ZEROES,
    feed,
    go,
    request,
    simple_replies,
)

SIZE = 100 << 20
EPERM, EINVAL, ENOSPC, OK = NbdErrno.EPERM, NbdErrno.EINVAL, NbdErrno.ENOSPC, NbdErrno.OK


@pytest.mark.parametrize(
    ("command", "flags", "offset", "length", "fault"),
    [
        (READ, 0, 0, 1, OK), (READ, FUA, SIZE - 1, 1, OK), (READ, 0, 0, PAYLOAD_BYTES_MAX, OK),
        (READ, 0, 0, PAYLOAD_BYTES_MAX + 1, EINVAL), (READ, 0, 0, 0, EINVAL), (READ, 0, SIZE, 1, EINVAL),
        (READ, 0, SIZE - 1, 2, EINVAL), (READ, 0, 2**64 - 1, 1, EINVAL), (READ, NO_HOLE, 0, 1, EINVAL),
        (READ, 4, 0, 1, EINVAL),
        (WRITE, 0, 0, 1, OK), (WRITE, FUA, 5, 1, OK), (WRITE, 0, 0, 0, EINVAL), (WRITE, 0, SIZE, 1, ENOSPC),
        (WRITE, 0, 2**64 - 1, 2**25, ENOSPC), (WRITE, 0, 0, PAYLOAD_BYTES_MAX + 1, EINVAL),
        (WRITE, NO_HOLE, 0, 1, EINVAL), (WRITE, 0x8000, 0, 1, EINVAL),
        (FLUSH, 0, 0, 0, OK), (FLUSH, FUA, 0, 0, OK), (FLUSH, 0, 1, 0, EINVAL), (FLUSH, 0, 0, 1, EINVAL),
        (TRIM, 0, 0, SIZE, OK), (TRIM, FUA, 1, 1, OK), (TRIM, 0, 1, SIZE, EINVAL),
        (TRIM, NO_HOLE, 0, 1, EINVAL),
        (WRITE_ZEROES, 0, 0, SIZE, OK), (WRITE_ZEROES, FUA | NO_HOLE, 0, 1, OK),
        (WRITE_ZEROES, 0, 1, SIZE, ENOSPC), (WRITE_ZEROES, 16, 0, 1, EINVAL), (WRITE_ZEROES, 0, 0, 0, EINVAL),
        (5, 0, 0, 1, OK), (5, 0, SIZE, 1, EINVAL), (5, 4, 0, 1, EINVAL),
        (7, 0, 0, 1, EINVAL), (8, 0, 0, 1, EINVAL), (65535, 0, 0, 1, EINVAL),
    ],
)  # fmt: skip
def test_each_fault_has_its_error(
    command: int, flags: int, offset: int, length: int, fault: NbdErrno
) -> None:
    assert fault_of(command, flags, offset, length, SIZE, read_only=False) == fault


@pytest.mark.parametrize("structured", [False, True])
def test_replies_to_reads_that_came_together_are_those_of_each(structured: bool) -> None:
    reads = [(7, 0, 5), (2**64 - 1, SIZE - 9, 9), (0, 4096, 1)]
    replies, places = room_for_reads(reads, structured)
    expected = b""
    for (cookie, offset, length), (at, into) in zip(reads, places, strict=True):
        assert at == offset
        into[:] = bytes([length]) * length
        expected += read_header(Request(READ, cookie, offset, length, 0, b""), structured)
        expected += bytes([length]) * length
    assert replies == expected
    assert bytes_for_reads(reads[:1], structured) == len(expected) - bytes_for_reads(reads[1:], structured)


@pytest.mark.parametrize("command", [WRITE, TRIM, WRITE_ZEROES])
def test_a_read_only_export_refuses_what_writes(command: int) -> None:
    assert fault_of(command, 0, 0, 1, SIZE, read_only=True) == EPERM
    assert fault_of(READ, 0, 0, 1, SIZE, read_only=True) == OK
    assert fault_of(FLUSH, 0, 0, 0, SIZE, read_only=True) == OK


@pytest.fixture
def connection() -> ServerConnection:
    connection = ServerConnection(FixedExports([MemoryExport(1 << 20)]))
    feed(connection, [FLAGS, go("disk")])
    connection.data_to_send()
    return connection


@pytest.mark.parametrize("length", [1, 4096, 300_000, PAYLOAD_BYTES_MAX + 1])
def test_the_payload_of_a_refused_write_is_skipped(connection: ServerConnection, length: int) -> None:
    beyond = request(WRITE, 7, 1 << 20, length, payload=bytes(length))
    assert feed(connection, [beyond, request(FLUSH, 8)]) == [Request(FLUSH, 8, 0, 0, 0, b"")]
    error = EINVAL if length > PAYLOAD_BYTES_MAX else ENOSPC
    assert simple_replies(connection.data_to_send()) == [(7, error)]


def test_a_write_of_absurd_length_is_hung_up_on(connection: ServerConnection) -> None:
    with pytest.raises(ClientProtocolError):
        feed(connection, [request(WRITE, 7, 0, SKIPPED_PAYLOAD_BYTES_MAX + 1)])


def test_refused_requests_without_payload_do_not_derail_the_stream(connection: ServerConnection) -> None:
    bad = [request(READ, 1, 0, 2**32 - 1), request(99, 2, 3, 4), request(TRIM, 3, 1 << 20, 1)]
    (good,) = feed(connection, [b"".join(bad) + request(READ, 4, 0, 8)])
    assert good == Request(READ, 4, 0, 8, 0, b"")
    assert simple_replies(connection.data_to_send()) == [(1, EINVAL), (2, EINVAL), (3, EINVAL)]


def test_a_request_without_magic_is_hung_up_on(connection: ServerConnection) -> None:
    with pytest.raises(ClientProtocolError):
        feed(connection, [bytes(28)])
    assert feed(connection, [request(FLUSH, 1)]) == [], "what follows is dropped"


def test_disc_ends_it_and_what_follows_is_dropped(connection: ServerConnection) -> None:
    assert feed(connection, [request(DISC) + request(FLUSH, 1), request(FLUSH, 2)]) == [Disconnected()]


def test_a_large_payload_is_the_receivers_to_keep(connection: ServerConnection) -> None:
    first, second = (bytes([n]) * 300_000 for n in (1, 2))
    stream = request(WRITE, 1, 0, 300_000, payload=first) + request(WRITE, 2, 0, 300_000, payload=second)
    events = feed(connection, [stream])
    assert [event.payload for event in events if isinstance(event, Request)] == [first, second]


def test_no_room_is_promised_to_a_client_that_only_announces(connection: ServerConnection) -> None:
    feed(connection, [request(WRITE, 1, 0, 1 << 20)])
    assert len(connection.receive_buffer()) == 1 << 20
