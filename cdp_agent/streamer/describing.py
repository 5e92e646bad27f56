"""When hypervisors are asked, and what becomes of their answers in a run of the streamer.

Every round is a process that may hang: it is started by a lane of its own, and killed in time. What an answer
means for cuts does not belong here (`vms`), nor how the process is run (`describer`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from cdp_agent.streamer.engine_types import Done, Job, Lane, Round, VmSource
from cdp_agent.streamer.noted import Noted as Notes
from cdp_agent.streamer.vms import Vms, answered, begun, epoch_began, offered, protected, taken
from cdp_container.clock import Clock
from cdp_container.domain.identity import AgentIdentity
from cdp_container.errors import CdpError
from cdp_container.format.index import Record

WAITING_MAX: Final = 64
"""Commands that wait for a round; whoever comes later does not wait."""
TOPIC: Final = "vms.json"
PROBLEM_CHARS_MAX: Final = 300
SHOWN_MAX: Final = 8
WORD_CHARS_MAX: Final = 100
"""What `status` is told of each VM fits its answer, however many there are."""


class Machines(Protocol):
    """The engine, as this sees it."""

    def start(self, job: Job) -> None:
        """Have a job done."""
        ...


class Describing:
    """See the module.

    Args:
        source: asks, and keeps the note; None where there are no VMs to ask for.
        identity: whose VMs.
        every_ns: between the beginnings of two rounds.
        clock: tells when the next one is due.
        notes: where trouble is shown.
        machines: what does it.
    """

    def __init__(
        self,
        source: VmSource | None,
        identity: AgentIdentity,
        every_ns: int,
        clock: Clock,
        notes: Notes,
        machines: Machines,
    ) -> None:
        self._source = source
        self._asks = any(vm.kind for vm in identity.active_vms)
        self._every_ns = every_ns
        self._clock = clock
        self._notes = notes
        self._machines = machines
        self._busy = False
        self._due_ns = 0
        self._waiting: list[Done] = []  # for a round that begins from now on
        self._answering: list[Done] = []  # for the one that is under way
        self._unsaved = False
        noted = None if source is None else source.load_noted()
        self.state: Vms | None = None if noted is None else begun(identity.vms, noted)

    @property
    def is_due(self) -> bool:
        """Whether a cut is worth taking for the VMs alone."""
        return self.state is not None and self.state.is_due

    def poll(self) -> None:
        """Begin a round, if it is time to."""
        self._save()
        if self._source is None or not self._asks or self._busy or not self._is_time():
            return
        source, self._busy = self._source, True
        self._due_ns = self._clock.boottime_ns() + self._every_ns
        self._answering, self._waiting = self._waiting, []

        def work() -> Done:
            found = source.ask()
            return lambda: self._ended(found)

        self._machines.start(Job(Lane.VMS, work))

    def _is_time(self) -> bool:
        return bool(self._waiting) or self._clock.boottime_ns() >= self._due_ns

    def ask_now(self, done: Callable[[], None]) -> None:
        """Have a round made that begins now; `done` is called when it ended, however it did."""
        if self._source is None or not self._asks or len(self._waiting) >= WAITING_MAX:
            done()
            return
        self._waiting.append(done)
        self.poll()

    def _ended(self, found: Round) -> None:
        self._busy = False
        if self.state is not None:
            self.state = answered(self.state, found.lines, found.failure, self._clock.wall_ns())
        done, self._answering = self._answering, []
        for one in done:
            one()

    # --- cuts --------------------------------------------------------------------------------------

    def epoch_began(self, epoch: int, base: int) -> None:
        """See `vms.epoch_began`."""
        if self.state is not None:
            self.state = epoch_began(self.state, epoch, base)

    def offer(self) -> tuple[Record, ...]:
        """What the next cut says of VMs, if it comes to be."""
        return () if self.state is None else offered(self.state)

    def taken(self, cut: int, records: Sequence[Record]) -> None:
        """This cut says what was offered."""
        if self.state is not None:
            self.state = taken(self.state, cut, records)

    def protected(self, cut: int) -> None:
        """Note what cuts up to this one say; tried again until that is durable."""
        if self.state is None:
            return
        before, self.state = self.state, protected(self.state, cut)
        self._unsaved |= self.state.noted != before.noted
        self._save()

    def _save(self) -> None:
        if not self._unsaved or self._source is None or self.state is None:
            return
        try:
            self._source.save_noted(self.state.noted)
        except CdpError as error:
            # Without the note more is sent than needed, and never less.
            self._notes.trouble(TOPIC, str(error))
            return
        self._unsaved = False
        self._notes.shown.troubles.pop(TOPIC, None)


def vm_members(state: Vms | None) -> list[dict[str, Any]] | None:
    """What `status` is told; None where there are no VMs."""
    if state is None:
        return None
    members = []
    for vm in state.vms:
        if vm.removed:
            continue
        said = state.said.get(vm.vm)
        members.append(
            {
                "name": vm.name,
                "at": vm.at or None,
                "asked": said is not None,
                "known_ns": None if said is None else said.known_ns or None,
                "problem": None if said is None else said.problem[:PROBLEM_CHARS_MAX] or None,
                "problem_ns": None if said is None else said.problem_ns or None,
                "unprotected": [] if said is None else _shown(said.unprotected),
                "odd": [] if said is None else _shown(said.odd),
            }
        )
    return members or None


def _shown(words: Sequence[str]) -> list[str]:
    """Of many the first: a VM may have hundreds of disks, and a domain hundreds of VMs."""
    more = [f"and {len(words) - SHOWN_MAX} more"] if len(words) > SHOWN_MAX else []
    return [*(word[:WORD_CHARS_MAX] for word in words[:SHOWN_MAX]), *more]
