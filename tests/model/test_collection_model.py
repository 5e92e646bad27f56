"""All states of collection amid readers, operators, takeovers, crashes, losses; and broken protocols."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace

import pytest

from cdp_container.domain import collecting, plan_changes, plan_rules
from cdp_container.domain.collecting import Collector
from cdp_container.domain.owner_types import ChangePlan
from cdp_container.errors import StoreUnavailable
from cdp_container.format.domain import Owner, PlanState
from cdp_container.format.gc import FinalList, Plan, parse_plan
from cdp_container.format.holds import Hold
from cdp_container.format.keys import gc_key
from tests.model import collection_pass
from tests.model.collection_model import Broken, Budget, Model, World
from tests.model.collection_pass import NO_BASE, Body, Pass, Script, run_pass
from tests.model.collection_rules import explore

pytestmark = pytest.mark.slow

STATES_MAX = 1_000_000
BUDGETS = (
    Budget(passes=2, readers=1),
    Budget(passes=2, crashes=1, takeovers=1),
    Budget(passes=1, readers=1, resumes=1, deaths=1, losses=1),
    Budget(passes=1, readers=2, takeovers=1, older=True),
    Budget(passes=1, operators=1, takeovers=1, crashes=1),
    Budget(passes=2, losses=1),
    Budget(passes=1, replica=True, losses=1, takeovers=1),
    Budget(passes=1, vanishes=1, readers=1, operators=1),
)
DEEP = (
    Budget(passes=2, readers=1, losses=1),
    Budget(passes=2, readers=1, resumes=1, deaths=1),
    Budget(passes=2, takeovers=1, older=True),
    Budget(passes=1, operators=1, readers=1, takeovers=1, older=True),
    Budget(passes=2, operators=1, losses=1),
    Budget(passes=2, losses=2),
    Budget(passes=2, vanishes=1, takeovers=1),
    Budget(passes=2, vanishes=1, losses=1),
    Budget(passes=2, vanishes=1, readers=1, resumes=1),
    Budget(passes=2, replica=True),
    Budget(passes=2, replica=True, takeovers=1),
)
"""With --deep: minutes, not seconds."""

Tell = Callable[[str], None]


@pytest.fixture(autouse=True)
def few_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second look at what was deleted a moment later is one that others may act before all the same."""
    monkeypatch.setattr(collecting, "CONFIRM_ROUNDS", 1)
    monkeypatch.setattr(collecting, "REPLICA_ROUNDS", 1)


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Tell:
    """Says a line in the output of the test run, whatever is captured."""

    def say(line: str) -> None:
        with capsys.disabled():
            print(f"\n  collection: {line}", end="")

    return say


@pytest.mark.timeout(0)
def test_no_interleaving_breaks_a_rule(pytestconfig: pytest.Config, tell: Tell) -> None:
    total = 0
    for budget in BUDGETS + (DEEP if pytestconfig.getoption("--deep") else ()):
        states = explore(Model(budget), STATES_MAX)
        assert states > 500, "a model that hardly moves proves nothing"
        tell(f"{states:,} states, {_named(budget)}")
        total += states
    tell(f"{total:,} states in all, and no rule is broken in any of them\n")


def _named(budget: Budget) -> str:
    values = {field.name: getattr(budget, field.name) for field in fields(budget)}
    return ", ".join(f"{name} {value}" for name, value in values.items() if value is not False and value)


# --- controls: protocols that are broken in one way each, and what is then found ----------------------


def broken_by(
    budget: Budget, tell: Tell, body: Body = run_pass, model: type[Model] = Model, settles: bool = False
) -> str:
    try:
        explore(model(budget, body), STATES_MAX, settles)
    except Broken as error:
        tell(f"caught: {error}, with {_named(budget)}")
        return str(error)
    return ""


def test_a_plan_that_the_owner_has_not_named_is_caught(tell: Tell) -> None:
    """The collector deletes what it chose, and tells the owner of packs and ledger afterwards."""

    def unnamed(script: Script, run: Pass) -> None:
        def carry_out(collector: Collector, owner: Owner, plan: Plan, *others: object) -> None:
            for key in plan.victims:
                collector.store.delete(key)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(collection_pass, "carry_out", carry_out)
            run_pass(script, run)

    assert "no executed plan names it" in broken_by(Budget(passes=1), tell, unnamed)


def test_a_ledger_that_is_not_named_is_caught(monkeypatch: pytest.MonkeyPatch, tell: Tell) -> None:
    """A plan executes, and what stands for its victims is not in force."""

    def forgets(owner: Owner, ledger: object) -> ChangePlan:
        return replace(plan_changes.execute_plan(owner, owner.ledger), ledger=owner.ledger)  # type: ignore[arg-type]

    def any_change(self: Model, world: World, change: ChangePlan) -> tuple[World, object]:
        changed = world._replace(owner=replace(world.owner, plan=change.plan, ledger=change.ledger))
        is_executing = change.plan is not None and change.plan.state is PlanState.EXECUTING
        return (self._executes(changed) if is_executing else changed), None

    def unchecked(collector: Collector, owner: Owner) -> tuple[Plan, bytes]:
        named = owner.plan
        assert named is not None
        key = gc_key(named.epoch, named.n)
        return parse_plan(collector.store.get(key).data, key, collector.domain), named.digest

    monkeypatch.setattr(collecting, "execute_plan", forgets)
    monkeypatch.setattr(collecting, "_read_plan", unchecked)
    monkeypatch.setattr(Model, "_changed", any_change)
    assert "and it is gone" in broken_by(Budget(passes=1), tell)


