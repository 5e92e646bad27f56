"""A verification: objects read whole and checked, their chain, their catalogs, and that nothing is missing.

One fault does not end it. What the findings mean is decided by the report (verify_types); which objects a
budget is enough for by sampling; printing and filing them does not belong here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from cdp_container.domain.contents import Contents
from cdp_container.domain.faults import Soundness, faults_of
from cdp_container.domain.gathering import gather
from cdp_container.domain.heads import BROKEN, Broken
from cdp_container.domain.history import History
from cdp_container.domain.image import Cut, cuts_of, on_branch
from cdp_container.domain.ledgers import Ledger
from cdp_container.domain.machine_records import newest_values, parse_vm
from cdp_container.domain.namespace import Namespace, trees_of
from cdp_container.domain.parallel import in_parallel
from cdp_container.domain.verify_object import Checked, Told, check
from cdp_container.domain.verify_types import Finding, Opened, Report
from cdp_container.errors import DamagedObject, LimitExceeded, MissingObject
from cdp_container.format.domain import PlanState
from cdp_container.format.keys import (
    CONFIG_PREFIX,
    EPOCHS_PREFIX,
    OWNER_KEY,
    PACKS_PREFIX,
    KeyKind,
    ParsedKey,
    epoch_key,
    gc_key,
    log_prefix,
    pack_key,
    parse_key,
    segment_key,
)
from cdp_container.format.layout import ObjectKind
from cdp_container.store.api import Found

OBJECTS_AT_ONCE: Final = 8
"""Objects that are read at the same time: each is held whole, a catalog may have 128 MiB."""

_MESSAGES: Final = (KeyKind.REQUEST,)
"""Nothing depends on them."""


@dataclass(slots=True)
class _Told:
    """What objects say of themselves, and catalogs of them. By kind, epoch and seq; catalogs by key."""

    itself: dict[tuple[int, int, int], Told] = field(default_factory=dict)
    catalogs: dict[str, Mapping[tuple[int, int, int], Told]] = field(default_factory=dict)


def to_verify(opened: Opened, scope: Mapping[int, int] | None) -> list[Found]:
    """The objects to read: of a branch, or all that the container has (`scope` None)."""
    store = opened.store
    if scope is None:
        return list(store.list(""))
    prefixes = [OWNER_KEY, EPOCHS_PREFIX, CONFIG_PREFIX, *map(log_prefix, sorted(scope)), PACKS_PREFIX]
    listed = [found for prefix in prefixes for found in store.list(prefix)]
    return [found for found in listed if _is_needed(parse_key(found.key), scope, opened.ledger)]


def verify(
    opened: Opened,
    found: Iterable[Found],
    scope: Mapping[int, int],
    progress: Callable[[Found], None],
    is_newest_meant: bool = True,
    is_sample: bool = False,
) -> Report:
    """Read and check these objects, and that nothing is missing of what the scope needs.

    Args:
        opened: with whatever keys there are; without them frames are checked by digest only.
        found: see `to_verify`, `sampling`.
        scope: for each epoch the last seq that counts.
        progress: told of every object that was read.
        is_newest_meant: whether it counts that newer points were lost; not where one was named by number.
        is_sample: whether `found` is only a part; of the others the heads are read, and they must be there.
    """
    keys, domain = opened.keys, opened.history.domain
    report = Report(
        opened=not opened.sealed or keys.private_key is not None,
        heads_opened=not opened.sealed or keys.index_key is not None,
    )
    if is_sample:
        contents = gather(opened.store, domain, keys, scope, opened.ledger, keeps_names=True)
    else:
        contents = Contents(domain, ledger=opened.ledger, keeps_names=True)
    told = _Told()
    try:
        for key, broken in contents.broken.items():
            needed = _is_needed(parse_key(key), scope, opened.ledger)
            report.findings.append(Finding(broken.error, key, needed))
        for checked in in_parallel(functools.partial(check, opened), found, OBJECTS_AT_ONCE):
            progress(checked.found)
            _count(report, contents, checked, scope, is_sample)
            _note(told, checked)
        _judge(report, opened.history, contents, scope)
        report.findings.extend(_lying_catalogs(told))
        report.findings.extend(_lost_plan(opened))
        if is_newest_meant:
            report.findings.extend(_lost_cut(opened.history))
    finally:
        contents.close()
    return report


def _count(
    report: Report, contents: Contents, checked: Checked, scope: Mapping[int, int], is_sample: bool
) -> None:
    key = checked.found.key
    parsed = parse_key(key)
    needed = _is_needed(parsed, scope, contents.ledger)
    if checked.is_gone and not needed:
        return  # it was collected meanwhile, and counted as such all along
    report.objects += 1
    report.stored_bytes += checked.found.size
    report.frames += checked.frames
    error = checked.error
    if parsed is None or parsed.kind in _MESSAGES:
        report.ignored.append(key)
    if error is None and checked.seen is not None:
        try:
            if is_sample:
                _compare(contents, checked)
            else:
                contents.add(checked.seen)
        except DamagedObject as damage:
            error = damage
    if error is not None and (key not in contents.broken or not is_sample):
        contents.broken[key] = Broken(key, error)
        report.findings.append(Finding(error, key, needed))


def _compare(contents: Contents, checked: Checked) -> None:
    """A whole object with its head as it was read before, perhaps from a catalog. Raises DamagedObject."""
    seen = checked.seen
    assert seen is not None
    preamble = seen.preamble
    known = contents.segments.get((preamble.epoch, preamble.seq))
    is_segment = preamble.kind is ObjectKind.SEGMENT
    if is_segment and known is not None and known.digest not in (b"", seen.digest):
        raise DamagedObject(seen.key, "it is not the object that a catalog bundles")


def _note(told: _Told, checked: Checked) -> None:
    if checked.entries:
        told.catalogs[checked.found.key] = checked.entries
    if checked.told is not None and checked.seen is not None:
        preamble = checked.seen.preamble
        told.itself[preamble.kind, preamble.epoch, preamble.seq] = checked.told


def _judge(report: Report, history: History, contents: Contents, scope: Mapping[int, int]) -> None:
    """What the objects come to: the chain, what is missing, and which points are sound."""
    faults = list(faults_of(contents, scope, history.origins()))
    known = [finding.error for finding in report.findings]
    for fault in faults:
        if fault.error not in known:
            report.findings.append(Finding(fault.error, fault.error.what, needed=True))
    sound = Soundness(faults, history.origins())
    cuts = cuts_of(contents, scope)
    good = [cut for cut in cuts if sound.fault_at(cut.place) is None]
    if good and not contents.sealed:
        report.findings.extend(_wrong_names(history, contents, good))
        report.findings.extend(_wrong_vms(history, contents, good[-1]))
    report.points, report.sound_points = len(cuts), len(good)
    report.way_out = _way_out(history, contents, sound)


def _wrong_names(history: History, contents: Contents, good: Sequence[Cut]) -> Iterator[Finding]:
    """Trees whose names make no sense together where they are whole last, so that no restore takes them.

    `good`: the sound points, oldest first; trees that the newest has are looked at.
    """
    newest = history.branch_of(good[-1].place)
    for tree in trees_of(contents, newest, good[-1]):
        mine = (cut for cut in reversed(good) if tree.tree not in cut.not_whole)
        cut = next((cut for cut in mine if on_branch(cut.place, newest)), None)
        if cut is None:
            continue
        branch = history.branch_of(cut.place)
        try:
            for whole in trees_of(contents, branch, cut):
                if whole.tree == tree.tree:
                    Namespace(contents, branch, [whole]).close()
        except DamagedObject as error:
            what = f"tree {tree.name!r} at {cut.place.epoch}.{cut.place.cut}"
            yield Finding(DamagedObject(what, f"{error.what}: {error.why}"), what, needed=True)


def _wrong_vms(history: History, contents: Contents, newest: Cut) -> Iterator[Finding]:
    """VMs whose configuration makes no sense at the newest sound point."""
    for vm, value in newest_values(contents.vm_records, history.branch_of(newest.place)).items():
        try:
            parse_vm(value, f"VM {vm.hex()}")
        except (DamagedObject, LimitExceeded) as error:
            what = f"VM {vm.hex()} at {newest.place.epoch}.{newest.place.cut}"
            yield Finding(DamagedObject(what, error.why), what, needed=True)


def _is_needed(parsed: ParsedKey | None, scope: Mapping[int, int], ledger: Ledger) -> bool:
    if parsed is None:
        return False
    if parsed.kind is KeyKind.SEGMENT:
        counts = parsed.number <= scope.get(parsed.epoch, 0)
        return counts and not ledger.is_collected(parsed.epoch, parsed.number)
    if parsed.kind is KeyKind.PACK:
        return pack_key(parsed.epoch, parsed.number) in ledger.packs
    if parsed.kind is KeyKind.EPOCH_RECORD:
        return parsed.epoch in scope
    return parsed.kind in (KeyKind.OWNER, KeyKind.CONFIG, KeyKind.LEDGER)


def _way_out(history: History, contents: Contents, sound: Soundness) -> str:
    """The newest point that can be restored, in words. Only who read every byte can tell: `points` cannot."""
    try:
        main = history.branch_of(history.newest)
    except BROKEN:
        return ""  # nothing leads to any point
    for cut in reversed(cuts_of(contents, main)):
        if cut.whole and sound.fault_at(cut.place) is None:
            return f"--at {cut.place.epoch}.{cut.place.cut} is the newest point that is sound"
    return ""


def _lost_plan(opened: Opened) -> Iterator[Finding]:
    """The plan that executes, where it is gone: nobody can finish it."""
    plan = opened.history.owner.plan
    if plan is None or plan.state is not PlanState.EXECUTING:
        return
    key = gc_key(plan.epoch, plan.n)
    if not any(found.key == key for found in opened.store.list(key)):
        gone = MissingObject(key, "this plan of collection executes, and it is gone")
        yield Finding(gone, key, needed=False)


def _lost_cut(history: History) -> Iterator[Finding]:
    """The newest protected cut, where it is not there any more; what says which it is, where that is gone."""
    if history.lost is None and history.in_doubt is not None:
        yield Finding(history.in_doubt, OWNER_KEY, needed=True)
    elif history.lost is not None:
        place = history.owner.protected
        key = segment_key(place.epoch, place.seq) if place else epoch_key(history.owner.epoch_in_force)
        yield Finding(history.lost, key, needed=True)


def _lying_catalogs(told: _Told) -> Iterator[Finding]:
    """Catalogs whose word on an object is not what it says itself. Stale ones are no fault."""
    for key, entries in told.catalogs.items():
        for (kind, epoch, seq), word in entries.items():
            itself = told.itself.get((kind, epoch, seq))
            if itself is not None and itself != word:
                name = ObjectKind(kind).name.lower()
                why = f"it tells of another {name} {seq} of epoch {epoch} than is there"
                yield Finding(DamagedObject(key, why), key, needed=False)
                break
