"""Reading every object and saying what is wrong with which: shape, digests, seals, frames, chain, presence.

One fault does not end it. What the findings mean is decided by the report; printing them does not belong
here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from cdp_container.domain.contents import Contents
from cdp_container.domain.faults import Fault, Soundness, faults_of
from cdp_container.domain.heads import BROKEN, Broken, Seen
from cdp_container.domain.history import History
from cdp_container.domain.image import cuts_of
from cdp_container.domain.ledgers import Ledger
from cdp_container.domain.parallel import in_parallel
from cdp_container.errors import (
    CdpError,
    DamagedObject,
    Incomplete,
    KeyMissing,
    MissingObject,
    NotFound,
    PointsDamaged,
    counted,
)
from cdp_container.format.domain import (
    config_digest,
    parse_config,
    parse_epoch_record,
    parse_owner,
)
from cdp_container.format.frames import FrameReader
from cdp_container.format.head import Head, check_object, object_digest, open_head
from cdp_container.format.holds import parse_holds
from cdp_container.format.index import Entry
from cdp_container.format.keys import (
    CONFIG_PREFIX,
    EPOCHS_PREFIX,
    HOLDS_KEY,
    OBJECT_KINDS,
    OWNER_KEY,
    PACKS_PREFIX,
    KeyKind,
    ParsedKey,
    epoch_key,
    log_prefix,
    pack_key,
    parse_key,
    segment_key,
)
from cdp_container.format.layout import Cipher, ObjectKind
from cdp_container.store.api import Found
from rehydrate.container import Container
from rehydrate.plan import Totals

OBJECTS_AT_ONCE: Final = 8
"""Objects that are read at the same time: each is held whole, a catalog may have 128 MiB."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be. `needed`: a point cannot be restored without it."""

    error: CdpError
    key: str
    needed: bool

    @property
    def kind(self) -> str:
        """The finding in one word: damaged, missing, foreign, newer or beyond limits."""
        names = {
            "DamagedObject": "damaged",
            "MissingObject": "missing",
            "ForeignObject": "foreign",
            "NewerFormat": "newer",
        }
        return names.get(type(self.error).__name__, "beyond limits")


@dataclass(slots=True)
class Report:
    """What was looked at, and what was found. `opened`: frames were opened, not only checked by digest.

    `way_out`: which point nothing found stands in the way of, where there is one.
    """

    objects: int = 0
    stored_bytes: int = 0
    frames: int = 0
    opened: bool = True
    findings: list[Finding] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    way_out: str = ""

    @property
    def error(self) -> CdpError | None:
        """What the findings come to: None, Incomplete if no point needs what is wrong, else PointsDamaged.

        Never the class of a finding: DamagedObject and its kin say that there was no verification.
        """
        needed = sum(finding.needed for finding in self.findings)
        if needed:
            why = f"{counted(needed, 'finding')} in what recovery points need"
            hint = f"{self.way_out}; else: {PointsDamaged.default_hint}" if self.way_out else None
            return PointsDamaged("the container is not whole", why, hint)
        if self.findings:
            why = f"{counted(len(self.findings), 'finding')} in what no recovery point needs"
            return Incomplete("not everything is as it was written", why)
        return None


@dataclass(frozen=True, slots=True)
class _Checked:
    """One object after its check."""

    found: Found
    seen: Seen | None = None
    error: CdpError | None = None
    frames: int = 0
    entries: tuple[tuple[int, int, bytes], ...] = ()


def to_verify(container: Container, scope: Mapping[int, int] | None) -> list[Found]:
    """The objects to read: of a branch, or all that the container has (`scope` None)."""
    store = container.store
    if scope is None:
        return list(store.list(""))
    prefixes = [OWNER_KEY, EPOCHS_PREFIX, CONFIG_PREFIX, *map(log_prefix, sorted(scope)), PACKS_PREFIX]
    listed = [found for prefix in prefixes for found in store.list(prefix)]
    return [found for found in listed if _is_needed(parse_key(found.key), scope, container.ledger)]


def verify(
    container: Container,
    found: list[Found],
    scope: Mapping[int, int],
    progress: Callable[[Totals], None],
    is_newest_meant: bool = True,
) -> Report:
    """Read and check these objects, and that nothing is missing of what the scope needs.

    Args:
        container: opened with whatever keys there are; without them frames are checked by digest only.
        found: see `to_verify`.
        scope: for each epoch the last seq that counts.
        progress: told of every object that was read.
        is_newest_meant: whether it counts that newer points were lost; not where one was named by its number.
    """
    report = Report(opened=not container.sealed or container.keys.private_key is not None)
    contents = Contents(container.history.domain, ledger=container.ledger)
    catalogs: dict[str, tuple[tuple[int, int, bytes], ...]] = {}
    check = functools.partial(_check, container)
    try:
        for checked in in_parallel(check, found, OBJECTS_AT_ONCE):
            progress(Totals(gets=1, fetch_bytes=checked.found.size))
            _count(report, contents, checked, scope)
            catalogs[checked.found.key] = checked.entries
        faults = list(faults_of(contents, scope, container.history.origins()))
        report.way_out = _way_out(container.history, contents, faults)
        for fault in faults:
            if fault.error not in [finding.error for finding in report.findings]:
                report.findings.append(Finding(fault.error, fault.error.what, needed=True))
        report.findings.extend(_lying_catalogs(contents, catalogs))
        if is_newest_meant:
            report.findings.extend(_lost_cut(container))
    finally:
        contents.close()
    return report


