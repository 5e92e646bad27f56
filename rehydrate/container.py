"""Opening a container for reading: its history, the keys that a secret opens, and what a point needs of it.

Only reading is ever done. How a secret is asked for does not belong here (cli), nor what is restored (plan).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Final

from cdp_container.domain.contents import Contents
from cdp_container.domain.ends import Collected
from cdp_container.domain.gathering import gather
from cdp_container.domain.history import DomainFacts, History, read_domain, read_history
from cdp_container.domain.image import Cut, Volume, check_branch, cuts_of, runs_of, volumes_of
from cdp_container.domain.ledgers import NO_LEDGER, Ledger, read_ledger
from cdp_container.errors import (
    DamagedObject,
    ForeignObject,
    KeyMissing,
    LimitExceeded,
    NewerFormat,
    NoSuchPoint,
    NoSuchVolume,
    WrongPassphrase,
)
from cdp_container.format.domain import Encryption, Owner, parse_owner
from cdp_container.format.keyblock import open_with_passphrase, open_with_recipient, parse_key_block
from cdp_container.format.keys import OWNER_KEY, log_prefix, parse_key
from cdp_container.format.limits import PREAMBLE_BYTES_MAX
from cdp_container.format.place import NOWHERE, Place
from cdp_container.format.preamble import parse_preamble
from cdp_container.format.seal import NO_KEYS, ReaderKeys, public_of
from cdp_container.store.api import Store
from rehydrate.plan import Choice, VolumePlan, choose_cut, pick_volumes, plan_volume

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

    def gather(self, scope: Mapping[int, int]) -> Contents:
        """What the objects of a scope say (see `gathering.gather`); to be closed."""
        return gather(self.store, self.history.domain, self.keys, scope, self.ledger)


@dataclass(frozen=True, slots=True)
class Point:
    """A cut as people choose it. `main` is False on a side branch."""

    cut: Cut
    volumes: tuple[Volume, ...]
    protected: bool
    main: bool


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """What a restore of some volumes at one cut takes."""

    cut: Cut
    protected: bool
    volumes: tuple[VolumePlan, ...]

    @property
    def objects(self) -> int:
        """How many objects are read."""
        return len(frozenset[int]().union(*(plan.objects for plan in self.volumes)))


def open_container(store: Store, secret: Secret) -> Container:
    """Read the history and open the keys.

    Raises:
        NoSuchDomain: there is no container here.
        WrongPassphrase, KeyMissing: the secret does not open it, or there is nothing that it could open.
            (None at all is no error yet.)
        MissingObject, DamagedObject, NewerFormat, ForeignObject: its history cannot be followed.
    """
    facts = read_domain(store)
    domain = facts.owner.domain
    key_block = _key_block(store, facts)
    keys = NO_KEYS
    if secret:
        private_key = _open_key(key_block, secret, domain, store.address)
        keys = ReaderKeys.of_private_key(private_key, domain)
    readable = keys.index_key is not None or not key_block
    ledger = read_ledger(store, facts.owner, keys) if readable else NO_LEDGER
    history = read_history(store, facts, _collected(store, facts.owner, keys, ledger))
    return Container(store, history, keys, bool(key_block), ledger)


def _collected(store: Store, owner: Owner, keys: ReaderKeys, ledger: Ledger) -> Collected:
    """What the end of the newest epoch depends on, where anything of it was collected."""
    if not ledger.reaches_into(owner.epoch_in_force):
        return Collected(ledger)
    with closing(gather(store, owner.domain, keys, {}, ledger)) as packed:
        cuts = {name: segment.place for name, segment in packed.segments.items() if segment.complete}
    return Collected(ledger, cuts)


def _key_block(store: Store, facts: DomainFacts) -> bytes:
    """The key block in force, empty where the container is not encrypted."""
    if facts.config is not None:
        return b"" if facts.config.encryption is Encryption.NONE else facts.config.key_block
    for record in facts.records:
        for found in store.list(log_prefix(record.epoch)):
            data = store.get_range(found.key, 0, PREAMBLE_BYTES_MAX)
            return parse_preamble(data, found.key).key_block
    return b""


def _open_key(key_block: bytes, secret: Secret, domain: bytes, address: str) -> bytes:
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


def points_of(container: Container, contents: Contents) -> list[Point]:
    """Every recovery point, side branches included, oldest first. `contents` must hold everything."""
    history = container.history
    main = history.branch_of(history.newest)
    points = []
    for cut in cuts_of(contents, history.everything()):
        branch = history.branch_of(cut.place)
        points.append(
            Point(
                cut,
                tuple(volumes_of(contents, branch, cut)),
                history.is_protected(cut.place),
                cut.place.seq <= main.get(cut.place.epoch, 0),
            )
        )
    return points


def scope_of(history: History, choice: Choice) -> dict[int, int]:
    """Which segments must be read to find the chosen cut and all that it needs. Raises NoSuchPoint."""
    if choice.at is None:
        return history.branch_of(history.newest)
    span = history.spans.get(choice.at[0])
    if span is None or not span.end:
        why = f"no cut of epoch {choice.at[0]} counts"
        raise NoSuchPoint(f"find the point {choice.at[0]}.{choice.at[1]}", why)
    return history.branch_of(span.end)


def find_cut(history: History, contents: Contents, choice: Choice, names: list[str]) -> Cut:
    """The cut that was asked for, among those of `scope_of`. Raises NoSuchPoint, NoSuchVolume."""
    named = [record for record in contents.space_records if "name" in record.value]
    known = sorted({str(record.value["name"]) for record in named})
    ids = {record.space.hex() for record in named}
    for name in names:
        if name not in known and name not in ids:
            why = f"no point that could be meant has it; there are: {', '.join(known) or 'none'}"
            raise NoSuchVolume(f"find the volume {name!r}", why)

    def fits(cut: Cut) -> bool:
        volumes = volumes_of(contents, history.branch_of(cut.place), cut)
        whole = [volume for volume in volumes if volume.whole]
        if names:
            return {part for volume in whole for part in (volume.name, volume.space.hex())}.issuperset(names)
        return bool(whole) and len(whole) == len(volumes)

    return choose_cut(cuts_of(contents, scope_of(history, choice)), choice, fits)


def plan_restore(container: Container, contents: Contents, choice: Choice, names: list[str]) -> RestorePlan:
    """The exact plan for some volumes (all if no names are given) at the chosen cut.

    Everything that the cut needs is checked to be there, and to hang together, before the plan exists.

    Raises:
        NoSuchPoint, NoSuchVolume: there is no such thing.
        MissingObject, DamagedObject and their kin: the point cannot be restored whole.
        KeyMissing: the container is sealed and there is no key.
    """
    container.require_key()
    history = container.history
    if history.lost is not None and choice.at is None:
        raise history.lost  # to go back to an older point than was promised is for a person to decide
    leading = history.branch_of(_leading(history, contents, choice))
    check_branch(contents, leading, history.origins())
    cut = find_cut(history, contents, choice, names)
    branch = history.branch_of(cut.place)
    check_branch(contents, branch, history.origins())
    volumes = pick_volumes(volumes_of(contents, branch, cut), names, cut)
    extents = contents.extents()
    plans = [
        plan_volume(volume, extents, runs_of(contents, branch, volume.space), contents.objects)
        for volume in volumes
    ]
    return RestorePlan(cut, history.is_protected(cut.place), tuple(plans))


def _leading(history: History, contents: Contents, choice: Choice) -> Place:
    """Up to where everything must be sound for the choice to mean anything.

    Damage may hide cuts: the newest of all, or of a time, is what it is only where all that leads to it is
    sound. Markers and points are taken where they are found.
    """
    if choice.at is not None or choice.marker is not None:
        return NOWHERE
    if choice.time_ns is not None:
        for cut in cuts_of(contents, history.branch_of(history.newest)):
            if cut.time_ns > choice.time_ns:
                return cut.place
    return history.newest


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
