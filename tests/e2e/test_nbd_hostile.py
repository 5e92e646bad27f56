"""A splitter under attack: its guest works on, its memory stays bounded, and all is well afterwards."""

from __future__ import annotations

import json
import resource
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from random import Random

import pytest

from nbd_export.limits import (
    BUFFER_BYTES,
    CONNECTIONS_MAX,
    IN_FLIGHT_BYTES_TOTAL_MAX,
    PAYLOAD_BYTES_MAX,
    UNSENT_REPLY_BYTES_MAX,
)
from tests.nbd_client import NbdClient
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e

SIZE_BYTES = 256 << 20
DEADLINE_SECONDS = 60.0
THOUSAND = 1000
# Python, its modules, and what an allocator keeps.
GROUND_BYTES = 96 << 20

# A splitter with one volume, by unix socket and by TCP; told its home and its port.
PROGRAM = """
import sys
from pathlib import Path
from cdp_agent.splitter.process import run_splitter
from cdp_agent.splitter.settings import SplitterSettings, TcpSettings, VolumeSettings
home, port, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
volume = VolumeSettings("disk", home / "disk.raw", size, 0, bytes(16))
sys.exit(run_splitter(SplitterSettings(
    home / "journal", bytes(range(16)), (volume,), 1 << 30, home / "nbd.sock",
    tcp=TcpSettings("127.0.0.1", port, None),
)))
"""

_FLAGS = struct.pack(">I", 3)
_GO = struct.pack(">QII", 0x49484156454F5054, 7, 10) + struct.pack(">I4sH", 4, b"disk", 0)
_READ, _WRITE = 0, 1


def _request(command: int, offset: int, length: int) -> bytes:
    return struct.pack(">IHHQQI", 0x25609513, 0, command, 1, offset, length)


@pytest.fixture(autouse=True)
def _many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 4096), hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Target:
    """A running splitter."""

    def __init__(self, home: Path, port: int, process: subprocess.Popen[bytes]) -> None:
        self.home = home
        self.port = port
        self.process = process

    def anonymous_bytes(self) -> int:
        """Memory that no file is behind."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("RssAnon")]
        return int(line.split()[1]) << 10

    def guest(self) -> NbdClient:
        return NbdClient(self.home / "nbd.sock", "disk", DEADLINE_SECONDS)

    def stranger(self, says: bytes) -> socket.socket:
        """A client by TCP that says something, as much of it as is taken at once, and reads nothing."""
        client = socket.create_connection(("127.0.0.1", self.port), DEADLINE_SECONDS)
        client.setblocking(False)
        with suppress(BlockingIOError, ConnectionError):  # it may have been turned away already
            client.send(says)
        return client


@contextmanager
def running(home: Path) -> Iterator[Target]:
    with (home / "disk.raw").open("wb") as file:
        file.truncate(SIZE_BYTES)
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
    arguments = [str(home), str(port), str(SIZE_BYTES)]
    facts = home / "journal" / "splitter.json"
    with subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments]) as process:
        try:
            wait_until(
                lambda: facts.exists() and (json.loads(facts.read_text()).get("tcp") or {}).get("open"),
                "the exports are open",
                DEADLINE_SECONDS,
            )
            yield Target(home, port, process)
            process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE_SECONDS) == 0
        finally:
            process.kill()


def write_and_read(guest: NbdClient, rng: Random) -> None:
    data = rng.randbytes(4096)
    at = rng.randrange(SIZE_BYTES // 4096) * 4096
    guest.write(at, data)
    assert guest.read(at, 4096) == data


def test_memory_stays_bounded_and_guests_are_served(tmp_path: Path) -> None:
    bound = (
        GROUND_BYTES + IN_FLIGHT_BYTES_TOTAL_MAX + CONNECTIONS_MAX * (BUFFER_BYTES + UNSENT_REPLY_BYTES_MAX)
    )
    rng = Random(7)
    attacks = [
        _FLAGS + _GO + _request(_READ, 0, PAYLOAD_BYTES_MAX) * 200,
        _FLAGS + _GO + _request(_WRITE, 0, PAYLOAD_BYTES_MAX) + bytes(1 << 20),
        _FLAGS + _GO + _request(_READ, 0, 4096) * 9000,
        rng.randbytes(100_000),
        b"",
    ]
    most = 0
    with running(tmp_path) as target, ExitStack() as crowd:
        guest = crowd.enter_context(target.guest())
        for n in range(THOUSAND):
            crowd.enter_context(target.stranger(attacks[n % len(attacks)]))
            write_and_read(guest, rng)
            most = max(most, target.anonymous_bytes())
        with target.guest() as late:
            for _ in range(100):
                write_and_read(late, rng)
                most = max(most, target.anonymous_bytes())
        guest.flush()
        print(f"anonymous memory: {most >> 20} MiB at most")
        assert most < bound
