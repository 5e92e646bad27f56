"""Writes that arrive together are offered to the export together, between what came before and after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.nbd_server import MemoryExport, serving
from tests.unit.nbd_export.raw_client import opened_client, receive
from tests.unit.nbd_export.test_server import SIZE, eventually
from tests.unit.nbd_export.wire_client import READ, WRITE, request


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "nbd.sock"


def test_an_export_may_take_writes_together_and_leave_the_rest(path: Path) -> None:
    seen: list[tuple[str, int]] = []

    class TogetherExport(MemoryExport):
        """Takes all but the last of what came together."""

        def write_now(self, writes: Sequence[tuple[int, bytes | memoryview]]) -> int:
            for offset, data in writes[:-1]:
                seen.append(("together", offset))
                self.content[offset : offset + len(data)] = data
            return len(writes) - 1

        async def write(self, offset: int, data: bytes | memoryview, fua: bool) -> None:
            seen.append(("alone", offset))
            await super().write(offset, data, fua)

        async def read(self, offset: int, length: int) -> bytes:
            seen.append(("read", offset))
            return await super().read(offset, length)

    with serving(TogetherExport(SIZE), path), opened_client(path) as client:
        writes = [request(WRITE, n, 4096 * n, 8, payload=b"%8d" % n) for n in range(4)]
        client.sendall(b"".join([*writes[:3], request(READ, 9, 4096, 8), writes[3]]))
        answer = receive(client, 16 * 5 + 8)
    assert b"%8d" % 1 in answer
    assert seen == [
        ("together", 0), ("together", 4096), ("alone", 8192), ("read", 4096), ("alone", 12288),
    ]  # fmt: skip


def test_writes_before_garbage_are_still_written(path: Path) -> None:
    export = MemoryExport(SIZE)
    with serving(export, path), opened_client(path) as client:
        client.sendall(request(WRITE, 1, 0, 8, payload=b"8" * 8) + b"garbage" * 100)
        eventually(lambda: export.content[:8] == b"8" * 8, "the write before it counts")
