"""What a QEMU says of its disks, nodes and jobs, as one look at it. PURE: it is given a way to ask.

What of it stands against an adoption does not belong here (`checks`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cdp_agent.vms.qmp_answers import disk_name
from cdp_container.errors import HypervisorFailed

NODES_MAX: Final = 10_000
VERSION_MIN: Final = (7, 0)
"""Of QEMU: `open-timeout` of NBD nodes."""
COMMANDS: Final = (
    "blockdev-add", "blockdev-del", "blockdev-mirror", "blockdev-reopen", "block-job-complete",
    "block-job-cancel", "block-job-pause", "block-job-resume", "block-job-set-speed", "job-dismiss",
    "query-jobs", "yank",
)  # fmt: skip
CONCLUDED: Final = "concluded"
_WHAT: Final = "looking at the VM's disks"

Ask = Callable[[str, Mapping[str, object]], Any]
"""Asks by a command's name and its arguments; gives what it returns."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk as the guest has it; `node`: what its device has now, `allocated_bytes`: what its file takes."""

    name: str
    device: str
    node: str
    driver: str
    size_bytes: int
    allocated_bytes: int
    file: str
    is_read_only: bool
    detect_zeroes: str


@dataclass(frozen=True, slots=True)
class Node:
    """A block node: what it is, and where its bytes lie, as QEMU writes that."""

    driver: str
    file: str


@dataclass(frozen=True, slots=True)
class Job:
    """A job. `is_well`: no error stands; `offset` of `length` bytes are done."""

    name: str
    kind: str
    status: str
    is_well: bool = True
    offset: int = 0
    length: int = 0
    speed: int = 0
    error: str = ""

    @property
    def is_ended(self) -> bool:
        """Whether it does nothing any more, whatever became of it."""
        return self.status in (CONCLUDED, "aborting", "null")

    @property
    def is_ready(self) -> bool:
        """Whether both disks are the same, and stay so."""
        return self.status == "ready" and self.is_well

    @property
    def is_stopped(self) -> bool:
        """Whether it copies nothing until it is told to."""
        return self.status in ("paused", "standby")


@dataclass(frozen=True, slots=True)
class Seen:
    """One look; `twice`: names that more than one disk has."""

    disks: Mapping[str, Disk] = field(default_factory=dict)
    nodes: Mapping[str, Node] = field(default_factory=dict)
    jobs: Mapping[str, Job] = field(default_factory=dict)
    twice: tuple[str, ...] = ()


def lacking(ask: Ask) -> list[str]:
    """What this QEMU cannot do of what is needed. Raises HypervisorFailed."""
    found = ask("query-version", {})
    try:
        version = int(found["qemu"]["major"]), int(found["qemu"]["minor"])
        known = {one["name"] for one in ask("query-commands", {})}
    except (KeyError, TypeError, ValueError) as error:
        raise HypervisorFailed(_WHAT, f"its answers make no sense: {error!r}") from error
    if version < VERSION_MIN:
        return [f"it is QEMU {version[0]}.{version[1]}: {VERSION_MIN[0]}.{VERSION_MIN[1]} or later is needed"]
    return [f"this QEMU has no {command}" for command in COMMANDS if command not in known]


def look(ask: Ask) -> Seen:
    """Ask for all of it. Raises HypervisorFailed where the answers make no sense."""
    blocks, nodes = _list(ask("query-block", {})), _list(ask("query-named-block-nodes", {"flat": True}))
    jobs, progress = _list(ask("query-jobs", {})), _list(ask("query-block-jobs", {}))
    try:
        disks = [_disk(one) for one in blocks if _is_disk(one)]
        names = [disk.name for disk in disks]
        told = {str(one["device"]): one for one in progress}
        return Seen(
            {disk.name: disk for disk in disks},
            {str(one["node-name"]): Node(str(one["drv"]), str(one["file"])) for one in nodes},
            {str(one["id"]): _job(one, told.get(str(one["id"]), {})) for one in jobs},
            tuple(sorted({name for name in names if names.count(name) > 1})),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise HypervisorFailed(_WHAT, f"its answers make no sense: {error!r}") from error


def _list(found: object) -> Sequence[dict[str, Any]]:
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise HypervisorFailed(_WHAT, "an answer is no list of objects")
    if len(found) > NODES_MAX:
        raise HypervisorFailed(_WHAT, f"an answer has {len(found)} entries (NODES_MAX)")
    return found


def _is_disk(block: Mapping[str, Any]) -> bool:
    """What a device shows to the guest, with something in it that is not taken out."""
    return bool(
        block.get("qdev")
        and not str(block.get("device", "")).startswith("pflash")
        and not block.get("removable")
        and isinstance(block.get("inserted"), dict)
    )


def _disk(block: Mapping[str, Any]) -> Disk:
    inserted = block["inserted"]
    image = inserted["image"]
    return Disk(
        name=disk_name({**block, "node-name": inserted.get("node-name")}),
        device=str(block["qdev"]),
        node=str(inserted["node-name"]),
        driver=str(inserted["drv"]),
        size_bytes=int(image["virtual-size"]),
        allocated_bytes=int(image.get("actual-size", 0)),
        file=str(inserted["file"]),
        is_read_only=bool(inserted["ro"]),
        detect_zeroes=str(inserted.get("detect_zeroes", "off")),
    )


def _job(job: Mapping[str, Any], told: Mapping[str, Any]) -> Job:
    return Job(
        name=str(job["id"]),
        kind=str(job["type"]),
        status=str(job["status"]),
        is_well=told.get("io-status", "ok") == "ok",
        offset=int(told.get("offset", 0)),
        length=int(told.get("len", 0)),
        speed=int(told.get("speed", 0)),
        error=str(job.get("error", "")),
    )
