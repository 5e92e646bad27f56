"""`cdp-agent init`: create container, domain and keys, and print the recovery kit.

Safe to repeat: everything random is noted in agent.json.pending before anything is written to the
store, so an interrupted `init` is finished by running it again, with the same ids. The container
exists from the moment `domain/owner` does, which is written last.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cdp_agent.backing import inspect_backing
from cdp_agent.cli.data_place import look_at_data_place
from cdp_agent.imager.sizes import disk_sizes
from cdp_agent.sealed import check_sealing, sealed_credentials
from cdp_agent.site_word import ca_of
from cdp_agent.supervisor import take_lock
from cdp_agent.tree_paths import refuse_trees
from cdp_agent.volume_set import changed_trees
from cdp_container.clock import Clock
from cdp_container.domain.configured import sources_of
from cdp_container.domain.disk_settings import changed_disks
from cdp_container.domain.durable import replace_file
from cdp_container.domain.identity import (
    IDENTITY_NAME,
    AgentIdentity,
    SourceIdentity,
    decode_identity,
    encode_identity,
)
from cdp_container.domain.notes import Notes, load_notes, save_notes
from cdp_container.domain.owner import first_owner
from cdp_container.domain.replica_places import published
from cdp_container.domain.retention_policy import build_retention
from cdp_container.domain.settings import AgentSettings
from cdp_container.domain.vm_settings import changed_vms
from cdp_container.errors import (
    CdpError,
    ContainerExists,
    ForeignObject,
    NotFound,
    PreconditionFailed,
)
from cdp_container.format.domain import (
    DomainConfig,
    Encryption,
    build_config,
    build_owner,
    config_digest,
    parse_owner,
)
from cdp_container.format.holds import Holds, build_holds, parse_holds
from cdp_container.format.keyblock import (
    PassphraseWrap,
    RecipientWrap,
    ScryptCost,
    build_key_block,
    open_with_passphrase,
    parse_key_block,
    wrap_for_passphrase,
    wrap_for_recipient,
)
from cdp_container.format.keys import HOLDS_KEY, OWNER_KEY, config_key
from cdp_container.format.seal import derive_index_key, public_of
from cdp_container.store.api import Store
from cdp_container.store.attest import HasDataPlace, probe
from cdp_container.store.zones import public_address

PENDING_NAME = IDENTITY_NAME + ".pending"
ID_BYTES = 16
KEY_BYTES = 32
SALT_BYTES = 16
NONCE_BYTES = 12

Entropy = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Initialised:
    """What `init` made. `notes`: for people, of the data place."""

    identity: AgentIdentity
    resumed: bool
    notes: list[str] = field(default_factory=list)


def initialise(
    settings: AgentSettings,
    store: Store,
    passphrase: Callable[[], str],
    clock: Clock,
    entropy: Entropy,
    cost: ScryptCost,
    before_creating: Callable[[], None] = lambda: None,
) -> Initialised:
    """Create the domain. `passphrase` is only asked for where the domain is encrypted.

    `before_creating` is called when nothing stands against it, and may raise what does.

    Raises ContainerExists, AlreadyRunning, BackingUnreadable, StoreRefused, WrongPassphrase (an
    interrupted `init` used another one), and what the store raises.
    """
    directory = Path(settings.journal.directory)
    _make_directory(directory)
    lock = take_lock(directory / "lock", clock)
    try:
        return _initialise(settings, directory, store, passphrase, clock, entropy, cost, before_creating)
    finally:
        os.close(lock)


def _initialise(
    settings: AgentSettings,
    directory: Path,
    store: Store,
    passphrase: Callable[[], str],
    clock: Clock,
    entropy: Entropy,
    cost: ScryptCost,
    before_creating: Callable[[], None],
) -> Initialised:
    if (directory / IDENTITY_NAME).exists():
        raise ContainerExists(
            f"cannot initialise in {directory}",
            "this journal directory already belongs to an agent",
            "`cdp-agent run` starts it, `cdp-agent kit` prints its kit; a new domain needs another one",
        )
    if settings.seal_credentials:
        check_sealing(settings.encryption != Encryption.NONE.value, store).signing_keys()
    refuse_trees(settings)
    sizes = {volume.name: inspect_backing(volume.path).size_bytes for volume in settings.volumes}
    sizes |= disk_sizes(settings, clock)
    probe(store, entropy)
    notes = look_at_data_place(settings)
    pending = directory / PENDING_NAME
    resumed = pending.exists()
    if resumed:
        identity = decode_identity(pending.read_bytes(), str(pending))
        _check_passphrase(identity, passphrase)
        before_creating()
    else:
        _refuse_existing(store)
        before_creating()
        identity = _new_identity(settings, sizes, passphrase, entropy, cost)
        # The notes first: what is pending is finished by the next `init`, and that needs the nonce.
        save_notes(directory, Notes(nonces=(entropy(ID_BYTES),)))
        replace_file(pending, encode_identity(identity))
    _write_container(settings, identity, load_notes(directory).nonces[0], store, clock, entropy)
    pending.rename(directory / IDENTITY_NAME)
    replace_file(directory / IDENTITY_NAME, encode_identity(identity))
    return Initialised(identity, resumed, notes)


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CdpError(
            f"cannot create {directory}", error.strerror or "refused", "choose another journal.directory"
        ) from error


def _refuse_existing(store: Store) -> None:
    try:
        found = parse_owner(store.get(OWNER_KEY).data, OWNER_KEY, None)
    except NotFound as error:
        if type(error) is not NotFound:
            raise  # no such bucket: not the absence that we hope for
        return
    raise ContainerExists(
        f"cannot create a container at {store.address}",
        f"the domain {found.name!r} ({found.domain.hex()}) is there",
    )


def _new_identity(
    settings: AgentSettings,
    sizes: dict[str, int],
    passphrase: Callable[[], str],
    entropy: Entropy,
    cost: ScryptCost,
) -> AgentIdentity:
    domain = entropy(ID_BYTES)
    public_key = index_key = key_block = b""
    if settings.encryption == Encryption.AES_256_GCM.value:
        private_key = entropy(KEY_BYTES)
        public_key, index_key = public_of(private_key), derive_index_key(private_key, domain)
        wraps: list[PassphraseWrap | RecipientWrap] = [
            wrap_for_passphrase(
                private_key, passphrase(), domain, entropy(SALT_BYTES), entropy(NONCE_BYTES), cost
            ),
            *(
                wrap_for_recipient(private_key, bytes.fromhex(recipient), entropy(KEY_BYTES), domain)
                for recipient in settings.recipients
            ),
        ]
        key_block = build_key_block(public_key, wraps)
    identity = AgentIdentity(
        domain=domain,
        name=settings.domain,
        site=settings.site,
        encryption=settings.encryption,
        public_key=public_key,
        index_key=index_key,
        key_block=key_block,
        config_digest=bytes(32),
        sources=tuple(
            SourceIdentity(volume.name, volume.path, entropy(ID_BYTES), sizes[volume.name])
            for volume in settings.volumes
        ),
    )
    identity = changed_vms(changed_trees(identity, settings.trees, entropy), settings.vms, entropy)
    return changed_disks(identity, settings.disks, sizes, entropy)


def _check_passphrase(identity: AgentIdentity, passphrase: Callable[[], str]) -> None:
    """The kit that is printed must be right about the passphrase that was typed."""
    if identity.key_block:
        block = parse_key_block(identity.key_block, "the interrupted init")
        open_with_passphrase(block, passphrase(), identity.domain, "the interrupted init")


def domain_config(settings: AgentSettings, identity: AgentIdentity, store: Store, entropy: Entropy) -> bytes:
    """The bytes of the domain's configuration object; `store`, as it was opened, becomes its home."""
    directory = Path(settings.journal.directory)
    sealed = None
    if settings.seal_credentials:
        sealed = sealed_credentials(directory, identity, store, entropy)
    return build_config(
        DomainConfig(
            domain=identity.domain,
            name=identity.name,
            encryption=Encryption(identity.encryption),
            key_block=identity.key_block,
            endpoints=(public_address(store),),
            ca=ca_of(settings.store),
            sources=sources_of(identity),
            credentials=sealed,
            data=(public_address(store.data),) if isinstance(store, HasDataPlace) else (),
            replicas=tuple(published(address) for address in settings.replicas or ()),
            retention={} if settings.retention is None else build_retention(settings.retention.policy),
        )
    )


