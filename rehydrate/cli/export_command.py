"""`rehydrate export`: the point is opened under a hold, its volumes become images one after the other.

Where images go stands in export_targets and export_run, how each is made in rehydrate.export.
"""

from __future__ import annotations

import json
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

from cdp_container.clock import Clock, SystemClock
from cdp_container.console import printable, say
from cdp_container.domain.contents import Contents
from cdp_container.domain.machine_records import Member
from cdp_container.domain.machine_text import configuration_members
from cdp_container.errors import CdpError, NoSuchPoint, UsageError, counted
from cdp_container.telling import point_name, time_text
from rehydrate.anew import read_until_found
from rehydrate.cli.commands import Access, say_answer
from rehydrate.cli.console import read_secret
from rehydrate.cli.export_lines import ExportLines
from rehydrate.cli.export_run import Destination, Done, Opened, Volume, opened_destination
from rehydrate.cli.export_targets import Targets, image_names
from rehydrate.cli.held import tell
from rehydrate.cli.opening import Opening, opening_for
from rehydrate.container import Container
from rehydrate.export.convert import check_program
from rehydrate.export.formats import RAW, SECTOR_BYTES, Shape, image_bytes
from rehydrate.ondemand.reader import Reader
from rehydrate.plan import Choice
from rehydrate.points import RestorePlan, plan_restore
from rehydrate.vms import member_called, vms_at


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be exported, to where, and how."""

    access: Access
    choice: Choice
    targets: Targets
    shape: Shape
    align_bytes: int
    cache_bytes: int
    at_once: int
    as_json: bool


@dataclass(slots=True)
class _Job:
    """One run of the command. `choice` is the very point, once it is known; `done` by the ids of volumes."""

    asked: Asked
    choice: Choice
    opening: Opening
    clock: Clock
    done: dict[bytes, Done] = field(default_factory=dict)


def export(asked: Asked) -> int:
    """`rehydrate export`. Raises as a restore, as `make_image`, and as `Delivery`."""
    targets = asked.targets
    if not targets.abort and (targets.bucket is None or asked.shape.format != RAW):
        check_program()
    clock = SystemClock()
    began_ns = clock.boottime_ns()
    secret = read_secret(asked.access.passphrase_file, asked.access.key_file)
    with opening_for("export", asked.access, secret, clock, asked.as_json) as opening:
        job = _Job(asked, asked.choice, opening, clock)
        if asked.access.replica:
            opening.holding.unheld("a hold in a replica is seen by nobody")
        else:
            opening.holding.place(point=asked.choice.at)
        answered = read_until_found(lambda _: _export(job), opening.holding, opening.is_moved, tell)
    elapsed_seconds = round((clock.boottime_ns() - began_ns) / 1e9, 3)
    _answer({**answered, "elapsed_seconds": elapsed_seconds}, asked.as_json)
    return 0


def _export(job: _Job) -> dict[str, Any]:
    """One reading: all of it, or on from the volume at which the one before it met that objects had moved."""
    asked, opening = job.asked, job.opening
    container = opening.open()
    with ExitStack() as stack:
        contents = opening.gather(container, job.choice)
        made, member = _planned(job, container, contents)
        job.choice = opening.settle(container, made)
        volumes = _volumes(asked, made)
        destination = stack.enter_context(
            opened_destination(
                asked.targets,
                asked.shape,
                Opened(contents.domain.hex(), made),
                job.clock,
                opening.holding.check,
            )
        )
        answered = _answered(made)
        if asked.targets.abort:
            return {**answered, "aborted": destination.abort(volumes)}
        configuration = None if member is None else _configuration(member, made)
        left = [one for one in volumes if one.plan.volume.space not in job.done]
        destination.check(left, None if member is None else (member.configuration.name, member.vm))
        opening.holding.keeps = asked.targets.bucket is not None
        source = opening.patient_source(container, contents)
        reader = stack.enter_context(
            closing(Reader(source, made.branch, _unread, asked.cache_bytes, asked.at_once))
        )
        _make_each(job, destination, reader, volumes)
        if member is not None and configuration is not None:
            where = destination.put_configuration(member.configuration.name, member.vm, configuration)
            answered = {**answered, "configuration": where}
        destination.finish(volumes)
        return {**answered, "images": [job.done[one.plan.volume.space].members() for one in volumes]}


def _make_each(job: _Job, destination: Destination, reader: Reader, volumes: list[Volume]) -> None:
    """One volume after another; whatever ends it early, the finished ones are named."""
    lines = ExportLines(job.clock, job.asked.as_json)
    try:
        for one in volumes:
            if one.plan.volume.space not in job.done:
                job.done[one.plan.volume.space] = destination.make(one, reader, lines)
    except BaseException:
        reader.stop()
        for one in volumes:
            done = job.done.get(one.plan.volume.space)
            if done is not None:
                say(printable(f"finished: {one.plan.volume.name} in {done.target}"))
        if job.asked.targets.bucket is not None:
            say("what the bucket has was noted: the same command goes on with it, --abort ends it")
        else:
            say("nothing was left of an image that was not finished: the same command begins it anew")
        raise


def _planned(job: _Job, container: Container, contents: Contents) -> tuple[RestorePlan, Member | None]:
    """The volumes that are meant, at one cut; and the VM that has them as disks there, if one was named."""
    targets = job.asked.targets
    if targets.vm is None:
        return plan_restore(container, contents, job.choice, targets.names), None
    wanted = _disks(member_called(vms_at(container, contents, job.choice), targets.vm))
    made = plan_restore(container, contents, job.choice, wanted)
    place = made.cut.place
    there = vms_at(container, contents, Choice(at=(place.epoch, place.cut)))
    member = member_called(there, targets.vm)
    if _disks(member) != wanted:
        point = point_name(place.epoch, place.cut)
        why = "its disks are others there than at newer points, of which not all are whole"
        raise NoSuchPoint(f"export the VM {targets.vm!r}", why, f"name a point with --at, {point} or another")
    for disk in member.configuration.description.disks:
        if disk.volume is None:
            tell(f"disk {disk.name} of {member.configuration.name} is no volume: it is not exported")
    return made, member


def _disks(member: Member) -> list[str]:
    """The ids of its volumes, each once. Raises UsageError where there are none."""
    disks = member.configuration.description.disks
    found = list(dict.fromkeys(one.volume.hex() for one in disks if one.volume is not None))
    if not found:
        raise UsageError("export a VM", f"{member.configuration.name} has no disk that is a volume")
    return found


def _volumes(asked: Asked, made: RestorePlan) -> list[Volume]:
    """What becomes an image, with its file's name and the size of the disk in it. Raises UsageError."""
    volumes = [plan.volume for plan in made.volumes]
    if not volumes:
        raise UsageError("export", "the point has no volumes", "`rehydrate restore --tree` restores trees")
    found = []
    for plan, name in zip(made.volumes, image_names(volumes, asked.shape), strict=True):
        size_bytes = image_bytes(plan.volume.size_bytes, asked.align_bytes, asked.shape)
        zeros = size_bytes - plan.volume.size_bytes
        if zeros:
            why = "sectors" if asked.align_bytes == SECTOR_BYTES else "--align"
            tell(f"{plan.volume.name}: {counted(zeros, 'byte')} of zeros stand behind it, for {why}")
        found.append(Volume(plan, name, size_bytes))
    return found


