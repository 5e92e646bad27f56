"""The order in which VMs are started: invented VMs, events in any order, time that jumps."""

from __future__ import annotations

from dataclasses import dataclass, field
from graphlib import CycleError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rehydrate.boot.plan import (
    AGAIN_NS,
    Action,
    BootAt,
    Check,
    Down,
    Event,
    LetGo,
    NotPassed,
    Passed,
    Phase,
    Start,
    Tick,
    Up,
    Wanted,
    begin,
    step,
)

SECOND_NS = 1_000_000_000
STEPS_MAX = 5_000


@dataclass
class Play:
    """A plan on its way, and all that it wanted."""

    wanted: list[Wanted]
    now_ns: int = 7
    state: BootAt = field(init=False)
    actions: list[Action] = field(init=False)

    def __post_init__(self) -> None:
        self.state, self.actions = begin(self.wanted, self.now_ns)

    def on(self, event: Event, after_ns: int = 0) -> list[Action]:
        self.now_ns += after_ns
        self.state, actions = step(self.state, event, self.now_ns)
        self.actions += actions
        return actions

    def phase(self, name: str) -> Phase:
        return self.state.machines[name].phase


def test_those_that_wait_for_each_other_are_refused() -> None:
    with pytest.raises(CycleError):
        begin([Wanted("a", ("b",)), Wanted("b", ("a",))], 0)


def test_one_that_cannot_be_started_holds_those_behind_it_alone() -> None:
    play = Play([Wanted("db"), Wanted("web", ("db",)), Wanted("edge", ("web",)), Wanted("mail")])
    assert play.actions == [Start("db"), Start("mail")]
    assert play.on(Down("db", "no room")) == []
    assert play.on(Up("mail")) == []
    assert [play.phase(name) for name in ("db", "web", "edge", "mail")] == [
        Phase.FAILED,
        Phase.HELD,
        Phase.HELD,
        Phase.RUNNING,
    ]
    assert play.state.is_over
    assert play.state.machines["db"].why == "no room"
    assert "web" in play.state.machines["edge"].why
    assert not any(isinstance(one, Start) and one.name in ("web", "edge") for one in play.actions)


def test_a_check_that_hangs_fails_its_vm_at_its_deadline() -> None:
    play = Play([Wanted("db", within_ns=30 * SECOND_NS, checks=2)])
    assert play.on(Up("db")) == [Check("db", 0), Check("db", 1)]
    assert play.on(Passed("db", 1), SECOND_NS) == []
    assert play.state.next_ns == 7 + 30 * SECOND_NS
    assert play.on(Tick(), 29 * SECOND_NS) == [LetGo("db")]
    assert play.phase("db") is Phase.FAILED
    assert "1 of 2 checks did not pass within 30 s: it did not end" in play.state.machines["db"].why
    assert play.on(Passed("db", 0)) == []
    assert play.phase("db") is Phase.FAILED


def test_a_start_that_hangs_fails_at_its_deadline() -> None:
    play = Play([Wanted("db", within_ns=5 * SECOND_NS)])
    assert play.on(Tick(), 5 * SECOND_NS) == [LetGo("db")]
    assert play.state.machines["db"].why == "it was not started within 5 s"
    assert play.on(Up("db")) == []
    assert play.phase("db") is Phase.FAILED


def test_a_check_is_made_again_after_a_pause_and_its_last_reason_is_told() -> None:
    play = Play([Wanted("db", within_ns=30 * SECOND_NS, checks=1)])
    play.on(Up("db"))
    assert play.on(NotPassed("db", 0, "refused")) == []
    assert play.on(Tick(), AGAIN_NS - 1) == []
    assert play.on(Tick(), 1) == [Check("db", 0)]
    play.on(NotPassed("db", 0, "status 503"))
    play.on(Tick(), 30 * SECOND_NS)
    assert play.state.machines["db"].why.endswith("within 30 s: status 503")
    assert play.state.machines["db"].checks[0].tries == 2


