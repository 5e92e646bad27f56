"""The streamer's machine: notes, the shared pages, the volumes to copy. See `engine_types.Local`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from cdp_agent.streamer.copy import ROUND_READ_BYTES_MAX, Doubt, Volume
from cdp_agent.streamer.settings import StreamerSettings
from cdp_container.domain.identity import IDENTITY_NAME, load_identity
from cdp_container.domain.notes import Notes, load_notes, save_notes
from cdp_container.errors import JournalDamaged, VolumesChanged
from cdp_container.journal.block_map import (
    DIRTY_BLOCK_BYTES,
    MAP_HEADER_BYTES,
    MapHeader,
    decode_map_header,
    dirty_map_name,
    dirty_ranges,
)
from cdp_container.journal.served import DiskId, disk_of, disks_served, volumes_served
from cdp_container.journal.shared import SharedPages, SplitterPage, StreamerPage

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


NO_DISK: Final[DiskId] = (0, 0)


class LocalDirectory:
    """The journal directory of an agent."""

    def __init__(self, settings: StreamerSettings, pages: SharedPages) -> None:
        self._directory: Path = settings.directory
        self._pages = pages
        # A second's worth: then it pauses.
        self._round_bytes = int(min(ROUND_READ_BYTES_MAX, settings.copy_bytes_per_second))
        self._domain = settings.identity.domain
        self._spaces = [source.space for source in settings.identity.sources]
        self._boot = self.boot()
        self._sources = settings.identity.active
        self._trees = settings.identity.trees
        self._vms = settings.identity.vms
        self._disks = settings.identity.disks
        self._agent_file: object = None
        self._served = volumes_served((i, s.space, s.size_bytes) for i, s in self._sources.items())

    def load_notes(self) -> Notes:
        """See `Local.load_notes`."""
        return load_notes(self._directory)

    def save_notes(self, notes: Notes) -> None:
        """See `Local.save_notes`."""
        save_notes(self._directory, notes)

    def splitter(self) -> SplitterPage | None:
        """See `Local.splitter`. Raises VolumesChanged where other sources are protected than we know."""
        page = self.shown()
        self._look_at_trees()
        if page is not None and page.running and page.boot == self._boot and page.sources != self._served:
            raise VolumesChanged("the streamer begins anew", "the splitter serves other volumes")
        return page

    def _look_at_trees(self) -> None:
        """No page tells of them, nor of VMs: agent.json does, and is never changed in place."""
        try:
            found = os.stat(self._directory / IDENTITY_NAME)
        except OSError:
            return  # as it was
        seen = found.st_ino, found.st_mtime_ns, found.st_ctime_ns
        if seen == self._agent_file:
            return
        identity = load_identity(self._directory)
        if identity.trees != self._trees:
            raise VolumesChanged("the streamer begins anew", "other file trees are protected")
        if identity.vms != self._vms:
            raise VolumesChanged("the streamer begins anew", "other VMs are described")
        if identity.disks != self._disks:
            raise VolumesChanged("the streamer begins anew", "other disks of VMs are captured")
        self._agent_file = seen

    def shown(self) -> SplitterPage | None:
        """What the splitter published, whatever it serves."""
        return self._pages.splitter.read()

    def boot(self) -> bytes:
        """See `Local.boot`."""
        return bytes.fromhex(BOOT_ID.read_text().strip().replace("-", ""))

    def streamer(self) -> StreamerPage:
        """See `Local.streamer`."""
        return self._pages.streamer.read() or StreamerPage()

    def publish(self, page: StreamerPage) -> None:
        """See `Local.publish`. Not durable: after a power loss less is trimmed, never more."""
        self._pages.streamer.publish(page)

    def doubt(self, source: int, episode: int | None) -> Doubt:
        """See `Local.doubt`. A map that cannot be read, or is of something else, says nothing."""
        volume = self._volume(source)
        if episode is None:
            return Doubt(volume, None, self._round_bytes)
        path = self._directory / dirty_map_name(source)
        expected = MapHeader(
            self._domain, self._spaces[source], episode, volume.size_bytes, DIRTY_BLOCK_BYTES
        )
        try:
            with path.open("rb") as file:
                header = decode_map_header(file.read(MAP_HEADER_BYTES), str(path))
                bits = file.read(header.map_bytes)
        except (OSError, JournalDamaged):
            return Doubt(volume, None, self._round_bytes)
        whole = header == expected and len(bits) == header.map_bytes
        return Doubt(volume, dirty_ranges(header, bits) if whole else None, self._round_bytes)

    def _volume(self, source: int) -> Volume:
        """Raises VolumesChanged where a disk's file is not the one that the splitter serves."""
        disks = {index: disk_at(one.path) for index, one in self._sources.items()}
        page = self.shown()
        if page is None or disks_served(disks.items()) != page.disks:
            why = "the file of a volume was replaced by another one, or is gone"
            raise VolumesChanged("the volumes cannot be copied", why)
        one = self._sources[source]
        return Volume(source, Path(one.path), one.size_bytes, disks[source])


def disk_at(path: str) -> DiskId:
    """NO_DISK where there is none: that is like nothing that the splitter serves."""
    try:
        return disk_of(os.stat(path))
    except OSError:
        return NO_DISK
