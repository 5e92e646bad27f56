"""What a pass writes, of collection or of healing: each object under a number of its own, and read back.

What goes into packs and ledgers does not belong here (packing, ledger_runs, healing.rebuild), nor when a plan
comes into force (cdp_container.domain.collecting).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from cdp_agent.collector.catalogs import COLLECTED_LEVEL
from cdp_agent.collector.pass_types import Around
from cdp_container.domain.collecting import put_once
from cdp_container.domain.held import seen_of
from cdp_container.domain.history import History
from cdp_container.errors import CollectionStopped, DamagedObject, MissingObject, NotFound
from cdp_container.format.assemble import SealedObject
from cdp_container.format.catalog import CatalogFacts, build_catalog
from cdp_container.format.codec import Compressor
from cdp_container.format.domain import ObjectName
from cdp_container.format.gc import Plan
from cdp_container.format.head import check_object, object_digest, open_head
from cdp_container.format.holds import Hold
from cdp_container.format.index import Entry, Run
from cdp_container.format.keys import CATALOG_PREFIX, GC_PREFIX, PACKS_PREFIX, KeyKind, parse_key
from cdp_container.format.ledger import LedgerFacts, build_ledger, predecessor_of
from cdp_container.format.pack import PackContent, PackFacts, build_pack
from cdp_container.format.seal import ReaderKeys, WriterKeys, writer_keys
from cdp_container.store.api import Store

PACKS_PER_PASS: Final = 1_000_000
"""The numbers of what pass n of an epoch writes begin at n times that: none is ever used twice."""


class PassObjects:
    """The objects of one pass.

    Args:
        around: what the pass runs in.
        history: of the domain, whose owner is this site.
        software: who writes.
    """

    def __init__(self, around: Around, history: History, software: str) -> None:
        self._around = around
        self._software = software
        self._owner = history.owner
        self._record = history.spans[self._owner.epoch].record
        self._n = next_number(around.store, self._owner.epoch)
        self._numbered = 0
        self.compressor: Final = Compressor()

    def put(self, built: SealedObject) -> None:
        """Write an object, and read it back. Raises DamagedObject."""
        put_once(self._around.store, built.key, built.data)
        if self._around.store.get(built.key).data != built.data:
            raise DamagedObject(built.key, "it does not read back as it was written")

    def pack_facts(self) -> PackFacts:
        """The place of the next pack."""
        owner, record = self._owner, self._record
        return PackFacts(
            owner.epoch, self._number(), record.base, record.end, site=owner.site, software=self._software
        )

    def keys(self) -> WriterKeys:
        """Fresh ones for every object."""
        identity, entropy = self._around.identity, self._around.entropy
        if not identity.key_block:
            return WriterKeys(identity.domain)
        return writer_keys(
            identity.domain,
            identity.public_key,
            identity.key_block,
            identity.index_key,
            entropy(32),
            entropy(32),
        )

    def pack(self, content: PackContent) -> SealedObject:
        """The next pack, not yet written."""
        return build_pack(self.pack_facts(), content, self.keys(), self._around.entropy(16), self.compressor)

    def catalog(self, entries: list[Entry]) -> SealedObject:
        """The next catalog, not yet written."""
        owner = self._owner
        facts = CatalogFacts(owner.epoch, COLLECTED_LEVEL, self._number(), owner.site, self._software)
        return build_catalog(facts, entries, self.keys(), self._around.entropy(16), self.compressor)

    def put_ledger(self, runs: Iterable[Run]) -> ObjectName:
        """The ledger of the pass, complete; it is written."""
        facts = LedgerFacts(self._owner.epoch, self._n, None, self._owner.site, self._software)
        built = build_ledger(facts, runs, self.keys(), self._around.entropy(16), self.compressor)
        self.put(built)
        return ObjectName(built.key, built.digest)

    def plan(
        self,
        ledger: ObjectName,
        packs: Sequence[ObjectName],
        victims: Sequence[str],
        holds: Mapping[str, Hold],
        made_ns: int,
    ) -> Plan:
        """The plan that names it all; `holds` are those that were seen."""
        owner = self._owner
        return Plan(
            domain=owner.domain,
            epoch=owner.epoch,
            n=self._n,
            made_ns=made_ns,
            site=owner.site,
            before=owner.ledger,
            ledger=ledger,
            packs=tuple(packs),
            victims=tuple(victims),
            holds=seen_of(holds),
            protected=owner.protected,
        )

    def _number(self) -> int:
        number = self._n * PACKS_PER_PASS + self._numbered
        self._numbered += 1
        assert self._numbered < PACKS_PER_PASS, self._numbered
        return number


def next_number(store: Store, epoch: int) -> int:
    """The number of the next pass of an epoch: above every plan, ledger, pack and own catalog that it has.

    None is used twice: plans stay, and what a pass without one left is named by a later one before it goes.
    """
    numbers = [0]
    for prefix in (GC_PREFIX, PACKS_PREFIX, CATALOG_PREFIX):
        for found in store.list(f"{prefix}{epoch:010}/"):
            parsed = parse_key(found.key)
            if parsed is not None and (parsed.kind is not KeyKind.CATALOG or parsed.level == COLLECTED_LEVEL):
                of_many = parsed.kind in (KeyKind.PACK, KeyKind.CATALOG)
                numbers.append(parsed.number // PACKS_PER_PASS if of_many else parsed.number)
    return max(numbers) + 1


def read_runs(store: Store, domain: bytes, keys: ReaderKeys, name: ObjectName | None) -> list[Run]:
    """The runs of a complete ledger. Raises MissingObject, DamagedObject and their kin."""
    if name is None:
        return []
    try:
        data = store.get(name.key).data
    except NotFound as error:
        raise MissingObject(name.key, "this ledger is needed, and it is gone") from error
    check_object(data, name.key, domain)
    if object_digest(data) != name.digest:
        raise DamagedObject(name.key, "it has not the digest by which it was named")
    head = open_head(data, name.key, domain, keys)
    if predecessor_of(head) is not None:
        raise CollectionStopped("the pass ended", f"{name.key} is not complete, and none that we write is so")
    return list(head.index.iter_runs())
