"""A pass of collection over a container of one file tree, each step a process of its own.

    python -m bench.tree_pass_alone make DIRECTORY FILES
    python -m bench.tree_pass_alone pass DIRECTORY
    python -m bench.tree_pass_alone whole DIRECTORY

`make` fills DIRECTORY/container with an encrypted domain of a tree of so many files, and its history: of
each ten files one is renamed, one written anew, one removed. `pass` makes one up to its plan, `whole` a whole
one, that packs and deletes; they print their seconds and the peak of memory, as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeAlias

from bench.pass_alone import Long, around_of, cut_ns, put_file, timed
from cdp_agent.collector.collect import look_only, run_pass
from cdp_agent.collector.pass_types import Wishes
from cdp_container.domain.owner_types import ChangePlan
from cdp_container.format.domain import build_owner, parse_owner
from cdp_container.format.holds import Holds, build_holds
from cdp_container.format.index import Record
from cdp_container.format.keys import HOLDS_KEY, OWNER_KEY
from cdp_container.format.layout import ExtentKind
from cdp_container.format.names import Name, NameType, name_added, name_gone, tree_added
from cdp_container.format.place import NOWHERE, Place
from cdp_container.format.preamble import NO_DIGEST
from cdp_container.format.records import make_record
from cdp_container.format.segment import NewExtent, SegmentFacts, build_segment
from cdp_container.store.directory import DirectoryStore

CHANGES: Final = 3_000
"""Of one segment, each a cut."""
CONTENT: Final = memoryview(bytes(range(1, 101)))

Change: TypeAlias = tuple[list[Record], list[NewExtent]]


def changes(tree: bytes, count: int) -> Iterator[Change]:
    """What happens to so many files, one after another."""
    root = Name(NameType.DIRECTORY, 0o755)
    yield [tree_added(tree, "home"), name_added(tree, b"", root)], []
    for number in range(0, count, 1000):
        yield [name_added(tree, b"directory-%d" % (number // 1000), root)], []
    for number in range(count):
        yield [_name(tree, number, 0)], [_content(number)]
    for number in range(0, count, 10):
        yield [name_gone(tree, _path(number)), _name(tree, number, 1, b".renamed")], []
        yield [_name(tree, number + 1, 1)], [_content(number + 1)]
        gone = make_record("space-", _space(number + 2), {})
        yield [name_gone(tree, _path(number + 2)), gone], []


def _path(number: int) -> bytes:
    return b"directory-%d/some-file-%d.txt" % (number // 1000, number)


def _space(number: int) -> bytes:
    return number.to_bytes(16, "big")


def _name(tree: bytes, number: int, mtime_ns: int, end: bytes = b"") -> Record:
    name = Name(NameType.FILE, 0o644, 1000, 1000, mtime_ns, len(CONTENT), _space(number))
    return name_added(tree, _path(number) + end, name)


def _content(number: int) -> NewExtent:
    return NewExtent(_space(number), 0, len(CONTENT), ExtentKind.DATA, CONTENT)


def make(directory: Path, count: int) -> None:
    """The container."""
    (directory / "container").mkdir(parents=True)
    store = DirectoryStore(directory / "container")
    site = Long(store, count * 13 // 10 // CHANGES)
    store.put_new(HOLDS_KEY, build_holds(Holds(site.domain, 1, bytes(16))))
    site.begin_epoch()
    digest, seq, records, extents = NO_DIGEST, 0, list[Record](), list[NewExtent]()
    for number, (said, written) in enumerate(changes(site.rng.randbytes(16), count), 1):
        records += said
        extents += written
        if number % CHANGES:
            continue
        seq += 1
        facts = SegmentFacts(
            epoch=1, seq=seq, cut=seq, complete=True, base=NOWHERE, end=NOWHERE, not_whole=(),
            journal_generation=7, journal_offset=seq, cut_time_ns=cut_ns(seq),
            previous_digest=digest, site="site-a", software="bench", marker=None,
        )  # fmt: skip
        extents.sort(key=lambda extent: (extent.space, extent.offset))
        built = build_segment(facts, extents, records, site._keys, site.rng.randbytes(16))
        put_file(directory / "container" / built.key, built.data, cut_ns(seq), is_real=True)
        digest, records, extents = built.digest, [], []
    site.protect(Place(1, seq, seq))
    put_file(directory / "container" / OWNER_KEY, store.get(OWNER_KEY).data, cut_ns(seq), is_real=True)


def look(directory: Path) -> dict[str, Any]:
    """A pass up to its plan."""
    found = look_only(around_of(directory), Wishes(software="bench"))
    return {
        "objects": len(found.alive.objects),
        "kept": len(found.kept),
        "victims": len(found.chosen.victims),
        "records": int(found.alive.objects["live_records"].sum()),
    }


def whole(directory: Path) -> dict[str, Any]:
    """A pass to its end; the streamer's part is done here."""
    around = around_of(directory)
    store = around.store

    def change(wanted: ChangePlan) -> None:
        blob = store.get(OWNER_KEY)
        owner = parse_owner(blob.data, OWNER_KEY, around.identity.domain)
        after = replace(owner, version=owner.version + 1, plan=wanted.plan, ledger=wanted.ledger)
        store.put_if(OWNER_KEY, build_owner(after), blob.found.tag)

    collector = replace(around.collector, change=change)
    passed = run_pass(replace(around, collector=collector), Wishes(grace_seconds=0, software="bench"))
    assert passed.finished is not None, passed.why_not
    counted = passed.packing
    return {
        "deleted": passed.finished.deleted,
        "packs": counted.packs,
        "packed_mib": counted.packed_bytes / 2**20,
        "copied_frames": counted.copied_frames,
    }


def main() -> None:
    verb, directory = sys.argv[1], Path(sys.argv[2]).absolute()
    if verb == "make":
        make(directory, int(sys.argv[3]))
    else:
        print(json.dumps(timed({"pass": look, "whole": whole}[verb], directory)))


if __name__ == "__main__":
    main()
