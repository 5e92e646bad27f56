"""All states of ownership: takeovers, zombies, lost replies, crashes at every step; and broken machines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import pytest

from cdp_container.domain import owner as machine
from cdp_container.domain import owner_objects
from cdp_container.domain import owner_types as ot
from cdp_container.format.domain import Owner
from cdp_container.format.place import Place
from tests.model.owner_model import Broken, Budget, Model
from tests.model.owner_rules import explore
from tests.model.owner_stored import Found, Stored, find_end

pytestmark = pytest.mark.slow

STATES_MAX = 5_000_000
BUDGETS = (
    Budget(takeovers=1, crashes=1),
    Budget(takeovers=1, losses=1, cuts=2, older=True),
    Budget(takeovers=2, losses=1, renewals=0),
    Budget(takeovers=1, renewals=0, crashes=1, releases=1, cancels=1),
    Budget(takeovers=0, losses=1, crashes=1, releases=1, cancels=1),
)
DEEP = (
    Budget(takeovers=1, crashes=1, losses=1),
    Budget(takeovers=2, crashes=1, renewals=0),
    Budget(takeovers=2, losses=2, renewals=0),
    Budget(takeovers=1, losses=1, releases=1, cancels=1),
)
"""With --deep: minutes, not seconds."""

Tell = Callable[[str], None]


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Tell:
    """Says a line in the output of the test run, whatever is captured."""

    def say(line: str) -> None:
        with capsys.disabled():
            print(f"\n  ownership: {line}", end="")

    return say


@pytest.mark.timeout(0)
def test_no_interleaving_breaks_a_rule(pytestconfig: pytest.Config, tell: Tell) -> None:
    total = 0
    for budget in BUDGETS + (DEEP if pytestconfig.getoption("--deep") else ()):
        states = explore(Model(budget), STATES_MAX)
        assert states > 1000, "a model that hardly moves proves nothing"
        tell(f"{states:,} states, {_named(budget)}")
        total += states
    tell(f"{total:,} states in all, and no rule is broken in any of them\n")


def _named(budget: Budget) -> str:
    values = {field.name: getattr(budget, field.name) for field in fields(budget)}
    return ", ".join(f"{name} {value}" for name, value in values.items() if value is not False and value)


# --- controls: machines that are broken in one way each, and what is then found ----------------------


def broken_by(budget: Budget, find: Callable[[Stored, int, Place], Found] = find_end) -> str:
    try:
        explore(Model(budget, find), STATES_MAX)
    except Broken as error:
        return str(error)
    return ""


def test_an_end_that_is_only_what_was_recorded_is_caught() -> None:
    """A cut is proven before the owner's next renewal records it."""

    def recorded(stored: Stored, epoch: int, protected: Place) -> Found:
        return (
            ot.EndFound(ot.End(protected)) if protected.epoch == epoch else find_end(Stored(), 0, protected)
        )

    assert "was protected" in broken_by(Budget(), recorded)


def test_an_end_that_is_the_highest_seen_is_caught() -> None:
    """A gap before the end is filled by a zombie."""

    def highest(stored: Stored, epoch: int, protected: Place) -> Found:
        bits = dict(stored.segments).get(epoch, 0)
        seq = bits.bit_length() - 1
        return find_end(stored, epoch, protected) if not bits else ot.EndFound(ot.End(Place(epoch, seq, seq)))

    why = broken_by(Budget(cuts=2), highest)
    assert "not all up to there is there" in why or "lies within its end" in why


def test_a_proof_without_a_look_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is acknowledged is called protected."""
    step = machine.step

    def hasty(state: ot.RunState, event: ot.Event, moment: ot.Moment) -> machine.Step:
        after, effects = step(state, event, moment)
        return after, (*effects, ot.Proven(event.place)) if isinstance(event, ot.Prove) else effects

    monkeypatch.setattr(machine, "step", hasty)
    assert "was protected" in broken_by(Budget())


def test_an_abandoned_claim_that_loses_its_previous_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim that came to nothing is taken for an epoch of its own."""
    wanted = owner_objects.wanted_owner

    def forgets(state: ot.RunState, moment: ot.Moment) -> Owner:
        owner = wanted(state, moment)
        assert state.seen is not None
        return owner if state.phase is not ot.Phase.CLAIMING else replace(owner, previous=state.seen.epoch)

    monkeypatch.setattr(machine, "wanted_owner", forgets)
    assert broken_by(Budget(crashes=1)) != ""


def test_a_late_release_that_was_thought_lost_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The old version that is read back is taken for proof that the swap was not done."""
    take_owner = machine._take_owner

    def trusting(
        state: ot.RunState, owner: Owner, tag: str, proving: Place | None, moment: ot.Moment
    ) -> machine.Step:
        after, effects = take_owner(state, owner, tag, proving, moment)
        old = state.seen is not None and owner.nonce == state.seen.nonce
        undone = old and state.phase is ot.Phase.RELEASING
        return (replace(after, attempts=(), phase=ot.Phase.ACTIVE) if undone else after), effects

    monkeypatch.setattr(machine, "_take_owner", trusting)
    budget = Budget(takeovers=0, losses=1, releases=1)
    assert "a swap to released landed after its sender took it for settled" in broken_by(budget)


def test_ownership_judged_by_the_site_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run takes for its own what any run of its site wrote: of two, both go on."""
    take_owner = machine._take_owner

    def by_site(
        state: ot.RunState, owner: Owner, tag: str, proving: Place | None, moment: ot.Moment
    ) -> machine.Step:
        mine = owner.site != state.claimant.site or not state.attempts
        shown = owner if mine else replace(owner, nonce=state.attempts[-1].nonce)
        return take_owner(state, shown, tag, proving, moment)

    monkeypatch.setattr(machine, "_take_owner", by_site)
    assert broken_by(Budget(losses=1, crashes=1)) != ""
