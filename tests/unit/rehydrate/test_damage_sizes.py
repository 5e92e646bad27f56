"""What a lost segment may have said of points and volumes: no range of bytes tells it, and the map must."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from cdp_container.errors import RestoredWithDamage
from cdp_container.format.keys import OWNER_KEY, segment_key
from tests.containers import Site, write
from tests.unit.rehydrate.conftest import Run

KIB: Final = 1 << 10
SIZE: Final = 64 * KIB


def announce_again(site: Site, space: bytes, name: str, size_bytes: int) -> None:
    """What the agent does in the first cut of an epoch: whole records of every space."""
    held = bytes(site._line.image.get(space, b""))
    site.add_again(space, name, size_bytes)
    site._line.image[space] = bytearray(held.ljust(size_bytes, b"\0"))


def mapped(run: Run, place: Path, out: Path, *options: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """The report and the map of "disk", of a restore that must end with damage."""
    target = options or ("--target", out / "disk.raw")
    code, stdout, stderr = run("restore", place, *target, "--on-damage", "map", "--json")
    assert code == RestoredWithDamage.exit_code, stderr
    return json.loads(stdout), json.loads((out / "disk.raw.damage.json").read_bytes())


def test_an_older_point_than_was_promised_is_damage(run: Run, empty: Site, place: Path, out: Path) -> None:
    disk = empty.add_volume("disk", 1 << 20)
    empty.begin_epoch()
    for number in range(10):
        empty.cut([write(disk, number * 4096, bytes([number + 1]) * 4096)])
    empty.protect(max(empty.images))
    for seq in (5, 10):
        (place / segment_key(1, seq)).unlink()
    report, members = mapped(run, place, out)
    assert report["point"] == members["point"] == "1.4"
    assert members["damage"] == []
    (doubt,) = (doubt for doubt in members["doubts"] if "1.4 is what is left of it" in doubt)
    assert doubt in report["notes"]


@pytest.mark.parametrize("how", ["owner gone, segment gone", "unproven segment damaged"])
def test_an_older_point_that_only_the_history_knows_of_is_damage(
    how: str, run: Run, empty: Site, place: Path, out: Path
) -> None:
    """Nothing says what was proven, or it was not proven yet: what is behind the damage counts for nobody."""
    disk = empty.add_volume("disk", SIZE)
    empty.begin_epoch()
    cuts = [empty.cut([write(disk, number * 4096, b"data")]) for number in range(4)]
    empty.protect(cuts[1])
    path = place / segment_key(1, 3)
    if how == "owner gone, segment gone":
        path.unlink()
        (place / OWNER_KEY).unlink()
    else:
        path.write_bytes(b"nothing that we know")
    report, members = mapped(run, place, out)
    assert report["point"] == "1.2"
    assert members["damage"] == []
    assert members["doubts"]
    command = ("restore", place, "--target", out / "old.raw", "--on-damage", "map", "--at", "1.2")
    assert run(*command)[0] == 0


def test_a_point_that_was_asked_for_and_is_whole_is_none(
    run: Run, empty: Site, place: Path, out: Path
) -> None:
    disk = empty.add_volume("disk", SIZE)
    empty.begin_epoch()
    empty.cut([write(disk, 0, b"first")])
    empty.protect(empty.cut([write(disk, 0, b"second")]))
    (place / segment_key(1, 2)).unlink()
    code = run("restore", place, "--target", out / "disk.raw", "--on-damage", "map", "--at", "1.1")[0]
    assert code == 0
    assert [path.name for path in out.iterdir()] == ["disk.raw"]


def test_growth_that_is_lost_with_its_segment_is_told(run: Run, empty: Site, place: Path, out: Path) -> None:
    disk = empty.add_volume("disk", SIZE)
    empty.begin_epoch()
    empty.cut([write(disk, 0, b"a" * SIZE)])
    empty.begin_epoch()
    announce_again(empty, disk, "disk", 2 * SIZE)
    empty.cut([write(disk, 0, b"b" * 4096)])
    last = empty.cut([write(disk, 0, b"e" * 2 * SIZE)])  # over all that the lost segment could have written
    empty.protect(last)
    (place / segment_key(2, 1)).unlink()
    _, members = mapped(run, place, out)
    (part,) = members["damage"]
    assert (part["kind"], part["offset"], part["length"]) == ("beyond", SIZE, SIZE)
    assert members["beyond_bytes"] == SIZE
    assert f"the size, {SIZE} bytes, is the last one that can be read" in members["doubts"]
    assert (out / "disk.raw").read_bytes() == empty.images[last][disk][:SIZE]


def test_a_size_that_is_said_after_the_damage_is_sure(run: Run, empty: Site, place: Path, out: Path) -> None:
    """A shrunken volume: what lies beyond was taken away by a record that can be read."""
    disk = empty.add_volume("disk", 2 * SIZE)
    empty.begin_epoch()
    empty.cut([write(disk, 0, b"a" * 2 * SIZE)])
    empty.cut([write(disk, 0, b"b" * 4096)])
    empty.resize(disk, SIZE)
    last = empty.cut([write(disk, 0, b"e" * SIZE)])
    empty.protect(last)
    (place / segment_key(1, 2)).unlink()
    _, members = mapped(run, place, out)
    assert members["damage"] == []
    assert not [doubt for doubt in members["doubts"] if "the size" in doubt]
    assert (out / "disk.raw").read_bytes() == empty.images[last][disk]


def test_what_a_resize_before_the_damage_took_away_is_not_beyond(
    run: Run, empty: Site, place: Path, out: Path
) -> None:
    disk = empty.add_volume("disk", 2 * SIZE)
    empty.begin_epoch()
    empty.cut([write(disk, 0, b"a" * 2 * SIZE)])
    empty.resize(disk, SIZE)
    empty.cut()
    empty.cut([write(disk, 0, b"b" * 4096)])
    empty.protect(empty.cut([write(disk, 0, b"e" * SIZE)]))
    (place / segment_key(1, 3)).unlink()
    _, members = mapped(run, place, out)
    assert (members["damage"], members["beyond_bytes"]) == ([], 0)
    assert [doubt for doubt in members["doubts"] if "the size" in doubt]


def test_a_volume_that_came_with_a_lost_segment_is_told(
    run: Run, empty: Site, place: Path, out: Path
) -> None:
    disk = empty.add_volume("disk", SIZE)
    empty.begin_epoch()
    empty.cut([write(disk, 0, b"a" * SIZE)])
    empty.begin_epoch()
    announce_again(empty, disk, "disk", SIZE)
    new = empty.add_volume("new", SIZE)
    empty.cut([write(new, 0, b"b" * 4096)])
    empty.protect(empty.cut([write(disk, 0, b"e" * SIZE), write(new, 0, b"n" * 32 * KIB)]))
    (place / segment_key(2, 1)).unlink()
    report, members = mapped(run, place, out, "--all", "--target-dir", out)
    assert [volume["name"] for volume in report["volumes"]] == ["disk"]
    told = f"space {new.hex()} holds data up to byte {32 * KIB}, nothing names it: not restored"
    assert told in members["doubts"]
    assert told in report["notes"]


def test_a_volume_that_was_removed_is_not_missed(run: Run, empty: Site, place: Path, out: Path) -> None:
    disk, old = empty.add_volume("disk", SIZE), empty.add_volume("old", SIZE)
    empty.begin_epoch()
    empty.cut([write(disk, 0, b"a" * SIZE), write(old, 0, b"o" * SIZE)])
    empty.remove(old)
    empty.cut()
    empty.cut([write(disk, 0, b"b" * 4096)])
    empty.protect(empty.cut([write(disk, 0, b"e" * SIZE)]))
    (place / segment_key(1, 3)).unlink()
    _, members = mapped(run, place, out)
    assert not [doubt for doubt in members["doubts"] if old.hex() in doubt]
