"""Where a container is, from the address of its `domain/` alone: its configuration names the data place.

What two places become together does not belong here (store.split), nor what a configuration should say
(configured).
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Protocol, runtime_checkable

from cdp_container.clock import Clock
from cdp_container.domain.history import read_config
from cdp_container.domain.home import check_home, config_at
from cdp_container.errors import (
    DamagedObject,
    ForeignObject,
    LimitExceeded,
    MissingObject,
    NewerFormat,
    NotFound,
    StoreRefused,
)
from cdp_container.format.domain import DomainConfig, parse_owner
from cdp_container.format.keys import OWNER_KEY
from cdp_container.store.address import DirectoryPlace, open_store, parse_address, with_data
from cdp_container.store.api import Store
from cdp_container.store.retry import with_retries
from cdp_container.store.s3_settings import S3Settings
from cdp_container.store.zones import Resolved, as_opened

_UNREADABLE: Final = (
    NotFound, MissingObject, DamagedObject, ForeignObject, NewerFormat, LimitExceeded,
)  # fmt: skip


@runtime_checkable
class TellsLater(Protocol):
    """A store where objects may have something later upon them."""

    def later_notes(self) -> Sequence[str]:
        """What was seen so far, for people."""
        ...


def later_notes(store: Store) -> Sequence[str]:
    """What stands upon objects, as far as it was seen."""
    store = as_opened(store)
    return store.later_notes() if isinstance(store, TellsLater) else []


def open_container_store(address: str, clock: Clock) -> tuple[str, Store]:
    """The store of a container, with its data place; and the address that names both.

    An address that names a data place itself is taken as it is: a recovery site may meet it elsewhere. Where
    the configuration cannot be read there is none; who needs it says so.
    """
    place = parse_address(address)
    store = open_store(place, clock)
    if isinstance(place, DirectoryPlace) or place.data is not None or place.versions == "oldest":
        return address, store
    config = _config_of(with_retries(store, clock, lambda: secrets.randbelow(1 << 32) / 2.0**32))
    if config is None or not config.data:
        return address, store
    resolved = store.resolved if isinstance(store, Resolved) else None
    store.close()
    data = parse_address(config.data[0])
    if isinstance(data, S3Settings) and resolved is not None:
        # What the server says of itself is no difference: addresses of one container are compared.
        data = replace(
            data,
            endpoint=None if data.endpoint == resolved.endpoint else data.endpoint,
            region=None if data.region == resolved.region else data.region,
        )
    both = with_data(place, data.address())
    return both.address(), open_store(both, clock)


def check_places(store: Store, address: str, domain: bytes, *, is_home: bool) -> None:
    """Whether who writes a domain means its home (or said so: `is_home`) and its data place.

    Raises NotHome, StoreRefused, and as `home.config_at`.
    """
    config = config_at(store, domain)
    if config is None:
        return
    if not is_home:
        check_home(config, store)
    check_data_place(config, address)


def check_data_place(config: DomainConfig, address: str) -> None:
    """Raises StoreRefused where a writer's address means another data place than the domain has.

    What it would put there nobody would look for. Places are told apart by bucket and prefix.
    """
    published = {_where(parse_address(data)) for data in config.data}
    place = parse_address(address)
    ours = None if isinstance(place, DirectoryPlace) or place.data is None else parse_address(place.data)
    if (ours is None) == (not published) and (ours is None or _where(ours) in published):
        return
    named = "none" if ours is None else _words(ours)
    wanted = config.data[0] if config.data else "none: all is in one place"
    raise StoreRefused(
        f"write the domain {config.name!r}",
        f"its data place is {wanted}, and this address has {named}",
        "name it in the configuration: data_store",
    )


def _where(place: S3Settings | DirectoryPlace) -> tuple[str, str]:
    return (str(place.path), "") if isinstance(place, DirectoryPlace) else (place.bucket, place.prefix)


def _words(place: S3Settings | DirectoryPlace) -> str:
    return "/".join(part for part in _where(place) if part)


def _config_of(store: Store) -> DomainConfig | None:
    try:
        owner = parse_owner(store.get(OWNER_KEY).data, OWNER_KEY, None)
        return read_config(store, owner) if any(owner.config) else None
    except _UNREADABLE:
        return None
