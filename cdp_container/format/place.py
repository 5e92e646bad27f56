"""A place in a domain's history: the one ordering that counts. Clocks do not belong here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cdp_container.format.keys import EPOCH_MAX, NUMBER_MAX


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A cut (epoch, cut number) and the last segment that belongs to it; all 0 where there is none.

    Ordered by epoch, then cut, then segment, which is the order of history within one branch.
    """

    epoch: int
    cut: int
    seq: int

    def __bool__(self) -> bool:
        """Whether there is such a place at all."""
        return self.epoch > 0


NOWHERE: Final = Place(0, 0, 0)


def is_place(place: Place) -> bool:
    """Whether the numbers are those of a cut (all at least 1, and not beyond what keys hold) or of none."""
    numbers = (place.epoch, place.cut, place.seq)
    if place.epoch > EPOCH_MAX or max(place.cut, place.seq) > NUMBER_MAX:
        return False
    return all(numbers) or not any(numbers)
