"""What is worth an alert, and when it is said again. PURE: facts and moments in, events out.

What does not belong here: where the facts come from (`watch`), and how an event is delivered (`hook`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from cdp_container.journal.record import JOURNAL_FILE_BYTES

JOURNAL_SHARE: Final = 0.8
"""So much of the journal's limit in use is worth an alert: there is still time to act."""
DOWN_SECONDS_MIN: Final = 10.0
"""A splitter that died once is back sooner, and no guest has given up by then."""
REPEAT_SECONDS: Final = 900
"""What is said of one kind is not said again sooner, however often it comes and goes."""


class Kind(StrEnum):
    """The kinds of trouble."""

    RPO = "rpo-breach"
    JOURNAL = "journal-high"
    FENCED = "fenced"
    REFUSED = "refused"
    DAMAGE = "damage"
    DOWN = "splitter-down"
    COLLECTION = "collection-stopped"
    VERIFICATION = "verification"
    VMS = "vms"


@dataclass(frozen=True, slots=True)
class Look:
    """What is known at one moment.

    Attributes:
        lag_seconds: how much would be lost now, None where it is not known.
        rpo_target_seconds: what it may be.
        used_bytes: of the journal, in the measure that decides whether it is full. limit_bytes: what it may
            use, 0 where it is not known yet.
        overflowed: writes go past the journal.
        down_seconds: since when no volume is served, 0 where they are.
        fenced, refused, damage, collection, verification, vms: why, "" where it is not so.
    """

    rpo_target_seconds: float
    lag_seconds: float | None = None
    used_bytes: int = 0
    limit_bytes: int = 0
    overflowed: bool = False
    down_seconds: float = 0.0
    fenced: str = ""
    refused: str = ""
    damage: str = ""
    collection: str = ""
    verification: str = ""
    vms: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """What was last said of one kind: that it began (`on`) or ended. `at_ns` is the boot-time clock's."""

    at_ns: int
    on: bool


@dataclass(frozen=True, slots=True)
class News:
    """One thing to say: that a trouble began (or lasts), or with `on` False that it is over."""

    kind: Kind
    on: bool
    message: str


def _alert_bytes(limit_bytes: int) -> float:
    """In use of the journal when it is worth an alert; a start of the splitter has room for its file."""
    return min(JOURNAL_SHARE * limit_bytes, limit_bytes - JOURNAL_FILE_BYTES)


def troubles(look: Look) -> dict[Kind, str]:
    """Every kind of trouble that there is, each with a sentence."""
    found: dict[Kind, str] = {}
    if look.lag_seconds is not None and look.lag_seconds > look.rpo_target_seconds:
        found[Kind.RPO] = f"{look.lag_seconds:.0f} s would be lost now; target {look.rpo_target_seconds:g} s"
    if look.overflowed:
        found[Kind.JOURNAL] = "the journal is full and writes go past it"
    elif look.limit_bytes and look.used_bytes >= _alert_bytes(look.limit_bytes):
        found[Kind.JOURNAL] = f"{look.used_bytes / look.limit_bytes:.0%} of the journal are in use"
    if look.down_seconds >= DOWN_SECONDS_MIN:
        found[Kind.DOWN] = f"no volume was served for {look.down_seconds:.0f} s: guests' I/O stands still"
    spoken = {
        Kind.FENCED: look.fenced,
        Kind.REFUSED: look.refused,
        Kind.DAMAGE: look.damage,
        Kind.COLLECTION: look.collection,
        Kind.VERIFICATION: look.verification,
        Kind.VMS: look.vms,
    }
    return found | {kind: why for kind, why in spoken.items() if why}


def news(said: Mapping[Kind, Said], found: Mapping[Kind, str], now_ns: int) -> list[News]:
    """What is to be said now.

    A trouble is said when it is met and again every REPEAT_SECONDS while it lasts; its end is said once. One
    that comes back sooner waits until REPEAT_SECONDS after it was last said.
    """
    told = []
    for kind in Kind:
        last = said.get(kind)
        message = found.get(kind)
        if message is not None:
            if last is None or not 0 <= now_ns - last.at_ns < REPEAT_SECONDS * 1_000_000_000:
                told.append(News(kind, True, message))
        elif last is not None and last.on:
            told.append(News(kind, False, "it is over"))
    return told


def after_saying(said: Mapping[Kind, Said], one: News, now_ns: int) -> dict[Kind, Said]:
    """The record, with `one`. An end keeps the moment of its beginning, which the limit counts from."""
    last = said.get(one.kind)
    if one.on or last is None:
        return {**said, one.kind: Said(now_ns, one.on)}
    return {**said, one.kind: replace(last, on=False)}
