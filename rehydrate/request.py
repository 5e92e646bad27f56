"""Asking the owner of a domain for it, and waiting for what it says: only the container is between the two.

How long is waited is the caller's choice. Taking the domain over does not belong here (failover).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cdp_container.clock import Clock
from cdp_container.domain.requests import answer_text, ask, read_request
from cdp_container.errors import (
    Incomplete,
    NoSuchDomain,
    NotFound,
    RequestClosed,
    RequestDenied,
    counted,
)
from cdp_container.format.domain import Owner, OwnerState, parse_owner
from cdp_container.format.keys import OWNER_KEY
from cdp_container.format.request import Answer, OwnershipRequest
from cdp_container.store.api import Store

POLL_SECONDS: Final = 5.0
"""Between two looks: an answer comes from a person, and two small requests each cost a store nothing."""
_ID_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Granted:
    """The domain was released to who asked; `answer` is None where only `domain/owner` says so yet."""

    owner: Owner
    answer: Answer | None


def make_request(
    store: Store, site: str, operator: str, reason: str, clock: Clock, entropy: Callable[[int], bytes]
) -> OwnershipRequest:
    """Leave a request in the container.

    Raises:
        NoSuchDomain: there is no container here.
        UsageError: there is nothing to ask for, see `requests.ask`.
        AccessDenied: the credentials may not write below domain/requests/.
    """
    owner = read_owner(store)
    request = OwnershipRequest(
        domain=owner.domain,
        request_id=entropy(_ID_BYTES).hex(),
        site=site,
        operator=operator,
        reason=reason,
        asked_ns=clock.wall_ns(),
        owner_site=owner.site,
        owner_epoch=owner.epoch,
    )
    ask(store, owner, request)
    return request


def await_answer(store: Store, request: OwnershipRequest, wait_seconds: float, clock: Clock) -> Granted:
    """Wait until the owner has released the domain to who asked.

    Raises:
        RequestDenied: who denied it, and why.
        RequestClosed: another site owns the domain meanwhile, and was not asked.
        Incomplete: nobody answered in time; the request stands.
    """
    until_ns = clock.boottime_ns() + int(wait_seconds * 1e9)
    what = f"wait for an answer to {request.request_id}"
    while True:
        answer = read_request(store, request.domain, request.request_id).request.answer
        if answer is not None and not answer.granted:
            raise RequestDenied(f"ask {request.owner_site} for the domain", f"it was {answer_text(answer)}")
        owner = read_owner(store)
        if answer is not None or _is_released_to(owner, request.site):
            return Granted(owner, answer)
        if owner.site != request.owner_site:
            why = f"{owner.site} took the domain meanwhile, with epoch {owner.epoch}"
            raise RequestClosed(what, why, f"ask again: then {owner.site} is asked")
        left_seconds = (until_ns - clock.boottime_ns()) / 1e9
        if left_seconds <= 0:
            why = f"{owner.site} said nothing within {counted(round(wait_seconds), 'second')}"
            hint = f"the request stands: `cdp-agent grant {request.request_id}` there still answers it"
            raise Incomplete(what, why, hint)
        clock.sleep(min(POLL_SECONDS, left_seconds))


def read_owner(store: Store) -> Owner:
    """`domain/owner`. Raises NoSuchDomain, DamagedObject, NewerFormat."""
    try:
        return parse_owner(store.get(OWNER_KEY).data, OWNER_KEY, None)
    except NotFound as error:
        raise NoSuchDomain(f"open the container {store.address}", f"there is no {OWNER_KEY}") from error


def _is_released_to(owner: Owner, site: str) -> bool:
    return owner.state is OwnerState.RELEASED and owner.released_to == site
