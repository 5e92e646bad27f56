"""A segment is the same, byte for byte, however its frames are packed; and few are under way at a time."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_container.format import limits
from cdp_container.format.codec import Compressor
from cdp_container.format.layout import Codec
from cdp_container.format.segment import PENDING_FRAMES_MAX, Pack, Packed, SegmentBuilder, StartPacking
from cdp_container.format.sums import block_sums, sum_count
from tests.unit.format import samples
from tests.unit.format.samples import DISK, fixed


@dataclass
class LazyPacking:
    """Packs a frame only when it is waited for: as late as any thread could."""

    waiting: int = 0
    waiting_max: int = 0
    packed: list[Packed] = field(default_factory=list)

    def __call__(self, work: Pack) -> Callable[[], Packed]:
        self.waiting += 1
        self.waiting_max = max(self.waiting, self.waiting_max)

        def outcome() -> Packed:
            self.waiting -= 1
            self.packed.append(work(Compressor()))
            return self.packed[-1]

        return outcome


def eager_packing(work: Pack) -> Callable[[], Packed]:
    """Packs at once: as early as any thread could."""
    packed = work(Compressor())
    return lambda: packed


def filled(seed: int, encrypted: bool, start: StartPacking | None) -> tuple[bytes, int]:
    """A full segment of compressible and random content at odd places, and how far it reached."""
    target = SegmentBuilder(samples.writer(encrypted), fixed("an object", 16), Compressor(), start)
    rng = random.Random(seed)
    at, taken = 0, 1
    while taken:
        at += rng.choice((0, 512, 4096))
        length = rng.choice((512, 4096, 65_536, 300_000))
        data = rng.randbytes(length) if rng.random() < 0.4 else bytes([rng.randrange(256)]) * length
        taken = target.add_data(DISK, at, data)
        at += taken
        if taken < length:
            break
    return target.finish(samples.facts()).data, at


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "sealed"])
@pytest.mark.parametrize("seed", range(3))
def test_segment_does_not_depend_on_when_frames_are_packed(seed: int, encrypted: bool) -> None:
    lazy = LazyPacking()
    expected = filled(seed, encrypted, None)
    assert filled(seed, encrypted, lazy) == expected
    assert filled(seed, encrypted, eager_packing) == expected
    assert len(expected[0]) > limits.OBJECT_BYTES_TARGET - limits.FRAME_RAW_BYTES_MAX


def test_few_frames_are_under_way() -> None:
    lazy = LazyPacking()
    filled(1, True, lazy)
    assert lazy.waiting_max == PENDING_FRAMES_MAX
    assert lazy.waiting == 0


def test_failed_packing_is_raised_and_not_taken_for_a_frame() -> None:
    def fail(work: Pack) -> Callable[[], Packed]:
        def outcome() -> Packed:
            raise MemoryError("no memory to compress")

        return outcome

    target = SegmentBuilder(
        samples.writer(encrypted=False), fixed("an object", 16), Compressor(Codec.ZSTD), fail
    )
    target.add_data(DISK, 0, b"x" * 4096)
    with pytest.raises(MemoryError, match="no memory to compress"):
        target.finish(samples.facts())


@given(st.integers(0, 20_000), st.integers(0, 20_000))
def test_sums_are_counted_as_they_are_made(offset: int, length: int) -> None:
    assert sum_count(offset, length) * 16 == len(block_sums(offset, bytes(length)))
