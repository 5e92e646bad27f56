"""Guests' writes held for a moment: nothing is appended meanwhile, and nobody waits for long."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cdp_agent.splitter import holding
from cdp_agent.splitter.holding import SOCKET_NAME, HoldServer
from tests.unit.splitter.machine import Machine, Splitter, run
from tests.waiting import until

LONG_SECONDS = 60.0


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine is no reason for a hold to end."""
    monkeypatch.setattr(holding, "HOLD_SECONDS_MAX", LONG_SECONDS)


class Holder:
    """A client of hold.sock."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def say(self, word: str) -> str:
        self.writer.write(f"{word}\n".encode())
        return (await self._reader.readline()).decode().rstrip("\n")


async def connected(splitter: Splitter) -> Holder:
    return Holder(*await asyncio.open_unix_connection(str(splitter.machine.directory / SOCKET_NAME)))


async def served(splitter: Splitter) -> HoldServer:
    server = HoldServer(splitter.capture.appending)
    await server.open(splitter.machine.directory)
    return server


def test_while_held_no_write_is_appended_and_then_all_are(machine: Machine) -> None:
    async def story(splitter: Splitter) -> None:
        server = await served(splitter)
        holder = await connected(splitter)
        await splitter.volume.write(0, b"a" * 512, False)
        tail = splitter.capture.page.tail
        assert await holder.say("hold") == f"held {tail.generation} {tail.offset}"
        assert splitter.volume.write_now([(0, b"b" * 512)]) == 0
        late = [
            asyncio.create_task(splitter.volume.write(4096, b"c" * 512, False)),
            asyncio.create_task(splitter.volume.write(8192, b"d" * (128 << 10), False)),
            asyncio.create_task(splitter.volume.zero(192 << 10, 4096, False, True)),
        ]
        done, _ = await asyncio.wait(late, timeout=0.05)
        assert not done
        assert splitter.capture.page.tail == tail
        assert await splitter.volume.read(0, 512) == b"a" * 512
        await splitter.volume.flush()
        assert await holder.say("release") == "kept"
        await asyncio.gather(*late)
        assert splitter.capture.page.tail.offset > tail.offset
        holder.writer.close()
        await server.close()

    run(machine, story)


def test_a_hold_ends_by_itself_and_says_so(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "HOLD_SECONDS_MAX", 0.01)

    async def story(splitter: Splitter) -> None:
        server = await served(splitter)
        holder = await connected(splitter)
        assert (await holder.say("hold")).startswith("held ")
        await splitter.volume.write(0, b"a" * 512, False)  # it waited
        assert await holder.say("release") == "expired"
        assert (server.held, server.expired) == (1, 1)
        assert (await holder.say("hold")).startswith("held ")
        holder.writer.close()
        await server.close()

    run(machine, story)


def test_a_holder_that_dies_holds_nothing(machine: Machine) -> None:
    async def story(splitter: Splitter) -> None:
        server = await served(splitter)
        holder = await connected(splitter)
        assert (await holder.say("hold")).startswith("held ")
        holder.writer.transport.abort()
        await splitter.volume.write(0, b"a" * 512, False)
        await server.close()

    run(machine, story)


def test_one_holds_at_a_time_and_nobody_in_a_quiet_time(machine: Machine) -> None:
    async def story(splitter: Splitter) -> None:
        server = await served(splitter)
        one, other = await connected(splitter), await connected(splitter)
        assert (await one.say("hold")).startswith("held ")
        assert await other.say("hold") == "busy"
        assert await other.say("release") == "expired"
        assert await one.say("release") == "kept"
        async with splitter.capture.standstill():
            assert await other.say("hold") == "busy"
        assert (await other.say("hold")).startswith("held ")
        one.writer.close()
        other.writer.close()
        await server.close()

    run(machine, story)


def test_a_quiet_time_waits_for_a_hold(machine: Machine) -> None:
    async def story(splitter: Splitter) -> None:
        gate = splitter.capture.appending.gate
        began = asyncio.Event()

        async def quiet() -> None:
            async with gate.quiet():
                assert not gate.is_open
                began.set()

        assert gate.hold()
        waiting = asyncio.create_task(quiet())
        await asyncio.wait((waiting,), timeout=0.01)
        assert not began.is_set()
        assert not gate.hold()
        gate.release()
        await waiting
        assert gate.is_open

    run(machine, story)


def test_what_is_no_word_of_ours_ends_the_connection(machine: Machine) -> None:
    async def story(splitter: Splitter) -> None:
        server = await served(splitter)
        for line in (b"hold", b"HOLD\n", b"hold\n", b"x" * 1000 + b"\n"):
            holder = await connected(splitter)
            assert (await holder.say("hold")).startswith("held ")
            holder.writer.write(line)
            holder.writer.write_eof()
            await until(lambda: splitter.capture.appending.gate.is_open, "it holds nothing")
            holder.writer.close()
        await server.close()

    run(machine, story)


def test_the_tail_of_a_journal_that_was_given_up_stands_still(machine: Machine) -> None:
    async def story(splitter: Splitter) -> None:
        server = await served(splitter)
        await splitter.volume.write(0, b"a" * 512, False)
        await splitter.capture._overflow.give_up("a test")
        holder = await connected(splitter)
        await splitter.volume.write(0, b"b" * 512, False)
        at = splitter.capture.page.overflow_at
        assert await holder.say("hold") == f"held {at.generation} {at.offset}"
        assert await holder.say("release") == "kept"
        holder.writer.close()
        await server.close()

    run(machine, story)


def test_nothing_is_left_of_it_in_the_journal_directory(machine: Machine) -> None:
    async def story(splitter: Splitter) -> None:
        server = await served(splitter)
        path = splitter.machine.directory / SOCKET_NAME
        assert path.is_socket()
        await server.close()
        assert not path.exists(), "who copies the directory of a stopped agent trips over it"

    run(machine, story)
