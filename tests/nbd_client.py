"""A small synchronous NBD client for the tests: pipelined requests, replies in any order.

It shares no code with `nbd_export`, so that the two check each other. Reconnecting is the
caller's matter: after a `ConnectionError` the object only hands out what had arrived before,
and `in_flight` names the requests whose fate is unknown.
"""

from __future__ import annotations

import select
import socket
import struct
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

OPTION_MAGIC: Final = 0x49484156454F5054
REPLY_MAGIC: Final = 0x3E889045565A9
REQUEST_MAGIC: Final = 0x25609513
SIMPLE_REPLY_MAGIC: Final = 0x67446698
OPT_GO: Final = 7
REP_ACK: Final = 1
REP_INFO: Final = 3
REP_ERROR_BIT: Final = 1 << 31
FLAG_READ_ONLY: Final = 1 << 1
CMD_READ, CMD_WRITE, CMD_DISC, CMD_FLUSH, CMD_TRIM, CMD_WRITE_ZEROES = 0, 1, 2, 3, 4, 6
CMD_FLAG_FUA: Final = 1
CMD_FLAG_NO_HOLE: Final = 2
RECEIVE_BYTES: Final = 1 << 18

_REQUEST = struct.Struct(">IHHQQI")
_REPLY = struct.Struct(">IIQ")
_OPTION_REPLY = struct.Struct(">QIII")


class NbdError(Exception):
    """The server answered with an error; `code` is NBD's number (1 EPERM, 5 EIO, 22 EINVAL, 28 ENOSPC)."""

    def __init__(self, code: int, what: str) -> None:
        super().__init__(f"{what}: NBD error {code}")
        self.code = code


@dataclass(frozen=True, slots=True)
class Reply:
    """The server's answer to the request `handle`: `error` 0 for success, `data` only for a read."""

    handle: int
    error: int
    data: bytes


