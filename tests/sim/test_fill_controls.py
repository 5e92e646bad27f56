"""Broken ways to note what is filled from outside: the simulator must catch each within the seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cdp_agent.streamer.engine import Engine
from cdp_agent.streamer.filling import FillingNotes, Machines, noted_anew
from cdp_agent.streamer.noted import Noted
from cdp_container.clock import Clock
from cdp_container.domain.identity import AgentIdentity
from cdp_container.journal.position import NOWHERE
from cdp_container.journal.shared import SplitterPage
from tests.sim.controls import assert_caught
from tests.sim.fill_world import FillWorld, fill_world_of

pytestmark = [pytest.mark.sim, pytest.mark.timeout(600)]

SEEDS = 100

Break = Callable[[pytest.MonkeyPatch, FillWorld], None]


def mark_at_the_tail_that_was_seen(patch: pytest.MonkeyPatch, world: FillWorld) -> None:
    """Takes what came since the journal was looked at for a part of the cuts before."""
    patch.setattr(Engine, "look_again", lambda self: self.filling.look(self._noted.splitter_page()))


def end_with_the_run(patch: pytest.MonkeyPatch, world: FillWorld) -> None:
    """Takes the end of a run for the end of the copy."""
    real = FillingNotes.__init__

    def begin(
        self: FillingNotes, identity: AgentIdentity, noted: Noted, clock: Clock, machines: Machines
    ) -> None:
        real(self, identity, noted, clock, machines)
        notes = self._noted.notes
        ended = tuple(replace(one, ended=True) for one in notes.filling)
        self._noted.notes = replace(notes, filling=ended)

    patch.setattr(FillingNotes, "__init__", begin)


def end_amid_an_overflow(patch: pytest.MonkeyPatch, world: FillWorld) -> None:
    """Believes that what was copied lies below the tail at which the journal was given up."""
    real = FillingNotes.look

    def look(self: FillingNotes, page: SplitterPage | None) -> None:
        real(self, None if page is None else replace(page, overflow_at=NOWHERE))

    patch.setattr(FillingNotes, "look", look)


def answer_before_it_is_durable(patch: pytest.MonkeyPatch, world: FillWorld) -> None:
    """Knows of it, and its next run does not."""

    def ask(self: FillingNotes, request: dict[str, Any]) -> dict[str, Any]:
        notes, answer = noted_anew(request, self._noted.notes, self._identity, self._clock.wall_ns())
        self._noted.notes = notes
        self._machines.look_again()
        return answer

    patch.setattr(FillingNotes, "ask", ask)


BROKEN = [
    mark_at_the_tail_that_was_seen,
    end_with_the_run,
    end_amid_an_overflow,
    answer_before_it_is_durable,
]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_is_caught(broken: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_caught(broken, fill_world_of, SEEDS, monkeypatch)
