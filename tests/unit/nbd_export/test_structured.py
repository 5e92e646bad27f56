"""Structured replies, metadata contexts and block status, byte by byte."""

from __future__ import annotations

import struct

import pytest

from nbd_export.backend import Extent, FixedExports, State
from nbd_export.errors import NbdErrno
from nbd_export.limits import CONTEXT_QUERIES_MAX
from nbd_export.protocol import Opened, ServerConnection
from nbd_export.transmission import Request, error_reply, fault_of, flags_allowed, read_header, status_reply
from tests.nbd_server import MemoryExport
from tests.unit.nbd_export.wire_client import (
    ACK,
    BLOCK_STATUS,
    DF,
    EXPORT_NAME,
    FLAGS,
    FUA,
    INFO_REPLY,
    LIST_META_CONTEXT,
    META_CONTEXT,
    NO_HOLE,
    READ,
    REQ_ONE,
    SET_META_CONTEXT,
    STRUCTURED_REPLY,
    WRITE,
    chunks,
    feed,
    go,
    meta_context,
    option,
    option_replies,
    request,
    simple_replies,
)

ERR_INVALID, ERR_UNKNOWN = 0x80000003, 0x80000006
ALLOCATION = b"base:allocation"
SEND_DF = 1 << 7
CHOSEN = struct.pack(">I", 1) + ALLOCATION
LISTED = struct.pack(">I", 0) + ALLOCATION

DISK = MemoryExport(1 << 20, "disk")
OTHER = MemoryExport(1 << 20, "other")


@pytest.fixture
def connection() -> ServerConnection:
    connection = ServerConnection(FixedExports([DISK, OTHER]))
    feed(connection, [FLAGS])
    connection.data_to_send()
    return connection


def answers(connection: ServerConnection, data: bytes) -> list[tuple[int, bytes]]:
    feed(connection, [data])
    return [(kind, said) for _, kind, said in option_replies(connection.data_to_send())]


def kinds(connection: ServerConnection, data: bytes) -> list[int]:
    return [kind for kind, _ in answers(connection, data)]


def structured(connection: ServerConnection) -> ServerConnection:
    assert kinds(connection, option(STRUCTURED_REPLY)) == [ACK]
    return connection


# --- options -----------------------------------------------------------------------------------


def test_structured_reply_with_data_is_invalid(connection: ServerConnection) -> None:
    assert kinds(connection, option(STRUCTURED_REPLY, b"x")) == [ERR_INVALID]
    assert feed(connection, [go("disk")]) == [Opened(DISK, structured=False)]


@pytest.mark.parametrize("number", [LIST_META_CONTEXT, SET_META_CONTEXT])
def test_contexts_need_structured_replies(connection: ServerConnection, number: int) -> None:
    assert kinds(connection, meta_context(number, "disk", ALLOCATION)) == [ERR_INVALID]


@pytest.mark.parametrize("number", [LIST_META_CONTEXT, SET_META_CONTEXT])
@pytest.mark.parametrize(
    "data",
    [
        b"", b"\0\0\0", struct.pack(">I", 1), struct.pack(">I4s", 4, b"disk"),
        struct.pack(">I4sI", 4, b"disk", 1),
        struct.pack(">I4sII", 4, b"disk", 1, 9), struct.pack(">I4sIB", 4, b"disk", 0, 0),
        struct.pack(">I4sI", 4, b"disk", CONTEXT_QUERIES_MAX + 1) + bytes(4 * CONTEXT_QUERIES_MAX + 4),
        struct.pack(">I4sI", 0xFFFFFFFF, b"disk", 0), struct.pack(">I4sII", 4, b"disk", 1, 0xFFFFFFFF),
        struct.pack(">I4sI", 4, b"disk", 0xFFFFFFFF), struct.pack(">I2sI", 2, b"\xff\xfe", 0),
    ],
)  # fmt: skip
def test_malformed_contexts_are_invalid(connection: ServerConnection, number: int, data: bytes) -> None:
    assert kinds(structured(connection), option(number, data)) == [ERR_INVALID]


@pytest.mark.parametrize("number", [LIST_META_CONTEXT, SET_META_CONTEXT])
def test_contexts_of_an_unknown_export(connection: ServerConnection, number: int) -> None:
    assert kinds(structured(connection), meta_context(number, "nobody", ALLOCATION)) == [ERR_UNKNOWN]


@pytest.mark.parametrize(
    ("queries", "found"),
    [
        ([], [LISTED]), ([b"base:"], [LISTED]), ([ALLOCATION], [LISTED]), ([b"qemu:"], []), ([b"base"], []),
        ([b"x:y", ALLOCATION], [LISTED]), ([b""], []),
    ],
)  # fmt: skip
def test_contexts_are_listed(connection: ServerConnection, queries: list[bytes], found: list[bytes]) -> None:
    said = answers(structured(connection), meta_context(LIST_META_CONTEXT, "disk", *queries))
    assert said == [(META_CONTEXT, data) for data in found] + [(ACK, b"")]


@pytest.mark.parametrize(
    ("queries", "found"),
    [([], []), ([b"base:"], []), ([b"qemu:x"], []), ([ALLOCATION], [CHOSEN]), ([ALLOCATION] * 2, [CHOSEN])],
)
def test_contexts_are_chosen(connection: ServerConnection, queries: list[bytes], found: list[bytes]) -> None:
    said = answers(structured(connection), meta_context(SET_META_CONTEXT, "disk", *queries))
    assert said == [(META_CONTEXT, data) for data in found] + [(ACK, b"")]


