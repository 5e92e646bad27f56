"""Other places to which a container is copied: as a configuration names them, and as they are read. PURE.

Published is an address that any machine can use; whose credentials ask there is each site's own matter. What
collection waits for at these places does not belong here (collecting).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from cdp_container.errors import UsageError
from cdp_container.store.address import ADDRESS_LENGTH_MAX, DirectoryPlace, Place, parse_address
from cdp_container.store.s3_settings import S3Settings
from cdp_container.store.zones import zone_of

REPLICAS_MAX: Final = 8
"""Places that every plan of collection waits for."""


def _replica(text: str) -> str:
    try:
        place = parse_address(text)
    except UsageError as error:
        raise ValueError(f"{error.why} ({error.hint})") from None
    if isinstance(place, S3Settings) and place.endpoint is None:
        raise ValueError("it names no endpoint, and every site must find the same place by it")
    return text


def _differ(texts: list[str]) -> list[str]:
    if len({published(text) for text in texts}) < len(texts):
        raise ValueError("two are the same place")
    return texts


Replicas = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=ADDRESS_LENGTH_MAX), AfterValidator(_replica)]],
    Field(max_length=REPLICAS_MAX),
    AfterValidator(_differ),
]
"""Addresses as a site reads these places: they may name its own files."""


def published(text: str) -> str:
    """The address of a place, its data place too, without files of this machine. Raises UsageError."""
    place = parse_address(text)
    if isinstance(place, DirectoryPlace):
        return place.address()
    return _public(place).address()


def _public(place: S3Settings) -> S3Settings:
    data = None if place.data is None else parse_address(place.data)
    assert not isinstance(data, DirectoryPlace), "S3Settings would refuse it"
    return replace(
        place,
        ca_file=None,
        profile=None,
        credentials_file=None,
        data_client="obstore",
        data=None if data is None else _public(data).address(),
    )


def read_as(replicas: Sequence[str], own: Sequence[str], store: str) -> list[Place]:
    """How a site reads the places that a domain's configuration names.

    By its own address of it where it has one (`own`); what that does not say of credentials and CA is as for
    its `store`. A place that *is* the store is left out: what is waited for there is there.

    Raises UsageError: one of the replicas is no address that this release knows.
    """
    home = parse_address(store)
    known = {published(text): text for text in own}
    places = [parse_address(known.get(text, text)) for text in map(published, replicas)]
    return [_with_credentials(place, home) for place in places if not _is_same(place, home)]


def _with_credentials(place: Place, home: Place) -> Place:
    if isinstance(place, DirectoryPlace) or isinstance(home, DirectoryPlace):
        return place
    ca_file = place.ca_file or home.ca_file
    if place.credentials_file or place.profile:
        return replace(place, ca_file=ca_file)
    return replace(
        place, ca_file=ca_file, credentials_file=home.credentials_file, profile=home.profile
    )  # fmt: skip


def _is_same(place: Place, home: Place) -> bool:
    if isinstance(place, DirectoryPlace) or isinstance(home, DirectoryPlace):
        return place == home
    zone = zone_of(place)
    return zone is not None and zone == zone_of(home)
