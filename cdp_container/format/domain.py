"""The objects under `domain/` (docs/container-format.md, section 6): values, strict parsers, one encoding.

What may follow what (who may write an owner, which epochs count) is decided by cdp_container.domain.
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from cdp_container.errors import DamagedObject, ForeignObject, LimitExceeded
from cdp_container.format import limits
from cdp_container.format.jsontext import JsonObject, dump_object, load_object
from cdp_container.format.keyblock import parse_key_block
from cdp_container.format.keys import EPOCH_MAX, NUMBER_MAX
from cdp_container.format.layout import DIGEST_BYTES, ID_BYTES
from cdp_container.format.members import Members
from cdp_container.format.place import NOWHERE, Place

DOMAIN_FORMAT: Final = 1

_CONFIG_MEMBERS: Final = frozenset({
    "magic", "format", "domain", "name", "encryption", "key_block", "endpoints", "replicas", "ca",
    "retention", "sources", "members", "credentials", "data",
})  # fmt: skip
_Choice = TypeVar("_Choice", bound=enum.Enum)


class OwnerState(enum.Enum):
    """Whether somebody writes the domain."""

    ACTIVE = "active"
    CLAIMING = "claiming"
    RELEASED = "released"


class Encryption(enum.Enum):
    """How a domain's objects are sealed."""

    AES_256_GCM = "aes-256-gcm"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class ObjectName:
    """An object by its key and its digest."""

    key: str
    digest: bytes


class PlanState(enum.Enum):
    """How far a plan of collection is."""

    NAMED = "named"
    EXECUTING = "executing"


@dataclass(frozen=True, slots=True)
class PlanName:
    """The plan of collection that an owner names: `domain/gc/<epoch>/<n>`, its SHA-256, how far it is."""

    epoch: int
    n: int
    digest: bytes
    state: PlanState


@dataclass(frozen=True, slots=True)
class Owner:
    """`domain/owner`: who owns the domain, and what is protected."""

    domain: bytes
    name: str
    version: int
    nonce: bytes
    site: str
    instance: bytes
    epoch: int
    state: OwnerState
    previous: int
    since_ns: int
    renewals: int
    lease_seconds: int
    config: bytes
    protected: Place = NOWHERE
    operator: str = ""
    reason: str = ""
    released_to: str | None = None
    plan: PlanName | None = None
    ledger: ObjectName | None = None

    @property
    def epoch_in_force(self) -> int:
        """The epoch whose history counts: that of a claim does not yet. 0 if none ever did."""
        return self.previous if self.state is OwnerState.CLAIMING else self.epoch


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """`domain/epochs/<epoch>`: where an epoch starts, and where the previous one ends."""

    domain: bytes
    epoch: int
    previous: int
    site: str
    instance: bytes
    began_ns: int
    base: Place = NOWHERE
    end: Place = NOWHERE
    operator: str = ""
    reason: str = ""
    software: str = ""
    unsynchronised: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """One thing that a domain protects."""

    kind: str
    name: str
    space: bytes
    size_bytes: int


@dataclass(frozen=True, slots=True)
class DomainConfig:
    """`domain/config/<digest>`: what a domain consists of.

    `key_block`: the bytes in preambles. `credentials`: a writer's, sealed (format.credentials). `data`:
    addresses of the data place, none where all is in one place. `unknown`: members that this release does not
    know, for whoever writes the next configuration; they mean nothing.
    """

    domain: bytes
    name: str
    encryption: Encryption
    key_block: bytes = b""
    endpoints: tuple[str, ...] = ()
    replicas: tuple[str, ...] = ()
    ca: str | None = None
    retention: JsonObject = field(default_factory=dict)
    sources: tuple[Source, ...] = ()
    members: tuple[JsonObject, ...] = ()
    credentials: bytes | None = None
    data: tuple[str, ...] = ()
    unknown: JsonObject = field(default_factory=dict, compare=False)


def build_owner(owner: Owner) -> bytes:
    """The bytes of `domain/owner`."""
    members = {
        **frame_members("cdp-owner", owner.domain),
        "name": owner.name,
        "version": owner.version,
        "nonce": owner.nonce.hex(),
        "site": owner.site,
        "instance": owner.instance.hex(),
        "epoch": owner.epoch,
        "state": owner.state.value,
        "previous": owner.previous,
        "since_ns": owner.since_ns,
        "renewals": owner.renewals,
        "lease_seconds": owner.lease_seconds,
        "operator": owner.operator,
        "reason": owner.reason,
        "protected": place_members(owner.protected),
        "released_to": owner.released_to,
        "plan": plan_name_members(owner.plan),
        "ledger": name_members(owner.ledger),
        "config": owner.config.hex(),
    }
    data = dump_members(members, "domain/owner")
    assert parse_owner(data, "the owner that is being built", owner.domain) == owner
    return data


