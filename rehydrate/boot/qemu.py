"""A plain QEMU as a hypervisor: the rendered script starts it in the background, QMP tells how it is.

Its sockets lie in the VM's directory, which is ours, so who answers there is that VM. See `Machines`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from cdp_container.machine_errors import MachineFailed
from rehydrate.boot import guest_agent
from rehydrate.boot.files import put_console_aside, write_documents
from rehydrate.boot.lines import Away, Line, connected
from rehydrate.boot.machines import (
    ASK_SECONDS_MAX,
    START_SECONDS_MAX,
    STOP_SECONDS_MAX,
    Known,
    Power,
    Ready,
    Seen,
)
from rehydrate.boot.processes import end_all, has_words, pids_with
from rehydrate.boot.programs import plain_environment, run_words

SHELL: Final = "/bin/sh"
OUTPUT_BYTES_MAX: Final = 4096
LOOK_SECONDS: Final = 0.1
_MEANT: Final = {
    "internal-error": "a KVM that is here and cannot run it; `emulate: true` of the runbook does without",
    "guest-panicked": "its guest's kernel gave up",
    "io-error": "a disk failed",
}
"""What QEMU's words for a guest that does not go on say to people."""


class QemuMachines:
    """See `Machines`."""

    async def look(self, vm: Known) -> Seen:
        """See `Machines.look`."""
        seen = await self._asked(vm)
        if seen.power is Power.OFF and (pids := pids_with(*_marked(vm))):
            # To start it again would have two write on the same disks.
            return Seen(
                Power.STILL, f"process {pids[0]} has it, and its monitor {vm.path('qmp.sock')} is gone"
            )
        if seen.power is Power.STILL:
            # Somebody has to look at it, and it holds its disks until then.
            more = f": {_MEANT[seen.words]}" if seen.words in _MEANT else ""
            return Seen(Power.STILL, f"{seen.words}{more}; kill $(cat {vm.path('pid')}) ends it")
        return seen

    async def _asked(self, vm: Known) -> Seen:
        """What its monitor says; OFF where there is none."""
        try:
            async with asyncio.timeout(ASK_SECONDS_MAX), _monitor(vm) as monitor:
                status = await monitor.ask("query-status")
        except Away:
            return Seen(Power.OFF)
        except TimeoutError:
            raise MachineFailed(f"ask {vm.title!r}", f"no answer within {ASK_SECONDS_MAX:g} s") from None
        words = str(status.get("status"))[:40] if isinstance(status, dict) else "nothing"
        return Seen(Power.RUNNING if words == "running" else Power.STILL, words)

    async def start(self, vm: Ready) -> None:
        """See `Machines.start`."""
        script = write_documents(vm)
        put_console_aside(vm)
        what = f"start {vm.known.title!r}"
        try:
            async with asyncio.timeout(START_SECONDS_MAX):
                words = [SHELL, str(script), "-daemonize"]
                ended = await run_words(words, plain_environment(), OUTPUT_BYTES_MAX, apart=True)
                if ended.code:
                    raise MachineFailed(what, ended.words, f"run {script} by hand")
                seen = await self._asked(vm.known)
                while seen.power is Power.STILL and seen.words in ("prelaunch", "inmigrate"):
                    await asyncio.sleep(LOOK_SECONDS)
                    seen = await self._asked(vm.known)
        except TimeoutError:
            raise MachineFailed(what, f"it did not start within {START_SECONDS_MAX:g} s") from None
        except OSError as error:
            raise MachineFailed(what, f"{SHELL}: {error.strerror}") from error
        if seen.power is Power.OFF:
            raise MachineFailed(what, "it ended at once", f"run {script} by hand")

    async def ask_agent(self, vm: Known, commands: Sequence[Sequence[str]]) -> None:
        """See `Machines.ask_agent`."""
        async with _agent(vm) as line:

            async def ask(command: str, arguments: Mapping[str, Any]) -> object:
                async with _answered(vm):
                    return await line.ask(command, arguments)

            async with _answered(vm):
                await guest_agent.synchronise(line, int.from_bytes(os.urandom(4)) >> 1)
            await guest_agent.run_in_guest(commands, ask)

    async def remove(self, vm: Known) -> None:
        """See `Machines.remove`."""
        with contextlib.suppress(Away, MachineFailed, TimeoutError):
            async with asyncio.timeout(STOP_SECONDS_MAX), _monitor(vm) as monitor:
                if await _is_it(monitor, vm):
                    await monitor.ask("quit")
        # Also where it has no monitor: that is not open yet, or its directory is gone. Another rehearsal may
        # have the same directory by now, and a VM with the same paths: never one with another UUID.
        pid = await end_all(
            *_marked(vm), STOP_SECONDS_MAX, lambda pid: not vm.uuid or has_words(pid, "-uuid", vm.uuid)
        )
        if pid is not None:
            raise MachineFailed(f"stop {vm.title!r}", f"process {pid} does not end")


def _marked(vm: Known) -> tuple[str, str]:
    """An option that the QEMU of this VM has, as it is rendered, and no other."""
    return "-pidfile", vm.path("pid")


async def _is_it(monitor: Line, vm: Known) -> bool:
    """Whether a monitor is that of this very VM. Raises MachineFailed."""
    said = await monitor.ask("query-uuid")
    return not vm.uuid or (isinstance(said, dict) and str(said.get("UUID")).lower() == vm.uuid.lower())


@asynccontextmanager
async def _monitor(vm: Known) -> AsyncIterator[Line]:
    """The VM's monitor, ready for commands. Raises Away."""
    async with connected(vm.path("qmp.sock")) as line:
        await line.receive()
        await line.ask("qmp_capabilities")
        yield line


@asynccontextmanager
async def _agent(vm: Known) -> AsyncIterator[Line]:
    try:
        async with connected(vm.path("agent.sock")) as line:
            yield line
    except Away as error:
        raise MachineFailed(f"ask the agent of {vm.title!r}", str(error)) from error


@asynccontextmanager
async def _answered(vm: Known) -> AsyncIterator[None]:
    """An answer of the agent is waited for within. QEMU keeps what is said to one that has yet to begin."""
    try:
        async with asyncio.timeout(ASK_SECONDS_MAX):
            yield
    except TimeoutError:
        why = f"no answer within {ASK_SECONDS_MAX:g} s"
        raise MachineFailed(f"ask the agent of {vm.title!r}", why) from None
