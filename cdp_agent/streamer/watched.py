"""The watcher of file trees, or the imager, asked over its socket: `trees.Watcher` for a running agent.

Which batch goes into which cut does not belong here (`trees`), nor what a batch's file looks like
(`cdp_agent.watcher.batch`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from cdp_agent.streamer.trees import Batch, Look
from cdp_agent.watcher.batch import BatchFacts, check_batch, read_chunks, read_records
from cdp_agent.watcher.client import Taken, WatcherClient
from cdp_agent.watcher.page import FOLDER, PageReader
from cdp_agent.watcher.wire import SOCKET_NAME
from cdp_container.errors import WatcherFailed
from cdp_container.format.index import Record
from cdp_container.format.layout import ID_BYTES
from cdp_container.format.names import SkewedFile
from cdp_container.format.place import Place
from cdp_container.format.segment import NewExtent
from cdp_container.journal.position import Position

BUFFER_BYTES: Final = 1 << 20
"""Records and small files' extents are read in pieces of this."""


class Watched:
    """See `trees.Watcher`. `holds`: whether there are guests whose writes may be held.

    `folder`, `socket_name`: of the watcher, or of another one that is asked for the same.
    """

    def __init__(
        self, directory: Path, holds: bool, folder: str = FOLDER, socket_name: str = SOCKET_NAME
    ) -> None:
        self._client = WatcherClient(directory, socket_name)
        self._page = PageReader(directory, folder)
        self._page_lock = threading.Lock()
        self._holds = holds

    def look(self) -> Look | None:
        """See `Watcher.look`."""
        with self._page_lock:
            page = self._page.read()
        if page is None:
            return None
        return Look(page.generation, page.epoch, page.ready, page.changes, page.dirty, page.runs)

    def begin(self, epoch: int, base: Place) -> None:
        """See `Watcher.begin`."""
        self._client.begin(epoch, base)

    def take(self, epoch: int, cut: int, since_ns: int) -> Batch:
        """See `Watcher.take`."""
        return FileBatch(self._client.take(epoch, cut, self._holds, since_ns))

    def sweep(self, epoch: int, cut: int) -> Batch:
        """See `Watcher.sweep`."""
        return FileBatch(self._client.sweep(epoch, cut))

    def place(self, batch: int, epoch: int, cut: int) -> None:
        """See `Watcher.place`."""
        self._client.place(batch, epoch, cut)

    def protected(self, epoch: int, cut: int) -> None:
        """See `Watcher.protected`."""
        self._client.protected(epoch, cut)

    def close(self) -> None:
        """Let go of the page."""
        with self._page_lock:
            self._page.close()


class FileBatch:
    """A batch in the file that the watcher handed over. See `trees.Batch`.

    Raises WatcherFailed where the file is not what it should be.
    """

    def __init__(self, taken: Taken) -> None:
        self._taken = taken
        self._file: BinaryIO | None = None
        self._facts: BatchFacts | None = None
        if taken.fd is None:
            return
        self._file = os.fdopen(taken.fd, "rb", BUFFER_BYTES)
        try:
            self._facts = check_batch(self._file)
            if self._facts.number != taken.batch:
                raise WatcherFailed("a batch of file trees is not taken", "its file is that of another one")
        except BaseException:
            self.close()
            raise

    @property
    def number(self) -> int:
        """See `Batch.number`."""
        return self._taken.batch

    @property
    def position(self) -> Position | None:
        """See `Batch.position`."""
        return self._taken.position

    @property
    def seen_ns(self) -> int:
        """See `Batch.seen_ns`."""
        return self._taken.seen_ns

    @property
    def lacking(self) -> tuple[bytes, ...]:
        """See `Batch.lacking`."""
        return self._taken.not_whole

    @property
    def touched(self) -> frozenset[bytes]:
        """See `Batch.touched`. Whatever changes in a tree changes a name of it."""
        named = (record.key[:ID_BYTES] for record in self.records() if record.name in ("name+", "name-"))
        return frozenset(named) | {space for space, _ in self._taken.instants}

    @property
    def skewed(self) -> Sequence[SkewedFile]:
        """See `Batch.skewed`."""
        return self._taken.skewed

    @property
    def skewed_more(self) -> int:
        """See `Batch.skewed_more`."""
        return self._taken.skewed_more

    @property
    def more(self) -> bool:
        """See `Batch.more`."""
        return self._taken.more

    @property
    def instants(self) -> Sequence[tuple[bytes, int]]:
        """See `Batch.instants`."""
        return self._taken.instants

    @property
    def compare(self) -> bool:
        """See `Batch.compare`."""
        return self._taken.compare

    def records(self) -> Iterator[Record]:
        """See `Batch.records`."""
        return iter(()) if self._file is None else read_records(self._file)

    def extents(self) -> Iterator[NewExtent]:
        """See `Batch.extents`."""
        if self._file is None or self._facts is None:
            return iter(())
        return read_chunks(self._file, self._facts)

    def close(self) -> None:
        """See `Batch.close`."""
        if self._file is not None:
            self._file.close()
            self._file = None
