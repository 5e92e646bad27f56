"""`rehydrate rescue` as it is typed on the day when there is no domain/ any more."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cdp_container.format.keys import segment_key
from cdp_container.store.directory import DirectoryStore
from tests.containers import Site, busy_container
from tests.unit.rehydrate.conftest import Run, answer, damage


@pytest.fixture
def site(place: Path) -> Site:
    site = busy_container(DirectoryStore(place))
    shutil.rmtree(place / "domain")
    return site


def test_what_is_complete_is_listed_and_restored_with_what_nobody_can_prove(
    run: Run, site: Site, place: Path, out: Path
) -> None:
    newest = max(site.images)
    found = answer(run, "rescue", place)
    assert found["points"][-1]["point"] == f"{newest.epoch}.{newest.cut}"
    assert found["domain"] == site.domain.hex()
    code, stdout, stderr = run("rescue", place)
    assert code == 0
    assert "--target" in stdout
    assert "nothing under domain/ was used" in stderr
    code, stdout, stderr = run("rescue", place, "--all", "--target-dir", out)
    assert code == 0, stderr
    assert "nothing under domain/ was used" in stderr
    disks = {path.read_bytes() for path in out.glob("*.raw")}
    assert disks == set(site.images[newest].values())


def test_an_older_point_is_had_by_name(run: Run, site: Site, place: Path, out: Path) -> None:
    first = min(site.images)
    target = out / "disk.raw"
    code, _, stderr = run(
        "rescue", place, "--at", f"{first.epoch}.{first.cut}", "--volume", "disk", "--target", target
    )
    assert code == 0, stderr
    assert target.read_bytes() in site.images[first].values()


def test_a_damaged_segment_is_left_out_and_named(run: Run, site: Site, place: Path) -> None:
    last = max(site.images)
    key = segment_key(last.epoch, last.seq)
    damage(place, key, 20)
    code, stdout, stderr = run("rescue", place)
    assert code == 0
    assert key in stderr
    assert f"{last.epoch}.{last.cut}" not in stdout.split()


def test_words_that_make_no_sense_are_refused(run: Run, site: Site, place: Path, tmp_path: Path) -> None:
    assert run("rescue", place, "--domain", "nonsense")[0] == 2
    assert run("rescue", place, "--domain", "ab" * 16)[0] == 12
    assert run("rescue", tmp_path / "nowhere")[0] == 11
    assert run("rescue", place, "--target", tmp_path / "x", "--all")[0] == 2
    (tmp_path / "empty").mkdir()
    code, _, stderr = run("rescue", tmp_path / "empty")
    assert code == 12
    assert "no object that can be read is there" in stderr


def test_a_wrong_passphrase_opens_nothing(
    run: Run, site: Site, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CDP_PASSPHRASE", "wrong")
    assert run("rescue", place)[0] == 30
