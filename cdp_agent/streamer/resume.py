"""Where an epoch goes on, what must be copied in it, and under which keys.

What does not belong here: what is done about it (the engine).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cdp_agent.streamer.build import Entropy
from cdp_agent.streamer.payloads import Journal
from cdp_container.domain.identity import AgentIdentity, SourceIdentity
from cdp_container.domain.notes import Notes
from cdp_container.domain.owner_types import End
from cdp_container.errors import PositionUnknown
from cdp_container.format.place import Place
from cdp_container.format.seal import WriterKeys, writer_keys
from cdp_container.journal.position import NOWHERE, Position
from cdp_container.journal.shared import SplitterPage

_NOT_OURS: Final = (
    "`rehydrate failback` brings the disks up to the newest cut; `cdp-agent run --full-copy` makes them, "
    "as they are, the newest"
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How an epoch begins.

    Attributes:
        position: where capture resumes.
        taken_ns: what was acknowledged before this time of the wall clock lies below it.
        lacking: indexes of sources of which the container may lack something.
        mapped: those of them whose dirty maps say what.
        beyond: of them also what cuts beyond this position wrote is in doubt, as the journal lost it.
        copy_from: nothing is copied before all that lies below is in cuts: records of the time before a power
            loss must not be put over what is copied after it.
        why: why all of them may, "" unless that is a surprise.
    """

    position: Position
    taken_ns: int
    lacking: tuple[int, ...]
    mapped: tuple[int, ...] = ()
    beyond: Position = NOWHERE
    copy_from: Position = NOWHERE
    why: str = ""

    @property
    def in_full(self) -> tuple[int, ...]:
        """Those whose every block is in doubt. What a map says is in doubt is noted by the map's episode."""
        return tuple(index for index in self.lacking if index not in self.mapped)


def plan_epoch(
    end: End,
    page: SplitterPage,
    seen_ns: int,
    notes: Notes,
    sources: Mapping[int, SourceIdentity],
    journal: Journal,
    proven: Position,
) -> Plan:
    """Go on at what the base cut's preamble says, never at a local note; copy what may be missing.

    Args:
        end: the base cut.
        page: what the splitter published.
        seen_ns: the wall clock just before it was looked at.
        notes: this agent's.
        sources: those that are protected, by their index.
        journal: what the splitter wrote.
        proven: what we published, in this run or an earlier one.

    Raises:
        PositionUnknown: the container lost what it once held; it may be the wrong one. Or it holds what
            another site wrote after the cut that was put onto the disks, which would be reverted.
    """
    if not end.place and proven != NOWHERE and notes.whole:
        raise PositionUnknown("cannot go on", "the container lost the cuts that it once held")
    if notes.carried and end.place != notes.carried and not _is_ours(end, page.tail, journal):
        disks, newest = (f"{place.epoch}.{place.cut}" for place in (notes.carried, end.place))
        why = f"the disks were made from cut {disks}, and the newest is {newest}, which is none of this agent"
        raise PositionUnknown("cannot go on", why, _NOT_OURS)
    in_doubt = page.episode != notes.episode
    base_lacks = _copies_lacked(end, page.tail, notes, journal)
    lacking = tuple(
        index
        for index, source in sources.items()
        if in_doubt or source.whole_id not in notes.whole or source.space in base_lacks
    )
    mapped = tuple(
        index
        for index, source in sources.items()
        if in_doubt and not page.compare_all
        if source.whole_id in notes.whole and source.space not in base_lacks
    )
    if len(lacking) == len(sources) and not mapped:
        return Plan(page.tail, seen_ns, lacking)
    position, why = _base_position(end, page.tail, journal, notes.carried)
    taken_ns = end.time_ns
    beyond = NOWHERE
    if why:
        beyond = _end_before(end, page.tail, journal) if len(mapped) == len(sources) else NOWHERE
        if beyond == NOWHERE:
            return Plan(page.tail, seen_ns, tuple(sources), why=why)
        position = beyond
    episode_began = Position(page.episode, 0)
    gated = bool(mapped) and journal.contains(position, episode_began)
    return Plan(position, taken_ns, lacking, mapped, beyond, episode_began if gated else NOWHERE)


def _copies_lacked(end: End, tail: Position, notes: Notes, journal: Journal) -> frozenset[bytes]:
    """The spaces of which the base cut may lack something that a copy of ours would find.

    A cut of this journal also lists what was filled from outside, of which it has every write. Were it listed
    for a copy, too, then the notes would not call it whole, or an episode would not be compared yet.
    """
    if end.preamble is None:
        return frozenset()
    filling = frozenset(one.space for one in notes.filling)
    listed = frozenset(end.preamble.not_whole)
    return listed - filling if listed & filling and _is_ours(end, tail, journal) else listed


def _end_before(end: End, tail: Position, journal: Journal) -> Position:
    """The newest position of the base cut's generation that the journal still has, after a power loss.

    What the disks may lack or have beyond it is marked in the dirty maps, and what the cuts have is known. A
    host that was reverted looks like that, too: then the cuts say what the maps cannot.
    """
    if end.preamble is None:
        return NOWHERE
    position = Position(end.preamble.journal_generation, end.preamble.journal_offset)
    kept = journal.end_before(position)
    return kept if kept is not None and journal.contains(kept, tail) else NOWHERE


def _is_ours(end: End, tail: Position, journal: Journal) -> bool:
    """Whether a cut was made of this journal, even where a power loss took what it was made of."""
    if end.preamble is None:
        return False
    position = Position(end.preamble.journal_generation, end.preamble.journal_offset)
    return journal.contains(position, tail) or journal.end_before(position) is not None


def _base_position(end: End, tail: Position, journal: Journal, carried: Place) -> tuple[Position, str]:
    """The base cut's position in the journal; or why there is none, and everything must be compared.

    `carried`: what the disks held when the journal began; its own position is in another site's journal.
    """
    if not end.place or end.place == carried:
        # No cut, or the one that the disks began with: the journal must hold everything since it was made.
        why = "" if journal.is_from_the_beginning else "the journal's oldest file is gone or cannot be read"
        return journal.start, why
    if end.preamble is None:
        return NOWHERE, "the newest cut was collected, and its position in the journal with it"
    position = Position(end.preamble.journal_generation, end.preamble.journal_offset)
    known = journal.contains(position, tail)
    return position, "" if known else f"the newest cut's position {position} is not in this journal"


def epoch_keys(identity: AgentIdentity, entropy: Entropy) -> WriterKeys:
    """Keys of one epoch: the content key is random, and nowhere but in this process's memory."""
    if not identity.public_key:
        return WriterKeys(identity.domain)
    return writer_keys(
        identity.domain,
        identity.public_key,
        identity.key_block,
        identity.index_key,
        content_key=entropy(32),
        ephemeral_private=entropy(32),
    )
