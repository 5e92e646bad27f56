"""Requests for a domain: asked once, answered once, and every answer that cannot be given is told why."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from cdp_container.domain import requests
from cdp_container.domain.owner import first_owner
from cdp_container.errors import (
    AccessDenied,
    CdpError,
    DamagedObject,
    ForeignObject,
    NewerFormat,
    NotFound,
    PreconditionFailed,
    RequestClosed,
    StoreUnavailable,
    UsageError,
)
from cdp_container.format.domain import Owner, OwnerState, build_owner
from cdp_container.format.keys import OWNER_KEY, REQUESTS_PREFIX, request_key
from cdp_container.format.request import Answer, OwnershipRequest, build_request
from cdp_container.store.memory import MemoryStore
from tests.unit.format import samples
from tests.unit.format.samples import DOMAIN, fixed

ID = "00112233445566aa"
NO = Answer(False, "hamburg", "Inge", "not today", 7)
HOUR_NS = 3600 * 1_000_000_000


@dataclass
class Now:
    """A clock that stands where it is put."""

    ns: int = 1_700_000_000 * 1_000_000_000

    def wall_ns(self) -> int:
        return self.ns

    def boottime_ns(self) -> int:
        return self.ns

    def sleep(self, seconds: float) -> None:
        self.ns += int(seconds * 1e9)


class LosingStore(MemoryStore):
    """Does what it is asked, and loses the first replies."""

    lost = 0

    def put_new(self, key: str, data: bytes) -> str:
        return self._lose(super().put_new(key, data))

    def put_if(self, key: str, data: bytes, tag: str) -> str:
        return self._lose(super().put_if(key, data, tag))

    def _lose(self, tag: str) -> str:
        self.lost -= 1
        if self.lost >= 0:
            raise StoreUnavailable("write", "the reply was lost")
        return tag


@dataclass
class World:
    clock: Now = field(default_factory=Now)
    owner: Owner = field(
        default_factory=lambda: replace(
            first_owner(DOMAIN, "shop", "hamburg", bytes(16), bytes(32), 30, 0),
            epoch=3,
            state=OwnerState.ACTIVE,
            released_to=None,
        )
    )

    def __post_init__(self) -> None:
        self.store = LosingStore(self.clock)

    def wish(self, request_id: str = ID) -> OwnershipRequest:
        return OwnershipRequest(DOMAIN, request_id, "munich", "Sepp", "drill", self.clock.ns, "hamburg", 3)

    def asked(self, request_id: str = ID) -> requests.StoredRequest:
        requests.ask(self.store, self.owner, self.wish(request_id))
        return requests.read_request(self.store, DOMAIN, request_id)


@pytest.fixture
def world() -> World:
    return World()


def test_asking_for_what_is_ours_already(world: World) -> None:
    mine = replace(world.owner, site="munich")
    given = replace(world.owner, state=OwnerState.RELEASED, released_to="munich")
    for owner, why in ((mine, "owns it"), (given, "released it to munich already")):
        with pytest.raises(UsageError, match=why):
            requests.ask(world.store, owner, world.wish())
    assert [*world.store.list("")] == []


@pytest.mark.parametrize("site", ["", "two words", "a\nb", "x" * 64])
def test_what_names_no_site(world: World, site: str) -> None:
    with pytest.raises(UsageError, match="no site's name"):
        requests.ask(world.store, world.owner, replace(world.wish(), site=site))


def test_a_lost_reply_to_a_request_is_no_error(world: World) -> None:
    world.store.lost = 1
    assert world.asked().request == world.wish()
    requests.ask(world.store, world.owner, world.wish())  # twice is once


def test_an_id_that_another_request_has(world: World) -> None:
    world.asked()
    with pytest.raises(PreconditionFailed):
        requests.ask(world.store, world.owner, replace(world.wish(), reason="another"))


def test_a_request_that_never_arrived(world: World) -> None:
    class Away(MemoryStore):
        def put_new(self, key: str, data: bytes) -> str:
            raise StoreUnavailable("write", "no route")

    with pytest.raises(StoreUnavailable, match="no route"):
        requests.ask(Away(world.clock), world.owner, world.wish())


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"{", DamagedObject),
        (build_request(samples.request()), ForeignObject),
        (build_request(samples.request()).replace(b'"format":1', b'"format":2'), NewerFormat),
        (build_request(replace(samples.request(), domain=bytes(16))), ForeignObject),
    ],
    ids=["damaged", "another id", "newer", "another domain"],
)
def test_a_request_that_cannot_be_read_hides_no_other(
    world: World, data: bytes, error: type[CdpError]
) -> None:
    world.asked()
    bad = "ff" * 8
    world.store.put_new(request_key(bad), data)
    with pytest.raises(error):
        requests.find_request(world.store, DOMAIN, bad)
    found = requests.list_requests(world.store, DOMAIN)
    assert [stored.request.request_id for stored in found.pending] == [ID]
    assert len(found.faults) == 1
    assert bad in found.faults[0]


def test_other_keys_are_no_requests(world: World) -> None:
    world.store.put_new(REQUESTS_PREFIX + "future-kind", b"?")
    assert requests.list_requests(world.store, DOMAIN) == requests.Requests()


def test_the_newest_are_read_and_the_others_counted(world: World) -> None:
    for number in range(requests.READ_MAX + 3):
        world.clock.ns += HOUR_NS
        world.asked(fixed(f"id {number}", 8).hex())
    found = requests.list_requests(world.store, DOMAIN)
    assert (len(found.found), found.older) == (requests.READ_MAX, 3)
    times = [stored.stored_ns for stored in found.found]
    assert times == sorted(times, reverse=True)
    assert times[0] == world.clock.ns


def test_finding_by_the_beginning(world: World) -> None:
    world.asked()
    world.asked("00112233445566bb")
    assert requests.find_request(world.store, DOMAIN, ID).request.request_id == ID
    with pytest.raises(UsageError, match="2 requests begin so"):
        requests.find_request(world.store, DOMAIN, "0011")
    assert requests.find_request(world.store, DOMAIN, ID[:15]).request.request_id == ID
    for absent in ("beef", "f" * 16):
        with pytest.raises(NotFound):
            requests.find_request(world.store, DOMAIN, absent)
    for senseless in ("../owner", "0" * 17, "xyz"):
        with pytest.raises(UsageError):
            requests.find_request(world.store, DOMAIN, senseless)


def test_who_may_answer(world: World) -> None:
    stored = world.asked()
    requests.check_grantable(stored, world.owner, "hamburg", world.clock.ns)
    with pytest.raises(RequestClosed, match="cologne owns the domain now, with epoch 3"):
        requests.check_answerable(stored, replace(world.owner, site="cologne"), "hamburg")
    with pytest.raises(RequestClosed, match="asked of hamburg"):
        requests.check_answerable(stored, replace(world.owner, site="cologne"), "cologne")


def test_a_request_from_an_old_time_is_denied_but_not_granted(world: World) -> None:
    stored = world.asked()
    now_ns = world.clock.ns + requests.AGE_MAX_NS + HOUR_NS
    with pytest.raises(RequestClosed, match="25 hours old"):
        requests.check_grantable(stored, world.owner, "hamburg", now_ns)
    requests.check_answerable(stored, world.owner, "hamburg")


def test_an_answer_is_given_once(world: World) -> None:
    stored = world.asked()
    assert requests.answer_request(world.store, stored, NO).answer == NO
    assert requests.answer_request(world.store, stored, NO).answer == NO, "repeated"
    other = replace(NO, granted=True)
    with pytest.raises(RequestClosed, match="denied by hamburg"):
        requests.answer_request(world.store, stored, other)
    answered = requests.read_request(world.store, DOMAIN, ID)
    with pytest.raises(RequestClosed, match=r"denied by hamburg \(Inge\): not today"):
        requests.check_answerable(answered, world.owner, "hamburg")
    assert requests.list_requests(world.store, DOMAIN).pending == ()


@pytest.mark.parametrize("lost", range(1, requests.ATTEMPTS_MAX + 2))
def test_lost_replies_to_an_answer(world: World, lost: int) -> None:
    stored = world.asked()
    world.store.lost = lost
    assert requests.answer_request(world.store, stored, NO).answer == NO
    assert requests.read_request(world.store, DOMAIN, ID).request.answer == NO


def test_a_store_that_never_takes_the_answer(world: World) -> None:
    class Full(MemoryStore):
        def put_if(self, key: str, data: bytes, tag: str) -> str:
            raise StoreUnavailable("write", "503")

    store = Full(world.clock)
    requests.ask(store, world.owner, world.wish())
    with pytest.raises(StoreUnavailable):
        requests.answer_request(store, requests.read_request(store, DOMAIN, ID), NO)


def test_requests_never_touch_the_owner(world: World) -> None:
    requests.answer_request(world.store, world.asked(), NO)
    with pytest.raises(NotFound):
        world.store.get(OWNER_KEY)


# --- old requests -----------------------------------------------------------------------------------


class RefusingStore(LosingStore):
    """Deletes so many objects, and no more."""

    deletes = 0
    refusal: CdpError = AccessDenied("delete", "the store answered 403")

    def delete(self, key: str) -> None:
        if self.deletes == 0:
            raise self.refusal
        self.deletes -= 1
        super().delete(key)


def ids(store: MemoryStore) -> list[str]:
    return [found.key.removeprefix(REQUESTS_PREFIX) for found in store.list(REQUESTS_PREFIX)]


def renew(world: World) -> None:
    """The owner's next renewal, by which the store's clock is known."""
    data = build_owner(world.owner)
    try:
        world.store.put_if(OWNER_KEY, data, world.store.head(OWNER_KEY).tag)
    except NotFound:
        world.store.put_new(OWNER_KEY, data)


def aged(world: World, count: int) -> list[str]:
    """So many requests, a second apart, of which the newest is as old as they may get; oldest first."""
    names = [f"{number:016x}" for number in range(count, 0, -1)]
    for name in names:
        world.clock.ns += 1_000_000_000
        world.asked(name)
    world.clock.ns += requests.KEPT_NS
    renew(world)
    return names


def test_old_requests_are_deleted_answered_or_not(world: World) -> None:
    names = aged(world, 3)
    assert requests.delete_old(world.store, world.owner, "hamburg") == "2 old requests for the domain deleted"
    assert ids(world.store) == names[2:], "just as old as it may get"
    stored = requests.read_request(world.store, DOMAIN, names[2])
    requests.answer_request(world.store, stored, NO)
    world.clock.ns += requests.KEPT_NS
    renew(world)
    assert requests.delete_old(world.store, world.owner, "hamburg") == "", "it counts from its answer"
    world.clock.ns += 1
    renew(world)
    assert requests.delete_old(world.store, world.owner, "hamburg") == "1 old request for the domain deleted"
    assert ids(world.store) == []


def test_nobody_but_the_owner_deletes_them(world: World) -> None:
    names = aged(world, 2)
    assert requests.delete_old(world.store, world.owner, "munich") == ""
    assert ids(world.store) == sorted(names)


def test_a_clock_that_is_ahead_makes_nothing_old(world: World) -> None:
    """Only the store's counts, as far as the owner's last renewal shows it."""
    renew(world)
    world.asked()
    world.clock.ns += 99 * requests.KEPT_NS
    assert requests.delete_old(world.store, world.owner, "hamburg") == ""
    assert ids(world.store) == [ID]


def test_one_pass_deletes_so_many_the_oldest_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "DELETED_MAX", 2)
    names = aged(world, 5)
    for left in (names[2:], names[4:], names[4:]):
        requests.delete_old(world.store, world.owner, "hamburg")
        assert ids(world.store) == sorted(left)


def test_other_keys_stay(world: World) -> None:
    world.store.put_new(REQUESTS_PREFIX + "future-kind", b"?")
    aged(world, 0)
    world.clock.ns += 1
    renew(world)
    requests.delete_old(world.store, world.owner, "hamburg")
    assert ids(world.store) == ["future-kind"]


@pytest.mark.parametrize("done", [0, 1])
def test_who_may_not_delete_leaves_them_and_is_told(world: World, done: int) -> None:
    world.store = store = RefusingStore(world.clock)
    names = aged(world, 4)
    store.deletes = done
    told = requests.delete_old(store, world.owner, "hamburg")
    assert told == "old requests for the domain were left there: the store answered 403"
    assert ids(store) == sorted(names[done:])


def test_without_the_owner_object_nobody_knows_the_time(world: World) -> None:
    world.asked()
    told = requests.delete_old(world.store, world.owner, "hamburg")
    assert told == "old requests for the domain were left there: there is no such object"
    assert ids(world.store) == [ID]