def parse_owner(data: bytes, key: str, domain: bytes | None) -> Owner:
    """The owner that stands under `key`; `domain` is the domain it must be of, None for any.

    Raises:
        DamagedObject, NewerFormat, LimitExceeded: it is not an owner of this format.
        ForeignObject: it is another domain's.
    """
    members = open_members(data, key, "cdp-owner", domain)
    epoch = members.number("epoch", EPOCH_MAX)
    previous = members.number("previous", EPOCH_MAX)
    state = _choice(OwnerState, members, "state")
    if previous > epoch or (state is OwnerState.CLAIMING and previous >= epoch):
        raise members.fault("previous", "is not before its epoch")
    return Owner(
        domain=members.bytes("domain", ID_BYTES),
        name=members.text("name"),
        version=members.number("version"),
        nonce=members.bytes("nonce", ID_BYTES),
        site=members.text("site"),
        instance=members.bytes("instance", ID_BYTES),
        epoch=epoch,
        state=state,
        previous=previous,
        since_ns=members.time_ns("since_ns"),
        renewals=members.number("renewals"),
        lease_seconds=members.number("lease_seconds"),
        config=members.bytes("config", DIGEST_BYTES),
        protected=members.place("protected"),
        operator=members.text("operator"),
        reason=members.text("reason"),
        released_to=members.text_or_none("released_to"),
        plan=parse_plan_name(members, "plan"),
        ledger=parse_name(members, "ledger"),
    )


def build_epoch_record(record: EpochRecord) -> bytes:
    """The bytes of `domain/epochs/<epoch>`."""
    members = {
        **frame_members("cdp-epoch", record.domain),
        "epoch": record.epoch,
        "previous": record.previous,
        "site": record.site,
        "instance": record.instance.hex(),
        "operator": record.operator,
        "reason": record.reason,
        "base": place_members(record.base),
        "end": place_members(record.end),
        "began_ns": record.began_ns,
        "software": record.software,
        "unsynchronised": record.unsynchronised,
    }
    data = dump_members(members, f"domain/epochs/{record.epoch}")
    assert parse_epoch_record(data, "the epoch record that is being built", record.domain) == record
    return data


def parse_epoch_record(data: bytes, key: str, domain: bytes | None) -> EpochRecord:
    """The epoch record that stands under `key`; errors as in `parse_owner`."""
    members = open_members(data, key, "cdp-epoch", domain)
    record = EpochRecord(
        domain=members.bytes("domain", ID_BYTES),
        epoch=members.number("epoch", EPOCH_MAX),
        previous=members.number("previous", EPOCH_MAX),
        site=members.text("site"),
        instance=members.bytes("instance", ID_BYTES),
        began_ns=members.time_ns("began_ns"),
        base=members.place("base"),
        end=members.place("end"),
        operator=members.text("operator"),
        reason=members.text("reason"),
        software=members.text("software"),
        unsynchronised=members.flag("unsynchronised"),
    )
    if record.previous >= record.epoch:
        raise members.fault("previous", "is not before its epoch")
    if max(record.base.epoch, record.end.epoch) > record.previous:
        raise members.fault("base", "or end lies in an epoch that was never active before it")
    return record


def build_config(config: DomainConfig) -> bytes:
    """The bytes of `domain/config/<digest>`; `config_digest` of them is the digest."""
    members = {
        **config.unknown,
        **frame_members("cdp-config", config.domain),
        "name": config.name,
        "encryption": config.encryption.value,
        "key_block": load_object(config.key_block, limits.KEY_BLOCK_BYTES_MAX, "key block")
        if config.key_block
        else None,
        "endpoints": config.endpoints,
        "replicas": config.replicas,
        "ca": config.ca,
        "retention": config.retention,
        "sources": [
            {
                "kind": source.kind,
                "name": source.name,
                "space": source.space.hex(),
                "size_bytes": source.size_bytes,
            }
            for source in config.sources
        ],
        "members": config.members,
    }
    if config.credentials is not None:
        members["credentials"] = {"sealed": config.credentials.hex()}
    if config.data:
        members["data"] = config.data
    data = dump_members(members, "domain/config")
    assert parse_config(data, "the configuration that is being built", config.domain) == config
    return data


def config_digest(data: bytes) -> bytes:
    """What names a configuration in `domain/owner` and in its key."""
    return hashlib.sha256(data).digest()


