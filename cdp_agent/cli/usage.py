"""`cdp-agent usage`: every byte of the container by what it is there for; another place beside it; uploads.

What is counted where is decided in cdp_agent.usage, what is said of it in `usage_text`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cdp_agent.cli.accepted import load_running
from cdp_agent.cli.children import software
from cdp_agent.cli.usage_text import (
    comparison_members,
    comparison_text,
    usage_members,
    usage_text,
)
from cdp_agent.collector.lock_note import LockNote, load_note
from cdp_agent.collector.process import Site, wishes_of
from cdp_agent.usage.compare import Compared, Side, compare, only_there, side_of
from cdp_agent.usage.deleted import deleted_by
from cdp_agent.usage.kinds import Kind
from cdp_agent.usage.look import Look, look
from cdp_agent.usage.survey import Aborted, abort_uploads, belonging, objects, survey, uploads
from cdp_container.clock import SystemClock
from cdp_container.console import answer, say
from cdp_container.domain.point_settings import term_seconds
from cdp_container.errors import NotFound, UsageError, counted
from cdp_container.format.domain import parse_owner
from cdp_container.format.keys import OWNER_KEY
from cdp_container.store.address import open_store
from cdp_container.store.inventory import Inventory, Taken, open_inventories
from cdp_container.telling import size_text, time_text

INCOMPLETE: Final = 3


@dataclass(frozen=True, slots=True)
class UsageWishes:
    """What was asked for beside the account itself. `abort_older_than`: None aborts nothing."""

    compare: str | None = None
    abort_older_than: str | None = None


def show_usage(config: Path, wanted: UsageWishes, *, as_json: bool) -> int:
    """What `cdp-agent usage` does; gives 3 where something is not known, or a difference not explained.

    Raises UsageError, NoSuchDomain, AlreadyRunning, AccessDenied, StoreUnavailable and their kin.
    """
    older_than = None if wanted.abort_older_than is None else _age_seconds(wanted.abort_older_than)
    agent = load_running(config)
    site = Site(agent.settings, agent.identity)
    report: Callable[[str], None] = (lambda _: None) if as_json else say
    found = look(site, wishes_of(agent.settings, None, software()), SystemClock(), report)
    address = agent.settings.collection.store or agent.settings.store
    with _opened(address) as inventories:
        report("adding up what takes space")
        seen = survey(inventories, found.known, found.now_ns, _locked(load_note(site.journal)))
        complete = not found.doubts and not seen.unknown and not seen.usage.amounts[Kind.UNTOLD].objects
        members: dict[str, Any] = usage_members(found, seen)
        lines = usage_text(found, seen)
        if older_than is not None:
            now_ns = max(found.now_ns, seen.usage.newest_ns)
            aborted = abort_uploads(inventories, older_than, now_ns, lambda upload: report(_aborting(upload)))
            members["aborted"] = _aborted_members(aborted)
            lines += ["", _aborted_text(aborted, wanted.abort_older_than or "")]
    if wanted.compare is not None:
        report(f"looking at {wanted.compare}")
        compared, here, there, unknown = _compared(address, wanted.compare, found, site.identity.domain)
        members["compare"] = comparison_members(wanted.compare, compared, here, there, unknown)
        lines += ["", *comparison_text(wanted.compare, compared, here, there, unknown)]
        complete = complete and compared.is_explained and not unknown
    answer(json.dumps(members) if as_json else "\n".join(lines))
    return 0 if complete else INCOMPLETE


def _locked(note: LockNote) -> dict[str, int]:
    """Until when objects are locked whose locks passes extended, or met."""
    return {
        key: max(note.extended.get(key, 0), note.refused.get(key, 0))
        for key in note.extended.keys() | note.refused.keys()
    }


def _compared(
    here_at: str, there_at: str, found: Look, domain: bytes
) -> tuple[Compared, Side, Side, list[str]]:
    """Two places, and what is not known of them. Raises ForeignObject where the other is another domain's."""
    unknown: list[str] = []
    with closing(open_store(there_at)) as store:
        try:
            parse_owner(store.get(OWNER_KEY).data, OWNER_KEY, domain)
        except NotFound:
            unknown.append(f"{there_at} has no {OWNER_KEY}: nothing tells that it is this container")
    # There first: what is replicated meanwhile is then young here, and not there without a reason.
    there = _side(there_at, unknown)
    here = _side(here_at, unknown)
    wanted = only_there(here, there)
    deleted: dict[str, str] = {}
    if wanted:
        ledger = None if found.found is None else found.found.ledger
        with closing(open_store(here_at)) as store:
            deleted = deleted_by(store, domain, here.current, ledger, wanted)
    return compare(here, there, deleted), here, there, unknown


def _side(address: str, unknown: list[str]) -> Side:
    denied: dict[Kind, str] = {}
    with _opened(address) as inventories:
        side = side_of(
            (item, belongs(item.name))
            for inventory, belongs in zip(inventories, belonging(inventories), strict=True)
            for listed in (objects, uploads)
            for item in listed(inventory, denied)
        )
    unknown += [f"{address}: {kind.value.replace('_', ' ')}: {why}" for kind, why in denied.items()]
    return side


@contextmanager
def _opened(address: str) -> Iterator[list[Inventory]]:
    """The inventories of all places of a container."""
    inventories = open_inventories(address)
    try:
        yield inventories
    finally:
        for inventory in inventories:
            inventory.close()


def _age_seconds(text: str) -> float:
    try:
        seconds = term_seconds(text)
    except ValueError as error:
        raise UsageError(f"read --older-than {text!r}", f"it {error}") from None
    if math.isinf(seconds):
        raise UsageError(f"read --older-than {text!r}", "nothing is as old as that")
    return seconds


def _aborting(upload: Taken) -> str:
    return f"aborting {upload.name}: {size_text(upload.size_bytes)}, begun {time_text(upload.modified_ns)}"


def _aborted_members(aborted: Aborted) -> dict[str, Any]:
    return {"uploads": aborted.uploads, "bytes": aborted.bytes, "left_as_younger": aborted.younger}


def _aborted_text(aborted: Aborted, older_than: str) -> str:
    done = f"{counted(aborted.uploads, 'upload')} aborted, {size_text(aborted.bytes)} given back"
    return f"{done}; {aborted.younger} younger than {older_than} left" if aborted.younger else done
