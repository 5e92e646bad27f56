"""A runbook's file: read, and held against a point before VMs are started. Raises with every fault.

What a runbook may say, and whether it fits, stands in rehydrate.runbook.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cdp_container.console import printable, say
from cdp_container.domain.page_faults import PAGE_BYTES_MAX, line_of
from cdp_container.domain.yaml_page import PagePlace
from cdp_container.errors import ConfigInvalid, RunbookUnfit, UsageError
from rehydrate.boot.trial import directory_to_be, refused_findings_of
from rehydrate.runbook.check import AtPoint, Finding, boot_findings_of
from rehydrate.runbook.check_installed import installed_findings_of
from rehydrate.runbook.here import ThisMachine
from rehydrate.runbook.installed import ThisInstallation
from rehydrate.runbook.model import RunbookSettings, parse_runbook, rehearsed


@dataclass(frozen=True, slots=True)
class Page:
    """A runbook as it was read; `lines`: of every place in it."""

    path: Path
    runbook: RunbookSettings
    lines: Mapping[PagePlace, int]

    def told(self, one: Finding) -> str:
        """A finding with its line."""
        return f"{self.path}:{line_of(one.place, self.lines)}: {one.words}"


def read_page(path: Path) -> Page:
    """Raises ConfigInvalid with every fault."""
    try:
        with path.open("rb") as file:
            text = file.read(PAGE_BYTES_MAX + 1)
    except OSError as error:
        hint = "give the path of the runbook (docs/vms.md, Runbook)"
        raise ConfigInvalid(f"cannot read {path}", error.strerror or "unreadable", hint) from error
    return Page(path, *parse_runbook(text, str(path)))


def page_of(boot: bool, runbook: Path | None) -> Page | None:
    """The runbook that --boot goes by, None without --boot. Raises UsageError, ConfigInvalid."""
    if not boot and runbook is None:
        return None
    if runbook is None:
        raise UsageError("--boot", "no --runbook says how the VMs are to run here", "docs/vms.md, Runbook")
    if not boot:
        raise UsageError("--runbook", "without --boot no VM is started")
    return read_page(runbook)


def check_fits(
    page: Page, point: AtPoint, rehearsal: bool, directory: str | None = None, programs: Sequence[str] = ()
) -> None:
    """Whether VMs can be started by a runbook; warnings are told. Raises RunbookUnfit with all faults.

    directory: where their documents are to lie; None: in the runbook's.
    programs: that are needed besides.
    """
    here = ThisMachine()
    lacking = [one for one in programs if not here.has_program(one)]
    findings = [
        *(Finding(("target",), f"there is no program {one} here") for one in lacking),
        *boot_findings_of(page.runbook, point, here, rehearsal),
        *_installed(page.runbook, point, rehearsal),
    ]
    alone, before = _alone(page.runbook, rehearsal)
    if alone is not None:
        where = directory_to_be(alone) if directory is None else directory
        refused = refused_findings_of(alone, point.members, where, rehearsal, findings)
        findings += [replace(one, place=(*before, *one.place)) for one in refused]
    for one in findings:
        if not one.is_fault:
            say(f"warning: {printable(page.told(one))}")
    faults = [printable(page.told(one)) for one in findings if one.is_fault]
    if faults:
        raise RunbookUnfit(f"{page.path} does not fit: no VM can be started by it", "\n".join(["", *faults]))


def _alone(runbook: RunbookSettings, rehearsal: bool) -> tuple[RunbookSettings | None, PagePlace]:
    """The runbook of what is about to happen and of nothing else, None where there is none; its place."""
    if rehearsal:
        return rehearsed(runbook), ("test",)
    return runbook.model_copy(update={"test": None}), ()


def _installed(runbook: RunbookSettings, point: AtPoint, rehearsal: bool) -> list[Finding]:
    """What the hypervisor lacks. Room for disks is not asked: they do not lie in the runbook's directory."""
    alone, before = _alone(runbook, rehearsal)
    if alone is None:
        return []
    found = installed_findings_of(alone, point.members, {}, ThisInstallation())
    return [replace(one, place=(*before, *one.place)) for one in found]
