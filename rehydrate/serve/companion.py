"""A `serve` that ends with the rehearsal which started it, even if that is killed: nobody else needs it then.

What a rehearsal asks of it does not belong here (rehydrate.rehearsal.served).
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Mapping
from typing import Final

PARENT_VARIABLE: Final = "CDP_SERVE_PARENT"
"""The process that it is to end with, in its environment."""
_SET_DEATH_SIGNAL: Final = 1
"""Of prctl; the signal comes when the thread ends which started us, so that has to be one that stays."""


def end_with_parent(environment: Mapping[str, str]) -> None:
    """Have SIGTERM sent to this process when the one ends that is named; without that nothing is done.

    Nor where another one is between: the next rehearsal ends what it finds.
    """
    parent = environment.get(PARENT_VARIABLE)
    if parent != str(os.getppid()):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_SET_DEATH_SIGNAL, signal.SIGTERM, 0, 0, 0)
    if parent != str(os.getppid()):
        signal.raise_signal(signal.SIGTERM)  # it ended meanwhile, and the kernel will never tell
