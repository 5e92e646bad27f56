"""A server of short lines: whom it hangs up on, and that every connection's end is told."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest

from nbd_export.lines import LineServer
from tests.waiting import until

NAME = "words.sock"


class Echo:
    """Says what it hears, but for one word."""

    def __init__(self, ended: list[bytes]) -> None:
        self._ended = ended
        self._heard = b""

    def answer(self, line: bytes) -> bytes:
        self._heard = line
        return b"" if line == b"bye\n" else line

    def end(self) -> None:
        self._ended.append(self._heard)


async def said(directory: Path, data: bytes) -> bytes:
    """What comes back until it is hung up on."""
    reader, writer = await asyncio.open_unix_connection(directory / NAME)
    writer.write(data)
    writer.write_eof()
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    server = LineServer(NAME, lambda: Echo([]), 64, 2)
    with pytest.raises(OSError, match="No such file"):
        asyncio.run(server.open(tmp_path / "none"))
    asyncio.run(server.close())


def test_who_says_what_is_no_line_is_hung_up_on(tmp_path: Path) -> None:
    ended: list[bytes] = []

    async def story() -> None:
        server = LineServer(NAME, lambda: Echo(ended), 8, 2)
        await server.open(tmp_path)
        assert stat.S_IMODE((tmp_path / NAME).stat().st_mode) == 0o700 & ~0o177
        assert await said(tmp_path, b"a\nb\n") == b"a\nb\n"
        assert await said(tmp_path, b"bye\na\n") == b""
        assert await said(tmp_path, b"no end") == b""
        assert await said(tmp_path, b"a\n" + b"x" * 100) == b"a\n"
        await until(lambda: len(ended) == 4, "every end is told")
        await server.close()
        assert not (tmp_path / NAME).exists()

    asyncio.run(story())
    assert ended == [b"b\n", b"bye\n", b"", b"a\n"]


def test_one_too_many_is_hung_up_on_and_who_is_there_goes_on(tmp_path: Path) -> None:
    ended: list[bytes] = []

    async def story() -> None:
        server = LineServer(NAME, lambda: Echo(ended), 64, 2)
        await server.open(tmp_path)
        peers = [await asyncio.open_unix_connection(tmp_path / NAME) for _ in range(2)]
        for reader, writer in peers:
            writer.write(b"here\n")
            assert await reader.readline() == b"here\n"
        assert await said(tmp_path, b"me too\n") == b""
        for reader, writer in peers:
            writer.write(b"still\n")
            assert await reader.readline() == b"still\n"
        await server.close()
        for reader, writer in peers:
            assert await reader.read() == b""
            writer.close()
        await until(lambda: len(ended) == 2, "every end is told")

    asyncio.run(story())
