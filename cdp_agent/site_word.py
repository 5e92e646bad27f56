"""What this site says of the domain's configuration: where its store is, who signs for it, its credentials.

Gathered from the agent's configuration, its files and its store. What becomes of it does not belong here
(`cdp_container.domain.configured`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from cdp_agent.sealed import sealed_credentials
from cdp_agent.streamer.engine_types import Configured
from cdp_agent.streamer.settings import StreamerSettings
from cdp_container.domain.configured import SiteWord, wanted_config
from cdp_container.errors import UsageError
from cdp_container.format.domain import DomainConfig
from cdp_container.store.address import DirectoryPlace, parse_address
from cdp_container.store.api import Store
from cdp_container.store.zones import public_address, zone_of_store

CA_BYTES_MAX: Final = 1024 * 1024


def configured_by(settings: StreamerSettings, store: Store, entropy: Callable[[int], bytes]) -> Configured:
    """What this site's agent wants. `store`: as it was opened."""

    def configured(in_force: DomainConfig) -> DomainConfig:
        sealed = None
        if settings.seal_credentials:
            sealed = sealed_credentials(settings.directory, settings.identity, store, entropy)
        word = SiteWord(
            address=public_address(store),
            zone=zone_of_store(store),
            is_home=settings.store_is_home,
            ca=ca_of(settings.store),
            seals=settings.seal_credentials,
            credentials=sealed,
            retention=settings.retention(),
            replicas=settings.replicas(),
        )
        return wanted_config(in_force, settings.identity, word)

    return configured


def ca_of(address: str) -> str | None:
    """Who signs the endpoint's certificate, in PEM, so that another site need not be given the file."""
    place = parse_address(address)
    if isinstance(place, DirectoryPlace) or place.ca_file is None:
        return None
    try:
        with Path(place.ca_file).open() as file:
            return file.read(CA_BYTES_MAX)
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise UsageError(f"read the store's CA file {place.ca_file}", why) from error
