"""The settings of a run, and the order of its pairs."""

from __future__ import annotations

import pytest

from bench.knobs import Knobs, alternating, knobs


def test_only_full_runs_are_a_proof() -> None:
    assert Knobs(pairs=9, seconds=2, mib=2048).is_proof
    assert not Knobs(pairs=8, seconds=2, mib=2048).is_proof
    assert not Knobs(pairs=9, seconds=2, mib=2047).is_proof


def test_the_environment_makes_it_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BENCH_PAIRS", "BENCH_SECONDS", "BENCH_MIB"):
        monkeypatch.delenv(name, raising=False)
    assert knobs().is_proof
    monkeypatch.setenv("BENCH_PAIRS", "1")
    assert knobs().pairs == 1


def test_pairs_alternate_and_keep_their_sides() -> None:
    order: list[str] = []

    def side(name: str) -> str:
        order.append(name)
        return name

    assert alternating(3, lambda: side("ours"), lambda: side("theirs")) == [("ours", "theirs")] * 3
    assert order == ["theirs", "ours", "ours", "theirs", "theirs", "ours"]