STATUS = request(BLOCK_STATUS, 7, 0, 4096)
CHOOSE = meta_context(SET_META_CONTEXT, "disk", ALLOCATION)


@pytest.mark.parametrize(
    "before",
    [
        [], [meta_context(LIST_META_CONTEXT, "disk", ALLOCATION)],
        [CHOOSE, meta_context(SET_META_CONTEXT, "disk")],
        [CHOOSE, meta_context(SET_META_CONTEXT, "nobody", ALLOCATION)],
        [CHOOSE, option(SET_META_CONTEXT, b"garbage")],
        [meta_context(SET_META_CONTEXT, "other", ALLOCATION)],
    ],
)  # fmt: skip
def test_status_is_refused_without_the_context_of_this_export(
    connection: ServerConnection, before: list[bytes]
) -> None:
    feed(structured(connection), [*before, go("disk")])
    connection.data_to_send()
    assert feed(connection, [STATUS]) == []
    assert chunks(connection.data_to_send()) == [(7, 1, 0x8001, struct.pack(">IH", NbdErrno.EINVAL, 0))]


def test_status_is_refused_without_structured_replies(connection: ServerConnection) -> None:
    feed(connection, [CHOOSE, go("disk")])
    connection.data_to_send()
    assert feed(connection, [STATUS]) == []
    assert simple_replies(connection.data_to_send()) == [(7, NbdErrno.EINVAL)]


def test_status_of_the_export_whose_context_was_chosen(connection: ServerConnection) -> None:
    assert feed(structured(connection), [CHOOSE, go("disk"), STATUS]) == [
        Opened(DISK, structured=True),
        Request(BLOCK_STATUS, 7, 0, 4096, 0, b""),
    ]


def test_fragments_can_be_forbidden_once_they_are_possible(connection: ServerConnection) -> None:
    (kind, said), _ = answers(structured(connection), go("disk"))
    assert kind == INFO_REPLY
    assert struct.unpack(">HQH", said)[2] & SEND_DF
    assert feed(connection, [request(READ, 1, 0, 8, DF)]) == [Request(READ, 1, 0, 8, DF, b"")]


def test_export_name_keeps_what_was_agreed_on(connection: ServerConnection) -> None:
    events = feed(structured(connection), [CHOOSE, option(EXPORT_NAME, b"disk"), STATUS])
    assert events[0] == Opened(DISK, structured=True)
    assert len(events) == 2


# --- requests ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "flags", "plain", "agreed"),
    [
        (READ, DF, NbdErrno.EINVAL, NbdErrno.OK), (WRITE, DF, NbdErrno.EINVAL, NbdErrno.EINVAL),
        (BLOCK_STATUS, 0, NbdErrno.EINVAL, NbdErrno.OK),
        (BLOCK_STATUS, REQ_ONE, NbdErrno.EINVAL, NbdErrno.OK),
        (BLOCK_STATUS, FUA, NbdErrno.EINVAL, NbdErrno.OK),
        (BLOCK_STATUS, NO_HOLE, NbdErrno.EINVAL, NbdErrno.EINVAL),
        (READ, REQ_ONE, NbdErrno.EINVAL, NbdErrno.EINVAL),
    ],
)  # fmt: skip
def test_flags_need_what_was_agreed_on(command: int, flags: int, plain: NbdErrno, agreed: NbdErrno) -> None:
    for fault, structured, with_status in [(plain, False, False), (agreed, True, True)]:
        allowed = flags_allowed(structured, with_status)
        assert fault_of(command, flags, 0, 1, 10, read_only=False, allowed=allowed) == fault


@pytest.mark.parametrize(("offset", "length"), [(0, 0), (0, 11), (10, 1), (2**64 - 1, 1)])
def test_status_stays_inside_the_export(offset: int, length: int) -> None:
    allowed = flags_allowed(structured=True, with_status=True)
    fault = fault_of(BLOCK_STATUS, 0, offset, length, 10, read_only=False, allowed=allowed)
    assert fault == NbdErrno.EINVAL


# --- replies -----------------------------------------------------------------------------------


def test_the_data_of_a_read_is_one_chunk_and_the_last() -> None:
    header = read_header(Request(READ, 9, 1 << 40, 3, 0, b""), structured=True)
    assert chunks(header + b"abc") == [(9, 1, 1, struct.pack(">Q", 1 << 40) + b"abc")]


def test_a_status_is_one_chunk_and_the_last() -> None:
    (chunk,) = chunks(status_reply(9, 1, [Extent(4096, State.HOLE), Extent(512, State.DATA)]))
    assert chunk == (9, 1, 5, struct.pack(">IIIII", 1, 4096, 3, 512, 0))


@pytest.mark.parametrize("command", [READ, BLOCK_STATUS])
def test_what_is_answered_with_a_payload_is_refused_with_a_chunk(command: int) -> None:
    reply = error_reply(command, 3, NbdErrno.EIO, structured=True)
    assert chunks(reply) == [(3, 1, 0x8001, struct.pack(">IH", NbdErrno.EIO, 0))]


def test_what_is_answered_without_one_keeps_the_short_reply() -> None:
    assert simple_replies(error_reply(WRITE, 3, NbdErrno.EIO, structured=True)) == [(3, NbdErrno.EIO)]
    assert simple_replies(error_reply(READ, 3, NbdErrno.EIO, structured=False)) == [(3, NbdErrno.EIO)]
