"""The asyncio server on a real unix socket, with exports that fail, hang and misbehave."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from nbd_export.errors import BackendError, NbdErrno, SocketInUse
from nbd_export.limits import IN_FLIGHT_BYTES_MAX, IN_FLIGHT_REQUESTS_MAX, PAYLOAD_BYTES_MAX, ServerLimits
from nbd_export.listening import open_unix_socket
from tests.nbd_client import NbdClient, NbdError
from tests.nbd_server import MemoryExport, ServerThread, serving
from tests.unit.nbd_export.raw_client import (
    DEADLINE_SECONDS,
    is_hung_up_on,
    opened_client,
    raw_client,
    receive,
)
from tests.unit.nbd_export.wire_client import DISC, FLAGS, FLUSH, READ, WRITE, request, simple_replies
from tests.waiting import turn, wait_until

SIZE = 1 << 20


class GatedExport(MemoryExport):
    """Nothing but opening finishes before `gate` opens; `begun` lists what the server asked for."""

    def __init__(self, size_bytes: int = SIZE) -> None:
        super().__init__(size_bytes)
        self.gate = asyncio.Event()
        self.begun: list[str] = []
        self.finished: list[str] = []

    async def _pass(self, what: str) -> None:
        self.begun.append(what)
        await self.gate.wait()
        self.finished.append(what)

    async def read(self, offset: int, length: int) -> bytes:
        await self._pass(f"read {offset}")
        return await super().read(offset, length)

    async def write(self, offset: int, data: bytes | memoryview, fua: bool) -> None:
        await self._pass(f"write {offset}")
        await super().write(offset, data, fua)

    async def flush(self) -> None:
        await self._pass("flush")


class FailingExport(MemoryExport):
    """Fails with `error`, at once or, at odd offsets, after a suspension."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(SIZE)
        self.error = error

    async def write(self, offset: int, data: bytes | memoryview, fua: bool) -> None:
        if offset % 2:
            await turn()
        raise self.error


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "nbd.sock"


@pytest.fixture
def gated(path: Path) -> Iterator[tuple[GatedExport, ServerThread]]:
    export = GatedExport()
    with serving(export, path) as server:
        yield export, server


def eventually(condition: Callable[[], object], what: str) -> None:
    wait_until(condition, what, DEADLINE_SECONDS)


# --- the socket ------------------------------------------------------------------------------


def test_a_living_servers_socket_is_refused_and_left_alone(path: Path) -> None:
    with serving(MemoryExport(SIZE), path):
        with pytest.raises(SocketInUse):
            open_unix_socket(path)
        with NbdClient(path) as client:
            assert client.size_bytes == SIZE


