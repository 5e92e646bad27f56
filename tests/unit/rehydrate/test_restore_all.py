"""Several volumes at once: refused before anything is touched, and what was finished is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cdp_container.errors import AccessDenied, LocalDiskFull, TargetUnsuitable, UsageError
from cdp_container.format.keys import segment_key
from rehydrate.cli import targets
from tests.containers import Site, write
from tests.unit.rehydrate.conftest import Run, answer, damage


def two_volumes(site: Site, names: tuple[str, str] = ("a", "b")) -> None:
    """Two volumes, each written in a cut of its own."""
    first, second = (site.add_volume(name, 1 << 20) for name in names)
    site.begin_epoch()
    site.cut([write(first, 0, site.rng.randbytes(100_000))])
    site.protect(site.cut([write(second, 0, site.rng.randbytes(100_000))]))


def test_there_is_room_for_each_but_not_for_all(
    run: Run, empty: Site, place: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_volumes(empty)
    real = os.statvfs(out)
    fields = list(real)
    fields[0], fields[1], fields[4] = 1, 1, 150_000  # f_bsize, f_frsize, f_bavail
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(fields))
    code, _, stderr = run("restore", place, "--all", "--target-dir", out)
    assert code == LocalDiskFull.exit_code
    assert f"restore into {out / 'a.raw'}, {out / 'b.raw'}: " in stderr
    assert "200000 bytes will be written and 150000 are free" in stderr
    assert list(out.iterdir()) == []
    assert run("restore", place, "--volume", "a", "--target", out / "a.raw")[0] == 0


def test_what_is_finished_and_what_is_not_is_told(run: Run, empty: Site, place: Path, out: Path) -> None:
    two_volumes(empty)
    sound = (place / segment_key(1, 2)).read_bytes()
    damage(place, segment_key(1, 2), -5_000)
    code, stdout, stderr = run("restore", place, "--all", "--target-dir", out)
    assert (code, stdout) == (20, "")
    assert f"\nfinished: a in {out / 'a.raw'}\n" in stderr
    assert f"\nnot finished: b in {out / 'b.raw'}\n" in stderr
    assert sorted(path.name for path in out.iterdir()) == ["a.raw", "a.raw.partial.progress"]
    (place / segment_key(1, 2)).write_bytes(sound)
    report = answer(run, "restore", place, "--all", "--target-dir", out)
    assert (report["written_bytes"], report["resumed_bytes"]) == (100_000, 100_000)
    assert sorted(path.name for path in out.iterdir()) == ["a.raw", "b.raw"]


def test_two_volumes_of_one_name_are_told_by_their_ids(run: Run, empty: Site, place: Path, out: Path) -> None:
    two_volumes(empty, ("a", "a"))
    code, _, stderr = run("restore", place, "--all", "--target-dir", out)
    assert code == UsageError.exit_code
    assert "several have the name 'a'; their ids are" in stderr
    assert "another restore" not in stderr
    assert list(out.iterdir()) == []


def test_the_report_names_where_a_link_leads(run: Run, empty: Site, place: Path, out: Path) -> None:
    two_volumes(empty)
    (out / "real.raw").write_bytes(b"old")
    (out / "link").symlink_to(out / "real.raw")
    code, _, stderr = run("restore", place, "--volume", "a", "--target", out / "link")
    assert code == TargetUnsuitable.exit_code
    assert str(out / "real.raw") in stderr
    report = answer(run, "restore", place, "--volume", "a", "--target", out / "link", "--force")
    assert report["volumes"][0]["target"] == str(out / "real.raw")


@pytest.mark.parametrize("fault", ["a later volume is damaged", "the map cannot be removed"])
def test_a_finished_volume_keeps_no_map_of_an_earlier_restore(
    fault: str, run: Run, empty: Site, place: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_volumes(empty)
    sound = (place / segment_key(1, 1)).read_bytes()
    damage(place, segment_key(1, 1), -5_000)
    assert run("restore", place, "--volume", "a", "--target", out / "a.raw", "--on-damage", "map")[0] == 26
    (place / segment_key(1, 1)).write_bytes(sound)
    stale = out / "a.raw.damage.json"
    words = ("restore", place, "--all", "--target-dir", out, "--force")
    if fault == "a later volume is damaged":
        damage(place, segment_key(1, 2), -5_000)
        code, _, stderr = run(*words)
        assert (code, stale.exists()) == (20, False)
        assert f"removed {stale}" in stderr
    else:

        def denied(_: Path) -> None:
            raise AccessDenied(f"remove {stale}", "Permission denied")

        monkeypatch.setattr(targets, "remove_map", denied)
        code, _, stderr = run(*words)
        assert (code, (out / "b.raw").exists()) == (0, True)
        assert f"note: {out / 'a.raw'} is whole now, but cannot remove {stale}: Permission denied" in stderr
