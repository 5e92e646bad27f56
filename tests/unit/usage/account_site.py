"""A container beside an agent's configuration and identity, as the command `usage` finds them."""

from __future__ import annotations

from pathlib import Path

from cdp_agent.collector.pass_types import Around
from cdp_container.domain.collecting import Collector
from cdp_container.domain.identity import IDENTITY_NAME, AgentIdentity, encode_identity
from cdp_container.domain.owner_types import ChangePlan
from cdp_container.format.seal import derive_index_key, public_of
from cdp_container.store.api import Store
from tests.containers import Site, busy_container
from tests.rosters import give_roster
from tests.unit.collector.collecting_site import Time


def identity_of(site: Site) -> AgentIdentity:
    """What `init` would have pinned: no private key."""
    return AgentIdentity(
        domain=site.domain,
        name="shop",
        site="site-a",
        encryption="aes-256-gcm" if site.encrypted else "none",
        public_key=public_of(site.private_key) if site.encrypted else b"",
        index_key=derive_index_key(site.private_key, site.domain) if site.encrypted else b"",
        key_block=site.key_block,
        config_digest=bytes(32),
        sources=(),
    )


def around(site: Site, directory: Path) -> Around:
    """What reads a site's container; whoever asks it to change anything fails."""

    def refuse(_: ChangePlan) -> None:
        raise AssertionError("nothing is to be changed")

    clock = Time()
    collector = Collector(site.store, (), site.domain, "site-a", dict, refuse, clock.sleep)
    return Around(
        identity_of(site), directory, collector, site.store, clock, site.rng.randbytes, lambda _: None
    )


def a_container(store: Store, encrypted: bool = True, collected: bool = True, seed: int = 1) -> Site:
    """Epochs, side branches, if `collected` a pack and a ledger; a roster without holds."""
    site = busy_container(store, seed, encrypted)
    if collected:
        site.collect(1, 1, 3)
    give_roster(store, site.domain)
    return site


def an_agent(site: Site, directory: Path, address: str) -> Path:
    """Its configuration; the journal directory has the identity, as after `init`."""
    (directory / "journal").mkdir()
    (directory / "journal" / IDENTITY_NAME).write_bytes(encode_identity(identity_of(site)))
    path = directory / "agent.yaml"
    encryption = "" if site.encrypted else "encryption: none\n"
    path.write_text(
        f"domain: shop\nsite: site-a\nstore: {address}\n{encryption}"
        f"journal:\n  directory: {directory}/journal\n"
        f"volumes:\n  - name: db01\n    path: {directory}/db01.raw\n"
    )
    return path
