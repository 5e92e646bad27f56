"""Clients that hold on, dawdle, flood or never read: they end, or wait; others are served all the while."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from nbd_export.backend import FixedExports
from nbd_export.limits import (
    BUFFER_BYTES,
    HANDSHAKE_REPLY_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    SHARE_BYTES,
    UNSENT_REPLY_BYTES_MAX,
    ServerLimits,
)
from nbd_export.listening import TcpEndpoint
from tests.nbd_client import NbdClient
from tests.nbd_server import MemoryExport, ServerThread, serving
from tests.unit.nbd_export.raw_client import (
    DEADLINE_SECONDS,
    is_hung_up_on,
    opened_client,
    raw_client,
    receive,
)
from tests.unit.nbd_export.test_server import GatedExport
from tests.unit.nbd_export.wire_client import (
    FLAGS,
    LIST,
    READ,
    WRITE,
    go,
    option,
    request,
    simple_replies,
)
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

SIZE = 64 << 20
MIB = 1 << 20
HASTY = ServerLimits(handshake_seconds=0.5, request_seconds=0.3, replies_seconds=0.3)
THOUSAND = 1000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "nbd.sock"


@pytest.fixture
def many_files() -> Iterator[None]:
    """Room for a thousand clients and their server in one process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 4096), hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def eventually_alone(server: ServerThread, count: int = 0) -> None:
    wait_until(lambda: server.server.connections == count, f"{count} connections are left", DEADLINE_SECONDS)


def still_serves(client: NbdClient) -> bool:
    client.write(0, b"fine")
    return client.read(0, 4) == b"fine"


def connected(path: Path) -> socket.socket:
    """A connected socket that says nothing; it tries again while the kernel's queue of clients is full."""
    client = socket.socket(socket.AF_UNIX)

    def has_connected() -> bool:
        try:
            client.connect(str(path))
        except BlockingIOError:
            return False
        return True

    client.setblocking(False)
    wait_until(has_connected, "the kernel takes another client", DEADLINE_SECONDS)
    return client


# --- dawdling ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "beginning",
    [
        request(READ, 1, 0, 8)[:1], request(READ, 1, 0, 8)[:27],
        request(WRITE, 1, 0, 4096, payload=b"x" * 4095),
        request(WRITE, 1, 0, PAYLOAD_BYTES_MAX, payload=b"x" * 70_000),
        request(WRITE, 1, SIZE, 1000, payload=b"refused, and skipped"),
    ],
)  # fmt: skip
def test_a_request_that_stays_incomplete_is_given_up(path: Path, beginning: bytes) -> None:
    export = MemoryExport(SIZE)
    with serving(export, path, limits=HASTY) as server, NbdClient(path) as good:
        with opened_client(path) as slow:
            slow.sendall(beginning)
            assert is_hung_up_on(slow)
        eventually_alone(server, 1)
        assert server.call(lambda: server.server.memory.used_bytes) == 0
        assert still_serves(good)
    assert not any(export.content[4:4096])


def test_a_client_that_drips_is_given_up(path: Path) -> None:
    """Bytes keep coming, the request never ends."""
    with serving(MemoryExport(SIZE), path, limits=HASTY) as server, opened_client(path) as slow:
        slow.sendall(request(WRITE, 1, 0, MIB))

        def is_over() -> bool:
            try:
                slow.sendall(b"x")
            except ConnectionError:
                return True
            return False

        wait_until(is_over, "it is hung up on", DEADLINE_SECONDS)
        eventually_alone(server)


def test_a_client_that_is_idle_between_requests_is_left_in_peace(path: Path) -> None:
    with serving(MemoryExport(SIZE), path, limits=HASTY) as server:
        with NbdClient(path) as idle:
            idle.write(0, b"x" * 100_000)
            for _ in range(3):  # each of these takes longer than every deadline
                with opened_client(path) as slow:
                    slow.sendall(b"\0")
                    assert is_hung_up_on(slow)
            assert idle.read(0, 3) == b"xxx"
        eventually_alone(server)


