"""`rehydrate restore`: under a hold, on from where an interrupted one was, and anew where objects moved."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cdp_container.clock import SystemClock
from cdp_container.console import answer, printable, say
from cdp_container.domain.contents import Contents
from cdp_container.domain.holding import Holding
from cdp_container.domain.opening import is_superseded
from cdp_container.errors import HoldLost, MissingObject, NoSuchPoint, RestoredWithDamage, counted
from cdp_container.store.api import Store
from rehydrate.anew import read_until_found
from rehydrate.cli import views
from rehydrate.cli.commands import Access, notes_of, open_asking, store_of
from rehydrate.cli.console import read_secret
from rehydrate.cli.held import holding_for, tell
from rehydrate.cli.stage_lines import StageLines
from rehydrate.cli.targets import Restored, Targets, check_targets, noted_holds, paths_of, restore_all
from rehydrate.cli.tree_restoring import TreeRestored, TreesTo, check_maps, raise_if_not_set, restore_trees
from rehydrate.container import Container, Secret
from rehydrate.damage import Findings
from rehydrate.flow import Flow
from rehydrate.plan import ASSUMED_BYTES_PER_SECOND, Choice, Totals
from rehydrate.points import RestorePlan, plan_restore, scope_of
from rehydrate.rehearsal.counting import CountingStore
from rehydrate.rehearsal.stages import METADATA, Stages
from rehydrate.restore import Source, sum_of


@dataclass(slots=True)
class _Job:
    """One run of the command. `choice` is the very point, once it is known."""

    access: Access
    choice: Choice
    targets: Targets
    rate: int | None
    as_json: bool
    store: Store
    flow: Flow
    holding: Holding
    secret: Secret
    trees: TreesTo
    stages: Stages
    container: Container | None = None
    clock: SystemClock = field(default_factory=SystemClock)

    def is_moved(self) -> bool:
        """Whether another ledger is in force than the one that is read by."""
        return self.container is not None and is_superseded(self.store, self.container.history.owner)

    def check(self) -> None:
        """Raises HoldLost."""
        self.holding.check()

    def check_all(self) -> None:
        """The same, and MissingObject where what seems lost may only have moved."""
        self.holding.check()
        if self.is_moved():
            assert self.container is not None, "opened"
            raise MissingObject(self.container.store.address, "objects were collected while they were read")


def restore(
    access: Access,
    choice: Choice,
    targets: Targets,
    rate: int | None,
    as_json: bool,
    trees: TreesTo | None = None,
    parallel: int | None = None,
) -> int:
    """`rehydrate restore`."""
    trees = TreesTo() if trees is None else trees
    targets, trees = with_trees(targets, trees)
    check_targets(targets)
    check_maps(trees)
    clock = SystemClock()
    flow = Flow(clock, parallel)
    began_ns = clock.boottime_ns()
    secret = read_secret(access.passphrase_file, access.key_file)
    counting: list[CountingStore] = []

    def around(store: Store) -> Store:
        counting.append(CountingStore(store))
        return counting[0]

    with store_of(access.address, flow.refused, around) as store, holding_for(store, "restore") as holding:
        stages = Stages(clock, lambda: counting[0].counts, StageLines(clock, as_json, stages=3))
        job = _Job(access, choice, targets, rate, as_json, store, flow, holding, secret, trees, stages)
        if access.replica:
            holding.unheld("a hold in a replica is seen by nobody")
        else:
            holding.place(noted_holds(targets), choice.at)
        made, restored, done = read_until_found(
            lambda is_first: _restore(job, is_first), holding, job.is_moved, tell
        )
    seconds = (clock.boottime_ns() - began_ns) / 1e9
    code = report(made, restored, seconds, rate, as_json, done)
    raise_if_not_set(done, trees)
    return code


def with_trees(targets: Targets, trees: TreesTo) -> tuple[Targets, TreesTo]:
    """The targets of volumes and of trees, each with what the other's options say."""
    return replace(targets, has_trees=bool(trees.targets)), replace(trees, tolerant=targets.tolerant)


