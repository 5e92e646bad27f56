"""`cdp-agent grant` and `deny`: what the owner of a domain answers to a site that asked for it.

A grant is a release to the asker, and is answered once the release is in `domain/owner`. How a domain is
released does not belong here (release), nor who may be answered (`cdp_container.domain.requests`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cdp_agent.cli.accepted import load_running
from cdp_container.clock import Clock
from cdp_container.console import say
from cdp_container.domain.requests import (
    StoredRequest,
    answer_request,
    check_answerable,
    check_grantable,
    delete_old,
    find_request,
)
from cdp_container.errors import ReleaseRefused
from cdp_container.format.domain import Owner, OwnerState, parse_owner
from cdp_container.format.keys import OWNER_KEY
from cdp_container.format.request import Answer
from cdp_container.store.address import open_store
from cdp_container.store.api import Store
from cdp_container.store.attest import probe
from cdp_container.store.retry import with_retries

Release = Callable[[str], object]
"""Hands the domain over to a site; returns when that is in `domain/owner`, and raises where it is not."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as its owner sees it; `site` is this one."""

    store: Store
    stored: StoredRequest
    owner: Owner
    site: str


def deny(config: Path, beginning: str, operator: str, reason: str, clock: Clock) -> int:
    """Answer no. Raises NotFound, UsageError, RequestClosed, and what the store raises."""
    with _asked(config, beginning, clock) as asked:
        check_answerable(asked.stored, asked.owner, asked.site)
        request = _answer(asked, Answer(False, asked.site, operator, reason, clock.wall_ns()))
    say(f"denied: {request}")
    return 0


def grant(config: Path, beginning: str, operator: str, reason: str, clock: Clock, release: Release) -> int:
    """Release the domain to who asked, then answer yes; where it is released already, only answer.

    Raises NotFound, UsageError, RequestClosed, what the store raises, and what `release` does; ReleaseRefused
    where somebody took the domain back meanwhile.
    """
    with _asked(config, beginning, clock) as asked:
        check_grantable(asked.stored, asked.owner, asked.site, clock.wall_ns())
        site = asked.stored.request.site
        if not _has_it(asked.owner, site):
            release(site)
            if not _has_it(_read_owner(asked.store, asked.owner.domain), site):
                why = "the release was cancelled meanwhile; the request is not answered"
                raise ReleaseRefused(f"grant the domain to {site}", why)
        request = _answer(asked, Answer(True, asked.site, operator, reason, clock.wall_ns()))
    say(f"granted: {request}")
    return 0


def _has_it(owner: Owner, site: str) -> bool:
    """Whether the domain is released to a site, or it has claimed it already."""
    return owner.site == site or (owner.state is OwnerState.RELEASED and owner.released_to == site)


def _read_owner(store: Store, domain: bytes) -> Owner:
    return parse_owner(store.get(OWNER_KEY).data, OWNER_KEY, domain)


def _answer(asked: Asked, answer: Answer) -> str:
    request = answer_request(asked.store, asked.stored, answer)
    return f"request {request.request_id} of {request.site}"


@contextmanager
def _asked(config: Path, beginning: str, clock: Clock) -> Iterator[Asked]:
    agent = load_running(config)
    opened = open_store(agent.settings.store, clock)
    store = with_retries(opened, clock, lambda: int.from_bytes(os.urandom(6)) / 2**48)
    try:
        probe(opened, os.urandom)  # how the server wants tags in compare-and-swaps
        owner = _read_owner(store, agent.identity.domain)
        yield Asked(store, find_request(store, owner.domain, beginning), owner, agent.settings.site)
        if cleared := delete_old(store, owner, agent.settings.site):
            say(f"note: {cleared}")
    finally:
        store.close()
