"""How an epoch's sending begins, when it cannot go on, and what cannot be asked of it.

What is decided here is done by the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from cdp_agent.streamer.build import CutBuilder, EpochFacts
from cdp_agent.streamer.compare import Comparison
from cdp_agent.streamer.copying import Copying
from cdp_agent.streamer.engine_types import Answered, Epoch, Outside, Wishes
from cdp_agent.streamer.fill_step_types import Lacking
from cdp_agent.streamer.images import Images, as_source
from cdp_agent.streamer.resume import Plan, epoch_keys
from cdp_agent.streamer.step_events import ASKED_MAX
from cdp_agent.streamer.trees import Trees
from cdp_container.domain.identity import AgentIdentity
from cdp_container.domain.notes import Notes
from cdp_container.domain.owner_types import Claimant
from cdp_container.errors import PositionUnknown
from cdp_container.format.domain import Owner
from cdp_container.format.place import Place
from cdp_container.journal.position import Position
from cdp_container.journal.shared import SplitterPage

MENDS_ITSELF: Final = (
    "wait until `cdp-agent status` names nothing any more that is not wholly in the container"
)
NOT_WHOLE: Final = "not every volume is wholly in the container yet"


def claimant_of(identity: AgentIdentity, wishes: Wishes, instance: bytes) -> Claimant:
    """Who claims the domain; `instance`: 16 random bytes, of this run."""
    return Claimant(
        domain=identity.domain,
        site=identity.site,
        instance=instance,
        lease_seconds=wishes.lease_seconds,
        operator=wishes.operator,
        reason="run",
        software=wishes.software,
    )


def begin_copying(
    outside: Outside, identity: AgentIdentity, epoch: Epoch, plan: Plan, episode: int
) -> Copying:
    """What is copied in this epoch; `episode`: the one whose dirty maps count."""
    base = epoch.record.base
    comparison = Comparison(outside.patient, identity, base) if plan.lacking and base else None
    doubts = {
        index: outside.local.doubt(index, episode if index in plan.mapped else None) for index in plan.lacking
    }
    return Copying(doubts, comparison, plan.beyond)


def builder_of(
    outside: Outside, identity: AgentIdentity, wishes: Wishes, epoch: Epoch, copying: Copying
) -> CutBuilder:
    """The builder of this epoch's objects."""
    record, trees = epoch.record, None
    if outside.watcher is not None and identity.batched:
        trees = Trees(outside.watcher, outside.clock, record.epoch, record.base)
    return CutBuilder(
        facts=EpochFacts(record.epoch, record.base, record.end, identity.site, wishes.software),
        keys=epoch_keys(identity, outside.entropy),
        sources=identity.sources,
        journal=outside.build_journal,
        copying=copying,
        clock=outside.clock,
        entropy=outside.entropy,
        compressor=outside.compressor,
        start_packing=outside.start_packing,
        trees=trees,
        announced=identity.trees,
        images=_images(outside, identity, record.base),
    )


def _images(outside: Outside, identity: AgentIdentity, base: Place) -> Images | None:
    if not identity.active_disks:
        return None
    known = replace(identity, sources=tuple(map(as_source, identity.disks)))
    return Images(identity.disks, Comparison(outside.patient, known, base) if base else None)


def not_whole(identity: AgentIdentity, notes: Notes, page: SplitterPage | None) -> tuple[bytes, ...]:
    """The spaces of which the container may lack something, in the order of agent.json."""
    in_doubt = page is not None and page.episode != notes.episode
    return tuple(s.space for s in identity.active.values() if in_doubt or s.whole_id not in notes.whole)


def check_gap(page: SplitterPage, began: SplitterPage, lacking: Sequence[Lacking]) -> None:
    """Raises PositionUnknown where the epoch cannot go on: the next run compares anew.

    Args:
        page: what the splitter publishes.
        began: what it published when the epoch began.
        lacking: sources whose copies are not in a cut that is whole.
    """
    if not page.overflowed and page.episode != began.episode:
        why = "writes went past the journal, and are compared now"
        raise PositionUnknown("beginning anew", why, MENDS_ITSELF)
    if lacking and (page.overflowed or page.generation != began.generation):
        why = "the splitter started again, or its journal is full; it begins anew"
        raise PositionUnknown("the copy was given up", why, MENDS_ITSELF)


def believed(page: SplitterPage | None, boot: bytes) -> SplitterPage | None:
    """What the splitter published under this boot id: an older page may hide a power loss."""
    return page if page is not None and page.generation and page.boot == boot else None


def may_copy(page: SplitterPage, began: SplitterPage) -> bool:
    """Whether what is read of the volumes is what the guests see, or older than what the journal holds."""
    same = page.generation == began.generation and page.redos == began.redos
    return same and page.running and not page.sync_failed and not page.overflowed


def tail_after_copy(page: SplitterPage | None, began: SplitterPage) -> Position:
    """What was just read of a volume may hold writes up to this tail.

    Raises:
        PositionUnknown: old records were put over the volume meanwhile; the next run compares anew.
    """
    if page is None or not may_copy(page, began):
        why = "the splitter started again, or mended a disk; it begins anew"
        raise PositionUnknown("the copy was given up", why, MENDS_ITSELF)
    return page.tail


def refusal(page: SplitterPage | None, lacks: bool, waiting: int) -> Answered | None:
    """Why a cut that is asked for cannot be taken. `lacks`: it needs more than the container holds."""
    if page is None:
        return Answered(None, "the splitter is not running yet")
    if page.overflowed:
        return Answered(None, "the journal is full, and writes go past it", MENDS_ITSELF)
    if lacks:
        return Answered(None, NOT_WHOLE, MENDS_ITSELF)
    if waiting >= ASKED_MAX:
        return Answered(None, f"{ASKED_MAX} others are waiting already")
    return None


def told_elsewhere(found: Owner, site: str) -> str:
    """What `status` shows where another site has the domain, or gave it to this one."""
    if found.released_to == site:
        way = "its writes are not on these disks: stop the agent and run `rehydrate failback`"
        return f"owned elsewhere: site {found.site!r} released it to this one, but {way}"
    return f"owned elsewhere: by site {found.site!r} (epoch {found.epoch}, lease {found.lease_seconds} s)"