def test_many_whole_requests_are_no_incomplete_one(path: Path) -> None:
    """The deadline looks again and again while requests are cut anywhere by the socket."""
    with serving(MemoryExport(SIZE), path, limits=HASTY), NbdClient(path) as busy:
        for n in range(400):
            busy.submit_write(n * 50_000, b"x" * 50_000)
        while busy.in_flight:
            assert busy.wait_any().error == 0


def test_a_client_that_never_reads_is_given_up(path: Path) -> None:
    with serving(MemoryExport(SIZE), path, limits=HASTY) as server, NbdClient(path) as good:
        with opened_client(path) as deaf:
            deaf.sendall(b"".join(request(READ, n, 0, 4 * MIB) for n in range(8)))
            eventually_alone(server, 1)
        assert server.call(lambda: server.server.memory.used_bytes) == 0
        assert still_serves(good)


def test_a_last_word_that_is_not_read_holds_nothing(path: Path) -> None:
    """The connection is closed after it, so that nobody pauses it."""
    with serving(MemoryExport(SIZE), path, limits=HASTY) as server, opened_client(path) as deaf:
        size = UNSENT_REPLY_BYTES_MAX * 3 // 4
        deaf.sendall(request(READ, 1, 0, size) + b"garbage" * 10)
        eventually_alone(server)


def test_endless_lists_are_hung_up_on(path: Path) -> None:
    exports = FixedExports([MemoryExport(4096, f"{n:04d}" + "n" * 1000) for n in range(256)])
    assert HANDSHAKE_REPLY_BYTES_MAX < 256 * 1000 * 64
    with serving(exports, path) as server:
        with raw_client(path, FLAGS + option(LIST) * 64) as greedy:
            assert is_hung_up_on(greedy)
        eventually_alone(server)


# --- crowds ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("many_files")
def test_a_thousand_half_open_connections_keep_nobody_out(path: Path) -> None:
    limits = ServerLimits(connections=64)
    with (
        serving(MemoryExport(SIZE), path, limits=limits) as server,
        ExitStack() as crowd,
        NbdClient(path) as early,
    ):
        for n in range(THOUSAND):
            crowd.enter_context(connected(path))
            if n % 250 == 0:
                server.call(lambda: None)
                with NbdClient(path) as late:
                    assert still_serves(late)
        assert still_serves(early)
        wait_until(
            lambda: server.server.connections <= limits.connections, "the rest is gone", DEADLINE_SECONDS
        )


@pytest.mark.usefixtures("many_files")
def test_a_thousand_clients_that_opened_are_limited_and_served(path: Path) -> None:
    limits = ServerLimits(connections=64)
    with serving(MemoryExport(SIZE), path, limits=limits) as server, ExitStack() as crowd:
        kept = [crowd.enter_context(NbdClient(path)) for _ in range(limits.connections)]
        for _ in range(THOUSAND - len(kept)):
            with raw_client(path) as turned_away:
                assert is_hung_up_on(turned_away)
        for client in kept:
            assert still_serves(client)
        assert server.server.connections == limits.connections
        kept[0].close()
        eventually_alone(server, limits.connections - 1)
        with NbdClient(path) as late:
            assert still_serves(late)


def test_a_crowd_by_tcp_does_not_lock_out_the_unix_socket(path: Path) -> None:
    with (
        serving(MemoryExport(SIZE), path, limits=ServerLimits(connections=4)) as server,
        ExitStack() as crowd,
    ):
        port = server.run(server.server.listen_tcp(TcpEndpoint("127.0.0.1", 0, None)))
        for _ in range(4):
            client = crowd.enter_context(socket.create_connection(("127.0.0.1", port), DEADLINE_SECONDS))
            receive(client, 18)
            client.sendall(FLAGS + go("disk"))
            receive(client, 52)
        with socket.create_connection(("127.0.0.1", port), DEADLINE_SECONDS) as turned_away:
            assert is_hung_up_on(turned_away)
        with NbdClient(path) as local:
            assert still_serves(local)


# --- memory ------------------------------------------------------------------------------------

TIGHT = ServerLimits(in_flight_bytes=8 * MIB)


