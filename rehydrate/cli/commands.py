"""What each command does, from its options to its exit code. The work itself stands one package above."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdp_container.clock import Clock, SystemClock
from cdp_container.console import say
from cdp_container.domain.contents import Contents
from cdp_container.errors import UsageError
from cdp_container.store.address import below, open_store, parse_address
from cdp_container.store.api import Found, Store
from cdp_container.store.retry import with_retries
from rehydrate import verify as verification
from rehydrate.cli import views
from rehydrate.cli.console import ask_passphrase, read_secret
from rehydrate.cli.progress import meter
from rehydrate.cli.text import parse_point, parse_time, tree
from rehydrate.container import Container, find_domains, open_container
from rehydrate.plan import ASSUMED_BYTES_PER_SECOND, Choice, Totals, VolumePlan
from rehydrate.points import RestorePlan, find_cut, plan_restore, points_of, scope_of
from rehydrate.restore import Source, restore_volume, sum_of
from rehydrate.show import show_object
from rehydrate.target import Target, open_target


@dataclass(frozen=True, slots=True)
class Access:
    """Where the container is, and where its secret comes from."""

    address: str
    passphrase_file: Path | None
    key_file: Path | None


@dataclass(frozen=True, slots=True)
class Targets:
    """Which volumes go where."""

    names: list[str]
    target: Path | None
    all_volumes: bool
    target_dir: Path | None
    force: bool


def choice_of(at: str | None, time: str | None, marker: str | None) -> Choice:
    """The point that the options name; at most one of them. Raises UsageError."""
    if sum(option is not None for option in (at, time, marker)) > 1:
        raise UsageError("choose a point", "--at, --time and --marker exclude each other")
    return Choice(
        at=None if at is None else parse_point(at),
        time_ns=None if time is None else parse_time(time),
        marker=marker,
    )


def domains(address: str, as_json: bool) -> int:
    """`rehydrate domains`."""
    place = parse_address(address)
    with _store(address) as store:
        found = [
            views.domain_members(below(place, prefix).address() if prefix else place.address(), owner)
            for prefix, owner in find_domains(store)
        ]
    _answer({"domains": found}, as_json, views.domains_text(found) if found else "no container here or below")
    return 0


def points(access: Access, last: int, as_json: bool) -> int:
    """`rehydrate points`."""
    with _everything(access) as (container, contents):
        shown, older = points_of(container, contents, last)
        keyless = contents.sealed
        text = [views.points_text(shown, keyless)]
        if older:
            text.append(f"and {older} older ones: --last 0")
        if keyless:
            text.append("volumes and markers are sealed: give --passphrase-file to see them")
        notes = _notes(container, contents)
        _tell(notes)
        members = {
            "domain": container.history.domain.hex(),
            "name": container.history.owner.name,
            "notes": notes,
            "sealed": keyless,
            "points": [views.point_members(point) for point in shown],
        }
        _answer(members, as_json, "\n".join(text))
    return 0


def plan(access: Access, choice: Choice, names: list[str], rate: int | None, as_json: bool) -> int:
    """`rehydrate plan`."""
    with _planned(access, choice, names) as (_, made):
        members = views.plan_members(made, rate or ASSUMED_BYTES_PER_SECOND)
        _answer(members, as_json, views.plan_text(members))
    return 0


def restore(access: Access, choice: Choice, targets: Targets, rate: int | None, as_json: bool) -> int:
    """`rehydrate restore`."""
    _check_targets(targets)
    clock = SystemClock()
    began_ns = clock.boottime_ns()
    with _planned(access, choice, targets.names) as (source, made):
        paths = _paths(made, targets)
        members = views.plan_members(made, rate or ASSUMED_BYTES_PER_SECOND)
        _say_plan(members, as_json)
        _restore_all(source, made, paths, targets.force, clock)
    elapsed_seconds = (clock.boottime_ns() - began_ns) / 1e9
    totals = sum_of(made.volumes)
    report = {
        **{name: members[name] for name in views.POINT_MEMBERS},
        "objects": members["objects"],
        "gets": totals.gets,
        "fetched_bytes": totals.fetch_bytes,
        "written_bytes": totals.write_bytes,
        "elapsed_seconds": round(elapsed_seconds, 3),
        "volumes": [
            {"name": volume.volume.name, "size_bytes": volume.volume.size_bytes, "target": str(path)}
            for volume, path in zip(made.volumes, paths, strict=True)
        ],
    }
    done = [f"restored {item['name']} to {item['target']}" for item in report["volumes"]]
    done.append(f"point {members['point']}, {elapsed_seconds:.1f} s, durable")
    _answer(report, as_json, "\n".join(done))
    return 0


def _check_targets(targets: Targets) -> None:
    if targets.all_volumes:
        if targets.target_dir is None or targets.target is not None or targets.names:
            raise UsageError("choose a target", "--all goes with --target-dir, without --volume and --target")
    elif targets.target is None or targets.target_dir is not None or len(targets.names) > 1:
        raise UsageError("choose a target", "give --volume NAME --target PATH, or --all --target-dir DIR")


def _paths(made: RestorePlan, targets: Targets) -> list[Path]:
    if targets.target_dir is not None:
        return [targets.target_dir / f"{_file_name(volume)}.raw" for volume in made.volumes]
    assert targets.target is not None
    if len(made.volumes) != 1:
        known = ", ".join(volume.volume.name for volume in made.volumes) or "none"
        raise UsageError("choose a volume", f"there are several: {known}", "give --volume NAME")
    return [targets.target]


def _file_name(plan: VolumePlan) -> str:
    """A volume's name as a file's: it comes from the container, so it must not lead out of the directory."""
    name = plan.volume.name
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        why = f"the name {name!r} cannot be that of a file"
        raise UsageError("make a target for a volume", why, "restore it by itself, with --target")
    return name


def _restore_all(source: Source, made: RestorePlan, paths: list[Path], force: bool, clock: Clock) -> None:
    """All targets are opened before the first byte is written to any."""
    opened: list[Target] = []
    with ExitStack() as stack:
        for plan, path in zip(made.volumes, paths, strict=True):
            target = stack.enter_context(
                open_target(path, plan.volume.size_bytes, plan.totals.write_bytes, force)
            )
            if target.overwrites:
                say(f"overwriting: {target.overwrites}")
            opened.append(target)
        with meter(sum_of(made.volumes), "restore", clock) as report:
            for plan, target in zip(made.volumes, opened, strict=True):
                restore_volume(source, plan, target, report)


def _say_plan(members: Mapping[str, Any], as_json: bool) -> None:
    say(json.dumps({"event": "plan", **members}) if as_json else views.plan_text(members))


def verify(access: Access, choice: Choice, as_json: bool) -> int:
    """`rehydrate verify`."""
    clock = SystemClock()
    with _container(access) as container:
        scope, listed = _verify_scope(container, choice)
        planned = Totals(gets=len(listed), fetch_bytes=sum(found.size for found in listed))
        with meter(planned, "verify", clock) as progress:
            report = verification.verify(container, listed, scope, progress)
        _tell(list(container.history.notes))
        _answer(views.report_members(report), as_json, views.report_text(report))
    return report.exit_code


def _verify_scope(container: Container, choice: Choice) -> tuple[dict[int, int], list[Found]]:
    """What counts, and the objects to read: all of them unless a point is named."""
    history = container.history
    if choice == Choice():
        return history.everything(), verification.to_verify(container, None)
    if choice.marker is not None:
        container.require_key()  # the names of cuts are sealed
    with closing(container.gather(scope_of(history, choice))) as contents:
        _tell(_notes(container, contents))
        scope = history.branch_of(find_cut(history, contents, choice, []).place)
    return scope, verification.to_verify(container, scope)


def show(access: Access, what: str, as_json: bool) -> int:
    """`rehydrate show`."""
    with _container(access) as container:
        members = show_object(container, what)
        _answer(members, as_json, tree(members))
    return 0


# --- shared ----------------------------------------------------------------------------------


@contextmanager
def _store(address: str) -> Iterator[Store]:
    clock = SystemClock()
    store = with_retries(open_store(address, clock), clock, lambda: int.from_bytes(os.urandom(6)) / 2**48)
    try:
        yield store
    finally:
        store.close()


@contextmanager
def _container(access: Access) -> Iterator[Container]:
    secret = read_secret(access.passphrase_file, access.key_file)
    with _store(access.address) as store:
        container = open_container(store, secret)
        if container.sealed and not secret:
            asked = ask_passphrase()
            container = open_container(store, asked) if asked else container
        yield container


@contextmanager
def _everything(access: Access) -> Iterator[tuple[Container, Contents]]:
    with _container(access) as container, closing(_all_contents(container)) as contents:
        yield container, contents


def _all_contents(container: Container) -> Contents:
    return container.gather(container.history.everything())


@contextmanager
def _planned(access: Access, choice: Choice, names: list[str]) -> Iterator[tuple[Source, RestorePlan]]:
    with _container(access) as container:
        container.require_key()
        with closing(container.gather(scope_of(container.history, choice))) as contents:
            _tell(_notes(container, contents))
            made = plan_restore(container, contents, choice, names)
            _tell(made.notes)
            yield Source(container.store, container.keys, contents), made


def _notes(container: Container, contents: Contents) -> list[str]:
    """What a reader should be told, and every object that is not what it should be."""
    broken = [f"{broken.key}: {broken.error.why}" for broken in contents.broken.values()]
    return [*container.history.notes, *contents.notes, *broken]


def _tell(notes: Sequence[str]) -> None:
    for note in notes:
        say(f"note: {note}")


def _answer(members: Mapping[str, Any], as_json: bool, text: str) -> None:
    print(json.dumps(members, indent=2) if as_json else text, flush=True)
