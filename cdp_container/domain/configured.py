"""What the owning site wants the domain's configuration to be, made of the one that is in force. PURE.

It changes what the site has a word about; everything else is carried over: members, sources of
other kinds than ours, what a later release added. Who puts it, and who names it in `domain/owner`, does not
belong here (the streamer, and the owner's machine).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cdp_container.domain.identity import AgentIdentity
from cdp_container.domain.retention_policy import Retention, build_retention
from cdp_container.format.domain import DomainConfig, Source
from cdp_container.store.zones import Zone, pinned_zones

VOLUME_KIND = "volume"
TREE_KIND = "tree"


@dataclass(frozen=True, slots=True)
class SiteWord:
    """What a site says of the domain beside agent.json.

    Attributes:
        address: of its store, as any machine can use it (`zones.public_address`).
        zone: of its store, None for a directory.
        is_home: an operator's word that the store is the home, by whatever name.
        ca: who signs the certificate of the store's server, in PEM; None where the site names nobody.
        seals: whether the configuration is to hold a writer's credentials; None leaves those that are there.
        credentials: these, sealed, where it is to hold them.
        retention: for how long cuts are kept; None leaves it as it is.
        replicas: other places that are to hold the same, as any machine can use them; None likewise.
    """

    address: str
    zone: Zone | None
    is_home: bool = False
    ca: str | None = None
    seals: bool | None = None
    credentials: bytes | None = None
    retention: Retention | None = None
    replicas: Sequence[str] | None = None


def wanted_config(in_force: DomainConfig, identity: AgentIdentity, word: SiteWord) -> DomainConfig:
    """The configuration that is to be in force, equal to `in_force` where nothing is to be changed."""
    return replace(
        _with_home(in_force, word),
        sources=_sources(in_force, identity),
        credentials=in_force.credentials if word.seals is None else word.credentials if word.seals else None,
        replicas=in_force.replicas if word.replicas is None else tuple(word.replicas),
        retention=in_force.retention if word.retention is None else build_retention(word.retention),
    )


def sources_of(identity: AgentIdentity) -> tuple[Source, ...]:
    """What a site protects now: volumes, then trees."""
    volumes = (
        Source(VOLUME_KIND, source.name, source.space, source.size_bytes)
        for source in identity.active.values()
    )
    disks = (Source(VOLUME_KIND, one.name, one.space, one.size_bytes) for one in identity.active_disks)
    return (*volumes, *disks, *(Source(TREE_KIND, tree.name, tree.tree, 0) for tree in identity.active_trees))


def _with_home(in_force: DomainConfig, word: SiteWord) -> DomainConfig:
    """Pinned anew only where an operator says so; another spelling of the same home is no other home."""
    pinned = pinned_zones(in_force.endpoints)
    if word.is_home and pinned and word.zone not in pinned:
        return replace(in_force, endpoints=(word.address,), ca=word.ca)
    return in_force if word.ca is None else replace(in_force, ca=word.ca)


def _sources(in_force: DomainConfig, identity: AgentIdentity) -> tuple[Source, ...]:
    ours = sources_of(identity)
    # A site that was failed over to knows of no trees: theirs are where they were.
    kinds = {VOLUME_KIND, TREE_KIND} if identity.trees else {VOLUME_KIND}
    others = tuple(source for source in in_force.sources if source.kind not in kinds)
    # The order tells nothing, and differs from site to site.
    return in_force.sources if {*ours, *others} == {*in_force.sources} else (*ours, *others)
