"""Descriptions of VMs: what is written is what is read, and nonsense is refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_container.domain import machine
from cdp_container.domain.machine import (
    Bus,
    Console,
    Description,
    DirectBoot,
    Disk,
    DiskKind,
    Firmware,
    FirmwareKind,
    Nic,
    build_description,
    description_members,
    pack_variables,
    parse_description,
    read_description,
    unpack_variables,
)
from cdp_container.errors import CdpError, DamagedObject, LimitExceeded, NewerFormat

WEB = Description(
    name="web",
    uuid="8ae9fbb1-6c5d-4f2b-9a51-0f2f5e0a4a11",
    machine="pc-q35-7.2",
    cpus=4,
    sockets=1,
    cores=2,
    threads=2,
    memory_bytes=4 << 30,
    firmware=Firmware(FirmwareKind.UEFI, True, pack_variables(b"vars" + bytes(1 << 20))),
    disks=(
        Disk("vda", bytes(range(16)), boot=1, serial="root"),
        Disk("sda", bus=Bus.SATA, kind=DiskKind.CDROM, read_only=True),
    ),
    nics=(Nic("net0", "52:54:00:6b:3c:58", "prod", "virtio", vlan=42),),
    direct_boot=DirectBoot("/boot/vmlinuz", None, "quiet"),
    consoles=(Console.SERIAL, Console.VNC),
    permissions=("ute: all",),
    tags=("prod",),
    note="two\nlines",
    guest_agent=True,
    left_out=("a TPM and its state",),
)

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
DISKS = st.lists(
    st.builds(
        Disk,
        name=WORDS,
        volume=st.none() | st.binary(min_size=16, max_size=16),
        bus=st.sampled_from(list(Bus)),
        kind=st.sampled_from(list(DiskKind)),
        boot=st.none() | st.integers(1, 1000),
        serial=st.none() | WORDS,
        read_only=st.booleans(),
        extra=st.just({}) | st.just({"later": [1, {"x": None}]}),
    ),
    max_size=4,
    unique_by=lambda disk: disk.name,
)


@given(disks=DISKS, name=WORDS.filter(bool), note=WORDS, tags=st.lists(WORDS, max_size=3))
def test_what_is_written_is_what_is_read(disks: list[Disk], name: str, note: str, tags: list[str]) -> None:
    one = replace(WEB, name=name, disks=tuple(disks), note=note, tags=tuple(tags))
    assert parse_description(build_description(one), "it") == one


def test_members_of_a_later_release_are_kept() -> None:
    members = description_members(WEB)
    members["later"] = {"deep": [1, None]}
    members["disks"][0]["later"] = "x"
    members["firmware"]["later"] = True
    found = read_description(members, "it")
    assert json.loads(build_description(found)) == members
    assert found.extra == {"later": {"deep": [1, None]}}


def test_what_is_left_out_is_as_documented() -> None:
    assert read_description({"version": 1, "name": "a"}, "it") == Description("a")
    nulls = dict.fromkeys(description_members(WEB))
    assert read_description({**nulls, "version": 1, "name": "a"}, "it") == Description("a")


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""}, {"name": None}, {"name": 5}, {"name": "a\0b"}, {"version": 0}, {"version": "1"},
        {"cpus": 0}, {"cpus": True}, {"cpus": 1.0}, {"cpus": "2"}, {"cpus": 1 << 40}, {"memory_bytes": -1},
        {"disks": {}}, {"disks": ["vda"]}, {"disks": [{}]}, {"disks": [{"name": "a", "bus": "warp"}]},
        {"disks": [{"name": "a"}, {"name": "a"}]}, {"disks": [{"name": "a", "volume": "ab"}]},
        {"disks": [{"name": "a", "volume": "AB" * 16}]}, {"disks": [{"name": "a", "boot": 0}]},
        {"nics": [{"name": "a", "vlan": 5000}]}, {"consoles": ["telepathy"]}, {"consoles": [{}]},
        {"firmware": "uefi"}, {"firmware": {"kind": "lilo"}}, {"tags": "prod"}, {"autostart": 1},
        {"direct_boot": {}}, {"left_out": [1]},
    ],
    ids=str,
)  # fmt: skip
def test_nonsense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(DamagedObject, match="its member"):
        read_description({**description_members(WEB), **change}, "it")


@pytest.mark.parametrize(
    "change",
    [
        {"note": "x" * 20_000}, {"name": "x" * 5_000}, {"disks": [{}] * 300}, {"nics": [{}] * 65},
        {"tags": ["x"] * 1_001},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_what_is_too_much_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(LimitExceeded):
        read_description({**description_members(WEB), **change}, "it")


def test_a_later_version() -> None:
    with pytest.raises(NewerFormat):
        read_description({"version": 2, "name": "a"}, "it")


def test_a_description_that_is_too_long_is_not_written() -> None:
    long = replace(WEB, tags=tuple(f"{number:04}" + "x" * 4_000 for number in range(100)))
    with pytest.raises(LimitExceeded):
        build_description(long)


def test_variables_come_back_and_a_bomb_does_not() -> None:
    data = b"NVRAM" + bytes(540_000)
    packed = pack_variables(data)
    assert packed is not None
    assert unpack_variables(packed, "it") == data
    bomb = pack_variables(bytes(machine.VARIABLES_BYTES_MAX))
    assert bomb is not None
    assert len(unpack_variables(bomb, "it")) == machine.VARIABLES_BYTES_MAX
    assert pack_variables(bytes(machine.VARIABLES_BYTES_MAX + 1)) is None


@pytest.mark.parametrize("text", ["", "!", "AAAA", pack_variables(b"x")[:-8], "eJwrTk"])  # type: ignore[index]
def test_variables_that_make_no_sense(text: str) -> None:
    with pytest.raises(CdpError):
        unpack_variables(text, "it")
