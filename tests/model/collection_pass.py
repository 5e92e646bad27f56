"""A pass of collection as a machine: the real protocol, run anew from its replies up to the next request.

`domain.collecting` is plain code that asks and waits. Here every question ends the run; asked again with the
replies that it had, it goes on to the next one. So a run is a number for its replies so far, and each step of
it is computed once. What is collected is symbols: the segment OLD, of which the cut X needs everything and
the newest cut Y a part, packs that hold what some cuts need, and ledgers. What happens between two questions
does not belong here (collection_model.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple, TypeAlias

from cdp_container.domain.collecting import Collector, carry_out, put_once, read_owner, settle
from cdp_container.domain.held import seen_of
from cdp_container.domain.owner_types import ChangePlan
from cdp_container.errors import (
    CdpError,
    CollectionStopped,
    NotFound,
    PreconditionFailed,
    StoreUnavailable,
)
from cdp_container.format.domain import ObjectName, Owner
from cdp_container.format.gc import Plan
from cdp_container.format.holds import Hold
from cdp_container.format.keys import KeyKind, ledger_key, pack_key, parse_key, segment_key
from cdp_container.format.place import Place
from cdp_container.store.api import Blob, Found

DOMAIN: Final = bytes(16)
X, Y = Place(4, 1, 1), Place(4, 2, 2)
PROTECTED: Final = Place(4, 2, 2)
OLD: Final = segment_key(4, 1)
NEW: Final = segment_key(4, 2)
NO_BASE: Final = Place(0, 0, 0)


class Meaning(NamedTuple):
    """What a ledger says: whether OLD was collected and X is retired, and which packs stand for it."""

    collected: bool = False
    retired: bool = False
    packs: tuple[str, ...] = ()

    def needs(self, cut: Place) -> frozenset[str]:
        """The objects that a reader of a cut looks for."""
        segments = {NEW} if cut == Y else set()
        return frozenset({*segments, *self.packs, *(() if self.collected else (OLD,))})


NOTHING_COLLECTED: Final = Meaning()


def build_meaning(meaning: Meaning, number: int) -> bytes:
    """A ledger; `number` tells apart what two passes wrote."""
    return json.dumps([*meaning, number]).encode()


def parse_meaning(data: bytes) -> Meaning:
    collected, retired, packs, _ = json.loads(data)
    return Meaning(collected, retired, tuple(packs))


def build_pack(cuts: frozenset[Place], number: int) -> bytes:
    """A pack that holds what these cuts need of OLD."""
    return json.dumps([sorted(place.cut for place in cuts), number]).encode()


def serves(data: bytes, cut: Place) -> bool:
    return cut.cut in json.loads(data)[0]


def name_of(key: str, data: bytes) -> ObjectName:
    return ObjectName(key, hashlib.sha256(data).digest())


# --- questions and replies -------------------------------------------------------------------------


class Get(NamedTuple):
    key: str
    replica: bool = False


class Head(NamedTuple):
    replica: bool
    key: str


class New(NamedTuple):
    key: str
    data: bytes


class Delete(NamedTuple):
    key: str


class ReadHolds(NamedTuple):
    pass


class Change(NamedTuple):
    change: ChangePlan


class ListAll(NamedTuple):
    """The names of all that is there, and which older cut an epoch was begun from (NO_BASE: none)."""


class ListReplica(NamedTuple):
    """The names of all that the replica has."""


Question: TypeAlias = Get | Head | New | Delete | ReadHolds | Change | ListAll | ListReplica
Reply: TypeAlias = "bytes | str | tuple[object, ...] | None"
"""Bytes, a listing, a roster; None for done; or one of these words."""
MISSING: Final = "404"
THERE: Final = "412"
UNKNOWN: Final = "no answer"
REFUSED: Final = "refused"


class _Asked(BaseException):
    """The run is over up to here; no handler of the protocol may see this."""

    def __init__(self, question: Question) -> None:
        super().__init__(question)
        self.question = question


class Script:
    """Answers as far as replies go; see `Store`. Also the roster and the owner's machine, for a collector."""

    def __init__(self, replies: tuple[Reply, ...], replica: bool = False) -> None:
        self._replies = replies
        self._at = 0
        self._replica: Script | None = None
        self._is_replica = replica
        self.address = "replica:" if replica else "home:"

    def at_replica(self) -> Script:
        """The same script, asked as another store."""
        other = Script((), replica=True)
        other._replica = self
        return other

    def ask(self, question: Question) -> Reply:
        if self._replica is not None:
            return self._replica.ask(question)
        if self._at == len(self._replies):
            raise _Asked(question)
        reply = self._replies[self._at]
        self._at += 1
        match reply:
            case "404":
                raise NotFound(str(question), "404")
            case "412":
                raise PreconditionFailed(str(question), "412")
            case "no answer":
                raise StoreUnavailable(str(question), "no answer")
            case "refused":
                raise CollectionStopped("the pass ended", "the owner refused")
        return reply

    def get(self, key: str) -> Blob:
        data = self.ask(Get(key, self._is_replica))
        assert isinstance(data, bytes)
        return Blob(Found(key, len(data), "", 0), data)

    def head(self, key: str) -> Found:
        self.ask(Head(self._is_replica, key))
        return Found(key, 0, "", 0)

    def put_new(self, key: str, data: bytes) -> str:
        self.ask(New(key, data))
        return ""

    def delete(self, key: str) -> None:
        self.ask(Delete(key))

    def put_if(self, key: str, data: bytes, tag: str) -> str:
        raise AssertionError("a collector swaps nothing itself")

    def get_unless(self, key: str, tag: str) -> Blob | None:
        raise AssertionError("not asked")

    def get_range(self, key: str, start: int, length: int) -> bytes:
        raise AssertionError("not asked")

    def list(self, prefix: str, start_after: str = "") -> Iterator[Found]:
        assert self._is_replica, "the symbols at home are listed at once"
        keys = self.ask(ListReplica())
        assert isinstance(keys, tuple)
        yield from (Found(key, 0, "", 0) for key in map(str, keys) if key.startswith(prefix))

    def close(self) -> None:
        """Nothing to give back."""

    def holds(self) -> Mapping[str, Hold]:
        roster = self.ask(ReadHolds())
        assert isinstance(roster, tuple)
        return dict(roster)  # type: ignore[arg-type]  # pairs

    def change(self, change: ChangePlan) -> None:
        self.ask(Change(change))

    def list_all(self) -> tuple[frozenset[str], Place]:
        reply = self.ask(ListAll())
        assert isinstance(reply, tuple)
        keys, base = reply
        assert isinstance(keys, frozenset)
        assert isinstance(base, Place)
        return keys, base


