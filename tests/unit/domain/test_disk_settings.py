"""Volumes of VMs in the configuration and in agent.json."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cdp_container.domain.configured import sources_of
from cdp_container.domain.disk_settings import changed_disks, device_of, known_disks, named_disks
from cdp_container.domain.identity import AgentIdentity, decode_identity, encode_identity
from cdp_container.domain.settings import AgentSettings, dump_settings, parse_settings
from cdp_container.errors import BackingUnreadable, ConfigInvalid
from rehydrate.cli.failback import _here

PAGE = """\
domain: shop
site: a
store: /srv/c
journal: {directory: /var/lib/cdp/shop}
capture_every: 500ms
vms:
  - {name: db, qmp: /run/db.sock}
  - {name: web, proxmox: /etc/pve/101.conf}
volumes:
  - {name: v1, path: /v1.raw}
  - {name: db-data, vm: db, disk: vda}
"""
IDENTITY = AgentIdentity(b"d" * 16, "shop", "a", "none", b"", b"", b"", bytes(32), ())


def parsed(more: str = "", page: str = PAGE) -> AgentSettings:
    return parse_settings((page + more).encode(), "agent.yaml")


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ("  - {name: x, vm: web, disk: vda}\n", "no VM web with a socket"),
        ("  - {name: x, vm: nobody, disk: vda}\n", "no VM nobody"),
        ("  - {name: x, vm: db, disk: vda}\n", "disk vda of VM db is another volume"),
        ("  - {name: v1, vm: db, disk: vdb}\n", "two have the same name: v1"),
        ("  - {name: db-data, vm: db, disk: vdb}\n", "two have the same name: db-data"),
        ("  - {name: x, vm: db}\n", "disk"),
        ("  - {name: x, vm: db, disk: vdb, path: /x.raw}\n", "path"),
        ("  - {name: x, vm: db, disk: vdb, size: 3}\n", "size"),
        ("disks: [{name: x, vm: db, disk: vdb}]\n", "write vm and disk under volumes"),
        ("trees: [{name: db-data, path: /srv}]\n", "two sources have the same name: db-data"),
    ],
)
def test_what_does_not_go_together_is_told(more: str, why: str) -> None:
    with pytest.raises(ConfigInvalid, match=why):
        parsed(more)


def test_a_disk_that_stands_in_two_places_is_told() -> None:
    page = PAGE.replace("/run/db.sock}", "/run/db.sock, disks: {vda: v1}}")
    with pytest.raises(ConfigInvalid, match="db: disks: vda stands under volumes, too"):
        parsed(page=page)


LIBVIRTS = PAGE.replace("qmp: /run/db.sock", "libvirt: {domain: db}, qmp: /run/db.sock")


def test_a_disk_of_libvirts_has_two_names_and_is_one() -> None:
    """By libvirt, and by QEMU."""
    assert [disk.disk for disk in parsed(page=LIBVIRTS).disks] == ["vda"]
    assert parsed("  - {name: x, vm: db, disk: virtio-disk1}\n", LIBVIRTS).disks[1].disk == "virtio-disk1"
    with pytest.raises(ConfigInvalid, match="disk virtio-disk0 of VM db is another volume"):
        parsed("  - {name: x, vm: db, disk: virtio-disk0}\n", LIBVIRTS)
    with pytest.raises(ConfigInvalid, match="no VM db with a socket"):
        parsed(page=LIBVIRTS.replace(", qmp: /run/db.sock", ""))


@pytest.mark.parametrize(
    ("target", "device"),
    [
        ("vda", "virtio-disk0"), ("vdb", "virtio-disk1"), ("vdz", "virtio-disk25"), ("vdaa", "virtio-disk26"),
        ("vdba", "virtio-disk52"), ("vdzz", "virtio-disk701"), ("vd", "vd"), ("vda1", "vda1"),
        ("sda", "sda"), ("virtio-disk0", "virtio-disk0"), ("ua-vda", "ua-vda"), ("VDA", "VDA"),
    ],
)  # fmt: skip
def test_what_qemu_calls_a_disk_of_libvirts(target: str, device: str) -> None:
    assert (device_of(target, True), device_of(target, False)) == (device, target)


def test_what_is_dumped_says_the_same() -> None:
    settings = parsed()
    assert (len(settings.volumes), len(settings.disks), settings.capture_every) == (1, 1, 0.5)
    assert parse_settings(dump_settings(settings), "copy") == settings


def test_images_alone_are_enough_to_protect() -> None:
    settings = parsed(page=PAGE.replace("  - {name: v1, path: /v1.raw}\n", ""))
    assert (settings.volumes, len(settings.disks)) == ([], 1)


def test_agent_json_keeps_ids_and_marks_what_goes() -> None:
    settings = parsed()
    first = changed_disks(IDENTITY, settings.disks, {"db-data": 4096}, lambda n: b"1" * n)
    assert known_disks(first) == named_disks(settings.disks)
    assert decode_identity(encode_identity(first), "agent.json") == first
    assert [source.space for source in sources_of(first)] == [b"1" * 16] == list(first.batched)
    grown = changed_disks(first, settings.disks, {"db-data": 8192}, bytes)
    assert (grown.disks[0].space, grown.disks[0].size_bytes) == (b"1" * 16, 8192)
    with pytest.raises(BackingUnreadable, match="cannot shrink"):
        changed_disks(grown, settings.disks, {"db-data": 4096}, bytes)
    gone = changed_disks(grown, [], {}, bytes)
    assert (gone.active_disks, gone.has_removed, gone.batched) == ((), True, ())
    again = changed_disks(gone, settings.disks, {"db-data": 8192}, lambda n: b"2" * n)
    assert [disk.space for disk in again.disks] == [b"1" * 16, b"2" * 16]


def test_an_agent_json_of_before_has_none() -> None:
    old = encode_identity(IDENTITY).replace(b',\n  "disks": []', b"")
    assert b"disks" not in old
    assert decode_identity(old, "agent.json") == IDENTITY


def test_nobody_but_the_vm_writes_its_disk_so_failback_is_refused() -> None:
    ours = changed_disks(IDENTITY, parsed().disks, {"db-data": 4096}, lambda n: b"1" * n)
    with pytest.raises(ConfigInvalid, match="db-data"):
        _here(None, ours)  # type: ignore[arg-type]  # it comes to nothing of the run
    assert replace(ours, disks=()) == IDENTITY
