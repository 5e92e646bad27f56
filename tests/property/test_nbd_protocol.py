"""Whatever a client sends, cut anywhere: events inside the export, answers, or the typed error."""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from nbd_export.backend import FixedExports
from nbd_export.errors import ClientProtocolError
from nbd_export.limits import (
    BUFFER_BYTES,
    HANDSHAKE_REPLY_BYTES_MAX,
    OPTION_BYTES_MAX,
    OPTIONS_PER_HANDSHAKE_MAX,
    PAYLOAD_BYTES_MAX,
)
from nbd_export.protocol import Opened, Progress, ServerConnection
from nbd_export.transmission import Request
from tests.nbd_server import MemoryExport
from tests.unit.nbd_export.wire_client import (
    FLAGS,
    SET_META_CONTEXT,
    STARTTLS,
    STRUCTURED_REPLY,
    go,
    meta_context,
    option,
    request,
)

SIZE = 1 << 20
EXPORTS = FixedExports([MemoryExport(SIZE, "disk")])
ERROR_BYTES_MAX = 26

numbers = st.one_of(st.integers(0, 12), st.integers(0, 2**32 - 1))
names = st.one_of(st.just("disk"), st.just(""), st.text(max_size=8))
noise = st.binary(max_size=300)
options = st.one_of(
    st.builds(option, numbers, noise),
    st.builds(go, names),
    st.builds(lambda name, query: meta_context(SET_META_CONTEXT, name, query), names, noise),
    st.builds(lambda name: meta_context(SET_META_CONTEXT, name, b"base:allocation"), names),
    st.just(option(STRUCTURED_REPLY)),
    st.just(option(STARTTLS)),
    st.builds(lambda n, length: struct.pack(">QII", 0x49484156454F5054, n, length), numbers, numbers),
)
requests = st.one_of(
    st.builds(
        lambda command, offset, length, flags, payload: request(command, 7, offset, length, flags, payload),
        st.integers(0, 9), st.integers(0, 2**64 - 1), numbers, st.integers(0, 0xFFFF), noise,
    ),
    st.builds(
        lambda command, offset, length, flags: request(
            command, 7, offset, length, flags, bytes(length) if command == 1 else b""
        ),
        st.integers(0, 8), st.integers(0, SIZE), st.integers(0, 70_000), st.integers(0, 15),
    ),
)  # fmt: skip


def play(stream: bytes, cuts: list[int], tls: bool, room: bool) -> list[object]:
    """Feed a stream in pieces, as a server would; every event, checked on the way."""
    connection = ServerConnection(EXPORTS, tls=tls, has_room=lambda length: room)
    said = len(connection.data_to_send())
    seen: list[object] = []
    ends = sorted({min(cut, len(stream)) for cut in cuts} | {len(stream)})
    try:
        at = 0
        for end in ends:
            while at < end:
                space = connection.receive_buffer()
                if not space:  # it waits for room that never comes
                    assert not room
                    return seen
                taken = min(len(space), end - at)
                space[:taken] = stream[at : at + taken]
                connection.received(taken)
                at += taken
                while not isinstance(event := connection.next_event(), Progress):
                    seen.append(event)
                    check(event)
                said += len(connection.data_to_send())
                assert connection.direct_bytes <= PAYLOAD_BYTES_MAX
    except ClientProtocolError:
        seen.append("hung up")
    said += len(connection.data_to_send())
    assert said <= HANDSHAKE_REPLY_BYTES_MAX + BUFFER_BYTES + len(stream) * ERROR_BYTES_MAX
    return seen


def check(event: object) -> None:
    if isinstance(event, Opened):
        assert event.export is EXPORTS.exports[0]
    if isinstance(event, Request):
        assert 0 <= event.offset <= event.offset + event.length <= SIZE
        assert len(event.payload) == (event.length if event.command == 1 else 0)


@given(stream=st.binary(max_size=2000), cuts=st.lists(st.integers(0, 2000), max_size=5), tls=st.booleans())
def test_any_bytes(stream: bytes, cuts: list[int], tls: bool) -> None:
    play(stream, cuts, tls, room=True)
    play(FLAGS + stream, cuts, tls, room=True)


@settings(deadline=None)
@given(
    before=st.lists(options, max_size=6), after=st.lists(requests, max_size=6),
    cuts=st.lists(st.integers(0, 100_000), max_size=5), tls=st.booleans(), room=st.booleans(),
)  # fmt: skip
def test_nearly_good_conversations(
    before: list[bytes], after: list[bytes], cuts: list[int], tls: bool, room: bool
) -> None:
    stream = FLAGS + b"".join(before) + go("disk") + b"".join(after)
    events = play(stream, cuts, tls, room)
    if not tls:
        assert play(stream, [], tls, room) == events, "wherever it is cut"


@given(requests=st.lists(requests, min_size=1, max_size=8), noise=noise)
def test_requests_with_noise_between(requests: list[bytes], noise: bytes) -> None:
    stream = FLAGS + option(STRUCTURED_REPLY) + go("disk") + noise.join(requests)
    play(stream, [], tls=False, room=True)


def test_the_limits_of_a_handshake_fit_its_buffer() -> None:
    assert OPTION_BYTES_MAX + 16 <= BUFFER_BYTES
    assert OPTIONS_PER_HANDSHAKE_MAX * 16 <= BUFFER_BYTES
