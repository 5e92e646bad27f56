"""What of VMs is worth an alert: facts of the streamer in, sentences out. PURE.

A hypervisor that is busy, or begins anew, is no news: only what lasts is told. What does not belong here:
where the facts come from (`watch`), and when the alert is said again (`rules`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

FAULT_SECONDS_MIN: Final = 120.0
"""So long something must be wrong: two rounds of asking, as often as they are by default."""
NAMED_MAX: Final = 3
"""Faults that one alert names; of more it says how many there are."""


def vm_faults(facts: Mapping[str, Any]) -> dict[str, str]:
    """What keeps VMs from being protected as was asked for: a sentence each, by a name that stays.

    Args:
        facts: of the streamer, as `facts.describe` makes them.
    """
    found: dict[str, str] = {}
    for vm in facts.get("vms") or ():
        name = vm["name"]
        if vm["problem"]:
            found[f"asked {name}"] = f"VM {name} cannot be asked for its configuration: {vm['problem']}"
        for disk in vm["unprotected"]:
            found[f"disk {disk} of {name}"] = f"disk {disk} of VM {name} is not protected"
    for vm in (facts.get("images") or {}).get("not_whole", ()):
        volumes = ", ".join(vm["volumes"])
        found[f"image {vm['vm']}"] = f"VM {vm['vm']} is not captured: {volumes} not whole in the newest cut"
    return found


def still_wrong(since_ns: Mapping[str, int], faults: Mapping[str, str], now_ns: int) -> dict[str, int]:
    """Since when each fault is there; `since_ns` is what this gave before, by the boot-time clock."""
    return {name: since_ns.get(name, now_ns) for name in faults}


def vm_trouble(since_ns: Mapping[str, int], faults: Mapping[str, str], now_ns: int) -> str:
    """What has lasted for FAULT_SECONDS_MIN, the longest first; "" where nothing has."""
    lasting = sorted(
        (began_ns, faults[name])
        for name, began_ns in since_ns.items()
        if now_ns - began_ns >= FAULT_SECONDS_MIN * 1e9
    )
    told = [sentence for _, sentence in lasting[:NAMED_MAX]]
    more = len(lasting) - NAMED_MAX
    return "; ".join([*told, *([f"and {more} more"] if more > 0 else [])])
