"""Which recovery points are kept, why, and until when. PURE.

Follows docs/collection.md, "Which cuts are kept". What a retained cut needs does not belong here
(extents.liveness), nor whether a clock may be trusted (clock_doubt), nor the policy (retention_policy).
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cdp_container.domain.retention_policy import COLLECT_AGE_SECONDS_MIN, TERM_SECONDS_MAX, Retention
from cdp_container.format.members import I64_MAX
from cdp_container.format.place import NOWHERE, Place

_SECOND_NS: Final = 1_000_000_000
_HOUR_NS: Final = 3600 * _SECOND_NS
_DAY_NS: Final = 24 * _HOUR_NS

_Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class CutMarker:
    """A marker's own term: `own` tells whether it has one, None is for ever."""

    name: str
    own: bool = False
    keep_seconds: int | None = None


def marker_of(name: str, value: Mapping[str, object]) -> CutMarker:
    """A marker and its term, from its record; one that makes no sense is kept for ever."""
    seconds = value.get("keep_seconds")
    fits = type(seconds) is int and 0 <= seconds <= TERM_SECONDS_MAX
    return CutMarker(name, "keep_seconds" in value, seconds if fits else None)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class PastCut:
    """A complete cut that is not retired.

    `cut_time_ns` is its own time, `stored_ns` the store's Last-Modified of its last segment (0: not known).
    """

    place: Place
    cut_time_ns: int
    stored_ns: int
    not_whole: tuple[bytes, ...] = ()
    markers: tuple[CutMarker, ...] = ()


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What decides beside policy and age.

    Attributes:
        now_ns: by the store's clock.
        protected: as `domain/owner` says; NOWHERE where nothing is, and then every cut is kept.
        held: the cuts that holds name.
        sources: the ids of the sources that exist.
        epochs: for each epoch that counts its base and its end, the last cut of it that counts.
    """

    now_ns: int
    protected: Place
    held: Collection[Place] = ()
    sources: Collection[bytes] = ()
    epochs: Mapping[int, tuple[Place, Place]] = field(default_factory=dict)


class Why(enum.IntFlag):
    """Why a cut is kept; mostly there are several reasons."""

    WINDOW = enum.auto()
    HOURLY = enum.auto()
    DAILY = enum.auto()
    WEEKLY = enum.auto()
    MONTHLY = enum.auto()
    MARKER = enum.auto()
    HELD = enum.auto()
    WHOLE = enum.auto()
    NEWEST = enum.auto()
    BASE = enum.auto()
    YOUNG = enum.auto()
    UNPROTECTED = enum.auto()


_WORDS: Final = {
    Why.WINDOW: "every cut of late",
    Why.HOURLY: "hourly",
    Why.DAILY: "daily",
    Why.WEEKLY: "weekly",
    Why.MONTHLY: "monthly",
    Why.MARKER: "marker",
    Why.HELD: "held",
    Why.WHOLE: "newest whole",
    Why.NEWEST: "newest",
    Why.BASE: "base of a branch",
    Why.YOUNG: "young",
    Why.UNPROTECTED: "not yet protected",
}


@dataclass(frozen=True, slots=True)
class Kept:
    """That a cut is kept.

    `until_ns`: how long window, thinning and markers keep it by the store's clock, as far as is known now (a
    newer cut may take its place in an hour that is not over); None: for ever; 0: they do not, `why` has other
    reasons. `whole`: the sources of which it is the newest whole cut, or all, where it is theirs together.
    """

    why: Why
    until_ns: int | None
    whole: tuple[bytes, ...] = ()

    @property
    def words(self) -> str:
        """The reasons, for people."""
        return ", ".join(_WORDS[reason] for reason in self.why)


def kept_cuts(cuts: Sequence[PastCut], retention: Retention, at: Circumstances) -> dict[Place, Kept]:
    """The cuts to keep out of all that are not retired (of all branches, in any order), oldest first.

    All others may be retired. A cut that is dropped once is never needed again by a later time under the same
    policy, but by a source that comes back, or where somebody goes on from an older cut; who retires a cut
    must not give it again.
    """
    if not cuts:
        return {}
    assert 0 <= at.now_ns <= I64_MAX, at.now_ns
    table = _Table(cuts)
    table.keep_by_policy(retention, at.now_ns)
    table.keep_by_circumstances(at)
    wholes = table.keep_whole(at.sources, at.epochs)
    table.keep_bases(at.epochs)
    return {
        cut.place: Kept(Why(why), None if until == I64_MAX else until, wholes.get(number, ()))
        for number, (cut, why, until) in enumerate(
            zip(table.cuts, table.why.tolist(), table.until.tolist(), strict=True)
        )
        if why
    }


class _Table:
    """All cuts by place, in columns: a hundred thousand of them are nothing out of the ordinary."""

    def __init__(self, cuts: Sequence[PastCut]) -> None:
        places = np.array([(cut.place.epoch, cut.place.cut, cut.place.seq) for cut in cuts], dtype=np.int64)
        order = np.lexsort((places[:, 2], places[:, 1], places[:, 0]))
        self.cuts = [cuts[number] for number in order.tolist()]
        self.epoch, self.cut = places[order, 0], places[order, 1]
        self.time = np.array([cut.cut_time_ns for cut in self.cuts], dtype=np.int64)
        self.stored = np.array([max(cut.stored_ns, 0) for cut in self.cuts], dtype=np.int64)
        self.why = np.zeros(len(cuts), dtype=np.int64)
        self.until = np.zeros(len(cuts), dtype=np.int64)

    def keep_by_policy(self, retention: Retention, now_ns: int) -> None:
        """By window, thinning and markers."""
        self._keep_until(Why.WINDOW, np.arange(len(self.cuts)), retention.every_seconds, now_ns)
        terms = (
            (Why.HOURLY, retention.hourly_seconds, _hours),
            (Why.DAILY, retention.daily_seconds, _days),
            (Why.WEEKLY, retention.weekly_seconds, _weeks),
            (Why.MONTHLY, retention.monthly_seconds, _months),
        )
        clocks = [(clock, np.argsort(clock, kind="stable")) for clock in (self.time, self.stored)]
        for reason, seconds, spans in terms:
            for clock, order in clocks:
                # What has one time stands in the order of places, so that the newest stands last.
                span = spans(clock[order])
                newest = order[np.append(span[1:] != span[:-1], True)]
                self._keep_until(reason, newest, seconds, now_ns)
        for number, cut in enumerate(self.cuts):
            for marker in cut.markers:
                seconds = marker.keep_seconds if marker.own else retention.markers_seconds
                self._keep_until(Why.MARKER, np.array([number]), seconds, now_ns)

    def _keep_until(self, reason: Why, rows: _Numbers, seconds: int | None, now_ns: int) -> None:
        """Keep those of these rows that are younger than the term."""
        term_ns = I64_MAX if seconds is None else seconds * _SECOND_NS
        stored = self.stored[rows]
        until = np.where(stored > I64_MAX - term_ns, I64_MAX, stored + term_ns)
        rows, until = rows[until > now_ns], until[until > now_ns]
        self.why[rows] |= reason
        self.until[rows] = np.maximum(self.until[rows], until)

    def keep_by_circumstances(self, at: Circumstances) -> None:
        """The newest, what is held, and what is too young or too new, whatever the policy is."""
        self.why[-1] |= Why.NEWEST
        is_young = (self.stored == 0) | (self.stored > at.now_ns - COLLECT_AGE_SECONDS_MIN * _SECOND_NS)
        self.why[is_young] |= Why.YOUNG
        at_protected = (self.epoch == at.protected.epoch) & (self.cut >= at.protected.cut)
        self.why[(self.epoch > at.protected.epoch) | at_protected] |= Why.UNPROTECTED
        self._keep_places(at.held, Why.HELD)

    def keep_whole(
        self, sources: Collection[bytes], epochs: Mapping[int, tuple[Place, Place]]
    ) -> dict[int, tuple[bytes, ...]]:
        """The newest cut at which each source is whole, and the newest at which all are.

        Of the main line, which a takeover goes on from; of a side branch where there is none on it. Gives the
        sources by the number of the cut. Who takes a domain over needs all of them at one cut.
        """
        found: dict[int, tuple[bytes, ...]] = {}
        main = self._on_main_line(epochs)
        newest_first = [*np.flatnonzero(main)[::-1].tolist(), *np.flatnonzero(~main)[::-1].tolist()]
        left = set(sources)
        for number in newest_first:
            if not left:
                break
            whole = left.difference(self.cuts[number].not_whole)
            if whole:
                found[number] = tuple(sorted(whole))
                self.why[number] |= Why.WHOLE
                left -= whole
        together = frozenset(sources)
        for number in newest_first:
            if together and together.isdisjoint(self.cuts[number].not_whole):
                found.setdefault(number, tuple(sorted(together)))
                self.why[number] |= Why.WHOLE
                break
        return found

    def _on_main_line(self, epochs: Mapping[int, tuple[Place, Place]]) -> NDArray[np.bool_]:
        """Which cuts the newest epoch goes on from, or are its own."""
        main = np.zeros(len(self.cuts), dtype=np.bool_)
        epoch, last = max(epochs, default=0), I64_MAX
        while epoch in epochs:
            main |= (self.epoch == epoch) & (self.cut <= last)
            base, _ = epochs[epoch]
            assert base.epoch < epoch, base
            epoch, last = base.epoch, base.cut
        return main

    def keep_bases(self, epochs: Mapping[int, tuple[Place, Place]]) -> None:
        """Where branches part, as far as either has a kept cut; and where an epoch without a cut begins."""
        live = set(np.unique(self.epoch[self.why != 0]).tolist())
        bases: list[Place] = []
        newest = max(epochs, default=0)
        if newest > int(self.epoch[-1]):
            live.add(newest)
            self._keep_places([epochs[newest][0]], Why.NEWEST)
        seen: set[int] = set()
        while live:
            epoch = live.pop()
            seen.add(epoch)
            base, _ = epochs.get(epoch, (NOWHERE, NOWHERE))
            if not base:
                continue
            if base.epoch not in epochs or epochs[base.epoch][1] != base:
                bases.append(base)
            live |= {base.epoch} - seen
        self._keep_places(bases, Why.BASE)

    def _keep_places(self, places: Collection[Place], reason: Why) -> None:
        wanted = frozenset(places)
        rows = [number for number, cut in enumerate(self.cuts) if cut.place in wanted] if wanted else []
        self.why[rows] |= reason


def _hours(times_ns: _Numbers) -> _Numbers:
    return times_ns // _HOUR_NS


def _days(times_ns: _Numbers) -> _Numbers:
    return times_ns // _DAY_NS


def _weeks(times_ns: _Numbers) -> _Numbers:
    """ISO weeks: they begin on Mondays, and 1970 began on a Thursday."""
    return (_days(times_ns) + 3) // 7


def _months(times_ns: _Numbers) -> _Numbers:
    return _days(times_ns).astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
