"""What the streamer is told at its start. The configuration file is the agent's matter; here are values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cdp_container.domain.identity import AgentIdentity
from cdp_container.domain.retention_policy import Retention
from cdp_container.domain.settings import LimitsSettings
from cdp_container.format.codec import ZSTD_LEVEL

CADENCE_SECONDS: Final = 1.0
LEASE_SECONDS: Final = 30
RPO_TARGET_SECONDS: Final = 30.0
VMS_EVERY_SECONDS: Final = 60.0
FACTS_NAME: Final = "streamer.json"
"""What the streamer shows of itself, in the journal directory; here for those who need no streamer."""


@dataclass(frozen=True, slots=True)
class StreamerSettings:
    """All that `run_streamer` must know.

    Attributes:
        directory: the journal directory.
        identity: agent.json.
        store: the container's address.
        store_is_home: an operator's word that this is the domain's home zone, by whatever name.
        seal_credentials: whether the domain's configuration holds this writer's credentials, sealed; None: as
            it is.
        retention: gives for how long the domain is to keep cuts, None for as it is; asked at each look at the
            domain's configuration, as `reload` may change it.
        replicas: gives the addresses of its other places, as any machine can use them, likewise.
        cut_every_seconds: the cadence of cuts.
        lease_seconds: the lease that this run records in `domain/owner`.
        rpo_target_seconds: a lag above it is called behind target.
        copy_bytes_per_second: what a copy reads of the volumes.
        compression_level: of zstd.
        limits: of bytes and requests per second, with their schedule.
        describe: the command that asks hypervisors for the VMs.
        vms_every_seconds: how often it is started.
        operator: who started the run, for the epoch record.
        software: name and version, for the records.
    """

    directory: Path
    identity: AgentIdentity
    store: str
    cut_every_seconds: float = CADENCE_SECONDS
    lease_seconds: int = LEASE_SECONDS
    rpo_target_seconds: float = RPO_TARGET_SECONDS
    copy_bytes_per_second: float = math.inf
    compression_level: int = ZSTD_LEVEL
    limits: LimitsSettings = field(default_factory=LimitsSettings)
    store_is_home: bool = False
    seal_credentials: bool | None = None
    retention: Callable[[], Retention | None] = lambda: None
    replicas: Callable[[], Sequence[str] | None] = lambda: None
    describe: Sequence[str] = ()
    vms_every_seconds: float = VMS_EVERY_SECONDS
    operator: str = ""
    software: str = ""
