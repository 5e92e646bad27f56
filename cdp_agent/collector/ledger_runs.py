"""The runs of the ledger that a pass puts in force: complete, without the one before it. PURE.

How a ledger is built does not belong here (format.ledger), nor what is collected (choose).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from cdp_container.format.index import Run
from cdp_container.format.keys import KeyKind, parse_key
from cdp_container.format.layout import RunKind
from cdp_container.format.place import Place

NO_DIGEST = bytes(32)


def next_runs(
    before: Iterable[Run],
    collected: Mapping[tuple[int, int], bytes],
    packs: Mapping[str, bytes],
    kept: Collection[Place],
    ends: Mapping[int, int],
) -> list[Run]:
    """All runs.

    Args:
        before: those of the ledger in force.
        collected: the segments that this pass collects, with their digests.
        packs: the packs in force from now on, with their digests.
        kept: the retained cuts; the newest cut of the epoch in force is one.
        ends: for each epoch that counts the last seq that does.
    """
    runs = [run for run in before if run.kind is RunKind.SEGMENT_COLLECTED]
    runs += [
        Run(RunKind.SEGMENT_COLLECTED, epoch, seq, seq, digest) for (epoch, seq), digest in collected.items()
    ]
    kept_ends = {(place.epoch, place.seq) for place in kept}
    return [*_joined(runs, kept_ends), *_in_force(packs), *_retired(kept_ends, ends)]


def _joined(runs: list[Run], kept_ends: Collection[tuple[int, int]]) -> list[Run]:
    """Runs that touch as one, but not across the end of a retained cut: its digest stays known."""
    joined: list[Run] = []
    for run in sorted(runs, key=lambda run: (run.epoch, run.first)):
        last = joined[-1] if joined else None
        touches = last is not None and (last.epoch, last.last + 1) == (run.epoch, run.first)
        if last is None or not touches or (last.epoch, last.last) in kept_ends:
            joined.append(run)
        else:
            joined[-1] = Run(run.kind, run.epoch, last.first, run.last, run.digest)
    return joined


def _in_force(packs: Mapping[str, bytes]) -> list[Run]:
    runs = []
    for key, digest in packs.items():
        parsed = parse_key(key)
        assert parsed is not None, key
        assert parsed.kind is KeyKind.PACK, key
        runs.append(Run(RunKind.PACK_IN_FORCE, parsed.epoch, parsed.number, parsed.number, digest))
    return runs


def _retired(kept_ends: Collection[tuple[int, int]], ends: Mapping[int, int]) -> list[Run]:
    """Everything but the last segments of retained cuts, up to where each epoch ends."""
    by_epoch: dict[int, list[int]] = {epoch: [] for epoch in ends}
    for epoch, seq in kept_ends:
        if epoch in by_epoch:
            by_epoch[epoch].append(seq)
    retired = []
    for epoch, seqs in sorted(by_epoch.items()):
        first = 1
        for seq in (*sorted(seqs), ends[epoch] + 1):
            if first < seq:
                retired.append(Run(RunKind.CUTS_RETIRED, epoch, first, seq - 1, NO_DIGEST))
            first = seq + 1
    return retired
