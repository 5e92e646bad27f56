"""libvirt as a hypervisor, asked by `virsh`: by UUID, so that no name is taken for a number. See `Machines`.

Each question is a process of its own, which can be killed where libvirtd hangs.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import orjson

from cdp_container.domain.xml_page import load_xml
from cdp_container.machine_errors import MachineFailed
from rehydrate.boot import guest_agent
from rehydrate.boot.files import put_console_aside, write_documents
from rehydrate.boot.machines import (
    ANSWER_BYTES_MAX,
    ASK_SECONDS_MAX,
    START_SECONDS_MAX,
    STOP_SECONDS_MAX,
    Known,
    Power,
    Ready,
    Seen,
)
from rehydrate.boot.programs import Ended, plain_environment, run_words

VIRSH: Final = "virsh"
_NOT_FOUND: Final = ("failed to get domain", "Domain not found", "no domain with matching uuid")
"""What virsh says: the first of every lookup that failed, whatever the reason. So none is believed alone."""
_POWERS: Final = {
    "running": Power.RUNNING,
    "idle": Power.RUNNING,
    "shut off": Power.OFF,
    "crashed": Power.OFF,
}


class LibvirtMachines:
    """See `Machines`. `uri`: of the libvirtd."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    async def look(self, vm: Known) -> Seen:
        """See `Machines.look`. Raises MachineFailed also where another VM has its UUID."""
        done = await self._virsh("domstate", vm.uuid)
        if done is None:
            return Seen(Power.GONE)
        words = done.last_line
        await self._check_ours(vm)
        return Seen(_POWERS.get(words, Power.STILL), words)

    async def start(self, vm: Ready) -> None:
        """See `Machines.start`."""
        what = f"start {vm.known.title!r}"
        path = write_documents(vm)
        put_console_aside(vm)
        await self._must("define", "--file", str(path), seconds_max=START_SECONDS_MAX)
        await self._must("start", vm.known.uuid, seconds_max=START_SECONDS_MAX)
        seen = await self.look(vm.known)
        if seen.power is not Power.RUNNING:
            raise MachineFailed(what, f"it is {seen.words or 'gone'} after its start")

    async def ask_agent(self, vm: Known, commands: Sequence[Sequence[str]]) -> None:
        """See `Machines.ask_agent`."""

        async def ask(command: str, arguments: Mapping[str, Any]) -> object:
            asked = orjson.dumps({"execute": command, "arguments": arguments}).decode()
            done = await self._must("qemu-agent-command", vm.uuid, asked)
            try:
                answer: object = orjson.loads(done.output)["return"]
            except (ValueError, KeyError, TypeError) as error:
                why = "what it says makes no sense"
                raise MachineFailed(f"ask the agent of {vm.title!r}", why) from error
            return answer

        await guest_agent.run_in_guest(commands, ask)

    async def remove(self, vm: Known) -> None:
        """See `Machines.remove`."""
        seen = await self.look(vm)
        if seen.power is Power.GONE:
            return
        if seen.power is not Power.OFF:
            await self._stop(vm)
        await self._virsh(
            "undefine",
            vm.uuid,
            "--nvram",
            "--managed-save",
            "--snapshots-metadata",
            "--checkpoints-metadata",
            seconds_max=STOP_SECONDS_MAX,
        )
        if (await self.look(vm)).power is not Power.GONE:
            raise MachineFailed(f"undefine {vm.title!r}", "it is still defined")

    async def _stop(self, vm: Known) -> None:
        try:
            await self._virsh("destroy", vm.uuid, seconds_max=STOP_SECONDS_MAX)
        except MachineFailed:
            # It may have ended by itself since it was looked at, and then libvirt refuses.
            if (await self.look(vm)).power not in (Power.OFF, Power.GONE):
                raise

    async def _check_ours(self, vm: Known) -> None:
        """Our documents alone have a console that is kept in this file. Raises MachineFailed."""
        done = await self._must("dumpxml", vm.uuid)
        what = f"the domain {vm.uuid} of libvirt"
        root = load_xml(done.output.decode(errors="replace"), partial(MachineFailed, what))
        logs = [log.get("file") for log in root.findall("devices/serial/log")]
        name = root.findtext("name")
        if vm.path("console") not in logs or name != vm.title:
            why = f"a VM that we did not define has this UUID: {name!r}"
            raise MachineFailed(what, why, "undefine it, or name it in `leave_out` of the runbook")

    async def _must(self, *words: str, seconds_max: float | None = None) -> Ended:
        done = await self._virsh(*words, seconds_max=seconds_max)
        if done is None:
            raise MachineFailed(f"ask libvirt ({words[0]})", "there is no such domain")
        return done

    async def _virsh(self, word: str, *words: str, seconds_max: float | None = None) -> Ended | None:
        """What it answers; None where libvirt does not list such a domain. Raises MachineFailed."""
        done = await self._run(word, *words, seconds_max=seconds_max)
        if done.code == 0:
            return done
        what, said = f"ask libvirt at {self._uri} ({word})", done.output.decode(errors="replace")
        if words and any(one in said for one in _NOT_FOUND) and not await self._lists(words[0]):
            return None
        raise MachineFailed(what, done.words)

    async def _lists(self, uuid: str) -> bool:
        """Whether libvirt has a domain, which it could not look up. Raises MachineFailed: nobody can tell."""
        done = await self._run("list", "--all", "--uuid")
        if done.code or len(done.output) >= ANSWER_BYTES_MAX:
            why = done.words if done.code else "it has too many domains"
            raise MachineFailed(f"ask libvirt at {self._uri} whether it has the domain {uuid}", why)
        return uuid.lower() in done.output.decode(errors="replace").lower().split()

    async def _run(self, *words: str, seconds_max: float | None = None) -> Ended:
        """How virsh ended. Raises MachineFailed: it did not."""
        what, seconds = f"ask libvirt at {self._uri} ({words[0]})", seconds_max or ASK_SECONDS_MAX
        environment = {**plain_environment(), "LC_ALL": "C"}
        call = [VIRSH, "--quiet", "--connect", self._uri, *words]
        try:
            async with asyncio.timeout(seconds):
                return await run_words(call, environment, ANSWER_BYTES_MAX)
        except TimeoutError:
            raise MachineFailed(what, f"no answer within {seconds:g} s") from None
        except OSError as error:
            why = f"{VIRSH}: {os.strerror(error.errno or 0)}"
            raise MachineFailed(what, why, "install libvirt's clients on this machine") from error
