"""What `init` asks of a data place: for how long it locks, and whether that is long enough.

What a place must promise at every start does not belong here (store.attest).
"""

from __future__ import annotations

from contextlib import closing
from typing import Final

from cdp_container.domain.place_settings import lock_fault
from cdp_container.domain.settings import AgentSettings
from cdp_container.errors import ConfigInvalid
from cdp_container.store.address import DirectoryPlace, data_place, parse_address
from cdp_container.store.inventory import Rules, open_inventory

_HINT: Final = "set another default retention in the bucket (only what is stored from then on gets it)"


def look_at_data_place(settings: AgentSettings) -> list[str]:
    """What people should know of the data place, [] where there is none.

    Raises ConfigInvalid where `lock` asks for more than the bucket does, AccessDenied where we may not ask.
    """
    place = parse_address(settings.store)
    data = None if isinstance(place, DirectoryPlace) else data_place(place)
    if data is None:
        if settings.lock is not None:
            raise ConfigInvalid("lock is refused", "it is about a data place, and there is none: data_store")
        return []
    with closing(open_inventory(data)) as inventory:
        rules = inventory.rules()
    policy = None if settings.retention is None else settings.retention.policy
    every_seconds = None if policy is None else policy.every_seconds
    said = [f"data place: {data.address()}; {_words(rules)}"]
    if settings.lock is None:
        fault = lock_fault(_days(rules), every_seconds, 0) if rules.locks else None
        return (
            said
            if fault is None
            else [*said, f"warning: {fault}; `lock` in the configuration would refuse it"]
        )
    fault = lock_fault(_days(rules), every_seconds, settings.lock.outage)
    if fault is not None:
        raise ConfigInvalid("the data place does not do what `lock` asks for", fault, _HINT)
    return said


def _days(rules: Rules) -> int | None:
    return rules.lock_days if rules.locks else None


def _words(rules: Rules) -> str:
    if not rules.versioned:
        return "it keeps no versions: who may write may destroy"
    if _days(rules) is None:
        return "it keeps versions and locks nothing by default: who may delete versions may destroy"
    mode = "nobody can shorten that" if rules.lock_mode == "COMPLIANCE" else "some may shorten that"
    return f"what is stored is locked for {rules.lock_days} days ({rules.lock_mode}: {mode})"
