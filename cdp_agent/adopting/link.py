"""Commanding a QEMU over QMP for as long as an adoption takes.

Refusals are errors of their own, as what follows differs: after a refusal QEMU is as it was, after a lost
connection nobody knows. Commands that must be heard while QEMU's main loop waits go past it (*out of band*).
What is commanded does not belong here; nor asking only (`cdp_agent.vms.qmp_asked`).
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from cdp_agent.vms.qmp_asked import ABSENT_HINT, DENIED_HINT
from cdp_container.clock import Clock
from cdp_container.errors import HypervisorFailed

COMMAND_SECONDS_MAX: Final = 60.0
"""For one answer: QEMU itself may wait for requests of the guest before it does something."""
GREETING_SECONDS_MAX: Final = 5.0
RECONNECT_SECONDS_MAX: Final = 15.0
"""How long a lost QMP connection is tried again."""
RECONNECT_EVERY_SECONDS: Final = 0.5
MESSAGE_BYTES_MAX: Final = 16 << 20
EVENTS_MAX: Final = 10_000
"""What QEMU may tell unasked before an answer."""
_CREDENTIALS: Final = struct.Struct("3i")
_BUSY_HINT: Final = (
    "a QMP socket serves one client at a time: give the VM one for the agent alone, or name it by --qmp"
)

Arguments = Mapping[str, object]


class Refused(HypervisorFailed):
    """QEMU understood a command and did not do it."""


class LinkLost(HypervisorFailed):
    """The connection is lost; whether the last command was done is not known."""


class Qemu(Protocol):
    """What commands a QEMU. Raises Refused, LinkLost."""

    def do(self, command: str, arguments: Arguments | None = None) -> Any:  # noqa: ANN401  whatever it returns
        """Have a command done; gives what it returns."""
        ...

    def do_together(self, commands: Sequence[tuple[str, Arguments]]) -> list[Refused | None]:
        """Send several at once; gives what each was refused with, None where it was done."""
        ...

    def do_past_all(self, command: str, arguments: Arguments) -> None:
        """Have a command done although QEMU may wait for something else."""
        ...

    def connect_again(self) -> None:
        """After LinkLost. Raises LinkLost where it cannot be."""
        ...


class Link:
    """A `Qemu` at a unix socket; to be closed.

    Args:
        path: of the socket.
        clock: what is waited by.
    """

    def __init__(self, path: str, clock: Clock) -> None:
        self._path = path
        self._what = f"commanding the QEMU at {path}"
        self._clock = clock
        self._rest = b""
        self._number = 0
        self._until_ns = 0
        self._past_all = "execute"
        self._socket: socket.socket | None = None
        self._connect()

    def do(self, command: str, arguments: Arguments | None = None) -> Any:  # noqa: ANN401  whatever it returns
        """See `Qemu.do`."""
        found = self._answers([self._send(command, arguments or {})])[0]
        if isinstance(found, Refused):
            raise found
        return found

    def do_together(self, commands: Sequence[tuple[str, Arguments]]) -> list[Refused | None]:
        """See `Qemu.do_together`."""
        found = self._answers([self._send(command, arguments) for command, arguments in commands])
        return [one if isinstance(one, Refused) else None for one in found]

    def do_past_all(self, command: str, arguments: Arguments) -> None:
        """See `Qemu.do_past_all`."""
        found = self._answers([self._send(command, arguments, self._past_all)])[0]
        if isinstance(found, Refused):
            raise found

    def connect_again(self) -> None:
        """See `Qemu.connect_again`."""
        until_ns = self._clock.boottime_ns() + int(RECONNECT_SECONDS_MAX * 1e9)
        while True:
            try:
                self.close()
                self._connect()
                return
            except LinkLost:
                if self._clock.boottime_ns() >= until_ns:
                    raise
            self._clock.sleep(RECONNECT_EVERY_SECONDS)

    def peer_pid(self) -> int:
        """The process that made the socket: QEMU, or whoever made it for that."""
        assert self._socket is not None
        found = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid: int = _CREDENTIALS.unpack(found)[0]
        return pid

    def close(self) -> None:
        """Let go of the socket; whoever waits for it can have it."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._rest = b""

    def _connect(self) -> None:
        self._until_ns = self._clock.boottime_ns() + int(GREETING_SECONDS_MAX * 1e9)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.settimeout(GREETING_SECONDS_MAX)
            try:
                self._socket.connect(self._path)
            except OSError as error:
                hint = DENIED_HINT if isinstance(error, PermissionError) else ABSENT_HINT
                raise LinkLost(self._what, error.strerror or str(error), hint) from error
            greeting = self._message().get("QMP")
            if not isinstance(greeting, dict):
                raise HypervisorFailed(self._what, "it does not speak QMP", ABSENT_HINT)
            can = [one for one in ("oob",) if one in greeting.get("capabilities", ())]
            self._past_all = "exec-oob" if can else "execute"
            self.do("qmp_capabilities", {"enable": can} if can else {})
        except BaseException:
            self.close()
            raise

    def _send(self, command: str, arguments: Arguments, how: str = "execute") -> str:
        if self._socket is None:
            raise LinkLost(self._what, "it is not connected")
        self._number += 1
        name = str(self._number)
        request = {how: command, "id": name, **({"arguments": arguments} if arguments else {})}
        self._until_ns = self._clock.boottime_ns() + int(COMMAND_SECONDS_MAX * 1e9)
        try:
            self._wait().sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise self._lost(error.strerror or str(error)) from error
        return name

    def _answers(self, names: Sequence[str]) -> list[Any]:
        """What each command returned, or a Refused."""
        found: dict[str, Any] = {}
        for _ in range(EVENTS_MAX):
            message = self._message()
            name = message.get("id")
            if "error" in message:
                found[str(name)] = Refused(self._what, _why(message["error"]))
            elif "return" in message:
                found[str(name)] = message["return"]
            if all(name in found for name in names):
                return [found[name] for name in names]
        raise self._lost("it tells of events without end")

    def _wait(self) -> socket.socket:
        assert self._socket is not None
        left = (self._until_ns - self._clock.boottime_ns()) / 1e9
        if left <= 0:
            raise self._lost("it did not answer in time", _BUSY_HINT)
        self._socket.settimeout(left)
        return self._socket

    def _message(self) -> dict[str, Any]:
        while b"\n" not in self._rest:
            if len(self._rest) > MESSAGE_BYTES_MAX:
                raise self._lost("it answers more than a QEMU does (MESSAGE_BYTES_MAX)")
            try:
                part = self._wait().recv(1 << 20)
            except TimeoutError as error:
                raise self._lost("it did not answer in time", _BUSY_HINT) from error
            except OSError as error:
                raise self._lost(error.strerror or str(error)) from error
            if not part:
                raise self._lost("it closed the connection")
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):  # the latter: nested without end
            found = None
        if not isinstance(found, dict):
            raise self._lost("it does not speak QMP")
        return found

    def _lost(self, why: str, hint: str | None = None) -> LinkLost:
        """After it nothing that still comes belongs to anything."""
        self.close()
        return LinkLost(self._what, why, hint)


def _why(error: object) -> str:
    found = error.get("desc") if isinstance(error, dict) else None
    return str(found)[:500] if found else "it says no, and not why"
