"""The runs of the next ledger: complete, joined, but never across the end of a retained cut."""

from __future__ import annotations

from cdp_agent.collector.ledger_runs import NO_DIGEST, next_runs
from cdp_container.domain.ledgers import ledger_of
from cdp_container.format.codec import Compressor
from cdp_container.format.head import open_head
from cdp_container.format.index import Run
from cdp_container.format.keys import pack_key
from cdp_container.format.layout import RunKind
from cdp_container.format.ledger import LedgerFacts, build_ledger
from cdp_container.format.place import Place
from cdp_container.format.seal import NO_KEYS, WriterKeys

GONE, RETIRED = RunKind.SEGMENT_COLLECTED, RunKind.CUTS_RETIRED


def digest(seq: int) -> bytes:
    return bytes([seq]) * 32


def collected(*seqs: int) -> dict[tuple[int, int], bytes]:
    return {(1, seq): digest(seq) for seq in seqs}


def rows(runs: list[Run], kind: RunKind) -> list[tuple[int, int, int, bytes]]:
    return [(run.epoch, run.first, run.last, run.digest) for run in runs if run.kind is kind]


def test_runs_that_touch_are_one_but_not_across_a_retained_cut() -> None:
    before = [Run(GONE, 1, 1, 3, digest(3)), Run(GONE, 1, 6, 6, digest(6))]
    runs = next_runs(before, collected(4, 5, 7, 8, 10), {}, [Place(1, 5, 5)], {1: 20})
    assert rows(runs, GONE) == [(1, 1, 5, digest(5)), (1, 6, 8, digest(8)), (1, 10, 10, digest(10))]


def test_runs_join_once_the_cut_between_them_is_retired() -> None:
    before = [Run(GONE, 1, 1, 5, digest(5)), Run(GONE, 1, 6, 8, digest(8))]
    assert rows(next_runs(before, {}, {}, [Place(1, 5, 5)], {1: 9}), GONE) == [
        (1, 1, 5, digest(5)),
        (1, 6, 8, digest(8)),
    ]
    assert rows(next_runs(before, {}, {}, [], {1: 9}), GONE) == [(1, 1, 8, digest(8))]


def test_runs_of_different_epochs_never_join() -> None:
    before = [Run(GONE, 1, 1, 5, digest(5)), Run(GONE, 2, 6, 8, digest(8))]
    assert len(rows(next_runs(before, {}, {}, [], {}), GONE)) == 2


def test_all_but_retained_cuts_are_retired_up_to_where_an_epoch_ends() -> None:
    kept = [Place(1, 1, 1), Place(1, 3, 4), Place(2, 2, 6)]
    runs = next_runs([Run(RETIRED, 1, 2, 2, NO_DIGEST)], {}, {}, kept, {1: 9, 2: 6, 3: 2})
    assert rows(runs, RETIRED) == [
        (1, 2, 3, NO_DIGEST),
        (1, 5, 9, NO_DIGEST),
        (2, 1, 5, NO_DIGEST),
        (3, 1, 2, NO_DIGEST),
    ]


def test_packs_in_force_and_the_ledger_of_all_of_it_is_sound() -> None:
    packs = {pack_key(3, 7): digest(7), pack_key(2, 9): digest(9)}
    runs = next_runs([Run(RunKind.PACK_IN_FORCE, 1, 1, 1, digest(1))], collected(1, 2), packs, [], {1: 5})
    assert rows(runs, RunKind.PACK_IN_FORCE) == [(3, 7, 7, digest(7)), (2, 9, 9, digest(9))]
    facts = LedgerFacts(3, 1, None)
    built = build_ledger(facts, runs, WriterKeys(bytes(16)), bytes(16), Compressor())
    ledger = ledger_of(open_head(built.data, built.key, bytes(16), NO_KEYS).index.iter_runs())
    assert ledger.packs == packs
    assert ledger.is_collected(1, 2)
    assert not ledger.is_collected(1, 3)
    assert ledger.is_retired(1, 5)
