"""A journal that was given up goes on; what was written meanwhile is known by its blocks, or all in doubt."""

from __future__ import annotations

import asyncio
import errno
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from cdp_agent.splitter.dirty_blocks import DirtyBlocks
from cdp_container.journal import block_map
from cdp_container.journal.block_map import (
    DIRTY_BLOCK_BYTES,
    MAP_HEADER_BYTES,
    dirty_map_name,
    dirty_ranges,
    set_bits,
)
from cdp_container.journal.shared import StreamerPage
from nbd_export.files import OsFiles
from tests.unit.splitter.machine import FILE_BYTES, Lossy, Machine, Splitter, give_up, overflow, run

BLOCK = DIRTY_BLOCK_BYTES
VOLUME_BYTES = 1 << 20


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path, VOLUME_BYTES, volumes=2)
    made.settings = replace(made.settings, limit_bytes=2 * FILE_BYTES)
    return made


def dirty(machine: Machine, index: int = 0) -> list[tuple[int, int]]:
    """What the map on the disk says, which must be that of the published episode."""
    data = (machine.directory / dirty_map_name(index)).read_bytes()
    header = block_map.decode_map_header(data, "map")
    page = machine.pages.splitter.read()
    assert page is not None
    assert (header.episode, header.space) == (page.episode, machine.settings.volumes[index].space)
    return list(dirty_ranges(header, data[MAP_HEADER_BYTES:]))


def test_it_goes_on_and_says_what_was_written_meanwhile(machine: Machine) -> None:
    async def scenario(splitter: Splitter) -> None:
        capture = splitter.capture
        await overflow(splitter)
        before = capture.page
        assert not await capture.go_on(), "the streamer still needs the journal"
        await splitter.volume.write(5 * BLOCK + 100, b"x" * 10, False)
        await splitter.volume.zero(20 * BLOCK, 3 * BLOCK, False, True)
        await splitter.volumes[1].write(9 * BLOCK, b"y" * (100 << 10), True)
        give_up(splitter)
        assert await capture.go_on()
        page = capture.page
        assert not page.overflowed
        assert (page.tail, page.synced, page.episode) == (page.tail, page.tail, page.generation)
        assert page.generation != before.generation
        assert page.overflow_ns == before.overflow_ns, "what was in doubt since then still is"
        assert not page.compare_all
        # The write that met the full journal went past it, too.
        assert dirty(machine) == [(0, 2 * BLOCK), (5 * BLOCK, BLOCK), (20 * BLOCK, 3 * BLOCK)]
        assert dirty(machine, 1) == [(9 * BLOCK, 25 * BLOCK)]
        await splitter.volume.write(VOLUME_BYTES - BLOCK, b"captured" * 512, True)
        assert capture.page.tail.offset > page.tail.offset
        assert dirty(machine)[-1] == (20 * BLOCK, 3 * BLOCK), "the journal has it"
        machine.pages.streamer.publish(StreamerPage(capture.page.tail))
        assert capture.trim(), "the old generation's files are used again"

    run(machine, scenario)
    run(machine, nothing)  # and another start finds all in order


async def nothing(splitter: Splitter) -> None:
    assert not splitter.capture.page.overflowed


def test_a_start_amid_it_leaves_everything_in_doubt(machine: Machine) -> None:
    """Nobody knows whether the process that was killed could write its maps."""

    async def lives() -> None:
        splitter = machine.start()
        await overflow(splitter)
        await splitter.volume.write(0, b"past the journal", False)
        splitter.release()
        again = machine.start()
        assert again.capture.page.overflowed
        await again.volume.write(BLOCK, b"past it, too", False)
        give_up(again)
        assert await again.capture.go_on()
        assert again.capture.page.compare_all
        await again.stop()

    asyncio.run(lives())


