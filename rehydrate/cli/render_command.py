"""`rehydrate render` and `rehydrate check-runbook`: from options to files, text and an exit code."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from cdp_container.console import printable, say
from cdp_container.domain.durable import replace_file
from cdp_container.domain.machine import unpack_variables
from cdp_container.domain.machine_records import Member
from cdp_container.domain.page_faults import line_of
from cdp_container.errors import RunbookUnfit, UsageError, counted
from rehydrate.boot.trial import directory_to_be, refused_findings_of
from rehydrate.cli import commands
from rehydrate.cli.runbook_page import read_page
from rehydrate.localio import os_errors
from rehydrate.plan import Choice
from rehydrate.render.documents import GUESTS_OWN, Documents, Target, documents_of
from rehydrate.render.recovered import Changes, FilePlace, NbdPlace, Place, Recovered, recovered_of
from rehydrate.runbook.changes import addresses_of, changes_of
from rehydrate.runbook.check import AtPoint, findings_of
from rehydrate.runbook.check_installed import installed_findings_of
from rehydrate.runbook.here import ThisMachine
from rehydrate.runbook.installed import ThisInstallation
from rehydrate.runbook.model import RunbookSettings, rehearsed
from rehydrate.vms import member_called

SCRIPT_MODE = 0o700


@dataclass(frozen=True, slots=True)
class Asked:
    """What `render` was asked for."""

    vm: str
    into: str
    target: str | None
    disks: tuple[str, ...]
    runbook: Path | None
    rehearsal: bool


def check_runbook(path: Path, access: commands.Access, choice: Choice, as_json: bool) -> int:
    """`rehydrate check-runbook`. Raises ConfigInvalid, RunbookUnfit."""
    page = read_page(path)
    runbook, lines = page.runbook, page.lines
    seen = commands.vms_of(access, choice)
    at_point = AtPoint(seen.members, seen.volumes, frozenset(seen.cut.not_whole))
    findings = [
        *findings_of(runbook, at_point, ThisMachine()),
        *installed_findings_of(runbook, seen.members, seen.sizes, ThisInstallation()),
    ]
    findings += refused_findings_of(runbook, seen.members, directory_to_be(runbook), False, findings)
    alone = rehearsed(runbook)
    if alone is not None:  # where its documents are to lie is said by --into
        refused = refused_findings_of(alone, seen.members, "/", True, findings)
        findings += [replace(one, place=("test", *one.place)) for one in refused]
    told = [page.told(one) for one in findings]
    point = f"{seen.cut.place.epoch}.{seen.cut.place.cut}"
    members = {
        "point": point,
        "vms": [one.configuration.name for one in seen.members],
        "findings": [
            {
                "place": list(one.place),
                "line": line_of(one.place, lines),
                "what": one.words,
                "fault": one.is_fault,
            }
            for one in findings
        ],
    }
    faults = [text for text, one in zip(told, findings, strict=True) if one.is_fault]
    warnings = [f"warning: {text}" for text, one in zip(told, findings, strict=True) if not one.is_fault]
    text = [*warnings, *([] if faults else [f"{path} fits {counted(len(seen.members), 'VM')} at {point}"])]
    if text or as_json:
        commands.say_answer(members, as_json, "\n".join(map(printable, text)))
    if faults:
        why = "\n".join(["", *map(printable, faults)])
        raise RunbookUnfit(f"{path} does not fit {counted(len(seen.members), 'VM')} at {point}", why)
    return 0


def render(asked: Asked, access: commands.Access, choice: Choice, as_json: bool) -> int:
    """`rehydrate render`. Raises RenderRefused, NoSuchVm, UsageError."""
    runbook = None if asked.runbook is None else read_page(asked.runbook).runbook
    if asked.rehearsal and runbook is not None:
        runbook = rehearsed(runbook)
        if runbook is None:
            raise UsageError("render for a rehearsal", "the runbook has no `test`", "docs/vms.md, Runbook")
    if asked.target is None and runbook is None:
        raise UsageError("render a VM", "neither --for nor --runbook says for which hypervisor")
    target = Target(asked.target or (runbook.target if runbook is not None else ""))
    places = _places(asked.disks)
    seen = commands.vms_of(access, choice)
    made = _documents(asked, target, runbook, places, member_called(seen, asked.vm))
    for word in made.not_rendered:
        say(f"not rendered: {printable(word)}")
    if asked.into == "-":
        for name in made.beside:
            say(f"note: {name} is only written into a directory")
        members = {"text": made.text, "not_rendered": list(made.not_rendered)}
        commands.say_answer(members, as_json, made.text.rstrip("\n"))
        return 0
    written = _write(Path(asked.into), made)
    members = {"files": list(map(str, written)), "not_rendered": list(made.not_rendered)}
    commands.say_answer(members, as_json, "\n".join(map(str, written)))
    return 0


def _documents(
    asked: Asked, target: Target, runbook: RunbookSettings | None, places: Mapping[str, Place], member: Member
) -> Documents:
    configuration = member.configuration
    one, name = configuration.description, configuration.name
    directory = os.path.abspath("." if asked.into == "-" else asked.into)
    if asked.into == "-" and runbook is not None:
        directory = runbook.directory
    seed = f"{directory}/{member.vm.hex()}.seed.iso"
    if runbook is None:
        changes = Changes(directory, places, rehearsal=asked.rehearsal, new_macs=asked.rehearsal)
    else:
        changes = changes_of(runbook, name, one, places, directory, seed, asked.rehearsal)
    packed = one.firmware.variables
    variables = None if packed is None else unpack_variables(packed, f"VM {name}")
    vm: Recovered = recovered_of(name, member.vm, one, configuration.native, changes, variables, os.urandom)
    return documents_of(vm, target, () if runbook is None else addresses_of(runbook, name))


def _places(disks: Iterable[str]) -> dict[str, Place]:
    """Where disks are, as --disk says. Raises UsageError."""
    found: dict[str, Place] = {}
    for word in disks:
        name, equals, where = word.partition("=")
        if not name or not equals or not where or name in found:
            raise UsageError("place a disk", f"{word!r} is not DISK=PATH, or its disk is named twice")
        found[name] = (
            _nbd(where) if where.startswith("nbd") and "://" in where else FilePlace(os.path.abspath(where))
        )
    return found


def _nbd(where: str) -> NbdPlace:
    try:
        parts = urlsplit(where)
        port = parts.port or 10809
    except ValueError as error:
        raise UsageError("place a disk", f"{where!r} is no address of an export") from error
    export = unquote(parts.path.removeprefix("/"))
    if parts.scheme == "nbd+unix":
        socket = parse_qs(parts.query).get("socket", [""])[0]
        if socket.startswith("/"):
            return NbdPlace(export, socket=socket)
    elif parts.scheme == "nbd" and parts.hostname:
        return NbdPlace(export, host=parts.hostname, port=port)
    hint = "write nbd://HOST:PORT/EXPORT or nbd+unix:///EXPORT?socket=/PATH"
    raise UsageError("place a disk", f"{where!r} is no address of an export", hint)


def _write(directory: Path, made: Documents) -> list[Path]:
    """The files, each replaced whole, for their owner alone; the document that names the others last.

    What a guest writes stays where it is there.
    """
    with os_errors(f"make {directory}"):
        directory.mkdir(parents=True, exist_ok=True)
    files = [*made.beside.items(), (made.name, made.text.encode())]
    for name, data in files:
        path = directory / name
        if name.endswith(GUESTS_OWN) and path.exists():
            say(f"note: {printable(str(path))} stays as it is: its guest may have written it since")
            continue
        replace_file(path, data)
        if name.endswith(".sh"):
            path.chmod(SCRIPT_MODE)
    return [directory / name for name, _ in reversed(files)]
