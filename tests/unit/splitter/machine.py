"""A machine whose disks can lose what was not synced, tear writes, and fail calls.

Files are real files in a directory, so that everything reads them as it always does. What is
written and not synced yet is remembered with what was there before; `lose_power` brings some of
that back, in pieces of a sector, as a page cache that was written out by chance. What was done to
names in a directory and not synced is undone from some moment on, as a file system's log does it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from random import Random
from typing import Any

from cdp_agent.splitter.backing import Backing
from cdp_agent.splitter.capture import Capture
from cdp_agent.splitter.ending import stop
from cdp_agent.splitter.opening import SHARED, open_capture
from cdp_agent.splitter.settings import OnJournalFull, SplitterSettings, VolumeSettings
from cdp_agent.splitter.volume import Volume
from cdp_container.journal.reader import JournalReader
from cdp_container.journal.record import Kind
from cdp_container.journal.shared import SharedPages, StreamerPage
from nbd_export.files import Buffer, OsFiles

DOMAIN = bytes(range(16))
SECTOR_BYTES = 512
FILE_BYTES = 64 << 10


class Lossy(OsFiles):
    """Files of which the unsynced sectors may vanish. `fail` is asked before every call: (name, path)."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, Path]] = []
        self.descriptors: set[int] = set()
        self.fail: Callable[[str, Path], OSError | None] = lambda name, path: None
        self._before: dict[int, dict[int, bytes]] = {}  # inode -> sector -> its durable content
        self._paths: dict[int, Path] = {}  # inode -> a path to it
        self._undo: list[Callable[[], object]] = []  # what was done to names since they were synced

    def _call(self, name: str, fd: int) -> int:
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        inode = os.fstat(fd).st_ino
        self._paths[inode] = path
        self.calls.append((name, path))
        error = self.fail(name, path)
        if error is not None:
            raise error
        return inode

    def _remember(self, inode: int, fd: int, offset: int, length: int) -> None:
        sectors = self._before.setdefault(inode, {})
        for sector in range(offset // SECTOR_BYTES, -(-(offset + length) // SECTOR_BYTES)):
            if sector not in sectors:
                sectors[sector] = os.pread(fd, SECTOR_BYTES, sector * SECTOR_BYTES)

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int) -> None:
        inode = self._call("pwritev", fd)
        self._remember(inode, fd, offset, sum(map(len, buffers)))
        super().pwritev(fd, buffers, offset)

    def zero(self, fd: int, offset: int, length: int, may_trim: bool) -> None:
        inode = self._call("zero", fd)
        self._remember(inode, fd, offset, length)
        super().zero(fd, offset, length, may_trim)

    def fdatasync(self, fd: int) -> None:
        inode = self._call("fdatasync", fd)
        self._before.pop(inode, None)

    def open(self, path: Path, create: bool = False) -> int:
        if create and not path.exists():
            self._undo.append(lambda: path.unlink(missing_ok=True))
        fd = super().open(path, create)
        self.descriptors.add(fd)
        return fd

    def close(self, fd: int) -> None:
        self.descriptors.discard(fd)
        super().close(fd)

    def rename(self, path: Path, to: Path) -> None:
        self.calls.append(("rename", to))
        super().rename(path, to)
        self._undo.append(lambda: to.rename(path))

    def unlink(self, path: Path) -> None:
        self.calls.append(("unlink", path))
        kept = path.parent.parent / f"unlinked-{len(self.calls)}"
        path.rename(kept)
        self._undo.append(lambda: kept.rename(path))

    def sync_directory(self, path: Path) -> None:
        self.calls.append(("sync_directory", path))
        self._undo.clear()

    def allocate(self, fd: int, length: int) -> None:
        self._call("allocate", fd)
        super().allocate(fd, length)

    def lose_power(self, rng: Random, chance: float, suffixes: Sequence[str] = (".raw", ".jnl")) -> None:
        """Every unsynced sector of files with these suffixes is lost with this chance."""
        paths = {os.stat(path).st_ino: path for path in self._known_paths()}
        for inode, sectors in self._before.items():
            if inode not in paths or paths[inode].suffix not in suffixes:
                continue
            with paths[inode].open("r+b") as file:
                for sector, content in sectors.items():
                    if rng.random() < chance:
                        file.seek(sector * SECTOR_BYTES)
                        file.write(content)
        self._before.clear()
        kept = rng.randrange(len(self._undo) + 1) if rng.random() < chance else len(self._undo)
        for undo in reversed(self._undo[kept:]):
            undo()
        self._undo.clear()

    def _known_paths(self) -> list[Path]:
        directories = {path.parent for path in self._paths.values()}
        return [path for directory in directories for path in directory.iterdir() if path.is_file()]


