"""A place in the journal. Pure.

What does not belong here: which position is the earlier one. Generations are named by random
numbers, so only a reader of the journal's files knows their order (`reader.JournalReader`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Position:
    """The byte `offset` of the records of `generation`; generation 0 means nowhere."""

    generation: int
    offset: int

    def __str__(self) -> str:
        return f"{self.generation:016x}+{self.offset}"


# Where something is that was never written, published or proven.
NOWHERE: Final = Position(0, 0)
