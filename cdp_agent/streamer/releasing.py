"""A planned release of the domain to another site, and taking it back: what comes after what.

Noted, durably: guests write nothing any more. Their last writes are ended by the splitter, and protected by a
flush; its cut is the final one, noted before the domain is given up. Then that is noted, too, and the exports
are closed. Whatever dies in between, the next run goes on by the notes. What does not belong here: the swap
itself (the owner's machine), refusing writes (the splitter's `closing`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from cdp_agent.releases import release_members
from cdp_agent.streamer import step_types as st
from cdp_agent.streamer.begin import refusal
from cdp_agent.streamer.engine_types import Answered, Reply
from cdp_agent.streamer.noted import Noted
from cdp_container.clock import Clock
from cdp_container.domain import owner_types as ot
from cdp_container.domain.notes import Notes
from cdp_container.format.domain import Owner, OwnerState
from cdp_container.format.place import Place
from cdp_container.journal.shared import SplitterPage

NOTHING_DONE: Final = "nothing was changed; `cdp-agent status` tells more"
TAKE_BACK_FIRST: Final = "`cdp-agent release --cancel` first"
TREES_NOT_WHOLE: Final = "not every file tree is wholly in the container yet"
TREES_HINT: Final = "`cdp-agent status` says why; stop what writes into them, or take one out and `reload`"
VMS_RUN: Final = "a VM runs whose disks are captured from it: nothing here can refuse its writes"
VMS_HINT: Final = "stop it, so that its QEMU still answers (QMP `stop`, or -no-shutdown), and release again"
_ON_THE_WAY: Final = frozenset(ot.Phase) - {ot.Phase.ACTIVE, ot.Phase.RELEASING, ot.Phase.RELEASED}


@dataclass(frozen=True, slots=True)
class Told:
    """What becomes of a release or its cancel that was asked for.

    Attributes:
        refused: why nothing was changed, "" where it is under way or done.
        hint: what to do then.
        again: that may be over soon; ask again.
    """

    refused: str = ""
    hint: str = NOTHING_DONE
    again: bool = False


class Machines(Protocol):
    """The engine, as a release sees it."""

    @property
    def run(self) -> ot.RunState:
        """The owner's machine."""
        ...

    @property
    def stream(self) -> st.StreamState:
        """The stream's machine."""
        ...

    @property
    def not_whole(self) -> tuple[bytes, ...]:
        """The spaces that are not whole."""
        ...

    @property
    def vms_run(self) -> bool:
        """Whether VMs that are captured by images may have written since."""
        ...

    def ask(self, name: str | None, note: str, application: bool, reply: Reply) -> None:
        """A flush, where there is no name."""
        ...

    def tell_owner(self, event: ot.Event) -> None:
        """An event for the owner's machine."""
        ...


