"""Requests for a domain in its container: left by who asks, listed and answered once by who owns it.

A request never touches `domain/owner`. How a grant hands the domain over does not belong here (`cdp-agent
release`), nor how long anybody waits for an answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from cdp_container.errors import (
    CdpError,
    Contention,
    DamagedObject,
    ForeignObject,
    LimitExceeded,
    NewerFormat,
    NotFound,
    PreconditionFailed,
    RequestClosed,
    StoreUnavailable,
    UsageError,
    counted,
)
from cdp_container.format.domain import Owner, OwnerState
from cdp_container.format.keys import OWNER_KEY, REQUESTS_PREFIX, is_request_id, request_key
from cdp_container.format.request import Answer, OwnershipRequest, build_request, parse_request
from cdp_container.store.api import Found, Store

LISTED_MAX: Final = 10_000
"""Keys of requests that are listed: operators do not ask so often in the time that they are kept."""
READ_MAX: Final = 64
"""Requests that are read, the newest: more than anybody reads in a table."""
ATTEMPTS_MAX: Final = 5
"""How often an answer is sent whose outcome is not known."""
AGE_MAX_NS: Final = 24 * 3600 * 1_000_000_000
"""Older ones are not granted: whoever asked may not wait any more, and a release is for ten minutes."""
KEPT_NS: Final = 30 * 24 * 3600 * 1_000_000_000
"""How long a request is there to be looked at, answered or not."""
DELETED_MAX: Final = 100
"""Requests that one pass deletes: whoever asked for something else waits for it."""

_SITE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
"""Like the names in a configuration: an agent could claim under no other."""
_UNREADABLE: Final = (DamagedObject, ForeignObject, NewerFormat, LimitExceeded)


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """A request as it stands; `stored_ns` is the store's Last-Modified."""

    request: OwnershipRequest
    tag: str
    stored_ns: int


@dataclass(frozen=True, slots=True)
class Requests:
    """The newest requests, newest first; `older` are how many were not read, `faults` what could not be.

    `listed` is what the store says of all of them.
    """

    found: tuple[StoredRequest, ...] = ()
    older: int = 0
    faults: tuple[str, ...] = ()
    listed: tuple[Found, ...] = ()

    @property
    def pending(self) -> tuple[StoredRequest, ...]:
        """Those without an answer."""
        return tuple(stored for stored in self.found if stored.request.answer is None)


def ask(store: Store, owner: Owner, wish: OwnershipRequest) -> None:
    """Leave a request; asking twice for the same one is asking once.

    Raises:
        UsageError: `wish.site` names no site; the domain is its own, or was released to it.
        LimitExceeded: too many words.
        StoreUnavailable and its kin: see the store; whether the request is there is not known.
    """
    what = f"ask for the domain {owner.name!r}"
    if not _SITE.fullmatch(wish.site):
        why = f"{wish.site[:80]!r} is no site's name"
        raise UsageError(what, why, "give it as in its agent's configuration")
    if owner.state is OwnerState.RELEASED and owner.released_to == wish.site:
        why = f"{owner.site} has released it to {wish.site} already"
        raise UsageError(what, why, "`rehydrate failover` takes it without a wait")
    if owner.site == wish.site:
        why = f"{wish.site} owns it, with epoch {owner.epoch}"
        raise UsageError(what, why, "`cdp-agent owner` there, or `rehydrate history`, says since when")
    key, data = request_key(wish.request_id), build_request(wish)
    try:
        store.put_new(key, data)
    except (PreconditionFailed, Contention, StoreUnavailable) as error:
        try:
            landed = store.get(key).data == data
        except NotFound:
            landed = False
        if not landed:
            raise error from None


def list_requests(store: Store, domain: bytes) -> Requests:
    """The requests for a domain. One that is damaged is named, and hides none of the others."""
    listed = _listed(store)
    newest = sorted(listed, key=lambda found: (found.modified_ns, found.key), reverse=True)
    requests, faults = [], []
    for found in newest[:READ_MAX]:
        try:
            requests.append(read_request(store, domain, found.key.removeprefix(REQUESTS_PREFIX)))
        except _UNREADABLE as error:
            faults.append(str(error))
    return Requests(tuple(requests), max(0, len(newest) - READ_MAX), tuple(faults), tuple(listed))


def _listed(store: Store) -> list[Found]:
    listed: list[Found] = []
    for found in store.list(REQUESTS_PREFIX):
        if is_request_id(found.key.removeprefix(REQUESTS_PREFIX)):
            listed.append(found)
        if len(listed) == LISTED_MAX:
            break
    return listed


def delete_old(store: Store, owner: Owner, site: str, listed: Sequence[Found] | None = None) -> str:
    """Delete the oldest requests where `site` owns the domain; gives what was done, "" where nothing was.

    `listed` are those that there are, where the caller knows.

    By the store's clock alone, which stood at least where `domain/owner` was last renewed: nothing is old
    because a site's own clock is wrong. Whatever fails is told, raises nothing, and is left for another time:
    not every role may delete.
    """
    if owner.site != site:
        return ""
    deleted = 0
    try:
        listed = _listed(store) if listed is None else listed
        kept_ns = store.head(OWNER_KEY).modified_ns - KEPT_NS if listed else 0
        old = [found for found in listed if found.modified_ns < kept_ns]
        for found in sorted(old, key=lambda found: (found.modified_ns, found.key))[:DELETED_MAX]:
            store.delete(found.key)
            deleted += 1
    except CdpError as error:
        return f"old requests for the domain were left there: {error.why}"
    return f"{counted(deleted, 'old request')} for the domain deleted" if deleted else ""


