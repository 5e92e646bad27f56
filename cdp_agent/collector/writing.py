"""Steps 3 and 4 of a pass of collection: packs, catalogs and the ledger, and the plan that names them.

What is to go is known by then (choose); what the plan does does not belong here (collect).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from cdp_agent.collector.catalogs import Bundling, bundle_anew
from cdp_agent.collector.counting import past_of
from cdp_agent.collector.ledger_runs import next_runs
from cdp_agent.collector.packing import Counted, Packing, PackWriter, cut_record, epoch_record
from cdp_agent.collector.pass_objects import PassObjects
from cdp_agent.collector.pass_types import Around, Found, Wishes
from cdp_agent.collector.past import cut_facts
from cdp_agent.collector.remembered import Tables
from cdp_agent.collector.warmth import Grouping
from cdp_container.format.assemble import SealedObject
from cdp_container.format.domain import ObjectName
from cdp_container.format.gc import Plan
from cdp_container.format.holds import Hold
from cdp_container.format.keys import KeyKind, parse_key, segment_key
from cdp_container.format.pack import PackRecord
from cdp_container.format.seal import ReaderKeys


class Writing:
    """Of one pass. `counted`: what packing did."""

    def __init__(
        self, around: Around, wishes: Wishes, tables: Tables, found: Found, groups: Grouping
    ) -> None:
        self._groups = groups
        self._around = around
        self._wishes = wishes
        self._tables = tables
        self._found = found
        self._objects = PassObjects(around, found.history, wishes.software)
        self.counted = Counted()
        self._digests = {
            key: digest.tobytes() for key, digest in zip(tables.keys, tables.facts["digest"], strict=True)
        }

    def write_all(self, holds: Mapping[str, Hold], wall_ns: int) -> Plan:
        """Everything but the plan, which is given."""
        chosen = self._found.chosen
        packs: dict[str, bytes] = {}
        remembered = self._remembered()
        told = tuple(key for key in chosen.dead if key in remembered)
        if chosen.packed:
            self._around.report(f"packing what lives in {len(chosen.packed)} objects")
        for pack in self._packed(sorted((*chosen.packed, *told)), remembered):
            self._objects.put(pack)
            packs[pack.key] = pack.digest
        names = [ObjectName(key, digest) for key, digest in packs.items()]
        names += [ObjectName(built.key, built.digest) for built in self._catalogs()]
        victims = set(chosen.victims)
        in_force = {key: digest for key, digest in self._found.ledger.packs.items() if key not in victims}
        ledger = self._ledger({**in_force, **packs})
        return self._objects.plan(ledger, names, chosen.victims, holds, wall_ns)

    def _remembered(self) -> dict[str, list[PackRecord]]:
        """By victim what packs tell of it besides: a retained cut that ends there, an epoch that began."""
        kept = {(place.epoch, place.seq) for place in self._found.kept}
        told: dict[str, list[PackRecord]] = {}
        for key, cut in cut_facts(self._tables, self._found.chosen.packed).items():
            if (cut.place.epoch, cut.place.seq) in kept:
                told.setdefault(key, []).append(cut_record(cut))
        cuts = dict(zip(self._tables.keys, self._tables.facts["cut"].tolist(), strict=True))
        for key in self._found.chosen.victims:
            parsed = parse_key(key)
            assert parsed is not None, key
            span = self._found.history.spans.get(parsed.epoch)
            is_first = parsed.kind is KeyKind.SEGMENT and parsed.number == 1
            if is_first and span is not None and not self._found.ledger.is_collected(parsed.epoch, 1):
                told.setdefault(key, []).append(epoch_record(span.record, cuts[key]))
        return told

    def _packed(
        self, victims: Sequence[str], remembered: Mapping[str, Sequence[PackRecord]]
    ) -> Iterator[SealedObject]:
        around, objects = self._around, self._objects
        reader = ReaderKeys(around.identity.index_key or None, self._wishes.private_key)
        writer = PackWriter(
            around.identity.domain,
            objects.pack_facts,
            objects.keys,
            around.entropy,
            objects.compressor,
            reader,
        )
        packing = Packing(writer, self._found.alive, groups=self._groups)
        packing.counted = self.counted
        for key in victims:
            data = around.store.get(key).data
            yield from packing.take(key, data, self._digests[key], remembered.get(key, ()))
        yield from packing.close()

    def _catalogs(self) -> list[SealedObject]:
        if not self._found.superseded:
            return []
        victims = set(self._found.chosen.victims)
        past = past_of(self._found.history)

        def stays(epoch: int, seq: int) -> bool:
            collected = self._found.ledger.is_collected(epoch, seq)
            is_victim = segment_key(epoch, seq) in victims
            return not collected and not is_victim and seq <= past.lasts.get(epoch, 0)

        identity = self._around.identity
        reader = ReaderKeys(identity.index_key or None)
        bundling = Bundling(self._around.store, identity.domain, reader, stays, self._objects.catalog)
        built = []
        for one in bundle_anew(bundling, self._found.superseded):
            self._objects.put(one)
            built.append(replace(one, data=b""))
        return built

    def _ledger(self, packs: Mapping[str, bytes]) -> ObjectName:
        found = self._found
        collected = {}
        for key in (*found.chosen.dead, *found.chosen.packed):
            parsed = parse_key(key)
            assert parsed is not None, key
            if parsed.kind is KeyKind.SEGMENT:
                collected[parsed.epoch, parsed.number] = self._digests[key]
        lasts = past_of(found.history).lasts
        return self._objects.put_ledger(next_runs(found.runs, collected, packs, list(found.kept), lasts))
