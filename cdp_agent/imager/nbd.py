"""A small client of NBD, for QEMU's own server: what is dirty, what is zeros, and the bytes. Synchronous.

Only what reading an image needs: meta contexts, BLOCK_STATUS and READ, of which several fly at once. QEMU is
trusted no further than its guest is: whatever it answers is held to what was asked. What is read, and why,
does not belong here (`cycle`).
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from cdp_container.errors import HypervisorFailed
from nbd_export import wire

ALLOCATION: Final = "base:allocation"
STATE_ZERO: Final = 2
"""Of base:allocation: what reads as zeros."""
STATE_DIRTY: Final = 1
"""Of a dirty bitmap."""
STATUS_BYTES_MAX: Final = 1 << 30
"""Asked for at once; what comes back is bounded by PAYLOAD_BYTES_MAX."""
READ_BYTES_MAX: Final = 1 << 20
READS_FLYING_MAX: Final = 64
"""Asked for before the first is answered: else each small one waits for a way there and back."""
FLYING_BYTES_MAX: Final = 4 << 20
PAYLOAD_BYTES_MAX: Final = READ_BYTES_MAX + (1 << 20)
OPTION_PAYLOAD_BYTES_MAX: Final = 64 << 10
OPTION_REPLIES_MAX: Final = 64
"""To one option."""
_READ_ERROR: Final = 1 << 15
"""Bit of the types of chunks that say what went wrong."""
_HOLE: Final = 2
_NONE: Final = 0


class Status(NamedTuple):
    """A run of bytes, and its flags in one context."""

    offset: int
    length: int
    flags: int


@dataclass(slots=True)
class _Read:
    """A read that was asked for, and what of it came."""

    offset: int
    length: int
    data: bytearray
    had: int = 0
    is_done: bool = False


class NbdReader:
    """One connection to one export, read only. Raises HypervisorFailed for whatever goes wrong.

    Args:
        peer: connected; closed by `close`, and where this raises.
        export: its name.
        contexts: of which BLOCK_STATUS is to tell.
        left_seconds: how much time is left; asked before each wait.
    """

    def __init__(
        self, peer: socket.socket, export: str, contexts: Sequence[str], left_seconds: Callable[[], float]
    ) -> None:
        self._peer = peer
        self._what = f"reading {export} from QEMU"
        self._left_seconds = left_seconds
        self._cookie = 0
        try:
            self._greet()
            self._option(wire.Option.STRUCTURED_REPLY, b"")
            self._contexts = self._agree(export, contexts)
            self.size_bytes = self._go(export)
        except BaseException:
            peer.close()
            raise

    def close(self) -> None:
        """Let go of it; QEMU needs no goodbye."""
        self._peer.close()

    # --- transmission --------------------------------------------------------------------------

    def status(self, offset: int, length: int, context: str) -> Iterator[Status]:
        """What a context says of a range, in order and without gaps."""
        wanted = self._contexts[context]
        end = offset + length
        while offset < end:
            for found in self._status_once(offset, min(end - offset, STATUS_BYTES_MAX), wanted):
                yield found
                offset = found.offset + found.length

    def read(self, pieces: Iterable[tuple[int, int]]) -> Iterator[tuple[int, bytes]]:
        """Offset and bytes of each of these (offset, length of READ_BYTES_MAX at most), in their order."""
        waiting: deque[_Read] = deque()
        flying: dict[int, _Read] = {}
        left = iter(pieces)
        asked_bytes = 0
        more = True
        while more or waiting:
            requests = []
            while more and len(waiting) < READS_FLYING_MAX and asked_bytes < FLYING_BYTES_MAX:
                piece = next(left, None)
                if piece is None:
                    more = False
                    break
                self._cookie += 1
                read = flying[self._cookie] = _Read(piece[0], piece[1], bytearray(piece[1]))
                waiting.append(read)
                asked_bytes += piece[1]
                requests.append(
                    wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, wire.Command.READ, self._cookie, *piece)
                )
            if requests:
                self._send(b"".join(requests))
            while waiting and waiting[0].is_done:
                read = waiting.popleft()
                asked_bytes -= read.length
                yield read.offset, bytes(read.data)
            if waiting:
                self._take_read(flying)

    def _take_read(self, flying: dict[int, _Read]) -> None:
        """The next chunk, whichever read it is of."""
        kind, cookie, done, payload = self._chunk()
        read = flying.get(cookie)
        if read is None:
            raise self._odd("what is no answer to what was asked")
        if kind == wire.ChunkType.OFFSET_DATA and len(payload) > 8:
            at = struct.unpack_from(">Q", payload)[0] - read.offset
            count = len(payload) - 8
        elif kind == _HOLE and len(payload) == 12:
            at, count = struct.unpack(">QI", payload)
            at -= read.offset
        elif kind == _NONE:
            at = count = 0
        else:
            raise self._odd("a chunk of no kind that a READ has")
        if at < 0 or at + count > read.length:
            raise self._odd("bytes that were not asked for")
        if kind == wire.ChunkType.OFFSET_DATA:
            read.data[at : at + count] = memoryview(payload)[8:]
        read.had += count
        if done:
            if read.had != read.length:
                raise self._odd(f"{read.had} bytes of {read.length}")
            read.is_done = True
            del flying[cookie]

    def _status_once(self, offset: int, length: int, wanted: int) -> list[Status]:
        found: list[Status] = []
        for kind, payload in self._ask(wire.Command.BLOCK_STATUS, offset, length):
            if kind != wire.ChunkType.BLOCK_STATUS or len(payload) < 12 or len(payload) % 8 != 4:
                raise self._odd("a chunk of no kind that a BLOCK_STATUS has")
            if struct.unpack_from(">I", payload)[0] != wanted:
                continue
            if found:
                raise self._odd("twice to one question")
            at = offset
            for count, flags in wire.EXTENT.iter_unpack(memoryview(payload)[4:]):
                if not count or at >= offset + length:
                    raise self._odd("the state of what was not asked for")
                count = min(count, offset + length - at)
                found.append(Status(at, count, flags))
                at += count
        if not found:
            raise self._odd("no state of what was asked for")
        return found

    def _ask(self, command: wire.Command, offset: int, length: int) -> Iterator[tuple[int, bytes]]:
        self._cookie += 1
        self._send(wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, command, self._cookie, offset, length))
        done = False
        while not done:
            kind, cookie, done, payload = self._chunk()
            if cookie != self._cookie:
                raise self._odd("what is no answer to what was asked")
            if kind != _NONE:
                yield kind, payload

    def _chunk(self) -> tuple[int, int, bool, bytes]:
        """Kind, cookie, whether it is the last one of its reply, and what is in it."""
        magic, flags, kind, cookie, count = wire.CHUNK.unpack(self._take(wire.CHUNK.size))
        if magic != wire.STRUCTURED_REPLY_MAGIC or count > PAYLOAD_BYTES_MAX:
            raise self._odd("what is no answer to what was asked")
        payload = self._take(count)
        if kind & _READ_ERROR:
            code = struct.unpack_from(">I", payload)[0] if len(payload) >= 4 else 0
            raise HypervisorFailed(self._what, f"it cannot be read (NBD error {code})")
        return kind, cookie, bool(flags & wire.ChunkFlag.DONE), payload

    # --- handshake -----------------------------------------------------------------------------

    def _greet(self) -> None:
        magic, have, flags = wire.GREETING.unpack(self._take(wire.GREETING.size))
        if magic != wire.NBDMAGIC or have != wire.IHAVEOPT or not flags & wire.HandshakeFlag.FIXED_NEWSTYLE:
            raise self._odd("it is no NBD server of our days")
        self._send(wire.CLIENT_FLAGS.pack(flags & 3))

    def _agree(self, export: str, contexts: Sequence[str]) -> dict[str, int]:
        """The numbers of contexts, by their names."""
        name = export.encode()
        data = struct.pack(">I", len(name)) + name + struct.pack(">I", len(contexts))
        for context in contexts:
            data += struct.pack(">I", len(context)) + context.encode()
        found = {
            payload[4:].decode("utf-8", "replace"): struct.unpack_from(">I", payload)[0]
            for kind, payload in self._option(wire.Option.SET_META_CONTEXT, data)
            if kind == wire.ReplyType.META_CONTEXT and len(payload) > 4
        }
        missing = [context for context in contexts if context not in found]
        if missing:
            raise HypervisorFailed(self._what, f"it does not tell of {missing[0]}")
        return found

    def _go(self, export: str) -> int:
        name = export.encode()
        size_bytes = -1
        data = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
        for kind, payload in self._option(wire.Option.GO, data):
            if kind == wire.ReplyType.INFO and len(payload) == wire.INFO_EXPORT.size:
                what, size, _ = wire.INFO_EXPORT.unpack(payload)
                size_bytes = size if what == wire.Info.EXPORT else size_bytes
        if size_bytes < 0:
            raise self._odd("no size")
        return size_bytes

    def _option(self, option: wire.Option, data: bytes) -> list[tuple[int, bytes]]:
        self._send(wire.OPTION_HEADER.pack(wire.IHAVEOPT, option, len(data)) + data)
        replies: list[tuple[int, bytes]] = []
        while len(replies) < OPTION_REPLIES_MAX:
            head = self._take(wire.OPTION_REPLY.size)
            magic, echoed, kind, count = wire.OPTION_REPLY.unpack(head)
            if magic != wire.OPTION_REPLY_MAGIC or echoed != option or count > OPTION_PAYLOAD_BYTES_MAX:
                raise self._odd("what is no answer to an option")
            payload = self._take(count)
            if kind & 0x80000000:
                why = payload.decode("utf-8", "replace") or f"reply {kind:#x}"
                raise HypervisorFailed(self._what, f"it refuses {option.name}: {why}")
            if kind == wire.ReplyType.ACK:
                return replies
            replies.append((kind, payload))
        raise self._odd("an option without end (OPTION_REPLIES_MAX)")

    # --- bytes ---------------------------------------------------------------------------------

    def _send(self, data: bytes) -> None:
        try:
            self._wait()
            self._peer.sendall(data)
        except OSError as error:
            raise HypervisorFailed(self._what, error.strerror or str(error)) from error

    def _take(self, length: int) -> bytes:
        data = bytearray(length)
        view, at = memoryview(data), 0
        while at < length:
            self._wait()
            try:
                count = self._peer.recv_into(view[at:])
            except TimeoutError as error:
                raise HypervisorFailed(self._what, "it does not answer in time") from error
            except OSError as error:
                raise HypervisorFailed(self._what, error.strerror or str(error)) from error
            if not count:
                raise HypervisorFailed(self._what, "it closed the connection")
            at += count
        return bytes(data)

    def _wait(self) -> None:
        left = self._left_seconds()
        if left <= 0:
            raise HypervisorFailed(self._what, "it does not answer in time")
        self._peer.settimeout(left)

    def _odd(self, why: str) -> HypervisorFailed:
        return HypervisorFailed(self._what, f"it answers {why}")
