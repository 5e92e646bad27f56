"""Figures: medians of pairs, their quartiles, what they must reach, and the table of them. PURE.

How anything is measured does not belong here.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

NAME_COLUMNS = 84


@dataclass(frozen=True, slots=True)
class Figure:
    """One row. `values`: one of each pair or run, at least one; the median of them is the figure.

    `at_least` or `at_most` is what it must reach; with neither it is only told. `note` says what the reader
    must know beside it.
    """

    group: str
    name: str
    unit: str
    values: tuple[float, ...]
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        assert self.values, "a figure needs a measurement"
        assert self.at_least is None or self.at_most is None, "one side only"

    @property
    def value(self) -> float:
        """The median."""
        return statistics.median(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Between these lies the middle half of the values."""
        if len(self.values) == 1:
            return self.values[0], self.values[0]
        first, _, third = statistics.quantiles(self.values, n=4, method="inclusive")
        return first, third

    @property
    def is_missed(self) -> bool:
        """Whether the median does not reach what it must."""
        below = self.at_least is not None and self.value < self.at_least
        above = self.at_most is not None and self.value > self.at_most
        return below or above

    def document(self) -> dict[str, Any]:
        """Its members in bench.json."""
        members: dict[str, Any] = {
            "name": self.name,
            "group": self.group,
            "value": round(self.value, 4),
            "unit": self.unit,
            "runs": len(self.values),
            "quartiles": [round(quartile, 4) for quartile in self.quartiles],
        }
        if self.at_least is not None:
            members["at_least"] = self.at_least
        if self.at_most is not None:
            members["at_most"] = self.at_most
        if self.note:
            members["note"] = self.note
        return members


def ratios(pairs: Iterable[tuple[float, float]]) -> tuple[float, ...]:
    """Ours by theirs, pair by pair."""
    return tuple(ours / theirs for ours, theirs in pairs)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least so many percent of the values do not exceed."""
    assert values, "of nothing there is no percentile"
    assert 0 < percent <= 100, percent
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


def rendered(figures: Sequence[Figure], machine: str) -> str:
    """The table for people."""
    lines = [machine, "", f"{'figure':<{NAME_COLUMNS}}{'median':>9}{'quartiles':>17}{'runs':>6}  must reach"]
    group = ""
    for figure in figures:
        if figure.group != group:
            group = figure.group
            lines.append(f"-- {group}")
        lines.append(_line(figure))
        if figure.note:
            lines.append(f"     {figure.note}")
    missed = [figure.name for figure in figures if figure.is_missed]
    lines += ["", f"{len(missed)} missed: {'; '.join(missed)}" if missed else "nothing missed"]
    return "\n".join(lines)


def _line(figure: Figure) -> str:
    low, high = figure.quartiles
    must = "" if figure.at_least is None else f">= {figure.at_least:g}"
    must = must if figure.at_most is None else f"<= {figure.at_most:g}"
    name = f"{figure.name} [{figure.unit}]"
    told = "  MISSED" if figure.is_missed else ""
    between = f"{low:.2f} - {high:.2f}"
    return f"{name:<{NAME_COLUMNS}}{figure.value:>9.2f}{between:>17}{len(figure.values):>6}  {must}{told}"
