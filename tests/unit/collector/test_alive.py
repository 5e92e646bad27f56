"""Liveness of real objects: what resolution fetches for a retained cut is what is said to be live at it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from cdp_agent.collector.alive import AliveObjects, alive_of
from cdp_agent.collector.counting import Past, past_of
from cdp_agent.collector.inventory import take_inventory
from cdp_agent.collector.remembered import Remembered
from cdp_container.clock import SystemClock
from cdp_container.domain.contents import Contents
from cdp_container.domain.gathering import gather
from cdp_container.domain.history import History, read_history
from cdp_container.domain.image import Cut, cuts_of, runs_of, volumes_of
from cdp_container.domain.ledgers import NO_LEDGER
from cdp_container.extents.resolve import resolve
from cdp_container.format.keys import pack_key, segment_key
from cdp_container.format.layout import ObjectKind
from cdp_container.format.place import Place
from cdp_container.store.memory import MemoryStore
from tests.containers import Site, busy_container

Pieces = dict[str, set[tuple[bytes, int]]]
"""By object, which blocks of 512 bytes of which space."""


class Looked:
    """A container, read by a reader and by the collector."""

    def __init__(self, site: Site, store: MemoryStore, directory: Path) -> None:
        self.history: History = read_history(store)
        self.contents: Contents = gather(
            store, self.history.domain, site.reader_keys(), self.history.everything()
        )
        self.remembered = Remembered(directory, self.history.domain)
        self.past: Past = past_of(self.history)
        keys = site.reader_keys()
        take_inventory(store, self.history.domain, keys, self.remembered, self.past, NO_LEDGER)

    def close(self) -> None:
        self.contents.close()
        self.remembered.close()

    def cuts(self) -> list[tuple[dict[int, int], Cut]]:
        """All complete cuts of all branches, each with its own."""
        found = {
            cut.place: self.history.branch_of(cut.place)
            for epoch, last in self.history.everything().items()
            for cut in cuts_of(self.contents, {epoch: last})
        }
        everything = self.history.everything()
        return [(found[cut.place], cut) for cut in cuts_of(self.contents, everything)]

    def alive(self, retained: list[Place]) -> AliveObjects:
        return alive_of(self.remembered, self.past, NO_LEDGER, retained)

    def resolved(self, branch: dict[int, int], cut: Cut) -> Pieces:
        """What a restore of a cut takes, object by object."""
        pieces: Pieces = {}
        for volume in volumes_of(self.contents, branch, cut):
            runs = runs_of(self.contents, branch, volume.space)
            for piece in resolve(self.contents.extents(), runs, 0, volume.size_bytes):
                if piece["object"] >= 0:
                    key = self.contents.objects[piece["object"]].key
                    spread(pieces, key, volume.space, piece["offset"], piece["offset"] + piece["length"])
        return pieces


def spread(pieces: Pieces, key: str, space: bytes, start: int, end: int) -> None:
    """Byte by byte would be slow; of each 512 the first that is in it stands for them."""
    blocks = np.arange(start // 512, -(-end // 512)).tolist()
    pieces.setdefault(key, set()).update((space, block) for block in blocks)


def live(alive: AliveObjects) -> Pieces:
    pieces: Pieces = {}
    for row in alive.objects:
        named = segment_key if row["kind"] == ObjectKind.SEGMENT else pack_key
        key = named(int(row["epoch"]), int(row["number"]))
        for piece in alive.pieces(key):
            spread(pieces, key, piece["space"].tobytes(), piece["start"], piece["end"])
    return pieces


@pytest.fixture(params=[True, False], ids=["sealed", "plain"])
def looked(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Looked]:
    store = MemoryStore(SystemClock())
    site = busy_container(store, encrypted=request.param)
    with closing(Looked(site, store, tmp_path)) as looked:
        yield looked


@pytest.mark.parametrize("seed", range(4))
def test_whatever_a_retained_cut_resolves_to_is_live(looked: Looked, seed: int) -> None:
    cuts = looked.cuts()
    retained = random.Random(seed).sample(cuts, min(len(cuts), 3))
    alive = looked.alive([cut.place for _, cut in retained])
    everything = live(alive)
    for branch, cut in retained:
        taken = looked.resolved(branch, cut)
        assert set(taken) <= alive.needed_by([cut.place])
        for key, blocks in taken.items():
            assert blocks <= everything.get(key, set()), (key, cut)


def test_what_every_cut_keeps_is_all_there_is(looked: Looked) -> None:
    alive = looked.alive([cut.place for _, cut in looked.cuts()])
    whole = alive.objects["live_rows"] == alive.objects["rows"]
    assert whole.all()
    with_rows = alive.objects[alive.objects["rows"] > 0]
    assert (with_rows["live_bytes"] == with_rows["stored_bytes"]).all()


def test_records_that_cover_are_always_carried_on(looked: Looked) -> None:
    alive = looked.alive([])
    wanted = {
        segment_key(record.place.epoch, record.place.seq)
        for record in looked.contents.space_records
        if record.name in ("space=", "space-")
    }
    assert wanted
    for key in wanted:
        assert alive.records(key), key
    assert not alive.objects["dead"][alive.objects["live_records"] > 0].any()
