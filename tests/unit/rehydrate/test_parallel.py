"""A fixed number of requests at once: kept to exactly, for heads as for content."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from cdp_container.errors import UsageError
from cdp_container.store.directory import DirectoryStore
from rehydrate.flow import Flow
from tests.containers import Site, write
from tests.unit.rehydrate.conftest import Run
from tests.unit.rehydrate.test_flow import JumpingClock, Watched, identity


@pytest.mark.parametrize("fixed", [1, 5, 256])
def test_a_fixed_number_is_never_exceeded_nor_adapted(fixed: int) -> None:
    work, flow = Watched(), Flow(JumpingClock(), fixed)
    flow.refused()
    assert list(flow.run(work, range(1000), identity)) == list(range(1000))
    assert 1 <= work.most <= fixed
    assert flow.pace.in_flight == fixed


def test_heads_and_content_are_fetched_by_it(
    run: Run, empty: Site, place: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = empty.add_volume("db", 1 << 20)
    empty.begin_epoch()
    cuts = [empty.cut([write(disk, number * 4096, empty.rng.randbytes(4096))]) for number in range(40)]
    empty.protect(cuts[-1])
    real, lock, now, most = DirectoryStore.get_range, threading.Lock(), [0], [0]

    def get_range(store: DirectoryStore, key: str, start: int, length: int) -> bytes:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        try:
            return real(store, key, start, length)
        finally:
            with lock:
                now[0] -= 1

    monkeypatch.setattr(DirectoryStore, "get_range", get_range)
    target = out / "db.raw"
    code, _, stderr = run("restore", place, "--volume", "db", "--target", target, "--parallel", "1")
    assert code == 0, stderr
    assert most == [1]
    assert target.read_bytes() == empty.images[cuts[-1]][disk]


def test_a_number_that_is_none_is_refused(run: Run, place: Path, out: Path) -> None:
    for number in (0, 257):
        words = ("restore", place, "--target", out / "x", "--parallel", number)
        assert run(*words)[0] == UsageError.exit_code
