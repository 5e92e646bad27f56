"""A description that somebody wrote by hand: YAML in the words of docs/vms.md. PURE: text in, values out."""

from __future__ import annotations

from typing import Any

from cdp_agent.vms.found import Found, check_document
from cdp_container.domain.machine import VERSION, Native, NativeKind, read_description
from cdp_container.domain.yaml_page import load_page
from cdp_container.errors import CdpError, HypervisorFailed


def parse_by_hand(text: str, what: str) -> Found:
    """What a page says; `what` names it in errors. What it leaves out is as in docs/vms.md.

    Raises HypervisorFailed: it is no YAML, says what makes no sense, or has words that we do not know.
    """
    check_document(text, what)
    try:
        document, _, faults = load_page(text.encode(), what)
    except CdpError as error:
        raise HypervisorFailed(what, error.why) from error
    if faults:
        raise HypervisorFailed(what, "; ".join(faults))
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise HypervisorFailed(what, "it is no page of keys and values")
    members: dict[str, Any] = {"version": VERSION, **document}
    try:
        description = read_description(members, what)
    except CdpError as error:
        raise HypervisorFailed(what, error.why) from error
    unknown = {*description.extra, *description.firmware.extra}
    unknown |= {name for disk in description.disks for name in disk.extra}
    unknown |= {name for nic in description.nics for name in nic.extra}
    if unknown:
        raise HypervisorFailed(what, f"it has words that nobody knows: {', '.join(sorted(unknown))}")
    if any(disk.volume is not None for disk in description.disks):
        raise HypervisorFailed(what, "which volume a disk is stands in `disks` of the configuration")
    return Found(description, Native(NativeKind.BY_HAND, text))
