"""VMs of a domain that is taken over: the new site has them as the same ones, and asks nobody yet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cdp_container.domain.failover_note import change_note
from cdp_container.domain.identity import load_identity
from cdp_container.domain.machine import Description
from cdp_container.domain.machine_records import Configuration, Native, vm_record
from cdp_container.errors import RunbookUnfit
from cdp_container.format.index import Record
from rehydrate.cli import failover as taking
from rehydrate.cli.commands import Access
from rehydrate.cli.runbook_page import read_page
from rehydrate.plan import Choice
from tests.unit.rehydrate.test_failover import Killed, World

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


def test_an_interrupted_one_is_refused_another_place_of_its_vms_before_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = with_vms(tmp_path)
    runbook = tmp_path / "runbook.yaml"
    runbook.write_text("target: qemu\ndirectory: /srv/second\nvms: {}\nleave_out: [web, db]\nnetworks: {}\n")
    tries = []

    def killed(*_: object) -> int:
        tries.append(1)
        raise Killed

    monkeypatch.setattr("rehydrate.agent_start.start_agent", killed)
    monkeypatch.setattr("rehydrate.cli.booting.check_fits", lambda *_, **__: None)
    with pytest.raises(Killed):
        world.run(start=True)
    change_note(world.journal, lambda note: replace(note, booted="/srv/first by qemu"))
    asked = taking.asked_of("site-b", "me", "drill", None, accept_loss=False)
    access = Access(str(world.base / "container"), None, world.base / "key")
    with pytest.raises(RunbookUnfit, match="/srv/first by qemu"):
        taking.fail_over(access, Choice(), asked, world.where(start=True), True, page=read_page(runbook))
    assert len(tries) == 1


def test_an_interruption_while_vms_start_is_told_as_what_it_is_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = with_vms(tmp_path)
    runbook = tmp_path / "runbook.yaml"
    words = f"target: qemu\ndirectory: {tmp_path}/v\nvms: {{}}\nleave_out: [web, db]\nnetworks: {{}}\n"
    runbook.write_text(words)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rehydrate.agent_start.start_agent", lambda *_: 7)
    for module in ("booting", "failover"):
        monkeypatch.setattr(f"rehydrate.cli.{module}.check_fits", lambda *_, **__: None)
    monkeypatch.setattr("rehydrate.cli.booting.bring_up", interrupted)
    asked = taking.asked_of("site-b", "me", "drill", None, accept_loss=False)
    access = Access(str(world.base / "container"), None, world.base / "key")
    page = read_page(runbook)
    with pytest.raises(KeyboardInterrupt):
        taking.fail_over(access, Choice(), asked, world.where(start=True), False, page=page)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("interrupted while VMs were started: the domain is owned by this site (epoch 2)")
    assert last.endswith(f"cdp-agent status --config {world.where().config_path}")