def _write_container(
    settings: AgentSettings,
    identity: AgentIdentity,
    nonce: bytes,
    store: Store,
    clock: Clock,
    entropy: Entropy,
) -> None:
    config = domain_config(settings, identity, store, entropy)
    _create(store, config_key(config_digest(config)), config, lambda data: data == config)
    holds = build_holds(Holds(identity.domain, 1, entropy(ID_BYTES)))
    _create(
        store, HOLDS_KEY, holds, lambda data: parse_holds(data, HOLDS_KEY, None).domain == identity.domain
    )
    owner = first_owner(
        identity.domain,
        identity.name,
        identity.site,
        nonce,
        config_digest(config),
        int(settings.lease),
        clock.wall_ns(),
    )
    _create(
        store, OWNER_KEY, build_owner(owner), lambda data: parse_owner(data, OWNER_KEY, None).nonce == nonce
    )


def _create(store: Store, key: str, data: bytes, is_ours: Callable[[bytes], bool]) -> None:
    """Create an object, or find that an earlier attempt of ours did."""
    try:
        store.put_new(key, data)
    except PreconditionFailed:
        if not is_ours(store.get(key).data):
            raise ForeignObject(
                f"{store.address}: {key}",
                "it was written by somebody else",
                "choose an empty prefix, or delete what an abandoned init left there",
            ) from None
