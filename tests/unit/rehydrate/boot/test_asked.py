"""What --boot is refused with before anything is opened, and what a failover keeps for the next run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cdp_container.clock import SystemClock
from cdp_container.domain.failover_note import (
    NOTE_NAME,
    FailoverNote,
    change_note,
    drop_note,
    load_note,
    save_note,
)
from cdp_container.domain.identity import AgentIdentity, SourceIdentity
from cdp_container.domain.machine import Description, Disk, Nic
from cdp_container.domain.machine_records import Configuration, Member, Native
from cdp_container.domain.settings import parse_settings
from cdp_container.errors import AlreadyRunning, ConfigInvalid, RenderRefused, RunbookUnfit, UsageError
from rehydrate.boot.at_cut import AtCut
from rehydrate.boot.hypervisors import machines_for
from rehydrate.boot.ready import Rendering, ready_of
from rehydrate.boot.run import Result
from rehydrate.cli import booting, commands, dr_test
from rehydrate.cli.booting import directory_of, exports_of
from rehydrate.cli.main import NEXT_STEPS
from rehydrate.cli.runbook_page import Page, check_fits, page_of, read_page
from rehydrate.failover import outcome_of
from rehydrate.plan import Choice
from rehydrate.rehearsal.parts import Sampling
from rehydrate.rehearsal.run import Asked
from rehydrate.render.recovered import FilePlace, NbdPlace
from rehydrate.runbook.check import AtPoint
from rehydrate.runbook.model import RunbookSettings
from tests.unit.rehydrate.boot.vms import Invented

SPACE = b"S" * 16
RUNBOOK = "target: qemu\ndirectory: /srv/v\nvms: {web: {}}\nnetworks: {'*': {none: true}}\n"


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "runbook.yaml"
    path.write_text(RUNBOOK)
    return path


def member(**changes: object) -> Member:
    disk = Disk("vda", volume=SPACE, boot=1)
    one = replace(Description("web", memory_bytes=32 << 20, disks=(disk,)), **changes)  # type: ignore[arg-type]
    return Member(b"V" * 16, Configuration("web", one, Native("description", "")))


def test_boot_and_runbook_go_together(page: Path, tmp_path: Path) -> None:
    assert page_of(boot=False, runbook=None) is None
    for boot, runbook in ((True, None), (False, page)):
        with pytest.raises(UsageError):
            page_of(boot, runbook)
    with pytest.raises(ConfigInvalid):
        page_of(boot=True, runbook=tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"names": ("db",)}, "--volume"),
        ({"trees": ("home",)}, "--tree"),
        ({"sampling": Sampling(0.5)}, "--content all"),
        ({"sampling": Sampling(0.0)}, "--content all"),
        ({"sampling": Sampling(0.0, on_demand=True), "replica": True}, "replica"),
    ],
)
def test_a_rehearsal_with_machines_needs_all_of_the_point(changes: dict[str, object], why: str) -> None:
    asked = replace(Asked(Choice(), (), Path("/srv/dr")), **changes)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=why):
        dr_test.check_boot(asked)


def test_a_rehearsal_needs_networks_of_its_own(page: Path, tmp_path: Path) -> None:
    asked = Asked(Choice(), (), tmp_path / "dr")
    output = dr_test.output_of([], tmp_path / "history", as_json=True)
    with pytest.raises(RunbookUnfit, match="no `test`"):
        dr_test.dr_test(commands.Access(str(tmp_path), None, None), asked, None, output, "", read_page(page))
    assert not (tmp_path / "dr").exists()


def test_faults_of_a_rehearsal_do_not_stop_a_recovery(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page.write_text(RUNBOOK + "test: {networks: {'*': {bridge: no-such-br}}}\n")
    one = member(nics=(Nic("net0", "52:54:00:00:00:01", "prod"),))
    point = AtPoint([one], {SPACE: "db"}, frozenset())
    check_fits(read_page(page), point, rehearsal=False)
    with pytest.raises(RunbookUnfit, match="no bridge no-such-br"):
        check_fits(read_page(page), point, rehearsal=True)
    page.write_text(
        RUNBOOK.replace("none: true", "bridge: no-such-br") + "test: {networks: {'*': {none: true}}}\n"
    )
    check_fits(read_page(page), point, rehearsal=True)
    with pytest.raises(RunbookUnfit, match="no bridge no-such-br"):
        check_fits(read_page(page), point, rehearsal=False)
    assert "error" not in capsys.readouterr().err


def test_proxmox_is_refused(page: Path) -> None:
    page.write_text(RUNBOOK.replace("target: qemu", "target: proxmox"))
    point = AtPoint([member()], {SPACE: "db"}, frozenset())
    with pytest.raises(RunbookUnfit, match="done by hand"):
        check_fits(read_page(page), point, rehearsal=False)
    with pytest.raises(RenderRefused):
        machines_for("proxmox", "")


# --- what is rendered ------------------------------------------------------------------------------


def rendering(target: str, rehearsal: bool = False) -> Rendering:
    runbook = RunbookSettings.model_validate({"target": target, "directory": "/srv/v"})
    return Rendering(runbook, "/srv/v/x", rehearsal, lambda count: b"r" * count)


def test_a_throw_away_overlay_is_rendered_as_what_it_is() -> None:
    places = {SPACE: FilePlace("/srv/dr/o.qcow2", "qcow2")}
    assert (
        '"driver": "qcow2", "node-name": "disk0"'
        in ready_of(member(), places, rendering("qemu", True)).documents.text
    )
    text = ready_of(member(), places, rendering("libvirt", True)).documents.text
    assert '<driver name="qemu" type="qcow2" />' in text


def test_libvirt_finds_one_without_a_uuid_by_the_id_of_its_member() -> None:
    places = {SPACE: NbdPlace("db", socket="/j/nbd.sock")}
    ready = ready_of(member(), places, rendering("libvirt"))
    assert ready.known.uuid == "56565656-5656-4656-9656-565656565656"
    assert f"<uuid>{ready.known.uuid}</uuid>" in ready.documents.text
    assert ready.known.uuid == ready_of(member(), places, rendering("libvirt")).known.uuid
    rehearsed = ready_of(member(), places, rendering("libvirt", rehearsal=True)).known
    assert rehearsed.uuid != ready.known.uuid
    assert rehearsed.is_rehearsed
    assert not ready.known.is_rehearsed


def test_one_that_cannot_be_rendered_is_refused_alone() -> None:
    ready = ready_of(member(memory_bytes=0), {SPACE: FilePlace("/x")}, rendering("qemu"))
    assert "how much memory" in ready.refused
    assert "no volume of this point" in ready_of(member(), {}, rendering("qemu")).refused


# --- after a failover ------------------------------------------------------------------------------


def test_disks_are_the_agents_exports(page: Path) -> None:
    identity = AgentIdentity(
        b"D" * 16, "shop", "b", "none", b"", b"", b"", b"", (SourceIdentity("db", "/d", SPACE, 1),)
    )
    text = "domain: shop\nsite: b\nstore: /c\njournal: {directory: /j}\nvolumes: [{name: db, path: /d}]\n"
    plain = parse_settings(text.encode(), "x")
    on_tcp = parse_settings((text + "nbd: {listen: '127.0.0.1:10809'}\n").encode(), "x")
    by_socket = {SPACE: NbdPlace("db", socket="/j/nbd.sock")}
    assert exports_of(identity, plain, "libvirt") == by_socket
    assert exports_of(identity, on_tcp, "qemu") == by_socket
    assert exports_of(identity, on_tcp, "libvirt") == {SPACE: NbdPlace("db", host="127.0.0.1", port=10809)}


def test_each_failover_has_a_directory_of_its_own(page: Path) -> None:
    note = FailoverNote(bytes(range(16)), "b", 0, epoch=7)
    read = read_page(page)
    assert isinstance(read, Page)
    assert directory_of(read, note) == Path("/srv/v/00010203-7")


def test_vms_are_started_in_one_place_only(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, first = tmp_path / "j", tmp_path / "first"
    journal.mkdir()
    save_note(journal, FailoverNote(b"D" * 16, "b", 1, epoch=7, prepared=True))
    noted: list[str] = []

    async def starting() -> None:
        noted.append(booted(journal))

    machines = Invented(starting=starting)
    monkeypatch.setattr(booting, "machines_for", lambda target, uri: machines)
    monkeypatch.setattr(booting, "check_fits", lambda page, point, rehearsal, directory: None)
    identity = AgentIdentity(
        b"D" * 16, "shop", "b", "none", b"", b"", b"", b"", (SourceIdentity("db", "/d", SPACE, 1),)
    )
    monkeypatch.setattr(booting, "load_identity", lambda directory: identity)
    text = "domain: shop\nsite: b\nstore: /c\njournal: {directory: /j}\nvolumes: [{name: db, path: /d}]\n"
    settings = parse_settings(text.encode(), "x")
    point = AtPoint([member()], {SPACE: "db"}, frozenset())

    def boot(directory: Path, target: str = "qemu") -> list[Result]:
        words = RUNBOOK.replace("/srv/v", str(directory)).replace("qemu", target)
        page.write_text(words)
        note = load_note(journal)
        assert note is not None
        at = AtCut(tuple(point.members), point)
        return booting.boot(read_page(page), at, note, journal, settings, SystemClock(), as_json=True)

    (one,) = boot(first)
    assert one.is_running
    assert noted == [f"{first} by qemu"], "before the first start"
    for directory, target in ((tmp_path / "second", "qemu"), (first, "libvirt")):
        with pytest.raises(RunbookUnfit, match=f"VMs were started in {first} by qemu") as caught:
            boot(directory, target)
        assert "`booted`" in caught.value.hint
    machines.power.clear()
    (tmp_path / "link").symlink_to(first)
    assert boot(tmp_path / "link")[0].is_running
    assert machines.started == ["web", "web"]
    drop_note(journal)
    with pytest.raises(AlreadyRunning, match="ended the failover"):
        change_note(journal, lambda note: note)


def test_an_interruption_while_vms_start_tells_that_the_domain_is_owned_and_served() -> None:
    note, told = FailoverNote(b"D" * 16, "b", 1, epoch=7), list[str]()
    with (
        pytest.raises(KeyboardInterrupt),
        booting.interruption_told(note, Path("/j/agent.yaml"), told.append),
    ):
        raise KeyboardInterrupt
    (line,) = told
    for words in (
        "is owned by this site (epoch 7)",
        "agent runs on",
        "same command goes on",
        "/j/agent.yaml",
    ):
        assert words in line
    assert "may be claimed by this site, and is where that is said above" in NEXT_STEPS["failover"]


def test_what_is_not_interrupted_tells_nothing_of_it() -> None:
    note, told = FailoverNote(b"D" * 16, "b", 1), list[str]()
    with booting.interruption_told(note, Path("/c"), told.append):
        pass
    with pytest.raises(RunbookUnfit), booting.interruption_told(note, Path("/c"), told.append):
        raise RunbookUnfit("a", "b")
    assert told == []


def booted(journal: Path) -> str:
    note = load_note(journal)
    assert note is not None
    return note.booted


def test_a_note_from_before_that_names_no_place(tmp_path: Path) -> None:
    save_note(tmp_path, FailoverNote(b"D" * 16, "b", 1))
    members = json.loads((tmp_path / NOTE_NAME).read_text())
    del members["booted"]
    (tmp_path / NOTE_NAME).write_text(json.dumps(members))
    assert booted(tmp_path) == ""


def test_when_it_was_served_is_kept_and_told(tmp_path: Path) -> None:
    note = FailoverNote(b"D" * 16, "b", 1_000_000_000, served_ns=3_000_000_000)
    save_note(tmp_path, note)
    assert load_note(tmp_path) == note
    assert outcome_of(note, 9_000_000_000).elapsed_seconds == 2.0
    assert outcome_of(replace(note, served_ns=0), 9_000_000_000).elapsed_seconds == 8.0
