"""The export of a volume that is fetched meanwhile: whatever comes when, what was written last is read."""

from __future__ import annotations

import asyncio
import errno
import random
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cdp_container.errors import StoreUnavailable
from nbd_export.errors import BackendError, NbdErrno
from nbd_export.files import OsFiles
from nbd_export.ranges import RangesInFlight
from rehydrate.serve import filling, image
from rehydrate.serve.filling import STEP_BYTES, Filling
from rehydrate.serve.image import TOUCH_BYTES, Image, Threads
from rehydrate.serve.map_file import BLOCK_BYTES
from rehydrate.serve.origin import Damage, Fetched
from rehydrate.serve.overlay import Overlay, Part, create_overlay, open_overlay
from tests.waiting import until

MIB = 1 << 20
SIZE = 3 * MIB + 512
SPACE, BOOT = bytes(16), b"b" * 16


class Point:
    """A source of which every answer can be held back, fail, or be damaged. `others_bytes` come with each."""

    def __init__(self, size_bytes: int = SIZE) -> None:
        self.content = random.Random(1).randbytes(size_bytes)
        self.content = self.content[:MIB] + bytes(MIB) + self.content[2 * MIB :]  # with zeros amid
        self.asked: list[tuple[int, int]] = []
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.is_away = False
        self.bad: set[int] = set()
        self.others_bytes = 0

    def fetch(self, start: int, end: int) -> Fetched:
        self.asked.append((start, end))
        assert self.may_answer.wait(30)
        if self.is_away:
            raise StoreUnavailable("get", "it is away")
        bad = sorted(at for at in self.bad if start <= at < end)
        wanted, at = [], start
        for low in [*bad, end]:
            if at < low:
                wanted.append(self._part(at, low))
            at = low + BLOCK_BYTES
        beyond = min(end + self.others_bytes, len(self.content))
        others = [self._part(end, beyond)] if end < beyond else []
        return Fetched(wanted, others, [Damage(at, at + BLOCK_BYTES, f"bad at {at}") for at in bad])

    def data(self, start: int, end: int) -> Sequence[tuple[int, int]] | None:
        if self.is_away:
            return None
        parts = [(max(start, 0), min(end, MIB)), (max(start, 2 * MIB), min(end, len(self.content)))]
        return [(low, high) for low, high in parts if low < high]

    def _part(self, start: int, end: int) -> Part:
        data = self.content[start:end]
        return Part(start, end - start, data if any(data) else None)


class Bench:
    """An image over an overlay, and what was told."""

    def __init__(self, directory: Path, point: Point) -> None:
        self.point = point
        self.base = directory / "disk"
        self.threads = Threads()
        create_overlay(OsFiles(), self.base, len(point.content), SPACE)
        self.overlay: Overlay = open_overlay(OsFiles(), self.base, len(point.content), SPACE, BOOT)
        self.told: list[str] = []

    def image(self) -> Image:
        return Image("disk", self.overlay, self.threads, self.point, self.told.append)

    def content(self) -> bytes:
        """As another start would see it."""
        raw = bytearray(self.base.with_name("disk.raw").read_bytes())
        for start, end in self.overlay.missing(0, self.overlay.size_bytes):
            raw[start:end] = self.point.content[start:end]
        return bytes(raw)


@pytest.fixture
def point() -> Point:
    return Point()


@pytest.fixture
def bench(tmp_path: Path, point: Point) -> Iterator[Bench]:
    with benched(tmp_path, point) as made:
        yield made


@contextmanager
def benched(directory: Path, point: Point) -> Iterator[Bench]:
    made = Bench(directory, point)
    try:
        yield made
    finally:
        point.may_answer.set()
        made.threads.end()
        made.overlay.close()


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


async def at_once(seed: int, disk: Image, model: bytearray) -> None:
    """Many writes at once, none over another's bytes, many in blocks of others; reads among them."""
    rng = random.Random(seed)
    edges = sorted(rng.sample(range(1, SIZE - 1), 40))
    ranges = list(zip(edges[::2], edges[1::2], strict=True))
    ranges += [(at, at + 100) for at in range(2 * MIB + 100, 2 * MIB + 4000, 200)]
    ranges = [one for one in ranges if one[1] - one[0] == 100 or one[1] < 2 * MIB or one[0] > 2 * MIB + 4096]
    work: list[Coroutine[Any, Any, Any]] = []
    for start, end in ranges:
        kind = rng.choice(("write", "write", "zero", "trim"))
        if kind == "write":
            data = rng.randbytes(end - start)
            model[start:end] = data
            work.append(disk.write(start, data, rng.random() < 0.1))
        else:
            model[start:end] = bytes(end - start)
            work.append(
                disk.trim(start, end - start, False)
                if kind == "trim"
                else disk.zero(start, end - start, False, rng.random() < 0.5)
            )
    work += [disk.read(rng.randrange(SIZE - 9000), 9000) for _ in range(10)]
    rng.shuffle(work)
    await asyncio.gather(*work)
    assert await disk.read(0, SIZE) == model


