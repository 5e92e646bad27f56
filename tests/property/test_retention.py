"""Retention against a model that looks at every rule for every cut by itself, and what must not come back."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdp_container.domain.retention import Circumstances, CutMarker, PastCut, Why, kept_cuts
from cdp_container.domain.retention_policy import COLLECT_AGE_SECONDS_MIN, Retention
from cdp_container.format.place import NOWHERE, Place

S = 1_000_000_000
HOUR, DAY = 3600, 86400
START = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
SOURCES = (b"a" * 16, b"b" * 16)

Epochs = dict[int, tuple[Place, Place]]

terms = st.one_of(st.none(), st.sampled_from([0, 1, HOUR, 5 * HOUR, DAY, 9 * DAY, 70 * DAY]))
policies = st.builds(Retention, terms, terms, terms, terms, terms, terms)
markers = st.builds(
    CutMarker, st.just("m"), st.booleans(), st.one_of(st.none(), st.sampled_from([0, HOUR, 20 * DAY]))
)
steps = st.one_of(  # how far a clock went since the cut before: stuck, back, on, far on
    st.just(0), st.integers(-3 * DAY, 0), st.integers(0, 2 * HOUR), st.integers(0, 12 * DAY)
)


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[PastCut], Epochs]:
    """Cuts of up to four epochs, each based on any cut before it, by two clocks that go as they like."""
    cuts: list[PastCut] = []
    epochs: Epochs = {}
    own, stored = START, START
    for epoch in range(1, draw(st.integers(1, 4)) + 1):
        base = draw(st.sampled_from([cut.place for cut in cuts])) if cuts else NOWHERE
        end = NOWHERE
        for number in range(1, draw(st.integers(0, 12)) + 1):
            own += draw(steps)
            stored += draw(steps)
            end = Place(epoch, number, number)
            not_whole = tuple(draw(st.sets(st.sampled_from(SOURCES), max_size=2)))
            named = tuple(draw(st.lists(markers, max_size=1)))
            cuts.append(PastCut(end, own * S, stored * S, not_whole, named))
        epochs[epoch] = (base, end)
    return cuts, epochs


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[PastCut], Circumstances]:
    """A history, and a look at it."""
    cuts, epochs = draw(histories())
    places = [cut.place for cut in cuts]
    some = st.sampled_from(places) if places else st.just(NOWHERE)
    now = START + draw(st.integers(0, 120 * DAY))
    held = draw(st.lists(some, max_size=2))
    protected = draw(st.one_of(some, st.just(NOWHERE), st.just(Place(9, 1, 1))))
    return cuts, Circumstances(now * S, protected, held, SOURCES, epochs)


def bucket(reason: Why, time_ns: int) -> object:
    """The hour, day, week or month of a time, by the calendar."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=time_ns // S)
    match reason:
        case Why.HOURLY:
            return moment.date(), moment.hour
        case Why.DAILY:
            return moment.date()
        case Why.WEEKLY:
            return moment.isocalendar()[:2]
        case _:
            return moment.year, moment.month


def model(cuts: list[PastCut], policy: Retention, at: Circumstances) -> dict[Place, Why]:
    """Every rule of docs/collection.md, one by one, in the plainest words."""
    thinned = {
        Why.HOURLY: policy.hourly_seconds,
        Why.DAILY: policy.daily_seconds,
        Why.WEEKLY: policy.weekly_seconds,
        Why.MONTHLY: policy.monthly_seconds,
    }

    def is_younger(cut: PastCut, seconds: int | None) -> bool:
        return seconds is None or at.now_ns - cut.stored_ns < seconds * S

    def is_newest_of_its(reason: Why, cut: PastCut, view: str) -> bool:
        mine = getattr(cut, view)
        same = [one for one in cuts if bucket(reason, getattr(one, view)) == bucket(reason, mine)]
        return max(same, key=lambda one: (getattr(one, view), one.place)) is cut

    found: dict[Place, Why] = {}
    for cut in cuts:
        why = Why(0)
        if is_younger(cut, policy.every_seconds):
            why |= Why.WINDOW
        for reason, seconds in thinned.items():
            views = ("cut_time_ns", "stored_ns")
            if is_younger(cut, seconds) and any(is_newest_of_its(reason, cut, view) for view in views):
                why |= reason
        for marker in cut.markers:
            if is_younger(cut, marker.keep_seconds if marker.own else policy.markers_seconds):
                why |= Why.MARKER
        why |= Why.HELD if cut.place in at.held else Why(0)
        why |= Why.YOUNG if is_younger(cut, COLLECT_AGE_SECONDS_MIN) else Why(0)
        why |= Why.UNPROTECTED if cut.place >= at.protected else Why(0)
        why |= Why.NEWEST if cut.place == max(one.place for one in cuts) else Why(0)
        for wanted in (*({source} for source in at.sources), set(at.sources)):
            whole = [one.place for one in cuts if not wanted & set(one.not_whole)]
            on_main = [place for place in whole if _is_on_main_line(place, at)]
            if wanted and whole and cut.place == max(on_main or whole):
                why |= Why.WHOLE
        found[cut.place] = why
    if cuts and not any(place.epoch == max(at.epochs) for place in found):
        base = at.epochs[max(at.epochs)][0]
        found[base] |= Why.NEWEST
        _model_bases(max(at.epochs), found, at)
    for place in [place for place, why in found.items() if why]:
        _model_bases(place.epoch, found, at)
    return {place: why for place, why in found.items() if why}


