"""A runbook as it is written: how the VMs of a domain are to run at this site, and in a rehearsal. PURE.

docs/vms.md says what its keys mean. Whether it fits a container and a machine does not belong here (check).
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from cdp_container.domain.page_faults import parse_page
from cdp_container.domain.setting_types import AbsolutePath, Name, Seconds, SizeBytes, Strict, is_command
from cdp_container.domain.vm_settings import VMS_MAX, DiskName, Text
from cdp_container.domain.yaml_page import PagePlace
from rehydrate.render.recovered import Network, NetworkKind

EVERY_OTHER: Final = "*"
"""The key of all networks that are not named."""
NETWORKS_MAX: Final = 256
ADDRESSES_MAX: Final = 64
CHECKS_MAX: Final = 32
HINT: Final = "correct the named places and run `rehydrate check-runbook`"

_BRIDGE: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$"


def _interface(text: str) -> str:
    ipaddress.ip_interface(text)
    if "/" not in text:
        raise ValueError("has no prefix length (like 10.9.0.5/24)")
    return text


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError("is no address (like 10.9.0.1)") from None


def _endpoint(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise ValueError("is no host and port (like 10.9.0.5:5432)")
    return text


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"is no regular expression: {error}") from None
    return text


def _command(words: list[str]) -> list[str]:
    if not is_command(words):
        raise ValueError("is no command: the absolute path of a program, then its arguments")
    return words


def _has_host(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return bool(parts.hostname) and parts.port != 0  # a port beyond 65,535 raises
    except ValueError:
        return False


def _url(text: str) -> str:
    if not re.fullmatch(r"https?://[^\s/]+(/\S*)?", text) or not _has_host(text):
        raise ValueError("is no address of a page (like http://10.9.0.5/health)")
    return text


Command = Annotated[list[str], AfterValidator(_command)]


class NetworkSettings(Strict):
    """What a network is here: one of a bridge, a network of libvirt, QEMU's own, and none."""

    bridge: Annotated[str, Field(pattern=_BRIDGE)] | None = None
    network: Text | None = None
    user: Literal[True] | None = None
    none: Literal[True] | None = None
    vlan: Annotated[int, Field(ge=1, le=4094)] | None = None

    @model_validator(mode="after")
    def _is_one(self) -> NetworkSettings:
        if sum(one is not None for one in (self.bridge, self.network, self.user, self.none)) != 1:
            raise ValueError("needs one of bridge, network, user and none")
        return self

    def as_network(self) -> Network:
        """The same for a rendering."""
        if self.bridge is not None:
            return Network(NetworkKind.BRIDGE, self.bridge, self.vlan)
        if self.network is not None:
            return Network(NetworkKind.NETWORK, self.network, self.vlan)
        return Network(NetworkKind.USER if self.user else NetworkKind.NONE)


Networks = Annotated[dict[Text, NetworkSettings], Field(max_length=NETWORKS_MAX)]


class AddressSettings(Strict):
    """A static address of a network card, by its number in the description."""

    nic: int = Field(ge=0, le=63)
    address: Annotated[str, AfterValidator(_interface)]
    gateway: Annotated[str, AfterValidator(_address)] | None = None
    dns: list[Annotated[str, AfterValidator(_address)]] = Field(default=[], max_length=8)


class BootSettings(Strict):
    """What a VM starts by, where that is no disk: files of this site."""

    kernel: AbsolutePath
    initrd: AbsolutePath | None = None
    command_line: Annotated[str, Field(max_length=4096)] = ""


class StartSettings(Strict):
    """When a VM is started: once others have passed their checks, then `wait`. Its own pass `within`."""

    after: list[Name] = Field(default=[], max_length=VMS_MAX)
    wait: Seconds = Field(default=0.0, ge=0, le=86400)
    within: Seconds = Field(default=300.0, ge=1, le=86400)


