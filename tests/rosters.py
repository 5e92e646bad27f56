"""The roster of a container, written and read behind everybody's back."""

from __future__ import annotations

from collections.abc import Mapping

from cdp_container.domain.roster import read_roster
from cdp_container.format.holds import Hold, Holds, build_holds
from cdp_container.format.keys import HOLDS_KEY
from cdp_container.store.api import Store


def give_roster(
    store: Store, domain: bytes, holds: Mapping[str, Hold] | None = None, version: int = 1
) -> None:
    """One with these holds, in the place of the one that is there, if any."""
    store.delete(HOLDS_KEY)
    store.put_new(HOLDS_KEY, build_holds(Holds(domain, version, bytes(16), holds or {})))


def holds_in(store: Store, domain: bytes) -> dict[str, Hold]:
    """What stands in it, by the holds' ids."""
    return dict(read_roster(store, domain).holds.holds)
