"""From the configuration and agent.json to what splitter and streamer are told.

Which volumes there are is in agent.json alone, whatever is being edited in the configuration: a `run` takes
it over from there, or refuses, and `reload` does while it runs.
"""

from __future__ import annotations

import getpass
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version as installed_version
from pathlib import Path

from cdp_agent.backing import inspect_backing
from cdp_agent.cli.adopt import touched_since
from cdp_agent.imager.settings import DiskSettings, ImagerSettings, VmSettings
from cdp_agent.splitter.settings import OnJournalFull, SplitterSettings, TcpSettings, VolumeSettings
from cdp_agent.streamer.settings import StreamerSettings
from cdp_agent.volume_set import changed_trees, removed_of, volumes_of
from cdp_agent.watcher.settings import SCAN_SECONDS, TreeSettings, WatcherSettings
from cdp_agent.wish import load_wish
from cdp_container.domain.carried import load_believed
from cdp_container.domain.disk_settings import device_of, known_disks, named_disks
from cdp_container.domain.identity import AgentIdentity, TreeIdentity, VmIdentity, load_identity
from cdp_container.domain.notes import Notes, load_notes
from cdp_container.domain.replica_places import published
from cdp_container.domain.retention_policy import Retention
from cdp_container.domain.settings import AgentSettings, NbdSettings, TlsSettings, load_settings
from cdp_container.domain.tree_settings import TreeSettings as TreeConfig
from cdp_container.domain.vm_settings import changed_vms
from cdp_container.errors import BackingChanged, BackingUnreadable, ConfigInvalid
from cdp_container.journal.shared import SharedPages
from nbd_export.tls import TlsFiles


def software() -> str:
    """Name and version, as it stands in headers and epoch records."""
    return f"cdp-agent {installed_version('cdp-container')}"


def load_agent(config: Path, other_volumes: bool = False) -> tuple[AgentSettings, AgentIdentity]:
    """Both files, checked against each other; volumes may differ if `other_volumes`. Raises ConfigInvalid."""
    settings = load_settings(config)
    identity = load_identity(Path(settings.journal.directory))
    faults = []
    for what, ours, pinned in (
        ("domain", settings.domain, identity.name),
        ("site", settings.site, identity.site),
        ("encryption", settings.encryption, identity.encryption),
    ):
        if ours != pinned:
            faults.append(f"{what}: {ours!r}, but init was run with {pinned!r}")
    is_other = bool(faults)
    configured = {volume.name: volume.path for volume in settings.volumes}
    pinned_volumes = {source.name for source in identity.active.values()}
    if configured.keys() != pinned_volumes and not other_volumes:
        ours, pinned = (", ".join(sorted(names)) or "none" for names in (configured, pinned_volumes))
        faults.append(f"volumes: {ours}, but init or reload was run with {pinned}")
    if not other_volumes and changed_trees(identity, settings.trees, bytes) != identity:
        ours, pinned = _named(settings.trees), _named(identity.active_trees)
        faults.append(f"trees: {ours}, but init or reload was run with {pinned}, or with other options")
    if not other_volumes and changed_vms(identity, settings.vms, bytes) != identity:
        ours, pinned = (
            ", ".join(vm.name for vm in vms) or "none" for vms in (settings.vms, identity.active_vms)
        )
        faults.append(f"vms: {ours}, but init or reload was run with {pinned}, or with other options")
    if not other_volumes and named_disks(settings.disks) != known_disks(identity):
        ours, pinned = (
            ", ".join(f"{name} ({disk} of {vm})" for name, vm, disk in sorted(disks)) or "none"
            for disks in (named_disks(settings.disks), known_disks(identity))
        )
        faults.append(f"volumes of VMs: {ours}, but init or reload was run with {pinned}")
    if faults:
        # The domain, its site and its encryption are what it is; all else may change while it is protected.
        by, hint = "`init`", "put it back; another one is a new domain, in a journal directory of its own"
        if not is_other:
            by = "`init` or the last `reload`"
            hint = "`cdp-agent reload` takes over other volumes, file trees and VMs; or put them back"
        raise ConfigInvalid(
            f"{config} is refused",
            "\n".join([f"it is not what {by} was run with:", *faults]),
            hint,
        )
    return settings, identity


def _named(trees: Sequence[TreeIdentity | TreeConfig]) -> str:
    return ", ".join(f"{tree.name} ({tree.path})" for tree in trees) or "none"


def moved_identity(settings: AgentSettings, identity: AgentIdentity) -> AgentIdentity:
    """agent.json where a disk may have been moved since the last start; its size may not have changed.

    Raises BackingUnreadable.
    """
    paths = {volume.name: volume.path for volume in settings.volumes}
    sources = list(identity.sources)
    for index, source in identity.active.items():
        path = paths[source.name]
        size_bytes = inspect_backing(path).size_bytes
        if size_bytes != source.size_bytes:
            raise BackingUnreadable(
                f"cannot protect {path}",
                f"it has {size_bytes} bytes, but had {source.size_bytes} at init",
                "if it grew, `cdp-agent reload` takes that over; a protected volume cannot shrink",
            )
        sources[index] = replace(source, path=path)
    return replace(identity, sources=tuple(sources))


def all_whole(identity: AgentIdentity, notes: Notes) -> bool:
    """Whether every volume is in the container, or on its way there in the journal."""
    return all(source.whole_id in notes.whole for source in identity.active.values())


def holds_nothing(volumes: Sequence[VolumeSettings]) -> bool:
    """Whether all volumes are empty. Raises BackingUnreadable, DeviceError."""
    # Not above: the supervisor needs it at a first start only, and starts its children sooner without.
    from cdp_agent.streamer.copy import Volume, is_empty

    return all(is_empty(Volume(volume.index, volume.backing, volume.size_bytes)) for volume in volumes)


