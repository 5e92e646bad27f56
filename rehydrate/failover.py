"""Taking a domain over at a recovery site: the claim, what it found, and what that means in seconds.

In this order, each step durable before the next: failover.json; the claim; the disks; agent.json and the
configuration; carried.json; the agent. Restoring and what is printed do not belong here (cli), nor the rules
of a claim (`cdp_container.domain.owner`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cdp_container.clock import Clock
from cdp_container.domain.failover_note import FailoverNote, save_note
from cdp_container.domain.history import History, read_config
from cdp_container.domain.home import jump_of
from cdp_container.domain.notes import load_notes
from cdp_container.domain.owner_lease import IDLE_LEASE_SECONDS
from cdp_container.domain.owner_runner import OwnerRunner, force_word, owner_line
from cdp_container.domain.owner_types import Activated, Claimant, TakeOver
from cdp_container.domain.settings import LEASE_SECONDS_MAX, LEASE_SECONDS_MIN
from cdp_container.errors import (
    DamagedObject,
    LimitExceeded,
    MissingObject,
    NewerFormat,
    NotFound,
    NotHome,
    OwnedElsewhere,
    UsageError,
)
from cdp_container.format.domain import Owner, OwnerState, parse_owner
from cdp_container.format.keys import OWNER_KEY
from cdp_container.format.place import NOWHERE, Place
from cdp_container.format.seal import ReaderKeys
from cdp_container.store.api import Store
from cdp_container.store.attest import probe

LEASE_SECONDS: Final = 30
"""Of the claim, while disks are restored; the agent then records its configuration's."""
ID_BYTES: Final = 16
_FORCE: Final = re.compile(r"([0-9]{1,10}):([0-9a-f]{32})")


@dataclass(frozen=True, slots=True)
class Asked:
    """What an operator asked for, beside places; `forced` and `accept_loss` as in `TakeOver`."""

    site: str
    operator: str
    reason: str
    forced: tuple[int, bytes] | None = None
    accept_loss: bool = False


def parse_force(text: str) -> tuple[int, bytes]:
    """(epoch, nonce) from EPOCH:NONCE. Raises UsageError."""
    match = _FORCE.fullmatch(text)
    if match is None:
        hint = "say it as it was printed: `rehydrate failover` without --force, and `rehydrate show`, tell it"
        raise UsageError("read --force", f"{text!r} is not EPOCH:NONCE", hint)
    return int(match[1]), bytes.fromhex(match[2])


def jump_at(store: Store, patient: Store, asked: Asked) -> int:
    """How many epochs a takeover in this store leaves out; above 0 it is not the domain's home zone.

    Args:
        store: as it was opened; it tells its zone.
        patient: the same, with retries.
        asked: what is asked for; another zone needs force.

    Raises:
        NotHome: it is another zone, and no force was given; the hint names the version that is there.
        MissingObject, DamagedObject and their kin: the configuration cannot be read.
    """
    try:
        owner = parse_owner(patient.get(OWNER_KEY).data, OWNER_KEY, None)
    except (NotFound, DamagedObject, NewerFormat, LimitExceeded):
        return 0  # whoever opens the container says so
    config = read_config(patient, owner) if any(owner.config) else None
    jump = 0 if config is None else jump_of(config, store)
    if jump and asked.forced is None:
        assert config is not None
        hint = (
            f"go to the home; where that is gone, --force {force_word(owner)} takes over here, and what only "
            "the home has is never merged: see ownership.md"
        )
        raise NotHome(f"take {owner.name!r} over here", f"its home is {' or '.join(config.endpoints)}", hint)
    return jump


def wish_of(asked: Asked, history: History, chosen: Place, jump: int = 0) -> TakeOver:
    """What is asked of the owner's machine: the newest cut is whatever is the newest once it is claimed.

    In another zone it is the one that is complete now: the machine looks at an epoch's end, and not at gaps.

    Raises MissingObject: there, what was proven is not whole, and nobody accepted that.
    """
    proven = history.owner.protected
    if jump and history.newest < proven and not asked.accept_loss:
        why = f"cut {proven.epoch}.{proven.cut} was proven, and not all of it arrived in this zone"
        newest = f"{history.newest.epoch}.{history.newest.cut}"
        raise MissingObject("take the domain over", why, f"--accept-loss goes on from {newest}")
    base = None if chosen == history.newest and not jump else chosen
    ledger = None if base is None else history.owner.ledger
    return TakeOver(asked.forced, jump, base, ledger, asked.accept_loss)


def check_ours(owner: Owner, directory: Path) -> None:
    """Raises OwnedElsewhere where another site took over since this directory was prepared."""
    if owner.nonce not in load_notes(directory).nonces:
        why = f"another site took over since {directory} was prepared: {owner_line(owner)}"
        hint = f"`rehydrate failback --journal {directory}` brings these disks up to the newest cut"
        raise OwnedElsewhere("the agent is not started", why, hint)


