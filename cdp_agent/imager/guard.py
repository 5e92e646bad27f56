"""The process that outlives an imager that was killed, and takes away what that left in QEMUs.

A backup job without its imager keeps what the guest overwrites for ever, in a file that nobody sees, until
there is no room; and then QEMU before 10.1 tells the guest of an error. So a process is made at the very
beginning, which waits for the end of a pipe. It holds the imager's lock with it: the next imager begins when
this is done. What is taken away does not belong here (`hypervisor`).
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from typing import Final

GUARD_SECONDS_MAX: Final = 20
"""For how long it tries; then the next imager does what is left."""
_WELL: Final = b"."


class Guard:
    """Made in a process that has one thread. `ended_well` says that nothing is left to be done."""

    def __init__(self, clear: Callable[[], None]) -> None:
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        self.pid = os.fork()
        if self.pid == 0:
            os.close(theirs)
            _wait(ours, clear)
        os.close(ours)
        self._pipe = theirs

    def ended_well(self) -> None:
        """It ends without doing anything."""
        with contextlib.suppress(BrokenPipeError):  # somebody killed it: nothing is left to be done
            os.write(self._pipe, _WELL)
        os.close(self._pipe)
        os.waitpid(self.pid, 0)


def _wait(pipe: int, clear: Callable[[], None]) -> None:
    """The guard's whole life; never returns."""
    code = 1
    try:
        os.setsid()  # whoever kills the imager's group leaves it alone
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if os.read(pipe, 1) != _WELL:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(GUARD_SECONDS_MAX)
            clear()
        code = 0
    finally:
        os._exit(code)
