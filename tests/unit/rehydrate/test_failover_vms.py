"""VMs of a domain that is taken over: the new site has them as the same ones, and asks nobody yet."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdp_container.domain.identity import load_identity
from cdp_container.domain.machine import Description
from cdp_container.domain.machine_records import Configuration, Native, vm_record
from cdp_container.format.index import Record
from tests.unit.rehydrate.test_failover import World

WEB, DB, BAD = b"W" * 16, b"D" * 16, b"B" * 16


def configuration(name: str) -> Configuration:
    return Configuration(name, Description(name), Native("qmp", ""))


def with_vms(tmp_path: Path) -> World:
    world = World(tmp_path)
    for vm, name in ((WEB, "web"), (DB, "db")):
        world.site.say(vm_record(vm, configuration(name)))
    world.site.say(Record("vm", BAD, b'{"name":5}', critical=False))
    world.cuts.append(world.site.cut([]))
    world.site.write_owner(protected=world.cuts[-1])
    return world


def test_they_are_the_same_and_one_that_makes_no_sense_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = with_vms(tmp_path)
    world.run()
    assert BAD.hex() in capsys.readouterr().err
    found = load_identity(world.journal).vms
    assert [(vm.name, vm.vm, vm.kind, vm.removed) for vm in found] == [
        ("db", DB, "", False),
        ("web", WEB, "", False),
    ]


def test_a_prepared_configuration_asks_for_them_under_the_same_ids(tmp_path: Path) -> None:
    world = with_vms(tmp_path)
    config = tmp_path / "prepared.yaml"
    lines = [
        "domain: shop",
        "site: site-b",
        f"store: {world.base}/container",
        f"journal: {{directory: {world.journal}}}",
        "volumes:",
        *(f"  - {{name: {name}, path: {world.base}/vms/{name}.raw}}" for name in ("db", "log")),
        "vms: [{name: web, qmp: /run/web.sock}, {name: new, qmp: /run/new.sock}]",
    ]
    config.write_text("\n".join(lines) + "\n")
    world.run(config=config)
    found = {vm.name: vm for vm in load_identity(world.journal).vms}
    assert (found["web"].vm, found["web"].kind, found["web"].at) == (WEB, "qmp", "/run/web.sock")
    assert (found["db"].vm, found["db"].kind) == (DB, "")
    assert found["new"].vm not in (WEB, DB, BAD)
