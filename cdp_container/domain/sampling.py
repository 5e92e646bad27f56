"""Which objects a verification with a budget reads: the newest, then the others in turn. PURE.

Objects stand on a circle, at places that a seed and their keys give; each run goes on behind the place where
the last one ended. So every object comes up, whatever comes and goes meanwhile. Reading does not belong here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from cdp_container.domain.budget import Budget
from cdp_container.domain.verify_types import Coverage
from cdp_container.format.jsontext import dump_object, load_object
from cdp_container.format.keys import KeyKind, ParsedKey, parse_key
from cdp_container.format.members import Members
from cdp_container.store.api import Found

NEWEST_SHARE: Final = 0.25
"""Of the budget, for the newest segments: damage there costs most, and was looked at the least."""
SEED_BYTES: Final = 16
STATE_VERSION: Final = 1
STATE_BYTES_MAX: Final = 4096
_PLACE_BYTES: Final = 7
_ALWAYS: Final = (KeyKind.OWNER, KeyKind.EPOCH_RECORD, KeyKind.CONFIG, KeyKind.HOLDS, KeyKind.LEDGER)


@dataclass(frozen=True, slots=True)
class Turn:
    """How far the reading in turn is.

    Attributes:
        seed: what gives every object its place on the circle.
        place: behind the last object that was read in turn; 0: none yet in this round.
        round: how often the circle was begun, this round included.
    """

    seed: bytes = field(repr=False)
    place: int = 0
    round: int = 1


@dataclass(frozen=True, slots=True)
class Sample:
    """What to read: `always`, whatever the budget, `newest` for its share, `in_turn` for the rest."""

    always: Sequence[Found]
    newest: Sequence[Found]
    in_turn: Sequence[Found]


def place_of(turn: Turn, key: str) -> int:
    """Where an object stands on the circle."""
    return int.from_bytes(hashlib.sha256(turn.seed + key.encode()).digest()[:_PLACE_BYTES])


def sample_of(
    found: Iterable[Found], scope: Mapping[int, int], turn: Turn, known: Collection[str] = ()
) -> Sample:
    """What a run reads, of all objects that are listed.

    `scope`: for each epoch the last seq that counts; `known`: keys that are read in every run.
    """
    always: list[Found] = []
    newest: list[Found] = []
    others: list[tuple[bool, int, str, Found]] = []
    for one in found:
        parsed = parse_key(one.key)
        if one.key in known or (parsed is not None and parsed.kind in _ALWAYS):
            always.append(one)
            continue
        place = place_of(turn, one.key)
        others.append((place < turn.place, place, one.key, one))
        if parsed is not None and _is_newest(parsed, scope):
            newest.append(one)
    others.sort()
    newest.sort(key=lambda one: one.key, reverse=True)
    return Sample(always, newest, [one for _, _, _, one in others])


def _is_newest(parsed: ParsedKey, scope: Mapping[int, int]) -> bool:
    """Of the newest epoch that has any."""
    return parsed.kind is KeyKind.SEGMENT and bool(scope) and parsed.epoch == max(scope)


class Sampling:
    """One run of reading by a budget: what is to be read, and where the next run goes on."""

    def __init__(self, sample: Sample, turn: Turn, budget: Budget) -> None:
        self._sample = sample
        self._turn = turn
        self._budget = budget
        self._newest = _first(sample.newest, budget.size_bytes * NEWEST_SHARE)
        rest_bytes = budget.size_bytes - _bytes_of(self._newest)
        self._in_turn = _first(sample.in_turn, rest_bytes, {one.key for one in self._newest})
        self._passed: list[Found] = []

    @property
    def most(self) -> tuple[int, int]:
        """Objects and bytes that will be read; with a budget of time: at the most."""
        found = {one.key: one for one in (*self._sample.always, *self._newest, *self._in_turn)}
        return len(found), _bytes_of(found.values())

    def read(self, elapsed_seconds: Callable[[], float]) -> Iterator[Found]:
        """What is to be read, until the budget is used up; at least one of the newest, and one in turn."""
        yield from self._sample.always
        read: set[str] = set()
        for one in self._newest:
            if read and elapsed_seconds() >= self._budget.seconds * NEWEST_SHARE:
                break
            read.add(one.key)
            yield one
        is_first = True
        for one in self._in_turn:
            if one.key not in read:
                if not is_first and elapsed_seconds() >= self._budget.seconds:
                    return
                is_first = False
                yield one
            self._passed.append(one)

    @property
    def next_turn(self) -> Turn:
        """Where the next run goes on, once all that was given is read."""
        turn = self._turn
        for one in self._passed:
            place = place_of(turn, one.key)
            turn = replace(turn, place=place + 1, round=turn.round + (place < turn.place))
        return turn

    def coverage(self, read_objects: int, read_bytes: int) -> Coverage:
        """What of all objects was read."""
        turn, sample = self.next_turn, self._sample
        in_round = sum(place_of(turn, one.key) < turn.place for one in sample.in_turn)
        everything = (*sample.always, *sample.in_turn)
        return Coverage(
            read_objects=read_objects,
            read_bytes=read_bytes,
            objects=len(everything),
            stored_bytes=_bytes_of(everything),
            round=turn.round,
            round_objects=len(sample.always) + in_round,
        )


def _first(found: Sequence[Found], budget_bytes: float, known: Collection[str] = ()) -> list[Found]:
    """As many as fit, at least one besides those that are `known` and cost nothing."""
    taken: list[Found] = []
    taken_bytes = 0
    for one in found:
        if one.key not in known:
            if taken_bytes and taken_bytes + one.size > budget_bytes:
                break
            taken_bytes += one.size
        taken.append(one)
    return taken


def _bytes_of(found: Iterable[Found]) -> int:
    return sum(one.size for one in found)


def build_turn(turn: Turn) -> bytes:
    """The bytes of a state file."""
    return dump_object(
        {"version": STATE_VERSION, "seed": turn.seed.hex(), "place": turn.place, "round": turn.round}
    )


def parse_turn(data: bytes, what: str) -> Turn:
    """The turn in `data`. Raises DamagedObject, LimitExceeded."""
    members = Members(load_object(data, STATE_BYTES_MAX, what), what)
    if members.number("version") != STATE_VERSION:
        raise members.fault("version", "is not known")
    place = members.number("place", most=1 << 8 * _PLACE_BYTES)
    return Turn(members.bytes("seed", SEED_BYTES), place, members.number("round", least=1))
