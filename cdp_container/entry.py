"""The first lines of both commands: an interruption is told in one line, even while the rest is imported.

Imports nothing that takes time, for that could be interrupted before anybody can tell. How a command fails
does not belong here (console).
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Final, TypeAlias

EXIT_INTERRUPTED: Final = 130
_EXITS_OF_SIGNALS: Final = (129, EXIT_INTERRUPTED, 143)
"""128 + SIGHUP, SIGINT, SIGTERM: what a shell calls a program that these ended."""
_SHOW_CURSOR: Final = "\r\x1b[K\x1b[?25h"
"""A bar of progress hides it."""

_Handler: TypeAlias = Callable[[int, FrameType | None], object] | int | None


def entered(program: str, next_steps: Mapping[str, str], load: Callable[[], Callable[[], int]]) -> int:
    """Import a program and run it; gives its exit code.

    Args:
        program: its name.
        next_steps: what to do after an interruption, by command; "" for all others.
        load: imports it, and gives what runs it.
    """

    def tell() -> None:
        word = sys.argv[1] if len(sys.argv) > 1 else ""
        name = f"{program} {word}" if word and word in next_steps else program
        sys.stderr.write(f"interrupted: {name}: {next_steps.get(word, next_steps[''])}\n")
        sys.stderr.flush()

    before: _Handler = None
    gc.disable()  # nothing of what is imported is garbage (see `imported`)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's: nothing here multiplies matrices
    try:
        before = _end_at_the_second(tell)
        code = load()()
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    if code in _EXITS_OF_SIGNALS:
        tell()
    if before is not None:
        # After an interruption Python may still wait for a thread, and what is to be told was told.
        signal.signal(signal.SIGINT, _end_quietly if code == EXIT_INTERRUPTED else before)
    gc.enable()
    return code


def _end_quietly(_: int, __: FrameType | None) -> None:
    os._exit(EXIT_INTERRUPTED)


def imported() -> None:
    """To be called when the work begins: garbage is looked for from now on, not among what was imported."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def _end_at_the_second(tell: Callable[[], None]) -> _Handler:
    """The first Ctrl-C cleans up, which may wait long for a store; the second ends at once, as a kill would.

    Gives the handler before it; None where interruptions are ignored, or are somebody else's.
    """

    def end(_: int, __: FrameType | None) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(_SHOW_CURSOR)
        tell()
        os._exit(EXIT_INTERRUPTED)

    def interrupt(_: int, __: FrameType | None) -> None:
        signal.signal(signal.SIGINT, end)
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:
        return None
    signal.signal(signal.SIGINT, interrupt)
    return before
