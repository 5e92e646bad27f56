"""The console script `cdp-agent`: what is said after an interruption, before anything else is imported."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import Final

from cdp_container.entry import entered

CHILDREN: Final = (
    "splitter-process", "streamer-process", "collector-process", "verifier-process", "describer-process",
)  # fmt: skip
_LOOKING: Final = "nothing was changed; the same command begins again"
NEXT_STEPS: Final = {
    **dict.fromkeys(("", "attest", "check-config", "kit", "owner", "status"), _LOOKING),
    "init": "the same command finishes what was begun",
    "run": "the same command starts the agent",
    "reload": "a running agent may take the volumes over even so; the same command says what is left to do",
    "release": "once begun, the agent goes on with it: `cdp-agent status` tells, `--cancel` takes it back",
    "grant": "once begun, the agent goes on with the release; the same command also answers the request",
    "deny": "it may be denied even so: `cdp-agent owner` lists what is not answered yet",
    "marker": "it may be set even so: `rehydrate points` lists it; the same command sets another",
    "flush": "the agent goes on sending; the same command waits again",
    "gc": "nothing that is needed is gone; the same command, or the next pass, goes on where it was",
    "verify": "nothing was changed; the same command begins again",
    "heal": "what was written is sound; the same command goes on with the rest",
    "trees": "nothing was changed that was not said; a scan that was begun goes on",
    "adopt": "before the cut-over all was undone, after it the VM is adopted; the same command goes on",
    "describe": _LOOKING,
    "usage": "with --abort-uploads some may be aborted; the same command begins again",
}


def main() -> int:
    """Run a command; gives the exit code."""
    if sys.argv[1:2] and sys.argv[1] in CHILDREN:
        # Ctrl-C reaches the whole process group; it is for the supervisor alone, who knows the order.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return entered("cdp-agent", NEXT_STEPS, _load)


def _load() -> Callable[[], int]:
    from cdp_agent.cli.app import main as run_command

    return run_command


if __name__ == "__main__":
    sys.exit(main())
