"""The console script `rehydrate`: what is said after an interruption, before anything else is imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cdp_container.entry import entered

_READING: Final = "nothing was changed; the same command begins again"
NEXT_STEPS: Final = {
    **dict.fromkeys(("", "domains", "points", "plan", "verify", "history", "show", "holds"), _READING),
    "rehearsals": _READING,
    "check-runbook": _READING,
    "render": "each file is whole or as it was; the same command writes them again",
    "dr-test": "what it made was cleared away, unless it says what is left; the same command begins again",
    "export": "no image is half-done under its name; what a bucket has is gone on with by the same command",
    "failback": "these disks are not served until it is done; the same command goes on where it was",
    "failover": "the domain may be claimed by this site, and is where that is said above; "
    "the same command goes on where it was",
    "mount": "nothing was changed, and nothing is mounted; the same command begins again",
    "serve": "what was acknowledged is in the overlay; the same command goes on with it",
    "serving": _READING,
    "hold": "it may be placed even so: `rehydrate holds` lists it",
    "unhold": "it may be gone even so: `rehydrate holds` tells",
    "rescue": "nothing half-done looks done; the same command begins again",
    "request": "it may have been left even so, which does no harm; the same command asks once more",
    "restore": "nothing half-done looks done; the same command goes on with what is durable, or begins again",
}


def main() -> int:
    """Run a command; gives the exit code."""
    return entered("rehydrate", NEXT_STEPS, _load)


def _load() -> Callable[[], int]:
    from rehydrate.cli.app import main as run_command

    return run_command
