"""What a rendering would refuse on the day is told before it: by `check-runbook`, and before a claim."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cdp_container.domain.machine import Description, Disk, Firmware, FirmwareKind
from cdp_container.domain.machine_records import Configuration, Member, Native
from cdp_container.errors import RunbookUnfit
from rehydrate.boot.trial import directory_to_be, refused_findings_of
from rehydrate.cli.runbook_page import check_fits, read_page
from rehydrate.runbook.check import AtPoint, Finding
from rehydrate.runbook.model import RunbookSettings

SPACE = b"S" * 16
WEB = Description("web", memory_bytes=32 << 20, disks=(Disk("vda", volume=SPACE, boot=1),))


def member(description: Description = WEB) -> Member:
    return Member(b"V" * 16, Configuration("web", description, Native("description", "")))


def runbook(**changes: object) -> RunbookSettings:
    return RunbookSettings.model_validate({"target": "qemu", "directory": "/srv/v", **changes})


def words(description: Description = WEB, told: list[Finding] | None = None, **changes: object) -> list[str]:
    page = runbook(**changes)
    directory = directory_to_be(page)
    found = refused_findings_of(page, [member(description)], directory, False, told or [])
    assert all(one.is_fault and one.place == ("vms", "web") for one in found)
    return [one.words for one in found]


@pytest.mark.parametrize("target", ["qemu", "libvirt", "proxmox"])
def test_a_vm_that_can_be_rendered_is_told_nothing_of(target: str) -> None:
    assert words(target=target) == []


def test_a_memory_that_nobody_knows_is_told_unless_the_runbook_says_it() -> None:
    unknown = replace(WEB, memory_bytes=0)
    (told,) = words(unknown)
    assert "how much memory it had is not known" in told
    assert "`memory` in the runbook" in told, "what to do stands with it"
    assert words(unknown, vms={"web": {"memory": "64MiB"}}) == []


def test_a_directory_too_long_for_sockets_is_told() -> None:
    (told,) = words(directory="/srv/" + "v" * 90)
    assert "longer than 107 bytes" in told
    assert "shorter directory" in told
    assert words(directory="/srv/" + "v" * 90, target="libvirt") == []


def test_on_the_day_no_longer_epoch_than_it_has_is_reckoned_with() -> None:
    """A failover was refused whose paths would have been short enough."""
    pages = [runbook(directory="/srv/" + "v" * count) for count in range(100)]

    def refused_by(page: RunbookSettings, directory: str) -> bool:
        return bool(refused_findings_of(page, [member()], directory, False, []))

    page = next(page for page in pages if refused_by(page, directory_to_be(page)))
    assert not refused_by(page, directory_to_be(page, 7))


def test_an_architecture_that_nobody_can_start_is_told() -> None:
    (told,) = words(replace(WEB, architecture="vax"))
    assert "'vax'" in told


def test_variables_that_are_damaged_are_told_and_stop_nobody_else() -> None:
    damaged = replace(WEB, firmware=Firmware(FirmwareKind.UEFI, variables="AAAA"))
    (told,) = words(damaged, target="libvirt")
    assert "VM web" in told


def test_what_was_told_is_not_told_twice() -> None:
    unknown = replace(WEB, memory_bytes=0)
    assert words(unknown, [Finding(("networks",), "of it alone", vm="web")]) == []
    assert len(words(unknown, [Finding(("networks",), "a warning", is_fault=False, vm="web")])) == 1
    assert len(words(unknown, [Finding(("networks",), "of all of them")])) == 1


def test_vms_that_are_left_out_are_not_rendered() -> None:
    assert words(replace(WEB, memory_bytes=0), leave_out=["web"]) == []


def test_nothing_is_claimed_or_fetched_for_a_vm_that_cannot_be_rendered(tmp_path: Path) -> None:
    path = tmp_path / "runbook.yaml"
    path.write_text("target: qemu\ndirectory: /srv/v\nvms: {web: {}}\ntest: {networks: {}}\n")
    unknown = AtPoint([member(replace(WEB, memory_bytes=0))], {SPACE: "db"}, frozenset())
    for rehearsal in (False, True):
        with pytest.raises(RunbookUnfit, match=r"runbook\.yaml:\d: .*memory"):
            check_fits(read_page(path), unknown, rehearsal)
    fits = AtPoint([member()], {SPACE: "db"}, frozenset())
    check_fits(read_page(path), fits, True, "/srv/dr/machines")
    with pytest.raises(RunbookUnfit, match="longer than 107 bytes"):
        check_fits(read_page(path), fits, True, "/srv/" + "d" * 100)
