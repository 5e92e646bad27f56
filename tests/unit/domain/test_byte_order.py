"""Strings put in order by words of eight bytes: as Python sorts them, whatever bytes they have."""

from __future__ import annotations

import random

import numpy as np
import pytest

from cdp_container.domain.byte_order import in_order, like_the_last
from cdp_container.extents.intervals import Ints

ALPHABETS = [b"ab", b"a\0", bytes(range(256))]
LENGTHS = [0, 1, 3, 7, 8, 9, 16, 17, 30]


def drawn(rng: random.Random) -> list[bytes]:
    """Strings of which some are equal, and some begin like others."""
    found = [
        bytes(rng.choices(rng.choice(ALPHABETS), k=rng.choice(LENGTHS))) for _ in range(rng.randrange(40))
    ]
    return [rng.choice(found)[: rng.choice([99, 8, 4])] if rng.random() < 0.5 else text for text in found]


def placed(texts: list[bytes]) -> tuple[memoryview, Ints, Ints]:
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    return memoryview(b"".join(texts)), np.cumsum(lengths) - lengths, lengths


@pytest.mark.parametrize("seed", range(300))
def test_as_python_sorts(seed: int) -> None:
    rng = random.Random(seed)
    texts = drawn(rng)
    groups = [rng.randrange(3) if seed % 2 else 0 for _ in texts]
    order, is_same = in_order(*placed(texts), np.array(groups, dtype=np.int64) if seed % 2 else None)
    meant = sorted(range(len(texts)), key=lambda at: (groups[at], texts[at]))
    assert order.tolist() == meant
    sorted_texts = [(groups[at], texts[at]) for at in meant]
    assert is_same.tolist() == [
        at > 0 and sorted_texts[at] == sorted_texts[at - 1] for at in range(len(meant))
    ]


@pytest.mark.parametrize("seed", range(100))
def test_whether_each_is_like_the_last(seed: int) -> None:
    texts = drawn(random.Random(seed))
    texts = [text for text in texts for _ in range(2)]
    found = like_the_last(*placed(texts)).tolist()
    assert found == [at > 0 and text == texts[at - 1] for at, text in enumerate(texts)]
