"""The NBD protocol as a server speaks it, without any I/O: bytes in, events and bytes out.

    connection = ServerConnection(exports)
    n = sock.recv_into(connection.receive_buffer()); connection.received(n)
    while (event := connection.next_event()) is not NEED_DATA: ...
    sock.sendall(connection.data_to_send())      # the greeting, answers to options, refusals

Replies to requests are the caller's to make, with the functions of `transmission`, when it likes
and in any order. Fixed newstyle handshake. With TLS, `next_event` says `TlsWanted` once: the caller
sends what there is to send, and everything that follows goes through TLS.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, NoReturn

from nbd_export import wire
from nbd_export.backend import Export, Exports
from nbd_export.errors import ClientProtocolError, NbdErrno
from nbd_export.handshake import GREETING, Terms, answer_option, option_reply
from nbd_export.limits import (
    BUFFER_BYTES,
    DIRECT_PAYLOAD_BYTES_MIN,
    HANDSHAKE_REPLY_BYTES_MAX,
    OPTION_BYTES_MAX,
    OPTIONS_PER_HANDSHAKE_MAX,
    READS_TOGETHER_BYTES_MAX,
    SKIPPED_PAYLOAD_BYTES_MAX,
)
from nbd_export.transmission import Request, error_reply, fault_of, flags_allowed
from nbd_export.wire import Command, HandshakeFlag, Option, ReplyType


class Progress(enum.Enum):
    """What `next_event` says when there is no event."""

    NEED_DATA = "the bytes so far are used up"
    NEED_ROOM = "the next request is large, and has_room said no"


NEED_DATA: Final = Progress.NEED_DATA
NEED_ROOM: Final = Progress.NEED_ROOM

_PLAIN_WRITE: Final = int(Command.WRITE)  # without flags
_PLAIN_READ: Final = int(Command.READ)
_WITH_DATA: Final = frozenset({Command.READ, Command.WRITE})


@dataclass(frozen=True, slots=True)
class Opened:
    """The client chose an export; requests follow. READs are answered as `structured` says."""

    export: Export
    structured: bool = False


@dataclass(frozen=True, slots=True)
class TlsWanted:
    """TLS begins behind what is to be sent."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The client took its leave; no event follows. Replies still owed may be sent."""


Event = Opened | Request | TlsWanted | Disconnected

# A parsing step: an event, NEED_DATA, or None for "got on, step again".
_Step = Callable[[], "Event | Progress | None"]


