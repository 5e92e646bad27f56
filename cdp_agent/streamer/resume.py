"""Where an epoch goes on, and under which keys. Nothing is read here but the journal's own index."""

from __future__ import annotations

from cdp_agent.identity import AgentIdentity
from cdp_agent.streamer.build import Entropy
from cdp_agent.streamer.engine_types import Epoch, Outside
from cdp_container.errors import PositionUnknown
from cdp_container.format.seal import WriterKeys, writer_keys
from cdp_container.journal.position import NOWHERE, Position
from cdp_container.journal.shared import SplitterPage


def resume_position(epoch: Epoch, page: SplitterPage, outside: Outside, everything: bool) -> Position:
    """What the base cut's preamble says, never a local note; with `everything` to be copied, the tail.

    Raises:
        PositionUnknown: the journal does not hold all that was written since the base cut.
    """
    what = "cannot go on from the newest cut"
    if page.overflowed:
        raise PositionUnknown(what, "the journal was full, and writes went past it")
    if page.unclean_boot:
        raise PositionUnknown(what, "the machine went down hard, and the journal may lack writes")
    if everything:
        return page.tail
    base = epoch.end.preamble
    if base is not None:
        position = Position(base.journal_generation, base.journal_offset)
        if outside.journal.contains(position, page.tail):
            return position
        raise PositionUnknown(what, f"its position {position} is not in this journal")
    # The container holds no cut: the journal must hold everything since it was made.
    if outside.local.streamer().proven != NOWHERE:
        raise PositionUnknown("cannot go on", "the container lost the cuts that it once held")
    start = outside.journal.start
    return start if start != NOWHERE else page.tail


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
