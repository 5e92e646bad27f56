"""Options and their answers."""

from __future__ import annotations

import struct

import pytest

from nbd_export.backend import FixedExports
from nbd_export.errors import ClientProtocolError
from nbd_export.handshake import GREETING
from nbd_export.limits import EXPORT_NAME_BYTES_MAX, OPTION_BYTES_MAX, OPTIONS_PER_HANDSHAKE_MAX
from nbd_export.protocol import Disconnected, Opened, ServerConnection
from tests.nbd_server import MemoryExport
from tests.unit.nbd_export.wire_client import (
    ABORT,
    ACK,
    EXPORT_NAME,
    FLAGS,
    GO,
    INFO,
    INFO_REPLY,
    LIST,
    SERVER,
    feed,
    go,
    option,
    option_replies,
    request,
)

ERR_UNSUP, ERR_INVALID, ERR_UNKNOWN, ERR_TOO_BIG = 0x80000001, 0x80000003, 0x80000006, 0x80000009
WRITABLE_FLAGS, READ_ONLY_FLAGS = 0b101_0110_1101, 0b101_0000_1111
STARTTLS, EXTENDED_HEADERS = 5, 11

DISK = MemoryExport(1 << 20, "disk")
FROZEN = MemoryExport(777, "gefroren-ü", read_only=True)


@pytest.fixture
def connection() -> ServerConnection:
    """Two exports, the greeting already taken, the client's flags already given."""
    connection = ServerConnection(FixedExports([DISK, FROZEN]))
    assert connection.data_to_send() == GREETING
    feed(connection, [FLAGS])
    return connection


def answers(connection: ServerConnection, data: bytes) -> list[tuple[int, int, bytes]]:
    """The replies to options that open nothing."""
    assert feed(connection, [data]) == []
    return option_replies(connection.data_to_send())


def kinds(connection: ServerConnection, data: bytes) -> list[int]:
    return [kind for _, kind, _ in answers(connection, data)]


@pytest.mark.parametrize("flags", [0, 2, 4, 7, 0xFFFFFFFF])
def test_a_client_without_fixed_newstyle_or_with_unknown_flags_is_turned_away(flags: int) -> None:
    connection = ServerConnection(FixedExports([DISK]))
    with pytest.raises(ClientProtocolError):
        feed(connection, [struct.pack(">I", flags)])


@pytest.mark.parametrize("number", [STARTTLS, EXTENDED_HEADERS, 0, 4, 12, 0xFFFFFFFF])
def test_an_unknown_option_is_unsupported_and_its_data_skipped(
    connection: ServerConnection, number: int
) -> None:
    assert kinds(connection, option(number, b"whatever") + option(LIST)) == [ERR_UNSUP, SERVER, SERVER, ACK]


@pytest.mark.parametrize("number", [GO, INFO])
@pytest.mark.parametrize(
    "data",
    [
        b"", b"\0", b"\0\0\0\0\0", struct.pack(">I", 1), struct.pack(">IH", 1, 0), struct.pack(">IH", 0, 1),
        struct.pack(">IHB", 0, 0, 0), struct.pack(">IHHH", 0, 1, 3, 0), struct.pack(">IH", 0xFFFFFFFF, 0),
        struct.pack(">I2sH", 2, b"\xff\xfe", 0),
    ],
)  # fmt: skip
def test_malformed_go_is_invalid(connection: ServerConnection, number: int, data: bytes) -> None:
    assert kinds(connection, option(number, data)) == [ERR_INVALID]


def test_list_with_data_is_invalid(connection: ServerConnection) -> None:
    assert kinds(connection, option(LIST, b"x")) == [ERR_INVALID]


def test_an_unknown_name_is_unknown_and_the_client_may_ask_again(connection: ServerConnection) -> None:
    assert kinds(connection, go("nobody")) == [ERR_UNKNOWN]
    assert feed(connection, [go("disk")]) == [Opened(DISK)]


