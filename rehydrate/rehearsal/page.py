"""The report of a rehearsal as one page of HTML that needs nothing from outside: inline SVG.

Every word may come from a container or out of a command, so all of it is escaped, and nothing is ever put
into a script, a style or an address. What the report says stands in report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, Final

from cdp_container.console import printable
from cdp_container.errors import ChecksFailed
from cdp_container.telling import size_text
from rehydrate.rehearsal.parts import FAILED, NOT_CHECKED, PASSED
from rehydrate.rehearsal.stages import MACHINES
from rehydrate.rehearsal.telling import failed_first, subject_text

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 900, 170, 90, 880, 24, 140
_COLOURS: Final = ("#2f6f9f", "#1f7a3f", "#8a4f9e")
_STYLE: Final = """
body{font-family:sans-serif;margin:2em auto;max-width:60em;color:#222;padding:0 1em}
table{border-collapse:collapse;margin:.5em 0}td,th{border:1px solid #ccc;padding:.25em .6em;text-align:left;
vertical-align:top}th{background:#f2f2f2}pre{background:#f6f6f6;padding:.6em;overflow-x:auto;white-space:pre-wrap}
.passed,.done{color:#1f7a3f}.failed,.checks-failed,.interrupted{color:#b3261e}.not-checked{color:#8a6d00}
"""
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"

Members = Mapping[str, Any]
Text = Callable[[float], str]


def html_of(report: Members) -> str:
    """The page of a report, as `report.members_of` gives it."""
    title = f"DR-test of {_domain_text(report)}"
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_safe(_POLICY)}">',
        f"<title>{_safe(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{_safe(title)}: {_state(report['outcome'])}</h1>",
        *_error(report["error"], report["checks"]),
        _pairs(_facts(report)),
        "<h2>Stages</h2>",
        _table(_STAGE_TITLES, [_stage_row(stage) for stage in report["stages"]]),
        "<h2>Over time</h2>",
        *_plots(report),
        *_machines(report.get("machines")),
        "<h2>Checks</h2>",
        *_checks(report["checks"]),
        "<h2>What was restored</h2>",
        *_sources(report["sources"]),
        *_list("Notes", report["notes"]),
        *_list("Left behind", report["left"]),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _domain_text(report: Members) -> str:
    domain = report["domain"]
    return str(domain["name"] or domain["id"]) if domain else str(report["address"])


def _error(error: Members | None, checks: Sequence[Members]) -> list[str]:
    """What ended it; where that is checks that failed, one a line."""
    if error is None:
        return []
    failed = (
        [one for one in checks if one["state"] == FAILED] if error["kind"] == ChecksFailed.__name__ else []
    )
    why = "" if failed else f": {error['why']}"
    words = _safe(f"{error['what']}{why} (exit code {error['exit_code']})")
    lines = (_safe(f"{subject_text(one['kind'], one['subject'])}: {one['why']}") for one in failed)
    listed = f"<ul>{''.join(f'<li>{line}</li>' for line in lines)}</ul>" if failed else ""
    return [f'<div class="failed"><p>{words}</p>{listed}<p>{_safe(error["hint"])}</p></div>']


def _facts(report: Members) -> list[tuple[str, str]]:
    cut, rpo, rto = report["cut"], report["rpo"], report["rto"]
    facts = [("Container", report["address"]), ("Began", report["began"]), ("Ended", report["ended"])]
    if cut is not None:
        markers = f", {', '.join(cut['markers'])}" if cut["markers"] else ""
        whole = "whole" if cut["whole"] else f"not whole: {', '.join(cut['not_whole'])}"
        proven = "protected" if cut["protected"] else "not yet protected"
        facts.append(("Cut", f"{cut['point']} of {cut['time']}{markers}; {whole}; {proven}"))
    if rpo is not None:
        stored = rpo["stored_seconds"]
        seen = "" if stored is None else f"; in the store for {_seconds(stored)}"
        facts.append(("RPO, measured", f"{_seconds(rpo['seconds'])}: {rpo['how']}{seen}"))
    if rto is not None:
        checked = rto["with_checks_seconds"]
        more = "" if checked is None else f"; {_seconds(checked)} with checks"
        running = rto.get("with_machines_seconds")
        if running is not None:
            more = f"; {_seconds(running)} until all VMs ran{more}"
        elif report.get("machines") is not None:
            more = f"; not all VMs came up{more}"
        facts.append(("RTO, measured", f"{_seconds(rto['seconds'])}: {rto['how']}{more}"))
    else:
        facts.append(("RTO, measured", f"none: content {report['content']}, or it did not come so far"))
    hold = report["hold"] or "none: unheld"
    versions = f"{report['software']}, format {report['format_version']}, Python {report['python']}"
    return [
        *facts,
        ("Content", report["content"]),
        ("Hold", f"{hold}; {report['readings']} reading{'' if report['readings'] == 1 else 's'}"),
        ("Run by", f"{report['operator']} on {report['host']}"),
        ("Versions", f"{versions}, {report['kernel']}"),
    ]


_STAGE_TITLES: Final = (
    "Stage",
    "How it ended",
    "Seconds",
    "Done of total",
    "Bytes",
    "Requests",
    "per second",
)


def _stage_row(stage: Members) -> list[str]:
    total = "?" if stage["total"] is None else str(stage["total"])
    kinds = ", ".join(f"{kind} {count}" for kind, count in stage["requests_by_kind"].items() if count)
    asked = [
        _safe(size_text(stage["done_bytes"] or stage["received_bytes"])),
        _safe(f"{stage['requests']}{f' ({kinds})' if kinds else ''}"),
        _safe(f"{stage['requests_per_second']:.1f} requests, {size_text(int(stage['bytes_per_second']))}"),
    ]
    if stage["name"] == MACHINES and not stage["requests"]:  # it asks nothing of the store by itself
        asked = ["-"] * len(asked)
    return [
        _safe(f"{stage['number']} {stage['name']}"),
        _state(stage["state"]),
        _safe(f"{stage['seconds']:.2f}"),
        _safe(f"{stage['done']} of {total} {stage['unit']}{_more(stage.get('detail'))}"),
        *asked,
    ]


def _more(detail: object) -> str:
    return f" ({detail})" if detail else ""


def _machines(machines: Sequence[Members] | None) -> list[str]:
    """A row for each VM, and one for each of its checks."""
    if machines is None:
        return []
    rows = []
    for one in machines:
        times = [_since(one[name]) for name in ("started_seconds", "running_seconds")]
        state = "passed" if one["state"] == "running" else "failed"
        shown = f'<span class="{state}">{_safe(one["state"])}</span>'
        rows.append([_safe(one["name"]), _safe(one["title"]), shown, *times, _safe(one["why"])])
        for check in one["checks"]:
            passed = check["passed_seconds"]
            missed = FAILED if check["tries"] else NOT_CHECKED
            verdict = _state(missed if passed is None else PASSED)
            rows.append(["", _safe(check["check"]), verdict, "", _since(passed), _safe(check["why"])])
    titles = ("VM", "Its name here, and its checks", "How", "Started after", "Running, passed after", "Why")
    since = "<p>Times are counted from the start of the command.</p>"
    return ["<h2>Machines</h2>", since, _table(titles, rows)]


def _since(seconds: float | None) -> str:
    return "-" if seconds is None else _safe(_seconds(seconds))


def _checks(checks: Sequence[Members]) -> list[str]:
    if not checks:
        return ["<p>None was made.</p>"]
    rows = [
        [
            _safe(one["kind"]),
            _safe(one["subject"]),
            _state(one["state"]),
            _safe(one["why"]),
            _safe(f"{one['seconds']:.1f} s") if one["seconds"] else "-",
        ]
        for one in failed_first(checks)
    ]
    printed = [one for one in checks if one["excerpt"].strip()]
    return [
        _table(("Check", "Of", "Verdict", "Why", "Took"), rows),
        *(
            f"<h3>{_safe(subject_text(one['kind'], one['subject']))}, the end of what it printed</h3>"
            f"<pre>{_safe(one['excerpt'], lines=True)}</pre>"
            for one in printed
        ),
    ]


def _sources(sources: Sequence[Members]) -> list[str]:
    if not sources:
        return ["<p>Nothing.</p>"]
    return [_table(("Kind", "Name", "Size", "Path"), [_source_row(one) for one in sources])]


def _source_row(source: Members) -> list[str]:
    return [
        _safe(source["kind"]),
        _safe(source["name"]),
        _safe(size_text(source["size_bytes"])),
        _safe(source["path"]),
    ]


# --- plots -----------------------------------------------------------------------------------------


def _plots(report: Members) -> list[str]:
    curves = report["curves"]
    if not curves:
        return ["<p>It was too short for a curve.</p>"]
    return [
        _plot(
            "Requests per second", "requests_per_second", report, _COLOURS[0], lambda value: f"{value:.0f}"
        ),
        _plot(
            "Bytes per second", "bytes_per_second", report, _COLOURS[1], lambda value: size_text(int(value))
        ),
        _plot("Requests in flight", "in_flight", report, _COLOURS[2], lambda value: f"{value:.0f}"),
    ]


def _plot(title: str, name: str, report: Members, colour: str, text: Text) -> str:
    curves = report["curves"]
    last = max(point["seconds"] for point in curves) or 1.0
    most = max(point[name] for point in curves) or 1.0

    def x(seconds: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * min(seconds / last, 1.0)

    def y(value: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * value / most

    places = " ".join(f"{x(point['seconds']):.1f},{y(point[name]):.1f}" for point in curves)
    size = f'width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" font-family="sans-serif" font-size="11">',
        f"<title>{_safe(title)}</title>",
        f'<text x="{_LEFT}" y="14" font-size="13">{_safe(title)}</text>',
        f'<text x="{_LEFT - 6}" y="{_TOP + 8}" text-anchor="end">{_safe(text(most))}</text>',
        f'<text x="{_LEFT - 6}" y="{_BOTTOM}" text-anchor="end">0</text>',
        f'<text x="{_RIGHT}" y="{_HEIGHT - 6}" text-anchor="end">{_safe(_seconds(last))}</text>',
        f'<line x1="{_LEFT}" y1="{_BOTTOM}" x2="{_RIGHT}" y2="{_BOTTOM}" stroke="#555"/>',
    ]
    for stage in report["stages"]:
        at = x(stage["began_seconds"])
        lines.append(f'<line x1="{at:.1f}" y1="{_TOP}" x2="{at:.1f}" y2="{_BOTTOM}" stroke="#bbb"/>')
        lines.append(f'<text x="{at + 2:.1f}" y="{_BOTTOM + 13}" fill="#555">{_safe(stage["number"])}</text>')
    lines.append(f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="1.5"/></svg>')
    return "\n".join(lines)


# --- pieces ----------------------------------------------------------------------------------------


def _pairs(facts: Sequence[tuple[str, str]]) -> str:
    rows = "".join(f"<tr><th>{_safe(name)}</th><td>{_safe(value)}</td></tr>" for name, value in facts)
    return f"<table>{rows}</table>"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells come escaped: some of them have a state's colour."""
    head = "".join(f"<th>{_safe(title)}</th>" for title in titles)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _list(title: str, words: Sequence[str]) -> list[str]:
    if not words:
        return []
    return [f"<h2>{_safe(title)}</h2><ul>{''.join(f'<li>{_safe(word)}</li>' for word in words)}</ul>"]


def _state(state: str) -> str:
    return f'<span class="{_safe(state.replace(" ", "-"))}">{_safe(state)}</span>'


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def _safe(words: object, lines: bool = False) -> str:
    """As text or in an attribute: escaped, and without what could not stand there or turns lines around."""
    return escape(printable(str(words), lines=lines), quote=True)
