"""One thread's part of an owner's run: steps the pure machine and carries its effects out, in their order.

No thread is started and nothing waited for here (`owner_runner` does that), and nothing decided (`owner`).
The work of a claim is handed to whoever drives, because the claim must be renewed meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from cdp_container.clock import Clock
from cdp_container.domain import owner
from cdp_container.domain import owner_types as ot
from cdp_container.domain.notes import load_notes, save_notes
from cdp_container.domain.owner_work import OwnerWork, request_owner
from cdp_container.errors import CdpError
from cdp_container.store.api import Store

NONCE_BYTES: Final = 16


class OwnerDrive:
    """Drives one run. `state` is the machine's.

    An operator stands behind such a run: that the notes say *fenced* or *released* does not hold it back,
    and both stay as they are until whoever drives changes them.

    Args:
        store: must not repeat a request.
        claimant: who wants the domain.
        directory: its notes.json knows this site's nonces, and is kept here.
        clock, entropy: of this machine.
        begin_work: starts a piece of work, whose event comes back by `feed`.
        tell: is given every effect that is not carried out here.
    """

    def __init__(
        self,
        store: Store,
        claimant: ot.Claimant,
        directory: Path,
        clock: Clock,
        entropy: Callable[[int], bytes],
        begin_work: Callable[[OwnerWork], None],
        tell: Callable[[ot.Effect], None],
    ) -> None:
        self._store = store
        self._directory = directory
        self._clock = clock
        self._entropy = entropy
        self._begin_work = begin_work
        self._tell = tell
        self._events: deque[ot.Event] = deque()
        self._stopped = False
        self.unsaved: tuple[CdpError, int] | None = None
        """Why notes.json could not be written the last time, and how many times in a row; None: it could."""
        nonces = load_notes(directory).nonces
        self.state = owner.begin(claimant, nonces, fenced=False, released=False)

    def feed(self, event: ot.Event) -> None:
        """One event, and all that follows from it at once."""
        self._events.append(event)
        while self._events and not self._stopped:
            self._step(self._events.popleft())

    def stop(self) -> None:
        """Begin nothing any more, and write no note: the directory is another's from here."""
        self._stopped = True

    def due_seconds(self) -> float | None:
        """How soon a Tick is wanted; None while something else is waited for."""
        due_ns = owner.due_ns(self.state)
        return None if due_ns is None else max(0.0, (due_ns - self._clock.boottime_ns()) / 1e9)

    def _step(self, event: ot.Event) -> None:
        moment = ot.Moment(self._clock.boottime_ns(), self._clock.wall_ns(), self._entropy(NONCE_BYTES))
        self.state, effects = owner.step(self.state, event, moment)
        unsaved = ""
        for effect in effects:
            match effect:
                case ot.NoteNonces(nonces):
                    unsaved = self._note(nonces=nonces)
                case ot.SwapOwner() if unsaved:
                    # Never sent: what is not noted could not be known again after a crash.
                    self._events.append(ot.OwnerFailed(ot.Failure.LOCAL, unsaved))
                case ot.ReadOwner() | ot.SwapOwner():
                    self._events.append(request_owner(self._store, self.state.claimant.domain, effect))
                case ot.FindEnd() | ot.WriteEpoch() | ot.ReadEpoch() | ot.CountEpochs():
                    self._begin_work(effect)
                case ot.NoteFenced(why):
                    self._note(fenced=why)
                case _:
                    self._tell(effect)

    def _note(self, **changes: object) -> str:
        """Change notes.json durably; gives why it could not be, "" where it is."""
        try:
            # Read anew: whoever drives may have changed another fact meanwhile.
            notes = replace(load_notes(self._directory), **changes)  # type: ignore[arg-type]  # facts by name
            save_notes(self._directory, notes)
        except CdpError as error:
            self.unsaved = (error, 1 if self.unsaved is None else self.unsaved[1] + 1)
            self._tell(ot.Trouble("notes", str(error)))
            return str(error)
        self.unsaved = None
        return ""
