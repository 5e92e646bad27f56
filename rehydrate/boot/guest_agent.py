"""What a guest's agent is asked: to run programs, one after the other, each to its end. No I/O of its own.

Through which channel it is asked does not belong here (qemu, libvirt).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from cdp_container.machine_errors import MachineFailed
from rehydrate.boot.lines import ANSWERS_MAX, Line

LOOK_SECONDS: Final = 0.2
"""Between two looks whether a program has ended."""
OUTPUT_CHARS_MAX: Final = 200
"""Of what a program in the guest printed, in an error."""

Ask: TypeAlias = Callable[[str, Mapping[str, Any]], Awaitable[object]]
"""Given a command of the agent and its arguments, gives what it returns. Raises MachineFailed."""


_FORGET: Final = b"\xff"
"""Has an agent forget what somebody before us half said."""


async def synchronise(line: Line, number: int) -> None:
    """Begin to talk with an agent: what it answers after this, it answers to us.

    It may still answer somebody before us, and to `_FORGET` QEMU's agent answers first that it is no JSON: an
    error that is meant so. Only the number is the answer.

    Args:
        line: to the agent.
        number: that nobody said before.

    Raises MachineFailed: the connection ended, or among ANSWERS_MAX lines was no such answer.
    """
    await line.say("guest-sync-delimited", {"id": number}, _FORGET)
    for _ in range(ANSWERS_MAX):
        if (await line.receive()).get("return") == number:
            return
    raise line.failed(f"guest-sync-delimited: no answer among {ANSWERS_MAX}")


async def run_in_guest(commands: Sequence[Sequence[str]], ask: Ask) -> None:
    """Run programs in a guest. Raises MachineFailed: one failed, or the agent says what makes no sense."""
    for words in commands:
        started = await ask("guest-exec", {"path": words[0], "arg": list(words[1:]), "capture-output": True})
        pid = started.get("pid") if isinstance(started, dict) else None
        if not isinstance(pid, int):
            raise _failed("guest-exec gave no process")
        while True:
            ended = await ask("guest-exec-status", {"pid": pid})
            if not isinstance(ended, dict):
                raise _failed("guest-exec-status said nothing")
            if ended.get("exited") is True:
                break
            await asyncio.sleep(LOOK_SECONDS)
        if ended.get("exitcode") != 0:
            said = _text(ended.get("err-data")) or _text(ended.get("out-data"))
            raise _failed(f"{words[0]} ended with {ended.get('exitcode', ended.get('signal'))}: {said}")


def _text(data: object) -> str:
    try:
        plain = base64.b64decode(data, validate=True) if isinstance(data, str) else b""
    except binascii.Error:
        return ""
    return plain.decode(errors="replace").strip()[-OUTPUT_CHARS_MAX:]


def _failed(why: str) -> MachineFailed:
    return MachineFailed("run a program in the guest", why)
