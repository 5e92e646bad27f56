"""Failover to a cut whose last segment was collected, and back from ends that were: by real processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from cdp_container.store.directory import DirectoryStore
from tests.e2e.processes import run
from tests.e2e.recovery import Sites, ask, ended, force_word, preambles, several_sites
from tests.e2e.site import BIN, Site
from tests.e2e.test_collection import SETTINGS, age, gc
from tests.e2e.test_failback import assert_disks, assert_goes_on, failback, lose
from tests.e2e.test_failover import VOLUMES, assert_nothing_copied, assert_restores, fill, fill_small, pids_in

pytestmark = pytest.mark.e2e

Images = dict[str, bytearray]
AGED_HOURS = 5
CHOSEN = "for-ever"


@contextmanager
def sites_at(store: Path) -> Iterator[Sites]:
    """The first one keeps every cut for two hours, and its agent runs."""
    store.mkdir()
    with several_sites(VOLUMES, str(store), {}) as sites:
        sites.first.write_config(*SETTINGS)
        sites.first.start()
        try:
            yield sites
        finally:
            for pid in pids_in(sites.first.journal):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)


def added(sites: Sites, name: str) -> Site:
    """A further site, with the same settings."""
    site = sites.add(name)
    site.config.write_text(site.config.read_text() + "\n".join(SETTINGS) + "\n")
    return site


def taken_over(sites: Sites, name: str, *options: str) -> Site:
    site = added(sites, name)
    ended(sites.begin(site, "--force", force_word(site), *options)).must()
    return site


def marked(site: Site, name: str, images: Images, seed: int, *options: str) -> None:
    fill(site, seed, images)
    site.marker(name, *options).must()


def collected(site: Site, images: Images, seed: int) -> None:
    """All that was written until now is old, some cuts are not, and a pass ran."""
    for number in range(8):
        marked(site, f"old-{seed}-{number}", images, seed + number)
    age(site, AGED_HOURS)
    marked(site, f"young-{seed}", images, seed + 8)
    assert gc(site)["deleted"]


def ends_in(site: Site) -> set[str]:
    """The points whose last segments are there."""
    found = preambles(DirectoryStore(site.container))
    return {f"{one.epoch}.{one.cut}" for one in found if one.complete}


def copied(images: Mapping[str, bytearray]) -> Images:
    return {name: bytearray(image) for name, image in images.items()}


def test_two_sites_are_lost_after_a_failover_to_a_cut_that_was_packed(tmp_path: Path) -> None:
    images: Images = {}
    with sites_at(tmp_path / "c") as sites:
        a = sites.first
        marked(a, CHOSEN, images, 4, "--keep", "forever")
        chosen = copied(images)
        collected(a, images, 10)
        point, newer = (ask(a, "plan", "--marker", name)["point"] for name in (CHOSEN, "young-10"))
        assert point not in ends_in(a), "its last segment was collected"
        a.agents[-1].kill_group()

        b = taken_over(sites, "b", "--marker", CHOSEN)
        assert_disks(b, chosen)
        assert_restores(b, chosen)
        fill_small(b, chosen)
        assert_nothing_copied(b)
        assert_restores(b, chosen)
        sites.lose(b)

        c = taken_over(sites, "c")
        assert_disks(c, chosen)
        fill(c, 30, chosen)
        assert_restores(c, chosen)
        assert_restores(c, images, "--at", newer)
        collected(c, chosen, 40)
        sites.lose(c)

        d = taken_over(sites, "d")
        assert_disks(d, chosen)
        fill_small(d, chosen)
        assert_restores(d, chosen)
        run_verify(d)


def test_a_site_whose_packed_base_is_all_there_is_is_lost_at_once(tmp_path: Path) -> None:
    """Nothing was written in the epoch that began there: whoever comes next finds its base by the ledger."""
    images: Images = {}
    with sites_at(tmp_path / "c") as sites:
        a = sites.first
        marked(a, CHOSEN, images, 4, "--keep", "forever")
        chosen = copied(images)
        collected(a, images, 10)
        assert ask(a, "plan", "--marker", CHOSEN)["point"] not in ends_in(a)
        a.agents[-1].kill_group()
        b = taken_over(sites, "b", "--marker", CHOSEN, "--no-start")
        c = taken_over(sites, "c")
        assert_disks(b, chosen)
        assert_disks(c, chosen)
        fill_small(c, chosen)
        assert_nothing_copied(c)
        assert_restores(c, chosen)


def test_back_to_a_site_whose_own_end_was_collected(tmp_path: Path) -> None:
    """Nothing tells any more where in its journal that was: all is compared, and all is right."""
    images: Images = {}
    with sites_at(tmp_path / "c") as sites:
        a = sites.first
        for _ in range(2):  # the first cut names the volumes, and is never all dead
            fill(a, 1, images)
        a.agents[-1].kill_group()
        end = ask(a, "plan")["point"]
        lost = taken_over(sites, "b")  # its epoch goes on from that end, which stays for as long
        fill(lost, 1, images)  # over all that the first site wrote
        sites.lose(lost)
        b = taken_over(sites, "c")
        collected(b, images, 10)
        assert end not in ends_in(b), "the first epoch's end was collected"

        rescued = tmp_path / "rescued"
        parts = tmp_path / "parts"
        for kind in ("log", "packs"):
            shutil.copytree(tmp_path / "c" / kind, parts / kind)
        words = [str(BIN / "rehydrate"), "rescue", str(parts), "--all", "--target-dir", str(rescued)]
        rescued.mkdir()
        run([*words, *b.secret_options()], b.environment(b.base / "home")).must()
        for name, image in images.items():
            assert (rescued / f"{name}.raw").read_bytes() == image, name

        failback(a, "--once").must()
        assert_disks(a, images)
        fill_small(b, images)
        sites.lose(b)
        failback(a, "--force", force_word(b)).must()
        assert_disks(a, images)
        assert_goes_on(a, images)
        lose(a)


def run_verify(site: Site) -> None:
    words = [str(BIN / "rehydrate"), "verify", site.store, *site.secret_options()]
    run(words, site.environment(site.base / "home")).must()
