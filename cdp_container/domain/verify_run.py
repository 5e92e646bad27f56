"""One run of a verification: which objects, of which scope, by which budget.

Opening the container, holds and reports are its caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from cdp_container.clock import Clock
from cdp_container.domain.budget import Budget
from cdp_container.domain.durable import read_file, replace_file
from cdp_container.domain.sampling import (
    SEED_BYTES,
    STATE_BYTES_MAX,
    Sampling,
    Turn,
    build_turn,
    parse_turn,
    sample_of,
)
from cdp_container.domain.verify_types import Opened, Report, needed_scope
from cdp_container.domain.verifying import to_verify, verify
from cdp_container.errors import ConfigInvalid, DamagedObject, LimitExceeded
from cdp_container.store.api import Found

Progress = Callable[[Found], None]
Planned = Callable[[int, int], Progress]
"""Told how many objects and bytes are to be read, before the first; gives who is told of each."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """What a run by a budget found, and where the next one goes on."""

    report: Report
    turn: Turn


def verify_all(opened: Opened, planned: Planned) -> Report:
    """Every object that is there, and that nothing is missing of what recovery points need."""
    found = to_verify(opened, None)
    progress = planned(len(found), sum(one.size for one in found))
    return verify(opened, found, needed_scope(opened.history, opened.ledger), progress)


def verify_branch(
    opened: Opened, branch: Mapping[int, int], planned: Planned, is_newest_meant: bool
) -> Report:
    """All that one cut needs; `is_newest_meant`: see `verify`."""
    found = to_verify(opened, branch)
    progress = planned(len(found), sum(one.size for one in found))
    return verify(opened, found, branch, progress, is_newest_meant)


def verify_sample(
    opened: Opened, turn: Turn, budget: Budget, clock: Clock, planned: Planned, known: Collection[str] = ()
) -> Sampled:
    """What the budget is enough for, the newest first, and whatever it is what is `known`; see `sampling`."""
    scope = needed_scope(opened.history, opened.ledger)
    began_ns = clock.boottime_ns()
    sampling = Sampling(sample_of(to_verify(opened, None), scope, turn, frozenset(known)), turn, budget)
    found = sampling.read(lambda: (clock.boottime_ns() - began_ns) / 1e9)
    report = verify(opened, found, scope, planned(*sampling.most), is_sample=True)
    report.coverage = sampling.coverage(report.objects, report.stored_bytes)
    return Sampled(report, sampling.next_turn)


def load_turn(path: Path | None, entropy: Callable[[int], bytes]) -> Turn:
    """Where the last run ended; a fresh turn where there is no such file yet.

    Raises ConfigInvalid: it is not a state file, and is not to be written over.
    """
    data = None if path is None else read_file(path, STATE_BYTES_MAX)
    if data is None:
        return Turn(entropy(SEED_BYTES))
    try:
        return parse_turn(data, str(path))
    except (DamagedObject, LimitExceeded) as error:
        hint = "name another file, or remove it: then the reading in turn begins anew"
        raise ConfigInvalid(f"cannot go on by {path}", error.why, hint) from error


def save_turn(path: Path, turn: Turn) -> None:
    """Keep it. Raises LocalDiskFull, CdpError."""
    replace_file(path, build_turn(turn))
