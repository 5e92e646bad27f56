"""What each command does, from its options to its exit code. The work itself stands one package above.

What only one command needs is imported by that command: a restore starts the sooner.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdp_container.clock import SystemClock
from cdp_container.console import answer, printable, say
from cdp_container.domain.contents import Contents
from cdp_container.errors import PointsDamaged, RestoredWithDamage, UsageError, counted
from cdp_container.store.address import below, open_store, parse_address
from cdp_container.store.api import Found, Store
from cdp_container.store.retry import with_retries
from cdp_container.telling import owner_members, owner_text
from rehydrate.cli import views
from rehydrate.cli.console import ask_passphrase, read_secret
from rehydrate.cli.progress import meter
from rehydrate.cli.targets import Restored, Targets, check_targets, paths_of, restore_all
from rehydrate.cli.text import parse_point, parse_time, tree
from rehydrate.container import Container, find_domains, open_container
from rehydrate.flow import Flow
from rehydrate.plan import ASSUMED_BYTES_PER_SECOND, Choice, Totals
from rehydrate.points import RestorePlan, find_cut, plan_restore, points_of, scope_of
from rehydrate.restore import Source, sum_of


@dataclass(frozen=True, slots=True)
class Access:
    """Where the container is, and where its secret comes from; whether it is a copy that may lack objects."""

    address: str
    passphrase_file: Path | None
    key_file: Path | None
    replica: bool = False


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
            text.append(f"and {counted(older, 'older one')}: --last 0")
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
    check_targets(targets)
    clock = SystemClock()
    began_ns = clock.boottime_ns()
    with _planned(access, choice, targets.names, targets.tolerant) as (source, made):
        asked = paths_of(made, targets)
        members = views.plan_members(made, rate or ASSUMED_BYTES_PER_SECOND)
        _say_plan(members, as_json)
        restored = restore_all(source, made, asked, targets, clock, as_json)
    elapsed_seconds = (clock.boottime_ns() - began_ns) / 1e9
    done, totals = restored.done, sum_of(made.volumes)
    report = {
        **{name: members[name] for name in views.POINT_MEMBERS},
        "objects": members["objects"],
        "gets": done.gets,
        "fetched_bytes": done.fetch_bytes,
        "written_bytes": done.write_bytes,
        "resumed_bytes": totals.write_bytes - done.write_bytes,
        "elapsed_seconds": round(elapsed_seconds, 3),
        "volumes": [
            {"name": volume.volume.name, "size_bytes": volume.volume.size_bytes, "target": str(path)}
            for volume, path in zip(made.volumes, restored.paths, strict=True)
        ],
    }
    lines = [printable(f"restored {item['name']} to {item['target']}") for item in report["volumes"]]
    lines.append(f"point {members['point']}, {elapsed_seconds:.1f} s, durable")
    if restored.maps:
        report["damage_maps"] = [str(path) for path in restored.maps]
    _answer(report, as_json, "\n".join(lines))
    if restored.maps:
        raise _with_damage(restored)
    return 0


def _with_damage(restored: Restored) -> RestoredWithDamage:
    maps = restored.maps.values()
    parts = sum(len(found.parts) for found in maps)
    lost, in_doubt, beyond = (
        sum(found.bytes_of(kind) for found in maps) for kind in ("lost", "doubtful", "beyond")
    )
    bytes_text = f"bytes lost: {lost}, doubtful: {in_doubt}, beyond a known size: {beyond}"
    doubts = len({doubt for found in maps for doubt in found.doubts})
    where = ", ".join(str(path) for path in restored.maps)
    why = f"{bytes_text}, in {counted(parts, 'part')}; {counted(doubts, 'more doubt')}: {where}"
    return RestoredWithDamage("restored, but not everything", why)


def _say_plan(members: Mapping[str, Any], as_json: bool) -> None:
    say(json.dumps({"event": "plan", **members}) if as_json else views.plan_text(members))


def verify(access: Access, choice: Choice, as_json: bool) -> int:
    """`rehydrate verify`."""
    from rehydrate import verify as verification

    clock = SystemClock()
    with _container(access) as container:
        scope, listed = _verify_scope(container, choice)
        planned = Totals(gets=len(listed), fetch_bytes=sum(found.size for found in listed))
        with meter(planned, "verify", clock, as_json) as progress:
            report = verification.verify(container, listed, scope, progress, choice.at is None)
        _tell(list(container.history.notes))
        _answer(views.report_members(report), as_json, views.report_text(report))
    if report.error is not None:
        raise report.error
    return 0


def history(access: Access, as_json: bool) -> int:
    """`rehydrate history`."""
    from rehydrate.epochs import epochs_of
    from rehydrate.unmerged import unmerged_of

    with _everything(access) as (container, contents):
        _tell(_notes(container, contents))
        epochs = [views.epoch_members(epoch) for epoch in epochs_of(container.history, contents)]
        owner = owner_members(container.history.owner)
        unmerged = [views.unmerged_members(one) for one in unmerged_of(container.store, container.history)]
    members = {
        "domain": container.history.domain.hex(),
        "owner": owner,
        "epochs": epochs,
        "not_merged": unmerged,
    }
    shown = views.history_text(epochs) if epochs else "no epoch yet: nothing was ever protected"
    shown += f"\n{views.unmerged_text(unmerged)}" if unmerged else ""
    _answer(members, as_json, f"{owner_text(owner)}\n{shown}")
    broken = [str(epoch["epoch"]) for epoch in epochs if epoch["fault"] is not None]
    if broken:
        raise PointsDamaged("the history is no whole chain", f"epochs: {', '.join(broken)}")
    return 0


def _verify_scope(container: Container, choice: Choice) -> tuple[dict[int, int], list[Found]]:
    """What counts, and the objects to read: all of them unless a point is named."""
    from rehydrate import verify as verification

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
    from rehydrate.show import show_object

    with _container(access) as container:
        members = show_object(container, what)
        _answer(members, as_json, tree(members))
    return 0


# --- shared ----------------------------------------------------------------------------------


@contextmanager
def _store(address: str, noticed: Callable[[], None] = lambda: None) -> Iterator[Store]:
    """The store, with patience; `noticed` is called whenever that is needed."""
    clock = SystemClock()
    opened = open_store(address, clock)
    store = with_retries(opened, clock, lambda: int.from_bytes(os.urandom(6)) / 2**48, noticed=noticed)
    try:
        yield store
    finally:
        store.close()


@contextmanager
def _container(access: Access, noticed: Callable[[], None] = lambda: None) -> Iterator[Container]:
    secret = read_secret(access.passphrase_file, access.key_file)
    with _store(access.address, noticed) as store:
        container = open_container(store, secret, access.replica)
        if container.sealed and not secret:
            asked = ask_passphrase()
            container = open_container(store, asked, access.replica) if asked else container
        yield container


@contextmanager
def _everything(access: Access) -> Iterator[tuple[Container, Contents]]:
    with _container(access) as container, closing(_all_contents(container)) as contents:
        yield container, contents


def _all_contents(container: Container) -> Contents:
    return container.gather(container.history.everything())


@contextmanager
def _planned(
    access: Access, choice: Choice, names: list[str], tolerant: bool = False
) -> Iterator[tuple[Source, RestorePlan]]:
    flow = Flow()
    with _container(access, flow.refused) as container:
        container.require_key()
        with closing(container.gather(scope_of(container.history, choice))) as contents:
            _tell(_notes(container, contents))
            made = plan_restore(container, contents, choice, names, tolerant)
            _tell(made.notes)
            yield Source(container.store, container.keys, contents, flow), made


def _notes(container: Container, contents: Contents) -> list[str]:
    """What a reader should be told, and every object that is not what it should be."""
    broken = [f"{broken.key}: {broken.error.why}" for broken in contents.broken.values()]
    return [*container.history.notes, *contents.notes, *broken]


def _tell(notes: Sequence[str]) -> None:
    for note in notes:
        say(f"note: {printable(note)}")


def _answer(members: Mapping[str, Any], as_json: bool, text: str) -> None:
    answer(json.dumps(members, indent=2) if as_json else text)