@pytest.mark.parametrize("compared", [True, False])
def test_what_was_not_compared_yet_stays_in_the_maps(machine: Machine, compared: bool) -> None:
    async def scenario(splitter: Splitter) -> None:
        await overflow(splitter)
        await splitter.volume.write(50 * BLOCK, b"x", False)
        give_up(splitter)
        assert await splitter.capture.go_on()
        episode = splitter.capture.page.episode
        if compared:
            machine.pages.streamer.publish(StreamerPage(splitter.capture.page.synced, episode))
        await overflow(splitter)
        await splitter.volume.write(70 * BLOCK, b"x", False)
        give_up(splitter, episode if compared else 0)
        assert await splitter.capture.go_on()
        assert not splitter.capture.page.compare_all
        kept = [] if compared else [(50 * BLOCK, BLOCK)]
        assert dirty(machine)[1:] == [*kept, (70 * BLOCK, BLOCK)]

    run(machine, scenario)


def test_maps_that_are_gone_leave_everything_in_doubt(machine: Machine) -> None:
    async def scenario(splitter: Splitter) -> None:
        await overflow(splitter)
        give_up(splitter)
        assert await splitter.capture.go_on()
        (machine.directory / dirty_map_name(1)).unlink()
        await overflow(splitter)
        give_up(splitter)
        assert await splitter.capture.go_on()
        assert splitter.capture.page.compare_all

    run(machine, scenario)


@pytest.mark.parametrize("call", ["allocate", "pwritev", "fdatasync"])
def test_a_disk_that_takes_no_map_leaves_everything_in_doubt(machine: Machine, call: str) -> None:
    def fail(name: str, path: Path) -> OSError | None:
        is_map = path.parent.name == "dirty"
        return OSError(errno.EIO, "a map") if is_map and name == call else None

    async def scenario(splitter: Splitter) -> None:
        await overflow(splitter)
        machine.files.fail = fail
        give_up(splitter)
        assert await splitter.capture.go_on()
        assert splitter.capture.page.compare_all
        await splitter.volume.write(0, b"guests notice nothing", True)

    run(machine, scenario)


def test_a_journal_disk_that_still_fails_is_tried_again(machine: Machine) -> None:
    def fail(name: str, path: Path) -> OSError | None:
        return OSError(errno.EIO, "the journal") if path.suffix == ".jnl" else None

    async def scenario(splitter: Splitter) -> None:
        await overflow(splitter)
        give_up(splitter)
        machine.files.fail = fail
        with pytest.raises(OSError, match="the journal"):
            await splitter.capture.go_on()
        await splitter.volume.write(30 * BLOCK, b"meanwhile", True)
        machine.files.fail = lambda name, path: None
        assert await splitter.capture.go_on()
        assert (30 * BLOCK, BLOCK) in dirty(machine)

    run(machine, scenario)


