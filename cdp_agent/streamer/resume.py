"""Where an epoch goes on, and under which keys. Nothing is read here but the journal's own index.

What does not belong here: what to do where the journal has a gap (the engine refuses).
"""

from __future__ import annotations

from cdp_agent.identity import AgentIdentity
from cdp_agent.streamer.build import Entropy
from cdp_agent.streamer.payloads import Journal
from cdp_container.domain.owner_types import End
from cdp_container.errors import PositionUnknown
from cdp_container.format.seal import WriterKeys, writer_keys
from cdp_container.journal.position import NOWHERE, Position
from cdp_container.journal.shared import SplitterPage


def gap_in(page: SplitterPage) -> str:
    """Why the journal lacks something that guests wrote, "" if it holds everything."""
    if page.overflowed:
        return "the journal was full, and writes went past it"
    if page.unclean_boot:
        return "the machine went down hard, and the journal may lack writes"
    return ""


def resume_position(
    end: End, page: SplitterPage, journal: Journal, proven: Position, everything: bool
) -> Position:
    """What the base cut's preamble says, never a local note; with `everything` to be copied, the tail.

    Args:
        end: the base cut.
        page: what the splitter published.
        journal: what it wrote.
        proven: what we published, in this run or an earlier one.
        everything: every source is copied first.

    Raises:
        PositionUnknown: the journal does not hold all that was written since the base cut.
    """
    what = "cannot go on from the newest cut"
    gap = gap_in(page)
    if gap:
        raise PositionUnknown(what, gap)
    if everything:
        return page.tail
    if end.place:
        if end.preamble is None:
            raise PositionUnknown(what, "it was collected, and its position in the journal with it")
        position = Position(end.preamble.journal_generation, end.preamble.journal_offset)
        if journal.contains(position, page.tail):
            return position
        raise PositionUnknown(what, f"its position {position} is not in this journal")
    # The container holds no cut: the journal must hold everything since it was made.
    if proven != NOWHERE:
        raise PositionUnknown("cannot go on", "the container lost the cuts that it once held")
    return first_position(journal)


def first_position(journal: Journal) -> Position:
    """Where the first write of all was captured. Raises PositionUnknown where the journal lost it."""
    if not journal.is_from_the_beginning:
        raise PositionUnknown("cannot begin", "the journal's oldest file is gone or cannot be read")
    return journal.start


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