def _is_on_main_line(place: Place, at: Circumstances) -> bool:
    epoch = max(at.epochs)
    last = at.epochs[epoch][1]
    while epoch and epoch != place.epoch:
        last = at.epochs[epoch][0]
        epoch = last.epoch
    return epoch == place.epoch and place <= last


def _model_bases(epoch: int, found: dict[Place, Why], at: Circumstances) -> None:
    base, _ = at.epochs[epoch]
    while base:
        if at.epochs[base.epoch][1] != base:
            found[base] |= Why.BASE
        base, _ = at.epochs[base.epoch]


@pytest.mark.slow
@given(cases(), policies)
@settings(max_examples=120, deadline=None)
def test_every_rule_is_that_of_the_model(
    case: tuple[list[PastCut], Circumstances], policy: Retention
) -> None:
    cuts, at = case
    found = kept_cuts(cuts[::-1], policy, at)
    assert {place: kept.why for place, kept in found.items()} == model(cuts, policy, at)
    assert list(found) == sorted(found)


@given(cases(), policies)
@settings(max_examples=40, deadline=None)
def test_a_term_says_until_when_the_policy_keeps(
    case: tuple[list[PastCut], Circumstances], policy: Retention
) -> None:
    """A moment before `until_ns` the policy keeps the cut, at it no more."""
    by_policy = Why.WINDOW | Why.HOURLY | Why.DAILY | Why.WEEKLY | Why.MONTHLY | Why.MARKER
    cuts, at = case
    for place, kept in kept_cuts(cuts, policy, at).items():
        assert bool(kept.why & by_policy) == (kept.until_ns != 0)
        if kept.until_ns:
            before = kept_cuts(cuts, policy, Circumstances(kept.until_ns - 1, at.protected))
            assert before[place].why & by_policy
            after = kept_cuts(cuts, policy, Circumstances(kept.until_ns, at.protected)).get(place)
            assert after is None or not after.why & by_policy


@pytest.mark.slow
@given(cases(), policies, st.integers(0, 40 * DAY))
@settings(max_examples=60, deadline=None)
def test_time_alone_brings_nothing_back(
    case: tuple[list[PastCut], Circumstances], policy: Retention, wait: int
) -> None:
    cuts, at = case
    later = replace(at, now_ns=at.now_ns + wait * S)
    assert set(kept_cuts(cuts, policy, later)) <= set(kept_cuts(cuts, policy, at))


@pytest.mark.slow
@given(histories(), policies, st.lists(st.integers(0, 40 * DAY), min_size=1, max_size=4), st.data())
@settings(max_examples=120, deadline=None)
def test_what_was_dropped_once_is_never_needed_again(
    history: tuple[list[PastCut], Epochs], policy: Retention, waits: list[int], data: st.DataObject
) -> None:
    """Time passes, cuts are added, what is proven grows: whoever forgets all that was dropped loses nothing.

    But by an epoch that begins at a cut that was dropped, or a hold on one: neither is possible, as retired
    cuts are not offered. A source that comes back is the rule that this does not hold for, and an epoch that
    goes on from an older cut: what is whole on the line that it makes the main one may have been dropped.
    """
    cuts, epochs = history
    now, protected = START, NOWHERE
    left: list[PastCut] = []
    dropped: set[Place] = set()
    known = 0
    for number, wait in enumerate(waits, 1):
        now += wait
        left += cuts[known : len(cuts) * number // len(waits)]
        known = len(cuts) * number // len(waits)
        if known:
            protected = max(protected, data.draw(st.sampled_from([cut.place for cut in cuts[:known]])))
        begun = {cut.place.epoch: cut.place for cut in cuts[:known]}  # and where each ends until now
        bases = {epoch: NOWHERE if epochs[epoch][0] in dropped else epochs[epoch][0] for epoch in begun}
        at = Circumstances(now * S, protected, (), SOURCES, {one: (bases[one], begun[one]) for one in begun})
        kept = kept_cuts(cuts[:known], policy, at)
        everything = set(kept)
        went_back = any(
            bases[epoch] < max((begun[one] for one in begun if one < epoch), default=NOWHERE)
            for epoch in begun
        )
        again = {place for place in everything & dropped if kept[place].why in Why.WHOLE | Why.BASE}
        assert everything & dropped == (again if went_back else set())
        assert again or everything <= set(kept_cuts(left, policy, at))
        dropped |= {cut.place for cut in cuts[:known]} - everything
        left = [cut for cut in left if cut.place not in dropped]
