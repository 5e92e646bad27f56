"""What `status` tells of volumes that are captured from their VMs: the imager's word, and the newest cut's.

What keeps a volume from being whole is told by the imager; nothing of that is decided here.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cdp_agent.imager.settings import SOCKET_NAME
from cdp_agent.watcher.client import WatcherClient
from cdp_container.domain.identity import AgentIdentity
from cdp_container.errors import WatcherFailed


def image_members(directory: Path, identity: AgentIdentity) -> dict[str, Any] | None:
    """For `status`; None where no volume is captured so."""
    if not identity.active_disks:
        return None
    try:
        said = WatcherClient(directory, SOCKET_NAME).status()
    except WatcherFailed as error:
        return {"vms": [], "error": error.why}
    return {name: value for name, value in said.items() if name != "ok"}


def image_problems(members: dict[str, Any] | None, running: bool) -> list[str]:
    """What keeps these volumes from being protected as was asked for."""
    if members is None or not running:
        return []
    if members.get("error"):
        return [f"volumes of VMs are not captured just now: {members['error']}"]
    if not members["ready"]:
        return []  # the streamer has no epoch yet, and says so
    return [
        f"VM {vm['name']} is not whole ({', '.join(vm['volumes'])}): {vm['why_not_whole']}"
        for vm in members["vms"]
        if not vm["whole"]
    ]


def image_lines(members: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Lines to print: a name, and what is said of it."""
    if members is None:
        return []
    cycle = members.get("last_cycle") or {}
    took = f"the last cycle took {cycle['seconds'] * 1000:.0f} ms" if cycle else "no cycle yet"
    lines = [("images", took)]
    for vm in members["vms"]:
        image = f"image of {_time(vm['image_ns'])}" if vm["image_ns"] else "no image yet"
        left = f", {vm['left_bytes']} bytes to be read" if vm["left_bytes"] else ""
        lines.append((f"  {vm['name']}", f"{', '.join(vm['volumes'])}: {image}{left}"))
    return lines


def _time(time_ns: int) -> str:
    return f"{datetime.fromtimestamp(time_ns / 1e9, UTC):%H:%M:%S.%f}"[:-3] + " UTC"
