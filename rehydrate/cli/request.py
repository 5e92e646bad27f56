"""`rehydrate request`, from its options to its exit code."""

from __future__ import annotations

import json
import os
from contextlib import closing

from cdp_container.clock import Clock
from cdp_container.console import answer, say
from cdp_container.store.address import open_store
from cdp_container.store.retry import with_retries
from rehydrate.request import await_answer, make_request


def request(
    address: str,
    site: str,
    operator: str,
    reason: str,
    wait_seconds: float | None,
    clock: Clock,
    *,
    as_json: bool,
) -> int:
    """Ask, print the id at once, and wait for the answer if that is wanted; see `rehydrate.request`."""
    opened = open_store(address, clock)
    with closing(with_retries(opened, clock, lambda: int.from_bytes(os.urandom(6)) / 2**48)) as store:
        made = make_request(store, site, operator, reason, clock, os.urandom)
        members = {"id": made.request_id, "site": site, "asked": made.owner_site, "epoch": made.owner_epoch}
        answer(json.dumps(members) if as_json else made.request_id)
        say(f"asked {made.owner_site}: there `cdp-agent grant {made.request_id}` hands the domain over")
        if wait_seconds is None:
            return 0
        granted = await_answer(store, made, wait_seconds, clock)
    words = granted.answer.reason if granted.answer is not None else ""
    say(f"granted by {granted.owner.site}{': ' + words if words else ''}")
    say(f"next, within ten minutes: rehydrate failover {address} --site {site}")
    return 0
