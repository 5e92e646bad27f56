"""Commanding a QEMU over QMP: what changes something in it, and descriptors that go along.

What is commanded, and in which order, does not belong here (`cycle`). A question that QEMU cannot answer is
asked by `vms.qmp_asked`, on which this rests.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from typing import Any

from cdp_agent.vms.qmp_asked import EVENTS_MAX, Qmp
from cdp_container.errors import HypervisorFailed


class QmpRefused(HypervisorFailed):
    """QEMU understood a command and did not do it. The connection goes on."""


class Commanding(Qmp):
    """A connection of which refusals are errors. Raises HypervisorFailed; then nothing is known of it."""

    def do(self, command: str, arguments: Mapping[str, object] | None = None, fd: int | None = None) -> Any:  # noqa: ANN401  whatever it returns
        """Have a command done; `fd` goes along with it. Raises QmpRefused where QEMU says no."""
        request = {"execute": command, **({"arguments": arguments} if arguments else {})}
        line = json.dumps(request).encode() + b"\n"
        try:
            self._wait()
            if fd is None:
                self._socket.sendall(line)
            else:
                sent = socket.send_fds(self._socket, [line], [fd])
                self._socket.sendall(line[sent:])
        except OSError as error:
            raise HypervisorFailed(self._what, error.strerror or str(error)) from error
        for _ in range(EVENTS_MAX):
            message = self._message()
            if "return" in message:
                return message["return"]
            if "error" in message:
                raise QmpRefused(self._what, f"{command}: {_why(message['error'])}")
        raise HypervisorFailed(self._what, "it tells of events without end")


def _why(error: object) -> str:
    found = error.get("desc") if isinstance(error, dict) else None
    return str(found)[:500] if found else "it says no, and not why"