async def rounds(bench: Bench) -> None:
    disk, model = bench.image(), bytearray(bench.point.content)
    bench.point.others_bytes = 5 * BLOCK_BYTES
    for seed in range(4):
        await at_once(seed, disk, model)
    assert bench.content() == model


def test_writes_that_meet_in_a_block_that_is_not_here_are_all_kept(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / str(number)).mkdir()
        with benched(tmp_path / str(number), Point()) as bench:
            run(rounds(bench))


def test_without_ranges_that_are_held_it_would_be_noticed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Free(RangesInFlight):
        def overlaps(self, offset: int, length: int) -> bool:
            return False

        def hold(self, offset: int, length: int) -> Any:  # noqa: ANN401 (any context)
            return _Free()

    monkeypatch.setattr(image, "RangesInFlight", Free)

    async def story() -> None:
        disk, model = bench.image(), bytearray(bench.point.content)
        bench.point.may_answer.clear()
        model[100:200], model[300:400] = b"a" * 100, b"b" * 100
        first = asyncio.create_task(disk.write(100, b"a" * 100, False))
        await until(lambda: len(bench.point.asked) == 1, "it is fetched for the one")
        bench.overlay.write(0, bytes(model[:BLOCK_BYTES]))  # what the other makes of it meanwhile
        bench.overlay.mark(0, BLOCK_BYTES)
        bench.point.may_answer.set()
        await first
        assert await disk.read(0, BLOCK_BYTES) == model[:BLOCK_BYTES]

    with pytest.raises(AssertionError):
        run(story())


class _Free:
    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, *_: object) -> None:
        return None


def test_what_is_fetched_never_replaces_what_was_written_meanwhile(bench: Bench, point: Point) -> None:
    async def story() -> None:
        disk = bench.image()
        point.may_answer.clear()
        reads = asyncio.create_task(disk.read(0, 3 * BLOCK_BYTES))
        await until(lambda: len(point.asked) == 1, "it is fetched")
        await disk.write(BLOCK_BYTES, b"w" * BLOCK_BYTES, True)
        await disk.zero(2 * BLOCK_BYTES, BLOCK_BYTES, False, True)
        assert disk.waiting == 1
        point.may_answer.set()
        expected = point.content[:BLOCK_BYTES] + b"w" * BLOCK_BYTES + bytes(BLOCK_BYTES)
        assert await reads == expected
        assert await disk.read(0, 3 * BLOCK_BYTES) == expected
        assert disk.waiting == 0

    run(story())


def test_what_came_with_it_is_kept_and_not_asked_for_again(bench: Bench, point: Point) -> None:
    async def story() -> None:
        disk = bench.image()
        point.others_bytes = 40 * BLOCK_BYTES
        await disk.write(10 * BLOCK_BYTES, b"w" * 10, False)
        assert await disk.read(11 * BLOCK_BYTES, 100) == point.content[11 * BLOCK_BYTES :][:100]
        assert len(point.asked) == 1
        assert (
            await disk.read(10 * BLOCK_BYTES, 20) == b"w" * 10 + point.content[10 * BLOCK_BYTES + 10 :][:10]
        )
        await disk.write(60 * BLOCK_BYTES, b"v" * BLOCK_BYTES, False)  # nothing of it is needed
        assert len(point.asked) == 1

    run(story())


def test_zeros_that_are_fetched_are_zeros_whatever_lay_there(bench: Bench, point: Point) -> None:
    """A power loss may leave in NAME.raw what is not said to be here."""

    async def story() -> None:
        bench.overlay.write(MIB, b"left" * 4096)
        assert await bench.image().read(MIB, 16384) == bytes(16384)

    run(story())


