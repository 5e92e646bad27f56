"""Configurations of VMs in a container that is collected: every kept point has those of its time."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdp_agent.collector.pass_types import Wishes
from cdp_container.domain.machine import Description
from cdp_container.domain.machine_records import Configuration, Native, members_at, vm_record
from cdp_container.format.place import Place
from tests.containers import PASSPHRASE
from tests.reader import Container
from tests.unit.collector.collecting_site import CollectedSite
from tests.unit.rehydrate.trees import source_of
from tests.vm_reader import vms

IDS = (b"V" * 16, b"W" * 16, b"X" * 16)


def configuration(name: str, cpus: int) -> Configuration:
    return Configuration(name, Description(name, cpus=cpus), Native("libvirt", f"<domain>{cpus}</domain>"))


class Model:
    """VMs that change now and then, and what they were at each cut."""

    def __init__(self, site: CollectedSite) -> None:
        self.site = site
        self.now: dict[bytes, int] = {}
        self.at: dict[Place, dict[bytes, int]] = {}
        self.cpus = 0

    def busy(self, cuts: int) -> None:
        for _ in range(cuts):
            for vm in IDS:
                if self.site.rng.random() < 0.15:
                    self._change(vm)
            before = set(self.site.images)
            self.site.busy(1)
            (place,) = set(self.site.images) - before
            self.at[place] = dict(self.now)

    def _change(self, vm: bytes) -> None:
        if vm in self.now and self.site.rng.random() < 0.3:
            del self.now[vm]
            self.site.say(vm_record(vm, None))
            return
        self.cpus += 1
        self.now[vm] = self.cpus
        self.site.say(vm_record(vm, configuration(f"vm-{vm[:1].decode()}", self.cpus)))

    def kept(self) -> list[Place]:
        return [place for place in self.at if place not in self.site.gone]

    def check(self) -> None:
        """By our reader and by the independent one."""
        keys = [found.key for found in self.site.store.list("")]
        secret = PASSPHRASE if self.site.encrypted else None
        reader = Container(lambda key: self.site.store.get(key).data, lambda: keys, secret)
        for place in self.kept():
            with source_of(self.site, place) as source:
                members = members_at(source.contents.vm_records, {place.epoch: place.seq})
            found = {member.vm: member.configuration.description.cpus for member in members}
            assert found == self.at[place], place
            read = vms(reader, reader.cut(place.epoch, place.cut))
            assert {bytes.fromhex(vm): one["description"]["cpus"] for vm, one in read.items()} == found, place


@pytest.mark.parametrize("encrypted", [False, True])
def test_every_kept_point_has_the_configurations_of_its_time(tmp_path: Path, encrypted: bool) -> None:
    site = CollectedSite(encrypted=encrypted, seed=7 + encrypted)
    site.add_disk("disk", 60_000)
    site.begin_epoch()
    model = Model(site)
    for number in range(3):
        model.busy(16)
        site.run_pass(tmp_path, Wishes(private_key=site.private_key if number % 2 else None))
        model.check()
    assert len(site.gone) > 10
    assert len(model.kept()) > 5
    assert model.cpus > 10
