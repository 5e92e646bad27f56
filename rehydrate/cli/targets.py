"""Which volumes a restore writes where: from the options to targets that are open, written and finished.

What a target is stands one package above (target); what is read for it in restore.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cdp_container.clock import Clock
from cdp_container.console import printable, say
from cdp_container.domain.image import Volume
from cdp_container.errors import CdpError, DamagedObject, MissingObject, TargetUnsuitable, UsageError
from rehydrate.cli.progress import meter
from rehydrate.damage import Findings, examined, map_path, remove_map, with_map_hint, write_map
from rehydrate.plan import Totals, VolumePlan
from rehydrate.points import RestorePlan
from rehydrate.restore import Report, Source, restore_volume, sum_of
from rehydrate.resume import PROGRESS_SUFFIX, Image, Lost, read_progress
from rehydrate.target import Target, check_room_for, open_target

NOTED_MAX: Final = 256
"""Progress files that are looked at in a directory: of more, one hold is surely theirs."""


@dataclass(frozen=True, slots=True)
class Targets:
    """Which volumes go where."""

    names: list[str]
    target: Path | None
    all_volumes: bool
    target_dir: Path | None
    force: bool
    restart: bool = False
    tolerant: bool = False
    again: frozenset[Path] = frozenset()
    """Devices that this very restore began to write before it was interrupted: they need no `force`."""
    hold: str = ""
    """The id of the hold under which it is read, if there is one."""
    has_trees: bool = False
    """Whether trees are restored, too; then no volume need be."""

    @property
    def has_volumes(self) -> bool:
        """Whether any volume is restored."""
        return self.all_volumes or self.target is not None


def noted_holds(targets: Targets) -> list[str]:
    """The ids of the holds that interrupted restores into these targets noted, as far as any can be read."""
    if targets.target_dir is None:
        paths = [] if targets.target is None else [Path(os.path.realpath(targets.target))]
    else:
        found = sorted(targets.target_dir.glob(f"*{PROGRESS_SUFFIX}"))[:NOTED_MAX]
        paths = [path.with_name(path.name.removesuffix(PROGRESS_SUFFIX)) for path in found]
    noted = [progress.hold for path in paths if (progress := read_progress(path)) is not None]
    return [hold_id for hold_id in dict.fromkeys(noted) if hold_id]


def check_targets(targets: Targets) -> None:
    """Raises UsageError where the options do not go together."""
    if targets.has_trees and not (
        targets.all_volumes or targets.target or targets.target_dir or targets.names
    ):
        return
    if targets.all_volumes:
        if targets.target_dir is None or targets.target is not None or targets.names:
            raise UsageError("choose a target", "--all goes with --target-dir, without --volume and --target")
    elif targets.target is None or targets.target_dir is not None or len(targets.names) > 1:
        raise UsageError("choose a target", "give --volume NAME --target PATH, or --all --target-dir DIR")


def paths_of(made: RestorePlan, targets: Targets) -> list[Path]:
    """Where each planned volume goes, in their order. Raises UsageError where that is not clear."""
    if targets.target_dir is not None:
        _check_names([plan.volume for plan in made.volumes])
        return [targets.target_dir / f"{_file_name(volume)}.raw" for volume in made.volumes]
    assert targets.target is not None
    if len(made.volumes) != 1:
        known = ", ".join(volume.volume.name for volume in made.volumes) or "none"
        raise UsageError("choose a volume", f"there are several: {known}", "give --volume NAME")
    return [targets.target]


def _check_names(volumes: Sequence[Volume]) -> None:
    for volume in volumes:
        twins = [other.space.hex() for other in volumes if other.name == volume.name]
        if len(twins) > 1:
            why = f"several have the name {volume.name!r}; their ids are {', '.join(twins)}"
            raise UsageError("make a target for each volume", why, "restore each by itself: --volume ID")


def _file_name(plan: VolumePlan) -> str:
    """A volume's name as a file's: it comes from the container, so it must not lead out of the directory."""
    name = plan.volume.name
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        why = f"the name {name!r} cannot be that of a file"
        raise UsageError("make a target for a volume", why, "restore it by itself, with --target")
    return name


@dataclass(frozen=True, slots=True)
class Restored:
    """Where each volume stands now, and what this restore fetched and wrote for all of them.

    `maps`: of each volume that is not as it was meant, where the map of it is, and what it tells.
    """

    paths: list[Path]
    done: Totals
    maps: dict[Path, Findings]


def check_fit(source: Source, made: RestorePlan, paths: list[Path], targets: Targets) -> None:
    """Raises what `restore_all` would before it touches anything."""
    _check_apart(paths)
    check_room_for(zip(paths, (plan.totals.write_bytes for plan in made.volumes), strict=True))
    with ExitStack() as stack:
        for plan, path in zip(made.volumes, paths, strict=True):
            stack.enter_context(_open(source, made, plan, path, targets))


def restore_all(
    source: Source,
    made: RestorePlan,
    paths: list[Path],
    targets: Targets,
    clock: Clock,
    as_json: bool,
    when_done: Callable[[], None] = lambda: None,
    check: Callable[[], None] = lambda: None,
) -> Restored:
    """Restore every volume. All targets are opened before any is touched. `as_json`: how progress is told.

    `when_done` is called when all are durable; only after it is it forgotten how far each came. `check` is
    called all the time, and before a volume is taken for damaged: it raises where another reading is due.
    """
    _check_apart(paths)
    check_room_for(zip(paths, (plan.totals.write_bytes for plan in made.volumes), strict=True))
    opened: list[Target] = []
    with ExitStack() as stack:
        for plan, path in zip(made.volumes, paths, strict=True):
            target = stack.enter_context(_open(source, made, plan, path, targets))
            opened.append(target)
        for target in opened:
            if target.overwrites:
                say(printable(f"overwriting: {target.overwrites}"))
            if target.note:
                say(printable(f"note: {target.note}"))
            if not target.done.nothing:
                say(printable(f"note: going on with the interrupted restore into {target.path}"))
        maps: dict[Path, Findings] = {}
        mapper = _mapper(source, made, maps, check) if targets.tolerant else None
        with meter(sum_of(made.volumes), "restore", clock, as_json) as shown:

            def report(done: Totals) -> None:
                check()
                shown(done)

            done = _restore_each(source, made, opened, report, mapper, maps)
        when_done()
        for target in opened:
            target.forget()
    return Restored([target.path for target in opened], done, maps)


def _check_apart(paths: list[Path]) -> None:
    """Raises TargetUnsuitable where two of them are one: by links."""
    ends: set[str] = set()
    for path in paths:
        end = os.path.realpath(path)
        if end in ends:
            raise TargetUnsuitable(f"restore into {path}", f"another volume goes to {end} too")
        ends.add(end)


def drop_stale_map(path: Path, maps: Mapping[Path, Findings]) -> None:
    """A target that is whole now needs no map of what an earlier restore of it lacked."""
    try:
        removed = None if map_path(path) in maps else remove_map(path)
    except CdpError as error:  # no reason to leave the other volumes unrestored
        say(printable(f"note: {path} is whole now, but cannot {error.what}: {error.why}"))
    else:
        if removed is not None:
            say(printable(f"note: removed {removed}, the map of an earlier restore: {path} is whole now"))


def _open(
    source: Source, made: RestorePlan, plan: VolumePlan, path: Path, targets: Targets
) -> AbstractContextManager[Target]:
    return open_target(
        path,
        plan.volume.size_bytes,
        plan.totals.write_bytes,
        targets.force or path in targets.again,
        _image(source, made, plan.volume),
        targets.restart,
        targets.tolerant,
        targets.hold,
    )


def _image(source: Source, made: RestorePlan, volume: Volume) -> Image:
    place, domain = made.cut.place, source.contents.domain.hex()
    return Image(domain, place.epoch, place.cut, volume.space.hex(), volume.size_bytes, made.rests_on)


Mapper = Callable[[VolumePlan, Target, tuple[Lost, ...]], None]
"""Makes the map of a volume's damage, before its target is finished."""


