"""Small limits, so that small worlds meet them, and a watch over every seal."""

from __future__ import annotations

import pytest

from cdp_agent.streamer import build, coalesce, steps
from cdp_container.domain import ends, heads, parallel
from cdp_container.format import limits, seal
from tests.sim.sealing import CountingGCM


@pytest.fixture(autouse=True)
def small_world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "OBJECT_BYTES_TARGET", 6_000)
    monkeypatch.setattr(
        build, "take_batch", lambda records, bytes_max: coalesce.take_batch(records, 24, 60_000)
    )
    monkeypatch.setattr(steps, "CATALOG_SEGMENTS", (4, 8, 16))
    monkeypatch.setattr(steps, "PUTS_MAX", 4)
    monkeypatch.setattr(steps, "WINDOW_BYTES_MAX", 40_000)
    monkeypatch.setattr(seal, "AESGCM", CountingGCM)
    # Threads would draw from the seed in an order of their own.
    for module in (parallel, heads, ends):
        monkeypatch.setattr(
            module, "in_parallel", lambda work, items, workers: map(work, items), raising=module is not heads
        )
