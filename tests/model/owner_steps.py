"""The real owner's machine as a table of small numbers: each of its steps is computed once.

States of runs, owners, requests and pieces of work are numbered as they appear, in a form from which all is
taken out that cannot matter: the times of a run (see owner_model.py), counts of failures, versions. Renewals
are counted modulo RENEWALS: one who watches may so take an owner that renewed for one that did not, which
must do no harm either.

Nonces are only ever compared with that of `domain/owner`. So it is enough to tell apart the one that it shows
now (SHOWN), those that it may yet come to show, which are those of swaps against its tag that nobody has
answered, and all others (STALE), which it never will. The tag of an object is the nonce in it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import replace
from functools import cache
from typing import Final, Generic, NamedTuple, TypeAlias, TypeVar

from cdp_container.domain import owner as machine
from cdp_container.domain import owner_types as ot
from cdp_container.format.domain import EpochRecord, Owner
from cdp_container.format.place import Place

SECOND: Final = 1_000_000_000
LEASE_SECONDS: Final = 30
NOW_NS: Final = 1_000 * SECOND
LATE_NS: Final = NOW_NS + 3_600 * SECOND
DOMAIN: Final = bytes(16)
RENEWALS: Final = 2

SHOWN: Final = 0
"""The nonce of `domain/owner` as it is."""
SENT: Final = 1
"""The first of one nonce for each site: that of its swap in flight."""
LATE: Final = 4
"""The first of those of swaps that were given up, or left by a dead process, and may land yet."""
FRESH: Final = 30
STALE: Final = 31

Value = TypeVar("Value", bound=Hashable)
Request: TypeAlias = ot.ReadOwner | ot.SwapOwner
Renaming: TypeAlias = tuple[int, ...]
Work: TypeAlias = ot.FindEnd | ot.WriteEpoch | ot.ReadEpoch | ot.CountEpochs


class Numbers(Generic[Value]):
    """Values by number, numbered as they appear."""

    def __init__(self) -> None:
        self._numbers: dict[Value, int] = {}
        self._values: list[Value] = []

    def number(self, value: Value) -> int:
        number = self._numbers.get(value)
        if number is None:
            number = self._numbers[value] = len(self._values)
            self._values.append(value)
        return number

    def value(self, number: int) -> Value:
        return self._values[number]

    def __len__(self) -> int:
        return len(self._values)


class Reaction(NamedTuple):
    """What a step did; -1 for what it did not. `known` are the nonces to note, as bits."""

    run: int
    over: bool = False
    known: int = -1
    fenced: bool = False
    releasing: bool = False
    released: bool = False
    owning: bool = False
    request: int = -1
    work: int = -1
    activated: int = 0
    proven: Place | None = None
    has_effects: bool = False


class Steps:
    """The machine's steps, computed once each."""

    def __init__(self) -> None:
        first = machine.first_owner(DOMAIN, "shop", "site-0", nonce_of(SHOWN), bytes(32), LEASE_SECONDS, 7)
        self.first: Final = _plain(first)
        self.runs: Numbers[ot.RunState] = Numbers()
        self.owners: Numbers[Owner] = Numbers()
        self.records: Numbers[EpochRecord] = Numbers()
        self.requests: Numbers[Request] = Numbers()
        self.works: Numbers[Work] = Numbers()
        self._table: dict[tuple[int, ot.Event, int], Reaction] = {}
        self._renamed: dict[tuple[str, int, Renaming], int] = {}

    def site_name(self, index: int) -> str:
        return f"site-{index}"

    def index_of(self, name: str) -> int:
        return int(name.removeprefix("site-"))

    def shown(self, swap: int) -> int:
        """`domain/owner` once this swap has landed."""
        effect = self.requests.value(swap)
        assert isinstance(effect, ot.SwapOwner)
        return self.owners.number(replace(effect.owner, nonce=nonce_of(SHOWN)))

    def place(self, epoch: int, seq: int) -> Place:
        return Place(epoch, seq, seq)

    def tag(self, owner: Owner) -> str:
        return owner.nonce.hex()

    def begin(
        self, index: int, starts: int, known: int, released: bool = False, releasing: bool = False
    ) -> int:
        """A run that starts from these notes."""
        instance = bytes([index, starts]) * 8
        claimant = ot.Claimant(
            DOMAIN, self.site_name(index), instance, LEASE_SECONDS, "root", "model", "tests"
        )
        releasing_to = self.site_name(1 - index) if releasing else ""
        state = machine.begin(claimant, _nonces_of(known), False, released, releasing_to)
        return self.runs.number(state)

    def react(self, run: int, event: ot.Event, now_ns: int) -> Reaction:
        """One step, with a fresh nonce that whoever carries it out renames."""
        key = (run, event, now_ns)
        reaction = self._table.get(key)
        if reaction is None:
            reaction = self._table[key] = self._step(run, event, now_ns)
        return reaction

    def _step(self, run: int, event: ot.Event, now_ns: int) -> Reaction:
        state, effects = machine.step(self.runs.value(run), event, ot.Moment(now_ns, 7, nonce_of(FRESH)))
        done = Reaction(-1, over=state.phase in _OVER, has_effects=bool(effects))
        for effect in effects:
            match effect:
                case ot.NoteNonces(nonces):
                    done = done._replace(known=bits_of(nonces))
                case ot.NoteFenced():
                    done = done._replace(fenced=True)
                case ot.NoteReleasing():
                    done = done._replace(releasing=True)
                case ot.NoteOwning():
                    done = done._replace(owning=True)
                case ot.NoteReleased():
                    done = done._replace(released=True)
                case ot.ReadOwner():
                    done = done._replace(request=self.requests.number(effect))
                case ot.SwapOwner(owner, tag):
                    swap = ot.SwapOwner(_plain(owner), tag)
                    done = done._replace(request=self.requests.number(swap))
                case ot.FindEnd() | ot.WriteEpoch() | ot.ReadEpoch() | ot.CountEpochs():
                    done = done._replace(work=self.works.number(effect))
                case ot.Activated(record):
                    done = done._replace(activated=record.epoch)
                case ot.Proven(place):
                    done = done._replace(proven=place)
        return done._replace(run=self.runs.number(_timeless(state)))

    # --- nonces by other names ---------------------------------------------------------------------

    def run_renamed(self, run: int, renaming: Renaming) -> int:
        key = ("run", run, renaming)
        number = self._renamed.get(key)
        if number is None:
            number = self._renamed[key] = self.runs.number(_run_renamed(self.runs.value(run), renaming))
        return number

    def request_renamed(self, request: int, renaming: Renaming) -> int:
        key = ("request", request, renaming)
        number = self._renamed.get(key)
        if number is None:
            new = _request_renamed(self.requests.value(request), renaming)
            number = self._renamed[key] = self.requests.number(new)
        return number

    def open_nonces(self, run: int) -> int:
        """What the run would take for its own, where `domain/owner` showed it."""
        state = self.runs.value(run)
        return bits_of((*state.known, *(attempt.nonce for attempt in state.attempts)))


