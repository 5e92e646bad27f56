"""The account of a container as its store tells of it: what may not be asked is said, and the rest goes on.

What bytes are there for is told by `kinds`, what is known of objects by `look`. Uploads are ended here, too,
as nothing else may be taken away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

from cdp_agent.collector.choose import SMALL_OBJECT_BYTES
from cdp_agent.usage.kinds import Kind, Known, Lock, Part, Usage, account
from cdp_container.errors import AccessDenied, CdpError, StoreRefused
from cdp_container.store.inventory import Inventory, Rules, Standing, Taken

UPLOAD_AGE_SECONDS: Final = 86400.0
"""An upload that began a shorter time ago may still be somebody's, unless an operator knows better."""
DOMAIN: Final = "domain/"
"""What lies below it stands in the first place of a container, all else in the data place if there is one."""
MUTE: Final = (AccessDenied, StoreRefused)
"""Of a listing that we may not ask for, or that a server does not know."""
_SECOND_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Survey:
    """What takes space in a container.

    Attributes:
        addresses: of its places, without secrets.
        usage: what was counted.
        rules: for each place what the store does by itself; None where we may not ask.
        unknown: why there is no word about some kinds.
    """

    addresses: tuple[str, ...]
    usage: Usage
    rules: tuple[Rules | None, ...]
    unknown: dict[Kind, str]


def survey(
    inventories: Sequence[Inventory], known: Known | None, now_ns: int, locked: Mapping[str, int]
) -> Survey:
    """Count everything at all places of a container.

    Args:
        inventories: see `open_inventories`.
        known: see `account`.
        now_ns: the store's clock.
        locked: for single objects until when they are known to be locked.

    Raises AccessDenied where not even objects may be listed, StoreUnavailable and its kin.
    """
    unknown: dict[Kind, str] = {}
    rules = tuple(_rules(inventory, unknown) for inventory in inventories)
    parts = (
        Part(
            chain(objects(inventory, unknown), uploads(inventory, unknown)),
            Lock(None if rule is None else rule.lock_days, now_ns, locked),
            belongs,
        )
        for inventory, rule, belongs in zip(inventories, rules, belonging(inventories), strict=True)
    )
    usage = account(parts, known, SMALL_OBJECT_BYTES)
    return Survey(tuple(inventory.address for inventory in inventories), usage, rules, unknown)


def belonging(inventories: Sequence[Inventory]) -> Sequence[Callable[[str], bool]]:
    """For each place of a container whether an object of some name is looked for there."""
    if len(inventories) == 1:
        return [lambda _: True]
    of_domain, of_data = (lambda name: name.startswith(DOMAIN)), (lambda name: not name.startswith(DOMAIN))
    return [of_domain, of_data]


def _rules(inventory: Inventory, unknown: dict[Kind, str]) -> Rules | None:
    try:
        return inventory.rules()
    except MUTE as error:
        unknown[Kind.LOCK] = _words(error)
        return None


def _words(error: CdpError) -> str:
    return f"{'denied' if isinstance(error, AccessDenied) else 'refused'}: {error.why}"


def objects(inventory: Inventory, unknown: dict[Kind, str]) -> Iterator[Taken]:
    """All that is no upload; without versions where those may not be listed, which `unknown` then says."""
    try:
        found = inventory.objects()
        first = next(found, None)
    except MUTE as error:
        for kind in (Kind.OTHER, Kind.DELETE_MARKERS):
            unknown[kind] = _words(error)
        yield from inventory.current()
        return
    if first is not None:
        yield first
        yield from found


def uploads(inventory: Inventory, unknown: dict[Kind, str]) -> Iterator[Taken]:
    """Abandoned uploads, as far as they may be listed; `unknown` says where they may not."""
    try:
        yield from inventory.uploads()
    except MUTE as error:
        unknown[Kind.UPLOADS] = _words(error)


@dataclass(frozen=True, slots=True)
class Aborted:
    """What was given back, and how many uploads are too young."""

    uploads: int
    bytes: int
    younger: int


def abort_uploads(
    inventories: Sequence[Inventory],
    older_than_seconds: float,
    now_ns: int,
    aborting: Callable[[Taken], None],
) -> Aborted:
    """End the uploads that began so long ago, by the store's clock; `aborting` is told of each before.

    Raises AccessDenied where they may not be listed or ended, StoreUnavailable and its kin.
    """
    before_ns = now_ns - int(older_than_seconds * _SECOND_NS)
    # All are listed before the first one goes.
    found = [(inventory, upload) for inventory in inventories for upload in inventory.uploads()]
    old = [(inventory, upload) for inventory, upload in found if upload.modified_ns <= before_ns]
    for inventory, upload in old:
        assert upload.standing is Standing.UPLOAD, upload
        aborting(upload)
        inventory.abort(upload)
    return Aborted(len(old), sum(upload.size_bytes for _, upload in old), len(found) - len(old))
