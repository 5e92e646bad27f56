"""What stands against adopting the disks of a VM, all of it at once, and else which disk goes where. PURE.

What is known of volumes and of the VM is looked up by who calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from cdp_agent.adopting.seen import Disk, Node, Seen
from cdp_agent.adopting.words import PREFIX, Names, names_of
from cdp_container.machine_errors import AdoptionRefused

FILTERS: Final = frozenset(
    {
        "throttle",
        "copy-on-read",
        "blkdebug",
        "blkverify",
        "blklogwrites",
        "blkreplay",
        "quorum",
        "replication",
    }
)
"""Drivers above an image; a mirror of what is below one would lose it."""
_NONE: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume that may become a disk.

    Attributes:
        allocated_bytes: of its file.
        free_bytes: that its file may still take of its file system, `place`; None: it needs none.
        of_vms: other VMs whose disk it is said to be.
        is_open_in_vm: the VM's QEMU has its file open itself; None: nobody may look.
    """

    name: str
    space: bytes
    size_bytes: int
    allocated_bytes: int = 0
    free_bytes: int | None = None
    place: int = 0
    of_vms: tuple[str, ...] = ()
    is_open_in_vm: bool | None = False


@dataclass(frozen=True, slots=True)
class Wishes:
    """What was asked for: names of volumes by disks, disks that stay, and whether volumes may hold something.

    `said`: what `disks` of the member says, for disks that are named nowhere else.
    """

    disks: Mapping[str, str]
    without: frozenset[str] = frozenset()
    overwrite: bool = False
    said: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Move:
    """A disk that becomes a volume."""

    disk: Disk
    volume: Volume
    names: Names


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done. `done`: disks that are volumes already, with these; `left`: those that stay."""

    moves: tuple[Move, ...]
    done: Mapping[str, str]
    left: tuple[str, ...]

    @property
    def ours(self) -> frozenset[str]:
        """The jobs that copy."""
        return frozenset(move.names.job for move in self.moves)


def plan_moves(
    seen: Seen,
    wishes: Wishes,
    volumes: Mapping[str, Volume],
    volume_of: Callable[[Disk], str | None],
    holds: Callable[[str], bool],
    export_of: Callable[[Node], str | None] = lambda node: None,
    captured: Mapping[str, str] = _NONE,
) -> Plan:
    """Check all of it.

    Args:
        seen: the VM.
        wishes: what was asked for.
        volumes: all of the domain, by name.
        volume_of: the volume whose export a disk lies on now, None where it lies elsewhere.
        holds: whether a volume holds anything but zeros; takes long.
        export_of: the volume whose export a node is.
        captured: volumes that have no export, as they are captured by images, with what is.

    Raises:
        AdoptionRefused: with all faults.
    """
    faults = [*_faults_of_names(seen, wishes), *_foreign_jobs(seen)]
    moves: list[Move] = []
    done: dict[str, str] = {}
    left: list[str] = []
    for disk in seen.disks.values():
        on = on_volume(disk, volumes, volume_of)
        wanted = wishes.disks.get(disk.name) or wishes.said.get(disk.name)
        if on is not None:
            done[disk.name] = on
            if wanted not in (None, on):
                faults.append(f"disk {disk.name} is on the volume {on} already")
        elif _stays(disk, wishes):
            left.append(disk.name)
        elif wanted is None:
            faults.append(
                f"disk {disk.name} ({disk.size_bytes} bytes) is not named: --disk {disk.name}=VOLUME, "
                f"or --without {disk.name}"
            )
        elif wanted not in volumes:
            faults.append(f"disk {disk.name}: {_is_no_place(wanted, captured)}")
        else:
            volume = volumes[wanted]
            moves.append(Move(disk, volume, names_of(volume.space, disk.device)))
    for move in moves:
        faults += _faults_of_move(move, moves, done, seen)
        if not _is_begun(move, seen):
            faults += _uses(move, seen, export_of)
        if not wishes.overwrite and not _is_begun(move, seen) and holds(move.volume.name):
            faults.append(f"volume {move.volume.name} holds something, which --overwrite replaces")
    faults += _too_little_room(moves)
    if not faults and not moves and not done:
        faults.append("it has no disk that could be adopted")
    if faults:
        raise AdoptionRefused("adopting this VM was refused, and nothing was done", "; ".join(faults))
    return Plan(tuple(moves), done, tuple(left))


def _is_no_place(wanted: str, captured: Mapping[str, str]) -> str:
    if wanted not in captured:
        return f"there is no volume {wanted} (`cdp-agent reload` takes over new ones)"
    return (
        f"volume {wanted} is captured by images ({captured[wanted]}) and has no export: name one with a"
        f" `path`; to stop capturing, take {wanted} out of `volumes` first, and say `cdp-agent reload`"
    )


def on_volume(
    disk: Disk, volumes: Mapping[str, Volume], volume_of: Callable[[Disk], str | None]
) -> str | None:
    """The volume that a disk is now, None where it is none."""
    for volume in volumes.values():
        if disk.node == names_of(volume.space, disk.device).top:
            return volume.name
    return volume_of(disk)


def _stays(disk: Disk, wishes: Wishes) -> bool:
    if disk.name in wishes.disks:
        return False
    is_left = disk.name in wishes.said and wishes.said[disk.name] is None
    return disk.name in wishes.without or is_left or disk.is_read_only


def _is_begun(move: Move, seen: Seen) -> bool:
    """Whether an earlier run copies it still."""
    job = seen.jobs.get(move.names.job)
    return job is not None and not job.is_ended


def _faults_of_names(seen: Seen, wishes: Wishes) -> Iterator[str]:
    has = f"it has {', '.join(seen.disks) or 'none'}"
    for name in seen.twice:
        yield f"two of its disks are called {name}: give their devices an id"
    for name in sorted({*wishes.disks, *wishes.without} - {*seen.disks}):
        yield f"it has no disk {name} ({has})"
    for name in sorted({*wishes.disks} & wishes.without):
        yield f"disk {name} is both to become a volume and to stay"


def _foreign_jobs(seen: Seen) -> Iterator[str]:
    for job in seen.jobs.values():
        if not job.name.startswith(PREFIX) and not job.is_ended:
            yield f"QEMU runs another job, {job.name} ({job.kind}): wait for its end, or cancel it"


def _faults_of_move(move: Move, moves: Sequence[Move], done: Mapping[str, str], seen: Seen) -> Iterator[str]:
    disk, volume = move.disk, move.volume
    if disk.is_read_only:
        yield f"disk {disk.name} is read-only"
    if disk.size_bytes != volume.size_bytes:
        yield (
            f"disk {disk.name} has {disk.size_bytes} bytes and volume {volume.name} has {volume.size_bytes}: "
            "they must be equal"
        )
    if disk.driver in FILTERS:
        yield f"disk {disk.name} has a filter ({disk.driver}) above its image, which would be lost"
    others = [one.disk.name for one in moves if one.volume.name == volume.name and one is not move]
    others += [name for name, on in done.items() if on == volume.name]
    if others:
        yield f"volume {volume.name} is wanted for disk {disk.name}, and for {', '.join(others)}"
    if volume.of_vms:
        yield f"volume {volume.name} is a disk of {', '.join(volume.of_vms)} (`disks`)"
    if volume.is_open_in_vm is None:
        yield "whether QEMU uses a volume's file itself cannot be seen: run it as root, or as QEMU's user"
    elif volume.is_open_in_vm:
        yield f"volume {volume.name} lies in a file that QEMU has open itself: it would be copied onto itself"
    top = move.names.top
    if any(one.node == top for one in seen.disks.values()):
        yield f"volume {volume.name} is another disk of this VM"


def _uses(move: Move, seen: Seen, export_of: Callable[[Node], str | None]) -> Iterator[str]:
    """Of a volume that QEMU reads or writes by its export, as below an overlay: it is no place for a copy."""
    for name, node in seen.nodes.items():
        if export_of(node) == move.volume.name:
            yield f"QEMU uses the export of volume {move.volume.name} already (node {name})"


def _too_little_room(moves: Sequence[Move]) -> Iterator[str]:
    for place in sorted({move.volume.place for move in moves if move.volume.free_bytes is not None}):
        here = [move for move in moves if move.volume.place == place and move.volume.free_bytes is not None]
        free = min(move.volume.free_bytes or 0 for move in here)
        needed = sum(max(0, move.disk.allocated_bytes - move.volume.allocated_bytes) for move in here)
        if needed > free:
            names = ", ".join(move.volume.name for move in here)
            yield f"{names}: {needed} bytes more are needed, and the file system has {free}"
