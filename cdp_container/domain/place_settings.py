"""What an agent's configuration says of the data place: where it is, and for how long its locks must hold.

Where the place is becomes a part of the store's address (`store.address.with_data`), which is all that others
see. Whether a bucket does what is asked does not belong here (the agent's `init`).
"""

from __future__ import annotations

import math

from cdp_container.domain.point_settings import Term
from cdp_container.domain.setting_types import Strict
from cdp_container.errors import UsageError
from cdp_container.store.address import DirectoryPlace, parse_address, with_data

_DAY_SECONDS = 86_400


class LockSettings(Strict):
    """What the data place's lock is for. `outage`: the longest time in which nobody extends it, seconds."""

    outage: Term


def directory_of(address: str) -> str | None:
    """Where a container lies on this machine; None where it does not."""
    try:
        place = parse_address(address)
    except UsageError:
        return None  # said where it is opened
    return str(place.path) if isinstance(place, DirectoryPlace) else None


def joined(values: object) -> object:
    """A configuration as it was read, with the data place in the addresses of the container.

    Raises ValueError where `data_store` cannot be one.
    """
    if not isinstance(values, dict) or not isinstance(values.get("data_store"), str):
        return values
    values = dict(values)
    data, collection = values.pop("data_store"), values.get("collection")
    if isinstance(values.get("store"), str):
        values["store"] = _with(values["store"], data)
    if isinstance(collection, dict) and isinstance(collection.get("store"), str):
        values["collection"] = {**collection, "store": _with(collection["store"], data)}
    return values


def _with(address: str, data: str) -> str:
    try:
        place = parse_address(address)
    except UsageError:
        return address  # told where it is opened
    if not isinstance(place, DirectoryPlace) and place.data is not None:
        return address
    try:
        return with_data(place, data).address()
    except UsageError as error:
        raise ValueError(f"data_store: {error.why} ({error.hint})") from error


def lock_fault(lock_days: int | None, every_seconds: int | None, outage_seconds: float) -> str | None:
    """Why what is stored now may be unlocked while it is needed, though nobody is there to extend it.

    Args:
        lock_days: for how long the bucket locks what is put there; None: not at all.
        every_seconds: how long every cut is kept; None for ever.
        outage_seconds: in which nobody extends a lock; math.inf: never.
    """
    if lock_days is None:
        return "the bucket locks nothing by default"
    if every_seconds is None or math.isinf(outage_seconds):
        return f"the bucket locks for {lock_days} days, and what is to be kept is to be kept for ever"
    needed_days = math.ceil((every_seconds + outage_seconds) / _DAY_SECONDS)
    if lock_days >= needed_days:
        return None
    return (
        f"the bucket locks for {lock_days} days; to keep every cut for as long as `retention` says, and to "
        f"survive the outage, it must be {needed_days}"
    )