def find_request(store: Store, domain: bytes, beginning: str) -> StoredRequest:
    """The one request whose id begins so.

    Raises:
        NotFound: there is none. UsageError: there are several, or no id begins so.
        DamagedObject, ForeignObject, NewerFormat, LimitExceeded: it cannot be read.
    """
    what = f"find the request {beginning[:40]!r}"
    if not is_request_id(beginning.ljust(16, "0")):
        raise UsageError(what, "an id is 16 hex digits, or the first of them", "`cdp-agent owner` lists them")
    if is_request_id(beginning):
        return read_request(store, domain, beginning)
    ids = [found.key.removeprefix(REQUESTS_PREFIX) for found in store.list(REQUESTS_PREFIX + beginning)]
    fitting = [name for name in ids if is_request_id(name)]
    if not fitting:
        raise NotFound(what, "the container has none that begins so", "`cdp-agent owner` lists the requests")
    if len(fitting) > 1:
        raise UsageError(what, f"{counted(len(fitting), 'request')} begin so", "give more of the id")
    return read_request(store, domain, fitting[0])


def read_request(store: Store, domain: bytes, request_id: str) -> StoredRequest:
    """The request with this id. Raises NotFound, DamagedObject, ForeignObject, NewerFormat, LimitExceeded."""
    key = request_key(request_id)
    try:
        blob = store.get(key)
    except NotFound as error:
        why = "the container has none with this id"
        hint = "`cdp-agent owner` lists the requests"
        raise NotFound(f"find the request {request_id}", why, hint) from error
    request = parse_request(blob.data, key, domain)
    if request.request_id != request_id:
        raise ForeignObject(key, f"it is the request {request.request_id}")
    return StoredRequest(request, blob.found.tag, blob.found.modified_ns)


def check_answerable(stored: StoredRequest, owner: Owner, site: str) -> None:
    """Raises RequestClosed where `site` cannot answer: it was answered, or is not `site`'s to answer."""
    request = stored.request
    what = f"answer the request {request.request_id} of {request.site}"
    if request.answer is not None:
        raise RequestClosed(what, f"it was {answer_text(request.answer)}")
    if owner.site != site:
        why = f"{owner.site} owns the domain now, with epoch {owner.epoch}, and not {site}"
        raise RequestClosed(what, why)
    if request.owner_site != site:
        why = f"it was asked of {request.owner_site}, which owned the domain then, with epoch "
        why += str(request.owner_epoch)
        raise RequestClosed(what, why, f"{request.site} can ask again, now that {site} owns the domain")


def check_grantable(stored: StoredRequest, owner: Owner, site: str, wall_ns: int) -> None:
    """Raises RequestClosed where a request cannot be granted: see `check_answerable`, or it is too old."""
    check_answerable(stored, owner, site)
    age_ns = wall_ns - stored.stored_ns
    if age_ns > AGE_MAX_NS:
        request = stored.request
        raise RequestClosed(
            f"grant the request {request.request_id} of {request.site}",
            f"it is {age_ns // (3600 * 1_000_000_000)} hours old, and nobody may wait for it any more",
            f"{request.site} can ask again; `cdp-agent release --to {request.site}` needs no request",
        )


def answer_request(store: Store, stored: StoredRequest, answer: Answer) -> OwnershipRequest:
    """Answer a request, once and for ever; gives it with the answer. Safe to repeat with the same answer.

    Raises:
        RequestClosed: somebody else answered first.
        StoreUnavailable and its kin: after ATTEMPTS_MAX it is not known whether the answer is there.
    """
    answered = replace(stored.request, answer=answer)
    data = build_request(answered)
    for attempt in range(1, ATTEMPTS_MAX + 1):
        if stored.request.answer is not None and stored.request != answered:
            what = f"answer the request {answered.request_id} of {answered.site}"
            raise RequestClosed(what, f"it was {answer_text(stored.request.answer)}")
        try:
            if stored.request != answered:
                store.put_if(request_key(answered.request_id), data, stored.tag)
            return answered
        except (PreconditionFailed, Contention, StoreUnavailable):
            # Whether it landed is not known; as every attempt says the same, it does not matter which does.
            if attempt == ATTEMPTS_MAX:
                raise
            stored = read_request(store, answered.domain, answered.request_id)
    raise AssertionError("the last attempt returns or raises")


def answer_text(answer: Answer) -> str:
    """What was answered, by whom and why."""
    who = answer.site + (f" ({answer.operator})" if answer.operator else "")
    why = f": {answer.reason}" if answer.reason else ""
    return f"{'granted' if answer.granted else 'denied'} by {who}{why}"
