"""`cdp-agent describe`: what hypervisors say of the domain's VMs just now, for people or for the streamer.

It is a process of its own, as it may hang in a hypervisor's library or file system: it asks in threads, and
ends without waiting for those that do not come back. What the container has is `rehydrate show ADDRESS vms`.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cdp_agent.cli.accepted import load_running
from cdp_agent.cli.children import load_agent
from cdp_agent.vms.answer import encode_line
from cdp_agent.vms.asking import DESCRIBE_SECONDS_MAX, THREADS, Told, ask_vms, volumes_served
from cdp_container.clock import Clock
from cdp_container.console import answer
from cdp_container.domain.identity import AgentIdentity
from cdp_container.domain.machine_text import configuration_lines, configuration_members
from cdp_container.domain.settings import AgentSettings
from cdp_container.errors import Incomplete

_PR_SET_PDEATHSIG: Final = 1
"""Of prctl: a signal for when whoever started us ends."""


def describe_vms(config: Path, clock: Clock, *, as_json: bool) -> int:
    """Print every VM of the domain; 3 where one could not be asked, or has a disk that is not protected."""
    running = load_running(config)
    told = sorted(_told(running.settings, running.identity, clock), key=lambda one: one.vm.name)
    if as_json:
        answer(json.dumps({"vms": [_members(one) for one in told]}, indent=2))
    elif not told:
        answer("no VMs: none is configured here (`vms`), or `cdp-agent reload` was not said yet")
    else:
        answer("\n".join(line for one in told for line in _lines(one, running.identity)))
    well = all(one.configuration is not None and not one.unprotected and not one.odd for one in told)
    return _end(0 if well else Incomplete.exit_code)


def tell_vms(config: Path, clock: Clock) -> int:
    """Write one line for each VM as soon as it is known, for the streamer. See `cdp_agent.vms.answer`."""
    # Whoever started it kills it then; if that ends before, the kernel does.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(int(DESCRIBE_SECONDS_MAX) + 1)
    settings, identity = load_agent(config, other_volumes=True)
    for one in _told(settings, identity, clock):
        line = encode_line(one.vm.vm, one.configuration, one.problem, one.unprotected, one.odd)
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
    return _end(0)


def _told(settings: AgentSettings, identity: AgentIdentity, clock: Clock) -> Iterator[Told]:
    listen = None if settings.nbd is None else settings.nbd.listen
    return ask_vms(identity, volumes_served(identity, settings.socket_path, listen), clock)


def _end(code: int) -> int:
    """A thread that hangs in a C library would hold up the end of Python."""
    sys.stdout.flush()
    sys.stderr.flush()
    if any(thread.name.startswith(THREADS) for thread in threading.enumerate()):
        os._exit(code)
    return code


def _members(told: Told) -> dict[str, object]:
    configuration = told.configuration
    return {
        "name": told.vm.name,
        "vm": told.vm.vm.hex(),
        "problem": told.problem or None,
        "unprotected": list(told.unprotected),
        "odd": list(told.odd),
        **({} if configuration is None else configuration_members(configuration)),
    }


def _lines(told: Told, identity: AgentIdentity) -> Iterator[str]:
    if told.configuration is None:
        yield f"{told.vm.name}: not known: {told.problem}"
        return
    names = {source.space: source.name for source in identity.active.values()}
    names |= {disk.space: disk.name for disk in identity.active_disks}
    yield from configuration_lines(told.configuration, names)
    for disk in told.unprotected:
        meant = f"`disks: {{{disk}: null}}` if it is meant so"
        yield f"  ! disk {disk} is no volume of the domain, and not protected ({meant})"
    yield from (f"  ! {odd}" for odd in told.odd)
