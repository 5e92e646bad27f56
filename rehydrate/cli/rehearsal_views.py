"""How rehearsals look to people, and the members of each in a list. Whole reports: rehydrate.rehearsal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cdp_container.console import printable
from cdp_container.telling import table
from rehydrate.cli.text import seconds_text
from rehydrate.rehearsal.past import Past
from rehydrate.rehearsal.telling import failed_first, subject_text

Members = dict[str, Any]
_COPIED: Final = ("began", "began_ns", "ended_ns", "outcome", "address", "content", "operator", "host")


def outcome_text(report: Mapping[str, Any]) -> str:
    """A whole report in a few lines."""
    cut, rpo, rto = report["cut"], report["rpo"], report["rto"]
    lines = [f"DR-test: {report['outcome']}"]
    if cut is not None:
        lines.append(f"point {cut['point']} of {cut['time']}")
    if rpo is not None:
        lines.append(f"RPO {seconds_text(rpo['seconds'])}: {rpo['how']}")
    if rto is not None:
        lines.append(f"RTO {seconds_text(rto['seconds'])}: {rto['how']}")
    for one in report["machines"] or []:
        after = one["running_seconds"]
        if after is not None:  # the others are checks that failed, and told with their reason
            lines.append(f"VM {one['name']}: running after {seconds_text(after)}")
    lines += [
        f"{one['state']}: {subject_text(one['kind'], one['subject'])}: {one['why']}"
        for one in failed_first(report["checks"])
    ]
    lines += [f"left: {path}" for path in report["left"]]
    return "\n".join(map(printable, lines))


def past_members(past: Past) -> Members:
    """One rehearsal of the history; of what cannot be read all is None but `file` and `unreadable`."""
    report = past.members
    if report is None:
        return {
            "file": str(past.path),
            "unreadable": past.why,
            **dict.fromkeys(
                (*_COPIED, "domain", "point", "rpo_seconds", "rto_seconds", "machines", "checks"), None
            ),
        }
    checks, machines = report.get("checks"), report.get("machines")
    return {
        "file": str(past.path),
        "unreadable": None,
        **{name: report.get(name) for name in _COPIED},
        "domain": _inner(report, "domain", "name") or _inner(report, "domain", "id"),
        "point": _inner(report, "cut", "point"),
        "rpo_seconds": _inner(report, "rpo", "seconds"),
        "rto_seconds": _inner(report, "rto", "seconds"),
        "machines": dict(Counter(str(one.get("state")) for one in machines if isinstance(one, dict)))
        if isinstance(machines, list)
        else None,
        "checks": dict(Counter(str(one.get("state")) for one in checks if isinstance(one, dict)))
        if isinstance(checks, list)
        else None,
    }


def _inner(report: Mapping[str, Any], name: str, inner: str) -> object:
    value = report.get(name)
    return value.get(inner) if isinstance(value, dict) else None


def past_text(members: Sequence[Members]) -> str:
    """The history as a table, the oldest first."""
    if not members:
        return "no rehearsal yet"
    titles = (
        "BEGAN",
        "DOMAIN",
        "POINT",
        "OUTCOME",
        "CONTENT",
        "RPO",
        "RTO",
        "VMS",
        "CHECKS",
        "OPERATOR",
        "HOST",
    )
    return table(titles, [_row(one) for one in members])


def _row(one: Members) -> list[str]:
    if one["unreadable"] is not None:
        return [one["file"], "-", "-", f"unreadable: {one['unreadable']}", *["-"] * 7]
    machines = ", ".join(f"{count} {state}" for state, count in sorted((one["machines"] or {}).items()))
    checks = ", ".join(f"{count} {state}" for state, count in sorted((one["checks"] or {}).items()))
    cells = [one["began"], one["domain"], one["point"], one["outcome"], one["content"]]
    cells += [
        _seconds(one["rpo_seconds"]),
        _seconds(one["rto_seconds"]),
        machines,
        checks,
        one["operator"],
        one["host"],
    ]
    return [str(cell) if cell not in (None, "") else "-" for cell in cells]


def _seconds(value: object) -> str:
    return seconds_text(float(value)) if isinstance(value, int | float) else "-"
