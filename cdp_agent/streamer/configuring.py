"""The domain's configuration, kept as its owner wants it: looked at when the epoch is ours, and now and then.

The new object is put first, under its digest, and only then `domain/owner` names it, by the owner's machine.
What dies in between leaves an object that nobody names. What is wanted does not belong here (`site_word`, and
`cdp_container.domain.configured`).
"""

from __future__ import annotations

from typing import Final, Protocol

from cdp_agent.streamer.engine_types import Configured, Done, Job, Lane
from cdp_agent.streamer.noted import Noted
from cdp_container.clock import Clock
from cdp_container.domain import owner_types as ot
from cdp_container.domain.history import read_config
from cdp_container.errors import CdpError, DamagedObject, PreconditionFailed
from cdp_container.format.domain import Owner, build_config, config_digest
from cdp_container.format.keys import config_key
from cdp_container.store.api import Store

AGAIN_NS: Final = 3_600_000_000_000
"""Credentials and CA file may change beside a run: they are looked at once an hour."""
RETRY_NS: Final = 30_000_000_000
"""After a failure; nothing waits for a configuration."""
TOPIC: Final = "configuration"


class Machines(Protocol):
    """The engine, as this sees it."""

    @property
    def run(self) -> ot.RunState:
        """The owner's machine."""
        ...

    def tell_owner(self, event: ot.Event) -> None:
        """An event for the owner's machine."""
        ...

    def start(self, job: Job) -> None:
        """Have a job done."""
        ...


class Configuring:
    """See the module.

    Args:
        store: may repeat reads.
        configured: gives what is wanted for what is in force; called in a job.
        clock: tells when to look again.
        noted: where trouble is shown.
        machines: what does it.
    """

    def __init__(
        self, store: Store, configured: Configured, clock: Clock, noted: Noted, machines: Machines
    ) -> None:
        self._store = store
        self._configured = configured
        self._clock = clock
        self._noted = noted
        self._machines = machines
        self._busy = self._again = False
        self._due_ns = 0

    def look(self) -> None:
        """Have the next `poll` look: what is wanted may have changed."""
        self._due_ns, self._again = 0, self._busy

    def poll(self) -> None:
        """Begin to look, where the domain is ours and it is time to."""
        run = self._machines.run
        if self._busy or run.phase is not ot.Phase.ACTIVE or self._clock.boottime_ns() < self._due_ns:
            return
        owner = run.seen
        assert owner is not None, "it is active"
        if not any(owner.config):
            return  # there is none to go by
        if run.config not in (None, owner.config):
            return  # it is being named: made of the one before, the next would take its changes back
        self._busy = True

        def work() -> Done:
            try:
                digest = put_wanted(self._store, owner, self._configured)
            except CdpError as error:
                why = str(error)
                return lambda: self._failed(why)
            return lambda: self._is_there(digest)

        self._machines.start(Job(Lane.WORK, work))

    def _is_there(self, digest: bytes) -> None:
        self._wait(AGAIN_NS)
        self._noted.shown.troubles.pop(TOPIC, None)
        # Changes nothing where it is in force already, or where the domain is not ours any more.
        self._machines.tell_owner(ot.Configure(digest))

    def _failed(self, why: str) -> None:
        self._wait(RETRY_NS)
        self._noted.trouble(TOPIC, f"it could not be brought up to date: {why}")

    def _wait(self, wait_ns: int) -> None:
        """Look again then, or at once where that was asked for meanwhile."""
        self._due_ns = 0 if self._again else self._clock.boottime_ns() + wait_ns
        self._busy = self._again = False


def put_wanted(store: Store, owner: Owner, configured: Configured) -> bytes:
    """Put the configuration that is wanted, unless it is in force; gives its digest.

    Raises DamagedObject, MissingObject and their kin (nothing can be carried over from what cannot be read),
    and what the store and `configured` raise.
    """
    in_force = read_config(store, owner)
    wanted = configured(in_force)
    if wanted == in_force:
        return owner.config
    data = build_config(wanted)
    digest = config_digest(data)
    try:
        store.put_new(config_key(digest), data)
    except PreconditionFailed:
        # It was in force before, or its put was ours; what else stands there must never be named.
        if store.get(config_key(digest)).data != data:
            raise DamagedObject(config_key(digest), "it has not the digest that its key names") from None
    return digest
