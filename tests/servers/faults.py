"""A TCP proxy with faults, between real clients and a real S3 server.

It streams: nothing of a body is kept. It reads the heads of requests only, to know what it counts and
where a body ends; each request gets a connection of its own to the server, and both are closed after the
answer. What is handed on keeps its Host header, so that a signature stays good. What does not belong here:
answers that a test scripts one by one, TLS, a record of headers (`front`).
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Final
from urllib.parse import urlsplit

_HEAD_BYTES_MAX: Final = 64 * 1024
_PIECE_BYTES: Final = 64 * 1024
_TRICKLES_PER_SECOND: Final = 20
_ACCEPT_SECONDS: Final = 0.05
_YIELD_SECONDS: Final = 0.001
_IDLE_SECONDS: Final = 60.0
_END_SECONDS: Final = 30.0


class Fate(Enum):
    """What became of a request."""

    PASSED = "passed"
    RESET = "reset before it was read"
    BROKEN = "reset amid the answer"
    STALLED = "never answered"
    LOST = "done, but the answer was lost"
    ANSWERED = "answered by the proxy"


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer in S3's form that the proxy gives without asking the server."""

    status: int
    code: str
    retry_after_seconds: int | None = None

    def encoded(self, *, with_body: bool) -> bytes:
        """The whole answer; a HEAD gets no body."""
        body = f"<?xml version='1.0'?><Error><Code>{self.code}</Code><Message>no</Message></Error>".encode()
        lines = [f"HTTP/1.1 {self.status} No", "Content-Type: application/xml", "Connection: close"]
        lines.append(f"Content-Length: {len(body)}")
        if self.retry_after_seconds is not None:
            lines.append(f"Retry-After: {self.retry_after_seconds}")
        head = "\r\n".join([*lines, "", ""]).encode()
        return head + body if with_body else head


SLOW_DOWN: Final = Refusal(503, "SlowDown", retry_after_seconds=1)
EXPIRED_TOKEN: Final = Refusal(403, "ExpiredToken")
INVALID_KEY: Final = Refusal(403, "InvalidAccessKeyId")
INTERNAL_ERROR: Final = Refusal(500, "InternalError")


@dataclass(frozen=True, slots=True)
class Faults:
    """What is wrong from now on. Shares are of all requests, from 0 to 1, and are drawn in this order.

    Attributes:
        reset: closed with a RST before the request is read: the server never sees it.
        refused: answered with `refusal`, once the request's body has arrived.
        lost: handed on, and done by the server; then the connection is reset in place of the answer.
        stalled: taken, and never answered; the connection is reset when the faults change.
        broken: reset after the first bytes of the answer.
        delay_seconds: before each request is handed on, and before its answer is.
        only: of requests whose path ends so, where that is not ""; except for resets.
        bytes_per_second: of all connections and both directions together; None for no limit.
    """

    reset: float = 0.0
    refused: float = 0.0
    refusal: Refusal = INTERNAL_ERROR
    lost: float = 0.0
    stalled: float = 0.0
    broken: float = 0.0
    delay_seconds: float = 0.0
    only: str = ""
    bytes_per_second: int | None = None


NONE: Final = Faults()
AWAY: Final = Faults(reset=1.0)
SILENT: Final = Faults(stalled=1.0)


@dataclass(frozen=True, slots=True)
class Seen:
    """One request: which second it came in (since the proxy's start), what it was, what became of it."""

    second: int
    method: str
    path: str
    fate: Fate


