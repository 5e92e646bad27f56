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
from typing import TYPE_CHECKING, Any

from cdp_container.clock import SystemClock
from cdp_container.console import answer, printable, say
from cdp_container.domain.contents import Contents
from cdp_container.domain.places import later_notes, open_container_store
from cdp_container.errors import PointsDamaged, UsageError
from cdp_container.format.holds import Hold
from cdp_container.store.address import below, parse_address
from cdp_container.store.api import Store
from cdp_container.store.retry import with_retries
from cdp_container.telling import owner_members, owner_text
from rehydrate.cli import views
from rehydrate.cli.console import ask_passphrase, read_secret
from rehydrate.cli.text import parse_point, parse_time, tree
from rehydrate.container import Container, Secret, find_domains, open_container
from rehydrate.flow import Flow
from rehydrate.plan import ASSUMED_BYTES_PER_SECOND, Choice
from rehydrate.points import RestorePlan, plan_restore, scope_of
from rehydrate.restore import Source

if TYPE_CHECKING:
    from cdp_container.domain.namespace import Tree
    from rehydrate.tree_totals import TreeTotals
    from rehydrate.vms import VmsAt


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
    with store_of(address) as store:
        found = [
            views.domain_members(below(place, prefix).address() if prefix else place.address(), owner)
            for prefix, owner in find_domains(store)
        ]
    say_answer(
        {"domains": found}, as_json, views.domains_text(found) if found else "no container here or below"
    )
    return 0


def points(access: Access, last: int | None, plot: Path | None, as_json: bool) -> int:
    """`rehydrate points`: the `last` newest (0: all); None: for people some of each age, for programs all."""
    from rehydrate.cli.listing import list_points

    with _everything(access) as (container, contents):
        notes = notes_of(container, contents)
        thinned = last is None and not as_json
        members, text = list_points(
            container, contents, None if thinned else last or 0, SystemClock().wall_ns(), notes, plot
        )
        _tell(notes)
        say_answer({**members, "notes": notes}, as_json, text)
    return 0


def plan(
    access: Access,
    choice: Choice,
    names: list[str],
    rate: int | None,
    as_json: bool,
    trees: Sequence[str] = (),
) -> int:
    """`rehydrate plan`; volumes that are not named are left out where trees are."""
    with _planned(access, choice, names, trees) as (source, made):
        found = [_totals_of(source, made, one) for one in made.trees]
        members = views.plan_members(made, rate or ASSUMED_BYTES_PER_SECOND, found)
        say_answer(members, as_json, views.plan_text(members))
    return 0


def _totals_of(source: Source, made: RestorePlan, tree: Tree) -> TreeTotals:
    from rehydrate.tree_totals import totals_of

    return totals_of(source, made.branch, tree)


def history(access: Access, as_json: bool) -> int:
    """`rehydrate history`."""
    from rehydrate.epochs import epochs_of
    from rehydrate.unmerged import unmerged_of

    with _everything(access) as (container, contents):
        _tell(notes_of(container, contents))
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
    say_answer(members, as_json, f"{owner_text(owner)}\n{shown}")
    broken = [str(epoch["epoch"]) for epoch in epochs if epoch["fault"] is not None]
    if broken:
        raise PointsDamaged("the history is no whole chain", f"epochs: {', '.join(broken)}")
    return 0


def show(access: Access, what: str, choice: Choice, as_json: bool) -> int:
    """`rehydrate show`; the point is for `vms` alone."""
    from rehydrate.show import show_object

    if what == "vms":
        return _show_vms(access, choice, as_json)
    if choice != Choice():
        raise UsageError("show an object", "--at, --time and --marker are for `vms`")
    with _container(access) as container:
        members = show_object(container, what)
        say_answer(members, as_json, tree(members))
    return 0


