"""Opening a container for reading: its history, and the keys that a secret opens.

Only reading is ever done. How a secret is asked for does not belong here (cli), nor which point is taken
(points).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from cdp_container.domain.contents import Contents
from cdp_container.domain.gathering import Told, gather
from cdp_container.domain.heads import HEADS_AT_ONCE
from cdp_container.domain.history import LOOKS_MAX, DomainFacts, History, read_domain, read_history
from cdp_container.domain.ledgers import NO_LEDGER, Ledger, read_ledger
from cdp_container.domain.opening import all_collected, collected_of, is_superseded
from cdp_container.domain.parallel import ManyAtOnce
from cdp_container.domain.replica import read_replica, read_replica_domain
from cdp_container.errors import (
    DamagedObject,
    ForeignObject,
    KeyMissing,
    LimitExceeded,
    MissingObject,
    NewerFormat,
    WrongPassphrase,
)
from cdp_container.format.domain import Encryption, Owner, parse_owner
from cdp_container.format.holds import Hold
from cdp_container.format.keyblock import open_with_passphrase, open_with_recipient, parse_key_block
from cdp_container.format.keys import OWNER_KEY, log_prefix, parse_key
from cdp_container.format.limits import PREAMBLE_BYTES_MAX
from cdp_container.format.preamble import parse_preamble
from cdp_container.format.seal import NO_KEYS, ReaderKeys, public_of
from cdp_container.store.api import Store
from rehydrate.copies import read_copy

_BULK: Final = ("catalog", "log", "packs")
"""The parts of a container's keys under which most objects stand, and no container."""


@dataclass(frozen=True, slots=True)
class Secret:
    """What opens a sealed container: a passphrase, or the private key (32 bytes) of domain or recipient."""

    passphrase: str | None = field(default=None, repr=False)
    private_key: bytes | None = field(default=None, repr=False)

    def __bool__(self) -> bool:
        return self.passphrase is not None or self.private_key is not None


@dataclass(frozen=True, slots=True)
class Container:
    """A container that was opened. `sealed` says whether its data needs a key; `keys` may hold it."""

    store: Store
    history: History
    keys: ReaderKeys
    sealed: bool
    ledger: Ledger

    def require_key(self) -> None:
        """Raises KeyMissing where data could not be read."""
        if self.sealed and self.keys.private_key is None:
            raise KeyMissing("read this container", "it is encrypted and no passphrase or key was given")

    def gather(
        self,
        scope: Mapping[int, int],
        keeps_sums: bool = False,
        at_once: ManyAtOnce = HEADS_AT_ONCE,
        told: Told = lambda done, total: None,
        keeps_names: bool = False,
    ) -> Contents:
        """What the objects of a scope say (see `gathering.gather`); to be closed."""
        domain = self.history.domain
        return gather(
            self.store, domain, self.keys, scope, self.ledger, keeps_sums, at_once, told, keeps_names
        )


def open_container(
    store: Store,
    secret: Secret,
    replica: bool = False,
    held: Hold | None = None,
    any_ledger: bool = False,
) -> Container:
    """Read the history and open the keys; of a `replica` the newest point that is complete in it.

    With `any_ledger` that may be by another ledger than `domain/owner` names there (see copies): not for who
    takes over, as he inherits the one that it names.

    With `held`, the hold of an interrupted run on a cut, all is read by the ledger that it notes: another one
    that is in force since may name that cut retired.

    Raises:
        NoSuchDomain: there is no container here.
        WrongPassphrase, KeyMissing: the secret does not open it, or there is nothing that it could open.
            (None at all is no error yet.)
        MissingObject, DamagedObject, NewerFormat, ForeignObject: its history cannot be followed.
    """
    for _ in range(LOOKS_MAX):
        facts = _facts(store, replica, held)
        try:
            return _opened(store, secret, replica, facts, any_ledger)
        except MissingObject:
            if held is not None or not is_superseded(store, facts.owner):
                raise  # else what is gone was collected since we looked
    return _opened(store, secret, replica, _facts(store, replica, held), any_ledger)


