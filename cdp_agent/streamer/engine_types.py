"""What the streamer's engine is given, and the jobs that it gives. Values and protocols only."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from cdp_agent.streamer.build import Entropy
from cdp_agent.streamer.copy import Doubt
from cdp_agent.streamer.payloads import Journal
from cdp_agent.streamer.trees import Watcher
from cdp_agent.streamer.vms import Noted as NotedVms
from cdp_agent.vms.answer import Line
from cdp_container.clock import Clock
from cdp_container.domain.notes import Notes
from cdp_container.domain.owner_types import End
from cdp_container.format.codec import Compressor
from cdp_container.format.domain import DomainConfig, EpochRecord
from cdp_container.format.place import Place
from cdp_container.format.segment import StartPacking
from cdp_container.journal.shared import SplitterPage, StreamerPage
from cdp_container.store.api import Store

Done: TypeAlias = Callable[[], None]
Configured: TypeAlias = Callable[[DomainConfig], DomainConfig]
"""What a site wants the domain's configuration to be, of the one in force. Raises CdpError."""


class Lane(enum.Enum):
    """Which jobs wait for each other: those of one lane may run side by side only in PUT."""

    OWNER = "owner"
    WORK = "work"
    BUILD = "build"
    PUT = "put"
    VMS = "vms"
    TREES = "trees"


@dataclass(frozen=True, slots=True)
class Job:
    """Something that takes time. `work` runs outside, once; the engine's thread calls what it gives."""

    lane: Lane
    work: Callable[[], Done]


@dataclass(frozen=True, slots=True)
class Round:
    """What hypervisors said; `failure`: why nothing is said of the VMs that `lines` lack."""

    lines: tuple[Line, ...]
    failure: str = ""


class VmSource(Protocol):
    """Who asks hypervisors, and what was noted of their answers."""

    def ask(self) -> Round:
        """Ask for every VM; takes long, and never for ever. Called by one thread at a time."""
        ...

    def load_noted(self) -> NotedVms:
        """What was protected last; nothing where that is not known."""
        ...

    def save_noted(self, noted: NotedVms) -> None:
        """Note it durably; raises CdpError."""
        ...


class Local(Protocol):
    """What the streamer keeps and shares on its machine."""

    def load_notes(self) -> Notes:
        """The durable notes."""
        ...

    def save_notes(self, notes: Notes) -> None:
        """Replace the durable notes; raises CdpError."""
        ...

    def splitter(self) -> SplitterPage | None:
        """What the splitter published."""
        ...

    def boot(self) -> bytes:
        """The boot id under which the machine runs, 16 bytes."""
        ...

    def streamer(self) -> StreamerPage:
        """What we published."""
        ...

    def publish(self, page: StreamerPage) -> None:
        """Tell the splitter."""
        ...

    def doubt(self, source: int, episode: int | None) -> Doubt:
        """What of a source the container may lack: what its dirty map of this episode says, or all of it."""
        ...


@dataclass(frozen=True, slots=True)
class Outside:
    """Everything that the engine does not make itself.

    Attributes:
        store: asked once for each request.
        patient: the same store; may repeat reads.
        prompt: the same store, asked once too; gives up soon what hangs.
        local: notes and shared pages.
        journal: read by the engine.
        build_journal: the same journal, read by the builder.
        clock: of this machine.
        entropy: fresh random bytes.
        compressor: for the builder alone.
        before_put: called with the bytes of an object before the lease is looked at and it is put; may wait.
        configured: what this site wants the configuration to be; called by jobs.
        start_packing: how the builder packs frames; None packs them in its own thread.
        watcher: of the file trees; None where there are none.
        vms: who asks hypervisors; None where there are no VMs to ask for.
    """

    store: Store
    patient: Store
    prompt: Store
    local: Local
    journal: Journal
    build_journal: Journal
    clock: Clock
    entropy: Entropy
    compressor: Compressor
    start_packing: StartPacking | None = None
    before_put: Callable[[int], None] = lambda _: None
    configured: Configured = lambda in_force: in_force
    watcher: Watcher | None = None
    vms: VmSource | None = None


@dataclass(frozen=True, slots=True)
class Wishes:
    """What was configured."""

    cadence_ns: int
    lease_seconds: int
    operator: str
    software: str
    copy_bytes_per_second: float = math.inf
    vms_every_ns: int = 60_000_000_000


@dataclass(slots=True)
class Counters:
    """What this run did. `copy_compared_bytes`, `copy_different_bytes`: of copies over an older cut."""

    cuts: int = 0
    segments: int = 0
    stored_bytes: int = 0
    puts_failed: int = 0
    catalogs: int = 0
    copy_compared_bytes: int = 0
    copy_different_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Epoch:
    """The epoch that was activated, before anything is sent in it."""

    record: EpochRecord
    end: End


@dataclass(frozen=True, slots=True)
class Answered:
    """What becomes of a marker or flush: `place` in the container, or why it will never be and what to do."""

    place: Place | None
    why: str = ""
    hint: str = ""


Reply: TypeAlias = Callable[[Answered], None]


@dataclass(slots=True)
class Shown:
    """What status shows of the engine's standing."""

    standing: str = "starting"
    troubles: dict[str, str] = field(default_factory=dict)
    last_error: str = ""
    last_error_ns: int = 0
