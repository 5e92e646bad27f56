"""Which point a restore takes, and what it says of those that it cannot take: never silently an older one."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdp_container.errors import DamagedObject, MissingObject, NoSuchPoint, NoSuchVolume, PointsDamaged
from cdp_container.format.keys import OWNER_KEY, segment_key
from cdp_container.format.names import skewed
from cdp_container.format.records import make_record
from tests.containers import Site, write
from tests.unit.rehydrate.conftest import Run, answer, damage


def nightly(site: Site) -> None:
    """Four cuts of one volume; the first and the third have the same name."""
    disk = site.add_volume("disk", 1 << 20)
    site.begin_epoch()
    for letter, marker in ((b"a", "nightly"), (b"b", None), (b"c", "nightly")):
        site.cut([write(disk, 0, letter * 4096)], marker=marker)
    site.protect(site.cut([write(disk, 0, b"d" * 4096)]))


def test_a_marker_whose_newest_cut_is_damaged_is_not_silently_an_older_one(
    run: Run, empty: Site, place: Path, out: Path
) -> None:
    nightly(empty)
    damage(place, segment_key(1, 3), 700)
    for command in (("plan",), ("restore", "--target", out / "disk.raw")):
        code, stdout, stderr = run(command[0], place, "--marker", "nightly", *command[1:])
        assert code == 20
        assert stdout == ""
        assert segment_key(1, 3) in stderr
        assert "--at 1.1" in stderr.splitlines()[-1]
    assert list(out.iterdir()) == []
    assert answer(run, "plan", place, "--at", "1.1")["markers"] == ["nightly"]


def test_a_missing_segment_may_have_had_the_marker_too(run: Run, empty: Site, place: Path) -> None:
    nightly(empty)
    (place / segment_key(1, 2)).unlink()
    code, _, stderr = run("plan", place, "--marker", "nightly")
    assert code == MissingObject.exit_code
    assert "--at 1.1" in stderr.splitlines()[-1]


def test_what_is_broken_is_told_whatever_is_planned(run: Run, empty: Site, place: Path) -> None:
    nightly(empty)
    damage(place, segment_key(1, 3), 700)
    code, _, stderr = run("plan", place, "--at", "1.2")
    assert code == 0
    assert f"note: {segment_key(1, 3)}" in stderr


def test_points_say_which_of_them_cannot_be_restored(run: Run, empty: Site, place: Path) -> None:
    nightly(empty)
    (place / segment_key(1, 3)).unlink()
    found = {item["point"]: item["broken"] for item in answer(run, "points", place)["points"]}
    assert found["1.1"] is None
    assert found["1.2"] is None
    assert segment_key(1, 3) in found["1.4"]
    lines = run("points", place)[1].splitlines()
    assert [f"broken: {segment_key(1, 3)}" in line for line in lines] == [False, False, False, True]


def test_a_fault_breaks_the_branches_that_lead_through_it_and_no_other(
    run: Run, empty: Site, place: Path
) -> None:
    disk = empty.add_volume("disk", 1 << 20)
    empty.begin_epoch()
    fork = empty.cut([write(disk, 0, b"a" * 4096)])
    empty.cut([write(disk, 0, b"b" * 4096)])
    empty.begin_epoch(base=fork)
    empty.cut([write(disk, 0, b"c" * 4096)])
    (place / segment_key(2, 1)).unlink()
    empty.cut([write(disk, 0, b"d" * 4096)])
    empty.protect(empty.cut([write(disk, 0, b"e" * 4096)]))
    found = {item["point"]: item["broken"] for item in answer(run, "points", place)["points"]}
    assert [point for point, broken in found.items() if broken] == ["2.2", "2.3"]
    (place / segment_key(1, 1)).unlink()
    found = {item["point"]: item["broken"] for item in answer(run, "points", place)["points"]}
    assert all(segment_key(1, 1) in broken for broken in found.values())


def test_a_refusal_names_the_newest_point_that_can_be_restored(run: Run, empty: Site, place: Path) -> None:
    nightly(empty)
    (place / segment_key(1, 3)).unlink()
    for choice in ((), ("--time", "2033-01-01T00:00:00Z"), ("--at", "1.4")):
        code, _, stderr = run("plan", place, *choice)
        assert code == MissingObject.exit_code
        assert "--at 1.2" in stderr.splitlines()[-1]


def test_a_lost_newest_point_is_refused_with_the_newest_that_is_left(
    run: Run, empty: Site, place: Path
) -> None:
    nightly(empty)
    (place / segment_key(1, 4)).unlink()
    for choice in ((), ("--time", "2033-01-01T00:00:00Z"), ("--marker", "nightly")):
        code, _, stderr = run("plan", place, *choice)
        assert code == MissingObject.exit_code
        assert "--at 1.3" in stderr.splitlines()[-1]
    assert run("plan", place, "--at", "1.3")[0] == 0


@pytest.mark.parametrize("newest", [3, 4])
def test_without_an_owner_nobody_knows_whether_the_newest_is_the_newest(
    newest: int, run: Run, empty: Site, place: Path, out: Path
) -> None:
    nightly(empty)
    (place / OWNER_KEY).unlink()
    if newest == 3:
        (place / segment_key(1, 4)).unlink()
    target = ("--target", out / "disk.raw")
    for choice in ((), ("--time", "2033-01-01T00:00:00Z"), ("--marker", "nightly")):
        for command in (("plan", place, *choice), ("restore", place, *choice, *target)):
            code, stdout, stderr = run(*command)
            assert (code, stdout) == (MissingObject.exit_code, "")
            assert f"error: {OWNER_KEY}: it is gone" in stderr
            expected = 3 if "--marker" in choice else newest
            assert f"--at 1.{expected} is the newest" in stderr.splitlines()[-1]
    assert list(out.iterdir()) == []
    assert run("restore", place, "--at", f"1.{newest}", *target)[0] == 0
    code, stdout, _ = run("verify", place)
    assert code == PointsDamaged.exit_code
    assert f"missing: {OWNER_KEY}" in stdout
    assert run("verify", place, "--at", f"1.{newest}")[0] == 0


def test_without_an_owner_an_older_time_means_what_it_meant(run: Run, empty: Site, place: Path) -> None:
    nightly(empty)
    second = answer(run, "plan", place, "--at", "1.2")["time"]
    (place / OWNER_KEY).unlink()
    assert answer(run, "plan", place, "--time", second)["point"] == "1.2"


def test_newer_cuts_that_were_passed_over_are_told(run: Run, empty: Site, place: Path) -> None:
    disk = empty.add_volume("a", 1 << 20)
    empty.begin_epoch()
    empty.cut([write(disk, 0, b"a" * 4096)])
    other = empty.add_volume("b", 1 << 20)
    for _ in range(4):
        empty.cut([write(disk, 0, b"b" * 4096)], not_whole=[other])
    empty.protect(empty.cut([write(disk, 0, b"c" * 4096)], not_whole=[other]))
    told = "5 newer cuts up to 1.6 passed over: b is not whole there"
    for choice in ((), ("--time", "2033-01-01T00:00:00Z")):
        code, stdout, stderr = run("plan", place, *choice)
        assert code == 0
        assert f"note: {told}" in stderr
        assert "point 1.1 " in stdout
        assert told in answer(run, "plan", place, *choice)["notes"]
    assert answer(run, "plan", place, "--volume", "a")["notes"] == []


def test_a_point_without_volumes_is_refused(run: Run, empty: Site, place: Path) -> None:
    disk = empty.add_volume("a", 1 << 20)
    empty.begin_epoch()
    empty.cut([write(disk, 0, b"a" * 4096)])
    empty.remove(disk)
    empty.protect(empty.cut([]))
    assert run("plan", place, "--at", "1.2")[0] == NoSuchVolume.exit_code
    code, _, stderr = run("plan", place)
    assert code == 0
    assert "1 newer cut up to 1.2 passed over: there is no volume there" in stderr
    code, _, stderr = run("plan", place, "--volume", "a")
    assert code == 0
    assert "1 newer cut up to 1.2 passed over: there is no a there" in stderr
    assert run("plan", place, "--time", "1999-01-01T00:00:00Z")[0] == NoSuchPoint.exit_code


@pytest.mark.parametrize("size", [True, 1.5, "1", None, -1, 2**63])
def test_a_volume_of_no_size_breaks_its_points_and_no_listing(
    size: object, run: Run, empty: Site, place: Path
) -> None:
    disk = empty.add_volume("disk", 1 << 20)
    empty.begin_epoch()
    empty.cut([write(disk, 0, b"a" * 4096)])
    value = {"kind": "volume", "name": "odd", "size_bytes": size, "block_bytes": 512}
    empty._pending.append(make_record("space+", bytes(range(16)), value))
    empty.protect(empty.cut([]))
    found = {item["point"]: item["broken"] for item in answer(run, "points", place)["points"]}
    assert found["1.1"] is None
    assert "no size that makes sense" in found["1.2"]
    code, _, stderr = run("plan", place)
    assert code == DamagedObject.exit_code
    assert "--at 1.1" in stderr.splitlines()[-1]


def test_verify_names_the_newest_point_that_is_sound_as_points_cannot(
    run: Run, empty: Site, place: Path, out: Path
) -> None:
    disk = empty.add_volume("disk", 1 << 20)
    empty.begin_epoch()
    cuts = [empty.cut([write(disk, 0, empty.rng.randbytes(300_000))]) for _ in range(4)]  # beyond any head
    empty.protect(cuts[-1])
    damage(place, segment_key(1, 3), -150_000)
    assert {item["broken"] for item in answer(run, "points", place)["points"]} == {None}
    code, _, stderr = run("verify", place)
    assert code == PointsDamaged.exit_code
    hint = stderr.splitlines()[-1]
    assert "--at 1.2 is the newest point that is sound" in hint
    assert "rehydrate points" not in hint
    assert run("restore", place, "--at", "1.2", "--target", out / "disk.raw")[0] == 0


@pytest.mark.parametrize("what", ["owner damaged", "configuration damaged", "configuration gone"])
def test_where_nothing_can_be_read_the_hint_tells_the_way_that_is_left(
    what: str, run: Run, empty: Site, place: Path, out: Path
) -> None:
    nightly(empty)
    (config,) = (place / "domain" / "config").iterdir()
    if what == "configuration gone":
        config.unlink()
    else:
        (place / OWNER_KEY if what == "owner damaged" else config).write_bytes(b"{}")
    target = ("--target", out / "disk.raw")
    for command in (("points", place), ("verify", place), ("restore", place, "--at", "1.4", *target)):
        code, _, stderr = run(*command)
        assert code in (DamagedObject.exit_code, MissingObject.exit_code)
        assert f"a copy of the container without {OWNER_KEY} can be restored from with --at" in stderr
    (place / OWNER_KEY).unlink()
    assert run("restore", place, "--at", "1.4", *target)[0] == 0


def test_points_and_plans_tell_the_instants_of_images(run: Run, empty: Site, place: Path) -> None:
    spaces = [empty.add_volume(name, 1 << 20) for name in ("data", "export", "log")]
    empty.begin_epoch()
    empty.cut([write(space, 0, b"a" * 4096) for space in spaces])
    at_ns = 1_700_000_000_000_000_000
    instants = [(spaces[0], at_ns), (spaces[2], at_ns + 8_000_000), (b"?" * 16, 5)]
    empty.say(skewed(empty.owner.epoch, empty.next_cut, (), 0, instants))
    empty.cut([write(spaces[0], 0, b"b" * 4096)])
    first, second = answer(run, "points", place)["points"]
    assert (first["instants"], first["instants_apart_ns"]) == ([], 0)
    assert second["instants"] == [
        {"volume": "data", "time": "2023-11-14T22:13:20.000Z", "at_ns": at_ns},
        {"volume": "log", "time": "2023-11-14T22:13:20.008Z", "at_ns": at_ns + 8_000_000},
    ]
    assert second["instants_apart_ns"] == 8_000_000
    assert not second["skewed"], "no file changed"
    older_ms = (second["cut_time_ns"] - at_ns) // 1_000_000
    heading, one, two = run("points", place)[1].splitlines()[:3]
    assert "IMAGES" in heading
    assert "apart" not in one
    assert two.endswith(f"{max(0, older_ms)} ms before, 8 ms apart")
    assert answer(run, "plan", place, "--volume", "log")["instants"] == second["instants"][1:]
    assert "image of data: 2023-11-14T22:13:20.000Z\n" in run("plan", place)[1]


def test_without_images_there_is_no_column_for_them(run: Run, empty: Site, place: Path) -> None:
    nightly(empty)
    assert "IMAGES" not in run("points", place)[1]