def _mapper(
    source: Source, made: RestorePlan, maps: dict[Path, Findings], check: Callable[[], None]
) -> Mapper:
    def write(plan: VolumePlan, target: Target, lost: tuple[Lost, ...]) -> None:
        check()
        found = examined(source.contents, made.branch, plan.volume, made.faults, lost, made.doubts)
        if found.parts or found.doubts:
            image = _image(source, made, plan.volume)
            maps[write_map(target.path, image, plan.volume.name, found)] = found

    return write


def _restore_each(
    source: Source,
    made: RestorePlan,
    opened: list[Target],
    report: Report,
    mapper: Mapper | None,
    maps: Mapping[Path, Findings],
) -> Totals:
    """One volume after another; whatever ends it early, the finished ones are named."""
    finished = 0
    done = Totals()
    try:
        for plan, target in zip(made.volumes, opened, strict=True):
            on_damage = None if mapper is None else functools.partial(mapper, plan, target)
            done += restore_volume(source, plan, target, report, on_damage)
            finished += 1
            # Before the note of how far it is goes: with that gone, nobody would come here again.
            drop_stale_map(target.path, maps)
    except (DamagedObject, MissingObject) as error:  # none comes where damage is mapped
        raise with_map_hint(error) from error
    finally:
        if finished < len(opened):
            _say_unfinished(made, opened, finished)
    return done


def _say_unfinished(made: RestorePlan, opened: list[Target], finished: int) -> None:
    if len(opened) > 1:
        for number, (plan, target) in enumerate(zip(made.volumes, opened, strict=True)):
            state = "finished" if number < finished else "not finished"
            say(printable(f"{state}: {plan.volume.name} in {target.path}"))
    if any(not target.done.nothing for target in opened):
        say("what is durable was kept: the same command goes on with it, --restart starts anew")
