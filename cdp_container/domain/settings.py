"""The administrator's configuration: YAML in, frozen values out, all faults at once.

Each fault names its line, its path and, for an unknown key, the nearest known one. What does not
belong here: anything that needs the store or the disk (whether a backing file exists is for
`init` and `check-config` to find out).
"""

from __future__ import annotations

import ipaddress
import math
import re
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    model_validator,
)

from cdp_container.domain.budget import budget_of
from cdp_container.domain.disk_settings import DiskSettings, disk_faults, parted, whole
from cdp_container.domain.page_faults import PAGE_BYTES_MAX, parse_page
from cdp_container.domain.place_settings import LockSettings, directory_of, joined
from cdp_container.domain.point_settings import (
    HOOKS_MAX,
    MarkerHookSettings,
    RetentionSettings,
    differ,
)
from cdp_container.domain.replica_places import Replicas
from cdp_container.domain.schedule import CalendarTimes, zone_of
from cdp_container.domain.setting_types import (
    NAME,
    UNLIMITED,
    AbsolutePath,
    Endpoint,
    Name,
    Seconds,
    SizeBytes,
    Strict,
    is_command,
    written,
)
from cdp_container.domain.tree_settings import Apart, TreeSettings, source_faults
from cdp_container.domain.vm_settings import VMS_MAX, VmSettings, vm_faults
from cdp_container.errors import ConfigInvalid

CONFIG_BYTES_MAX = PAGE_BYTES_MAX
VOLUMES_MAX = 1024
"""Sources of one domain: the format's NOT_WHOLE_MAX."""
SOCKET_PATH_BYTES_MAX = 107
"""The kernel's limit for the path of a unix socket (sun_path less its zero)."""

BYTES_PER_SECOND_MIN = 100_000
"""Below it one object of the largest size takes minutes of a limit, and recovery points hours."""
REQUESTS_PER_SECOND_MIN = 2
"""An object and the proof of it, once a second."""
WINDOWS_MAX = 32
"""Times of a week at which limits change."""

ALERT_WORDS_MAX = 64
"""A command with more words than this is a script's task."""

_SECRETIVE = (("store",), ("data_store",), ("replicas",), ("alerts",), ("marker_hooks",))
"""What stands below these keys is never repeated in a message."""

_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|kB|MB|GB|KiB|MiB|GiB)")
_RATE_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def _bytes_per_second(value: object) -> object:
    if value == UNLIMITED:
        return math.inf
    match = _RATE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("is not a rate (write a number and a unit, like 20MB or 5MiB, or unlimited)")
    return float(match[1]) * _RATE_UNITS[match[2]]


def _requests_per_second(value: object) -> object:
    if value == UNLIMITED:
        return math.inf
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("is not a rate (write a number, or unlimited)")
    return float(value)


