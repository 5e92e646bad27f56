"""What CAN_MULTI_CONN promises: a flush on one connection covers what was answered on every other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from nbd_export.backend import FixedExports
from nbd_export.server import serve
from tests.nbd_client import NbdClient
from tests.unit.splitter.machine import Machine, Splitter

VOLUME_BYTES = 1 << 20
LARGE = 300 << 10


def play(machine: Machine, script: Callable[[NbdClient, NbdClient], None]) -> None:
    """Let two clients of one export do something, then kill the splitter."""

    async def scenario() -> None:
        splitter: Splitter = machine.start()
        path = machine.directory / "nbd.sock"
        server = await serve(FixedExports(splitter.volumes), path)

        def clients() -> None:
            with NbdClient(path, "v0") as one, NbdClient(path, "v0") as other:
                script(one, other)

        await asyncio.to_thread(clients)
        await server.close()
        splitter.release()

    asyncio.run(scenario())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path, volume_bytes=VOLUME_BYTES)


def test_without_a_flush_power_loss_takes_it(machine: Machine) -> None:
    play(machine, lambda one, other: one.write(0, b"gone" * 128))
    machine.files.lose_power(Random(1), 1.0)
    assert machine.disk() == bytes(VOLUME_BYTES)


@pytest.mark.parametrize("length", [512, 4096, LARGE])
def test_a_flush_covers_what_was_answered_on_another_connection(machine: Machine, length: int) -> None:
    data = b"\x5a" * length

    def script(one: NbdClient, other: NbdClient) -> None:
        one.write(8192, data)
        other.flush()

    play(machine, script)
    machine.files.lose_power(Random(1), 1.0)
    assert machine.disk()[8192 : 8192 + length] == data


def test_a_flush_covers_zeroes_of_another_connection(machine: Machine) -> None:
    def script(one: NbdClient, other: NbdClient) -> None:
        one.write(0, b"\xff" * LARGE, fua=True)
        one.write_zeroes(4096, 8192)
        other.flush()

    play(machine, script)
    machine.files.lose_power(Random(1), 1.0)
    assert machine.disk()[: 4096 + 8192 + 4] == b"\xff" * 4096 + bytes(8192) + b"\xff" * 4


def test_each_connection_reads_what_another_was_told_is_written(machine: Machine) -> None:
    def script(one: NbdClient, other: NbdClient) -> None:
        for number in range(50):
            data = bytes([number + 1]) * 700
            one.write(number * 700, data)
            assert other.read(number * 700, 700) == data
            one, other = other, one

    play(machine, script)
