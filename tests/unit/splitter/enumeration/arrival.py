"""Where the container comes to from a cut, by the streamer's own plan: what it replays, and what it compares.

What the volumes should hold does not belong here (`owed`, `judging`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import cast

from cdp_agent.splitter.settings import SplitterSettings
from cdp_agent.streamer.local import LocalDirectory
from cdp_agent.streamer.resume import Plan, plan_epoch
from cdp_agent.streamer.settings import StreamerSettings
from cdp_container.domain.identity import SourceIdentity
from cdp_container.domain.notes import Notes
from cdp_container.domain.owner_types import End
from cdp_container.format.layout import ObjectKind
from cdp_container.format.place import Place
from cdp_container.format.preamble import Preamble
from cdp_container.journal.position import NOWHERE, Position
from cdp_container.journal.reader import JournalReader
from cdp_container.journal.record import Kind
from cdp_container.journal.shared import SharedPages, SplitterPage
from tests.unit.splitter.enumeration.owed import Cut, Images, applied, differing
from tests.unit.splitter.enumeration.power import SECTOR_BYTES
from tests.unit.splitter.machine import DOMAIN


@dataclass(frozen=True, slots=True)
class Way:
    """How the container goes on from a cut.

    Attributes:
        cut: where it stands.
        images: what the journal makes of the volumes; None where all of one is compared.
        compared: and byte ranges (offset, length) that are.
    """

    cut: Cut
    images: tuple[bytes | None, ...]
    compared: Mapping[int, tuple[tuple[int, int], ...]]


def way_from(
    cut: Cut, page: SplitterPage, reader: JournalReader, settings: SplitterSettings, pages: SharedPages
) -> Way:
    """What the streamer plans, and where that leads to."""
    sources = {
        volume.index: SourceIdentity(volume.name, str(volume.backing), volume.space, volume.size_bytes)
        for volume in settings.volumes
    }
    preamble = Preamble(
        ObjectKind.SEGMENT, DOMAIN, bytes(16), 1, 1,
        journal_generation=cut.position.generation, journal_offset=cut.position.offset,
    )  # fmt: skip
    notes = Notes(whole=frozenset(source.whole_id for source in sources.values()), episode=cut.episode)
    end = End(Place(1, 1, 1), preamble=preamble)
    plan = plan_epoch(end, page, 0, notes, sources, reader, NOWHERE)
    if page.overflowed:  # the streamer goes on to its end, or waits until all is compared
        to_position = plan.position if plan.lacking else page.overflow_at
    else:
        to_position = page.tail
    images = _replayed(cut.images, plan, to_position, reader)
    compared = dict.fromkeys(plan.in_full, None) | _mapped(plan, page, settings, pages)
    ranges = {index: found for index, found in compared.items() if found is not None}
    return Way(
        cut,
        tuple(
            None if index in compared and index not in ranges else image for index, image in enumerate(images)
        ),
        ranges,
    )


def _mapped(
    plan: Plan, page: SplitterPage, settings: SplitterSettings, pages: SharedPages
) -> dict[int, tuple[tuple[int, int], ...] | None]:
    """What of the volumes their dirty maps leave in doubt; None: everything."""
    active = {
        volume.index: SimpleNamespace(
            path=str(volume.backing), size_bytes=volume.size_bytes, space=volume.space
        )
        for volume in settings.volumes
    }
    identity = SimpleNamespace(
        domain=DOMAIN, sources=settings.volumes, active=active, trees=(), vms=(), disks=()
    )
    told = SimpleNamespace(directory=settings.journal_dir, identity=identity, copy_bytes_per_second=1e9)
    local = LocalDirectory(cast(StreamerSettings, told), pages)
    found = {index: local.doubt(index, page.episode).ranges for index in plan.mapped}
    return {index: None if ranges is None else tuple(ranges) for index, ranges in found.items()}


def _replayed(images: Images, plan: Plan, to_position: Position, reader: JournalReader) -> Images:
    for record in reader.records(plan.position, to_position):
        payload = reader.read_payload(record) if record.kind is Kind.WRITE else b""
        images = applied(images, record, payload)
    return images


def strays(way: Way, images: Images) -> Iterator[str]:
    """Where the container would not come to hold what the volumes do."""
    for volume, (image, arrived) in enumerate(zip(images, way.images, strict=True)):
        if arrived is None:
            continue
        ranges = way.compared.get(volume, ())
        for number in differing(image, arrived):
            start = number * SECTOR_BYTES
            if not any(offset <= start < offset + length for offset, length in ranges):
                yield (
                    f"from the cut at {way.cut.position} the container comes to {arrived[start:][:20]!r}"
                    f" in sector {number} of volume {volume}, which holds {image[start:][:20]!r}"
                )