_OVER: Final = frozenset({ot.Phase.FENCED, ot.Phase.RELEASED, ot.Phase.REFUSED})


@cache
def nonce_of(number: int) -> bytes:
    return number.to_bytes(16, "big")


def bits_of(nonces: Iterable[bytes]) -> int:
    """A bit for each nonce that may ever be shown."""
    bits = 0
    for nonce in nonces:
        bits |= 1 << int.from_bytes(nonce, "big")
    return bits & ~(1 << STALE)


def _nonces_of(bits: int) -> tuple[bytes, ...]:
    return tuple(nonce_of(number) for number in range(bits.bit_length()) if bits >> number & 1)


def _plain(owner: Owner) -> Owner:
    return replace(owner, version=1, renewals=owner.renewals % RENEWALS)


def _timeless(state: ot.RunState) -> ot.RunState:
    """A run of which everything happened just now, and which may go on at once."""
    return replace(
        state,
        seen=None if state.seen is None else _plain(state.seen),
        sent=None if state.sent is None else _plain(state.sent),
        attempts=tuple(ot.Attempt(attempt.nonce, NOW_NS) for attempt in state.attempts),
        watch=None if state.watch is None else replace(state.watch, since_ns=NOW_NS),
        retry_at_ns=0,
        failures=0,
        work_at_ns=0,
        work_failures=0,
        renewed_ns=0 if state.seen is None else NOW_NS,
        active_ns=0 if state.seen is None else NOW_NS,
        paused=False,
    )


# --- nonces by other names -------------------------------------------------------------------------


@cache
def landing(nonce: int) -> Renaming:
    """That nonce is shown from now on; what was sent against the tag before it can never land."""
    return tuple(SHOWN if number == nonce else STALE for number in range(FRESH + 1))


@cache
def moved(old: int, new: int) -> Renaming:
    """One nonce by another name."""
    return tuple(new if number == old else number for number in range(FRESH + 1))


def bits_renamed(bits: int, renaming: Renaming) -> int:
    renamed = 0
    for number in range(bits.bit_length()):
        if bits >> number & 1:
            renamed |= 1 << renaming[number]
    return renamed & ~(1 << STALE)


def _named(nonce: bytes, renaming: Renaming) -> bytes:
    number = int.from_bytes(nonce, "big")
    return nonce if number == STALE else nonce_of(renaming[number])


def _owner_renamed(owner: Owner, renaming: Renaming) -> Owner:
    return replace(owner, nonce=_named(owner.nonce, renaming))


def _request_renamed(request: Request, renaming: Renaming) -> Request:
    if isinstance(request, ot.SwapOwner):
        tag = _named(bytes.fromhex(request.tag), renaming).hex()
        return ot.SwapOwner(_owner_renamed(request.owner, renaming), tag)
    if request.unless_tag is None:
        return request
    return ot.ReadOwner(_named(bytes.fromhex(request.unless_tag), renaming).hex())


def _run_renamed(state: ot.RunState, renaming: Renaming) -> ot.RunState:
    wish = state.takeover
    if wish is not None and wish.forced is not None:
        wish = replace(wish, forced=(wish.forced[0], _named(wish.forced[1], renaming)))
    # Which of several stale attempts it was, and how many, cannot matter; that there was one does.
    attempts = dict.fromkeys(_named(attempt.nonce, renaming) for attempt in state.attempts)
    return replace(
        state,
        known=frozenset(_named(nonce, renaming) for nonce in state.known) - {nonce_of(STALE)},
        seen=None if state.seen is None else _owner_renamed(state.seen, renaming),
        sent=None if state.sent is None else _owner_renamed(state.sent, renaming),
        tag=_named(bytes.fromhex(state.tag), renaming).hex() if state.tag else "",
        attempts=tuple(ot.Attempt(nonce, NOW_NS) for nonce in attempts),
        takeover=wish,
    )
