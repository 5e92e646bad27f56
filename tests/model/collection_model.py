"""Every interleaving of collectors, readers, operators and owners over one roster and one `domain/owner`.

Collectors are the real protocol (collection_pass.py); owners make the changes that the real machine allows;
holds come and go by the real rules. Between any two requests of anybody anything else may happen, within the
budgets: another pass, of the same site or of one that took over, a hold, a reader that is thought dead, a
crash, a lost reply, a write or delete that lands at any later time, or never, a listing that leaves out. What
must hold in each state does not belong here (collection_rules.py).

Reductions, and why nothing is missed by them:

* **No clock.** Grace is no time at all and any time: others act between any two requests. A hold may be taken
  for dead whenever the budget allows, whether or not its reader lives.
* **A request is carried out and answered in one.** What a run does with an answer touches only itself.
* **The owner's swap is one step.** That it lands once, late or never, in the epoch that asked, is proven of
  the machine in owner_model.py; a change that nobody waits for may land here whenever it fits.
* **Rosters are swapped at once.** A lost swap of the roster is tried again until it is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from cdp_container.domain.hold_rules import hold_to_go_on_with, with_hold, without_hold
from cdp_container.domain.owner_types import ChangePlan
from cdp_container.domain.plan_changes import fault_of
from cdp_container.format.domain import ObjectName, Owner, OwnerState, PlanState, build_owner
from cdp_container.format.gc import parse_plan
from cdp_container.format.holds import Hold
from cdp_container.format.keys import OWNER_KEY, gc_key
from cdp_container.format.place import Place
from tests.model.collection_pass import (
    DOMAIN,
    MISSING,
    NEW,
    NO_BASE,
    NOTHING_COLLECTED,
    OLD,
    PROTECTED,
    REFUSED,
    THERE,
    UNKNOWN,
    Body,
    Change,
    Delete,
    Get,
    Head,
    ListAll,
    ListReplica,
    Meaning,
    New,
    Pass,
    Question,
    ReadHolds,
    Reply,
    Runs,
    X,
    Y,
    parse_meaning,
    run_pass,
)

SITES: Final = ("site-a", "site-b")
READER, OPERATOR, WATCHMAN, TAKER = (letter * 32 for letter in "bcde")
"""Ids of holds: a reader's, an operator's, the one under which that is placed, and of who takes over."""


class Broken(AssertionError):
    """A rule was broken by a step."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How often what makes the number of states grow may happen, in one story.

    Attributes:
        passes: begun, by whoever owns then.
        readers: restores, of X where it is offered, and how often one is interrupted and goes on (`resumes`).
        deaths: holds that are taken for dead.
        operators: holds of X for a year.
        takeovers: by the other site; with `older`, also ones that go on from X.
        crashes, losses: of collectors; of replies, requests and names in a listing.
        vanishes: plans that execute and are gone, as at a replica to which they never came.
        replica: there is one, and writes, deletes and `domain/owner` reach it in any order, or never; the
            newest segment is on its way there.
    """

    passes: int = 2
    readers: int = 0
    resumes: int = 0
    deaths: int = 0
    operators: int = 0
    takeovers: int = 0
    older: bool = False
    crashes: int = 0
    losses: int = 0
    vanishes: int = 0
    replica: bool = False


class Client(NamedTuple):
    """A reader, an operator, or one who takes over; `ledger` and `cut` are what it reads by, and what."""

    stage: str = "idle"
    ledger: tuple[ObjectName, ...] = ()
    cut: Place = NO_BASE


class World(NamedTuple):
    """Everything. `late` are requests that may land yet; `allowed` what executed plans named.

    `behind` is what has not reached the replica yet, `copied` what it has; `told` the ledger that the
    `domain/owner` there names.
    """

    owner: Owner
    objects: frozenset[tuple[str, bytes]]
    roster: tuple[tuple[str, Hold], ...]
    runs: tuple[int, ...]
    reader: Client
    operator: Client
    taker: Client
    base: Place
    late: frozenset[Question]
    allowed: frozenset[str]
    behind: frozenset[Question]
    copied: frozenset[str]
    told: tuple[ObjectName, ...]
    left: tuple[tuple[str, int], ...]

    def has(self, key: str) -> bool:
        return any(found == key for found, _ in self.objects)

    def data(self, key: str) -> bytes | None:
        return next((data for found, data in self.objects if found == key), None)

    def meaning(self) -> Meaning | None:
        """Of the ledger in force; None where it is gone."""
        return self.meaning_of(() if self.owner.ledger is None else (self.owner.ledger,))

    def meaning_of(self, name: tuple[ObjectName, ...]) -> Meaning | None:
        if not name:
            return NOTHING_COLLECTED
        data = self.data(name[0].key)
        return None if data is None else parse_meaning(data)

    def may(self, what: str) -> bool:
        return dict(self.left)[what] > 0

    def spent(self, what: str) -> World:
        left = tuple((name, count - (name == what)) for name, count in self.left)
        return self._replace(left=left)


def first_world(budget: Budget) -> World:
    """The domain with two cuts, of which the policy keeps the newer one."""
    owner = Owner(
        domain=DOMAIN,
        name="shop",
        version=1,
        nonce=bytes(16),
        site=SITES[0],
        instance=bytes(16),
        epoch=4,
        state=OwnerState.ACTIVE,
        previous=0,
        since_ns=7,
        renewals=0,
        lease_seconds=30,
        config=bytes(32),
        protected=PROTECTED,
    )
    counts = (
        "passes", "readers", "resumes", "deaths", "operators", "takeovers", "crashes", "losses", "vanishes"
    )  # fmt: skip
    return World(
        owner=owner,
        objects=frozenset({(OLD, b""), (NEW, b"")}),
        roster=(),
        runs=(),
        reader=Client(),
        operator=Client(),
        taker=Client(),
        base=NO_BASE,
        late=frozenset(),
        allowed=frozenset(),
        behind=frozenset({New(NEW, b"")} if budget.replica else ()),
        copied=frozenset({OLD}),
        told=(),
        left=tuple((name, getattr(budget, name)) for name in counts),
    )


class Model:
    """The rules of the world; `body` is a pass, and may be a broken one."""

    def __init__(self, budget: Budget, body: Body = run_pass) -> None:
        self.budget = budget
        self.runs = Runs(body)
        self._owners: dict[Owner, bytes] = {}

    def next(self, world: World) -> Iterator[World]:
        """Every world that one step leads to."""
        yield from self._begun(world)
        for index, run in enumerate(world.runs):
            yield from self._run(world, index, run)
        for question in world.late:
            landed = world._replace(late=world.late - {question})
            yield from (after for after, _ in self._done(landed, question))
        for question in world.behind:
            yield self._copied(world, question)
        if self.budget.replica and world.told != _ledger(world):
            yield world._replace(told=_ledger(world))
        yield from self._vanished(world)
        yield from self._readers(world)
        yield from self._operators(world)
        yield from self._takers(world)

    # --- collectors --------------------------------------------------------------------------------

    def _begun(self, world: World) -> Iterator[World]:
        if world.may("passes"):
            number = self.budget.passes - dict(world.left)["passes"]
            run = self.runs.begin(Pass(world.owner.site, number, self.budget.replica))
            yield world.spent("passes")._replace(runs=(*world.runs, run))

    def _run(self, world: World, index: int, run: int) -> Iterator[World]:
        question = self.runs.asks(run)
        assert question is not None
        for after, reply in self.answers(world, question):
            yield self._told(after, index, run, reply)
        if world.may("crashes"):
            yield _without(world.spent("crashes"), index)

    def _told(self, world: World, index: int, run: int, reply: Reply) -> World:
        following = self.runs.told(run, reply)
        if self.runs.asks(following) is None:
            return _without(world, index)
        runs = (*world.runs[:index], following, *world.runs[index + 1 :])
        return world._replace(runs=runs)

    def answers(self, world: World, question: Question) -> Iterator[tuple[World, Reply]]:
        """What a request may do, and what may be said of it."""
        done = list(self._done(world, question))
        yield from done
        if not world.may("losses"):
            return
        spent = world.spent("losses")
        match question:
            case New() | Delete() | Change():
                yield from ((after, UNKNOWN) for after, _ in self._done(spent, question))
                yield spent._replace(late=spent.late | {question}), UNKNOWN
                if isinstance(question, Delete):
                    yield spent, None  # it was said to be done
            case ListAll():
                yield spent, UNKNOWN
                keys, base = _listed(world)
                yield from ((spent, (keys - {key}, base)) for key in keys)
            case _:
                yield spent, UNKNOWN

    def _done(self, world: World, question: Question) -> Iterator[tuple[World, Reply]]:
        match question:
            case Get(key, replica):
                yield world, self._got(world, key, replica)
            case Head(replica, key):
                there = key in world.copied if replica else world.has(key)
                yield world, b"" if there else MISSING
            case New(key, data):
                if world.has(key):
                    yield world, THERE
                else:
                    behind = world.behind | {question} if self.budget.replica else world.behind
                    yield world._replace(objects=world.objects | {(key, data)}, behind=behind), None
            case Delete(key):
                yield self._deleted(world, question), None
            case ReadHolds():
                yield world, world.roster
            case Change(change):
                yield self._changed(world, change)
            case ListAll():
                yield world, _listed(world)
            case ListReplica():
                yield world, tuple(sorted(world.copied))

    def _got(self, world: World, key: str, replica: bool) -> Reply:
        if key != OWNER_KEY:
            assert not replica, "of a replica nothing else is read"
            return world.data(key) or MISSING
        told = world.told[0] if world.told else None
        return self._owner_bytes(replace(world.owner, ledger=told) if replica else world.owner)

    def _owner_bytes(self, owner: Owner) -> bytes:
        data = self._owners.get(owner)
        if data is None:
            data = self._owners[owner] = build_owner(owner)
        return data

    def _deleted(self, world: World, question: Delete) -> World:
        if question.key not in world.allowed:
            raise Broken(f"{question.key} was deleted, and no executed plan names it")
        if not world.has(question.key):
            return world
        objects = frozenset(one for one in world.objects if one[0] != question.key)
        behind = world.behind | {question} if self.budget.replica else world.behind
        return world._replace(objects=objects, behind=behind)

    def _copied(self, world: World, question: Question) -> World:
        """It reaches the replica, in whatever order."""
        behind = world.behind - {question}
        if isinstance(question, New):
            return world._replace(behind=behind, copied=world.copied | {question.key})
        assert isinstance(question, Delete)
        return world._replace(behind=behind, copied=world.copied - {question.key})

    def _changed(self, world: World, change: ChangePlan) -> tuple[World, Reply]:
        """As the owner's machine does it, and only in the epoch that asks (heed_change)."""
        owner = world.owner
        fault = fault_of(change)
        if fault or owner.epoch != change.epoch:
            return world, REFUSED
        if (owner.plan, owner.ledger) == (change.plan, change.ledger):
            return world, None
        if (owner.plan, owner.ledger) != (change.plan_before, change.ledger_before):
            return world, REFUSED
        changed = world._replace(owner=replace(owner, plan=change.plan, ledger=change.ledger))
        if change.plan is not None and change.plan.state is PlanState.EXECUTING:
            changed = self._executes(changed)
        return changed, None

    def _executes(self, world: World) -> World:
        named = world.owner.plan
        assert named is not None
        if named.epoch != world.owner.epoch:
            raise Broken("a plan of a dead epoch executes")
        data = world.data(gc_key(named.epoch, named.n))
        if data is None:
            raise Broken("a plan executes that is not there")
        plan = parse_plan(data, gc_key(named.epoch, named.n), DOMAIN)
        return world._replace(allowed=world.allowed | set(plan.victims))

    def _vanished(self, world: World) -> Iterator[World]:
        """Whoever read the plan before goes on with it."""
        named = world.owner.plan
        if named is None or named.state is not PlanState.EXECUTING or not world.may("vanishes"):
            return
        key = gc_key(named.epoch, named.n)
        if world.has(key):
            objects = frozenset(one for one in world.objects if one[0] != key)
            yield world.spent("vanishes")._replace(objects=objects)

    # --- who reads ---------------------------------------------------------------------------------

    def _readers(self, world: World) -> Iterator[World]:
        reader = world.reader
        yield from self._deaths(world)
        if reader.stage == "idle" and world.may("readers"):
            yield _placed(world.spent("readers"), READER)._replace(reader=Client("placed"))
        if reader.stage == "placed":
            # An entry that is gone is only noticed by who writes it again.
            yield world._replace(reader=Client("looked", _ledger(world)))
        if reader.stage == "looked":
            yield from self._narrowed(world)
        if reader.stage == "reading":
            yield _dropped(world, READER)._replace(reader=Client())
        if reader.stage in ("placed", "looked", "reading") and world.may("resumes"):
            yield world.spent("resumes")._replace(reader=reader._replace(stage="dead " + reader.stage))
        if reader.stage.startswith("dead "):
            yield self._resumed(world)

    def _narrowed(self, world: World) -> Iterator[World]:
        roster, reader = dict(world.roster), world.reader
        meaning = world.meaning_of(reader.ledger)
        if READER not in roster or meaning is None:
            if READER in roster and reader.ledger == _ledger(world):
                raise Broken("the ledger in force is gone")
            # HoldLost, or 404 for a ledger that was superseded: all anew.
            yield _placed(world, READER)._replace(reader=Client("placed"))
            return
        cut = Y if meaning.retired else X
        hold = replace(roster[READER], cut=cut, ledger=reader.ledger[0] if reader.ledger else None)
        changed = _with_roster(world, {**roster, READER: hold})
        yield changed._replace(reader=Client("reading", reader.ledger, cut))

    def _resumed(self, world: World) -> World:
        roster, reader = dict(world.roster), world.reader
        found = hold_to_go_on_with(roster, [READER], (reader.cut.epoch, reader.cut.cut))
        if found is None:
            return _placed(_dropped(world, READER), READER)._replace(reader=Client("placed"))
        _, hold = found
        ledger = () if hold.ledger is None else (hold.ledger,)
        return world._replace(reader=Client("reading", ledger, reader.cut))

    def _deaths(self, world: World) -> Iterator[World]:
        if not world.may("deaths"):
            return
        for hold_id, hold in world.roster:
            if hold.until_ns is None:
                yield _dropped(world.spent("deaths"), hold_id)

    def _operators(self, world: World) -> Iterator[World]:
        """`rehydrate hold`: under a hold on everything, which point, and then its own hold."""
        operator = world.operator
        if operator.stage == "idle" and world.may("operators"):
            yield _placed(world.spent("operators"), WATCHMAN)._replace(operator=Client("placed"))
        if operator.stage == "placed":
            yield world._replace(operator=Client("looked", _ledger(world)))
        if operator.stage == "looked":
            meaning = world.meaning_of(operator.ledger)
            if meaning is None:
                yield _placed(world, WATCHMAN)._replace(operator=Client("placed"))
            elif meaning.retired:
                yield _dropped(world, WATCHMAN)._replace(operator=Client("refused"))
            else:
                hold = _hold(X, operator.ledger, until_ns=10)
                held = _with_roster(world, {**dict(world.roster), OPERATOR: hold})
                yield held._replace(operator=operator._replace(stage="placing"))
        if operator.stage == "placing":
            yield from self._confirmed(world)

    def _confirmed(self, world: World) -> Iterator[World]:
        """The hold stands; its operator is told so, unless a plan that was there before may retire X."""
        going = world.meaning() is None or world.meaning().retired  # type: ignore[union-attr]  # just asked
        named = world.owner.plan
        if named is not None and named.state is PlanState.NAMED:
            data = world.data(gc_key(named.epoch, named.n))
            meaning = data and world.meaning_of((parse_plan(data, "", DOMAIN).ledger,))
            going = going or not meaning or meaning.retired
        left = _dropped(world, WATCHMAN)
        if going:
            yield _dropped(left, OPERATOR)._replace(operator=Client("refused"))
        else:
            yield left._replace(operator=Client("kept"))

    # --- who takes over ----------------------------------------------------------------------------

    def _takers(self, world: World) -> Iterator[World]:
        taker = world.taker
        if taker.stage == "reading":
            yield _dropped(world, TAKER)._replace(taker=Client("done"))
        if not world.may("takeovers"):
            return
        if taker.stage == "idle":
            yield self._claimed(world.spent("takeovers"), NO_BASE)
            if self.budget.older:
                yield _placed(world, TAKER)._replace(taker=Client("placed"))
        if taker.stage == "placed":
            yield world._replace(taker=Client("looked", _ledger(world)))
        if taker.stage == "looked":
            meaning = world.meaning_of(taker.ledger)
            if meaning is None:
                yield _placed(world, TAKER)._replace(taker=Client("placed"))
            elif meaning.retired or world.taker.ledger != _ledger(world):
                yield _dropped(world, TAKER)._replace(taker=Client())  # see owner_takeover.consider
            else:
                yield from self._claimed_older(world.spent("takeovers"))

    def _claimed_older(self, world: World) -> Iterator[World]:
        claimed = self._claimed(world, X)
        hold = _hold(X, world.taker.ledger)
        yield _with_roster(claimed, {**dict(claimed.roster), TAKER: hold})._replace(taker=Client("reading"))

    def _claimed(self, world: World, base: Place) -> World:
        """The other site owns from here on; plan and ledger are inherited."""
        other = SITES[1 - SITES.index(world.owner.site)]
        owner = replace(world.owner, epoch=world.owner.epoch + 1, previous=world.owner.epoch, site=other)
        return world._replace(owner=owner, base=max(base, world.base))


def _without(world: World, index: int) -> World:
    return world._replace(runs=(*world.runs[:index], *world.runs[index + 1 :]))


def _listed(world: World) -> tuple[frozenset[str], Place]:
    return frozenset(key for key, _ in world.objects), world.base


def _ledger(world: World) -> tuple[ObjectName, ...]:
    return () if world.owner.ledger is None else (world.owner.ledger,)


def _with_roster(world: World, holds: Mapping[str, Hold] | None) -> World:
    return world if holds is None else world._replace(roster=tuple(sorted(holds.items())))


def _placed(world: World, hold_id: str) -> World:
    """A hold on everything."""
    return _with_roster(world, with_hold(dict(world.roster), hold_id, _hold(None)))


def _dropped(world: World, hold_id: str) -> World:
    return _with_roster(world, without_hold(dict(world.roster), hold_id))


def _hold(cut: Place | None, ledger: tuple[ObjectName, ...] = (), until_ns: int | None = None) -> Hold:
    term = 0 if until_ns else 900
    name = ledger[0] if ledger else None
    return Hold("site-b", "", "restore", cut, 1 if term else 0, term, 1, until_ns, name)
