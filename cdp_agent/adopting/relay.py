"""What stands between QEMU and the splitter while a disk is copied: it cuts what hangs.

Whoever ends this process, or cuts by `close`, cuts all connections at once, and the guest goes on without.
How a stream is read does not belong here (`conversation`).
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cdp_agent.adopting.conversation import Conversation, NotFollowed
from cdp_container.clock import Clock
from cdp_container.errors import AgentNotRunning, TargetUnsuitable

SOCKET_NAME: Final = "seed.sock"
SOCKET_PATH_BYTES_MAX: Final = 107
"""The kernel's limit."""
CONNECTIONS_MAX: Final = 300
"""One for each disk, and those that QEMU has yet to let go of."""
WATCH_SECONDS: Final = 0.5
CONNECT_SECONDS_MAX: Final = 3.0
_BUFFER_BYTES: Final = 256 << 10
_GREETING_BYTES: Final = 18


def check_answers(path: str) -> None:
    """The server at a socket greets who comes. Raises AgentNotRunning."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as peer:
            peer.settimeout(CONNECT_SECONDS_MAX)
            peer.connect(path)
            if len(peer.recv(_GREETING_BYTES, socket.MSG_WAITALL)) == _GREETING_BYTES:
                return
            why = "it closes the connection"
    except TimeoutError:
        why = f"it does not answer within {CONNECT_SECONDS_MAX:g} s"
    except OSError as error:
        why = error.strerror or str(error)
    raise AgentNotRunning(f"the exports at {path}", why)


@dataclass(eq=False, slots=True)
class _Pair:
    """One connection of QEMU's, and ours to the splitter."""

    client: socket.socket
    server: socket.socket
    conversation: Conversation
    lock: threading.Lock = field(default_factory=threading.Lock)
    pumps: int = 2

    def cut(self) -> None:
        for one in (self.client, self.server):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


class Relay:
    """Listens in a journal directory until `close`.

    `trouble`: why connections were cut last, "" if none was. `in_a_hurry`: nothing may be slow, as in the
    cut-over, when QEMU waits for a flush and does nothing else.

    Args:
        directory: where its socket is made; who owns the exports' socket owns it too.
        upstream: the socket of the exports.
        clock: by which requests wait.
    """

    def __init__(self, directory: Path, upstream: str, clock: Clock) -> None:
        self.path = str(directory / SOCKET_NAME)
        self.trouble = ""
        self.cuts = 0
        self.in_a_hurry = False
        self._upstream = upstream
        self._clock = clock
        self._lock = threading.Lock()
        self._pairs: set[_Pair] = set()
        self._longest_ns = 0
        self._has_written = False
        self._closing = threading.Event()
        if len(self.path.encode()) > SOCKET_PATH_BYTES_MAX:
            raise TargetUnsuitable(
                f"listen at {self.path}", f"its name is longer than {SOCKET_PATH_BYTES_MAX} bytes"
            )
        self._listener = _listen(self.path, upstream)
        self._threads = [
            threading.Thread(target=work, name=f"relay-{name}", daemon=True)
            for name, work in (("accept", self._accept), ("watch", self._watch))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def longest_seconds(self) -> float:
        """How long the request took that took longest of all that were answered."""
        with self._lock:
            return max([self._longest_ns, *(pair.conversation.longest_ns for pair in self._pairs)]) / 1e9

    @property
    def has_written(self) -> bool:
        """Whether anything was passed on that writes; to be asked once it is closed."""
        with self._lock:
            return self._has_written or any(pair.conversation.has_written for pair in self._pairs)

    @property
    def connections(self) -> int:
        """How many there are."""
        with self._lock:
            return len(self._pairs)

    def hurry(self, wanted: bool) -> None:
        """Whether nothing may be slow from now on."""
        self.in_a_hurry = wanted

    def cut(self, why: str) -> None:
        """Cut all connections; new ones may come."""
        with self._lock:
            pairs = list(self._pairs)
            self.cuts += len(pairs)
        self.trouble = why
        for pair in pairs:
            pair.cut()

    def close(self) -> None:
        """Cut all, and let nobody come."""
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            pair.cut()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError as error:
                if self._closing.wait(WATCH_SECONDS):
                    return
                self.trouble = f"QEMU cannot be heard: {error.strerror or error}"
                continue
            try:
                self._begin(client)
            except OSError as error:
                client.close()
                self.trouble = f"the agent's exports do not answer: {error.strerror or error}"

    def _begin(self, client: socket.socket) -> None:
        with self._lock:
            if self._closing.is_set() or len(self._pairs) >= CONNECTIONS_MAX:
                raise OSError("there are too many connections (CONNECTIONS_MAX)")
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            server.settimeout(CONNECT_SECONDS_MAX)
            server.connect(self._upstream)
            server.settimeout(None)
        except OSError:
            server.close()
            raise
        pair = _Pair(client, server, Conversation(self._clock.boottime_ns()))
        with self._lock:
            self._pairs.add(pair)
        for source, target, said in (
            (client, server, pair.conversation.said_by_client),
            (server, client, pair.conversation.said_by_server),
        ):
            threading.Thread(
                target=self._pump, args=(pair, source, target, said), name="relay-pump", daemon=True
            ).start()

    def _pump(
        self,
        pair: _Pair,
        source: socket.socket,
        target: socket.socket,
        said: Callable[[memoryview, int], None],
    ) -> None:
        buffer = memoryview(bytearray(_BUFFER_BYTES))
        try:
            while count := source.recv_into(buffer):
                with pair.lock:
                    said(buffer[:count], self._clock.boottime_ns())
                target.sendall(buffer[:count])
        except OSError:
            return  # cut, by us or by one of both: the other learns it below
        except NotFollowed as error:
            self.trouble = str(error)
        finally:
            pair.cut()
            with self._lock:
                pair.pumps -= 1
                if pair.pumps == 0:
                    self._pairs.discard(pair)
                    self._longest_ns = max(self._longest_ns, pair.conversation.longest_ns)
                    self._has_written = self._has_written or pair.conversation.has_written
                    pair.client.close()
                    pair.server.close()

    def _watch(self) -> None:
        while not self._closing.wait(WATCH_SECONDS):
            now_ns = self._clock.boottime_ns()
            with self._lock:
                pairs = list(self._pairs)
            for pair in pairs:
                with pair.lock:
                    late = pair.conversation.is_late(now_ns, self.in_a_hurry)
                if late:
                    self.trouble = "a request was not answered in time: the agent hangs, or its disk does"
                    with self._lock:
                        self.cuts += 1
                    pair.cut()


def _listen(path: str, upstream: str) -> socket.socket:
    """Raises TargetUnsuitable."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # of a run that was killed: there is one at a time
        listener.bind(path)
        os.chmod(path, 0o600)
        if os.geteuid() == 0:
            owner = os.stat(upstream)
            os.chown(path, owner.st_uid, owner.st_gid)
        listener.listen(CONNECTIONS_MAX)
    except OSError as error:
        listener.close()
        raise TargetUnsuitable(f"listen at {path}", error.strerror or str(error)) from error
    return listener
