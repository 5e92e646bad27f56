"""What a refused or unanswered put is worth."""

from __future__ import annotations

import pytest

from cdp_agent.streamer.put import put_object
from cdp_agent.streamer.step_types import PutOutcome
from cdp_container.errors import (
    AccessDenied,
    CdpError,
    Contention,
    NoSuchBucket,
    PreconditionFailed,
    StoreFull,
    StoreThrottled,
    StoreUnavailable,
)
from cdp_container.format.assemble import SealedObject
from cdp_container.store.memory import MemoryStore
from tests.sim.clock import VirtualTime

BUILT = SealedObject("log/0000000001/000000000001", b"body" * 20 + b"d" * 32, b"d" * 32, 10)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(VirtualTime())


def test_what_is_stored_is_stored_once(store: MemoryStore) -> None:
    assert put_object(store, BUILT).outcome is PutOutcome.STORED
    assert put_object(store, BUILT).outcome is PutOutcome.STORED
    assert store.get(BUILT.key).data == BUILT.data


@pytest.mark.parametrize(
    "other",
    [
        b"",
        BUILT.data[:-1],
        BUILT.data + b"d",
        BUILT.data[:-32] + b"e" * 32,
        b"x" + BUILT.data,
    ],
)
def test_other_bytes_under_the_key_are_foreign(store: MemoryStore, other: bytes) -> None:
    store.put_new(BUILT.key, other)
    assert put_object(store, BUILT).outcome is PutOutcome.FOREIGN


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (StoreUnavailable("put", "no answer"), PutOutcome.UNKNOWN),
        (Contention("put", "409"), PutOutcome.UNKNOWN),
        (NoSuchBucket("put", "gone"), PutOutcome.UNKNOWN),
        (StoreThrottled("put", "503"), PutOutcome.THROTTLED),
        (AccessDenied("put", "403"), PutOutcome.THROTTLED),
        (StoreFull("put", "no room"), PutOutcome.THROTTLED),
    ],
)
def test_an_error_is_never_success(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, error: CdpError, outcome: PutOutcome
) -> None:
    def failing(key: str, data: bytes) -> str:
        raise error

    monkeypatch.setattr(store, "put_new", failing)
    result = put_object(store, BUILT)
    assert (result.outcome, result.why) == (outcome, str(error))


def test_a_refusal_without_an_object_is_not_believed(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(key: str, data: bytes) -> str:
        raise PreconditionFailed("put", "412")

    monkeypatch.setattr(store, "put_new", refusing)
    assert put_object(store, BUILT).outcome is PutOutcome.UNKNOWN
