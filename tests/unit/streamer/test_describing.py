"""A streamer with VMs: their configurations stand in the container, and hypervisors never hold it up."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from cdp_agent.streamer.describer import NOTE_NAME
from cdp_agent.streamer.settings import StreamerSettings
from cdp_agent.vms.answer import encode_line
from cdp_container.domain.gathering import gather
from cdp_container.domain.identity import IDENTITY_NAME, VmIdentity, encode_identity
from cdp_container.domain.image import cuts_of
from cdp_container.domain.machine import Description
from cdp_container.domain.machine_records import Configuration, Native, members_at
from cdp_container.format.place import Place
from cdp_container.format.seal import ReaderKeys
from tests.unit.streamer.site import DEADLINE_SECONDS, AgentSite
from tests.waiting import wait_until

WEB, DB = b"w" * 16, b"d" * 16


class VmSite(AgentSite):
    """An agent whose hypervisors are a file of lines; `program` is what is run to ask them."""

    program = "sys.stdout.buffer.write(open(answers, 'rb').read())"
    every_seconds = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        self.with_vms(VmIdentity("web", WEB, "qmp", "/run/web"), VmIdentity("db", DB, "qmp", "/run/db"))

    def with_vms(self, *vms: VmIdentity) -> None:
        self.identity = replace(self.identity, vms=vms)
        fresh = self.directory / "agent.new"
        fresh.write_bytes(encode_identity(self.identity))
        fresh.rename(self.directory / IDENTITY_NAME)

    def answer(self, **cpus: int) -> None:
        names = {"web": WEB, "db": DB}
        found = [
            encode_line(
                names[name], Configuration(name, Description(name, cpus=n), Native("qmp", "")), "", (), ()
            )
            for name, n in cpus.items()
        ]
        fresh = self.root / "answers.new"
        fresh.write_bytes(b"".join(found))
        fresh.rename(self.root / "answers")

    def settings(self) -> StreamerSettings:
        program = f"import sys, time; answers = {str(self.root / 'answers')!r}\n{self.program}"
        describe = (sys.executable, "-S", "-c", program)
        return replace(super().settings(), describe=describe, vms_every_seconds=self.every_seconds)

    def at_each_cut(self) -> list[dict[str, int]]:
        """Name and CPUs of each VM, at each cut that counts."""
        recovery = self.recovery()
        scope: dict[int, int] = {}
        for place in recovery.cuts:
            scope[place.epoch] = max(place.seq, scope.get(place.epoch, 0))
        keys = ReaderKeys(self.identity.index_key or None)
        with closing(gather(self.store, self.identity.domain, keys, scope)) as contents:
            cuts = sorted(cut.place for cut in cuts_of(contents, scope))
            return [self._at(contents.vm_records, place) for place in cuts]

    def _at(self, records: list, place: Place) -> dict[str, int]:  # type: ignore[type-arg]
        branch = dict.fromkeys(range(1, place.epoch), 10**9) | {place.epoch: place.seq}
        members = members_at(records, branch)
        return {one.configuration.name: one.configuration.description.cpus for one in members}

    def until_said(self, condition: Callable[[dict[str, int]], object], what: str) -> None:
        wait_until(lambda: condition((self.at_each_cut() or [{}])[-1]), what, DEADLINE_SECONDS)


@pytest.fixture
def site(tmp_path: Path) -> VmSite:
    site = VmSite(tmp_path)
    site.answer(web=1, db=1)
    return site


def test_points_have_the_configuration_of_their_time(site: VmSite) -> None:
    with site.streaming():
        site.write(0, 0, b"one")
        site.until_said(lambda said: said == {"web": 1, "db": 1}, "both are in the container")
        site.flush()
        site.answer(web=2, db=1)
        site.until_said(lambda said: said == {"web": 2, "db": 1}, "the change alone made a cut")
        site.write(0, 4096, b"two")
        site.flush()
    said = site.at_each_cut()
    assert {"web": 1, "db": 1} in said
    assert said[-1] == {"web": 2, "db": 1}
    assert site.restored("disk") == site.images[0]


def test_asked_before_a_point_it_has_what_is_so_now(site: VmSite) -> None:
    site.every_seconds = 3600.0
    with site.streaming():
        site.flush()
        assert site.ask("describe")["ok"]
        site.answer(web=9, db=9)
        assert site.ask("describe")["ok"]
        site.flush()
        assert site.at_each_cut()[-1] == {"web": 9, "db": 9}


def test_hypervisors_that_hang_hold_nothing_up(site: VmSite) -> None:
    site.program = "time.sleep(1000)"
    with site.streaming():
        site.write(0, 0, b"one")
        site.flush()
        assert site.ask("marker", name="now", note="")["ok"]
        site.write(0, 0, b"two")
        site.flush()
        assert site.facts()["protected"]
        assert [vm["asked"] for vm in site.facts()["vms"]] == [False, False]
    assert site.at_each_cut()[-1] == {}


def test_one_that_is_gone_stays_as_it_was_and_is_told(site: VmSite) -> None:
    with site.streaming():
        site.until_said(lambda said: len(said) == 2, "both are in the container")
        site.answer(db=3)
        site.until_said(lambda said: said == {"web": 1, "db": 3}, "the other goes on")
        (web,) = [vm for vm in site.facts()["vms"] if vm["name"] == "web"]
        assert web["problem"]
        assert web["known_ns"]


def test_a_restart_sends_nothing_by_itself_and_all_with_the_next_cut(site: VmSite) -> None:
    with site.streaming():
        site.until_said(lambda said: len(said) == 2, "both are in the container")
        site.flush()
        wait_until((site.directory / NOTE_NAME).exists, "it is noted", DEADLINE_SECONDS)
    before = len(site.recovery().cuts)
    with site.streaming():
        site.facts_once(lambda facts: (facts.get("vms") or [{}])[0].get("known_ns"), "they were asked")
        assert len(site.recovery().cuts) == before
        site.write(0, 0, b"more")
        site.flush()
    assert len(site.recovery().cuts) > before
    (newest,) = {place.epoch for place in site.recovery().cuts[before:]}
    keys = ReaderKeys(site.identity.index_key)
    with closing(gather(site.store, site.identity.domain, keys, {newest: 99})) as contents:
        assert {record.vm for record in contents.vm_records} == {WEB, DB}


def test_a_member_that_left(site: VmSite) -> None:
    with site.streaming():
        site.until_said(lambda said: len(said) == 2, "both are in the container")
    web, db = site.identity.vms
    site.with_vms(web, replace(db, removed=True))
    with site.streaming():
        site.write(0, 0, b"more")
        site.until_said(lambda said: said == {"web": 1}, "the one that left is gone")
    assert {"web": 1, "db": 1} in site.at_each_cut()


def test_other_members_have_the_streamer_begin_anew(site: VmSite) -> None:
    with site.streaming() as running:
        site.until_said(lambda said: len(said) == 2, "both are in the container")
        running.may_fail = True
        site.with_vms(site.identity.vms[0])
        wait_until(lambda: running.error, "it ends, to be started again", DEADLINE_SECONDS)
        assert "other VMs" in str(running.error)
