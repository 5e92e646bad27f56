"""Putting one sealed object: one create-only request, and what its outcome is worth.

Repeating is decided by `steps.py`; here is only what a refusal means.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cdp_agent.streamer.step_types import PutOutcome
from cdp_container.errors import (
    AccessDenied,
    CdpError,
    NotFound,
    PreconditionFailed,
    StoreFull,
    StoreThrottled,
)
from cdp_container.format.assemble import SealedObject
from cdp_container.format.layout import DIGEST_BYTES
from cdp_container.store.api import Store

STORED: Final = PutOutcome.STORED


@dataclass(frozen=True, slots=True)
class PutResult:
    """What came of it, and why, for people."""

    outcome: PutOutcome
    why: str = ""


def put_object(store: Store, built: SealedObject) -> PutResult:
    """Create the object. A key that is taken is success only if the stored trailer is ours."""
    try:
        store.put_new(built.key, built.data)
        return PutResult(STORED)
    except PreconditionFailed:
        return _compare(store, built)
    except (StoreThrottled, AccessDenied, StoreFull) as error:
        return PutResult(PutOutcome.THROTTLED, str(error))
    except CdpError as error:
        return PutResult(PutOutcome.UNKNOWN, str(error))


def _compare(store: Store, built: SealedObject) -> PutResult:
    """Whether what is stored under the key is what we built, by its length and trailer."""
    try:
        # One byte more than a trailer: a longer object is another one.
        stored = store.get_range(built.key, len(built.data) - DIGEST_BYTES, DIGEST_BYTES + 1)
    except NotFound as error:
        # Refused as taken, and yet not there: believe neither.
        return PutResult(PutOutcome.UNKNOWN, str(error))
    except CdpError as error:
        return PutResult(PutOutcome.UNKNOWN, str(error))
    if stored == built.digest:
        return PutResult(STORED)
    return PutResult(PutOutcome.FOREIGN, f"{built.key} was written by another")
