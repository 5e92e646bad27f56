"""Regular expressions of a runbook, looked for by a process of its own: one that takes for ever ends with it.

Python's own engine goes through exponentially many ways for some patterns, and a guest may say what makes a
harmless one quadratic; within our process no other check would be made meanwhile, and no signal be heard.
What is looked through does not belong here (probes).
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from typing import Final

from rehydrate.boot.programs import plain_environment, run_words

CPU_SECONDS_MAX: Final = 2
"""Of the processor, for one search; of time ten times as much, as the machine may be loaded."""
SEARCH_SECONDS_MAX: Final = 20.0
MEMORY_BYTES_MAX: Final = 1 << 30
NICE: Final = 10
"""Others go first."""
_FOUND: Final = 10
_NOT_FOUND: Final = 11
_OUTPUT_BYTES_MAX: Final = 4096
_LENGTH_BYTES: Final = 8
_SPECIAL: Final = re.compile(r"[\\.^$*+?{}\[\]()|]")
_PROGRAM: Final = f"""
import os, re, resource, sys
resource.setrlimit(resource.RLIMIT_CPU, ({CPU_SECONDS_MAX}, {CPU_SECONDS_MAX}))
resource.setrlimit(resource.RLIMIT_AS, ({MEMORY_BYTES_MAX}, {MEMORY_BYTES_MAX}))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
os.nice({NICE})
length = int.from_bytes(sys.stdin.buffer.read({_LENGTH_BYTES}))
pattern = sys.stdin.buffer.read(length).decode("utf-8", "surrogatepass")
text = sys.stdin.buffer.read().decode("utf-8", "surrogatepass")
os._exit({_FOUND} if re.search(pattern, text) else {_NOT_FOUND})
"""


class TooLong(Exception):
    """A pattern was not looked for to the end; the words say why."""


async def is_in(pattern: str, text: str) -> bool:
    """Whether a pattern is in a text. Raises TooLong; ends at once where it is cancelled."""
    if _SPECIAL.search(pattern) is None:
        return pattern in text
    what = f"to look for {pattern!r}"
    given = pattern.encode("utf-8", "surrogatepass")
    said = len(given).to_bytes(_LENGTH_BYTES) + given + text.encode("utf-8", "surrogatepass")
    words = [sys.executable, "-I", "-S", "-c", _PROGRAM]
    try:
        async with asyncio.timeout(SEARCH_SECONDS_MAX):
            with open(os.memfd_create("pattern"), "w+b") as file:
                file.write(said)
                file.seek(0)
                ended = await run_words(words, plain_environment(), _OUTPUT_BYTES_MAX, stdin=file.fileno())
    except TimeoutError:
        raise TooLong(f"{what} took more than {SEARCH_SECONDS_MAX:g} s") from None
    except OSError as error:
        raise TooLong(f"{what} needs a process and its file: {error.strerror}") from None
    if ended.code < 0:
        raise TooLong(f"{what} took more than {CPU_SECONDS_MAX} s of CPU: write it more simply")
    if ended.code not in (_FOUND, _NOT_FOUND):
        raise TooLong(f"{what} failed: {ended.words}")
    return ended.code == _FOUND