class CheckSettings(Strict):
    """Whether a VM is well, one of four; `status` and `body` are of `http`."""

    tcp: Annotated[str, AfterValidator(_endpoint)] | None = None
    http: Annotated[str, AfterValidator(_url)] | None = None
    console: Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(_pattern)] | None = None
    command: Command | None = None
    status: Annotated[int, Field(ge=100, le=599)] | None = None
    body: Annotated[str, Field(max_length=1024), AfterValidator(_pattern)] | None = None

    @model_validator(mode="after")
    def _is_one(self) -> CheckSettings:
        if sum(one is not None for one in (self.tcp, self.http, self.console, self.command)) != 1:
            raise ValueError("needs one of tcp, http, console and command")
        if self.http is None and (self.status is not None or self.body is not None):
            raise ValueError("status and body are for http")
        return self


class VmRunSettings(Strict):
    """How one VM is to run here; what is left out is as it was. `shared`: disks that others have, too."""

    cpus: Annotated[int, Field(ge=1, le=4096)] | None = None
    memory: Annotated[SizeBytes, Field(ge=1 << 20, le=1 << 50)] | None = None
    networks: Networks = Field(default={})
    addresses: list[AddressSettings] = Field(default=[], max_length=ADDRESSES_MAX)
    handed_over: Literal["cloud-init", "guest-agent"] = "cloud-init"
    without: list[DiskName] = Field(default=[], max_length=256)
    shared: list[DiskName] = Field(default=[], max_length=256)
    direct_boot: BootSettings | None = None
    start: StartSettings = StartSettings()
    checks: list[CheckSettings] = Field(default=[], max_length=CHECKS_MAX)


class TestSettings(Strict):
    """What is laid over the rest in a rehearsal."""

    __test__ = False

    directory: AbsolutePath | None = None
    networks: Networks
    mac: Literal["keep", "new"] = "new"
    vms: dict[Name, VmRunSettings] = Field(default={}, max_length=VMS_MAX)
    leave_out: list[Name] | None = Field(default=None, max_length=VMS_MAX)


class RunbookSettings(Strict):
    """A whole runbook. `emulate`: this site has no KVM."""

    target: Literal["qemu", "libvirt", "proxmox"]
    uri: Text = "qemu:///system"
    directory: AbsolutePath
    emulate: bool = False
    networks: Networks = Field(default={})
    mac: Literal["keep", "new"] = "keep"
    vms: dict[Name, VmRunSettings] = Field(default={}, max_length=VMS_MAX)
    leave_out: list[Name] = Field(default=[], max_length=VMS_MAX)
    test: TestSettings | None = None

    def of(self, name: str) -> VmRunSettings:
        """What it says of a VM; nothing where it does not name it."""
        return self.vms.get(name, VmRunSettings())

    def network_of(self, name: str, network: str | None) -> NetworkSettings | None:
        """What a network of a VM is here; None where nobody said."""
        wanted = network if network is not None else ""
        for networks in (self.of(name).networks, self.networks):
            if wanted in networks:
                return networks[wanted]
        for networks in (self.of(name).networks, self.networks):
            if EVERY_OTHER in networks:
                return networks[EVERY_OTHER]
        return None


_Settings = TypeVar("_Settings", bound=Strict)


def rehearsed(runbook: RunbookSettings) -> RunbookSettings | None:
    """The runbook of a rehearsal: `test` laid over the rest; None where it has none.

    No network of production is in it, whoever named it.
    """
    test = runbook.test
    if test is None:
        return None
    vms = {}
    for name in {**runbook.vms, **test.vms}:
        isolated = runbook.of(name).model_copy(update={"networks": {}})
        vms[name] = _laid_over(isolated, test.vms.get(name, VmRunSettings()))
    over: dict[str, Any] = {"networks": test.networks, "mac": test.mac, "vms": vms, "test": None}
    over |= {} if test.leave_out is None else {"leave_out": test.leave_out}
    over |= {} if test.directory is None else {"directory": test.directory}
    return runbook.model_copy(update=over)


def _laid_over(below: _Settings, above: _Settings) -> _Settings:
    """What `above` says, and else `below`."""
    return below.model_copy(update={name: getattr(above, name) for name in above.model_fields_set})


def parse_runbook(text: bytes, name: str) -> tuple[RunbookSettings, dict[PagePlace, int]]:
    """A runbook, and the line of every place in it. Raises ConfigInvalid with every fault."""
    return parse_page(RunbookSettings, text, name, "target: libvirt", HINT)
