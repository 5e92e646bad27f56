"""Where guests may have written what a power loss can take: the write-intent map, in regions of 64 MiB.

After a power loss the disk may hold writes of which the journal lost the records, and the container records
of which the disk lost the writes. All of them lie in regions that are marked here: a mark is durable before
a record follows, and is taken back only after the journal and the backing stores were synced with no later
write in the region. So only these regions are compared, and not whole volumes.

The marks of a start carry its generation: those of another start say nothing. While the journal is given up
they are kept in memory alone, as everything is in doubt then anyhow. What does not belong here: dirty maps
(`dirty_blocks`), what is done with the regions (`opening`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from cdp_agent.splitter.map_file import MapFile, create_map, open_map
from cdp_agent.splitter.settings import VolumeSettings
from cdp_container.errors import JournalDamaged
from cdp_container.journal.block_map import (
    MapHeader,
    dirty_ranges,
    intent_map_name,
    set_bits,
)
from nbd_export.files import Files
from nbd_export.shared_sync import SharedSync

CLEAR: Final = 0
ROUNDS_KEPT: Final = 12
"""Rounds of syncs that a mark outlasts its last write: each mark costs a sync that guests wait for."""
ROUND_NS: Final = 5_000_000_000
GROUP_AFTER: Final = 256
"""With more marks than this a volume is written all over: then GROUP_REGIONS are marked at once."""
GROUP_REGIONS: Final = 16
MARKS_WANTED_MAX: Final = 1 << 16
"""Writes that wait for marks; as many as there may be requests in flight."""

_OLDER: Final = bytes([CLEAR, 1, *range(1, 255)])
"""What becomes of a mark in a round: 1 stays, until a sync that began after it has ended."""
_WITHOUT_OLDEST: Final = bytes([CLEAR, CLEAR, *range(2, 256)])


class IntentMissing(Exception):
    """A write must wait until its regions are marked. Never leaves the splitter."""

    def __init__(self, source: int, offset: int, length: int) -> None:
        super().__init__(f"{source}: {offset}+{length}")
        self.range = source, offset, length


class WriteIntent:
    """The maps of all volumes. Not for several threads at once, but for what `begin_write` gives.

    Args:
        files: the edge to the kernel.
        directory: the journal directory.
        domain: the domain's id, 16 bytes.
        region_bytes: of a region, a power of two.
        volumes: all of them.
    """

    def __init__(
        self,
        files: Files,
        directory: Path,
        domain: bytes,
        region_bytes: int,
        volumes: Sequence[VolumeSettings],
    ) -> None:
        self.generation = 0
        self.is_held = False
        self._files = files
        self._directory = directory
        self._domain = domain
        self._region_bytes = region_bytes
        self._shift = region_bytes.bit_length() - 1
        self._spaces: dict[int, VolumeSettings] = {}
        self._ages: dict[int, bytearray] = {}  # a byte for each region: CLEAR, or the rounds it outlasts yet
        self._wanted: set[tuple[int, int, int]] = set()  # source, first region, the one behind the last
        self._writing: tuple[set[tuple[int, int, int]], set[int]] = (set(), set())
        self._stale: set[int] = set()  # sources whose files say too much, or nothing
        self._maps: dict[int, MapFile] = {}
        self._round_ns = 0
        self.change(volumes)

    def change(self, volumes: Sequence[VolumeSettings]) -> None:
        """These are the volumes from here on. Those that are new, or grew, have no mark there."""
        before = self._spaces
        self._spaces = {volume.index: volume for volume in volumes}
        for index, volume in self._spaces.items():
            ages = self._ages.setdefault(index, bytearray())
            ages.extend(bytes(-(-volume.size_bytes // self._region_bytes) - len(ages)))
            if before.get(index) != volume:
                self._stale.add(index)
        for index in before.keys() - self._spaces.keys():
            del self._ages[index]
            self._stale.discard(index)
        self._wanted = {wanted for wanted in self._wanted if wanted[0] in self._spaces}

    # --- writes --------------------------------------------------------------------------------

    def touch(self, source: int, offset: int, length: int) -> bool:
        """Whether a write there may go into the journal now; else `want` it and let it wait."""
        ages = self._ages[source]
        first, last = offset >> self._shift, (offset + length - 1) >> self._shift
        if first == last:
            if not ages[first] and self.is_held:
                return False
            ages[first] = ROUNDS_KEPT
            return True
        if self.is_held and CLEAR in ages[first : last + 1]:
            return False
        ages[first : last + 1] = bytes([ROUNDS_KEPT]) * (last + 1 - first)
        return True

    def touched(
        self, source: int, writes: Sequence[tuple[int, bytes | memoryview]]
    ) -> Sequence[tuple[int, bytes | memoryview]]:
        """The first part of these writes that may go into the journal now."""
        touch = self.touch
        for number, (offset, data) in enumerate(writes):
            if not touch(source, offset, len(data)):
                return writes[:number]
        return writes

    def want(self, source: int, offset: int, length: int) -> None:
        """Mark the regions of this write with the next `begin_write`."""
        if source not in self._ages or len(self._wanted) >= MARKS_WANTED_MAX:
            return  # it asks again
        ages = self._ages[source]
        first, end = offset >> self._shift, ((offset + length - 1) >> self._shift) + 1
        if len(ages) - ages.count(CLEAR) >= GROUP_AFTER:
            first, end = first - first % GROUP_REGIONS, end + -end % GROUP_REGIONS
        self._wanted.add((source, first, min(end, len(ages))))

    def begin_write(self) -> Callable[[], None]:
        """Work for a thread that makes all wanted marks durable; never again before `end_write`."""
        self._writing = wanted, stale = self._wanted, self._stale
        self._wanted, self._stale = set(), set()
        made = [
            (self._header(source), source, self._bits(source, wanted))
            for source in sorted(stale | {source for source, _, _ in wanted})
        ]

        def work() -> None:
            for header, source, bits in made:
                self._write(source, header, bits)

        return work

    def end_write(self, is_durable: bool) -> None:
        """What `begin_write` gave has ended. If its marks are not durable they must be wanted again."""
        wanted, stale = self._writing
        if not is_durable:
            self._stale |= stale & self._spaces.keys()
            return
        for source, first, end in wanted:
            if source in self._ages:
                self._ages[source][first:end] = bytes([ROUNDS_KEPT]) * (end - first)

    def _header(self, source: int) -> MapHeader:
        volume = self._spaces[source]
        return MapHeader(self._domain, volume.space, self.generation, volume.size_bytes, self._region_bytes)

    def _bits(self, source: int, wanted: Iterable[tuple[int, int, int]]) -> bytearray:
        marked = np.frombuffer(bytes(self._ages[source]), dtype=np.uint8) != CLEAR
        bits = bytearray(np.packbits(marked, bitorder="little").tobytes())
        for number, first, end in wanted:
            if number == source:
                set_bits(bits, first, end)
        return bits

    def _write(self, source: int, header: MapHeader, bits: bytearray) -> None:
        """All bits, each time: where a sync fails nobody knows which of the last ones the disk has."""
        found = self._maps.get(source) or self._left_map(source)
        if found is not None and found.header == header:
            found.put(0, bits)
            found.sync()
        elif found is not None and replace(found.header, episode=self.generation) == header:
            # Of an earlier generation, which counts for nothing any more, or as everything is in doubt.
            found.begin_again(header, bits)
        else:
            path = self._directory / intent_map_name(source)
            path.parent.mkdir(exist_ok=True)
            self._files.sync_directory(path.parent.parent)
            made = create_map(self._files, path, header, bits)  # never a moment without its marks
            if found is not None:
                found.close()
            found = made
        self._maps[source] = found

    def _left_map(self, source: int) -> MapFile | None:
        """What an earlier start left: it can be written again where the disk is full."""
        try:
            return open_map(self._files, self._directory / intent_map_name(source))
        except (OSError, JournalDamaged):
            return None

    # --- taking marks back ---------------------------------------------------------------------

    def begin_sync(self, now_ns: int) -> None:
        """A sync of journal and backing stores begins. `now_ns`: the clock of this boot."""
        if self.is_held and now_ns - self._round_ns >= ROUND_NS:
            self._round_ns = now_ns
            for source, ages in self._ages.items():
                self._ages[source] = ages.translate(_OLDER)

    def synced(self) -> None:
        """It ended well: regions that nobody wrote in its rounds are not marked any more."""
        for source, ages in self._ages.items():
            if self.is_held and 1 in ages:
                self._ages[source] = ages.translate(_WITHOUT_OLDEST)
                self._stale.add(source)

    @property
    def is_stale(self) -> bool:
        """Whether a file says more than is so, or nothing of a volume."""
        return bool(self._stale)

    # --- generations ---------------------------------------------------------------------------

    def lapse(self) -> None:
        """The journal is given up, durably: marks are kept in memory alone."""
        self.is_held = False

    def renew(self, generation: int) -> None:
        """Everything is to be written again, as that of this generation; held as soon as it is durable."""
        self.generation = generation
        self._stale = set(self._spaces)

    def close(self) -> None:
        """Close the files."""
        while self._maps:
            self._maps.popitem()[1].close()


class Intents:
    """A WriteIntent whose marks are made durable by a thread, one time for all who wait."""

    def __init__(
        self, intent: WriteIntent, in_thread: Callable[[Callable[[], None]], Awaitable[None]]
    ) -> None:
        self.intent = intent
        self._in_thread = in_thread
        self._writes = SharedSync(self._write)

    async def mark(self, missing: IntentMissing) -> None:
        """Return when a write may be tried again. Raises OSError: the disk of the journal failed."""
        self.intent.want(*missing.range)
        await self._writes.wait_for_next()

    async def renew(self, generation: int) -> None:
        """Hold the marks again, as those of a new generation. Raises OSError: they are not held."""
        self.intent.renew(generation)
        await self._writes.wait_for_next()
        self.intent.is_held = True

    async def tidy(self, is_synced: bool, now_ns: int) -> None:
        """Take back from the disk what is not marked any more. Raises OSError.

        `is_synced`: there is nothing to sync right now; `now_ns`: the clock of this boot.
        """
        if is_synced:
            self.intent.begin_sync(now_ns)
            self.intent.synced()
        if self.intent.is_held and self.intent.is_stale:
            await self._writes.wait_for_next()

    async def end(self) -> None:
        """Let what runs end."""
        await self._writes.wait_until_idle()
        self.intent.close()

    async def _write(self) -> None:
        work, is_durable = self.intent.begin_write(), False
        try:
            await self._in_thread(work)
            is_durable = True
        finally:
            self.intent.end_write(is_durable)


def read_intent(
    files: Files, directory: Path, domain: bytes, generation: int, volumes: Iterable[VolumeSettings]
) -> Mapping[int, Sequence[tuple[int, int]]] | None:
    """The marked ranges (offset, length) of every volume; None where one of them is not known.

    Args:
        files: the edge to the kernel.
        directory: the journal directory.
        domain: the domain's id, 16 bytes.
        generation: the last one in which guests may have written.
        volumes: all of them; one may have grown since.
    """
    found: dict[int, Sequence[tuple[int, int]]] = {}
    for volume in volumes:
        try:
            read = open_map(files, directory / intent_map_name(volume.index))
        except (OSError, JournalDamaged):
            return None  # then everything is compared, which mends whatever it was
        read.close()
        header = read.header
        if (header.domain, header.space, header.episode) != (domain, volume.space, generation):
            return None
        if header.size_bytes > volume.size_bytes:
            return None
        # The volume may have grown since, and been written within the last region.
        end = min(volume.size_bytes, header.blocks * header.block_bytes)
        found[volume.index] = list(dirty_ranges(replace(header, size_bytes=end), read.bits))
    return found
