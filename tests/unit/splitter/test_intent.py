"""The write-intent map: marked before a record, kept until synced. All that a power loss takes is in it."""

from __future__ import annotations

import asyncio
import errno
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from cdp_agent.splitter import intent
from cdp_agent.splitter.capture import Capture
from cdp_agent.splitter.intent import GROUP_REGIONS, ROUND_NS, ROUNDS_KEPT, WriteIntent, read_intent
from cdp_agent.splitter.map_file import MapFile
from cdp_agent.splitter.syncing import Syncing
from cdp_container.journal.block_map import (
    DIRTY_BLOCK_BYTES,
    MAP_HEADER_BYTES,
    decode_map_header,
    dirty_map_name,
    dirty_ranges,
    intent_map_name,
)
from cdp_container.journal.shared import StreamerPage
from tests.unit.splitter.machine import DOMAIN, FILE_BYTES, Lossy, Machine, Splitter

BLOCK = DIRTY_BLOCK_BYTES
REGION = 4 * BLOCK
VOLUME_BYTES = 64 * BLOCK
SUFFIXES = (".raw", ".jnl", ".map", ".new")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return machine_in(tmp_path)


def machine_in(directory: Path, volumes: int = 2) -> Machine:
    made = Machine(directory, VOLUME_BYTES, volumes)
    made.settings = replace(made.settings, region_bytes=REGION, limit_bytes=4 * FILE_BYTES)
    made.marks_all = False
    return made


def marked(machine: Machine, index: int = 0) -> list[tuple[int, int]]:
    """What the map on the disk says, whatever its generation."""
    data = (machine.directory / intent_map_name(index)).read_bytes()
    return list(dirty_ranges(decode_map_header(data, "map"), data[MAP_HEADER_BYTES:]))


