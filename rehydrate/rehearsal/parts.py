"""What the stages ask of whatever is restored, volumes or trees, and the verdicts of checks.

How volumes do it stands in volumes; the order of stages in run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from rehydrate.plan import Totals
from rehydrate.restore import Report

PASSED: Final = "passed"
FAILED: Final = "failed"
NOT_CHECKED: Final = "not checked"
MACHINE: Final = "machine"
"""The kind of a check that a VM came up."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one check came to.

    Attributes:
        kind: "checksums", "names", "attributes", "fsck", "command" or MACHINE.
        subject: what was checked: a volume, a partition of it, a tree, a command, a VM.
        state: PASSED, FAILED or NOT_CHECKED.
        why: what was found, or why it was not checked.
        seconds: that it took; 0 where that is not known.
        excerpt: the end of what it printed.
    """

    kind: str
    subject: str
    state: str
    why: str
    seconds: float = 0.0
    excerpt: str = ""


@dataclass(frozen=True, slots=True)
class Restored:
    """One source as it was restored: `kind` is "volume" or "tree"."""

    kind: str
    name: str
    size_bytes: int
    path: Path


@dataclass(frozen=True, slots=True)
class Sampling:
    """How much of the content is fetched: a share of the requests, from 0 to 1, drawn by a seed.

    `on_demand`: what is asked for, when it is; the share is 0 then.
    """

    share: float = 1.0
    seed: int = 0
    on_demand: bool = False

    @property
    def is_all(self) -> bool:
        """Whether it is everything."""
        return self.share >= 1


class Part(Protocol):
    """Sources of one kind at one cut, on their way through the stages. Totals are exact."""

    @property
    def sources(self) -> list[Restored]:
        """Each with where it is, or will be."""
        ...

    @property
    def names(self) -> int:
        """How many names `make_names` makes."""
        ...

    def totals(self, sampling: Sampling) -> Totals:
        """What fetching so much of the content takes, exactly."""
        ...

    def make_names(self, told: Callable[[int], None]) -> None:
        """Make the namespace; `told` is given how many names were made since."""
        ...

    def fetch(self, sampling: Sampling, report: Report) -> None:
        """Fetch, verify, write and sync content; `report` may raise, where another reading is due."""
        ...

    def compared(self, told: Callable[[int], None]) -> Iterator[Verdict]:
        """Compare what was written, read again from the disk; `told` is given bytes read since."""
        ...