def parse_config(data: bytes, key: str, domain: bytes | None) -> DomainConfig:
    """The configuration in `data`; errors as in `parse_owner`. The caller checks its digest."""
    members = open_members(data, key, "cdp-config", domain)
    key_block = members.object_or_none("key_block")
    encryption = _choice(Encryption, members, "encryption")
    if (key_block is None) != (encryption is Encryption.NONE):
        raise members.fault("key_block", "does not fit the encryption")
    block = b"" if key_block is None else dump_object(key_block.members)
    if block:
        parse_key_block(block, key)
    return DomainConfig(
        domain=members.bytes("domain", ID_BYTES),
        name=members.text("name"),
        encryption=encryption,
        key_block=block,
        endpoints=members.texts("endpoints"),
        replicas=members.texts("replicas"),
        ca=members.text_or_none("ca"),
        retention=members.object("retention").members,
        sources=tuple(
            Source(
                source.text("kind"),
                source.text("name"),
                source.bytes("space", ID_BYTES),
                source.number("size_bytes", limits.SPACE_BYTES_MAX),
            )
            for source in members.objects("sources")
        ),
        members=tuple(member.members for member in members.objects("members")),
        credentials=_sealed_credentials(members),
        data=members.texts("data") if "data" in members.members else (),
        unknown={name: value for name, value in members.members.items() if name not in _CONFIG_MEMBERS},
    )


def _sealed_credentials(members: Members) -> bytes | None:
    if "credentials" not in members.members:
        return None
    text = members.object("credentials").text("sealed")
    if len(text) > 2 * limits.SEALED_CREDENTIALS_BYTES_MAX:
        raise LimitExceeded(members.what, "its credentials are too long (SEALED_CREDENTIALS_BYTES_MAX)")
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise members.fault("credentials", "is not hex") from error


def name_members(name: ObjectName | None) -> JsonObject | None:
    """`{key, digest}` or null, as other objects name an object."""
    return None if name is None else {"key": name.key, "digest": name.digest.hex()}


def parse_name(members: Members, name: str) -> ObjectName | None:
    """The object that the member `name` names, or None for null."""
    inner = members.object_or_none(name)
    return None if inner is None else ObjectName(inner.text("key"), inner.bytes("digest", DIGEST_BYTES))


def plan_name_members(plan: PlanName | None) -> JsonObject | None:
    """`{epoch, n, digest, state}` or null."""
    if plan is None:
        return None
    return {"epoch": plan.epoch, "n": plan.n, "digest": plan.digest.hex(), "state": plan.state.value}


def parse_plan_name(members: Members, name: str) -> PlanName | None:
    """The plan that the member `name` names, or None for null."""
    inner = members.object_or_none(name)
    if inner is None:
        return None
    return PlanName(
        inner.number("epoch", EPOCH_MAX, least=1),
        inner.number("n", NUMBER_MAX, least=1),
        inner.bytes("digest", DIGEST_BYTES),
        _choice(PlanState, inner, "state"),
    )


def open_members(
    data: bytes, key: str, magic: str, domain: bytes | None, bytes_max: int = limits.DOMAIN_JSON_BYTES_MAX
) -> Members:
    """The members of an object under `domain/`; errors as in `parse_owner`."""
    members = Members(load_object(data, bytes_max, key), key)
    members.magic(magic)
    members.format_at_most(DOMAIN_FORMAT)
    found = members.bytes("domain", ID_BYTES)
    if domain is not None and found != domain:
        raise ForeignObject(key, f"it belongs to the domain {found.hex()}")
    return members


def frame_members(magic: str, domain: bytes) -> dict[str, Any]:
    """The members that every object under `domain/` begins with."""
    return {"magic": magic, "format": DOMAIN_FORMAT, "domain": domain.hex()}


def place_members(place: Place) -> JsonObject:
    """`{epoch, cut, seq}`."""
    return {"epoch": place.epoch, "cut": place.cut, "seq": place.seq}


def dump_members(members: JsonObject, what: str) -> bytes:
    """The bytes of an object under `domain/`. Raises LimitExceeded."""
    data = dump_object(members)
    if len(data) > limits.DOMAIN_JSON_BYTES_MAX:
        raise LimitExceeded(what, f"it would have {len(data)} bytes (DOMAIN_JSON_BYTES_MAX)")
    return data


def _choice(choices: type[_Choice], members: Members, name: str) -> _Choice:
    try:
        return choices(members.text(name))
    except ValueError as error:
        raise DamagedObject(members.what, f"its member {name!r} is unknown") from error