class Releasing:
    """The release that is under way, or done, if there is one.

    Args:
        site: this one.
        noted: where all of it is noted.
        clock: tells how long it takes.
        machines: what does it.
    """

    def __init__(self, site: str, noted: Noted, clock: Clock, machines: Machines) -> None:
        self._site = site
        self._noted = noted
        self._clock = clock
        self._machines = machines
        self._flush = 0  # the newest that was asked for: what older ones bring came to nothing
        self._flushing = False
        self._final: Place | None = None
        self._given_to = ""  # given up, and not noted yet
        self._taken_back = False  # owned again, and not noted yet
        self.waits_for = ""
        self.taken_by = ""
        self.cancel_refused = ""
        self.begins_anew = False
        """The domain was taken back, and this run knows of its old epoch alone: another one begins."""

    @property
    def _notes(self) -> Notes:
        return self._noted.notes

    # --- what is asked for ---------------------------------------------------------------------

    def begin(self, site: str, page: SplitterPage | None) -> Told:
        """Release the domain to this site; asked again, it goes on. A refusal changes nothing."""
        assert site, "whoever asks has checked the name"
        notes = self._notes
        to = notes.released_to or notes.releasing_to
        if to:
            done = f"it is released to site {to!r} already, or about to be"
            return Told() if to == site else Told(done, TAKE_BACK_FIRST)
        if site == self._site:
            return Told(f"{site!r} is this site", "name the site that is to take the domain over")
        refused = self._refusal(page)
        if refused.refused:
            return refused
        began = replace(notes, releasing_to=site, final=None, release_ended_ns=0)
        if not self._noted.save(replace(began, release_began_ns=self._clock.wall_ns())):
            return Told(f"it cannot be noted: {self._noted.shown.last_error}", "make room, and try again")
        self._noted.publish_gate()
        return Told()

    def _refusal(self, page: SplitterPage | None) -> Told:
        machines = self._machines
        phase = machines.run.phase
        if phase is ot.Phase.ELSEWHERE:
            return Told("this site does not own the domain", "`cdp-agent owner` tells who does")
        if phase in _ON_THE_WAY:
            self._claim()
            return Told(f"this site does not own the domain yet: {phase.value}", again=True)
        if page is None or not page.running:
            return Told("the splitter is not running yet", again=True)
        if page.writes_closed:
            # Of a release that was taken back: what it says must not be taken for an answer to this one.
            return Told("the exports are not open again yet", again=True)
        if page.sync_failed:
            return Told("a disk failed, and may lack what guests wrote", "wait until it is mended")
        answered = refusal(page, bool(machines.not_whole or machines.stream.lacking), 0)
        if answered is not None:
            return Told(answered.why, answered.hint or NOTHING_DONE)
        if machines.vms_run:
            return Told(VMS_RUN, VMS_HINT, again=True)
        if machines.stream.lacking_trees:
            # Guests would be kept waiting for as long as a first copy takes.
            return Told(TREES_NOT_WHOLE, TREES_HINT, again=True)
        return Told()

    def _claim(self) -> None:
        if self._machines.run.phase is ot.Phase.IDLE:
            self._machines.tell_owner(ot.Claim())

    def cancel(self) -> Told:
        """Go on as owner; where the domain was given up already, by taking it back from `domain/owner`."""
        notes, phase = self._notes, self._machines.run.phase
        self.cancel_refused = ""
        if notes.released_to:
            if phase is ot.Phase.RELEASED:
                self._machines.tell_owner(ot.Cancel())
            return Told()
        if not notes.releasing_to:
            return Told("nothing is released", "there is nothing to take back")
        if phase is not ot.Phase.ACTIVE and (notes.final is not None or phase is ot.Phase.RELEASING):
            return Told("the release may have been sent already", again=True)
        if not self._clear():
            return Told(f"it cannot be noted: {self._noted.shown.last_error}", "make room, and try again")
        self._final, self._flushing, self.waits_for = None, False, ""
        return Told()

    def _clear(self) -> bool:
        cleared = replace(
            self._notes, releasing_to="", released_to="", final=None, release_began_ns=0, release_ended_ns=0
        )
        if not self._noted.save(cleared):
            return False
        self._noted.publish_gate()
        return True

    # --- from poll to poll ---------------------------------------------------------------------

    def poll(self, page: SplitterPage | None) -> None:
        """What can be done now is done; `waits_for` says what cannot."""
        self._noted.publish_gate()
        if self._given_to:
            self.note_released(self._given_to)
        if self._taken_back:
            self.note_owning()
        if not self._notes.releasing_to:
            return
        self.waits_for = self._missing(page)
        if self._machines.vms_run and self._machines.run.phase is ot.Phase.ACTIVE:
            self._flush_anew()
        if self.waits_for or self._flushing:
            trees = ", and every file tree to be whole in the final cut"
            lacking = trees if self._machines.stream.lacking_trees else ""
            self.waits_for = self.waits_for or f"everything that guests wrote to be protected{lacking}"
        elif self._final is None:
            self._ask_flush()
        else:
            self._machines.tell_owner(ot.Release(self._notes.releasing_to))

    def _missing(self, page: SplitterPage | None) -> str:
        machines = self._machines
        phase = machines.run.phase
        self._claim()
        if phase is ot.Phase.RELEASING:
            return "the store to say that the domain is released"
        if phase is not ot.Phase.ACTIVE:
            return f"this site to own the domain again: {phase.value}"
        if page is None or not page.running:
            return "the splitter"
        if not page.writes_closed:
            return "writes that are under way, and the disks"
        if page.overflowed:
            return "the journal, which is full, to go on"
        if machines.not_whole or machines.stream.lacking:
            return "every volume to be wholly in the container"
        if machines.vms_run:
            return "VMs to be stopped again whose disks are captured from them"
        return ""

    def _flush_anew(self) -> None:
        """A VM went on: what it writes until it is stopped again is not in the cut that was asked for."""
        self._flush += 1
        self._flushing, self._final = False, None

    def _ask_flush(self) -> None:
        self._flush += 1
        flush, self._flushing = self._flush, True

        def reply(answered: Answered) -> None:
            if flush != self._flush or not self._flushing:
                return  # it was cancelled meanwhile
            self._flushing = False
            if answered.place is None:
                self._noted.trouble("release", answered.why)
                return
            end = self._machines.run.end
            self._final = answered.place or (answered.place if end is None else end.place)

        self._machines.ask(None, "", application=False, reply=reply)

    # --- what the owner's machine wants to be noted --------------------------------------------

    def note_releasing(self, site: str) -> bool:
        """From here on the domain may be another's; whether that is durable."""
        return self._noted.save(replace(self._notes, releasing_to=site, final=self._final))

    def note_released(self, site: str) -> None:
        """Tried again at every poll until it is durable; a run that begins meanwhile finds it out anew."""
        given = replace(self._notes, released_to=site, releasing_to="")
        saved = self._noted.save(replace(given, release_ended_ns=self._clock.wall_ns()))
        self._given_to = "" if saved else site
        if saved:
            self.waits_for = ""
            self._noted.publish_gate()

    def note_owning(self) -> None:
        """Likewise. The exports open again once it is durable."""
        self.begins_anew = self._clear()
        self._taken_back = not self.begins_anew

    def found(self, owner: Owner) -> None:
        """The domain was given up; who has it now?"""
        if owner.state is not OwnerState.RELEASED or owner.site != self._site:
            self.taken_by = f"site {owner.site!r}, epoch {owner.epoch}"

    def refuse_cancel(self, why: str) -> None:
        """Somebody was quicker."""
        self.cancel_refused = why

    # --- what is shown -------------------------------------------------------------------------

    @property
    def standing(self) -> str:
        """For `status`; "" where nothing is released."""
        notes, phase = self._notes, self._machines.run.phase
        if notes.released_to and phase in _ON_THE_WAY | {ot.Phase.ACTIVE}:
            return f"taking the domain back, which was released to site {notes.released_to!r}: {phase.value}"
        if notes.released_to:
            return f"released to site {notes.released_to!r}"
        if notes.releasing_to:
            return f"releasing to site {notes.releasing_to!r}, waits for {self.waits_for or 'its turn'}"
        return ""

    def members(self, wall_ns: int) -> dict[str, Any] | None:
        """For programs; see `releases.release_members`."""
        members = release_members(self._notes, wall_ns)
        if members is None:
            return None
        return {
            **members,
            "waits_for": self.waits_for,
            "taken_by": self.taken_by,
            "cancelling": bool(self._notes.released_to) and self._machines.run.phase is not ot.Phase.RELEASED,
            "cancel_refused": self.cancel_refused,
        }
