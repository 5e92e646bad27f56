"""What a pass makes of a domain's past: its cuts, what no pass may take, and what nobody names.

Which cuts are kept is decided by domain.retention, what is live by `alive`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from cdp_agent.collector.choose import Unnamed
from cdp_agent.collector.inventory import Inventory
from cdp_agent.collector.packing import CutFacts
from cdp_agent.collector.remembered import Tables
from cdp_container.domain.heads import BROKEN
from cdp_container.domain.history import History
from cdp_container.domain.ledgers import NO_LEDGER, Ledger
from cdp_container.domain.retention import CutMarker, PastCut, marker_of
from cdp_container.extents.intervals import Ints
from cdp_container.format.domain import ObjectName
from cdp_container.format.holds import Hold
from cdp_container.format.keys import PACKS_PREFIX, KeyKind, ParsedKey, segment_key
from cdp_container.format.layout import ObjectKind
from cdp_container.format.place import Place

HOLD_DIGITS: Final = 8
"""Of a hold's id, as people are told of it."""
_TOLD: Final = "cut"


@dataclass(frozen=True, slots=True)
class Spared:
    """Keys that are no victims. `doubts`: of which holds nobody can tell what they need, and why."""

    keys: set[str]
    doubts: tuple[str, ...]


def past_cuts(tables: Tables, history: History, ledger: Ledger) -> list[PastCut]:
    """Every complete cut that is not retired, from segments that count and from what packs remember."""
    markers = _markers(tables)
    found: dict[tuple[int, int], PastCut] = {}
    for cut in (*_of_segments(tables), *_of_packs(tables, ledger)):
        place = cut.place
        span = history.spans.get(place.epoch)
        if span is None or not span.end or place.seq > span.end.seq:
            continue
        if ledger.is_retired(place.epoch, place.seq):
            continue
        named = tuple(markers.get((place.epoch, place.cut), ()))
        found[place.epoch, place.seq] = PastCut(place, cut.cut_time_ns, cut.stored_ns, cut.not_whole, named)
    return list(found.values())


def _of_segments(tables: Tables, rows: Ints | None = None) -> Iterator[CutFacts]:
    """Those whose last segments are some rows of the tables; None: all."""
    facts = tables.facts if rows is None else tables.facts[rows]
    of = np.arange(len(facts)) if rows is None else rows
    is_end = (facts["kind"] == ObjectKind.SEGMENT) & (facts["complete"] != 0)
    names = ("epoch", "cut", "number", "cut_time_ns", "stored_ns")
    columns = (facts[name][is_end].tolist() for name in names)
    for row, epoch, cut, seq, time_ns, stored_ns in zip(of[is_end].tolist(), *columns, strict=True):
        yield CutFacts(Place(epoch, cut, seq), tables.not_whole.get(row, ()), time_ns, stored_ns)


def _of_packs(tables: Tables, ledger: Ledger) -> Iterator[CutFacts]:
    """Their word counts for collected cuts alone, and comes after that of segments."""
    for row, records in tables.records.items():
        if tables.keys[row] not in ledger.packs:
            continue
        for record in records:
            value = record.value or {}
            if record.name == _TOLD and ledger.is_collected(int(value["epoch"]), int(value["seq"])):
                place = Place(int(value["epoch"]), int(value["cut"]), int(value["seq"]))
                not_whole = tuple(bytes.fromhex(source) for source in value["not_whole"])
                yield CutFacts(place, not_whole, int(value["cut_time_ns"]), int(value["stored_ns"]))


def _markers(tables: Tables) -> dict[tuple[int, int], list[CutMarker]]:
    """By (epoch, cut). Of several cuts with one name each counts: whoever asks for it gets the newest."""
    found: dict[tuple[int, int], list[CutMarker]] = {}
    for records in tables.records.values():
        for record in records:
            if record.name == "marker":
                marker = marker_of(record.key.decode("utf-8", "replace"), record.value or {})
                found.setdefault((record.place.epoch, record.place.cut), []).append(marker)
    return found


def spared_by_history(history: History, wholes: Iterable[Place]) -> set[str]:
    """The segments that the newest epoch's end and base and the newest whole cuts name."""
    span = history.spans[history.owner.epoch]
    places = [history.newest, history.owner.protected, *wholes, span.end, span.record.base, span.record.end]
    return {segment_key(place.epoch, place.seq) for place in places if place}


