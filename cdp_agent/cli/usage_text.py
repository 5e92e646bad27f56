"""What `cdp-agent usage` says: the account of a container, and two places beside each other. PURE.

JSON has bytes and nanoseconds, the unit in each name. What is counted does not belong here (cdp_agent.usage).
"""

from __future__ import annotations

from typing import Any, Final

from cdp_agent.cli.gc import planned_members, planned_text
from cdp_agent.collector.choose import SMALL_OBJECT_BYTES
from cdp_agent.usage.compare import UNEXPLAINED, Compared, Side
from cdp_agent.usage.kinds import Amount, Kind
from cdp_agent.usage.look import Look
from cdp_agent.usage.survey import Survey
from cdp_container.domain.point_settings import term_text
from cdp_container.domain.retention_policy import Retention
from cdp_container.errors import counted
from cdp_container.store.inventory import Standing
from cdp_container.telling import Members, size_text, table, time_text

LISTED_PER_REQUEST: Final = 1000
_TITLES: Final = {
    Kind.LIVE: "live: what the newest point needs",
    Kind.RULES: "kept by the rules (young, unproven, newest whole, bases)",
    Kind.WINDOW: "kept only for the window in which every cut is kept",
    Kind.THINNED: "kept only by hour, day, week or month",
    Kind.MARKERS: "kept only for markers",
    Kind.HOLDS: "kept only for holds",
    Kind.LOCK: "dead, kept only by the bucket's lock",
    Kind.DEAD: "dead: the next collections take it",
    Kind.SHARED: "dead, inside objects that are partly live: not yet worth packing",
    Kind.UNSPLIT: "dead, in frames that only the private key splits",
    Kind.INFORMATION: "information: domain/, catalogs, ledgers",
    Kind.OTHER: "other versions, which no reader gets",
    Kind.DELETE_MARKERS: "delete markers",
    Kind.UPLOADS: "parts of abandoned uploads",
    Kind.LEFT: "hidden files: a directory's own, and what writes left",
    Kind.FOREIGN: "foreign: names or content of others",
    Kind.UNTOLD: "not told apart",
}
_FOR_EVER: Final = "kept only since every cut is kept for ever"
_TERMS: Final = ("every", "hourly", "daily", "weekly", "monthly", "markers")


def usage_members(found: Look, seen: Survey) -> Members:
    """The account, for programs."""
    usage = seen.usage
    return {
        "schema": 1,
        "addresses": list(seen.addresses),
        "store_time_ns": max(found.now_ns, usage.newest_ns),
        "kinds": {
            kind.value: {**_amount(amount), "unknown": seen.unknown.get(kind)}
            for kind, amount in usage.amounts.items()
        },
        "total": _amount(usage.total),
        "retention": None if found.retention is None else _terms(found.retention),
        "keeps_all": None if found.retention is None else found.retention.keeps_all,
        "holds": len(found.holds),
        "everything_is_held": _everything_is_held(found),
        "last_collection": None if usage.collection is None else {
            "key": usage.collection[0], "time_ns": usage.collection[1]
        },
        "next_collection": None if found.found is None else planned_members(found.found),
        "oldest_upload_ns": usage.oldest_upload_ns or None,
        "locked_until_ns": usage.locked_until_ns or None,
        "locked_other_bytes": usage.locked_other_bytes,
        "places": [
            None if rules is None else {"versioned": rules.versioned, "lock_days": rules.lock_days}
            for rules in seen.rules
        ],
        "small_objects": usage.small_objects,
        "list_requests": _lists(usage.total),
        "doubts": [*found.doubts],
    }  # fmt: skip


def usage_text(found: Look, seen: Survey) -> list[str]:
    """The same, for people."""
    usage = seen.usage
    as_of = time_text(max(found.now_ns, usage.newest_ns))
    lines = [f"{' and '.join(seen.addresses)}, as of {as_of} by the store's clock", ""]
    rows = [
        [_title(kind, found.retention), *_cells(amount, usage.total, seen.unknown.get(kind))]
        for kind, amount in usage.amounts.items()
        if amount.objects or amount.bytes or kind in seen.unknown
    ]
    rows.append(["total", *_cells(usage.total, usage.total, None)])
    lines += [table(("what", "size", "bytes", "share", "objects"), rows), ""]
    lines += [_policy_text(found), *_collection_text(found, seen)]
    lines.append(
        f"requests: {_lists(usage.total)} list all of it; of its segments and packs "
        f"{usage.small_objects} are below {size_text(SMALL_OBJECT_BYTES)}, and cost more requests than bytes"
    )
    if usage.oldest_upload_ns:
        since = time_text(usage.oldest_upload_ns)
        lines.append(f"uploads: the oldest that nobody ended began {since}; --abort-uploads gives them back")
    if usage.locked_until_ns:
        lines.append(f"lock: the last of what is dead is locked until {time_text(usage.locked_until_ns)}")
    if usage.locked_other_bytes:
        lines.append(f"lock: {size_text(usage.locked_other_bytes)} of other versions are locked")
    lines += [f"not known: {kind.value.replace('_', ' ')}: {why}" for kind, why in seen.unknown.items()]
    lines += [f"not known: {doubt}" for doubt in found.doubts]
    return lines


