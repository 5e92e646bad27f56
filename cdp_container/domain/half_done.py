"""Journal directories that no agent may serve: their disks may be half of one state and half of another.

A failover or failback was interrupted there, and only the same command makes the disks whole. What those note
of themselves does not belong here (failover_note, failback_note).
"""

from __future__ import annotations

from pathlib import Path

from cdp_container.domain.failback_note import FAILBACK_NAME
from cdp_container.domain.failover_note import load_note
from cdp_container.errors import ConfigInvalid


def refuse_half_done(directory: Path) -> None:
    """Raises ConfigInvalid where a failover or failback of this directory has to end first.

    A failover that only has to start the agent is done as far as the disks go.
    """
    if (directory / FAILBACK_NAME).exists():
        hint = "run the `rehydrate failback` again that was interrupted: it goes on where it was"
        raise ConfigInvalid("cannot start", f"a failback of {directory} is not done yet", hint)
    failover = load_note(directory)
    if failover is not None and not failover.prepared:
        hint = (
            "run the `rehydrate failover` again that was interrupted: it goes on where it was; where another "
            "site took over meanwhile, `rehydrate failback` brings these disks to its newest cut"
        )
        raise ConfigInvalid("cannot start", f"a failover to {directory} is not done yet", hint)
