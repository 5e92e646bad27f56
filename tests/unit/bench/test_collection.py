"""What the bench of collection compares with: the optimum, and what its volume knows to be live."""

from __future__ import annotations

import numpy as np
import pytest

from bench.collection import PAGE_BYTES, Written, optimum


@pytest.mark.parametrize(
    ("space", "hot", "copied"),
    [(1.25, 0.2, 1.693), (1.25, 0.8, 0.998), (1.15, 0.2, 3.016), (2.0, 0.2, 0.255)],
)
def test_the_optimum(space: float, hot: float, copied: float) -> None:
    """The first is what cleaning at a utilisation of 0.8 costs: a write amplification of 2.69."""
    assert optimum(space, hot) == pytest.approx(copied, abs=0.005)


def test_live_is_what_any_kept_cut_shows() -> None:
    site, random = Written(20, 1), np.random.default_rng(2)
    site.write_pages(np.arange(20))
    shown = {1: site.written_in.copy()}
    for cut in range(2, 12):
        site.write_pages(random.integers(0, 20, 6))
        shown[cut] = site.written_in.copy()
    for kept in ([1, 4, 11], [7, 11], [9, 10, 11], [11]):
        versions = {(page, int(cut)) for each in kept for page, cut in enumerate(shown[each])}
        assert site.live_bytes(kept) == len(versions) * PAGE_BYTES
