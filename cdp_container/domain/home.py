"""The home zone of a domain: compare-and-swap holds in one zone only, so that is where a domain is owned.

The configuration in the container pins it. Which zone an address is in does not belong here (store.zones),
nor how a takeover jumps (the owner's machine).
"""

from __future__ import annotations

from typing import Final

from cdp_container.domain.history import read_config
from cdp_container.errors import (
    DamagedObject,
    ForeignObject,
    LimitExceeded,
    NewerFormat,
    NotFound,
    NotHome,
)
from cdp_container.format.domain import DomainConfig, parse_owner
from cdp_container.format.keys import OWNER_KEY
from cdp_container.store.api import Store
from cdp_container.store.zones import pinned_zones, public_address, zone_of_store

EPOCH_STRIDE: Final = 1_000
"""Epochs that a takeover in another zone leaves out: more than the home begins before they meet again."""


def is_home(config: DomainConfig, store: Store) -> bool:
    """Whether a store, as it was opened, is in the domain's home zone; everywhere is where none is pinned."""
    pinned = pinned_zones(config.endpoints)
    return not pinned or zone_of_store(store) in pinned


def jump_of(config: DomainConfig, store: Store) -> int:
    """How many epochs a forced takeover in this store leaves out (`TakeOver.jump`); 0 in the home zone."""
    return 0 if is_home(config, store) else EPOCH_STRIDE


def check_home(config: DomainConfig, store: Store) -> None:
    """Raises NotHome where nobody may own the domain in this store without force."""
    if not is_home(config, store):
        homes = " or ".join(config.endpoints)
        raise NotHome(f"own the domain {config.name!r} in {public_address(store)}", f"its home is {homes}")


def config_at(store: Store, domain: bytes) -> DomainConfig | None:
    """The configuration that stands in the container of a domain, None where `domain/owner` names none.

    Nor where that cannot be read: without it nobody can claim, and who tries says so.

    Raises:
        MissingObject, DamagedObject and their kin: the configuration cannot be read (a zone that is copied to
            may not have it yet), so nobody knows.
        StoreUnavailable and its kin: see the store.
    """
    try:
        owner = parse_owner(store.get(OWNER_KEY).data, OWNER_KEY, domain)
    except (NotFound, DamagedObject, ForeignObject, NewerFormat, LimitExceeded):
        return None
    return read_config(store, owner) if any(owner.config) else None
