"""Structured replies and block status through the asyncio server, on a real unix socket."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from nbd_export.backend import Extent
from nbd_export.limits import EXTENTS_MAX
from tests.nbd_server import MemoryExport, serving
from tests.unit.nbd_export.raw_client import raw_client, receive
from tests.unit.nbd_export.wire_client import (
    BLOCK_STATUS,
    CACHE,
    DF,
    FLAGS,
    FLUSH,
    READ,
    REQ_ONE,
    SET_META_CONTEXT,
    STRUCTURED_REPLY,
    WRITE,
    chunks,
    go,
    meta_context,
    option,
    request,
    simple_replies,
)
from tests.waiting import turn

SIZE = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "nbd.sock"


def structured_client(path: Path) -> socket.socket:
    """Past the handshake, with structured replies and block status."""
    client = raw_client(path, FLAGS + option(STRUCTURED_REPLY))
    assert len(receive(client, 20)) == 20
    client.sendall(meta_context(SET_META_CONTEXT, "disk", b"base:allocation") + go("disk"))
    assert len(receive(client, 20 + 4 + 15 + 20 + 20 + 12 + 20)) == 111
    return client


def test_reads_writes_and_status_in_structured_replies(path: Path) -> None:
    export = MemoryExport(SIZE)
    with serving(export, path), structured_client(path) as client:
        client.sendall(request(WRITE, 1, 4096, 4, payload=b"data"))
        assert simple_replies(receive(client, 16)) == [(1, 0)]
        client.sendall(request(READ, 2, 4094, 8, DF))
        assert chunks(receive(client, 36)) == [(2, 1, 1, struct.pack(">Q", 4094) + b"\0\0data\0\0")]
        client.sendall(request(BLOCK_STATUS, 3, 0, 10_000))
        parts = (1, 4096, 3, 4096, 0, 10_000 - 8192, 3)
        assert chunks(receive(client, 48)) == [(3, 1, 5, struct.pack(">7I", *parts))]
        client.sendall(request(BLOCK_STATUS, 4, 100, SIZE - 100, REQ_ONE))
        assert chunks(receive(client, 32)) == [(4, 1, 5, struct.pack(">3I", 1, 3996, 3))]
        client.sendall(request(CACHE, 5, 1, SIZE - 1))
        assert simple_replies(receive(client, 16)) == [(5, 0)]
    assert export.cached == [(1, SIZE - 1)]


def test_a_status_tells_a_limited_number_of_parts(path: Path) -> None:
    with serving(MemoryExport(2 * EXTENTS_MAX * 4096), path), structured_client(path) as client:
        client.sendall(request(BLOCK_STATUS, 1, 0, 2 * EXTENTS_MAX * 4096))
        assert len(receive(client, 24 + 8 * EXTENTS_MAX)) == 24 + 8 * EXTENTS_MAX
        client.sendall(request(FLUSH, 2))
        assert simple_replies(receive(client, 16)) == [(2, 0)]


def test_an_export_that_fails_to_read_is_told_in_a_chunk(path: Path) -> None:
    class Broken(MemoryExport):
        async def read(self, offset: int, length: int) -> bytes:
            raise OSError(errno.EIO, "broken")

        async def extents(self, offset: int, length: int, count_max: int) -> Sequence[Extent]:
            await turn()
            raise OSError(errno.EIO, "broken")

    with serving(Broken(SIZE), path), structured_client(path) as client:
        for cookie, command in enumerate([READ, BLOCK_STATUS]):
            client.sendall(request(command, cookie, 0, 8))
            assert chunks(receive(client, 26)) == [(cookie, 1, 0x8001, struct.pack(">IH", 5, 0))]