def test_while_the_store_is_away_reads_wait_and_writes_of_whole_blocks_do_not(
    bench: Bench, point: Point, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image, "PAUSE_SECONDS_MIN", 0.001)

    async def story() -> None:
        disk = bench.image()
        assert await disk.read(0, 10) == point.content[:10]
        point.is_away = True
        asked = len(point.asked)
        waits = [asyncio.create_task(disk.read(at, 10)) for at in (BLOCK_BYTES, 2 * MIB)]
        waits.append(asyncio.create_task(disk.read(5 * BLOCK_BYTES, 10)))
        await until(lambda: len(point.asked) > asked + 5, "it is asked again and again")
        assert await disk.read(0, 10) == point.content[:10]
        await disk.write(7 * BLOCK_BYTES, b"w" * BLOCK_BYTES, True)
        assert bench.told
        assert not any(one.done() for one in waits)
        assert [line for line in bench.told if "wait: get: it is away" in line] == bench.told[:1]
        waits[2].cancel()  # its client was hung up on
        point.is_away = False
        assert await waits[0] == point.content[BLOCK_BYTES:][:10]
        assert await waits[1] == point.content[2 * MIB :][:10]
        point.is_away = True
        last = asyncio.create_task(disk.read(3 * MIB, 10))
        await until(lambda: disk.is_away, "it waits")
        disk.end()
        with pytest.raises(BackendError) as caught:
            await last
        assert caught.value.code is NbdErrno.ESHUTDOWN

    run(story())


def test_damage_is_an_error_for_its_blocks_alone_until_it_is_healed(bench: Bench, point: Point) -> None:
    async def story() -> None:
        disk = bench.image()
        point.bad = {BLOCK_BYTES, 9 * BLOCK_BYTES}
        with pytest.raises(BackendError) as caught:
            await disk.read(0, 3 * BLOCK_BYTES)
        assert caught.value.code is NbdErrno.EIO
        asked = len(point.asked)
        assert await disk.read(0, BLOCK_BYTES) == point.content[:BLOCK_BYTES]
        assert await disk.read(2 * BLOCK_BYTES, 10) == point.content[2 * BLOCK_BYTES :][:10]
        assert len(point.asked) == asked
        with pytest.raises(BackendError, match="bad at"):
            await disk.write(BLOCK_BYTES + 1, b"x", False)
        await disk.write(9 * BLOCK_BYTES, b"x" * BLOCK_BYTES, False)  # which needs nothing of it
        assert await disk.read(9 * BLOCK_BYTES, 1) == b"x"
        assert sorted(disk.damages) == [BLOCK_BYTES]
        assert bench.told == [f"damaged: disk from {BLOCK_BYTES} to {2 * BLOCK_BYTES}: bad at {BLOCK_BYTES}"]
        assert not await Filling([disk]).run()
        assert disk.overlay.missing(0, SIZE) == [(BLOCK_BYTES, 2 * BLOCK_BYTES)]
        point.bad.clear()
        assert await Filling([disk]).run()
        assert disk.damages == {}
        assert bench.overlay.is_whole

    run(story())


