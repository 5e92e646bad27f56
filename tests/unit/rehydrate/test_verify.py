"""`rehydrate verify` as an administrator runs it: what is chosen, how far a sample comes, what is filed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cdp_container.domain.verify_report import DAMAGED, SOUND, SOUND_SO_FAR
from cdp_container.format.keys import segment_key
from tests.containers import Site, write
from tests.unit.rehydrate.conftest import Run, answer, damage


@pytest.fixture
def site(empty: Site) -> Site:
    disk = empty.add_volume("disk", 100_000)
    empty.begin_epoch()
    for number in range(6):
        empty.cut([write(disk, 10_000 * number, empty.rng.randbytes(9_000))])
    fork = empty.cut([write(disk, 0, b"base")])
    empty.cut([write(disk, 0, b"only on the side branch")])
    empty.begin_epoch(base=fork)
    empty.protect(empty.cut([write(disk, 0, empty.rng.randbytes(9_000))]))
    return empty


@pytest.mark.parametrize(
    "options",
    [
        ("--newest", "--at", "1.1"),
        ("--newest", "--budget", "1GiB"),
        ("--budget", "1GiB", "--marker", "x"),
        ("--budget", "some"),
        ("--state", "file"),
    ],
)
def test_what_excludes_each_other_is_refused(
    run: Run, site: Site, place: Path, options: tuple[str, ...]
) -> None:
    code, stdout, _ = run("verify", place, *options)
    assert (code, stdout) == (2, "")


def test_the_newest_point_alone(run: Run, site: Site, place: Path) -> None:
    damage(place, segment_key(1, 8))  # of the side branch
    members = answer(run, "verify", place, "--newest")
    assert (members["verdict"], members["mode"], members["cut"]) == (
        SOUND,
        "newest",
        {"epoch": 2, "cut": 1, "seq": 1},
    )
    assert run("verify", place)[0] == 27
    damage(place, segment_key(1, 2))
    code, stdout, _ = run("verify", place, "--newest")
    assert code == 27
    assert segment_key(1, 2) in stdout


def test_samples_go_on_where_the_last_one_ended(run: Run, site: Site, place: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    rounds = []
    for _ in range(12):
        code, stdout, _ = run("verify", place, "--budget", "20KiB", "--state", state, "--json")
        assert code == 0
        members = json.loads(stdout)
        assert members["verdict"] == SOUND_SO_FAR
        rounds.append((members["coverage"]["round"], members["coverage"]["round_objects"]))
    assert rounds == sorted(rounds)
    assert rounds[-1][0] > 1
    assert "nothing wrong in what was read" in run("verify", place, "--budget", "20KiB", "--state", state)[1]


def test_a_sample_that_finds_something_goes_on_all_the_same(
    run: Run, site: Site, place: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    damage(place, segment_key(2, 1))  # the newest, which is read every time
    places = set()
    for _ in range(3):
        code, stdout, _ = run("verify", place, "--budget", "10KiB", "--state", state, "--json")
        assert code == 27
        assert json.loads(stdout)["verdict"] == DAMAGED
        places.add(state.read_bytes())
    assert len(places) == 3


def test_a_file_that_is_no_state_is_not_written_over(
    run: Run, site: Site, place: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    state.write_text("my notes")
    code, _, stderr = run("verify", place, "--budget", "20KiB", "--state", state)
    assert code == 4
    assert str(state) in stderr
    assert state.read_text() == "my notes"


@pytest.mark.parametrize("sound", [True, False])
def test_the_report_is_filed_whatever_was_found(
    run: Run, site: Site, place: Path, tmp_path: Path, sound: bool
) -> None:
    file = tmp_path / "report.json"
    if not sound:
        damage(place, segment_key(1, 2))
    code, stdout, _ = run("verify", place, "--report", file, "--json")
    assert code == (0 if sound else 27)
    members = json.loads(file.read_text())
    assert members == json.loads(stdout)
    assert members["report"] == "cdp-verification"
    assert members["verdict"] == (SOUND if sound else DAMAGED)
    assert members["software"].startswith("rehydrate ")
    assert [finding["key"] for finding in members["findings"]] == ([] if sound else [segment_key(1, 2)])


def test_a_replica_is_verified_unheld(run: Run, site: Site, place: Path) -> None:
    code, _, stderr = run("verify", place, "--replica")
    assert code == 0
    assert "unheld: " in stderr


def test_a_time_is_a_budget(run: Run, site: Site, place: Path) -> None:
    assert answer(run, "verify", place, "--budget", "1h")["coverage"]["read_objects"] > 10
