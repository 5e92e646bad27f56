"""Building a ledger: what was collected, which packs are in force, and the link to the ledger before it.

Reading one is `head.open_head`, `Index.iter_runs` and `predecessor_of`. What may be collected is
decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cdp_container.format import layout
from cdp_container.format.assemble import SealedObject, assemble
from cdp_container.format.codec import Compressor
from cdp_container.format.domain import ObjectName, name_members, parse_name
from cdp_container.format.head import Head
from cdp_container.format.index import Run, build_index
from cdp_container.format.keys import ledger_key
from cdp_container.format.layout import ObjectKind
from cdp_container.format.members import Members
from cdp_container.format.preamble import Preamble
from cdp_container.format.seal import WriterKeys


@dataclass(frozen=True, slots=True)
class LedgerFacts:
    """The ledger's place (the writer's epoch, number), the ledger before it, and who writes it."""

    epoch: int
    number: int
    predecessor: ObjectName | None
    site: str = ""
    software: str = ""


def build_ledger(
    facts: LedgerFacts, runs: Iterable[Run], keys: WriterKeys, object_id: bytes, compressor: Compressor
) -> SealedObject:
    """A ledger of these runs, in any order, without overlap.

    Raises:
        LimitExceeded: they are too many.
    """
    ordered = sorted(runs, key=lambda run: (run.kind, run.epoch, run.first))
    table = b"".join(
        layout.RUN_ROW.struct.pack(run.kind, bytes(6), run.epoch, run.first, run.last, run.digest)
        for run in ordered
    )
    header = {
        "site": facts.site,
        "software": facts.software,
        "n": facts.number,
        "predecessor": name_members(facts.predecessor),
    }
    return assemble(
        ledger_key(facts.epoch, facts.number),
        Preamble(ObjectKind.LEDGER, keys.domain, object_id, facts.epoch, facts.number),
        header,
        build_index({"runs": table}),
        (),
        keys,
        compressor,
    )


def predecessor_of(head: Head) -> ObjectName | None:
    """The ledger before this one, or None for the first; DamagedObject where its header does not say."""
    return parse_name(Members(head.header, head.key), "predecessor")