class ServerConnection:
    """One client's connection, from the greeting to its end.

    `next_event` raises `ClientProtocolError` when the client's bytes make no sense; after that
    only `data_to_send` may be called, for a last word to the client.

    Args:
        exports: what there is to choose from.
        tls: the client must begin TLS before anything else.
        has_room: whether a READ or WRITE of so many bytes may be begun; asked of each that is larger than
            DIRECT_PAYLOAD_BYTES_MIN, and again with the next `next_event` if it said no.
    """

    __slots__ = (
        "_allowed", "_buffer", "_direct", "_end", "_exports", "_has_room", "_options_count",
        "_options_reply_bytes", "_outgoing", "_read_only", "_size_bytes", "_skip_bytes", "_start", "_step",
        "_structured", "_terms", "_view", "_write", "steps_count",
    )  # fmt: skip

    def __init__(
        self, exports: Exports, tls: bool = False, has_room: Callable[[int], bool] = lambda length: True
    ) -> None:
        self.steps_count = 0  # beginnings and ends of requests: stands still while one is incomplete
        self._exports = exports
        self._has_room = has_room
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = 0  # what is between start and end is received and not used yet
        self._end = 0
        self._outgoing = bytearray(GREETING)
        self._step: _Step = self._client_flags
        self._terms = Terms(no_zeroes=False, tls=tls)
        self._allowed = flags_allowed(structured=False, with_status=False)
        self._structured = False
        self._options_count = 0
        self._options_reply_bytes = 0
        self._size_bytes = 0
        self._read_only = True
        self._write: Request | None = None  # the WRITE whose payload is coming in, into its own memory,
        self._direct: memoryview | None = None  # of which this part is still missing
        self._skip_bytes = 0

    # --- bytes -------------------------------------------------------------------------------

    def receive_buffer(self) -> memoryview:
        """Where the client's next bytes go; never empty once `next_event` said NEED_DATA."""
        if self._direct is not None:
            return self._direct
        if self._start == self._end:
            self._start = self._end = 0
        elif self._start:
            left = self._end - self._start
            self._buffer[:left] = self._buffer[self._start : self._end]
            self._start, self._end = 0, left
        return self._view[self._end :]

    def received(self, count: int) -> None:
        """`count` bytes were put at the start of what `receive_buffer` returned last."""
        if self._direct is not None:
            self._direct = self._direct[count:]
        else:
            self._end += count

    def data_to_send(self) -> bytes:
        """The bytes that this side owes of its own accord, in order; each is returned once."""
        if not self._outgoing:
            return b""
        data = bytes(self._outgoing)
        self._outgoing.clear()
        return data

    @property
    def is_used_up(self) -> bool:
        """Whether nothing that came is left for `next_event`; it says NEED_DATA then."""
        return self._start == self._end

    @property
    def is_amid_request(self) -> bool:
        """Whether bytes of something that is not whole yet have come, or its payload is awaited."""
        return self._start != self._end or self._direct is not None or self._skip_bytes > 0

    @property
    def direct_bytes(self) -> int:
        """The memory of a payload that is being received."""
        return 0 if self._write is None else self._write.length

    @property
    def progress(self) -> tuple[int, int]:
        """Something that is different once bytes of the same or of another request have come."""
        return self.steps_count, 0 if self._direct is None else len(self._direct)

    def next_event(self) -> Event | Progress:
        """The next event, or why there is none."""
        while True:
            event = self._step()
            if event is not None:
                return event

    def take_writes(self, count_max: int) -> tuple[list[int], list[tuple[int, bytes]]]:
        """The next requests, as long as they are small, whole WRITEs without flags.

        These are most of what there is to do, so they have a quick way, without an object and a step
        each. It judges nothing: the first that is in any way special is left to `next_event`.

        Returns:
            Their cookies, and (offset, data) of each.
        """
        cookies: list[int] = []
        writes: list[tuple[int, bytes]] = []
        if self._step != self._request or self._read_only:
            return cookies, writes
        buffer, view, size_bytes = self._buffer, self._view, self._size_bytes
        unpack, header_bytes = wire.REQUEST_KIND.unpack_from, wire.REQUEST_KIND.size
        payload_at, end = self._start + header_bytes, self._end
        while payload_at < end and len(cookies) < count_max:
            magic, kind, cookie, offset, length = unpack(buffer, payload_at - header_bytes)
            after = payload_at + length
            if (
                kind != _PLAIN_WRITE or magic != wire.REQUEST_MAGIC or after > end
                or not 0 < length <= DIRECT_PAYLOAD_BYTES_MIN or offset + length > size_bytes
            ):  # fmt: skip
                break
            cookies.append(cookie)
            writes.append((offset, view[payload_at:after].tobytes()))
            payload_at = after + header_bytes
        self._start = payload_at - header_bytes
        self.steps_count += len(cookies)
        return cookies, writes

    def take_reads(self, count_max: int) -> list[tuple[int, int, int]]:
        """The same for small READs, READS_TOGETHER_BYTES_MAX at most: (cookie, offset, length) of each."""
        reads: list[tuple[int, int, int]] = []
        header_bytes = wire.REQUEST_KIND.size
        count = min((self._end - self._start) // header_bytes, count_max)
        if count <= 0 or self._step != self._request:
            return reads
        size_bytes, left_bytes = self._size_bytes, READS_TOGETHER_BYTES_MAX
        headers = self._view[self._start : self._start + count * header_bytes]
        for magic, kind, cookie, offset, length in wire.REQUEST_KIND.iter_unpack(headers):
            left_bytes -= length
            if (
                kind != _PLAIN_READ or magic != wire.REQUEST_MAGIC or left_bytes < 0
                or not 0 < length <= DIRECT_PAYLOAD_BYTES_MIN or offset + length > size_bytes
            ):  # fmt: skip
                break
            reads.append((cookie, offset, length))
        self._start += len(reads) * header_bytes
        self.steps_count += len(reads)
        return reads

    def _take(self, count: int) -> bytes:
        data = bytes(self._view[self._start : self._start + count])
        self._start += count
        return data

    def drop(self) -> None:
        """The connection is lost: give up what was being received."""
        self._direct = self._write = None
        self._start = self._end
        self._step = self._over

    # --- handshake ---------------------------------------------------------------------------

    def _client_flags(self) -> Progress | None:
        if self._end - self._start < wire.CLIENT_FLAGS.size:
            return NEED_DATA
        (flags,) = wire.CLIENT_FLAGS.unpack(self._take(wire.CLIENT_FLAGS.size))
        # A client that does not know "fixed" cannot read our errors, and is the last century's.
        if flags not in (
            HandshakeFlag.FIXED_NEWSTYLE,
            HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES,
        ):
            self._fail(f"the client's handshake flags are {flags:#x}, fixed newstyle is needed")
        self._terms = replace(self._terms, no_zeroes=bool(flags & HandshakeFlag.NO_ZEROES))
        self._step = self._option
        return None

    def _option(self) -> Event | Progress | None:
        available = self._end - self._start
        if available < wire.OPTION_HEADER.size:
            return NEED_DATA
        magic, option, length = wire.OPTION_HEADER.unpack_from(self._buffer, self._start)
        if magic != wire.IHAVEOPT:
            self._fail("an option does not begin with its magic number")
        if length > OPTION_BYTES_MAX:
            if option != Option.EXPORT_NAME:
                self._outgoing += option_reply(option, ReplyType.ERR_TOO_BIG)
            self._fail(f"option {option} has {length} bytes of data")
        if available < wire.OPTION_HEADER.size + length:
            return NEED_DATA
        self._options_count += 1
        if self._options_count > OPTIONS_PER_HANDSHAKE_MAX:
            self._fail("the client haggles without end")
        self._start += wire.OPTION_HEADER.size
        return self._answer(option, self._take(length))

    def _answer(self, option: int, data: bytes) -> Event | None:
        answer = answer_option(option, data, self._exports, self._terms)
        self._outgoing += answer.reply
        self._options_reply_bytes += len(answer.reply)
        if self._options_reply_bytes > HANDSHAKE_REPLY_BYTES_MAX:
            self._fail("the client wants to hear everything again and again")
        self._terms = terms = answer.terms
        if answer.hang_up:
            self._step = self._over
            return Disconnected()
        if answer.start_tls:
            if self._start != self._end:  # it would pass for something that came through TLS
                self._fail("the client did not wait for the answer to STARTTLS")
            return TlsWanted()
        if answer.chosen is None:
            return None
        self._size_bytes, self._read_only = answer.chosen.size_bytes, answer.chosen.read_only
        self._structured = terms.structured
        self._allowed = flags_allowed(terms.structured, terms.status_of is answer.chosen)
        self._step = self._request
        return Opened(answer.chosen, terms.structured)

    # --- transmission ------------------------------------------------------------------------

    def _request(self) -> Event | Progress | None:
        available = self._end - self._start - wire.REQUEST.size
        if available < 0:
            return NEED_DATA
        magic, flags, command, cookie, offset, length = wire.REQUEST.unpack_from(self._buffer, self._start)
        if magic != wire.REQUEST_MAGIC:
            self._fail("a request does not begin with its magic number")
        if command == Command.DISC:
            self._step = self._over
            return Disconnected()
        fault = fault_of(command, flags, offset, length, self._size_bytes, self._read_only, self._allowed)
        if fault:
            self._start += wire.REQUEST.size
            self._refuse(command, cookie, fault, length if command == Command.WRITE else 0)
            return None
        if length > DIRECT_PAYLOAD_BYTES_MIN:
            if command in _WITH_DATA and not self._has_room(length):
                return NEED_ROOM
        elif command == Command.WRITE and available < length:
            return NEED_DATA
        self._start += wire.REQUEST.size
        self.steps_count += 1
        if command != Command.WRITE:
            return Request(command, cookie, offset, length, flags, b"")
        if available >= length:
            return Request(command, cookie, offset, length, flags, self._take(length))
        payload = self._begin_direct_payload(length)
        self._write = Request(command, cookie, offset, length, flags, payload)
        return None

    def _begin_direct_payload(self, length: int) -> memoryview:
        """Memory for a payload, with its first part from the buffer; the rest is received into it."""
        payload = memoryview(bytearray(length))
        here = self._end - self._start
        payload[:here] = self._view[self._start : self._end]
        self._start = self._end
        self._direct = payload[here:]
        self._step = self._direct_payload
        return payload

    def _direct_payload(self) -> Event | Progress:
        if self._direct:
            return NEED_DATA
        request = self._write
        assert request is not None, "a payload without its request"
        self._direct = self._write = None
        self._step = self._request
        self.steps_count += 1
        return request

    def _refuse(self, command: int, cookie: int, fault: NbdErrno, payload_bytes: int) -> None:
        """Answer with an error, and skip the payload that comes all the same."""
        if payload_bytes > SKIPPED_PAYLOAD_BYTES_MAX:
            self._fail(f"a write of {payload_bytes} bytes")
        self._outgoing += error_reply(command, cookie, fault, self._structured)
        self.steps_count += 1
        self._skip_bytes = payload_bytes
        self._step = self._skip_payload

    def _skip_payload(self) -> Progress | None:
        skipped = min(self._skip_bytes, self._end - self._start)
        self._start += skipped
        self._skip_bytes -= skipped
        if self._skip_bytes:
            return NEED_DATA
        self._step = self._request
        self.steps_count += 1
        return None

    # --- the end -----------------------------------------------------------------------------

    def _over(self) -> Progress:
        """Whatever a client sends after its leave is dropped."""
        self._start = self._end
        return NEED_DATA

    def _fail(self, why: str) -> NoReturn:
        self._step = self._over
        raise ClientProtocolError(why)
