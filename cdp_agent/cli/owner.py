"""`cdp-agent owner`: who may write the domain, since when, and who did before, as the container tells it."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Final

from cdp_container.console import answer, printable, say
from cdp_container.domain.history import DomainFacts, read_domain
from cdp_container.domain.settings import load_settings
from cdp_container.store.address import open_store
from cdp_container.telling import Members, members_table, owner_members, owner_text, record_members, table

_COLUMNS: Final = ("epoch", "site", "from", "until", "base", "reason", "operator")


def show_owner(config: Path, *, as_json: bool) -> int:
    """Print it. Raises NoSuchDomain, MissingObject, DamagedObject, StoreUnavailable and their kin."""
    settings = load_settings(config)
    store = open_store(settings.store)
    try:
        facts = read_domain(store)
    finally:
        store.close()
    for note in facts.notes:
        say(f"note: {printable(note)}")
    members = {"this_site": settings.site, "owner": owner_members(facts.owner), "epochs": _epochs(facts)}
    answer(json.dumps(members) if as_json else _text(settings.site, facts))
    return 0


def _text(site: str, facts: DomainFacts) -> str:
    named = printable(f"domain: {facts.owner.name}, this site: {site}")
    lines = [named, owner_text(owner_members(facts.owner))]
    epochs = _epochs(facts)
    lines.append(table(*members_table(_COLUMNS, epochs)) if epochs else "no epoch yet: nothing was ever sent")
    return "\n".join(lines)


def _epochs(facts: DomainFacts) -> list[Members]:
    """Those that count, oldest first; each lasts until the next one began."""
    newest_first = facts.records
    untils = chain((None,), (record.began_ns for record in newest_first))
    found = [record_members(record, until_ns) for record, until_ns in zip(newest_first, untils, strict=False)]
    return found[::-1]
