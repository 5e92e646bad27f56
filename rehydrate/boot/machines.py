"""What a hypervisor of this site is asked for a recovered VM, and what such a VM is. No I/O.

How each hypervisor is asked stands in qemu and libvirt.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from rehydrate.render.documents import Documents
from rehydrate.render.recovered import REHEARSED
from rehydrate.runbook.model import CheckSettings, StartSettings

START_SECONDS_MAX: Final = 120.0
"""Until a hypervisor has started a VM, or said why not."""
ASK_SECONDS_MAX: Final = 15.0
"""Until a hypervisor has answered."""
STOP_SECONDS_MAX: Final = 15.0
"""From the word to end until a VM is killed, and from that until it is given up."""
ANSWER_BYTES_MAX: Final = 1 << 20
"""Of what a hypervisor, or an agent in a guest, says at once."""


class Power(enum.StrEnum):
    """Whether a VM runs. `GONE`: nobody knows it; `STILL`: it is there, and its guest does not go on."""

    GONE = "gone"
    OFF = "off"
    STILL = "still"
    RUNNING = "running"


@dataclass(frozen=True, slots=True)
class Seen:
    """What a hypervisor said of a VM: `words` are its own."""

    power: Power
    words: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """What is enough to find a VM again: its name there, its UUID, its directory and its files' name.

    `title`: what the hypervisor calls it. `uuid`: empty where it has none (a plain QEMU).
    """

    title: str
    uuid: str
    directory: str
    file_name: str

    @property
    def is_rehearsed(self) -> bool:
        """Whether its names are those of a rehearsal: production has no such VM."""
        return self.title.endswith(REHEARSED) and self.file_name.endswith(REHEARSED)

    def path(self, ending: str) -> str:
        """A file or socket of it."""
        return f"{self.directory}/{self.file_name}.{ending}"


@dataclass(frozen=True, slots=True)
class Ready:
    """A VM that can be defined and started.

    Attributes:
        name: in the domain.
        known: see `Known`.
        documents: that are written into its directory.
        start, checks: as the runbook has them.
        commands: programs and arguments that its guest's agent runs, to set addresses.
        refused: why it cannot be started at all; then it has no documents.
    """

    name: str
    known: Known
    documents: Documents
    start: StartSettings
    checks: tuple[CheckSettings, ...]
    commands: tuple[tuple[str, ...], ...] = ()
    refused: str = ""

    @property
    def probes(self) -> int:
        """How many checks it has; that its addresses were set is one."""
        return len(self.checks) + bool(self.commands)


class Machines(Protocol):
    """A hypervisor. Each method ends within the seconds that it names, and can be cancelled.

    All raise MachineFailed, and LocalDiskFull or CdpError where files cannot be written.
    """

    async def look(self, vm: Known) -> Seen:
        """Whether a VM runs. ASK_SECONDS_MAX."""
        ...

    async def start(self, vm: Ready) -> None:
        """Define a VM that does not run, and start it; then its guest runs. START_SECONDS_MAX."""
        ...

    async def ask_agent(self, vm: Known, commands: Sequence[Sequence[str]]) -> None:
        """Have its guest's agent run programs, one after the other. Whoever calls it ends it in time."""
        ...

    async def remove(self, vm: Known) -> None:
        """Stop a VM, whatever it does, and have it forgotten; none is none. STOP_SECONDS_MAX, twice."""
        ...