def splitter_settings(config: Path) -> SplitterSettings:
    """What the splitter is told. Raises ConfigInvalid, BackingUnreadable, BackingChanged."""
    settings, identity = load_agent(config, other_volumes=True)
    directory = Path(settings.journal.directory)
    volumes = volumes_of(identity)
    wish = load_wish(directory)
    if not ever_ran(directory):
        _check_first_start(directory, identity, volumes)
    return SplitterSettings(
        journal_dir=directory,
        domain=identity.domain,
        volumes=volumes,
        removed=removed_of(identity),
        limit_bytes=settings.journal.limit,
        socket=Path(settings.socket_path),
        on_journal_full=OnJournalFull(settings.journal.on_full),
        redo=wish.redo,
        full_copy=bool(wish),
        keep_disk=wish.keep_disk,
        tcp=_tcp_settings(settings.nbd),
    )


def _check_first_start(directory: Path, identity: AgentIdentity, volumes: Sequence[VolumeSettings]) -> None:
    """What is whole without a journal must be what it was when the run began. Raises BackingChanged."""
    notes, what = load_notes(directory), "opening the volumes"
    if notes.carried:
        touched = touched_since(load_believed(directory), identity, notes.whole)
        if touched:
            why = f"somebody wrote to them since the agent was started: {', '.join(touched)}"
            raise BackingChanged(what, why, "start it again")
    elif all_whole(identity, notes) and not holds_nothing(volumes):
        why = "they were empty when the agent was started, and are not now"
        raise BackingChanged(what, why, "start it again")


def tls_files(tls: TlsSettings | None) -> TlsFiles | None:
    """The files of the NBD server's certificates."""
    return None if tls is None else TlsFiles(Path(tls.certificate), Path(tls.key), Path(tls.client_ca))


def _tcp_settings(nbd: NbdSettings | None) -> TcpSettings | None:
    return None if nbd is None else TcpSettings(*nbd.endpoint, tls_files(nbd.tls))


def ever_ran(directory: Path) -> bool:
    """Whether a splitter ever came so far as to say so, or as to begin a journal."""
    if any((directory / "journal").glob("*.jnl")):
        return True  # a journal whose `shared` is gone is damage, not a first run
    pages = SharedPages(directory / "shared")
    try:
        return pages.splitter.read() is not None
    finally:
        pages.close()


def _retention(config: Path) -> Retention | None:
    """The policy as the file has it now. Raises ConfigInvalid."""
    found = load_settings(config).retention
    return None if found is None else found.policy


def _replicas(config: Path) -> list[str] | None:
    """Likewise the replicas, as any machine can use them."""
    found = load_settings(config).replicas
    return None if found is None else [published(address) for address in found]


def streamer_settings(config: Path) -> StreamerSettings:
    """What the streamer is told. Raises ConfigInvalid, BackingUnreadable."""
    settings, identity = load_agent(config, other_volumes=True)
    return StreamerSettings(
        directory=Path(settings.journal.directory),
        identity=identity,
        store=settings.store,
        store_is_home=settings.store_is_home,
        seal_credentials=settings.seal_credentials,
        retention=partial(_retention, config),
        replicas=partial(_replicas, config),
        cut_every_seconds=settings.cut_every,
        lease_seconds=int(settings.lease),
        rpo_target_seconds=settings.rpo_target,
        copy_bytes_per_second=settings.copy_rate,
        compression_level=settings.compression_level,
        limits=settings.limits,
        describe=(sys.executable, "-m", "cdp_agent.cli.main", "describer-process", "--config", str(config)),
        vms_every_seconds=settings.vms_every,
        operator=operator(),
        software=software(),
    )


def watcher_settings(config: Path) -> WatcherSettings:
    """What the watcher is told. Raises ConfigInvalid."""
    settings, identity = load_agent(config, other_volumes=True)
    scans = {tree.name: tree.scan for tree in settings.trees}
    return WatcherSettings(
        directory=Path(settings.journal.directory),
        domain=identity.domain,
        store=settings.store,
        trees=tuple(
            TreeSettings(
                id=tree.tree,
                name=tree.name,
                path=Path(tree.path),
                include=tree.include,
                exclude=tree.exclude,
                one_file_system=tree.one_file_system,
                scan_seconds=scans.get(tree.name, SCAN_SECONDS),
            )
            for tree in identity.active_trees
        ),
        index_key=identity.index_key,
    )


def imager_settings(config: Path) -> ImagerSettings:
    """What the imager is told. Raises ConfigInvalid."""
    settings, identity = load_agent(config, other_volumes=True)
    members = {vm.name: vm for vm in identity.active_vms}
    names = dict.fromkeys(disk.vm for disk in identity.active_disks)
    return ImagerSettings(
        directory=Path(settings.journal.directory),
        vms=tuple(_captured(name, members.get(name), identity) for name in names),
        every_seconds=settings.capture_every,
    )


def _captured(name: str, vm: VmIdentity | None, identity: AgentIdentity) -> VmSettings:
    """The disks of one VM that are captured; None: it is not configured any more, and cannot be reached."""
    is_libvirts = vm is not None and vm.kind == "libvirt"
    disks = tuple(
        DiskSettings(disk.space, disk.name, device_of(disk.disk, is_libvirts), disk.size_bytes)
        for disk in identity.active_disks
        if disk.vm == name
    )
    return VmSettings(name, "" if vm is None else vm.qmp, disks)


def operator() -> str:
    """Who runs the agent, for the audit trail."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"  # a container may run under a uid that has no name
