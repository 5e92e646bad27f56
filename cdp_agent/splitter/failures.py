"""What failed and was not mended yet, and what of it guests and `status` are told.

Sticky: a later sync that succeeds proves nothing.

What does not belong here: how it is mended (`mending`).
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from cdp_container.errors import JournalFull


@dataclass(frozen=True, slots=True)
class Failure:
    """What failed first."""

    what: str
    error: OSError


@dataclass(slots=True)
class Failures:
    """The first failure of each kind, and how many there ever were.

    Attributes:
        backing: the backing stores may lack what the journal holds; a redo mends it.
        journal: the journal may lack what it held; only an overflow ends it.
        count: so that a mending ends only what it has seen.
        losses: failed syncs of what no journal has, which guests must be told of.
        last_error: the newest, mended or not; for `status`.
    """

    backing: Failure | None = None
    journal: Failure | None = None
    count: int = 0
    losses: int = 0
    last_error: str = ""

    @property
    def first(self) -> Failure | None:
        """The one to tell of, if there is any."""
        return self.backing or self.journal

    def refuse(self) -> None:
        """Raise OSError if anything is failed."""
        failure = self.first
        if failure is not None:
            raise OSError(errno.EIO, f"{failure.what}: {failure.error}")

    def refuse_backing(self) -> None:
        """Raise OSError if the backing stores may lack something."""
        if self.backing is not None:
            self.refuse()


class JournalUnusable(Exception):
    """An append failed; `reason` is a JournalFull or an OSError. Never leaves the splitter."""

    def __init__(self, reason: JournalFull | OSError) -> None:
        super().__init__(str(reason))
        self.reason = reason
