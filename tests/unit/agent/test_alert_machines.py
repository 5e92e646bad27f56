"""What of VMs is worth an alert, and that what passes by itself is not."""

from __future__ import annotations

from typing import Any

import pytest

from cdp_agent.alerts.machines import FAULT_SECONDS_MIN, NAMED_MAX, still_wrong, vm_faults, vm_trouble

NS = 10**9
WELL: dict[str, Any] = {"name": "web", "problem": None, "unprotected": []}


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"vms": None, "images": None},
        {"vms": [WELL], "images": {"not_whole": []}},
    ],
)
def test_what_is_well_or_not_known_is_no_fault(facts: dict[str, Any]) -> None:
    assert vm_faults(facts) == {}


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"vms": [WELL | {"problem": "it hangs"}]}, "VM web cannot be asked for its configuration: it hangs"),
        ({"vms": [WELL | {"unprotected": ["vdb"]}]}, "disk vdb of VM web is not protected"),
        (
            {"images": {"not_whole": [{"vm": "db", "volumes": ["data", "log"]}]}},
            "VM db is not captured: data, log not whole in the newest cut",
        ),
    ],
)
def test_each_fault_is_told_when_it_lasts(facts: dict[str, Any], sentence: str) -> None:
    faults = vm_faults(facts)
    since = still_wrong({}, faults, 5 * NS)
    late_ns = int((5 + FAULT_SECONDS_MIN) * NS)
    assert vm_trouble(since, faults, late_ns - 1) == ""
    assert vm_trouble(still_wrong(since, faults, late_ns), faults, late_ns) == sentence


def test_one_that_comes_and_goes_begins_anew() -> None:
    faults = vm_faults({"vms": [WELL | {"problem": "it hangs"}]})
    since = still_wrong({}, faults, 0)
    since = still_wrong(since, {}, 60 * NS)
    since = still_wrong(since, faults, 100 * NS)
    assert vm_trouble(since, faults, int(FAULT_SECONDS_MIN * NS)) == ""


def test_another_reason_of_the_same_vm_is_the_same_fault() -> None:
    since = still_wrong({}, vm_faults({"vms": [WELL | {"problem": "one"}]}), 0)
    faults = vm_faults({"vms": [WELL | {"problem": "another"}]})
    now_ns = int(FAULT_SECONDS_MIN * NS)
    assert vm_trouble(still_wrong(since, faults, now_ns), faults, now_ns).endswith(": another")


def test_of_many_the_oldest_are_named_and_the_others_counted() -> None:
    vms = [WELL | {"name": f"v{number}", "problem": "x"} for number in range(NAMED_MAX + 2)]
    since: dict[str, int] = {}
    for second, count in enumerate(range(1, len(vms) + 1)):
        since = still_wrong(since, vm_faults({"vms": vms[-count:]}), second * NS)
    told = vm_trouble(since, vm_faults({"vms": vms}), 10**6 * NS)
    assert told.startswith("VM v4 ")
    assert told.endswith("; and 2 more")
    assert told.count("cannot be asked") == NAMED_MAX
