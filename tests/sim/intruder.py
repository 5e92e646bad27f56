"""Another site that takes the domain by force, with the real owner machine."""

from __future__ import annotations

from random import Random

from cdp_container.domain import owner
from cdp_container.domain import owner_types as ot
from cdp_container.domain.owner_work import do_work, request_owner
from cdp_container.format.domain import OwnerState, parse_owner
from cdp_container.format.keys import OWNER_KEY
from cdp_container.format.place import NOWHERE, Place
from cdp_container.format.seal import NO_KEYS
from cdp_container.store.api import Store
from tests.sim.clock import VirtualTime


class Intruder:
    """Claims, finds the end, activates; each request takes some time, so that zombies land in between."""

    def __init__(self, store: Store, domain: bytes, rng: Random, time: VirtualTime) -> None:
        self._store = store
        self._domain = domain
        self._rng = rng
        self._time = time
        self.base: Place = NOWHERE
        self._run = owner.begin(
            ot.Claimant(domain, "site-b", rng.randbytes(16), 30, "operator", "failover", "sim"),
            (),
            fenced=False,
            released=False,
        )

    def begin(self) -> None:
        # As an operator's word does: whoever owns the domain now may be taken over without waiting.
        shown = parse_owner(self._store.get(OWNER_KEY).data, OWNER_KEY, self._domain)
        if shown.state is OwnerState.RELEASED:
            self._time.after(1.0, self.begin)  # nobody has it yet: there is nothing to be taken over
            return
        self._run = owner.begin(self._run.claimant, (shown.nonce,), fenced=False, released=False)
        self._step(ot.Claim())

    def _step(self, event: ot.Event) -> None:
        moment = ot.Moment(self._time.boottime_ns(), self._time.wall_ns(), self._rng.randbytes(16))
        self._run, effects = owner.step(self._run, event, moment)
        for effect in effects:
            match effect:
                case ot.ReadOwner() | ot.SwapOwner():
                    self._later(lambda effect=effect: request_owner(self._store, self._domain, effect))
                case ot.FindEnd() | ot.WriteEpoch() | ot.ReadEpoch() | ot.CountEpochs():
                    self._later(
                        lambda effect=effect: do_work(self._store, self._store, self._domain, effect, NO_KEYS)
                    )
                case ot.Activated(record):
                    self.base = record.base
                case ot.Elsewhere(found):
                    # Somebody was quicker: the operator says it again.
                    self._run = owner.begin(self._run.claimant, (found.nonce,), fenced=False, released=False)
                    self._time.after(0.1, lambda: self._step(ot.Claim()))

    def _later(self, request: object) -> None:
        def begin() -> None:
            assert callable(request)
            event = request()
            self._time.after(self._rng.expovariate(1 / 0.2), lambda: self._step(event))

        self._time.after(self._rng.expovariate(1 / 0.2), begin)
