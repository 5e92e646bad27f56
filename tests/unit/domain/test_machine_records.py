"""The VMs that a cut has: the newest record of each on its branch, and nothing that makes no sense."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import pytest

from cdp_container.clock import SystemClock
from cdp_container.domain.contents import Contents
from cdp_container.domain.gathering import gather
from cdp_container.domain.machine import Description
from cdp_container.domain.machine_records import (
    NATIVE_BYTES_MAX,
    Configuration,
    Native,
    members_at,
    parse_vm,
    vm_record,
)
from cdp_container.errors import CdpError, DamagedObject, LimitExceeded, NewerFormat
from cdp_container.format.index import Record
from cdp_container.format.place import Place
from cdp_container.store.memory import MemoryStore
from tests.containers import Site

VM, OTHER = b"V" * 16, b"W" * 16
WEB = Configuration("web", Description("web", cpus=2), Native("libvirt", "<domain/>"))


@pytest.fixture
def site() -> Site:
    site = Site(MemoryStore(SystemClock()), seed=1)
    site.add_volume("disk", 1 << 16)
    site.begin_epoch()
    return site


@contextmanager
def gathered(site: Site, scope: dict[int, int]) -> Iterator[Contents]:
    with closing(gather(site.store, site.domain, site.reader_keys(), scope)) as contents:
        assert not contents.broken, contents.broken
        yield contents


def names_at(site: Site, place: Place) -> dict[str, int]:
    scope = {place.epoch: place.seq}
    with gathered(site, scope) as contents:
        members = members_at(contents.vm_records, scope)
    return {member.configuration.name: member.configuration.description.cpus for member in members}


def with_cpus(cpus: int) -> Configuration:
    return replace(WEB, description=Description("web", cpus=cpus))


def test_each_cut_has_the_configuration_of_its_time(site: Site) -> None:
    before = site.cut([])
    site.say(vm_record(VM, WEB))
    first = site.cut([])
    between = site.cut([])
    site.say(vm_record(VM, with_cpus(8)))
    site.say(vm_record(OTHER, replace(WEB, name="db")))
    second = site.cut([])
    site.say(vm_record(VM, None))
    gone = site.cut([])
    assert names_at(site, before) == {}
    assert names_at(site, first) == names_at(site, between) == {"web": 2}
    assert names_at(site, second) == {"web": 8, "db": 2}
    assert names_at(site, gone) == {"db": 2}


def test_what_lies_beyond_the_branch_does_not_count(site: Site) -> None:
    site.say(vm_record(VM, WEB))
    first = site.cut([])
    site.say(vm_record(VM, with_cpus(8)))
    site.cut([])
    with gathered(site, {1: 2}) as contents:
        (member,) = members_at(contents.vm_records, {1: first.seq})
    assert member.configuration == WEB


def test_equal_configurations_have_equal_bytes_and_are_kept_once(site: Site) -> None:
    assert vm_record(VM, WEB) == vm_record(VM, parse_vm(vm_record(VM, WEB).value, "it"))
    for _ in range(3):
        site.say(vm_record(VM, WEB))
        site.cut([])
    with gathered(site, {1: 3}) as contents:
        assert len(contents.vm_records) == 3
        assert len({id(record.value) for record in contents.vm_records}) == 1


@pytest.mark.parametrize(
    "value",
    [
        b'{"name":"web"}',
        b'{"name":"","description":{"version":1,"name":"a"},"native":{"kind":"x","document":""}}',
        b'{"name":"a","description":{},"native":{"kind":"x","document":""}}', b"[]", b"{", b"\xff",
        b'{"name":"a\\nb","description":{"version":1,"name":"a"},"native":{"kind":"x","document":""}}',
        b'{"name":"a","description":{"version":1,"name":"a"},"native":"x"}',
    ],
)  # fmt: skip
def test_nonsense_is_told_by_its_vm_and_harms_no_volume(site: Site, value: bytes) -> None:
    site.say(Record("vm", VM, value, critical=False))
    place = site.cut([])
    scope = {place.epoch: place.seq}
    with gathered(site, scope) as contents, pytest.raises(DamagedObject, match=VM.hex()):
        members_at(contents.vm_records, scope)


def test_a_later_version_is_told() -> None:
    value = b'{"name":"a","description":{"version":9,"name":"a"},"native":{"kind":"x","document":""}}'
    with pytest.raises(NewerFormat):
        parse_vm(value, "it")


@pytest.mark.parametrize("document", ["x" * (NATIVE_BYTES_MAX + 1), "\x01" * NATIVE_BYTES_MAX])
def test_what_does_not_fit_is_not_written(document: str) -> None:
    with pytest.raises(LimitExceeded):
        vm_record(VM, replace(WEB, native=Native("qmp", document)))


def test_a_name_that_is_none_is_not_written() -> None:
    with pytest.raises(CdpError):
        vm_record(VM, replace(WEB, name="a\nb"))
