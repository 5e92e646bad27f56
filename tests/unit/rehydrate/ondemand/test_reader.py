"""Reading on demand: always what the model holds, each frame once, within the limit; damage is an error."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from cdp_container.clock import SystemClock
from cdp_container.errors import CdpError, DamagedObject, Incomplete, MissingObject, StoreUnavailable
from cdp_container.format.place import Place
from cdp_container.store.memory import MemoryStore
from rehydrate.ondemand import frames as fetching
from rehydrate.ondemand import reader as reading
from rehydrate.ondemand.reader import Content, Reader
from tests.containers import Site, write, zero
from tests.trees import Tree
from tests.unit.rehydrate.trees import source_of
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

KIB, MIB = 1 << 10, 1 << 20
DISK_BYTES = 3 * MIB + 512


class Watched(MemoryStore):
    """Notes what ranges are asked for; content can be held back, be gone, fail, or come damaged."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.asked: list[tuple[str, int, int]] = []
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.watches = False
        self.error: Exception | None = None
        self.damaged: set[str] = set()
        self.cut_short = 0

    def get_range(self, key: str, start: int, length: int) -> bytes:
        data = super().get_range(key, start, length)
        if not self.watches:
            return data
        self.asked.append((key, start, length))
        assert self.may_answer.wait(30)
        if self.error is not None:
            raise self.error
        if key in self.damaged:
            data = bytes([data[0] ^ 1]) + data[1:]
        return data[: len(data) - self.cut_short]

    def is_asked(self, count: int) -> bool:
        return len(self.asked) >= count


@pytest.fixture
def store() -> Watched:
    return Watched()


@pytest.fixture
def site(store: Watched) -> Site:
    return Site(store, seed=4)


@pytest.fixture
def disk(site: Site) -> bytes:
    return site.add_volume("disk", DISK_BYTES)


@pytest.fixture
def last(site: Site, disk: bytes) -> Place:
    """A disk that was written here and there, over and over."""
    rng = random.Random(9)
    site.begin_epoch()
    site.cut([write(disk, at, rng.randbytes(64 * KIB)) for at in range(0, 2 * MIB, 64 * KIB)])
    for _ in range(6):
        changes = [
            write(disk, rng.randrange(DISK_BYTES - 20 * KIB), rng.randbytes(rng.randrange(1, 20 * KIB)))
            for _ in range(8)
        ]
        at = rng.randrange(DISK_BYTES - 200 * KIB)
        site.cut([*changes, zero(disk, at, rng.randrange(1, 200 * KIB))])
    return site.cut([write(disk, DISK_BYTES - 512, b"e" * 512)])


@contextmanager
def reader_of(
    site: Site, place: Place, told: list[CdpError] | None = None, cache_bytes: int = 64 * MIB
) -> Iterator[Reader]:
    store = site.store
    assert isinstance(store, Watched)
    notes = [] if told is None else told
    with source_of(site, place) as source:
        reader = Reader(source, {place.epoch: place.seq}, notes.append, cache_bytes, at_once=4)
        store.watches = True
        try:
            yield reader
        finally:
            store.may_answer.set()
            reader.close()
            store.watches = False


@pytest.mark.parametrize("cache_bytes", [0, 300 * KIB, 64 * MIB])
def test_any_range_is_what_the_model_holds(
    site: Site, disk: bytes, last: Place, cache_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "WINDOW_BYTES", 512 * KIB)
    monkeypatch.setattr(reading, "STEP_BYTES", 300 * KIB + 1)
    rng, image, content = random.Random(1), site.images[last][disk], Content(disk, DISK_BYTES)
    with reader_of(site, last, cache_bytes=cache_bytes) as reader:
        opened = reader.open(content)
        for _ in range(150):
            at, length = rng.randrange(DISK_BYTES + 5000), rng.choice([1, 512, 4096, 128 * KIB, MIB])
            got = opened.read(at, length) if rng.random() < 0.5 else reader.read(content, at, length)
            assert got == image[at : at + length]
            assert reader.frames.kept_bytes <= cache_bytes
        assert opened.read(0, DISK_BYTES + 1) == image


