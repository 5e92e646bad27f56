"""What of an image is sent: of a first reading what the base cut has otherwise, unless this epoch sent it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from cdp_agent.streamer.images import Images
from cdp_agent.streamer.payloads import Chunk
from cdp_container.domain.identity import DiskIdentity
from cdp_container.format.layout import ExtentKind
from cdp_container.format.segment import NewExtent
from tests.unit.streamer.test_joined import Said

BLOCK = 4096
SIZE = 64 * BLOCK
DISK, GONE, TREE = b"d" * 16, b"g" * 16, b"t" * 16
DISKS = (
    DiskIdentity("old", "db", "vda", GONE, SIZE, removed=True),
    DiskIdentity("data", "db", "vdb", DISK, SIZE),
)


@dataclass
class Base:
    """A comparison with a base cut in which every block of the disk holds `held`."""

    held: bytes
    asked: list[tuple[int, int, int]] = field(default_factory=list)
    closed: int = 0

    def different(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        for chunk in chunks:
            self.asked.append((chunk.source, chunk.offset, chunk.length))
            data = bytes(chunk.length) if chunk.data is None else bytes(chunk.data)
            if data != self.held * chunk.length:
                yield chunk

    def close(self) -> None:
        self.closed += 1


@dataclass
class Batch(Said):
    """One with these extents."""

    has: tuple[NewExtent, ...] = ()

    def extents(self) -> Iterator[NewExtent]:
        yield from self.has


def data(block: int, byte: bytes, blocks: int = 1, space: bytes = DISK) -> NewExtent:
    length = blocks * BLOCK
    return NewExtent(space, block * BLOCK, length, ExtentKind.DATA, byte * length)


def zeros(block: int, blocks: int = 1) -> NewExtent:
    return NewExtent(DISK, block * BLOCK, blocks * BLOCK, ExtentKind.ZERO)


def sent(images: Images, *extents: NewExtent, compare: bool) -> list[NewExtent]:
    return list(images.sent_of(Batch(1, DISK, lacking=(DISK,), compare=compare, has=extents)))


def images_over(base: Base | None) -> Images:
    return Images(DISKS, base)  # type: ignore[arg-type]  # what it asks


def test_of_a_first_reading_only_what_differs_is_sent() -> None:
    base = Base(b"x")
    images = images_over(base)
    tree = data(0, b"x", space=TREE)
    assert sent(images, tree, data(0, b"x"), data(1, b"y"), compare=True) == [tree, data(1, b"y")]
    assert base.asked == [(1, 0, BLOCK), (1, BLOCK, BLOCK)]


def test_what_this_epoch_sent_is_sent_again_whatever_the_base_has() -> None:
    """The guest wrote y, and x again, which a new imager reads: the container has y until it is told."""
    base = Base(b"x")
    images = images_over(base)
    assert sent(images, data(2, b"y"), compare=False) == [data(2, b"y")]
    assert base.asked == []
    assert sent(images, data(0, b"x", 4), compare=True) == [data(2, b"x")]
    assert base.asked == [(1, 0, 2 * BLOCK), (1, 3 * BLOCK, BLOCK)]


def test_zeros_are_sent_only_over_something() -> None:
    images = images_over(None)
    assert sent(images, zeros(0, 8), data(8, b"y"), compare=True) == [data(8, b"y")]
    assert sent(images, zeros(0, 16), compare=True) == [zeros(8)]
    over = images_over(Base(b"x"))
    assert sent(over, zeros(0, 8), compare=True) == [zeros(0, 8)]


def test_the_index_is_let_go_of_when_all_is_whole() -> None:
    base = Base(b"x")
    images = images_over(base)
    sent(images, data(0, b"y"), compare=False)
    assert base.closed == 0
    list(images.sent_of(Batch(1, DISK, has=(data(1, b"y"),))))
    assert base.closed == 1


def test_which_volumes_there_are_is_told() -> None:
    images = images_over(None)
    assert images.spaces == (DISK,)
    records = list(images.space_records(512))
    assert [(record.name, record.key) for record in records] == [("space-", GONE), ("space+", DISK)]
    assert b'"size_bytes":262144' in records[1].value.replace(b" ", b"")
