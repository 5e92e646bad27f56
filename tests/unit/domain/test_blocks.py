"""What indexes tell of every block agrees with the content of the volumes, at every cut and in any window."""

from __future__ import annotations

from contextlib import closing

import pytest

from cdp_container.clock import SystemClock
from cdp_container.domain.blocks import SUM, UNKNOWN, ZEROS, blocks_of
from cdp_container.domain.gathering import gather
from cdp_container.domain.history import read_history
from cdp_container.domain.image import runs_of
from cdp_container.domain.ledgers import read_ledger
from cdp_container.format.limits import SUM_BLOCK_BYTES as BLOCK
from cdp_container.format.sums import block_sums
from cdp_container.store.memory import MemoryStore
from tests.containers import busy_container


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("collected", [False, True])
@pytest.mark.parametrize("window_blocks", [1000, 7])
def test_blocks_are_what_the_image_has(seed: int, window_blocks: int, collected: bool) -> None:
    store = MemoryStore(SystemClock())
    site = busy_container(store, seed)
    if collected:
        site.collect(1, 1, 2)
    history = read_history(store)
    keys = site.reader_keys()
    ledger = read_ledger(store, site.owner, keys)
    found = {ZEROS: 0, SUM: 0, UNKNOWN: 0}
    with closing(
        gather(store, history.domain, keys, history.everything(), ledger, keeps_sums=True)
    ) as contents:
        for place, images in site.images.items():
            branch = history.branch_of(place)
            for space, image in images.items():
                runs = runs_of(contents, branch, space)
                for start in range(0, len(image) // BLOCK * BLOCK, window_blocks * BLOCK):
                    end = min(start + window_blocks * BLOCK, len(image) // BLOCK * BLOCK)
                    blocks = blocks_of(contents, runs, start, end)
                    for number, kind in enumerate(blocks.kinds.tolist()):
                        found[kind] += 1
                        at = start + number * BLOCK
                        data = image[at : at + BLOCK]
                        if kind == ZEROS:
                            assert data == bytes(BLOCK), (place, at)
                        elif kind == SUM:
                            assert blocks.sums[number].tobytes() == block_sums(0, data), (place, at)
    assert min(found.values()) > 10, found
    assert found[UNKNOWN] < found[SUM], found
