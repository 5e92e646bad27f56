"""Which zone an address is in: stores that copy each other keep their conditional writes apart. PURE.

A zone is known by its server's name and port, bucket and prefix, however they are spelled. A directory has no
zones. What follows for ownership does not belong here (cdp_container.domain.home).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable
from urllib.parse import urlsplit

from cdp_container.errors import UsageError
from cdp_container.store.address import DirectoryPlace, parse_address
from cdp_container.store.api import Store
from cdp_container.store.s3_settings import S3Settings

_OWN_PORTS = {"http": 80, "https": 443}


@runtime_checkable
class Resolved(Protocol):
    """A store of which there may be copies elsewhere."""

    @property
    def resolved(self) -> S3Settings:
        """Its settings, with the endpoint and region that a profile or the provider's defaults gave."""
        ...


@runtime_checkable
class Wraps(Protocol):
    """A store that asks another one, in its own way."""

    @property
    def wrapped(self) -> Store:
        """The other one."""
        ...


@dataclass(frozen=True, slots=True)
class Zone:
    """Where conditional writes hold. `port` is None for the scheme's own: TLS or not, it is one server."""

    host: str
    port: int | None
    bucket: str
    prefix: str


def zone_of(settings: S3Settings) -> Zone | None:
    """The zone of a place; None where the address leaves its server to a profile or to defaults."""
    if settings.endpoint is None:
        return None
    parts = urlsplit(settings.endpoint)
    port = None if parts.port in (None, _OWN_PORTS[parts.scheme]) else parts.port
    return Zone((parts.hostname or "").rstrip("."), port, settings.bucket, settings.prefix)


def zone_of_store(store: Store) -> Zone | None:
    """The zone that a store is in, wrapped or as it was opened; None for a directory."""
    store = as_opened(store)
    return zone_of(store.resolved) if isinstance(store, Resolved) else None


def as_opened(store: Store) -> Store:
    """A store without what was put around it."""
    while isinstance(store, Wraps):
        store = store.wrapped
    return store


def pinned_zones(endpoints: Iterable[str]) -> frozenset[Zone]:
    """The zones that addresses name; directories, and what is no address of ours, name none."""
    zones = []
    for endpoint in endpoints:
        try:
            place = parse_address(endpoint)
        except UsageError:
            continue
        zones.append(None if isinstance(place, DirectoryPlace) else zone_of(place))
    return frozenset(zone for zone in zones if zone is not None)


def public_address(store: Store) -> str:
    """The address of a store as any machine can use it: its server named, without this machine's files.

    Region, addressing and how the server wants tags spelled stay; CA file, profile, credentials do not,
    nor the data place, which has an address of its own.
    """
    store = as_opened(store)
    if not isinstance(store, Resolved):
        return store.address
    settings = store.resolved
    zone = zone_of(settings)
    assert zone is not None, settings
    scheme = urlsplit(settings.endpoint or "").scheme
    host = f"[{zone.host}]" if ":" in zone.host else zone.host
    endpoint = f"{scheme}://{host}" if zone.port is None else f"{scheme}://{host}:{zone.port}"
    addressing = None if settings.in_path else settings.addressing
    plain = replace(
        settings, ca_file=None, profile=None, credentials_file=None, data_client="obstore", data=None
    )
    return replace(plain, endpoint=endpoint, addressing=addressing).address()
