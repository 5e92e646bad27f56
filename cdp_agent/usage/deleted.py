"""What tells that collection deleted a key: the final lists of plans, and the ledger in force.

Whether another place still has it does not belong here (compare).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from cdp_container.domain.ledgers import Ledger
from cdp_container.errors import NotFound
from cdp_container.format.gc import parse_final
from cdp_container.format.keys import KeyKind, ParsedKey, parse_key
from cdp_container.store.api import Store

FINALS_READ_MAX: Final = 2000
"""Final lists that are read, the newest first; beyond them only the ledger tells."""


def deleted_by(
    store: Store, domain: bytes, names: Iterable[str], ledger: Ledger | None, wanted: Collection[str]
) -> dict[str, str]:
    """By key what tells that it was deleted, for those of `wanted` of which anything does.

    `names` are those of everything at the place. Raises DamagedObject, ForeignObject and their kin,
    StoreUnavailable.
    """
    found: dict[str, str] = {}
    left = set(wanted)
    for key, parsed in sorted(_finals(names), key=lambda one: _number(one[1]), reverse=True)[
        :FINALS_READ_MAX
    ]:
        if not left:
            break
        try:
            final = parse_final(store.get(key).data, key, domain)
        except NotFound:
            continue
        for victim in left.intersection(final.delete):
            found[victim] = f"plan {parsed.epoch}/{parsed.number}"
        left.difference_update(found)
    for key in left if ledger is not None else ():
        segment = parse_key(key)
        if segment is None or segment.kind is not KeyKind.SEGMENT or ledger is None:
            continue
        if ledger.is_collected(segment.epoch, segment.number):
            found[key] = "by the ledger"
    return found


def _finals(names: Iterable[str]) -> Iterable[tuple[str, ParsedKey]]:
    for name in names:
        parsed = parse_key(name)
        if parsed is not None and parsed.kind is KeyKind.GC_FINAL:
            yield name, parsed


def _number(parsed: ParsedKey) -> tuple[int, int]:
    return parsed.epoch, parsed.number
