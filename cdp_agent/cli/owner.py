"""`cdp-agent owner`: who may write the domain, since when, who did before, and who asks for it.

All of it as the container tells it. Answering requests does not belong here (requests).
"""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Final

from cdp_agent.releases import release_hint, release_members, release_text
from cdp_container.clock import SystemClock
from cdp_container.console import answer, printable, say
from cdp_container.domain.history import DomainFacts, read_domain
from cdp_container.domain.notes import load_notes
from cdp_container.domain.requests import Requests, delete_old, list_requests
from cdp_container.domain.settings import load_settings
from cdp_container.errors import counted
from cdp_container.store.address import open_store
from cdp_container.telling import (
    Members,
    members_table,
    owner_members,
    owner_text,
    record_members,
    table,
    time_text,
)

_REQUEST_COLUMNS: Final = ("id", "site", "asked", "of", "operator", "reason")
_COLUMNS: Final = ("epoch", "site", "from", "until", "base", "reason", "operator")


def show_owner(config: Path, *, as_json: bool) -> int:
    """Print it. Raises NoSuchDomain, MissingObject, DamagedObject, StoreUnavailable and their kin."""
    settings = load_settings(config)
    store = open_store(settings.store)
    try:
        facts = read_domain(store)
        requests = list_requests(store, facts.owner.domain)
        cleared = delete_old(store, facts.owner, settings.site, requests.listed)
    finally:
        store.close()
    for note in (*facts.notes, *_notes(requests), *filter(None, [cleared])):
        say(f"note: {printable(note)}")
    release = release_members(load_notes(Path(settings.journal.directory)), SystemClock().wall_ns())
    if release is not None:
        say(f"note: this site: {release_text(release)}; {release_hint(release)}")
    members = {
        "this_site": settings.site,
        "release": release,
        "owner": owner_members(facts.owner),
        "epochs": _epochs(facts),
        "requests": _pending(requests),
    }
    answer(json.dumps(members) if as_json else _text(settings.site, facts, requests))
    return 0


def _text(site: str, facts: DomainFacts, requests: Requests) -> str:
    named = printable(f"domain: {facts.owner.name}, this site: {site}")
    lines = [named, owner_text(owner_members(facts.owner))]
    epochs = _epochs(facts)
    lines.append(table(*members_table(_COLUMNS, epochs)) if epochs else "no epoch yet: nothing was ever sent")
    pending = _pending(requests)
    if pending:
        lines += ["", f"{counted(len(pending), 'request')} for the domain; `cdp-agent grant ID`, `deny ID`:"]
        lines.append(table(*members_table(_REQUEST_COLUMNS, pending)))
    return "\n".join(lines)


def _epochs(facts: DomainFacts) -> list[Members]:
    """Those that count, oldest first; each lasts until the next one began."""
    newest_first = facts.records
    untils = chain((None,), (record.began_ns for record in newest_first))
    found = [record_members(record, until_ns) for record, until_ns in zip(newest_first, untils, strict=False)]
    return found[::-1]


def _pending(requests: Requests) -> list[Members]:
    """What nobody answered yet, newest first; times are the store's."""
    return [
        {
            "id": stored.request.request_id,
            "site": stored.request.site,
            "asked": time_text(stored.stored_ns),
            "asked_ns": stored.stored_ns,
            "of": stored.request.owner_site,
            "operator": stored.request.operator,
            "reason": stored.request.reason,
        }
        for stored in requests.pending
    ]


def _notes(requests: Requests) -> list[str]:
    notes = list(requests.faults)
    if requests.older:
        notes.append(f"{counted(requests.older, 'older request')} not looked at")
    return notes
