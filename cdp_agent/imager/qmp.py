"""Commanding a QEMU over QMP: what changes something in it, and descriptors that go along.

Every command has a number of its own, which QEMU says again with its answer: an answer that comes too late is
never taken for that of the next command.

What is commanded, and in which order, does not belong here (`cycle`). A question that QEMU cannot answer is
asked by `vms.qmp_asked`, on which this rests.
"""

from __future__ import annotations

import functools
import json
import socket
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from cdp_agent.vms.qmp_asked import EVENTS_MAX, Qmp
from cdp_container.errors import HypervisorFailed


class QmpRefused(HypervisorFailed):
    """QEMU understood a command and did not do it. The connection goes on."""


Given = ParamSpec("Given")
Result = TypeVar("Result")


def sane(call: Callable[Given, Result]) -> Callable[Given, Result]:
    """Of what uses answers: where one lacks what QEMU's answers have, HypervisorFailed is raised."""

    @functools.wraps(call)
    def held(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        try:
            return call(*args, **kwargs)
        except (LookupError, TypeError, ValueError, OverflowError, AttributeError) as error:
            why = f"its answers make no sense: {type(error).__name__}: {error}"
            raise HypervisorFailed("asking a QEMU", why) from error

    return held


class Commanding(Qmp):
    """A connection of which refusals are errors. Raises HypervisorFailed; then nothing is known of it.

    Attributes:
        is_lost: an answer did not come, so that this connection is of no use any more.
    """

    def __init__(self, path: str, left_seconds: Callable[[], float]) -> None:
        self.is_lost = False
        self._number = 0
        super().__init__(path, left_seconds)

    @property
    def is_usable(self) -> bool:
        """Whether a command has a chance: nothing failed, and there is time left."""
        return not self.is_lost and self._left_seconds() > 0

    def do(self, command: str, arguments: Mapping[str, object] | None = None, fd: int | None = None) -> Any:  # noqa: ANN401  whatever it returns
        """Have a command done; `fd` goes along with it. Raises QmpRefused where QEMU says no."""
        if self.is_lost:
            raise HypervisorFailed(self._what, f"{command}: the connection is lost")
        self._number += 1
        request = {"execute": command, "id": self._number, **({"arguments": arguments} if arguments else {})}
        try:
            self._tell(json.dumps(request).encode() + b"\n", fd)
            message = self._answer()
        except BaseException:
            self.is_lost = True
            raise
        if "error" in message:
            raise QmpRefused(self._what, f"{command}: {_why(message['error'])}")
        return message["return"]

    def _tell(self, line: bytes, fd: int | None) -> None:
        try:
            self._wait()
            if fd is None:
                self._socket.sendall(line)
            else:
                sent = socket.send_fds(self._socket, [line], [fd])
                self._socket.sendall(line[sent:])
        except OSError as error:
            raise HypervisorFailed(self._what, error.strerror or str(error)) from error

    def _answer(self) -> dict[str, Any]:
        """The one to the command that was sent last; events and answers to others are passed over."""
        for _ in range(EVENTS_MAX):
            message = self._message()
            if message.get("id") == self._number and ("return" in message or "error" in message):
                return message
            if "error" in message and "id" not in message:
                raise HypervisorFailed(self._what, f"it did not understand: {_why(message['error'])}")
        raise HypervisorFailed(self._what, "it tells of events without end")


def _why(error: object) -> str:
    found = error.get("desc") if isinstance(error, dict) else None
    return str(found)[:500] if found else "it says no, and not why"
