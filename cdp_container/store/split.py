"""A container in two places: `domain/` in one, everything else in the other (docs/container-format.md, 1).

What each place promises does not belong here: the first must keep its word about conditional writes, the
second may be one where an object is its oldest version (s3_oldest).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import Final

from cdp_container.store.api import Blob, Found
from cdp_container.store.s3 import S3Store
from cdp_container.store.s3_oldest import OldestS3Store
from cdp_container.store.s3_settings import S3Settings, TagSpelling

DOMAIN_PREFIX: Final = "domain/"


class SplitStore:
    """See `cdp_container.store.api.Store`; what is asked of the server is asked of the place of `domain/`."""

    def __init__(self, domain: S3Store, data: S3Store) -> None:
        self._domain = domain
        self._data = data

    @property
    def data(self) -> S3Store:
        """The data place alone."""
        return self._data

    @property
    def address(self) -> str:
        """See `Store.address`; it names both places."""
        return self._domain.address

    @property
    def resolved(self) -> S3Settings:
        """See `zones.Resolved`."""
        return self._domain.resolved

    def signing_keys(self) -> tuple[str, str, str | None]:
        """See `s3_settings.SignsRequests`."""
        return self._domain.signing_keys()

    def spell_tags(self, spelling: TagSpelling) -> None:
        """See `SpellsTags`: only objects under `domain/` are ever replaced."""
        self._domain.spell_tags(spelling)

    def limited(self, limit_seconds: int) -> SplitStore:
        """See `prompt.LimitsAnswers`."""
        return SplitStore(self._domain.limited(limit_seconds), self._data.limited(limit_seconds))

    def version_of(self, key: str) -> str:
        """See `attest.TellsVersions`."""
        assert key.startswith(DOMAIN_PREFIX), key
        return self._domain.version_of(key)

    def delete_if(self, key: str, tag: str) -> None:
        """See `attest_table.DeletesConditionally`."""
        assert key.startswith(DOMAIN_PREFIX), key
        self._domain.delete_if(key, tag)

    def get(self, key: str) -> Blob:
        """See `Store.get`."""
        return self._place(key).get(key)

    def get_unless(self, key: str, tag: str) -> Blob | None:
        """See `Store.get_unless`."""
        return self._place(key).get_unless(key, tag)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See `Store.get_range`."""
        return self._place(key).get_range(key, start, length)

    def head(self, key: str) -> Found:
        """See `Store.head`."""
        return self._place(key).head(key)

    def put_new(self, key: str, data: bytes) -> str:
        """See `Store.put_new`."""
        return self._place(key).put_new(key, data)

    def put_if(self, key: str, data: bytes, tag: str) -> str:
        """See `Store.put_if`."""
        return self._place(key).put_if(key, data, tag)

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        self._place(key).delete(key)

    def list(self, prefix: str, start_after: str = "") -> Iterator[Found]:
        """See `Store.list`. What stands in the wrong place is left out."""
        of_domain: Iterator[Found] = iter(())
        of_data: Iterator[Found] = iter(())
        if prefix.startswith(DOMAIN_PREFIX) or DOMAIN_PREFIX.startswith(prefix):
            narrowed = max(prefix, DOMAIN_PREFIX, key=len)
            of_domain = self._domain.list(narrowed, start_after)
        if not prefix.startswith(DOMAIN_PREFIX):
            everything = self._data.list(prefix, start_after)
            of_data = (found for found in everything if not found.key.startswith(DOMAIN_PREFIX))
        return heapq.merge(of_domain, of_data, key=lambda found: found.key)

    def later_notes(self) -> Sequence[str]:
        """See `cdp_container.domain.places.TellsLater`."""
        return self._data.later_notes() if isinstance(self._data, OldestS3Store) else []

    def close(self) -> None:
        """See `Store.close`."""
        self._domain.close()
        self._data.close()

    def _place(self, key: str) -> S3Store:
        return self._domain if key.startswith(DOMAIN_PREFIX) else self._data