def _show_vms(access: Access, choice: Choice, as_json: bool) -> int:
    """The configurations of VMs at a point."""
    from cdp_container.domain.machine_text import configuration_lines, configuration_members

    seen = vms_of(access, choice)
    place, members = seen.cut.place, seen.members
    point = f"{place.epoch}.{place.cut}"
    vms = [
        {
            "name": one.configuration.name,
            "vm": one.vm.hex(),
            **configuration_members(one.configuration),
            "volumes": {
                disk.name: seen.volumes.get(disk.volume)
                for disk in one.configuration.description.disks
                if disk.volume is not None
            },
        }
        for one in members
    ]
    lines = [line for one in members for line in configuration_lines(one.configuration, seen.volumes)]
    text = "\n".join(map(printable, lines)) if lines else f"no VM is described at {point}"
    say_answer({"point": point, "cut_time_ns": seen.cut.time_ns, "vms": vms}, as_json, text)
    return 0


def vms_of(access: Access, choice: Choice) -> VmsAt:
    """The VMs at a point; see `vms_at`."""
    from rehydrate.vms import vms_at

    with (
        _container(access) as container,
        closing(container.gather(scope_of(container.history, choice))) as found,
    ):
        _tell(notes_of(container, found))
        return vms_at(container, found, choice)


# --- shared ----------------------------------------------------------------------------------


@contextmanager
def store_of(
    address: str,
    noticed: Callable[[], None] = lambda: None,
    around: Callable[[Store], Store] = lambda store: store,
) -> Iterator[Store]:
    """The store of an address, with patience; `noticed` is called whenever that is needed.

    `around` may put something around it, below the patience: it sees every single request.
    """
    clock = SystemClock()
    _, opened = open_container_store(address, clock)
    store = with_retries(
        around(opened), clock, lambda: int.from_bytes(os.urandom(6)) / 2**48, noticed=noticed
    )
    try:
        yield store
    finally:
        for note in later_notes(opened):
            say(f"note: {printable(note)}")
        store.close()


def open_asking(
    store: Store, secret: Secret, replica: bool, held: Hold | None = None
) -> tuple[Container, Secret]:
    """See `open_container`; asks for a passphrase where one is needed and none was given.

    Gives what opens it the next time, too: nobody is asked twice, and no passphrase is tried twice.
    """
    container = open_container(store, secret, replica, held, any_ledger=replica)
    if container.sealed and not secret:
        secret = ask_passphrase()
        container = open_container(store, secret, replica, held, any_ledger=replica) if secret else container
    if container.keys.private_key is not None:
        secret = Secret(private_key=container.keys.private_key)
    return container, secret


@contextmanager
def _container(access: Access, noticed: Callable[[], None] = lambda: None) -> Iterator[Container]:
    secret = read_secret(access.passphrase_file, access.key_file)
    with store_of(access.address, noticed) as store:
        container, _ = open_asking(store, secret, access.replica)
        yield container


@contextmanager
def _everything(access: Access) -> Iterator[tuple[Container, Contents]]:
    with _container(access) as container, closing(_all_contents(container)) as contents:
        yield container, contents


def _all_contents(container: Container) -> Contents:
    return container.gather(container.history.everything())


@contextmanager
def _planned(
    access: Access, choice: Choice, names: list[str], trees: Sequence[str]
) -> Iterator[tuple[Source, RestorePlan]]:
    flow = Flow()
    with _container(access, flow.refused) as container:
        container.require_key()
        scope = scope_of(container.history, choice)
        with closing(container.gather(scope, at_once=flow, keeps_names=bool(trees))) as contents:
            _tell(notes_of(container, contents))
            wants_volumes = bool(names) or not trees
            made = plan_restore(container, contents, choice, names, trees=trees, volumes=wants_volumes)
            _tell(made.notes)
            yield Source(container.store, container.keys, contents, flow), made


def notes_of(container: Container, contents: Contents) -> list[str]:
    """What a reader should be told, and every object that is not what it should be."""
    broken = [f"{broken.key}: {broken.error.why}" for broken in contents.broken.values()]
    return [*container.history.notes, *contents.notes, *broken]


def _tell(notes: Sequence[str]) -> None:
    for note in notes:
        say(f"note: {printable(note)}")


def say_answer(members: Mapping[str, Any], as_json: bool, text: str) -> None:
    """Answer in JSON, or in text."""
    answer(json.dumps(members, indent=2) if as_json else text)