class StepClock:
    """Goes forward a millisecond with every look."""

    def __init__(self) -> None:
        self.now_ns = os.stat(__file__).st_mtime_ns + 10**18  # later than any file that a test makes

    def wall_ns(self) -> int:
        self.now_ns += 10**6
        return self.now_ns

    def boottime_ns(self) -> int:
        return self.wall_ns()

    def sleep(self, seconds: float) -> None:
        self.now_ns += int(seconds * 1e9)


class Machine:
    """One host with volumes and a journal; `start` opens the splitter within the running loop.

    `marks_all`: guests seem to have written everywhere, so that no write waits for the write-intent map.
    """

    def __init__(self, directory: Path, volume_bytes: int = 256 << 10, volumes: int = 1) -> None:
        self.directory = directory
        self.files = Lossy()
        self.clock = StepClock()
        self.boot = b"boot" * 4
        self.generations = 0
        self.marks_all = True
        self.settings = SplitterSettings(
            journal_dir=directory,
            domain=DOMAIN,
            volumes=tuple(
                VolumeSettings(
                    f"v{index}", directory / f"v{index}.raw", volume_bytes, index, bytes([index] * 16)
                )
                for index in range(volumes)
            ),
            limit_bytes=256 * FILE_BYTES,
            socket=directory / "nbd.sock",
            on_journal_full=OnJournalFull.DEGRADE,
            file_bytes=FILE_BYTES,
        )
        for volume in self.settings.volumes:
            volume.backing.write_bytes(bytes(volume_bytes))
        self.pages = SharedPages(directory / SHARED)

    def start(self) -> Splitter:
        capture, backings = open_capture(
            self.settings, self.files, self.clock, self._entropy, self.boot, self.pages, lambda progress: None
        )
        if self.marks_all and capture.intent.is_held:
            for volume in self.settings.volumes:
                capture.intent.want(volume.index, 0, volume.size_bytes)
            capture.intent.begin_write()()
            capture.intent.end_write(is_durable=True)
        return Splitter(self, capture, backings)

    def reboot(self) -> None:
        """Another boot id from here on."""
        self.boot = bytes(byte ^ 1 for byte in self.boot)

    def disk(self, index: int = 0) -> bytes:
        return self.settings.volumes[index].backing.read_bytes()

    def restore_shared(self, content: bytes) -> None:
        """What is mapped reaches the disk when the kernel likes: an old content may be there."""
        self.pages.close()
        (self.directory / SHARED).write_bytes(content)
        self.pages = SharedPages(self.directory / SHARED)

    def replay(self, index: int = 0) -> bytes:
        """What the journal, from its start to its valid end, says that a disk holds."""
        image = bytearray(self.settings.volumes[index].size_bytes)
        with JournalReader(self.directory / "journal", DOMAIN) as reader:
            for record in reader.records(reader.start, reader.find_end(reader.start).position):
                if record.source == index:
                    data = reader.read_payload(record) if record.kind is Kind.WRITE else bytes(record.span)
                    image[record.offset : record.offset + record.span] = data
        return bytes(image)

    def overwrite(self, offset: int, data: bytes, index: int = 0) -> None:
        """Change a disk behind the splitter's back."""
        with self.settings.volumes[index].backing.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def _entropy(self, count: int) -> bytes:
        self.generations += 1
        return self.generations.to_bytes(count, "little")


class Splitter:
    """A started splitter, without its process and its socket."""

    def __init__(self, machine: Machine, capture: Capture, backings: list[Backing]) -> None:
        self.machine = machine
        self.capture = capture
        self.backings = backings
        self.volumes = [Volume(backing, capture) for backing in backings]

    @property
    def volume(self) -> Volume:
        return self.volumes[0]

    async def stop(self) -> bool:
        clean = await stop(self.capture)
        self.release()
        return clean

    def release(self) -> None:
        """Let go of the locks, as the kernel does for a process that was killed.

        Its threads end with it: none of them may touch a disk after `lose_power`, or in the next life.
        """
        self.capture.end_threads()
        for fd in self.machine.files.descriptors | {backing.fd for backing in self.backings}:
            os.close(fd)
        self.machine.files.descriptors.clear()


def run(machine: Machine, scenario: Callable[[Splitter], Coroutine[Any, Any, None]]) -> None:
    """Play a scenario on a splitter that is started before it and stopped after it."""

    async def started() -> None:
        splitter = machine.start()
        try:
            await scenario(splitter)
        finally:
            await splitter.stop()

    asyncio.run(started())


async def overflow(splitter: Splitter) -> None:
    """Guests write until the journal is full; then all that it held is synced."""
    for number in range(60):
        await splitter.volume.write(0, bytes([number + 1]) * 8192, False)
        if splitter.capture.page.overflowed:
            return
    raise AssertionError("the journal took everything")


def give_up(splitter: Splitter, compared: int = 0) -> None:
    """The streamer needs nothing of the journal any more."""
    overflow_at = splitter.capture.page.overflow_at
    splitter.machine.pages.streamer.publish(StreamerPage(overflow_at, compared))