def _title(kind: Kind, retention: Retention | None) -> str:
    for_ever = kind is Kind.WINDOW and retention is not None and retention.keeps_all
    return _FOR_EVER if for_ever else _TITLES[kind]


def _cells(amount: Amount, total: Amount, unknown: str | None) -> list[str]:
    if unknown is not None and not amount.objects:
        return ["not known", "", "", ""]
    share = f"{100 * amount.bytes / total.bytes:.1f} %" if total.bytes else ""
    return [size_text(amount.bytes), str(amount.bytes), share, str(amount.objects)]


def _amount(amount: Amount) -> dict[str, int]:
    return {"bytes": amount.bytes, "objects": amount.objects}


def _lists(total: Amount) -> int:
    return max(1, -(-total.objects // LISTED_PER_REQUEST))


def _terms(retention: Retention) -> dict[str, int | None]:
    return {f"{name}_seconds": getattr(retention, f"{name}_seconds") for name in _TERMS}


def _policy_text(found: Look) -> str:
    if found.retention is None:
        return "retention: not known"
    if found.retention.keeps_all:
        policy = "none, so every cut is kept for ever (`retention` in the agent's configuration)"
    else:
        terms = ((name, getattr(found.retention, f"{name}_seconds")) for name in _TERMS)
        policy = ", ".join(f"{name} {_term(seconds)}" for name, seconds in terms if seconds != 0)
    if found.found is None:
        return f"retention: {policy}"
    return f"retention: {policy}; {len(found.found.kept)} of {counted(len(found.found.cuts), 'cut')} kept"


def _term(seconds: int | None) -> str:
    return "forever" if seconds is None else term_text(seconds)


def _everything_is_held(found: Look) -> bool:
    return any(hold.cut is None for hold in found.holds.values())


def _collection_text(found: Look, seen: Survey) -> list[str]:
    done = seen.usage.collection
    lines = ["collection: never yet" if done is None else f"collection: the last one {time_text(done[1])}"]
    if found.owner is not None and found.owner.plan is not None:
        lines.append(f"collection: a plan is {found.owner.plan.state.value}")
    if found.holds:
        standing = f"holds: {counted(len(found.holds), 'hold')} in the roster (`rehydrate holds`)"
        if _everything_is_held(found):
            standing += "; one is on everything: nothing is collected while it stands"
        lines.append(standing)
    if found.found is not None:
        first, *rest = planned_text(found.found)
        lines += [f"collection, if it ran now: {first}", *rest]
    return lines


# --- two places ----------------------------------------------------------------------------------


def comparison_members(
    address: str, compared: Compared, here: Side, there: Side, unknown: list[str]
) -> dict[str, Any]:
    """Two places, for programs."""
    return {
        "address": address,
        "here": _sums(here),
        "there": _sums(there),
        "same": _amount(compared.same),
        "young_ns": compared.young_ns or None,
        "differences": {
            cause.name.lower(): {
                "why": cause.value,
                "objects": group.objects,
                "bytes": group.bytes,
                "examples": group.examples,
                "explained": cause not in UNEXPLAINED,
            }
            for cause, group in compared.groups.items()
        },
        "explained": compared.is_explained,
        "doubts": unknown,
    }


def comparison_text(
    address: str, compared: Compared, here: Side, there: Side, unknown: list[str]
) -> list[str]:
    """The same, for people."""
    rows = []
    for standing in Standing:
        ours, theirs = here.sums[standing], there.sums[standing]
        if ours.objects or theirs.objects:
            sizes = [size_text(ours.bytes), str(ours.objects), size_text(theirs.bytes), str(theirs.objects)]
            rows.append([standing.value, *sizes])
    lines = [f"beside {address}:", ""]
    lines += [table(("what stands", "here", "objects", "there", "objects"), rows), ""]
    lines.append(f"{counted(compared.same.objects, 'object')} the same, {size_text(compared.same.bytes)}")
    for cause, group in compared.groups.items():
        mark = "LOOK: " if cause in UNEXPLAINED else ""
        size = f"{counted(group.objects, 'object')}, {size_text(group.bytes)}"
        lines.append(f"{mark}{size}: {cause.value}")
        lines += [f"  {example}" for example in group.examples]
        if group.objects > len(group.examples):
            lines.append(f"  and {group.objects - len(group.examples)} more")
    if compared.young_ns:
        lines.append(f"young is what was stored here after {time_text(compared.young_ns)}")
    return [*lines, *(f"not known: {one}" for one in unknown)]


def _sums(side: Side) -> dict[str, dict[str, int]]:
    return {standing.name.lower(): _amount(amount) for standing, amount in side.sums.items()}
