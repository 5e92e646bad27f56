"""What must hold in every state of the model, and the walk through all of them."""

from __future__ import annotations

from typing import Final

from cdp_container.domain import owner_types as ot
from cdp_container.format.domain import Owner, OwnerState
from tests.model.owner_model import NOTHING, Broken, Model, World
from tests.model.owner_steps import FRESH, LATE_NS, NOW_NS, landing
from tests.model.owner_stored import Stored

RESCUE: Final = 2
"""The site that is only there to show that somebody can take over."""
RESCUE_STEPS_MAX: Final = 40


class Rules:
    """Checks what the container shows; each content of it once."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._good: set[tuple[object, ...]] = set()
        self._saved: dict[tuple[int, Stored], Owner] = {}

    def check(self, world: World) -> None:
        """Raises Broken."""
        key = (world.owner, world.stored, world.activated, world.proven)
        if key in self._good:
            return
        owner = self._model.steps.owners.value(world.owner)
        _check_history(owner, world.stored, world)
        # Whoever takes over from here must lose nothing either.
        after, stored = self._rescue(world.owner, world.stored)
        _check_history(after, stored, world)
        self._good.add(key)

    def _rescue(self, owner: int, stored: Stored) -> tuple[Owner, Stored]:
        """A third site takes over, with nothing but what the container shows."""
        steps = self._model.steps
        shown, run = steps.owners.value(owner), steps.begin(RESCUE, 0, 0)
        event: ot.Event | None = ot.TakeOver()
        request = work = NOTHING
        for _ in range(RESCUE_STEPS_MAX):
            watching = steps.runs.value(run).phase is ot.Phase.WATCHING
            done = steps.react(run, event or ot.Tick(), LATE_NS if watching and event else NOW_NS)
            run, event = done.run, None
            request, work = max(request, done.request), max(work, done.work)
            if steps.runs.value(run).phase is ot.Phase.ACTIVE:
                return shown, stored
            if request != NOTHING:
                effect = steps.requests.value(request)
                event = ot.OwnerRead(shown, steps.tag(shown))
                if isinstance(effect, ot.SwapOwner):
                    shown = steps.owners.value(steps.shown(request))
                    run, event = steps.run_renamed(run, landing(FRESH)), ot.Swapped(steps.tag(shown))
                request = NOTHING
            elif work != NOTHING:
                (event, stored), work = self._worked(work, stored), NOTHING
        raise Broken(f"nobody can take over: stuck in {steps.runs.value(run).phase}")

    def _worked(self, number: int, stored: Stored) -> tuple[ot.Event, Stored]:
        match self._model.steps.works.value(number):
            case ot.FindEnd(epoch, protected):
                return self._model.find(stored, epoch, protected), stored
            case ot.ReadEpoch(epoch):
                return ot.EpochRead(stored.record(epoch)), stored
            case ot.CountEpochs():
                return ot.EpochsCounted(stored.highest()), stored
            case ot.WriteEpoch(record):
                if stored.record(record.epoch) is not None:
                    return ot.WorkFailed(ot.Failure.PRECONDITION, "412"), stored
                return ot.EpochWritten(), stored.with_record(record)


def _check_history(owner: Owner, stored: Stored, world: World) -> None:
    chain = stored.chain(owner)
    counted = {record.epoch for record in chain}
    ends = {record.previous: record.end for record in chain}
    oldest = chain[-1].previous if chain else owner.epoch_in_force
    if oldest:
        raise Broken(f"the history ends at epoch {oldest}, which has no record")
    for epoch, _, _ in world.activated:
        if epoch not in counted:
            raise Broken(f"epoch {epoch} was active, and counts no more")
    if owner.state is OwnerState.CLAIMING and owner.previous != owner.epoch_in_force:
        raise Broken("a claim is in force")
    for epoch, seq in world.proven:
        end = ends.get(epoch)
        if end is not None and (end.epoch, end.seq) < (epoch, seq):
            raise Broken(f"seq {seq} of epoch {epoch} was protected, and its epoch ended at {end}")
        if not all(stored.has(epoch, number) for number in range(1, seq + 1)):
            raise Broken(f"seq {seq} of epoch {epoch} was protected, and is not there")
    for epoch, end in ends.items():
        if end.epoch == epoch and not all(stored.has(epoch, seq) for seq in range(1, end.seq + 1)):
            raise Broken(f"epoch {epoch} ended at {end}, and not all up to there is there")


def explore(model: Model, states_max: int) -> int:
    """Walk through every state that can be reached, depth first; how many. Raises Broken."""
    rules = Rules(model)
    first = model.begin()
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
