"""The exports over TCP and TLS, against QEMU's tools and libnbd's."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nbd_export.listening import TcpEndpoint
from nbd_export.tls import TlsContexts, TlsFiles
from tests.nbd_server import FileExport, ServerThread, serving
from tests.servers.tls import issue, make_authority
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.needs("qemu-io"),
    pytest.mark.needs("qemu-img"),
    pytest.mark.needs("nbdcopy"),
    pytest.mark.needs("nbdinfo"),
]

SIZE_BYTES = 8 << 20
CLIENT_SECONDS = 60
DEADLINE_SECONDS = 30.0

# A splitter with one volume; told its home and its port.
PROGRAM = """
import sys
from pathlib import Path
from cdp_agent.splitter.process import run_splitter
from cdp_agent.splitter.settings import SplitterSettings, TcpSettings, VolumeSettings
from nbd_export.tls import TlsFiles
home, port, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
pki = home / "pki"
files = TlsFiles(pki / "server-cert.pem", pki / "server-key.pem", pki / "ca-cert.pem")
volume = VolumeSettings("disk", home / "disk.raw", size, 0, bytes(16))
settings = SplitterSettings(
    home / "journal", bytes(range(16)), (volume,), 1 << 30, home / "nbd.sock", file_bytes=1 << 20,
    tcp=TcpSettings("127.0.0.1", port, files),
)
sys.exit(run_splitter(settings))
"""


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    """An authority, a server's certificate and a client's, under the names that the clients want."""
    home = tmp_path / "pki"
    authority = make_authority(home)
    issue(authority, home, "server")
    issue(authority, home, "client")
    return home


@pytest.fixture
def strangers(tmp_path: Path, pki: Path) -> Path:
    """A client's certificate that another authority signed; it trusts ours."""
    home = tmp_path / "strangers"
    issue(make_authority(home), home, "client")
    shutil.copy(pki / "ca-cert.pem", home)
    return home


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.truncate(SIZE_BYTES)
        file.seek(3 << 20)
        file.write(os.urandom(2 << 20))
    return path


@contextmanager
def served(tmp_path: Path, disk: Path, pki: Path) -> Iterator[tuple[ServerThread, int]]:
    export = FileExport(disk, "disk")
    tls = TlsContexts(TlsFiles(pki / "server-cert.pem", pki / "server-key.pem", pki / "ca-cert.pem"))
    try:
        with serving(export, tmp_path / "nbd.sock") as server:
            yield server, server.run(server.server.listen_tcp(TcpEndpoint("127.0.0.1", 0, tls)))
    finally:
        export.close()


def attempt(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=CLIENT_SECONDS)


def run(*command: str | Path) -> str:
    done = attempt(*command)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def qemu_io(port: int, pki: Path, *commands: str) -> subprocess.CompletedProcess[str]:
    arguments = [argument for command in commands for argument in ("-c", command)]
    return attempt(
        "qemu-io", "--object", f"tls-creds-x509,id=tls0,dir={pki},endpoint=client", *arguments,
        "--image-opts",
        f"driver=nbd,host=127.0.0.1,port={port},export=disk,tls-creds=tls0",
    )  # fmt: skip


def test_without_tls_nothing_is_told(tmp_path: Path, disk: Path, pki: Path) -> None:
    with served(tmp_path, disk, pki) as (_, port):
        assert attempt("nbdinfo", f"nbd://127.0.0.1:{port}/disk").returncode != 0
        assert attempt("nbdinfo", "--list", f"nbd://127.0.0.1:{port}/").returncode != 0
        assert attempt("qemu-img", "info", f"nbd://127.0.0.1:{port}/disk").returncode != 0


def test_a_strangers_certificate_is_refused(tmp_path: Path, disk: Path, pki: Path, strangers: Path) -> None:
    before = disk.read_bytes()
    with served(tmp_path, disk, pki) as (_, port):
        assert qemu_io(port, strangers, "write -P 9 0 4k").returncode != 0
        uri = f"nbds://127.0.0.1:{port}/disk?tls-certificates={strangers}"
        assert attempt("nbdinfo", uri).returncode != 0
    assert disk.read_bytes() == before


def test_qemu_writes_through_tls(tmp_path: Path, disk: Path, pki: Path) -> None:
    expected = bytearray(disk.read_bytes())
    with served(tmp_path, disk, pki) as (_, port):
        done = qemu_io(
            port, pki, "write -P 0xa1 0 64k", "aio_write -P 0xa2 1M 1M", "write -P 0xa3 2M 512", "flush",
            "read -P 0xa2 1M 1M",
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    for start, length, byte in [(0, 64 << 10, 0xA1), (1 << 20, 1 << 20, 0xA2), (2 << 20, 512, 0xA3)]:
        expected[start : start + length] = bytes([byte]) * length
    assert disk.read_bytes() == expected


def test_nbdcopy_and_nbdinfo_through_tls(tmp_path: Path, disk: Path, pki: Path) -> None:
    with served(tmp_path, disk, pki) as (_, port):
        uri = f"nbds://127.0.0.1:{port}/disk?tls-certificates={pki}"
        told = json.loads(run("nbdinfo", "--json", uri))
        assert told["TLS"] is True
        assert told["structured"] is True
        run("nbdcopy", "--connections=4", uri, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == disk.read_bytes()


def test_new_certificates_count_without_a_restart(tmp_path: Path, disk: Path, pki: Path) -> None:
    before = tmp_path / "before"
    shutil.copytree(pki, before)
    with served(tmp_path, disk, pki) as (_, port):
        uri = f"nbds://127.0.0.1:{port}/disk?tls-certificates="
        run("nbdinfo", f"{uri}{before}")
        authority = make_authority(pki)
        issue(authority, pki, "server")
        issue(authority, pki, "client")
        assert attempt("nbdinfo", f"{uri}{before}").returncode != 0
        run("nbdinfo", f"{uri}{pki}")


def test_the_splitter_serves_tls(tmp_path: Path, disk: Path, pki: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
    arguments = [str(tmp_path), str(port), str(SIZE_BYTES)]
    with subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments]) as splitter:
        try:
            facts = tmp_path / "journal" / "splitter.json"
            wait_until(
                lambda: facts.exists() and (json.loads(facts.read_text()).get("tcp") or {}).get("open"),
                "the port is open",
                DEADLINE_SECONDS,
            )
            done = qemu_io(port, pki, "write -P 0x5a 1M 64k", "flush")
            assert done.returncode == 0, done.stdout + done.stderr
            splitter.send_signal(signal.SIGTERM)
            assert splitter.wait(DEADLINE_SECONDS) == 0
        finally:
            splitter.kill()
    assert disk.read_bytes()[1 << 20 : (1 << 20) + 65536] == b"\x5a" * 65536
