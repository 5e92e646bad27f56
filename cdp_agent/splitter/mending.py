"""Bringing back what a failure may have lost, while guests wait.

For the backing stores that is a redo of everything since the synced point; a journal is given up. What a disk
lost without a journal stays lost, and the guests are told of it by one flush each that fails.

What does not belong here: what failed (`failures`), how records are applied (`redo`), the redo of a start
(`opening`).
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from cdp_agent.splitter.appending import Appending
from cdp_agent.splitter.backing import Backing, forget_cached
from cdp_agent.splitter.journal_writer import JournalWriter
from cdp_agent.splitter.redo import redo_all
from cdp_agent.splitter.syncing import Syncing
from cdp_container.journal.position import Position
from cdp_container.journal.record import Note
from nbd_export.files import Files

_log: Final = logging.getLogger(__name__)


class Mending:
    """Applies everything since the synced point again.

    Args:
        files: the edge to the kernel.
        backings: all of them.
        journal: the directory of the journal files, and the domain's id.
        appending: the journal's tail.
        syncing: of journal and backing stores.
        removed: sources whose records are passed over; may be changed in a time without writes.
    """

    def __init__(
        self,
        files: Files,
        backings: Sequence[Backing],
        journal: tuple[Path, bytes],
        appending: Appending,
        syncing: Syncing,
        removed: Collection[int],
    ) -> None:
        self.removed = set(removed)
        self._files = files
        self._backings = backings
        self._journal = journal
        self._appending = appending
        self._syncing = syncing

    async def redo(self) -> None:
        """Apply everything since the synced point again, if there is a journal, and sync it.

        Raises:
            OSError, CdpError: what failed is not mended yet.
        """
        appending = self._appending
        async with appending.gate.quiet():
            writer, tail, count = appending.writer, appending.tail, appending.failures.count
            if writer is not None:
                await self._apply_again(writer, tail)
            await self._syncing.sync_all_backings()
            if appending.failures.count != count:
                raise OSError(errno.EIO, appending.failures.last_error or "a sync failed again")
            if writer is None:  # what is compared later must be what the disks have
                await appending.threads.run(lambda: forget_cached(self._files, self._backings))
            elif appending.failures.journal is None:
                writer.append_note(Note.REDO_PROGRESS)  # a change of the disk that is ours
                appending.advance(tail)
            appending.failures.backing = None
            appending.publish()
            _log.warning("what failed is mended: everything was synced again")

    async def _apply_again(self, writer: JournalWriter, tail: Position) -> None:
        appending = self._appending
        if appending.failures.journal is None:
            await appending.sync_journal(writer)
        # First: whoever copies a disk meanwhile must know.
        appending.publish_page(replace(appending.page, redos=appending.page.redos + 1))
        between = appending.page.synced, tail
        await appending.threads.run(
            lambda: redo_all(self._files, self._journal, self._backings, between, self.removed)
        )
