"""`rehydrate request`: asking for a domain, and what comes back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cdp_container.domain.requests import answer_request, list_requests, read_request
from cdp_container.errors import Incomplete, NoSuchDomain, RequestClosed, RequestDenied, UsageError
from cdp_container.format.domain import OwnerState
from cdp_container.format.keys import OWNER_KEY
from cdp_container.format.request import Answer, OwnershipRequest
from cdp_container.store.directory import DirectoryStore
from rehydrate.request import POLL_SECONDS, await_answer, make_request
from tests.containers import Site, busy_container
from tests.unit.rehydrate.conftest import Run, answer


class Answering:
    """A clock in whose pauses somebody does something, once."""

    def __init__(self, after_seconds: float, act: Callable[[], object]) -> None:
        self.now_ns = 0
        self.slept: list[float] = []
        self._after_seconds = after_seconds
        self._act = act

    def wall_ns(self) -> int:
        return 1_700_000_000_000_000_000 + self.now_ns

    def boottime_ns(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        before = self.now_ns / 1e9
        self.slept.append(seconds)
        self.now_ns += int(seconds * 1e9)
        if before < self._after_seconds <= self.now_ns / 1e9:
            self._act()


@pytest.fixture
def site(place: Path) -> Site:
    return busy_container(DirectoryStore(place))


def asked(site: Site) -> OwnershipRequest:
    clock = Answering(0, lambda: None)
    return make_request(site.store, "munich", "Sepp", "drill", clock, lambda length: b"\7" * length)


def awaited(site: Site, act: Callable[[OwnershipRequest], object], wait_seconds: float = 60.0) -> Answering:
    made = asked(site)
    clock = Answering(12.0, lambda: act(made))
    await_answer(site.store, made, wait_seconds, clock)
    return clock


def answers(site: Site, granted: bool) -> Callable[[OwnershipRequest], object]:
    said = Answer(granted, site.owner.site, "Inge", "month's end", 1)
    return lambda made: answer_request(
        site.store, read_request(site.store, made.domain, made.request_id), said
    )


def test_no_container(run: Run, place: Path) -> None:
    code, stdout, stderr = run("request", place, "--site", "munich")
    assert (code, stdout) == (NoSuchDomain.exit_code, "")
    assert OWNER_KEY in stderr


@pytest.mark.parametrize("name", ["two words", "site-a\n", ""])
def test_no_site(run: Run, site: Site, place: Path, name: str) -> None:
    code, stdout, _ = run("request", place, "--site", name)
    assert (code, stdout) == (UsageError.exit_code, "")


def test_the_owner_itself_asks(run: Run, site: Site, place: Path) -> None:
    code, _, stderr = run("request", place, "--site", site.owner.site)
    assert code == UsageError.exit_code
    assert "owns it, with epoch 6" in stderr


def test_the_id_is_the_answer(run: Run, site: Site, place: Path) -> None:
    words = ("--site", "munich", "--operator", "Sepp", "--reason", "drill")
    code, stdout, stderr = run("request", place, *words)
    assert code == 0, stderr
    (stored,) = list_requests(site.store, site.domain).pending
    assert stdout == stored.request.request_id + "\n"
    assert f"cdp-agent grant {stored.request.request_id}" in stderr
    request = stored.request
    assert (request.site, request.operator, request.reason) == ("munich", "Sepp", "drill")
    assert (request.owner_site, request.owner_epoch) == (site.owner.site, 6)
    told = answer(run, "request", place, "--site", "munich")
    assert (told["asked"], told["epoch"]) == (site.owner.site, 6)


def test_nobody_answers(run: Run, site: Site, place: Path) -> None:
    code, stdout, stderr = run("request", place, "--site", "munich", "--wait", "0")
    assert code == Incomplete.exit_code
    assert stdout.strip() in stderr, "the request stands, and its id is told"
    made = asked(site)
    clock = Answering(99, lambda: None)
    with pytest.raises(Incomplete, match="nothing within 12 seconds"):
        await_answer(site.store, made, 12.0, clock)
    assert clock.slept == [POLL_SECONDS, POLL_SECONDS, 2.0]


def test_denied_by_whom_and_why(site: Site) -> None:
    with pytest.raises(RequestDenied, match=rf"denied by {site.owner.site} \(Inge\): month's end"):
        awaited(site, answers(site, False))


def test_granted(site: Site) -> None:
    assert awaited(site, answers(site, True)).slept == [POLL_SECONDS] * 3


def test_released_and_not_answered_yet(site: Site) -> None:
    def release(made: OwnershipRequest) -> None:
        site.write_owner(state=OwnerState.RELEASED, released_to="munich")

    awaited(site, release)


def test_another_site_took_the_domain_meanwhile(site: Site) -> None:
    with pytest.raises(RequestClosed, match="cologne took the domain meanwhile, with epoch 9"):
        awaited(site, lambda made: site.write_owner(epoch=9, site="cologne"))


def test_a_restart_of_the_owner_is_no_answer(site: Site) -> None:
    with pytest.raises(Incomplete):
        awaited(site, lambda made: site.write_owner(epoch=9), wait_seconds=20.0)


def test_a_request_leaves_the_owner_as_it_was(site: Site) -> None:
    before = site.store.get(OWNER_KEY)
    asked(site)
    assert site.store.get(OWNER_KEY) == before
