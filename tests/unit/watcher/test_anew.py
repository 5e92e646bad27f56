"""An index that is lost is made anew from the heads of the base cut: only what differs is sent."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from cdp_agent.watcher.anew import Image
from cdp_agent.watcher.batch import check_batch, read_chunks, read_records
from cdp_agent.watcher.client import Taken
from cdp_agent.watcher.image import ContainerImage
from cdp_agent.watcher.stamp import RACY_NS
from cdp_container.clock import SystemClock
from cdp_container.errors import CdpError, StoreUnavailable
from cdp_container.format.place import Place
from cdp_container.store.memory import MemoryStore
from tests.containers import Site as Domain
from tests.unit.watcher.model import Site
from tests.waiting import wait_until
from tests.writes import Write

TRIES_MAX = 4


class StoredSite(Site):
    """A site whose batches become segments in a store, too."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.domain = Domain(MemoryStore(SystemClock()))
        self.domain.begin_epoch()
        self.stored = Place(0, 0, 0)
        self.error: CdpError | None = None

    def store_last(self, taken: Taken, fd: int) -> None:
        with os.fdopen(fd, "rb") as file:
            facts = check_batch(file)
            for record in read_records(file):
                self.domain.say(record)
            writes = []
            for extent in read_chunks(file, facts):
                self.domain.hold_space(extent.space, extent.offset + extent.length)
                data = None if extent.data is None else bytes(extent.data)
                writes.append(Write(extent.space, extent.offset, extent.length, extent.kind, data))
        self.stored = self.domain.cut(writes)
        self.domain.protect(self.stored)

    def take(self, hold: bool = True, lose: bool = False) -> Taken:
        real = self.watcher.take

        def keeping(epoch: int, cut: int, hold: bool) -> Taken:
            taken = real(epoch, cut, hold)
            if taken.fd is not None:
                self.store_last(taken, os.dup(taken.fd))
            return taken

        self.watcher.take = keeping  # type: ignore[method-assign]
        try:
            return super().take(hold, lose)
        finally:
            self.watcher.take = real  # type: ignore[method-assign]

    def no_image(self, base: Place) -> Image:
        if self.error is not None:
            raise self.error
        keys = self.domain.reader_keys()
        return ContainerImage(self.domain.store, self.domain.domain, keys.index_key or b"", self.stored)


def lose_index(site: StoredSite) -> None:
    site.watcher.close()
    for path in (site.directory / "watcher").glob("index.db*"):
        path.unlink()
    site.watcher = site.started()


@pytest.fixture
def site(tmp_path: Path) -> StoredSite:
    site = StoredSite(tmp_path)
    (site.tree / "a").mkdir()
    (site.tree / "a/whole").write_bytes(os.urandom(8192))
    (site.tree / "a/tail").write_bytes(os.urandom(4196))
    (site.tree / "gone").write_bytes(b"x" * 4096)
    (site.tree / "holes").write_bytes(b"\0" * (2 << 20) + os.urandom(4096))
    os.link(site.tree / "a/whole", site.tree / "link")
    site.begin()
    site.settle()
    return site


def test_no_store_no_takes(site: StoredSite) -> None:
    lose_index(site)
    site.error = StoreUnavailable("read", "down")
    site.begin()
    site.idle()
    with pytest.raises(CdpError, match="down"):
        site.take()
    site.watcher.close()


def test_a_damaged_index_is_made_anew(site: StoredSite) -> None:
    site.watcher.close()
    (site.directory / "watcher/index.db").write_bytes(b"nonsense" * 1000)
    site.watcher = site.started()
    site.begin()
    site.settle()
    site.assert_same()
    site.watcher.close()


def served(site: StoredSite) -> None:
    """What a streamer does: it begins again where anything fails."""
    for _ in range(TRIES_MAX):
        try:
            site.begin()
            site.settle()
            site.watcher.protected(site.epoch, site.place.cut)
        except CdpError:
            continue
        return
    raise AssertionError("it never became whole again")


@pytest.mark.parametrize("page", range(17))
def test_whatever_page_of_the_index_is_damaged_it_is_made_anew(site: StoredSite, page: int) -> None:
    site.watcher.close()
    index = site.directory / "watcher/index.db"
    assert index.stat().st_size > page * 4096, "the index has this page"
    (site.tree / "gone").unlink()
    (site.tree / "new").write_bytes(b"n" * 5000)
    with index.open("r+b") as file:
        file.seek(page * 4096)
        file.write(b"\xff" * 4096)
    site.watcher = site.started()
    served(site)
    site.assert_same()
    site.watcher.close()


def test_an_index_that_goes_bad_meanwhile_is_made_anew(site: StoredSite) -> None:
    site.watcher._index.run("DROP TABLE batches")
    with pytest.raises(CdpError, match="batches"):
        site.watcher.protected(site.epoch, site.place.cut)
    (site.tree / "new").write_bytes(b"n" * 5000)
    served(site)
    site.watcher._index.run("DROP TABLE batches")
    with pytest.raises(CdpError, match="batches"):
        site.watcher.place(1, site.epoch, site.place.cut)
    served(site)
    site.assert_same()
    site.watcher.close()


def test_only_what_differs_is_sent(site: StoredSite) -> None:
    lose_index(site)
    os.unlink(site.tree / "gone")
    with (site.tree / "a/whole").open("r+b") as file:
        file.write(b"first block")
    (site.tree / "new").write_bytes(b"n" * 4096)
    youngest_ns = os.stat(site.tree / "new").st_ctime_ns
    # What is read sooner may be read again for its other name, and is sent whole then.
    wait_until(lambda: time.time_ns() > youngest_ns + RACY_NS, "what was written to be of the past", 10)
    site.begin()
    site.idle()
    site.watcher.idle()
    taken = site.take()
    assert not taken.not_whole
    # A block of `whole`, all of `new`, and the end of `tail`: of parts of blocks heads have no sums.
    assert taken.content_bytes == 4096 + 4096 + 100
    site.settle()
    site.assert_same()
    site.watcher.close()


def test_a_base_that_the_index_does_not_know(site: StoredSite) -> None:
    (site.tree / "a/whole").write_bytes(b"beyond")
    site.watcher.take(site.epoch, 99, True)  # it comes into no cut
    site.epoch += 5
    site.watcher.begin(site.epoch, Place(site.epoch - 1, 7, 7))
    site.settle()
    site.assert_same()
    site.watcher.close()
