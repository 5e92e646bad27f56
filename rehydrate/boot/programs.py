"""Programs that are run to their end without a shell, in a group of their own that never outlives the asking.

Those of a rehearsal's --check stand in rehydrate.rehearsal.programs: these here can be let go of at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rehydrate.rehearsal.programs import without_secrets

KILL_SECONDS: Final = 2.0
"""From the request to end until it is killed, and from that until it is given up."""
DRAIN_SECONDS: Final = 1.0
"""How long output is waited for once a program has ended: one that it left behind may keep the pipe."""
_READ_BYTES: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended (negative: a signal), the last bytes that it printed, and what it printed last."""

    code: int
    output: bytes

    @property
    def last_line(self) -> str:
        """The last line that is none of blanks."""
        lines = self.output.decode(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else ""

    @property
    def words(self) -> str:
        """How it ended, for people."""
        how = f"exit code {self.code}" if self.code >= 0 else f"signal {-self.code}"
        return f"{how}: {self.last_line}" if self.last_line else how


def plain_environment() -> dict[str, str]:
    """Ours, without the passphrase and what opens the store."""
    return without_secrets(os.environ)


async def run_words(
    words: Sequence[str],
    environment: Mapping[str, str],
    bytes_max: int,
    apart: bool = False,
    stdin: int = asyncio.subprocess.DEVNULL,
) -> Ended:
    """Run a program to its end; cancelled, it and its group are ended first. Raises OSError: it cannot start.

    Args:
        words: the program and its arguments.
        environment: all of it.
        bytes_max: so much of the end of its output is kept.
        apart: whether what it leaves behind may live on (a hypervisor that goes into the background).
        stdin: a descriptor that it reads.
    """
    process = await _spawned(words, environment, stdin)
    assert process.stdout is not None
    kept = bytearray()
    reading = asyncio.create_task(_read(process.stdout, kept, bytes_max))
    try:
        await process.wait()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(reading), DRAIN_SECONDS)
    except BaseException:
        apart = False
        raise
    finally:
        if not apart:
            await _end_group(process)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    assert process.returncode is not None
    return Ended(process.returncode, bytes(kept))


async def _spawned(
    words: Sequence[str], environment: Mapping[str, str], stdin: int
) -> asyncio.subprocess.Process:
    """A process; cancelled before it is known, it and its group are ended."""
    spawning = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *words,
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(environment),
            cwd="/",
            start_new_session=True,
        )
    )
    try:
        return await asyncio.shield(spawning)
    except asyncio.CancelledError:
        await _end_group(await spawning)
        raise


async def _read(stream: asyncio.StreamReader, kept: bytearray, bytes_max: int) -> None:
    while data := await stream.read(_READ_BYTES):
        kept += data
        del kept[:-bytes_max]


async def _end_group(process: asyncio.subprocess.Process) -> None:
    """What is left of a group, its leader gone or not.

    One that does not even end by SIGKILL, as it waits for a disk or a mount, is not waited for any more.
    """
    if process.returncode is None:
        _kill(process.pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), KILL_SECONDS)
    _kill(process.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), KILL_SECONDS)


def _kill(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
