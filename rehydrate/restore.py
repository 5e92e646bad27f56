"""Carrying out a plan: fetch runs of frames, verify each, write, make it durable.

Many requests are in flight (flow); memory is bounded by them, not by the volume. What to fetch is decided
in plan.py, and what a target is in target.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Final

from cdp_container.domain.contents import Contents
from cdp_container.errors import DamagedObject, MissingObject, NotFound
from cdp_container.extents.tables import PIECES, Table
from cdp_container.format.frames import FrameReader
from cdp_container.format.head import Head
from cdp_container.format.seal import ReaderKeys
from cdp_container.store.api import Store
from rehydrate.flow import Flow
from rehydrate.keeper import Keeper
from rehydrate.plan import Totals, VolumePlan, Window, digest_of, volume_windows
from rehydrate.resume import Lost, Sample, sample_of
from rehydrate.target import Target, Writable

_FRAME_OF: Final = itemgetter((PIECES.names or ()).index("frame"))

OnDamage = Callable[[tuple[Lost, ...]], None]
"""Told of all that was lost, before the target is finished."""

Report = Callable[[Totals], None]
"""Told what was done since it was told before."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where the bytes come from: the container, its keys, what is known of it, and how to ask it."""

    store: Store
    keys: ReaderKeys
    contents: Contents
    flow: Flow = field(default_factory=Flow)


def restore_volume(
    source: Source, plan: VolumePlan, target: Target, report: Report, on_damage: OnDamage | None = None
) -> Totals:
    """Write a volume into a target and make it durable; `target.finish` is the last that is done.

    Gives what was done; told of is also what an interrupted restore had done before.

    Damage ends it, unless there is `on_damage`: then what is damaged reads as zeros and is told.

    Raises:
        DamagedObject, MissingObject: a frame is not what was written, or gone. The target is not finished.
        LocalDiskFull, DeviceError, TargetUnsuitable: as the target says.
        KeyMissing: frames are sealed and we hold no private key.
    """
    done = before = Totals()
    began = target.done
    target.begin()
    extents = source.contents.extents()
    with Keeper(target) as keeper:
        for window in volume_windows(plan.volume, extents, plan.runs, source.contents.objects):
            if window.end <= began.upto:
                skipped, fetched = window.totals, Totals()
                report(skipped)
            else:
                skipped, fetched = _restore_window(
                    source, window, target, keeper, report, on_damage is not None
                )
            before, done = before + skipped, done + fetched
        assert (before + done).planned == plan.totals, (before, done, plan.totals)
        keeper.keep(plan.volume.size_bytes, "", 0)
    if on_damage is not None:
        on_damage(keeper.lost)
    target.finish()
    return done


def _restore_window(
    source: Source, window: Window, target: Target, keeper: Keeper, report: Report, tolerant: bool
) -> tuple[Totals, Totals]:
    """Gives what an interrupted restore had done of it, and what was done."""
    digest = digest_of(window, source.contents.objects)
    fetches_before = keeper.began.fetches if keeper.began.window == digest else 0
    if not fetches_before:
        keeper.begin_again(window.start)
    before = window.totals_of(fetches_before)
    done = Totals(zero_bytes=window.zeros.total_bytes)
    if not target.known_empty:
        for start, end in zip(window.zeros.starts.tolist(), window.zeros.ends.tolist(), strict=True):
            target.zero(start, end - start)
    report(before + done)
    results = source.flow.run(
        lambda fetch: _restore_fetch(source, window.pieces, fetch, target, tolerant),
        window.fetches[fetches_before:],
        lambda fetch: int(fetch["length"]),
    )
    for number, (fetched, sample, lost) in enumerate(results, fetches_before + 1):
        report(fetched)
        done += fetched
        keeper.wrote(fetched.write_bytes, sample, lost)
        if keeper.is_due:
            keeper.keep(window.start, digest, number)
    return before, done


def write_window(source: Source, window: Window, target: Writable, report: Report) -> Totals:
    """Fetch a window and write it where it belongs, zeros too; nothing is synced, and no note is kept.

    Raises DamagedObject, MissingObject, KeyMissing, and what the target says.
    """
    done = Totals(zero_bytes=window.zeros.total_bytes)
    for start, end in zip(window.zeros.starts.tolist(), window.zeros.ends.tolist(), strict=True):
        target.zero(start, end - start)
    report(done)
    results = source.flow.run(
        lambda fetch: _restore_fetch(source, window.pieces, fetch, target, tolerant=False),
        window.fetches,
        lambda fetch: int(fetch["length"]),
    )
    for fetched, _, _ in results:
        report(fetched)
        done += fetched
    return done


def _restore_fetch(
    source: Source, pieces: Table, fetch: Table, target: Writable, tolerant: bool
) -> tuple[Totals, Sample | None, tuple[Lost, ...]]:
    """One request: its frames verified, its pieces written. Gives a sample of them too, and what was lost."""
    head = source.contents.objects[int(fetch["object"])]
    length = int(fetch["length"])
    mine = pieces[int(fetch["first_piece"]) : int(fetch["beyond_piece"])]
    reader = FrameReader(head, source.keys)
    sample: Sample | None = None
    lost: list[Lost] = []
    data = fetched(source.store, head.key, int(fetch["start"]), length, tolerant)
    for frame, of_frame in groupby(mine.tolist(), key=_FRAME_OF):
        try:
            raw = opened(head, reader, frame, data, int(fetch["start"]))
        except (DamagedObject, MissingObject) as error:
            if not tolerant:
                raise
            for offset, piece_bytes, *_ in of_frame:
                target.zero(offset, piece_bytes)
                lost.append(Lost(offset, piece_bytes, head.key, f"frame {frame}: {error.why}"))
            continue
        for offset, piece_bytes, _, _, position, _ in of_frame:
            content = raw[position : position + piece_bytes]
            target.write(offset, content)
            sample = sample or sample_of(offset, content)
    lost_bytes = sum(part.length for part in lost)
    done = Totals(1, length, int(mine["length"].sum()) - lost_bytes, lost_bytes=lost_bytes)
    return done, sample, tuple(lost)


def opened(
    head: Head, reader: FrameReader, frame: int, data: memoryview | MissingObject, data_start: int
) -> memoryview:
    """A frame's content, of what `fetched` gave from `data_start` on. Raises DamagedObject, MissingObject."""
    if isinstance(data, MissingObject):
        raise data
    start, end = head.frame_range(frame)
    return memoryview(reader.open(frame, data[start - data_start : end - data_start]))


def fetched(store: Store, key: str, start: int, length: int, tolerant: bool) -> memoryview | MissingObject:
    """The bytes of a range. Tolerant: as many as there are, or the error if there are none."""
    try:
        data = store.get_range(key, start, length)
    except NotFound as error:
        missing = MissingObject(key, "it was there when the plan was made, and is gone")
        if tolerant:
            return missing
        raise missing from error
    if len(data) != length and not tolerant:
        raise DamagedObject(key, f"it ends {length - len(data)} bytes before its frames do")
    return memoryview(data)


def sum_of(plans: Sequence[VolumePlan]) -> Totals:
    """The totals of several volumes."""
    return sum((plan.totals for plan in plans), Totals())
