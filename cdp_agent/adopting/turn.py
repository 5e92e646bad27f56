"""What comes next while disks are copied: a state, what is seen, and the time go in. PURE.

How QEMU is told does not belong here (`work`).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from cdp_agent.adopting.seen import Job

RESUME_SECONDS: Final = 1.0
"""Between two tries to go on with a job that stopped: one alone may come before the connection is back."""
JOURNAL_PAUSE: Final = 0.5
"""Of the journal's limit: while more is used, copying waits."""
JOURNAL_GO_ON: Final = 0.4
_SECOND: Final = 1_000_000_000


class Standing(enum.Enum):
    """How far the copy is as a whole."""

    COPYING = "copying"
    STOPPED = "stopped"
    READY = "ready"
    FAILED = "failed"
    GIVEN_UP = "given up"


@dataclass(frozen=True, slots=True)
class Agent:
    """The agent, as its pages say. `trouble`: why it serves nobody, "" if it does.

    `journal_part`: how much of the journal's limit is used; `gave_up_journal`: an overflow is not over.
    """

    trouble: str = ""
    journal_part: float = 0.0
    gave_up_journal: bool = False


@dataclass(frozen=True, slots=True)
class Memory:
    """Between turns. `moved_ns`: when something went on last; `offsets`: how far each job was."""

    moved_ns: int
    offsets: Mapping[str, int] = field(default_factory=dict)
    resumed_ns: int = 0
    is_paused: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """What is to be done: jobs to resume, jobs to pause; `why`: what is to be told of the standing."""

    standing: Standing
    memory: Memory
    resume: tuple[str, ...] = ()
    pause: tuple[str, ...] = ()
    why: str = ""


def take_turn(
    memory: Memory, jobs: Mapping[str, Job | None], agent: Agent, now_ns: int, give_up_seconds: float
) -> Turn:
    """Decide one turn.

    Args:
        memory: of the turn before.
        jobs: ours by their names, None where QEMU has it no more.
        agent: as it is now.
        now_ns: of one clock.
        give_up_seconds: how long nothing may move.
    """
    for name, job in jobs.items():
        if job is None or job.is_ended:
            why = "QEMU has its job no more" if job is None else job.error or f"its job is {job.status}"
            return Turn(Standing.FAILED, memory, why=f"{name}: {why}")
    found = {name: job for name, job in jobs.items() if job is not None}
    offsets = {name: job.offset for name, job in found.items()}
    is_ready = all(job.is_ready for job in found.values())
    has_moved = any(offset > memory.offsets.get(name, -1) for name, offset in offsets.items())
    memory = replace(memory, offsets=offsets, moved_ns=now_ns if has_moved or is_ready else memory.moved_ns)
    if is_ready and not agent.trouble:
        return Turn(Standing.READY, memory)
    limit = JOURNAL_GO_ON if memory.is_paused else JOURNAL_PAUSE
    is_full = agent.gave_up_journal or agent.journal_part > limit
    memory = replace(memory, is_paused=is_full)
    why = _why(found, agent, is_full)
    if now_ns - memory.moved_ns > give_up_seconds * _SECOND:
        return Turn(Standing.GIVEN_UP, memory, why=why or "nothing was copied")
    standing = Standing.STOPPED if why else Standing.COPYING
    if is_full:
        running = tuple(name for name, job in found.items() if job.status == "running")
        return Turn(standing, memory, pause=running, why=why)
    stopped = tuple(name for name, job in found.items() if job.is_stopped)
    if not stopped or agent.trouble or now_ns - memory.resumed_ns < RESUME_SECONDS * _SECOND:
        return Turn(standing, memory, why=why)
    return Turn(standing, replace(memory, resumed_ns=now_ns), resume=stopped, why=why)


def _why(jobs: Mapping[str, Job], agent: Agent, is_full: bool) -> str:
    """Why copying stands still, "" where it does not."""
    if agent.trouble:
        return agent.trouble
    if is_full:
        return "the journal has much to send yet: copying waits for it, the guest does not"
    if any(not job.is_well for job in jobs.values()):
        return "the connection to the agent is lost; it is tried again"
    return ""
