"""Random histories: rehydrate restores what the model says, and what the independent reader restores."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdp_container.clock import SystemClock
from cdp_container.format.keys import segment_key
from cdp_container.format.place import Place
from cdp_container.store.memory import MemoryStore
from tests.containers import PASSPHRASE, Site, Write, discard, write, zero
from tests.reader import main
from tests.unit.rehydrate.test_restore import restored

SIZE = 30_000
SIZES_MAX = 40_000


@st.composite
def some_writes(draw: st.DrawFn, spaces: list[bytes], sizes: dict[bytes, int]) -> list[Write]:
    writes = []
    for _ in range(draw(st.integers(0, 4))):
        space = draw(st.sampled_from(spaces))
        if sizes[space] == 0:
            continue
        offset = draw(st.integers(0, sizes[space] - 1))
        length = draw(st.integers(1, sizes[space] - offset))
        match draw(st.integers(0, 4)):
            case 0:
                writes.append(zero(space, offset, length))
            case 1:
                writes.append(discard(space, offset, length))
            case _:
                pattern = draw(st.binary(min_size=1, max_size=5))
                writes.append(write(space, offset, (pattern * length)[:length]))
    return writes


class Drawn:
    """A container that hypothesis draws step by step."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.site = Site(MemoryStore(SystemClock()), encrypted=data.draw(st.booleans()))
        self.sizes = {self.site.add_volume(name, SIZE): SIZE for name in ("one", "two")}
        self.at: dict[Place, dict[bytes, int]] = {}
        self.site.begin_epoch()

    def step(self) -> None:
        """One more thing happens."""
        draw = self.data.draw
        match draw(st.integers(0, 9)):
            case 0:
                space = draw(st.sampled_from(list(self.sizes)))
                self.sizes[space] = draw(st.integers(0, SIZES_MAX))
                self.site.resize(space, self.sizes[space])
                self.cut()
            case 1 if self.site.images:
                base = draw(st.sampled_from(list(self.site.images)))
                self.sizes = dict(self.at[base])
                self.site.begin_epoch(base=base, skip=draw(st.integers(0, 2)))
            case 2 if self.site.images:
                self.site.zombie(draw(some_writes(list(self.sizes), self.sizes)))
                self.site.begin_epoch()
            case _:
                self.cut()

    def cut(self) -> None:
        """A cut of random writes."""
        writes = self.data.draw(some_writes(list(self.sizes), self.sizes))
        place = self.site.cut(writes, segments=self.data.draw(st.integers(1, 3)))
        self.at[place] = dict(self.sizes)

    def collect(self) -> None:
        """Perhaps pack the beginning of the first epoch, never what is not protected or the newest cut."""
        newest = max(self.site.images)
        self.site.protect(newest)
        seqs = [place.seq for place in self.site.images if place.epoch == 1 and place != newest]
        wanted = self.data.draw(st.booleans())
        if seqs and wanted:
            self.site.collect(1, 1, self.data.draw(st.sampled_from(seqs)))
            assert not list(self.site.store.list(segment_key(1, 1)))


@pytest.mark.slow
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(st.data())
def test_any_history_is_restored_as_the_model_and_the_independent_reader_say(data: st.DataObject) -> None:
    drawn = Drawn(data)
    for _ in range(data.draw(st.integers(1, 8))):
        drawn.step()
    drawn.cut()
    drawn.collect()
    site = drawn.site
    names = dict(zip(drawn.sizes, ("one", "two"), strict=True))
    with tempfile.TemporaryDirectory() as directory:
        copy, out = Path(directory, "copy"), Path(directory, "out")
        copy_container(site, copy)
        out.mkdir()
        for place, image in site.images.items():
            assert restored(site, place, out) == image
        place = data.draw(st.sampled_from(list(site.images)))
        for space, content in site.images[place].items():
            assert independently_read(copy, site, names[space], place) == content


def copy_container(site: Site, copy: Path) -> None:
    """What any S3 tool would fetch."""
    for found in site.store.list(""):
        path = copy / found.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(site.store.get(found.key).data)


def independently_read(copy: Path, site: Site, name: str, place: Place) -> bytes:
    """A volume as tests/reader.py restores it."""
    target = copy.parent / "read.raw"
    target.unlink(missing_ok=True)
    passphrase = copy.parent / "passphrase"
    passphrase.write_text(PASSPHRASE)
    secret = ["--passphrase-file", str(passphrase)] if site.encrypted else []
    cut = f"{place.epoch}.{place.cut}"
    assert main([str(copy), "restore", name, str(target), "--cut", cut, *secret]) == 0
    return target.read_bytes()