def _restore(job: _Job, is_first: bool) -> tuple[RestorePlan, Restored, list[TreeRestored]]:
    """One reading: all of it, or on from where the one before it was, by the ledger that its hold notes."""
    held = job.holding.hold if is_first else None
    job.container, job.secret = open_asking(job.store, job.secret, job.access.replica, held)
    container = job.container
    container.require_key()
    targets = job.targets
    begun: list[Path] = []
    try:
        with closing(_gathered(job, container)) as contents:
            for note in notes_of(container, contents):
                tell(note)
            made = plan_restore(
                container,
                contents,
                job.choice,
                targets.names,
                targets.tolerant,
                job.trees.names,
                targets.has_volumes,
            )
            for note in made.notes:
                tell(note)
            place = made.cut.place
            job.holding.narrow(place, container.history.owner.ledger)
            job.choice = Choice(at=(place.epoch, place.cut))
            paths = paths_of(made, targets) if targets.has_volumes else []
            if targets.has_volumes:
                say_plan(views.plan_members(made, job.rate or ASSUMED_BYTES_PER_SECOND), job.as_json)
            check = job.check_all if targets.tolerant else job.check
            targets = replace(targets, hold=job.holding.hold_id)
            job.holding.keeps = True
            begun = paths
            source = Source(container.store, container.keys, contents, job.flow)
            restored = Restored([], Totals(), {})
            if targets.has_volumes:
                restored = restore_all(source, made, paths, targets, job.clock, job.as_json, check=check)
            trees = restore_trees(source, made, job.trees, job.stages, job.check, check)
            return made, restored, trees
    except (HoldLost, MissingObject):
        if begun:  # the next reading goes on; but what was taken for lost may be there after all
            devices = frozenset(path for path in begun if path.is_block_device())
            job.targets = replace(job.targets, restart=job.targets.tolerant, again=devices)
        raise
    except NoSuchPoint as error:
        if is_first:
            raise
        why = f"it was collected while it was read: {error.why}"
        raise NoSuchPoint(error.what, why, "`rehydrate points` lists what can be restored still") from error


def _gathered(job: _Job, container: Container) -> Contents:
    """What the objects say; of a restore of trees it is the first stage."""
    scope = scope_of(container.history, job.choice)
    if not job.trees.targets:
        return container.gather(scope, at_once=job.flow)
    with job.stages.stage(METADATA, "objects") as stage:

        def told(done: int, total: int) -> None:
            if stage.total is None:
                stage.expect(total)
            stage.advance(done - stage.done)

        return container.gather(scope, job.trees.compares, job.flow, told, keeps_names=True)


def report(
    made: RestorePlan,
    restored: Restored,
    elapsed_seconds: float,
    rate: int | None,
    as_json: bool,
    trees: Sequence[TreeRestored] = (),
) -> int:
    """Say what a restore did. Raises RestoredWithDamage."""
    members = views.plan_members(made, rate or ASSUMED_BYTES_PER_SECOND)
    done = restored.done + sum((tree.totals for tree in trees), Totals())
    resumed_bytes = sum_of(made.volumes).write_bytes - restored.done.write_bytes
    told = {
        **{name: members[name] for name in views.POINT_MEMBERS},
        "objects": members["objects"],
        "gets": done.gets,
        "fetched_bytes": done.fetch_bytes,
        "written_bytes": done.write_bytes,
        "resumed_bytes": resumed_bytes,
        "elapsed_seconds": round(elapsed_seconds, 3),
        "volumes": [
            {"name": volume.volume.name, "size_bytes": volume.volume.size_bytes, "target": str(path)}
            for volume, path in zip(made.volumes, restored.paths, strict=True)
        ],
    }
    lines = [printable(f"restored {item['name']} to {item['target']}") for item in told["volumes"]]
    if trees:
        told["trees"] = [tree.members() for tree in trees]
        lines += [line for tree in trees for line in tree.text()]
    lines.append(f"point {members['point']}, {elapsed_seconds:.1f} s, durable")
    found = dict(restored.maps)
    found |= {tree.damage_map: tree.found for tree in trees if tree.damage_map and tree.found}
    if found:
        told["damage_maps"] = [str(path) for path in found]
    answer(json.dumps(told, indent=2) if as_json else "\n".join(lines))
    if found:
        raise _with_damage(found)
    return 0


def _with_damage(found_maps: Mapping[Path, Findings]) -> RestoredWithDamage:
    maps = found_maps.values()
    parts = sum(len(found.parts) for found in maps)
    lost, in_doubt, beyond = (
        sum(found.bytes_of(kind) for found in maps) for kind in ("lost", "doubtful", "beyond")
    )
    bytes_text = f"bytes lost: {lost}, doubtful: {in_doubt}, beyond a known size: {beyond}"
    doubts = len({doubt for found in maps for doubt in found.doubts})
    where = ", ".join(str(path) for path in found_maps)
    why = f"{bytes_text}, in {counted(parts, 'part')}; {counted(doubts, 'more doubt')}: {where}"
    return RestoredWithDamage("restored, but not everything", why)


def say_plan(members: Mapping[str, Any], as_json: bool) -> None:
    """Say what will be read and written, before the first byte."""
    say(json.dumps({"event": "plan", **members}) if as_json else views.plan_text(members))