def in_doubt(machine: Machine, index: int) -> set[int]:
    """The blocks that the dirty map of the published episode names."""
    data = (machine.directory / dirty_map_name(index)).read_bytes()
    header, page = decode_map_header(data, "map"), machine.pages.splitter.read()
    assert page is not None
    assert header.episode == page.episode
    ranges = dirty_ranges(header, data[MAP_HEADER_BYTES:])
    return {block for start, length in ranges for block in range(start // BLOCK, (start + length) // BLOCK)}


async def pass_rounds(splitter: Splitter, count: int = ROUNDS_KEPT) -> None:
    """Time in which nobody writes."""
    for _ in range(count):
        splitter.machine.clock.now_ns += ROUND_NS
        await splitter.capture.sync()
        await splitter.capture.keep_intents()


# --- marks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [512, 40_000])
def test_a_mark_is_durable_before_the_record(machine: Machine, length: int) -> None:
    async def life() -> None:
        splitter = machine.start()
        machine.files.calls.clear()
        await splitter.volume.write(REGION - 512, bytes([7]) * (512 + length), False)
        kinds = [(name, path.suffix) for name, path in machine.files.calls]
        assert kinds.index(("fdatasync", ".map")) < kinds.index(("pwritev", ".jnl"))
        first = kinds.count(("fdatasync", ".map"))
        await splitter.volume.write(REGION - 512, bytes([8]) * (512 + length), False)
        assert [path.suffix for _, path in machine.files.calls].count(".map") == 2 * first, "marked already"
        assert marked(machine)[0][0] == 0
        assert marked(machine)[-1][1] >= 2 * REGION
        await splitter.stop()

    asyncio.run(life())


def test_a_mark_outlasts_its_write_by_some_rounds(machine: Machine) -> None:
    async def life() -> None:
        splitter = machine.start()
        await splitter.volume.write(3 * REGION, b"x", False)
        await splitter.volume.write(9 * REGION, b"x", False)
        await pass_rounds(splitter, ROUNDS_KEPT - 2)
        assert marked(machine) == [(3 * REGION, REGION), (9 * REGION, REGION)]
        await splitter.volume.write(9 * REGION, b"y", False)
        await pass_rounds(splitter, 2)
        assert marked(machine) == [(9 * REGION, REGION)]
        await pass_rounds(splitter)
        assert marked(machine) == []
        await splitter.volume.write(9 * REGION, b"z", False)
        assert marked(machine) == [(9 * REGION, REGION)]
        await splitter.stop()

    asyncio.run(life())


def test_what_is_not_synced_stays_marked(machine: Machine) -> None:
    async def life() -> None:
        splitter = machine.start()
        await splitter.volume.write(0, b"x", False)
        machine.files.fail = lambda name, path: (
            OSError(errno.EIO, "gone") if (name, path.suffix) == ("fdatasync", ".raw") else None
        )
        for _ in range(3 * ROUNDS_KEPT):
            machine.clock.now_ns += ROUND_NS
            with suppress(OSError):
                await splitter.capture.sync()
            await splitter.capture.keep_intents()
        assert marked(machine) == [(0, REGION)]
        splitter.release()

    asyncio.run(life())


def test_many_marks_are_made_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intent, "GROUP_AFTER", 2)
    machine = machine_in(tmp_path, 1)
    made = WriteIntent(Lossy(), tmp_path, DOMAIN, 4096, machine.settings.volumes)
    made.is_held = True
    for number in (0, 20, 40):
        assert not made.touch(0, number * 4096, 4096)
        made.want(0, number * 4096, 4096)
        made.begin_write()()
        made.end_write(is_durable=True)
    assert made.touch(0, 0, 1)
    assert not made.touch(0, 4096, 1)
    assert made.touch(0, 32 * 4096, GROUP_REGIONS * 4096)
    assert not made.touch(0, 31 * 4096, 2 * 4096)


def test_a_map_that_cannot_be_written_gives_up_the_journal(machine: Machine) -> None:
    async def life() -> None:
        splitter = machine.start()
        machine.files.fail = lambda name, path: (
            OSError(errno.EIO, "gone") if path.parent.name == "intent" else None
        )
        await splitter.volume.write(0, b"guests notice nothing", True)
        assert splitter.capture.page.overflowed
        page = splitter.capture.page
        machine.pages.streamer.publish(StreamerPage(page.overflow_at, 0))
        with suppress(OSError):
            assert not await splitter.capture.go_on(), "it fails yet"
        assert splitter.capture.page.overflowed
        machine.files.fail = lambda name, path: None
        assert await splitter.capture.go_on()
        await splitter.volume.write(REGION, b"captured", True)
        assert marked(machine) == [(0, 2 * REGION)]
        await splitter.stop()

    asyncio.run(life())


def test_a_mark_that_cannot_be_taken_back_disturbs_nobody(machine: Machine) -> None:
    async def life() -> None:
        splitter = machine.start()
        await splitter.volume.write(0, b"x", False)
        machine.files.fail = lambda name, path: (
            OSError(errno.EIO, "gone") if path.parent.name == "intent" else None
        )
        await pass_rounds(splitter, 2 * ROUNDS_KEPT)
        await splitter.volume.flush()
        assert not splitter.capture.page.overflowed
        assert marked(machine) == [(0, REGION)]
        machine.files.fail = lambda name, path: None
        await pass_rounds(splitter, 1)
        assert marked(machine) == []
        await splitter.stop()

    asyncio.run(life())


def test_a_start_on_a_full_disk_needs_no_room_for_the_maps(machine: Machine) -> None:
    async def lives() -> None:
        splitter = machine.start()
        await splitter.volume.write(0, b"x", False)
        assert await splitter.stop()
        machine.files.fail = lambda name, path: (
            OSError(errno.ENOSPC, "full") if (name, path.suffix) == ("allocate", ".new") else None
        )
        again = machine.start()
        assert marked(machine) == []
        await again.volume.write(5 * REGION, b"y", False)
        assert marked(machine) == [(5 * REGION, REGION)]
        await again.stop()

    asyncio.run(lives())


def test_a_disk_that_was_put_back_from_an_older_copy_is_compared_whole(machine: Machine) -> None:
    async def lives() -> None:
        splitter = machine.start()
        await splitter.volume.write(9 * REGION, b"long ago", True)
        await pass_rounds(splitter)
        await splitter.volume.write(0, b"a moment ago", False)
        splitter.release()
        machine.overwrite(9 * REGION, bytes(8))
        machine.reboot()
        again = machine.start()
        assert again.capture.page.compare_all
        again.release()

    asyncio.run(lives())


# --- what counts after a power loss -----------------------------------------------------------------


def read(machine: Machine, generation: int) -> dict[int, list[tuple[int, int]]] | None:
    found = read_intent(machine.files, machine.directory, DOMAIN, generation, machine.settings.volumes)
    return None if found is None else {index: list(ranges) for index, ranges in found.items()}


def test_marks_of_another_start_count_for_nothing(machine: Machine) -> None:
    async def life() -> int:
        splitter = machine.start()
        await splitter.volume.write(5 * REGION, b"x", False)
        splitter.release()
        return splitter.capture.page.generation

    generation = asyncio.run(life())
    assert read(machine, generation) == {0: [(5 * REGION, REGION)], 1: []}
    assert read(machine, generation + 1) is None
    path = machine.directory / intent_map_name(1)
    content = path.read_bytes()
    for broken in (content[:100], b"?" + content[1:], b""):
        path.write_bytes(broken)
        assert read(machine, generation) is None
    path.unlink()
    assert read(machine, generation) is None


def test_a_volume_that_grew_may_have_been_written_in_its_last_region(machine: Machine) -> None:
    """A region was marked, the volume grew, and the region has more bytes than the map's header says."""
    odd = VOLUME_BYTES - BLOCK
    volumes = machine.settings.volumes
    machine.settings = replace(machine.settings, volumes=(replace(volumes[0], size_bytes=odd), volumes[1]))

    async def life() -> int:
        splitter = machine.start()
        await splitter.volume.write(odd - BLOCK, b"x", False)
        splitter.capture.intent.change(volumes)
        await splitter.capture.admit(lambda: splitter.capture.appending.append_write(0, odd, b"y"))
        splitter.release()
        return splitter.capture.page.generation

    generation = asyncio.run(life())
    machine.settings = replace(machine.settings, volumes=volumes)
    assert read(machine, generation) == {0: [(VOLUME_BYTES - REGION, REGION)], 1: []}


class Story:
    """Guests, syncs, overflows and kills at random; `written` is what every volume must read as."""

    def __init__(self, machine: Machine, rng: Random) -> None:
        self.machine, self.rng = machine, rng
        self.written = [bytearray(VOLUME_BYTES) for _ in machine.settings.volumes]
        self.uncaptured: list[set[int]] = [set() for _ in self.written]

    async def play(self, steps: int) -> Splitter:
        splitter = self.machine.start()
        for _ in range(steps):
            kind = self.rng.choices(("write", "flush", "rest", "full", "kill"), (30, 2, 1, 1, 1))[0]
            if kind == "write":
                await self._write(splitter)
            elif kind == "flush":
                await splitter.volume.flush()
            elif kind == "rest":
                await pass_rounds(splitter, self.rng.choice((1, ROUNDS_KEPT)))
            elif kind == "full":
                await self._overflow(splitter)
            else:
                splitter.release()
                splitter = self.machine.start()
        return splitter

    async def _write(self, splitter: Splitter) -> None:
        index = self.rng.randrange(len(self.written))
        length = self.rng.choice((512, BLOCK, 3 * BLOCK, 40 * 1024))
        offset = self.rng.randrange(0, VOLUME_BYTES - length + 1, 512)
        data = self.rng.randbytes(16) * (length // 16)
        await splitter.volumes[index].write(offset, data, False)
        self.written[index][offset : offset + length] = data
        if splitter.capture.page.overflowed:
            self.uncaptured[index].update(range(offset // BLOCK, -(-(offset + length) // BLOCK)))

    async def _overflow(self, splitter: Splitter) -> None:
        """The journal is given up; sometimes it goes on, and all that lacked was compared."""
        capture = splitter.capture
        if not capture.page.overflowed:
            await capture._overflow.give_up("for a test")
        for _ in range(self.rng.randrange(4)):
            await self._write(splitter)
        if self.rng.random() < 0.7:
            self.machine.pages.streamer.publish(StreamerPage(capture.page.overflow_at, 0))
            assert await capture.go_on()
            compared = self.rng.choice((0, capture.page.episode))
            if compared:
                self.uncaptured = [set() for _ in self.written]
            self.machine.pages.streamer.publish(StreamerPage(capture.page.tail, compared))

    def check(self) -> str:
        """After a power loss: what is in no map reads as it was written, on the disk. "" if so."""
        page = self.machine.pages.splitter.read()
        assert page is not None
        assert page.episode
        if page.compare_all or page.overflowed:
            return ""
        for index, written in enumerate(self.written):
            disk, doubts = self.machine.disk(index), in_doubt(self.machine, index)
            if not self.uncaptured[index] <= doubts:
                return f"what the journal never held of volume {index} is in no map"
            for block in range(VOLUME_BYTES // BLOCK):
                place = slice(block * BLOCK, (block + 1) * BLOCK)
                if block not in doubts and disk[place] != written[place]:
                    return f"block {block} of volume {index} is not what was written, and in no map"
        return ""


def lose_power(directory: Path, seed: int) -> tuple[str, bool]:
    """What is wrong after a story that ended in the dark, and whether maps said what is in doubt."""
    rng = Random(seed)
    machine = machine_in(directory / str(seed))
    story = Story(machine, rng)

    async def lives() -> tuple[str, bool]:
        splitter = await story.play(rng.randrange(5, 60))
        splitter.release()
        machine.files.lose_power(rng, rng.choice((0.3, 0.9)), SUFFIXES)
        machine.reboot()
        again = machine.start()
        again.release()
        return story.check(), not again.capture.page.compare_all

    return asyncio.run(lives())


@pytest.fixture
def cheap_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for seed in range(60):
        (tmp_path / str(seed)).mkdir()
    return tmp_path


@pytest.mark.slow
def test_whatever_a_power_loss_took_is_in_the_maps(cheap_machine: Path) -> None:
    placed = 0
    for seed in range(60):
        wrong, has_maps = lose_power(cheap_machine, seed)
        assert not wrong, f"seed {seed}: {wrong}"
        placed += has_maps
    assert placed > 20, "too few of these stories tell anything"


def mark_without_a_sync(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MapFile, "sync", lambda self: None)


def let_writes_pass_unmarked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WriteIntent, "touch", lambda self, source, offset, length: True)


def take_marks_back_unsynced(patch: pytest.MonkeyPatch) -> None:
    real = WriteIntent.touch

    def touch(self: WriteIntent, source: int, offset: int, length: int) -> bool:
        if not real(self, source, offset, length):
            return False
        self._ages[source] = bytearray(len(self._ages[source]))
        self._stale.add(source)
        return True

    patch.setattr(WriteIntent, "touch", touch)


def go_on_unsynced_and_unmarked(patch: pytest.MonkeyPatch) -> None:
    """Either alone is enough: the sync before the journal goes on, or the marks of what came before it."""
    go_on, renew, sync = Capture.go_on, WriteIntent.renew, Syncing.sync

    def renew_unmarked(self: WriteIntent, generation: int) -> None:
        self._ages = {source: bytearray(len(ages)) for source, ages in self._ages.items()}
        renew(self, generation)

    async def go_on_unsynced(self: Capture) -> bool:
        patch.setattr(Syncing, "sync", no_sync)
        try:
            return await go_on(self)
        finally:
            patch.setattr(Syncing, "sync", sync)

    async def no_sync(self: Syncing) -> None:
        return

    patch.setattr(Capture, "go_on", go_on_unsynced)
    patch.setattr(WriteIntent, "renew", renew_unmarked)


def forget_earlier_doubts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("cdp_agent.splitter.published.Published.unfinished_episode", 0)


@pytest.mark.parametrize(
    "broken",
    [
        mark_without_a_sync,
        let_writes_pass_unmarked,
        take_marks_back_unsynced,
        go_on_unsynced_and_unmarked,
        forget_earlier_doubts,
    ],
    ids=lambda broken: broken.__name__,
)
def test_a_broken_rule_is_noticed(
    cheap_machine: Path, monkeypatch: pytest.MonkeyPatch, broken: object
) -> None:
    broken(monkeypatch)  # type: ignore[operator]
    for seed in range(60):
        try:
            wrong, _ = lose_power(cheap_machine, seed)
        except Exception as error:  # noqa: BLE001 - a refusal is noticing, too
            wrong = repr(error)
        if wrong:
            print(f"seed {seed}: {wrong}")
            return
    pytest.fail("60 seeds went by, and nothing was noticed")
