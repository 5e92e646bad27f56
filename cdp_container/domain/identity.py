"""agent.json: what `init` (or a failover) fixed about this agent.

It pins the domain, its public key and index key, and which space each volume is, so that nothing
that somebody writes into the store can redirect the agent. `reload` adds volumes and trees, lets volumes
grow and marks what goes as removed, VMs too; `run` notes where a disk was moved. A source keeps its index
for ever, as journal records name it by that. Splitter, streamer and watcher go by it alone: a configuration
that is being edited while they run changes nothing. It holds the index key (which opens names and sizes, no
content), so its mode is 0600. What does not belong here: what changes while the agent runs (notes.json) and
what the administrator may change (the configuration).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from cdp_container.errors import ConfigInvalid
from cdp_container.format.names import TreeRules

IDENTITY_NAME = "agent.json"
IDENTITY_FORMAT = 1
IDENTITY_BYTES_MAX = 1024 * 1024


@dataclass(frozen=True, slots=True)
class SourceIdentity:
    """One protected volume, as `init` or `reload` found it.

    Attributes:
        name: of its export; unique among those that are not removed.
        path: of its file or device.
        space: the id of its space, 16 bytes.
        size_bytes: of its export.
        resized: how often it grew.
        removed: it is not protected any more.
    """

    name: str
    path: str
    space: bytes
    size_bytes: int
    resized: int = 0
    removed: bool = False

    @property
    def whole_id(self) -> bytes:
        """What notes.json calls it when all of it is in the container: another one after it grew."""
        if not self.resized:
            return self.space
        return hashlib.blake2b(self.space + self.resized.to_bytes(8, "little"), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class DiskIdentity:
    """One volume that is captured from its VM by QMP, as `init` or `reload` found it.

    Attributes:
        name: unique among sources that are not removed.
        vm: the name of its VM.
        disk: what the VM calls it.
        space: the id of its space, 16 bytes.
        size_bytes: of the disk.
        removed: it is not protected any more.
    """

    name: str
    vm: str
    disk: str
    space: bytes
    size_bytes: int
    removed: bool = False


@dataclass(frozen=True, slots=True)
class TreeIdentity:
    """One protected file tree, as `init` or `reload` found it.

    Attributes:
        name: unique among sources that are not removed.
        path: of its directory.
        tree: its id, 16 bytes.
        include: patterns of paths that are protected; all, where there are none.
        exclude: patterns of paths that are not.
        one_file_system: whether what is mounted below it is left out.
        removed: it is not protected any more.
    """

    name: str
    path: str
    tree: bytes
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    one_file_system: bool = True
    removed: bool = False

    @property
    def rules(self) -> TreeRules:
        """Which paths are protected, as the container is told."""
        return TreeRules(self.include, self.exclude, self.one_file_system)


@dataclass(frozen=True, slots=True)
class VmIdentity:
    """One VM whose configuration is protected, as `init` or `reload` found it.

    Attributes:
        name: unique among those that are not removed.
        vm: its id, 16 bytes.
        kind: who knows its configuration: `libvirt`, `proxmox`, `qmp`, `description`; empty: nobody here
            does, and what the container has of it stays.
        at: the path or address of that.
        domain: what libvirt calls it.
        disks: names of volumes by names of disks, None where one is not protected, and meant so.
        removed: it is not in the domain any more.
        qmp: the QMP socket by which its disks are captured, whoever knows its configuration; empty: none.
    """

    name: str
    vm: bytes
    kind: str = ""
    at: str = ""
    domain: str = ""
    disks: tuple[tuple[str, str | None], ...] = ()
    removed: bool = False
    qmp: str = ""


@dataclass(frozen=True, slots=True)
class AgentIdentity:
    """What agent.json holds. `public_key` and `index_key` are 32 bytes each, empty with encryption `none`."""

    domain: bytes
    name: str
    site: str
    encryption: str
    public_key: bytes
    index_key: bytes
    key_block: bytes
    config_digest: bytes
    sources: tuple[SourceIdentity, ...]
    trees: tuple[TreeIdentity, ...] = ()
    vms: tuple[VmIdentity, ...] = ()
    disks: tuple[DiskIdentity, ...] = ()

    @property
    def active_disks(self) -> tuple[DiskIdentity, ...]:
        """The volumes that are captured from their VMs."""
        return tuple(disk for disk in self.disks if not disk.removed)

    @property
    def batched(self) -> tuple[bytes, ...]:
        """Ids of the sources that come in batches, and not by the journal: trees, and disks of VMs."""
        return (
            *(tree.tree for tree in self.active_trees),
            *(disk.space for disk in self.active_disks),
        )

    @property
    def active_vms(self) -> tuple[VmIdentity, ...]:
        """The VMs whose configurations are protected."""
        return tuple(vm for vm in self.vms if not vm.removed)

    @property
    def active_trees(self) -> tuple[TreeIdentity, ...]:
        """The trees that are protected."""
        return tuple(tree for tree in self.trees if not tree.removed)

    @property
    def active(self) -> Mapping[int, SourceIdentity]:
        """The sources that are protected, by their index."""
        return {index: source for index, source in enumerate(self.sources) if not source.removed}

    @property
    def has_removed(self) -> bool:
        """Whether something was protected that is not any more."""
        volumes, disks = len(self.active) < len(self.sources), len(self.active_disks) < len(self.disks)
        return volumes or disks or len(self.active_trees) < len(self.trees)

    def __repr__(self) -> str:
        """Without the index key: it must never reach a log."""
        return f"AgentIdentity(domain={self.domain.hex()}, name={self.name!r}, site={self.site!r})"


def encode_identity(identity: AgentIdentity) -> bytes:
    """The bytes of agent.json."""
    document = {
        "format": IDENTITY_FORMAT,
        "domain": identity.domain.hex(),
        "name": identity.name,
        "site": identity.site,
        "encryption": identity.encryption,
        "public_key": identity.public_key.hex(),
        "index_key": identity.index_key.hex(),
        "key_block": identity.key_block.hex(),
        "config_digest": identity.config_digest.hex(),
        "sources": [
            {
                "name": source.name,
                "path": source.path,
                "space": source.space.hex(),
                "size_bytes": source.size_bytes,
                "resized": source.resized,
                "removed": source.removed,
            }
            for source in identity.sources
        ],
        "trees": [
            {
                "name": tree.name,
                "path": tree.path,
                "tree": tree.tree.hex(),
                "include": tree.include,
                "exclude": tree.exclude,
                "one_file_system": tree.one_file_system,
                "removed": tree.removed,
            }
            for tree in identity.trees
        ],
        "vms": [
            {
                "name": vm.name,
                "vm": vm.vm.hex(),
                "kind": vm.kind,
                "at": vm.at,
                "domain": vm.domain,
                "qmp": vm.qmp,
                "disks": dict(vm.disks),
                "removed": vm.removed,
            }
            for vm in identity.vms
        ],
        "disks": [
            {
                "name": disk.name,
                "vm": disk.vm,
                "disk": disk.disk,
                "space": disk.space.hex(),
                "size_bytes": disk.size_bytes,
                "removed": disk.removed,
            }
            for disk in identity.disks
        ],
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def decode_identity(data: bytes, name: str) -> AgentIdentity:
    """Parse agent.json; `name` is what errors call it. Raises ConfigInvalid."""
    hint = "restore the file from a backup of the journal directory; `init` makes a new one"
    try:
        document = orjson.loads(data)
        if document["format"] != IDENTITY_FORMAT:
            raise ConfigInvalid(f"{name} is refused", f"its format is {document['format']!r}, ours 1", hint)
        return AgentIdentity(
            domain=_bytes(document["domain"], 16),
            name=str(document["name"]),
            site=str(document["site"]),
            encryption=str(document["encryption"]),
            public_key=bytes.fromhex(document["public_key"]),
            index_key=bytes.fromhex(document["index_key"]),
            key_block=bytes.fromhex(document["key_block"]),
            config_digest=_bytes(document["config_digest"], 32),
            sources=tuple(
                SourceIdentity(
                    name=str(source["name"]),
                    path=str(source["path"]),
                    space=_bytes(source["space"], 16),
                    size_bytes=int(source["size_bytes"]),
                    resized=int(source["resized"]),
                    removed=bool(source["removed"]),
                )
                for source in document["sources"]
            ),
            trees=tuple(_tree(tree) for tree in document.get("trees", ())),
            vms=tuple(_vm(vm) for vm in document.get("vms", ())),
            disks=tuple(_disk(disk) for disk in document.get("disks", ())),
        )
    except (ValueError, KeyError, TypeError) as error:
        # Never the content: it holds a key.
        raise ConfigInvalid(f"{name} is refused", f"it is damaged ({type(error).__name__})", hint) from None


def _tree(tree: Mapping[str, Any]) -> TreeIdentity:
    return TreeIdentity(
        name=str(tree["name"]),
        path=str(tree["path"]),
        tree=_bytes(tree["tree"], 16),
        include=tuple(map(str, tree["include"])),
        exclude=tuple(map(str, tree["exclude"])),
        one_file_system=bool(tree["one_file_system"]),
        removed=bool(tree["removed"]),
    )


def _vm(vm: Mapping[str, Any]) -> VmIdentity:
    disks = ((str(disk), None if name is None else str(name)) for disk, name in vm["disks"].items())
    return VmIdentity(
        name=str(vm["name"]),
        vm=_bytes(vm["vm"], 16),
        kind=str(vm["kind"]),
        at=str(vm["at"]),
        domain=str(vm["domain"]),
        qmp=str(vm.get("qmp", vm["at"] if vm["kind"] == "qmp" else "")),
        disks=tuple(disks),
        removed=bool(vm["removed"]),
    )


def _disk(disk: Mapping[str, Any]) -> DiskIdentity:
    return DiskIdentity(
        name=str(disk["name"]),
        vm=str(disk["vm"]),
        disk=str(disk["disk"]),
        space=_bytes(disk["space"], 16),
        size_bytes=int(disk["size_bytes"]),
        removed=bool(disk["removed"]),
    )


def _bytes(text: str, length: int) -> bytes:
    value = bytes.fromhex(text)
    if len(value) != length:
        raise ValueError("wrong length")
    return value


def load_identity(directory: Path, name: str = IDENTITY_NAME) -> AgentIdentity:
    """Read agent.json of a journal directory. Raises ConfigInvalid where `init` was never run."""
    path = directory / name
    try:
        with path.open("rb") as file:
            data = file.read(IDENTITY_BYTES_MAX + 1)
    except FileNotFoundError:
        raise ConfigInvalid(
            f"no agent in {directory}", f"there is no {name}", "run `cdp-agent init` first"
        ) from None
    except OSError as error:
        raise ConfigInvalid(
            f"cannot read {path}", error.strerror or "unreadable", "run as the agent's user"
        ) from error
    return decode_identity(data, str(path))
