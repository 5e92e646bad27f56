"""Collectors with a fault each: the checks of these tests see what it costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cdp_agent.collector import collect, writing
from cdp_agent.collector.alive import AliveObjects, alive_of
from cdp_container.errors import CdpError
from tests.containers import discard, write
from tests.reader import ReaderError
from tests.unit.collector.collecting_site import HOUR, CollectedSite

pytestmark = pytest.mark.slow


def a_site() -> CollectedSite:
    """Data, a discard over it, cuts that come and go; all of it of an age at which it is collected."""
    site = CollectedSite(seed=9)
    disk = site.add_disk("disk", 300_000)
    site.begin_epoch()
    site.cut([write(disk, 0, site.rng.randbytes(100_000))])
    site.busy(10)
    site.cut([discard(disk, 0, 50_000)], marker="discarded")
    site.busy(20)
    return site


def lost(site: CollectedSite, tmp_path: Path) -> bool:
    """Whether a pass or two cost anything."""
    try:
        for _ in range(3):
            site.run_pass(tmp_path)
            site.sound(tmp_path / "out")
            site.time.sleep(2 * HOUR)
            site.busy(4)
    except (AssertionError, CdpError, ReaderError, KeyError):  # the last one: of a cut that is not there
        return True
    return False


def without_discards(monkeypatch: pytest.MonkeyPatch) -> None:
    """A discard is dropped while what it hides is there."""
    real = AliveObjects.pieces

    def pieces(self: AliveObjects, key: str) -> Any:  # noqa: ANN401
        found = real(self, key)
        return found[~found["is_void"]]

    monkeypatch.setattr(AliveObjects, "pieces", pieces)


def dropped_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing older is looked for beneath a void."""
    monkeypatch.setattr(AliveObjects, "over_data", lambda _, pieces: np.zeros(len(pieces), dtype=np.bool_))


def across_a_retained_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other retained cut ends no interval."""

    def of(remembered: Any, past: Any, ledger: Any, retained: Any) -> Any:  # noqa: ANN401
        return alive_of(remembered, past, ledger, retained[::2])

    monkeypatch.setattr(collect, "alive_of", of)


def without_cut_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs forget the cuts that they stand for."""
    monkeypatch.setattr(writing, "cut_facts", lambda *_: {})


def without_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs forget what spaces there are."""
    monkeypatch.setattr(AliveObjects, "records", lambda *_: [])


FAULTS: list[Callable[[pytest.MonkeyPatch], None]] = [
    without_discards,
    dropped_early,
    across_a_retained_cut,
    without_cut_records,
    without_records,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_is_seen(fault: Callable[[pytest.MonkeyPatch], None], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        fault(monkeypatch)
        assert lost(a_site(), tmp_path), fault.__doc__


def test_without_a_fault_nothing_is_lost(tmp_path: Path) -> None:
    assert not lost(a_site(), tmp_path)