def test_an_attempt_that_was_not_published_does_not_hinder_the_next(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lives() -> None:
        splitter = machine.start()
        await overflow(splitter)
        give_up(splitter)
        before = splitter.capture.page
        with monkeypatch.context() as patched:
            patched.setattr(type(machine.pages.splitter), "publish", failing)
            with pytest.raises(OSError, match="shared"):
                await splitter.capture.go_on()
        assert splitter.capture.page == before
        await splitter.volume.write(0, b"past the journal", False)
        splitter.release()
        again = machine.start()
        assert again.capture.page.overflowed
        assert await again.capture.go_on()
        await again.volume.write(0, b"captured", True)
        assert await again.stop()
        third = machine.start()
        assert machine.disk()[:8] == b"captured"
        await third.stop()

    asyncio.run(lives())


def failing(self: object, page: object, durable: bool = False) -> None:
    raise OSError(errno.EIO, "shared")


@pytest.mark.parametrize("seed", range(20))
def test_power_is_lost_at_any_moment_of_it(machine: Machine, seed: int) -> None:
    """Then either the journal is still given up, or it holds what was written since it went on."""
    rng = Random(seed)

    async def life() -> None:
        splitter = machine.start()
        await overflow(splitter)
        await splitter.volume.write(40 * BLOCK, b"before", True)
        give_up(splitter)
        calls = rng.randrange(20)

        def count(name: str, path: Path) -> OSError | None:
            nonlocal calls
            calls -= 1
            return OSError(errno.EIO, "the power goes") if calls < 0 else None

        machine.files.fail = count
        with suppress(OSError):
            await splitter.capture.go_on()
        splitter.release()
        machine.files.fail = lambda name, path: None
        machine.files.lose_power(rng, 0.5, suffixes=[".jnl", ".map", ".new"])
        machine.reboot()
        again = machine.start()
        page = again.capture.page
        assert page.overflowed or page.episode
        assert machine.disk()[40 * BLOCK : 40 * BLOCK + 6] == b"before"
        machine.pages.streamer.publish(StreamerPage(page.overflow_at))
        if page.overflowed:
            assert await again.capture.go_on()
        await again.volume.write(0, b"captured", True)
        assert await again.stop()

    asyncio.run(life())


def test_a_journal_that_was_given_up_may_lose_its_end(machine: Machine) -> None:
    async def lives() -> None:
        splitter = machine.start()
        await overflow(splitter)
        await splitter.volume.write(40 * BLOCK, b"on the disk alone", True)
        splitter.release()
        machine.files.lose_power(Random(1), 1.0, suffixes=[".jnl"])
        machine.reboot()
        again = machine.start()
        assert again.capture.page.overflowed
        assert again.capture.page.compare_all
        assert machine.disk()[40 * BLOCK :].startswith(b"on the disk alone")
        give_up(again)
        assert await again.capture.go_on()
        assert await again.stop()

    asyncio.run(lives())


# --- the maps alone ------------------------------------------------------------------------------


def blocks(tmp_path: Path, files: OsFiles | None = None) -> DirtyBlocks:
    machine = Machine(tmp_path, VOLUME_BYTES)
    return DirtyBlocks(files or Lossy(), tmp_path, bytes(16), machine.settings.volumes)


def test_what_is_marked_while_the_maps_are_saved_is_in_them(tmp_path: Path) -> None:
    made = blocks(tmp_path)
    made.begin(0)
    made.mark(0, 0, BLOCK)
    made.save(7)
    made.mark(0, 9 * BLOCK, 1)
    assert made.finish()
    data = (tmp_path / dirty_map_name(0)).read_bytes()
    header = block_map.decode_map_header(data, "map")
    assert list(dirty_ranges(header, data[MAP_HEADER_BYTES:])) == [(0, BLOCK), (9 * BLOCK, BLOCK)]


def test_too_many_marks_while_the_maps_are_saved_make_them_incomplete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdp_agent.splitter.dirty_blocks.CHANGES_MAX", 3)
    made = blocks(tmp_path)
    made.begin(0)
    made.save(7)
    for number in range(4):
        made.mark(0, number * 8 * BLOCK, 1)
    assert not made.finish()


def test_maps_that_a_thread_gives_up_amid_a_mark_stay_incomplete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Lossy()
    made = blocks(tmp_path, files)
    made.begin(0)
    made.mark(0, 0, BLOCK)
    made.save(7)

    syncs: list[Path] = []

    def fail(name: str, path: Path) -> OSError | None:
        syncs.extend([path] if name == "fdatasync" else [])
        return OSError(errno.EIO, "its bits") if len(syncs) == 2 else None

    def given_up_meanwhile(bits: bytearray, first: int, end: int) -> tuple[int, int] | None:
        changed = set_bits(bits, first, end)
        files.fail = fail
        made.save(8)
        return changed

    monkeypatch.setattr("cdp_agent.splitter.dirty_blocks.set_bits", given_up_meanwhile)
    made.mark(0, 9 * BLOCK, 1)
    files.fail = lambda name, path: None
    assert not made.finish()


def test_nothing_is_complete_that_was_not_begun(tmp_path: Path) -> None:
    made = blocks(tmp_path)
    made.mark(0, 0, BLOCK)
    made.save(7)
    assert not made.finish()
    assert not (tmp_path / dirty_map_name(0)).exists()
