"""Carrying out a plan: fetch runs of frames, verify each, write, make it durable.

Many requests are in flight (flow); memory is bounded by them, not by the volume. What to fetch is decided
in plan.py, and what a target is in target.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cdp_container.domain.contents import Contents
from cdp_container.errors import DamagedObject, MissingObject, NotFound
from cdp_container.extents.tables import Table
from cdp_container.format.frames import FrameReader
from cdp_container.format.head import Head
from cdp_container.format.seal import ReaderKeys
from cdp_container.store.api import Store
from rehydrate.flow import Flow
from rehydrate.plan import Totals, VolumePlan, Window, volume_windows
from rehydrate.target import Target

Report = Callable[[Totals], None]
"""Told what was done since it was told before."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where the bytes come from: the container, its keys, what is known of it, and how to ask it."""

    store: Store
    keys: ReaderKeys
    contents: Contents
    flow: Flow = field(default_factory=Flow)


def restore_volume(source: Source, plan: VolumePlan, target: Target, report: Report) -> Totals:
    """Write a volume into a target and make it durable; `target.finish` is the last that is done.

    Raises:
        DamagedObject, MissingObject: a frame is not what was written, or gone. The target is not finished.
        LocalDiskFull, DeviceError, TargetUnsuitable: as the target says.
        KeyMissing: frames are sealed and we hold no private key.
    """
    done = Totals()
    target.begin()
    extents = source.contents.extents()
    for window in volume_windows(plan.volume, extents, plan.runs, source.contents.objects):
        done += _restore_window(source, window, target, report)
    assert done == plan.totals, (done, plan.totals)
    target.finish()
    return done


def _restore_window(source: Source, window: Window, target: Target, report: Report) -> Totals:
    done = Totals(zero_bytes=window.zeros.total_bytes)
    if not target.known_empty:
        for start, end in zip(window.zeros.starts.tolist(), window.zeros.ends.tolist(), strict=True):
            target.zero(start, end - start)
    report(done)
    for fetched in source.flow.run(
        lambda fetch: _restore_fetch(source, window.pieces, fetch, target),
        window.fetches,
        lambda fetch: int(fetch["length"]),
    ):
        report(fetched)
        done += fetched
    return done


def _restore_fetch(source: Source, pieces: Table, fetch: Table, target: Target) -> Totals:
    """One request: its frames verified, its pieces written."""
    head = source.contents.objects[int(fetch["object"])]
    start, length = int(fetch["start"]), int(fetch["length"])
    data = memoryview(_get(source.store, head.key, start, length))
    reader = FrameReader(head, source.keys)
    mine = pieces[int(fetch["first_piece"]) : int(fetch["beyond_piece"])]
    frame_number, raw = -1, memoryview(b"")
    for piece in mine.tolist():
        offset, piece_bytes, _, frame, position, _ = piece
        if frame != frame_number:
            frame_number = frame
            raw = _open(head, reader, frame, data, start)
        target.write(offset, raw[position : position + piece_bytes])
    return Totals(gets=1, fetch_bytes=length, write_bytes=int(mine["length"].sum()))


def _open(head: Head, reader: FrameReader, frame: int, data: memoryview, data_start: int) -> memoryview:
    start, end = head.frame_range(frame)
    return memoryview(reader.open(frame, data[start - data_start : end - data_start]))


def _get(store: Store, key: str, start: int, length: int) -> bytes:
    try:
        data = store.get_range(key, start, length)
    except NotFound as error:
        raise MissingObject(key, "it was there when the plan was made, and is gone") from error
    if len(data) != length:
        raise DamagedObject(key, f"it ends {length - len(data)} bytes before its frames do")
    return data


def sum_of(plans: Sequence[VolumePlan]) -> Totals:
    """The totals of several volumes."""
    return sum((plan.totals for plan in plans), Totals())
