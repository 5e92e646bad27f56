"""An independent reader of containers: the promise that the data outlives the tools that wrote it.

Written from docs/container-format.md alone ("§" is a section of that page). It shares no code with the
project: this file and reader_objects.py beside it need Python 3.11, `zstandard` and `cryptography`.
It prefers being plain to being quick: it reads whole objects, verifies what the page says must be, and
ignores catalogs, which are only shortcuts.

    python reader.py CONTAINER_DIR list
    python reader.py CONTAINER_DIR restore VOLUME_NAME TARGET_FILE [--cut EPOCH.NUMBER | --marker NAME]

CONTAINER_DIR is a copy of a container, brought by any S3 tool. Nothing is ever written to it.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

if TYPE_CHECKING or __package__:
    from tests.reader_objects import (
        CATALOG_BYTES_MAX,
        DATA,
        DOMAIN_JSON_BYTES_MAX,
        EXTENT_DATA_BYTES_MAX,
        KEYS,
        LEDGER,
        NONE,
        PACK,
        SEGMENT,
        SPACE_BYTES_MAX,
        Keys,
        Object,
        Place,
        ReaderError,
        Record,
        must,
        parse_json,
        parse_place,
        refusing,
    )
else:  # run as a program, wherever the two files lie
    from reader_objects import (
        CATALOG_BYTES_MAX,
        DATA,
        DOMAIN_JSON_BYTES_MAX,
        EXTENT_DATA_BYTES_MAX,
        KEYS,
        LEDGER,
        NONE,
        PACK,
        SEGMENT,
        SPACE_BYTES_MAX,
        Keys,
        Object,
        Place,
        ReaderError,
        Record,
        must,
        parse_json,
        parse_place,
        refusing,
    )

OBJECTS_KEPT = 4  # decoded objects held at a time, at most 64 MiB of index each
Run = tuple[int, int, int, int, bytes]  # §3, a row of `runs`: kind, epoch, first, last, digest of the last


class Cut(NamedTuple):
    """A state of the domain that can be asked for."""

    place: Place
    complete: bool
    not_whole: frozenset[bytes]  # sources that must not be restored from it
    time_ns: int


class Segment(NamedTuple):
    """What is remembered of a segment that was read; `cut` is what it says of the cut that it is part of."""

    key: str
    cut: Cut
    digest: bytes
    previous_digest: bytes
    records: list[Record]


class Pack(NamedTuple):
    """What is remembered of a pack that was read."""

    key: str
    order: list[tuple[int, int, int]]  # epoch, seq, cut of the segments that its rows come from
    records: list[Record]


class Step(NamedTuple):
    """What one cut changed: its records in order; keys and order rows of the objects with its extents."""

    records: list[Record]
    sources: list[tuple[str, int]]


class Container:
    """A container behind two functions: `read` gives the bytes of a key, `list_keys` gives all keys."""

    def __init__(
        self,
        read: Callable[[str], bytes],
        list_keys: Callable[[], list[str]],
        passphrase: str | None = None,
        recipient: bytes | None = None,
    ) -> None:
        self.read, self.present = read, set(list_keys())
        self.objects: dict[str, Object] = {}  # those read last
        self.segments: dict[str, Segment] = {}
        self.owner = owner = self.get_json("domain/owner", "cdp-owner")
        with refusing("domain/owner"):
            self.keys = Keys(bytes.fromhex(owner["domain"]), passphrase, recipient)
            claiming = owner["state"] == "claiming"
            must(
                claiming or owner["state"] in ("active", "released"), f"has unknown state {owner['state']!r}"
            )
            epoch = int(owner["previous"] if claiming else owner["epoch"])
        if passphrase or recipient:
            self.unlock_with_config()
        self.epochs: dict[int, dict[str, Any]] = {}  # the records of those that count (§4.1), newest first
        self.ends: dict[int, int] = {}  # the last seq that counts, of each but the newest
        while epoch:
            self.epochs[epoch] = record = self.get_epoch(epoch)
            epoch, end = record["previous"], parse_place(record["end"])
            self.ends[epoch] = end.seq if end.epoch == epoch else 0
        self.runs = self.get_runs()
        self.packs = [self.get_pack(key) for key in self.needed_packs()]

    # ---- one object ----

    def get_bytes(self, key: str, bytes_max: int) -> bytes:
        """What is under a key."""
        with refusing(key):
            must(key in self.present, "is missing")
            data = self.read(key)
            must(len(data) <= bytes_max, "is too long")
            return data

    def get_json(self, key: str, magic: str) -> dict[str, Any]:
        """An object under domain/ (§6)."""
        with refusing(key):
            value = parse_json(self.get_bytes(key, DOMAIN_JSON_BYTES_MAX))
            must(value["magic"] == magic and value["format"] == 1, "has another magic, or a newer format")
            return value

    def unlock_with_config(self) -> None:
        """Open the private key with the newest key block: older objects have older wraps."""
        key = f"domain/config/{self.owner['config']}"
        if key not in self.present:
            return
        digest = hashlib.sha256(self.get_bytes(key, DOMAIN_JSON_BYTES_MAX)).hexdigest()
        with refusing(key):
            must(digest == self.owner["config"], "is damaged: has not the digest that its key names")
            block = self.get_json(key, "cdp-config")["key_block"]
            if block:
                self.keys.unlock(block)

    def get_epoch(self, number: int) -> dict[str, Any]:
        """The record of an epoch."""
        key = f"domain/epochs/{number:010}"
        record = self.get_json(key, "cdp-epoch")
        with refusing(key):
            must(record["epoch"] == number, "is the record of another epoch")
            must(bytes.fromhex(record["domain"]) == self.keys.domain, "is the record of another domain")
            base, end = parse_place(record["base"]), parse_place(record["end"])
            must(0 <= record["previous"] < number, "names a later epoch as the previous one")
            must(
                max(base.epoch, end.epoch) <= record["previous"], "has a base or end in an epoch of no effect"
            )
            return record

    def get(self, key: str) -> Object:
        """An object under log/ or packs/."""
        if key not in self.objects:
            data = self.get_bytes(key, CATALOG_BYTES_MAX)
            with refusing(key):
                found = Object(key, data, self.keys)
            if len(self.objects) == OBJECTS_KEPT:
                del self.objects[next(iter(self.objects))]
            self.objects[key] = found
        return self.objects[key]

    def get_segment(self, epoch: int, seq: int) -> Segment:
        """What is worth remembering of a segment."""
        key = f"log/{epoch:010}/{seq:012}"
        if key not in self.segments:
            found, record = self.get(key), self.epochs[epoch]
            with refusing(key):
                places = (parse_place(record["base"]), parse_place(record["end"]))
                must((found.base, found.end) == places, "does not agree with the record of its epoch")
                place, complete = Place(epoch, found.pre.cut, seq), bool(found.pre.flags & 1)
                cut = Cut(place, complete, found.not_whole, found.pre.cut_time_ns)
                previous = found.pre.previous_digest
                self.segments[key] = Segment(key, cut, found.digest, previous, found.records())
        return self.segments[key]

    def get_pack(self, key: str) -> Pack:
        """What is worth remembering of a pack."""
        found = self.get(key)
        with refusing(key):
            return Pack(key, found.order, found.records())

    # ---- what was collected, and where it went ----

    def get_runs(self) -> dict[tuple[int, int], list[Run]]:
        """What the ledger in force, and those before it, say was collected; by (kind, epoch)."""
        runs: dict[tuple[int, int], list[Run]] = defaultdict(list)
        named, namer = self.owner["ledger"], "domain/owner"
        while named:
            with refusing(namer):
                key, digest = str(named["key"]), bytes.fromhex(named["digest"])
            ledger = self.get(key)
            with refusing(key):
                right = ledger.pre.kind == LEDGER and ledger.digest == digest
                must(right, f"is not the ledger that {namer} names")
                for kind, reserved, epoch, first, last, last_digest in ledger.rows(b"runs", "<H6sQQQ32s"):
                    known = kind in (SEGMENT, PACK) and 1 <= first <= last and not any(reserved)
                    must(known, "has an impossible run")
                    runs[kind, epoch].append((kind, epoch, first, last, last_digest))
                named, namer = ledger.header.get("predecessor"), key
        return runs

    def collected(self, kind: int, epoch: int, number: int) -> Run | None:
        """The run that this object is in, where it was collected."""
        return next((run for run in self.runs.get((kind, epoch), []) if run[2] <= number <= run[3]), None)

    def needed_packs(self) -> Iterator[str]:
        """Packs that hold what is still needed: of epochs that count, and not collected themselves."""
        for key in sorted(self.present) if self.runs else []:
            found = KEYS[PACK].fullmatch(key)
            if (
                found
                and int(found[1]) in self.epochs
                and not self.collected(PACK, int(found[1]), int(found[2]))
            ):
                yield key

    # ---- §4 which cuts there are, and what they changed ----

    def cuts(self, epoch: int) -> dict[int, Cut]:
        """The cuts of an epoch that count, by their numbers. Of a collected one a pack has a `cut` record."""
        found: dict[int, Cut] = {}
        for pack in self.packs:
            with refusing(pack.key):
                for value in (record.value for record in pack.records if record.name == b"cut"):
                    place, not_whole = parse_place(value), frozenset(map(bytes.fromhex, value["not_whole"]))
                    if place.epoch == epoch:
                        found[place.cut] = Cut(place, value["complete"], not_whole, value["cut_time_ns"])
        newest = epoch not in self.ends
        for seq in itertools.count(1) if newest else range(1, self.ends[epoch] + 1):
            if self.collected(SEGMENT, epoch, seq):
                continue
            if f"log/{epoch:010}/{seq:012}" in self.present:
                cut = self.get_segment(epoch, seq).cut
                found[cut.place.cut] = cut  # the last segment of a cut speaks for it
            elif newest:
                break  # this is where its contiguous run of segments ends
        last = self.ends.get(epoch, 0)
        if newest:
            last = max((cut.place.seq for cut in found.values() if cut.complete), default=0)
        return {number: found[number] for number in sorted(found) if found[number].place.seq <= last}

    def cut(self, epoch: int, number: int) -> Cut:
        """A cut that can be restored."""
        found = self.cuts(epoch).get(number) if epoch in self.epochs else None
        if found is None or not found.complete:
            raise ReaderError(f"log/{epoch:010}", f"has no complete cut {number} that counts")
        return found

    def newest_cut(self) -> Cut:
        """The newest complete cut of the epoch in force; where it has none, its base."""
        with refusing("domain/owner"):
            must(len(self.epochs) > 0, "names no epoch that was ever in force")
            newest, protected = next(iter(self.epochs)), parse_place(self.owner["protected"])
        base = parse_place(self.epochs[newest]["base"])
        complete = [cut for cut in self.cuts(newest).values() if cut.complete]
        with refusing("domain/owner"):
            last = complete[-1].place.seq if complete else 0
            there = protected.epoch != newest or protected.seq <= last
            must(there, f"is protected up to cut {newest}.{protected.cut}, and segments of it are missing")
        return complete[-1] if complete else self.cut(base.epoch, base.cut)

    def markers(self) -> dict[str, Place]:
        """The cuts that have names; of several with one name the newest wins."""
        cuts = {cut.place[:2] for epoch in self.epochs for cut in self.cuts(epoch).values()}
        records = [record for segment in self.segments.values() for record in segment.records]
        records += [record for pack in self.packs for record in pack.records]
        marks = [record for record in records if record.name == b"marker"]
        found = sorted((record.place, record.key) for record in marks if record.place[:2] in cuts)
        return {key.decode("utf-8", "replace"): place for place, key in found}

    def branch(self, place: Place) -> list[Place]:
        """§4.2: of which epochs the image is made, and up to which cut and segment of each; oldest first."""
        parts: list[Place] = []
        while place.epoch:
            with refusing(f"domain/epochs/{place.epoch:010}"):
                must(place.epoch in self.epochs, "is a base, and does not count")
                must(place.seq <= self.ends.get(place.epoch, place.seq), "is a base, and ends before it")
                parts.insert(0, place)
                place = parse_place(self.epochs[place.epoch]["base"])
        return parts

    def segments_of(self, branch: list[Place]) -> Iterator[Segment]:
        """§4.3: the segments of a branch that were not collected; none may be missing or not follow."""
        digest: bytes | None = bytes(32)  # of the segment before, where it is known
        for part in branch:
            before = Cut(Place(part.epoch, 0, 0), True, frozenset(), 0)
            for seq in range(1, part.seq + 1):
                run = self.collected(SEGMENT, part.epoch, seq)
                if run:
                    digest = run[4] if seq == run[3] else None
                    continue
                segment = self.get_segment(part.epoch, seq)
                with refusing(segment.key):
                    must(digest in (None, segment.previous_digest), "does not continue the one before it")
                    must(
                        segment.cut.place.cut >= before.place.cut + before.complete, "repeats a cut's number"
                    )
                    ends = seq != part.seq or (segment.cut.place == part and segment.cut.complete)
                    must(ends, "does not end the cut that it should")
                digest, before = segment.digest, segment.cut
                yield segment

    def steps(self, cut: Cut) -> list[Step]:
        """What each cut of the branch that leads to this one changed; oldest first."""
        steps: dict[tuple[int, ...], Step] = defaultdict(lambda: Step([], []))
        branch = self.branch(cut.place)
        for segment in self.segments_of(branch):
            step = steps[segment.cut.place[:2]]
            step.records.extend(segment.records)
            step.sources.append((segment.key, NONE))
        last = {part.epoch: part.seq for part in branch}
        for pack in self.packs:  # of a pack counts what is of the branch, and was collected
            for row, (epoch, seq, number) in enumerate(pack.order):
                if seq <= last.get(epoch, 0) and self.collected(SEGMENT, epoch, seq):
                    steps[epoch, number].sources.append((pack.key, row))
            for record in pack.records:
                epoch, number, seq = record.place
                if seq <= last.get(epoch, 0) and self.collected(SEGMENT, epoch, seq):
                    steps[epoch, number].records.append(record)
        for step in steps.values():
            step.records.sort(key=lambda record: record.place)
        return [steps[number] for number in sorted(steps)]

    # ---- §4.4, §4.5 volumes ----

    def volumes(self, cut: Cut) -> dict[bytes, tuple[str, int]]:
        """Name and size in bytes of each volume at a cut, by the id of its space."""
        found: dict[bytes, tuple[str, int]] = {}
        for record in itertools.chain.from_iterable(step.records for step in self.steps(cut)):
            with refusing(f"log/{record.place.epoch:010}/{record.place.seq:012}"):
                if record.name == b"space+" and record.value["kind"] == "volume":
                    found[record.key] = (str(record.value["name"]), int(record.value["size_bytes"]))
                elif record.name == b"space=" and record.key in found:
                    found[record.key] = (found[record.key][0], int(record.value["size_bytes"]))
                elif record.name == b"space-":
                    found.pop(record.key, None)
        must_fit = [size for _name, size in found.values() if not 0 <= size <= SPACE_BYTES_MAX]
        with refusing(f"log/{cut.place.epoch:010}/{cut.place.seq:012}"):
            must(not must_fit, "has a volume of an impossible size")
        return found

    def restore(self, name: str, target: BinaryIO, cut: Cut) -> int:
        """Write a volume as it was at a cut into an empty file, sparsely; returns its size in bytes."""
        volumes = [(space, *volume) for space, volume in self.volumes(cut).items()]
        found = [(space, size) for space, other, size in volumes if name in (other, space.hex())]
        with refusing(f"log/{cut.place.epoch:010}/{cut.place.seq:012}"):
            must(len(found) == 1, f"has {len(found)} volumes called {name!r} at this cut")
            space, size = found[0]
            must(space not in cut.not_whole, f"has a cut in which volume {name!r} is not whole")
        for step in self.steps(cut):  # oldest first: what is newer overwrites
            changes = [record for record in step.records if record.key == space]
            for record in changes:
                if record.name == b"space=":  # covers everything at or beyond that size in older cuts
                    target.truncate(int(record.value["size_bytes"]))
            if any(record.name == b"space-" for record in changes):
                target.truncate(0)  # covers everything of the space in older cuts, and in its own
                continue
            spans: list[tuple[int, int]] = []  # of this cut's segments; in packs a row may occur again
            for key, order in step.sources:
                source = self.get(key)
                with refusing(key):
                    written = write_extents(source, order, space, target)
                    spans += written if order == NONE else []
            for one, other in itertools.pairwise(sorted(spans)):
                with refusing(step.sources[-1][0]):
                    must(one[1] <= other[0], "is of a cut whose segments overlap")
        target.truncate(size)
        return size


def write_extents(source: Object, order: int, space: bytes, target: BinaryIO) -> list[tuple[int, int]]:
    """Write the extents of a space and order row, leaving holes where zeros are; returns where they lie."""
    extents = source.extents.get((order, space), [])
    for offset, length, frame, position, kind, first_sum in extents:
        content = source.content(offset, length, frame, position, first_sum) if kind == DATA else b""
        for at in range(0, length, EXTENT_DATA_BYTES_MAX):
            piece_bytes = min(length - at, EXTENT_DATA_BYTES_MAX)
            piece = content or bytes(piece_bytes)  # zero and discard read as zeros
            target.seek(offset + at)
            if any(piece) or any(target.read(piece_bytes)):
                target.seek(offset + at)
                target.write(piece)
    return [(extent[0], extent[0] + extent[1]) for extent in extents]


# ---- the program ----


def show(container: Container) -> None:
    """Print what a container holds; a damaged epoch does not hide the others."""
    print(f"domain {container.owner.get('name')!r}, {container.owner.get('state')}")
    for number, record in reversed(container.epochs.items()):
        base = parse_place(record["base"])
        print(f"epoch {number} at {record.get('site')!r}, based on {base.epoch}.{base.cut}")
        try:
            for cut in container.cuts(number).values():
                taken = datetime.fromtimestamp(cut.time_ns / 1e9, UTC).isoformat(timespec="milliseconds")
                complete = "complete" if cut.complete else "incomplete"
                whole = f"not whole: {sorted(map(bytes.hex, cut.not_whole))}" if cut.not_whole else "whole"
                print(f"  cut {number}.{cut.place.cut}  {taken}  {complete}  {whole}")
        except ReaderError as error:
            print(f"  REFUSED {error}")
    for name, place in container.markers().items():
        print(f"marker {name!r} is cut {place.epoch}.{place.cut}")
    newest = container.newest_cut()
    for space, (name, size) in container.volumes(newest).items():
        place = newest.place
        print(f"volume {name!r} has {size} bytes at cut {place.epoch}.{place.cut} ({space.hex()})")


def choose_cut(container: Container, cut: str | None, marker: str | None) -> Cut:
    """The cut that was asked for; the newest where none was."""
    if cut is not None:
        epoch, number = cut.split(".")
        return container.cut(int(epoch), int(number))
    if marker is not None:
        container.newest_cut()
        with refusing("domain/owner"):
            place = container.markers()[marker]
        return container.cut(place.epoch, place.cut)
    return container.newest_cut()


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Read a container, from its specification alone.")
    parser.add_argument("container", type=Path, help="directory with a copy of the container")
    commands = parser.add_subparsers(dest="command", required=True)
    for command in (commands.add_parser("list"), restore := commands.add_parser("restore")):
        command.add_argument("--passphrase-file", type=Path)
        command.add_argument("--recipient-file", type=Path, help="X25519 private key, 64 hex digits")
    restore.add_argument("volume")
    restore.add_argument("target", type=Path)
    restore.add_argument("--cut", metavar="EPOCH.NUMBER")
    restore.add_argument("--marker")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run the program; returns 1 where the container is refused."""
    options = parse_arguments(arguments)
    root: Path = options.container
    passphrase = options.passphrase_file and options.passphrase_file.read_text("utf-8").rstrip("\r\n")
    recipient = options.recipient_file and bytes.fromhex(options.recipient_file.read_text("ascii"))
    keys = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    try:
        container = Container(lambda key: (root / key).read_bytes(), lambda: keys, passphrase, recipient)
        if options.command == "list":
            show(container)
            return 0
        cut = choose_cut(container, options.cut, options.marker)
        partial = options.target.with_name(options.target.name + ".partial")
        with partial.open("x+b") as target:  # what is refused midway never looks like a finished image
            size = container.restore(options.volume, target, cut)
        partial.rename(options.target)
        print(f"wrote {size} bytes: {options.volume!r} at cut {cut.place.epoch}.{cut.place.cut}")
    except ReaderError as error:
        print(f"REFUSED {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
