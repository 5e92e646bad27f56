"""Restores of every cut of a busy container, compared byte for byte with the model."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from cdp_container.clock import SystemClock
from cdp_container.domain.contents import Contents, gather
from cdp_container.domain.history import History, read_history
from cdp_container.domain.image import check_branch, cuts_of, runs_of, volumes_of
from cdp_container.format.place import Place
from cdp_container.store.memory import MemoryStore
from rehydrate.plan import Totals, VolumePlan, plan_volume
from rehydrate.restore import Source, restore_volume
from rehydrate.target import open_target
from tests.containers import Image, Site, busy_container


def plans_at(history: History, contents: Contents, place: Place) -> list[VolumePlan]:
    branch = history.branch_of(place)
    check_branch(contents, branch, history.bases())
    (cut,) = (cut for cut in cuts_of(contents, branch) if cut.place == place)
    return [
        plan_volume(volume, contents.extents(), runs_of(contents, branch, volume.space), contents.objects)
        for volume in volumes_of(contents, branch, cut)
    ]


def restored(site: Site, place: Place, directory: Path) -> Image:
    """Every volume of a cut, as files hold them."""
    history = read_history(site.store)
    contents = gather(site.store, history.domain, site.reader_keys(), history.everything())
    with closing(contents):
        source = Source(site.store, site.reader_keys(), contents)
        plans = plans_at(history, contents, place)
        return {plan.volume.space: run(source, plan, place, directory) for plan in plans}


def run(source: Source, plan: VolumePlan, place: Place, directory: Path) -> bytes:
    path = directory / f"{place.epoch}.{place.cut}.{plan.volume.name}"
    counted: list[Totals] = []
    with open_target(path, plan.volume.size_bytes, plan.totals.write_bytes, force=False) as target:
        done = restore_volume(source, plan, target, counted.append)
    assert sum(counted, Totals()) == done == plan.totals
    return path.read_bytes()


@pytest.mark.parametrize("encrypted", [True, False])
def test_every_cut_is_restored_as_the_model_says(encrypted: bool, tmp_path: Path) -> None:
    site = busy_container(MemoryStore(SystemClock()), encrypted=encrypted)
    for place, image in site.images.items():
        assert restored(site, place, tmp_path) == image
    assert not list(tmp_path.glob("*.partial"))
