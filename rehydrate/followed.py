"""What a container's objects say, kept from one look to the next: who follows an owner reads what is new.

Objects never change, so that what was read stays true; what does not count any more no branch names. Where
anything was collected since, or an object was damaged, all is read anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from cdp_container.domain.contents import Contents
from cdp_container.domain.heads import Broken, read_heads
from cdp_container.errors import DamagedObject, NotFound
from cdp_container.format.keys import segment_key
from cdp_container.store.api import Found
from rehydrate.container import Container

NEW_MAX: Final = 10_000
"""Segments that are asked for one by one; more are found by a listing, and read out of catalogs."""


class Followed:
    """The contents of one container, with sums and names; to be closed."""

    def __init__(self) -> None:
        self._contents: Contents | None = None

    def at(self, container: Container, scope: Mapping[int, int]) -> Contents:
        """What the objects of a scope say, and maybe of others; see `Container.gather`."""
        known = self._contents
        if known is None or known.broken or known.sealed or known.ledger != container.ledger:
            return self._anew(container, scope)
        wanted = [
            segment_key(epoch, seq)
            for epoch, last in sorted(scope.items())
            for seq in range(1, last + 1)
            if (epoch, seq) not in known.segments and not known.ledger.is_collected(epoch, seq)
        ]
        if len(wanted) > NEW_MAX:
            return self._anew(container, scope)
        history = container.history
        for seen in read_heads(container.store, _there(container, wanted), history.domain, container.keys):
            if isinstance(seen, Broken):
                known.broken[seen.key] = seen
                continue
            try:
                known.add(seen)
            except DamagedObject as error:
                known.broken[seen.key] = Broken(seen.key, error)
        return known

    def close(self) -> None:
        """Give the disk space back."""
        if self._contents is not None:
            self._contents.close()
        self._contents = None

    def _anew(self, container: Container, scope: Mapping[int, int]) -> Contents:
        self.close()
        self._contents = container.gather(scope, keeps_sums=True, keeps_names=True)
        return self._contents


def _there(container: Container, keys: list[str]) -> Iterator[Found]:
    """Those that are there; whoever needs one of the others misses it."""
    for key in keys:
        try:
            yield container.store.head(key)
        except NotFound:
            continue
