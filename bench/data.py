"""VM-like data, seeded: what file systems of guests hold, block by block.

Of the blocks of 64 KiB 15 % are zeros, 30 % are random (media, archives, encrypted files), 55 % are text of a
few thousand words, drawn as in a language, each with 32 random bytes at its start, so that no block is
another's copy. As a whole zstd at level 1 leaves 43 % of it.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np

BLOCK_BYTES = 64 << 10
ZERO_SHARE = 0.15
RANDOM_SHARE = 0.30
_POOL_BYTES = 16 << 20
_WORDS = 4096


class VmData:
    """Blocks, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._pool = _text(seed)

    def block(self, length: int = BLOCK_BYTES) -> bytes:
        """The next block."""
        kind = self._rng.random()
        if kind < ZERO_SHARE:
            return bytes(length)
        if kind < ZERO_SHARE + RANDOM_SHARE:
            return self._rng.randbytes(length)
        at = self._rng.randrange(len(self._pool) - length)
        return self._rng.randbytes(32) + self._pool[at : at + length - 32]

    def chunk(self, blocks: int) -> bytes:
        """Several blocks."""
        return b"".join(self.block() for _ in range(blocks))


def shuffled(count: int, seed: int) -> list[int]:
    """The numbers below `count`, in some order."""
    numbers = list(range(count))
    random.Random(seed).shuffle(numbers)
    return numbers


def fill(path: Path, mib: int, seed: int) -> None:
    """Make a file of VM-like data, durable: nothing of it is left to be written later on."""
    data = VmData(seed)
    with path.open("wb") as file:
        for _ in range(mib):
            file.write(data.chunk((1 << 20) // BLOCK_BYTES))
        file.flush()
        os.fsync(file.fileno())


def _text(seed: int) -> bytes:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(2, 11, _WORDS)
    words = [generator.integers(97, 123, int(length), dtype=np.uint8).tobytes() + b" " for length in lengths]
    picks = np.minimum(generator.zipf(1.2, _POOL_BYTES // 4) - 1, _WORDS - 1)
    return b"".join([words[pick] for pick in picks.tolist()])[:_POOL_BYTES]