def _count(report: Report, contents: Contents, checked: _Checked, scope: Mapping[int, int]) -> None:
    key = checked.found.key
    parsed = parse_key(key)
    report.objects += 1
    report.stored_bytes += checked.found.size
    report.frames += checked.frames
    error = checked.error
    if parsed is None or parsed.kind in (KeyKind.REQUEST, KeyKind.GC, KeyKind.GC_FINAL):
        report.ignored.append(key)
    if checked.seen is not None:
        try:
            contents.add(checked.seen)
        except DamagedObject as damage:
            error = damage
    if error is not None:
        contents.broken[key] = Broken(key, error)
        report.findings.append(Finding(error, key, _is_needed(parsed, scope, contents.ledger)))


def _is_needed(parsed: ParsedKey | None, scope: Mapping[int, int], ledger: Ledger) -> bool:
    if parsed is None:
        return False
    if parsed.kind is KeyKind.SEGMENT:
        counts = parsed.number <= scope.get(parsed.epoch, 0)
        return counts and not ledger.is_collected(parsed.epoch, parsed.number)
    if parsed.kind is KeyKind.PACK:
        return pack_key(parsed.epoch, parsed.number) in ledger.packs
    if parsed.kind is KeyKind.EPOCH_RECORD:
        return parsed.epoch in scope
    return parsed.kind in (KeyKind.OWNER, KeyKind.CONFIG, KeyKind.LEDGER)


def _check(container: Container, found: Found) -> _Checked:
    try:
        parsed = parse_key(found.key)
        if parsed is None:
            return _Checked(found)
        data = container.store.get(found.key).data
        if parsed.kind in OBJECT_KINDS:
            return _check_object(container, found, data)
        _check_domain_object(container, parsed, found.key, data)
    except NotFound as error:
        return _Checked(found, error=MissingObject(found.key, f"it was listed, but is gone: {error.why}"))
    except BROKEN as error:
        return _Checked(found, error=error)
    return _Checked(found)


def _check_object(container: Container, found: Found, data: bytes) -> _Checked:
    domain, keys = container.history.domain, container.keys
    preamble = check_object(data, found.key, domain)
    digest = object_digest(data)
    data_kind = preamble.kind in (ObjectKind.SEGMENT, ObjectKind.PACK)
    if preamble.cipher is not Cipher.NONE and keys.index_key is None:
        return _Checked(found, Seen(found.key, preamble, None, digest) if data_kind else None)
    head = open_head(data, found.key, domain, keys)
    if not data_kind:
        entries = tuple((e.epoch, e.seq, e.digest) for e in _entries(head, container))
        return _Checked(found, entries=entries)
    frames = 0
    try:
        frames = sum(1 for _ in _frames(head, data, container))
    except KeyMissing:
        frames = 0  # the report says that frames were not opened; the trailer has covered their bytes
    return _Checked(found, Seen(found.key, preamble, head, digest), frames=frames)


def _frames(head: Head, data: bytes, container: Container) -> Iterator[bytes]:
    reader = FrameReader(head, container.keys)
    view = memoryview(data)
    for number in range(head.index.frame_count):
        start, end = head.frame_range(number)
        yield reader.open(number, view[start:end])


def _entries(head: Head, container: Container) -> Iterator[Entry]:
    """The segments of a catalog, each with a head that opens."""
    for entry in head.index.iter_entries():
        if entry.kind is ObjectKind.SEGMENT:
            yield entry


def _check_domain_object(container: Container, parsed: ParsedKey, key: str, data: bytes) -> None:
    domain = container.history.domain
    match parsed.kind:
        case KeyKind.OWNER:
            parse_owner(data, key, domain)
        case KeyKind.EPOCH_RECORD:
            if parse_epoch_record(data, key, domain).epoch != parsed.epoch:
                raise DamagedObject(key, "it is the record of another epoch")
        case KeyKind.CONFIG:
            if config_digest(data).hex() != parsed.name:
                raise DamagedObject(key, "it has not the digest that its key names")
            parse_config(data, key, domain)
        case KeyKind.HOLDS:
            assert key == HOLDS_KEY
            parse_holds(data, key, domain)
        case _:
            return


def _way_out(history: History, contents: Contents, faults: list[Fault]) -> str:
    """The newest point that can be restored, in words. Only who read every byte can tell: `points` cannot."""
    try:
        main = history.branch_of(history.newest)
    except BROKEN:
        return ""  # nothing leads to any point
    sound = Soundness(faults, history.origins())
    for cut in reversed(cuts_of(contents, main)):
        if cut.whole and sound.fault_at(cut.place) is None:
            return f"--at {cut.place.epoch}.{cut.place.cut} is the newest point that is sound"
    return ""


def _lost_cut(container: Container) -> Iterator[Finding]:
    """The newest protected cut, where it is not there any more; what says which it is, where that is gone."""
    history = container.history
    if history.lost is None and history.in_doubt is not None:
        yield Finding(history.in_doubt, OWNER_KEY, needed=True)
    elif history.lost is not None:
        place = history.owner.protected
        key = segment_key(place.epoch, place.seq) if place else epoch_key(history.owner.epoch_in_force)
        yield Finding(history.lost, key, needed=True)


def _lying_catalogs(
    contents: Contents, catalogs: Mapping[str, tuple[tuple[int, int, bytes], ...]]
) -> Iterator[Finding]:
    """Catalogs whose word on a segment is not what the segment says. Stale ones are no fault."""
    for key, entries in catalogs.items():
        for epoch, seq, digest in entries:
            segment = contents.segments.get((epoch, seq))
            if segment is not None and segment.digest not in (b"", digest):
                why = f"it tells of another segment {seq} of epoch {epoch} than is there"
                yield Finding(DamagedObject(key, why), key, needed=False)
                break