def _cron(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("is no crontab line (like 0 8 * * mon-fri)")
    if not CalendarTimes(value, "UTC").ever_come:
        raise ValueError("never comes: none of its months has such a day")
    return value


def _budget(value: str) -> str:
    budget_of(value)
    return value


def _zone(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("is not a time zone (write one like Europe/Berlin)")
    zone_of(value)
    return value


def _written_requests(value: float) -> float | str:
    return UNLIMITED if math.isinf(value) else value


LEASE_SECONDS_MIN: Final = 5
LEASE_SECONDS_MAX: Final = 3600

ByteRate = Annotated[float, BeforeValidator(_bytes_per_second), Field(ge=BYTES_PER_SECOND_MIN), written("B")]
RequestRate = Annotated[
    float,
    BeforeValidator(_requests_per_second),
    Field(ge=REQUESTS_PER_SECOND_MIN),
    PlainSerializer(_written_requests),
]


def is_name(text: str) -> bool:
    """Whether a site, a domain or a volume can be called so."""
    return re.fullmatch(NAME, text) is not None


class VolumeSettings(Strict):
    """One volume: its name in the domain, and the file or block device that holds it."""

    name: Name
    path: AbsolutePath


class JournalSettings(Strict):
    """The local journal: where it lies and how far it may grow.

    At least four files of 64 MiB: one that is written, one that is proven late, room to rotate.
    """

    directory: AbsolutePath
    limit: SizeBytes = Field(default=8 << 30, ge=256 << 20, le=16 << 40)
    on_full: Literal["degrade", "stop-writes"] = "degrade"


class WindowSettings(Strict):
    """Limits from the times that `cron` names until the next window begins; None is as outside of windows."""

    cron: Annotated[str, BeforeValidator(_cron)]
    bytes_per_second: ByteRate | None = None
    requests_per_second: RequestRate | None = None


class LimitsSettings(Strict):
    """What the streamer may use of the line to the store; math.inf is no limit."""

    bytes_per_second: ByteRate = math.inf
    requests_per_second: RequestRate = math.inf
    timezone: Annotated[str, BeforeValidator(_zone)] | None = None
    schedule: list[WindowSettings] = Field(default=[], max_length=WINDOWS_MAX)

    def times(self) -> list[CalendarTimes]:
        """When the windows of the schedule begin, in its order."""
        return [CalendarTimes(window.cron, self.timezone or "") for window in self.schedule]


class CollectionSettings(Strict):
    """How the collector goes about it. `every`: seconds from the end of a scheduled pass to the next.

    `store`: an address of its own for the same container, perhaps with rights of its own; None: the agent's.
    """

    every: Seconds = Field(default=3600.0, ge=10, le=30 * 86400)
    grace: Seconds = Field(default=60.0, ge=1, le=3600)
    space_target: float = Field(default=1.25, ge=1.05, le=20)
    requests_per_second: RequestRate = 100.0
    bytes_per_second: ByteRate = math.inf
    store: str | None = Field(default=None, min_length=1, max_length=2048)


class VerificationSettings(Strict):
    """When the agent verifies, by the machine's own calendar, and how much; `budget` None: everything.

    It reads at the pace of `collection`.
    """

    schedule: Annotated[str, BeforeValidator(_cron)]
    budget: Annotated[str, AfterValidator(_budget)] | None = None


class TlsSettings(Strict):
    """PEM files: the server's certificate with its chain, its key, and who signs clients' certificates."""

    certificate: AbsolutePath
    key: AbsolutePath
    client_ca: AbsolutePath


class NbdSettings(Strict):
    """The exports over TCP, besides the unix socket. What another machine can reach needs `tls`."""

    listen: Endpoint
    tls: TlsSettings | None = None

    @model_validator(mode="after")
    def _is_safe(self) -> NbdSettings:
        if self.tls is None and not ipaddress.ip_address(self.endpoint[0]).is_loopback:
            raise ValueError(f"listen: {self.listen} can be reached from other machines: tls is needed there")
        return self

    @property
    def endpoint(self) -> tuple[str, int]:
        """Address and port."""
        host, _, port = self.listen.rpartition(":")
        return host.removeprefix("[").removesuffix("]"), int(port)


class AlertSettings(Strict):
    """Who is told of trouble: a command, which gets the event as its input, or a URL that gets a POST.

    Both may hold secrets, so no message repeats them.
    """

    command: list[str] | None = Field(default=None, min_length=1, max_length=ALERT_WORDS_MAX)
    webhook: str | None = Field(default=None, max_length=2048)

    @model_validator(mode="after")
    def _is_one(self) -> AlertSettings:
        if (self.command is None) == (self.webhook is None):
            raise ValueError("needs either command or webhook")
        if self.command is not None and not is_command(self.command):
            raise ValueError("command: needs the absolute path of a program, then its arguments")
        if self.webhook is not None and not _is_webhook(self.webhook):
            raise ValueError("webhook: is no URL (like https://host/path)")
        return self


def _is_webhook(url: str) -> bool:
    if not (url.isascii() and url.isprintable()) or " " in url:
        return False
    try:
        parts = urlsplit(url)
        port_fits = parts.port is None or parts.port > 0
    except ValueError:
        return False
    return (
        parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc and port_fits
    )


class AgentSettings(Strict):
    """The whole of an agent's configuration file.

    `store` is an address (cdp_container/store/address.py); it never holds credentials. `store_is_home`: an
    operator's word that it is the domain's home zone by whatever name. `seal_credentials`: whether the
    domain's configuration holds the writer's credentials, sealed to its key; None leaves it as it is.
    `retention`: for how long cuts are kept; `replicas`: places that collection waits for; None leaves what
    the domain has.
    `data_store`: None once read, as it became part of the addresses. `lock`: what `init` asks of its bucket.
    `vms_every`: how often VMs are asked for their configurations.
    `disks`: those of `volumes` that are captured from their VMs; `capture_every`: how often.
    `rpo_target` decides whether `status` calls the domain healthy. `copy_rate`: bytes per second that a copy
    reads of the volumes, beside what guests do.
    """

    domain: Name
    site: Name
    store: str = Field(min_length=1, max_length=2048)
    data_store: str | None = None
    lock: LockSettings | None = None
    replicas: Replicas | None = None
    store_is_home: bool = False
    seal_credentials: bool | None = None
    journal: JournalSettings
    volumes: list[VolumeSettings] = Field(default=[], max_length=VOLUMES_MAX)
    disks: list[DiskSettings] = Field(default=[], max_length=VOLUMES_MAX)
    capture_every: Seconds = Field(default=2.0, ge=0.2, le=3600)
    trees: list[TreeSettings] = Field(default=[], max_length=VOLUMES_MAX)
    vms: list[VmSettings] = Field(default=[], max_length=VMS_MAX)
    vms_every: Seconds = Field(default=60.0, ge=5, le=86400)
    encryption: Literal["aes-256-gcm", "none"] = "aes-256-gcm"
    recipients: list[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = Field(default=[], max_length=32)
    socket: AbsolutePath | None = None
    nbd: NbdSettings | None = None
    cut_every: Seconds = Field(default=1.0, ge=0.1, le=3600)
    rpo_target: Seconds = Field(default=30.0, ge=1, le=30 * 86400)
    copy_rate: ByteRate = math.inf
    lease: Seconds = Field(default=30.0, ge=LEASE_SECONDS_MIN, le=LEASE_SECONDS_MAX)
    compression_level: int = Field(default=1, ge=-7, le=19)
    limits: LimitsSettings = LimitsSettings()
    collection: CollectionSettings = CollectionSettings()
    verification: VerificationSettings | None = None
    alerts: AlertSettings | None = None
    retention: RetentionSettings | None = None
    marker_hooks: Annotated[list[MarkerHookSettings], AfterValidator(differ)] = Field(
        default=[], max_length=HOOKS_MAX
    )

    @model_validator(mode="before")
    @classmethod
    def _with_data_place(cls, values: object) -> object:
        return parted(joined(values))

    @model_validator(mode="after")
    def _has_a_key(self) -> AgentSettings:
        if self.seal_credentials and self.encryption == "none":
            raise ValueError("seal_credentials: with encryption none there is no key to seal them to")
        return self

    @model_validator(mode="after")
    def _volumes_differ(self) -> AgentSettings:
        for what in ("name", "path"):
            values = [getattr(volume, what) for volume in self.volumes]
            twice = sorted({value for value in values if values.count(value) > 1})
            if twice:
                raise ValueError(f"volumes: two have the same {what}: {', '.join(twice)}")
        faults = disk_faults(self.disks, self.vms, [volume.name for volume in self.volumes])
        names = [*(volume.name for volume in self.volumes), *(disk.name for disk in self.disks)]
        faults += source_faults(names, self.trees, self.apart_from_trees, VOLUMES_MAX)
        faults += vm_faults(self.vms, names)
        if faults:
            raise ValueError("; ".join(faults))
        if len(self.socket_path.encode()) > SOCKET_PATH_BYTES_MAX:
            raise ValueError(f"socket: {self.socket_path} is longer than {SOCKET_PATH_BYTES_MAX} bytes")
        return self

    @property
    def apart_from_trees(self) -> list[Apart]:
        """What must not be in a tree, nor a tree in it."""
        stores = [address for address in (self.store, self.collection.store) if address]
        disks = [Apart(f"the disk of volume {volume.name}", volume.path) for volume in self.volumes]
        places = [Apart("the store's directory", path) for path in map(directory_of, stores) if path]
        return [Apart("journal.directory", self.journal.directory), *disks, *places]

    @property
    def socket_path(self) -> str:
        """Where the NBD exports listen."""
        return self.socket if self.socket is not None else f"{self.journal.directory}/nbd.sock"


def load_settings(path: Path) -> AgentSettings:
    """Read and check a configuration file. Raises ConfigInvalid with every fault."""
    try:
        with path.open("rb") as file:
            text = file.read(CONFIG_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigInvalid(
            f"cannot read {path}",
            error.strerror or "unreadable",
            "give the path of the configuration with --config",
        ) from error
    return parse_settings(text, str(path))


def parse_settings(text: bytes, name: str) -> AgentSettings:
    """Check a configuration given as bytes; `name` is what faults call the file. Raises ConfigInvalid."""
    return parse_page(AgentSettings, text, name, "domain: shop", secretive=_SECRETIVE)[0]


def dump_settings(settings: AgentSettings) -> bytes:
    """A configuration that says the same, for `parse_settings`."""
    document = whole(settings.model_dump(exclude_none=True))
    return bytes(yaml.safe_dump(document, encoding="utf-8", allow_unicode=False))
