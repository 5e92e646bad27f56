"""Short stories of a guest and a splitter, and every call to the kernel that they cause.

The splitter is the real one. A story is a list of letters, one for each thing that happens (`LETTERS`), after
a prelude that brought the journal into some state (`PRELUDES`). What may be lost at each of its moments does
not belong here (`power`, `judging`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cdp_agent.splitter.backing import Backing
from cdp_agent.splitter.capture import Capture
from cdp_agent.splitter.ending import stop
from cdp_agent.splitter.intent import ROUND_NS, ROUNDS_KEPT
from cdp_agent.splitter.opening import FILE_BYTES_MIN, SHARED, open_capture
from cdp_agent.splitter.settings import SplitterSettings, VolumeSettings
from cdp_agent.splitter.volume import Volume
from cdp_container.journal.shared import SharedPages, StreamerPage
from tests.unit.splitter.enumeration.owed import VOLUME_BYTES, Answered, Asked, Started
from tests.unit.splitter.enumeration.power import SECTOR_BYTES, Disks, NamesSynced, Rebooted, Synced
from tests.unit.splitter.enumeration.recording import (
    Event,
    InTurn,
    Recorder,
    lay_out,
    let_others_run,
    shared_is_noted,
)
from tests.unit.splitter.machine import DOMAIN, StepClock

REGION_BYTES = 4096  # of the write-intent map: the larger volume has two


def boot_of(number: int) -> bytes:
    """The boot id of one boot."""
    return b"boot" + number.to_bytes(12, "little")


def _unique(label: bytes) -> bytes:
    """A sector that has nothing in common with others, wherever it is torn."""
    return (label * (SECTOR_BYTES // len(label) + 1))[:SECTOR_BYTES]


def settings_of(root: Path, limit_files: int) -> SplitterSettings:
    """Two small volumes, and the smallest journal files."""
    volumes = tuple(
        VolumeSettings(f"v{index}", root / f"v{index}.raw", size, index, bytes([index]) * 16)
        for index, size in enumerate(VOLUME_BYTES)
    )
    return SplitterSettings(
        root, DOMAIN, volumes, limit_files * FILE_BYTES_MIN, root / "nbd.sock",
        file_bytes=FILE_BYTES_MIN, region_bytes=REGION_BYTES,
    )  # fmt: skip


@dataclass
class Story:
    """One host, its guest, and what they did so far."""

    root: Path
    limit_files: int
    clock: StepClock = field(default_factory=StepClock)
    boot: int = 0
    generations: int = 0
    asked: int = 0

    def __post_init__(self) -> None:
        self.settings = settings_of(self.root, self.limit_files)
        self.files = Recorder(self.root)
        (self.root / "journal").mkdir()
        for volume in self.settings.volumes:
            volume.backing.write_bytes(bytes(volume.size_bytes))
            self.files.know(volume.backing.name)
        self.pages = SharedPages(self.root / SHARED)
        self.files.know(SHARED)
        self.first = Rebooted(
            {name: (self.root / name).read_bytes() for name in self.files.ids}, dict(self.files.ids)
        )
        self.files.events.append(self.first)
        self.capture: Capture | None = None
        self._backings: list[Backing] = []
        self.volumes: list[Volume] = []

    @property
    def events(self) -> list[Event]:
        return self.files.events

    def start(self) -> None:
        self.capture, self._backings = open_capture(
            self.settings,
            self.files,
            self.clock,
            self._entropy,
            boot_of(self.boot),
            self.pages,
            lambda progress: None,
        )
        self.capture.appending.threads.end()
        self.capture.appending.threads = InTurn()
        self.volumes = [Volume(backing, self.capture) for backing in self._backings]
        self.events.append(Started())

    def _entropy(self, count: int) -> bytes:
        self.generations += 1
        return self.generations.to_bytes(count, "little")

    @property
    def serving(self) -> Capture:
        assert self.capture is not None, "started"
        return self.capture

    @property
    def threads(self) -> InTurn:
        threads = self.serving.appending.threads
        assert isinstance(threads, InTurn), "in turn"
        return threads

    def leave(self) -> None:
        """The process is gone."""
        if self.capture is not None:
            self.capture.end_threads()
            self.capture = None
        self.files.forget_descriptors()

    async def stop(self) -> None:
        await stop(self.serving)
        self.leave()

    # --- what the guest does -------------------------------------------------------------------

    async def write(self, volume: int, sector: int, length: int, fua: bool = False) -> None:
        """Write `length` bytes that were never written before."""
        contents = tuple(
            _unique(b"%d in %d at %d;" % (self.asked, volume, sector + at))[: length - at * SECTOR_BYTES]
            for at in range(-(-length // SECTOR_BYTES))
        )
        await self._change(
            Asked(self.asked, volume, sector, contents),
            lambda: self.volumes[volume].write(sector * SECTOR_BYTES, b"".join(contents), fua),
            promise=fua,
        )

    async def clear(self, volume: int, sector: int, count: int, trim: bool) -> None:
        """Make sectors read as zeros."""
        place = sector * SECTOR_BYTES, count * SECTOR_BYTES
        exported = self.volumes[volume]
        await self._change(
            Asked(self.asked, volume, sector, (bytes(SECTOR_BYTES),) * count),
            lambda: exported.trim(*place, False) if trim else exported.zero(*place, False, True),
        )

    async def flush(self) -> None:
        await self._change(Asked(self.asked), self.volumes[0].flush, promise=True)

    async def _change(
        self, asked: Asked, do: Callable[[], Coroutine[Any, Any, None]], promise: bool = False
    ) -> None:
        self.asked += 1
        self.events.append(asked)
        with suppress(OSError):  # it was not promised then
            await do()
            self.events.append(Answered(asked.number, promise))

    # --- what happens to it --------------------------------------------------------------------

    async def flush_disks_first(self) -> None:
        self.threads.disks_first = True
        await self.flush()
        self.threads.disks_first = False

    async def flush_under_a_write(self) -> None:
        """A flush that is answered while the disk has not got a write that is under way."""
        self.threads.hold = asyncio.Event()
        write = asyncio.create_task(self.clear(0, 0, 1, trim=False))
        await let_others_run()
        await self.flush()
        self.threads.hold.set()
        await write
        self.threads.hold = None

    async def flush_failing(self, suffix: str) -> None:
        self.files.failing = suffix
        await self.flush()
        self.files.failing = ""

    async def mend(self) -> None:
        await self.serving.mend()

    async def idle(self) -> None:
        """Nothing is asked for, and what is done from time to time is done so often that marks lapse."""
        for _ in range(ROUNDS_KEPT + 2):
            self.clock.sleep(ROUND_NS / 1e9)
            with suppress(OSError):
                await self.serving.sync()
            await self.serving.keep_intents()

    async def prove(self) -> None:
        """The container has everything that was published."""
        page = self.serving.page
        self.publish_streamer(StreamerPage(page.tail, page.episode))
        self.serving.trim()

    def publish_streamer(self, page: StreamerPage) -> None:
        self.pages.streamer.publish(page)

    async def go_on(self) -> None:
        """The container has all of a journal that was given up; it goes on, if it was."""
        page = self.serving.page
        if page.overflowed:
            self.publish_streamer(StreamerPage(page.overflow_at, page.episode))
        await self.serving.go_on()

    async def settle(self) -> None:
        """The kernel writes out by itself what waits for that, after a while."""
        self.events.extend(Synced(file) for file in self.files.ids.values())
        self.events.append(NamesSynced())

    async def restart(self) -> None:
        await self.stop()
        self.start()

    async def kill(self) -> None:
        self.leave()
        self.start()

    async def lose_power(self, keeps: Callable[[str], bool]) -> None:
        """Of what was not synced only files that `keeps` names keep anything, and they keep all."""
        self.leave()
        disks = Disks()
        for event in self.events:
            if not isinstance(event, Asked | Answered | Started):
                disks.apply(event)
        names, sized = disks.names_left()[-1 if keeps("") else 0]
        *_, most = disks.contents_left(names, sized, keeps)
        least = next(disks.contents_left(names, sized, lambda path: not keeps(path)))
        files = least | most
        self.pages.close()
        lay_out(self.root, files)
        self.pages = SharedPages(self.root / SHARED)
        self.files.ids = dict(names)
        self.boot += 1
        self.events.append(Rebooted(files, dict(names)))
        self.start()

    def end(self) -> None:
        self.leave()
        self.pages.close()


Step = Callable[[Story], Coroutine[Any, Any, None]]

LETTERS: dict[str, Step] = {
    "write": lambda story: story.write(0, 0, SECTOR_BYTES),
    "overlap": lambda story: story.write(0, 0, 2 * SECTOR_BYTES),
    "other": lambda story: story.write(1, 0, SECTOR_BYTES),
    "zero": lambda story: story.clear(0, 1, 1, trim=False),
    "trim": lambda story: story.clear(0, 0, 2, trim=True),
    "fua": lambda story: story.write(0, 1, SECTOR_BYTES, fua=True),
    "flush": lambda story: story.flush(),
    "kill": lambda story: story.kill(),
    "restart": lambda story: story.restart(),
    "odd": lambda story: story.write(0, 2, 408),
    "far": lambda story: story.write(0, 8, SECTOR_BYTES),
    "flush, disks first": lambda story: story.flush_disks_first(),
    "flush under a write": lambda story: story.flush_under_a_write(),
    "flush, disk fails": lambda story: story.flush_failing(".raw"),
    "flush, journal fails": lambda story: story.flush_failing(".jnl"),
    "mend": lambda story: story.mend(),
    "idle": lambda story: story.idle(),
    "prove": lambda story: story.prove(),
    "go on": lambda story: story.go_on(),
    "settle": lambda story: story.settle(),
    "power, nothing kept": lambda story: story.lose_power(lambda path: False),
    "power, journal kept": lambda story: story.lose_power(lambda path: not path.endswith(".raw")),
    "power, disks kept": lambda story: story.lose_power(lambda path: path.endswith(".raw")),
}


@dataclass(frozen=True, slots=True)
class Prelude:
    """What happened before a story: a journal in some state. `limit_files`: what it may take."""

    name: str
    letters: tuple[str, ...]
    limit_files: int = 16


PRELUDES = (
    # The first start ever.
    Prelude("new", ()),
    # Record headers lie across two sectors.
    Prelude("amid", ("odd", "flush")),
    # The generation begins in a file that holds records of an older one, at the very same offsets.
    Prelude(
        "recycled",
        (
            *("restart", "write", "overlap", "write", "flush", "prove"),
            *("restart", "other", "flush", "prove", "restart", "settle"),
        ),
    ),
    # The next writes go on in a file that holds earlier records of the same generation.
    Prelude("turning", (*("write", "write", "flush") * 4, "prove", *("other", "flush") * 5, "settle")),
    # One more write, and the journal is at its limit; it goes on in files that the container does not need.
    Prelude("full", (*("write", "write", "flush") * 10, "settle"), limit_files=3),
    # The same, but no start has room for a generation.
    Prelude("tight", (*("write", "write", "flush") * 6, "write", "settle"), limit_files=2),
)


def record(root: Path, prelude: Prelude, letters: Sequence[str]) -> tuple[list[Event], int]:
    """Play a story in an empty directory; returns its events, and the first that its last letter caused."""

    async def play() -> tuple[list[Event], int]:
        story = Story(root, prelude.limit_files)
        first = 0
        with shared_is_noted(story.files):
            try:
                story.start()
                for letter in (*prelude.letters, *letters):
                    first = len(story.events) if letters else 0
                    await LETTERS[letter](story)
            finally:
                story.end()
        return story.events, first

    return asyncio.run(play())
