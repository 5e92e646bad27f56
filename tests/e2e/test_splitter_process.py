"""The splitter as a process: real clients write, it is killed with -9, every acknowledged write is there."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from cdp_container.errors import AlreadyRunning, BackingChanged
from cdp_container.journal.reader import JournalReader
from cdp_container.journal.record import Kind
from tests.nbd_client import NbdClient
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e

DOMAIN = bytes(range(16))
VOLUME_BYTES = 16 << 20
DEADLINE_SECONDS = 30.0

# What the process runs; its settings come as JSON, the real configuration is the command line's matter.
PROGRAM = """
import json, sys
from pathlib import Path
from cdp_agent.splitter.process import run_splitter
from cdp_agent.splitter.settings import SplitterSettings, VolumeSettings
from cdp_container.clock import SystemClock
from cdp_container.errors import CdpError
told = json.loads(sys.argv[1])
home = Path(told["home"])
volume = VolumeSettings("disk", home / "disk.raw", told["size"], 0, bytes(16))
settings = SplitterSettings(
    home, bytes(range(16)), (volume,), 1 << 30, home / "nbd.sock",
    redo=told["redo"], file_bytes=1 << 20, sync_seconds=0.2,
)
try:
    sys.exit(run_splitter(settings, SystemClock()))
except CdpError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


class Host:
    """A directory with a disk, a journal and a socket."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.disk = home / "disk.raw"
        self.socket = home / "nbd.sock"
        with self.disk.open("wb") as file:
            file.truncate(VOLUME_BYTES)

    @contextmanager
    def splitter(self, redo: bool = False) -> Iterator[subprocess.Popen[bytes]]:
        told = {"home": str(self.home), "size": VOLUME_BYTES, "redo": redo}
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM, json.dumps(told)], stderr=subprocess.PIPE
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def client(self, process: subprocess.Popen[bytes]) -> NbdClient:
        def connected() -> NbdClient | None:
            assert process.poll() is None, "the splitter ended"
            try:
                return NbdClient(self.socket, "disk")
            except (FileNotFoundError, ConnectionRefusedError):
                return None

        client = wait_until(connected, "the export is open", DEADLINE_SECONDS)
        assert client is not None
        return client

    def facts(self) -> dict[str, object]:
        found: dict[str, object] = json.loads((self.home / "splitter.json").read_text())
        return found


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def end(process: subprocess.Popen[bytes]) -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(DEADLINE_SECONDS)


def replay(host: Host) -> bytes:
    """What the journal says that the disk holds."""
    image = bytearray(VOLUME_BYTES)
    with JournalReader(host.home / "journal", DOMAIN) as reader:
        for record in reader.records(reader.start, reader.find_end(reader.start).position):
            data = reader.read_payload(record) if record.kind is Kind.WRITE else bytes(record.span)
            image[record.offset : record.offset + record.span] = data
    return bytes(image)


@pytest.mark.parametrize("seed", range(3))
def test_killed_amid_writes_every_acknowledged_one_is_there(host: Host, seed: int) -> None:
    rng = Random(seed)
    acknowledged: dict[int, bytes] = {}
    for _ in range(3):
        with host.splitter() as process:
            client = host.client(process)
            for offset, data in acknowledged.items():
                assert client.read(offset, len(data)) == data
            write_until_killed(client, process, rng, acknowledged)
            client.abort()
    with host.splitter() as process:
        client = host.client(process)
        for offset, data in acknowledged.items():
            assert client.read(offset, len(data)) == data
        client.close()
        assert end(process) == 0
    assert host.disk.read_bytes() == replay(host), "disk and journal agree"
    assert host.facts()["state"] == "stopped"


def write_until_killed(
    client: NbdClient, process: subprocess.Popen[bytes], rng: Random, acknowledged: dict[int, bytes]
) -> None:
    """Keep writes in flight, each slot at most once; kill in the middle: what is in flight is unknown."""
    slots = list(range(0, VOLUME_BYTES, 128 << 10))
    rng.shuffle(slots)
    in_flight: dict[int, tuple[int, bytes]] = {}
    kill_after = rng.randrange(10, 100)
    try:
        for offset in slots:
            data = rng.randbytes(rng.choice([512, 4096, 128 << 10]))
            acknowledged.pop(offset, None)
            in_flight[client.submit_write(offset, data)] = (offset, data)
            if len(in_flight) >= 8:
                take(client, in_flight, acknowledged)
            kill_after -= 1
            if kill_after == 0:
                process.kill()
    except ConnectionError:
        process.wait(DEADLINE_SECONDS)


def take(client: NbdClient, in_flight: dict[int, tuple[int, bytes]], acknowledged: dict[int, bytes]) -> None:
    reply = client.wait_any()
    assert reply.error == 0
    offset, data = in_flight.pop(reply.handle)
    acknowledged[offset] = data


def test_a_second_splitter_on_the_same_disk_is_refused(host: Host) -> None:
    with host.splitter() as process, host.splitter() as second:
        first_to_end = wait_until(
            lambda: next((each for each in (process, second) if each.poll() is not None), None),
            "one of them is refused",
            DEADLINE_SECONDS,
        )
        assert first_to_end
        assert first_to_end.returncode == AlreadyRunning.exit_code
        other = second if first_to_end is process else process
        host.client(other).close()
        assert host.facts()["pid"] == other.pid, "the one that was refused leaves the other's facts alone"


def test_a_changed_disk_keeps_the_exports_closed(host: Host) -> None:
    with host.splitter() as process:
        client = host.client(process)
        client.write(4096, b"x" * 512, fua=True)
        client.close()
        assert end(process) == 0
    with host.disk.open("r+b") as file:
        file.seek(4096)
        file.write(b"offline fsck")
    with host.splitter() as process:
        assert process.wait(DEADLINE_SECONDS) == BackingChanged.exit_code
    error = host.facts()["error"]
    assert isinstance(error, dict)
    assert error["type"] == "BackingChanged"
    assert "--redo" in error["hint"]
    with host.splitter(redo=True) as process:
        host.client(process).close()
        assert end(process) == 0


@pytest.mark.needs("qemu-io")
def test_qemu_writes_trims_zeroes_and_reads_back(host: Host) -> None:
    with host.splitter() as process:
        host.client(process).close()
        commands = (
            "write -P 0x11 0 1M", "write -f -P 0x22 1M 64k", "write -z 256k 64k", "discard 512k 64k", "flush",
            "read -P 0x11 0 256k", "read -P 0 256k 64k", "read -P 0 512k 64k", "read -P 0x22 1M 64k",
        )  # fmt: skip
        arguments = [part for command in commands for part in ("-c", command)]
        subprocess.run(
            ["qemu-io", "-d", "unmap", "-f", "raw", f"nbd+unix:///disk?socket={host.socket}", *arguments],
            check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        assert end(process) == 0
    assert host.disk.read_bytes() == replay(host)


@pytest.mark.needs("fio")
def test_fio_verifies_what_it_wrote(host: Host, tmp_path: Path) -> None:
    with host.splitter() as process:
        host.client(process).close()
        subprocess.run(
            [
                "fio", "--name=verify", "--ioengine=nbd", f"--uri=nbd+unix:///disk?socket={host.socket}",
                "--rw=randwrite", "--bsrange=4k-256k", "--iodepth=16", f"--size={VOLUME_BYTES}",
                "--verify=crc32c", "--fsync=50", "--output-format=terse",
            ],
            check=True, capture_output=True, timeout=100, cwd=tmp_path,
        )  # fmt: skip
        assert end(process) == 0
    assert host.disk.read_bytes() == replay(host)
