"""The end of capturing: what was written is on the disks, and the journal says that nothing follows.

What does not belong here: which requests are waited for before that (`process`).
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Final

from cdp_agent.splitter.capture import Capture
from cdp_container.errors import JournalFull
from cdp_container.journal.record import Note

_log: Final = logging.getLogger(__name__)


async def stop(capture: Capture) -> bool:
    """Sync, and say in the journal that nothing follows; returns whether the stop is clean."""
    try:
        await capture.sync()
        await capture.note(Note.CLEAN_STOP)
        is_clean = True
    except (OSError, JournalFull) as error:
        is_clean = _failed(capture, error)
    finally:
        await capture.end()
    page = capture.page
    synced = page.tail if is_clean else page.synced
    try:
        capture.publish(replace(page, synced=synced, running=False, exports_open=False), durable=is_clean)
    except OSError as error:
        return _failed(capture, error)
    return is_clean


def _failed(capture: Capture, error: OSError | JournalFull) -> bool:
    capture.failures.last_error = f"stopping: {error}"
    _log.error("the stop is not clean: %s", error)
    return False