def test_holds_that_are_read_before_the_plan_executes_are_caught(
    monkeypatch: pytest.MonkeyPatch, tell: Tell
) -> None:
    """A reader comes between the look at the roster and the swap; it finds the old ledger in force."""
    strike_off = plan_rules.strike_off

    def by_what_was_seen(plan: Plan, digest: bytes, site: str, holds: dict[str, Hold]) -> FinalList:
        return strike_off(plan, digest, site, {})

    monkeypatch.setattr(collecting, "strike_off", by_what_was_seen)
    assert "a reader under its hold needs" in broken_by(Budget(passes=1, readers=1), tell)


def test_a_listing_whose_error_is_ignored_is_caught(tell: Tell) -> None:
    """What is not told of is taken for not there: numbers begin anew, and nobody can go on."""

    def deaf(script: Script, run: Pass) -> None:
        ask = script.list_all

        def nothing() -> tuple[frozenset[str], object]:
            try:
                return ask()
            except StoreUnavailable:
                return frozenset(), NO_BASE

        script.list_all = nothing  # type: ignore[assignment, method-assign]  # of this one
        run_pass(script, run)

    budget = Budget(passes=1, losses=1, takeovers=1, older=True)
    assert "begun from a cut that is retired" in broken_by(budget, tell, deaf)


def test_a_plan_of_a_dead_epoch_that_executes_is_caught(monkeypatch: pytest.MonkeyPatch, tell: Tell) -> None:
    """The owner makes the change for whoever asks, whatever epoch wrote the packs."""

    def careless(self: Model, world: World, change: ChangePlan) -> tuple[World, object]:
        before = (world.owner.plan, world.owner.ledger)
        if before != (change.plan_before, change.ledger_before):
            return world, collection_pass.REFUSED
        changed = world._replace(owner=replace(world.owner, plan=change.plan, ledger=change.ledger))
        is_executing = change.plan is not None and change.plan.state is PlanState.EXECUTING
        return (self._executes(changed) if is_executing else changed), None

    monkeypatch.setattr(Model, "_changed", careless)
    assert "dead epoch" in broken_by(Budget(passes=1, losses=1, takeovers=1), tell)


def test_an_operators_hold_that_comes_late_and_is_not_heeded_is_caught(
    monkeypatch: pytest.MonkeyPatch, tell: Tell
) -> None:
    """As it was before the model found it."""
    monkeypatch.setattr(collecting, "promises_late", lambda plan, holds: False)
    assert "an operator was told" in broken_by(Budget(passes=1, operators=1), tell)


def test_segments_that_are_not_waited_for_are_caught(monkeypatch: pytest.MonkeyPatch, tell: Tell) -> None:
    """Packs and ledger are there, and a segment that the ledger goes on counting is not: as it was."""
    monkeypatch.setattr(collecting, "wait_for_counted", lambda collector, counted: None)
    said = broken_by(Budget(passes=1, replica=True), tell)
    assert "the replica lacks log/" in said


def test_deletes_before_the_owner_has_come_to_the_replica_are_caught(
    monkeypatch: pytest.MonkeyPatch, tell: Tell
) -> None:
    """Packs and ledger are there, and who reads there looks for the segments that they stand for."""
    monkeypatch.setattr(collecting, "_wait_for_owners", lambda collector, plan: None)
    said = broken_by(Budget(passes=1, replica=True), tell)
    assert "who reads the replica needs" in said


def test_a_pass_that_waits_until_a_replica_has_lost_what_it_deleted_is_caught(
    monkeypatch: pytest.MonkeyPatch, tell: Tell
) -> None:
    """One that never loses anything keeps the plan executing for ever; as it was."""
    confirm = collecting._confirm

    def everywhere(collector: Collector, key: str) -> None:
        for store in (collector.store, *collector.replicas):
            confirm(replace(collector, store=store), key)

    monkeypatch.setattr(collecting, "_confirm", everywhere)
    said = broken_by(Budget(passes=1, replica=True), tell, settles=True)
    assert "nobody finishes the plan" in said


def test_an_older_cut_that_is_claimed_by_a_ledger_that_is_past_is_caught(tell: Tell) -> None:
    """As it was before the model found it."""

    class Careless(Model):
        def _takers(self, world: World) -> Iterator[World]:
            looked = world.taker.stage == "looked"
            meaning = world.meaning_of(world.taker.ledger) if looked and world.may("takeovers") else None
            if meaning is not None and not meaning.retired:
                yield from self._claimed_older(world.spent("takeovers"))
            else:
                yield from super()._takers(world)

    budget = Budget(passes=1, takeovers=1, older=True)
    assert "begun from a cut that is retired" in broken_by(budget, tell, model=Careless)