# --- the pass --------------------------------------------------------------------------------------


class Pass(NamedTuple):
    """One run of a collector: whose, the how manieth of the story, whether there is a replica to wait for.

    `restless`: what is packed is packed anew, though nothing of it died.
    """

    site: str
    number: int
    replica: bool
    domain: bytes = DOMAIN
    restless: bool = False


Body: TypeAlias = Callable[[Script, Pass], None]


def run_pass(script: Script, run: Pass) -> None:
    """As `collect.run_pass`, with symbols for what is read, packed and written."""
    replicas = (script.at_replica(),) if run.replica else ()
    collector = Collector(
        script, replicas, run.domain, run.site, script.holds, script.change, lambda seconds: None
    )
    owner, _ = settle(collector)
    holds = script.holds()
    if any(hold.cut is None for hold in holds.values()):
        return
    keys, base = script.list_all()
    made = make_plan(script, owner, holds, keys, base, run)
    if made is None:
        return
    plan, spared, objects = made
    written = dict(objects)
    counted = parse_meaning(written[plan.ledger.key]).needs(Y) - set(written)
    for key, data in objects:
        put_once(script, key, data)
    carry_out(collector, owner, plan, spared, counted, 60.0)


def make_plan(
    script: Script,
    owner: Owner,
    holds: Mapping[str, Hold],
    keys: frozenset[str],
    base: Place,
    run: Pass,
) -> tuple[Plan, frozenset[str], list[tuple[str, bytes]]] | None:
    """What a pass would name, what no victim may be, and what it is to write first; None: nothing to do."""
    if read_owner_again(script, owner) != (owner.plan, owner.ledger):
        raise CollectionStopped("the pass ended", "the domain changed while it was looked at")
    before = meaning_of(script, owner.ledger)
    spared: set[str] = set()
    for hold in holds.values():
        if hold.until_ns is None and hold.cut is not None:
            by = meaning_of(script, hold.ledger)
            spared |= by.needs(hold.cut) | (set() if hold.ledger is None else {hold.ledger.key})
    wanted = {Y, base, *(hold.cut for hold in holds.values() if hold.cut is not None)}
    kept = frozenset(cut for cut in (X, Y) if cut in wanted and not (cut == X and before.retired))
    packed = {*before.packs, *(() if before.collected else (OLD,))} - spared
    if kept == {X, Y}:
        packed -= set(before.packs)  # nothing of it died
    if before.retired and not run.restless:
        packed = set()  # all that may die is dead
    in_force = {*before.packs, NEW, *(() if before.collected else (OLD,))}
    in_force |= set() if owner.ledger is None else {owner.ledger.key}
    unnamed = {key for key in keys if key not in in_force | spared and is_victim_kind(key)}
    if not packed and all("ledger" in key for key in unnamed):
        return None  # a ledger that was superseded goes with the next plan, which supersedes one itself
    number = next_number(keys, owner.epoch)
    objects = []
    packs = tuple(key for key in before.packs if key not in packed)
    if packed:
        key, data = pack_key(owner.epoch, number), build_pack(kept, run.number)
        objects.append((key, data))
        packs = (*packs, key)
    meaning = Meaning(before.collected or OLD in packed, X not in kept, packs)
    data = build_meaning(meaning, run.number)
    ledger = name_of(ledger_key(owner.epoch, number), data)
    plan = Plan(
        domain=run.domain,
        epoch=owner.epoch,
        n=number,
        made_ns=run.number,
        site=run.site,
        before=owner.ledger,
        ledger=ledger,
        packs=tuple(name_of(*one) for one in objects),
        victims=tuple(sorted(packed | unnamed)),
        holds=seen_of(holds),
        protected=owner.protected,
    )
    return plan, frozenset(spared), [*objects, (ledger.key, data)]


