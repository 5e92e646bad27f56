"""Both streams of an NBD connection, followed by who passes them on: what waits, and since when. PURE.

Only as much of the protocol as tells where a request or a reply begins and ends. A stream that makes no sense
is an error: it cannot be followed any more. What is done about a request that waits does not belong here
(`relay`).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Final

from cdp_container.errors import CdpError
from nbd_export import wire
from nbd_export.limits import HANDSHAKE_REPLY_BYTES_MAX, OPTION_BYTES_MAX, SKIPPED_PAYLOAD_BYTES_MAX

HANG_SECONDS: Final = 5.0
"""A read or a write that waits longer holds a guest up for nothing."""
SLOW_SECONDS: Final = 15.0
"""The same of a flush, zeros and trims, for which no guest waits: they may have a disk write much."""
SLOW_BYTES_PER_SECOND: Final = 50e6
"""Zeros and trims of so much may take a second more: a disk may have to write them."""
WAITING_MAX: Final = 4096
"""Requests of one connection that wait at once."""
_WRITING: Final = (wire.Command.WRITE, wire.Command.TRIM, wire.Command.WRITE_ZEROES)
_SLOW: Final = (wire.Command.FLUSH, wire.Command.TRIM, wire.Command.WRITE_ZEROES)
_SECOND: Final = 1_000_000_000

_Steps = Generator[int, bytes, None]
"""Asks for the next bytes: as many as are wanted, or, below 0, as many as are passed over."""


class NotFollowed(CdpError):
    """A stream is no NBD that we know. It never leaves the relay, which cuts the connection."""

    default_hint = "this is unexpected: please report it with the version of QEMU"


@dataclass(slots=True)
class _Waiting:
    """A request without an answer: until when it may wait, and how many bytes a plain answer to it brings."""

    since_ns: int
    until_ns: int
    reply_bytes: int


class _Stream:
    """One direction, cut into what its steps ask for."""

    def __init__(self, steps: _Steps) -> None:
        self._steps = steps
        self._wanted = next(steps)
        self._have = bytearray()

    def feed(self, data: memoryview) -> None:
        at = 0
        while at < len(data):
            if self._wanted < 0:
                taken = min(-self._wanted, len(data) - at)
                at += taken
                self._wanted += taken
                if self._wanted == 0:
                    self._wanted = self._steps.send(b"")
                continue
            part = data[at : at + self._wanted - len(self._have)]
            self._have += part
            at += len(part)
            if len(self._have) == self._wanted:
                whole = bytes(self._have)
                self._have.clear()
                self._wanted = self._steps.send(whole)


@dataclass(slots=True)
class Conversation:
    """One connection. Its two directions may be fed by two threads, if they take turns.

    `longest_ns`: how long the request took that took longest. Times are of one clock.
    """

    now_ns: int
    longest_ns: int = 0
    is_open: bool = False
    """Whether the handshake is over."""
    has_written: bool = False
    """Whether the client asked for anything to be written, zeros and trims too."""
    _waiting: dict[int, _Waiting] = field(default_factory=dict)
    _client: _Stream = field(init=False)
    _server: _Stream = field(init=False)
    _until_ns: int = field(init=False)

    def __post_init__(self) -> None:
        self._client = _Stream(self._from_client())
        self._server = _Stream(self._from_server())
        self._until_ns = self.now_ns + int(HANG_SECONDS * _SECOND)

    def said_by_client(self, data: memoryview, now_ns: int) -> None:
        """What the client sends. Raises NotFollowed."""
        self.now_ns = now_ns
        self._client.feed(data)

    def said_by_server(self, data: memoryview, now_ns: int) -> None:
        """What the server sends. Raises NotFollowed."""
        self.now_ns = now_ns
        self._server.feed(data)

    def is_late(self, now_ns: int, in_a_hurry: bool = False) -> bool:
        """Whether something waits for longer than it should; `in_a_hurry`: nothing may be slow."""
        if not self.is_open:
            return now_ns > self._until_ns
        waiting = list(self._waiting.values())
        if in_a_hurry:
            return any(now_ns - one.since_ns > HANG_SECONDS * _SECOND for one in waiting)
        return any(one.until_ns < now_ns for one in waiting)

    def _from_client(self) -> _Steps:
        yield -wire.CLIENT_FLAGS.size
        while True:
            magic = yield wire.UINT32.size
            if magic == _OPTION_MAGIC:
                rest = yield wire.OPTION_HEADER.size - wire.UINT32.size
                length = wire.OPTION_HEADER.unpack(magic + rest)[2]
                _check(length, OPTION_BYTES_MAX)
            elif magic == _REQUEST_MAGIC:
                rest = yield wire.REQUEST.size - wire.UINT32.size
                length = self._request(wire.REQUEST.unpack(magic + rest))
            else:
                raise NotFollowed("following what QEMU sends", f"it is no request of NBD: {magic.hex()}")
            if length:
                yield -length

    def _request(self, fields: tuple[int, ...]) -> int:
        """Note a request; gives how many bytes of its own follow."""
        _, _, command, cookie, _, length = fields
        self.is_open = True
        self.has_written = self.has_written or command in _WRITING
        if command == wire.Command.WRITE:
            _check(length, SKIPPED_PAYLOAD_BYTES_MAX)
        if command != wire.Command.DISC:
            if len(self._waiting) >= WAITING_MAX:
                raise NotFollowed("following what QEMU sends", "more requests wait than WAITING_MAX")
            is_slow = command in _SLOW
            patience = SLOW_SECONDS + length / SLOW_BYTES_PER_SECOND if is_slow else HANG_SECONDS
            self._waiting[cookie] = _Waiting(
                self.now_ns,
                self.now_ns + int(patience * _SECOND),
                length if command == wire.Command.READ else 0,
            )
        return length if command == wire.Command.WRITE else 0

    def _from_server(self) -> _Steps:
        yield -wire.GREETING.size
        while True:
            magic = yield wire.UINT32.size
            if magic == _SIMPLE_MAGIC:
                rest = yield wire.SIMPLE_REPLY.size - wire.UINT32.size
                _, error, cookie = wire.SIMPLE_REPLY.unpack(magic + rest)
                found = self._answered(cookie)
                length = 0 if error else found.reply_bytes
            elif magic == _CHUNK_MAGIC:
                rest = yield wire.CHUNK.size - wire.UINT32.size
                _, flags, _, cookie, length = wire.CHUNK.unpack(magic + rest)
                _check(length, SKIPPED_PAYLOAD_BYTES_MAX)
                if flags & wire.ChunkFlag.DONE:
                    self._answered(cookie)
            elif magic == _OPTION_REPLY_MAGIC:
                rest = yield wire.OPTION_REPLY.size - wire.UINT32.size
                length = wire.OPTION_REPLY.unpack(magic + rest)[3]
                _check(length, HANDSHAKE_REPLY_BYTES_MAX)
            else:
                raise NotFollowed("following what the agent sends", f"it is no reply of NBD: {magic.hex()}")
            if length:
                yield -length

    def _answered(self, cookie: int) -> _Waiting:
        found = self._waiting.pop(cookie, None)
        if found is None:
            raise NotFollowed("following what the agent sends", "it answers what was not asked")
        self.longest_ns = max(self.longest_ns, self.now_ns - found.since_ns)
        return found


def _check(length: int, most: int) -> None:
    if length > most:
        raise NotFollowed("following an NBD connection", f"{length} bytes in one piece, more than {most}")


_OPTION_MAGIC: Final = wire.IHAVEOPT.to_bytes(8, "big")[:4]
_OPTION_REPLY_MAGIC: Final = wire.OPTION_REPLY_MAGIC.to_bytes(8, "big")[:4]
_REQUEST_MAGIC: Final = wire.REQUEST_MAGIC.to_bytes(4, "big")
_SIMPLE_MAGIC: Final = wire.SIMPLE_REPLY_MAGIC.to_bytes(4, "big")
_CHUNK_MAGIC: Final = wire.STRUCTURED_REPLY_MAGIC.to_bytes(4, "big")
