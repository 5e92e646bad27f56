"""`cdp-agent check-config`: everything that can be known before `run`, all findings at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cdp_agent.backing import inspect_backing
from cdp_agent.cli.children import load_agent, tls_files
from cdp_agent.sealed import check_sealing
from cdp_agent.tree_paths import refuse_trees
from cdp_agent.vms.libvirt_asked import check_libvirt
from cdp_container.console import print_error
from cdp_container.domain.identity import IDENTITY_NAME, AgentIdentity
from cdp_container.domain.places import check_places
from cdp_container.domain.replica_places import published, read_as
from cdp_container.domain.settings import AgentSettings, VolumeSettings, load_settings
from cdp_container.errors import BackingUnreadable, CdpError, ConfigInvalid, NotFound
from cdp_container.format.domain import parse_owner
from cdp_container.format.keys import OWNER_KEY
from cdp_container.store.address import Place, open_store
from cdp_container.store.attest import probe
from nbd_export.errors import TlsUnusable
from nbd_export.tls import TlsContexts


def check(config: Path) -> int:
    """Print what is right to stdout and what is not to stderr; the exit code is that of the first fault."""
    settings = load_settings(config)
    print(f"{config}: domain {settings.domain} at site {settings.site}")
    directory = Path(settings.journal.directory)
    faults: list[CdpError] = []
    identity: AgentIdentity | None = None
    initialised = False
    try:
        initialised = (directory / IDENTITY_NAME).exists()
        if initialised:
            identity = load_agent(config, other_volumes=True)[1]
            print(f"initialised: domain id {identity.domain.hex()}")
            load_agent(config)
        else:
            print("not initialised yet: run `cdp-agent init`")
    except OSError as error:
        why = error.strerror or "unreadable"
        faults.append(ConfigInvalid(f"cannot read {directory}", why, "run as the agent's user"))
    except CdpError as error:
        faults.append(error)
    faults = _check_volumes(settings, identity) + _attempt(partial(_show_trees, settings)) + faults
    _show_disks(settings)
    faults += _attempt(partial(_show_vms, settings))
    faults += _attempt(partial(_show_nbd, settings)) + _attempt(partial(_show_alerts, settings))
    domain = None if identity is None else identity.domain
    faults += _check_store(settings, initialised, domain)
    faults += _check_replicas(settings, domain)
    for fault in faults:
        print_error(fault)
    return faults[0].exit_code if faults else 0


def _attempt(work: Callable[[], None]) -> list[CdpError]:
    try:
        work()
    except CdpError as error:
        return [error]
    return []


def _check_volumes(settings: AgentSettings, identity: AgentIdentity | None) -> list[CdpError]:
    """`identity`: what is protected by now, None where nothing is."""
    before = {} if identity is None else {one.name: one.size_bytes for one in identity.active.values()}
    return [
        fault
        for volume in settings.volumes
        for fault in _attempt(partial(_show_volume, volume, before.get(volume.name)))
    ]


def _show_volume(volume: VolumeSettings, before_bytes: int | None) -> None:
    backing = inspect_backing(volume.path)
    kind = "device" if backing.is_device else "file"
    print(f"volume {volume.name}: {kind} {volume.path}, {backing.size_bytes} bytes")
    if before_bytes is None or backing.size_bytes == before_bytes:
        return
    if backing.size_bytes < before_bytes:
        raise BackingUnreadable(
            f"volume {volume.name} shrank",
            f"{volume.path} has {backing.size_bytes} bytes, but {before_bytes} are protected",
            "put it back to its size, or protect a smaller disk under another name",
        )
    print(f"volume {volume.name}: grew from {before_bytes} bytes; `cdp-agent reload` takes that over")


def _show_disks(settings: AgentSettings) -> None:
    """Whether the VMs run is for `init` and `reload` to find out."""
    for disk in settings.disks:
        often = f"by images every {settings.capture_every:g} s"
        print(f"volume {disk.name}: disk {disk.disk} of VM {disk.vm}, {often}")


def _show_trees(settings: AgentSettings) -> None:
    refuse_trees(settings)
    for tree in settings.trees:
        left_out = f", {len(tree.exclude)} patterns left out" if tree.exclude else ""
        mounts = "" if tree.one_file_system else ", with what is mounted in it"
        print(f"tree {tree.name}: {tree.path}{left_out}{mounts}")


def _show_vms(settings: AgentSettings) -> None:
    """Whether a hypervisor answers is for `describe` to find out; a QEMU may just be off."""
    for vm in settings.vms:
        at = vm.proxmox or vm.description or vm.qmp
        if vm.libvirt is not None:
            check_libvirt(f"VM {vm.name}")
            at = f"domain {vm.libvirt.domain} at {vm.libvirt.uri}"
        elif at is not None and at != vm.qmp and not os.path.isfile(at):
            raise ConfigInvalid(f"VM {vm.name} cannot be described", f"there is no file {at}")
        by = f", captured by {vm.qmp}" if vm.qmp not in (None, at) else ""
        print(f"vm {vm.name}: {at}{by}; `cdp-agent describe` asks")


def _show_alerts(settings: AgentSettings) -> None:
    """Never what they are: arguments and URLs may be secrets."""
    alerts = settings.alerts
    if alerts is None:
        print("alerts: none")
        return
    if alerts.command is not None and not os.path.isfile(alerts.command[0]):
        raise _unusable_alerts("there is no such file as its first word names")
    if alerts.command is not None and not os.access(alerts.command[0], os.X_OK):
        raise _unusable_alerts("the file that its first word names may not be executed")
    print(f"alerts: {'a webhook' if alerts.command is None else 'a command'}")


def _unusable_alerts(why: str) -> ConfigInvalid:
    hint = "name a program by its absolute path, and let the agent's user execute it (chmod +x)"
    return ConfigInvalid("alerts.command cannot be run", why, hint)


def _show_nbd(settings: AgentSettings) -> None:
    print(f"exports: {settings.socket_path}")
    if settings.nbd is None:
        return
    files = tls_files(settings.nbd.tls)
    if files is not None:
        try:
            TlsContexts(files).current()
        except TlsUnusable as error:
            raise ConfigInvalid("the exports cannot be served by TCP", str(error), "see nbd.tls") from error
    way = "plain" if files is None else "TLS, with client certificates"
    print(f"exports: tcp {settings.nbd.listen}, {way}")


def _check_store(settings: AgentSettings, initialised: bool, domain: bytes | None) -> list[CdpError]:
    """`domain`: whose container it must be, None where that is not known."""

    def show() -> None:
        store = open_store(settings.store)
        if settings.seal_credentials:
            check_sealing(settings.encryption != "none", store)
        probe(store, os.urandom)
        print(f"store {store.address}: keeps its word")
        owner = parse_owner(store.get(OWNER_KEY).data, OWNER_KEY, domain)
        print(f"container: domain {owner.name} ({owner.domain.hex()}), owned by {owner.site}")
        check_places(store, settings.store, owner.domain, is_home=settings.store_is_home)

    faults = _attempt(show)
    # Before `init` an empty prefix is what we hope for.
    return [fault for fault in faults if initialised or type(fault) is not NotFound]


def _check_replicas(settings: AgentSettings, domain: bytes | None) -> list[CdpError]:
    """As collection reads them: what it cannot read ends every pass."""
    own = settings.replicas or []
    store = settings.collection.store or settings.store
    places = read_as([published(address) for address in own], own, store)
    return [fault for place in places for fault in _attempt(partial(_show_replica, place, domain))]


def _show_replica(place: Place, domain: bytes | None) -> None:
    store = open_store(place)
    try:
        parse_owner(store.get(OWNER_KEY).data, OWNER_KEY, domain)
    except NotFound:
        print(f"replica {store.address}: nothing has come there yet; collection waits for it")
    else:
        print(f"replica {store.address}: it is there")
