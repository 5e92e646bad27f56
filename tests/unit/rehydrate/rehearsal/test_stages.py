"""Stages as they are measured, on a clock that is set."""

from __future__ import annotations

import pytest

from rehydrate.cli.stage_lines import line_of
from rehydrate.rehearsal.counting import Counts
from rehydrate.rehearsal.stages import (
    BOOTED_NAMES,
    CONTENT,
    DONE,
    FAILED,
    INTERRUPTED,
    MACHINES,
    METADATA,
    NAMESPACE,
    RUNNING,
    Figures,
    Stages,
)
from rehydrate.rehearsal.telling import stage_members
from tests.unit.domain.holding_play import Now


class Shown:
    """Keeps all that it is told."""

    def __init__(self) -> None:
        self.under_way: list[Figures] = []
        self.at_end: list[Figures] = []

    def progress(self, figures: Figures) -> None:
        self.under_way.append(figures)

    def ended(self, figures: Figures) -> None:
        self.at_end.append(figures)


class Told:
    """Counts that are set."""

    def __init__(self) -> None:
        self.counts = Counts(get=7)

    def __call__(self) -> Counts:
        return self.counts


def test_done_of_total_rates_and_requests_from_zero() -> None:
    clock, shown, told = Now(), Shown(), Told()
    stages = Stages(clock, told, shown)
    clock.passes(2)
    with stages.stage(CONTENT, "requests") as stage:
        stage.expect(10, 1000)
        clock.passes(4)
        told.counts = Counts(get=15, received_bytes=400)
        stage.advance(4, 400)
    (figures,) = stages.ended
    assert shown.at_end == [figures]
    assert (figures.state, figures.number, figures.done, figures.total) == (DONE, 3, 4, 10)
    assert figures.counts == Counts(get=8, received_bytes=400)
    assert (figures.began_seconds, figures.seconds) == (2.0, 4.0)
    assert (figures.requests_per_second, figures.bytes_per_second) == (2.0, 100.0)
    assert figures.left_seconds == 6.0
    assert [one.state for one in shown.under_way] == [RUNNING, RUNNING]


def test_nothing_tells_how_long_it_takes_before_anything_is_done() -> None:
    stages = Stages(Now(), Told(), Shown())
    with stages.stage(METADATA, "objects") as stage:
        stage.expect(10)
    assert stages.ended[0].left_seconds is None
    assert stages.ended[0].requests_per_second == 0


def test_vms_that_run_tell_nothing_of_how_long_another_one_takes() -> None:
    clock, shown, told = Now(), Shown(), Told()
    stages = Stages(clock, told, shown, BOOTED_NAMES)
    with stages.stage(MACHINES, "VMs running") as stage:
        stage.expect(3)
        clock.passes(8)
        stage.at(1, "3 begun, 2 started, 1 running")
    under_way = shown.under_way[-1]
    assert stage_members(under_way)["left_seconds"] is None
    line = "stage 4 of 6, machines: running, 1 of 3 VMs running (3 begun, 2 started, 1 running) in 8.0 s"
    assert line_of(under_way, len(BOOTED_NAMES)) == line
    told.counts = Counts(get=9)
    with stages.stage(MACHINES, "VMs running") as stage:
        stage.expect(3)
        told.counts = Counts(get=10)  # what is asked of the store even so is told
    assert "1 requests (GET 1)" in line_of(stages.ended[-1], len(BOOTED_NAMES))
    with stages.stage(NAMESPACE, "names"):
        pass
    assert "0 requests" in line_of(stages.ended[-1]), "others might have asked it"


def test_how_a_stage_ends_is_told() -> None:
    shown = Shown()
    stages = Stages(Now(), Told(), shown)
    with pytest.raises(ValueError, match="no"), stages.stage(METADATA, "objects"):
        raise ValueError("no")
    with pytest.raises(KeyboardInterrupt), stages.stage(METADATA, "objects"):
        raise KeyboardInterrupt
    assert [one.state for one in shown.at_end] == [FAILED, INTERRUPTED]
