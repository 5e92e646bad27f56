"""What the commands answer, as JSON members and as text. Base units in JSON, the unit in each name. PURE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cdp_container.console import printable
from cdp_container.errors import counted
from cdp_container.format.domain import Owner
from cdp_container.telling import (
    Members,
    members_table,
    place_name,
    point_name,
    record_members,
    table,
    time_text,
)
from rehydrate.cli.text import seconds_text, size_text
from rehydrate.plan import ASSUMED_GETS_PER_SECOND, Totals, VolumePlan
from rehydrate.points import Listed, Point, RestorePlan
from rehydrate.restore import sum_of

if TYPE_CHECKING:
    from cdp_container.domain.retention import Kept
    from cdp_container.domain.verify_types import Coverage, Report
    from cdp_container.format.place import Place
    from rehydrate.epochs import Epoch
    from rehydrate.tree_totals import TreeTotals
    from rehydrate.unmerged import Unmerged

POINT_MEMBERS = ("point", "time", "cut_time_ns", "protected", "markers", "notes")
"""What the members of a plan say of its point."""


def domain_members(address: str, owner: Owner | Exception) -> Members:
    """One container below an address."""
    if isinstance(owner, Exception):
        return {"address": address, "error": str(owner)}
    return {
        "address": address,
        "name": owner.name,
        "domain": owner.domain.hex(),
        "site": owner.site,
        "state": owner.state.value,
        "epoch": owner.epoch,
        "protected": point_name(owner.protected.epoch, owner.protected.cut),
    }


def domains_text(found: Sequence[Members]) -> str:
    """All containers below an address."""
    names = ("name", "domain", "site", "state", "protected", "address")
    return table(
        [name.upper() for name in names],
        [[str(members.get(name, members.get("error", ""))) for name in names] for members in found],
    )


def point_members(point: Point) -> Members:
    """One recovery point."""
    place = point.cut.place
    return {
        "point": point_name(place.epoch, place.cut),
        "epoch": place.epoch,
        "cut": place.cut,
        "seq": place.seq,
        "time": time_text(point.cut.time_ns),
        "cut_time_ns": point.cut.time_ns,
        "whole": point.cut.whole,
        "protected": point.protected,
        "broken": None if point.broken is None else str(point.broken),
        "branch": "main" if point.main else "side",
        "markers": list(point.cut.markers),
        "volumes": [
            {"name": volume.name, "size_bytes": volume.size_bytes, "whole": volume.whole}
            for volume in point.volumes
        ],
        "trees": [{"name": tree.name, "whole": tree.whole} for tree in point.trees],
        "skewed": point.skewed_files > 0,
        "skewed_files": point.skewed_files,
        **_instant_members(point.instants),
    }


def points_text(listed: Listed, keyless: bool, kept: Mapping[Place, Kept] | None) -> str:
    """Recovery points, oldest first, and between them where there was none for long.

    `kept`: how long, as far as it is known; None where everything is for ever.
    """
    with_images = any(point.instants for point in listed.points)
    columns = ["POINT", "TIME", "STATE", "VOLUMES", "MARKERS"]
    columns += ["IMAGES"] if with_images else []
    columns += [] if kept is None else ["KEPT UNTIL ABOUT"]
    rows = []
    for number, point in enumerate(listed.points):
        place = point.cut.place
        if number in listed.gaps:
            gap = f"  no point for {seconds_text(listed.gaps[number])}"
            rows.append(["", gap, *[""] * (len(columns) - 2)])
        rows.append(
            [
                point_name(place.epoch, place.cut),
                time_text(point.cut.time_ns),
                _state(point),
                "?" if keyless else _sources_text(point),
                "?" if keyless else ", ".join(point.cut.markers),
                *([instants_text(point.instants, point.cut.time_ns)] if with_images else []),
                *([] if kept is None else [kept_text(kept.get(place))]),
            ]
        )
    return table(columns, rows)


def _sources_text(point: Point) -> str:
    """Volumes and trees; those that are not whole in brackets."""
    volumes = [(volume.name, volume.whole) for volume in point.volumes]
    trees = [(f"{tree.name}/", tree.whole) for tree in point.trees]
    return ", ".join(name if whole else f"({name})" for name, whole in (*volumes, *trees))


def kept_text(kept: Kept | None) -> str:
    """How long a point is kept, and why."""
    if kept is None:
        return "the next collection"
    if kept.until_ns is None:
        return f"for ever ({kept.words})"
    return f"{time_text(kept.until_ns)[:16]}Z ({kept.words})" if kept.until_ns else kept.words


def kept_members(kept: Kept | None) -> Members:
    """The same; `until_ns` null where it is for ever, or for no time that is known."""
    until_ns = None if kept is None else kept.until_ns
    return {
        "why": [] if kept is None else kept.words.split(", "),
        "until_ns": until_ns or None,
        "for_ever": kept is not None and kept.until_ns is None,
    }


def _state(point: Point) -> str:
    if point.broken is not None:
        return f"broken: {point.broken.what}"
    if not point.main:
        return "side branch"
    state = "protected" if point.protected else "sent"
    return f"{state}, skewed" if point.skewed_files else state


def _instant_members(instants: Mapping[str, int]) -> Members:
    """Volumes that are of an instant of their own (images of VMs), and how far these are apart."""
    found = [{"volume": name, "time": time_text(at_ns), "at_ns": at_ns} for name, at_ns in instants.items()]
    return {"instants": found, "instants_apart_ns": _apart_ns(instants)}


def _apart_ns(instants: Mapping[str, int]) -> int:
    """How far the instants of images are from each other: 0 where there are not two."""
    return max(instants.values(), default=0) - min(instants.values(), default=0)


def instants_text(instants: Mapping[str, int], cut_time_ns: int) -> str:
    """Images of VMs beside their cut: how much older the oldest is, and how far they are apart."""
    if not instants:
        return ""
    older_ns = max(0, cut_time_ns - min(instants.values()))
    return f"{older_ns / 1e6:.0f} ms before, {_apart_ns(instants) / 1e6:.0f} ms apart"


def plan_members(plan: RestorePlan, bytes_per_second: int, trees: Sequence[TreeTotals] = ()) -> Members:
    """A plan with its exact totals: of its volumes, and of those trees that were looked at."""
    totals = sum_of(plan.volumes) + sum((tree.totals for tree in trees), Totals())
    place = plan.cut.place
    return {
        "point": point_name(place.epoch, place.cut),
        "time": time_text(plan.cut.time_ns),
        "cut_time_ns": plan.cut.time_ns,
        "protected": plan.protected,
        "markers": list(plan.cut.markers),
        "notes": list(plan.notes),
        **_instant_members(plan.instants),
        "objects": plan.objects,
        **_totals_members(totals),
        "assumed_bytes_per_second": bytes_per_second,
        "estimated_seconds": round(totals.seconds(bytes_per_second, ASSUMED_GETS_PER_SECOND), 3),
        "volumes": [_volume_members(volume) for volume in plan.volumes],
        "trees": [tree_plan_members(tree) for tree in trees],
    }


def _volume_members(plan: VolumePlan) -> Members:
    return {
        "name": plan.volume.name,
        "size_bytes": plan.volume.size_bytes,
        "objects": len(plan.objects),
        **_totals_members(plan.totals),
    }


def _totals_members(totals: Totals) -> Members:
    return {
        "gets": totals.gets,
        "fetch_bytes": totals.fetch_bytes,
        "write_bytes": totals.write_bytes,
        "zero_bytes": totals.zero_bytes,
    }


def tree_plan_members(tree: TreeTotals) -> Members:
    """What one tree takes."""
    return {
        "name": tree.tree.name,
        "names": tree.names,
        "files_with_content": tree.files,
        "content_bytes": tree.content_bytes,
        **_totals_members(tree.totals),
    }


def tree_plan_line(tree: Mapping[str, Any]) -> str:
    """The same in words."""
    return printable(
        f"tree {tree['name']}: {counted(tree['names'], 'name')}, {size_text(tree['content_bytes'])} in "
        f"{counted(tree['files_with_content'], 'file')}; {counted(tree['gets'], 'GET')}, "
        f"{size_text(tree['fetch_bytes'])} to fetch"
    )


def plan_text(members: Mapping[str, Any]) -> str:
    """A plan, from its members."""
    rows = [
        [
            volume["name"],
            size_text(volume["size_bytes"]),
            str(volume["objects"]),
            str(volume["gets"]),
            size_text(volume["fetch_bytes"]),
            size_text(volume["write_bytes"]),
        ]
        for volume in members["volumes"]
    ]
    state = "protected" if members["protected"] else "sent, not yet proven"
    marked = "".join(f", marker {printable(name)}" for name in members["markers"])
    estimate = seconds_text(members["estimated_seconds"])
    rate = size_text(members["assumed_bytes_per_second"])
    objects, gets = counted(members["objects"], "object"), counted(members["gets"], "GET")
    return "\n".join(
        (
            f"point {members['point']} of {members['time']} ({state}{marked})",
            *(f"image of {printable(one['volume'])}: {one['time']}" for one in members["instants"]),
            *([table(("VOLUME", "SIZE", "OBJECTS", "GETS", "FETCH", "WRITE"), rows)] if rows else []),
            *(tree_plan_line(tree) for tree in members["trees"]),
            f"{objects}, {gets}, {counted(members['fetch_bytes'], 'byte')} to fetch",
            f"{counted(members['write_bytes'], 'byte')} to write, about {estimate} at {rate}/s",
        )
    )


def epoch_members(epoch: Epoch) -> Members:
    """One epoch that counts, and whether its chain is whole."""
    return {
        **record_members(epoch.record, epoch.until_ns),
        "last_cut": place_name(epoch.last),
        "side_branch": epoch.side,
        "fault": None if epoch.fault is None else str(epoch.fault),
    }


def history_text(epochs: Sequence[Members]) -> str:
    """Every epoch that counts, oldest first."""
    names = ("epoch", "site", "from", "until", "base", "last_cut", "reason", "operator")
    titles, rows = members_table(names, epochs)
    chains = [_chain(members) for members in epochs]
    return table([*titles, "CHAIN"], [[*row, chain] for row, chain in zip(rows, chains, strict=True)])


def unmerged_members(unmerged: Unmerged) -> Members:
    """Segments of one epoch that no image is made of."""
    return {
        "epoch": unmerged.epoch,
        "site": unmerged.site,
        "from": time_text(unmerged.began_ns),
        "from_ns": unmerged.began_ns,
        "newest": time_text(unmerged.newest_ns),
        "newest_ns": unmerged.newest_ns,
        "segments": unmerged.segments,
        "after": unmerged.beyond,
    }


def unmerged_text(unmerged: Sequence[Members]) -> str:
    """The same for people; a blank line before it."""
    names = ("epoch", "site", "from", "newest", "segments", "after")
    titles = table(*members_table(names, unmerged))
    return f"\nnot merged, and part of no recovery point (another run took the domain without it):\n{titles}"


def _chain(members: Members) -> str:
    if members["fault"] is not None:
        return f"BROKEN: {members['fault']}"
    said = ["sound"]
    said += ["ends in a side branch"] if members["side_branch"] else []
    said += ["unsynchronised"] if members["unsynchronised"] else []
    return ", ".join(said)


def report_text(report: Report) -> str:
    """What `verify` found: every finding by name, then what was looked at."""
    lines = []
    for found in report.findings:
        rest = "" if found.needed else " (no point needs it)"
        lines.append(printable(f"{found.kind}: {found.key}: {found.error.why}{rest}"))
    lines += [printable(f"ignored: {key}") for key in report.ignored]
    by_digest = "by digest only, nothing was decrypted (no key)"
    opened = f"{counted(report.frames, 'frame')} opened" if report.opened else by_digest
    read = f"{counted(report.objects, 'object')}, {size_text(report.stored_bytes)}, {opened}"
    lines.append(f"{read}; {report.sound_points} of {counted(report.points, 'point')} sound")
    lines += [] if report.coverage is None else [coverage_text(report.coverage)]
    found_many = counted(len(report.findings), "finding")
    sound = "everything is as it was written" if report.coverage is None else "nothing wrong in what was read"
    lines.append(found_many if report.findings else sound)
    return "\n".join(lines)


def coverage_text(coverage: Coverage) -> str:
    """What of a container a sample read."""
    share = f"{_percent(coverage.read_bytes, coverage.stored_bytes)} of {size_text(coverage.stored_bytes)}"
    so_far = _percent(coverage.round_objects, coverage.objects)
    many = counted(coverage.objects, "object")
    return f"a sample: {share} were read; of {many} round {coverage.round} has come by {so_far} so far"


def _percent(part: int, whole: int) -> str:
    """Rounded down: 100 % is all of it."""
    return f"{part * 1000 // whole / 10:g} %" if whole else "100 %"
