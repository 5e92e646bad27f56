"""A place as its store tells of it: what may not be asked is said, what is abandoned goes back on request."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from cdp_agent.usage.kinds import DAY_NS, Amount, Kind
from cdp_agent.usage.survey import UPLOAD_AGE_SECONDS, abort_uploads, survey
from cdp_container.errors import AccessDenied, CdpError, StoreRefused
from cdp_container.store.inventory import Rules, Standing, Taken

NOW_NS = 100 * DAY_NS
OBJECT = Taken("domain/owner", 5, NOW_NS)
VERSION = Taken("domain/owner", 4, NOW_NS - 1, Standing.OTHER, "v1")


def upload(name: str, days: float) -> Taken:
    return Taken(name, 10, NOW_NS - int(days * DAY_NS), Standing.UPLOAD, upload=f"id of {name}")


@dataclass
class Place:
    """An inventory with what it is told to hold and to deny."""

    denies: frozenset[str] = frozenset()
    open_uploads: list[Taken] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    refusal: type[CdpError] = AccessDenied
    address = "s3://test"

    def _ask(self, what: str) -> None:
        if what in self.denies:
            raise self.refusal(f"{what} at the place", "403 Forbidden")

    def rules(self) -> Rules:
        self._ask("rules")
        return Rules(versioned=True, locks=True, lock_days=1)

    def objects(self) -> Iterator[Taken]:
        self._ask("objects")
        yield from (OBJECT, VERSION)

    def current(self) -> Iterator[Taken]:
        self._ask("current")
        yield OBJECT

    def uploads(self) -> Iterator[Taken]:
        for one in self.open_uploads:
            yield one
            self._ask("parts")
        self._ask("uploads")

    def abort(self, upload: Taken) -> None:
        self._ask("abort")
        self.aborted.append(upload.name)
        self.open_uploads.remove(upload)

    def close(self) -> None:
        """Nothing to give back."""


def test_all_of_it_is_counted() -> None:
    seen = survey([Place(open_uploads=[upload("big", 3)])], None, NOW_NS, {})
    assert seen.unknown == {}
    assert seen.usage.total == Amount(19, 3)
    assert seen.usage.locked_other_bytes == 4
    assert seen.rules == (Rules(versioned=True, locks=True, lock_days=1),)


def test_what_is_denied_is_said_and_the_rest_goes_on() -> None:
    place = Place(frozenset({"rules", "objects", "uploads"}))
    seen = survey([place], None, NOW_NS, {})
    assert seen.unknown == dict.fromkeys(
        (Kind.LOCK, Kind.OTHER, Kind.DELETE_MARKERS, Kind.UPLOADS), "denied: 403 Forbidden"
    )
    assert seen.usage.total == Amount(5, 1)
    assert seen.rules == (None,)
    place = Place(frozenset({"parts"}), [upload("a", 1), upload("b", 1)])
    seen = survey([place], None, NOW_NS, {})
    assert seen.unknown.keys() == {Kind.UPLOADS}
    assert seen.usage.amounts[Kind.UPLOADS] == Amount(10, 1)


def test_what_a_server_does_not_know_is_said() -> None:
    seen = survey([Place(frozenset({"rules", "uploads"}), refusal=StoreRefused)], None, NOW_NS, {})
    assert seen.unknown == dict.fromkeys((Kind.LOCK, Kind.UPLOADS), "refused: 403 Forbidden")
    assert seen.usage.total == Amount(9, 2)


def test_without_any_listing_there_is_no_account() -> None:
    with pytest.raises(AccessDenied):
        survey([Place(frozenset({"objects", "current"}))], None, NOW_NS, {})


def test_only_what_is_old_by_the_stores_clock_is_aborted() -> None:
    place = Place(open_uploads=[upload("new", 0.5), upload("old", 1.0), upload("older", 40)])
    told: list[str] = []
    done = abort_uploads([place], UPLOAD_AGE_SECONDS, NOW_NS, lambda one: told.append(one.name))
    assert (done.uploads, done.bytes, done.younger) == (2, 20, 1)
    assert place.aborted == told == ["old", "older"]
    assert [one.name for one in place.open_uploads] == ["new"]
    # Where the store's clock is not known nothing is old.
    assert abort_uploads([place], 0.0, 0, lambda _: None).uploads == 0


def test_an_abort_that_is_denied_ends_it() -> None:
    place = Place(frozenset({"abort"}), [upload("old", 2)])
    with pytest.raises(AccessDenied):
        abort_uploads([place], UPLOAD_AGE_SECONDS, NOW_NS, lambda _: None)