def _configuration(member: Member, made: RestorePlan) -> bytes:
    """What is known of a VM, as `rehydrate show … vms --json` prints it."""
    place = made.cut.place
    members = {
        "point": point_name(place.epoch, place.cut),
        "name": member.configuration.name,
        "vm": member.vm.hex(),
        **configuration_members(member.configuration),
        "volumes": {plan.volume.space.hex(): plan.volume.name for plan in made.volumes},
    }
    return json.dumps(members, indent=2).encode()


def _answered(made: RestorePlan) -> dict[str, Any]:
    place = made.cut.place
    return {"point": point_name(place.epoch, place.cut), "time": time_text(made.cut.time_ns)}


def _answer(members: dict[str, Any], as_json: bool) -> None:
    lines = [
        f"exported {one['volume']} as {one['image']} to {one['target']}" for one in members.get("images", ())
    ]
    if "configuration" in members:
        lines.append(f"configuration of the VM: {members['configuration']}")
    if "aborted" in members:
        lines.append(f"ended {counted(members['aborted'], 'unfinished upload')}")
    else:
        lines.append(f"point {members['point']} of {members['time']}, {members['elapsed_seconds']:.1f} s")
    say_answer(members, as_json, "\n".join(map(printable, lines)))


def _unread(error: CdpError) -> None:
    """Whoever reads is told."""
