"""Recovery points: which there are, which of them can be restored, and which one a choice means.

A choice never silently means an older point than it could: what damage may hide is refused, what was passed
over is told. Opening a container does not belong here (container), nor what a restore reads (plan).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Final

from cdp_container.domain.contents import Contents
from cdp_container.domain.faults import Fault, Soundness, check_branch, faults_of
from cdp_container.domain.gathering import rescue
from cdp_container.domain.heads import BROKEN
from cdp_container.domain.history import History
from cdp_container.domain.image import Branch, Cut, Volume, Volumes, cuts_of, runs_of, volumes_of
from cdp_container.domain.namespace import Tree, trees_of
from cdp_container.errors import CdpError, DamagedObject, MissingObject, NoSuchPoint, counted
from cdp_container.format.keys import segment_key
from cdp_container.format.names import Skew, shown
from cdp_container.format.place import NOWHERE, Place
from rehydrate.container import Container
from rehydrate.damage import record_doubts, with_map_hint
from rehydrate.plan import Choice, Totals, VolumePlan, candidates, choose_cut, pick_volumes, plan_volume
from rehydrate.thinned import Candidate, gaps, picked
from rehydrate.wanted import Wanted, check_known, pick_trees, unfit

SKEWED_SHOWN_MAX: Final = 5
"""Skewed files that a note names; `rehydrate show` names more."""

Fits = Callable[[Cut], bool]


@dataclass(frozen=True, slots=True)
class Point:
    """A cut as people choose it. `main` is False on a side branch; `broken`: why it cannot be restored."""

    cut: Cut
    volumes: tuple[Volume, ...]
    protected: bool
    main: bool
    broken: CdpError | None
    trees: tuple[Tree, ...] = ()
    skew: Skew | None = None

    @property
    def skewed_files(self) -> int:
        """How many files changed while the cut was taken."""
        return 0 if self.skew is None else self.skew.files_count

    @property
    def instants(self) -> dict[str, int]:
        """Images of VMs, each of an instant of its own: volumes by name, and the wall clock at that."""
        return _instants_of(self.skew, self.volumes)


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """What a restore of some volumes at one cut takes. `notes`: what whoever chose it should be told.

    `instants`: as of `Point`, of the volumes that are restored.

    `faults`: segments that cannot be read, where the plan was made despite them. `doubts`: what damage may
    hide or have taken, in words; whoever restores even so may not get what was meant.
    """

    cut: Cut
    protected: bool
    branch: Branch
    volumes: tuple[VolumePlan, ...]
    notes: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()
    doubts: tuple[str, ...] = ()
    trees: tuple[Tree, ...] = ()
    instants: Mapping[str, int] = field(default_factory=dict)

    @property
    def rests_on(self) -> str:
        """The digest of what decides the content: the branch, and what of it cannot be read.

        Collection does not change it, as it does not change the content.
        """
        parts = [f"{epoch} {seq}" for epoch, seq in sorted(self.branch.items())]
        parts += [f"{fault.epoch} {fault.seq} {fault.error.what} {fault.error.why}" for fault in self.faults]
        return hashlib.sha256("\n".join(parts).encode("utf-8", "backslashreplace")).hexdigest()

    @property
    def objects(self) -> int:
        """How many objects are read."""
        return len(frozenset[int]().union(*(plan.objects for plan in self.volumes)))


@dataclass(frozen=True, slots=True)
class Listed:
    """Recovery points as they are listed, oldest first, and all cuts that there are.

    `gaps`: before which of them (by number) there was none for how many seconds.
    """

    points: list[Point]
    cuts: list[Cut]
    gaps: Mapping[int, float]

    @property
    def left_out(self) -> int:
        """So many are not listed."""
        return len(self.cuts) - len(self.points)


def points_of(container: Container, contents: Contents, last: int | None = 0) -> Listed:
    """The newest recovery points, side branches included: `last` of them; 0: all; None: some of each age.

    `contents` must hold everything.
    """
    history = container.history
    everything, origins = history.everything(), history.origins()
    main = history.branch_of(history.newest)
    sound = Soundness(faults_of(contents, everything, origins), origins)
    cuts = cuts_of(contents, everything)
    numbers = list(range(len(cuts)))[-last:] if last else list(range(len(cuts)))
    if last is None:
        branches = [cut.place.seq <= main.get(cut.place.epoch, 0) for cut in cuts]
        faults = [sound.fault_at(cut.place) for cut in cuts]
        numbers = picked(list(map(Candidate, cuts, branches, [fault is None for fault in faults])))
    volumes = Volumes(contents)
    points = []
    for cut in (cuts[number] for number in numbers):
        broken = sound.fault_at(cut.place)
        found: list[Volume] = []
        try:
            found = volumes.at(history.branch_of(cut.place), cut)
        except DamagedObject as error:
            broken = broken or error
        on_main = cut.place.seq <= main.get(cut.place.epoch, 0)
        trees = tuple(trees_of(contents, history.branch_of(cut.place), cut))
        skew = contents.skews.get((cut.place.epoch, cut.place.cut))
        protected = history.is_protected(cut.place)
        points.append(Point(cut, tuple(found), protected, on_main, broken, trees, skew))
    holes = gaps(cuts, numbers)
    return Listed(points, cuts, {at: holes[number] for at, number in enumerate(numbers) if number in holes})


def scope_of(history: History, choice: Choice) -> dict[int, int]:
    """Which segments must be read to find the chosen cut and all that it needs. Raises NoSuchPoint."""
    if choice.at is None:
        return history.branch_of(history.newest)
    span = history.spans.get(choice.at[0])
    if span is None or not span.end:
        why = f"no cut of epoch {choice.at[0]} counts"
        raise NoSuchPoint(f"find the point {choice.at[0]}.{choice.at[1]}", why)
    return history.branch_of(span.end)


def find_cut(history: History, contents: Contents, choice: Choice, wanted: Wanted | None = None) -> Cut:
    """The cut that was asked for, among those of `scope_of`. Raises NoSuchPoint, NoSuchVolume.

    `wanted`: what is to be whole at it; None: all volumes that it has.
    """
    wanted = Wanted() if wanted is None else wanted
    check_known(contents, wanted)
    return choose_cut(cuts_of(contents, scope_of(history, choice)), choice, _fits(history, contents, wanted))


def _fits(history: History, contents: Contents, wanted: Wanted) -> Fits:
    """Whether what is wanted exists and is whole at a cut."""
    volumes = Volumes(contents)

    def fits(cut: Cut) -> bool:
        if contents.sealed:
            return cut.whole  # without a key nothing is known of volumes
        branch = history.branch_of(cut.place)
        trees = trees_of(contents, branch, cut) if wanted.trees or wanted.whole_domain else []
        return not unfit(volumes.at(branch, cut), trees, wanted)

    return fits


@dataclass(frozen=True, slots=True)
class Chosen:
    """A cut that can be restored whole, what it is made of, and its volumes and trees."""

    cut: Cut
    branch: Branch
    volumes: tuple[Volume, ...]
    trees: tuple[Tree, ...] = ()


def chosen_point(
    container: Container, contents: Contents, choice: Choice, accept_loss: bool = False
) -> Chosen:
    """The cut that was asked for, with all of its volumes and trees, and nothing that it needs missing.

    `accept_loss`: the newest one that is left will do, where newer ones that were proven are gone.

    Raises:
        NoSuchPoint, NoSuchVolume: there is no such cut.
        MissingObject, DamagedObject and their kin: it cannot be restored whole, or damage may hide a newer.
        KeyMissing: the container is sealed and there is no key.
    """
    container.require_key()
    wanted = Wanted(whole_domain=True)
    cut = sound_cut(container.history, contents, choice, wanted, accept_loss)
    branch = container.history.branch_of(cut.place)
    volumes, trees = _picked(contents, branch, cut, wanted), pick_trees(contents, branch, cut, wanted)
    return Chosen(cut, branch, tuple(volumes), tuple(trees))


def plan_restore(
    container: Container,
    contents: Contents,
    choice: Choice,
    names: Sequence[str] = (),
    tolerant: bool = False,
    trees: Sequence[str] = (),
    volumes: bool = True,
    wanted: Wanted | None = None,
    counts: bool = True,
) -> RestorePlan:
    """The exact plan for some volumes (all if no names are given) and trees at the chosen cut.

    Without `volumes` for none; `wanted` says all of that in place of them. What a tree takes is known once
    its names are read (tree_restore). Without `counts` nobody asks what volumes take, which costs time.

    Everything that the cut needs is checked to be there, and to hang together, before the plan exists. If
    damage is tolerated, segments may be missing or unreadable: the choice then means what is left.

    Raises:
        NoSuchPoint, NoSuchVolume: there is no such thing.
        MissingObject, DamagedObject and their kin: the point cannot be restored whole, or what is damaged may
            hide a newer one; the hint names the newest that can be.
        KeyMissing: the container is sealed and there is no key.
    """
    container.require_key()
    history = container.history
    wanted = Wanted(tuple(names), tuple(trees), volumes) if wanted is None else wanted
    if tolerant:
        rescue(container.store, container.keys, contents)
    faults: tuple[Fault, ...] = ()
    hidden: tuple[str, ...] = ()
    try:
        cut = sound_cut(history, contents, choice, wanted)
    except BROKEN as error:
        if not tolerant:
            stopped = _with_way_out(error, history, contents, choice, wanted)
            mappable = _is_mappable(history, contents, choice, wanted) or _is_rescued(
                container, choice, wanted
            )
            raise (with_map_hint(stopped) if mappable else stopped) from error
        cut, faults = _damaged_cut(history, contents, choice, wanted)
        point = f"{cut.place.epoch}.{cut.place.cut}"
        hidden = (
            f"damage may hide what was meant, {point} is what is left of it: {error.what}: {error.why}",
        )
    branch = history.branch_of(cut.place)
    plans = [_plan_of(contents, branch, volume, counts) for volume in _picked(contents, branch, cut, wanted)]
    found = pick_trees(contents, branch, cut, wanted)
    doubts = (*hidden, *record_doubts(contents, branch, faults))
    notes = (
        *doubts,
        *_passed_over(history, contents, choice, wanted, cut),
        *_skew_notes(contents, cut, found),
    )
    if _leading(history, contents, choice) == history.newest:
        doubts = (*history.notes, *doubts)  # each says that there may have been newer ones than the newest
    protected = history.is_protected(cut.place)
    skew = contents.skews.get((cut.place.epoch, cut.place.cut))
    instants = _instants_of(skew, [plan.volume for plan in plans])
    return RestorePlan(cut, protected, branch, tuple(plans), notes, faults, doubts, tuple(found), instants)


def _plan_of(contents: Contents, branch: Branch, volume: Volume, counts: bool) -> VolumePlan:
    runs = runs_of(contents, branch, volume.space)
    if not counts:
        return VolumePlan(volume, runs, Totals(), frozenset())
    return plan_volume(volume, contents.extents(), runs, contents.objects)


def _picked(contents: Contents, branch: Branch, cut: Cut, wanted: Wanted) -> list[Volume]:
    if not wanted.volumes:
        return []
    volumes = volumes_of(contents, branch, cut)
    if wanted.whole_domain and not volumes:
        return []
    return pick_volumes(volumes, wanted.names, cut)


def _instants_of(skew: Skew | None, volumes: Sequence[Volume]) -> dict[str, int]:
    """Volumes that are of an instant of their own, by name, and the wall clock at that."""
    at_ns = {} if skew is None else dict(skew.instants)
    return {volume.name: at_ns[volume.space] for volume in volumes if volume.space in at_ns}


def _skew_notes(contents: Contents, cut: Cut, trees: Sequence[Tree]) -> tuple[str, ...]:
    """A note on files that changed while the cut was taken."""
    skew = contents.skews.get((cut.place.epoch, cut.place.cut))
    mine = {tree.tree for tree in trees}
    if skew is None or not trees or not (skew.more or any(file.tree in mine for file in skew.files)):
        return ()
    named = ", ".join(shown(file.path) for file in skew.files[:SKEWED_SHOWN_MAX] if file.tree in mine)
    many = counted(skew.files_count, "file")
    return (f"skewed: {many} changed while this cut was taken: {named}",)


def sound_cut(
    history: History, contents: Contents, choice: Choice, wanted: Wanted, accept_loss: bool = False
) -> Cut:
    """The cut that was asked for, after a check of all that it needs, and of all that decides which it is."""
    newest_is_meant = choice.at is None and _leading(history, contents, choice) == history.newest
    if history.in_doubt is not None and newest_is_meant and not accept_loss:
        raise history.in_doubt  # to go back to an older point than was promised is for a person to decide
    check_branch(contents, history.branch_of(_leading(history, contents, choice)), history.origins())
    cut = find_cut(history, contents, choice, wanted)
    check_branch(contents, history.branch_of(cut.place), history.origins())
    return cut


def _damaged_cut(
    history: History, contents: Contents, choice: Choice, wanted: Wanted
) -> tuple[Cut, tuple[Fault, ...]]:
    """The cut that is left of what was asked for, and its segments that cannot be read.

    Raises what is wrong where it is something else: a broken chain, or a pack (of any age).
    """
    cut = find_cut(history, contents, choice, wanted)
    faults = tuple(faults_of(contents, history.branch_of(cut.place), history.origins()))
    for fault in faults:
        key = segment_key(fault.epoch, fault.seq) if fault.seq else ""
        if not fault.seq or not (isinstance(fault.error, MissingObject) or key in contents.broken):
            raise fault.error
    return cut, faults


def _is_mappable(history: History, contents: Contents, choice: Choice, wanted: Wanted) -> bool:
    """Whether a restore that tolerates damage would go on."""
    try:
        cut, _ = _damaged_cut(history, contents, choice, wanted)
        return bool(_picked(contents, history.branch_of(cut.place), cut, wanted))
    except CdpError:
        return False


def _is_rescued(container: Container, choice: Choice, wanted: Wanted) -> bool:
    """The same with what sound heads of damaged segments say. Read anew: `contents` is not to change."""
    with closing(container.gather(scope_of(container.history, choice))) as contents:
        rescue(container.store, container.keys, contents)
        return _is_mappable(container.history, contents, choice, wanted)


def _leading(history: History, contents: Contents, choice: Choice) -> Place:
    """Up to where everything must be sound for the choice to mean anything.

    Damage may hide cuts and their names: the newest of all, of a time or of a name is what it is only where
    all that could hold it is sound. A point is taken where it is found.
    """
    if choice.at is not None:
        return NOWHERE
    if choice.time_ns is not None:
        for cut in cuts_of(contents, history.branch_of(history.newest)):
            if cut.time_ns > choice.time_ns:
                return cut.place
    return history.newest


def _with_way_out(
    error: CdpError, history: History, contents: Contents, choice: Choice, wanted: Wanted
) -> CdpError:
    """The same error, with a hint that names the newest point that could be restored instead."""
    scope, origins = scope_of(history, choice), history.origins()
    sound = Soundness(faults_of(contents, scope, origins), origins)
    fits = _fits(history, contents, wanted)
    for cut in reversed(candidates(cuts_of(contents, scope), choice)):
        try:
            if sound.fault_at(cut.place) is None and fits(cut):
                named = "" if choice.marker is None else f" of the name {choice.marker}"
                way = f"--at {cut.place.epoch}.{cut.place.cut} is the newest{named} that can be restored"
                return type(error)(error.what, error.why, f"{way}; else: {error.hint}")
        except DamagedObject:
            continue  # a volume's record makes no sense there
    return error


def _passed_over(
    history: History, contents: Contents, choice: Choice, wanted: Wanted, chosen: Cut
) -> tuple[str, ...]:
    """A note on newer cuts that the choice could mean as well, were the wanted volumes whole there."""
    if choice.at is not None:
        return ()
    cuts = candidates(cuts_of(contents, scope_of(history, choice)), choice)
    newer = [cut for cut in cuts if cut.place > chosen.place]
    if not newer:
        return ()
    newest = newer[-1]
    branch = history.branch_of(newest.place)
    why = unfit(volumes_of(contents, branch, newest), trees_of(contents, branch, newest), wanted)
    point = f"{newest.place.epoch}.{newest.place.cut}"
    return (f"{counted(len(newer), 'newer cut')} up to {point} passed over: {why}",)