def spared_by_holds(
    holds: Mapping[str, Hold],
    history: History,
    inventory: Inventory,
    read_by: Callable[[ObjectName | None], Ledger],
) -> Spared:
    """Everything that readers may look for. `read_by` reads a ledger; raises one of BROKEN where it is none.

    An operator's hold keeps its cut, and no object: whoever reads it later finds it by the ledger in force.
    """
    keys: set[str] = set()
    doubts = []
    for hold_id, hold in holds.items():
        if hold.until_ns is not None or hold.cut is None:
            continue
        needed = _needed_by(hold, hold.cut, history, inventory, read_by)
        keys |= needed.keys
        who = f"the hold {hold_id[:HOLD_DIGITS]} of {hold.site!r} ({hold.purpose})"
        doubts += [f"{who} {why}: all that it may need stays" for why in needed.doubts]
    return Spared(keys, tuple(doubts))


def _needed_by(
    hold: Hold,
    cut: Place,
    history: History,
    inventory: Inventory,
    read_by: Callable[[ObjectName | None], Ledger],
) -> Spared:
    """What one reader may look for, who goes on by the ledger that its hold notes."""
    doubts = []
    try:
        ledger = read_by(hold.ledger)
        spared = set(ledger.packs)
    except BROKEN as error:
        doubts.append(f"notes a ledger that cannot be read ({error.what}: {error.why})")
        ledger = NO_LEDGER  # then it may look for what was collected, too
        spared = {key for key in inventory.found if key.startswith(PACKS_PREFIX)}
    if hold.ledger is not None:
        spared.add(hold.ledger.key)
    line, is_known = _line_of(cut, history)
    if not is_known:
        doubts.append(f"is on cut {cut.epoch}.{cut.cut}, which is none of the history")
    if line is None:
        return Spared(spared | _listed_up_to(inventory, range(cut.epoch + 1), None), tuple(doubts))
    for epoch, last in line.items():
        end = history.spans[epoch].end.seq
        spared |= {
            segment_key(epoch, seq)
            for seq in range(1, min(last, end) + 1)
            if not ledger.is_collected(epoch, seq)
        }
        if last > end:
            spared |= _listed_up_to(inventory, range(epoch, epoch + 1), last)
    return Spared(spared, tuple(doubts))


def _line_of(cut: Place, history: History) -> tuple[dict[int, int] | None, bool]:
    """For each epoch that a cut's image is made of the last seq, and whether the cut is one of the history.

    Beyond ends, too; None where the line leads to an epoch of which nothing is known.
    """
    line: dict[int, int] = {}
    is_known, place = True, cut
    while place:
        span = history.spans.get(place.epoch)
        if span is None or place.epoch in line:
            return None, False
        is_known = is_known and place.cut <= span.end.cut and place.seq <= span.end.seq
        line[place.epoch] = place.seq
        place = span.record.base
    return line, is_known


def _listed_up_to(inventory: Inventory, epochs: range, last: int | None) -> set[str]:
    """The segments that were listed of some epochs, up to a seq."""
    return {
        key
        for key, parsed in inventory.parsed.items()
        if parsed.kind is KeyKind.SEGMENT
        and parsed.epoch in epochs
        and (last is None or parsed.number <= last)
    }


def unnamed_of(
    inventory: Inventory, history: History, ledger: Ledger, superseded: Collection[str]
) -> list[Unnamed]:
    """What nothing names: collected, beyond an end, never in force, or `superseded` (catalogs)."""
    in_force = history.owner.ledger
    named = {*ledger.packs, *(() if in_force is None else (in_force.key,))}
    return [
        Unnamed(key, found.size, found.modified_ns)
        for key, found in sorted(inventory.found.items())
        if key not in named and (key in superseded or _is_unnamed(inventory.parsed[key], history, ledger))
    ]


def _is_unnamed(parsed: ParsedKey, history: History, ledger: Ledger) -> bool:
    if parsed.kind is KeyKind.CATALOG:
        return False
    if parsed.kind is not KeyKind.SEGMENT:
        # Of a later epoch than ours it is somebody's who knows more than we do.
        return parsed.epoch <= history.owner.epoch
    protected = history.owner.protected
    if (parsed.epoch, parsed.number) >= (protected.epoch, protected.seq):
        return False  # also beyond the end of an epoch whose next one has nothing to protect yet
    if ledger.is_collected(parsed.epoch, parsed.number):
        return True
    span = history.spans.get(parsed.epoch)
    last = 0 if span is None else span.end.seq
    return parsed.epoch < history.owner.epoch and parsed.number > last


def cut_facts(tables: Tables, keys: Collection[str]) -> Mapping[str, CutFacts]:
    """What a pack is to remember of the complete cuts whose last segments are among these keys, by key."""
    wanted = set(keys)
    rows = np.array([row for row, key in enumerate(tables.keys) if key in wanted], dtype=np.int64)
    return {segment_key(cut.place.epoch, cut.place.seq): cut for cut in _of_segments(tables, rows)}
