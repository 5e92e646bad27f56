"""The VMs of a configuration, and what agent.json makes of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import pytest

from cdp_container.domain.identity import (
    AgentIdentity,
    VmIdentity,
    decode_identity,
    encode_identity,
)
from cdp_container.domain.settings import AgentSettings, dump_settings, parse_settings
from cdp_container.domain.vm_settings import changed_vms
from cdp_container.errors import ConfigInvalid

BASE = """domain: shop
site: a
store: /srv/c
journal: {directory: /var/lib/cdp}
volumes: [{name: root, path: /srv/root.raw}]
"""
FOUR = """vms:
  - {name: web, libvirt: {domain: web}, disks: {vda: root, vdb: null}}
  - {name: db, proxmox: /etc/pve/qemu-server/101.conf}
  - {name: tiny, qmp: /run/tiny.sock}
  - {name: old, description: /etc/cdp/old.yaml}
vms_every: 30s
"""
IDENTITY = AgentIdentity(b"d" * 16, "shop", "a", "none", b"", b"", b"", bytes(32), ())


def parsed(vms: str) -> AgentSettings:
    return parse_settings((BASE + vms).encode(), "agent.yaml")


def after(identity: AgentIdentity, vms: str) -> AgentIdentity:
    numbers = count(1)
    return changed_vms(identity, parsed(vms).vms, lambda length: next(numbers).to_bytes(length, "big"))


def test_the_four_ways_to_ask() -> None:
    settings = parsed(FOUR)
    assert settings.vms_every == 30.0
    assert settings.vms[0].libvirt is not None
    assert settings.vms[0].libvirt.uri == "qemu:///system"
    assert settings.vms[0].disks == {"vda": "root", "vdb": None}
    assert parse_settings(dump_settings(settings), "again") == settings
    assert parsed("").vms == []


@pytest.mark.parametrize(
    ("vms", "why"),
    [
        ("vms: [{name: a}]", "needs one of libvirt, proxmox, qmp and description"),
        ("vms: [{name: a, libvirt: {domain: a}, proxmox: /y}]", "needs one of"),
        ("vms: [{name: a, libvirt: {domain: a}, proxmox: /y, qmp: /x}]", "needs one of"),
        ("vms: [{name: a b, qmp: /x}]", "name"),
        ("vms: [{name: a, qmp: x}]", "absolute path"),
        (f"vms: [{{name: a, qmp: /{'x' * 120}}}]", "longer than 107"),
        ("vms: [{name: a, libvirt: {}}]", "is missing"),
        ('vms: [{name: a, libvirt: {domain: "a\\nb"}}]', "printable"),
        ("vms: [{name: a, libvirt: {domain: a, url: b}}]", "did you mean uri"),
        ("vms: [{name: a, qnp: /x}]", "did you mean qmp"),
        ("vms: [{name: a, qmp: /x}, {name: a, qmp: /y}]", "two have the same name: a"),
        ("vms: [{name: a, qmp: /x, disks: {vda: none}}]", "there is no volume none"),
        ("vms: [{name: a, qmp: /x, disks: [vda]}]", "disks"),
        ("vms_every: 1s", "vms_every"),
    ],
)
def test_what_makes_no_sense_is_told(vms: str, why: str) -> None:
    with pytest.raises(ConfigInvalid, match=why):
        parsed(vms)


def test_a_vm_keeps_its_id_whoever_is_asked() -> None:
    first = after(IDENTITY, FOUR)
    assert [vm.kind for vm in first.vms] == ["libvirt", "proxmox", "qmp", "description"]
    assert len({vm.vm for vm in first.vms}) == 4
    assert after(first, FOUR) == first
    second = after(first, FOUR.replace("qmp: /run/tiny.sock", "qmp: /run/other.sock"))
    assert [vm.vm for vm in second.vms] == [vm.vm for vm in first.vms]
    assert second.vms[2].at == "/run/other.sock"


def test_what_goes_is_marked_and_another_one_when_it_comes_again() -> None:
    first = after(IDENTITY, FOUR)
    second = after(first, "vms: [{name: tiny, qmp: /run/tiny.sock}]")
    assert [vm.removed for vm in second.vms] == [True, True, False, True]
    assert [vm.name for vm in second.active_vms] == ["tiny"]
    third = changed_vms(second, parsed(FOUR).vms, lambda length: b"n" * length)
    assert [vm.vm for vm in third.vms[:4]] == [vm.vm for vm in first.vms]
    assert [vm.name for vm in third.vms[4:]] == ["web", "db", "old"]


def test_one_that_nobody_here_knows_stays_until_it_was_configured() -> None:
    known = replace(IDENTITY, vms=(VmIdentity("web", b"w" * 16),))
    assert after(known, "") == known
    asked = after(known, FOUR)
    assert (asked.vms[0].vm, asked.vms[0].kind) == (b"w" * 16, "libvirt")
    assert after(asked, "").vms[0].removed


def test_a_socket_beside_another_way_to_ask_is_for_capturing_alone() -> None:
    beside = after(IDENTITY, FOUR.replace("{domain: web}", "{domain: web}, qmp: /run/web.sock"))
    assert [(vm.kind, vm.qmp) for vm in beside.vms] == [
        ("libvirt", "/run/web.sock"),
        ("proxmox", ""),
        ("qmp", "/run/tiny.sock"),
        ("description", ""),
    ]
    assert beside.vms[0].at == "qemu:///system"
    assert decode_identity(encode_identity(beside), "agent.json") == beside
    for way in ("proxmox: /etc/pve/101.conf", "description: /d.yaml"):
        (one,) = after(IDENTITY, f"vms: [{{name: a, qmp: /x, {way}}}]").vms
        assert (one.kind, one.qmp) == (way.partition(":")[0], "/x")
    assert after(beside, FOUR).vms[0].qmp == ""


def test_an_agent_json_of_before_has_no_socket_but_that_of_a_plain_qemu() -> None:
    identity = after(IDENTITY, FOUR)
    data = encode_identity(identity)
    for vm in identity.vms:
        data = data.replace(b'      "qmp": "%s",\n' % vm.qmp.encode(), b"")
    assert b'"qmp":' not in data
    assert decode_identity(data, "agent.json") == identity


def test_agent_json_has_all_of_it() -> None:
    identity = after(IDENTITY, FOUR)
    assert decode_identity(encode_identity(identity), "agent.json") == identity
    old = encode_identity(IDENTITY).replace(b'"vms": []', b'"later": []')
    assert decode_identity(old, "agent.json").vms == ()