def test_an_older_cut_reads_as_it_was(site: Site, disk: bytes, last: Place) -> None:
    first = min(site.images)
    with reader_of(site, first) as reader:
        assert reader.read(Content(disk, DISK_BYTES), 0, DISK_BYTES) == site.images[first][disk]


def test_files_of_all_kinds(site: Site) -> None:
    site.begin_epoch()
    rng, home = random.Random(2), Tree(site)
    home.file(b"large", rng.randbytes(1_300_000))
    home.file(b"sparse", bytes(MIB) + b"end")
    home.file(b"holes", bytes(300_000))
    home.file(b"empty")
    for number in range(40):
        home.file(b"small %d" % number, rng.randbytes(number * 100))
    home.cut()
    home.write(b"large", rng.randbytes(900_000))
    home.write(b"small 30", b"short")
    place = home.cut()
    with reader_of(site, place) as reader:
        for path, name in home.names.items():
            content = Content(name.space, name.size_bytes)
            assert reader.open(content).read(0, 2 * MIB) == home.at[place].content(path), path


def test_who_reads_on_finds_it_fetched(site: Site, disk: bytes, last: Place, store: Watched) -> None:
    image = site.images[last][disk]
    with reader_of(site, last) as reader:
        opened = reader.open(Content(disk, DISK_BYTES))
        read = b"".join(opened.read(at, 4096) for at in range(0, DISK_BYTES, 4096))
        assert read == image
        sequential = len(store.asked)
        assert len({(key, at) for key, at, _ in store.asked}) == sequential, "nothing twice"
    store.asked.clear()
    with reader_of(site, last, cache_bytes=0) as reader:
        opened = reader.open(Content(disk, DISK_BYTES))
        assert b"".join(opened.read(at, 4096) for at in range(0, DISK_BYTES, 4096)) == image
    assert sequential < len(store.asked) // 10


def test_what_is_read_here_and_there_is_not_fetched_ahead(
    site: Site, disk: bytes, last: Place, store: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "NEAR_BYTES", 4096)
    with reader_of(site, last) as reader:
        opened = reader.open(Content(disk, DISK_BYTES))
        for at in (MIB, 5000, 2 * MIB, 900 * KIB):
            opened.read(at, 100)
        fetched = sum(length for _, _, length in store.asked)
    assert fetched < 4 * 2 * (256 * KIB + 4096)


def test_a_frame_that_many_want_is_fetched_once(site: Site, disk: bytes, last: Place, store: Watched) -> None:
    content, image = Content(disk, DISK_BYTES), site.images[last][disk]
    with reader_of(site, last) as reader, ThreadPoolExecutor(8) as pool:
        store.may_answer.clear()
        reads = [pool.submit(reader.read, content, 1000 + number, 100) for number in range(8)]
        wait_until(lambda: store.is_asked(1), "somebody asks", 30)
        store.may_answer.set()
        assert [one.result() for one in reads] == [image[1000 + n : 1100 + n] for n in range(8)]
        assert len(store.asked) == 1
        reader.read(content, 1000, 100)
        assert len(store.asked) == 1, "it is kept"


def test_many_threads_read_the_right_bytes(site: Site, disk: bytes, last: Place) -> None:
    image, content = site.images[last][disk], Content(disk, DISK_BYTES)

    def some(seed: int) -> bool:
        rng = random.Random(seed)
        opened = reader.open(content)
        return all(
            opened.read(at, 50_000) == image[at : at + 50_000]
            for at in (rng.randrange(DISK_BYTES) for _ in range(30))
        )

    with reader_of(site, last, cache_bytes=600 * KIB) as reader, ThreadPoolExecutor(6) as pool:
        assert all(pool.map(some, range(12)))