def read_owner_again(script: Script, owner: Owner) -> tuple[object, object]:
    """Plan and ledger as they are once all was listed."""
    collector = Collector(
        script, (), owner.domain, owner.site, script.holds, script.change, lambda seconds: None
    )
    found = read_owner(collector)
    return found.plan, found.ledger


def meaning_of(script: Script, name: ObjectName | None) -> Meaning:
    """Of a ledger. Raises NotFound."""
    return NOTHING_COLLECTED if name is None else parse_meaning(script.get(name.key).data)


def is_victim_kind(key: str) -> bool:
    parsed = parse_key(key)
    return parsed is not None and parsed.kind in (KeyKind.PACK, KeyKind.LEDGER, KeyKind.SEGMENT)


def next_number(keys: frozenset[str], epoch: int) -> int:
    """Above all numbers of an epoch that a listing shows."""
    numbers = [0]
    for key in keys:
        parsed = parse_key(key)
        if parsed is not None and parsed.epoch == epoch and parsed.kind is not KeyKind.SEGMENT:
            numbers.append(parsed.number)
    return max(numbers) + 1


# --- runs as numbers -------------------------------------------------------------------------------


class Runs:
    """Every run of a pass, by number: what it asks next, and what another reply leads to."""

    def __init__(self, body: Body = run_pass) -> None:
        self._body = body
        self._replies: list[tuple[Pass, tuple[Reply, ...]]] = []
        self._asks: list[Question | None] = []
        self._numbers: dict[tuple[Pass, tuple[Reply, ...]], int] = {}
        self._next: dict[tuple[int, Reply], int] = {}

    def begin(self, run: Pass) -> int:
        return self._number(run, ())

    def asks(self, number: int) -> Question | None:
        """What a run asks now; None: it is over."""
        return self._asks[number]

    def site(self, number: int) -> str:
        return self._replies[number][0].site

    def told(self, number: int, reply: Reply) -> int:
        """The run that this reply leads to."""
        following = self._next.get((number, reply))
        if following is None:
            run, replies = self._replies[number]
            following = self._next[number, reply] = self._number(run, (*replies, reply))
        return following

    def _number(self, run: Pass, replies: tuple[Reply, ...]) -> int:
        number = self._numbers.get((run, replies))
        if number is None:
            number = self._numbers[run, replies] = len(self._replies)
            self._replies.append((run, replies))
            self._asks.append(self._ask(run, replies))
        return number

    def _ask(self, run: Pass, replies: tuple[Reply, ...]) -> Question | None:
        try:
            self._body(Script(replies), run)
        except _Asked as asked:
            return asked.question
        except CdpError:
            return None
        return None
