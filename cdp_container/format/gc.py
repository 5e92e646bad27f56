"""Plans of garbage collection and their final lists (docs/container-format.md, section 6). PURE.

Values, strict parsers, one encoding. What may stand in a plan, and when it is carried out, is decided by
cdp_container.domain.collecting.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from cdp_container.errors import DamagedObject, LimitExceeded
from cdp_container.format.domain import (
    ObjectName,
    dump_members,
    frame_members,
    name_members,
    open_members,
    parse_name,
    place_members,
)
from cdp_container.format.keys import EPOCH_MAX, NUMBER_MAX, KeyKind, parse_key
from cdp_container.format.layout import DIGEST_BYTES, ID_BYTES
from cdp_container.format.limits import VICTIMS_MAX
from cdp_container.format.members import Members
from cdp_container.format.place import NOWHERE, Place

VICTIM_KINDS = frozenset({KeyKind.SEGMENT, KeyKind.PACK, KeyKind.LEDGER, KeyKind.CATALOG})
"""What collection may ever delete: nothing under `domain/`, and nothing that this version does not know."""


@dataclass(frozen=True, slots=True)
class SeenHold:
    """A hold that the roster held when the plan was made, and its cut (None: everything)."""

    hold_id: str
    cut: Place | None


@dataclass(frozen=True, slots=True)
class Plan:
    """`domain/gc/<epoch>/<n>`: what one pass is to delete, and what stands for it.

    Attributes:
        before: the ledger in force when it was made, None if there was none.
        ledger: the one in force once it executes.
        packs: what it wrote: packs and catalogs.
        victims: keys, sorted, each once.
        holds: what the roster held.
        protected: nothing at or beyond this place is a victim.
    """

    domain: bytes
    epoch: int
    n: int
    made_ns: int
    site: str
    before: ObjectName | None
    ledger: ObjectName
    packs: tuple[ObjectName, ...]
    victims: tuple[str, ...]
    holds: tuple[SeenHold, ...]
    protected: Place


@dataclass(frozen=True, slots=True)
class Kept:
    """A victim that is not deleted, because of this hold."""

    key: str
    hold_id: str


@dataclass(frozen=True, slots=True)
class FinalList:
    """`domain/gc/<epoch>/final-<n>`: what is deleted of a plan (its SHA-256 is `plan`), and what is not."""

    domain: bytes
    epoch: int
    n: int
    plan: bytes
    site: str
    delete: tuple[str, ...]
    kept: tuple[Kept, ...]


def build_plan(plan: Plan) -> bytes:
    """The bytes of a plan. Raises LimitExceeded where it has more than VICTIMS_MAX victims."""
    _few(plan.victims, "a plan")
    members = {
        **frame_members("cdp-gc-plan", plan.domain),
        "epoch": plan.epoch,
        "n": plan.n,
        "made_ns": plan.made_ns,
        "site": plan.site,
        "before": name_members(plan.before),
        "ledger": name_members(plan.ledger),
        "packs": [name_members(name) for name in plan.packs],
        "victims": plan.victims,
        "holds": [
            {"id": hold.hold_id, "cut": None if hold.cut is None else place_members(hold.cut)}
            for hold in plan.holds
        ],
        "protected": place_members(plan.protected),
    }
    data = dump_members(members, "domain/gc")
    assert parse_plan(data, "the plan that is being built", plan.domain) == plan
    return data


def plan_digest(data: bytes) -> bytes:
    """What names a plan in `domain/owner` and in its final list."""
    return hashlib.sha256(data).digest()


def parse_plan(data: bytes, key: str, domain: bytes | None) -> Plan:
    """The plan in `data`; the caller checks its digest.

    Raises:
        DamagedObject, NewerFormat, LimitExceeded: it is not a plan of this format.
        ForeignObject: it is another domain's.
    """
    members = open_members(data, key, "cdp-gc-plan", domain)
    ledger = parse_name(members, "ledger")
    if ledger is None:
        raise members.fault("ledger", "is null")
    return Plan(
        domain=members.bytes("domain", ID_BYTES),
        epoch=members.number("epoch", EPOCH_MAX, least=1),
        n=members.number("n", NUMBER_MAX, least=1),
        made_ns=members.time_ns("made_ns"),
        site=members.text("site"),
        before=parse_name(members, "before"),
        ledger=ledger,
        packs=tuple(
            ObjectName(inner.text("key"), inner.bytes("digest", DIGEST_BYTES))
            for inner in members.objects("packs")
        ),
        victims=_victims(members, "victims"),
        holds=tuple(SeenHold(inner.text("id"), _cut(inner)) for inner in members.objects("holds")),
        protected=members.place("protected"),
    )


def build_final(final: FinalList) -> bytes:
    """The bytes of a final list. Raises LimitExceeded."""
    _few((*final.delete, *final.kept), "a final list")
    members = {
        **frame_members("cdp-gc-list", final.domain),
        "epoch": final.epoch,
        "n": final.n,
        "plan": final.plan.hex(),
        "site": final.site,
        "delete": final.delete,
        "kept": [{"key": kept.key, "hold": kept.hold_id} for kept in final.kept],
    }
    data = dump_members(members, "domain/gc")
    assert parse_final(data, "the final list that is being built", final.domain) == final
    return data


def parse_final(data: bytes, key: str, domain: bytes | None) -> FinalList:
    """The final list in `data`; errors as in `parse_plan`."""
    members = open_members(data, key, "cdp-gc-list", domain)
    final = FinalList(
        domain=members.bytes("domain", ID_BYTES),
        epoch=members.number("epoch", EPOCH_MAX, least=1),
        n=members.number("n", NUMBER_MAX, least=1),
        plan=members.bytes("plan", DIGEST_BYTES),
        site=members.text("site"),
        delete=_victims(members, "delete"),
        kept=tuple(Kept(inner.text("key"), inner.text("hold")) for inner in members.objects("kept")),
    )
    _check_victims([kept.key for kept in final.kept], members, "kept")
    if not {kept.key for kept in final.kept}.isdisjoint(final.delete):
        raise members.fault("kept", "names what is to be deleted")
    return final


def _victims(members: Members, name: str) -> tuple[str, ...]:
    keys = members.texts(name)
    _check_victims(keys, members, name)
    return keys


def _check_victims(keys: Sequence[str], members: Members, name: str) -> None:
    _few(keys, members.what)
    for key in keys:
        parsed = parse_key(key)
        if parsed is None or parsed.kind not in VICTIM_KINDS:
            raise DamagedObject(members.what, f"its member {name!r} names {key[:80]!r}, which is no victim")
    if list(keys) != sorted(set(keys)):
        raise members.fault(name, "is not sorted, or names a key twice")


def _few(keys: Sequence[object], what: str) -> None:
    if len(keys) > VICTIMS_MAX:
        raise LimitExceeded(what, f"it has {len(keys)} victims, and {VICTIMS_MAX} are the most (VICTIMS_MAX)")


def _cut(members: Members) -> Place | None:
    if members.object_or_none("cut") is None:
        return None
    place = members.place("cut")
    if place == NOWHERE:
        raise members.fault("cut", "is no cut")
    return place
