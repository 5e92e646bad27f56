"""Talking QMP to a QEMU, to ask it what it is. What its answers mean does not belong here (`qmp_answers`).

Nothing is changed in the VM: every command only asks. QEMU serves one client at a time on a socket; where
another one has it, no greeting comes.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final

from cdp_container.errors import HypervisorFailed

ANSWER_BYTES_MAX: Final = 4 << 20
"""Of one answer."""
ANSWERS_BYTES_MAX: Final = 64 << 20
"""Of all answers of one QEMU."""
EVENTS_MAX: Final = 10_000
"""What QEMU tells unasked while we ask."""
ABSENT_HINT: Final = (
    "the VM must run, with a QMP socket at that path that the agent's user may use (docs/capture.md)"
)
BUSY_HINT: Final = "a QMP socket serves one client at a time: give the VM one of its own for the agent"

DENIED_HINT: Final = (
    "the agent's user must be able to write to the socket and to enter its directory; where libvirt runs the"
    " VM the group of its QEMU (libvirt-qemu) may do both (docs/capture.md)"
)
CROWDED: Final = "it did not answer: it hangs, or serves others, and no more may wait for it"
"""The kernel says EAGAIN where as many wait for a listener as it allows; QEMU allows one."""


class Qmp:
    """A connection that is greeted; to be closed. Raises HypervisorFailed.

    Args:
        path: of the socket.
        left_seconds: how much time is left; asked before each wait.
    """

    def __init__(self, path: str, left_seconds: Callable[[], float]) -> None:
        self._what = f"asking the QEMU at {path}"
        self._left_seconds = left_seconds
        self._read = 0
        self._rest = b""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._wait()
            try:
                self._socket.connect(path)
            except PermissionError as error:
                raise HypervisorFailed(self._what, error.strerror or str(error), DENIED_HINT) from error
            except BlockingIOError as error:
                raise HypervisorFailed(self._what, CROWDED, BUSY_HINT) from error
            except OSError as error:
                raise HypervisorFailed(self._what, error.strerror or str(error), ABSENT_HINT) from error
            if "QMP" not in self._message():
                raise HypervisorFailed(self._what, "it does not speak QMP", ABSENT_HINT)
            self.ask("qmp_capabilities", {})
        except BaseException:
            self._socket.close()
            raise

    def ask(self, command: str, arguments: Mapping[str, object]) -> Any:  # noqa: ANN401  whatever it returns
        """See `qmp_answers.Ask`."""
        request = {"execute": command, **({"arguments": arguments} if arguments else {})}
        try:
            self._wait()
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise HypervisorFailed(self._what, error.strerror or str(error)) from error
        for _ in range(EVENTS_MAX):
            message = self._message()
            if "return" in message:
                return message["return"]
            if "error" in message:
                return None
        raise HypervisorFailed(self._what, "it tells of events without end")

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close()

    def _wait(self) -> None:
        left = self._left_seconds()
        if left <= 0:
            raise HypervisorFailed(self._what, "it did not answer in time", BUSY_HINT)
        self._socket.settimeout(left)

    def _message(self) -> dict[str, Any]:
        line = self._line()
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:  # the latter: nested without end
            raise HypervisorFailed(self._what, "it does not speak QMP") from error
        if not isinstance(found, dict):
            raise HypervisorFailed(self._what, "it does not speak QMP")
        return found

    def _line(self) -> bytes:
        parts = [self._rest]
        length = len(self._rest)
        while b"\n" not in parts[-1]:
            if length > ANSWER_BYTES_MAX or self._read > ANSWERS_BYTES_MAX:
                raise HypervisorFailed(self._what, "it answers more than a QEMU does (ANSWER_BYTES_MAX)")
            self._wait()
            try:
                part = self._socket.recv(65_536)
            except TimeoutError as error:
                raise HypervisorFailed(self._what, "it did not answer in time", BUSY_HINT) from error
            except OSError as error:
                raise HypervisorFailed(self._what, error.strerror or str(error)) from error
            if not part:
                raise HypervisorFailed(self._what, "it closed the connection")
            parts.append(part)
            length += len(part)
            self._read += len(part)
        line, _, self._rest = b"".join(parts).partition(b"\n")
        return line