def test_a_socket_whose_backlog_is_full_is_refused(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        with pytest.raises(SocketInUse):
            open_unix_socket(path)


def test_what_is_no_socket_is_refused_and_left_alone(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(SocketInUse):
        open_unix_socket(path)
    assert path.read_text() == "precious"


def test_a_dead_servers_socket_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with serving(MemoryExport(SIZE), path), NbdClient(path) as client:
        assert client.size_bytes == SIZE


def test_the_socket_is_ours_alone_and_goes_with_us(path: Path) -> None:
    with serving(MemoryExport(SIZE), path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


def test_another_servers_socket_at_our_path_outlives_us(path: Path) -> None:
    with serving(MemoryExport(SIZE), path):
        path.rename(path.with_suffix(".kept"))  # so that its inode is not used again
        path.write_text("somebody else's")
    assert path.exists()


# --- clients that misbehave --------------------------------------------------------------------


def test_a_client_that_never_chooses_is_hung_up_on(path: Path) -> None:
    with (
        serving(MemoryExport(SIZE), path, limits=ServerLimits(handshake_seconds=0.01)),
        raw_client(path) as silent,
        raw_client(path) as dawdling,
    ):
        with suppress(ConnectionError):  # on a busy machine the deadline passes before we speak
            dawdling.sendall(FLAGS)
        assert is_hung_up_on(silent)
        assert is_hung_up_on(dawdling)


def test_one_client_too_many_is_hung_up_on(path: Path) -> None:
    with serving(MemoryExport(SIZE), path, limits=ServerLimits(connections=2)) as server:
        with NbdClient(path) as first, NbdClient(path), raw_client(path) as third:
            assert is_hung_up_on(third)
            first.write(0, b"still served")
        eventually(lambda: server.server.connections == 0, "both have left")
        with NbdClient(path) as late:
            assert late.read(0, 12) == b"still served"


@pytest.mark.parametrize("junk", [bytes(100), b"GET / HTTP/1.1\r\n\r\n" * 9, FLAGS + bytes(40)])
def test_a_client_that_talks_nonsense_is_hung_up_on_and_others_are_not(path: Path, junk: bytes) -> None:
    with serving(MemoryExport(SIZE), path), NbdClient(path) as good:
        with raw_client(path, junk) as bad:
            assert is_hung_up_on(bad)
        with opened_client(path) as bad:
            bad.sendall(junk)
            assert is_hung_up_on(bad)
        good.write(0, b"fine")


def test_a_client_that_shuts_down_its_side_gets_its_answers(
    path: Path, gated: tuple[GatedExport, ServerThread]
) -> None:
    export, server = gated
    with opened_client(path) as client:
        client.sendall(request(WRITE, 1, 0, 4, payload=b"last") + request(FLUSH, 2))
        client.shutdown(socket.SHUT_WR)
        eventually(lambda: len(export.begun) == 2, "both have begun")
        server.call(export.gate.set)
        assert sorted(simple_replies(receive(client, 32))) == [(1, 0), (2, 0)]
        assert client.recv(1) == b""


def test_a_client_that_takes_its_leave_gets_its_answers(
    path: Path, gated: tuple[GatedExport, ServerThread]
) -> None:
    export, server = gated
    with opened_client(path) as client:
        client.sendall(request(FLUSH, 1) + request(DISC) + request(FLUSH, 2))
        eventually(lambda: export.begun, "the flush has begun")
        server.call(export.gate.set)
        assert simple_replies(receive(client, 16)) == [(1, 0)]
        assert client.recv(1) == b""
    assert export.begun == ["flush"]


def test_what_a_vanished_client_asked_for_runs_to_its_end(
    path: Path, gated: tuple[GatedExport, ServerThread]
) -> None:
    export, server = gated
    client = opened_client(path)
    client.sendall(request(WRITE, 1, 8, 4, payload=b"done"))
    eventually(lambda: export.begun, "the write has begun")
    client.close()
    assert server.server.connections == 1
    server.call(export.gate.set)
    eventually(lambda: server.server.connections == 0, "the write has ended")
    assert export.content[8:12] == b"done"


def test_requests_in_flight_are_bounded(path: Path, gated: tuple[GatedExport, ServerThread]) -> None:
    export, server = gated
    count = IN_FLIGHT_REQUESTS_MAX + 100
    with NbdClient(path) as client:
        handles = {client.submit_write(4 * n, b"abcd") for n in range(count)}
        eventually(lambda: len(export.begun) >= IN_FLIGHT_REQUESTS_MAX, "the limit is reached")
        assert server.call(lambda: len(export.begun)) == IN_FLIGHT_REQUESTS_MAX
        server.call(export.gate.set)
        assert {client.wait_any().handle for _ in range(count)} == handles
    assert export.content[: 4 * count] == b"abcd" * count


def test_bytes_in_flight_are_bounded(path: Path) -> None:
    export = GatedExport(PAYLOAD_BYTES_MAX)
    with serving(export, path) as server, NbdClient(path) as client:
        for _ in range(5):
            client.submit_read(0, PAYLOAD_BYTES_MAX)
        eventually(lambda: len(export.begun) == 2, "the limit is reached")
        assert server.call(lambda: len(export.begun)) * PAYLOAD_BYTES_MAX == IN_FLIGHT_BYTES_MAX
        server.call(export.gate.set)
        for _ in range(5):
            assert len(client.wait_any().data) == PAYLOAD_BYTES_MAX


def test_a_client_that_does_not_read_its_replies_is_not_served_further(path: Path) -> None:
    export = MemoryExport(SIZE)
    reads: list[int] = []

    async def read(offset: int, length: int) -> bytes:
        reads.append(length)
        return bytes(length)

    export.read = read  # type: ignore[method-assign]
    with serving(export, path) as server, opened_client(path) as client:
        count = 1000
        client.sendall(b"".join(request(READ, n, 0, SIZE) for n in range(count)))
        eventually(lambda: reads, "some were served")
        settled = server.call(lambda: len(reads))
        assert settled < 20, "a few MiB of replies, not a thousand"
        for n in range(count):
            header = receive(client, 16)
            assert simple_replies(header) == [(n, 0)]
            assert len(receive(client, SIZE)) == SIZE
    assert len(reads) == count


# --- exports that misbehave --------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BackendError(NbdErrno.ESHUTDOWN, "closing"), 108),
        (BackendError(NbdErrno.ENOSPC, "journal full"), 28),
        (OSError(errno.ENOSPC, "full"), 28),
        (OSError(errno.EDQUOT, "quota"), 28),
        (OSError(errno.EROFS, "read-only"), 1),
        (OSError(errno.EIO, "medium"), 5),
        (OSError(errno.ESTALE, "nfs"), 5),
        (OSError("no number"), 5),
    ],
)
def test_an_exports_error_is_the_requests_answer(
    path: Path, error: Exception, code: int, offset: int
) -> None:
    with serving(FailingExport(error), path), NbdClient(path) as client:
        for _ in range(2):
            with pytest.raises(NbdError) as caught:
                client.write(offset, b"x")
            assert caught.value.code == code
        assert client.read(0, 1) == b"\0", "the connection goes on"


@pytest.mark.parametrize("offset", [0, 1])
def test_a_bug_hangs_up_that_connection_and_comes_to_light(path: Path, offset: int) -> None:
    bug = ZeroDivisionError("a bug")
    with (
        serving(FailingExport(bug), path, expect_bugs=True) as server,
        NbdClient(path) as other,
        NbdClient(path) as client,
    ):
        with pytest.raises(ConnectionError):
            client.write(offset, b"x")
        eventually(lambda: server.bugs == [bug], "the bug is told")
        assert other.read(0, 1) == b"\0"


def test_a_read_of_the_wrong_length_is_a_bug(path: Path) -> None:
    export = MemoryExport(SIZE)
    del export.content[100:]
    with serving(export, path, expect_bugs=True) as server, NbdClient(path) as client:
        with pytest.raises(ConnectionError):
            client.read(50, 100)
        eventually(lambda: [type(bug) for bug in server.bugs] == [AssertionError], "the bug is told")


# --- order, batches, speed ---------------------------------------------------------------------


def test_requests_of_one_receive_are_begun_in_order_before_anything_else_runs(path: Path) -> None:
    batches: list[list[int]] = []

    class BatchingExport(MemoryExport):
        """Gathers writes until the loop comes round; all of a batch wait for one future."""

        batch: asyncio.Future[None] | None = None

        async def write(self, offset: int, data: bytes | memoryview, fua: bool) -> None:
            if self.batch is None:
                self.batch = asyncio.get_running_loop().create_future()
                self.batch.get_loop().call_soon(self._end_batch)
                batches.append([])
            batches[-1].append(offset)
            await super().write(offset, data, fua)
            await self.batch

        def _end_batch(self) -> None:
            assert self.batch is not None
            self.batch.set_result(None)
            self.batch = None

    with serving(BatchingExport(SIZE), path), opened_client(path) as client:
        client.sendall(b"".join(request(WRITE, n, 4096 * n, 8, payload=b"8" * 8) for n in range(16)))
        assert {cookie for cookie, _ in simple_replies(receive(client, 256))} == set(range(16))
    assert [offset for batch in batches for offset in batch] == [4096 * n for n in range(16)]
    assert len(batches) < 16


def test_replies_may_overtake_each_other(path: Path, gated: tuple[GatedExport, ServerThread]) -> None:
    export, server = gated
    with NbdClient(path) as client:
        write = client.submit_write(0, b"slow")
        zeroes = client.submit_write_zeroes(100, 4)
        assert client.wait_any().handle == zeroes
        server.call(export.gate.set)
        assert client.wait_any().handle == write


def test_what_is_written_is_read_back_in_every_size(path: Path) -> None:
    export = MemoryExport(4 << 20)
    expected = bytearray(export.content)
    with serving(export, path), NbdClient(path) as client:
        for n, length in enumerate([1, 511, 4096, 32768, 32769, 65536, 262144, 1 << 20, 3 << 20]):
            data = os.urandom(length)
            client.write(n * 1000, data, fua=bool(n % 2))
            expected[n * 1000 : n * 1000 + length] = data
            assert client.read(n * 1000, length) == data
        client.write_zeroes(5, 100_000)
        client.trim(200_001, 3)
        expected[5:100_005] = bytes(100_000)
        expected[200_001:200_004] = bytes(3)
        client.flush()
        assert client.read(0, 4 << 20) == expected


# --- the end -----------------------------------------------------------------------------------


def test_close_finishes_what_was_begun_and_begins_nothing_new(path: Path) -> None:
    export = GatedExport()
    with serving(export, path) as server, NbdClient(path) as client:
        write = client.submit_write(0, b"kept")
        eventually(lambda: export.begun, "the write has begun")
        closing = asyncio.run_coroutine_threadsafe(server.server.close(), server.loop)
        eventually(lambda: not path.exists(), "nobody is let in any more")
        client.submit_write(4, b"late")
        server.call(export.gate.set)
        assert client.wait(write).error == 0
        with pytest.raises(ConnectionError):
            client.wait_any()
        assert closing.result(DEADLINE_SECONDS) is True
        assert client.in_flight == {write + 1}
    assert export.begun == ["write 0"]


def test_close_gives_up_on_what_never_ends(path: Path, gated: tuple[GatedExport, ServerThread]) -> None:
    export, server = gated
    with NbdClient(path) as client:
        client.submit_write(0, b"hung")
        eventually(lambda: export.begun, "the write has begun")
        assert server.run(server.server.close(drain_seconds=0.01)) is False
        with pytest.raises(ConnectionError):
            client.wait_any()
    assert export.finished == []
    assert server.server.connections == 0


def test_close_gives_up_on_a_client_that_does_not_read(path: Path) -> None:
    with serving(MemoryExport(PAYLOAD_BYTES_MAX), path) as server, opened_client(path) as client:
        client.sendall(request(READ, 1, 0, PAYLOAD_BYTES_MAX))
        assert len(receive(client, 16)) == 16
        assert server.run(server.server.close(drain_seconds=0.01)) is False


def test_idle_clients_do_not_hold_up_the_end(path: Path) -> None:
    with serving(MemoryExport(SIZE), path) as server, NbdClient(path) as client, raw_client(path):
        client.write(0, b"x")
        assert server.run(server.server.close()) is True
        with pytest.raises(ConnectionError):
            client.read(0, 1)


def test_many_clients_at_once_share_one_export(path: Path) -> None:
    export = MemoryExport(SIZE)

    def work(n: int) -> None:
        with NbdClient(path) as client:
            for at in range(n * 65536, (n + 1) * 65536, 4096):
                client.submit_write(at, bytes([n + 1]) * 4096)
            while client.in_flight:
                assert client.wait_any().error == 0

    with serving(export, path):
        threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert export.content == b"".join(bytes([n + 1]) * 65536 for n in range(16))
