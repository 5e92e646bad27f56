"""The account of a place as its store tells of it: what may not be asked is said, and the rest goes on.

What bytes are there for is told by `kinds`, what is known of objects by `look`. Uploads are ended here, too,
as nothing else may be taken away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Final

from cdp_agent.collector.choose import SMALL_OBJECT_BYTES
from cdp_agent.usage.kinds import Kind, Known, Lock, Usage, account
from cdp_container.errors import AccessDenied
from cdp_container.store.inventory import Inventory, Rules, Standing, Taken

UPLOAD_AGE_SECONDS: Final = 86400.0
"""An upload that began a shorter time ago may still be somebody's, unless an operator knows better."""
_SECOND_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Survey:
    """What takes space at a place.

    Attributes:
        address: of the place, without secrets.
        usage: what was counted.
        rules: what the store does by itself; None where we may not ask.
        unknown: why there is no word about some kinds.
    """

    address: str
    usage: Usage
    rules: Rules | None
    unknown: dict[Kind, str]


def survey(inventory: Inventory, known: Known | None, now_ns: int) -> Survey:
    """Count everything. `now_ns`: the store's clock.

    Raises AccessDenied where not even objects may be listed, StoreUnavailable and its kin.
    """
    unknown: dict[Kind, str] = {}
    rules: Rules | None = None
    try:
        rules = inventory.rules()
    except AccessDenied as error:
        unknown[Kind.LOCK] = f"denied: {error.why}"
    items = chain(objects(inventory, unknown), uploads(inventory, unknown))
    days = None if rules is None else rules.lock_days
    usage = account(items, known, Lock(days, now_ns), SMALL_OBJECT_BYTES)
    return Survey(inventory.address, usage, rules, unknown)


def objects(inventory: Inventory, unknown: dict[Kind, str]) -> Iterator[Taken]:
    """All that is no upload; without versions where those may not be listed, which `unknown` then says."""
    try:
        found = inventory.objects()
        first = next(found, None)
    except AccessDenied as error:
        for kind in (Kind.OLDER, Kind.DELETE_MARKERS):
            unknown[kind] = f"denied: {error.why}"
        yield from inventory.current()
        return
    if first is not None:
        yield first
        yield from found


def uploads(inventory: Inventory, unknown: dict[Kind, str]) -> Iterator[Taken]:
    """Abandoned uploads, as far as they may be listed; `unknown` says where they may not."""
    try:
        yield from inventory.uploads()
    except AccessDenied as error:
        unknown[Kind.UPLOADS] = f"denied: {error.why}"


@dataclass(frozen=True, slots=True)
class Aborted:
    """What was given back, and how many uploads are too young."""

    uploads: int
    bytes: int
    younger: int


def abort_uploads(
    inventory: Inventory, older_than_seconds: float, now_ns: int, aborting: Callable[[Taken], None]
) -> Aborted:
    """End the uploads that began so long ago, by the store's clock; `aborting` is told of each before.

    Raises AccessDenied where they may not be listed or ended, StoreUnavailable and its kin.
    """
    before_ns = now_ns - int(older_than_seconds * _SECOND_NS)
    found = list(inventory.uploads())  # all are listed before the first one goes
    old = [upload for upload in found if upload.modified_ns <= before_ns]
    for upload in old:
        assert upload.standing is Standing.UPLOAD, upload
        aborting(upload)
        inventory.abort(upload)
    return Aborted(len(old), sum(upload.size_bytes for upload in old), len(found) - len(old))
