"""The exports over TCP: whatever is wrong with them is told, tried again, and costs nobody else anything."""

from __future__ import annotations

import asyncio
import logging
import shutil
import socket
from pathlib import Path

import pytest

from cdp_agent.splitter.settings import TcpSettings
from cdp_agent.splitter.tcp import TcpExports
from nbd_export.backend import FixedExports
from nbd_export.server import serve
from nbd_export.tls import TlsFiles
from tests.nbd_server import MemoryExport
from tests.servers.tls import issue, make_authority


def free_port() -> tuple[socket.socket, int]:
    """A socket that holds a port of loopback; closed, it is free."""
    holder = socket.socket()
    holder.bind(("127.0.0.1", 0))
    return holder, holder.getsockname()[1]


def test_a_port_that_is_taken_is_told_and_tried_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        server = await serve(FixedExports([MemoryExport(4096)]), tmp_path / "s")
        holder, port = free_port()
        holder.listen()
        tcp = TcpExports(TcpSettings("127.0.0.1", port, None))
        await tcp.keep(server)
        assert "in use" in str(tcp.facts()["error"])
        assert tcp.facts()["open"] is False
        holder.close()
        for _ in range(2):
            await tcp.keep(server)
            assert tcp.facts() == {"listen": f"127.0.0.1:{port}", "tls": False, "open": True, "error": ""}
        await server.close()

    asyncio.run(scenario())


def test_the_port_closes_with_the_server_and_opens_at_the_next_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        holder, port = free_port()
        holder.close()
        tcp = TcpExports(TcpSettings("127.0.0.1", port, None))
        for _ in range(2):
            server = await serve(FixedExports([MemoryExport(4096)]), tmp_path / "s")
            await tcp.keep(server)
            assert (tcp.facts()["open"], tcp.facts()["error"]) == (True, "")
            await server.close()
            tcp.closed()
            assert tcp.facts()["open"] is False
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port)).close()

    asyncio.run(scenario())


def test_bad_certificates_are_told_until_they_are_mended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        home = tmp_path / "pki"
        issue(make_authority(home), home, "server")
        files = TlsFiles(home / "server-cert.pem", home / "server-key.pem", home / "ca-cert.pem")
        shutil.move(files.key, tmp_path / "key")
        server = await serve(FixedExports([MemoryExport(4096)]), tmp_path / "s")
        holder, port = free_port()
        holder.close()
        tcp = TcpExports(TcpSettings("127.0.0.1", port, files))
        await tcp.keep(server)
        assert "No such file" in str(tcp.facts()["error"])
        assert tcp.facts()["open"] is False
        shutil.move(tmp_path / "key", files.key)
        await tcp.keep(server)
        assert tcp.facts()["error"] == ""
        assert tcp.facts()["open"] is True
        files.certificate.write_bytes(b"expired, and mangled on renewal")
        await tcp.keep(server)
        assert "those before them are used on" in str(tcp.facts()["error"])
        assert tcp.facts()["open"] is True
        await server.close()

    with caplog.at_level(logging.ERROR):
        asyncio.run(scenario())
    assert len(caplog.records) == 2, "each told once"
    caplog.clear()
