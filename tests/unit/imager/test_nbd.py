"""The client of NBD: what QEMU answers is held to what was asked. The server here says what it is told to."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable

import pytest

from cdp_agent.imager.nbd import ALLOCATION, NbdReader
from cdp_container.errors import HypervisorFailed
from nbd_export import wire

BITMAP = "qemu:dirty-bitmap:b"
SIZE = 1 << 20
Say = Callable[[int, int, int, int], bytes]
"""From kind, cookie, offset and length of a request to what is answered."""


def _chunk(kind: int, cookie: int, payload: bytes, done: bool = True) -> bytes:
    return wire.CHUNK.pack(wire.STRUCTURED_REPLY_MAGIC, int(done), kind, cookie, len(payload)) + payload


def _serve(peer: socket.socket, say: Say, contexts: tuple[str, ...]) -> None:
    def take(count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = peer.recv(count - len(data))
            if not part:
                raise ConnectionError
            data += part
        return data

    def reply(option: int, kind: int, payload: bytes = b"") -> None:
        peer.sendall(wire.OPTION_REPLY.pack(wire.OPTION_REPLY_MAGIC, option, kind, len(payload)) + payload)

    try:
        peer.sendall(wire.GREETING.pack(wire.NBDMAGIC, wire.IHAVEOPT, 3))
        take(4)
        while True:
            _, option, count = wire.OPTION_HEADER.unpack(take(wire.OPTION_HEADER.size))
            take(count)
            if option == wire.Option.SET_META_CONTEXT:
                for number, name in enumerate(contexts):
                    reply(option, wire.ReplyType.META_CONTEXT, struct.pack(">I", number + 7) + name.encode())
            if option == wire.Option.GO:
                reply(option, wire.ReplyType.INFO, wire.INFO_EXPORT.pack(0, SIZE, 1))
            reply(option, wire.ReplyType.ACK)
            if option == wire.Option.GO:
                break
        while True:
            _, _, kind, cookie, offset, length = wire.REQUEST.unpack(take(wire.REQUEST.size))
            peer.sendall(say(kind, cookie, offset, length))
    except OSError:
        return
    finally:
        peer.close()


def _reader(say: Say, contexts: tuple[str, ...] = (ALLOCATION, BITMAP)) -> NbdReader:
    ours, theirs = socket.socketpair()
    threading.Thread(target=_serve, args=(theirs, say, contexts), daemon=True).start()
    return NbdReader(ours, "x", (ALLOCATION, BITMAP), lambda: 5.0)


def _good(kind: int, cookie: int, offset: int, length: int) -> bytes:
    if kind == wire.Command.READ:
        data = bytes([offset >> 12 & 0xFF]) * length
        return _chunk(wire.ChunkType.OFFSET_DATA, cookie, struct.pack(">Q", offset) + data)
    both = b""
    for number, states in ((7, ((4096, 2), (length, 0))), (8, ((8192, 1), (length - 8192, 0)))):
        payload = struct.pack(">I", number) + b"".join(wire.EXTENT.pack(*state) for state in states)
        both += _chunk(wire.ChunkType.BLOCK_STATUS, cookie, payload, done=number == 8)
    return both


def test_states_of_one_context_come_in_order_and_within_what_was_asked() -> None:
    reader = _reader(_good)
    assert reader.size_bytes == SIZE
    assert list(reader.status(0, 65536, BITMAP)) == [(0, 8192, 1), (8192, 57344, 0)]
    assert list(reader.status(0, 65536, ALLOCATION)) == [(0, 4096, 2), (4096, 61440, 0)]
    reader.close()


def test_many_reads_come_back_in_their_order() -> None:
    reader = _reader(_good)
    asked = [(block * 4096, 4096) for block in range(0, 250, 2)]
    assert [(at, len(data), data[0]) for at, data in reader.read(asked)] == [
        (at, 4096, at >> 12) for at, _ in asked
    ]
    reader.close()


def test_a_context_that_it_does_not_know_is_told() -> None:
    with pytest.raises(HypervisorFailed, match="does not tell of qemu:dirty-bitmap:b"):
        _reader(_good, (ALLOCATION,))


def test_states_that_come_without_end_are_refused() -> None:
    """Each would be kept: a QEMU that lies could take all memory."""

    def twice(kind: int, cookie: int, offset: int, length: int) -> bytes:
        one = struct.pack(">I", 8) + wire.EXTENT.pack(1, 1)
        return _chunk(wire.ChunkType.BLOCK_STATUS, cookie, one, done=False) * 2

    reader = _reader(twice)
    with pytest.raises(HypervisorFailed, match="twice"):
        list(reader.status(0, 65536, BITMAP))
    reader.close()


def test_replies_to_an_option_that_come_without_end_are_refused() -> None:
    with pytest.raises(HypervisorFailed, match="without end"):
        _reader(_good, (ALLOCATION,) * 1000)


@pytest.mark.parametrize(
    ("say", "why"),
    [
        (lambda kind, cookie, offset, length: b"\0" * 20, "no answer"),
        (lambda k, cookie, o, n: _chunk(1, cookie + 1, struct.pack(">Q", o) + bytes(n)), "no answer"),
        (lambda k, cookie, o, n: _chunk(1, cookie, struct.pack(">Q", o + 1) + bytes(n)), "not asked for"),
        (lambda k, cookie, o, n: _chunk(1, cookie, struct.pack(">Q", o) + bytes(n - 1)), "4095 bytes"),
        (lambda k, cookie, o, n: _chunk(2, cookie, struct.pack(">QI", o - 4096, n)), "not asked for"),
        (lambda k, cookie, o, n: _chunk(77, cookie, b"what"), "no kind"),
        (lambda k, cookie, o, n: _chunk(0x8001, cookie, struct.pack(">IH", 5, 0)), "NBD error 5"),
        (lambda k, cookie, o, n: _chunk(0, cookie, b""), "0 bytes"),
    ],
)
def test_what_makes_no_sense_is_refused(say: Say, why: str) -> None:
    reader = _reader(say)
    with pytest.raises(HypervisorFailed, match=why):
        list(reader.read([(4096, 4096)]))
    reader.close()


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (struct.pack(">I", 8) + wire.EXTENT.pack(0, 1), "what was not asked for"),
        (struct.pack(">I", 8), "no kind"),
        (struct.pack(">I", 9) + wire.EXTENT.pack(4096, 1), "no state"),
        (struct.pack(">I", 8) + wire.EXTENT.pack(4096, 1) * 2, "what was not asked for"),
    ],
)
def test_states_that_make_no_sense_are_refused(payload: bytes, why: str) -> None:
    reader = _reader(lambda kind, cookie, offset, length: _chunk(5, cookie, payload))
    with pytest.raises(HypervisorFailed, match=why):
        list(reader.status(0, 4096, BITMAP))
    reader.close()


def test_a_server_that_goes_is_told() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with pytest.raises(HypervisorFailed, match=r"closed the connection|Broken pipe|reset"):
        NbdReader(ours, "x", (ALLOCATION,), lambda: 5.0)


def test_one_that_does_not_answer_is_given_up() -> None:
    ours, theirs = socket.socketpair()
    left = iter([1.0, 0.05, 0.0])
    with theirs, pytest.raises(HypervisorFailed, match="does not answer in time"):
        NbdReader(ours, "x", (ALLOCATION,), lambda: next(left, 0.0))
