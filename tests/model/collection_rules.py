"""What must hold in every state of the model of collection, and the walk through all of them."""

from __future__ import annotations

from typing import Final

from cdp_container.format.domain import Owner
from cdp_container.format.keys import KeyKind, parse_key
from cdp_container.format.place import Place
from tests.model.collection_model import OPERATOR, READER, Broken, Client, Model, World, first_world
from tests.model.collection_pass import NEW, OLD, Meaning, New, Pass, X, Y, serves

PASSES_MAX: Final = 5
"""A later owner is done after so many: one that settles, one each for what died and for what that left."""


class Rules:
    """Checks what the container shows; each content of it once.

    `settles`: also whether a later owner can collect to the end, which a broken protocol may hinder first.
    """

    def __init__(self, model: Model, settles: bool = True) -> None:
        self._model = model
        self._settles = settles
        self._settled: set[tuple[Owner, frozenset[tuple[str, bytes]], Place]] = set()

    def check(self, world: World) -> None:
        """Raises Broken."""
        meaning = world.meaning()
        if meaning is None:
            raise Broken("the ledger in force is gone")
        self._restores(world, meaning, Y, "the newest cut")
        if not meaning.retired:
            self._restores(world, meaning, X, "a cut that is offered")
        self._held(world, meaning)
        if self._model.budget.replica:
            self._copied(world, meaning)
        key = (world.owner, world.objects, world.base)
        if self._settles and key not in self._settled:
            self._settled.add(key)
            self._settle(world)

    def _restores(self, world: World, meaning: Meaning, cut: Place, what: str) -> None:
        for key in meaning.needs(cut):
            data = world.data(key)
            if data is None:
                raise Broken(f"{what} needs {key}, and it is gone")
            if key not in (OLD, NEW) and not serves(data, cut):
                raise Broken(f"{what} is not whole in {key}")

    def _held(self, world: World, meaning: Meaning) -> None:
        roster = dict(world.roster)
        reader = world.reader
        if READER in roster and reader.stage.removeprefix("dead ") in ("looked", "reading"):
            by = world.meaning_of(reader.ledger)
            if by is None:
                raise Broken("a reader holds, and its ledger is gone")
            for cut in (X, Y) if reader.stage == "looked" and not by.retired else (reader.cut or Y,):
                self._restores(world, by, cut, "a reader under its hold")
        if world.operator.stage == "kept" and OPERATOR in roster and meaning.retired:
            raise Broken("an operator was told that a cut is held, and it is retired")
        if world.base == X and meaning.retired:
            raise Broken("an epoch was begun from a cut that is retired")

    def _copied(self, world: World, meaning: Meaning) -> None:
        """What the ledger in force names is in the replica, and who reads there meets no hole.

        By the ledger that is named there; what has not come yet is no hole.
        """
        for key in meaning.needs(Y):
            if world.owner.ledger is not None and key not in world.copied:
                raise Broken(f"a ledger is in force, and the replica lacks {key}")
        by = world.meaning_of(world.told)
        if by is None or any(name.key not in world.copied for name in world.told):
            raise Broken("the ledger by which the replica is read is gone")
        coming = {question.key for question in world.behind if isinstance(question, New)}
        for cut in (Y,) if by.retired else (X, Y):
            for key in by.needs(cut) - coming:
                if key not in world.copied:
                    raise Broken(f"who reads the replica needs {key}, and it is gone there")

    def _settle(self, world: World) -> None:
        """Whoever owns collects to the end, once all readers are gone: no deadlock, no garbage for good."""
        calm = world._replace(
            roster=(), runs=(), reader=Client(), operator=Client(), taker=Client(), late=frozenset(),
            behind=frozenset(), left=tuple((name, 0) for name, _ in world.left),
        )  # fmt: skip
        before = calm
        for number in range(PASSES_MAX):
            before, calm = calm, self._alone(calm, number)
            if calm.objects == before.objects and calm.owner == before.owner:
                break
        else:
            raise Broken("collection does not come to an end")
        if calm.owner.plan is not None:
            raise Broken(f"nobody finishes the plan {calm.owner.plan}")
        meaning = calm.meaning()
        assert meaning is not None
        needed = meaning.needs(Y) | ({calm.owner.ledger.key} if calm.owner.ledger else set())
        needed |= set() if meaning.retired else meaning.needs(X)
        left = {key for key, _ in calm.objects if not _is_record(key) and "ledger" not in key} - needed
        if left:
            raise Broken(f"{sorted(left)} are garbage for good")

    def _alone(self, world: World, number: int) -> World:
        """A pass that nobody disturbs; the replica gets everything, and loses nothing."""
        runs = self._model.runs
        run = runs.begin(Pass(world.owner.site, 100 + number, self._model.budget.replica))
        while (question := runs.asks(run)) is not None:
            world, reply = next(self._model.answers(world, question))
            copied = world.copied | {key for key, _ in world.objects}
            told = () if world.owner.ledger is None else (world.owner.ledger,)
            world = world._replace(copied=copied, behind=frozenset(), told=told)
            run = runs.told(run, reply)
        return world


def _is_record(key: str) -> bool:
    parsed = parse_key(key)
    return parsed is not None and parsed.kind in (KeyKind.GC, KeyKind.GC_FINAL)


def explore(model: Model, states_max: int, settles: bool = True) -> int:
    """Walk through every state that can be reached, depth first; how many. Raises Broken."""
    rules = Rules(model, settles)
    first = first_world(model.budget)
    seen, waiting = {first}, [first]
    while waiting:
        world = waiting.pop()
        rules.check(world)
        for following in model.next(world):
            if following not in seen:
                assert len(seen) < states_max, "the budgets are too large to enumerate"
                seen.add(following)
                waiting.append(following)
    return len(seen)
