"""A pass of healing as a process: the collector's lock and store, this site's journal, volumes and trees.

What a pass does is in `heal`; the command's words are in cdp_agent.cli.heal.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from cdp_agent.collector.last import load_last
from cdp_agent.collector.process import LOCK_NAME, Site, around_of
from cdp_agent.healing.files import open_files
from cdp_agent.healing.heal import Healed, Here, heal
from cdp_agent.supervisor import take_lock
from cdp_agent.verifier.last import load_last as load_verification
from cdp_agent.verifier.last import save_last as save_verification
from cdp_agent.verifier.last import without_need
from cdp_agent.watcher.page import FOLDER
from cdp_container.clock import Clock
from cdp_container.errors import JournalDamaged
from cdp_container.journal.reader import JournalReader
from cdp_container.journal.shared import SharedPages


def heal_once(
    site: Site, software: str, clock: Clock, report: Callable[[str], None], *, plan_only: bool
) -> Healed:
    """One pass over what the last verification found, and what is missing.

    Raises AlreadyRunning where a pass of collection is under way, and CdpError wherever it ended.
    """
    lock = take_lock(site.journal / LOCK_NAME, clock)
    try:
        around = around_of(site, clock, report, load_last(site.journal).store_ns)
        with _here(site) as here:
            found = load_verification(site.journal)
            healed = heal(around, here, found.known, software, plan_only)
        if healed.is_done:
            save_verification(site.journal, without_need(found, healed.keys))
        return healed
    finally:
        os.close(lock)


@contextmanager
def _here(site: Site) -> Iterator[Here]:
    trees = {tree.tree: Path(tree.path) for tree in site.identity.active_trees}
    with open_files(site.journal / FOLDER, trees) as files, _journal(site) as here:
        yield replace(here, files=files)


@contextmanager
def _journal(site: Site) -> Iterator[Here]:
    paths = {source.space: Path(source.path) for source in site.identity.active.values()}
    spaces = [source.space for source in site.identity.sources]
    pages = SharedPages(site.journal / "shared")
    try:
        page = pages.splitter.read()
        reader = _reader(site)
        if page is None or reader is None:
            yield Here(paths, spaces)
            return
        with reader:
            yield Here(paths, spaces, reader, page.tail)
    finally:
        pages.close()


def _reader(site: Site) -> JournalReader | None:
    try:
        return JournalReader(site.journal / "journal", site.identity.domain)
    except JournalDamaged:
        return None  # it is no source then; the splitter says what is wrong with it