@dataclass(slots=True)
class FaultProxy:
    """A running proxy; `set` may be called at any time, from any thread."""

    backend: tuple[str, int]
    rng: random.Random
    listener: socket.socket
    faults: Faults = NONE
    seen: list[Seen] = field(default_factory=list)
    _started: float = field(default_factory=time.monotonic)
    _changed: threading.Event = field(default_factory=threading.Event)
    _ended: threading.Event = field(default_factory=threading.Event)
    _drawing: threading.Lock = field(default_factory=threading.Lock)
    _listening: threading.Lock = field(default_factory=threading.Lock)
    _trickling: threading.Lock = field(default_factory=threading.Lock)

    @property
    def endpoint(self) -> str:
        """Where it listens."""
        host, port = self.listener.getsockname()
        return f"http://{host}:{port}"

    def set(self, faults: Faults) -> None:
        """From now on these; what was stalled under the old ones is reset."""
        with self._drawing:
            self.faults = faults
            self._changed.set()
            self._changed = threading.Event()

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Nobody listens at the port for a while; what is under way goes on. Attempts cannot be counted."""
        address = self.listener.getsockname()
        with self._listening:
            self.listener.close()
            try:
                yield
            finally:
                self.listener = _listen(address)

    def counts(self, since: int = 0) -> Counter[Fate]:
        """How many requests met which fate, from the number `since` on."""
        return Counter(seen.fate for seen in self.seen[since:])

    def busiest_second(self, since: int = 0) -> int:
        """The largest number of requests that came within one second, repeated ones counted."""
        return max(Counter(seen.second for seen in self.seen[since:]).values(), default=0)

    def elapsed_seconds(self) -> float:
        """Since the proxy started."""
        return time.monotonic() - self._started

    # --- one connection ------------------------------------------------------------------------

    def serve(self, client: socket.socket) -> None:
        """One connection, which is one request."""
        with client, contextlib.suppress(OSError):
            client.settimeout(_IDLE_SECONDS)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            fate, faults, changed = self._draw()
            if fate is Fate.RESET:
                self._note(fate, "", "")
                _reset(client)
                return
            head = _read_head(client)
            if head is None:
                return
            method, path, length, handed_on, expects = _understand(head[0])
            if not path.partition("?")[0].endswith(faults.only):
                fate, faults = Fate.PASSED, NONE
            self._note(fate, method, path)
            if expects:
                client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            if fate is Fate.STALLED:
                self._wait_for(changed)
                _reset(client)
            elif fate is Fate.ANSWERED:
                self._pass_on(client, None, length, head[1], faults)
                client.sendall(faults.refusal.encoded(with_body=method != "HEAD"))
            else:
                self._hand_on(client, handed_on, (length, head[1]), fate, faults)

    def _hand_on(
        self, client: socket.socket, head: bytes, body: tuple[int, bytes], fate: Fate, faults: Faults
    ) -> None:
        with socket.create_connection(self.backend, _IDLE_SECONDS) as server:
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._ended.wait(faults.delay_seconds)
            server.sendall(head)
            self._pass_on(client, server, *body, faults)
            first = server.recv(_PIECE_BYTES)
            self._ended.wait(faults.delay_seconds)
            if fate is Fate.LOST:
                _reset(client)
                return
            if fate is Fate.BROKEN:
                client.sendall(first[: len(first) // 2])
                _reset(client)
                return
            piece = first
            while piece and not self._ended.is_set():
                self._send(client, piece, faults)
                piece = server.recv(_PIECE_BYTES)

    def _pass_on(
        self, client: socket.socket, server: socket.socket | None, length: int, begun: bytes, faults: Faults
    ) -> None:
        """The request's body; without a server it is read and dropped."""
        piece, left = begun[:length], length
        while left and not self._ended.is_set():
            if piece:
                left -= len(piece)
                if server is not None:
                    self._send(server, piece, faults)
            if left:
                piece = client.recv(min(left, _PIECE_BYTES))
                if not piece:
                    raise ConnectionAbortedError
        if self._ended.is_set():
            raise ConnectionAbortedError

    def _send(self, to: socket.socket, data: bytes, faults: Faults) -> None:
        rate = faults.bytes_per_second
        if rate is None:
            to.sendall(data)
            return
        step = max(1, rate // _TRICKLES_PER_SECOND)
        for start in range(0, len(data), step):
            if self.faults is not faults:  # lifted meanwhile
                to.sendall(data[start:])
                return
            with self._trickling:
                piece = data[start : start + step]
                self._ended.wait(len(piece) / rate)
            to.sendall(piece)

    def _draw(self) -> tuple[Fate, Faults, threading.Event]:
        with self._drawing:
            faults = self.faults
            shares = (
                (faults.reset, Fate.RESET),
                (faults.refused, Fate.ANSWERED),
                (faults.lost, Fate.LOST),
                (faults.stalled, Fate.STALLED),
                (faults.broken, Fate.BROKEN),
            )
            drawn = self.rng.random()
            for share, fate in shares:
                if drawn < share:
                    return fate, faults, self._changed
                drawn -= share
            return Fate.PASSED, faults, self._changed

    def _note(self, fate: Fate, method: str, path: str) -> None:
        self.seen.append(Seen(int(self.elapsed_seconds()), method, path, fate))

    def _wait_for(self, changed: threading.Event) -> None:
        while not self._ended.is_set() and not changed.wait(_ACCEPT_SECONDS):
            pass

    def accept_until_ended(self) -> None:
        """The thread that accepts; each connection gets a thread of its own."""
        while not self._ended.is_set():
            with self._listening, contextlib.suppress(TimeoutError):
                client, _ = self.listener.accept()
                threading.Thread(target=self.serve, args=(client,), daemon=True).start()
            self._ended.wait(_YIELD_SECONDS)  # whoever waits for the lock gets it

    def end(self) -> None:
        """Accept nothing more; what is under way breaks off."""
        self._ended.set()
        self.set(NONE)


@contextmanager
def running_faults(backend: str, rng: random.Random) -> Iterator[FaultProxy]:
    """A proxy without faults yet, on a free port before the endpoint `backend`; ended at the end."""
    parts = urlsplit(backend)
    assert parts.hostname is not None
    assert parts.port is not None
    proxy = FaultProxy((parts.hostname, parts.port), rng, _listen(("127.0.0.1", 0)))
    thread = threading.Thread(target=proxy.accept_until_ended, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.end()
        thread.join(_END_SECONDS)
        proxy.listener.close()


def _listen(address: tuple[str, int]) -> socket.socket:
    listener = socket.create_server(address, backlog=128)
    listener.settimeout(_ACCEPT_SECONDS)
    return listener


def _reset(client: socket.socket) -> None:
    """Close with a RST."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def _read_head(client: socket.socket) -> tuple[bytes, bytes] | None:
    """The head with its empty line, and what came of the body with it; None from a client that hung up."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = client.recv(_PIECE_BYTES)
        if not piece or len(data) > _HEAD_BYTES_MAX:
            return None
        data += piece
    head, _, begun = data.partition(b"\r\n\r\n")
    return head, begun


def _understand(head: bytes) -> tuple[str, str, int, bytes, bool]:
    """(method, path, length of the body, head to hand on, whether the client waits for 100 Continue).

    `Expect` and `Connection` are between neighbours, and no client signs them.
    """
    first, *lines = head.split(b"\r\n")
    method, path, _ = first.decode("latin-1").split(" ")
    length, expects, kept = 0, False, [first]
    for line in lines:
        name, _, value = line.partition(b":")
        match name.strip().lower():
            case b"content-length":
                length = int(value)
                kept.append(line)
            case b"transfer-encoding":
                raise ConnectionAbortedError  # our clients send no chunks
            case b"expect":
                expects = True
            case b"connection" | b"keep-alive":
                pass
            case _:
                kept.append(line)
    return method, path, length, b"\r\n".join([*kept, b"Connection: close", b"", b""]), expects
