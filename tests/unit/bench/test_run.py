"""What a run leaves behind, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.knobs import Knobs
from bench.run import main, run
from bench.table import Figure

QUICK = Knobs(pairs=1, seconds=1, mib=32)


def met(_: Knobs) -> list[Figure]:
    return [Figure("one", "rate", "ratio", (0.9,), at_least=0.8)]


def missed(_: Knobs) -> list[Figure]:
    return [Figure("two", "seconds", "s", (4.0,), at_most=3.0)]


def test_a_missed_floor_fails_the_run_and_is_written(tmp_path: Path) -> None:
    result = tmp_path / "build" / "bench.json"
    assert run({"one": met}, QUICK, result) == 0
    assert run({"one": met, "two": missed}, QUICK, result) == 1
    names = [figure["name"] for figure in json.loads(result.read_text())]
    assert names == ["rate", "seconds"]


def test_what_was_measured_is_kept_where_a_later_group_fails(tmp_path: Path) -> None:
    def fails(_: Knobs) -> list[Figure]:
        raise SystemExit("restic is not installed")

    result = tmp_path / "build" / "bench.json"
    with pytest.raises(SystemExit, match="restic"):
        run({"one": met, "two": fails}, QUICK, result)
    assert [figure["group"] for figure in json.loads(result.read_text())] == ["one"]


def test_a_group_that_is_none_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ONLY", "lag,speed")
    assert main() == 2
    assert "ONLY=speed is none of capture" in capsys.readouterr().err
