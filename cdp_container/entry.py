"""The first lines of both commands: an interruption is told in one line, even while the rest is imported.

Imports nothing that takes time, for that could be interrupted before anybody can tell. How a command fails
does not belong here (console).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Final

EXIT_INTERRUPTED: Final = 130
_EXITS_OF_SIGNALS: Final = (129, EXIT_INTERRUPTED, 143)
"""128 + SIGHUP, SIGINT, SIGTERM: what a shell calls a program that these ended."""


def entered(program: str, next_steps: Mapping[str, str], load: Callable[[], Callable[[], int]]) -> int:
    """Import a program and run it; gives its exit code.

    Args:
        program: its name.
        next_steps: what to do after an interruption, by command; "" for all others.
        load: imports it, and gives what runs it.
    """
    try:
        code = load()()
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    if code in _EXITS_OF_SIGNALS:
        word = sys.argv[1] if len(sys.argv) > 1 else ""
        name = f"{program} {word}" if word and word in next_steps else program
        sys.stderr.write(f"interrupted: {name}: {next_steps.get(word, next_steps[''])}\n")
        sys.stderr.flush()
    return code
