"""carried.json: what is written is read again, what was touched does not fit, and damage is refused."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from cdp_container.domain.carried import (
    CARRIED_NAME,
    Carried,
    CarriedVolume,
    drop_carried,
    load_carried,
    look_at,
    save_carried,
)
from cdp_container.errors import BackingUnreadable, ConfigInvalid
from cdp_container.format.place import Place

SPACE = b"s" * 16
CARRIED = Carried(b"d" * 16, Place(3, 4, 5), (CarriedVolume(SPACE, "/vm/disk.img", 4096, 77, 123456789),))


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    save_carried(tmp_path, CARRIED)
    assert load_carried(tmp_path) == CARRIED
    assert (tmp_path / CARRIED_NAME).stat().st_mode & 0o777 == 0o600


def test_none_is_none_and_may_be_dropped(tmp_path: Path) -> None:
    assert load_carried(tmp_path) is None
    drop_carried(tmp_path)
    save_carried(tmp_path, CARRIED)
    drop_carried(tmp_path)
    assert load_carried(tmp_path) is None


@pytest.mark.parametrize("place", ["[1, 2]", "[1, 0, 2]", "[-1, 2, 3]", '"x"', "null"])
def test_a_place_that_is_none_is_refused(tmp_path: Path, place: str) -> None:
    text = '{"format": 1, "domain": "00", "place": ' + place + ', "volumes": []}'
    (tmp_path / CARRIED_NAME).write_text(text)
    with pytest.raises(ConfigInvalid, match="damaged"):
        load_carried(tmp_path)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 1}'])
def test_damage_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / CARRIED_NAME).write_text(text)
    with pytest.raises(ConfigInvalid, match="damaged"):
        load_carried(tmp_path)


def test_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / CARRIED_NAME).write_text('{"format": 2}')
    with pytest.raises(ConfigInvalid, match="format"):
        load_carried(tmp_path)


def test_a_look_finds_the_same_until_it_is_touched(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(8192))
    seen = look_at(str(disk), SPACE)
    assert seen == look_at(str(disk), SPACE)
    assert (seen.size_bytes, seen.can_be_known) == (8192, True)
    os.chmod(disk, 0o640)
    os.utime(disk, ns=(0, seen.ctime_ns))  # the modification time can be set to anything, the ctime not
    assert look_at(str(disk), SPACE).ctime_ns >= seen.ctime_ns
    copy = tmp_path / "copy.img"
    copy.write_bytes(bytes(8192))
    copy.replace(disk)
    assert look_at(str(disk), SPACE) != seen


def test_a_device_is_never_known() -> None:
    seen = look_at("/dev/null", SPACE)
    assert not seen.can_be_known
    assert not replace(CARRIED.volumes[0], ctime_ns=0).can_be_known


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(BackingUnreadable):
        look_at(str(tmp_path / "none"), SPACE)
