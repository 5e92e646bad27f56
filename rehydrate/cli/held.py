"""The hold of a command: who it is that reads, and what is told of it.

What a hold is stands in `cdp_container.domain.holding`; the commands that list and take away holds in holds.
"""

from __future__ import annotations

import getpass
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from cdp_container.clock import Clock, SystemClock
from cdp_container.console import printable, say
from cdp_container.domain.holding import Holding, Reader
from cdp_container.errors import HoldLost
from cdp_container.format.domain import ObjectName
from cdp_container.format.place import Place
from cdp_container.store.api import Store


def user_name() -> str:
    """Who runs this, for the audit trail."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def tell(line: str) -> None:
    """A note for people."""
    say(f"note: {printable(line)}")


@contextmanager
def holding_for(
    store: Store, purpose: str, site: str = "", clock: Clock | None = None, operator: str = ""
) -> Iterator[Holding]:
    """The hold of this job, not placed yet; dropped at the end of the block.

    Args:
        store: repeats reads.
        purpose: the command.
        site: where it reads, as far as the command knows; else the name of this machine.
        clock: of this machine.
        operator: who reads; else the login name.
    """
    reader = Reader(site or platform.node(), operator or user_name(), purpose)
    with Holding(store, reader, SystemClock() if clock is None else clock, os.urandom, tell) as holding:
        yield holding


def hold_on(holding: Holding, place: Place, ledger: ObjectName | None) -> None:
    """Hold anew where the hold was taken away: what was collected meanwhile cannot be read, the rest can."""
    try:
        holding.check()
    except HoldLost as error:
        tell(f"{error}: held anew; if something was collected meanwhile and cannot be read, begin again")
        holding.place()
        with suppress(HoldLost):  # told the next time
            holding.narrow(place, ledger)
