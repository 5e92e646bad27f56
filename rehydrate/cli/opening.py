"""A container that a command reads for longer: opened under a hold, its heads read in a stage that is shown.

`export`, `mount` and `serve` open so. What is read of it, and what is made of that, does not belong here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from typing import Final

from cdp_container.clock import Clock
from cdp_container.domain.contents import Contents
from cdp_container.domain.holding import Holding
from cdp_container.domain.opening import is_superseded
from cdp_container.store.api import Store
from cdp_container.store.retry import Patience, with_retries
from rehydrate.cli.commands import Access, notes_of, open_asking, store_of
from rehydrate.cli.held import holding_for, tell
from rehydrate.cli.stage_lines import StageLines
from rehydrate.container import Container, Secret
from rehydrate.flow import Flow
from rehydrate.plan import Choice
from rehydrate.points import RestorePlan, scope_of
from rehydrate.rehearsal.counting import CountingStore
from rehydrate.rehearsal.stages import METADATA, Stages
from rehydrate.restore import Source

PATIENCE: Final = Patience(attempts_max=3, deadline_seconds=5.0, pause_seconds_max=1.0)
"""Of one request for content: it is asked for again and again, and the end of the command waits for it."""


@dataclass(slots=True)
class Opening:
    """A container that is opened, perhaps several times: `stack` closes what one reading has open."""

    access: Access
    store: Store
    counting: CountingStore
    flow: Flow
    holding: Holding
    secret: Secret
    stages: Stages
    clock: Clock
    container: Container | None = None
    stack: ExitStack = field(default_factory=ExitStack)

    def is_moved(self) -> bool:
        """Whether another ledger is in force than the one that is read by."""
        return self.container is not None and is_superseded(self.store, self.container.history.owner)

    def open(self) -> Container:
        """Open it anew, whatever was open before. Raises as `open_container`; asks for a passphrase once."""
        self.stack.close()
        self.container, self.secret = open_asking(self.store, self.secret, self.access.replica)
        self.container.require_key()
        return self.container

    def gather(self, container: Container, choice: Choice, keeps_names: bool = False) -> Contents:
        """The heads that a choice of points needs; notes are told. Raises as a restore does, and HoldLost."""
        with self.stages.stage(METADATA, "objects") as stage:

            def told(done: int, total: int) -> None:
                if stage.total != total:
                    stage.expect(total)
                stage.advance(done - stage.done)
                self.holding.check()

            scope = scope_of(container.history, choice)
            contents = container.gather(scope, at_once=self.flow, told=told, keeps_names=keeps_names)
            self.stack.enter_context(closing(contents))
        for note in notes_of(container, contents):
            tell(note)
        return contents

    def settle(self, container: Container, made: RestorePlan) -> Choice:
        """Tell the notes of a plan, and hold its very point; gives that, for whoever reads on."""
        for note in made.notes:
            tell(note)
        place = made.cut.place
        self.holding.narrow(place, container.history.owner.ledger)
        return Choice(at=(place.epoch, place.cut))

    def patient_source(self, container: Container, contents: Contents) -> Source:
        """Where content is, for readers that ask again by themselves."""
        store = with_retries(
            self.counting,
            self.clock,
            lambda: int.from_bytes(os.urandom(6)) / 2**48,
            PATIENCE,
            self.flow.refused,
        )
        return Source(store, container.keys, contents, self.flow)


@contextmanager
def opening_for(
    purpose: str, access: Access, secret: Secret, clock: Clock, as_json: bool
) -> Iterator[Opening]:
    """The store of a container, and a hold that is not placed yet.

    Args:
        purpose: the command.
        access: to the container.
        secret: that opens it, as far as it was given.
        clock: of this machine.
        as_json: whether stages are told for programs.
    """
    flow = Flow(clock)
    counting: list[CountingStore] = []

    def around(store: Store) -> Store:
        counting.append(CountingStore(store))
        return counting[0]

    with (
        store_of(access.address, flow.refused, around) as store,
        holding_for(store, purpose) as holding,
    ):
        stages = Stages(clock, lambda: counting[0].counts, StageLines(clock, as_json, stages=1))
        found = Opening(access, store, counting[0], flow, holding, secret, stages, clock)
        with closing(found.stack):
            yield found