@pytest.mark.parametrize("kind", ["damaged", "short", "gone"])
def test_what_cannot_be_read_is_told_once_and_the_rest_goes_on(
    site: Site, disk: bytes, last: Place, store: Watched, kind: str
) -> None:
    told: list[CdpError] = []
    image, content = site.images[last][disk], Content(disk, DISK_BYTES)
    with reader_of(site, last, told) as reader:
        good = reader.read(content, DISK_BYTES - 512, 512)
        first = site.objects[0].key
        if kind == "damaged":
            store.damaged.add(first)
        elif kind == "gone":
            store.delete(first)
        else:
            store.cut_short = 1
        wanted = MissingObject if kind == "gone" else DamagedObject
        at = _only_in(site, disk, last)
        for _ in range(3):
            with pytest.raises(wanted, match=first):
                reader.read(content, at, 100)
        assert reader.read(content, DISK_BYTES - 512, 512) == good == image[-512:]
        store.damaged.clear()
        store.cut_short = 0
        if kind != "gone":
            assert reader.read(content, at, 100) == image[at : at + 100], "nothing wrong was kept"
    assert [type(error) for error in told] == [wanted]


def _only_in(site: Site, disk: bytes, last: Place) -> int:
    """Where 100 bytes are as the first cut left them, not read by anybody yet."""
    first, image = site.images[min(site.images)][disk], site.images[last][disk]
    return next(at for at in range(0, 2 * MIB, 1000) if first[at : at + 5000] == image[at : at + 5000])


def test_one_damaged_frame_spoils_no_other_of_its_request(
    site: Site, disk: bytes, last: Place, store: Watched
) -> None:
    content, image = Content(disk, DISK_BYTES), site.images[min(site.images)][disk]
    store.damaged.add(site.objects[0].key)  # the first byte of what is fetched: of its first frame
    with reader_of(site, min(site.images)) as reader:
        with pytest.raises(DamagedObject):
            reader.read(content, 0, 2 * MIB)
        count = len(store.asked)
        assert reader.read(content, MIB, 4096) == image[MIB : MIB + 4096]
        assert len(store.asked) == count, "it came with the damaged one, and was right"


def test_a_store_that_was_away_is_told_once_and_read_again(
    site: Site, disk: bytes, last: Place, store: Watched
) -> None:
    told: list[CdpError] = []
    content, image = Content(disk, DISK_BYTES), site.images[last][disk]
    with reader_of(site, last, told) as reader:
        for _ in range(2):
            store.error = StoreUnavailable("read", "it is away")
            for at in (0, MIB, 2 * MIB):
                with pytest.raises(StoreUnavailable):
                    reader.read(content, at, 5000)
            store.error = None
            assert reader.read(content, 2 * MIB - 70_000, 70_000) == image[2 * MIB - 70_000 : 2 * MIB]
            reader.frames._kept.clear()
    assert len(told) == 2


def test_an_error_that_nobody_expected_reaches_whoever_waits(
    site: Site, disk: bytes, last: Place, store: Watched
) -> None:
    store.error = ZeroDivisionError("a bug")
    with reader_of(site, last) as reader, pytest.raises(ZeroDivisionError):
        reader.read(Content(disk, DISK_BYTES), 0, 100)


def test_who_waits_is_told_when_it_ends(site: Site, disk: bytes, last: Place, store: Watched) -> None:
    content = Content(disk, DISK_BYTES)
    with reader_of(site, last) as reader, ThreadPoolExecutor(1) as pool:
        store.may_answer.clear()
        waiting = pool.submit(reader.read, content, 0, 100)
        wait_until(lambda: store.is_asked(1), "it waits", 30)
        reader.stop()
        with pytest.raises(Incomplete):
            waiting.result(30)
        with pytest.raises(Incomplete):
            reader.open(content).read(0, 100)


def test_no_more_than_some_frames_are_on_their_way_ahead(
    site: Site, disk: bytes, last: Place, store: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "AHEAD_FRAMES_MAX", 0)
    with reader_of(site, last) as reader:
        reader.ahead(Content(disk, DISK_BYTES), 0, DISK_BYTES)
        assert store.asked == []
        monkeypatch.setattr(fetching, "AHEAD_FRAMES_MAX", 512)
        reader.ahead(Content(disk, DISK_BYTES), 0, DISK_BYTES)
        assert reader.read(Content(disk, DISK_BYTES), 0, DISK_BYTES) == site.images[last][disk]
        assert reader.frames._ahead == 0
