"""What a pass remembers: a cache that is damaged, foreign or gone costs time, and nothing else."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from cdp_agent.collector.alive import alive_of
from cdp_agent.collector.cache import NAME, CacheDamaged
from cdp_agent.collector.counting import Past
from cdp_agent.collector.remembered import Remembered
from cdp_container.domain.ledgers import NO_LEDGER
from cdp_container.extents.tables import Table
from cdp_container.format.place import NOWHERE, Place
from tests.liveness_story import DOMAIN, Story


@pytest.fixture
def written(tmp_path: Path) -> Story:
    """Ten cuts, of which the fifth and the newest are retained; found out once, and closed."""
    story = Story(random.Random(7), tmp_path)
    for _ in range(10):
        story.cut()
    story.retained = {story.cuts[4], story.newest}
    story.check()
    story.remembered.close()
    return story


def again(story: Story) -> None:
    """The next pass over the same, by what is remembered."""
    story.remembered = Remembered(story.directory, DOMAIN)
    try:
        story.check()
    finally:
        story.remembered.close()


def test_what_was_found_out_is_remembered(written: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Remembered, "extents_of", None)  # nothing is looked at again
    remembered = Remembered(written.directory, DOMAIN)
    past = Past(written.bases, written.lasts, written.newest)
    alive_of(remembered, past, NO_LEDGER, sorted(written.retained))
    remembered.close()


def test_a_retired_cut_costs_what_was_visible(written: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    remembered = Remembered(written.directory, DOMAIN)
    monkeypatch.setattr(Remembered, "extents_of", None)
    past = Past(written.bases, written.lasts, written.newest)
    alive_of(remembered, past, NO_LEDGER, [])
    monkeypatch.undo()
    remembered.close()
    written.retained = {written.newest}
    again(written)


@pytest.mark.parametrize("table", ["objects", "extents", "results", "pieces"])
def test_a_row_that_rotted_is_noticed(written: Story, table: str) -> None:
    with sqlite3.connect(written.directory / NAME) as db:
        db.execute(f"UPDATE {table} SET data = CAST(data || x'00' AS BLOB)")
    db.close()
    if table == "extents":  # read again where an interval is made anew
        written.retained = {written.cuts[2], written.cuts[6], written.newest}
    with pytest.raises(CacheDamaged):
        again(written)


@pytest.mark.parametrize("content", [b"", b"no database", bytes(100_000)])
def test_a_file_that_is_no_cache_is_begun_anew(written: Story, content: bytes) -> None:
    (written.directory / NAME).write_bytes(content)
    remembered = Remembered(written.directory, DOMAIN)
    assert len(remembered.tables().keys) == 0
    remembered.close()


def test_the_cache_of_another_domain_is_begun_anew(written: Story) -> None:
    remembered = Remembered(written.directory, bytes([9]) * 16)
    assert len(remembered.tables().keys) == 0
    remembered.close()


def test_facts_that_are_not_all_are_no_ground_to_go_by(written: Story) -> None:
    remembered = Remembered(written.directory, DOMAIN)
    remembered.forget([next(iter(written.objects))])
    past = Past(written.bases, written.lasts, written.newest)
    with pytest.raises(CacheDamaged, match="not every segment"):
        alive_of(remembered, past, NO_LEDGER, [])
    remembered.close()


def test_without_any_cut_nothing_is_live(tmp_path: Path) -> None:
    remembered = Remembered(tmp_path, DOMAIN)
    alive = alive_of(remembered, Past({1: NOWHERE}, {}, Place(0, 0, 0)), NO_LEDGER, [])
    assert len(alive.objects) == 0
    assert alive.needed_by([]) == set()
    remembered.close()


def test_extents_of_many_files_are_read_but_once_in_whatever_order(
    written: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    remembered = Remembered(written.directory, DOMAIN)
    runs = remembered.tables().runs
    runs = runs[runs["count"] > 0]
    in_order = remembered.extents_of(runs)
    asked: list[tuple[int, int]] = []
    real = Remembered._part

    def part(self: Remembered, number: int, part: int) -> Table:
        asked.append((number, part))
        return real(self, number, part)

    monkeypatch.setattr(Remembered, "_part", part)
    backwards = remembered.extents_of(runs[::-1])
    remembered.close()
    assert len(asked) == len(set(asked)) > 0
    firsts = np.cumsum(runs["count"]) - runs["count"]
    pieces = [in_order[at : at + count] for at, count in zip(firsts, runs["count"], strict=True)]
    assert np.concatenate(pieces[::-1]).tobytes() == backwards.tobytes()
