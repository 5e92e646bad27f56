"""What of a copy the container does not have yet: volumes compared with the index of the newest cut.

Later cuts of the epoch need not be looked at. A block that now reads as it did in the base cut, although they
wrote into it, holds what they wrote: then what they put over it in the container is what it had. What was
written since then, and is in no cut yet, comes with a later one.

Only heads are read, for which an agent's index key is enough. An index that is damaged or incomplete compares
as nothing: then everything is sent, and `why_everything` says so. How volumes are read does not belong here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Final

import numpy as np

from cdp_agent.streamer.payloads import Chunk, is_zero
from cdp_container.domain.blocks import SUM, WINDOW_BYTES, ZEROS, Blocks, blocks_of
from cdp_container.domain.contents import Contents
from cdp_container.domain.ends import Collected
from cdp_container.domain.faults import faults_of
from cdp_container.domain.gathering import gather
from cdp_container.domain.heads import BROKEN
from cdp_container.domain.history import LOOKS_MAX, DomainFacts, read_domain, read_history
from cdp_container.domain.identity import AgentIdentity
from cdp_container.domain.image import Branch, on_branch, runs_of
from cdp_container.domain.ledgers import read_ledger
from cdp_container.domain.opening import is_superseded
from cdp_container.errors import CdpError, DamagedObject, KeyMissing
from cdp_container.extents.tables import Table
from cdp_container.format.layout import ExtentKind
from cdp_container.format.limits import SUM_BLOCK_BYTES
from cdp_container.format.place import Place
from cdp_container.format.seal import ReaderKeys
from cdp_container.format.sums import block_sums
from cdp_container.journal.position import Position
from cdp_container.store.api import Store

WRITTEN_BEYOND_MAX: Final = 1 << 20
"""Extents that are looked at one by one; where a power loss cost more, everything is compared."""

_ZERO_SUM: Final = np.frombuffer(block_sums(0, bytes(SUM_BLOCK_BYTES)), dtype="<u8")


class Comparison:
    """The image of one cut, read when the first chunk is compared; used by one thread at a time.

    Args:
        store: may repeat reads.
        identity: domain, index key and sources.
        base: the cut.
    """

    def __init__(self, store: Store, identity: AgentIdentity, base: Place) -> None:
        self._store = store
        self._identity = identity
        self._base = base
        self._image: _Image | None = None
        self._window: tuple[int, Blocks] | None = None
        self.why_everything = ""
        self.compared_bytes = 0
        self.different_bytes = 0

    def different(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """Of these chunks, which cover all that is compared, what the cut holds otherwise, in their order.

        Raises StoreUnavailable and its kin: the index cannot be read now.
        """
        for chunk in chunks:
            self._open()
            self.compared_bytes += chunk.length
            for part in (chunk,) if self.why_everything else self._parts(chunk):
                self.different_bytes += part.length
                yield part

    def written_beyond(self, source: int, position: Position) -> Iterable[tuple[int, int]] | None:
        """The ranges (offset, length), in order, that cuts beyond a journal position wrote of a source.

        None where that is not known: then everything may be. Raises StoreUnavailable and its kin.
        """
        self._open()
        return None if self._image is None else self._image.written_beyond(source, position)

    def close(self) -> None:
        """Give the index's disk space back."""
        if self._image is not None:
            self._image.contents.close()
        self._image = self._window = None

    def _open(self) -> None:
        if self._image is not None or self.why_everything:
            return
        try:
            self._image = _image_of(self._store, self._identity, self._base)
        except (*BROKEN, KeyMissing) as error:
            self.why_everything = str(error)

    def _parts(self, chunk: Chunk) -> Iterator[Chunk]:
        end = chunk.offset + chunk.length
        at = chunk.offset
        while at < end:
            stop = min(end, at - at % WINDOW_BYTES + WINDOW_BYTES)
            blocks = self._blocks(chunk.source, at)
            yield from _changed(chunk, at, stop, blocks)
            at = stop

    def _blocks(self, source: int, at: int) -> Blocks:
        assert self._image is not None
        start = at - at % WINDOW_BYTES
        window = self._window
        if window is None or (window[0], window[1].first * SUM_BLOCK_BYTES) != (source, start):
            size_bytes = self._identity.sources[source].size_bytes
            end = min(start + WINDOW_BYTES, -(-size_bytes // SUM_BLOCK_BYTES) * SUM_BLOCK_BYTES)
            runs = self._image.runs[source]
            window = self._window = source, blocks_of(self._image.contents, runs, start, end)
        return window[1]


def _image_of(store: Store, identity: AgentIdentity, base: Place) -> _Image:
    """The index of a cut, read anew where objects were collected meanwhile. Raises as `_Image`."""
    for _ in range(LOOKS_MAX):
        facts = read_domain(store)
        try:
            return _Image(store, identity, base, facts)
        except BROKEN:
            if not is_superseded(store, facts.owner):
                raise
    return _Image(store, identity, base, read_domain(store))


class _Image:
    """The index of a cut. Raises DamagedObject, MissingObject and their kin where it is not whole."""

    def __init__(self, store: Store, identity: AgentIdentity, base: Place, facts: DomainFacts) -> None:
        keys = ReaderKeys(index_key=identity.index_key or None)
        ledger = read_ledger(store, facts.owner, keys)
        history = read_history(store, facts, Collected(ledger))
        branch = self._branch = history.branch_of(base)
        self._spaces = [source.space for source in identity.sources]
        self.contents = gather(store, identity.domain, keys, branch, ledger, keeps_sums=True)
        try:
            origins = history.origins()
            self.runs = _runs(self.contents, branch, self._spaces)
            if self.contents.sealed:
                raise KeyMissing("compare with the newest cut", "its index does not open with our key")
            error = next((fault.error for fault in faults_of(self.contents, branch, origins)), None)
            if error is not None:
                raise error
        except CdpError:
            self.contents.close()
            raise

    def written_beyond(self, source: int, position: Position) -> Iterable[tuple[int, int]] | None:
        """See `Comparison.written_beyond`."""
        segments = [s for s in self.contents.segments.values() if on_branch(s.place, self._branch)]
        after = (0, 0)
        for segment in sorted(segments, key=lambda segment: segment.place, reverse=True):
            generation, offset = segment.journal
            if generation == 0 and segment.complete:
                return None  # it was collected, and nobody knows its position any more
            if segment.complete and (generation != position.generation or offset <= position.offset):
                after = segment.epoch, segment.seq
                break
        if self._is_collected_beyond(after):
            return None  # of cuts that are retired nothing tells what they wrote: a discard leaves no trace
        runs = runs_of(self.contents, self._branch, self._spaces[source], after)
        if int(runs["count"].sum()) > WRITTEN_BEYOND_MAX:
            return None
        extents = self.contents.extents()
        found: list[tuple[int, int]] = []
        for first, count in runs[["first", "count"]].tolist():
            found.extend(extents[first : first + count][["offset", "length"]].tolist())
        return sorted(found)

    def _is_collected_beyond(self, after: tuple[int, int]) -> bool:
        """Whether any segment of the branch behind this one was collected."""
        ledger = self.contents.ledger
        return any(
            first <= upto and (epoch, min(last, upto)) > after
            for epoch, upto in self._branch.items()
            for first, last in ledger.collected(epoch)
        )


def _runs(contents: Contents, branch: Branch, spaces: Sequence[bytes]) -> list[Table]:
    if contents.broken:
        raise DamagedObject(next(iter(contents.broken)), "the index of the newest cut needs it")
    return [runs_of(contents, branch, space) for space in spaces]


def _changed(chunk: Chunk, start: int, end: int, blocks: Blocks) -> Iterator[Chunk]:
    """What differs of `[start, end)` of a chunk, neighbours of one kind joined."""
    if chunk.data is None:
        yield from _changed_void(chunk, start, end, blocks)
        return
    pieces = []
    for at in range(start - start % SUM_BLOCK_BYTES, end, SUM_BLOCK_BYTES):
        low, high = max(at, start), min(at + SUM_BLOCK_BYTES, end)
        data = chunk.data[low - chunk.offset : high - chunk.offset]
        pieces.append((_kind_sent(data, at // SUM_BLOCK_BYTES, blocks), low, high))
    for kind, group in groupby(pieces, key=lambda piece: piece[0]):
        found = list(group)
        low, high = found[0][1], found[-1][2]
        if kind is not None:
            sent = chunk.data[low - chunk.offset : high - chunk.offset] if kind is ExtentKind.DATA else None
            yield chunk._replace(offset=low, length=high - low, kind=kind, data=sent)


def _kind_sent(data: bytes | memoryview, block: int, blocks: Blocks) -> ExtentKind | None:
    """How a block's content must be sent, None where the image has just that."""
    number = block - blocks.first
    zero = is_zero(data)
    known = blocks.kinds[number]
    if known == ZEROS and zero:
        return None
    if known == SUM and len(data) == SUM_BLOCK_BYTES and blocks.sums[number].tobytes() == block_sums(0, data):
        return None
    return ExtentKind.ZERO if zero else ExtentKind.DATA


def _changed_void(chunk: Chunk, start: int, end: int, blocks: Blocks) -> Iterator[Chunk]:
    first, beyond = start // SUM_BLOCK_BYTES, -(-end // SUM_BLOCK_BYTES)
    part = slice(first - blocks.first, beyond - blocks.first)
    kinds = blocks.kinds[part]
    is_zero_sum = (blocks.sums[part].view("<u8").reshape(-1, 2) == _ZERO_SUM).all(axis=1)
    changed = (kinds != ZEROS) & ~((kinds == SUM) & is_zero_sum)
    edges = np.flatnonzero(np.diff(changed, prepend=False, append=False)).tolist()
    for begin, stop in zip(edges[::2], edges[1::2], strict=True):
        low = max((first + begin) * SUM_BLOCK_BYTES, start)
        high = min((first + stop) * SUM_BLOCK_BYTES, end)
        yield chunk._replace(offset=low, length=high - low)
