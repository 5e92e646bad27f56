"""One client of the asyncio server: moves bytes, calls the export, bounds what is in flight.

Protocol rules belong to `protocol`, listening and closing to `server`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Final

from nbd_export.backend import Export, Exports
from nbd_export.contexts import ALLOCATION_ID
from nbd_export.deadlines import Deadline
from nbd_export.eager import rest_of
from nbd_export.errors import BackendError, ClientProtocolError, TlsUnusable, errno_of
from nbd_export.limits import (
    EXTENTS_MAX,
    IN_FLIGHT_BYTES_MAX,
    IN_FLIGHT_REQUESTS_MAX,
    JOINED_REPLY_BYTES_MAX,
    SHARE_BYTES,
    TLS_SHUTDOWN_SECONDS_MAX,
    UNSENT_REPLY_BYTES_MAX,
    WRITES_AT_ONCE_MAX,
    ServerLimits,
)
from nbd_export.memory import Memory
from nbd_export.protocol import NEED_ROOM, Disconnected, Event, Opened, Progress, ServerConnection, TlsWanted
from nbd_export.tls import TlsContexts
from nbd_export.transmission import (
    FUA,
    NO_HOLE,
    REQ_ONE,
    Request,
    bytes_for_reads,
    error_reply,
    good_replies,
    read_header,
    room_for_reads,
    simple_reply,
    status_reply,
)
from nbd_export.wire import Command

# What a method of an export answers with: READ with data, BLOCK_STATUS with extents, all others with None.
_Result = Any

_log: Final = logging.getLogger(__name__)


class Session(asyncio.BufferedProtocol):
    """The asyncio protocol of one connection.

    Everything happens in turns: a turn takes events until the bytes are used up or a limit is
    reached, sends all the replies that have come together in one piece, and decides whether to
    go on reading. A turn runs when bytes arrive, when replies have drained, and once in the loop
    iteration after requests finished.
    """

    def __init__(
        self,
        exports: Exports,
        limits: ServerLimits,
        memory: Memory,
        on_opened: Callable[[Session], None],
        on_done: Callable[[Session], None],
        tls: TlsContexts | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = ServerConnection(exports, tls=tls is not None, has_room=self._has_room)
        self._tls = tls
        self._tls_wanted = False  # it begins with the end of this turn
        self._securing: asyncio.Task[None] | None = None  # while TLS shakes hands
        self._is_secure = False
        self._is_lost = False
        self._handshake = Deadline(limits.handshake_seconds, partial(self._late, "no export was chosen"))
        self._request = Deadline(limits.request_seconds, self._look_at_request)
        self._taking = Deadline(limits.replies_seconds, partial(self._late, "replies were not taken"))
        self._standstill = Deadline(limits.standstill_seconds, self._look_at_progress)
        self._progress_seen: object = None  # when that began
        self._handshake_seconds = limits.handshake_seconds
        self._on_opened = on_opened  # called once: an export was chosen
        self._on_done = on_done  # called once: connection lost, and nothing of it in flight
        self._transport: asyncio.Transport | None = None
        self._export: Export | None = None
        self._structured = False  # replies to READ
        self._in_flight: set[asyncio.Task[None]] = set()
        self._in_flight_bytes = 0
        self._replies: list[bytes | bytearray | memoryview] = []
        self._replies_bytes = 0
        self._memory = memory
        self._held_bytes = 0  # of it
        self._waits_for_room = False
        self._steps_seen = 0  # of the protocol, when the deadline of a request began
        self._turn_is_due = False
        self._writing_paused = False
        self._reading_paused = False
        self._eof = False
        self._ending = False  # no further request is begun; the connection closes when the last is answered

    # --- asyncio.BufferedProtocol ------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the client, and give it a deadline for choosing an export."""
        assert isinstance(transport, asyncio.Transport), "a stream socket"
        self._transport = transport
        transport.set_write_buffer_limits(high=UNSENT_REPLY_BYTES_MAX)
        self._handshake.begin()
        self._turn()

    def get_buffer(self, sizehint: int) -> memoryview:
        """See `ServerConnection.receive_buffer`."""
        return self._connection.receive_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes arrived."""
        self._connection.received(nbytes)
        self._turn()

    def eof_received(self) -> bool:
        """The client sends no more; what it has asked for is still done and answered."""
        self._eof = True
        self._turn()
        return not self._is_secure  # TLS has no half of a connection

    def pause_writing(self) -> None:
        """The client does not read its replies: begin nothing new until it does."""
        self._writing_paused = True
        self._taking.begin()

    def resume_writing(self) -> None:
        """The replies have drained."""
        self._writing_paused = False
        self._taking.end()
        self._schedule_turn()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody waits for answers any more; requests in flight run on to their end."""
        if self._is_lost:
            return
        self._is_lost = True
        self._transport = None
        self._ending = True
        for deadline in (self._handshake, self._request, self._taking, self._standstill):
            deadline.end()
        self._replies.clear()
        self._writing_paused = False
        self._memory.forget(self._schedule_turn)
        self._connection.drop()
        self._count_memory()
        self._say_if_done()

    # --- for the server ----------------------------------------------------------------------

    def end(self) -> None:
        """Begin nothing new, answer what is in flight, then close."""
        self._ending = True
        self._schedule_turn()

    def abort(self) -> None:
        """Close at once and cancel what is in flight."""
        self._ending = True
        for task in self._in_flight:
            task.cancel()
        if self._transport is not None:
            self._transport.abort()

    # --- turns -------------------------------------------------------------------------------

    def _schedule_turn(self) -> None:
        if not self._turn_is_due:
            self._turn_is_due = True
            self._loop.call_soon(self._scheduled_turn)

    def _scheduled_turn(self) -> None:
        self._turn_is_due = False
        self._turn()

    def _turn(self) -> None:
        if self._transport is None:
            return
        if self._securing is not None:  # asyncio may bring what came through TLS before we know of it
            if self._ending:
                self._transport.abort()
            return
        try:
            self._take_events()
        except ClientProtocolError as error:
            _log.info("hanging up on a client: %s", error)
            self._ending = True
        except BaseException:
            # A bug of the export. Nobody can say what became of the request, so the client must not
            # wait for its answer; the loop's exception handler gets to see the error itself.
            self._transport.abort()
            raise
        self._send_replies()
        if self._held_bytes or self._in_flight_bytes or self._writing_paused:
            self._count_memory()
        if self._ending and not self._in_flight:
            self._taking.begin()  # the last replies, if any are left
            self._transport.close()
        elif self._tls_wanted:
            self._set_reading(False)
            self._tls_wanted = False
            self._securing = self._loop.create_task(self._secure(self._transport))
        else:
            self._set_reading(not (self._is_full() or self._ending or self._waits_for_room))
            if self._connection.is_amid_request and not self._request.is_running and self._export:
                self._steps_seen = self._connection.steps_count
                self._request.begin()

    def _take_events(self) -> None:
        while not self._ending and not self._is_full():
            has_taken = self._write_together() or self._read_together()
            if not has_taken or self._connection.is_used_up:
                event = self._connection.next_event()
                if isinstance(event, Progress):
                    self._waits_for_room = event is NEED_ROOM
                    self._ending = self._eof and not self._waits_for_room
                    return
                self._handle(event)
            if self._replies_bytes >= UNSENT_REPLY_BYTES_MAX:
                self._send_replies()

    def _write_together(self) -> bool:
        """Take small writes that came one behind the other; most end here, without a coroutine each."""
        room = IN_FLIGHT_REQUESTS_MAX - len(self._in_flight)
        cookies, writes = self._connection.take_writes(min(WRITES_AT_ONCE_MAX, room))
        if not writes:
            return False
        assert self._export is not None, "requests come after Opened"
        done = self._export.write_now(writes)
        self._push(good_replies(cookies[:done]))
        for cookie, (offset, data) in zip(cookies[done:], writes[done:], strict=True):
            self._begin(Request(Command.WRITE, cookie, offset, len(data), 0, data))
        return True

    def _read_together(self) -> bool:
        """The same with small reads; one that would wait holds up none behind it."""
        reads = self._connection.take_reads(IN_FLIGHT_REQUESTS_MAX - len(self._in_flight))
        if not reads:
            return False
        assert self._export is not None, "requests come after Opened"
        replies, places = room_for_reads(reads, self._structured)
        done = self._export.read_now(places)
        if done == len(reads):
            self._push(replies)
            return True
        room, at, start = memoryview(replies), 0, 0
        while at < len(reads):
            end = start + bytes_for_reads(reads[at : at + done], self._structured)
            self._push(room[start:end])
            at += done
            if at < len(reads):
                cookie, offset, length = reads[at]
                self._begin(Request(Command.READ, cookie, offset, length, 0, b""))
                start = end + bytes_for_reads(reads[at : at + 1], self._structured)
                at += 1
                done = self._export.read_now(places[at:])
        return True

    def _handle(self, event: Event) -> None:
        if isinstance(event, Request):
            self._begin(event)
        elif isinstance(event, Opened):
            self._export, self._structured = event.export, event.structured
            self._handshake.end()
            self._on_opened(self)
        elif isinstance(event, TlsWanted):
            self._tls_wanted = True
        else:
            assert isinstance(event, Disconnected), "the last kind of event"
            self._ending = True

    def _is_full(self) -> bool:
        return (
            self._writing_paused
            or len(self._in_flight) >= IN_FLIGHT_REQUESTS_MAX
            or self._in_flight_bytes >= IN_FLIGHT_BYTES_MAX
            or (self._memory.is_full and self._in_flight_bytes >= SHARE_BYTES)
        )

    def _set_reading(self, wanted: bool) -> None:
        assert self._transport is not None, "asked within a turn"
        if self._eof or wanted is not self._reading_paused:
            return
        self._reading_paused = not wanted
        if wanted:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    # --- limits ------------------------------------------------------------------------------

    def _has_room(self, length: int) -> bool:
        """See `ServerConnection`; what is taken here is given back by `_count_memory`."""
        if not self._memory.take(self._schedule_turn, length):
            return False
        self._held_bytes += length
        return True

    def _count_memory(self) -> None:
        """Tell the server what this connection holds now."""
        held = self._in_flight_bytes + self._connection.direct_bytes
        if self._writing_paused and self._transport is not None:
            held += self._transport.get_write_buffer_size()
        if held != self._held_bytes:
            change, self._held_bytes = held - self._held_bytes, held
            self._memory.change(change)
        if held and self._transport is not None and not self._standstill.is_running:
            self._progress_seen = self._progress(self._transport)
            self._standstill.begin()

    def _progress(self, transport: asyncio.Transport) -> object:
        return self._connection.progress, transport.get_write_buffer_size()

    def _look_at_progress(self) -> None:
        """Hang up on a client that lets others wait for memory, and does nothing to set it free."""
        if self._transport is None or not self._held_bytes:
            return
        seen, self._progress_seen = self._progress_seen, self._progress(self._transport)
        if seen == self._progress_seen and self._memory.is_wanted and not self._in_flight:
            self._late("memory that others wait for was not set free")
        else:
            self._standstill.begin()

    def _look_at_request(self) -> None:
        """Hang up if one and the same request was incomplete all the while, and not for our sake."""
        if self._connection.is_amid_request:
            seen, self._steps_seen = self._steps_seen, self._connection.steps_count
            if seen == self._steps_seen and not self._reading_paused:
                self._late("a request stays incomplete")
            else:
                self._request.begin()

    def _late(self, what: str) -> None:
        assert self._transport is not None, "a deadline ends with the connection"
        _log.info("hanging up on a client: %s in time", what)
        self._transport.abort()

    # --- TLS ---------------------------------------------------------------------------------

    async def _secure(self, plain: asyncio.Transport) -> None:
        """Shake hands; go on with what comes through TLS, or hang up."""
        secure: asyncio.Transport | None = None
        try:
            assert self._tls is not None, "only then the protocol asks for it"
            secure = await self._loop.start_tls(
                plain, self, self._tls.current(), server_side=True,
                ssl_handshake_timeout=self._handshake_seconds,
                ssl_shutdown_timeout=TLS_SHUTDOWN_SECONDS_MAX,
            )  # fmt: skip
        except (OSError, TlsUnusable) as error:  # ssl.SSLError is an OSError
            _log.info("hanging up on a client: TLS: %s", error)
        finally:
            self._securing = None
        if secure is None or self._is_lost:  # None: the connection was lost meanwhile
            plain.abort()
            if self._is_lost:
                self._say_if_done()
            else:  # asyncio says so only of a connection that was secured
                self.connection_lost(None)
            return
        self._transport, self._is_secure = secure, True
        self._reading_paused = False
        secure.set_write_buffer_limits(high=UNSENT_REPLY_BYTES_MAX)
        self._turn()

    # --- requests ----------------------------------------------------------------------------

    def _begin(self, request: Request) -> None:
        """Run the export's method up to its first suspension; only what suspends costs a task."""
        coroutine = self._call(request)
        try:
            waits_for = coroutine.send(None)
        except StopIteration as returned:
            self._answer(request, returned.value)
        except (BackendError, OSError) as error:
            self._refuse(request, error)
        else:
            task = self._loop.create_task(self._finish(request, rest_of(coroutine, waits_for)))
            self._in_flight.add(task)
            self._in_flight_bytes += request.length if _has_data(request) else 0
            task.add_done_callback(partial(self._finished, request))

    async def _finish(self, request: Request, rest: Awaitable[_Result]) -> None:
        try:
            data = await rest
        except (BackendError, OSError) as error:
            self._refuse(request, error)
        else:
            self._answer(request, data)
        self._schedule_turn()

    def _call(self, request: Request) -> Coroutine[Any, Any, _Result]:
        export = self._export
        assert export is not None, "requests come after Opened"
        command, _, offset, length, flags, payload = request
        if command == Command.WRITE:
            return export.write(offset, payload, bool(flags & FUA))
        if command == Command.READ:
            return export.read(offset, length)
        if command == Command.FLUSH:
            return export.flush()
        if command == Command.TRIM:
            return export.trim(offset, length, bool(flags & FUA))
        if command == Command.WRITE_ZEROES:
            return export.zero(offset, length, bool(flags & FUA), not flags & NO_HOLE)
        if command == Command.CACHE:
            return export.cache(offset, length)
        assert command == Command.BLOCK_STATUS, "the last of the commands that ask for an answer"
        return export.extents(offset, length, 1 if flags & REQ_ONE else EXTENTS_MAX)

    def _finished(self, request: Request, task: asyncio.Task[None]) -> None:
        """Count the request out; a callback, because a task cancelled early never runs `_finish`."""
        self._in_flight.discard(task)
        self._in_flight_bytes -= request.length if _has_data(request) else 0
        if self._ending or self._reading_paused:
            self._schedule_turn()
        if self._transport is None:
            self._count_memory()
        self._say_if_done()
        bug = None if task.cancelled() else task.exception()
        if bug is not None:
            if self._transport is not None:
                self._transport.abort()
            raise bug

    def _say_if_done(self) -> None:
        if self._transport is None and not self._in_flight and self._securing is None:
            self._on_done(self)

    # --- replies -----------------------------------------------------------------------------

    def _answer(self, request: Request, result: _Result) -> None:
        if request.command == Command.READ:
            assert result is not None, "an export read nothing"
            assert len(result) == request.length, "an export read less or more than asked"
            self._push(read_header(request, self._structured))
            self._push(result)
        elif request.command == Command.BLOCK_STATUS:
            assert 0 < len(result) <= EXTENTS_MAX, "an export has parts"
            assert sum(extent.length for extent in result) <= request.length, "an export has more than asked"
            self._push(status_reply(request.cookie, ALLOCATION_ID, result))
        else:
            self._push(simple_reply(request.cookie))

    def _refuse(self, request: Request, error: BackendError | OSError) -> None:
        self._push(error_reply(request.command, request.cookie, errno_of(error), self._structured))

    def _push(self, data: bytes | bytearray | memoryview) -> None:
        if self._transport is not None:
            self._replies.append(data)
            self._replies_bytes += len(data)

    def _send_replies(self) -> None:
        """Hand everything to the transport: small pieces as one, large ones without a copy of ours."""
        own = self._connection.data_to_send()
        small: list[bytes | bytearray | memoryview] = [own] if own else []
        for data in self._replies:
            if len(data) >= JOINED_REPLY_BYTES_MAX:
                self._write_joined(small)
                self._write(data)
                small = []
            else:
                small.append(data)
        self._write_joined(small)
        self._replies.clear()
        self._replies_bytes = 0

    def _write_joined(self, parts: list[bytes | bytearray | memoryview]) -> None:
        if parts:
            self._write(parts[0] if len(parts) == 1 else b"".join(parts))

    def _write(self, data: bytes | bytearray | memoryview) -> None:
        """Send, unless a send before has found the client gone: asyncio warns of those who go on."""
        assert self._transport is not None, "sent within a turn"
        if not self._transport.is_closing():
            self._transport.write(data)


def _has_data(request: Request) -> bool:
    """Whether the request's length is memory: trims and zeroes have a length and no bytes."""
    return request.command in (Command.READ, Command.WRITE)