def test_there_is_no_default_among_several(connection: ServerConnection) -> None:
    assert kinds(connection, go("")) == [ERR_UNKNOWN]


def test_the_only_export_is_the_default() -> None:
    assert FixedExports([DISK]).find("") is DISK


def test_too_long_a_name_is_too_big(connection: ServerConnection) -> None:
    assert kinds(connection, go("n" * (EXPORT_NAME_BYTES_MAX + 1))) == [ERR_TOO_BIG]


def test_too_long_an_option_is_told_and_hung_up_on(connection: ServerConnection) -> None:
    header = option(GO, bytes(OPTION_BYTES_MAX + 1))[:16]
    with pytest.raises(ClientProtocolError):
        feed(connection, [header])
    assert [kind for _, kind, _ in option_replies(connection.data_to_send())] == [ERR_TOO_BIG]


def test_an_option_without_magic_is_hung_up_on(connection: ServerConnection) -> None:
    with pytest.raises(ClientProtocolError):
        feed(connection, [bytes(16)])


def test_haggling_has_an_end(connection: ServerConnection) -> None:
    feed(connection, [option(99)] * OPTIONS_PER_HANDSHAKE_MAX)
    with pytest.raises(ClientProtocolError):
        feed(connection, [option(99)])


def test_abort_is_acknowledged_and_ends_it(connection: ServerConnection) -> None:
    assert feed(connection, [option(ABORT) + option(LIST)]) == [Disconnected()]
    assert option_replies(connection.data_to_send()) == [(ABORT, ACK, b"")]


def test_list_names_every_export(connection: ServerConnection) -> None:
    names = [data[4:].decode() for _, kind, data in answers(connection, option(LIST)) if kind == SERVER]
    assert names == ["disk", "gefroren-ü"]


def test_info_tells_and_opens_nothing(connection: ServerConnection) -> None:
    replies = answers(connection, go("gefroren-ü", 1, 2, 3, 77, number=INFO))
    assert replies == [
        (INFO, INFO_REPLY, struct.pack(">HQH", 0, 777, READ_ONLY_FLAGS)),
        (INFO, INFO_REPLY, b"\0\1" + "gefroren-ü".encode()),
        (INFO, INFO_REPLY, b"\0\2" + b"777 bytes of memory"),
        (INFO, INFO_REPLY, struct.pack(">HIII", 3, 1, 4096, 32 << 20)),
        (INFO, ACK, b""),
    ]


def test_go_opens_and_tells_only_what_was_asked(connection: ServerConnection) -> None:
    assert feed(connection, [go("disk")]) == [Opened(DISK)]
    assert option_replies(connection.data_to_send()) == [
        (GO, INFO_REPLY, struct.pack(">HQH", 0, 1 << 20, WRITABLE_FLAGS)),
        (GO, ACK, b""),
    ]


@pytest.mark.parametrize(("flags", "padding"), [(1, 124), (3, 0)])
def test_export_name_opens(flags: int, padding: int) -> None:
    connection = ServerConnection(FixedExports([DISK]))
    connection.data_to_send()
    assert feed(connection, [struct.pack(">I", flags), option(EXPORT_NAME, b"disk")]) == [Opened(DISK)]
    assert connection.data_to_send() == struct.pack(">QH", 1 << 20, WRITABLE_FLAGS) + bytes(padding)
    (read,) = feed(connection, [request(0, 5, 0, 10)])
    assert not isinstance(read, Opened | Disconnected)


@pytest.mark.parametrize("name", [b"nobody", b"\xff", b"n" * (EXPORT_NAME_BYTES_MAX + 1)])
def test_export_name_of_an_unknown_export_ends_it_without_a_word(
    connection: ServerConnection, name: bytes
) -> None:
    assert feed(connection, [option(EXPORT_NAME, name)]) == [Disconnected()]
    assert connection.data_to_send() == b""