def test_large_writes_of_many_wait_for_each_other(path: Path) -> None:
    """Eight that announce 4 MiB each: only two are given the memory for it, all come to their end."""
    export = MemoryExport(SIZE)
    with serving(export, path, limits=TIGHT) as server, ExitStack() as crowd:
        clients = [crowd.enter_context(opened_client(path)) for _ in range(8)]
        for n, client in enumerate(clients):
            client.sendall(request(WRITE, n, n * 4 * MIB, 4 * MIB) + bytes([n + 1]) * 8192)
        wait_until(
            lambda: server.call(lambda: server.server.memory.used_bytes) == 8 * MIB,
            "two have begun",
            DEADLINE_SECONDS,
        )
        with NbdClient(path) as small:
            small.write(60 * MIB, b"small")
            assert small.read(60 * MIB, 5) == b"small"
        for n, client in enumerate(clients):
            client.sendall(bytes([n + 1]) * (4 * MIB - 8192))
            assert simple_replies(receive(client, 16)) == [(n, 0)]
        assert server.call(lambda: server.server.memory.used_bytes) == 0
    for n in range(8):
        assert export.content[n * 4 * MIB : (n + 1) * 4 * MIB] == bytes([n + 1]) * (4 * MIB)


def test_who_waits_for_memory_may_leave(path: Path) -> None:
    with serving(MemoryExport(SIZE), path, limits=TIGHT) as server, ExitStack() as crowd:
        holders = [crowd.enter_context(opened_client(path)) for _ in range(2)]
        for holder in holders:
            holder.sendall(request(WRITE, 1, 0, 4 * MIB))
        used = server.server.memory
        wait_until(lambda: used.used_bytes == 8 * MIB, "all is taken", DEADLINE_SECONDS)
        waiting = [opened_client(path) for _ in range(3)]
        for client in waiting:
            client.sendall(request(READ, 1, 0, 4 * MIB))
        server.call(lambda: None)
        waiting[0].close()
        waiting[1].close()
        holders[0].close()
        assert len(receive(waiting[2], 16 + 4 * MIB)) == 16 + 4 * MIB
        waiting[2].close()
        holders[1].close()
        eventually_alone(server)
        assert used.used_bytes == 0


def test_one_clients_unread_replies_leave_room_for_others(path: Path) -> None:
    with serving(MemoryExport(SIZE), path, limits=TIGHT) as server, opened_client(path) as deaf:
        deaf.sendall(b"".join(request(READ, n, 0, 3 * MIB) for n in range(20)))
        memory = server.server.memory
        wait_until(lambda: memory.used_bytes > 2 * MIB, "replies pile up", DEADLINE_SECONDS)
        with NbdClient(path) as good:
            assert len(good.read(0, 2 * MIB)) == 2 * MIB
            assert still_serves(good)
        assert server.call(lambda: memory.used_bytes) <= TIGHT.in_flight_bytes
        for n in range(20):
            assert simple_replies(receive(deaf, 16)) == [(n, 0)]
            receive(deaf, 3 * MIB)


@pytest.mark.parametrize(
    "hold", [request(WRITE, 1, 0, 4 * MIB), b"".join(request(READ, n, 0, 4 * MIB) for n in range(2))]
)
def test_who_holds_memory_and_stands_still_gives_way_to_who_wants_it(path: Path, hold: bytes) -> None:
    limits = ServerLimits(in_flight_bytes=8 * MIB, standstill_seconds=0.05)
    with serving(MemoryExport(SIZE), path, limits=limits) as server, ExitStack() as crowd:
        memory = server.server.memory
        for _ in range(2):
            crowd.enter_context(opened_client(path)).sendall(hold)
        wait_until(lambda: memory.used_bytes >= 6 * MIB, "it is used up", DEADLINE_SECONDS)
        with NbdClient(path) as good:
            good.write(0, b"x" * (4 * MIB))
            assert good.read(0, 4 * MIB) == b"x" * (4 * MIB)
        wait_until(lambda: memory.used_bytes < 6 * MIB, "one gave way", DEADLINE_SECONDS)