def check_still_ours(store: Store, directory: Path) -> None:
    """Raises OwnedElsewhere where another took over since this directory got the domain.

    An agent may run there meanwhile: each of its nonces is noted before it is sent.
    """
    before = load_notes(directory).nonces
    owner = parse_owner(store.get(OWNER_KEY).data, OWNER_KEY, None)
    if owner.nonce not in (*before, *load_notes(directory).nonces):
        what = "this site got the domain, and does not have it any more"
        hint = f"`rehydrate failback --journal {directory}`, its agent stopped, brings its disks up again"
        raise OwnedElsewhere(what, f"another run took over since: {owner_line(owner)}", hint)


def is_at_once(owner: Owner, asked: Asked) -> bool:
    """Whether no lease has to be waited for, as far as `domain/owner` tells."""
    return asked.forced is not None or owner.released_to == asked.site


def runner_of(
    store: Store,
    owner: Owner,
    asked: Asked,
    directory: Path,
    clock: Clock,
    entropy: Callable[[int], bytes],
    software: str,
    report: Callable[[str], None],
    keys: ReaderKeys,
) -> OwnerRunner:
    """Who claims, and renews until it is closed. `store` must not repeat a request, `keys` open the ledger.

    It has to prove its word first, as for an agent, and learns how this server wants tags spelled.

    Raises StoreRefused where it breaks a promise, and what a store raises.
    """
    probe(store, entropy)
    claimant = Claimant(
        domain=owner.domain,
        site=asked.site,
        instance=entropy(ID_BYTES),
        lease_seconds=LEASE_SECONDS,
        operator=asked.operator,
        reason=asked.reason,
        software=software,
    )
    return OwnerRunner(store, claimant, directory, clock, entropy, report, keys)


def seen_by(note: FailoverNote, owner: Owner, directory: Path, store: Store) -> FailoverNote:
    """With the lease of the other site, and when it last said that it lives; our own claims are no word.

    The lease of an idle domain is no configured one.
    """
    if owner.nonce in load_notes(directory).nonces:
        return note
    left_ns, released = store.head(OWNER_KEY).modified_ns, owner.state is OwnerState.RELEASED
    can_be = LEASE_SECONDS_MIN <= owner.lease_seconds <= LEASE_SECONDS_MAX
    is_told = can_be and owner.lease_seconds != IDLE_LEASE_SECONDS
    lease_seconds = owner.lease_seconds if is_told else note.lease_seconds
    return replace(note, left_ns=left_ns, owned_ns=0, released=released, lease_seconds=lease_seconds)


def claim(
    runner: OwnerRunner, wish: TakeOver, note: FailoverNote, directory: Path, store: Store
) -> tuple[Activated, FailoverNote]:
    """Claim the domain, and note what that gave. Raises OwnedElsewhere, Fenced, MissingObject."""
    activated = runner.take_over(wish)
    record = activated.record
    owned_ns = note.owned_ns or store.head(OWNER_KEY).modified_ns
    # What an interrupted failover left behind is told even where its own epoch is the one before now.
    end = note.end if note.base == record.base and note.base else record.end
    note = replace(note, epoch=record.epoch, base=record.base, end=end, owned_ns=owned_ns)
    save_note(directory, note)
    return activated, note


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a failover came to.

    Attributes:
        epoch: that was activated for it; the agent runs in the next one.
        base: the cut that the disks hold, and the wall clock at which it was taken.
        side_end: the newest cut of the side branch that was left behind, NOWHERE if none was.
        lost_seconds: no more than this was lost: 0 where the other site released the domain.
        cut_age_seconds: how much older the cut is than the takeover, by the clocks of the site before and of
            the store.
        without_owner_seconds: by the store's clock, from when the owner before last said that it lives.
        elapsed_seconds: from the first start of the command until the exports were open.
    """

    epoch: int
    base: Place
    cut_time_ns: int
    side_end: Place
    lost_seconds: float
    cut_age_seconds: float
    without_owner_seconds: float
    elapsed_seconds: float


def outcome_of(note: FailoverNote, wall_ns: int) -> Outcome:
    """The figures, at the end."""
    cut_age_seconds = max(0, note.owned_ns - note.cut_time_ns) / 1e9
    return Outcome(
        epoch=note.epoch,
        base=note.base,
        cut_time_ns=note.cut_time_ns,
        side_end=note.end if note.base < note.end else NOWHERE,
        lost_seconds=0.0 if note.released and note.base >= note.end else cut_age_seconds,
        cut_age_seconds=cut_age_seconds,
        without_owner_seconds=max(0, note.owned_ns - note.left_ns) / 1e9,
        elapsed_seconds=max(0, (note.served_ns or wall_ns) - note.began_ns) / 1e9,
    )