class NbdClient:
    """One connection to one export.

    Every method that touches the socket raises `ConnectionError` when the server is gone, and
    `TimeoutError` when nothing at all moved for `timeout_seconds`.
    """

    def __init__(self, socket_path: Path | str, export: str = "", timeout_seconds: float = 30.0) -> None:
        self._timeout_seconds = timeout_seconds
        self._next_handle = 1
        self._read_bytes: dict[int, int] = {}  # in flight: handle -> bytes of data in a good reply
        self._ready: deque[Reply] = deque()
        self._incoming = bytearray()
        self._lost: ConnectionError | None = None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(timeout_seconds)
            self._socket.connect(str(socket_path))
            self.size_bytes, self._flags = self._negotiate(export)
            self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            raise

    @property
    def read_only(self) -> bool:
        """Whether the export refuses writes."""
        return bool(self._flags & FLAG_READ_ONLY)

    @property
    def in_flight(self) -> frozenset[int]:
        """The handles that have no reply yet; after a lost connection, those whose fate is unknown."""
        return frozenset(self._read_bytes)

    # --- pipelined ---------------------------------------------------------------------------

    def submit_read(self, offset: int, length: int) -> int:
        """Send a READ; returns its handle."""
        return self._submit(CMD_READ, 0, offset, length, b"", length)

    def submit_write(self, offset: int, data: bytes, fua: bool = False) -> int:
        """Send a WRITE; returns its handle."""
        return self._submit(CMD_WRITE, CMD_FLAG_FUA if fua else 0, offset, len(data), data, 0)

    def submit_flush(self) -> int:
        """Send a FLUSH; it covers the writes whose replies have arrived. Returns its handle."""
        return self._submit(CMD_FLUSH, 0, 0, 0, b"", 0)

    def submit_trim(self, offset: int, length: int, fua: bool = False) -> int:
        """Send a TRIM; returns its handle."""
        return self._submit(CMD_TRIM, CMD_FLAG_FUA if fua else 0, offset, length, b"", 0)

    def submit_write_zeroes(self, offset: int, length: int, fua: bool = False, may_trim: bool = True) -> int:
        """Send a WRITE_ZEROES; returns its handle."""
        flags = (CMD_FLAG_FUA if fua else 0) | (0 if may_trim else CMD_FLAG_NO_HOLE)
        return self._submit(CMD_WRITE_ZEROES, flags, offset, length, b"", 0)

    def poll(self) -> list[Reply]:
        """The replies that are here now, without waiting; raises if none is and the server is gone."""
        if self._lost is None:
            self._receive()
        if not self._ready and self._lost is not None and self._read_bytes:
            raise self._lost
        replies = list(self._ready)
        self._ready.clear()
        return replies

    def wait_any(self) -> Reply:
        """The next reply, in order of arrival. At least one request must be in flight or answered."""
        assert self._ready or self._read_bytes, "nothing is in flight"
        while not self._ready:
            self._wait_for_input()
        return self._ready.popleft()

    def wait(self, handle: int) -> Reply:
        """The reply to `handle`; others that arrive meanwhile stay for `poll` and `wait_any`."""
        while handle in self._read_bytes:
            self._wait_for_input()
        for reply in self._ready:
            if reply.handle == handle:
                self._ready.remove(reply)
                return reply
        raise AssertionError(f"handle {handle} is unknown or already taken")

    # --- one at a time -----------------------------------------------------------------------

    def read(self, offset: int, length: int) -> bytes:
        """READ and wait."""
        return self._finish(self.submit_read(offset, length), "read")

    def write(self, offset: int, data: bytes, fua: bool = False) -> None:
        """WRITE and wait."""
        self._finish(self.submit_write(offset, data, fua), "write")

    def flush(self) -> None:
        """FLUSH and wait."""
        self._finish(self.submit_flush(), "flush")

    def trim(self, offset: int, length: int, fua: bool = False) -> None:
        """TRIM and wait."""
        self._finish(self.submit_trim(offset, length, fua), "trim")

    def write_zeroes(self, offset: int, length: int, fua: bool = False, may_trim: bool = True) -> None:
        """WRITE_ZEROES and wait."""
        self._finish(self.submit_write_zeroes(offset, length, fua, may_trim), "write zeroes")

    def close(self) -> None:
        """Say goodbye (DISC) if anybody listens, and close. May be called twice."""
        if self._socket.fileno() >= 0 and self._lost is None:
            try:
                self._send(_REQUEST.pack(REQUEST_MAGIC, 0, CMD_DISC, 0, 0, 0))
            except (ConnectionError, TimeoutError):
                self._read_bytes.clear()  # the server left first: there is nobody to say goodbye to
        self._socket.close()

    def abort(self) -> None:
        """Close without a word, as a killed client does."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- the wire ----------------------------------------------------------------------------

    def _negotiate(self, export: str) -> tuple[int, int]:
        magic, option_magic, server_flags = struct.unpack(">QQH", self._receive_exactly(18))
        if magic != 0x4E42444D41474943 or option_magic != OPTION_MAGIC:
            raise ConnectionError("this is not an NBD server")
        name = export.encode()
        data = struct.pack(f">I{len(name)}sH", len(name), name, 0)
        go = struct.pack(">QII", OPTION_MAGIC, OPT_GO, len(data)) + data
        self._socket.sendall(struct.pack(">I", server_flags & 3) + go)
        size_bytes, flags = -1, 0
        while True:
            magic, _option, kind, length = _OPTION_REPLY.unpack(self._receive_exactly(_OPTION_REPLY.size))
            payload = self._receive_exactly(length)
            if magic != REPLY_MAGIC:
                raise ConnectionError("bad magic in an option reply")
            if kind & REP_ERROR_BIT:
                raise NbdError(kind & ~REP_ERROR_BIT, f"GO {export!r} refused")
            if kind == REP_INFO and payload[:2] == b"\0\0":
                size_bytes, flags = struct.unpack(">QH", payload[2:])
            if kind == REP_ACK:
                return size_bytes, flags

    def _receive_exactly(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            chunk = self._socket.recv(length - len(data))
            if not chunk:
                raise ConnectionResetError("the server closed the connection")
            data += chunk
        return bytes(data)

    def _submit(
        self, command: int, flags: int, offset: int, length: int, data: bytes, read_bytes: int
    ) -> int:
        handle = self._next_handle
        self._next_handle += 1
        self._read_bytes[handle] = read_bytes
        self._send(_REQUEST.pack(REQUEST_MAGIC, flags, command, handle, offset, length) + data)
        return handle

    def _finish(self, handle: int, what: str) -> bytes:
        reply = self.wait(handle)
        if reply.error:
            raise NbdError(reply.error, what)
        return reply.data

    def _send(self, data: bytes) -> None:
        """Send all of `data`, taking in replies on the way.

        A server that waits for us to read them would otherwise never take our request.
        """
        left = memoryview(data)
        while left:
            if self._lost is not None:
                raise self._lost
            try:
                left = left[self._socket.send(left) :]
            except BlockingIOError:
                readable, _ = self._select(want_write=True)
                if readable:
                    self._receive()
            except ConnectionError as error:
                self._receive()  # acknowledgements may still lie in the socket
                self._lost = error

    def _wait_for_input(self) -> None:
        if self._lost is not None:
            raise self._lost
        self._select(want_write=False)
        self._receive()

    def _select(self, want_write: bool) -> tuple[bool, bool]:
        poll = select.poll()  # select.select knows no descriptor past 1023, and crowds of clients have them
        poll.register(self._socket, select.POLLIN | (select.POLLOUT if want_write else 0))
        ready = poll.poll(self._timeout_seconds * 1000)
        if not ready:
            raise TimeoutError(f"the NBD server did not move for {self._timeout_seconds} s")
        events = ready[0][1]
        return bool(events & ~select.POLLOUT), bool(events & select.POLLOUT)

    def _receive(self) -> None:
        """Take in whatever is there; a closed connection is noted in `_lost`."""
        while self._lost is None:
            try:
                chunk = self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                break
            except ConnectionError as error:
                self._lost = error
                break
            if not chunk:
                self._lost = ConnectionResetError("the server closed the connection")
            self._incoming += chunk
        self._parse()

    def _parse(self) -> None:
        at = 0
        while len(self._incoming) - at >= _REPLY.size:
            magic, error, handle = _REPLY.unpack_from(self._incoming, at)
            if magic != SIMPLE_REPLY_MAGIC or handle not in self._read_bytes:
                self._lost = ConnectionError(
                    f"the server sent a reply that fits no request (handle {handle})"
                )
                break
            end = at + _REPLY.size + (0 if error else self._read_bytes[handle])
            if len(self._incoming) < end:
                break
            self._ready.append(Reply(handle, error, bytes(self._incoming[at + _REPLY.size : end])))
            del self._read_bytes[handle]
            at = end
        del self._incoming[:at]
