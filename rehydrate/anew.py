"""Looking anew for what was collected while it was read: under a hold of its own, by the ledger in force.

What is read, and how, does not belong here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from cdp_container.domain.holding import Holding
from cdp_container.errors import HoldLost, MissingObject

ANEW_MAX: Final = 4
"""Readings of one job: a collector that moves things oftener under a reader than this is not right."""

T = TypeVar("T")


def read_until_found(
    work: Callable[[bool], T], holding: Holding, is_moved: Callable[[], bool], tell: Callable[[str], None]
) -> T:
    """What `work` gives; told whether it is the first time.

    Args:
        work: opens the container and reads. Raises HoldLost where its hold is gone, MissingObject where
            something else is.
        holding: of the job; placed once at least.
        is_moved: whether another ledger is in force than the one by which `work` read.
        tell: is given lines for people.

    Raises HoldLost, MissingObject after ANEW_MAX readings; what is missing by the ledger in force at once.
    """
    for left in reversed(range(ANEW_MAX)):
        try:
            return work(left == ANEW_MAX - 1)
        except HoldLost as error:
            if not left:
                raise
            tell(f"{error}: held and looked for anew")
            holding.place()
        except MissingObject as error:
            if not left or not is_moved():
                raise
            tell(f"{error}: it was collected meanwhile, and is looked for anew")
            if not holding.hold_id:
                holding.place()
    raise AssertionError("the last reading returns or raises")
