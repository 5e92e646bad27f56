"""Which disk of a VM is which volume of the domain. PURE: paths are resolved by who calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from cdp_agent.vms.found import NO_SOURCE, DiskSource, Found
from cdp_container.domain.machine import Description, Disk, DiskKind

Resolve = Callable[[str], str]
"""A path without links."""
_ANY_HOST: Final = frozenset({"localhost", "127.0.0.1", "::1", "[::1]"})


@dataclass(frozen=True, slots=True)
class Volumes:
    """What the domain protects, and where it is served.

    `by_path`: ids of spaces by the paths of their disks, without links; `by_name`: by the names of exports.
    `servers`: the unix socket, and `host:port` where there is one.
    """

    by_path: Mapping[str, bytes]
    by_name: Mapping[str, bytes]
    servers: Sequence[str]


@dataclass(frozen=True, slots=True)
class Matched:
    """A VM whose disks are matched; `unprotected`: names of disks that are no volume and not meant so."""

    description: Description
    unprotected: tuple[str, ...] = ()
    odd: tuple[str, ...] = ()


def match_disks(found: Found, said: Mapping[str, str | None], volumes: Volumes, resolve: Resolve) -> Matched:
    """Each disk with its volume.

    `said`: what `disks` of the configuration says: names of volumes by names of disks, None where one is
    not to be protected. `Matched.odd`: what of that fits nothing.
    """
    names = {disk.name for disk in found.description.disks}
    odd = [f"disks: it has no disk {name}" for name in sorted(said.keys() - names)]
    disks: list[Disk] = []
    unprotected: list[str] = []
    for disk in found.description.disks:
        volume = _volume(disk, found.sources.get(disk.name, NO_SOURCE), said, volumes, resolve)
        wanted = said.get(disk.name)
        if wanted is not None and volume is None:
            odd.append(f"disks: {disk.name}: there is no volume {wanted}")
        if volume is None and disk.kind is DiskKind.DISK and disk.name not in said:
            unprotected.append(disk.name)
        disks.append(replace(disk, volume=volume))
    twice = [
        disk.name for disk in disks if disk.volume and [one.volume for one in disks].count(disk.volume) > 1
    ]
    odd += [f"the disks {', '.join(twice)} are one volume"] if twice else []
    return Matched(replace(found.description, disks=tuple(disks)), tuple(unprotected), tuple(odd))


def _volume(
    disk: Disk, source: DiskSource, said: Mapping[str, str | None], volumes: Volumes, resolve: Resolve
) -> bytes | None:
    if disk.name in said:
        name = said[disk.name]
        return None if name is None else volumes.by_name.get(name)
    if disk.kind is not DiskKind.DISK:
        return None
    if source.path is not None:
        return volumes.by_path.get(resolve(source.path))
    if source.export is None or source.server is None:
        return None
    server = resolve(source.server) if source.server.startswith("/") else _address(source.server)
    ours = [resolve(one) if one.startswith("/") else _address(one) for one in volumes.servers]
    return volumes.by_name.get(source.export) if server in ours else None


def _address(server: str) -> str:
    """`host:port`, this machine's own names being one."""
    host, _, port = server.rpartition(":")
    return f"{'localhost' if host in _ANY_HOST else host.strip('[]')}:{port}"