def test_one_that_ends_while_others_come_up_has_failed() -> None:
    play = Play([Wanted("db"), Wanted("web", ("db",), wait_ns=10 * SECOND_NS)])
    play.on(Up("db"))
    assert play.phase("db") is Phase.RUNNING
    play.on(Down("db", "panicked"), SECOND_NS)
    assert (play.phase("db"), play.phase("web")) == (Phase.FAILED, Phase.HELD)


def test_a_wait_begins_when_the_last_of_them_passed() -> None:
    play = Play([Wanted("a"), Wanted("b"), Wanted("c", ("a", "b"), wait_ns=3 * SECOND_NS)])
    play.on(Up("a"))
    play.on(Up("b"), 2 * SECOND_NS)
    assert play.state.next_ns == 7 + 5 * SECOND_NS
    assert play.on(Tick(), 3 * SECOND_NS - 1) == []
    assert play.on(Tick(), 1) == [Start("c")]


@st.composite
def orders(draw: st.DrawFn) -> list[Wanted]:
    """VMs of which each may come after some of those before it."""
    count = draw(st.integers(1, 7))
    found: list[Wanted] = []
    for number in range(count):
        after = draw(st.sets(st.sampled_from([one.name for one in found]))) if found else set()
        wait_ns = draw(st.sampled_from([0, 0, SECOND_NS]))
        within_ns = draw(st.integers(1, 20)) * SECOND_NS
        found.append(Wanted(f"v{number}", tuple(sorted(after)), wait_ns, within_ns, draw(st.integers(0, 3))))
    return draw(st.permutations(found))


@given(orders(), st.data())
def test_nothing_starts_before_what_it_needs_and_all_of_it_ends(
    wanted: list[Wanted], data: st.DataObject
) -> None:
    play = Play(wanted)
    by_name = {one.name: one for one in wanted}
    asked: list[Action] = []
    lost: set[str] = set()
    for _ in range(STEPS_MAX):
        new = play.actions[len(asked) :]
        asked += new
        for action in new:
            if isinstance(action, Start):
                one = by_name[action.name]
                others = [play.state.machines[name] for name in one.after]
                assert [other.wanted.name for other in others if other.running_ns is None] == []
                ready_ns = max((other.running_ns or 0 for other in others), default=7)
                assert play.now_ns >= ready_ns + one.wait_ns
                assert not lost & {*one.after}
        lost = {name for name, one in play.state.machines.items() if one.phase in (Phase.FAILED, Phase.HELD)}
        if play.state.is_over:
            break
        at_ns = play.state.next_ns
        assert at_ns is not None, "every state that is not over ends by itself"
        event: Event = Tick()
        pending = [one for one in asked if not isinstance(one, LetGo)]
        happens: bool = data.draw(st.booleans(), "something happens") if pending else False
        if happens:
            event = draw_event(data, data.draw(st.sampled_from(pending)))
            left_ns = max(0, at_ns - play.now_ns)
            play.on(event, data.draw(st.integers(0, left_ns), "after"))
        else:
            play.on(event, max(0, at_ns - play.now_ns))
    assert play.state.is_over
    assert sum(isinstance(one, Start) for one in asked) == len(
        {one.name for one in asked if isinstance(one, Start)}
    )
    for name, at in play.state.machines.items():
        if at.phase is Phase.HELD:
            assert any(play.phase(other) in (Phase.FAILED, Phase.HELD) for other in by_name[name].after)
        if at.phase is Phase.RUNNING:
            assert all(check.passed_ns is not None for check in at.checks)
            assert at.running_ns is not None
            assert at.running_ns <= at.deadline_ns


def draw_event(data: st.DataObject, action: Start | Check) -> Event:
    """What may become of what was wanted, late or twice too."""
    events: list[Event]
    if isinstance(action, Start):
        events = [Up(action.name), Up(action.name), Down(action.name, "x")]
    else:
        passed = Passed(action.name, action.number)
        events = [passed, passed, NotPassed(action.name, action.number, "x")]
    return events[data.draw(st.integers(0, 2))]
