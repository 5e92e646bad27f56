"""`domain/holds`, the roster of readers' holds: values, a strict parser, one encoding.

Who places, refreshes and drops a hold, and when one is dead, is decided by domain.holding and domain.held.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cdp_container.errors import LimitExceeded
from cdp_container.format.domain import (
    ObjectName,
    dump_members,
    frame_members,
    name_members,
    open_members,
    parse_name,
    place_members,
)
from cdp_container.format.jsontext import JsonObject
from cdp_container.format.keys import HOLDS_KEY, KeyKind, parse_key
from cdp_container.format.layout import ID_BYTES
from cdp_container.format.limits import (
    HOLD_TERM_SECONDS_MAX,
    HOLD_TEXT_BYTES_MAX,
    HOLDS_MAX,
)
from cdp_container.format.members import Members
from cdp_container.format.place import Place

_ID: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Hold:
    """One entry of the roster.

    Attributes:
        site, operator, purpose: whose it is and for what, in words.
        cut: what is held; None for everything.
        counter: grows while its reader lives; 0 for ever in an operator's.
        term_seconds: if the counter stands still for so long, the hold is dead; 0 in an operator's.
        since_ns: wall clock of whoever placed it.
        until_ns: of an operator's hold: until when it stands, by the store's clock; None in a reader's.
        ledger: the one by which the reader of `cut` reads; None for none, and while `cut` is None.
    """

    site: str
    operator: str
    purpose: str
    cut: Place | None
    counter: int
    term_seconds: int
    since_ns: int
    until_ns: int | None = None
    ledger: ObjectName | None = None


@dataclass(frozen=True, slots=True)
class Holds:
    """The roster: holds by id (32 hex digits)."""

    domain: bytes
    version: int
    nonce: bytes
    holds: Mapping[str, Hold] = field(default_factory=dict)


def is_hold_id(text: str) -> bool:
    """Whether `text` is the id of a hold."""
    return _ID.fullmatch(text) is not None


def build_holds(holds: Holds) -> bytes:
    """The bytes of `domain/holds`. Raises LimitExceeded: too many holds, or too many words."""
    for hold_id, hold in holds.holds.items():
        _check_words(hold, f"the hold {hold_id}")
    _check_count(len(holds.holds), HOLDS_KEY)
    members = {
        **frame_members("cdp-holds", holds.domain),
        "version": holds.version,
        "nonce": holds.nonce.hex(),
        "holds": {hold_id: _entry(hold) for hold_id, hold in holds.holds.items()},
    }
    data = dump_members(members, HOLDS_KEY)
    assert parse_holds(data, "the roster that is being built", holds.domain) == holds
    return data


def parse_holds(data: bytes, key: str, domain: bytes | None) -> Holds:
    """The roster of holds that stands under `key`; errors as in `parse_owner`.

    One entry that makes no sense damages all of it: nobody may take a hold for none.
    """
    members = open_members(data, key, "cdp-holds", domain)
    roster = members.object("holds")
    _check_count(len(roster.members), key)
    return Holds(
        domain=members.bytes("domain", ID_BYTES),
        version=members.number("version"),
        nonce=members.bytes("nonce", ID_BYTES),
        holds={name: _parsed(roster, name) for name in roster.members},
    )


def _entry(hold: Hold) -> JsonObject:
    return {
        "site": hold.site,
        "operator": hold.operator,
        "purpose": hold.purpose,
        "cut": None if hold.cut is None else place_members(hold.cut),
        "counter": hold.counter,
        "term_seconds": hold.term_seconds,
        "since_ns": hold.since_ns,
        "until_ns": hold.until_ns,
        "ledger": name_members(hold.ledger),
    }


def _parsed(roster: Members, name: str) -> Hold:
    if not is_hold_id(name):
        raise roster.fault(name[:40], "is not the id of a hold")
    entry = Members(roster.object(name).members, f"{roster.what}, hold {name}")
    cut = None if entry.object_or_none("cut") is None else entry.place("cut")
    hold = Hold(
        site=entry.text("site"),
        operator=entry.text("operator"),
        purpose=entry.text("purpose"),
        cut=cut,
        counter=entry.number("counter"),
        term_seconds=entry.number("term_seconds", HOLD_TERM_SECONDS_MAX),
        since_ns=entry.time_ns("since_ns"),
        until_ns=entry.time_ns_or_none("until_ns"),
        ledger=parse_name(entry, "ledger"),
    )
    if cut is not None and not cut:
        raise entry.fault("cut", "is neither a cut nor null")
    if hold.until_ns is None and not hold.term_seconds:
        raise entry.fault("term_seconds", "is 0, and nothing says until when it stands")
    if hold.ledger is not None and not _is_ledger(hold.ledger.key):
        raise entry.fault("ledger", "names no ledger")
    _check_words(hold, entry.what)
    return hold


def _is_ledger(key: str) -> bool:
    parsed = parse_key(key)
    return parsed is not None and parsed.kind is KeyKind.LEDGER


def _check_count(count: int, what: str) -> None:
    if count > HOLDS_MAX:
        hint = "`rehydrate holds` lists them, `rehydrate unhold` takes one away"
        raise LimitExceeded(what, f"{count} holds, and {HOLDS_MAX} are the most (HOLDS_MAX)", hint)


def _check_words(hold: Hold, what: str) -> None:
    for name, text in (("site", hold.site), ("operator", hold.operator), ("purpose", hold.purpose)):
        if len(text.encode("utf-8", "surrogatepass")) > HOLD_TEXT_BYTES_MAX:
            why = f"its {name} has more than {HOLD_TEXT_BYTES_MAX} bytes (HOLD_TEXT_BYTES_MAX)"
            raise LimitExceeded(what, why, "say it in fewer words")
