"""Documents as hypervisors write them, and what we take them for; each stands in tests/golden/vms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cdp_agent.vms.by_hand import parse_by_hand
from cdp_agent.vms.found import SECRET, Found, without_passwords
from cdp_agent.vms.libvirt_xml import hot_plugged, parse_domain
from cdp_agent.vms.proxmox_conf import parse_conf, parse_storages
from cdp_agent.vms.qmp_answers import parse_answers
from cdp_container.domain.machine import build_description, description_members

DIRECTORY = Path(__file__).parents[2] / "golden" / "vms"
DOCUMENTS = sorted(path.name.removesuffix(".json") for path in DIRECTORY.glob("*.*.json"))
IDS = {"pve6": "100", "pve7": "101", "pve8": "120"}


def parsed(name: str) -> Found:
    path = DIRECTORY / name
    text = path.read_text()
    match path.suffix:
        case ".xml":
            return parse_domain(text, name)
        case ".conf":
            storages = parse_storages((DIRECTORY / "storage.cfg").read_text())
            return parse_conf(text, IDS[path.stem], name, storages, (DIRECTORY / "user.cfg").read_text())
        case ".qmp":
            return parse_answers(json.loads(text), name)
        case _:
            return parse_by_hand(text, name)


def as_members(found: Found) -> dict[str, Any]:
    sources = {
        name: {key: value for key in ("path", "export", "server") if (value := getattr(one, key)) is not None}
        for name, one in found.sources.items()
    }
    return {
        "description": description_members(found.description),
        "sources": sources,
        "variables_path": found.variables_path,
    }


def test_there_are_documents_of_each_kind() -> None:
    assert {Path(name).suffix for name in DOCUMENTS} == {".xml", ".conf", ".qmp", ".yaml"}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_says_what_we_take_it_for(name: str) -> None:
    found = parsed(name)
    assert as_members(found) == json.loads((DIRECTORY / f"{name}.json").read_text())
    build_description(found.description)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_native_document_is_verbatim_but_for_passwords(name: str) -> None:
    text, native = (DIRECTORY / name).read_text(), parsed(name).native
    for secret in ("hunter2", "passwd=", "cipassword", "$5$"):
        assert secret not in native.document
    if any("password" in word for word in parsed(name).description.left_out):
        assert native.document != text
        assert len(native.document) > len(text) / 2
    elif not name.endswith(".qmp"):
        assert native.document == text


def test_a_document_without_its_password_says_the_same_but_that() -> None:
    found = parsed("q35-uefi.xml")
    again = parse_domain(found.native.document, "again")
    assert (
        again.description.with_left_out("a password, which is taken out of the document") == found.description
    )
    assert again.native.document == found.native.document


def test_what_is_attached_until_the_next_stop_is_told() -> None:
    kept = parsed("virt-aarch64.xml")
    text = (DIRECTORY / "virt-aarch64.xml").read_text()
    more = "<disk type='file'><source file='/x'/><target dev='vdb'/></disk>"
    more += "<interface type='user'><mac address='a'/></interface>"
    live = parse_domain(text.replace("</devices>", f"{more}</devices>"), "live")
    found = hot_plugged(live, kept)
    assert found.description.left_out[-2:] == (
        "disk vdb: attached until the next stop",
        "network card a: attached until the next stop",
    )
    assert hot_plugged(kept, kept) == kept


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("-vnc :1,password=on", "-vnc :1,password=on"),
        ("-spice port=5900,password=hunter2,x=1", "-spice port=5900,password=…,x=1"),
        ("-object secret,id=s0,data=hunter2,format=raw", "-object secret,id=s0,data=…,format=raw"),
        ("-fw_cfg name=opt/x,data=y", "-fw_cfg name=opt/x,data=y"),
        ("-drive password-secret=s0", "-drive password-secret=s0"),
        ("https://ute:hunter2@host/x.iso", "https://…@host/x.iso"),
        ("nbd+unix:///root?socket=/x@y", "nbd+unix:///root?socket=/x@y"),
    ],
)
def test_passwords_in_arguments(before: str, after: str) -> None:
    assert without_passwords(before) == after
    assert without_passwords(after) == after


def test_passwords_in_arguments_are_taken_out_of_documents_too() -> None:
    text = (DIRECTORY / "virt-aarch64.xml").read_text()
    found = parse_domain(text.replace("value='-d'", "value='secret,id=a,data=hunter2'"), "it")
    assert "hunter2" not in found.native.document
    assert "qemu:commandline" in found.native.document
    assert SECRET in found.description.left_out
    conf = parse_conf("memory: 1\nargs: -spice password=hunter2\n", "1", "it")
    assert conf.native.document == "memory: 1\nargs: -spice password=…\n"
    assert SECRET in conf.description.left_out
