"""What arrives together is offered to the export together, between what came before and after."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path

import pytest

from nbd_export.errors import NbdErrno
from nbd_export.limits import IN_FLIGHT_REQUESTS_MAX
from nbd_export.transmission import simple_reply
from tests.nbd_server import MemoryExport, serving
from tests.unit.nbd_export.raw_client import opened_client, receive
from tests.unit.nbd_export.test_server import SIZE, eventually
from tests.unit.nbd_export.test_structured_server import structured_client
from tests.unit.nbd_export.wire_client import READ, WRITE, request, simple_replies
from tests.waiting import turn

BAD = 8192


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


class ReadsTogether(MemoryExport):
    """Takes so many reads of those that came together, but no bad ones; a place that it leaves is spoilt."""

    def __init__(self, takes: int) -> None:
        super().__init__(SIZE)
        self.takes = takes
        self.seen: list[tuple[str, int]] = []
        for at in range(0, SIZE, 8):
            self.content[at : at + 8] = b"%8d" % at

    def read_now(self, reads: Sequence[tuple[int, memoryview]]) -> int:
        done = 0
        while done < min(self.takes, len(reads)) and reads[done][0] not in (BAD, 2 * BAD):
            done += 1
        for offset, into in reads[:done]:
            self.seen.append(("together", offset))
            into[:] = self.content[offset : offset + len(into)]
        for _, into in reads[done:]:
            into[:] = b"?" * len(into)
        return done

    async def read(self, offset: int, length: int) -> bytes:
        self.seen.append(("alone", offset))
        if offset == 2 * BAD:
            await turn()
        if offset in (BAD, 2 * BAD):
            raise OSError(errno.EIO, "bad")
        return await super().read(offset, length)

    async def write(self, offset: int, data: bytes | memoryview, fua: bool) -> None:
        self.seen.append(("write", offset))
        await super().write(offset, data, fua)


@pytest.mark.parametrize("takes", [0, 1, 3, 9])
@pytest.mark.parametrize("structured", [False, True])
def test_an_export_may_take_reads_together_and_leave_the_rest(
    path: Path, takes: int, structured: bool
) -> None:
    export = ReadsTogether(takes)
    offsets = [64, 8, 4096]
    with serving(export, path), (structured_client if structured else opened_client)(path) as client:
        asked = [request(READ, n, offset, 8) for n, offset in enumerate(offsets)]
        later = [request(WRITE, 5, 8, 8, payload=b"88888888"), request(READ, 6, 8, 8)]
        client.sendall(b"".join([*asked, *later]))
        header = 28 if structured else 16
        answer = receive(client, 4 * (header + 8) + 16)
        written = 3 * (header + 8)
        for n, offset in enumerate(offsets):
            reply = answer[n * (header + 8) : (n + 1) * (header + 8)]
            assert reply[8:16] == n.to_bytes(8, "big")
            assert reply[header:] == b"%8d" % offset
        assert simple_replies(answer[written : written + 16]) == [(5, 0)]
        assert answer[-8:] == b"88888888"
    ways = {0: ["alone"] * 3, 1: ["together", "alone", "together"]}.get(takes, ["together"] * 3)
    last = ("together" if takes else "alone", 8)
    assert export.seen == [*zip(ways, offsets, strict=True), ("write", 8), last]


def test_a_read_that_fails_among_others_fails_alone(path: Path) -> None:
    export = ReadsTogether(9)
    with serving(export, path), opened_client(path) as client:
        client.sendall(b"".join(request(READ, n, at, 8) for n, at in enumerate([8, BAD, 2 * BAD, 64])))
        answer = receive(client, 2 * 24 + 2 * 16)
        assert answer[:24] == simple_reply(0) + b"%8d" % 8
        assert answer[24:40] == simple_reply(1, NbdErrno.EIO)
        assert answer[40:64] == simple_reply(3) + b"%8d" % 64
        assert answer[64:] == simple_reply(2, NbdErrno.EIO)


def test_many_reads_that_came_together_are_all_answered(path: Path) -> None:
    export = ReadsTogether(IN_FLIGHT_REQUESTS_MAX)
    with serving(export, path), opened_client(path) as client:
        lengths = [8 * (1 + n % 4096) for n in range(600)]  # more than is taken at once, of any size
        client.sendall(b"".join(request(READ, n, 8 * n, length) for n, length in enumerate(lengths)))
        for n, length in enumerate(lengths):
            assert receive(client, 16) == simple_reply(n)
            assert receive(client, length) == export.content[8 * n : 8 * n + length]


def test_writes_before_garbage_are_still_written(path: Path) -> None:
    export = MemoryExport(SIZE)
    with serving(export, path), opened_client(path) as client:
        client.sendall(request(WRITE, 1, 0, 8, payload=b"8" * 8) + b"garbage" * 100)
        eventually(lambda: export.content[:8] == b"8" * 8, "the write before it counts")
