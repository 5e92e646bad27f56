"""A picture of recovery points as one SVG file: when there are many, few or none, and which have names.

The same points always give the same bytes. No name can be more than text in it, whoever chose it. Which
points there are does not belong here (points).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final
from xml.sax.saxutils import escape

from cdp_container.console import printable
from cdp_container.domain.contents import Contents
from cdp_container.domain.history import History
from cdp_container.domain.image import Cut
from cdp_container.errors import counted
from cdp_container.format.holds import Hold
from cdp_container.telling import time_text

BINS: Final = 216
"""Stretches of time that are counted, each 5 wide."""
NAMES_MAX: Final = 400
"""Markers, and holds, that are drawn; beyond it they are counted."""
TEXT_CHARACTERS_MAX: Final = 28
"""A longer name is cut; the tooltip has more of it."""
GAP_SECONDS_MIN: Final = 600
GAP_SHARE: Final = 50
"""A hole is drawn where it is longer than one in so many of the whole time."""

_WIDTH, _HEIGHT = 1200, 500
_LEFT, _RIGHT = 70, 1150
_NAMES_TOP, _NAME_ROWS, _ROW = 78, 5, 15
_COUNTS_TOP, _COUNTS_BOTTOM = 170, 310
_HOLDS_TOP, _HOLD_ROWS = 318, 2
_SHARES_TOP, _SHARES_BOTTOM = 370, 440
_CHARACTER: Final = 6.6
_SECOND_NS: Final = 1_000_000_000
_DAY: Final = 86400
_TICKS: Final = (
    1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200,
    _DAY, 2 * _DAY, 7 * _DAY, 14 * _DAY, 30 * _DAY, 91 * _DAY, 365 * _DAY, 3650 * _DAY, 36500 * _DAY,
)  # fmt: skip
_TICKS_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class Drawing:
    """What is drawn: times in nanoseconds since 1970, one count or share for each of BINS stretches.

    Attributes:
        title: the domain.
        start_ns, end_ns: of the first and the last point by their own time.
        total: how many points there are.
        counts, side_counts: points of the main branch and of side branches.
        gaps: between which times there was none for long.
        names: markers.
        holds: what is held, and by whom; None for everything.
        shares: of what guests wrote, how much does not compress, from 0 to 1; None where nothing tells.
    """

    title: str
    start_ns: int
    end_ns: int
    total: int
    counts: Sequence[int]
    side_counts: Sequence[int]
    gaps: Sequence[tuple[int, int]]
    names: Sequence[tuple[int, str]]
    holds: Sequence[tuple[int | None, str]]
    shares: Sequence[float | None]


def drawing_of(history: History, contents: Contents, cuts: Sequence[Cut], holds: Iterable[Hold]) -> Drawing:
    """What is to be drawn of these cuts."""
    times = sorted(cut.time_ns for cut in cuts)
    start, end = (times[0], times[-1]) if times else (0, 0)
    main = history.branch_of(history.newest)
    counts, side_counts = [0] * BINS, [0] * BINS
    for cut in cuts:
        is_main = cut.place.seq <= main.get(cut.place.epoch, 0)
        (counts if is_main else side_counts)[_bin(cut.time_ns, start, end)] += 1
    raw, hard = [0] * BINS, [0] * BINS
    for segment in contents.segments.values():
        if start <= segment.cut_time_ns <= end:
            number = _bin(segment.cut_time_ns, start, end)
            raw[number] += segment.raw_bytes
            hard[number] += segment.incompressible_bytes
    at = {cut.place: cut.time_ns for cut in cuts}
    held = [(None if hold.cut is None else at.get(hold.cut), hold) for hold in holds]
    return Drawing(
        title=history.owner.name or history.domain.hex(),
        start_ns=start,
        end_ns=end,
        total=len(cuts),
        counts=counts,
        side_counts=side_counts,
        gaps=_gaps(times),
        names=sorted((cut.time_ns, name) for cut in cuts for name in cut.markers),
        holds=sorted(
            ((time, f"{hold.purpose} ({hold.site})") for time, hold in held if time or hold.cut is None),
            key=lambda one: (one[0] or 0, one[1]),
        ),
        shares=[min(h / r, 1.0) if r else None for h, r in zip(hard, raw, strict=True)],
    )


def _bin(time_ns: int, start_ns: int, end_ns: int) -> int:
    return min(BINS - 1, (time_ns - start_ns) * BINS // max(end_ns - start_ns, 1))


def _gaps(times: Sequence[int]) -> list[tuple[int, int]]:
    if not times:
        return []
    least = max(GAP_SECONDS_MIN * _SECOND_NS, (times[-1] - times[0]) // GAP_SHARE)
    return [(a, b) for a, b in pairwise(times) if b - a > least]


# --- drawing -------------------------------------------------------------------------------------


def svg_of(drawing: Drawing) -> str:
    """The picture, as a document of its own."""
    size = f'width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" role="img">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        _text(_LEFT, 28, f"Recovery points of {drawing.title}", size=18),
    ]
    if not drawing.total:
        return "\n".join([*lines, _text(_LEFT, 52, "There is none."), "</svg>\n"])
    lines.append(_text(_LEFT, 50, _summary(drawing), fill="#555555"))
    lines += _gap_bands(drawing)
    lines += _time_axis(drawing)
    lines += _count_bars(drawing)
    lines += _share_bars(drawing)
    lines += _name_ticks(drawing)
    lines += _hold_signs(drawing)
    return "\n".join([*lines, "</svg>\n"])


def _summary(drawing: Drawing) -> str:
    first, last = time_text(drawing.start_ns), time_text(drawing.end_ns)
    parts = [
        f"{counted(drawing.total, 'point')} from {first} to {last}",
        counted(len(drawing.names), "marker"),
        counted(len(drawing.gaps), "gap"),
        counted(len(drawing.holds), "hold"),
    ]
    sides = sum(drawing.side_counts)
    return ", ".join(parts + ([f"{sides} on side branches"] if sides else []))


def _place(drawing: Drawing) -> Callable[[int], float]:
    span = max(drawing.end_ns - drawing.start_ns, 1)
    return lambda time_ns: _LEFT + (_RIGHT - _LEFT) * (time_ns - drawing.start_ns) / span


def _gap_bands(drawing: Drawing) -> list[str]:
    x = _place(drawing)
    return [
        _rect(x(begin), _COUNTS_TOP, x(end) - x(begin), _SHARES_BOTTOM - _COUNTS_TOP, "#f6dcd6", "gap",
              f"no point from {time_text(begin)} to {time_text(end)}")
        for begin, end in drawing.gaps
    ]  # fmt: skip


def _count_bars(drawing: Drawing) -> list[str]:
    most = max(map(sum, zip(drawing.counts, drawing.side_counts, strict=True)))
    lines = _frame(_COUNTS_TOP, _COUNTS_BOTTOM, "points", str(most))
    height = _COUNTS_BOTTOM - _COUNTS_TOP
    for number, (count, side) in enumerate(zip(drawing.counts, drawing.side_counts, strict=True)):
        left, width = _column(number)
        top = _COUNTS_BOTTOM - height * count / most
        if count:
            lines.append(_rect(left, top, width, height * count / most, "#2f6f9f", "points", f"{count}"))
        if side:
            tall = height * side / most
            lines.append(_rect(left, top - tall, width, tall, "#c9a227", "side", f"{side}, side branch"))
    return lines


def _share_bars(drawing: Drawing) -> list[str]:
    lines = _frame(_SHARES_TOP, _SHARES_BOTTOM, "does not compress", "100 %")
    height = _SHARES_BOTTOM - _SHARES_TOP
    for number, share in enumerate(drawing.shares):
        if share is not None:
            left, width = _column(number)
            tall = max(height * share, 1.0)  # that there was something written is to be seen
            lines.append(
                _rect(left, _SHARES_BOTTOM - tall, width, tall, "#8a4f9e", "share", f"{share * 100:.0f} %")
            )
    return lines


def _column(number: int) -> tuple[float, float]:
    width = (_RIGHT - _LEFT) / BINS
    return _LEFT + number * width, width


def _name_ticks(drawing: Drawing) -> list[str]:
    x = _place(drawing)
    room = [0.0] * _NAME_ROWS
    lines = []
    for time_ns, name in drawing.names[:NAMES_MAX]:
        lines.append(
            _line(x(time_ns), _NAMES_TOP - 10, x(time_ns), _COUNTS_BOTTOM, "#1f7a3f", "marker",
                  f"{name} ({time_text(time_ns)})")
        )  # fmt: skip
        lines += _label(room, x(time_ns), _NAMES_TOP, name, "#1f7a3f")
    if len(drawing.names) > NAMES_MAX:
        lines.append(_text(_RIGHT, 28, f"{len(drawing.names) - NAMES_MAX} more markers", anchor="end"))
    return lines


def _hold_signs(drawing: Drawing) -> list[str]:
    x = _place(drawing)
    room = [0.0] * _HOLD_ROWS
    lines = (
        [_text(_LEFT - 8, _HOLDS_TOP + 12, "holds", anchor="end", fill="#555555")] if drawing.holds else []
    )
    for time_ns, words in drawing.holds[:NAMES_MAX]:
        if time_ns is None:
            lines += _label(room, _LEFT, _HOLDS_TOP + 12, f"everything: {words}", "#b3261e")
            continue
        lines.append(
            _line(x(time_ns), _COUNTS_TOP, x(time_ns), _HOLDS_TOP + 12, "#b3261e", "hold",
                  f"{words} ({time_text(time_ns)})")
        )  # fmt: skip
        lines += _label(room, x(time_ns), _HOLDS_TOP + 12, words, "#b3261e")
    return lines


def _label(room: list[float], x: float, top: float, words: str, fill: str) -> list[str]:
    """The words in the first row that has room for them there; none has: then the tooltip has to do."""
    shown = words if len(words) <= TEXT_CHARACTERS_MAX else words[: TEXT_CHARACTERS_MAX - 1] + "…"
    shown = printable(shown)
    wide = len(shown) * _CHARACTER + 8
    is_left = x + wide > _WIDTH
    begin = x - wide if is_left else x
    for row, used in enumerate(room):
        if begin >= used:
            room[row] = begin + wide
            return [
                _text(x - 3 if is_left else x + 3, top + row * _ROW, shown, fill=fill,
                      anchor="end" if is_left else "start")
            ]  # fmt: skip
    return []


def _time_axis(drawing: Drawing) -> list[str]:
    span = max((drawing.end_ns - drawing.start_ns) // _SECOND_NS, 1)
    step = next((tick for tick in _TICKS if span <= tick * _TICKS_MAX), _TICKS[-1])
    x, lines = _place(drawing), []
    first = -(-drawing.start_ns // (step * _SECOND_NS)) * step * _SECOND_NS
    ticks = range(first, drawing.end_ns + 1, step * _SECOND_NS)
    for time_ns in list(ticks)[: _TICKS_MAX + 1]:
        text = time_text(time_ns)
        shown = text[:10] if step >= _DAY else f"{text[5:10]} {text[11:16] if step >= 60 else text[11:19]}"
        lines.append(_line(x(time_ns), _COUNTS_TOP, x(time_ns), _SHARES_BOTTOM + 6, "#dddddd", "tick", text))
        lines.append(_text(x(time_ns), _SHARES_BOTTOM + 22, shown, anchor="middle", fill="#555555"))
    return [*lines, _text(_RIGHT, _SHARES_BOTTOM + 44, "UTC", anchor="end", fill="#555555")]


def _frame(top: int, bottom: int, words: str, most: str) -> list[str]:
    return [
        _line(_LEFT, bottom, _RIGHT, bottom, "#555555", "axis", ""),
        _text(_LEFT - 8, top + 10, most, anchor="end", fill="#555555"),
        _text(_LEFT - 8, bottom, "0", anchor="end", fill="#555555"),
        _text(_LEFT, top - 4, words, fill="#555555", size=11),
    ]


def _rect(x: float, y: float, width: float, height: float, fill: str, kind: str, told: str) -> str:
    return (
        f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{height:.1f}" '
        f'fill="{fill}"><title>{_safe(told)}</title></rect>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, stroke: str, kind: str, told: str) -> str:
    return (
        f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}">'
        f"<title>{_safe(told)}</title></line>"
    )


def _text(
    x: float, y: float, words: str, *, anchor: str = "start", fill: str = "#222222", size: int = 12
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}" font-size="{size}">'
        f"{_safe(words)}</text>"
    )


def _safe(words: str) -> str:
    """As text in XML, without what could not stand there or would turn lines around."""
    return escape(printable(words))
