"""Which blocks guests write while the journal holds nothing: in memory, at last in a map for the streamer.

The maps are worth something only if every write since the journal was given up is in them. So they are made
durable when the journal goes on, by the process that saw all of it; one that was restarted meanwhile has
none, and everything is compared. When the journal is given up and goes on does not belong here (`overflow`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from cdp_agent.splitter.map_file import MapFile, create_map, open_map
from cdp_agent.splitter.settings import VolumeSettings
from cdp_container.errors import JournalDamaged
from cdp_container.journal.block_map import (
    DIRTY_BLOCK_BYTES,
    MapHeader,
    dirty_map_name,
    set_bits,
    touched_blocks,
)
from nbd_export.files import Files

_log: Final = logging.getLogger(__name__)

CHANGES_MAX: Final = 1 << 16
"""Marks that are new while the maps are saved; if there are more, everything is compared."""


class DirtyBlocks:
    """The maps of all volumes of a domain. `is_complete`: every write since `begin` is in them.

    Not for several threads at once, but for `mark`, which may run beside `save`.
    """

    def __init__(
        self, files: Files, directory: Path, domain: bytes, volumes: Sequence[VolumeSettings]
    ) -> None:
        self._files = files
        self._directory = directory
        self._domain = domain
        self._headers: dict[int, MapHeader] = {}
        self._bits: dict[int, bytearray] = {}
        self._maps: dict[int, MapFile] = {}  # while they are saved
        self._changed: list[
            tuple[int, int, int]
        ] = []  # of them: number, first byte, the byte behind the last
        self.change(volumes)

    def change(self, volumes: Sequence[VolumeSettings]) -> None:
        """These are the volumes from here on; what was marked is forgotten."""
        self.is_complete = False
        self._headers = {
            volume.index: MapHeader(self._domain, volume.space, 0, volume.size_bytes, DIRTY_BLOCK_BYTES)
            for volume in volumes
        }

    def begin(self, episode: int | None) -> None:
        """The journal is given up: from now on everything is marked.

        Args:
            episode: the one whose maps are kept, as what they hold was not compared; 0 for none. Where it is
                None or they cannot be read, the maps stay incomplete.
        """
        self._close()
        self.is_complete = False
        if episode is None:
            return
        try:
            self._bits = {
                index: self._kept(index, episode) if episode else bytearray(header.map_bytes)
                for index, header in self._headers.items()
            }
        except (OSError, JournalDamaged) as error:
            _log.warning("everything will be compared: %s", error)
            return
        self.is_complete = True

    def _kept(self, number: int, episode: int) -> bytearray:
        found = open_map(self._files, self._path(number))
        found.close()
        if found.header != replace(self._headers[number], episode=episode):
            raise JournalDamaged(f"reading {found.path}", "it is of another volume or time")
        return found.bits

    def mark(self, source: int, offset: int, length: int) -> None:
        """A guest writes there; must come before its backing write."""
        if not self.is_complete:
            return
        changed = set_bits(self._bits[source], *touched_blocks(self._headers[source], offset, length))
        if changed is not None and self._maps:
            self._changed.append((source, *changed))
            if len(self._changed) >= CHANGES_MAX:
                self.is_complete = False  # never True here: a thread may give the maps up meanwhile

    def save(self, episode: int) -> None:
        """Make what is marked so far durable, as the maps of this episode; else they are incomplete."""
        if not self.is_complete:
            return
        try:
            self._close()
            path = self._path(0).parent
            path.mkdir(exist_ok=True)
            self._files.sync_directory(path.parent)
            for number, header in self._headers.items():
                made = create_map(self._files, self._path(number), replace(header, episode=episode))
                self._maps[number] = made  # first: what is marked from here on is noted
                made.bits[:] = self._bits[number]
                made.rewrite()
        except OSError as error:
            self._give_up(error)

    def finish(self) -> bool:
        """The same with what was marked since, in a time without writes; whether the maps are complete."""
        is_complete = self.is_complete
        try:
            if is_complete:
                for number, start, stop in self._changed:
                    self._maps[number].put(start, self._bits[number][start:stop])
                for made in self._maps.values():
                    made.sync()
        except OSError as error:
            self._give_up(error)
            is_complete = False
        self._close()
        self._bits, self.is_complete = {}, False
        return is_complete

    def _give_up(self, error: OSError) -> None:
        """The guests' writes count, and the maps only spare a comparison."""
        _log.warning("everything will be compared, as the maps of what is dirty cannot be written: %s", error)
        self.is_complete = False

    def _close(self) -> None:
        for made in self._maps.values():
            made.close()
        self._maps, self._changed = {}, []

    def _path(self, number: int) -> Path:
        return self._directory / dirty_map_name(number)