def test_who_holds_memory_that_nobody_wants_is_left_in_peace(path: Path) -> None:
    limits = ServerLimits(in_flight_bytes=8 * MIB, standstill_seconds=0.5, handshake_seconds=1.5)
    with serving(MemoryExport(SIZE), path, limits=limits) as server, opened_client(path) as slow:
        slow.sendall(request(WRITE, 1, 0, 4 * MIB))
        wait_until(lambda: server.server.memory.used_bytes == 4 * MIB, "it has begun", DEADLINE_SECONDS)
        with raw_client(path) as clock:
            assert is_hung_up_on(clock)  # three times as long
        slow.sendall(bytes(4 * MIB))
        assert simple_replies(receive(slow, 16)) == [(1, 0)]


def test_a_disk_that_stands_still_is_no_fault_of_the_client(path: Path) -> None:
    export = GatedExport(SIZE)
    limits = ServerLimits(in_flight_bytes=8 * MIB, standstill_seconds=0.5, handshake_seconds=1.5)
    with serving(export, path, limits=limits) as server, ExitStack() as crowd:
        clients = [crowd.enter_context(NbdClient(path)) for _ in range(3)]
        for client in clients:
            client.submit_read(0, 4 * MIB)
        wait_until(lambda: server.server.memory.used_bytes == 8 * MIB, "two have begun", DEADLINE_SECONDS)
        with raw_client(path) as clock:
            assert is_hung_up_on(clock)  # three times as long
        server.call(export.gate.set)
        for client in clients:
            assert client.wait_any().error == 0


def test_small_requests_of_a_stuck_disk_are_bounded_too(path: Path) -> None:
    export = GatedExport(SIZE)
    limits = ServerLimits(in_flight_bytes=1 * MIB)
    with serving(export, path, limits=limits) as server, ExitStack() as crowd:
        clients = [crowd.enter_context(NbdClient(path)) for _ in range(8)]
        for client in clients:
            for n in range(40):  # more than a share, less than what socket and share take
                client.submit_write(n * 8192, b"x" * 8192)
        wait_until(
            lambda: server.call(lambda: server.server.memory.used_bytes) >= 8 * SHARE_BYTES,
            "each has its share",
            DEADLINE_SECONDS,
        )
        held = server.call(lambda: server.server.memory.used_bytes)
        one_turn = BUFFER_BYTES  # it is counted at the end of a turn
        assert held <= limits.in_flight_bytes + one_turn + 8 * (SHARE_BYTES + 8192)
        server.call(export.gate.set)
        for client in clients:
            while client.in_flight:
                assert client.wait_any().error == 0
        assert server.call(lambda: server.server.memory.used_bytes) == 0


def test_what_vanished_clients_had_in_flight_is_counted_to_its_end(path: Path) -> None:
    export = GatedExport(SIZE)
    with serving(export, path) as server:
        client = NbdClient(path)
        client.submit_write(0, b"x" * MIB)
        wait_until(lambda: export.begun, "it has begun", DEADLINE_SECONDS)
        client.abort()
        wait_until(lambda: not client.in_flight or True, "it is gone", DEADLINE_SECONDS)
        assert server.call(lambda: server.server.memory.used_bytes) == MIB
        server.call(export.gate.set)
        eventually_alone(server)
        assert server.server.memory.used_bytes == 0


# --- many exports ------------------------------------------------------------------------------


def test_sixty_four_exports_are_listed_and_served(path: Path) -> None:
    exports: Sequence[MemoryExport] = [MemoryExport(MIB, f"volume-{n}") for n in range(64)]
    with serving(FixedExports(exports), path), ExitStack() as opened:
        with raw_client(path, FLAGS + option(LIST)) as lister:
            names = [receive(lister, 24 + len(export.name))[24:].decode() for export in exports]
            assert names == [export.name for export in exports]
        clients = [opened.enter_context(NbdClient(path, export.name)) for export in exports]
        for n, client in enumerate(clients):
            client.submit_write(n * 4096, bytes([n + 1]) * 4096)
        for client in clients:
            assert client.wait_any().error == 0
        with raw_client(path, FLAGS + go("volume-64")) as stranger:
            assert receive(stranger, 20)[12:16] == b"\x80\0\0\6"
    for n, export in enumerate(exports):
        assert export.content == bytes(n * 4096) + bytes([n + 1]) * 4096 + bytes(MIB - (n + 1) * 4096)