def _facts(store: Store, replica: bool, held: Hold | None) -> DomainFacts:
    facts = read_replica_domain(store) if replica else read_domain(store)
    if held is None or held.cut is None:
        return facts
    return replace(facts, owner=replace(facts.owner, ledger=held.ledger))


def _opened(store: Store, secret: Secret, replica: bool, facts: DomainFacts, any_ledger: bool) -> Container:
    domain = facts.owner.domain
    key_block = _key_block(store, facts)
    keys = NO_KEYS
    if secret and not key_block and facts.config is None:
        why = "neither the configuration nor any segment is there, and they hold the domain's keys"
        raise KeyMissing(f"open the container {store.address}", why, MissingObject.default_hint)
    if secret:
        private_key = open_key(key_block, secret, domain, store.address)
        keys = ReaderKeys.of_private_key(private_key, domain)
    readable = keys.index_key is not None or not key_block
    if replica and any_ledger and readable:
        read = read_copy(store, facts, keys)
        return Container(store, read.history, keys, bool(key_block), read.ledger)
    ledger = read_ledger(store, facts.owner, keys) if readable else NO_LEDGER
    if replica:  # any cut may be the newest that is whole, whichever epoch it is of
        collected = all_collected(store, domain, keys, ledger)
    else:
        collected = collected_of(store, facts.owner, keys, ledger)
    history = (read_replica if replica else read_history)(store, facts, collected)
    if history.lost is not None and not replica:
        # What is left may end at any cut, so everything that packs remember is asked.
        history = read_history(store, facts, all_collected(store, domain, keys, ledger))
    return Container(store, history, keys, bool(key_block), ledger)


def _key_block(store: Store, facts: DomainFacts) -> bytes:
    """The key block in force, empty where the container is not encrypted."""
    if facts.config is not None:
        return b"" if facts.config.encryption is Encryption.NONE else facts.config.key_block
    for record in facts.records:
        for found in store.list(log_prefix(record.epoch)):
            data = store.get_range(found.key, 0, PREAMBLE_BYTES_MAX)
            return parse_preamble(data, found.key).key_block
    return b""


def open_key(key_block: bytes, secret: Secret, domain: bytes, address: str) -> bytes:
    """The domain's private key. Raises WrongPassphrase, KeyMissing, DamagedObject."""
    what = f"open the container {address}"
    if not key_block:
        # Whoever can write to the container could otherwise pass a forged, plain one off as the domain.
        why = "a passphrase or key was given, and by its configuration the domain is not encrypted"
        raise WrongPassphrase(what, why, "if you know that it never was, give none; else it is forged")
    block = parse_key_block(key_block, what)
    if secret.private_key is None:
        assert secret.passphrase is not None
        return open_with_passphrase(block, secret.passphrase, domain, what)
    if public_of(secret.private_key) == block.public:
        return secret.private_key
    return open_with_recipient(block, secret.private_key, domain, what)


def find_domains(store: Store) -> Iterator[tuple[str, Owner | Exception]]:
    """The containers below a place: prefix ("" for the place itself) and owner, or what is wrong with it.

    Skips what stands below log/, packs/ and catalog/, so that a listing of millions of segments is not read.
    """
    start_after = ""
    while True:
        for found in store.list("", start_after):
            start_after = found.key
            if found.key == OWNER_KEY or found.key.endswith("/" + OWNER_KEY):
                yield found.key[: -len(OWNER_KEY)].rstrip("/"), _owner_or_error(store, found.key)
            bulk = _bulk_of(found.key)
            if bulk is not None:
                start_after = bulk + "~"  # sorts after every key below it
                break
        else:
            return


def _bulk_of(key: str) -> str | None:
    """The beginning up to log/, packs/ or catalog/ of a key that stands in a container's bulk."""
    parts = key.split("/")
    for number, part in enumerate(parts):
        if part in _BULK and parse_key("/".join(parts[number:])) is not None:
            return "/".join(parts[: number + 1]) + "/"
    return None


def _owner_or_error(store: Store, key: str) -> Owner | Exception:
    try:
        return parse_owner(store.get(key).data, key, None)
    except (DamagedObject, NewerFormat, ForeignObject, LimitExceeded) as error:
        return error