def test_filling_begins_near_what_was_touched_and_gives_way_to_guests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = Point(5 * STEP_BYTES)
    monkeypatch.setattr(filling, "STEPS_AT_ONCE", 1)
    monkeypatch.setattr(filling, "GIVE_WAY_SECONDS", 3600.0)

    async def story(bench: Bench) -> None:
        disk = bench.image()
        await disk.read(17 * MIB, 10)
        await disk.read(9 * MIB, 10)
        del point.asked[:]
        point.may_answer.clear()
        waits = asyncio.create_task(disk.read(19 * MIB, 10))
        await until(lambda: len(point.asked) == 1, "a guest waits")
        fills = asyncio.create_task(Filling([disk]).run())
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(point.asked) == 1
        point.may_answer.set()
        assert await waits == point.content[19 * MIB :][:10]
        assert await fills
        assert [start // TOUCH_BYTES for start, _ in point.asked[1:4]] == [17, 9, 19]
        assert point.asked[4][0] == 0
        assert bench.content() == point.content
        disk.let_go()
        assert await disk.read(0, 100) == point.content[:100]

    with benched(tmp_path, point) as bench:
        run(story(bench))


def test_filling_ends_with_the_error_of_a_full_disk(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(offset: int, data: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(bench.overlay, "write", full)

    async def story() -> None:
        with pytest.raises(OSError, match="full"):
            await Filling([bench.image()]).run()

    run(story())


def test_a_flush_makes_durable_and_a_failed_one_ends_all_writing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        disk = bench.image()
        await disk.write(0, b"x" * BLOCK_BYTES, True)
        assert not bench.overlay.is_dirty
        assert disk.write_now([(0, b"y" * BLOCK_BYTES), (MIB + 1, b"z"), (0, b"never")]) == 1
        failure = OSError(errno.EIO, "broken")

        def breaks() -> None:
            raise failure

        monkeypatch.setattr(bench.overlay, "begin_sync", lambda: breaks)
        with pytest.raises(OSError, match="broken"):
            await disk.flush()
        monkeypatch.undo()
        for refused in (disk.flush(), disk.write(0, b"x", False), disk.zero(0, 1, False, True)):
            with pytest.raises(OSError, match="broken"):
                await refused
        assert disk.write_now([(0, b"y" * BLOCK_BYTES)]) == 0
        assert ["cannot be made durable" in line for line in bench.told] == [True]

    run(story())


def test_after_a_failed_sync_nothing_is_read_that_linux_may_have_dropped(
    bench: Bench, point: Point, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worst case: what was written over durable bytes is dropped, and these, or a hole, come back."""

    async def story() -> None:
        disk = bench.image()
        await disk.write(0, b"o" * BLOCK_BYTES, True)
        await disk.write(0, b"n" * BLOCK_BYTES, False)
        await disk.write(BLOCK_BYTES, b"n" * BLOCK_BYTES, False)
        point.may_answer.clear()
        waits = asyncio.create_task(disk.read(0, 3 * BLOCK_BYTES))
        await until(lambda: point.asked, "what is not here is fetched")

        def breaks() -> None:
            bench.overlay.write(0, b"o" * BLOCK_BYTES)
            bench.overlay.zero(BLOCK_BYTES, BLOCK_BYTES, may_trim=True)
            raise OSError(errno.EIO, "broken")

        monkeypatch.setattr(bench.overlay, "begin_sync", lambda: breaks)
        with pytest.raises(OSError, match="broken"):
            await disk.flush()
        point.may_answer.set()
        for refused in (waits, disk.read(0, 1), disk.read(MIB, 1), disk.extents(0, SIZE, 9)):
            with pytest.raises(OSError, match="broken"):
                await refused
        into = memoryview(bytearray(BLOCK_BYTES))
        assert disk.read_now([(0, into)]) == 0
        with pytest.raises(OSError, match="broken"):
            await Filling([disk]).run()
        assert any("as after a power loss" in line for line in bench.told)

    run(story())


def test_what_finds_no_room_is_read_all_the_same_and_what_was_written_counts(
    bench: Bench, point: Point, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        disk = bench.image()
        await disk.write(BLOCK_BYTES, b"w" * BLOCK_BYTES, False)

        def full(offset: int, data: object) -> None:
            raise OSError(errno.ENOSPC, "no room")

        monkeypatch.setattr(bench.overlay, "write", full)
        expected = bytearray(point.content)
        expected[BLOCK_BYTES : 2 * BLOCK_BYTES] = b"w" * BLOCK_BYTES
        for offset, length in (
            (5, 3 * BLOCK_BYTES),
            (0, SIZE),
            (SIZE - 3, 3),
            (BLOCK_BYTES, 2 * BLOCK_BYTES),
        ):
            assert await disk.read(offset, length) == expected[offset : offset + length]
        assert [line for line in bench.told if "not kept" in line] == bench.told
        assert len(bench.told) == 1
        with pytest.raises(OSError, match="no room"):
            await disk.write(9 * BLOCK_BYTES + 1, b"x", False)
        monkeypatch.undo()
        assert await disk.read(9 * BLOCK_BYTES, 2) == point.content[9 * BLOCK_BYTES :][:2]

    run(story())


def test_filling_goes_no_faster_than_it_may_and_zeros_cost_nothing(
    bench: Bench, point: Point, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No time is waited for: what is looked at is until when it would not go on."""

    async def story() -> None:
        filler = Filling([bench.image()], bytes_per_second=MIB)
        began = asyncio.get_running_loop().time()
        assert await filler.run()
        assert filler._ready_seconds >= began + (SIZE - MIB - 512) / MIB  # of 3 MiB one is zeros

    monkeypatch.setattr(filling, "STEP_BYTES", 4 * MIB)
    run(story())


def test_with_a_rate_steps_come_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = Point(3 * STEP_BYTES)
    seconds: list[float] = []

    async def story(bench: Bench) -> None:
        filler = Filling([bench.image()], bytes_per_second=1 << 40)
        give_way = filler._give_way

        async def noting() -> None:
            seconds.append(filler._ready_seconds)
            await give_way()

        monkeypatch.setattr(filler, "_give_way", noting)
        assert await filler.run()

    with benched(tmp_path, point) as bench:
        run(story(bench))
    assert seconds == sorted(set(seconds))
    assert len(seconds) == 3


def test_who_reads_while_the_container_is_let_go_of_reads_on(bench: Bench, point: Point) -> None:
    async def story() -> None:
        disk = bench.image()
        await disk.write(BLOCK_BYTES, b"w" * BLOCK_BYTES, False)
        point.may_answer.clear()
        reads = asyncio.create_task(disk.read(0, 3 * BLOCK_BYTES))  # two runs, one behind the other
        await until(lambda: len(point.asked) == 1, "the first one is fetched")
        await disk.write(0, bytes(SIZE), False)  # so all is here
        disk.let_go()
        point.may_answer.set()
        assert await reads == bytes(3 * BLOCK_BYTES)
        assert len(point.asked) == 1

    run(story())
